"""What an ingestion writes, without the parser and the model, so that nothing but the database limits its pace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage import changes, chunks, files, projects, queue, vectors
from storage.chunks import NewChunk
from storage.connection import Connection
from storage.database import Database
from storage.files import Ready, Seen, Versions
from storage.fingerprint import Fingerprint
from storage.passage_tokens import tokens_of
from storage.queue import Claim

DIM = 384
SYLLABLES = ("tern", "bean", "ship", "port", "rope", "salt", "wind", "kelp", "gull", "mast")
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]
VERSIONS = Versions("v1", frozenset({"text 1"}))
PROJECT = "storm"


@dataclass
class FileWriter:
    """Writes files of `passages` chunks each, under names of its own; no two chunks of all are alike."""

    db: Database
    project: int
    model: int
    name: str
    passages: int
    written: int = 0
    begun: int = 0

    @classmethod
    def begin(cls, db: Database, name: str, *, passages: int = 20) -> FileWriter:
        """Make the project and the model where there are none."""
        with db.write() as connection:
            project = projects.ensure(connection, PROJECT).pk
            model = vectors.live_model(connection) or _new_model(connection)
        return cls(db, project, model.pk, name, passages)

    def write(self) -> None:
        """Write one more file, in two transactions: it is found and claimed, and its result committed."""
        self.begun += 1  # one that was not written to its end is in a worker's hands: the next has another name
        new = [_chunk(f"{self.name} {self.begun} {place}", place) for place in range(self.passages)]
        digest = hashlib.sha256("".join(chunk.content for chunk in new).encode()).hexdigest()
        claim = self._claimed(digest)
        with self.db.write() as db:
            queue.require_lease(db, claim)
            files.make_room(db, files.get(db, claim.pk), digest)
            chunks.replace(db, self.project, claim.pk, self.model, new)
            files.mark_ready(db, claim.pk, Ready(digest, len(new), None, "text 1", VERSIONS.settings, {}))
            changes.bump(db, self.project)
        self.written += 1

    def _claimed(self, digest: str) -> Claim:
        path = f"/{self.name}/{self.begun}".encode()
        with self.db.write() as db:
            seen = Seen(path, Fingerprint(1, 1, 1, 1), digest, "text/plain")
            files.register(db, self.project, seen, VERSIONS, scanned_ns=10**18)
            [claim] = queue.claim(db, self.name, limit=1, now_ms=10**13)
        assert claim.path == path
        return claim


def _new_model(db: Connection) -> vectors.Model:
    kind: dict[str, Any] = {"name": "m", "hash": "h", "dim": DIM, "pooling": "mean", "precision": "fp32"}
    return vectors.ensure_model(db, **kind, query_prompt="", document_prompt="")


def _chunk(seed: str, place: int) -> NewChunk:
    rng = np.random.default_rng(list(seed.encode()))
    text = f"{seed}: " + " ".join(WORDS[n] for n in rng.integers(0, len(WORDS), 150))
    vector = rng.standard_normal((1, DIM)).astype(np.float32)
    [encoded] = vectors.encode(vector / np.linalg.norm(vector))
    tokens = tokens_of(text)
    return NewChunk(text, 200, place, place + 1, 1, 1, "", tokens, vectors.input_hash(text), encoded)

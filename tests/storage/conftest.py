"""A small project to store files in: words as chunks, one small vector a word."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from storage import chunks, files, projects, queue, text_index, vectors
from storage.chunks import NewChunk
from storage.database import Database
from storage.files import File, Fingerprint, Ready, Registered, Seen, Versions
from storage.queue import Claim

DIM = 8


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class Shelf:
    """A project in a real database, and what a scan and a worker would do to it."""

    db: Database
    project: int = 0
    model: int = 0
    versions: Versions = field(default_factory=lambda: Versions("v1", frozenset({"text 1"})))

    def __post_init__(self) -> None:
        with self.db.write() as db:
            self.project = projects.ensure(db, "shelf").pk
            self.model = vectors.ensure_model(
                db, name="m", hash="h", dim=DIM, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
            ).pk

    def find(self, name: str, content: str, *, scanned_ns: int = 10**18, retry: bool = False) -> Registered:
        """A scan meets a file."""
        seen = Seen(f"/{name}".encode(), Fingerprint(len(content), 1, 1, 1), sha256(content), "text/plain")
        with self.db.write() as db:
            _, registered = files.register(db, self.project, seen, self.versions, scanned_ns=scanned_ns, retry=retry)
        return registered

    def claim(self, owner: str = "worker", **options: int) -> list[Claim]:
        with self.db.write() as db:
            return queue.claim(db, owner, **({"limit": 99, "now_ms": 10**13} | options))

    def commit(self, claim: Claim, content: str) -> int:
        """A worker has parsed and embedded a claimed file; return the chunks written."""
        new = self.words(content)
        with self.db.write() as db:
            queue.require_lease(db, claim)
            files.make_room(db, files.get(db, claim.pk), sha256(content))
            written = chunks.replace(db, self.project, claim.pk, self.model, new)
            result = Ready(sha256(content), len(new), None, "text 1", self.versions.settings, {})
            files.mark_ready(db, claim.pk, result)
        return written

    def words(self, content: str) -> list[NewChunk]:
        texts = content.split()
        values = np.stack([np.random.default_rng(list(t.encode())).standard_normal(DIM) for t in texts])
        values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
        return [
            NewChunk(text, 1, i, i + 1, 1, 1, "", text_index.tokens(text), vectors.input_hash(text), vector)
            for i, (text, vector) in enumerate(zip(texts, vectors.encode(values), strict=True))
        ]

    def add(self, name: str, content: str) -> File:
        """Find a file and take it to the end."""
        self.find(name, content)
        for claim in self.claim():
            self.commit(claim, content)
        return self.file(name)

    def file(self, name: str) -> File:
        with self.db.read() as db:
            file = files.by_path(db, self.project, f"/{name}".encode())
        assert file is not None, f"{name} has no row"
        return file

    def delete(self, name: str) -> None:
        with self.db.write() as db:
            files.delete(db, self.file(name))

    def found(self, word: str) -> list[str]:
        """Names of the files whose chunks the full text finds for a word."""
        with self.db.read() as db:
            hits = text_index.search(db, vectors.Source.FILE, word, project_pk=self.project, limit=10)
            return [
                db.value(
                    "SELECT f.filename FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk",
                    pk=pk,
                )
                for pk, _ in hits
            ]

    def count(self, table: str) -> int:
        with self.db.read() as db:
            return db.value(f"SELECT count(*) FROM {table}")


@pytest.fixture
def shelf(db: Database) -> Shelf:
    """An empty project with a model of 8 dimensions."""
    return Shelf(db)

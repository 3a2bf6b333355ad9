"""A project and its folder, ingested in this process: real scan, queue, parsers and commits, no model to wait for."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import model_files
from pipeline.chunk import ChunkSettings
from pipeline.detect import Kind
from pipeline.embed import ModelIdentity
from pipeline.extract import parser_version
from pipeline.ingest import Result
from pipeline.parse import ParseSettings
from storage import files, projects, uploads, vectors
from storage.database import Database
from storage.files import File, Seen, Versions
from storage.fingerprint import Fingerprint
from storage.queue import Claim
from storage.vectors import Model
from workers.batch import Batch, BatchOptions, Progress, Report
from workers.parser import ParserLimits
from workers.runner import Job, Recipe, RunnerSettings
from workers.scan import Scan, ScanOptions

Floats = npt.NDArray[np.float32]
DIM = 384
MODEL = model_files.resolve("sentence-transformers/all-MiniLM-L6-v2")


class HashEmbedder:
    """Gives each text the vector that its hash draws: always the same, and as wide as the default model's."""

    identity = ModelIdentity("drawn", "drawn", DIM, "mean", "", "", "fp32", "torch", 256)

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Return a unit vector for each text."""
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> Floats:
        """Return a unit vector."""
        digest = hashlib.sha256(text.encode("utf8", "surrogatepass")).digest()
        drawn = np.random.default_rng(int.from_bytes(digest)).standard_normal(DIM)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32)

    def parts(self, text: str) -> list[str]:
        """Take any text whole."""
        return [text]

    def known_letters(self, text: str) -> float:
        """Know all."""
        return 1.0


class Attempts(Progress):
    """Counts how often each file was taken to an end; ends a run in which one file never comes to rest."""

    def __init__(self, most: int = 5) -> None:
        self.most = most
        self.batch: Batch | None = None
        self.of: Counter[str] = Counter()
        self._lock = threading.Lock()

    def finished(self, claim: Claim, result: Result) -> None:
        """Count an attempt."""
        with self._lock:
            self.of[claim.filename] += 1
        if self.of[claim.filename] >= self.most and self.batch is not None:
            self.batch.stop()


@dataclass
class Desk:
    """One project and its folder; `ingest` is one run over it."""

    db: Database
    folder: Path
    limits: ParserLimits = field(default_factory=ParserLimits)
    runner: RunnerSettings = field(default_factory=RunnerSettings)
    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    embedder: Any = field(default_factory=HashEmbedder)
    attempts: Attempts = field(default_factory=Attempts)
    project: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        with self.db.write() as db:
            self.project = projects.ensure(db, "desk").pk

    def write(self, name: str, text: str) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.write_text(text, "utf8")
        return path

    def upload(self, name: str, text: str) -> None:
        """Queue a file that came over the network."""
        path, data = uploads.new_path(name), text.encode()
        uploads.made_folder(self.db.path)
        Path(os.fsdecode(uploads.on_disk(self.db.path, path))).write_bytes(data)
        seen = Seen(path, Fingerprint(len(data), 0, 0, 0), hashlib.sha256(data).hexdigest(), "text/plain")
        with self.db.write() as db:
            files.register(db, self.project, seen, self._versions, scanned_ns=0)

    def ingest(self, **options: Any) -> Report:
        """Run over the folder."""
        chosen = BatchOptions(ScanOptions(), **options)
        batch = Batch(self.db, "desk", self.project, self._job(), self.runner, chosen, self.attempts)
        self.attempts.batch = batch
        return batch.run([self.folder])

    def scan(self) -> int:
        """Queue what is in the folder, and process none of it; return how many files were found."""
        return len(list(Scan(self.db, self.project, self._versions, ScanOptions()).run([self.folder])))

    def files(self) -> list[File]:
        """Return every file of the project."""
        with self.db.read() as db:
            return list(files.every(db, self.project))

    def value(self, sql: str, **values: Any) -> Any:
        """Return what a statement gives."""
        with self.db.read() as db:
            return db.value(sql, **values)

    @property
    def _versions(self) -> Versions:
        return Versions(self.chunks.fingerprint(), frozenset(parser_version(kind) for kind in Kind))

    def _job(self) -> Job:
        recipe = Recipe(ParseSettings(self.chunks), self._versions, MODEL)
        return Job(lambda db, project_pk: recipe, self.limits, self._load)

    def _load(self) -> tuple[Any, Model]:
        identity = self.embedder.identity
        with self.db.write() as db:
            return self.embedder, vectors.ensure_model(
                db,
                name=identity.name,
                hash=identity.hash,
                dim=identity.dim,
                pooling=identity.pooling,
                query_prompt=identity.query_prompt,
                document_prompt=identity.document_prompt,
                precision=identity.precision,
            )


def note(number: int, paragraphs: int = 1) -> str:
    """A text of its own, some thirty words a paragraph, each of which becomes a chunk under its heading."""
    parts = [
        f"## Part {part} of note {number}\n\n" + " ".join(f"ship{number * 31 + part * 7 + word}" for word in range(30))
        for part in range(paragraphs)
    ]
    return f"# Note {number}\n\n" + "\n\n".join(parts)


def main() -> None:
    """Ingest a folder, committing all the time: `python -m faults.desk DATABASE FOLDER`."""
    with Database.open(sys.argv[1]) as db:
        Desk(db, Path(sys.argv[2]), runner=RunnerSettings(window=32)).ingest()


if __name__ == "__main__":
    main()

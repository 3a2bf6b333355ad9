"""A project that folders can be ingested into, with the real parsers and the real model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from pipeline import embed, model_files
from pipeline.chunk import ChunkSettings
from pipeline.detect import Kind
from pipeline.embed import Embedder
from pipeline.extract import parser_version
from pipeline.parse import ParseSettings
from storage import files, projects, vectors
from storage.database import Database
from storage.files import File, Versions
from storage.vectors import Model
from workers.batch import Batch, BatchOptions, Progress, Report
from workers.parser import ParserLimits
from workers.runner import Job, Recipe, RunnerSettings
from workers.scan import ScanOptions

FILES = model_files.resolve("sentence-transformers/all-MiniLM-L6-v2")
_lock = threading.Lock()
_loaded: list[Embedder] = []


def real_embedder() -> Embedder:
    """The default model, loaded once a test process."""
    with _lock:
        if not _loaded:
            _loaded.append(embed.load(embed.EmbedSettings()))
        return _loaded[0]


@dataclass
class Desk:
    """One project and its folder; `ingest` is one run over the folder.

    A second parser would be a second process to start; tests that are about files side by side have the default's two.
    """

    db: Database
    folder: Path
    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    limits: ParserLimits = field(default_factory=ParserLimits)
    runner: RunnerSettings = field(default_factory=partial(RunnerSettings, workers=1))
    parse: dict = field(default_factory=dict)
    embedder: Callable[[], Embedder] = real_embedder
    project: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        with self.db.write() as db:
            self.project = projects.ensure(db, "desk").pk

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")
        return path

    def job(self) -> Job:
        versions = Versions(self.chunks.fingerprint(), frozenset(parser_version(kind) for kind in Kind))
        recipe = Recipe(ParseSettings(self.chunks, **self.parse), versions, FILES)
        return Job(lambda db, project_pk: recipe, self.limits, self.load)

    def load(self) -> tuple[Embedder, Model]:
        embedder = self.embedder()
        identity = embedder.identity
        with self.db.write() as db:
            return embedder, vectors.ensure_model(
                db,
                name=identity.name,
                hash=identity.hash,
                dim=identity.dim,
                pooling=identity.pooling,
                query_prompt="",
                document_prompt="",
                precision=identity.precision,
            )

    def batch(self, *, scan: ScanOptions | None = None, progress: Progress | None = None, **options) -> Batch:
        chosen = replace(BatchOptions(scan or ScanOptions()), **options)
        return Batch(self.db, "desk", self.project, self.job(), self.runner, chosen, progress or Progress())

    def ingest(self, *roots: Path, **options) -> Report:
        return self.batch(**options).run(list(roots) or [self.folder])

    def file(self, name: str) -> File:
        with self.db.read() as db:
            return next(f for f in files.every(db, self.project) if f.filename == name)

    def count(self, table: str) -> int:
        with self.db.read() as db:
            return db.value(f"SELECT count(*) FROM {table}")


@pytest.fixture
def desk(db: Database, tmp_path: Path, parsers_lent: None) -> Desk:
    """An empty project and an empty folder."""
    return Desk(db, tmp_path / "in")

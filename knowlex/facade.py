"""Knowlex for Python programs: one object, synchronous, safe to use from many threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from knowlex.accessors import AppSettings, Conversations, Memories, Projects
from knowlex.config import Settings, load_settings
from knowlex.engine import Engine
from storage import migrations, projects, slow_queries, vectors
from storage.database import Database
from storage.errors import DatabaseError, LockedError, NotFoundError, ReadOnlyError, UsageError
from storage.files import File, Status
from storage.paths import database_path
from storage.projects import Project
from storage.sources import Source

if TYPE_CHECKING:
    from knowlex.drain import Drain, Drained
    from knowlex.files import FileDetails, FileRow
    from knowlex.hits import Hits
    from knowlex.ingestion import Ingestion
    from pipeline.embed import Vectors as Floats
    from pipeline.retrieve import Mode
    from storage.statistics import Statistics
    from storage.text_mirror import TextMirror
    from storage.text_query import Syntax
    from storage.vector_mirror import VectorMirror
    from storage.verify import Problem
    from workers.batch import Progress, Report

log = logging.getLogger("knowlex")

PathLike = str | os.PathLike[str]
SOURCES = {"files": Source.FILE, "memories": Source.MEMORY, "messages": Source.MESSAGE}
MODES = ("hybrid", "text", "vector")
DRAINED_BEFORE_SEARCH = 256
"""Memories and messages that a search by meaning embeds first, where they still wait for it."""


class Knowlex:
    """A database of projects, and all that can be done with it.

    path: the database; by default `KNOWLEX_DB`, else `./data/knowlex.db` when `KNOWLEX_ENV` is
    `development`, else the user's data folder. config: a TOML file. settings: single settings by
    name, as in configs/default.toml; they go before everything else.

    Nothing is opened before it is needed, and the model is loaded by the first call that embeds. A
    process forked off opens the database anew.
    """

    def __init__(self, path: PathLike | None = None, *, config: PathLike | None = None, **settings: Any) -> None:
        self.path = database_path(path)
        self.configuration: Settings = load_settings(settings, config=None if config is None else Path(config))
        self.projects = Projects(self)
        self.memories = Memories(self)
        self.conversations = Conversations(self)
        self.settings = AppSettings(self)
        self._own()

    def _own(self) -> None:
        """Begin with nothing open, in this process."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._mirrors: tuple[VectorMirror, TextMirror] | None = None
        self._searched = False

    # --- files -------------------------------------------------------------------------------------

    def ingest(
        self,
        project: str,
        *paths: PathLike,
        prune: bool = False,
        force: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        passwords: Sequence[str] = (),
        workers: int | None = None,
        max_minutes: float | None = None,
        dry_run: bool = False,
        report: PathLike | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """Bring files and folders into a project, which is created if missing, and return what was done.

        A file that cannot be read fails alone: see `failures`. prune: forget files that are gone from
        these folders; more than a fifth of the project only with force. include, exclude: patterns as in
        .gitignore, on top of those in the settings. passwords: for encrypted PDFs. report: a file to
        write one JSON line a file to. progress: True for a bar, False for none; None shows one where a
        person looks on.
        Raises NotFoundError for a missing path, UsageError, ConfigurationError, DatabaseError.
        """
        with self.batch(
            project,
            prune=prune,
            force=force,
            include=include,
            exclude=exclude,
            passwords=passwords,
            workers=workers,
            max_minutes=max_minutes,
            dry_run=dry_run,
            report=report,
            progress=progress,
        ) as batch:
            return batch.run(*paths)

    def batch(
        self, project: str, *, report: PathLike | None = None, progress: Progress | bool | None = None, **options: Any
    ) -> Ingestion:
        """Return a run of `ingest` that another thread can stop; options are those of `ingest`."""
        from knowlex.ingestion import Ingestion, IngestOptions

        chosen = IngestOptions(**options, report=None if report is None else Path(report))
        return Ingestion(lambda: self.engine, self.path, self.configuration, project, chosen, progress)

    def files(self, project: str, status: str | None = None) -> list[FileRow]:
        """Return the files of a project and what became of them. Raises NotFoundError, UsageError."""
        from knowlex import files

        try:
            wanted = None if status is None else Status(status)
        except ValueError:
            raise UsageError(f"status {status!r}: no such status; give one of {', '.join(Status)}") from None
        with self._existing().read() as db:
            return files.rows(db, projects.find(db, project).pk, wanted)

    def file(self, id: str) -> FileDetails:
        """Return one file with its other names and its passages. Raises NotFoundError."""
        from knowlex import files

        with self._existing().read() as db:
            return files.details(db, id)

    def delete_file(self, id: str) -> File:
        """Forget a file and its passages, and return what it was; the file on disk stays. Raises NotFoundError."""
        from storage import files

        with self._existing().write() as db:
            file = files.by_id(db, id)
            files.delete(db, file)
        return file

    def retry(self, project: str, progress: Progress | bool | None = None) -> Drained:
        """Try the failed files of a project again and return what came of it. Raises NotFoundError."""
        self.requeue_failed(project)
        with self.drain(project, progress) as drain:
            return drain.run(once=True)

    def requeue_failed(self, project: str) -> int:
        """Put the failed files of a project back into the queue and return their number."""
        from storage import files

        pk = self.project(project).pk
        versions = self.engine.job().versions
        with self.database.write() as db:
            return files.retry_failed(db, pk, versions)

    def drain(self, project: str | None = None, progress: Progress | bool | None = None) -> Drain:
        """Return a run over the queue of a project, or of all, that another thread can stop."""
        from knowlex.drain import Drain

        pk = None if project is None else self.project(project).pk
        return Drain(self.engine, pk, progress)

    # --- search ------------------------------------------------------------------------------------

    def search(
        self,
        project: str,
        query: str,
        k: int = 10,
        *,
        mode: str = "hybrid",
        sources: Iterable[str] = ("files",),
        window: int = 0,
        max_tokens: int | None = None,
        min_score: float | None = None,
        explain: bool = False,
        syntax: str = "plain",
    ) -> Hits:
        """Return the passages of a project that answer a question best.

        mode: "hybrid", "text" (by words) or "vector" (by meaning). sources: of "files", "memories",
        "messages". window: neighbouring passages to add on either side. max_tokens: leave out hits once
        the text has so many. explain: say how each score came about.
        Raises NotFoundError for an unknown project, UsageError for a bad value.
        """
        from knowlex.hits import Hits
        from pipeline.retrieve import retrieve

        chosen, chosen_mode = _sources(sources), _mode(mode)
        pk = self.project(project).pk
        mirror, text_mirror = self._kept_in_memory() or (None, None)
        answer = retrieve(
            self.database,
            query,
            project_pk=pk,
            k=k,
            mode=chosen_mode,
            sources=chosen,
            embed_query=None if mode == "text" else self._query_embedder(chosen),
            mirror=mirror,
            text_mirror=text_mirror,
            syntax=cast("Syntax", syntax),
            min_score=min_score,
            window=window,
            max_tokens=max_tokens,
            explain=explain,
            candidates=self.configuration.candidates,
        )
        # Without the embedding, the first of which also compiles the model for this process.
        searched_ms = answer.took_ms - answer.embed_ms
        if searched_ms >= self.configuration.slow_query_ms:
            self._note_slow(mode, pk, searched_ms)
        return Hits(answer, project, explained=explain, windowed=bool(window))

    def _query_embedder(self, sources: Sequence[Source]) -> Callable[[str], Floats]:
        """Return what embeds a question; before, memories and messages that wait are embedded."""
        if {Source.MEMORY, Source.MESSAGE} & set(sources):
            self._embed_pending()
        with self.database.read() as db:
            searched = vectors.live_model(db) is not None
        # Without vectors there is nothing to compare with, and no model is loaded; the vector leg says so.
        return self.engine.embedder()[0].embed_query if searched else _no_vector

    def _embed_pending(self) -> None:
        from knowlex.pending_vectors import embed_pending

        try:
            embed_pending(self.engine, DRAINED_BEFORE_SEARCH)
        except (LockedError, ReadOnlyError) as error:
            log.warning("memories and messages added last are found by words only: %s", error)

    def _kept_in_memory(self) -> tuple[VectorMirror, TextMirror] | None:
        """Return the vectors and postings kept in memory, from the second search on: one alone is quicker without."""
        with self._mine():
            if self._searched and self._mirrors is None:
                from storage.text_mirror import TextMirror
                from storage.vector_mirror import VectorMirror

                self._mirrors = VectorMirror(), TextMirror()
            self._searched = True
            return self._mirrors

    def _note_slow(self, mode: str, project_pk: int, took_ms: float) -> None:
        try:
            with self.database.write() as db:
                slow_queries.record(db, mode, project_pk, took_ms)
        except DatabaseError as error:
            log.warning("a slow search (%.0f ms) was not recorded: %s", took_ms, error)

    # --- the database ------------------------------------------------------------------------------

    def stats(self, project: str | None = None) -> Statistics:
        """Return how much the database, or one project, holds. Raises NotFoundError."""
        from storage import statistics

        pk = None if project is None else self.project(project).pk
        with self._existing().read() as db:
            return statistics.of(db, pk)

    def verify(self, *, deep: bool = False) -> list[Problem]:
        """Compare what the database says with what it holds; an empty list means that all is well.

        deep: every page, token and vector, on a copy made for it.
        """
        from storage.verify import verify

        return verify(self._existing(), deep=deep)

    def migrate(self, to: int | None = None) -> tuple[int, list[int]]:
        """Bring the schema up, or to version `to`; return where it stands and the versions taken. Raises UsageError."""
        taken = self.database.migrate(to)
        with self.database.read() as db:
            return migrations.version(db), taken

    def close(self) -> None:
        """Close the database; a later call opens it again."""
        with self._mine():
            engine, self._engine, self._mirrors = self._engine, None, None
        if engine is not None:
            engine.database.close()

    @property
    def engine(self) -> Engine:
        """What ingestion and retrieval run on; made when first asked for."""
        with self._mine():
            if self._engine is None:
                self._engine = Engine(Database.open(self.path), self.configuration)
            return self._engine

    @property
    def database(self) -> Database:
        """The database, opened when first asked for, and made where there was none."""
        return self.engine.database

    def project(self, name_or_id: str) -> Project:
        """Return a project. Raises NotFoundError."""
        with self._existing().read() as db:
            return projects.find(db, name_or_id)

    def _existing(self) -> Database:
        """Return the database; raises NotFoundError instead of making one, for calls that need something in it."""
        if self._engine is None and not self.path.exists():
            raise NotFoundError(f"{self.path}: no such database yet; make it with knowlex ingest PROJECT PATH")
        return self.database

    def _mine(self) -> threading.RLock:
        """Return the lock; in a process forked off, let go of what belongs to the parent first."""
        if os.getpid() != self._pid:
            # Kept alive for ever: closing the parent's connections here would disturb its locks.
            _inherited.append(self._engine)
            self._own()
        return self._lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Knowlex({str(self.path)!r})"


_inherited: list[Engine | None] = []


def _mode(mode: str) -> Mode:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: is unknown; give one of {', '.join(MODES)}")
    return mode


def _sources(names: Iterable[str]) -> tuple[Source, ...]:
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in SOURCES]
    if unknown or not chosen:
        raise UsageError(f"source {', '.join(unknown) or 'missing'}: give some of {', '.join(SOURCES)}")
    return tuple(SOURCES[name] for name in chosen)


def _no_vector(question: str) -> Floats:
    import numpy as np

    return np.zeros(0, np.float32)

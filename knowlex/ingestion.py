"""One run of `ingest`: from folders to searchable passages, by way of workers.batch."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from knowlex import drain
from knowlex.config import Settings
from knowlex.engine import Engine, require_model
from knowlex.pending_vectors import embed_pending
from knowlex.progress import Bar, watcher
from knowlex.run_limits import require_minutes, require_workers
from pipeline.discover import discover
from storage import files, growth, projects
from storage.database import Database
from storage.errors import DatabaseError, NotFoundError, UsageError
from storage.event_log import EventLog, code_of
from storage.output import require_free
from storage.paths import given_path
from storage.projects import Project
from storage.runs import Kind
from workers.batch import REPORT, Batch, BatchOptions, Progress, Report
from workers.run import Run
from workers.runner import RunnerSettings
from workers.scan import ScanOptions

log = EventLog("knowlex")


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What a run is to do, besides taking files in; the command line's flags have the same names.

    include, exclude: patterns as in .gitignore, on top of those in the settings and those of the project.
    passwords: tried on encrypted PDFs; those that failed for want of one are tried again.
    password_file: where they were read from. report: a file to write one JSON line a file to. Neither is taken in.
    within: real paths of folders outside of which nothing may be touched, see `knowlex.roots`; None for no bound.
    """

    prune: bool = False
    force: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    passwords: Sequence[str] = ()
    password_file: Path | None = None
    workers: int | None = None
    max_minutes: float | None = None
    dry_run: bool = False
    report: Path | None = None
    within: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        require_minutes(self.max_minutes)
        require_workers(self.workers)


class Ingestion:
    """One run of `ingest` into a project; to be used once, as a context manager."""

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        path: Path,
        settings: Settings,
        project: str,
        options: IngestOptions,
        progress: Progress | bool | None = None,
        *,
        kind: Kind = Kind.INGEST,
    ) -> None:
        self._kind = kind
        self._open_engine = open_engine
        self._path = path
        self._settings = settings
        self._project = project
        self._options = options
        self._watcher = watcher(False if options.dry_run else progress)
        self._lock = threading.Lock()
        self._batch: Batch | None = None
        self._told = False

    def run(self, *paths: str | os.PathLike[str]) -> Report:
        """Ingest files and folders and return what was done.

        Raises NotFoundError for a missing path and UsageError for an empty one, a bad pattern or a report that
        cannot be written, before anything is done.
        """
        if not paths or not all(path != "" for path in paths):
            raise UsageError(f"{'an empty' if paths else 'no'} path given: name the files and folders to ingest")
        roots = [given_path(path, f"path {number}") for number, path in enumerate(paths, 1)]
        scan = self._scan_options(self._settings)
        # Checks its arguments before it walks.
        discover(roots, include=scan.include, exclude=scan.exclude, within=scan.within)
        if self._options.report is not None:
            require_free(self._options.report, self._path, REPORT)
        with self._engine() as engine:
            report = self._run(engine, roots)
            if not self._told and not self._options.dry_run:
                embed_pending(engine)
            if not self._options.dry_run and (report.ingested or report.duplicates or report.removed):
                _note_size(engine.database)
        return report

    def _run(self, engine: Engine, roots: Sequence[Path]) -> Report:
        project = self._project_to_fill(engine.database)
        run = Run(self._kind, project)
        batch = self._begin(engine, project, run)
        if self._options.dry_run:
            return batch.run(roots)
        with run.recorded(engine.database, batch.figures, lambda: batch.stopped):
            return batch.run(roots)

    def stop(self) -> None:
        """End the run soon, from any thread; what is not done waits for the next one."""
        with self._lock:
            self._told = True
            if self._batch is not None:
                self._batch.stop()

    def abandon(self) -> None:
        """Give back what this process holds, when it is about to end on the spot."""
        if not self._options.dry_run:
            drain.give_back(lambda: self._open_engine().database)

    @property
    def stopped(self) -> bool:
        """Whether the run ended, told to or out of time, before everything was done."""
        return self._told or (self._batch is not None and self._batch.stopped)

    def waiting(self) -> int:
        """Return how many files of the project wait."""
        if self._options.dry_run:
            return 0
        database = self._open_engine().database
        project = self._known_project(database)
        return 0 if project is None else drain.waiting(database, project.pk)

    def failed(self) -> int:
        """Return how many files of the project have failed, in this run and before."""
        if self._options.dry_run:
            return 0
        database = self._open_engine().database
        project = self._known_project(database)
        with database.read() as db:
            return 0 if project is None else files.counts(db, project.pk)["failed"]

    def is_into_new(self) -> bool:
        """Tell whether the project is not there yet."""
        if not self._path.exists():
            return True
        with self._engine() as engine:
            return self._known_project(engine.database) is None

    def takes_hidden(self) -> bool:
        """Tell whether names that begin with a dot are taken, by the settings as they are now."""
        engine = self._open_engine()
        project = self._known_project(engine.database)
        with engine.database.read() as db:
            return engine.settings_of(db, None if project is None else project.pk).hidden

    def _begin(self, engine: Engine, project: Project | None, run: Run) -> Batch:
        options = self._options
        pk = project.pk if project else None
        with engine.database.read() as db:
            scan = self._scan_options(engine.settings_of(db, pk))
        batch = Batch(
            engine.database,
            self._project,
            pk,
            engine.job(tuple(options.passwords)),
            RunnerSettings(workers=options.workers or self._settings.workers),
            BatchOptions(
                scan=scan,
                prune=options.prune,
                force=options.force,
                dry_run=options.dry_run,
                max_minutes=options.max_minutes,
                report=options.report,
            ),
            self._watcher,
            log=run.log,
        )
        with self._lock:
            self._batch = batch
            if self._told:
                batch.stop()
        return batch

    def _scan_options(self, settings: Settings) -> ScanOptions:
        options = self._options
        return ScanOptions(
            include=(*settings.include, *options.include),
            exclude=(*settings.exclude, *options.exclude),
            hidden=settings.hidden,
            max_file_bytes=settings.max_file_mb * 2**20,
            retry_encrypted=bool(options.passwords),
            set_aside=tuple(path for path in (options.report, options.password_file) if path is not None),
            within=None if options.within is None else tuple(map(os.fsencode, options.within)),
        )

    def _project_to_fill(self, database: Database) -> Project | None:
        known = self._known_project(database)
        if known is not None or self._options.dry_run:
            return known
        with database.write() as db:
            return projects.ensure(db, self._project)

    def _known_project(self, database: Database) -> Project | None:
        """Return the project of that id or name, or None before it is made."""
        try:
            with database.read() as db:
                return projects.find(db, self._project)
        except NotFoundError:
            return None

    @contextmanager
    def _engine(self) -> Generator[Engine]:
        """Give the engine to work with: for a dry run, one on a database that is not written to."""
        if not self._options.dry_run:
            if not self._path.exists():
                require_model(self._settings)  # what cannot be ingested with leaves no database
            yield self._open_engine()
        elif self._path.exists():
            with Database.open(self._path, readonly=True) as database:
                yield Engine(database, self._settings)
        else:
            with (
                tempfile.TemporaryDirectory(prefix="knowlex-") as folder,
                Database.open(Path(folder, "dry.db")) as database,
            ):
                yield Engine(database, self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._watcher, Bar):
            self._watcher.close()


def _note_size(database: Database) -> None:
    """Note how large the database has become; not worth waiting for, nor failing a run."""
    with database.read() as db:
        sample = growth.measure(db)
    try:
        with database.write(timeout_ms=1000) as db:
            growth.keep(db, sample)
    except DatabaseError as error:
        log.info("size of the database not noted", error_code=code_of(error))

"""`ingest --watch`: ingest folders, and again whenever something in them has changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from knowlex.ingestion import Ingestion
from knowlex.run_limits import require_minutes
from storage.errors import DiskFullError, LockedError, NotFoundError, TransientError
from storage.event_log import EventLog, code_of
from storage.paths import given_path
from workers.batch import Report
from workers.watch import FolderWatch

log = EventLog("knowlex.watch")

LOOK_AGAIN_S = 300.0
"""How long a change may stay unseen that the system did not tell of, as on network file systems."""

REST = 4
"""A scan is followed by a pause this many times as long, however busy the folders are; of LOOK_AGAIN_S at most."""


class Watch:
    """Runs of `ingest` over the same folders, one whenever something in them changed, until `stop`.

    new_run: makes a run; database: the path of its files, whose changes are not the user's.
    """

    def __init__(self, new_run: Callable[[], Ingestion], database: Path, *, max_minutes: float | None = None) -> None:
        require_minutes(max_minutes)
        self._new_run = new_run
        self._database = database
        self._ends = None if max_minutes is None else time.monotonic() + max_minutes * 60
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._run: Ingestion = new_run()
        self._folders: FolderWatch | None = None
        self._gone = 0
        self._missing: set[Path] = set()

    def run(
        self,
        *paths: str | os.PathLike[str],
        on_report: Callable[[Report], None],
        on_missing: Callable[[Exception], None] = lambda error: None,
        on_watching: Callable[[], None] = lambda: None,
    ) -> None:
        """Ingest the folders, tell what was done, and wait for changes; returns after `stop` or when time is up.

        on_watching is called once, between the first run and the wait.
        What a later run did is told only where it did something, or more files are gone from disk. Raises what the
        first run raises, and DatabaseError from any; a folder that goes missing later is told to on_missing, and waited
        for while the others are followed; and so is a system that tells of no changes: then everything is looked
        through every LOOK_AGAIN_S. A database that others keep locked, or a full disk, is told and waited for, too.
        """
        first = self._once(*paths)
        self._gone = first.gone
        on_report(first)
        if not self._over:
            on_watching()
        while not self._over:
            try:
                self._follow(self._present(paths, on_missing), on_report)
            except (NotFoundError, OSError) as error:
                log.warning("folder missing", error_code=code_of(error), looks_again_s=LOOK_AGAIN_S)
                self._look_again_later(error, on_missing)
            except (LockedError, DiskFullError) as error:
                log.warning("changes wait", error_code=code_of(error), looks_again_s=LOOK_AGAIN_S)
                self._look_again_later(error, on_missing)
            except TransientError as error:
                log.warning("changes not watched", error_code=code_of(error), looks_again_s=LOOK_AGAIN_S)
                self._look_again_later(error, on_missing)

    def _look_again_later(self, error: Exception, on_missing: Callable[[Exception], None]) -> None:
        on_missing(error)
        self._told.wait(self._patience(LOOK_AGAIN_S))

    def _present(self, paths: Sequence[str | os.PathLike[str]], on_missing: Callable[[Exception], None]) -> list[Path]:
        """Return the folders that are there, and tell each that is missing once; raises NotFoundError without any."""
        roots = [given_path(path, "path").resolve() for path in paths]
        there = [root for root in roots if os.path.lexists(root)]
        missing = {
            root: NotFoundError(f"{root}: is missing: mount or restore it") for root in roots if root not in there
        }
        if not there:
            raise next(iter(missing.values()))
        for error in [error for root, error in missing.items() if root not in self._missing]:
            log.warning("folder missing", error_code=code_of(error), looks_again_s=LOOK_AGAIN_S)
            on_missing(error)
        self._missing = set(missing)
        return there

    def _follow(self, roots: Sequence[Path], on_report: Callable[[Report], None]) -> None:
        """Run whenever something in these folders changed, until one is replaced or goes, or a missing one returns."""
        with FolderWatch(roots, self._database, hidden=self._run.takes_hidden()) as folders:
            with self._lock:
                self._folders = folders
            while not self._over and folders.is_current and not any(map(os.path.lexists, self._missing)):
                folders.wait(self._patience(LOOK_AGAIN_S))
                if self._over or not folders.is_current:
                    return
                report = self._once(*roots)
                if _did_something(report) or report.gone > self._gone:
                    on_report(report)
                self._gone = report.gone
                if self._over:
                    return
                folders.require_working()
                folders.hidden = self._run.takes_hidden()
                self._told.wait(self._patience(_rest_s(report)))

    def _once(self, *paths: str | os.PathLike[str]) -> Report:
        with self._lock:
            run = self._run
        try:
            with run:
                return run.run(*paths)
        finally:
            with self._lock:
                self._run = self._new_run()
                if self._told.is_set():
                    self._run.stop()

    def stop(self) -> None:
        """End soon, from any thread."""
        self._told.set()
        with self._lock:
            self._run.stop()
            if self._folders is not None:
                self._folders.stop()

    def abandon(self) -> None:
        """Give back what this process holds, when it is about to end on the spot."""
        self._run.abandon()

    def waiting(self) -> int:
        """Return how many files of the project wait."""
        return self._run.waiting()

    @property
    def _over(self) -> bool:
        return self._told.is_set() or self._patience(1.0) <= 0

    def _patience(self, seconds: float) -> float:
        """Return how long to wait: so long, but not past the end of the time that was given."""
        return seconds if self._ends is None else min(seconds, self._ends - time.monotonic())


def _did_something(report: Report) -> bool:
    taken = report.ingested, report.duplicates, report.moved, report.attachments, report.uploads
    return any(taken) or bool(report.removed or report.failures)


def _rest_s(report: Report) -> float:
    """Return the pause after a run, by what the look through the folders took: to embed what is new may take hours."""
    return min(REST * report.stages.scan_s, LOOK_AGAIN_S) if report.stages else 0.0

"""Process what waits in the queue: what `work` and `retry` do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from knowlex.engine import Engine
from knowlex.pending_vectors import embed_pending
from knowlex.progress import Bar, watcher
from pipeline.ingest import Outcome, Result
from storage import maintain, queue
from storage.database import Database
from storage.errors import DiskFullError, KnowlexError, LockedError
from storage.event_log import EventLog, code_of
from storage.files import shown
from storage.projects import Project
from storage.queue import Claim
from storage.runs import Figures, Kind
from workers import owner
from workers.batch import Failure, Progress, figures_of
from workers.run import Run
from workers.runner import Runner, RunnerSettings

log = EventLog("knowlex.work")

GIVE_BACK_S = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What a run over the queue did: files ready and failed, chunks written, vectors of memories and messages."""

    ready: int
    failed: int
    chunks: int
    vectors: int
    seconds: float
    failures: tuple[Failure, ...]


class Drain:
    """One run over the queue of a project (None: of all)."""

    def __init__(
        self,
        engine: Engine,
        project: Project | None,
        progress: Progress | bool | None,
        *,
        passwords: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._project_pk = project.pk if project else None
        self._run = Run(Kind.WORK, project)
        self._watcher = watcher(progress)
        self._lock = threading.Lock()
        self._ready = self._chunks = self._vectors = 0
        self._failures: list[Failure] = []
        self._runner = Runner(
            engine.database,
            engine.job(passwords),
            RunnerSettings(workers=engine.settings.workers),
            project_pk=self._project_pk,
            on_result=self._on_result,
            log=self._run.log,
        )

    def run(self, *, once: bool = True) -> Drained:
        """Process files until none waits, or, without `once`, until `stop`."""
        started = time.monotonic()
        with self._run.recorded(self._engine.database, self._figures, lambda: self._told):
            self._runner.run(self._nothing_left if once else self._never)
        if once and not self._told:
            self._vectors += embed_pending(self._engine)
        return Drained(
            ready=self._ready,
            failed=len(self._failures),
            chunks=self._chunks,
            vectors=self._vectors,
            seconds=round(time.monotonic() - started, 3),
            failures=tuple(self._failures),
        )

    _told = False

    went_well = False
    """Whether a file was finished, or the queue found empty: nothing is in the way."""

    def _figures(self) -> Figures:
        return figures_of(self._runner.timings)

    def stop(self) -> None:
        """End the run soon, from any thread; what is not done stays in the queue."""
        self._told = True
        self._runner.stop()

    def abandon(self) -> None:
        """Give back what this process holds, when it is about to end on the spot."""
        give_back(lambda: self._engine.database)

    def waiting(self) -> int:
        """Return how many files wait."""
        return waiting(self._engine.database, self._project_pk)

    def _nothing_left(self) -> bool:
        return not self.waiting()

    def _never(self) -> bool:
        """Use the idle time for vectors of memories and messages, and for what keeps the database quick and small."""
        self._vectors += embed_pending(self._engine, limit=64)
        self._maintain()
        self.went_well = True
        return False

    def _maintain(self) -> None:
        try:
            for task in maintain.maintain_idle(self._engine.database):
                log.info("maintenance done", task=task.name, took_ms=round(task.took_ms, 1))
        except LockedError as error:
            log.info("maintenance waits", error_code=code_of(error))
        except DiskFullError as error:
            log.warning("maintenance waits", error_code=code_of(error))

    def _on_result(self, claim: Claim, result: Result) -> None:
        self.went_well = True
        with self._lock:
            self._chunks += result.chunks
            self._ready += result.outcome is Outcome.READY
            if result.outcome is Outcome.FAILED:
                self._failures.append(Failure(shown(claim.path), result.error or ""))
        self._watcher.finished(claim, result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._watcher, Bar):
            self._watcher.close()


def waiting(database: Database, project_pk: int | None) -> int:
    """Return how many files of a project (None: of all) wait or are being processed."""
    with database.read() as db:
        return queue.unfinished(db, project_pk)


def give_back(database: Callable[[], Database]) -> None:
    """Return every file that this process holds to the queue, in a second or not at all; so the database is asked for.

    What stays behind is taken back by the next run, which sees that its holder is gone.
    """
    thread = threading.Thread(target=_give_back, args=(database,), daemon=True)
    thread.start()
    thread.join(GIVE_BACK_S)


def _give_back(database: Callable[[], Database]) -> None:
    me, _, _ = owner.name().rpartition("/")
    try:
        with database().write() as db:
            for name in queue.owners(db):
                if name.rpartition("/")[0] == me:
                    queue.give_back(db, name)
    except KnowlexError as error:  # nobody waits for this thread: what it raises would be printed as it is
        log.info("files not given back", error_code=code_of(error))

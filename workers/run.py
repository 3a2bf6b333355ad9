"""One run of ingestion as a whole: what it is called in the log, and the row that it leaves at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict

from storage import runs
from storage.database import Database
from storage.errors import KnowlexError, NotFoundError
from storage.event_log import EventLog, code_of
from storage.ids import new_id, now_text
from storage.projects import Project
from storage.runs import Ending, Figures, Kind

LOG = EventLog("knowlex.run")

KEEP_WAIT_MS = 1000
"""How long a run that has ended waits for other writers; its row is not worth more."""


class Run:
    """A run of some kind in a project (None: in all), from its first event to its row."""

    def __init__(self, kind: Kind, project: Project | None) -> None:
        self.id = new_id()
        self.log = LOG.bind(run=self.id, project=project.id if project else None)
        self._kind = kind
        self._project_pk = project.pk if project else None

    @contextmanager
    def recorded(
        self, database: Database, figures: Callable[[], Figures], stopped: Callable[[], bool]
    ) -> Generator[None]:
        """Tell the log of the start and the end of the block, and keep what it did, also where an error ends it.

        A run over the queue, or one of a watch, that finished and forgot no file leaves no row. That a row
        cannot be written is told in the log alone.
        """
        started_at, started = now_text(), time.monotonic()
        self.log.info("run started", kind=self._kind)
        outcome, code = Ending.FAILED, None
        try:
            yield
            outcome = Ending.STOPPED if stopped() else Ending.DONE
        except BaseException as error:
            code = code_of(error)
            raise
        finally:
            seconds = round(time.monotonic() - started, 3)
            self._end(
                database,
                runs.Run(
                    self.id, self._project_pk, self._kind, outcome, code, started_at, now_text(), seconds, figures()
                ),
            )

    def _end(self, database: Database, run: runs.Run) -> None:
        ending = {"outcome": run.outcome, "error_code": run.error_code, "seconds": run.seconds}
        self.log.info("run ended", **ending, **asdict(run.figures))
        if not _worth_keeping(run):
            return
        try:
            with database.write(timeout_ms=KEEP_WAIT_MS) as db:
                runs.keep(db, run)
        except KnowlexError as error:
            self.log.info("run not kept", error_code=code_of(error))


def _worth_keeping(run: runs.Run) -> bool:
    did = run.figures
    broke = run.error_code not in (None, NotFoundError.code)  # a watch looks again and again for a folder that is gone
    return bool(run.kind is Kind.INGEST or broke or did.parsed or did.ready or did.failed or did.removed)

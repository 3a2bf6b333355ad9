"""What a process remembers of its searches, and writes down now and then: counts, and those that were slow.

A search never waits for the write lock for this. Counts are in memory, and the search that finds them a
minute old writes them, if the lock is free at that moment: one small commit of some milliseconds. A slow
search does so at once, at most once a second. What is left is written when the process ends, or `close`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from storage import slow_queries, usage
from storage.connection import Connection
from storage.database import Database
from storage.errors import DatabaseError
from storage.event_log import EventLog, code_of
from storage.ids import now_text
from storage.paging import Page
from storage.usage import Count

log = EventLog("knowlex")

WRITTEN_EVERY_S = 60.0

SLOW_EVERY_S = 1.0
"""How often slow searches are written at most, so that where all are slow not each of them pays for a commit."""

LAST_WAIT_MS = 200
"""How long the end of a process waits for the write lock; then its last counts are lost."""


@dataclass(frozen=True, slots=True)
class SlowSearch:
    """A search slower than `slow_query_ms`: its mode, the project's name (None: over all), and when it ended (UTC)."""

    kind: str
    project: str | None
    took_ms: float
    created_at: str


def slow_searches(db: Connection, *, limit: int = 100, after: str | None = None) -> Page[SlowSearch]:
    """Return slow searches, the latest first; see slow_queries.listed. Raises UsageError."""
    names = slow_queries.project_names(db)
    page = slow_queries.listed(db, limit=limit, after=after)
    found = [SlowSearch(one.kind, names.get(one.project_pk or 0), one.took_ms, one.created_at) for one in page.items]
    return Page(found, page.next)


class Slow(NamedTuple):
    """A slow search that is not written yet."""

    kind: str
    project_pk: int | None
    took_ms: float
    at: str


class SearchLog:
    """Counts of searches not written yet. Safe to use from many threads.

    counted: whether to count at all. slow_ms: from how long on a search is noted by itself.
    """

    def __init__(self, *, counted: bool, slow_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._counted = counted
        self._slow_ms = slow_ms
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int | None, str], Count] = {}
        self._slow: deque[Slow] = deque(maxlen=slow_queries.KEPT)
        self._due_at = clock() + WRITTEN_EVERY_S
        self._slow_due_at = clock()
        self._refused = False
        self._at_end: weakref.finalize[Any, Any] | None = None

    def write_at_end(self, owner: object, database: Database) -> None:
        """Write what is left to `database` when `owner` is gone or the process ends; an earlier call is void.

        Not in a process forked off: what its parent counted is the parent's to write.
        """
        self.void()
        self._at_end = weakref.finalize(owner, _write_last, self, database, os.getpid())

    def void(self) -> None:
        """Have nothing written at the end, and keep no database for it."""
        if self._at_end is not None:
            self._at_end.detach()
            self._at_end = None

    def note(self, kind: str, project_pk: int | None, took_ms: float, *, found: bool) -> None:
        """Count a search of `kind` that took so long and found something or not."""
        with self._lock:
            if self._counted:
                self._count(Count(usage.today(), project_pk, kind, 1, int(not found), took_ms))
            if took_ms >= self._slow_ms:
                self._slow.append(Slow(kind, project_pk, took_ms, now_text()))
                if not self._refused:
                    self._due_at = min(self._due_at, max(self._clock(), self._slow_due_at))

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return not self.empty and self._clock() >= self._due_at

    @property
    def empty(self) -> bool:
        """Whether all is written."""
        return not (self._counts or self._slow)

    def write(self, database: Database, *, wait_ms: int = 0) -> bool:
        """Write what was noted and return whether that was done; what cannot be written stays noted.

        wait_ms: how long to wait for the write lock. Within a batch nothing is written, as that may be undone, nor
        to a backup that is looked at, which would be no backup then.
        """
        if self.empty or database.batching or database.is_copy:
            return self.empty
        counts, slow = self._take()
        try:
            with database.write(timeout_ms=wait_ms) as db:
                _keep(db, counts, slow)
            self._refused = False
        except DatabaseError as error:
            log.info("searches not noted yet", counts=len(counts), slow=len(slow), error_code=code_of(error))
            self._put_back(counts, slow)
        return not self._refused

    def _take(self) -> tuple[list[Count], list[Slow]]:
        with self._lock:
            counts, slow = list(self._counts.values()), list(self._slow)
            self._counts.clear()
            self._slow.clear()
            self._due_at = self._clock() + WRITTEN_EVERY_S
            self._slow_due_at = self._clock() + SLOW_EVERY_S
        return counts, slow

    def _put_back(self, counts: list[Count], slow: list[Slow]) -> None:
        with self._lock:
            for count in counts:
                self._count(count)
            self._slow = deque([*slow, *self._slow], maxlen=slow_queries.KEPT)
            self._refused = True

    def _count(self, count: Count) -> None:
        key = (count.day, count.project_pk, count.kind)
        old = self._counts.get(key)
        self._counts[key] = count if old is None else old.plus(count)


def _write_last(noted: SearchLog, database: Database, pid: int) -> None:
    if os.getpid() == pid:
        noted.write(database, wait_ms=LAST_WAIT_MS)


def _keep(db: Connection, counts: list[Count], slow: list[Slow]) -> None:
    usage.add(db, counts)
    usage.prune(db)
    for kind, project_pk, took_ms, at in slow:
        slow_queries.record(db, kind, project_pk, took_ms, at=at)

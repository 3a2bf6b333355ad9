"""Looks at every connection that the engine opens in this process, and at every statement run on it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from knowlex import accessors, ingestion, pending_vectors, search_log
from storage import health, migrations
from workers import run

GUARDS = {"foreign_keys": 1, "recursive_triggers": 1, "trusted_schema": 0, "synchronous": 2}
LEAST_WAIT_MS = 5000
HURRIED = (
    health._tried,
    ingestion._note_size,
    pending_vectors._embed,
    search_log.SearchLog.write,
    run.Run._end,
    accessors.Tokens._note_use,
)
"""Who may wait less: health, which says what it found, and what can be done another time."""

ALONE = ("VACUUM", "ANALYZE")
"""What is a transaction of its own, and takes the write lock first."""


@dataclass(slots=True)
class Watch:
    """What was seen of the files that connections were opened to.

    looked_at: connections that ran any statement but a pragma; each is looked at at the first, and at every BEGIN.
    unguarded: guards that were off then. waits: how long the connections wait for a lock (ms), and how often that was
    seen. impatient: who waits too short a time, and may not. immediate, deferred: transactions that took the write
    lock first, and statements that wrote outside of one.
    """

    opened: list[Path] = field(default_factory=list)
    looked_at: list[Path] = field(default_factory=list)
    unguarded: list[str] = field(default_factory=list)
    waits: Counter[int] = field(default_factory=Counter)
    impatient: list[str] = field(default_factory=list)
    immediate: int = 0
    deferred: list[str] = field(default_factory=list)

    def meet(self, connection: apsw.Connection) -> None:
        """Watch a connection from now on."""
        if name := connection.db_filename("main"):
            self.opened.append(Path(name))
            connection.exec_trace = _Statements(self, Path(name)).see


class _Statements:
    """The statements of one connection."""

    def __init__(self, watch: Watch, path: Path) -> None:
        self._watch, self._path = watch, path
        self._looked_at = self._immediate = self._begun = False

    def see(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        """Be told of a statement that is about to be run; True lets it run."""
        del bindings
        connection, verb = cursor.connection, sql.split(None, 1)[0].upper()
        if verb == "PRAGMA" or connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, -1):
            return True  # a reset empties what is no database any more: no pragma can be set there
        if verb != "BEGIN" and (self._begun or not self._looked_at):  # how BEGIN itself waits is the code's affair
            self._wait(connection.pragma("busy_timeout"), sql.strip())
        if not self._looked_at or verb == "BEGIN":
            self._look(connection, sql.strip())
        self._begun = verb == "BEGIN"
        if verb == "BEGIN":
            self._immediate = "IMMEDIATE" in sql.upper()
            self._watch.immediate += self._immediate
        elif not cursor.is_readonly and verb not in ALONE and not (self._immediate and connection.in_transaction):
            self._watch.deferred.append(f"{self._path.name}: {sql.strip()[:60]}")
        return True

    def _wait(self, wait_ms: int, sql: str) -> None:
        self._watch.waits[wait_ms] += 1
        if wait_ms < LEAST_WAIT_MS and not _within(*HURRIED):
            self._watch.impatient.append(f"{self._path.name}: {wait_ms} ms at {sql[:60]}")

    def _look(self, connection: apsw.Connection, sql: str) -> None:
        if not self._looked_at:
            self._looked_at = True
            self._watch.looked_at.append(self._path)
        writes = sql.startswith("BEGIN IMMEDIATE")
        for lack in _lacking(connection, writes=writes, alone=self._path.suffix == ".scratch"):
            self._watch.unguarded.append(f"{self._path.name}: {lack} at {sql[:60]}")


def _lacking(connection: apsw.Connection, *, writes: bool, alone: bool) -> Iterator[str]:
    """Yield each guard that a connection lacks, and its value; alone: nobody else knows of the file."""
    found = {name: connection.pragma(name) for name in GUARDS}
    # A step of a migration checks foreign keys itself, before it commits.
    wanted = GUARDS | ({"foreign_keys": 0} if _within(migrations._apply) else {})
    yield from (f"{name} = {found[name]}" for name in GUARDS if found[name] != wanted[name])
    if not connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1):
        yield "defensive = 0"
    if writes and not alone and connection.pragma("journal_mode") != "wal":
        yield f"journal_mode = {connection.pragma('journal_mode')}"


def _within(*functions: Any) -> bool:
    """Tell whether one of some functions is being called."""
    codes = [function.__code__ for function in functions]
    frame = sys._getframe()
    while frame := frame.f_back:
        if frame.f_code in codes:
            return True
    return False


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch every connection that is opened in the block, until it is closed."""
    watch = Watch()
    apsw.connection_hooks.append(watch.meet)
    try:
        yield watch
    finally:
        apsw.connection_hooks.remove(watch.meet)

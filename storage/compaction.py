"""The file of a database itself: written anew, its log cut to nothing, its indexes counted."""

from __future__ import annotations

import time

from storage.connection import BUSY_TIMEOUT_MS
from storage.database import Database
from storage.errors import LockedError

ANALYSED_ROWS = 1_000
"""Rows of an index that are looked at, at most: sqlite.org/lang_analyze.html advises 100 to 1000."""

HELD_MS = 50
"""How long the write lock is held while the last readers of the log end."""

PAUSE_S = 0.1
"""How long others have the lock before it is tried again."""


def analyse(database: Database) -> str:
    """Count what the query planner chooses indexes by."""
    with database.unwrapped() as db:
        db.script(f"PRAGMA analysis_limit = {ANALYSED_ROWS}; ANALYZE")
    return "all indexes counted"


def write_anew(database: Database) -> str:
    """Write the file without slack. On disk: the copy it makes meanwhile may be larger than the memory."""
    with database.unwrapped() as db:
        before = db.value("PRAGMA page_count") * db.value("PRAGMA page_size")
        db.script("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA temp_store = FILE")
        try:
            db.script("VACUUM")
        finally:
            db.script("PRAGMA temp_store = MEMORY")
        after = db.value("PRAGMA page_count") * db.value("PRAGMA page_size")
    return f"written anew, {max(0, before - after)} bytes given back"


def fold_log(database: Database, *, wait_ms: int) -> bool:
    """Fold the write-ahead log into the file and cut it to nothing; False where readers need it beyond `wait_ms`.

    Writers go on meanwhile: they are kept out for some milliseconds, and only when no reader needs an older state.
    """
    give_up_at = time.monotonic() + wait_ms / 1000
    while not _cut_log(database, held_ms=min(wait_ms, HELD_MS)):
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(PAUSE_S)
    return True


def _cut_log(database: Database, held_ms: int) -> bool:
    with database.unwrapped() as db:
        db.raw.set_busy_timeout(held_ms)
        try:
            [(busy, frames, folded)] = db.all("PRAGMA wal_checkpoint(PASSIVE)")  # without the write lock
            if busy or folded < frames:
                return False
            [(busy, _, _)] = db.all("PRAGMA wal_checkpoint(TRUNCATE)")
        except LockedError:
            return False
        finally:
            db.raw.set_busy_timeout(BUSY_TIMEOUT_MS)
    return not busy

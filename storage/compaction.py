"""The file of a database itself: written anew, its log cut to nothing, its indexes counted."""

from __future__ import annotations

from storage.connection import BUSY_TIMEOUT_MS
from storage.database import Database
from storage.errors import LockedError

ANALYSED_ROWS = 1_000
"""Rows of an index that are looked at, at most: sqlite.org/lang_analyze.html advises 100 to 1000."""


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

    Nobody can write while this waits.
    """
    with database.unwrapped() as db:
        db.raw.set_busy_timeout(wait_ms)
        try:
            [(busy, _, _)] = db.all("PRAGMA wal_checkpoint(TRUNCATE)")
        except LockedError:
            return False
        finally:
            db.raw.set_busy_timeout(BUSY_TIMEOUT_MS)
    return not busy

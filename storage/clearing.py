"""What erasing owes after the rows are deleted: no copy beside the database, a file written anew, an empty log.

The deletion notes in the same transaction that this is due. A full disk, a reader, or the end of the
process may keep it from being done; the note stays until all of it is, whoever does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage import compaction, scratch
from storage.connection import BUSY_TIMEOUT_MS, Connection
from storage.database import Database
from storage.errors import DatabaseError, DiskFullError, LockedError
from storage.ids import now_text
from storage.paths import own_files

TASK = "erase"
"""The row of `maintenance` that says that clearing is due, and since when."""

GRACE = timedelta(minutes=10)
"""How long clearing may be due before that is a fault: meanwhile an erasure may be at it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where erased text may be: what was done there, and how many pieces of it are left that no row explains.

    left: None where it could not be cleared, so that all of it may be there.
    """

    place: str
    done: str
    left: int | None


def note(db: Connection) -> None:
    """Note that clearing is due, in the transaction that deletes."""
    db.run(
        "INSERT INTO maintenance (task, ended_at) VALUES (:task, :now) ON CONFLICT (task) DO NOTHING",
        task=TASK,
        now=now_text(),
    )


def due(db: Connection) -> str | None:
    """Return since when (UTC text) erased text waits to be cleared, or None."""
    return db.value("SELECT ended_at FROM maintenance WHERE task = :task", task=TASK)


def overdue(db: Connection) -> str | None:
    """Return what `due` does, where nobody can be at it any more."""
    since = due(db)
    return since if since and datetime.now(UTC) - datetime.fromisoformat(since) > GRACE else None


def clear(database: Database) -> tuple[Place, ...]:
    """Remove the copies, write the database anew and cut its log to nothing; return each place, the database first.

    What others use, or a full disk does not let be done, is a place where something may be left; clearing
    stays due then. Readers of the log are waited for as long as for any lock.
    """
    beside = tuple(_clear_copies(database.path))
    places = (*_clear_database(database), *beside)
    if all(place.left is not None for place in places):
        with suppress(LockedError, DiskFullError):  # the note stays then: clearing twice does no harm
            _forget(database)
    return places


def copies(database: Path) -> list[Path]:
    """Return the copies of a database that Knowlex made beside it, with their logs, and what killed processes left.

    Each holds everything that the database held at some time. Raises DatabaseError for a folder that cannot be listed.
    """
    name = re.escape(database.name)
    pattern = re.compile(
        rf"{name}\.(?:before-v\d+|before-restore|before-repair|damaged)(?:\.\d+)?(?:-wal|-shm|-journal)?"
    )
    try:
        kept = [path for path in database.parent.iterdir() if pattern.fullmatch(path.name)]
        return [*sorted(path for path in kept if not path.is_dir()), *scratch.leftovers(database)]
    except OSError as error:
        raise DatabaseError(f"{database.parent}: cannot be listed ({error.strerror}); check its rights") from error


def _clear_copies(database: Path) -> Iterator[Place]:
    for path in copies(database):
        try:
            path.unlink(missing_ok=True)
            yield Place(str(path), "removed", 0)
        except OSError as error:
            yield Place(str(path), f"cannot be removed ({error.strerror}); remove it", None)
    scratch.sync_folder(database.parent)
    for path, pid in scratch.in_use(database):
        yield Place(str(path), f"in use by process {pid}; {_LATER}", None)


def _clear_database(database: Database) -> Iterator[Place]:
    try:
        compaction.analyse(database)  # what it keeps are samples of rows, too
        compaction.write_anew(database)
        folded = compaction.fold_log(database, wait_ms=BUSY_TIMEOUT_MS)
    except (LockedError, DiskFullError) as error:
        cause = error.message.removeprefix(f"{database.path}: ")
        yield Place(str(database.path), f"cannot be cleared: {cause}; then run knowlex maintain", None)
        return
    if folded:
        yield Place(str(database.path), "written anew, log cut to nothing", 0)
    else:
        yield Place(str(database.path), "written anew, but not yet in the file", None)
        yield Place(str(own_files(database.path)[1]), f"in use by a reader; {_LATER}", None)


_LATER = "run knowlex maintain when that has ended"


def _forget(database: Database) -> None:
    with database.write() as db:
        db.run("DELETE FROM maintenance WHERE task = :task", task=TASK)
    compaction.fold_log(database, wait_ms=0)

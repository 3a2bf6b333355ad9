"""What erasing owes after the rows are deleted: no copy beside the database, a file written anew, an empty log.

The deletion notes in the same transaction that this is due; see erasures. A full disk, a reader, or the end of
the process may keep it from being done; the note stays until all of it is, whoever does it.

A copy made after the deletion may hold the only trace of what was done since, so that it is never removed. It
holds the note, and nothing of what was erased: what the deletion freed was overwritten. Where a file was
written after the deletion and holds no note, nobody can tell; it is named, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from storage import compaction, erasures, scratch, snapshot, uploads
from storage.connection import BUSY_TIMEOUT_MS, Connection, connect
from storage.database import Database
from storage.errors import DatabaseError, KnowlexError
from storage.paths import own_files

GRACE = timedelta(minutes=10)
"""How long clearing may be due before that is a fault where none has ended unfinished: an erasure may be at it."""

REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where erased text may be: what was done there, and how many pieces of it are left that no row explains.

    left: None where it could not be cleared, so that all of it may be there.
    """

    place: str
    done: str
    left: int | None


def overdue(db: Connection) -> str | None:
    """Return what `erasures.due` does, where nobody can be at it any more."""
    if left := erasures.left(db):
        return erasures.since(left[0])
    since = erasures.due(db)
    return since if since and datetime.now(UTC) - datetime.fromisoformat(since) > GRACE else None


def clear(database: Database, due: list[str]) -> tuple[Place, ...]:
    """Remove the copies, write the database anew and cut its log to nothing; return each place, the database first.

    due: the notes of what was deleted; see erasures. What others use, or a fault does not let be done, is a place
    where something may be left; clearing stays due then. Readers of the log are waited for as long as for any lock.
    """
    beside = tuple(_told(database.path.parent, _clear_copies(database.path, due)))
    received = tuple(_told(uploads.folder(database.path), _clear_uploads(database, due)))
    places = (*_told(database.path, _clear_database(database)), *beside, *received)
    cleared = all(place.left is not None for place in places)
    with suppress(KnowlexError):  # the notes stay then: clearing twice does no harm
        if cleared:
            _forget(database, due)
        else:
            _note_left(database, due)
    return places


def copies(database: Path) -> list[Path]:
    """Return the copies of a database that Knowlex made beside it, with their logs, and what killed processes left.

    Each holds everything that the database held at some time. Raises DatabaseError for a folder that cannot be listed.
    """
    try:
        return [*snapshot.kept(database), *scratch.leftovers(database)]
    except OSError as error:
        raise DatabaseError(f"{database.parent}: cannot be listed ({error.strerror}); check its rights") from error


def _told(place: Path, places: Iterator[Place]) -> Iterator[Place]:
    """Yield the places; what ends them early is told like them, as an error alone would hide what was deleted."""
    try:
        yield from places
    except (KnowlexError, OSError) as error:
        cause = error.message.removeprefix(f"{place}: ") if isinstance(error, KnowlexError) else error.strerror
        yield Place(str(place), f"cannot be cleared: {cause}; then run knowlex maintain", None)


def _clear_copies(database: Path, due: list[str]) -> Iterator[Place]:
    unfinished = list(scratch.in_use(database))  # first: what is finished meanwhile is found as a copy
    left = set(scratch.leftovers(database))
    for path in copies(database):
        yield _removed(path) if path in left else _clear_copy(path, due)
    scratch.sync_folder(database.parent)
    for path, pid in unfinished:
        yield Place(str(path), f"in use by process {pid}; {_LATER}", None)


def _clear_copy(path: Path, due: list[str]) -> Place:
    if _holds(path, due):
        return Place(str(path), "made after the deletion, and stays", 0)
    if _written_after(path, max(map(erasures.since, due))):
        return Place(str(path), "written after the deletion, but may hold the text; remove it if you can", None)
    return _removed(path)


def _clear_uploads(database: Database, due: list[str]) -> Iterator[Place]:
    """Remove the uploads that no row has any more, here or in a copy that stays: of what was erased, or left before.

    What only copies may have that are not known to be made after the deletion may be of what was erased.
    """
    nobodys = uploads.orphans(database)
    yield from map(_removed, nobodys)
    doubtful = set(uploads.orphans(database, partial(_kept_since, due=due))) - set(nobodys)
    if doubtful:
        told = f"{len(doubtful)} uploads stay, as copies beside the database may have their rows; {_WITHOUT_COPIES}"
        yield Place(str(uploads.folder(database.path)), told, None)


_WITHOUT_COPIES = "remove those if you can, then run knowlex maintain"


def _kept_since(copy: Path, due: list[str]) -> set[str]:
    """Return the uploads that a copy made after the deletion has rows of: none of them is of what was erased."""
    return uploads.named_in(copy) or set() if _holds(copy, due) else set()


def _removed(path: Path) -> Place:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return Place(str(path), f"cannot be removed ({error.strerror}); remove it", None)
    return Place(str(path), REMOVED, 0)


def _holds(copy: Path, due: list[str]) -> bool:
    """Whether a copy holds these notes: what they were written for was deleted before it was made."""
    with suppress(KnowlexError):  # a log, damaged, or older than the notes
        connection = connect(copy, readonly=True, immutable=True)
        try:
            return set(due) <= set(erasures.notes(connection))
        finally:
            connection.close()
    return False


def _written_after(file: Path, time: str) -> bool:
    """Compare in milliseconds, as the note is written in these: what was there before it is no newer."""
    with suppress(FileNotFoundError):
        return file.stat().st_mtime_ns // 1_000_000 > datetime.fromisoformat(time).timestamp() * 1000
    return False


def _clear_database(database: Database) -> Iterator[Place]:
    try:
        compaction.analyse(database)  # what it keeps may be samples of rows: another program's ANALYZE takes them
        compaction.write_anew(database)
    except KnowlexError:
        with suppress(KnowlexError):  # what the deletion overwrote is in the log, and the text still in the file
            compaction.fold_log(database, wait_ms=0)
        raise
    if compaction.fold_log(database, wait_ms=BUSY_TIMEOUT_MS):
        yield Place(str(database.path), "written anew, log cut to nothing", 0)
    else:
        yield Place(str(database.path), "written anew, but not yet in the file", None)
        yield Place(str(own_files(database.path)[1]), f"in use by a reader; {_LATER}", None)


_LATER = "run knowlex maintain when that has ended"


def _note_left(database: Database, due: list[str]) -> None:
    with database.write() as db:
        erasures.note_left(db, due)


def _forget(database: Database, due: list[str]) -> None:
    with database.write() as db:
        erasures.forget(db, due)
    compaction.fold_log(database, wait_ms=0)

"""Mend what `verify` finds, in one transaction, after a copy of the database as it was.

Everything derived is made again from what it was derived of; what people wrote is kept. What no mend
can be sure of is left as it is, with what to do about it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from storage import files, lost_rows, mends, migrations, uploads
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import DatabaseError, DiskFullError, LockedError, NewerSchemaError, ReadOnlyError, UsageError
from storage.invariants import TEXT, offenders
from storage.lost_rows import Named
from storage.mends import Mend
from storage.paths import own_files
from storage.salvage import Salvaged, salvage
from storage.verify import Problem, unreadable, verify

ROUNDS = 5
"""How often the mends of files are repeated at most; two rounds are enough for what was ever seen."""

RESTORE = "restore a backup: knowlex restore FILE"
EXPORT = f"{RESTORE}; or without one, save what can be read first: knowlex conversation export --output FILE"
WORK = "run knowlex work --once, then knowlex repair again"
COPIES = "where anything was erased lately, remove the copies beside the database (.before-*) when you are sure"
Place = tuple[int, int]
"""Device and inode of a file."""

REMEDIES = {
    "damaged": EXPORT,
    "encoding": f"where another row has this text already, name that anew and run knowlex repair again; else {RESTORE}",
    "unknown_object": "drop it with the program that made it, or ask whoever did",
    "missing_index": "delete the rows that the index forbids to be there twice, then run knowlex repair again",
    "no_live_model": "run knowlex work --once with the model configured: it makes the vectors anew",
    "missing_vector": WORK,
    "chunk_text": WORK,
    "file_gone": "put it back, then run knowlex work --once; or " + RESTORE,
    "file_changed": "knowlex work --once makes the text it has now searchable in place of the old",
    "constraint": "give the row a value that its table takes, or " + RESTORE,
}
"""What to do about a kind of problem that is left; for the others, restore a backup."""


@dataclass(frozen=True, slots=True)
class Mended:
    """Problems of one kind that were mended: what was done, with an example, and how often."""

    kind: str
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class Left:
    """A problem that is left, and what to do about it."""

    kind: str
    detail: str
    count: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was mended and what is left; `copy`: the database as it was before, None where nothing was written."""

    mended: list[Mended]
    left: list[Left]
    copy: Path | None


@dataclass(frozen=True, slots=True)
class Queued:
    """A file in the queue: its path, and the SHA-256 (hex) of the bytes it was indexed by."""

    path: bytes
    content_hash: str | None


_CHECK_AGAIN = "mend its cause, then run knowlex verify --deep"


def repair(database: Database) -> Repaired:
    """Mend what `verify(deep=True)` finds, in one transaction; return what was done and what is left.

    Before, the database is copied beside itself as `NAME.before-repair` (0600). Nothing is written where all is well,
    or where pages of rows are damaged, or older than what else tells of them (`storage.lost_rows`); where only those of
    what is derived are damaged (`storage.salvage`), the database is written anew from its rows, and whoever has it open
    has to start anew (ReplacedError). Files that have to be read again are queued: `work` or `ingest` finishes them.
    Others cannot write meanwhile.
    Raises LockedError, ReadOnlyError, DiskFullError, NewerSchemaError, DatabaseError; nothing was changed then.
    """
    if database.readonly:
        raise ReadOnlyError(f"{database.path}: opened for reading only; repair it where it is open for writing")
    if database.batching:
        raise UsageError(f"{database.path}: a repair is a transaction of its own; end the batch first")
    found = verify(database, deep=True)
    if any(problem.kind == "damaged" for problem in found) and (anew := _written_anew(database)):
        return anew
    return _repaired(database, found)


def _written_anew(database: Database) -> Repaired | None:
    """Write the database anew and mend the rest then; None where that cannot be, and nothing was written."""
    decoded: list[Mended] = []
    queued: list[Queued] = []

    def decode(db: Connection) -> None:
        waited = _queue(db)
        decoded.extend(_run(db, [mends.ENCODING], {mends.ENCODING.kind}))
        queued.extend(_queued_since(db, waited))

    salvaged = salvage(database, decode)
    if salvaged is None:
        return None
    with Database.open(database.path) as fresh:
        then = _repaired(fresh, verify(fresh, deep=True))
    anew = Mended("damaged", "only what is derived was hit, and all was written anew from the rows", 1)
    left = [*then.left, *_elsewise(queued, database.path), *_unknown(salvaged)]
    return Repaired(_summed([anew, *_alone(salvaged.alone), *decoded, *then.mended]), left, salvaged.copy)


def _alone(named: Iterable[Named]) -> Iterator[Mended]:
    """Tell what an index alone told, as nothing tells it any more once that is made anew."""
    for each in named:
        says = f"{each.tree} alone told of rows what no other page knows, and was not believed"
        yield Mended("index", f"{says}, e.g. {', '.join(each.names)}", each.count)


def _unknown(salvaged: Salvaged) -> Iterator[Left]:
    """Name what nobody can tell any more. The database itself was written anew, without what was erased."""
    if "maintenance" in salvaged.emptied:
        yield Left(
            "erasure", "whether copies of the database hold text that was erased is not known any more", 1, COPIES
        )


def _repaired(database: Database, found: list[Problem]) -> Repaired:
    """Mend what was found in the rows; nothing is written where pages are damaged."""
    kinds = {problem.kind for problem in found}
    if not found or kinds & {"damaged", "missing_table"}:
        return Repaired([], [_left(problem) for problem in found], None)
    alone = _told_alone(database) if "index" in kinds else []
    connection = connect(database.path)
    try:
        copy = migrations.keep_copy(connection, "before-repair")
        mended, queued = _mend(connection, kinds)
    finally:
        connection.close()
    left = [*_left_of(database), *_elsewise(queued, database.path)]
    if any(each.kind == "index" for each in mended):
        mended += _alone(alone)
    return Repaired([*mended, *_along(found, mended, left)], left, copy)


def _told_alone(database: Database) -> list[Named]:
    with database.read() as db:
        return lost_rows.compare(db).alone


def _left_of(database: Database) -> list[Left]:
    """Return what is still wrong after the mends; what is mended is committed, whatever befalls the check."""
    try:
        return [_left(problem) for problem in _verify_anew(database)]
    except DatabaseError as error:
        return [Left("unchecked", f"what is left could not be looked for: {error.message}", 1, _CHECK_AGAIN)]


def _verify_anew(database: Database) -> list[Problem]:
    """Check what a process finds that opens the database now: a mend may have voided what this one holds open."""
    with Database.open(database.path) as fresh:
        return verify(fresh, deep=True)


def _along(found: Iterable[Problem], mended: Iterable[Mended], left: Iterable[Left]) -> list[Mended]:
    """Return what is gone by the mending of something else."""
    named = {each.kind for each in (*mended, *left)}
    return [Mended(p.kind, f"mended with the others: {p.detail}", p.count) for p in found if p.kind not in named]


def cannot_open(error: DatabaseError) -> Repaired | None:
    """Return what is left of a database that cannot be opened; None where that is no fault of the file's."""
    problem = unreadable(error)
    return None if problem is None else Repaired([], [_left(problem)], None)


def _mend(db: Connection, found: set[str]) -> tuple[list[Mended], list[Queued]]:
    """Mend all in one transaction; return what was done, and the files it put into the queue."""
    with migrations.immediate(db):
        if migrations.version(db) != migrations.LATEST:
            raise NewerSchemaError(f"{db.path}: another version of Knowlex changed the schema; start anew")
        waited = _queue(db)
        if "encoding" in found:
            # What could not be read kept every check of texts from going on behind it.
            found = found | {mend.kind for mend in mends.THEN if mend.costly}
        mended = _run(db, mends.FIRST, found) + _files(db, found)
        mended += _run(db, mends.THEN, found) + _files(db, found)
        mended += _rebuild(db, found, {each.kind for each in mended})
        mended += [Mended(kind, "the change log begins anew", 1) for kind in sorted(found & mends.LOG_KINDS)]
        mends.tell_others(db)
        queued = _queued_since(db, waited)
    return _summed(mended), queued


def _files(db: Connection, found: set[str]) -> list[Mended]:
    """Mend what is wrong with files, until nothing is."""
    mended: list[Mended] = []
    for _ in range(ROUNDS):
        more = _run(db, mends.FILES, found)
        mended += more
        if not more:
            break
    return mended


def _run(db: Connection, steps: Iterable[Mend], found: set[str]) -> list[Mended]:
    mended: list[Mended] = []
    for mend in steps:
        names = [] if mend.costly and mend.kind not in found else _attempt(db, mend)
        if names:
            mended.append(Mended(mend.kind, f"{mend.does}, e.g. {names[0]}", len(names)))
    return mended


def _attempt(db: Connection, mend: Mend) -> list[str]:
    """Run a mend; one that cannot do its work is undone alone, and the problem is found to be left."""
    try:
        with migrations.savepoint(db):
            return mend.run(db)
    except (LockedError, ReadOnlyError, DiskFullError):
        raise
    except (DatabaseError, ValueError, TypeError, LookupError):
        # Some errors of the engine undo the whole transaction: what came next would be one of its own.
        if not db.raw.in_transaction:
            raise
        return []


def _rebuild(db: Connection, found: set[str], mended: set[str]) -> list[Mended]:
    """Make the full text anew where it was found wrong, or where texts or their projects have changed under it."""
    kinds = found & mends.TEXT_KINDS
    if not kinds and not mended & mends.TEXT_CHANGING and not any(offenders(db, rule.kind) for rule in TEXT):
        return []
    passages = mends.rebuild_texts(db)
    return [Mended(kind, "the full text was made anew", passages) for kind in sorted(kinds)]


def _queue(db: Connection) -> dict[int, Queued]:
    rows = db.all(
        "SELECT pk, path_bytes, content_hash FROM project_files WHERE status = 'pending' AND waiting_for IS NULL"
    )
    return {pk: Queued(bytes(path), content_hash) for pk, path, content_hash in rows}


def _queued_since(db: Connection, waited: Container[int]) -> list[Queued]:
    return [file for pk, file in _queue(db).items() if pk not in waited]


def _summed(mended: Iterable[Mended]) -> list[Mended]:
    """Put together what one mend did in several rounds."""
    found: dict[tuple[str, str], Mended] = {}
    for each in mended:
        key = (each.kind, each.detail.partition(", e.g. ")[0])
        first = found.get(key)
        found[key] = each if first is None else Mended(each.kind, first.detail, first.count + each.count)
    return list(found.values())


def _left(problem: Problem) -> Left:
    detail, parted, remedy = problem.detail.rpartition("; ")
    if problem.kind == "damaged" and parted:  # what an error says has its own
        return Left(problem.kind, detail, problem.count, remedy)
    return Left(problem.kind, problem.detail, problem.count, REMEDIES.get(problem.kind, RESTORE))


def _elsewise(queued: Iterable[Queued], database: Path) -> Iterator[Left]:
    """Name the files to be read again that are gone, or have other bytes than those they were indexed by."""
    own = _own(database)
    states = [(file, _state(file, uploads.on_disk(database, file.path), own)) for file in queued]
    for kind, says in _STATES.items():
        paths = [files.shown(file.path) for file, state in states if state == kind]
        if paths:
            yield Left(kind, f"{says}, e.g. {paths[0]}", len(paths), REMEDIES[kind])


_STATES = {
    "file_gone": "a file to be read again is gone from the disk, or no file that can be read",
    "file_changed": "a file to be read again has other bytes than those it was indexed by",
}

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""Never waits for who writes to a pipe, and follows no link: paths are real. Windows has none of these."""


def _state(file: Queued, path: bytes, own: Collection[Place]) -> str | None:
    try:
        digest = _digest(path, own)
    except OSError:
        return "file_gone"
    return None if file.content_hash in (None, digest) else "file_changed"


def _digest(path: bytes, own: Collection[Place]) -> str:
    """Return the SHA-256 (hex) of a regular file; raises OSError for anything else, and the database's own files."""
    _require_regular(os.lstat(path), own)
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | _NO_WAIT), "rb") as stream:
        _require_regular(os.fstat(stream.fileno()), own)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_regular(found: os.stat_result, own: Collection[Place]) -> None:
    if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) in own:
        raise OSError(errno.EINVAL, "no regular file of its own")


def _own(database: Path) -> set[Place]:
    """Return where the database's own files lie: to open and close one would drop the engine's locks."""
    stats = [os.stat(path) for path in own_files(database) if path.exists()]
    return {(each.st_dev, each.st_ino) for each in stats}

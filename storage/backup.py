"""Backups: made while everything goes on, proved before they count, put back under whoever reads.

A backup is written under a scratch name, read through, synced and only then renamed: a file with the
name of a backup is a whole one. A restore writes through the backup API into the live file, in one
transaction: renaming over it would leave the log of a killed writer, which brings the old rows back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage import erasures, incarnation, indexed_texts, migrations, queue, scratch, tokens, uploads
from storage.connection import Connection, connect, translated, use_log
from storage.database import Database, create
from storage.errors import (
    CorruptDatabaseError,
    DatabaseError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
)
from storage.filesystem import require_local
from storage.output import require_apart
from storage.paths import is_there, own_files
from storage.snapshot import blocks, copy, is_unused_copy, keep_bytes, set_aside

STRIDE = 1_000_000_000
"""How far a restore moves every counter on, beyond what any process can have seen or reach meanwhile."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup: where it lies, its size, the schema it has and how many of what are in it."""

    path: Path
    bytes: int
    schema: int
    files: int
    chunks: int
    projects: int
    memories: int
    conversations: int
    messages: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore put in place. kept: a copy of what was there; None where that was empty.

    uploads_without_bytes: they are found, and cannot be read anew until the folder of uploads is copied here, too.
    """

    path: Path
    schema: int
    files: int
    chunks: int
    projects: int
    memories: int
    conversations: int
    messages: int
    kept: Path | None
    uploads_without_bytes: int = 0


Held = tuple[int, int, int, int, int, int, int]
"""The schema of a backup, and how many files, chunks, projects, memories, conversations and messages it has."""


def make(database: Database, target: Path) -> Backup:
    """Back the database up to `target` (0600), while others read and write; an older backup there is replaced.

    The copy is of one moment, and is read through before it gets its name.
    Raises UsageError for a target that is something else than a backup of it, CorruptDatabaseError when the
    database is damaged (an older backup stays then), DiskFullError, DatabaseError.
    """
    target = target.absolute()
    _require_target(database, target)
    scratch.sweep(database.path, target.parent)
    with scratch.beside(target, database.path) as path:
        with database.read() as db:
            copy(db, path, named=target)
        found = _examined(path, target, database.path)
        scratch.put(path, target)
    return Backup(target, target.stat().st_size, *found)


def restore(path: Path, source: Path) -> Restored:
    """Put a backup in the place of the database at `path`, in one transaction; readers go on with what they saw.

    What was there is kept beside it as `NAME.before-restore`, to the last commit; what can no longer be
    read, as it is, as `NAME.damaged`. An older schema is brought up. Files that were being processed wait
    in the queue. Access tokens come back as the backup has them, but for those revoked since. A process that has
    the old content open is told so at its next call (ReplacedError).
    Raises NotFoundError, NotADatabaseError, CorruptDatabaseError, NewerSchemaError for what is no whole
    backup (the database is untouched then), NotADatabaseError also for a file at `path` that does not begin as a
    database does, UsageError, LockedError (also where the database cannot be opened any more and a process has it
    open), DiskFullError, DatabaseError.
    """
    path, source = Path(os.path.realpath(path)), Path(os.path.realpath(source))  # logs lie beside the files themselves
    require_local(path)
    _require_replaceable(path)
    _require_source(path, source)
    _make_folder(path)
    with scratch.beside(path, path) as staged:
        _stage(source, staged, path)
        found = _held(staged, path)
        bare = _uploads_without_bytes(staged, path)
        create(path)
        kept = _put(staged, path)
    return Restored(path, *found, kept, bare)


_HEADER = b"SQLite format 3\0"
"""What every database begins with: sqlite.org/fileformat.html, 1.3."""


def _require_replaceable(path: Path) -> None:
    """Raise NotADatabaseError for a file that is not empty and does not begin as a database does: it may be anything.

    A name that was mistyped must cost nobody a file.
    """
    if is_there(path) and path.is_dir():
        raise DatabaseError(f"{path}: is a folder; name a file with --db")
    start = next(blocks(path), b"")
    if start and not start.startswith(_HEADER):
        raise NotADatabaseError(
            f"{path}: is no database, or its header is ruined; name another with --db, or move it away first (mv), with"
            " the files beside it that begin with its name, then restore again"
        )


def _make_folder(path: Path) -> None:
    """Make the folder alone: until the backup has been read through, there is to be no database in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReadOnlyError(f"{path}: its folder cannot be made ({error.strerror}); name another with --db") from error


def _put(staged: Path, path: Path) -> Path | None:
    """Put the staged database in the place of the one at `path`; return the copy of what was there."""
    live, aside = _open_live(path)
    try:
        kept = _exchange(live, staged, aside)
        with suppress(DatabaseError):  # all is in the log, and whoever comes next folds it or meets the fault
            live.all("PRAGMA wal_checkpoint(PASSIVE)")  # readers of the old rows are not waited for
    finally:
        live.close()
    return kept


def examine(path: Path, *, named: Path | None = None) -> Held:
    """Return what a backup holds that has been read through and is whole.

    named: what errors name; by default `path`.
    Raises NotFoundError, NotADatabaseError, CorruptDatabaseError, NewerSchemaError.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such backup; give a file that knowlex backup made")
    connection = connect(path, readonly=True, named=named)
    try:
        _require_backup_of_ours(connection)
        _require_whole(connection, connection.path)
    finally:
        connection.close()
    return _held(path, connection.path)


def _require_backup_of_ours(connection: Connection) -> None:
    try:
        migrations.require_ours(connection)
    except NotADatabaseError as error:
        raise NotADatabaseError(
            f"{connection.path}: a database of another program; give a file that knowlex backup made"
        ) from error
    if not connection.value("PRAGMA application_id"):
        raise NotADatabaseError(f"{connection.path}: holds no Knowlex database; give a file that knowlex backup made")


def _require_whole(connection: Connection, name: Path) -> None:
    """Read every page; raise CorruptDatabaseError where one is amiss. Rows that have drifted are left to verify."""
    try:
        found = connection.value("PRAGMA integrity_check(1)")
    except CorruptDatabaseError as error:
        raise _damaged(name) from error
    if found != "ok":
        raise CorruptDatabaseError(f"{name}: damaged ({found.replace(os.linesep, ' ')}); give another backup")


def _examined(path: Path, target: Path, database: Path) -> Held:
    """Return what `examine` does; of damage it is the database that is to blame."""
    try:
        return examine(path, named=target)
    except CorruptDatabaseError as error:
        raise CorruptDatabaseError(
            f"{database}: damaged, so that no backup was made; run knowlex verify --deep to see what is, then"
            " knowlex repair, or restore an older backup (knowlex restore FILE)"
        ) from error


def _held(path: Path, named: Path) -> Held:
    connection = connect(path, readonly=True, named=named)
    try:
        schema = migrations.version(connection)
        if schema == 0:
            return 0, 0, 0, 0, 0, 0, 0
        files, chunks, projects, memories, conversations, messages = connection.all(
            "SELECT (SELECT count(*) FROM project_files), (SELECT count(*) FROM file_chunks),"
            " (SELECT count(*) FROM projects), (SELECT count(*) FROM project_memories),"
            " (SELECT count(*) FROM conversations), (SELECT count(*) FROM messages)"
        )[0]
        return schema, files, chunks, projects, memories, conversations, messages
    finally:
        connection.close()


def _uploads_without_bytes(staged: Path, path: Path) -> int:
    connection = connect(staged, readonly=True, named=path)
    try:
        return uploads.without_bytes(connection)
    except OSError as error:
        raise DatabaseError(
            f"{error.filename}: cannot be listed ({error.strerror}); mend or move it, then restore again"
        ) from error
    finally:
        connection.close()


def _require_target(database: Database, target: Path) -> None:
    require_apart(target, database.path)
    if not target.parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist; make it first")
    there = is_there(target) or target.is_symlink()
    if beside := _companions(target):
        raise UsageError(f"{target}: is a database in use, or was one ({beside[0].name} is there); give another file")
    if not there:
        return
    if not target.is_file() or target.is_symlink():
        raise UsageError(f"{target}: exists and is no backup; give another file")
    with database.read() as db:
        _require_older_backup(target, _identity(db))


def _require_older_backup(target: Path, identity: str | None) -> None:
    """Raise UsageError unless the file is empty or a backup of the same database: nothing else is overwritten."""
    if not target.stat().st_size:
        return
    try:
        connection = connect(target, readonly=True, immutable=True)
    except (NotADatabaseError, CorruptDatabaseError) as error:
        raise UsageError(f"{target}: exists and is no Knowlex backup; give another file") from error
    try:
        migrations.require_ours(connection)
        if _identity(connection) != identity:
            raise UsageError(f"{target}: is, or is a backup, of another database; give another file")
        if not is_unused_copy(target):
            raise UsageError(f"{target}: was used as a database since it was made; remove it, or give another file")
    except NotADatabaseError as error:
        raise UsageError(f"{target}: exists and is a database of another program; give another file") from error
    finally:
        connection.close()


def _identity(db: Connection) -> str | None:
    """Return what a database has in common with its copies alone: when its first schema was made."""
    if not migrations.version(db):
        return None
    return db.value("SELECT applied_at FROM schema_migrations WHERE version = 1")


def projects_of_another(path: Path, source: Path) -> list[str] | None:
    """Return the projects in a backup of another database than the one at `path`, by name.

    None: it is of this one, or one of the two is not there or cannot be read.
    """
    try:
        if not path.is_file() or not path.stat().st_size or not source.is_file():
            return None
        live, backup = connect(path, readonly=True), _open_source(source)
        try:
            if _identity(live) == _identity(backup):
                return None
            return [name for (name,) in backup.all("SELECT name FROM projects ORDER BY pk")]
        finally:
            live.close()
            backup.close()
    except (DatabaseError, OSError):
        return None  # the restore itself says what is wrong


def _require_source(path: Path, source: Path) -> None:
    if not source.is_file():
        raise NotFoundError(f"{source}: no such backup; give a file that knowlex backup made")
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"{source}: is the database itself; give a backup of it")


def _stage(source: Path, staged: Path, path: Path) -> None:
    """Copy a backup beside the database, prove that it is whole and bring its schema up."""
    origin = _open_source(source)
    try:
        _require_backup_of_ours(origin)
        copy(origin, staged, named=path)
    except CorruptDatabaseError as error:
        raise _damaged(source) from error
    finally:
        origin.close()
    connection = connect(staged, create=False, named=path)
    try:
        _require_whole(connection, source)
        migrations.migrate(connection, back_up=False)
        with migrations.immediate(connection):
            for text_source in indexed_texts.outdated(connection):
                indexed_texts.rebuild(connection, text_source)
            queue.end_leases(connection)
            incarnation.renew(connection)
    finally:
        connection.close()


def _open_source(source: Path) -> Connection:
    try:
        return connect(source, readonly=True, immutable=not _companions(source))
    except NotADatabaseError as error:
        raise NotADatabaseError(f"{source}: no Knowlex backup; give a file that knowlex backup made") from error
    except CorruptDatabaseError as error:
        raise _damaged(source) from error


def _companions(file: Path) -> list[Path]:
    """Return what the engine has made beside a file. Where that is nothing, a look at it need not make any, either.

    It would make a log for one that was once opened as a database, leave it there, and fail on a read-only disk.
    """
    return [path for path in own_files(file)[1:] if path.exists()]


def _damaged(source: Path) -> CorruptDatabaseError:
    return CorruptDatabaseError(f"{source}: damaged or cut off; give another backup")


def _open_live(path: Path) -> tuple[Connection, Path | None]:
    """Open what is to be replaced; what cannot be opened any more is kept as it is, and emptied first.

    Returns the connection and the copy. Raises NotADatabaseError for a database of another program,
    NewerSchemaError, LockedError.
    """
    kept = set_aside(path) if _is_ruined(path) else None
    connection = connect(path)
    try:
        migrations.require_ours(connection)
        use_log(connection)
    except BaseException:
        connection.close()
        raise
    return connection, kept


def _is_ruined(path: Path) -> bool:
    """Tell whether the engine knows no database in the file, so that none can be written over it in a transaction."""
    if _lost_all_but_the_log(path):
        return True
    try:
        connection = connect(path)
        try:
            connection.value("SELECT count(*) FROM sqlite_schema")
        finally:
            connection.close()
    except (NotADatabaseError, CorruptDatabaseError):
        return True
    return False


def _lost_all_but_the_log(path: Path) -> bool:
    """Tell whether a file is empty and its log is not, which the engine would delete."""
    log = own_files(path)[1]
    return not path.stat().st_size and log.exists() and bool(log.stat().st_size)


def write_anew(path: Path, fill: Callable[[Connection], None]) -> Path | None:
    """Put what `fill` makes of an empty database of this schema in the place of the one at `path`; return the copy.

    Nobody can write while `fill` reads what is to be replaced. Raises what `restore` does for the database.
    """
    with scratch.beside(path, path) as staged:
        connection = connect(staged, create=False, named=path)
        try:
            connection.script("PRAGMA auto_vacuum = INCREMENTAL")
            migrations.migrate(connection, back_up=False)
        finally:
            connection.close()
        live = connect(path)
        try:
            return _exchange(live, staged, None, fill=fill, suffix="before-repair")
        finally:
            live.close()


def _exchange(
    live: Connection,
    staged: Path,
    aside: Path | None,
    *,
    fill: Callable[[Connection], None] = lambda staging: None,
    suffix: str = "before-restore",
) -> Path | None:
    """Keep what is in the live database and write the staged one over it, in one transaction; return the copy.

    aside: the copy of what could not be opened, and was emptied. fill: puts more into the staged one before.
    The write lock is taken first: whatever was committed before it is in the copy, and nobody can
    commit what would be in neither.
    """
    staging, kept = connect(staged, create=False, named=live.path), None
    try:
        _fit_pages(staging, live.value("PRAGMA page_size"))
        with translated(live.path, live.raw), live.raw.backup("main", staging.raw, "main") as exchange:
            exchange.step(0)
            fill(staging)
            kept, seen = _keep(live.path, suffix)
            with migrations.immediate(staging):
                _advance(staging, seen.counters)
                _carry_over(staging, seen.erasures)
                tokens.revoke_all(staging, seen.revoked)
            exchange.step(-1)
    except DatabaseError as error:
        told = f"; what was there is kept in {aside}" if aside else ""
        raise type(error)(f"{error.message}; nothing was restored{told}") from error
    finally:
        staging.close()
    return kept or aside


def _fit_pages(staging: Connection, size: int) -> None:
    """Give the staged database pages of the live one's size, which a file with a log cannot change."""
    if staging.value("PRAGMA page_size") != size:
        staging.script(f"PRAGMA temp_store = FILE; PRAGMA page_size = {size}; VACUUM")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database that is replaced passes on: its counters, its notes of erasures, and the tokens it revoked."""

    counters: dict[str, int]
    erasures: str | None
    revoked: list[str]


def _keep(path: Path, suffix: str) -> tuple[Path | None, _Seen]:
    """Keep a copy of what is about to be replaced; return it and what the database passes on.

    An empty database is not worth a copy. The bytes of one that cannot be opened have been kept already.
    """
    reader = connect(path, readonly=True)
    try:
        if not reader.value("SELECT count(*) FROM sqlite_schema"):
            return None, _Seen({}, None, [])
        return migrations.keep_copy(reader, suffix), _seen(reader)
    except CorruptDatabaseError:
        return keep_bytes(path), _seen(reader)
    finally:
        reader.close()


def _seen(db: Connection) -> _Seen:
    """Return what can still be read of it."""
    counters, owed, revoked = dict[str, int](), None, list[str]()
    with suppress(CorruptDatabaseError):
        owed = _erasures(db)
    with suppress(CorruptDatabaseError):
        counters = _counters(db)
    with suppress(CorruptDatabaseError):
        revoked = tokens.revoked(db)
    return _Seen(counters, owed, revoked)


def _erasures(db: Connection) -> str | None:
    """Return the row that notes which erasures wait to be cleared; None where none does."""
    if not erasures.due(db):
        return None
    return db.value("SELECT ended_at FROM maintenance WHERE task = :task", task=erasures.TASK)


def _carry_over(db: Connection, owed: str | None) -> None:
    """Note what waits to be cleared in the files here; what waited where the backup was made does not."""
    db.run("DELETE FROM maintenance WHERE task = :task", task=erasures.TASK)
    if owed:
        db.run("INSERT INTO maintenance (task, ended_at) VALUES (:task, :owed)", task=erasures.TASK, owed=owed)


def _counters(db: Connection) -> dict[str, int]:
    """Return how far each sequence, and generations and versions together, have come; nothing where none is kept."""
    if not migrations.version(db):
        return {}
    found: dict[str, int] = dict(db.all("SELECT name, seq FROM sqlite_sequence"))
    found["generations"] = db.value("SELECT coalesce(max(value), 0) FROM generations")
    found["text_stats"] = db.value("SELECT coalesce(max(version), 0) FROM text_stats")
    return found


def _advance(db: Connection, seen: dict[str, int]) -> None:
    """Move every counter beyond what a running process can have seen of the database that is replaced.

    Otherwise its copies of vectors and postings would look fresh, and a primary key could be given twice.
    """
    own = _counters(db)
    beyond = max([0, *seen.values(), *own.values()]) + STRIDE
    db.run("DELETE FROM change_log")
    db.run("UPDATE sqlite_sequence SET seq = :beyond", beyond=beyond)
    db.run(
        "INSERT INTO sqlite_sequence (name, seq) SELECT s.name, :beyond FROM sqlite_schema s WHERE s.type = 'table'"
        " AND s.sql LIKE '%AUTOINCREMENT%' AND s.name NOT IN (SELECT name FROM sqlite_sequence)",
        beyond=beyond,
    )
    db.run("UPDATE generations SET value = :beyond", beyond=beyond)
    db.run(
        "INSERT INTO generations (project, value) SELECT pk, :beyond FROM projects"
        " WHERE pk NOT IN (SELECT project FROM generations)",
        beyond=beyond,
    )
    db.run("UPDATE text_stats SET version = :beyond", beyond=beyond)

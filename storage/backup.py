"""Backups: made while everything goes on, proved before they count, put back under whoever reads.

A backup is written under a scratch name, read through, synced and only then renamed: a file with the
name of a backup is a whole one. A restore writes through the backup API into the live file, in one
transaction: renaming over it would leave the log of a killed writer, which brings the old rows back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import apsw

from storage import incarnation, indexed_texts, migrations, queue, scratch
from storage.connection import Connection, connect, translated, use_log
from storage.database import Database, create
from storage.errors import (
    CorruptDatabaseError,
    DatabaseError,
    NotADatabaseError,
    NotFoundError,
    UsageError,
)
from storage.filesystem import require_local
from storage.paths import own_files
from storage.snapshot import copy, keep_bytes

STRIDE = 1_000_000_000
"""How far a restore moves every counter on, beyond what any process can have seen or reach meanwhile."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup: where it lies, its size, the schema it has and how many files and chunks are in it."""

    path: Path
    bytes: int
    schema: int
    files: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore put in place. kept: a copy of what was there; None where that was empty."""

    path: Path
    schema: int
    files: int
    chunks: int
    kept: Path | None


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
            copy(db, path)
        found = _examined(path, database.path)
        os.replace(path, target)
        scratch.sync_folder(target.parent)
    return Backup(target, target.stat().st_size, *found)


def restore(path: Path, source: Path) -> Restored:
    """Put a backup in the place of the database at `path`, in one transaction; readers go on with what they saw.

    What was there is kept beside it as `NAME.before-restore`, to the last commit; what can no longer be
    read, as it is, as `NAME.damaged`. An older schema is brought up. Files that were being processed wait
    in the queue. A process that has the old content open is told so at its next call (ReplacedError).
    Raises NotFoundError, NotADatabaseError, CorruptDatabaseError, NewerSchemaError for what is no whole
    backup (the database is untouched then), UsageError, LockedError, DiskFullError, DatabaseError.
    """
    path, source = path.absolute(), source.absolute()
    require_local(path)
    _require_source(path, source)
    create(path)
    with scratch.beside(path, path) as staged:
        _stage(source, staged)
        live, kept = _open_live(path, _page_size(staged))
        try:
            kept = _exchange(live, staged) or kept
        finally:
            live.close()
        schema, files, chunks = _counts(staged)
    return Restored(path, schema, files, chunks, kept)


def examine(path: Path) -> tuple[int, int, int]:
    """Return schema, number of files and of chunks of a backup that has been read through and is whole.

    Raises NotFoundError, NotADatabaseError, CorruptDatabaseError, NewerSchemaError.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such backup; give a file that knowlex backup made")
    connection = connect(path, readonly=True)
    try:
        _require_backup_of_ours(connection)
        _require_whole(connection, path)
    finally:
        connection.close()
    return _counts(path)


def _require_backup_of_ours(connection: Connection) -> None:
    migrations.require_ours(connection)
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


def _examined(path: Path, database: Path) -> tuple[int, int, int]:
    """Return what `examine` does; of damage it is the database that is to blame."""
    try:
        return examine(path)
    except CorruptDatabaseError as error:
        raise CorruptDatabaseError(
            f"{database}: damaged, so that no backup was made; run knowlex verify --deep to see what is, then"
            " knowlex repair, or restore an older backup (knowlex restore FILE)"
        ) from error


def _counts(path: Path) -> tuple[int, int, int]:
    connection = connect(path, readonly=True)
    try:
        schema = migrations.version(connection)
        if schema == 0:
            return 0, 0, 0
        files = connection.value("SELECT count(*) FROM project_files")
        return schema, files, connection.value("SELECT count(*) FROM file_chunks")
    finally:
        connection.close()


def _require_target(database: Database, target: Path) -> None:
    if os.path.realpath(target) in {os.path.realpath(file) for file in own_files(database.path)}:
        raise UsageError(f"{target}: is the database itself; give another file")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist; make it first")
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_file() or target.is_symlink():
        raise UsageError(f"{target}: exists and is no backup; give another file")
    if any(file.exists() for file in own_files(target)[1:]):
        raise UsageError(f"{target}: is a database in use; give another file")
    with database.read() as db:
        _require_older_backup(target, _identity(db))


def _require_older_backup(target: Path, identity: str | None) -> None:
    """Raise UsageError unless the file is empty or a backup of the same database: nothing else is overwritten."""
    if not target.stat().st_size:
        return
    try:
        connection = connect(target, readonly=True)
    except (NotADatabaseError, CorruptDatabaseError) as error:
        raise UsageError(f"{target}: exists and is no Knowlex backup; give another file") from error
    try:
        migrations.require_ours(connection)
        if _identity(connection) != identity:
            raise UsageError(f"{target}: is, or is a backup, of another database; give another file")
    except NotADatabaseError as error:
        raise UsageError(f"{target}: exists and is a database of another program; give another file") from error
    finally:
        connection.close()


def _identity(db: Connection) -> str | None:
    """Return what a database has in common with its copies alone: when its first schema was made."""
    if not migrations.version(db):
        return None
    return db.value("SELECT applied_at FROM schema_migrations WHERE version = 1")


def _require_source(path: Path, source: Path) -> None:
    if not source.is_file():
        raise NotFoundError(f"{source}: no such backup; give a file that knowlex backup made")
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"{source}: is the database itself; give a backup of it")


def _stage(source: Path, staged: Path) -> None:
    """Copy a backup beside the database, prove that it is whole and bring its schema up."""
    origin = _open_source(source)
    try:
        _require_backup_of_ours(origin)
        copy(origin, staged)
    except CorruptDatabaseError as error:
        raise _damaged(source) from error
    finally:
        origin.close()
    connection = connect(staged)
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


def _page_size(path: Path) -> int:
    connection = connect(path, readonly=True)
    try:
        return connection.value("PRAGMA page_size")
    finally:
        connection.close()


def _open_source(source: Path) -> Connection:
    try:
        return connect(source, readonly=True)
    except NotADatabaseError as error:
        raise NotADatabaseError(f"{source}: no Knowlex backup; give a file that knowlex backup made") from error
    except CorruptDatabaseError as error:
        raise _damaged(source) from error


def _damaged(source: Path) -> CorruptDatabaseError:
    return CorruptDatabaseError(f"{source}: damaged or cut off; give another backup")


def _open_live(path: Path, page_size: int) -> tuple[Connection, Path | None]:
    """Open what is to be replaced; what is no database any more is kept as it is, and emptied first.

    Returns the connection and the copy. Raises NotADatabaseError for a database of another program,
    NewerSchemaError.
    """
    kept = keep_bytes(path) if _lost_all_but_the_log(path) else None
    try:
        connection = connect(path)
        if connection.value("PRAGMA page_size") != page_size and connection.value("PRAGMA page_count"):
            connection.close()
            raise CorruptDatabaseError(f"{path}: damaged (its pages have another size)")
    except (NotADatabaseError, CorruptDatabaseError):
        kept = keep_bytes(path)
        _reset(path, page_size)
        connection = connect(path)
    try:
        use_log(connection)
        migrations.require_ours(connection)
    except CorruptDatabaseError:
        kept = keep_bytes(path)
    except BaseException:
        connection.close()
        raise
    return connection, kept


def _lost_all_but_the_log(path: Path) -> bool:
    """Tell whether a file is empty and its log is not, which the engine would delete."""
    log = own_files(path)[1]
    return not path.stat().st_size and log.exists() and bool(log.stat().st_size)


def _reset(path: Path, page_size: int) -> None:
    """Empty a file that is no database any more, so that one can be written into it.

    In place and under the engine's locks: sqlite.org/c3ref/c_dbconfig_defensive.html, RESET_DATABASE.
    """
    with translated(path):
        raw = apsw.Connection(os.fspath(path))
        try:
            raw.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
            Connection(raw, path).script(f"PRAGMA page_size = {page_size}; VACUUM")
            raw.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)
        finally:
            raw.close()


def _exchange(live: Connection, staged: Path) -> Path | None:
    """Keep what is in the live database and write the staged one over it, in one transaction; return the copy.

    The write lock is taken first: whatever was committed before it is in the copy, and nobody can
    commit what would be in neither.
    """
    staging = connect(staged)
    kept = None
    try:
        with translated(live.path), live.raw.backup("main", staging.raw, "main") as exchange:
            exchange.step(0)
            kept, seen = _keep(live.path)
            with migrations.immediate(staging):
                _advance(staging, seen)
            exchange.step(-1)
        live.all("PRAGMA wal_checkpoint(PASSIVE)")  # readers of the old rows are not waited for
    except DatabaseError as error:
        raise type(error)(f"{error.message}; nothing was restored") from error
    finally:
        staging.close()
    return kept


def _keep(path: Path) -> tuple[Path | None, dict[str, int]]:
    """Keep a copy of what is about to be replaced; return it and how far its counters have come.

    An empty database is not worth a copy. The bytes of one that cannot be read have been kept already.
    """
    reader = connect(path, readonly=True)
    try:
        if not reader.value("SELECT count(*) FROM sqlite_schema"):
            return None, {}
        return migrations.keep_copy(reader, "before-restore"), _counters(reader)
    except CorruptDatabaseError:
        return keep_bytes(path), {}
    finally:
        reader.close()


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

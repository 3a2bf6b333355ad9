"""Copies of a live database: through the backup API, the only right way, or byte by byte where it is damaged."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from storage import scratch
from storage.connection import Connection, of_reading, translated
from storage.errors import LockedError
from storage.paths import own_files

PAGES_A_STEP = 4096
BLOCK = 2**20


def copy(connection: Connection, target: Path, *, named: Path | None = None) -> None:
    """Copy the database to `target`, an empty or missing file, and sync it; readers and writers go on.

    The copy is of the moment it begins, or that of the transaction the connection is in.
    named: what errors of writing name; by default `target`, which may be gone when they are read. Those of reading
    name the database.
    """
    named = named or target
    with moment(connection):
        with translated(named):
            twin = apsw.Connection(os.fspath(target))
        try:
            with _told(connection.path, named, twin):
                _fill(twin, connection.raw)
        finally:
            twin.close()
    with scratch.writing(named):
        _sync(target)


def _fill(twin: apsw.Connection, raw: apsw.Connection) -> None:
    with twin.backup("main", raw, "main") as backup:
        while not backup.done:
            backup.step(PAGES_A_STEP)
    # A copy of a WAL database says WAL in its header; alone on disk it needs none.
    twin.pragma("journal_mode", "DELETE")  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def _told(source: Path, target: Path, twin: apsw.Connection) -> Generator[None]:
    """Turn the errors of making `twin` into ours: what cannot be read is the source, all else is the target."""
    try:
        yield
    except apsw.Error as error:
        with translated(source) if of_reading(error) else translated(target, twin):
            raise


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def moment(connection: Connection) -> Generator[None]:
    """Hold one snapshot for the block: else every commit of another process would make the copy begin anew."""
    within = connection.raw.in_transaction
    if not within:
        connection.script("BEGIN")
    try:
        connection.value("SELECT count(*) FROM sqlite_schema")  # BEGIN alone reads, and so holds, nothing
        yield
    finally:
        if not within:
            connection.script("ROLLBACK")


def keep_bytes(database: Path) -> Path:
    """Copy a damaged database, and its log, as they are to `NAME.damaged` (0600), or to the next free number.

    Returns the copy.
    """
    name = database.with_name(f"{database.name}.damaged")
    with scratch.beside(name, database) as path, scratch.beside(name, database) as log_path:
        with scratch.writing(name):
            _copy_bytes(database, path)
            _copy_bytes(own_files(database)[1], log_path)
        kept = scratch.keep_as(path, name.name)
        if log_path.stat().st_size:
            scratch.put(log_path, own_files(kept)[1])
    return kept


def kept(database: Path) -> list[Path]:
    """Return the copies that were kept beside a database, and their logs, in the order of their names.

    Those made before its schema was changed, a backup restored or a fault mended, and of what was damaged. Raises
    OSError for a folder that cannot be listed.
    """
    beside = (path for path in database.parent.iterdir() if not path.is_dir())
    return sorted(path for path in beside if (of := copied(path)) and of.name == database.name)


_KEPT = re.compile(
    r"(.+)\.(?:before-v\d+|before-restore|before-repair|damaged)(?:\.\d+)?(?:-wal|-shm|-journal)?", re.DOTALL
)


def copied(file: Path) -> Path | None:
    """Return the database that a file has the name of a kept copy of, or of its log; None for any other name."""
    match = _KEPT.fullmatch(file.name)
    return match and file.with_name(match[1])


def is_unused_copy(file: Path) -> bool:
    """Tell whether a database's file says that it has no log: each copy does, until somebody uses it as a database.

    Source: sqlite.org/fileformat.html, 1.3.3.
    """
    return next(blocks(file), b"")[18:19] == b"\x01"


def set_aside(database: Path) -> Path:
    """Keep a database that cannot be opened any more as `keep_bytes` does, and leave an empty file in its place.

    Returns the copy. Raises LockedError where a process has it open: what that commits would be in neither.
    """
    with _alone(database) as file:
        kept = keep_bytes(database)
        with scratch.writing(database):
            for companion in own_files(database)[1:]:
                companion.unlink(missing_ok=True)
            scratch.sync_folder(database.parent)
        file.xTruncate(0)
        file.xSync(apsw.SQLITE_SYNC_FULL)
    return kept


@contextmanager
def _alone(database: Path) -> Generator[apsw.VFSFile]:
    """Hold the lock that the engine gives to one user alone; whoever has a log open shares the file for as long.

    Source: sqlite.org/lockingv3.html; sqlite.org/wal.html.
    """
    with translated(database):
        file = apsw.VFSFile("", os.fspath(database), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
        try:
            _lock(file, database)
            yield file
        finally:
            file.xUnlock(apsw.SQLITE_LOCK_NONE)
            file.xClose()


def _lock(file: apsw.VFSFile, database: Path) -> None:
    try:
        file.xLock(apsw.SQLITE_LOCK_SHARED)
        file.xLock(apsw.SQLITE_LOCK_EXCLUSIVE)
    except apsw.BusyError as error:
        raise LockedError(
            f"{database}: damaged, and a process has it open; end the processes that have it open, then run this again"
        ) from error


def _copy_bytes(file: Path, target: Path) -> None:
    with target.open("wb") as out:
        for block in blocks(file):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())


def blocks(file: Path) -> Iterator[bytes]:
    """Yield the bytes of a file of a live database, or nothing where there is no such file.

    The engine itself reads it: to open and close it otherwise would drop this process's locks on it.
    """
    if not file.exists():
        return
    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY
    with translated(file):
        opened = apsw.VFSFile("", os.fspath(file), [flags, 0])
        try:
            for start in range(0, opened.xFileSize(), BLOCK):
                yield opened.xRead(min(BLOCK, opened.xFileSize() - start), start)
        finally:
            opened.xClose()

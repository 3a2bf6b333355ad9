"""One SQLite connection: how it is opened, guarded, and how its faults become our errors."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from storage.errors import (
    ConfigurationError,
    ConstraintError,
    CorruptDatabaseError,
    DamagedValueError,
    DatabaseError,
    DiskFullError,
    ForeignKeyError,
    LockedError,
    NotADatabaseError,
    ReadOnlyError,
    UniqueError,
    UsageError,
)
from storage.paths import may, no_database
from storage.turns import Turns

BUSY_TIMEOUT_MS = 30_000

PREPARED = 512
"""How many statements stay prepared on a connection: all of this package, some 340, with room; apsw keeps 100."""

# The WAL-reset race that loses commits was mended in 3.51.3; 3.52.0 was withdrawn.
OLDEST_SQLITE = (3, 51, 3)
WITHDRAWN_SQLITE = (3, 52, 0)

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a write for which there is no room."""

PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA recursive_triggers = ON;
PRAGMA trusted_schema = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -16384;
PRAGMA wal_autocheckpoint = 500;
PRAGMA journal_size_limit = 2097152;
"""


@dataclass(frozen=True, slots=True)
class Connection:
    """A guarded connection: what the table modules run their statements on.

    Statements use named parameters (`:name`), so that another engine can take them as they are.
    """

    raw: apsw.Connection
    path: Path
    pid: int = field(default_factory=os.getpid)
    turns: Turns = field(default_factory=Turns)
    functions: set[str] = field(default_factory=set[str])
    """Functions of our own that this connection knows."""

    def all(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return every row it gives."""
        self.require_own()
        with translated(self.path, self.raw):
            return list(self.raw.execute(sql, values))  # pyright: ignore[reportUnknownMemberType]

    def one(self, sql: str, **values: Any) -> tuple[Any, ...] | None:
        """Run one statement and return its first row, or None; further rows are read and dropped."""
        rows = self.all(sql, **values)
        return rows[0] if rows else None

    def value(self, sql: str, **values: Any) -> Any:
        """Run one statement and return the first column of its first row, or None."""
        row = self.one(sql, **values)
        return row[0] if row else None

    def run(self, sql: str, **values: Any) -> int:
        """Run one statement and return the number of rows it changed."""
        self.require_own()
        with translated(self.path, self.raw):
            for _ in self.raw.execute(sql, values):  # pyright: ignore[reportUnknownMemberType]
                pass
            return self.raw.changes()

    def many(self, sql: str, rows: Iterable[dict[str, Any]]) -> None:
        """Run one statement for each set of values."""
        self.require_own()
        with translated(self.path, self.raw):
            for _ in self.raw.executemany(sql, rows):  # pyright: ignore[reportUnknownMemberType]
                pass

    def script(self, sql: str) -> None:
        """Run several statements; apsw stops at the first row, so all rows are read."""
        self.require_own()
        with translated(self.path, self.raw):
            for _ in self.raw.execute(sql):  # pyright: ignore[reportUnknownMemberType]
                pass

    def last_pk(self) -> int:
        """Return the primary key of the row inserted last."""
        return self.raw.last_insert_rowid()

    def close(self) -> None:
        """Close the connection; a second call does nothing, nor does one in a process forked off."""
        if os.getpid() == self.pid:
            self.raw.close()

    def require_own(self) -> None:
        """Raise DatabaseError in a process forked off: its commits and its parent's would overwrite each other."""
        if os.getpid() != self.pid:
            raise DatabaseError(f"{self.path}: opened before a fork; open the database anew in the child process")


def connect(
    path: Path,
    *,
    readonly: bool = False,
    create: bool = True,
    immutable: bool = False,
    timeout_ms: int | None = None,
    named: Path | None = None,
) -> Connection:
    """Open one guarded connection to an existing or new database file.

    readonly: the file must exist; writes raise ReadOnlyError. create: make a file where there is none.
    immutable: nobody can change the file, so that neither lock nor log is looked for.
    timeout_ms: how long to wait for locks of others; 30 s by default.
    named: what errors name; by default `path`, which is no use for a copy that is gone when they are read.
    Raises DatabaseError or one of its kinds, naming the path and the remedy.
    """
    told = named or path
    require_safe_sqlite()
    if readonly and not path.exists():
        raise no_database(told)
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
    if create and not readonly:
        flags |= apsw.SQLITE_OPEN_CREATE
    name = os.fspath(path)
    if immutable:  # sqlite.org/uri.html
        flags |= apsw.SQLITE_OPEN_URI
        name = f"file:{quote(os.fsencode(path))}?immutable=1"
    with translated(told):
        raw = apsw.Connection(name, flags=flags, statementcachesize=PREPARED)
        connection = Connection(raw, told)
        try:
            _guard(connection, BUSY_TIMEOUT_MS if timeout_ms is None else timeout_ms)
        except BaseException:
            raw.close()
            raise
    return connection


def _guard(connection: Connection, timeout_ms: int) -> None:
    raw = connection.raw
    raw.set_busy_timeout(timeout_ms)
    raw.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    raw.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    raw.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.script(PRAGMAS)


def use_log(connection: Connection) -> bool:
    """Put the file into write-ahead mode, which it keeps; tell whether it was in another.

    Raises DatabaseError where the disk cannot.
    """
    if connection.value("PRAGMA journal_mode") == "wal":
        return False
    mode = _switch_to_log(connection)
    if mode != "wal":
        raise DatabaseError(f"{connection.path}: cannot use a write-ahead log (mode stays {mode}); use a local disk")
    return True


def leave_log(connection: Connection) -> None:
    """Undo `use_log`. Raises LockedError where anybody else has the file open: this switch heeds no time-out either."""
    connection.script("PRAGMA journal_mode = DELETE")


def _switch_to_log(connection: Connection) -> str:
    """Ask for write-ahead mode until no other process asks too: the switch does not heed the time-out."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            # Heeded by an empty file only: space that deletions free is given back little by little.
            connection.script("PRAGMA auto_vacuum = INCREMENTAL")
            return connection.value("PRAGMA journal_mode = WAL")
        except LockedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def load_vector_functions(connection: Connection) -> None:
    """Make sqlite-vec's distance functions known to this connection.

    Its Python package is not imported: that would bring a second SQLite into the process.
    """
    spec = find_spec("sqlite_vec")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("sqlite-vec is not installed: install Knowlex anew, with all it needs")
    raw = connection.raw
    with translated(connection.path):
        raw.enable_load_extension(True)
        try:
            raw.load_extension(os.path.join(spec.submodule_search_locations[0], "vec0"))
        finally:
            raw.enable_load_extension(False)


def require_safe_sqlite(version: str | None = None) -> None:
    """Raise ConfigurationError where SQLite (the linked one, or `version`) is known to lose commits."""
    text = version or apsw.sqlite_lib_version()
    number = tuple(int(part) for part in text.split(".")[:3])
    if number < OLDEST_SQLITE or number == WITHDRAWN_SQLITE:
        raise ConfigurationError(
            f"SQLite {text} can lose commits in WAL mode: install apsw 3.51.3 or newer, not 3.52.0"
        )


class translated:
    """Turn the engine's errors into ours: what happened to `path`, and what to do.

    raw: whose errors they are, where it is open; it knows what the system said.
    """

    # A class, as what `contextmanager` makes takes longer than a small statement does.
    __slots__ = ("_path", "_raw")

    def __init__(self, path: Path, raw: apsw.Connection | None = None) -> None:
        self._path = path
        self._raw = raw

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, apsw.Error):
            raise _full(self._path) if _is_full(error, self._raw) else _translate(error, self._path) from error
        if isinstance(error, UnicodeDecodeError):
            text = "a text that is not valid Unicode"
            raise DamagedValueError(f"{self._path}: holds {text}; run knowlex repair") from error
        if isinstance(error, UnicodeEncodeError):
            half = f"{error.object[error.start]!a}"
            raise UsageError(f"{half}: half a character, not valid Unicode; remove it") from error


MEND = "run knowlex repair, or restore a backup (knowlex restore FILE)"
"""What to do about damage."""

LOOK = "look at a copy elsewhere (knowlex --db OTHER restore FILE)"
"""What to do about a database in a place where nobody can write."""

LOST = frozenset({apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS})
"""Errors of the disk that mean that a page of the file is lost."""

_OF_WRITING = frozenset(
    {
        apsw.SQLITE_IOERR_WRITE,
        apsw.SQLITE_IOERR_FSYNC,
        apsw.SQLITE_IOERR_DIR_FSYNC,
        apsw.SQLITE_IOERR_TRUNCATE,
        apsw.SQLITE_IOERR_SHMSIZE,
    }
)
"""Errors of the disk that a full one causes, too: the engine tells it apart only where pages are written."""


def _is_full(error: apsw.Error, raw: apsw.Connection | None) -> bool:
    if isinstance(error, apsw.FullError):
        return True
    of_writing = isinstance(error, apsw.IOError) and _extended(error) in _OF_WRITING
    return of_writing and raw is not None and raw.system_errno in NO_SPACE


def of_reading(error: apsw.Error) -> bool:
    """Tell whether an error says that what is in a file is lost; others are of writing, of locks, of memory."""
    return isinstance(error, apsw.CorruptError | apsw.NotADBError) or _extended(error) in LOST


def _extended(error: apsw.Error) -> int:
    return getattr(error, "extendedresult", 0)  # apsw's stubs do not know it


def _full(path: Path) -> DiskFullError:
    return DiskFullError(f"{path}: no space left on its disk, or that of temporary files (or quota reached); free some")


def _translate(error: apsw.Error, path: Path) -> DatabaseError:
    cause = str(error)
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return LockedError(
                f"{path}: another process holds the write lock; try again when it has finished"
                " (knowlex health names one that stands still)"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            look = f", or {LOOK}" if _extended(error) == apsw.SQLITE_READONLY_DIRECTORY else ""
            return ReadOnlyError(f"{path}: cannot be written; check the rights of the file and its folder{look}")
        case apsw.NotADBError():
            return NotADatabaseError(
                f"{path}: not a Knowlex database, or its header is damaged; name another with --db, or move it away"
                " (mv) and restore a backup (knowlex restore FILE)"
            )
        case apsw.CorruptError():
            return CorruptDatabaseError(f"{path}: damaged ({cause}); {MEND}")
        case apsw.ConstraintError():
            return _violated(error, path)
        case apsw.CantOpenError():
            return DatabaseError(f"{path}: {_why_not_opened(path)}")
        case apsw.IOError():
            return DatabaseError(
                f"{path}: the disk reports an error ({cause}); check the disk, then run knowlex verify"
            )
        case _:
            return DatabaseError(f"{path}: {cause}")


def _why_not_opened(path: Path) -> str:
    """Return cause and remedy: the engine says the same of all of these."""
    if os.path.isdir(path):
        return "is a folder; name a file with --db"
    if not os.path.exists(path):
        return "cannot be opened; check that its folder exists and you may write there"
    if not may(path, os.R_OK):
        return "cannot be read; check the rights of the file"
    return f"cannot be opened; check that you may write in its folder, or {LOOK}"


def _violated(error: apsw.ConstraintError, path: Path) -> ConstraintError:
    match _extended(error):
        case apsw.SQLITE_CONSTRAINT_UNIQUE | apsw.SQLITE_CONSTRAINT_PRIMARYKEY | apsw.SQLITE_CONSTRAINT_ROWID:
            return UniqueError(f"{path}: a row with this key exists already ({error}); choose another")
        case apsw.SQLITE_CONSTRAINT_FOREIGNKEY:
            return ForeignKeyError(f"{path}: a row refers to one that does not exist; make that one first")
        case _:
            return ConstraintError(f"{path}: {error}; give a value that the table takes")

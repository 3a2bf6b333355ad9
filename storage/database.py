"""The database as the rest of Knowlex sees it: transactions to read in and to write in.

One writer and a small pool of readers a process; every read sees one snapshot, every write is one
`BEGIN IMMEDIATE` transaction that commits whole or not at all. In a `batch`, all reads and writes of
a thread are one such transaction.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from storage import incarnation, indexed_texts, migrations
from storage.connection import BUSY_TIMEOUT_MS, LOOK, Connection, connect, leave_log, use_log
from storage.errors import (
    CorruptDatabaseError,
    DatabaseError,
    LockedError,
    NewerSchemaError,
    ReadOnlyError,
    ReplacedError,
)
from storage.event_log import EventLog
from storage.filesystem import require_local
from storage.paths import database_path, is_there, may, no_database, own_files, size_of
from storage.snapshot import is_unused_copy

log = EventLog("knowlex.database")

READERS = 4

LONG_LOG_BYTES = 32 * 2**20
"""Size of the log from which on writers pause: a reader that needs it all keeps it from being used again."""

GROWTH_BYTES_A_S = 2 * 2**20
"""How fast a long log may grow: by some 20 MB while a reader looks at one moment for ten seconds."""

LONGEST_PAUSE_S = 1.0


class Database:
    """An open database. Safe to use from many threads; never to be carried over a fork."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly
        self._pid = os.getpid()
        # Reentrant, so that a write inside a write of the same thread is an error and no deadlock.
        self._write_lock = threading.RLock()
        self._slots = threading.BoundedSemaphore(READERS)
        self._idle: list[Connection] = []
        self._closed = False
        self._batch_thread: int | None = None
        self._incarnation: str | None = None
        self._was_copy = False
        self._seen = 0
        self.schema_copy: Path | None = None
        """The copy that was made before the schema was changed, where this object did that."""
        self.is_new = False
        """Whether this object made the file."""
        self._had_log = own_files(path)[1].exists()
        self._writer = connect(path, readonly=readonly)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, readonly: bool = False, bring_up: bool = True) -> Self:
        """Open the database, making it or bringing its schema up where needed.

        path: see `database_path`. A new file is readable by its owner alone (0600). A backup in a place where nobody
        can write is opened to read only. bring_up: not so for whoever wants to `migrate` alone.
        Raises DatabaseError or one of its kinds.
        """
        place = database_path(path)
        require_local(place)
        is_new = False
        readonly = readonly or _is_shut_copy(place)
        if not readonly:
            is_new = create(place)
            _require_no_lone_log(place)
        database = cls(place, readonly=readonly)
        database.is_new = is_new
        try:
            database._prepare(bring_up=bring_up)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, *, bring_up: bool) -> None:
        migrations.require_ours(self._writer)
        if not self.readonly:
            self._was_copy = use_log(self._writer)
            self._seen = self._data_version()
        if not bring_up:
            return
        found = migrations.version(self._writer)
        if found != migrations.LATEST:
            if self.readonly:
                raise self._refusal(f"schema {found} must be brought up first")
            migrations.migrate(self._writer, on_copy=self._note_copy)
        self._prepare_texts()
        self._incarnation = incarnation.current(self._writer)

    def _prepare_texts(self) -> None:
        """See to it that today's tokenizer made the full text. Raises NewerSchemaError, ReadOnlyError."""
        if indexed_texts.newer(self._writer):
            raise NewerSchemaError(f"{self.path}: a newer Knowlex made its full text; upgrade Knowlex")
        if indexed_texts.outdated(self._writer):
            if self.readonly:
                raise self._refusal("its full text must be made anew first")
            self._rebuild_texts()

    def _refusal(self, what: str) -> ReadOnlyError:
        return ReadOnlyError(f"{self.path}: {what}: run knowlex migrate, or {LOOK}")

    def _rebuild_texts(self) -> None:
        """Make the full text anew where another version of the tokenizer made it."""
        with migrations.immediate(self._writer):
            for source in indexed_texts.outdated(self._writer):
                log.info("full text made anew for this version of Knowlex", source=source)
                indexed_texts.rebuild(self._writer, source)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection on which every statement of the block sees the same snapshot.

        Four blocks of a process may be open at a time; a further one waits up to 30 s, then raises LockedError.
        """
        self._require_usable()
        if self.batching:
            migrations.require_open(self._writer)
            yield self._writer
            return
        with self._slot():
            connection = self._idle_reader() or connect(self.path, readonly=True)
            try:
                connection.script("BEGIN")
                try:
                    self._require_current(connection)
                    yield connection
                finally:
                    if connection.raw.in_transaction:
                        connection.script("ROLLBACK")
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            if self._closed:
                self._close_idle()

    @contextmanager
    def read_apart(self) -> Generator[Connection]:
        """Do what `read` does on a connection of its own: however long the block takes, no other read waits for it.

        Until it ends, the log cannot be folded past its moment. Raises what `read` does, but for LockedError.
        """
        self._require_usable()
        connection = connect(self.path, readonly=True)
        try:
            connection.script("BEGIN")
            self._require_current(connection)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _slot(self) -> Generator[None]:
        """Hold one of the places for readers."""
        if not self._slots.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise LockedError(f"{self.path}: {READERS} reads of this process do not end; end one of them first")
        try:
            yield
        finally:
            self._slots.release()

    @contextmanager
    def write(self, *, timeout_ms: int | None = None) -> Generator[Connection]:
        """Give the connection that may write, in one transaction: all of the block or nothing.

        Keep the block short: the lock is shared by every process. timeout_ms: how long to wait for other
        threads, and then for other processes; by default 30 s for these. Raises LockedError when another
        holds the lock past the time-out, NewerSchemaError when the schema was migrated meanwhile.
        """
        self._require_usable()
        with self._turn(timeout_ms):
            transaction = migrations.savepoint if self.batching else migrations.immediate
            with transaction(self._writer):
                self._require_current(self._writer)
                log_bytes = self._log_size()
                yield self._writer
        if timeout_ms is None and not self.batching:
            self._pause(log_bytes)

    @contextmanager
    def _turn(self, timeout_ms: int | None) -> Generator[None]:
        """Hold what this process's threads take turns by, and have the writer wait no longer than `timeout_ms`."""
        if timeout_ms is None:
            with self._write_lock:
                yield
            return
        if not self._write_lock.acquire(timeout=timeout_ms / 1000):
            raise LockedError(f"{self.path}: another thread holds the write lock; try again when it has finished")
        try:
            usual = self._writer.value("PRAGMA busy_timeout")
            self._writer.raw.set_busy_timeout(timeout_ms)
            try:
                yield
            finally:
                self._writer.raw.set_busy_timeout(usual)
        finally:
            self._write_lock.release()

    @contextmanager
    def batch(self) -> Generator[Connection]:
        """Make one transaction of every `read` and `write` of this thread in the block: all of them or nothing.

        A write that fails is undone alone where the block catches its error; an error that leaves the
        block undoes everything. Reads see what the block has written. Keep the block short: the lock is
        shared by every process. Raises what `write` does, and DatabaseError for a batch within a batch.
        """
        self._require_usable()
        if self.batching:
            raise DatabaseError(f"{self.path}: a batch is open in this thread already; end it first")
        with self._write_lock, migrations.immediate(self._writer):
            self._require_current(self._writer)
            log_bytes = self._log_size()
            self._batch_thread = threading.get_ident()
            try:
                yield self._writer
            finally:
                self._batch_thread = None
        self._pause(log_bytes)

    def _pause(self, before: int) -> None:
        """After a commit, hold on while a reader makes the log long, as long as what the commit added to it asks.

        before: bytes of the log when it began. Nothing is refused and no reader is ended, so that a write takes
        a second longer at most; one that must not wait for others does not wait here either.
        """
        now = self._log_size()
        if now > max(before, LONG_LOG_BYTES):
            time.sleep(min(LONGEST_PAUSE_S, (now - before) / GROWTH_BYTES_A_S))

    def _log_size(self) -> int:
        return size_of(own_files(self.path)[1])

    @contextmanager
    def unwrapped(self) -> Generator[Connection]:
        """Give the connection that may write, outside any transaction: what VACUUM and checkpoints need.

        Raises DatabaseError within a `batch`, NewerSchemaError.
        """
        self._require_usable()
        if self.batching:
            raise DatabaseError(f"{self.path}: this cannot be done within a batch; end the batch first")
        with self._write_lock:
            if self._writer.raw.in_transaction:
                raise DatabaseError(f"{self.path}: this cannot be done within a transaction; end it first")
            self._require_current(self._writer)
            yield self._writer

    @property
    def batching(self) -> bool:
        """Whether this thread is in a `batch`: what it reads may never be committed, so nothing may keep it."""
        return self._batch_thread == threading.get_ident()

    @property
    def replaced(self) -> bool:
        """Whether a restore has put another content in the place of the one that was opened."""
        if self.batching or self._closed:
            return False
        try:
            with self.read():
                return False
        except ReplacedError:
            return True

    def _require_current(self, connection: Connection) -> None:
        if migrations.version(connection) != migrations.LATEST or indexed_texts.outdated(connection):
            raise NewerSchemaError(f"{self.path}: another version of Knowlex changed the schema; start anew")
        if incarnation.current(connection) != self._incarnation:
            raise ReplacedError(f"{self.path}: a backup was restored meanwhile; what was going on is void: start anew")

    def migrate(self, target: int | None = None) -> list[int]:
        """Bring the schema to `target`, up or down, and at today's the full text, too; see `migrations.migrate`."""
        self._require_usable()
        with self._write_lock:
            taken = migrations.migrate(self._writer, target, on_copy=self._note_copy)
            if migrations.version(self._writer) == migrations.LATEST:
                self._prepare_texts()
                self._incarnation = incarnation.current(self._writer)
        return taken

    def _note_copy(self, copy: Path) -> None:
        self.schema_copy = copy

    @property
    def version(self) -> int:
        """The schema version of the file: 0 when it is empty."""
        with self._write_lock:
            return migrations.version(self._writer)

    def close(self) -> None:
        """Close every connection; the last one of all processes folds the log into the file.

        One that may only read leaves a log that was there before as it is.
        """
        if os.getpid() != self._pid or self._closed:
            return
        if self.batching:
            raise DatabaseError(f"{self.path}: cannot be closed within a transaction; end it first")
        self._closed = True
        self._close_idle()
        with self._write_lock:
            if self.is_copy:
                with suppress(DatabaseError):  # then it counts as used
                    leave_log(self._writer)
            self._was_copy = False
            self._writer.close()
        if self.readonly and not self._had_log:
            self._leave_no_log()

    @property
    def is_copy(self) -> bool:
        """Whether the file is a copy, such as a backup, that nobody has written to: who looks at it leaves it one."""
        if not self._was_copy:
            return False
        with self._write_lock:
            untouched = self._was_copy and not self._writer.raw.total_changes()
            self._was_copy = untouched and self._data_version() == self._seen
            return self._was_copy

    def _data_version(self) -> int:
        """Return what changes when another connection commits; see sqlite.org/pragma.html#pragma_data_version."""
        return self._writer.value("PRAGMA data_version")

    def _leave_no_log(self) -> None:
        """Have the engine remove the log that it made for reading: the last to close must be one that may write."""
        with suppress(DatabaseError):  # an empty log harms nobody
            connection = connect(self.path, create=False)
            try:
                migrations.version(connection)  # only who has read anything has the log open
            finally:
                connection.close()

    def _idle_reader(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _close_idle(self) -> None:
        while (connection := self._idle_reader()) is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_usable(self) -> None:
        if os.getpid() != self._pid:
            raise DatabaseError(f"{self.path}: opened before a fork; open the database anew in the child process")
        if self._closed:
            raise DatabaseError(f"{self.path}: the database is closed")


def _is_shut_copy(path: Path) -> bool:
    """Tell whether a file is a copy, such as a backup, where this process cannot write; see `is_unused_copy`.

    Such a one can be read all the same: what was used as a database needs a log for that.
    """
    shut = may(path, os.R_OK) and not (may(path, os.W_OK) and may(path.parent, os.W_OK))
    return shut and path.is_file() and is_unused_copy(path)


MAKING_S = 2.0
"""How long a file of no bytes is waited for: whoever makes a database has one for a moment."""


def require_made(path: Path) -> None:
    """Raise NotFoundError where there is no database, CorruptDatabaseError for a file that stays without bytes."""
    if not is_there(path):
        raise no_database(path)
    give_up_at = time.monotonic() + MAKING_S
    while not size_of(path):
        if time.monotonic() >= give_up_at:
            raise CorruptDatabaseError(
                f"{path}: holds no bytes; restore a backup (knowlex restore FILE), or remove it to begin anew"
            )
        time.sleep(0.02)


def _require_no_lone_log(path: Path) -> None:
    """Raise CorruptDatabaseError where a file was emptied and its log was not: the engine would delete that."""
    if size_of(own_files(path)[1]) and not size_of(path):
        raise CorruptDatabaseError(
            f"{path}: holds no bytes, but its log does; restore a backup (knowlex restore FILE), which keeps the log"
        )


_creating = threading.Lock()


def create(path: Path) -> bool:
    """Make the folder and an empty file that only its owner can read, unless it exists; tell whether it was made.

    One thread at a time: to close the file would drop the locks of another that has opened it meanwhile.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _creating:
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                return True
    except FileExistsError:
        if not path.exists():
            raise DatabaseError(f"{path.parent}: is not a folder; name another file with --db") from None
    except OSError as error:
        raise ReadOnlyError(f"{path}: cannot be created ({error.strerror}); check the rights of its folder") from error
    return False

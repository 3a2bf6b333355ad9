"""The database as the rest of Knowlex sees it: transactions to read in and to write in.

One writer and a small pool of readers a process; every read sees one snapshot, every write is one
`BEGIN IMMEDIATE` transaction that commits whole or not at all. In a `batch`, all reads and writes of
a thread are one such transaction.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from storage import indexed_texts, migrations
from storage.connection import Connection, connect, use_log
from storage.errors import DatabaseError, LockedError, NewerSchemaError, ReadOnlyError
from storage.filesystem import require_local
from storage.paths import database_path

log = logging.getLogger(__name__)

READERS = 4


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
        self._writer = connect(path, readonly=readonly)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, readonly: bool = False) -> Self:
        """Open the database, making it or bringing its schema up where needed.

        path: see `database_path`. A new file is readable by its owner alone (0600).
        Raises DatabaseError or one of its kinds.
        """
        place = database_path(path)
        require_local(place)
        if not readonly:
            create(place)
        database = cls(place, readonly=readonly)
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self) -> None:
        migrations.require_ours(self._writer)
        if not self.readonly:
            use_log(self._writer)
        found = migrations.version(self._writer)
        if found != migrations.LATEST:
            if self.readonly:
                raise ReadOnlyError(f"{self.path}: schema {found} must be brought up first: run knowlex migrate")
            migrations.migrate(self._writer)
        if not self.readonly and indexed_texts.outdated(self._writer):
            self._rebuild_texts()

    def _rebuild_texts(self) -> None:
        """Make the full text anew where another version of the tokenizer made it."""
        with migrations.immediate(self._writer):
            for source in indexed_texts.outdated(self._writer):
                log.info("%s: the full text of %ss is made anew for this version of Knowlex", self.path, source)
                indexed_texts.rebuild(self._writer, source)

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection on which every statement of the block sees the same snapshot."""
        self._require_usable()
        if self.batching:
            yield self._writer
            return
        with self._slots:
            connection = self._idle_reader() or connect(self.path, readonly=True)
            try:
                connection.script("BEGIN")
                try:
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
                self._require_current()
                yield self._writer

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
            self._require_current()
            self._batch_thread = threading.get_ident()
            try:
                yield self._writer
            finally:
                self._batch_thread = None

    @contextmanager
    def unwrapped(self) -> Generator[Connection]:
        """Give the connection that may write, outside any transaction: what VACUUM and checkpoints need.

        Raises DatabaseError within a `batch`, NewerSchemaError.
        """
        self._require_usable()
        if self.batching:
            raise DatabaseError(f"{self.path}: this cannot be done within a batch; end the batch first")
        with self._write_lock:
            self._require_current()
            yield self._writer

    @property
    def batching(self) -> bool:
        """Whether this thread is in a `batch`: what it reads may never be committed, so nothing may keep it."""
        return self._batch_thread == threading.get_ident()

    def _require_current(self) -> None:
        if migrations.version(self._writer) != migrations.LATEST or indexed_texts.outdated(self._writer):
            raise NewerSchemaError(f"{self.path}: another version of Knowlex changed the schema; start anew")

    def migrate(self, target: int | None = None) -> list[int]:
        """Bring the schema to `target`, up or down; see `migrations.migrate`."""
        self._require_usable()
        with self._write_lock:
            return migrations.migrate(self._writer, target)

    def close(self) -> None:
        """Close every connection; the last one of all processes folds the log into the file."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        self._close_idle()
        with self._write_lock:
            self._writer.close()

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


def create(path: Path) -> None:
    """Make the folder and an empty file that only its owner can read, unless it exists."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if not path.exists():
            raise DatabaseError(f"{path.parent}: is not a folder; name another file with --db") from None
    except OSError as error:
        raise ReadOnlyError(f"{path}: cannot be created ({error.strerror}); check the rights of its folder") from error

"""Whether a database can be used and its queue moves on: quick checks that neither raise nor change anything.

No database is made, migrated or mended here. Every check that needs a lock waits for it a second, and
all of them together have ten, so that a supervisor may ask as often as it likes.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import apsw

from storage import files, indexed_texts, migrations, pending, queue
from storage.connection import Connection, connect, require_safe_sqlite
from storage.errors import (
    DatabaseError,
    DiskFullError,
    KnowlexError,
    LockedError,
    NewerSchemaError,
    NotFoundError,
    ReadOnlyError,
)
from storage.filesystem import require_local
from storage.ids import now_ms
from storage.paths import own_files

log = logging.getLogger(__name__)

LOCK_MS = 1000
"""How long a lock may be held before that is a fault: no write of ours takes as long."""

DEADLINE_S = 10.0
"""How long all checks may take together: a disk that does not answer is a fault, too."""

FREE_BYTES, FREE_SHARE = 100 * 2**20, 0.05
"""What must be free on the disk: so many bytes, and this share of the database, for its log and a large commit."""

LOG_BYTES = 64 * 2**20
"""How long the write-ahead log may be: four times what it is cut to; only a reader that never ends makes it so."""

TABLES = (
    "projects",
    "project_files",
    "file_chunks",
    "conversations",
    "messages",
    "project_memories",
    "app_settings",
    "embedding_models",
    "embeddings",
    "vector_bits",
    "text_rows",
    "chunk_fts_data",
    "memory_fts_data",
    "message_fts_data",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. detail: what was found, or cause and remedy; code: of the error, None when ok."""

    name: str
    ok: bool
    detail: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and why; after a check that failed, those that build on it are missing."""

    ok: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """How the queue is judged. is_dead: whether the process of that name is provably gone; see workers.owner."""

    is_dead: Callable[[str], bool]
    stuck_after_minutes: float


def check(path: Path, *, is_dead: Callable[[str], bool], stuck_after_minutes: float = 10.0) -> Health:
    """Look at the database at `path`, from whether it is there to whether its queue moves on. Raises nothing.

    is_dead: whether the process of that name is provably gone. stuck_after_minutes: how long files may be
    due while nobody works.
    """
    found: list[Check] = []
    thread = threading.Thread(target=_look, args=(path, Watch(is_dead, stuck_after_minutes), found), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    if thread.is_alive():
        found = [*found, Check("answer", False, f"{path}: no answer within {DEADLINE_S:g} s; check the disk", "late")]
    return Health(all(one.ok for one in found), tuple(found))


def _look(path: Path, watch: Watch, found: list[Check]) -> None:
    for one in _checks(path, watch):
        found.append(one)


def _checks(path: Path, watch: Watch) -> Iterator[Check]:
    yield (engine := _tried("sqlite", _sqlite))
    yield (file := _tried("file", partial(_file, path)))
    if not (engine.ok and file.ok):
        return
    yield _tried("disk", partial(_disk, path))
    yield _tried("log", partial(_log, path))
    ours = False
    for one in _reads(path, watch):
        ours = ours or (one.name == "open" and one.ok)
        yield one
    if ours:
        # Last, so that the connection that may write is closed last: it leaves no empty log behind.
        yield _tried("write", partial(_write, path))


def _reads(path: Path, watch: Watch) -> Iterator[Check]:
    try:
        db = connect(path, readonly=True, timeout_ms=LOCK_MS)
    except KnowlexError as error:
        yield Check("open", False, error.message, error.code)
        return
    try:
        yield from _contents(db, watch)
    finally:
        db.close()


def _contents(db: Connection, watch: Watch) -> Iterator[Check]:
    for name, look in (("open", _ours), ("schema", _schema)):
        yield (one := _tried(name, partial(look, db)))
        if not one.ok:
            return
    yield _tried("guards", partial(_guards, db))
    yield _tried("read", partial(_read, db))
    yield _tried("queue", partial(_queue, db, watch))
    yield _tried("vectors", partial(_vectors, db))
    yield _tried("maintenance", partial(_maintenance, db))


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except KnowlexError as error:
        return Check(name, False, error.message, error.code)
    except OSError as error:
        return Check(name, False, f"{error.filename}: {error.strerror}; check the disk and the rights", "disk")
    except Exception as error:  # a probe that raises tells its caller nothing of the other checks
        log.exception("health check %s", name)
        return Check(name, False, f"{type(error).__name__}: {error}; this is a fault in Knowlex", "fault")


def _sqlite() -> str:
    require_safe_sqlite()
    return f"SQLite {apsw.sqlite_lib_version()}"


def _file(path: Path) -> str:
    if not path.exists():
        raise NotFoundError(f"{path}: no such database; name an existing one with --db")
    if not path.is_file():  # to open a pipe would wait for its other end
        raise DatabaseError(f"{path}: is no file; name another with --db")
    require_local(path)
    return f"{path} ({_size(path.stat().st_size)})"


def _disk(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    wanted = max(FREE_BYTES, int(path.stat().st_size * FREE_SHARE))
    if free < wanted:
        raise DiskFullError(f"{path.parent}: {_size(free)} free, {_size(wanted)} needed; free some on that disk")
    return f"{_size(free)} free"


def _log(path: Path) -> str:
    log_file = own_files(path)[1]
    length = log_file.stat().st_size if log_file.exists() else 0
    if length > LOG_BYTES:
        raise DatabaseError(
            f"{log_file}: the log has grown to {_size(length)}, as a reader never ends or nothing folds it;"
            " run knowlex maintain",
            code="long_log",
        )
    return _size(length)


def _ours(db: Connection) -> str:
    with suppress(NewerSchemaError):  # a Knowlex database all the same; the next check says so
        migrations.require_ours(db)
    return "a Knowlex database"


def _schema(db: Connection) -> str:
    migrations.require_ours(db)
    found = migrations.version(db)
    if found != migrations.LATEST:
        raise DatabaseError(f"{db.path}: schema {found} must be brought up; run knowlex migrate", code="old_schema")
    if indexed_texts.outdated(db):
        raise DatabaseError(f"{db.path}: its full text is of another version; run knowlex migrate", code="old_schema")
    return f"version {found}"


def _guards(db: Connection) -> str:
    if (mode := db.value("PRAGMA journal_mode")) != "wal":
        raise DatabaseError(f"{db.path}: has no write-ahead log (mode {mode}); run knowlex migrate")
    if not db.value("PRAGMA foreign_keys"):
        raise DatabaseError(f"{db.path}: foreign keys are not enforced; install apsw anew")
    return "write-ahead log, foreign keys enforced"


def _read(db: Connection) -> str:
    db.value("SELECT 1")
    for table in TABLES:
        db.one(f"SELECT * FROM {table} LIMIT 1")
    return f"{len(TABLES)} tables answer"


def _write(path: Path) -> str:
    try:
        db = connect(path, create=False, timeout_ms=LOCK_MS)
        try:
            _require_writable(db)
            db.script("BEGIN IMMEDIATE; ROLLBACK")
        finally:
            db.close()
    except LockedError as error:
        raise LockedError(
            f"{path}: {_holder(path) or 'another process'} has held the write lock for longer than {LOCK_MS} ms;"
            " wait for it or end it"
        ) from error
    return "the write lock is free"


def _require_writable(db: Connection) -> None:
    """Raise ReadOnlyError where the file was opened to read only, for want of rights: BEGIN takes no lock then."""
    if db.raw.readonly("main"):
        raise ReadOnlyError(f"{db.path}: cannot be written; check the rights of the file and its folder")


def _holder(path: Path) -> str | None:
    """Return the process that holds the write lock, where the system tells: byte 120 of the shared memory.

    Source: sqlite.org/walformat.html, 2.3.1; proc_locks(5).
    """
    try:
        memory = own_files(path)[2].stat()
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    place = f"{os.major(memory.st_dev):02x}:{os.minor(memory.st_dev):02x}:{memory.st_ino}"
    for line in lines:
        match line.split():
            case [_, "POSIX", _, "WRITE", pid, file, "120", "120"] if file == place and int(pid) > 0:
                return f"process {pid}"
            case _:
                pass
    return None


def _queue(db: Connection, watch: Watch) -> str:
    """Tell how many files wait; raise where none of them will ever be done unless somebody acts."""
    now = now_ms()
    gone = [owner for owner in queue.owners(db) if _is_gone(owner, watch)]
    faults = [
        (_held(db, gone), "are held by workers that are gone; run knowlex work --once"),
        (_expired(db, now), "are held by leases that ran out; run knowlex work --once"),
        (
            0 if _working(db, now, gone) else _due(db, now - int(watch.stuck_after_minutes * 60_000)),
            f"are due for more than {watch.stuck_after_minutes:g} minutes and nobody works; run knowlex work",
        ),
        (_waiting_in_vain(db), "wait for a file that is not in the queue; run knowlex verify"),
    ]
    stuck = [f"{count} files {what}" for count, what in faults if count]
    if stuck:
        raise DatabaseError(f"{db.path}: {'; '.join(stuck)}", code="stuck")
    counts = files.counts(db)
    return ", ".join(f"{counts[status]} {status}" for status in ("pending", "processing", "failed"))


def _is_gone(owner: str, watch: Watch) -> bool:
    try:
        return watch.is_dead(owner)
    except ValueError:
        return False  # no name of ours, so that nothing can be proved


def _held(db: Connection, owners: list[str]) -> int:
    """Count again what they hold: a worker that was just ending has given its files back meanwhile."""
    return sum(
        db.value("SELECT count(*) FROM project_files WHERE status = 'processing' AND lease_owner = :owner", owner=owner)
        for owner in owners
    )


def _expired(db: Connection, now: int) -> int:
    """Count leases that ran out a whole lease ago: any worker that lives would have taken them back."""
    return db.value(
        "SELECT count(*) FROM project_files WHERE status = 'processing' AND lease_expires_at < :before",
        before=now - queue.LEASE_MS,
    )


def _working(db: Connection, now: int, gone: list[str]) -> bool:
    """Tell whether anybody who may still live holds a lease that has not run out."""
    live = db.all(
        "SELECT DISTINCT lease_owner FROM project_files WHERE status = 'processing' AND lease_expires_at >= :now",
        now=now,
    )
    return any(owner not in gone for (owner,) in live)


def _due(db: Connection, before_ms: int) -> int:
    return db.value(
        "SELECT count(*) FROM project_files WHERE status = 'pending' AND waiting_for IS NULL"
        " AND (next_attempt_at <= :before_ms OR next_attempt_at IS NULL AND updated_at <= :before)",
        before_ms=before_ms,
        before=datetime.fromtimestamp(before_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _waiting_in_vain(db: Connection) -> int:
    return db.value(
        "SELECT count(*) FROM project_files f LEFT JOIN project_files o ON o.pk = f.waiting_for"
        " WHERE f.waiting_for IS NOT NULL"
        " AND (o.pk IS NULL OR o.waiting_for IS NOT NULL OR o.status NOT IN ('pending', 'processing'))"
    )


def _vectors(db: Connection) -> str:
    return f"{pending.count(db)} memories and messages wait for their vector"


def _maintenance(db: Connection) -> str:
    ended = db.value("SELECT max(ended_at) FROM maintenance")
    return f"last at {ended}" if ended else "never; run knowlex maintain"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB"

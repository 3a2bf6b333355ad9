"""Whether a database can be used and its queue moves on: quick checks that neither raise nor change anything.

No database is made, migrated or mended here. All checks together have ten seconds, and take some
milliseconds unless a lock is held, so that a supervisor may ask as often as it likes.

What is at work is no fault, however long it takes; what cannot go on by itself is one. A probe sees but a
moment, so it is told apart like this:

- The write lock is held: well, as long as whoever holds it works or anybody has written lately. A fault,
  when nothing was written for 30 s *and* the process that holds it does nothing while it is watched for 4 s:
  it is stopped, or waits for something with a transaction open. Where the system names no holder (not Linux,
  another container), a fault after `stuck_after_minutes` without a write.
- The log is long: well, while somebody writes or folds it, or when all of it is folded, or some of it was in the
  last `stuck_after_minutes`, or while a process that reads works, as a backup does; else a reader never ends. Also a
  fault while one works: more than 1 GB waits, and more than the database has; or nothing was folded for ten times
  `stuck_after_minutes` and the process is older than that. It may work at something else, and have forgotten its
  reader.
- A file is being processed: a fault when its worker is provably dead or its lease ran out a whole lease ago,
  unless another works, who takes it back by and by; when it is held for 24 h; or for 2 h in which its worker
  took no file and nobody finished one: a worker that hangs renews its leases, and one that works finishes
  files. A worker on another host is alive until its lease runs out.
- A file is due for `stuck_after_minutes`: a fault unless a worker lives that may come to it. A worker serves
  one project or all, and takes the oldest files first, 16 at a time: one that took newer files of one other
  project, or fewer than 16 of them, while this one was due passes over it, and does not count. While all it
  takes is older, it does.
- A time lies further ahead than a lease, or a wait for another attempt, can: the clock was set back. Such a lease
  has run out, and such a file, as one dated ahead, is due since ever; whoever works takes them.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from storage import (
    clearing,
    files,
    indexed_texts,
    maintain,
    migrations,
    pending,
    queue,
    succession,
    uploads,
    write_lock,
)
from storage.connection import Connection, connect, require_safe_sqlite
from storage.database import require_made
from storage.errors import (
    DatabaseError,
    DiskFullError,
    KnowlexError,
    LockedError,
    NewerSchemaError,
    ReadOnlyError,
)
from storage.event_log import EventLog, code_of
from storage.filesystem import require_local
from storage.ids import now_ms
from storage.paths import database_path, is_there, own_files, size_of

log = EventLog("knowlex.health")

READ_MS = 4000
"""How long to wait for a lock that keeps readers out: the last one to close takes it while it folds the log."""

LOCK_MS = 1000
"""How long to wait for the write lock before its holder is looked at."""

WATCHED_S, LOOK_EVERY_MS = 4.0, 250
"""How long the holder of the write lock is watched for a sign of work, and how often it is looked at."""

SILENT_S = 30.0
"""How long nothing was written when a transaction without a sign of work is a fault: other writers give up then."""

DEADLINE_S = 10.0
"""How long all checks may take together: a disk that does not answer is a fault, too."""

NAMED = 3
"""How many of the texts that the model has no sound vector for are named."""

FREE_BYTES, FREE_SHARE = 100 * 2**20, 0.05
"""What must be free on the disk: so many bytes, and this share of the database, for its log and a large commit."""

LOG_BYTES = 64 * 2**20
"""How much of the log may wait to be folded: four times what it is cut to; a reader that never ends makes it so."""

MOST_LOG_BYTES = 2**30
"""How much of it may wait at most, whoever works, unless the database is larger: a transaction may be of all of it."""

LONGEST_UNFOLDED = 10
"""For how many times `stuck_after_minutes` a process that works may keep the log from being folded."""

HELD_MS, LONGEST_HELD_MS = 2 * 3_600_000, 24 * 3_600_000
"""For how long a worker may hold files and finish none, and a file at all: each may be parsed for an hour at most."""

AHEAD_MS = queue.ATTEMPT_AHEAD_MS
"""By how much a date may lie ahead: longer than any lease, and than any wait for another attempt."""

TABLES = (
    "projects",
    "project_files",
    "file_chunks",
    "conversations",
    "messages",
    "project_memories",
    "app_settings",
    "access_tokens",
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
    due while nobody serves their project. What is a fault and what is not is told above.
    """
    found: list[Check] = []
    path = database_path(path)  # the log lies where a link leads
    thread = threading.Thread(target=_look, args=(path, Watch(is_dead, stuck_after_minutes), found), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    if thread.is_alive():
        found = [*found, Check("answer", False, f"{path}: no answer within {DEADLINE_S:g} s; check the disk", "late")]
    return Health(all(one.ok for one in found), tuple(sorted(found, key=_place)))


def _place(check: Check) -> int:
    """Return where a check is told: who keeps all others from writing is to be ended before anything else is tried."""
    return 0 if check.name == "write" and check.code == "locked" else 1


def _look(path: Path, watch: Watch, found: list[Check]) -> None:
    for one in _checks(path, watch):
        found.append(one)


def _checks(path: Path, watch: Watch) -> Iterator[Check]:
    yield (engine := _tried("sqlite", _sqlite))
    yield (file := _tried("file", partial(_file, path)))
    if not (engine.ok and file.ok):
        return
    yield _tried("disk", partial(_disk, path))
    yield _tried("log", partial(_log, path, watch))
    ours = False
    for one in _reads(path, watch):
        ours = ours or (one.name == "open" and one.ok)
        yield one
    if ours:
        # Last, so that the connection that may write is closed last: it leaves no empty log behind.
        yield _tried("write", partial(_write, path, watch))


def _reads(path: Path, watch: Watch) -> Iterator[Check]:
    try:
        db = connect(path, readonly=True, timeout_ms=READ_MS)
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
    yield _tried("uploads", partial(_uploads, db))
    yield _tried("maintenance", partial(_maintenance, db))


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except KnowlexError as error:
        return Check(name, False, error.message, error.code)
    except OSError as error:
        return Check(name, False, f"{error.filename}: {error.strerror}; check the disk and the rights", "disk")
    except Exception as error:  # a probe that raises tells its caller nothing of the other checks
        log.error("health check raised", check=name, error_code=code_of(error))
        return Check(name, False, f"{type(error).__name__}: {error}; this is a fault in Knowlex", "fault")


def _sqlite() -> str:
    require_safe_sqlite()
    return f"SQLite {apsw.sqlite_lib_version()}"


def _file(path: Path) -> str:
    if is_there(path) and not path.is_file():  # to open a pipe would wait for its other end
        raise DatabaseError(f"{path}: is no file; name another with --db")
    require_made(path)
    require_local(path)
    return f"{path} ({_size(path.stat().st_size)})"


def _disk(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    wanted = max(FREE_BYTES, int(path.stat().st_size * FREE_SHARE))
    if free < wanted:
        raise DiskFullError(f"{path.parent}: {_size(free)} free, {_size(wanted)} needed; free some on that disk")
    return f"{_size(free)} free"


def _log(path: Path, watch: Watch) -> str:
    log_file = own_files(path)[1]
    length = size_of(log_file)
    unfolded = _unfolded(path, length) if length > LOG_BYTES else 0
    if unfolded > LOG_BYTES and not _at_work_on_log(path, unfolded, watch):
        raise DatabaseError(f"{log_file}: the log has grown to {_size(length)}, {_kept_by(path)}", code="long_log")
    return _size(length)


def _kept_by(path: Path) -> str:
    """Say why the log is not folded, and what to do."""
    pids = sorted(write_lock.readers(path))
    if not pids:
        return "as a reader never ends or nothing folds it; run knowlex maintain"
    who = f"process {pids[0]} reads" if len(pids) == 1 else f"one of the processes {', '.join(map(str, pids))} reads"
    return f"as {who} and never ends; end it, then run knowlex maintain"


def _at_work_on_log(path: Path, unfolded: int, watch: Watch) -> bool:
    """Tell whether the log is written or folded, was folded not long ago, or a process that reads it works."""
    silent_s, stuck_s = write_lock.unfolded_s(path), watch.stuck_after_minutes * 60
    if write_lock.folds(path) or (silent_s is not None and silent_s < stuck_s):
        return True
    readers = write_lock.readers(path)
    kept_s = min(silent_s or 0, max(map(write_lock.age_s, readers), default=0))
    if unfolded > max(MOST_LOG_BYTES, size_of(path)) or kept_s > LONGEST_UNFOLDED * stuck_s:
        return False
    if write_lock.holder(path) is not None:
        return True
    before = {pid: write_lock.effort(pid) for pid in readers}
    give_up_at = time.monotonic() + WATCHED_S
    while before and time.monotonic() < give_up_at:
        if any(_works(pid, effort) for pid, effort in before.items()):
            return True
        time.sleep(LOOK_EVERY_MS / 1000)
    return False


def _unfolded(path: Path, length: int) -> int:
    """Return how much of the log is not folded; all of it where that cannot be told."""
    with suppress(KnowlexError):
        db = connect(path, readonly=True, timeout_ms=LOCK_MS)
        try:
            return write_lock.unfolded_bytes(db)
        finally:
            db.close()
    return length


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
    if not db.value("PRAGMA foreign_keys"):
        raise DatabaseError(f"{db.path}: foreign keys are not enforced; install apsw anew")
    if db.value("PRAGMA journal_mode") != "wal":
        return "foreign keys enforced; no write-ahead log, as in a backup: whoever writes to it first gives it one"
    return "write-ahead log, foreign keys enforced"


def _read(db: Connection) -> str:
    db.value("SELECT 1")
    for table in TABLES:
        db.one(f"SELECT * FROM {table} LIMIT 1")
    return f"{len(TABLES)} tables answer"


def _write(path: Path, watch: Watch) -> str:
    db = connect(path, create=False, timeout_ms=LOCK_MS)
    try:
        _require_writable(db)
        if _is_free(db):
            return "the write lock is free"
        db.raw.set_busy_timeout(LOOK_EVERY_MS)
        return _held(db, watch)
    finally:
        db.close()


def _is_free(db: Connection) -> bool:
    try:
        db.script("BEGIN IMMEDIATE; ROLLBACK")
    except LockedError:
        return False
    return True


def _held(db: Connection, watch: Watch) -> str:
    """Tell who holds the write lock; raise LockedError where whoever it is does nothing, by the rules above."""
    pid = write_lock.holder(db.path)
    who = "another process" if pid is None else f"process {pid}"
    allowed_s = watch.stuck_after_minutes * 60 if pid is None else SILENT_S
    before = None if pid is None else write_lock.effort(pid)
    give_up_at = time.monotonic() + WATCHED_S
    while time.monotonic() < give_up_at:
        if _wrote_within(db.path, allowed_s) or _works(pid, before) or _is_free(db):
            return f"{who} writes"
        if write_lock.holder(db.path) != pid:
            return "several processes write by turns"
    raise LockedError(
        f"{db.path}: {who} has held the write lock for longer than {LOCK_MS / 1000 + WATCHED_S:g} s and does nothing;"
        f" end it{'' if pid is None else f' (kill {pid}; where it is stopped, kill -9 {pid})'}"
    )


def _wrote_within(path: Path, seconds: float) -> bool:
    silent = write_lock.silent_s(path)
    return silent is not None and silent < seconds


def _works(pid: int | None, before: write_lock.Effort | None) -> bool:
    return pid is not None and before is not None and write_lock.effort(pid).works_since(before)


def _require_writable(db: Connection) -> None:
    """Raise ReadOnlyError where the file was opened to read only, for want of rights: BEGIN takes no lock then."""
    if db.raw.readonly("main"):
        raise ReadOnlyError(f"{db.path}: cannot be written; check the rights of the file and its folder")


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker that may live: of which projects it holds files, and when it took some last (UTC text)."""

    owner: str
    projects: frozenset[int]
    took_at: str


def _queue(db: Connection, watch: Watch) -> str:
    """Tell how many files wait; raise where some of them will not be done unless somebody acts."""
    now = now_ms()
    gone = [owner for owner in queue.owners(db) if _is_gone(owner, watch)]
    workers = _workers(db, now, gone)
    minutes = watch.stuck_after_minutes
    faults = [
        (0 if workers else _held_by(db, gone), "are held by workers that are gone; run knowlex work --once"),
        (
            0 if workers else _expired(db, now),
            "are held by leases that ran out or end too far ahead; run knowlex work --once",
        ),
        (_hung(db, now, workers), "are held by workers that finish none; end these and run knowlex work"),
        (
            _unserved(db, now - int(minutes * 60_000), now + AHEAD_MS, workers),
            f"are due for more than {minutes:g} minutes and nobody works on their project; run knowlex work",
        ),
        (_waiting_in_vain(db), "wait for a file that is not in the queue; run knowlex verify"),
    ]
    stuck = [_files(count, what) for count, what in faults if count]
    if stuck:
        raise DatabaseError(f"{db.path}: {'; '.join(stuck)}", code="stuck")
    counts = files.counts(db)
    return ", ".join(f"{counts[status]} {status}" for status in ("pending", "processing", "failed"))


def _files(count: int, what: str) -> str:
    """Return how many files do something, such as "1 file is due" and "2 files are due"."""
    verb, _, rest = what.partition(" ")
    return f"1 file {_OF_ONE[verb]} {rest}" if count == 1 else f"{count} files {what}"


_OF_ONE = {"are": "is", "wait": "waits"}


def _is_gone(owner: str, watch: Watch) -> bool:
    try:
        return watch.is_dead(owner)
    except ValueError:
        return False  # no name of ours, so that nothing can be proved


def _held_by(db: Connection, owners: list[str]) -> int:
    """Count again what they hold: a worker that was just ending has given its files back meanwhile."""
    return sum(
        db.value("SELECT count(*) FROM project_files WHERE status = 'processing' AND lease_owner = :owner", owner=owner)
        for owner in owners
    )


def _expired(db: Connection, now: int) -> int:
    """Count leases that ran out a whole lease ago, or end too far ahead: a worker that lives takes them back."""
    return db.value(
        "SELECT count(*) FROM project_files WHERE status = 'processing'"
        " AND (lease_expires_at < :before OR lease_expires_at > :ahead)",
        before=now - queue.LEASE_MS,
        ahead=now + queue.LEASE_AHEAD_MS,
    )


def _workers(db: Connection, now: int, gone: Sequence[str]) -> list[_Worker]:
    """Return those who may live: not provably dead, with a lease that has not run out."""
    rows = db.all(
        "SELECT lease_owner, project_id, updated_at FROM project_files WHERE status = 'processing'"
        " AND lease_expires_at BETWEEN :now AND :ahead",
        now=now,
        ahead=now + queue.LEASE_AHEAD_MS,
    )
    held: dict[str, list[tuple[int, str]]] = {}
    for owner, project, took_at in rows:
        if owner not in gone:
            held.setdefault(owner, []).append((project, took_at))
    return [
        _Worker(owner, frozenset(project for project, _ in of_owner), max(at for _, at in of_owner))
        for owner, of_owner in held.items()
    ]


def _hung(db: Connection, now: int, workers: Sequence[_Worker]) -> int:
    """Count the files of workers that hang: whose process lives, but which finish nothing."""
    long_ago, ahead = _text(now - HELD_MS), _text(now + AHEAD_MS)
    hung = {worker.owner for worker in workers if not long_ago <= worker.took_at <= ahead}
    if hung and _finished_within(db, long_ago, ahead):
        hung = set[str]()
    return sum(
        db.value(
            "SELECT count(*) FROM project_files WHERE status = 'processing' AND lease_owner = :owner"
            " AND (:hung OR updated_at < :longest_ago)",
            owner=worker.owner,
            hung=worker.owner in hung,
            longest_ago=_text(now - LONGEST_HELD_MS),
        )
        for worker in workers
    )


def _finished_within(db: Connection, since: str, until: str) -> bool:
    return bool(
        db.one(
            "SELECT 1 FROM project_files WHERE status IN ('ready', 'failed') AND updated_at BETWEEN :since AND :until"
            " LIMIT 1",
            since=since,
            until=until,
        )
    )


def _unserved(db: Connection, before_ms: int, ahead_ms: int, workers: Sequence[_Worker]) -> int:
    """Count the files that are due since before then, and that no worker will come to."""
    since = {"before_ms": before_ms, "before": _text(before_ms), "ahead_ms": ahead_ms, "ahead": _text(ahead_ms)}
    served = [_served(db, worker, since) for worker in workers]
    if None in served:
        return 0
    counts = db.all(f"SELECT project_id, count(*) FROM project_files WHERE {_DUE_BEFORE} GROUP BY project_id", **since)
    return sum(count for project, count in counts if project not in served)


_DUE_BEFORE = (
    "status = 'pending' AND waiting_for IS NULL AND (updated_at <= :before OR updated_at > :ahead)"
    " AND (next_attempt_at IS NULL OR next_attempt_at <= :before_ms OR next_attempt_at > :ahead_ms)"
)


def _served(db: Connection, worker: _Worker, since: dict[str, Any]) -> int | None:
    """Return the one project that a worker serves; None where it may serve all.

    One that serves all takes files of two projects where two have some; it holds them, or has done with them.
    """
    if len(worker.projects) > 1 or worker.took_at > since["ahead"]:
        return None
    [project] = worker.projects
    others = {"project": project, "took_at": worker.took_at, "ahead": since["ahead"]}
    done = db.one(
        "SELECT 1 FROM project_files WHERE project_id <> :project AND updated_at BETWEEN :took_at AND :ahead LIMIT 1",
        **others,
    )
    passed_over = db.one(
        f"SELECT 1 FROM project_files WHERE {_DUE_BEFORE} AND project_id <> :project"
        " AND (updated_at < :took_at OR updated_at > :ahead)"
        " AND (next_attempt_at IS NULL OR next_attempt_at < :took_ms OR next_attempt_at > :ahead_ms) LIMIT 1",
        took_ms=datetime.fromisoformat(worker.took_at).timestamp() * 1000,
        **since | others,
    )
    return project if passed_over and not done else None


def _text(ms: int) -> str:
    """Return milliseconds since 1970 as the text (UTC) that rows are dated with."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _waiting_in_vain(db: Connection) -> int:
    return db.value(
        "SELECT count(*) FROM project_files f LEFT JOIN project_files o ON o.pk = f.waiting_for"
        " WHERE f.waiting_for IS NOT NULL"
        " AND (o.pk IS NULL OR o.waiting_for IS NOT NULL OR o.status NOT IN ('pending', 'processing'))"
    )


def _vectors(db: Connection) -> str:
    told = [f"vectors that memories and messages wait for: {pending.count(db)}"]
    if refused := pending.count_refused(db):
        named = pending.refused(db, NAMED)
        some = ", ".join([*named, *["…"] * (refused > len(named))])
        told.append(f"that the model has no sound one of: {refused} ({some}); change these, or set precision to fp32")
    if half := succession.building(db):
        # No fault, however old: the live model's vectors are all there.
        told.append(f"{half.model} is being built: {half.vectors} of {half.of} vectors, the last at {half.at}")
        told.append(f"knowlex reembed {half.model} goes on where it is not at work")
    return "; ".join(told)


def _uploads(db: Connection) -> str:
    """Tell of uploads whose bytes are gone: no fault, as what was read of them is found still."""
    if bare := uploads.without_bytes(db):
        return f"{bare} without bytes, so that nothing can read them anew; {uploads.remedy(db.path)}"
    return "all have their bytes"


def _maintenance(db: Connection) -> str:
    if since := clearing.overdue(db):
        raise DatabaseError(
            f"{db.path}: what was erased at {since} is not cleared yet; run knowlex maintain", code="erase_due"
        )
    ended = max(maintain.last(db).values(), default=None)
    return f"last at {ended}" if ended else "never; run knowlex maintain"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count < 2**30 else f"{count / 2**30:.1f} GB"

"""Each thing that can be wrong with a database, planted for real, is one failed check that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest

from storage import backup, files, health, migrations, projects, write_lock
from storage.database import Database
from storage.health import Check, Health
from storage.ids import now_ms
from storage.queue import LEASE_MS, Claim
from workers import runner

LONG_AGO = "2020-01-01T00:00:00.000Z"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database made just now and no copy: what made it is in its log."""
    with Database.open(tmp_path / "test.db") as database:
        yield database


def look(path: Path, *dead: str, minutes: float = 10.0) -> Health:
    return health.check(path, is_dead=lambda owner: owner in dead, stuck_after_minutes=minutes)


def failed(found: Health) -> dict[str, Check]:
    """The failed checks by name; whether any failed is what `ok` says."""
    faults = {check.name: check for check in found.checks if not check.ok}
    assert found.ok is (not faults)
    assert all(check.code and check.detail for check in faults.values())
    assert all(check.code is None for check in found.checks if check.ok)
    return faults


def only_fault(found: Health) -> Check:
    [fault] = failed(found).values()
    return fault


def closed(path: Path) -> Path:
    Database.open(path).close()
    return path


def claim(shelf, owner: str = "worker", **options: int) -> list[Claim]:
    return shelf.claim(owner, **{"now_ms": now_ms()} | options)


def text(hours_ago: float) -> str:
    return health._text(now_ms() - int(hours_ago * 3_600_000))


PlainUser = Callable[[], AbstractContextManager[None]]


@contextmanager
def raw(path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(os.fspath(path))
    try:
        yield connection
    finally:
        connection.close()


def test_a_sound_database_is_well_and_left_as_it_is(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    before = path.read_bytes()
    found = look(path)
    assert failed(found) == {}
    assert [check.name for check in found.checks] == [
        "sqlite", "file", "disk", "log", "open", "schema", "guards", "read", "queue", "vectors",
        "uploads", "maintenance", "write",
    ]  # fmt: skip
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.db"]


def test_a_database_in_use_is_well(shelf) -> None:
    shelf.add("a", "one two")
    shelf.find("b", "three")
    claim(shelf)
    shelf.find("c", "four")
    found = look(shelf.db.path)
    assert failed(found) == {}
    assert "1 pending, 1 processing, 0 failed" in [check.detail for check in found.checks]


# --- the file


@pytest.mark.parametrize("name", ["a.db", "nowhere/a.db"])
def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, name: str) -> None:
    fault = only_fault(look(tmp_path / name))
    assert (fault.name, fault.code) == ("file", "not_found")
    assert "name an existing one" in fault.detail
    assert os.listdir(tmp_path) == []


def test_a_folder_and_a_pipe_are_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    for path in (tmp_path, tmp_path / "pipe.db"):
        fault = only_fault(look(path))
        assert (fault.name, fault.code) == ("file", "database")
        assert "is no file" in fault.detail


def test_a_file_of_another_kind_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"These are notes, not a database. " * 100)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("open", "not_a_database")
    assert path.read_bytes().startswith(b"These are notes")


def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with raw(path) as other:
        list(other.execute("PRAGMA journal_mode = WAL; CREATE TABLE theirs (a)"))
        before = os.listdir(tmp_path), path.read_bytes()
        fault = only_fault(look(path))
        assert (os.listdir(tmp_path), path.read_bytes()) == before
    assert (fault.name, fault.code) == ("open", "not_a_database")
    assert "of another program" in fault.detail


def test_a_damaged_header_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("open", "not_a_database")


def test_a_damaged_table_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as db:
        [(page, size)] = db.execute(
            "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'file_chunks'"
        )
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("read", "corrupt_database")
    assert "restore a backup" in fault.detail


def test_a_truncated_file_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    os.truncate(path, 4096 * 5)
    assert "corrupt_database" in {check.code for check in failed(look(path)).values()}


# --- the schema


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as db:
        db.execute("PRAGMA user_version = 99")
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("schema", "newer_schema")
    assert "upgrade Knowlex" in fault.detail


def test_an_older_schema_is_said_and_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database.open(path) as database:
        database.migrate(migrations.LATEST - 1)
    before = sorted(os.listdir(tmp_path))
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("schema", "old_schema")
    assert "run knowlex migrate" in fault.detail
    with raw(path) as db:
        assert list(db.execute("PRAGMA user_version")) == [(migrations.LATEST - 1,)]
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_of_no_bytes_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.database.MAKING_S", 0.1)
    path = closed(tmp_path / "a.db")
    os.truncate(path, 0)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("file", "corrupt_database")
    assert "holds no bytes; restore a backup (knowlex restore FILE), or remove it to begin anew" in fault.detail
    assert path.stat().st_size == 0


def test_full_text_of_another_version_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as db:
        db.execute("UPDATE text_versions SET version = 0 WHERE source = 'memory'")
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("schema", "old_schema")


def test_a_backup_is_well_and_stays_one(shelf, tmp_path: Path) -> None:
    shelf.add("a", "one two")
    made = backup.make(shelf.db, tmp_path / "copy.db").path
    before = made.read_bytes()
    found = look(made)
    assert failed(found) == {}
    assert [check.detail for check in found.checks if "no write-ahead log, as in a backup" in check.detail]
    assert made.read_bytes() == before


# --- locks, rights and room


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder of a lock is watched for a shorter time."""
    monkeypatch.setattr(health, "LOCK_MS", 50)
    monkeypatch.setattr(health, "WATCHED_S", 0.3)
    monkeypatch.setattr(health, "LOOK_EVERY_MS", 50)


def written(path: Path, seconds_ago: float) -> None:
    """The database and its log were written last so long ago."""
    then = time.time() - seconds_ago
    for file in (path, Path(f"{path}-wal")):
        os.utime(file, (then, then))


HOLDER = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
while sys.argv[2] == "works":
    sum(range(10_000))
sys.stdin.read()
"""


@contextmanager
def held(path: Path, how: str, program: str = HOLDER) -> Iterator[int]:
    """A process "works" or "waits" with the write lock; gives its pid."""
    arguments = [sys.executable, "-c", program, str(path), how]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield holder.pid
        finally:
            holder.kill()


def waits(pid: int) -> None:
    """Return when a process has begun to wait."""
    while write_lock.effort(pid).busy:
        time.sleep(0.01)


needs_names = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux names who holds a lock")


@needs_names
def test_a_write_lock_whose_holder_does_nothing_is_said(tmp_path: Path, quick: None) -> None:
    path = closed(tmp_path / "a.db")
    with held(path, "waits") as pid:
        waits(pid)
        written(path, 31)
        fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("write", "locked")
    assert f"process {pid} has held the write lock" in fault.detail
    assert fault.detail.endswith(f"; end it (kill {pid}; where it is stopped, kill -9 {pid})")
    assert failed(look(path)) == {}


@needs_names
def test_a_process_to_be_ended_is_told_before_what_waits_for_its_end(shelf, quick: None) -> None:
    shelf.find("a", "words")
    claim(shelf, "worker")
    with held(shelf.db.path, "waits") as pid:
        waits(pid)
        written(shelf.db.path, 31)
        found = look(shelf.db.path, "worker")
    assert list(failed(found)) == ["write", "queue"]
    assert found.checks[0].name == "write"


@needs_names
def test_this_process_may_hold_the_lock_and_do_nothing(tmp_path: Path, quick: None) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        written(path, 31)
        assert f"process {os.getpid()} has held" in only_fault(look(path)).detail
        other.execute("ROLLBACK")


@needs_names
def test_a_long_transaction_of_a_process_that_works_is_well(tmp_path: Path, quick: None) -> None:
    path = closed(tmp_path / "a.db")
    with held(path, "works") as pid:
        written(path, 86_400)
        found = look(path)
    assert failed(found) == {}
    assert found.checks[-1].detail == f"process {pid} writes"


@needs_names
def test_a_transaction_that_waits_is_well_where_something_was_just_written(tmp_path: Path, quick: None) -> None:
    path = closed(tmp_path / "a.db")
    with held(path, "waits") as pid:
        waits(pid)
        written(path, 20)
        assert failed(look(path)) == {}


def test_a_holder_that_nobody_names_is_judged_by_what_was_written(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_lock, "LOCKS", tmp_path / "nowhere")
    path = closed(tmp_path / "a.db")
    with held(path, "works"):
        written(path, 500)
        assert failed(look(path)) == {}
        written(path, 700)
        assert "another process has held the write lock" in only_fault(look(path)).detail


def test_a_lock_that_keeps_readers_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READ_MS", 50)
    path = closed(tmp_path / "a.db")
    with raw(path) as other:
        list(other.execute("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE"))
        fault = only_fault(look(path))
        other.execute("ROLLBACK")
    assert (fault.name, fault.code) == ("open", "locked")


def test_a_file_without_the_right_to_write_is_said(open_folder: Path, as_plain_user: PlainUser) -> None:
    open_folder.chmod(0o777)
    path = closed(open_folder / "a.db")
    path.chmod(0o444)
    with as_plain_user():
        fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("write", "read_only")
    assert "check the rights" in fault.detail


def test_a_folder_without_the_right_to_write_is_said(open_folder: Path, as_plain_user: PlainUser) -> None:
    path = closed(open_folder / "a.db")
    path.chmod(0o644)
    open_folder.chmod(0o555)
    with as_plain_user():
        assert failed(look(path))


def test_a_folder_without_the_right_to_look_is_said(open_folder: Path, as_plain_user: PlainUser) -> None:
    path = closed(open_folder / "a.db")
    open_folder.chmod(0o000)
    with as_plain_user():
        fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("file", "database")
    assert "rights" in fault.detail


def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = closed(tmp_path / "a.db")
    monkeypatch.setattr(health, "FREE_BYTES", 2**62)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("disk", "disk_full")


@pytest.fixture
def long_log(db: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database whose log counts as long, and of which nothing was folded for an hour."""
    monkeypatch.setattr(health, "LOG_BYTES", 200_000)
    written(db.path, 3600)
    return db.path


def test_a_log_that_nothing_folds_is_said(long_log: Path) -> None:
    fault = only_fault(look(long_log))
    assert (fault.name, fault.code) == ("log", "long_log")
    assert "run knowlex maintain" in fault.detail


def test_the_log_of_a_database_behind_a_link_is_looked_at(long_log: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(long_log)
    assert only_fault(look(tmp_path / "link.db")).code == "long_log"


def test_a_long_log_of_which_some_was_folded_of_late_is_well(long_log: Path) -> None:
    written(long_log, 300)
    assert failed(look(long_log)) == {}


def test_a_log_that_its_last_user_removes_while_it_is_looked_at_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed(tmp_path / "a.db")
    monkeypatch.setattr(Path, "exists", lambda _: True)  # as it was a moment before
    assert failed(look(path)) == {}
    assert write_lock.silent_s(path) is not None


READER = HOLDER.replace("BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM sqlite_schema")


@needs_names
@pytest.mark.parametrize(("how", "faults"), [("works", set[str]()), ("waits", {"log"})])
def test_a_reader_that_works_is_well_and_one_that_waits_keeps_the_log(
    long_log: Path, quick: None, how: str, faults: set[str]
) -> None:
    """A backup may read for hours while others write."""
    with held(long_log, how, READER) as pid:
        if how == "waits":
            waits(pid)
        assert write_lock.readers(long_log) == {pid}
        assert set(failed(look(long_log))) == faults


@needs_names
def test_a_reader_that_works_does_not_excuse_a_log_of_any_length(
    long_log: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may work at something else, and have forgotten the reader it has open."""
    monkeypatch.setattr(health, "MOST_LOG_BYTES", 0)
    with held(long_log, "works", READER) as pid:
        fault = only_fault(look(long_log))
        assert (fault.name, fault.code) == ("log", "long_log")
        assert f"process {pid} reads and never ends; end it" in fault.detail
        os.truncate(long_log, 2**24)  # as of a database that is larger than its log
        written(long_log, 3600)
        assert "log" not in failed(look(long_log))


@needs_names
def test_nor_does_it_excuse_one_that_is_not_folded_for_long(long_log: Path, quick: None) -> None:
    with held(long_log, "works", READER) as pid:
        assert failed(look(long_log, minutes=1)) == {}  # the process has only just begun
        while write_lock.age_s(pid) < 2:
            time.sleep(0.05)
        assert failed(look(long_log, minutes=7)) == {}
        assert f"process {pid} reads" in only_fault(look(long_log, minutes=0.003)).detail


FOLDER = """
import fcntl, sys
memory = open(sys.argv[1] + "-shm", "r+b")
fcntl.lockf(memory, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 121)
print("held", flush=True)
sys.stdin.read()
"""


@needs_names
def test_a_log_that_is_being_folded_is_well_however_long_it_is(long_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_LOG_BYTES", 0)
    with held(long_log, "folds", FOLDER):
        assert failed(look(long_log)) == {}


def test_a_long_log_that_is_folded_is_well(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large transaction leaves it: the file is cut by the next write."""
    monkeypatch.setattr(health, "LOG_BYTES", 200_000)
    with db.unwrapped() as writer:
        writer.one("PRAGMA wal_checkpoint(PASSIVE)")
    assert Path(f"{db.path}-wal").stat().st_size > 200_000
    assert failed(look(db.path)) == {}


# --- the queue


def test_files_of_a_dead_worker_are_stuck(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf, "dead")
    assert failed(look(shelf.db.path)) == {}
    fault = only_fault(look(shelf.db.path, "dead"))
    assert (fault.name, fault.code) == ("queue", "stuck")
    assert "1 file is held by workers that are gone" in fault.detail


def test_a_lease_that_ran_out_a_lease_ago_is_stuck(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim(now_ms=now_ms() - LEASE_MS - LEASE_MS // 2)
    assert failed(look(shelf.db.path)) == {}
    shelf.find("b", "two")
    shelf.claim(now_ms=now_ms() - 3 * LEASE_MS)
    fault = only_fault(look(shelf.db.path))
    assert fault.code == "stuck"
    assert "1 file is held by leases that ran out" in fault.detail


def age(shelf, name: str) -> None:
    with shelf.db.write() as tx:
        tx.run("UPDATE project_files SET updated_at = :then WHERE filename = :name", then=LONG_AGO, name=name)


def test_due_files_that_nobody_works_on_are_stuck(shelf) -> None:
    shelf.find("a", "one")
    shelf.find("new", "two")
    assert failed(look(shelf.db.path)) == {}
    age(shelf, "a")
    fault = only_fault(look(shelf.db.path))
    assert fault.code == "stuck"
    assert "1 file is due for more than 10 minutes and nobody works" in fault.detail
    assert failed(look(shelf.db.path, minutes=10**8)) == {}


def test_due_files_are_not_stuck_while_somebody_works(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim("worker", now_ms=now_ms())
    shelf.find("b", "two")
    age(shelf, "b")
    assert failed(look(shelf.db.path)) == {}
    assert "is due" in only_fault(look(shelf.db.path, "worker")).detail


def put_in(shelf, name: str) -> None:
    """Make another project, and queue a file in it that is due since long."""
    with shelf.db.write() as tx:
        project = projects.ensure(tx, "other").pk
    mine, shelf.project = shelf.project, project
    shelf.find(name, f"bytes of {name}")
    shelf.project = mine
    age(shelf, name)


def test_a_worker_of_one_project_does_not_serve_another(shelf) -> None:
    """One that served all would have taken the file that is due in the other project, too: it had room for it."""
    shelf.find("a", "one")
    put_in(shelf, "b")
    claim(shelf, project_pk=shelf.project)
    assert "1 file is due" in only_fault(look(shelf.db.path)).detail


def test_a_worker_that_takes_newer_files_passes_over_the_older(shelf) -> None:
    put_in(shelf, "b")
    for number in range(20):
        shelf.find(f"a{number}", f"number {number}")
    claim(shelf, limit=16, project_pk=shelf.project)
    assert "1 file is due" in only_fault(look(shelf.db.path)).detail


@pytest.mark.parametrize("finished", [False, True])
def test_a_file_behind_those_that_a_worker_of_all_projects_took_is_well(shelf, finished: bool) -> None:
    """Of the other project it may hold none any more: it has done with them."""
    for number in range(20):
        shelf.find(f"a{number}", f"number {number}")
        put_in(shelf, f"b{number}")
    taken = claim(shelf, limit=16)
    if finished:
        with shelf.db.write() as tx:
            for one in taken:
                if one.project_pk != shelf.project:
                    files.mark_unreadable(tx, one.pk, code="unreadable", message="gone")
    assert failed(look(shelf.db.path)) == {}


def test_a_worker_of_all_projects_serves_them(shelf) -> None:
    shelf.find("a", "one")
    put_in(shelf, "b")
    claim(shelf, limit=2)
    put_in(shelf, "c")
    assert failed(look(shelf.db.path)) == {}


def test_files_that_came_after_a_worker_took_its_own_prove_nothing(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf)
    spoil(shelf, "UPDATE project_files SET updated_at = :then", then=text(1))
    put_in(shelf, "b")
    spoil(shelf, "UPDATE project_files SET updated_at = :then WHERE filename = 'b'", then=text(0.5))
    assert failed(look(shelf.db.path)) == {}


def test_workers_take_enough_at_a_time_for_two_projects() -> None:
    assert runner.FEWEST_CLAIMS >= 2


def spoil(shelf, sql: str, **values: object) -> None:
    with shelf.db.write() as tx:
        tx.run(sql, **values)


@pytest.mark.parametrize(("hours", "stuck"), [(1.5, False), (3, True), (25, True), (-2, True)])
def test_a_worker_that_renews_its_lease_and_finishes_nothing_hangs(shelf, hours: float, stuck: bool) -> None:
    shelf.find("a", "one")
    claim(shelf)
    spoil(shelf, "UPDATE project_files SET updated_at = :then", then=text(hours))
    assert bool(failed(look(shelf.db.path))) is stuck


@pytest.mark.parametrize(("hours", "stuck"), [(3, False), (25, True)])
def test_a_worker_that_finishes_files_may_hold_one_for_long(shelf, hours: float, stuck: bool) -> None:
    shelf.add("done", "zero")
    shelf.find("a", "one")
    claim(shelf)
    spoil(shelf, "UPDATE project_files SET updated_at = :then WHERE filename = 'a'", then=text(hours))
    assert bool(failed(look(shelf.db.path))) is stuck


def test_a_worker_that_still_takes_files_may_hold_one_for_long(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf)
    spoil(shelf, "UPDATE project_files SET updated_at = :then", then=text(5))
    shelf.find("b", "two")
    claim(shelf)
    assert failed(look(shelf.db.path)) == {}


def test_files_of_a_dead_worker_are_taken_back_by_one_that_works(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf, "dead")
    shelf.find("b", "two")
    claim(shelf, "worker")
    assert failed(look(shelf.db.path, "dead")) == {}
    assert "workers that are gone" in only_fault(look(shelf.db.path, "dead", "worker")).detail


YEAR_MS = 366 * 86_400_000


def test_a_lease_that_ends_in_a_year_is_stuck_unless_somebody_works(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf, now_ms=now_ms() + YEAR_MS)
    assert "1 file is held by leases that ran out or end too far ahead" in only_fault(look(shelf.db.path)).detail
    shelf.find("b", "two")
    claim(shelf)
    assert failed(look(shelf.db.path)) == {}


def test_a_file_that_is_tried_in_ten_years_is_due(shelf) -> None:
    shelf.find("a", "one")
    spoil(shelf, "UPDATE project_files SET next_attempt_at = :then", then=now_ms() + 10 * YEAR_MS)
    assert failed(look(shelf.db.path)) == {}
    age(shelf, "a")
    assert "1 file is due" in only_fault(look(shelf.db.path)).detail


def test_a_file_dated_ahead_is_due_and_stuck_unless_somebody_works(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf)
    shelf.find("b", "two")
    spoil(shelf, "UPDATE project_files SET updated_at = '2099-01-01T00:00:00.000Z' WHERE filename = 'b'")
    assert failed(look(shelf.db.path)) == {}
    assert "1 file is due" in failed(look(shelf.db.path, "worker"))["queue"].detail


def test_a_file_given_back_after_a_late_attempt_is_not_overdue(shelf) -> None:
    shelf.find("a", "one")
    spoil(shelf, "UPDATE project_files SET next_attempt_at = :then", then=now_ms() - 3_600_000)
    assert failed(look(shelf.db.path)) == {}


@pytest.mark.parametrize(("minutes_from_now", "stuck"), [(-11, True), (-9, False), (60, False)])
def test_a_file_that_is_tried_later_is_due_from_then_on(shelf, minutes_from_now: int, stuck: bool) -> None:
    shelf.find("a", "one")
    age(shelf, "a")
    with shelf.db.write() as tx:
        tx.run("UPDATE project_files SET next_attempt_at = :then", then=now_ms() + minutes_from_now * 60_000)
    assert bool(failed(look(shelf.db.path))) is stuck


def test_a_file_that_waits_in_vain_is_stuck(shelf) -> None:
    shelf.add("a", "one")
    shelf.find("b", "two")
    assert failed(look(shelf.db.path)) == {}
    with shelf.db.write() as tx:
        tx.run(
            "UPDATE project_files SET waiting_for = (SELECT pk FROM project_files WHERE filename = 'a')"
            " WHERE filename = 'b'"
        )
    fault = only_fault(look(shelf.db.path))
    assert "1 file waits for a file that is not in the queue" in fault.detail


def test_a_name_of_the_same_bytes_waits_for_the_first(shelf) -> None:
    shelf.find("a", "one")
    shelf.find("b", "one")
    assert failed(look(shelf.db.path)) == {}


# --- the probe itself


def test_an_owner_that_no_worker_is_called_proves_nothing(shelf) -> None:
    shelf.find("a", "one")
    claim(shelf, "someone")

    def is_dead(owner: str) -> bool:
        raise ValueError(owner)

    assert health.check(shelf.db.path, is_dead=is_dead).ok


def test_a_check_that_breaks_is_a_failed_check(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim()

    def is_dead(owner: str) -> bool:
        raise RuntimeError("planted")

    fault = only_fault(health.check(shelf.db.path, is_dead=is_dead))
    assert (fault.name, fault.code) == ("queue", "fault")
    assert "planted" in fault.detail


def test_a_check_that_hangs_does_not_hang_the_probe(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DEADLINE_S", 0.3)
    shelf.find("a", "one")
    shelf.claim()
    go_on = threading.Event()

    def is_dead(owner: str) -> bool:
        return go_on.wait() and False

    found = health.check(shelf.db.path, is_dead=is_dead)
    go_on.set()
    fault = only_fault(found)
    assert (fault.name, fault.code) == ("answer", "late")
    for thread in threading.enumerate():
        if thread.daemon and "_look" in thread.name:
            thread.join()

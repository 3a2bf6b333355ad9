"""Each thing that can be wrong with a database, planted for real, is one failed check that says what to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest

from storage import health, migrations
from storage.database import Database
from storage.health import Check, Health
from storage.ids import now_ms
from storage.queue import LEASE_MS

LONG_AGO = "2020-01-01T00:00:00.000Z"


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
        "sqlite", "file", "disk", "log", "open", "schema", "guards", "read", "queue", "vectors", "maintenance", "write",
    ]  # fmt: skip
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.db"]


def test_a_database_in_use_is_well(shelf) -> None:
    shelf.add("a", "one two")
    shelf.find("b", "three")
    shelf.claim()
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


def test_an_empty_file_has_no_schema_yet(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("schema", "old_schema")
    assert path.stat().st_size == 0


def test_full_text_of_another_version_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as db:
        db.execute("UPDATE text_versions SET version = 0 WHERE source = 'memory'")
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("schema", "old_schema")


def test_a_database_without_its_log_is_said(tmp_path: Path) -> None:
    path = closed(tmp_path / "a.db")
    with raw(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    fault = only_fault(look(path))
    assert fault.name == "guards"
    assert "mode delete" in fault.detail


# --- locks, rights and room


def test_a_write_lock_that_is_held_is_said_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOCK_MS", 50)
    path = closed(tmp_path / "a.db")
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        fault = only_fault(look(path))
        other.execute("ROLLBACK")
        assert failed(look(path)) == {}
    assert (fault.name, fault.code) == ("write", "locked")
    holder = f"process {os.getpid()}" if Path("/proc/locks").exists() else "another process"
    assert f"{holder} has held the write lock" in fault.detail


def test_a_lock_that_keeps_readers_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOCK_MS", 50)
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
    assert (fault.name, fault.code) == ("file", "disk")
    assert "rights" in fault.detail


def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = closed(tmp_path / "a.db")
    monkeypatch.setattr(health, "FREE_BYTES", 2**62)
    fault = only_fault(look(path))
    assert (fault.name, fault.code) == ("disk", "disk_full")


def test_a_log_that_nothing_folds_is_said(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOG_BYTES", 200_000)
    fault = only_fault(look(db.path))
    assert (fault.name, fault.code) == ("log", "long_log")
    assert "run knowlex maintain" in fault.detail


# --- the queue


def test_files_of_a_dead_worker_are_stuck(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim("dead")
    assert failed(look(shelf.db.path)) == {}
    fault = only_fault(look(shelf.db.path, "dead"))
    assert (fault.name, fault.code) == ("queue", "stuck")
    assert "1 files are held by workers that are gone" in fault.detail


def test_a_lease_that_ran_out_a_lease_ago_is_stuck(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim(now_ms=now_ms() - LEASE_MS - LEASE_MS // 2)
    assert failed(look(shelf.db.path)) == {}
    shelf.find("b", "two")
    shelf.claim(now_ms=now_ms() - 3 * LEASE_MS)
    fault = only_fault(look(shelf.db.path))
    assert fault.code == "stuck"
    assert "1 files are held by leases that ran out" in fault.detail


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
    assert "1 files are due for more than 10 minutes and nobody works" in fault.detail
    assert failed(look(shelf.db.path, minutes=10**8)) == {}


def test_due_files_are_not_stuck_while_somebody_works(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim("worker", now_ms=now_ms())
    shelf.find("b", "two")
    age(shelf, "b")
    assert failed(look(shelf.db.path)) == {}
    assert "are due" in only_fault(look(shelf.db.path, "worker")).detail


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
    assert "1 files wait for a file that is not in the queue" in fault.detail


def test_a_name_of_the_same_bytes_waits_for_the_first(shelf) -> None:
    shelf.find("a", "one")
    shelf.find("b", "one")
    assert failed(look(shelf.db.path)) == {}


# --- the probe itself


def test_an_owner_that_no_worker_is_called_proves_nothing(shelf) -> None:
    shelf.find("a", "one")
    shelf.claim("someone")

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

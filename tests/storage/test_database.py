"""Transactions, and opening a database: new, existing, somebody else's, newer, twice at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import stat
import threading
import warnings
from multiprocessing.synchronize import Barrier
from pathlib import Path

import apsw
import pytest

from storage import migrations, settings
from storage.database import READERS, Database
from storage.errors import (
    ConstraintError,
    DatabaseError,
    DiskFullError,
    LockedError,
    NewerSchemaError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_and_fail(db: Database) -> None:
    with db.write() as connection:
        settings.set(connection, "a", 1)
        raise RuntimeError


def write_much(db: Database) -> None:
    with db.write() as connection:
        for number in range(100):
            settings.set(connection, str(number), "x" * 4000)


def test_a_write_is_kept_and_seen_by_the_next_reader(db: Database) -> None:
    with db.write() as connection:
        settings.set(connection, "a", 1)
    with db.read() as connection:
        assert settings.get(connection, "a") == 1


def test_an_exception_rolls_back_the_whole_block(db: Database) -> None:
    with pytest.raises(RuntimeError):
        write_and_fail(db)
    with db.read() as connection:
        assert settings.all(connection) == {}


def test_after_a_rollback_the_database_goes_on(db: Database) -> None:
    with pytest.raises(RuntimeError):
        write_and_fail(db)
    with pytest.raises(ConstraintError), db.write() as connection:
        connection.run(
            "INSERT INTO messages (id, conversation_id, role, content, created_at, updated_at)"
            " VALUES ('', 9, 'user', '', '', '')"
        )
    with db.write() as connection:
        settings.set(connection, "b", 2)
    with db.read() as connection:
        assert settings.all(connection) == {"b": 2}


def test_a_reader_sees_one_snapshot_to_its_end(db: Database) -> None:
    with db.read() as reader:
        assert settings.all(reader) == {}
        with db.write() as writer:
            settings.set(writer, "a", 1)
        assert settings.all(reader) == {}
    with db.read() as reader:
        assert settings.all(reader) == {"a": 1}


def test_a_write_that_is_under_way_is_not_seen(db: Database) -> None:
    with db.write() as writer:
        settings.set(writer, "a", 1)
        with db.read() as reader:
            assert settings.all(reader) == {}


def test_a_reader_whose_block_failed_is_not_used_again(db: Database) -> None:
    with pytest.raises(RuntimeError), db.read() as first:
        raise RuntimeError
    with db.read() as second:
        assert second.raw is not first.raw
        assert second.value("SELECT 1") == 1


def test_a_write_inside_a_write_is_an_error_and_no_deadlock(db: Database) -> None:
    with pytest.raises(DatabaseError, match="within a transaction"), db.write(), db.write():
        pass


def test_many_threads_read_and_write_at_once(db: Database) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                with db.write() as connection:
                    settings.set(connection, f"{number}.{turn}", turn)
                with db.read() as connection:
                    assert settings.get(connection, f"{number}.{turn}") == turn
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2 * READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with db.read() as connection:
        assert len(settings.all(connection)) == 2 * READERS * 20


def test_a_writer_locked_out_by_another_process_says_so(db: Database) -> None:
    with db.write() as connection:
        connection.raw.set_busy_timeout(20)
    other = apsw.Connection(os.fspath(db.path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockedError, match="try again"), db.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with db.write() as connection:
        settings.set(connection, "a", 1)


def test_a_full_disk_keeps_nothing_and_the_database_goes_on(db: Database) -> None:
    with db.write() as connection:
        pages = connection.value("PRAGMA page_count")
        connection.value(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(DiskFullError, match="free some"):
        write_much(db)
    with db.write() as connection:
        settings.set(connection, "a", 1)
    with db.read() as connection:
        assert settings.all(connection) == {"a": 1}
        assert connection.value("PRAGMA integrity_check") == "ok"


# --- opening


def test_a_new_file_and_its_log_are_for_the_owner_alone(tmp_path: Path) -> None:
    with Database.open(tmp_path / "deep" / "a.db") as db:
        with db.write() as connection:
            settings.set(connection, "a", 1)
        assert {name.name: mode(name) for name in db.path.parent.iterdir()} == {
            "a.db": 0o600,
            "a.db-wal": 0o600,
            "a.db-shm": 0o600,
        }


def test_a_closed_database_leaves_one_file_and_refuses_work(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "a.db")
    with db.read():
        pass
    db.close()
    db.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    with pytest.raises(DatabaseError, match="is closed"), db.read():
        pass
    with pytest.raises(DatabaseError, match="is closed"), db.write():
        pass


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    with Database.open(tmp_path / "a.db") as db, db.write() as connection:
        settings.set(connection, "a", 1)
    before = (tmp_path / "a.db").read_bytes()
    with Database.open(tmp_path / "a.db") as db, db.read() as connection:
        assert settings.get(connection, "a") == 1
    assert (tmp_path / "a.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_the_environment_names_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWLEX_DB", os.fspath(tmp_path / "b.db"))
    with Database.open() as db:
        assert db.path == tmp_path / "b.db"


def test_a_read_only_database_reads_and_refuses_to_write(tmp_path: Path) -> None:
    with Database.open(tmp_path / "a.db") as db, db.write() as connection:
        settings.set(connection, "a", 1)
    with Database.open(tmp_path / "a.db", readonly=True) as db:
        with db.read() as connection:
            assert settings.get(connection, "a") == 1
        with pytest.raises(ReadOnlyError, match=r"a\.db"), db.write() as connection:
            settings.set(connection, "a", 2)


def test_a_read_only_database_leaves_no_file_that_was_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database.open(path) as db, db.write() as connection:
        settings.set(connection, "a", 1)
    for _ in range(2):
        with Database.open(path, readonly=True) as db, db.read() as connection:
            assert settings.get(connection, "a") == 1
        assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_database_leaves_a_log_that_it_found(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database.open(path) as db:
        with db.write() as connection:
            settings.set(connection, "a", 1)
        db._writer.raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # as if it were killed
    before = {file: file.read_bytes() for file in (path, path.with_name("a.db-wal"))}
    assert all(before.values())
    with Database.open(path, readonly=True) as db, db.read() as connection:
        assert settings.get(connection, "a") == 1
    assert {file: file.read_bytes() for file in before} == before


def test_a_read_only_database_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such database"):
        Database.open(tmp_path / "a.db", readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_database_is_not_migrated(tmp_path: Path) -> None:
    with Database.open(tmp_path / "a.db") as db:
        db.migrate(1)
    with pytest.raises(ReadOnlyError, match="knowlex migrate"):
        Database.open(tmp_path / "a.db", readonly=True)


def test_a_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    other = apsw.Connection(os.fspath(path))
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    with pytest.raises(NotADatabaseError, match="another program"):
        Database.open(path)
    other = apsw.Connection(os.fspath(path))
    assert list(other.execute("SELECT name FROM sqlite_schema")) == [("bookmarks",)]
    assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    other.close()


def test_a_database_marked_by_another_program_is_refused(tmp_path: Path) -> None:
    other = apsw.Connection(os.fspath(tmp_path / "theirs.db"))
    other.execute("PRAGMA application_id = 252006675")
    other.close()
    with pytest.raises(NotADatabaseError, match="another program"):
        Database.open(tmp_path / "theirs.db")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Database.open(tmp_path / "a.db").close()
    other = apsw.Connection(os.fspath(tmp_path / "a.db"))
    other.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    other.close()
    with pytest.raises(NewerSchemaError, match="upgrade Knowlex"):
        Database.open(tmp_path / "a.db")


def test_a_schema_migrated_meanwhile_stops_the_writer(db: Database) -> None:
    other = apsw.Connection(os.fspath(db.path))
    other.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    other.close()
    with pytest.raises(NewerSchemaError, match="start anew"), db.write():
        pass


def test_a_folder_or_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatabaseError, match="file"):
        Database.open(tmp_path / "file" / "a.db")
    with pytest.raises(DatabaseError, match="is a folder"):
        Database.open(tmp_path)


def test_a_reader_that_ends_after_the_close_is_closed(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "a.db")
    with db.read() as connection:
        db.close()
        assert connection.value("SELECT count(*) FROM projects") == 0
    with pytest.raises(DatabaseError):
        connection.value("SELECT 1")


def test_a_network_file_system_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise DatabaseError(f"{path}: on a network file system (nfs)")

    monkeypatch.setattr("storage.database.require_local", refuse)
    with pytest.raises(DatabaseError, match="network"):
        Database.open(tmp_path / "a.db")
    assert list(tmp_path.iterdir()) == []


# --- several processes


def open_and_mark(path: Path, barrier: Barrier, key: str) -> None:
    barrier.wait()
    with Database.open(path) as db, db.write() as connection:
        settings.set(connection, key, os.getpid())


def test_processes_that_make_the_same_database_at_once_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "storage.database", "storage.settings"])
    for turn in range(5):
        path = tmp_path / f"{turn}.db"
        barrier = context.Barrier(3)
        children = [context.Process(target=open_and_mark, args=(path, barrier, str(n))) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0, 0]
        with Database.open(path) as db, db.read() as connection:
            assert sorted(settings.all(connection)) == ["0", "1", "2"]
            assert migrations.version(connection) == migrations.LATEST
            assert connection.value("SELECT count(*) FROM schema_migrations") == migrations.LATEST


def try_in_child(db: Database) -> str:
    """Fork, try to use `db` in the child, and return what it said."""
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            with db.read():
                pass
        except DatabaseError as error:
            said = error.message
        os.write(sender, said.encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def test_a_connection_is_not_carried_over_a_fork(db: Database) -> None:
    with db.write() as connection:
        settings.set(connection, "a", 1)
    assert "before a fork" in try_in_child(db)
    with db.read() as connection:
        assert settings.get(connection, "a") == 1


def test_a_batch_that_the_engine_undid_keeps_nothing(db: Database) -> None:
    """A full disk undoes the whole transaction: what a caller writes after it caught that must not be kept either."""
    with db.unwrapped() as connection:
        connection.value("PRAGMA max_page_count = 120")
    with pytest.raises(DatabaseError, match="an error undid the whole transaction"):
        go_on_after_a_full_disk(db)
    with db.unwrapped() as connection:
        connection.value("PRAGMA max_page_count = 1000000")
    with db.read() as connection:
        assert settings.all(connection) == {}
    with db.write() as connection:
        settings.set(connection, "a", 1)


def go_on_after_a_full_disk(db: Database) -> None:
    with db.batch():
        with db.write() as connection:
            settings.set(connection, "first", 1)
        with pytest.raises(DiskFullError), db.write() as connection:
            settings.set(connection, "large", "x" * 3_000_000)
        with db.write() as connection:
            settings.set(connection, "second", 2)


def test_a_database_is_not_closed_within_a_batch(db: Database) -> None:
    with db.batch():
        with pytest.raises(DatabaseError, match="cannot be closed within a transaction"):
            db.close()
        with db.write() as connection:
            settings.set(connection, "a", 1)
    with db.read() as connection:
        assert settings.get(connection, "a") == 1


def test_a_batch_within_a_batch_and_work_outside_one_are_refused(db: Database) -> None:
    with db.batch(), pytest.raises(DatabaseError, match="a batch is open"), db.batch():
        pass
    with db.write(), pytest.raises(DatabaseError, match="within a transaction"), db.unwrapped():
        pass


def test_reads_in_a_batch_see_its_writes_and_those_of_others_do_not(db: Database) -> None:
    with db.batch():
        with db.write() as connection:
            settings.set(connection, "a", 1)
        with db.read() as connection:
            assert settings.get(connection, "a") == 1
        seen: list[object] = []
        other = threading.Thread(target=lambda: seen.append(read_setting(db, "a")))
        other.start()
        other.join()
        assert seen == [None]


def read_setting(db: Database, key: str) -> object:
    with db.read() as connection:
        return settings.get(connection, key)


def test_a_read_that_finds_no_place_gives_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as open_reads:
        for _ in range(READERS):
            open_reads.enter_context(db.read())
        monkeypatch.setattr("storage.database.BUSY_TIMEOUT_MS", 1)
        with pytest.raises(LockedError, match="4 reads of this process do not end; end one of them first"), db.read():
            pass
    with db.read() as connection:
        assert settings.all(connection) == {}


def test_a_commit_counts_whose_log_another_thread_removes_meanwhile(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last to use a database removes its log."""
    pause = db._pause

    def closed_meanwhile(before: int) -> None:
        db.close()
        monkeypatch.setattr(Path, "exists", lambda _: True)  # as it was a moment before
        pause(before)
        monkeypatch.undo()

    monkeypatch.setattr(db, "_pause", closed_meanwhile)
    with db.write() as connection:
        settings.set(connection, "a", 1)
    with Database.open(db.path) as again, again.read() as connection:
        assert settings.get(connection, "a") == 1

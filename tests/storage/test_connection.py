"""Every connection is guarded, and the engine's faults arrive as ours."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest
from faults.mounts import LOCAL, REMOTE
from faults.vfs import FailingCalls

from storage import settings
from storage.connection import (
    BUSY_TIMEOUT_MS,
    Connection,
    connect,
    load_vector_functions,
    require_safe_sqlite,
    translated,
    use_log,
)
from storage.database import Database
from storage.errors import (
    ConfigurationError,
    ConstraintError,
    CorruptDatabaseError,
    DatabaseError,
    DiskFullError,
    LockedError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
)
from storage.filesystem import require_local
from storage.ids import new_id
from storage.paths import database_path, own_files

PlainUser = Callable[[], AbstractContextManager[None]]


@contextmanager
def opened(path: Path, *, readonly: bool = False) -> Iterator[Connection]:
    connection = connect(path, readonly=readonly)
    try:
        yield connection
    finally:
        connection.close()


def guards(connection: Connection) -> dict[str, object]:
    found: dict[str, object] = {
        name: connection.value(f"PRAGMA {name}")
        for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "trusted_schema")
    }
    found["busy_timeout"] = connection.value("PRAGMA busy_timeout")
    found["defensive"] = connection.raw.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1)
    return found


GUARDED = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "recursive_triggers": 1,
    "trusted_schema": 0,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "defensive": 1,
}


def test_the_writer_and_every_reader_are_guarded(db: Database) -> None:
    with db.write() as writer:
        assert guards(writer) == GUARDED
    with db.read() as first, db.read() as second:
        assert first.raw is not second.raw
        assert guards(first) == guards(second) == GUARDED


def test_double_quotes_never_turn_a_misspelt_column_into_text(db: Database) -> None:
    with db.read() as connection, pytest.raises(DatabaseError, match="nme"):
        connection.all('SELECT "nme" FROM projects')


def test_shadow_tables_of_the_text_index_cannot_be_written(db: Database) -> None:
    with pytest.raises(DatabaseError), db.write() as connection:
        connection.run("DELETE FROM chunk_fts_data")


def test_a_reader_cannot_write(db: Database) -> None:
    with pytest.raises(ReadOnlyError, match="cannot be written"), db.read() as connection:
        connection.run("DELETE FROM projects")


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.52.0"])
def test_a_sqlite_that_loses_commits_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SQLite {version}"):
        require_safe_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.53.0", "4.0.0"])
def test_a_sqlite_with_the_mend_is_accepted(version: str) -> None:
    require_safe_sqlite(version)


def test_the_linked_sqlite_is_accepted() -> None:
    require_safe_sqlite()


def test_statements_give_rows_values_and_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as db:
        db.script("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, 'x') RETURNING a;")
        db.many("INSERT INTO t (a, b) VALUES (:a, :b)", [{"a": 2, "b": "y"}, {"a": 3, "b": "z"}])
        assert db.last_pk() == 3
        assert db.all("SELECT b FROM t WHERE a > :a ORDER BY a", a=1) == [("y",), ("z",)]
        assert db.one("SELECT a, b FROM t ORDER BY a") == (1, "x")
        assert db.one("SELECT a FROM t WHERE a = 9") is None
        assert db.value("SELECT a FROM t WHERE a = 9") is None
        assert db.run("UPDATE t SET b = 'w' WHERE a > :a", a=1) == 2


def test_a_unique_key_violated_is_a_constraint_error(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as db:
        db.script("CREATE TABLE t (a TEXT UNIQUE); INSERT INTO t VALUES ('x')")
        with pytest.raises(ConstraintError, match=r"t\.a"):
            db.run("INSERT INTO t (a) VALUES ('x')")


def test_text_that_is_not_unicode_is_a_usage_error(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as db, pytest.raises(UsageError, match="Unicode"):
        db.value("SELECT :text", text="\ud83d")


def test_the_lock_held_elsewhere_is_a_locked_error(db: Database) -> None:
    with opened(db.path) as other:
        other.script("BEGIN IMMEDIATE")
        with opened(db.path) as late:
            late.raw.set_busy_timeout(20)
            with pytest.raises(LockedError, match="another process holds the write lock"):
                late.script("BEGIN IMMEDIATE")


def test_the_switch_to_the_log_waits_for_others(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as reader, opened(tmp_path / "a.db") as db:
        reader.script("CREATE TABLE t (a); BEGIN; SELECT * FROM t")
        db.raw.set_busy_timeout(0)
        release = threading.Timer(0.1, lambda: reader.script("ROLLBACK"))
        release.start()
        use_log(db)
        release.join()
        assert db.value("PRAGMA journal_mode") == "wal"
        use_log(db)


def test_the_switch_to_the_log_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.connection.BUSY_TIMEOUT_MS", 50)
    with opened(tmp_path / "a.db") as reader, opened(tmp_path / "a.db") as db:
        reader.script("CREATE TABLE t (a); BEGIN; SELECT * FROM t")
        with pytest.raises(LockedError):
            use_log(db)


def test_a_file_that_cannot_have_a_log_is_refused(tmp_path: Path) -> None:
    raw = apsw.Connection(":memory:")
    with pytest.raises(DatabaseError, match="cannot use a write-ahead log \\(mode stays memory\\)"):
        use_log(Connection(raw, tmp_path / "a.db"))


def test_a_full_disk_is_a_disk_full_error(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as db:
        db.script("CREATE TABLE t (a BLOB)")
        db.value("PRAGMA max_page_count = 20")
        with pytest.raises(DiskFullError, match="no space left"):
            db.run("INSERT INTO t (a) VALUES (zeroblob(1000000))")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_full_disk_is_told_wherever_it_is_met(tmp_path: Path, nth: int, number: int) -> None:
    """First where the engine makes the memory that all users of a log share, and calls it an error of the disk."""
    path = tmp_path / "a.db"
    Database.open(path).close()
    with FailingCalls("write", nth, number, lasting=True) as calls, pytest.raises(DiskFullError, match="no space left"):
        use(path)
    assert calls.acted
    use(path)


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_broken_disk_is_no_full_one(tmp_path: Path, nth: int) -> None:
    path = tmp_path / "a.db"
    Database.open(path).close()
    with FailingCalls("write", nth, errno.EIO, lasting=True), pytest.raises(DatabaseError, match="the disk") as raised:
        use(path)
    assert not isinstance(raised.value, DiskFullError)


def use(path: Path) -> None:
    with Database.open(path) as db, db.write() as connection:
        settings.set(connection, new_id(), "a value")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"These are notes, not a database. " * 100)
    with pytest.raises(NotADatabaseError, match=r"notes\.txt: not a Knowlex database"):
        connect(path)
    assert path.read_bytes().startswith(b"These are notes")


def test_a_damaged_page_is_a_corrupt_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with opened(path) as db:
        db.script("CREATE TABLE t (a TEXT); CREATE INDEX i ON t (a); INSERT INTO t VALUES ('x')")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with opened(path) as db, pytest.raises(CorruptDatabaseError, match="restore a backup"):
        db.all("SELECT * FROM t")


def test_an_unknown_fault_keeps_its_cause(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no such table: nowhere"), opened(tmp_path / "a.db") as db:
        db.all("SELECT * FROM nowhere")


def test_an_input_output_error_sends_to_the_disk() -> None:
    with pytest.raises(DatabaseError, match="the disk reports an error"), translated(Path("a.db")):
        raise apsw.IOError("disk I/O error")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="folder exists"):
        connect(tmp_path / "nowhere" / "a.db")


def test_reading_needs_an_existing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such database"):
        connect(tmp_path / "a.db", readonly=True)
    assert not (tmp_path / "a.db").exists()


def test_a_file_without_the_right_to_write_is_read_only(open_folder: Path, as_plain_user: PlainUser) -> None:
    path = open_folder / "a.db"
    Database.open(path).close()
    path.chmod(0o444)
    open_folder.chmod(0o777)
    with as_plain_user(), opened(path) as db:
        assert db.all("SELECT name FROM projects") == []
        with pytest.raises(ReadOnlyError, match="check the rights"):
            db.run("DELETE FROM projects")


def test_a_folder_without_the_right_to_write_is_read_only(open_folder: Path, as_plain_user: PlainUser) -> None:
    open_folder.chmod(0o555)
    with as_plain_user(), pytest.raises(ReadOnlyError, match="check the rights of its folder"):
        Database.open(open_folder / "a.db")
    open_folder.chmod(0o755)


def test_the_vector_functions_work_and_extensions_are_locked_again(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as db:
        load_vector_functions(db)
        distance = db.value("SELECT vec_distance_hamming(vec_bit(:a), vec_bit(:b))", a=b"\xff", b=b"\x0f")
        assert distance == 4
        with pytest.raises(DatabaseError, match="not authorized"):
            db.value("SELECT load_extension('vec0')")


# --- network file systems


def mounts(tmp_path: Path, *lines: str) -> Path:
    table = tmp_path / "mounts"
    table.write_text("\n".join(("rootfs / ext4 rw 0 0", *lines)) + "\n", "utf8")
    return table


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_file_system_is_taken(tmp_path: Path, kind: str) -> None:
    require_local(tmp_path / "disk" / "a.db", mounts(tmp_path, f"/dev/sda1 {tmp_path}/disk {kind} rw 0 0"))


@pytest.mark.parametrize("kind", REMOTE)
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    table = mounts(tmp_path, f"server:/x {tmp_path}/share {kind} rw 0 0")
    with pytest.raises(DatabaseError, match=f"network file system \\({kind}\\)"):
        require_local(tmp_path / "share" / "deep" / "a.db", table)
    require_local(tmp_path / "shared.db", table)


def test_the_innermost_mount_decides(tmp_path: Path) -> None:
    table = mounts(tmp_path, f"a {tmp_path}/share nfs rw 0 0", f"b {tmp_path}/share/disk ext4 rw 0 0")
    require_local(tmp_path / "share" / "disk" / "a.db", table)


def test_a_link_onto_a_network_file_system_is_followed(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    with pytest.raises(DatabaseError, match="network"):
        require_local(tmp_path / "link" / "a.db", mounts(tmp_path, f"s {tmp_path}/share nfs rw 0 0"))


def test_a_mount_point_with_a_blank_or_an_accent_is_understood(tmp_path: Path) -> None:
    table = mounts(tmp_path, f"s {tmp_path}/mes\\040données nfs rw 0 0")
    with pytest.raises(DatabaseError, match="network"):
        require_local(tmp_path / "mes données" / "a.db", table)


def test_a_system_without_a_mount_table_refuses_nothing(tmp_path: Path) -> None:
    require_local(tmp_path / "a.db", tmp_path / "missing")


# --- where the database lies


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("KNOWLEX_DB", raising=False)
    monkeypatch.delenv("KNOWLEX_ENV", raising=False)
    return monkeypatch


def test_a_given_path_comes_first(plain_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment.setenv("KNOWLEX_DB", "/elsewhere/b.db")
    assert database_path(tmp_path / "a.db") == tmp_path / "a.db"
    assert database_path() == Path("/elsewhere/b.db")


def test_a_relative_path_is_made_absolute(plain_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment.chdir(tmp_path)
    assert database_path("a.db") == tmp_path / "a.db"


def test_a_home_is_expanded(plain_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment.setenv("HOME", os.fspath(tmp_path))
    assert database_path("~/a.db") == tmp_path / "a.db"


def test_development_uses_the_folder_one_stands_in(plain_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment.chdir(tmp_path)
    plain_environment.setenv("KNOWLEX_ENV", "development")
    assert database_path() == tmp_path / "data" / "knowlex.db"
    assert not (tmp_path / "data").exists()


def test_otherwise_the_users_data_folder_is_used(plain_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment.setenv("HOME", os.fspath(tmp_path))
    plain_environment.delenv("XDG_DATA_HOME", raising=False)
    path = database_path()
    assert path.name == "knowlex.db"
    assert path.is_relative_to(tmp_path)


def test_the_engines_own_files_are_known(tmp_path: Path) -> None:
    assert [path.name for path in own_files(tmp_path / "a.db")] == [
        "a.db",
        "a.db-wal",
        "a.db-shm",
        "a.db-journal",
    ]

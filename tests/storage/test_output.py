"""What a user names to be written replaces nothing but an older file of its kind, and is whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from storage import scratch
from storage.errors import DatabaseError, UsageError
from storage.output import Kind, replacing, require_free, same
from storage.snapshot import kept

NOTE = Kind("note", re.compile(rb"note \d+\n"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "k.db"
    path.write_bytes(b"rows")
    return path


def test_nothing_but_an_older_file_of_its_kind_is_replaced(tmp_path: Path, database: Path) -> None:
    for content, free in ((None, True), (b"", True), (b"note 7\nand more", True), (b"note seven\n", False)):
        file = tmp_path / "file"
        if content is not None:
            file.write_bytes(content)
        if free:
            require_free(file, database, NOTE)
        else:
            with pytest.raises(UsageError, match="exists and is no older note"):
                require_free(file, database, NOTE)
    with pytest.raises(UsageError, match="is a folder"):
        require_free(tmp_path, database, NOTE)
    with pytest.raises(UsageError, match="cannot be written"):
        require_free(tmp_path / "none" / "file", database, NOTE)
    with pytest.raises(UsageError, match="cannot be written"):
        require_free(tmp_path / ("x" * 300), database, NOTE)
    with pytest.raises(UsageError, match="standard output is for the answer"):
        require_free(Path("-"), database, NOTE)


@pytest.mark.parametrize("name", ["k.db", "k.db-wal", "k.db-shm", "k.db-journal", "link", "twin", ".k.db.1-0.scratch"])
def test_no_file_of_the_database_is_written(tmp_path: Path, database: Path, name: str) -> None:
    database.write_bytes(b"")  # empty, it would pass for one that may be replaced
    (tmp_path / "link").symlink_to(database)
    (tmp_path / "twin").hardlink_to(database)
    with pytest.raises(UsageError, match="belongs to the database itself"):
        require_free(tmp_path / name, database, NOTE)


COPY = re.compile(r"belongs to k\.db, with the copies of which erase would remove it")


@pytest.mark.parametrize("suffix", ["before-v5", "before-restore", "before-repair", "damaged"])
@pytest.mark.parametrize("end", ["", ".2", ".12-wal"])
def test_no_name_of_a_copy_that_erase_removes_is_written(tmp_path: Path, suffix: str, end: str) -> None:
    database, name = tmp_path / "k.db", f"k.db.{suffix}{end}"
    (tmp_path / "link").symlink_to(name)
    (tmp_path / "folder").symlink_to(tmp_path)
    for target in (name, "link", f"folder/{name}"):
        with pytest.raises(UsageError, match=COPY):
            require_free(tmp_path / target, database, NOTE)
    database.write_bytes(b"rows")
    with pytest.raises(UsageError, match=COPY):  # the other database's erase would remove it
        require_free(tmp_path / name, tmp_path / "other.db", NOTE)


def test_a_file_in_a_folder_that_may_not_be_looked_into_is_refused(
    open_folder: Path, database: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    closed = open_folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    for name in ("note", "k.db.before-v5"):
        with as_plain_user(), pytest.raises(UsageError, match=f"{name}: cannot be written"):
            require_free(closed / name, database, NOTE)


def test_names_that_erase_leaves_alone_are_written(tmp_path: Path, database: Path) -> None:
    for name in ("k.db.before-v1.bak", "k.db.old", "k.db.damaged.x", "gone.db.damaged"):
        require_free(tmp_path / name, database, NOTE)
        (tmp_path / name).write_bytes(b"")
        assert kept(database) == [], name
    (tmp_path / "elsewhere").mkdir()
    require_free(tmp_path / "elsewhere" / "k.db.damaged", database, NOTE)


def test_no_name_of_what_a_killed_process_left_is_written(tmp_path: Path) -> None:
    """Also where the name of the database is too long to be part of it."""
    database = tmp_path / f"{'x' * 200}.db"
    with scratch.beside(database, database) as path:
        name = path.name
    with pytest.raises(UsageError, match="belongs to the database itself"):
        require_free(tmp_path / name, database, NOTE)


@pytest.mark.parametrize(("fault", "raised"), [(KeyError(), KeyError), (OSError(5, "broken"), DatabaseError)])
def test_a_block_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, database: Path, fault: Exception, raised: type[Exception]
) -> None:
    def write() -> None:
        with replacing(file, database) as stream:
            stream.write(b"note 2\n")
            raise fault

    file = tmp_path / "file"
    file.write_bytes(b"note 1\n")
    with pytest.raises(raised):
        write()
    assert file.read_bytes() == b"note 1\n"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "k.db"}


def test_what_a_link_leads_to_is_replaced_and_a_device_written_to(tmp_path: Path, database: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    for target in (link, Path("/dev/null")):
        require_free(target, database, NOTE)
        with replacing(target, database) as stream:
            stream.write(b"note 3\n")
    assert (link.is_symlink(), file.read_bytes(), file.stat().st_mode & 0o777) == (True, b"note 3\n", 0o600)
    assert not os.path.isfile("/dev/null")


def test_two_names_of_one_file_are_the_same_before_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert same(tmp_path / "link", tmp_path / "file")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "twin").hardlink_to(tmp_path / "file")
    assert same(tmp_path / "twin", tmp_path / "file")
    assert not same(tmp_path / "twin", tmp_path / "other")

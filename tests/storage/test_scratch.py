"""What killed processes left beside a database is told from what living ones use, and every name fits."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from storage import backup, scratch
from storage.database import Database
from storage.errors import DatabaseError, DiskFullError

MADE = """
import os, sys
from pathlib import Path
from storage import scratch
with scratch.beside(Path(sys.argv[1]), Path(sys.argv[2])) as path:
    path.write_bytes(b"all of it")
    print(path.name, flush=True)
    os._exit(9)
"""


def killed(target: Path, database: Path) -> Path:
    """A process that ended while it made a scratch file; return that file."""
    done = subprocess.run([sys.executable, "-c", MADE, target, database], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    path = target.with_name(done.stdout.strip())
    assert path.exists()
    return path


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system tells no start times")
@pytest.mark.parametrize("given_to", [os.getpid(), 1], ids=["this", "first"])
def test_a_pid_that_was_given_again_is_another_process(tmp_path: Path, given_to: int) -> None:
    database = tmp_path / "a.db"
    left = killed(tmp_path / "copy", database)
    pid = left.name.split(".")[3].partition("-")[0]
    reused = left.rename(left.with_name(left.name.replace(f".{pid}-", f".{given_to}-")))
    assert list(scratch.leftovers(database)) == [reused]
    assert list(scratch.in_use(database)) == []


def elsewhere(left: Path) -> Path:
    """Have a scratch file made by a process of another host, container or run of the system."""
    system = left.name.removesuffix(".scratch").rpartition("-")[2]
    return left.rename(left.with_name(left.name.replace(f"-{system}.", f"-{'0' * len(system)}.")))


def written(path: Path, ago: timedelta) -> None:
    at = time.time() - ago.total_seconds()
    os.utime(path, (at, at))


def test_what_was_made_elsewhere_is_in_use_until_nobody_writes_to_it_for_a_day(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    left = elsewhere(killed(tmp_path / "copy", database))
    written(left, timedelta(hours=23))
    assert scratch.sweep(database) == 0
    [(path, _)] = scratch.in_use(database)
    assert path == left
    written(left, timedelta(hours=25))
    assert list(scratch.leftovers(database)) == [left]
    assert list(scratch.in_use(database)) == []


@pytest.mark.parametrize("end", ["", "-123-89abcdef", "-123-", "--"])
def test_what_an_older_knowlex_made_is_in_use_for_as_long(tmp_path: Path, end: str) -> None:
    """Its name does not tell where its pid counts."""
    database = tmp_path / "a.db"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".a.db.{dead.pid}-01234567{end}.scratch-journal"
    left.touch()
    assert list(scratch.in_use(database)) == [(left, dead.pid)]
    written(left, timedelta(hours=25))
    assert list(scratch.leftovers(database)) == [left]


@pytest.mark.parametrize("name", [".a.db.1-xyz.scratch", ".b.db.1-01234567.scratch", ".a.db.1-01234567.scratch.bak"])
def test_other_files_are_no_scratch_files(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.touch()
    written(other, timedelta(days=9))
    assert scratch.sweep(tmp_path / "a.db") == 0
    assert list(scratch.in_use(tmp_path / "a.db")) == []


SWEEP = """
import sys
from pathlib import Path
from storage import scratch
print(scratch.sweep(Path(sys.argv[1])))
"""
CONTAINER = ["unshare", "--pid", "--fork"]


def test_what_another_container_uses_is_not_swept(tmp_path: Path) -> None:
    """Our pid is nobody's there."""
    if not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("only root may make a space of pids")
    database = tmp_path / "a.db"
    with scratch.beside(tmp_path / "copy", database) as path:
        arguments = [*CONTAINER, sys.executable, "-c", SWEEP, database]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0"
        assert path.exists()


def test_what_a_living_process_makes_is_in_use(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with scratch.beside(tmp_path / "copy", database) as path:
        written(path, timedelta(days=9))
        assert list(scratch.leftovers(database)) == []
        assert list(scratch.in_use(database)) == [(path, os.getpid())]
        assert scratch.sweep(database) == 0
    assert list(scratch.in_use(database)) == []


def test_a_copy_does_not_get_the_name_before_the_log_of_another(tmp_path: Path) -> None:
    """The engine would take the log for that of the copy."""
    log = tmp_path / "a.db.damaged-wal"
    log.write_bytes(b"of an earlier copy")
    with scratch.beside(tmp_path / "a.db", tmp_path / "a.db") as path:
        path.write_bytes(b"all of it")
        kept = scratch.keep_as(path, "a.db.damaged")
    assert kept.name == "a.db.damaged.2"
    assert kept.read_bytes() == b"all of it"
    assert log.read_bytes() == b"of an earlier copy"


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("links", [True, False])
def test_no_copy_is_replaced_by_one_that_is_made_at_the_same_moment(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "a.db.damaged"
    linked, opened = os.link if links else no_links, os.open

    def another_comes_first(path: Path) -> None:
        if path == first and not first.exists():
            first.write_bytes(b"of another process")

    def link(path: Path, name: Path) -> None:
        another_comes_first(name)
        linked(path, name)

    def open_(path: Path, flags: int, mode: int = 0o777) -> int:
        another_comes_first(path)
        return opened(path, flags, mode)

    with scratch.beside(tmp_path / "a.db", tmp_path / "a.db") as path:
        path.write_bytes(b"all of it")
        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr(os, "open", open_)
        kept = scratch.keep_as(path, first.name)
    assert kept.name == "a.db.damaged.2"
    assert kept.read_bytes() == b"all of it"
    assert first.read_bytes() == b"of another process"


def test_a_backup_sweeps_what_killed_backups_left_in_its_folder(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    killed(folder / "copy.db", db.path)
    of_another = killed(folder / "copy.db", tmp_path / "another.db")
    made = backup.make(db, folder / "copy.db")
    assert sorted(folder.iterdir()) == sorted([made.path, of_another])


LONG = "n" * 230 + ".db"


def test_a_name_that_leaves_no_room_is_shortened_and_known_again(tmp_path: Path) -> None:
    database = tmp_path / LONG
    with scratch.beside(tmp_path / "copy", database) as path:
        path.with_name(f"{path.name}-journal").touch()
    assert list(tmp_path.iterdir()) == []
    left = killed(tmp_path / "copy", database)
    assert list(scratch.leftovers(database)) == [left]
    assert list(scratch.leftovers(tmp_path / f"{LONG}x")) == []
    assert scratch.sweep(database) == 1


def test_a_database_with_a_long_name_can_be_backed_up(tmp_path: Path) -> None:
    with Database.open(tmp_path / LONG) as database:
        assert backup.make(database, tmp_path / "copy.db").bytes > 0


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds two files."""
    folder = tmp_path / "few"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=3"]
    if subprocess.run(["mount", *options, "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_holds_no_further_file_is_full(few_files: Path) -> None:
    for number in range(2):
        (few_files / str(number)).touch()
    with pytest.raises(DiskFullError, match="No space left"), scratch.beside(few_files / "copy", few_files / "a.db"):
        raise AssertionError("was made all the same")


def test_only_what_it_writes_itself_is_blamed_on_the_target(tmp_path: Path) -> None:
    """A block may read anything."""
    with pytest.raises(PermissionError, match="of another file"), scratch.beside(tmp_path / "copy", tmp_path / "a.db"):
        raise PermissionError(errno.EACCES, "of another file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [scratch.put, lambda path, target: scratch.keep_as(path, target.name)])
def test_a_name_that_cannot_be_given_is_told(tmp_path: Path, step: Callable[[Path, Path], object]) -> None:
    with pytest.raises(DatabaseError, match=rf"^{tmp_path}/copy: cannot be written"):
        step(tmp_path / ".a.db.1-01234567.scratch", tmp_path / "copy")


def test_a_folder_that_is_not_there_is_no_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match="cannot be written") as raised,
        scratch.beside(tmp_path / "none" / "copy", tmp_path / "a.db"),
    ):
        raise AssertionError("was made all the same")
    assert not isinstance(raised.value, DiskFullError)

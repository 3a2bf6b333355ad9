"""What killed processes left beside a database is told from what living ones use, and every name fits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
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


def test_what_was_made_before_the_system_started_anew_is_nobodys(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with scratch.beside(tmp_path / "copy", database) as path:
        boot = path.name.removesuffix(".scratch").rpartition("-")[2]
        if not boot:
            pytest.skip("the system does not tell when it was started")
        before = path.with_name(path.name.replace(f"-{boot}.", "-00000000."))
        before.touch()
        assert list(scratch.leftovers(database)) == [before]


def test_what_a_living_process_makes_is_in_use(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    of_old = tmp_path / ".a.db.1-01234567.scratch"
    of_old.touch()
    with scratch.beside(tmp_path / "copy", database) as path:
        assert list(scratch.leftovers(database)) == []
        assert sorted(scratch.in_use(database)) == sorted([(of_old, 1), (path, os.getpid())])
        assert scratch.sweep(database) == 0
    assert list(scratch.in_use(database)) == [(of_old, 1)]


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


def test_a_folder_that_is_not_there_is_no_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match="cannot be written") as raised,
        scratch.beside(tmp_path / "none" / "copy", tmp_path / "a.db"),
    ):
        raise AssertionError("was made all the same")
    assert not isinstance(raised.value, DiskFullError)

"""A backup made while files are ingested is whole, private and not older than what was there before it."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import child, mutants
from faults.desk import Desk, note

from storage import backup, projects, queue, scratch, text_index
from storage.backup import Backup
from storage.database import Database
from storage.errors import DatabaseError
from storage.paths import own_files
from storage.sources import Source
from storage.verify import verify

pytestmark = pytest.mark.row(15)

Counts = tuple[int, int]
"""Files that are ready, and chunks."""
Start = Callable[[Path, Path], subprocess.Popen[bytes]]


def counts(database: Database) -> Counts:
    with database.read() as db:
        return (
            db.value("SELECT count(*) FROM project_files WHERE status = 'ready'"),
            db.value("SELECT count(*) FROM file_chunks"),
        )


def taken(database: Database, target: Path) -> list[str]:
    """Back a database up and restore it elsewhere; return what is amiss with either."""
    before = counts(database)
    try:
        made = backup.make(database, target)
        return amiss(made, before, counts(database)) + restored(made)
    except DatabaseError as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        scratch.remove(target)


def amiss(made: Backup, before: Counts, after: Counts) -> list[str]:
    """Return what is wrong with a backup that was begun and ended when the database had so much."""
    found: list[str] = []
    if stat.S_IMODE(made.path.stat().st_mode) != 0o600:
        found.append("others may read it")
    with Database.open(made.path) as copy:
        has = counts(copy)
        if not all(low <= it <= high for low, it, high in zip(before, has, after, strict=True)):
            found.append(f"holds {has}; it was {before} before and {after} after")
        if has[1] != made.chunks:
            found.append(f"{made.chunks} chunks reported, {has[1]} there")
        found += map(str, verify(copy, deep=True))
        found += unfound(copy)
    return found


def unfound(copy: Database) -> list[str]:
    """Return the newest chunk, unless the full text finds it."""
    with copy.read() as db:
        row = db.one("SELECT pk, project_id, content FROM file_chunks ORDER BY pk DESC LIMIT 1")
        if row is None:
            return []
        pk, project, content = row
        hits = text_index.search(db, Source.FILE, content.split()[-1], project_pk=project, limit=1000)
    return [] if pk in {hit for hit, _ in hits} else [f"chunk {pk} is not found"]


def restored(made: Backup) -> list[str]:
    """Restore a backup where nothing is; return what is not as in the backup."""
    place = made.path.with_name("restored.db")
    backup.restore(place, made.path)
    with Database.open(place) as database, Database.open(made.path) as copy:
        found = [*map(str, verify(database))]
        if contents(database) != contents(copy):
            found.append("other chunks than in the backup")
    scratch.remove(place)
    return found


def contents(database: Database) -> list[tuple[str, str]]:
    with database.read() as db:
        return db.all("SELECT id, content FROM file_chunks ORDER BY pk")


@pytest.fixture
def desk(db: Database, tmp_path: Path) -> Desk:
    """An ingestion of some seconds."""
    desk = Desk(db, tmp_path / "in")
    for number in range(150):
        desk.write(f"{number}.md", note(number, paragraphs=4))
    return desk


def during_ingestion(desk: Desk, target: Path, backups: int) -> list[str]:
    """Make backups while the desk ingests, each after some more files are ready; return what is amiss."""
    done, found = 0, list[str]()
    thread = threading.Thread(target=desk.ingest)
    thread.start()
    last = 0
    try:
        while thread.is_alive() and done < backups:
            ready, _ = counts(desk.db)
            if ready > last:
                found += taken(desk.db, target)
                done, last = done + 1, ready
    finally:
        thread.join()
    return found if done == backups else [*found, f"only {done} backups"]


@pytest.mark.xdist_group("faults")
def test_backups_of_a_running_ingestion_are_whole(desk: Desk, tmp_path: Path) -> None:
    assert during_ingestion(desk, tmp_path / "copy.db", 3) == []
    assert len(desk.files()) == 150


@pytest.mark.xdist_group("faults")
def test_a_copy_of_the_file_alone_is_seen(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("raw-copy-backup", monkeypatch.setattr)
    [first, *more] = during_ingestion(desk, tmp_path / "copy.db", 1)
    assert re.search(r"holds|damaged", first), "of the copy, not of how many there are"
    assert not [found for found in more if found.startswith("only")]


def ingest(database: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command line's ingestion."""
    return child.start(arguments=["--db", str(database), "ingest", "desk", str(folder), "--json"])


def ingest_quickly(database: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start an ingestion that waits for no model, and so commits all the time."""
    return child.start_module("faults.desk", str(database), str(folder))


def at_work(database: Database) -> bool:
    with database.read() as db:
        return bool(queue.owners(db))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", [ingest, ingest_quickly])
def test_fifty_backups_of_a_running_ingestion(start: Start, tmp_path: Path, figure) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2_000):
        (folder / f"{number}.md").write_text(note(number, paragraphs=4), "utf8")
    rng, found, done, states = random.Random(15), list[str](), 0, set[Counts]()
    while done < 50:
        place = tmp_path / f"live-{done}.db"
        process = start(place, folder)
        while process.poll() is None and done < 50:
            time.sleep(rng.uniform(0, 0.3))
            with Database.open(place) as database:
                if not at_work(database):
                    continue
                states.add(counts(database))
                found += taken(database, tmp_path / "copy.db")
            done += process.poll() is None
        process.kill()
        process.communicate()
    text = f"{done} backups while {start.__name__} ran, at {len(states)} states: restored sound, 0600"
    figure(15, f"{text}; {len(found)} faults", not found)


# --- where a killed writer has left a log

KILLED_WRITER = """
import os, signal, sys
from storage import projects
from storage.database import Database
database = Database.open(sys.argv[1])
with database.write() as db:
    projects.create(db, "of the killed writer")
os.kill(os.getpid(), signal.SIGKILL)
"""


def stale_after_restore(path: Path, copy: Path) -> bool:
    """Kill a writer, restore, and return whether its rows are back, or the database is not sound."""
    subprocess.run([sys.executable, "-c", KILLED_WRITER, os.fspath(path)], check=False)
    assert own_files(path)[1].stat().st_size > 0
    backup.restore(path, copy)
    try:
        with Database.open(path) as database, database.read() as db:
            return projects.by_name(db, "of the killed writer") is not None or bool(verify(database, deep=True))
    except DatabaseError:
        return True


@pytest.fixture
def closed(desk: Desk, tmp_path: Path) -> Path:
    """A backup of a database that nobody has open any more."""
    for path in list(desk.folder.iterdir())[20:]:
        path.unlink()
    desk.ingest()
    made = backup.make(desk.db, tmp_path / "copy.db")
    desk.db.close()
    return made.path


@pytest.mark.proof
def test_a_restore_is_not_undone_by_the_log_of_a_killed_writer(closed: Path, desk: Desk, figure) -> None:
    stale = stale_after_restore(desk.db.path, closed)
    figure(15, "a restore over a killed writer's log brings none of its rows back", not stale)


def test_a_restore_by_renaming_is_seen(closed: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("rename-restore", monkeypatch.setattr)
    shutil.copyfile(closed, closed.with_name("again.db"))
    assert stale_after_restore(desk.db.path, closed.with_name("again.db"))

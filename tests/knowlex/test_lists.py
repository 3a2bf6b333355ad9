"""Lists from the doors: all of one, or a page at a time, and memories by what they are."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from knowlex import Knowlex
from storage.errors import NotFoundError, UsageError
from storage.files import record_unreadable
from storage.fingerprint import Fingerprint


def files_in(path: Path, project: str, count: int) -> None:
    """Put rows of files that could not be read into a project: a list needs no more of them."""
    with Knowlex(path) as kb:
        pk = kb.projects.create(project).pk
        with kb.database.write() as db:
            for number in range(count):
                name = f"/docs/{number}.md".encode()
                record_unreadable(db, pk, name, Fingerprint(1, 1, 1, 1), code="unreadable", message="no right")


def test_projects_are_listed_whole_or_by_the_page(knowlex) -> None:
    for name in "abc":
        knowlex("project", "create", name)
    knowlex("memory", "add", "b", "title", "content")
    everything = knowlex("--json", "project", "list").json
    assert [(item["name"], item["memories"]) for item in everything] == [("c", 0), ("b", 1), ("a", 0)]
    first = knowlex("--json", "project", "list", "--limit", 2).json
    rest = knowlex("--json", "project", "list", "--limit", 2, "--after", first["next"]).json
    assert (first["projects"] + rest["projects"], rest["next"]) == (everything, None)
    said = knowlex("project", "list", "--limit", 2)
    assert "MEMORIES" in said.out
    assert said.err == f"more: --after {first['next']}\n"
    assert "memories" in knowlex("project", "show", "b").out


def test_files_are_listed_whole_or_by_the_page(knowlex, database: Path) -> None:
    files_in(database, "p", 3)
    everything = knowlex("--json", "files", "p").json
    assert [row["filename"] for row in everything] == ["0.md", "1.md", "2.md"]
    first = knowlex("--json", "files", "p", "--status", "failed", "--limit", 2).json
    rest = knowlex("--json", "files", "p", "--status", "failed", "--after", first["next"]).json
    assert (first["files"] + rest["files"], rest["next"]) == (everything, None)
    assert knowlex("files", "p", "--limit", 1).err.startswith("more: --after ")
    assert knowlex("files", "p", "--after", "x").code == 2


def test_settings_are_listed_whole_by_prefix_or_by_the_page(knowlex) -> None:
    for key in ("window.width", "window.height", "theme"):
        knowlex("settings", "set", key, 5)
    assert list(knowlex("--json", "settings", "list").json) == ["theme", "window.height", "window.width"]
    windows = knowlex("--json", "settings", "list", "--prefix", "window.").json
    assert windows == {"window.height": 5, "window.width": 5}
    first = knowlex("--json", "settings", "list", "--prefix", "window.", "--limit", 1).json
    rest = knowlex("--json", "settings", "list", "--prefix", "window.", "--after", first["next"]).json
    assert (first["settings"] | rest["settings"], rest["next"]) == (windows, None)
    assert "theme" not in knowlex("settings", "list", "--prefix", "window.").out


@pytest.fixture
def kb(tmp_path: Path):
    with Knowlex(tmp_path / "lists.db") as kb:
        kb.projects.create("p")
        kb.memories.add("p", "one", "zebra zebra", type="note", importance=2, tags=["red"])
        kb.memories.add("p", "two", "zebra", type="insight", importance=8, tags=["red", "blue"])
        kb.memories.add("p", "three", "a zebra and a gnu", importance=9)
        yield kb


def test_memories_are_listed_and_searched_by_what_they_are(kb: Knowlex) -> None:
    assert [item.title for item in kb.memories.list("p", tag="red").items] == ["two", "one"]
    assert [item.title for item in kb.memories.list("p", type="insight").items] == ["two"]
    assert [item.title for item in kb.memories.list("p", min_importance=8, order="importance").items] == [
        "three",
        "two",
    ]

    def found(**filters) -> list[str]:
        return [hit.heading for hit in kb.memories.search("p", "zebra", 1, mode="text", **filters)]

    assert found() == ["one"]
    assert found(min_importance=3) == found(tag="blue") == found(type="insight") == ["two"]
    assert found(type="memory") == ["three"]
    assert found(tag="green") == []
    with pytest.raises(UsageError, match="type: 'rumour'"):
        found(type="rumour")


def test_the_command_line_filters_memories(knowlex, kb: Knowlex) -> None:
    def titles(*arguments: object) -> list[str]:
        answer = knowlex("--json", "--db", kb.path, "memory", *arguments).json
        return [item["title"] for item in answer["memories"]]

    assert titles("list", "p", "--tag", "red") == ["two", "one"]
    assert titles("list", "p", "--type", "note", "--min-importance", 2) == ["one"]
    answer = knowlex("--json", "--db", kb.path, "memory", "search", "p", "zebra", "--tag", "blue").json
    assert [hit["heading"] for hit in answer["hits"]] == ["two"]
    assert knowlex("--db", kb.path, "memory", "list", "p", "--min-importance", 11).code == 2


def test_pages_and_defaults_from_python(kb: Knowlex) -> None:
    kb.projects.create("q")
    page = kb.projects.page(limit=1)
    assert page.items + kb.projects.page(limit=1, after=page.next).items == kb.projects.list()
    kb.settings["a.b"] = 1
    assert kb.settings.page("a.").items == [("a.b", 1)]
    assert kb.settings.all(defaults={"c": 2}) == {"a.b": 1, "c": 2}
    assert kb.files_page("p").items == kb.files("p") == []
    with pytest.raises(NotFoundError):
        kb.files_page("nowhere")
    with pytest.raises(UsageError, match="status 'lost'"):
        kb.files_page("p", "lost")


def test_a_memory_is_shown_and_loses_its_tags(knowlex, kb: Knowlex) -> None:
    [id] = [item.id for item in kb.memories.list("p", tag="blue").items]
    shown = knowlex("--json", "--db", kb.path, "memory", "show", id).json
    assert (shown["title"], shown["tags"], "pk" in shown, "project_pk" in shown) == (
        "two",
        ["red", "blue"],
        False,
        False,
    )
    assert "  zebra" in knowlex("--db", kb.path, "memory", "show", id).out
    assert knowlex("--db", kb.path, "memory", "show", "X").code == 3
    kept = knowlex("--json", "--db", kb.path, "memory", "update", id, "--title", "new").json
    assert kept["tags"] == ["red", "blue"]
    assert knowlex("--json", "--db", kb.path, "memory", "update", id, "--no-tags").json["tags"] == []
    assert knowlex("--db", kb.path, "memory", "update", id, "--no-tags", "--tag", "x").code == 2


def test_settings_of_a_project_are_made_and_changed(knowlex) -> None:
    assert knowlex("--json", "project", "create", "p", "--settings", '{"a": 1}').json["settings"] == {"a": 1}
    changed = knowlex("--json", "project", "update", "p", "--settings", '{"b": null}', "--description", "d").json
    assert (changed["settings"], changed["description"], changed["name"]) == ({"b": None}, "d", "p")
    assert knowlex("--json", "project", "update", "p", "--name", "q").json["settings"] == {"b": None}
    assert knowlex("--json", "project", "show", "q").json["settings"] == {"b": None}
    assert knowlex("project", "update", "q", "--settings", "3").code == 2


@pytest.mark.parametrize("text", ["NaN", "[1, Infinity]", "1e999", "dark", "[1", ""])
def test_what_is_no_json_is_kept_as_text(knowlex, text: str) -> None:
    assert knowlex("--json", "settings", "set", "x", text).json == {"x": text}
    assert knowlex("--json", "settings", "get", "x").json == text


def test_a_list_takes_no_cursor_of_another(kb: Knowlex) -> None:
    kb.projects.create("q")
    for key in "ab":
        kb.settings[key] = kb.conversations.create(key).id
    for _ in range(2):
        kb.conversations.add(kb.settings["a"], "user", "zebra")
    lists = {
        "projects": kb.projects.page,
        "settings": kb.settings.page,
        "conversations": kb.conversations.list,
        "messages": lambda **page: kb.conversations.messages(kb.settings["a"], **page),
        "newest messages": lambda **page: kb.conversations.messages(kb.settings["a"], order="newest", **page),
        "memories": lambda **page: kb.memories.list("p", **page),
        "important memories": lambda **page: kb.memories.list("p", order="importance", **page),
        "found": lambda **page: kb.conversations.find("zebra", **page),
        "found of a role": lambda **page: kb.conversations.find("zebra", role="user", **page),
        "found by time": lambda **page: kb.conversations.find("zebra", sort="time", **page),
        "all messages": kb.conversations.find,
        "all messages of a role": lambda **page: kb.conversations.find(role="user", **page),
        "files": lambda **page: kb.files_page("p", **page),
        "usage": kb.usage,
        "usage by project": kb.usage_by_project,
        "growth": kb.growth,
        "slow queries": kb.slow_queries,
        "runs": kb.runs,
    }
    cursors = {name: read(limit=1).next for name, read in lists.items()}
    given = {name: cursor for name, cursor in cursors.items() if cursor}
    assert len(given) >= 12
    for name, cursor in given.items():
        assert len(lists[name](limit=1, after=cursor).items) == 1
        for other, read in lists.items():
            if other != name:
                with pytest.raises(UsageError, match="is no cursor of this list"):
                    pytest.fail(f"{other} takes a cursor of {name}: {read(after=cursor)}")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda kb: kb.memories.list("p", order="importnace"), "order 'importnace': is unknown; give one of recency,"),
        (lambda kb: kb.memories.list("p", limit="5"), "limit '5': is out of range"),
        (lambda kb: kb.memories.list("p", after=5), "after 5: is no cursor"),
        (lambda kb: kb.memories.add("p", "t", "c", tags=5), "tags: 5 is no list"),
        (lambda kb: kb.memories.add("p", "t", "c", importance=5.0), "importance: 5.0 is out of range"),
        (lambda kb: kb.conversations.list(limit=2.5), "limit 2.5: is out of range"),
        (lambda kb: kb.conversations.find("x", limit=1.5), "limit 1.5: is out of range"),
        (lambda kb: kb.conversations.find("x", limit=True), "limit True: is out of range"),
        (lambda kb: kb.conversations.find("x", offset=0.5), "offset 0.5: is out of range"),
        (lambda kb: kb.conversations.find(5), "query: is a number; give text"),
        (
            lambda kb: kb.memories.add("p", "t", "c", importance="5"),
            "^importance: is a text; give a whole",
        ),
        (lambda kb: kb.memories.list("p", min_importance=50), "^min_importance: 50 is out of range"),
        (lambda kb: kb.conversations.add("id", "user", b"abc"), "^content: is of Python's type bytes; give text"),
        (lambda kb: kb.migrate("5"), "^schema version: is a text; give a whole number from 0 to "),
        (lambda kb: kb.migrate(99), "^schema version 99: there is none such; give 0 to "),
        (
            lambda kb: kb.conversations.find("x", date_from="2026-12-01", date_to="2026-11-01"),
            "^date_from, date_to: nothing is from '2026-12-01' to '2026-11-01'; give the earlier",
        ),
        (
            lambda kb: kb.conversations.find(date_from="2026-12-01", date_to="2026-12-01T00:00:00Z"),
            "^date_from, date_to: nothing is from",
        ),
        (lambda kb: kb.settings.page(after=[]), r"after \[\]: is no cursor"),
    ],
)
def test_a_value_of_another_type_is_a_usage_error(kb: Knowlex, call, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        call(kb)


def test_no_key_of_a_table_is_asked_for_or_shown_by_a_public_search() -> None:
    parameters = {
        name: set(inspect.signature(getattr(Knowlex, name)).parameters)
        for name in dir(Knowlex)
        if name[0] != "_"
        if callable(getattr(Knowlex, name))
    }
    assert "search" in parameters
    assert [name for name, taken in parameters.items() if taken & {"allowed", "project_pks", "project_pk", "pk"}] == []

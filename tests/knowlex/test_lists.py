"""Lists from the doors: all of one, or a page at a time, and memories by what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowlex import Knowlex
from storage.errors import NotFoundError, UsageError
from storage.files import Fingerprint, record_unreadable


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

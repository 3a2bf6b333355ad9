"""Backup, restore, maintain and erase at the command line and in Python: what they answer, and with which code."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from storage import maintain
from storage.errors import NotFoundError, UniqueError, UsageError

Call = Callable[..., Any]


@pytest.fixture
def notes(database: Path) -> Path:
    """A database with two projects and a memory in each."""
    with Knowlex(database) as kb:
        for name in ("notes", "other"):
            kb.projects.create(name)
            kb.memories.add(name, "Title", f"remember the {name} of zanzibar")
    return database


def said(answer: Any) -> Any:
    return json.loads(answer.out)


def test_a_backup_is_restored(knowlex: Call, notes: Path, tmp_path: Path) -> None:
    made = knowlex("backup", tmp_path / "copy.db", "--json").json
    assert made["bytes"] == (tmp_path / "copy.db").stat().st_size
    assert knowlex("project", "delete", "notes").code == 0
    done = knowlex("restore", tmp_path / "copy.db", "--yes", "--json").json
    assert done["kept"] == f"{notes}.before-restore"
    assert [item["name"] for item in knowlex("project", "list", "--json").json] == ["other", "notes"]
    assert knowlex("verify", "--deep").out == "ok\n"
    assert knowlex("restore", tmp_path / "copy.db", "--yes").code == 0


def test_nobody_to_ask_is_a_usage_error(knowlex: Call, notes: Path, tmp_path: Path) -> None:
    knowlex("backup", tmp_path / "copy.db")
    for arguments in (["restore", tmp_path / "copy.db"], ["erase", "notes"], ["erase", "notes", "--json"]):
        answer = knowlex(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert "give --yes" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["backup", "{db}"], 2),
        (["backup", "missing-folder/copy.db"], 2),
        (["restore", "missing.db", "--yes"], 3),
        (["restore", "{db}", "--yes"], 2),
        (["erase", "nothing", "--yes"], 3),
    ],
)
def test_what_cannot_be_done_is_one_line(knowlex: Call, notes: Path, arguments: list[str], code: int) -> None:
    answer = knowlex(*[argument.format(db=notes) for argument in arguments])
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.count("\n") == 1


def test_a_backup_of_nothing_makes_nothing(knowlex: Call, database: Path, tmp_path: Path) -> None:
    assert knowlex("backup", tmp_path / "copy.db").code == 3
    assert list(tmp_path.iterdir()) == []


def test_maintain_says_what_it_did(knowlex: Call, notes: Path) -> None:
    done = knowlex("maintain", "--vacuum", "--json").json
    assert "log" in [task["name"] for task in done["tasks"]]
    assert done["bytes_after"] > 0
    assert "full text" in knowlex("maintain").out


def test_erase_says_where_it_looked(knowlex: Call, notes: Path) -> None:
    answer = knowlex("erase", "notes", "--yes", "--json")
    done = said(answer)
    assert (answer.code, done["clean"], done["kind"]) == (0, True, "project")
    assert done["removed"]["memories"] == 1
    assert done["places"][0]["place"] == str(notes)
    assert b"the notes of zanzibar" not in notes.read_bytes()
    assert b"the other of zanzibar" in notes.read_bytes()
    assert "not searched" in knowlex("erase", "other", "--yes").out


def fail_half_way(kb: Knowlex) -> None:
    with kb.transaction():
        kb.memories.add("p", "one", "first words")
        kb.settings["k"] = 1
        kb.memories.add("nowhere", "two", "second words")


def test_a_batch_is_all_or_nothing(database: Path) -> None:
    with Knowlex(database) as kb:
        kb.projects.create("p")
        with pytest.raises(NotFoundError):
            fail_half_way(kb)
        assert kb.memories.list("p").items == []
        assert "k" not in kb.settings.all()


def test_within_a_batch_a_failed_call_is_undone_alone_and_writes_are_seen(database: Path) -> None:
    with Knowlex(database) as kb:
        with kb.transaction():
            kb.projects.create("p")
            with pytest.raises(UniqueError):
                kb.projects.create("p")
            kb.memories.add("p", "Title", "seen within the batch")
            assert [hit.text for hit in kb.search("p", "seen", mode="text", sources=["memories"])]
        assert len(kb.memories.list("p").items) == 1
        assert kb.verify(deep=True) == []


def search_then_fail(kb: Knowlex) -> None:
    with kb.transaction():
        kb.memories.add("p", "Title", "a word that never was")
        assert len(kb.search("p", "word", mode="text", sources=["memories"])) == 1
        kb.memories.add("p", "", "")


def test_a_search_within_a_batch_that_is_undone_leaves_nothing_in_memory(database: Path) -> None:
    with Knowlex(database) as kb:
        kb.projects.create("p")
        for _ in range(3):
            kb.search("p", "word", mode="text", sources=["memories"])
        with pytest.raises(UsageError):
            search_then_fail(kb)
        kb.memories.add("p", "Title", "another thing")
        assert len(kb.search("p", "word", mode="text", sources=["memories"])) == 0


def test_a_worker_with_nothing_to_do_maintains_the_database(database: Path) -> None:
    with Knowlex(database) as kb:
        kb.projects.create("p")
        with kb.drain() as drain:
            worker = threading.Thread(target=drain.run, kwargs={"once": False})
            worker.start()
            give_up_at = time.monotonic() + 60
            while not (done := maintained(kb)) and time.monotonic() < give_up_at:
                time.sleep(0.05)
            drain.stop()
            worker.join()
    assert set(done) <= set(maintain.IDLE)
    assert done


def maintained(kb: Knowlex) -> dict[str, str]:
    with kb.database.read() as db:
        return maintain.last(db)

"""The Python object: opened when needed, shared by threads, renewed after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

import knowlex
from knowlex import Knowlex
from pipeline.ingest import Outcome, Result
from storage import messages, passage_tokens, tokens_ahead
from storage import settings as app_settings
from storage.database import Database
from storage.errors import ConfigurationError, ConstraintError, DamagedValueError, NotFoundError, UsageError
from storage.queue import Claim
from workers.batch import Progress
from workers.scan import Scanned


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        assert not kb.path.exists()
        with pytest.raises(NotFoundError, match="no such database"):
            kb.files("p")
        assert not kb.path.exists()
        assert kb.projects.list() == []
        assert kb.path.exists()


def test_a_closed_object_opens_again(tmp_path: Path) -> None:
    kb = Knowlex(tmp_path / "a.db")
    kb.settings["x"] = {"a": [1]}
    kb.close()
    kb.close()
    assert kb.settings["x"] == {"a": [1]}
    kb.close()


def test_a_setting_that_is_asked_for_makes_no_database(tmp_path: Path) -> None:
    kb = Knowlex(tmp_path / "a.db")
    assert kb.settings.get("x", "default") == "default"
    with pytest.raises(NotFoundError, match="no such database"):
        del kb.settings["x"]
    assert not kb.path.exists()


def test_settings_tell_what_is_among_them_as_a_dict_does(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        assert "x" not in kb.settings
        assert not kb.path.exists()
        kb.settings["x"] = None
        kb.settings["a"] = 0
        assert ("x" in kb.settings, "y" in kb.settings, 0 in kb.settings) == (True, False, False)
        assert list(kb.settings) == ["a", "x"]


def test_the_database_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWLEX_DB", str(tmp_path / "env.db"))
    assert Knowlex().path == tmp_path / "env.db"
    assert Knowlex(str(tmp_path / "given.db")).path == tmp_path / "given.db"


def test_settings_in_code_go_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text("[ingest]\nworkers = 3\n")
    monkeypatch.setenv("KNOWLEX_WORKERS", "4")
    assert Knowlex(config=tmp_path / "a.toml", workers=5).configuration.workers == 5
    assert Knowlex(config=tmp_path / "a.toml").configuration.workers == 4
    with pytest.raises(ConfigurationError, match="workres"):
        Knowlex(workres=1)


class Watcher(Progress):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.scanned_paths: list[bytes] = []
        self.outcomes: list[Outcome] = []

    def scanned(self, item: Scanned) -> None:
        """Note a file that was found."""
        self.scanned_paths.append(item.path)

    def finished(self, claim: Claim, result: Result) -> None:
        """Note what became of a file."""
        self.outcomes.append(result.outcome)


def test_a_run_can_be_watched(tmp_path: Path, sample_data: Path) -> None:
    watcher = Watcher()
    with Knowlex(tmp_path / "a.db") as kb:
        kb.ingest("p", sample_data / "demo" / "onboarding-faq.md", sample_data / "bad", progress=watcher)
    assert len(watcher.scanned_paths) == 1 + len(list((sample_data / "bad").iterdir()))
    assert watcher.outcomes.count(Outcome.READY) == 1
    assert Outcome.FAILED in watcher.outcomes


def test_a_bar_shows_files_rate_and_failures(
    tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.ingest("p", sample_data / "demo" / "onboarding-faq.md", sample_data / "bad" / "truncated.pdf", progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "2/2" in said.err
    assert "passages/s, 1 failed" in said.err


def test_a_run_that_cannot_begin_leaves_no_project(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        for paths, options, error in (
            ([], {}, UsageError),
            (["no/such"], {}, NotFoundError),
            ([tmp_path, tmp_path / "none"], {}, NotFoundError),
            ([tmp_path], {"report": tmp_path}, UsageError),
        ):
            with pytest.raises(error):
                kb.ingest("p", *paths, **options)
        assert kb.projects.list() == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda kb, value: Knowlex(value), "path"),
        (lambda kb, value: Knowlex(config=value), "config"),
        (lambda kb, value: kb.ingest("p", ".", value), "path 2"),
        (lambda kb, value: kb.ingest("p", ".", report=value), "report"),
        (lambda kb, value: kb.evaluate(value), "folder"),
        (lambda kb, value: kb.evaluate(".", run=value), "run"),
        (lambda kb, value: kb.evaluate(".", compare=value), "compare"),
        (lambda kb, value: kb.backup(value), "file"),
        (lambda kb, value: kb.restore(value), "file"),
    ],
)
def test_what_is_no_path_is_told_before_anything_is_done(tmp_path: Path, call: Any, said: str) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.settings["x"] = 1
        for value, why in ((0, "is a number; give a path"), (b"a", "is of Python"), ("a\0b", "holds a NUL")):
            with pytest.raises(UsageError, match=f"^{said}: {why}"):
                call(kb, value)
        assert kb.projects.list() == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda kb, value: kb.ingest("p", ".", include=value), "include"),
        (lambda kb, value: kb.ingest("p", ".", exclude=value), "exclude"),
        (lambda kb, value: kb.ingest("p", ".", passwords=value), "passwords"),
        (lambda kb, value: kb.retry("p", passwords=value), "passwords"),
        (lambda kb, value: kb.drain("p", passwords=value), "passwords"),
    ],
)
def test_a_text_is_no_list_of_patterns_or_passwords(tmp_path: Path, call: Any, said: str) -> None:
    """Of `*.log`, the first character would be a pattern that every file fits."""
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        for value, why in (("*.log", "is a text"), (b"*", "is of Python"), (5, "is a number"), (None, "is null")):
            with pytest.raises(UsageError, match=f"^{said}: {why}.*; give a list of texts$"):
                call(kb, value)
        assert kb.files("p") == []


@pytest.mark.parametrize("sources", [None, 5, [None], [["files"]]])
def test_sources_that_are_none_are_refused(tmp_path: Path, sources: Any) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        with pytest.raises(UsageError, match="^source"):
            kb.search("p", "x", sources=sources)


def test_a_name_that_begins_with_a_tilde_may_be_nobodys_folder(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb, pytest.raises(NotFoundError, match="~nobody-of-that-name"):
        kb.ingest("p", "~nobody-of-that-name/notes")


@pytest.mark.parametrize(
    "limits",
    [{"max_minutes": value} for value in (0, -1, nan, inf, 1e12, True, "5")] + [{"workers": n} for n in (0, -1, 1025)],
    ids=str,
)
def test_limits_that_are_beyond_any_use_are_refused_before_anything_is_done(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        with pytest.raises(UsageError, match=next(iter(limits))):
            kb.ingest("new", tmp_path, **limits)
        if "max_minutes" in limits:
            with pytest.raises(UsageError, match="max_minutes"):
                kb.watch("new", **limits)
            with pytest.raises(UsageError, match="max_minutes"):
                kb.reembed("any", **limits)
        assert [each.project.name for each in kb.projects.list()] == ["p"]


def test_accessors_follow_the_tables(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        made = kb.projects.create("p", settings={"a": 1})
        with pytest.raises(ConstraintError):
            kb.projects.create("p")
        assert kb.projects.get(made.id).settings == {"a": 1}
        assert kb.projects.summary("p").file_count == 0
        talk = kb.conversations.create("Talk", project="p")
        kb.conversations.add(talk.id, "user", "Hello")
        assert [message.role for message in kb.conversations.get(talk.id).messages] == ["user"]
        assert [c.id for c in kb.conversations.list("p").items] == [talk.id]
        assert kb.conversations.update(talk.id, title="Chat").title == "Chat"
        note = kb.memories.add("p", "A", "B", importance=2)
        assert [m.id for m in kb.memories.list("p", order="importance").items] == [note.id]
        assert kb.memories.get(note.id).title == "A"
        kb.memories.delete(note.id)
        kb.conversations.delete(talk.id)
        assert kb.projects.delete("p").memories == 0
        kb.settings["k"] = None
        assert "k" in kb.settings.all()
        del kb.settings["k"]
        with pytest.raises(NotFoundError):
            kb.settings["k"]


def rows(kb: Knowlex) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables."""
    with kb.database.read() as db:
        tables = db.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        return {name: db.all(f'SELECT * FROM "{name}"') for (name,) in tables}


def test_settings_are_a_mapping(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        for missing in (lambda: len(kb.settings), lambda: kb.settings.items(), lambda: kb.settings.pop("a")):
            with pytest.raises(NotFoundError):
                missing()
        assert kb.settings.pop("a", 5) == 5
        assert not kb.path.exists()
        kb.settings.update({"b": [2], "a": None})
        assert (len(kb.settings), list(kb.settings.keys()), dict(kb.settings)) == (2, ["a", "b"], {"a": None, "b": [2]})
        assert (list(kb.settings.items()), list(kb.settings.values())) == ([("a", None), ("b", [2])], [None, [2]])
        assert (kb.settings.setdefault("a", 1), kb.settings.setdefault("c", 3), kb.settings["c"]) == (None, 3, 3)
        assert kb.settings.setdefault("d", (1, 2)) == kb.settings["d"] == kb.settings.pop("d") == [1, 2]
        assert (kb.settings.pop("b"), kb.settings.pop("b", "gone"), kb.settings.popitem()) == ([2], "gone", ("a", None))
        with pytest.raises(NotFoundError, match="b"):
            kb.settings.pop("b")
        assert kb.settings == {"c": 3}
        kb.settings.clear()
        assert len(kb.settings) == 0


def test_a_damaged_message_keeps_its_project_and_is_named_by_its_id(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        talk = kb.conversations.create("t", project="p")
        said = kb.conversations.add(talk.id, "user", "x")
        with kb.database.write() as db:
            db.run("UPDATE messages SET content = 'nojson'")
        for change in (lambda: kb.projects.delete("p"), lambda: kb.conversations.move(talk.id, None)):
            with pytest.raises(DamagedValueError, match=f"^message {said.id}: holds no JSON"):
                change()
        assert kb.projects.delete("p", with_conversations=True).messages == 1


def test_an_update_of_nothing_is_refused(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        memory, talk = kb.memories.add("p", "t", "c"), kb.conversations.create("t")
        for update in (
            lambda: kb.projects.update("p"),
            lambda: kb.projects.update("p", set={}, unset=[]),
            lambda: kb.memories.update(memory.id),
            lambda: kb.memories.update(memory.id, title=None),
            lambda: kb.conversations.update(talk.id),
        ):
            with pytest.raises(UsageError, match="^nothing to change: give "):
                update()
        assert (kb.memories.get(memory.id), kb.conversations.details(talk.id)) == (memory, talk)
        assert kb.memories.update(memory.id, tags=()).tags == []


ALONE: dict[str, Callable[[Knowlex, Path], object]] = {
    "ingest": lambda kb, folder: kb.ingest("q", folder),
    "batch": lambda kb, folder: kb.batch("q"),
    "drain": lambda kb, folder: kb.drain("p"),
    "retry": lambda kb, folder: kb.retry("p"),
    "backup": lambda kb, folder: kb.backup(folder / "new.bak"),
    "restore": lambda kb, folder: kb.restore(folder / "old.bak"),
    "verify": lambda kb, folder: kb.verify(),
    "repair": lambda kb, folder: kb.repair(),
    "maintain": lambda kb, folder: kb.maintain(),
    "erase": lambda kb, folder: kb.erase("p"),
    "migrate": lambda kb, folder: kb.migrate(),
    "close": lambda kb, folder: kb.close(),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_works_on_its_own_changes_nothing_in_a_transaction(tmp_path: Path, name: str) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        at = "2026-01-01T00:00:00.000Z"
        with kb.database.write() as db:
            db.run(
                "INSERT INTO project_files (id, project_id, filename, path, path_bytes, status, error_message,"
                " created_at, updated_at) VALUES ('f', 1, 'a', '/a', x'2f61', 'failed', 'why', :at, :at)",
                at=at,
            )
        kb.backup(tmp_path / "old.bak")
        kb.memories.add("p", "kept", "kept")
        before, there = rows(kb), sorted(tmp_path.iterdir())
        with kb.transaction(), pytest.raises(UsageError, match="cannot be part of a transaction; end the"):
            ALONE[name](kb, tmp_path)
        assert (rows(kb), sorted(tmp_path.iterdir())) == (before, there)


def test_what_takes_long_is_made_while_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are cut into words before a conversation is moved, and before it loses its project."""
    written = 0
    cut = passage_tokens.tokens_of

    def writes_meanwhile(body: str, heading: str = "") -> passage_tokens.Tokens:
        nonlocal written
        with Database.open(tmp_path / "a.db") as other, other.write(timeout_ms=1) as db:
            written += 1
            app_settings.set(db, "written", written)
        return cut(body, heading)

    with Knowlex(tmp_path / "a.db") as kb:
        for name in ("p", "q"):
            kb.projects.create(name)
        talk = kb.conversations.create("Talk", project="p")
        said = [kb.conversations.add(talk.id, "user", text).id for text in ("zebra one", "zebra two")]
        for module in (messages, tokens_ahead):
            monkeypatch.setattr(module, "tokens_of", writes_meanwhile)
        kb.conversations.move(talk.id, "q")
        kb.projects.delete("q")
        assert kb.settings["written"] == written == 4
        monkeypatch.undo()
        assert {hit.id for hit in kb.conversations.find("zebra", no_project=True)} == set(said)
        assert kb.verify(deep=True) == []


def test_threads_share_one_object(demo: Knowlex) -> None:
    questions = [("petrels", "observatory-report.pdf"), ("bilge pump", "tern-40-manual.pdf"), ("ferry", None)] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda question: demo.search("demo", question[0], 1)[0].file, questions))
    assert all(file == wanted for file, (_, wanted) in zip(found, questions, strict=True) if wanted)


def test_a_search_goes_on_while_files_come_in(tmp_path: Path, sample_data: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.ingest("p", sample_data / "demo" / "onboarding-faq.md")
        ingesting = threading.Thread(target=kb.ingest, args=("p", sample_data / "demo"))
        ingesting.start()
        while ingesting.is_alive():
            assert kb.search("p", "When am I paid?", 1)[0].file == "onboarding-faq.md"
        ingesting.join()
        assert kb.stats("p").files["ready"] == 10


def test_a_process_forked_off_opens_the_database_anew(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.settings["x"] = 1
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            kb.settings["y"] = 2
            os.write(writer, str(kb.settings.all()).encode())
            kb.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"{'x': 1, 'y': 2}"
        os.close(reader)
        os.close(writer)
        kb.settings["z"] = 3
        assert kb.settings.all() == {"x": 1, "y": 2, "z": 3}


def test_a_batch_can_be_stopped_before_it_began(tmp_path: Path, sample_data: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb, kb.batch("p") as batch:
        batch.stop()
        batch.run(sample_data / "demo")
        assert batch.stopped
        assert kb.stats("p").files["processing"] == 0


def test_the_version_is_that_of_the_package() -> None:
    assert knowlex.__version__.count(".") == 2
    with pytest.raises(AttributeError):
        _ = knowlex.nonsense  # pyright: ignore


def test_the_demo_ingests_and_answers() -> None:
    child = subprocess.run([sys.executable, "-m", "knowlex.demo"], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "employee-handbook.pdf:1" in child.stdout
    assert "28 days" in child.stdout

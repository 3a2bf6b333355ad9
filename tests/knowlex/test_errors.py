"""Every fault of the database has its own class, and arrives at every door with its message and remedy unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from knowlex import Knowlex
from knowlex.cli import exit_codes
from storage import errors
from storage.errors import (
    ConstraintError,
    CorruptDatabaseError,
    DamagedValueError,
    DatabaseError,
    DiskFullError,
    ForeignKeyError,
    KnowlexError,
    LockedError,
    NewerSchemaError,
    NotADatabaseError,
    ReadOnlyError,
    UniqueError,
)

Call = Callable[..., Any]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A database with one project, in a folder that any user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        path = Path(name) / "knowlex.db"
        monkeypatch.setenv("KNOWLEX_DB", str(path))
        with Knowlex(path) as kb:
            kb.projects.create("p")
            kb.settings["large"] = "x" * 200_000
        yield path


@contextmanager
def locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("storage.connection.BUSY_TIMEOUT_MS", 20)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    yield
    other.close()


@contextmanager
def newer(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    raw = apsw.Connection(str(path))
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    yield


@contextmanager
def not_a_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path.write_text("a text file of some length, which is no database at all\n" * 100)
    yield


@contextmanager
def corrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    raw = apsw.Connection(str(path))
    page = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'projects'").fetchone()[0]
    raw.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    yield


@contextmanager
def read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody but root may write: as a plain user, since for root nothing is read-only."""
    if os.geteuid() != 0:
        path.chmod(0o400)
        path.parent.chmod(0o500)
        yield
        path.parent.chmod(0o700)
        return
    path.chmod(0o644)
    os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def full(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database on a disk with hardly any room left."""
    kept = path.with_name("kept.db")
    shutil.copy(path, kept)
    small = path.with_name("small")
    small.mkdir()
    size = kept.stat().st_size + 120_000
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        shutil.copy(kept, small / "knowlex.db")
        monkeypatch.setenv("KNOWLEX_DB", str(small / "knowlex.db"))
        yield
    finally:
        subprocess.run(["umount", "-l", small], check=True)


FAULTS: list[tuple[Any, type[DatabaseError]]] = [
    (locked, LockedError),
    (newer, NewerSchemaError),
    (not_a_database, NotADatabaseError),
    (corrupt, CorruptDatabaseError),
    (read_only, ReadOnlyError),
    (full, DiskFullError),
]


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_the_same_in_python_and_at_the_command_line(
    place: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch, fault: Any, kind: type[DatabaseError]
) -> None:
    monkeypatch.setenv("KNOWLEX_DB", str(place))
    value = "y" * 300_000
    with fault(place, monkeypatch):
        raised = caught(lambda kb: kb.settings.__setitem__("k", value) or kb.project("p"))
        answer = knowlex("settings", "set", "k", value) if fault is not corrupt else knowlex("project", "show", "p")
    assert type(raised) is kind
    assert answer.code == exit_codes.DATABASE == exit_codes.of_error(raised)
    assert answer.out == ""
    assert answer.err == f"knowlex: {raised.message}\n"
    assert ";" in raised.message, "cause; remedy"


def caught(call: Callable[[Knowlex], object]) -> KnowlexError:
    with pytest.raises(KnowlexError) as caught, Knowlex() as kb:
        call(kb)
    return caught.value


NO_TEXT = "CAST(x'6162ff' AS TEXT)"
UNREADABLE: list[tuple[str, Callable[[Knowlex], object], list[str]]] = [
    ("project_memories SET content", lambda kb: kb.memories.list("p"), ["memory", "list", "p"]),
    ("app_settings SET value", lambda kb: dict.fromkeys(kb.settings), ["settings", "list"]),
    ("messages SET content", lambda kb: kb.conversations.messages("c"), ["conversation", "show", "c"]),
    ("projects SET description", lambda kb: kb.project("p"), ["project", "show", "p"]),
]


@pytest.mark.parametrize(("column", "read", "command"), UNREADABLE, ids=[column for column, _, _ in UNREADABLE])
def test_a_text_that_is_none_is_a_damaged_value_at_both_doors(
    place: Path, knowlex: Call, column: str, read: Callable[[Knowlex], object], command: list[str]
) -> None:
    os.environ["KNOWLEX_DB"] = str(place)
    with Knowlex(place) as kb:
        kb.memories.add("p", "title", "content")
        talk = kb.conversations.create("title").id
        kb.conversations.add(talk, "user", "content")
        with kb.database.write() as db:
            db.run(f"UPDATE {column} = {NO_TEXT}")
            db.run("UPDATE conversations SET id = 'c'")
    raised = caught(read)
    answer = knowlex(*command)
    assert type(raised) is DamagedValueError
    assert raised.message == f"{place}: holds a text that is not valid Unicode; run knowlex repair"
    assert (answer.code, answer.out, answer.err) == (exit_codes.DATABASE, "", f"knowlex: {raised.message}\n")


def test_a_name_that_is_taken_is_a_unique_error_at_both_doors(place: Path, knowlex: Call) -> None:
    os.environ["KNOWLEX_DB"] = str(place)
    raised = caught(lambda kb: kb.projects.create("p"))
    answer = knowlex("project", "create", "p")
    assert type(raised) is UniqueError
    assert (answer.code, answer.err) == (exit_codes.DATABASE, f"knowlex: {raised.message}\n")


def test_a_row_that_refers_to_nothing_is_a_foreign_key_error(place: Path) -> None:
    with Knowlex(place) as kb, pytest.raises(ForeignKeyError, match="does not exist"), kb.database.write() as db:
        db.run(
            "INSERT INTO conversations (id, project_id, title, created_at, updated_at) VALUES ('c', 99, 't', '', '')"
        )


def test_another_demand_of_a_table_is_a_constraint_error(place: Path) -> None:
    with Knowlex(place) as kb, pytest.raises(ConstraintError) as caught, kb.database.write() as db:
        db.run("INSERT INTO conversations (id, title, created_at, updated_at) VALUES ('c', NULL, '', '')")
    assert type(caught.value) is ConstraintError


def test_every_class_has_its_own_code_and_says_what_it_means() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KnowlexError)]
    codes = [kind.code for kind in tree if kind.code != "corrupt"]
    assert len(set(codes)) == len(codes)
    assert all(kind.__doc__ and kind.__name__ in (errors.__doc__ or "") for kind in tree)


SPOILED = {
    ("memory", "list", "p"): "UPDATE project_memories SET tags = 'no json'",
    ("project", "show", "p"): "UPDATE projects SET settings = '{'",
    ("settings", "list"): "UPDATE app_settings SET value = ''",
    ("conversation", "list"): "UPDATE conversations SET settings = 'x'",
    ("conversation", "search", "words"): "UPDATE messages SET content = '[1]'",
    ("search", "p", "words", "--mode", "text", "--source", "messages"): "UPDATE messages SET content = '{}'",
}


@pytest.mark.parametrize("arguments", SPOILED, ids=lambda arguments: "-".join(arguments[:2]))
def test_a_row_that_another_program_spoiled_is_damage_with_a_remedy(
    place: Path, knowlex: Call, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KNOWLEX_DB", str(place))
    with Knowlex(place) as kb:
        kb.memories.add("p", "Title", "content")
        talk = kb.conversations.create("Talk", project="p")
        kb.conversations.add(talk.id, "user", "words")
    raw = apsw.Connection(str(place))
    raw.execute(SPOILED[arguments])
    raw.close()
    answer = knowlex(*arguments)
    assert (answer.code, answer.out) == (4, "")
    assert "run knowlex repair" in answer.err
    assert answer.err.count("\n") == 1
    assert knowlex("repair").code == 0
    assert knowlex(*arguments).code == 0

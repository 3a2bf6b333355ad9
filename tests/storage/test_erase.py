"""What is erased is in no byte of the database, its log or the copies beside it; what was not, is all there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import backup, conversations, erase, files, memories, messages, migrations, projects, settings
from storage.connection import Connection
from storage.erase import Kind
from storage.errors import LockedError, NotFoundError, UsageError
from storage.paths import own_files
from storage.verify import verify

CANARY = "xylophonequartz"
KEPT = "marmaladebadger"


@pytest.fixture
def filled(shelf):
    """The canary in a file of several versions and names, a memory and messages; something to keep beside each."""
    shelf.add("secret", f"first version with {CANARY} in it")
    shelf.add("secret", f"second version with {CANARY} still in it")
    shelf.find("copy", f"second version with {CANARY} still in it")
    shelf.add("public", f"nothing but {KEPT} here")
    with shelf.db.write() as db:
        memories.add(db, shelf.project, f"Title {CANARY}", f"remember {CANARY} always", tags=[CANARY])
        memories.add(db, shelf.project, "kept", f"remember {KEPT} always")
        talk = conversations.create(db, f"About {CANARY}", project_pk=shelf.project)
        first = messages.add(db, talk.id, "user", f"what is {CANARY} good for?")
        messages.add(db, talk.id, "assistant", f"nobody knows about {CANARY}", parent_id=first.id)
        other = conversations.create(db, "kept talk")
        messages.add(db, other.id, "user", f"and {KEPT}?")
        other_project = projects.create(db, "other")
        memories.add(db, other_project.pk, "theirs", f"the other's {KEPT}")
    return shelf


def raw(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in own_files(path)[:2] if file.exists())


def ids(shelf, sql: str) -> str:
    with shelf.db.read() as db:
        return db.value(sql)


FIND: dict[Kind, str] = {
    Kind.PROJECT: "SELECT id FROM projects WHERE name = 'shelf'",
    Kind.FILE: "SELECT id FROM project_files WHERE filename = 'secret'",
    Kind.CONVERSATION: "SELECT id FROM conversations WHERE title LIKE 'About%'",
    Kind.MESSAGE: "SELECT id FROM messages ORDER BY pk LIMIT 1",
    Kind.MEMORY: "SELECT id FROM project_memories WHERE title LIKE 'Title%'",
}


def delete_all_but(shelf, kind: Kind) -> None:
    """Erase everything with the canary but one thing, so that this one alone is put to the test."""
    for other, sql in FIND.items():
        if other not in (kind, Kind.PROJECT) and not (kind is Kind.MESSAGE and other is Kind.CONVERSATION):
            with shelf.db.read() as db:
                found = db.value(sql)
                target = erase.find(db, found) if found else None
            if target is not None and not (kind is Kind.CONVERSATION and other is Kind.MESSAGE):
                erase.erase(shelf.db, target)


def run(shelf, wanted: str) -> erase.Erased:
    with shelf.db.read() as db:
        target = erase.find(db, wanted)
    return erase.erase(shelf.db, target)


@pytest.mark.parametrize("kind", [Kind.PROJECT, Kind.FILE, Kind.CONVERSATION, Kind.MEMORY])
def test_no_byte_of_what_was_erased_is_left(filled, kind: Kind) -> None:
    if kind is not Kind.PROJECT:
        delete_all_but(filled, kind)
    assert CANARY.encode() in raw(filled.db.path)
    done = run(filled, ids(filled, FIND[kind]))
    assert done.target.kind is kind
    assert done.clean
    assert CANARY.encode() not in raw(filled.db.path)
    assert KEPT.encode() in raw(filled.db.path)
    assert own_files(filled.db.path)[1].stat().st_size == 0
    assert verify(filled.db, deep=True) == []


def test_a_message_is_erased_and_its_answers_stay(filled) -> None:
    with filled.db.write() as db:
        talk = conversations.create(db, "t")
        first = messages.add(db, talk.id, "user", "the word is wombatglacier")
        answer = messages.add(db, talk.id, "assistant", "which one?", parent_id=first.id)
    done = run(filled, first.id)
    assert done.removed == {"messages": 1}
    assert b"wombatglacier" not in raw(filled.db.path)
    with filled.db.read() as db:
        assert messages.get(db, answer.id).parent_id is None


def test_a_file_goes_with_every_name_of_its_bytes(filled) -> None:
    done = run(filled, ids(filled, "SELECT id FROM project_files WHERE filename = 'copy'"))
    assert done.removed == {"files": 2, "chunks": 7}
    with filled.db.read() as db:
        assert [file.filename for file in files.every(db, filled.project)] == ["public"]


def test_deleting_alone_leaves_the_text(filled) -> None:
    """The mutant: what `files.delete` does without clearing what it frees."""
    with filled.db.write() as db:
        for file in list(files.every(db, filled.project)):
            files.delete(db, file)
    with filled.db.unwrapped() as db:
        db.all("PRAGMA wal_checkpoint(TRUNCATE)")
    assert CANARY.encode() in raw(filled.db.path)


def test_copies_that_hold_the_text_are_removed_and_others_are_not(filled, tmp_path: Path) -> None:
    with filled.db.read() as db:
        empty = tmp_path / "test.db.before-v1"
        migrations_copy = migrations.keep_copy(db, "before-restore")
    made = backup.make(filled.db, tmp_path / "elsewhere.db")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".test.db.{dead.pid}-01234567.scratch"
    left.write_bytes(made.path.read_bytes())
    empty.write_bytes(b"no text")
    done = run(filled, "shelf")
    assert (migrations_copy.exists(), left.exists(), empty.exists(), made.path.exists()) == (False, False, True, True)
    told = {Path(place.place).name: place.done for place in done.places}
    assert told["test.db.before-restore"] == told[left.name] == "removed"
    assert told["test.db.before-v1"] == "read; does not hold it"
    assert "knowlex backup" in " ".join(done.not_searched)


def test_what_stays_elsewhere_is_named(filled) -> None:
    """The same sentence in another project's memory is not this project's to erase, but must not be hushed up."""
    with filled.db.write() as db:
        other = projects.find(db, "other")
        theirs = memories.add(db, other.pk, "copy", f"remember {CANARY} always")
    done = run(filled, "shelf")
    assert done.clean
    assert f"memory {theirs.id}" in done.kept
    with filled.db.read() as db:
        assert memories.get(db, theirs.id).content == f"remember {CANARY} always"


def test_text_that_a_row_does_not_explain_is_reported(filled) -> None:
    """A value of the application's own is not searched for users: whoever put the text there must clear it."""
    with filled.db.write() as db:
        settings.set(db, "note", f"remember {CANARY} always")
    done = run(filled, ids(filled, FIND[Kind.MEMORY]))
    assert not done.clean
    assert done.places[0].left == 1


@pytest.mark.parametrize(
    "name", [lambda shelf: "shelf", lambda shelf: "/secret", lambda shelf: ids(shelf, FIND[Kind.MEMORY])]
)
def test_a_target_is_named_by_name_path_or_id(filled, name: Callable[..., str]) -> None:
    with filled.db.read() as db:
        assert erase.find(db, name(filled)).id


def test_an_unknown_target_is_named(filled) -> None:
    with filled.db.read() as db, pytest.raises(NotFoundError, match="nothing-like-it: no project"):
        erase.find(db, "nothing-like-it")


def test_a_target_that_stands_for_several_is_refused(filled) -> None:
    with filled.db.write() as db:
        projects.create(db, "/secret")
    with filled.db.read() as db, pytest.raises(UsageError, match="stands for several things"):
        erase.find(db, "/secret")


def test_a_reader_that_keeps_the_log_is_reported(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.erase.BUSY_TIMEOUT_MS", 20)
    with filled.db.read() as db:
        db.value("SELECT count(*) FROM projects")
        with pytest.raises(LockedError, match="knowlex maintain --vacuum"):
            run_inside(filled, db)
    assert CANARY.encode() in raw(filled.db.path)


def run_inside(shelf, db: Connection) -> None:
    erase.erase(shelf.db, erase.find(db, "shelf"))

"""What is erased is in no byte of the database, its log or the copies beside it; what was not, is all there."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from storage import (
    backup,
    clearing,
    conversations,
    erase,
    erasures,
    files,
    health,
    maintain,
    memories,
    messages,
    migrations,
    parts,
    projects,
    scratch,
    settings,
    snapshot,
    tokens,
)
from storage.connection import Connection
from storage.database import Database
from storage.erase import Kind
from storage.errors import DatabaseError, NotFoundError, UsageError
from storage.files import Seen
from storage.fingerprint import Fingerprint
from storage.ids import now_text
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


def names_left(shelf) -> list[str]:
    with shelf.db.read() as db:
        return [file.filename for file in files.every(db, shelf.project)]


def erase_file(shelf, name: str) -> erase.Erased:
    return run(shelf, shelf.file(name).id)


def test_an_edited_file_goes_with_the_names_of_its_searchable_bytes_and_of_those_it_waits_for(shelf) -> None:
    shelf.add("edited", f"{CANARY} first")
    shelf.find("copy", f"{CANARY} first")
    shelf.add("public", KEPT)
    shelf.find("in the queue", "second")
    shelf.find("edited", "second")
    assert shelf.file("edited").waiting_for == shelf.file("in the queue").pk
    done = erase_file(shelf, "edited")
    assert (done.removed, done.clean, done.kept) == ({"files": 3, "chunks": 2}, True, ())
    assert names_left(shelf) == ["public"]
    assert CANARY.encode() not in raw(shelf.db.path)
    assert verify(shelf.db, deep=True) == []


def test_an_edited_name_goes_with_those_that_wait_for_its_new_bytes(shelf) -> None:
    shelf.add("owner", f"{CANARY} first")
    shelf.find("edited", f"{CANARY} first")
    shelf.find("edited", "second")
    shelf.find("waits", "second")
    assert shelf.file("waits").waiting_for == shelf.file("edited").pk
    assert erase_file(shelf, "edited").removed == {"files": 3, "chunks": 2}
    assert names_left(shelf) == []


def test_names_that_share_other_bytes_with_what_goes_stay(shelf) -> None:
    """Those of the old bytes of a file that the erased one waits for, and of the new bytes of one that serves it."""
    shelf.add("erased", f"{CANARY} first")
    shelf.add("job", f"{KEPT} old")
    shelf.find("of old bytes", f"{KEPT} old")
    shelf.find("job", "second")
    shelf.find("erased", "second")
    assert shelf.file("of old bytes").duplicate_of == shelf.file("erased").waiting_for
    assert erase_file(shelf, "erased").removed == {"files": 2, "chunks": 2}
    shelf.add("owner", f"{CANARY} third")
    shelf.find("erased", f"{CANARY} third")
    shelf.find("owner", "fourth")
    shelf.find("of new bytes", "fourth")
    assert shelf.file("of new bytes").waiting_for == shelf.file("erased").duplicate_of
    assert erase_file(shelf, "erased").removed == {"files": 2, "chunks": 2}
    assert names_left(shelf) == ["of old bytes", "of new bytes"]
    assert shelf.found(KEPT) == ["of old bytes"]
    assert CANARY.encode() not in raw(shelf.db.path)
    assert verify(shelf.db, deep=True) == []


def test_what_lies_in_a_file_that_goes_first_is_gone_with_it(shelf) -> None:
    """A mail that inherited its attachment is the younger of the two, and both are of bytes that go."""
    shelf.add("old mail", "mail")
    digest = hashlib.sha256(CANARY.encode()).hexdigest()
    attached = Seen(parts.path_in(b"/old mail", "attached"), Fingerprint(1, 1, 1, 1), digest)
    with shelf.db.write() as db:
        files.replace_within(db, shelf.file("old mail"), [attached], shelf.versions)
    shelf.work({"attached": CANARY})
    shelf.find("mail", "mail")
    shelf.delete("old mail")
    shelf.find("edited", CANARY)
    shelf.find("mail", "second")
    shelf.find("edited", "second")
    assert erase_file(shelf, "edited").removed == {"files": 3, "chunks": 2}
    assert names_left(shelf) == []
    assert verify(shelf.db, deep=True) == []


def test_deleting_alone_leaves_the_text(filled) -> None:
    """The mutant: what `files.delete` does without clearing what it frees."""
    with filled.db.write() as db:
        for file in list(files.every(db, filled.project)):
            files.delete(db, file)
    with filled.db.unwrapped() as db:
        db.all("PRAGMA wal_checkpoint(TRUNCATE)")
    assert CANARY.encode() in raw(filled.db.path)


COPIES = (
    "test.db.before-v1", "test.db.before-v2.2", "test.db.before-restore", "test.db.before-restore.12",
    "test.db.before-repair", "test.db.damaged", "test.db.damaged-wal", "test.db.damaged.2", "test.db.damaged.2-wal",
)  # fmt: skip
OTHERS = ("test.db.old", "other.db.before-v1", "test.db.before-restore.bak", "xtest.db.damaged", "testxdb.before-v1")


def test_every_copy_that_knowlex_made_is_removed_and_nothing_else(filled, tmp_path: Path) -> None:
    made = backup.make(filled.db, tmp_path / "elsewhere.db")
    for name in (*COPIES, *OTHERS):
        (tmp_path / name).write_bytes(made.path.read_bytes())
    left = left_by_the_dead(filled.db.path)
    done = run(filled, "shelf")
    assert done.clean
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in own_files(filled.db.path)} == {
        made.path.name,
        *OTHERS,
    }
    told = {Path(place.place).name: place.done for place in done.places[1:]}
    assert told == dict.fromkeys((*COPIES, left), "removed")
    assert "knowlex backup" in " ".join(done.not_searched)


LEAVES = """
import os, signal, sys
from pathlib import Path
from storage import scratch
database = Path(sys.argv[1])
with scratch.beside(database, database) as path:
    print(path.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_the_dead(database: Path) -> str:
    """The name of a scratch file whose process was killed."""
    return subprocess.run([sys.executable, "-c", LEAVES, database], capture_output=True, text=True).stdout.strip()


def test_a_copy_with_the_text_as_it_was_before_it_was_edited_is_removed(filled) -> None:
    """Forgotten, added under a new id, edited: neither today's text nor today's id stands in the old copy."""
    with filled.db.read() as db:
        copy = migrations.keep_copy(db, "before-repair")
    with filled.db.write() as db:
        memories.delete(db, memory_id(db))
        again = memories.add(db, filled.project, "T", "the text as it is today, all of it other words")
    assert CANARY.encode() in copy.read_bytes()
    assert run(filled, again.id).clean
    assert not copy.exists()


def memory_id(db: Connection) -> str:
    return db.value(FIND[Kind.MEMORY])


def test_a_copy_that_cannot_be_removed_is_told(
    shelf, open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    """A directory of that name is no copy; a file in a folder that may not be written is one that stays."""
    copy = open_folder / "k.db.damaged"
    copy.write_bytes(CANARY.encode())
    os.chmod(open_folder, 0o555)
    with as_plain_user():
        [place] = clearing._clear_copies(open_folder / "k.db", [now_text()])
    assert place.left is None
    assert "Permission denied" in place.done
    assert copy.exists()


def test_where_copies_cannot_be_listed_nothing_is_deleted(
    open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(open_folder, 0o777)
    with as_plain_user(), Database.open(open_folder / "mine" / "k.db") as database:
        with database.write() as db:
            project = projects.create(db, "p")
        os.chmod(open_folder / "mine", 0o300)
        with pytest.raises(DatabaseError, match="cannot be listed"):
            erase.erase(database, erase.Target(Kind.PROJECT, project.id, "p"))
        with database.read() as db:
            assert projects.find(db, "p").id == project.id


def test_what_a_living_process_still_makes_is_told(filled, tmp_path: Path) -> None:
    with scratch.beside(tmp_path / "copy.db", filled.db.path) as path:
        done = run(filled, "shelf")
        assert not done.clean
        assert (done.places[1].place, done.places[1].left) == (str(path), None)
        assert f"in use by process {os.getpid()}" in done.places[1].done
        assert due(filled)
    maintain.maintain(filled.db)
    assert not due(filled)


def test_a_copy_that_is_finished_while_copies_are_looked_for_is_told(
    filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = scratch.sync_folder
    with scratch.beside(tmp_path / "copy.db", filled.db.path) as path:

        def finish(folder: Path) -> None:
            if path.exists():
                scratch.keep_as(path, "test.db.before-repair")
            synced(folder)

        with filled.db.read() as db:
            snapshot.copy(db, path)
        monkeypatch.setattr(scratch, "sync_folder", finish)
        assert not run(filled, "shelf").clean
    copy = tmp_path / "test.db.before-repair"
    assert CANARY.encode() in copy.read_bytes()
    assert due(filled)
    maintain.maintain(filled.db)
    assert not copy.exists()
    assert not due(filled)


def due(shelf) -> str | None:
    with shelf.db.read() as db:
        return erasures.due(db)


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


TEXT = f"remember {CANARY} always"
SQL = f"'{TEXT}'"

KEEPERS: dict[str, Callable[[Connection], str]] = {
    "value of a setting": lambda db: settings.set(db, "note", {"said": TEXT}) or "setting note",
    "key of a setting": lambda db: settings.set(db, TEXT, 1) or f"setting {TEXT}",
    "name of a project": lambda db: f"project {projects.create(db, TEXT).id}",
    "description of a project": lambda db: f"project {projects.create(db, 'p', description=TEXT).id}",
    "settings of a project": lambda db: f"project {projects.create(db, 'p', settings={'x': TEXT}).id}",
    "title of a conversation": lambda db: f"conversation {conversations.create(db, TEXT).id}",
    "settings of a conversation": lambda db: f"conversation {conversations.create(db, 't', settings={'x': TEXT}).id}",
    "title of a memory": lambda db: f"memory {memories.add(db, other(db), TEXT, 'content').id}",
    "tags of a memory": lambda db: f"memory {memories.add(db, other(db), 'title', 'content', tags=[TEXT]).id}",
    "name of a file": lambda db: f"file {public(db, f'UPDATE project_files SET original_path = {SQL} WHERE pk = :pk')}",
    "heading of a file": lambda db: f"file {public(db, f'UPDATE file_chunks SET heading = {SQL} WHERE file_id = :pk')}",
    "name of a token": lambda db: f"token {tokens.create(db, None, write=False, name=TEXT).id}",
}


def other(db: Connection) -> int:
    return projects.find(db, "other").pk


def public(db: Connection, change: str) -> str:
    pk, id = db.all("SELECT pk, id FROM project_files WHERE filename = 'public'")[0]
    assert db.run(change, pk=pk)
    return id


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_what_holds_the_same_text_on_purpose_is_named(filled, keep: Callable[[Connection], str]) -> None:
    with filled.db.write() as db:
        keeper = keep(db)
    done = run(filled, ids(filled, FIND[Kind.MEMORY]))
    assert (done.clean, done.kept) == (True, (keeper,))


def test_text_that_a_row_does_not_explain_is_reported(filled) -> None:
    """What another program keeps in the file is not searched: whoever put the text there must clear it."""
    with filled.db.write() as db:
        db.run("CREATE TABLE theirs (text TEXT)")
        db.run("INSERT INTO theirs VALUES (:text)", text=TEXT)
    done = run(filled, ids(filled, FIND[Kind.MEMORY]))
    assert (done.clean, done.kept, done.places[0].left) == (False, (), 1)


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


def test_a_path_may_be_as_people_type_it(filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    file = tmp_path / "in" / "public.txt"
    with filled.db.write() as db:
        db.run("UPDATE project_files SET path = :path, path_bytes = :bytes WHERE filename = 'public'",
               path=str(file.resolve()), bytes=os.fsencode(file.resolve()))  # fmt: skip
    monkeypatch.chdir(tmp_path / "in")
    with filled.db.read() as db:
        wanted = erase.find(db, str(file.resolve())).id
        for typed in ("public.txt", "./public.txt", "../in/public.txt", "../link/public.txt"):
            assert erase.find(db, typed).id == wanted
        for nothing in ("private.txt", "", "\0", "."):
            with pytest.raises(NotFoundError):
                erase.find(db, nothing)


def test_pieces_are_spread_evenly_and_read_without_the_rest(filled) -> None:
    """60 MB of messages: what is looked for takes some kilobytes of memory."""
    with filled.db.write() as db:
        talk = conversations.create(db, "long")
        db.run(
            "WITH RECURSIVE n (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM n WHERE n < 59)"
            " INSERT INTO messages (id, conversation_id, role, content, created_at, updated_at)"
            " SELECT printf('long-%d', n), (SELECT pk FROM conversations WHERE id = :talk), 'user',"
            " replace(hex(zeroblob(250000)), '00', 'word') || printf(' middle %02d middle ', n)"
            " || replace(hex(zeroblob(250000)), '00', 'word'), '', '' FROM n",
            talk=talk.id,
        )
    with filled.db.read() as db:
        target = erase.find(db, talk.id)
        tracemalloc.start()
        try:
            pieces = erase._pieces(db, target)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    found = sorted(int(piece.split(b"middle ")[1][:2]) for piece in pieces)
    assert (len(found), found[0], found[-1]) == (erase.PIECES, 0, 58)
    assert peak < 2**20


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.clearing.BUSY_TIMEOUT_MS", 20)


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_keeps_the_log_is_told_and_what_is_due_is_done_later(filled) -> None:
    with filled.db.read() as db:
        copy = migrations.keep_copy(db, "before-restore")
        done = run_inside(filled, db)
        assert not done.clean
        log = str(own_files(filled.db.path)[1])
        assert [(place.place, place.left) for place in done.places] == [
            (str(filled.db.path), None), (log, None), (str(copy), 0),
        ]  # fmt: skip
        assert "in use by a reader" in done.places[1].done
        assert CANARY.encode() in raw(filled.db.path)
        assert not copy.exists()
        assert "in use by a reader" in cleared_later(filled)
    with filled.db.read() as db, pytest.raises(NotFoundError, match="is not cleared yet: run knowlex maintain"):
        erase.find(db, "shelf")
    assert cleared_later(filled) == "what was erased earlier is cleared"
    assert CANARY.encode() not in raw(filled.db.path)
    assert own_files(filled.db.path)[1].stat().st_size == 0
    assert not due(filled)


def cleared_later(shelf) -> str:
    """What `maintain` says of clearing."""
    [task] = [task for task in maintain.maintain(shelf.db).tasks if task.name == "erase"]
    return task.detail


def run_inside(shelf, db: Connection) -> erase.Erased:
    db.value("SELECT count(*) FROM projects")
    return erase.erase(shelf.db, erase.find(db, "shelf"))


@pytest.mark.usefixtures("impatient")
def test_the_next_erasure_finishes_the_one_before(filled) -> None:
    with filled.db.read() as db:
        run_inside(filled, db)
    assert due(filled)
    assert run(filled, "other").clean
    assert CANARY.encode() not in raw(filled.db.path)
    assert not due(filled)


@pytest.mark.usefixtures("impatient")
def test_a_copy_made_after_the_deletion_stays_and_has_nothing_of_the_text(filled) -> None:
    """It holds what was done since. What the deletion freed was overwritten: the copy takes the free pages, too."""
    with filled.db.read() as db:
        run_inside(filled, db)
    with filled.db.write() as db:
        projects.create(db, "work of months")
    with filled.db.read() as db:
        after = migrations.keep_copy(db, "before-restore")
    assert CANARY.encode() not in after.read_bytes()
    assert b"work of months" in after.read_bytes()
    assert cleared_later(filled) == "what was erased earlier is cleared"
    assert after.exists()


@pytest.mark.usefixtures("impatient")
def test_maintain_names_the_copies_that_it_removes(filled) -> None:
    with scratch.beside(filled.db.path, filled.db.path) as path:
        with filled.db.read() as db:
            snapshot.copy(db, path)
        os.utime(path, (0, 0))
        run(filled, "shelf")
        copy = scratch.keep_as(path, "test.db.before-restore")
    assert cleared_later(filled) == f"what was erased earlier is cleared; removed: {copy}"
    assert not copy.exists()


@pytest.mark.usefixtures("impatient")
def test_a_file_written_after_the_deletion_that_may_hold_the_text_is_named_and_stays(filled) -> None:
    """A copy that was begun before, or the bytes of a database that was damaged before all was cleared."""
    with filled.db.read() as db:
        run_inside(filled, db)
    copy = filled.db.path.with_name("test.db.damaged")
    copy.write_bytes(b"damaged, and all there is of the work since")
    ahead = time.time() + 1
    os.utime(copy, (ahead, ahead))
    assert cleared_later(filled) == (
        f"not finished: {copy}: written after the deletion, but may hold the text; remove it if you can"
    )
    assert copy.exists()
    assert due(filled)
    copy.unlink()
    assert cleared_later(filled) == "what was erased earlier is cleared"


@pytest.mark.usefixtures("impatient")
def test_an_erasure_does_not_forget_one_that_came_meanwhile(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other deletes, and has a reader in its way, just before the first is done and removes its note."""
    forget = clearing._forget
    others: list[erase.Erased] = []
    with Database.open(filled.db.path) as other, ExitStack() as reading:

        def meanwhile(database: Database, notes: list[str]) -> None:
            monkeypatch.setattr(clearing, "_forget", forget)
            db = reading.enter_context(other.read())
            db.value("SELECT count(*) FROM projects")
            others.append(erase.erase(other, erase.find(db, "other")))
            forget(database, notes)

        monkeypatch.setattr(clearing, "_forget", meanwhile)
        assert run(filled, "shelf").clean
        assert not others[0].clean
        assert due(filled)
    assert cleared_later(filled) == "what was erased earlier is cleared"
    assert f"the other's {KEPT}".encode() not in raw(filled.db.path)
    assert not due(filled)


def test_what_another_program_sampled_is_cleared(filled) -> None:
    """SQLite's own ANALYZE keeps samples of every index, names and titles among them."""
    with filled.db.write() as db:
        projects.create(db, "wombatglacier")
    with filled.db.unwrapped() as db:
        db.script("PRAGMA analysis_limit = 0; ANALYZE")
        assert db.value("SELECT count(*) FROM sqlite_stat4 WHERE instr(sample, CAST('wombatglacier' AS BLOB))")
    assert run(filled, "wombatglacier").clean
    assert b"wombatglacier" not in raw(filled.db.path)


FAULTS = {
    "storage.compaction.write_anew": DatabaseError("the disk reports an error"),
    "storage.clearing.copies": DatabaseError("cannot be listed"),
    "storage.scratch.sync_folder": OSError(5, "Input/output error"),
    "storage.erase._found": DatabaseError("the disk reports an error"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_after_the_deletion_is_a_place_in_the_report(
    filled, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    delete = erase._delete

    def then_break(database: Database, target: erase.Target) -> object:
        done = delete(database, target)
        monkeypatch.setattr(name, broken)
        return done

    def broken(*_: object, **__: object) -> None:
        raise FAULTS[name]

    monkeypatch.setattr(erase, "_delete", then_break)
    done = run(filled, "shelf")
    assert not done.clean
    assert str(FAULTS[name]).split("] ")[-1] in " ".join(place.done for place in done.places if place.left is None)
    monkeypatch.undo()
    with filled.db.read() as db, pytest.raises(NotFoundError):
        erase.find(db, "shelf")
    maintain.maintain(filled.db)
    assert CANARY.encode() not in raw(filled.db.path)
    assert not due(filled)


def test_what_a_link_leads_to_is_erased_with_the_copies_beside_it(filled, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    link = tmp_path / "home" / "link.db"
    link.symlink_to(filled.db.path)
    with filled.db.read() as db:
        copy = migrations.keep_copy(db, "before-restore")
    with Database.open(link) as database:
        with database.read() as db:
            target = erase.find(db, "shelf")
        assert erase.erase(database, target).clean
    assert not copy.exists()
    assert CANARY.encode() not in raw(filled.db.path)
    assert link.is_symlink()


@pytest.mark.usefixtures("impatient")
def test_the_schema_does_not_go_down_below_the_notes_while_one_is_due(filled) -> None:
    with filled.db.read() as db:
        run_inside(filled, db)
    with pytest.raises(DatabaseError, match="is not cleared yet.*run knowlex maintain"):
        filled.db.migrate(1)
    assert filled.db.version == migrations.LATEST
    assert clearing.copies(filled.db.path) == []
    maintain.maintain(filled.db)
    assert filled.db.migrate(1)


KILLED = """
import os, signal, sys
from storage import compaction, erase
from storage.database import Database
compaction.{last} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with Database.open(sys.argv[1]) as database:
    with database.read() as db:
        target = erase.find(db, "shelf")
    erase.erase(database, target)
"""


@pytest.mark.parametrize("last", ["write_anew", "fold_log"])
def test_a_process_that_is_killed_half_way_leaves_a_note(filled, last: str) -> None:
    with filled.db.read() as db:
        copy = migrations.keep_copy(db, "before-restore")
    killed = subprocess.run([sys.executable, "-c", KILLED.format(last=last), filled.db.path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert due(filled)
    assert CANARY.encode() in raw(filled.db.path)
    maintain.maintain(filled.db)
    assert not copy.exists()
    assert CANARY.encode() not in raw(filled.db.path)
    assert not due(filled)


def test_health_names_what_nobody_clears(filled) -> None:
    with filled.db.write() as db:
        erasures.note(db)
    assert health.check(filled.db.path, is_dead=lambda _: False).ok
    with filled.db.write() as db:
        db.run("UPDATE maintenance SET ended_at = '2026-01-01T00:00:00.000Z' WHERE task = 'erase'")
    [fault] = [one for one in health.check(filled.db.path, is_dead=lambda _: False).checks if not one.ok]
    assert (fault.name, fault.code) == ("maintenance", "erase_due")
    assert "run knowlex maintain" in fault.detail


def test_health_names_at_once_what_an_erasure_that_has_ended_left(filled) -> None:
    """And not what another one is at that began since."""
    with filled.db.write() as db:
        erasures.note(db)
        erasures.note_left(db, erasures.notes(db))
        erasures.note(db)
        first, second = erasures.notes(db)
        assert clearing.overdue(db) == erasures.since(first)
        erasures.forget(db, [first])
        assert (clearing.overdue(db), erasures.left(db)) == (None, [])
        erasures.forget(db, [second])
        assert maintain.last(db) == {}
        assert not db.all("SELECT * FROM maintenance")


def test_a_full_disk_is_told_after_the_deletion(small_disk: Path) -> None:
    """With room for the deletion, but not for the file written anew."""
    with Database.open(small_disk / "test.db") as database:
        maintain.fold_log(database, wait_ms=0)
        with database.write() as db:
            gone = projects.create(db, "gone")
            memories.add(db, gone.pk, "t", f"remember {CANARY} always")
        maintain.fold_log(database, wait_ms=0)
        filling = small_disk / "filling"
        fill(filling, leave=200_000)
        with database.read() as db:
            target = erase.find(db, "gone")
        done = erase.erase(database, target)
        assert done.places[0].left is None
        assert "cannot be cleared: no space left" in done.places[0].done
        assert CANARY.encode() not in raw(database.path), "what the deletion overwrote is folded into the file"
        filling.unlink()
        maintain.maintain(database)
        assert CANARY.encode() not in raw(database.path)


def fill(file: Path, leave: int) -> None:
    free = shutil.disk_usage(file.parent).free
    file.write_bytes(bytes(max(0, free - leave)))

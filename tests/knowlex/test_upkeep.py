"""Backup, restore, maintain and erase at the command line and in Python: what they answer, and with which code."""

from __future__ import annotations

import gc
import io
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from storage import maintain, migrations, projects
from storage.connection import Connection
from storage.errors import (
    DatabaseError,
    KnowlexError,
    NotFoundError,
    ReadOnlyError,
    ReplacedError,
    UniqueError,
    UsageError,
)
from storage.projects import Project

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
    restored = knowlex("restore", tmp_path / "copy.db", "--yes", "--json")
    done = restored.json
    assert restored.err == f"what was there before is kept in {notes}.before-restore\n"
    assert done["kept"] == f"{notes}.before-restore"
    assert [item["name"] for item in knowlex("project", "list", "--json").json] == ["other", "notes"]
    assert knowlex("verify", "--deep").out == "ok\n"
    assert knowlex("restore", tmp_path / "copy.db", "--yes").code == 0


def test_a_backup_and_a_restore_tell_all_that_they_hold(knowlex: Call, notes: Path, tmp_path: Path) -> None:
    with Knowlex(notes) as kb:
        kb.conversations.add(kb.conversations.create("Talk").id, "user", "hello")
        made = kb.backup(tmp_path / "copy.db")
        restored = kb.restore(made.path)
    held = {"files": 0, "chunks": 0, "projects": 2, "memories": 2, "conversations": 1, "messages": 1}
    told = "0 files, 0 passages, 2 projects, 2 memories, 1 conversation, 1 message"
    assert {name: getattr(made, name) for name in held} == {name: getattr(restored, name) for name in held} == held
    assert held.items() <= knowlex("backup", made.path, "--json").json.items()
    assert held.items() <= knowlex("restore", made.path, "--yes", "--json").json.items()
    assert f", {told}; read through\n" in knowlex("backup", made.path).out
    assert knowlex("restore", made.path, "--yes").out == f"{notes}: {told} restored\n"


@pytest.mark.parametrize("shut", ["file", "folder"])
def test_a_backup_is_looked_at_where_nothing_can_be_written(
    shut: str, knowlex: Call, notes: Path, open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    copy = open_folder / "copy.db"
    knowlex("backup", copy)
    knowlex("search", "notes", "zanzibar", "--mode", "text")  # imports what a plain user may not be able to
    before = copy.read_bytes()
    (copy if shut == "file" else open_folder).chmod(0o555)
    (open_folder if shut == "file" else copy).chmod(0o777)
    with as_plain_user(), Knowlex(copy, slow_query_ms=0) as kb:
        assert kb.verify() == []
        assert len(kb.search("notes", "zanzibar", mode="text", sources="memories")) == 1
        assert [memory.title for memory in kb.memories.list("notes").items] == ["Title"]
        assert [item.project.name for item in kb.projects.list()] == ["other", "notes"]
        assert kb.usage() is not None
        assert kb.migrate()[1] == []
        for write in (lambda: kb.projects.create("p"), kb.maintain, kb.repair, lambda: kb.erase("notes")):
            with pytest.raises(ReadOnlyError):
                write()
    assert copy.read_bytes() == before
    assert [path.name for path in open_folder.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("command", ["stats", "verify --deep", "memory add notes t u"])
def test_a_database_where_nothing_can_be_written_has_to_be_copied_first(
    command: str,
    knowlex: Call,
    notes: Path,
    open_folder: Path,
    tmp_path: Path,
    as_plain_user: Callable[[], AbstractContextManager[None]],
) -> None:
    used = open_folder / "used.db"
    shutil.copy(notes, used)
    used.chmod(0o644)
    open_folder.chmod(0o555)
    with as_plain_user():
        refused = knowlex(*command.split(), "--db", used)
    assert refused.code == 4
    assert refused.err.endswith(", or look at a copy elsewhere (knowlex --db OTHER restore FILE)\n")
    knowlex("restore", used, "--yes", "--db", tmp_path / "other.db")
    assert knowlex("verify", "--deep", "--db", tmp_path / "other.db").code == 0


def test_a_backup_is_verified_deeply_where_a_copy_can_lie_beside_it(
    knowlex: Call, notes: Path, open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    copy = open_folder / "copy.db"
    knowlex("backup", copy)
    copy.chmod(0o444)
    open_folder.chmod(0o777)
    with as_plain_user():
        assert knowlex("verify", "--deep", "--db", copy).code == 0
    open_folder.chmod(0o555)
    with as_plain_user():
        refused = knowlex("verify", "--deep", "--db", copy)
    assert (refused.code, "leave --deep out, or look at a copy elsewhere (" in refused.err) == (4, True)


def test_a_restore_makes_no_folder_for_a_name_that_may_be_mistyped(knowlex: Call, notes: Path, tmp_path: Path) -> None:
    knowlex("backup", tmp_path / "copy.db")
    refused = knowlex("restore", tmp_path / "copy.db", "--yes", "--db", tmp_path / "mistyped" / "k.db")
    assert (refused.code, f"{tmp_path}/mistyped: no such folder; " in refused.err) == (3, True)
    assert not (tmp_path / "mistyped").exists()
    assert knowlex("restore", tmp_path / "copy.db", "--yes", "--db", tmp_path / "k.db").code == 0


def test_a_backup_of_another_database_is_told_before_it_is_restored(
    knowlex: Call, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(copy: str) -> str:
        monkeypatch.setattr("knowlex.cli.door.is_terminal", lambda stream: True)
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        return knowlex("restore", tmp_path / copy).err.partition("? [y/N]")[0]

    knowlex("backup", tmp_path / "own.db")
    time.sleep(0.002)  # databases are told apart by the millisecond in which they were made
    for number in range(6):
        knowlex("project", "create", f"other {number}", "--db", tmp_path / "second.db")
    knowlex("backup", tmp_path / "foreign.db", "--db", tmp_path / "second.db")
    assert asked("own.db") == f"Replace {notes} by {tmp_path}/own.db"
    names = ", ".join(f"other {number}" for number in range(5))
    told = f", a backup of another database (projects: {names}, …)"
    assert asked("foreign.db") == f"Replace {notes} by {tmp_path}/foreign.db{told}"
    assert asked("missing.db") == f"Replace {notes} by {tmp_path}/missing.db"
    unasked = knowlex("restore", tmp_path / "foreign.db", "--yes", "--json")
    assert (unasked.code, unasked.err.splitlines()[0]) == (0, f"{tmp_path}/foreign.db{told}")


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
    said_of_other = knowlex("erase", "other", "--yes").out
    assert "project other erased: 1 project, " in said_of_other
    assert "1 memory, " in said_of_other
    assert "not searched" in said_of_other


@pytest.mark.parametrize("suffix", ["before-v5", "before-restore.2", "damaged"])
@pytest.mark.parametrize("command", [("backup",), ("conversation", "export", "--output")])
def test_nothing_is_written_where_erase_would_remove_it(
    knowlex: Call, notes: Path, command: tuple[str, ...], suffix: str
) -> None:
    refused = knowlex(*command, f"{notes}.{suffix}")
    assert refused.code == 2
    assert refused.err.endswith("with the copies of which erase would remove it; give another file\n")
    assert not Path(f"{notes}.{suffix}").exists()


def test_erase_names_a_setting_with_the_same_text_and_a_remedy_for_what_is_left(knowlex: Call, notes: Path) -> None:
    knowlex("settings", "set", "note", "he said: remember the notes of zanzibar")
    kept = knowlex("erase", "notes", "--yes")
    assert (kept.code, "  the same text stays in setting note\n" in kept.out) == (0, True)
    with Knowlex(notes) as kb, kb.database.write() as db:
        db.run("CREATE TABLE theirs AS SELECT content FROM project_memories")
    left = knowlex("erase", "other", "--yes")
    assert (left.code, "PIECES OF THE TEXT LEFT: 1\n    in no row of Knowlex: " in left.out) == (4, True)
    assert "then run knowlex maintain --vacuum\n" in left.out


def test_erase_takes_a_path_as_it_is_typed(knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "public.txt").write_text("The ferry to the island leaves at noon from the old harbour.")
    monkeypatch.chdir(tmp_path)
    assert knowlex("ingest", "harbour", "docs").code == 0
    done = knowlex("erase", "docs/../docs/public.txt", "--yes", "--json").json
    assert (done["kind"], done["clean"], done["removed"]["files"]) == ("file", True, 1)


def test_erase_says_what_a_reader_keeps_and_maintain_finishes(
    knowlex: Call, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.clearing.BUSY_TIMEOUT_MS", 20)
    with Knowlex(notes) as kb, kb.database.read() as db:
        db.value("SELECT count(*) FROM projects")
        answer = knowlex("erase", "notes", "--yes", "--json")
        assert (answer.code, said(answer)["clean"]) == (4, False)
        assert said(answer)["places"][1] == {
            "place": f"{notes}-wal",
            "done": "in use by a reader; run knowlex maintain when that has ended",
            "left": None,
        }
        assert "THE TEXT MAY BE LEFT" in knowlex("erase", "other", "--yes").out
        unfinished = knowlex("maintain")
        assert (unfinished.code, unfinished.err.count("\n")) == (4, 1)
        assert "an erasure is not finished: " in unfinished.err
        assert f"{notes}-wal: in use by a reader; run knowlex maintain when that has ended" in unfinished.err
        found = knowlex("maintain", "--json")
        assert (found.code, found.err, said(found)["clean"]) == (4, "", False)
        health = knowlex("health")
        assert (health.code, "is not cleared yet; run knowlex maintain" in health.out) == (4, True)
    again = knowlex("erase", "notes", "--yes")
    assert (again.code, "run knowlex maintain" in again.err) == (3, True)
    finished = knowlex("maintain")
    assert (finished.code, finished.err) == (0, "")
    assert "what was erased earlier is cleared" in finished.out
    assert knowlex("health").code == 0
    assert b"of zanzibar" not in notes.read_bytes()


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


def test_a_worker_on_a_full_disk_works_on(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Knowlex(small_disk / "k.db") as kb:
        kb.projects.create("p")
        with kb.drain() as drain:
            filling = small_disk / "filling"
            filling.write_bytes(bytes(shutil.disk_usage(small_disk).free))
            drain._maintain()
            assert "maintenance waits error_code=disk_full" in caplog.text
            filling.unlink()
            drain._maintain()
        assert maintained(kb)


def maintained(kb: Knowlex) -> dict[str, str]:
    with kb.database.read() as db:
        return maintain.last(db)


def test_an_object_that_was_open_goes_on_with_what_was_restored(database: Path, tmp_path: Path) -> None:
    with Knowlex(database) as kb, Knowlex(database) as other:
        kb.projects.create("kept")
        kb.backup(tmp_path / "copy.db")
        kb.projects.create("gone")
        assert [item.project.name for item in other.projects.list()] == ["gone", "kept"]
        kb.restore(tmp_path / "copy.db")
        assert [item.project.name for item in other.projects.list()] == ["kept"]
        other.memories.add("kept", "Title", "written after the restore")
        assert [memory.title for memory in kb.memories.list("kept").items] == ["Title"]


CALLS: dict[str, Callable[[Knowlex], object]] = {
    "a memory": lambda kb: kb.memories.add("p", "Title", "Content"),
    "a conversation": lambda kb: kb.conversations.create("Title", project="p"),
    "an update": lambda kb: kb.projects.update("p", description="theirs"),
    "a deletion": lambda kb: kb.projects.delete("p"),
    "a list": lambda kb: kb.memories.list("p").items and pytest.fail("theirs"),
    "a search": lambda kb: len(kb.search("p", "tide", mode="text", sources=("memories",))) and pytest.fail("theirs"),
    "a search of messages": lambda kb: kb.conversations.find("tide", project="p").items and pytest.fail("theirs"),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_restore_in_the_middle_of_a_call_moves_it_into_no_other_project(
    call: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Knowlex(tmp_path / "theirs.db") as theirs:
        theirs.projects.create("zzz")
        theirs.memories.add("zzz", "Theirs", "The tide was high.")
        talk = theirs.conversations.create("Theirs", project="zzz")
        theirs.conversations.add(talk.id, "user", "The tide was high.")
        theirs.backup(tmp_path / "copy.db")
    find, restores = projects.find, []

    def find_then_restore(db: Connection, name: str) -> Project:
        found = find(db, name)
        if not restores:
            restores.append(threading.Thread(target=restored, args=(database, tmp_path / "copy.db")))
            restores[0].start()
            restores[0].join(2)  # where the call holds the lock, the restore comes after it
        return found

    with Knowlex(database) as kb:
        kb.projects.create("p")
        monkeypatch.setattr(projects, "find", find_then_restore)
        with suppress(DatabaseError):
            CALLS[call](kb)
        restores[0].join()
        [held] = kb.projects.list()
        assert (held.project.name, held.project.description) == ("zzz", "")
        assert (held.memory_count, held.conversation_count) == (1, 1)


def restored(database: Path, copy: Path) -> None:
    """Let another object restore a backup."""
    with Knowlex(database) as other:
        other.restore(copy)


def test_a_call_that_is_under_way_learns_that_a_backup_was_restored(notes: Path, tmp_path: Path) -> None:
    """And not that the database is closed, when another thread has noticed it first and gone on with what is there."""
    with Knowlex(notes) as kb:
        kb.backup(tmp_path / "copy.db")
        database = kb.database  # as a call of another thread has it
        with Knowlex(notes) as other:
            other.restore(tmp_path / "copy.db")
        assert len(kb.projects.list()) == 2
        for transaction in (database.read, database.write):
            with pytest.raises(ReplacedError), transaction():
                pass
        gone = weakref.ref(database)
        del database, transaction
        gc.collect()
        assert gone() is None, "its connections stay open"


def test_an_ingestion_is_stopped_by_a_restore_and_writes_into_no_other_project(database: Path, tmp_path: Path) -> None:
    """Keys in its memory would else be those of other projects and files."""
    with Knowlex(tmp_path / "theirs.db") as theirs:
        theirs.projects.create("zzz")
        theirs.backup(tmp_path / "copy.db")
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.md").write_text(f"# Note {number}\n\nThis is what note {number} says, and nothing else.")
    with Knowlex(database) as kb:
        raised: list[BaseException] = []
        worker = threading.Thread(target=ingested, args=(kb, folder, raised))
        kb.projects.create("p")
        worker.start()
        with Knowlex(database) as other:
            give_up_at = time.monotonic() + 60
            while not other.files("p", "ready") and time.monotonic() < give_up_at:
                time.sleep(0.01)
            other.restore(tmp_path / "copy.db")
        worker.join()
        assert [type(error) for error in raised] == [ReplacedError]
        assert [(item.project.name, item.file_count) for item in kb.projects.list()] == [("zzz", 0)]


def ingested(kb: Knowlex, folder: Path, raised: list[BaseException]) -> None:
    try:
        kb.ingest("p", folder, workers=1)
    except KnowlexError as error:
        raised.append(error)


WORKS_ALONE: dict[str, Callable[[Knowlex], object]] = {
    "ingest": lambda kb: kb.ingest("p", "."),
    "drain": lambda kb: kb.drain(),
    "backup": lambda kb: kb.backup("copy.db"),
    "restore": lambda kb: kb.restore("copy.db"),
    "verify": lambda kb: kb.verify(deep=True),
    "repair": lambda kb: kb.repair(),
    "maintain": lambda kb: kb.maintain(),
    "erase": lambda kb: kb.erase("p"),
    "migrate": lambda kb: kb.migrate(1),
    "close": lambda kb: kb.close(),
}


@pytest.mark.parametrize("call", WORKS_ALONE)
def test_what_works_on_its_own_is_refused_within_a_transaction(
    database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Knowlex(database) as kb:
        kb.projects.create("p")
        with kb.transaction():
            kb.settings["before"] = 1
            with pytest.raises(UsageError, match=f"{call}: cannot be part of a transaction"):
                WORKS_ALONE[call](kb)
            kb.settings["after"] = 2
        assert kb.settings.all() == {"before": 1, "after": 2}
    assert [path.name for path in tmp_path.iterdir()] == [database.name]


def test_migrate_says_what_it_took_and_the_next_call_brings_the_schema_up(knowlex: Call, notes: Path) -> None:
    latest = migrations.LATEST
    assert knowlex("migrate", "--to", "1", "--json").json == {"version": 1, "taken": list(range(latest - 1, 0, -1))}
    assert knowlex("migrate", "--json").json == {"version": latest, "taken": list(range(2, latest + 1))}
    with Knowlex(notes) as kb:
        kb.migrate(1)
        assert kb.stats().memories == 2


def test_whatever_changes_the_schema_names_the_copy_made_before(knowlex: Call, notes: Path) -> None:
    told = "the schema was changed; the database as it was: {}.before-v{}\n".format
    assert knowlex("stats").err == ""
    assert knowlex("migrate", "--to", "1").err == told(notes, migrations.LATEST)
    assert knowlex("stats", "--json").err == told(notes, 1)
    assert knowlex("stats").err == ""


def test_emptying_a_database_asks_first_and_keeps_every_copy(knowlex: Call, notes: Path) -> None:
    assert knowlex("migrate", "--to", "0").code == 2
    for _ in range(2):
        assert knowlex("migrate", "--to", "0", "--yes").code == 0
        assert knowlex("project", "list", "--json").json == []
    with Knowlex(f"{notes}.before-v{migrations.LATEST}") as kb:
        assert [item.project.name for item in kb.projects.list()] == ["other", "notes"]


def test_a_newer_database_names_the_copy_that_can_be_used(
    knowlex: Call, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowlex("migrate", "--to", "1")
    knowlex("migrate")
    monkeypatch.setattr(migrations, "LATEST", 1)
    refused = knowlex("stats")
    assert (refused.code, refused.err.count("\n")) == (4, 1)
    assert f"upgrade Knowlex, or use the copy made before, {notes}.before-v1: name it with --db" in refused.err
    Path(f"{notes}.before-v1").unlink()
    assert knowlex("stats").err.endswith("upgrade Knowlex\n")

"""Each kind of drift is seen and named; a sound database is called sound."""

from __future__ import annotations

import itertools
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from storage import conversations, messages, pending, settings, text_index
from storage.compaction import fold_log
from storage.connection import Connection
from storage.database import Database
from storage.errors import (
    CorruptDatabaseError,
    DatabaseError,
    DiskFullError,
    LockedError,
    NewerSchemaError,
    ReadOnlyError,
    ReplacedError,
    UsageError,
)
from storage.invariants import PAGE
from storage.repair import Repaired, repair
from storage.sources import Source
from storage.verify import KINDS, Problem, circles, damaged_pages, unreadable, verify


def kinds(db: Database, *, deep: bool) -> set[str]:
    return {problem.kind for problem in verify(db, deep=deep)}


def read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a page hold one row."""
    for rows in ("verify.PAGE", "verify.VECTORS", "json_columns.PAGE", "indexed_texts.PAGE"):
        monkeypatch.setattr(f"storage.{rows}", 1)


def test_a_sound_database_is_sound(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify(filled.db) == []
    assert verify(filled.db, deep=True) == []
    read_one_by_one(monkeypatch)
    assert verify(filled.db, deep=True) == []


def test_drift_is_named(filled, drift, monkeypatch: pytest.MonkeyPatch) -> None:
    drift.plant(filled)
    assert drift.kind in kinds(filled.db, deep=drift.deep)
    read_one_by_one(monkeypatch)
    assert drift.kind in kinds(filled.db, deep=True)


def test_every_kind_has_a_drift_that_proves_it(drifts) -> None:
    assert {drift.kind for drift in drifts} == KINDS


def test_a_problem_names_an_offender_and_counts_all(filled, drifts) -> None:
    next(drift for drift in drifts if drift.kind == "tags").plant(filled)
    [problem] = verify(filled.db)
    with filled.db.read() as db:
        ids = [id for (id,) in db.all("SELECT id FROM project_memories")]
    assert problem.count == 2
    assert any(problem.detail.endswith(id) for id in ids)


def test_all_drifts_at_once_are_named(filled, drifts) -> None:
    planted = [drift for drift in drifts if not drift.stays]
    for drift in planted:
        drift.plant(filled)
    assert len(kinds(filled.db, deep=True)) > 30


def test_parts_of_every_type_are_sound(filled) -> None:
    with filled.db.write() as db:
        talk = conversations.create(db, "parts")
        messages.add(db, talk.id, "assistant", [{"type": "tool_call", "name": "x", "arguments": {"a": [1]}}])
        messages.add(db, talk.id, "tool", [{"type": "tool_result", "value": None}, {"type": "text", "text": "\\u0041"}])
        messages.add(db, talk.id, "user", [{"type": "image_ref", "path": "a.png"}])
    assert verify(filled.db, deep=True) == []


def thread(db: Connection, title: str, length: int) -> None:
    """Add a conversation whose messages each answer the next one, as an import may bring them."""
    talk = conversations.create(db, title)
    said = [messages.add(db, talk.id, "user", f"word {place}") for place in range(length)]
    for earlier, later in itertools.pairwise(said):
        db.run("UPDATE messages SET parent_id = :later WHERE pk = :pk", later=later.pk, pk=earlier.pk)


def steps(db: Connection, run: Callable[[Connection], object]) -> int:
    """Return how many thousand steps of the engine something takes."""
    taken = 0

    def step() -> bool:
        nonlocal taken
        taken += 1
        return False

    db.raw.set_progress_handler(step, 1000)
    run(db)
    db.raw.set_progress_handler(None)
    return taken


def test_a_thread_that_was_told_backwards_is_sound_and_read_once(shelf) -> None:
    """What four times as many messages take is not sixteen times as much."""
    with shelf.db.write() as db:
        thread(db, "short", 250)
        few = steps(db, circles)
        thread(db, "long", 750)
        assert circles(db) == []
        assert steps(db, circles) <= 5 * (few + 1)


def test_each_circle_is_named_once_by_its_first_message(shelf) -> None:
    """A circle of three, into which an earlier one answers, one of one, and one of two."""
    with shelf.db.write() as db:
        thread(db, "round", 8)
        for pk, parent in ((4, 2), (5, 5), (7, 6)):
            db.run("UPDATE messages SET parent_id = :parent WHERE pk = :pk", pk=pk, parent=parent)
        assert [pk for pk, _ in circles(db)] == [2, 5, 6]


def test_long_contents_are_read_a_few_at_a_time(shelf) -> None:
    """No more than the page that is read and the one before."""
    part = {"type": "tool_result", "value": "x" * 50_000}
    with shelf.db.write() as db:
        talk = conversations.create(db, "tools")
        for _ in range(6 * PAGE):
            messages.add(db, talk.id, "tool", [part])
    tracemalloc.start()
    try:
        assert verify(shelf.db) == []
        assert tracemalloc.get_traced_memory()[1] < 3 * PAGE * 50_000
    finally:
        tracemalloc.stop()


def test_numbers_and_characters_that_can_be_written_out_are_sound(filled) -> None:
    with filled.db.write() as db:
        talk = conversations.create(db, "odd", settings={"a": 1e308, "b": "\U0001f600", "c": "NaN"})
        messages.add(db, talk.id, "tool", [{"type": "tool_result", "value": 10**4000, "said": "\\ud800"}])
        db.run("UPDATE projects SET settings = :json", json='{"a": "\\ud83d\\ude00"}')
    filled.work({})
    assert verify(filled.db, deep=True) == []


def test_what_waits_for_a_vector_is_sound(filled) -> None:
    with filled.db.read() as db:
        assert pending.count(db) == 1
    assert verify(filled.db) == []


def pages(db: Database) -> tuple[int, int]:
    with db.read() as connection:
        return connection.value("PRAGMA page_count"), connection.value("PRAGMA page_size")


@pytest.mark.parametrize("fill", [b"\0", b"\xff", None], ids=["zeros", "ones", "noise"])
def test_a_damaged_page_is_named_wherever_it_is(filled, fill: bytes | None) -> None:
    """Every page in turn, but those that hold nothing: what is wrong is named, and never an error."""
    count, size = pages(filled.db)
    filled.db.close()
    whole = filled.db.path.read_bytes()
    with Database.open(filled.db.path) as db, db.read() as connection:
        free = connection.value("PRAGMA freelist_count")
    assert free == 0
    unseen: list[int] = []
    for page in range(count):
        noise = random.Random(page).randbytes(size) if fill is None else fill * size
        filled.db.path.write_bytes(whole[: page * size] + noise + whole[(page + 1) * size :])
        if not damage_is_seen(filled.db):
            unseen.append(page + 1)
    assert unseen == []


TREES = ["file_chunks", "chunk_fts_data", "chunk_fts_config", "vector_bits", "idx_file_chunks_project", "messages"]


@pytest.mark.parametrize("name", TREES)
def test_a_damaged_page_is_named_with_its_table_or_index(filled, name: str) -> None:
    """Also where the statements of the check, and SQLite's own, stumble over it first."""
    with filled.db.read() as db:
        [(type, root)] = db.all("SELECT type, rootpage FROM sqlite_schema WHERE name = :name", name=name)
    overwrite(filled.db, root)
    with Database.open(filled.db.path) as db:
        details = [problem.detail for problem in verify(db, deep=True) if problem.kind == "damaged"]
    assert [detail for detail in details if detail.startswith(f"{type} {name}: Tree {root} page {root}: ")]
    assert not [detail for detail in details if "run knowlex repair" in detail]


def test_a_page_that_keeps_the_database_from_being_opened_is_named(filled) -> None:
    with filled.db.read() as db:
        root = db.value("SELECT rootpage FROM sqlite_schema WHERE name = 'incarnation'")
    overwrite(filled.db, root)
    with pytest.raises(CorruptDatabaseError):
        Database.open(filled.db.path)
    assert [problem.detail for problem in damaged_pages(filled.db.path)] == [
        f"table incarnation: Tree {root} page {root}: btreeInitPage() returns error code 11"
    ]
    filled.db.path.write_bytes(b"no database " * 1000)
    assert damaged_pages(filled.db.path) == []


def overwrite(database: Database, page: int) -> None:
    """Overwrite a whole page of a database that is closed before."""
    _, size = pages(database)
    database.close()
    with database.path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def damage_is_seen(db: Database) -> bool:
    try:
        with Database.open(db.path) as damaged:
            return bool(verify(damaged, deep=True))
    except DatabaseError as error:
        return unreadable(error) is not None


def test_pages_damaged_under_an_open_database_are_named(filled) -> None:
    """What was read before is known; the pages that are read now are not what they were."""
    count, size = pages(filled.db)
    filled.db.close()
    with Database.open(filled.db.path) as db:
        with filled.db.path.open("r+b") as file:
            file.seek(size)
            file.write(b"\xff" * size * (count - 1))
        assert "damaged" in kinds(db, deep=True)
        assert "damaged" in kinds(db, deep=False)


def test_a_row_of_a_wrong_kind_is_named_where_it_stops_a_check(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that stumbles over a value is a problem of the file; over nothing, it is a fault of ours."""

    def stumble(db: Connection) -> Iterator[Problem]:
        raise TypeError("a bug")

    monkeypatch.setattr("storage.verify._references", stumble)
    with pytest.raises(TypeError, match="a bug"):
        verify(filled.db)
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE embedding_models SET dim = 'wide'")
    raw.close()
    assert [(p.detail, p.count) for p in verify(filled.db) if p.kind == "damaged"] == [
        ("dim of a row of embedding_models is of a kind that it does not hold", 1)
    ]


def test_a_snapshot_that_cannot_be_made_is_no_damage(open_folder: Path, as_plain_user) -> None:
    """The folder can no longer be written; a name that leaves no room for a longer one is no hindrance."""
    with Database.open(open_folder / ("d" * 233)) as db:
        assert verify(db, deep=True) == []
    path = open_folder / "a.db"
    with Database.open(path) as db:
        os.chmod(path, 0o666)
        os.chmod(open_folder, 0o555)
        with as_plain_user(), pytest.raises(DatabaseError) as found:
            verify(db, deep=True)
        os.chmod(open_folder, 0o755)
        assert not isinstance(found.value, CorruptDatabaseError)
        assert repair(db) == Repaired([], [], None)


def test_the_log_is_folded_while_the_copy_is_checked(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, folded = text_index.drift, list[bool]()

    def written_to_meanwhile(*asked: Any) -> int:
        with filled.db.write() as db:
            settings.set(db, "theme", f"light {len(folded)}")
        folded.append(fold_log(filled.db, wait_ms=0))
        return compare(*asked)

    monkeypatch.setattr(text_index, "drift", written_to_meanwhile)
    assert verify(filled.db, deep=True) == []
    assert folded == [True] * len(Source)


def full() -> Exception:
    """What the engine says where a file may not grow."""
    db = Connection(apsw.Connection(":memory:"), Path("x"))
    db.script("CREATE TABLE t (x); PRAGMA max_page_count = 2")
    with pytest.raises(DiskFullError) as found:
        db.run("INSERT INTO t VALUES (zeroblob(100000))")
    db.close()
    return found.value


FAULTS = [
    full(),
    DatabaseError("x"),
    ReadOnlyError("x"),
    ReplacedError("x"),
    TypeError("a bug"),
    ValueError("a bug"),
    MemoryError(),
]


@pytest.mark.parametrize("error", [*FAULTS, LockedError("x"), NewerSchemaError("x"), UsageError("x"), KeyError("x")])
def test_what_is_no_fault_of_the_file_is_no_problem_of_it(error: Exception) -> None:
    assert unreadable(error) is None

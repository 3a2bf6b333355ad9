"""A page that an interrupted write left as it once was: what else tells of its rows is not made to forget them."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from storage import conversations, lost_rows, memories, mends, messages, projects, remains, runs, settings, tokens
from storage.connection import connect
from storage.database import Database
from storage.mends import Mend
from storage.repair import EXPORT, Repaired, repair
from storage.runs import Ending, Figures, Kind, Run
from storage.verify import verify

TABLES = [
    "projects", "conversations", "messages", "project_files", "file_chunks", "project_memories", "access_tokens",
    "ingestion_runs", "app_settings", "token_projects",
]  # fmt: skip
MESSAGE_INDEXES = ("sqlite_autoindex_messages_1", "idx_messages_conversation", "idx_messages_created")

ALONE = "idx_messages_created alone told of rows what no other page knows, and was not believed, e.g. key 4"


@pytest.fixture
def earlier(filled) -> bytes:
    """The file as it was before `later` wrote to every table."""
    filled.db.close()
    image = filled.db.path.read_bytes()
    filled.db = Database.open(filled.db.path)
    return image


@pytest.fixture
def later(filled, earlier: bytes) -> Path:
    """The database with one more row of each kind, closed."""
    filled.add("d", "violet")
    with filled.db.write() as db:
        pk = projects.create(db, "new").pk
        messages.add(db, conversations.create(db, "talk of today").id, "user", "said today")
        memories.add(db, filled.project, "shade", "violet is cold")
        settings.set(db, "size", "small")
        tokens.create(db, [projects.by_pk(db, pk)], write=False, name="second")
        runs.keep(db, Run("another run", filled.project, Kind.WORK, Ending.DONE, None, "", "", 1.0, Figures(ready=1)))
    filled.work({})
    filled.db.close()
    return filled.db.path


def leaves(path: Path, name: str) -> list[int]:
    """Return the pages of a tree that hold its rows."""
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    pages = [page for (page,) in raw.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (name,))]
    raw.close()
    return pages


def revert(path: Path, earlier: bytes, *names: str) -> None:
    """Let the pages of tables and indexes be as they were; each has stayed where it was."""
    size = size_of_pages(path)
    for name in names:
        before = path.read_bytes()
        for page in leaves(path, name):
            at = (page - 1) * size
            with path.open("r+b") as file:
                file.seek(at)
                file.write(earlier[at : at + size])
        assert path.read_bytes() != before


def ruin(path: Path, name: str) -> None:
    """Overwrite the pages of an index or a table that hold its rows."""
    for page in leaves(path, name):
        overwrite(path, page)


def overwrite(path: Path, page: int) -> None:
    size = size_of_pages(path)
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def size_of_pages(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[16:18], "big")


def index_names(path: Path, table: str) -> list[str]:
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    names = [name for (name,) in raw.execute("SELECT name FROM pragma_index_list(?) WHERE NOT partial", (table,))]
    raw.close()
    return names


def lost(repaired: Repaired) -> dict[str, tuple[str, int]]:
    """Return what is said to be lost of each table: the names, and how many."""
    found: dict[str, tuple[str, int]] = {}
    for left in repaired.left:
        table, parted, names = left.detail.partition(": rows are lost, or older, that other pages still tell of: ")
        if parted:
            assert (left.kind, left.remedy) == ("damaged", EXPORT)
            found[table.removeprefix("table ")] = names, left.count
    return found


def require_left(path: Path) -> dict[str, tuple[str, int]]:
    """Repair a database, see that nothing is written, and return what it says is lost."""
    before = path.read_bytes()
    with Database.open(path) as db:
        repaired = repair(db)
        assert {problem.kind for problem in verify(db, deep=True)} >= {"damaged"}
    assert (repaired.mended, repaired.copy) == ([], None)
    assert path.read_bytes() == before
    return lost(repaired)


def id_of(path: Path, table: str) -> str:
    """Return the id of the row that came last."""
    return str(last(path, table, "id"))


def last(path: Path, table: str, column: str) -> object:
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    [[value]] = raw.execute(f"SELECT {column} FROM {table} ORDER BY pk DESC LIMIT 1")
    raw.close()
    return value


def test_no_message_is_lost_in_silence(later: Path, earlier: bytes) -> None:
    id = id_of(later, "messages")
    revert(later, earlier, "messages")
    with remains.reading(later) as db:
        named = remains.keys(db, remains.MESSAGES).named
    assert require_left(later) == {"messages": (id, 1)}
    with remains.reading(later) as db:
        assert remains.keys(db, remains.MESSAGES).named == named == {1, 2, 3, 4, 5}


def test_with_a_damaged_index_besides_nothing_is_written_anew(later: Path, earlier: bytes) -> None:
    id = id_of(later, "messages")
    revert(later, earlier, "messages")
    ruin(later, "idx_messages_created")
    assert require_left(later) == {"messages": (id, 1)}


@pytest.mark.parametrize("table", TABLES)
def test_no_table_loses_rows_in_silence(later: Path, earlier: bytes, table: str) -> None:
    match table:
        case "app_settings":
            named = "size"
        case "token_projects":
            named = f"key 2/{last(later, 'projects', 'pk')}"
        case _:
            named = id_of(later, table)
    revert(later, earlier, table)
    assert require_left(later)[table] == (named, 1)


@pytest.mark.parametrize("table", ["messages", "project_memories"])
def test_where_all_indexes_are_older_too_the_full_text_tells(later: Path, earlier: bytes, table: str) -> None:
    """As in a copy of which the beginning was taken before the end: SQLite finds that all of it fits."""
    revert(later, earlier, table, *index_names(later, table))
    with Database.open(later) as db, db.read() as connection:
        assert connection.value("PRAGMA integrity_check") == "ok"
    assert require_left(later) == {table: (f"key {5 if table == 'messages' else 3}", 1)}


def test_where_no_index_can_be_read_one_tree_of_the_full_text_is_enough(later: Path, earlier: bytes) -> None:
    revert(later, earlier, "messages", "message_fts_docsize")
    for name in MESSAGE_INDEXES:
        ruin(later, name)
    assert require_left(later) == {"messages": ("key 5", 1)}


def test_an_edit_is_not_lost_in_silence_either(filled, earlier: bytes) -> None:
    with filled.db.write() as db:
        memory = next(m for m in memories.listed(db, filled.project).items if m.title == "colour")
        memories.update(db, memory.id, content="red is warmer than blue")
    filled.db.close()
    revert(filled.db.path, earlier, "project_memories")
    assert require_left(filled.db.path) == {"project_memories": ("key 1", 1)}


def test_an_index_that_is_older_than_its_table_is_made_anew(filled, earlier: bytes) -> None:
    """It alone tells of a message that was deleted since, which is said; its times are no later than the table's."""
    with filled.db.write() as db:
        messages.delete(db, messages.every(db, conversations.listed(db).items[0].id)[-1].id)
        memories.update(db, next(iter(memories.listed(db, filled.project).items)).id, content="other words")
    filled.db.close()
    revert(filled.db.path, earlier, "idx_messages_created", "idx_project_memories_project", "idx_project_memories_type")
    with Database.open(filled.db.path) as db:
        repaired = repair(db)
        assert verify(db, deep=True) == []
    assert [(each.detail, each.count) for each in repaired.mended if each.kind == "index"] == [
        ("an index that did not fit its table was made anew, e.g. all indexes", 1),
        (ALONE, 1),
    ]
    assert repaired.left == []


def test_of_writing_anew_too_it_is_said_what_one_index_alone_told(filled, earlier: bytes) -> None:
    with filled.db.write() as db:
        messages.delete(db, messages.every(db, conversations.listed(db).items[0].id)[-1].id)
    filled.db.close()
    revert(filled.db.path, earlier, "idx_messages_created")
    ruin(filled.db.path, "idx_file_chunks_project")
    with Database.open(filled.db.path) as db:
        repaired = repair(db)
    assert [(each.kind, each.detail) for each in repaired.mended[1:]] == [("index", ALONE)]
    assert repaired.left == []


def test_an_index_of_which_entries_cannot_be_read_is_made_anew(filled) -> None:
    """Another page was written over it; a transaction that has read such an entry may not write any more."""
    filled.db.close()
    path, size = filled.db.path, size_of_pages(filled.db.path)
    [of], [page] = leaves(path, "message_fts_config"), leaves(path, "sqlite_autoindex_project_files_1")
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(whole[(of - 1) * size : of * size])
    with Database.open(path) as db:
        assert (repair(db).left, verify(db, deep=True)) == ([], [])


@pytest.mark.parametrize("most", [lost_rows.MOST_NAMED, 7])
def test_a_damaged_index_is_read_from_both_ends(filled, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What it names is believed where nothing else can be read; of many rows, no more than so many are held."""
    monkeypatch.setattr(lost_rows, "MOST_NAMED", most)
    with filled.db.write() as db:
        talk = conversations.create(db, "long")
        for number in range(1500):
            messages.add(db, talk.id, "user", f"number {number}")
    filled.db.close()
    path = filled.db.path
    ids, table = leaves(path, MESSAGE_INDEXES[0]), leaves(path, "messages")
    for name in (*MESSAGE_INDEXES[1:], "text_rows", "message_fts_docsize"):
        ruin(path, name)
    overwrite(path, ids[len(ids) // 2])
    gone = take_rows_off(path, table[0]) + take_rows_off(path, table[-1])
    with remains.reading(path) as db:
        [found] = lost_rows.compare(db).lost
    assert (found.tree, found.count) == ("messages", min(most, gone))
    assert len(found.names) == min(found.count, lost_rows.SHOWN)
    assert "key" not in " ".join(found.names)


def take_rows_off(path: Path, page: int) -> int:
    """Leave the first row of a page, which stays valid, and return how many are gone."""
    at = (page - 1) * size_of_pages(path) + 3
    with path.open("r+b") as file:
        file.seek(at)
        count = int.from_bytes(file.read(2), "big")
        file.seek(at)
        file.write(b"\0\1")
    return count - 1


def test_a_sound_database_has_lost_nothing(later: Path) -> None:
    db = connect(later, readonly=True)
    assert lost_rows.compare(db) == lost_rows.Compared([], [])
    db.close()


def test_an_index_that_is_gone_or_another_tells_nothing(later: Path, earlier: bytes) -> None:
    id = id_of(later, "messages")
    raw = apsw.Connection(str(later))
    raw.execute("DROP INDEX idx_messages_conversation; DROP INDEX idx_messages_created")
    raw.execute("CREATE INDEX idx_messages_created ON messages (created_at DESC, pk DESC) WHERE pk < 0")
    raw.close()
    revert(later, earlier, "messages")
    assert require_left(later) == {"messages": (id, 1)}


def test_texts_that_are_no_unicode_are_mended_where_all_is_written_anew(filled) -> None:
    """A memory, a message, and a passage, whose file is queued to be read again and is named, as it is gone."""
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE project_memories SET content = CAST(x'61ff62' AS TEXT) WHERE title = 'colour'")
    raw.execute("UPDATE messages SET content = CAST(x'ff' AS TEXT) WHERE pk = 1")
    raw.execute("UPDATE file_chunks SET heading = CAST(x'ff' AS TEXT) WHERE content = 'blue'")
    raw.close()
    path = filled.db.path
    filled.db.close()
    ruin(path, "idx_messages_created")
    with Database.open(path) as db:
        repaired = repair(db)
        assert {mended.kind: mended.count for mended in repaired.mended} == {
            "damaged": 1,
            "encoding": 3,
            "vector_text": 2,
            "unused_embedding": 2,
        }
    assert {(left.kind, left.count) for left in repaired.left} == {("file_gone", 1)}
    filled.db = Database.open(path)
    assert filled.file("c").status == "pending"
    with filled.db.read() as db:
        assert db.value("SELECT content FROM project_memories WHERE title = 'colour'") == "a\\xffb"
    filled.work({"c": "blue"})
    assert verify(filled.db, deep=True) == []


def test_where_such_texts_cannot_be_mended_nothing_is_written(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mends, "ENCODING", Mend("encoding", "nothing", lambda db: []))
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE project_memories SET content = CAST(x'61ff62' AS TEXT) WHERE title = 'colour'")
    raw.close()
    filled.db.close()
    ruin(filled.db.path, "idx_messages_created")
    before = filled.db.path.read_bytes()
    with Database.open(filled.db.path) as db:
        repaired = repair(db)
    assert (repaired.mended, repaired.copy) == ([], None)
    assert {left.kind for left in repaired.left} >= {"damaged", "encoding"}
    assert filled.db.path.read_bytes() == before

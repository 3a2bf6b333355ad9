"""Which rows of damaged tables there are, and what can be read of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import apsw
import pytest

from storage import remains
from storage.connection import Connection
from storage.errors import CorruptDatabaseError, DatabaseError, NotADatabaseError


def overwrite(path: Path, *names: str) -> None:
    """Overwrite the first page of tables and indexes."""
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    size = raw.pragma("page_size")
    roots = dict(raw.execute("SELECT name, rootpage FROM sqlite_schema"))
    raw.close()
    with path.open("r+b") as file:
        for name in names:
            file.seek((roots[name] - 1) * size)
            file.write(b"\xff" * size)


def run(path: Path, sql: str) -> None:
    raw = apsw.Connection(str(path))
    raw.execute(sql)
    raw.close()


def take_the_last_row_off(path: Path, table: str) -> None:
    """Make the page of a table as it was before its last row: valid, but older than the indexes."""
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    [[root]] = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
    at = (root - 1) * raw.pragma("page_size") + 3
    raw.close()
    with path.open("r+b") as file:
        file.seek(at)
        count = int.from_bytes(file.read(2), "big")
        file.seek(at)
        file.write((count - 1).to_bytes(2, "big"))


@pytest.fixture
def path(filled) -> Path:
    filled.db.close()
    return filled.db.path


def keys(db: Connection) -> remains.Keys:
    return remains.keys(db, remains.MESSAGES)


def test_a_table_that_can_be_read_says_it_all(path: Path) -> None:
    overwrite(path, "sqlite_autoindex_messages_1", "idx_messages_conversation")
    with remains.reading(path) as db:
        assert keys(db) == remains.Keys({1, 2, 3, 4})


def test_an_index_names_the_rows_of_a_table_that_cannot_be_read(path: Path) -> None:
    run(path, "DELETE FROM messages WHERE pk = 2; DROP INDEX idx_messages_created")
    overwrite(path, "messages", "sqlite_autoindex_messages_1")
    with remains.reading(path) as db:
        assert keys(db) == remains.Keys({1, 3, 4})
        assert remains.told(db, remains.MESSAGES[remains.TALKS], {1, 4}) == {1: 1, 4: 2}
        assert remains.told(db, remains.MESSAGES[remains.IDS], {1, 4}) == {}
        with pytest.raises(CorruptDatabaseError) as error:
            remains.said(db, 1)
        assert remains.is_damage(error.value)


def test_where_nothing_names_them_they_may_be_wherever_a_key_was_given(path: Path) -> None:
    run(path, "DELETE FROM messages WHERE pk = 4")
    overwrite(path, "messages", *(tree.source.split()[-1] for tree in remains.MESSAGES[1:]))
    with remains.reading(path) as db:
        found = keys(db)
        assert (found.named, list(found)) == (set(), [1, 2, 3, 4])
        assert remains.keys(db, remains.CONVERSATIONS) == remains.Keys({1, 2})


def test_what_only_an_index_names_is_asked_for_too(path: Path) -> None:
    take_the_last_row_off(path, "messages")
    overwrite(path, "idx_messages_created")
    with remains.reading(path) as db:
        assert [pk for (pk,) in db.all("SELECT pk FROM messages NOT INDEXED")] == [1, 2, 3]
        assert keys(db) == remains.Keys({1, 2, 3, 4})
        assert remains.said(db, 4) is None


def test_a_key_that_is_none_is_not_told(path: Path) -> None:
    run(path, "UPDATE messages SET conversation_id = CAST(x'ff' AS TEXT) WHERE pk = 2")
    overwrite(path, "messages")
    with remains.reading(path) as db:
        assert keys(db) == remains.Keys({1, 2, 3, 4})
        assert remains.told(db, remains.MESSAGES[remains.TALKS], {1, 2}) == {1: 1, 2: None}


def test_keys_that_nothing_names_are_looked_at_up_to_a_bound(path: Path) -> None:
    run(path, f"UPDATE sqlite_sequence SET seq = {2**62} WHERE name = 'messages'")
    overwrite(path, "messages", *(tree.source.split()[-1] for tree in remains.MESSAGES[1:]))
    with remains.reading(path) as db:
        found = keys(db)
    assert found == remains.Keys(set(), range(1, remains.MOST_UNNAMED + 1), 2**62 - remains.MOST_UNNAMED)
    assert list(islice(remains.Keys({2, 7}, range(1, 4)), 9)) == [1, 2, 3, 7]


def test_what_is_in_the_way_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all" * 100)
    with pytest.raises(NotADatabaseError) as error, remains.reading(tmp_path / "text"):
        pass
    assert not remains.is_damage(error.value)
    run(tmp_path / "empty.db", "PRAGMA user_version = 0")
    with remains.reading(tmp_path / "empty.db") as db, pytest.raises(DatabaseError, match="no such table"):
        keys(db)

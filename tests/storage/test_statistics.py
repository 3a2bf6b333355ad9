"""Statistics agree with the tables, and with the pages of the file."""

from __future__ import annotations

import pytest

from storage import conversations, memories, messages, projects, statistics
from storage.database import Database
from storage.errors import UsageError


def test_an_empty_database_holds_nothing(db: Database) -> None:
    with db.read() as tx:
        found = statistics.of(tx)
        assert statistics.largest(tx) == []
    assert (sum(found.files.values()), found.chunks, found.vectors, found.free_pages) == (0, 0, 0, 0)


def test_what_is_held_is_counted_of_all_and_of_one_project(shelf) -> None:
    shelf.add("a", "one two three")
    shelf.find("b", "four")
    with shelf.db.write() as tx:
        other = projects.create(tx, "other")
        memories.add(tx, other.pk, "Refunds", "Within 30 days.")
        talk = conversations.create(tx, "Lunch", project_pk=other.pk)
        messages.add(tx, talk.id, "user", "Pizza?")
    with shelf.db.read() as tx:
        found, of_shelf, of_other = (statistics.of(tx, pk) for pk in (None, shelf.project, other.pk))
    assert found.files == of_shelf.files == {"pending": 1, "processing": 0, "ready": 1, "failed": 0}
    assert (found.chunks, found.vectors, found.memories, found.messages) == (3, 3, 1, 1)
    assert (of_shelf.chunks, of_shelf.vectors, of_shelf.memories, of_shelf.conversations) == (3, 3, 0, 0)
    assert (of_other.chunks, of_other.vectors, of_other.memories, of_other.messages) == (0, 0, 1, 1)
    assert (found.pending_vectors, of_shelf.pending_vectors, of_other.pending_vectors) == (2, 0, 2)


def test_pages_and_bytes_are_those_of_the_file(shelf) -> None:
    shelf.add("a", " ".join(f"word{number}" for number in range(500)))
    with shelf.db.read() as tx:
        before = statistics.of(tx)
    shelf.delete("a")
    with shelf.db.write() as tx:
        after = statistics.of(tx)
        tx.all("PRAGMA incremental_vacuum")
        given_back = statistics.of(tx)
    assert before.free_pages < after.free_pages
    assert after.free_bytes == after.free_pages * after.page_bytes
    assert given_back.free_pages == 0
    assert given_back.pages <= after.pages - after.free_pages
    assert after.wal_bytes > 0


def test_tables_take_the_pages_of_the_file(shelf) -> None:
    shelf.add("a", " ".join(f"word{number}" for number in range(500)))
    with shelf.db.read() as tx:
        found = statistics.tables(tx)
        whole = statistics.of(tx)
    sizes = {table.name: table for table in found}
    assert [table.bytes for table in found] == sorted((table.bytes for table in found), reverse=True)
    # What is no table's: free pages, and those that say where each page belongs.
    taken = sum(table.bytes for table in found)
    assert taken <= whole.pages * whole.page_bytes - whole.free_bytes <= taken + 2 * whole.page_bytes
    assert sizes["file_chunks"].bytes > sizes["file_chunks"].index_bytes > 0
    assert sizes["chunk_fts"].index_bytes == 0
    assert not [name for name in sizes if name.startswith(("chunk_fts_", "idx_"))]


def test_the_largest_project_comes_first(shelf) -> None:
    shelf.add("a", "one two three")
    with shelf.db.write() as tx:
        small = [projects.create(tx, name) for name in ("small", "smaller")]
    with shelf.db.read() as tx:
        first, every = statistics.largest(tx, limit=2), statistics.largest(tx)
        with pytest.raises(UsageError, match="out of range"):
            statistics.largest(tx, limit=0)
    assert [(item.name, item.files, item.chunks) for item in first] == [("shelf", 1, 3), ("smaller", 0, 0)]
    assert first[0].bytes == len("one two three")
    assert [item.id for item in every[2:]] == [small[0].id]


def test_what_a_project_holds_is_as_its_statistics_say(shelf) -> None:
    shelf.add("a", "one two three")
    with shelf.db.write() as tx:
        empty = projects.create(tx, "empty").pk
        for pk in (shelf.project, empty):
            whole, held = statistics.of(tx, pk), statistics.holdings(tx, pk)
            same = ("files", "chunks", "memories", "conversations", "messages")
            assert [getattr(held, name) for name in same] == [getattr(whole, name) for name in same]
            assert (held.has_vectors, held.last) == (whole.vectors > 0, whole.ingestion.last)

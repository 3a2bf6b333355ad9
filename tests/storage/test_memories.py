"""Memories: their fields, their order, and indexes that hold the text of now and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from storage import changes, memories, pending, projects, text_index, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import NotFoundError, UsageError
from storage.memories import Memory, MemoryType, Order
from storage.pending import Pending
from storage.projects import Project
from storage.sources import Source


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


@pytest.fixture
def project(tx: Connection) -> Project:
    return projects.create(tx, "a")


def search(db: Connection, query: str, project: Project) -> list[int]:
    hits = text_index.search(db, Source.MEMORY, query, project_pk=project.pk, limit=10)
    return sorted(pk for pk, *_ in hits)


def put_vector(db: Connection, memory: Memory) -> None:
    model = vectors.ensure_model(
        db,
        name="small",
        hash="h",
        dim=8,
        pooling="mean",
        query_prompt="",
        document_prompt="",
        precision="fp32",
    )
    vector = vectors.encode(np.full((1, 8), 8**-0.5, np.float32))[0]
    vectors.put(db, model.pk, memory.project_pk, Source.MEMORY, [(memory.pk, bytes(32), vector)])


def test_a_memory_is_kept_as_given(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "Deadline", "Friday at noon", type="insight", importance=9, tags=["plan", "ü"])
    assert memories.get(tx, made.id) == made
    assert (made.project_pk, made.project_id) == (project.pk, project.id)
    assert (made.type, made.importance, made.tags) == (MemoryType.INSIGHT, 9, ["plan", "ü"])


def test_what_is_not_given_has_a_default(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "t", "c")
    assert (made.type, made.importance, made.tags) == (MemoryType.MEMORY, 5, [])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"type": "rumour"}, "type: 'rumour' is unknown; give one of memory, note, insight"),
        ({"importance": 0}, "importance: 0 is out of range; give a whole number from 1 to 10"),
        ({"importance": 11}, "importance: 11"),
        ({"importance": True}, "importance: True"),
        ({"importance": 2.5}, "importance: 2.5"),
        ({"tags": "plan"}, "tags: 'plan' is no list; give a list"),
        ({"tags": [""]}, "tag: is empty"),
        ({"tags": [1]}, "tag: is a number"),
        ({"title": " "}, "title: is empty"),
        ({"content": ""}, "content: is empty"),
        ({"content": "a\0b"}, "content: holds a NUL"),
    ],
)
def test_a_faulty_field_is_named(tx: Connection, project: Project, values: dict[str, Any], fault: str) -> None:
    sound: dict[str, Any] = {"title": "t", "content": "c"}
    with pytest.raises(UsageError, match=fault):
        memories.add(tx, project.pk, **(sound | values))
    made = memories.add(tx, project.pk, **sound)
    with pytest.raises(UsageError, match=fault):
        memories.update(tx, made.id, **values)
    assert memories.get(tx, made.id) == made


def test_what_does_not_exist_is_named(tx: Connection) -> None:
    for call in (memories.get, memories.update, memories.delete):
        with pytest.raises(NotFoundError, match="memory X: no such memory"):
            call(tx, "X")


@pytest.mark.parametrize(
    ("order", "expected"), [("recency", ["e", "d", "c", "b", "a"]), ("importance", ["d", "b", "e", "c", "a"])]
)
def test_a_list_is_paged_by_recency_or_importance(
    tx: Connection, project: Project, order: Order, expected: list[str]
) -> None:
    for title, importance in zip("abcde", (1, 10, 5, 10, 5), strict=True):
        memories.add(tx, project.pk, title, "c", importance=importance)
    memories.add(tx, projects.create(tx, "other").pk, "foreign", "c")
    seen: list[str] = []
    page = memories.listed(tx, project.pk, order=order, limit=2)
    while page.next is not None:
        seen += [item.title for item in page.items]
        page = memories.listed(tx, project.pk, order=order, limit=2, after=page.next)
    assert seen + [item.title for item in page.items] == expected


def test_a_cursor_of_the_other_order_is_refused(tx: Connection, project: Project) -> None:
    for title in "ab":
        memories.add(tx, project.pk, title, "c")
    after = memories.listed(tx, project.pk, order="importance", limit=1).next
    with pytest.raises(UsageError, match="no cursor of this list"):
        memories.listed(tx, project.pk, after=after)


def test_title_and_content_are_found_at_once(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "Zebra", "has stripes", tags=["animal"])
    assert search(tx, "zebra", project) == search(tx, "stripes", project) == [made.pk]
    assert search(tx, "animal", project) == []
    assert pending.take(tx, 10) == [Pending(Source.MEMORY, made.id, made.pk, project.pk, "Zebra\n\nhas stripes")]


def test_an_update_replaces_the_old_text_everywhere(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "Zebra", "stripes")
    put_vector(tx, made)
    pending.done(tx, Source.MEMORY, [made.pk])
    generation = changes.generation(tx, project.pk)

    updated = memories.update(tx, made.id, content="spots")
    assert (updated.title, updated.content) == ("Zebra", "spots")
    assert search(tx, "stripes", project) == []
    assert search(tx, "zebra", project) == search(tx, "spots", project) == [made.pk]
    assert tx.value("SELECT count(*) FROM vector_bits") == 0
    assert tx.value("SELECT count(*) FROM embeddings") == 0
    assert [row.text for row in pending.take(tx, 10)] == ["Zebra\n\nspots"]
    assert changes.generation(tx, project.pk) == generation + 1


def test_an_update_of_other_fields_keeps_the_vector(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "Zebra", "stripes")
    put_vector(tx, made)
    pending.done(tx, Source.MEMORY, [made.pk])
    generation = changes.generation(tx, project.pk)
    updated = memories.update(tx, made.id, type="note", importance=1, tags=["x"])
    assert (updated.type, updated.importance, updated.tags) == (MemoryType.NOTE, 1, ["x"])
    assert tx.value("SELECT count(*) FROM vector_bits") == 1
    assert pending.count(tx) == 0
    assert search(tx, "zebra", project) == [made.pk]
    assert changes.generation(tx, project.pk) == generation + 1


def test_deleting_leaves_nothing(tx: Connection, project: Project) -> None:
    made = memories.add(tx, project.pk, "Zebra", "stripes")
    put_vector(tx, made)
    generation = changes.generation(tx, project.pk)
    memories.delete(tx, made.id)
    for table in ("project_memories", "memory_fts", "vector_bits", "embeddings", "pending_vectors"):
        assert tx.value(f"SELECT count(*) FROM {table}") == 0, table
    assert changes.generation(tx, project.pk) == generation + 1


def test_a_memory_edited_meanwhile_gets_no_vector_of_its_old_text(tx: Connection, project: Project) -> None:
    same, edited = (memories.add(tx, project.pk, title, "c") for title in "ab")
    taken = pending.take(tx, 10)
    memories.update(tx, edited.id, title="new")
    assert pending.current(tx, taken) == taken[:1]
    pending.done(tx, Source.MEMORY, [same.pk])
    assert [row.text for row in pending.take(tx, 10)] == ["new\n\nc"]


# --- filters and search by words


@pytest.fixture
def four(tx: Connection, project: Project) -> dict[str, Memory]:
    """Memories of every kind, and one elsewhere."""
    memories.add(tx, projects.create(tx, "other").pk, "zebra", "elsewhere", type="note", importance=9, tags=["red"])
    made = [
        memories.add(tx, project.pk, "one", "zebra zebra", type="note", importance=2, tags=["red", "blue"]),
        memories.add(tx, project.pk, "two", "zebra beside gnu", type="note", importance=8, tags=["blue"]),
        memories.add(tx, project.pk, "three", "the zebra", type="insight", importance=8, tags=["red"]),
        memories.add(tx, project.pk, "four", "nothing", importance=10),
    ]
    return {memory.title: memory for memory in made}


@pytest.mark.parametrize("text", ["no JSON", "{"])
def test_damaged_tags_hide_no_other_memory(
    tx: Connection, project: Project, four: dict[str, Memory], text: str
) -> None:
    tx.run("UPDATE project_memories SET tags = :text WHERE pk = :pk", text=text, pk=four["one"].pk)
    assert [item.title for item in memories.listed(tx, project.pk, tag="red").items] == ["three"]
    assert [hit.memory.title for hit in memories.search(tx, project.pk, "zebra", tag="red")] == ["three"]


def test_a_memory_that_only_the_index_knows_is_not_found(
    tx: Connection, project: Project, four: dict[str, Memory]
) -> None:
    tx.run("DELETE FROM project_memories WHERE pk = :pk", pk=four["one"].pk)
    assert [hit.memory.title for hit in memories.search(tx, project.pk, "zebra")] == ["three", "two"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["four", "three", "two", "one"]),
        ({"type": "note"}, ["two", "one"]),
        ({"type": "insight"}, ["three"]),
        ({"tag": "red"}, ["three", "one"]),
        ({"tag": "re"}, []),
        ({"tag": '"red"'}, []),
        ({"min_importance": 8}, ["four", "three", "two"]),
        ({"min_importance": 8, "tag": "blue"}, ["two"]),
        ({"type": "note", "tag": "red", "min_importance": 2}, ["one"]),
        ({"type": "note", "tag": "red", "min_importance": 3}, []),
    ],
)
def test_a_list_is_filtered_before_it_is_cut(
    tx: Connection, project: Project, four: dict[str, Memory], filters: dict[str, Any], expected: list[str]
) -> None:
    assert [item.title for item in memories.listed(tx, project.pk, **filters).items] == expected
    most = memories.listed(tx, project.pk, order="importance", **filters).items
    assert [item.title for item in most] == sorted(
        expected, key=lambda title: (four[title].importance, four[title].pk), reverse=True
    )
    matching = memories.matching(tx, project.pk, **filters)
    assert matching == ({four[title].pk for title in expected} if filters else None)
    seen: list[str] = []
    page = memories.listed(tx, project.pk, limit=1, **filters)
    while page.next is not None:
        seen += [item.title for item in page.items]
        page = memories.listed(tx, project.pk, limit=1, after=page.next, **filters)
    assert seen + [item.title for item in page.items] == expected


def test_a_search_ranks_what_passes_the_filters_and_marks_what_was_asked(
    tx: Connection, project: Project, four: dict[str, Memory]
) -> None:
    hits = memories.search(tx, project.pk, "zebra")
    assert [hit.memory for hit in hits] == [four["one"], four["three"], four["two"]]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].snippet == "<mark>zebra</mark> <mark>zebra</mark>"
    # The best hit of all is left out, so that the limit still gives one of those that pass.
    assert [hit.memory for hit in memories.search(tx, project.pk, "zebra", min_importance=8, limit=1)] == [
        four["three"]
    ]
    assert [hit.memory for hit in memories.search(tx, project.pk, "zebra", type="note", tag="blue")] == [
        four["one"],
        four["two"],
    ]
    assert memories.search(tx, project.pk, "zebra", tag="none") == []
    assert [hit.memory for hit in memories.search(tx, project.pk, "four")] == [four["four"]]


@pytest.mark.parametrize("query", ["", " ", '"', "AND", "NEAR(", "a\0b", "🦓", "* OR *"])
def test_any_string_is_a_question(tx: Connection, project: Project, four: dict[str, Memory], query: str) -> None:
    assert memories.search(tx, project.pk, query) == []


@pytest.mark.parametrize(
    ("filters", "fault"),
    [
        ({"type": "rumour"}, "type: 'rumour' is unknown"),
        ({"min_importance": 0}, "min_importance: 0 is out of range"),
        ({"min_importance": 11}, "min_importance: 11 is out of range"),
        ({"tag": ""}, "tag: is empty"),
        ({"limit": 0}, "limit 0"),
    ],
)
def test_a_faulty_filter_is_named(tx: Connection, project: Project, filters: dict[str, Any], fault: str) -> None:
    for call in (memories.listed, lambda *args, **more: memories.search(*args, "zebra", **more)):
        with pytest.raises(UsageError, match=fault):
            call(tx, project.pk, **filters)

"""Chunks added one by one or many at once, and read a page at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage import changes, chunks, files
from storage.errors import ModelSwitchedError, NotFoundError, UsageError
from storage.vectors import Vector
from storage.verify import verify


def _texts(shelf, name: str) -> list[str]:
    with shelf.db.read() as db:
        return [chunk.content for chunk in chunks.of_file(db, shelf.file(name).pk)]


def test_a_chunk_is_added_behind_those_there_are_and_found_at_once(shelf) -> None:
    owner = shelf.add("a", "red green")
    [new] = shelf.words("blue")
    with shelf.db.write() as db:
        before = changes.generation(db, shelf.project)
        made = chunks.add(db, owner.pk, shelf.model, new)
        assert chunks.get(db, made.pk) == chunks.by_id(db, made.id) == made
        assert changes.generation(db, shelf.project) == before + 1
    assert (made.file_pk, made.chunk_index, made.content, made.token_count) == (owner.pk, 2, "blue", 1)
    assert made.created_at >= owner.updated_at
    assert _texts(shelf, "a") == ["red", "green", "blue"]
    assert (shelf.found("blue"), shelf.file("a").chunk_count) == (["a"], 3)
    assert verify(shelf.db, deep=True) == []


def test_many_are_added_in_their_order_and_counted_for_every_name(shelf) -> None:
    owner = shelf.add("a", "red")
    shelf.find("b", "red")
    shelf.find("c", "red")
    with shelf.db.write() as db:
        made = chunks.add_many(db, owner.pk, shelf.model, shelf.words("green red green"))
    assert [(chunk.chunk_index, chunk.content) for chunk in made] == [(1, "green"), (2, "red"), (3, "green")]
    assert [shelf.file(name).chunk_count for name in "abc"] == [4, 4, 4]
    assert verify(shelf.db, deep=True) == []
    shelf.delete("a")
    assert _texts(shelf, "b") == ["red", "green", "red", "green"]
    assert verify(shelf.db, deep=True) == []


def test_adding_none_changes_nothing(shelf) -> None:
    owner = shelf.add("a", "red")
    with shelf.db.write() as db:
        before = changes.generation(db, shelf.project)
        assert chunks.add_many(db, owner.pk, shelf.model, []) == []
        assert changes.generation(db, shelf.project) == before
    assert shelf.file("a") == owner


def test_what_fails_adds_nothing(shelf) -> None:
    owner = shelf.add("a", "red")
    [blue] = shelf.words("blue")
    narrow = replace(blue, vector=Vector(blue.vector.half[2:], blue.vector.bits))
    with pytest.raises(UsageError, match="but the model gives"), shelf.db.write() as db:
        chunks.add_many(db, owner.pk, shelf.model, [narrow])
    with pytest.raises(ModelSwitchedError, match="another model became live"), shelf.db.write() as db:
        chunks.add_many(db, owner.pk, shelf.model + 1, [blue])
    assert (_texts(shelf, "a"), shelf.found("blue")) == (["red"], [])
    assert verify(shelf.db, deep=True) == []


def test_a_duplicate_gets_no_chunks_and_names_who_has_them(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("b", "red")
    with shelf.db.write() as db, pytest.raises(UsageError, match="/b: holds the same bytes as /a, which has the"):
        chunks.add(db, shelf.file("b").pk, shelf.model, shelf.words("blue")[0])


def test_a_file_that_is_not_ready_gets_no_chunks(shelf) -> None:
    shelf.find("a", "red")
    pk = shelf.file("a").pk
    new = shelf.words("blue")
    with shelf.db.write() as db, pytest.raises(UsageError, match="/a: is pending, not ready"):
        chunks.add_many(db, pk, shelf.model, new)
    [claim] = shelf.claim()
    with shelf.db.write() as db:
        with pytest.raises(UsageError, match="/a: is processing, not ready"):
            chunks.add_many(db, pk, shelf.model, new)
        files.mark_failed(db, claim.pk, code="corrupt", message="bad", versions=shelf.versions)
        with pytest.raises(UsageError, match="/a: is failed, not ready"):
            chunks.add_many(db, pk, shelf.model, new)


def test_unknown_files_and_chunks_are_named(shelf) -> None:
    with shelf.db.write() as db:
        with pytest.raises(NotFoundError, match="file 99: no such file"):
            chunks.add(db, 99, shelf.model, shelf.words("blue")[0])
        with pytest.raises(NotFoundError, match="chunk 99: no such chunk"):
            chunks.get(db, 99)
        with pytest.raises(NotFoundError, match="X: no such chunk"):
            chunks.by_id(db, "X")


def test_chunks_are_paged_in_their_order(shelf) -> None:
    content = "one two three four five"
    owner = shelf.add("a", content)
    seen: list[str] = []
    with shelf.db.read() as db:
        page = chunks.listed(db, owner.pk, limit=2)
        while page.next is not None:
            seen += [chunk.content for chunk in page.items]
            page = chunks.listed(db, owner.pk, limit=2, after=page.next)
        assert [*seen, *(chunk.content for chunk in page.items)] == content.split()
        assert chunks.listed(db, owner.pk).items == chunks.of_file(db, owner.pk)
        assert chunks.listed(db, 99).items == []


def test_chunks_are_found_by_each_page_that_they_stand_on(shelf) -> None:
    owner = shelf.add("a", "one")
    two, three = shelf.words("two three")
    with shelf.db.write() as db:
        added = [replace(two, page_start=1, page_end=3), replace(three, page_start=None, page_end=None)]
        chunks.add_many(db, owner.pk, shelf.model, added)
    with shelf.db.read() as db:
        found = [[chunk.content for chunk in chunks.listed(db, owner.pk, on_page=page)] for page in (1, 3, 4)]
    assert found == [["one", "two"], ["two"], []]


def test_added_chunks_stay_when_the_file_is_edited(shelf) -> None:
    owner = shelf.add("a", "red green")
    with shelf.db.write() as db:
        made = chunks.add_many(db, owner.pk, shelf.model, shelf.words("blue red"))
    shelf.add("a", "red red")
    assert (_texts(shelf, "a"), shelf.file("a").chunk_count) == (["red", "red", "blue", "red"], 4)
    with shelf.db.read() as db:
        assert [chunks.by_id(db, chunk.id).content for chunk in made] == ["blue", "red"]
    assert verify(shelf.db, deep=True) == []


@pytest.mark.parametrize("metadata", ['{"added": true}', '{"by":"hand", "added":true}'])
def test_added_is_what_the_json_says(shelf, metadata: str) -> None:
    """However another program writes it: the chunk is not taken for one the file makes, edited again and again."""
    owner = shelf.add("a", "red green")
    with shelf.db.write() as db:
        made = chunks.add(db, owner.pk, shelf.model, shelf.words("blue")[0])
        db.run("UPDATE file_chunks SET metadata = :metadata WHERE pk = :pk", metadata=metadata, pk=made.pk)
    shelf.add("a", "red blue")
    shelf.add("a", "red pink")
    assert _texts(shelf, "a") == ["red", "pink", "blue"]
    with shelf.db.read() as db:
        assert chunks.by_id(db, made.id).content == "blue"
        assert db.value("SELECT metadata FROM file_chunks WHERE pk = :pk", pk=made.pk) == metadata
    assert verify(shelf.db, deep=True) == []


def test_chunks_the_file_makes_go_however_their_metadata_is_written(shelf) -> None:
    shelf.add("a", "red green")
    with shelf.db.write() as db:
        db.run("UPDATE file_chunks SET metadata = '{ }'")
    shelf.add("a", "pink")
    assert _texts(shelf, "a") == ["pink"]


def test_what_a_chunk_repeats_is_kept_with_its_place_and_does_not_make_it_an_added_one(shelf) -> None:
    shelf.find("a", "one")
    [claim] = shelf.claim()
    red, green, blue = shelf.words("red green blue")
    with shelf.db.write() as db:
        chunks.replace(db, shelf.project, claim.pk, shelf.model, [replace(red, repeated=2), green])
        assert [chunk.repeated for chunk in chunks.of_file(db, claim.pk)] == [2, 0]
        assert db.value("SELECT metadata FROM file_chunks WHERE content = 'red'") == '{"repeated":2}'
        chunks.replace(db, shelf.project, claim.pk, shelf.model, [red, replace(green, repeated=3)])
        assert [chunk.repeated for chunk in chunks.of_file(db, claim.pk)] == [0, 3]
        chunks.replace(db, shelf.project, claim.pk, shelf.model, [blue])
        assert [chunk.content for chunk in chunks.of_file(db, claim.pk)] == ["blue"]


def test_an_added_chunk_may_repeat_something_too(shelf) -> None:
    owner = shelf.add("a", "red")
    with shelf.db.write() as db:
        made = chunks.add(db, owner.pk, shelf.model, replace(shelf.words("blue")[0], repeated=2))
    shelf.add("a", "green")
    assert (made.repeated, _texts(shelf, "a")) == (2, ["green", "blue"])


@pytest.mark.parametrize("metadata", ["", "{", "[]", '{"repeated":"x"}', '{"repeated":-1}'])
def test_metadata_that_tells_nothing_of_what_is_repeated_means_nothing(shelf, metadata: str) -> None:
    owner = shelf.add("a", "red")
    with shelf.db.write() as db:
        db.run("UPDATE file_chunks SET metadata = :metadata", metadata=metadata)
        assert [chunk.repeated for chunk in chunks.of_file(db, owner.pk)] == [0]


def test_added_chunks_stay_with_the_name_that_has_the_old_bytes(shelf) -> None:
    owner = shelf.add("a", "red")
    shelf.find("b", "red")
    with shelf.db.write() as db:
        chunks.add(db, owner.pk, shelf.model, shelf.words("blue")[0])
    shelf.add("a", "green")
    assert (_texts(shelf, "a"), _texts(shelf, "b")) == (["green"], ["red", "blue"])
    assert verify(shelf.db, deep=True) == []


def test_added_chunks_of_a_name_that_becomes_a_duplicate_go_to_the_owner(shelf) -> None:
    shelf.add("a", "red")
    shelf.add("b", "green")
    shelf.find("c", "red")
    with shelf.db.write() as db:
        chunks.add(db, shelf.file("a").pk, shelf.model, shelf.words("white")[0])
        chunks.add(db, shelf.file("b").pk, shelf.model, shelf.words("blue")[0])
    shelf.find("b", "red")
    assert (_texts(shelf, "a"), _texts(shelf, "b")) == (["red", "white", "blue"], [])
    assert [shelf.file(name).chunk_count for name in "abc"] == [3, 3, 3]
    assert verify(shelf.db, deep=True) == []


def test_added_chunks_of_names_that_waited_go_to_the_one_that_was_read(shelf) -> None:
    for name in "abc":
        owner = shelf.add(name, f"red {name}")
        with shelf.db.write() as db:
            chunks.add(db, owner.pk, shelf.model, shelf.words(f"of{name}")[0])
    for name in "abc":
        shelf.find(name, "green")
    shelf.work({"a": "green"})
    assert _texts(shelf, "a") == ["green", "ofa", "ofb", "ofc"]
    assert [shelf.file(name).chunk_count for name in "abc"] == [4, 4, 4]
    assert verify(shelf.db, deep=True) == []


def test_added_chunks_go_with_the_last_name(shelf) -> None:
    owner = shelf.add("a", "red")
    with shelf.db.write() as db:
        chunks.add(db, owner.pk, shelf.model, shelf.words("blue")[0])
    shelf.delete("a")
    assert shelf.count("file_chunks") == 0
    assert verify(shelf.db, deep=True) == []

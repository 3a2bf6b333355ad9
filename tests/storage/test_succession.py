"""A model follows another: built beside it, whole when it becomes live, and nothing of the former one stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faults import mutants

from storage import (
    changes,
    conversations,
    files,
    growth,
    maintain,
    memories,
    messages,
    pending,
    projects,
    succession,
    vectors,
)
from storage.connection import Connection
from storage.errors import CorruptDatabaseError, ModelSwitchedError, UsageError
from storage.repair import repair
from storage.sources import Source
from storage.succession import FIRST, Key, Passage
from storage.vector_mirror import VectorMirror
from storage.vectors import Model, Vector, input_hash
from storage.verify import Problem, verify

DIM = 16
NEXT = Model(0, "", "next", "next", DIM, "cls", "q: ", "d: ", "fp32", "building")
THIRD = replace(NEXT, name="third", hash="third")


def vector(text: str, dim: int = DIM) -> Vector:
    """The next model's vector of a text; always the same."""
    values = np.random.default_rng([7, *text.encode()]).standard_normal(dim)
    return vectors.encode((values / np.linalg.norm(values)).astype(np.float32).reshape(1, -1))[0]


def rows(passages: list[Passage]) -> list[tuple[Passage, bytes, Vector]]:
    return [(passage, input_hash(passage.text), vector(passage.text)) for passage in passages]


def begin(shelf, wanted: Model = NEXT, **options: bool) -> Model:
    with shelf.db.write() as db:
        return succession.begin(db, wanted, **options)


def build(shelf, model: Model) -> None:
    """Give everything a vector of the model."""
    after = FIRST
    while True:
        with shelf.db.write() as db:
            page = succession.page(db, model.pk, after, 2)
            succession.keep(db, model.pk, rows([p for p in page.passages if p.key not in page.done]))
        if not page.looked_at:
            return
        after = page.last


def switch(shelf, model: Model, **options: Any) -> bool:
    with shelf.db.write() as db:
        return succession.switch(db, model.pk, **options)


def pages(db: Connection, model: Model, limit: int) -> Iterator[succession.Page]:
    after = FIRST
    while (page := succession.page(db, model.pk, after, limit)).looked_at:
        yield page
        after = page.last


def of_model(db: Connection, model: Model) -> set[Key]:
    return {
        Key(*row) for row in db.all("SELECT project, source, pk FROM vector_bits WHERE model = :model", model=model.pk)
    }


# --- one model at a time is built


def test_the_live_model_is_not_built_again_and_takes_the_name_it_is_given(filled) -> None:
    live = Model(0, "", "elsewhere", "h", 8, "mean", "", "", "fp32", "building")
    assert begin(filled, live) == replace(live, pk=filled.model, id=begin(filled, live).id, status="live")
    with filled.db.read() as db:
        assert vectors.live_model(db) == begin(filled, live)
        assert succession.building(db) is None


def test_a_second_model_is_refused_while_another_is_half_built(filled) -> None:
    first = begin(filled)
    assert begin(filled) == first
    with pytest.raises(
        UsageError, match="next is half built: run knowlex reembed next to finish it, or give --discard"
    ):
        begin(filled, THIRD)
    build(filled, first)
    third = begin(filled, THIRD, discard=True)
    with filled.db.write() as db, pytest.raises(ModelSwitchedError, match="next was dropped meanwhile"):
        succession.keep(db, first.pk, [])
    with pytest.raises(ModelSwitchedError, match="next was dropped meanwhile"):
        switch(filled, first)
    with filled.db.read() as db:
        assert succession.building(db) == succession.Building("third", 0, 7, succession.building(db).at)
    assert third.status == "building"


def test_the_first_model_of_an_empty_database_is_live_at_once(shelf) -> None:
    with shelf.db.write() as db:
        db.run("DELETE FROM embedding_models")
    assert begin(shelf).status == "live"


def test_passages_without_a_live_model_are_damage(filled) -> None:
    with filled.db.write() as db:
        db.run("UPDATE embedding_models SET status = 'retired'")
    with pytest.raises(CorruptDatabaseError, match="run knowlex repair"):
        begin(filled)


# --- building


@pytest.mark.parametrize("limit", [1, 3, 99])
def test_pages_go_through_all_that_is_searched_once_and_tell_what_is_done(filled, limit: int) -> None:
    model = begin(filled)
    with filled.db.write() as db:
        searched = of_model(db, vectors.live_model(db))
        [first, *_] = succession.page(db, model.pk, FIRST, 1).passages
        succession.keep(db, model.pk, rows([first]))
        found = list(pages(db, model, limit))
        lacking = succession.lacking(db, model.pk, FIRST, 99)
    keys = [passage.key for page in found for passage in page.passages]
    assert keys == sorted(searched)
    assert [page.looked_at for page in found] == [len(page.passages) for page in found]
    assert {key for page in found for key in page.done} == {first.key}
    assert {passage.key for passage in lacking.passages} == searched - {first.key}


def test_what_comes_in_while_pages_are_read_is_left_for_later(filled) -> None:
    model = begin(filled)
    with filled.db.read() as db:
        until = succession.newest(db)
        before = of_model(db, vectors.live_model(db))
    for read in (succession.page, succession.lacking):
        after, seen = FIRST, set()
        for turn in range(99):
            filled.add(f"{read.__name__} {turn}", f"word {turn}")
            with filled.db.read() as db:
                page = read(db, model.pk, after, 2, until)
            if not page.looked_at:
                break
            seen |= {passage.key for passage in page.passages}
            after = page.last
        assert seen == before
    with filled.db.read() as db:
        assert succession.count_lacking(db, model.pk) > len(before)


def test_a_passage_has_a_name_that_people_know(filled) -> None:
    with filled.db.write() as db:
        names = {passage.source: succession.name_of(db, passage.key) for passage in next(pages(db, NEXT, 99)).passages}
        memory = next(m for m in memories.listed(db, filled.project).items if m.title == "colour")
        gone = next(passage.key for passage in next(pages(db, NEXT, 99)).passages if passage.source is Source.MEMORY)
        memories.delete(db, memory.id)
        assert succession.name_of(db, gone) == "a memory that was deleted meanwhile"
    assert names[Source.FILE] == "passage 0 of /c"
    assert names[Source.MEMORY] == f"memory {memory.id}"
    assert names[Source.MESSAGE].startswith("message 0")


def test_a_passage_is_what_the_live_model_saw(filled) -> None:
    with filled.db.read() as db:
        [page] = pages(db, NEXT, 99)
        for passage in page.passages:
            digest = db.value(
                "SELECT e.input_hash FROM vector_bits v JOIN embeddings e ON e.pk = v.embedding"
                " WHERE v.project = :project AND v.source = :source AND v.pk = :pk",
                **passage.key._asdict(),
            )
            assert input_hash(passage.text) == digest
    assert {passage.source for passage in page.passages} == set(Source)


def test_what_changes_meanwhile_gets_no_vector_of_its_former_text(filled) -> None:
    model = begin(filled)
    with filled.db.read() as db:
        [page] = pages(db, model, 99)
    with filled.db.write() as db:
        [memory] = [m for m in memories.listed(db, filled.project).items if m.title == "colour"]
        memories.update(db, memory.id, content="blue is cold")
        aside = conversations.listed(db).items
        moved = next(talk for talk in aside if talk.project_pk is None)
        conversations.move(db, moved.id, filled.project)
        files.delete(db, files.by_path(db, filled.project, b"/c"))
        succession.keep(db, model.pk, rows(page.passages))
        kept = of_model(db, model)
    with filled.db.read() as db:
        assert kept < {passage.key for passage in page.passages}
        assert kept <= of_model(db, vectors.live_model(db))
        assert {key.source for key in {passage.key for passage in page.passages} - kept} == set(Source)
    assert verify(filled.db, deep=True) == []


def test_deleting_takes_the_vectors_of_the_model_that_is_built_along(filled) -> None:
    model = begin(filled)
    build(filled, model)
    for name in ("a", "b", "c"):
        filled.delete(name)
    with filled.db.write() as db:
        projects.delete(db, projects.get(db, projects.find(db, "shelf").id), with_conversations=True)
        assert {key.project for key in of_model(db, model)} == {0}
        assert db.value("SELECT count(*) FROM embeddings WHERE model_id = :model", model=model.pk) == 1


@pytest.mark.parametrize("source", [Source.MEMORY, Source.MESSAGE])
def test_a_vector_of_another_text_is_found_before_its_model_is_live(filled, source: Source) -> None:
    model = begin(filled)
    build(filled, model)
    assert verify(filled.db, deep=True) == []
    with filled.db.write() as db:
        [page] = pages(db, model, 99)
        passage = next(passage for passage in page.passages if passage.source is source)
        succession.keep(db, model.pk, [(passage, input_hash("of another text"), vector("of another text"))])
        name = succession.name_of(db, passage.key).split()[1]
    assert verify(filled.db, deep=True) == [
        Problem("vector_text", f"a vector is of another text than its {source}'s, e.g. {name}", 1)
    ]
    repair(filled.db)
    assert verify(filled.db, deep=True) == []


def test_building_leaves_the_change_log_alone_and_says_when_it_was_last_at_work(filled) -> None:
    model = begin(filled)
    with filled.db.write() as db:
        before = changes.last_seq(db)
        db.run("UPDATE embedding_models SET updated_at = 'long ago' WHERE pk = :pk", pk=model.pk)
    build(filled, model)
    with filled.db.read() as db:
        assert changes.last_seq(db) == before
        half = succession.building(db)
    assert (half.model, half.vectors, half.of) == ("next", 7, 7)
    assert half.at > "2020"


# --- the switch


def test_the_switch_waits_for_the_last_vector(filled) -> None:
    model = begin(filled)
    build(filled, model)
    filled.add("d", "yellow")
    assert not switch(filled, model)
    with filled.db.write() as db:
        assert vectors.live_model(db).pk == filled.model
        generation = changes.generation(db, filled.project)
        succession.keep(db, model.pk, rows(succession.lacking(db, model.pk, FIRST, 99).passages))
        assert succession.count_lacking(db, model.pk) == 0
    assert switch(filled, model)
    assert switch(filled, model), "another process has done it"
    with filled.db.read() as db:
        assert vectors.live_model(db) == replace(model, status="live")
        assert changes.generation(db, filled.project) == generation + 1
    assert verify(filled.db, deep=True) == []


def test_the_vectors_of_a_model_that_is_built_are_no_growth(filled) -> None:
    build(filled, begin(filled))
    with filled.db.read() as db:
        assert succession.building(db).vectors == 7
        assert growth.measure(db).vectors == 7


@pytest.mark.proof
def test_a_switch_that_does_not_look_is_seen(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    model = begin(filled)
    build(filled, model)
    filled.add("d", "yellow")
    mutants.plant("switch-unchecked", monkeypatch.setattr)
    assert switch(filled, model)
    assert [problem.kind for problem in verify(filled.db, deep=True)] == ["missing_vector"]


def test_vectors_that_belong_to_nothing_are_told_and_no_reason_to_go_on_for_ever(filled) -> None:
    model = begin(filled)
    with filled.db.write() as db:
        db.run("UPDATE vector_bits SET pk = 999 WHERE source = 'file' AND pk = 1")
    with filled.db.read() as db, pytest.raises(CorruptDatabaseError, match="belong to nothing; run knowlex repair"):
        succession.lacking(db, model.pk, FIRST, 99)


def test_files_that_the_model_cannot_take_whole_are_cut_anew_with_all_their_names(filled) -> None:
    model = begin(filled)
    build(filled, model)
    with filled.db.read() as db:
        assert {cut for _, cut, _ in files.count_cut(db)} == {"v1"}
        owner = filled.file("a")
        assert succession.files_of(db, [1, 2]) == [owner.pk]
    assert switch(filled, model, cut_files=[owner.pk])
    with filled.db.read() as db:
        assert [count for _, cut, count in files.count_cut(db) if cut is None] == [1]
    assert {name for name in "abc" if not filled.versions.made(filled.file(name))} == {"a", "b"}
    assert verify(filled.db, deep=True) == []


def test_what_the_retired_model_made_is_refused(filled) -> None:
    model = begin(filled)
    build(filled, model)
    switch(filled, model)
    with filled.db.write() as db:
        vectors.require_live(db, model.pk)
        with pytest.raises(ModelSwitchedError, match="another model became live"):
            vectors.require_live(db, filled.model)
        late = [(row.pk, input_hash(row.text), filled.vector(row.text)) for row in pending.take(db, 9)]
        with pytest.raises(ModelSwitchedError, match="m is retired; make the vectors anew with the live model"):
            vectors.put(db, filled.model, filled.project, Source.MEMORY, late)


def test_a_mirror_of_a_model_that_was_live_before_is_read_anew(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "EXACT_BELOW", 0)
    mirror = VectorMirror()
    query = np.random.default_rng(3).standard_normal(8).astype(np.float32)
    query /= np.linalg.norm(query)

    def near(model: Model, mirror: VectorMirror | None) -> list[tuple[int, float]]:
        with filled.db.read() as db:
            return vectors.search(
                db, model, query, project_pk=filled.project, source=Source.FILE, limit=9, mirror=mirror
            )

    with filled.db.read() as db:
        first = vectors.live_model(db)
    assert near(first, mirror) == near(first, None)
    second = begin(filled)
    build(filled, second)
    switch(filled, second)
    filled.delete("a")
    filled.delete("b")
    while drop(filled, 2):
        pass
    again = begin(filled, first)
    with filled.db.write() as db:
        passages = succession.lacking(db, again.pk, FIRST, 99).passages
        made = [(passage, input_hash(passage.text), filled.vector(passage.text)) for passage in passages]
        succession.keep(db, again.pk, made)
    assert switch(filled, again)
    assert len(near(first, None)) == 1
    assert near(first, mirror) == near(first, None)


# --- afterwards


def drop(shelf, limit: int) -> int:
    with shelf.db.write() as db:
        return succession.drop(db, limit)


def test_the_former_vectors_go_some_at_a_time_and_all_is_sound_meanwhile(filled) -> None:
    model = begin(filled)
    build(filled, model)
    switch(filled, model)
    removed = 0
    while (gone := drop(filled, 3)) > 0:
        assert gone <= 3
        removed += gone
        assert verify(filled.db, deep=True) == []
    assert removed == 7
    with filled.db.read() as db:
        assert not succession.is_left(db)
        assert db.value("SELECT count(*) FROM embeddings WHERE model_id = :model", model=filled.model) == 0
        assert len(of_model(db, model)) == 7


@pytest.mark.parametrize("maintained", [maintain.maintain, maintain.maintain_idle])
def test_maintenance_removes_what_a_killed_run_left(filled, maintained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "DROPPED", 2)
    model = begin(filled)
    build(filled, model)
    switch(filled, model)
    maintained(filled.db)
    with filled.db.read() as db:
        assert not succession.is_left(db)
        assert len(of_model(db, model)) == 7
    assert verify(filled.db, deep=True) == []


def test_a_message_that_moves_after_the_switch_takes_only_the_live_vector_along(filled) -> None:
    model = begin(filled)
    build(filled, model)
    switch(filled, model)
    with filled.db.write() as db:
        moved = next(talk for talk in conversations.listed(db).items if talk.project_pk is None)
        conversations.move(db, moved.id, filled.project)
        [message] = messages.listed(db, moved.id).items
        models = db.all("SELECT model, project FROM vector_bits WHERE source = 'message' AND pk = :pk", pk=message.pk)
    assert models == [(model.pk, filled.project)]
    assert verify(filled.db, deep=True) == []


def test_going_back_at_once_takes_what_is_still_there(filled) -> None:
    model = begin(filled)
    build(filled, model)
    switch(filled, model)
    drop(filled, 3)
    first = begin(filled, Model(0, "", "m", "h", 8, "mean", "", "", "fp32", "building"))
    with filled.db.read() as db:
        assert succession.count_lacking(db, first.pk) == 3

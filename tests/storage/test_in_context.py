"""Scores of passages with a share of what stands beside them, from the tables and from memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import log

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import chunks, files, text_index
from storage.bm25 import K1, B
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror

FRUIT = ["fig", "pear", "plum", "quince"]


def texts_of(shelf, *texts: str):
    """Return chunks with these texts."""
    made = shelf.words(" ".join(f"w{place}" for place in range(len(texts))))
    return [replace(one, content=text, tokens=tokens_of(text)) for one, text in zip(made, texts, strict=True)]


def store(shelf, name: str, texts: Sequence[str]) -> list[int]:
    """Make texts the chunks of a file, and return their pks in their order."""
    with shelf.db.read() as db:
        known = files.by_path(db, shelf.project, f"/{name}".encode())
    pk = (known or shelf.add(name, f"first of {name}")).pk
    with shelf.db.write() as db:
        chunks.replace(db, shelf.project, pk, shelf.model, texts_of(shelf, *texts))
        return [chunk.pk for chunk in chunks.of_file(db, pk)]


def by_formula(shelf, question: str, share: float) -> dict[int, float]:
    """Return the score of every chunk, from the texts alone."""
    with shelf.db.read() as db:
        rows = db.all("SELECT pk, file_id, content FROM file_chunks ORDER BY file_id, chunk_index")
    words = {pk: Counter(content.split()) for pk, _, content in rows}
    mean = sum(counter.total() for counter in words.values()) / len(rows)
    scores: dict[int, float] = {}
    for place, (pk, file, _) in enumerate(rows):
        near = [rows[other] for other in (place - 1, place + 1) if 0 <= other < len(rows)]
        beside = [words[other] for other, of, _ in near if of == file]
        length = words[pk].total() + share * sum(counter.total() for counter in beside)
        scores[pk] = 0.0
        for word, asked in Counter(question.split()).items():
            found = sum(word in counter for counter in words.values())
            times = words[pk][word] + share * sum(counter[word] for counter in beside)
            weight = log(1 + (len(rows) - found + 0.5) / (found + 0.5))
            scores[pk] += asked * weight * times * (K1 + 1) / (times + K1 * (1 - B + B * length / mean))
    return scores


def agreed(shelf, mirror: TextMirror, question: str, share: float) -> dict[int, float]:
    """Return the scores of all chunks that the tables and a mirror, old and new, agree on."""
    with shelf.db.read() as db:
        pks = [pk for (pk,) in db.all("SELECT pk FROM text_rows WHERE source = 'file' AND length > 0")]
        found = [
            text_index.matches(db, Source.FILE, question, project_pk=shelf.project, mirror=chosen).in_context(
                pks, share
            )
            for chosen in (None, mirror, TextMirror())
        ]
    assert found[0] == found[1] == found[2]
    return found[0]


TEXTS = st.lists(st.lists(st.sampled_from(FRUIT), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=5)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), TEXTS), min_size=1, max_size=6),
    st.lists(st.sampled_from([*FRUIT, *"abcdefgh"]), min_size=1, max_size=12).map(" ".join),
    st.sampled_from([0.25, 1.0]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tables_and_memory_give_what_the_formula_does(shelf, steps, question: str, share: float) -> None:
    mirror = TextMirror()
    for name, texts in steps:
        store(shelf, name, texts)
        found, wanted = agreed(shelf, mirror, question, share), by_formula(shelf, question, share)
        assert found == pytest.approx(wanted)


def test_without_neighbours_a_passage_keeps_its_score(shelf) -> None:
    for name in "abc":
        store(shelf, name, [f"fig {name}"])
    with shelf.db.read() as db:
        for mirror in (None, TextMirror()):
            found = text_index.matches(db, Source.FILE, "fig c", project_pk=shelf.project, mirror=mirror)
            pks = [pk for pk, _ in found.best(9)]
            assert found.in_context(pks, 0.25) == found.of(pks)


@pytest.mark.parametrize(
    "edited",
    [
        pytest.param(["pear", "fig", "plum"], id="two change places"),
        pytest.param(["fig", "quince", "pear", "plum"], id="one comes between"),
        pytest.param(["fig", "pear", "plum", "quince"], id="one comes behind"),
        pytest.param(["fig", "plum"], id="one goes"),
    ],
)
def test_an_edited_file_is_not_scored_by_what_stood_beside_before(shelf, edited: list[str]) -> None:
    mirror = TextMirror()
    store(shelf, "a", ["fig", "pear", "plum"])
    store(shelf, "b", ["fig", "fig"])
    agreed(shelf, mirror, "fig quince", 0.5)
    store(shelf, "a", edited)
    assert agreed(shelf, mirror, "fig quince", 0.5) == pytest.approx(by_formula(shelf, "fig quince", 0.5))


def test_a_new_file_and_one_that_is_as_it_was_leave_what_is_in_memory(shelf) -> None:
    def version() -> int:
        with shelf.db.read() as db:
            return text_index.part(db, Source.FILE, shelf.project).version

    store(shelf, "a", ["fig", "pear"])
    before = version()
    store(shelf, "a", ["fig", "pear"])
    shelf.add("b", "plum quince fig")
    assert 0 < version() - before < text_index.REMOVAL
    store(shelf, "a", ["pear", "fig"])
    assert version() - before >= text_index.REMOVAL


def test_a_chunk_that_was_added_stands_beside_the_last(shelf) -> None:
    mirror = TextMirror()
    store(shelf, "a", ["fig", "pear"])
    before = agreed(shelf, mirror, "plum", 0.5)
    assert set(before.values()) == {0.0}
    with shelf.db.write() as db:
        chunks.add(db, shelf.file("a").pk, shelf.model, texts_of(shelf, "plum")[0])
    assert [score > 0 for _, score in sorted(agreed(shelf, mirror, "plum", 0.5).items())] == [False, True, True]


def test_what_was_handed_over_stands_beside_the_heirs(shelf) -> None:
    mirror = TextMirror()
    store(shelf, "a", ["fig", "pear"])
    store(shelf, "b", ["quince", "plum"])
    with shelf.db.write() as db:
        chunks.add(db, shelf.file("a").pk, shelf.model, texts_of(shelf, "plum")[0])
    agreed(shelf, mirror, "plum quince", 0.5)
    with shelf.db.write() as db:
        assert chunks.hand_over(db, shelf.file("a").pk, shelf.file("b").pk) == 1
    assert agreed(shelf, mirror, "plum quince", 0.5) == pytest.approx(by_formula(shelf, "plum quince", 0.5))


def test_a_passage_without_a_token_parts_its_neighbours(shelf) -> None:
    mirror = TextMirror()
    first, _, last = store(shelf, "a", ["fig", "---", "pear"])
    store(shelf, "b", ["plum"])
    found = agreed(shelf, mirror, "fig", 0.5)
    assert (found[first] > 0, found[last]) == (True, 0)


def test_one_passage_alone_has_the_score_that_it_has_among_others(shelf) -> None:
    words = "fig pear plum quince apple peach grape melon lemon olive"
    store(shelf, "a", [words, words + " fig", "fig " + words, "plum quince pear"])
    with shelf.db.read() as db:
        tables, mirrored = (
            text_index.matches(db, Source.FILE, words, project_pk=shelf.project, mirror=mirror)
            for mirror in (None, TextMirror())
        )
        pks = [pk for pk, _ in tables.best(9)]
        for pk in pks:
            alone = tables.in_context([pk], 0.25)
            assert alone == mirrored.in_context([pk], 0.25)
            assert alone[pk] == mirrored.in_context(pks, 0.25)[pk]


def test_a_gap_in_the_numbers_parts_nothing(shelf) -> None:
    store(shelf, "a", ["fig", "pear", "plum"])
    with shelf.db.write() as db:
        db.run("UPDATE file_chunks SET chunk_index = chunk_index + 10 WHERE chunk_index > 0")
    agreed(shelf, TextMirror(), "fig plum", 0.25)


def test_no_context_reaches_the_ceiling(shelf) -> None:
    store(shelf, "a", ["fig " * 90, "fig " * 90, "fig " * 90])
    store(shelf, "b", ["pear"])
    with shelf.db.read() as db:
        found = text_index.matches(db, Source.FILE, "fig", project_pk=shelf.project)
        assert max(found.in_context([pk for pk, _ in found.best(9)], 1.0).values()) < found.ceiling

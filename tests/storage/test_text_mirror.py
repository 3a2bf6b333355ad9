"""The text mirror: the same answers as without it, after any changes, in bounded memory."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import text_index, text_mirror
from storage.bm25 import Corpus
from storage.connection import Connection
from storage.database import Database
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror
from storage.text_query import Term, terms

WORDS = ["apple", "pear", "plum", "fig", "quince", "ADR-016", "東京タワー", "東", '"apple pear"']
TEXT = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


def put(db: Connection, project: int | None, texts: dict[int, str]) -> None:
    rows = [(pk, tokens_of(text, "plum" if pk % 3 else "")) for pk, text in texts.items()]
    text_index.put(db, Source.FILE, project, rows)


def both(
    db: Connection, mirror: TextMirror, question: str, project: int | None, limit: int, allowed: list[int] | None = None
) -> list[tuple[int, float]]:
    """Search with and without the mirror, and return the one answer."""
    answers = [
        text_index.search(db, Source.FILE, question, project_pk=project, limit=limit, allowed=allowed, mirror=chosen)
        for chosen in (None, mirror, mirror)
    ]
    assert answers[0] == answers[1] == answers[2]
    read, mirrored = (
        text_index.matches(db, Source.FILE, question, project_pk=project, allowed=allowed, mirror=chosen)
        for chosen in (None, mirror)
    )
    assert read.of(range(1, 50)) == mirrored.of(range(1, 50))
    assert read.ceiling == mirrored.ceiling >= max((score for _, score in answers[0]), default=0.0)
    return answers[0]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from([None, 1, 2]), st.lists(TEXT, max_size=5)),
        max_size=6,
    ),
    TEXT,
    st.sampled_from([1, 3, 100]),
    st.one_of(st.none(), st.lists(st.integers(1, 40), max_size=10)),
    st.sampled_from([0, text_mirror.SPARSE]),
)
@settings(max_examples=50, deadline=None)
def test_a_mirror_changes_no_answer(
    operations: list[tuple[str, int | None, list[str]]],
    question: str,
    limit: int,
    allowed: list[int] | None,
    sparse: int,
) -> None:
    mirror = TextMirror()
    next_pk = 1
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "t.db") as database,
    ):
        patch.setattr(text_mirror, "SPARSE", sparse)
        for name, project, texts in operations:
            with database.write() as db:
                if name == "put":
                    put(db, project, dict(enumerate(texts, next_pk)))
                    next_pk += len(texts)
                else:
                    text_index.delete(db, Source.FILE, list(range(1, next_pk, 2)))
            with database.read() as db:
                for asked in (None, 1, 2):
                    both(db, mirror, question, asked, limit, allowed)


PROJECTS = (None, 1, 2, (1, 2))
SHORT = st.sampled_from(["fig", "plum", "fig fig", "plum fig", ""])
PROJECT = st.sampled_from([1, 2])
PLACED = st.dictionaries(st.integers(1, 5), SHORT, min_size=1, max_size=3)
CHANGE = st.one_of(
    st.tuples(st.just("append"), PROJECT, st.lists(SHORT, min_size=1, max_size=3), st.sampled_from([0, 2, 90])),
    st.tuples(st.sampled_from(["put", "put", "rebuild", "roll back"]), PROJECT, PLACED),
    st.tuples(st.just("delete"), st.lists(st.integers(1, 5), max_size=2)),
    st.tuples(st.sampled_from(["search elsewhere", "look back"])),
)


@given(st.lists(CHANGE, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_mirror_follows_any_changes(changes: list[tuple[Any, ...]]) -> None:
    """As above, in any order: of two connections each has a mirror, and one reader stays behind with what it saw."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "t.db") as here,
        Database.open(Path(folder) / "t.db") as there,
        ExitStack() as before,
    ):
        mirror, other = TextMirror(), TextMirror()
        behind = before.enter_context(here.read())
        for number, (name, *values) in enumerate([*changes, ("search elsewhere",), ("look back",)]):
            if name == "look back":
                agree(behind, mirror)
                before.close()
                behind = before.enter_context(here.read())
            elif name == "search elsewhere":
                with there.read() as db:
                    agree(db, other)
            else:
                with suppress(InterruptedError), (here, there)[number % 2].write() as db:
                    change(db, name, *values)
                with here.read() as db:
                    agree(db, mirror)


def change(db: Connection, name: str, *values: Any) -> None:
    if name == "delete":
        text_index.delete(db, Source.FILE, *values)
        return
    project, texts, *left_free = values
    if name == "append":
        put(db, project, dict(enumerate(texts, sum(left_free, 1) + (db.value("SELECT max(pk) FROM text_rows") or 5))))
        return
    if name == "rebuild":
        text_index.clear(db, Source.FILE)
    text_index.delete(db, Source.FILE, list(texts))
    put(db, project, texts)
    if name == "roll back":
        raise InterruptedError


def agree(db: Connection, mirror: TextMirror) -> None:
    """Search every part with the mirror and without, and compare."""
    for projects in PROJECTS:
        where = text_index.part(db, Source.FILE, projects)
        for question in ("fig plum", '"plum fig" fig'):
            asked = Counter(terms(question))
            read, mirrored = (text_index.scored(db, where, asked, mirror=chosen) for chosen in (None, mirror))
            assert (sorted(read[0]), read[1]) == (sorted(mirrored[0]), mirrored[1])


def test_far_apart_rows_are_added_up_all_the_same(tx: Connection) -> None:
    put(tx, 1, {1: "fig", 5: "fig plum", 10**12: "fig", 10**12 + 3: "plum"})
    assert {pk for pk, _ in both(tx, TextMirror(), "fig plum", 1, 9)} == {1, 5, 10**12, 10**12 + 3}
    assert len(both(tx, TextMirror(), "fig plum", 1, 2)) == 2


def test_a_row_far_behind_the_others_takes_no_more_memory_than_they(tx: Connection) -> None:
    mirror = TextMirror()
    put(tx, 1, dict.fromkeys(range(100, 120), "fig"))
    assert len(both(tx, mirror, "fig", 1, 99)) == 20
    near = mirror.used_bytes()
    put(tx, 1, {10**9: "fig"})
    assert len(both(tx, mirror, "fig", 1, 99)) == 21
    assert mirror.used_bytes() < near + 100


def test_rows_that_come_to_lie_close_are_found_like_those_before(tx: Connection) -> None:
    mirror = TextMirror()
    put(tx, 1, {100: "fig", 150: "plum"})
    assert len(both(tx, mirror, "fig plum", 1, 99)) == 2
    put(tx, 1, {pk: "fig" if pk % 2 else "pear" for pk in range(151, 180)})
    assert {100, 151, 179} < {pk for pk, _ in both(tx, mirror, "fig", 1, 99)}
    assert {pk for pk, _ in both(tx, mirror, "pear", 1, 99)} == {*range(152, 180, 2)}


def test_an_empty_project_has_no_answer(tx: Connection) -> None:
    assert both(tx, TextMirror(), "fig", 1, 9) == []


def test_what_was_read_is_not_read_again_until_it_changes(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = TextMirror()
    put(tx, 1, {1: "fig", 2: "plum"})
    put(tx, 2, {3: "fig"})
    both(tx, mirror, "fig", 1, 9)
    put(tx, 2, {4: "fig"})
    with monkeypatch.context() as patch:
        patch.setattr(text_mirror, "_read_passages", None)
        patch.setattr(text_mirror, "_read_term", None)
        assert len(text_index.search(tx, Source.FILE, "fig", project_pk=1, limit=9, mirror=mirror)) == 1
    put(tx, 1, {5: "fig fig"})
    assert len(both(tx, mirror, "fig", 1, 9)) == 2


def test_only_what_came_behind_is_read_of_what_grew(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = TextMirror()
    put(tx, 1, {1: "fig", 2: "plum"})
    both(tx, mirror, "fig plum", 1, 9)
    put(tx, 1, {4: "fig fig", 5: ""})
    put(tx, 2, {6: "fig"})
    put(tx, 1, {7: "plum"})
    with monkeypatch.context() as patch:
        patch.setattr(text_mirror, "_read_passages", None)
        both(tx, mirror, "fig plum", 1, 9)
        assert len(both(tx, mirror, "pear fig", 1, 9)) == 2
    put(tx, 1, {3: "pear"})
    assert len(both(tx, mirror, "pear fig", 1, 9)) == 3


def test_a_passage_of_the_same_length_in_the_place_of_another_is_seen(tx: Connection) -> None:
    mirror = TextMirror()
    put(tx, 1, {1: "fig", 2: "plum"})
    assert len(both(tx, mirror, "fig", 1, 9)) == 1
    text_index.delete(tx, Source.FILE, [2])
    put(tx, 1, {2: "fig"})
    assert len(both(tx, mirror, "fig", 1, 9)) == 2


def test_too_common_words_are_left_out_by_what_is_kept_of_them(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = TextMirror()
    put(tx, 1, {1: "fig", 2: "pear", 4: "pear fig", 5: "quince"})
    both(tx, mirror, "pear fig quince", 1, 9)
    put(tx, 1, {7: "pear", 8: "fig", 10: "pear"})
    monkeypatch.setattr(text_index, "LARGE", 1)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 4)
    for chosen in (None, mirror):
        found = text_index.matches(tx, Source.FILE, "pear fig quince", project_pk=1, mirror=chosen)
        assert [" ".join(term.tokens) for term in found.left_out] == ["pear"]
    both(tx, mirror, "pear fig quince", 1, 9)


def test_a_word_that_is_left_out_is_counted_once_until_it_changes(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, counted, original = TextMirror(), list[str](), text_index._counted

    def count(db: Connection, where: text_index.Part, term: Term) -> int:
        counted.append(term.tokens[0])
        return original(db, where, term)

    monkeypatch.setattr(text_index, "_counted", count)
    monkeypatch.setattr(text_index, "LARGE", 1)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 2)
    put(tx, 1, {1: "pear", 2: "pear", 3: "pear", 4: "quince"})
    both(tx, mirror, "pear quince", 1, 9)
    counted.clear()
    text_index.matches(tx, Source.FILE, "pear quince", project_pk=1, mirror=mirror)
    assert counted == []
    put(tx, 1, {5: "pear quince"})
    text_index.matches(tx, Source.FILE, "pear quince", project_pk=1, mirror=mirror)
    assert counted == ["pear"]


def test_what_a_term_adds_to_scores_is_kept_where_it_is_asked_for_again(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, computed, original = TextMirror(), list[int](), text_mirror._scores

    def scores(corpus: Corpus, passages: text_mirror._Passages, term: text_mirror._Standing) -> text_mirror.Floats:
        found = original(corpus, passages, term)
        if found is not term.scores:
            computed.append(len(found))
        return found

    def ask(question: str) -> list[int]:
        computed.clear()
        found = text_index.search(tx, Source.FILE, question, project_pk=1, limit=9, mirror=mirror)
        told = list(computed)
        both(tx, mirror, question, 1, 9)
        assert found == text_index.search(tx, Source.FILE, question, project_pk=1, limit=9)
        return told

    monkeypatch.setattr(text_mirror, "_scores", scores)
    put(tx, 1, {3: "fig", 6: "fig plum", 9: "fig plum"})
    assert ask("fig") == [3]
    assert ask("fig plum") == [2]
    assert ask("fig plum fig") == []
    put(tx, 1, {12: "pear"})  # which holds neither, and makes both rarer
    assert ask("fig plum") == [3, 2]
    assert ask("fig plum") == []
    text_index.delete(tx, Source.FILE, [6])
    assert ask("fig plum") == [2, 1]


def test_scores_take_memory_only_of_what_is_asked_for_again(tx: Connection) -> None:
    mirror, used = TextMirror(), list[int]()
    put(tx, 1, dict.fromkeys(range(1, 101), "fig"))
    for _ in range(3):
        text_index.search(tx, Source.FILE, "fig", project_pk=1, limit=9, mirror=mirror)
        used.append(mirror.used_bytes())
    assert [used[1] - used[0], used[2] - used[1]] == [8 * 100, 0]


def test_what_was_read_on_stays_where_a_thread_behind_comes_with_less(tx: Connection) -> None:
    mirror = TextMirror()
    put(tx, 1, {1: "fig"})
    both(tx, mirror, "fig", 1, 9)
    ((key, before),) = ((key, kept) for key, kept in mirror._kept.items() if key[2])
    put(tx, 1, {2: "fig"})
    both(tx, mirror, "fig", 1, 9)
    after, used = mirror._kept[key], mirror.used_bytes()
    mirror._keep(key, before)
    assert (mirror._kept[key], mirror.used_bytes()) == (after, used)


def test_how_often_a_phrase_stands_is_told_among_passages_of_other_projects(tx: Connection) -> None:
    put(tx, 2, dict.fromkeys((*range(1, 10), *range(30, 40)), '"apple pear" apple pear'))
    put(tx, 1, {20: "apple pear and apple pear", 21: "apple pear", 22: "apple pear or apple pear"})
    put(tx, 1, dict.fromkeys(range(23, 29), "plum"))
    assert not text_index.part(tx, Source.FILE, 1).scoped
    assert {pk for pk, _ in both(tx, TextMirror(), '"apple pear"', 1, 9)} == {20, 21, 22}


def test_more_passages_than_fit_are_asked_for_in_the_database(tx: Connection) -> None:
    put(tx, 1, dict.fromkeys(range(1, 101), "fig"))
    mirror = TextMirror(max_bytes=2_000)
    assert len(both(tx, mirror, "fig", 1, 99)) == 99
    assert mirror.used_bytes() == 0


def test_memory_is_bounded(tx: Connection) -> None:
    put(tx, 1, dict.fromkeys(range(1, 101), "fig plum pear apple"))
    mirror = TextMirror(max_bytes=8_000)
    for question in ("fig", "plum", "pear", "apple", "fig plum pear apple"):
        both(tx, mirror, question, 1, 9)
        assert mirror.used_bytes() <= 8_000
        assert mirror.used_bytes() == sum(text_mirror._bytes(key, kept) for key, kept in mirror._kept.items())
    assert mirror.used_bytes() > 0
    small = TextMirror(max_bytes=100)
    both(tx, small, "fig", 1, 9)
    assert small.used_bytes() == 0


def test_terms_that_stand_nowhere_take_memory_too(tx: Connection) -> None:
    put(tx, 1, {1: "fig"})
    mirror = TextMirror(max_bytes=20_000)
    for number in range(200):
        both(tx, mirror, f"word{number}", 1, 9)
    assert 10_000 < mirror.used_bytes() <= 20_000
    assert len(mirror._kept) < 20_000 / text_mirror.ENTRY_BYTES


def test_threads_search_while_another_writes(tmp_path: Path) -> None:
    mirror, failures = TextMirror(), list[int]()
    with Database.open(tmp_path / "busy.db") as database:
        with database.write() as db:
            put(db, 1, dict.fromkeys(range(1, 200), "fig plum"))

        def look(start: int) -> None:
            for number in range(20):
                with database.read() as db:
                    with_mirror, without = (
                        text_index.search(db, Source.FILE, "fig pear", project_pk=1, limit=5, mirror=chosen)
                        for chosen in (mirror, None)
                    )
                    if with_mirror != without:
                        failures.append(start + number)

        threads = [threading.Thread(target=look, args=(100 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for number in range(20):
            with database.write() as db:
                put(db, 1, {1_000 + number: "fig pear"})
                text_index.delete(db, Source.FILE, [number + 1])
        for thread in threads:
            thread.join()
    assert failures == []

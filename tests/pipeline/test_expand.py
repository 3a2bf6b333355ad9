"""What hits are shown with: windows, sections, hits that touch as one, a budget of tokens."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Shape
from pipeline.expand import LONGEST_GAP, SECTION_REACH, SECTION_TOKENS, Shown, expanded
from storage.passages import Passage, Piece
from storage.sources import Source


@dataclass(frozen=True)
class Paper:
    """A file's text and the pieces it was cut into."""

    text: str
    pieces: list[Piece]


@st.composite
def papers(draw: st.DrawFn) -> Paper:
    """A file of words whose pieces are parted by white space, by nothing, or overlap."""
    text, pieces, at = "", [], 0
    for index in range(draw(st.integers(1, 8))):
        start = max(0, at - draw(st.integers(0, 2)))
        if start == at:
            text += draw(st.sampled_from(["", " ", "\n", "\n\n  "])) if index else ""
            start = len(text)
        text += draw(st.text("abcdé日", min_size=3, max_size=6))
        at = len(text)
        heading, page = draw(st.sampled_from("AB")), 1 + index // 3
        tokens = draw(st.integers(1, 5))
        pieces.append(Piece(index, text[start:at], 0, start, at, tokens, heading, page, page))
    return Paper(text, pieces)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Paper], list[Passage]]:
    """Two files, and passages of them and of memories in any order, each once."""
    files = [draw(papers()) for _ in range(2)]
    chunks = [(pk, piece) for pk, file in enumerate(files) for piece in file.pieces]
    found = [
        passage(*chunk) for chunk in draw(st.lists(st.sampled_from(chunks), unique_by=lambda c: (c[0], c[1].index)))
    ]
    found += [memory(pk) for pk in range(draw(st.integers(0, 2)))]
    return files, draw(st.permutations(found))


def passage(file_pk: int, piece: Piece) -> Passage:
    return Passage(
        source=Source.FILE,
        pk=100 * file_pk + piece.index,
        id=f"{file_pk}.{piece.index}",
        text=piece.text,
        heading=piece.heading,
        char_start=piece.char_start,
        char_end=piece.char_end,
        tokens=piece.tokens,
        at="",
        page_start=piece.page_start,
        page_end=piece.page_end,
        file_pk=file_pk,
        chunk_index=piece.index,
        repeated=piece.repeated,
    )


def memory(pk: int) -> Passage:
    return Passage(Source.MEMORY, pk, f"m{pk}", "a memory", "", 0, 8, 2, "")


def show(files: Sequence[Paper], found: Sequence[Passage], shape: Shape) -> list[Shown]:
    def pieces(file_pk: int, first: int, last: int) -> list[Piece]:
        return [piece for piece in files[file_pk].pieces if first <= piece.index <= last]

    return expanded(found, shape, pieces)


def spaced(text: str) -> str:
    """Return a text in which all white space is alike: what is between two pieces is not kept."""
    return re.sub(r"\s", " ", text)


SHAPES = st.builds(Shape, st.integers(0, 3), st.booleans(), st.booleans(), st.none() | st.integers(1, 30))


@given(answers(), SHAPES)
def test_no_passage_is_doubled_and_without_a_budget_none_is_lost(
    answer: tuple[list[Paper], list[Passage]], shape: Shape
) -> None:
    files, found = answer
    places = [place for shown in show(files, found, shape) for place in shown.places]
    assert len(places) == len(set(places))
    if shape.max_tokens is None:
        assert set(places) == set(range(len(found)))
    first = [shown.places[0] for shown in show(files, found, shape)]
    assert first == sorted(first)
    assert shape.merge or len(places) == len(first)


@given(answers(), SHAPES)
def test_a_text_is_that_of_its_file_at_its_offsets(answer: tuple[list[Paper], list[Passage]], shape: Shape) -> None:
    files, found = answer
    for shown in show(files, found, shape):
        best = found[shown.places[0]]
        if best.file_pk is None:
            assert (shown.text, shown.before, shown.after) == (best.text, "", "")
            continue
        text = files[best.file_pk].text
        assert spaced(shown.text) == spaced(text[shown.char_start : shown.char_end])
        for place in shown.places:
            assert shown.char_start <= found[place].char_start < found[place].char_end <= shown.char_end
        whole = re.sub(r"\s", "", shown.before + shown.text + shown.after)
        assert whole in re.sub(r"\s", "", text)
        pages = [found[place].page_start for place in shown.places]
        assert (shown.page_start, shown.page_end) == (min(pages), max(pages)) or shape.window or shape.section


@given(answers(), st.integers(0, 3), st.booleans())
def test_merged_hits_neither_touch_nor_show_a_piece_twice(
    answer: tuple[list[Paper], list[Passage]], window: int, section: bool
) -> None:
    files, found = answer
    hits = show(files, found, Shape(window, section, merge=True))
    for file_pk, file in enumerate(files):
        mine = [shown for shown in hits if found[shown.places[0]].file_pk == file_pk]
        seen = [index for shown in mine for index in shown_pieces(shown, file)]
        assert len(seen) == len(set(seen))
        starts = [min(shown_pieces(shown, file)) for shown in mine]
        assert not {index + 1 for index in seen} & set(starts)
        assert sum(shown.tokens for shown in mine) == sum(file.pieces[index].tokens for index in seen)


def shown_pieces(shown: Shown, file: Paper) -> list[int]:
    """Return which pieces of the file the tokens, offsets and neighbours of a hit speak of."""
    low, high = (
        next(piece.index for piece in file.pieces if place(piece) == offset)
        for place, offset in (
            (lambda piece: piece.char_start, shown.char_start),
            (lambda piece: piece.char_end, shown.char_end),
        )
    )
    before, after = (len(re.sub(r"\s", "", text)) for text in (shown.before, shown.after))
    start = len(re.sub(r"\s", "", file.text[: shown.char_start])) - before
    end = len(re.sub(r"\s", "", file.text[: shown.char_end])) + after
    reaches = [
        (
            len(re.sub(r"\s", "", file.text[: piece.char_start])),
            len(re.sub(r"\s", "", file.text[: piece.char_end])),
        )
        for piece in file.pieces
    ]
    while low and reaches[low - 1][0] >= start:
        low -= 1
    while high + 1 < len(reaches) and reaches[high + 1][1] <= end:
        high += 1
    return list(range(low, high + 1))


@given(answers(), SHAPES)
def test_a_budget_is_kept_and_what_fits_is_taken(answer: tuple[list[Paper], list[Passage]], shape: Shape) -> None:
    files, found = answer
    hits = show(files, found, shape)
    if shape.max_tokens is None:
        return
    assert sum(shown.tokens for shown in hits) <= shape.max_tokens
    if shape.window or shape.merge:
        return
    left, kept = shape.max_tokens, []
    for place, each in enumerate(found):
        if each.tokens <= left:
            left, kept = left - each.tokens, [*kept, place]
    assert [shown.places for shown in hits] == [(place,) for place in kept]


@st.composite
def parted_answers(draw: st.DrawFn) -> tuple[list[Paper], list[Passage]]:
    """Files whose pieces are far apart in places, or were added to them, and passages of them; each piece is marked."""
    files: list[Paper] = []
    for file in range(2):
        pieces, at = [], 100
        for index in range(draw(st.integers(1, 8))):
            text, heading = f"<{file}.{index}>", draw(st.sampled_from("AB"))
            added = draw(st.integers(0, 4)) == 0
            start = 50 - index if added else at + draw(st.sampled_from([0, 1, LONGEST_GAP, LONGEST_GAP + 1]))
            at = at if added else start + len(text)
            pieces.append(Piece(index, text, 0, start, start + len(text), draw(st.integers(1, 5)), heading, 1, 1))
        files.append(Paper("", pieces))
    chunks = [(pk, piece) for pk, file in enumerate(files) for piece in file.pieces]
    found = draw(st.lists(st.sampled_from(chunks), min_size=1, unique_by=lambda c: (c[0], c[1].index)))
    return files, [passage(*chunk) for chunk in found]


@given(parted_answers(), st.integers(0, 3), st.booleans(), st.none() | st.integers(1, 30))
def test_with_merge_no_piece_is_shown_twice_and_the_budget_is_kept(
    answer: tuple[list[Paper], list[Passage]], window: int, section: bool, max_tokens: int | None
) -> None:
    files, found = answer
    hits = show(files, found, Shape(window, section, True, max_tokens))
    marks = [mark for hit in hits for mark in re.findall(r"<\d\.\d>", hit.before + hit.text + hit.after)]
    assert len(marks) == len(set(marks))
    tokens = {piece.text: piece.tokens for file in files for piece in file.pieces}
    assert sum(hit.tokens for hit in hits) == sum(tokens[mark] for mark in marks)
    assert max_tokens is None or sum(hit.tokens for hit in hits) <= max_tokens
    for hit in hits:
        assert {found[place].text for place in hit.places} <= set(re.findall(r"<\d\.\d>", hit.text))


def pages(count: int, *, headings: str, tokens: int = 10) -> Paper:
    texts = [f"piece {index}" for index in range(count)]
    text = "\n\n".join(texts)
    starts = [text.index(each) for each in texts]
    return Paper(
        text,
        [
            Piece(index, each, 0, start, start + len(each), tokens, headings[index], index, index)
            for index, (each, start) in enumerate(zip(texts, starts, strict=True))
        ],
    )


def test_a_section_ends_at_other_headings_and_within_the_budget() -> None:
    file = pages(6, headings="ABBBBA")
    found = [passage(0, file.pieces[2])]
    [whole] = show([file], found, Shape(section=True))
    assert (whole.before, whole.text, whole.after) == ("piece 1\n", "piece 2", "\npiece 3\npiece 4")
    [part] = show([file], found, Shape(section=True, max_tokens=29))
    assert (part.before, part.after, part.tokens) == ("", "\npiece 3", 20)
    [wide] = show([file], found, Shape(window=2, section=True))
    assert (wide.before, wide.after) == ("piece 0\npiece 1\n", "\npiece 3\npiece 4")
    long = pages(6, headings="A" * 6, tokens=SECTION_TOKENS // 3)
    [bounded] = show([long], [passage(0, long.pieces[2])], Shape(section=True))
    assert (bounded.before, bounded.after) == ("piece 1\n", "\npiece 3")


def test_what_a_section_is_chosen_from_is_not_held() -> None:
    def pieces(_: int, first: int, last: int) -> list[Piece]:
        return [
            Piece(index, f"{index} ".ljust(10_000), 0, 20_000 * index, 20_000 * index + 10_000, 900, "A", 1, 1)
            for index in range(first, last + 1)
        ]

    found = [passage(0, piece) for piece in pieces(0, 1000, 1049)]
    tracemalloc.start()
    expanded(found, Shape(section=True), pieces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 10_000 * (2 * SECTION_REACH + 1)  # of a few hits, not of fifty


def test_hits_go_before_the_sections_of_better_ones() -> None:
    file, other = pages(5, headings="AAAAA"), pages(1, headings="A")
    hits = show([file, other], [passage(0, file.pieces[2]), passage(1, other.pieces[0])], Shape(0, True, False, 30))
    assert [(shown.text, shown.after) for shown in hits] == [("piece 2", "\npiece 3"), ("piece 0", "")]


def test_hits_that_touch_are_one_where_the_best_was() -> None:
    file = pages(8, headings="ABCDEFGH")
    found = [passage(0, file.pieces[index]) for index in (5, 1, 7, 0, 6)]
    hits = show([file], found, Shape(merge=True))
    assert [shown.places for shown in hits] == [(0, 2, 4), (1, 3)]
    assert hits[0].text == "piece 5\n\npiece 6\n\npiece 7"
    assert (hits[0].char_start, hits[0].char_end) == (file.text.index("piece 5"), len(file.text))
    assert (hits[0].page_start, hits[0].page_end, hits[0].tokens) == (5, 7, 30)
    [one] = show([file], found[:2], Shape(window=2, merge=True))
    assert (one.before, one.text.count("piece"), one.after) == ("piece 0\n", 5, "\npiece 6\npiece 7")


def test_what_is_shown_once_is_paid_for_once() -> None:
    file = pages(8, headings="ABCDEFGH")
    found = [passage(0, file.pieces[index]) for index in (1, 2)]
    [both] = show([file], found, Shape(window=1, merge=True, max_tokens=40))
    assert (both.places, both.tokens) == ((0, 1), 40)
    assert [shown.places for shown in show([file], found, Shape(window=1, max_tokens=40))] == [(0,)]


@pytest.mark.parametrize("shape", [Shape(1, merge=True, max_tokens=100), Shape(0, True, True, 100)])
def test_what_stands_far_apart_is_shown_once_with_merge(shape: Shape) -> None:
    start = 7 + LONGEST_GAP + 1
    near, far = (Piece(index, f"piece {index}", 0, at, at + 7, 50, "A", 1, 1) for index, at in enumerate((0, start)))
    file = Paper("", [near, far])
    hits = show([file], [passage(0, far), passage(0, near)], shape)
    assert [(hit.before, hit.text, hit.after, hit.tokens) for hit in hits] == [
        ("", "piece 1", "", 50),
        ("", "piece 0", "", 50),
    ]
    [alone] = show([file], [passage(0, far)], replace(shape, merge=False))
    assert (alone.before, alone.tokens) == ("piece 0\n", 100)


def test_what_was_added_elsewhere_is_never_merged_away() -> None:
    file = pages(2, headings="AA")
    added = Piece(2, "added later", 0, 0, 11, 3, "A", None, None)
    file = Paper(file.text, [*file.pieces, added])
    hits = show([file], [passage(0, piece) for piece in file.pieces], Shape(merge=True))
    assert [shown.text for shown in hits] == ["piece 0\n\npiece 1", "added later"]
    assert hits[1].page_start is None


def test_a_table_has_its_head_once() -> None:
    rows = [Piece(index, f"head\nrow {index}", 5 if index else 0, 0, 0, 4, "A", 1, 1) for index in range(3)]
    starts = [(0, 10), (11, 16), (17, 22)]
    rows = [
        Piece(row.index, row.text, row.repeated, *start, row.tokens, row.heading, 1, 1)
        for row, start in zip(rows, starts, strict=True)
    ]
    file = Paper("head\nrow 0\nrow 1\nrow 2", rows)
    [whole] = show([file], [passage(0, row) for row in rows], Shape(merge=True))
    assert (whole.text, whole.repeated) == (file.text, 0)
    [tail] = show([file], [passage(0, row) for row in rows[1:]], Shape(merge=True))
    assert (tail.text, tail.repeated, tail.char_start) == ("head\nrow 1\nrow 2", 5, 11)


def test_two_memories_are_two_even_under_a_budget_and_merged() -> None:
    hits = show([], [memory(1), memory(2)], Shape(merge=True, max_tokens=3))
    assert [shown.places for shown in hits] == [(0,)]

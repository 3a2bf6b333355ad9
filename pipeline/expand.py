"""What a hit is shown with: the passages around it, its section, hits that touch it, all within a budget of tokens.

A hit becomes a range of the pieces of its file. The budget is spent on the hits first, best first, and what is left of
it on their sections; then ranges that touch become one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from storage.passages import Passage, Piece

if TYPE_CHECKING:
    from pipeline.answer import Shape

SECTION_TOKENS = 1_000
"""How long a hit with its section may be where there is no budget."""

SECTION_REACH = 64
"""How many passages on either side are looked at for a section."""

LONGEST_GAP = 1_000
"""Characters between two passages that belong to neither and count as white space; the text is not kept beyond."""

Pieces = Callable[[int, int, int], list[Piece]]
Key = tuple[Hashable, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """One hit as it is shown: of the hits at these places, the best first; other fields as of a `Hit`."""

    places: tuple[int, ...]
    text: str
    repeated: int
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    before: str
    after: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Span:
    """A range of pieces, first to last, around those that were found, low to high."""

    places: tuple[int, ...]
    passage: Passage
    pieces: Mapping[int, Piece] = field(repr=False)
    low: int
    high: int
    first: int
    last: int

    @property
    def owner(self) -> Hashable:
        """What the pieces are of: a file, or the one memory or message."""
        return self.passage.file_pk if self.passage.file_pk is not None else (self.passage.source, self.passage.pk)

    @property
    def keys(self) -> list[Key]:
        return [(self.owner, index) for index in range(self.first, self.last + 1)]


def expanded(found: Sequence[Passage], shape: Shape, pieces: Pieces) -> list[Shown]:
    """Return hits as they are shown, each where the best of its passages was.

    found: passages, best first. pieces: file, first and last index to what of it there is, in order.
    One that does not fit into the budget with its window is left out, and lesser ones that do are taken.
    """
    budget = _Budget(inf if shape.max_tokens is None else shape.max_tokens, once=shape.merge)
    spans = [span for span in _spans(found, shape, pieces) if budget.pays(span, span.keys)]
    if shape.section:
        most = SECTION_TOKENS if shape.max_tokens is None else shape.max_tokens
        spans = [_with_section(span, shape, pieces, budget, most) for span in spans]
    return [_shown(span) for span in (_merged(spans) if shape.merge else spans)]


def costs(found: Sequence[Passage], shape: Shape, pieces: Pieces) -> list[int]:
    """Return how many tokens each hit has with its window, which is what a budget must have left for it."""
    return [_tokens(span) for span in _spans(found, shape, pieces)]


def _spans(found: Sequence[Passage], shape: Shape, pieces: Pieces) -> Iterator[_Span]:
    """Yield each hit with its window; one at a time, as what does not fit need not be held."""
    for place, passage in enumerate(found):
        at = passage.chunk_index
        around = _around(passage, shape.window, shape, pieces)
        first, last = _away(at, -1, shape.window, around), _away(at, 1, shape.window, around)
        yield _Span((place,), passage, around, at, at, first, last)


class _Budget:
    """Tokens that are left; once: a piece that was paid for costs nothing more."""

    def __init__(self, left: float, *, once: bool) -> None:
        self._left = left
        self._once = once
        self._paid: set[Key] = set()

    def pays(self, span: _Span, keys: Iterable[Key]) -> bool:
        """Take what these pieces cost, if it is there."""
        fresh = [key for key in keys if key not in self._paid]
        cost = sum(span.pieces[index].tokens for _, index in fresh)
        if cost > self._left:
            return False
        self._left -= cost
        if self._once:
            self._paid.update(fresh)
        return True


def _around(passage: Passage, reach: int, shape: Shape, pieces: Pieces) -> dict[int, Piece]:
    """Return a passage as a piece of its file and those around it; with merge, only those that are one text with it.

    Then hits that have a piece in common are always one, so that it is shown once, as it was paid for once.
    """
    at = passage.chunk_index
    around: dict[int, Piece] = {}
    if passage.file_pk is not None:
        around = {piece.index: piece for piece in pieces(passage.file_pk, at - reach, at + reach)}
    around.setdefault(at, _alone(passage))
    return _one_text(around, at) if shape.merge else around


def _one_text(pieces: Mapping[int, Piece], at: int) -> dict[int, Piece]:
    """Return the pieces from which each to the next is one text, as far as that goes in both directions."""
    low = high = at
    while low - 1 in pieces and _follows(pieces[low - 1], pieces[low]):
        low -= 1
    while high + 1 in pieces and _follows(pieces[high], pieces[high + 1]):
        high += 1
    return {index: pieces[index] for index in range(low, high + 1)}


def _away(index: int, step: int, count: int, pieces: Mapping[int, Piece]) -> int:
    """Return where one comes in so many steps, as far as there are pieces."""
    while count and index + step in pieces:
        index, count = index + step, count - 1
    return index


def _alone(passage: Passage) -> Piece:
    return Piece(
        passage.chunk_index,
        passage.text,
        passage.repeated,
        passage.char_start,
        passage.char_end,
        passage.tokens,
        passage.heading,
        passage.page_start,
        passage.page_end,
    )


def _with_section(span: _Span, shape: Shape, pieces: Pieces, budget: _Budget, most: int) -> _Span:
    """Grow a span in both directions by turns, as long as the headings are the same and the tokens suffice.

    It holds no other pieces than its own: what was looked at for a section is many times as much.
    """
    around = _around(span.passage, max(shape.window, SECTION_REACH), shape, pieces)
    grown, open_ends = replace(span, pieces=around), [1, -1]
    while open_ends:
        step = open_ends.pop(0)
        index = grown.last + 1 if step > 0 else grown.first - 1
        piece = around.get(index)
        fits = piece is not None and piece.heading == span.passage.heading and _tokens(grown) + piece.tokens <= most
        if fits and budget.pays(grown, [(span.owner, index)]):
            grown = replace(grown, first=min(grown.first, index), last=max(grown.last, index))
            open_ends.append(step)
    return replace(grown, pieces={index: around[index] for index in range(grown.first, grown.last + 1)})


def _merged(spans: Sequence[_Span]) -> list[_Span]:
    """Return the spans with those of one file that touch as one, each where its best was."""
    joined: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.passage.file_pk is None, span.passage.file_pk or 0, span.first)):
        if joined and _touch(joined[-1], span):
            joined[-1] = _joined(joined[-1], span)
        else:
            joined.append(span)
    return sorted(joined, key=lambda span: span.places[0])


def _touch(span: _Span, other: _Span) -> bool:
    if span.passage.file_pk is None or span.passage.file_pk != other.passage.file_pk or other.first > span.last + 1:
        return False
    pieces = {**span.pieces, **other.pieces}
    low, high = min(span.low, other.low), max(span.high, other.high)
    return all(_follows(pieces[index], pieces[index + 1]) for index in range(low, high))


def _follows(piece: Piece, following: Piece) -> bool:
    """Tell whether two pieces are one text: a piece that somebody added may stand anywhere."""
    return (
        piece.char_start <= following.char_start <= piece.char_end + LONGEST_GAP
        and piece.char_end <= following.char_end
    )


def _joined(span: _Span, other: _Span) -> _Span:
    best = min(span, other, key=lambda span: span.places[0])
    return _Span(
        tuple(sorted(span.places + other.places)),
        best.passage,
        {**span.pieces, **other.pieces},
        min(span.low, other.low),
        max(span.high, other.high),
        min(span.first, other.first),
        max(span.last, other.last),
    )


def _shown(span: _Span) -> Shown:
    found = [span.pieces[index] for index in range(span.low, span.high + 1)]
    before = [span.pieces[index] for index in range(span.first, span.low)]
    after = [span.pieces[index] for index in range(span.high + 1, span.last + 1)]
    pages = [page for piece in found for page in (piece.page_start, piece.page_end) if page is not None]
    start, end = found[0].char_start, found[-1].char_end
    return Shown(
        span.places,
        _text(found),
        found[0].repeated,
        start,
        end,
        min(pages, default=None),
        max(pages, default=None),
        _run(before, None, start),
        _run(after, end, None),
        _tokens(span),
    )


def _tokens(span: _Span) -> int:
    return sum(span.pieces[index].tokens for index in range(span.first, span.last + 1))


def _text(pieces: Sequence[Piece]) -> str:
    """Join pieces that follow each other: every character at its offset, with line ends for what is between them."""
    first, *others = pieces
    text, at = first.text, first.char_end
    for piece in others:
        gap = "\n" * (piece.char_start - at)
        text += gap + piece.text[piece.repeated :][max(0, at - piece.char_start) :]
        at = piece.char_end
    return text


def _run(pieces: Sequence[Piece], start: int | None, stop: int | None) -> str:
    """Join texts by their offsets, from `start` on and up to `stop`, without what they repeat from further up.

    Text between two pieces that belongs to neither is shown as a line end.
    """
    texts: list[str] = []
    at = start
    for piece in pieces:
        text, begin, end = piece.text[piece.repeated :], piece.char_start, piece.char_end
        if at is not None and begin > at:
            texts.append("\n")
        skip = max(0, at - begin) if at is not None else 0
        keep = len(text) if stop is None else max(0, len(text) - max(0, end - stop))
        texts.append(text[skip:keep])
        at = end if at is None else max(at, end)
    if texts and stop is not None and at is not None and at < stop:
        texts.append("\n")
    return "".join(texts)

"""Texts and questions as the full-text tables take them, and passages with what was found marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice, pairwise
from typing import NamedTuple

from storage.text_query import STOP_WORDS, Syntax, fts5_terms, terms
from storage.words import (
    ASCII_WORD,
    MAX_TOKEN,
    NUMBERS_AT_ENDS,
    UNSPACED,
    WORD,
    analyse,
    ascii_words,
    dotted_numbers,
    normal_words,
    normalise,
    normalise_with_places,
    piece_size,
    stem,
)

TOKENIZER_VERSION = 3
"""Raised whenever the same text gives other tokens; an index made by another version is rebuilt."""

CACHED_WORDS = 100_000
MAX_HIGHLIGHTED = 50_000
"""Characters of a text that are looked through at once for what to mark."""


class _Forms(dict[str, str]):
    """The tokens of each word met, as text; in `more`, those that stand behind the text.

    Entries are never removed, so that `more` can be looked up after the words, whatever other threads do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.more: dict[str, str] = {}

    def __missing__(self, word: str) -> str:
        tokens, more = analyse(word)
        main = " ".join(tokens)
        if len(word) <= MAX_TOKEN and not piece_size(word):
            if more:
                self.more[word] = " ".join(more)
            self[word] = main
        return main


_forms = _Forms()


def _current_forms() -> _Forms:
    global _forms
    if len(_forms) > CACHED_WORDS:
        _forms = _Forms()
    return _forms


def index_tokens(text: str) -> str:
    """Return the tokens of a text, separated by spaces, as the full-text tables take them."""
    forms = _current_forms()
    normal = normalise(text)
    words = normal_words(normal)
    tokens = list(map(forms.__getitem__, words))
    numbers, rest = dotted_numbers(normal)
    if numbers:
        tokens += numbers
        words = [word for word in normal_words(rest) if forms[word]]  # what was cut may be a word not met yet
    if not forms.more.keys().isdisjoint(words):
        tokens += [forms.more[word] for word in words if word in forms.more]
    return " ".join(filter(None, tokens))


@cache
def _stopped() -> frozenset[str]:
    """Return the tokens of the stop words."""
    return frozenset(stem(word) for word in STOP_WORDS)


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _beginnings(tokens: Iterable[str]) -> frozenset[str]:
    """Return the beginnings, of two letters and of three, of every plain word that a token may be made of, or one that
    begins with it.

    No rule changes the first two letters, but for a y that becomes an i (dying) and what leaves one letter alone. Nor
    does any change the third of four and more: what rules put in place of others, or behind, stands at the end.
    """
    of_three = {token[:3] for token in tokens if len(token) > 3}
    of_two = {token[:2] for token in tokens if 1 < len(token) <= 3}
    of_two |= {token + letter for token in tokens if len(token) == 1 for letter in _LETTERS}
    found = of_two | of_three
    found |= {text[0] + "y" + text[2:] for text in found if text[1] == "i"}
    return frozenset(found | {text.capitalize() for text in found})


_Span = tuple[int, int]
"""Characters start:end of a text."""


class _Units(NamedTuple):
    """The things of a text to count: which token asked for stands at each, if any, and where some of them are."""

    asked: list[str | None]
    spans: Callable[[int, int], list[_Span]]


class Highlighter:
    """Makes the snippets of one question.

    A snippet has at most `window_tokens` words (characters, in scripts without spaces), those with most
    different tokens of the question, which stand in `<mark>`. An ellipsis shows where the text was cut;
    nothing is escaped.
    """

    def __init__(self, query: str, *, window_tokens: int = 32, syntax: Syntax = "plain") -> None:
        self.window_tokens = window_tokens
        found = set(fts5_terms(query) if syntax == "fts5" else terms(query))
        single = {term.tokens[0] for term in found if len(term.tokens) == 1}
        self._tokens = frozenset(token for term in found for token in term.tokens) - (_stopped() - single)
        self._prefixes = frozenset(term.tokens[-1] for term in found if term.prefix)
        self._beginnings = _beginnings(self._tokens | self._prefixes)
        self._numbers = any(len(term.tokens) > 1 and "".join(term.tokens).isdigit() for term in found)
        self._known: dict[str, str | None] = {}

    def snippet(self, text: str) -> str:
        """Return the best part of a text, the text itself where it is short.

        Of a long one (`MAX_HIGHLIGHTED`) that is the best of the first stretch in which anything stands that was
        asked for, or the beginning.
        """
        looked = ((start, end, self._read(text[start:end])) for start, end in _parts(text))
        beginning = next(looked)
        start, end, units = next((part for part in chain([beginning], looked) if any(part[2].asked)), beginning)
        if not units.asked:
            return text[start:end].strip()
        first, last = _window(units.asked, self.window_tokens)
        spans = [(start + left, start + right) for left, right in units.spans(first, last)]
        cut_before, cut_behind = start > 0 or first > 0, end < len(text) or last < len(units.asked)
        marks = [span for span, token in zip(spans, units.asked[first:last], strict=True) if token is not None]
        shown = _marked(text, spans[0][0] if cut_before else 0, spans[-1][1] if cut_behind else end, marks).strip()
        return f"{'…' if cut_before else ''}{shown}{'…' if cut_behind else ''}"

    def marked(self, text: str) -> str:
        """Return a whole text, what was asked for in `<mark>`."""
        marks: set[_Span] = set()  # stretches overlap
        for start, end in _parts(text):
            units = self._read(text[start:end])
            spans = units.spans(0, len(units.asked))
            found = zip(spans, units.asked, strict=True)
            marks |= {(start + left, start + right) for (left, right), token in found if token is not None}
        return _marked(text, 0, len(text), sorted(marks))

    def _read(self, text: str) -> _Units:
        return self._plain(text) if text.isascii() else self._units(text)

    def _plain(self, text: str) -> _Units:
        """Return the words of an ASCII text; only those that are shown are looked for twice, for their places."""

        def spans(first: int, last: int) -> list[_Span]:
            return [match.span() for match in islice(ASCII_WORD.finditer(text), first, last)]

        return _Units(self._asked(ascii_words(text)), spans)

    def _units(self, text: str) -> _Units:
        normal, places = normalise_with_places(text)
        if UNSPACED.search(normal):
            return self._mixed(normal, places)

        def spans(first: int, last: int) -> list[_Span]:
            found = islice(WORD.finditer(normal), first, last)
            return [(places[match.start()], places[match.end()]) for match in found]

        return _Units(self._asked(WORD.findall(normal)), spans)

    def _mixed(self, normal: str, places: Sequence[int]) -> _Units:
        """Return the words of a text, and of what is written without spaces the characters."""
        asked: list[str | None] = []
        spans: list[_Span] = []
        for match in WORD.finditer(normal):
            word, start, end = match[0], match.start(), match.end()
            if size := piece_size(word):
                asked += self._characters(word, size)
                spans += pairwise(places[start : end + 1])
            else:
                asked += self._asked([word])
                spans.append((places[start], places[end]))

        def some(first: int, last: int) -> list[_Span]:
            return spans[first:last]

        return _Units(asked, some)

    def _asked(self, words: list[str]) -> list[str | None]:
        """Return for each word which token asked for it is, if any."""
        known, beginnings = self._known, self._beginnings
        new = set(words).difference(known)
        known |= dict.fromkeys(new)
        # Most words need no stemming to be passed over.
        known |= {
            word: self._find(word)
            for word in new
            if word[:3] in beginnings
            or word[:2] in beginnings
            or not (word.isalpha() and word[1:].islower() and word.isascii())
        }
        return list(map(known.__getitem__, words))

    def _find(self, word: str) -> str | None:
        tokens, more = analyse(word)
        if self._numbers:  # as 5млн, which 2.5 finds with what stands before
            more = (*more, *NUMBERS_AT_ENDS.findall(word))
        return next((token for token in (*tokens, *more) if token in self._tokens or self._prefixed(token)), None)

    def _characters(self, run: str, size: int) -> Iterator[str | None]:
        """Yield for each character the piece it begins, where a piece or a prefix that was asked for covers it."""
        covered = 0
        for place in range(len(run)):
            piece = run[place : place + size]
            covered = max(covered, place + self._length(piece, size))
            yield piece if place < covered else None

    def _length(self, piece: str, size: int) -> int:
        """Return how many characters of a piece were asked for."""
        if len(piece) == size and piece in self._tokens:
            return size
        return self._prefixed(piece)

    def _prefixed(self, token: str) -> int:
        """Return how long the longest prefix is that was asked for and that a token begins with."""
        if not self._prefixes:
            return 0
        return next((length for length in range(len(token), 0, -1) if token[:length] in self._prefixes), 0)


def _parts(text: str) -> Iterator[_Span]:
    """Yield stretches of a text that end where words do, and overlap by what a piece of an unspaced script takes in."""
    start = 0
    while (end := start + MAX_HIGHLIGHTED) < len(text):
        end = next((place for place in range(end, end - MAX_TOKEN, -1) if _ends_word(text[place - 1])), end)
        yield start, end
        start = end - max(1, piece_size(text[end - 2 : end]) - 1)
    yield start, len(text)


def _ends_word(character: str) -> bool:
    return character.isspace() or piece_size(character) > 0


def _window(asked: Sequence[str | None], size: int) -> tuple[int, int]:
    """Return first and behind-last of the `size` units that hold most different tokens asked for."""
    found = [place for place, token in enumerate(asked) if token is not None]
    counts = dict.fromkeys([asked[place] for place in found], 0)
    best, best_score, behind, different = 0, (0, 0), 0, 0
    for seen, place in enumerate(found, 1):
        different += not counts[asked[place]]
        counts[asked[place]] += 1
        while found[behind] <= place - size:
            counts[asked[found[behind]]] -= 1
            different -= not counts[asked[found[behind]]]
            behind += 1
        score = (different, seen - behind)
        if score > best_score:
            best, best_score = max(0, place - size + 1), score
    return _centred(found, best, size, len(asked))


def _centred(found: Sequence[int], first: int, size: int, count: int) -> tuple[int, int]:
    """Move a window so that what was found in it stands in its middle."""
    inside = [place for place in found if first <= place < first + size]
    if inside:
        first = inside[0] - (size - (inside[-1] - inside[0] + 1)) // 2
    first = max(0, min(first, count - size))
    return first, min(first + size, count)


def _marked(text: str, start: int, end: int, marks: list[_Span]) -> str:
    shown: list[str] = []
    at = start
    for left, right in _joined(marks):
        shown += [text[at:left], "<mark>", text[left:right], "</mark>"]
        at = right
    return "".join([*shown, text[at:end]])


def _joined(marks: list[_Span]) -> list[_Span]:
    """Return places to mark, in order, those that touch or overlap as one."""
    joined: list[_Span] = []
    for left, right in marks:
        if joined and joined[-1][1] >= left:
            left, before = joined.pop()
            right = max(before, right)
        joined.append((left, right))
    return joined

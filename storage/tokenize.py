"""Texts and questions as the full-text tables take them, and passages with what was found marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import NamedTuple

from storage.text_query import STOP_WORDS, terms
from storage.words import ASCII_WORD, MAX_TOKEN, WORD, analyse, normalise_with_places, piece_size, stem, words_of

TOKENIZER_VERSION = 1
"""Raised whenever the same text gives other tokens; an index made by another version is rebuilt."""

CACHED_WORDS = 100_000
MAX_HIGHLIGHTED = 50_000
"""Characters of a passage that are looked through for what to mark."""


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
    words = words_of(text)
    tokens = list(map(forms.__getitem__, words))
    if not forms.more.keys().isdisjoint(words):
        tokens += [forms.more[word] for word in words if word in forms.more]
    return " ".join(filter(None, tokens))


def query_terms(text: str) -> list[str]:
    """Return the tokens of a question, repeats kept and stop words still in."""
    return index_tokens(text).split()


def highlight(text: str, query: str, *, window_tokens: int = 32) -> str:
    """Return the part of a text that holds most of what a question asks for; see `Highlighter`."""
    return Highlighter(query, window_tokens=window_tokens).snippet(text)


@cache
def _stopped() -> frozenset[str]:
    """Return the tokens of the stop words."""
    return frozenset(stem(word) for word in STOP_WORDS)


class _Asked(dict[str, str | None]):
    """By word met, which token asked for it is, if any."""

    def __init__(self, find: Callable[[str], str | None]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, word: str) -> str | None:
        self[word] = found = self._find(word)
        return found


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

    def __init__(self, query: str, *, window_tokens: int = 32) -> None:
        self.window_tokens = window_tokens
        found = set(terms(query))
        single = {term.tokens[0] for term in found if len(term.tokens) == 1}
        self._tokens = frozenset(token for term in found for token in term.tokens) - (_stopped() - single)
        self._prefixes = tuple(term.tokens[-1] for term in found if term.prefix)
        self._firsts = frozenset(token[0] for token in self._tokens)
        self._asked = _Asked(self._find)

    def snippet(self, text: str) -> str:
        """Return the best part of a text, the text itself where it is short."""
        text = text[:MAX_HIGHLIGHTED]
        units = self._plain(text) if text.isascii() else self._units(text)
        if not units.asked:
            return text.strip()
        first, last = _window(units.asked, self.window_tokens)
        spans = units.spans(first, last)
        start = spans[0][0] if first else 0
        end = spans[-1][1] if last < len(units.asked) else len(text)
        marks = [span for span, token in zip(spans, units.asked[first:last], strict=True) if token is not None]
        shown = _marked(text, start, end, marks).strip()
        return f"{'…' if first else ''}{shown}{'…' if last < len(units.asked) else ''}"

    def _plain(self, text: str) -> _Units:
        """Return the words of an ASCII text; only those that are shown are looked for twice, for their places."""

        def spans(first: int, last: int) -> list[_Span]:
            return [match.span() for match in islice(ASCII_WORD.finditer(text), first, last)]

        return _Units([*map(self._asked.__getitem__, ASCII_WORD.findall(text))], spans)

    def _units(self, text: str) -> _Units:
        normal, places = normalise_with_places(text)
        asked: list[str | None] = []
        spans: list[_Span] = []
        for match in WORD.finditer(normal):
            word, start, end = match[0], match.start(), match.end()
            if size := piece_size(word):
                asked += self._characters(word, size)
                spans += pairwise(places[start : end + 1])
            else:
                asked.append(self._asked[word])
                spans.append((places[start], places[end]))

        def some(first: int, last: int) -> list[_Span]:
            return spans[first:last]

        return _Units(asked, some)

    def _find(self, word: str) -> str | None:
        # No rule changes the first letter of a plain word; most words need no stemming to be passed over.
        if word.isascii() and word[1:].islower() and word.isalpha() and word[0].lower() not in self._firsts:
            return None
        tokens, more = analyse(word)
        return next((token for token in (*tokens, *more) if token in self._tokens), None)

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
        return max((len(prefix) for prefix in self._prefixes if piece.startswith(prefix)), default=0)


def _window(asked: Sequence[str | None], size: int) -> tuple[int, int]:
    """Return first and behind-last of the `size` units that hold most different tokens asked for."""
    found = [place for place, token in enumerate(asked) if token is not None]
    counts: Counter[str | None] = Counter()
    best, best_score, behind = 0, (0, 0), 0
    for seen, place in enumerate(found, 1):
        counts[asked[place]] += 1
        while found[behind] <= place - size:
            counts[asked[found[behind]]] -= 1
            behind += 1
        score = (sum(count > 0 for count in counts.values()), seen - behind)
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
    """Return places to mark, those that touch as one."""
    joined: list[_Span] = []
    for left, right in marks:
        if joined and joined[-1][1] == left:
            left = joined.pop()[0]
        joined.append((left, right))
    return joined

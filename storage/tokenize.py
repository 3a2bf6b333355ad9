"""Texts and questions as the full-text tables take them, and passages with what was found marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

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


_Unit = tuple[int, int, str | None]
"""One thing to count: characters start:end of the text, and which token asked for stands there."""


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
        units = self._units(text)
        if not units:
            return text.strip()
        first, last = _window(units, self.window_tokens)
        start = units[first][0] if first else 0
        end = units[last - 1][1] if last < len(units) else len(text)
        shown = _marked(text, start, end, units[first:last]).strip()
        return f"{'…' if first else ''}{shown}{'…' if last < len(units) else ''}"

    def _units(self, text: str) -> list[_Unit]:
        asked = self._asked
        if text.isascii():
            return [(match.start(), match.end(), asked[match[0]]) for match in ASCII_WORD.finditer(text)]
        normal, places = normalise_with_places(text)
        units: list[_Unit] = []
        for match in WORD.finditer(normal):
            word, start, end = match[0], match.start(), match.end()
            if size := piece_size(word):
                units += self._characters(word, size, places[start : end + 1])
            else:
                units.append((places[start], places[end], asked[word]))
        return units

    def _find(self, word: str) -> str | None:
        # No rule changes the first letter of a plain word; most words need no stemming to be passed over.
        if word.isascii() and word[1:].islower() and word.isalpha() and word[0].lower() not in self._firsts:
            return None
        tokens, more = analyse(word)
        return next((token for token in (*tokens, *more) if token in self._tokens), None)

    def _characters(self, run: str, size: int, places: list[int]) -> list[_Unit]:
        """Return a unit for each character; those that a piece or a prefix covers are marked."""
        covered = 0
        units: list[_Unit] = []
        for place in range(len(run)):
            piece = run[place : place + size]
            covered = max(covered, place + self._length(piece, size))
            units.append((places[place], places[place + 1], piece if place < covered else None))
        return units

    def _length(self, piece: str, size: int) -> int:
        """Return how many characters of a piece were asked for."""
        if len(piece) == size and piece in self._tokens:
            return size
        return max((len(prefix) for prefix in self._prefixes if piece.startswith(prefix)), default=0)


def _window(units: list[_Unit], size: int) -> tuple[int, int]:
    """Return first and behind-last of the `size` units that hold most different tokens asked for."""
    counts: Counter[str] = Counter()
    best, best_score, different, total = 0, (0, 0), 0, 0
    for place, (_, _, token) in enumerate(units):
        if place >= size and (left := units[place - size][2]) is not None:
            counts[left] -= 1
            different, total = different - (not counts[left]), total - 1
        if token is not None:
            counts[token] += 1
            different, total = different + (counts[token] == 1), total + 1
            if (different, total) > best_score:
                best, best_score = max(0, place - size + 1), (different, total)
    return _centred(units, best, size)


def _centred(units: list[_Unit], first: int, size: int) -> tuple[int, int]:
    """Move a window so that what was found in it stands in its middle."""
    found = [place for place in range(first, min(first + size, len(units))) if units[place][2] is not None]
    if found:
        first = found[0] - (size - (found[-1] - found[0] + 1)) // 2
    first = max(0, min(first, len(units) - size))
    return first, min(first + size, len(units))


def _marked(text: str, start: int, end: int, units: list[_Unit]) -> str:
    shown: list[str] = []
    at = start
    for left, right in _joined([(left, right) for left, right, token in units if token is not None]):
        shown += [text[at:left], "<mark>", text[left:right], "</mark>"]
        at = right
    return "".join([*shown, text[at:end]])


def _joined(marks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return places to mark, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for left, right in marks:
        if joined and joined[-1][1] == left:
            left = joined.pop()[0]
        joined.append((left, right))
    return joined

"""A question in any words into what the full-text tables are asked.

Terms are joined by OR and ranked by BM25. What a question repeats is repeated, since it counts
there as often as it is asked for (on long questions worth 0.07 nDCG@10). Stop words are dropped
unless nothing else is left; "quoted words" are a phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from storage.errors import UsageError
from storage.words import Word, bare_number, normalise, split_words

MAX_CHARACTERS = 8_000
"""Characters of a question that are read."""

NAMED_WORDS = 5
"""Words that were left out which are named."""

MAX_TERMS = 128
"""Different terms a question is searched for; of more, the rarest."""

MAX_CONSIDERED = 512
"""Different terms of a question, from its beginning, whose rarity is looked up."""

MAX_REPEATS = 8
"""How often one term counts at most."""

MAX_CHAIN = 8
"""Words joined by `-`, `_`, `.` and the like that also make a phrase."""

_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing done down during each few for from further had has have having he her here his
how i if in into is it its just me more most my no not of on once only or other our out over own same she
should so some such than that the their then there these they this those through to too under until up us very
was we were what when where which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say how a thing is asked, not what; in capitals (IT, US, WHO) they are names."""

QUOTED = re.compile(r'(?<![0-9])["“”„]([^"“”„]*)["“”„]')
"""What is quoted; a quote behind a digit stands for inches, and begins nothing."""

JOINERS = frozenset("-_./@:&'")


Syntax = Literal["plain", "fts5"]


@dataclass(frozen=True, slots=True)
class Term:
    """One thing asked for: tokens that stand in a row; `prefix`: the last one may go on."""

    tokens: tuple[str, ...]
    prefix: bool = False

    @property
    def expression(self) -> str:
        """The term in FTS5's language. Tokens hold no quotes, so nothing can break out."""
        row = f'"{" ".join(self.tokens)}"'
        return f"{row} *" if self.prefix else row


Alternatives = tuple[Term, ...]
"""One thing asked for, as it may be spelled: 1,234 or 1234, getUserById or get user by id."""


def terms(question: str) -> list[Term]:
    """Return the terms a question asks for, in order, with repeats, without stop words.

    Any string is legal; one without a letter or digit has no terms.
    """
    return list(_terms(question[:MAX_CHARACTERS]))


@lru_cache(maxsize=32)
def _terms(question: str) -> tuple[Term, ...]:
    """Return the terms of a question, which a search reads twice: to find passages and to mark them."""
    return tuple(_capped([term for alternatives in _asked(question) for term in alternatives]))


def not_searched_for(question: str, left_out: Iterable[Term]) -> str | None:
    """Say what of a question was not searched for: terms that were left out, and what is behind its part that is read.

    None where all of it was.
    """
    words = [" ".join(term.tokens) for term in dict.fromkeys(left_out)]
    some = f"{', '.join(words[:NAMED_WORDS])}{', …' if len(words) > NAMED_WORDS else ''}"
    told = [f"too many or too common words; not searched for: {some}"] if words else []
    if question[MAX_CHARACTERS:].strip():
        told.append(f"only the first {MAX_CHARACTERS:,} characters of the question were searched for")
    return "; ".join(told) or None


def required(question: str) -> list[Alternatives]:
    """Return the terms of a question that a passage must hold to hold all that is asked: one of each alternatives."""
    return list(dict.fromkeys(_asked(question)))


def _asked(question: str) -> list[Alternatives]:
    question = question[:MAX_CHARACTERS]
    phrases = [(term,) for quoted in QUOTED.findall(question) if (term := _phrase(split_words(normalise(quoted))))]
    words = split_words(normalise(QUOTED.sub(" ", question)))
    loose = list(_loose_terms(words, STOP_WORDS))
    if not loose and not phrases:
        loose = list(_loose_terms(words, frozenset()))
    return [*phrases, *loose]


def _capped(found: list[Term]) -> list[Term]:
    counts: dict[Term, int] = {}
    for term in found:
        counts[term] = min(counts.get(term, 0) + 1, MAX_REPEATS)
    return [term for term, count in counts.items() for _ in range(count)]


def _phrase(words: list[Word]) -> Term | None:
    """Return the words as they stand in a row; a run of an unspaced script may go on behind them."""
    if not words:
        return None
    *before, last = words
    row = [token for word in before for token in word.tokens]
    if not last.piece:
        return Term((*row, *last.tokens))
    return Term((*row, *_pieces(last)), prefix=len(last.text) < last.piece)


def _pieces(run: Word) -> tuple[str, ...]:
    """Return the pieces that lie wholly in the run; the run itself where it is shorter than one."""
    return run.tokens[: max(1, len(run.text) - run.piece + 1)]


def _loose_terms(words: list[Word], stop_words: frozenset[str]) -> Iterator[Alternatives]:
    for chain in _chains(words):
        yield from _chain_terms(chain, stop_words)


def _chains(words: list[Word]) -> Iterator[list[Word]]:
    """Group words that one joining character holds together: ADR-016, node.js, 3.14."""
    chain: list[Word] = []
    for word in words:
        if chain and not _joined(chain[-1], word):
            yield chain
            chain = []
        chain.append(word)
    if chain:
        yield chain


def _joined(left: Word, right: Word) -> bool:
    if right.before == ",":
        return left.text.isdigit() and right.text.isdigit()
    return right.before in JOINERS


def _chain_terms(chain: list[Word], stop_words: frozenset[str]) -> Iterator[Alternatives]:
    """Ask for the words and for them in a row; of a number like 3.14 for the row alone, however long.

    Plain hyphenated words (high-speed) are no name: the row would count them twice. The row of v2.5.1 or
    1,234.56 may be spelled 2.5.1 or 1234.56.
    """
    marks = {word.before for word in chain[1:]}
    dotted = marks == {"."} and all(word.text.isdigit() for word in chain)
    if not dotted:
        for word in chain:
            yield from _word_terms(word, stop_words)
    named = marks != {"-"} or any(not word.text.isalpha() for word in chain)
    if (dotted or (1 < len(chain) <= MAX_CHAIN and named)) and (row := _phrase(chain[:MAX_TERMS])):
        bare = bare_number(".".join(word.text for word in chain)) if marks == {"."} and not dotted else ()
        yield (row, Term(bare)) if bare else (row,)


def _word_terms(word: Word, stop_words: frozenset[str]) -> Iterator[Alternatives]:
    if word.piece:
        short = len(word.text) < word.piece
        yield from ((Term((piece,), prefix=short),) for piece in _pieces(word))
    elif not _stops(word, stop_words):
        if "'" in word.text and len(word.tokens) > 1:
            yield from ((Term((token,)),) for token in word.tokens)
        spellings = [word.tokens, word.more] if word.more and not word.symbolic else [word.tokens]
        yield tuple(map(Term, spellings))


def _stops(word: Word, stop_words: frozenset[str]) -> bool:
    name = word.text.partition("'")[0]
    return name.lower() in stop_words and not (name.isupper() and len(name) > 1)


# What FTS5's language is made of: strings and barewords are tokens to us, the rest stays as it is. No item begins
# with what another may begin within, so that each character is looked at a few times at most.
FTS5_ITEM = re.compile(
    r"""(?P<string>"(?:[^"]|"")*")|(?P<number>,\s*[0-9]+\s*\))|(?P<near>NEAR(?=\())|(?P<operator>(?:AND|OR|NOT)\b)"""
    r"""|(?P<columns>(?:-\s*)?(?:\{[^{}]*\}|[A-Za-z_]+)\s*:)|(?P<word>[^\x00-/:-@\[-^`{-\x7f]+)|(?P<space>\s+)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
COLUMNS = frozenset({"heading", "body"})


def fts5_expression(query: str) -> str:
    """Return a query in FTS5's own language with every string and bareword as our tokens.

    Words are stemmed like the index, so `run*` also finds running. Raises UsageError for a column
    other than heading and body.
    """
    return "".join(map(_fts5_item, _fts5_items(query)))


def fts5_terms(query: str) -> list[Term]:
    """Return the strings and barewords of a query in FTS5's own language, in order, without what stands behind NOT."""
    found: list[Term] = []
    end = 0
    for item in _not_refused(match for match in _fts5_items(query) if match.lastgroup != "space"):
        if item.lastgroup in ("string", "word") and (term := _fts5_term(item[0])):
            found.append(term)
            end = item.end()
        elif item[0] == "*" and found and not item.string[end : item.start()].strip():
            found[-1] = replace(found[-1], prefix=True)
    return _capped(found)


def _not_refused(items: Iterable[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Give the items that do not stand behind NOT: neither a string or bareword there, nor what is in parentheses."""
    depth, refused, behind_not = 0, 0, False
    for item in items:
        if item[0] == "(":
            depth += 1
            refused = refused or (depth if behind_not else 0)
        elif item[0] == ")" or item.lastgroup == "number":
            depth -= 1
            refused = refused if depth >= refused else 0
        elif not refused and not behind_not:
            yield item
        behind_not = item[0] == "NOT" or (behind_not and (item.lastgroup in ("near", "columns") or item[0] == "^"))


def _fts5_items(query: str) -> Iterator[re.Match[str]]:
    return FTS5_ITEM.finditer(query[:MAX_CHARACTERS].replace("\0", " "))


def _fts5_term(item: str) -> Term | None:
    return _phrase(split_words(normalise(item.replace('"', " "))))


def _fts5_item(match: re.Match[str]) -> str:
    item = match[0]
    if match.lastgroup == "columns":
        unknown = set(re.findall(r"[A-Za-z_]+", item)) - COLUMNS
        if unknown:
            raise UsageError(f"query: no column {min(unknown)}; name heading or body, or put the colon in quotes")
        return item
    if match.lastgroup in ("string", "word"):
        term = _fts5_term(item)
        return f" {term.expression} " if term else ' "" '
    return item

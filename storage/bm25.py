"""BM25 over the postings of a question's terms. Pure functions.

The formula is Lucene's: weight = ln(1 + (N - df + 0.5) / (df + 0.5)), always positive, and
tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)).
Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from math import log
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from storage.text_query import Term

K1 = 1.2
B = 0.75
FLAT = K1 * (1 - B)
"""What is added to the denominator whatever a passage's length."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Where a term stands: passages, how often it stands there (about), and their lengths in tokens."""

    pks: Sequence[int]
    frequencies: Sequence[float]
    lengths: Sequence[int]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What passages are compared with: how many there are, and their lengths summed up."""

    passages: int
    length: int

    def weight(self, found: int) -> float:
        """Return what a term counts that stands in `found` passages."""
        return log(1 + (self.passages - found + 0.5) / (found + 0.5))

    def ceiling(self, asked: Iterable[int], found: Iterable[int]) -> float:
        """Return what no score reaches: that of a passage which holds every term so often that more would not count.

        asked: how often the question asks for each term; found: in how many passages it stands.
        """
        return sum(count * self.weight(standing) * (K1 + 1) for count, standing in zip(asked, found, strict=True))

    @property
    def per_token(self) -> float:
        """What each token of a passage's length adds to the denominator, besides `FLAT`."""
        return K1 * B * self.passages / self.length if self.length else 0.0


def scores(
    corpus: Corpus, terms: Iterable[tuple[int, Postings]], standing: Iterable[int] | None = None
) -> dict[int, float]:
    """Return the score of every passage that holds a term.

    terms: how often the question asks for it, and its postings; the sum is made in this order. standing:
    in how many passages each term counts as standing; by default in those of its postings.
    """
    found: dict[int, float] = {}
    per_token = corpus.per_token
    terms = list(terms)
    for (asked, postings), count in zip(terms, standing or [len(p.pks) for _, p in terms], strict=True):
        weight = corpus.weight(count) * (K1 + 1)
        for pk, frequency, length in zip(postings.pks, postings.frequencies, postings.lengths, strict=True):
            found[pk] = found.get(pk, 0.0) + asked * (weight * frequency / (frequency + FLAT + per_token * length))
    return found


Place = tuple[int, int, int]
"""A passage, the one right before it and the one right behind it in its file, by pk; 0 where there is none."""


class Matches(Protocol):
    """What a question's terms found: every passage that holds one, with its score.

    ceiling: see `Corpus.ceiling`; 0 where nothing was asked for. left_out: terms of the question that stand in
    passages and were not searched for, as there are too many terms or they are too common; what holds no other
    term is not found.
    """

    @property
    def ceiling(self) -> float: ...

    @property
    def left_out(self) -> tuple[Term, ...]: ...

    def best(self, limit: int) -> list[tuple[int, float]]:
        """Return (pk, score) of the `limit` best, best first, ties by pk."""
        ...

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """Return the score of each of these passages; of one that holds no term, 0."""
        ...

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """Return the score of each passage as if it held a share of its neighbours' words, and was as much longer.

        pks: of passages that hold a token.
        Neighbours are what stands right before and behind a passage in its file; without any it has the score of `of`,
        and so have all in FTS5's language.
        Terms are weighed as there, by the passages that hold them themselves.
        Source: Robertson, Zaragoza and Taylor, "Simple BM25 Extension to Multiple Weighted Fields", CIKM 2004, with
        the neighbours as a field.
        """
        ...


@dataclass(frozen=True, slots=True)
class Read:
    """What matches were made of: how often the question asks for each term, and its postings.

    surroundings: tells what stands beside passages, and the lengths of all of these, in tokens.
    """

    corpus: Corpus
    terms: Sequence[tuple[int, Postings]]
    surroundings: Callable[[Collection[int]], tuple[Sequence[Place], Mapping[int, int]]]


@dataclass(frozen=True, slots=True)
class ReadMatches:
    """See `Matches`: scores by pk; read: what they were made of, None where nothing has a context.

    That is so in FTS5's language, which says itself where words stand.
    """

    found: Mapping[int, float]
    ceiling: float
    left_out: tuple[Term, ...] = ()
    read: Read | None = None

    def best(self, limit: int) -> list[tuple[int, float]]:
        """See `Matches`."""
        return best(self.found.items(), limit)

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """See `Matches`."""
        return {pk: self.found.get(pk, 0.0) for pk in pks}

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """See `Matches`."""
        return self.of(pks) if self.read is None else _in_context(self.read, pks, share)


def _in_context(read: Read, pks: Collection[int], share: float) -> dict[int, float]:
    places, lengths = read.surroundings(pks)
    length = {
        pk: lengths.get(pk, 0) + share * (lengths.get(before, 0) + lengths.get(behind, 0))
        for pk, before, behind in places
    }
    concerned = {pk for place in places for pk in place}
    found, per_token = dict.fromkeys(pks, 0.0), read.corpus.per_token
    for asked, postings in read.terms:
        weight = read.corpus.weight(len(postings.pks)) * (K1 + 1)
        standing = zip(postings.pks, postings.frequencies, strict=True)
        times = {pk: frequency for pk, frequency in standing if pk in concerned}
        for pk, before, behind in places:
            frequency = times.get(pk, 0.0) + share * (times.get(before, 0.0) + times.get(behind, 0.0))
            found[pk] += asked * (weight * frequency / (frequency + FLAT + per_token * length[pk]))
    return found


NOTHING = ReadMatches({}, 0.0)


def best(found: Iterable[tuple[int, float]], limit: int) -> list[tuple[int, float]]:
    """Return the `limit` best, best first, ties by pk."""
    return nsmallest(limit, found, key=lambda item: (-item[1], item[0]))

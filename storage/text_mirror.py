"""The postings of terms, kept in memory by a long-lived process and added up by numpy.

Questions share their words, so that most postings a search needs have been read before. What is kept
is true for one version of a part; any change of its passages makes it stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from storage import text_index
from storage.bm25 import FLAT, K1
from storage.connection import Connection
from storage.sources import Source
from storage.text_index import Part
from storage.text_query import Term
from storage.vectors import packed

MAX_BYTES = 128 * 2**20

ENTRY_BYTES = 600
"""What an entry takes besides its postings and its words: a term that stands nowhere is kept, too (measured: 574)."""

SPARSE = 64
"""Rows for each posting from which scores are not kept in one array for all rows."""

Key = tuple[Source, tuple[int, ...] | None, Term]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where a term stands, at one version, and what it adds to the score there: int64 and float64, (n,)."""

    version: int
    pks: Integers
    scores: Floats

    @property
    def bytes(self) -> int:
        return self.pks.nbytes + self.scores.nbytes


@dataclass(frozen=True, slots=True)
class MirroredMatches:
    """See `bm25.Matches`: pks, int64 (n,), rising, and their scores, float64 (n,)."""

    pks: Integers
    scores: Floats
    ceiling: float
    left_out: tuple[Term, ...] = ()

    def best(self, limit: int) -> list[tuple[int, float]]:
        """Return the `limit` best, best first, ties by pk."""
        return _best(self.pks, self.scores, limit)

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """Return the score of each of these passages; of one that holds no term, 0."""
        wanted = np.fromiter(pks, np.int64, len(pks))
        places = np.searchsorted(self.pks, wanted)
        held = places < len(self.pks)
        held[held] = self.pks[places[held]] == wanted[held]
        scores = np.zeros(len(wanted))
        scores[held] = self.scores[places[held]]
        return dict(zip(wanted.tolist(), scores.tolist(), strict=True))


def _bytes(key: Key, kept: _Kept) -> int:
    """Return the memory that an entry takes, with all that it refers to."""
    _, projects, term = key
    return ENTRY_BYTES + kept.bytes + 40 * len(projects or ()) + sum(4 * len(token) for token in term.tokens)


class TextMirror:
    """Postings of the terms asked for last, within `max_bytes`. Safe to use from many threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._used = 0

    def matches(
        self, db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None = None
    ) -> MirroredMatches:
        """Return what `text_index.matches` does without a mirror."""
        pks, scores, found = self._scored(db, where, asked, allowed)
        return MirroredMatches(pks, scores, where.corpus.ceiling(asked.values(), found))

    def scored(
        self, db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None = None
    ) -> tuple[list[tuple[int, float]], tuple[int, ...]]:
        """Return (pk, score) of all passages, and in how many each term stands; see `text_index.scored`."""
        pks, scores, found = self._scored(db, where, asked, allowed)
        return list(zip(pks.tolist(), scores.tolist(), strict=True)), found

    def _scored(
        self, db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None
    ) -> tuple[Integers, Floats, tuple[int, ...]]:
        found = [(count, self._postings(db, where, term)) for term, count in asked.items()]
        pks, scores = _added_up(
            np.concatenate([kept.pks for _, kept in found]),
            np.concatenate([count * kept.scores for count, kept in found]),
        )
        if allowed is not None:
            inside = np.isin(pks, np.asarray(packed(allowed)))
            pks, scores = pks[inside], scores[inside]
        return pks, scores, tuple(len(kept.pks) for _, kept in found)

    def used_bytes(self) -> int:
        """Return the memory that all entries take."""
        return self._used

    def _postings(self, db: Connection, where: Part, term: Term) -> _Kept:
        key = (where.source, where.projects, term)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.version == where.version:
                self._kept.move_to_end(key)
                return kept
        fresh = _read(db, where, term)
        with self._lock:
            self._keep(key, fresh)
        return fresh

    def _keep(self, key: Key, fresh: _Kept) -> None:
        """Put in the newest version of a term's postings, and the longest unused ones out."""
        old = self._kept.get(key)
        size = _bytes(key, fresh)
        if size > self.max_bytes or (old is not None and old.version > fresh.version):
            return
        self._used += size - (_bytes(key, old) if old else 0)
        self._kept[key] = fresh
        self._kept.move_to_end(key)
        while self._used > self.max_bytes:
            self._used -= _bytes(*self._kept.popitem(last=False))


def _read(db: Connection, where: Part, term: Term) -> _Kept:
    """Read a term's postings and score them, in the same order of steps as `bm25.scores`."""
    postings = text_index.postings(db, where, term)
    weight = where.corpus.weight(len(postings.pks)) * (K1 + 1)
    frequencies = np.array(postings.frequencies, np.float64)
    lengths = np.array(postings.lengths, np.int64)
    scores = weight * frequencies / (frequencies + FLAT + where.corpus.per_token * lengths)
    return _Kept(where.version, np.array(postings.pks, np.int64), scores)


def _added_up(pks: Integers, parts: Floats) -> tuple[Integers, Floats]:
    """Return each passage once, by pk, with the sum of its parts, added in their order."""
    if not len(pks):
        return pks, parts
    if int(pks.max()) > SPARSE * len(pks):
        rows, place = np.unique(pks, return_inverse=True)
        return rows, cast(Floats, np.bincount(place, parts))
    sums = cast(Floats, np.bincount(pks, parts))
    rows = np.flatnonzero(sums)
    return rows, sums[rows]


def _best(pks: Integers, scores: Floats, limit: int) -> list[tuple[int, float]]:
    """Return the `limit` best of passages that are sorted by pk."""
    if len(pks) > limit:
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = np.flatnonzero(scores >= least)
        pks, scores = pks[kept], scores[kept]
    order = np.lexsort((pks, -scores))[:limit]
    return list(zip(pks[order].tolist(), scores[order].tolist(), strict=True))

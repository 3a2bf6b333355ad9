"""Where terms stand, kept in memory by a long-lived process and scored by numpy.

Questions share their words, so that most postings a search needs have been read before. Of a part the
passages are kept with their lengths and their neighbours, and of a term the places of its passages
among these, 6 bytes each; of one that is asked for again also what it adds to their scores, 8 bytes each,
until anything of the part changes. After changes that only brought passages of new files the rest is
read and no more; after any other the part is read anew, and with it each term that is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from storage import text_index
from storage.bm25 import FLAT, K1, Corpus
from storage.connection import Connection
from storage.sources import Source
from storage.text_index import Part
from storage.text_query import Term
from storage.vectors import packed

MAX_BYTES = 256 * 2**20
"""Of a part of a million passages the passages take 24 MB, or more by what lies between them; a term that stands in a
tenth of them 0.6 MB, and more where it does so more than once."""

ENTRY_BYTES = 920
"""What an entry takes besides its arrays and its words: a term that stands nowhere is kept, too (measured: 904)."""

SPREAD = 4
"""Pks for each passage, from the first to the last, up to which their places stand in a table."""

ROW_BYTES = 20 + 4 * SPREAD
"""What a passage takes at most: its pk, its length, what is beside it, and its part of the table."""

SPARSE = 64
"""Passages of the part for each posting from which these are not entered in one array for all passages."""

COUNTED = 10_000
"""Terms whose passages were counted, and not read, at most: some 3 MB."""

SNAPSHOTS = 8
"""States of a part that are known; a reader of another one, older than the newest, asks the database."""

Key = tuple[Source, tuple[int, ...] | None, Term | None]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]

NO_PLACES: Places = np.empty(0, np.int32)
NO_SCORES: Floats = np.empty(0)


class _Beginning:
    """Names what has only grown since it was read: places mean the same passages until it is read anew."""


@dataclass(frozen=True, slots=True)
class _Passages:
    """The passages of a part that hold a token: pks, int64 (n,), rising, and lengths, int32 (n,).

    table: int32 (m,), the place of each pk from the first on, by the newest version, and -1 of what is none of them;
    empty where they lie far apart.
    before, behind: int32 (n,), the place of what stands right beside each passage in its file, and -1 where that is
    none of them.
    states: for each state known of the part its version, and how many of the first passages were there.
    length: that of all of them, as the newest version has it.
    """

    beginning: _Beginning
    states: tuple[tuple[int, int], ...]
    length: int
    pks: Integers
    lengths: Places
    table: Places
    before: Places
    behind: Places

    @property
    def version(self) -> int:
        """The newest version known."""
        return self.states[-1][0]

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in (self.pks, self.lengths, self.table, self.before, self.behind))

    def at(self, version: int) -> _Passages | None:
        """Return the passages as they were at one version, None where that is not known."""
        for known, count in self.states:
            if known == version:
                cut = {name: getattr(self, name)[:count] for name in ("pks", "lengths", "before", "behind")}
                return replace(self, **cut)
        return None

    def with_beside(self, pks: Integers) -> Places:
        """Return the places of passages, of what stands before and of what stands behind them, int32 (3, n)."""
        found, there = _places_in(self.pks, pks)
        places = np.full((3, len(pks)), -1, np.int32)
        places[0, there], places[1, there], places[2, there] = found, self.before.take(found), self.behind.take(found)
        return places

    def places_of(self, pks: Integers) -> Places:
        """Return where rising pks stand among those of the passages, without what is none of them."""
        if not len(pks):
            return NO_PLACES
        if not (len(self.table) and len(self.pks)):
            return _places_in(self.pks, pks)[0].astype(np.int32)
        first, last = int(self.pks[0]), int(self.pks[-1])
        if pks[0] < first or pks[-1] > last:
            pks = pks[np.searchsorted(pks, first) : np.searchsorted(pks, last, side="right")]
        places = self.table.take(pks - first)
        there = places >= 0
        return places if there.all() else places[there]


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a term stands among the first `looked_at` passages of a part, and how often.

    places: int32 (n,), rising; times: float16 (n,), how often it stands at each. repeated, int32 (m,): which of these
    it stands at more than once; frequencies, float16 (m,): how often it stands there.
    scores: float64 (n,), what it adds to the score of each passage among those of `corpus` where it is asked for once,
    and nothing where `corpus` is None.
    """

    beginning: _Beginning
    looked_at: int
    places: Places
    times: npt.NDArray[np.float16]
    repeated: Places
    frequencies: npt.NDArray[np.float16]
    corpus: Corpus | None = None
    scores: Floats = field(default_factory=lambda: NO_SCORES)

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in (self.places, self.times, self.repeated, self.frequencies, self.scores))

    def among(self, first: int) -> _Standing:
        """Return where it stands among the first passages, of which no more than were looked at are asked for."""
        if first == self.looked_at:
            return self
        end = int(np.searchsorted(self.places, first))
        return _standing(self.beginning, first, self.places[:end], self.times[:end])

    def count(self, places: Places, frequencies: Floats) -> None:
        """Enter how often it stands at each place, in any shape; at -1, which is none, it does not."""
        if len(self.places):
            inside = self.places.searchsorted(places)
            there = self.places.take(inside, mode="clip") == places
            np.multiply(self.times.take(inside, mode="clip"), there, out=frequencies)

    def is_before(self, other: _Standing) -> bool:
        """Tell whether the other one was read from the same passages and more."""
        return self.beginning is other.beginning and self.looked_at < other.looked_at

    def followed_by(self, more: _Standing) -> _Standing:
        """Return this with what was found among the passages behind."""
        return _standing(
            self.beginning,
            more.looked_at,
            np.concatenate([self.places, more.places]),
            np.concatenate([self.times, more.times]),
        )


def _standing(beginning: _Beginning, looked_at: int, places: Places, times: npt.NDArray[np.float16]) -> _Standing:
    repeated = np.flatnonzero(times != 1).astype(np.int32)
    return _Standing(beginning, looked_at, places, times, repeated, times.take(repeated))


@dataclass(frozen=True, slots=True)
class _Held:
    """What matches were made of: the passages, and for each term how often it is asked for and where it stands."""

    corpus: Corpus
    passages: _Passages
    terms: Sequence[tuple[int, _Standing]]

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """See `bm25.Matches`; computed in the same order of steps as `bm25.ReadMatches` does."""
        places = self.passages.with_beside(np.fromiter(pks, np.int64, len(pks)))
        lengths = np.where(places >= 0, self.passages.lengths.take(places, mode="clip"), 0)
        around = self.corpus.per_token * _blended(lengths, share)
        frequencies = np.zeros((len(self.terms), *places.shape))
        for place, (_, term) in enumerate(self.terms):
            term.count(places, frequencies[place])
        blended = _blended(frequencies, share)
        weights = np.array([[self.corpus.weight(len(term.places)) * (K1 + 1)] for _, term in self.terms])
        asked = np.array([[count] for count, _ in self.terms])
        scores = np.zeros(len(pks))
        for row in asked * (weights * blended / (blended + FLAT + around)):
            scores += row  # one by one: numpy's own sums add in another order
        return dict(zip(pks, scores.tolist(), strict=True))


def _blended(values: npt.NDArray[Any], share: float) -> Floats:
    """Return what passages have with a share of what is beside them: of (…, 3, n), own, before and behind, (…, n)."""
    return values[..., 0, :] + share * (values[..., 1, :] + values[..., 2, :])


@dataclass(frozen=True, slots=True)
class MirroredMatches:
    """See `bm25.Matches`: pks, int64 (n,), rising, and their scores, float64 (n,)."""

    pks: Integers
    scores: Floats
    held: _Held
    ceiling: float
    left_out: tuple[Term, ...] = ()

    def best(self, limit: int) -> list[tuple[int, float]]:
        """Return the `limit` best, best first, ties by pk."""
        return _best(self.pks, self.scores, limit)

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """Return the score of each of these passages; of one that holds no term, 0."""
        return _scores_of(self.pks, self.scores, pks)

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """See `bm25.Matches`."""
        return self.held.in_context(pks, share)


@dataclass(frozen=True, slots=True)
class SummedMatches:
    """See `bm25.Matches`: all passages of a part with their scores, 0 where no term stands.

    pks: int64 (n,), rising; scores: float64 (n,).
    """

    pks: Integers
    scores: Floats
    held: _Held
    ceiling: float
    left_out: tuple[Term, ...] = ()

    def best(self, limit: int) -> list[tuple[int, float]]:
        """Return the `limit` best, best first, ties by pk.

        What scores less than so many passages of one term is none of them: few are left to be sorted.
        """
        enough = [term.places for _, term in self.held.terms if len(term.places) >= limit]
        if enough:
            of_one = self.scores.take(min(enough, key=len))
            found = self.scores >= np.partition(of_one, len(of_one) - limit)[len(of_one) - limit]
        else:
            found = self.scores != 0
        kept = np.flatnonzero(found)
        return _best(self.pks[kept], self.scores[kept], limit)

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """Return the score of each of these passages; of one that holds no term, 0."""
        return _scores_of(self.pks, self.scores, pks)

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """See `bm25.Matches`."""
        return self.held.in_context(pks, share)


def _scores_of(pks: Integers, scores: Floats, wanted: Collection[int]) -> dict[int, float]:
    """Return the scores of passages among those that are known, by rising pks; of any other, 0."""
    asked = np.fromiter(wanted, np.int64, len(wanted))
    places, there = _places_in(pks, asked)
    found = np.zeros(len(asked))
    found[there] = scores[places]
    return dict(zip(asked.tolist(), found.tolist(), strict=True))


def _bytes(key: Key, kept: _Passages | _Standing) -> int:
    """Return the memory that an entry takes, with all that it refers to."""
    _, projects, term = key
    words = sum(4 * len(token) for token in term.tokens) if term else 0
    return ENTRY_BYTES + kept.bytes + 40 * len(projects or ()) + words


class TextMirror:
    """The parts and terms asked for last, within `max_bytes`. Safe to use from many threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._kept: OrderedDict[Key, _Passages | _Standing] = OrderedDict()
        self._used = 0
        self._counts: dict[Key, tuple[int, int]] = {}

    def matches(
        self, db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None = None
    ) -> MirroredMatches | SummedMatches | None:
        """Return what `text_index.matches` does without a mirror.

        None where the database must be asked instead: for a part whose passages take more than half of
        `max_bytes`, and for a snapshot older than the mirror.
        """
        passages = self._passages(db, where)
        if passages is None:
            return None
        found = self._found(db, where, passages, asked)
        ceiling = where.corpus.ceiling(asked.values(), [len(term.places) for _, term in found])
        held = _Held(where.corpus, passages, found)
        if allowed is None and _is_dense(passages, found):
            return SummedMatches(passages.pks, _summed(where.corpus, passages, found), held, ceiling)
        return MirroredMatches(*_scored(where.corpus, passages, found, allowed), held, ceiling)

    def scored(
        self, db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None = None
    ) -> tuple[list[tuple[int, float]], tuple[int, ...]] | None:
        """Return (pk, score) of all passages, and in how many each term stands; see `text_index.scored`, `matches`."""
        passages = self._passages(db, where)
        if passages is None:
            return None
        found = self._found(db, where, passages, asked)
        pks, scores = _scored(where.corpus, passages, found, allowed)
        return list(zip(pks.tolist(), scores.tolist(), strict=True)), tuple(len(term.places) for _, term in found)

    def _found(
        self, db: Connection, where: Part, passages: _Passages, asked: Mapping[Term, int]
    ) -> list[tuple[int, _Standing]]:
        found: list[tuple[int, _Standing]] = []
        for term, count in asked.items():
            standing, again = self._standing(db, where, passages, term)
            if again and standing.corpus != where.corpus:
                scores = _scores(where.corpus, passages, standing)
                standing = replace(standing, corpus=where.corpus, scores=scores)
                self._keep((where.source, where.projects, term), standing)
            found.append((count, standing))
        return found

    def frequency(self, db: Connection, where: Part, term: Term) -> int | None:
        """Return in how many passages a term stands, None where that has not been read."""
        key = (where.source, where.projects, term)
        version, count = self._counts.get(key, (None, 0))
        if version == where.version:
            return count
        kept = self._known(key)
        passages = self._passages(db, where) if kept else None
        if not isinstance(kept, _Standing) or passages is None or kept.beginning is not passages.beginning:
            return None
        return len(self._standing(db, where, passages, term)[0].places)

    def keep_frequency(self, where: Part, term: Term, count: int) -> None:
        """Keep in how many passages a term stands, for as long as they stay as they are.

        Of a term that is too common to be searched for, nothing else is kept, and to count it takes the engine long.
        """
        with self._lock:
            if len(self._counts) >= COUNTED:
                self._counts.clear()
            self._counts[where.source, where.projects, term] = where.version, count

    def used_bytes(self) -> int:
        """Return the memory that all entries take."""
        return self._used

    def _passages(self, db: Connection, where: Part) -> _Passages | None:
        """Return the passages as `db` sees them; None for those of a part too large, or of an unknown older state."""
        if where.corpus.passages * ROW_BYTES > self.max_bytes // 2:
            return None
        key = (where.source, where.projects, None)
        kept = self._known(key)
        if isinstance(kept, _Passages) and (found := kept.at(where.version)):
            return found
        # One at a time, so that what only grows grows in one way.
        with self._reading:
            kept = self._known(key)
            if not isinstance(kept, _Passages):
                fresh = _read_passages(db, where)
            elif where.version <= kept.version:
                return kept.at(where.version)
            else:
                fresh = _grown(db, where, kept) or _read_passages(db, where)
            self._keep(key, fresh)
        return fresh

    def _standing(self, db: Connection, where: Part, passages: _Passages, term: Term) -> tuple[_Standing, bool]:
        """Return where a term stands, and whether all of that was kept."""
        key, count = (where.source, where.projects, term), len(passages.pks)
        kept = self._known(key)
        if not isinstance(kept, _Standing) or kept.beginning is not passages.beginning:
            fresh = _read_term(db, where, passages, term, first=0)
        elif kept.looked_at < count:
            fresh = kept.followed_by(_read_term(db, where, passages, term, first=kept.looked_at))
        else:
            return kept.among(count), kept.looked_at == count
        self._keep(key, fresh)
        return fresh, False

    def _known(self, key: Key) -> _Passages | _Standing | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            return kept

    def _keep(self, key: Key, fresh: _Passages | _Standing) -> None:
        """Put in what was read, and what was not used for longest out."""
        size = _bytes(key, fresh)
        if size > self.max_bytes:
            return
        with self._lock:
            old = self._kept.get(key)
            if isinstance(old, _Standing) and isinstance(fresh, _Standing) and fresh.is_before(old):
                return  # another thread has read on meanwhile
            self._used += size - (_bytes(key, old) if old else 0)
            self._kept[key] = fresh
            self._kept.move_to_end(key)
            while self._used > self.max_bytes:
                self._used -= _bytes(*self._kept.popitem(last=False))


def _read_passages(db: Connection, where: Part) -> _Passages:
    pks, lengths = map(_integers, text_index.passages(db, where, 0))
    return _Passages(
        _Beginning(),
        ((where.version, len(pks)),),
        where.corpus.length,
        pks,
        lengths.astype(np.int32, copy=False),
        _table(pks),
        *_beside(pks, *map(_integers, text_index.in_order(db, where, 0))),
    )


def _beside(pks: Integers, in_order: Integers, files: Integers) -> tuple[Places, Places]:
    """Return `before` and `behind` of `_Passages`; in_order: passages as they stand in their files, and these."""
    places = np.full(len(in_order), -1, np.int32)
    found, there = _places_in(pks, in_order)
    places[there] = found
    before, behind = np.full(len(pks), -1, np.int32), np.full(len(pks), -1, np.int32)
    left, right = places[:-1], places[1:]
    joined = (files[:-1] == files[1:]) & (left >= 0) & (right >= 0)
    before[right[joined]], behind[left[joined]] = left[joined], right[joined]
    return before, behind


def _grown(db: Connection, where: Part, old: _Passages) -> _Passages | None:
    """Return the passages with those that came since; None where they are not all that has changed.

    Nothing was removed: that would have raised the version by more. So what there is now is what there
    was and what was put; and all of that has a higher pk where the lengths add up. What was put beside passages
    that were there changes these.
    """
    if where.version - old.version >= text_index.REMOVAL:
        return None
    last = int(old.pks[-1]) if len(old.pks) else 0
    more, lengths = map(_integers, text_index.passages(db, where, last))
    if where.corpus.length - old.length != int(lengths.sum()):
        return None
    in_order, files = map(_integers, text_index.in_order(db, where, last))
    if len(in_order) and in_order.min() <= last:
        return None
    beside = _beside(more, in_order, files)
    pks = np.concatenate([old.pks, more])
    return _Passages(
        old.beginning,
        (*old.states, (where.version, len(pks)))[-SNAPSHOTS:],
        where.corpus.length,
        pks,
        np.concatenate([old.lengths, lengths.astype(np.int32, copy=False)]),
        _table(pks, old.table, len(old.pks)),
        *(
            np.concatenate([known, np.where(places < 0, places, places + np.int32(len(old.pks)))])
            for known, places in zip((old.before, old.behind), beside, strict=True)
        ),
    )


def _table(pks: Integers, known: Places = NO_PLACES, tabulated: int = 0) -> Places:
    """Return the table of `_Passages`; known: that of the first `tabulated` pks, if they had one."""
    width = int(pks[-1] - pks[0]) + 1 if len(pks) else 0
    if width > SPREAD * len(pks):
        return NO_PLACES
    first = tabulated if len(known) else 0
    more = np.full(width - len(known), -1, np.int32)
    more[pks[first:] - pks[:1] - len(known)] = np.arange(first, len(pks), dtype=np.int32)
    return np.concatenate([known, more])


def _read_term(db: Connection, where: Part, passages: _Passages, term: Term, *, first: int) -> _Standing:
    """Read where a term stands among the passages from the `first` on."""
    after = int(passages.pks[first - 1]) if first else 0
    places = passages.places_of(_integers(text_index.standing(db, where, term, after)))
    frequent = text_index.frequent(db, where, term, after) if len(places) else ()
    times = _times(passages, places, [(step, pks) for step, pks in frequent if pks])
    return _standing(passages.beginning, len(passages.pks), places, times)


def _times(passages: _Passages, places: Places, frequent: Sequence[tuple[float, str]]) -> npt.NDArray[np.float16]:
    """Return how often a term stands at each of its places, float16 (n,).

    frequent: each frequency above 1, and the pks that have it, rising, joined by commas; others may be among them.
    """
    times = np.ones(len(places), np.float16)
    if not frequent:
        return times
    found = [passages.places_of(_integers(pks)) for _, pks in frequent]
    steps = np.repeat(np.array([step for step, _ in frequent], np.float16), [len(each) for each in found])
    repeated = np.concatenate(found)
    if len(passages.pks) <= SPARSE * len(repeated):
        of_all = np.ones(len(passages.pks), np.float16)
        of_all[repeated] = steps
        return of_all.take(places)
    inside, there = _places_in(places, repeated)
    times[inside] = steps[there]
    return times


def _integers(joined: str) -> Integers:
    """Return integers joined by commas."""
    return np.fromstring(joined, np.int64, sep=",") if joined else np.empty(0, np.int64)


def _places_in(pks: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return where what is wanted stands among integers that rise, without what is not there; and what is there."""
    places = np.searchsorted(pks, wanted)
    there = places < len(pks)
    there[there] = pks[places[there]] == wanted[there]
    return places[there], there


def _scores(corpus: Corpus, passages: _Passages, term: _Standing) -> Floats:
    """Return what a term adds to each passage's score, computed in the same order of steps as `bm25.scores`."""
    if term.corpus == corpus:
        return term.scores
    weight = corpus.weight(len(term.places)) * (K1 + 1)
    lengths = corpus.per_token * passages.lengths.take(term.places)
    scores = lengths + (1.0 + FLAT)
    np.divide(weight, scores, out=scores)
    if len(term.repeated):
        frequencies = term.frequencies.astype(np.float64)
        scores[term.repeated] = weight * frequencies / (frequencies + FLAT + lengths.take(term.repeated))
    return cast(Floats, scores)


def _asked_for(count: int, scores: Floats) -> Floats:
    return scores if count == 1 else count * scores


def _is_dense(passages: _Passages, found: Sequence[tuple[int, _Standing]]) -> bool:
    """Tell whether scores are best added up in one array for all passages."""
    return len(passages.pks) <= SPARSE * sum(len(term.places) for _, term in found)


def _scored(
    corpus: Corpus, passages: _Passages, found: Sequence[tuple[int, _Standing]], allowed: Collection[int] | None
) -> tuple[Integers, Floats]:
    """Return the passages in which a term stands, rising, and their scores, added in the order of the terms."""
    if _is_dense(passages, found):
        sums = _summed(corpus, passages, found)
        places = np.flatnonzero(sums != 0)  # of a mask it is quicker than of the sums
        scores = sums[places]
    else:
        places, place = np.unique(np.concatenate([term.places for _, term in found]), return_inverse=True)
        parts = np.concatenate([_asked_for(count, _scores(corpus, passages, term)) for count, term in found])
        scores = cast(Floats, np.bincount(place, parts))
    pks = passages.pks[places]
    if allowed is not None:
        inside = np.isin(pks, np.asarray(packed(allowed)))
        pks, scores = pks[inside], scores[inside]
    return pks, scores


def _summed(corpus: Corpus, passages: _Passages, found: Sequence[tuple[int, _Standing]]) -> Floats:
    """Return the score of every passage, float64 (n,), added in the order of the terms."""
    sums = np.zeros(len(passages.pks))
    for count, term in found:
        # No place comes twice, so that this adds what `sums[places] +=` does, in a third of the time.
        np.add.at(sums, term.places.astype(np.intp), _asked_for(count, _scores(corpus, passages, term)))
    return sums


def _best(pks: Integers, scores: Floats, limit: int) -> list[tuple[int, float]]:
    """Return the `limit` best of passages that are sorted by pk."""
    if len(pks) > limit:
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = np.flatnonzero(scores >= least)
        pks, scores = pks[kept], scores[kept]
    order = np.lexsort((pks, -scores))[:limit]
    return list(zip(pks[order].tolist(), scores[order].tolist(), strict=True))

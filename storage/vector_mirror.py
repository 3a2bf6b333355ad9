"""The signs of vectors, kept in memory by a long-lived process and scanned by popcount.

One matrix for each (model, project, source), a column a vector, so that a scan reads memory in
order: 48 MB for a million vectors of 384 values. What a search sees never changes under it: a
refresh appends behind what is in use and lists what is dead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from storage import changes, vectors
from storage.connection import Connection
from storage.kept_vectors import KeptVectors
from storage.sources import Source
from storage.vectors import Part, Rows, integers, packed

BLOCK = 65_536
"""Columns scanned at once: they fit the cache, and are enough to be worth leaving the GIL."""

MAX_BYTES = 512 * 2**20

LOOKED_AT_AGAIN = 10_000
"""Changes after which a part that did not fit is counted again: it may have shrunk."""

FAR = np.uint16(65_535)
"""The distance of what must not be found."""

Key = tuple[int, int, Source]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class State:
    """The mirror of one part as it was at entry `seq` of the change log.

    pks, embeddings: int64 (capacity,). columns: uint64 (words, capacity). The first `count` are in
    use, save those in `dead`; what lies behind belongs to later states. rising: whether the pks do.
    """

    seq: int
    count: int
    pks: Integers
    embeddings: Integers
    columns: npt.NDArray[np.uint64]
    dead: Integers
    rising: bool = True

    @property
    def bytes(self) -> int:
        """Memory the state holds."""
        return self.pks.nbytes + self.embeddings.nbytes + self.columns.nbytes + self.dead.nbytes


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    state: State | None = None
    too_large_until: int = 0
    """The change from which a part that did not fit is looked at again."""
    ahead: int | None = None
    """How many rows there were when their vectors were read ahead; None before the first search."""


class VectorMirror:
    """Mirrors of the parts searched last, within `max_bytes`. Safe to use from many threads.

    vectors: those that were compared with questions, or read ahead, which have their own room.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.vectors = KeptVectors()
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def nearest(self, db: Connection, part: Part, bits: bytes, wanted: int) -> Rows | None:
        """Return what `scan` finds nearest; None as there."""
        found = self.scan(db, part, bits)
        return None if found is None else found.nearest(wanted)

    def scan(self, db: Connection, part: Part, bits: bytes) -> Scan | None:
        """Hold the signs of a question against all of a part.

        None where the database must be asked instead: for a search over all projects, for a part
        larger than `max_bytes`, and for a snapshot older than the mirror.
        """
        if part.project is None:
            return None
        key = (part.model, part.project, part.source)
        state = self._fresh(db, key)
        if state is None:
            return None
        self._read_ahead(db, key, state)
        distances = _distances(state, bits) if state.count else np.empty(0, np.uint16)  # nor is its width known
        if part.allowed is None:
            return Scan(state, distances, state.count - len(state.dead))
        distances[~np.isin(state.pks[: state.count], np.asarray(packed(part.allowed)))] = FAR
        return Scan(state, distances, int(np.count_nonzero(distances != FAR)))

    def embeddings(self, db: Connection, part: Part, pks: Collection[int]) -> tuple[Integers, Integers] | None:
        """Return which of these passages have a vector, and the keys of these vectors; None as in `nearest`.

        None also where passages got another vector since the part was read.
        """
        state = None if part.project is None else self._fresh(db, (part.model, part.project, part.source))
        if state is None or not state.rising:
            return None
        wanted = np.fromiter(pks, np.int64, len(pks))
        places = np.searchsorted(state.pks[: state.count], wanted)
        there = places < state.count
        there[there] = (state.pks[places[there]] == wanted[there]) & ~np.isin(places[there], state.dead)
        return wanted[there], state.embeddings[places[there]]

    def used_bytes(self) -> int:
        """Return the memory all mirrors hold."""
        with self._lock:
            return sum(entry.state.bytes for entry in self._entries.values() if entry.state)

    def _fresh(self, db: Connection, key: Key) -> State | None:
        with self._lock:
            if key not in self._entries:
                self._let_go_of_other_models(key[0])
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            known = entry.state
            state = self._refreshed(db, key, entry)
        if state is not known:
            self._evict()
        return state

    def _refreshed(self, db: Connection, key: Key, entry: _Entry) -> State | None:
        """Bring the entry to the snapshot of `db`; None when it is ahead of that or too large."""
        old, seq = entry.state, changes.last_seq(db)
        if old is not None and old.seq >= seq:
            return old if old.seq == seq else None
        if seq < entry.too_large_until:
            return None
        new = _advanced(db, key, old, seq) if old else None
        if new is None:
            new = _read(db, key, seq, self.max_bytes)
        entry.state, entry.too_large_until = new, 0 if new else seq + LOOKED_AT_AGAIN
        return new

    def _read_ahead(self, db: Connection, key: Key, state: State) -> None:
        """Keep the vectors of a part that is searched again, and again once it has grown by more than an eighth.

        Else each search would read some hundred of them, until nearly all are there. A program that asks one question
        does not wait for them.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            before, entry.ahead = entry.ahead, entry.ahead or 0
            if before is None or state.count - before <= before // 8:
                return
            entry.ahead = state.count
        vectors.read_ahead(db, key[0], np.unique(state.embeddings[: state.count]), self.vectors)

    def _let_go_of_other_models(self, model: int) -> None:
        """Forget what was kept of a model that another one has replaced: it is searched no more."""
        for other in [key for key in self._entries if key[0] != model]:
            del self._entries[other]

    def _evict(self) -> None:
        with self._lock:
            sizes = [(key, entry.state.bytes) for key, entry in self._entries.items() if entry.state]
            used = sum(size for _, size in sizes)
            for key, size in sizes[:-1]:
                if used <= self.max_bytes:
                    break
                del self._entries[key]
                used -= size


@dataclass(frozen=True, slots=True)
class Scan:
    """How far the signs of a part are from those of a question: uint16 (count,), FAR for what must not be found.

    there: how many may be found.
    """

    state: State
    distances: npt.NDArray[np.uint16]
    there: int

    def nearest(self, wanted: int) -> Rows:
        """Return the `wanted` nearest rows, ties by pk, in no order; all of no more than `vectors.EXACT_BELOW`."""
        if self.there <= max(wanted, vectors.EXACT_BELOW):
            chosen = np.flatnonzero(self.distances != FAR)
        else:
            chosen = vectors.least(self.distances, self.state.pks, wanted)
        state = self.state
        signs = np.ascontiguousarray(state.columns[:, chosen].T).view(np.uint8)
        return Rows(state.pks[chosen], state.embeddings[chosen], signs.reshape(len(chosen), 8 * len(state.columns)))


def _read(db: Connection, key: Key, seq: int, max_bytes: int) -> State | None:
    """Read a part anew, in batches; None when it does not fit."""
    model, project, source = key
    count, width = db.all(
        "SELECT count(*), coalesce(max(length(bits)), 0) FROM vector_bits"
        " WHERE model = :model AND project = :project AND source = :source",
        model=model,
        project=project,
        source=source,
    )[0]
    capacity, words = count + max(1024, count // 8), (width + 7) // 8
    if capacity * 8 * (2 + words) > max_bytes:
        return None
    state = _empty(seq, capacity, words)
    last = 0
    while rows := db.all(
        "SELECT pk, embedding, bits FROM vector_bits WHERE model = :model AND project = :project"
        " AND source = :source AND pk > :last ORDER BY pk LIMIT :batch",
        model=model,
        project=project,
        source=source,
        last=last,
        batch=BLOCK,
    ):
        state = _appended(state, rows, seq)
        last = rows[-1][0]
    return state


def _empty(seq: int, capacity: int, words: int) -> State:
    return State(
        seq,
        0,
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int64),
        np.empty((words, capacity), np.uint64),
        np.empty(0, np.int64),
    )


def _advanced(db: Connection, key: Key, old: State, seq: int) -> State | None:
    """Return the state after the logged changes; None when reading anew is needed or cheaper."""
    model, project, source = key
    if not old.count:
        return None
    pks = changes.changed_vectors(db, model, project, source, since=old.seq)
    if pks is None:
        return None
    if not pks:
        return replace(old, seq=seq)
    rows = db.all(
        "SELECT pk, embedding, bits FROM vector_bits WHERE model = :model AND project = :project"
        " AND source = :source AND pk IN (SELECT value FROM carray(:pks)) ORDER BY pk",
        model=model,
        project=project,
        source=source,
        pks=integers(pks),
    )
    gone = np.flatnonzero(np.isin(old.pks[: old.count], np.fromiter(pks, np.int64, len(pks))))
    dead = np.union1d(old.dead, gone)
    if old.count + len(rows) > len(old.pks) or len(dead) > old.count // 4:
        return None
    return _appended(replace(old, dead=dead), rows, seq)


def _appended(state: State, rows: Sequence[tuple[int, int, bytes]], seq: int) -> State:
    """Write rows, by rising pks, behind those in use. Only the newest state of a matrix may be appended to."""
    end, rising = state.count + len(rows), state.rising
    if rows:
        rising = rising and (not state.count or bool(state.pks[state.count - 1] < rows[0][0]))
        state.pks[state.count : end] = [pk for pk, _, _ in rows]
        state.embeddings[state.count : end] = [embedding for _, embedding, _ in rows]
        state.columns[:, state.count : end] = _words([bits for _, _, bits in rows], len(state.columns)).T
    return replace(state, seq=seq, count=end, rising=rising)


def _words(bits: Sequence[bytes], words: int) -> npt.NDArray[np.uint64]:
    """Return packed signs as uint64 (n, words), filled up with zeros."""
    packed = b"".join(row.ljust(8 * words, b"\0") for row in bits)
    return np.frombuffer(packed, np.uint64).reshape(len(bits), words)


def _distances(state: State, bits: bytes) -> npt.NDArray[np.uint16]:
    """Return the Hamming distance of every column in use, uint16 (count,)."""
    query = _words([bits], len(state.columns))[0]
    distances = np.zeros(state.count, np.uint16)
    for start in range(0, state.count, BLOCK):
        block = slice(start, min(start + BLOCK, state.count))
        for word, column in zip(query, state.columns, strict=True):
            distances[block] += np.bitwise_count(column[block] ^ word)
    distances[state.dead] = FAR
    return distances

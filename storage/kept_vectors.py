"""Vectors that were compared, or are about to be, kept in memory by a long-lived process.

A vector never changes and its key is never given to another one, save by a restore, after which the process starts
anew. So no change of the database makes this stale, and a reader of an older snapshot may use it, too.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

MAX_BYTES = 128 * 2**20
"""Room for 175,000 vectors of 384 values; only what is used of it takes memory."""

Integers = npt.NDArray[np.int64]
Halves = npt.NDArray[np.uint16]


class KeptVectors:
    """The bits of float16 vectors by their keys, each at the place that its key has modulo the number of places.

    So the newest come to lie side by side, and what is put in takes the place of one older vector. Safe to use from
    many threads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._keys = np.zeros(0, np.int64)
        self._halves = np.empty((0, 0), np.uint16)
        self._taken = 0

    def lacking(self, keys: Integers, dim: int) -> Integers:
        """Return those of these keys whose vectors are not there."""
        with self._lock:
            self._fit(dim)
            return keys[self._keys[keys % len(self._keys)] != keys]

    def free(self, dim: int) -> int:
        """Return how many places are not taken yet."""
        with self._lock:
            self._fit(dim)
            return len(self._keys) - self._taken

    def find(self, keys: Integers, dim: int) -> tuple[Halves, npt.NDArray[np.bool_]]:
        """Return vectors, uint16 (n, dim), and which of them were there: the other rows mean nothing."""
        with self._lock:
            self._fit(dim)
            places = keys % len(self._keys)
            return self._halves.take(places, axis=0), self._keys[places] == keys

    def keep(self, keys: Integers, halves: Halves) -> None:
        """Put in what was read: vectors, uint16 (n, dim), by their keys."""
        with self._lock:
            self._fit(halves.shape[1])
            # Of two values at one place numpy does not promise which is kept: the last one is chosen, for both arrays.
            places, behind = np.unique(keys[::-1] % len(self._keys), return_index=True)
            kept = len(keys) - 1 - behind
            self._taken += int(np.count_nonzero(self._keys[places] == 0))
            self._keys[places], self._halves[places] = keys[kept], halves[kept]

    def _fit(self, dim: int) -> None:
        """Begin anew where another width is asked for: another model is live."""
        if self._halves.shape[1] != dim:
            places = max(1, self._max_bytes // (2 * dim))
            self._keys, self._halves = np.zeros(places, np.int64), np.empty((places, dim), np.uint16)
            self._taken = 0

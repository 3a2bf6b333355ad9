"""Order passages so that each says something new, and tell which say the same. Pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]

K = TypeVar("K", bound=Hashable)


def mmr(relevance: Floats, vectors: Floats, weight: float, count: int) -> list[tuple[int, float]]:
    """Return `count` passages, or all, by maximal marginal relevance: (place in what was given, penalty) each.

    relevance: shape (n,), higher is better. vectors: shape (n, dim), each of unit length; one of zeros is unlike all.
    weight: lambda, 0 (nothing but unlike passages) to 1 (nothing but relevant ones). The next passage is always the one
    with the highest weight * relevance - penalty, where the penalty is (1 - weight) times its highest cosine with one
    that was chosen before, at least 0. Ties go to what was given first.
    Raises ValueError for a weight that is not 0 to 1.
    Source: Carbonell and Goldstein, "The Use of MMR", SIGIR 1998.
    """
    import numpy as np

    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight}: give 0 to 1")
    vectors = vectors.astype(np.float64)
    likeness = np.zeros(len(relevance))
    left = np.ones(len(relevance), bool)
    chosen: list[tuple[int, float]] = []
    while len(chosen) < min(count, len(relevance)):
        penalties = (1 - weight) * likeness
        place = int(np.argmax(np.where(left, weight * relevance - penalties, -np.inf)))
        chosen.append((place, float(penalties[place])))
        left[place] = False
        # Row by row, so that equal vectors are equally alike wherever they stand (a BLAS product does not).
        likeness = np.fmax(likeness, (vectors * vectors[place]).sum(axis=1))
    return chosen


def distinct(keys: Iterable[K], text_of: Mapping[K, Hashable]) -> list[K]:
    """Return the first key of each text, in order; what has no text stands alone."""
    first: dict[Hashable, K] = {}
    return [key for key in keys if key not in text_of or first.setdefault(text_of[key], key) == key]

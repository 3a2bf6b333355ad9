"""Plain fusions of rankings, to hold the product's own against: by reciprocal ranks, and by min-max scores.

Pure functions; a key is anything with an order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.fuse import K, best_first

RRF_K = 60


def rrf(rankings: Sequence[Sequence[K]], *, k: int = RRF_K) -> list[tuple[K, float]]:
    """Merge rankings by reciprocal rank, best first, ties by key.

    rankings: one list a leg, best first; a list may be empty.
    The score is sum(1 / (k + rank)), rank from 1; unitless, higher is better.
    Raises ValueError if k < 0.
    Source: Cormack, Clarke and Buettcher, SIGIR 2009.
    """
    if k < 0:
        raise ValueError(f"k {k}: must not be negative")
    scores: dict[K, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (k + rank)
    return best_first(scores)


def convex(legs: Sequence[Sequence[tuple[K, float]]], weights: Sequence[float]) -> list[tuple[K, float]]:
    """Merge scored legs by the weighted mean of their min-max-normalised scores, best first, ties by key.

    legs: (key, score) each, higher is better, in any order; weights: one for each leg, not all zero.
    A key that a leg does not hold gets 0 there, as the last one it holds does. The result is 0 to 1.
    Raises ValueError where weights do not fit.
    Source: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023.
    """
    if len(weights) != len(legs) or min(weights, default=0) < 0 or (legs and sum(weights) <= 0):
        raise ValueError(f"weights {list(weights)}: give one for each of {len(legs)} legs, not negative, not all zero")
    scores: dict[K, float] = {}
    for leg, weight in zip(legs, weights, strict=True):
        for key, score in normalised(leg):
            scores[key] = scores.get(key, 0.0) + weight / sum(weights) * score
    return best_first(scores)


def normalised(leg: Sequence[tuple[K, float]]) -> list[tuple[K, float]]:
    """Stretch the scores of one leg to 0 (its worst) to 1 (its best); equal scores all become 1."""
    if not leg:
        return []
    low, high = min(score for _, score in leg), max(score for _, score in leg)
    return [(key, (score - low) / (high - low) if high > low else 1.0) for key, score in leg]

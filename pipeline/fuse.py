"""Merge what two legs say of the same candidates into one ranking. Pure functions; a key is anything with an order."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from math import fsum, sqrt
from operator import itemgetter
from statistics import StatisticsError, correlation, fmean
from typing import Protocol, Self, TypeVar

FLAT_TEXT = 0.02
"""Standard deviation of shares of the highest text score below which a leg tells nothing apart.

A passage that holds every word of the question once has a share of about 0.45: this is less than one word in twenty.
"""

FLAT_NEAR = 0.005
"""The same of cosines: what rounding does to them, 0.004 where a model runs in bf16."""

AGREEMENT = 0.2
"""Correlation of text scores and cosines from which the vectors are trusted in full."""

AGREEMENT_ELSEWHERE = 0.5
"""The same for questions in other scripts than Latin, which most models know less well: these must prove more."""

DOUBTFUL = 10
"""How many passages that agree are presumed, so that a few that do not prove nothing."""

UNKNOWN = 0.25
"""Share of a question's letters from which, where the model has no token for them, the vectors say nothing of it."""

FOUND = 0.25
"""Share of the highest text score from which the text counts as having found what was asked for."""


class _Sortable(Hashable, Protocol):
    def __lt__(self, other: Self, /) -> bool: ...


K = TypeVar("K", bound=_Sortable)


def balance(text: Mapping[K, float], near: Mapping[K, float], weight: float = 0.5) -> float:
    """Return the share a of the text, 0 to 1, at which both legs move the order of `mixed` as they should.

    That is where the standard deviation of a * text is to that of (1 - a) * near as weight to 1 - weight: a weighted
    sum of z-scores has the same order. A leg that scores all candidates nearly alike would be blown up by that, until
    the score is noise: the flatter it is, the less it has a say, down to none.
    Source: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, for scores scaled
    by what is possible and for z-scores; this is both.
    """
    return _balanced(_deviation(text.values()), _deviation(near.values()), weight)


def _balanced(of_text: float, of_near: float, weight: float) -> float:
    say = weight * _lift(of_text, FLAT_TEXT)
    other = (1 - weight) * _lift(of_near, FLAT_NEAR)
    return say / (say + other) if say + other else weight


def _lift(deviation: float, flat: float) -> float:
    """Return what makes a deviation 1; from `flat` down, less and less of that."""
    return deviation / max(deviation, flat) ** 2


def mixed(text: Mapping[K, float], near: Mapping[K, float], share: float) -> list[tuple[K, float]]:
    """Merge what two legs give the same keys: share * text + (1 - share) * near, best first, ties by key."""
    return best_first({key: share * score + (1 - share) * near[key] for key, score in text.items()})


def text_share(
    question: str,
    legs: Sequence[Collection[K]],
    text: Mapping[K, float],
    near: Mapping[K, float],
    weight: float = 0.5,
    known: float = 1.0,
) -> float:
    """Return the share of the text in hybrid scores, for `mixed`: as `balance` gives it for the `text_weight`.

    legs: what each leg found; text, near: scores of all of that, text as shares of the highest possible, near as
    cosines; weight: how much of the order comes from the text where the vectors are trusted, 0 to 1; known: the share
    of the question's letters that the model has tokens for.
    """
    of_text, of_near = _deviation(text.values()), _deviation(near.values())
    return _balanced(of_text, of_near, _trusting(legs, text, near, of_text, weight, agreement(question), known))


def agreement(question: str) -> float:
    """Return the correlation from which vectors are trusted for a question, by the script of most of its letters."""
    letters = [letter for letter in question if letter.isalpha()]
    latin = sum(letter < "\u0250" or "\u1e00" <= letter < "\u1f00" for letter in letters)
    return AGREEMENT if 2 * latin >= len(letters) else AGREEMENT_ELSEWHERE


def text_weight(
    legs: Sequence[Collection[K]],
    text: Mapping[K, float],
    near: Mapping[K, float],
    *,
    weight: float = 0.5,
    trusted_from: float = AGREEMENT,
    known: float = 1.0,
) -> float:
    """Return how much the text should move the order: `weight`, and more where the vectors seem not to understand.

    legs: what each leg found; text, near: the scores of all of that, text as shares of the highest possible;
    trusted_from: see `agreement`; known: the share of the question's letters that the model has tokens for.
    A model that knows the language finds passages with the question's words nearer than others: within what each leg
    found the scores of both go together, with a correlation of 0.3 to 0.7 on English collections and 0.0 on Thai
    ones, of which the default model knows nothing. That is held against the vectors as far as the text did find what
    was asked for, and tells passages apart: a question in another language than the passages has no such correlation,
    either, nor has a text whose scores are all alike.
    What the model has no tokens for it cannot read at all, so that there any word that was found says more.
    """
    return _trusting(legs, text, near, _deviation(text.values()), weight, trusted_from, known)


def _trusting(
    legs: Sequence[Collection[K]],
    text: Mapping[K, float],
    near: Mapping[K, float],
    deviation: float,
    weight: float,
    trusted_from: float,
    known: float,
) -> float:
    highest = max(text.values(), default=0.0)
    correlations = [trusted_from] * DOUBTFUL
    for leg in legs:
        both = _correlation([text[key] for key in leg], [near[key] for key in leg])
        correlations += [] if both is None else [both] * len(leg)
    doubt = 1 - min(max(fmean(correlations) / trusted_from, 0.0), 1.0)
    found = min(highest / FOUND, 1.0)
    varied = min(deviation / FLAT_TEXT, 1.0)
    unread = min((1 - known) / UNKNOWN, 1.0) if highest else 0.0
    return weight + (1 - weight) * max(doubt * found * varied, unread)


def _correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return Pearson's correlation, -1 to 1; None where there is nothing to compare, or one side does not vary."""
    try:
        return correlation(left, right)
    except StatisticsError:
        return None


def _deviation(values: Collection[float]) -> float:
    mean = fsum(values) / max(len(values), 1)
    return sqrt(fsum([(value - mean) ** 2 for value in values]) / max(len(values), 1))


def best_first(scores: dict[K, float]) -> list[tuple[K, float]]:
    """Return (key, score), best first, ties by key."""
    if len(set(scores.values())) == len(scores):  # then keys need not be compared, which takes longest
        return sorted(scores.items(), key=itemgetter(1), reverse=True)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

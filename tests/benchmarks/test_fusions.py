"""The plain fusions that the product's own is held against: their formulas, and what must hold for any legs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.fusions import convex, normalised, rrf

RANKINGS = st.lists(st.lists(st.integers(0, 20), unique=True, max_size=10), max_size=4)
LEG = st.dictionaries(st.integers(0, 20), st.floats(-1e6, 1e6), max_size=10).map(lambda leg: list(leg.items()))


def test_reciprocal_ranks_by_hand() -> None:
    assert rrf([[1, 2], [2, 3]], k=60) == [
        (2, pytest.approx(1 / 62 + 1 / 61)),
        (1, pytest.approx(1 / 61)),
        (3, pytest.approx(1 / 62)),
    ]


def test_convex_by_hand() -> None:
    text = [(1, 10.0), (2, 6.0), (3, 2.0)]
    near = [(3, 0.9), (4, 0.4)]
    assert convex([text, near], [0.25, 0.75]) == [
        (3, pytest.approx(0.75)),
        (1, pytest.approx(0.25)),
        (2, pytest.approx(0.125)),
        (4, 0.0),
    ]


def test_equal_scores_all_count_in_full() -> None:
    assert normalised([(1, 3.0), (2, 3.0)]) == [(1, 1.0), (2, 1.0)]
    assert normalised([]) == []


def test_ties_are_broken_by_the_key() -> None:
    assert [key for key, _ in rrf([[5], [3], [4]])] == [3, 4, 5]


@given(RANKINGS)
def test_rrf_returns_every_key_once_and_does_not_care_for_the_order_of_legs(rankings: list[list[int]]) -> None:
    merged = rrf(rankings)
    assert sorted(key for key, _ in merged) == sorted({key for ranking in rankings for key in ranking})
    assert [score for _, score in merged] == sorted((score for _, score in merged), reverse=True)
    assert dict(rrf(rankings[::-1])) == pytest.approx(dict(merged))


@given(LEG)
def test_one_leg_keeps_its_order(leg: list[tuple[int, float]]) -> None:
    best_first = sorted(leg, key=lambda item: (-item[1], item[0]))
    scores = [score for _, score in convex([best_first], [1.0])]
    assert scores == sorted(scores, reverse=True)
    assert sorted(key for key, _ in convex([leg], [1.0])) == sorted(key for key, _ in leg)


@given(LEG, LEG, st.floats(0.01, 0.99))
def test_convex_scores_lie_between_nought_and_one(
    text: list[tuple[int, float]], near: list[tuple[int, float]], weight: float
) -> None:
    assert all(-1e-9 <= score <= 1 + 1e-9 for _, score in convex([text, near], [weight, 1 - weight]))


@pytest.mark.parametrize("weights", [[], [1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        convex([[(1, 1.0)], [(2, 1.0)]], weights)


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(ValueError, match="k -1"):
        rrf([[1]], k=-1)

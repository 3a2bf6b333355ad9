"""Fusion: its two formulas, and what must hold for any legs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fuse import agreement, balance, convex, mixed, normalised, rrf, text_weight

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


BOTH = st.dictionaries(st.integers(0, 50), st.tuples(st.floats(0, 1), st.floats(-1, 1)), min_size=2, max_size=30)


def test_both_legs_spread_alike_whatever_their_scale() -> None:
    text, near = {1: 0.0, 2: 0.4, 3: 0.8}, {1: 0.52, 2: 0.51, 3: 0.50}
    share = balance(text, near)
    assert share == pytest.approx(1 / 41)  # the text spreads 40 times as far
    assert mixed(text, near, share)[0][1] == pytest.approx(mixed(text, near, share)[-1][1])
    assert balance(text, near, 0.75) == pytest.approx(3 / 43)


@pytest.mark.parametrize(
    ("text", "near", "share"), [((1, 1), (0, 1), 0.0), ((0, 1), (1, 1), 1.0), ((1, 1), (1, 1), 0.5)]
)
def test_a_leg_that_tells_nothing_apart_has_no_say(
    text: tuple[float, float], near: tuple[float, float], share: float
) -> None:
    assert balance(dict(enumerate(text)), dict(enumerate(near))) == share


@given(BOTH, st.floats(0.1, 0.9))
def test_the_order_is_that_of_weighted_z_scores(both: dict[int, tuple[float, float]], weight: float) -> None:
    text, near = ({key: pair[leg] for key, pair in both.items()} for leg in (0, 1))
    spreads = [np.std(list(leg.values())) for leg in (text, near)]
    if min(spreads) < 1e-3:
        return
    z = {key: weight * text[key] / spreads[0] + (1 - weight) * near[key] / spreads[1] for key in both}
    ranked = [z[key] for key, _ in mixed(text, near, balance(text, near, weight))]
    assert ranked == pytest.approx(sorted(ranked, reverse=True), abs=1e-6)
    assert all(-1 <= score <= 1 for _, score in mixed(text, near, balance(text, near, weight)))


def legs(text: list[float], near: list[float]) -> tuple[list[list[int]], dict[int, float], dict[int, float]]:
    """Return the same keys as found by both legs, with their scores."""
    return [list(range(len(text)))] * 2, dict(enumerate(text)), dict(enumerate(near))


def test_vectors_are_doubted_where_they_do_not_follow_a_text_that_found_something() -> None:
    chance = np.random.default_rng(1)
    rising = np.linspace(0.1, 0.9, 100).tolist()
    noise = chance.random(100).tolist()
    assert text_weight(*legs(rising, rising)) == 0.5
    assert text_weight(*legs(rising, noise)) > 0.75
    assert text_weight(*legs(rising, rising[::-1])) == 1.0
    assert text_weight(*legs([share / 40 for share in rising], noise)) < 0.6
    assert text_weight(*legs(rising[:3], noise[:3])) < 0.75


def test_nothing_to_compare_gives_the_weight_asked_for() -> None:
    assert text_weight([[], []], {}, {}, weight=0.4) == 0.4
    assert text_weight([[1], [1, 2]], {1: 0.0, 2: 0.0}, {1: 0.5, 2: 0.4}, weight=0.4) == 0.4


@pytest.mark.parametrize(
    ("question", "trusted_from"),
    [
        ("Wie heißt der Fluß?", 0.2),
        ("Đường nào dài nhất?", 0.2),
        ("梅雨はいつ始まる", 0.5),
        ("NATO को कब बनाया गया", 0.5),
        ("какая река длиннее", 0.5),
        ("", 0.2),
        ("3.14 = ?", 0.2),
    ],
)
def test_other_scripts_than_latin_must_agree_more(question: str, trusted_from: float) -> None:
    assert agreement(question) == trusted_from

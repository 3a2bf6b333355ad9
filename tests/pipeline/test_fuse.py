"""Fusion: how much each leg moves the order, and when vectors are trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fuse import FLAT_NEAR, FLAT_TEXT, agreement, balance, best_first, mixed, text_share, text_weight

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


@pytest.mark.parametrize("level", [0.001, 0.4])
def test_a_text_that_tells_next_to_nothing_apart_takes_neither_the_score_nor_the_order_away(level: float) -> None:
    text, near = {i: level + 0.0001 * (i % 3) for i in range(30)}, {i: 0.3 + 0.01 * i for i in range(30)}
    for noise in (text, {i: text[29 - i] for i in text}):
        ranked = mixed(noise, near, text_share("refunds", [text, near], noise, near))
        assert [key for key, _ in ranked] == sorted(near, reverse=True)
        assert [score for _, score in ranked] == pytest.approx(sorted(near.values(), reverse=True), abs=0.02)


def test_the_flatter_a_flat_leg_is_the_less_it_has_a_say() -> None:
    def says(deviation: float, flat: float) -> tuple[float, float]:
        leg, other = {1: 0.0, 2: 2 * flat * deviation}, {1: 0.2, 2: 0.0}
        return (balance(leg, other), 1 - balance(other, leg))[flat == FLAT_NEAR], deviation

    for flat in (FLAT_TEXT, FLAT_NEAR):
        found = [says(part / 100, flat) for part in range(101)]
        assert found == sorted(found)
        assert found[0][0] == 0
        assert found[1][0] < 0.2 < 0.8 < found[-1][0]


@given(BOTH, st.floats(0.1, 0.9))
def test_the_order_is_that_of_weighted_z_scores(both: dict[int, tuple[float, float]], weight: float) -> None:
    text, near = ({key: pair[leg] for key, pair in both.items()} for leg in (0, 1))
    spreads = [np.std(list(leg.values())) for leg in (text, near)]
    if spreads[0] < FLAT_TEXT or spreads[1] < FLAT_NEAR:
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


@pytest.mark.parametrize(("known", "weight"), [(1.0, 0.5), (0.875, 0.75), (0.75, 1.0), (0.0, 1.0)])
def test_vectors_count_less_the_less_the_model_can_read_of_the_question(known: float, weight: float) -> None:
    rising = np.linspace(0.1, 0.9, 100).tolist()
    assert text_weight(*legs(rising, rising), known=known) == weight
    low = [share / 40 for share in rising]
    assert text_weight(*legs(low, rising), known=known) == weight
    assert text_weight(*legs([0.0] * 100, rising), known=known) == 0.5  # the words found nothing


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


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), st.sampled_from([0.0, -0.0, 0.25, 0.5])))
def test_equal_scores_are_ordered_by_key(scores: dict[tuple[str, int], float]) -> None:
    assert best_first(scores) == sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@given(BOTH, st.floats(0.1, 0.9))
def test_the_share_of_the_text_is_the_balance_for_its_weight(
    both: dict[int, tuple[float, float]], weight: float
) -> None:
    text, near = ({key: pair[leg] for key, pair in both.items()} for leg in (0, 1))
    legs = [list(both)[:5], list(both)[3:]]
    expected = balance(text, near, text_weight(legs, text, near, weight=weight))
    assert text_share("refunds", legs, text, near, weight) == expected

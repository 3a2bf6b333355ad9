"""Measures of a ranking, computed by hand, and whether two systems differ by more than chance."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from pipeline.evaluate import holm, measures, ndcg, p_value, recall, reciprocal_rank

GRADES = {"best": 3.0, "good": 1.0, "bad": 0.0, "harmful": -1.0}


def test_gain_is_linear_and_discounted_by_the_place() -> None:
    best = 3 + 1 / log2(3)
    assert ndcg(["best", "good"], GRADES) == 1.0
    assert ndcg(["bad", "good", "best"], GRADES) == pytest.approx((1 / log2(3) + 3 / log2(4)) / best)
    assert ndcg(["bad", "unknown"], GRADES) == 0.0


def test_what_harms_counts_like_what_is_not_relevant() -> None:
    assert ndcg(["harmful", "best"], GRADES) == ndcg(["bad", "best"], GRADES)


def test_only_the_first_places_count() -> None:
    late = [*map(str, range(10)), "best"]
    assert (ndcg(late, GRADES), reciprocal_rank(late, GRADES), recall(late, GRADES, 10)) == (0.0, 0.0, 0.0)
    assert recall(late, GRADES, 100) == 0.5


def test_the_first_relevant_document_gives_the_reciprocal_rank() -> None:
    assert reciprocal_rank(["bad", "unknown", "good", "best"], GRADES) == pytest.approx(1 / 3)


def test_where_nothing_is_relevant_everything_is_nought() -> None:
    assert set(measures(["bad"], {"bad": 0.0}).values()) == {0.0}


def test_p_values_tell_a_difference_from_chance() -> None:
    chance = np.random.default_rng(1)
    noise, better = chance.normal(0, 1, 200), chance.normal(0.4, 1, 200)
    assert p_value({"one": noise}) > 0.05
    assert p_value({"one": better}) < 0.001
    assert p_value({"one": better, "two": -better}) > 0.9
    assert p_value({"one": np.zeros(9)}) == 1.0


def test_p_values_of_many_comparisons_are_adjusted() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])

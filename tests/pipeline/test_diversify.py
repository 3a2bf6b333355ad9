"""Relevance against novelty, and equal texts as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diversify import distinct, mmr

# Exact in binary, so that a plain reference ends in the same ties.
UNIT = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.5, 0.75), (0.75, 0.5), (-0.5, 0.75)]
PASSAGES = st.lists(st.tuples(st.integers(0, 16).map(lambda n: n / 16), st.sampled_from(UNIT)), max_size=12)
WEIGHTS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def arrays(passages: list[tuple[float, tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    relevance = np.array([score for score, _ in passages], np.float64)
    return relevance, np.array([vector for _, vector in passages], np.float32).reshape(-1, 2)


def plain(passages: list[tuple[float, tuple[float, float]]], weight: float, count: int) -> list[tuple[int, float]]:
    """The definition, word for word."""
    chosen: list[tuple[int, float]] = []
    while len(chosen) < min(count, len(passages)):
        values: dict[int, tuple[float, float]] = {}
        for place, (score, one) in enumerate(passages):
            if place in [done for done, _ in chosen]:
                continue
            likeness = [sum(a * b for a, b in zip(one, passages[done][1], strict=True)) for done, _ in chosen]
            penalty = (1 - weight) * max(0.0, *likeness, 0.0)
            values[place] = weight * score - penalty, penalty
        best = max(values, key=lambda place: (values[place][0], -place))
        chosen.append((best, values[best][1]))
    return chosen


@given(PASSAGES, WEIGHTS, st.integers(0, 15))
def test_passages_come_as_in_the_plain_definition(
    passages: list[tuple[float, tuple[float, float]]], weight: float, count: int
) -> None:
    assert mmr(*arrays(passages), weight, count) == plain(passages, weight, count)


@given(PASSAGES)
def test_nothing_but_relevance_gives_the_order_of_relevance(passages: list[tuple[float, tuple[float, float]]]) -> None:
    order = sorted(range(len(passages)), key=lambda place: (-passages[place][0], place))
    assert mmr(*arrays(passages), 1.0, len(passages)) == [(place, 0.0) for place in order]


def test_what_repeats_a_passage_above_comes_later() -> None:
    passages = [(1.0, (1.0, 0.0)), (0.9, (1.0, 0.0)), (0.7, (0.0, 1.0)), (0.6, (0.0, 0.0))]
    assert [place for place, _ in mmr(*arrays(passages), 0.7, 4)] == [0, 2, 3, 1]
    assert mmr(*arrays(passages), 0.7, 4)[3] == (1, pytest.approx(0.3))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="give 0 to 1"):
        mmr(*arrays([(1.0, (1.0, 0.0))]), weight, 1)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), unique_by=lambda item: item[0]),
    st.sets(st.integers(0, 30)),
)
def test_of_each_text_the_first_key_is_kept(pairs: list[tuple[int, int]], without: set[int]) -> None:
    texts = {key: text for key, text in pairs if key not in without}
    keys = [key for key, _ in pairs]
    kept = distinct(keys, texts)
    assert kept == [
        key for place, key in enumerate(keys) if key in without or texts[key] not in map(texts.get, keys[:place])
    ]

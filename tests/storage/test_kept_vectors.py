"""Vectors kept in memory: those that were put in, and no others."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage import vectors
from storage.kept_vectors import Halves, Integers, KeptVectors

DIM = 4


def halves(keys: Integers, dim: int = DIM) -> Halves:
    """Return a vector for each key, which tells the key."""
    return np.repeat(keys.astype(np.uint16)[:, None], dim, axis=1)


def look(kept: KeptVectors, keys: Integers, dim: int = DIM) -> list[int]:
    """Return which of these were there; they must be what was put in."""
    found, there = kept.find(keys, dim)
    assert found.shape == (len(keys), dim)
    assert (found[there] == halves(keys[there], dim)).all()
    return keys[there].tolist()


def test_what_was_put_in_is_found_until_another_takes_its_place() -> None:
    kept = KeptVectors(max_bytes=10 * 2 * DIM)
    assert look(kept, np.arange(1, 4)) == []
    kept.keep(np.arange(1, 9), halves(np.arange(1, 9)))
    assert look(kept, np.array([8, 3, 9, 3, 11])) == [8, 3, 3]
    kept.keep(np.array([13, 23, 33]), halves(np.array([13, 23, 33])))  # all at the place of 3
    assert look(kept, np.array([1, 3, 13, 23, 33])) == [1, 33]


def test_vectors_of_another_width_begin_anew() -> None:
    kept = KeptVectors(max_bytes=10 * 2 * DIM)
    kept.keep(np.arange(1, 4), halves(np.arange(1, 4)))
    assert look(kept, np.arange(1, 4), dim=2) == []
    kept.keep(np.arange(1, 4), halves(np.arange(1, 4), dim=2))
    assert look(kept, np.arange(1, 4), dim=2) == [1, 2, 3]


def test_one_that_does_not_fit_is_kept_alone() -> None:
    kept = KeptVectors(max_bytes=1)
    kept.keep(np.array([5]), halves(np.array([5])))
    assert look(kept, np.array([5, 6])) == [5]


def test_threads_never_see_the_vector_of_another_key() -> None:
    kept, failures = KeptVectors(max_bytes=10 * 2 * DIM), list[str]()

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(300):
            keys = random.integers(1, 40, 15)
            try:
                look(kept, keys)
            except AssertionError as error:
                failures.append(str(error))
            kept.keep(keys, halves(keys))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_every_float16_is_what_numpy_makes_of_it() -> None:
    bits = np.arange(2**16, dtype="<u2")
    expected = bits.view("<f2").astype(np.float32)
    assert vectors._floats(bits).tobytes() == expected.tobytes()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_the_least_are_chosen_by_pk_among_equals(values: list[int], data: st.DataObject) -> None:
    pks = data.draw(st.permutations(range(len(values))))
    count = data.draw(st.integers(1, len(values)))
    expected = sorted(range(len(values)), key=lambda place: (values[place], pks[place]))[:count]
    assert sorted(vectors.least(np.array(values), np.array(pks), count).tolist()) == sorted(expected)

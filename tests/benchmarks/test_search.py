"""The comparison of searches: what is searched is as it says, and who searches exactly finds what is nearest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.filters import random_vectors
from benchmarks.search import asked, passages
from benchmarks.search.__main__ import OWN, measure, report
from benchmarks.search.passages import WORDS_ASKED
from pipeline.collection import Collection, Document, Query

REAL, ALL = 60, 140


@pytest.fixture
def place(tmp_path: Path) -> Path:
    vectors = random_vectors(np.random.default_rng(5), REAL)
    texts = [f"harbour {number} has a tide of its own and a wall against the sea" for number in range(REAL)]
    passages.write(texts, vectors, ALL, tmp_path)
    near = vectors[:4].tolist()
    told = {"texts": [f"the tide of harbour {number}" for number in range(4)], "vectors": near}
    (tmp_path / "questions.json").write_text(json.dumps(told))
    return tmp_path


def test_made_passages_stand_behind_real_ones_and_are_near_them(place: Path) -> None:
    [(first, texts, vectors)] = asked.batches(place)
    assert (first, len(texts), vectors.shape) == (0, ALL, (ALL, 384))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(ALL), abs=1e-5)
    own = (vectors[REAL : 2 * REAL] * vectors[:REAL]).sum(axis=1)
    assert 0.7 < own.min() <= own.max() < 0.99
    assert [len(text.split()) for text in texts] == [len(texts[0].split())] * ALL
    assert set(texts[REAL:]) - set(texts[:REAL])


def test_fewer_than_there_are_are_the_first(tmp_path: Path) -> None:
    vectors = random_vectors(np.random.default_rng(5), REAL)
    passages.write([str(number) for number in range(REAL)], vectors, 7, tmp_path)
    [(_, texts, written)] = asked.batches(tmp_path)
    assert texts == [str(number) for number in range(7)]
    assert np.array_equal(written, vectors[:7])


def test_questions_are_of_the_collections_and_of_some_words(tmp_path: Path) -> None:
    class Embedder:
        def embed_query(self, text: str) -> np.ndarray:
            return np.full(2, len(text), np.float32)

    texts = ["tide", "how high is the tide today", "how high is the tide today", " ".join(["why"] * 13)]
    queries = [Query(str(number), text, {"d": 1.0}) for number, text in enumerate(texts)]
    passages.questions([Collection("c", [Document("d", "", "x")], queries)], Embedder(), 5, tmp_path)  # type: ignore[arg-type]
    told = json.loads((tmp_path / "questions.json").read_text())
    assert told == {"texts": ["how high is the tide today"], "vectors": [[26.0, 26.0]]}
    assert len(told["texts"][0].split()) in WORDS_ASKED


@pytest.mark.parametrize("name", OWN)
def test_who_searches_exactly_finds_what_is_nearest(place: Path, name: str) -> None:
    [(_, _, vectors)] = asked.batches(place)
    questions = np.array(json.loads((place / "questions.json").read_text())["vectors"], np.float32)
    nearest = np.argsort(-(vectors @ questions.T), axis=0)[:10].T.tolist()
    _, _, _, modes = measure(name, sys.executable, place, writer=False)
    for mode in {"vector", "vector alone"} & set(modes):
        assert [set(ids) for ids in modes[mode]["ids"]] == [set(ids) for ids in nearest]
        assert [len(ids) for ids in modes[mode]["wide"]] == 4 * [100]
    if name == "knowlex":
        assert {"hybrid", "text", "hybrid alone"} < set(modes)
        assert all(number in ids for number, ids in enumerate(modes["text"]["ids"]))


def test_recall_is_the_share_of_what_is_nearest() -> None:
    exact = {"ids": [[1, 2], [3, 4]], "wide": [[1, 2, 3], [3, 4, 5]]}
    told = {"ids": [[2, 9], [4, 3]], "wide": [[1, 2, 9], [3, 4, 5]], "ms": [1.0, 3.0], "cpu_ms": 2.0}
    assert report("x", "vector", told, exact, "").split() == ["x", "vector", "2.00", "2.90", "2.00", "0.750", "0.833"]
    assert report("x", "hybrid", told, exact, "").split()[-2:] == ["nan", "nan"]

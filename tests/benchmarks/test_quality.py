"""The table of retrieval quality: every system answers every question, by what it is said to compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_cross_encoder import small_cross_encoder

from benchmarks.quality.__main__ import OTHERS, OWN, against_own, line, measure, report
from benchmarks.quality.reference import Reference, words
from pipeline import collection, embed
from pipeline.embed import Embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return embed.load(embed.EmbedSettings())


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("The horses RAN to the café", ["hors", "ran", "café"]),
        ("ADR-016", ["adr", "016"]),
        ("NATO का मुख्यालय", ["nato", "का", "मुख्यालय"]),
        ("東京都", ["東京", "京都"]),
        ("雨", ["雨"]),
    ],
)
def test_words_are_stemmed_and_unspaced_scripts_cut_in_pairs(text: str, split: list[str]) -> None:
    assert words(text) == split


def test_every_system_answers_every_question(sample_data: Path, embedder: Embedder) -> None:
    judged = collection.read(sample_data / "judged")
    outcome = measure(judged, embedder, {})
    assert list(outcome) == [*OWN, *OTHERS]
    assert {len(scores) for scores in outcome.values()} == {len(judged.queries)}
    assert all(0.5 < scores.mean() <= 1 for scores in outcome.values())
    assert " p " in against_own(outcome)
    told = report({"judged": outcome})
    assert told.splitlines()[0] == line("mean", {name: scores.mean() for name, scores in outcome.items()}, "")
    assert "hybrid over convex" in told


def test_a_reranked_hybrid_stands_beside_its_legs(sample_data: Path, embedder: Embedder, tmp_path: Path) -> None:
    judged = collection.read(sample_data / "judged")
    model = small_cross_encoder(tmp_path / "model")
    outcome = measure(judged, embedder, {}, str(model))
    assert list(outcome) == [*OWN, "rerank", *OTHERS]
    assert len(outcome["rerank"]) == len(judged.queries)
    assert (outcome["rerank"] != outcome["hybrid"]).any()  # its weights are random


def test_a_reference_keeps_to_the_scope_of_a_question(sample_data: Path, embedder: Embedder) -> None:
    judged = collection.read(sample_data / "judged")
    [scoped] = [query for query in judged.queries if query.scope]
    for ranking in Reference(judged, embedder).rank(scoped).values():
        assert ranking
        assert all(scoped.may_find(document) for document in ranking)

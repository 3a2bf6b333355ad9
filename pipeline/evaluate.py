"""How good a ranking is, and whether one system is better than another by more than chance. Pure functions.

Gain is linear, as in trec_eval; only judged questions count, and what was not judged is not relevant.
Sources: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002; Smucker, Allan and
Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation", CIKM 2007.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.collection import Grades

Scores = npt.NDArray[np.float64]

MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr@10")

DRAWS = 10_000
"""How many random signs a p-value rests on: the smallest is 1 in 10,001."""

DRAWN = 500
"""Of these, at a time."""


def measures(ranking: Sequence[str], grades: Grades) -> dict[str, float]:
    """Return every measure of one ranking of documents, best first and none twice; each is 0 to 1."""
    return {
        "ndcg@10": ndcg(ranking, grades),
        "recall@10": recall(ranking, grades, 10),
        "recall@100": recall(ranking, grades, 100),
        "mrr@10": reciprocal_rank(ranking, grades),
    }


def ndcg(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Return the discounted gain of the first k, as a share of the best there can be; 0 where nothing is relevant."""
    best = _discounted(sorted(grades.values(), reverse=True)[:k])
    return _discounted([grades.get(document, 0) for document in ranking[:k]]) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return sum(max(gain, 0.0) / math.log2(place + 2) for place, gain in enumerate(gains))


def recall(ranking: Sequence[str], grades: Grades, k: int) -> float:
    """Return the share of the relevant documents that is in the first k; 0 where nothing is relevant."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Return 1 by the place of the first relevant document, from 1; 0 where none is in the first k."""
    places = (place for place, document in enumerate(ranking[:k], 1) if grades.get(document, 0) > 0)
    return 1 / next(places, math.inf)


def p_value(differences: Mapping[str, Scores]) -> float:
    """Return how often random signs give a mean of the collections' means as far from 0 as it is (two-sided).

    differences: of each question, by collection. A paired randomisation test, stratified by collection.
    """
    chance = np.random.default_rng(0)
    drawn = np.zeros(DRAWS)
    for each in differences.values():
        for first in range(0, DRAWS, DRAWN):  # as numbers, all signs at once would take 80 KB a question
            signs = chance.integers(0, 2, (DRAWN, len(each)), dtype=np.int8) * 2 - 1
            drawn[first : first + DRAWN] += signs @ each / len(each)
    observed = sum(float(each.mean()) for each in differences.values())
    extreme = np.abs(drawn) >= abs(observed) - 1e-12
    return (1 + int(extreme.sum())) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are. Source: Holm, 1979."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted

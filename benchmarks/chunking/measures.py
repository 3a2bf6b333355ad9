"""How good a ranking is, and whether one policy is better than another by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.chunking.ranking import Passage
from benchmarks.chunking.texts import Question
from benchmarks.text_leg import ndcg

BUDGET = 1_000
"""Tokens of passages that a reader is given."""
DRAWS = 10_000
"""How many random signs a p-value rests on."""

Scores = npt.NDArray[np.float64]


def judge(question: Question, ranking: Sequence[Passage]) -> dict[str, float]:
    """Return every measure of one ranking; those of passages only where the places of the answers are known."""
    texts = list(dict.fromkeys(passage.text_id for passage in ranking))
    relevant = {text for text, grade in question.grades.items() if grade > 0}
    found = {
        "ndcg@10": ndcg(texts, dict(question.grades)),
        "recall@10": len(relevant & set(texts[:10])) / max(1, len(relevant)),
    }
    if question.answers:
        found |= {
            "answer@1000": answer_recall(question, ranking, BUDGET),
            "answer@5": float(any(_touches(question, passage) for passage in ranking[:5])),
        }
    return found


def answer_recall(question: Question, ranking: Sequence[Passage], budget: int) -> float:
    """Return the share of the answers' characters in the first `budget` tokens of the ranked passages.

    The passage in which the budget ends counts by its first part, so that no size gains from dividing it well.
    """
    shown: list[tuple[str, int, int]] = []
    for passage in ranking:
        start, end = passage.piece.start, passage.piece.end
        shown.append((passage.text_id, start, start + (end - start) * min(budget, passage.tokens) // passage.tokens))
        budget -= passage.tokens
        if budget <= 0:
            break
    wanted = {(a.text, place) for a in question.answers for place in range(a.start, a.end)}
    seen = {(text, place) for text, start, end in shown for place in _inside(question, text, start, end)}
    return len(wanted & seen) / len(wanted)


def _inside(question: Question, text: str, start: int, end: int) -> set[int]:
    """Return the places of a range that lie in an answer."""
    answers = (answer for answer in question.answers if answer.text == text)
    return {place for a in answers for place in range(max(start, a.start), min(end, a.end))}


def _touches(question: Question, passage: Passage) -> bool:
    return bool(_inside(question, passage.text_id, passage.piece.start, passage.piece.end))


def p_value(differences: Mapping[str, Scores]) -> float:
    """Return how often random signs give a mean of the collections' means as far from 0 as it is (two-sided).

    differences: of each question, by collection. A paired randomisation test, stratified by collection.
    Source: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for IR Evaluation", 2007.
    """
    chance = np.random.default_rng(0)
    drawn = np.zeros(DRAWS)
    for each in differences.values():
        signs = chance.integers(0, 2, (DRAWS, len(each)), dtype=np.int8) * 2 - 1
        drawn += signs @ each / len(each)
    observed = sum(each.mean() for each in differences.values())
    extreme = np.abs(drawn) >= abs(observed) - 1e-12
    return (1 + int(extreme.sum())) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted

"""How good a ranking of passages is."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.chunking.ranking import Passage
from benchmarks.chunking.texts import Question
from pipeline.evaluate import ndcg, recall

BUDGET = 1_000
"""Tokens of passages that a reader is given."""


def judge(question: Question, ranking: Sequence[Passage]) -> dict[str, float]:
    """Return every measure of one ranking; those of passages only where the places of the answers are known."""
    texts = list(dict.fromkeys(passage.text_id for passage in ranking))
    found = {
        "ndcg@10": ndcg(texts, question.grades),
        "recall@10": recall(texts, question.grades, 10),
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

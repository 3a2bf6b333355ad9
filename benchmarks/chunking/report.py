"""The tables: what the chunks are like, and how well they are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.chunking.policies import Policy
from benchmarks.chunking.ranking import MODES, Passage
from benchmarks.chunking.texts import Collection
from pipeline.evaluate import Scores, holm, p_value

TINY = 32

Quality = dict[tuple[str, str, str], Scores]
"""Values of every question, in order, by collection, mode and measure."""


@dataclass(slots=True)
class Outcome:
    """What one policy did. passages, input_tokens: by collection; speed: MB a CPU-second."""

    policy: Policy
    passages: dict[str, list[Passage]] = field(default_factory=dict[str, list[Passage]])
    input_tokens: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    quality: Quality = field(default_factory=Quality)
    speed: float = 0.0


def measure_of(collection: Collection) -> str:
    """Return the measure that counts: of passages where answers are known, else of documents."""
    return "answer@1000" if collection.has_answers else "ndcg@10"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield row("---", *["---:"] * (len(cells) - 1))


def chunk_table(outcomes: Sequence[Outcome], collections: Sequence[Collection], limit: int) -> Iterator[str]:
    """Yield the lines about the chunks themselves. limit: tokens that the model takes."""
    yield from head(
        *("policy", "chunks", "tokens", "p10", "p90", f"under {TINY}", "over the limit", "answers cut"),
        *("MB/CPU-s", "speed"),
    )
    for outcome in outcomes:
        tokens = [passage.tokens for passages in outcome.passages.values() for passage in passages]
        inputs = [count for counts in outcome.input_tokens.values() for count in counts]
        low, high = np.percentile(tokens, [10, 90])
        yield row(
            *(outcome.policy.label, len(tokens), f"{np.mean(tokens):.0f}", f"{low:.0f}", f"{high:.0f}"),
            f"{np.mean([count < TINY for count in tokens]):.1%}",
            f"{np.mean([count > limit for count in inputs]):.1%}",
            f"{answers_cut(outcome, collections):.1%}",
            *(f"{outcome.speed:.2f}", f"{outcome.speed / outcomes[0].speed:.2f}x"),
        )


def answers_cut(outcome: Outcome, collections: Sequence[Collection]) -> float:
    """Return the share of answers that no passage holds whole."""
    cut: list[bool] = []
    for collection in collections:
        ranges: dict[str, list[tuple[int, int]]] = {}
        for passage in outcome.passages[collection.name]:
            ranges.setdefault(passage.text_id, []).append((passage.piece.start, passage.piece.end))
        for answer in {answer for question in collection.questions for answer in question.answers}:
            cut.append(not any(start <= answer.start and answer.end <= end for start, end in ranges[answer.text]))
    return float(np.mean(cut)) if cut else 0.0


def quality_table(
    outcomes: Sequence[Outcome], collections: Sequence[Collection], mode: str, measure: str | None = None
) -> Iterator[str]:
    """Yield a line a policy: the mean of every collection, their mean, its difference to the first policy, p.

    measure: of all collections; None for the one that counts in each. p is adjusted for the number of lines. A star
    marks what differs from the first policy on that collection alone (p < 0.05, not adjusted).
    """
    keys = [(each.name, mode, measure or measure_of(each)) for each in collections]
    yield from head("policy", *(f"{name} {measure}" for name, _, measure in keys), "mean", "difference", "p")
    differences = [_differences(outcome, outcomes[0], keys) for outcome in outcomes]
    p_values = [1.0, *holm([p_value(each) for each in differences[1:]])]
    for outcome, difference, p in zip(outcomes, differences, p_values, strict=True):
        gain = np.mean([each.mean() for each in difference.values()])
        yield row(
            outcome.policy.label,
            *(_cell(outcome.quality[key], difference[key[0]]) for key in keys),
            f"{np.mean([outcome.quality[key].mean() for key in keys]):.3f}",
            *("", "") if outcome is outcomes[0] else (f"{gain:+.3f}", f"{p:.4f}"),
        )


def _differences(outcome: Outcome, first: Outcome, keys: Sequence[tuple[str, str, str]]) -> dict[str, Scores]:
    return {key[0]: outcome.quality[key] - first.quality[key] for key in keys}


def _cell(values: Scores, difference: Scores) -> str:
    star = "*" if difference.any() and p_value({"": difference}) < 0.05 else ""
    return f"{values.mean():.3f}{star}"


def report(outcomes: Sequence[Outcome], collections: Sequence[Collection], limit: int) -> Iterator[str]:
    """Yield the whole report as Markdown."""
    yield "## Collections"
    yield from head("collection", "use", "texts", "characters", "questions")
    for each in collections:
        characters = sum(len(text.document.text) for text in each.texts)
        yield row(each.name, each.use, len(each.texts), characters, len(each.questions))
    yield "\n## Chunks"
    yield from chunk_table(outcomes, collections, limit)
    for use in ("choice", "check"):
        chosen = [collection for collection in collections if collection.use == use]
        if chosen:
            yield from _of_use(use, outcomes, chosen)


def _of_use(use: str, outcomes: Sequence[Outcome], chosen: Sequence[Collection]) -> Iterator[str]:
    for mode in MODES:
        yield f"\n## {use.capitalize()}: {mode}"
        yield from quality_table(outcomes, chosen, mode)
    yield f"\n## {use.capitalize()}: hybrid, documents"
    yield from quality_table(outcomes, chosen, "hybrid", "recall@10")
    judged = [collection for collection in chosen if collection.has_answers]
    if judged:
        yield f"\n## {use.capitalize()}: hybrid, a passage of the answer in the first 5"
        yield from quality_table(outcomes, judged, "hybrid", "answer@5")


def means(outcomes: Sequence[Outcome]) -> Mapping[str, Mapping[str, float]]:
    """Return every mean, by policy and by "collection | mode | measure"."""
    return {
        outcome.policy.label: {" | ".join(key): float(values.mean()) for key, values in outcome.quality.items()}
        for outcome in outcomes
    }

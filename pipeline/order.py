"""What the order of passages depends on besides the question: memories' weights, neighbours, a reranker, novelty."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, isfinite, prod, tanh
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pipeline.answer import Leg
from pipeline.legs import Found, Fused, Key, Question, Scale, ms_since
from storage import messages, passages, vectors
from storage.connection import Connection
from storage.errors import UsageError
from storage.passages import Passage
from storage.sources import Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Rerank = Callable[[str, Sequence[str]], Floats]

NEIGHBOUR_SHARE = 0.25
"""How much of the score of the messages right before and behind counts for one, in hybrid search."""

IMPORTANCE_SPAN = 0.2
"""How far apart the least and the most important memory are: a factor of 0.9 to 1.1."""

RECENCY_SPAN = 0.1
RECENCY_HALF_LIFE_DAYS = 30.0
"""A new memory counts in full, an old one 1 - RECENCY_SPAN; half of the way is lost in this time."""

HIGHEST = 1 + 2 * NEIGHBOUR_SHARE
"""What no passage fits better than: 1 by both legs, and as much by what stands before and behind a message."""

MMR_WEIGHT = 0.7
"""How much relevance counts against novelty with `mmr=True`."""

MMR_POOL = 1_000
"""How many passages, at most, are ordered by relevance and novelty; what is below stays in its order."""


class Ranked(NamedTuple):
    """A key with its score, that before anything moved it, and what did; a tuple, as a question makes hundreds."""

    key: Key
    score: float
    fused: float
    factors: Mapping[str, float] = MappingProxyType({})


def weighted(db: Connection, question: Question, fused: Fused, relevance: Callable[[Ranked], float]) -> list[Ranked]:
    """Multiply the scores of memories by their factors, add to messages what stands beside them, and sort anew.

    A score below 0 moves as far in the same direction, so that what matters more never counts for less.
    """
    beside = _in_conversation(db, fused, fused.scale) if fused.scale and Source.MESSAGE in question.sources else {}
    memories: Mapping[int, tuple[int, str]] = _memories(db, fused) if Source.MEMORY in question.sources else {}
    if not (beside or memories):
        return [Ranked(key, score, score) for key, score in fused.ranking]
    now = datetime.now(UTC)
    ranked = [_changed(key, score, beside, memories, now) for key, score in fused.ranking]
    return sorted(ranked, key=lambda item: -relevance(item))


def _memories(db: Connection, fused: Fused) -> Mapping[int, tuple[int, str]]:
    return passages.memory_weights(db, [pk for (source, pk), _ in fused.ranking if source is Source.MEMORY])


def _changed(
    key: Key,
    score: float,
    beside: Mapping[int, float],
    memories: Mapping[int, tuple[int, str]],
    now: datetime,
) -> Ranked:
    source, pk = key
    if source is Source.MESSAGE and pk in beside:
        return Ranked(key, score + beside[pk], score, {"neighbours": beside[pk]})
    if source is Source.MEMORY and pk in memories:
        factors = memory_factors(*memories[pk], now)
        return Ranked(key, score + abs(score) * (prod(factors.values()) - 1), score, factors)
    return Ranked(key, score, score)


def _in_conversation(db: Connection, fused: Fused, scale: Scale) -> dict[int, float]:
    """Return by message what its neighbours add to its score: a share of what they are above all first candidates.

    What answers a question is often said beside what sounds like it. Neighbours count that are first candidates.
    """
    found = [pk for (source, pk), _ in fused.ranking if source is Source.MESSAGE]
    above = {pk: score - scale.least for (source, pk), score in scale.first.items() if source is Source.MESSAGE}
    return {
        pk: NEIGHBOUR_SHARE * sum(above.get(other, 0.0) for other in beside)
        for pk, beside in messages.neighbours(db, found).items()
    }


def memory_factors(importance: int, updated_at: str, now: datetime) -> dict[str, float]:
    """Return what a memory's score is multiplied by: 0.9 to 1.1 for its importance, 1 to 0.9 for its age."""
    try:
        days = max(0.0, (now - datetime.fromisoformat(updated_at)).total_seconds() / 86_400)
    except (TypeError, ValueError):  # the disk or another program changed it: it counts as old
        days = inf
    return {
        "importance": 1 + IMPORTANCE_SPAN * ((importance - 1) / 9 - 0.5),
        "recency": 1 - RECENCY_SPAN * (1 - 0.5 ** (days / RECENCY_HALF_LIFE_DAYS)),
    }


def texts_to_rerank(db: Connection, question: Question, ranked: Sequence[Ranked]) -> dict[Key, str]:
    """Return what a reranker reads of passages."""
    loaded = loaded_passages(db, question, ranked)
    return {item.key: _read(loaded[item.key]) for item in ranked if item.key in loaded}


def rerank_scores(
    question: Question, texts: Sequence[str], rerank: Rerank, reason_of: Callable[[Exception], str] = str
) -> tuple[dict[str, float], Leg]:
    """Return what a reranker gives each text, and what the leg did; where it fails it says so, and there are none."""
    start = time.perf_counter()
    try:
        scores = rerank(question.query, texts).tolist()
        if not all(map(isfinite, scores)):
            raise ValueError("the model gave a score that is not finite")
        scored = dict(zip(texts, scores, strict=True))
    except Exception as error:  # whatever a model's libraries raise; it is told
        return {}, Leg(0, ms_since(start), f"the passages could not be reranked: {reason_of(error)}")
    return scored, Leg(len(texts), ms_since(start))


def by_reranker(ranked: list[Ranked], texts: Mapping[Key, str], scores: Mapping[str, float]) -> list[Ranked]:
    """Order the passages whose texts have a reranker's score by that, before all others, which stay in their order."""
    given = {key: scores[text] for key, text in texts.items() if text in scores}
    scored = [_with(item, rerank_score=given[item.key]) for item in ranked if item.key in given]
    scored.sort(key=lambda item: -item.factors["rerank_score"])
    return scored + [item for item in ranked if item.key not in given]


def _read(passage: Passage) -> str:
    """Return what a reranker reads of a passage: what the embedding model reads."""
    from pipeline.chunk import embedding_input

    return embedding_input(passage.heading, passage.text) if passage.source == Source.FILE else passage.text


def mmr_weight(mmr: float | bool) -> float | None:
    """Return the weight of relevance, or None where novelty does not count."""
    weight = {False: None, True: MMR_WEIGHT}[mmr] if isinstance(mmr, bool) else mmr
    if weight is not None and not (isinstance(weight, Real) and 0 <= weight <= 1):
        raise UsageError(f"mmr {weight!r}: give the weight of relevance, 0 to 1, or True for {MMR_WEIGHT}")
    return weight


def by_novelty(db: Connection, question: Question, text: Found, ranked: list[Ranked], weight: float) -> list[Ranked]:
    """Order the first passages, or those that were reranked, by relevance and novelty.

    What has no vector is unlike all others.
    """
    import numpy as np

    from pipeline.diversify import mmr

    first = sum("rerank_score" in item.factors for item in ranked) or MMR_POOL
    pool, rest = ranked[:first], ranked[first:]
    model = vectors.live_model(db)
    if model is None:
        return ranked
    relevance = np.array(_relevances(question, text, pool))
    matrix = np.zeros((len(pool), model.dim), np.float32)
    places = {item.key: place for place, item in enumerate(pool)}
    for source in question.sources:
        pks = [pk for of, pk in places if of == source]
        for pk, vector in vectors.of_passages(db, model, source, pks).items():
            matrix[places[source, pk]] = vector
    chosen = dict(mmr(relevance, matrix, weight, min(question.k, len(pool))))
    ordered = [_with(pool[place], mmr_penalty=penalty) for place, penalty in chosen.items()]
    # What was not chosen takes the place of what cannot be read.
    return ordered + [item for place, item in enumerate(pool) if place not in chosen] + rest


def _relevances(question: Question, text: Found, pool: Sequence[Ranked]) -> list[float]:
    """Return what can be held against cosines: a reranker's scores, logits as probabilities; else `relevance_of`."""
    if not all("rerank_score" in item.factors for item in pool):
        return [relevance_of(question, text, item) for item in pool]
    scores = [item.factors["rerank_score"] for item in pool]
    if all(0 <= score <= 1 for score in scores):
        return scores
    return [(1 + tanh(score / 2)) / 2 for score in scores]


def relevance_of(question: Question, text: Found, item: Ranked) -> float:
    """Return the score, of the text alone as a share of the highest that the question could have.

    1 is the highest possible, but for a memory's factors.
    """
    return text.share(item.key[0], item.score) if question.mode == "text" else item.score


def _with(item: Ranked, **factors: float) -> Ranked:
    return item._replace(factors={**item.factors, **factors})


class Loaded(NamedTuple):
    """The first passages that can be shown, best first; and the ids of those before them that cannot be read."""

    best: list[Ranked]
    passages: dict[Key, Passage]
    damaged: list[str]


def first_loaded(db: Connection, question: Question, ranked: Sequence[Ranked]) -> Loaded:
    """Load as many of the first passages as are asked for; what cannot be read makes room for the next."""
    loaded, place = Loaded([], {}, []), 0
    while more := ranked[place : place + question.k - len(loaded.best)]:
        place += len(more)
        found = loaded_passages(db, question, more)
        loaded.best.extend(item for item in more if item.key in found)
        loaded.passages.update(found)
        loaded.damaged.extend(_damaged(db, question, [item.key for item in more if item.key not in found]))
    return loaded


def _damaged(db: Connection, question: Question, keys: Sequence[Key]) -> list[str]:
    """Return the ids of what was not loaded although it is there."""
    return [
        id
        for source in {source for source, _ in keys}
        for id in passages.ids(db, source, [pk for of, pk in keys if of is source], project_pk=question.project_pk)
    ]


def loaded_passages(db: Connection, question: Question, best: Sequence[Ranked]) -> dict[Key, Passage]:
    """Return what was ranked as it is shown; what is of another project, or cannot be read, is not there."""
    return {
        (source, pk): passage
        for source in question.sources
        for pk, passage in passages.load(
            db, source, [item.key[1] for item in best if item.key[0] == source], project_pk=question.project_pk
        ).items()
    }

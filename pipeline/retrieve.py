"""From a question to the passages that answer it: two legs, fused, loaded, presented.

    embed the question; in one read transaction: text leg, vector leg, fuse, load; present

Text scores of different sources cannot be compared as they are: BM25 grows with the logarithm of
the number of rows. Where several sources are searched, each one's scores are divided by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import log, prod
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.fuse import convex
from storage import passages, text_index, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, ModelSwitchedError, UsageError
from storage.passages import NO_NEIGHBOURS, Passage
from storage.sources import Source
from storage.text_query import Syntax
from storage.tokenize import Highlighter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from storage.text_mirror import TextMirror
    from storage.vector_mirror import VectorMirror

    Floats = npt.NDArray[np.float32]
    Embed = Callable[[str], Floats]

Mode = Literal["hybrid", "text", "vector"]
Key = tuple[Source, int]
Ranking = list[tuple[Key, float]]

CANDIDATES = 100
"""Passages each leg brings of each source, unless more hits are asked for."""

TEXT_WEIGHT = 0.5

IMPORTANCE_SPAN = 0.2
"""How far apart the least and the most important memory are: a factor of 0.9 to 1.1."""

RECENCY_SPAN = 0.1
RECENCY_HALF_LIFE_DAYS = 30.0
"""A new memory counts in full, an old one 1 - RECENCY_SPAN; half of the way is lost in this time."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What one leg did: passages returned, milliseconds, and why it was degraded, if it was."""

    returned: int
    ms: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage that was found.

    score: hybrid 0 to 1, text BM25, vector cosine; of a memory, times its factors. Ranks count from 1
    in their leg; None where the leg did not find it.
    file is the base name, path the whole one, also: other paths with the same bytes; container: the path of the file
    on disk that it lies in, such as the mail that it is attached to, else None.
    text[repeated:] stands at char_start:char_end; the characters that precede it repeat the head of its table.
    before and after hold the neighbours that `window` asked for.
    why: each factor of the score, with explain.
    """

    rank: int
    score: float
    source: Source
    id: str
    file_id: str | None
    file: str | None
    path: str | None
    page_start: int | None
    page_end: int | None
    heading: str
    char_start: int
    char_end: int
    text: str
    snippet: str
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_score: float | None
    container: str | None = None
    also: tuple[str, ...] = ()
    repeated: int = 0
    before: str = ""
    after: str = ""
    tokens: int = 0
    why: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of a question, best first, and what each leg did."""

    query: str
    mode: Mode
    legs: Mapping[str, Leg]
    hits: list[Hit]
    took_ms: float
    embed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of what, and how."""

    query: str
    project_pk: int | None
    k: int
    mode: Mode
    sources: tuple[Source, ...]
    syntax: Syntax
    candidates: int
    allowed: Mapping[Source, Collection[int]]
    model_pk: int | None


def retrieve(
    database: Database,
    query: str,
    *,
    project_pk: int | None,
    k: int = 10,
    mode: Mode = "hybrid",
    sources: Sequence[Source] = (Source.FILE,),
    embed_query: Embed | None = None,
    model_pk: int | None = None,
    mirror: VectorMirror | None = None,
    text_mirror: TextMirror | None = None,
    syntax: Syntax = "plain",
    min_score: float | None = None,
    window: int = 0,
    max_tokens: int | None = None,
    explain: bool = False,
    candidates: int = CANDIDATES,
    allowed: Mapping[Source, Collection[int]] | None = None,
) -> Answer:
    """Return the passages that fit a question best.

    project_pk None: of all projects and of none, for callers that may see all.
    embed_query: question to unit vector, float32 (dim,). Where it is missing or fails, "hybrid" answers
    from the text alone and says so; "vector" raises.
    model_pk: of the model that `embed_query` is of, by its row in the database; None: of the live one, whichever it is.
    mirror, text_mirror: what a long-lived process keeps in memory; the answer is the same without.
    min_score: hits below are left out. window: chunks of text to show on either side of a chunk.
    max_tokens: what all hits with their neighbours may have; a hit that no longer fits is left out.
    allowed: by source, the pks that may be found, applied before ranking.
    Raises UsageError for a blank query, k < 1 and the like, ConfigurationError without an embedder,
    ModelSwitchedError where another model than `model_pk` is live by now: ask again with that.
    """
    start = time.perf_counter()
    chosen = tuple(dict.fromkeys(sources))
    question = Question(query, project_pk, k, mode, chosen, syntax, max(candidates, k), allowed or {}, model_pk)
    _check(question, window, max_tokens)
    vector, degraded = _embedded(question, embed_query)
    embedded = time.perf_counter()
    with database.read() as db:
        text = _text_leg(db, question, text_mirror)
        near = _vector_leg(db, question, vector, degraded, mirror)
        ranked = _weighted(db, _fused(question, text, near))
        best = [item for item in ranked if min_score is None or item.score >= min_score][:k]
        hits = list(_hits(db, question, best, text, near, window=window, explain=explain))
    hits = _within(hits, max_tokens)
    took_ms = _ms_since(start)
    return Answer(query, mode, {"text": text.leg, "vector": near.leg}, hits, took_ms, (embedded - start) * 1000)


def _check(question: Question, window: int, max_tokens: int | None) -> None:
    if not question.query.strip():
        raise UsageError("query: is blank; ask for something")
    if question.k < 1:
        raise UsageError(f"k {question.k}: ask for at least 1 hit")
    if question.mode not in get_args(Mode):
        raise UsageError(f"mode {question.mode!r}: is unknown; give one of {', '.join(get_args(Mode))}")
    if question.syntax not in get_args(Syntax):
        raise UsageError(f"syntax {question.syntax!r}: is unknown; give one of {', '.join(get_args(Syntax))}")
    if not question.sources:
        raise UsageError("sources: none given; name file, memory or message")
    if window < 0 or (max_tokens is not None and max_tokens < 1):
        raise UsageError(f"window {window}, max_tokens {max_tokens}: must not be negative, max_tokens not 0")


def _embedded(question: Question, embed_query: Embed | None) -> tuple[Floats | None, str | None]:
    """Return the question's vector, or None and why there is none; raise where it cannot do without."""
    if question.mode == "text":
        return None, None
    if embed_query is None:
        reason = "no embedding model is loaded"
    else:
        try:
            return embed_query(question.query), None
        except Exception as error:  # whatever a model's libraries raise; it is told, and raised where it matters
            if question.mode == "vector":
                raise
            reason = f"the question could not be embedded: {error}"
    if question.mode == "vector":
        raise ConfigurationError(f"mode vector: {reason}; use mode hybrid or text, or configure a model")
    return None, reason


@dataclass(frozen=True, slots=True)
class _Found:
    """What a leg found: (key, score) best first, as compared with other sources, and the scores as they were."""

    leg: Leg
    ranking: Ranking
    scores: dict[Key, float]

    @property
    def ranks(self) -> dict[Key, int]:
        """The place of each key in the leg, from 1."""
        return {key: rank for rank, (key, _) in enumerate(self.ranking, 1)}


def _text_leg(db: Connection, question: Question, mirror: TextMirror | None) -> _Found:
    if question.mode == "vector":
        return _Found(Leg(0, 0.0), [], {})
    start = time.perf_counter()
    scores: dict[Key, float] = {}
    compared: Ranking = []
    for source in question.sources:
        unit = log(1 + text_index.size(db, source)) if len(question.sources) > 1 else 1.0
        for pk, score in text_index.search(
            db,
            source,
            question.query,
            project_pk=question.project_pk,
            limit=question.candidates,
            syntax=question.syntax,
            allowed=question.allowed.get(source),
            mirror=mirror,
        ):
            scores[source, pk] = score
            compared.append(((source, pk), score / unit))
    return _found(start, compared, scores, None)


def _vector_leg(
    db: Connection, question: Question, vector: Floats | None, degraded: str | None, mirror: VectorMirror | None
) -> _Found:
    if vector is None:
        return _Found(Leg(0, 0.0, degraded), [], {})
    start = time.perf_counter()
    model = vectors.live_model(db)
    if model is None:
        return _Found(Leg(0, 0.0, "the database holds no vectors yet"), [], {})
    if question.model_pk not in (None, model.pk):
        raise ModelSwitchedError(f"{db.path}: {model.name} became live meanwhile; ask again")
    scores: dict[Key, float] = {
        (source, pk): score
        for source in question.sources
        for pk, score in vectors.search(
            db,
            model,
            vector,
            project_pk=question.project_pk,
            source=source,
            limit=question.candidates,
            allowed=question.allowed.get(source),
            mirror=mirror,
        )
    }
    return _found(start, list(scores.items()), scores, None)


def _found(start: float, compared: Ranking, scores: dict[Key, float], degraded: str | None) -> _Found:
    ranking = sorted(compared, key=lambda item: (-item[1], item[0]))
    return _Found(Leg(len(ranking), _ms_since(start), degraded), ranking, scores)


def _fused(question: Question, text: _Found, near: _Found) -> Ranking:
    """Return one ranking; a single leg keeps its own scores, unless hybrid scores were asked for."""
    if question.mode == "text":
        return [(key, text.scores[key]) for key, _ in text.ranking]
    if question.mode == "vector":
        return near.ranking
    if near.leg.degraded:
        return convex([text.ranking], [1.0])
    return convex([text.ranking, near.ranking], [TEXT_WEIGHT, 1 - TEXT_WEIGHT])


@dataclass(frozen=True, slots=True)
class _Ranked:
    key: Key
    score: float
    factors: Mapping[str, float]


def _weighted(db: Connection, fused: Ranking) -> list[_Ranked]:
    """Multiply the scores of memories by their factors and sort anew; other sources stay as they are."""
    memories = passages.memory_weights(db, [pk for (source, pk), _ in fused if source == Source.MEMORY])
    now = datetime.now(UTC)
    ranked: list[_Ranked] = []
    for key, score in fused:
        factors: dict[str, float] = {}
        if key[0] == Source.MEMORY and key[1] in memories:
            factors = memory_factors(*memories[key[1]], now)
        ranked.append(_Ranked(key, score * prod(factors.values()), {"fused": score, **factors}))
    return sorted(ranked, key=lambda item: -item.score) if memories else ranked


def memory_factors(importance: int, updated_at: str, now: datetime) -> dict[str, float]:
    """Return what a memory's score is multiplied by: 0.9 to 1.1 for its importance, 1 to 0.9 for its age."""
    days = max(0.0, (now - datetime.fromisoformat(updated_at)).total_seconds() / 86_400)
    return {
        "importance": 1 + IMPORTANCE_SPAN * ((importance - 1) / 9 - 0.5),
        "recency": 1 - RECENCY_SPAN * (1 - 0.5 ** (days / RECENCY_HALF_LIFE_DAYS)),
    }


def _hits(
    db: Connection,
    question: Question,
    best: Sequence[_Ranked],
    text: _Found,
    near: _Found,
    *,
    window: int,
    explain: bool,
) -> Iterator[Hit]:
    """Load what was found and yield it as hits."""
    loaded = _loaded(db, question, best)
    highlighter = Highlighter(question.query)
    text_ranks, vector_ranks = text.ranks, near.ranks
    shown = [item for item in best if item.key in loaded]
    for rank, item in enumerate(shown, 1):
        passage = loaded[item.key]
        around = passages.around(db, passage, window) if window and passage.file_pk else NO_NEIGHBOURS
        yield Hit(
            rank=rank,
            score=item.score,
            source=passage.source,
            id=passage.id,
            file_id=passage.file_id,
            file=passage.file,
            path=passage.path,
            page_start=passage.page_start,
            page_end=passage.page_end,
            heading=passage.heading,
            char_start=passage.char_start,
            char_end=passage.char_end,
            text=passage.text,
            snippet=highlighter.snippet(passage.text),
            text_rank=text_ranks.get(item.key),
            text_score=text.scores.get(item.key),
            vector_rank=vector_ranks.get(item.key),
            vector_score=near.scores.get(item.key),
            container=passage.container,
            also=passage.also,
            repeated=passage.repeated,
            before=around.before,
            after=around.after,
            tokens=passage.tokens + around.tokens,
            why=item.factors if explain else {},
        )


def _loaded(db: Connection, question: Question, best: Sequence[_Ranked]) -> dict[Key, Passage]:
    return {
        (source, pk): passage
        for source in question.sources
        for pk, passage in passages.load(
            db, source, [item.key[1] for item in best if item.key[0] == source], project_pk=question.project_pk
        ).items()
    }


def _within(hits: list[Hit], max_tokens: int | None) -> list[Hit]:
    """Leave out the hits that no longer fit, and number the rest anew."""
    if max_tokens is None:
        return hits
    kept: list[Hit] = []
    left = max_tokens
    for hit in hits:
        if hit.tokens <= left:
            kept.append(replace(hit, rank=len(kept) + 1))
            left -= hit.tokens
    return kept


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000

"""From a question to the passages that answer it: two legs, fused, loaded, presented.

    embed the question; in one read transaction: text leg, vector leg, fuse, load; present

Text scores of different sources cannot be compared as they are: BM25 grows with the logarithm of
the number of rows. Where several sources are searched, or the legs fused, each source's scores count
as shares of the highest that the question could have there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.fuse import mixed, text_share
from storage import messages, passages, text_index, vectors
from storage.bm25 import Matches
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

    from storage.filters import Filter
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
"""How much of the order of hybrid hits comes from the text, where the vectors are trusted; see `pipeline.fuse`."""

NEIGHBOUR_SHARE = 0.25
"""How much of the score of the messages right before and behind counts for one, in hybrid search."""

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

    score: text BM25, vector cosine, hybrid a weighted mean of the share of the highest BM25 possible and the cosine,
    at most 1; of a memory, times its factors; of a message, plus what stands beside it. Ranks count from 1
    in their leg; None where the leg did not find it.
    file is the base name, path the whole one, also: other paths with the same bytes; container: the path of the file
    on disk that it lies in, such as the mail that it is attached to, else None.
    text[repeated:] stands at char_start:char_end; the characters that precede it repeat the head of its table.
    before and after hold the neighbours that `window` asked for.
    why: what the score consists of, with explain: hybrid, `text` (share of the highest BM25), `vector` (cosine) and
    `text_weight`; `fused`, a memory's factors, and what a message's `neighbours` add.
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
    filter: Filter | None = None,
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
    filter: what must be true of a passage, applied before ranking; see `storage.filters`.
    allowed: instead of a filter, the pks that may be found, by source.
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
        question = _filtered(db, question, filter)
        text = _text_leg(db, question, text_mirror)
        near = _vector_leg(db, question, vector, degraded, mirror)
        ranked = _weighted(db, question, _fused(question, text, near))
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


def _filtered(db: Connection, question: Question, filter: Filter | None) -> Question:
    if filter is None:
        return question
    from storage import allowed

    project_pk = question.project_pk
    found = {source: allowed.pks(db, source, filter, project_pk=project_pk) for source in question.sources}
    return replace(question, allowed=found)


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


def _unknown(source: Source, pks: Collection[int]) -> Mapping[int, float]:
    return {}


def _as_it_is(source: Source, score: float) -> float:
    return score


@dataclass(frozen=True, slots=True)
class _Found:
    """What a leg found: its best keys, best first, with their scores; and how to ask it for the scores of others."""

    leg: Leg
    ranking: Ranking
    of: Callable[[Source, Collection[int]], Mapping[int, float]] = _unknown
    share: Callable[[Source, float], float] = _as_it_is

    @property
    def scores(self) -> dict[Key, float]:
        """The score of each key that was found."""
        return dict(self.ranking)

    @property
    def ranks(self) -> dict[Key, int]:
        """The place of each key in the leg, from 1."""
        return {key: rank for rank, (key, _) in enumerate(self.ranking, 1)}


def _text_leg(db: Connection, question: Question, mirror: TextMirror | None) -> _Found:
    if question.mode == "vector":
        return _Found(Leg(0, 0.0), [])
    start = time.perf_counter()
    matches = {source: _matches(db, question, source, mirror) for source in question.sources}

    def share(source: Source, score: float) -> float:
        return score / ceiling if (ceiling := matches[source].ceiling) else 0.0

    found = [((source, pk), score) for source in matches for pk, score in matches[source].best(question.candidates)]
    ranking = sorted(found, key=lambda item: (-share(item[0][0], item[1]), item[0]))
    return _Found(_leg(start, ranking), ranking, lambda source, pks: matches[source].of(pks), share)


def _matches(db: Connection, question: Question, source: Source, mirror: TextMirror | None) -> Matches:
    return text_index.matches(
        db,
        source,
        question.query,
        project_pk=question.project_pk,
        limit=question.candidates,
        syntax=question.syntax,
        allowed=question.allowed.get(source),
        mirror=mirror,
    )


def _vector_leg(
    db: Connection, question: Question, vector: Floats | None, degraded: str | None, mirror: VectorMirror | None
) -> _Found:
    if vector is None:
        return _Found(Leg(0, 0.0, degraded), [])
    start = time.perf_counter()
    model = vectors.live_model(db)
    if model is None:
        return _Found(Leg(0, 0.0, "the database holds no vectors yet"), [])
    if question.model_pk not in (None, model.pk):
        raise ModelSwitchedError(f"{db.path}: {model.name} became live meanwhile; ask again")
    found = [
        ((source, pk), score)
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
    ]
    ranking = sorted(found, key=lambda item: (-item[1], item[0]))
    return _Found(_leg(start, ranking), ranking, partial(vectors.cosines, db, model, vector))


def _leg(start: float, ranking: Ranking) -> Leg:
    return Leg(len(ranking), _ms_since(start))


@dataclass(frozen=True, slots=True)
class _Fused:
    """One ranking of what the legs found, and what each hybrid score consists of."""

    ranking: Ranking
    parts: Mapping[Key, Mapping[str, float]] = field(default_factory=dict[Key, Mapping[str, float]])


def _fused(question: Question, text: _Found, near: _Found) -> _Fused:
    """Return one ranking; a single leg keeps its own scores, unless hybrid scores were asked for.

    Each leg is asked for the scores of what only the other one found: to be missing among the best says too little.
    What has no vector yet counts as the average candidate does.
    """
    if question.mode == "text":
        return _Fused(text.ranking)
    if question.mode == "vector":
        return _Fused(near.ranking)
    candidates = dict.fromkeys([key for key, _ in (*text.ranking, *near.ranking)])
    words = _completed(text, candidates)
    shares = {key: text.share(key[0], words.get(key, 0.0)) for key in candidates}
    if near.leg.degraded:
        return _Fused(mixed(shares, shares, 1.0))
    known = _completed(near, candidates)
    usual = fmean(known.values()) if known else 0.0
    cosines = {key: known.get(key, usual) for key in candidates}
    legs = [[key for key, _ in leg.ranking] for leg in (text, near)]
    share = text_share(question.query, legs, shares, cosines, TEXT_WEIGHT)
    parts = {key: {"text": shares[key], "vector": cosines[key], "text_weight": share} for key in candidates}
    return _Fused(mixed(shares, cosines, share), parts)


def _in_conversation(db: Connection, fused: _Fused) -> dict[int, float]:
    """Return by message what its neighbours among the candidates add to its score: a share of what they are above all.

    What answers a question is often said beside what sounds like it.
    """
    scores = {pk: score for (source, pk), score in fused.ranking if source is Source.MESSAGE}
    least = fused.ranking[-1][1] if scores else 0.0
    return {
        pk: NEIGHBOUR_SHARE * sum(scores.get(other, least) - least for other in beside)
        for pk, beside in messages.neighbours(db, scores).items()
    }


def _completed(leg: _Found, candidates: Collection[Key]) -> dict[Key, float]:
    scores = leg.scores
    lacking: dict[Source, list[int]] = {}
    for source, pk in candidates:
        if (source, pk) not in scores:
            lacking.setdefault(source, []).append(pk)
    for source, pks in lacking.items():
        scores |= {(source, pk): score for pk, score in leg.of(source, pks).items()}
    return scores


@dataclass(frozen=True, slots=True)
class _Ranked:
    key: Key
    score: float
    factors: Mapping[str, float]


def _weighted(db: Connection, question: Question, fused: _Fused) -> list[_Ranked]:
    """Multiply the scores of memories by their factors, add to messages what stands beside them, and sort anew."""
    beside = _in_conversation(db, fused) if question.mode == "hybrid" else {}
    memories = passages.memory_weights(db, [pk for (source, pk), _ in fused.ranking if source is Source.MEMORY])
    if not (beside or memories):
        return [_Ranked(key, score, {**fused.parts.get(key, {}), "fused": score}) for key, score in fused.ranking]
    now = datetime.now(UTC)
    ranked = [_changed(key, score, fused.parts.get(key, {}), beside, memories, now) for key, score in fused.ranking]
    return sorted(ranked, key=lambda item: -item.score)


def _changed(
    key: Key,
    score: float,
    parts: Mapping[str, float],
    beside: Mapping[int, float],
    memories: Mapping[int, tuple[int, str]],
    now: datetime,
) -> _Ranked:
    source, pk = key
    why = {**parts, "fused": score}
    if source is Source.MESSAGE and pk in beside:
        return _Ranked(key, score + beside[pk], why | {"neighbours": beside[pk]})
    if source is Source.MEMORY and pk in memories:
        factors = memory_factors(*memories[pk], now)
        return _Ranked(key, score * prod(factors.values()), why | factors)
    return _Ranked(key, score, why)


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

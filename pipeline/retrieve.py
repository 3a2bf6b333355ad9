"""From a question to the passages that answer it: two legs, fused, loaded, presented.

    embed the question; in one read transaction: text leg, vector leg, fuse, load; present

Text scores of different sources cannot be compared as they are: BM25 grows with the logarithm of
the number of rows. Where several sources are searched, or the legs fused, each source's scores count
as shares of the highest that the question could have there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import isfinite, prod, tanh
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.fuse import mixed, text_share
from storage import chunks, messages, passages, text_index, vectors
from storage.bm25 import Matches
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, ModelSwitchedError, UsageError
from storage.passages import Passage
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
    Rerank = Callable[[str, Sequence[str]], Floats]

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

RERANKED = 50
"""How many passages, at most, a reranker reads; what is below stays in its order."""

MMR_WEIGHT = 0.7
"""How much relevance counts against novelty with `mmr=True`."""

MMR_POOL = 1_000
"""How many passages, at most, are ordered by relevance and novelty; what is below stays in its order."""

WIDEST = 100_000
"""From so many candidates on, no more are looked at for other texts than those that were found."""

HIGHEST = 1 + 2 * NEIGHBOUR_SHARE
"""What no passage fits better than: 1 by both legs, and as much by what stands before and behind a message."""

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
    at most 1; of a memory, times its factors; of a message, plus what stands beside it. Ranks count from 1 in their
    leg; None where the leg did not find it.
    file is the base name, path the whole one; also: other paths with the same bytes, and under `collapse` with the same
    text; container: the path of the file on disk that it lies in, such as the mail that it is attached to, else None.
    text[repeated:] stands at char_start:char_end; the characters that precede it repeat the head of its table.
    before and after hold the neighbours that `window` or `section` asked for; merged: ids of the passages that became
    part of this one, whose text, pages and offsets are those of all of them.
    on_disk: path, in bytes, of the file on disk that the passage is in.
    why: what the score consists of, with explain: hybrid, `text` (share of the highest BM25), `vector` (cosine) and
    `text_weight`; `fused`, a memory's factors, and what a message's `neighbours` add. And what moved the hit:
    `rerank_score`; `mmr_penalty`, taken off for its likeness to hits above.
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
    merged: tuple[str, ...] = ()
    on_disk: bytes | None = None

    @property
    def link(self) -> str | None:
        """A file: URL that opens the file on disk, a PDF at the page; None where there is none."""
        if self.on_disk is None:
            return None
        try:
            url = Path(os.fsdecode(self.on_disk)).as_uri()
        except ValueError:  # not the path of a file here: it is no whole one
            return None
        at_page = self.page_start is not None and self.container is None and self.on_disk.lower().endswith(b".pdf")
        return f"{url}#page={self.page_start}" if at_page else url


@dataclass(frozen=True, slots=True)
class Shape:
    """How hits are shown.

    window: passages of the file to show on either side. section: show those with the same headings, too. merge: show
    hits of one file that touch as one. max_tokens: what all hits may have together, each text counted as often as it
    is shown; a hit that does not fit with its window is left out, and sections get what the hits leave.
    """

    window: int = 0
    section: bool = False
    merge: bool = False
    max_tokens: int | None = None


PLAIN = Shape()


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
    collapse: bool = False,
    rerank: Rerank | None = None,
    reranked: int = RERANKED,
    mmr: float | bool = False,
    section: bool = False,
    merge: bool = False,
) -> Answer:
    """Return the passages that fit a question best.

    project_pk None: of all projects and of none, for callers that may see all.
    embed_query: question to unit vector, float32 (dim,). Where it is missing or fails, "hybrid" answers
    from the text alone and says so; "vector" raises.
    model_pk: of the model that `embed_query` is of, by its row in the database; None: of the live one, whichever it is.
    mirror, text_mirror: what a long-lived process keeps in memory; the answer is the same without.
    min_score: what fits less is left out, by the hits' scores, and in mode "text" by the share of the highest BM25 that
    the question could have; at most 1, or HIGHEST for memories and messages.
    window, section, merge, max_tokens: see `Shape`.
    filter: what must be true of a passage, applied before ranking; see `storage.filters`.
    allowed: instead of a filter, the pks that may be found, by source.
    collapse: show a text of files once, wherever it stands, and fill up with what comes below (see WIDEST).
    rerank: question and n texts to scores, shape (n,), higher is better; by these the first `reranked` passages are
    ordered. Where it fails the order stays, and the leg "rerank" says so.
    mmr: prefer what is unlike the hits above, see `pipeline.diversify.mmr`; True or the weight of relevance, 0 to 1.
    With either, scores stay as they are, and the order is no longer theirs.
    Raises UsageError for a blank query, k < 1 and the like, ConfigurationError without an embedder,
    ModelSwitchedError where another model than `model_pk` is live by now: ask again with that.
    """
    start = time.perf_counter()
    chosen = tuple(dict.fromkeys(sources))
    question = Question(query, project_pk, k, mode, chosen, syntax, max(candidates, k), allowed or {}, model_pk)
    _check(question, window, max_tokens)
    _check_least(min_score)
    shape = Shape(window, section, merge, max_tokens)
    weight = _mmr_weight(mmr)
    vector, degraded = _embedded(question, embed_query)
    embedded = time.perf_counter()
    with database.read() as db:
        question = _filtered(db, question, filter)

        def look(question: Question) -> _Seen:
            text = _text_leg(db, question, text_mirror)
            near = _vector_leg(db, question, vector, degraded, mirror)
            relevance = partial(_relevance, question, text)
            ranked = _weighted(db, question, _fused(question, text, near), relevance)
            best = [item for item in ranked if min_score is None or relevance(item) >= min_score]
            return _Seen(text, near, best, cut=len(best) < len(ranked))

        seen = _distinct(db, question, look) if collapse else look(question)
        text, near, ranked = seen.text, seen.near, seen.ranked
        legs = {"text": text.leg, "vector": near.leg}
        if rerank is not None:
            ranked, legs["rerank"] = _reranked(db, question, ranked, rerank, reranked)
        if weight is not None:
            ranked = _diverse(db, question, text, ranked, weight)
        hits = _hits(db, question, ranked[:k], text, near, explain=explain, shape=shape)
    took_ms = _ms_since(start)
    return Answer(query, mode, legs, hits, took_ms, (embedded - start) * 1000)


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


def _check_least(min_score: float | None) -> None:
    if min_score is not None and not min_score <= HIGHEST:
        raise UsageError(
            f"min_score {min_score}: scores end at 1, of memories and messages at {HIGHEST}, and in mode text the share"
            " of the highest possible counts; give less"
        )


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
    """A key with its score, and what that is made of; same: others with the same text."""

    key: Key
    score: float
    factors: Mapping[str, float]
    same: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at both legs brought; cut: whether something scored too little."""

    text: _Found
    near: _Found
    ranked: list[_Ranked]
    cut: bool

    def is_all(self, candidates: int) -> bool:
        """Tell whether more candidates than these would bring nothing more."""
        return self.cut or max(self.text.leg.returned, self.near.leg.returned) < candidates


def _weighted(
    db: Connection, question: Question, fused: _Fused, relevance: Callable[[_Ranked], float]
) -> list[_Ranked]:
    """Multiply the scores of memories by their factors, add to messages what stands beside them, and sort anew."""
    beside = _in_conversation(db, fused) if question.mode == "hybrid" else {}
    memories = passages.memory_weights(db, [pk for (source, pk), _ in fused.ranking if source is Source.MEMORY])
    if not (beside or memories):
        return [_Ranked(key, score, {**fused.parts.get(key, {}), "fused": score}) for key, score in fused.ranking]
    now = datetime.now(UTC)
    ranked = [_changed(key, score, fused.parts.get(key, {}), beside, memories, now) for key, score in fused.ranking]
    return sorted(ranked, key=lambda item: -relevance(item))


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


def _distinct(db: Connection, question: Question, look: Callable[[Question], _Seen]) -> _Seen:
    """Look until there are k different texts, or no more passages; keep the best of each text."""
    from pipeline.diversify import grouped

    while True:
        seen = look(question)
        hashes = chunks.content_hashes(db, [item.key[1] for item in seen.ranked if item.key[0] == Source.FILE])
        ranked = {item.key: item for item in seen.ranked}
        groups = grouped(ranked, {(Source.FILE, pk): digest for pk, digest in hashes.items()})
        if len(groups) >= question.k or seen.is_all(question.candidates) or question.candidates >= WIDEST:
            return replace(seen, ranked=[replace(ranked[key], same=tuple(same)) for key, same in groups.items()])
        question = replace(question, candidates=4 * question.candidates)


def _reranked(
    db: Connection, question: Question, ranked: list[_Ranked], rerank: Rerank, first: int
) -> tuple[list[_Ranked], Leg]:
    """Order the first passages by what a reranker gives them; where it fails, leave all as it is, and say so."""
    start = time.perf_counter()
    loaded = _loaded(db, question, ranked[:first])
    pool = [item for item in ranked[:first] if item.key in loaded]
    try:
        scores = rerank(question.query, [_read(loaded[item.key]) for item in pool]).tolist()
        if not all(map(isfinite, scores)):
            raise ValueError("the model gave a score that is not finite")
    except Exception as error:  # whatever a model's libraries raise; it is told
        return ranked, Leg(0, _ms_since(start), f"the passages could not be reranked: {error}")
    scored = [_with(item, rerank_score=score) for item, score in zip(pool, scores, strict=True)]
    scored.sort(key=lambda item: -item.factors["rerank_score"])
    return scored + ranked[first:], Leg(len(scored), _ms_since(start))


def _read(passage: Passage) -> str:
    """Return what a reranker reads of a passage: what the embedding model reads."""
    from pipeline.chunk import embedding_input

    return embedding_input(passage.heading, passage.text) if passage.source == Source.FILE else passage.text


def _mmr_weight(mmr: float | bool) -> float | None:
    """Return the weight of relevance, or None where novelty does not count."""
    weight = {False: None, True: MMR_WEIGHT}[mmr] if isinstance(mmr, bool) else mmr
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"mmr {weight}: give the weight of relevance, 0 to 1, or True for {MMR_WEIGHT}")
    return weight


def _diverse(db: Connection, question: Question, text: _Found, ranked: list[_Ranked], weight: float) -> list[_Ranked]:
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
    chosen = mmr(relevance, matrix, weight, min(question.k, len(pool)))
    ordered = [_with(pool[place], mmr_penalty=penalty) for place, penalty in chosen]
    return ordered + rest


def _relevances(question: Question, text: _Found, pool: Sequence[_Ranked]) -> list[float]:
    """Return what can be held against cosines: a reranker's scores, logits as probabilities; else `_relevance`."""
    if not all("rerank_score" in item.factors for item in pool):
        return [_relevance(question, text, item) for item in pool]
    scores = [item.factors["rerank_score"] for item in pool]
    if all(0 <= score <= 1 for score in scores):
        return scores
    return [(1 + tanh(score / 2)) / 2 for score in scores]


def _relevance(question: Question, text: _Found, item: _Ranked) -> float:
    """Return the score, of the text alone as a share of the highest that the question could have.

    1 is the highest possible, but for a memory's factors.
    """
    return text.share(item.key[0], item.score) if question.mode == "text" else item.score


def _with(item: _Ranked, **factors: float) -> _Ranked:
    return replace(item, factors={**item.factors, **factors})


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
    explain: bool,
    shape: Shape,
) -> list[Hit]:
    """Load what was found and return it as hits."""
    loaded = _loaded(db, question, best)
    places = _places(db, question, best)
    highlighter = Highlighter(question.query)
    text_ranks, vector_ranks = text.ranks, near.ranks
    text_scores, vector_scores = text.scores, near.scores
    shown = [item for item in best if item.key in loaded]
    hits: list[Hit] = []
    for rank, item in enumerate(shown, 1):
        passage = loaded[item.key]
        hit = Hit(
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
            text_score=text_scores.get(item.key),
            vector_rank=vector_ranks.get(item.key),
            vector_score=vector_scores.get(item.key),
            container=passage.container,
            also=_others(passage, places.get(item.key, ())),
            repeated=passage.repeated,
            tokens=passage.tokens,
            why=_explained(question, text, item) if explain else {},
            on_disk=passage.on_disk,
        )
        hits.append(hit)
    if shape == PLAIN:
        return hits
    return _shaped(db, [loaded[item.key] for item in shown], hits, highlighter, shape)


def _explained(question: Question, text: _Found, item: _Ranked) -> Mapping[str, float]:
    """Return what a score consists of; of the text alone, with what it is of the highest there could be."""
    if "vector" in item.factors or question.mode == "vector":
        return item.factors
    return {"text": _relevance(question, text, item), **item.factors}


def _shaped(
    db: Connection,
    found: Sequence[Passage],
    hits: Sequence[Hit],
    highlighter: Highlighter,
    shape: Shape,
) -> list[Hit]:
    """Return hits with what stands around them, as one where they touch, and within the budget, numbered anew."""
    from pipeline.expand import expanded

    shaped: list[Hit] = []
    for rank, shown in enumerate(expanded(found, shape, partial(passages.pieces, db)), 1):
        first, *others = (hits[place] for place in shown.places)
        hit = replace(
            first,
            rank=rank,
            text=shown.text,
            snippet=highlighter.snippet(shown.text) if others else first.snippet,
            repeated=shown.repeated,
            char_start=shown.char_start,
            char_end=shown.char_end,
            page_start=shown.page_start,
            page_end=shown.page_end,
            before=shown.before,
            after=shown.after,
            tokens=shown.tokens,
            also=tuple(dict.fromkeys(path for hit in (first, *others) for path in hit.also)),
            merged=tuple(hit.id for hit in others),
        )
        shaped.append(hit)
    return shaped


def _loaded(db: Connection, question: Question, best: Sequence[_Ranked]) -> dict[Key, Passage]:
    return {
        (source, pk): passage
        for source in question.sources
        for pk, passage in passages.load(
            db, source, [item.key[1] for item in best if item.key[0] == source], project_pk=question.project_pk
        ).items()
    }


def _places(db: Connection, question: Question, best: Sequence[_Ranked]) -> dict[Key, list[str | None]]:
    """Return the paths of the files that hold the same text."""
    pks = [pk for item in best for _, pk in item.same]
    loaded = passages.load(db, Source.FILE, pks, project_pk=question.project_pk)
    return {
        item.key: [path for _, pk in item.same if pk in loaded for path in (loaded[pk].path, *loaded[pk].also)]
        for item in best
    }


def _others(passage: Passage, paths: Sequence[str | None]) -> tuple[str, ...]:
    """Return the other paths of a passage: with the same bytes, then with the same text."""
    return tuple(dict.fromkeys(path for path in (*passage.also, *paths) if path not in (None, passage.path)))


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000

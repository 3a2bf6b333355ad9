"""From a question to the passages that answer it: two legs, fused, weighed, ordered, presented.

embed the question; in one read transaction: filter, both legs, fuse (`legs`), weigh and order (`order`), load, present
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

from pipeline.answer import PLAIN, Answer, Hit, Mode, Shape
from pipeline.legs import Found, Key, Question, fused, ms_since, text_leg, vector_leg
from pipeline.order import (
    HIGHEST,
    Ranked,
    by_novelty,
    by_reranker,
    loaded_passages,
    mmr_weight,
    relevance_of,
    texts_to_rerank,
    weighted,
)
from storage import chunks, passages
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, UsageError
from storage.passages import Passage
from storage.sources import Source
from storage.text_query import Syntax
from storage.tokenize import Highlighter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.order import Rerank
    from storage.filters import Filter
    from storage.text_mirror import TextMirror
    from storage.vector_mirror import VectorMirror

    Floats = npt.NDArray[np.float32]
    Embed = Callable[[str], Floats]

CANDIDATES = 100
"""Passages each leg brings of each source, unless more hits are asked for."""

RERANKED = 50
"""How many passages, at most, a reranker reads; what is below stays in its order."""

WIDEST = 100_000
"""From so many candidates on, no more are looked at for other texts than those that were found."""


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
    weight = mmr_weight(mmr)
    vector, degraded = _embedded(question, embed_query)
    embedded = time.perf_counter()

    def present(db: Connection, seen: _Seen, ranked: list[Ranked]) -> list[Hit]:
        if weight is not None:
            ranked = by_novelty(db, question, seen.text, ranked, weight)
        return _hits(db, question, ranked[:k], seen.text, seen.near, explain=explain, shape=shape)

    def look(db: Connection, question: Question) -> _Seen:
        text = text_leg(db, question, text_mirror)
        near = vector_leg(db, question, vector, degraded, mirror)
        relevance = partial(relevance_of, question, text)
        ranked = weighted(db, question, fused(question, text, near), relevance)
        best = [item for item in ranked if min_score is None or relevance(item) >= min_score]
        return _Seen(text, near, best, cut=len(best) < len(ranked))

    with database.read() as db:
        question = _filtered(db, question, filter)
        seen = _distinct(db, question, partial(look, db)) if collapse else look(db, question)
        legs = {"text": seen.text.leg, "vector": seen.near.leg}
        texts = texts_to_rerank(db, question, seen.ranked[:reranked]) if rerank else {}
        hits = [] if rerank else present(db, seen, seen.ranked)
    if rerank is not None:
        # Outside of the transaction, which would keep the log from being cut for as long as the model reads.
        ranked, legs["rerank"] = by_reranker(question, seen.ranked, texts, rerank)
        with database.read() as db:
            hits = present(db, seen, ranked)
    took_ms = ms_since(start)
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at both legs brought; cut: whether something scored too little."""

    text: Found
    near: Found
    ranked: list[Ranked]
    cut: bool

    def is_all(self, candidates: int) -> bool:
        """Tell whether more candidates than these would bring nothing more."""
        return self.cut or max(self.text.leg.returned, self.near.leg.returned) < candidates


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


def _hits(
    db: Connection,
    question: Question,
    best: Sequence[Ranked],
    text: Found,
    near: Found,
    *,
    explain: bool,
    shape: Shape,
) -> list[Hit]:
    """Load what was found and return it as hits."""
    loaded = loaded_passages(db, question, best)
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


def _explained(question: Question, text: Found, item: Ranked) -> Mapping[str, float]:
    """Return what a score consists of; of the text alone, with what it is of the highest there could be."""
    if "vector" in item.factors or question.mode == "vector":
        return item.factors
    return {"text": relevance_of(question, text, item), **item.factors}


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


def _places(db: Connection, question: Question, best: Sequence[Ranked]) -> dict[Key, list[str | None]]:
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

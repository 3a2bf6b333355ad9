"""From a question to the passages that answer it: two legs, fused, weighed, ordered, presented.

embed the question; in one read transaction: filter, both legs, fuse (`legs`), weigh and order (`order`), load, present
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, get_args

from pipeline.answer import PLAIN, Answer, Hit, Leg, Mode, Shape
from pipeline.left_out import too_long, too_low, unknown_keys
from pipeline.legs import Found, Fused, Key, Question, Scale, fused, ms_since, text_leg, vector_leg
from pipeline.order import (
    HIGHEST,
    Ranked,
    by_novelty,
    by_reranker,
    loaded_passages,
    mmr_weight,
    relevance_of,
    rerank_scores,
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

WIDEST_WINDOW = 10**7
"""Passages to show on either side, at most: as many as a file may have."""

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
    the question could have; at most HIGHEST, which only messages come near to.
    window, section, merge, max_tokens: see `Shape`.
    filter: what must be true of a passage, applied before ranking; see `storage.filters`.
    allowed: instead of a filter, the pks that may be found, by source.
    collapse: show a text of files once, wherever it stands, and fill up with what comes below (see WIDEST).
    rerank: question and n texts to scores, shape (n,), higher is better; by these the first `reranked` passages are
    ordered, as far as they are still found then with the same text. Where it fails the order stays, and the leg
    "rerank" says so.
    mmr: prefer what is unlike the hits above, see `pipeline.diversify.mmr`; True or the weight of relevance, 0 to 1.
    With either, scores stay as they are, and the order is no longer theirs.
    Raises UsageError for a blank query, k < 1 and the like, ConfigurationError without an embedder,
    ModelSwitchedError where another model than `model_pk` is live by now: ask again with that.
    """
    start = time.perf_counter()
    chosen = tuple(dict.fromkeys(sources))
    k = _whole("k", k, least=1)
    question = Question(query, project_pk, k, mode, chosen, syntax, candidates, allowed or {}, model_pk)
    _check(question)
    _check_least(min_score)
    shape = Shape(
        _whole("window", window, least=0, most=WIDEST_WINDOW),
        section,
        merge,
        None if max_tokens is None else _whole("max_tokens", max_tokens, least=1),
    )
    weight = mmr_weight(mmr)
    vector, degraded = _embedded(question, embed_query)
    embedded = time.perf_counter()

    def look(db: Connection, question: Question, scale: Scale | None) -> _Seen:
        text = text_leg(db, question, text_mirror)
        near = vector_leg(db, question, vector, degraded, mirror)
        relevance = partial(relevance_of, question, text)
        both = fused(question, text, near, scale)
        ranked = weighted(db, question, both, relevance)
        if min_score is None:
            return _Seen(text, near, both, ranked)
        above = [item for item in ranked if relevance(item) >= min_score]
        return _Seen(text, near, both, above, max(map(relevance, ranked), default=None))

    def why_nothing(db: Connection, seen: _Seen) -> Iterator[str]:
        if seen.ranked and shape.max_tokens is not None:
            found = loaded_passages(db, question, seen.ranked[:k]).values()
            yield too_long([passage.tokens for passage in found], shape.max_tokens)
        elif seen.best is not None and min_score is not None:
            yield too_low(seen.best, min_score)
        elif filter is not None and Source.FILE in chosen:
            yield from unknown_keys(db, filter, project_pk)

    def search(db: Connection) -> _Seen:
        filtered = _filtered(db, question, filter)
        return _looked(db, filtered, partial(look, db), collapse=collapse)

    def present(db: Connection, seen: _Seen, ranked: list[Ranked]) -> list[Hit]:
        if weight is not None:
            ranked = by_novelty(db, question, seen.text, ranked, weight)
        return _hits(db, question, ranked[:k], seen, explain=explain, shape=shape, collapse=collapse)

    with database.read() as db:
        seen = search(db)
        texts = texts_to_rerank(db, question, seen.ranked[:reranked]) if rerank else {}
        hits = [] if rerank else present(db, seen, seen.ranked)
        notes = () if hits or rerank else tuple(why_nothing(db, seen))
    reranking: dict[str, Leg] = {}
    if rerank is not None:
        # Outside of the transaction, which would keep the log from being cut for as long as the model reads.
        scores, reranking["rerank"] = rerank_scores(question, list(texts.values()), rerank)
        with database.read() as db:
            # Searched anew: what was changed meanwhile is what is there now, and passes the filter now.
            seen = search(db)
            texts = texts_to_rerank(db, question, seen.ranked[:reranked])
            hits = present(db, seen, by_reranker(seen.ranked, texts, scores))
            notes = () if hits else tuple(why_nothing(db, seen))
    legs = {"text": seen.text.leg, "vector": seen.near.leg, **reranking}
    return Answer(query, mode, legs, hits, ms_since(start), (embedded - start) * 1000, notes)


def _whole(name: str, given: object, *, least: int, most: int | None = None) -> int:
    """Return a whole number of any type, numpy's too, as an int; raise UsageError for what is none or out of bounds."""
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise UsageError(f"{name} {given!r}: is no whole number; give one from {least} on")
    number = int(given)
    if number < least or (most is not None and number > most):
        raise UsageError(f"{name} {number}: give {least}{' or more' if most is None else f' to {most}'}")
    return number


def _check(question: Question) -> None:
    if not isinstance(question.query, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"query {question.query!r}: is no text; ask for something")
    if not question.query.strip():
        raise UsageError("query: is blank; ask for something")
    if question.mode not in get_args(Mode):
        raise UsageError(f"mode {question.mode!r}: is unknown; give one of {', '.join(get_args(Mode))}")
    if question.syntax not in get_args(Syntax):
        raise UsageError(f"syntax {question.syntax!r}: is unknown; give one of {', '.join(get_args(Syntax))}")
    if not question.sources:
        raise UsageError("sources: none given; name file, memory or message")


def _filtered(db: Connection, question: Question, filter: Filter | None) -> Question:
    if filter is None:
        return question
    from storage import allowed

    project_pk = question.project_pk
    found = {source: allowed.pks(db, source, filter, project_pk=project_pk) for source in question.sources}
    return replace(question, allowed=found)


def _check_least(min_score: object) -> None:
    if min_score is None:
        return
    if isinstance(min_score, bool) or not isinstance(min_score, Real):
        raise UsageError(f"min_score {min_score!r}: is no number; give one, or None for all hits")
    if not float(min_score) <= HIGHEST:
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
    """What a look at both legs brought; best: where a least score is asked for, the best of all."""

    text: Found
    near: Found
    fused: Fused
    ranked: list[Ranked]
    best: float | None = None


def _looked(
    db: Connection, question: Question, look: Callable[[Question, Scale | None], _Seen], *, collapse: bool
) -> _Seen:
    """Look at the first candidates, by which hybrid scores are made, and further where more are asked for."""
    first = max(question.candidates, question.k) if question.mode != "hybrid" else question.candidates
    question = replace(question, candidates=first)
    seen = look(question, None)
    if question.k > first:
        question = replace(question, candidates=question.k)
        seen = look(question, seen.fused.scale)
    return _distinct(db, question, seen, look) if collapse else seen


def _distinct(
    db: Connection, question: Question, seen: _Seen, look: Callable[[Question, Scale | None], _Seen]
) -> _Seen:
    """Look until each leg has brought k different texts of each source, or all; keep the best of each text."""
    from pipeline.diversify import distinct

    while True:
        found = [key for leg in (seen.text, seen.near) for key, _ in leg.ranking]
        hashes = chunks.content_hashes(db, [pk for source, pk in found if source == Source.FILE])
        text_of: dict[Key, bytes] = {(Source.FILE, pk): digest for pk, digest in hashes.items()}
        if question.candidates >= WIDEST or all(_enough(question, leg, text_of) for leg in (seen.text, seen.near)):
            ranked = {item.key: item for item in seen.ranked}
            return replace(seen, ranked=[ranked[key] for key in distinct(ranked, text_of)])
        question = replace(question, candidates=4 * question.candidates)
        seen = look(question, seen.fused.scale)


def _enough(question: Question, leg: Found, text_of: Mapping[Key, bytes]) -> bool:
    """Tell whether a leg has brought k different texts of each source, or all there are."""
    brought = {source: [key for key, _ in leg.ranking if key[0] == source] for source in question.sources}
    return all(
        len(keys) < question.candidates or len({text_of.get(key, key) for key in keys}) >= question.k
        for keys in brought.values()
    )


def _hits(
    db: Connection,
    question: Question,
    best: Sequence[Ranked],
    seen: _Seen,
    *,
    explain: bool,
    shape: Shape,
    collapse: bool,
) -> list[Hit]:
    """Load what was found and return it as hits."""
    loaded = loaded_passages(db, question, best)
    places = partial(passages.places, db, project_pk=question.project_pk) if collapse else _own_places
    highlighter = Highlighter(question.query, syntax=question.syntax)
    text_ranks, vector_ranks = seen.text.ranks, seen.near.ranks
    text_scores, vector_scores = seen.text.scores, seen.near.scores
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
            also=_others(passage, places(passage)),
            repeated=passage.repeated,
            tokens=passage.tokens,
            why=_explained(question, seen, item) if explain else {},
            on_disk=passage.on_disk,
        )
        hits.append(hit)
    if shape == PLAIN:
        return hits
    return _shaped(db, [loaded[item.key] for item in shown], hits, highlighter, shape)


def _explained(question: Question, seen: _Seen, item: Ranked) -> Mapping[str, float]:
    """Return what a score consists of; of the text alone, with the share of the highest BM25 there could be."""
    parts = seen.fused.parts(item.key)
    if not parts and question.mode != "vector":
        text = seen.text.share(item.key[0], item.fused) if question.mode == "text" else item.fused
        parts = {"text": text}
    return {**parts, "fused": item.fused, **item.factors}


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


def _own_places(passage: Passage) -> list[str | None]:
    return []


def _others(passage: Passage, paths: Sequence[str | None]) -> tuple[str, ...]:
    """Return the other paths of a passage: with the same bytes, then with the same text."""
    return tuple(dict.fromkeys(path for path in (*passage.also, *paths) if path not in (None, passage.path)))

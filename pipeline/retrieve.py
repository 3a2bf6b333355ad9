"""From a question to the passages that answer it: two legs, fused, weighed, ordered, presented.

embed the question; in one read transaction (with a reranker: two): filter, both legs, fuse (`legs`), weigh and order
(`order`), load, present
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pipeline.answer import PLAIN, Answer, Hit, Leg, Mode, Shape
from pipeline.left_out import (
    still_to_read,
    too_long,
    too_low,
    unknown_keys,
    unknown_phrases,
    unreadable,
    without_room,
)
from pipeline.legs import (
    Best,
    BrokenLegError,
    Found,
    Fused,
    Key,
    LegName,
    Question,
    Scale,
    fused,
    ms_since,
    nothing,
    part_of,
    text_leg,
    vector_leg,
)
from pipeline.options import SearchOptions
from pipeline.order import (
    Loaded,
    Ranked,
    by_novelty,
    by_reranker,
    first_loaded,
    loaded_passages,
    mmr_weight,
    relevance_of,
    rerank_scores,
    texts_to_rerank,
    weighted,
)
from storage import changes, chunks, passages, projects
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, DamagedValueError, DatabaseError, UsageError
from storage.event_log import EventLog, code_of, place_of
from storage.passages import Passage
from storage.sources import Source
from storage.tokenize import Highlighter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.expand import Pieces
    from pipeline.order import Rerank
    from storage.filters import Filter
    from storage.text_mirror import TextMirror
    from storage.vector_mirror import VectorMirror

    Floats = npt.NDArray[np.float32]
    Embed = Callable[[str], Floats]

T = TypeVar("T")
Told = tuple[Mapping[str, Leg], list[Hit], tuple[str, ...]]

log = EventLog("knowlex.search")

DEFAULTS = SearchOptions()

ALSO = 100
"""Other paths of its text that a hit tells, at most."""

WIDEST = 100_000
"""From so many candidates on, no more are looked at for other texts than those that were found."""


@dataclass(frozen=True, slots=True)
class Retriever:
    """What answers questions: a database, as far as a project sees it, and what its legs are helped by.

    project_pk None: of all projects and of none, for callers that may see all.
    embed_query: question to unit vector, float32 (dim,). Where it is missing or fails, "hybrid" answers
    from the text alone and says so; "vector" raises.
    model_pk: of the model that `embed_query` is of, by its row in the database; None: of the live one, whichever it is.
    mirror, text_mirror: what a long-lived process keeps in memory; the answer is the same without.
    rerank: question and n texts to scores, shape (n,), higher is better; by these the first `reranked` passages are
    ordered, as far as they are still found then with the same text. Where it fails the order stays, and the leg
    "rerank" says so.
    reason_of: what is told of an error that degrades a leg; it may name a path of this machine.
    known_letters: question to the share of its letters that its model has tokens for; by default it has for all.
    cut_at: question to how many of its tokens are embedded, None where all are; by default they are.
    """

    database: Database
    project_pk: int | None
    embed_query: Embed | None = None
    model_pk: int | None = None
    mirror: VectorMirror | None = None
    text_mirror: TextMirror | None = None
    rerank: Rerank | None = None
    reason_of: Callable[[Exception], str] = str
    known_letters: Callable[[str], float] | None = None
    cut_at: Callable[[str], int | None] | None = None

    def retrieve(self, query: str, options: SearchOptions = DEFAULTS) -> Answer:
        """Return the passages that fit a question best.

        With a reranker or `mmr`, scores stay as they are, and the order is no longer theirs. Where what one leg looks
        in is damaged or missing, "hybrid" answers by the other one and says so.
        Raises UsageError for a blank query, ConfigurationError without an embedder, NotFoundError where the project is
        deleted by now, ModelSwitchedError where another model than `model_pk` is live by now: ask again with that,
        DamagedValueError where nothing of what was found can be read.
        """
        start = time.perf_counter()
        _require_asked(query)
        search = _Search(self, query, options, self._embedded(query, options.mode))
        embed_ms = ms_since(start)
        legs, hits, notes = search.reranked(self.rerank) if self.rerank else search.answered()
        return Answer(query, options.mode, legs, hits, ms_since(start), embed_ms, notes)

    def _embedded(self, query: str, mode: Mode) -> _Embedded:
        """Embed the question; raise where that fails and the mode cannot do without."""
        if mode == "text":
            return _Embedded(None)
        if self.embed_query is None:
            reason = "no embedding model is loaded"
        else:
            try:
                vector = self.embed_query(query)
                known = self.known_letters(query) if self.known_letters else 1.0
                return _Embedded(vector, known, self._cut(query))
            except Exception as error:  # whatever a model's libraries raise; it is told, and raised where it matters
                if mode == "vector":
                    raise
                reason = f"the question could not be embedded: {self.reason_of(error)}"
        if mode == "vector":
            raise ConfigurationError(f"mode vector: {reason}; use mode hybrid or text, or configure a model")
        return _Embedded(None, degraded=reason)

    def _cut(self, query: str) -> str | None:
        most = self.cut_at(query) if self.cut_at else None
        return None if most is None else f"only the first {most:,} tokens of the question were embedded"


class _Embedded(NamedTuple):
    """What a model makes of a question; degraded: why it has no vector, where it should, or not one of all of it."""

    vector: Floats | None
    known_letters: float = 1.0
    degraded: str | None = None


def _require_asked(query: object) -> None:
    if not isinstance(query, str):
        raise UsageError(f"query {query!r}: is no text; ask for something")
    if not query.strip():
        raise UsageError("query: is blank; ask for something")


class _Search:
    """One question on its way: what its legs bring, put in order and presented."""

    def __init__(self, by: Retriever, query: str, options: SearchOptions, embedded: _Embedded) -> None:
        self._by = by
        self._options = options
        self._vector, self._degraded = embedded.vector, embedded.degraded
        self._broken: dict[LegName, ConfigurationError | DatabaseError] = {}
        self._question = Question(
            query,
            by.project_pk,
            options.k,
            options.mode,
            options.sources,
            options.syntax,
            options.allowed or {},
            by.model_pk,
            embedded.known_letters,
        )

    def answered(self) -> Told:
        """Return what the legs did, the hits, and where there are none, why."""

        def answer(db: Connection) -> Told:
            question, seen = self._seen(db)
            return self._told(db, question, seen, seen.ranked, {})

        return self._read(answer)

    def reranked(self, rerank: Rerank) -> Told:
        """Do the same, the first passages ordered by a reranker.

        It reads outside of a transaction, which would keep the log from being cut for as long as the model needs.
        """

        def first(db: Connection) -> tuple[tuple[int, int] | None, _Candidates]:
            return self._as_of(db), self._candidates(db)

        as_of, found = self._read(first)
        broken = len(self._broken)
        scores, leg = rerank_scores(found.question, list(found.texts.values()), rerank, self._by.reason_of)

        def answer(db: Connection) -> Told:
            # Searched anew where anything was changed meanwhile: what is there now counts, and passes the filter now.
            same = as_of is not None and as_of == self._as_of(db) and broken == len(self._broken)
            now = found if same else self._candidates(db)
            ranked = by_reranker(now.seen.ranked, now.texts, scores)
            return self._told(db, now.question, now.seen, ranked, {"rerank": leg})

        return self._read(answer)

    def _candidates(self, db: Connection) -> _Candidates:
        question, seen = self._seen(db)
        return _Candidates(question, seen, texts_to_rerank(db, question, seen.ranked[: self._options.reranked]))

    def _read(self, look: Callable[[Connection], T]) -> T:
        """Look in one read transaction; where a leg breaks, anew without it in another: the engine may have ended it.

        A leg breaks once at most.
        """
        while True:
            try:
                with self._by.database.read() as db:
                    return look(db)
            except BrokenLegError as broken:
                error = broken.error
                log.warning("searched without a leg", leg=broken.leg, error_code=code_of(error), place=place_of(error))
                self._broken[broken.leg] = error

    def _as_of(self, db: Connection) -> tuple[int, int] | None:
        """Return what stays as it is as long as a search finds the same; None where that is not known.

        What a filter compares, such as the time of a file, changes without what is found.
        """
        narrowed = self._options.filter is not None or self._options.allowed is not None
        return None if narrowed else changes.as_of(db, self._by.project_pk)

    def _seen(self, db: Connection) -> tuple[Question, _Seen]:
        question = _filtered(db, self._question, self._options.filter)
        text, near = self._text_leg(db, question), self._vector_leg(db, question)

        def look(limit: int, scale: Scale | None) -> _Seen:
            return self._ranked(db, question, text(limit), near(limit), scale)

        seen = _looked(db, question, look, self._options)
        if self._broken and not (seen.text.looked or seen.near.looked):
            raise next(iter(self._broken.values()))
        return question, seen

    def _text_leg(self, db: Connection, question: Question) -> Best:
        if (error := self._broken.get("text")) is not None:
            return nothing(degraded=f"words could not be searched: {self._by.reason_of(error)}")
        return text_leg(db, question, self._by.text_mirror)

    def _vector_leg(self, db: Connection, question: Question) -> Best:
        if (error := self._broken.get("vector")) is not None:
            return nothing(degraded=f"vectors could not be searched: {self._by.reason_of(error)}")
        return vector_leg(db, question, self._vector, self._degraded, self._by.mirror)

    def _ranked(self, db: Connection, question: Question, text: Found, near: Found, scale: Scale | None) -> _Seen:
        relevance, least = partial(relevance_of, question, text), self._options.min_score
        both = fused(question, text, near, scale)
        ranked = weighted(db, question, both, relevance)
        if least is None:
            return _Seen(text, near, both, ranked)
        above = [item for item in ranked if relevance(item) >= least]
        return _Seen(text, near, both, above, max(map(relevance, ranked), default=None))

    def _told(
        self, db: Connection, question: Question, seen: _Seen, ranked: list[Ranked], reranking: Mapping[str, Leg]
    ) -> Told:
        legs = {"text": seen.text.leg, "vector": seen.near.leg, **reranking}
        if (weight := mmr_weight(self._options.mmr)) is not None and "vector" not in self._broken:
            with part_of("vector"):
                ranked = by_novelty(db, question, seen.text, ranked, weight)
        loaded = first_loaded(db, question, ranked)
        if loaded.damaged and not loaded.best:  # which is another answer than that nothing was found
            raise DamagedValueError(f"{unreadable(loaded.damaged)}, and nothing else was found; run knowlex repair")
        lost = dict.fromkeys(loaded.damaged)
        around = partial(passages.pieces, db, damaged=lost.setdefault)
        hits = _hits(question, loaded, seen, self._options, self._places(db, question), around)
        if not hits and question.project_pk is not None:
            projects.by_pk(db, question.project_pk)  # it may be gone since it was named
        damaged = [unreadable([*lost])] if lost else []
        found = [loaded.passages[item.key].id for item in loaded.best]
        return legs, hits, (*damaged, *self._notes(db, question, seen, found, hits))

    def _notes(
        self, db: Connection, question: Question, seen: _Seen, found: Sequence[str], hits: Sequence[Hit]
    ) -> Iterator[str]:
        """Say what the answer lacks: also beside hits, better ones may have had no room, or are still to be read."""
        if not hits:
            yield from self._why_nothing(db, question, seen)
        elif self._options.max_tokens is not None:
            shown = {id for hit in hits for id in (hit.id, *hit.merged)}
            if len(shown) < len(found):
                yield without_room(found, shown, self._options.max_tokens)
        if Source.FILE in self._options.sources:
            yield from still_to_read(db, self._by.project_pk)

    def _places(self, db: Connection, question: Question) -> Callable[[Passage], list[str | None]]:
        """Return what tells where else the text of a passage stands; the words find that."""
        if not self._options.collapse or "text" in self._broken:
            return _own_places

        def places(passage: Passage) -> list[str | None]:
            with part_of("text"):
                return passages.places(db, passage, project_pk=question.project_pk)

        return places

    def _why_nothing(self, db: Connection, question: Question, seen: _Seen) -> Iterator[str]:
        options = self._options
        if seen.ranked and options.max_tokens is not None:
            from pipeline.expand import costs

            found = loaded_passages(db, question, seen.ranked[: question.k]).values()
            yield too_long(costs([*found], options.shape, partial(passages.pieces, db)), options.max_tokens)
            return
        if seen.best is not None and options.min_score is not None:
            yield too_low(seen.best, options.min_score)
        elif options.filter is not None:
            yield from unknown_keys(db, options.filter, self._by.project_pk, options.sources)
        if question.mode == "text" and question.syntax == "plain" and not seen.text.ranking:
            yield from unknown_phrases(question.query)


def _filtered(db: Connection, question: Question, filter: Filter | None) -> Question:
    if filter is None:
        return question
    from storage import allowed

    project_pk = question.project_pk
    found = {source: allowed.pks(db, source, filter, project_pk=project_pk) for source in question.sources}
    return replace(question, allowed=found)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What a reranker is to order: what was seen, and the texts that it reads."""

    question: Question
    seen: _Seen
    texts: Mapping[Key, str]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at both legs brought; best: where a least score is asked for, the best of all."""

    text: Found
    near: Found
    fused: Fused
    ranked: list[Ranked]
    best: float | None = None


def _looked(
    db: Connection, question: Question, look: Callable[[int, Scale | None], _Seen], options: SearchOptions
) -> _Seen:
    """Look at the first candidates, by which hybrid scores are made, and further where more are asked for."""
    first = max(options.candidates, question.k) if question.mode != "hybrid" else options.candidates
    limit = max(first, question.k)
    seen = look(first, None)
    if limit > first:
        seen = look(limit, seen.fused.scale)
    return _distinct(db, question, seen, limit, look) if options.collapse else seen


def _distinct(
    db: Connection, question: Question, seen: _Seen, limit: int, look: Callable[[int, Scale | None], _Seen]
) -> _Seen:
    """Look until each leg has brought k different texts of each source, or all; keep the best of each text."""
    from pipeline.diversify import distinct

    while True:
        found = [key for leg in (seen.text, seen.near) for key, _ in leg.ranking]
        hashes = chunks.content_hashes(db, [pk for source, pk in found if source == Source.FILE])
        text_of: dict[Key, bytes] = {(Source.FILE, pk): digest for pk, digest in hashes.items()}
        if limit >= WIDEST or all(_enough(question, leg, limit, text_of) for leg in (seen.text, seen.near)):
            ranked = {item.key: item for item in seen.ranked}
            return replace(seen, ranked=[ranked[key] for key in distinct(ranked, text_of)])
        limit = min(4 * limit, WIDEST)
        seen = look(limit, seen.fused.scale)


def _enough(question: Question, leg: Found, limit: int, text_of: Mapping[Key, bytes]) -> bool:
    """Tell whether a leg has brought k different texts of each source, or all there are."""
    brought = {source: [key for key, _ in leg.ranking if key[0] == source] for source in question.sources}
    return all(
        len(keys) < limit or len({text_of.get(key, key) for key in keys}) >= question.k for keys in brought.values()
    )


def _hits(
    question: Question,
    loaded: Loaded,
    seen: _Seen,
    options: SearchOptions,
    places: Callable[[Passage], list[str | None]],
    pieces: Pieces,
) -> list[Hit]:
    """Return what was found as hits."""
    highlighter = Highlighter(question.query, syntax=question.syntax)
    text_ranks, vector_ranks = seen.text.ranks, seen.near.ranks
    text_scores, vector_scores = seen.text.scores, seen.near.scores
    hits: list[Hit] = []
    for rank, item in enumerate(loaded.best, 1):
        passage = loaded.passages[item.key]
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
            highlight=highlighter.snippet,
            text_rank=text_ranks.get(item.key),
            text_score=text_scores.get(item.key),
            vector_rank=vector_ranks.get(item.key),
            vector_score=vector_scores.get(item.key),
            container=passage.container,
            also=_others(passage, places(passage)),
            repeated=passage.repeated,
            tokens=passage.tokens,
            why=_explained(question, seen, item) if options.explain else {},
            on_disk=passage.on_disk,
            mark=highlighter.marked,
        )
        hits.append(hit)
    if options.shape == PLAIN:
        return hits
    return _shaped(pieces, [loaded.passages[item.key] for item in loaded.best], hits, options.shape)


def _explained(question: Question, seen: _Seen, item: Ranked) -> Mapping[str, float]:
    """Return what a score consists of; of the text alone, with the share of the highest BM25 there could be."""
    parts = seen.fused.parts(item.key)
    if not parts and question.mode != "vector":
        text = seen.text.share(item.key[0], item.fused) if question.mode == "text" else item.fused
        parts = {"text": text}
    return {**parts, "fused": item.fused, **item.factors}


def _shaped(pieces: Pieces, found: Sequence[Passage], hits: Sequence[Hit], shape: Shape) -> list[Hit]:
    """Return hits with what stands around them, as one where they touch, and within the budget, numbered anew."""
    from pipeline.expand import expanded

    shaped: list[Hit] = []
    for rank, shown in enumerate(expanded(found, shape, pieces), 1):
        first, *others = (hits[place] for place in shown.places)
        hit = replace(
            first,
            rank=rank,
            text=shown.text,
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
    """Return other paths of a passage, `ALSO` at most: with the same bytes, then with the same text."""
    others = dict.fromkeys(path for path in (*passage.also, *paths) if path not in (None, passage.path))
    return tuple(islice(others, ALSO))

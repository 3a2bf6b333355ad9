"""From a question to one ranking: the text leg, the vector leg, and both fused.

Text scores of different sources cannot be compared as they are: BM25 grows with the logarithm of
the number of rows. Where several sources are searched, or the legs fused, each source's scores count
as shares of the highest that the question could have there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pipeline.answer import Leg, Mode
from pipeline.context import in_context
from pipeline.fuse import best_first, mixed, text_share
from storage import pending, text_index, vectors
from storage.bm25 import Matches
from storage.connection import Connection
from storage.errors import OF_THE_WHOLE, ConfigurationError, DatabaseError, ModelSwitchedError, UsageError
from storage.sources import Source
from storage.text_query import Syntax, not_searched_for

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from storage.text_mirror import TextMirror
    from storage.vector_mirror import VectorMirror
    from storage.vectors import Model, Near

    Floats = npt.NDArray[np.float32]

Key = tuple[Source, int]
LegName = Literal["text", "vector"]
Ranking = list[tuple[Key, float]]

TEXT_WEIGHT = 0.5
"""How much of the order of hybrid hits comes from the text, where the vectors are trusted; see `pipeline.fuse`."""


class BrokenLegError(Exception):
    """What a leg looks in cannot be read, as `error` says; whatever was made of it counts for nothing.

    None of our tree: it never leaves a search, which goes on by the other leg or raises `error`.
    """

    def __init__(self, leg: LegName, error: ConfigurationError | DatabaseError) -> None:
        super().__init__(leg)
        self.leg: LegName = leg
        self.error = error


@contextmanager
def part_of(leg: LegName) -> Generator[None]:
    """Turn what only this leg cannot do without into BrokenLegError; what concerns the whole database stays."""
    try:
        yield
    except OF_THE_WHOLE:
        raise
    except (ConfigurationError, DatabaseError) as error:
        raise BrokenLegError(leg, error) from error


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of what, and how; known_letters: the share of its letters that the model has tokens for."""

    query: str
    project_pk: int | None
    k: int
    mode: Mode
    sources: Sequence[Source]
    syntax: Syntax
    allowed: Mapping[Source, Collection[int]]
    model_pk: int | None
    known_letters: float = 1.0


def _unknown(source: Source, pks: Collection[int]) -> Mapping[int, float]:
    return {}


def _as_it_is(source: Source, score: float) -> float:
    return score


@dataclass(frozen=True, slots=True)
class Found:
    """What a leg found: its best keys, best first, with their scores; and how to ask it for the scores of others.

    looked: whether it could look at all.
    """

    leg: Leg
    ranking: Ranking
    of: Callable[[Source, Collection[int]], Mapping[int, float]] = _unknown
    share: Callable[[Source, float], float] = _as_it_is
    looked: bool = True

    @property
    def scores(self) -> dict[Key, float]:
        """The score of each key that was found."""
        return dict(self.ranking)

    @property
    def ranks(self) -> dict[Key, int]:
        """The place of each key in the leg, from 1."""
        return {key: rank for rank, (key, _) in enumerate(self.ranking, 1)}


Best = Callable[[int], Found]
"""A leg that has looked: gives its best, so many of each source, as often as it is asked."""


def text_leg(db: Connection, question: Question, mirror: TextMirror | None) -> Best:
    """Look for the words of a question; what `Best` gives is of the same look. Raises BrokenLegError."""
    if question.mode == "vector":
        return nothing()
    start = time.perf_counter()
    with part_of("text"):
        matches = {source: _matches(db, question, source, mirror) for source in question.sources}
    looked_ms = ms_since(start)

    def share(source: Source, score: float) -> float:
        return score / ceiling if (ceiling := matches[source].ceiling) else 0.0

    def best(limit: int) -> Found:
        start = time.perf_counter()
        with part_of("text"):
            found = [((source, pk), score) for source in matches for pk, score in matches[source].best(limit)]
        ranking = sorted(found, key=lambda item: (-share(item[0][0], item[1]), item[0]))
        leg = Leg(len(ranking), looked_ms + ms_since(start), _left_out(question, matches.values()))
        return Found(leg, ranking, of, share)

    def of(source: Source, pks: Collection[int]) -> Mapping[int, float]:
        with part_of("text"):
            return matches[source].of(pks)

    return best


def nothing(ms: float = 0.0, degraded: str | None = None) -> Best:
    """Return a leg that does not look; degraded: why it does not, where it should."""
    return lambda limit: Found(Leg(0, ms, degraded), [], looked=False)


def _left_out(question: Question, matches: Iterable[Matches]) -> str | None:
    """Say what of the question was not searched for."""
    return not_searched_for(question.query, (term for found in matches for term in found.left_out))


def _matches(db: Connection, question: Question, source: Source, mirror: TextMirror | None) -> Matches:
    found = text_index.matches(
        db,
        source,
        question.query,
        project_pk=question.project_pk,
        syntax=question.syntax,
        allowed=question.allowed.get(source),
        mirror=mirror,
    )
    return in_context(found) if source == Source.FILE else found


def vector_leg(
    db: Connection, question: Question, vector: Floats | None, degraded: str | None, mirror: VectorMirror | None
) -> Best:
    """Look for what is near a question's vector; what `Best` gives is of the same look. Raises BrokenLegError.

    degraded: why there is no vector, or what of the question it is not of.
    """
    if vector is None:
        return nothing(degraded=degraded)
    start = time.perf_counter()
    with part_of("vector"):
        model = vectors.live_model(db)
    if model is None:
        return nothing(degraded="the database holds no vectors yet")
    if question.model_pk not in (None, model.pk):
        raise ModelSwitchedError(f"{db.path}: {model.name} became live meanwhile; ask again")
    try:
        vectors.require_query(model, vector)
    except UsageError as error:
        if question.mode == "vector":
            raise
        return nothing(ms_since(start), f"the question could not be embedded: {error}")
    with part_of("vector"):
        near = {source: _near(db, model, question, vector, source, mirror) for source in question.sources}
        lacking, looked_ms = _lacking(db, question), ms_since(start)
    cut = [degraded] if degraded else []

    def of(source: Source, pks: Collection[int]) -> Mapping[int, float]:
        with part_of("vector"):
            return vectors.cosines(db, model, vector, pks, project_pk=question.project_pk, source=source, mirror=mirror)

    def best(limit: int) -> Found:
        start = time.perf_counter()
        with part_of("vector"):
            ranking = best_first({(source, pk): score for source in near for pk, score in near[source].best(limit)})
            lost = () if ranking else _lost(db, question, lacking)
            told = [*cut, *_incomplete(lacking), *lost]
        return Found(Leg(len(ranking), looked_ms + ms_since(start), "; ".join(told) or None), ranking, of)

    return best


def _near(
    db: Connection, model: Model, question: Question, vector: Floats, source: Source, mirror: VectorMirror | None
) -> Near:
    allowed = question.allowed.get(source)
    return vectors.near(
        db, model, vector, project_pk=question.project_pk, source=source, allowed=allowed, mirror=mirror
    )


def _lacking(db: Connection, question: Question) -> int:
    """Return how many memories and messages have no vector yet."""
    return sum(
        pending.lacking(db, source, project_pk=question.project_pk, allowed=question.allowed.get(source))
        for source in question.sources
    )


def _incomplete(lacking: int) -> Iterator[str]:
    """Say how many passages the vectors cannot find, where there are such."""
    if lacking:
        yield f"memories and messages without a vector, which words alone find: {lacking}"


def _lost(db: Connection, question: Question, lacking: int) -> Iterator[str]:
    """Say where no vector was found of passages that should have one: that is another answer than that nothing is near.

    Every vector is near to some degree. A filter may let nothing pass.
    """
    if question.allowed:
        return
    parts = [text_index.part(db, source, question.project_pk) for source in question.sources]
    passages = sum(part.corpus.passages for part in parts)
    if passages > lacking:
        remedy = "run knowlex repair, then knowlex work --once"
        yield f"passages that have lost their vector: {passages - lacking}; {remedy}"


@dataclass(frozen=True, slots=True)
class Scale:
    """What hybrid scores are made by: taken from the first candidates, and kept for what is looked at beyond them.

    share: of the text; usual: the cosine of what has no vector yet; first: the scores of those candidates. So a passage
    has the same score however many others are asked for.
    """

    share: float
    usual: float
    first: Mapping[Key, float]

    @property
    def least(self) -> float:
        """The lowest score of the first candidates."""
        return min(self.first.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Fused:
    """One ranking of what the legs found, and (hybrid alone) what its scores consist of and are made by.

    cosines: of what has a vector; anything else counts as the average candidate does.
    """

    ranking: Ranking
    shares: Mapping[Key, float] = field(default_factory=dict[Key, float])
    cosines: Mapping[Key, float] = field(default_factory=dict[Key, float])
    scale: Scale | None = None

    def parts(self, key: Key) -> dict[str, float]:
        """Return what a hybrid score consists of; nothing where one leg gave it."""
        if self.scale is None:
            return {}
        cosine = {"vector": self.cosines[key]} if key in self.cosines else {"vector_assumed": self.scale.usual}
        return {"text": self.shares[key], **cosine, "text_weight": self.scale.share}


def fused(question: Question, text: Found, near: Found, scale: Scale | None = None) -> Fused:
    """Return one ranking; a single leg keeps its own scores, unless hybrid scores were asked for.

    Each leg is asked for the scores of what only the other one found: to be missing among the best says too little.
    What has no vector yet counts as the average candidate does; where nothing has, the text counts alone, and where
    that could not be looked at, the vectors. scale: that of the first look, for a further one.
    """
    if question.mode == "text":
        return Fused(text.ranking)
    if question.mode == "vector":
        return Fused(near.ranking)
    candidates = dict.fromkeys([key for key, _ in (*text.ranking, *near.ranking)])
    words = _completed(text, candidates)
    shares = {key: text.share(key[0], words.get(key, 0.0)) for key in candidates}
    known = _completed(near, candidates)
    if not known:
        return Fused(mixed(shares, shares, 1.0))
    usual = scale.usual if scale else fmean(known.values())
    cosines = {key: known.get(key, usual) for key in candidates}
    legs = [[key for key, _ in leg.ranking] for leg in (text, near)]
    if not text.looked:
        share = 0.0
    elif scale:
        share = scale.share
    else:
        share = text_share(question.query, legs, shares, cosines, TEXT_WEIGHT, question.known_letters)
    ranking = mixed(shares, cosines, share)
    return Fused(ranking, shares, known, scale or Scale(share, usual, dict(ranking)))


def _completed(leg: Found, candidates: Collection[Key]) -> dict[Key, float]:
    scores = leg.scores
    lacking: dict[Source, list[int]] = {}
    for source, pk in candidates:
        if (source, pk) not in scores:
            lacking.setdefault(source, []).append(pk)
    for source, pks in lacking.items():
        scores |= {(source, pk): score for pk, score in leg.of(source, pks).items()}
    return scores


def ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000

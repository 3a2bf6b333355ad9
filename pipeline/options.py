"""How a question is to be answered: what `Knowlex.search` and every door take, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, get_args

from pipeline.answer import Mode, Shape
from pipeline.order import HIGHEST, mmr_weight
from storage.errors import UsageError
from storage.sources import Source
from storage.text_query import Syntax

if TYPE_CHECKING:
    from storage.filters import Filter

CANDIDATES = 100
"""Passages each leg brings of each source, unless more hits are asked for."""

RERANKED = 50
"""How many passages, at most, a reranker reads; what is below stays in its order."""

WIDEST_WINDOW = 10**7
"""Passages to show on either side, at most: as many as a file may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What is wanted of a search. Raises UsageError for what cannot be.

    filter: what must be true of a passage, applied before ranking; see `storage.filters`.
    allowed: in place of a filter, the pks that may be found, by source.
    min_score: what fits less is left out, by the hits' scores, and in mode "text" by the share of the highest BM25 that
    the question could have; at most HIGHEST, which only messages come near to.
    window, section, merge, max_tokens: see `Shape`.
    collapse: show a text of files once, wherever it stands, and fill up with what comes below.
    mmr: prefer what is unlike the hits above, see `pipeline.diversify.mmr`; True or the weight of relevance, 0 to 1.
    candidates: passages each leg brings of each source; reranked: passages, at most, that a reranker reads.
    """

    k: int = 10
    mode: Mode = "hybrid"
    sources: Sequence[Source] = (Source.FILE,)
    syntax: Syntax = "plain"
    filter: Filter | None = None
    allowed: Mapping[Source, Collection[int]] | None = None
    min_score: float | None = None
    window: int = 0
    section: bool = False
    merge: bool = False
    max_tokens: int | None = None
    collapse: bool = False
    mmr: float | bool = False
    explain: bool = False
    candidates: int = CANDIDATES
    reranked: int = RERANKED

    def __post_init__(self) -> None:
        for name in ("k", "candidates", "reranked", *(["max_tokens"] if self.max_tokens is not None else [])):
            object.__setattr__(self, name, _whole(name, getattr(self, name), least=1))
        object.__setattr__(self, "window", _whole("window", self.window, least=0, most=WIDEST_WINDOW))
        object.__setattr__(self, "sources", tuple(dict.fromkeys(self.sources)))
        _check_one_of("mode", self.mode, get_args(Mode))
        _check_one_of("syntax", self.syntax, get_args(Syntax))
        _check_least(self.min_score)
        mmr_weight(self.mmr)
        if not self.sources:
            raise UsageError("sources: none given; name file, memory or message")
        if self.filter is not None and self.allowed is not None:
            raise UsageError("filter: stands beside allowed, which says already what may be found; give one of both")

    @property
    def shape(self) -> Shape:
        """How hits are to be shown."""
        return Shape(self.window, self.section, self.merge, self.max_tokens)


def _whole(name: str, given: object, *, least: int, most: int | None = None) -> int:
    """Return a whole number of any type, numpy's too, as an int; raise UsageError for what is none or out of bounds."""
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise UsageError(f"{name} {given!r}: is no whole number; give one from {least} on")
    number = int(given)
    if number < least or (most is not None and number > most):
        raise UsageError(f"{name} {number}: give {least}{' or more' if most is None else f' to {most}'}")
    return number


def _check_one_of(name: str, given: object, known: Sequence[str]) -> None:
    if given not in known:
        raise UsageError(f"{name} {given!r}: is unknown; give one of {', '.join(known)}")


def _check_least(min_score: object) -> None:
    if min_score is None:
        return
    if isinstance(min_score, bool) or not isinstance(min_score, Real) or math.isnan(min_score):
        raise UsageError(f"min_score {min_score!r}: is no number; give one, or None for all hits")
    if not float(min_score) <= HIGHEST:
        raise UsageError(
            f"min_score {min_score}: scores end at 1, of memories and messages at {HIGHEST}, and in mode text the share"
            " of the highest possible counts; give less"
        )

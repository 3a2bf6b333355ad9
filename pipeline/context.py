"""Words that stand beside a passage of a file count for it, too: an answer often goes on behind the cut.

How much is the outcome of a comparison: docs/decisions/0024-words-beside-a-passage.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from storage import bm25
from storage.bm25 import Matches
from storage.text_query import Term

SHARE = 0.25
"""How much of the words and of the length of the passages right before and behind counts for one."""

FIRST = 100
"""Passages, the best by their own words, whose neighbours count: of all that was found it would take too long."""


@dataclass(frozen=True, slots=True)
class InContext:
    """Matches of files with the `first` of them scored in context, all others behind these; see `bm25.Matches`.

    So a passage has the same score however many are asked for. ranked: (pk, score) of the best by their own words, as
    many as are needed for the best `FIRST`. scale: what the scores of the others' own words are multiplied by, 1 or
    less: a context without the words lowers a score, as it makes a passage longer, and what was not looked at there
    must not gain by that.
    """

    own: Matches
    ranked: Sequence[tuple[int, float]]
    first: Mapping[int, float]
    scale: float

    @property
    def ceiling(self) -> float:
        """See `bm25.Matches`: no context reaches it, either."""
        return self.own.ceiling

    @property
    def left_out(self) -> tuple[Term, ...]:
        """See `bm25.Matches`."""
        return self.own.left_out

    def best(self, limit: int) -> list[tuple[int, float]]:
        """See `bm25.Matches`."""
        # Behind those that are scored in context, so many are the best of the others.
        ranked = self.ranked if limit <= FIRST else self.own.best(limit + FIRST)
        return bm25.best({**self._scaled(dict(ranked)), **self.first}.items(), limit)

    def of(self, pks: Collection[int]) -> dict[int, float]:
        """See `bm25.Matches`."""
        return self._scaled(self.own.of(pks)) | {pk: self.first[pk] for pk in pks if pk in self.first}

    def _scaled(self, scores: dict[int, float]) -> dict[int, float]:
        return scores if self.scale == 1.0 else {pk: self.scale * score for pk, score in scores.items()}

    def in_context(self, pks: Collection[int], share: float) -> dict[int, float]:
        """See `bm25.Matches`."""
        return self.own.in_context(pks, share)


def in_context(matches: Matches) -> Matches:
    """Return what was found in files, the first by their own words scored with what stands beside them."""
    ranked = matches.best(2 * FIRST)
    first = matches.in_context([pk for pk, _ in ranked[:FIRST]], SHARE)
    beyond = ranked[FIRST][1] if len(ranked) > FIRST else 0.0
    least = min(first.values(), default=0.0)
    return InContext(matches, ranked, first, least / beyond if beyond > least else 1.0)

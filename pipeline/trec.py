"""Runs in the format of TREC: what a system ranked for each question, a line a document.

QUERY Q0 DOCUMENT RANK SCORE SYSTEM
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.collection import Collection
from storage.errors import NotFoundError, UsageError
from storage.output import Kind

Run = dict[str, list[str]]
"""Documents by question, best first."""

KIND = Kind("run of Knowlex", re.compile(rb"\S+ Q0 \S+ 1 \S+ knowlex-\S+\n"))


def require_plain_ids(path: Path, judged: Collection) -> None:
    """Raise UsageError where a run of this collection cannot be read back: ids with blanks in them."""
    ids = [each.id for each in judged.documents] + [each.id for each in judged.queries]
    if spaced := [id for id in ids if id.split() != [id]]:
        raise UsageError(f"{path}: a run has blanks between its fields, and so has _id {spaced[0]!r}; leave --run out")


def lines(rankings: Iterable[tuple[str, Mapping[str, float]]], system: str) -> Iterator[str]:
    """Give the lines of a run of (question, score by document, best first).

    trec_eval goes by the scores alone, in single precision, and orders equal ones by the names of their documents: a
    score that is not below the one before it is told so much lower that it keeps its place.
    """
    for query, ranking in rankings:
        before: float | None = None
        for rank, (document, score) in enumerate(ranking.items(), 1):
            most = score if before is None else min(score, before - max(1e-6, abs(before) * 2**-22))
            before = round(most, 6)
            yield f"{query} Q0 {document} {rank} {before:.6f} {system}\n"


def read(path: Path) -> Run:
    """Read a run; lines may stand in any order: as for trec_eval, the scores give that, and of equal ones the ranks.

    Raises NotFoundError where there is none, UsageError naming the line that cannot be understood.
    """
    ranked: dict[str, list[tuple[float, int, str]]] = {}
    try:
        lines = path.read_text("utf8").splitlines()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such run; write one with knowlex eval --run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); write a run with knowlex eval --run") from error
    for number, line in enumerate(lines, 1):
        try:
            query, document, rank, score = _ranked(line)
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: {error}; a line is QUERY Q0 DOCUMENT RANK SCORE SYSTEM, with blanks between"
            ) from error
        ranked.setdefault(query, []).append((-score, rank, document))
    run = {query: [document for *_, document in sorted(found, key=_place)] for query, found in ranked.items()}
    for query, documents in run.items():
        if len(set(documents)) < len(documents):  # it would count for each place it has
            twice = next(document for document, times in Counter(documents).items() if times > 1)
            raise UsageError(f"{path}: {query} ranks {twice} more than once; leave its best line")
    return run


def _place(line: tuple[float, int, str]) -> tuple[float, int]:
    """Return what lines are in the order of; those that have the same stay as they stand."""
    return line[0], line[1]


def _ranked(line: str) -> tuple[str, str, int, float]:
    """Return question, document, rank and score of a line; raise ValueError saying what is wrong with it."""
    fields = line.split()
    if len(fields) != 6:
        raise ValueError(f"fields: {len(fields)}, not 6")
    try:
        rank = int(fields[3])
    except ValueError:
        raise ValueError(f"rank {fields[3]!r} is no whole number") from None
    return fields[0], fields[2], rank, _score(fields[4])


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"score {text!r} is no finite number")
    return score

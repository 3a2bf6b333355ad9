"""Runs in the format of TREC: what a system ranked for each question, a line a document.

QUERY Q0 DOCUMENT RANK SCORE SYSTEM
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.collection import Collection
from storage.errors import NotFoundError, UsageError

Run = dict[str, list[str]]
"""Documents by question, best first."""


def require_plain_ids(path: Path, judged: Collection) -> None:
    """Raise UsageError where a run of this collection cannot be read back: ids with blanks in them."""
    ids = [each.id for each in judged.documents] + [each.id for each in judged.queries]
    if spaced := [id for id in ids if id.split() != [id]]:
        raise UsageError(f"{path}: a run has blanks between its fields, and so has _id {spaced[0]!r}; leave --run out")


def write(path: Path, rankings: Iterable[tuple[str, Mapping[str, float]]], system: str) -> None:
    """Write (question, score by document, best first). Raises UsageError where the file cannot be written."""
    lines = (
        f"{query} Q0 {document} {rank} {score:.6f} {system}\n"
        for query, ranking in rankings
        for rank, (document, score) in enumerate(ranking.items(), 1)
    )
    try:
        with path.open("w", encoding="utf8") as file:
            file.writelines(lines)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another file") from error


def read(path: Path) -> Run:
    """Read a run; lines may stand in any order.

    Raises NotFoundError where there is none, UsageError naming the line that cannot be understood.
    """
    ranked: dict[str, list[tuple[int, str]]] = {}
    try:
        lines = path.read_text("utf8").splitlines()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such run; write one with knowlex eval --run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); write a run with knowlex eval --run") from error
    for number, line in enumerate(lines, 1):
        try:
            query, _, document, rank, _, _ = line.split()
            ranked.setdefault(query, []).append((int(rank), document))
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: {error}; a line is QUERY Q0 DOCUMENT RANK SCORE SYSTEM, with blanks between"
            ) from error
    return {query: [document for _, document in sorted(found)] for query, found in ranked.items()}

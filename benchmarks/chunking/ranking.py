"""From a question to ranked passages, with the product's full text, fusion and number of candidates.

The vector leg compares every vector of the scope exactly, so that no policy gains from the approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from benchmarks.chunking.policies import Piece
from benchmarks.chunking.texts import Question
from benchmarks.chunking.vectors import Vectors
from benchmarks.filters import AT
from benchmarks.lists import insert
from pipeline.context import in_context
from pipeline.fuse import mixed, text_share
from pipeline.legs import TEXT_WEIGHT
from pipeline.options import CANDIDATES
from storage import projects, text_index
from storage.bm25 import Matches
from storage.connection import Connection
from storage.database import Database
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror

MODES = ("hybrid", "text", "vector")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a text, and how many tokens its text has."""

    text_id: str
    scope: str
    piece: Piece
    tokens: int


class Ranker:
    """Ranks the passages of a collection, cut by one policy and put into `db` by `fill`."""

    def __init__(self, db: Connection, passages: Sequence[Passage], vectors: Vectors) -> None:
        self._db = db
        self._passages = passages
        self._vectors = vectors
        self._mirror = TextMirror()
        self._rows = by_scope(passages)
        self._projects = {scope: number for number, scope in enumerate(self._rows, 1)}
        self._matrices = {scope: self._matrix(rows) for scope, rows in self._rows.items()}

    def _matrix(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        return self._vectors.of([self._passages[row].piece.model_input for row in rows])

    def rank(self, question: Question) -> Mapping[str, list[Passage]]:
        """Return the passages that fit a question, best first, by mode."""
        if question.scope not in self._rows:
            return {mode: [] for mode in MODES}
        matches, cosines = self._matches(question), self._cosines(question)
        text = [(pk - 1, score) for pk, score in matches.best(CANDIDATES)]
        # Equal scores in the order of the texts.
        vector = sorted(cosines.items(), key=lambda item: -item[1])[:CANDIDATES]
        legs = {"text": text, "vector": vector, "hybrid": _hybrid(question.words, text, vector, matches, cosines)}
        return {mode: [self._passages[row] for row, _ in legs[mode]] for mode in MODES}

    def _matches(self, question: Question) -> Matches:
        found = text_index.matches(
            self._db,
            Source.FILE,
            question.words,
            project_pk=self._projects[question.scope],
            mirror=self._mirror,
        )
        return in_context(found)

    def _cosines(self, question: Question) -> dict[int, float]:
        scores = self._matrices[question.scope] @ self._vectors.of_question(question.words)
        return dict(zip(self._rows[question.scope], scores.tolist(), strict=True))


def _hybrid(
    question: str,
    text: Sequence[tuple[int, float]],
    vector: Sequence[tuple[int, float]],
    matches: Matches,
    cosines: Mapping[int, float],
) -> list[tuple[int, float]]:
    """Fuse the legs as the product does."""
    legs = [[row for row, _ in leg] for leg in (text, vector)]
    rows = dict.fromkeys(row for leg in legs for row in leg)
    words = matches.of([row + 1 for row in rows])
    shares = {row: words[row + 1] / matches.ceiling if matches.ceiling else 0.0 for row in rows}
    near = {row: cosines[row] for row in rows}
    return mixed(shares, near, text_share(question, legs, shares, near, TEXT_WEIGHT))


def by_scope(passages: Sequence[Passage]) -> dict[str, list[int]]:
    """Return the places of the passages of each scope."""
    rows: dict[str, list[int]] = {}
    for row, passage in enumerate(passages):
        rows.setdefault(passage.scope, []).append(row)
    return rows


def fill(db: Connection, passages: Sequence[Passage]) -> None:
    """Index the full text; each scope is a project, ranked by its own statistics, and each text a file."""
    files: dict[tuple[str, str], int] = {}
    for project, (scope, rows) in enumerate(by_scope(passages).items(), 1):
        projects.create(db, str(project))
        for row in rows:
            text = scope, passages[row].text_id
            if text not in files:
                files[text] = len(files) + 1
                insert(db, "project_files", iter([_file(files[text], project)]))
        insert(db, "file_chunks", _chunks(project, [(row, files[scope, passages[row].text_id]) for row in rows]))
        pieces = ((row, passages[row].piece) for row in rows)
        tokens = ((row + 1, tokens_of(piece.text, piece.heading)) for row, piece in pieces)
        text_index.put(db, Source.FILE, project, tokens)


def _file(pk: int, project: int) -> dict[str, object]:
    named = {"id": f"file {pk}", "filename": f"{pk}", "path": f"{pk}", "path_bytes": f"{pk}".encode()}
    return {"pk": pk, "project_id": project, **named, "created_at": AT, "updated_at": AT}


def _chunks(project: int, rows: Sequence[tuple[int, int]]) -> Iterator[dict[str, object]]:
    """Give each row as a chunk of its file: which stands beside which is all that counts."""
    empty = {"content": "", "content_hash": b"", "char_start": 0, "char_end": 0, "token_count": 0, "created_at": AT}
    for row, file in rows:
        place = {"project_id": project, "file_id": file, "chunk_index": row}
        yield {"pk": row + 1, "id": f"chunk {row}", **place, **empty}


@contextmanager
def ranker(passages: Sequence[Passage], vectors: Vectors) -> Iterator[Ranker]:
    """Open a ranker over a database of its own, which is removed afterwards."""
    with TemporaryDirectory() as folder, Database.open(Path(folder) / "passages.db") as database:
        with database.write() as db:
            fill(db, passages)
        with database.read() as db:
            yield Ranker(db, passages, vectors)

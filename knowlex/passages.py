"""The passages of a project's files, all at once: to look into an index rather than to search it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from knowlex import notebook
from knowlex.hits import pages
from knowlex.notebook import escaped
from knowlex.terminal import from_here, quantity
from storage import chunks, passages, vectors
from storage.connection import Connection
from storage.passages import Passage
from storage.sources import Source

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

    from storage.vectors import Floats

_HEAD = ("file", "", "page", "tokens", "heading", "passage")
_BEGINNING = 200
"""Characters of a passage that a list shows."""


@dataclass(frozen=True, slots=True)
class PassageRow:
    """A passage of a file: index is its place in the file, from 0; tokens are those that the model counts.

    char_start, char_end: the range of `text[repeated:]` in the file's extracted text. also: other paths with the same
    bytes, which share the passage.
    """

    id: str
    file_id: str
    file: str
    path: str
    also: tuple[str, ...]
    index: int
    tokens: int
    page_start: int | None
    page_end: int | None
    heading: str
    char_start: int
    char_end: int
    repeated: int
    text: str


class Passages(list[PassageRow]):
    """The passages of a project, file by file in the order they stand: a list that shows itself in a notebook.

    vectors: float32 (n, dim), unit length, row by row those of the passages, where they were asked for: of the model
    that is searched, as it was given heading and text. A passage that has none yet is a row of NaN; dim is 0 where the
    database has no model yet.
    """

    def __init__(self, rows: Iterable[PassageRow] = (), *, vectors: Floats | None = None) -> None:
        super().__init__(rows)
        self.vectors = vectors

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a passage. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame([asdict(row) for row in self], [field.name for field in fields(PassageRow)])

    def __repr__(self) -> str:
        return f"Passages({self._title})"

    @property
    def _title(self) -> str:
        return f"{quantity(len(self), 'passage')} of {quantity(len({row.file_id for row in self}), 'file')}"

    def _repr_html_(self) -> str:
        """Show the passages as a table, in a notebook; every text of a document is escaped."""
        rows = map(_cells, self[: notebook.SHOWN])
        return notebook.paragraph(self._title) + notebook.table(_HEAD, rows) + notebook.more(len(self))


def of_project(db: Connection, project_pk: int, *, with_vectors: bool = False) -> Passages:
    """Return all passages of a project's files, without those that cannot be read; see `Passages`."""
    every = chunks.of_project(db, project_pk)
    found = passages.load(db, Source.FILE, every, project_pk=project_pk)
    pks = [pk for pk in every if pk in found]
    rows = [_row(found[pk]) for pk in pks]
    return Passages(rows, vectors=_vectors(db, pks) if with_vectors else None)


def _vectors(db: Connection, pks: list[int]) -> Floats:
    import numpy as np

    model = vectors.live_model(db)
    made = {} if model is None or not pks else vectors.of_passages(db, model, Source.FILE, pks)
    stacked = np.full((len(pks), 0 if model is None else model.dim), np.nan, np.float32)
    for place, pk in enumerate(pks):
        if pk in made:
            stacked[place] = made[pk]
    return stacked


def _row(passage: Passage) -> PassageRow:
    return PassageRow(
        id=passage.id,
        file_id=passage.file_id or "",
        file=passage.file or "",
        path=passage.path or "",
        also=passage.also,
        index=passage.chunk_index,
        tokens=passage.tokens,
        page_start=passage.page_start,
        page_end=passage.page_end,
        heading=passage.heading,
        char_start=passage.char_start,
        char_end=passage.char_end,
        repeated=passage.repeated,
        text=passage.text,
    )


def _cells(row: PassageRow) -> tuple[str, ...]:
    beginning = row.text if len(row.text) <= _BEGINNING else f"{row.text[:_BEGINNING]}…"
    place = str(row.index), pages(row.page_start, row.page_end), str(row.tokens)
    return (notebook.titled(row.file, from_here(row.path)), *place, escaped(row.heading), escaped(beginning))

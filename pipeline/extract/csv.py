"""Comma-separated values and their kin: a Markdown table where they make one, else the text as it is.

The parser is that of the standard library, without its Sniffer: that takes letters for delimiters.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from pipeline.document import Document
from pipeline.extract.decode import decode
from pipeline.extract.source import Source
from pipeline.extract.tables import one_line, table_lines

_DELIMITERS = ",;\t|"
_SAMPLE_CHARS = 65_536
_SAMPLE_ROWS = 200
_HEADER_ROWS = 20
_MIN_AGREEMENT = 0.6
"""Share of the rows that are of one width, from which on a text is a table."""

_MAX_LINES_PER_ROW = 100
"""A row of more lines than this may have begun with a quote that opens nothing."""


def read_csv(source: Source) -> Document:
    """Read a table whose cells are parted by commas, semicolons, tabs or bars.

    Its first full row is the header; what stands above becomes lines of text. A single column, or rows that
    do not agree on their width, are plain text.
    """
    decoded = decode(source.data)
    metadata = {"encoding": decoded.encoding}
    dialect = _find_dialect(decoded.text)
    if dialect is None:
        return Document(decoded.text, "plain", source.parser, metadata=metadata)
    pieces = _markdown(decoded.text, dialect)
    del decoded  # a single emoji makes it four bytes a character; the table would be as large again beside it
    return Document("\n".join(pieces), "markdown", source.parser, metadata=metadata)


class _Reader(Protocol):
    """What is used of a reader of the standard library, which has no name there."""

    @property
    def line_num(self) -> int: ...
    def __iter__(self) -> Iterator[list[str]]: ...


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a text is a table. start: where its rows begin; width: most cells in a row, but for empty ones at its end."""

    delimiter: str
    quoted: bool = True
    start: int = 0
    width: int = 0

    def reader(self, text: str) -> _Reader:
        return self.reader_of(_Lines(text, self.start))

    def reader_of(self, lines: _Lines, *, strict: bool = False) -> _Reader:
        """strict: whether a quote that does not end its cell is an error."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting, skipinitialspace=True, strict=strict)


class _Lines:
    """The lines of a text from a place on, and where the last one taken ends."""

    def __init__(self, text: str, start: int) -> None:
        self.end = start
        self._found = _LINE.finditer(text, start)

    def __iter__(self) -> Iterator[str]:
        for line in self._found:
            self.end = line.end()
            yield line[0]


_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def _find_dialect(text: str) -> _Dialect | None:
    """The way of reading the text in which most rows agree, or None where it is no table."""
    stated = _STATED.match(text)
    start = stated.end() if stated else 0
    sample = text[: start + _SAMPLE_CHARS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    choices = [_Dialect(delimiter, start=start) for delimiter in (stated[1] if stated else _DELIMITERS)]
    best = max(choices, key=lambda choice: _score(sample, choice))
    return _measured(text, best) if _score(sample, best) else None


_STATED = re.compile(r"sep=([^\w\s]|\t)\n", re.IGNORECASE)
"""How Excel is told the delimiter."""


def _score(sample: str, dialect: _Dialect) -> float:
    """How well a dialect fits the beginning of a text, from 0 (no table) to 1.

    It is the share of the rows that have the usual width, times the share of cells that no other delimiter
    would part: in `1,5;2,5` both the comma and the semicolon make rows that agree.
    """
    rows, is_sound = _first_rows(sample, dialect)
    score = _agreement(rows, dialect)
    return score if is_sound or not dialect.quoted else max(score, _score(sample, replace(dialect, quoted=False)))


def _first_rows(sample: str, dialect: _Dialect) -> tuple[list[list[str]], bool]:
    """The filled rows at the start of a sample, and whether they are all: a quote may open more than a cell.

    Such a quote may as well open a cell that the sample ends in.
    """
    rows: list[list[str]] = []
    try:
        for row in islice(_sound_rows(sample, dialect), _SAMPLE_ROWS):
            rows += [row] if row else []
    except csv.Error:
        return rows, False
    return rows, True


def _sound_rows(text: str, dialect: _Dialect) -> Iterator[list[str]]:
    """The rows of a text; csv.Error where a quote opens more than a cell, or a cell is too long for the parser."""
    lines = _Lines(text, dialect.start)
    reader = dialect.reader_of(lines)
    line, end = 0, dialect.start
    for row in reader:
        if dialect.quoted and reader.line_num - line > _MAX_LINES_PER_ROW:
            next(iter(dialect.reader_of(_Lines(text, end), strict=True)))
        line, end = reader.line_num, lines.end
        yield row


def _agreement(rows: list[list[str]], dialect: _Dialect) -> float:
    width, agreeing = max(Counter(map(len, rows)).items(), key=lambda item: item[::-1], default=(0, 0))
    if width < 2 or agreeing < _MIN_AGREEMENT * len(rows):
        return 0
    cells = [cell for row in rows for cell in row]
    return agreeing / len(rows) * sum(_is_whole(cell, dialect.delimiter) for cell in cells) / len(cells)


def _is_whole(cell: str, delimiter: str) -> bool:
    others = _DELIMITERS.replace(delimiter, "")
    return not any(other in cell for other in others) or _NUMBER.fullmatch(cell) is not None


_NUMBER = re.compile(r"[-+\d.,' %]+")


def _measured(text: str, dialect: _Dialect) -> _Dialect | None:
    """The dialect with its width, without quotes where one opens more than a cell.

    None where a cell is too long for the parser.
    """
    width = 0
    try:
        for row in _sound_rows(text, dialect):
            if len(row) > width:
                width = max(width, len(_trimmed(row)))
    except csv.Error:
        return _measured(text, replace(dialect, quoted=False)) if dialect.quoted else None
    return replace(dialect, width=width)


def _trimmed(row: list[str]) -> list[str]:
    """A row without the empty cells at its end."""
    while row and not row[-1]:
        row.pop()
    return row


def _markdown(text: str, dialect: _Dialect) -> list[str]:
    """The table in pieces of many lines, below what stands above its header."""
    head = _header([_trimmed(row) for row in islice(dialect.reader(text), _HEADER_ROWS)])
    rows = map(_trimmed, dialect.reader(text))
    titles = [line for row in islice(rows, head) if (line := _title(row))]
    lines = table_lines(rows, dialect.width)
    return [*titles, *([""] if titles else []), *iter(lambda: "\n".join(islice(lines, _PIECE_LINES)), "")]


_PIECE_LINES = 10_000


def _title(row: Sequence[str]) -> str:
    """A row above the header as a line; the mark of a comment would make a heading of it."""
    return one_line(" ".join(row)).lstrip("#").lstrip()


def _header(rows: Sequence[Sequence[str]]) -> int:
    """Which row is the header: the first that fills more than half of the usual width."""
    width = max(Counter(map(len, filter(None, rows))).items(), key=lambda item: item[::-1], default=(0, 0))[0]
    enough = max(2, width // 2 + 1)
    return next((number for number, row in enumerate(rows) if len(row) - row.count("") >= enough), 0)

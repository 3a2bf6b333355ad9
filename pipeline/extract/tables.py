"""Rows of cells as a Markdown pipe table, the one form in which every reader writes tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

PADDED_CELLS = 64
"""Rows are filled up to this width at most: else a million short rows under one of 16,384 cells were
16 billion cells. Markdown takes the missing ones for empty."""


def table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its first row is the header. Without any text it is empty.

    rows: cells as plain text, escaped here; they may differ in length, and rows without text are left out.
    """
    rows = [row for row in rows if any(map(str.strip, row))]
    return "\n".join(table_lines(rows, max(map(len, rows), default=0)))


def table_lines(rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    """The lines of a Markdown table one by one, for tables too large to hold all rows at once.

    rows: as for `table`; width: cells of the longest row.
    """
    rule = f"| {_BAR.join(['---'] * width)} |"
    cells = width
    for row in rows:
        joined = _joined(row)
        if not joined.strip(" |"):
            continue
        yield f"| {joined}{_BAR * (cells - len(row))} |"
        if rule:
            yield rule
            rule, cells = "", min(width, PADDED_CELLS)


_BAR = " | "


def _joined(row: Sequence[str]) -> str:
    joined = _BAR.join(row)
    if joined == one_line(joined) and joined.count("|") == len(row) - 1:  # most rows: nothing to change in any cell
        return joined
    return _BAR.join(map(cell, row))


def cell(text: str) -> str:
    """Text as it may stand in a table cell: on one line, its pipes escaped."""
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    """Text without line breaks and runs of spaces."""
    return " ".join(text.split())

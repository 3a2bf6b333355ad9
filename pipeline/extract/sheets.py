"""Spreadsheets: a sheet is a page, its name the heading, its blocks of cells Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import groupby, islice

from python_calamine import CalamineSheet, SheetTypeEnum, SheetVisibleEnum

from pipeline.document import Document, Page
from pipeline.extract.blocks import escaped
from pipeline.extract.decode import clean
from pipeline.extract.source import Source
from pipeline.extract.tables import one_line, table
from pipeline.extract.workbooks import PADDED, PERCENT, NumberFormats, Workbook, corrupt_on_error, open_workbook
from storage.errors import ExtractError


def read_spreadsheet(source: Source) -> Document:
    """Read an Excel or OpenDocument spreadsheet as Markdown.

    Sheets without text are counted only, hidden ones are read and named in `metadata["hidden_sheets"]`; one
    that cannot be read is listed in `metadata["pages_failed"]` and the rest is kept.
    Raises ExtractError: encrypted, corrupt (also when no sheet can be read), too_large, no_text.
    """
    workbook = open_workbook(source.data)
    texts: dict[int, str] = {}
    failures: dict[int, ExtractError] = {}
    hidden: list[str] = []
    sheets = workbook.calamine.sheets_metadata
    for number, sheet in enumerate(sheets, start=1):
        if sheet.typ is not SheetTypeEnum.WorkSheet:  # a chart shows what stands in other sheets
            continue
        try:
            text = _sheet_text(workbook, number - 1, sheet.name)
        except ExtractError as error:
            failures[number] = error
            continue
        if text:
            texts[number] = f"# {one_line(sheet.name)}\n\n{text}"
            hidden += [] if sheet.visible is SheetVisibleEnum.Visible else [one_line(sheet.name)]
    if not texts:
        raise next(iter(failures.values()), _no_text())
    text, pages = _paged(texts)
    metadata = {
        **workbook.metadata,
        "hidden_sheets": hidden,
        "pages_failed": list(failures),
        "parts_failed": workbook.parts_failed,
    }
    known = {key: value for key, value in metadata.items() if value}
    return Document(text, "markdown", source.parser, pages, len(sheets), "sheet", metadata=known)


def _no_text() -> ExtractError:
    reason = "no text in any sheet: if they hold pictures of text, run OCR first"
    return ExtractError(reason, code="no_text")


def _paged(texts: Mapping[int, str]) -> tuple[str, tuple[Page, ...]]:
    """One text of all sheets, and the range of each."""
    pages: list[Page] = []
    at = 0
    for number, text in texts.items():
        pages.append(Page(number, at, at + len(text)))
        at += len(text) + len(_BETWEEN)
    return _BETWEEN.join(texts.values()), tuple(pages)


_BETWEEN = "\n\n"


def _sheet_text(workbook: Workbook, index: int, name: str) -> str:
    """What stands below the heading of a sheet. Raises ExtractError: corrupt, too_large."""
    rows = _rows(workbook.sheet(index), workbook.number_formats(name))
    paragraphs = [paragraph for block in _blocks(rows) for paragraph in _paragraphs(block)]
    return clean(_BETWEEN.join([*paragraphs, *workbook.remarks(name)]))


# --- cells ---------------------------------------------------------------------------------------------------


Cell = int | float | str | bool | time | date | datetime | timedelta


def _rows(sheet: CalamineSheet, formats: NumberFormats) -> Iterator[list[str]]:
    """The cells as text, row by row."""
    first = sheet.start[1] if sheet.start else 0
    with corrupt_on_error():
        for number, row in enumerate(sheet.iter_rows()):
            yield list(map(_text, row, formats.of_row(number, first, len(row))))


def _text(cell: Cell, shown: int) -> str:
    """A cell as a reader sees it: 3 for 3.0, TRUE, 25%, dates as ISO 8601 writes them.

    shown: how a number is, as NumberFormats has it.
    """
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, (int, float)):
        return _formatted(cell, shown) if shown else _number(cell)
    return _moment(cell)


def _formatted(value: float, shown: int) -> str:
    if not math.isfinite(value):
        return _number(value)
    if shown > PADDED:
        return f"{'-' if value < 0 else ''}{_rounded(abs(value)).zfill(shown - PADDED)}"
    percent, decimals = divmod(shown - 1, PERCENT)
    return f"{_rounded(value, decimals, scale=100)}%" if percent else _rounded(value, decimals)


def _rounded(value: float, decimals: int = 0, *, scale: int = 1) -> str:
    """A number with so many decimals as Excel shows it: its 15 digits, half away from zero."""
    if _is_whole(value):
        return f"{int(value) * scale}.{'0' * decimals}".rstrip(".")
    exact = Decimal(f"{value:.15g}") * scale
    return f"{exact.quantize(Decimal(1).scaleb(-decimals), context=_HALF_UP):f}"


_HALF_UP = Context(prec=400, rounding=ROUND_HALF_UP)
"""Enough digits for any double."""


def _number(value: float) -> str:
    """Whole numbers in full as far as a double is exact; others without what sums of binary fractions leave over."""
    if _is_whole(value):
        return str(int(value))
    short = f"{value:.12g}"
    return short if math.isclose(float(short), value, rel_tol=1e-14) else f"{value:.15g}"


def _is_whole(value: float) -> bool:
    return abs(value) <= 2**53 and value == int(value)


def _moment(value: date | time | timedelta) -> str:
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime):
        day, clock = value.date(), value.time()
        return str(day) if clock == time() else f"{day} {_moment(clock)}"
    if isinstance(value, time):
        return value.isoformat("seconds" if value.second else "minutes")
    return str(value)


def _duration(value: timedelta) -> str:
    minutes, seconds = divmod(abs(round(value.total_seconds())), 60)
    return f"{'-' if value < timedelta() else ''}{minutes // 60}:{minutes % 60:02}:{seconds:02}"


# --- rows ----------------------------------------------------------------------------------------------------


def _blocks(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Runs of rows that no empty row parts, without the columns that are empty in all of them.

    A run of one row and its neighbour are one block where they fill the same columns, as a header or a
    total set apart does. Columns part nothing: an empty one stands as often between a name and its values
    as between two tables.
    """
    block: list[list[str]] = []
    filled: list[int] = []
    for run in _runs(rows):
        columns = [number for number, column in enumerate(zip(*run, strict=True)) if any(column)]
        if columns == filled and len(columns) > 1 and 1 in (len(block), len(run)):
            block += run
            continue
        if block:
            yield _columns(block, filled)
        block, filled = run, columns
    if block:
        yield _columns(block, filled)


def _runs(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    for filled, run in groupby(rows, any):
        if filled:
            yield list(run)


def _columns(block: list[list[str]], wanted: list[int]) -> list[list[str]]:
    return block if len(wanted) == len(block[0]) else [[row[number] for number in wanted] for row in block]


def _paragraphs(block: list[list[str]]) -> Iterator[str]:
    """What stands above the header of a table as lines, then the table; where there is none, lines alone."""
    head = _header(block)
    if head:
        yield escaped("\n".join(one_line(" ".join(filter(None, row))) for row in block[:head]))
    if head < len(block):
        yield table(block[head:])


def _header(block: list[list[str]]) -> int:
    """Which row is the header; the number of rows where none is one.

    It is the first near the top that fills more than half of the columns, else the first of two cells.
    """
    enough = max(2, len(block[0]) // 2 + 1)
    full = (number for number, row in enumerate(islice(block, _HEADER_ROWS)) if _filled(row) >= enough)
    some = (number for number, row in enumerate(block) if _filled(row) > 1)
    return next(full, next(some, len(block)))


_HEADER_ROWS = 20


def _filled(row: list[str]) -> int:
    return len(row) - row.count("")

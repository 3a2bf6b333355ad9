"""Text for a terminal: nothing that a document says may steer the terminal or hide from the reader."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TextIO

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"

# Control characters (escape sequences begin with one), marks that reverse the reading direction, and
# characters without width, save the joiners that Persian, Indic scripts and emoji need.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """Return text that shows as it reads: characters that steer a terminal stand as their code."""
    return _STEERING.sub(lambda match: f"<U+{ord(match[0]):04X}>", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return text on one line, safe to show."""
    return plain(" ".join(text.split()))


def from_here(path: str) -> str:
    """Return a path from the working directory on, where it lies below it."""
    try:
        return path.removeprefix(os.path.join(os.getcwd(), ""))
    except OSError:  # the working directory is gone
        return path


def is_terminal(stream: TextIO | None = None) -> bool:
    """Tell whether standard output (or `stream`) is a terminal."""
    return (stream or sys.stdout).isatty()


def shows_bold() -> bool:
    """Tell whether standard output is a terminal that shows bold, and NO_COLOR (no-color.org) does not ask for none."""
    return is_terminal() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def emphasised(snippet: str, *, bold: bool) -> str:
    """Return a snippet whose <mark> shows as bold, or, without bold, as nothing."""
    on, off = (BOLD, PLAIN) if bold else ("", "")
    return plain(snippet).replace("<mark>", on).replace("</mark>", off)


def paragraph(text: str, indent: str) -> str:
    """Return text filled into lines of the terminal's width, each indented."""
    columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = textwrap.wrap(text, max(columns - len(indent), 20), break_long_words=False, break_on_hyphens=False)
    return "\n".join(indent + line for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows below their heads, columns aligned; numbers stand to the right, None shows as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(head, *cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(head))]
    lines = [
        "  ".join(
            _padded(cell, width, right) for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in ([*head], *cells)
    ]
    return "\n".join(lines)


def size(count: int | None) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def quantity(count: int, one: str, many: str = "") -> str:
    """Return how many of something, such as "1 file" and "2 files"; many: where it is not just an s more."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _cell(value: object) -> str:
    return "-" if value is None else one_line(str(value))


def _padded(cell: str, width: int, right: bool) -> str:
    blank = " " * (width - _width(cell))
    return blank + cell if right else cell + blank


def _width(text: str) -> int:
    """Return how many columns a text takes: wide characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )

"""How what Knowlex returns shows itself in a notebook, and becomes a table of pandas.

Whatever a document, a file's name or an error says is text here: nothing of it becomes markup, and nothing that is
shown steers or hides (see `knowlex.terminal.plain`). A table of pandas has the texts as they are.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from knowlex.terminal import plain
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

SHOWN = 100
"""How many rows of a long list are shown; the table of pandas has all."""


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """Return rows as a table with these columns (None: those they have), also without rows.

    Raises ConfigurationError where pandas is not installed.
    """
    try:
        import pandas  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise ConfigurationError("to_pandas: pandas is not installed; run pip install pandas") from None
    return pandas.DataFrame(rows, columns=None if columns is None else list(columns))


def escaped(text: str) -> str:
    """Return text as HTML that shows as it reads."""
    return html.escape(plain(text))


def paragraph(markup: str) -> str:
    """Return HTML as a paragraph."""
    return f"<p>{markup}</p>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are HTML already; those of a row may come as they are made."""
    heads = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def more(count: int) -> str:
    """Return what stands below a list of `count` rows of which `SHOWN` are shown; empty where all are."""
    return paragraph(f"and {count - SHOWN} more; to_pandas() has all") if count > SHOWN else ""


def titled(text: str, title: str) -> str:
    """Return text that says more where the mouse rests on it."""
    return f'<span title="{escaped(title)}">{escaped(text)}</span>'


def _cells(values: Iterable[str]) -> str:
    return "".join(f'<td style="text-align: left">{value}</td>' for value in values)

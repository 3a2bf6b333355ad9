"""Jupyter notebooks to Markdown: text cells as they are, code and what it printed in fences.

The JSON is read as it stands rather than with nbformat, which converts and validates first: that costs 0.2 s
a process, warns where a cell has no id, and fails on damaged notebooks whose cells are all there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from pipeline.document import Document
from pipeline.extract.decode import TITLE_CHARS, clean, decode
from pipeline.extract.source import Source
from pipeline.extract.web import convert_html
from storage.errors import ExtractError

MAX_OUTPUT_LINES = 100
MAX_OUTPUT_CHARS = 10_000
"""Of one output; logs and dumps would bury what the notebook says."""

_Json = dict[str, Any]


def read_notebook(source: Source) -> Document:
    """Read a notebook of any version; a file that is cut off is read up to there.

    Pictures and widgets are left out, as are programs' traces of an error but its name and message.
    Raises ExtractError (corrupt) where no cells can be found.
    """
    text = decode(source.data).text
    notebook, is_whole = _load(text)
    cells = list(_cells(notebook))
    metadata = _dict(notebook.get("metadata"))
    blocks = (block for cell in cells for block in _blocks(cell, _language(metadata)))
    text = clean("\n\n".join(block for block in blocks if block.strip()))
    known: _Json = {"title": _title(metadata, cells), "author": _author(metadata)}
    if not is_whole:
        known["parts_failed"] = ["end of the notebook"]
    return Document(text, "markdown", source.parser, metadata={key: value for key, value in known.items() if value})


def _load(text: str) -> tuple[_Json, bool]:
    """The notebook, and whether it is whole."""
    try:
        notebook = _dict(json.loads(text))
    except ValueError:
        return {"cells": _salvaged(text)}, False
    except RecursionError as error:
        raise ExtractError("corrupt notebook: it is nested too deep: do not trust it") from error
    if not isinstance(notebook.get("cells", notebook.get("worksheets")), list):
        raise ExtractError("corrupt notebook: it holds no cells: save it again in Jupyter")
    return notebook, True


def _salvaged(text: str) -> list[Any]:
    """The whole cells of a notebook that is cut off or damaged further down."""
    start = _CELLS.search(text)
    cells: list[Any] = []
    at = start.end() if start else -1
    decoder = json.JSONDecoder()
    while at >= 0:
        try:
            cell, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        cells.append(cell)
        following = _BETWEEN.match(text, end)
        at = following.end() if following else -1
    if not cells:
        raise ExtractError(
            "corrupt notebook: it is no valid JSON and no cell can be read: restore it from a checkpoint"
        )
    return cells


_CELLS = re.compile(r'"cells"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*,\s*")


def _dict(value: object) -> _Json:
    return cast(_Json, value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _string(value: object) -> str:
    """Text, which notebooks write whole or as a list of lines; the oldest leave out the line ends."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else ""
    lines = [line for line in cast(list[Any], value) if isinstance(line, str)]
    return ("" if any(line.endswith("\n") for line in lines[:-1]) else "\n").join(lines)


def _cells(notebook: _Json) -> Iterator[_Json]:
    """All cells; before version 4 they lie in worksheets."""
    sheets = [_dict(sheet) for sheet in _list(notebook.get("worksheets"))]
    for holder in (notebook, *sheets):
        yield from (_dict(cell) for cell in _list(holder.get("cells")))


def _language(metadata: _Json) -> str:
    kernel, info = _dict(metadata.get("kernelspec")), _dict(metadata.get("language_info"))
    language = _string(kernel.get("language")) or _string(info.get("name")) or _string(metadata.get("language"))
    return language.lower() if _WORD.fullmatch(language) else ""


_WORD = re.compile(r"[\w+#.-]{1,40}")


def _blocks(cell: _Json, language: str) -> Iterator[str]:
    text = _string(cell.get("source", cell.get("input")))
    match cell.get("cell_type"):
        case "code":
            yield _fenced(text, _string(cell.get("language")) or language)
            for output in _list(cell.get("outputs")):
                yield _output(_dict(output))
        case "heading":  # of version 3
            level = cell.get("level")
            yield f"{'#' * (level if level in (1, 2, 3, 4, 5, 6) else 1)} {' '.join(text.split())}"
        case _:
            yield _closed(_PICTURE.sub("", text).strip("\n"))


_PICTURE = re.compile(
    r"data:image/[\w.+-]{1,40};base64,[A-Za-z0-9+/=%]*+"
    r"(?:(?:(?<=;base64,)|(?<=[A-Za-z0-9+/=%]{40}))[ \t\r]*+\n[ \t]*+"
    r"(?:[A-Za-z0-9+/=%]{40,}+|[A-Za-z0-9+/%]++(?:={1,2}|(?=[)\"'>]))))*+"
)
"""A picture may be written in lines, long ones but for the last, which ends as a picture does: where nothing
encloses it, prose may follow, whose words have the same letters."""


def _fenced(text: str, language: str = "") -> str:
    text = text.strip("\n").rstrip()
    if not text:
        return ""
    longest = max(map(len, _FENCE.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)


def _closed(markdown: str) -> str:
    """Markdown whose last fence is closed, which in a notebook the end of the cell does."""
    fence = ""
    for mark in _FENCE.findall(markdown):
        if not fence:
            fence = mark
        elif mark.startswith(fence):
            fence = ""
    return f"{markdown}\n{fence}" if fence else markdown


def _output(output: _Json) -> str:
    """One output as Markdown; empty for pictures, widgets and what only names an object."""
    match output.get("output_type"):
        case "stream":
            return _fenced(_bounded(_printed(_string(output.get("text")))))
        case "error" | "pyerr":
            return _fenced(_bounded(f"{_string(output.get('ename'))}: {_string(output.get('evalue'))}"))
        case _:
            return _result(_dict(output.get("data")) or output)


def _result(data: _Json) -> str:
    """What a cell returned, in the form that reads best as text. Before version 4 the keys are short."""
    if any("widget" in key for key in data):
        return ""
    if markdown := _string(data.get("text/markdown")):
        return _closed(_bounded(_PICTURE.sub("", markdown)))
    plain = _printed(_string(data.get("text/plain", data.get("text"))))
    if plain.strip() and not _OBJECT.fullmatch(plain.strip()[:200]):
        return _fenced(_bounded(plain))
    if html := _string(data.get("text/html", data.get("html"))):
        return _bounded(convert_html(html).text)
    return _fenced(_bounded(_string(data.get("text/latex", data.get("latex")))))


_OBJECT = re.compile(r"<[^<>\n]*(?: object\b|Figure size |Figure with | at 0x)[^<>\n]*>")
"""As <IPython.core.display.HTML object> and <Figure size 640x480 with 1 Axes>: the thing itself is elsewhere."""

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _printed(text: str) -> str:
    """What a terminal would show in the end: no colours, and of a progress bar its last state."""
    lines = _COLOUR.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _bounded(text: str) -> str:
    """The start of a long output, and how much of it was left out."""
    text = text.strip("\n")
    kept = "\n".join(text[:MAX_OUTPUT_CHARS].split("\n")[:MAX_OUTPUT_LINES])
    if len(kept) == len(text):
        return text
    return f"{kept}\n… ({len(text) - len(kept):,} more characters)"


def _title(metadata: _Json, cells: list[_Json]) -> str:
    """The title stated, or the first level-1 heading."""
    texts = (_string(cell.get("source")) for cell in cells if cell.get("cell_type") == "markdown")
    heading = next(filter(None, map(_HEADING.search, texts)), None)
    title = _string(metadata.get("title")) or (heading[1] if heading else "")
    return clean(" ".join(title.split()))[:TITLE_CHARS]


_HEADING = re.compile(r"^# +(\S.*)$", re.MULTILINE)


def _author(metadata: _Json) -> str:
    names = (_string(_dict(author).get("name")) for author in _list(metadata.get("authors")))
    return clean(", ".join(filter(None, names)))[:TITLE_CHARS]

"""JSON as an outline: a line for each value under its key, indented as it nests.

Not the source, for three reasons. Escapes hide words from a search ("caf\\u00e9", "end.\\nNext"); one line of 3 MB
cannot be cut where a reader would cut it; and quotes, braces and commas are a third of the tokens that a passage
may have. Not a table either, where records are flat: far below its header a row says nothing by itself.

The tokens are read one by one: so keys that come twice and numbers of any size stay as they are written, and no
nesting is too deep. Whatever is not JSON is kept as it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from pipeline.document import Document
from pipeline.extract.decode import clean, decode
from pipeline.extract.source import Source


def read_json(source: Source) -> Document:
    """Read JSON, GeoJSON or JSON Lines; never fails.

    JSON Lines keep one record a line, with their escapes spelt out. Of GeoJSON the points are kept, but not the
    coordinates of lines and areas: thousands of numbers that nobody searches for.
    """
    decoded = decode(source.data)
    text = decoded.text
    if source.name.lower().endswith((".jsonl", ".ndjson")):
        text = "\n".join(_spelt_out(line) if _is_json(line) else line for line in text.split("\n"))
    else:
        text = _outline(text) or _records(text) or text
    return Document(clean(_joined(text)), "plain", source.parser, metadata={"encoding": decoded.encoding})


def _records(text: str) -> str:
    """JSON Lines under another name; empty where any line is something else."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not all(map(_is_json, lines)):
        return ""
    return "\n".join(map(_spelt_out, lines))


def _is_json(line: str) -> bool:
    try:
        json.loads(line, parse_int=str, parse_float=str)  # as numbers, long ones fail
    except (ValueError, RecursionError):
        return False
    return True


def _spelt_out(line: str) -> str:
    """A line of valid JSON with its escapes as the characters they stand for, on one line still."""
    return _ESCAPE.sub(_character, line) if "\\" in line else line


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")


def _character(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return _SHORT.get(escape[2], escape[0])
    character = chr(int(escape[1], 16))
    return escape[0] if character in '"\\' else " " if character < " " else character


_SHORT = {"n": " ", "r": " ", "t": " ", "b": " ", "f": " ", "/": "/"}


def _joined(text: str) -> str:
    """Halves of a character, which JSON escapes one by one, made whole."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_SURROGATE = re.compile("[\ud800-\udfff]")

_MAX_INDENT = 8
_SHORT_CHARS = 40
"""Values up to this length stand side by side where a list holds no longer ones."""

_POSITIONS = re.compile(r'("coordinates"\s*:\s*)\[\s*\[[\[\]\s\d.,eE+-]*\]')

MAX_DEPTH = 200_000
"""Deeper than this, JSON is kept as it is."""

_STRING = r'"((?:[^"\\]++|\\.)*+)"'
_BARE = r"(-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?|true|false|null|NaN|-?Infinity)"
_VALUE = rf"(?:{_STRING}|{_BARE}|([{{\[]))"
_SPACE = r"[ \t\n\r]*+"
_ITEM = re.compile(f"{_SPACE}(){_VALUE}{_SPACE}(,?)", re.DOTALL | re.ASCII)
_MEMBER = re.compile(f"{_SPACE}{_STRING}{_SPACE}:{_SPACE}{_VALUE}{_SPACE}(,?)", re.DOTALL | re.ASCII)
_END = re.compile(rf"{_SPACE}[\]}}]")
_NEXT = re.compile(rf"{_SPACE}([\]}},])")


def _outline(text: str) -> str:
    """The outline of one JSON value; empty where the text is anything else."""
    text = _POSITIONS.sub(r'\1"…"', text).rstrip()
    outline = _Outline()
    try:
        return "\n".join(outline.lines) if _read(text, outline) else ""
    except ValueError:  # of an escape that JSON does not know
        return ""


def _read(text: str, outline: _Outline) -> bool:
    """Walk through a JSON value; False where the text is no JSON, or nested too deep."""
    at = 0
    while match := (_MEMBER if outline.in_object else _ITEM).match(text, at):
        key, string, bare, bracket, comma = match.groups()
        at = match.end()
        if bracket:
            outline.begin(_decoded(key), bracket)
            if outline.depth > MAX_DEPTH:
                return False
            is_empty = _END.match(text, at)
        else:
            outline.add(_decoded(key), _decoded(string) if bare is None else bare)
            is_empty = None
        if comma and (bracket or not outline.depth):
            return False
        if not comma and (is_empty or not bracket):
            at, comma = _close(text, at, outline)
            if not comma:
                return at == len(text) and not outline.depth
    return False


def _close(text: str, at: int, outline: _Outline) -> tuple[int, str]:
    """Close what ends here; the offset after it, or -1 at a wrong bracket, and the comma if one follows."""
    while outline.depth and (mark := _NEXT.match(text, at)):
        at = mark.end()
        if mark[1] == ",":
            return at, ","
        if not outline.end(mark[1]):
            return -1, ""
    return at, ""


def _decoded(raw: str) -> str:
    return json.loads(f'"{raw}"', strict=False) if "\\" in raw else raw


@dataclass(slots=True)
class _Open:
    """An open object or array.

    end: the bracket that closes it. depth: of its lines. label: its key while the line for that is not written.
    scalars: of an array, not written yet. has_content: whether anything of it was read.
    """

    end: str
    depth: int
    label: str | None
    scalars: list[str] = field(default_factory=list[str])
    has_content: bool = False


class _Outline:
    """The lines of a JSON value, written as its parts come in."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.in_object = False
        self._open: list[_Open] = []
        self._marks = 0  # dashes due before the next line

    @property
    def depth(self) -> int:
        """How many objects and arrays are open."""
        return len(self._open)

    def add(self, key: str, text: str) -> None:
        """Take in a value that holds no others."""
        if not self._open:
            self._write(0, text)
            return
        owner = self._open[-1]
        owner.has_content = True
        if self.in_object:
            self._write_label(owner)
            self._write(owner.depth, text, key=key)
        else:
            owner.scalars.append(text)

    def begin(self, key: str, bracket: str) -> None:
        """Open an object or an array."""
        end = "}" if bracket == "{" else "]"
        if not self._open:
            self._open.append(_Open(end, 0, None))
        else:
            owner = self._open[-1]
            self._write_scalars(owner)
            self._write_label(owner)
            if not self.in_object and bracket == "{" and owner.has_content and self.depth < 4:
                self.lines.append("")
            self._marks += not self.in_object
            owner.has_content = True
            self._open.append(_Open(end, owner.depth + 1, key if self.in_object else None))
        self.in_object = bracket == "{"

    def end(self, bracket: str) -> bool:
        """Close the innermost; False if it is of the other kind."""
        ended = self._open.pop()
        self._write_scalars(ended)
        if not ended.has_content:
            self._write(ended.depth - (ended.label is not None), "{}" if bracket == "}" else "[]", key=ended.label)
        self.in_object = bool(self._open) and self._open[-1].end == "}"
        return ended.end == bracket

    def _write_label(self, owner: _Open) -> None:
        if owner.label is not None:
            self._write(owner.depth - 1, f"{owner.label}:")
            owner.label = None

    def _write_scalars(self, array: _Open) -> None:
        """Short values on one line, behind the key if there is one; longer ones as list items."""
        scalars, array.scalars = array.scalars, []
        if not scalars:
            return
        if all(len(text) <= _SHORT_CHARS and "\n" not in text for text in scalars):
            self._write(array.depth - (array.label is not None), ", ".join(scalars), key=array.label)
            array.label = None
            return
        self._write_label(array)
        for text in scalars:
            self._marks += 1
            self._write(array.depth + 1, text)

    def _write(self, depth: int, text: str, *, key: str | None = None) -> None:
        """Write a value; one of several lines goes below its key."""
        lines = _tidy_lines(text)
        if key is not None:
            name = " ".join(_tidy_lines(key))
            lines = [f"{name}: {lines[0]}"] if len(lines) == 1 else [f"{name}:", *(f"  {line}" for line in lines)]
        depth, marks = min(depth, _MAX_INDENT), min(self._marks, _MAX_INDENT)
        indent = "  " * max(0, depth - marks) + "- " * marks
        for line in lines:
            self.lines.append(indent + line)
            indent = "  " * max(depth, marks)
        self._marks = 0


def _tidy_lines(text: str) -> list[str]:
    """The lines of a text that are not blank, their spaces folded."""
    if not _UNTIDY.search(text):
        return [text] if text else []
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


_UNTIDY = re.compile(r"[^\S ]|\s\s|^\s|\s$")

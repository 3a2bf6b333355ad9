"""Columns that hold JSON: what each may hold, and how a value that is none is kept so that nothing of it is lost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage import fields
from storage.connection import Connection
from storage.content import parts
from storage.errors import UsageError
from storage.invariants import PAGE, by_pk


@dataclass(frozen=True, slots=True)
class JsonColumn:
    """A column that holds JSON.

    suspects: an SQL condition that is true of every wrong value, and of few right ones. allows: whether a
    parsed value is right. keep: a right value that says what the wrong text said.
    """

    kind: str
    says: str
    table: str
    column: str
    name: str
    suspects: str
    allows: Callable[[Any], bool]
    keep: Callable[[str], Any]


# Most messages are a few parts of plain text. Those with anything else, such as a number that may be too large
# or an escape that may be half a character, are parsed in Python.
_SUSPECT_CONTENT = (
    "CASE WHEN NOT json_valid(content) THEN 1 WHEN json_type(content) <> 'array' THEN 1"
    " WHEN json_array_length(content) = 0 OR instr(content, '\\ud') OR instr(content, '\\uD') THEN 1"
    " ELSE EXISTS (SELECT 1 FROM json_each(messages.content) part"
    " WHERE CASE WHEN part.type = 'object' THEN json_extract(part.value, '$.type') IS NOT 'text'"
    " OR json_type(part.value, '$.text') IS NOT 'text'"
    " OR json_remove(part.value, '$.type', '$.text') <> '{}' ELSE 1 END) END"
)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_content(value: Any) -> bool:
    try:
        return isinstance(value, list) and bool(parts(value))  # pyright: ignore[reportUnknownArgumentType]
    except UsageError:
        return False


def _are_tags(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in value)  # pyright: ignore[reportUnknownVariableType]


def _object(kind: str, table: str, column: str, name: str, keep: Callable[[str], Any]) -> JsonColumn:
    says = f"{column} of a row of {table} is no JSON object that can be written out again"
    return JsonColumn(kind, says, table, column, name, f"{column} <> '{{}}'", _is_mapping, keep)


CONTENT = JsonColumn(
    "content",
    "the content of a message is no list of parts that can be written out again",
    "messages",
    "content",
    "id",
    _SUSPECT_CONTENT,
    _is_content,
    lambda text: [{"type": "text", "text": text}],
)

COLUMNS = (
    _object("project_settings", "projects", "settings", "id", lambda text: {"unreadable": text}),
    _object("conversation_settings", "conversations", "settings", "id", lambda text: {"unreadable": text}),
    # Kept until the file is read again; a chunk that the file does not hold then may have been added, and stays.
    _object("file_metadata", "project_files", "metadata", "path", lambda text: {"unreadable": text}),
    _object("chunk_metadata", "file_chunks", "metadata", "id", lambda text: {"unreadable": text}),
    CONTENT,
    JsonColumn(
        "tags",
        "the tags of a memory are no list of texts that can be written out again",
        "project_memories",
        "tags",
        "id",
        "tags <> '[]'",
        _are_tags,
        lambda text: [text] if text.strip() else [],
    ),
    JsonColumn(
        "setting",
        "a setting is no JSON that can be written out again",
        "app_settings",
        "value",
        "key",
        "TRUE",
        lambda value: True,
        lambda text: text,
    ),
)


def wrong(db: Connection, column: JsonColumn) -> list[tuple[int, str]]:
    """Return (pk, name) of every value of a column that is not the JSON it should be."""
    rows = by_pk(
        db,
        f"SELECT pk, CAST({column.name} AS BLOB), typeof({column.column}), CAST({column.column} AS BLOB)"
        f" FROM {column.table} WHERE pk > :after AND (typeof({column.column}) <> 'text' OR {column.suspects})"
        " ORDER BY pk LIMIT :page",
        page=PAGE,
    )
    return [(pk, shown(name)) for pk, name, type, value in rows if type != "text" or not is_right(column, value)]


def shown(value: bytes | None) -> str:
    """Return bytes as text; what is not UTF-8 is escaped."""
    return (value or b"").decode("utf8", "backslashreplace")


def is_right(column: JsonColumn, value: bytes) -> bool:
    """Tell whether a value is what its column may hold, and can be written out again."""
    try:
        found = json.loads(value.decode("utf8"))
        fields.restored(found, column.column).encode("utf8")
        return column.allows(found)
    except (ValueError, RecursionError, UsageError):
        return False


def said(column: JsonColumn, value: bytes) -> Any:
    """Return what a value says: parsed as it is, or where it is wrong, as it would be kept."""
    return json.loads(value.decode("utf8") if is_right(column, value) else kept(column, value))


def kept(column: JsonColumn, value: bytes) -> str:
    """Return the JSON to keep for a value that is wrong.

    It is the value itself where only odd bytes, half characters or numbers keep it from being right: these
    become text. Otherwise it holds all of the value as one text.
    """
    try:
        found = json.loads(_escaped(value), parse_constant=str, parse_float=_fraction, parse_int=_integer)
        if column.allows(found):
            return _HALF.sub(_unicode_escape, fields.restored(found, column.column))
    except (ValueError, RecursionError, UsageError):
        pass
    return json.dumps(column.keep(shown(value)), ensure_ascii=False)


_HALF = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can say and Unicode cannot."""


def _escaped(value: bytes) -> str:
    """Return bytes of JSON as text in which what is not UTF-8 is escaped so that a JSON string reads \\xNN."""
    return _HALF.sub(lambda byte: rf"\\x{ord(byte[0]) - 0xDC00:02x}", value.decode("utf8", "surrogateescape"))


def _unicode_escape(half: re.Match[str]) -> str:
    return rf"\\u{ord(half[0]):04x}"


def _fraction(text: str) -> float | str:
    return float(text) if math.isfinite(float(text)) else text


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python reads
        return text

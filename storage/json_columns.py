"""Columns that hold JSON: what each may hold, and how a value that is none is kept so that nothing of it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storage.connection import Connection
from storage.content import parts
from storage.errors import UsageError


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


@dataclass(frozen=True, slots=True)
class Wrong:
    """A value that is not the JSON it should be; `text`: as it is, undecodable bytes escaped."""

    column: JsonColumn
    pk: int
    name: str
    text: str


def _suspect(column: str, type: str) -> str:
    return f"CASE WHEN json_valid({column}) THEN json_type({column}) <> '{type}' ELSE 1 END"


# Only the parts of most messages can be seen to be right without parsing them in Python.
_SUSPECT_CONTENT = (
    "CASE WHEN NOT json_valid(content) THEN 1 WHEN json_type(content) <> 'array' THEN 1"
    " WHEN json_array_length(content) = 0 THEN 1 ELSE EXISTS (SELECT 1 FROM json_each(messages.content) part"
    " WHERE CASE WHEN part.type = 'object' THEN json_extract(part.value, '$.type') IS NOT 'text'"
    " OR json_type(part.value, '$.text') IS NOT 'text' ELSE 1 END) END"
)
_SUSPECT_TAGS = (
    "CASE WHEN NOT json_valid(tags) THEN 1 WHEN json_type(tags) <> 'array' THEN 1"
    " ELSE EXISTS (SELECT 1 FROM json_each(tags) tag WHERE tag.type <> 'text') END"
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
    says = f"{column} of a row of {table} is no JSON object"
    return JsonColumn(kind, says, table, column, name, _suspect(column, "object"), _is_mapping, keep)


COLUMNS = (
    _object("project_settings", "projects", "settings", "id", lambda text: {"unreadable": text}),
    _object("conversation_settings", "conversations", "settings", "id", lambda text: {"unreadable": text}),
    # Kept until the file is read again; a chunk that the file does not hold then may have been added, and stays.
    _object("file_metadata", "project_files", "metadata", "path", lambda text: {"unreadable": text}),
    _object("chunk_metadata", "file_chunks", "metadata", "id", lambda text: {"unreadable": text}),
    JsonColumn(
        "content",
        "the content of a message is no list of parts",
        "messages",
        "content",
        "id",
        _SUSPECT_CONTENT,
        _is_content,
        lambda text: [{"type": "text", "text": text}],
    ),
    JsonColumn(
        "tags",
        "the tags of a memory are no list of texts",
        "project_memories",
        "tags",
        "id",
        _SUSPECT_TAGS,
        _are_tags,
        lambda text: [text] if text.strip() else [],
    ),
    JsonColumn(
        "setting",
        "a setting is no JSON",
        "app_settings",
        "value",
        "key",
        "NOT json_valid(value)",
        lambda value: True,
        lambda text: text,
    ),
)


def wrong(db: Connection, column: JsonColumn) -> Iterator[Wrong]:
    """Yield every value of a column that is not the JSON it should be."""
    rows = db.all(
        f"SELECT pk, CAST({column.name} AS BLOB), typeof({column.column}), CAST({column.column} AS BLOB)"
        f" FROM {column.table} WHERE typeof({column.column}) <> 'text' OR {column.suspects}"
    )
    for pk, name, type, value in rows:
        if type != "text" or not _right(column, value):
            yield Wrong(column, pk, shown(name), shown(value))


def shown(value: bytes | None) -> str:
    """Return bytes as text; what is not UTF-8 is escaped."""
    return (value or b"").decode("utf8", "backslashreplace")


def _right(column: JsonColumn, value: bytes) -> bool:
    try:
        return column.allows(json.loads(value.decode("utf8")))
    except (ValueError, RecursionError):
        return False

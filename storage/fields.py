"""Values on their way into text columns and out again: checked before, restored after."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar, cast

from storage.errors import DamagedValueError, UsageError

Choice = TypeVar("Choice", bound=StrEnum)

MAX_DEPTH = 100
"""Levels of lists and objects within each other that are kept; far more would make their readers fail."""

_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters and line breaks."""


def text(value: str, what: str, *, blank: bool = True) -> str:
    """Return `value` if a text column can hold it; `what` names it in the error.

    Raises UsageError for what is not text, for a NUL character, and for blank text unless `blank`.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"{what}: is {kind_of(value)}; give text")
    if "\0" in value:
        raise UsageError(f"{what}: holds a NUL character; remove it")
    if not blank and not value.strip():
        raise UsageError(f"{what}: is empty; give it some text")
    return value


def kind_of(value: object) -> str:
    """Say what a value is, in the words of JSON where it has one; otherwise as Python names its type."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"of Python's type {type(value).__name__}"


def line(value: str, what: str) -> str:
    """Return `value` if it is one line with something on it; raises UsageError."""
    if any(unicodedata.category(character) in _BREAKS for character in text(value, what, blank=False)):
        raise UsageError(f"{what}: {value!r} holds a line break or control character; give one line")
    return value


def given_id(value: str, what: str = "id") -> str:
    """Return `value` if it can serve as an id that somebody else chose; raises UsageError."""
    if line(value, what).startswith("-"):
        raise UsageError(f"{what}: {value!r} begins with a hyphen, like an option of a command; give another")
    return value


def choice(kind: type[Choice], value: str, what: str) -> Choice:
    """Return `value` as a member of `kind`; raises UsageError naming the members."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise UsageError(f"{what}: {value!r} is unknown; give one of {known}") from None


def to_json(value: Any, what: str) -> str:
    """Return `value` as JSON text.

    Raises UsageError for what JSON cannot say (NaN, bytes, sets), for keys that are not text and for more
    than 100 levels.
    """
    require_plain(value, what)
    return restored(value, what)


def kept_json(text: str, what: str) -> Any:
    """Return what a JSON column holds; raises DamagedValueError, naming `what`, where that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise not_kept_so(what, "no JSON") from error


def readable(column: str) -> str:
    """Return SQL for what a JSON column holds; what is no JSON, as `verify` tells, stands as an empty object."""
    return f"CASE WHEN json_valid({column}) THEN {column} ELSE '{{}}' END"


def kept_object(text: str, what: str) -> dict[str, Any]:
    """Return what a JSON column of objects holds; raises DamagedValueError, naming `what`, for anything else."""
    value = kept_json(text, what)
    if not isinstance(value, dict):
        raise not_kept_so(what, "no JSON object")
    return cast(dict[str, Any], value)


def not_kept_so(what: str, holds: str) -> DamagedValueError:
    """Return the error for a row that no function of ours has written so."""
    return DamagedValueError(f"{what}: holds {holds}; another program changed it: run knowlex repair")


def require_plain(value: Any, what: str, *, above: int = 0) -> None:
    """Raise UsageError for keys that are not text and for more than 100 levels; `above` are counted already."""
    # Not recursive: what is too deep for JSON's readers would be too deep for this, too.
    found: list[tuple[Any, int]] = [(value, above + 1)]
    while found:
        item, depth = found.pop()
        if not isinstance(item, dict | list | tuple):
            continue
        if depth > MAX_DEPTH:
            raise too_deep(what)
        found += [(part, depth + 1) for part in _inner(item, what)]  # pyright: ignore[reportUnknownArgumentType]


def _inner(value: dict[Any, Any] | list[Any] | tuple[Any, ...], what: str) -> Iterable[Any]:
    if not isinstance(value, dict):
        return value
    for key in value:
        if not isinstance(key, str):
            raise UsageError(f"{what}: the key {key!r} is {kind_of(key)}; give keys that are text")
    return value.values()


def too_deep(what: str) -> UsageError:
    """Return the error for a value of more than 100 levels."""
    return UsageError(f"{what}: is nested deeper than {MAX_DEPTH} levels; keep what is so deep as JSON text")


def restored(value: Any, what: str) -> str:
    """Return as JSON text what was read from some, however deep it is; otherwise as `to_json`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{what}: cannot be kept as JSON ({error}); give plain JSON values") from None


def mapping(value: dict[str, Any], what: str) -> str:
    """Return a JSON object as text; raises UsageError for anything else."""
    if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"{what}: is {kind_of(value)}; give a JSON object")
    return to_json(value, what)


def instant(value: str, what: str, *, up: bool = False, or_day: bool = False) -> str:
    """Return an ISO 8601 time with a zone in the form the tables keep; raises UsageError for another.

    The tables keep milliseconds: what is finer is cut off, or rounded up. or_day: a day was looked for before.
    """
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise UsageError(f"{what}: {value!r} has no time zone; end it with Z or an offset like +02:00")
        moment = moment.astimezone(UTC)
        if up and moment <= _LAST:
            moment += timedelta(microseconds=-moment.microsecond % 1000)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, OverflowError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        kinds, like = (
            ("time or day", "2026-01-31T09:30:00Z or 2026-01-31") if or_day else ("time", "2026-01-31T09:30:00Z")
        )
        raise UsageError(f"{what}: {value!r} is no ISO 8601 {kinds}; give one like {like}") from None


_LAST = datetime.max.replace(microsecond=999_000, tzinfo=UTC)
"""The last time that can be rounded up."""

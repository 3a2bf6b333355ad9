"""Values on their way into text columns and out again: checked before, restored after."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from storage.errors import UsageError

Choice = TypeVar("Choice", bound=StrEnum)


def text(value: str, what: str, *, blank: bool = True) -> str:
    """Return `value` if a text column can hold it; `what` names it in the error.

    Raises UsageError for what is not text, for a NUL character, and for blank text unless `blank`.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"{what}: is a {type(value).__name__}; give text")
    if "\0" in value:
        raise UsageError(f"{what}: holds a NUL character; remove it")
    if not blank and not value.strip():
        raise UsageError(f"{what}: is empty; give it some text")
    return value


def line(value: str, what: str) -> str:
    """Return `value` if it is one line with something on it; raises UsageError."""
    if any(unicodedata.category(character) == "Cc" for character in text(value, what, blank=False)):
        raise UsageError(f"{what}: {value!r} holds a line break or control character; give one line")
    return value


def choice(kind: type[Choice], value: str, what: str) -> Choice:
    """Return `value` as a member of `kind`; raises UsageError naming the members."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise UsageError(f"{what}: {value!r} is unknown; give one of {known}") from None


def to_json(value: Any, what: str) -> str:
    """Return `value` as JSON text; raises UsageError for what JSON cannot say (NaN, bytes, sets)."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{what}: cannot be kept as JSON ({error}); give plain JSON values") from None


def mapping(value: dict[str, Any], what: str) -> str:
    """Return a JSON object as text; raises UsageError for anything else."""
    if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"{what}: is a {type(value).__name__}; give a JSON object")
    return to_json(value, what)


def instant(value: str, what: str) -> str:
    """Return an ISO 8601 time with a zone in the form the tables keep; raises UsageError for another."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise UsageError(f"{what}: {value!r} has no time zone; end it with Z or an offset like +02:00")
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, OverflowError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{what}: {value!r} is no ISO 8601 time; give one like 2026-01-31T09:30:00Z") from None

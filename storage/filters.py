"""Filters of a search: what must be true of a passage, its file, memory or message.

A filter is a comparison or a group of filters; as JSON it has the shape that OpenAI's vector stores use:

    {"type": "eq", "key": "author", "value": "Ada"}        also ne, gt, gte, lt, lte
    {"type": "in", "key": "page", "value": [3, 4]}         also nin
    {"type": "and", "filters": [{…}, {…}]}                 also or

A key is one of `KEYS`, or any key of a file's metadata; `metadata.KEY` is always the latter. A value is compared with
values of its own type only. What has several values (tags, a list in the metadata) passes if any of them does.
What lacks the key passes `ne` and `nin` alone: these are true wherever `eq` and `in` are not.
`storage.allowed` finds what passes.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, auto
from typing import Any, Literal, cast, get_args

from storage import fields
from storage.errors import UsageError
from storage.memories import MemoryType
from storage.messages import Role

Scalar = str | int | float | bool
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Joiner = Literal["and", "or"]

OPERATORS: tuple[Operator, ...] = get_args(Operator)
JOINERS: tuple[Joiner, ...] = get_args(Joiner)
ORDERING = frozenset({"gt", "gte", "lt", "lte"})
OF_LISTS = frozenset({"in", "nin"})

MAX_DEPTH = 20
"""Groups within each other."""

MAX_VALUES = 1_000
"""Values that all comparisons of a filter have together: each is bound, and the engine binds 32,766."""

MAX_TEXT = 4_096
"""Characters of a key or value, as many as a path may have."""

METADATA = "metadata."
"""What a key begins with that is looked up in a file's metadata, whatever it is called."""


class Holds(Enum):
    """What a key stands for. A name is a text that is equal or not, but not before or behind another."""

    NAME = auto()
    TEXT = auto()
    NUMBER = auto()
    TIME = auto()


KEYS: Mapping[str, Holds] = {
    "file": Holds.TEXT,
    "path": Holds.TEXT,
    "folder": Holds.NAME,
    "extension": Holds.NAME,
    "kind": Holds.NAME,
    "mime_type": Holds.NAME,
    "file_id": Holds.NAME,
    "size": Holds.NUMBER,
    "modified": Holds.TIME,
    "page": Holds.NUMBER,
    "heading": Holds.NAME,
    "title": Holds.TEXT,
    "type": Holds.NAME,
    "tags": Holds.NAME,
    "importance": Holds.NUMBER,
    "role": Holds.NAME,
    "conversation": Holds.NAME,
    "created_at": Holds.TIME,
    "updated_at": Holds.TIME,
}
"""The keys that are no metadata; docs/search.md says what each means."""

_CHOICES: Mapping[str, Sequence[str]] = {"type": tuple(MemoryType), "role": tuple(Role)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A key compared with values: one, or those of a list for `in` and `nin`."""

    type: Operator
    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Filters of which all must pass (and) or one (or); at least two."""

    type: Joiner
    filters: tuple[Filter, ...]


Filter = Comparison | Group


def from_json(value: Any) -> Filter:
    """Return the filter that a JSON value says; a group of one is that one.

    Raises UsageError naming the place, what is wrong there, and the remedy.
    """
    found = _filter(value, "filter", 1)
    require_few_values(found)
    return found


def comparison(type: Operator, key: str, values: Sequence[Any], place: str) -> Comparison:
    """Return a comparison; raises UsageError, naming the place, where these values cannot be compared with that key."""
    _text(key, f"{place}: key")
    if not values:
        raise UsageError(f"{place}: {type} has no values; give at least one")
    for value in values:
        _require_comparable(type, key, _scalar(value, f"{place}: {key}"), f"{place}: {key}")
    return Comparison(type, key, tuple(values))


def group(type: Joiner, filters: Sequence[Filter]) -> Filter:
    """Return filters as a group; one alone is itself."""
    return filters[0] if len(filters) == 1 else Group(type, tuple(filters))


def comparisons(filter: Filter) -> list[Comparison]:
    """Return all comparisons of a filter."""
    if isinstance(filter, Comparison):
        return [filter]
    return [found for inner in filter.filters for found in comparisons(inner)]


def require_few_values(filter: Filter) -> None:
    """Raise UsageError for a filter of more values than a search takes."""
    count = sum(len(found.values) for found in comparisons(filter))
    if count > MAX_VALUES:
        raise UsageError(f"filter: compares with {count:,} values, more than {MAX_VALUES:,}; ask in several searches")


# --- reading JSON ----------------------------------------------------------------------------------


def _filter(value: Any, place: str, depth: int) -> Filter:
    if not isinstance(value, Mapping):
        raise UsageError(f'{place}: {_shown(value)} is no object; give one like {{"type": "eq", "key": …, "value": …}}')
    given = cast("Mapping[Any, Any]", value)
    type = given.get("type")
    if type in JOINERS:
        return _group(given, type, place, depth)
    if type not in OPERATORS:
        known = ", ".join((*OPERATORS, *JOINERS))
        raise UsageError(f"{place}: type {_shown(type)} is unknown; give one of {known}")
    _require_fields(given, ("type", "key", "value"), place)
    key, of = given["key"], given["value"]
    if type not in OF_LISTS:
        return comparison(type, key, [of], place)
    if not isinstance(of, list | tuple):
        raise UsageError(f"{place}: value {_shown(of)} is no list; {type} takes a list of values")
    return comparison(type, key, cast("Sequence[Any]", of), place)


def _group(given: Mapping[Any, Any], type: Joiner, place: str, depth: int) -> Filter:
    _require_fields(given, ("type", "filters"), place)
    filters = given["filters"]
    if not isinstance(filters, list | tuple) or not filters:
        raise UsageError(f"{place}: {type} has no filters; give a list of at least one")
    if depth > MAX_DEPTH:
        raise too_deep(place)
    inner = enumerate(cast("Sequence[Any]", filters))
    return group(type, [_filter(item, f"{place}.filters[{number}]", depth + 1) for number, item in inner])


def too_deep(place: str) -> UsageError:
    """Return the error for groups within each other that are too many."""
    return UsageError(f"{place}: groups are nested deeper than {MAX_DEPTH} levels; write the filter with fewer")


def _require_fields(given: Mapping[Any, Any], wanted: tuple[str, ...], place: str) -> None:
    for name in wanted:
        if name not in given:
            raise UsageError(f"{place}: has no {name}; {given['type']} has {', '.join(wanted)}")
    for name in given:
        if name not in wanted:
            raise UsageError(f"{place}: {_shown(name)} is unknown; {given['type']} has {', '.join(wanted)}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, a list of too many levels
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:100]}…"


# --- what can be compared --------------------------------------------------------------------------


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{place}: {_shown(value)} is no text; give text")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{place}: {_shown(value)} holds a NUL or half a character; remove it")
    if not value or len(value) > MAX_TEXT:
        raise UsageError(f"{place}: has {len(value):,} characters; give 1 to {MAX_TEXT:,}")
    return value


def _scalar(value: Any, place: str) -> Scalar:
    if isinstance(value, str):
        return _text(value, place) if value else value
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UsageError(f"{place}: {_shown(value)} cannot be compared; give text, a number of 64 bits, true or false")


def _require_comparable(type: Operator, key: str, value: Scalar, place: str) -> None:
    """Raise UsageError where a comparison could never be true, or its order means nothing."""
    holds = KEYS.get(key)
    if type in ORDERING and (holds is Holds.NAME or isinstance(value, bool)):
        what = "true and false have" if isinstance(value, bool) else "its values have"
        raise UsageError(f"{place}: {what} no order; compare by eq (=), ne (!=), in or nin (not in)")
    if holds is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number is not (holds is Holds.NUMBER) or isinstance(value, bool):
        kind = {Holds.NUMBER: "a number", Holds.TIME: "a day or time in quotes, like '2026-01-31'"}.get(holds, "text")
        raise UsageError(f"{place}: {_shown(value)} is none of its values; give {kind}")
    if holds is Holds.TIME:
        span(str(value), place)
    if value == "" and key in ("folder", "extension"):
        raise UsageError(f"{place}: is empty; give a name")
    if key == "folder" and posixpath.normpath(str(value)).partition("/")[0] in (".", "..", "~"):
        raise UsageError(f"{place}: {_shown(value)} is in no path; give a folder's name, or its path from / on")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UsageError(f"{place}: {_shown(value)} is unknown; give one of {', '.join(_CHOICES[key])}")


def span(value: str, place: str) -> tuple[datetime, datetime]:
    """Return the half-open span of a day or time: a day in UTC, or the millisecond of a time, which has a zone.

    Raises UsageError.
    """
    try:
        start = datetime.combine(date.fromisoformat(value), time(), UTC)
        length = timedelta(days=1)
    except ValueError:
        start = datetime.fromisoformat(fields.instant(value, place, or_day=True))
        length = timedelta(milliseconds=1)
    return start, _LAST if start > _LAST - length else start + length


_LAST = datetime.max.replace(tzinfo=UTC)

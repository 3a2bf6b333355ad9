"""Pages of a list by keyset: a page starts behind the key of the last row of the one before.

Unlike an offset, a key costs the same on every page and neither skips nor repeats rows while others
are added. A key is what the list is sorted by and the pk, which breaks ties. A cursor holds the key and
the name of its list, so that no other takes it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Generic, TypeVar

from storage.errors import UsageError

T = TypeVar("T")
K = TypeVar("K", str, int, float)

MAX_LIMIT = 1000
SHOWN = 100
"""Characters of a wrong cursor that its error shows."""
LAST_TIME = "9999-12-31T23:59:59.999Z"
LAST_PK = 2**63 - 1
NEWEST = (LAST_TIME, LAST_PK)
"""The key before every row of a list sorted from the newest to the oldest."""
OLDEST = ("", 0)
"""The key before every row of a list sorted from the oldest to the newest."""
FIRST = (0, 0)
"""The key before every row of a list sorted by the pk alone, whose keys are (0, pk)."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the cursor for `after` that gives the following part; None at the end."""

    items: list[T]
    next: str | None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def start(after: str | None, first: tuple[K, int], name: str) -> tuple[K, int]:
    """Return the key behind which a page of the list `name` starts: that of the cursor, or `first` without one.

    Raises UsageError when `after` is no cursor of this list.
    """
    if after is None:
        return first
    match opened(after, name):
        case [value, pk] if type(value) is type(first[0]) and fits(value) and type(pk) is int and fits(pk):
            return value, pk
        case _:
            raise foreign(after)


def opened(after: str, name: str) -> list[Any] | None:
    """Return the key that a cursor of the list `name` holds, None where it is none; its reader checks the values."""
    try:
        match json.loads(base64.urlsafe_b64decode(after.encode("ascii"))):
            case [*key, str(of)] if of == name:
                return key
            case _:
                return None
    except (AttributeError, UnicodeEncodeError, binascii.Error, ValueError, RecursionError):
        return None


def foreign(after: str) -> UsageError:
    """Return the error for a cursor of another list."""
    shown = f"{after[:SHOWN]}…" if isinstance(after, str) and len(after) > SHOWN else after  # pyright: ignore[reportUnnecessaryIsInstance]
    return UsageError(f"after {shown!r}: is no cursor of this list; give `next` of the page before")


def fits(value: str | float) -> bool:
    """Whether a value of a cursor can be compared with a column: text, a finite number, an integer of 64 bits."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, str) or -LAST_PK <= value <= LAST_PK


def cut(
    rows: Sequence[tuple[Any, ...]],
    limit: int,
    make: Callable[[tuple[Any, ...]], T],
    key: Callable[[T], tuple[Any, ...]],
    name: str,
) -> Page[T]:
    """Make a page of up to `limit` items of the list `name` from rows of which one more was asked for (`probe`)."""
    items = [make(row) for row in rows[:limit]]
    return Page(items, _cursor(key(items[-1]), name) if len(rows) > limit else None)


def probe(limit: int) -> int:
    """Return how many rows to ask for, so that `cut` sees whether more follow.

    Raises UsageError for a limit outside 1 to 1000.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit {limit!r}: is out of range; give 1 to {MAX_LIMIT}")
    return limit + 1


def _cursor(key: tuple[Any, ...], name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([*key, name]).encode("ascii")).decode("ascii")

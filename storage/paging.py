"""Pages of a list by keyset: a page starts behind the key of the last row of the one before.

Unlike an offset, a key costs the same on every page and neither skips nor repeats rows while others
are added. A key is what the list is sorted by and the pk, which breaks ties.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from storage.errors import UsageError

T = TypeVar("T")
K = TypeVar("K", str, int)

MAX_LIMIT = 1000
LAST_TIME = "9999-12-31T23:59:59.999Z"
LAST_PK = 2**63 - 1
NEWEST = (LAST_TIME, LAST_PK)
"""The key before every row of a list sorted from the newest to the oldest."""
OLDEST = ("", 0)
"""The key before every row of a list sorted from the oldest to the newest."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the cursor for `after` that gives the following part; None at the end."""

    items: list[T]
    next: str | None


def start(after: str | None, first: tuple[K, int]) -> tuple[K, int]:
    """Return the key behind which a page starts: that of the cursor, or `first` without one.

    Raises UsageError when `after` is not a cursor of a list sorted like this one.
    """
    if after is None:
        return first
    try:
        key = json.loads(base64.urlsafe_b64decode(after.encode("ascii")))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        key = None
    match key:
        case [value, pk] if [type(value), type(pk)] == [type(first[0]), int] and _fits(value) and _fits(pk):
            return value, pk
        case _:
            raise UsageError(f"after {after!r}: is no cursor of this list; give `next` of the page before")


def _fits(value: str | int) -> bool:
    return isinstance(value, str) or -LAST_PK <= value <= LAST_PK


def cut(
    rows: Sequence[tuple[Any, ...]],
    limit: int,
    make: Callable[[tuple[Any, ...]], T],
    key: Callable[[T], tuple[str | int, int]],
) -> Page[T]:
    """Make a page of up to `limit` items from rows of which one more was asked for (`probe`)."""
    items = [make(row) for row in rows[:limit]]
    return Page(items, _cursor(key(items[-1])) if len(rows) > limit else None)


def probe(limit: int) -> int:
    """Return how many rows to ask for, so that `cut` sees whether more follow.

    Raises UsageError for a limit outside 1 to 1000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit {limit}: is out of range; give 1 to {MAX_LIMIT}")
    return limit + 1


def _cursor(key: tuple[str | int, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode("ascii")).decode("ascii")

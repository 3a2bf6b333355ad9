"""Public identifiers and times, in the form the tables keep them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import uuid_utils


def new_id() -> str:
    """Return a new UUIDv7: unique, and sorted by the time it was made."""
    return str(uuid_utils.uuid7())


def now_ms() -> int:
    """Return the wall clock in milliseconds since 1970 (UTC), as leases use it."""
    return time.time_ns() // 1_000_000


def now_text() -> str:
    """Return the wall clock as UTC text with milliseconds, as `created_at` and `updated_at` use it."""
    return as_text(datetime.now(UTC))


def as_text(time: datetime) -> str:
    """Return a UTC time as text, as `now_text` writes it: texts of two times compare as the times do."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

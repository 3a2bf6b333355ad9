"""How long a run may take, and by how many parsers: what is beyond any use is refused before anything is done."""

from __future__ import annotations

from storage.errors import UsageError
from storage.fields import kind_of

MOST_MINUTES = 366 * 24 * 60
MOST_WORKERS = 1024
"""As the setting `workers`: each has a process and a thread of its own."""


def require_minutes(minutes: object) -> None:
    """Raise UsageError for what is no time that a run may take; None is no limit, and NaN no number of minutes."""
    if minutes is None:
        return
    if isinstance(minutes, bool) or not isinstance(minutes, int | float):
        raise UsageError(f"max_minutes: is {kind_of(minutes)}; give a number above 0")
    if not 0 < minutes <= MOST_MINUTES:
        raise UsageError(f"max_minutes {minutes}: is out of range; give more than 0, up to {MOST_MINUTES}")


def require_workers(workers: object) -> None:
    """Raise UsageError for what is no number of parsers; None is that of the settings."""
    if workers is None:
        return
    if isinstance(workers, bool) or not isinstance(workers, int):
        raise UsageError(f"workers: is {kind_of(workers)}; give a whole number from 1 to {MOST_WORKERS}")
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"workers {workers}: is out of range; give 1 to {MOST_WORKERS}")

"""How often which project was searched, and how; never what was asked.

A day (UTC) × project × kind is one row. Whoever searches counts in memory and adds the counts now and
then, so that no search writes. The rows of a project go with it (`forget`), and counts that come late
for one that is gone are dropped. Days after today, counted while a clock was ahead, are passed over
until they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from storage import paging
from storage.connection import Connection
from storage.errors import UsageError
from storage.paging import Page
from storage.sources import NO_PROJECT

KEPT_DAYS = 400
"""Of how many days on which something was counted the counts are kept."""
LAST_DAY = "9999-12-31"


@dataclass(frozen=True, slots=True)
class Count:
    """Searches of one kind ("hybrid", "text" or "vector") in one project (None: over all) on one day (UTC).

    empty: those that found nothing. took_ms: what all of them took together, without embedding the question.
    """

    day: str
    project_pk: int | None
    kind: str
    searches: int
    empty: int
    took_ms: float

    def plus(self, other: Count) -> Count:
        """Return this and another count of the same day, project and kind as one."""
        return replace(
            self,
            searches=self.searches + other.searches,
            empty=self.empty + other.empty,
            took_ms=self.took_ms + other.took_ms,
        )


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    """Searches in one project (None: over all) over some days; otherwise as `Count`."""

    project_pk: int | None
    project: str | None
    searches: int
    empty: int
    took_ms: float


@dataclass(frozen=True, slots=True)
class DayUsage:
    """Searches on one day (UTC), in all and of each kind; otherwise as `Count`."""

    day: str
    searches: int
    hybrid: int
    text: int
    vector: int
    empty: int
    took_ms: float


def today() -> str:
    """Return the day of the wall clock, in UTC."""
    return datetime.now(UTC).date().isoformat()


def add(db: Connection, counts: Iterable[Count]) -> None:
    """Add counts to what is kept; those of a project that was deleted meanwhile are dropped."""
    db.many(
        "INSERT INTO usage_counts (day, project, kind, searches, empty, took_ms)"
        " SELECT :day, :project, :kind, :searches, :empty, :took_ms"
        f" WHERE :project = {NO_PROJECT} OR EXISTS (SELECT 1 FROM projects WHERE pk = :project)"
        " ON CONFLICT (day, project, kind) DO UPDATE SET searches = searches + excluded.searches,"
        " empty = empty + excluded.empty, took_ms = took_ms + excluded.took_ms",
        (
            {
                "day": count.day,
                "project": count.project_pk or NO_PROJECT,
                "kind": count.kind,
                "searches": count.searches,
                "empty": count.empty,
                "took_ms": count.took_ms,
            }
            for count in counts
        ),
    )


def prune(db: Connection) -> int:
    """Drop all but the counts of the last 400 days that have any, and return how many rows that were.

    Days are counted and not reckoned back from today: a clock that is ahead for a day costs one day, not all.
    """
    return db.run(
        "WITH RECURSIVE days (day, number) AS (SELECT max(day), 0 FROM usage_counts UNION ALL"
        " SELECT (SELECT max(day) FROM usage_counts WHERE day < days.day), number + 1 FROM days WHERE number < :kept)"
        " DELETE FROM usage_counts WHERE day <= (SELECT day FROM days WHERE number = :kept)",
        kept=KEPT_DAYS,
    )


def forget(db: Connection, project_pk: int) -> int:
    """Drop the counts of a project that is being deleted and return how many rows that were."""
    return db.run("DELETE FROM usage_counts WHERE project = :project", project=project_pk)


def by_project(db: Connection, days: int = 30, *, limit: int = 100, after: str | None = None) -> Page[ProjectUsage]:
    """Return how often each project was searched on the last `days` days, the busiest first.

    Projects that were not searched are left out. limit: 1 to 1000. after: `next` of the page before.
    Raises UsageError.
    """
    if not 1 <= days <= KEPT_DAYS:
        raise UsageError(f"days {days}: is out of range; give 1 to {KEPT_DAYS}")
    searches, pk = paging.start(after, (paging.LAST_PK, paging.LAST_PK), "usage by project")
    rows = db.all(
        "SELECT u.project, p.name, u.searches, u.empty, u.took_ms FROM ("
        " SELECT project, sum(searches) AS searches, sum(empty) AS empty, sum(took_ms) AS took_ms"
        " FROM usage_counts WHERE day > :since AND day <= :today GROUP BY project) u"
        " LEFT JOIN projects p ON p.pk = u.project"
        " WHERE (u.searches, u.project) < (:searches, :pk) ORDER BY u.searches DESC, u.project DESC LIMIT :limit",
        since=_days_ago(days),
        today=today(),
        searches=searches,
        pk=pk,
        limit=paging.probe(limit),
    )
    return paging.cut(
        rows, limit, _project_usage, lambda item: (item.searches, item.project_pk or NO_PROJECT), "usage by project"
    )


def by_day(
    db: Connection, project_pk: int | None = None, *, limit: int = 100, after: str | None = None
) -> Page[DayUsage]:
    """Return how often a project, or everything (None), was searched on each day, the latest day first.

    Days without a search are left out. limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    day, _ = paging.start(after, (LAST_DAY, 0), "usage by day")
    rows = db.all(
        "SELECT day, sum(searches), coalesce(sum(searches) FILTER (WHERE kind = 'hybrid'), 0),"
        " coalesce(sum(searches) FILTER (WHERE kind = 'text'), 0),"
        " coalesce(sum(searches) FILTER (WHERE kind = 'vector'), 0), sum(empty), sum(took_ms)"
        " FROM usage_counts WHERE day < :day AND day <= :today AND (:project IS NULL OR project = :project)"
        " GROUP BY day ORDER BY day DESC LIMIT :limit",
        day=day,
        today=today(),
        project=project_pk,
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, lambda row: DayUsage(*row), lambda item: (item.day, 0), "usage by day")


def _days_ago(days: int) -> str:
    return (datetime.now(UTC).date() - timedelta(days=days)).isoformat()


def _project_usage(row: Sequence[Any]) -> ProjectUsage:
    pk, *rest = row
    return ProjectUsage(pk or None, *rest)

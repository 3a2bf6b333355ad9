"""Searches that took long: when, of which kind, in which project; never what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage import paging
from storage.connection import Connection
from storage.ids import now_text
from storage.paging import LAST_PK, Page
from storage.sources import NO_PROJECT

KEPT = 1000


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One slow search; project_pk is None for a search over all projects."""

    kind: str
    project_pk: int | None
    took_ms: float
    created_at: str


def record(db: Connection, kind: str, project_pk: int | None, took_ms: float, *, at: str | None = None) -> None:
    """Note a slow search that ended at `at` (now by default); of more than 1000 the oldest are dropped."""
    db.run(
        "INSERT INTO slow_queries (kind, project, took_ms, created_at) VALUES (:kind, :project, :took_ms, :at)",
        kind=kind,
        project=project_pk or NO_PROJECT,
        took_ms=took_ms,
        at=at or now_text(),
    )
    db.run("DELETE FROM slow_queries WHERE pk <= (SELECT max(pk) FROM slow_queries) - :kept", kept=KEPT)


def forget(db: Connection, project_pk: int) -> int:
    """Drop the slow searches of a project that is being deleted and return their number."""
    return db.run("DELETE FROM slow_queries WHERE project = :project", project=project_pk)


def recent(db: Connection, limit: int = 100) -> list[SlowQuery]:
    """Return up to `limit` slow searches, the latest first."""
    rows = db.all(
        "SELECT kind, project, took_ms, created_at FROM slow_queries ORDER BY pk DESC LIMIT :limit",
        limit=limit,
    )
    return [_slow_query(row) for row in rows]


def listed(db: Connection, *, limit: int = 100, after: str | None = None) -> Page[SlowQuery]:
    """Return slow searches, the latest first.

    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    _, pk = paging.start(after, (0, LAST_PK), "slow queries")
    rows = db.all(
        "SELECT kind, project, took_ms, created_at, pk FROM slow_queries WHERE pk < :pk ORDER BY pk DESC LIMIT :limit",
        pk=pk,
        limit=paging.probe(limit),
    )
    page = paging.cut(rows, limit, lambda row: row, lambda row: (0, row[-1]), "slow queries")
    return Page([_slow_query(row[:-1]) for row in page.items], page.next)


def project_names(db: Connection) -> dict[int, str]:
    """Return the names of the projects that slow searches were in, by pk."""
    return dict(db.all("SELECT pk, name FROM projects WHERE pk IN (SELECT project FROM slow_queries)"))


def count(db: Connection) -> int:
    """Return how many slow searches are kept."""
    return db.value("SELECT count(*) FROM slow_queries")


def _slow_query(row: Sequence[Any]) -> SlowQuery:
    kind, project, took_ms, at = row
    return SlowQuery(kind, project or None, took_ms, at)

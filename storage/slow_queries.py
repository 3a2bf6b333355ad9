"""Searches that took long: when, of which kind, in which project; never what was asked."""

from __future__ import annotations

from dataclasses import dataclass

from storage.connection import Connection
from storage.ids import now_text
from storage.sources import NO_PROJECT

KEPT = 1000


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One slow search; project_pk is None for a search over all projects."""

    kind: str
    project_pk: int | None
    took_ms: float
    created_at: str


def record(db: Connection, kind: str, project_pk: int | None, took_ms: float) -> None:
    """Note a slow search; of more than 1000 the oldest are dropped."""
    db.run(
        "INSERT INTO slow_queries (kind, project, took_ms, created_at) VALUES (:kind, :project, :took_ms, :now)",
        kind=kind,
        project=project_pk or NO_PROJECT,
        took_ms=took_ms,
        now=now_text(),
    )
    db.run("DELETE FROM slow_queries WHERE pk <= (SELECT max(pk) FROM slow_queries) - :kept", kept=KEPT)


def recent(db: Connection, limit: int = 100) -> list[SlowQuery]:
    """Return up to `limit` slow searches, the latest first."""
    rows = db.all(
        "SELECT kind, project, took_ms, created_at FROM slow_queries ORDER BY pk DESC LIMIT :limit",
        limit=limit,
    )
    return [SlowQuery(kind, project or None, took_ms, at) for kind, project, took_ms, at in rows]


def count(db: Connection) -> int:
    """Return how many slow searches are kept."""
    return db.value("SELECT count(*) FROM slow_queries")

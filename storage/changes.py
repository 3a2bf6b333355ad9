"""What keeps copies of the search data in other processes fresh.

A generation says *that* a project's content changed (caches are keyed by it); the change log says
*which* vectors did, so that a mirror need not be read anew.
"""

from __future__ import annotations

from storage.connection import Connection
from storage.sources import NO_PROJECT, Source

LOG_LENGTH = 100_000
"""Entries of the change log that are kept; a mirror older than that is read anew."""


def bump(db: Connection, project_pk: int | None) -> int:
    """Count one more content transaction of a project (None: of no project); return its generation.

    Called once in each transaction that changes what can be found. Cuts the change log to its length.
    """
    generation: int = db.value(
        "INSERT INTO generations (project, value) VALUES (:project, 1)"
        " ON CONFLICT (project) DO UPDATE SET value = value + 1 RETURNING value",
        project=_key(project_pk),
    )
    prune(db, keep=LOG_LENGTH)
    return generation


def renew(db: Connection) -> None:
    """Count one more content transaction of every project, and log that all of its vectors changed.

    Called in the transaction that makes another model live: whoever holds vectors of it from before reads them anew.
    """
    db.run("UPDATE generations SET value = value + 1")
    db.run("INSERT INTO change_log (model, project, source, pk, op) SELECT 0, project, '', 0, 'clear' FROM generations")
    prune(db, keep=LOG_LENGTH)


def generation(db: Connection, project_pk: int | None) -> int:
    """Return how many content transactions a project has seen: 0 for none."""
    return db.value("SELECT value FROM generations WHERE project = :project", project=_key(project_pk)) or 0


def as_of(db: Connection, project_pk: int | None) -> tuple[int, int]:
    """Return what is the same as long as a search of a project (None: of all) finds the same in the same order.

    Names of the files that passages are of may change meanwhile.
    """
    inside = "" if project_pk is None else " WHERE project = :project"
    bound = {} if project_pk is None else {"project": project_pk}
    return db.value(f"SELECT coalesce(sum(value), 0) FROM generations{inside}", **bound), last_seq(db)


def last_seq(db: Connection) -> int:
    """Return the number of the newest change ever logged: 0 for none; it never goes back."""
    return db.value("SELECT seq FROM sqlite_sequence WHERE name = 'change_log'") or 0


def prune(db: Connection, *, keep: int) -> int:
    """Drop the oldest entries so that `keep` stay; return how many went."""
    return db.run(
        "DELETE FROM change_log WHERE seq <= (SELECT max(seq) FROM change_log) - :keep",
        keep=keep,
    )


def _key(project_pk: int | None) -> int:
    return NO_PROJECT if project_pk is None else project_pk


def changed_vectors(db: Connection, model: int, project: int, source: Source, *, since: int) -> set[int] | None:
    """Return the pks whose vector changed after entry `since`; None: too much has, read all anew."""
    oldest = db.value("SELECT min(seq) FROM change_log")
    if oldest is None or oldest > since + 1:
        return None
    rows = db.all(
        "SELECT DISTINCT pk, op = 'clear' FROM change_log WHERE seq > :since AND project = :project"
        " AND ((model = :model AND source = :source) OR op = 'clear')",
        since=since,
        model=model,
        project=project,
        source=source,
    )
    return None if any(cleared for _, cleared in rows) else {pk for pk, _ in rows}

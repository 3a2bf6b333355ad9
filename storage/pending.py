"""Memories and messages whose vector is still to be made; text search finds them meanwhile.

Vectors are made outside any transaction: `take` in one, embed, then, in the one that writes the
vectors, `current` (what was changed, moved or deleted meanwhile drops out) and `done`. A row that the
model has no sound vector for, or whose text cannot be read, is `refused`: it stays queued, and is taken
again when it is changed, by another model, or after `retry`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from storage.connection import Connection
from storage.content import kept_parts, text_of
from storage.errors import DamagedValueError
from storage.sources import Source
from storage.vectors import integers


class Pending(NamedTuple):
    """A row to embed: its source, id and pk, its project (None: of no project) and its text.

    damaged: the disk or another program changed it so that it cannot be read: it has no text, and is to be refused.
    """

    source: Source
    id: str
    pk: int
    project_pk: int | None
    text: str
    damaged: bool = False


_KEYS = "m.id, m.pk, project_id"
_TEXTS = {Source.MEMORY: "m.title, m.content", Source.MESSAGE: "m.content"}
_QUEUED = {
    Source.MEMORY: "FROM pending_vectors p JOIN project_memories m ON m.pk = p.pk WHERE p.source = 'memory'",
    Source.MESSAGE: (
        "FROM pending_vectors p JOIN messages m ON m.pk = p.pk JOIN conversations c ON c.pk = m.conversation_id"
        " WHERE p.source = 'message'"
    ),
}

_QUEUED_OF = {
    Source.MEMORY: (
        "FROM project_memories m CROSS JOIN pending_vectors p ON p.source = 'memory' AND p.pk = m.pk"
        " WHERE m.project_id = :project"
    ),
    Source.MESSAGE: (
        "FROM conversations c CROSS JOIN messages m ON m.conversation_id = c.pk"
        " CROSS JOIN pending_vectors p ON p.source = 'message' AND p.pk = m.pk WHERE c.project_id = :project"
    ),
}
"""The same rows of one project, looked for from what the project holds."""


def queue(db: Connection, source: Source, pk: int) -> None:
    """Note that a memory or message needs a vector; noting it twice does nothing, but for one that was refused."""
    db.run(
        "INSERT INTO pending_vectors (source, pk) VALUES (:source, :pk)"
        " ON CONFLICT (source, pk) DO UPDATE SET refused_by = NULL WHERE refused_by IS NOT NULL",
        source=source.value,
        pk=pk,
    )


def is_empty(db: Connection) -> bool:
    """Tell whether no row is queued, waiting or refused."""
    return db.one("SELECT 1 FROM pending_vectors LIMIT 1") is None


def take(
    db: Connection,
    limit: int,
    *,
    model: str = "",
    project_pk: int | None = None,
    sources: Collection[Source] = (Source.MEMORY, Source.MESSAGE),
) -> list[Pending]:
    """Return up to `limit` rows to embed, memories first, the oldest first. They stay queued until `done`.

    model: its name for `refuse`; what it refused before is left out. project_pk: of which project, None: of all, and
    of none.
    """
    wanted = "p.refused_by IS NOT :model AND (:project IS NULL OR project_id = :project) ORDER BY p.pk LIMIT :limit"
    found: list[Pending] = []
    for source in (Source.MEMORY, Source.MESSAGE):
        if source in sources and len(found) < limit:
            rows = _QUEUED_OF if _is_longer(db, source, project_pk) else _QUEUED
            left = limit - len(found)
            found += _rows(db, source, wanted, rows[source], model=model, project=project_pk, limit=left)
    return found


def _is_longer(db: Connection, source: Source, project_pk: int | None) -> bool:
    """Tell whether the queue is longer than what a project holds: an import into another one may have filled it.

    Each search asks for what waits in its project, and is not to read all of that.
    """
    if project_pk is None:
        return False
    held = "SELECT passages FROM text_stats WHERE source = :source AND project = :project"
    beyond = db.one(
        f"SELECT 1 FROM pending_vectors WHERE source = :source LIMIT 1 OFFSET coalesce(({held}), 0)",
        source=source.value,
        project=project_pk,
    )
    return beyond is not None


def current(db: Connection, taken: Iterable[Pending]) -> list[Pending]:
    """Return those of `taken` that are still queued with the same text, in the same project.

    To be called in the transaction that writes the vectors: a row edited while it was embedded must
    not get the vector of its old text, and stays queued.
    """
    return [row for row in taken if _read(db, row.source, row.pk) == row]


def done(db: Connection, source: Source, pks: Sequence[int]) -> None:
    """Take rows out of the queue."""
    db.many(
        "DELETE FROM pending_vectors WHERE source = :source AND pk = :pk",
        ({"source": source.value, "pk": pk} for pk in pks),
    )


def refuse(db: Connection, rows: Iterable[Pending], *, model: str) -> None:
    """Note that a model has no sound vector for rows, or nothing to read, so that it is not asked for them again."""
    db.many(
        "UPDATE pending_vectors SET refused_by = :model WHERE source = :source AND pk = :pk",
        ({"source": row.source.value, "pk": row.pk, "model": model} for row in rows),
    )


def retry(db: Connection, project_pk: int) -> None:
    """Let what was refused of a project be tried again by the same model."""
    db.run(
        "UPDATE pending_vectors SET refused_by = NULL WHERE refused_by IS NOT NULL AND CASE source"
        " WHEN 'memory' THEN pk IN (SELECT pk FROM project_memories WHERE project_id = :project)"
        " ELSE pk IN (SELECT m.pk FROM conversations c JOIN messages m ON m.conversation_id = c.pk"
        " WHERE c.project_id = :project) END",
        project=project_pk,
    )


def count(db: Connection, project_pk: int | None = None) -> int:
    """Return how many rows of a project (None: of all) wait for a vector, but for those that were refused."""
    return db.value(f"{_COUNT} AND refused_by IS NULL", project=project_pk)


def count_refused(db: Connection, project_pk: int | None = None) -> int:
    """Return how many rows of a project (None: of all) a model had no sound vector for."""
    return db.value(f"{_COUNT} AND refused_by IS NOT NULL", project=project_pk)


_COUNT = (
    "SELECT count(*) FROM pending_vectors WHERE (:project IS NULL OR CASE source"
    " WHEN 'memory' THEN (SELECT project_id FROM project_memories m WHERE m.pk = pending_vectors.pk)"
    " ELSE (SELECT project_id FROM messages m JOIN conversations c ON c.pk = m.conversation_id"
    " WHERE m.pk = pending_vectors.pk) END = :project)"
)


def refused(db: Connection, limit: int) -> list[str]:
    """Return up to `limit` of the rows that were refused, such as "memory ID"; one that is gone is told by its pk."""
    rows = db.all(
        "SELECT source, coalesce(CASE source WHEN 'memory' THEN (SELECT id FROM project_memories m WHERE m.pk = p.pk)"
        " ELSE (SELECT id FROM messages m WHERE m.pk = p.pk) END,"
        " pk || ' (gone; knowlex repair takes it out)') FROM pending_vectors p"
        " WHERE refused_by IS NOT NULL ORDER BY source, pk LIMIT :limit",
        limit=limit,
    )
    return [f"{source} {id}" for source, id in rows]


def lacking(db: Connection, source: Source, *, project_pk: int | None, allowed: Collection[int] | None = None) -> int:
    """Return how many passages of a source have no vector, as they wait for it or were refused.

    project_pk: of which project, None: of all; allowed: the pks that count, None: all.
    """
    if source == Source.FILE:
        return 0  # its passages come with their vectors
    project = {
        Source.MEMORY: "SELECT m.project_id FROM project_memories m WHERE m.pk = p.pk",
        Source.MESSAGE: (
            "SELECT c.project_id FROM messages m JOIN conversations c ON c.pk = m.conversation_id WHERE m.pk = p.pk"
        ),
    }[source]
    values: dict[str, Any] = {} if allowed is None else {"allowed": integers(allowed)}
    inside = "" if allowed is None else " AND p.pk IN (SELECT value FROM carray(:allowed))"
    if _is_longer(db, source, project_pk):
        return db.value(f"SELECT count(*) {_QUEUED_OF[source]}{inside}", project=project_pk, **values)
    return db.value(
        "SELECT count(*) FROM pending_vectors p WHERE p.source = :source"
        f" AND (:project IS NULL OR ({project}) = :project){inside}",
        source=source.value,
        project=project_pk,
        **values,
    )


def _read(db: Connection, source: Source, pk: int) -> Pending | None:
    return next(iter(_rows(db, source, "p.pk = :pk", _QUEUED[source], pk=pk)), None)


def _rows(db: Connection, source: Source, wanted: str, queued: str, **values: Any) -> list[Pending]:
    """Return rows of the queue with their texts; where one is no valid Unicode, they are read one by one."""
    rows = f"{queued} AND {wanted}"
    try:
        found = db.all(f"SELECT {_KEYS}, {_TEXTS[source]} {rows}", **values)
    except DamagedValueError:
        keys = db.all(f"SELECT {_KEYS} {rows}", **values)
        return [_pending(source, key, _texts(db, source, key[1])) for key in keys]
    return [_pending(source, row[:3], row[3:]) for row in found]


def _texts(db: Connection, source: Source, pk: int) -> Sequence[str] | None:
    try:
        return db.one(f"SELECT {_TEXTS[source]} {_QUEUED[source]} AND p.pk = :pk", pk=pk)
    except DamagedValueError:
        return None


def _pending(source: Source, key: Sequence[Any], texts: Sequence[str] | None) -> Pending:
    id, pk, project_pk = key
    try:
        if texts is not None:
            text = memory_input(*texts) if source == Source.MEMORY else message_input(pk, *texts)
            return Pending(source, id, pk, project_pk, text)
    except DamagedValueError:
        pass
    return Pending(source, id, pk, project_pk, "", damaged=True)


def memory_input(title: str, content: str) -> str:
    """Return what a model is to see of a memory."""
    return f"{title}\n\n{content}"


def message_input(pk: int, content: str) -> str:
    """Return what a model is to see of a message, by its content column. Raises CorruptDatabaseError."""
    return text_of(kept_parts(content, f"message {pk}"))

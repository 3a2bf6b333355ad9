"""How much a database holds, in all or of one project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storage import chunks, files, pending, slow_queries
from storage.connection import Connection
from storage.paths import own_files


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much there is; files by status, vectors those of passages, memories and messages.

    pending_vectors, bytes and slow_queries are of the whole database, also where one project was asked for.
    """

    files: dict[str, int]
    chunks: int
    memories: int
    conversations: int
    messages: int
    vectors: int
    pending_vectors: int
    database_bytes: int
    wal_bytes: int
    slow_queries: int


def of(db: Connection, project_pk: int | None = None) -> Statistics:
    """Return how much a project, or the whole database (None), holds."""
    database, log, *_ = own_files(db.path)
    return Statistics(
        files=files.counts(db, project_pk),
        chunks=chunks.count(db, project_pk),
        memories=_memories(db, project_pk),
        conversations=_conversations(db, project_pk),
        messages=_messages(db, project_pk),
        vectors=_vectors(db, project_pk),
        pending_vectors=pending.count(db),
        database_bytes=_bytes(database),
        wal_bytes=_bytes(log),
        slow_queries=slow_queries.count(db),
    )


def _memories(db: Connection, project_pk: int | None) -> int:
    return db.value(
        "SELECT count(*) FROM project_memories WHERE :project IS NULL OR project_id = :project", project=project_pk
    )


def _conversations(db: Connection, project_pk: int | None) -> int:
    return db.value(
        "SELECT count(*) FROM conversations WHERE :project IS NULL OR project_id = :project", project=project_pk
    )


def _messages(db: Connection, project_pk: int | None) -> int:
    return db.value(
        "SELECT count(*) FROM messages m JOIN conversations c ON c.pk = m.conversation_id"
        " WHERE :project IS NULL OR c.project_id = :project",
        project=project_pk,
    )


def _vectors(db: Connection, project_pk: int | None) -> int:
    return db.value(
        "SELECT count(*) FROM vector_bits v JOIN embedding_models m ON m.pk = v.model AND m.status = 'live'"
        " WHERE :project IS NULL OR v.project = :project",
        project=project_pk,
    )


def _bytes(path: Path) -> int:
    """Return the size of one of the engine's files, which is looked at and never opened."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

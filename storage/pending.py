"""Memories and messages whose vector is still to be made; text search finds them meanwhile.

Vectors are made outside any transaction: `take` in one, embed, then, in the one that writes the
vectors, `current` (what was changed, moved or deleted meanwhile drops out) and `done`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from storage.connection import Connection
from storage.content import kept_parts, text_of
from storage.sources import Source


class Pending(NamedTuple):
    """A row to embed: its source and pk, its project (None: of no project) and its text."""

    source: Source
    pk: int
    project_pk: int | None
    text: str


_MEMORIES = (
    "SELECT m.pk, m.project_id, m.title, m.content"
    " FROM pending_vectors p JOIN project_memories m ON m.pk = p.pk WHERE p.source = 'memory'"
)
_MESSAGES = (
    "SELECT m.pk, c.project_id, m.content FROM pending_vectors p"
    " JOIN messages m ON m.pk = p.pk JOIN conversations c ON c.pk = m.conversation_id WHERE p.source = 'message'"
)


def queue(db: Connection, source: Source, pk: int) -> None:
    """Note that a memory or message needs a vector; noting it twice does nothing."""
    db.run(
        "INSERT INTO pending_vectors (source, pk) VALUES (:source, :pk) ON CONFLICT (source, pk) DO NOTHING",
        source=source.value,
        pk=pk,
    )


def take(db: Connection, limit: int) -> list[Pending]:
    """Return up to `limit` rows to embed, memories first, the oldest first. They stay queued until `done`."""
    found = [_memory(row) for row in db.all(f"{_MEMORIES} ORDER BY p.pk LIMIT :limit", limit=limit)]
    left = limit - len(found)
    return found + [_message(row) for row in db.all(f"{_MESSAGES} ORDER BY p.pk LIMIT :limit", limit=left)]


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


def count(db: Connection) -> int:
    """Return how many rows wait for a vector."""
    return db.value("SELECT count(*) FROM pending_vectors")


def _read(db: Connection, source: Source, pk: int) -> Pending | None:
    if source == Source.MEMORY:
        row = db.one(f"{_MEMORIES} AND p.pk = :pk", pk=pk)
        return _memory(row) if row else None
    row = db.one(f"{_MESSAGES} AND p.pk = :pk", pk=pk)
    return _message(row) if row else None


def _memory(row: Sequence[Any]) -> Pending:
    pk, project_pk, title, content = row
    return Pending(Source.MEMORY, pk, project_pk, f"{title}\n\n{content}")


def _message(row: Sequence[Any]) -> Pending:
    pk, project_pk, content = row
    return Pending(Source.MESSAGE, pk, project_pk, text_of(kept_parts(content, f"message {pk}")))

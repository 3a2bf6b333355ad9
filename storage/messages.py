"""Messages of a conversation: what was said by whom, as a list of parts (see `storage.content`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from storage import changes, fields, paging, pending, text_index, vectors
from storage.connection import Connection
from storage.content import Part, parts, text_of
from storage.errors import NotFoundError
from storage.ids import new_id, now_text
from storage.paging import Page
from storage.sources import NO_PROJECT, Source
from storage.vectors import Vector


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `conversation_id` and `parent_id` are the ids that the doors show."""

    pk: int
    id: str
    conversation_id: str
    role: Role
    content: list[Part]
    parent_id: str | None
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message belongs: its row, its conversation and that one's project."""

    pk: int
    conversation_pk: int
    project_pk: int | None


_SELECT = (
    "SELECT m.pk, m.id, c.id, m.role, m.content, parent.id, m.created_at, m.updated_at"
    " FROM messages m JOIN conversations c ON c.pk = m.conversation_id"
    " LEFT JOIN messages parent ON parent.pk = m.parent_id"
)


def add(
    db: Connection,
    conversation_id: str,
    role: str,
    content: str | Sequence[Part],
    *,
    parent_id: str | None = None,
    created_at: str | None = None,
) -> Message:
    """Add a message to a conversation, which counts as updated at that time; text search finds it at once.

    parent_id: the message it answers, of the same conversation. created_at: now by default; another
    time (ISO 8601 with a zone) for what is imported.
    Raises NotFoundError for an unknown conversation or parent, UsageError for the rest.
    """
    kept = parts(content)
    values = {"role": fields.choice(Role, role, "role"), "content": fields.to_json(kept, "content")}
    now = now_text() if created_at is None else fields.instant(created_at, "created_at")
    conversation_pk, project_pk = _conversation(db, conversation_id)
    id = new_id()
    db.run(
        "INSERT INTO messages (id, conversation_id, role, content, parent_id, created_at, updated_at)"
        " VALUES (:id, :conversation, :role, :content, :parent, :now, :now)",
        id=id,
        conversation=conversation_pk,
        parent=_parent(db, conversation_pk, parent_id),
        now=now,
        **values,
    )
    _touch(db, conversation_pk, now)
    message = get(db, id)
    _index(db, project_pk, message.pk, kept)
    changes.bump(db, project_pk)
    return message


def get(db: Connection, id: str) -> Message:
    """Return a message; raises NotFoundError."""
    row = db.one(f"{_SELECT} WHERE m.id = :id", id=id)
    if row is None:
        raise _missing(id)
    return _message(row)


def listed(db: Connection, conversation_id: str, *, limit: int = 100, after: str | None = None) -> Page[Message]:
    """Return messages of a conversation in the order they were said.

    limit: 1 to 1000. after: `next` of the page before. Raises NotFoundError, UsageError.
    """
    conversation_pk, _ = _conversation(db, conversation_id)
    at, pk = paging.start(after, paging.OLDEST)
    rows = db.all(
        f"{_SELECT} WHERE m.conversation_id = :conversation AND (m.created_at, m.pk) > (:at, :pk)"
        " ORDER BY m.created_at, m.pk LIMIT :limit",
        conversation=conversation_pk,
        at=at,
        pk=pk,
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, _message, lambda message: (message.created_at, message.pk))


def every(db: Connection, conversation_id: str) -> list[Message]:
    """Return all messages of a conversation in the order they were said; raises NotFoundError."""
    conversation_pk, _ = _conversation(db, conversation_id)
    rows = db.all(
        f"{_SELECT} WHERE m.conversation_id = :conversation ORDER BY m.created_at, m.pk",
        conversation=conversation_pk,
    )
    return [_message(row) for row in rows]


def update(db: Connection, id: str, content: str | Sequence[Part]) -> Message:
    """Give a message another content; its old text leaves the indexes. Raises NotFoundError, UsageError."""
    kept = parts(content)
    place = _place(db, id)
    now = now_text()
    db.run(
        "UPDATE messages SET content = :content, updated_at = :now WHERE pk = :pk",
        content=fields.to_json(kept, "content"),
        now=now,
        pk=place.pk,
    )
    _touch(db, place.conversation_pk, now)
    forget(db, place.project_pk, [place.pk])
    _index(db, place.project_pk, place.pk, kept)
    changes.bump(db, place.project_pk)
    return get(db, id)


def delete(db: Connection, id: str) -> None:
    """Delete a message; its answers become answers to its parent. Raises NotFoundError."""
    place = _place(db, id)
    _hand_over_answers(db, place.pk)
    forget(db, place.project_pk, [place.pk])
    db.run("DELETE FROM messages WHERE pk = :pk", pk=place.pk)
    _touch(db, place.conversation_pk, now_text())
    changes.bump(db, place.project_pk)


def forget(db: Connection, project_pk: int | None, pks: Sequence[int]) -> None:
    """Take messages out of the text index, the vectors and the queue for vectors; the rows stay.

    The caller changes or deletes the rows, and bumps the generation, in this transaction.
    """
    text_index.delete(db, Source.MESSAGE, pks)
    vectors.delete(db, project_pk, Source.MESSAGE, pks)
    pending.done(db, Source.MESSAGE, pks)


def rescope(db: Connection, pks: Sequence[int], old: int | None, new: int | None) -> None:
    """Let messages be found in project `new` instead of `old` (None: of no project); nothing is embedded again.

    The caller moves the conversations, and bumps both generations, in this transaction.
    """
    _move_vectors(db, pks, old, new)
    text_index.delete(db, Source.MESSAGE, pks)
    _put_text(db, new, ((pk, text_of(_content(db, pk))) for pk in pks))


def _move_vectors(db: Connection, pks: Sequence[int], old: int | None, new: int | None) -> None:
    for (model,) in db.all("SELECT pk FROM embedding_models"):
        found = [(pk, _vector(db, model, old, pk)) for pk in pks]
        vectors.put(db, model, new, Source.MESSAGE, [(pk, *kept) for pk, kept in found if kept is not None])
    vectors.delete(db, old, Source.MESSAGE, pks)


def _vector(db: Connection, model: int, project_pk: int | None, pk: int) -> tuple[bytes, Vector] | None:
    """Return the hash of what a model was given for a message, and the vector it made of it."""
    row = db.one(
        "SELECT e.input_hash, e.vector, b.bits FROM vector_bits b JOIN embeddings e ON e.pk = b.embedding"
        " WHERE b.model = :model AND b.project = :project AND b.source = 'message' AND b.pk = :pk",
        model=model,
        project=NO_PROJECT if project_pk is None else project_pk,
        pk=pk,
    )
    return (row[0], Vector(row[1], row[2])) if row else None


def pks_of_conversation(db: Connection, conversation_pk: int) -> list[int]:
    """Return the keys of the messages of a conversation."""
    return [
        pk for (pk,) in db.all("SELECT pk FROM messages WHERE conversation_id = :pk ORDER BY pk", pk=conversation_pk)
    ]


def _hand_over_answers(db: Connection, pk: int) -> None:
    db.run(
        "UPDATE messages SET parent_id = (SELECT gone.parent_id FROM messages gone WHERE gone.pk = :pk)"
        " WHERE parent_id = :pk",
        pk=pk,
    )


def _index(db: Connection, project_pk: int | None, pk: int, content: Sequence[Part]) -> None:
    text = text_of(content)
    _put_text(db, project_pk, [(pk, text)])
    if text.strip():
        pending.queue(db, Source.MESSAGE, pk)


def _put_text(db: Connection, project_pk: int | None, texts: Iterable[tuple[int, str]]) -> None:
    rows = ((pk, text_index.tokens(text)) for pk, text in texts if text.strip())
    text_index.put(db, Source.MESSAGE, project_pk, rows)


def _content(db: Connection, pk: int) -> list[Part]:
    return json.loads(db.value("SELECT content FROM messages WHERE pk = :pk", pk=pk))


def _touch(db: Connection, conversation_pk: int, now: str) -> None:
    """Count a conversation as updated at `now`, unless it was later: an import brings old messages."""
    db.run(
        "UPDATE conversations SET updated_at = :now WHERE pk = :pk AND updated_at < :now",
        pk=conversation_pk,
        now=now,
    )


def _conversation(db: Connection, id: str) -> tuple[int, int | None]:
    row = db.one("SELECT pk, project_id FROM conversations WHERE id = :id", id=id)
    if row is None:
        raise NotFoundError(f"conversation {id}: no such conversation; list them with knowlex conversation list")
    return row[0], row[1]


def _parent(db: Connection, conversation_pk: int, id: str | None) -> int | None:
    if id is None:
        return None
    pk = db.value(
        "SELECT pk FROM messages WHERE id = :id AND conversation_id = :conversation",
        id=id,
        conversation=conversation_pk,
    )
    if pk is None:
        raise NotFoundError(f"parent message {id}: no such message in this conversation; name one of its messages")
    return pk


def _place(db: Connection, id: str) -> _Place:
    row = db.one(
        "SELECT m.pk, m.conversation_id, c.project_id"
        " FROM messages m JOIN conversations c ON c.pk = m.conversation_id WHERE m.id = :id",
        id=id,
    )
    if row is None:
        raise _missing(id)
    return _Place(*row)


def _missing(id: str) -> NotFoundError:
    return NotFoundError(f"message {id}: no such message; knowlex conversation show lists those of a conversation")


def _message(row: Sequence[Any]) -> Message:
    pk, id, conversation, role, content, parent, created, updated = row
    return Message(pk, id, conversation, Role(role), json.loads(content), parent, created, updated)

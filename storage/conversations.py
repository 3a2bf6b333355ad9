"""Conversations: what was said in one go, in a project or in none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage import changes, fields, messages, paging
from storage.connection import Connection
from storage.content import kept_parts, text_of
from storage.errors import NotFoundError
from storage.ids import new_id, now_text
from storage.messages import Message
from storage.paging import Page
from storage.sources import NO_PROJECT
from storage.tokens_ahead import TokensAhead
from storage.vectors import integers

PREVIEW_CHARS = 100

READ_AT_ONCE = 200
"""Conversations that `made` holds in memory at a time."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; `project_id` is the id that the doors show; of no project, all three are None."""

    pk: int
    id: str
    project_pk: int | None
    project_id: str | None
    project_name: str | None
    title: str
    settings: dict[str, Any]
    created_at: str
    updated_at: str
    message_count: int


@dataclass(frozen=True, slots=True)
class ConversationWithMessages:
    """A conversation and all of its messages, in the order they were said."""

    conversation: Conversation
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation and how it ends: when, and the first 100 characters of its last message's text, on one line.

    Both are None where there is no message; the preview is empty where the last one has no text.
    """

    conversation: Conversation
    last_message_at: str | None
    last_message_preview: str | None


_COLUMNS = (
    "c.pk, c.id, p.pk, p.id, p.name, c.title, c.settings, c.created_at, c.updated_at,"
    " (SELECT count(*) FROM messages m WHERE m.conversation_id = c.pk)"
)
_LAST = " FROM messages m WHERE m.conversation_id = c.pk ORDER BY m.created_at DESC, m.pk DESC LIMIT 1"
_FROM = " FROM conversations c LEFT JOIN projects p ON p.pk = c.project_id"
_IN_PROJECT = " AND c.project_id = :project"
_AMONG = " AND c.project_id IN (SELECT value FROM carray(:among))"
_IN_NONE = " AND c.project_id IS NULL"


def create(
    db: Connection,
    title: str,
    *,
    project_pk: int | None = None,
    settings: dict[str, Any] | None = None,
    id: str | None = None,
    created_at: str | None = None,
    updated_at: str | None = None,
) -> Conversation:
    """Begin a conversation in a project, or in none.

    id: a new one by default. created_at: now by default, updated_at: created_at. What is imported brings
    its own, times as ISO 8601 with a zone.
    Raises NotFoundError for an unknown project, UniqueError for an id that is there already, UsageError.
    """
    _require_project(db, project_pk)
    id = new_id() if id is None else fields.given_id(id)
    now = now_text() if created_at is None else fields.instant(created_at, "created_at")
    db.run(
        "INSERT INTO conversations (id, project_id, title, settings, created_at, updated_at)"
        " VALUES (:id, :project, :title, :settings, :now, :updated)",
        id=id,
        project=project_pk,
        title=fields.text(title, "title"),
        settings=fields.mapping({} if settings is None else settings, "settings"),
        now=now,
        updated=now if updated_at is None else fields.instant(updated_at, "updated_at"),
    )
    return get(db, id)


def get(db: Connection, id: str) -> Conversation:
    """Return a conversation; raises NotFoundError."""
    found = find(db, id)
    if found is None:
        raise NotFoundError(f"conversation {id}: no such conversation; list them with knowlex conversation list")
    return found


def find(db: Connection, id: str) -> Conversation | None:
    """Return a conversation, or None."""
    row = db.one(f"SELECT {_COLUMNS}{_FROM} WHERE c.id = :id", id=id)
    return _conversation(row) if row else None


def made(db: Connection, *, project_pk: int | None = None) -> Iterator[Conversation]:
    """Yield conversations in the order they came into the database; only their keys are read at once.

    project_pk: of one project; NO_PROJECT for those of none; None for all.
    """
    pks = pks_of(db, project_pk)
    for start in range(0, len(pks), READ_AT_ONCE):
        rows = db.all(
            f"SELECT {_COLUMNS}{_FROM} WHERE c.pk IN (SELECT value FROM carray(:pks)) ORDER BY c.pk",
            pks=integers(pks[start : start + READ_AT_ONCE]),
        )
        yield from map(_conversation, rows)


def pks_of(db: Connection, project_pk: int | None) -> list[int]:
    """Return the keys of the conversations of a project, of none (NO_PROJECT) or of all (None), in their order."""
    sql = f"SELECT c.pk FROM conversations c WHERE TRUE{_inside(project_pk)} ORDER BY c.pk"
    return [pk for (pk,) in db.all(sql, **_owner(project_pk))]


def said(db: Connection, id: str) -> list[int]:
    """Return the keys of its messages, so that `tokens_ahead.made` spares `move` to tokenise them.

    Raises NotFoundError.
    """
    return messages.pks_of_conversation(db, get(db, id).pk)


def with_messages(db: Connection, id: str) -> ConversationWithMessages:
    """Return a conversation with all of its messages; raises NotFoundError."""
    return ConversationWithMessages(get(db, id), messages.every(db, id))


def listed(
    db: Connection,
    *,
    project_pk: int | None = None,
    among: Collection[int] | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page[Conversation]:
    """Return conversations, the last updated first.

    project_pk: of one project; NO_PROJECT for those of none; None for all. among: only of these projects.
    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    rows = _rows(db, _COLUMNS, project_pk, among, limit, after)
    return paging.cut(rows, limit, _conversation, _key, "conversations")


def summaries(
    db: Connection,
    *,
    project_pk: int | None = None,
    among: Collection[int] | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page[Summary]:
    """Return conversations with their last words, the last updated first; see `listed`."""
    columns = f"{_COLUMNS}, (SELECT m.created_at{_LAST}), (SELECT m.content{_LAST})"
    rows = _rows(db, columns, project_pk, among, limit, after)
    return paging.cut(rows, limit, _summary, lambda summary: _key(summary.conversation), "conversations")


def update(
    db: Connection, id: str, *, title: str | None = None, settings: dict[str, Any] | None = None
) -> Conversation:
    """Change what is given of a conversation; None leaves a field as it is. Raises NotFoundError, UsageError."""
    old = get(db, id)
    db.run(
        "UPDATE conversations SET title = :title, settings = :settings, updated_at = :now WHERE pk = :pk",
        pk=old.pk,
        title=old.title if title is None else fields.text(title, "title"),
        settings=fields.mapping(old.settings if settings is None else settings, "settings"),
        now=now_text(),
    )
    changes.bump(db, old.project_pk)
    return get(db, id)


def date_back(db: Connection, id: str, updated_at: str) -> None:
    """Let a conversation that is imported count as updated when it was, whatever its messages said of it since."""
    db.run(
        "UPDATE conversations SET updated_at = :at WHERE id = :id", id=id, at=fields.instant(updated_at, "updated_at")
    )


def move(db: Connection, id: str, project_pk: int | None, *, tokens: TokensAhead | None = None) -> Conversation:
    """Put a conversation and what is searched of it into another project, or into none (None).

    tokens: those of what was `said`, made before the transaction.
    Raises NotFoundError for an unknown conversation or project.
    """
    old = get(db, id)
    if old.project_pk == project_pk:
        return old
    _require_project(db, project_pk)
    db.run("UPDATE conversations SET project_id = :project WHERE pk = :pk", project=project_pk, pk=old.pk)
    messages.rescope(db, messages.pks_of_conversation(db, old.pk), old.project_pk, project_pk, tokens)
    changes.bump(db, old.project_pk)
    changes.bump(db, project_pk)
    return get(db, id)


def delete(db: Connection, id: str) -> None:
    """Delete a conversation with its messages and all that was derived of them; raises NotFoundError."""
    conversation = get(db, id)
    messages.forget(db, conversation.project_pk, messages.pks_of_conversation(db, conversation.pk))
    db.run("DELETE FROM conversations WHERE pk = :pk", pk=conversation.pk)
    changes.bump(db, conversation.project_pk)


def _rows(
    db: Connection,
    columns: str,
    project_pk: int | None,
    among: Collection[int] | None,
    limit: int,
    after: str | None,
) -> list[tuple[Any, ...]]:
    at, pk = paging.start(after, paging.NEWEST, "conversations")
    allowed = "" if among is None else _AMONG
    return db.all(
        f"SELECT {columns}{_FROM} WHERE (c.updated_at, c.pk) < (:at, :pk){_inside(project_pk)}{allowed}"
        " ORDER BY c.updated_at DESC, c.pk DESC LIMIT :limit",
        at=at,
        pk=pk,
        limit=paging.probe(limit),
        **_owner(project_pk),
        **({} if among is None else {"among": integers(among)}),
    )


def _inside(project_pk: int | None) -> str:
    return "" if project_pk is None else _IN_NONE if project_pk == NO_PROJECT else _IN_PROJECT


def _owner(project_pk: int | None) -> dict[str, int]:
    return {"project": project_pk} if project_pk else {}


def _require_project(db: Connection, pk: int | None) -> None:
    if pk is not None and db.value("SELECT 1 FROM projects WHERE pk = :pk", pk=pk) is None:
        raise NotFoundError("the project of the conversation does not exist; list them with knowlex project list")


def _key(conversation: Conversation) -> tuple[str, int]:
    return conversation.updated_at, conversation.pk


def _conversation(row: Sequence[Any]) -> Conversation:
    pk, id, project_pk, project, name, title, settings, created, updated, count = row
    return Conversation(
        pk,
        id,
        project_pk,
        project,
        name,
        title,
        fields.kept_json(settings, f"conversation {id}"),
        created,
        updated,
        count,
    )


def _summary(row: Sequence[Any]) -> Summary:
    *conversation, at, content = row
    preview = None if content is None else _one_line(text_of(kept_parts(content, "last message")))
    return Summary(_conversation(conversation), at, preview)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:PREVIEW_CHARS]

"""Messages of a conversation: what was said by whom, as a list of parts (see `storage.content`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from storage import changes, fields, paging, pending, text_index, tokens_ahead, vectors
from storage.connection import Connection
from storage.content import Part, kept_parts, parts, text_of
from storage.errors import NotFoundError, UsageError
from storage.ids import new_id, now_text
from storage.paging import Page
from storage.passage_tokens import Tokens, tokens_of
from storage.sources import NO_PROJECT, Source
from storage.tokens_ahead import TokensAhead
from storage.vectors import Vector, integers

Order = Literal["oldest", "newest"]


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
    id: str | None = None,
    created_at: str | None = None,
    updated_at: str | None = None,
) -> Message:
    """Add a message to a conversation, which counts as updated at that time; text search finds it at once.

    parent_id: the message it answers, of the same conversation. id: a new one by default. created_at: now
    by default, updated_at: created_at; times as ISO 8601 with a zone.
    Raises NotFoundError for an unknown conversation or parent, UniqueError for an id that is there
    already, UsageError for the rest.
    """
    kept, kind = parts(content), fields.choice(Role, role, "role")
    now = now_text() if created_at is None else fields.instant(created_at, "created_at")
    conversation_pk, project_pk = conversation(db, conversation_id)
    id = new_id() if id is None else fields.given_id(id)
    pk = insert(
        db,
        conversation_pk,
        kind,
        kept,
        id=id,
        parent_pk=_parent(db, conversation_pk, parent_id),
        created_at=now,
        updated_at=now if updated_at is None else fields.instant(updated_at, "updated_at"),
    )
    touch(db, conversation_pk, now)
    _index(db, project_pk, pk, kept)
    changes.bump(db, project_pk)
    return get(db, id)


def insert(
    db: Connection,
    conversation_pk: int,
    role: Role,
    content: Sequence[Part],
    *,
    id: str,
    parent_pk: int | None,
    created_at: str,
    updated_at: str,
) -> int:
    """Insert the row of a message whose fields were checked before, and return its key.

    The caller indexes its text (`index`), touches the conversation and bumps the generation, in this
    transaction: for many messages, once. Raises UniqueError for an id that is there already, UsageError for
    half a character.
    """
    db.run(
        "INSERT INTO messages (id, conversation_id, role, content, parent_id, created_at, updated_at)"
        " VALUES (:id, :conversation, :role, :content, :parent, :created, :updated)",
        id=id,
        conversation=conversation_pk,
        role=role,
        content=fields.restored(content, "content"),
        parent=parent_pk,
        created=created_at,
        updated=updated_at,
    )
    return db.last_pk()


def get(db: Connection, id: str) -> Message:
    """Return a message; raises NotFoundError."""
    found = find(db, id)
    if found is None:
        raise _missing(id)
    return found


def find(db: Connection, id: str) -> Message | None:
    """Return a message, or None."""
    row = db.one(f"{_SELECT} WHERE m.id = :id", id=id)
    return _message(row) if row else None


def listed(
    db: Connection, conversation_id: str, *, order: Order = "oldest", limit: int = 100, after: str | None = None
) -> Page[Message]:
    """Return messages of a conversation in the order they were said, or the newest first.

    order: "oldest" or "newest". limit: 1 to 1000. after: `next` of the page before, in the same order.
    Raises NotFoundError, UsageError.
    """
    if order not in _ORDERS:
        raise UsageError(f"order {order!r}: is unknown; give one of {', '.join(_ORDERS)}")
    first, sign, way = _ORDERS[order]
    conversation_pk, _ = conversation(db, conversation_id)
    at, pk = paging.start(after, first, f"messages, {order}")
    rows = db.all(
        f"{_SELECT} WHERE m.conversation_id = :conversation AND (m.created_at, m.pk) {sign} (:at, :pk)"
        f" ORDER BY m.created_at {way}, m.pk {way} LIMIT :limit",
        conversation=conversation_pk,
        at=at,
        pk=pk,
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, _message, _key, f"messages, {order}")


_ORDERS = {"oldest": (paging.OLDEST, ">", "ASC"), "newest": (paging.NEWEST, "<", "DESC")}


def thread(db: Connection, id: str) -> list[Message]:
    """Return the way to a message: from the first of its thread, by what answers what, down to itself.

    In damaged data, where messages answer each other in a circle, it begins behind what would come
    twice. Raises NotFoundError.
    """
    place = _place(db, id)
    # No way is longer than the conversation, so that a circle comes to an end. The plus keeps each step from
    # reading the index of all answers.
    rows = db.all(
        "WITH RECURSIVE way (pk, step) AS (SELECT :pk, 0 UNION ALL"
        " SELECT child.parent_id, way.step + 1 FROM way CROSS JOIN messages child ON child.pk = way.pk"
        " WHERE +child.parent_id IS NOT NULL"
        " LIMIT (SELECT count(*) FROM messages WHERE conversation_id = :conversation))"
        f" SELECT way.step, found.* FROM way CROSS JOIN ({_SELECT}) found ON found.pk = way.pk ORDER BY way.step",
        pk=place.pk,
        conversation=place.conversation_pk,
    )
    way = {row[1]: row[1:] for row in rows}
    return [_message(row) for row in reversed(way.values())]


def neighbours(db: Connection, pks: Collection[int]) -> dict[int, list[int]]:
    """Return by pk the messages that were said right before and right behind each in its conversation."""
    if not pks:
        return {}
    rows = db.all(
        "SELECT m.pk,"
        " (SELECT b.pk FROM messages b WHERE b.conversation_id = m.conversation_id"
        "  AND (b.created_at, b.pk) < (m.created_at, m.pk) ORDER BY b.created_at DESC, b.pk DESC LIMIT 1),"
        " (SELECT a.pk FROM messages a WHERE a.conversation_id = m.conversation_id"
        "  AND (a.created_at, a.pk) > (m.created_at, m.pk) ORDER BY a.created_at, a.pk LIMIT 1)"
        " FROM carray(:pks) p CROSS JOIN messages m ON m.pk = p.value",
        pks=integers(pks),
    )
    return {pk: [other for other in beside if other is not None] for pk, *beside in rows}


def answers(db: Connection, id: str, *, limit: int = 100, after: str | None = None) -> Page[Message]:
    """Return what directly answers a message, the oldest first.

    limit: 1 to 1000. after: `next` of the page before. Raises NotFoundError, UsageError.
    """
    parent = _place(db, id).pk
    at, pk = paging.start(after, paging.OLDEST, "answers")
    rows = db.all(
        f"{_SELECT} WHERE m.parent_id = :parent AND (m.created_at, m.pk) > (:at, :pk)"
        " ORDER BY m.created_at, m.pk LIMIT :limit",
        parent=parent,
        at=at,
        pk=pk,
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, _message, _key, "answers")


def answer(db: Connection, id: str, parent_id: str) -> None:
    """Make a message the answer to another one of its conversation; see `link`."""
    link(db, get(db, id).conversation_id, [(id, parent_id)])
    changes.bump(db, _place(db, id).project_pk)


def link(db: Connection, conversation_id: str, answers: Iterable[tuple[str, str]]) -> None:
    """Make messages of a conversation answers to others of it, (id, parent id) each: an import may bring these later.

    The pairs are taken one by one, so that an error is about the last one taken. The caller bumps the
    generation, in this transaction.
    Raises NotFoundError, UsageError for what would answer itself.
    """
    conversation_pk, _ = conversation(db, conversation_id)
    known = dict(db.all("SELECT id, pk FROM messages WHERE conversation_id = :pk", pk=conversation_pk))
    above = _parents(db, conversation_pk)
    for id, parent_id in answers:
        if id not in known:
            raise _missing(id)
        if parent_id not in known:
            raise _no_parent(parent_id)
        child, parent = known[id], known[parent_id]
        if child in above:  # steps that were shortened may lead past what it answered until now
            above = _parents(db, conversation_pk)
            del above[child]
        if _top(above, parent) == child:
            raise UsageError(f"message {id}: answers itself by way of {parent_id}; correct their parents")
        above[child] = parent
        db.run("UPDATE messages SET parent_id = :parent WHERE pk = :pk", parent=parent, pk=child)


def _parents(db: Connection, conversation_pk: int) -> dict[int, int]:
    """Return what each message of a conversation answers, by the keys; those that answer nothing are left out."""
    rows = db.all("SELECT pk, parent_id FROM messages WHERE conversation_id = :pk", pk=conversation_pk)
    return {pk: parent for pk, parent in rows if parent is not None}


def _top(above: dict[int, int], pk: int) -> int:
    """Return the first message of the thread of `pk`, and shorten the way there for the next to ask."""
    way = dict[int, None]()
    while pk in above and pk not in way:  # in damaged data there may be circles
        way[pk] = None
        pk = above[pk]
    above.update(dict.fromkeys(way, pk))
    return pk


def every(db: Connection, conversation_id: str) -> list[Message]:
    """Return all messages of a conversation in the order they were said; raises NotFoundError."""
    conversation_pk, _ = conversation(db, conversation_id)
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
    touch(db, place.conversation_pk, now)
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
    touch(db, place.conversation_pk, now_text())
    changes.bump(db, place.project_pk)


def forget(db: Connection, project_pk: int | None, pks: Sequence[int]) -> None:
    """Take messages out of the text index, the vectors and the queue for vectors; the rows stay.

    The caller changes or deletes the rows, and bumps the generation, in this transaction.
    """
    text_index.delete(db, Source.MESSAGE, pks)
    vectors.delete(db, project_pk, Source.MESSAGE, pks)
    pending.done(db, Source.MESSAGE, pks)


def rescope(
    db: Connection, pks: Collection[int], old: int | None, new: int | None, tokens: TokensAhead | None = None
) -> None:
    """Let messages be found in project `new` instead of `old` (None: of no project); nothing is embedded again.

    tokens: what `tokens_ahead.made` gave before the transaction; what is missing, or was changed since, is made here.
    The caller moves the conversations, and bumps both generations, in this transaction.
    """
    pages = tokens_ahead.pages(pks)
    for page in pages:
        _move_vectors(db, page, old, new)
    # All at once: each time the engine goes back to a lower key, it writes out what was put until then.
    text_index.delete(db, Source.MESSAGE, list(pks))
    for page in pages:
        text_index.put(db, Source.MESSAGE, new, _tokens(db, page, tokens))


def _move_vectors(db: Connection, pks: Sequence[int], old: int | None, new: int | None) -> None:
    for (model,) in db.all("SELECT pk FROM embedding_models WHERE status <> 'retired'"):
        vectors.put(db, model, new, Source.MESSAGE, _vectors(db, model, old, pks))
    vectors.delete(db, old, Source.MESSAGE, pks)


def _vectors(db: Connection, model: int, project_pk: int | None, pks: Sequence[int]) -> list[tuple[int, bytes, Vector]]:
    """Return of messages the key, the hash of what a model was given for it, and the vector it made of that."""
    rows = db.all(
        "SELECT b.pk, e.input_hash, e.vector, b.bits FROM vector_bits b JOIN embeddings e ON e.pk = b.embedding"
        " WHERE b.model = :model AND b.project = :project AND b.source = 'message'"
        " AND b.pk IN (SELECT value FROM carray(:pks))",
        model=model,
        project=NO_PROJECT if project_pk is None else project_pk,
        pks=integers(pks),
    )
    return [(pk, digest, Vector(half, bits)) for pk, digest, half, bits in rows]


def _tokens(db: Connection, pks: Sequence[int], ahead: TokensAhead | None) -> Iterator[tuple[int, Tokens]]:
    """Yield the key and tokens of each of these messages that has a text."""
    for pk, id, content in tokens_ahead.contents(db, pks):
        if ahead and (made := ahead.of(pk, content)):
            yield pk, made
        elif (text := tokens_ahead.text(id, content)).strip():
            yield pk, tokens_of(text)


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


def index(db: Connection, project_pk: int | None, rows: Sequence[tuple[int, Tokens]]) -> None:
    """Let new messages be found by words at once, and queue them for vectors: the key and tokens of each with a text.

    The caller bumps the generation, in this transaction.
    """
    text_index.put(db, Source.MESSAGE, project_pk, rows)
    for pk, _ in rows:
        pending.queue(db, Source.MESSAGE, pk)


def _index(db: Connection, project_pk: int | None, pk: int, content: Sequence[Part]) -> None:
    text = text_of(content)
    if text.strip():
        index(db, project_pk, [(pk, tokens_of(text))])


def touch(db: Connection, conversation_pk: int, now: str) -> None:
    """Count a conversation as updated at `now`, unless it was later: an import brings old messages."""
    db.run(
        "UPDATE conversations SET updated_at = :now WHERE pk = :pk AND updated_at < :now",
        pk=conversation_pk,
        now=now,
    )


def conversation(db: Connection, id: str) -> tuple[int, int | None]:
    """Return the keys of a conversation and of its project (None: of none); raises NotFoundError."""
    row = db.one("SELECT pk, project_id FROM conversations WHERE id = :id", id=id)
    if row is None:
        raise NotFoundError(f"conversation {id}: no such conversation; list them with knowlex conversation list")
    return row[0], row[1]


def _parent(db: Connection, conversation_pk: int, id: str | None) -> int | None:
    if id is None:
        return None
    pk = key(db, conversation_pk, id)
    if pk is None:
        raise _no_parent(id)
    return pk


def key(db: Connection, conversation_pk: int, id: str) -> int | None:
    """Return the key of a message of a conversation; None where it has none of that id."""
    return db.value(
        "SELECT pk FROM messages WHERE id = :id AND conversation_id = :conversation",
        id=id,
        conversation=conversation_pk,
    )


def _no_parent(id: str) -> NotFoundError:
    return NotFoundError(f"parent message {id}: no such message in this conversation; name one of its messages")


def _place(db: Connection, id: str) -> _Place:
    row = db.one(
        "SELECT m.pk, m.conversation_id, c.project_id"
        " FROM messages m JOIN conversations c ON c.pk = m.conversation_id WHERE m.id = :id",
        id=id,
    )
    if row is None:
        raise _missing(id)
    return _Place(*row)


def _key(message: Message) -> tuple[str, int]:
    return message.created_at, message.pk


def _missing(id: str) -> NotFoundError:
    return NotFoundError(f"message {id}: no such message; knowlex conversation show lists those of a conversation")


def _message(row: Sequence[Any]) -> Message:
    pk, id, conversation, role, content, parent, created, updated = row
    return Message(pk, id, conversation, Role(role), kept_parts(content, f"message {id}"), parent, created, updated)

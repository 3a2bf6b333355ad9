"""Conversations as JSON Lines: out of one database and into another, whole.

A line for a conversation, and behind it a line for each of its messages, in the order they were said:

    {"type":"conversation","id":"…","title":"…","project":"handbook","settings":{},
     "created_at":"2026-01-31T09:30:00.000Z","updated_at":"…","messages":1}
    {"type":"message","id":"…","role":"user","content":[{"type":"text","text":"…"}],
     "parent_id":null,"created_at":"…","updated_at":"…"}

(Each is one line in truth.) The text is UTF-8. A conversation needs type, id and title, a message type,
id, role and content, which may be a plain string. `project` is a name, null for none; `messages` says how
many lines follow, so that a file that was cut off is noticed; `parent_id` names the message that is
answered, of the same conversation, before or behind.

What comes in keeps its ids, so that it comes in once: a conversation or message that is there already
with the same content is left alone, one that is there with another content is an error.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from storage import conversations, fields, messages, projects
from storage.connection import Connection
from storage.content import parts
from storage.conversations import Conversation
from storage.errors import NotFoundError, UniqueError, UsageError
from storage.messages import Message

PAGE = 200
"""Conversations or messages that are held in memory at a time."""

_CONVERSATION = ("type", "id", "title", "project", "settings", "created_at", "updated_at", "messages")
_MESSAGE = ("type", "id", "role", "content", "parent_id", "created_at", "updated_at")


@dataclass(slots=True)
class Imported:
    """How many conversations and messages came in, and how many were there already."""

    conversations: int = 0
    messages: int = 0
    unchanged_conversations: int = 0
    unchanged_messages: int = 0


# --- out -------------------------------------------------------------------------------------------


def export(db: Connection, *, ids: Sequence[str] = (), project_pk: int | None = None) -> Iterator[str]:
    """Yield conversations line by line, without line ends: those of `ids`, of a project, or all.

    In the order of `ids`, else in which they came into the database; an import keeps it, so that its
    export is the same, byte for byte. project_pk: NO_PROJECT for those of none.
    Raises NotFoundError for an unknown id, before the first line.
    """
    for conversation in _named(db, ids) if ids else _every(db, project_pk):
        yield _line(_conversation(conversation))
        for message in _messages(db, conversation.id):
            yield _line(_message(message))


def _named(db: Connection, ids: Sequence[str]) -> list[Conversation]:
    return [conversations.get(db, id) for id in dict.fromkeys(ids)]


def _every(db: Connection, project_pk: int | None) -> Iterator[Conversation]:
    after = 0
    while page := conversations.made(db, project_pk=project_pk, after_pk=after, limit=PAGE):
        yield from page
        after = page[-1].pk


def _messages(db: Connection, conversation_id: str) -> Iterator[Message]:
    after = None
    while True:
        page = messages.listed(db, conversation_id, limit=PAGE, after=after)
        yield from page.items
        if (after := page.next) is None:
            return


def _conversation(conversation: Conversation) -> dict[str, Any]:
    return {
        "type": "conversation",
        "id": conversation.id,
        "title": conversation.title,
        "project": conversation.project_name,
        "settings": conversation.settings,
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
        "messages": conversation.message_count,
    }


def _message(message: Message) -> dict[str, Any]:
    return {
        "type": "message",
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "parent_id": message.parent_id,
        "created_at": message.created_at,
        "updated_at": message.updated_at,
    }


def _line(value: dict[str, Any]) -> str:
    return fields.to_json(value, value["type"])


# --- in --------------------------------------------------------------------------------------------


def load(
    db: Connection, lines: Iterable[str | bytes], *, name: str = "import", project_pk: int | None = None
) -> Imported:
    """Take conversations in and return how many; read line by line, nothing else is held in memory.

    lines: text or UTF-8 bytes, with or without line ends, such as an open file; blank lines and a byte
    order mark are passed over. name: of the file, for errors. project_pk: where new conversations go;
    by default into the projects that the lines name, which are made where they are missing.
    The caller undoes the transaction on an error, so that all comes in or nothing.
    Raises UsageError for a line that cannot be used and UniqueError for an id that is there with another
    content: both name the file, the line, the cause and the remedy.
    """
    intake = _Intake(db, name, project_pk)
    for number, line in enumerate(lines, 1):
        with intake.reading(number):
            intake.take(_text(line, first=number == 1))
    intake.finish()
    return intake.done


@dataclass(slots=True)
class _Answer:
    """A message whose parent had not come yet, and its line."""

    line: int
    id: str
    parent_id: str


@dataclass(slots=True)
class _Intake:
    """An import on its way: the conversation that its messages belong to, and what is still owed to it."""

    db: Connection
    name: str
    project_pk: int | None
    done: Imported = field(default_factory=Imported)
    line: int = 0
    conversation: str | None = None
    begun_at: int = 0
    announced: int | None = None
    followed: int = 0
    answers: list[_Answer] = field(default_factory=list[_Answer])
    projects: dict[str, int] = field(default_factory=dict[str, int])

    @contextmanager
    def reading(self, line: int) -> Generator[None]:
        """Name the file and the line in what goes wrong in the block."""
        self.line = line
        try:
            yield
        except UniqueError as error:
            raise UniqueError(f"{self.name}, line {self.line}: {error.message}") from error
        except (UsageError, NotFoundError) as error:
            raise UsageError(f"{self.name}, line {self.line}: {error.message}") from error

    def take(self, text: str) -> None:
        """Take in what one line says."""
        if not text.strip():
            return
        entry = _object(text)
        match entry.get("type"):
            case "conversation":
                at = self.line
                self.finish()
                self.line = at
                self._begin(_known(entry, _CONVERSATION))
            case "message":
                self._add(_known(entry, _MESSAGE))
            case other:
                raise UsageError(f"type {other!r}: is unknown; give conversation or message")

    def finish(self) -> None:
        """End a conversation: link the answers that came before what they answer, and count its messages."""
        for answer in self.answers:
            with self.reading(answer.line):
                messages.answer(self.db, answer.id, answer.parent_id)
        self.answers.clear()
        if self.announced is not None and self.followed != self.announced:
            with self.reading(self.begun_at):
                raise UsageError(
                    f"says that {self.announced} messages follow, but there are {self.followed};"
                    " the file is cut off or was edited: export it again, or correct `messages`"
                )
        self.conversation, self.announced, self.followed = None, None, 0

    def _begin(self, entry: Mapping[str, Any]) -> None:
        id = _id(entry)
        announced = entry.get("messages")
        if announced is not None and (type(announced) is not int or announced < 0):
            raise UsageError(f"messages: {announced!r} is no number of messages; give how many follow, or leave it out")
        self._keep_conversation(id, entry)
        self.conversation, self.begun_at, self.announced = id, self.line, announced

    def _keep_conversation(self, id: str, entry: Mapping[str, Any]) -> None:
        there = conversations.find(self.db, id)
        if there is None:
            conversations.create(
                self.db,
                entry.get("title", ""),
                project_pk=self._project(entry),
                settings=entry.get("settings"),
                id=id,
                created_at=entry.get("created_at"),
                updated_at=entry.get("updated_at"),
            )
            self.done.conversations += 1
            return
        what = f"conversation {id}"
        _require_same("title", entry.get("title", ""), there.title, what)
        _require_same("settings", entry.get("settings") or {}, there.settings, what)
        _require_same_time(entry.get("created_at"), there.created_at, what)
        self.done.unchanged_conversations += 1

    def _project(self, entry: Mapping[str, Any]) -> int | None:
        name = entry.get("project")
        if self.project_pk is not None or name is None:
            return self.project_pk
        key = fields.line(name, "project")
        if key not in self.projects:
            self.projects[key] = projects.ensure(self.db, key).pk
        return self.projects[key]

    def _add(self, entry: Mapping[str, Any]) -> None:
        if self.conversation is None:
            raise UsageError("is a message before any conversation; put the line of its conversation before it")
        id = _id(entry)
        parent = entry.get("parent_id")
        if parent is not None:
            fields.line(parent, "parent_id")
        self.followed += 1
        there = messages.find(self.db, id)
        if there is None:
            self._keep_message(self.conversation, id, parent, entry)
        else:
            self._compare(there, entry, parent)

    def _keep_message(self, conversation: str, id: str, parent: str | None, entry: Mapping[str, Any]) -> None:
        later = parent is not None and messages.find(self.db, parent) is None
        messages.add(
            self.db,
            conversation,
            entry.get("role", ""),
            entry.get("content", ()),
            parent_id=None if later else parent,
            id=id,
            created_at=entry.get("created_at"),
            updated_at=entry.get("updated_at"),
        )
        if later and parent is not None:
            self.answers.append(_Answer(self.line, id, parent))
        self.done.messages += 1

    def _compare(self, there: Message, entry: Mapping[str, Any], parent: str | None) -> None:
        what = f"message {there.id}"
        _require_same("conversation", self.conversation, there.conversation_id, what)
        _require_same("role", entry.get("role"), there.role, what)
        _require_same("content", parts(entry.get("content", ())), there.content, what)
        _require_same("parent", parent, there.parent_id, what)
        _require_same_time(entry.get("created_at"), there.created_at, what)
        self.done.unchanged_messages += 1


def _text(line: str | bytes, *, first: bool) -> str:
    if isinstance(line, str):
        return line.removeprefix("\ufeff") if first else line
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"is not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(f"is no JSON ({where}); the file is cut off or damaged: export it again") from None
    if not isinstance(value, dict):
        raise UsageError(f"is a JSON {type(value).__name__}; give one object a line")
    return value  # pyright: ignore[reportUnknownVariableType]


def _known(entry: dict[str, Any], known: Sequence[str]) -> Mapping[str, Any]:
    """Return the entry if all its keys have a meaning: what has none would get lost."""
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise UsageError(f"{unknown[0]}: a {entry['type']} has no such field; give some of {', '.join(known)}")
    return entry


def _id(entry: Mapping[str, Any]) -> str:
    if entry.get("id") is None:
        raise UsageError(f"id: is missing; give the {entry['type']} one, by which it is known when it comes again")
    return fields.line(entry["id"], "id")


def _require_same(field: str, given: Any, there: Any, what: str) -> None:
    if fields.to_json(given, field) != fields.to_json(there, field):
        kind, _, id = what.partition(" ")
        command = "delete" if kind == "conversation" else "delete-message"
        raise UniqueError(
            f"{what}: is in the database already, with another {field}; delete that one first"
            f" (knowlex conversation {command} {id}), or take the line out"
        )


def _require_same_time(given: Any, there: str, what: str) -> None:
    if given is not None:
        _require_same("created_at", fields.instant(given, "created_at"), there, what)

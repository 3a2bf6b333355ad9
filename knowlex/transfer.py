"""Conversations as JSON Lines: out of one database and into another, whole.

A line for a conversation, and behind it a line for each of its messages, in the order they were said:

    {"type":"conversation","id":"…","title":"…","project":"handbook","settings":{},
     "created_at":"2026-01-31T09:30:00.000Z","updated_at":"…","messages":1}
    {"type":"message","id":"…","role":"user","content":[{"type":"text","text":"…"}],
     "parent_id":null,"created_at":"…","updated_at":"…"}

(Each is one line in truth.) The text is UTF-8. A conversation needs type, id and title, a message type,
id, role and content, which may be a plain string. `project` is a name, null for none; `messages` says how
many lines follow, so that a file that was cut off is noticed; `parent_id` names the message that is
answered, of the same conversation, before or behind. `"salvaged":true` marks a line that an export of a damaged
database (`knowlex.salvaging`) could not write as it was.

What comes in keeps its ids, so that it comes in once: a conversation or message that is there already
with the same content is left alone, one that is there with another content, or in another project than its
line names, is an error; but where a line is marked as salvaged, what is there stays as it is. The file is read
to its end, checked and tokenised before the database is locked.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from storage import changes, conversations, fields, messages, projects
from storage.connection import NO_SPACE, Connection
from storage.content import parts, text_of
from storage.conversations import Conversation
from storage.database import Database
from storage.errors import DatabaseError, DiskFullError, NotFoundError, UniqueError, UsageError
from storage.ids import now_text
from storage.messages import Message, Role
from storage.passage_tokens import Tokens, tokens_of
from storage.sources import NO_PROJECT

PAGE = 200
"""Messages that are held in memory at a time."""

SPOOLED_BYTES = 2**20
"""Checked lines that are held in memory; of more, all are in a file."""

_CONVERSATION = ("type", "id", "title", "project", "settings", "created_at", "updated_at", "messages", "salvaged")
_MESSAGE = ("type", "id", "role", "content", "parent_id", "created_at", "updated_at", "salvaged")


@dataclass(slots=True)
class Imported:
    """How many conversations and messages came in, and how many were there already."""

    conversations: int = 0
    messages: int = 0
    unchanged_conversations: int = 0
    unchanged_messages: int = 0


# --- out -------------------------------------------------------------------------------------------


def export_apart(
    database: Database, *, ids: Sequence[str] = (), project: str | None = None, no_project: bool = False
) -> Iterator[str]:
    """Do what `export` does on a connection of its own, which is closed at the end or when the iterator is dropped.

    So nobody waits for an export that is not read on. All lines are of the moment of the first, whatever comes
    after it. Raises what `export` does, ReplacedError where a backup was restored before it, and DatabaseError.
    """
    with database.read_apart() as db:
        yield from export(db, ids=ids, project=project, no_project=no_project)


def export(
    db: Connection, *, ids: Sequence[str] = (), project: str | None = None, no_project: bool = False
) -> Iterator[str]:
    """Yield conversations line by line, without line ends: those of `ids`, of a project, of none, or all.

    In the order of `ids`, else in which they came into the database; an import keeps it, so that its
    export is the same, byte for byte. project: its name or id.
    Raises NotFoundError for an unknown id or project, before the first line, and CorruptDatabaseError, naming
    the conversation or message, for what another program wrote and JSON cannot say.
    """
    pk = NO_PROJECT if no_project else None if project is None else projects.find(db, project).pk
    for conversation in _named(db, ids) if ids else conversations.made(db, project_pk=pk):
        yield conversation_line(conversation)
        for message in _messages(db, conversation.id):
            yield message_line(message)


def _named(db: Connection, ids: Sequence[str]) -> list[Conversation]:
    return [conversations.get(db, id) for id in dict.fromkeys(ids)]


def _messages(db: Connection, conversation_id: str) -> Iterator[Message]:
    after = None
    while True:
        page = messages.listed(db, conversation_id, limit=PAGE, after=after)
        yield from page.items
        if (after := page.next) is None:
            return


def conversation_line(conversation: Conversation, *, salvaged: bool = False) -> str:
    """Return the line of a conversation; raises DamagedValueError for what JSON cannot say.

    salvaged: mark it as one that is not as it was.
    """
    return _line(_conversation(conversation) | _mark(salvaged=salvaged))


def message_line(message: Message, *, salvaged: bool = False) -> str:
    """Return the line of a message; see `conversation_line`."""
    return _line(_message(message) | _mark(salvaged=salvaged))


def _mark(*, salvaged: bool) -> dict[str, Any]:
    return {"salvaged": True} if salvaged else {}


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
    what = f"{value['type']} {value['id']}"
    try:
        line = fields.restored(value, what)
        line.encode()
    except (UsageError, UnicodeEncodeError):
        raise fields.not_kept_so(what, "what JSON cannot say in UTF-8") from None
    return line


# --- in: reading and checking, without the database --------------------------------------------------

Entry = dict[str, Any]
"""What a line says: all fields of its type, checked, and its number as `line`."""


@contextmanager
def checked(lines: Iterable[str | bytes], *, name: str = "import", folder: Path) -> Generator[Iterator[Entry]]:
    """Give what lines say, for `load`, once all of them were read and found usable; in bounded memory.

    lines: text or UTF-8 bytes, with or without line ends, such as an open file; blank lines and a byte
    order mark are passed over. name: of the file, for errors. folder: where much of it waits, in a
    nameless file that only its owner could read and that is gone after the block.
    Raises UsageError for a line that cannot be used, naming the file, the line, the cause and the remedy;
    DiskFullError, DatabaseError.
    """
    with spool(folder) as kept:
        for entry in _entries(lines, name):
            write(folder, kept, json.dumps(entry).encode() + b"\n")
        rewind(folder, kept)
        yield map(json.loads, kept)


def spool(folder: Path) -> tempfile.SpooledTemporaryFile[bytes]:
    """Return a nameless file for lines: in memory, and once they are many, in a folder. See `writing`."""
    return tempfile.SpooledTemporaryFile(SPOOLED_BYTES, dir=str(folder))


def write(folder: Path, file: IO[bytes], data: bytes) -> None:
    """Write to such a file. Raises what `writing` does."""
    with writing(folder):
        file.write(data)


def rewind(folder: Path, file: IO[bytes]) -> None:
    """Go back to the beginning of such a file; its last bytes may be written only then. Raises what `writing` does."""
    with writing(folder):
        file.seek(0)


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Have what the system says of the block, which writes such a file, name its folder, as errors of ours."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in NO_SPACE else DatabaseError
        raise kind(f"{folder}: cannot keep what is read ({error.strerror}); free some space there") from error


@dataclass(slots=True)
class _Place:
    """Where in the lines we are."""

    name: str
    line: int = 0

    @contextmanager
    def naming(self) -> Generator[None]:
        """Name the file and the line in what goes wrong in the block."""
        try:
            yield
        except UniqueError as error:
            raise UniqueError(f"{self.name}, line {self.line}: {error.message}") from error
        except (UsageError, NotFoundError) as error:
            raise UsageError(f"{self.name}, line {self.line}: {error.message}") from error


def _entries(lines: Iterable[str | bytes], name: str) -> Iterator[Entry]:
    place = _Place(name)
    talk, followed = None, 0
    for place.line, line in enumerate(lines, 1):
        with place.naming():
            entry = _entry(_text(line, first=place.line == 1))
            if entry is None:
                continue
            if entry["type"] == "message" and talk is None:
                raise UsageError("is a message before any conversation; put the line of its conversation before it")
        entry["line"] = place.line
        if entry["type"] == "conversation":
            _require_whole(talk, followed, name)
            talk, followed = entry, 0
        else:
            followed += 1
        yield entry
    _require_whole(talk, followed, name)


def _require_whole(talk: Entry | None, followed: int, name: str) -> None:
    if talk is not None and talk["messages"] not in (None, followed):
        raise UsageError(
            f"{name}, line {talk['line']}: says that {talk['messages']} messages follow, but there are {followed};"
            " the file is cut off or was edited: export it again, or correct `messages`"
        )


def _text(line: str | bytes, *, first: bool) -> str:
    if isinstance(line, str):
        return line.removeprefix("\ufeff") if first else line
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"is not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from None


def _entry(text: str) -> Entry | None:
    """Return what a line says; None for a blank one."""
    if not text.strip():
        return None
    given = _object(text)
    match given.get("type"):
        case "conversation":
            return _checked_conversation(_known(given, _CONVERSATION, needed=("id", "title")))
        case "message":
            return _checked_message(_known(given, _MESSAGE, needed=("id", "role", "content")))
        case None:
            raise UsageError("type: is missing; give conversation or message")
        case other:
            raise UsageError(f"type {other!r}: is unknown; give conversation or message")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, character {error.pos + 1}"
        raise UsageError(f"is no JSON ({where}); the file is cut off or damaged: export it again") from None
    except RecursionError:
        raise fields.too_deep("the line") from None
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"holds a number that is too long ({error}); put it into quotes") from None
    if not isinstance(value, dict):
        raise UsageError(f"is {fields.kind_of(value)}; give one object a line")
    return value  # pyright: ignore[reportUnknownVariableType]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys stand there once: of two values, one would get lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"{twice}: stands there twice; take one of them out")
    return made


def _known(given: dict[str, Any], known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
    """Return the object if all its keys have a meaning, as what has none would get lost, and none is missing."""
    for key in given:
        if key not in known:
            raise UsageError(f"{key}: a {given['type']} has no such field; give some of {', '.join(known)}")
    for key in needed:
        if key not in given:
            raise UsageError(f"{key}: is missing; a {given['type']} needs {', '.join(('type', *needed))}")
    return given


def _checked_conversation(given: Mapping[str, Any]) -> Entry:
    settings: dict[str, Any] = {} if given.get("settings") is None else given["settings"]
    announced = given.get("messages")
    fields.mapping(settings, "settings")
    if announced is not None and (type(announced) is not int or announced < 0):
        raise UsageError(f"messages: {announced!r} is no number of messages; give how many follow, or leave it out")
    return {
        "type": "conversation",
        "id": fields.given_id(given["id"]),
        "title": fields.text(given["title"], "title"),
        "project": None if given.get("project") is None else fields.line(given["project"], "project"),
        "settings": settings,
        "messages": announced,
        "salvaged": _is_salvaged(given),
        **_times(given),
    }


def _checked_message(given: Mapping[str, Any]) -> Entry:
    content, parent = parts(given["content"]), given.get("parent_id")
    fields.to_json(content, "content")
    return {
        "type": "message",
        "id": fields.given_id(given["id"]),
        "role": fields.choice(Role, given["role"], "role"),
        "content": content,
        "parent_id": None if parent is None else fields.line(parent, "parent_id"),
        "tokens": _tokens(text_of(content)),
        "salvaged": _is_salvaged(given),
        **_times(given),
    }


def _is_salvaged(given: Mapping[str, Any]) -> bool:
    salvaged = given.get("salvaged")
    if not isinstance(salvaged, bool | None):
        raise UsageError(f"salvaged: is {fields.kind_of(salvaged)}; give true or false, or leave it out")
    return bool(salvaged)


def _tokens(text: str) -> list[str] | None:
    """Return what is indexed of a message, made here, while others may write; None for one without a text."""
    if not text.strip():
        return None
    tokens = tokens_of(text)
    return [tokens.heading, tokens.body, tokens.repeats]


def _times(given: Mapping[str, Any]) -> Entry:
    return {
        key: None if given.get(key) is None else fields.instant(given[key], key) for key in ("created_at", "updated_at")
    }


# --- in: into the database --------------------------------------------------------------------------


def load(db: Connection, entries: Iterable[Entry], *, name: str = "import", project_pk: int | None = None) -> Imported:
    """Take in what `checked` gave, and return how much that was.

    name: of the file, for errors. project_pk: where new conversations go; by default into the projects
    that the lines name, which are made where they are missing.
    Each project's generation is bumped once. The caller undoes the transaction on an error, so that all comes in
    or nothing.
    Raises UsageError for a parent that is not there and UniqueError for an id that is there with another
    content, or in another project: both name the file, the line, the cause and the remedy.
    """
    intake = _Intake(db, _Place(name), project_pk)
    for entry in entries:
        intake.take(entry)
    intake.finish()
    for changed in intake.changed:
        changes.bump(db, changed)
    return intake.done


@dataclass(frozen=True, slots=True)
class _Answer:
    """A message whose parent had not come yet, and its line."""

    line: int
    id: str
    parent_id: str


@dataclass(slots=True)
class _Intake:
    """An import on its way: the conversation that its messages belong to, and what is still owed to it.

    waiting: what the line of that conversation says as long as it is not known which one it is: it was salvaged, and
    maybe under a new id. It is the one in which the first of its messages is already, else it is made.
    updated_at: when that conversation was last updated, where it is new and its line says so. said_at: when the
    last of its new messages was said. unindexed: keys and tokens of new messages. changed: the projects that new
    messages came into.
    """

    db: Connection
    place: _Place
    project_pk: int | None
    done: Imported = field(default_factory=Imported)
    conversation: Conversation | None = None
    waiting: Entry | None = None
    updated_at: str | None = None
    said_at: str = ""
    unindexed: list[tuple[int, Tokens]] = field(default_factory=list[tuple[int, Tokens]])
    changed: set[int | None] = field(default_factory=set[int | None])
    answers: dict[str, _Answer] = field(default_factory=dict[str, _Answer])
    projects: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, entry: Entry) -> None:
        """Take in what one line says."""
        if entry["type"] == "conversation":
            self.finish()
        self.place.line = entry["line"]
        with self.place.naming():
            if entry["type"] == "conversation":
                self._begin(entry)
            else:  # `checked` let no message pass before a conversation
                self._add(entry)

    def finish(self) -> None:
        """End a conversation: index its messages, link answers that came before their parents, set its update."""
        if self.conversation is not None:
            self._index(self.conversation)
            self._link(self.conversation)
            self._date(self.conversation)

    def _index(self, conversation: Conversation) -> None:
        messages.index(self.db, conversation.project_pk, self.unindexed)
        self.unindexed.clear()

    def _link(self, conversation: Conversation) -> None:
        if self.answers:
            with self.place.naming():
                messages.link(self.db, conversation.id, self._owed())
            self.answers.clear()

    def _date(self, conversation: Conversation) -> None:
        messages.touch(self.db, conversation.pk, self.said_at)
        if self.updated_at is not None:
            conversations.date_back(self.db, conversation.id, self.updated_at)
        self.said_at, self.updated_at = "", None

    def _owed(self) -> Iterator[tuple[str, str]]:
        for answer in self.answers.values():
            self.place.line = answer.line
            yield answer.id, answer.parent_id

    def _begin(self, entry: Entry) -> None:
        there = conversations.find(self.db, entry["id"])
        self.conversation = self.waiting = None
        if there is not None:
            self._compare_conversation(there, entry)
            self.conversation = there
        elif entry["salvaged"] and entry["messages"]:
            self.waiting = entry
        else:
            self.conversation = self._make(entry)

    def _home(self, there: Message | None) -> Conversation:
        """Return the conversation that the messages are of: of the first of them, where it is waiting for that."""
        if self.waiting is not None:
            entry, self.waiting = self.waiting, None
            if there is None:
                self.conversation = self._make(entry)
            else:
                self.conversation = home = conversations.get(self.db, there.conversation_id)
                if self.project_pk not in (None, home.project_pk):  # whose id is not for everyone
                    raise UniqueError(
                        f"message {there.id}: is in the database already, in another project; take its conversation out"
                        " of the file"
                    )
                self._compare_conversation(home, entry)
        assert self.conversation is not None
        return self.conversation

    def _make(self, entry: Entry) -> Conversation:
        given = {key: entry[key] for key in ("id", "title", "settings", "created_at", "updated_at")}
        self.updated_at = entry["updated_at"]
        self.done.conversations += 1
        return conversations.create(self.db, project_pk=self._project(entry["project"]), **given)

    def _compare_conversation(self, there: Conversation, entry: Entry) -> None:
        what = f"conversation {there.id}"
        self._require_same_project(entry["project"], there)
        if not entry["salvaged"]:
            _require_same("title", entry["title"], there.title, what)
            _require_same("settings", entry["settings"], there.settings, what)
            _require_same_time(entry["created_at"], there.created_at, what)
        self.done.unchanged_conversations += 1

    def _require_same_project(self, named: str | None, there: Conversation) -> None:
        """Raise UniqueError where new messages would come into another project than is asked for."""
        same = named in (None, there.project_name) if self.project_pk is None else self.project_pk == there.project_pk
        if not same:
            wanted = named or "" if self.project_pk is None else projects.by_pk(self.db, self.project_pk).name
            given = shlex.quote(wanted)
            other = "another project" if there.project_name else "no project"
            make = "" if projects.by_name(self.db, wanted) else f"knowlex project create {given}; "
            raise UniqueError(
                f"conversation {there.id}: is in the database already, in {other}; move it first"
                f" ({make}knowlex conversation update {shlex.quote(there.id)} --project {given}), or take it out of the"
                " file with its messages"
            )

    def _project(self, name: str | None) -> int | None:
        if self.project_pk is not None or name is None:
            return self.project_pk
        if name not in self.projects:
            self.projects[name] = projects.ensure(self.db, name).pk
        return self.projects[name]

    def _add(self, entry: Entry) -> None:
        there = messages.find(self.db, entry["id"])
        conversation = self._home(there)
        if there is None:
            self._keep_message(conversation, entry)
        else:
            self._compare_message(conversation, there, entry)

    def _keep_message(self, conversation: Conversation, entry: Entry) -> None:
        created = entry["created_at"] or now_text()
        pk = messages.insert(
            self.db,
            conversation.pk,
            Role(entry["role"]),
            entry["content"],
            id=entry["id"],
            parent_pk=self._parent(conversation, entry["id"], entry["parent_id"]),
            created_at=created,
            updated_at=entry["updated_at"] or created,
        )
        self.said_at = max(self.said_at, created)
        self.changed.add(conversation.project_pk)
        self.done.messages += 1
        if entry["tokens"] is not None:
            self.unindexed.append((pk, Tokens(*entry["tokens"])))
        if len(self.unindexed) == PAGE:
            self._index(conversation)

    def _parent(self, conversation: Conversation, id: str, parent_id: str | None) -> int | None:
        """Return the key of what a message answers; where that has not come yet, it is linked at the end."""
        if parent_id is None:
            return None
        pk = messages.key(self.db, conversation.pk, parent_id)
        if pk is None:
            self.answers[id] = _Answer(self.place.line, id, parent_id)
        return pk

    def _compare_message(self, conversation: Conversation, there: Message, entry: Entry) -> None:
        if not entry["salvaged"]:
            self._require_same_message(conversation, there, entry)
        self.done.unchanged_messages += 1

    def _require_same_message(self, conversation: Conversation, there: Message, entry: Entry) -> None:
        what = f"message {there.id}"
        owed = self.answers.get(there.id)
        _require_same("conversation", conversation.id, there.conversation_id, what)
        _require_same("role", entry["role"], there.role, what)
        _require_same("content", entry["content"], there.content, what)
        _require_same("parent", entry["parent_id"], owed.parent_id if owed else there.parent_id, what)
        _require_same_time(entry["created_at"], there.created_at, what)


_TAKEN_OUT = {
    "conversation": ("it out with its messages", "delete"),
    "message": ("the line out", "delete-message"),
}
"""What to take out of a file so that the rest can be taken in, and the command that deletes it in the database."""


def _require_same(field: str, given: Any, there: Any, what: str) -> None:
    if _canonical(given) != _canonical(there):
        kind, _, id = what.partition(" ")
        line, delete = _TAKEN_OUT[kind]
        change = _change(field, given, shlex.quote(id))
        same = f", give that one the same (knowlex conversation {change})" if change else ""
        raise UniqueError(
            f"{what}: is in the database already, with another {field}; take {line}{same}, or export the"
            " conversation as it is (knowlex conversation export), since what was said later would be lost, and then"
            f" delete that one (knowlex conversation {delete} {shlex.quote(id)})"
        )


def _change(field: str, given: Any, id: str) -> str | None:
    """Return the command that gives what is in the database the value of a field, for a shell; None: there is none."""
    match field:
        case "title":
            return f"update {id} --title {shlex.quote(given)}"
        case "settings":
            return f"update {id} --settings {shlex.quote(json.dumps(given, ensure_ascii=False))}"
        case "content":
            return f"edit-message {id} CONTENT"
        case _:
            return None


def _canonical(value: Any) -> str:
    """Return a JSON value so that 1 differs from 1.0 and from true, but the order of keys makes no difference."""
    return json.dumps(value, sort_keys=True)


def _require_same_time(given: str | None, there: str, what: str) -> None:
    if given is not None:
        _require_same("created_at", given, there, what)

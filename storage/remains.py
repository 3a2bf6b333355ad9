"""Read what is left of conversations where pages are damaged: row by row, past what cannot be read.

Which rows there are is told by the table's own pages and by those of its indexes, each walked from both ends to
where its damage begins; what no index names, because all of them are damaged, is asked for by its key, one after the
other. A page that an interrupted write left as it once was looks sound: so no tree is believed alone.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any

import apsw

from storage import json_columns, migrations
from storage.connection import LOST, Connection, connect, translated
from storage.errors import DatabaseError
from storage.json_columns import JsonColumn
from storage.sources import NO_PROJECT

_SETTINGS = next(column for column in json_columns.COLUMNS if column.kind == "conversation_settings")


@dataclass(frozen=True, slots=True)
class Tree:
    """A table itself, or an index that has all of its rows: its SQL, its order, and what else it tells."""

    source: str
    order: tuple[str, ...]
    tells: str = "pk"


CONVERSATIONS = (
    Tree("conversations NOT INDEXED", ("pk",)),
    Tree("conversations INDEXED BY sqlite_autoindex_conversations_1", ("id",), "CAST(id AS BLOB)"),
    Tree("conversations INDEXED BY idx_conversations_updated", ("updated_at", "pk")),
    Tree(
        "conversations INDEXED BY idx_conversations_project",
        ("project_id",),
        f"CASE typeof(project_id) WHEN 'integer' THEN project_id WHEN 'null' THEN {NO_PROJECT} END",
    ),
)
MESSAGES = (
    Tree("messages NOT INDEXED", ("pk",)),
    Tree("messages INDEXED BY sqlite_autoindex_messages_1", ("id",), "CAST(id AS BLOB)"),
    Tree(
        "messages INDEXED BY idx_messages_conversation",
        ("conversation_id", "created_at", "pk"),
        "CASE typeof(conversation_id) WHEN 'integer' THEN conversation_id END",
    ),
    Tree("messages INDEXED BY idx_messages_created", ("created_at", "pk")),
)
IDS, TALKS, PROJECTS = 1, 2, 3
"""Which of the trees tells the ids, which of messages the conversations, and which of conversations the projects."""


MOST_UNNAMED = 1_000_000
"""How many keys that nothing names are looked at: some ten seconds."""

_LAST_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Keys:
    """Where rows of a table may be: the keys that some page names, and those that none does.

    between: keys of which those that are not named may be of rows, too, as no index can be read to its end.
    beyond: how many more there may be that are not looked at.
    """

    named: set[int]
    between: range = range(0)
    beyond: int = 0

    def __iter__(self) -> Iterator[int]:
        return merge(sorted(self.named), (pk for pk in self.between if pk not in self.named))


@dataclass(frozen=True, slots=True)
class Talk:
    """What can be read of a conversation: its row, but not how many messages it has. as_it_was: see `Said`."""

    pk: int
    id: str
    project_pk: int | None
    title: str
    settings: dict[str, Any]
    created_at: str
    updated_at: str
    as_it_was: bool = True


@dataclass(frozen=True, slots=True)
class Said:
    """The row of a message, whose conversation and parent may be gone.

    as_it_was: whether it says just what the row does, as nothing in that is no text or no JSON.
    """

    pk: int
    id: str
    conversation_pk: int
    role: str
    content: list[Any]
    parent_pk: int | None
    created_at: str
    updated_at: str
    as_it_was: bool = True


@contextmanager
def reading(path: Path) -> Generator[Connection]:
    """Give a connection on which all is of one moment, also of a database that cannot be opened otherwise.

    Raises DatabaseError or one of its kinds where not even the header and the schema can be read, or are not ours.
    """
    connection = connect(path, readonly=True)
    try:
        connection.script("BEGIN")
        migrations.require_ours(connection)
        yield connection
    finally:
        connection.close()


def is_damage(error: BaseException) -> bool:
    """Tell whether an error says that what is in the file cannot be read, and not that something is in the way."""
    cause = error.__cause__
    of_pages = isinstance(cause, apsw.CorruptError) or getattr(cause, "extendedresult", 0) in LOST
    return of_pages or isinstance(cause, UnicodeDecodeError)


def keys(db: Connection, trees: tuple[Tree, ...]) -> Keys:
    """Return where rows of a table may be, by its trees: CONVERSATIONS or MESSAGES."""
    table, *indexes = walks = [_walk(db, tree) for tree in trees]
    named = {pk for walk in walks for pk in (*walk.ahead, *walk.back)}
    if table.whole or any(index.whole for index in indexes):
        return Keys(named)
    first = max(table.ahead, default=0) + 1
    last = min(table.back) if table.back else max(_last(db, trees[0]), *named, first)
    return _bounded(named, first, min(last, _LAST_KEY))


def _bounded(named: set[int], first: int, last: int) -> Keys:
    """Return keys of which no more than MOST_UNNAMED are looked at unnamed."""
    end = min(last, first + MOST_UNNAMED - 1)
    beyond = sum(1 for pk in named if end < pk <= last)
    return Keys(named, range(first, end + 1), max(0, last - end - beyond))


def told(db: Connection, tree: Tree, pks: Container[int]) -> dict[int, Any]:
    """Return what an index tells of some rows, as far as it can be read: an id as its bytes, a key as a number."""
    found: dict[int, Any] = {}
    for way in ("ASC", "DESC"):
        with past_damage():
            found.update((pk, value) for pk, value in _rows(db, tree, way) if pk in pks)
    return found


def talk(db: Connection, pk: int) -> Talk | None:
    """Return the row of a conversation, None where there is none; raises what `is_damage` knows where it is lost.

    What is no text, or no JSON, is read as a repair would keep it.
    """
    row = db.one(
        "SELECT id, project_id, CAST(title AS BLOB), CAST(settings AS BLOB), created_at, updated_at"
        " FROM conversations NOT INDEXED WHERE pk = :pk",
        pk=pk,
    )
    if row is None:
        return None
    id, project_pk, title, settings, created_at, updated_at = row
    shown, kept = json_columns.shown(title), _said(_SETTINGS, settings)
    as_it_was = shown.encode() == title and _is_right(_SETTINGS, settings)
    return Talk(pk, id, project_pk, shown, kept, created_at, updated_at, as_it_was)


def said(db: Connection, pk: int) -> Said | None:
    """Return the row of a message; see `talk`."""
    row = db.one(
        "SELECT id, conversation_id, role, CAST(content AS BLOB), parent_id, created_at, updated_at"
        " FROM messages NOT INDEXED WHERE pk = :pk",
        pk=pk,
    )
    if row is None:
        return None
    id, conversation_pk, role, content, parent_pk, created_at, updated_at = row
    kept = _said(json_columns.CONTENT, content)
    as_it_was = _is_right(json_columns.CONTENT, content)
    return Said(pk, id, conversation_pk, role, kept, parent_pk, created_at, updated_at, as_it_was)


def project_name(db: Connection, pk: int) -> str | None:
    """Return the name of a project, None where there is none; raises what `is_damage` knows where it is lost."""
    return db.value("SELECT name FROM projects NOT INDEXED WHERE pk = :pk", pk=pk)


def _said(column: JsonColumn, value: bytes | None) -> Any:
    return json_columns.said(column, value or b"")


def _is_right(column: JsonColumn, value: bytes | None) -> bool:
    return json_columns.is_right(column, value or b"")


@dataclass(frozen=True, slots=True)
class _Walked:
    """The keys met from the beginning of a tree and from its end, and whether that is all of it."""

    ahead: list[int]
    back: list[int]
    whole: bool


def _walk(db: Connection, tree: Tree) -> _Walked:
    ahead: list[int] = []
    back: list[int] = []
    with past_damage():
        ahead.extend(pk for pk, _ in _rows(db, tree, "ASC"))
        return _Walked(ahead, back, whole=True)
    with past_damage():
        back.extend(pk for pk, _ in _rows(db, tree, "DESC"))
    return _Walked(ahead, back, whole=False)


def _rows(db: Connection, tree: Tree, way: str) -> Iterator[tuple[int, Any]]:
    order = ", ".join(f"{column} {way}" for column in tree.order)
    with translated(db.path, db.raw):
        yield from db.raw.execute(f"SELECT pk, {tree.tells} FROM {tree.source} ORDER BY {order}")  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def past_damage() -> Generator[None]:
    """End the block where it meets damage, or an index that is gone or has not all rows."""
    try:
        yield
    except DatabaseError as error:
        if not is_damage(error) and not str(error.__cause__).startswith(("no such index", "no query solution")):
            raise


def _last(db: Connection, table: Tree) -> int:
    """Return the highest key that a table ever gave, as far as that can be read."""
    with past_damage():
        name = table.source.split()[0]
        seq = db.value(
            "SELECT CASE typeof(seq) WHEN 'integer' THEN seq END FROM sqlite_sequence WHERE name = :name", name=name
        )
        return seq or 0
    return 0

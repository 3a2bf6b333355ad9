"""Read what is left of conversations where pages are damaged: row by row, past what cannot be read.

Which rows there are is told by the table's own pages and by those of its indexes, each walked from both ends to
where its damage begins; what lies between is asked for by its key, one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from storage import json_columns, migrations
from storage.connection import LOST, Connection, connect, translated
from storage.errors import DatabaseError
from storage.json_columns import JsonColumn

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
)
MESSAGES = (
    Tree("messages NOT INDEXED", ("pk",)),
    Tree("messages INDEXED BY sqlite_autoindex_messages_1", ("id",), "CAST(id AS BLOB)"),
    Tree("messages INDEXED BY idx_messages_conversation", ("conversation_id", "created_at", "pk"), "conversation_id"),
    Tree("messages INDEXED BY idx_messages_created", ("created_at", "pk")),
)
IDS, TALKS = 1, 2
"""Which of the trees of messages tells the ids, and which the conversations."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Where rows of a table may be: the keys that some page names, and those that none does.

    unnamed: between what can be read of the table, and in no index; none where an index can be read to its end.
    """

    named: set[int]
    unnamed: Collection[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted({*self.named, *self.unnamed}))


@dataclass(frozen=True, slots=True)
class Talk:
    """What can be read of a conversation: its row, but not how many messages it has."""

    pk: int
    id: str
    project_pk: int | None
    title: str
    settings: dict[str, Any]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Said:
    """The row of a message, whose conversation and parent may be gone."""

    pk: int
    id: str
    conversation_pk: int
    role: str
    content: list[Any]
    parent_pk: int | None
    created_at: str
    updated_at: str


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
    return of_pages or isinstance(error, UnicodeDecodeError)


def keys(db: Connection, trees: tuple[Tree, ...]) -> Keys:
    """Return where rows of a table may be, by its trees: CONVERSATIONS or MESSAGES."""
    table, *indexes = (_walk(db, tree) for tree in trees)
    if table.whole:
        return Keys(set(table.ahead))
    named = {pk for tree in (table, *indexes) for pk in (*tree.ahead, *tree.back)}
    if any(index.whole for index in indexes):
        return Keys(named)
    first = max(table.ahead, default=0) + 1
    last = min(table.back) if table.back else max(_last(db, trees[0]), *named, first)
    return Keys(named, [pk for pk in range(first, last + 1) if pk not in named])


def told(db: Connection, tree: Tree, pks: Collection[int]) -> dict[int, Any]:
    """Return what an index tells of some rows, as far as it can be read: text as its bytes."""
    found: dict[int, Any] = {}
    for way in ("ASC", "DESC"):
        with _past_damage():
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
    return Talk(pk, id, project_pk, json_columns.shown(title), _said(_SETTINGS, settings), created_at, updated_at)


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
    return Said(pk, id, conversation_pk, role, kept, parent_pk, created_at, updated_at)


def project_name(db: Connection, pk: int) -> str | None:
    """Return the name of a project, None where there is none; raises what `is_damage` knows where it is lost."""
    return db.value("SELECT name FROM projects NOT INDEXED WHERE pk = :pk", pk=pk)


def _said(column: JsonColumn, value: bytes | None) -> Any:
    return json_columns.said(column, value or b"")


@dataclass(frozen=True, slots=True)
class _Walked:
    """The keys met from the beginning of a tree and from its end, and whether that is all of it."""

    ahead: list[int]
    back: list[int]
    whole: bool


def _walk(db: Connection, tree: Tree) -> _Walked:
    ahead: list[int] = []
    back: list[int] = []
    with _past_damage():
        ahead.extend(pk for pk, _ in _rows(db, tree, "ASC"))
        return _Walked(ahead, back, whole=True)
    with _past_damage():
        back.extend(pk for pk, _ in _rows(db, tree, "DESC"))
    return _Walked(ahead, back, whole=False)


def _rows(db: Connection, tree: Tree, way: str) -> Iterator[tuple[int, Any]]:
    order = ", ".join(f"{column} {way}" for column in tree.order)
    with translated(db.path, db.raw):
        yield from db.raw.execute(f"SELECT pk, {tree.tells} FROM {tree.source} ORDER BY {order}")  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def _past_damage() -> Generator[None]:
    """End the block where it meets damage, or an index that is gone."""
    try:
        yield
    except DatabaseError as error:
        if not is_damage(error) and not str(error.__cause__).startswith("no such index"):
            raise


def _last(db: Connection, table: Tree) -> int:
    """Return the highest key that a table ever gave, as far as that can be read."""
    with _past_damage():
        name = table.source.split()[0]
        return db.value("SELECT seq FROM sqlite_sequence WHERE name = :name", name=name) or 0
    return 0

"""Find rows that a table has lost, or has as they were before, though other trees of pages still tell of them.

A page that an interrupted write left as it once was looks sound. Where it is one of a table, its indexes are right, and
to make them anew would efface the last that tells of its rows. So no tree is believed alone. A row is lost if two trees
name it, or if one does and no index that can be read to its end is without it; what one index alone names against
another is that index's own fault, and named all the same. The full text of memories and messages counts as two trees,
its lengths and its index; that of chunks counts only beside an index of theirs, as what was made from a file can be
made again. An index on less than all rows tells nothing that the others do not, and is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage import blueprint, json_columns, text_index
from storage.blueprint import Index
from storage.connection import Connection, translated
from storage.remains import past_damage
from storage.sources import Source

VECTORS = frozenset({"embeddings", "vector_bits"})
"""Tables of vectors, which a repair has made again: what they lost is no loss."""

MOST_NAMED = 100_000
"""So many keys are held of a tree; one that names more beyond its table counts as one that is not read to its end."""

SHOWN = 20
"""How many rows of a table are named."""

_SOURCES = {"file_chunks": Source.FILE, "project_memories": Source.MEMORY, "messages": Source.MESSAGE}
_LABELS = ("id", "key")
"""What names a row, where an index has it."""

Key = tuple[Any, ...]
Rows = dict[Key, str | None]
"""Rows by their keys, with what they are called, where something tells that."""


@dataclass(frozen=True, slots=True)
class Named:
    """Rows of a table, or of an index by its name: how many at least, and what the first of them are called."""

    tree: str
    count: int
    names: list[str]


@dataclass(frozen=True, slots=True)
class Compared:
    """What tables have lost; `alone`: what single indexes told against the others, and is not believed."""

    lost: list[Named]
    alone: list[Named]


@dataclass(frozen=True, slots=True)
class _Told:
    """What a tree tells beyond its table; whole: whether it was read to its end."""

    name: str
    beyond: Rows
    whole: bool


def compare(db: Connection, *, suspected: bool = True) -> Compared:
    """Compare each table, save those of vectors, with all else that names its rows.

    In a transaction that has met damage, SQLite refuses to write: have none that is to write begun.
    suspected: look the key of every entry of every index up. False: only for tables of which the full text names
    rows that are not there, as SQLite's own check has found that all indexes fit their tables.
    """
    found = Compared([], [])
    for table, indexes in blueprint.full_indexes().items():
        texts = list(_texts(db, table))
        if table not in VECTORS and (suspected or any(told.beyond for told in texts)):
            told = [_told(db, index) for index in indexes]
            if lost := _lost(told, texts, of_files=table == "file_chunks"):
                found.lost.append(_named(table, lost))
            found.alone.extend(_alone(told, lost))
    return found


def _lost(indexes: Sequence[_Told], texts: Sequence[_Told], *, of_files: bool) -> Rows:
    """Return what is lost of a table; of_files: see the module."""
    times = Counter(key for told in (*indexes, *texts) for key in told.beyond)
    rows: Rows = {key: None for told in texts if not of_files for key in told.beyond}
    for told in indexes:
        rows.update((key, name or rows.get(key)) for key, name in told.beyond.items())
    return {key: name for key, name in rows.items() if times[key] > 1 or not _is_denied(key, indexes)}


def _is_denied(key: Key, indexes: Sequence[_Told]) -> bool:
    return any(told.whole and key not in told.beyond for told in indexes)


def _alone(indexes: Sequence[_Told], lost: Collection[Key]) -> Iterator[Named]:
    for told in indexes:
        if rows := {key: name for key, name in told.beyond.items() if key not in lost}:
            yield _named(told.name, rows)


def _named(tree: str, rows: Rows) -> Named:
    # A damaged entry may hold any kind of value, and those of two kinds have no order.
    first = sorted(rows, key=lambda key: [(type(part).__name__, part) for part in key])[:SHOWN]
    return Named(tree, len(rows), [rows[key] or f"key {'/'.join(map(str, key))}" for key in first])


def _told(db: Connection, index: Index) -> _Told:
    """Read an index from its beginning, and from its end where damage is met on the way."""
    label = next((f"CAST({column} AS BLOB)" for column in _LABELS if column in index.columns), "NULL")
    same = " AND ".join(f"t.{column} = i.{column}" for column in index.key)
    if "updated_at" in index.columns:  # what was said last is the truth: an older index is no proof of anything
        same += " AND t.updated_at >= i.updated_at"
    sql = (
        f"SELECT {label}, {', '.join(index.key)} FROM {index.table} AS i INDEXED BY {index.name}"
        f" WHERE NOT EXISTS (SELECT 1 FROM {index.table} AS t {index.way} WHERE {same})"
    )
    return _read(db, index.name, sql, f"{sql} ORDER BY {index.backward}")


def _texts(db: Connection, table: str) -> Iterator[_Told]:
    """Yield what the full text of a table tells of rows: by its lengths, and by its index."""
    source = _SOURCES.get(table)
    if source is not None:
        index = f"{text_index.TABLES[source]}_docsize"
        for tree, pk, where in (("text_rows", "pk", f"i.source = '{source}'"), (index, "id", "1")):
            sql = (
                f"SELECT NULL, i.{pk} FROM {tree} AS i WHERE {where}"
                f" AND NOT EXISTS (SELECT 1 FROM {table} AS t NOT INDEXED WHERE t.pk = i.{pk})"
            )
            yield _read(db, tree, sql, f"{sql} ORDER BY i.{pk} DESC")


def _read(db: Connection, tree: str, *ways: str) -> _Told:
    """Return what the first query gives that does not meet damage, or what all of them give before they do."""
    beyond: Rows = {}
    for sql in ways:
        with past_damage():
            for name, *key in _rows(db, sql):
                beyond[tuple(key)] = None if name is None else json_columns.shown(name)
                if len(beyond) >= MOST_NAMED:
                    return _Told(tree, beyond, whole=False)
            return _Told(tree, beyond, whole=True)
    return _Told(tree, beyond, whole=False)


def _rows(db: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    with translated(db.path, db.raw):
        yield from db.raw.execute(sql)  # pyright: ignore[reportUnknownMemberType]

"""The schema as the migrations make it, and how a database differs from that."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import apsw

from storage import migrations
from storage.connection import Connection

Key = tuple[str, str]
"""Type and name of a table, index, trigger or view."""


@dataclass(frozen=True, slots=True)
class Differences:
    """What is missing from a schema, otherwise than it should be, or more than there should be."""

    missing: list[Key]
    changed: list[Key]
    unknown: list[Key]


NONE = Differences([], [], [])


@dataclass(frozen=True, slots=True)
class Index:
    """An index that has an entry for every row of its table.

    key: the columns by which the table finds a row. way: how a query is held to the table's own tree.
    columns: those of the index. backward: the order of its entries from the last to the first, as SQL.
    """

    table: str
    name: str
    way: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    backward: str


@contextmanager
def _latest() -> Generator[Connection]:
    """Give an empty database of the latest schema."""
    connection = Connection(apsw.Connection(":memory:"), Path(":memory:"))
    try:
        migrations.migrate(connection)
        yield connection
    finally:
        connection.close()


@cache
def expected() -> dict[Key, str]:
    """Return the SQL of all that a database of the latest schema has, by type and name."""
    with _latest() as db:
        return _objects(db)


def _objects(db: Connection) -> dict[Key, str]:
    rows = db.all("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    return {(type, name): str(sql) for type, name, sql in rows}


def differences(db: Connection) -> Differences:
    """Compare the schema of a database with the latest one."""
    found, wanted = _objects(db), expected()
    return Differences(
        [key for key in wanted if key not in found],
        [key for key in wanted if key in found and found[key].split() != wanted[key].split()],
        [key for key in found if key not in wanted],
    )


@cache
def columns() -> list[tuple[str, str, frozenset[str]]]:
    """Return the tables' columns, and the kinds of value that each may hold, as SQL's `typeof` names them."""
    with _latest() as db:
        rows = db.all(
            "SELECT t.name, c.name, lower(c.type), c.[notnull] OR c.pk"
            " FROM pragma_table_list t, pragma_table_info(t.name) c"
            " WHERE t.type = 'table' AND t.schema = 'main' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
    return [(table, column, frozenset({type} if filled else {type, "null"})) for table, column, type, filled in rows]


@cache
def full_indexes() -> dict[str, list[Index]]:
    """Return the indexes that have all rows of their table, by tables that have any."""
    found: dict[str, list[Index]] = {}
    with _latest() as db:
        rows = db.all(
            "SELECT t.name, t.wr, i.name FROM pragma_table_list t, pragma_index_list(t.name) i WHERE t.schema = 'main'"
            # The primary key of a table without rowids is its own tree.
            " AND t.type = 'table' AND NOT i.partial AND NOT (t.wr AND i.origin = 'pk') ORDER BY t.name, i.name"
        )
        for table, without_rowid, name in rows:
            found.setdefault(table, []).append(_index(db, table, name, without_rowid=bool(without_rowid)))
    return found


def _index(db: Connection, table: str, name: str, *, without_rowid: bool) -> Index:
    # NOT INDEXED lets the engine read a table without rowids by way of its other indexes.
    way = f"INDEXED BY sqlite_autoindex_{table}_1" if without_rowid else "NOT INDEXED"
    key = tuple(column for (column,) in db.all(f"SELECT name FROM pragma_table_info('{table}') WHERE pk ORDER BY pk"))
    columns = db.all(f"SELECT name, [desc] FROM pragma_index_xinfo('{name}') WHERE key ORDER BY seqno")
    backward = ", ".join(f"{column} {'ASC' if descends else 'DESC'}" for column, descends in columns)
    return Index(table, name, way, key, tuple(column for column, _ in columns), backward)


def create_missing_index(db: Connection, name: str) -> None:
    """Make an index that the migrations made and that is gone; raises ConstraintError where rows forbid it."""
    db.script(expected()["index", name])


def steps() -> dict[int, str]:
    """Return the description of every migration by its version."""
    return {step.version: step.description for step in migrations.MIGRATIONS}

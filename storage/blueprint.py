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


def create_missing_index(db: Connection, name: str) -> None:
    """Make an index that the migrations made and that is gone; raises ConstraintError where rows forbid it."""
    db.script(expected()["index", name])


def steps() -> dict[int, str]:
    """Return the description of every migration by its version."""
    return {step.version: step.description for step in migrations.MIGRATIONS}

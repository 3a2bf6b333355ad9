"""Write a database anew from its rows where damaged pages hold only what is derived of them.

Indexes and the full text are made again. Vectors are taken over where they can be read; where not, a repair
queues what they are made from.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from storage import backup, blueprint, incarnation, migrations, queue, text_index
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConstraintError, CorruptDatabaseError
from storage.mends import rebuild_texts
from storage.verify import damaged_trees

VECTORS = frozenset({"embeddings", "vector_bits"})
TEXTS = frozenset({"text_rows", "text_stats"})


def salvage(database: Database) -> Path | None:
    """Write the database anew, in one transaction, and return the copy of what it was; None where rows are hit.

    Whoever has it open has to start anew (ReplacedError). Raises LockedError, DiskFullError, DatabaseError.
    """
    with database.read() as db:
        trees = damaged_trees(db)
        if not trees or not all(map(_is_derived, trees)) or blueprint.differences(db) != blueprint.NONE:
            return None
        lost = {name for _, name in trees} & VECTORS
    try:
        return backup.write_anew(database.path, partial(_fill, path=database.path, without=lost))
    except (CorruptDatabaseError, ConstraintError):
        return None


def _is_derived(tree: blueprint.Key) -> bool:
    type, name = tree
    return type == "index" or name in VECTORS | TEXTS or name.rpartition("_")[0] in text_index.TABLES.values()


def _fill(db: Connection, *, path: Path, without: set[str]) -> None:
    """Take all rows over into an empty database of the same schema, and make its full text."""
    db.run("ATTACH DATABASE :path AS damaged", path=str(path))
    db.script("PRAGMA foreign_keys = OFF")
    try:
        for table in _tables(db):
            if table not in TEXTS | without:
                # NOT INDEXED, and a condition: else the engine reads indexes, or takes their pages over as they are.
                db.script(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM damaged.{table} NOT INDEXED WHERE 1")
    finally:
        db.script("DETACH DATABASE damaged; PRAGMA foreign_keys = ON")
    with migrations.immediate(db):
        rebuild_texts(db)
        queue.end_leases(db)
        incarnation.renew(db)


def _tables(db: Connection) -> list[str]:
    rows = db.all(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT IN ('sqlite_schema', 'sqlite_temp_schema') ORDER BY name = 'sqlite_sequence'"
    )
    return [name for (name,) in rows]

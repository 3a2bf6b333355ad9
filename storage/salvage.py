"""Write a database anew from its rows where damaged pages hold only what is derived of them.

Indexes and the full text are made again. Vectors are taken over where they can be read; where not, a repair
queues what they are made from. What is only kept for a while (which rows wait for a vector, how often the content
of a project changed, when maintenance was done) begins anew where it cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from storage import backup, blueprint, incarnation, lost_rows, migrations, queue, text_index
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConstraintError, CorruptDatabaseError
from storage.lost_rows import VECTORS, Named
from storage.mends import rebuild_texts
from storage.verify import damaged_trees

TEXTS = frozenset({"text_rows", "text_stats"})
PASSING = frozenset({"pending_vectors", "generations", "change_log", "maintenance"})
"""Tables that a repair fills again from the rows of others, or work that goes on: all but the notes of erasures."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was done: `copy`, the database as it was, and the names of the tables that began anew, empty.

    alone: what single indexes told, and was not believed.
    """

    copy: Path | None
    emptied: frozenset[str]
    alone: list[Named]


def salvage(database: Database, mend_texts: Callable[[Connection], None]) -> Salvaged | None:
    """Write the database anew, in one transaction; None where rows are hit, or lost: nothing is written then.

    mend_texts: what makes texts of the rows, once they are taken over, such that all can be read.
    Whoever has it open has to start anew (ReplacedError). Raises LockedError, DiskFullError, DatabaseError.
    """
    with database.read() as db:
        trees = damaged_trees(db)
        if not trees or not all(map(_is_derived, trees)) or blueprint.differences(db) != blueprint.NONE:
            return None
        compared = lost_rows.compare(db)
        if compared.lost:
            return None
        emptied = frozenset(name for _, name in trees) & (VECTORS | PASSING)
    fill = partial(_fill, path=database.path, without=emptied, mend_texts=mend_texts)
    try:
        return Salvaged(backup.write_anew(database.path, fill), emptied, compared.alone)
    except (CorruptDatabaseError, ConstraintError):
        return None


def _is_derived(tree: blueprint.Key) -> bool:
    type, name = tree
    return type == "index" or name in VECTORS | TEXTS | PASSING or name.rpartition("_")[0] in text_index.TABLES.values()


def _fill(db: Connection, *, path: Path, without: frozenset[str], mend_texts: Callable[[Connection], None]) -> None:
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
        mend_texts(db)
        rebuild_texts(db)
        queue.end_leases(db)
        incarnation.renew(db)


def _tables(db: Connection) -> list[str]:
    rows = db.all(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT IN ('sqlite_schema', 'sqlite_temp_schema') ORDER BY name = 'sqlite_sequence'"
    )
    return [name for (name,) in rows]

"""The schema, as numbered steps up and down, and the runner that takes them.

Foreign keys are switched off before the transaction: inside one the pragma is ignored, and a table
rebuild would delete every child row. They are checked before the commit instead. What another program broke before
is no fault of a step, and `repair`, which mends it, can do so in today's schema only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from storage import erasures, fields, indexed_texts, scratch
from storage.connection import Connection, connect
from storage.errors import ConstraintError, DatabaseError, NewerSchemaError, NotADatabaseError, UsageError
from storage.ids import now_text
from storage.snapshot import copy

APPLICATION_ID = 0x4B4E4C58  # "KNLX", so that `file` and we know our databases


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: its number, its name, and the SQL in both directions."""

    version: int
    description: str
    up: str
    down: str


def _load() -> tuple[Migration, ...]:
    folder = files("storage") / "schema"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql") and not f.name.endswith(".down.sql"))
    steps: list[Migration] = []
    for name in names:
        number, _, rest = name.removesuffix(".sql").partition("_")
        down = folder / name.replace(".sql", ".down.sql")
        steps.append(
            Migration(int(number), rest.replace("_", " "), (folder / name).read_text("utf8"), down.read_text("utf8"))
        )
    return tuple(steps)


MIGRATIONS = _load()
LATEST = MIGRATIONS[-1].version
VERSIONED_TEXTS = 3
"""The step since which a database says which tokenizer made its full text: without a word of it, the first."""


def version(connection: Connection) -> int:
    """Return the schema version of the file: 0 when it is empty."""
    return connection.value("PRAGMA user_version")


def require_ours(connection: Connection) -> None:
    """Raise unless the file is empty or a Knowlex database of this version or older."""
    # One statement, so that a schema another process is just making is seen whole or not at all.
    [(application, found, objects)] = connection.all(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_application_id, pragma_user_version"
    )
    if application not in (0, APPLICATION_ID) or (application == 0 and objects):
        raise NotADatabaseError(f"{connection.path}: a database of another program; name another file with --db")
    if found > LATEST:
        raise NewerSchemaError(
            f"{connection.path}: schema {found} is newer than this Knowlex knows ({LATEST}); upgrade Knowlex"
            + _or_use_a_copy(connection.path)
        )


def _or_use_a_copy(database: Path) -> str:
    """Return the rest of a remedy: the latest copy beside the database that this Knowlex can read; "" without one."""
    of_version = re.compile(rf"{re.escape(database.name)}\.before-v(\d+)(?:\.\d+)?")
    with suppress(OSError):
        named = [(path, of_version.fullmatch(path.name)) for path in database.parent.iterdir()]
        copies = [(path.stat().st_mtime_ns, path) for path, match in named if match and int(match[1]) <= LATEST]
        if copies:
            return f", or use the copy made before, {max(copies)[1]}: name it with --db, or move it to this place"
    return ""


def migrate(
    connection: Connection,
    target: int | None = None,
    *,
    back_up: bool = True,
    on_copy: Callable[[Path], None] = lambda copy: None,
) -> list[int]:
    """Bring the schema to `target` (the latest by default) and return the versions taken.

    Each step is one transaction; all those of a new database are one, so that nobody meets a part of its schema. A
    database that holds a schema already is backed up first, beside the file, unless not `back_up`; on_copy is called
    with that copy. Where no step can be taken it goes again.
    Raises UsageError for an unknown version, DatabaseError for going down while erased text waits to be cleared,
    which an older schema would forget.
    """
    goal = LATEST if target is None else target
    if type(goal) is not int:  # it names files
        raise UsageError(f"schema version: is {fields.kind_of(goal)}; give a whole number from 0 to {LATEST}")
    if not 0 <= goal <= LATEST:
        raise UsageError(f"schema version {goal}: there is none such; give 0 to {LATEST}")
    if goal < version(connection):
        _require_cleared(connection)  # before a copy is made
    taken: list[int] = []
    with _backed_up(connection, on_copy) if back_up and version(connection) not in (0, goal) else nullcontext():
        while steps := _next_steps(version(connection), goal):
            taken += _apply(connection, steps, goal)
    return taken


@contextmanager
def _backed_up(connection: Connection, on_copy: Callable[[Path], None]) -> Generator[None]:
    """Keep a copy for the block; an error before the schema has changed leaves none, as each new try would add one."""
    found = version(connection)
    copy = back_up_before(connection)
    on_copy(copy)
    try:
        yield
    except BaseException:
        with suppress(DatabaseError, OSError):
            if version(connection) == found:
                scratch.remove(copy)
        raise


def _require_cleared(connection: Connection) -> None:
    if since := erasures.due(connection):
        raise DatabaseError(
            f"{connection.path}: what was erased at {since} is not cleared yet, and an older schema would forget it;"
            " run knowlex maintain first"
        )


def schema_sql(connection: Connection) -> str:
    """Return everything the schema says as SQL, in the order it was made, save what the engine keeps for itself."""
    rows = connection.all(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid"
    )
    return "".join(f"{sql};\n\n" for (sql,) in rows)


def _next_steps(current: int, goal: int) -> list[Migration]:
    """Return what is to be done in one transaction: a step up or down, or all of a new database."""
    if current == goal:
        return []
    wanted = range(1, goal + 1) if current == 0 else [current + 1 if current < goal else current]
    return [step for step in MIGRATIONS if step.version in wanted]


def _apply(connection: Connection, steps: Sequence[Migration], goal: int) -> list[int]:
    """Take steps and return the versions taken: none where another process was there while we waited for the lock."""
    with _unchecked_foreign_keys(connection), immediate(connection):
        current = version(connection)
        if _next_steps(current, goal) != steps:
            return []
        return [_take(connection, step, upward=current < goal) for step in steps]


def _take(connection: Connection, step: Migration, *, upward: bool) -> int:
    if not upward:
        _require_cleared(connection)
    broken_before = _broken_references(connection)
    connection.script(step.up if upward else step.down)
    if upward and step.version == VERSIONED_TEXTS:
        indexed_texts.note_empty(connection)
    _record(connection, step, upward=upward)
    if added := (_broken_references(connection) - broken_before).total():
        raise ConstraintError(f"{connection.path}: migration {step.version} leaves {added} broken references")
    return version(connection)


def _broken_references(connection: Connection) -> Counter[tuple[str, int | None, str]]:
    """Return how many references of a row (its table and key) to a table lead nowhere."""
    rows = connection.all("PRAGMA foreign_key_check")
    return Counter((table, key, parent) for table, key, parent, _ in rows)


def _record(connection: Connection, step: Migration, *, upward: bool) -> None:
    connection.script(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        " version INTEGER PRIMARY KEY, description TEXT NOT NULL, applied_at TEXT NOT NULL)"
    )
    if upward:
        connection.run(
            "INSERT INTO schema_migrations (version, description, applied_at) VALUES (:version, :text, :now)",
            version=step.version,
            text=step.description,
            now=now_text(),
        )
    else:
        connection.run("DELETE FROM schema_migrations WHERE version = :version", version=step.version)
    connection.script(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.script(f"PRAGMA user_version = {step.version if upward else step.version - 1}")


@contextmanager
def immediate(connection: Connection) -> Generator[None]:
    """Hold the write lock for the block; commit at its end, roll back on any exception."""
    _take_write_lock(connection)
    try:
        yield
        require_open(connection)
        connection.script("COMMIT")
    except BaseException:
        if connection.raw.in_transaction:
            connection.script("ROLLBACK")
        raise
    finally:
        connection.turns.give_back()


def _take_write_lock(connection: Connection) -> None:
    with connection.turns.waiting(connection.raw, connection.value("PRAGMA busy_timeout")):
        connection.script("BEGIN IMMEDIATE")


def require_open(connection: Connection) -> None:
    """Raise DatabaseError where the engine has undone the transaction: a full disk or a fault of it does that.

    Whoever caught that error must not go on: each further statement would be a transaction of its own.
    """
    if not connection.raw.in_transaction:
        raise DatabaseError(f"{connection.path}: an error undid the whole transaction; nothing of it was kept")


@contextmanager
def savepoint(connection: Connection) -> Generator[None]:
    """Within a transaction, undo the block alone on any exception."""
    require_open(connection)
    connection.script("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.raw.in_transaction:
            connection.script("ROLLBACK TO part; RELEASE part")
        raise
    require_open(connection)
    connection.script("RELEASE part")


@contextmanager
def _unchecked_foreign_keys(connection: Connection) -> Generator[None]:
    connection.script("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        connection.script("PRAGMA foreign_keys = ON")


def back_up_before(connection: Connection) -> Path:
    """Copy the database beside itself as `NAME.before-vN` (0600) and return the copy.

    N is the version found in the copy: another process may have migrated while it was made.
    """
    return keep_copy(connection, "before-v{version}")


def keep_copy(connection: Connection, suffix: str) -> Path:
    """Copy the database beside itself as `NAME.suffix` (0600), through the backup API; return the copy.

    suffix: `{version}` in it stands for the schema version of the copy. An older copy is never replaced: the
    next free of `NAME.suffix`, `NAME.suffix.2`, … is taken.
    """
    database = connection.path
    with scratch.beside(database, database) as path:
        copy(connection, path, named=database)
        return scratch.keep_as(path, f"{database.name}.{suffix.format(version=_version_of(path, database))}")


def _version_of(path: Path, database: Path) -> int:
    connection = connect(path, readonly=True, named=database)
    try:
        return version(connection)
    finally:
        connection.close()

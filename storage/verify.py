"""Compare everything the database says with everything it holds.

The quick check reads the tables. The deep one works on a snapshot made by the backup API, so that it takes
no lock, nor keeps the log from being folded: SQLite's own integrity check, and every indexed token and every
vector against its text.
A page that cannot be read is a problem like any other: whatever else can be read is checked all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from storage import blueprint, chunks, files, indexed_texts, json_columns, lost_rows, scratch, text_index, vectors
from storage.connection import LOOK, LOST, MEND, Connection, connect, translated
from storage.database import Database
from storage.errors import (
    CorruptDatabaseError,
    DamagedValueError,
    DatabaseError,
    NotADatabaseError,
    ReadOnlyError,
    UsageError,
)
from storage.invariants import PAGE, RULES, by_pk, offenders
from storage.paths import may
from storage.snapshot import copy
from storage.sources import Source


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of thing that is wrong, an example, and how often."""

    kind: str
    detail: str
    count: int


Check = Callable[[Connection], Iterator[Problem]]
Find = Callable[[Connection], list[tuple[int, str]]]
"""Returns (pk, name) of whatever is wrong in one way."""

VECTORS = 500
"""How many vectors, each with its text where that is compared, are read at once."""

KINDS = frozenset(
    {rule.kind for rule in RULES}
    | {column.kind for column in json_columns.COLUMNS}
    | {"reference", "path", "parent_cycle", "unembedded_message", "missing_text", "orphan_text", "schema_version"}
    | {"missing_index", "missing_table", "schema", "unknown_object"}
    | {"damaged", "index", "constraint", "text_index", "encoding", "text_drift", "chunk_text"}
    | {"vector", "vector_signs", "vector_text"}
)
"""Every kind of problem there is."""

_TABLES = {Source.FILE: "file_chunks", Source.MEMORY: "project_memories", Source.MESSAGE: "messages"}

TEXTS = (
    ("projects", "name", "pk"),
    ("projects", "description", "name"),
    ("conversations", "title", "id"),
    ("messages", "content", "id"),
    ("project_memories", "title", "id"),
    ("project_memories", "content", "id"),
    ("file_chunks", "heading", "id"),
    ("file_chunks", "content", "id"),
    ("project_files", "path", "id"),
    ("project_files", "filename", "id"),
    ("app_settings", "key", "pk"),
    ("access_tokens", "name", "id"),
)
"""Table and column of every text that people wrote, and what names the row."""


def verify(database: Database, *, deep: bool = False) -> list[Problem]:
    """Return everything found wrong; an empty list means that all is well.

    deep: also read every page and compare every token and vector with its text, on a snapshot that
    needs as much disk space as the database, for a while.
    Raises DatabaseError or one of its kinds where something else than what is in the file keeps it from being read,
    or the snapshot from being made.
    """
    found = _guarded(database.read, _quick)
    if deep:
        found += _guarded(partial(_snapshot, database), _deep)
    return list(dict.fromkeys(found))


def _guarded(connection: Callable[[], Any], check: Check) -> list[Problem]:
    with _Reading() as reading, connection() as db:
        reading.found.extend(check(db))
    return reading.found


class _Reading:
    """What was found while reading, to which what cannot be read is added as it comes up.

    db: where a value of a wrong kind is looked for when a check stumbles.
    """

    def __init__(self, db: Connection | None = None) -> None:
        self.found: list[Problem] = []
        self._db = db

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        problem = unreadable(error)
        if problem is None and self._db is not None and isinstance(error, _STUMBLED):
            problem = _mistyped(self._db)
        if problem is not None:
            self.found.append(problem)
        return problem is not None


_STUMBLED = (TypeError, ValueError, AttributeError, OverflowError)
"""What Python says of a value of a wrong kind, and of a fault of our own."""


def unreadable(error: BaseException | None) -> Problem | None:
    """Return the problem that an error while opening or reading stands for, or None where it is none of the file's."""
    match error:
        case UnicodeDecodeError() | DamagedValueError(__cause__=UnicodeDecodeError()):
            return Problem("encoding", "a text is not valid Unicode", 1)
        case CorruptDatabaseError() if _code(error) == apsw.SQLITE_CORRUPT_VTAB:
            return Problem("text_index", "the pages of the full text do not fit together", 1)
        case CorruptDatabaseError() if isinstance(error.__cause__, apsw.Error):
            return Problem("damaged", str(error.__cause__), 1)
        case CorruptDatabaseError() | NotADatabaseError():
            return Problem("damaged", error.message, 1)
        case DatabaseError() if _code(error) in LOST or _names_nothing(error):
            return Problem("damaged", error.message, 1)
        case _:
            return None


def _code(error: DatabaseError) -> int:
    return getattr(error.__cause__, "extendedresult", 0)


def _names_nothing(error: DatabaseError) -> bool:
    """Tell whether a statement of ours meets a schema that has no such table or column."""
    return isinstance(error.__cause__, apsw.SQLError) and str(error.__cause__).startswith("no such ")


def _mistyped(db: Connection) -> Problem | None:
    """Return a problem that names a value of a kind that its column does not hold, if there is one."""
    for table, column, types in blueprint.columns():
        with _Reading() as reading:
            allowed = ", ".join(f"'{type}'" for type in sorted(types))
            found = db.value(f"SELECT count(*) FROM {table} WHERE typeof({column}) NOT IN ({allowed})")
            if found:
                return Problem("damaged", f"{column} of a row of {table} is of a kind that it does not hold", found)
        if reading.found:
            return reading.found[0]
    return None


def _each(db: Connection, *checks: Check) -> Iterator[Problem]:
    """Run checks one by one, so that one that meets a damaged page does not keep the others from theirs."""
    for check in checks:
        with _Reading(db) as reading:
            reading.found.extend(check(db))
        yield from reading.found


def _quick(db: Connection) -> Iterator[Problem]:
    schema = list(_each(db, _schema))
    yield from schema
    if any(problem.kind in ("missing_table", "damaged") for problem in schema):
        return
    yield from _each(db, *(_finding(rule.kind, rule.says, partial(offenders, kind=rule.kind)) for rule in RULES))
    for column in json_columns.COLUMNS:
        yield from _each(db, _finding(column.kind, column.says, partial(json_columns.wrong, column=column)))
    yield from _each(
        db,
        _references,
        _finding("path", "the path of a file is not what its bytes say", wrong_paths),
        _finding("parent_cycle", "messages answer each other in a circle", circles),
        _finding(
            "unembedded_message",
            "a message has no vector of the live model, and none is to be made",
            unembedded_messages,
        ),
        *map(_indexed, Source),
    )


def _finding(kind: str, says: str, find: Find) -> Check:
    def check(db: Connection) -> Iterator[Problem]:
        if found := find(db):
            yield Problem(kind, f"{says}, e.g. {found[0][1]}", len(found))

    return check


def _schema(db: Connection) -> Iterator[Problem]:
    """Compare tables, indexes and triggers with what the migrations make, and the steps taken with those there are."""
    differing = blueprint.differences(db)
    kinds = {"index": "missing_index"}
    for type, name in differing.missing:
        yield Problem(kinds.get(type, "missing_table"), f"the {type} {name} is missing", 1)
    for type, name in differing.changed:
        yield Problem("schema", f"the {type} {name} is not as the migrations make it", 1)
    for type, name in differing.unknown:
        yield Problem("unknown_object", f"the {type} {name} is not Knowlex's", 1)
    if ("table", "schema_migrations") not in differing.missing:
        yield from _steps(db)


def _steps(db: Connection) -> Iterator[Problem]:
    taken = {version for (version,) in db.all("SELECT version FROM schema_migrations")}
    wanted = set(blueprint.steps())
    at = db.value("PRAGMA user_version")
    if taken != wanted or at != max(wanted):
        yield Problem("schema_version", f"the schema is {at}, but the migrations on record do not lead there", 1)


def _references(db: Connection) -> Iterator[Problem]:
    broken = db.all("PRAGMA foreign_key_check")
    if broken:
        yield Problem("reference", f"a row of {broken[0][0]} refers to nothing", len(broken))


def wrong_paths(db: Connection) -> list[tuple[int, str]]:
    """Return (pk, path) of files whose path or name, as people see it, is not that of the bytes they are read by."""
    rows = by_pk(
        db,
        "SELECT pk, CAST(path AS BLOB), CAST(filename AS BLOB), CAST(path_bytes AS BLOB) FROM project_files"
        " WHERE pk > :after ORDER BY pk LIMIT :page",
        page=PAGE,
    )
    return [
        (pk, names_of(raw)[0])
        for pk, path, filename, raw in rows
        if names_of(raw) != (json_columns.shown(path), json_columns.shown(filename))
    ]


def names_of(path: bytes) -> tuple[str, str]:
    """Return a file's path and its name as people see them."""
    text = files.shown(path)
    return text, text.rsplit("/", 1)[-1]


def circles(db: Connection) -> list[tuple[int, str]]:
    """Return (pk, id) of the first message of each circle of answers."""
    # Somewhere in a circle a message answers one that came later, or itself: only what is above those is read.
    above = dict(
        db.all(
            "WITH RECURSIVE above (pk, parent) AS (SELECT pk, parent_id FROM messages WHERE parent_id >= pk"
            " UNION SELECT m.pk, m.parent_id FROM above JOIN messages m ON m.pk = above.parent"
            " WHERE m.parent_id IS NOT NULL) SELECT pk, parent FROM above"
        )
    )
    firsts = [min(circle) for circle in _circles(above)]
    return [(pk, db.value("SELECT id FROM messages WHERE pk = :pk", pk=pk)) for pk in sorted(firsts)]


def _circles(above: Mapping[int, int]) -> Iterator[list[int]]:
    """Yield each circle of a mapping from a message to the one it answers; every message is passed once."""
    passed: set[int] = set()
    for start in above:
        way: dict[int, None] = {}
        pk = start
        while pk in above and pk not in passed:
            passed.add(pk)
            way[pk] = None
            pk = above[pk]
        if pk in way:
            steps = list(way)
            yield steps[steps.index(pk) :]


def unembedded_messages(db: Connection) -> list[tuple[int, str]]:
    """Return (pk, id) of messages with text that have no vector of the live model, and get none."""
    rows = by_pk(
        db,
        "SELECT g.pk, g.id, g.content FROM messages g CROSS JOIN conversations k ON k.pk = g.conversation_id"
        " WHERE g.pk > :after"
        " AND NOT EXISTS (SELECT 1 FROM pending_vectors p WHERE p.source = 'message' AND p.pk = g.pk)"
        " AND NOT EXISTS (SELECT 1 FROM vector_bits v JOIN embedding_models e ON e.pk = v.model AND e.status = 'live'"
        " WHERE v.project = coalesce(k.project_id, 0) AND v.source = 'message' AND v.pk = g.pk)"
        " ORDER BY g.pk LIMIT :page",
        page=PAGE,
    )
    return [(pk, id) for pk, id, content in rows if indexed_texts.message_text(content).strip()]


def _indexed(source: Source) -> Check:
    """Compare the rows there are with those the full text knows: in its index (docsize) and in its lengths."""

    def check(db: Connection) -> Iterator[Problem]:
        table, index = _TABLES[source], f"SELECT id AS pk FROM {text_index.TABLES[source]}_docsize"
        lengths = "SELECT pk FROM text_rows WHERE source = :source"
        # A message may hold no text, and is not indexed then; the deep check reads them.
        rows = lengths if source is Source.MESSAGE else f"SELECT pk FROM {table}"
        missing = [_lacking(db, rows, index, source), _lacking(db, rows, lengths, source)]
        if any(missing):
            yield Problem("missing_text", f"a row of {table} is not in the full text", max(missing))
        orphaned = [_lacking(db, known, f"SELECT pk FROM {table}", source) for known in (index, lengths)]
        orphaned.append(_lacking(db, index, lengths, source))
        if any(orphaned):
            yield Problem("orphan_text", f"the full text of {table} knows a row that is gone", max(orphaned))

    return check


def _lacking(db: Connection, rows: str, known: str, source: Source) -> int:
    """Return how many of `rows` are not in `known`; both are queries for a pk."""
    return db.value(
        f"SELECT count(*) FROM ({rows}) r LEFT JOIN ({known}) k ON k.pk = r.pk"
        " WHERE k.pk IS NULL AND :source IS NOT NULL",
        source=source,
    )


@contextmanager
def _snapshot(database: Database) -> Generator[Connection]:
    """Give a connection to a copy of the database; of the database itself, nothing is held once that is made."""
    if not may(database.path.parent, os.W_OK):
        raise ReadOnlyError(
            f"{database.path}: is read through in a copy beside it, where nothing can be written; leave --deep out, or"
            f" {LOOK}"
        )
    with scratch.beside(database.path, database.path) as path:
        with database.read_apart() as db:
            copy(db, path, named=database.path)
        connection = connect(path, named=database.path)
        try:
            yield connection
        finally:
            connection.close()


def _deep(snapshot: Connection) -> Iterator[Problem]:
    pages = list(_each(snapshot, _pages))
    yield from pages
    yield from _each(snapshot, partial(_lost_rows, suspected=bool(pages)), _encodings, *map(_full_text, Source))
    chunk_texts = _finding("chunk_text", "a chunk's text is not what was stored", changed_chunks)
    yield from _each(snapshot, chunk_texts, _vectors, _vector_texts)


_WRONG_INDEX = re.compile(
    r"(?:row \d+ missing from|row \d+ values differ from|wrong # of entries in|non-unique entry in|"
    r"rowid not at end-of-record for row \d+ of) index (\S+)"
)
_WRONG_TEXT = re.compile(r"\bfts5\b", re.IGNORECASE)
_WRONG_VALUE = re.compile(r"CHECK constraint failed in|NULL value in|non-\w+ value in")


_TREE = re.compile(r"Tree (\d+) ")
_UNUSED = re.compile(r"Page \d+: never used")
_HEADING = "*** in database main ***"
_UNKNOWN: blueprint.Key = ("", "")

_MOST_LINES = 100
"""After so many SQLite's check ends."""


def damaged_pages(path: Path) -> list[Problem]:
    """Return what SQLite's check names in a database that cannot be opened as ours; nothing where it cannot either."""
    with suppress(DatabaseError):
        connection = connect(path, readonly=True)
        try:
            return list(_pages(connection))
        finally:
            connection.close()
    return []


def _pages(db: Connection) -> Iterator[Problem]:
    """Name what SQLite's own check says, each damaged tree of pages by its table or index."""
    groups: dict[tuple[str, blueprint.Key], list[str]] = {}
    for line in _integrity(db):
        groups.setdefault((_kind_of(line), _tree(db, line)), []).append(line)
    for (kind, (type, name)), lines in groups.items():
        yield Problem(kind, f"{type} {name}: {lines[0]}" if name else lines[0], len(lines))


def _lost_rows(db: Connection, *, suspected: bool) -> Iterator[Problem]:
    """Name the rows of which only indexes and full text still tell: to make these anew would efface that."""
    for lost in lost_rows.compare(db, suspected=suspected).lost:
        names = ", ".join(lost.names) + (", …" if lost.count > len(lost.names) else "")
        detail = f"table {lost.tree}: rows are lost, or older, that other pages still tell of: {names}"
        # What stands behind a semicolon would be taken for what to do; see `storage.repair`.
        yield Problem("damaged", detail.replace(";", ","), lost.count)


def damaged_trees(db: Connection) -> set[blueprint.Key]:
    """Return the tables and indexes with damaged pages; ("", "") stands for what belongs to none that is known."""
    lines = _integrity(db)
    if len(lines) >= _MOST_LINES:  # there may be more
        return {_UNKNOWN}
    return {_tree(db, line) for line in lines if _kind_of(line) == "damaged"}


def _integrity(db: Connection) -> list[str]:
    """Return what SQLite's check says; of one table after the other where it says nothing of all.

    Raises CorruptDatabaseError where it says nothing at all.
    """
    said = _said(db, _CHECK, None)
    if not said:
        tables = db.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        said = [line for (name,) in tables for line in _said(db, f"{_CHECK}(:name)", name)]
    if not said:
        raise CorruptDatabaseError(f"{db.path}: SQLite cannot check it; {MEND}")
    said = [line for line in said if line not in ("ok", _HEADING)]
    # What hangs on a page that cannot be read looks as if nothing used it.
    return [line for line in said if not _UNUSED.match(line)] or said


_CHECK = "SELECT integrity_check FROM pragma_integrity_check"


def _said(db: Connection, sql: str, name: str | None) -> list[str]:
    """Return the lines of a check until it stumbles over a page itself."""
    said: list[str] = []
    with suppress(CorruptDatabaseError), translated(db.path, db.raw):
        for (text,) in db.raw.execute(sql, {"name": name}):  # pyright: ignore[reportUnknownMemberType]
            said += text.splitlines()
    return said


def _tree(db: Connection, line: str) -> blueprint.Key:
    """Return the table or index that a line of the check speaks of."""
    tree = _TREE.match(line)
    if tree is None:
        return _UNKNOWN
    if tree[1] == "1":
        return "table", "sqlite_schema"
    with suppress(CorruptDatabaseError):
        for type, name in db.all("SELECT type, name FROM sqlite_schema WHERE rootpage = :root", root=int(tree[1])):
            return type, name
    return _UNKNOWN


def _kind_of(text: str) -> str:
    """Return what a line of SQLite's integrity check speaks of."""
    if _WRONG_INDEX.search(text):
        return "index"
    if _WRONG_TEXT.search(text):
        return "text_index"
    return "constraint" if _WRONG_VALUE.search(text) else "damaged"


def undecodable(db: Connection, table: str, column: str, name: str) -> list[tuple[int, str]]:
    """Return (pk, name) of rows whose text is no text, or no valid Unicode."""
    rows = by_pk(
        db,
        f"SELECT pk, CAST({name} AS BLOB), typeof({column}), CAST({column} AS BLOB) FROM {table}"
        " WHERE pk > :after ORDER BY pk LIMIT :page",
        page=PAGE,
    )
    return [(pk, json_columns.shown(who)) for pk, who, type, value in rows if type != "text" or not _decodes(value)]


def _decodes(value: bytes) -> bool:
    try:
        value.decode("utf8")
    except UnicodeDecodeError:
        return False
    return True


def _encodings(db: Connection) -> Iterator[Problem]:
    for table, column, name in TEXTS:
        if found := undecodable(db, table, column, name):
            yield Problem("encoding", f"{column} of {table} {found[0][1]} is not valid Unicode", len(found))


def _full_text(source: Source) -> Check:
    """Compare every indexed token with the text it was made from."""

    def check(db: Connection) -> Iterator[Problem]:
        differing = text_index.drift(db, source, indexed_texts.rows(db, source))
        if differing:
            yield Problem("text_drift", f"the full text of {_TABLES[source]} is not that of its rows", differing)

    return check


def changed_chunks(db: Connection) -> list[tuple[int, str]]:
    """Return (pk, id) of chunks whose text is not what was stored.

    Those that `repair` has marked so, and whose file is in the queue, are passed over.
    """
    rows = by_pk(
        db,
        "SELECT c.pk, c.id, CAST(c.content AS BLOB), c.content_hash, f.status IN ('pending', 'processing')"
        " FROM file_chunks c LEFT JOIN project_files f ON f.pk = c.file_id WHERE c.pk > :after"
        " ORDER BY c.pk LIMIT :page",
        page=PAGE,
    )
    return [
        (pk, id)
        for pk, id, text, digest, queued in rows
        if not (queued and digest == b"") and chunks.content_hash(json_columns.shown(text)) != digest
    ]


@dataclass(frozen=True, slots=True)
class WrongVectors:
    """Embeddings that are no unit vector of their model; (embedding, right signs) where only the signs are wrong."""

    values: list[int]
    signs: list[tuple[int, bytes]]


def wrong_vectors(db: Connection) -> WrongVectors:
    """Read every vector: it must be a unit vector of its model's size, with its own signs wherever it is used."""
    wrong = WrongVectors([], [])
    rows = by_pk(
        db,
        "SELECT e.pk, e.vector, m.dim, min(v.bits), max(v.bits) FROM embeddings e JOIN embedding_models m"
        " ON m.pk = e.model_id LEFT JOIN vector_bits v ON v.embedding = e.pk WHERE e.pk > :after"
        " GROUP BY e.pk, e.vector, m.dim ORDER BY e.pk LIMIT :page",
        page=VECTORS,
    )
    for pk, half, dim, first, last in rows:
        signs = _signs(half, dim)
        if signs is None:
            wrong.values.append(pk)
        elif first is not None and not first == last == signs:
            wrong.signs.append((pk, signs))
    return wrong


def _signs(half: Any, dim: int) -> bytes | None:
    """Return the signs of a stored vector; None where it is not a unit vector of that size."""
    import numpy as np

    if not isinstance(half, bytes) or len(half) != 2 * dim:
        return None
    try:
        return vectors.encode(np.frombuffer(half, "<f2").astype(np.float32).reshape(1, -1))[0].bits
    except UsageError:
        return None


def _vectors(db: Connection) -> Iterator[Problem]:
    wrong = wrong_vectors(db)
    if wrong.values:
        detail = f"a vector is no unit vector of its model's size, e.g. embedding {wrong.values[0]}"
        yield Problem("vector", detail, len(wrong.values))
    if wrong.signs:
        detail = f"a vector is searched by signs that are not its own, e.g. embedding {wrong.signs[0][0]}"
        yield Problem("vector_signs", detail, len(wrong.signs))


def stale_vectors(db: Connection) -> list[tuple[Source, int, str]]:
    """Return (source, pk, id) of memories and messages that have a vector of another text than theirs.

    It may be of the live model or of one that is built. Those that wait for a new one are passed over. A chunk's text
    never changes under its vector.
    """
    found: dict[tuple[Source, int, str], None] = {}
    for (model,) in db.all("SELECT pk FROM embedding_models WHERE status <> 'retired'"):
        for source, sql in _EMBEDDED.items():
            for pk, id, digest, *texts in by_pk(db, sql, page=VECTORS, model=model):
                if vectors.input_hash(_model_input(source, *texts)) != digest:
                    found[source, pk, id] = None
    return list(found)


_EMBEDDED = {
    Source.MEMORY: (
        "SELECT m.pk, m.id, e.input_hash, m.title, m.content FROM project_memories m"
        " JOIN vector_bits v ON v.model = :model"
        " AND v.project = m.project_id AND v.source = 'memory' AND v.pk = m.pk JOIN embeddings e ON e.pk = v.embedding"
        " WHERE m.pk > :after AND NOT EXISTS (SELECT 1 FROM pending_vectors p WHERE p.source = 'memory'"
        " AND p.pk = m.pk) ORDER BY m.pk LIMIT :page"
    ),
    Source.MESSAGE: (
        "SELECT m.pk, m.id, e.input_hash, m.content FROM messages m JOIN conversations k ON k.pk = m.conversation_id"
        " JOIN vector_bits v ON v.model = :model"
        " AND v.project = coalesce(k.project_id, 0) AND v.source = 'message' AND v.pk = m.pk"
        " JOIN embeddings e ON e.pk = v.embedding WHERE m.pk > :after AND NOT EXISTS (SELECT 1 FROM pending_vectors p"
        " WHERE p.source = 'message' AND p.pk = m.pk) ORDER BY m.pk LIMIT :page"
    ),
}


def _model_input(source: Source, *texts: str) -> str:
    """Return what a model is given of a memory or a message; see `storage.pending`."""
    return "\n\n".join(texts) if source is Source.MEMORY else indexed_texts.message_text(texts[0])


def _vector_texts(db: Connection) -> Iterator[Problem]:
    if found := stale_vectors(db):
        source, _, id = found[0]
        yield Problem("vector_text", f"a vector is of another text than its {source}'s, e.g. {id}", len(found))

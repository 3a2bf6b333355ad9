"""Compare everything the database says with everything it holds.

The quick check reads the tables. The deep one works on a snapshot made by the backup API, so that it
takes no lock: SQLite's own integrity check, and every indexed token and every vector against its text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage import chunks, indexed_texts, text_index, vectors
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import CorruptDatabaseError
from storage.snapshot import copy
from storage.sources import Source
from storage.vectors import Vector


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of thing that is wrong, an example, and how often."""

    kind: str
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must never be found: a query that names each offender."""

    kind: str
    says: str
    sql: str


RULES = (
    Rule(
        "chunk_count",
        "a file's chunk_count is not the number of its chunks",
        "SELECT f.path FROM project_files f WHERE f.duplicate_of IS NULL AND f.chunk_count <>"
        " (SELECT count(*) FROM file_chunks c WHERE c.file_id = f.pk)",
    ),
    Rule(
        "duplicate_count",
        "a duplicate's chunk_count is not its owner's",
        "SELECT f.path FROM project_files f JOIN project_files o ON o.pk = f.duplicate_of"
        " WHERE f.chunk_count <> o.chunk_count",
    ),
    Rule(
        "duplicate_owner",
        "a duplicate's owner is missing, itself a duplicate, of another project or of other bytes",
        "SELECT f.path FROM project_files f LEFT JOIN project_files o ON o.pk = f.duplicate_of"
        " WHERE f.duplicate_of IS NOT NULL AND (o.pk IS NULL OR o.duplicate_of IS NOT NULL"
        " OR o.project_id <> f.project_id OR o.indexed_hash IS NOT f.indexed_hash)",
    ),
    Rule(
        "duplicate_chunks",
        "a duplicate has chunks of its own",
        "SELECT f.path FROM project_files f WHERE f.duplicate_of IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM file_chunks c WHERE c.file_id = f.pk)",
    ),
    Rule(
        "waiting",
        "a file waits for one that is not in the queue, or not of the same bytes",
        "SELECT f.path FROM project_files f LEFT JOIN project_files o ON o.pk = f.waiting_for"
        " WHERE f.waiting_for IS NOT NULL AND (o.pk IS NULL OR o.status NOT IN ('pending', 'processing')"
        " OR o.content_hash IS NOT f.content_hash OR o.waiting_for IS NOT NULL)",
    ),
    Rule(
        "ready",
        "a ready file has no chunks, another version indexed, an error or a lease",
        "SELECT path FROM project_files WHERE status = 'ready' AND (chunk_count = 0 OR indexed_hash IS NULL"
        " OR indexed_hash IS NOT content_hash OR error_message IS NOT NULL OR lease_token IS NOT NULL)",
    ),
    Rule(
        "failed",
        "a failed file does not say why",
        "SELECT path FROM project_files WHERE status = 'failed' AND coalesce(error_message, '') = ''",
    ),
    Rule(
        "lease",
        "a lease without an owner or an end",
        "SELECT path FROM project_files WHERE (lease_token IS NULL) <> (lease_owner IS NULL)"
        " OR (lease_token IS NULL) <> (lease_expires_at IS NULL)",
    ),
    Rule(
        "chunk_project",
        "a chunk is of another project than its file",
        "SELECT c.id FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.project_id <> f.project_id",
    ),
    Rule(
        "chunk_order",
        "a file's chunks are not numbered 0, 1, 2, ...",
        "SELECT file_id FROM file_chunks GROUP BY file_id HAVING min(chunk_index) <> 0"
        " OR max(chunk_index) <> count(*) - 1",
    ),
    Rule(
        "missing_vector",
        "a chunk has no vector of the live model",
        "SELECT c.id FROM file_chunks c JOIN embedding_models m ON m.status = 'live' LEFT JOIN vector_bits v"
        " ON v.model = m.pk AND v.project = c.project_id AND v.source = 'file' AND v.pk = c.pk WHERE v.pk IS NULL",
    ),
    Rule(
        "no_live_model",
        "there are chunks but no live model",
        "SELECT 'file_chunks' FROM file_chunks WHERE NOT EXISTS"
        " (SELECT 1 FROM embedding_models WHERE status = 'live') LIMIT 1",
    ),
    Rule(
        "orphan_vector",
        "a vector belongs to nothing",
        "SELECT v.source || ' ' || v.pk FROM vector_bits v LEFT JOIN file_chunks c ON v.source = 'file'"
        " AND c.pk = v.pk AND c.project_id = v.project LEFT JOIN project_memories m ON v.source = 'memory'"
        " AND m.pk = v.pk AND m.project_id = v.project LEFT JOIN messages g ON v.source = 'message' AND g.pk = v.pk"
        " LEFT JOIN conversations k ON k.pk = g.conversation_id AND coalesce(k.project_id, 0) = v.project"
        " WHERE c.pk IS NULL AND m.pk IS NULL AND k.pk IS NULL",
    ),
    Rule(
        "unused_embedding",
        "an embedding is kept that nothing uses",
        "SELECT e.pk FROM embeddings e WHERE NOT EXISTS (SELECT 1 FROM vector_bits v WHERE v.embedding = e.pk)",
    ),
    Rule(
        "missing_embedding",
        "a vector has signs but no values",
        "SELECT v.pk FROM vector_bits v LEFT JOIN embeddings e ON e.pk = v.embedding AND e.model_id = v.model"
        " WHERE e.pk IS NULL",
    ),
)

_TABLES = {Source.FILE: "file_chunks", Source.MEMORY: "project_memories", Source.MESSAGE: "messages"}


def verify(database: Database, *, deep: bool = False) -> list[Problem]:
    """Return everything found wrong; an empty list means that all is well.

    deep: also read every page and compare every token and vector with its text, on a snapshot that
    needs as much disk space as the database, for a while.
    """
    try:
        with database.read() as db:
            found = list(_quick(db))
        if deep:
            found += _deep(database)
    except CorruptDatabaseError as error:
        return [Problem("damaged", error.message, 1)]
    return found


def _quick(db: Connection) -> Iterator[Problem]:
    for rule in RULES:
        offenders = db.all(rule.sql)
        if offenders:
            yield Problem(rule.kind, f"{rule.says}, e.g. {offenders[0][0]}", len(offenders))
    yield from _references(db)
    for source in Source:
        yield from _indexed(db, source)


def _references(db: Connection) -> Iterator[Problem]:
    broken = db.all("PRAGMA foreign_key_check")
    if broken:
        yield Problem("reference", f"a row of {broken[0][0]} refers to nothing", len(broken))


def _indexed(db: Connection, source: Source) -> Iterator[Problem]:
    """Compare the rows there are with those the full text knows: in its index (docsize) and in its lengths."""
    table, index = _TABLES[source], text_index.TABLES[source]
    for known in (f"SELECT id AS pk FROM {index}_docsize", "SELECT pk FROM text_rows WHERE source = :source"):
        missing = db.value(
            f"SELECT count(*) FROM {table} t LEFT JOIN ({known}) k ON k.pk = t.pk WHERE k.pk IS NULL", source=source
        )
        orphaned = db.value(
            f"SELECT count(*) FROM ({known}) k LEFT JOIN {table} t ON t.pk = k.pk WHERE t.pk IS NULL", source=source
        )
        # A message may hold no text, and is not indexed then; the deep check reads them.
        if missing and source is not Source.MESSAGE:
            yield Problem("missing_text", f"a row of {table} is not in the full text", missing)
        if orphaned:
            yield Problem("orphan_text", f"the full text of {table} knows a row that is gone", orphaned)


def _deep(database: Database) -> list[Problem]:
    with tempfile.TemporaryDirectory(prefix=".knowlex-verify-", dir=database.path.parent) as folder:
        snapshot = Path(folder) / "snapshot.db"
        with database.read() as db:
            copy(db, snapshot)
        connection = connect(snapshot)
        try:
            return [*_pages(connection), *_full_text(connection), *_texts(connection), *_vectors(connection)]
        finally:
            connection.close()


def _pages(db: Connection) -> Iterator[Problem]:
    found = [text for (text,) in db.all("PRAGMA integrity_check") if text != "ok"]
    if found:
        yield Problem("damaged", found[0], len(found))


def _full_text(db: Connection) -> Iterator[Problem]:
    """Compare every indexed token with the text it was made from."""
    for source in Source:
        differing = text_index.drift(db, source, indexed_texts.rows(db, source))
        if differing:
            yield Problem("text_drift", f"the full text of {_TABLES[source]} is not that of its rows", differing)


def _pages_of(db: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Yield all rows of a query that is paged by the pk in its first column."""
    after = 0
    while rows := db.all(sql, after=after):
        yield from rows
        after = rows[-1][0]


def _texts(db: Connection) -> Iterator[Problem]:
    """Compare every chunk's text with its hash."""
    rows = _pages_of(
        db, "SELECT pk, id, content, content_hash FROM file_chunks WHERE pk > :after ORDER BY pk LIMIT 500"
    )
    changed = [id for _, id, content, digest in rows if chunks.content_hash(content) != bytes(digest)]
    if changed:
        yield Problem("chunk_text", f"a chunk's text is not what was stored, e.g. {changed[0]}", len(changed))


def _vectors(db: Connection) -> Iterator[Problem]:
    """Check that every vector is a unit vector of its model's size, and that its signs are its own."""
    rows = _pages_of(
        db,
        "SELECT e.pk, e.vector, m.dim, min(v.bits), max(v.bits) FROM embeddings e JOIN embedding_models m"
        " ON m.pk = e.model_id JOIN vector_bits v ON v.embedding = e.pk WHERE e.pk > :after"
        " GROUP BY e.pk, e.vector, m.dim ORDER BY e.pk LIMIT 500",
    )
    bad = [
        pk
        for pk, half, dim, first, last in rows
        if first != last or not vectors.sound(Vector(bytes(half), bytes(first)), dim)
    ]
    if bad:
        yield Problem("vector", f"a vector is not a unit vector with its own signs, e.g. embedding {bad[0]}", len(bad))

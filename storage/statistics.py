"""How much a database holds, in all or of one project."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from storage import chunks, files, paging, pending, runs, slow_queries, succession, vectors
from storage.connection import Connection
from storage.paths import own_files
from storage.runs import Ingestion, Run
from storage.succession import Building


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much there is; files by status, vectors those of passages, memories and messages.

    bytes, pages, slow_queries, model and building are of the whole database, also where one project was asked for.
    pending_vectors: memories and messages that wait for one; refused_vectors: those for which the model has none.
    free_bytes: pages of the file that hold nothing, which new rows fill and `maintain` gives back.
    ingestion: what the kept runs did, stage by stage.
    model: whose vectors are searched; building: the one that is to follow it, and how far it is.
    """

    files: dict[str, int]
    chunks: int
    memories: int
    conversations: int
    messages: int
    vectors: int
    pending_vectors: int
    refused_vectors: int
    database_bytes: int
    wal_bytes: int
    slow_queries: int
    page_bytes: int
    pages: int
    free_pages: int
    free_bytes: int
    ingestion: Ingestion
    model: str | None = None
    building: Building | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a project holds: as in `Statistics`, without what is counted row by row, or is of the whole database.

    has_vectors: whether there is any to compare with. last: the latest of its kept runs.
    """

    files: dict[str, int]
    chunks: int
    memories: int
    conversations: int
    messages: int
    has_vectors: bool
    last: Run | None


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes on disk, in bytes; index_bytes: of these, its indexes. A full-text index is one table."""

    name: str
    bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class ProjectSize:
    """How many files and chunks a project has, and how many bytes these files have on disk."""

    id: str
    name: str
    files: int
    chunks: int
    bytes: int


def of(db: Connection, project_pk: int | None = None) -> Statistics:
    """Return how much a project, or the whole database (None), holds."""
    database, log, *_ = own_files(db.path)
    page_bytes, pages, free = (db.value(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    live = vectors.live_model(db)
    return Statistics(
        files=files.counts(db, project_pk),
        chunks=chunks.count(db, project_pk),
        memories=_memories(db, project_pk),
        conversations=_conversations(db, project_pk),
        messages=_messages(db, project_pk),
        vectors=_vectors(db, project_pk),
        pending_vectors=pending.count(db, project_pk),
        refused_vectors=pending.count_refused(db, project_pk),
        database_bytes=_bytes(database),
        wal_bytes=_bytes(log),
        slow_queries=slow_queries.count(db),
        page_bytes=page_bytes,
        pages=pages,
        free_pages=free,
        free_bytes=free * page_bytes,
        ingestion=runs.summary(db, project_pk),
        model=None if live is None else live.name,
        building=succession.building(db),
    )


def holdings(db: Connection, project_pk: int) -> Holdings:
    """Return what a project holds; how many texts wait for a vector, which may be many, is not counted."""
    return Holdings(
        files=files.counts(db, project_pk),
        chunks=chunks.count(db, project_pk),
        memories=_memories(db, project_pk),
        conversations=_conversations(db, project_pk),
        messages=_messages(db, project_pk),
        has_vectors=_has_vectors(db, project_pk),
        last=runs.summary(db, project_pk).last,
    )


def tables(db: Connection) -> list[TableSize]:
    """Return what each table takes, the largest first. Visits every page: seconds where the file is large."""
    virtual = [name for (name,) in db.all("SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")]
    sizes: dict[str, list[int]] = {}
    for table, taken, indexes in _trees(db):
        of_table = sizes.setdefault(_shown(table, virtual), [0, 0])
        of_table[0] += taken
        of_table[1] += indexes
    return sorted(
        (TableSize(name, *size) for name, size in sizes.items()), key=lambda table: (-table.bytes, table.name)
    )


def _trees(db: Connection) -> list[tuple[str, int, int]]:
    """Return each table's bytes with its indexes, and those of the indexes alone."""
    return db.all(
        "SELECT coalesce(s.tbl_name, d.name), sum(d.pgsize), sum(iif(s.type = 'index', d.pgsize, 0))"
        " FROM dbstat d LEFT JOIN sqlite_schema s ON s.name = d.name WHERE d.aggregate = TRUE"
        " GROUP BY coalesce(s.tbl_name, d.name)"
    )


def _shown(table: str, virtual: list[str]) -> str:
    """Return the full-text index that a table is part of, or else the table."""
    return next((name for name in virtual if table.startswith(f"{name}_")), table)


def largest(db: Connection, *, limit: int = 100) -> list[ProjectSize]:
    """Return the largest projects, the one with the most chunks first.

    No list to go through by pages: every file and chunk of every project is counted to find the largest.
    limit: 1 to 1000. Raises UsageError.
    """
    paging.probe(limit)
    rows = db.all(
        "SELECT p.pk, p.id, p.name,"
        " (SELECT count(*) FROM project_files f WHERE f.project_id = p.pk) AS files,"
        " (SELECT count(*) FROM file_chunks c WHERE c.project_id = p.pk) AS chunks,"
        " (SELECT coalesce(sum(f.size), 0) FROM project_files f WHERE f.project_id = p.pk) AS bytes FROM projects p"
    )
    sized = ((pk, ProjectSize(*values)) for pk, *values in rows)
    return [size for _, size in nlargest(limit, sized, key=lambda one: (one[1].chunks, one[0]))]


def _memories(db: Connection, project_pk: int | None) -> int:
    if project_pk is None:
        return db.value("SELECT count(*) FROM project_memories")
    return db.value("SELECT count(*) FROM project_memories WHERE project_id = :project", project=project_pk)


def _conversations(db: Connection, project_pk: int | None) -> int:
    if project_pk is None:
        return db.value("SELECT count(*) FROM conversations")
    return db.value("SELECT count(*) FROM conversations WHERE project_id = :project", project=project_pk)


def _messages(db: Connection, project_pk: int | None) -> int:
    if project_pk is None:
        return db.value("SELECT count(*) FROM messages")
    return db.value(
        "SELECT count(*) FROM conversations c JOIN messages m ON m.conversation_id = c.pk"
        " WHERE c.project_id = :project",
        project=project_pk,
    )


def _vectors(db: Connection, project_pk: int | None) -> int:
    return db.value(
        "SELECT count(*) FROM vector_bits v JOIN embedding_models m ON m.pk = v.model AND m.status = 'live'"
        " WHERE :project IS NULL OR v.project = :project",
        project=project_pk,
    )


def _has_vectors(db: Connection, project_pk: int) -> bool:
    return bool(
        db.value(
            "SELECT EXISTS (SELECT 1 FROM embedding_models m JOIN vector_bits v ON v.model = m.pk"
            " WHERE m.status = 'live' AND v.project = :project)",
            project=project_pk,
        )
    )


def _bytes(path: Path) -> int:
    """Return the size of one of the engine's files, which is looked at and never opened."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

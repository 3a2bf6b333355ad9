"""What must be true between the tables, as queries that find whatever breaks it.

Each query names its offenders by key and by a name for people, so that `verify` counts what `repair`
mends. What SQL alone cannot say (JSON, circles, paths, the schema, texts and vectors) is in `storage.verify`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from storage.connection import Connection

PAGE = 100
"""Rows that are read at a time where each may hold a long text."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must never be found: a query for the (pk, name) of each offender."""

    kind: str
    says: str
    sql: str


COUNTED = (
    "projects",
    "conversations",
    "messages",
    "project_files",
    "file_chunks",
    "project_memories",
    "app_settings",
    "embedding_models",
    "embeddings",
    "access_tokens",
)
"""Tables whose primary keys are never given twice."""

_JOB = "content_hash IS NOT NULL AND waiting_for IS NULL AND status IN ('pending', 'processing')"
_OWNER = "indexed_hash IS NOT NULL AND duplicate_of IS NULL"
_LAST = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'change_log'), 0)"
_HAS_CHUNKS = "EXISTS (SELECT 1 FROM file_chunks c WHERE c.file_id = f.pk)"

FILES = (
    Rule(
        "status",
        "a file's status is none there is",
        "SELECT pk, path FROM project_files WHERE status NOT IN ('pending', 'processing', 'ready', 'failed')",
    ),
    Rule(
        "chunk_project",
        "a chunk is of another project than its file",
        "SELECT c.pk, c.id FROM file_chunks c JOIN project_files f ON f.pk = c.file_id"
        " WHERE c.project_id <> f.project_id",
    ),
    Rule(
        "duplicate_chunks",
        "a duplicate has chunks of its own",
        f"SELECT f.pk, f.path FROM project_files f WHERE f.duplicate_of IS NOT NULL AND {_HAS_CHUNKS}",
    ),
    Rule(
        "two_owners",
        "the same bytes are indexed twice in a project",
        "SELECT pk, path FROM (SELECT pk, path, row_number() OVER (PARTITION BY project_id, indexed_hash ORDER BY pk)"
        f" AS place FROM project_files WHERE {_OWNER}) WHERE place > 1",
    ),
    Rule(
        "indexed",
        "a file has chunks but names no indexed bytes, or the reverse",
        "SELECT f.pk, f.path FROM project_files f WHERE f.duplicate_of IS NULL"
        f" AND (f.indexed_hash IS NOT NULL) <> {_HAS_CHUNKS}",
    ),
    Rule(
        "chunk_count",
        "a file's chunk_count is not the number of its chunks",
        "SELECT f.pk, f.path FROM project_files f WHERE f.duplicate_of IS NULL AND f.chunk_count <>"
        " (SELECT count(*) FROM file_chunks c WHERE c.file_id = f.pk)",
    ),
    Rule(
        "duplicate_owner",
        "a duplicate's owner is missing, itself a duplicate, of another project or of other bytes",
        "SELECT f.pk, f.path FROM project_files f LEFT JOIN project_files o ON o.pk = f.duplicate_of"
        " WHERE f.duplicate_of IS NOT NULL AND (o.pk IS NULL OR o.duplicate_of IS NOT NULL"
        " OR o.project_id <> f.project_id OR o.indexed_hash IS NOT f.indexed_hash)",
    ),
    Rule(
        "duplicate_count",
        "a duplicate's chunk_count is not its owner's",
        "SELECT f.pk, f.path FROM project_files f JOIN project_files o ON o.pk = f.duplicate_of"
        " WHERE f.chunk_count <> o.chunk_count",
    ),
    Rule(
        "ready",
        "a ready file has no chunks, another version indexed, an error or a lease",
        "SELECT pk, path FROM project_files WHERE status = 'ready' AND (chunk_count = 0 OR indexed_hash IS NULL"
        " OR indexed_hash IS NOT content_hash OR error_message IS NOT NULL OR lease_token IS NOT NULL)",
    ),
    Rule(
        "failed",
        "a failed file does not say why",
        "SELECT pk, path FROM project_files WHERE status = 'failed' AND coalesce(error_message, '') = ''",
    ),
    Rule(
        "lease",
        "a lease without an owner, an end or a file being processed, or such a file without a lease",
        "SELECT pk, path FROM project_files WHERE (lease_token IS NULL) <> (lease_owner IS NULL)"
        " OR (lease_token IS NULL) <> (lease_expires_at IS NULL)"
        " OR (status = 'processing') <> (lease_token IS NOT NULL)",
    ),
    Rule(
        "owned_job",
        "a file is in the queue though another one owns its bytes",
        "SELECT f.pk, f.path FROM project_files f JOIN project_files o ON o.project_id = f.project_id"
        " AND o.indexed_hash = f.content_hash AND o.duplicate_of IS NULL AND o.pk <> f.pk"
        " WHERE f.status IN ('pending', 'processing')",
    ),
    Rule(
        "two_jobs",
        "the same bytes are in the queue twice in a project",
        "SELECT pk, path FROM (SELECT pk, path, row_number() OVER (PARTITION BY project_id, content_hash ORDER BY pk)"
        f" AS place FROM project_files WHERE {_JOB}) WHERE place > 1",
    ),
    Rule(
        "waiting",
        "a file waits for one that is not in the queue, or not of the same bytes, or waits though it is not pending",
        "SELECT f.pk, f.path FROM project_files f LEFT JOIN project_files o ON o.pk = f.waiting_for"
        " WHERE f.waiting_for IS NOT NULL AND (f.status <> 'pending' OR o.pk IS NULL"
        " OR o.status NOT IN ('pending', 'processing') OR o.content_hash IS NOT f.content_hash"
        " OR o.project_id <> f.project_id OR o.waiting_for IS NOT NULL)",
    ),
    Rule(
        "part",
        "a file within a file lies in none that is known, or in a duplicate",
        "WITH RECURSIVE cuts (pk, project_id, path, path_bytes, at) AS ("
        " SELECT pk, project_id, path, path_bytes, instr(path_bytes, x'00') FROM project_files"
        " WHERE instr(path_bytes, x'00') > 0"
        " UNION ALL SELECT pk, project_id, path, path_bytes, at + instr(substr(path_bytes, at + 1), x'00') FROM cuts"
        " WHERE instr(substr(path_bytes, at + 1), x'00') > 0),"
        " inners AS (SELECT pk, project_id, path, substr(path_bytes, 1, max(at) - 1) AS outside FROM cuts GROUP BY pk)"
        " SELECT i.pk, i.path FROM inners i LEFT JOIN project_files o ON o.project_id = i.project_id"
        " AND o.path_bytes = i.outside WHERE o.pk IS NULL OR o.duplicate_of IS NOT NULL ORDER BY i.pk",
    ),
    Rule(
        "chunk_order",
        "a file's chunks are not numbered 0, 1, 2, ...",
        "SELECT c.file_id, coalesce(f.path, c.file_id) FROM file_chunks c LEFT JOIN project_files f ON f.pk = c.file_id"
        " GROUP BY c.file_id HAVING min(c.chunk_index) <> 0 OR max(c.chunk_index) <> count(*) - 1",
    ),
)

MODELS = (
    Rule(
        "live_models",
        "more than one model is live",
        "SELECT pk, name FROM (SELECT m.pk, m.name, row_number() OVER (ORDER BY (SELECT count(*) FROM vector_bits v"
        " WHERE v.model = m.pk) DESC, m.pk) AS place FROM embedding_models m WHERE m.status = 'live'"
        " AND (SELECT count(*) FROM embedding_models WHERE status = 'live') > 1) WHERE place > 1",
    ),
    Rule(
        "no_live_model",
        "there are chunks but no live model",
        "SELECT pk, id FROM file_chunks WHERE NOT EXISTS"
        " (SELECT 1 FROM embedding_models WHERE status = 'live') LIMIT 1",
    ),
)

VECTORS = (
    Rule(
        "orphan_vector",
        "a vector belongs to nothing",
        "SELECT v.pk, v.source || ' ' || v.pk FROM vector_bits v LEFT JOIN file_chunks c ON v.source = 'file'"
        " AND c.pk = v.pk AND c.project_id = v.project LEFT JOIN project_memories m ON v.source = 'memory'"
        " AND m.pk = v.pk AND m.project_id = v.project LEFT JOIN messages g ON v.source = 'message' AND g.pk = v.pk"
        " LEFT JOIN conversations k ON k.pk = g.conversation_id AND coalesce(k.project_id, 0) = v.project"
        " WHERE c.pk IS NULL AND m.pk IS NULL AND k.pk IS NULL",
    ),
    Rule(
        "missing_embedding",
        "a vector has signs but no values, or is of a model that is gone",
        "SELECT v.pk, v.source || ' ' || v.pk FROM vector_bits v LEFT JOIN embeddings e"
        " ON e.pk = v.embedding AND e.model_id = v.model WHERE e.pk IS NULL",
    ),
    Rule(
        "vector_width",
        "a vector is not as wide as its model's",
        "SELECT e.pk, 'embedding ' || e.pk FROM embeddings e JOIN embedding_models m ON m.pk = e.model_id"
        " WHERE length(e.vector) <> 2 * m.dim UNION"
        " SELECT v.embedding, 'embedding ' || v.embedding FROM vector_bits v JOIN embedding_models m ON m.pk = v.model"
        " WHERE length(v.bits) <> (m.dim + 7) / 8",
    ),
    Rule(
        "unused_embedding",
        "an embedding is kept that nothing uses",
        "SELECT e.pk, 'embedding ' || e.pk FROM embeddings e"
        " WHERE NOT EXISTS (SELECT 1 FROM vector_bits v WHERE v.embedding = e.pk)",
    ),
    Rule(
        "missing_vector",
        "a chunk has no vector of the live model, and its file is not in the queue",
        "SELECT c.file_id, c.id FROM file_chunks c JOIN embedding_models m ON m.status = 'live' LEFT JOIN vector_bits v"
        " ON v.model = m.pk AND v.project = c.project_id AND v.source = 'file' AND v.pk = c.pk WHERE v.pk IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM project_files f WHERE f.pk = c.file_id"
        " AND f.status IN ('pending', 'processing'))",
    ),
    Rule(
        "pending_orphan",
        "a vector is to be made for a memory or message that is gone",
        "SELECT p.pk, p.source || ' ' || p.pk FROM pending_vectors p"
        " LEFT JOIN project_memories m ON p.source = 'memory' AND m.pk = p.pk"
        " LEFT JOIN messages g ON p.source = 'message' AND g.pk = p.pk WHERE m.pk IS NULL AND g.pk IS NULL",
    ),
    Rule(
        "unembedded_memory",
        "a memory has no vector of the live model, and none is to be made",
        "SELECT m.pk, m.id FROM project_memories m"
        " WHERE NOT EXISTS (SELECT 1 FROM pending_vectors p WHERE p.source = 'memory' AND p.pk = m.pk)"
        " AND NOT EXISTS (SELECT 1 FROM vector_bits v JOIN embedding_models e ON e.pk = v.model AND e.status = 'live'"
        " WHERE v.project = m.project_id AND v.source = 'memory' AND v.pk = m.pk)",
    ),
)

CONTENT = (
    Rule(
        "parent",
        "a message answers one that is gone or of another conversation",
        "SELECT m.pk, m.id FROM messages m LEFT JOIN messages p ON p.pk = m.parent_id"
        " WHERE m.parent_id IS NOT NULL AND p.conversation_id IS NOT m.conversation_id",
    ),
    Rule(
        "role",
        "a message is said by nobody there is",
        "SELECT pk, id FROM messages WHERE role NOT IN ('user', 'assistant', 'system', 'tool')",
    ),
    Rule(
        "memory_type",
        "a memory is of no type there is",
        "SELECT pk, id FROM project_memories WHERE type NOT IN ('memory', 'note', 'insight')",
    ),
    Rule(
        "importance",
        "a memory's importance is not 1 to 10",
        "SELECT pk, id FROM project_memories WHERE typeof(importance) <> 'integer' OR importance NOT BETWEEN 1 AND 10",
    ),
)

TEXT = (
    Rule(
        "text_stats",
        "a project's passages and their lengths do not add up to what is kept",
        "SELECT coalesce(s.project, r.project), coalesce(s.source, r.source) || ' ' || coalesce(s.project, r.project)"
        " FROM text_stats s FULL JOIN (SELECT source, project, count(*) AS passages, sum(length) AS length"
        " FROM text_rows GROUP BY source, project) r ON r.source = s.source AND r.project = s.project"
        " WHERE coalesce(s.passages, 0) <> coalesce(r.passages, 0) OR coalesce(s.length, 0) <> coalesce(r.length, 0)",
    ),
    Rule(
        "text_project",
        "the full text of a passage is in another project",
        "SELECT t.pk, t.source || ' ' || t.pk FROM text_rows t LEFT JOIN file_chunks c"
        " ON t.source = 'file' AND c.pk = t.pk LEFT JOIN project_memories m ON t.source = 'memory' AND m.pk = t.pk"
        " LEFT JOIN messages g ON t.source = 'message' AND g.pk = t.pk"
        " LEFT JOIN conversations k ON k.pk = g.conversation_id"
        " WHERE t.project <> coalesce(c.project_id, m.project_id, k.project_id, CASE WHEN k.pk IS NULL"
        " THEN t.project ELSE 0 END)",
    ),
)

COUNTERS = (
    Rule(
        "sequence",
        "a table would give a primary key a second time",
        " UNION ALL ".join(
            f"SELECT max(pk), '{table}' FROM {table} HAVING max(pk) >"
            f" coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0)"
            for table in COUNTED
        ),
    ),
    Rule(
        "change_log",
        "the change log does not end where its counter stands, or has lost entries",
        "SELECT max(seq), 'entry ' || max(seq) FROM change_log HAVING count(*) > 0"
        f" AND (max(seq) <> {_LAST} OR count(*) <> max(seq) - min(seq) + 1)"
        f" UNION ALL SELECT 0, 'vectors' WHERE {_LAST} = 0 AND EXISTS (SELECT 1 FROM vector_bits v"
        # Those of a model that is built are not logged.
        " JOIN embedding_models m ON m.pk = v.model WHERE m.status <> 'building')",
    ),
    Rule(
        "change_entry",
        "an entry of the change log is of a model that is gone, or says nothing",
        "SELECT seq, 'entry ' || seq FROM change_log WHERE CASE op WHEN 'clear' THEN model <> 0 OR pk <> 0"
        " WHEN 'put' THEN model NOT IN (SELECT pk FROM embedding_models)"
        " WHEN 'delete' THEN model NOT IN (SELECT pk FROM embedding_models) ELSE 1 END",
    ),
    Rule(
        "generation",
        "a project has content but no generation",
        "SELECT project, 'project ' || project FROM (SELECT DISTINCT project_id AS project FROM file_chunks"
        " UNION SELECT project_id FROM project_memories UNION SELECT coalesce(c.project_id, 0) FROM conversations c"
        " WHERE EXISTS (SELECT 1 FROM messages m WHERE m.conversation_id = c.pk)) o"
        " WHERE NOT EXISTS (SELECT 1 FROM generations g WHERE g.project = o.project AND g.value > 0)",
    ),
)

INCARNATION = (
    Rule(
        "incarnation",
        "what names the content of the database is missing, empty or there twice",
        "SELECT 1, 'no name' WHERE NOT EXISTS"
        " (SELECT 1 FROM incarnation WHERE pk = 1 AND typeof(value) = 'text' AND value <> '')"
        " UNION ALL SELECT pk, 'name ' || pk FROM incarnation WHERE pk <> 1",
    ),
)

RULES = (*FILES, *MODELS, *VECTORS, *CONTENT, *TEXT, *COUNTERS, *INCARNATION)
BY_KIND = {rule.kind: rule for rule in RULES}


def offenders(db: Connection, kind: str) -> list[tuple[int, str]]:
    """Return (pk, name) of whatever breaks the rule of that kind."""
    return [(pk, str(name)) for pk, name in db.all(BY_KIND[kind].sql)]


def by_pk(db: Connection, sql: str, *, page: int, **values: Any) -> Iterator[tuple[Any, ...]]:
    """Yield all rows of a query, `:page` at a time: each holds those whose pk, the first column, is above `:after`."""
    after = -(2**62)
    while rows := db.all(sql, after=after, page=page, **values):
        yield from rows
        if len(rows) < page:
            return
        after = rows[-1][0]

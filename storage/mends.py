"""How each kind of problem that `verify` names is mended: a small function each, all in one transaction.

What was derived (counts, full text, signs, places in the queue) is made again. What people wrote is
never deleted and never guessed: what cannot be read as it should be is kept as plain text. A vector that
must be made again is dropped and its file queued, or its memory or message noted as pending; the worker
makes it, and the text stays searchable meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from storage import (
    blueprint,
    changes,
    chunks,
    files,
    incarnation,
    indexed_texts,
    json_columns,
    parts,
    pending,
    text_index,
)
from storage.connection import Connection
from storage.errors import ConstraintError
from storage.ids import new_id, now_text
from storage.invariants import COUNTED, offenders
from storage.migrations import require_open, savepoint
from storage.sources import Source
from storage.text_index import REMOVAL
from storage.verify import (
    TEXTS,
    Find,
    changed_chunks,
    circles,
    names_of,
    stale_vectors,
    undecodable,
    unembedded_messages,
    wrong_paths,
    wrong_vectors,
)

LEAP = 1_000_000_000
"""How far counters move on, beyond what another process can have seen of them."""

AGAIN = "; knowlex work --once finishes it"


@dataclass(frozen=True, slots=True)
class Mend:
    """Mends one kind of problem.

    does: what was done, in words. run: does it, and returns the name of each thing mended. costly: reads
    every text or vector, and is run only where `verify` has found something of its kind.
    """

    kind: str
    does: str
    run: Callable[[Connection], list[str]]
    costly: bool = False


def _names(found: Iterable[tuple[int, str]]) -> list[str]:
    return [name for _, name in found]


# --- texts and JSON ----------------------------------------------------------------------------------


def _decode_texts(db: Connection) -> list[str]:
    found: list[str] = []
    for table, column, name in TEXTS:
        for pk, who in undecodable(db, table, column, name):
            if _decode(db, table, column, pk):
                found.append(f"{table} {who}")
                if table == "file_chunks":
                    _read_chunk_again(db, pk)
    return found


def _decode(db: Connection, table: str, column: str, pk: int) -> bool:
    """Keep a text with its odd bytes as \\xNN; tell whether that was done, as another row may have that text."""
    try:
        with savepoint(db):
            value = _bytes(db, table, column, pk)
            of_json = (table, column) == (json_columns.CONTENT.table, json_columns.CONTENT.column)
            text = json_columns.kept(json_columns.CONTENT, value) if of_json else json_columns.shown(value)
            db.run(f"UPDATE {table} SET {column} = :text WHERE pk = :pk", pk=pk, text=text)
            return True
    except ConstraintError:
        require_open(db)
        return False


def _read_chunk_again(db: Connection, pk: int) -> None:
    owner = db.value("SELECT f.pk FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk", pk=pk)
    if owner is not None:
        _read_again(db, owner)


def _keep_json(column: json_columns.JsonColumn) -> Callable[[Connection], list[str]]:
    after = _MADE_OF_JSON.get(column.kind)

    def run(db: Connection) -> list[str]:
        found = json_columns.wrong(db, column)
        for pk, _ in found:
            value = json_columns.kept(column, _bytes(db, column.table, column.column, pk))
            db.run(f"UPDATE {column.table} SET {column.column} = :value WHERE pk = :pk", pk=pk, value=value)
            if after is not None:
                after(db, pk)
        return _names(found)

    return run


def _embed_message(db: Connection, pk: int) -> None:
    _embed_again(db, Source.MESSAGE, [pk])


def _correct_paths(db: Connection) -> list[str]:
    """Let a file's path and name say again what its bytes say: those are what it is read by."""
    found = wrong_paths(db)
    for pk, _ in found:
        path, filename = names_of(_bytes(db, "project_files", "path_bytes", pk))
        db.run(
            "UPDATE project_files SET path = :path, filename = :name WHERE pk = :pk", pk=pk, path=path, name=filename
        )
    return _names(found)


def _set_known(kind: str, table: str, column: str, value: str) -> Callable[[Connection], list[str]]:
    """Put a known value in place of one that no door can read, and name the old one."""

    def run(db: Connection) -> list[str]:
        found = offenders(db, kind)
        named = [f"{name} ({_value(db, table, column, pk)!r} before)" for pk, name in found]
        db.many(f"UPDATE {table} SET {column} = :value WHERE pk = :pk", ({"pk": pk, "value": value} for pk, _ in found))
        return named

    return run


def _value(db: Connection, table: str, column: str, pk: int) -> str:
    return json_columns.shown(_bytes(db, table, column, pk))


def _bytes(db: Connection, table: str, column: str, pk: int) -> bytes:
    return db.value(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE pk = :pk", pk=pk) or b""


def _clamp_importance(db: Connection) -> list[str]:
    found = offenders(db, "importance")
    named = [f"{name} ({_value(db, 'project_memories', 'importance', pk)} before)" for pk, name in found]
    db.many(
        "UPDATE project_memories SET importance = min(10, max(1, CAST(importance AS INTEGER))) WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    return named


# --- references --------------------------------------------------------------------------------------


_FILE_GONE = "file_id NOT IN (SELECT pk FROM project_files)"


def _remake_projects(db: Connection) -> list[str]:
    """Give what people wrote and whose project is gone one of that key again: it can be seen then, and moved."""
    lost = db.all(
        "SELECT project_id FROM (SELECT project_id FROM project_files UNION SELECT project_id FROM project_memories"
        f" UNION SELECT project_id FROM file_chunks WHERE {_FILE_GONE} AND NOT {chunks.IS_PARSED})"
        " WHERE project_id NOT IN (SELECT pk FROM projects)"
    )
    for (pk,) in lost:
        db.run(
            "INSERT INTO projects (pk, id, name, created_at, updated_at) VALUES (:pk, :id, :name, :now, :now)",
            pk=pk,
            id=(id := new_id()),
            name=f"recovered {pk} {id}",
            now=now_text(),
        )
    return [f"project recovered {pk}" for (pk,) in lost]


def _remake_conversations(db: Connection) -> list[str]:
    lost = db.all(
        "SELECT DISTINCT conversation_id FROM messages WHERE conversation_id NOT IN (SELECT pk FROM conversations)"
    )
    for (pk,) in lost:
        db.run(
            "INSERT INTO conversations (pk, id, title, created_at, updated_at) VALUES (:pk, :id, :title, :now, :now)",
            pk=pk,
            id=new_id(),
            title=f"recovered {pk}",
            now=now_text(),
        )
    return [f"conversation recovered {pk}" for (pk,) in lost]


def _release_conversations(db: Connection) -> list[str]:
    """Take conversations out of a project that is gone, as its deletion does."""
    rows = db.all(
        "UPDATE conversations SET project_id = NULL WHERE project_id IS NOT NULL"
        " AND project_id NOT IN (SELECT pk FROM projects) RETURNING id"
    )
    return [f"conversation {id}" for (id,) in rows]


def _drop_orphan_chunks(db: Connection) -> list[str]:
    """Delete chunks that were made from files that are gone, as the deletion of a file does."""
    rows = db.all(f"DELETE FROM file_chunks WHERE {_FILE_GONE} AND {chunks.IS_PARSED} RETURNING id")
    return [f"chunk {id}" for (id,) in rows]


def _remake_files(db: Connection) -> list[str]:
    """Give chunks that were added to a file that is gone one of that key again: their text is nowhere else.

    It is on no disk, and no folder's: it stays, as a failed file, until it is deleted.
    """
    lost = db.all(f"SELECT file_id, min(project_id), count(*) FROM file_chunks WHERE {_FILE_GONE} GROUP BY file_id")
    for pk, project_pk, count in lost:
        name = f"recovered {pk} {(id := new_id())}"
        db.run(
            "INSERT INTO project_files (pk, id, project_id, filename, path, path_bytes, indexed_hash, status,"
            " error_code, error_message, chunk_count, created_at, updated_at) VALUES (:pk, :id, :project, :name, :name,"
            " :bytes, :id, 'failed', 'unreadable', 'its record was lost; these chunks were added to it', :count,"
            " :now, :now)",
            pk=pk,
            id=id,
            project=project_pk,
            name=name,
            bytes=name.encode("ascii"),
            count=count,
            now=now_text(),
        )
    return [f"file recovered {pk}" for pk, _, _ in lost]


def _drop_orphan_embeddings(db: Connection) -> list[str]:
    lost = "SELECT pk FROM embeddings WHERE model_id NOT IN (SELECT pk FROM embedding_models)"
    db.run(f"DELETE FROM vector_bits WHERE embedding IN ({lost})")
    rows = db.all(f"DELETE FROM embeddings WHERE pk IN ({lost}) RETURNING pk")
    return [f"embedding {pk}" for (pk,) in rows]


def _drop_orphan_runs(db: Connection) -> list[str]:
    rows = db.all("DELETE FROM ingestion_runs WHERE project_id NOT IN (SELECT pk FROM projects) RETURNING id")
    return [f"run {id}" for (id,) in rows]


def _drop_orphan_bindings(db: Connection) -> list[str]:
    """Take tokens off projects that are gone, as the deletion of these does: a token never gets to see more by it."""
    rows = db.all(
        "DELETE FROM token_projects WHERE token_id NOT IN (SELECT pk FROM access_tokens)"
        " OR project_id NOT IN (SELECT pk FROM projects) RETURNING token_id"
    )
    return [f"token {pk}" for (pk,) in rows]


def _clear_parents(find: Find) -> Callable[[Connection], list[str]]:
    def run(db: Connection) -> list[str]:
        found = find(db)
        db.many("UPDATE messages SET parent_id = NULL WHERE pk = :pk", ({"pk": pk} for pk, _ in found))
        return _names(found)

    return run


# --- files and their queue ---------------------------------------------------------------------------

_QUEUED = (
    "UPDATE project_files SET status = 'pending', waiting_for = :job, attempts = 0, next_attempt_at = NULL,"
    " error_code = NULL, error_message = NULL, lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL,"
    " updated_at = :now WHERE pk = :pk"
)


def _queue(db: Connection, pk: int) -> None:
    """Have the bytes of a file read again: as itself, or as the owner of equal ones, whose name it becomes."""
    owner = _owner_beside(db, pk)
    if owner is None:
        _enqueue(db, pk)
    else:
        files.become_duplicate(db, pk, files.get(db, owner))
        _enqueue(db, owner)


def _enqueue(db: Connection, pk: int) -> None:
    """Put a file into the queue, off its worker if it has one; behind the equal one that is there already."""
    db.run(_QUEUED, pk=pk, job=_job_beside(db, pk), now=now_text())


def _owner_beside(db: Connection, pk: int) -> int | None:
    """Return another file that owns chunks of the same bytes."""
    return db.value(
        "SELECT min(o.pk) FROM project_files f JOIN project_files o ON o.project_id = f.project_id"
        " AND o.indexed_hash = f.content_hash AND o.duplicate_of IS NULL WHERE f.pk = :pk AND o.pk <> f.pk",
        pk=pk,
    )


def _job_beside(db: Connection, pk: int) -> int | None:
    return db.value(
        "SELECT min(o.pk) FROM project_files f JOIN project_files o ON o.project_id = f.project_id"
        " AND o.content_hash = f.content_hash WHERE f.pk = :pk AND o.pk <> f.pk AND o.waiting_for IS NULL"
        " AND o.status IN ('pending', 'processing')",
        pk=pk,
    )


def _place(db: Connection, pk: int) -> None:
    """Let a file be served by the owner of equal bytes, or else put it into the queue."""
    owner = _owner_beside(db, pk)
    if owner is None:
        _enqueue(db, pk)
    else:
        files.become_duplicate(db, pk, files.get(db, owner))


def _place_all(kind: str) -> Callable[[Connection], list[str]]:
    def run(db: Connection) -> list[str]:
        found = offenders(db, kind)
        for pk, _ in found:
            _place(db, pk)
        return _names(found)

    return run


def _follow_files(db: Connection) -> list[str]:
    """Move chunks to their file's project, with their vectors; the full text is made again behind this."""
    found = offenders(db, "chunk_project")
    db.many(
        "UPDATE file_chunks SET project_id = (SELECT project_id FROM project_files f WHERE f.pk = file_id)"
        " WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    return _names(found)


def _fold_duplicates(db: Connection) -> list[str]:
    found = offenders(db, "duplicate_chunks")
    for pk, _ in found:
        owner = db.value(
            "SELECT o.pk FROM project_files f JOIN project_files o ON o.pk = f.duplicate_of WHERE f.pk = :pk"
            " AND o.pk <> f.pk AND o.duplicate_of IS NULL AND o.project_id = f.project_id",
            pk=pk,
        )
        if owner is None:
            # The next round finds that it has chunks and names no bytes.
            db.run("UPDATE project_files SET duplicate_of = NULL, indexed_hash = NULL WHERE pk = :pk", pk=pk)
        else:
            _fold(db, pk, owner)
    return _names(found)


def _fold(db: Connection, pk: int, owner: int) -> None:
    """Give the chunks of a name to their owner, save those it has already; a worker reads the owner again."""
    doubled = db.all(
        f"SELECT c.pk FROM (SELECT *, {chunks.IS_PARSED} AS parsed FROM file_chunks WHERE file_id = :pk) c"
        " WHERE EXISTS (SELECT 1 FROM file_chunks o WHERE o.file_id = :owner AND o.content = c.content"
        " AND o.heading = c.heading AND o.char_start = c.char_start AND (c.parsed OR o.metadata = c.metadata))",
        pk=pk,
        owner=owner,
    )
    chunks.remove(db, files.get(db, pk).project_pk, [chunk for (chunk,) in doubled])
    db.run(
        "UPDATE file_chunks SET file_id = :owner, chunk_index = chunk_index + :beyond WHERE file_id = :pk",
        pk=pk,
        owner=owner,
        beyond=LEAP,
    )
    _renumber(db, owner, "char_start, chunk_index")
    _enqueue(db, owner)
    if _owner_beside(db, pk) == owner:
        files.become_duplicate(db, pk, files.get(db, owner))


def _renumber(db: Connection, file_pk: int, order: str) -> None:
    """Number a file's chunks 0, 1, 2, …; by way of numbers none has, as they are unique at every moment."""
    db.run(
        "UPDATE file_chunks SET chunk_index = :beyond + n.place FROM (SELECT pk, row_number() OVER"
        f" (ORDER BY {order}, pk) AS place FROM file_chunks WHERE file_id = :file) n WHERE n.pk = file_chunks.pk",
        file=file_pk,
        beyond=LEAP * LEAP,
    )
    db.run(
        "UPDATE file_chunks SET chunk_index = chunk_index - :beyond - 1 WHERE file_id = :file",
        file=file_pk,
        beyond=LEAP * LEAP,
    )
    text_index.reordered(db, Source.FILE, files.get(db, file_pk).project_pk)


def _renumber_chunks(db: Connection) -> list[str]:
    found = offenders(db, "chunk_order")
    for pk, _ in found:
        _renumber(db, pk, "chunk_index")
        _read_again(db, pk)
    return _names(found)


def _read_again(db: Connection, pk: int) -> None:
    """Have a ready file read again: some of its passages may be missing, which numbers alone do not tell."""
    if db.one("SELECT 1 FROM project_files WHERE pk = :pk AND status = 'ready'", pk=pk):
        _enqueue(db, pk)


def _read_outer_again(db: Connection) -> list[str]:
    """Have the file around a file within a file read again; one that is not known is put into the queue by its path."""
    found = offenders(db, "part")
    for pk, _ in found:
        if files.exists(db, pk):
            _queue_outer(db, files.get(db, pk))
    return _names(found)


def _queue_outer(db: Connection, inner: files.File) -> None:
    path = parts.parent_of(inner.path_bytes)
    outer = files.by_path(db, inner.project_pk, path) if path else None
    if outer is not None and outer.duplicate_of is not None:
        files.take_over(db, outer)
        _enqueue(db, outer.pk)
    elif outer is None and path:
        files.note(db, inner.project_pk, path)


def _merge_owners(db: Connection) -> list[str]:
    """Leave equal bytes the first of their owners; the others become its names."""
    found = offenders(db, "two_owners")
    for pk, _ in found:
        first = db.value(
            "SELECT min(o.pk) FROM project_files f JOIN project_files o ON o.project_id = f.project_id"
            " AND o.indexed_hash = f.indexed_hash AND o.duplicate_of IS NULL WHERE f.pk = :pk",
            pk=pk,
        )
        db.run("UPDATE project_files SET duplicate_of = :first WHERE duplicate_of = :pk", first=first, pk=pk)
        db.run("UPDATE project_files SET duplicate_of = :first WHERE pk = :pk", first=first, pk=pk)
        _fold(db, pk, first)
    return _names(found)


def _name_indexed(db: Connection) -> list[str]:
    """Let `indexed_hash` say whether there are chunks, and have the file read again.

    Chunks of unknown bytes count as those of the file's, until a worker has read it.
    """
    found = offenders(db, "indexed")
    for pk, _ in found:
        owner = _owner_beside(db, pk)
        db.run(
            "UPDATE project_files SET duplicate_of = :owner, indexed_hash = CASE WHEN EXISTS (SELECT 1 FROM file_chunks"
            " c WHERE c.file_id = project_files.pk) THEN coalesce(indexed_hash, content_hash, id) END WHERE pk = :pk",
            pk=pk,
            owner=owner,
        )
        if owner is None:
            _enqueue(db, pk)
        else:
            _fold(db, pk, owner)
    return _names(found)


def _count_chunks(db: Connection) -> list[str]:
    found = offenders(db, "chunk_count")
    db.many(
        "UPDATE project_files SET chunk_count = (SELECT count(*) FROM file_chunks c WHERE c.file_id = project_files.pk)"
        " WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    for pk, _ in found:
        _read_again(db, pk)
    return _names(found)


def _count_duplicates(db: Connection) -> list[str]:
    found = offenders(db, "duplicate_count")
    db.many(
        "UPDATE project_files SET chunk_count = (SELECT o.chunk_count FROM project_files o"
        " WHERE o.pk = project_files.duplicate_of) WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    return _names(found)


def _detach(db: Connection) -> list[str]:
    found = offenders(db, "duplicate_owner")
    for pk, _ in found:
        db.run(
            "UPDATE project_files SET duplicate_of = NULL, indexed_hash = NULL, chunk_count = 0 WHERE pk = :pk", pk=pk
        )
        _place(db, pk)
    return _names(found)


def _end_leases(db: Connection) -> list[str]:
    found = offenders(db, "lease")
    db.many(
        "UPDATE project_files SET lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL,"
        " status = CASE status WHEN 'processing' THEN 'pending' ELSE status END WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    return _names(found)


def _fail_unknown(db: Connection) -> list[str]:
    """Count files of an unknown status as failed, for no reason: which is mended by queueing them."""
    found = offenders(db, "status")
    db.many(
        "UPDATE project_files SET status = 'failed', error_message = NULL, waiting_for = NULL, lease_owner = NULL,"
        " lease_token = NULL, lease_expires_at = NULL WHERE pk = :pk",
        ({"pk": pk} for pk, _ in found),
    )
    return _names(found)


# --- models and vectors ------------------------------------------------------------------------------


def _one_live_model(db: Connection) -> list[str]:
    found = offenders(db, "live_models")
    db.many("UPDATE embedding_models SET status = 'retired' WHERE pk = :pk", ({"pk": pk} for pk, _ in found))
    return _names(found)


def _revive_model(db: Connection) -> list[str]:
    """Make the model live that made a vector of every chunk, where there is one such; else queue all files."""
    if not offenders(db, "no_live_model"):
        return []
    able = db.all(
        "SELECT m.pk, m.name FROM embedding_models m WHERE (SELECT count(*) FROM vector_bits v"
        " WHERE v.model = m.pk AND v.source = 'file') = (SELECT count(*) FROM file_chunks)"
    )
    if len(able) == 1:
        db.run("UPDATE embedding_models SET status = 'live' WHERE pk = :pk", pk=able[0][0])
        return _names(able)
    owners = db.all("SELECT DISTINCT file_id FROM file_chunks")
    for (pk,) in owners:
        _queue(db, pk)
    return [f"file {pk}" for (pk,) in owners]


def _bring_home(db: Connection) -> list[str]:
    """Move vectors to the project of what they belong to; delete those that belong to nothing."""
    found = offenders(db, "orphan_vector")
    if found:
        db.run(
            "UPDATE OR IGNORE vector_bits SET project = home.project FROM ("
            " SELECT 'file' AS source, pk, project_id AS project FROM file_chunks"
            " UNION ALL SELECT 'memory', pk, project_id FROM project_memories"
            " UNION ALL SELECT 'message', g.pk, coalesce(k.project_id, 0) FROM messages g"
            " JOIN conversations k ON k.pk = g.conversation_id) home WHERE home.source = vector_bits.source"
            " AND home.pk = vector_bits.pk AND home.project <> vector_bits.project"
        )
        _drop_homeless(db)
    return _names(found)


def _drop_homeless(db: Connection) -> None:
    db.run(
        "DELETE FROM vector_bits WHERE CASE source"
        " WHEN 'file' THEN NOT EXISTS (SELECT 1 FROM file_chunks c"
        " WHERE c.pk = vector_bits.pk AND c.project_id = vector_bits.project)"
        " WHEN 'memory' THEN NOT EXISTS (SELECT 1 FROM project_memories m"
        " WHERE m.pk = vector_bits.pk AND m.project_id = vector_bits.project)"
        " WHEN 'message' THEN NOT EXISTS (SELECT 1 FROM messages g JOIN conversations k ON k.pk = g.conversation_id"
        " WHERE g.pk = vector_bits.pk AND coalesce(k.project_id, 0) = vector_bits.project) ELSE 1 END"
    )


def _drop_valueless(db: Connection) -> list[str]:
    found = offenders(db, "missing_embedding")
    if found:
        db.run(
            "DELETE FROM vector_bits WHERE NOT EXISTS (SELECT 1 FROM embeddings e"
            " WHERE e.pk = vector_bits.embedding AND e.model_id = vector_bits.model)"
        )
    return _names(found)


def _drop_embeddings(db: Connection, pks: Collection[int]) -> list[str]:
    """Drop vectors with all their uses, so that none is taken over by whoever makes them again."""
    db.many("DELETE FROM vector_bits WHERE embedding = :pk", ({"pk": pk} for pk in pks))
    db.many("DELETE FROM embeddings WHERE pk = :pk", ({"pk": pk} for pk in pks))
    return [f"embedding {pk}" for pk in pks]


def _drop_misfits(db: Connection) -> list[str]:
    return _drop_embeddings(db, [pk for pk, _ in offenders(db, "vector_width")])


def _drop_unsound(db: Connection) -> list[str]:
    return _drop_embeddings(db, wrong_vectors(db).values)


def _sign_anew(db: Connection) -> list[str]:
    found = wrong_vectors(db).signs
    db.many(
        "UPDATE vector_bits SET bits = :bits WHERE embedding = :pk", ({"pk": pk, "bits": bits} for pk, bits in found)
    )
    return [f"embedding {pk}" for pk, _ in found]


def _drop_stale(db: Connection) -> list[str]:
    found = stale_vectors(db)
    for source, pk, _ in found:
        _embed_again(db, source, [pk])
    return [f"{source} {id}" for source, _, id in found]


def _embed_again(db: Connection, source: Source, pks: Collection[int]) -> None:
    """Drop the vectors of memories or messages and note that they need new ones."""
    db.many("DELETE FROM vector_bits WHERE source = :source AND pk = :pk", ({"source": source, "pk": pk} for pk in pks))
    for pk in pks:
        pending.queue(db, source, pk)


def _drop_unused(db: Connection) -> list[str]:
    found = offenders(db, "unused_embedding")
    if found:
        db.run(
            "DELETE FROM embeddings WHERE NOT EXISTS (SELECT 1 FROM vector_bits v WHERE v.embedding = embeddings.pk)"
        )
    return _names(found)


def _queue_vectorless(db: Connection) -> list[str]:
    """Queue files that have chunks without a vector: a worker's chunks that are kept get the one they lack."""
    found = offenders(db, "missing_vector")
    for pk in dict.fromkeys(pk for pk, _ in found):
        _queue(db, pk)
    return _names(found)


def _note_memories(db: Connection) -> list[str]:
    found = offenders(db, "unembedded_memory")
    for pk, _ in found:
        pending.queue(db, Source.MEMORY, pk)
    return _names(found)


def _note_messages(db: Connection) -> list[str]:
    found = unembedded_messages(db)
    for pk, _ in found:
        pending.queue(db, Source.MESSAGE, pk)
    return _names(found)


def _drop_pending(db: Connection) -> list[str]:
    found = offenders(db, "pending_orphan")
    if found:
        db.run(
            "DELETE FROM pending_vectors WHERE CASE source"
            " WHEN 'memory' THEN NOT EXISTS (SELECT 1 FROM project_memories m WHERE m.pk = pending_vectors.pk)"
            " WHEN 'message' THEN NOT EXISTS (SELECT 1 FROM messages g WHERE g.pk = pending_vectors.pk) ELSE 1 END"
        )
    return _names(found)


def _read_chunks_again(db: Connection) -> list[str]:
    """Have the files of altered chunks read again; an altered chunk stays searchable till then.

    Its hash goes, so that none of the chunks then made is taken for it. The text of one that was added is all
    there is of it: its hash and its vector are made again from that.
    """
    found = changed_chunks(db)
    for pk, _ in found:
        added = db.value(f"SELECT NOT {chunks.IS_PARSED} FROM file_chunks WHERE pk = :pk", pk=pk)
        digest = chunks.content_hash(_value(db, "file_chunks", "content", pk)) if added else b""
        db.run("UPDATE file_chunks SET content_hash = :digest WHERE pk = :pk", pk=pk, digest=digest)
        if added:
            db.run("DELETE FROM vector_bits WHERE source = 'file' AND pk = :pk", pk=pk)
        owner = db.value("SELECT file_id FROM file_chunks WHERE pk = :pk", pk=pk)
        if files.exists(db, owner):
            _queue(db, owner)
    return _names(found)


# --- schema, counters, full text ---------------------------------------------------------------------


def _reindex(db: Connection) -> list[str]:
    tables = db.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
    for (name,) in tables:
        if not name.startswith("sqlite_"):
            db.script(f'REINDEX "{name}"')
    return ["all indexes"]


def _make_indexes(db: Connection) -> list[str]:
    missing = [name for type, name in blueprint.differences(db).missing if type == "index"]
    for name in missing:
        blueprint.create_missing_index(db, name)
    return missing


def _record_steps(db: Connection) -> list[str]:
    known = blueprint.steps()
    taken = {version for (version,) in db.all("SELECT version FROM schema_migrations")}
    db.many("DELETE FROM schema_migrations WHERE version = :version", ({"version": v} for v in taken - set(known)))
    db.many(
        "INSERT INTO schema_migrations (version, description, applied_at) VALUES (:version, :text, :now)",
        ({"version": v, "text": known[v], "now": now_text()} for v in sorted(set(known) - taken)),
    )
    return [f"schema {version}" for version in sorted(taken ^ set(known))]


def _raise_sequences(db: Connection) -> list[str]:
    found = [name for _, name in offenders(db, "sequence")]
    for table in COUNTED:
        if table in found:
            _leap(db, table, db.value(f"SELECT max(pk) FROM {table}"))
    return found


def _leap(db: Connection, table: str, seq: int) -> None:
    db.run("DELETE FROM sqlite_sequence WHERE name = :table", table=table)
    db.run("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :seq)", table=table, seq=seq)


def _bump_missing(db: Connection) -> list[str]:
    found = offenders(db, "generation")
    for project, _ in found:
        changes.bump(db, project)
    return _names(found)


def _begin_log(db: Connection) -> list[str]:
    """Empty the change log beyond everything that was in it, so that every copy of vectors is read anew."""
    named = _names(offenders(db, "change_log") + offenders(db, "change_entry"))
    last = max(changes.last_seq(db), db.value("SELECT coalesce(max(seq), 0) FROM change_log"))
    db.run("DELETE FROM change_log")
    _leap(db, "change_log", last + LEAP)
    return named


def _name_content(db: Connection) -> list[str]:
    """Leave the one name of the content that is looked at; without it, every process has to start anew."""
    found = offenders(db, "incarnation")
    db.run("DELETE FROM incarnation WHERE pk <> 1")
    if any(pk == 1 for pk, _ in found):
        incarnation.renew(db)
    return _names(found)


def rebuild_texts(db: Connection) -> int:
    """Make all of the full text anew from its rows; return the number of passages."""
    passages = sum(indexed_texts.rebuild(db, source) for source in Source)
    # Rows of text_stats that were lost begin at 1 again: no copy of postings may take that for its own version.
    db.run("UPDATE text_stats SET version = version + :leap", leap=LEAP * REMOVAL)
    return passages


def tell_others(db: Connection) -> None:
    """Make every process read anew what it keeps in memory: of whatever was mended it may hold the old state."""
    _begin_log(db)
    db.run(
        "INSERT INTO generations (project, value) SELECT pk, 1 FROM projects UNION SELECT :none, 1 WHERE true"
        " ON CONFLICT (project) DO UPDATE SET value = max(value, 0) + 1",
        none=0,
    )


_MADE_OF_JSON: dict[str, Callable[[Connection, int], None]] = {
    "content": _embed_message,
    "file_metadata": _queue,
    "chunk_metadata": _read_chunk_again,
}
"""What is to be made again of the row whose JSON was mended, by the kind of problem."""

ENCODING = Mend(
    "encoding", "bytes that are no valid Unicode were kept as \\xNN in the text", _decode_texts, costly=True
)

FIRST = (
    Mend("index", "an index that did not fit its table was made anew", _reindex, costly=True),
    ENCODING,
    Mend("path", "a path was brought in line with the bytes that the file is read by", _correct_paths),
    Mend("status", f"a file was queued again{AGAIN}", _fail_unknown),
    *(
        Mend(column.kind, f"{column.column} of {column.table}: what was no JSON was kept as text", _keep_json(column))
        for column in json_columns.COLUMNS
    ),
    Mend("reference", "a project that was gone was made anew for what it holds", _remake_projects),
    Mend("reference", "a conversation that was gone was made anew for its messages", _remake_conversations),
    Mend("reference", "a conversation left a project that is gone", _release_conversations),
    Mend("reference", "what was made from a file that is gone was deleted", _drop_orphan_chunks),
    Mend("reference", "a file that was gone was made anew for the chunks that were added to it", _remake_files),
    Mend("reference", "vectors of a model that is gone were deleted", _drop_orphan_embeddings),
    Mend("reference", "runs of a project that is gone were deleted", _drop_orphan_runs),
    Mend("reference", "a token is no longer for a project that is gone", _drop_orphan_bindings),
    Mend(
        "parent", "a message no longer answers what it cannot answer", _clear_parents(partial(offenders, kind="parent"))
    ),
    Mend("parent_cycle", "a circle of answers was opened", _clear_parents(circles)),
    Mend("role", "a message counts as the user's", _set_known("role", "messages", "role", "user")),
    Mend("memory_type", "a memory's type is memory", _set_known("memory_type", "project_memories", "type", "memory")),
    Mend("importance", "a memory's importance was brought into 1 to 10", _clamp_importance),
)

FILES = (
    Mend("chunk_project", "a chunk went to the project of its file", _follow_files),
    Mend("duplicate_chunks", f"chunks went to their owner, which was queued again{AGAIN}", _fold_duplicates),
    Mend("two_owners", f"equal bytes were given one owner, which was queued again{AGAIN}", _merge_owners),
    Mend("indexed", f"a file was queued again{AGAIN}", _name_indexed),
    Mend("chunk_count", "chunks were counted anew, and the file is read again", _count_chunks),
    Mend("duplicate_owner", f"a name was given its place anew{AGAIN}", _detach),
    Mend("duplicate_count", "chunks of a name were counted anew", _count_duplicates),
    Mend("owned_job", "a name was given to the owner of equal bytes", _place_all("owned_job")),
    Mend("two_jobs", "a file waits for its equal in the queue", _place_all("two_jobs")),
    Mend("lease", "a lease was ended", _end_leases),
    Mend("ready", f"a file was given its place anew{AGAIN}", _place_all("ready")),
    Mend("failed", f"a file was queued again{AGAIN}", _place_all("failed")),
    Mend("waiting", f"a file was given its place anew{AGAIN}", _place_all("waiting")),
    Mend("part", f"a file was queued again for what lies in it{AGAIN}", _read_outer_again),
    Mend("chunk_order", "chunks were numbered anew, and the file is read again", _renumber_chunks),
)
"""Mends of files: one may bring up work for another, so that they are repeated until none has any."""

THEN = (
    Mend("chunk_text", f"the file of an altered chunk was queued again{AGAIN}", _read_chunks_again, costly=True),
    Mend("live_models", "a model was retired: another is live, and has more vectors", _one_live_model),
    Mend("no_live_model", f"a model was made live, or files queued again{AGAIN}", _revive_model),
    Mend("orphan_vector", "a vector went to its project, or was deleted where it belongs to nothing", _bring_home),
    Mend("missing_embedding", f"a vector without values was dropped, to be made again{AGAIN}", _drop_valueless),
    Mend("vector_width", f"a vector was dropped, to be made again{AGAIN}", _drop_misfits),
    Mend("vector", f"a vector was dropped, to be made again{AGAIN}", _drop_unsound, costly=True),
    Mend("vector_signs", "signs were made again from their vector", _sign_anew, costly=True),
    Mend("vector_text", f"a vector was dropped, to be made again{AGAIN}", _drop_stale, costly=True),
    Mend("unused_embedding", "a vector was deleted that nothing used", _drop_unused),
    Mend("missing_vector", f"the file of a chunk without a vector was queued again{AGAIN}", _queue_vectorless),
    Mend("unembedded_memory", f"a memory's vector is to be made{AGAIN}", _note_memories),
    Mend("unembedded_message", f"a message's vector is to be made{AGAIN}", _note_messages),
    Mend("pending_orphan", "a vector is no longer to be made for what is gone", _drop_pending),
    Mend("missing_index", "an index was made anew", _make_indexes),
    Mend("schema_version", "the record of migrations was brought up", _record_steps),
    Mend("sequence", "a counter was moved on", _raise_sequences),
    Mend("generation", "a project was given a generation", _bump_missing),
    Mend("incarnation", "the content was named anew; processes that have it open start anew", _name_content),
)

TEXT_KINDS = frozenset({"missing_text", "orphan_text", "text_drift", "text_index", "text_stats", "text_project"})
"""Problems that making the full text anew mends."""

TEXT_CHANGING = frozenset({"encoding", "content", "reference", "chunk_project", "chunk_text"})
"""Mends that change texts or whose they are, behind which the full text is made anew."""

LOG_KINDS = frozenset({"change_log", "change_entry"})
"""Problems that beginning the change log anew mends; every repair does that."""

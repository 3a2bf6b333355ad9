"""A small project to store files in: words as chunks, one small vector a word; and ways to spoil it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import numpy as np
import pytest

from storage import (
    changes,
    chunks,
    conversations,
    files,
    memories,
    messages,
    pending,
    projects,
    queue,
    runs,
    settings,
    text_index,
    tokens,
    vectors,
)
from storage.chunks import NewChunk
from storage.database import Database
from storage.files import File, Ready, Registered, Seen, Versions
from storage.fingerprint import Fingerprint
from storage.passage_tokens import tokens_of
from storage.queue import Claim
from storage.runs import Ending, Figures, Kind, Run

DIM = 8


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class Shelf:
    """A project in a real database, and what a scan and a worker would do to it."""

    db: Database
    project: int = 0
    model: int = 0
    versions: Versions = field(default_factory=lambda: Versions("v1", frozenset({"text 1"})))

    def __post_init__(self) -> None:
        with self.db.write() as db:
            self.project = projects.ensure(db, "shelf").pk
            self.model = vectors.ensure_model(
                db, name="m", hash="h", dim=DIM, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
            ).pk

    def find(self, name: str, content: str, *, scanned_ns: int = 10**18, retry: bool = False) -> Registered:
        """A scan meets a file."""
        seen = Seen(f"/{name}".encode(), Fingerprint(len(content), 1, 1, 1), sha256(content), "text/plain")
        with self.db.write() as db:
            _, registered = files.register(db, self.project, seen, self.versions, scanned_ns=scanned_ns, retry=retry)
        return registered

    def claim(self, owner: str = "worker", **options: int) -> list[Claim]:
        with self.db.write() as db:
            return queue.claim(db, owner, **({"limit": 99, "now_ms": 10**13} | options))

    def commit(self, claim: Claim, content: str) -> int:
        """A worker has parsed and embedded a claimed file; return the chunks written."""
        new = self.words(content)
        with self.db.write() as db:
            queue.require_lease(db, claim)
            files.make_room(db, files.get(db, claim.pk), sha256(content))
            written = chunks.replace(db, self.project, claim.pk, self.model, new)
            for bare in chunks.unembedded(db, claim.pk, self.model):
                vector = (bare.pk, vectors.input_hash(bare.content), self.vector(bare.content))
                vectors.put(db, self.model, self.project, vectors.Source.FILE, [vector])
            result = Ready(sha256(content), len(new), None, "text 1", self.versions.settings, {})
            files.mark_ready(db, claim.pk, result)
            changes.bump(db, self.project)
        return written

    def words(self, content: str) -> list[NewChunk]:
        texts = content.split()
        values = np.stack([np.random.default_rng(list(t.encode())).standard_normal(DIM) for t in texts])
        values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
        return [
            NewChunk(text, 1, i, i + 1, 1, 1, "", tokens_of(text), vectors.input_hash(text), vector)
            for i, (text, vector) in enumerate(zip(texts, vectors.encode(values), strict=True))
        ]

    def add(self, name: str, content: str) -> File:
        """Find a file and take it to the end."""
        self.find(name, content)
        for claim in self.claim():
            self.commit(claim, content)
        return self.file(name)

    def file(self, name: str) -> File:
        with self.db.read() as db:
            file = files.by_path(db, self.project, f"/{name}".encode())
        assert file is not None, f"{name} has no row"
        return file

    def delete(self, name: str) -> None:
        with self.db.write() as db:
            files.delete(db, self.file(name))

    def reopen(self) -> None:
        """Start anew, as another process would."""
        self.db.close()
        self.db = Database.open(self.db.path)

    def found(self, word: str) -> list[str]:
        """Names of the files whose chunks the full text finds for a word."""
        with self.db.read() as db:
            hits = text_index.search(db, vectors.Source.FILE, word, project_pk=self.project, limit=10)
            return [
                db.value(
                    "SELECT f.filename FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk",
                    pk=pk,
                )
                for pk, _ in hits
            ]

    def work(self, contents: dict[str, str]) -> None:
        """A worker finishes what waits: files, whose contents are given by name, and vectors."""
        while claims := self.claim():
            for claim in claims:
                self.commit(claim, contents[claim.filename])
        with self.db.write() as db:
            for row in pending.take(db, 99):
                made = self.vector(row.text)
                vectors.put(db, self.model, row.project_pk, row.source, [(row.pk, vectors.input_hash(row.text), made)])
                pending.done(db, row.source, [row.pk])

    def vector(self, text: str) -> vectors.Vector:
        """The vector of a text; always the same."""
        values = np.random.default_rng(list(text.encode())).standard_normal(DIM)
        return vectors.encode((values / np.linalg.norm(values)).astype(np.float32).reshape(1, -1))[0]

    def count(self, table: str) -> int:
        with self.db.read() as db:
            return db.value(f"SELECT count(*) FROM {table}")


@pytest.fixture
def shelf(db: Database) -> Iterator[Shelf]:
    """An empty project with a model of 8 dimensions."""
    shelf = Shelf(db)
    yield shelf
    shelf.db.close()


@pytest.fixture(scope="session")
def filled_database(new_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of `filled`, closed, to be copied."""
    path = shutil.copy(new_database, tmp_path_factory.mktemp("filled") / "filled.db")
    with Database.open(path) as database:
        fill(Shelf(database))
    return path


@pytest.fixture
def filled(filled_database: Path, tmp_path: Path) -> Iterator[Shelf]:
    """Two names of one content, another file, memories, messages, one of which is without words, a token and a run."""
    shelf = Shelf(Database.open(shutil.copy(filled_database, tmp_path / "test.db")))
    yield shelf
    shelf.db.close()


def fill(shelf: Shelf) -> None:
    """Put in what `filled` has."""
    shelf.add("a", "red green")
    shelf.find("b", "red green")
    shelf.add("c", "blue")
    with shelf.db.write() as db:
        talk = conversations.create(db, "talk", project_pk=shelf.project)
        first = messages.add(db, talk.id, "user", "hello there")
        messages.add(db, talk.id, "assistant", "well met", parent_id=first.id)
        messages.add(db, talk.id, "user", " ")
        messages.add(db, conversations.create(db, "aside").id, "user", "of no project")
        memories.add(db, shelf.project, "colour", "red is warm", tags=["tint"])
        settings.set(db, "theme", "dark")
    shelf.work({})
    with shelf.db.write() as db:
        memories.add(db, shelf.project, "later", "still without a vector")
        tokens.create(db, [projects.by_pk(db, shelf.project)], write=True, name="agent")
        runs.keep(db, Run("run", shelf.project, Kind.WORK, Ending.DONE, None, "", "", 1.0, Figures(ready=3)))


@dataclass(frozen=True)
class Drift:
    """A way to spoil the `filled` shelf, and the kind of problem that names it.

    deep: only the deep check sees it. stays: no repair can mend it. voids: who has the database open starts anew.
    adds: by table, how many rows there are more after the repair.
    """

    kind: str
    sql: str
    deep: bool = False
    stays: bool = False
    voids: bool = False
    adds: Mapping[str, int] = field(default_factory=dict)

    def plant(self, shelf: Shelf) -> None:
        """Spoil the database, past all that a guarded connection forbids."""
        raw = apsw.Connection(str(shelf.db.path))
        try:
            raw.execute("PRAGMA ignore_check_constraints = ON; PRAGMA writable_schema = ON")
            for _ in raw.execute(f"BEGIN; {self.sql}; COMMIT"):
                pass
        finally:
            raw.close()
        if self.voids:
            shelf.reopen()


A, B, C = (f"(SELECT pk FROM project_files WHERE filename = '{name}')" for name in "abc")
RED = "(SELECT pk FROM file_chunks WHERE content = 'red')"

_PART = (
    "INSERT INTO project_files (id, project_id, filename, path, path_bytes, status, error_message, created_at,"
    " updated_at) SELECT '{0}', project_id, 'in-{0}', '/{0}/in-{0}', unhex(hex('/{0}') || '00' || hex('in-{0}')),"
    " 'failed', 'odd', created_at, updated_at FROM project_files WHERE filename = 'c'"
)

DRIFTS = (
    Drift("part", _PART.format("gone"), adds={"project_files": 2}),
    Drift("part", _PART.format("b"), adds={"project_files": 1}),
    Drift("status", "UPDATE project_files SET status = 'odd' WHERE filename = 'c'"),
    Drift("chunk_count", "UPDATE project_files SET chunk_count = 7 WHERE filename = 'a'"),
    Drift("chunk_count", "UPDATE project_files SET chunk_count = 0 WHERE filename = 'c'"),
    Drift("duplicate_count", "UPDATE project_files SET chunk_count = 7 WHERE filename = 'b'"),
    Drift("duplicate_owner", f"UPDATE project_files SET duplicate_of = {C} WHERE filename = 'b'"),
    Drift("duplicate_owner", "UPDATE project_files SET duplicate_of = 99 WHERE filename = 'b'"),
    Drift("duplicate_owner", "UPDATE project_files SET duplicate_of = pk WHERE filename = 'b'"),
    Drift("duplicate_chunks", f"UPDATE file_chunks SET file_id = {B} WHERE content = 'red'"),
    Drift("duplicate_chunks", f"UPDATE file_chunks SET file_id = {B} WHERE content IN ('red', 'green')"),
    Drift(
        "duplicate_chunks",
        f"UPDATE file_chunks SET file_id = {B} WHERE content = 'red';"
        " UPDATE project_files SET duplicate_of = 99 WHERE filename = 'b'",
    ),
    Drift(
        "two_owners",
        "DROP INDEX idx_project_files_owner; UPDATE project_files SET duplicate_of = NULL WHERE filename = 'b'",
    ),
    Drift("owned_job", "UPDATE project_files SET status = 'pending' WHERE filename = 'b'"),
    Drift("two_jobs", "DROP INDEX idx_project_files_job; UPDATE project_files SET status = 'pending'"),
    Drift("indexed", "UPDATE project_files SET indexed_hash = NULL WHERE filename = 'a'"),
    Drift("indexed", "UPDATE project_files SET indexed_hash = NULL, status = 'pending' WHERE filename = 'c'"),
    Drift(
        "indexed",
        "UPDATE project_files SET indexed_hash = NULL WHERE filename = 'a';"
        " UPDATE project_files SET duplicate_of = NULL WHERE filename = 'b'",
    ),
    Drift("indexed", "DELETE FROM file_chunks WHERE content = 'blue'"),
    Drift("waiting", f"UPDATE project_files SET status = 'pending', waiting_for = {C} WHERE filename = 'b'"),
    Drift("waiting", f"UPDATE project_files SET waiting_for = {A} WHERE filename = 'b'"),
    Drift("waiting", "UPDATE project_files SET status = 'pending', waiting_for = pk WHERE filename = 'c'"),
    Drift("ready", "UPDATE project_files SET error_message = 'odd' WHERE filename = 'a'"),
    Drift("ready", "UPDATE project_files SET error_message = 'odd' WHERE filename = 'b'"),
    Drift("ready", "UPDATE project_files SET content_hash = NULL WHERE filename = 'c'"),
    Drift("failed", "UPDATE project_files SET status = 'failed' WHERE filename = 'c'"),
    Drift("lease", "UPDATE project_files SET lease_owner = 'ghost' WHERE filename = 'a'"),
    Drift("lease", "UPDATE project_files SET status = 'processing' WHERE filename = 'c'"),
    Drift(
        "chunk_project",
        "INSERT INTO projects SELECT 99, 'x', 'x', '', '{}', '', '';"
        " UPDATE file_chunks SET project_id = 99 WHERE content = 'red'",
    ),
    Drift("chunk_order", "UPDATE file_chunks SET chunk_index = 9 WHERE content = 'green'"),
    Drift("reference", "UPDATE file_chunks SET project_id = 99 WHERE content = 'red'"),
    Drift("reference", "UPDATE project_memories SET project_id = 99"),
    Drift("reference", "UPDATE messages SET conversation_id = 99", adds={"conversations": 1}),
    Drift("reference", "UPDATE conversations SET project_id = 99"),
    Drift("reference", "UPDATE file_chunks SET file_id = 99 WHERE content = 'blue'"),
    Drift("reference", "UPDATE embeddings SET model_id = 99"),
    Drift("reference", "UPDATE ingestion_runs SET project_id = 99", adds={"ingestion_runs": -1}),
    Drift("reference", "INSERT INTO token_projects VALUES (1, 99), (99, 1)"),
    Drift("reference", "DELETE FROM access_tokens"),
    Drift("reference", "DELETE FROM projects"),
    Drift(
        "live_models",
        "DROP INDEX idx_embedding_models_live; INSERT INTO embedding_models"
        " SELECT 99, 'x', 'x', 'x', dim, 'x', '', '', 'fp32', 'live', '', '' FROM embedding_models",
    ),
    Drift("no_live_model", "UPDATE embedding_models SET status = 'retired'"),
    Drift("no_live_model", "DELETE FROM embedding_models; DELETE FROM embeddings; DELETE FROM vector_bits"),
    Drift("missing_vector", f"DELETE FROM vector_bits WHERE source = 'file' AND pk = {RED}"),
    Drift("orphan_vector", "UPDATE vector_bits SET pk = 999 WHERE source = 'file' AND pk = 1"),
    Drift("orphan_vector", "UPDATE vector_bits SET project = 99 WHERE source = 'file' AND pk = 1"),
    Drift("unused_embedding", "DELETE FROM vector_bits WHERE source = 'file' AND pk = 1"),
    Drift("missing_embedding", "DELETE FROM embeddings WHERE pk = 1"),
    Drift("missing_embedding", "UPDATE vector_bits SET model = 99 WHERE source = 'file' AND pk = 1"),
    Drift("vector_width", "UPDATE embeddings SET vector = x'0000'"),
    Drift("vector_width", "UPDATE vector_bits SET bits = x'0000' WHERE pk = 1"),
    Drift("pending_orphan", "INSERT INTO pending_vectors (source, pk) VALUES ('memory', 999), ('odd', 1)"),
    Drift("unembedded_memory", "DELETE FROM vector_bits WHERE source = 'memory'"),
    Drift("unembedded_memory", "DELETE FROM pending_vectors"),
    Drift("unembedded_message", "DELETE FROM vector_bits WHERE source = 'message'"),
    Drift("parent", "UPDATE messages SET parent_id = (SELECT max(pk) FROM messages) WHERE pk = 1"),
    Drift("parent", "UPDATE messages SET parent_id = 999 WHERE pk = 2"),
    Drift("parent_cycle", "UPDATE messages SET parent_id = 2 WHERE pk = 1"),
    Drift("parent_cycle", "UPDATE messages SET parent_id = pk WHERE pk = 3"),
    Drift("parent_cycle", "UPDATE messages SET parent_id = CASE pk WHEN 1 THEN 3 ELSE pk - 1 END WHERE pk <= 3"),
    Drift("role", "UPDATE messages SET role = 'ghost' WHERE pk = 1"),
    Drift("memory_type", "UPDATE project_memories SET type = 'odd'"),
    Drift("importance", "UPDATE project_memories SET importance = 11"),
    Drift("importance", "UPDATE project_memories SET importance = 'high'"),
    Drift("content", "UPDATE messages SET content = 'hello' WHERE pk = 1"),
    Drift("content", """UPDATE messages SET content = '{"type": "text", "text": "x"}' WHERE pk = 1"""),
    Drift("content", """UPDATE messages SET content = '[{"text": "x"}, 3]' WHERE pk = 1"""),
    Drift("content", "UPDATE messages SET content = '[]' WHERE pk = 1"),
    Drift("content", "UPDATE messages SET content = x'ff00' WHERE pk = 1"),
    Drift("content", "UPDATE messages SET content = replace(hex(zeroblob(2000)), '00', '[') WHERE pk = 1"),
    Drift("content", """UPDATE messages SET content = '[{"type":"text","text":"\\ud800"}]' WHERE pk = 1"""),
    Drift("content", """UPDATE messages SET content = '[{"type":"tool_result","value":NaN}]' WHERE pk = 1"""),
    Drift("content", """UPDATE messages SET content = '[{"type":"text","text":"x","n":1e999}]' WHERE pk = 1"""),
    Drift("tags", "UPDATE project_memories SET tags = 'red, blue'"),
    Drift("tags", "UPDATE project_memories SET tags = '[1]'"),
    Drift("tags", """UPDATE project_memories SET tags = '["\\uDFFF"]'"""),
    Drift("setting", "UPDATE app_settings SET value = '{theme}'"),
    Drift("setting", "UPDATE app_settings SET value = '[-Infinity]'"),
    Drift("project_settings", "UPDATE projects SET settings = 'x'"),
    Drift("project_settings", """UPDATE projects SET settings = '{"a":1e999}'"""),
    Drift("conversation_settings", "UPDATE conversations SET settings = '[]'"),
    Drift("conversation_settings", """UPDATE conversations SET settings = '{"a":NaN}'"""),
    Drift("file_metadata", "UPDATE project_files SET metadata = 'x'"),
    Drift("file_metadata", """UPDATE project_files SET metadata = '{"\\ud800":1}'"""),
    Drift("chunk_metadata", "UPDATE file_chunks SET metadata = 'x'"),
    Drift("chunk_metadata", """UPDATE file_chunks SET metadata = '{"a":NaN}'"""),
    Drift("path", "UPDATE project_files SET path = '/odd' WHERE filename = 'a'"),
    Drift("path", "UPDATE project_files SET filename = 'odd' WHERE filename = 'c'"),
    Drift("path", "UPDATE project_files SET path = CAST(x'ff' AS TEXT) WHERE filename = 'a'"),
    Drift("missing_text", "DELETE FROM chunk_fts WHERE rowid = 1"),
    Drift("missing_text", "DELETE FROM text_rows WHERE source = 'memory'"),
    Drift("missing_text", "DELETE FROM message_fts"),
    Drift("orphan_text", "INSERT INTO text_rows VALUES ('file', 999, 1, 1)"),
    Drift("orphan_text", "INSERT INTO memory_fts (rowid, body) VALUES (999, 'odd')"),
    Drift("text_stats", "UPDATE text_stats SET passages = 99"),
    Drift("text_stats", "DELETE FROM text_stats"),
    Drift("text_project", "UPDATE text_rows SET project = 99"),
    Drift("incarnation", "DELETE FROM incarnation", voids=True),
    Drift("incarnation", "INSERT INTO incarnation VALUES (2, 'x')"),
    Drift("incarnation", "UPDATE incarnation SET value = ''", voids=True),
    Drift("sequence", "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'messages'"),
    Drift("sequence", "DELETE FROM sqlite_sequence WHERE name = 'file_chunks'"),
    Drift("change_log", "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'change_log'"),
    Drift("change_log", "DELETE FROM change_log; DELETE FROM sqlite_sequence WHERE name = 'change_log'"),
    Drift("change_log", "DELETE FROM change_log WHERE seq = 2"),
    Drift("change_log", "DELETE FROM change_log WHERE seq = (SELECT max(seq) FROM change_log)"),
    Drift("change_entry", "UPDATE change_log SET model = 99 WHERE seq = 1"),
    Drift("change_entry", "UPDATE change_log SET op = 'odd' WHERE seq = 1"),
    Drift("generation", "DELETE FROM generations"),
    Drift("generation", "UPDATE generations SET value = 0"),
    Drift("schema_version", "DELETE FROM schema_migrations WHERE version = 2"),
    Drift("schema_version", "INSERT INTO schema_migrations VALUES (99, 'odd', '')"),
    Drift("missing_index", "DROP INDEX idx_file_chunks_project"),
    Drift("missing_table", "DROP TABLE usage_counts", stays=True),
    Drift(
        "schema",
        "DROP INDEX idx_file_chunks_project; CREATE INDEX idx_file_chunks_project ON file_chunks (project_id, pk)",
        stays=True,
    ),
    Drift("unknown_object", "CREATE TABLE mine (x)", stays=True),
    Drift(
        "damaged",
        "UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'messages'; PRAGMA schema_version = 999",
        stays=True,
    ),
    Drift(
        "index",
        "DROP INDEX IF EXISTS idx_file_chunks_project; CREATE INDEX idx_file_chunks_project"
        " ON file_chunks (project_id) WHERE project_id < 0; UPDATE sqlite_schema SET sql ="
        " 'CREATE INDEX idx_file_chunks_project ON file_chunks (project_id)' WHERE name = 'idx_file_chunks_project'",
        deep=True,
    ),
    Drift("constraint", "INSERT INTO text_versions VALUES ('odd', 1)", deep=True, stays=True),
    Drift("text_index", "UPDATE chunk_fts_data SET block = zeroblob(length(block)) WHERE id > 10", deep=True),
    Drift("encoding", "UPDATE access_tokens SET name = CAST(x'ff' AS TEXT)", deep=True),
    Drift("encoding", "UPDATE projects SET description = CAST(x'ff' AS TEXT)", deep=True),
    Drift("encoding", "UPDATE file_chunks SET content = CAST(x'ff' AS TEXT) WHERE content = 'red'", deep=True),
    Drift("encoding", "UPDATE file_chunks SET heading = CAST(x'ff' AS TEXT) WHERE content = 'blue'", deep=True),
    Drift("text_drift", "UPDATE text_rows SET length = length + 1 WHERE source = 'file'", deep=True),
    Drift("chunk_text", "UPDATE file_chunks SET content = 'pink' WHERE content = 'red'", deep=True),
    Drift("chunk_text", "UPDATE file_chunks SET content_hash = 5", deep=True),
    Drift("vector", "UPDATE embeddings SET vector = zeroblob(16)", deep=True),
    Drift("vector_signs", "UPDATE vector_bits SET bits = x'ff' WHERE pk = 1", deep=True),
    Drift("vector_text", "UPDATE project_memories SET content = 'blue is cold'", deep=True),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for a `drift` each of them."""
    if "drift" in metafunc.fixturenames:
        metafunc.parametrize("drift", DRIFTS, ids=[f"{drift.kind}-{n}" for n, drift in enumerate(DRIFTS)])


@pytest.fixture
def drifts() -> tuple[Drift, ...]:
    """Every way to spoil the shelf."""
    return DRIFTS

"""Each kind of drift is seen and named; a sound database is called sound."""

from __future__ import annotations

import apsw
import pytest

from storage import conversations, messages
from storage.verify import RULES, verify

DRIFTS = {
    "chunk_count": "UPDATE project_files SET chunk_count = 7 WHERE filename = 'a'",
    "duplicate_count": "UPDATE project_files SET chunk_count = 7 WHERE filename = 'b'",
    "duplicate_owner": "UPDATE project_files SET duplicate_of = (SELECT pk FROM project_files WHERE filename = 'c')"
    " WHERE filename = 'b'",
    "duplicate_chunks": "UPDATE file_chunks SET file_id = (SELECT pk FROM project_files WHERE filename = 'b')"
    " WHERE content = 'red'",
    "waiting": "UPDATE project_files SET status = 'pending', waiting_for = (SELECT pk FROM project_files WHERE"
    " filename = 'c') WHERE filename = 'b'",
    "ready": "UPDATE project_files SET error_message = 'odd' WHERE filename = 'a'",
    "failed": "UPDATE project_files SET status = 'failed' WHERE filename = 'c'",
    "lease": "UPDATE project_files SET lease_owner = 'ghost' WHERE filename = 'a'",
    "chunk_order": "UPDATE file_chunks SET chunk_index = 9 WHERE content = 'green'",
    "missing_vector": "DELETE FROM vector_bits WHERE pk = (SELECT pk FROM file_chunks WHERE content = 'red')",
    "no_live_model": "UPDATE embedding_models SET status = 'retired'",
    "orphan_vector": "UPDATE vector_bits SET pk = 999 WHERE pk = (SELECT min(pk) FROM file_chunks)",
    "unused_embedding": "DELETE FROM vector_bits WHERE pk = (SELECT min(pk) FROM file_chunks)",
    "missing_text": "DELETE FROM chunk_fts WHERE rowid = (SELECT min(pk) FROM file_chunks)",
    "orphan_text": "INSERT INTO text_rows VALUES ('file', 999, 1, 1)",
}
DEEP_DRIFTS = {
    "text_drift": "UPDATE text_rows SET length = length + 1 WHERE source = 'file'",
    "chunk_text": "UPDATE file_chunks SET content = 'pink' WHERE content = 'red'",
    "vector": "UPDATE embeddings SET vector = zeroblob(16)",
}


@pytest.fixture
def filled(shelf):
    """Two names of one content, another file, and a message without words."""
    shelf.add("a", "red green")
    shelf.find("b", "red green")
    shelf.add("c", "blue")
    with shelf.db.write() as db:
        conversation = conversations.create(db, "talk")
        messages.add(db, conversation.id, "user", " ")
    return shelf


def test_a_sound_database_is_sound(filled) -> None:
    assert verify(filled.db) == []
    assert verify(filled.db, deep=True) == []


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_named(filled, kind: str) -> None:
    with filled.db.write() as db:
        db.run(DRIFTS[kind])
    assert kind in {problem.kind for problem in verify(filled.db)}


@pytest.mark.parametrize("kind", DEEP_DRIFTS)
def test_deep_drift_is_named(filled, kind: str) -> None:
    with filled.db.write() as db:
        db.run(DEEP_DRIFTS[kind])
    assert kind in {problem.kind for problem in verify(filled.db, deep=True)}


def test_a_broken_reference_is_named(filled) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE file_chunks SET project_id = 99 WHERE content = 'red'")
    raw.close()
    assert {"reference", "chunk_project"} <= {problem.kind for problem in verify(filled.db)}


def test_every_rule_has_a_drift_that_proves_it() -> None:
    proved_elsewhere = {"chunk_project", "missing_embedding"}  # foreign keys forbid them to a guarded connection
    assert {rule.kind for rule in RULES} - set(DRIFTS) == proved_elsewhere

"""The faults of the original specification, each shown beside what Knowlex does instead."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from storage import conversations, memories, messages, projects, text_index
from storage.connection import Connection, connect
from storage.conversations import Conversation
from storage.database import Database
from storage.errors import ConstraintError, DatabaseError, ForeignKeyError
from storage.messages import Role
from storage.sources import Source

ORIGINAL_LIST = """
SELECT COUNT(DISTINCT c.id), COUNT(DISTINCT m.id), COUNT(DISTINCT f.id), COALESCE(SUM(f.size), 0)
FROM projects p LEFT JOIN conversations c ON c.project_id = p.pk LEFT JOIN messages m ON m.conversation_id = c.pk
LEFT JOIN project_files f ON f.project_id = p.pk GROUP BY p.pk
"""
ORIGINAL_INDEX = """
CREATE TABLE said (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE VIRTUAL TABLE said_fts USING fts5 (content, content = 'said', content_rowid = 'rowid');
"""
HOSTILE = ['"', "'", "a AND", "NOT", "NEAR(", "col:x", "*", "(", "a\0b", "%_", "-", "^", "🦓", ") OR 1=1 --", ""]


def talk_in_a_project(db: Connection) -> Conversation:
    return conversations.create(db, "talk", project_pk=projects.create(db, "a").pk)


def found(db: Connection, query: str) -> list[int]:
    return [pk for pk, _ in text_index.search(db, Source.MESSAGE, query, project_pk=None, limit=10)]


def test_a_list_of_projects_does_not_multiply_sizes_by_messages(db: Database) -> None:
    with db.write() as tx:
        talk = talk_in_a_project(tx)
        for number in range(3):
            messages.add(tx, talk.id, "user", str(number))
        tx.run(
            "INSERT INTO project_files (id, project_id, filename, path, path_bytes, size, created_at, updated_at)"
            " VALUES ('f', :project, 'a', '/a', x'61', 100, '', '')",
            project=talk.project_pk,
        )
        assert tx.all(ORIGINAL_LIST) == [(1, 3, 1, 300)]
        [item] = projects.listed(tx).items
        assert (item.conversation_count, item.message_count, item.file_count) == (1, 3, 1)
        assert item.total_file_size == 100


def test_deleting_a_message_is_done_whole_or_not_at_all(db: Database) -> None:
    """The original hands the answers over in a transaction of its own: what fails then leaves them changed."""
    with db.write() as tx:
        talk = talk_in_a_project(tx)
        first = messages.add(tx, talk.id, "user", "zebra")
        middle = messages.add(tx, talk.id, "assistant", "gnu", parent_id=first.id)
        last = messages.add(tx, talk.id, "user", "okapi", parent_id=middle.id)

    def break_down(cursor: object, sql: str, values: Any) -> bool:
        if sql.startswith("DELETE FROM messages"):
            raise OSError("the disk is gone")
        return True

    with contextlib.suppress(OSError), db.write() as tx:
        tx.raw.exec_trace = break_down
        messages.delete(tx, middle.id)
        pytest.fail("the message was deleted")
    tx.raw.exec_trace = None
    with db.read() as tx:
        assert messages.every(tx, talk.id) == [first, middle, last]
        assert found(tx, "gnu") == [middle.pk]


def test_foreign_keys_are_checked_on_every_connection(db: Database) -> None:
    """SQLite checks none unless told to, and the original never does: its cascades do nothing."""
    with db.read() as reader:
        assert reader.value("PRAGMA foreign_keys") == 1
    with pytest.raises(ForeignKeyError), db.write() as tx:
        tx.run(
            "INSERT INTO messages (id, conversation_id, role, content, created_at, updated_at)"
            " VALUES ('m', 99, 'user', '[]', '', '')"
        )
    with db.write() as tx:
        talk = talk_in_a_project(tx)
        messages.add(tx, talk.id, "user", "zebra")
        memories.add(tx, talk.project_pk or 0, "t", "c")
        tx.run("DELETE FROM conversations WHERE pk = :pk", pk=talk.pk)
        tx.run("DELETE FROM projects WHERE pk = :pk", pk=talk.project_pk)
        assert tx.value("SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM project_memories)") == 0


@pytest.mark.parametrize("role", Role)
def test_the_system_and_tools_may_speak_and_nobody_else(db: Database, role: Role) -> None:
    with db.write() as tx:
        talk = talk_in_a_project(tx)
        assert messages.add(tx, talk.id, role, "zebra").role is role
        with pytest.raises(ConstraintError, match="CHECK"):
            tx.run("UPDATE messages SET role = 'robot'")


def test_keys_and_braces_of_the_json_are_not_searched(db: Database) -> None:
    parts = [{"type": "tool_call", "name": "lookup", "arguments": {"animal": 1}}, {"type": "text", "text": "zebra"}]
    with db.write() as tx:
        tx.script(ORIGINAL_INDEX)
        tx.run("INSERT INTO said_fts (rowid, content) VALUES (1, :content)", content=json.dumps(parts))
        message = messages.add(tx, talk_in_a_project(tx).id, "user", parts)
        for word in ("type", "text", "lookup", "animal"):
            assert tx.value("SELECT count(*) FROM said_fts WHERE said_fts MATCH :word", word=word) == 1
            assert found(tx, word) == []
        assert found(tx, "zebra") == [message.pk]


def test_any_string_may_be_searched_for(db: Database) -> None:
    with db.write() as tx:
        tx.script(ORIGINAL_INDEX)
        messages.add(tx, talk_in_a_project(tx).id, "user", "zebra")
        for query in HOSTILE:
            assert found(tx, query) == []
            assert found(tx, f"{query} zebra") != []
        refused = 0
        for query in HOSTILE:
            try:
                tx.all("SELECT rowid FROM said_fts WHERE said_fts MATCH :query", query=query)
            except DatabaseError:
                refused += 1
        assert refused > len(HOSTILE) / 2


def test_a_deleted_or_changed_text_is_gone_from_the_index(db: Database) -> None:
    """The original updates its index without the old text, which stays in it."""
    with db.write() as tx:
        talk = talk_in_a_project(tx)
        edited, gone = (messages.add(tx, talk.id, "user", "zebra") for _ in range(2))
        messages.update(tx, edited.id, "gnu")
        messages.delete(tx, gone.id)
        assert found(tx, "zebra") == []
        assert found(tx, "gnu") == [edited.pk]


def test_no_row_gets_the_key_of_one_that_is_gone(db: Database) -> None:
    """A table with a key of text has row numbers that are given again, and that VACUUM may change."""
    with db.write() as tx:
        tx.script(ORIGINAL_INDEX)
        talk = talk_in_a_project(tx)
        originals: list[int] = []
        gone: list[int] = []
        for number in range(2):
            tx.run("INSERT INTO said VALUES (:id, 'zebra')", id=str(number))
            originals.append(tx.last_pk())
            tx.run("DELETE FROM said")
            message = messages.add(tx, talk.id, "user", "zebra")
            gone.append(message.pk)
            messages.delete(tx, message.id)
        assert originals == [1, 1]
        assert gone[0] < gone[1]
        kept = messages.add(tx, talk.id, "user", "zebra")
    other = connect(db.path)
    other.script("VACUUM")
    other.close()
    with db.write() as tx:
        assert messages.get(tx, kept.id) == kept
        assert found(tx, "zebra") == [kept.pk]
        assert messages.add(tx, talk.id, "user", "okapi").pk > kept.pk > gone[1]

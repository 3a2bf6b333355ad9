"""Every kind of drift is mended, or left with what to do about it; nothing that people wrote is lost."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import numpy as np
import pytest

from storage import (
    changes,
    chunks,
    conversations,
    erasures,
    files,
    memories,
    mends,
    messages,
    pending,
    projects,
    settings,
    text_index,
    vectors,
)
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import ReadOnlyError, ReplacedError, UniqueError, UsageError
from storage.files import Seen
from storage.fingerprint import Fingerprint
from storage.mends import LEAP, Mend
from storage.repair import COPIES, EXPORT, REMEDIES, Repaired, repair
from storage.salvage import PASSING
from storage.sources import Source
from storage.vector_mirror import VectorMirror
from storage.verify import KINDS, verify

CONTENTS = {"a": "red green", "b": "red green", "c": "blue", "gone": "brown", "in-gone": "white", "in-b": "black"}
REAL = ("file_gone", "file_changed")  # the shelf's files are on no disk


def left_of(repaired: Repaired) -> set[str]:
    return {left.kind for left in repaired.left} - set(REAL)


def hits(shelf) -> list[object]:
    """What a search finds, by words and by meaning: the passages' files and texts, and scores."""
    found: list[object] = []
    with shelf.db.read() as db:
        model = vectors.live_model(db)
        assert model is not None
        for word in ("red", "green", "blue"):
            query = np.frombuffer(shelf.words(word)[0].vector.half, "<f2").astype(np.float32)
            text = text_index.search(db, Source.FILE, word, project_pk=shelf.project, limit=9)
            near = vectors.search(db, model, query, project_pk=shelf.project, source=Source.FILE, limit=9)
            found.append([[(*shown(db, pk), round(score, 5)) for pk, score in leg] for leg in (text, near)])
    return found


def shown(db, pk: int) -> tuple[str, ...]:
    row = db.one(
        "SELECT f.indexed_hash, c.content FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk",
        pk=pk,
    )
    assert row is not None
    return row


def written(db: Database) -> dict[str, list[tuple[object, ...]]]:
    """Everything that people wrote, as far as no drift spoils it itself."""
    with db.read() as connection:
        return {
            table: connection.all(f"SELECT pk, CAST({column} AS BLOB) FROM {table} ORDER BY pk")
            for table, column in (
                ("project_files", "path"),
                ("project_memories", "title"),
                ("messages", "id"),
                ("conversations", "title"),
                ("app_settings", "key"),
            )
        }


def test_every_drift_is_mended_or_left_with_a_remedy(filled, drift) -> None:
    before, kept = hits(filled), written(filled.db)
    drift.plant(filled)
    repaired = repair(filled.db)
    if drift.stays:
        assert drift.kind in left_of(repaired)
        assert all(left.remedy for left in repaired.left)
        return
    assert drift.kind in {mended.kind for mended in repaired.mended}
    assert left_of(repaired) <= {"no_live_model"}
    assert repaired.copy is not None
    if drift.voids:
        filled.reopen()
    if left_of(repaired):
        filled.__post_init__()
    filled.work(CONTENTS)
    assert verify(filled.db, deep=True) == []
    assert written(filled.db)["messages"] == kept["messages"]
    left = {table: len(rows) for table, rows in written(filled.db).items()}
    assert left == {table: len(rows) + drift.adds.get(table, 0) for table, rows in kept.items()}
    filled.project = project_of_files(filled.db)
    if "project_files" not in drift.adds:
        assert hits(filled) == before


def project_of_files(db: Database) -> int:
    with db.read() as connection:
        return connection.value("SELECT project_id FROM project_files")


def test_a_mutant_that_does_nothing_is_caught(filled, drifts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness above sees a mend that only says that it has mended."""
    next(drift for drift in drifts if drift.kind == "chunk_order").plant(filled)
    idle = Mend("chunk_order", "nothing", lambda db: ["nothing"])
    monkeypatch.setattr(mends, "FILES", tuple(idle if m.kind == "chunk_order" else m for m in mends.FILES))
    assert "chunk_order" in left_of(repair(filled.db))


def test_all_drifts_at_once_are_mended(filled, drifts) -> None:
    kept = written(filled.db)
    for drift in drifts:
        if not drift.stays:
            drift.plant(filled)
    repair(filled.db)
    filled.reopen()
    filled.__post_init__()
    filled.work(CONTENTS)
    repair(filled.db)
    filled.work(CONTENTS)
    assert verify(filled.db, deep=True) == []
    now = written(filled.db)
    assert now["messages"] == kept["messages"]
    assert now["project_files"][: len(kept["project_files"])] == kept["project_files"]


def test_a_sound_database_is_not_touched(filled) -> None:
    assert repair(filled.db) == Repaired([], [], None)
    assert list(filled.db.path.parent.glob("*before*")) == []


def test_the_copy_is_the_database_as_it_was_and_private(filled, drifts) -> None:
    next(drift for drift in drifts if drift.kind == "tags").plant(filled)
    copy = repair(filled.db).copy
    assert copy is not None
    assert copy == filled.db.path.with_name("test.db.before-repair")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    kept = connect(copy, readonly=True)
    assert kept.value("SELECT tags FROM project_memories LIMIT 1") == "red, blue"
    kept.close()


def test_what_cannot_be_read_is_kept_as_text(filled) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE messages SET content = 'hello [' WHERE pk = 1")
    raw.execute("UPDATE project_memories SET tags = 'red, blue'")
    raw.execute("UPDATE app_settings SET value = '{theme'")
    raw.execute("UPDATE projects SET settings = '{x'")
    raw.close()
    repair(filled.db)
    with filled.db.read() as db:
        first = db.value("SELECT id FROM messages WHERE pk = 1")
        assert messages.get(db, first).content == [{"type": "text", "text": "hello ["}]
        assert {tuple(m.tags) for m in memories.listed(db, filled.project).items} == {("red, blue",)}
        assert settings.get(db, "theme") == "{theme"
        assert projects.find(db, "shelf").settings == {"unreadable": "{x"}


def test_the_old_text_stays_searchable_until_the_file_is_read_again(filled, drifts) -> None:
    next(drift for drift in drifts if drift.kind == "chunk_text").plant(filled)
    repair(filled.db)
    assert filled.found("pink") == ["a"]
    assert filled.found("green") == ["a"]
    filled.work(CONTENTS)
    assert (filled.found("pink"), filled.found("red")) == ([], ["a"])


def test_a_file_that_is_gone_or_changed_is_named(shelf, tmp_path: Path) -> None:
    for name in ("here", "gone", "changed"):
        path = tmp_path / name
        path.write_text(f"word {name}")
        shelf.add(str(path)[1:], f"word {name}")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_text("other")
    with shelf.db.write() as db:
        db.run("DELETE FROM vector_bits")
    named = {left.kind: (left.detail.endswith(left.kind[5:]), left.count) for left in repair(shelf.db).left}
    assert named == {"file_gone": (True, 1), "file_changed": (True, 1)}


def test_a_failed_file_names_what_is_still_missing(filled) -> None:
    """A file that cannot be read again keeps its text, and the vector it lacks is a problem again."""
    with filled.db.write() as db:
        db.run("DELETE FROM vector_bits WHERE source = 'file'")
    repair(filled.db)
    assert verify(filled.db) == []
    for claim in filled.claim():
        with filled.db.write() as db:
            files.mark_unreadable(db, claim.pk, code="unreadable", message="gone")
    assert {problem.kind for problem in verify(filled.db)} == {"missing_vector"}
    assert filled.found("red") == ["a"]


def test_what_is_not_knowlex_s_is_left_and_the_rest_mended(filled) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE project_files SET chunk_count = 7; DROP INDEX idx_embedding_models_live")
    raw.execute("CREATE TRIGGER odd AFTER UPDATE ON app_settings BEGIN SELECT 1; END")
    raw.close()
    [left] = [each for each in repair(filled.db).left if each.kind != "file_gone"]
    assert (left.kind, left.remedy) == ("unknown_object", REMEDIES["unknown_object"])
    assert {problem.kind for problem in verify(filled.db, deep=True)} == {"unknown_object"}


def test_a_mend_that_fails_is_undone_alone(filled, drifts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one mend cannot do is left; what it did of it is undone, and the others are not."""

    def fail(db: Connection) -> list[str]:
        db.run("DELETE FROM project_memories")
        raise ValueError("odd")

    failing = Mend("tags", "nothing", fail)
    monkeypatch.setattr(mends, "FIRST", tuple(failing if m.kind == "tags" else m for m in mends.FIRST))
    for kind in ("tags", "chunk_order"):
        next(drift for drift in drifts if drift.kind == kind).plant(filled)
    assert left_of(repair(filled.db)) == {"tags"}
    assert filled.count("project_memories") == 2


def test_an_error_that_undoes_everything_ends_the_repair(filled, drifts, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mend goes on behind it, each statement in a transaction of its own."""

    def fail(db: Connection) -> list[str]:
        db.run("INSERT OR ROLLBACK INTO projects SELECT * FROM projects")
        return []

    for kind in ("tags", "generation", "text_stats"):
        next(drift for drift in drifts if drift.kind == kind).plant(filled)
    failing = Mend("generation", "nothing", fail)
    monkeypatch.setattr(mends, "THEN", tuple(failing if m.kind == "generation" else m for m in mends.THEN))
    before = verify(filled.db, deep=True)
    with filled.db.read() as db:
        seq = changes.last_seq(db)
    with pytest.raises(UniqueError):
        repair(filled.db)
    assert verify(filled.db, deep=True) == before
    with filled.db.read() as db:
        assert changes.last_seq(db) == seq


def test_an_added_chunk_outlives_repair_and_work(shelf, tmp_path: Path) -> None:
    """Its text is nowhere else; its vector is made again from it."""
    path = tmp_path / "a"
    path.write_text("red green")
    name = str(path)[1:]
    owner = shelf.add(name, "red green")
    with shelf.db.write() as db:
        [made] = chunks.add_many(db, owner.pk, shelf.model, shelf.words("handwritten"))
        db.run("DELETE FROM vector_bits WHERE source = 'file' AND pk = :pk", pk=made.pk)
    assert repair(shelf.db).left == []
    shelf.work({path.name: "red green"})
    with shelf.db.read() as db:
        assert [c.content for c in chunks.of_file(db, owner.pk)] == ["red", "green", "handwritten"]
        assert chunks.by_id(db, made.id).content == "handwritten"
    assert shelf.found("handwritten") == [path.name]
    assert verify(shelf.db, deep=True) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE file_chunks SET content = 'handwriting' WHERE content = 'handwritten'",
        "UPDATE file_chunks SET metadata = '{added' WHERE content = 'handwritten'",
        """UPDATE file_chunks SET metadata = '{"added": true}' WHERE content = 'handwritten'""",
        "DELETE FROM project_files WHERE filename = 'a'",
        "UPDATE file_chunks SET content = CAST(x'68616e64e9' AS TEXT) WHERE content = 'handwritten'",
        "UPDATE project_files SET duplicate_of = 2 WHERE filename = 'a'",
        "UPDATE project_files SET content_hash = c.content_hash FROM project_files c WHERE c.pk = 2",
    ],
)
def test_no_drift_costs_an_added_chunk(shelf, sql: str) -> None:
    contents = {"a": "red green", "c": "blue"}
    for name, content in contents.items():
        shelf.add(name, content)
    with shelf.db.write() as db:
        chunks.add_many(db, shelf.file("a").pk, shelf.model, shelf.words("handwritten"))
    raw = apsw.Connection(str(shelf.db.path))
    raw.execute(sql)
    raw.close()
    assert left_of(repair(shelf.db)) == set()
    shelf.work(contents)
    repair(shelf.db)
    shelf.work(contents)
    assert verify(shelf.db, deep=True) == []
    with shelf.db.read() as db:
        kept = {text for (text,) in db.all("SELECT content FROM file_chunks")}
    assert kept >= {"blue"}
    assert kept & {"handwritten", "handwriting", "hand\\xe9"}


@pytest.mark.parametrize("more", ["", "; DELETE FROM projects"], ids=["file", "project"])
def test_a_chunk_whose_file_is_lost_is_found_in_one_made_anew(shelf, more: str) -> None:
    """It is a failed file that says why; what was made of the lost one goes with it, and no second repair is needed."""
    lost = shelf.add("a", "red green")
    with shelf.db.write() as db:
        made = chunks.add(db, lost.pk, shelf.model, shelf.words("handwritten")[0])
    raw = apsw.Connection(str(shelf.db.path))
    raw.execute(f"DELETE FROM project_files{more}")
    raw.close()
    assert repair(shelf.db).left == []
    assert repair(shelf.db) == Repaired([], [], None)
    with shelf.db.read() as db:
        file = files.get(db, lost.pk)
        assert [(chunk.id, chunk.content) for chunk in chunks.of_file(db, file.pk)] == [(made.id, "handwritten")]
    assert (file.status, file.error_message) == ("failed", "its record was lost; these chunks were added to it")
    assert shelf.found("handwritten") == [file.filename]
    with shelf.db.write() as db:
        files.retry_failed(db, shelf.project, shelf.versions)
    [claim] = shelf.claim()
    with shelf.db.write() as db:
        files.mark_unreadable(db, claim.pk, code="unreadable", message="gone")
    assert shelf.found("handwritten") == [file.filename]
    assert verify(shelf.db, deep=True) == []


def test_a_lost_passage_is_read_again(filled) -> None:
    """The last chunk is gone: those that are left are numbered in order, and only their count tells."""
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("DELETE FROM file_chunks WHERE content = 'green'")
    raw.close()
    repair(filled.db)
    filled.work(CONTENTS)
    assert filled.found("green") == ["a"]
    assert verify(filled.db, deep=True) == []


def test_chunks_whose_metadata_was_lost_are_still_those_of_the_file(filled) -> None:
    """The file is read again, so that they go when it is edited."""
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE file_chunks SET metadata = ''")
    raw.close()
    repair(filled.db)
    filled.work(CONTENTS)
    filled.delete("b")
    filled.add("a", "pink")
    assert [filled.found(word) for word in ("pink", "red", "green")] == [["a"], [], []]


def parts_of(shelf, sql: str) -> list[dict[str, object]]:
    """Spoil a message of several parts, mend it twice and return what it says then."""
    said = [{"type": "text", "text": "café"}, {"type": "tool_call", "name": "find"}, {"type": "image_ref", "uri": "x"}]
    with shelf.db.write() as db:
        message = messages.add(db, conversations.create(db, "talk").id, "assistant", said)
    raw = apsw.Connection(str(shelf.db.path))
    raw.execute(sql)
    raw.close()
    assert {each.kind for each in repair(shelf.db).mended} & {"content", "encoding"}
    assert repair(shelf.db) == Repaired([], [], None)
    with shelf.db.read() as db:
        content = messages.get(db, message.id).content
        hits = text_index.search(db, Source.MESSAGE, "find", project_pk=None, limit=9)
    assert hits == []
    assert [part["type"] for part in content] == ["text", "tool_call", "image_ref"]
    return content


@pytest.mark.parametrize(
    ("spoilt", "part", "says"),
    [
        ("replace(CAST(content AS BLOB), x'c3a9', x'ff')", 0, {"text": "caf\\xff"}),
        ("replace(CAST(content AS BLOB), x'c3a9', x'eda080')", 0, {"text": "caf\\xed\\xa0\\x80"}),
        ("replace(content, 'é', '\\ud800')", 0, {"text": "caf\\ud800"}),
        ("""replace(content, '"find"', '"find","id":null,"a":NaN')""", 1, {"a": "NaN"}),
        ("""replace(content, '"find"', '"find","a":[-Infinity,1e999]')""", 1, {"a": ["-Infinity", "1e999"]}),
        ("""replace(content, '"find"', '"find","a":1' || hex(zeroblob(2500)))""", 1, {"a": "1" + 5000 * "0"}),
    ],
    ids=["byte", "half in bytes", "half", "NaN", "infinity", "digits"],
)
def test_parts_of_a_message_outlive_what_cannot_be_written_out(shelf, spoilt: str, part: int, says: dict) -> None:
    content = parts_of(shelf, f"UPDATE messages SET content = CAST({spoilt} AS TEXT)")
    assert {key: content[part][key] for key in says} == says


def test_odd_bytes_outside_a_json_string_are_kept_as_text(filled) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE messages SET content = CAST(x'5bff5d' AS TEXT) WHERE pk = 1")
    raw.close()
    repair(filled.db)
    with filled.db.read() as db:
        id = db.value("SELECT id FROM messages WHERE pk = 1")
        assert messages.get(db, id).content == [{"type": "text", "text": "[\\xff]"}]
    filled.work({})
    assert verify(filled.db, deep=True) == []


def test_a_conversation_of_no_project_has_lost_none(db: Database) -> None:
    """Not even where there is no project at all."""
    with db.write() as connection:
        conversations.create(connection, "aside")
        connection.run("INSERT INTO pending_vectors (source, pk) VALUES ('memory', 1)")
    assert [(mended.kind, mended.count) for mended in repair(db).mended] == [("pending_orphan", 1)]
    raw = apsw.Connection(str(db.path))
    raw.execute(
        "UPDATE conversations SET project_id = 99; INSERT INTO conversations SELECT 9, 'x', NULL, '', '{}', '', ''"
    )
    raw.close()
    assert [(mended.kind, mended.count) for mended in repair(db).mended] == [("reference", 1)]


def test_a_circle_loses_one_answer(shelf) -> None:
    with shelf.db.write() as db:
        talk = conversations.create(db, "round")
        said = [messages.add(db, talk.id, "user", word) for word in ("one", "two", "three", "four")]
        for message, parent in zip(said, (2, 3, 4, 1), strict=True):
            db.run("UPDATE messages SET parent_id = :parent WHERE pk = :pk", pk=message.pk, parent=parent)
    assert ("parent_cycle", 1) in {(mended.kind, mended.count) for mended in repair(shelf.db).mended}
    with shelf.db.read() as db:
        assert db.all("SELECT parent_id FROM messages ORDER BY pk") == [(None,), (3,), (4,), (1,)]


def test_a_path_says_again_what_its_bytes_say(shelf) -> None:
    """Bytes that are no UTF-8 are shown as they were; nobody may take them for drift."""
    with shelf.db.write() as db:
        seen = Seen(b"/caf\xe9/a", Fingerprint(1, 1, 1, 1), "1" * 64, "text/plain")
        files.register(db, shelf.project, seen, shelf.versions, scanned_ns=1)
    assert verify(shelf.db) == []
    with shelf.db.write() as db:
        shown = db.all("SELECT path, filename FROM project_files")
        db.run("UPDATE project_files SET path = '/else/b', filename = 'b'")
    assert [(mended.kind, mended.count) for mended in repair(shelf.db).mended] == [("path", 1)]
    with shelf.db.read() as db:
        assert db.all("SELECT path, filename FROM project_files") == shown


def test_odd_bytes_are_kept_as_text_that_says_them(filled) -> None:
    """Nothing is lost by a second repair, either."""
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE project_memories SET content = CAST(x'636166e9' AS TEXT) WHERE title = 'colour'")
    raw.close()
    for _ in range(2):
        repair(filled.db)
    with filled.db.read() as db:
        assert "caf\\xe9" in {m.content for m in memories.listed(db, filled.project).items}


def test_one_row_that_cannot_be_mended_keeps_no_other_from_it(filled) -> None:
    """Two projects that may not have one name, and a memory with the same kind of fault."""
    with filled.db.write() as db:
        projects.create(db, "caf\\xe9")
        projects.create(db, "other")
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE projects SET name = CAST(x'636166e9' AS TEXT) WHERE name = 'other'")
    raw.execute("UPDATE project_memories SET content = CAST(x'ff' AS TEXT) WHERE title = 'colour'")
    raw.close()
    repaired = repair(filled.db)
    assert ("encoding", 1) in {(mended.kind, mended.count) for mended in repaired.mended}
    assert {(left.kind, left.remedy) for left in repaired.left if left.kind not in REAL} == {
        ("encoding", REMEDIES["encoding"])
    }
    with filled.db.read() as db:
        assert "\\xff" in {m.content for m in memories.listed(db, filled.project).items}


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "database"])
def test_what_lies_in_place_of_a_queued_file_is_not_read(shelf, tmp_path: Path, kind: str) -> None:
    path = shelf.db.path if kind == "database" else tmp_path / "a"
    shelf.add(str(path)[1:], "red")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            pass
    with shelf.db.write() as db:
        db.run("DELETE FROM vector_bits")
    assert [(left.kind, left.count) for left in repair(shelf.db).left] == [("file_gone", 1)]


@pytest.mark.parametrize(("table", "column"), [("project_files", "metadata"), ("file_chunks", "metadata")])
def test_metadata_that_cannot_be_read_is_kept_as_text(filled, table: str, column: str) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute(f"UPDATE {table} SET {column} = '{{odd' WHERE pk = 1")
    raw.close()
    repair(filled.db)
    with filled.db.read() as db:
        assert json.loads(db.value(f"SELECT {column} FROM {table} WHERE pk = 1")) == {"unreadable": "{odd"}
    filled.work(CONTENTS)
    assert verify(filled.db, deep=True) == []


def test_damage_is_not_written_to(filled) -> None:
    ruin(filled, "project_memories")
    broken = filled.db.path.read_bytes()
    with Database.open(filled.db.path) as db:
        repaired = repair(db)
    assert (repaired.mended, repaired.copy) == ([], None)
    assert "damaged" in left_of(repaired)
    assert {left.remedy for left in repaired.left if left.kind == "damaged"} == {EXPORT}
    assert filled.db.path.read_bytes() == broken


DERIVED = [
    "idx_file_chunks_project", "sqlite_autoindex_messages_1", "chunk_fts_data", "message_fts_config", "text_rows",
    "vector_bits", "embeddings", "pending_vectors", "generations", "change_log",
]  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_pages_that_hold_only_what_is_derived_are_written_anew(filled, name: str) -> None:
    """Every row is as it was, vectors that are lost are made again, and who had it open has to start anew."""
    rows, found = written(filled.db), hits(filled)
    ruin(filled, name)
    other = Database.open(filled.db.path)
    with Database.open(filled.db.path) as db:
        repaired = repair(db)
    assert (repaired.mended[0].kind, left_of(repaired)) == ("damaged", set())
    assert repaired.copy is not None
    assert repaired.copy.name == "test.db.before-repair"
    with pytest.raises(ReplacedError), other.read():
        pass
    other.close()
    filled.db = Database.open(filled.db.path)
    assert written(filled.db) == rows
    with filled.db.read() as db:
        assert (db.value("PRAGMA journal_mode"), db.value("PRAGMA auto_vacuum")) == ("wal", 2)
    filled.work(CONTENTS)
    assert hits(filled) == found
    assert verify(filled.db, deep=True) == []


def test_all_that_is_kept_for_a_while_may_be_damaged_at_once(filled) -> None:
    """The notes of erasures were among it: that nobody knows of them any more is said, with what to do."""
    rows, found = written(filled.db), hits(filled)
    with filled.db.write() as db:
        erasures.note(db)
    for name in PASSING:
        ruin(filled, name)
        filled.db = Database.open(filled.db.path)
    repaired = repair(filled.db)
    assert [(left.kind, left.remedy) for left in repaired.left if left.kind not in REAL] == [("erasure", COPIES)]
    assert {"unembedded_memory", "generation"} & {mended.kind for mended in repaired.mended}
    filled.reopen()
    assert written(filled.db) == rows
    filled.work(CONTENTS)
    with filled.db.read() as db:
        assert (pending.count(db), erasures.notes(db)) == (0, [])
        assert changes.generation(db, filled.project) > 0
    assert hits(filled) == found
    assert verify(filled.db, deep=True) == []


def test_what_is_not_knowlex_s_is_not_lost_by_writing_anew(filled) -> None:
    with filled.db.unwrapped() as db:
        db.script("CREATE TABLE mine (x)")
    ruin(filled, "idx_file_chunks_project")
    with Database.open(filled.db.path) as db:
        assert {"damaged", "unknown_object"} <= left_of(repair(db))
        assert repair(db).copy is None


def ruin(shelf, name: str) -> None:
    """Close the database and overwrite the first page of a table or index."""
    with shelf.db.read() as db:
        root, size = db.one(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = :name", name=name
        )
    shelf.db.close()
    with shelf.db.path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


def test_another_process_reads_its_copies_anew(filled, drifts) -> None:
    """What a mirror keeps of vectors, and caches of a generation, are stale after a repair."""
    mirror = VectorMirror()
    part = vectors.Part(filled.model, filled.project, Source.FILE)
    with filled.db.read() as db:
        query = filled.words("red")[0].vector.bits
        before = mirror.nearest(db, part, query, 9)
        seq, generation = changes.last_seq(db), changes.generation(db, filled.project)
        version = text_index.part(db, Source.FILE, filled.project).version
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'change_log'; DELETE FROM vector_bits WHERE pk = 1")
    raw.execute("DELETE FROM text_stats")
    raw.close()
    repair(filled.db)
    with filled.db.read() as db:
        after = mirror.nearest(db, part, query, 9)
        assert changes.last_seq(db) >= seq + LEAP
        assert changes.generation(db, filled.project) > generation
        assert text_index.part(db, Source.FILE, filled.project).version > version
    assert (len(before), len(after)) == (3, 2)


def test_a_worker_loses_the_file_that_is_queued_again(filled) -> None:
    with filled.db.write() as db:
        db.run("UPDATE project_files SET status = 'failed', error_message = 'x' WHERE filename = 'c'")
        db.run("DELETE FROM vector_bits WHERE source = 'file'")
    repair(filled.db)
    assert {claim.filename for claim in filled.claim()} == {"a", "c"}


def test_a_batch_or_a_reader_cannot_repair(filled, drifts) -> None:
    next(drift for drift in drifts if drift.kind == "tags").plant(filled)
    with filled.db.batch(), pytest.raises(UsageError, match="end the batch first"):
        repair(filled.db)
    with Database.open(filled.db.path, readonly=True) as db, pytest.raises(ReadOnlyError, match="for writing"):
        repair(db)


def test_a_repair_that_is_killed_changes_nothing(filled, drifts) -> None:
    """Killed when all is mended and nothing committed, the database is as it was; the next repair mends it."""
    for kind in ("tags", "chunk_order", "generation", "text_stats"):
        next(drift for drift in drifts if drift.kind == kind).plant(filled)
    spoilt = {problem.kind for problem in verify(filled.db, deep=True)}
    code = """
        import os, signal, sys
        from storage import mends
        from storage.database import Database
        from storage.repair import repair
        mends.tell_others = lambda db: os.kill(os.getpid(), signal.SIGKILL)
        repair(Database.open(sys.argv[1]))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(filled.db.path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert {problem.kind for problem in verify(filled.db, deep=True)} == spoilt
    assert not left_of(repair(filled.db))
    assert verify(filled.db, deep=True) == []


def test_every_kind_that_may_be_left_has_a_remedy() -> None:
    assert set(REMEDIES) - set(REAL) <= KINDS


def test_messages_without_a_conversation_can_be_read_again(filled) -> None:
    raw = apsw.Connection(str(filled.db.path))
    raw.execute("UPDATE messages SET conversation_id = 99 WHERE pk <= 2")
    raw.close()
    repair(filled.db)
    with filled.db.read() as db:
        found = {c.title: c for c in conversations.listed(db).items}
        said = messages.every(db, found["recovered 99"].id)
    assert [m.content[0]["text"] for m in said] == ["hello there", "well met"]

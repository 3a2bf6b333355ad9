"""The schema goes up, down and up again, with data in every table, and never half a step."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import apsw
import pytest

from storage import conversations, files, memories, migrations, projects, settings, text_index
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import (
    ConstraintError,
    DatabaseError,
    DiskFullError,
    NewerSchemaError,
    NotADatabaseError,
    ReadOnlyError,
    UsageError,
)
from storage.files import Status
from storage.migrations import Migration, migrate
from storage.passage_tokens import Tokens
from storage.repair import repair
from storage.sources import Source
from storage.verify import verify

# One row for each table at least, those that others point at first.
ROWS = {
    "projects": "INSERT INTO projects VALUES (1, 'p', 'name', '', '{}', '', '')",
    "conversations": "INSERT INTO conversations VALUES (1, 'c', 1, 'title', '{}', '', '')",
    "messages": "INSERT INTO messages VALUES (1, 'm', 1, 'user', '[]', NULL, '', ''),"
    " (2, 'n', 1, 'tool', '[]', 1, '', '')",
    "project_files": "INSERT INTO project_files (pk, id, project_id, filename, path, path_bytes, duplicate_of,"
    " created_at, updated_at) VALUES"
    " (1, 'f', 1, 'a', '/a', x'61', NULL, '', ''), (2, 'g', 1, 'b', '/b', x'62', 1, '', '')",
    "file_chunks": "INSERT INTO file_chunks (pk, id, project_id, file_id, chunk_index, content, content_hash,"
    " token_count, char_start, char_end, created_at) VALUES (1, 'k', 1, 1, 0, 'text', x'00', 1, 0, 4, '')",
    "project_memories": "INSERT INTO project_memories VALUES (1, 'y', 1, 't', 'c', 'note', 5, '[]', '', '')",
    "app_settings": "INSERT INTO app_settings VALUES (1, 'key', '1', '', '')",
    "chunk_fts": "INSERT INTO chunk_fts (rowid, scope, heading, body) VALUES (1, 's', '', 'text')",
    "memory_fts": "INSERT INTO memory_fts (rowid, scope, heading, body) VALUES (1, 's', 't', 'c')",
    "message_fts": "INSERT INTO message_fts (rowid, scope, heading, body) VALUES (1, 's', '', 'hello')",
    "embedding_models": "INSERT INTO embedding_models VALUES"
    " (1, 'e', 'small', 'h', 8, 'mean', '', '', 'fp32', 'live', '', '')",
    "embeddings": "INSERT INTO embeddings VALUES (1, 1, x'00', zeroblob(16))",
    "vector_bits": "INSERT INTO vector_bits VALUES (1, 1, 'file', 1, x'00', 1)",
    "text_rows": "INSERT INTO text_rows VALUES ('file', 1, 1, 3)",
    "text_stats": "INSERT INTO text_stats VALUES ('file', 1, 1, 3, 1)",
    "pending_vectors": "INSERT INTO pending_vectors (source, pk) VALUES ('memory', 1)",
    "generations": "INSERT INTO generations VALUES (1, 5)",
    "change_log": "INSERT INTO change_log VALUES (1, 1, 1, 'file', 1, 'put')",
    "text_versions": "UPDATE text_versions SET version = version",
    "incarnation": "UPDATE incarnation SET value = value",
    "usage_counts": "INSERT INTO usage_counts VALUES ('2026-01-31', 1, 'hybrid', 3, 1, 20.5)",
    "growth_samples": "INSERT INTO growth_samples VALUES ('2026-01-31', 4096, 1, 1, 1, 1, 1, 1)",
    "maintenance": "INSERT INTO maintenance VALUES ('optimize', '')",
    "slow_queries": "INSERT INTO slow_queries VALUES (1, 'text', 1, 250.5, '')",
    "access_tokens": "INSERT INTO access_tokens VALUES (1, 't', 'agent', x'00', 0, 0, '', NULL, NULL)",
    "token_projects": "INSERT INTO token_projects VALUES (1, 1)",
    "ingestion_runs": "INSERT INTO ingestion_runs VALUES"
    " (1, 'r', 1, 'ingest', 'done', NULL, '', '', 1.5, 2, 0, 0, 0, 0, 2, 0, 2, 99, 3, 0, 3, 0.1, 0.2, 0.3, 0.4),"
    " (2, 's', NULL, 'work', 'failed', 'locked', '', '', 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)",
}


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Connection]:
    """A connection to an empty file."""
    connection = connect(tmp_path / "test.db")
    yield connection
    connection.close()


def schema(db: Connection) -> list[tuple[str, str, str]]:
    """Return everything the schema says, save the migrations' own table."""
    return db.all(
        "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name <> 'schema_migrations'"
        " ORDER BY type, name"
    )


def tables(db: Connection) -> list[str]:
    """Return the tables that are written to by name: not those behind a full-text table, nor its view of terms."""
    names = db.all(
        "SELECT name FROM pragma_table_list t JOIN sqlite_schema s USING (name) WHERE t.schema = 'main'"
        " AND t.type IN ('table', 'virtual') AND s.sql NOT LIKE '%fts5vocab%'"
        " AND name NOT LIKE 'sqlite_%' AND name <> 'schema_migrations'"
    )
    return sorted(name for (name,) in names)


def fill(db: Connection) -> None:
    """Put rows into every table there is."""
    there = tables(db)
    assert not set(there) - set(ROWS), "a table is new: give it a row in ROWS"
    for name, insert in ROWS.items():
        if name in there:
            db.run(insert)


def contents(db: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {name: db.all(f"SELECT rowid, * FROM {name}") for name in tables(db) if name in KEYED}


KEYED = {
    "projects",
    "conversations",
    "messages",
    "project_files",
    "file_chunks",
    "project_memories",
    "app_settings",
}


def sound(db: Connection) -> bool:
    return (
        db.all("PRAGMA foreign_key_check") == []
        and db.all("PRAGMA integrity_check") == [("ok",)]
        and db.value("PRAGMA foreign_keys") == 1
    )


def recorded(db: Connection) -> list[int]:
    return [version for (version,) in db.all("SELECT version FROM schema_migrations ORDER BY version")]


def step(number: int, up: str, down: str = "") -> Migration:
    return Migration(number, "a test", up, down)


def add_step(monkeypatch: pytest.MonkeyPatch, up: str, down: str = "") -> None:
    """Let this Knowlex know one migration more."""
    number = migrations.LATEST + 1
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, step(number, up, down)))
    monkeypatch.setattr(migrations, "LATEST", number)


def test_steps_are_numbered_without_a_gap_and_described() -> None:
    assert [step.version for step in migrations.MIGRATIONS] == list(range(1, migrations.LATEST + 1))
    assert all(step.description and step.up.strip() and step.down.strip() for step in migrations.MIGRATIONS)


def test_a_new_file_gets_every_step_and_is_marked_as_ours(bare: Connection) -> None:
    assert migrate(bare) == list(range(1, migrations.LATEST + 1))
    assert migrations.version(bare) == migrations.LATEST
    assert recorded(bare) == list(range(1, migrations.LATEST + 1))
    assert bare.value("PRAGMA application_id") == migrations.APPLICATION_ID
    assert sound(bare)
    assert migrate(bare) == []
    assert [path.name for path in bare.path.parent.iterdir() if "before" in path.name] == []


def test_every_step_down_restores_the_schema_before_it_with_data_in_every_table(bare: Connection) -> None:
    seen = {0: schema(bare)}
    for version in range(1, migrations.LATEST + 1):
        assert migrate(bare, version) == [version]
        seen[version] = schema(bare)
    fill(bare)
    for version in range(migrations.LATEST - 1, -1, -1):
        kept = {name: rows for name, rows in contents(bare).items() if name in str(seen[version])}
        assert migrate(bare, version) == [version]
        assert schema(bare) == seen[version]
        assert contents(bare) == kept
        assert recorded(bare) == list(range(1, version + 1))
        assert sound(bare)
    assert migrate(bare) == list(range(1, migrations.LATEST + 1))
    assert schema(bare) == seen[migrations.LATEST]
    fill(bare)
    assert sound(bare)


def test_up_after_down_keeps_what_the_step_did_not_touch(bare: Connection) -> None:
    migrate(bare)
    fill(bare)
    before = contents(bare)
    migrate(bare, 1)
    migrate(bare)
    assert contents(bare) == before
    assert sound(bare)


@pytest.mark.parametrize("target", [-1, migrations.LATEST + 1])
def test_an_unknown_version_is_refused(bare: Connection, target: int) -> None:
    with pytest.raises(UsageError, match=f"schema version {target}: there is none such; give 0 to {migrations.LATEST}"):
        migrate(bare, target)


def test_a_database_with_data_is_backed_up_first(db: Database) -> None:
    with db.write() as connection:
        fill(connection)
        before = contents(connection)
    db.migrate(1)
    copy = db.path.with_name(f"test.db.before-v{migrations.LATEST}")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in db.path.parent.iterdir() if "before" in path.name) == [copy.name]
    with Database.open(copy) as backup, backup.read() as connection:
        assert contents(connection) == before
        assert sound(connection)


def test_a_backup_that_cannot_be_written_stops_the_migration(small_disk: Path) -> None:
    with Database.open(small_disk / "test.db") as db:
        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 16_384))
        with pytest.raises(DiskFullError, match="no space left"):
            db.migrate(1)
        with db.read() as connection:
            assert migrations.version(connection) == migrations.LATEST
    assert not [path.name for path in small_disk.iterdir() if "before" in path.name or "scratch" in path.name]


def test_a_copy_made_before_is_never_replaced(db: Database) -> None:
    """Going down twice would else put a copy of the emptied database in the place of the full one."""
    with db.write() as connection:
        fill(connection)
        before = contents(connection)
    for _ in range(2):
        db.migrate(0)
        db.migrate()
    kept = db.path.with_name(f"test.db.before-v{migrations.LATEST}")
    with Database.open(kept) as backup, backup.read() as connection:
        assert contents(connection) == before
    assert kept.with_name(f"{kept.name}.2").exists()


def test_a_failing_step_leaves_no_trace(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(bare)
    before = schema(bare)
    add_step(monkeypatch, "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1)")
    with pytest.raises(DatabaseError, match="nowhere"):
        migrate(bare)
    assert schema(bare) == before
    assert migrations.version(bare) == migrations.LATEST - 1
    assert sound(bare)


def test_a_step_that_breaks_a_reference_is_undone(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(bare)
    fill(bare)
    before = contents(bare)
    add_step(monkeypatch, "DELETE FROM projects")
    with pytest.raises(ConstraintError, match="broken references"):
        migrate(bare)
    assert contents(bare) == before
    assert sound(bare)


def break_reference(db: Connection) -> None:
    """Another program, which checks no references, deletes a project."""
    db.script("PRAGMA foreign_keys = OFF; DELETE FROM projects; PRAGMA foreign_keys = ON")


@pytest.mark.parametrize("found", range(1, migrations.LATEST))
def test_references_that_were_broken_before_keep_nobody_out_and_are_mended(db: Database, found: int) -> None:
    with db.write() as connection:
        talk = conversations.create(connection, "of a project", project_pk=projects.create(connection, "gone").pk)
    db.migrate(found)
    db.close()
    other = connect(db.path)
    break_reference(other)
    other.close()
    with Database.open(db.path) as opened:
        assert db.path.with_name(f"test.db.before-v{found}").exists()
        assert [problem.kind for problem in verify(opened, deep=True)] == ["reference"]
        assert repair(opened).left == []
        with opened.read() as connection:
            assert conversations.get(connection, talk.id).title == "of a project"


def test_a_step_is_refused_for_what_it_breaks_alone(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(bare)
    fill(bare)
    break_reference(bare)
    add_step(monkeypatch, "DELETE FROM conversations")
    with pytest.raises(ConstraintError, match="leaves 2 broken references"):  # those of the messages
        migrate(bare)
    assert bare.value("SELECT count(*) FROM conversations") == 1


def test_only_a_try_that_changed_the_schema_leaves_a_copy(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that starts a server anew tries again and again."""
    migrate(bare)
    fill(bare)
    found = migrations.LATEST
    add_step(monkeypatch, "CREATE TABLE more (a)")
    add_step(monkeypatch, "DELETE FROM projects")
    for _ in range(3):
        with pytest.raises(ConstraintError):
            migrate(bare)
    assert migrations.version(bare) == found + 1
    assert [path.name for path in bare.path.parent.iterdir() if "before" in path.name] == [f"test.db.before-v{found}"]


def test_rebuilding_a_table_keeps_the_rows_that_point_at_it(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(bare)
    fill(bare)
    before = contents(bare)
    add_step(
        monkeypatch,
        "CREATE TABLE rebuilt (pk INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
        " name TEXT NOT NULL UNIQUE, description TEXT NOT NULL DEFAULT '', settings TEXT NOT NULL DEFAULT '{}',"
        " created_at TEXT NOT NULL, updated_at TEXT NOT NULL);"
        "INSERT INTO rebuilt SELECT * FROM projects; DROP TABLE projects; ALTER TABLE rebuilt RENAME TO projects;",
    )
    migrate(bare)
    assert contents(bare) == before
    assert sound(bare)
    bare.run("DELETE FROM projects")
    assert bare.value("SELECT count(*) FROM project_memories") == 0


def test_an_emptied_database_is_still_ours(tmp_path: Path) -> None:
    with Database.open(tmp_path / "a.db") as db:
        db.migrate(0)
    with Database.open(tmp_path / "a.db") as db, db.read() as connection:
        assert migrations.version(connection) == migrations.LATEST


def test_an_unmarked_file_with_tables_is_not_ours(bare: Connection) -> None:
    bare.script("CREATE TABLE t (a)")
    with pytest.raises(NotADatabaseError, match="another program"):
        migrations.require_ours(bare)


def open_together(path: Path, barrier: Barrier) -> None:
    barrier.wait()
    Database.open(path).close()


def test_the_schema_is_the_committed_one(bare: Connection) -> None:
    """docs/schema.sql shows what the steps add up to; after a change: KNOWLEX_TEST_WRITE_SCHEMA=1 make test."""
    migrate(bare)
    made = HEADER + migrations.schema_sql(bare)
    if os.environ.get("KNOWLEX_TEST_WRITE_SCHEMA"):
        SNAPSHOT.write_text(made, "utf8")
    assert SNAPSHOT.read_text("utf8") == made


HEADER = "-- The schema as all steps of storage/schema/ together make it; a test compares the two.\n\n"
OLD_DATABASES = sorted((Path(__file__).parents[1] / "data" / "databases").glob("*.db"))
SNAPSHOT = Path(__file__).parents[2] / "docs" / "schema.sql"


@pytest.mark.parametrize(
    "old", sorted((Path(__file__).parents[1] / "data" / "databases").glob("*.db")), ids=lambda p: p.stem
)
def test_an_old_database_is_brought_up_whole(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(old.read_bytes())
    with connect_raw(path) as raw:
        before = everything(raw)
        found = raw.execute("PRAGMA user_version").fetchone()[0]
    with Database.open(path) as database:
        assert verify(database, deep=True) == []
        with database.read() as db:
            assert contents(db) == {name: rows for name, rows in before.items() if name in KEYED}
            assert [f.filename for f in files.every(db, 1) if f.status is Status.READY] == [
                "one.txt", "copy.txt", "two.txt", "edited.txt",
            ]  # fmt: skip
            assert [hit for hit, _ in text_index.search(db, Source.FILE, "keeper", project_pk=1, limit=5)]
            assert [m.title for m in memories.listed(db, 1, order="importance").items] == ["Ferry", "Keeper"]
            assert settings.all(db) == {"theme": "dark", "window": {"width": 800}}
    assert path.with_name(f"old.db.before-v{found}").exists()
    with Database.open(path) as database:
        database.migrate(found)
    with connect_raw(path) as raw:
        assert everything(raw) == before


def everything(raw: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {name: raw.execute(f"SELECT rowid, * FROM {name}").fetchall() for name in sorted(KEYED)}


def test_a_text_index_of_another_tokenizer_is_made_anew_before_any_write(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(OLD_DATABASES[-1].read_bytes())
    with Database.open(path) as database, database.write() as db:
        text_index.clear(db, Source.FILE)
        db.run("UPDATE text_versions SET version = 0 WHERE source = 'file'")
    with Database.open(path) as database:
        assert verify(database, deep=True) == []


def test_a_database_of_an_older_tokenizer_is_searched_by_todays_rules(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(OLD_DATABASES[-1].read_bytes())
    with Database.open(path) as database, database.write() as db:
        kept = memories.add(db, 1, "Version", "Released v2.5.1 today")
        text_index.delete(db, Source.MEMORY, [kept.pk])
        text_index.put(db, Source.MEMORY, 1, [(kept.pk, Tokens("version", "releas v2 5 1 today v 2"))])
        db.run("UPDATE text_versions SET version = 2")
        assert text_index.search(db, Source.MEMORY, "2.5.1", project_pk=1, limit=5) == []
    with Database.open(path) as database:
        assert verify(database, deep=True) == []
        with database.read() as db:
            assert [pk for pk, _ in text_index.search(db, Source.MEMORY, "2.5.1", project_pk=1, limit=5)] == [kept.pk]


def test_a_process_of_another_tokenizer_stops_writing(db: Database) -> None:
    with connect_raw(db.path) as raw:
        raw.execute("UPDATE text_versions SET version = 99")
    with pytest.raises(NewerSchemaError, match="another version of Knowlex"), db.write():
        pass
    with pytest.raises(NewerSchemaError, match="another version of Knowlex"), db.read():
        pass
    with pytest.raises(NewerSchemaError, match="a newer Knowlex made its full text"):
        Database.open(db.path)


def test_a_text_index_of_another_tokenizer_is_not_searched_read_only(db: Database) -> None:
    with connect_raw(db.path) as raw:
        raw.execute("UPDATE text_versions SET version = 0")
    with pytest.raises(ReadOnlyError, match="must be made anew first"):
        Database.open(db.path, readonly=True)


def test_nobody_meets_a_part_of_a_new_schema(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did would take it for an older one, and keep a copy before going on."""
    record, seen = migrations._record, list[int]()

    def looked_at(*step: object, **way: object) -> None:
        record(*step, **way)  # type: ignore[arg-type]
        with connect_raw(bare.path) as other:
            seen.extend(*other.execute("PRAGMA user_version"))

    monkeypatch.setattr(migrations, "_record", looked_at)
    assert migrate(bare) == list(range(1, migrations.LATEST + 1))
    assert seen == [0] * migrations.LATEST
    with connect_raw(bare.path) as other:
        assert [*other.execute("PRAGMA user_version")] == [(migrations.LATEST,)]


def test_processes_that_bring_up_a_database_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database.open(path) as db:
        db.migrate(1)
    (tmp_path / f"a.db.before-v{migrations.LATEST}").unlink()
    with connect_raw(path) as raw:
        raw.execute(ROWS["projects"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "storage.database"])
    barrier = context.Barrier(3)
    children = [context.Process(target=open_together, args=(path, barrier)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    with Database.open(path) as db, db.read() as connection:
        assert recorded(connection) == list(range(1, migrations.LATEST + 1))
        assert sound(connection)
    with connect_raw(tmp_path / "a.db.before-v1") as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        assert raw.execute("SELECT name FROM projects").fetchall() == [("name",)]


def connect_raw(path: Path) -> apsw.Connection:
    """Open a database without our guards; used as a context it commits at the end of the block."""
    return apsw.Connection(os.fspath(path))

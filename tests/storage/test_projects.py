"""Projects: names, figures that are not multiplied, and a deletion that leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from storage import changes, conversations, memories, messages, pending, projects, text_index, tokens_ahead, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConstraintError, NotFoundError, UsageError
from storage.ids import new_id
from storage.passage_tokens import tokens_of
from storage.projects import Project, ProjectSummary, Removed
from storage.sources import NO_PROJECT, Source


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


def put_file(db: Connection, project: Project, name: str, size: int) -> int:
    db.run(
        "INSERT INTO project_files (id, project_id, filename, path, path_bytes, size, created_at, updated_at)"
        " VALUES (:id, :project, :name, :name, :bytes, :size, '', '')",
        id=new_id(),
        project=project.pk,
        name=name,
        bytes=name.encode(),
        size=size,
    )
    return db.last_pk()


def put_chunk(db: Connection, project: Project, file_pk: int, index: int, text: str) -> int:
    db.run(
        "INSERT INTO file_chunks (id, project_id, file_id, chunk_index, content, content_hash, token_count,"
        " char_start, char_end, created_at) VALUES (:id, :project, :file, :index, :text, x'00', 1, 0, 1, '')",
        id=new_id(),
        project=project.pk,
        file=file_pk,
        index=index,
        text=text,
    )
    pk = db.last_pk()
    text_index.put(db, Source.FILE, project.pk, [(pk, tokens_of(text))])
    return pk


def put_vector(db: Connection, project: Project, source: Source, pk: int, text: str) -> None:
    model = vectors.ensure_model(
        db,
        name="small",
        hash="h",
        dim=8,
        pooling="mean",
        query_prompt="",
        document_prompt="",
        precision="fp32",
    )
    unit = np.full((1, 8), 8**-0.5, np.float32)
    vectors.put(db, model.pk, project.pk, source, [(pk, vectors.input_hash(text), vectors.encode(unit)[0])])


def found(db: Connection, source: Source, query: str, project_pk: int | None) -> list[int]:
    return sorted(pk for pk, *_ in text_index.search(db, source, query, project_pk=project_pk, limit=10))


def scoped(db: Connection, source: Source, project_pk: int | None) -> int:
    """Count the rows of the text index that carry the token of a project."""
    table = text_index.TABLES[source]
    scope = f'scope:"{text_index.scope(project_pk)}"'
    return db.value(f"SELECT count(*) FROM {table} WHERE {table} MATCH :scope", scope=scope)


def rows(db: Connection, table: str) -> int:
    return db.value(f"SELECT count(*) FROM {table}")


def full_project(db: Connection, name: str) -> tuple[Project, str]:
    """Make a project with one of everything, all of it indexed; return it and its conversation's id."""
    project = projects.create(db, name)
    file_pk = put_file(db, project, "a.txt", 10)
    chunk_pk = put_chunk(db, project, file_pk, 0, "zebra chunk")
    put_vector(db, project, Source.FILE, chunk_pk, f"{name} chunk")
    memory = memories.add(db, project.pk, "zebra", "remembered")
    put_vector(db, project, Source.MEMORY, memory.pk, f"{name} memory")
    conversation = conversations.create(db, "talk", project_pk=project.pk)
    message = messages.add(db, conversation.id, "user", "zebra said")
    put_vector(db, project, Source.MESSAGE, message.pk, f"{name} message")
    return project, conversation.id


def test_what_stays_of_a_project_is_indexed_with_the_tokens_made_before(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.write() as tx:
        project, _ = full_project(tx, "a")
        said = projects.said(tx, project)
        assert [text for _, _, text in tokens_ahead.contents(tx, said)] == ['[{"type":"text","text":"zebra said"}]']
    monkeypatch.setattr(tokens_ahead, "tokens_of", lambda _: tokens_of("giraffe"))
    with tokens_ahead.made(db, said) as tokens, db.write() as tx:
        projects.delete(tx, project, tokens=tokens)
        assert len(text_index.search(tx, Source.MESSAGE, "giraffe", project_pk=NO_PROJECT, limit=9)) == 1


def test_a_new_project_is_found_by_id_and_by_name(tx: Connection) -> None:
    made = projects.create(tx, "Handbook", description="For all", settings={"k": [1, {"a": None}]})
    assert projects.get(tx, made.id) == made
    assert projects.by_name(tx, "Handbook") == made
    assert projects.find(tx, "Handbook") == projects.find(tx, made.id) == made
    assert made.settings == {"k": [1, {"a": None}]}
    assert made.created_at == made.updated_at


def test_a_name_that_is_taken_is_named_in_the_error(tx: Connection) -> None:
    projects.create(tx, "Handbook")
    with pytest.raises(ConstraintError, match="project Handbook: exists already; choose another name"):
        projects.create(tx, "Handbook")
    other = projects.create(tx, "Other")
    with pytest.raises(ConstraintError, match="project Handbook: exists already"):
        projects.update(tx, other.id, name="Handbook")


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "nul\0"])
def test_a_name_is_one_line_with_something_on_it(tx: Connection, name: str) -> None:
    with pytest.raises(UsageError, match="project name"):
        projects.create(tx, name)
    with pytest.raises(UsageError, match="project name"):
        projects.ensure(tx, name)


def test_a_name_may_be_in_any_script(tx: Connection) -> None:
    assert projects.create(tx, "研究\u3000計画").name == "研究\u3000計画"


def test_settings_must_be_a_json_object(tx: Connection) -> None:
    with pytest.raises(UsageError, match="settings"):
        projects.create(tx, "a", settings={"x": float("nan")})
    with pytest.raises(UsageError, match="give a JSON object"):
        projects.create(tx, "a", settings=[1])  # pyright: ignore[reportArgumentType]


def test_ensure_makes_a_project_once(tx: Connection) -> None:
    made = projects.ensure(tx, "a")
    assert projects.ensure(tx, "a") == made
    assert rows(tx, "projects") == 1


def test_what_does_not_exist_is_named(tx: Connection) -> None:
    with pytest.raises(NotFoundError, match="no project named X; list them with knowlex project list"):
        projects.find(tx, "X")
    with pytest.raises(NotFoundError, match="X"):
        projects.get(tx, "X")
    with pytest.raises(NotFoundError, match="X"):
        projects.update(tx, "X", name="a")
    assert projects.by_name(tx, "X") is None


def test_an_id_wins_over_a_name_that_looks_like_it(tx: Connection) -> None:
    first = projects.create(tx, "first")
    projects.create(tx, first.id)
    assert projects.find(tx, first.id) == first


def test_an_update_changes_what_is_given(tx: Connection) -> None:
    made = projects.create(tx, "a", description="d", settings={"k": 1})
    renamed = projects.update(tx, made.id, name="b")
    assert (renamed.name, renamed.description, renamed.settings) == ("b", "d", {"k": 1})
    changed = projects.update(tx, made.id, description="", settings={})
    assert (changed.name, changed.description, changed.settings) == ("b", "", {})
    assert projects.update(tx, made.id, name="b").name == "b"


def test_figures_are_not_multiplied_by_each_other(tx: Connection) -> None:
    project = projects.create(tx, "a")
    for number in range(3):
        put_file(tx, project, f"{number}.txt", 100)
    for _ in range(2):
        conversation = conversations.create(tx, "t", project_pk=project.pk)
        for _ in range(4):
            messages.add(tx, conversation.id, "user", "x")
    for _ in range(5):
        memories.add(tx, project.pk, "t", "c")
    empty = projects.create(tx, "b")
    expected = ProjectSummary(project, 2, 8, 3, 300, 5)
    assert projects.summary(tx, project) == expected
    assert projects.listed(tx).items == [ProjectSummary(empty, 0, 0, 0, 0, 0), expected]


def test_a_list_is_paged_by_key(tx: Connection) -> None:
    names = [projects.create(tx, f"p{number}").name for number in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = projects.listed(tx, limit=3, after=after)
        seen += [item.project.name for item in page.items]
        if page.next is None:
            break
        after = page.next
        projects.create(tx, f"late {after[-6:]}{len(seen)}")  # comes before the cursor: neither skips nor repeats
    assert seen == names[::-1]


def test_a_page_is_read_like_a_list(tx: Connection) -> None:
    projects.create(tx, "a")
    page = projects.listed(tx)
    assert [item.project.name for item in page] == ["a"]
    assert len(page) == 1
    assert not projects.listed(tx, after=None, limit=1).next


def test_a_page_that_ends_the_list_says_so(tx: Connection) -> None:
    projects.create(tx, "a")
    assert projects.listed(tx, limit=1).next is None
    assert projects.listed(tx).next is None


@pytest.mark.parametrize("after", ["", "x", "WzEsIDJd", "WyJhIiwgdHJ1ZV0=", "é", "W10=", "WyJhIiwgMWUzMF0="])
def test_a_cursor_from_elsewhere_is_refused(tx: Connection, after: str) -> None:
    with pytest.raises(UsageError, match="is no cursor of this list"):
        projects.listed(tx, after=after)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range_is_refused(tx: Connection, limit: int) -> None:
    with pytest.raises(UsageError, match=f"limit {limit}"):
        projects.listed(tx, limit=limit)


def test_deleting_leaves_nothing_but_the_conversations(tx: Connection) -> None:
    project, conversation_id = full_project(tx, "gone")
    [message] = messages.every(tx, conversation_id)
    before = changes.generation(tx, project.pk)
    removed = projects.delete(tx, project)

    assert removed == Removed(files=1, chunks=1, memories=1, conversations=0, messages=0)
    for table in ("projects", "project_files", "file_chunks", "project_memories", "chunk_fts", "memory_fts"):
        assert rows(tx, table) == 0, table
    assert conversations.get(tx, conversation_id).project_id is None
    assert found(tx, Source.MESSAGE, "zebra", None) == [message.pk]
    assert scoped(tx, Source.MESSAGE, project.pk) == 0
    assert scoped(tx, Source.MESSAGE, None) == 1
    assert tx.all("SELECT project, source, pk FROM vector_bits") == [(NO_PROJECT, "message", message.pk)]
    assert rows(tx, "embeddings") == 1
    assert [(row.source, row.pk, row.project_pk) for row in pending.take(tx, 10)] == [
        (Source.MESSAGE, message.pk, None)
    ]
    assert changes.generation(tx, project.pk) == before + 1
    assert changes.generation(tx, None) == 1


def test_deleting_with_conversations_leaves_nothing_at_all(tx: Connection) -> None:
    project, _ = full_project(tx, "gone")
    removed = projects.delete(tx, project, with_conversations=True)
    assert removed == Removed(files=1, chunks=1, memories=1, conversations=1, messages=1)
    for table in (
        *("projects", "project_files", "file_chunks", "project_memories", "conversations", "messages"),
        *("chunk_fts", "memory_fts", "message_fts", "vector_bits", "embeddings", "pending_vectors"),
    ):
        assert rows(tx, table) == 0, table


def test_deleting_touches_no_other_project(tx: Connection) -> None:
    kept, kept_conversation = full_project(tx, "kept")
    gone, _ = full_project(tx, "gone")
    generation = changes.generation(tx, kept.pk)
    projects.delete(tx, gone, with_conversations=True)

    summary = projects.summary(tx, kept)
    assert (summary.conversation_count, summary.message_count, summary.file_count) == (1, 1, 1)
    for source in Source:
        assert len(found(tx, source, "zebra", kept.pk)) == 1
    assert tx.value("SELECT count(*) FROM vector_bits WHERE project = :pk", pk=kept.pk) == 3
    assert rows(tx, "embeddings") == 3
    assert changes.generation(tx, kept.pk) == generation
    assert conversations.get(tx, kept_conversation).project_id == kept.id


def test_duplicates_and_those_that_wait_go_with_their_project(tx: Connection) -> None:
    project = projects.create(tx, "a")
    owner = put_file(tx, project, "a.txt", 1)
    for name, column in (("b.txt", "duplicate_of"), ("c.txt", "waiting_for")):
        pk = put_file(tx, project, name, 1)
        tx.run(f"UPDATE project_files SET {column} = :owner WHERE pk = :pk", owner=owner, pk=pk)
    assert projects.delete(tx, project).files == 3
    assert rows(tx, "project_files") == 0


def test_a_project_deleted_meanwhile_is_not_found(tx: Connection) -> None:
    project = projects.create(tx, "a")
    projects.delete(tx, project)
    with pytest.raises(NotFoundError):
        projects.delete(tx, project)
    with pytest.raises(NotFoundError, match="no project named a"):
        projects.summary(tx, project)
    with pytest.raises(NotFoundError, match="project"):
        memories.add(tx, project.pk, "t", "c")
    with pytest.raises(NotFoundError, match="project"):
        conversations.create(tx, "t", project_pk=project.pk)


def test_only_some_projects_are_listed_a_page_at_a_time(tx: Connection) -> None:
    made = [projects.create(tx, f"p{number}") for number in range(5)]
    wanted = projects.pks_of(tx, [made[0].id, made[2].id, made[4].id, "nobody"])
    assert sorted(wanted) == [made[number].pk for number in (0, 2, 4)]
    first = projects.listed(tx, pks=wanted, limit=2)
    rest = projects.listed(tx, pks=wanted, limit=2, after=first.next)
    assert [found.project.name for found in (*first, *rest)] == ["p4", "p2", "p0"]
    assert (rest.next, projects.listed(tx, pks=[]).items) == (None, [])

"""Conversations: lists, last words, and the index that follows them from project to project."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from storage import changes, conversations, messages, pending, projects, text_index, tokens_ahead, vectors
from storage.connection import Connection
from storage.conversations import Conversation
from storage.database import Database
from storage.errors import NotFoundError, UniqueError, UsageError
from storage.passage_tokens import tokens_of
from storage.sources import NO_PROJECT, Source
from storage.tokens_ahead import TokensAhead


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


def put_vector(db: Connection, project_pk: int | None, pk: int) -> None:
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
    vectors.put(db, model.pk, project_pk, Source.MESSAGE, [(pk, bytes(32), vectors.encode(unit)[0])])


def search(db: Connection, query: str, project_pk: int | None) -> list[int]:
    hits = text_index.search(db, Source.MESSAGE, query, project_pk=project_pk, limit=10)
    return sorted(pk for pk, *_ in hits)


def titles(items: list[Conversation]) -> list[str]:
    return [item.title for item in items]


def test_a_new_conversation_is_kept_as_given(tx: Connection) -> None:
    project = projects.create(tx, "a")
    made = conversations.create(tx, "Plan", project_pk=project.pk, settings={"temperature": 0.5})
    assert conversations.get(tx, made.id) == made
    assert (made.project_pk, made.project_id) == (project.pk, project.id)
    assert (made.title, made.settings, made.message_count) == ("Plan", {"temperature": 0.5}, 0)


def test_a_conversation_needs_no_project(tx: Connection) -> None:
    made = conversations.create(tx, "Plan")
    assert (made.project_pk, made.project_id) == (None, None)


def test_an_imported_conversation_keeps_its_time(tx: Connection) -> None:
    made = conversations.create(tx, "Old", created_at="2021-03-04T05:06:07+02:00")
    assert made.created_at == made.updated_at == "2021-03-04T03:06:07.000Z"
    messages.add(tx, made.id, "user", "hello", created_at="2021-03-05T00:00:00Z")
    assert conversations.get(tx, made.id).updated_at == "2021-03-05T00:00:00.000Z"


@pytest.mark.parametrize("time", ["yesterday", "2021-03-04T05:06:07", "0001-01-01T00:00:00+14:00", 5])
def test_a_time_that_is_none_is_refused(tx: Connection, time: str) -> None:
    with pytest.raises(UsageError, match="created_at"):
        conversations.create(tx, "Old", created_at=time)


def test_what_does_not_exist_is_named(tx: Connection) -> None:
    for call in (conversations.get, conversations.with_messages, conversations.delete, messages.every):
        with pytest.raises(NotFoundError, match="conversation X: no such conversation"):
            call(tx, "X")
    with pytest.raises(NotFoundError, match="X"):
        conversations.update(tx, "X", title="a")
    with pytest.raises(NotFoundError, match="X"):
        conversations.move(tx, "X", None)


def test_with_messages_gives_them_in_order(tx: Connection) -> None:
    made = conversations.create(tx, "t")
    said = [messages.add(tx, made.id, "user", str(number)) for number in range(5)]
    whole = conversations.with_messages(tx, made.id)
    assert whole.messages == said
    assert whole.conversation.message_count == 5


def test_lists_are_of_one_project_of_none_or_of_all(tx: Connection) -> None:
    first, second = projects.create(tx, "a"), projects.create(tx, "b")
    conversations.create(tx, "in a", project_pk=first.pk)
    conversations.create(tx, "in b", project_pk=second.pk)
    conversations.create(tx, "in none")
    assert titles(conversations.listed(tx).items) == ["in none", "in b", "in a"]
    assert titles(conversations.listed(tx, project_pk=first.pk).items) == ["in a"]
    assert titles(conversations.listed(tx, project_pk=NO_PROJECT).items) == ["in none"]


def test_the_last_updated_comes_first_with_its_count(tx: Connection) -> None:
    first = conversations.create(tx, "first", created_at="2024-01-01T00:00:00Z")
    conversations.create(tx, "second", created_at="2024-01-02T00:00:00Z")
    messages.add(tx, first.id, "user", "x")
    messages.add(tx, first.id, "assistant", "y")
    items = conversations.listed(tx).items
    assert [(item.title, item.message_count) for item in items] == [("first", 2), ("second", 0)]


def test_a_list_is_paged_by_key_also_where_times_are_equal(tx: Connection) -> None:
    for number in range(7):
        conversations.create(tx, str(number), created_at="2024-01-01T00:00:00Z")
    seen: list[str] = []
    page = conversations.listed(tx, limit=3)
    while page.next is not None:
        seen += titles(page.items)
        page = conversations.listed(tx, limit=3, after=page.next)
    assert seen + titles(page.items) == ["6", "5", "4", "3", "2", "1", "0"]


def test_a_summary_shows_the_text_of_the_last_message(tx: Connection) -> None:
    silent = conversations.create(tx, "silent", created_at="2024-01-01T00:00:00Z")
    made = conversations.create(tx, "talk")
    messages.add(tx, made.id, "user", "first")
    last = messages.add(
        tx,
        made.id,
        "assistant",
        [{"type": "image_ref", "path": "x.png"}, {"type": "text", "text": "é" * 150}],
    )
    page = conversations.summaries(tx, limit=1)
    [summary] = page.items
    assert summary.conversation == conversations.get(tx, made.id)
    assert summary.last_message_at == last.created_at
    assert summary.last_message_preview == "é" * 100
    [summary] = conversations.summaries(tx, limit=1, after=page.next).items
    assert summary.conversation == silent
    assert (summary.last_message_at, summary.last_message_preview) == (None, None)


def test_a_summary_never_shows_json(tx: Connection) -> None:
    made = conversations.create(tx, "talk")
    messages.add(tx, made.id, "tool", [{"type": "tool_result", "content": "secret"}])
    assert conversations.summaries(tx).items[0].last_message_preview == ""


def test_a_preview_is_one_line(tx: Connection) -> None:
    made = conversations.create(tx, "talk")
    messages.add(tx, made.id, "user", "  two\n\nlines\tand  more " + "x" * 200)
    preview = conversations.summaries(tx).items[0].last_message_preview
    assert preview == ("two lines and more " + "x" * 200)[:100]


def test_lists_name_the_project(tx: Connection) -> None:
    project = projects.create(tx, "a")
    conversations.create(tx, "loose")
    made = conversations.create(tx, "in a", project_pk=project.pk)
    assert made.project_name == "a"
    assert [item.project_name for item in conversations.listed(tx).items] == ["a", None]


def test_an_imported_conversation_keeps_its_id(tx: Connection) -> None:
    made = conversations.create(tx, "t", id="c-1", created_at="2021-03-04T00:00:00Z", updated_at="2021-03-05T00:00:00Z")
    assert (made.id, made.updated_at) == ("c-1", "2021-03-05T00:00:00.000Z")
    assert conversations.find(tx, "c-1") == made
    assert conversations.find(tx, "c-2") is None
    with pytest.raises(UniqueError):
        conversations.create(tx, "t", id="c-1")


def test_conversations_are_read_in_the_order_they_came(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    project = projects.create(tx, "a")
    owners = [None, project.pk, project.pk, None]
    for number, owner in enumerate(owners):
        conversations.create(tx, str(number), project_pk=owner, created_at=f"2024-01-0{9 - number}T00:00:00Z")
    for at_once in (conversations.READ_AT_ONCE, 3, 1):
        monkeypatch.setattr(conversations, "READ_AT_ONCE", at_once)
        assert titles(list(conversations.made(tx))) == ["0", "1", "2", "3"]
        assert titles(list(conversations.made(tx, project_pk=project.pk))) == ["1", "2"]
        assert titles(list(conversations.made(tx, project_pk=NO_PROJECT))) == ["0", "3"]


def test_only_keys_are_read_at_once(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "READ_AT_ONCE", 2)
    project = projects.create(tx, "a")
    for number in range(6):
        conversations.create(tx, str(number), project_pk=project.pk)
    steps: list[str] = []
    tx.raw.exec_trace = lambda cursor, sql, values: steps.append(sql) or True
    try:
        assert len(list(conversations.made(tx, project_pk=project.pk))) == 6
    finally:
        tx.raw.exec_trace = None
    assert ["project_id = :project" in sql for sql in steps] == [True, False, False, False]


def test_an_update_changes_what_is_given(tx: Connection) -> None:
    made = conversations.create(tx, "t", settings={"k": 1}, created_at="2024-01-01T00:00:00Z")
    renamed = conversations.update(tx, made.id, title="u")
    assert (renamed.title, renamed.settings) == ("u", {"k": 1})
    assert renamed.updated_at > made.updated_at
    assert conversations.update(tx, made.id, settings={}).settings == {}


def test_a_moved_conversation_is_found_in_its_new_project_without_embedding_again(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = projects.create(tx, "a"), projects.create(tx, "b")
    made = conversations.create(tx, "t", project_pk=first.pk)
    said = messages.add(tx, made.id, "user", "zebra")
    put_vector(tx, first.pk, said.pk)
    pending.done(tx, Source.MESSAGE, [said.pk])
    generations = [changes.generation(tx, pk) for pk in (first.pk, second.pk)]

    moved = conversations.move(tx, made.id, second.pk)
    assert moved.project_id == second.id
    assert search(tx, "zebra", first.pk) == []
    assert search(tx, "zebra", second.pk) == [said.pk]
    assert tx.all("SELECT project, pk FROM vector_bits") == [(second.pk, said.pk)]
    assert tx.value("SELECT count(*) FROM embeddings") == 1
    assert pending.count(tx) == 0
    assert [changes.generation(tx, pk) for pk in (first.pk, second.pk)] == [n + 1 for n in generations]

    told = tokens_ahead.contents(tx, conversations.said(tx, made.id))
    assert [tokens_ahead.text(id, content) for _, id, content in told] == ["zebra"]
    monkeypatch.setattr(tokens_ahead, "tokens_of", lambda _: tokens_of("giraffe"))
    gone = [(said.pk + by, *told[0][1:]) for by in (-1, 1)]
    prepared = TokensAhead(tokens_ahead.lines(sorted([*told, *gone])))
    assert conversations.move(tx, made.id, None, tokens=prepared).project_id is None
    assert search(tx, "giraffe", NO_PROJECT) == [said.pk], "what was made before the transaction is not made again"
    assert tx.all("SELECT project, pk FROM vector_bits") == [(NO_PROJECT, said.pk)]
    assert conversations.move(tx, made.id, None) == conversations.get(tx, made.id)
    with pytest.raises(NotFoundError, match="project"):
        conversations.move(tx, made.id, 99)


def test_deleting_leaves_nothing_of_its_messages(tx: Connection) -> None:
    project = projects.create(tx, "a")
    kept = conversations.create(tx, "kept", project_pk=project.pk)
    other = messages.add(tx, kept.id, "user", "zebra stays")
    gone = conversations.create(tx, "gone", project_pk=project.pk)
    question = messages.add(tx, gone.id, "user", "zebra")
    messages.add(tx, gone.id, "assistant", "zebra again", parent_id=question.id)
    put_vector(tx, project.pk, question.pk)
    generation = changes.generation(tx, project.pk)

    conversations.delete(tx, gone.id)
    assert search(tx, "zebra", project.pk) == [other.pk]
    assert tx.value("SELECT count(*) FROM message_fts") == 1
    assert tx.value("SELECT count(*) FROM messages") == 1
    assert tx.value("SELECT count(*) FROM vector_bits") == 0
    assert tx.value("SELECT count(*) FROM embeddings") == 0
    assert [row.pk for row in pending.take(tx, 10)] == [other.pk]
    assert changes.generation(tx, project.pk) == generation + 1
    with pytest.raises(NotFoundError):
        conversations.get(tx, gone.id)


def test_only_those_of_some_projects_are_listed(tx: Connection) -> None:
    pks = [projects.create(tx, name).pk for name in ("a", "b", "c")]
    made = [conversations.create(tx, f"talk {pk}", project_pk=pk).id for pk in pks]
    conversations.create(tx, "of none")
    for listed in (conversations.listed, conversations.summaries):
        first = listed(tx, among=[pks[0], pks[2]], limit=1)
        rest = listed(tx, among=[pks[0], pks[2]], limit=1, after=first.next)
        ids = [getattr(found, "conversation", found).id for found in (*first, *rest)]
        assert (ids, rest.next) == ([made[2], made[0]], None)
        assert listed(tx, among=[]).items == []
        assert listed(tx, project_pk=pks[1], among=[pks[0]]).items == []

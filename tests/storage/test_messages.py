"""Messages: their parts, what is searched of them, and answers that survive what they answer."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from knowlex import Knowlex
from storage import changes, content, conversations, messages, pending, projects, text_index, tokens_ahead, vectors
from storage.connection import Connection
from storage.conversations import Conversation
from storage.database import Database
from storage.errors import NotFoundError, UniqueError, UsageError
from storage.messages import Role
from storage.paging import Page
from storage.passage_tokens import Tokens, tokens_of
from storage.pending import Pending
from storage.sources import NO_PROJECT, Source
from storage.verify import verify


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


@pytest.fixture
def talk(tx: Connection) -> Conversation:
    """An empty conversation in a project."""
    project = projects.create(tx, "a")
    return conversations.create(tx, "talk", project_pk=project.pk, created_at="2024-01-01T00:00:00Z")


def search(db: Connection, query: str) -> list[int]:
    return sorted(pk for pk, *_ in text_index.search(db, Source.MESSAGE, query, project_pk=None, limit=10))


def put_vector(db: Connection, talk: Conversation, pk: int, text: str) -> None:
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
    vector = vectors.encode(np.full((1, 8), 8**-0.5, np.float32))[0]
    vectors.put(db, model.pk, talk.project_pk, Source.MESSAGE, [(pk, vectors.input_hash(text), vector)])


ALL_PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "Look at the picture"},
    {"type": "image_ref", "path": "cat.png"},
    {"type": "tool_call", "id": "1", "name": "lookup", "arguments": {"weight": 4.5, "deep": [None, True]}},
    {"type": "tool_result", "tool_call_id": "1", "content": {"animal": "gnu"}},
    {"type": "text", "text": "and tell"},
]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
@effort(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_neighbours_are_those_said_right_before_and_behind(db: Database, said: list[tuple[bool, int]]) -> None:
    with db.write() as tx:
        talks = [conversations.create(tx, "talk", created_at="2024-01-01T00:00:00Z") for _ in range(2)]
        placed = [
            (
                which,
                minute,
                messages.add(tx, talks[which].id, "user", "x", created_at=f"2024-01-01T00:0{minute}:00Z").pk,
            )
            for which, minute in said
        ]
        in_order = sorted(placed)
        expected: dict[int, list[int]] = {pk: [] for _, _, pk in placed}
        for (left, _, before), (right, _, behind) in pairwise(in_order):
            if left == right:
                expected[behind].append(before)
                expected[before].append(behind)
        assert messages.neighbours(tx, [pk for _, _, pk in placed]) == expected


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_every_role_speaks(tx: Connection, talk: Conversation, role: str) -> None:
    message = messages.add(tx, talk.id, role, "hello")
    assert message.role == Role(role)
    assert messages.get(tx, message.id) == message


def test_another_role_is_refused(tx: Connection, talk: Conversation) -> None:
    with pytest.raises(UsageError, match="role: 'robot' is unknown; give one of user, assistant, system, tool"):
        messages.add(tx, talk.id, "robot", "hello")


def test_plain_text_is_one_text_part(tx: Connection, talk: Conversation) -> None:
    assert messages.add(tx, talk.id, "user", "hello").content == [{"type": "text", "text": "hello"}]


def test_parts_are_kept_as_given(tx: Connection, talk: Conversation) -> None:
    assert messages.add(tx, talk.id, "user", ALL_PARTS).content == ALL_PARTS


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([], "holds no parts"),
        (None, "holds no parts"),
        ({"type": "text", "text": "x"}, "holds no parts"),
        (["x"], "content part 1: is a text"),
        ([{"text": "x"}], "content part 1: type None is unknown"),
        ([{"type": "video"}], "type 'video' is unknown; give one of text, image_ref, tool_call, tool_result"),
        ([{"type": "text", "text": "x"}, {"type": "text"}], "content part 2: a text part needs `text`"),
        ([{"type": "text", "text": 5}], "a text part needs `text`"),
        ([{"type": "tool_call", "name": ""}], "a tool_call needs `name`"),
        ([{"type": "image_ref"}], "image_ref needs a field besides its type, such as `uri`, `path` or"),
        ([{"type": "image_ref", "width": 5}], "an image_ref needs a field that says where the image is"),
        ([{"type": "image_ref", "uri": ""}], "an image_ref needs a field that says where the image is"),
        ([{"type": "tool_call", "name": "f", "id": 5}], "content part 1: `id` is a number; give a string"),
        ([{"type": "tool_result"}], "tool_result needs a field besides its type, such as `content`,"),
        ([{"type": "tool_result", "tool_call_id": 1}], "`tool_call_id` is a number; give a string"),
        ([{"type": "tool_result", "content": b"x"}], "cannot be kept as JSON"),
        ([{"type": "tool_result", "content": float("inf")}], "cannot be kept as JSON"),
    ],
)
def test_a_faulty_part_is_named(tx: Connection, talk: Conversation, parts: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        messages.add(tx, talk.id, "user", parts)
    assert messages.every(tx, talk.id) == []


def test_half_a_character_is_refused(tx: Connection, talk: Conversation) -> None:
    with pytest.raises(UsageError, match="Unicode"):
        messages.add(tx, talk.id, "user", "\ud83d")


def test_only_the_text_of_text_parts_is_searched(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", ALL_PARTS)
    assert search(tx, "picture") == search(tx, "tell") == [message.pk]
    for word in (
        "type",
        "text",
        "image_ref",
        "path",
        "cat",
        "tool_call",
        "name",
        "lookup",
        "arguments",
        "weight",
    ):
        assert search(tx, word) == [], word
    for word in ("tool_result", "content", "animal", "gnu", "null", "true", "{", '"', "[", "4.5"):
        assert search(tx, word) == [], word


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_the_text_is_that_of_the_text_parts_and_nothing_else(texts: list[str]) -> None:
    parts: list[dict[str, Any]] = []
    for text in texts:
        parts += [{"type": "text", "text": text}, {"type": "tool_result", "content": "no"}]
    assert content.text_of(content.parts(parts)) == "\n".join(texts)


def test_a_message_is_found_at_once_and_waits_for_its_vector(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", ALL_PARTS)
    assert search(tx, "picture") == [message.pk]
    text = "Look at the picture\nand tell"
    assert pending.take(tx, 10) == [Pending(Source.MESSAGE, message.id, message.pk, talk.project_pk, text)]


def test_a_message_without_text_is_not_indexed(tx: Connection, talk: Conversation) -> None:
    messages.add(tx, talk.id, "tool", [{"type": "tool_result", "content": "x"}])
    messages.add(tx, talk.id, "user", "  ")
    assert pending.take(tx, 10) == []
    assert tx.value("SELECT count(*) FROM message_fts") == 0


def test_adding_updates_the_conversation_in_the_same_transaction(db: Database) -> None:
    with db.write() as tx:
        talk = conversations.create(tx, "t", created_at="2024-01-01T00:00:00Z")
    with db.write() as tx:
        messages.add(tx, talk.id, "user", "hello")
        assert conversations.get(tx, talk.id).updated_at > talk.updated_at
        tx.script("ROLLBACK; BEGIN")
    with db.read() as tx:
        assert conversations.get(tx, talk.id) == talk
        assert search(tx, "hello") == []
        assert pending.take(tx, 10) == []
    with db.write() as tx:
        message = messages.add(tx, talk.id, "user", "hello")
        assert conversations.get(tx, talk.id).updated_at == message.created_at


def test_an_imported_old_message_does_not_set_the_conversation_back(tx: Connection, talk: Conversation) -> None:
    old = messages.add(tx, talk.id, "user", "hello", created_at="2020-01-01T00:00:00Z")
    assert old.created_at == "2020-01-01T00:00:00.000Z"
    assert conversations.get(tx, talk.id).updated_at == talk.updated_at


def test_what_does_not_exist_is_named(tx: Connection, talk: Conversation) -> None:
    with pytest.raises(NotFoundError, match="conversation X"):
        messages.add(tx, "X", "user", "hello")
    with pytest.raises(NotFoundError, match="conversation X"):
        messages.listed(tx, "X")
    with pytest.raises(NotFoundError, match="message X"):
        messages.get(tx, "X")
    with pytest.raises(NotFoundError, match="message X"):
        messages.update(tx, "X", "hello")
    with pytest.raises(NotFoundError, match="message X"):
        messages.delete(tx, "X")
    with pytest.raises(NotFoundError, match="parent message X"):
        messages.add(tx, talk.id, "user", "hello", parent_id="X")


def test_a_parent_must_be_of_the_same_conversation(tx: Connection, talk: Conversation) -> None:
    elsewhere = conversations.create(tx, "other")
    question = messages.add(tx, elsewhere.id, "user", "q")
    with pytest.raises(NotFoundError, match="parent message"):
        messages.add(tx, talk.id, "assistant", "a", parent_id=question.id)


def test_a_list_is_in_the_order_of_speech_and_paged_by_key(tx: Connection, talk: Conversation) -> None:
    times = ["2024-01-02T00:00:00Z", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z"]
    for number, time in enumerate(times):
        messages.add(tx, talk.id, "user", str(number), created_at=time)
    seen: list[str] = []
    page = messages.listed(tx, talk.id, limit=1)
    while page.next is not None:
        seen += [content.text_of(item.content) for item in page.items]
        page = messages.listed(tx, talk.id, limit=1, after=page.next)
    assert seen + [content.text_of(item.content) for item in page.items] == ["1", "2", "0", "3"]
    assert [content.text_of(item.content) for item in messages.every(tx, talk.id)] == ["1", "2", "0", "3"]


def test_an_update_replaces_the_old_text_everywhere(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", "zebra")
    put_vector(tx, talk, message.pk, "zebra")
    pending.done(tx, Source.MESSAGE, [message.pk])
    generation = changes.generation(tx, talk.project_pk)

    updated = messages.update(tx, message.id, "giraffe")
    assert updated == messages.get(tx, message.id)
    assert content.text_of(updated.content) == "giraffe"
    assert search(tx, "zebra") == []
    assert search(tx, "giraffe") == [message.pk]
    assert tx.value("SELECT count(*) FROM vector_bits") == 0
    assert tx.value("SELECT count(*) FROM embeddings") == 0
    assert [row.text for row in pending.take(tx, 10)] == ["giraffe"]
    assert changes.generation(tx, talk.project_pk) == generation + 1


def test_an_update_to_no_text_leaves_the_index(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", "zebra")
    messages.update(tx, message.id, [{"type": "tool_result", "content": "x"}])
    assert tx.value("SELECT count(*) FROM message_fts") == 0
    assert pending.take(tx, 10) == []


def test_a_faulty_update_changes_nothing(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", "zebra")
    with pytest.raises(UsageError):
        messages.update(tx, message.id, [])
    assert messages.get(tx, message.id) == message
    assert search(tx, "zebra") == [message.pk]


def test_answers_to_a_deleted_message_answer_its_parent(tx: Connection, talk: Conversation) -> None:
    root = messages.add(tx, talk.id, "user", "root")
    middle = messages.add(tx, talk.id, "assistant", "middle", parent_id=root.id)
    leaves = [messages.add(tx, talk.id, "user", f"leaf {n}", parent_id=middle.id) for n in range(2)]
    messages.delete(tx, middle.id)
    assert [messages.get(tx, leaf.id).parent_id for leaf in leaves] == [root.id, root.id]
    messages.delete(tx, root.id)
    assert [messages.get(tx, leaf.id).parent_id for leaf in leaves] == [None, None]


def test_deleting_leaves_nothing(tx: Connection, talk: Conversation) -> None:
    message = messages.add(tx, talk.id, "user", "zebra")
    put_vector(tx, talk, message.pk, "zebra")
    generation = changes.generation(tx, talk.project_pk)
    messages.delete(tx, message.id)
    for table in ("messages", "message_fts", "vector_bits", "embeddings", "pending_vectors"):
        assert tx.value(f"SELECT count(*) FROM {table}") == 0, table
    assert search(tx, "zebra") == []
    assert changes.generation(tx, talk.project_pk) == generation + 1


def test_a_vector_that_another_passage_uses_stays(tx: Connection, talk: Conversation) -> None:
    first, second = (messages.add(tx, talk.id, "user", "zebra") for _ in range(2))
    put_vector(tx, talk, first.pk, "zebra")
    put_vector(tx, talk, second.pk, "zebra")
    messages.delete(tx, first.id)
    assert tx.value("SELECT count(*) FROM embeddings") == 1
    messages.delete(tx, second.id)
    assert tx.value("SELECT count(*) FROM embeddings") == 0


@pytest.fixture
def long_talk(db: Database) -> Conversation:
    """A talk of some pages, in project "a", with two messages without a text, one said twice, and vectors."""
    with db.write() as tx:
        talk = conversations.create(tx, "talk", project_pk=projects.create(tx, "a").pk)
        for number in range(23):
            text = " " if number in (3, 22) else f"zebra word{number % 20}"
            said = messages.add(tx, talk.id, "user", text)
            if text != " ":
                put_vector(tx, talk, said.pk, text)
    return talk


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a page hold a few messages, and nothing wait in memory."""
    monkeypatch.setattr(tokens_ahead, "PAGE", 5)
    monkeypatch.setattr(tokens_ahead, "SPOOLED_BYTES", 1)


def unlocked_while_tokenising(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have another process write whenever a text is tokenised; return the texts as they come."""
    texts, other = list[str](), Database.open(database.path)

    def written_to_meanwhile(text: str, heading: str = "") -> Tokens:
        texts.append(text)
        with other.write(timeout_ms=0) as tx:
            tx.run("UPDATE conversations SET updated_at = updated_at")
        return tokens_of(text, heading)

    for module in (tokens_ahead, messages):
        monkeypatch.setattr(module, "tokens_of", written_to_meanwhile)
    return texts


@pytest.mark.usefixtures("small_pages")
def test_all_that_is_moved_is_tokenised_while_others_can_write(
    db: Database, long_talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = unlocked_while_tokenising(db, monkeypatch)
    with Knowlex(db.path) as kb:
        kb.conversations.move(long_talk.id, None)
        kb.conversations.move(long_talk.id, "a")
        kb.projects.delete("a")
    assert len(texts) == 3 * 21
    with db.read() as tx:
        assert len(text_index.search(tx, Source.MESSAGE, "zebra", project_pk=NO_PROJECT, limit=99)) == 21
        assert tx.value("SELECT count(*) FROM vector_bits WHERE project = :none", none=NO_PROJECT) == 21
        assert tx.value("SELECT count(*) FROM vector_bits") == 21
    assert verify(db, deep=True) == []


@pytest.mark.usefixtures("small_pages")
def test_what_changes_after_it_was_tokenised_is_indexed_as_it_is(db: Database, long_talk: Conversation) -> None:
    with db.read() as tx:
        said = messages.every(tx, long_talk.id)
        pks = conversations.said(tx, long_talk.id)
    with tokens_ahead.made(db, pks) as tokens, db.write() as tx:
        messages.update(tx, said[0].id, "giraffe")
        messages.update(tx, said[3].id, "giraffe")
        messages.update(tx, said[7].id, " ")
        messages.delete(tx, said[11].id)
        messages.add(tx, long_talk.id, "user", "giraffe")
        conversations.move(tx, long_talk.id, None, tokens=tokens)
        for word, count in (("giraffe", 3), ("zebra", 18)):
            assert len(text_index.search(tx, Source.MESSAGE, word, project_pk=NO_PROJECT, limit=99)) == count
    assert {problem.kind for problem in verify(db, deep=True)} == set()


def test_messages_are_moved_in_bounded_memory(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_ahead, "PAGE", 10)
    monkeypatch.setattr(tokens_ahead, "SPOOLED_BYTES", 1)
    with db.write() as tx:
        talk = conversations.create(tx, "talk")
        for number in range(400):
            messages.add(tx, talk.id, "user", f"word{number} " * 200)
        project = projects.create(tx, "a")
        pks = conversations.said(tx, talk.id)
    tracemalloc.start()
    try:
        with tokens_ahead.made(db, pks) as tokens, db.write() as tx:
            conversations.move(tx, talk.id, project.pk, tokens=tokens)
        assert tracemalloc.get_traced_memory()[1] < 400 * 200 * len("word123 ") / 4
    finally:
        tracemalloc.stop()


# --- threads


def test_a_thread_is_the_way_from_the_first_message_down(tx: Connection, talk: Conversation) -> None:
    first = messages.add(tx, talk.id, "user", "first")
    left = messages.add(tx, talk.id, "assistant", "left", parent_id=first.id, created_at="2024-01-05T00:00:00Z")
    right = messages.add(tx, talk.id, "assistant", "right", parent_id=first.id, created_at="2024-01-04T00:00:00Z")
    below = messages.add(tx, talk.id, "user", "below", parent_id=left.id)
    alone = messages.add(tx, talk.id, "user", "alone")
    assert messages.thread(tx, below.id) == [first, left, below]
    assert messages.thread(tx, right.id) == [first, right]
    assert messages.thread(tx, alone.id) == [alone]
    assert messages.answers(tx, first.id).items == [right, left]
    assert messages.answers(tx, below.id).items == []
    page = messages.answers(tx, first.id, limit=1)
    assert page.items == [right]
    assert messages.answers(tx, first.id, limit=1, after=page.next) == Page([left], None)
    at = "2024-01-06T00:00:00Z"
    same = [messages.add(tx, talk.id, "user", "x", parent_id=below.id, created_at=at) for _ in range(3)]
    after = None
    for each in same:
        page = messages.answers(tx, below.id, limit=1, after=after)
        assert page.items == [each]
        after = page.next
    assert after is None
    for call in (messages.thread, messages.answers):
        with pytest.raises(NotFoundError, match="message X"):
            call(tx, "X")


def test_a_long_thread_is_read_whole(tx: Connection, talk: Conversation) -> None:
    for _ in range(50):
        messages.add(tx, talk.id, "user", "alone")
    tx.script("ANALYZE")  # says that hardly any message answers another
    way = [messages.add(tx, talk.id, "user", "0")]
    for number in range(1, 300):
        way.append(messages.add(tx, talk.id, "user", str(number), parent_id=way[-1].id))
    assert messages.thread(tx, way[-1].id) == way
    run: list[tuple[str, Any]] = []

    def note(cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        run.append((sql, values))
        return True

    tx.raw.set_exec_trace(note)
    messages.thread(tx, way[-1].id)
    messages.answers(tx, way[0].id)
    tx.raw.set_exec_trace(None)
    steps = [row[3] for sql, values in run for row in tx.raw.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert [step for step in steps if "child" in step] == ["SEARCH child USING INTEGER PRIMARY KEY (rowid=?)"]


@pytest.mark.parametrize("parents", [[0], [1, 0], [2, 0, 1], [0, 0, 1], [1, 2, 1]])
def test_a_circle_in_damaged_data_comes_to_an_end(tx: Connection, talk: Conversation, parents: list[int]) -> None:
    said = [messages.add(tx, talk.id, "user", str(number)) for number in range(len(parents))]
    for child, parent in enumerate(parents):
        tx.run("UPDATE messages SET parent_id = :parent WHERE pk = :pk", parent=said[parent].pk, pk=said[child].pk)
    for message in said:
        way = [found.pk for found in messages.thread(tx, message.id)]
        assert way[-1] == message.pk
        assert len(way) == len(set(way)) <= len(said)


def test_an_answer_may_be_linked_later_but_never_to_itself(tx: Connection, talk: Conversation) -> None:
    first, second, third = (messages.add(tx, talk.id, "user", str(number)) for number in range(3))
    messages.answer(tx, first.id, second.id)
    messages.answer(tx, second.id, third.id)
    assert [found.pk for found in messages.thread(tx, first.id)] == [third.pk, second.pk, first.pk]
    for child, parent in ((third, first), (third, third)):
        with pytest.raises(UsageError, match=f"message {child.id}: answers itself by way of {parent.id}"):
            messages.answer(tx, child.id, parent.id)
    with pytest.raises(NotFoundError, match="parent message X"):
        messages.answer(tx, first.id, "X")
    elsewhere = messages.add(tx, conversations.create(tx, "other").id, "user", "q")
    with pytest.raises(NotFoundError, match="parent message"):
        messages.answer(tx, first.id, elsewhere.id)


def test_many_answers_are_linked_at_once(tx: Connection, talk: Conversation) -> None:
    said = [messages.add(tx, talk.id, "user", str(number)).id for number in range(50)]
    pairs = [(said[n], said[n + 1]) for n in range(49)]
    messages.link(tx, talk.id, pairs[::2] + pairs[1::2])
    assert [message.id for message in messages.thread(tx, said[0])] == said[::-1]
    with pytest.raises(UsageError, match=f"message {said[49]}: answers itself by way of {said[7]}"):
        messages.link(tx, talk.id, [(said[49], said[7])])
    # What answered another message before may answer one that was below it.
    messages.link(tx, talk.id, [(said[20], said[49]), (said[30], said[10])])
    assert [message.id for message in messages.thread(tx, said[30])] == [said[49], *said[20:9:-1], said[30]]
    with pytest.raises(NotFoundError, match="message X: no such message"):
        messages.link(tx, talk.id, [("X", said[0])])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
@effort(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_links_never_close_a_circle(tx: Connection, talk: Conversation, pairs: list[tuple[int, int]]) -> None:
    tx.run("DELETE FROM messages")
    said = [messages.add(tx, talk.id, "user", str(number), id=f"m{number}").id for number in range(6)]
    parents: dict[int, int] = {}
    for child, parent in pairs:
        above = parent
        while above != child and above in parents:
            above = parents[above]
        if above != child:
            parents[child] = parent
    taken = iter(pairs)
    while True:
        try:
            messages.link(tx, talk.id, ((said[child], said[parent]) for child, parent in taken))
            break
        except UsageError:
            continue
    found = {message.id: message.parent_id for message in messages.every(tx, talk.id)}
    assert found == {f"m{n}": f"m{parents[n]}" if n in parents else None for n in range(6)}


@pytest.mark.parametrize("id", ["--help", "-", "a\u2028b", "a\u2029b"])
def test_an_id_that_no_command_could_name_is_refused(tx: Connection, talk: Conversation, id: str) -> None:
    with pytest.raises(UsageError, match="id: "):
        messages.add(tx, talk.id, "user", "x", id=id)
    with pytest.raises(UsageError, match="id: "):
        conversations.create(tx, "t", id=id)


def test_the_newest_may_come_first(tx: Connection, talk: Conversation) -> None:
    for number, time in enumerate(["2024-01-02", "2024-01-01", "2024-01-01", "2024-01-03"]):
        messages.add(tx, talk.id, "user", str(number), created_at=f"{time}T00:00:00Z")
    seen: list[str] = []
    after = None
    while True:
        page = messages.listed(tx, talk.id, order="newest", limit=2, after=after)
        seen += [content.text_of(item.content) for item in page.items]
        if (after := page.next) is None:
            break
    assert seen == ["3", "0", "2", "1"]
    with pytest.raises(UsageError, match="order 'best': is unknown; give one of oldest, newest"):
        messages.listed(tx, talk.id, order="best")  # pyright: ignore[reportArgumentType]


def test_an_imported_message_keeps_its_id_and_times(tx: Connection, talk: Conversation) -> None:
    times: dict[str, Any] = {"created_at": "2021-03-04T05:06:07+02:00", "updated_at": "2021-03-05T00:00:00Z"}
    made = messages.add(tx, talk.id, "user", "x", id="m-1", **times)
    assert (made.id, made.created_at, made.updated_at) == (
        "m-1",
        "2021-03-04T03:06:07.000Z",
        "2021-03-05T00:00:00.000Z",
    )
    assert messages.find(tx, "m-1") == made
    assert messages.find(tx, "m-2") is None
    with pytest.raises(UniqueError):
        messages.add(tx, talk.id, "user", "y", id="m-1")
    for id in ("", "a\nb"):
        with pytest.raises(UsageError, match="id"):
            messages.add(tx, talk.id, "user", "y", id=id)


# --- the queue for vectors


def test_what_was_edited_moved_or_deleted_meanwhile_gets_no_vector(tx: Connection, talk: Conversation) -> None:
    elsewhere = conversations.create(tx, "other")
    same, edited, gone = (messages.add(tx, talk.id, "user", f"text {n}") for n in range(3))
    moved = messages.add(tx, elsewhere.id, "user", "moved")
    taken = pending.take(tx, 10)
    assert [row.pk for row in taken] == [same.pk, edited.pk, gone.pk, moved.pk]
    messages.update(tx, edited.id, "new text")
    messages.delete(tx, gone.id)
    conversations.move(tx, elsewhere.id, talk.project_pk)
    assert pending.current(tx, taken) == taken[:1]
    pending.done(tx, Source.MESSAGE, [same.pk])
    assert [(row.pk, row.text) for row in pending.take(tx, 10)] == [
        (edited.pk, "new text"),
        (moved.pk, "moved"),
    ]
    assert pending.current(tx, taken) == []


def test_queueing_twice_is_queueing_once_and_take_respects_its_limit(tx: Connection, talk: Conversation) -> None:
    said = [messages.add(tx, talk.id, "user", f"text {n}") for n in range(3)]
    pending.queue(tx, Source.MESSAGE, said[0].pk)
    assert pending.count(tx) == 3
    assert [row.pk for row in pending.take(tx, 2)] == [said[0].pk, said[1].pk]

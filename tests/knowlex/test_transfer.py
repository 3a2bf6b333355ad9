"""Conversations as JSON Lines: out and in again, all or nothing, and never twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowlex import Knowlex, transfer
from knowlex.transfer import Imported
from storage import changes, database
from storage import settings as app_settings
from storage.database import Database
from storage.errors import CorruptDatabaseError, DatabaseError, NotFoundError, ReplacedError, UniqueError, UsageError
from storage.passage_tokens import tokens_of


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[Knowlex]:
    """An empty database."""
    with Knowlex(tmp_path / "a.db") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Knowlex]:
    """Another one."""
    with Knowlex(tmp_path / "b.db") as opened:
        yield opened


def talk(kb: Knowlex) -> str:
    """A conversation of a project with settings, a thread and all kinds of parts; return its id."""
    kb.projects.create("handbook")
    made = kb.conversations.create("Refunds ☕", project="handbook", settings={"temperature": 0.5, "deep": [None]})
    first = kb.conversations.add(made.id, "user", "How do\u2028refunds work?\r\n")
    call = kb.conversations.add(
        made.id, "assistant", [{"type": "tool_call", "name": "look", "arguments": {"n": 1.0}}], parent=first.id
    )
    kb.conversations.add(made.id, "tool", [{"type": "tool_result", "content": ["30 days"]}], parent=call.id)
    kb.conversations.edit(first.id, "How do refunds work?")
    return made.id


def line(**values: Any) -> str:
    return json.dumps(values)


def nested(levels: int) -> list[dict[str, Any]]:
    """What a tool gave, in lists within each other."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return [{"type": "tool_result", "content": value}]


TALK = line(type="conversation", id="c", title="t")
FIRST = line(type="message", id="m1", role="user", content="hello")


def lines(kb: Knowlex) -> list[str]:
    return list(kb.conversations.export())


def test_what_goes_out_and_in_goes_out_the_same(kb: Knowlex, other: Knowlex) -> None:
    id = talk(kb)
    kb.conversations.create("loose")
    out = lines(kb)
    assert [json.loads(text)["type"] for text in out] == ["conversation", *["message"] * 3, "conversation"]
    assert other.conversations.load(out) == Imported(2, 3, 0, 0)
    assert lines(other) == out
    assert [item.name for item in (p.project for p in other.projects.list())] == ["handbook"]
    there, here = (one.conversations.get(id) for one in (other, kb))
    assert there.conversation.settings == here.conversation.settings
    assert [m.parent_id for m in there.messages] == [m.parent_id for m in here.messages]
    assert [hit.id for hit in other.conversations.find("refund").items] == [here.messages[0].id]


def test_importing_twice_doubles_nothing(kb: Knowlex) -> None:
    talk(kb)
    out = lines(kb)
    assert kb.conversations.load(out) == Imported(0, 0, 1, 3)
    assert lines(kb) == out


def test_a_conversation_that_went_on_brings_what_is_new(kb: Knowlex, other: Knowlex) -> None:
    id = talk(kb)
    other.conversations.load(lines(kb))
    kb.conversations.add(id, "assistant", "Within 30 days.")
    kb.conversations.move(id, None)
    assert other.conversations.load(lines(kb)) == Imported(0, 1, 1, 3)
    assert len(other.conversations.get(id).messages) == 4
    assert other.conversations.get(id).conversation.project_name == "handbook"
    assert kb.conversations.load(lines(kb)) == Imported(0, 0, 1, 4)


def test_a_project_may_be_given_instead(kb: Knowlex, other: Knowlex) -> None:
    id = talk(kb)
    other.projects.create("b")
    with pytest.raises(NotFoundError, match="no project named elsewhere"):
        other.conversations.load(lines(kb), project="elsewhere")
    other.projects.create("elsewhere")
    other.conversations.load(lines(kb), project="elsewhere")
    assert other.conversations.get(id).conversation.project_name == "elsewhere"
    assert len(other.projects.list()) == 2


def test_what_goes_out_can_be_chosen(kb: Knowlex) -> None:
    id = talk(kb)
    loose = kb.conversations.create("loose").id

    def ids(*named: str, **options: Any) -> list[str]:
        found = map(json.loads, kb.conversations.export(*named, **options))
        return [item["id"] for item in found if item["type"] == "conversation"]

    assert ids() == [id, loose]
    assert ids(loose, id, loose) == [loose, id]
    assert ids(project="handbook") == [id]
    assert ids(no_project=True) == [loose]
    for error, match, call in (
        (NotFoundError, "conversation X", lambda: ids(loose, "X")),
        (NotFoundError, "no project named x", lambda: ids(project="x")),
        (UsageError, "not both", lambda: ids(id, project="handbook")),
        (UsageError, "cannot be combined", lambda: ids(project="handbook", no_project=True)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_bytes_with_a_mark_blank_lines_and_other_line_ends(kb: Knowlex) -> None:
    text = b"\xef\xbb\xbf" + f"{TALK}\r\n\n  \n{FIRST}".encode()
    assert kb.conversations.load(text.splitlines(keepends=True)) == Imported(1, 1, 0, 0)
    assert kb.conversations.load(["\ufeff" + TALK, FIRST]) == Imported(0, 0, 1, 1)
    assert kb.conversations.load([]) == Imported()


def test_an_answer_may_come_before_what_it_answers(kb: Knowlex) -> None:
    answer = line(type="message", id="m2", role="assistant", content="hi", parent_id="m1")
    kb.conversations.load([TALK, answer, FIRST])
    assert [message.id for message in kb.conversations.thread("m2")] == ["m1", "m2"]
    late = line(type="message", id="m3", role="user", content="and?", parent_id="m2")
    kb.conversations.load([TALK, late])
    assert [message.id for message in kb.conversations.thread("m3")] == ["m1", "m2", "m3"]


SECOND = line(type="conversation", id="d", title="u")


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ([b'{"type":"mess'], "is no JSON .*; the file is cut off or damaged: export it again"),
        ([b"\xff"], r"is not UTF-8 \(byte 1\); convert the file to UTF-8"),
        (["[" * 100_000], "is nested deeper than 100 levels"),
        (["[]"], "is a list; give one object a line"),
        ([line(type="file")], "type 'file': is unknown; give conversation or message"),
        ([line(id="x")], "type: is missing; give conversation or message"),
        ([line(type="message", id="m9", role="user", content="x", score=1)], "score: a message has no such field"),
        ([line(type="conversation", id="d", name="x")], "name: a conversation has no such field"),
        ([line(type="message", role="user", content="x")], "id: is missing"),
        ([line(type="message", id=5, role="user", content="x")], "id: is a number"),
        ([line(type="message", id="m9", role="robot", content="x")], "role: 'robot' is unknown"),
        ([line(type="message", id="m9", content="x")], "role: is missing; a message needs type, id, role, content"),
        ([line(type="message", id="m9", role="user")], "content: is missing"),
        ([line(type="message", id="m9", role="user", content=[{"type": "video"}])], "type 'video' is unknown"),
        ([line(type="message", id="m9", role="user", content="\ud83d")], "half a character"),
        ([line(type="message", id="m9", role="user", content="x", parent_id=5)], "parent_id: is a number"),
        ([line(type="message", id="m9", role="user", content="x", created_at="now")], "created_at: 'now' is no"),
        ([line(type="message", id="m9", role="user", content="x", parent_id="m8"), SECOND], "message m8: no such"),
        ([line(type="message", id="m9", role="user", content="x", parent_id="m9")], "m9: answers itself"),
        ([line(type="conversation", id="d", title="t", messages=2), FIRST.replace("m1", "m9")], "2 messages follow"),
        ([line(type="conversation", id="d", title="t", messages="2")], "messages: '2' is no number of messages"),
        ([line(type="conversation", id="d", title="t", project=" ")], "project: is empty"),
        ([line(type="conversation", id="d", title="t", settings=[])], "settings: is a list"),
        ([line(type="conversation", id="d", title=None)], "title: is null"),
        ([line(type="conversation", id="d", title="t", salvaged=1)], "salvaged: is a number; give true or false"),
        ([line(type="conversation", id="d")], "title: is missing; a conversation needs type, id, title"),
        (['{"type":"conversation","id":"d","title":"a","title":"b"}'], "title: stands there twice"),
        (['{"type":"conversation","id":"d","title":"a","settings":{"x":1,"x":2}}'], "x: stands there twice"),
        (
            ['{"type":"conversation","id":"d","title":"a","settings":{"x":' + "9" * 5000 + "}}"],
            "number that is too long",
        ),
        (['{"type":"conversation","id":"d","title":"a","settings":{"x":NaN}}'], "settings: cannot be kept as JSON"),
        ([line(type="conversation", id="--help", title="t")], "id: '--help' begins with a hyphen"),
        ([line(type="conversation", id="a\u2028b", title="t")], "id: .* holds a line break"),
        ([line(type="message", id="m9", role="user", content=nested(99))], "part 1: is nested deeper than 100 levels"),
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(kb: Knowlex, more: list[str | bytes], fault: str) -> None:
    with pytest.raises(UsageError, match=f"talks.jsonl, line 3: .*{fault}"):
        kb.conversations.load([TALK, FIRST, *more], name="talks.jsonl")
    assert lines(kb) == []
    assert kb.conversations.find("hello").items == []


def test_a_message_needs_a_conversation_before_it(kb: Knowlex) -> None:
    with pytest.raises(UsageError, match="import, line 1: is a message before any conversation"):
        kb.conversations.load([FIRST])


def test_settings_that_are_no_object_are_an_error_each_time(kb: Knowlex) -> None:
    kb.conversations.load([TALK])
    with pytest.raises(UsageError, match="line 1: settings: is a list; give a JSON object"):
        kb.conversations.load([line(type="conversation", id="c", title="t", settings=[])])
    assert kb.conversations.load([line(type="conversation", id="c", title="t", settings=None)]).conversations == 0


def test_messages_that_answer_each_other_in_a_circle_are_refused(kb: Knowlex) -> None:
    pair = [line(type="message", id=f"m{n}", role="user", content="x", parent_id=f"m{3 - n}") for n in (1, 2)]
    with pytest.raises(UsageError, match="line 2: message m1: answers itself by way of m2"):
        kb.conversations.load([TALK, *pair])


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ([TALK.replace('"t"', '"other"')], "line 1: conversation c: is in the database already, with another title"),
        (
            [TALK.replace('"t"', '"other"')],
            r"take it out with its messages, give that one the same \(knowlex conversation update c --title other\)",
        ),
        ([line(type="conversation", id="c", title="t", settings={"a": 1})], "with another settings"),
        ([line(type="conversation", id="c", title="t", created_at="2020-01-01T00:00:00Z")], "with another created_at"),
        ([TALK, FIRST.replace("hello", "bye")], "line 2: message m1: is in the database already, with another content"),
        ([TALK, FIRST.replace("user", "tool")], "with another role"),
        ([TALK, FIRST, line(type="message", id="m1", role="user", content="hello", parent_id="m1")], "another parent"),
        ([SECOND, FIRST], "line 2: message m1: .* another conversation; .*conversation delete-message m1"),
    ],
)
def test_an_id_with_another_content_is_an_error(kb: Knowlex, changed: list[str], fault: str) -> None:
    kb.conversations.load([TALK, FIRST])
    before = lines(kb)
    with pytest.raises(UniqueError, match=fault):
        kb.conversations.load(changed)
    assert lines(kb) == before


def test_what_is_marked_as_salvaged_leaves_what_is_there_and_joins_it(kb: Knowlex) -> None:
    """Also where nothing told the id of its conversation, so that its line has a new one."""
    id = kb.conversations.create("t").id
    first = kb.conversations.add(id, "user", "first").id
    was = list(kb.conversations.export(id))
    done = kb.conversations.load(
        [
            line(type="conversation", id="new", title="recovered 1", messages=2, salvaged=True),
            line(type="message", id=first, role="tool", content="other", salvaged=True),
            line(type="message", id="m9", role="user", content="x", parent_id=first, salvaged=True),
            line(type="conversation", id="empty", title="b", messages=0, salvaged=True),
        ]
    )
    assert (done.conversations, done.messages, done.unchanged_conversations, done.unchanged_messages) == (1, 1, 1, 1)
    _, there, new = kb.conversations.export(id)
    assert (there, json.loads(new)["parent_id"]) == (was[1], first)
    assert [json.loads(each)["title"] for each in kb.conversations.export("empty")] == ["b"]


def test_what_is_marked_joins_no_conversation_of_another_project_nor_is_told_its_id(kb: Knowlex) -> None:
    for name in ("a", "b"):
        kb.projects.create(name)
    id = kb.conversations.create("t", project="a").id
    first = kb.conversations.add(id, "user", "first").id
    lines = [
        line(type="conversation", id="new", title="recovered 1", messages=1, salvaged=True),
        line(type="message", id=first, role="user", content="first", salvaged=True),
    ]
    with pytest.raises(UniqueError, match=first) as refused:
        kb.conversations.load(lines, project="b")
    assert id not in str(refused.value)


def test_lines_are_read_one_by_one(kb: Knowlex) -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        yield TALK
        for number in range(10**9):
            taken.append(number)
            yield "{" if number == 50 else FIRST.replace("m1", f"m{number}")

    with pytest.raises(UsageError, match="line 52: is no JSON"):
        kb.conversations.load(endless())
    assert len(taken) == 51
    assert lines(kb) == []


def load_and_fail(kb: Knowlex) -> None:
    with kb.transaction():
        kb.conversations.load([TALK, FIRST])
        assert [hit.id for hit in kb.conversations.find("hello").items] == ["m1"]
        raise ZeroDivisionError


def test_an_import_within_a_batch_is_undone_with_it(kb: Knowlex) -> None:
    with pytest.raises(ZeroDivisionError):
        load_and_fail(kb)
    assert lines(kb) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PART = st.builds(lambda text: {"type": "text", "text": text}, st.text()) | st.builds(
    lambda value: {"type": "tool_result", "content": value}, JSON
)
SAID = st.tuples(
    st.sampled_from(["user", "assistant", "system", "tool"]),
    st.lists(PART, min_size=1, max_size=3),
    st.integers(0, 30),
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
)


@given(
    st.lists(
        st.tuples(
            st.text().filter(lambda text: "\0" not in text),
            st.sampled_from([None, "p", "q"]),
            st.dictionaries(st.text(), JSON, max_size=2),
            st.lists(SAID, max_size=6),
        ),
        max_size=3,
    )
)
@settings(max_examples=25, deadline=None)
def test_any_conversations_come_back_byte_for_byte(
    talks: list[tuple[str, str | None, dict[str, Any], list[tuple[str, list[dict[str, Any]], int, str]]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given: list[str] = []
        for number, (title, project, values, said) in enumerate(talks):
            given.append(line(type="conversation", id=f"c{number}", title=title, project=project, settings=values))
            for place, (role, content, parent, at) in enumerate(said):
                # Of one in three the parent stands anywhere before or behind; circles are for another test.
                above = f"c{number}m{parent}" if parent > place and parent < len(said) else None
                given.append(
                    line(
                        type="message",
                        id=f"c{number}m{place}",
                        role=role,
                        content=content,
                        parent_id=above,
                        created_at=at,
                    )
                )
        with Knowlex(Path(folder) / "a.db") as kb, Knowlex(Path(folder) / "b.db") as other:
            kb.conversations.load(given)
            out = lines(kb)
            other.conversations.load([f"{text}\n".encode() for text in out])
            assert lines(other) == out
            assert other.verify(deep=True) == []
            assert other.conversations.load(out).messages == 0


# --- what others must not notice


def test_nothing_is_locked_while_an_import_waits_for_its_lines(kb: Knowlex) -> None:
    kb.projects.create("there")

    def slow() -> Iterator[str]:
        with Database.open(kb.path) as other:
            yield TALK
            with other.write(timeout_ms=1) as db:
                app_settings.set(db, "written", "meanwhile")
            yield FIRST

    assert kb.conversations.load(slow()) == Imported(1, 1, 0, 0)
    assert kb.settings["written"] == "meanwhile"


def test_a_large_import_waits_beside_the_database_without_a_name(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SPOOLED_BYTES", 100)
    monkeypatch.setattr(transfer, "PAGE", 7)
    kb.projects.create("there")
    seen: list[set[str]] = []

    def many() -> Iterator[str]:
        yield TALK
        for number in range(100):
            seen.append({path.name for path in kb.path.parent.iterdir()})
            yield FIRST.replace("m1", f"m{number}").replace("hello", f"hello {number}")

    assert kb.conversations.load(many()).messages == 100
    assert set().union(*seen) == {"a.db", "a.db-wal", "a.db-shm"}
    assert len(kb.conversations.find("hello", limit=1000).items) == 100
    assert kb.verify(deep=True) == []


def test_exports_that_nobody_reads_on_hold_nobody_up(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    talk(kb)
    begun = [kb.conversations.export() for _ in range(2 * database.READERS)]
    firsts = [next(export) for export in begun]
    kb.conversations.create("later")
    rest = [firsts[0], *begun[0]]
    assert len(rest) == 4, "an export is of the moment of its first line"
    assert len(lines(kb)) == 5
    del begun
    with kb.database.unwrapped() as db:
        assert db.one("PRAGMA wal_checkpoint(TRUNCATE)") == (0, 0, 0), "what is dropped is closed"


def restore_the_secret(kb: Knowlex, other: Knowlex) -> None:
    """Put a backup in the place of a database, by another process's hands: what had a key there has it no more."""
    made = other.conversations.create("secret talk", project=other.projects.create("secret").id)
    other.conversations.add(made.id, "user", "the secret")
    copy = kb.path.with_name("secret.bak")
    other.backup(copy)
    with Knowlex(kb.path) as another:
        another.restore(copy)


def test_an_export_is_of_the_content_it_was_asked_of(kb: Knowlex, other: Knowlex) -> None:
    id = talk(kb)
    whole = lines(kb)
    asked = [kb.conversations.export(project="handbook"), kb.conversations.export(), kb.conversations.export(id)]
    begun = kb.conversations.export(project="handbook")
    first = next(begun)
    restore_the_secret(kb, other)
    for export in asked:
        with pytest.raises(ReplacedError, match="a backup was restored meanwhile"):
            next(export)
    assert [first, *begun] == whole, "what has begun is of its moment"
    with pytest.raises(NotFoundError, match="no project named handbook"):
        kb.conversations.export(project="handbook")


def test_an_export_that_was_not_begun_ends_with_its_object(kb: Knowlex) -> None:
    talk(kb)
    asked = kb.conversations.export()
    kb.close()
    with pytest.raises(DatabaseError, match="the database is closed"):
        next(asked)


def test_an_export_of_a_project_that_went_meanwhile_is_an_error(kb: Knowlex) -> None:
    talk(kb)
    asked = kb.conversations.export(project="handbook")
    kb.projects.delete("handbook")
    with pytest.raises(NotFoundError, match="no project named handbook"):
        next(asked)


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"'])
def test_what_cannot_go_out_is_named(kb: Knowlex, value: str) -> None:
    kb.conversations.load([TALK, FIRST, SECOND])
    with kb.database.write() as db:
        db.run("UPDATE conversations SET settings = :json WHERE id = 'd'", json=f'{{"a":{value}}}')
    with pytest.raises(CorruptDatabaseError, match="conversation d: holds what JSON cannot say.* knowlex repair"):
        lines(kb)
    with kb.database.write() as db:
        db.run("UPDATE messages SET content = :json", json=f'[{{"type":"tool_result","content":{value}}}]')
    with pytest.raises(CorruptDatabaseError, match="message m1: holds what JSON cannot say"):
        lines(kb)


def test_an_export_begun_in_a_batch_is_of_the_batch(kb: Knowlex) -> None:
    talk(kb)

    def begin() -> Iterator[str]:
        with kb.transaction():
            kb.conversations.create("undone")
            begun = kb.conversations.export()
            assert '"undone"' in list(kb.conversations.export())[-1]
            export.append(begun)
            raise ZeroDivisionError

    export: list[Iterator[str]] = []
    with pytest.raises(ZeroDivisionError):
        begin()
    assert lines(kb) == list(export[0])[:-1], "what was read in the batch was read at once"


def test_what_is_there_in_another_project_is_no_import_into_this_one(kb: Knowlex) -> None:
    for name in ("a", "b"):
        kb.projects.create(name)
    kb.conversations.load([TALK, FIRST], project="a")
    before = lines(kb)
    late = line(type="message", id="m2", role="user", content="late")
    with pytest.raises(UniqueError, match="line 1: conversation c: .* in another project; move it first"):
        kb.conversations.load([TALK, FIRST, late], project="b")
    assert lines(kb) == before
    kb.conversations.load([TALK, FIRST], project="a")
    assert kb.conversations.load([TALK, FIRST, late]).messages == 1


def test_a_line_that_names_another_project_brings_nothing_in(kb: Knowlex) -> None:
    kb.projects.create("public")
    secret = line(type="conversation", id="c", title="t", project="secret")
    kb.conversations.load([secret, FIRST])
    for place, told in (("public", "another"), (None, "no")):
        kb.conversations.move("c", place)
        before = lines(kb)
        with pytest.raises(UniqueError, match=f"line 1: conversation c: .* in {told} project; move it first"):
            kb.conversations.load([secret, FIRST, FIRST.replace("m1", "m2")])
        assert lines(kb) == before
    kb.conversations.move("c", "secret")
    assert kb.conversations.load([secret, FIRST]) == Imported(0, 0, 1, 1)


def test_what_stayed_of_a_deleted_project_is_moved_by_the_commands_that_the_error_names(kb: Knowlex) -> None:
    kb.conversations.load([line(type="conversation", id="c", title="t", project="gone"), FIRST])
    whole = lines(kb)
    kb.projects.delete("gone")
    with pytest.raises(UniqueError) as told:
        kb.conversations.load(whole)
    assert "(knowlex project create gone; knowlex conversation update c --project gone)" in told.value.message
    kb.projects.create("gone")
    kb.conversations.move("c", "gone")
    assert kb.conversations.load(whole) == Imported(0, 0, 1, 1)


def test_the_order_of_keys_says_nothing(kb: Knowlex) -> None:
    kb.conversations.create("t", settings={"b": {"d": 1, "c": True}, "a": 2})
    talk(kb)
    turned = [json.dumps(json.loads(text), sort_keys=True) for text in lines(kb)]
    assert turned != lines(kb)
    assert kb.conversations.load(turned) == Imported(0, 0, 2, 3)
    with pytest.raises(UniqueError, match="another settings"):
        kb.conversations.load([text.replace('"c": true', '"c": 1') for text in turned])


def test_tokens_are_those_made_before_the_lock(kb: Knowlex) -> None:
    made = tokens_of("giraffe")
    other = {"tokens": [made.heading, made.body, made.repeats]}
    with transfer.checked([TALK, FIRST], folder=kb.path.parent) as entries:
        given = [entry | (other if "tokens" in entry else {}) for entry in entries]
    with kb.database.write() as db:
        transfer.load(db, given)
    assert [hit.id for hit in kb.conversations.find("giraffe")] == ["m1"]
    assert kb.conversations.find("hello").items == []


def test_an_import_is_one_change_of_each_project(kb: Knowlex) -> None:
    """What is cached of a project is read anew once, and what nothing came into is not."""
    kb.projects.create("p")
    kb.projects.create("q")
    owners = {name: None if name is None else kb.projects.get(name).pk for name in ("p", "q", None)}

    def generations() -> list[int]:
        with kb.database.read() as db:
            return [changes.generation(db, pk) for pk in owners.values()]

    given: list[str] = []
    for number, project in enumerate(["p", None, "p"]):
        given.append(line(type="conversation", id=f"c{number}", title="t", project=project))
        # Each answers the next, which has not come yet.
        given += [
            line(type="message", id=f"c{number}m{n}", role="user", content="x", parent_id=f"c{number}m{n + 1}")
            for n in range(3)
        ]
        given.append(line(type="message", id=f"c{number}m3", role="user", content=" "))
    before = generations()
    kb.conversations.load(given)
    assert [after - old for after, old in zip(generations(), before, strict=True)] == [1, 0, 1]
    kb.conversations.load(given)
    assert [after - old for after, old in zip(generations(), before, strict=True)] == [1, 0, 1]
    assert kb.verify(deep=True) == []


def test_a_conversation_counts_as_updated_when_its_last_message_was_said(kb: Knowlex) -> None:
    old = line(type="conversation", id="c", title="t", created_at="2020-01-01T00:00:00Z")
    said = [FIRST.replace("m1", f"m{n}").replace("}", f', "created_at": "202{n}-01-01T00:00:00Z"}}') for n in (3, 4, 2)]
    kb.conversations.load([old, *said, old.replace('"c"', '"d"'), said[0].replace("m3", "m5")])
    updated = [kb.conversations.details(id).updated_at[:4] for id in ("c", "d")]
    assert updated == ["2024", "2023"]


def test_a_conversation_keeps_the_time_of_its_update_whatever_its_messages_say(kb: Knowlex, other: Knowlex) -> None:
    at = {"created_at": "2024-01-01T00:00:00.000Z", "updated_at": "2024-01-02T00:00:00.000Z"}
    ahead = line(type="message", id="m1", role="user", content="x", created_at="2030-01-01T00:00:00Z")
    kb.conversations.load([line(type="conversation", id="c", title="t", **at), ahead, SECOND])
    out = lines(kb)
    assert json.loads(out[0])["updated_at"] == at["updated_at"]
    other.conversations.load(out)
    assert lines(other) == out


def test_late_parents_are_linked_without_reading_the_messages_again(kb: Knowlex) -> None:
    said = [line(type="message", id=f"m{n}", role="user", content="x", parent_id=f"m{n + 1}") for n in range(200)]
    steps: list[str] = []

    def note(cursor: object, sql: str, values: Any) -> bool:
        steps.append(sql)
        return True

    with kb.transaction(), kb.database.write() as db:
        db.raw.exec_trace = note
        try:
            kb.conversations.load([TALK, *said, FIRST.replace("m1", "m200")])
        finally:
            db.raw.exec_trace = None
    assert steps
    assert not [sql for sql in steps if "RECURSIVE" in sql]
    assert [message.id for message in kb.conversations.thread("m0")] == [f"m{n}" for n in range(200, -1, -1)]


def test_an_answer_that_stands_there_twice_before_its_parent_is_one(kb: Knowlex) -> None:
    answer = line(type="message", id="m2", role="assistant", content="hi", parent_id="m1")
    assert kb.conversations.load([TALK, answer, answer, FIRST]) == Imported(1, 2, 0, 1)
    assert [message.id for message in kb.conversations.thread("m2")] == ["m1", "m2"]
    other = answer.replace("m2", "m3")
    with pytest.raises(UniqueError, match="line 3: message m3: .* another parent"):
        kb.conversations.load([TALK, other.replace("m1", "m9"), other])


def test_a_cut_off_conversation_is_named_once(kb: Knowlex) -> None:
    with pytest.raises(UsageError) as error:
        kb.conversations.load([line(type="conversation", id="d", title="t", messages=2), FIRST, SECOND])
    assert error.value.message.startswith("import, line 1: says that 2 messages follow, but there are 1;")

"""Search over messages: what is found by words and filters, in which order, page by page, by whom."""

from __future__ import annotations

import base64
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage import conversations, message_search, messages, projects, text_index
from storage.connection import Connection
from storage.content import text_of
from storage.conversations import Conversation
from storage.database import Database
from storage.errors import NotFoundError, UsageError
from storage.message_search import MessageHit
from storage.paging import Page
from storage.sources import NO_PROJECT, Source
from storage.text_mirror import TextMirror
from storage.text_query import MAX_CHARACTERS, MAX_TERMS, terms

search = message_search.search


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


@pytest.fixture
def talk(tx: Connection) -> Conversation:
    """An empty conversation in project "a"."""
    return conversations.create(tx, "talk", project_pk=projects.create(tx, "a").pk, created_at="2024-01-01T00:00:00Z")


def day(number: int) -> str:
    """A moment of January 2024; day 0 is the first."""
    return f"2024-01-{number % 31 + 1:02}T{number // 31:02}:00:00Z"


def say(db: Connection, conversation: Conversation, *texts: str, role: str = "user") -> list[int]:
    """Add a message a text, a day apart, and return their pks."""
    return [
        messages.add(db, conversation.id, role, text, created_at=day(number)).pk for number, text in enumerate(texts)
    ]


def found(db: Connection, query: str | None, **more: Any) -> list[int]:
    return [hit.pk for hit in search(db, query, **more).items]


MOST_PAGES = 1000


def pages(db: Connection, query: str | None, *, between: Callable[[], object] = lambda: None, **more: Any) -> list[int]:
    """Follow the cursors to the end; `between` is called before each further page."""
    pks: list[int] = []
    after = None
    for _ in range(MOST_PAGES):
        page = search(db, query, after=after, **more)
        pks += [hit.pk for hit in page.items]
        if (after := page.next) is None:
            return pks
        between()
    pytest.fail(f"more than {MOST_PAGES} pages: {pks[-5:]}")


# --- what the specification's own code did


def as_specified(texts: Sequence[str], query: str) -> int:
    """What `searchMessages` of the specification finds: the query as it stands, over the JSON of the parts."""
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE message_fts USING fts5 (content)").fetchall()
    for text in texts:
        content = json.dumps([{"type": "text", "text": text}])
        db.execute("INSERT INTO message_fts VALUES (:content)", {"content": content}).fetchall()
    return len(db.execute("SELECT 1 FROM message_fts WHERE message_fts MATCH :query", {"query": query}).fetchall())


@pytest.mark.parametrize("query", ["type", "text", "{", "[{", '"type"', "type text"])
def test_keys_and_braces_of_the_json_are_no_text(tx: Connection, talk: Conversation, query: str) -> None:
    say(tx, talk, "hello there")
    for match in ("any", "all"):
        assert found(tx, query, match=match) == found(tx, query, match=match, sort="time") == []


def test_the_specification_found_the_keys_of_the_json(tx: Connection) -> None:
    assert as_specified(["hello there"], "type") == as_specified(["hello there"], '"text"') == 1


RAW = ["multi-agent", "C++", "a'b", "*", "NOT x", "body:x", "", "\0", 'say "hi', "a AND", "(", "^x", "x NEAR(", "-"]


@pytest.mark.parametrize("query", [query for query in RAW if query not in ("", "\0", "^x")])
def test_the_specification_failed_on_what_people_type(query: str) -> None:
    with pytest.raises(apsw.SQLError):
        as_specified(["x"], query)


@pytest.mark.parametrize("query", [*RAW, "x " * 20_000, " ".join(map(str, range(20_000))), "\ud800", "😀", "🄰" * 9_000])
@pytest.mark.parametrize("sort", ["relevance", "time"])
@pytest.mark.parametrize("match", ["any", "all"])
def test_any_string_is_a_query(tx: Connection, talk: Conversation, query: str, sort: str, match: str) -> None:
    say(tx, talk, "a multi-agent system in C++", "a'b x", "body:x not")
    assert isinstance(search(tx, query, sort=sort, match=match), Page)


@pytest.mark.parametrize(
    ("query", "text"),
    [("multi-agent", "a multi-agent system"), ("C++", "in C++ or C"), ("a'b", "so a'b is"), ("body:x", "the body:x")],
)
def test_what_people_type_finds_what_they_mean(tx: Connection, talk: Conversation, query: str, text: str) -> None:
    pk, _ = say(tx, talk, text, "unrelated")
    for match in ("any", "all"):
        assert found(tx, query, match=match) == found(tx, query, match=match, sort="time") == [pk]


# --- what a hit shows


def test_a_hit_shows_where_it_stands(tx: Connection, talk: Conversation) -> None:
    parts = [
        {"type": "image_ref", "uri": "zebra.png"},
        {"type": "text", "text": "a zebra"},
        {"type": "text", "text": "x"},
    ]
    said = messages.add(tx, talk.id, "assistant", parts)
    [hit] = search(tx, "Zebras").items
    assert hit.score is not None
    assert hit.score > 0
    assert hit == MessageHit(
        said.pk,
        said.id,
        talk.id,
        messages.Role.ASSISTANT,
        parts,
        said.created_at,
        "talk",
        talk.project_id,
        "a",
        "a <mark>zebra</mark>\nx",
        hit.score,
    )


def test_a_hit_of_no_project_says_so(tx: Connection) -> None:
    say(tx, conversations.create(tx, "loose"), "zebra")
    [hit] = search(tx, "zebra").items
    assert (hit.project_id, hit.project_name) == (None, None)


def test_without_a_query_all_messages_come_the_newest_first(tx: Connection, talk: Conversation) -> None:
    pks = say(tx, talk, "one", "two", " ".join(map(str, range(100))))
    silent = messages.add(tx, talk.id, "tool", [{"type": "tool_result", "content": "x"}], created_at=day(9))
    for query in (None, "", " \n"):
        page = search(tx, query)
        assert [hit.pk for hit in page.items] == [silent.pk, *reversed(pks)]
        assert [hit.score for hit in page.items] == [None] * 4
        assert [hit.snippet for hit in page.items][2:] == ["two", "one"]
        assert page.items[1].snippet.startswith("0 1 2")
        assert page.items[1].snippet.endswith("31…")
        assert page.items[0].snippet == ""


# --- filters


def test_filters_apply_before_anything_is_cut_off(tx: Connection, talk: Conversation) -> None:
    # The one that passes ranks last of 400: it is long, and all others are short.
    wanted = messages.add(tx, talk.id, "tool", "zebra " + "word " * 50, created_at=day(0)).pk
    for number in range(400):
        messages.add(tx, talk.id, "user", "zebra", created_at=day(number + 1))
    assert found(tx, "zebra", role="tool", limit=1) == [wanted]
    assert found(tx, "zebra", role="tool", limit=1, conversation_id=talk.id) == [wanted]
    assert found(tx, "zebra", date_to="2024-01-01T00:00:01Z", limit=1) == [wanted]
    assert found(tx, "zebra", role="tool", sort="time", limit=1) == [wanted]
    other = conversations.create(tx, "other", project_pk=projects.create(tx, "b").pk)
    [elsewhere] = say(tx, other, "zebra " + "word " * 60)
    assert other.project_pk is not None
    assert found(tx, "zebra", project_pks=[other.project_pk], limit=1) == [elsewhere]
    assert found(tx, "zebra", conversation_id=other.id, limit=1) == [elsewhere]


def test_a_long_span_of_time_is_filtered_like_a_short_one(
    tx: Connection, talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pks = say(tx, talk, *["zebra"] * 20)
    span = {"date_from": "2024-01-03", "date_to": "2024-01-05"}
    few = found(tx, "zebra", **span)
    monkeypatch.setattr(message_search, "MATERIALISED", 1)
    monkeypatch.setattr(message_search, "FEW", 0)
    assert few == found(tx, "zebra", **span) == pks[2:5]
    assert found(tx, "zebra", sort="time", **span) == pks[4:1:-1]


def test_a_moment_as_date_to_is_excluded_and_a_day_included(tx: Connection, talk: Conversation) -> None:
    pks = [
        messages.add(tx, talk.id, "user", "x", created_at=at).pk
        for at in ("2024-01-31T00:00:00Z", "2024-01-31T23:59:59.999Z", "2024-02-01T00:00:00Z")
    ]
    for query in (None, "x"):
        for sort in ("time", "relevance"):

            def between(query: str | None = query, sort: str = sort, **dates: str) -> set[int]:
                return set(found(tx, query, sort=sort, **dates))

            assert between(date_to="2024-01-31") == set(pks[:2])
            assert between(date_to="2024-01-31T23:59:59.999Z") == {pks[0]}
            assert between(date_from="2024-02-01") == between(date_from="2024-02-01T02:00:00+02:00") == {pks[2]}
            assert between(date_from="2024-01-31", date_to="2024-01-31") == set(pks[:2])
            assert between(date_from="2024-02-01", date_to="2024-01-31") == set()
            assert between(date_to="9999-12-31") == between(date_from="0001-01-01") == set(pks)


def test_moments_finer_than_what_is_kept_are_rounded_up(tx: Connection, talk: Conversation) -> None:
    [pk] = [messages.add(tx, talk.id, "user", "x", created_at="2024-01-31T00:00:00.500Z").pk]
    assert found(tx, "x", date_to="2024-01-31T00:00:00.500900Z") == [pk]
    assert found(tx, "x", date_to="2024-01-31T00:00:00.500Z") == []
    assert found(tx, "x", date_from="2024-01-31T00:00:00.500Z") == [pk]
    assert found(tx, "x", date_from="2024-01-31T00:00:00.500100Z") == []
    assert found(tx, "x", date_to="9999-12-31T23:59:59.999999Z") == [pk]


def test_projects_are_one_many_none_or_all(tx: Connection, talk: Conversation) -> None:
    other = conversations.create(tx, "b", project_pk=projects.create(tx, "b").pk)
    loose = conversations.create(tx, "loose")
    a, b, none = (say(tx, one, "zebra")[0] for one in (talk, other, loose))
    pk_a, pk_b = talk.project_pk or 0, other.project_pk or 0
    for query, sort in itertools.product((None, "zebra"), ("relevance", "time")):

        def of(*pks: int, query: str | None = query, sort: str = sort) -> set[int]:
            return set(found(tx, query, sort=sort, project_pks=pks))

        assert set(found(tx, query, sort=sort)) == {a, b, none}
        assert (of(pk_a), of(pk_b), of(NO_PROJECT)) == ({a}, {b}, {none})
        assert (of(pk_a, pk_b), of(pk_a, NO_PROJECT), of(pk_a, pk_a)) == ({a, b}, {a, none}, {a})
        assert (of(), of(99)) == (set(), set())
        assert found(tx, query, sort=sort, conversation_id=talk.id, project_pks=[pk_b]) == []
        assert found(tx, query, sort=sort, conversation_id=talk.id, project_pks=[pk_a, pk_b]) == [a]
        assert found(tx, query, sort=sort, conversation_id=loose.id) == [none]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"role": "robot"}, "role: 'robot' is unknown; give one of user, assistant, system, tool"),
        ({"sort": "best"}, "sort 'best': is unknown; give one of relevance, time"),
        ({"match": "some"}, "match 'some': is unknown; give one of any, all"),
        ({"date_from": "yesterday"}, "date_from: 'yesterday' is no ISO 8601 time"),
        ({"date_from": "2024-02-30"}, "date_from: '2024-02-30' is no ISO 8601 time"),
        ({"date_to": "2024-01-31T00:00:00"}, "date_to: .* has no time zone"),
        ({"date_to": 5}, "date_to: 5 is no ISO 8601 time"),
        ({"limit": 0}, "limit 0: is out of range; give 1 to 1000"),
        ({"limit": 1001}, "limit 1001: is out of range"),
        ({"offset": -1}, "offset -1: is out of range"),
        ({"offset": 2**63}, "is out of range"),
        ({"offset": 1, "after": "x"}, "offset 1: cannot be combined with after"),
        ({"after": "x"}, "after 'x': is no cursor of this list"),
    ],
)
def test_a_faulty_value_is_named(tx: Connection, options: dict[str, Any], fault: str) -> None:
    for query in (None, "zebra"):
        with pytest.raises(UsageError, match=fault):
            search(tx, query, **options)


def test_an_unknown_conversation_is_named(tx: Connection) -> None:
    with pytest.raises(NotFoundError, match="conversation X: no such conversation"):
        search(tx, "zebra", conversation_id="X")


# --- which messages match


def test_any_term_or_all_of_them(tx: Connection, talk: Conversation) -> None:
    both, first, second = say(tx, talk, "alpha beta", "alpha gamma", "beta delta")
    assert found(tx, "alpha beta") == [both, first, second]
    assert found(tx, "alpha beta", match="all") == [both]
    assert found(tx, "alpha beta", sort="time") == [both]
    assert found(tx, "alpha beta", sort="time", match="any") == [second, first, both]
    assert found(tx, "alpha alpha the beta", match="all") == [both]
    assert found(tx, "alpha nowhere", match="all") == found(tx, "alpha nowhere", sort="time") == []
    for filters in ({"conversation_id": talk.id}, {"date_from": "2024-01-01"}, {"role": "user"}):
        assert found(tx, "alpha beta", match="all", **filters) == [both]
        assert found(tx, "alpha beta", sort="time", **filters) == [both]
    assert found(tx, '"beta alpha"', match="all") == []
    assert found(tx, '"alpha beta" alpha', match="all") == [both]


def test_all_words_may_be_spelled_in_any_way(tx: Connection, talk: Conversation) -> None:
    price, call, other = say(tx, talk, "we paid 1234 euros", "call getuserbyid now", "paid 1 euro 234 times")
    for sort in ("relevance", "time"):
        assert found(tx, "paid 1,234", match="all", sort=sort) == [price]
        assert found(tx, "call getUserById", match="all", sort=sort) == [call]
        assert found(tx, "paid 1,234 nowhere", match="all", sort=sort) == []
    assert other not in found(tx, "1,234", match="any")


WORDS = st.sampled_from(
    ["getUserById", "ADR-016", "it's", "C++", "C#", "1,000.50", "node.js", "東京", "ไทย", "café", "USBs"]
)
TEXT = st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=6), max_size=8).map(" ".join)


@given(TEXT)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example('say "state of the art"')
@example("to be or not")
def test_a_text_holds_all_terms_of_itself(db: Database, text: str) -> None:
    with db.write() as tx:
        talk = conversations.create(tx, "talk")
        pk = messages.add(tx, talk.id, "user", text).pk
        for sort in ("relevance", "time"):
            hits = found(tx, text, match="all", sort=sort, conversation_id=talk.id)
            assert hits == ([pk] if terms(text) or not text.strip() else [])


# --- ranking


def test_a_foreign_project_moves_nothing(tx: Connection, talk: Conversation) -> None:
    other = conversations.create(tx, "b", project_pk=projects.create(tx, "b").pk)
    say(tx, talk, "alpha beta", "alpha alpha gamma", "beta beta", "gamma delta", "alpha beta gamma delta")
    say(tx, other, "alpha", "delta delta beta")
    pk_a, pk_b = talk.project_pk or 0, other.project_pk or 0

    options: list[dict[str, Any]] = [
        {"project_pks": [pk_a]},
        {"project_pks": [pk_a, pk_b]},
        {"conversation_id": talk.id},
        {"project_pks": [pk_a, pk_b], "conversation_id": talk.id},
        {"project_pks": [pk_a], "sort": "time", "match": "any"},
    ]

    def answers() -> list[list[MessageHit]]:
        return [search(tx, "alpha beta delta", **chosen).items for chosen in options]

    before = answers()
    foreign = conversations.create(tx, "c", project_pk=projects.create(tx, "c").pk)
    say(tx, foreign, *["alpha beta", "alpha alpha alpha", "delta"] * 40)
    say(tx, conversations.create(tx, "loose"), *["beta"] * 20)
    assert answers() == before
    one, several, conversation, inside, by_time = before
    assert [hit.score for hit in one] != [hit.score for hit in several if hit.project_id == talk.project_id]
    assert one == conversation == inside
    assert sorted((hit.pk, hit.score) for hit in by_time) == sorted((hit.pk, hit.score) for hit in one)


def test_several_projects_are_ranked_like_one_that_holds_it_all(tx: Connection) -> None:
    texts = [["alpha beta", "alpha alpha"], ["beta gamma delta", "alpha"], ["gamma", "beta beta alpha"]]
    parts = [conversations.create(tx, "x", project_pk=projects.create(tx, f"p{n}").pk) for n in range(3)]
    whole = conversations.create(tx, "x", project_pk=projects.create(tx, "whole").pk)
    for talk, said in zip(parts, texts, strict=True):
        say(tx, talk, *said)
    say(tx, whole, *itertools.chain(*texts))
    apart, one = (
        search(tx, "alpha beta", project_pks=[talk.project_pk or 0 for talk in talks]).items
        for talks in (parts, [whole])
    )
    assert [(text_of(hit.content), hit.score) for hit in apart] == [(text_of(hit.content), hit.score) for hit in one]


@pytest.mark.parametrize("scopes", [0, 2, 100])
def test_how_projects_are_told_apart_changes_no_answer(
    tx: Connection, monkeypatch: pytest.MonkeyPatch, scopes: int
) -> None:
    talks = [conversations.create(tx, "x", project_pk=projects.create(tx, f"p{n}").pk) for n in range(12)]
    pks = [say(tx, talk, "alpha beta", "beta")[0] for talk in talks]
    monkeypatch.setattr(text_index, "MAX_SCOPES", scopes)
    chosen = [talk.project_pk or 0 for talk in talks[:3]]
    assert text_index.part(tx, Source.MESSAGE, chosen).scoped == (scopes >= 3)
    assert found(tx, "alpha", project_pks=chosen) == pks[:3]
    assert found(tx, "alpha beta", project_pks=chosen, match="all") == pks[:3]
    hits = text_index.search(tx, Source.MESSAGE, "alpha", project_pk=chosen, limit=9, syntax="fts5")
    assert [pk for pk, _ in hits] == pks[:3]
    assert text_index.search(tx, Source.MESSAGE, "alpha", project_pk=(), limit=9) == []


# --- pages


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"match": "all"},
        {"sort": "time"},
        {"sort": "time", "match": "any"},
        {"role": "user"},
        {"date_from": "2024-01-10"},
        {"inside": True},
    ],
)
@pytest.mark.parametrize("query", ["zebra horse", None])
def test_pages_neither_skip_nor_repeat_while_messages_are_added(
    tx: Connection, talk: Conversation, limit: int, options: dict[str, Any], query: str | None
) -> None:
    options = dict(options)
    if options.pop("inside", False):
        options["project_pks"] = [talk.project_pk or 0]
    rng = random.Random(limit)
    texts = [" ".join(rng.choices(["zebra", "horse", "cow"], k=rng.randint(1, 9))) for _ in range(30)]
    before = set(say(tx, talk, *texts))
    wanted = found(tx, query, limit=100, **options)

    def add() -> None:
        text = " ".join(rng.choices(["zebra", "horse", "cow"], k=rng.randint(1, 30)))
        messages.add(tx, talk.id, "user", text, created_at=day(rng.randrange(60)))
        # Each of these makes every word rarer, and so every score another.
        messages.add(tx, talk.id, "user", "nothing of the sort at all", created_at=day(0))

    seen = pages(tx, query, between=add, limit=limit, **options)
    assert len(seen) == len(set(seen))
    assert [pk for pk in seen if pk in before] == wanted


@pytest.mark.parametrize("sort", ["relevance", "time"])
def test_a_message_that_only_the_index_knows_hides_no_other(tx: Connection, talk: Conversation, sort: str) -> None:
    said = say(tx, talk, *["zebra"] * 6)
    tx.run("DELETE FROM messages WHERE pk = :pk", pk=said[2])
    there = [pk for pk in said if pk != said[2]]
    assert sorted(found(tx, "zebra", sort=sort)) == there
    for limit in (1, 2, 3):
        assert sorted(pages(tx, "zebra", sort=sort, limit=limit)) == there


@pytest.mark.parametrize("query", ["zebra", None])
def test_a_message_of_no_conversation_hides_no_other(db: Database, query: str | None) -> None:
    with db.write() as tx:
        talks = [conversations.create(tx, name) for name in "ab"]
        said = [say(tx, talk, *["zebra"] * 3) for talk in talks]
    raw = apsw.Connection(str(db.path))
    raw.execute("DELETE FROM conversations WHERE id = ?", [talks[0].id])
    raw.close()
    with db.read() as tx:
        for sort in ("relevance", "time"):
            for limit in (1, 2, 50):
                assert sorted(pages(tx, query, sort=sort, limit=limit)) == said[1]


def test_an_offset_skips_and_a_cursor_goes_on_behind_it(tx: Connection, talk: Conversation) -> None:
    say(tx, talk, *(f"zebra {'cow ' * number}" for number in range(9)))
    for query, sort in itertools.product((None, "zebra"), ("relevance", "time")):
        whole = found(tx, query, sort=sort)
        assert found(tx, query, sort=sort, offset=3, limit=2) == whole[3:5]
        assert found(tx, query, sort=sort, offset=3, limit=2, role="user") == whole[3:5]
        assert found(tx, query, sort=sort, offset=99) == found(tx, query, sort=sort, offset=2**62) == []
        page = search(tx, query, sort=sort, offset=3, limit=2)
        assert found(tx, query, sort=sort, after=page.next) == whole[5:]


def test_a_cursor_of_another_question_or_a_forged_one_is_refused(tx: Connection, talk: Conversation) -> None:
    say(tx, talk, *["zebra cow"] * 5)
    ranked = search(tx, "zebra cow", limit=2).next
    by_time = search(tx, "zebra", limit=2, sort="time").next
    assert ranked is not None
    for query, after in (("zebra", ranked), ("cow zebra", ranked), (None, ranked), ("zebra cow", by_time)):
        with pytest.raises(UsageError, match="is no cursor of this list"):
            search(tx, query, after=after)
    with pytest.raises(UsageError, match="is no cursor"):
        search(tx, "zebra cow", after=ranked, match="all")
    key = json.loads(base64.urlsafe_b64decode(ranked))
    wrongs: list[tuple[int, Any]] = [
        (0, float("nan")),
        (0, float("inf")),
        (0, 1),
        (1, -1),
        (1, True),
        (1, 2**64),
        (2, -5),
        (2, 1.5),
        (3, "x"),
        (4, [6, 1]),
        (4, [-1, 1]),
        (4, [1, 1, 1, 1]),
        (4, ["a", 1]),
        (4, None),
        (5, "settings"),
    ]
    for place, value in wrongs:
        forged = [*key[:place], value, *key[place + 1 :]]
        after = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
        with pytest.raises(UsageError, match="is no cursor"):
            pytest.fail(f"{forged} gives {search(tx, 'zebra cow', after=after)}")


def test_a_question_of_very_many_terms_is_paged_by_the_same_terms(tx: Connection, talk: Conversation) -> None:
    rng = random.Random(1)
    words = [f"w{number}" for number in range(300)]
    for _ in range(40):
        messages.add(tx, talk.id, "user", " ".join(rng.sample(words, 60)))
    query = " ".join(words)
    wanted = found(tx, query)

    def add() -> None:
        for _ in range(5):
            messages.add(tx, talk.id, "user", " ".join(words[:100]))

    assert set(wanted) <= set(seen := pages(tx, query, between=add, limit=10))
    assert [pk for pk in seen if pk in wanted] == wanted


# --- against a plain model

ROLES = ("user", "assistant", "tool")
SAID = st.lists(st.sampled_from(["fig", "plum", "pear", "the"]), min_size=1, max_size=5).map(" ".join)
MESSAGE = st.tuples(st.integers(0, 3), st.sampled_from(ROLES), SAID, st.integers(0, 20))


@given(
    st.lists(MESSAGE, max_size=25),
    st.sampled_from([None, "fig", "fig plum", "pear fig plum", "nowhere", "?"]),
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(ROLES),
            "from": st.integers(0, 20),
            "to": st.integers(0, 20),
            "projects": st.sets(st.integers(0, 2)),
            "conversation": st.integers(0, 3),
        },
    ),
    st.sampled_from(["relevance", "time"]),
    st.sampled_from(["any", "all"]),
    st.integers(1, 10),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_answers_are_those_of_a_plain_model(
    said: list[tuple[int, str, str, int]],
    query: str | None,
    filters: dict[str, Any],
    sort: str,
    match: str,
    limit: int,
    narrow: bool,
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "m.db") as database,
        database.write() as db,
        pytest.MonkeyPatch.context() as patch,
    ):
        if narrow:
            for name, value in {"FEW": 2, "MATERIALISED": 2, "FIRST_BLOCK": 1}.items():
                patch.setattr(message_search, name, value)
        pks = [projects.create(db, name).pk for name in ("p", "q")]
        owner = [pks[0], pks[1], NO_PROJECT, pks[0]]
        talks = [conversations.create(db, "t", project_pk=pk or None) for pk in owner]
        rows = {
            messages.add(db, talks[where].id, role, text, created_at=day(at)).pk: (where, role, text, at)
            for where, role, text, at in said
        }
        numbered = [NO_PROJECT, *pks]
        wanted_projects = {numbered[n] for n in filters["projects"]} if "projects" in filters else None

        def passes(where: int, role: str, text: str, at: int) -> bool:
            asked = None if query is None else [word for word in query.split() if word != "?"]
            held = [word in text.split() for word in asked or ()]
            return (
                (asked is None or ((all(held) if match == "all" else any(held)) and bool(held)))
                and role == filters.get("role", role)
                and filters.get("from", 0) <= at < filters.get("to", 99)
                and where == filters.get("conversation", where)
                and (wanted_projects is None or owner[where] in wanted_projects)
            )

        wanted = {pk for pk, row in rows.items() if passes(*row)}
        options: dict[str, Any] = {
            "role": filters.get("role"),
            "date_from": day(filters["from"]) if "from" in filters else None,
            "date_to": day(filters["to"]) if "to" in filters else None,
            "project_pks": wanted_projects,
            "conversation_id": talks[filters["conversation"]].id if "conversation" in filters else None,
            "sort": sort,
            "match": match,
        }
        hits = search(db, query, limit=1000, **options).items
        assert {hit.pk for hit in hits} == wanted
        if sort == "time" or query is None:
            order = [(hit.created_at, hit.pk) for hit in hits]
            assert order == sorted(order, reverse=True)
        else:
            ranked = [(-(hit.score or 0), hit.pk) for hit in hits]
            assert ranked == sorted(ranked)
        assert found(db, query, limit=limit, **options) == [hit.pk for hit in hits][:limit]
        assert pages(db, query, limit=limit, **options) == [hit.pk for hit in hits]
        mirror = TextMirror()
        for _ in range(2):
            assert search(db, query, limit=1000, mirror=mirror, **options).items == hits
        assert pages(db, query, limit=limit, mirror=mirror, **options) == [hit.pk for hit in hits]


def test_a_mirror_pages_while_messages_are_added(tx: Connection, talk: Conversation) -> None:
    before = say(tx, talk, *(f"zebra {'cow ' * (number % 7)}" for number in range(20)))
    wanted = found(tx, "zebra cow", limit=100)
    mirror = TextMirror()
    add = lambda: messages.add(tx, talk.id, "user", "zebra " * 9)  # noqa: E731
    seen = pages(tx, "zebra cow", between=add, limit=3, mirror=mirror)
    assert [pk for pk in seen if pk in before] == wanted
    assert len(seen) == len(set(seen))


# --- plans


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"role": "tool"},
        {"date_from": "2024-01-01", "date_to": "2024-02-01"},
        {"project_pks": [1]},
        {"project_pks": [1, 2]},
        {"project_pks": [1, NO_PROJECT], "role": "user"},
        {"conversation": True},
        {"conversation": True, "role": "user", "date_from": "2024-01-01"},
    ],
)
@pytest.mark.parametrize("query", [None, "zebra"])
@pytest.mark.parametrize("sort", ["relevance", "time"])
@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("analysed", [False, True])
def test_no_search_reads_all_messages_or_conversations(
    tx: Connection,
    talk: Conversation,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    query: str | None,
    sort: str,
    few: int,
    analysed: bool,
) -> None:
    monkeypatch.setattr(message_search, "FEW", few)
    options = dict(options)
    if options.pop("conversation", False):
        options["conversation_id"] = talk.id
    say(tx, talk, *["zebra"] * 30)
    if analysed:
        for number in range(30):  # of a single row, a scan costs no more than a search
            say(tx, conversations.create(tx, "x", project_pk=projects.create(tx, f"p{number}").pk), *["cow"] * 3)
        tx.script("ANALYZE")
    run: list[tuple[str, Any]] = []

    def note(cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        run.append((sql, values))
        return True

    tx.raw.set_exec_trace(note)
    search(tx, query, sort=sort, **options)
    tx.raw.set_exec_trace(None)
    assert run
    for sql, values in run:
        for *_, step in tx.raw.execute(f"EXPLAIN QUERY PLAN {sql}", values):
            assert not step.startswith("SCAN") or "VIRTUAL TABLE" in step or step == "SCAN c", (step, sql)


# --- what was not searched for


@pytest.mark.parametrize("sort", ["relevance", "time"])
def test_what_was_not_searched_for_is_told_on_each_page(tx: Connection, talk: Conversation, sort: str) -> None:
    words = [f"q{one}{other}k" for one in ascii_lowercase for other in ascii_lowercase][: MAX_TERMS + 12]
    say(tx, talk, *[" ".join(words)] * 2, words[-1])
    query = " ".join(words)
    page = search(tx, query, sort=sort, match="any", limit=1)
    assert f"not searched for: {words[-12]}, " in str(page.degraded)
    assert search(tx, query, sort=sort, match="any", limit=1, after=page.next).degraded == page.degraded
    assert search(tx, query, sort=sort, match="all").degraded is None
    assert search(tx, words[0], sort=sort).degraded is search(tx, None).degraded is None


@pytest.mark.parametrize("match", ["any", "all"])
def test_that_the_end_of_a_long_query_was_not_searched_for_is_told(
    tx: Connection, talk: Conversation, match: str
) -> None:
    say(tx, talk, "cat")
    page = search(tx, f"{' ' * MAX_CHARACTERS}cat", match=match)
    told = "only the first 8,000 characters of the question were searched for"
    assert (page.items, page.degraded) == ([], told)
    assert search(tx, f"cat{' ' * MAX_CHARACTERS}").degraded is None

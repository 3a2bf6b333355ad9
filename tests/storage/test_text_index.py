"""The full-text index: what is found, in which order, by whom, and that it stays what the texts say."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage import conversations, memories, messages, projects, text_index
from storage.bm25 import Postings
from storage.connection import Connection
from storage.database import Database
from storage.errors import UsageError
from storage.passage_tokens import tokens_of
from storage.sources import NO_PROJECT, Source
from storage.text_mirror import TextMirror
from storage.text_query import Syntax, Term, required


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


def remember(db: Connection, project: int, *texts: str) -> list[int]:
    """Keep texts as memories and return their pks."""
    return [memories.add(db, project, "-", text).pk for text in texts]


def found(db: Connection, question: str, *, project: int | None = None, limit: int = 10, **more: object) -> list[int]:
    return [
        pk
        for pk, _ in text_index.search(db, Source.MEMORY, question, project_pk=project, limit=limit, **more)  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("see ADR-016 for why", ["ADR-016", "adr 016", "016", '"ADR-016 for"', '"see adr"']),
        ("call foo_bar(x)", ["foo_bar", "foo", "bar"]),
        ("the method getUserById", ["user", "getUserById", "getuserbyid", "get_user_by_id"]),
        ("written in C++ and C#", ["C++", "c#", "C"]),
        ("pi is 3.14 or so", ["3.14"]),
        ("Released v2.5.1 today", ["2.5.1", "v2.5.1", '"2.5.1"', "jquery-2.5.1"]),
        ("Released 2.5.1 today", ["v2.5.1", "V2.5.1"]),
        ("only TLSv1.3 or Python3.14", ["1.3", "TLS 1.3", "TLS", "3.14", '"Python 3.14"', "python3.14"]),
        ("for $3.14M, on 2.4GHz, in report_v1.2rc4.pdf", ["3.14", "3.14M", "2.4", "2.4GHz", "1.2", "1.2rc4"]),
        ("1,234.56 euros, EUR1,234,567.8", ["1234.56", "1,234.56", "1234567.8", "1,234,567.8", "eur"]),
        ("1234.56 euros", ["1,234.56"]),
        ("от2.5млн; see /3.14#pi", ["2.5", "2,5млн", "3.14"]),
        ("shouldReturnNotFoundWhenUserDoesNotExist()", ["user", "notFound", "UserDoesNotExist"]),
        ("findFirstByUserIdAndStatusOrderByCreatedAtDesc", ["status", "created", "created_at"]),
        ("a node.js server", ["node.js", "node", "nodejs OR js"]),
        ("cafe\u0301 Müller Straße", ["café", "cafe", "muller", "MÜLLER", "strasse"]),
        ("ｆｕｌｌ　ｗｉｄｔｈ", ["full", "width"]),
        ("running quickly", ["run", "runs"]),
        ("今日は天気がいい", ["天気", "天", "気がい", "今日は天気がいい"]),
        ("全文检索引擎", ["检索", "擎"]),
        ("데이터베이스 검색", ["검색", "베이", "스"]),
        ("ฐานข้อมูลภาษาไทย", ["ข้อมูล", "ไทย", "ไ", "ภา"]),
        ("पैंथर्स की डिफ़ेन्स", ["पैंथर्स", "डिफ़ेन्स"]),
        ("об'єкт красивого", ["красивый"]),
    ],
)
def test_what_a_text_is_found_by(tx: Connection, text: str, questions: list[str]) -> None:
    project = projects.create(tx, "p").pk
    wanted, _ = remember(tx, project, text, "unrelated words zzz")
    for question in questions:
        assert found(tx, question, project=project) == [wanted], question


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("3 and 14", "3.14"),
        ("C and D", "C++"),
        ("art of the state", '"state of the art"'),
        ("016 ADR", '"ADR-016"'),
        ("気天", "天気"),
        ("v12.51, 2.51M", "2.5"),
        ("v2.5, v2.6 and Python3.14, Python3.13", "5.2"),
        ("v2.5, v2.6 and Python3.14, Python3.13", "14.3"),
        ("", "anything"),
    ],
)
def test_what_a_text_is_not_found_by(tx: Connection, text: str, question: str) -> None:
    project = projects.create(tx, "p").pk
    remember(tx, project, text or "-")
    assert found(tx, question, project=project) == []


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Released v2.5.1 today", "released 2.5.1"),
        ("only TLSv1.3", "TLS 1.3"),
        ("Python 3.14 is out", "python3.14"),
        ("costs $1,234.56", "cost 1234.56"),
        ("costs $1234.56", "cost 1,234.56"),
    ],
)
def test_a_dotted_number_is_all_that_was_asked_however_it_is_spelled(tx: Connection, text: str, question: str) -> None:
    project = projects.create(tx, "p").pk
    wanted, _ = remember(tx, project, text, "released cost python3 TLS: 1, 2, 3, 5, 14, 56, 234, 1234")
    assert text_index.matching(tx, text_index.part(tx, Source.MEMORY, project), required(question)) == [wanted]


def test_the_number_itself_comes_first(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    wanted, other = remember(tx, project, "version 2.5.1 of it", "chapters 1 and 5")
    assert found(tx, "v2.5.1", project=project) == [wanted, other]


def test_the_better_match_comes_first(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    pks = remember(tx, project, "one two three", "one two", "one", "four")
    assert found(tx, "one two three", project=project) == pks[:3]


def test_equal_scores_are_ordered_by_pk(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    pks = remember(tx, project, *["same words"] * 5)
    assert found(tx, "same words", project=project, limit=3) == pks[:3]


def test_a_repeated_term_counts_twice(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    first, second = remember(tx, project, "alpha beta beta", "alpha alpha beta")
    remember(tx, project, *["other"] * 20)
    assert found(tx, "alpha alpha beta", project=project) == [second, first]
    assert found(tx, "alpha beta beta", project=project) == [first, second]


def test_only_stop_words_still_find(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    (pk,) = remember(tx, project, "to be or not to be")
    assert found(tx, "to be or not to be", project=project) == [pk]


def test_a_project_sees_its_own_rows_alone(tx: Connection) -> None:
    mine, other = (projects.create(tx, name).pk for name in "ab")
    (pk,) = remember(tx, mine, "common word")
    remember(tx, other, *["common word"] * 30)
    assert found(tx, "common", project=mine) == [pk]
    assert len(found(tx, "common", limit=100)) == 31
    assert found(tx, f"common {text_index.scope(other)} p{other} {other}", project=mine) == [pk]
    assert found(tx, f'common) OR scope:("{other}"', project=mine) == [pk]


def test_messages_are_found_in_the_project_of_their_conversation(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    inside = conversations.create(tx, "in", project_pk=project)
    outside = conversations.create(tx, "out")
    pks = [messages.add(tx, c.id, "user", "hello there").pk for c in (inside, outside)]
    search = text_index.search
    assert [pk for pk, _ in search(tx, Source.MESSAGE, "hello", project_pk=project, limit=5)] == pks[:1]
    assert [pk for pk, _ in search(tx, Source.MESSAGE, "hello", project_pk=None, limit=5)] == pks


def test_only_allowed_rows_are_found_at_any_limit(tx: Connection) -> None:
    project = projects.create(tx, "p").pk
    pks = remember(tx, project, *(f"word {'word ' * n}" for n in range(30)))
    for allowed in ([], pks[:1], pks[3:20], pks):
        assert sorted(found(tx, "word", project=project, limit=1000, allowed=allowed)) == allowed
        assert set(found(tx, "word", project=project, limit=2, allowed=allowed)) <= set(allowed)


def test_a_limit_below_one_is_refused(tx: Connection) -> None:
    with pytest.raises(UsageError, match="limit 0: ask for at least 1 hit"):
        found(tx, "x", limit=0)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("red AND apples", [0]),
        ("red NOT apple", [1]),
        ('"green apple"', [2]),
        ("appl*", [0, 2]),
        ("NEAR(red apple, 3)", [0]),
        ("body : (green OR wine)", [1, 2]),
        ("heading : green", []),
        ("ADR-016", None),
        ("scope : 1", None),
        ("(", None),
        ('"', None),
        ("*", None),
    ],
)
def test_the_language_of_fts5(tx: Connection, query: str, expected: list[int] | None) -> None:
    project = projects.create(tx, "p").pk
    pks = remember(tx, project, "a red apple", "red wine", "a green apple")
    if expected is None:
        with pytest.raises(UsageError, match="^query: "):
            found(tx, query, project=project, syntax="fts5")
    else:
        assert sorted(found(tx, query, project=project, syntax="fts5")) == [pks[place] for place in expected]


@pytest.mark.parametrize("mirror", [None, TextMirror()])
@pytest.mark.parametrize("large", [1, text_index.LARGE])
def test_what_fits_in_fts5s_language_is_ranked_as_any_question(
    tx: Connection, monkeypatch: pytest.MonkeyPatch, mirror: TextMirror | None, large: int
) -> None:
    monkeypatch.setattr(text_index, "LARGE", large)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 2)
    texts = ["fig plum", "fig fig pear", "plum pear", "pear", "fig quince"]
    for project in (1, 2):
        rows = [(10 * project + place, tokens_of(text)) for place, text in enumerate(texts)]
        text_index.put(tx, Source.FILE, project, rows * (project == 1) or rows[:2])

    def ranked(query: str, syntax: Syntax) -> tuple[list[tuple[int, float]], float, tuple[Term, ...]]:
        matches = text_index.matches(
            tx, Source.FILE, query, project_pk=1, syntax=syntax, allowed=[10, 11, 12, 14], mirror=mirror
        )
        return matches.best(9), matches.ceiling, matches.left_out

    best, ceiling, left_out = ranked("fig plum", "plain")
    found = ranked("(fig OR plum) NOT quince", "fts5")
    everything = [pk for pk, _ in best] if large > 1 else [10, 12, 11]
    assert found[1:] == (ceiling, left_out)
    assert [item for item in found[0] if item[1]] == [item for item in best if item[0] != 14]
    assert [pk for pk, _ in found[0]] == [pk for pk in everything if pk != 14]
    assert 0 < found[0][0][1] < ceiling


def test_the_language_of_fts5_does_not_leave_the_project(tx: Connection) -> None:
    mine, other = (projects.create(tx, name).pk for name in "ab")
    remember(tx, mine, "mine")
    remember(tx, other, *["secret"] * 30)
    assert found(tx, "x OR secret", project=mine, syntax="fts5") == []
    with pytest.raises(UsageError):
        found(tx, "x) OR (secret", project=mine, syntax="fts5")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with a few texts of many scripts."""
    texts = ["plain words", "東京タワー 全文检索", "ไทย ข้อมูล", "get_user C++ 3.14", "a b c d e f " * 50]
    with Database.open(tmp_path_factory.mktemp("filled") / "text.db") as database:
        with database.write() as db:
            remember(db, projects.create(db, "p").pk, *texts)
        yield database


HOSTILE = [
    "multi-agent",
    "node.js",
    "C++",
    "a'b",
    "*",
    "NOT x",
    "",
    "body:x",
    '"',
    '""',
    "(",
    "a AND",
    "NEAR(a b)",
    "\0",
]


@given(st.one_of(st.text(max_size=200), st.sampled_from(HOSTILE), st.text(st.sampled_from('ab "*():^+-{}\0\n東'))))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_string_is_a_legal_question(filled: Database, question: str) -> None:
    with filled.read() as db:
        text_index.search(db, Source.MEMORY, question, project_pk=1, limit=10)


@given(st.text(max_size=100))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_string_in_the_language_of_fts5_is_answered_or_refused_as_ours(filled: Database, query: str) -> None:
    with filled.read() as db:
        try:
            text_index.search(db, Source.MEMORY, query, project_pk=1, limit=10, syntax="fts5")
        except UsageError as error:
            assert error.message.startswith("query: ")


def test_a_question_of_many_terms_is_cut_to_the_rarest(filled: Database) -> None:
    question = " ".join(a + b for a in ascii_lowercase for b in ascii_lowercase[:15]) + " plain"
    with filled.read() as db:
        assert [pk for pk, _ in text_index.search(db, Source.MEMORY, question, project_pk=1, limit=10)] == [1]


UNSPACED = st.text(st.sampled_from("東京都天気の今ひカ한국어กขคา้ไ"), min_size=1, max_size=12)


@given(st.lists(st.lists(UNSPACED, max_size=3).map("、 x".join), min_size=1, max_size=8), st.data())
@settings(max_examples=60)
def test_one_and_two_characters_are_found_wherever_they_stand(texts: list[str], data: st.DataObject) -> None:
    joined = "".join(texts) or "東"
    start = data.draw(st.integers(0, len(joined) - 1))
    asked = data.draw(st.sampled_from([joined[start : start + 1], joined[start : start + 2]]))
    if not asked.strip("、 x") or any(character in "、 x" for character in asked):
        return
    rows = [(pk, tokens_of(text)) for pk, text in enumerate(texts, 1)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "cjk.db") as database,
        database.write() as db,
    ):
        text_index.put(db, Source.MEMORY, None, rows)
        hits = text_index.search(db, Source.MEMORY, asked, project_pk=None, limit=100)
    if not crosses_scripts(asked):
        assert sorted(pk for pk, _ in hits) == [pk for pk, text in enumerate(texts, 1) if asked in text]


def crosses_scripts(text: str) -> bool:
    """Whether Thai letters and East Asian characters meet: they are runs of their own."""
    return len({"\u0e00" <= character <= "\u0e7f" for character in text}) > 1


class IndexMachine(RuleBasedStateMachine):
    """Whatever is put and deleted, in whatever order, the index is that of the texts that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "index.db")
        self.texts: dict[int, tuple[int | None, str, str]] = {}
        self.next = 1

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    TEXT = st.text(st.sampled_from("ab AB-_1東京กข+#'.é"), max_size=20)

    @rule(project=st.sampled_from([None, 1, 2]), rows=st.lists(st.tuples(TEXT, TEXT), max_size=4))
    def put(self, project: int | None, rows: list[tuple[str, str]]) -> None:
        new = {self.next + place: (project, *row) for place, row in enumerate(rows)}
        self.next += len(rows)
        with self.database.write() as db:
            made = [(pk, tokens_of(body, heading)) for pk, (_, heading, body) in new.items()]
            text_index.put(db, Source.FILE, project, made)
        self.texts |= new

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        pks = data.draw(st.lists(st.sampled_from([*self.texts, 999]), max_size=4))
        with self.database.write() as db:
            text_index.delete(db, Source.FILE, pks)
        for pk in pks:
            self.texts.pop(pk, None)

    @rule(data=st.data(), text=TEXT)
    def replace(self, data: st.DataObject, text: str) -> None:
        if not self.texts:
            return
        pk = data.draw(st.sampled_from(list(self.texts)))
        project, heading, _ = self.texts[pk]
        with self.database.write() as db:
            text_index.delete(db, Source.FILE, [pk])
            text_index.put(db, Source.FILE, project, [(pk, tokens_of(text, heading))])
        self.texts[pk] = (project, heading, text)

    @rule()
    def roll_back(self) -> None:
        with suppress(LookupError), self.database.write() as db:
            text_index.delete(db, Source.FILE, list(self.texts))
            text_index.put(db, Source.FILE, 1, [(10_000, tokens_of("ghost"))])
            raise LookupError

    @invariant()
    def holds_what_the_texts_say(self) -> None:
        rows = [(pk, project, tokens_of(body, head)) for pk, (project, head, body) in self.texts.items()]
        with self.database.read() as db:
            assert text_index.drift(db, Source.FILE, rows) == 0
            known = [pk for (pk,) in db.all("SELECT id FROM chunk_fts_docsize ORDER BY id")]
        assert known == sorted(self.texts)


IndexMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestIndex = IndexMachine.TestCase


@pytest.mark.parametrize(
    "row", [(1, 1, "other words"), (1, 2, "some words"), (2, 1, "some words"), (1, 1, "words some")]
)
def test_drift_sees_every_difference(tx: Connection, row: tuple[int, int, str]) -> None:
    text_index.put(tx, Source.FILE, 1, [(1, tokens_of("some words"))])
    right = (1, 1, tokens_of("some words"))
    pk, project, text = row
    assert text_index.drift(tx, Source.FILE, [right]) == 0
    assert text_index.drift(tx, Source.FILE, [(pk, project, tokens_of(text))]) == len({1, pk})
    assert text_index.drift(tx, Source.FILE, []) == 1


@pytest.mark.parametrize("mirror", [None, TextMirror()])
@pytest.mark.parametrize("question", ['"refund policy"', "refund_policy"])
def test_a_phrase_counts_as_often_as_it_stands_there(tx: Connection, question: str, mirror: TextMirror | None) -> None:
    """Also beside another project, where the project's own token is asked for."""
    for project in (1, 2):
        often = "the refund policy is strict. " * 8
        texts = [
            "lunch, and the refund policy at the desk",
            often,
            "policy of each refund here " * 8,
            "a refund is a policy",
        ]
        rows = [(10 * project + number, tokens_of(text)) for number, text in enumerate(texts)]
        text_index.put(tx, Source.FILE, project, [*rows, (10 * project + 4, tokens_of("lunch", "Refund policy"))])
    text_index.put(tx, Source.FILE, 3, [(pk, tokens_of("something else")) for pk in range(50, 60)])
    term = Term(("refund", "polici"))
    for projects_asked, first in ((None, 1), (2, 2)):
        where = text_index.part(tx, Source.FILE, projects_asked)
        told = text_index.postings(tx, where, term)
        counts = dict(zip(told.pks, told.frequencies, strict=True))
        assert [counts.get(10 * first + number) for number in range(5)] == [1.0, 8.0, None, None, 1.5]
    best = text_index.search(tx, Source.FILE, question, project_pk=2, limit=1, mirror=mirror)
    assert best[0][0] == 21


def test_clearing_leaves_nothing(tx: Connection) -> None:
    text_index.put(tx, Source.FILE, 1, [(1, tokens_of("some words"))])
    text_index.clear(tx, Source.FILE)
    assert text_index.drift(tx, Source.FILE, []) == 0


def test_words_too_common_are_dropped_in_a_large_index_but_never_all(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "LARGE", 5)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 5)
    project = projects.create(tx, "p").pk
    common = remember(tx, project, *["everywhere"] * 10)
    (rare,) = remember(tx, project, "seldom everywhere")
    assert found(tx, "seldom everywhere", project=project) == [rare]
    assert found(tx, "everywhere", project=project, limit=100) == [*common, rare]


@pytest.mark.parametrize("mirror", [None, TextMirror()])
@pytest.mark.parametrize(("name", "value"), [("LARGE", 5), ("MAX_TERMS", 2)])
def test_what_stands_nowhere_counts_for_the_ceiling_in_a_large_index_too(
    tx: Connection, monkeypatch: pytest.MonkeyPatch, mirror: TextMirror | None, name: str, value: int
) -> None:
    project = projects.create(tx, "p").pk
    remember(tx, project, *["apple pear"] * 6)

    def ceiling() -> float:
        question = "apple nowhere none"
        return text_index.matches(tx, Source.MEMORY, question, project_pk=project, mirror=mirror).ceiling

    among_few = ceiling()
    monkeypatch.setattr(text_index, name, value)
    assert ceiling() == among_few


WORDS = st.lists(st.sampled_from(["apple", "pear", "plum", "fig", "東京"]), min_size=1, max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("large", "most", "terms"), [(text_index.LARGE, 9, text_index.MAX_TERMS), (3, 4, 9), (9, 9, 2)]
)
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, max_size=30), WORDS)
@settings(max_examples=15, deadline=None)
def test_no_project_shifts_the_ranking_of_another(
    large: int, most: int, terms: int, mine: list[str], others: list[str], question: str
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "two.db") as database,
        database.write() as db,
    ):
        patch.setattr(text_index, "LARGE", large)
        patch.setattr(text_index, "MAX_POSTINGS", most)
        patch.setattr(text_index, "MAX_TERMS", terms)

        def answer() -> tuple[list[tuple[int, float]], float, tuple[Term, ...]]:
            matches = text_index.matches(db, Source.MEMORY, question, project_pk=1)
            return matches.best(100), matches.ceiling, matches.left_out

        text_index.put(db, Source.MEMORY, 1, [(pk, tokens_of(text)) for pk, text in enumerate(mine, 1)])
        alone = answer()
        text_index.put(db, Source.MEMORY, 2, [(pk, tokens_of(text)) for pk, text in enumerate(others, 100)])
        assert answer() == alone


@pytest.mark.parametrize("mirror", [None, TextMirror()])
def test_an_answer_says_which_words_were_too_common_to_be_searched_for(
    tx: Connection, monkeypatch: pytest.MonkeyPatch, mirror: TextMirror | None
) -> None:
    monkeypatch.setattr(text_index, "LARGE", 5)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 5)
    project = projects.create(tx, "p").pk
    remember(tx, project, *["everywhere"] * 10, "seldom everywhere")

    def left_out(question: str) -> tuple[Term, ...]:
        return text_index.matches(tx, Source.MEMORY, question, project_pk=project, mirror=mirror).left_out

    assert left_out("seldom everywhere nowhere") == (Term(("everywher",)),)
    assert left_out("everywhere nowhere") == left_out("nowhere") == ()


def test_the_score_is_bm25(tx: Connection) -> None:
    texts = ["fig", "fig fig plum", "plum pear pear pear pear", "pear"]
    text_index.put(tx, Source.FILE, 1, [(pk, tokens_of(text)) for pk, text in enumerate(texts, 1)])
    hits = dict(text_index.search(tx, Source.FILE, "fig pear pear", project_pk=1, limit=9))
    mean = sum(len(text.split()) for text in texts) / len(texts)
    for pk, text in enumerate(texts, 1):
        words = text.split()
        expected = 0.0
        for term in ("fig", "pear", "pear"):
            df, tf = sum(term in other.split() for other in texts), words.count(term)
            weight = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            expected += weight * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        assert hits.get(pk, 0.0) == pytest.approx(expected)


def test_a_word_of_the_heading_counts_more(tx: Connection) -> None:
    rows = [(1, tokens_of("fig plum")), (2, tokens_of("plum", "fig")), (3, tokens_of("pear"))]
    text_index.put(tx, Source.FILE, 1, rows)
    assert [pk for pk, _ in text_index.search(tx, Source.FILE, "fig", project_pk=1, limit=9)] == [2, 1]


TIMES = st.dictionaries(st.sampled_from(["fig", "plum", "東", "C++"]), st.integers(1, 120), max_size=3)
ROWS = st.lists(st.tuples(st.sampled_from([None, 1, 2]), TIMES, TIMES), min_size=1, max_size=8)


@given(ROWS, st.sampled_from([NO_PROJECT, 1, (1, 2)]), st.sampled_from([0, 1, 3, 100]), st.sampled_from([0, 2, 1_000]))
@settings(max_examples=40, deadline=None)
def test_asking_for_the_projects_tokens_changes_no_posting(
    rows: list[tuple[int | None, dict[str, int], dict[str, int]]], chosen: int | tuple[int, ...], most: int, many: int
) -> None:
    def text(times: dict[str, int]) -> str:
        return " ".join(f"{word} " * count for word, count in times.items())

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "text.db") as database,
        database.write() as db,
    ):
        patch.setattr(text_index, "MAX_FOREIGN", most)
        patch.setattr(text_index, "MANY_FREQUENT", many)
        for pk, (project, body, heading) in enumerate(rows, 1):
            text_index.put(db, Source.FILE, project, [(pk, tokens_of(text(body), text(heading)))])
        where = text_index.part(db, Source.FILE, chosen)
        for token in ("fig", "plum", "東", "c\ue000\ue000", "c"):
            scoped, unscoped = (
                text_index.postings(db, replace(where, scoped=scoped), Term((token,))) for scoped in (True, False)
            )
            assert scoped == unscoped


def test_a_search_in_a_small_project_reads_few_frequencies_of_others(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "MAX_FOREIGN", 20)
    for project in range(1, 5):
        rows = [(100 * project + n, tokens_of("fig " * n)) for n in range(2, 100 if project == 1 else 5)]
        text_index.put(tx, Source.FILE, project, rows)
    where = text_index.part(tx, Source.FILE, 3)
    read: list[object] = []
    ours = tx.all

    def counted(sql: str, **values: Any) -> list[tuple[Any, ...]]:
        rows = ours(sql, **values)
        read.extend(rows if "chunk_places" in sql else ())
        return rows

    monkeypatch.setattr(Connection, "all", lambda _, sql, **values: counted(sql, **values))
    assert where.scoped
    assert text_index.postings(tx, where, Term(("fig",))) == Postings([302, 303, 304], [2.0, 3.0, 4.0], [2, 3, 4])
    assert len(read) == 20


@pytest.mark.parametrize("times", [1, 2, 3, 7, 11, 150])
def test_frequencies_are_told_apart_up_to_a_step(tx: Connection, times: int) -> None:
    text_index.put(tx, Source.FILE, 1, [(1, tokens_of("fig " * times)), (2, tokens_of("plum"))])
    where = text_index.part(tx, Source.FILE, 1)
    (frequency,) = text_index.postings(tx, where, Term(("fig",))).frequencies
    assert frequency <= times <= frequency * 1.5

"""Any string is a question: it never fails, never finds another project's rows, and short CJK words are all found."""

from __future__ import annotations

import io
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import mutants
from faults.desk import Desk, note
from faults.queries import LONG, NASTY, QUERIES, WORDS
from hypothesis import HealthCheck, Phase, given, settings

from knowlex import Knowlex
from knowlex.cli import main
from storage import conversations, memories, message_search, messages, projects, text_index
from storage.connection import Connection
from storage.database import Database
from storage.errors import UsageError
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror

pytestmark = pytest.mark.row(14)

FOREIGN = "foreigner"
"""Stands in every text of the other project, and in no question."""


def sentences(count: int, rng: random.Random) -> list[str]:
    """Texts made of what is asked for."""
    usable = [text for text in NASTY if text.strip() and "\0" not in text and text.isprintable()]
    return [" ".join(rng.choices(usable + WORDS, k=12)) for _ in range(count)]


def furnish(path: Path, count: int) -> None:
    """Make two projects of the same texts; those of the second one say so."""
    with Database.open(path) as db:
        texts = sentences(count, random.Random(14))
        desk = Desk(db, path.parent / "in")
        for number in range(0, count, 4):
            desk.write(f"{number}.md", note(number) + "\n\n" + "\n\n".join(texts[number : number + 4]))
        desk.ingest()
        with db.write() as connection:
            other = projects.create(connection, "other")
            fill(connection, desk.project, texts)
            theirs = [f"{text} {FOREIGN}" for text in texts]
            fill(connection, other.pk, theirs)
            rows = [(10**6 + number, tokens_of(text)) for number, text in enumerate(theirs)]
            text_index.put(connection, Source.FILE, other.pk, rows)


def fill(db: Connection, project: int, texts: list[str]) -> None:
    talk = conversations.create(db, "talk", project_pk=project)
    for text in texts:
        messages.add(db, talk.id, "user", text)
        memories.add(db, project, text[:40].strip() or "t", text)


class Searches:
    """Every search there is, over project "desk" of one database; `ask` runs all and keeps what is amiss."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kb = Knowlex(path)
        self.kb.search("desk", "warm", mode="text")
        self.project = self.kb.project("desk").pk
        self.mirror = TextMirror()
        self.asked = 0
        self.amiss: list[str] = []
        self.took_ms: defaultdict[str, list[float]] = defaultdict(list)
        with self.kb.database.read() as db:
            self.mine = {pk for (pk,) in db.all("SELECT pk FROM file_chunks WHERE project_id = :pk", pk=self.project)}

    def ask(self, query: str) -> None:
        """Run every search with a question."""
        self.asked += 1
        with self.kb.database.read() as db:
            self._try("files", query, lambda: self._files(db, query))
            self._try("files by mirror", query, lambda: self._files(db, query, mirror=self.mirror))
            self._try("files by fts5", query, lambda: self._files(db, query, syntax="fts5"), refusable=True)
            self._try("memories", query, lambda: memories.search(db, self.project, query))
            for sort, match in (("relevance", "any"), ("time", "all")):
                name = f"messages by {sort}"
                self._try(name, query, lambda s=sort, m=match: self._messages(db, query, sort=s, match=m))
        every = ("files", "memories", "messages")
        blank = not query.strip()
        self._try("all", query, lambda: self.kb.search("desk", query, mode="text", sources=every), refusable=blank)

    @property
    def slowest(self) -> tuple[float, str]:
        """The time that 99 of 100 calls of a kind do not exceed (ms), and the kind of which that is longest."""
        return max((float(np.percentile(took, 99)), name) for name, took in self.took_ms.items())

    def ask_command_line(self, query: str, *options: str) -> None:
        """Run `knowlex search` with a question, in this process; its output goes into bytes as it would."""
        code, said = called("--db", str(self.path), "search", *options, "--", "desk", query)
        allowed = (0, 2) if not query.strip() or "fts5" in options else (0,)
        if code not in allowed or FOREIGN.encode() in said:
            self.amiss.append(f"command line {options}: {query[:80]!r}: {code} {said[-200:]!r}")

    def _files(self, db: Connection, query: str, **more: Any) -> list[str]:
        found = text_index.search(db, Source.FILE, query, project_pk=self.project, limit=20, **more)
        return [FOREIGN for pk, _ in found if pk not in self.mine]

    def _messages(self, db: Connection, query: str, **more: Any) -> object:
        # A blank question lists everything of the project, which is none of this harness's business to measure.
        return message_search.search(db, query, project_pks=[self.project], limit=20, **more).items

    def _try(self, name: str, query: str, search: Callable[[], object], *, refusable: bool = False) -> None:
        started = time.perf_counter()
        try:
            found = search()
        except UsageError:
            found = [] if refusable else "refused"
        except Exception as error:  # whatever comes out is what is looked for here
            found = f"{type(error).__name__}: {error}"
        self.took_ms[name].append(1000 * (time.perf_counter() - started))
        if isinstance(found, str) or FOREIGN in repr(found):
            self.amiss.append(f"{query[:80]!r}: {str(found)[:200]}")


def called(*arguments: str) -> tuple[int, bytes]:
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, "utf8", write_through=True)
    with redirect_stdout(text), redirect_stderr(text):
        code = main(list(arguments))
    return code, raw.getvalue()


def fuzz(searches: Searches, count: int) -> None:
    """Ask what is known to be nasty, and as much as is wanted of what hypothesis draws."""
    for query in NASTY + LONG:
        searches.ask(query)
    for query in NASTY:
        searches.ask_command_line(query, "--mode", "text", "--json")

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(QUERIES)
    def ask(query: str) -> None:
        searches.ask(query)
        if searches.asked % 25 == 0:
            searches.ask_command_line(query, "--mode", "text", *(["--syntax", "fts5"] * (searches.asked % 50 == 0)))

    ask()


@pytest.fixture
def searches(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Searches]:
    furnish(tmp_path / "fuzz.db", getattr(request, "param", 60))
    made = Searches(tmp_path / "fuzz.db")
    yield made
    made.kb.close()


def test_no_question_fails_or_finds_what_is_anothers(searches: Searches) -> None:
    fuzz(searches, 60)
    assert searches.amiss == []
    assert len(searches.took_ms) == 7


def test_one_slow_search_of_seven_is_not_hidden_by_the_others(searches: Searches) -> None:
    for name, slow in (("files", 0), ("memories", 6)):
        searches.took_ms[name] += [1.0] * (100 - slow) + [200.0] * slow
    assert searches.slowest == (200.0, "memories")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("searches", [2_000], indirect=True)
def test_ten_thousand_questions(searches: Searches, figure) -> None:
    fuzz(searches, 10_000)
    p99, slowest = searches.slowest
    text = f"{searches.asked:,} questions × 7 searches of 3 × 4,000 passages: {len(searches.amiss)} exceptions or leaks"
    figure(
        14,
        f"{text}, p99 {p99:.1f} ms ({slowest}, the slowest of {len(searches.took_ms)})",
        not searches.amiss and p99 < 100,
    )


LONGER_THAN_THE_MODEL_TAKES = 250
"""Characters from which a question may have more tokens than are embedded, or more words than are searched for."""

OF_A_LONG_QUESTION = {
    "text": re.compile(
        r"(too many or too common words; not searched for: .+?)?(; )?"
        r"(only the first [\d,]+ characters of the question were searched for)?",
        re.DOTALL,
    ),
    "vector": re.compile(r"only the first [\d,]+ tokens of the question were embedded"),
}
"""All that a leg may say of one; whatever else it says is a leg that failed."""


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_questions_by_meaning(tmp_path: Path, figure) -> None:
    """With the real model, through the facade and the command line."""
    (tmp_path / "in").mkdir()
    for number, text in enumerate(sentences(60, random.Random(15))):
        (tmp_path / "in" / f"{number}.txt").write_text(text, "utf8")
    amiss: list[str] = []
    asked = 0
    with Knowlex(tmp_path / "real.db") as kb:
        assert kb.ingest("desk", tmp_path / "in").ingested == 60

        @settings(max_examples=500, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(QUERIES)
        def ask(query: str) -> None:
            nonlocal asked
            asked += 1
            try:
                hits = kb.search("desk", query, mode=("hybrid", "vector")[asked % 2])
                for leg, told in ((leg, found.degraded) for leg, found in hits.legs.items() if found.degraded):
                    assert len(query) > LONGER_THAN_THE_MODEL_TAKES, told
                    assert OF_A_LONG_QUESTION[leg].fullmatch(told), told
            except UsageError:
                assert not query.strip()

        for query in NASTY + LONG:
            ask.hypothesis.inner_test(query)
        ask()
        for query in NASTY:
            code, said = called("--db", str(kb.database.path), "search", "--json", "--", "desk", query)
            if code != (0 if query.strip() else 2):
                amiss.append(f"{query!r}: {code} {said[-100:]!r}")
    figure(14, f"{asked:,} questions by meaning, {len(NASTY)} by the command line: {len(amiss)} exceptions", not amiss)


# --- the oracle of short CJK words

UNSPACED = "東京都港区日本語中文検索台風海のにはをがアイエビルカ한국어서울바다"


def furnish_cjk(db: Connection, project: int, count: int, rng: random.Random) -> None:
    talk = conversations.create(db, "talk", project_pk=project)
    for _ in range(count):
        runs = ["".join(rng.choices(UNSPACED, k=rng.randrange(1, 9))) for _ in range(rng.randrange(1, 4))]
        text = rng.choice([" ", "、", " ship ", "-"]).join(runs)
        messages.add(db, talk.id, "user", text)
        memories.add(db, project, "title", text)


ORACLE = {
    Source.FILE: "SELECT pk FROM file_chunks WHERE content LIKE :like",
    Source.MEMORY: "SELECT pk FROM project_memories WHERE content LIKE :like",
    Source.MESSAGE: "SELECT pk FROM messages WHERE content LIKE :like",
}


def missed(database: Database, queries: list[str]) -> tuple[int, int]:
    """Return how many rows LIKE finds for the words, and how many of them a search misses or finds besides."""
    right = wrong = 0
    with database.read() as db:
        for query in queries:
            for source, sql in ORACLE.items():
                wanted = {pk for (pk,) in db.all(sql, like=f"%{query}%")}
                found = {pk for pk, _ in text_index.search(db, source, query, project_pk=1, limit=10**6)}
                right, wrong = right + len(wanted), wrong + len(wanted ^ found)
            page = message_search.search(db, query, project_pks=[1], limit=1000, sort="time")
            wanted = {pk for (pk,) in db.all(ORACLE[Source.MESSAGE], like=f"%{query}%")}
            wrong += len(wanted ^ {hit.pk for hit in page.items})
    return right, wrong


def cjk(desk: Desk, count: int, rng: random.Random) -> list[str]:
    """Fill the desk, and return all words of one character and many of two."""
    for number in range(count // 10):
        runs = ["".join(rng.choices(UNSPACED, k=8)) for _ in range(6)]
        desk.write(f"{number}.txt", "。".join(runs))
    desk.ingest()
    with desk.db.write() as db:
        furnish_cjk(db, desk.project, count, rng)
    pairs = ["".join(rng.choices(UNSPACED, k=2)) for _ in range(count // 2)]
    return [*UNSPACED, *pairs]


def test_short_words_of_unspaced_scripts_are_found_as_like_finds_them(db: Database, tmp_path: Path) -> None:
    right, wrong = missed(db, cjk(Desk(db, tmp_path / "in"), 150, random.Random(2)))
    assert right > 500
    assert wrong == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_many_short_words_of_unspaced_scripts(db: Database, tmp_path: Path, figure) -> None:
    queries = cjk(Desk(db, tmp_path / "in"), 900, random.Random(3))
    right, wrong = missed(db, queries)
    text = f"{len(queries)} CJK words of 1 or 2 characters: {right:,} rows by LIKE, {wrong} missed or found besides"
    figure(14, text, right > 0 and wrong == 0)


def test_a_dropped_index_of_pairs_is_seen(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("pairs-not-indexed", monkeypatch.setattr)
    rng = random.Random(2)
    with db.write() as connection:
        furnish_cjk(connection, projects.create(connection, "p").pk, 50, rng)
    assert missed(db, list(UNSPACED))[1] > 0


def test_tokens_without_quotes_are_seen(searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("unquoted-tokens", monkeypatch.setattr)
    for query in NASTY:
        searches.ask(query)
    assert any("syntax error" in found for found in searches.amiss)

"""From a question to hits: legs, fusion, degradation, isolation, and what a hit tells."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import context, left_out, model_files
from pipeline.answer import Answer
from pipeline.embed import DEFAULT_MODEL
from pipeline.filter_language import parse
from pipeline.options import SearchOptions
from pipeline.order import memory_factors
from pipeline.retrieve import Retriever
from storage import (
    allowed,
    bm25,
    chunks,
    connection,
    conversations,
    files,
    memories,
    messages,
    passages,
    pending,
    projects,
    text_index,
    text_query,
    vectors,
)
from storage.chunks import NewChunk
from storage.compaction import fold_log
from storage.connection import Connection
from storage.database import Database
from storage.errors import (
    OF_THE_WHOLE,
    ConfigurationError,
    CorruptDatabaseError,
    DamagedValueError,
    DatabaseError,
    ModelSwitchedError,
    NotFoundError,
    UsageError,
)
from storage.files import Seen, Versions
from storage.fingerprint import Fingerprint
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror
from storage.vector_mirror import VectorMirror
from storage.vectors import input_hash

DIM = 32
Floats = npt.NDArray[np.float32]


def embed(text: str) -> Floats:
    """A vector of its own for each word, summed up: texts that share words are near."""
    words = text.lower().replace(".", " ").split() or ["-"]
    total = np.sum([np.random.default_rng(list(word.encode())).standard_normal(DIM) for word in words], axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)


@dataclass(frozen=True)
class Shelf:
    """A database with one project."""

    database: Database
    project: int

    def ask(self, query: str, **more: object) -> Answer:
        return asked(self.database, query, **({"project_pk": self.project, "embed_query": embed} | more))


def asked(database: Database, query: str, **given: Any) -> Answer:
    """Ask; what is given are fields of `Retriever` and of `SearchOptions`."""
    by = {name: given.pop(name) for name in tuple(given) if name in Retriever.__slots__}
    return Retriever(database, **by).retrieve(query, SearchOptions(**given))


@pytest.fixture
def shelf(db: Database) -> Shelf:
    with db.write() as tx:
        vectors.ensure_model(
            tx, name="words", hash="h", dim=DIM, pooling="sum", query_prompt="", document_prompt="", precision="fp32"
        )
        return Shelf(db, projects.create(tx, "shelf").pk)


def store(shelf: Shelf, path: str, texts: Sequence[str], *, heading: str = "", project: int | None = None) -> int:
    """Store a file whose extracted text is `texts` joined by blank lines; return its pk."""
    project = shelf.project if project is None else project
    with shelf.database.write() as db:
        model = vectors.live_model(db)
        assert model is not None
        seen = Seen(path.encode(), Fingerprint(1, 1, 1, 1), "|".join(texts))
        pk, _ = files.register(db, project, seen, Versions("v", frozenset({"p"})), scanned_ns=10**18)
        made: list[NewChunk] = []
        start = 0
        for text in texts:
            vector = vectors.encode(embed(text)[None, :])[0]
            tokens = tokens_of(text, heading)
            place = (start, start + len(text), 1, 1)
            made.append(NewChunk(text, len(text.split()), *place, heading, tokens, input_hash(text), vector))
            start += len(text) + 2
        chunks.replace(db, project, pk, model.pk, made)
        db.run("UPDATE project_files SET status = 'ready' WHERE pk = :pk", pk=pk)
    return pk


def queue(shelf: Shelf, path: str, *, project: int | None = None) -> None:
    """Have a file wait to be read."""
    with shelf.database.write() as db:
        seen = Seen(path.encode(), Fingerprint(1, 1, 1, 1), path)
        place = shelf.project if project is None else project
        files.register(db, place, seen, Versions("v", frozenset({"p"})), scanned_ns=10**18)


def remember(db: Connection, shelf: Shelf, title: str, content: str, importance: int = 5) -> memories.Memory:
    memory = memories.add(db, shelf.project, title, content, importance=importance)
    model = vectors.live_model(db)
    assert model is not None
    vector = vectors.encode(embed(content)[None, :])[0]
    vectors.put(db, model.pk, shelf.project, Source.MEMORY, [(memory.pk, input_hash(content), vector)])
    return memory


def say(db: Connection, shelf: Shelf, conversation_id: str, text: str) -> None:
    message = messages.add(db, conversation_id, "user", text)
    model = vectors.live_model(db)
    assert model is not None
    vector = vectors.encode(embed(text)[None, :])[0]
    vectors.put(db, model.pk, shelf.project, Source.MESSAGE, [(message.pk, input_hash(text), vector)])


ANIMALS = ["The cat sleeps all day", "A dog barks at night", "The horse runs in the morning"]


def test_a_hit_tells_where_it_stands(shelf: Shelf) -> None:
    store(shelf, "/docs/animals.md", ANIMALS, heading="Animals")
    answer = shelf.ask("dog barks")
    first = answer.hits[0]
    assert (first.rank, first.source, first.file, first.path) == (1, Source.FILE, "animals.md", "/docs/animals.md")
    assert (first.text, first.heading, first.page_start) == (ANIMALS[1], "Animals", 1)
    assert (first.char_start, first.char_end) == (24, 24 + len(ANIMALS[1]))
    assert first.snippet == "A <mark>dog</mark> <mark>barks</mark> at night"
    assert (first.text_rank, first.vector_rank) == (1, 1)
    assert first.text_score is not None
    assert first.vector_score == pytest.approx(float(embed(ANIMALS[1]) @ embed("dog barks")), abs=1e-2)
    assert answer.legs["text"].returned == 1
    assert answer.legs["vector"].returned == 3
    assert [hit.rank for hit in answer.hits] == [1, 2, 3]


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_each_mode_finds(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    answer = shelf.ask("dog barks", mode=mode, k=1)
    assert [hit.text for hit in answer.hits] == [ANIMALS[1]]
    assert answer.mode == mode
    assert (answer.legs["text"].returned > 0) == (mode != "vector")
    assert (answer.legs["vector"].returned > 0) == (mode != "text")


def test_scores_are_those_of_the_mode(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    text, near = (shelf.ask("dog", mode=mode).hits[0] for mode in ("text", "vector"))
    assert text.score == text.text_score
    assert near.score == near.vector_score


def test_a_leg_is_asked_for_what_only_the_other_found(shelf: Shelf) -> None:
    store(shelf, "/a.md", [*ANIMALS, *(f"nothing of the kind {n}" for n in range(20))])
    other = embed("nothing of the kind")
    hits = shelf.ask("cat", k=10, candidates=10, embed_query=lambda _: other, explain=True).hits
    (cat,) = (hit for hit in hits if hit.vector_rank is None)
    assert cat.text == ANIMALS[0]
    assert cat.why["vector"] == pytest.approx(float(embed(cat.text) @ other), abs=1e-2)
    assert {hit.why["text"] for hit in hits if hit is not cat} == {0.0}


def test_a_hybrid_score_is_what_its_parts_make(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    for hit in shelf.ask("the dog barks", explain=True).hits:
        weight = hit.why["text_weight"]
        assert hit.score == pytest.approx(weight * hit.why["text"] + (1 - weight) * hit.why["vector"])
        assert hit.why["text"] < 1
    assert shelf.ask("xylophone").hits[0].score == shelf.ask("xylophone", mode="vector").hits[0].score


def test_what_has_no_vector_yet_counts_as_the_average_candidate(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        memories.add(db, shelf.project, "pets", "A dog barks in the memory")
    hits = shelf.ask("dog barks", sources=list(Source), explain=True).hits
    near = [hit.why["vector"] for hit in hits if hit.source is Source.FILE]
    [memory] = [hit for hit in hits if hit.source is Source.MEMORY]
    assert memory.why["vector_assumed"] == pytest.approx(sum(near) / len(near))
    assert "vector" not in memory.why, "it has none"
    assert not any("vector_assumed" in hit.why for hit in hits if hit.source is Source.FILE)


def test_a_message_counts_with_those_beside_it(shelf: Shelf) -> None:
    with shelf.database.write() as db:
        for title, replies in (("apart", ["It rains a lot", "Yes"]), ("beside", ["A dog barks", "Yes"])):
            talk = conversations.create(db, title, project_pk=shelf.project)
            for text in (replies[0], "The visitor waits", replies[1]):
                say(db, shelf, talk.id, text)
    answer = shelf.ask("visitor and dog", sources=[Source.MESSAGE], explain=True)
    found = {hit.heading: hit for hit in answer.hits if hit.text == "The visitor waits"}
    beside, apart = found["beside"], found["apart"]
    assert beside.why["fused"] == apart.why["fused"]
    assert beside.score == pytest.approx(beside.why["fused"] + beside.why["neighbours"])
    assert beside.why["neighbours"] > 3 * apart.why["neighbours"] >= 0
    for alone in ({"mode": "text"}, {"embed_query": None}):
        hits = shelf.ask("visitor and dog", sources=[Source.MESSAGE], explain=True, **alone).hits
        assert not any("neighbours" in hit.why for hit in hits)


def test_vectors_that_do_not_follow_the_words_count_little(shelf: Shelf) -> None:
    store(shelf, "/a.md", [f"{word} word number {n}" for n, word in enumerate(("dog barks", "dog", *["cat"] * 60))])
    for seed in range(5):
        noise = np.random.default_rng(seed).standard_normal(DIM)
        unknown = (noise / np.linalg.norm(noise)).astype(np.float32)
        hits = shelf.ask("dog barks", embed_query=lambda _, vector=unknown: vector).hits
        assert hits[0].text.startswith("dog barks")


def test_vectors_of_what_the_model_cannot_read_count_for_nothing(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    for known, weight in ((1.0, 0.5), (0.5, 1.0)):
        hits = shelf.ask("the dog barks", known_letters=lambda _, known=known: known, explain=True).hits
        assert {hit.why["text_weight"] == 1.0 for hit in hits} == {weight == 1.0}
        assert all(hit.score == hit.why["text"] for hit in hits) == (weight == 1.0)
    asked = shelf.ask("xylophone", known_letters=lambda _: 0.0)
    assert [hit.id for hit in asked.hits] == [hit.id for hit in shelf.ask("xylophone", mode="vector").hits]


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_the_vector_leg_tells_that_a_question_was_cut(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    assert shelf.ask("dog", mode=mode, cut_at=lambda _: None).legs["vector"].degraded is None
    told = "only the first 256 tokens of the question were embedded"
    asked = shelf.ask("dog", mode=mode, cut_at=lambda _: 256)
    assert asked.legs["vector"].degraded == told
    assert [hit.text for hit in asked.hits] == [hit.text for hit in shelf.ask("dog", mode=mode).hits]
    with shelf.database.write() as db:
        memories.add(db, shelf.project, "pets", "A dog")
    both = shelf.ask("dog", mode=mode, sources=[*Source], cut_at=lambda _: 256).legs["vector"].degraded
    assert both == f"{told}; memories and messages without a vector, which words alone find: 1"


def test_a_phrase_that_stands_nowhere_is_told_where_nothing_was_found(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)

    def notes(query: str, **more: object) -> tuple[str, ...]:
        return shelf.ask(query, **{"mode": "text"} | more).notes

    told = 'no passage searched holds "barks dog", these words side by side; without quotes, each counts'
    assert notes('"barks dog"') == notes('"barks dog" zebra "unicorn" "barks dog"') == (told,)
    assert notes('"dog barks"') == notes("barks dog") == notes('"barks dog" cat') == notes('"barks') == ()
    assert notes('"barks dog"', syntax="fts5") == notes('"barks dog"', mode="hybrid") == ()


def test_a_failing_embedder_degrades_hybrid_and_stops_vector(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)

    def broken(text: str) -> Any:
        raise RuntimeError("out of memory")

    for parts in ({"embed_query": broken}, {"known_letters": broken}, {"cut_at": broken}):
        answer = shelf.ask("dog", **parts)
        assert answer.legs["vector"].degraded == "the question could not be embedded: out of memory"
        assert [hit.text for hit in answer.hits] == [ANIMALS[1]]
        assert 0 < answer.hits[0].score < 1
        with pytest.raises(RuntimeError, match="out of memory"):
            shelf.ask("dog", **parts, mode="vector")
    assert shelf.ask("dog", embed_query=None).legs["vector"].degraded == "no embedding model is loaded"
    with pytest.raises(ConfigurationError, match="mode vector: no embedding model is loaded"):
        shelf.ask("dog", embed_query=None, mode="vector")


def not_finite(text: str) -> Floats:
    return np.full(DIM, np.nan, np.float32)


@pytest.mark.parametrize(
    ("embed_query", "reason"),
    [
        (not_finite, "NaN or infinity"),
        (lambda text: 2 * embed(text), "not of unit length"),
        (lambda text: embed(text)[1:], "words gives"),
        (lambda text: embed(text).tolist(), "expected an array"),
    ],
)
def test_a_question_without_a_sound_vector_degrades_hybrid_and_stops_vector(
    shelf: Shelf, embed_query: Callable[[str], Floats], reason: str
) -> None:
    store(shelf, "/a.md", ANIMALS)
    answer = shelf.ask("dog", embed_query=embed_query)
    assert reason in str(answer.legs["vector"].degraded)
    assert answer.hits == shelf.ask("dog", embed_query=None).hits
    assert [hit.text for hit in answer.hits] == [ANIMALS[1]]
    with pytest.raises(UsageError, match=reason):
        shelf.ask("dog", embed_query=embed_query, mode="vector")


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_the_vector_leg_tells_what_has_no_vector(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        other = projects.create(db, "other").pk
        added = memories.add(db, shelf.project, "pets", "A dog", importance=9)
        memories.add(db, shelf.project, "pets", "A cat", importance=1)
        talk = conversations.create(db, "Vet", project_pk=shelf.project)
        message = messages.add(db, talk.id, "user", "The dog is ill")
        memories.add(db, other, "pets", "A dog")

    def lacking(*sources: Source, **more: object) -> int:
        told = shelf.ask("dog", mode=mode, sources=sources, **more).legs["vector"].degraded
        return int(str(told).rpartition("which words alone find: ")[2]) if told else 0

    assert lacking(Source.FILE) == 0
    assert lacking(Source.MEMORY) == 2
    assert lacking(*Source) == 3
    assert lacking(*Source, project_pk=None) == 4
    assert lacking(*Source, filter=parse("importance > 5")) == 1
    with shelf.database.write() as db:
        pending.refuse(db, pending.current(db, pending.take(db, 1)), model="m")
        pending.done(db, Source.MESSAGE, [message.pk])
    assert lacking(*Source) == 2
    with shelf.database.write() as db:
        pending.done(db, Source.MEMORY, [added.pk, added.pk + 1])
    assert lacking(*Source) == 0


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_the_vector_leg_tells_that_all_vectors_are_lost(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        other = projects.create(db, "other").pk
        empty = projects.create(db, "empty").pk
        added = remember(db, shelf, "pets", "A dog")
        pending.done(db, Source.MEMORY, [added.pk])
    store(shelf, "/b.md", ["A dog"], project=other)

    def told(**more: object) -> str | None:
        asking = {"mode": mode, "sources": [Source.FILE, Source.MEMORY]}
        return shelf.ask("dog", **asking | more).legs["vector"].degraded

    assert told() is None
    damage(shelf, "DELETE FROM vector_bits WHERE source = 'file' AND project = 1")
    assert told() is None, "the memory was found"
    remedy = "run knowlex repair, then knowlex work --once"
    assert told(sources=[Source.FILE]) == f"passages that have lost their vector: 3; {remedy}"
    damage(shelf, "DELETE FROM vector_bits")
    assert told() == f"passages that have lost their vector: 4; {remedy}"
    assert told(project_pk=None) == f"passages that have lost their vector: 5; {remedy}"
    assert told(project_pk=other) == f"passages that have lost their vector: 1; {remedy}"
    assert told(project_pk=empty) is None
    assert told(filter=parse("page = 9")) is None
    with shelf.database.write() as db:
        pending.queue(db, Source.MEMORY, added.pk)
    waiting = "memories and messages without a vector, which words alone find: 1"
    assert told(sources=[Source.MEMORY]) == waiting, "told once"
    assert told() == f"{waiting}; passages that have lost their vector: 3; {remedy}"


def test_a_database_without_vectors_answers_from_the_text(db: Database) -> None:
    with db.write() as tx:
        project = projects.create(tx, "new").pk
        memories.add(tx, project, "t", "some words")
    answer = asked(db, "words", project_pk=project, sources=[Source.MEMORY], embed_query=embed)
    assert len(answer.hits) == 1
    assert answer.legs["vector"].degraded == "the database holds no vectors yet"


@pytest.mark.parametrize(
    ("query", "more", "reason"),
    [
        ("", {}, "query: is blank"),
        (" \n", {}, "query: is blank"),
        ("x", {"k": 0}, "k 0"),
        ("x", {"mode": "best"}, "mode 'best'"),
        ("x", {"syntax": "sql"}, "syntax 'sql'"),
        ("x", {"sources": []}, "sources: none"),
        ("x", {"window": -1}, "window -1"),
        ("x", {"max_tokens": 0}, "max_tokens 0"),
        ("x", {"min_score": 7.5}, "min_score 7.5: scores end at 1"),
        ("x", {"min_score": float("nan")}, "min_score nan: is no number; give one"),
        ("x", {"mmr": 1.5}, "mmr 1.5: give the weight of relevance"),
        ("x", {"mmr": "x"}, "mmr 'x': give the weight of relevance"),
        (None, {}, "query None: is no text"),
        ("x", {"k": 1.5}, "k 1.5: is no whole number"),
        ("x", {"k": True}, "k True: is no whole number"),
        ("x", {"max_tokens": 1.5}, "max_tokens 1.5: is no whole number"),
        ("x", {"window": "2"}, "window '2': is no whole number"),
        ("x", {"window": 2**63 - 1}, "window 9223372036854775807: give 0 to 10000000"),
        ("x", {"min_score": "0.5"}, "min_score '0.5': is no number"),
        ("x", {"min_score": 1.6}, "min_score 1.6: scores end at 1, of memories and messages at 1.5"),
        ("(", {"syntax": "fts5"}, "query: fts5"),
    ],
)
def test_what_cannot_be_answered_is_refused(shelf: Shelf, query: Any, more: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason.replace("(", r"\(")):
        shelf.ask(query, **more)


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_numbers_of_any_size_and_type_are_taken(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    for mirrors in ({}, {"mirror": VectorMirror(), "text_mirror": TextMirror()}):
        asked = {"mode": mode, "min_score": np.float32(-1), "section": True, **mirrors}
        [hit] = shelf.ask("dog", k=np.int64(1), window=np.int64(1), **asked).hits
        assert hit.text == ANIMALS[1]
        hits = shelf.ask("dog", k=10**30, window=10**7, max_tokens=10**30, collapse=True, **asked).hits
        assert hits[0].after == "\n" + ANIMALS[2]
    assert shelf.ask("dog", mode=mode, min_score=1.5).hits == []


def test_of_filter_and_allowed_only_one_may_say_what_is_found(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="filter: stands beside allowed"):
        shelf.ask("dog", filter=parse("page = 1"), allowed={Source.FILE: [1]})


def test_a_project_that_is_gone_by_now_is_no_empty_answer(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    with pytest.raises(NotFoundError, match="deleted meanwhile"):
        shelf.ask("dog", project_pk=shelf.project + 1)


def test_what_a_library_says_is_told_only_where_it_may_be(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)

    def broken(*_: object) -> Floats:
        raise RuntimeError("/home/ada/model.xml")

    answer = shelf.ask("dog", embed_query=broken, rerank=broken, reason_of=lambda error: type(error).__name__)
    assert answer.legs["vector"].degraded == "the question could not be embedded: RuntimeError"
    assert answer.legs["rerank"].degraded == "the passages could not be reranked: RuntimeError"


def test_the_cost_of_a_hit_that_does_not_fit_is_told_with_its_window(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    [alone] = shelf.ask("dog", k=1, max_tokens=1).notes
    [around] = shelf.ask("dog", k=1, window=1, max_tokens=1).notes
    assert alone != around
    assert f"it has {sum(len(text.split()) for text in ANIMALS[:3])} tokens" in around


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_question_looks_once_however_many_it_asks_for(shelf: Shelf, mirrored: bool) -> None:
    looked = Counter[str]()
    original = {name: getattr(module, name) for module, name in ((text_index, "matches"), (vectors, "near"))}

    def counted(name: str) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            looked[name] += 1
            return original[name](*given, **more)

        return call

    store(shelf, "/a.md", ANIMALS * 5)
    mirrors = {"mirror": VectorMirror(), "text_mirror": TextMirror()} if mirrored else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_index, "matches", counted("matches"))
        patch.setattr(vectors, "near", counted("near"))
        rerank = lambda _, texts: np.arange(len(texts), dtype=np.float32)  # noqa: E731
        shelf.ask("dog", k=9, candidates=2, collapse=True, rerank=rerank, **mirrors)
    assert looked == {"matches": 1, "near": 1}


def test_a_text_that_stands_everywhere_tells_a_hundred_places(shelf: Shelf) -> None:
    for number in range(130):
        store(shelf, f"/{number:03}.md", ["A dog barks at night", f"number {number}"])
    [hit] = shelf.ask("dog barks", k=1, collapse=True).hits
    assert hit.also == tuple(f"/{number:03}.md" for number in range(101) if f"/{number:03}.md" != hit.path)[:100]


def test_what_changed_while_a_reranker_read_is_searched_anew(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)

    def rerank(_: str, texts: Sequence[str]) -> Floats:
        store(shelf, "/b.md", ["dog dog dog"])
        return np.ones(len(texts), np.float32)

    assert "dog dog dog" in [hit.text for hit in shelf.ask("dog", rerank=rerank).hits]


def test_all_sources_are_searched_together(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        remember(db, shelf, "pets", "My dog likes cheese")
        talk = conversations.create(db, "Vet", project_pk=shelf.project)
        messages.add(db, talk.id, "user", "The dog is ill")
    hits = shelf.ask("dog", sources=list(Source), k=3, mode="text").hits
    assert {hit.source for hit in hits} == set(Source)
    by_source = {hit.source: hit for hit in hits}
    assert (by_source[Source.MEMORY].heading, by_source[Source.MEMORY].file) == ("pets", None)
    assert (by_source[Source.MESSAGE].heading, by_source[Source.MESSAGE].text) == ("Vet", "The dog is ill")


def test_a_memory_counts_by_importance_and_age_and_says_so(shelf: Shelf) -> None:
    with shelf.database.write() as db:
        little, much = (remember(db, shelf, "note", "The dog likes cheese", importance=n) for n in (1, 10))
    hits = shelf.ask("dog cheese", sources=[Source.MEMORY], explain=True).hits
    assert [hit.id for hit in hits] == [much.id, little.id]
    assert hits[0].why["fused"] == hits[1].why["fused"]
    assert (hits[0].why["importance"], hits[1].why["importance"]) == (pytest.approx(1.1), pytest.approx(0.9))
    for alone in ({"mode": "text"}, {"embed_query": None}):
        first, second = shelf.ask("dog cheese", sources=[Source.MEMORY], explain=True, **alone).hits
        assert first.score > second.score
        assert first.why["text"] == second.why["text"]
    assert hits[0].score == pytest.approx(hits[0].why["fused"] * 1.1 * hits[0].why["recency"])
    assert shelf.ask("dog", sources=[Source.MEMORY]).hits[0].why == {}


def test_recency_loses_half_of_its_way_in_a_half_life() -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    ages = [timedelta(days=days) for days in (0, 30, 3_000, -5)]
    factors = [memory_factors(5, (now - age).isoformat(), now)["recency"] for age in ages]
    assert factors == pytest.approx([1.0, 0.95, 0.9, 1.0])


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_what_matters_more_never_counts_for_less(shelf: Shelf, mode: str) -> None:
    with shelf.database.write() as db:
        little, much = (remember(db, shelf, "note", "The dog likes cheese", importance=n) for n in (1, 10))
    opposite = -embed("The dog likes cheese")
    hits = shelf.ask("x", sources=[Source.MEMORY], mode=mode, embed_query=lambda _: opposite, explain=True).hits
    assert [hit.id for hit in hits] == [much.id, little.id]
    assert [hit.score / hit.why["fused"] for hit in hits] == pytest.approx([0.9, 1.1], abs=1e-3)
    assert hits[0].why["fused"] == hits[1].why["fused"] < 0


def test_duplicates_names_come_along(shelf: Shelf) -> None:
    owner = store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        db.run(
            "INSERT INTO project_files (id, project_id, filename, path, path_bytes, duplicate_of, status, created_at,"
            " updated_at) VALUES ('copy', :project, 'b.md', '/b.md', x'2F62', :owner, 'ready', '', '')",
            project=shelf.project,
            owner=owner,
        )
    assert shelf.ask("dog").hits[0].also == ("/b.md",)


def test_a_text_of_several_files_is_one_hit_and_others_fill_up(shelf: Shelf) -> None:
    same = "The dog barks at night"
    for name in "cab":
        store(shelf, f"/{name}.md", [same, f"The dog of {name}"])
    plain = shelf.ask("dog barks", k=4).hits
    hits = shelf.ask("dog barks", k=4, collapse=True).hits
    assert [hit.text for hit in plain].count(same) == 3
    assert [(hit.text, hit.path, hit.also) for hit in hits[:1]] == [(same, "/c.md", ("/a.md", "/b.md"))]
    assert sorted(hit.text for hit in hits[1:]) == ["The dog of a", "The dog of b", "The dog of c"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_more_copies_than_candidates_hide_no_other_text(shelf: Shelf, mode: str) -> None:
    for n in range(30):
        store(shelf, f"/{n}.md", ["The dog barks", f"The dog {n} sleeps"])
    hits = shelf.ask("The dog barks", mode=mode, k=5, candidates=5, collapse=True).hits
    assert len({hit.text for hit in hits}) == 5
    assert len(hits[0].also) == 29
    [best] = shelf.ask("The dog barks", mode=mode, k=1, candidates=5, explain=True).hits
    least = best.why["text"] if mode == "text" else best.score
    assert len(shelf.ask("The dog barks", mode=mode, k=5, candidates=5, collapse=True, min_score=least).hits) == 1


def test_all_places_of_a_text_are_named(shelf: Shelf) -> None:
    same = "The dog barks at night"
    for n in range(12):
        store(shelf, f"/{n}.md", [same, f"The dog {n}"], heading="" if n % 2 else f"Chapter {n}")
    store(shelf, "/other.md", [f"{same}, loudly"])
    store(shelf, "/turned.md", ["at night barks the dog", "and by day it sleeps where nobody looks"])
    for more in ({}, {"mode": "text"}, {"mode": "vector"}, {"filter": parse("file = '3.md'")}):
        [hit] = shelf.ask("dog barks", k=1, candidates=3, collapse=True, **more).hits
        assert hit.text == same
        assert {hit.path, *hit.also} == {f"/{n}.md" for n in range(12)}
        assert len(hit.also) == 11
    store(shelf, "/dash.md", ["-----"])
    assert [hit.also for hit in shelf.ask("-----", mode="vector", k=1, collapse=True).hits] == [()]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A project of forty copies of one text and a few others, with conversations and memories, one without a vector."""
    database = Database.open(tmp_path_factory.mktemp("copies") / "copies.db")
    with database.write() as db:
        vectors.ensure_model(
            db, name="words", hash="h", dim=DIM, pooling="sum", query_prompt="", document_prompt="", precision="fp32"
        )
        shelf = Shelf(database, projects.create(db, "copies").pk)
    for n in range(40):
        store(shelf, f"/c{n}.md", ["The refund period is thirty days"])
    store(shelf, "/other.md", ["The refund is paid in Rome", "A period of days", "Thirty cats", "No dog", "Rome"])
    with database.write() as db:
        for importance in (1, 10):
            remember(db, shelf, "Refunds", "They take thirty days in Rome", importance)
        memories.add(db, shelf.project, "Later", "Thirty days")
        for title in ("one", "two"):
            talk = conversations.create(db, title, project_pk=shelf.project)
            for n in range(12):
                say(db, shelf, talk.id, ["When is the refund paid?", "Within thirty days", "Good"][n % 3])
    return shelf


@given(
    st.sampled_from(["refund period of thirty days in Rome", "thirty days", "Rome", "cats and dogs"]),
    st.sampled_from([[Source.FILE], [Source.MESSAGE], list(Source)]),
    st.sampled_from(["hybrid", "text", "vector"]),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_depends_on_nothing_that_is_merely_shown(
    copies: Shelf, query: str, sources: list[Source], mode: str
) -> None:
    scores: dict[str, float] = {}
    for k in (1, 8, 11, 30, 100):
        for collapse in (False, True):
            answer = copies.ask(query, sources=sources, mode=mode, k=k, collapse=collapse, candidates=10)
            for hit in answer.hits:
                assert hit.score == pytest.approx(scores.setdefault(hit.id, hit.score), abs=1e-5)


def test_what_only_the_vectors_found_has_its_text_score_in_fts5s_language_too(shelf: Shelf) -> None:
    last = "The dog, and many other words of no use"
    store(shelf, "/a.md", [*(f"dog {'cat ' * n}" for n in range(12)), *(f"nothing {n}" for n in range(40)), last])
    asked = {"syntax": "fts5", "embed_query": lambda _: embed(last), "candidates": 10, "explain": True}
    first, everything = (
        [hit for hit in shelf.ask("dog OR cat", k=k, **asked).hits if hit.text == last] for k in (10, 60)
    )
    assert [hit.text_rank for hit in (*first, *everything)] == [None, 13]
    assert first[0].why["text"] == everything[0].why["text"] > 0
    assert first[0].score == pytest.approx(everything[0].score)


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
@pytest.mark.parametrize("least", [None, 0.1])
def test_copies_hide_no_better_text_of_their_source_behind_another_source(
    shelf: Shelf, mode: str, least: float | None
) -> None:
    for n in range(12):
        store(shelf, f"/c{n}.md", ["The refund period is thirty days"])
    store(shelf, "/other.md", ["The refund period is over"])
    with shelf.database.write() as db:
        remember(db, shelf, "Lunch", "Some days I eat pizza and rice with olives")
    asked = {"sources": [Source.FILE, Source.MEMORY], "mode": mode, "collapse": True, "candidates": 10}
    wanted = shelf.ask("refund period of thirty days", k=20, **asked).hits
    assert [hit.source for hit in wanted] == [Source.FILE, Source.FILE, Source.MEMORY]
    hits = shelf.ask("refund period of thirty days", k=2, min_score=least, **asked).hits
    assert [hit.id for hit in hits] == [hit.id for hit in wanted[:2]]


def test_copies_of_another_project_are_not_named(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        other = projects.create(db, "other").pk
    store(shelf, "/b.md", ANIMALS, project=other)
    assert shelf.ask("dog", k=1, collapse=True).hits[0].also == ()
    assert shelf.ask("dog", k=1, collapse=True, project_pk=None).hits[0].also == ("/b.md",)


def test_a_copy_comes_behind_what_says_something_new(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["The dog barks at night", "The dog barks at night loudly", "A dog likes cheese"])
    plain = shelf.ask("dog barks at night").hits
    hits = shelf.ask("dog barks at night", mmr=0.5, explain=True).hits
    assert [hit.id for hit in hits] == [plain[0].id, plain[2].id, plain[1].id]
    assert [hit.score for hit in hits] == [plain[0].score, plain[2].score, plain[1].score]
    assert hits[0].why["mmr_penalty"] == 0
    near = float(embed(plain[0].text) @ embed(plain[1].text))
    assert hits[2].why["mmr_penalty"] == pytest.approx(0.5 * near, abs=1e-2)
    assert [hit.rank for hit in hits] == [1, 2, 3]


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_novelty_that_counts_nothing_changes_nothing(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", [f"dog number {n}" for n in range(20)])
    with shelf.database.write() as db:
        memories.add(db, shelf.project, "pets", "A dog without a vector")
    plain = shelf.ask("dog number 7", mode=mode, sources=list(Source), k=12).hits
    assert [hit.id for hit in shelf.ask("dog number 7", mode=mode, sources=list(Source), k=12, mmr=1.0).hits] == [
        hit.id for hit in plain
    ]
    assert len(shelf.ask("dog number 7", mode=mode, sources=list(Source), k=12, mmr=True).hits) == len(plain)


def test_what_has_no_vector_is_unlike_everything(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["dog", "dog cat"])
    with shelf.database.write() as db:
        memories.add(db, shelf.project, "pets", "dog dog")
    hits = shelf.ask("dog", sources=list(Source), mmr=0.1, explain=True).hits
    assert {hit.why["mmr_penalty"] for hit in hits if hit.source is Source.MEMORY} == {0.0}
    with shelf.database.write() as db:
        db.run("UPDATE embedding_models SET status = 'retired'")
    assert [hit.text for hit in shelf.ask("dog", mode="text", mmr=0.1).hits] == ["dog", "dog cat"]


def by_length(query: str, texts: Sequence[str]) -> Floats:
    """Prefer long texts."""
    return np.array([len(text) for text in texts], np.float32)


def test_the_first_passages_are_ordered_by_the_reranker(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["dog", "dog " * 5, "dog " * 3, "dog cat " * 9], heading="H")
    seen: list[tuple[str, list[str]]] = []

    def rerank(query: str, texts: Sequence[str]) -> Floats:
        seen.append((query, list(texts)))
        return by_length(query, texts)

    plain = shelf.ask("dog", mode="text").hits
    answer = shelf.ask("dog", mode="text", rerank=rerank, reranked=3, explain=True)
    first = sorted(plain[:3], key=lambda hit: -len(hit.text))
    assert [hit.id for hit in answer.hits] == [hit.id for hit in (*first, plain[3])]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4]
    assert {hit.id: hit.text_rank for hit in answer.hits} == {hit.id: hit.text_rank for hit in plain}
    assert seen == [("dog", [f"H\n{hit.text}" for hit in plain[:3]])]
    assert answer.hits[0].why["rerank_score"] == max(map(len, seen[0][1]))
    assert answer.legs["rerank"].returned == 3
    (best,) = shelf.ask("dog", mode="text", rerank=by_length, k=1).hits
    assert best.text == max((hit.text for hit in plain), key=len)


def crash(query: str, texts: Sequence[str]) -> Floats:
    raise RuntimeError("out of memory")


def no_number(query: str, texts: Sequence[str]) -> Floats:
    return np.full(len(texts), np.nan, np.float32)


def test_others_write_while_a_reranker_reads(shelf: Shelf) -> None:
    """What it reads may be gone when it is done; the rest is shown, and no reader kept the log from being cut."""
    gone = store(shelf, "/a.md", [ANIMALS[0]])
    store(shelf, "/b.md", ANIMALS[1:])

    def rerank(query: str, texts: Sequence[str]) -> Floats:
        with shelf.database.write() as db:
            files.delete(db, files.get(db, gone))
        assert fold_log(shelf.database, wait_ms=0)
        return np.arange(len(texts), dtype=np.float32)

    answer = shelf.ask("cat dog horse", rerank=rerank)
    assert {hit.text for hit in answer.hits} == set(ANIMALS[1:])
    assert answer.legs["rerank"].returned == 3
    assert [hit.rank for hit in answer.hits] == [1, 2]


def too_few(query: str, texts: Sequence[str]) -> Floats:
    return np.ones(len(texts) - 1, np.float32)


def pairs(query: str, texts: Sequence[str]) -> Floats:
    return np.ones((len(texts), 2), np.float32)


def test_what_is_shown_after_reranking_is_there_and_passes_the_filter_then(shelf: Shelf) -> None:
    with shelf.database.write() as db:
        notes = [remember(db, shelf, f"note {n}", f"The dog barks {'loudly ' * n}", importance=9) for n in range(4)]

    def ask(change: Callable[[Connection], object], **more: object) -> list[str]:
        def rerank(query: str, texts: Sequence[str]) -> Floats:
            with shelf.database.write() as db:
                change(db)
            return by_length(query, texts)

        hits = shelf.ask("dog barks", sources=[Source.MEMORY], rerank=rerank, **more).hits
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        return [hit.heading for hit in hits]

    assert ask(lambda db: memories.delete(db, notes[3].id), k=1) == ["note 2"]
    important = parse("importance >= 8")
    changed = lambda db: memories.update(db, notes[2].id, importance=1)  # noqa: E731
    assert ask(changed, k=5, filter=important) == ["note 1", "note 0"]
    rewritten = lambda db: memories.update(db, notes[1].id, content="A dog")  # noqa: E731
    assert ask(rewritten, k=5, explain=True) == ["note 2", "note 0", "note 1"]
    assert ask(lambda db: remember(db, shelf, "new", "A dog barks"), k=5)[-1:] == ["new"]


@pytest.mark.parametrize(
    ("rerank", "reason"),
    [(crash, "out of memory"), (no_number, "not finite"), (too_few, "shorter"), (pairs, "real number")],
)
def test_a_failing_reranker_leaves_the_order_and_says_so(shelf: Shelf, rerank: object, reason: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    answer = shelf.ask("dog barks", rerank=rerank)
    assert answer.hits == shelf.ask("dog barks").hits
    assert reason in str(answer.legs["rerank"].degraded)
    assert shelf.ask("dog barks", rerank=rerank, mmr=True).hits == shelf.ask("dog barks", mmr=True).hits


def test_novelty_goes_by_the_reranker_where_there_is_one(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["The dog barks at night", "The dog barks at night loudly", "A dog likes cheese"])

    def logits(query: str, texts: Sequence[str]) -> Floats:
        return np.array([9 if "loudly" in text else 8 if "night" in text else 7 for text in texts], np.float32)

    hits = shelf.ask("dog barks at night", rerank=logits, mmr=0.5).hits
    assert [hit.text.split()[-1] for hit in hits] == ["loudly", "cheese", "night"]
    hits = shelf.ask("dog barks at night", rerank=logits, mmr=1.0).hits
    assert [hit.text.split()[-1] for hit in hits] == ["loudly", "night", "cheese"]


def test_neighbours_are_shown_around_the_text(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    hit = shelf.ask("dog barks", k=1, window=1).hits[0]
    assert (hit.before, hit.text, hit.after) == (ANIMALS[0] + "\n", ANIMALS[1], "\n" + ANIMALS[2])
    assert hit.tokens == sum(len(text.split()) for text in ANIMALS)


def test_neighbours_do_not_repeat_what_overlaps(shelf: Shelf) -> None:
    pk = store(shelf, "/a.md", ["one two three", "three four", "four five six"])
    with shelf.database.write() as db:
        for index, start in enumerate((0, 8, 14)):
            db.run(
                "UPDATE file_chunks SET char_start = :start, char_end = :start + length(content)"
                " WHERE file_id = :file AND chunk_index = :index",
                file=pk,
                index=index,
                start=start,
            )
    hit = shelf.ask("three four", k=1, window=5, mode="vector").hits[0]
    assert hit.before + hit.text + hit.after == "one two three four five six"


def test_what_chunks_of_one_table_repeat_is_shown_once_and_told(shelf: Shelf) -> None:
    pk = store(shelf, "/a.md", ["head\nrow one", "head\nrow two", "head\nrow three"])
    with shelf.database.write() as db:
        db.run(
            """UPDATE file_chunks SET metadata = '{"repeated":5}', char_start = 5 + 8 * chunk_index,"""
            " char_end = 8 * chunk_index + length(content) WHERE file_id = :file AND chunk_index > 0",
            file=pk,
        )
    first, second, third = (shelf.ask(query, k=1, window=5).hits[0] for query in ("one", "two", "three"))
    assert (first.text, first.after, first.repeated) == ("head\nrow one", "\nrow two\nrow three", 0)
    assert (second.before, second.text, second.after) == ("head\nrow one\n", "head\nrow two", "\nrow three")
    assert third.before == "head\nrow one\nrow two\n"
    assert (second.repeated, third.repeated) == (5, 5)


@pytest.mark.parametrize(
    ("path", "link"),
    [
        (b"/docs/a.md", "file:///docs/a.md"),
        (b"/docs/a.pdf", "file:///docs/a.pdf#page=1"),
        (b"/docs/A.PDF", "file:///docs/A.PDF#page=1"),
        ("/ä b/#1%?.pdf".encode(), "file:///%C3%A4%20b/%231%25%3F.pdf#page=1"),
        (b"/docs/\xff.md", "file:///docs/%FF.md"),
        (b"/docs/mail.eml\0list.pdf", "file:///docs/mail.eml"),
        (b"no whole path", None),
    ],
)
def test_a_hit_links_to_its_file_and_page(shelf: Shelf, path: bytes, link: str | None) -> None:
    pk = store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        shown = files.shown(path)
        db.run(
            "UPDATE project_files SET path = :path, path_bytes = :bytes WHERE pk = :pk", path=shown, bytes=path, pk=pk
        )
        memories.add(db, shelf.project, "pets", "A dog")
    hits = shelf.ask("dog", sources=[Source.FILE, Source.MEMORY], mode="text").hits
    assert {hit.source: hit.link for hit in hits} == {Source.FILE: link, Source.MEMORY: None}


def test_a_hit_is_shown_with_its_section(shelf: Shelf) -> None:
    pk = store(shelf, "/a.md", [*ANIMALS, "Of another chapter"], heading="Animals")
    with shelf.database.write() as db:
        db.run("UPDATE file_chunks SET heading = 'Other' WHERE file_id = :pk AND chunk_index = 3", pk=pk)
    [hit] = shelf.ask("dog barks", k=1, section=True).hits
    assert (hit.before, hit.text, hit.after) == (ANIMALS[0] + "\n", ANIMALS[1], "\n" + ANIMALS[2])
    [hit] = shelf.ask("dog barks", k=1, section=True, max_tokens=12).hits
    assert (hit.before, hit.after, hit.tokens) == ("", "\n" + ANIMALS[2], 11)


def test_hits_that_touch_become_the_best_of_them(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["a dog", "a dog barks", "a cat", "a dog sleeps"])
    plain = shelf.ask("dog barks", mode="text").hits
    hits = shelf.ask("dog barks", mode="text", merge=True).hits
    assert [hit.text for hit in plain] == ["a dog barks", "a dog", "a dog sleeps"]
    assert [hit.text for hit in hits] == ["a dog\n\na dog barks", "a dog sleeps"]
    assert [(hit.rank, hit.id, hit.merged) for hit in hits] == [(1, plain[0].id, (plain[1].id,)), (2, plain[2].id, ())]
    assert (hits[0].score, hits[0].text_rank, hits[0].tokens) == (plain[0].score, 1, 5)
    assert (hits[0].char_start, hits[0].char_end) == (0, 18)
    assert hits[0].snippet.count("<mark>dog</mark>") == 2
    assert shelf.ask("dog barks", mode="text", merge=True, max_tokens=5).hits == hits[:1]


def test_a_token_budget_leaves_out_what_does_not_fit(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["dog dog dog dog", "dog and many other words of no use", "dog too"])
    everything = shelf.ask("dog", mode="text").hits
    fitting = shelf.ask("dog", mode="text", max_tokens=6).hits
    assert len(everything) == 3
    assert [hit.rank for hit in fitting] == [1, 2]
    assert sum(hit.tokens for hit in fitting) == 6


@pytest.mark.parametrize(
    "text",
    [
        "梅雨はいつ始まりますか。今年の夏は暑いです。" * 40,
        "какая река длиннее других рек страны? " * 20,
        "The refund is paid within thirty days, at the latest. " * 20,
        "a=b(c,d)[i]+{x:y};" * 40,
        "3.14159 2718281 1024 65536 " * 20,
    ],
)
def test_what_no_model_has_counted_costs_about_its_tokens(shelf: Shelf, text: str) -> None:
    tokenizer = model_files.tokenizer(model_files.resolve(DEFAULT_MODEL, None))
    counted = len(tokenizer.encode(text, add_special_tokens=False).ids)
    with shelf.database.write() as db:
        remember(db, shelf, "note", text)
    asked = {"sources": [Source.MEMORY], "mode": "vector"}
    [hit] = shelf.ask("note", max_tokens=round(1.4 * counted), **asked).hits
    assert 0.8 * counted < hit.tokens
    assert shelf.ask("note", max_tokens=round(0.8 * counted), **asked).hits == []


def test_a_least_score_cuts_the_tail(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    scores = [hit.score for hit in shelf.ask("dog barks").hits]
    assert [hit.score for hit in shelf.ask("dog barks", min_score=scores[1]).hits] == scores[:2]


def broken(text: str) -> Floats:
    raise RuntimeError("out of memory")


def test_a_least_score_does_the_same_by_words_alone_and_where_no_model_is_to_be_had(shelf: Shelf) -> None:
    store(shelf, "/a.md", [*ANIMALS, *(f"the dog {'barks ' * n}with cat {n}" for n in range(12)), "only cat", "night"])
    with shelf.database.write() as db:
        for n in range(3):
            remember(db, shelf, "pets", f"dog {'barks ' * n}", importance=3 * n + 1)
        talk = conversations.create(db, "Noise", project_pk=shelf.project)
        for n in range(3):
            messages.add(db, talk.id, "user", f"the dog {'barks ' * n} at night")
    asked = {"sources": list(Source), "k": 50, "explain": True}
    plain = shelf.ask("dog barks at night", mode="text", **asked).hits
    shares = [hit.why["text"] * hit.why.get("importance", 1) * hit.why.get("recency", 1) for hit in plain]
    assert len(plain) == 20
    assert shares == sorted(shares, reverse=True)
    for least in (-1.0, 0.0, *shares, 1.0):
        text, hybrid = (
            shelf.ask("dog barks at night", mode=mode, embed_query=broken, min_score=least, **asked).hits
            for mode in ("text", "hybrid")
        )
        near = [hit.id for hit, share in zip(plain, shares, strict=True) if abs(share - least) < 1e-6]
        assert [hit.id for hit in text if hit.id not in near] == [hit.id for hit in hybrid if hit.id not in near]
        assert [hit.id for hit in text if hit.id not in near] == [
            hit.id for hit, share in zip(plain, shares, strict=True) if share > least and hit.id not in near
        ]


def test_what_few_memories_say_in_full_goes_before_what_many_passages_say_in_part(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["a zebra", *(f"nothing {n}" for n in range(20))])
    with shelf.database.write() as db:
        remember(db, shelf, "pets", "dog zebra dog zebra")
    for mode in ("text", "hybrid"):
        hits = shelf.ask("dog zebra", mode=mode, embed_query=broken, sources=[Source.FILE, Source.MEMORY]).hits
        assert [hit.source for hit in hits] == [Source.MEMORY, Source.FILE]
    text = shelf.ask("dog zebra", mode="text", sources=[Source.FILE, Source.MEMORY]).hits
    assert text[0].score < text[1].score  # BM25 grows with the number of passages


def test_only_what_is_allowed_is_found(shelf: Shelf) -> None:
    store(shelf, "/a.md", [f"dog number {n}" for n in range(40)])
    with shelf.database.read() as db:
        pks = [pk for (pk,) in db.all("SELECT pk FROM file_chunks ORDER BY pk")]
    answer = shelf.ask("dog number 7", k=500, allowed={Source.FILE: pks[20:23]}, candidates=1)
    assert sorted(hit.text for hit in answer.hits) == ["dog number 20", "dog number 21", "dog number 22"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A project of 5,000 passages on 1,000 pages in each of five files: more than are compared exactly."""
    database = Database.open(tmp_path_factory.mktemp("archive") / "archive.db")
    with database.write() as db:
        vectors.ensure_model(
            db, name="words", hash="h", dim=DIM, pooling="sum", query_prompt="", document_prompt="", precision="fp32"
        )
        shelf = Shelf(database, projects.create(db, "archive").pk)
    words = ["cat", "dog", "horse", "cow", "hen", "owl", "bat", "fox"]
    rng = np.random.default_rng(7)
    for name in "abcde":
        texts = [" ".join(rng.choice(words, 4)) + f" {name}{number}" for number in range(1_000)]
        store(shelf, f"/{name}.md", texts)
    with database.write() as db:
        db.run("UPDATE file_chunks SET page_start = chunk_index, page_end = chunk_index")
    return shelf


@pytest.mark.parametrize(("filter", "count"), [("page < 500", 2_500), ("page < 10", 50), ("page = 7", 5)])
@pytest.mark.parametrize("query", ["dog owl", "a horse, a cow and fox b17"])
def test_a_filtered_search_gives_what_brute_force_gives(archive: Shelf, filter: str, count: int, query: str) -> None:
    with archive.database.read() as db:
        rows = db.all("SELECT c.id, c.pk, c.content FROM file_chunks c WHERE " + filter.replace("page", "page_start"))
        stored = np.frombuffer(b"".join(half for (half,) in db.all("SELECT vector FROM embeddings ORDER BY pk")), "<f2")
        pairs = db.all("SELECT pk, embedding FROM vector_bits")
        found = text_index.matches(db, Source.FILE, query, project_pk=archive.project)
        inside = {pk: id for id, pk, _ in rows}
        own = [(pk, score) for pk, score in found.best(5_000) if pk in inside]
        first = found.in_context([pk for pk, _ in own[: context.FIRST]], context.SHARE)
        by_words = bm25.best(first.items(), 10)
    assert len(rows) == count
    place = {pk: embedding - 1 for pk, embedding in pairs}
    cosines = (stored.reshape(-1, DIM).astype(np.float32) * embed(query)).sum(axis=1, dtype=np.float32)
    by_meaning = sorted(rows, key=lambda row: (-cosines[place[row[1]]], row[1]))
    wanted = {
        "vector": [id for id, _, _ in by_meaning],
        "text": [inside[pk] for pk, _ in by_words],
    }
    mirrors = {"mirror": MIRRORS[0], "text_mirror": MIRRORS[1]}
    for more in ({}, mirrors):
        for mode, best in wanted.items():
            hits = archive.ask(query, k=10, mode=mode, filter=parse(filter), **more).hits
            assert [hit.id for hit in hits] == best[:10]
    both = [archive.ask(query, k=60, filter=parse(filter), **more).hits for more in ({}, mirrors)]
    assert [hit.id for hit in both[0]] == [hit.id for hit in both[1]]
    assert len(both[0]) == min(60, count)
    assert {hit.id for hit in both[0]} <= set(inside.values())


MIRRORS = VectorMirror(), TextMirror()


@pytest.mark.parametrize("more", [{}, {"text_mirror": TextMirror()}], ids=["alone", "in memory"])
def test_what_stands_beside_a_passage_counts(shelf: Shelf, more: Mapping[str, Any]) -> None:
    filler = "grass grows in spring and hay is made of it"
    store(shelf, "/barn.md", [f"The owl lives here, {filler}", f"The mouse hides, {filler}"])
    store(shelf, "/tree.md", [f"The owl lives here, {filler}"])
    store(shelf, "/other.md", [filler, f"Nobody lives here, {filler}"])
    hits = shelf.ask("owl mouse", mode="text", **more).hits
    assert [(hit.path, hit.text[:9]) for hit in hits] == [
        ("/barn.md", "The mouse"),
        ("/barn.md", "The owl l"),
        ("/tree.md", "The owl l"),
    ]
    assert [hit.text_rank for hit in hits] == [1, 2, 3]
    assert hits[1].score > hits[2].score
    exact = shelf.ask('body : "owl" OR "mouse"', mode="text", syntax="fts5", **more).hits
    assert exact[1].score == exact[2].score  # in FTS5's language by their own words alone


@pytest.mark.parametrize("more", [{}, {"text_mirror": TextMirror()}], ids=["alone", "in memory"])
def test_what_was_not_looked_at_in_context_does_not_gain_by_that(shelf: Shelf, more: Mapping[str, Any]) -> None:
    for place in range(150):  # each a little longer, so that it fits a little less
        store(shelf, f"/{place:03}.md", ["owl " + "a " * (5 + place), "grass " * 400])
    paths = [f"/{place:03}.md" for place in range(150)]
    assert [hit.path for hit in shelf.ask("owl", mode="text", k=10, **more).hits] == paths[:10]
    hits = shelf.ask("owl", mode="text", k=150, **more).hits
    assert [hit.path for hit in hits] == paths
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_score_does_not_depend_on_how_many_are_asked_for(archive: Shelf) -> None:
    for mode in ("text", "hybrid"):
        answers = {k: archive.ask("dog owl fox", mode=mode, k=k, candidates=100).hits for k in (10, 100, 250)}
        scores = {hit.id: hit.score for hit in answers[250]}
        for k in (10, 100):
            assert [hit.score for hit in answers[k]] == [scores[hit.id] for hit in answers[k]]
        assert [hit.id for hit in answers[10]] == [hit.id for hit in answers[100]][:10]
    assert [hit.id for hit in archive.ask("dog owl fox", mode="text", k=250).hits][:100] == [
        hit.id for hit in archive.ask("dog owl fox", mode="text", k=100).hits
    ]


@given(
    st.sampled_from(["title = 'cat'", "title != 'cat'", "importance > 4", "role = 'user'", "page = 1", "file != 'x'"]),
    st.sampled_from(["text", "vector", "hybrid"]),
    st.integers(1, 30),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_holds_in_every_source_and_mode(many: Shelf, filter: str, mode: str, k: int) -> None:
    mirrors = {"mirror": VectorMirror(), "text_mirror": TextMirror()}
    tree = parse(filter)
    for project in (1, 2):
        asked = {"project_pk": project, "mode": mode}
        with many.database.read() as db:
            pks = {source: allowed.pks(db, source, tree, project_pk=project) for source in Source}
            ids = {source: passages_of(db, source, pks[source]) for source in Source}
        for sources in ([Source.FILE], [Source.MEMORY], [Source.MESSAGE], list(Source)):
            every = many.ask("cat dog cow", k=100, sources=sources, **asked).hits
            inside = [hit.id for hit in every if hit.id in ids[hit.source]]
            for more in ({}, mirrors):
                found = many.ask("cat dog cow", k=k, filter=tree, sources=sources, **asked, **more).hits
                assert len(found) == min(k, len(inside))
                assert {hit.id for hit in found} <= set(inside)
                if mode != "hybrid" and len(sources) == 1:
                    assert [hit.id for hit in found] == inside[:k]


def passages_of(db: Connection, source: Source, pks: Sequence[int]) -> set[str]:
    return {passage.id for passage in passages.load(db, source, pks, project_pk=None).values()}


def test_more_hits_than_candidates_are_given_when_asked_for(shelf: Shelf) -> None:
    store(shelf, "/a.md", [f"dog number {n}" for n in range(150)])
    assert len(shelf.ask("dog", k=150).hits) == 150
    assert len(shelf.ask("dog", k=10_000).hits) == 150


@given(
    st.lists(st.sampled_from(["cat", "dog", "horse", "cow"]), min_size=1, max_size=4).map(" ".join),
    st.sampled_from(["text", "vector", "hybrid"]),
    st.integers(1, 200),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_of_another_project_is_ever_found(many: Shelf, query: str, mode: str, k: int) -> None:
    mirrors = {"mirror": VectorMirror(), "text_mirror": TextMirror()}
    for project in (1, 2, 3):
        answer = many.ask(query, project_pk=project, mode=mode, k=k, sources=list(Source), window=2, **mirrors)
        assert {hit.text.split()[-1] for hit in answer.hits} == {f"canary{project}"}
        plain = many.ask(query, project_pk=project, mode=mode, k=k, sources=list(Source))
        assert [hit.id for hit in plain.hits] == [hit.id for hit in answer.hits]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Three projects with the same words and a word of its own at the end of every text."""
    database = Database.open(tmp_path_factory.mktemp("many") / "many.db")
    with database.write() as db:
        vectors.ensure_model(
            db, name="words", hash="h", dim=DIM, pooling="sum", query_prompt="", document_prompt="", precision="fp32"
        )
    shelf = Shelf(database, 0)
    for project in (1, 2, 3):
        with database.write() as db:
            projects.create(db, f"p{project}")
        texts = [f"{a} {b} canary{project}" for a in ("cat", "dog", "cow", "horse") for b in ("cat", "dog", "cow")]
        store(shelf, "/same.md", texts, project=project)
        with database.write() as db:
            remember(db, replace(shelf, project=project), "cat", f"cat dog cow horse canary{project}")
            talk = conversations.create(db, "dog", project_pk=project)
            messages.add(db, talk.id, "user", f"cow cat horse dog canary{project}")
    return shelf


def test_a_text_search_loads_neither_numpy_nor_a_model(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    code = (
        "import sys; from pathlib import Path; from pipeline.retrieve import Retriever;"
        " from pipeline.options import SearchOptions; from storage.database import Database\n"
        f"with Database.open({str(shelf.database.path)!r}) as db:\n"
        f"    print(len(Retriever(db, {shelf.project}).retrieve('dog', SearchOptions(mode='text')).hits))\n"
        "print(sorted({'numpy', 'torch', 'openvino', 'sentence_transformers', 'pipeline.expand', 'pipeline.diversify',"
        " 'pipeline.rerank', 'pipeline.chunk'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n[]\n", "")


def test_a_question_embedded_by_another_model_than_the_live_one_is_not_compared(shelf: Shelf) -> None:
    store(shelf, "/a", ANIMALS)
    with shelf.database.read() as db:
        model = vectors.live_model(db)
    assert model is not None
    assert shelf.ask("cat", model_pk=model.pk).hits == shelf.ask("cat").hits
    for mode in ("hybrid", "vector"):
        with pytest.raises(ModelSwitchedError, match="words became live meanwhile; ask again"):
            shelf.ask("cat", mode=mode, model_pk=model.pk + 1)
    assert shelf.ask("cat", mode="text", model_pk=model.pk + 1).hits


def test_words_that_were_not_searched_for_are_named(archive: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archive.ask("cat a17", mode="text").legs["text"].degraded is None
    monkeypatch.setattr(text_index, "LARGE", 10)
    monkeypatch.setattr(text_index, "MAX_POSTINGS", 10)
    answer = archive.ask("cat a17", mode="text")
    assert "not searched for: cat" in (answer.legs["text"].degraded or "")
    assert "a17" in answer.hits[0].text


def test_what_is_behind_the_part_of_a_query_that_is_read_is_told(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    padding = "zebra " * (text_query.MAX_CHARACTERS // 6)
    padding = padding.ljust(text_query.MAX_CHARACTERS)
    for syntax in ("plain", "fts5"):
        answer = shelf.ask(f"{padding}dog", mode="text", syntax=syntax)
        assert (answer.hits, answer.legs["text"].degraded) == (
            [],
            "only the first 8,000 characters of the question were searched for",
        )
    assert shelf.ask(f"{padding}dog").legs["text"].degraded == answer.legs["text"].degraded
    assert shelf.ask(f"{padding} \n", mode="text").legs["text"].degraded is None


def test_files_that_wait_are_counted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    with shelf.database.write() as db:
        other = projects.create(db, "other").pk
    queue(shelf, "/a.txt")
    assert shelf.ask("ferry").notes == ("1 file still waits to be read",)
    queue(shelf, "/b.txt")
    queue(shelf, "/c.txt", project=other)
    assert shelf.ask("ferry").notes == ("2 files still wait to be read",)
    assert asked(shelf.database, "ferry", project_pk=None, mode="text").notes == ("3 files still wait to be read",)
    assert shelf.ask("ferry", sources=(Source.MEMORY, Source.MESSAGE)).notes == ()
    with shelf.database.write() as db:
        remember(db, shelf, "Ferry", "The ferry leaves at nine.")
    answer = shelf.ask("ferry", sources=(Source.FILE, Source.MEMORY))
    assert (len(answer.hits), answer.notes) == (1, ("2 files still wait to be read",)), "better ones may be in them"
    monkeypatch.setattr(left_out, "COUNTED", 1)
    assert shelf.ask("ferry").notes == ("more than 1 files still wait to be read",)
    assert left_out.is_still_to_read(*shelf.ask("ferry").notes)


def damage(shelf: Shelf, sql: str) -> None:
    """Change what a guarded connection protects, as a failing disk or another program would."""
    raw = apsw.Connection(str(shelf.database.path))
    raw.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    raw.execute(sql).fetchall()
    raw.close()


DAMAGE = {
    "vector": "DELETE FROM embeddings WHERE pk = (SELECT min(pk) FROM embeddings)",
    "text": "UPDATE chunk_fts_data SET block = x'0011' WHERE id > 10",
}
OTHER = {"vector": "text", "text": "vector"}


def class_of(error: Exception) -> str:
    return type(error).__name__


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("leg", DAMAGE)
def test_a_leg_whose_rows_are_damaged_leaves_the_hits_of_the_other_one(
    shelf: Shelf, leg: str, mirrored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store(shelf, "/a.md", ANIMALS)
    mirrors = {"mirror": VectorMirror(), "text_mirror": TextMirror()} if mirrored else {}
    sound = shelf.ask("dog barks", mode=OTHER[leg])
    damage(shelf, DAMAGE[leg])
    hits = [hit.text for hit in sound.hits]
    for more in ({}, {"collapse": True}, {"mmr": True} if leg == "vector" else {}, {"k": 200, "explain": True}):
        answer = shelf.ask("dog barks", reason_of=class_of, **mirrors, **more)
        assert [hit.text for hit in answer.hits] == hits
        assert (
            answer.legs[leg].degraded
            == {
                "text": "words could not be searched: CorruptDatabaseError",
                "vector": "vectors could not be searched: CorruptDatabaseError",
            }[leg]
        )
        assert answer.legs[leg].returned == 0
        if leg == "text":
            assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in sound.hits])
        assert answer.legs[OTHER[leg]] == replace(sound.legs[OTHER[leg]], ms=answer.legs[OTHER[leg]].ms)
    assert f"searched without a leg leg={leg} error_code=corrupt_database place=storage." in caplog.text
    with pytest.raises(CorruptDatabaseError):
        shelf.ask("dog barks", mode=leg, **mirrors)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("half", ["007e", "007c", "ff7b"], ids=["NaN", "infinity", "largest"])
def test_a_vector_that_is_none_any_more_spoils_no_score(shelf: Shelf, half: str, mirrored: bool) -> None:
    store(shelf, "/a.md", ANIMALS)
    plain = shelf.ask("dog barks", embed_query=None)
    damage(shelf, f"UPDATE embeddings SET vector = x'{half * DIM}' WHERE pk = (SELECT min(pk) FROM embeddings)")
    mirror = VectorMirror() if mirrored else None
    for more in ({}, {"mmr": True}, {"min_score": 0.1}, {"mode": "text", "mmr": True}):
        answer = shelf.ask("dog barks", mirror=mirror, reason_of=class_of, **more)
        assert [hit.text for hit in answer.hits] == [hit.text for hit in plain.hits]
        if more.get("mode") is None:
            assert [hit.score for hit in answer.hits] == [hit.score for hit in plain.hits]
            assert answer.legs["vector"].degraded == "vectors could not be searched: CorruptDatabaseError"
    with pytest.raises(CorruptDatabaseError, match="run knowlex repair"):
        shelf.ask("dog barks", mode="vector", mirror=mirror)


def test_novelty_finds_no_way_round_a_vector_that_is_none_any_more(shelf: Shelf) -> None:
    store(shelf, "/a.md", [f"dog number{n}" for n in range(4)])
    plain = shelf.ask("dog", mode="text")
    damage(shelf, f"UPDATE embeddings SET vector = x'{'007c' * DIM}' WHERE pk = (SELECT min(pk) FROM embeddings)")
    answer = shelf.ask("dog", mode="text", mmr=True, reason_of=class_of)
    assert [hit.text for hit in answer.hits] == [hit.text for hit in plain.hits]
    assert answer.legs["vector"].degraded == "vectors could not be searched: CorruptDatabaseError"


def test_where_both_legs_are_damaged_or_the_other_has_nothing_to_ask_by_the_search_fails(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    damage(shelf, DAMAGE["text"])
    with pytest.raises(CorruptDatabaseError, match="fts5"):
        shelf.ask("dog barks", embed_query=None)
    damage(shelf, DAMAGE["vector"])
    with pytest.raises(CorruptDatabaseError):
        shelf.ask("dog barks")


def test_passages_are_reranked_without_the_leg_that_is_damaged_before_or_meanwhile(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)

    def rerank(query: str, texts: Sequence[str]) -> Floats:
        damage(shelf, DAMAGE["vector"])
        with shelf.database.write() as db:
            say(db, shelf, conversations.create(db, "Vet", project_pk=shelf.project).id, "not a file")
        return np.array([len(text) for text in texts], np.float32)

    answer = shelf.ask("the dog barks", rerank=rerank)
    assert "vectors are missing" in str(answer.legs["vector"].degraded)
    assert answer.legs["rerank"] == replace(answer.legs["rerank"], returned=3, degraded=None)
    assert answer.hits[0].text == ANIMALS[1]
    again = shelf.ask("the dog barks", rerank=rerank)
    assert [hit.text for hit in again.hits] == [hit.text for hit in answer.hits]
    assert again.legs["rerank"].returned == len(again.hits)


def test_novelty_counts_for_nothing_where_vectors_are_damaged(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS)
    plain = shelf.ask("dog barks", mode="text")
    damage(shelf, "DELETE FROM embeddings")
    answer = shelf.ask("dog barks", mode="text", mmr=True, reason_of=class_of)
    assert [hit.text for hit in answer.hits] == [hit.text for hit in plain.hits]
    assert answer.legs["vector"].degraded == "vectors could not be searched: CorruptDatabaseError"


def test_other_places_of_a_text_are_not_told_where_the_words_are_damaged(shelf: Shelf) -> None:
    for path in "/a.md", "/b.md":
        store(shelf, path, [ANIMALS[0], path])
    assert shelf.ask("cat", mode="vector", collapse=True).hits[0].also == ("/b.md",)
    damage(shelf, DAMAGE["text"])
    answer = shelf.ask("cat", mode="vector", collapse=True, reason_of=class_of)
    assert (answer.hits[0].text, answer.hits[0].also) == (ANIMALS[0], ())
    assert answer.legs["text"].degraded == "words could not be searched: CorruptDatabaseError"


def test_where_the_functions_of_vectors_are_missing_hybrid_answers_by_words(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(shelf, "/a.md", ANIMALS)
    monkeypatch.setattr(vectors, "EXACT_BELOW", 0)
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    answer = shelf.ask("dog barks")
    assert [hit.text for hit in answer.hits] == [ANIMALS[1]]
    assert "sqlite-vec is not installed" in str(answer.legs["vector"].degraded)
    with pytest.raises(ConfigurationError, match="sqlite-vec"):
        shelf.ask("dog barks", mode="vector")


@pytest.mark.parametrize("kind", OF_THE_WHOLE)
@pytest.mark.parametrize(("module", "name"), [(text_index, "matches"), (vectors, "near")])
def test_what_concerns_the_whole_database_ends_a_search(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, kind: type[DatabaseError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("not now")

    store(shelf, "/a.md", ANIMALS)
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(kind, match="not now"):
        shelf.ask("dog barks")


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_a_damaged_message_is_left_out_and_named(shelf: Shelf, mode: str) -> None:
    store(shelf, "/a.md", ANIMALS)
    with shelf.database.write() as db:
        talk = conversations.create(db, "Vet", project_pk=shelf.project)
        for number in range(3):
            say(db, shelf, talk.id, f"The dog barks at {number}")
    asked = {"mode": mode, "sources": [*Source], "k": 2}
    whole = shelf.ask("dog barks at 0", **{**asked, "k": 9})
    assert whole.notes == ()
    first = next(hit for hit in whole.hits if hit.source is Source.MESSAGE)
    damage(shelf, f"UPDATE messages SET content = '{{broken' WHERE id = '{first.id}'")
    answer = shelf.ask("dog barks at 0", **asked)
    assert [hit.id for hit in answer.hits] == [hit.id for hit in whole.hits if hit.id != first.id][:2]
    assert answer.notes == (f"1 passage left out that cannot be read ({first.id}); knowlex verify --deep says more",)
    damage(shelf, "UPDATE messages SET content = '{broken'")
    with pytest.raises(DamagedValueError, match="3 passages left out .*, and nothing else was found"):
        shelf.ask("dog barks at", **{**asked, "sources": [Source.MESSAGE], "k": 9})


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
@pytest.mark.parametrize(
    ("source", "table"),
    [(Source.FILE, "file_chunks"), (Source.MEMORY, "project_memories"), (Source.MESSAGE, "messages")],
)
def test_a_passage_that_is_no_valid_unicode_any_more_is_left_out_and_named(
    shelf: Shelf, mode: str, source: Source, table: str
) -> None:
    store(shelf, "/a.md", ["The dog barks", "The dog sleeps"])
    with shelf.database.write() as db:
        other = projects.create(db, "other").pk
        talk = conversations.create(db, "Vet", project_pk=shelf.project)
        for text in ("A dog barks", "A dog sleeps"):
            remember(db, shelf, "Pets", text)
            say(db, shelf, talk.id, text)
    whole = shelf.ask("dog", mode=mode, sources=[*Source])
    first = next(hit for hit in whole.hits if hit.source is source)
    damage(shelf, f"UPDATE {table} SET content = CAST(x'22ff22' AS TEXT) WHERE id = '{first.id}'")
    answer = shelf.ask("dog", mode=mode, sources=[*Source])
    assert [hit.id for hit in answer.hits] == [hit.id for hit in whole.hits if hit.id != first.id]
    assert answer.notes == (f"1 passage left out that cannot be read ({first.id}); knowlex verify --deep says more",)
    with shelf.database.read() as db:
        pk = db.value(f"SELECT pk FROM {table} WHERE id = :id", id=first.id)
        assert passages.ids(db, source, [pk], project_pk=None) == [first.id]
        assert passages.ids(db, source, [pk], project_pk=other) == []


@pytest.mark.parametrize("more", [{"window": 2}, {"section": True}, {"window": 2, "merge": True, "max_tokens": 20}])
def test_all_that_cannot_be_read_beside_a_hit_is_named(shelf: Shelf, more: dict[str, Any]) -> None:
    store(shelf, "/a.md", ["The bird sings", "The cow moos", "A dog barks", "The cat sleeps", "The horse runs"])
    for index in 0, 3:
        damage(shelf, f"UPDATE file_chunks SET content = CAST(x'22ff22' AS TEXT) WHERE chunk_index = {index}")
    with shelf.database.read() as db:
        ids = [id for (id,) in db.all("SELECT id FROM file_chunks WHERE chunk_index IN (0, 3) ORDER BY chunk_index")]
    answer = shelf.ask("dog barks", k=1, **more)
    [hit] = answer.hits
    assert (hit.before.strip(), hit.text, hit.after) == ("The cow moos", "A dog barks", "")
    assert answer.notes == (
        f"2 passages left out that cannot be read ({', '.join(ids)}); knowlex verify --deep says more",
    )


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01T00:00:00", ""])
def test_a_memory_whose_time_is_damaged_counts_as_old(shelf: Shelf, at: str) -> None:
    with shelf.database.write() as db:
        remember(db, shelf, "Pets", "A dog barks")
    damage(shelf, f"UPDATE project_memories SET updated_at = '{at}'")
    [hit] = shelf.ask("dog", sources=[Source.MEMORY], explain=True).hits
    assert hit.why["recency"] == pytest.approx(0.9)


def test_with_novelty_too_what_cannot_be_read_makes_room_for_the_next(shelf: Shelf) -> None:
    store(shelf, "/a.md", [f"dog {'number ' * n}" for n in range(1, 9)])
    whole = shelf.ask("dog number", k=6, mmr=1.0)
    damage(shelf, f"UPDATE file_chunks SET content = CAST(x'22ff22' AS TEXT) WHERE id = '{whole.hits[0].id}'")
    answer = shelf.ask("dog number", k=5, mmr=1.0)
    assert [hit.id for hit in answer.hits] == [hit.id for hit in whole.hits[1:]]


OF_ANOTHER_KIND = {
    "content": "UPDATE {table} SET content = x'4142' WHERE id = '{id}'",
    "created_at": "UPDATE {table} SET created_at = x'4142' WHERE id = '{id}'",
    "updated_at": "UPDATE {table} SET updated_at = x'4142' WHERE id = '{id}'",
    "id": "UPDATE {table} SET id = x'ff' WHERE id = '{id}'",
    "heading": "UPDATE file_chunks SET heading = x'4142' WHERE id = '{id}'",
    "number": "UPDATE file_chunks SET token_count = 'many' WHERE id = '{id}'",
    "filename": "UPDATE project_files SET filename = x'4142' WHERE path = '/b.md'",
    "path": "UPDATE project_files SET path = x'4142' WHERE path = '/b.md'",
    "path_bytes": "UPDATE project_files SET path_bytes = 'text' WHERE path = '/b.md'",
    "memory's title": "UPDATE project_memories SET title = x'4142'",
    "conversation's title": "UPDATE conversations SET title = x'4142'",
}


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
@pytest.mark.parametrize(
    ("source", "table", "what"),
    [
        *((Source.FILE, "file_chunks", what) for what in ("content", "created_at", "id", "heading", "number")),
        *((Source.FILE, "file_chunks", what) for what in ("filename", "path", "path_bytes")),
        *((Source.MEMORY, "project_memories", what) for what in ("content", "updated_at", "id", "memory's title")),
        *((Source.MESSAGE, "messages", what) for what in ("content", "created_at", "id", "conversation's title")),
    ],
)
def test_a_passage_with_a_value_of_another_kind_is_left_out_and_named(
    shelf: Shelf, mode: str, source: Source, table: str, what: str
) -> None:
    store(shelf, "/a.md", ["The dog sleeps"])
    store(shelf, "/b.md", ["A dog barks"])
    with shelf.database.write() as db:
        remember(db, shelf, "Pets", "A dog barks")
        say(db, shelf, conversations.create(db, "Vet", project_pk=shelf.project).id, "A dog barks")
    asking = {"mode": mode, "sources": [*Source]}
    whole = shelf.ask("dog barks", **asking)
    first = next(hit for hit in whole.hits if hit.source is source)
    pk = 2 if source is Source.FILE else 1
    damage(shelf, OF_ANOTHER_KIND[what].format(table=table, id=first.id))
    for more in ({}, {"rerank": lambda query, texts: np.arange(len(texts))}, {"mmr": True, "collapse": True}):
        answer = shelf.ask("dog barks", **asking, **more)
        assert {hit.id for hit in answer.hits} == {hit.id for hit in whole.hits if hit.id != first.id}
        named = f"row {pk}" if what == "id" else first.id
        assert answer.notes == (f"1 passage left out that cannot be read ({named}); knowlex verify --deep says more",)
    [next_best] = shelf.ask("dog barks", **asking, k=1).hits
    assert next_best.id in {hit.id for hit in whole.hits} - {first.id}
    with pytest.raises(DamagedValueError, match="1 passage left out .*, and nothing else was found"):
        shelf.ask("dog barks", mode=mode, sources=[source], allowed={source: [pk]})


@pytest.mark.parametrize("value", ["x'4142'", "CAST(x'ff' AS TEXT)"])
@pytest.mark.parametrize("shape", [{"window": 1}, {"section": True}, {"section": True, "merge": True}])
def test_what_cannot_be_read_beside_a_hit_is_left_out_and_named(
    shelf: Shelf, shape: dict[str, Any], value: str
) -> None:
    store(shelf, "/a.md", ANIMALS, heading="Animals")
    [beside] = shelf.ask("cat", mode="text").hits
    damage(shelf, f"UPDATE file_chunks SET content = {value} WHERE id = '{beside.id}'")
    answer = shelf.ask("dog barks", mode="text", **shape)
    [hit] = answer.hits
    assert (hit.before, hit.text, hit.after.strip()) == ("", ANIMALS[1], ANIMALS[2])
    assert answer.notes == (f"1 passage left out that cannot be read ({beside.id}); knowlex verify --deep says more",)


def test_other_names_of_another_kind_are_not_told(shelf: Shelf) -> None:
    store(shelf, "/a.md", ["The dog sleeps"])
    store(shelf, "/b.md", ["The dog sleeps", "A cat"])
    damage(shelf, "UPDATE project_files SET path = x'4142' WHERE path = '/b.md'")
    damage(
        shelf,
        "INSERT INTO project_files (id, project_id, filename, path, path_bytes, created_at, updated_at, duplicate_of)"
        " SELECT 'c', project_id, 'c', x'4142', x'63', created_at, updated_at, pk FROM project_files WHERE pk = 1",
    )
    answer = shelf.ask("dog", mode="text", collapse=True)
    assert [(hit.path, hit.also) for hit in answer.hits] == [("/a.md", ())]


def test_a_single_passage_keeps_its_score_where_words_cannot_be_searched(shelf: Shelf) -> None:
    store(shelf, "/a.md", ANIMALS[:1])
    [alone] = shelf.ask("cat", mode="vector").hits
    damage(shelf, DAMAGE["text"])
    [hit] = shelf.ask("cat", min_score=alone.score - 0.001).hits
    assert hit.score == pytest.approx(alone.score)

"""`knowlex reembed`: another real model is built beside the live one, and what is running goes over to it."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from second_model import cache_with_the_default_model, loaded_once, second_model

from knowlex import Knowlex, reembedding
from pipeline import embed, reembed
from pipeline.model_files import DEFAULT_MODEL
from storage import projects, succession, vectors
from storage.errors import ConfigurationError, LockedError, ModelMismatchError, UsageError
from storage.succession import FIRST
from storage.verify import verify

# One worker runs them all, so that the library is made once.
pytestmark = pytest.mark.xdist_group("reembed")

QUESTION = "How many days of leave do I get?"
SOURCES = ("files", "memories", "messages")


class Library:
    """The sample documents, a memory and a message with the default model's vectors; and two more models."""

    def __init__(self, place: Path, documents: Path) -> None:
        self.cache = cache_with_the_default_model(place / "cache")
        self.ship = second_model(place / "ship", self.cache)
        self.short = second_model(place / "short", self.cache, prompts={"query": "", "document": ""}, max_tokens=64)
        self.path, self.documents = place / "library.db", documents
        with Knowlex(self.path, cache_dir=str(self.cache)) as kb:
            assert kb.ingest("demo", documents, progress=False).ingested == 10
            kb.memories.add("demo", "Leave", "Ask Ida before you take a day off.")
            talk = kb.conversations.create("Lunch", project="demo")
            kb.conversations.add(talk.id, "user", "Shall we eat at noon?")
            found(kb)


def found(kb: Knowlex, mode: str = "vector") -> list[tuple[str, float]]:
    hits = kb.search("demo", QUESTION, 5, mode=mode, sources=SOURCES)
    assert hits.legs["vector"].degraded is None
    return [(hit.id, round(hit.score, 3)) for hit in hits]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Library:
    return Library(tmp_path_factory.mktemp("library"), sample_data / "demo")


Open = Callable[..., Knowlex]


@pytest.fixture
def opened(library: Library, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a copy of the library, as often as wanted; also the command line uses it."""
    shutil.copyfile(library.path, database)
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(library.cache))
    monkeypatch.setattr(embed, "load", loaded_once)
    kept: list[Knowlex] = []

    def call(**settings: Any) -> Knowlex:
        kept.append(Knowlex(**settings))
        return kept[-1]

    yield call
    for kb in kept:
        kb.close()


def live(kb: Knowlex) -> str | None:
    return kb.stats().model


# --- from one model to the other


def test_what_ingestion_gave_the_model_is_made_again_from_what_is_stored(opened: Open) -> None:
    with opened().database.read() as db:
        model = vectors.live_model(db)
        assert model is not None
        passages = succession.page(db, model.pk, FIRST, 1000).passages
        stored = {digest for (digest,) in db.all("SELECT input_hash FROM embeddings")}
        assert db.value("SELECT count(*) FROM file_chunks WHERE metadata ->> '$.repeated' > 0") > 0
        assert db.value("SELECT count(*) FROM file_chunks WHERE heading <> ''") > 0
    assert {each.hash for each in reembed.inputs(passages)} == stored


def test_whoever_has_the_database_open_goes_over_with_it(opened: Open, library: Library, knowlex) -> None:
    notebook = opened()
    before = {mode: found(notebook, mode) for mode in ("vector", "hybrid")}
    answer = knowlex("reembed", library.ship, "--json").json
    assert answer | {"seconds": 0, "outdated": 0, "cut": 0} == {
        "model": str(library.ship), "replaced": DEFAULT_MODEL, "switched": True, "live": True, "made": 54, "reused": 0,
        "left": 0, "cut": 0, "outdated": 0, "removed": 54, "seconds": 0,
    }  # fmt: skip
    after = {mode: found(notebook, mode) for mode in ("vector", "hybrid")}
    assert after != before
    assert after == {mode: found(opened(), mode) for mode in ("vector", "hybrid")}
    assert (live(notebook), notebook.stats().vectors) == (str(library.ship), 54)
    assert notebook.verify(deep=True) == []
    again = knowlex("reembed", library.ship)
    assert (again.code, again.out) == (0, f"{library.ship} is searched already: nothing to do\n")


def test_the_way_back_leads_to_the_same_answers(opened: Open, library: Library) -> None:
    kb = opened()
    before = found(kb)
    kb.reembed(str(library.ship))
    there = kb.reembed(DEFAULT_MODEL)
    assert (there.made, there.replaced, there.model) == (54, str(library.ship), DEFAULT_MODEL)
    assert found(kb) == before


def test_a_memory_that_waits_is_embedded_by_the_new_model(opened: Open, library: Library) -> None:
    kb = opened()
    kb.memories.add("demo", "Anchor", "It is made of iron.")
    assert kb.reembed(str(library.ship)).made == 54
    assert kb.stats().pending_vectors == 1
    assert "iron" in kb.memories.search("demo", "What is the anchor made of?", 1)[0].text
    assert kb.verify(deep=True) == []


def test_the_first_model_of_an_empty_database(tmp_path: Path, library: Library) -> None:
    with Knowlex(tmp_path / "new.db", cache_dir=str(library.cache)) as kb:
        kb.projects.create("p")
        done = kb.reembed(str(library.ship))
        assert (done.replaced, done.switched, done.made) == (None, True, 0)
        kb.memories.add("p", "Anchor", "It is made of iron.")
        assert len(kb.memories.search("p", "metal", 1)) == 1
        assert live(kb) == str(library.ship)


# --- interruptions


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reembedding, "PAGE", 20)


@pytest.mark.usefixtures("small_pages")
def test_a_run_that_was_stopped_is_told_everywhere_and_gone_on_with(
    opened: Open, library: Library, knowlex, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = opened()
    before, told = found(kb), []
    run = kb.reembedding(str(library.ship), progress=lambda done, total: (told.append((done, total)), run.stop()))
    half = run.run()
    assert (told, half.live, half.made, half.left) == ([(20, 54)], False, 20, 34)
    assert found(kb) == before
    assert kb.verify(deep=True) == []
    building = kb.stats().building
    assert (building.model, building.vectors, building.of) == (str(library.ship), 20, 54)
    assert "20 of 54 vectors" in knowlex("stats").out
    health = knowlex("health")
    assert f"{library.ship} is being built: 20 of 54 vectors" in health.out
    assert "vectors" not in [line.split()[1] for line in health.out.splitlines() if line.startswith("FAILED")]
    other = knowlex("reembed", library.short)
    assert (other.code, other.out) == (2, "")
    assert (
        f"{library.ship} is half built: run knowlex reembed {library.ship} to finish it, or give --discard" in other.err
    )
    rest = kb.reembed(str(library.ship))
    assert (rest.made, rest.reused, rest.switched) == (34, 20, True)
    assert kb.stats().building is None


@pytest.mark.usefixtures("small_pages")
def test_time_is_up(opened: Open, library: Library, knowlex) -> None:
    answer = knowlex("reembed", library.ship, "--max-minutes", "0.00001")
    assert answer.code == 0
    assert "half built" in answer.out
    assert "time is up: 54 vectors to be made; run the same command to go on" in answer.err
    dropped = opened().reembed(str(library.short), discard=True)
    assert (dropped.switched, dropped.made) == (True, 54)


@pytest.mark.usefixtures("small_pages")
def test_a_half_built_model_that_is_no_longer_wanted_is_dropped(opened: Open, library: Library, knowlex) -> None:
    kb = opened()
    run = kb.reembedding(str(library.ship), progress=lambda done, total: run.stop())
    run.run()
    assert knowlex("reembed", DEFAULT_MODEL).out == f"{DEFAULT_MODEL} is searched already: nothing to do\n"
    assert kb.stats().building is not None
    answer = knowlex("reembed", DEFAULT_MODEL, "--discard")
    assert answer.out == f"{DEFAULT_MODEL} is searched already: 20 vectors of other models removed\n"
    assert kb.stats().building is None
    assert kb.verify(deep=True) == []


@pytest.mark.usefixtures("small_pages")
def test_what_others_do_meanwhile_is_caught_up(opened: Open, library: Library, tmp_path: Path) -> None:
    kb, other = opened(), opened()
    notes = tmp_path / "notes"
    notes.mkdir()
    turns: list[int] = []

    def meddle(done: int, total: int) -> None:
        assert done <= total
        if len(turns) == 4:
            return
        turns.append(done)
        other.memories.add("demo", f"Anchor {done}", f"Number {done} is made of iron.")
        other.drain().run()
        (notes / "note.md").write_text(f"The tide of day {done} was high.", "utf8")
        other.ingest("demo", notes, progress=False)

    done = kb.reembed(str(library.ship), progress=meddle)
    assert done.switched
    assert turns[:2] == [20, 40]
    assert kb.stats().pending_vectors == 0
    assert found(kb) == found(other)
    assert kb.verify(deep=True) == []
    [note] = kb.search("demo", "high tide", 1, mode="vector")
    assert note.text == f"The tide of day {turns[-1]} was high."


class Hour:
    """A clock that a test moves, in place of the one by which a build measures its model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(reembedding, "time", SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: self.s))


@pytest.fixture
def hour(monkeypatch: pytest.MonkeyPatch) -> Hour:
    return Hour(monkeypatch)


Embed = Callable[[list[str]], Any]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Knowlex, Path, Callable[[Embed], Embed]], None]:
    """Have a model of the library embed by what is put around its own function."""

    def load(kb: Knowlex, model: Path, around: Callable[[Embed], Embed]) -> None:
        embedder, tokenizer = kb.engine.load_another(str(model))
        monkeypatch.setattr(embedder, "embed_documents", around(embedder.embed_documents))
        monkeypatch.setattr(kb.engine, "load_another", lambda name: (embedder, tokenizer))

    return load


def is_locked(kb: Knowlex) -> bool:
    """Tell whether another one holds the write lock at this moment."""
    try:
        with kb.database.write(timeout_ms=0):
            return False
    except LockedError:
        return True


def remember(kb: Knowlex, title: str, text: str) -> None:
    kb.memories.add("demo", title, text)
    assert kb.drain().run().vectors == 1


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], list[int]]:
    """Have something done when a build has just gone through all there was; the list holds how often it has."""

    def follow(act: Callable[[int], object]) -> list[int]:
        pages, passes = reembedding.Reembedding._pages, []

        def overtaken(self: Any, *arguments: Any) -> Iterator[Any]:
            yield from pages(self, *arguments)
            passes.append(len(passes))
            act(len(passes))

        monkeypatch.setattr(reembedding.Reembedding, "_pages", overtaken)
        return passes

    return follow


@pytest.mark.usefixtures("small_pages")
def test_nobody_waits_for_a_slow_model(opened: Open, library: Library, hour: Hour, loaded, followed) -> None:
    kb, other = opened(), opened()
    locked: list[bool] = []

    def slow(embed: Embed) -> Embed:
        def call(texts: list[str]) -> Any:
            hour.s += 0.4 * len(texts)
            locked.append(is_locked(other))
            return embed(texts)

        return call

    loaded(kb, library.ship, slow)
    passes = followed(lambda done: done < 6 and remember(other, f"Late {done}", "It came in when all seemed done."))
    assert kb.reembed(str(library.ship)).switched
    assert (len(passes), any(locked)) == (6, False)
    assert kb.verify(deep=True) == []


@pytest.mark.usefixtures("small_pages", "hour")
def test_the_last_passages_are_made_under_the_write_lock_where_the_model_is_fast(
    opened: Open, library: Library, loaded, followed
) -> None:
    kb, other = opened(), opened()
    locked: list[bool] = []

    def noting(embed: Embed) -> Embed:
        return lambda texts: (locked.append(is_locked(other)), embed(texts))[1]

    loaded(kb, library.short, noting)
    followed(lambda done: remember(other, f"Late {done}", "It came in when all seemed done. " * 20))
    done = kb.reembed(str(library.short))
    assert done.switched
    assert locked == [False] * (len(locked) - 1) + [True]
    embedder, tokenizer = kb.engine.load_another(str(library.short))
    with kb.database.read() as db:
        passages = succession.page(db, vectors.live_model(db).pk, FIRST, 1000).passages
    assert done.cut == len(reembed.too_long(tokenizer, embedder.identity, reembed.inputs(passages)))
    assert kb.verify(deep=True) == []


@pytest.mark.usefixtures("small_pages")
def test_a_build_that_cannot_keep_up_says_so_and_ends_when_writers_pause(
    opened: Open, library: Library, hour: Hour, loaded, caplog: pytest.LogCaptureFixture
) -> None:
    kb, other = opened(), opened()
    calls: list[int] = []

    def told() -> list[Any]:
        return [r.msg.fields for r in caplog.records if str(r.msg).startswith("passages come in as fast as")]

    def outpaced(embed: Embed) -> Embed:
        def call(texts: list[str]) -> Any:
            hour.s += 0.4 * len(texts)
            calls.append(len(texts))
            if len(calls) < 15 and not told():
                remember(other, f"Late {len(calls)}", f"It came in with turn {len(calls)}.")
            return embed(texts)

        return call

    loaded(kb, library.ship, outpaced)
    counted: list[tuple[int, int]] = []
    assert kb.reembed(str(library.ship), progress=lambda done, of: counted.append((done, of))).switched
    assert [fields["left"] for fields in told()] == [calls[-1]]
    assert len(calls) < 15
    assert counted[-1] == (54 + len(calls) - 1, 54 + len(calls) - 1)
    assert kb.verify(deep=True) == []


@pytest.fixture
def overtaken(opened: Open, library: Library, monkeypatch: pytest.MonkeyPatch) -> Knowlex:
    """Somebody who has just asked for the model when another one becomes live."""
    kb, other = opened(), opened()
    embedder = kb.engine.embedder

    def slow() -> Any:
        loaded = embedder()
        if live(other) == DEFAULT_MODEL:
            other.reembed(str(library.ship))
        return loaded

    monkeypatch.setattr(kb.engine, "embedder", slow)
    return kb


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_a_question_of_the_moment_of_the_switch_is_asked_again(overtaken: Knowlex, opened: Open, mode: str) -> None:
    answer = found(overtaken, mode)
    assert answer
    assert answer == found(opened(), mode)


def test_a_memory_embedded_at_the_moment_of_the_switch_is_embedded_again(overtaken: Knowlex, library: Library) -> None:
    overtaken.memories.add("demo", "Anchor", "It is made of iron.")
    assert overtaken.drain().run().vectors == 1
    assert overtaken.verify(deep=True) == []
    embedder, model = overtaken.engine.embedder()
    assert model.name == str(library.ship)
    text = "Anchor\n\nIt is made of iron."
    [expected] = vectors.encode(embedder.embed_documents([text]))
    with overtaken.database.read() as db:
        [stored] = vectors.known(db, model.pk, [vectors.input_hash(text)]).values()
    both = [np.frombuffer(vector.half, "<f2").astype(np.float32) for vector in (stored, expected)]
    assert both[0] @ both[1] > 0.999


# --- models and settings


def test_the_live_model_wins_over_a_setting_that_names_another(
    opened: Open, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    expected = found(opened())
    assert found(opened(model=str(library.ship))) == expected
    assert "model of the settings not used" in caplog.text
    opened().reembed(str(library.ship))
    caplog.clear()
    assert found(opened()) == found(opened(model=str(library.ship)))
    assert caplog.text == "", "a setting that was not given, and one that agrees"


def test_a_model_that_is_gone_is_named_with_what_to_do(opened: Open, library: Library, tmp_path: Path, knowlex) -> None:
    shutil.copytree(library.ship, tmp_path / "model", symlinks=True)
    opened().reembed(str(tmp_path / "model"))
    expected = found(opened())
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(ModelMismatchError, match=r"come from .*model, which is not to be had here .*no such folder"):
        found(opened())
    assert knowlex("search", "demo", QUESTION, "--mode", "text").code == 0
    hits = opened().search("demo", QUESTION, sources=SOURCES)
    assert "not to be had here" in str(hits.legs["vector"].degraded)
    assert hits
    assert found(opened(model=str(tmp_path / "moved"))) == expected, "the setting says where"
    told = knowlex("reembed", tmp_path / "moved")
    assert (told.code, told.out) == (0, f"{tmp_path / 'moved'} is searched already: nothing to do\n")
    assert found(opened()) == expected


def test_no_hub_is_asked_for_what_only_a_database_names(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def nowhere(host: object, *more: object, **options: object) -> None:
        asked.append(host)
        raise OSError("no network here")

    kb = opened()
    with kb.database.write() as db:
        db.run("UPDATE embedding_models SET name = 'nobody/no-such-model', hash = 'other'")
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(ModelMismatchError, match=r"not on this machine; .* set model to nobody/no-such-model"):
        found(kb)
    assert asked == []


def test_a_folder_is_kept_by_its_whole_path(opened: Open, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library.ship.parent)
    assert opened().reembed("./ship").model == str(library.ship)


def test_a_model_that_is_not_to_be_had_changes_nothing(opened: Open, tmp_path: Path, knowlex) -> None:
    answer = knowlex("reembed", tmp_path / "none")
    assert (answer.code, answer.out) == (4, "")
    assert "no such folder" in answer.err
    assert opened().stats().building is None


def test_passages_longer_than_the_model_takes_are_told_and_cut_anew_by_the_next_ingestion(
    opened: Open, library: Library, knowlex
) -> None:
    answer = knowlex("reembed", library.short)
    assert "passages longer than the model takes: the vector is the mean of the parts'" in answer.err
    assert "10 files cut otherwise than now: the next knowlex ingest cuts them anew" in answer.err
    dry = knowlex("ingest", "demo", library.documents, "--dry-run")
    assert "10 files would be read anew: their reader, the chunking or the model has changed" in dry.out
    kb = opened()
    assert kb.ingest("demo", library.documents, progress=False).outdated == 10
    with kb.database.read() as db:
        model = vectors.live_model(db)
        assert model is not None
        passages = succession.page(db, model.pk, FIRST, 10_000).passages
    embedder, tokenizer = kb.engine.load_another(str(library.short))
    assert reembed.too_long(tokenizer, embedder.identity, reembed.inputs(passages)) == []
    assert verify(kb.database, deep=True) == []


def test_files_are_not_cut_anew_where_the_setting_says_how_long_passages_are(opened: Open, library: Library) -> None:
    kb = opened(max_tokens=48)
    assert kb.ingest("demo", library.documents, progress=False).outdated == 10
    done = kb.reembed(str(library.short))
    assert (done.cut, done.outdated) == (0, 0)


def test_a_model_too_short_for_the_settings_is_refused_before_anything_is_made(opened: Open, library: Library) -> None:
    kb = opened(max_tokens=200)
    with pytest.raises(ConfigurationError, match=f"max_tokens = 200: {library.short} takes 64; lower it"):
        kb.reembed(str(library.short))
    assert kb.stats().building is None


def test_it_is_no_part_of_a_transaction(opened: Open, library: Library) -> None:
    kb = opened()
    with kb.transaction(), pytest.raises(UsageError, match="reembed: cannot be part of a transaction"):
        kb.reembed(str(library.ship))


def zeros(made: Any, wrong: list[bool]) -> Any:
    made[wrong] = 0
    return made


def too_few(made: Any, wrong: list[bool]) -> Any:
    return made[: -1 if any(wrong) else None]


def failing(made: Any, wrong: list[bool]) -> Any:
    if any(wrong):
        raise RuntimeError("of the library")
    return made


@pytest.mark.parametrize(
    ("source", "spoil", "told"),
    [
        ("files", zeros, "vectors are not of unit length: .*"),
        ("memories", too_few, "0 vectors for 1 texts"),
        ("messages", failing, "RuntimeError"),
    ],
)
def test_a_text_without_a_sound_vector_is_named(
    opened: Open, library: Library, loaded, spoil: Callable[..., Any], told: str, source: str
) -> None:
    kb = opened()
    with kb.database.read() as db:
        wanted, name = db.one(NAMED[source])

    def poisoned(embed: Embed) -> Embed:
        return lambda texts: spoil(embed(texts), [wanted in text for text in texts])

    loaded(kb, library.ship, poisoned)
    said = rf"ship: gives no sound vector for {re.escape(name)} \({told}\); set precision to fp32, change or delete it"
    with pytest.raises(ConfigurationError, match=said):
        kb.reembed(str(library.ship))
    assert live(kb) == DEFAULT_MODEL
    assert kb.stats().building.vectors == 0


NAMED = {
    "files": (
        "SELECT c.content, 'passage ' || c.chunk_index || ' of ' || f.path FROM file_chunks c"
        " JOIN project_files f ON f.pk = c.file_id ORDER BY c.pk LIMIT 1"
    ),
    "memories": "SELECT content, 'memory ' || id FROM project_memories",
    "messages": "SELECT 'Shall we eat at noon?', 'message ' || id FROM messages",
}
"""A text that one passage has, and what that is called."""


def test_a_model_without_a_sound_vector_is_no_fault_of_a_text(opened: Open, library: Library, loaded) -> None:
    kb = opened()

    def broken(embed: Embed) -> Embed:
        return lambda texts: failing(embed(texts), [True])

    loaded(kb, library.ship, broken)
    with pytest.raises(ConfigurationError, match=r"ship: gives no sound vector for any text \(RuntimeError\)"):
        kb.reembed(str(library.ship))


def test_a_model_too_short_for_a_project_is_refused_before_anything_is_made(
    opened: Open, library: Library, knowlex
) -> None:
    kb = opened()
    with kb.database.write() as db:
        projects.create(db, "with settings of a program", settings={"theirs": 1})
        projects.create(db, "that no model can serve", settings={"ingest": {"max_tokens": "many"}})
    kb.projects.create("logs", set={"max_tokens": 200})
    said = (
        f"project logs: max_tokens = 200: {library.short} takes 64; lower it, or give 0 for just that;"
        " or run knowlex project update logs --unset max_tokens"
    )
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        kb.reembed(str(library.short))
    assert kb.stats().building is None
    assert knowlex("project", "update", "logs", "--unset", "max_tokens").code == 0
    assert kb.reembed(str(library.short)).switched

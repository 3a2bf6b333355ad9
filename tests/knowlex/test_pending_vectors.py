"""Vectors of memories and messages: one that the model has no sound vector for costs no other its own."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowlex import Knowlex, facade, pending_vectors
from knowlex.pending_vectors import embed_pending
from pipeline import model_files
from pipeline.embed import PARTS, Embedder
from storage.errors import ConfigurationError
from storage.verify import verify


class Spoiling:
    """The model, but for texts with a word, which it has no sound vector for, or raises at."""

    def __init__(self, real: Embedder, word: str, error: Exception | None = None) -> None:
        self.identity = real.identity
        self.embed_query, self.known_letters, self.parts = real.embed_query, real.known_letters, real.parts
        self.asked: list[str] = []
        self._real, self._word, self._error = real, word, error

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the model's vectors, of which some are not numbers."""
        self.asked += texts
        values = self._real.embed_documents(texts)
        spoiled = [self._word in text for text in texts]
        if any(spoiled) and self._error is not None:
            raise self._error
        values[spoiled] = np.nan
        return values


def spoil(kb: Knowlex, word: str, error: Exception | None = None) -> Spoiling:
    """Let the model of an open database have no sound vector for texts with a word."""
    real, model = kb.engine.embedder()
    spoiling = Spoiling(real, word, error)
    kb.engine._loaded = spoiling, model
    return spoiling


def drain(kb: Knowlex) -> int:
    """Do what waits and return how many memories and messages got their vector."""
    with kb.drain() as run:
        return run.run().vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with three memories and three messages, of which the second each names nightshade."""
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("herbs")
        talk = kb.conversations.create("Herbs", project="herbs")
        for name in ("mint", "nightshade", "sage"):
            kb.memories.add("herbs", f"About {name}", f"What {name} is good for.")
            kb.conversations.add(talk.id, "user", f"Where does {name} grow?")
        assert kb.stats().pending_vectors == 6
    return tmp_path / "knowlex.db"


def counts(kb: Knowlex) -> tuple[int, int, int]:
    """Return how many vectors there are, wait, and were refused."""
    found = kb.stats()
    return found.vectors, found.pending_vectors, found.refused_vectors


@pytest.mark.parametrize("error", [None, RuntimeError("out of luck")])
def test_one_without_a_sound_vector_fails_alone(
    path: Path, error: Exception | None, caplog: pytest.LogCaptureFixture, database: Path, knowlex: Callable[..., Any]
) -> None:
    with Knowlex(path) as kb:
        model = spoil(kb, "nightshade", error)
        assert drain(kb) == 4
        assert counts(kb) == (4, 0, 2)
        assert [memory.title for memory in kb.memories.list("herbs").items if memory.id in caplog.text] == [
            "About nightshade"
        ]
        assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == 2 * [
            "knowlex.vectors"
        ]
        model.asked.clear()
        assert drain(kb) == 0
        assert len(kb.search("herbs", "where does it grow?", sources=("messages",))) == 3
        assert model.asked == [], "they are not tried again"
        assert verify(kb.database, deep=True) == []
        [vectors] = [check for check in kb.health().checks if check.name == "vectors"]
        [poison] = [memory.id for memory in kb.memories.list("herbs").items if "nightshade" in memory.title]
    assert vectors.ok
    assert f"no sound one of: 2 (memory {poison}, message " in vectors.detail
    assert json.loads(knowlex("stats", "--json").out)["refused_vectors"] == 2


@pytest.mark.parametrize("source", ["memories", "messages"])
def test_the_end_of_a_long_one_is_in_its_vector(tmp_path: Path, source: str) -> None:
    long = "The train to the coast leaves at noon, and the ferry waits for it. " * 30
    ends = ("Whales sing to each other under water.", "Bread is baked in the morning.", "The king lost his crown.")
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("talk")
        talk = kb.conversations.create("All kinds", project="talk")
        for end in ends:
            if source == "memories":
                kb.memories.add("talk", "A journey", long + end)
            else:
                kb.conversations.add(talk.id, "user", long + end)
        for end, question in zip(ends, ("songs of sea animals", "when do bakers work?", "monarchy"), strict=True):
            first, *_ = kb.search("talk", question, mode="vector", sources=[source])
            assert first.text.endswith(end)


def test_long_ones_count_for_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_vectors, "BATCH", 1)
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("talk")
        for number in range(3):
            kb.memories.add("talk", f"Number {number}", "A long, long story. " * 1000)
        model = spoil(kb, "no such word")
        assert embed_pending(kb.engine, limit=PARTS) == 1
        assert len(model.asked) == PARTS
        assert embed_pending(kb.engine, limit=PARTS + 1) == 2


def test_it_is_tried_again_when_it_is_changed(path: Path) -> None:
    with Knowlex(path) as kb:
        spoil(kb, "nightshade")
        drain(kb)
        [memory] = [memory for memory in kb.memories.list("herbs").items if "nightshade" in memory.title]
        kb.memories.update(memory.id, importance=9)
        assert drain(kb) == 0
        kb.memories.update(memory.id, title="About belladonna", content="What it is good for.")
        assert counts(kb) == (4, 1, 1)
        assert drain(kb) == 1
        assert counts(kb) == (5, 0, 1)


def test_it_is_tried_again_by_another_model_or_on_request(path: Path) -> None:
    with Knowlex(path) as kb:
        spoil(kb, "nightshade")
        drain(kb)
    with Knowlex(path) as kb:
        assert drain(kb) == 0
        assert counts(kb) == (4, 0, 2)
    with Knowlex(path, precision="fp32") as kb:
        spoil(kb, "Where does nightshade")
        assert drain(kb) == 1
        assert counts(kb) == (5, 0, 1)
        kb.retry("herbs")
        assert counts(kb) == (5, 0, 1)
    with Knowlex(path, precision="fp32") as kb:
        assert kb.retry("herbs").vectors == 1
        assert counts(kb) == (6, 0, 0)


def test_for_what_was_refused_alone_no_model_is_looked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Knowlex(path) as kb:
        spoil(kb, "nightshade")
        drain(kb)
        monkeypatch.setattr(model_files, "locate", lambda *_, **__: pytest.fail("looked for"))
        assert embed_pending(kb.engine) == 0
        assert len(kb.search("herbs", "where does it grow?", sources=("messages",))) == 3


def test_a_model_without_a_sound_vector_for_any_text_ends_it_and_refuses_none(path: Path) -> None:
    with Knowlex(path) as kb:
        spoil(kb, "")
        with pytest.raises(ConfigurationError, match="no sound vector for any text"):
            drain(kb)
        assert counts(kb) == (0, 6, 0)


def break_first_message(kb: Knowlex, project: str = "herbs") -> str:
    """Have another program write into the first message of a project what is no content; return its id."""
    [talk] = kb.conversations.list(project=project).items
    first = kb.conversations.messages(talk.id).items[0]
    with kb.database.write() as db:
        db.run("UPDATE messages SET content = '{broken' WHERE id = :id", id=first.id)
    return first.id


@pytest.mark.parametrize("batch", [1, 64])
def test_a_damaged_message_keeps_none_waiting_and_is_looked_at_once(
    path: Path, batch: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pending_vectors, "BATCH", batch)
    with Knowlex(path) as kb:
        broken = break_first_message(kb)
        assert drain(kb) == 5
        assert counts(kb) == (5, 0, 1)
        assert f"found by words alone source=message id={broken} error_code=damaged_value" in caplog.text
        caplog.clear()
        assert drain(kb) == 0
        hits = kb.search("herbs", "where does it grow?", sources=("messages",))
        assert len(hits) == 2
        assert "which words alone find: 1" in (hits.legs["vector"].degraded or "")
        assert caplog.text == ""
        assert [problem.kind for problem in verify(kb.database) if broken in problem.detail] == ["content"]
        with kb.database.write() as db:
            db.run(
                """UPDATE messages SET content = '[{"type": "text", "text": "Whole again"}]' WHERE id = :id""",
                id=broken,
            )
        assert kb.retry("herbs").vectors == 1
        assert counts(kb) == (6, 0, 0)


@pytest.mark.parametrize("project", ["herbs", "elsewhere"])
def test_a_damaged_message_ends_no_search(path: Path, project: str) -> None:
    with Knowlex(path) as kb:
        if project == "elsewhere":
            kb.projects.create(project)
            kb.conversations.add(kb.conversations.create("Talk", project=project).id, "user", "hello")
        broken = break_first_message(kb, project)
        hits = kb.search("herbs", "where does mint grow?", sources=("memories", "messages"))
        assert len(hits) == 6 - (project == "herbs")
        assert broken not in {hit.id for hit in hits}


def test_a_full_disk_ends_no_search(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Knowlex(path) as kb:
        drain(kb)
        for number in range(60):
            kb.memories.add("herbs", f"Herb {number}", f"About herb {number} " + "x" * 50)
        pages = kb.database._writer.value("PRAGMA page_count")
        kb.database._writer.script(f"PRAGMA max_page_count = {pages}")
        hits = kb.memories.search("herbs", "sage")
        assert hits[0].heading == "About sage"
        assert "which words alone find: 60" in (hits.legs["vector"].degraded or "")
        assert "found by words only error_code=disk_full" in caplog.text
        kb.database._writer.script("PRAGMA max_page_count = 1000000")
        assert kb.memories.search("herbs", "sage").legs["vector"].degraded is None


def test_a_search_embeds_what_waits_of_its_project_and_its_sources(path: Path) -> None:
    with Knowlex(path) as kb:
        model = spoil(kb, "no such word")
        kb.projects.create("elsewhere")
        kb.memories.add("elsewhere", "Other", "Of another project")
        kb.search("elsewhere", "mint", sources=("messages",))
        assert model.asked == []
        hits = kb.memories.search("herbs", "mint")
        assert hits.legs["vector"].returned == 3
        assert sorted(text[:6] for text in model.asked) == ["About "] * 3
        assert counts(kb) == (3, 4, 0)
        kb.search("herbs", "mint", sources=("messages",))
        assert counts(kb) == (6, 1, 0)


class Waiting(Spoiling):
    """The model, which embeds documents only when it is told to."""

    def __init__(self, real: Embedder) -> None:
        super().__init__(real, "no such word")
        self.begun, self.go_on = threading.Event(), threading.Event()

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the model's vectors once `go_on` is set."""
        self.begun.set()
        assert self.go_on.wait(60)
        return super().embed_documents(texts)


def test_searches_at_a_time_embed_nothing_twice_and_do_not_wait_for_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facade, "EMBED_WAIT_MS", 0)
    with Knowlex(path) as kb:
        real, model = kb.engine.embedder()
        slow = Waiting(real)
        kb.engine._loaded = slow, model
        found: list[int] = []
        first = threading.Thread(
            target=lambda: found.append(kb.memories.search("herbs", "mint").legs["vector"].returned)
        )
        first.start()
        assert slow.begun.wait(60)
        meanwhile = kb.memories.search("herbs", "mint")
        assert [hit.heading for hit in meanwhile] == ["About mint"]
        assert "which words alone find: 3" in (meanwhile.legs["vector"].degraded or "")
        slow.go_on.set()
        first.join()
        assert found == [3]
        assert len(slow.asked) == 3
        assert kb.memories.search("herbs", "mint").legs["vector"].degraded is None

"""A long-lived process answers by words while its model is loaded, says so, and then by meaning too."""

from __future__ import annotations

import errno
import re
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.engine import Engine
from knowlex.server.app import create_app
from pipeline import embed
from storage.errors import ConfigurationError, DatabaseError, TransientError

PATIENCE_S = 60.0


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[Knowlex]:
    """A database with vectors, in a process that has no model in memory and does not wait for one."""
    path = tmp_path / "knowlex.db"
    with Knowlex(path) as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Ferries", "The first boat leaves at nine.")
        kb.search("p", "boat", sources=["memories"], mode="vector")
    with Knowlex(path) as kb:
        kb.waits_for_model = False
        yield kb


def degraded(kb: Knowlex) -> str | None:
    return kb.search("p", "When does the ferry go?", sources=["memories"]).legs["vector"].degraded


def test_a_search_does_not_wait_for_the_model(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, load = threading.Event(), Engine._load

    def load_when_asked(engine: Engine, live: object) -> object:
        assert asked.wait(PATIENCE_S)
        return load(engine, live)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Engine, "_load", load_when_asked)
    hits = kb.search("p", "boat", sources=["memories"])
    assert [hit.file or hit.heading or hit.text for hit in hits]
    assert "still being loaded" in (hits.legs["vector"].degraded or "")
    with pytest.raises(TransientError, match="still being loaded"):
        kb.search("p", "boat", sources=["memories"], mode="vector")
    asked.set()
    give_up_at = time.monotonic() + PATIENCE_S
    while degraded(kb) is not None and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert kb.search("p", "boat", sources=["memories"]).legs["vector"].returned == 1


def test_a_model_that_is_not_to_be_had_is_named(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(engine: Engine, live: object) -> object:
        raise ConfigurationError("all-of-it: cannot be found")

    monkeypatch.setattr(Engine, "_load", load)
    give_up_at = time.monotonic() + PATIENCE_S
    while "still" in (degraded(kb) or "") and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert "cannot be found" in (degraded(kb) or "")
    lengths = [frames(kb) for _ in range(3)]
    assert lengths[0] == lengths[-1], "of those who are told, none is kept"


def frames(kb: Knowlex) -> int:
    """Return how many frames hang on the error that one more caller is told."""
    with pytest.raises(ConfigurationError) as raised:
        kb.engine.loaded_embedder()
    return len(list(traceback.walk_tb(raised.value.__traceback__)))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("openvino:\ncannot allocate"), MemoryError(), OSError(errno.ENOSPC, "No space left", "/home/mira/x")],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_model_that_fails_to_load_in_any_way_leaves_the_words(
    kb: Knowlex, monkeypatch: pytest.MonkeyPatch, error: Exception, waits: bool
) -> None:
    def load(*_: object) -> object:
        raise error

    monkeypatch.setattr(embed, "load", load)
    kb.waits_for_model = waits
    kb.memories.add("p", "Trains", "The last train leaves at ten.")
    give_up_at = time.monotonic() + PATIENCE_S
    while "still" in (degraded(kb) or "") and time.monotonic() < give_up_at:
        time.sleep(0.01)
    told = f"could not be loaded ({type(error).__name__}"
    hits = kb.search("p", "last train", sources=["memories"])
    assert hits[0].heading == "Trains"
    assert told in (hits.legs["vector"].degraded or "")
    with pytest.raises(ConfigurationError, match=re.escape(told)) as raised:
        kb.search("p", "last train", sources=["memories"], mode="vector")
    assert "\n" not in raised.value.message
    client = TestClient(create_app(kb), base_url="http://localhost")
    asked = {"query": "last train", "sources": ["memories"]}
    answer = client.post("/v1/projects/p/search", json=asked)
    assert answer.status_code == 200
    assert "mira" not in answer.text
    refused = client.post("/v1/projects/p/search", json={**asked, "mode": "vector"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:knowlex:problem:configuration")
    assert "mira" not in refused.text


def test_who_asks_over_http_is_not_told_where_the_model_lies(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(engine: Engine, live: object) -> object:
        raise ConfigurationError("/home/mira/models/all-of-it: cannot be found")

    monkeypatch.setattr(Engine, "_load", load)
    client = TestClient(create_app(kb), base_url="http://localhost")
    asked = {"query": "When does the ferry go?", "sources": ["memories"]}
    give_up_at = time.monotonic() + PATIENCE_S
    while "still" in (told := client.post("/v1/projects/p/search", json=asked).json()["legs"]["vector"]["degraded"]):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert "the server is not set up for this" in told
    assert "mira" not in told


def test_who_asks_over_http_is_not_told_where_what_is_damaged_lies(kb: Knowlex) -> None:
    with kb.database.write() as db:
        db.run("UPDATE embeddings SET vector = x'00'")
    kb.engine.embedder()
    client = TestClient(create_app(kb), base_url="http://localhost")
    asked = {"query": "When does the boat leave?", "sources": ["memories"]}
    answer = client.post("/v1/projects/p/search", json=asked).json()
    assert [hit["text"] for hit in answer["hits"]] == ["The first boat leaves at nine."]
    told = answer["legs"]["vector"]["degraded"]
    assert told.startswith("vectors could not be searched: the database cannot be used as it is")
    assert str(kb.path.parent) not in told


@pytest.mark.parametrize("table", ["embedding_models", "pending_vectors"])
def test_a_table_of_vectors_that_is_missing_leaves_the_words(kb: Knowlex, table: str) -> None:
    kb.waits_for_model = True
    with kb.database.write() as db:
        db.run(f"ALTER TABLE {table} RENAME TO lost")
    hits = kb.search("p", "first boat", sources=["memories"])
    assert [hit.heading for hit in hits] == ["Ferries"]
    assert f"no such table: {table}" in (hits.legs["vector"].degraded or "")
    with pytest.raises(DatabaseError, match="no such table"):
        kb.search("p", "first boat", sources=["memories"], mode="vector")


def test_what_each_search_found_is_counted_where_somebody_counts(kb: Knowlex) -> None:
    seen: list[int] = []
    kb.on_answer = lambda answer: seen.append(len(answer.hits))
    kb.search("p", "boat", sources=["memories"], mode="text")
    kb.search("p", "zebra", sources=["memories"], mode="text")
    assert seen == [1, 0]

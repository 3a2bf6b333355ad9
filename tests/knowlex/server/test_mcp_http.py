"""MCP over streamable HTTP: the official client, the server, and its guard between them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.streamable_http import streamable_http_client
from mcp_client import Agent, connected
from served import Served

from knowlex import Knowlex
from knowlex.mcp_server.scope import PROJECTS
from knowlex.server.app import create_app
from knowlex.server.running import Server, listening, url_of


@pytest.fixture(scope="module")
def url(served: Served) -> Iterator[str]:
    """A server at a port of its own, on the database of `served`."""
    with Knowlex(served.kb.path, workers=1) as kb, running(kb) as url:
        yield url


@contextmanager
def running(kb: Knowlex) -> Iterator[str]:
    listener, started = listening("127.0.0.1", 0), threading.Event()
    server = Server(create_app(kb), timeout_s=30, on_start=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(60)
        yield f"{url_of(listener)}/mcp"
    finally:
        server.stop()
        thread.join()


@asynccontextmanager
async def transport(url: str, token: str) -> AsyncIterator[Any]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams


@contextmanager
def calling(url: str, token: str, mode: str = "auto") -> Iterator[Agent]:
    with connected(transport(url, token), mode) as agent:
        yield agent


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_client_calls_tools_and_reads_resources(served: Served, url: str, mode: str) -> None:
    with calling(url, served.tokens["mine"], mode) as agent:
        [hit, *_] = agent.typed("search", query="ferries", mode="text")["hits"]
        assert hit["file"] == "mine.md"
        assert "Of the mine ferries." in agent.read(hit["uri"])
        kept = agent.typed("remember", title="Kiosk", content="Tickets are sold on board.")
        assert kept["id"] in {one["id"] for one in agent.typed("recall")["memories"]}
        assert agent.typed("forget", memory_id=kept["id"])["id"] == kept["id"]
        assert agent.resources() == [PROJECTS, hit["uri"]]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_token_sees_its_projects_alone(served: Served, url: str, mode: str) -> None:
    with calling(url, served.tokens["mine"], mode) as agent:
        there, nowhere = agent.error("list_files", project="foreign"), agent.error("list_files", project="foreigm")
        assert there.replace("foreign", "foreigm") == nowhere
        document = agent.error("get_document", document=served.foreign["files"])
        assert document.replace(served.foreign["files"], "x") == agent.error("get_document", document="x")
        assert served.foreign["projects"] not in agent.read(PROJECTS)
    with calling(url, served.tokens["read"], mode) as agent:
        assert agent.error("list_files") == "project: is not given; give one of: foreign, mine"
        assert "--write" in agent.error("remember", project="mine", title="t", content="c")


def test_each_request_is_answered_for_its_own_token(served: Served, url: str) -> None:
    """No session remembers who began it."""
    with calling(url, served.tokens["mine"]) as mine, calling(url, served.tokens["all"]) as everything:
        for _ in range(3):
            assert mine.typed("ingest_status")["project"] == "mine"
            assert everything.typed("ingest_status", project="foreign")["project"] == "foreign"


def test_the_guard_stands_before_it(served: Served, url: str) -> None:
    token = {"Authorization": f"Bearer {served.tokens['mine']}"}
    accept = {"Accept": "application/json, text/event-stream"}
    ask = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with httpx2.Client() as client:
        assert client.post(url, json=ask, headers=accept).status_code == 401
        assert client.post(url, json=ask, headers=accept | token | {"Host": "evil.example"}).status_code == 421
        assert (
            client.post(url, json=ask, headers=accept | token | {"Origin": "https://evil.example"}).status_code == 403
        )
        wrong = {"Authorization": f"Bearer {served.tokens['revoked']}"}
        assert client.post(url, json=ask, headers=accept | wrong).status_code == 401
        assert client.get(url, headers=accept | token).status_code == 405
        assert client.post(url, json=ask, headers=accept | token).status_code == 200


def test_no_answer_tells_where_the_server_keeps_its_database(tmp_path: Path) -> None:
    with (
        Knowlex(tmp_path / "gone.db") as kb,
        running(kb) as url,
        connected(streamable_http_client(url)) as agent,
    ):
        assert str(tmp_path) not in agent.error("search", project="p", query="x")


@pytest.mark.parametrize("content", [b"{}", b'{"canary": "canary"}', b"[]", b"canary", b'"' + b"x" * 10_000])
def test_a_body_that_is_no_request_is_refused_in_a_line(served: Served, content: bytes) -> None:
    headers = {"authorization": f"Bearer {served.tokens['all']}", "accept": "application/json, text/event-stream"}
    answer = served.client.post("/mcp", content=content, headers=headers | {"content-type": "application/json"})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert len(message) <= 300
    assert "\n" not in message
    assert not {word for word in ("pydantic", "canary") if word in message}

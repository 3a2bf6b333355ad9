"""Whoever only reads is answered while others wait for the write lock, however many these are."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp_client import connected
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.access import EVERYTHING
from knowlex.mcp_server import door
from knowlex.mcp_server.server import create
from knowlex.server.app import create_app

THREADS = 4
WRITERS = 2 * THREADS
PATIENCE_S = 60
HERE = "http://localhost:8642"

Send = Callable[[TestClient], httpx2.Response]


def keep(client: TestClient) -> httpx2.Response:
    return client.post("/v1/projects/p/memories", json={"title": "kept", "content": "late"})


def upload(client: TestClient) -> httpx2.Response:
    return client.post("/v1/projects/p/files", files={"file": ("late.txt", b"sent while the lock was held")})


def take_in(client: TestClient) -> httpx2.Response:
    line = b'{"type":"conversation","id":"0","title":"t","project":null,"settings":{},"messages":0}'
    return client.post("/v1/conversations/import", content=line)


@pytest.mark.parametrize("send", [keep, upload, take_in])
def test_reading_does_not_wait_for_those_that_wait_to_write(tmp_path: Path, send: Send) -> None:
    with Knowlex(tmp_path / "knowlex.db", request_threads=THREADS) as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Ferries", "The first boat leaves at nine.")
        kb.engine.job()  # what an upload needs of the model is there
        app = create_app(kb)
        with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(WRITERS + 1) as senders, held(kb) as released:
            sent = [senders.submit(send, client) for _ in range(WRITERS)]
            while app.state.writing.statistics().tasks_waiting < WRITERS - THREADS // 2:
                time.sleep(0.01)
            asked = {"query": "boat", "mode": "text", "sources": "memories"}
            reads = [answer(senders, client, "/v1/projects"), answer(senders, client, "/v1/projects/p/search", asked)]
            assert [read.status_code for read in reads] == [200, 200]
            assert not any(one.done() for one in sent)
            released.set()
            assert {one.result().status_code for one in sent} <= {200, 201, 202}


def test_an_agent_that_reads_does_not_wait_for_those_that_wait_to_write(tmp_path: Path) -> None:
    calls = 2 * door.THREADS
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("p")
        kb.engine.job()
        tools = door.Door(kb, EVERYTHING, "p")
        with connected(create(tools)) as agent, held(kb) as released:

            async def crowd() -> None:
                kept = {"title": "kept", "content": "late"}
                writes = [asyncio.ensure_future(agent.client.call_tool("remember", kept)) for _ in range(calls)]
                while tools.writing.statistics().tasks_waiting < calls - door.WRITING:
                    await asyncio.sleep(0.01)
                read = await asyncio.wait_for(agent.client.call_tool("list_files", {}), PATIENCE_S)
                assert not read.is_error
                assert not any(write.done() for write in writes)
                released.set()
                assert [write.is_error for write in await asyncio.gather(*writes)] == [False] * calls

            agent.run(crowd())


def answer(senders: ThreadPoolExecutor, client: TestClient, path: str, asked: Any = None) -> httpx2.Response:
    asking: Future[httpx2.Response] = senders.submit(client.get, path, params=asked)
    return asking.result(PATIENCE_S)


@contextmanager
def held(kb: Knowlex) -> Iterator[threading.Event]:
    """Have another thread hold the write lock until the event is set, or the block ends."""
    holds, released = threading.Event(), threading.Event()

    def hold() -> None:
        with kb.database.write():
            holds.set()
            released.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE_S)
    try:
        yield released
    finally:
        released.set()
        thread.join()

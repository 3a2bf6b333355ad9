"""Rows 23 and 29, on a server in a process of its own: what is too large or too slow, and a long life."""

from __future__ import annotations

import itertools
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from faults.table import Figure
from serve_process import Running, running

from knowlex import Knowlex

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MB = 2**20


@contextmanager
def filled(folder: Path, *options: str) -> Iterator[Running]:
    """Run a server whose project p has a file and a memory."""
    database = folder / "knowlex.db"
    (folder / "ferry.md").write_text("# Ferries\n\nThe first boat to the island leaves at nine.\n")
    with Knowlex(database) as kb:
        kb.ingest("p", folder / "ferry.md")
        kb.memories.add("p", "Ferries", "No boat on Sundays.")
    with running(database, *options) as server:
        yield server


def pieces(total: int) -> Iterator[bytes]:
    for _ in range(total // MB):
        yield b"x" * MB


class Watched:
    """The most that a process had resident, and the longest that `/healthz` took, while a block runs."""

    def __init__(self, server: Running) -> None:
        self.process = psutil.Process(server.process.pid)
        self.took_s: list[float] = []
        self.grown_mb = 0.0
        self._url = server.url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        before = self.process.memory_info().rss
        with httpx2.Client(base_url=self._url) as client:
            while not self._ended.wait(0.01):
                started = time.monotonic()
                assert client.get("/healthz").status_code == 200
                self.took_s.append(time.monotonic() - started)
                self.grown_mb = max(self.grown_mb, (self.process.memory_info().rss - before) / MB)


@pytest.mark.row(23)
def test_what_is_too_large_or_too_slow_costs_nobody_else_anything(tmp_path: Path, figure: Figure) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[server]\nmax_upload_mb = 1\nrequest_timeout_s = 5.0\n")
    with filled(tmp_path, "--config", str(config)) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        client.post("/v1/projects/p/search", json={"query": "boat"})
        with Watched(server) as calm:
            time.sleep(5)
        with Watched(server) as watched:
            answers = [
                client.post("/v1/projects", content=pieces(500 * MB), headers={"content-type": "application/json"}),
                client.post("/v1/projects/p/files", files={"file": ("a.txt", b"x" * 300 * MB)}),
                client.post(
                    "/v1/projects/p/files", files=[("file", (f"{number}.txt", b"x")) for number in range(10_000)]
                ),
                client.get("/openapi.json", headers={"range": "bytes=" + ",".join(f"{n}-" for n in range(2_000))}),
            ]
            ended_s = [slow_head(server), slow_body(server)]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [413, 413, 413, 200]
        assert max(ended_s) < 30
        server.end()
    stall = max(watched.took_s)
    told = (
        f"500 MB, 300 MB, 10,000 parts: 413, memory +{watched.grown_mb:.0f} MB; longest stall {stall * 1000:.0f} ms"
        f" ({max(calm.took_s) * 1000:.0f} ms without)"
    )
    figure(23, told, watched.grown_mb < 32 and stall < 0.25)


def slow_head(server: Running) -> float:
    """Begin a head and do not end it; return the seconds until the server closed the connection."""
    return _closed_s(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a")


def slow_body(server: Running) -> float:
    """Send the head of a request, and nothing of its body."""
    head = b"POST /v1/conversations/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    return _closed_s(server, head, b"")


def _closed_s(server: Running, begun: bytes, more: bytes) -> float:
    started = time.monotonic()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(begun)
        connection.settimeout(0.5)
        while True:
            try:
                connection.sendall(more)
                if not connection.recv(2**16):
                    return time.monotonic() - started
            except TimeoutError:
                continue
            except OSError:
                return time.monotonic() - started


@pytest.mark.row(29)
def test_a_long_life_costs_no_memory(tmp_path: Path, figure: Figure) -> None:
    with filled(tmp_path) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        process = psutil.Process(server.process.pid)
        sizes: list[float] = []
        descriptors: list[int] = []
        for number in range(20):
            _operations(client, 200)
            if number >= 4:  # caches are filled first
                sizes.append(process.memory_info().rss / MB)
                descriptors.append(process.num_fds())
        failed = client.get("/metrics").text.count('status="5')
        server.end()
    slope = statistics.linear_regression(range(len(sizes)), sizes).slope * 5
    apart = max(descriptors) - min(descriptors)
    told = f"4,000 operations: {slope:+.2f} MB a 1,000, {apart} descriptors apart, {failed} 5xx"
    figure(29, told, slope < 1 and apart < 10 and failed == 0)


def _operations(client: httpx2.Client, count: int) -> None:
    for number in itertools.islice(itertools.count(), count // 5):
        made = client.post("/v1/projects/p/memories", json={"title": f"m{number}", "content": "A boat."}).json()
        answers = [
            client.post("/v1/projects/p/search", json={"query": f"boat {number}", "sources": ["files", "memories"]}),
            client.get("/v1/projects/p/files"),
            client.get("/v1/projects/nowhere/files"),
            client.delete(f"/v1/projects/p/memories/{made['id']}"),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 404, 204]

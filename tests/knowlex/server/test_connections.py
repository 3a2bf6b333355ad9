"""What nobody ends is ended by the server: connections that are answered, bodies that come byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from knowlex import Knowlex
from knowlex.server.app import create_app
from knowlex.server.running import PatientProtocol, Server, listening

PATIENCE_S = 0.5
PAGES = f"HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {10**6}\r\n\r\n"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server with little patience, whose database has a token."""
    with Knowlex(tmp_path / "knowlex.db", request_timeout_s=PATIENCE_S) as kb:
        kb.tokens.create(name="a")
        with serving(kb) as port:
            yield port


@contextmanager
def serving(kb: Knowlex) -> Iterator[int]:
    listener, started = listening("127.0.0.1", 0), threading.Event()
    server = Server(create_app(kb), timeout_s=PATIENCE_S, on_start=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(60)
        yield listener.getsockname()[1]
    finally:
        server.stop()
        thread.join()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield connection


def is_closed(connection: socket.socket) -> bool:
    """Read to the end; TimeoutError where nobody closes the connection."""
    try:
        while connection.recv(2**16):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("head", [f"POST /v1/projects {PAGES}", f"GET /healthz {PAGES}"])
def test_who_was_answered_and_goes_on_for_ever_is_let_go(port: int, head: str) -> None:
    with connected(port) as connection:
        connection.sendall(head.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 ")
        connection.sendall(b"x")  # after which uvicorn waits for the rest without an end
        assert is_closed(connection)


def test_a_body_byte_by_byte_is_no_way_to_stay(tmp_path: Path) -> None:
    with (
        Knowlex(tmp_path / "knowlex.db", request_timeout_s=PATIENCE_S) as kb,
        serving(kb) as port,
        connected(port) as connection,
    ):
        connection.sendall(f"POST /v1/projects {PAGES}".encode())
        connection.settimeout(PATIENCE_S / 5)
        assert next(filter(None, (told(connection) for _ in range(600)))).startswith(b"HTTP/1.1 408 ")


def told(connection: socket.socket) -> bytes:
    """Send one more byte; return what was answered meanwhile."""
    connection.sendall(b" ")
    try:
        return connection.recv(2**16)
    except TimeoutError:
        return b""


def test_who_takes_no_answer_is_let_go(port: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little fills it
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            ask_and_take_nothing(connection)


def ask_and_take_nothing(connection: socket.socket) -> None:
    """Ask until the connection is cut; TimeoutError where the server waits for ever."""
    while True:
        connection.sendall(1000 * b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_the_body_of_an_answer_does_not_wait_for_the_word_that_its_head_came(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, at_once = PatientProtocol.connection_made, list[int]()

    def connection_made(protocol: PatientProtocol, transport: asyncio.Transport) -> None:
        made(protocol, transport)
        at_once.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(PatientProtocol, "connection_made", connection_made)
    with connected(port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
    assert len(at_once) == 1
    assert at_once[0]


def problem(answer: bytes) -> dict[str, object]:
    """Return the problem that an answer is, and what its head says of asking again."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    [*again] = (line for line in head.decode().lower().splitlines() if line.startswith("retry-after"))
    return json.loads(body) | {"again": again}


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
def test_what_is_no_request_is_answered_by_a_problem(port: int, sent: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        told = problem(read(connection))
    assert (told["status"], told["type"]) == (400, "urn:knowlex:problem:malformed")


def test_one_connection_too_many_is_answered_by_a_problem(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowlex.server.running.CONNECTIONS", 2)
    with connected(port) as first, connected(port) as second:
        first.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")  # and its head goes on
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = problem(read(second))
    assert (told["status"], told["type"]) == (503, "urn:knowlex:problem:transient")
    assert told["again"] == ["retry-after: 2"]


def read(connection: socket.socket) -> bytes:
    """Return all that comes until the connection is closed."""
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_quick_requests_keep_their_connection(port: int) -> None:
    client = HTTPConnection("127.0.0.1", port, timeout=60)
    client.connect()
    kept = client.sock
    for _ in range(3):
        client.request("GET", "/healthz", headers={"Host": "localhost"})
        assert client.getresponse().read() == b'{"status":"ok"}'
        assert client.sock is kept
    client.close()

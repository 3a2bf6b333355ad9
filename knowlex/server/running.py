"""A server in this process, from its socket to its end: uvicorn, told to log nothing and to end when it is told to."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from knowlex.server import problems
from storage.errors import ConfigurationError, TransientError
from storage.ids import new_id

BACKLOG = 128
CONNECTIONS = 512
"""Connections at a time; who comes beyond that is answered 503 and may come again."""

GRACE_S = 3
"""How long requests that are being answered may take, once the server is told to end."""

IDLE_S = 5
"""How long a connection is kept for another request."""


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that nobody else has. Raises ConfigurationError naming what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(_told(error, host, port)) from error


def _told(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port}: another program listens there at {host}; end it, or give another --port"
    if error.errno == errno.EACCES:
        return f"port {port}: needs more rights than this user has; give one from 1024 on with --port"
    return (
        f"host {host}: cannot be listened at ({error.strerror or error}); give an address of this machine with --host"
    )


def url_of(listener: socket.socket) -> str:
    """Return the address of a server for who is on its machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """Serves an app until `stop`."""

    def __init__(self, app: FastAPI, *, timeout_s: float, on_start: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            lifespan="on",
            http=partial(PatientProtocol, timeout_s=timeout_s),  # pyright: ignore[reportArgumentType]
            ws="none",
            log_config=None,
            log_level="critical",  # what it says may quote a request; faults are told by the app itself
            access_log=False,
            # What a proxy says of its callers is not asked for anywhere, and could be said by anyone.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to whoever runs the server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def stop(self) -> None:
        """End soon, from any thread: what is being answered has GRACE_S."""
        self.should_exit = True


def _refusal(status: int, code: str, detail: str, **headers: str) -> Response:
    """Return the problem that a request is answered by before the app has it."""
    id = new_id()
    problems.log.info("request answered", request=id, status=status)
    return problems.response(id, status, code, detail, headers={"Connection": "close", **headers})


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    detail = f"the server has {CONNECTIONS} connections already, and takes no more; ask again"
    retry = {"Retry-After": str(problems.KINDS[TransientError].retry_after_s)}
    await _refusal(503, TransientError.code, detail, **retry)(scope, receive, send)


class PatientProtocol(H11Protocol):
    """A connection that is closed where no request has begun in time, one that is answered does not end, or no answer
    is taken: uvicorn would wait for each for ever. What the app never has is answered by a problem, too.
    """

    @property
    def app(self) -> ASGIApp:  # type: ignore[override]
        """What answers the next request."""
        full = len(self.connections) >= CONNECTIONS or len(self.tasks) >= CONNECTIONS
        return _overloaded if full else self._app

    @app.setter
    def app(self, app: ASGIApp) -> None:
        self._app = app

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or has too long a head."""
        answer = _refusal(
            400, problems.CODES[400], "the request: is no HTTP, or has a head of over 64 KB; send another"
        )
        headers = [*answer.raw_headers]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def __init__(self, *arguments: Any, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._waiting: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so where it has made the listening socket itself. Else the body of an answer, which follows its
        # head, waits until the client has told that it has the head: 40 ms (RFC 1122, 4.2.3.2).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that has begun has no more time than one that has not; nor has the rest of a body behind its answer.
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._wait_no_more()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take what it was sent, for as long as it would be waited for."""
        super().pause_writing()
        if self._untaken is None:
            self._untaken = self.loop.call_later(self._timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self._timeout_s, self.timeout_keep_alive_handler)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

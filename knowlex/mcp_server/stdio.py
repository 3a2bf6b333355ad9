"""The server over standard input and output, for a client that starts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ObjectSendStream
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from knowlex.access import EVERYTHING
from knowlex.facade import Knowlex
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.server import create
from storage.errors import KnowlexError, NotFoundError, TransientError
from storage.event_log import EventLog, code_of

if TYPE_CHECKING:
    from mcp.shared._context_streams import ContextReceiveStream

log = EventLog("knowlex.mcp")

Heard = SessionMessage | Exception
"""What the library makes of a line: a message, or why it is none."""
Answering = Callable[[SessionMessage], Awaitable[None]]

NO_REQUEST = "the request: is none of JSON-RPC; send an object with jsonrpc, id, method and params"
NO_JSON = "the request: cannot be read ({}); send valid JSON, without half of a character such as \\ud83d"


def serve(kb: Knowlex, project: str | None = None) -> None:
    """Answer the client at standard input until it closes that.

    project: the only one that it may see. Searches do not wait for the model, which is loaded meanwhile.
    """
    kb.waits_for_model = False
    door = Door(kb, access=EVERYTHING, project=project)
    server = create(door)
    server.middleware.append(_Warming(door))
    anyio.run(partial(_run, server))


async def _run(server: MCPServer) -> None:
    """Serve over standard input and output, as the library does, but for lines that it cannot read.

    It drops those, and who sent a request in one would wait for its answer for ever.
    """
    inner = server._lowlevel_server  # pyright: ignore[reportPrivateUsage] (nothing else takes streams)
    forward, forwarded = anyio.create_memory_object_stream[Heard]()
    async with stdio_server() as (reading, writing), anyio.create_task_group() as tasks:
        tasks.start_soon(_hear, reading, forward, writing.send)
        async with forwarded:
            await inner.run(forwarded, writing, inner.create_initialization_options())


async def _hear(reading: ContextReceiveStream[Heard], forward: ObjectSendStream[Heard], answer: Answering) -> None:
    """Hand on what the client sends, and answer requests that cannot be read."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the end came first
        async with forward, reading:
            async for item in reading:
                refusal = _refusal(item) if isinstance(item, ValidationError) else None
                await (forward.send(item) if refusal is None else answer(SessionMessage(refusal)))


def _refusal(error: ValidationError) -> JSONRPCError | None:
    """Return what answers a line that cannot be read; None where it is no request, as far as can be told."""
    found = error.errors(include_url=False, include_context=False)
    values: list[Any] = [one["input"] for one in found]
    code, told = INVALID_REQUEST, NO_REQUEST
    if found[0]["type"] == "json_invalid":
        code, told = PARSE_ERROR, NO_JSON.format(found[0]["msg"])
        with suppress(ValueError, RecursionError):
            values = [json.loads(values[0])]  # which takes half of a character, as a cut text may end in
    for value in values:
        match value:
            case {"method": _, "id": (int() | str()) as id}:
                return JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=code, message=told))
            case _:
                continue
    return None


class _Warming:
    """Has the model loaded once the client has its first answer, which it would else slow down."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._messages = 0

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        self._messages += 1
        if self._messages == 2:
            threading.Thread(target=_load, args=(self._door,), name="warming", daemon=True).start()
        return await call_next(ctx)


def _load(door: Door) -> None:
    """Begin to load the model where the database has vectors to search."""
    try:
        door.kb.require_database()
        door.kb.load_model()
    except (TransientError, NotFoundError):
        pass  # it is being loaded now; or there is no database yet
    except KnowlexError as error:  # whoever searches is told
        log.info("model not loaded ahead", error_code=code_of(error))

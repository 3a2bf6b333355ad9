"""How every call comes in and every error goes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, sleep, to_thread
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ValidationError

from knowlex import faults
from knowlex.access import Access
from knowlex.facade import Knowlex
from knowlex.mcp_server.answers import Answer, line
from knowlex.mcp_server.scope import Scope
from storage.errors import KnowlexError, TransientError
from storage.event_log import EventLog, code_of, place_of
from storage.ids import new_id

log = EventLog("knowlex.mcp")
T = TypeVar("T")

THREADS = 8
"""Calls that are worked on at once; others wait."""
WRITING = THREADS // 2
"""Of these, how many may write: what waits for the write lock, which another process may hold, keeps its thread."""
FAULTS = 5
"""Arguments that cannot be used which an error names, at most."""
ASK_AGAIN_S = 0.25
MODEL_WAIT_S = 120.0
"""How long a search by meaning alone waits for the model, which on its first use ever takes about ten seconds."""


def message_of(error: KnowlexError) -> str:
    """Return what an error says to who has the database on his own machine."""
    return error.message


@dataclass(slots=True)
class Door:
    """The knowledge base behind the tools, and what their callers may see of it.

    access: of every caller; None: each request brings its own, which the guard of the HTTP server put there. project:
    the only one, by name or id, where whoever started the server chose one. words: what of an error is told. writing:
    turns to write.
    """

    kb: Knowlex
    access: Access | None = None
    project: str | None = None
    words: Callable[[KnowlexError], str] = message_of
    _threads: CapacityLimiter = field(default_factory=partial(CapacityLimiter, THREADS), init=False)
    writing: CapacityLimiter = field(default_factory=partial(CapacityLimiter, WRITING), init=False)

    def scope(self, context: ServerRequestContext[Any, Any]) -> Scope:
        """Return what the caller of a request may see."""
        # A request that the guard does not stand before has none: it fails, rather than being let in.
        request: Any = context.request
        return Scope(self.kb, self.access or request.state.access, self.project)

    async def answered(
        self, context: ServerRequestContext[Any, Any], call: Callable[[Scope], Answer], *, patient: bool = False
    ) -> CallToolResult:
        """Return what a call answers, as typed values and as text; it runs in a thread.

        patient: wait while the model is loaded, and tell the client so.
        """
        answer = await self._asked(context, call, MODEL_WAIT_S if patient else 0)
        return CallToolResult(
            content=[TextContent(type="text", text=answer.told())],
            structured_content=answer.model_dump(mode="json"),
        )

    async def written(self, context: ServerRequestContext[Any, Any], call: Callable[[Scope], Answer]) -> CallToolResult:
        """Return what a call that writes answers; until it is its turn, it has no thread."""
        async with self.writing:
            return await self.answered(context, call)

    async def _asked(self, context: ServerRequestContext[Any, Any], call: Callable[[Scope], T], patience_s: float) -> T:
        waited = 0.0
        while True:
            try:
                return await self.in_thread(partial(call, self.scope(context)))
            except TransientError as error:
                if error.code != "loading" or waited >= patience_s:
                    raise
            await context.session.report_progress(waited, None, "the embedding model is being loaded")
            await sleep(ASK_AGAIN_S)
            waited += ASK_AGAIN_S

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run what may take a while, so that other requests go on."""
        return await to_thread.run_sync(call, limiter=self._threads)

    def worded(self, call: str, error: BaseException) -> str:
        """Return what a caller is told of an error; what nobody foresaw is told to the log, under an id."""
        if isinstance(error, KnowlexError):
            told = self.words(error)
            if told != error.message:  # what the caller is not told, the log says
                log.warning("call not answered", call=call, error_code=error.code)
            return line(told)
        id = new_id()
        log.error("call failed", call=call, request=id, error_code=code_of(error), place=place_of(error))
        return f"{call}: this is a fault in Knowlex; its log tells more of it under {id}"

    def worded_tool(self, name: str, arguments: type[BaseModel], error: ToolError) -> str:
        """Return what is told of a tool that failed; arguments: what it takes."""
        cause = error.__cause__
        if isinstance(error, UnexpectedToolError):
            return self.worded(name, cause or error)
        if isinstance(cause, ValidationError):
            found = cause.errors(include_url=False)
            told = [f"{faults.name(one, arguments)}: {faults.cause(one, arguments)}" for one in found[:FAULTS]]
            more = [f"and {len(found) - FAULTS} more"] if len(found) > FAULTS else []
            return line(f"{name}: {'; '.join([*told, *more])}")
        return line(str(cause or error))

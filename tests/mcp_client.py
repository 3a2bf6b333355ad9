"""The official MCP client, called from tests that are not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp import Client
from mcp_types import CallToolResult

T = TypeVar("T")


@dataclass(frozen=True)
class Agent:
    """A client, connected for as long as the block of `connected` lasts."""

    client: Client
    run: Callable[[Awaitable[T]], T]

    def ask(self, tool: str, /, **arguments: Any) -> CallToolResult:
        """Call a tool and return what it answered, errors included."""
        return self.run(self.client.call_tool(tool, arguments))

    def typed(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool, which must not fail, and return the typed value."""
        result = self.ask(tool, **arguments)
        assert not result.is_error, text_of(result)
        assert result.structured_content is not None
        return result.structured_content

    def error(self, tool: str, /, **arguments: Any) -> str:
        """Call a tool, which must fail, and return what it says."""
        result = self.ask(tool, **arguments)
        assert result.is_error, text_of(result)
        assert result.structured_content is None
        return text_of(result)

    def read(self, uri: str) -> str:
        """Read a resource of one text."""
        [content] = self.run(self.client.read_resource(uri)).contents
        return content.text  # pyright: ignore[reportAttributeAccessIssue]

    def resources(self) -> list[str]:
        """Return the addresses of all resources that are listed, over all pages."""
        found: list[str] = []
        cursor = None
        while True:
            page = self.run(self.client.list_resources(cursor=cursor))
            found += [str(resource.uri) for resource in page.resources]
            if (cursor := page.next_cursor) is None:
                return found


def text_of(result: CallToolResult) -> str:
    """Return the text of an answer."""
    [block] = result.content
    return block.text  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def connected(server: Any, mode: str = "auto") -> Iterator[Agent]:
    """Connect the client to a server, in memory or by a transport."""
    with asyncio.Runner() as runner:
        client = Client(server, mode=mode)

        async def awaited(call: Awaitable[T]) -> T:
            return await call

        entered, leave = runner.run(_entered(client))
        try:
            yield Agent(entered, lambda call: runner.run(awaited(call)))
        finally:
            runner.run(leave())


async def _entered(client: Client) -> tuple[Client, Callable[[], Awaitable[None]]]:
    """Enter a client in a task of its own, which leaves it again: the library wants one task to do both."""
    ready, over = asyncio.Event(), asyncio.Event()
    held: list[Client] = []

    async def hold() -> None:
        try:
            async with client as connected:
                held.append(connected)
                ready.set()
                await over.wait()
        finally:
            ready.set()

    task = asyncio.create_task(hold())
    await ready.wait()
    if not held:
        await task

    async def leave() -> None:
        over.set()
        await task

    return held[0], leave

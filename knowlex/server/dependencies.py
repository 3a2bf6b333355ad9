"""What every route is given: the knowledge base, what its caller may see and change, and a turn to write."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request

from knowlex.access import Access
from knowlex.facade import Knowlex
from knowlex.server.guard import takes_files


def _kb(request: Request) -> Knowlex:
    return request.app.state.kb


def _caller(request: Request) -> Access:
    # Set by the guard before any route runs: a route that it does not stand before fails here.
    return request.state.access


async def _turn(request: Request) -> AsyncGenerator[None]:
    """Have what may wait for the write lock wait for its turn first, which holds no thread.

    What reads the body as it comes takes its turn by itself, when all of it is there.
    """
    route = request.scope["route"]
    if request.method == "GET" or route.path.endswith("/search") or takes_files(route):
        yield
        return
    async with request.app.state.writing:
        yield


WritingInTurn = Depends(_turn, scope="function")
"""For all routes. Another process may hold the write lock for long, and whoever only reads must not wait for that."""

KnowledgeBase = Annotated[Knowlex, Depends(_kb)]
Caller = Annotated[Access, Depends(_caller)]

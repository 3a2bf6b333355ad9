"""What every route is given: the knowledge base, what its caller may see and change, and a turn to write."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

from knowlex import faults
from knowlex.access import Access
from knowlex.facade import Knowlex
from knowlex.server.guard import takes_files


def _kb(request: Request) -> Knowlex:
    return request.app.state.kb


def _caller(request: Request) -> Access:
    # Set by the guard before any route runs: a route that it does not stand before fails here.
    return request.state.access


async def _require_known_parameters(request: Request) -> None:
    """Refuse what a route has no parameter for: of a mistyped filter, everything would be the answer."""
    known = _parameters(request.scope["route"].dependant)
    if unknown := [name for name in request.query_params if name not in known]:
        raise RequestValidationError([_unknown(name, known) for name in unknown])


def _parameters(of: Dependant) -> list[str]:
    """Return the parameters of an address that a route, or what it depends on, takes."""
    found: list[str] = []
    for one in of.query_params:
        model = faults.model_in(one.field_info.annotation)
        found += [one.alias] if model is None else model.model_fields
    return found + [name for inner in of.dependencies for name in _parameters(inner)]


def _unknown(name: str, known: Sequence[str]) -> dict[str, Any]:
    """Return a parameter that is not known as pydantic would tell it."""
    return {"type": "unknown_parameter", "loc": ("query", name), "msg": faults.unknown(name, known)}


KnownParameters = Depends(_require_known_parameters)
"""For all routes: before anything is done, whatever else is wrong."""


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

"""What every route is given: the knowledge base, and what its caller may see and change."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from knowlex.access import Access
from knowlex.facade import Knowlex


def _kb(request: Request) -> Knowlex:
    return request.app.state.kb


def _caller(request: Request) -> Access:
    # Set by the guard before any route runs: a route that it does not stand before fails here.
    return request.state.access


KnowledgeBase = Annotated[Knowlex, Depends(_kb)]
Caller = Annotated[Access, Depends(_caller)]

"""The routes of the HTTP API on a real database, called within this process, as whoever a test is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from knowlex import Knowlex
from knowlex.access import EVERYTHING, Access
from knowlex.server.routes import conversations, files, memories, projects, search, settings
from storage.errors import ForbiddenError, KnowlexError, NotFoundError, UniqueError, UsageError

STATUSES = {NotFoundError: 404, ForbiddenError: 403, UsageError: 422, UniqueError: 409}


BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/v1/projects"): {"name": "x"},
    ("patch", "/v1/projects/{project}"): {},
    ("post", "/v1/projects/{project}/ingest"): {"paths": ["/x"]},
    ("post", "/v1/projects/{project}/search"): {"query": "x", "mode": "text"},
    ("post", "/v1/projects/{project}/memories"): {"title": "x", "content": "x"},
    ("patch", "/v1/projects/{project}/memories/{id}"): {},
    ("post", "/v1/projects/{project}/memories/search"): {"query": "x", "mode": "text"},
    ("post", "/v1/conversations"): {"title": "x"},
    ("post", "/v1/conversations/search"): {"query": "x"},
    ("patch", "/v1/conversations/{id}"): {},
    ("post", "/v1/conversations/{id}/messages"): {"role": "user", "content": "x"},
    ("patch", "/v1/conversations/{id}/messages/{message}"): {"content": "x"},
    ("put", "/v1/settings/{key}"): {"value": 1},
}
"""A body that each operation takes, of those that take JSON."""

READING = {path for _, path in BODIES if path.endswith("/search")}
"""Paths that are posted to and change nothing."""


class Api:
    """Calls the API as a caller of some access; `everyone` is who sees and may all."""

    def __init__(self, kb: Knowlex) -> None:
        self.kb = kb
        self.app = FastAPI()
        self.app.state.kb = kb
        self.app.add_exception_handler(KnowlexError, _answer)
        for routes in (projects, files, search, memories, conversations, settings):
            self.app.include_router(routes.router, prefix="/v1")
        self.everyone = self.client(EVERYTHING)

    def operations(self) -> list[tuple[str, str]]:
        """Return the method, in lower case, and the path of every operation."""
        paths = self.app.openapi()["paths"]
        return [(method, path) for path, operations in paths.items() for method in operations]

    def client(self, access: Access) -> TestClient:
        """Return a client that is taken for a caller of this access."""
        return TestClient(_As(self.app, access), base_url="http://127.0.0.1")

    def bound(self, *ids: str, write: bool = True) -> TestClient:
        """Return a client whose token is bound to projects."""
        return self.client(Access(frozenset(ids), write=write, caller="bound"))


class _As:
    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["access"] = self._access
        await self._app(scope, receive, send)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, KnowlexError)
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": error.message}, status)


def ok(response: Any, status: int = 200) -> Any:
    """Return the JSON of an answer of this status."""
    assert response.status_code == status, response.text
    return response.json() if response.content else None

"""The routes of the HTTP API on a real database, called within this process, as whoever a test is."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.server.app import create_app

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
    """The whole application, guard and tokens included; `everyone` is a client that sees and may change all."""

    def __init__(self, kb: Knowlex) -> None:
        self.kb = kb
        self.app = create_app(kb)
        self.everyone = self._client(kb.tokens.create(write=True).token)

    def bound(self, *projects: str, write: bool = True) -> TestClient:
        """Return a client whose token is bound to projects."""
        return self._client(self.kb.tokens.create(projects, write=write).token)

    def _client(self, token: str) -> TestClient:
        headers = {"authorization": f"Bearer {token}"}
        return TestClient(self.app, base_url="http://localhost:8642", headers=headers)

    def operations(self) -> list[tuple[str, str]]:
        """Return the method, in lower case, and the path of every operation."""
        paths = self.app.openapi()["paths"]
        return [(method, path) for path, found in paths.items() if path.startswith("/v1/") for method in found]


def ok(response: Any, status: int = 200) -> Any:
    """Return the JSON of an answer of this status."""
    assert response.status_code == status, response.text
    return response.json() if response.content else None

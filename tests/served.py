"""The whole HTTP API in the process of a test, on a database with two projects, and tokens for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.server.app import create_app
from storage.ids import new_id

HOST = "http://localhost:8642"


@dataclass(frozen=True)
class Operation:
    """A method and path of the app, and what its OpenAPI declares of it."""

    method: str
    path: str
    declared: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self.path == "/healthz"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, or says itself what of it does: each tool of MCP."""
        return self.method == "GET" or self.path.endswith("/search") or self.path == "/mcp"

    def filled(self, ids: dict[str, str]) -> str:
        """Return the path with the id of each thing that it names, by what stands before it: `files/{id}`."""
        return re.sub(r"(\w+)/\{\w+\}", lambda found: f"{found[1]}/{ids[found[1]]}", self.path)


@dataclass(frozen=True)
class Served:
    """The app and a client of it; tokens by what they are for; what the projects `mine` and `foreign` hold.

    only: the operations to ask, where not all of the app.
    """

    kb: Knowlex
    app: FastAPI
    client: TestClient
    tokens: dict[str, str]
    mine: dict[str, str]
    foreign: dict[str, str]
    only: list[Operation] | None = None

    @property
    def operations(self) -> list[Operation]:
        """Every operation that the app answers, whether its OpenAPI knows it or not."""
        if self.only is not None:
            return self.only
        paths = self.app.openapi()["paths"]
        return [
            Operation(method, path, paths.get(path, {}).get(method.lower(), {}))
            for one in iter_route_contexts(self.app.routes)
            if (path := one.path_format or one.path) is not None
            for method in sorted(set(one.methods or {"GET", "POST"}) - {"HEAD"})
        ]

    def ask(self, operation: Operation, ids: dict[str, str], token: str | None = None, **headers: str) -> Any:
        """Send a request as the operation declares it, with its smallest body."""
        if token is not None:
            headers["authorization"] = f"Bearer {self.tokens[token]}"
        url = operation.filled(ids)
        given = {one["name"]: self._smallest(one["schema"]) for one in _required(operation) if one["in"] == "query"}
        return self.client.request(operation.method, url, params=given, headers=headers, **self._body(operation))

    def _body(self, operation: Operation) -> dict[str, Any]:
        content = operation.declared.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            return {"json": self._smallest(content["application/json"]["schema"])}
        if "multipart/form-data" in content:
            return {"files": {"file": ("a.txt", b"some text")}}
        return {"content": b""} if content else {}

    def _smallest(self, schema: dict[str, Any]) -> Any:
        """Return a value that a schema takes, with nothing in it that may be left out."""
        if "$ref" in schema:
            return self._smallest(self.app.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        for choice in ("anyOf", "oneOf", "allOf"):
            if choice in schema:
                return self._smallest(schema[choice][0])
        if "enum" in schema or "const" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        match schema.get("type"):
            case "object":
                return {name: self._smallest(schema["properties"][name]) for name in schema.get("required", ())}
            case "array":
                return [self._smallest(schema["items"])] * schema.get("minItems", 0)
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return "x"


def _required(operation: Operation) -> list[dict[str, Any]]:
    return [one for one in operation.declared.get("parameters", ()) if one.get("required")]


def nowhere() -> dict[str, str]:
    """Return ids of things that do not exist."""
    return {name: new_id() for name in ("projects", "files", "memories", "conversations", "messages", "settings")}


def filled(kb: Knowlex, name: str, folder: Path) -> dict[str, str]:
    """Return the ids of a new project, and of one of each thing that it holds."""
    file = folder / f"{name}.md"
    file.write_text(f"# {name}\n\nOf the {name} ferries.\n")
    kb.ingest(name, file)
    project = kb.project(name).id
    talk = kb.conversations.create(f"{name} talk", project=name)
    return {
        "projects": project,
        "files": kb.files(name)[0].id,
        "memories": kb.memories.add(name, f"{name} title", "content").id,
        "conversations": talk.id,
        "messages": kb.conversations.add(talk.id, "user", f"{name} said").id,
        "settings": f"{name}-key",
    }


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve a database that has two projects and tokens."""
    with Knowlex(folder / "knowlex.db", max_request_mb=1, max_upload_mb=1, workers=1) as kb:
        mine, foreign = filled(kb, "mine", folder), filled(kb, "foreign", folder)
        tokens = {
            "all": kb.tokens.create(write=True),
            "read": kb.tokens.create(),
            "mine": kb.tokens.create(["mine"], write=True),
            "revoked": kb.tokens.create(write=True),
        }
        kb.tokens.revoke(tokens["revoked"].id)
        secrets = {name: token.token for name, token in tokens.items()} | {"wrong": f"kx_{'A' * 43}"}
        app = create_app(kb)
        app.state.stopping.set()  # a stream of events has no end of its own
        with TestClient(app, base_url=HOST, raise_server_exceptions=False) as client:
            yield Served(kb, app, client, secrets, mine, foreign)

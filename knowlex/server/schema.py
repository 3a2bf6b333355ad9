"""OpenAPI as it is true: what the guard and the error handlers answer is declared here, once, for every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI

from knowlex.server.guard import OPEN_PATHS
from knowlex.server.problems import MEDIA_TYPE, Problem

EVERYWHERE = {
    "401": "No token, or one that is unknown or revoked",
    "403": "A page of another site, or a token that does not allow this",
    "421": "Called by a name that is none of the server's",
    "422": "A value that cannot be used",
    "500": "A fault in Knowlex",
    "503": "The database or the model cannot be used just now",
}
NAMED = {"404": "Not found, or not to be seen by this token"}
CHANGING = {
    "409": "It does not go with what is there, or the server is not set up for it",
    "507": "No space is left on the server's disk",
}
WITH_BODY = {
    "400": "A body that cannot be read",
    "408": "The rest of the body did not come in time",
    "413": "The body is too large",
}
OPEN = {"403", "421", "500"}
"""What is answered where no token is asked for and nothing looked at."""

REF = "#/components/schemas/"
Schema = dict[str, Any]


def of(app: FastAPI) -> Callable[[], Schema]:
    """Return what gives the app's OpenAPI: FastAPI's own, with all answers that a route may give."""
    make = app.openapi

    def openapi() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(make())
        return app.openapi_schema

    return openapi


def _completed(schema: Schema) -> Schema:
    components = schema.setdefault("components", {})
    schemas: Schema = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template=REF + "{model}")
    schemas |= problem.pop("$defs") | {"Problem": problem}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, method, operation in operations(schema):
        operation["security"] = [] if path in OPEN_PATHS else [{"token": []}]
        _declare(path, method, operation)
    return schema


def operations(schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Yield the path, the method and what is declared of every operation."""
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _declare(path: str, method: str, operation: Schema) -> None:
    """Add the problems that an operation may answer with, where it does not declare something of that status itself."""
    responses: Schema = operation["responses"]
    responses.pop("422", None)  # FastAPI's own form
    for status, description in _statuses(path, method, operation).items():
        declared: Schema = responses.setdefault(status, {"description": description})
        if not declared.keys() & {"content"} or MEDIA_TYPE in declared["content"]:
            declared["content"] = {MEDIA_TYPE: {"schema": {"$ref": f"{REF}Problem"}}}


def _statuses(path: str, method: str, operation: Schema) -> dict[str, str]:
    if path in OPEN_PATHS:
        return {status: EVERYWHERE[status] for status in sorted(OPEN)}
    found = EVERYWHERE | CHANGING
    if "{" in path:
        found |= NAMED
    if "requestBody" in operation:
        found |= NAMED | WITH_BODY
    return dict(sorted(found.items()))

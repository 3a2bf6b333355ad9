"""Errors are RFC 9457 problems: of every class, and of what nobody foresaw; and what is in them is the caller's own."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from served import Served

from knowlex.server import problems
from storage import errors
from storage.errors import KnowlexError

SERVER_SIDE = "/home/somebody/knowlex.db"


def classes(of: type[KnowlexError] = KnowlexError) -> Iterator[type[KnowlexError]]:
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from classes(kind)


@pytest.fixture(scope="module")
def planted(served: Served) -> FastAPI:
    """The app with a route that raises whatever it is asked to."""
    app = served.app

    @app.get("/v1/planted/{name}", include_in_schema=False)
    def raises(name: str) -> None:
        raise getattr(errors, name, RuntimeError)(f"{SERVER_SIDE}: canary")

    return app


def ask(served: Served, path: str, **headers: str) -> tuple[int, dict[str, object], str]:
    headers["authorization"] = f"Bearer {served.tokens['all']}"
    answer = served.client.get(path, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json(), answer.headers.get("retry-after", "")


@pytest.mark.parametrize("kind", list(classes()))
def test_every_error_has_its_status(served: Served, planted: FastAPI, kind: type[KnowlexError]) -> None:
    status, problem, retry = ask(served, f"/v1/planted/{kind.__name__}")
    assert status == problem["status"] == problems.kind_of(kind("")).status
    assert problem["type"] == f"urn:knowlex:problem:{kind.code.replace('_', '-')}"
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", str(problem["instance"]))
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert (status == 503 and bool(retry)) == (problems.kind_of(kind("")).retry_after_s is not None)
    if status >= 500 and kind is not errors.TransientError:
        assert SERVER_SIDE not in str(problem["detail"])


def test_the_table_is_as_it_was_agreed() -> None:
    agreed = {
        "UsageError": 422,
        "NotFoundError": 404,
        "ForbiddenError": 403,
        "UniqueError": 409,
        "LockedError": 503,
        "DiskFullError": 507,
        "ReadOnlyError": 503,
        "NewerSchemaError": 503,
        "CorruptDatabaseError": 503,
        "ExtractError": 422,
        "TransientError": 503,
        "KnowlexError": 500,
    }
    assert {name: problems.kind_of(getattr(errors, name)("")).status for name in agreed} == agreed


def test_a_fault_tells_the_log_where_and_its_caller_nothing(
    served: Served, planted: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "knowlex"):
        status, problem, _ = ask(served, "/v1/planted/canary-of-a-path?q=canary-of-a-query")
    assert status == 500
    assert "canary" not in json.dumps(problem)
    assert SERVER_SIDE not in json.dumps(problem)
    told = [str(record.msg) for record in caplog.records]
    assert "canary" not in " ".join(told)
    failed = next(line for line in told if line.startswith("request failed"))
    assert str(problem["instance"]).removeprefix("urn:uuid:") in failed
    assert "error_code=RuntimeError" in failed
    answered = next(line for line in told if line.startswith("request answered"))
    assert "route=/v1/planted/{name} status=500" in answered


def test_the_place_of_the_database_is_told_to_nobody(served: Served) -> None:
    kind = errors.NotFoundError(f"{served.kb.path}: there is no database; make one")
    app = served.app

    @app.get("/v1/moved", include_in_schema=False)
    def moved() -> None:
        raise kind

    status, problem, _ = ask(served, "/v1/moved")
    assert (status, problem["detail"]) == (404, "the database: there is no database; make one")


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/v1/projects/nowhere", 404), ("/v1/projects?limit=0", 422)]
)
def test_what_fastapi_refuses_has_the_same_form(served: Served, path: str, status: int) -> None:
    found, problem, _ = ask(served, path)
    assert found == status
    assert {"type", "title", "status", "detail", "instance"} <= set(problem)


def test_what_was_given_is_not_said_again_where_it_cannot_be_used(served: Served) -> None:
    body = {"name": ["canary"], "description": {"canary": "canary"}}
    answer = served.client.post("/v1/projects", json=body, headers={"authorization": f"Bearer {served.tokens['all']}"})
    assert answer.status_code == 422
    assert {fault["location"] for fault in answer.json()["errors"]} == {"body.name", "body.description"}
    assert "canary" not in answer.text


def test_half_a_character_is_told_again_as_its_escape() -> None:
    answer = problems.response("id", 404, "not_found", "project \ud800: not found")
    assert json.loads(bytes(answer.body))["detail"] == "project \ud800: not found"

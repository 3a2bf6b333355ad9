"""Errors are RFC 9457 problems: of every class, and of what nobody foresaw; and what is in them is the caller's own."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from served import Served

from knowlex.project_settings import KEYS
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


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/projects", "GET, POST"),
        ("PUT", "/v1/projects/mine/files/x", "DELETE, GET"),
        ("POST", "/v1/settings/a/b", "DELETE, GET, PUT"),
        ("PUT", "/v1/conversations/search", "DELETE, GET, PATCH, POST"),
        ("GET", "/mcp", "POST"),
    ],
)
def test_a_method_that_is_not_taken_is_told_with_all_that_are(
    served: Served, method: str, path: str, allowed: str
) -> None:
    answer = served.client.request(method, path, headers={"authorization": f"Bearer {served.tokens['all']}"})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/v1/projects/", "/v1/projects/mine/files/", "/mcp/"])
def test_a_slash_too_many_is_told_and_leads_nowhere_else(served: Served, path: str) -> None:
    headers = {"authorization": f"Bearer {served.tokens['all']}"}
    answer = served.client.request("GET", path, headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["detail"] == "nothing is at this path; leave out the slash at its end"


def test_what_was_given_is_not_said_again_where_it_cannot_be_used(served: Served) -> None:
    body = {"name": ["canary"], "description": {"canary": "canary"}}
    answer = served.client.post("/v1/projects", json=body, headers={"authorization": f"Bearer {served.tokens['all']}"})
    assert answer.status_code == 422
    assert {fault["location"] for fault in answer.json()["errors"]} == {"body.name", "body.description"}
    assert "canary" not in answer.text


def test_half_a_character_is_told_again_as_its_escape() -> None:
    answer = problems.response("id", 404, "not_found", "project \ud800: not found")
    assert json.loads(bytes(answer.body))["detail"] == "project \ud800: not found"


def test_a_damaged_value_leads_to_the_command_that_names_it(served: Served) -> None:
    talk = served.kb.conversations.create("t")
    said = served.kb.conversations.add(talk.id, "user", "x")
    with served.kb.database.write() as db:
        db.run("UPDATE messages SET content = 'nojson' WHERE id = :id", id=said.id)
    status, problem, _ = ask(served, f"/v1/conversations/{talk.id}")
    assert (status, problem["type"]) == (503, "urn:knowlex:problem:damaged-value")
    assert "`knowlex verify` names it" in str(problem["detail"])
    assert served.kb.health().ok, "this is not what says why"
    assert served.kb.verify()
    served.kb.conversations.delete(talk.id)


JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
SEARCH = "/v1/projects/mine/search"


def told(served: Served, method: str, path: str, status: int = 422, **given: Any) -> str:
    """Return what is told of a request that cannot be used."""
    headers = {"authorization": f"Bearer {served.tokens['all']}"} | given.pop("headers", {})
    answer = served.client.request(method, path, headers=headers, **given)
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "detail"),
    [
        ({}, b'{"name": "x"}', 422, "the body: is not sent as JSON; send it with the header `content-type: appl"),
        (FORM, b'{"name": "x"}', 422, "the body: is not sent as JSON; send it with the header `content-type: appl"),
        (JSON, b"not json", 422, "the body: is not JSON (Expecting value); send a JSON object"),
        (JSON, b'"\xff"', 400, "the body: is not in UTF-8; send JSON that is"),
        (JSON, b"[" * 100_000, 400, "the body: is nested too deeply; send a flatter object"),
        (JSON, b"9" * 5000, 400, "the body: cannot be read; send a JSON object"),
        (JSON, b"[]", 422, "the body: is no object; give one"),
        (JSON, b"", 422, "the body: is not given; give it"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_with_the_remedy(
    served: Served, headers: dict[str, str], content: bytes, status: int, detail: str
) -> None:
    assert told(served, "POST", "/v1/projects", status, headers=headers, content=content).startswith(detail)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("query=x&k=100000", "k 100000: is above 1000; give less"),
        ("query=x&k=0", "k 0: is below 1; give more"),
        ("query=x&k=many", "k: is no whole number; give one"),
        ("query=x&mode=exact", "mode 'exact': is unknown; give 'hybrid', 'text' or 'vector'"),
        ("query=x&bogus=1", "bogus: is unknown; known are query, k, mode, sources, rerank, "),
        ("k=1", "query: is not given; give it"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_told_with_the_remedy(served: Served, query: str, detail: str) -> None:
    assert told(served, "GET", f"{SEARCH}?{query}").startswith(detail)


@pytest.mark.parametrize(("key", "meant"), [("filter", "filters"), ("source", "sources"), ("min_scor", "min_score")])
def test_a_mistyped_key_of_a_body_is_told_with_the_one_that_may_be_meant(served: Served, key: str, meant: str) -> None:
    detail = f"{key}: is unknown; did you mean {meant}?"
    assert told(served, "POST", SEARCH, json={"query": "x", key: "y"}) == detail
    assert told(served, "GET", f"{SEARCH}?query=x&{key}=y") == detail


def test_settings_that_no_project_has_are_told_with_those_that_it_may_have(served: Served) -> None:
    known = f"known are {', '.join(KEYS)}"
    assert told(served, "PATCH", "/v1/projects/mine", json={"set": {"foo": 1}}) == f"set.foo: is unknown; {known}"
    many = {str(number): 1 for number in range(30)}
    assert told(served, "PATCH", "/v1/projects/mine", json={"set": many}) == f"set: 30 keys are unknown; {known}"


def test_of_what_was_given_a_bounded_part_is_told_again(served: Served) -> None:
    long = {"set": {"pdf_engine": "x" * 10_000, "y" * 10_000: 1}}
    assert len(told(served, "PATCH", "/v1/projects/mine", json=long)) < 500


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({"conversation": "y" * 100_000}, ": not found; GET /v1/conversations lists those there are"),
        ({"project": "y" * 100_000}, ": not found; GET /v1/projects lists those there are"),
        ({"date_from": "y" * 100_000}, ""),
    ],
)
def test_of_what_names_nothing_a_bounded_part_is_told_again(served: Served, body: dict[str, str], cause: str) -> None:
    headers = {"authorization": f"Bearer {served.tokens['all']}"}
    detail = served.client.post("/v1/conversations/search", json=body, headers=headers).json()["detail"]
    assert len(detail) < 1100
    assert detail.endswith(cause)


def test_a_value_of_several_types_is_called_by_its_name(served: Served) -> None:
    assert told(served, "POST", SEARCH, json={"query": "x", "filters": 4}) == (
        "filters: is no text; give one; filters: is no object; give one"
    )

"""Row 22: nothing is served to who may not have it. Every operation of the app is asked; none is listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from faults.table import Figure
from served import Operation, Served, nowhere

from knowlex.access import Access
from knowlex.server import guard

pytestmark = [pytest.mark.row(22), pytest.mark.proof]

Ask = Callable[[Operation], Any]


def asks(served: Served) -> dict[str, tuple[int, Ask]]:
    """Return each way to be refused by the guard: the status, and how a request is refused so."""

    def by(token: str | None, **headers: str) -> Ask:
        return lambda operation: served.ask(operation, served.mine, token, **headers)

    return {
        "no token": (401, by(None)),
        "wrong token": (401, by("wrong")),
        "revoked token": (401, by("revoked")),
        "not a bearer": (401, by(None, authorization="Basic eDp5")),
        "bad Host": (421, by("all", host="attacker.example")),
        "Host of another port's name": (421, by("all", host="localhost.attacker.example:8642")),
        "bad Origin": (403, by("all", origin="http://attacker.example")),
        "Origin null": (403, by("all", origin="null")),
    }


def passed(served: Served) -> list[str]:
    """Return what was not refused as it should be."""
    found: list[str] = []
    for name, (status, ask) in asks(served).items():
        for operation in served.operations:
            if operation.is_open and status == 401:
                continue
            answer = ask(operation)
            refused = answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
            if not refused or (status == 401) != ("www-authenticate" in answer.headers):
                found.append(f"{operation}, {name}: {answer.status_code}")
            if "access-control-allow-origin" in answer.headers:
                found.append(f"{operation}, {name}: allows other pages")
    return found


def test_every_operation_is_guarded(served: Served, figure: Figure) -> None:
    found = passed(served)
    assert not found
    count = len(served.operations)
    figure(22, f"{count} operations x {len(asks(served))} refusals: 0 passed", count > 3)


def test_one_that_is_not_guarded_is_found(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "OPEN_PATHS", frozenset({"/healthz", "/v1/projects"}))
    assert [line for line in passed(served) if line.startswith("GET /v1/projects, no token")]


def written(served: Served) -> list[str]:
    """Return the operations that change something and let a token do that may only read."""
    writing = [operation for operation in served.operations if not operation.reads]
    answers = [(operation, served.ask(operation, served.mine, "read")) for operation in writing]
    return [
        f"{operation}: {answer.status_code} {answer.text}" for operation, answer in answers if answer.status_code != 403
    ]


def test_a_token_that_may_only_read_changes_nothing(served: Served, figure: Figure) -> None:
    found = written(served)
    assert not found
    figure(22, f"{sum(not one.reads for one in served.operations)} writing operations x read token: 403 each", True)


def leaks(served: Served) -> list[str]:
    """Return the operations that answer a token of another project otherwise than about what does not exist."""
    found: list[str] = []
    for operation in served.operations:
        if "{" not in operation.path:
            continue
        missing = nowhere()
        foreign, none = (served.ask(operation, ids, "mine") for ids in (served.foreign, missing))
        told = [_told(answer, ids) for answer, ids in ((foreign, served.foreign), (none, missing))]
        if foreign.status_code not in (403, 404) or told[0] != told[1]:
            found.append(f"{operation}: {told[0]} but of nothing {told[1]}")
    return found


def _told(answer: Any, ids: dict[str, str]) -> tuple[int, str, str]:
    text = answer.text if answer.status_code < 400 else answer.json()["detail"]
    for name, id in ids.items():
        text = text.replace(id, name)
    return answer.status_code, answer.headers.get("content-type", ""), text


def test_what_is_of_another_project_is_answered_as_what_does_not_exist(served: Served, figure: Figure) -> None:
    found = leaks(served)
    assert not found
    count = sum("{" in one.path for one in served.operations)
    figure(22, f"{count} operations x token of another project: as of what does not exist", count > 3)


def test_a_scope_that_nobody_looks_at_is_found(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Access, "sees", lambda access, project: True)
    monkeypatch.setattr(Access, "require_write", lambda access, call: None)
    read = [one for one in served.operations if one.method == "GET"]
    assert [line for line in leaks(replace(served, only=read)) if "/files/{id}" in line]
    made = [one for one in served.operations if str(one) == "POST /v1/projects"]
    assert written(replace(served, only=made))


def test_no_page_of_another_site_is_let_in_by_a_preflight(served: Served) -> None:
    for operation in served.operations:
        headers = {"origin": "http://attacker.example", "access-control-request-method": operation.method}
        answer = served.client.options(operation.filled(served.mine), headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_route_added_later_is_asked_too(served: Served) -> None:
    app: FastAPI = served.app

    @app.get("/v1/planted/{id}", include_in_schema=False)
    def planted(id: str) -> str:
        return id

    try:
        assert [one for one in served.operations if str(one) == "GET /v1/planted/{id}"]
    finally:
        app.router.routes.pop()

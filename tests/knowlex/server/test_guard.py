"""Who needs a token, by which names the server may be called, and how large and slow a body may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.server.app import create_app
from knowlex.server.guard import Names, is_loopback
from storage import migrations
from storage.errors import ConfigurationError

OPEN = "http://127.0.0.1:8642"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knowlex]:
    """A database without tokens."""
    with Knowlex(tmp_path_factory.mktemp("fresh") / "knowlex.db") as kb:
        kb.projects.create("p")
        yield kb


def projects(kb: Knowlex, *, host: str = "127.0.0.1", allowed: tuple[str, ...] = (), **headers: str) -> int:
    """Return the status that a list of the projects is answered with."""
    client = TestClient(create_app(kb, host=host, allowed_hosts=allowed), base_url=OPEN)
    return client.get("/v1/projects", headers=headers).status_code


def test_this_machine_needs_no_token_until_there_is_one(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("p")
        assert projects(kb) == 200
        token = kb.tokens.create()
        assert projects(kb) == 401
        assert projects(kb, authorization=f"Bearer {token.token}") == 200
        kb.tokens.revoke(token.id)
        assert projects(kb, authorization=f"Bearer {token.token}") == 401
        assert projects(kb) == 401, "to revoke the last token must not open what the first has closed"


@pytest.mark.parametrize(
    ("host", "allowed"), [("0.0.0.0", ()), ("192.168.1.5", ()), ("::", ()), ("127.0.0.1", ("search.example.org",))]
)
def test_what_others_can_reach_needs_a_token(fresh: Knowlex, host: str, allowed: tuple[str, ...]) -> None:
    assert projects(fresh, host=host, allowed=allowed) == 401


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "forwarded", "via", "x-real-ip", "x-forwarded-proto", "cf-connecting-ip"]
)
def test_what_came_through_a_proxy_needs_a_token(fresh: Knowlex, header: str) -> None:
    assert projects(fresh, **{header: "203.0.113.9"}) == 401


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:8642", "127.0.0.1", "127.0.0.1:1", "[::1]:8642"])
def test_names_of_this_machine_are_known(fresh: Knowlex, name: str) -> None:
    assert projects(fresh, host="127.0.0.1") == projects(fresh, host="127.0.0.1") == 200
    client = TestClient(create_app(fresh), base_url=OPEN)
    assert client.get("/v1/projects", headers={"host": name}).status_code == 200


@pytest.mark.parametrize(
    "name", ["", "localhost.", "localhost.example.org", "127.0.0.1.nip.io", "0.0.0.0", "[::1", "knowlex:8642"]
)
def test_other_names_are_not(fresh: Knowlex, name: str) -> None:
    client = TestClient(create_app(fresh), base_url=OPEN)
    assert client.get("/healthz", headers={"host": name}).status_code == 421


def test_an_allowed_name_is_known_and_nothing_below_it(fresh: Knowlex) -> None:
    client = TestClient(create_app(fresh, allowed_hosts=["Search.Example.org"]), base_url=OPEN)
    assert client.get("/healthz", headers={"host": "search.example.org"}).status_code == 200
    assert client.get("/healthz", headers={"host": "a.search.example.org"}).status_code == 421


@pytest.mark.parametrize("name", ["search.example.org:8443", "https://search.example.org", "a b", "", "me@example.org"])
def test_what_is_more_than_a_name_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name alone"):
        Names.of("127.0.0.1", [name])


def test_an_address_as_a_name(fresh: Knowlex) -> None:
    client = TestClient(create_app(fresh, allowed_hosts=["[2001:db8::1]"]), base_url=OPEN)
    assert client.get("/healthz", headers={"host": "[2001:db8::1]:8642"}).status_code == 200


def test_an_address_with_very_many_parameters_is_refused(fresh: Knowlex) -> None:
    client = TestClient(create_app(fresh), base_url=OPEN)
    assert client.get("/v1/projects?" + "&".join(["limit=1"] * 1000)).status_code == 200
    answer = client.get("/v1/projects?" + "&".join(["limit=1"] * 1001))
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:knowlex:problem:malformed")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8642", 200),
        ("https://127.0.0.1:8642", 200),
        ("http://127.0.0.1:9999", 403),
        ("http://localhost:8642", 403),
        ("http://127.0.0.1:8642.example.org", 403),
    ],
)
def test_only_pages_of_the_server_itself_may_use_it(fresh: Knowlex, origin: str, status: int) -> None:
    assert projects(fresh, origin=origin) == status


def test_an_answer_is_kept_by_nobody_and_included_by_no_page(served: Served) -> None:
    headers = served.client.get("/healthz").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert Names.of(host).local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert not Names.of(host).local


def by(served: Served) -> dict[str, str]:
    return {"authorization": f"Bearer {served.tokens['all']}"}


def pieces(count: int, size: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_that_is_too_large_is_refused(served: Served, stated: bool) -> None:
    body: Any = b"x" * (2**20 + 1) if stated else pieces(20, 2**16)
    json = {"content-type": "application/json"}
    answer = served.client.post("/v1/projects", content=body, headers=by(served) | json)
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:knowlex:problem:too-large"


def test_what_is_called_a_form_may_have_no_more_where_no_form_is_taken(served: Served) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    answer = served.client.post("/v1/projects", content=pieces(20, 2**16), headers=by(served) | form)
    assert answer.status_code == 413


def test_a_file_that_is_too_large_is_refused(served: Served) -> None:
    url = f"/v1/projects/{served.mine['projects']}/files"
    fits = served.client.post(url, files={"file": ("a.txt", b"a " * 2**19)}, headers=by(served))
    large = served.client.post(url, files={"file": ("b.txt", b"b " * 2**19 + b"b")}, headers=by(served))
    assert (fits.status_code, large.status_code) == (202, 413)


def test_monitors_may_ask_for_the_head_alone(served: Served) -> None:
    assert served.client.head("/healthz").status_code == 200
    assert served.client.head("/readyz").status_code == 401
    assert served.client.head("/readyz", headers=by(served)).status_code == 200
    assert served.client.head("/v1/projects", headers=by(served)).headers["allow"] == "GET, POST"


@pytest.mark.parametrize("with_token", [False, True])
def test_what_is_in_the_way_is_told_where_no_token_can_be_looked_up(tmp_path: Path, with_token: bool) -> None:
    with Knowlex(tmp_path / "a.db") as kb, Knowlex(tmp_path / "a.db") as other:
        client = TestClient(create_app(kb), base_url=OPEN)
        kb.projects.create("p")
        token = kb.tokens.create().token if with_token else None
        headers = {"authorization": f"Bearer {token}"} if token else {}
        other.migrate(migrations.LATEST - 1)
        refused = client.get("/v1/projects", headers=headers).json()
        assert (refused["type"], refused["title"]) == ("urn:knowlex:problem:newer-schema", "Another schema")
        assert "another version of Knowlex" in refused["detail"]
        answer = client.get("/readyz", headers=headers)
        [fault] = [check for check in answer.json()["checks"] if not check["ok"]]
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert fault == {"name": "schema", "ok": False, "code": "old_schema", "detail": None}


def test_a_huge_range_is_nothing_to_an_answer_that_has_none(served: Served) -> None:
    ranges = ",".join(f"{start}-" for start in range(2_000))
    answer = served.client.get("/openapi.json", headers=by(served) | {"range": f"bytes={ranges}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("given", ["Basic xyz", "kx_xyz", "Bearer", "Bearer "])
def test_what_is_no_bearer_token_is_told_the_form(served: Served, given: str) -> None:
    answer = served.client.get("/v1/projects", headers={"authorization": given})
    assert answer.status_code == 401
    assert answer.json()["detail"].startswith("Authorization: is no `Bearer TOKEN`")
    assert "xyz" not in answer.text

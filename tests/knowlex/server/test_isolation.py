"""Row 25: a token bound to projects gets nothing of others, by whatever path, and cannot tell that they are there.

What is hidden answers as what does not exist, byte for byte but for the id that was asked for and that of the request.
The calls are made from the operations of the API's own OpenAPI, so that a new one is asked, too.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from faults.table import Figure
from http_api import BODIES, Api, ok
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.server import scope
from storage import files

pytestmark = pytest.mark.row(25)

PROJECTS = 20
OWN = 2
HIDDEN = (403, 404)
INSTANCE = re.compile(r'"instance": ?"[^"]*"')
"""What tells one request from another."""
MISSING = "01a21fa2-fa4e-778c-ac9d-33ebc2bb64e3"
WORDS = ("harbour", "lantern", "quarry", "meadow", "canary")


@dataclass(frozen=True)
class Holdings:
    """What a project holds: an id of each kind, by the name that paths have for it."""

    project: str
    file: str
    memory: str
    conversation: str
    message: str

    def ids(self) -> tuple[str, ...]:
        return (self.project, self.file, self.memory, self.conversation, self.message)


class World:
    """Twenty projects with the same words and a canary each, and a token for two of them."""

    def __init__(self, kb: Knowlex, like: World | None = None) -> None:
        """like: the world whose copy the database is; without it, all is made."""
        self.api = Api(kb)
        self.all = like.all if like else [self._filled(number) for number in range(PROJECTS)]
        self.of_none = like.of_none if like else self._filled_none()
        self.own, self.foreign = self.all[:OWN], self.all[OWN:]
        self.bound = self.api.bound(*(holdings.project for holdings in self.own))

    def _filled_none(self) -> tuple[str, str]:
        every = self.api.everyone
        ok(every.put("/v1/settings/canary", json={"value": "canary98"}))
        talk = ok(every.post("/v1/conversations", json={"title": "of none canary99"}), 201)["id"]
        said = {"role": "user", "content": "harbour of none canary99"}
        return talk, ok(every.post(f"/v1/conversations/{talk}/messages", json=said), 201)["id"]

    def _filled(self, number: int) -> Holdings:
        every, name, text = self.api.everyone, f"canary{number:02}", f"{' '.join(WORDS)} canary{number:02}"
        project = ok(every.post("/v1/projects", json={"name": name}), 201)["id"]
        at = f"/v1/projects/{project}"
        sent = ok(every.post(f"{at}/files", files={"file": (f"{name}.txt", text.encode())}), 202)
        memory = ok(every.post(f"{at}/memories", json={"title": name, "content": text}), 201)
        talk = ok(every.post("/v1/conversations", json={"title": name, "project": project}), 201)["id"]
        said = ok(every.post(f"/v1/conversations/{talk}/messages", json={"role": "user", "content": text}), 201)
        return Holdings(project, sent["files"][0]["id"], memory["id"], talk, said["id"])

    def told(self, text: str) -> list[str]:
        """Return what an answer says of what is hidden."""
        canaries = re.findall(r"canary\d\d", text)
        hidden = {*self.of_none, *(id for holdings in self.foreign for id in holdings.ids())}
        own = {f"canary{number:02}" for number in range(OWN)}
        return [*(name for name in canaries if name not in own), *(id for id in hidden if id in text)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Knowlex(tmp_path_factory.mktemp("isolation") / "twenty.db", workers=1) as kb:
        made = World(kb)
        with kb.drain(progress=False) as drain:
            assert drain.run().failed == 0
        yield made


@pytest.fixture(scope="module")
def copy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world's database as it was at first."""
    path = tmp_path_factory.mktemp("isolation") / "copy.db"
    world.api.kb.backup(path)
    return path


def kind_of_id(path: str) -> str:
    """What `{id}` stands for in a path."""
    return next((kind for kind in ("file", "memor", "conversation") if f"/{kind}" in path.partition("{id}")[0]), "")


def fillings(path: str, world: World) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Yield the parameters of a path that name something hidden, and the same with what does not exist in its place."""
    own, foreign = world.own[0], world.foreign[0]
    field = {"file": "file", "memor": "memory", "conversation": "conversation"}.get(kind_of_id(path), "")
    names = {"project": "project", "id": field, "message": "message"}
    used = [name for name in names if f"{{{name}}}" in path]
    for hidden in product((False, True), repeat=len(used)):
        if any(hidden):
            chosen = zip(used, hidden, strict=True)
            real = {name: getattr(foreign if far else own, names[name]) for name, far in chosen}
            yield real, {name: MISSING if value in foreign.ids() else value for name, value in real.items()}


def asked(client: TestClient, method: str, path: str, **more: Any) -> tuple[int, str]:
    if path.endswith("/files") and method == "post":
        more = {"files": {"file": ("x.txt", b"text")}}
    if path.endswith("/search") and method == "get":
        more = {"params": {"query": "x", "mode": "text"}}
    answer = client.request(method, path, **more)
    return answer.status_code, INSTANCE.sub("", answer.text)


def leaks(world: World) -> Iterator[str]:
    """Yield the calls whose answers tell what is hidden, or differ from those about what does not exist."""
    for method, path in world.api.operations():
        body = BODIES.get((method, path))
        for real, missing in fillings(path, world):
            more = {} if body is None else {"json": body}
            key = {"key": "theme"} if "{key}" in path else {}
            got = asked(world.bound, method, path.format(**real, **key), **more)
            other = asked(world.bound, method, path.format(**missing, **key), **more)
            if normal(got, real, missing) != other or got[0] not in HIDDEN:
                yield f"{method} {path} {real}: {got} is not {other}"
    for query in hidden_queries(world):
        yield from differing(world, *query)
    for path in ("/v1/projects", "/v1/conversations", "/v1/settings"):
        yield from (f"{path}: {told}" for told in world.told(world.bound.get(path).text))


def hidden_queries(world: World) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield calls that name something hidden elsewhere than in the path: method, path, what to send, the id in it."""
    foreign, (talk, _) = world.foreign[0], world.of_none
    own = world.own[0]
    for project in (foreign.project, "canary05"):
        yield "get", "/v1/conversations", {"params": {"project": project}}, project
        yield "get", "/v1/conversations/export", {"params": {"project": project}}, project
        yield "post", "/v1/conversations/search", {"json": {"project": project}}, project
        yield "post", "/v1/conversations", {"json": {"title": "x", "project": project}}, project
        yield "patch", f"/v1/conversations/{own.conversation}", {"json": {"project": project}}, project
        yield "get", f"/v1/projects/{project}", {}, project
        yield "get", f"/v1/projects/{project}/files", {}, project
    yield "get", "/v1/settings/canary", {}, "canary"
    yield "delete", "/v1/settings/canary", {}, "canary"
    for conversation in (foreign.conversation, talk):
        yield "get", "/v1/conversations/export", {"params": {"id": conversation}}, conversation
        yield "post", "/v1/conversations/search", {"json": {"conversation": conversation}}, conversation
        yield "get", f"/v1/conversations/{conversation}", {}, conversation
    answer = {"role": "user", "content": "x", "parent_id": foreign.message}
    yield "post", f"/v1/conversations/{own.conversation}/messages", {"json": answer}, foreign.message


def differing(world: World, method: str, path: str, more: dict[str, Any], id: str) -> list[str]:
    got = asked(world.bound, method, path, **more)
    other = asked(world.bound, method, path.replace(id, MISSING), **replaced(more, id))
    same = (got[0], got[1].replace(id, MISSING)) == other and got[0] in HIDDEN
    return [] if same else [f"{method} {path} {more}: {got} is not {other}"]


def replaced(value: Any, id: str) -> Any:
    if isinstance(value, dict):
        return {key: replaced(inner, id) for key, inner in value.items()}
    return MISSING if value == id else value


def normal(answer: tuple[int, str], real: Mapping[str, str], missing: Mapping[str, str]) -> tuple[int, str]:
    status, text = answer
    for name, value in real.items():
        text = text.replace(value, missing[name])
    return status, text


def state_of(world: World) -> list[Any]:
    """All that the hidden projects hold."""
    found: list[Any] = []
    for holdings in world.foreign:
        at = f"/v1/projects/{holdings.project}"
        pages = (at, f"{at}/files", f"{at}/memories", f"/v1/conversations/{holdings.conversation}")
        found += [ok(world.api.everyone.get(page)) for page in pages]
    return found


def test_what_is_hidden_is_as_what_does_not_exist(world: World) -> None:
    before = state_of(world)
    assert list(leaks(world)) == []
    assert state_of(world) == before


def test_lists_hold_what_may_be_seen_however_small_their_pages(world: World) -> None:
    for path, mine in (("/v1/projects", OWN), ("/v1/conversations", OWN), ("/v1/settings", 0)):
        seen, after = [], None
        while True:
            page = world.bound.get(path, params={"limit": 1} | ({"after": after} if after else {}))
            assert world.told(page.text) == []
            seen += ok(page)["items"]
            if (after := ok(page)["next"]) is None:
                break
        assert len(seen) == mine
    for no_project in (True, False):
        body = {"no_project": no_project, "query": "harbour"}
        found = world.bound.post("/v1/conversations/search", json=body)
        assert world.told(found.text) == []
        assert len(ok(found)["items"]) == (0 if no_project else OWN)
    assert world.bound.get("/v1/conversations", params={"no_project": True}).json()["items"] == []
    assert len(ok(world.api.everyone.get("/v1/conversations", params={"no_project": True}))["items"]) == 1


def some_query(world: World, rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """Return a random call that reads: of any operation, with any ids, and questions for anybody's words."""
    reading = [(method, path) for method, path in world.api.operations() if method == "get" and "events" not in path]
    reading += [("post", path) for path in SEARCHES for _ in range(4)]
    method, path = rng.choice(reading)
    one, other = (rng.choice(world.own if rng.random() < 0.7 else world.foreign) for _ in range(2))
    field = {"file": "file", "memor": "memory", "conversation": "conversation"}.get(kind_of_id(path), "project")
    id = getattr(rng.choice((one, other)), field)
    at = path.format(
        project=rng.choice((one.project, one.project, "canary05")), id=id, message=other.message, key="canary"
    )
    query = " ".join(rng.choices([*WORDS, *(f"canary{n:02}" for n in range(PROJECTS))], k=3))
    if method == "get":
        return method, at, {"params": {"query": query, "mode": "text"} if path.endswith("/search") else {}}
    body: dict[str, Any] = {"query": query}
    if "projects" in path:
        body["mode"] = rng.choice(("text", "text", "text", "hybrid", "vector"))
    if path.endswith("}/search"):
        body["sources"] = rng.choice((["files"], ["memories", "messages"], ["files", "memories", "messages"]))
        body |= {"window": rng.randrange(3), "collapse": rng.random() < 0.5, "explain": rng.random() < 0.5}
    return method, at, {"json": body}


SEARCHES = ("/v1/projects/{project}/search", "/v1/projects/{project}/memories/search", "/v1/conversations/search")


def ask_at_random(world: World, times: int, seed: int) -> tuple[int, list[str]]:
    """Return how many answers had something in them, and what they told of what is hidden."""
    rng, answered, found = random.Random(seed), 0, list[str]()
    for _ in range(times):
        method, path, more = some_query(world, rng)
        answer = world.bound.request(method, path, **more)
        assert answer.status_code in (200, 403, 404), (path, answer.text)
        answered += answer.status_code == 200
        if answer.status_code == 200:
            said = answer.text.replace(str(more), "")
            question = (more.get("json") or more.get("params") or {}).get("query", "")
            found += [f"{method} {path} {more}: {told}" for told in world.told(said.replace(question, ""))]
    return answered, found


def test_questions_at_random_find_nothing_that_is_hidden(world: World) -> None:
    answered, found = ask_at_random(world, 100, seed=1)
    assert found == []
    assert answered > 20


@pytest.mark.soak
def test_a_thousand_questions_find_nothing_that_is_hidden(world: World, figure: Figure) -> None:
    answered, found = ask_at_random(world, 1000, seed=25)
    figure(25, f"1,000 questions to {PROJECTS} projects, {answered} answered: {len(found)} foreign rows", not found)


# --- the test itself is tested ------------------------------------------------------------------------


def _every_project(kb: Any, caller: Any, name: str) -> Any:
    return kb.project(name)


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "project": (scope, "project", _every_project),
    "memory": (scope, "memory", lambda kb, project, id: kb.memories.get(id)),
    "conversation": (scope, "conversation", lambda kb, caller, id: kb.conversations.details(id)),
    "message": (scope, "message", lambda kb, caller, conversation, id: kb.conversations.message(id)),
    "file": (files, "of_project", lambda db, project_pk, id: files.by_id(db, id)),
    "everything": (scope, "visible", lambda kb, caller: None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_one_check_left_out_is_noticed(
    name: str, world: World, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a copy: what is let through may change or delete what is hidden."""
    with Knowlex(shutil.copy(copy, tmp_path / "copy.db")) as kb:
        mutant = World(kb, like=world)
        monkeypatch.setattr(*MUTANTS[name])
        assert next(leaks(mutant), None) is not None

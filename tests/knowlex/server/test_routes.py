"""Projects, memories, conversations, messages and settings over HTTP: each route on a real database."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import anyio
import pytest
from fastapi.responses import StreamingResponse
from http_api import BODIES, READING, Api, ok
from starlette.testclient import TestClient

from knowlex import Knowlex, config, project_settings, transfer
from knowlex.access import EVERYTHING
from knowlex.server.routes.conversations import EXPORTS, export_conversations
from knowlex.server.routes.projects import OwnSettings, SettingName
from storage.compaction import fold_log


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Knowlex(tmp_path_factory.mktemp("http") / "http.db") as kb:
        yield Api(kb)


@pytest.fixture(scope="module")
def client(api: Api) -> TestClient:
    return api.everyone


@pytest.fixture(scope="module")
def handbook(client: TestClient) -> str:
    """The id of a project."""
    return ok(client.post("/v1/projects", json={"name": "handbook", "settings": {"team": "ops"}}), 201)["id"]


def test_a_project_is_made_changed_and_deleted(client: TestClient) -> None:
    made = ok(client.post("/v1/projects", json={"name": "brief", "description": "short", "set": {"hidden": True}}), 201)
    assert (made["name"], made["file_count"], made["settings"]) == ("brief", 0, {"ingest": {"hidden": True}})
    changed = ok(client.patch("/v1/projects/brief", json={"name": "briefs", "unset": ["hidden"]}))
    assert (changed["name"], changed["description"], changed["settings"]) == ("briefs", "short", {})
    assert client.post("/v1/projects", json={"name": "briefs"}).status_code == 409
    assert ok(client.delete(f"/v1/projects/{made['id']}"))["files"] == 0
    assert client.get(f"/v1/projects/{made['id']}").status_code == 404


@pytest.mark.parametrize("body", [{}, {"name": " "}, {"name": "a\nb"}, {"name": 1}, {"name": "x", "size": 3}])
def test_what_is_no_project_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/projects", json=body).status_code == 422


def test_a_setting_that_chooses_the_model_is_none_of_a_project(client: TestClient, handbook: str) -> None:
    for change in ({"set": {"model": "/evil"}}, {"unset": ["model"]}):
        assert client.patch(f"/v1/projects/{handbook}", json=change).status_code == 422
    refused = client.patch(f"/v1/projects/{handbook}", json={"settings": {"ingest": {"model": "/evil"}}})
    assert refused.status_code == 403
    assert "for the server's owner" in refused.json()["detail"]


def test_a_project_has_no_larger_bounds_over_http_than_the_owner_has(client: TestClient, handbook: str) -> None:
    for values in ({"max_file_mb": 10**6}, {"max_chunks_per_file": 10**6}):
        for change in ({"set": values}, {"settings": {"ingest": values}}):
            assert client.patch(f"/v1/projects/{handbook}", json=change).status_code == 403
            assert client.post("/v1/projects", json={"name": "greedy"} | change).status_code == 403
    smaller = client.patch(f"/v1/projects/{handbook}", json={"set": {"max_file_mb": 1}})
    assert ok(smaller)["settings"]["ingest"] == {"max_file_mb": 1}
    ok(client.patch(f"/v1/projects/{handbook}", json={"unset": ["max_file_mb"]}))


def test_a_project_takes_over_http_just_the_settings_that_it_may_have() -> None:
    assert set(OwnSettings.model_fields) == set(get_args(SettingName)) == set(project_settings.KEYS)
    for key, declared in OwnSettings.model_json_schema()["properties"].items():
        bounds = next(((one["minimum"], one["maximum"]) for one in declared["anyOf"] if "minimum" in one), None)
        assert config._RANGES.get(key) == bounds


def test_lists_come_in_pages_of_what_may_be_seen(api: Api, client: TestClient) -> None:
    ids = [ok(client.post("/v1/projects", json={"name": f"page {n}"}), 201)["id"] for n in range(5)]
    seen = api.bound(*ids[:3])
    first = ok(seen.get("/v1/projects", params={"limit": 2}))
    rest = ok(seen.get("/v1/projects", params={"limit": 2, "after": first["next"]}))
    assert [row["id"] for row in first["items"] + rest["items"]] == ids[2::-1]
    assert rest["next"] is None
    assert seen.get("/v1/projects", params={"after": "nonsense"}).status_code == 422


def test_a_memory_is_kept_found_and_forgotten(client: TestClient, handbook: str) -> None:
    at = f"/v1/projects/{handbook}/memories"
    made = ok(client.post(at, json={"title": "Tea", "content": "green tea at four", "tags": ["drinks"]}), 201)
    assert ok(client.get(at, params={"tag": "drinks"}))["items"] == [made]
    assert ok(client.get(f"{at}/{made['id']}")) == made
    changed = ok(client.patch(f"{at}/{made['id']}", json={"importance": 9}))
    assert (changed["importance"], changed["content"]) == (9, made["content"])
    found = ok(client.post(f"{at}/search", json={"query": "green tea", "mode": "text", "min_importance": 9}))
    assert [hit["id"] for hit in found["hits"]] == [made["id"]]
    assert client.delete(f"{at}/{made['id']}").status_code == 204
    assert client.get(f"{at}/{made['id']}").status_code == 404


def test_search_takes_a_body_or_parameters(client: TestClient, handbook: str) -> None:
    memory = {"title": "Rain", "content": "The umbrella stands behind the door."}
    ok(client.post(f"/v1/projects/{handbook}/memories", json=memory), 201)
    asked = {
        "query": "umbrella",
        "mode": "text",
        "sources": ["memories"],
        "filters": "importance >= 5",
        "explain": True,
    }
    posted = ok(client.post("/v1/projects/handbook/search", json=asked))
    got = ok(client.get("/v1/projects/handbook/search", params=asked))
    hit = posted["hits"][0]
    assert [(one["id"], one["snippet"]) for one in got["hits"]] == [(hit["id"], hit["snippet"])]
    assert hit["snippet"] == "The <mark>umbrella</mark> stands behind the door."
    assert "why" in hit
    assert "before" not in hit
    assert posted["project"] == "handbook"
    as_json = asked | {"filters": {"type": "gte", "key": "importance", "value": 5}}
    assert ok(client.post("/v1/projects/handbook/search", json=as_json))["hits"][0]["id"] == hit["id"]


@pytest.mark.parametrize(
    "more",
    [{"syntax": "fts5"}, {"rerank": "some/model"}, {"k": 0}, {"k": "3"}, {"filters": "size >"}, {"sources": []}],
)
def test_search_refuses_what_it_does_not_take(client: TestClient, handbook: str, more: dict[str, Any]) -> None:
    refused = client.post(f"/v1/projects/{handbook}/search", json={"query": "x", "mode": "text"} | more)
    assert refused.status_code == 422


@pytest.mark.parametrize("odd", ["\\u0000", "\\ud800", "\\udc00\\ud83d"])
def test_any_text_may_be_searched_for(client: TestClient, handbook: str, odd: str) -> None:
    memory = {"title": "Odd", "content": "A giraffe is tall."}
    at = f"/v1/projects/{handbook}"
    ok(client.post(f"{at}/memories", json=memory), 201)
    talk = ok(client.post("/v1/conversations", json={"title": "Odd", "project": handbook}), 201)["id"]
    ok(client.post(f"/v1/conversations/{talk}/messages", json={"role": "user", "content": "tall giraffe"}), 201)
    query = f'"query": "tall{odd}giraffe"'

    def post(path: str, more: str) -> Any:
        headers = {"content-type": "application/json"}
        return client.post(path, content=f"{{{query}{more}}}".encode(), headers=headers)

    for path, more in ((f"{at}/search", ', "sources": ["memories"], "mode": "text"'), (f"{at}/memories/search", "")):
        found = ok(post(path, more))
        assert found["hits"][0]["text"] == "A giraffe is tall."
        assert found["query"] in ("tall giraffe", "tall  giraffe")
    assert ok(post("/v1/conversations/search", f', "conversation": "{talk}"'))["items"][0]["snippet"].count("mark") == 4
    [hit, *_] = ok(client.get(f"{at}/search?query=tall%00giraffe&sources=memories&mode=text"))["hits"]
    assert hit["text"] == "A giraffe is tall."
    assert client.post(f"{at}/search", json={"query": "\0"}).status_code == 422
    assert client.post(f"{at}/memories", json={"title": "x", "content": "a\0b"}).status_code == 422, (
        "what is kept is not"
    )


def test_what_would_make_an_answer_huge_needs_a_budget(client: TestClient, handbook: str) -> None:
    at, wide = f"/v1/projects/{handbook}/search", {"query": "x", "mode": "text", "k": 200, "window": 64}
    for more in ({}, {"max_tokens": 2_000_000}):
        for refused in (client.post(at, json=wide | more), client.get(at, params=wide | more)):
            assert refused.status_code == 422
            assert "up to 25,800 passages would be shown" in refused.json()["detail"]
            assert "give less of either, or max_tokens of 1,000,000 at most" in refused.json()["detail"]
    for more in ({"max_tokens": 100_000}, {"k": 38}, {"window": 12}, {"k": 1000, "window": 2}):
        ok(client.post(at, json=wide | more))


def test_without_a_reranker_the_caller_is_told_whose_it_is_to_set(client: TestClient, handbook: str) -> None:
    at = f"/v1/projects/{handbook}/search"
    for answer in (client.post(at, json={"query": "x", "rerank": True}), client.get(f"{at}?query=x&rerank=true")):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:knowlex:problem:configuration")
        assert "have its owner set rerank_model" in answer.json()["detail"]


def test_how_much_new_things_count_is_a_number_or_true(client: TestClient, handbook: str) -> None:
    for mmr in (True, 1, 0.5):
        ok(client.post(f"/v1/projects/{handbook}/search", json={"query": "x", "mode": "text", "mmr": mmr}))
        ok(client.get(f"/v1/projects/{handbook}/search", params={"query": "x", "mode": "text", "mmr": mmr}))
    assert client.post(f"/v1/projects/{handbook}/search", json={"query": "x", "mmr": 2}).status_code == 422


def test_a_conversation_is_held_read_and_deleted(client: TestClient, handbook: str) -> None:
    talk = ok(client.post("/v1/conversations", json={"title": "Start", "project": "handbook"}), 201)
    at = f"/v1/conversations/{talk['id']}"
    asked = ok(client.post(f"{at}/messages", json={"role": "user", "content": "Where is the zebra?"}), 201)
    parts = [{"type": "text", "text": "At the zoo."}, {"type": "image_ref", "uri": "zoo.png"}]
    answer = {"role": "assistant", "content": parts, "parent_id": asked["id"]}
    said = ok(client.post(f"{at}/messages", json=answer), 201)
    assert said["content"] == parts
    assert [row["id"] for row in ok(client.get(at))["messages"]] == [asked["id"], said["id"]]
    newest = ok(client.get(f"{at}/messages", params={"order": "newest", "limit": 1}))
    assert (newest["items"], newest["next"] is None) == ([said], False)
    assert ok(client.get(f"{at}/messages/{said['id']}/thread")) == [asked, said]
    assert ok(client.get(f"{at}/messages/{asked['id']}/answers"))["items"] == [said]
    listed = ok(client.get("/v1/conversations", params={"project": handbook}))["items"]
    assert listed[0]["last_message_preview"] == "At the zoo."
    edited = ok(client.patch(f"{at}/messages/{asked['id']}", json={"content": "Where is the quagga?"}))
    assert edited["content"][0]["text"] == "Where is the quagga?"
    found = ok(client.post("/v1/conversations/search", json={"query": "quagga", "conversation": talk["id"]}))
    assert ([row["id"] for row in found["items"]], found["degraded"]) == ([asked["id"]], None)
    long = ok(client.post("/v1/conversations/search", json={"query": f"{'quagga'.ljust(8_000)}zoo"}))
    assert (len(long["items"]), "only the first 8,000 characters" in long["degraded"]) == (1, True)
    assert client.delete(f"{at}/messages/{asked['id']}").status_code == 204
    assert client.get(f"{at}/messages/{asked['id']}").status_code == 404
    assert ok(client.patch(at, json={"title": "End", "project": None}))["project_id"] is None
    assert client.delete(at).status_code == 204
    assert client.get(at).status_code == 404


def test_what_is_exported_comes_in_again(client: TestClient, handbook: str) -> None:
    talk = ok(client.post("/v1/conversations", json={"title": "Kept", "project": handbook}), 201)
    ok(client.post(f"/v1/conversations/{talk['id']}/messages", json={"role": "user", "content": "keep me"}), 201)
    lines = client.get("/v1/conversations/export", params={"id": talk["id"]})
    assert [json.loads(line)["type"] for line in lines.text.splitlines()] == ["conversation", "message"]
    ok(client.delete(f"/v1/conversations/{talk['id']}"), 204)
    done = ok(client.post("/v1/conversations/import", content=lines.content))
    assert (done["conversations"], done["messages"]) == (1, 1)
    assert client.get("/v1/conversations/export", params={"id": talk["id"]}).content == lines.content
    refused = client.post("/v1/conversations/import", content=b"{")
    assert refused.status_code == 422
    assert "the body, line 1" in refused.json()["detail"]


def test_settings_are_kept_but_none_of_knowlex_itself(client: TestClient) -> None:
    ok(client.put("/v1/settings/window.size", json={"value": {"width": 800}}))
    assert ok(client.get("/v1/settings/window.size"))["value"] == {"width": 800}
    assert ok(client.get("/v1/settings", params={"prefix": "window."}))["items"][0]["key"] == "window.size"
    assert client.delete("/v1/settings/window.size").status_code == 204
    assert client.get("/v1/settings/window.size").status_code == 404
    for own in ("model", "cache_dir", "rerank_model", "max_upload_mb"):
        assert client.put(f"/v1/settings/{own}", json={"value": "x"}).status_code == 403


def test_what_changes_anything_needs_a_token_that_writes(api: Api, handbook: str) -> None:
    reader = api.bound(handbook, write=False)
    changing = [(method, path) for method, path in api.operations() if method != "get" and path not in READING]
    assert len(changing) == 20
    for method, path in changing:
        at = path.format(project=handbook, id="x", message="x", key="x")
        assert reader.request(method, at, json=BODIES.get((method, path))).status_code == 403, (method, path)


def test_who_is_bound_to_projects_changes_nothing_of_all(api: Api, handbook: str) -> None:
    bound = api.bound(handbook)
    for method, path, body in (
        ("POST", "/v1/projects", {"name": "mine"}),
        ("PATCH", f"/v1/projects/{handbook}", {"name": "page 1"}),
        ("PUT", "/v1/settings/theme", {"value": 1}),
        ("POST", "/v1/conversations", {"title": "of none"}),
        ("POST", "/v1/conversations/import", None),
        ("GET", "/v1/conversations/export", None),
    ):
        assert bound.request(method, path, json=body).status_code == 403, path


def test_openapi_is_made_and_states_the_limit_of_a_file(api: Api, tmp_path: Path) -> None:
    said = api.app.openapi()["paths"]["/v1/projects/{project}/files"]["post"]["requestBody"]
    assert f"{api.kb.configuration.max_upload_mb} MB" in said["description"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/projects/handbook/ingest", {"paths": [1] * 10_000}),
        ("/v1/projects/handbook/search", {"query": "x", "sources": ["x"] * 10_000}),
        ("/v1/projects/handbook/memories", {"title": "x", "content": "x", "tags": [1] * 10_000}),
        ("/v1/projects", {"name": "x", "set": {"include": [1] * 10_000}}),
        ("/v1/conversations", {"title": "x", **{str(number): 1 for number in range(10_000)}}),
    ],
)
def test_of_very_many_faults_a_few_are_told(client: TestClient, handbook: str, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 20
    assert len(answer.content) < 10_000


def test_a_conversation_is_changed_as_a_whole_or_not_at_all(api: Api, client: TestClient, handbook: str) -> None:
    talk = api.kb.conversations.create("before", project="handbook")
    content = '{"project": null, "title": "after", "settings": {"x": NaN}}'
    headers = {"content-type": "application/json"}
    assert client.patch(f"/v1/conversations/{talk.id}", content=content, headers=headers).status_code == 422
    kept = api.kb.conversations.details(talk.id)
    assert (kept.title, kept.project_name) == ("before", "handbook")
    changed = ok(client.patch(f"/v1/conversations/{talk.id}", json={"project": None, "title": "after"}))
    assert (changed["title"], changed["project_name"]) == ("after", None)
    assert ok(client.patch(f"/v1/conversations/{talk.id}", json={})) == changed


@pytest.mark.parametrize("body", [{}, {"title": None}, {"settings": None}, {"set": {}, "unset": []}])
def test_a_change_of_nothing_leaves_all_as_it_was(api: Api, client: TestClient, handbook: str, body: Any) -> None:
    talk, memory = api.kb.conversations.create("talk"), api.kb.memories.add(handbook, "t", "c")
    for path, fields in (
        (f"/v1/projects/{handbook}", {"settings", "set", "unset"}),
        (f"/v1/projects/{handbook}/memories/{memory.id}", {"title"}),
        (f"/v1/conversations/{talk.id}", {"title", "settings"}),
    ):
        if body.keys() <= fields:
            before = ok(client.get(path))["updated_at"]
            assert ok(client.patch(path, json=body))["updated_at"] == before


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/projects/handbook/memories?tga=x", "tga: is unknown; did you mean tag?"),
        ("GET", "/conversations?limit=1&projct=x", "projct: is unknown; did you mean project?"),
        ("DELETE", "/projects/handbook?with_conversation=1", "with_conversation: is unknown; did you mean with_con"),
        ("GET", "/projects?zzz=1", "zzz: is unknown; known are limit, after"),
        ("POST", "/projects?zzz=1&token=secret", "zzz: is unknown; leave it out; token: is unknown; leave it out"),
        ("GET", "/projects/handbook/search?query=x&quary=y", "quary: is unknown; did you mean query?"),
        ("GET", "/projects/handbook/events?until=1", "until: is unknown; did you mean until_done?"),
    ],
)
def test_a_parameter_that_no_route_has_is_refused_before_anything_is_done(
    client: TestClient, handbook: str, method: str, path: str, told: str
) -> None:
    answer = client.request(method, f"/v1{path}", json={"name": "made by mistake"} if method == "POST" else None)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:knowlex:problem:usage")
    assert answer.json()["detail"].startswith(told)
    assert answer.json()["errors"][0]["location"].startswith("query.")
    assert [each["name"] for each in ok(client.get("/v1/projects"))["items"]].count("made by mistake") == 0
    assert ok(client.get(f"/v1/projects/{handbook}"))["name"] == "handbook"


def test_an_export_that_nobody_takes_holds_nothing_up(api: Api) -> None:
    talk = api.kb.conversations.create("long")
    api.kb.conversations.add(talk.id, "user", "words " * 1000)
    answer = export_conversations(api.kb, EVERYTHING, id=[talk.id])  # and nobody reads its body yet
    with api.kb.database.write() as db:
        db.run("UPDATE conversations SET title = 'longer' WHERE id = :id", id=talk.id)
    assert fold_log(api.kb.database, wait_ms=1000), "somebody reads still"

    async def body() -> bytes:
        return b"".join([piece async for piece in cast(AsyncIterator[bytes], answer.body_iterator)])

    assert b'"title":"long"' in anyio.run(body)


@pytest.mark.parametrize("asked", ["export", "import"])
@pytest.mark.parametrize("fails_at", ["write", "seek"])
def test_a_full_disk_is_told_as_such(
    api: Api, client: TestClient, asked: str, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = api.kb.conversations.create("t")
    lines = client.get("/v1/conversations/export", params={"id": talk.id}).content

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if fails_at == "write":
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

        def seek(self, *place: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "spool", lambda folder: Full())
    answer = (
        client.get("/v1/conversations/export")
        if asked == "export"
        else client.post("/v1/conversations/import", content=lines)
    )
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:knowlex:problem:disk-full")


def test_a_long_export_goes_to_the_disk_and_no_more_than_a_few_lie_there(
    api: Api, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = api.kb.conversations.create("long")
    for _ in range(40):
        api.kb.conversations.add(talk.id, "user", "words " * 10_000)
    spools: list[Any] = []
    original = transfer.spool

    def spool(folder: Path) -> Any:
        spools.append(original(folder))
        return spools[-1]

    monkeypatch.setattr(transfer, "spool", spool)
    answers = [export_conversations(api.kb, EVERYTHING, id=[talk.id]) for _ in range(EXPORTS)]
    assert all(one._rolled for one in spools)
    assert client.get("/v1/conversations/export", params={"id": talk.id}).status_code == 503

    async def read(answer: StreamingResponse) -> int:
        return sum([len(piece) async for piece in cast(AsyncIterator[bytes], answer.body_iterator)])

    assert all(anyio.run(read, answer) > 40 * 60_000 for answer in answers)
    assert all(one.closed for one in spools)
    assert client.get("/v1/conversations/export", params={"id": talk.id}).status_code == 200


def test_who_goes_away_is_no_fault(api: Api, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def nobody(message: object) -> None: ...

    headers = [(b"host", b"localhost"), (b"authorization", client.headers["authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/conversations/import", "headers": headers}
    anyio.run(api.app, {**scope, "query_string": b"", "http_version": "1.1", "scheme": "http"}, gone, nobody)
    assert "request failed" not in caplog.text

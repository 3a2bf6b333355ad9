"""Files sent over HTTP: on the disk as they come, read by the same workers, gone with their rows."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from http_api import Api, ok
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from knowlex import Knowlex
from knowlex.server.routes.files import joined
from knowlex.server.uploads import client_name
from storage import scratch, uploads
from storage.chunks import Chunk


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Knowlex(tmp_path_factory.mktemp("up") / "up.db", workers=1, max_upload_mb=1) as kb:
        kb.projects.create("handbook")
        yield Api(kb)


@pytest.fixture(scope="module")
def client(api: Api) -> TestClient:
    return api.everyone


FILES = "/v1/projects/handbook/files"


def kept(api: Api) -> list[str]:
    """The names in the folder of uploads."""
    return sorted(os.listdir(uploads.folder(api.kb.path)))


def send(client: TestClient, *files: tuple[str, bytes], at: str = FILES) -> dict[str, object]:
    return ok(client.post(at, files=[("file", file) for file in files]), 202)


def test_an_upload_is_read_by_the_workers_found_and_gone_when_it_is_deleted(api: Api, client: TestClient) -> None:
    text = b"# Tea\n\nThe kettle boils at four.\n"
    sent = client.post(FILES, files=[("file", ("../../etc/tea.md", text)), ("file", ("copy.md", text))])
    first, second = ok(sent, 202)["files"]
    assert (first["filename"], first["status"], second["filename"]) == ("tea.md", "pending", "copy.md")
    assert first["path"].startswith("upload:")
    folder = uploads.folder(api.kb.path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    early = ok(client.get("/v1/projects/handbook/search?query=kettle"))
    assert (early["hits"], early["notes"]) == ([], ["2 files still wait to be read"])
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in kept(api)} == {0o600}
    with api.kb.drain("handbook", progress=False) as drain:
        assert drain.run().ready == 1
    shown = ok(client.get(second["link"]))
    assert (shown["status"], shown["duplicate_of"], shown["names"]) == ("ready", first["id"], [first["path"]])
    page = ok(client.get(f"{second['link']}/passages"))
    assert [row["text"] for row in page["items"]] == ["# Tea\n\nThe kettle boils at four."]
    assert ok(client.get(f"{first['link']}/text"))["text"] == page["items"][0]["text"]
    hit = ok(client.post("/v1/projects/handbook/search", json={"query": "kettle"}))["hits"][0]
    assert (hit["file"], hit["path"], hit["link"]) == ("tea.md", first["path"], None)
    assert ok(client.post(f"{first['link']}/retry"), 202)["status"] == "ready"
    for row in (first, second):
        assert str(api.kb.path.parent) not in json.dumps([row, hit, shown])
        assert client.delete(row["link"]).status_code == 204
    assert kept(api) == []
    assert client.get(first["link"]).status_code == 404


def test_what_no_reader_exists_for_is_said_and_not_kept(api: Api, client: TestClient) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(64)
    sent = send(client, ("photo.png", png))
    assert (sent["files"], [each["filename"] for each in sent["skipped"]]) == ([], ["photo.png"])
    assert kept(api) == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([("file", ("small.txt", b"fits")), ("file", ("large.txt", bytes(2**20 + 1)))], 413, "large.txt: is larger"),
        ([("file", (f"{n}.txt", b"text")) for n in range(101)], 413, "more than 100 files"),
        ([("photo", ("x.txt", b"text"))], 422, "part 'photo'"),
    ],
)
def test_of_a_request_that_is_refused_nothing_is_kept(
    api: Api, client: TestClient, body: list[tuple[str, tuple[str, bytes]]], status: int, said: str
) -> None:
    refused = client.post(FILES, files=body)
    assert refused.status_code == status
    assert said in refused.json()["detail"]
    assert kept(api) == []
    assert ok(client.get(FILES))["items"] == []


def test_what_is_refused_is_deleted_while_others_are_answered(
    api: Api, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, held_up = scratch.remove, list[bool]()

    def removed(path: Path) -> None:
        held_up.append(asyncio._get_running_loop() is not None)
        remove(path)

    monkeypatch.setattr(scratch, "remove", removed)
    files = [("file", ("small.txt", b"fits")), ("file", ("large.txt", bytes(2**20 + 1)))]
    assert client.post(FILES, files=files).status_code == 413
    assert held_up == [False, False]
    assert kept(api) == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"x"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"no form"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nhalf'),
    ],
)
def test_a_body_that_is_no_form_or_cut_off_is_refused(
    api: Api, client: TestClient, content_type: str, body: bytes
) -> None:
    refused = client.post(FILES, content=body, headers={"content-type": content_type})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("the body")
    assert kept(api) == []


def test_a_receiver_that_was_killed_leaves_nothing_that_counts(api: Api, client: TestClient) -> None:
    folder = uploads.made_folder(api.kb.path)
    half = folder / f".{api.kb.path.name}.999999-00000000-1-{scratch._system()}.scratch"
    unregistered = folder / "01a21fa2-fa4e-778c-ac9d-33ebc2bb64e3.txt"
    for path in (half, unregistered):
        path.write_bytes(b"bytes of nobody")
    row = send(client, ("stays.txt", b"bytes of a file"))["files"][0]
    assert ok(client.get(FILES))["items"] == [{key: row[key] for key in row.keys() - {"link"}}]
    api.kb.maintain()
    assert len(kept(api)) == 1
    assert client.delete(row["link"]).status_code == 204


def test_after_a_restore_uploads_stay_as_long_as_what_was_replaced(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "old.db") as kb:
        api = Api(kb)
        kb.projects.create("handbook")
        kb.backup(tmp_path / "copy.db")
        send(api.everyone, ("late.txt", b"sent after the backup"))
        kb.restore(tmp_path / "copy.db")
        kb.maintain()
        assert len(kept(api)) == 1
        (replaced,) = tmp_path.glob("old.db.before-restore")
        replaced.unlink()
        kb.maintain()
        assert kept(api) == []


def test_neither_a_scan_nor_prune_touches_uploads(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "in.db") as kb:
        api = Api(kb)
        kb.projects.create("handbook")
        send(api.everyone, ("sent.txt", b"sent over the network"), ("other.txt", b"sent, too"))
        (tmp_path / "copy.txt").write_bytes(b"sent over the network")
        dry = kb.ingest("another", tmp_path, dry_run=True)
        assert dry.ingested == 1
        upload, _ = uploads.folder(kb.path).iterdir()
        for path in (upload.parent, upload):
            assert kb.ingest("another", path, dry_run=True).ingested == 0
        for path in uploads.folder(kb.path).iterdir():
            path.unlink()
        report = kb.ingest("handbook", tmp_path, prune=True, dry_run=True)
        assert (report.removed, report.duplicates, report.ingested) == (0, 1, 0)


def test_an_upload_whose_bytes_are_gone_fails_and_says_so(api: Api, client: TestClient) -> None:
    row = send(client, ("gone.txt", b"soon gone"))["files"][0]
    for name in kept(api):
        (uploads.folder(api.kb.path) / name).unlink()
    with api.kb.drain("handbook", progress=False) as drain:
        drain.run()
    shown = ok(client.get(row["link"]))
    assert (shown["status"], shown["error_code"]) == ("failed", "unreadable")
    assert "upload it again" in shown["error_message"]
    assert ok(client.get(FILES, params={"status": "failed"}))["items"][0]["id"] == row["id"]
    assert ok(client.post(f"{row['link']}/retry"), 202)["status"] == "pending"
    assert ok(client.post(f"{row['link']}/retry"), 202)["status"] == "pending"
    assert client.delete(row["link"]).status_code == 204


def test_deleting_a_project_takes_its_uploads_along(api: Api, client: TestClient) -> None:
    ok(client.post("/v1/projects", json={"name": "brief"}), 201)
    send(client, ("a.txt", b"one"), ("b.txt", b"two"), at="/v1/projects/brief/files")
    assert len(kept(api)) == 2
    ok(client.delete("/v1/projects/brief"))
    assert kept(api) == []


def test_erasing_leaves_no_byte_of_an_upload(tmp_path: Path) -> None:
    canary = b"the canary sings at dawn"
    with Knowlex(tmp_path / "erased.db") as kb:
        api = Api(kb)
        kb.projects.create("handbook")
        rows = send(api.everyone, ("a.txt", canary), ("b.txt", canary))["files"]
        erased = kb.erase(rows[0]["id"])
        assert erased.clean
        assert sum(uploads.folder(kb.path).name in place.place for place in erased.places) == 2
    left = [path for path in tmp_path.rglob("*") if path.is_file() and canary in path.read_bytes()]
    assert left == []


def test_paths_of_the_server_are_forbidden_unless_a_setting_names_their_folder(
    client: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    for path in (str(tmp_path), "/", "relative"):
        assert client.post("/v1/projects/handbook/ingest", json={"paths": [path]}).status_code == 403


def test_paths_of_the_server_are_queued_for_the_workers(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.md", "two")):
        (docs / name).write_text(text)
    (docs / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with Knowlex(tmp_path / "roots.db", ingest_roots=[str(tmp_path)]) as kb:
        client = Api(kb).everyone
        kb.projects.create("handbook")
        send(client, ("sent.txt", b"sent by somebody"))
        asked = {"paths": [str(docs)]}
        found = ok(client.post("/v1/projects/handbook/ingest", json=asked), 202)
        assert found == {"queued": 2, "duplicate": 1, "skipped": 1, "unchanged": 0, "moved": 0, "failed": 0}
        assert [row["status"] for row in ok(client.get(FILES))["items"]] == ["pending"] * 4
        (upload,) = uploads.folder(kb.path).iterdir()
        for path, queued in ((tmp_path, 2), (upload.parent, 0), (upload, 0)):
            found = ok(client.post("/v1/projects/handbook/ingest", json={"paths": [str(path)]}), 202)
            assert found["queued"] == queued
        assert len(ok(client.get(FILES))["items"]) == 4


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], ""),
        ([("Alpha beta.", 0, 0), ("beta. Gamma", 6, 0)], "Alpha beta. Gamma"),
        ([("Alpha", 0, 0), ("Gamma", 20, 0)], "Alpha\nGamma"),
        ([("head\nrow 1", 0, 0), ("head\nrow 2", 11, 5)], "head\nrow 1\nrow 2"),
        ([("all of it", 0, 0), ("of", 4, 0), ("end", 9, 0)], "all of itend"),
    ],
)
def test_passages_are_put_together_where_they_overlap(parts: list[tuple[str, int, int]], text: str) -> None:
    made = [
        Chunk(n, "", 0, n, content, 1, start, start + len(content) - repeated, None, None, "", "", repeated)
        for n, (content, start, repeated) in enumerate(parts)
    ]
    assert joined(made) == text


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("tea.md", "tea.md"),
        ("../../etc/passwd", "passwd"),
        ("/abs/olute.txt", "olute.txt"),
        ("C:\\fakepath\\tea.md", "tea.md"),
        ("a\0b\n.txt", "ab.txt"),
        ("\u202etxt.exe", "txt.exe"),
        ("..", "upload"),
        ("", "upload"),
        ("dir/", "upload"),
        ("CON.txt", "_CON.txt"),
        ("nul", "_nul"),
        ("tea.md. . ", "tea.md"),
        ("ü" * 200 + ".md", "ü" * 126 + ".md"),
        ("." + "x" * 300, "." + "x" * 254),
    ],
)
def test_a_name_is_safe_and_still_the_clients(given: str, name: str) -> None:
    assert client_name(given) == name


@given(st.text())
def test_no_name_leads_anywhere(given: str) -> None:
    name = client_name(given)
    assert 0 < len(name.encode()) <= 255
    assert not set(name) & set("/\\\0\n\r")
    assert name not in (".", "..")


# --- events -----------------------------------------------------------------------------------------


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """The events of a stream, by name; comments are passed over."""
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.removeprefix("data:"))


def test_what_becomes_of_files_is_told_until_none_waits(api: Api, client: TestClient) -> None:
    row = send(client, ("told.txt", b"It is told how far I am."))["files"][0]

    def work() -> None:
        with api.kb.drain("handbook", progress=False) as drain:
            drain.run()

    working = threading.Thread(target=work)
    told: list[tuple[str, dict[str, object]]] = []
    with client.stream("GET", "/v1/projects/handbook/events", params={"until_done": True}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for event in events(stream.iter_lines()):
            if not told:
                working.start()
            told.append(event)
    working.join()
    assert told[0] == ("status", {"pending": 1, "processing": 0, "ready": 0, "failed": 0})
    assert told[-1] == ("done", {"pending": 0, "processing": 0, "ready": 1, "failed": 0})
    assert ("file", row["id"], "ready") in [(name, data.get("id"), data.get("status")) for name, data in told]
    assert client.delete(row["link"]).status_code == 204


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(api: Api, client: TestClient) -> None:
    rows = send(client, ("seen.txt", b"seen before"), ("new.txt", b"not seen yet"))["files"]
    first = ok(client.get(rows[0]["link"]))["updated_at"]
    told = []
    with client.stream("GET", f"{FILES[:-5]}events", headers={"last-event-id": first}) as stream:
        for name, data in events(stream.iter_lines()):
            if name == "status":
                break
            told.append(data["id"])
    assert rows[1]["id"] in told
    for row in rows:
        assert client.delete(row["link"]).status_code == 204


def test_more_changes_than_are_told_at_a_time_are_all_told(
    api: Api, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowlex.server.routes.events.AT_ONCE", 2)
    monkeypatch.setattr("knowlex.server.routes.events.LOOK_EVERY_S", 0)
    rows = send(client, *((f"{n}.txt", f"number {n}".encode()) for n in range(7)))["files"]
    told: set[object] = set()
    with client.stream("GET", f"{FILES[:-5]}events", headers={"last-event-id": "2020-01-01T00:00:00Z"}) as stream:
        for name, data in events(stream.iter_lines()):
            told |= {data["id"]} if name == "file" else set()
            if len(told) == len(rows):
                break
    assert told == {row["id"] for row in rows}
    for row in rows:
        assert client.delete(row["link"]).status_code == 204


def test_a_quiet_stream_is_kept_open_by_comments(api: Api, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    with client.stream("GET", f"{FILES[:-5]}events") as stream:
        assert next(line for line in stream.iter_lines() if line.startswith(":")) == ": ping"


def test_a_stream_begins_behind_a_time_or_not_at_all(client: TestClient) -> None:
    answer = client.get(f"{FILES[:-5]}events", headers={"last-event-id": "zzz"})
    assert answer.status_code == 422
    assert "last-event-id" in answer.json()["detail"]


def test_a_stream_ends_with_its_project(api: Api, client: TestClient) -> None:
    ok(client.post("/v1/projects", json={"name": "short-lived"}), 201)
    with client.stream("GET", "/v1/projects/short-lived/events") as stream:
        lines = stream.iter_lines()
        assert next(events(lines))[0] == "status"
        ok(client.delete("/v1/projects/short-lived"))
        assert list(events(lines)) == []


def test_a_stream_ends_with_its_token(api: Api, client: TestClient) -> None:
    ok(client.post("/v1/projects", json={"name": "followed"}), 201)
    made = api.kb.tokens.create(["followed"])
    headers = {"authorization": f"Bearer {made.token}"}
    with client.stream("GET", "/v1/projects/followed/events", headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(events(lines))[0] == "status"
        api.kb.tokens.revoke(made.id)
        assert list(events(lines)) == []


def test_a_stream_of_what_is_not_to_be_seen_does_not_begin(api: Api, client: TestClient) -> None:
    ok(client.post("/v1/projects", json={"name": "another"}), 201)
    bound = api.bound("another")
    hidden, missing = (bound.get(f"/v1/projects/{name}/events") for name in ("handbook", "handbooks"))
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert hidden.json()["detail"].replace("handbook", "handbooks") == missing.json()["detail"]


def test_a_client_that_goes_away_is_no_matter(api: Api) -> None:
    """A real server and a real connection, which ends in the middle of a stream."""
    server = uvicorn.Server(uvicorn.Config(api.app, log_config=None, lifespan="off"))
    token = f"Bearer {api.kb.tokens.create().token}"
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        for _ in range(3):
            with socket.create_connection(listener.getsockname()) as connection:
                asked = (
                    f"GET /v1/projects/handbook/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n"
                )
                connection.sendall(asked.encode())
                got = b""
                while b"event: status" not in got:
                    got += connection.recv(65_536)
        while server.server_state.tasks:
            time.sleep(0.05)  # each look notices that nobody listens any more
    finally:
        server.should_exit = True
        thread.join()
    assert thread.is_alive() is False


def test_what_failed_says_so_with_a_remedy_that_its_sender_has(api: Api, client: TestClient, sample_data: Path) -> None:
    encrypted = (sample_data / "bad" / "encrypted.pdf").read_bytes()
    [row] = send(client, ("encrypted.pdf", encrypted))["files"]
    waiting = ok(client.get(f"{row['link']}/text"))
    assert (waiting["text"], waiting["status"], waiting["error_message"]) == ("", "pending", None)
    with api.kb.drain("handbook", progress=False) as drain:
        drain.run()
    read = ok(client.get(f"{row['link']}/text"))
    assert (read["text"], read["status"]) == ("", "failed")
    why = "encrypted: a password is needed: give an unprotected copy, or have the owner run knowlex retry with --pdf-"
    assert read["error_message"].startswith(why)
    assert ok(client.get(row["link"]))["error_message"].startswith(why)
    [listed] = [one for one in ok(client.get(FILES))["items"] if one["id"] == row["id"]]
    assert listed["error_message"].startswith(why)
    since = {"last-event-id": row_time(client, row["link"])}
    assert why in client.get("/v1/projects/handbook/events?until_done=true", headers=since).text
    assert client.delete(row["link"]).status_code == 204


def row_time(client: TestClient, link: str) -> str:
    return ok(client.get(link))["updated_at"]


def test_a_file_that_is_not_there_is_told_with_the_route_that_lists_files(api: Api, client: TestClient) -> None:
    at = f"/v1/projects/{api.kb.project('handbook').id}/files"
    for method, path in (("GET", ""), ("GET", "/text"), ("GET", "/passages"), ("POST", "/retry"), ("DELETE", "")):
        answer = client.request(method, f"{FILES}/x{path}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"file x: not found in this project; GET {at} lists those there are"

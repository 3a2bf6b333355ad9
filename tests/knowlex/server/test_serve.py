"""`knowlex serve` as a process: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from faults import storm
from serve_process import PATIENCE_S, running

from knowlex import Knowlex
from knowlex.cli.door import Door
from knowlex.cli.serve import _note_waiting
from storage import files, projects
from storage.files import Seen
from storage.fingerprint import Fingerprint


def wait_for(what: Any) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < give_up_at, "it did not come to pass"
        time.sleep(0.02)


def test_a_server_takes_files_answers_by_them_and_ends_with_nothing_in_hand(tmp_path: Path) -> None:
    database = tmp_path / "knowlex.db"
    with (
        running(database, "--log-format", "json") as server,
        httpx2.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        assert client.post("/v1/projects", json={"name": "p"}).status_code == 201
        ferry = "# Ferries\n\nThe first boat to the island leaves at nine.\n"
        assert client.post("/v1/projects/p/files", files={"file": ("ferry.md", ferry)}).status_code == 202
        wait_for(lambda: client.get("/v1/projects/p/files").json()["items"][0]["status"] == "ready")
        wait_for(lambda: client.get("/readyz").status_code == 200)
        found = client.post("/v1/projects/p/search", json={"query": "When does the first boat go?"}).json()
        assert found["legs"]["vector"] | {"ms": 0} == {"returned": 1, "ms": 0, "degraded": None}
        assert [hit["file"] for hit in found["hits"]] == ["ferry.md"]
        metrics = client.get("/metrics").text
        for sample in (
            'knowlex_files{status="ready"} 1.0',
            'knowlex_requests_total{method="POST",route="/v1/projects/{project}/search",status="200"} 1.0',
            'knowlex_search_leg_seconds_count{leg="vector"} 1.0',
            "knowlex_queue_files 0.0",
        ):
            assert sample in metrics
        more = [("file", (f"{number}.md", f"# {number}\n\n" + f"Boat {number} leaves. " * 300)) for number in range(60)]
        assert client.post("/v1/projects/p/files", files=more).status_code == 202
        wait_for(lambda: storm.holders(database) != [])
        with client.stream("GET", "/v1/projects/p/events") as events:  # which has no end of its own
            assert events.status_code == 200
            code, out, err = server.end()
    assert (code, out) == (0, b"")
    assert storm.holders(database) == []
    events_told = {json.loads(line)["event"] for line in err.splitlines()}
    assert {"request answered", "run started", "run ended", "file processed"} <= events_told
    assert "request failed" not in events_told
    with Knowlex(database) as kb:
        assert kb.verify() == []


def test_two_cannot_listen_at_one_port(tmp_path: Path, knowlex: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = knowlex("serve", "--port", port, "--db", tmp_path / "knowlex.db")
    assert answer.code == 4
    assert answer.out == ""
    assert f"port {port}: another program listens there" in answer.err


@pytest.mark.row(22)
@pytest.mark.parametrize("options", [("--host", "0.0.0.0"), ("--allowed-host", "search.example.org")])
def test_nothing_is_served_beyond_this_machine_without_a_token(
    tmp_path: Path, knowlex: Any, options: tuple[str, ...]
) -> None:
    for made in (False, True):
        if made:
            Knowlex(tmp_path / "knowlex.db").projects.create("p")
        answer = knowlex("serve", "--port", "0", "--db", tmp_path / "knowlex.db", *options)
        assert answer.code == 4
        assert "knowlex token create" in answer.err
        assert (tmp_path / "knowlex.db").exists() is made


def test_what_waits_at_the_end_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Knowlex(tmp_path / "knowlex.db") as kb:
        kb.projects.create("p")
        _note_waiting(Door(), kb)
        assert capsys.readouterr().err == ""
        seen = Seen(b"/a.txt", Fingerprint(1, 1, 1, 1), "0" * 64, "text/plain")
        versions = kb.engine.job().recipe
        with kb.database.write() as db:
            pk = projects.find(db, "p").pk
            files.register(db, pk, seen, versions(db, pk).versions, scanned_ns=10**18)
        _note_waiting(Door(), kb)
    assert capsys.readouterr().err == "stopped: 1 file waits; run the same command to go on\n"


def test_what_cannot_be_listened_at_is_named(tmp_path: Path, knowlex: Any) -> None:
    database = tmp_path / "knowlex.db"
    with Knowlex(database) as kb:
        kb.tokens.create()
    answer = knowlex("serve", "--host", "192.0.2.1", "--db", database)
    assert answer.code == 4
    assert "host 192.0.2.1: cannot be listened at" in answer.err

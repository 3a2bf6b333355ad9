"""Row 28 for the server: of what anybody sent, named or asked, nothing is in its log or in its 500s."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.table import Figure
from served import Served, serving

from storage.event_log import Event

KINDS = ("project", "query", "memory", "file", "text", "header", "path", "key", "origin", "host")
CANARIES = [f"{kind}canary{number:02}zq" for kind in KINDS for number in range(20)]


def of(kind: str) -> Iterator[str]:
    """Yield the canaries of a kind, one after the other."""
    yield from (canary for canary in CANARIES if canary.startswith(kind))


def all_asked(served: Served) -> list[Any]:
    """Send every canary where its kind belongs, well and badly; return the answers."""
    token = {"authorization": f"Bearer {served.tokens['all']}"}
    client, answers = served.client, []

    def send(method: str, url: str, headers: dict[str, str] | None = None, **body: Any) -> None:
        answers.append(client.request(method, url, headers=token if headers is None else headers, **body))

    mine = f"/v1/projects/{served.mine['projects']}"
    for project, query, memory, file, text in zip(*map(of, KINDS[:5]), strict=True):
        send("POST", "/v1/projects", json={"name": project, query: 1})
        send("GET", f"/v1/projects/{project}")
        send("POST", f"{mine}/search", json={"query": query, "mode": "text"})
        send("POST", f"{mine}/search", json={"query": query, "filters": f"{query} = ="})
        send("GET", f"{mine}/search", params={"query": query, "mode": query})
        send("POST", f"{mine}/memories", json={"title": memory, "content": memory, "importance": 99})
        send("POST", f"{mine}/memories", json={"title": memory, "content": memory})
        send("POST", f"{mine}/files", files={"file": (f"{file}.md", f"# {text}")})
        send("POST", f"{mine}/files", files={file: (f"{file}.pdf", text)})
    for header, path, key, origin, host in zip(*map(of, KINDS[5:]), strict=True):
        send("GET", "/v1/projects", {"authorization": f"Bearer {header}"})
        send("GET", f"/{path}", token | {"x-header": header})
        send("PUT", f"/v1/settings/{key}", json={"value": key})
        send("PUT", f"/v1/settings/{key}", content=f'{{"{key}"')
        send("GET", "/v1/projects", token | {"origin": f"http://{origin}"})
        send("GET", "/v1/projects", token | {"host": host})
        send("GET", f"/v1/broken/{path}", params={"query": key})
    return answers


@pytest.mark.proof
@pytest.mark.row(28)
def test_nothing_that_anybody_sent_is_in_the_log_or_in_a_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, figure: Figure
) -> None:
    home = tmp_path / "homecanary"
    home.mkdir()
    with serving(home) as served, caplog.at_level(logging.DEBUG, "knowlex"):

        @served.app.get("/v1/broken/{path}", include_in_schema=False)
        def broken(path: str, query: str) -> None:
            raise RuntimeError(f"{home}: {path}, {query}")

        answers = all_asked(served)
    told = [str(record.msg) for record in caplog.records if isinstance(record.msg, Event)]
    faults = [answer for answer in answers if answer.status_code >= 500]
    assert len([line for line in told if line.startswith("request answered")]) == len(answers)
    assert len(faults) == 20
    shown = "\n".join([*told, *(answer.text for answer in faults)])
    found = [canary for canary in (*CANARIES, "homecanary", *served.tokens.values()) if canary in shown]
    figure(
        28,
        f"{len(CANARIES)} words in {len(answers)} requests: {len(found)} in the log or in {len(faults)} 500s",
        not found,
    )

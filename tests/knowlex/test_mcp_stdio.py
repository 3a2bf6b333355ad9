"""`knowlex mcp`, started by the official client and by the inspector, as an agent's program would."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters, stdio_client
from mcp_client import connected

from knowlex import Knowlex
from knowlex.engine import Engine
from storage.errors import TransientError

PROGRAM = "import sys; from knowlex.cli import main; sys.exit(main(sys.argv[1:]))"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with vectors: of one memory, in "p"."""
    folder = tmp_path_factory.mktemp("stdio")
    with Knowlex(folder / "knowlex.db") as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Ferries", "The first boat leaves at nine. \x1b[2J canary-of-the-text")
        kb.search("p", "boat", sources=["memories"], mode="vector")
    return folder / "knowlex.db"


def started(path: Path, *arguments: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, "--db", str(path), "mcp", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def test_the_client_talks_to_a_process(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        command = StdioServerParameters(
            command=sys.executable,
            args=["-c", PROGRAM, "--db", str(path), "--log-format", "json", "-vv", "mcp", "--project", "p"],
            env=dict(os.environ),
        )
        with connected(stdio_client(command, errlog=stderr)) as agent:
            found = agent.typed("search", query="When does the ferry go?", sources=["memories"])
            assert [hit["source"] for hit in found["hits"]] == ["memory"]
            assert found["hits"][0]["text"].startswith("The first boat leaves at nine. <U+001B>[2J")
            assert "not found" in agent.error("search", project="canary-of-the-call", query="x")
            kept = agent.typed("remember", title="Kiosk", content="Tickets are sold on board.")
    with Knowlex(path) as kb:
        assert kb.memories.get(kept["id"]).title == "Kiosk"
        kb.memories.delete(kept["id"])
    for line in log.read_text().splitlines():
        assert "event" in json.loads(line)
        assert "canary" not in line


def test_the_first_answer_needs_no_model(path: Path) -> None:
    """What takes seconds to import begins behind it; standard output is the protocol's alone."""
    heavy = "{'torch', 'openvino', 'fastapi', 'tokenizers', 'numpy'}"
    program = (
        "import sys, os\n"
        "from knowlex.cli import main\n"
        "from mcp.server.mcpserver.server import MCPServer\n"
        "print('noise before the protocol', file=sys.stderr)\n"
        "answered = MCPServer.list_tools\n"
        "async def list_tools(self):\n"
        f"    print('loaded:', sorted({heavy} & set(sys.modules)), file=sys.stderr, flush=True)\n"
        "    print('a stray print')\n"
        "    return await answered(self)\n"
        "MCPServer.list_tools = list_tools\n"
        "from knowlex.mcp_server import stdio\n"
        "stdio._load = lambda door: None\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = started(path, program=program)
    for message in (INITIALIZE, INITIALIZED, LIST):
        told(process, message)
    assert process.stdout is not None
    answers = [json.loads(process.stdout.readline()) for _ in range(2)]
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "knowlex"
    assert "loaded: []" in err
    assert "a stray print" in err


def test_a_request_that_cannot_be_read_is_answered(path: Path) -> None:
    """A text that a program cut within a character is no valid JSON; who sent it must not wait for ever."""
    process = started(path)
    assert process.stdin is not None
    assert process.stdout is not None
    for message in (INITIALIZE, INITIALIZED):
        told(process, message)
    call = {"name": "search", "arguments": {"query": "boats \ud83d", "project": "p"}}
    told(process, {"jsonrpc": "2.0", "id": "cut", "method": "tools/call", "params": call})
    told(process, {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": [1]})
    process.stdin.write("no JSON\n")
    told(process, {"jsonrpc": "2.0", "id": 8, "result": 5})
    told(process, LIST)
    answers = [json.loads(process.stdout.readline()) for _ in range(4)]
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert sorted(str(answer["id"]) for answer in answers) == ["1", "2", "7", "cut"]
    refused = {answer["id"]: answer["error"] for answer in answers if "error" in answer}
    assert {id: error["code"] for id, error in refused.items()} == {"cut": -32700, 7: -32600}
    assert "half of a character" in refused["cut"]["message"]
    assert "is none of JSON-RPC" in refused[7]["message"]


def test_the_end_of_standard_input_ends_it_while_the_model_is_loaded(path: Path) -> None:
    process = started(path)
    for message in (INITIALIZE, INITIALIZED, LIST):
        told(process, message)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("ended", [True, False])
def test_of_a_model_that_cannot_be_loaded_any_more_nothing_is_said(
    path: Path, ended: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At its end a program closes the database under whatever loads the model."""
    go_on = threading.Event()

    def fail_when_told(engine: Engine, live: Any) -> Any:
        assert go_on.wait(60)
        raise RuntimeError("cannot start a thread at the end of the interpreter")

    monkeypatch.setattr(Engine, "_load", fail_when_told)
    with Knowlex(path) as kb:
        with pytest.raises(TransientError):
            kb.load_model()
        loading = next(thread for thread in threading.enumerate() if thread.name == "model")
        if ended:
            kb.close()
        go_on.set()
        loading.join(60)
    assert ("model not loaded" in caplog.text) is not ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(path: Path, number: signal.Signals) -> None:
    process = started(path)
    told(process, INITIALIZE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert process.stderr is not None
    assert process.stderr.read() == ""
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.timeout(60)
def test_a_signal_ends_it_while_a_write_waits_for_the_lock(path: Path) -> None:
    process = started(path)
    for message in (INITIALIZE, INITIALIZED):
        told(process, message)
    remember = {"name": "remember", "arguments": {"project": "p", "title": "t", "content": "c"}}
    with Knowlex(path) as kb, kb.database.write():
        told(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": remember})
        told(process, {**LIST, "id": 3})
        assert process.stdout is not None
        while '"id":3' not in process.stdout.readline().replace(" ", ""):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM  # the write would wait for 30 s
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def test_what_is_missing_is_said_at_once_and_by_the_exit_code(tmp_path: Path, path: Path) -> None:
    for place, arguments, says in (
        (tmp_path / "none.db", (), f"knowlex: {tmp_path / 'none.db'}: no such database"),
        (path, ("--project", "attic"), "knowlex: no project named attic"),
    ):
        process = started(place, *arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 3
        assert err.startswith(says)
        assert err.count("\n") == 1


def test_what_is_there_by_the_end_was_not_missing(tmp_path: Path) -> None:
    process = started(tmp_path / "late.db", "--project", "p")
    assert process.stderr is not None
    assert "no such database" in process.stderr.readline()
    with Knowlex(tmp_path / "late.db") as kb:
        kb.projects.create("p")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_at_a_terminal_what_is_missing_comes_before_the_waiting(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--db", str(tmp_path / "none.db"), "mcp"],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        with process.stderr as told:
            assert told.readline().startswith(f"knowlex: {tmp_path / 'none.db'}: no such database")
            assert told.readline().startswith("waiting for an agent's program")
            os.write(ours, b"\x04")
            assert process.wait(timeout=60) == 3
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_damaged_database_is_told_and_keeps_no_client_from_connecting(tmp_path: Path) -> None:
    (tmp_path / "k.db").write_bytes(b"no database at all, but some text" * 100)
    process = started(tmp_path / "k.db")
    told(process, INITIALIZE)
    assert process.stdout is not None
    assert '"result"' in process.stdout.readline()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert err.startswith(f"knowlex: {tmp_path / 'k.db'}: ")


def test_without_the_library_the_way_to_install_it_is_told(path: Path) -> None:
    program = f"import sys; sys.modules['mcp'] = None\n{PROGRAM}"
    process = started(path, program=program)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "pip install -c configs/constraints.txt '.[server]'" in err


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_inspector_lists_and_calls_the_tools(path: Path) -> None:
    """`@modelcontextprotocol/inspector` is another implementation, in another language."""
    if shutil.which("npx") is None:
        pytest.skip("needs npx, of Node.js 20 or newer, to run @modelcontextprotocol/inspector")

    def inspected(*arguments: str) -> Any:
        command = ["npx", "--yes", "@modelcontextprotocol/inspector", "--cli", sys.executable, "-m", "knowlex"]
        answer = subprocess.run(
            [*command, "mcp", "--project", "p", *arguments],
            env={**os.environ, "KNOWLEX_DB": str(path)},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    assert len(inspected("--method", "tools/list")["tools"]) == 8
    call = ("--method", "tools/call", "--tool-name", "recall", "--tool-arg", "query=boat")
    assert [one["title"] for one in inspected(*call)["structuredContent"]["memories"]] == ["Ferries"]
    assert inspected("--method", "resources/list")["resources"][0]["uri"] == "knowlex://projects"

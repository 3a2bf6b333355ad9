"""All that is done with a database, one after the other, by the Python object and by the command line.

As a program: `python -m faults.errands DATABASE FOLDER`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import httpx2
from second_model import cache_with_the_default_model, second_model

from knowlex import Knowlex
from knowlex.cli import cli
from knowlex.cli import main as command

QUESTION = "How many days of paid leave do I get?"
SAMPLES = Path(__file__).parents[1] / "data"


def documents(folder: Path) -> Path:
    """Make a folder of documents; whoever puts the database into it has it met by every walker."""
    shutil.copytree(SAMPLES / "demo", folder)
    return folder


def run(database: Path, folder: Path) -> None:
    """Do it all; every call succeeds. folder: of documents; the database may lie in it."""
    aside = folder.with_name(folder.name + ".aside")
    aside.mkdir()
    _old_schema(aside / "old.db")
    with Knowlex(database) as kb:
        _fill(kb, folder, aside)
        _read(kb)
        _keep(kb, aside / "copy.db")
    _damage(aside / "damaged.db", aside / "copy.db")
    _command(database, folder, aside)


def _fill(kb: Knowlex, folder: Path, aside: Path) -> None:
    assert kb.ingest("p", folder, folder, dry_run=True).failed == 0
    assert kb.ingest("p", folder).ingested == 10
    assert kb.ingest("p", folder, prune=True).unchanged == 10
    kb.memories.add("p", "Colours", "Red is warm.")
    talk = kb.conversations.create("talk", project="p")
    kb.conversations.add(talk.id, "user", "Hello there.")
    kb.settings["theme"] = "dark"
    lines = list(kb.conversations.export())
    with Knowlex(aside / "other.db") as other:
        other.conversations.load(lines)
    with kb.transaction():
        kb.settings["theme"] = "light"


def _read(kb: Knowlex) -> None:
    for mode in ("text", "vector", "hybrid"):
        assert kb.search("p", QUESTION, mode=mode, sources=("files", "memories", "messages"))
    assert kb.health().checks
    assert kb.stats().files["ready"] == 10
    assert kb.table_sizes()
    assert kb.project_sizes()
    assert kb.projects.list()
    assert kb.verify(deep=True) == []


def _keep(kb: Knowlex, copy: Path) -> None:
    kb.backup(copy)
    kb.delete_file(kb.files("p")[0].id)
    kb.restore(copy)
    assert kb.stats().files["ready"] == 10
    with kb.database.write() as db:
        db.run("DELETE FROM text_stats")  # a drift, so that there is something to repair
    assert kb.repair().left == []
    kb.maintain(vacuum=True)
    assert kb.migrate(1)[0] == 1
    assert kb.migrate()[1]
    kb.erase(kb.memories.list("p").items[0].id)


def _old_schema(path: Path) -> None:
    """Open a database of an older release, which is brought up."""
    shutil.copyfile(SAMPLES / "databases" / "v1.db", path)
    with Knowlex(path) as kb:
        kb.projects.list()


def _damage(path: Path, copy: Path) -> None:
    """Restore over what is no database any more, but for how it begins."""
    path.write_bytes(copy.read_bytes()[:16] + b"no database" * 1000)
    Knowlex(path).restore(copy)


COMMANDS = """
    health
    stats
    verify --deep
    repair
    maintain
    migrate
    work --once
    reembed {model} --config {config}
    reembed sentence-transformers/all-MiniLM-L6-v2 --config {config}
    search p leave
    files p
    file show {file}
    file delete {file}
    retry p
    project create q
    project list
    project show q
    project update q --name r
    project delete r
    memory add p Colours Blue
    memory list p
    memory show {memory}
    memory search p colours
    memory update {memory} --title Tones
    memory delete {memory}
    conversation create talk
    conversation add {talk} Hello
    conversation list
    conversation show {talk}
    conversation show-message {message}
    conversation answers {message}
    conversation thread {message}
    conversation search hello
    conversation update {talk} --title chat
    conversation edit-message {message} Goodbye
    conversation export --output {aside}/talks.jsonl
    conversation import {aside}/talks.jsonl
    conversation delete-message {message}
    conversation delete {talk}
    settings set colour 1
    settings get colour
    settings list
    settings delete colour
    token create --project p
    token list
    serve --port {port}
    mcp --project p
    token revoke {token}
    eval {judged} --mode text
    ingest p {folder}
    backup {aside}/copy.db
    erase --yes p
    restore --yes {aside}/copy.db
"""
"""Every command there is, each of which succeeds after those before it."""


def _command(database: Path, folder: Path, aside: Path) -> None:
    lines = COMMANDS.split("\n")[1:-1]
    missing = [name for name in every_command(cli) if not any(f"{line} ".startswith(f"    {name} ") for line in lines)]
    assert not missing, f"no errand runs {missing}"
    cache = cache_with_the_default_model(aside / "cache")
    config = aside / "cache.toml"
    config.write_text(f"[embedding]\ncache_dir = '{cache}'\n", "utf8")
    with Knowlex(database) as kb:
        secret = kb.tokens.create(write=True).token
        talk = kb.conversations.create("talk", project="p").id
        names = {
            "token": kb.tokens.create().id,
            "folder": folder,
            "judged": SAMPLES / "judged",
            "aside": aside,
            "config": config,
            "model": second_model(aside / "ship", cache),
            "talk": talk,
            "message": kb.conversations.add(talk, "user", "Hello there.").id,
            "memory": kb.memories.add("p", "Colours", "Green is calm.").id,
            "file": kb.files("p")[0].id,
            "port": free_port(),
        }
    for line in lines:
        if line.split()[0] == "serve":
            threading.Thread(target=_ask_and_end, args=(names["port"], secret)).start()
        with _spoken_to() if line.split()[0] == "mcp" else nullcontext():
            assert command(["--db", str(database), *line.format(**names).split()]) == 0, line


def _ask_and_end(port: int, token: str) -> None:
    """Ask a server of this process, once it answers, and end it."""
    try:
        with httpx2.Client(base_url=f"http://localhost:{port}", headers={"authorization": f"Bearer {token}"}) as client:
            give_up_at = time.monotonic() + 60
            while not _answers(client) and time.monotonic() < give_up_at:
                time.sleep(0.05)
            for path in ("/readyz", "/metrics", "/v1/projects", "/v1/projects/p/search?query=leave"):
                client.get(path)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


class _Heard(io.BytesIO):
    """What was said, also after who said it has closed it."""

    def close(self) -> None:
        pass

    def answers(self) -> list[dict[str, Any]]:
        """Return what was said so far."""
        return [json.loads(line) for line in self.getvalue().splitlines()]


@contextmanager
def _spoken_to() -> Generator[None]:
    """Have an agent at standard input, which asks and goes."""
    version = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    asked = [{"name": "search", "arguments": {"query": "leave"}}, {"name": "recall", "arguments": {}}]
    messages = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": version},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        *({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": one} for n, one in enumerate(asked, start=1)),
    ]
    heard, (reading, writing) = _Heard(), os.pipe()
    os.write(writing, "".join(f"{json.dumps(message)}\n" for message in messages).encode())
    threading.Thread(target=_leave_once_answered, args=(heard, writing)).start()
    before = sys.stdin, sys.stdout
    with os.fdopen(reading) as sys.stdin, io.TextIOWrapper(heard) as sys.stdout:
        try:
            yield
        finally:
            sys.stdin, sys.stdout = before
    answers = {answer["id"]: answer for answer in heard.answers() if "id" in answer}
    assert [answers[n]["result"]["isError"] for n in (1, 2)] == [False, False], answers


def _leave_once_answered(heard: _Heard, writing: int) -> None:
    give_up_at = time.monotonic() + 60
    while sum("id" in answer for answer in heard.answers()) < 3 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    os.close(writing)


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def every_command(group: click.Group, within: str = "") -> Iterator[str]:
    """Yield the name of each command of the command line, such as `memory add`."""
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from every_command(one, f"{within}{name} ")
        else:
            yield f"{within}{name}"


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))

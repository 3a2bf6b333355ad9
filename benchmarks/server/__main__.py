"""Ask `knowlex serve` and other servers the same questions at once: answers a second, and how long each takes.

    python -m benchmarks.server [--passages N] [--clients N…] [--seconds S] [--toolkit NAME]… [--ingest]

100,000 passages (or N) of 60 words, with random vectors, as in `benchmarks.filters`; questions of eight words. Each
server stores them, with the vectors given, and is then a process of its own, at its defaults, which clients ask over
HTTP for ten hits: each keeps one connection, and asks its next question when it has its answer.

    knowlex    `knowlex serve`: hybrid; the question is embedded by the model, and passages come with their text
    txtai      its API (`--toolkit txtai`): hybrid, the question embedded by the same model
    chroma     `chroma run` (`--toolkit chroma`): vectors alone, as it has no other leg, and it embeds nothing itself:
               the question's vector is given

ms: of an answer, as its client sees it; the clients share the cores with the server. CPU: of the server and its
children, a question, in ms. errors: answers of another status than 200, or without a hit. memory: resident, of the
server and its children, before the first question and after the last. How much of what is near is found is not asked
here: `benchmarks.search` measures recall. txtai answers one search at a time, behind a lock.
--ingest: a client sends Knowlex a file of 100 passages a second meanwhile, which the same process reads and embeds, so
that CPU is of both.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import psutil

from benchmarks.filters import A_FILE, fill, questions_of, synthetic, texts_of
from benchmarks.peers.__main__ import QUIET
from benchmarks.peers.environments import python_of
from benchmarks.processes import run
from pipeline import embed
from pipeline.model_files import DEFAULT_MODEL, resolve
from storage.database import Database

HERE = Path(__file__).parent
ENVIRONMENTS = {"txtai": "txtai_api", "chroma": "chroma"}
# More than are asked before a question comes again that Knowlex still has the vector of.
QUESTIONS = 10_000
PATIENCE_S = 300.0
WARM_S = 5.0

Request = tuple[str, str, bytes | None]
"""Method, path and body."""


@dataclass(frozen=True)
class Peer:
    """A server that is to be asked. ask: a question and its vector to a request; hits: an answer to their number."""

    command: list[str]
    port: int
    ready: str
    ask: Callable[[str, list[float]], Request]
    hits: Callable[[Any], int]
    environ: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Asked:
    """What clients were answered: milliseconds of each answer, and how many were none."""

    ms: list[float] = field(default_factory=list[float])
    errors: int = 0
    seconds: float = 0.0


def write(count: int, place: Path) -> None:
    """Write texts and vectors of passages to a folder, as `benchmarks.search.asked` reads them."""
    made = list(synthetic(count))
    np.save(place / "vectors.npy", np.concatenate([vectors for _, vectors in made]))
    with (place / "texts.jsonl").open("w", encoding="utf8") as file:
        file.writelines(f"{json.dumps(text)}\n" for texts, _ in made for text in texts)


def knowlex(count: int, place: Path) -> Peer:
    """Store the passages in a database, as if the default model had made their vectors."""
    path = place / "knowlex.db"
    identity = embed.load(embed.EmbedSettings()).identity
    with Database.open(path) as database:
        fill(database, synthetic(count))
        with database.write() as db:
            db.run(
                "UPDATE embedding_models SET name = :name, hash = :hash, pooling = :pooling, precision = :precision",
                name=identity.name,
                hash=identity.hash,
                pooling=identity.pooling,
                precision=identity.precision,
            )
    port = free_port()
    return Peer(
        [sys.executable, "-m", "knowlex", "serve", "--db", str(path), "--port", str(port)],
        port,
        "/readyz",
        lambda text, _: ("POST", "/v1/projects/bench/search", json.dumps({"query": text}).encode()),
        lambda answer: 0 if answer["legs"]["vector"]["degraded"] else len(answer["hits"]),
    )


def txtai(python: str, place: Path) -> Peer:
    """Store the passages in an index of txtai, which its API serves."""
    store, model = place / "txtai", resolve(DEFAULT_MODEL).folder
    run(python, "-E", str(HERE / "with_txtai.py"), str(place), str(store), str(model), **QUIET)
    config = place / "txtai.yml"
    config.write_text(f"path: {store}\nwritable: false\nembeddings:\n  path: {model}\n")
    port = free_port()
    query = "/search?limit=10&query="
    return Peer(
        [python, "-m", "uvicorn", "txtai.api:app", "--port", str(port), "--log-level", "warning"],
        port,
        f"{query}w1",
        lambda text, _: ("GET", query + text.replace(" ", "+"), None),
        len,
        {"CONFIG": str(config)},
    )


def chroma(python: str, place: Path) -> Peer:
    """Store the passages in a collection of Chroma, which `chroma run` serves."""
    store = place / "chroma"
    id = (
        run(python, "-E", str(HERE / "with_chroma.py"), str(place), str(store), **QUIET).output.strip().splitlines()[-1]
    )
    port = free_port()
    path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{id}/query"
    wanted = {"n_results": 10, "include": ["documents", "distances"]}
    return Peer(
        [str(Path(python).parent / "chroma"), "run", "--path", str(store), "--host", "127.0.0.1", "--port", str(port)],
        port,
        "/api/v2/heartbeat",
        lambda _, vector: ("POST", path, json.dumps(wanted | {"query_embeddings": [vector]}).encode()),
        lambda answer: len(answer["ids"][0]),
    )


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(peer: Peer, place: Path) -> Generator[psutil.Process]:
    """Run a server until the block ends. Raises SystemExit where it does not begin to answer."""
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(peer.command, stdout=log, stderr=log, env=os.environ | QUIET | peer.environ)
    try:
        give_up_at = time.monotonic() + PATIENCE_S
        while not _answers(peer):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(
                    f"{' '.join(peer.command)}: does not answer\n{(place / 'server.log').read_text()[-2000:]}"
                )
            time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(peer: Peer) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=30)
    try:
        connection.request("GET", peer.ready)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def asked_by(clients: int, peer: Peer, requests: Iterator[Request], seconds: float) -> Asked:
    """Have clients ask for some seconds, each one question after the other, and none that another one asks."""
    found, lock = Asked(), threading.Lock()
    until = time.monotonic() + seconds

    def client() -> None:
        ms, errors = _asked(peer, requests, until)
        with lock:
            found.ms += ms
            found.errors += errors

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.monotonic() - started
    return found


def _asked(peer: Peer, requests: Iterator[Request], until: float) -> tuple[list[float], int]:
    ms: list[float] = []
    errors = 0
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=60)
    while time.monotonic() < until:
        method, path, body = next(requests)
        started = time.perf_counter()
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            good = answer.status == 200 and peer.hits(json.loads(content)) > 0
        except (OSError, http.client.HTTPException):
            connection.close()
            good = False
        ms.append((time.perf_counter() - started) * 1000)
        errors += not good
    connection.close()
    return ms, errors


def memory_mb(process: psutil.Process) -> float:
    """Return what a process and its children have resident."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20


def _cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    ended = process.cpu_times()
    return sum(one.user + one.system for one in times) + ended.children_user + ended.children_system


@contextlib.contextmanager
def ingesting(peer: Peer, texts: Iterator[tuple[int, str]]) -> Generator[None]:
    """Send a file of some passages a second until the block ends. Raises SystemExit where one is not taken."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send_files, peer, texts, ended)
        try:
            yield
        finally:
            ended.set()
        sending.result()


def _new_texts() -> Iterator[tuple[int, str]]:
    """Yield texts that are all different, and numbers: of equal ones the second is not read."""
    rng = np.random.default_rng(7)
    for number in itertools.count():
        yield number, "\n\n".join(texts_of(rng, A_FILE))


def _send_files(peer: Peer, texts: Iterator[tuple[int, str]], ended: threading.Event) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    while not ended.wait(1.0):
        number, text = next(texts)
        form = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{number}.md"\r\n\r\n{text}\r\n--b--\r\n'
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=60)
        connection.request("POST", "/v1/projects/bench/files", form.encode(), headers)
        answer = connection.getresponse()
        if answer.status != 202:
            raise SystemExit(f"an upload was answered {answer.status}: {answer.read()[:500]!r}")
        connection.close()


def report(name: str, peer: Peer, clients: Sequence[int], seconds: float, place: Path, *, ingest: bool) -> None:
    """Ask a server, and print a line for each number of clients."""
    asked = questions_of(np.random.default_rng(2), QUESTIONS)
    # One round for all runs: a cycle, from which any number of threads may take.
    requests = itertools.cycle([peer.ask(text, vector.tolist()) for text, vector in asked])
    texts = _new_texts()
    with running(peer, place) as process:
        asked_by(1, peer, requests, WARM_S)
        before = memory_mb(process)
        for count in clients:
            cpu_s = _cpu_s(process)
            with ingesting(peer, texts) if ingest else contextlib.nullcontext():
                found = asked_by(count, peer, requests, seconds)
            p50, p95, p99 = np.percentile(found.ms, [50, 95, 99])
            rate, cpu_ms = len(found.ms) / found.seconds, 1000 * (_cpu_s(process) - cpu_s) / len(found.ms)
            line = f"{name:17} {count:7} {rate:10.1f} {p50:8.1f} {p95:8.1f} {p99:8.1f} {cpu_ms:8.1f} {found.errors:7}"
            print(line, flush=True)
        print(f"{name:17} memory {before:,.0f} MB before, {memory_mb(process):,.0f} MB after", flush=True)


def main() -> None:
    """Measure and print a line for each server and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--toolkit", action="append", choices=ENVIRONMENTS, default=[])
    parser.add_argument("--ingest", action="store_true")
    parser.add_argument("--environments", type=Path, default=platformdirs.user_cache_path("knowlex") / "peers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="knowlex-server-") as folder:
        place = Path(folder)
        print(f"{given.passages:,} passages   clients  answers/s   p50 ms   p95 ms   p99 ms   CPU ms  errors")
        own = knowlex(given.passages, place)
        report("knowlex", own, given.clients, given.seconds, place, ingest=False)
        if given.ingest:
            report("knowlex, ingests", own, given.clients, given.seconds, place, ingest=True)
        if given.toolkit:
            write(given.passages, place)
        for name in given.toolkit:
            peer = {"txtai": txtai, "chroma": chroma}[name](
                str(python_of(ENVIRONMENTS[name], given.environments)), place
            )
            report(name, peer, given.clients, given.seconds, place, ingest=False)


if __name__ == "__main__":
    main()

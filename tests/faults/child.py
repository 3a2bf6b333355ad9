"""The command line with a fault planted into its process: `python -m faults.child [OPTIONS] -- ARGUMENTS`.

--at MOMENT=ACTION, as often as wanted. Moments:
    after:storage.queue.claim#2     when a function has returned for the second time
    before:pipeline.ingest.commit   when a function is about to be called (#1 unless told)
    disk:write#120                  before the 120th write; also sync, truncate, delete, any
Actions: kill (SIGKILL to this process), stop (SIGSTOP), full, broken (errors of the disk).
--lease S: leases of S seconds with a heartbeat at a quarter of it. --page N: `reembed` by N passages.
--log FILE: append a line of JSON for each claim and each commit. --mutant NAME: see faults.mutants.

Functions are named by the module that defines them and are called through it (`queue.claim(…)`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from faults import mutants
from faults.vfs import Countdown, WatchedDisk, broken, full

TESTS = Path(__file__).parents[1]


_started: list[subprocess.Popen[bytes]] = []


def start(*options: str, arguments: list[str], **popen: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a child; see `start_module`."""
    return start_module("faults.child", *options, "--", *arguments, **popen)


def start_module(module: str, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
    """Start a child; its output is kept for `communicate` unless told otherwise. `ended` ends it, if nothing else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    _started.append(subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment, **streams))
    return _started[-1]


@contextmanager
def ended() -> Generator[None]:
    """Kill and reap what was started in the block and still runs or stands still at its end."""
    begun = len(_started)
    try:
        yield
    finally:
        for process in _started[begun:]:
            process.kill()  # one that has ended is left alone
            process.communicate()
        del _started[begun:]


def main() -> None:
    """Plant what is asked for, and run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", action="append", default=[])
    parser.add_argument("--lease", type=float)
    parser.add_argument("--page", type=int)
    parser.add_argument("--mutant", action="append", default=[])
    parser.add_argument("--log")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    for name in options.mutant:
        mutants.plant(name)
    if options.log:
        log_work(options.log)
    for moment in options.at:
        plant(moment)
    if options.lease:
        shorten_leases(options.lease)
    if options.page:
        reembedding = importlib.import_module("knowlex.reembedding")
        reembedding.PAGE = reembedding.DROPPED = options.page
    from knowlex.cli import main as knowlex

    sys.argv = ["knowlex", *options.arguments]
    sys.exit(knowlex())


def plant(text: str) -> None:
    """Plant one fault, as `--at` describes it."""
    moment, action = text.rsplit("=", 1)
    where, target = moment.split(":", 1)
    name, _, nth = target.partition("#")
    act = ACTIONS[action]
    if where == "disk":
        _disks.append(WatchedDisk(Countdown(name, int(nth or 1), act)))
    else:
        _around(name, int(nth or 1), act, before=where == "before")


def _around(name: str, nth: int, act: Callable[[], None], *, before: bool) -> None:
    holder_name, attribute = name.rsplit(".", 1)
    holder = _resolved(holder_name)
    original = getattr(holder, attribute)
    calls = 0

    @wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls == nth
        if now and before:
            act()
        result = original(*args, **kwargs)
        if now and not before:
            act()
        return result

    setattr(holder, attribute, counted)


def _resolved(name: str) -> Any:
    """Return a module, or a class in one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, attribute = name.rsplit(".", 1)
        return getattr(importlib.import_module(module), attribute)


def shorten_leases(seconds: float) -> None:
    """Give the runner short leases, which the command line does not offer, and have it look for lost ones as often."""
    from knowlex import drain, ingestion
    from workers import runner

    runner.RECLAIM_EVERY_S = seconds * runner.RECLAIM_EVERY_S / runner.RunnerSettings().lease_s
    for module in (drain, ingestion):
        module.RunnerSettings = partial(module.RunnerSettings, lease_s=seconds, heartbeat_s=seconds / 4)


def log_work(path: str) -> None:
    """Have each claim and each commit told: each a line, however many processes write."""
    from pipeline import ingest
    from storage import queue

    log, claim, commit = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), queue.claim, ingest.commit

    def tell(**values: Any) -> None:
        os.write(log, json.dumps({"at": time.time(), "pid": os.getpid()} | values).encode() + b"\n")

    def claimed(db: Any, owner: str, **more: Any) -> Any:
        claims = claim(db, owner, **more)
        tell(claimed=[one.pk for one in claims], of_all=more["project_pk"] is None)
        return claims

    def committed(database: Any, claim: Any, *arguments: Any, **more: Any) -> Any:
        result = commit(database, claim, *arguments, **more)
        if result.outcome is ingest.Outcome.READY:
            tell(committed=claim.pk, hash=claim.content_hash, attempts=claim.attempts)
        return result

    queue.claim, ingest.commit = claimed, committed


_disks: list[WatchedDisk] = []
"""Kept, as one that nobody holds is taken away again."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


ACTIONS: dict[str, Callable[[], None]] = {"kill": _kill, "stop": _stop, "full": full, "broken": broken}

if __name__ == "__main__":
    main()

"""Run `knowlex ingest` over and over, killing it (or its parsers) at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from storage.database import Database
from storage.errors import KnowlexError


@dataclass(slots=True)
class Storm:
    """What a storm did: kills, and how many of them hit work in progress."""

    kills: int = 0
    hits: int = 0


def ingest(database: Path, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start an ingestion in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "knowlex", "--db", str(database), "ingest", "storm", str(folder), "--json", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def kill_ingestion(database: Path, folder: Path, kills: int, rng: random.Random, span_s: float) -> Storm:
    """Kill the ingesting process `kills` times, each at a random moment of its work."""
    storm = Storm()
    while storm.kills < kills:
        process = ingest(database, folder)
        children = _wait_for_work(database, process)
        time.sleep(rng.uniform(0, span_s))
        children |= _descendants(process.pid)
        finished = process.poll() is not None
        process.kill()
        process.communicate()
        storm.kills += 1
        storm.hits += not finished and _leased(database) > 0
        assert_gone(children)
        if finished:
            break
    return storm


def kill_parsers(database: Path, folder: Path, kills: int, rng: random.Random, span_s: float) -> Storm:
    """Kill parser children of one ingestion after another; the ingestion itself goes on."""
    storm = Storm()
    process = ingest(database, folder)
    while storm.kills < kills and process.poll() is None:
        time.sleep(rng.uniform(0, span_s))
        parsers = [p for p in _descendants(process.pid) if _is_parser(p)]
        if parsers:
            victim = rng.choice(sorted(parsers))
            storm.hits += _leased(database) > 0
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                storm.kills += 1
    process.communicate(timeout=300)
    return storm


def run_calmly(database: Path, folder: Path) -> int:
    """Ingest without interference and return the exit code."""
    process = ingest(database, folder)
    process.communicate(timeout=600)
    return process.returncode


def texts(database: Path) -> list[tuple[str, str, int, str]]:
    """Return status and every chunk of every file, in a fixed order: what two databases must share."""
    with Database.open(database, readonly=True) as db, db.read() as connection:
        return sorted(
            connection.all(
                "SELECT f.path, f.status, coalesce(c.chunk_index, -1), coalesce(c.content, '') FROM project_files f"
                " LEFT JOIN file_chunks c ON c.file_id = coalesce(f.duplicate_of, f.pk)"
            )
        )


def assert_gone(pids: set[int], within_s: float = 10.0) -> None:
    """Assert that no process of a killed ingestion is left behind."""
    end = time.monotonic() + within_s
    while left := {pid for pid in pids if psutil.pid_exists(pid) and _running(pid)}:
        assert time.monotonic() < end, f"processes left behind: {left}"
        time.sleep(0.02)


def _wait_for_work(database: Path, process: subprocess.Popen[bytes]) -> set[int]:
    """Wait until files are leased, so that the kill that follows hits work; return the children seen."""
    seen: set[int] = set()
    while process.poll() is None and _leased(database) == 0:
        seen |= _descendants(process.pid)
        time.sleep(0.01)
    return seen


def _leased(database: Path) -> int:
    return _count(database, "status = 'processing'")


def _count(database: Path, condition: str) -> int:
    # Before the first process has made the schema there is nothing to read.
    with (
        contextlib.suppress(KnowlexError),
        Database.open(database, readonly=True) as db,
        db.read() as connection,
    ):
        return connection.value(f"SELECT count(*) FROM project_files WHERE {condition}")
    return 0


def _descendants(pid: int) -> set[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()


def _is_parser(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "workers.parser_child" in psutil.Process(pid).cmdline()
    return False


def _running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False

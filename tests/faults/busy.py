"""Many processes at once on one database: each does nothing but write, or nothing but read, until its time is up."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from faults import mutants
from faults.watch import watching
from faults.writer import PROJECT, WORDS, FileWriter

from knowlex import Knowlex
from storage import migrations
from storage.connection import Connection
from storage.errors import LockedError

SOURCES = ("files", "memories", "messages")
PASSAGES = 5


@dataclass
class Part:
    """What one process did, or all together: calls that succeeded by kind, and what went wrong.

    waits: how long each writer waited for the write lock (s). immediate, deferred: see faults.watch.
    """

    done: Counter[str] = field(default_factory=Counter)
    locked: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    immediate: int = 0
    deferred: list[str] = field(default_factory=list)

    def __add__(self, other: Part) -> Part:
        return Part(
            self.done + other.done,
            self.locked + other.locked,
            self.waits + other.waits,
            self.immediate + other.immediate,
            self.deferred + other.deferred,
        )

    @property
    def p99_s(self) -> float:
        """The wait for the write lock that 99 of 100 writes do not exceed."""
        return sorted(self.waits)[int(len(self.waits) * 0.99)]


def storm(database: Path, *, writers: int, readers: int, seconds: float, planted: Sequence[str] = ()) -> Part:
    """Let processes loose on a database for a while, with these mutants in each; return what they did."""
    with Knowlex(database) as kb:
        FileWriter.begin(kb.database, "first", passages=PASSAGES).write()
    context = multiprocessing.get_context("spawn")
    jobs = [(_write, number) for number in range(writers)] + [(_read, number) for number in range(readers)]
    barrier = context.Barrier(len(jobs))
    with ProcessPoolExecutor(len(jobs), context, _begin, (barrier, planted)) as pool:
        parts = [pool.submit(_run, act, number, database, seconds) for act, number in jobs]
        return sum((part.result() for part in parts), Part())


_barrier: Barrier | None = None


def _begin(barrier: Barrier, planted: Sequence[str]) -> None:
    global _barrier
    _barrier = barrier
    for name in planted:
        mutants.plant(name)


Calls = Iterator[tuple[str, Callable[[], Any]]]
Act = Callable[[Knowlex, int], Calls]


def _run(act: Act, number: int, database: Path, seconds: float) -> Part:
    """Act until the time is up; it begins when every process is there."""
    part = Part()
    with watching() as watch, _timed(part.waits), Knowlex(database) as kb:
        kb.projects.list()
        assert _barrier is not None
        _barrier.wait(60)
        with _noting(part.locked):
            _act(part, act(kb, number), time.monotonic() + seconds)
    part.immediate, part.deferred = watch.immediate, watch.deferred
    return part


def _act(part: Part, calls: Calls, end: float) -> None:
    for kind, call in calls:
        with _noting(part.locked):
            call()
            part.done[kind] += 1
        if time.monotonic() > end:
            return


@contextmanager
def _noting(locked: list[str]) -> Iterator[None]:
    """Note a lock that was not to be had, and go on."""
    try:
        yield
    except LockedError as error:
        locked.append(str(error))


@contextmanager
def _timed(waits: list[float]) -> Iterator[None]:
    """Note how long each transaction that writes waits for its lock, from when it wants it on."""
    take = migrations._take_write_lock

    def timed(connection: Connection) -> None:
        started = time.perf_counter()
        take(connection)
        waits.append(time.perf_counter() - started)

    migrations._take_write_lock = timed
    try:
        yield
    finally:
        migrations._take_write_lock = take


def _write(kb: Knowlex, number: int) -> Calls:
    talk = kb.conversations.create(f"talk {number}", project=PROJECT)
    files = FileWriter.begin(kb.database, f"writer {number}", passages=PASSAGES)
    turn = 0
    while True:
        turn += 1
        yield "files", files.write
        yield "messages", partial(kb.conversations.add, talk.id, "user", f"{WORDS[turn % len(WORDS)]} {turn}")
        yield "memories", partial(kb.memories.add, PROJECT, f"{number} {turn}", f"{WORDS[turn % len(WORDS)]} {turn}")
        yield "settings", partial(kb.settings.__setitem__, f"{number}.{turn}", turn)


def _read(kb: Knowlex, number: int) -> Calls:
    rng = random.Random(number)
    while True:
        question = " ".join(rng.choices(WORDS, k=3))
        yield "searches", partial(kb.search, PROJECT, question, mode="text", sources=SOURCES)
        yield "lists", partial(kb.files_page, PROJECT)
        yield "lists", partial(kb.memories.list, PROJECT)
        yield "lists", kb.conversations.list
        yield "lists", partial(kb.settings.all, f"{number}.")
        yield "lists", kb.stats

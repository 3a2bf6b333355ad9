"""The parser child under watch: what each file costs, and what else is touched: `python -m faults.guard FD FD`.

Python tells its audit hooks of every file, socket and process that is opened; libraries in C are caught by what
a test lays out for them: a file and a port that nobody may open.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults import mutants, poison

from pipeline.parse import Parsed
from storage import parts
from workers import parser_child

if TYPE_CHECKING:
    import pytest  # children start sooner without it

REPORT, MUTANTS = "KNOWLEX_TEST_GUARD_REPORT", "KNOWLEX_TEST_GUARD_MUTANTS"
SAMPLED_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Cost:
    """What one file cost the child, where it came to an end: seconds of the processor, and of the clock."""

    name: str
    cpu_s: float
    wall_s: float


@dataclass(slots=True)
class Guard:
    """What was seen of the children of a test.

    peaks: the most memory that each child had in use, in bytes, by its process id.
    """

    report: Path
    peaks: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def peak_bytes(self) -> int:
        """The most memory that any child had in use."""
        return max(self.peaks.values(), default=0)

    def costs(self) -> list[Cost]:
        """What each file cost; one that ended its child is not among them."""
        return [Cost(*line["cost"]) for line in self._lines() if "cost" in line]

    def touched(self) -> list[str]:
        """What was opened or started while a file was parsed, other than the file itself and code."""
        return [line["touched"] for line in self._lines() if "touched" in line]

    def _lines(self) -> list[dict[str, Any]]:
        if not self.report.exists():
            return []
        return [json.loads(line) for line in self.report.read_text("utf8").splitlines()]

    def meet(self, process: subprocess.Popen[bytes]) -> None:
        """Sample the memory of a child until it ends; the system keeps the peak, so that little is missed."""
        threading.Thread(target=self._sample, args=(process.pid,), daemon=True).start()

    def _sample(self, pid: int) -> None:
        while (peak := _peak_bytes(pid)) is not None:
            self.peaks[pid] = max(peak, self.peaks.get(pid, 0))
            time.sleep(SAMPLED_EVERY_S)


def _peak_bytes(pid: int) -> int | None:
    """The most memory that a process had in use so far; None once it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def plant(monkeypatch: pytest.MonkeyPatch, report: Path, *mutants: str) -> Guard:
    """Have every parser of this process start its child under watch, with these faults planted into it."""
    guard = Guard(report)
    monkeypatch.setenv(REPORT, str(report))
    monkeypatch.setenv(MUTANTS, " ".join(mutants))
    poison.substitute(monkeypatch, "faults.guard", guard.meet)
    return guard


# --- in the child ---------------------------------------------------------------------------------------------


def main() -> None:
    """Serve as the parser child does."""
    for name in os.environ[MUTANTS].split():
        mutants.plant(name)
    watch = _Watch(os.open(os.environ[REPORT], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    sys.addaudithook(watch.hear)
    real: Callable[..., Parsed] = parser_child.parse

    def parse(path: bytes, name: str, *more: Any) -> Parsed:
        with watch.watching(path, name):
            return real(path, name, *more)

    parser_child.parse = parse
    parser_child.main(sys.argv[1:])


CODE = tuple(
    {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if path}
    | {str(Path(__file__).parents[2])}
)
"""Where modules, their data and the names of their versions are read from."""

SOCKETS_AND_PROCESSES = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.spawn")
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "tempfile.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """What is being parsed, and a descriptor to report to."""

    def __init__(self, report: int) -> None:
        self._report = report
        self._path: bytes | None = None

    @contextlib.contextmanager
    def watching(self, path: bytes, name: str) -> Generator[None]:
        self._path = path
        cpu_s, wall_s = time.process_time(), time.monotonic()
        try:
            yield
        finally:
            self._path = None
            self._tell("cost", [name, time.process_time() - cpu_s, time.monotonic() - wall_s])

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        path, self._path = self._path, None  # the report itself is not to be heard of
        if path is not None:
            if self._is_foreign(event, arguments, path):
                self._tell("touched", f"{event} {arguments!r} at {path!r}")
            self._path = path

    def _is_foreign(self, event: str, arguments: tuple[Any, ...], path: bytes) -> bool:
        if event == "open":
            return not self._is_own(arguments, path)
        changes = event.startswith(CHANGES) and "__pycache__" not in str(arguments)
        return changes or event.startswith(SOCKETS_AND_PROCESSES)

    def _is_own(self, arguments: tuple[Any, ...], path: bytes) -> bool:
        """Whether what is opened is the file itself, or code; path: with what lies within a file behind it."""
        file, _, flags = arguments
        if isinstance(file, int):
            return True
        name = os.fsencode(file)
        if "__pycache__" in os.fsdecode(name):
            return True
        writes = isinstance(flags, int) and bool(flags & WRITING)
        is_code = os.path.realpath(os.fsdecode(name)).startswith(CODE)
        return not writes and (is_code or name == parts.on_disk(path))

    def _tell(self, kind: str, what: object) -> None:
        os.write(self._report, json.dumps({kind: what}).encode() + b"\n")


# --- what nobody may open -------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening() -> Generator[tuple[int, Callable[[], int]]]:
    """Give a port of this machine, and what tells how many have knocked at it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1], lambda: _knocks(server)


def _knocks(server: socket.socket) -> int:
    knocks = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            knocks += 1
    return knocks


_IN_OPEN = 0x20


@contextlib.contextmanager
def watching_file(path: Path) -> Generator[Callable[[], int]]:
    """Give what tells how often a file has been opened, by whatever means (inotify)."""
    library = ctypes.CDLL(None, use_errno=True)
    events = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if events < 0 or library.inotify_add_watch(events, os.fsencode(path), _IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    try:
        yield lambda: _events(events)
    finally:
        os.close(events)


def _events(descriptor: int) -> int:
    with contextlib.suppress(BlockingIOError):
        return len(os.read(descriptor, 2**16)) // 16  # an event of a file has no name behind it
    return 0


if __name__ == "__main__":
    main()

"""Run a program as a user would, and tell what it took with all the processes it started."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took.

    cpu_s: user and system, of the process and of all it waited for.
    peak_mb: the most resident memory (MB of 2**20 bytes) all its processes had at one moment, what they share
        counted once for each; looked at every 0.2 s, and on Linux never less than the largest process had until
        the last look. What the kernel tells at the end (ru_maxrss) is never less than what the program that
        measures had: it counts where it is more.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def run(*command: str, fine: Iterable[int] = (0,), folder: Path | None = None, **environ: str) -> Cost:
    """Run a command to its end and return what it took, with what it wrote to standard output.

    fine: exit codes that are no failure. folder: where to run it. environ: added to the environment.
    Raises SystemExit naming the command where it fails.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, env=os.environ | environ)
    ended, peaks = threading.Event(), [0]
    watching = threading.Thread(target=_watch, args=(psutil.Process(process.pid), ended, peaks))
    watching.start()
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - started
    ended.set()
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in fine:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, max(peaks) / 2**20, output)


def _watch(root: psutil.Process, ended: threading.Event, peaks: list[int]) -> None:
    """Append what a process and its descendants have resident, in bytes, until `ended`."""
    while True:
        with contextlib.suppress(psutil.Error):
            seen = root, *root.children(recursive=True)
            peaks.append(sum(map(_resident, seen)))
            peaks.extend(map(_highest, seen))
        if ended.wait(LOOK_EVERY_S):
            return


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended meanwhile
        return 0


def _highest(process: psutil.Process) -> int:
    """Return the most that a process has had resident since it began its program; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("ascii", "replace")
    except OSError:  # it has ended meanwhile, or there are no such files
        return 0
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def stored_bytes(place: Path) -> int:
    """The bytes of a file and what lies beside it under its name, or of all files of a folder."""
    files = place.rglob("*") if place.is_dir() else place.parent.glob(place.name + "*")
    return sum(file.stat().st_size for file in files if file.is_file())

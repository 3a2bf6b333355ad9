"""Who holds the write lock or reads, and whether they work, and what of the log is not folded: seen from outside.

Nothing is locked or changed for it, and no file of the engine's is opened, as closing it would drop the
engine's locks. Locks and processes are told by Linux alone; elsewhere, or where the holder is in another
container, nobody is named.
Source: sqlite.org/walformat.html, 2.3 (the shared memory); proc_locks(5), proc_pid_stat(5).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.connection import Connection
from storage.paths import own_files

LOCKS = Path("/proc/locks")
WRITE_BYTE, FOLD_BYTE, READ_BYTES = 120, 121, range(123, 128)
FRAME_HEADER = 24

WORK_TICKS = 10
"""From how much processor time on (clock ticks, of which there are 100 a second) a process is at work."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a process has done so far: clock ticks by thread. busy: a thread runs, or the disk has yet to answer it."""

    ticks: dict[int, int]
    busy: bool

    def works_since(self, before: Effort) -> bool:
        """Whether the process has done something since `before`, or is about to."""
        spent = sum(ticks - before.ticks.get(thread, 0) for thread, ticks in self.ticks.items())
        return self.busy or spent >= WORK_TICKS


@dataclass(frozen=True, slots=True)
class _Lock:
    """A lock on bytes of the shared memory, which the system joins where they follow each other."""

    pid: int
    shared: bool
    bytes: range


def holder(path: Path) -> int | None:
    """Return the process that holds the write lock of the database at `path`; None where nobody is named."""
    return next((lock.pid for lock in _locks(path) if not lock.shared and WRITE_BYTE in lock.bytes), None)


def folds(path: Path) -> bool:
    """Tell whether somebody is named who folds the log at this moment."""
    return any(not lock.shared and FOLD_BYTE in lock.bytes for lock in _locks(path))


def readers(path: Path) -> set[int]:
    """Return the processes that are named as reading at this moment: what they see is not folded."""
    return {lock.pid for lock in _locks(path) if lock.shared and any(byte in lock.bytes for byte in READ_BYTES)}


def _locks(path: Path) -> Iterator[_Lock]:
    """Give each lock on the shared memory."""
    try:
        memory = own_files(path)[2].stat()
        lines = LOCKS.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return
    place = f"{os.major(memory.st_dev):02x}:{os.minor(memory.st_dev):02x}:{memory.st_ino}"
    for line in lines:
        match line.split():
            case [_, "POSIX", _, kind, pid, file, first, last] if file == place and int(pid) > 0 and last != "EOF":
                yield _Lock(int(pid), kind == "READ", range(int(first), int(last) + 1))
            case _:
                pass


def effort(pid: int) -> Effort:
    """Return what a process has done so far, leaving out the thread that asks."""
    me = threading.get_native_id()
    found = {thread: stat for thread, stat in _threads(pid) if thread != me}
    return Effort(
        {thread: int(stat[11]) + int(stat[12]) for thread, stat in found.items()},
        any(stat[0] in "RD" for stat in found.values()),
    )


def _threads(pid: int) -> Iterator[tuple[int, list[str]]]:
    """Give each thread of a process, and what the system tells of it from its state on."""
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            yield int(folder.name), (folder / "stat").read_text("utf8", "replace").rpartition(")")[2].split()


def age_s(pid: int) -> float:
    """Return for how long (seconds) a process has been there; 0 where nobody tells."""
    for thread, stat in _threads(pid):
        if thread == pid:
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK"))
    return 0.0


def silent_s(path: Path) -> float | None:
    """Return for how long (seconds) nothing was written to the database or its log; None where the clock lies."""
    return _since_written(own_files(path)[:2])


def unfolded_s(path: Path) -> float | None:
    """Return for how long (seconds) nothing was folded into the database; None where the clock lies."""
    return _since_written([path])


def _since_written(files: Iterable[Path]) -> float | None:
    written_at = 0.0
    for file in files:
        with suppress(FileNotFoundError):  # the last to use a database removes its log
            written_at = max(written_at, file.stat().st_mtime)
    silent = time.time() - written_at
    return silent if silent >= 0 else None


def unfolded_bytes(db: Connection) -> int:
    """Return how much of the log is committed and not in the database file yet."""
    _, frames, folded = db.one("PRAGMA wal_checkpoint(NOOP)") or (0, 0, 0)
    return max(0, frames - folded) * (db.value("PRAGMA page_size") + FRAME_HEADER)

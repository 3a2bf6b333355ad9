"""Who holds a lease: a process, named so that another process can tell whether it still lives.

The name holds host, boot, pid and the process's start time: a pid alone is given again.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from storage.ids import new_id

_retired: set[str] = set()


def name() -> str:
    """Return this process's name; two workers in one process get two names."""
    return "/".join((socket.gethostname(), _boot_id(), str(os.getpid()), _start_time(os.getpid()), new_id()))


def retire(owner: str) -> None:
    """Tell this process that its worker of this name has ended, though it may still hold files."""
    _retired.add(owner)


def is_dead(owner: str) -> bool:
    """Tell whether the worker of this name is provably gone: with its process, or retired in this one.

    False where nothing can be proved: another host, a boot or start time that the system does not tell,
    a name of another kind.
    """
    if owner in _retired:
        return True
    parts = owner.rsplit("/", 4)
    if len(parts) < 5 or not parts[2].isascii() or not parts[2].isdigit():
        return False
    host, boot, pid, start, _ = parts
    if host != socket.gethostname():
        return False
    if boot and _boot_id() and boot != _boot_id():
        return True
    return not _alive(int(pid), start)


def _alive(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as another user
    found = _start_time(pid)
    return not start or not found or (found == start and not _is_zombie(pid))


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _start_time(pid: int) -> str:
    """Return clock ticks from boot to the start of a process (Linux), or "" where unknown."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _is_zombie(pid: int) -> bool:
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["Z"]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf8", "replace").strip()
    except OSError:
        return ""

"""Files that Knowlex makes beside a database for a while, and what a killed process left of them.

Their names hold the database's name and the process, so that whoever comes next can tell which are
nobody's: pid and start time, as a pid is given again (in a container to the very next process), and
where pids mean the same: another container or host may use the folder, too. They hold copies of
everything, so that none may be forgotten.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from storage.connection import NO_SPACE
from storage.errors import DatabaseError, DiskFullError
from storage.paths import own_files


@contextmanager
def beside(target: Path, database: Path) -> Generator[Path]:
    """Give the name of an empty file (0600) in the folder of `target`; what it holds is gone after the block.

    The block may rename it away, and says by itself what it writes; see `writing`. Raises what that does where the
    file cannot be made or deleted.
    """
    path = target.with_name(_name(target.parent, database))
    with writing(target):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield path
    finally:
        with writing(target):
            remove(path)


@contextmanager
def writing(target: Path) -> Generator[None]:
    """Have the system's errors of the block, which is to write `target` and do nothing else, name it.

    Raises DiskFullError, DatabaseError.
    """
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in NO_SPACE else DatabaseError
        raise kind(f"{target}: cannot be written ({error.strerror}); check the disk and its folder") from error


def put(path: Path, target: Path) -> None:
    """Give a scratch file the name `target`, whatever has it, for good. Raises what `writing` does."""
    with writing(target):
        os.replace(path, target)
        sync_folder(target.parent)


_NAME_BYTES = 255
_LONGEST_SUFFIX = "-journal"


def _name(folder: Path, database: Path) -> str:
    """Return a new name, with a hash for the database's where that makes it too long for the file system."""
    end = f"{os.getpid()}-{secrets.token_hex(4)}-{_start_time(os.getpid())}-{_system()}.scratch"
    name, short = (beginning + end for beginning in beginnings(database))
    return short if len(os.fsencode(name + _LONGEST_SUFFIX)) > _longest_name(folder) else name


def beginnings(database: Path) -> tuple[str, str]:
    """Return how the names of the scratch files of a database begin: the usual ones, and those with a hash."""
    return f".{database.name}.", f".{_hashed(database)}."


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return _NAME_BYTES


def _hashed(database: Path) -> str:
    return hashlib.sha256(os.fsencode(database.name)).hexdigest()[:32]


def keep_as(path: Path, name: str) -> Path:
    """Give a scratch file the name, or the first free one of `name.2`, `name.3`, …; return where it lies.

    Nothing is ever replaced, whoever else does the same. Raises what `writing` does.
    """
    with writing(path.with_name(name)):
        for number in count(1):
            kept = path.with_name(name if number == 1 else f"{name}.{number}")
            if any(file.exists() for file in own_files(kept)[1:]):  # a log would be taken for that of the copy
                continue
            try:
                _take_name(path, kept)
            except FileExistsError:
                continue
            sync_folder(kept.parent)
            return kept
    raise AssertionError("numbers do not end")


def _take_name(path: Path, kept: Path) -> None:
    """Rename a file; raise FileExistsError where the name is taken."""
    try:
        os.link(path, kept)
    except FileExistsError:
        raise
    except OSError:  # no such links here: the name is claimed by an empty file, and who is killed now leaves that
        os.close(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(path, kept)
    else:
        path.unlink()


def remove(path: Path) -> None:
    """Delete a database that nobody has open, with the files the engine kept for it."""
    for file in own_files(path):
        file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(database: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield the scratch files of a database, in its own folder or another, whose process is gone."""
    return (path for path, maker in _scratch(database, folder or database.parent) if not maker.may_use(path))


def in_use(database: Path) -> Iterator[tuple[Path, int]]:
    """Yield the scratch files beside a database that a process may still use, with its pid."""
    return ((path, maker.pid) for path, maker in _scratch(database, database.parent) if maker.may_use(path))


def sweep(database: Path, folder: Path | None = None) -> int:
    """Delete what `leftovers` yields; return how many files went. What may not be listed or deleted stays."""
    gone = 0
    with suppress(OSError):
        for path in list(leftovers(database, folder)):
            with suppress(OSError):
                path.unlink()
                gone += 1
    return gone


QUIET_S = 24 * 3600
"""How long nothing was written to a scratch file before it is nobody's, where its process cannot be looked for."""


@dataclass(frozen=True, slots=True)
class _Process:
    """Who made a scratch file. start, system: "" where the name does not tell."""

    pid: int
    start: str
    system: str

    def may_use(self, path: Path) -> bool:
        """Whether it may still use the file: the same pid, given again, is another process.

        What another system made, or an older Knowlex, is in use until nobody has written to it for a day.
        """
        if self.system != _system():
            return _silent_s(path) < QUIET_S
        return _alive(self.pid) and (not self.start or _start_time(self.pid) in ("", self.start))


def _scratch(database: Path, folder: Path) -> Iterator[tuple[Path, _Process]]:
    beginning = "|".join(map(re.escape, beginnings(database)))
    of_old = r"(?:-\d*-[0-9a-f]{0,8})?"
    process = rf"(\d+)-[0-9a-f]{{8}}(?:-(\d*)-([0-9a-f]{{16}})|{of_old})"
    pattern = re.compile(rf"(?:{beginning}){process}\.scratch(?:-wal|-shm|-journal)?")
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            pid, start, system = match.groups(default="")
            yield path, _Process(int(pid), start, system)


def _silent_s(path: Path) -> float:
    """Return for how long nothing was written to a file; for ever where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str:
    """Return clock ticks from boot to the start of a process (Linux), or "" where unknown."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _system() -> str:
    """Return what names the host, this run of its system, and the container: within these a pid names one process."""
    boot = _read("/proc/sys/kernel/random/boot_id")
    return hashlib.sha256(f"{socket.gethostname()}/{boot}/{_pid_namespace()}".encode()).hexdigest()[:16]


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf8", "replace").strip()
    except OSError:
        return ""

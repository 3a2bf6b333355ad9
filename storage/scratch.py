"""Files that Knowlex makes beside a database for a while, and what a killed process left of them.

Their names hold the database's name and the process, so that whoever comes next can tell which are
nobody's: pid and start time, as a pid is given again (in a container to the very next process).
They hold copies of everything, so that none may be forgotten.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from storage.errors import DatabaseError, DiskFullError
from storage.paths import own_files


@contextmanager
def beside(target: Path, database: Path) -> Generator[Path]:
    """Give the name of an empty file (0600) in the folder of `target`; what it holds is gone after the block.

    The block may rename it away. Raises DiskFullError, DatabaseError where the folder cannot be written.
    """
    path = target.with_name(_name(target.parent, database))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield path
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        remove(path)


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME_BYTES = 255
_LONGEST_SUFFIX = "-journal"


def _unwritable(target: Path, error: OSError) -> DatabaseError:
    kind = DiskFullError if error.errno in _FULL else DatabaseError
    return kind(f"{target}: cannot be written ({error.strerror}); check the disk and its folder")


def _name(folder: Path, database: Path) -> str:
    """Return a new name, with a hash for the database's where that makes it too long for the file system."""
    end = f"{os.getpid()}-{secrets.token_hex(4)}-{_start_time(os.getpid())}-{_boot()}.scratch"
    name = f".{database.name}.{end}"
    too_long = len(os.fsencode(name + _LONGEST_SUFFIX)) > _longest_name(folder)
    return f".{_hashed(database)}.{end}" if too_long else name


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return _NAME_BYTES


def _hashed(database: Path) -> str:
    return hashlib.sha256(os.fsencode(database.name)).hexdigest()[:32]


def keep_as(path: Path, name: str) -> Path:
    """Give a scratch file the name, or the first free one of `name.2`, `name.3`, …; return where it lies.

    Nothing is ever replaced, whoever else does the same.
    """
    for number in count(1):
        kept = path.with_name(name if number == 1 else f"{name}.{number}")
        try:
            os.link(path, kept)
        except FileExistsError:
            continue
        except OSError:  # a file system without second names for a file
            if kept.exists():
                continue
            os.rename(path, kept)
        path.unlink(missing_ok=True)
        sync_folder(kept.parent)
        return kept
    raise AssertionError("numbers do not end")


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
    return (path for path, process in _scratch(database, folder or database.parent) if not process.lives)


def in_use(database: Path) -> Iterator[tuple[Path, int]]:
    """Yield the scratch files beside a database that a process may still use, with its pid."""
    return ((path, process.pid) for path, process in _scratch(database, database.parent) if process.lives)


def sweep(database: Path, folder: Path | None = None) -> int:
    """Delete what `leftovers` yields; return how many files went. What may not be listed or deleted stays."""
    gone = 0
    with suppress(OSError):
        for path in list(leftovers(database, folder)):
            with suppress(OSError):
                path.unlink()
                gone += 1
    return gone


@dataclass(frozen=True, slots=True)
class _Process:
    """Who made a scratch file. start, boot: "" where the system did not tell."""

    pid: int
    start: str
    boot: str

    @property
    def lives(self) -> bool:
        """Whether it may still live: the same pid, given again or after another start of the system, is another."""
        if self.boot and _boot() not in ("", self.boot):
            return False
        return _alive(self.pid) and (not self.start or _start_time(self.pid) in ("", self.start))


def _scratch(database: Path, folder: Path) -> Iterator[tuple[Path, _Process]]:
    names = "|".join(map(re.escape, (database.name, _hashed(database))))
    pattern = re.compile(rf"\.(?:{names})\.(\d+)-[0-9a-f]{{8}}(?:-(\d*)-([0-9a-f]*))?\.scratch(?:-wal|-shm|-journal)?")
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            pid, start, boot = match.groups(default="")
            yield path, _Process(int(pid), start, boot)


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


def _boot() -> str:
    """Return the first part of what names this run of the system (Linux), or ""."""
    return _read("/proc/sys/kernel/random/boot_id").partition("-")[0]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf8", "replace").strip()
    except OSError:
        return ""

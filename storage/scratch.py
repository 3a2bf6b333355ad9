"""Files that Knowlex makes beside a database for a while, and what a killed process left of them.

Their names hold the database's name and the process, so that whoever comes next can tell which are
nobody's. They hold copies of everything, so that none may be forgotten.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import DatabaseError, DiskFullError
from storage.paths import own_files


@contextmanager
def beside(target: Path, database: Path) -> Generator[Path]:
    """Give the name of an empty file (0600) in the folder of `target`; what it holds is gone after the block.

    The block may rename it away. Raises DatabaseError where the folder cannot be written.
    """
    path = target.with_name(f".{database.name}.{os.getpid()}-{secrets.token_hex(4)}.scratch")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise DatabaseError(f"{target}: cannot be written ({error.strerror}); check its folder") from error
    try:
        yield path
    except OSError as error:
        kind = DiskFullError if error.errno in _FULL else DatabaseError
        raise kind(f"{target}: cannot be written ({error.strerror}); check the disk and its folder") from error
    finally:
        remove(path)


_FULL = (errno.ENOSPC, errno.EDQUOT)


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


def leftovers(database: Path) -> Iterator[Path]:
    """Yield the scratch files beside a database whose process is gone."""
    pattern = re.compile(rf"\.{re.escape(database.name)}\.(\d+)-[0-9a-f]{{8}}\.scratch(-wal|-shm|-journal)?")
    for path in sorted(database.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            yield path


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

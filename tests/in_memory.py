"""Where tests put their databases: in memory, if the system has such a folder with room.

They are files like any other to the engine, but for what a power loss leaves of them, which other tests prove on
recorded writes. On a disk, the two state machines write gigabytes and wait for it as long as they compute, and every
other test waits for its commits.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.database import Database

ROOM_BYTES = 2 * 2**30
"""More than all tests keep at one time."""


def _has_room(folder: str) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ROOM_BYTES


PLACE = "/dev/shm" if _has_room("/dev/shm") else None


def folder() -> TemporaryDirectory[str]:
    """Return a new folder; whoever asks for it cleans it up."""
    return TemporaryDirectory(prefix="knowlex-", dir=PLACE)


@cache
def _new() -> bytes:
    with folder() as name:
        path = Path(name) / "new.db"
        Database.open(path).close()
        return path.read_bytes()


def new_database(path: Path) -> Database:
    """Open a new database, copied from one that was made before, which is quicker."""
    path.write_bytes(_new())
    return Database.open(path)

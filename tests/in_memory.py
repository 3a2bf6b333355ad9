"""Where tests put a database that they write to a thousand times: in memory, if the system has such a folder.

It is a file like any other to the engine, but for what a power loss leaves of it, which other tests prove on recorded
writes. On a disk, the two state machines write gigabytes and wait for it as long as they compute.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def folder() -> TemporaryDirectory[str]:
    """Return a new folder; whoever asks for it cleans it up."""
    return TemporaryDirectory(prefix="knowlex-", dir=PLACE)

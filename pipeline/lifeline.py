"""Children that die with their parent, whatever either of them is doing.

The parent holds the writing end of a pipe that nobody else has and nobody writes to. When the parent
is gone, however it ended, the kernel sends the child SIGIO, which ends it even while C code runs or the GIL
is held (Linux); a thread that reads the pipe does the same where the kernel does not.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager


def new_lifeline() -> tuple[int, int]:
    """Return (for the child, for the parent): descriptors; pass the first on, close the second to end the child."""
    return os.pipe()


@contextmanager
def lifeline() -> Generator[int]:
    """Give the descriptor to pass to a child that must not outlive the block."""
    theirs, ours = new_lifeline()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def die_with_parent(descriptor: int) -> None:
    """End this process when the other end of `descriptor` is closed. Called once, early, in the child."""
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_exit_at_end, args=(descriptor,), daemon=True).start()


def _exit_at_end(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(0)

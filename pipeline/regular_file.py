"""Open and read one file without being led astray, as of one moment.

Paths are bytes, as a name need not be UTF-8. Nothing is opened by way of a link, in whatever part of its path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.errors import ExtractError, TransientError
from storage.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file to take: its absolute real path, and what `stat` said of it."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The bytes of a file as one moment had them, their SHA-256 in hex, and the fingerprint they go with."""

    data: bytes
    sha256: str
    fingerprint: Fingerprint


# Windows has none of these; there they are without effect.
FOLDER = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
NAME_ONLY = getattr(os, "O_PATH", os.O_RDONLY | _NO_WAIT)  # Linux: to look at what may not be read, and wakes nothing
_NO_LINK_AT_ALL = getattr(os, "O_NOFOLLOW_ANY", 0)  # macOS
_OPENED = b"/proc/self/fd/%d" if os.path.isdir("/proc/self/fd") else None  # Linux
_BLOCK_BYTES = 1 << 20

REFUSES_LINKS = _OPENED is not None or bool(_NO_LINK_AT_ALL)
"""Whether this system can tell that no part of a path is a link when it is opened; else the last part alone is sure."""


def open_without_links(path: bytes, flags: int) -> int:
    """Open what has this real path, and return the descriptor.

    Raises OSError (ELOOP) where any part of the path is a link, whoever put it there and when: what was opened says
    itself where it is, so that there is no moment between a check and its use.
    """
    descriptor = os.open(path, flags | _NO_LINK | _NO_LINK_AT_ALL)
    try:
        if _OPENED is not None and os.readlink(_OPENED % descriptor) != path:
            # Where a disk heeds no capitals, also what is not spelt as the system has it.
            raise OSError(errno.ELOOP, "reached by way of a link: give the path that the system knows it by")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def open_regular(path: bytes, *, expect: Found | None = None) -> Generator[int]:
    """A descriptor of a regular file, open for reading.

    Never waits (a FIFO) and never follows a link, in whatever part of the path: one put there since it was
    discovered leads nowhere. With `expect`, a file that is not the one discovered is refused.
    Raises OSError where it cannot be opened, TransientError (changing) where something else lies there now.
    """
    try:
        descriptor = open_without_links(path, os.O_RDONLY | _BINARY | _NO_WAIT)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket
            raise _changing() from error
        raise
    try:
        now = os.fstat(descriptor)
        if not stat.S_ISREG(now.st_mode) or (expect and (now.st_dev, now.st_ino) != (expect.device, expect.inode)):
            raise _changing()
        yield descriptor
    finally:
        os.close(descriptor)


def _changing() -> TransientError:
    return TransientError("changed while it was read: run again once nothing writes to it", code="changing")


def read_file(path: bytes, max_bytes: int, *, expect: Found | None = None) -> ReadResult:
    """Read a whole file while hashing it, so that the hash is that of the very bytes returned.

    Raises ExtractError (too_large) before it keeps more than `max_bytes`, TransientError (changing) if
    size or times differ afterwards, and what `open_regular` raises.
    """
    blocks: list[bytes] = []
    with open_regular(path, expect=expect) as descriptor:
        sha256, fingerprint = _hash(descriptor, max_bytes, blocks.append)
    return ReadResult(b"".join(blocks), sha256, fingerprint)


def hash_file(path: bytes, max_bytes: int, *, expect: Found | None = None) -> tuple[str, Fingerprint]:
    """SHA-256 in hex and fingerprint of a file, of which nothing is kept. Raises as `read_file`."""
    with open_regular(path, expect=expect) as descriptor:
        return _hash(descriptor, max_bytes, lambda block: None)


def _hash(descriptor: int, max_bytes: int, keep: Callable[[bytes], None]) -> tuple[str, Fingerprint]:
    before = _fingerprint(descriptor)
    digest = hashlib.sha256()
    _require_at_most(max_bytes, before.size)
    count = 0
    while block := os.read(descriptor, _BLOCK_BYTES):
        count += len(block)
        _require_at_most(max_bytes, count)
        digest.update(block)
        keep(block)
    if _fingerprint(descriptor) != before or count != before.size:
        raise _changing()
    return digest.hexdigest(), before


def _fingerprint(descriptor: int) -> Fingerprint:
    now = os.fstat(descriptor)
    return Fingerprint(now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)


def _require_at_most(max_bytes: int, size: int) -> None:
    if size > max_bytes:
        sizes = f"{size / 2**20:,.1f} MB, the limit is {max_bytes / 2**20:,.0f} MB"
        raise ExtractError(f"too large: {sizes}: raise max_file_mb or exclude it", code="too_large")

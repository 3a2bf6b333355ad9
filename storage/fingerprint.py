"""What tells that a file was written to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the file system says of a file: equal fingerprints mean that nobody wrote to it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

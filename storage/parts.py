"""Paths of files within files, such as a mail's attachments.

A file within a file has a row of its own in project_files. Its `path_bytes` is that of the file it is in, a NUL and
its name there; no path on disk holds a NUL. So its parent is found by its path, what lies in a file is a range of the
index of paths, and moving or deleting a file takes what lies in it along.
"""

from __future__ import annotations

SEPARATOR = b"\0"


def path_in(parent: bytes, name: str) -> bytes:
    """Return the path of what a file holds under this name."""
    return parent + SEPARATOR + name.encode("utf8")


def is_part(path: bytes) -> bool:
    """Tell whether this is the path of a file within a file."""
    return SEPARATOR in path


def parent_of(path: bytes) -> bytes | None:
    """Return the path of the file that this one lies in, or None for a file on disk."""
    parent, found, _ = path.rpartition(SEPARATOR)
    return parent if found else None


def on_disk(path: bytes) -> bytes:
    """Return the path of the file on disk that this one is, or lies in."""
    return path.partition(SEPARATOR)[0]


def names(path: bytes) -> tuple[str, ...]:
    """Return the names to follow, one within the other, from the file on disk; none for that file itself."""
    return tuple(name.decode("utf8") for name in path.split(SEPARATOR)[1:])


def range_in(path: bytes) -> tuple[bytes, bytes]:
    """Return the half-open range of paths of all that lies in a file, at any depth."""
    return path + b"\0", path + b"\1"

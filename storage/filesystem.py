"""Refuse disks on which SQLite's locks do not hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

from storage.errors import DatabaseError

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)

# How the mount table writes a blank, tab, line feed or backslash; other characters stand for themselves.
_ESCAPE = re.compile(r"\\([0-7]{3})")


def require_local(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise DatabaseError when `path` lies on a network file system.

    A write-ahead log needs memory shared by all its users (sqlite.org/wal.html), which a network
    file system does not give. Where the system has no mount table, nothing is refused.
    """
    kind = _filesystem_of(path, mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise DatabaseError(f"{path}: on a network file system ({kind}), where commits can be lost; use a local disk")


def _filesystem_of(path: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text("utf8", "surrogateescape").split("\n")
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = "", None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind

"""Refuse disks on which SQLite's locks do not hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

from storage.errors import DatabaseError

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "davfs"}
    | {"ceph", "lustre", "glusterfs", "beegfs", "gpfs", "orangefs", "pvfs2"}
    | {"9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner"}
)
"""Of servers, of clusters, and of the host of a virtual machine, which is a server to it."""

LOCAL_FUSE = frozenset(
    {"bindfs", "fuse-overlayfs", "mergerfs", "unionfs", "unionfs-fuse"}
    | {"cryfs", "encfs", "gocryptfs", "securefs"}
    | {"exfat", "ext2", "fuse-ext2", "lowntfs-3g", "ntfs-3g"}
)
"""The programs behind a FUSE mount that keep its files on a disk, or in another folder, of this machine."""

# How the mount table writes a blank, tab, line feed or backslash; other characters stand for themselves.
_ESCAPE = re.compile(r"\\([0-7]{3})")


def require_local(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise DatabaseError when `path` lies on a network file system.

    A write-ahead log needs memory shared by all its users (sqlite.org/wal.html), which a network
    file system does not give. Where the system has no mount table, nothing is refused.
    """
    kind = _filesystem_of(path, mounts)
    if kind is not None and _is_remote(kind):
        raise DatabaseError(f"{path}: on a network file system ({kind}), where commits can be lost; use a local disk")


def _is_remote(kind: str) -> bool:
    """Tell whether a file system is one of a network, or one that a program of any sort may stand behind."""
    family, _, program = kind.partition(".")
    return kind in NETWORK_FILESYSTEMS or (family == "fuse" and program not in LOCAL_FUSE)


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

"""Copies of a live database: through the backup API, the only right way, or byte by byte where it is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from storage.connection import Connection, translated
from storage.paths import own_files

PAGES_A_STEP = 4096
BLOCK = 2**20


def copy(connection: Connection, target: Path) -> None:
    """Copy the database to `target`, an empty or missing file, and sync it; readers and writers go on."""
    with translated(target):
        twin = apsw.Connection(os.fspath(target))
        try:
            with twin.backup("main", connection.raw, "main") as backup:
                while not backup.done:
                    backup.step(PAGES_A_STEP)
            # A copy of a WAL database says WAL in its header; alone on disk it needs none.
            Connection(twin, target).script("PRAGMA journal_mode = DELETE")
        finally:
            twin.close()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_bytes(database: Path) -> Path:
    """Copy a damaged database, and its log, as they are to `NAME.damaged` (0600); return the copy."""
    target = database.with_name(f"{database.name}.damaged")
    for file, twin in zip(own_files(database)[:2], own_files(target)[:2], strict=True):
        descriptor = os.open(twin, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with open(descriptor, "wb") as out:
            for block in blocks(file):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
    return target


def blocks(file: Path) -> Iterator[bytes]:
    """Yield the bytes of a file of a live database, or nothing where there is no such file.

    The engine itself reads it: to open and close it otherwise would drop this process's locks on it.
    """
    if not file.exists():
        return
    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY
    with translated(file):
        opened = apsw.VFSFile("", os.fspath(file), [flags, 0])
        try:
            for start in range(0, opened.xFileSize(), BLOCK):
                yield opened.xRead(min(BLOCK, opened.xFileSize() - start), start)
        finally:
            opened.xClose()

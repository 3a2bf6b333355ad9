"""A copy of a live database through the backup API: the only right way to copy one."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from storage.connection import Connection, translated

PAGES_A_STEP = 4096


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

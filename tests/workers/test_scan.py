"""A scan passes over what holds no text, whatever other processes do with its row meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import storage.connection
from storage import files
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import LockedError
from storage.files import File
from workers.scan import Fate, Scan, Scanned, ScanOptions


@pytest.fixture
def picture(desk) -> Path:
    """A file that was read as text and is a picture now, beside one that is as it was."""
    path = desk.write("a.md", "A note.")
    desk.write("b.md", "Another note.")
    assert desk.ingest().ingested == 2
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    return path


def fates(desk, database: Database, before_each: Callable[[], object]) -> dict[str, Fate]:
    """Scan the folder, and do something before each file is looked at."""
    scan = Scan(database, desk.project, desk.job().recipe(None, None).versions, ScanOptions())
    return {_name(scanned): scanned.fate for scanned in scan.run([desk.folder], lambda: bool(before_each()))}


def _name(scanned: Scanned) -> str:
    return os.path.basename(os.fsdecode(scanned.path))


def move(db: Connection, file: File) -> None:
    files.move(db, file, file.path_bytes + b".old")


@pytest.mark.parametrize(("act", "left"), [(files.delete, ["b.md"]), (move, ["a.md.old", "b.md"])])
def test_a_row_that_went_since_the_scan_began_is_no_failure_of_its_file(
    desk, picture: Path, act: Callable[[Connection, File], object], left: list[str]
) -> None:
    def go() -> None:
        with desk.db.write() as db:
            file = files.by_path(db, desk.project, os.fsencode(picture))
            if file is not None:
                act(db, file)

    assert fates(desk, desk.db, go) == {"a.md": Fate.SKIPPED, "b.md": Fate.UNCHANGED}
    with desk.db.read() as db:
        assert sorted(file.filename for file in files.every(db, desk.project)) == left


def test_a_locked_database_is_no_failure_of_the_file(desk, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.connection, "BUSY_TIMEOUT_MS", 20)
    other = connect(desk.db.path)
    locked_then_free = iter(["BEGIN IMMEDIATE", "ROLLBACK"])
    with closing(Database.open(desk.db.path)) as database, pytest.raises(LockedError):
        fates(desk, database, lambda: other.script(next(locked_then_free)))
    other.close()
    assert desk.file(picture.name).error_code is None
    assert desk.ingest().skipped == 1

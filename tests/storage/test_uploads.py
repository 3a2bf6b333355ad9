"""The bytes of an upload stay as long as a row of it may come back: from the database, or from a copy beside it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import apsw
import pytest

from storage import backup, clearing, erase, files, maintain, migrations, projects, uploads
from storage.connection import connect
from storage.database import Database
from storage.files import Seen, Versions
from storage.fingerprint import Fingerprint
from storage.paths import own_files

OLD_DATABASES = sorted((Path(__file__).parents[1] / "data" / "databases").glob("*.db"))


def receive(database: Database, name: str) -> Path:
    """Register an upload as the server does; return where its bytes lie."""
    data, path = name.encode(), uploads.new_path(name)
    place = Path(os.fsdecode(uploads.on_disk(database.path, path)))
    uploads.made_folder(database.path)
    place.write_bytes(data)
    seen = Seen(path, Fingerprint(len(data), 0, 0, 0), hashlib.sha256(data).hexdigest())
    with database.write() as db:
        project = projects.ensure(db, "uploads")
        files.register(db, project.pk, seen, Versions("v1", frozenset()), scanned_ns=0)
    return place


def forget(database: Database, upload: Path) -> None:
    """Delete the row alone, as whoever is killed before the bytes are deleted does."""
    with database.write() as db:
        db.run("DELETE FROM project_files WHERE instr(path, :id)", id=upload.stem)


def keep_copy(database: Database, suffix: str) -> Path:
    with database.read() as db:
        return migrations.keep_copy(db, suffix)


def begin_erasing(database: Database, upload: Path) -> None:
    """Erase an upload while a reader keeps it from being finished, and is gone after that."""
    with database.read() as db:
        db.value("SELECT count(*) FROM projects")
        [id] = [file.id for file in files.every(db, 1) if upload.stem in file.path]
        assert not erase.erase(database, erase.find(db, id)).clean


def cleared(database: Database) -> str:
    [task] = [task for task in maintain.maintain(database).tasks if task.name == "erase"]
    return task.detail


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "BUSY_TIMEOUT_MS", 20)


@pytest.mark.usefixtures("impatient")
def test_clearing_leaves_the_uploads_that_a_copy_which_stays_has_rows_of(db: Database, tmp_path: Path) -> None:
    erased = receive(db, "erased.txt")
    backup.make(db, tmp_path / "before.bak")
    begin_erasing(db, erased)
    sent = receive(db, "sent since.txt")
    db.close()
    replaced = backup.restore(db.path, tmp_path / "before.bak").kept
    assert replaced is not None
    with Database.open(db.path) as restored:
        assert cleared(restored) == "what was erased earlier is cleared"
    assert sent.exists()
    assert backup.restore(db.path, replaced).uploads_without_bytes == 0


@pytest.mark.usefixtures("impatient")
def test_what_only_a_doubtful_copy_may_name_is_told_and_stays_due(db: Database) -> None:
    erased = receive(db, "erased.txt")
    begin_erasing(db, erased)
    erased.write_bytes(b"the first attempt to clear it was in vain, too")
    sent = receive(db, "sent since.txt")
    since = keep_copy(db, "before-restore")
    forget(db, sent)
    doubtful = db.path.with_name(f"{db.path.name}.damaged")
    doubtful.write_bytes(b"damaged, and all there is of the work since")
    os.utime(doubtful, (time.time() + 1, time.time() + 1))
    told = cleared(db)
    assert f"{doubtful}: written after the deletion, but may hold the text" in told
    assert f"{uploads.folder(db.path)}: 1 uploads stay, as copies beside the database may have their rows" in told
    assert (erased.exists(), sent.exists()) == (True, True)
    doubtful.unlink()
    assert cleared(db) == f"what was erased earlier is cleared; removed: {erased}"
    assert (sent.exists(), since.exists()) == (True, True)


def test_uploads_stay_for_the_copy_that_is_made_before_the_schema_goes_down(db: Database) -> None:
    sent = receive(db, "sent.txt")
    db.migrate(0)
    db.migrate()
    stranger = sent.with_name("01a21fa2-fa4e-778c-ac9d-33ebc2bb64e3.txt")
    stranger.write_bytes(b"of a receiver that was killed")
    assert uploads.sweep(db) == 1
    assert (sent.exists(), stranger.exists()) == (True, False)
    assert db.schema_copy is not None
    db.schema_copy.unlink()
    assert uploads.sweep(db) == 1
    assert not sent.exists()


def test_a_copy_of_an_emptied_database_keeps_none(db: Database) -> None:
    sent = receive(db, "sent.txt")
    forget(db, sent)
    db.migrate(0)
    emptied = connect(db.path)
    migrations.keep_copy(emptied, "before-restore")
    emptied.close()
    db.migrate()
    assert uploads.sweep(db) == 1


def garbage(copy: Path) -> None:
    copy.write_bytes(b"no database")


def a_log(copy: Path) -> None:
    """Somebody uses the copy as a database, or was killed while doing so."""
    own_files(copy)[1].write_bytes(b"what was committed since")


def damaged_rows(copy: Path) -> None:
    overwrite(copy, "project_files", b"\xee" * 64)


def empty_index(copy: Path) -> None:
    """Paths that are read from an index which lost its entries look whole. Source: sqlite.org/fileformat.html, 1.6."""
    overwrite(copy, "sqlite_autoindex_project_files_2", b"\x0a\0\0\0\0\x10\0\0")


def overwrite(copy: Path, tree: str, start: bytes) -> None:
    """Overwrite the beginning of a table's or index's first page."""
    db = connect(copy, readonly=True, immutable=True)
    root = db.value("SELECT rootpage FROM sqlite_schema WHERE name = :tree", tree=tree)
    size = db.value("PRAGMA page_size")
    db.close()
    with copy.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(start)


def index_of_no_name(copy: Path) -> None:
    """An index without its entries, whose name, which the engine tells, is no valid Unicode."""
    raw = apsw.Connection(str(copy))
    for _ in raw.execute(
        "PRAGMA writable_schema = ON; CREATE INDEX odd ON project_files (filename) WHERE pk < 0;"
        " UPDATE sqlite_schema SET name = CAST(x'ff' AS TEXT),"
        " sql = CAST(unhex(hex('CREATE INDEX ') || '22ff22' || hex(' ON project_files (filename)')) AS TEXT)"
        " WHERE name = 'odd'"
    ):
        pass
    raw.close()


@pytest.mark.parametrize("spoil", [garbage, a_log, damaged_rows, empty_index, index_of_no_name])
def test_while_a_copy_cannot_be_read_all_stay(db: Database, spoil: Callable[[Path], None]) -> None:
    sent = receive(db, "sent.txt")
    copy = keep_copy(db, "before-repair")
    forget(db, sent)
    spoil(copy)
    assert uploads.sweep(db) == 0
    assert sent.exists()
    for file in own_files(copy):
        file.unlink(missing_ok=True)
    assert uploads.sweep(db) == 1


def test_while_copies_cannot_be_listed_all_stay(
    open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(open_folder, 0o777)
    with as_plain_user(), Database.open(open_folder / "mine" / "k.db") as database:
        sent = receive(database, "sent.txt")
        forget(database, sent)
        os.chmod(open_folder / "mine", 0o300)
        assert uploads.sweep(database) == 0
        os.chmod(open_folder / "mine", 0o700)
        assert uploads.sweep(database) == 1
        assert not sent.exists()


@pytest.mark.parametrize("old", OLD_DATABASES, ids=lambda path: path.stem)
def test_copies_of_older_schemas_can_be_read(old: Path) -> None:
    assert uploads.named_in(old) == set()

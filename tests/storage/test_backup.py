"""A backup is whole or not there; a restore puts it back under readers, over damage, after a killed writer."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest
from faults.vfs import Call, FailingCalls

from storage import (
    backup,
    erasures,
    indexed_texts,
    maintain,
    memories,
    migrations,
    projects,
    scratch,
    settings,
    snapshot,
)
from storage.backup import STRIDE
from storage.connection import connect
from storage.database import Database
from storage.errors import (
    CorruptDatabaseError,
    DatabaseError,
    DiskFullError,
    KnowlexError,
    LockedError,
    NewerSchemaError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
    ReplacedError,
    UsageError,
)
from storage.paths import own_files
from storage.verify import verify


@pytest.fixture
def filled(shelf):
    """Two names of one content, a third file, and a memory."""
    shelf.add("a", "red green blue")
    shelf.find("b", "red green blue")
    shelf.add("c", "yellow")
    with shelf.db.write() as db:
        memories.add(db, shelf.project, "Title", "remembered words")
    return shelf


def names(database: Database) -> list[str]:
    with database.read() as db:
        return [name for (name,) in db.all("SELECT filename FROM project_files ORDER BY pk")]


def anew(shelf) -> None:
    """Open the database again, as whoever had it open when it was restored must."""
    shelf.db.close()
    shelf.db = Database.open(shelf.db.path)


def beside(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def damage(path: Path, page: int) -> None:
    """Overwrite a page, the first one behind what tells that the file is a database."""
    at = max(16, page * 4096)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(4096 - at % 4096))


# --- backup ----------------------------------------------------------------------------------------


def test_a_backup_is_a_sound_private_database_in_one_file(filled, tmp_path: Path) -> None:
    made = backup.make(filled.db, tmp_path / "copy.db")
    assert (made.files, made.chunks, made.schema) == (3, 4, migrations.LATEST)
    assert made.bytes == made.path.stat().st_size
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [name for name in beside(made.path) if "copy" in name or "scratch" in name] == ["copy.db"]
    with Database.open(made.path) as copy:
        assert verify(copy, deep=True) == []
        assert names(copy) == ["a", "b", "c"]


def test_a_backup_holds_one_moment_while_others_write(filled, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with filled.db.write() as db:
                project = projects.create(db, f"p{number}")
                memories.add(db, project.pk, "t", "always in the same transaction")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            made = backup.make(filled.db, tmp_path / "copy.db")
            with Database.open(made.path) as copy, copy.read() as db:
                lone = db.value(
                    "SELECT count(*) FROM projects p WHERE name LIKE 'p%'"
                    " AND NOT EXISTS (SELECT 1 FROM project_memories m WHERE m.project_id = p.pk)"
                )
            assert lone == 0
            scratch.remove(made.path)
    finally:
        stop.set()
        writer.join()


def test_an_older_backup_is_replaced(filled, tmp_path: Path) -> None:
    backup.make(filled.db, tmp_path / "copy.db")
    filled.add("d", "later")
    assert backup.make(filled.db, tmp_path / "copy.db").files == 4


def test_nothing_but_a_backup_is_ever_overwritten(filled, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    raw = apsw.Connection(str(other))
    raw.execute("CREATE TABLE t (a)")
    raw.close()
    notes = tmp_path / "notes.txt"
    notes.write_text("not a database, long enough to be looked at as one" * 100)
    link = tmp_path / "link.db"
    link.symlink_to(notes)
    for target in (other, notes, link, tmp_path, filled.db.path, own_files(filled.db.path)[1]):
        before = target.read_bytes() if target in (other, notes) else b""
        with pytest.raises(UsageError, match="give another file"):
            backup.make(filled.db, target)
        assert not before or target.read_bytes() == before


def test_a_backup_of_another_database_is_not_overwritten(filled, tmp_path: Path) -> None:
    with Database.open(tmp_path / "precious.db") as other:
        theirs = backup.make(other, tmp_path / "theirs.db")
    before = theirs.path.read_bytes()
    for target in (theirs.path, tmp_path / "precious.db"):
        with pytest.raises(UsageError, match="of another database"):
            backup.make(filled.db, target)
    assert theirs.path.read_bytes() == before


def test_a_database_in_use_is_not_overwritten(filled, tmp_path: Path) -> None:
    with Database.open(tmp_path / "live.db") as live, pytest.raises(UsageError, match="in use"):
        backup.make(filled.db, live.path)


def test_a_database_that_was_made_of_our_backup_is_not_overwritten(filled, tmp_path: Path) -> None:
    """What it has in common with our backups is older than what it alone holds."""
    made = backup.make(filled.db, tmp_path / "copy.db")
    grown = backup.restore(tmp_path / "grown.db", made.path).path
    with Database.open(grown) as other, other.write() as db:
        projects.create(db, "only there")
    with pytest.raises(UsageError, match="was used as a database"):
        backup.make(filled.db, grown)
    with Database.open(grown) as other, other.read() as db:
        assert projects.by_name(db, "only there")


def write_to(path: Path) -> None:
    with Database.open(path) as used, used.write() as db:
        settings.set(db, "used", True)


def test_a_backup_that_is_looked_at_stays_one(filled, tmp_path: Path) -> None:
    """Until anybody writes to it, also who is not the first or the last to have it open."""
    made = backup.make(filled.db, tmp_path / "copy.db").path
    with Database.open(made) as looked_at, looked_at.read():
        assert verify(looked_at, deep=True) == []
        assert looked_at.is_copy
    assert [name for name in beside(made) if name.startswith("copy")] == ["copy.db"]
    backup.make(filled.db, made)
    with Database.open(made) as first:
        with Database.open(made):
            pass
        write_to(made)
        assert not first.is_copy
    with pytest.raises(UsageError, match="was used as a database"):
        backup.make(filled.db, made)


def test_a_look_at_what_may_be_overwritten_leaves_nothing_beside_it(filled, tmp_path: Path) -> None:
    made = backup.make(filled.db, tmp_path / "copy.db")
    write_to(made.path)
    for _ in range(2):
        with pytest.raises(UsageError, match="was used as a database"):
            backup.make(filled.db, made.path)
    assert [name for name in beside(made.path) if name.startswith("copy")] == ["copy.db"]


def test_a_log_that_lost_its_database_is_not_given_a_new_one(filled, tmp_path: Path) -> None:
    """It would be replayed over the backup, at the first look at it."""
    made = backup.make(filled.db, tmp_path / "copy.db")
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(made.path)])
    made.path.unlink()
    with pytest.raises(UsageError, match="copy.db-wal is there"):
        backup.make(filled.db, made.path)
    assert not made.path.exists()


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[str]]]:
    """What is synced: each time, which file or folder, and the names that are in the folder then."""
    found: list[tuple[int, set[str]]] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        sync(descriptor)
        found.append((os.fstat(descriptor).st_ino, set(os.listdir(tmp_path))))

    monkeypatch.setattr(os, "fsync", recorded)
    return found


def test_a_backup_outlasts_a_loss_of_power(filled, tmp_path: Path, synced: list[tuple[int, set[str]]]) -> None:
    """It is on the disk before it has its name, and then its name is."""
    made = backup.make(filled.db, tmp_path / "copy.db")
    assert any(file == made.path.stat().st_ino and "copy.db" not in there for file, there in synced)
    assert any(file == tmp_path.stat().st_ino and "copy.db" in there for file, there in synced)


def test_a_folder_that_is_missing_is_named(filled, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        backup.make(filled.db, tmp_path / "no" / "copy.db")


def test_damage_is_no_backup_and_keeps_the_older_one(filled, tmp_path: Path) -> None:
    made = backup.make(filled.db, tmp_path / "copy.db")
    good = made.path.read_bytes()
    with filled.db.read() as db:
        page = db.value("SELECT rootpage FROM sqlite_schema WHERE name = 'file_chunks'")
    filled.db.close()
    damage(filled.db.path, page - 1)
    with Database.open(filled.db.path) as database, pytest.raises(CorruptDatabaseError, match="no backup was made"):
        backup.make(database, made.path)
    assert made.path.read_bytes() == good
    assert not [name for name in beside(made.path) if "scratch" in name]


def test_a_full_disk_leaves_nothing_behind(filled, small_disk: Path) -> None:
    with filled.db.write() as db:
        settings.set(db, "large", "x" * 3_000_000)
    with pytest.raises(DiskFullError):
        backup.make(filled.db, small_disk / "copy.db")
    assert list(small_disk.iterdir()) == []


# --- restore ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(filled, tmp_path: Path):
    """The shelf, and a backup of it, after which it changed."""
    made = backup.make(filled.db, tmp_path / "copy.db")
    filled.add("later", "not in the backup")
    filled.delete("c")
    return filled, made.path


def test_a_restore_brings_back_what_was_there_and_keeps_what_is(copied) -> None:
    shelf, copy = copied
    done = backup.restore(shelf.db.path, copy)
    assert (done.files, done.chunks, done.schema) == (3, 4, migrations.LATEST)
    anew(shelf)
    assert names(shelf.db) == ["a", "b", "c"]
    assert verify(shelf.db, deep=True) == []
    assert shelf.found("yellow") == ["c"]
    assert shelf.found("backup") == []
    assert done.kept is not None
    with Database.open(done.kept) as kept:
        assert names(kept) == ["a", "b", "later"]
    assert not [name for name in beside(copy) if "scratch" in name]


def test_what_is_kept_outlasts_a_loss_of_power(copied, tmp_path: Path, synced: list[tuple[int, set[str]]]) -> None:
    shelf, copy = copied
    kept = backup.restore(shelf.db.path, copy).kept
    assert kept is not None
    assert any(file == kept.stat().st_ino for file, _ in synced)
    assert any(file == tmp_path.stat().st_ino and kept.name in there for file, there in synced)


def test_what_is_kept_of_damage_outlasts_a_loss_of_power(
    copied, tmp_path: Path, synced: list[tuple[int, set[str]]]
) -> None:
    """With its log, before the database is emptied."""
    shelf, _ = copied
    kept = snapshot.keep_bytes(shelf.db.path)
    log = own_files(kept)[1]
    for path in (kept, log):
        assert any(file == path.stat().st_ino for file, _ in synced)
    assert any(file == tmp_path.stat().st_ino and {kept.name, log.name} <= there for file, there in synced)


@pytest.mark.parametrize("after", ["copy", "create"])
def test_a_staged_file_that_somebody_deletes_is_not_made_anew(
    copied, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty database would be put in."""
    shelf, copy = copied
    step = getattr(backup, after)

    def and_delete(*arguments: object, **more: object) -> None:
        step(*arguments, **more)
        for staged in copy.parent.glob(".test.db.*.scratch"):
            staged.unlink()

    monkeypatch.setattr(backup, after, and_delete)
    with pytest.raises(DatabaseError):
        backup.restore(shelf.db.path, copy)
    assert names(shelf.db) == ["a", "b", "later"]


def test_what_waited_to_be_cleared_where_the_backup_was_made_does_not_wait_here(filled, tmp_path: Path) -> None:
    """Clearing it would remove the copy of what is there now."""
    with filled.db.write() as db:
        erasures.note(db)
    made = backup.make(filled.db, tmp_path / "copy.db")
    maintain.maintain(filled.db)
    done = backup.restore(filled.db.path, made.path)
    anew(filled)
    with filled.db.read() as db:
        assert erasures.notes(db) == []
    maintain.maintain(filled.db)
    assert done.kept is not None
    assert done.kept.exists()


def test_what_waits_to_be_cleared_here_waits_after_a_restore(copied) -> None:
    shelf, copy = copied
    with shelf.db.write() as db:
        erasures.note(db)
        erasures.note(db)
        owed = erasures.notes(db)
    backup.restore(shelf.db.path, copy)
    anew(shelf)
    with shelf.db.read() as db:
        assert erasures.notes(db) == owed


def test_what_waits_to_be_cleared_waits_after_damage(copied) -> None:
    """The page that is damaged is one of those that the restore reads, too."""
    shelf, copy = copied
    with shelf.db.write() as db:
        erasures.note(db)
        owed = erasures.notes(db)
        page = db.value("SELECT rootpage FROM sqlite_schema WHERE name = 'generations'")
    shelf.db.close()
    damage(shelf.db.path, page - 1)
    done = backup.restore(shelf.db.path, copy)
    shelf.db = Database.open(shelf.db.path)
    with shelf.db.read() as db:
        assert erasures.notes(db) == owed
    assert done.kept is not None
    assert [name for name in beside(copy) if "damaged" in name or "before" in name] == [done.kept.name]


def test_a_database_of_an_older_schema_is_replaced(copied) -> None:
    """It knows no notes of erasures."""
    shelf, copy = copied
    shelf.db.migrate(1)
    backup.restore(shelf.db.path, copy)
    anew(shelf)
    assert names(shelf.db) == ["a", "b", "c"]


def test_a_disk_that_is_full_once_the_restore_is_committed_does_not_undo_it(copied, tmp_path: Path) -> None:
    """What is in the log is restored; folding it into the file can wait."""
    shelf, _ = copied
    with shelf.db.write() as db:
        settings.set(db, "large", "x" * 6_000_000)
    large = backup.make(shelf.db, tmp_path / "large.db")
    with disk(tmp_path / "disk", "30m") as folder:
        path = folder / "k.db"
        Database.open(path).close()
        room = 2 * large.bytes + 1_500_000  # for the staged file, the log and the copy, not for the file to grow
        filling = folder / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(folder).free - room))
        assert backup.restore(path, large.path).kept is not None
        assert path.stat().st_size < large.bytes
        filling.unlink()
        with Database.open(path) as database:
            assert names(database) == ["a", "b", "later"]
            assert verify(database, deep=True) == []


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_second_restore_replaces_no_copy(copied) -> None:
    shelf, copy = copied
    first = backup.restore(shelf.db.path, copy)
    second = backup.restore(shelf.db.path, copy)
    assert first.kept is not None
    assert second.kept is not None
    assert (first.kept.name, second.kept.name) == ("test.db.before-restore", "test.db.before-restore.2")
    with Database.open(first.kept) as kept:
        assert names(kept) == ["a", "b", "later"]


def test_readers_go_on_and_see_one_or_the_other(copied) -> None:
    shelf, copy = copied
    with shelf.db.read() as before:
        old = before.value("SELECT count(*) FROM project_files WHERE filename = 'later'")
        backup.restore(shelf.db.path, copy)
        assert before.value("SELECT count(*) FROM project_files WHERE filename = 'later'") == old == 1
    anew(shelf)
    assert names(shelf.db) == ["a", "b", "c"]
    shelf.add("new", "written after the restore")
    assert verify(shelf.db, deep=True) == []


KILLED_WRITER = """
import sys, os, signal
from pathlib import Path
from storage.database import Database
from storage import projects
database = Database.open(Path(sys.argv[1]))
with database.write() as db:
    projects.create(db, "of the killed writer")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_log_of_a_killed_writer_does_not_come_back(copied) -> None:
    shelf, copy = copied
    shelf.db.close()
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(shelf.db.path)])
    assert killed.returncode == -signal.SIGKILL
    assert own_files(shelf.db.path)[1].stat().st_size > 0
    backup.restore(shelf.db.path, copy)
    with Database.open(shelf.db.path) as database:
        with database.read() as db:
            assert projects.by_name(db, "of the killed writer") is None
        assert names(database) == ["a", "b", "c"]
        assert verify(database, deep=True) == []


def test_a_restore_by_renaming_brings_the_old_rows_back(copied) -> None:
    """The mutant that the test above must tell from a restore: a stale log is replayed over the new file."""
    shelf, copy = copied
    shelf.db.close()
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(shelf.db.path)])
    os.replace(copy, shelf.db.path)
    try:
        with Database.open(shelf.db.path) as database, database.read() as db:
            stale = projects.by_name(db, "of the killed writer") is not None or bool(verify(database, deep=True))
    except DatabaseError:
        stale = True
    assert stale


@pytest.mark.parametrize("page", range(12))
def test_a_damaged_page_is_restored_and_kept(copied, page: int) -> None:
    shelf, copy = copied
    shelf.db.close()
    damage(shelf.db.path, page)
    done = backup.restore(shelf.db.path, copy)
    with Database.open(shelf.db.path) as database:
        assert verify(database, deep=True) == []
        assert names(database) == ["a", "b", "c"]
    assert done.kept is not None
    assert done.kept.stat().st_size >= 12 * 4096
    assert stat.S_IMODE(done.kept.stat().st_mode) == 0o600


def test_a_file_that_is_cut_off_is_restored(copied) -> None:
    shelf, copy = copied
    shelf.db.close()
    os.truncate(shelf.db.path, 5000)
    backup.restore(shelf.db.path, copy)
    with Database.open(shelf.db.path) as database:
        assert verify(database, deep=True) == []


def test_a_restore_where_there_was_nothing_makes_the_database(copied, tmp_path: Path) -> None:
    _, copy = copied
    done = backup.restore(tmp_path / "new" / "place.db", copy)
    assert done.kept is None
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    with Database.open(done.path) as database:
        assert names(database) == ["a", "b", "c"]


def test_a_restore_that_fails_makes_no_database(tmp_path: Path) -> None:
    no_backup = tmp_path / "notes.txt"
    no_backup.write_text("words " * 1000)
    with pytest.raises(NotADatabaseError):
        backup.restore(tmp_path / "new" / "place.db", no_backup)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(copied, tmp_path: Path) -> None:
    _, copy = copied
    (tmp_path / "file").touch()
    with pytest.raises(ReadOnlyError, match="its folder cannot be made"):
        backup.restore(tmp_path / "file" / "place.db", copy)


def test_a_backup_that_was_opened_is_restored_from_a_disk_that_is_read_only(
    filled, open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    shelf, new = open_folder / "shelf", open_folder / "new"
    shelf.mkdir()
    new.mkdir()
    made = backup.make(filled.db, shelf / "copy.db")
    write_to(made.path)
    made.path.chmod(0o444)
    shelf.chmod(0o555)
    new.chmod(0o777)
    with as_plain_user():
        done = backup.restore(new / "k.db", made.path)
    assert (done.files, done.chunks) == (3, 4)
    assert [path.name for path in shelf.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("name", ["copy.db", "k.db.before-v5"])
def test_a_folder_that_may_not_be_looked_into_takes_no_backup(
    filled, open_folder: Path, name: str, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    closed = open_folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    with as_plain_user(), pytest.raises(DatabaseError, match=f"{name}: cannot be looked for"):
        backup.make(filled.db, closed / name)


def test_a_link_to_a_database_that_is_open_stands_for_all_of_it(copied, tmp_path: Path) -> None:
    """Its log lies beside the database, not beside the link."""
    shelf, _ = copied
    link = tmp_path / "link.db"
    link.symlink_to(shelf.db.path)
    done = backup.restore(tmp_path / "new.db", link)
    with Database.open(done.path) as database:
        assert names(database) == ["a", "b", "later"]


def test_damage_is_replaced_through_a_link(copied, tmp_path: Path) -> None:
    shelf, copy = copied
    shelf.db.close()
    damage(shelf.db.path, 0)
    link = tmp_path / "link" / "test.db"
    link.parent.mkdir()
    link.symlink_to(shelf.db.path)
    done = backup.restore(link, copy)
    assert done.kept is not None
    assert done.kept.parent == shelf.db.path.parent
    with Database.open(link) as database:
        assert names(database) == ["a", "b", "c"]


def test_full_text_that_an_older_tokenizer_made_is_made_anew_before_it_is_put_in(copied) -> None:
    """Whoever reads meanwhile would search by words that are cut otherwise."""
    shelf, copy = copied
    raw = apsw.Connection(str(copy))
    raw.execute("UPDATE text_versions SET version = 0")
    raw.close()
    backup.restore(shelf.db.path, copy)
    restored = connect(shelf.db.path, readonly=True)
    assert indexed_texts.outdated(restored) == []
    restored.close()


def test_an_old_backup_is_brought_up(copied, tmp_path: Path) -> None:
    shelf, copy = copied
    with Database.open(copy) as old:
        old.migrate(1)
    done = backup.restore(shelf.db.path, copy)
    assert done.schema == migrations.LATEST
    anew(shelf)
    assert verify(shelf.db, deep=True) == []
    assert names(shelf.db) == ["a", "b", "c"]


def test_counters_go_beyond_all_that_was_seen(copied) -> None:
    """Else a key could be given twice, to two rows that a caller takes for one."""
    shelf, copy = copied
    with shelf.db.read() as db:
        before = dict(db.all("SELECT name, seq FROM sqlite_sequence"))
    backup.restore(shelf.db.path, copy)
    anew(shelf)
    file = shelf.add("again", "fresh words")
    with shelf.db.read() as db:
        after = dict(db.all("SELECT name, seq FROM sqlite_sequence"))
        assert db.value("SELECT min(value) FROM generations") > STRIDE
        assert db.value("SELECT min(version) FROM text_stats") > STRIDE
    assert all(after[name] > seq for name, seq in before.items())
    assert file.pk > STRIDE


def test_whoever_has_the_old_content_open_is_told(copied) -> None:
    """Keys in its memory, of projects and files and models, may now be those of others."""
    shelf, copy = copied
    [claim] = [shelf.find("more", "more words"), *shelf.claim()][1:]
    assert not shelf.db.replaced
    backup.restore(shelf.db.path, copy)
    assert shelf.db.replaced
    with pytest.raises(ReplacedError, match="a backup was restored meanwhile"):
        shelf.commit(claim, "more words")
    with pytest.raises(ReplacedError), shelf.db.read():
        pass
    with pytest.raises(ReplacedError), shelf.db.batch():
        pass


def test_a_restored_lease_is_nobodys(filled, tmp_path: Path) -> None:
    filled.find("held", "by a worker")
    [claim] = filled.claim("worker")
    made = backup.make(filled.db, tmp_path / "copy.db")
    filled.commit(claim, "by a worker")
    backup.restore(filled.db.path, made.path)
    anew(filled)
    assert filled.file("held").status == "pending"
    assert [again.pk for again in filled.claim("another")] == [claim.pk]


COMMITTER = """
import sys
from pathlib import Path
from storage.database import Database
from storage import settings
database = Database.open(Path(sys.argv[1]))
number = 0
try:
    while True:
        with database.write() as db:
            settings.set(db, f"k{number}", number)
        print(number, flush=True)
        number += 1
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("page_size", [4096, 8192])
def test_nothing_that_was_committed_is_in_neither(copied, page_size: int) -> None:
    """What another process commits until the last moment is in the copy that is kept."""
    shelf, copy = copied
    shelf.db.close()
    raw = apsw.Connection(str(shelf.db.path))
    for statement in ("journal_mode = DELETE", f"page_size = {page_size}", "journal_mode = WAL"):
        raw.execute(f"PRAGMA {statement}; VACUUM").fetchall()
    raw.close()
    with subprocess.Popen([sys.executable, "-c", COMMITTER, shelf.db.path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        for _ in range(20):
            other.stdout.readline()
        done = backup.restore(shelf.db.path, copy)
        said = other.stdout.read().split()
    assert said[-1] == "ReplacedError"
    acknowledged = int(said[-2]) if len(said) > 1 else 19
    assert done.kept is not None
    with Database.open(done.kept) as kept, kept.read() as db:
        assert settings.get(db, f"k{acknowledged}") == acknowledged


HOLDER = """
import sys
from pathlib import Path
from storage.database import Database
from storage import projects
database = Database.open(Path(sys.argv[1]))
with database.write() as db:
    projects.create(db, "of the holder")
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("fault", ["header", "page size", "nothing left"])
def test_what_cannot_be_opened_is_not_taken_from_who_has_it_open(copied, fault: str) -> None:
    """What that process commits after the copy would be nowhere."""
    shelf, copy = copied
    path = shelf.db.path
    shelf.db.close()
    arguments = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        spoil(path, fault)
        before = [file.read_bytes() for file in own_files(path)[:2]]
        with pytest.raises(LockedError, match="end the processes that have it open"):
            backup.restore(path, copy)
        assert [file.read_bytes() for file in own_files(path)[:2]] == before
        assert [name for name in beside(path) if "damaged" in name or "before" in name] == []
        other.kill()
    done = backup.restore(path, copy)
    assert done.kept is not None
    assert b"of the holder" in b"".join(file.read_bytes() for file in own_files(done.kept)[:2] if file.exists())
    with Database.open(path) as database:
        assert names(database) == ["a", "b", "c"]
        assert verify(database, deep=True) == []


def spoil(path: Path, fault: str) -> None:
    match fault:
        case "header":
            damage(path, 0)
        case "page size":
            with path.open("r+b") as file:
                file.seek(16)
                file.write(b"\x20\x00")
        case _:
            os.truncate(path, 0)


def test_a_restore_that_fails_after_damage_was_set_aside_says_where_that_is(
    copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, copy = copied
    shelf.db.close()
    damage(shelf.db.path, 0)

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(backup, "_advance", full)
    with pytest.raises(DiskFullError, match=r"nothing was restored; what was there is kept in .*test\.db\.damaged"):
        backup.restore(shelf.db.path, copy)


FAULTS: list[tuple[Call, int]] = [
    ("write", errno.ENOSPC), ("write", errno.EIO), ("read", errno.EIO), ("truncate", errno.EIO), ("open", errno.EIO),
]  # fmt: skip


@pytest.mark.parametrize(("call", "number"), FAULTS)
@pytest.mark.parametrize("what", ["backup", "restore"])
def test_no_error_names_a_copy_that_is_gone_when_it_is_read(
    copied, tmp_path: Path, what: str, call: Call, number: int
) -> None:
    shelf, copy = copied
    target = tmp_path / "elsewhere" / "second.db"
    target.parent.mkdir()

    def do() -> None:
        if what == "backup":
            backup.make(shelf.db, target)
        else:
            backup.restore(shelf.db.path, copy)

    told = faults_at(call, number, do)
    wanted = {shelf.db.path, target} if what == "backup" else {shelf.db.path, copy}
    assert {Path(message.partition(":")[0]) for message in told} <= wanted
    assert told or call == "truncate"


def faults_at(call: Call, number: int, do: Callable[[], None]) -> set[str]:
    """Return what is said where calls to the system fail, one in a few, from the first to the last."""
    with FailingCalls(call, 0, number) as calm:
        do()
    told = set[str]()
    for nth in range(1, calm.calls + 1, max(1, calm.calls // 12)):
        try:
            with FailingCalls(call, nth, number, lasting=number == errno.ENOSPC):
                do()
        except KnowlexError as error:
            told.add(error.message)
    return told


def test_what_cannot_be_read_for_a_backup_is_the_database(filled, tmp_path: Path) -> None:
    """And not the disk it is written to."""
    source = connect(filled.db.path, readonly=True)
    source.script("PRAGMA cache_size = 0; BEGIN; SELECT count(*) FROM projects")
    with FailingCalls("read", 8, errno.EIO, lasting=True), pytest.raises(DatabaseError, match=rf"^{filled.db.path}: "):
        snapshot.copy(source, tmp_path / "a.scratch", named=tmp_path / "copy.db")
    source.close()


def test_a_full_disk_names_the_backup_that_does_not_fit(filled, small_disk: Path) -> None:
    with filled.db.write() as db:
        settings.set(db, "large", "x" * 2_000_000)
    with pytest.raises(DiskFullError, match=rf"^{small_disk}/copy\.db: no space left"):
        backup.make(filled.db, small_disk / "copy.db")
    assert list(small_disk.iterdir()) == []


def test_a_copy_is_done_while_others_write(filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit of another process would make a copy that holds no snapshot begin anew."""
    monkeypatch.setattr("storage.snapshot.PAGES_A_STEP", 1)
    with filled.db.write() as db:
        settings.set(db, "large", "x" * 2_000_000)
    arguments = [sys.executable, "-c", COMMITTER, filled.db.path]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        reader = connect(filled.db.path, readonly=True)
        snapshot.copy(reader, tmp_path / "another.db")
        reader.close()
        made = backup.make(filled.db, tmp_path / "copy.db")
        assert other.poll() is None
        other.kill()
        other.stdout.read()
    with Database.open(made.path) as copy:
        assert verify(copy, deep=True) == []


def test_a_copy_holds_its_snapshot_from_the_first_page_to_the_last(filled) -> None:
    """BEGIN alone holds none, and the backup would begin anew at every commit of another process."""
    reader = connect(filled.db.path, readonly=True)
    with snapshot.moment(reader):
        assert reader.raw.txn_state() == apsw.SQLITE_TXN_READ
    assert reader.raw.txn_state() == apsw.SQLITE_TXN_NONE
    reader.close()


def test_a_log_without_its_database_is_kept(copied) -> None:
    """The engine deletes the log of a file of no bytes when it opens it."""
    shelf, copy = copied
    shelf.db.close()
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(shelf.db.path)])
    os.truncate(shelf.db.path, 0)
    with pytest.raises(CorruptDatabaseError, match="holds no bytes, but its log does"):
        Database.open(shelf.db.path)
    done = backup.restore(shelf.db.path, copy)
    assert done.kept is not None
    assert own_files(done.kept)[1].stat().st_size > 0


def test_a_header_that_says_no_schema_is_kept(copied) -> None:
    shelf, copy = copied
    shelf.db.close()
    raw = apsw.Connection(str(shelf.db.path))
    raw.execute("PRAGMA user_version = 0")
    raw.close()
    done = backup.restore(shelf.db.path, copy)
    assert done.kept is not None
    raw = apsw.Connection(str(done.kept))
    assert raw.execute("SELECT count(*) FROM project_files WHERE filename = 'later'").fetchone() == (1,)
    raw.close()


@pytest.mark.parametrize("content", [b"# Notes\n\nWritten by hand.\n" * 500, b"short", b"\0" * 8192])
def test_a_file_that_does_not_begin_as_a_database_is_not_replaced(copied, tmp_path: Path, content: bytes) -> None:
    """A name that was mistyped costs nobody a file; moved away, as the error says, it is in no way."""
    _, copy = copied
    notes = tmp_path / "notes.md"
    notes.write_bytes(content)
    before = beside(notes)
    with pytest.raises(NotADatabaseError, match=r"notes\.md: is no database, .* move it away first \(mv\)"):
        backup.restore(notes, copy)
    assert (notes.read_bytes(), beside(notes)) == (content, before)
    notes.rename(tmp_path / "notes.away")
    assert backup.restore(notes, copy).kept is None
    with Database.open(notes) as database:
        assert names(database) == ["a", "b", "c"]


def test_a_database_whose_header_is_ruined_is_restored_once_it_is_moved_away(copied, tmp_path: Path) -> None:
    """Its log, which stays behind, is kept and not replayed over the backup."""
    shelf, copy = copied
    path = shelf.db.path
    shelf.db.close()
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)])
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    with pytest.raises(NotADatabaseError, match="header is ruined"):
        backup.restore(path, copy)
    path.rename(tmp_path / "ruined")
    kept = backup.restore(path, copy).kept
    assert kept is not None
    assert own_files(kept)[1].stat().st_size > 0
    with Database.open(path) as database:
        assert verify(database, deep=True) == []
        assert names(database) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [b"\x20\x00", b"\x02\x00", b"\x00\x01"])
def test_a_header_with_another_page_size_is_restored(copied, size: bytes) -> None:
    shelf, copy = copied
    shelf.db.close()
    with shelf.db.path.open("r+b") as file:
        file.seek(16)
        file.write(size)
    done = backup.restore(shelf.db.path, copy)
    assert done.kept is not None
    with Database.open(shelf.db.path) as database:
        assert verify(database, deep=True) == []
        assert names(database) == ["a", "b", "c"]


@pytest.mark.parametrize("fault", ["missing", "text", "other", "damaged", "newer", "empty", "itself"])
def test_what_is_no_whole_backup_changes_nothing(copied, tmp_path: Path, fault: str) -> None:
    shelf, copy = copied
    source, expected = copy, DatabaseError
    match fault:
        case "missing":
            source, expected = tmp_path / "missing.db", NotFoundError
        case "text":
            source = tmp_path / "notes.txt"
            source.write_text("words " * 1000)
            expected = NotADatabaseError
        case "other":
            source = tmp_path / "other.db"
            raw = apsw.Connection(str(source))
            raw.execute("CREATE TABLE t (a)")
            raw.close()
            expected = NotADatabaseError
        case "damaged":
            damage(copy, 20)
            expected = CorruptDatabaseError
        case "newer":
            raw = apsw.Connection(str(copy))
            raw.execute("PRAGMA user_version = 99")
            raw.close()
            expected = NewerSchemaError
        case "empty":
            source = tmp_path / "empty.db"
            source.touch()
            expected = NotADatabaseError
        case _:
            source, expected = shelf.db.path, UsageError
    with pytest.raises(expected, match=source.name):
        backup.restore(shelf.db.path, source)
    assert names(shelf.db) == ["a", "b", "later"]
    assert verify(shelf.db, deep=True) == []
    assert not [name for name in beside(copy) if "scratch" in name or "before-restore" in name]


def test_a_database_of_another_program_is_not_replaced(copied, tmp_path: Path) -> None:
    _, copy = copied
    other = tmp_path / "other.db"
    raw = apsw.Connection(str(other))
    raw.execute("CREATE TABLE precious (a)")
    raw.close()
    with pytest.raises(NotADatabaseError, match="another program"):
        backup.restore(other, copy)
    raw = apsw.Connection(str(other))
    assert raw.execute("SELECT name FROM sqlite_schema").fetchall() == [("precious",)]
    raw.close()


def test_what_another_program_made_is_no_backup_and_named(copied, tmp_path: Path) -> None:
    shelf, _ = copied
    other = tmp_path / "other.db"
    raw = apsw.Connection(str(other))
    raw.execute("CREATE TABLE precious (a)")
    raw.close()
    with pytest.raises(NotADatabaseError) as caught:
        backup.restore(shelf.db.path, other)
    assert caught.value.message == f"{other}: a database of another program; give a file that knowlex backup made"


def test_a_writer_in_the_way_leaves_the_database_as_it_was(copied, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, copy = copied
    monkeypatch.setattr("storage.connection.BUSY_TIMEOUT_MS", 50)
    with shelf.db.write(), pytest.raises(LockedError):
        backup.restore(shelf.db.path, copy)
    assert names(shelf.db) == ["a", "b", "later"]


def test_a_scratch_file_is_gone_after_the_block(tmp_path: Path) -> None:
    with scratch.beside(tmp_path / "t", tmp_path / "k.db") as path:
        connection = connect(path)
        connection.script("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
        connection.close()
    assert list(tmp_path.iterdir()) == []

"""What is no plain file is passed over, and what changes while it is read is never stored as what it was not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import stat
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from faults import guard, mutants
from faults.changes import Writer
from faults.desk import Attempts, Desk, note
from faults.table import Figure

from storage import chunks
from storage.database import Database
from storage.files import Status
from storage.verify import verify
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(20)

SECRET = "cormorant-4431"
SPARSE_BYTES = 5 * 10**9


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.md").write_text(f"# {SECRET}", "utf8")
    return folder / "secret.md"


def tree(folder: Path, secret: Path) -> dict[str, str]:
    """Make one of everything that has a name; return what is said of each, "" for a file that is read."""
    folder.mkdir()
    (folder / "a.md").write_text(note(1), "utf8")
    (folder / "deep").mkdir()
    (folder / "deep/z.md").write_text(note(2), "utf8")
    os.mkfifo(folder / "fifo.md")
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.md")
    links = {
        "link-out.md": secret,
        "link-folder": secret.parent,
        "link-loop": folder,
        "link-self.md": Path("link-self.md"),
        "link-there.md": Path("link-back.md"),
        "link-back.md": Path("link-there.md"),
        "link-fifo.md": folder / "fifo.md",
        "link-zero.md": Path("/dev/zero"),
        "link-memory.md": Path("/proc/self/mem"),
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(SPARSE_BYTES)
    made = {"a.md": "", "z.md": "", "sparse.txt": "too_large"}
    with contextlib.suppress(PermissionError):
        os.mknod(folder / "zero.md", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    return made


@contextlib.contextmanager
def opened(fifo: Path) -> Generator[list[str]]:
    """Note whoever opens a pipe to read from it, and let go of who waits for what it says."""
    found: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            try:
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO
            else:
                found.append("somebody reads the pipe")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def stored_texts(desk: Desk) -> dict[str, tuple[str | None, str]]:
    """Return the content hash of each ready file and what was stored of its text, by its name."""
    with desk.db.read() as db:
        return {
            file.filename: (file.content_hash, "".join(chunk.content for chunk in chunks.of_file(db, file.pk)))
            for file in desk.files()
            if file.status is Status.READY
        }


def tree_differences(desk: Desk, made: dict[str, str], opens: int) -> list[str]:
    """Return what is not as it must be after an ingestion of `tree`."""
    found = [*map(str, verify(desk.db, deep=True))]
    if opens:
        found.append(f"the file outside was opened {opens} times")
    if SECRET in str(stored_texts(desk)):
        found.append("the file outside was read")
    ended = {file.filename: file.error_code or "" for file in desk.files()}
    return found + ([f"{ended}, not {made}"] if ended != made else [])


@pytest.mark.xdist_group("faults")
def test_what_is_no_plain_file_is_passed_over(db: Database, tmp_path: Path, secret: Path) -> None:
    made = tree(tmp_path / "in", secret)
    desk = Desk(db, tmp_path / "in", runner=RunnerSettings(workers=1))
    with opened(tmp_path / "in/fifo.md") as readers, guard.watching_file(secret) as opens:
        report = desk.ingest()
        assert [*tree_differences(desk, made, opens()), *readers] == []
    assert report.skipped == len(list((tmp_path / "in").iterdir())) - 3  # the folder counts for the file in it


@pytest.mark.parametrize(
    ("mutant", "told"), [("special-files-opened", "reads the pipe"), ("links-followed", "outside was")]
)
def test_what_is_opened_all_the_same_is_seen(
    mutant: str, told: str, db: Database, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tree(tmp_path / "in", secret)
    for name in ("zero.md", "link-zero.md", "link-memory.md"):  # what has no end would take a mutant too long
        (tmp_path / "in" / name).unlink(missing_ok=True)
    mutants.plant(mutant, monkeypatch.setattr)
    desk = Desk(db, tmp_path / "in", runner=RunnerSettings(workers=1))
    with opened(tmp_path / "in/fifo.md") as readers, guard.watching_file(secret) as opens:
        desk.ingest()
        assert any(told in difference for difference in [*tree_differences(desk, made, opens()), *readers])


# --- files that change while they are read


def _told(whole: str | None, stored: str) -> str:
    """What is wrong with the stored text of a content, or "". Line ends and spaces are not stored everywhere."""
    if whole is None:
        return "a content it never had"
    return "" if "".join(whole.split()) == "".join(stored.split()) else "the text of another content"


class Field:
    """A folder under a writer, and an ingestion that reads slowly."""

    def __init__(self, db: Database, place: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, *planted: str) -> None:
        monkeypatch.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)
        self.seen = guard.plant(monkeypatch, place / "report", "reads-slowly", *planted)
        mutants.plant("reads-slowly", monkeypatch.setattr)
        self.desk = Desk(db, place / "in", runner=RunnerSettings(workers=2), attempts=Attempts(most=10**9))
        self.writer = Writer(place / "in", secret, random.Random(20))
        self.compared = 0

    def wrong(self) -> list[str]:
        """Return the ready files whose stored text is not of the bytes that their hash is of."""
        stored = stored_texts(self.desk)
        self.compared += len(stored)
        return [
            f"{name}: {told}"
            for name, (digest, text) in stored.items()
            if (told := _told(self.writer.contents.get(digest or ""), text))
        ]

    def runs(self, changes: int, *, most_s: float) -> list[str]:
        """Ingest again and again until so many changes were made, or so much time is over; return what was wrong."""
        found: list[str] = []
        end = time.monotonic() + most_s
        with self.writer as writer:
            while writer.changes < changes and time.monotonic() < end:
                self.desk.ingest(prune=True, force=True)
                found += self.wrong()
        return found

    def settled(self) -> list[str]:
        """Return what is not as it must be once nothing changes any more."""
        self.desk.ingest(prune=True, force=True)
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.desk.folder.iterdir()}
        stored = {name: digest for name, (digest, _) in stored_texts(self.desk).items()}
        found = [*map(str, verify(self.desk.db, deep=True)), *self.wrong(), *self.seen.touched()]
        if SECRET in str(stored_texts(self.desk)):
            found.append("the file outside was read")
        return found + ([f"stored {stored}, on disk {hashes}"] if stored != hashes else [])


@pytest.mark.xdist_group("faults")
def test_a_changing_file_is_stored_as_it_was(
    db: Database, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(db, tmp_path, secret, monkeypatch)
    assert field.runs(150, most_s=60) == []
    assert field.settled() == []
    assert field.compared > 0


def test_a_text_of_other_bytes_than_its_hash_is_seen(
    db: Database, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(db, tmp_path, secret, monkeypatch, "reads-twice")
    found: list[str] = []
    with field.writer:
        for _ in range(20):
            field.desk.ingest(prune=True, force=True)
            found += field.wrong()
            if found:
                break
    assert any("another content" in difference for difference in found)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_changes(
    db: Database, tmp_path: Path, secret: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(db, tmp_path, secret, monkeypatch)
    found = field.runs(10_000, most_s=3 * 3600)
    found += field.settled()
    figure(
        20,
        f"{field.writer.changes:,} changes under an ingestion: {field.compared:,} ready files compared with the bytes"
        f" of their hash, {len(found)} differences{found[:3] or ''}; no hang",
        not found and field.writer.changes >= 10_000 and field.compared >= 300,
    )


@pytest.mark.soak
def test_everything_that_has_a_name(db: Database, tmp_path: Path, secret: Path, figure: Figure) -> None:
    made = tree(tmp_path / "in", secret)
    desk = Desk(db, tmp_path / "in")
    with opened(tmp_path / "in/fifo.md") as readers, guard.watching_file(secret) as opens:
        report = desk.ingest()
        found = [*tree_differences(desk, made, opens()), *readers]
    figure(
        20,
        f"pipes, sockets, devices, links out and in circles, 5 GB sparse: {report.skipped} passed over, {report.failed}"
        f" too large, {report.ingested} read; {len(found)} differences{found[:3] or ''}; no hang",
        not found,
    )

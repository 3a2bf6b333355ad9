"""Wherever the power is lost: the database opens and is sound, and what was acknowledged is there."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faults import mutants
from faults.power import Image, Recorder, hasty_names, images
from faults.table import Figure

from knowlex import Knowlex
from pipeline.ingest import Outcome, Result
from storage import backup, migrations
from storage.database import Database
from storage.errors import KnowlexError
from storage.queue import Claim
from storage.verify import verify
from workers.batch import Progress

pytestmark = pytest.mark.row(6)

DOUBTED = object()
"""What is promised of a thing while a call may change it."""

ACKNOWLEDGED = (
    "SELECT 'file', path_bytes, 'ready' FROM project_files WHERE status = 'ready'"
    " UNION ALL SELECT 'message', id, content FROM messages"
    " UNION ALL SELECT 'memory', id, content FROM project_memories"
    " UNION ALL SELECT 'setting', key, value FROM app_settings"
)


@dataclass
class Life:
    """A database in a folder of its own, and what happens to it; every call that returns is a promise."""

    folder: Path
    sources: Path
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.sources.mkdir()
        self.recorder = Recorder(self.folder)
        self.kb = Knowlex(self.folder / "k.db", workers=1)

    @contextmanager
    def acknowledged(self) -> Generator[None]:
        """Promise what the calls of the block have done at its end, and nothing of it while they are at it."""
        steps = self.recorder.steps
        before, start = found(self.folder), len(steps)
        yield
        after = found(self.folder)
        changed = {key: after.get(key) for key in before | after if before.get(key) != after.get(key)}
        steps[start:start] = [("promise", key, DOUBTED) for key in changed]
        steps += [("promise", key, value) for key, value in changed.items()]

    def ingest(self, *names: str) -> None:
        for name in names:
            text = "\n\n".join(f"Paragraph {part} of {name}: ship {part} lies in berth {name}." for part in range(12))
            (self.sources / f"{name}.md").write_text(f"# {name}\n\n{text}", "utf8")
        with self.acknowledged():
            self.kb.ingest("logbook", self.sources, progress=Promises(self.recorder))

    def talk(self, count: int) -> str:
        conversation = self.kb.conversations.create("Berths", project="logbook").id
        for number in range(count):
            with self.acknowledged():
                self.kb.conversations.add(conversation, "user", f"Where does ship {number} lie?")
        return self.kb.conversations.get(conversation).messages[-1].id

    def remember(self, number: int) -> str:
        with self.acknowledged():
            id = self.kb.memories.add("logbook", f"Berth {number}", f"Berth {number} is closed for repairs").id
        with self.acknowledged():
            self.kb.memories.update(id, content=f"Berth {number} is open again")
        return id

    def do(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        with self.acknowledged():
            call(*arguments, **options)


class Promises(Progress):
    """Promises each file as soon as it is told to be ready."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def finished(self, claim: Claim, result: Result) -> None:
        if result.outcome is Outcome.READY:
            self._recorder.promise(("file", claim.path), "ready")


def found(folder: Path) -> dict[tuple[str, Any], Any]:
    """Return what may be promised: rows, and copies of the database with a hash of their bytes."""
    copies = {("copy", path.name): hashlib.sha256(path.read_bytes()).hexdigest() for path in _copies(folder)}
    path = folder / "k.db"
    if not path.exists() or not path.stat().st_size:
        return copies
    with Database.open(path) as database, database.read() as db:
        return copies | {(kind, key): value for kind, key, value in db.all(ACKNOWLEDGED)}


def _copies(folder: Path) -> Iterator[Path]:
    """Return the copies by their names; an empty file is a name that was taken for one, and no copy yet."""
    for path in sorted(folder.iterdir()):
        named = path.name == "copy.db" or (path.name.startswith("k.db.before-") and not path.name.endswith("-shm"))
        if named and path.stat().st_size:
            yield path


def lived(life: Life) -> None:
    """Do everything that writes, once."""
    kb = life.kb
    life.ingest("amber", "basalt", "cedar")
    message = life.talk(3)
    memory = life.remember(1)
    life.do(kb.settings.__setitem__, "harbour.name", "Varnholm")
    life.do(kb.backup, life.folder / "copy.db")
    life.ingest("dune")
    life.do(kb.conversations.edit, message, "Where does the tug lie?")
    life.do(kb.delete_file, kb.files("logbook")[0].id)
    life.do(kb.maintain, vacuum=True)
    life.do(kb.migrate, migrations.LATEST - 1)
    life.do(kb.project, "logbook")  # brings the schema up again
    life.remember(2)
    life.do(kb.erase, message)
    life.do(kb.memories.delete, memory)
    life.do(kb.maintain)
    life.talk(2)
    life.do(kb.restore, life.folder / "copy.db")
    life.talk(2)
    life.do(kb.close)
    life.ingest("ember")
    life.do(kb.backup, life.folder / "copy.db")
    kb.close()


def short_life(life: Life) -> None:
    """Write a little."""
    life.do(life.kb.projects.create, "logbook")
    life.talk(8)
    life.do(life.kb.backup, life.folder / "copy.db")
    life.remember(1)
    life.kb.close()


def rescued(life: Life) -> None:
    """Restore a backup over what is no database any more but for how it begins, and of which the bytes are kept."""
    short_life(life)
    (life.folder / "k.db").write_bytes(b"SQLite format 3\0" + b"no database" * 1000)
    life.kb.restore(life.folder / "copy.db")
    life.kb.close()


def record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *planted: str, of: Callable[[Life], None] = lived
) -> Recorder:
    """Record a life, with mutants or without."""
    with monkeypatch.context() as patched:
        life = Life(folder / "disk", folder / "in")
        with life.recorder.recording(patched.setattr):
            for name in planted:
                mutants.plant(name, patched.setattr)
            of(life)
    return life.recorder


@dataclass
class Outage:
    """What was found in images: faults by their kind."""

    images: int = 0
    corrupt: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = f" ({(self.corrupt + self.lost)[0]})" if self.corrupt or self.lost else ""
        return f"{self.images} images: {len(self.corrupt)} corrupt, {len(self.lost)} acknowledged lost{first}"

    @property
    def harmless(self) -> bool:
        return not self.corrupt and not self.lost


def outage(recorder: Recorder, folder: Path, count: int, seed: int, *, deep_every: int) -> Outage:
    """Lose the power again and again, and look at what is left."""
    seen = Outage()
    for image in images(recorder.steps, count, random.Random(seed)):
        seen.images += 1
        folder.mkdir()
        image.lay(folder)
        try:
            seen.corrupt += [f"{image.step}: {fault}" for fault in _unsound(folder, deep=not seen.images % deep_every)]
            seen.lost += [f"{image.step}: {loss}" for loss in _lost(folder, image)]
        except KnowlexError as error:
            seen.corrupt.append(f"{image.step}: {error}")
        shutil.rmtree(folder)
    return seen


def _unsound(folder: Path, *, deep: bool) -> Iterator[str]:
    for copy in _copies(folder):
        backup.examine(copy)
    with Database.open(folder / "k.db") as database:
        with database.read() as db:
            if (said := db.value("PRAGMA integrity_check")) != "ok":
                yield said
        yield from map(str, verify(database, deep=deep))


def _lost(folder: Path, image: Image) -> Iterator[str]:
    there = found(folder)
    for key, value in image.promises.items():
        if value is not DOUBTED and there.get(key) != value:
            yield f"{key}: {there.get(key)!r} instead of {value!r}"


@pytest.mark.xdist_group("faults")
def test_no_loss_of_power_costs_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(tmp_path, monkeypatch)
    seen = outage(recorder, tmp_path / "image", 40, seed=6, deep_every=10)
    assert seen.harmless, seen
    assert hasty_names(recorder.steps) == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_thousands_of_losses_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    recorder = record(tmp_path, monkeypatch)
    seen = outage(recorder, tmp_path / "image", 5_000, seed=5_000, deep_every=10)
    figure(6, str(seen), seen.harmless)


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
@pytest.mark.parametrize("name", ["synchronous-off", "unsynced-names"])
def test_what_does_not_wait_for_the_disk_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    recorder = record(tmp_path, monkeypatch, name, of=short_life)
    seen = outage(recorder, tmp_path / "image", 150, seed=7, deep_every=30)
    figure(6, f"{name}: {len(seen.corrupt)} corrupt, {len(seen.lost)} lost of 150 images", not seen.harmless)


@pytest.mark.xdist_group("faults")
def test_copies_are_synced_before_they_get_their_names_and_their_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hasty_names(record(tmp_path, monkeypatch, of=rescued).steps) == []


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
@pytest.mark.parametrize("name", ["unsynced-files", "unsynced-names"])
def test_copies_that_are_not_synced_are_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    hasty = hasty_names(record(tmp_path, monkeypatch, name, of=rescued).steps)
    figure(6, f"{name}: caught at {', '.join(hasty)}", bool(hasty))

"""A command that is killed leaves the database as it was or as it was to be, and finishes when it is run again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import storm
from faults.storm import Field
from faults.table import Figure

from storage import backup, connection, ids, migrations
from storage.database import Database
from storage.verify import verify

pytestmark = [pytest.mark.row(1), pytest.mark.xdist_group("faults")]

CONTENT = (
    "SELECT name, description FROM projects",
    "SELECT path, status, chunk_count FROM project_files",
    "SELECT file_id, chunk_index, content FROM file_chunks",
    "SELECT id, title FROM conversations",
    "SELECT conversation_id, id, content, parent_id FROM messages",
)

State = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """A folder of a test, with a database and what commands read and write beside it."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "kb.db"

    @property
    def backup(self) -> Path:
        return self.folder / "nightly.backup"

    @property
    def talks(self) -> Path:
        return self.folder / "talks.jsonl"

    @property
    def export(self) -> Path:
        return self.folder / "elsewhere" / "export.jsonl"

    def call(self, *arguments: object) -> list[str]:
        return ["--db", str(self.database), *map(str, arguments)]

    def copied_to(self, folder: Path) -> Place:
        """Return a copy of the place as it is."""
        shutil.rmtree(folder, ignore_errors=True)
        return Place(shutil.copytree(self.folder, folder))

    def state(self) -> State:
        """Return what people have put in, and what is wrong with it."""
        db = connection.connect(self.database, readonly=True)
        try:
            assert db.value("PRAGMA integrity_check") == "ok"
            content = tuple(tuple(sorted(map(str, db.all(query)))) for query in CONTENT)
            latest = migrations.version(db) == migrations.LATEST
        finally:
            db.close()
        return content, self._problems() if latest else ()

    def _problems(self) -> State:
        with Database.open(self.database, readonly=True) as db:
            return tuple(sorted({problem.kind for problem in verify(db, deep=True)}))

    def copies(self) -> list[Path]:
        """Return what bears the name of a copy of the database."""
        return [path for path in self.folder.iterdir() if path == self.backup or path.name.startswith("kb.db.")]

    def holding(self, text: bytes) -> list[str]:
        """Return the names of the files that hold a text, in whatever case."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.name for path in files if text in path.read_bytes().lower()]

    def assert_no_leftovers(self) -> None:
        """Assert that no file of a killed process is left, here or where its command wrote to."""
        storm.assert_no_leftovers(self.database)
        assert [path for path in self.folder.rglob("*") if path.name.endswith(".scratch")] == []


@dataclass(frozen=True)
class Command:
    """A command, what is done to the place before it, and steps of its work.

    makes: the copy that must be there in the end. erases: what must then be in no file any more.
    """

    arguments: tuple[object, ...]
    steps: tuple[str, ...]
    prepare: Callable[[Place], object] = lambda place: None
    makes: str = ""
    erases: bytes = b""


def spoil(place: Place) -> None:
    """Make the database say what it does not hold, in ways that need no file to be read again."""
    with Database.open(place.database) as db, db.write() as writer:
        writer.run("UPDATE text_stats SET length = length + 7")
        writer.run("DELETE FROM generations")


def bring_down(place: Place) -> None:
    """Give the database its first schema."""
    with Database.open(place.database) as db:
        db.migrate(1)
    for copy in place.folder.glob("kb.db.*"):
        copy.unlink()


def write_talks(place: Place) -> None:
    """Write a conversation that the database does not have to a file."""
    said = [
        {"type": "message", "id": ids.new_id(), "role": "user", "content": f"Is berth {number} free tonight?"}
        for number in range(200)
    ]
    lines = [{"type": "conversation", "id": ids.new_id(), "title": "Berths", "project": "quay"}, *said]
    place.talks.write_text("\n".join(map(json.dumps, lines)), "utf8")


def back_up_and_change(place: Place) -> None:
    """Back the database up, and then change it."""
    assert storm.here(place.call("backup", place.backup)) == 0
    write_talks(place)
    assert storm.here(place.call("conversation", "import", place.talks)) == 0


def keep_a_copy(place: Place) -> None:
    """Leave a copy of the database as the one that a repair keeps."""
    with Database.open(place.database) as database, database.read() as db:
        migrations.keep_copy(db, "before-repair")


COMMANDS = {
    "backup": Command(
        ("backup", "BACKUP"),
        ("storage.backup.copy", "storage.backup.examine", "os.replace"),
        makes="nightly.backup",
    ),
    "restore": Command(
        ("restore", "BACKUP", "--yes"),
        ("storage.incarnation.renew", "storage.queue.end_leases", "storage.migrations.keep_copy"),
        back_up_and_change,
        makes="kb.db.before-restore",
    ),
    "erase": Command(
        ("erase", storm.PROJECT, "--yes"),
        ("storage.text_index.optimize", "storage.compaction.write_anew", "storage.compaction.fold_log"),
        keep_a_copy,
        erases=b"harbour",
    ),
    "repair": Command(
        ("repair",),
        ("storage.migrations.keep_copy", "storage.mends.tell_others"),
        spoil,
        makes="kb.db.before-repair",
    ),
    "maintain": Command(
        ("maintain", "--vacuum"),
        ("storage.text_index.merge", "storage.maintain.write_anew", "storage.growth.sample"),
    ),
    "migrate up": Command(
        ("migrate",),
        ("storage.migrations._record", "storage.migrations.back_up_before"),
        bring_down,
        makes="kb.db.before-v1",
    ),
    "migrate down": Command(
        ("migrate", "--to", "1"),
        ("storage.migrations._record", "storage.migrations.back_up_before"),
        makes=f"kb.db.before-v{migrations.LATEST}",
    ),
    "conversation import": Command(
        ("conversation", "import", "TALKS"), ("storage.text_index.put", "storage.conversations.create"), write_talks
    ),
    "conversation export": Command(
        ("conversation", "export", "--output", "EXPORT"), ("knowlex.cli.conversation._copy", "storage.scratch.put")
    ),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A database with files and a conversation."""
    place = Place(tmp_path_factory.mktemp("library"))
    field = Field(tmp_path_factory.mktemp("files"), random.Random(7), files=12)
    assert storm.calmly(storm.ingestion(place.database, field.folder)) in (0, 1)
    write_talks(place)
    assert storm.here(place.call("conversation", "import", place.talks)) == 0
    place.talks.unlink()
    place.export.parent.mkdir()
    return place


@dataclass
class Trial:
    """A command to be killed again and again, each time on a fresh copy of the same place."""

    command: Command
    before: Place
    calm: Place
    folder: Path
    old: State
    new: State
    """Of the database, before and after."""

    @classmethod
    def of(cls, command: Command, library: Place, folder: Path) -> Trial:
        before = library.copied_to(folder / "before")
        command.prepare(before)
        calm = before.copied_to(folder / "calm")
        assert storm.here(_call(command, calm)) == 0
        trial = cls(command, before, calm, folder / "now", before.state(), calm.state())
        if command.erases:
            assert before.holding(command.erases)
        trial._assert_finished(calm)
        return trial

    def kill(self, moment: str, *options: str) -> bool:
        """Kill the command at a moment, look, and run it again; tell whether it got there. options: of faults.child."""
        place = self.before.copied_to(self.folder)
        if not storm.killed_at(moment, _call(self.command, place), *options):
            return False
        found = place.state()
        assert found in (self.old, self.new)
        self._assert_whole(place)
        again = storm.calmly(_call(self.command, place), *options)
        if again == NOT_FOUND and found == self.new:  # erased already: what is left to clear, maintain clears
            assert self.command.arguments[0] == "erase"
            again = storm.calmly(place.call("maintain"), *options)
        assert again == 0
        assert place.state() == self.new
        self._assert_finished(place)
        return True

    def _assert_whole(self, place: Place) -> None:
        """Assert that every copy is whole, to the last page, and an export to the last line."""
        for copy in place.copies():
            backup.examine(copy)
        if place.export.exists():
            assert place.export.read_bytes() == self.calm.export.read_bytes()

    def _assert_finished(self, place: Place) -> None:
        """Assert that all is there that the command makes, and nothing that it takes away."""
        self._assert_whole(place)
        assert (place.folder / self.command.makes).exists()
        assert place.export.exists() == self.calm.export.exists()
        if self.command.erases:
            assert place.holding(self.command.erases) == []
        place.assert_no_leftovers()


NOT_FOUND = 3


def _call(command: Command, place: Place) -> list[str]:
    named = {"BACKUP": place.backup, "TALKS": place.talks, "EXPORT": place.export}
    return place.call(*(named.get(str(argument), argument) for argument in command.arguments))


NAMES = pytest.mark.parametrize("name", COMMANDS)


@NAMES
def test_a_killed_command_leaves_old_or_new_and_finishes_the_next_time(
    name: str, library: Place, tmp_path: Path
) -> None:
    trial = Trial.of(COMMANDS[name], library, tmp_path)
    assert trial.kill(f"after:{COMMANDS[name].steps[0]}")


@pytest.mark.parametrize(("name", "planted"), [("backup", "no-backup"), ("erase", "copies-not-looked-at")])
def test_a_copy_that_is_missing_or_stays_is_seen(name: str, planted: str, library: Place, tmp_path: Path) -> None:
    trial = Trial.of(COMMANDS[name], library, tmp_path)
    with pytest.raises(AssertionError, match=r"nightly\.backup|before-repair"):
        trial.kill(f"before:{COMMANDS[name].steps[-1]}", "--mutant", planted)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@NAMES
def test_twenty_kills_of_a_command(name: str, library: Place, tmp_path: Path, figure: Figure) -> None:
    trial = Trial.of(COMMANDS[name], library, tmp_path)
    kills = 0
    for step in COMMANDS[name].steps:
        for when in ("before", "after"):
            assert trial.kill(f"{when}:{step}")
            kills += 1
    for hit in on_the_disk(trial, random.Random(name)):
        kills += hit
        if kills == 20:
            break
    figure(1, f"{kills} kills of {name}: each time old or new, whole, and finished by the next run", kills == 20)


def on_the_disk(trial: Trial, rng: random.Random) -> Iterator[bool]:
    """Kill at changes of the disk, evenly spread over the command's: a number that was not reached is the new limit."""
    limit = 5000
    while True:
        nth = rng.randint(1, limit)
        hit = trial.kill(f"disk:any#{nth}")
        if not hit:
            limit = max(1, nth - 1)
        yield hit

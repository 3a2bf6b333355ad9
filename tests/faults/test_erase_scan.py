"""What is erased is in no byte of the database, its log or a copy that Knowlex made; everything else is still there."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest
from faults import mutants, storm
from faults.desk import Desk

from knowlex import Knowlex
from storage import compaction, conversations, memories, messages, migrations, projects
from storage.database import Database
from storage.errors import DiskFullError
from storage.snapshot import blocks

pytestmark = pytest.mark.row(16)

LETTERS = "bcdfghjkmnpqrtvwxz"
"""No vowels and no s: no stemmer takes a part of such a word for an ending."""


def canary(rng: random.Random) -> str:
    """Return a word that stands nowhere else."""
    word = "".join(rng.choices(LETTERS, k=18))
    return rng.choice([word, word.upper(), word.capitalize()])


def core(word: str) -> bytes:
    """Return what is looked for: not its beginning, which the full text shares between words, nor its end."""
    return word.lower()[4:-2].encode()


@dataclass
class World:
    """A database in a folder of its own, and under the id of what can be erased the canaries that go with it.

    past: canaries in what was overwritten, which the first erasure of anything clears. never: only asked for.
    """

    folder: Path
    rng: random.Random
    kb: Knowlex
    desk: Desk
    planted: dict[str, set[str]] = field(default_factory=dict)
    past: set[str] = field(default_factory=set)
    never: set[str] = field(default_factory=set)
    clean: bool = True

    @property
    def path(self) -> Path:
        return self.folder / "k.db"

    def plant(self, *ids: str) -> str:
        """Return a new canary that is to go with any of some things."""
        word = canary(self.rng)
        for id in ids:
            self.planted.setdefault(id, set()).add(word)
        return word

    def text(self, *ids: str) -> str:
        """Return a text with a canary in it."""
        words = [f"word{self.rng.randrange(50)}" for _ in range(self.rng.randrange(3, 30))]
        words.insert(self.rng.randrange(len(words)), self.plant(*ids))
        return " ".join(words)

    def every(self) -> set[str]:
        """Return all canaries that were planted and not erased."""
        return set().union(*self.planted.values())

    def left(self, words: Iterable[str], folder: Path | None = None) -> dict[str, set[str]]:
        """Return which canaries are in which file of a folder: by default the database's, it included."""
        found: dict[str, set[str]] = {}
        for file in sorted((folder or self.folder).iterdir()):
            # Read as the engine does: to close a live database otherwise drops the locks of this process.
            data = b"".join(blocks(file)).lower() if not file.name.endswith("-shm") else b""
            if here := {word for word in words if core(word) in data}:
                found[file.name] = here
        return found

    def erase(self, id: str) -> set[str]:
        """Erase one thing and maintain the database; return the canaries that must be gone."""
        gone = self.planted.pop(id)
        self.clean = self.kb.erase(id).clean
        for others in self.planted.values():
            others -= gone
        self.kb.maintain()
        return gone


def furnish(world: World, count: int) -> None:
    """Fill projects with `count` things to erase, a canary or more in each, wherever text may stand."""
    ways = (file, failing_file, memory, talk)
    for number in range(count):
        ways[number % len(ways)](world, number)
    world.desk.ingest()
    ids = {row.filename: row.id for row in world.desk.files()}
    world.planted = {ids.get(key, key): words for key, words in world.planted.items()}


def file(world: World, number: int) -> None:
    """A file with a canary in its name, its headings and its text; the name is its key until it is ingested."""
    named = canary(world.rng)
    name = f"f{number}-{named}.md"
    world.planted[name] = {named}
    parts = [f"## Heading {world.plant(name)}\n\n{world.text(name)}" for _ in range(world.rng.randrange(1, 4))]
    world.desk.write(name, f"# {world.plant(name)}\n\n" + "\n\n".join(parts))


def failing_file(world: World, number: int) -> None:
    """A file that fails: what is kept of it are its name and the reason."""
    named = canary(world.rng)
    name = f"f{number}-{named}.pdf"
    world.planted[name] = {named}
    world.desk.write(name, f"%PDF-1.7 number {number}, cut off")


def memory(world: World, _: int) -> None:
    """A memory that was edited, so that its words were indexed twice."""
    with world.desk.db.write() as db:
        world.past |= {title := canary(world.rng), content := canary(world.rng)}
        made = memories.add(db, world.desk.project, title, f"it was {content} then")
        memories.update(
            db, made.id, title=world.text(made.id), content=world.text(made.id), tags=[world.plant(made.id)]
        )


def talk(world: World, _: int) -> None:
    """A conversation, and in it messages of every kind of part that can be erased alone."""
    with world.desk.db.write() as db:
        made = conversations.create(db, "t", project_pk=world.desk.project)
        conversations.update(
            db, made.id, title=world.text(made.id), settings={world.plant(made.id): [world.plant(made.id)]}
        )
        said = messages.add(db, made.id, "user", "t")
        both = (made.id, said.id)
        parts = [
            {"type": "text", "text": world.text(*both)},
            {"type": "image_ref", "uri": f"file:///{world.plant(*both)}.png"},
            {"type": "tool_call", "name": world.plant(*both), "arguments": {world.plant(*both): world.text(*both)}},
            {"type": "tool_result", "tool_call_id": "1", "output": {"deep": [world.text(*both)]}},
        ]
        messages.update(db, said.id, parts)
        messages.add(db, made.id, "assistant", world.text(made.id), parent_id=said.id)


def ask(world: World) -> None:
    """Search for words that stand nowhere: what is asked is never kept, however slow it was."""
    for _ in range(3):
        word = canary(world.rng)
        world.never.add(word)
        world.kb.search("desk", f"where is {word}", mode="text", sources=("files", "memories", "messages"))
        world.kb.conversations.find(word)
        world.kb.slow_queries()


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from storage import scratch
database = Path(sys.argv[1])
with scratch.beside(database, database) as path:
    shutil.copyfile(sys.argv[2], path)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def make_copies(world: World) -> None:
    """Leave every kind of copy that Knowlex makes, and what a killed process would."""
    with world.desk.db.read() as db:
        for suffix in ("before-v{version}", "before-restore", "before-repair", "before-repair"):
            migrations.keep_copy(db, suffix)
    source = world.folder / "k.db.before-repair"
    for name in ("k.db.damaged", "k.db.damaged-wal"):
        (world.folder / name).write_bytes(source.read_bytes())
    subprocess.run([sys.executable, "-c", KILLED, world.path, source], check=False)
    assert any(path.suffix == ".scratch" for path in world.folder.iterdir())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "own"
    folder.mkdir()
    with Database.open(folder / "k.db") as database, Knowlex(folder / "k.db", slow_query_ms=0) as kb:
        yield World(folder, random.Random(16), kb, Desk(database, tmp_path / "in"))


def leaks(world: World, count: int, every: int) -> tuple[int, list[str]]:
    """Erase all things one by one, with copies made before each `every`th; return canaries erased and what was left."""
    furnish(world, count)
    ask(world)
    total, found = 0, list[str]()
    missing = world.every() - set().union(*world.left(world.every()).values())
    assert not missing, "not every canary can be seen where it was planted"
    targets = list(world.planted)
    world.rng.shuffle(targets)
    for number, id in enumerate(targets):
        if id not in world.planted:
            continue
        if number % every == 0:
            make_copies(world)
        if not exists(world, id):  # gone with its conversation, or with equal bytes
            world.planted.pop(id)
            continue
        gone = world.erase(id)
        total += len(gone)
        found += [f"{id}: {left}" for left in world.left(gone | world.past | world.never).items()]
        found += [] if world.clean else [f"{id}: the report itself names text that is left"]
        if number % every == 0 or number == len(targets) - 1:
            found += [f"lost with {id}: {word}" for word in unseen(world)]
    return total, found


def exists(world: World, id: str) -> bool:
    tables = ("projects", "project_files", "conversations", "messages", "project_memories")
    return any(world.desk.value(f"SELECT 1 FROM {table} WHERE id = :id", id=id) for table in tables)


def unseen(world: World) -> set[str]:
    """Return the canaries that are no longer in the database, though what they stand in was not erased."""
    alive = {word for id, words in world.planted.items() if exists(world, id) for word in words}
    return alive - set().union(*world.left(alive).values())


def test_no_byte_of_anything_erased_is_left(world: World) -> None:
    total, found = leaks(world, 8, every=4)
    assert total > 10
    assert found == []


def test_no_byte_of_a_project_is_left(world: World) -> None:
    furnish(world, 4)
    with world.desk.db.write() as db:
        other = projects.create(db, "other", description=canary(world.rng))
        kept = memories.add(db, other.pk, "kept", world.text("other"))
        project = projects.find(db, "desk")
        words = world.every() - world.planted.pop("other")
        words |= {named := canary(world.rng), said := canary(world.rng)}
        projects.update(db, project.id, description=said, settings={named: named})
    make_copies(world)
    world.planted = {"desk": words}
    assert world.left(words)
    assert world.left(world.erase("desk")) == {}
    with world.desk.db.read() as db:
        assert memories.get(db, kept.id).content == kept.content


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
def test_no_byte_is_left_where_an_export_was_killed(world: World, tmp_path: Path) -> None:
    talk(world, 0)
    id = next(iter(world.planted))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    export = ["--db", str(world.path), "conversation", "export", "--output", str(elsewhere / "o.jsonl")]
    assert storm.killed_at("before:storage.scratch.put", export)
    assert world.left(world.planted[id], elsewhere)
    assert storm.calmly(export) == 0
    (elsewhere / "o.jsonl").unlink()  # it bears a name that somebody gave it, and is theirs to remove
    assert world.left(world.erase(id), elsewhere) == {}


def test_a_setting_that_was_deleted_goes_with_the_next_erasure(world: World) -> None:
    word = canary(world.rng)
    world.kb.settings["k"] = word
    del world.kb.settings["k"]
    memory(world, 0)
    [id] = world.planted
    assert world.left([word])
    world.erase(id)
    assert world.left([word]) == {}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_of_many_things_erased_is_left(world: World, figure) -> None:
    total, found = leaks(world, 100, every=10)
    assert total >= 100
    figure(16, f"{total} canaries in 100 files, memories and conversations erased one by one: {len(found)} left a byte",
           not found)  # fmt: skip


def left_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Erase a thing where there is no space to write the file anew; return what is left in it and its log."""

    def full(database: Database) -> str:
        raise DiskFullError(f"{database.path}: no space left; free some")

    id, words = next((id, words) for id, words in world.planted.items() if len(words) > 2)
    assert world.left(words)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "write_anew", full)
        assert not world.kb.erase(id).clean
    return world.left(words)


@pytest.mark.proof
def test_a_deletion_overwrites_what_it_frees(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(world, 3)
    assert left_on_a_full_disk(world, monkeypatch) == {}


@pytest.mark.proof
def test_a_deletion_that_overwrites_nothing_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("no-secure-delete", monkeypatch.setattr)
    furnish(world, 3)
    assert "k.db" in left_on_a_full_disk(world, monkeypatch)


def freed_by_another_program(world: World) -> str:
    """Have a program that overwrites nothing write a text into the database and delete it; return its canary."""
    word = canary(world.rng)
    other = apsw.Connection(str(world.path))
    other.pragma("secure_delete", False)
    other.execute("INSERT INTO app_settings VALUES (NULL, :key, 'null', '', '')", {"key": word * 300})
    other.execute("DELETE FROM app_settings WHERE updated_at = ''")
    other.close()
    return word


def test_what_another_program_freed_goes_with_the_next_erasure(world: World) -> None:
    word = freed_by_another_program(world)
    memory(world, 0)
    [id] = world.planted
    assert world.left([word])
    world.erase(id)
    assert world.left([word]) == {}


@pytest.mark.parametrize(
    ("mutant", "place"),
    [
        ("log-not-truncated", "k.db-wal"),
        ("copies-not-looked-at", "k.db.before-repair"),
        ("not-written-anew", "k.db"),
    ],
)
def test_an_erasure_that_leaves_something_is_seen(
    world: World, mutant: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(world, 3)
    make_copies(world)
    freed = freed_by_another_program(world)
    mutants.plant(mutant, monkeypatch.setattr)
    id = next(id for id, words in world.planted.items() if len(words) > 2)
    assert place in world.left(world.erase(id) | {freed})

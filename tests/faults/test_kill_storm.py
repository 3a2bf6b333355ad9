"""Whatever of an ingestion is killed, whenever: nothing is lost, doubled or half-written, nobody is left behind."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from itertools import chain, count
from pathlib import Path

import pytest
from faults import storm
from faults.storm import Field
from faults.table import Figure

from storage import files, projects
from storage.database import Database
from storage.errors import NotADatabaseError

pytestmark = [pytest.mark.row(1), pytest.mark.xdist_group("faults")]

STEPS = (
    "storage.files.register",
    "storage.files.delete",
    "storage.queue.reclaim",
    "storage.queue.claim",
    "storage.queue.extend",
    "workers.parser.Parser.parse",
    "storage.vectors.ensure_model",
    "storage.vectors.encode",
    "pipeline.ingest.commit",
    "storage.queue.require_lease",
    "storage.files.make_room",
    "storage.chunks.replace",
    "storage.chunks.remove",
    "storage.text_index.put",
    "storage.vectors.put",
    "storage.files.mark_ready",
    "storage.files.become_duplicate",
    "storage.files.mark_failed",
    "storage.changes.bump",
    "storage.queue.give_back",
    "storage.growth.keep",
    "workers.prune.remove",
    "storage.runs.keep",
)
"""What is called on a file's way from the folder to the index, and at the end of a run."""

MOMENTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]
DISK_CHANGES = 1000
KINDS = ("write", "write", "sync", "truncate", "any")


def heartbeats(moment: str) -> list[str]:
    """Return what makes a heartbeat come within a short run."""
    return ["--lease", "0.4"] if "queue.extend" in moment else []


def test_killed_ingestions_resume_to_the_same_chunks(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(1))
    for moment in ("after:storage.migrations._record", "disk:write#60", "after:storage.files.mark_ready#3"):
        before = field.ready()
        assert storm.killed_at(moment, field.ingest)
        storm.assert_sound(field.database)
        field.assert_kept(before)
    field.finish()


def test_killed_parsers_cost_nothing_but_time(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(2), files=60)
    assert storm.kill_parsers(field.ingest, 3, random.Random(2), span_s=0.1)
    field.finish()


@pytest.mark.proof
def test_a_commit_in_two_parts_is_caught_by_a_kill_between_them(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(3), files=3)
    assert storm.killed_at("after:storage.chunks.replace", field.ingest, "--mutant", "split-transaction")
    with pytest.raises(AssertionError, match="chunk_count"):
        storm.assert_sound(field.database)


@pytest.mark.proof
def test_files_that_a_later_run_makes_good_again_are_lost_all_the_same(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(4), files=4)
    assert storm.calmly(field.ingest) in (0, 1)
    before = field.ready()
    with Database.open(field.database) as database, database.write() as db:
        for file in files.every(db, projects.find(db, storm.PROJECT).pk):
            files.delete(db, file)
    storm.assert_sound(field.database)
    with pytest.raises(AssertionError, match="ready, and lost"):
        field.assert_kept(before)


def test_a_database_that_cannot_be_asked_is_not_one_that_nobody_holds(tmp_path: Path) -> None:
    assert storm.holders(tmp_path / "none.db") == []
    (tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
    with pytest.raises(NotADatabaseError):
        storm.holders(tmp_path / "damaged.db")


# --- in full ---------------------------------------------------------------------------------------

ROUND = 25
"""Kills until the database must equal one made calmly; then all begins anew."""

Kill = tuple[str, Callable[[Field], bool]]
"""Where it strikes, and what tells whether it did."""

RARE = ("ensure_model", "reclaim", "keep", "prune.remove", "files.delete", "mark_failed", "become_duplicate")
"""Steps that a run seldom takes twice."""


def at_every_step(rng: random.Random) -> Iterator[Kill]:
    # In a new order each time: some steps are only taken after a kill that left files in hand.
    for moment in chain.from_iterable(rng.sample(MOMENTS, len(MOMENTS)) for _ in count()):
        times = 1 if moment.endswith(RARE) else rng.choice((1, 2, 5))
        yield moment, lambda field, m=moment, n=times: storm.killed_at(f"{m}#{n}", field.ingest, *heartbeats(m))


def at_changes_of_the_disk(rng: random.Random) -> Iterator[Kill]:
    while True:
        kind, nth = rng.choice(KINDS), int(DISK_CHANGES ** rng.random())
        yield kind, lambda field, moment=f"disk:{kind}#{nth}": storm.killed_at(moment, field.ingest)


def at_random_moments(rng: random.Random) -> Iterator[Kill]:
    while True:
        seconds = rng.uniform(0.1, 1.5)
        yield "at random", lambda field, s=seconds: storm.killed_after(s, field.ingest)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("where", "moments", "kills", "every"),
    [
        ("at every step", at_every_step, 400, MOMENTS),
        ("at writes to the disk", at_changes_of_the_disk, 300, KINDS),
        ("at random moments", at_random_moments, 300, ()),
    ],
)
def test_a_thousand_kills(
    where: str,
    moments: Callable[[random.Random], Iterator[Kill]],
    kills: int,
    every: Collection[str],
    tmp_path: Path,
    figure: Figure,
) -> None:
    rng = random.Random(where)
    done = in_hand = 0
    never = set(every)
    todo = moments(rng)
    while done < kills:
        field = Field(tmp_path / str(done), rng)
        for _ in range(min(ROUND, kills - done)):
            done += 1
            before = field.ready()
            never.discard(strike(field, todo, rng))
            in_hand += bool(storm.holders(field.database))
            storm.assert_sound(field.database)
            field.assert_kept(before)
        field.finish()
        shutil.rmtree(field.folder.parent)
    text = f"{done} kills {where}, {in_hand} of them with files in hand: each sound, 0 lost, all equal to a calm run"
    figure(1, f"{text}; never hit: {sorted(never)}" if never else text, in_hand >= done / 3 and not never)


def strike(field: Field, todo: Iterator[Kill], rng: random.Random) -> str:
    """Run until a kill has hit, and return where; after each run that ended first, there is more to do."""
    for where, kill in todo:
        if rng.random() < 0.3:
            field.change()
        if kill(field):
            return where
        field.change(4)
        field.shrink()
    raise AssertionError("kills do not end")


FOLDERS = {
    "ingestion": ("mix-unstructured", "pdf-pypdf-samples", "pdf-pdfminer", "mix-docling", "html-readability"),
    # Much to parse and little to embed, as a parser can be killed only while there is something to parse.
    "parsers": ("pdf-pdfjs", "pdf-pypdf-resources", "pdf-pypdf-samples", "pdf-pdfminer", "pdf-verapdf", "office-poi"),
}


def real_tree(shared_data: Path, folder: Path, names: tuple[str, ...]) -> Path:
    """Real documents, many and small."""
    folder.mkdir()
    for name in names:
        for path in sorted((shared_data / "docs" / name).rglob("*")):
            if path.is_file() and path.stat().st_size < 200_000:
                shutil.copyfile(path, folder / f"{len(os.listdir(folder)):04}-{path.name}")
    return folder


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("target", ["ingestion", "parsers"])
def test_fifty_kills_over_real_documents(target: str, tmp_path: Path, shared_data: Path, figure: Figure) -> None:
    real_tree(shared_data, tmp_path / "real", FOLDERS[target])
    rng = random.Random(50)
    kills = 0
    while kills < 50:
        field = Field(tmp_path / str(kills), rng, files=0)
        shutil.copytree(tmp_path / "real", field.folder, dirs_exist_ok=True)
        kills += kill_over(field, target, 50 - kills, rng)
        field.finish()
    figure(1, f"{kills} kills of {target} over real documents: equal to a calm run", True)


def kill_over(field: Field, target: str, kills: int, rng: random.Random) -> int:
    """Kill one ingestion, or its parsers, until all is done or so many are killed; return how many were."""
    if target == "parsers":
        return storm.kill_parsers(field.ingest, kills, rng, span_s=0.3)
    done = 0
    before = field.ready()
    while done < kills and storm.killed_after(rng.uniform(0.5, 4.0), field.ingest):
        done += 1
        field.assert_kept(before)
        before = field.ready()
    return done

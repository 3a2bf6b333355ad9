"""A lost worker's files are taken over in time, and only once: what it does later is refused."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from faults import storm
from faults.table import Figure

from storage import changes, files, ids, projects
from storage.database import Database
from storage.errors import LockedError

pytestmark = pytest.mark.xdist_group("faults")

PATIENCE_S = 60.0

HOLDING = (
    "before:workers.parser.Parser.parse",
    "after:workers.parser.Parser.parse",
    "before:storage.vectors.encode",
    "before:pipeline.ingest.commit",
    "after:storage.queue.require_lease",
    "after:storage.files.mark_ready",
    "after:pipeline.ingest.commit",
)
"""Moments at which a worker has files in hand."""


@dataclass
class Shop:
    """A folder, its database, and workers with leases of `lease_s` that come and go."""

    place: Path
    lease_s: float = 1.0

    def __post_init__(self) -> None:
        self._numbers = count()
        self.folder.mkdir()

    @property
    def folder(self) -> Path:
        return self.place / "in"

    @property
    def database(self) -> Path:
        return self.place / "shop.db"

    @property
    def ingest(self) -> list[str]:
        return storm.ingestion(self.database, self.folder)

    @property
    def options(self) -> tuple[str, str]:
        return "--lease", str(self.lease_s)

    def deliver(self, files: int) -> None:
        """Add files, no two of which are equal."""
        for number in (next(self._numbers) for _ in range(files)):
            (self.folder / f"{number:04}.md").write_text(f"# Note {number}\n\nShip {number} has come in.", "utf8")

    def lose_a_worker(self, moment: str) -> str:
        """Let a worker die with files in hand; return its name."""
        assert storm.killed_at(moment, self.ingest, *self.options)
        [name] = storm.holders(self.database)
        return name

    def beat(self, name: str) -> None:
        """Have the last heartbeat of whoever holds the files come now, under this name."""
        expires = ids.now_ms() + int(self.lease_s * 1000)
        with Database.open(self.database) as db, db.write() as connection:
            connection.run(
                "UPDATE project_files SET lease_owner = :name, lease_expires_at = :expires WHERE status = 'processing'",
                name=name,
                expires=expires,
            )

    @property
    def work(self) -> list[str]:
        """The arguments of a worker that ends when nothing waits and nobody holds anything."""
        return ["--db", str(self.database), "work", "--once"]

    def ready_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Return a worker that stands still before it begins."""
        worker = storm.stopped_at("before:workers.runner.Runner.run", self.work, *self.options, *options)
        assert worker is not None
        return worker

    def held(self) -> int:
        """Return how many files are in hand."""
        return self._ask(lambda db, project: files.counts(db, project)["processing"])

    def commits(self) -> int:
        """Return how often a file was committed: nothing else here changes what can be found."""
        return self._ask(changes.generation)

    def files(self) -> int:
        """Return how many files there are, all of them ready and sound."""
        storm.assert_sound(self.database)
        counts = self._ask(files.counts)
        assert counts["ready"] == sum(counts.values())
        return counts["ready"]

    def _ask(self, question: Callable) -> int:
        with Database.open(self.database, readonly=True) as db, db.read() as connection:
            return question(connection, projects.find(connection, storm.PROJECT).pk)


def taken_back_s(shop: Shop, owner: str, patience_s: float) -> float | None:
    """Return after how long nobody of this name holds anything any more; None where that does not come."""
    started = time.monotonic()
    while owner in storm.holders(shop.database):
        if time.monotonic() - started > patience_s:
            return None
        time.sleep(0.01)
    return time.monotonic() - started


def take_over(shop: Shop, moment: str, *, elsewhere: bool) -> float:
    """Lose a worker and let another one finish; return after how long it took the files over.

    elsewhere: the one that is lost was on another machine, where nobody here can see it die.
    """
    shop.deliver(4)
    owner = shop.lose_a_worker(moment)
    another = shop.ready_worker()
    if elsewhere:
        owner = f"elsewhere{owner[owner.index('/') :]}"
    shop.beat(owner)
    another.send_signal(signal.SIGCONT)
    taken = taken_back_s(shop, owner, PATIENCE_S)
    another.communicate(timeout=PATIENCE_S)
    assert another.returncode == 0
    assert taken is not None
    return taken


WHERE = pytest.mark.parametrize("elsewhere", [False, True], ids=["provably dead", "on another machine"])


@WHERE
def test_the_files_of_a_lost_worker_are_taken_over_and_committed_once(elsewhere: bool, tmp_path: Path) -> None:
    shop = Shop(tmp_path, lease_s=0.5)
    take_over(shop, "after:storage.files.mark_ready#2", elsewhere=elsewhere)
    assert shop.commits() == shop.files()


@pytest.mark.soak
@pytest.mark.row(2)
@pytest.mark.timeout(1800)
@WHERE
def test_twenty_lost_workers(elsewhere: bool, tmp_path: Path, figure: Figure) -> None:
    shop, rng = Shop(tmp_path), random.Random(20)
    taken = [take_over(shop, rng.choice(HOLDING), elsewhere=elsewhere) for _ in range(20)]
    in_time = sum(seconds <= 2 * shop.lease_s for seconds in taken)
    commits, made = shop.commits(), shop.files()
    how = "on another machine" if elsewhere else "provably dead"
    text = f"{how}: {in_time}/20 within 2 leases, slowest {max(taken) / shop.lease_s:.2f}; {commits} commits of {made}"
    figure(2, text, in_time == 20 and commits == made)


@pytest.mark.proof
@pytest.mark.row(2)
def test_workers_that_never_look_for_lost_ones_are_caught(tmp_path: Path) -> None:
    shop = Shop(tmp_path, lease_s=0.2)
    shop.deliver(2)
    owner = shop.lose_a_worker(HOLDING[0])
    another = shop.ready_worker("--mutant", "lost-lease")
    another.send_signal(signal.SIGCONT)
    assert taken_back_s(shop, owner, 10 * shop.lease_s) is None
    assert another.poll() is None, "it is at work, and waits for what nobody gives back"


# --- stopped past the lease ------------------------------------------------------------------------

STOPPED_LEASE_S = 2.0
"""Loading the model lets no heartbeat through for a second, where the processor is busy with other things."""


@dataclass(frozen=True)
class Late:
    """What became of files that a stopped worker held: how many came late, and how many were refused."""

    came: int
    refused: int


def stop_and_go_on(shop: Shop, rng: random.Random, *options: str) -> Late:
    """Stop a worker at a commit, let another one do all the work, and have the first one go on.

    Not at the first commit: heartbeats that had to wait for the model come just then, and have the write lock.
    """
    stopped, came = stop_at_a_commit(shop, f"before:pipeline.ingest.commit#{rng.randint(2, 4)}", *options)
    assert storm.calmly(shop.work) == 0
    stopped.send_signal(signal.SIGCONT)
    _, told = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode == 0
    return Late(came, len(re.findall(b"lease lost", told)))


def stop_at_a_commit(shop: Shop, moment: str, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """Return a worker that stands still there, and how many files it holds.

    One whose other threads stand still with the write lock is of no use: nobody could take anything over.
    """
    while True:
        worker = storm.stopped_at(moment, [*shop.ingest, "-v"], *shop.options, *options)
        assert worker is not None
        if not locked(shop.database):
            return worker, shop.held()
        worker.kill()
        worker.communicate()
        shop.deliver(8)  # what it committed leaves too few for the next one to come so far


def locked(database: Path) -> bool:
    """Tell whether somebody holds the write lock."""
    with Database.open(database) as db:
        try:
            with db.write(timeout_ms=300):
                return False
        except LockedError:
            return True


def test_a_worker_stopped_past_its_lease_commits_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, STOPPED_LEASE_S)
    shop.deliver(8)
    late = stop_and_go_on(shop, random.Random(1))
    assert late.refused == late.came >= 3
    assert shop.commits() == shop.files()


@pytest.mark.soak
@pytest.mark.row(3)
@pytest.mark.timeout(1800)
def test_a_hundred_late_commits(tmp_path: Path, figure: Figure) -> None:
    shop, rng = Shop(tmp_path, STOPPED_LEASE_S), random.Random(100)
    came = refused = rounds = 0
    while came < 100:
        shop.deliver(24)
        late = stop_and_go_on(shop, rng)
        came, refused, rounds = came + late.came, refused + late.refused, rounds + 1
    commits, made = shop.commits(), shop.files()
    text = f"{refused}/{came} late commits of {rounds} stopped workers refused; {commits} commits of {made} files"
    figure(3, text, refused == came and commits == made)


@pytest.mark.proof
@pytest.mark.row(3)
def test_a_missing_fence_is_caught(tmp_path: Path) -> None:
    shop = Shop(tmp_path, STOPPED_LEASE_S)
    shop.deliver(6)
    late = stop_and_go_on(shop, random.Random(1), "--mutant", "missing-fence")
    assert late.refused < late.came
    assert shop.commits() > shop.files()

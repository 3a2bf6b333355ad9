"""Many workers on one database, some who feed it, some who search it, and one who kills workers at random."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from faults import asker, child, storm

from knowlex import Knowlex
from knowlex.config import load_settings
from knowlex.engine import Engine
from storage import projects, queue, write_lock
from storage.database import Database
from storage.errors import KnowlexError
from storage.verify import verify
from workers.scan import Scan, ScanOptions

PATIENCE_S = 600.0
TOLD_TO_END = (128 + signal.SIGTERM, -signal.SIGTERM)
"""How a worker ends that was told to: before it could listen, by the signal itself."""

LANDMARK = "landmark.md"


class Tree:
    """The folder of one project, whose files come, change, are renamed and go. Its landmark stays as it is."""

    def __init__(self, place: Path, name: str, rng: random.Random) -> None:
        self.name, self.folder = name, place / name
        self._rng = rng
        self._numbers = count()
        self.folder.mkdir(parents=True)
        (self.folder / LANDMARK).write_text(f"# Landmark\n\nHere stands {asker.landmark(name)}.", "utf8")

    def add(self, files: int = 1) -> None:
        """Add files: texts as no other, copies of the landmark, and some that nothing can be read from."""
        for _ in range(files):
            kind, path = self._rng.random(), self._new()
            if kind < 0.9:
                self._write(path)
            elif kind < 0.95:
                self._put(path, (self.folder / LANDMARK).read_text("utf8"))
            else:
                path.touch()

    def add_text(self) -> str:
        """Add one text as no other; return the hash of its bytes."""
        path = self._new()
        self._write(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def change(self) -> None:
        """Add two files and a text; edit one, rename one and delete one."""
        self.add(2)
        self.add_text()
        self._write(self._rng.choice([path for path in self._files() if path.stat().st_size]))
        self._rng.choice(self._files()).rename(self._new())
        self._rng.choice(self._files()).unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name != LANDMARK)

    def _new(self) -> Path:
        return self.folder / f"note-{next(self._numbers):05}.md"

    def _write(self, path: Path) -> None:
        ship = self._rng.getrandbits(40)
        parts = range(self._rng.choice((1, 5, 20)))
        log = (f"Paragraph {part}: the log of {self.name} speaks of ship {ship + part}." for part in parts)
        self._put(path, f"# Note {ship}\n\n" + "\n\n".join(log))

    def _put(self, path: Path, text: str) -> None:
        """Write a file at once: one that changes while it is read costs an attempt, and rightly so."""
        draft = self.folder.with_name(f"{self.name}.draft")
        draft.write_text(text, "utf8")
        draft.replace(path)


@dataclass
class Worker:
    """A `knowlex work`, and what was done to it; what it says is kept in `said`."""

    process: subprocess.Popen[bytes]
    said: Path
    since: float
    fate: str = ""
    until: float = 0.0
    goes_on_at: float = 0.0

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid


@dataclass(frozen=True)
class Single:
    """A file that was put into a quiet project while another project had a long queue."""

    digest: str
    at: float
    ahead: int


@dataclass
class Crowd:
    """A database, folders that are fed to it, and workers that come and go; the folder for temporary files is its own.

    lease_s: as of `faults.child`; the default is that of every worker. mutants: planted into each worker.
    """

    place: Path
    rng: random.Random
    names: Sequence[str] = ("docks", "inlet")
    lease_s: float | None = None
    mutants: Sequence[str] = ()
    mutants_of_searchers: Sequence[str] = ()
    amiss: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    largest: Counter[str] = field(default_factory=Counter)
    singles: list[Single] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    former: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count()
        self._feeders: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.trees = {name: Tree(self.place / "in", name, self.rng) for name in self.names}
        with Database.open(self.database) as database, database.write() as db:
            for name in self.names:
                projects.ensure(db, name)

    @property
    def database(self) -> Path:
        """Where all of it goes."""
        return self.place / "crowd.db"

    @property
    def log(self) -> Path:
        """Where each claim and each commit is told; see `faults.child`."""
        return self.place / "work"

    def ingest_calmly(self, database: Path) -> None:
        """Bring a database up to date with all folders, in this process."""
        with Knowlex(database) as kb:
            for tree in self.trees.values():
                kb.ingest(tree.name, tree.folder, prune=True, force=True, workers=1, progress=False)

    # --- workers ---------------------------------------------------------------------------------

    def hire(self, *options: str) -> Worker:
        """Start one more worker."""
        said = self.place / f"worker-{next(self._numbers)}.err"
        planted = [part for name in self.mutants for part in ("--mutant", name)]
        lease = ("--lease", str(self.lease_s)) if self.lease_s else ()
        with said.open("wb") as stream:
            process = child.start(
                *("--log", str(self.log), *lease, *planted, *options),
                arguments=["--db", str(self.database), "work", "--json"],
                cwd=self.place,
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
        self.workers.append(Worker(process, said, time.time()))
        return self.workers[-1]

    def kill(self, worker: Worker) -> None:
        """Kill a worker, and in half of the cases its parsers with it: else they see to that themselves."""
        parsers = storm.children(worker.pid) if self.rng.random() < 0.5 else []
        self.done["kills with files in hand"] += worker.pid in self.holders()
        worker.fate = "killed"
        worker.process.kill()
        for parser in parsers:
            with contextlib.suppress(psutil.NoSuchProcess):
                parser.kill()
        self._note_end(worker)

    def dismiss(self, worker: Worker) -> None:
        """Tell a worker to end."""
        worker.fate = "told to end"
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGCONT)

    def pause(self, worker: Worker) -> bool:
        """Have a worker stand still past its lease; False where it has the write lock, which others wait for."""
        assert self.lease_s is not None
        worker.process.send_signal(signal.SIGSTOP)
        self._await_standstill(worker)
        if write_lock.holder(self.database) == worker.pid:
            worker.process.send_signal(signal.SIGCONT)
            return False
        self.done["stopped past the lease"] += 1
        worker.goes_on_at = time.time() + 1.5 * self.lease_s
        return True

    def stopped_at(self, moment: str) -> Worker:
        """Queue files and hire a worker that stands still with them at a moment, without the write lock."""
        while True:
            self.trees["docks"].add(8)
            self.register("docks")
            worker = self.hire("--at", f"{moment}=stop")
            self._await_standstill(worker)
            if write_lock.holder(self.database) != worker.pid:
                return worker
            self.kill(worker)

    def _await_standstill(self, worker: Worker) -> None:
        end = time.monotonic() + PATIENCE_S
        while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
            assert worker.process.poll() is None, worker.said.read_text("utf8")
            assert time.monotonic() < end, "does not stand still"
            time.sleep(0.01)

    def one_at_work(self) -> Worker:
        """Wait until one of the workers holds files, and return it."""
        end = time.monotonic() + PATIENCE_S
        while not (found := [worker for worker in self.workers if worker.pid in self.holders()]):
            assert time.monotonic() < end, "nobody takes files"
            time.sleep(0.01)
        return self.rng.choice(found)

    def holders(self) -> set[int]:
        """Return the processes that hold files."""
        return {int(name.rsplit("/", 3)[1]) for name in storm.holders(self.database)}

    def look(self) -> None:
        """Note who has ended, and by whose doing; wake who has stood still for long enough."""
        for worker in list(self.workers):
            if worker.process.poll() is not None:
                self._note_end(worker)
            elif worker.goes_on_at and time.time() > worker.goes_on_at:
                worker.goes_on_at = 0.0
                worker.process.send_signal(signal.SIGCONT)
        for name, feeder in list(self._feeders):
            if feeder.poll() is not None:
                self._feeders.remove((name, feeder))
                self._note_fed(name, feeder)

    def _note_end(self, worker: Worker) -> None:
        code = worker.process.wait(PATIENCE_S)
        worker.until = time.time()
        self.workers.remove(worker)
        self.former.append(worker)
        self.done[worker.fate] += 1
        expected = {"killed": (-signal.SIGKILL,), "told to end": TOLD_TO_END}.get(worker.fate, ())
        said = complaints(worker.said.read_text("utf8", "replace"))
        if code not in expected or said:
            self.amiss.append(f"a worker ended with {code} ({worker.fate or 'by itself'}): {said}")

    def weigh(self) -> None:
        """Note how much memory (MB) workers and parsers take, each."""
        for worker in self.workers:
            for process in [psutil.Process(worker.pid), *storm.children(worker.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kind = "worker" if process.pid == worker.pid else "parser"
                    self.largest[kind] = max(self.largest[kind], process.memory_info().rss >> 20)

    # --- feeding ---------------------------------------------------------------------------------

    def register(self, name: str) -> None:
        """Queue what is new in a folder, and process none of it."""
        try:
            with Database.open(self.database) as database:
                job = Engine(database, load_settings({})).job()
                with database.read() as db:
                    pk = projects.find(db, name).pk
                    versions = job.recipe(db, pk).versions
                for _ in Scan(database, pk, versions, ScanOptions()).run([self.trees[name].folder]):
                    pass
        except KnowlexError as error:
            self.amiss.append(f"registering: {type(error).__name__}: {error}")
        self.done["registered"] += 1

    def ingest(self, name: str) -> None:
        """Start an ingestion beside the workers, unless one of that project is going on."""
        if name not in [busy for busy, _ in self._feeders]:
            folder = str(self.trees[name].folder)
            arguments = ["--db", str(self.database), "ingest", name, folder, "--prune", "--force", "--json"]
            feeder = child.start("--log", str(self.log), arguments=arguments, cwd=self.place)
            self._feeders.append((name, feeder))

    def _note_fed(self, name: str, feeder: subprocess.Popen[bytes]) -> None:
        _, said = feeder.communicate()
        self.done["ingested"] += 1
        # 1: some files failed, as the empty ones do.
        if feeder.returncode not in (0, 1) or complaints(said.decode()):
            self.amiss.append(f"ingest {name} ended with {feeder.returncode}: {said.decode()}")

    def put_single(self, busy: str, quiet: str) -> None:
        """Put one file into a quiet project, behind the queue of a busy one."""
        digest = self.trees[quiet].add_text()
        ahead = self.waiting(busy)
        self.register(quiet)
        self.singles.append(Single(digest, time.time(), ahead))

    def waiting(self, name: str | None = None) -> int:
        """Return how many files of a project, or of all, are not done."""
        with Database.open(self.database, readonly=True) as database, database.read() as db:
            return queue.unfinished(db, None if name is None else projects.find(db, name).pk)

    # --- searching -------------------------------------------------------------------------------

    @contextmanager
    def asked(self, doors: Sequence[tuple[str, str]]) -> Generator[None]:
        """Have one process for each (door, mode) search all the time during the block."""
        enough = self.place / "enough"
        arguments = [(str(self.database), *door, str(enough), *self.mutants_of_searchers) for door in doors]
        searching = [child.start_module("faults.asker", *each, cwd=self.place) for each in arguments]
        try:
            yield
        finally:
            enough.touch()
            ended = [(process, *process.communicate(timeout=PATIENCE_S)) for process in searching]
        for process, told, said in ended:
            assert process.returncode == 0, said.decode()
            answer = json.loads(told)
            self.done["searches"] += answer["asked"]
            self.amiss += answer["amiss"]

    # --- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let feeders and workers finish what waits, and the workers end."""
        self.until(lambda: not self._feeders and not self.waiting())
        for worker in self.workers:
            self.dismiss(worker)
        self.until(lambda: not self.workers)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait until something is so, and look after the workers meanwhile."""
        end = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < end, f"{self.waiting()} files wait, and {len(self.workers)} workers are there"
            self.look()
            assert not self.amiss, self.amiss
            time.sleep(0.05)

    def commits(self) -> list[dict[str, Any]]:
        """Return what was committed, in its order."""
        return [line for line in self._work() if "committed" in line]

    def claims_before(self, single: Single) -> int:
        """Return how often workers of all projects took files while a single file waited to be taken."""
        pk = next(line["committed"] for line in self.commits() if line["hash"] == single.digest)
        since = [line["claimed"] for line in self._work() if line.get("of_all") and line["at"] > single.at]
        return next((number for number, taken in enumerate(since) if pk in taken), 0)

    def _work(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sorted(map(json.loads, lines), key=lambda line: line["at"])

    def faults(self) -> list[str]:
        """Return all that is amiss, also with what the database holds at the end: once, whole, and as made calmly."""
        self.ingest_calmly(self.database)
        with Database.open(self.database) as database:
            unsound = [f"{problem.kind}: {problem.detail}" for problem in verify(database, deep=True)]
        return self.amiss + self.repeated() + unsound + self._unlike_a_calm_run() + self._left_behind()

    def repeated(self) -> list[str]:
        """Return which files were committed twice with the same bytes, and which paid for an attempt before."""
        commits = self.commits()
        times = Counter((line["committed"], line["hash"]) for line in commits)
        found = [f"committed twice: {file}" for file, number in times.items() if number > 1]
        return found + [f"attempts counted: {line}" for line in commits if line["attempts"]]

    def _unlike_a_calm_run(self) -> list[str]:
        calm = self.place / "calm.db"
        self.ingest_calmly(calm)
        differing = contents(self.database) ^ contents(calm)
        storm.remove_database(calm)
        return [f"not as made calmly: {row}" for row in sorted(differing)[:5]]

    def _left_behind(self) -> list[str]:
        storm.assert_no_leftovers(self.database)
        storm.assert_no_parsers(self.place)
        return [f"left behind: {path}" for path in Path(tempfile.gettempdir()).iterdir()]


def complaints(said: str) -> list[str]:
    """Return what a command says beside its answer, but for what is no fault: that files wait, or took long."""
    return [line for line in said.splitlines() if line and not line.startswith(("stopped", "slow: "))]


def contents(database: Path) -> Collection[tuple[str, ...]]:
    """Return every file with its status, the reason of its failure, and its chunks: what two databases must share."""
    with Database.open(database, readonly=True) as opened, opened.read() as db:
        return set(
            db.all(
                "SELECT p.name, f.path, f.status, coalesce(f.error_code, ''), coalesce(f.error_message, ''),"
                " f.chunk_count, coalesce(c.chunk_index, -1), coalesce(c.content, '')"
                " FROM project_files f JOIN projects p ON p.pk = f.project_id"
                " LEFT JOIN file_chunks c ON c.file_id = coalesce(f.duplicate_of, f.pk)"
            )
        )

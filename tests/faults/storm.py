"""Run the real command line and kill it: after a while, at a step of its work, at a write to the disk."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from faults import child

from knowlex.cli import main
from storage import queue
from storage.connection import Connection
from storage.database import Database
from storage.errors import NotFoundError, ReadOnlyError
from storage.verify import verify

PROJECT = "storm"


Ready = tuple[str, str, int]


class Field:
    """A folder of small texts of our own, and the database it is ingested into, whatever is killed meanwhile."""

    def __init__(self, place: Path, rng: random.Random, *, files: int = 24) -> None:
        self.folder, self.database, self._calm = place / "in", place / "stormy.db", place / "calm.db"
        self._rng = rng
        self._numbers = count()
        self.folder.mkdir(parents=True)
        for _ in range(files):
            self.add()

    @property
    def ingest(self) -> list[str]:
        """The arguments of the command that brings the database up to date."""
        return ingestion(self.database, self.folder)

    def add(self) -> None:
        """Add a file: a text as no other, a copy of another one, or one that nothing can be read from."""
        name = self.folder / f"note-{next(self._numbers):05}.md"
        kind, others = self._rng.random(), self._files()
        if kind < 0.8 or not others:
            self._write(name)
        elif kind < 0.9:
            shutil.copyfile(self._rng.choice(others), name)
        else:
            name.touch()

    def change(self, times: int = 1) -> None:
        """Edit a file, delete one and add two."""
        for _ in range(times):
            # An edit that cannot be read leaves the old passages: what is left then hangs on what was killed.
            self._write(self._rng.choice([path for path in self._files() if path.stat().st_size]))
            self._rng.choice(self._files()).unlink()
            self.add()
            self.add()

    def shrink(self, files: int = 32) -> None:
        """Delete files until so many are left."""
        for path in self._rng.sample(self._files(), max(0, len(self._files()) - files)):
            path.unlink()

    def ready(self) -> set[Ready]:
        """Return each file that is reported as ready with the bytes that it has: its path, its row, and its time."""
        query = "SELECT path, id, mtime_ns FROM project_files WHERE status = 'ready'"
        return set(filter(_unchanged, _asked(self.database, lambda db: db.all(query))))

    def assert_kept(self, before: set[Ready]) -> None:
        """Assert that what was ready still is, but for files that were edited or deleted meanwhile."""
        lost = set(filter(_unchanged, before)) - self.ready()
        assert not lost, f"ready, and lost: {lost}"

    def finish(self) -> None:
        """Assert that a last run, undisturbed, leads to what a calm one over the same folder makes."""
        assert calmly(self.ingest) in (0, 1)
        assert calmly(ingestion(self._calm, self.folder)) in (0, 1)
        assert_sound(self.database)
        assert texts(self.database) == texts(self._calm)
        assert_no_leftovers(self.database)
        assert_no_parsers(self.folder.parent)
        remove_database(self._calm)

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def _write(self, path: Path) -> None:
        ship = self._rng.getrandbits(40)
        log = (f"Paragraph {part}: the harbour log speaks of ship {ship + part}." for part in range(self._parts()))
        path.write_text(f"# Note {ship}\n\n" + "\n\n".join(log), "utf8")

    def _parts(self) -> int:
        return self._rng.choice((1, 5, 40))


def _unchanged(file: Ready) -> bool:
    path, _, written_ns = file
    return os.path.exists(path) and os.stat(path).st_mtime_ns == written_ns


def ingestion(database: Path, folder: Path) -> list[str]:
    """Return the arguments of an ingestion that also forgets what is gone."""
    return ["--db", str(database), "ingest", PROJECT, str(folder), "--prune", "--force", "--json"]


def start(arguments: list[str], *options: str) -> subprocess.Popen[bytes]:
    """Start a command in the folder of its database, by which its parsers can be told from others."""
    return child.start(*options, arguments=arguments, cwd=Path(arguments[1]).parent)


def calmly(arguments: list[str], *options: str) -> int:
    """Run a command without interference and return its exit code."""
    process = start(arguments, *options)
    process.communicate(timeout=600)
    return process.returncode


def here(arguments: list[str]) -> int:
    """Run a command in this process, which takes no time to start, and return its exit code."""
    return main(arguments)


def killed_at(moment: str, arguments: list[str], *options: str) -> bool:
    """Run a command that is killed at a moment of `faults.child`; tell whether it got there."""
    process = start(arguments, "--at", f"{moment}=kill", *options)
    _, said = process.communicate(timeout=600)
    assert b"Traceback" not in said, said.decode()
    return process.returncode == -signal.SIGKILL


def killed_after(seconds: float, arguments: list[str]) -> bool:
    """Run a command and kill it after a while; tell whether it was still at work."""
    process = start(arguments)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


def stopped_at(moment: str, arguments: list[str], *options: str) -> subprocess.Popen[bytes] | None:
    """Start a command and return it when it stands still at a moment; None where it ends without getting there."""
    process = start(arguments, "--at", f"{moment}=stop", *options)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return process
    process.communicate()
    return None


def kill_parsers(arguments: list[str], kills: int, rng: random.Random, span_s: float) -> int:
    """Kill up to so many parsers of one ingestion, which goes on; return how many were."""
    done = 0
    process = start(arguments)
    while done < kills and process.poll() is None:
        time.sleep(rng.uniform(0, span_s))
        parsers = list(filter(_is_parser, children(process.pid)))
        if parsers:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(parsers).kill()
                done += 1
    process.communicate(timeout=600)
    return done


def holders(database: Path) -> list[str]:
    """Return who holds files; before the first process has made the schema, nobody can."""
    return _asked(database, queue.owners)


def _asked(database: Path, question: Callable[[Connection], list[Any]]) -> list[Any]:
    """Return what a question finds: nothing before the first process has made the schema.

    Who is killed while it makes the file leaves a journal that a reader may not play back.
    """
    try:
        with Database.open(database, readonly=True) as db, db.read() as connection:
            return question(connection)
    except NotFoundError:
        return []
    except ReadOnlyError as error:
        if not any(cause in error.message for cause in ("must be brought up first", "cannot be written")):
            raise
        return []


def texts(database: Path) -> list[tuple[str, str, int, str]]:
    """Return status and every chunk of every file, in a fixed order: what two databases must share."""
    with Database.open(database, readonly=True) as db, db.read() as connection:
        return sorted(
            connection.all(
                "SELECT f.path, f.status, coalesce(c.chunk_index, -1), coalesce(c.content, '') FROM project_files f"
                " LEFT JOIN file_chunks c ON c.file_id = coalesce(f.duplicate_of, f.pk)"
            )
        )


def assert_sound(database: Path) -> None:
    """Assert that the database says what it holds, to the last token and vector."""
    with Database.open(database) as db:
        found = verify(db, deep=True)
    assert not found, found


def assert_no_leftovers(database: Path) -> None:
    """Assert that no file of a killed process is left beside a database once `maintain` has swept."""
    assert here(["--db", str(database), "maintain"]) == 0
    assert [path.name for path in database.parent.iterdir() if path.name.endswith(".scratch")] == []


def remove_database(database: Path) -> None:
    """Remove a database that nobody has open, and what lies beside it under its name."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def assert_no_parsers(place: Path, within_s: float = 10.0) -> None:
    """Assert that no parser is left of processes that were started in a folder."""
    end = time.monotonic() + within_s
    while left := [process.pid for process in psutil.process_iter() if _parses_for(process, place)]:
        assert time.monotonic() < end, f"parsers left behind: {left}"
        time.sleep(0.02)


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _is_parser(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "workers.parser_child" in process.cmdline()
    return False


def _parses_for(process: psutil.Process, place: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return _is_parser(process) and Path(process.cwd()) == place.resolve()
    return False

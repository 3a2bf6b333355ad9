"""Wherever the disk is full or fails: one clear error, a sound database, and the same call does it all later."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import string
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
from faults import mutants, storm
from faults.table import Figure
from faults.vfs import Call, Countdown, FailingCalls, WatchedDisk, broken

from knowlex import Knowlex
from knowlex.cli import exit_codes, main
from pipeline import embed
from pipeline.embed import ModelIdentity
from pipeline.model_files import resolve
from storage import backup, connection, migrations
from storage.connection import connect
from storage.database import Database
from storage.errors import DiskFullError, KnowlexError
from storage.verify import verify

pytestmark = pytest.mark.row(7)


class Hashing:
    """Stands in for the model where thousands of runs would load it, and bears its name, by which it is found."""

    def __init__(self, settings: embed.EmbedSettings) -> None:
        model = resolve(settings.model, settings.cache_dir)
        self.identity = ModelIdentity(settings.model, model.hash, 8, "none", "", "", "fp32", "torch", 256)

    def embed_documents(self, texts: list[str]) -> Any:
        made = [
            np.random.default_rng(list(hashlib.sha256(text.encode()).digest())).standard_normal(8) for text in texts
        ]
        return np.stack([vector / np.linalg.norm(vector) for vector in made]).astype(np.float32)

    def embed_query(self, text: str) -> Any:
        return self.embed_documents([text])[0]

    def parts(self, text: str) -> list[str]:
        return [text]

    def known_letters(self, text: str) -> float:
        return 1.0


# --- what may meet a fault --------------------------------------------------------------------------


def write_sources(folder: Path, names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        text = "\n\n".join(f"Paragraph {part} of {name}: ship {part} lies in berth {name}{part}." for part in range(20))
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}", "utf8")


def make_base(folder: Path) -> None:
    """Make a database that holds some of everything, a backup of it, and what is to be taken in."""
    folder.mkdir()
    write_sources(folder / "in", "ab")
    with Knowlex(folder / "k.db") as kb:
        kb.ingest("logbook", folder / "in", workers=1)
        conversation = kb.conversations.create("Berths", project="logbook")
        for number in range(6):
            kb.conversations.add(conversation.id, "user", f"Where does ship {number} lie?")
        kb.memories.add("logbook", "Berth 4", "Berth 4 is closed for repairs")
        (folder / "talk.jsonl").write_text("\n".join(kb.conversations.export()))
        kb.backup(folder / "copy.db")
        kb.conversations.delete(conversation.id)
        second = kb.conversations.create("Tugs", project="logbook")
        kb.conversations.add(second.id, "user", "Which tug is at hand? It is the blue one, by the mole.")
        kb.settings["harbour.name"] = "Varnholm"
    write_sources(folder / "in", "cd")


def older(folder: Path) -> None:
    with Knowlex(folder / "k.db") as kb:
        kb.migrate(migrations.LATEST - 1)
    for path in folder.glob("k.db.before-*"):
        path.unlink()


def spoilt(folder: Path) -> None:
    with Database.open(folder / "k.db") as database, database.write() as db:
        db.script("UPDATE project_files SET chunk_count = 99 WHERE filename = 'a.md'")
        db.script("DELETE FROM text_rows")


def _ingest(kb: Knowlex, folder: Path) -> None:
    kb.ingest("logbook", folder / "in", workers=1)


def _message(kb: Knowlex, folder: Path) -> None:
    kb.conversations.add(kb.conversations.list().items[0].id, "user", "And ship 9?")


def _memory(kb: Knowlex, folder: Path) -> None:
    kb.memories.add("logbook", "Berth 5", "Berth 5 is open")


def _setting(kb: Knowlex, folder: Path) -> None:
    kb.settings["harbour.berths"] = 12


def _import(kb: Knowlex, folder: Path) -> None:
    with (folder / "talk.jsonl").open("rb") as lines:
        kb.conversations.load(lines)


def _backup(kb: Knowlex, folder: Path) -> None:
    kb.backup(folder / "second.db")


def _restore(kb: Knowlex, folder: Path) -> None:
    kb.restore(folder / "copy.db")


def _maintain(kb: Knowlex, folder: Path) -> None:
    kb.maintain(vacuum=True)


def _erase(kb: Knowlex, folder: Path) -> None:
    kb.erase(str(folder / "in" / "b.md"))


def _repair(kb: Knowlex, folder: Path) -> bool:
    return not kb.repair().left  # a page that cannot be read is told of in the answer


def _migrate(kb: Knowlex, folder: Path) -> None:
    kb.migrate()


@dataclass(frozen=True, slots=True)
class Case:
    """Something to do, which may return whether it got to its end.

    whole: it is one transaction, all of it or nothing. makes: the copy that is there once it is done.
    """

    do: Callable[[Knowlex, Path], bool | None]
    whole: bool = True
    prepare: Callable[[Path], None] = lambda folder: None
    makes: str = ""


CASES = {
    "ingest": Case(_ingest, whole=False),
    "message": Case(_message),
    "memory": Case(_memory),
    "setting": Case(_setting),
    "import": Case(_import),
    "backup": Case(_backup, makes="second.db"),
    "restore": Case(_restore, makes="k.db.before-restore"),
    "maintain": Case(_maintain),
    "erase": Case(_erase),
    "repair": Case(_repair, prepare=spoilt),
    "migrate": Case(_migrate, whole=False, prepare=older),
}


# --- faults -----------------------------------------------------------------------------------------

FULL = "full"
SYNC = "sync"
PAGES = "pages"
FAULTS = (FULL, PAGES, SYNC, *get_args(Call))
READING = ("open", "read")
"""Calls that change nothing: the bar asks for points of writing."""


@contextmanager
def fault(kind: str, nth: int, database: Path) -> Generator[FailingCalls | _Syncs | _Pages]:
    """Have the nth call of a kind fail in the block; a full disk stays full. nth 0: count them alone."""
    match kind:
        case "full":
            with FailingCalls("write", nth, errno.ENOSPC, lasting=True) as calls:
                yield calls
        case "pages":
            with _Pages(nth, database) as pages:
                yield pages
        case "sync":
            with _Syncs(nth, database) as syncs:
                yield syncs
        case _:
            with FailingCalls(cast(Call, kind), nth, errno.EIO) as calls:
                yield calls


class _Syncs:
    """Syncs that fail. Another connection keeps the last one from folding the log, whose errors the engine drops."""

    def __init__(self, nth: int, database: Path) -> None:
        self._countdown = Countdown("sync", nth or 10**9, broken)
        self._database = database
        self.calls = 0

    @property
    def acted(self) -> bool:
        return self._countdown.acted

    def __enter__(self) -> _Syncs:
        self._other = connect(self._database)
        self._other.value("SELECT count(*) FROM sqlite_schema")
        self._disk = WatchedDisk(self._watch)
        return self

    def _watch(self, change: Any) -> None:
        self.calls += change.kind == "sync"
        self._countdown(change)

    def __exit__(self, *_: object) -> None:
        self._disk.close()
        self._other.close()


class _Pages:
    """A database that may not grow by as many pages as this is the number of; where it grows by less, nothing acts."""

    def __init__(self, nth: int, database: Path) -> None:
        self._nth, self._database = nth, database
        self.calls = 0
        self.acted = False

    def __enter__(self) -> _Pages:
        self._before = self._pages()
        self._patch = pytest.MonkeyPatch()
        limit = f"PRAGMA max_page_count = {self._before + self._nth - 1};" if self._nth else ""
        self._patch.setattr(connection, "PRAGMAS", connection.PRAGMAS + limit)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._patch.undo()
        self.acted = kind is not None
        self.calls = max(0, self._pages() - self._before)

    def _pages(self) -> int:
        return self._database.stat().st_size // 4096


# --- the run ----------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Databases to try faults on, each as it is before and after a calm call."""

    folder: Path
    before: dict[str, list[Any]] = field(default_factory=dict)
    after: dict[str, list[Any]] = field(default_factory=dict)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the points whose call did fail: how many of each kind, and how the thing ended."""

    def __post_init__(self) -> None:
        # Made where it is tried later: ingestion knows its files by their paths.
        make_base(self.folder / "at")
        (self.folder / "at").rename(self.folder / "base")

    def learn(self, name: str) -> None:
        """Do a thing calmly, and count the calls that may fail."""
        with self._copy("base") as folder:
            CASES[name].prepare(folder)
            shutil.copytree(folder, self.folder / name)
        for kind in FAULTS:
            with self._copy(name) as folder:
                self.before[name] = state(folder)
                with fault(kind, 0, folder / "k.db") as calls:
                    self._do(name, folder)
                self.calls[name, kind] = calls.calls
                self.after[name] = state(folder)

    def points(self, name: str, each: int, rng: random.Random) -> Iterator[tuple[str, int]]:
        """Choose up to `each` calls of every kind that writes, and a third as many of the others, evenly."""
        for kind in FAULTS:
            calls = self.calls[name, kind]
            chosen = min(calls, each // 3 if kind in READING else each)
            step = calls / max(1, chosen)
            yield from ((kind, min(calls, 1 + int(step * (number + rng.random())))) for number in range(chosen))

    @property
    def writing(self) -> int:
        """How many points of writing were struck."""
        return sum(count for kind, count in self.struck.items() if kind not in READING)

    def strike(self, name: str, kind: str, nth: int, *, deep: bool = False) -> None:
        """Do a thing while a call fails, then look at what is left, then do it again."""
        with self._copy(name) as folder:
            done, error = False, None
            try:
                with fault(kind, nth, folder / "k.db") as planted:
                    done = self._do(name, folder)
            except Exception as raised:
                error = raised
            if planted.acted:
                self.struck[kind] += 1
                self.outcomes[type(error).__name__ if error else "done"] += 1
            try:
                faults = list(self._faults(name, kind, folder, error, done=done, deep=deep))
            except KnowlexError as raised:
                faults = [f"afterwards: {type(raised).__name__}: {raised}"]
            self.wrong += [f"{name}, {kind} {nth}: {text}" for text in faults]

    def _faults(
        self, name: str, kind: str, folder: Path, error: Exception | None, *, done: bool, deep: bool
    ) -> Iterator[str]:
        yield from unclear(error, folder) if error else ()
        if error and kind in (FULL, PAGES) and not isinstance(error, DiskFullError):
            yield f"a full disk is told as {error!r}"
        if name != "repair":
            bring_up = name != "migrate"
            with Database.open(folder / "k.db", bring_up=bring_up) as database:
                yield from map(str, verify(database, deep=deep) if bring_up else [])
        if left := [path.name for path in folder.iterdir() if "scratch" in path.name]:
            yield f"left behind: {left}"
        made = folder / CASES[name].makes
        if done or made.is_file():
            examine(made)
        if error and CASES[name].whole and state(folder) != self.before[name]:
            yield f"{error!r}, and yet something was done"
        if not done:
            self._do(name, folder)
            examine(made)
        if state(folder) != self.after[name]:
            yield f"{error!r}, and another result in the end"

    def _do(self, name: str, folder: Path) -> bool:
        """Do a thing, and tell whether it got to its end."""
        with Knowlex(folder / "k.db") as kb:
            return CASES[name].do(kb, folder) is not False

    @contextmanager
    def _copy(self, name: str) -> Generator[Path]:
        folder = self.folder / "at"
        shutil.copytree(self.folder / name, folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def examine(made: Path) -> None:
    """Require a copy that was made to be whole; a folder stands for none."""
    if not made.is_dir():
        backup.examine(made)


def state(folder: Path) -> list[Any]:
    """Return what a database holds, without times and keys."""
    raw = connect(folder / "k.db", create=False)
    try:
        return [
            migrations.version(raw),
            sorted(
                raw.all(
                    "SELECT f.filename, f.status, f.chunk_count, c.content FROM project_files f"
                    " LEFT JOIN file_chunks c ON c.file_id = f.pk"
                ),
                key=str,
            ),
            sorted(raw.all("SELECT role, content FROM messages")),
            sorted(raw.all("SELECT title, content FROM project_memories")),
            sorted(raw.all("SELECT key, value FROM app_settings")),
        ]
    finally:
        raw.close()


def unclear(error: Exception, folder: Path) -> Iterator[str]:
    """Tell what an error lacks: to be one of ours, in one line, naming a file that there is and a remedy."""
    text = str(error)
    if not isinstance(error, KnowlexError):
        yield f"bare {type(error).__name__}: {text}"
    elif "\n" in text or str(folder) not in text or ".scratch" in text or ";" not in text:
        yield f"unclear: {text}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench without the model, which is loaded for every call otherwise."""
    monkeypatch.setattr(embed, "load", Hashing)
    return Bench(tmp_path)


SHORT = ("message", "import", "backup", "restore", "ingest")


@pytest.mark.xdist_group("faults")
def test_a_failing_disk_is_told_and_costs_nothing(bench: Bench) -> None:
    rng = random.Random(7)
    for name in SHORT:
        bench.learn(name)
        for kind, nth in rng.sample(list(bench.points(name, 3, rng)), 5):
            bench.strike(name, kind, nth, deep=kind == FULL)
    assert bench.wrong == []
    assert bench.outcomes["DiskFullError"]


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
@pytest.mark.usefixtures("compiled_once")
def test_ingestion_into_a_full_disk_goes_on_once_it_is_larger(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: Figure
) -> None:
    database, folder = small_disk / "k.db", tmp_path / "in"
    write_sources(folder, string.ascii_lowercase[:12])
    arguments = ["ingest", "logbook", str(folder), "--json"]
    assert main(["--db", str(database), *arguments]) == exit_codes.DATABASE
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{database}: no space left on" in line
    subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
    with Database.open(database) as db:
        assert verify(db, deep=True) == []
    assert main(["--db", str(database), *arguments]) == exit_codes.OK
    assert main(["--db", str(tmp_path / "calm.db"), *arguments]) == exit_codes.OK
    same = storm.texts(database) == storm.texts(tmp_path / "calm.db")
    figure(7, "a real disk of 1 MB: one clear error, sound; once it is larger, equal to a calm run", same)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_failing_disk_at_every_kind_of_call(bench: Bench, figure: Figure) -> None:
    rng = random.Random(70)
    for name in CASES:
        bench.learn(name)
        for number, (kind, nth) in enumerate(bench.points(name, 6 if name == "ingest" else 24, rng)):
            bench.strike(name, kind, nth, deep=number % 10 == 0)
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(bench.outcomes.items()))
    print("\n".join(bench.wrong))
    figure(
        7,
        f"{len(CASES)} operations, {bench.writing} points of writing and {bench.struck.total() - bench.writing} of"
        f" reading at which the disk failed: {said}; {len(bench.wrong)} amiss",
        not bench.wrong and bench.writing >= 500,
    )


@pytest.mark.xdist_group("faults")
def test_a_fault_that_does_not_strike_is_no_point(bench: Bench) -> None:
    bench.learn("setting")
    for kind in FAULTS:
        bench.strike("setting", kind, 10_000)
    assert bench.struck.total() == 0
    assert bench.wrong == []


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
def test_a_backup_that_was_not_made_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.learn("backup")
    monkeypatch.setattr(Knowlex, "backup", lambda self, path: None)
    bench.strike("backup", "write", 1)
    assert [text for text in bench.wrong if "second.db: no such backup" in text]


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
def test_a_swallowed_error_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    bench.learn("message")
    mutants.plant("deaf-commits", monkeypatch.setattr)
    for nth in range(1, bench.calls["message", "write"] + 1, 4):
        bench.strike("message", "write", nth)
    figure(7, f"deaf-commits: caught {len(bench.wrong)} times", bool(bench.wrong))

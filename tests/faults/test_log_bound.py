"""A reader that looks at one moment for long: the log stays bounded meanwhile, and is short again soon after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import mutants
from faults.table import Figure
from faults.writer import FileWriter

from storage import database as storage_database
from storage.database import GROWTH_BYTES_A_S, Database
from storage.maintain import maintain_idle
from storage.paths import own_files
from storage.verify import verify

pytestmark = pytest.mark.row(9)

MIB = 2**20
BOUND, SHORT = 64 * MIB, 4 * MIB
FILES = 15
"""How many files the short form writes under a reader: more than 4 MB of log."""


@dataclass
class Log:
    """How long the log was (bytes): at most without a reader, at most under one, and after it had gone."""

    usual: int
    longest: int
    after: int
    files: int


def written_under_a_reader(
    path: Path, during: Iterator[None], after: Iterator[None], *, passages: int = 20, stays: bool = False
) -> Log:
    """Write as fast as the database lets one, as often as these say: while somebody reads, and after that."""
    with Database.open(path) as db, Database.open(path, readonly=True) as other, ExitStack() as reading:
        writer = FileWriter.begin(db, "writer", passages=passages)
        usual = longest(writer, times(5))
        reader = reading.enter_context(other.read())
        reader.value("SELECT count(*) FROM file_chunks")
        under_reader = longest(writer, during)
        if not stays:
            reading.close()
        longest(writer, after)
        found = Log(usual, under_reader, length(path), writer.written)
        reading.close()
        assert verify(db, deep=True) == []
    return found


def longest(writer: FileWriter, turns: Iterator[None]) -> int:
    """Write a file a turn and return how long the log became."""
    top = 0
    for _ in turns:
        writer.write()
        top = max(top, length(writer.db.path))
    return top


def length(path: Path) -> int:
    return own_files(path)[1].stat().st_size


def times(count: int) -> Iterator[None]:
    yield from [None] * count


def seconds(span: float) -> Iterator[None]:
    end = time.monotonic() + span
    while time.monotonic() < end:
        yield


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that writers would make (s), from one megabyte on; none is really made."""
    asked: list[float] = []

    class Time:
        sleep = staticmethod(asked.append)

    monkeypatch.setattr(storage_database, "time", Time)
    monkeypatch.setattr(storage_database, "LONG_LOG_BYTES", MIB)
    return asked


def test_writers_pause_while_a_reader_makes_the_log_long(tmp_path: Path, pauses: list[float]) -> None:
    log = written_under_a_reader(tmp_path / "a.db", times(FILES), times(5))
    assert log.usual < SHORT < log.longest
    assert log.longest <= MIB + sum(pauses) * GROWTH_BYTES_A_S + MIB, "and one commit"
    assert max(pauses) <= storage_database.LONGEST_PAUSE_S
    assert log.after < SHORT


def test_a_pause_has_an_end(tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_database, "GROWTH_BYTES_A_S", 1)
    written_under_a_reader(tmp_path / "a.db", times(FILES), times(1))
    assert max(pauses) == storage_database.LONGEST_PAUSE_S


def test_nobody_pauses_within_a_transaction(tmp_path: Path, pauses: list[float]) -> None:
    with Database.open(tmp_path / "a.db") as db, Database.open(tmp_path / "a.db", readonly=True) as other:
        writer = FileWriter.begin(db, "writer")
        with other.read() as reader:
            reader.value("SELECT count(*) FROM file_chunks")
            with db.batch():
                longest(writer, times(FILES))
                assert pauses == []
        assert len(pauses) == 1


def test_who_must_not_wait_for_others_does_not_pause_and_nobody_for_what_others_wrote(
    tmp_path: Path, pauses: list[float]
) -> None:
    with Database.open(tmp_path / "a.db") as db, Database.open(tmp_path / "a.db") as other:
        writer = FileWriter.begin(db, "writer")
        with other.read() as reader:
            reader.value("SELECT count(*) FROM file_chunks")
            longest(writer, times(FILES))
            assert pauses
            pauses.clear()
            with other.write() as tx:
                tx.run("UPDATE projects SET name = name || '.'")
            assert sum(pauses) * GROWTH_BYTES_A_S < MIB / 4
            pauses.clear()
            with db.write(timeout_ms=100) as tx:
                tx.run("UPDATE projects SET name = name || '.'")
            assert pauses == []


SYMPTOMS: dict[str, Callable[[Log, list[float]], bool]] = {
    "no-pauses": lambda log, pauses: not pauses and log.longest > SHORT,
    "no-checkpoints": lambda log, pauses: log.after > log.longest > SHORT,
    "reader-stays": lambda log, pauses: log.after > log.longest > SHORT,
}


@pytest.mark.parametrize("mutant", SYMPTOMS)
def test_a_log_that_grows_is_seen(
    mutant: str, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutant in mutants.MUTANTS:
        mutants.plant(mutant, monkeypatch.setattr)
    log = written_under_a_reader(tmp_path / "a.db", times(FILES), times(5), stays=mutant == "reader-stays")
    assert SYMPTOMS[mutant](log, pauses)


@pytest.mark.soak
def test_the_log_of_writers_that_do_not_pause_is_longer_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.plant("no-pauses", monkeypatch.setattr)
    assert written_under_a_reader(tmp_path / "a.db", seconds(10), times(1), passages=200).longest > BOUND


@pytest.mark.soak
@pytest.mark.parametrize("passages", [20, 200])
def test_the_log_is_bounded_at_full_speed(passages: int, tmp_path: Path, figure: Figure) -> None:
    log = written_under_a_reader(tmp_path / "a.db", seconds(10), seconds(5), passages=passages)
    figure(
        9,
        f"{log.files} files of {passages} passages: {log.longest / MIB:.0f} MB under a reader of 10 s (usually"
        f" {log.usual / MIB:.1f}), {log.after / MIB:.1f} MB 5 s after",
        log.longest <= BOUND and log.after < SHORT,
    )


@pytest.mark.soak
def test_the_log_is_cut_where_nobody_writes_any_more(tmp_path: Path, figure: Figure) -> None:
    with Database.open(tmp_path / "a.db") as db, Database.open(tmp_path / "a.db", readonly=True) as other:
        with other.read() as reader:
            reader.value("SELECT count(*) FROM project_files")
            top = longest(FileWriter.begin(db, "writer"), seconds(10))
        maintain_idle(db)
        left = length(tmp_path / "a.db")
    figure(9, f"{top / MIB:.0f} MB, {left / MIB:.1f} MB once a worker is idle", top <= BOUND and left < SHORT)

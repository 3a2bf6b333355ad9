"""A file that kills, starves or blocks its parser fails alone, with its reason, after exactly three attempts."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import mutants, poison
from faults.desk import Desk, note

from pipeline.ingest import MAX_ATTEMPTS
from storage import queue
from storage.database import Database
from storage.ids import now_ms
from storage.verify import verify
from workers.parser import ParserLimits
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(4)

LASTING = {"corrupt": "corrupt", "nest": "corrupt"}
"""What lies in the bytes, and is not tried again."""

PASSING = {
    "segfault": "crashed",
    "abort": "crashed",
    "killed": "crashed",
    "exit": "crashed",
    "babble": "crashed",
    "misanswer": "crashed",
    "memory-error": "memory",
    "hoard": "memory",
    "raise": "parser_error",
    "hang": "timeout",
    "deaf": "timeout",
    "flood": "timeout",
}
"""What ends an attempt, and the code that is kept of it."""


@pytest.fixture
def desk(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    poison.plant(monkeypatch, hanging=[act for act, code in PASSING.items() if code == "timeout"])
    limits = ParserLimits(timeout_s=10, memory_bytes=600 * 2**20)
    return Desk(db, tmp_path / "in", limits=limits, runner=RunnerSettings(workers=2))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)


def fill(desk: Desk, good: int, acts: list[str]) -> None:
    """Write good files, and poisoned ones between them; one good file comes from a parser that chatters."""
    for number in range(good):
        desk.write(f"{number:03}-good.md", note(number))
    desk.write("chatter-good.md", f"{poison.MARK}chatter\n\n{note(good)}")
    for number, act in enumerate(acts):
        desk.write(f"{number * good // len(acts):03}-{number}-{act}.md", f"{poison.MARK}{act}\n\n{note(1000 + number)}")


def differences(desk: Desk) -> list[str]:
    """Return what is not as it must be, file by file."""
    found = [*map(str, verify(desk.db, deep=True))]
    if unknown := {path.name for path in desk.folder.iterdir()} ^ {file.filename for file in desk.files()}:
        found.append(f"in the folder or the database alone: {sorted(unknown)}")
    for file in desk.files():
        act = file.filename.rpartition("-")[2].removesuffix(".md")
        act = "memory-error" if file.filename.endswith("memory-error.md") else act
        tried = MAX_ATTEMPTS if act in PASSING else 1
        wanted = ("ready", None, 1) if act == "good" else ("failed", (LASTING | PASSING)[act], tried)
        is_ = (str(file.status), file.error_code, desk.attempts.of[file.filename])
        if is_ != wanted or (act != "good" and not file.error_message):
            found.append(f"{file.filename}: {is_}, not {wanted}; {file.error_message}")
    return found


SHORT = ["segfault", "memory-error", "hang", "exit", "misanswer", "corrupt"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.xdist_group("faults")
def test_poison_fails_alone_after_exactly_three_attempts(desk: Desk) -> None:
    fill(desk, 10, SHORT)
    report = desk.ingest()
    assert differences(desk) == []
    assert (report.ingested, report.failed) == (11, len(SHORT))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_mixed_corpus_loses_only_its_poison(desk: Desk, figure) -> None:
    acts = [*PASSING, *LASTING, *list(PASSING)[:6]]
    fill(desk, 60, acts)
    report = desk.ingest()
    found = differences(desk)
    figure(
        4,
        f"{report.failed}/{len(acts)} poison files of {len(PASSING | LASTING)} kinds failed with reason after exactly"
        f" {MAX_ATTEMPTS} attempts (1 where it lies in the bytes), {report.ingested}/61 others ready;"
        f" {len(found)} differences",
        not found and (report.ingested, report.failed) == (61, len(acts)),
    )


def test_a_run_that_never_was_is_seen(desk: Desk) -> None:
    fill(desk, 2, ["exit"])
    assert "chatter-good.md" in str(differences(desk))


def lose(desk: Desk, times: int) -> None:
    """Have workers claim every file and be lost."""
    desk.scan()
    for _ in range(times):
        with desk.db.write() as db:
            assert len(queue.claim(db, "lost", limit=999, now_ms=now_ms())) == len(list(desk.folder.iterdir()))
            queue.reclaim(db, now_ms=now_ms(), is_dead=lambda owner: owner == "lost")


@pytest.mark.usefixtures("impatient")
def test_losing_a_worker_counts_against_no_file(desk: Desk) -> None:
    fill(desk, 3, ["segfault"])
    lose(desk, 2 * MAX_ATTEMPTS)
    desk.ingest()
    assert differences(desk) == []


@pytest.mark.usefixtures("impatient")
def test_an_attempt_that_is_not_counted_is_seen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("attempts-not-counted", monkeypatch.setattr)
    fill(desk, 2, ["exit"])
    desk.ingest()
    assert differences(desk)


@pytest.mark.usefixtures("impatient")
def test_a_lost_worker_that_is_counted_is_seen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("lost-worker-counted", monkeypatch.setattr)
    fill(desk, 2, ["exit"])
    lose(desk, 2)
    desk.ingest()
    assert differences(desk)

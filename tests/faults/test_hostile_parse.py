"""A hostile file ends in time and within its memory, for a reason that is kept, and costs nobody else anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from faults import guard, mutants, mutate, poison, samples
from faults.desk import Desk, note
from faults.fuzz import Case, Fuzz, Tally
from faults.guard import Guard
from faults.hostile import HOSTILE
from faults.table import Figure

from storage.database import Database
from storage.verify import verify
from workers.parser import ParserLimits
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(17)

LIMITS = ParserLimits()
TIGHT = ParserLimits(memory_bytes=300 * 2**20)
SLACK_S = 3
"""Between a limit and its being noticed: the child's end, and a busy machine."""


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    return guard.plant(monkeypatch, tmp_path / "report")


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4 is of the three attempts."""
    monkeypatch.setattr("pipeline.ingest.MAX_ATTEMPTS", 1)


def desk_of(db: Database, folder: Path, limits: ParserLimits, workers: int = 1) -> Desk:
    return Desk(db, folder, limits=limits, runner=RunnerSettings(workers=workers))


def fill(desk: Desk, names: list[str]) -> None:
    """Write hostile files, and a sound one after each fifth."""
    for number, name in enumerate(names):
        (desk.folder / f"{number:02}-{name}").write_bytes(HOSTILE[name].make())
        if number % 5 == 0:
            desk.write(f"{number:02}-z-good.md", note(number))


def differences(desk: Desk, seen: Guard) -> list[str]:
    """Return what is not as it must be."""
    found = [*map(str, verify(desk.db, deep=True)), *seen.touched()]
    if seen.peak_bytes > desk.limits.memory_bytes:
        found.append(f"{seen.peak_bytes / 2**20:.0f} MB of memory")
    if unknown := {path.name for path in desk.folder.iterdir()} ^ {file.filename for file in desk.files()}:
        found.append(f"in the folder or the database alone: {sorted(unknown)}")
    for file in desk.files():
        _, name = file.filename.split("-", 1)
        ended = file.error_code or str(file.status)
        if ended not in (HOSTILE[name].ends if name in HOSTILE else ("ready",)):
            found.append(f"{file.filename}: {ended}: {file.error_message}")
        if file.error_code and not file.error_message:
            found.append(f"{file.filename}: {file.error_code} without a reason")
    return found


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.xdist_group("faults")
def test_hostile_files_end_within_their_limits(
    db: Database, tmp_path: Path, guarded: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison.hurry(monkeypatch, ["hangs.html"])
    desk = desk_of(db, tmp_path / "in", TIGHT)
    fill(desk, list(HOSTILE))
    report = desk.ingest()
    assert differences(desk, guarded) == []
    assert report.ingested + report.failed == len(list(desk.folder.iterdir()))


@pytest.mark.usefixtures("one_attempt")
def test_memory_that_is_not_bounded_is_seen(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = guard.plant(monkeypatch, tmp_path / "report", "memory-not-limited")
    desk = desk_of(db, tmp_path / "in", replace(TIGHT, timeout_s=5))
    fill(desk, ["starves.txt"])
    desk.ingest()
    assert any("MB of memory" in difference for difference in differences(desk, seen))


@pytest.mark.usefixtures("one_attempt")
def test_a_file_that_is_not_ended_is_seen(
    db: Database, tmp_path: Path, guarded: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.plant("time-not-limited", monkeypatch.setattr)
    desk = desk_of(db, tmp_path / "in", replace(LIMITS, timeout_s=poison.SOON_S))
    (desk.folder / "00-hangs.html").write_bytes(b"<i>a" * 12_000)
    desk.ingest()
    assert any("hangs.html: " in difference for difference in differences(desk, guarded))


# --- the long forms


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_hostile_files_under_the_usual_limits(db: Database, tmp_path: Path, guarded: Guard, figure: Figure) -> None:
    desk = desk_of(db, tmp_path / "in", LIMITS, workers=2)
    fill(desk, list(HOSTILE))
    report = desk.ingest()
    found = differences(desk, guarded)
    figure(
        17,
        f"{len(HOSTILE)} kinds of hostile files and sound ones: {report.ingested} read, {report.failed} failed with"
        f" reason, at most {guarded.peak_bytes / 2**20:,.0f} MB; {len(found)} differences{found[:3] or ''}",
        not found,
    )


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_real_damaged_documents(
    shared_data: Path, db: Database, tmp_path: Path, guarded: Guard, figure: Figure
) -> None:
    """The collections of damaged, hostile and odd files that pypdf, pdf.js, qpdf, POI and Tika are tested with."""
    desk = desk_of(db, tmp_path / "in", LIMITS, workers=2)
    for number, path in enumerate(_documents(shared_data)):
        (desk.folder / f"{number:04}{path.suffix}").write_bytes(path.read_bytes())
    taken = len(list(desk.folder.iterdir()))
    report = desk.ingest()
    on_disk = [file for file in desk.files() if b"\0" not in file.path_bytes]
    ended = Counter(file.error_code or str(file.status) for file in on_disk)
    unknown = [file.filename for file in desk.files() if file.error_code and not file.error_message]
    problems = [*map(str, verify(db, deep=True)), *guarded.touched(), *unknown]
    unended = ended.keys() & {"pending", "processing"}
    slowest = max(cost.wall_s for cost in guarded.costs())
    figure(
        17,
        f"{taken:,} damaged and odd documents: {dict(ended.most_common())}, {report.skipped} passed over; slowest"
        f" {slowest:.1f} s, {guarded.peak_bytes / 2**20:,.0f} MB; {len(problems)} differences{problems[:3] or ''}",
        not problems
        and not unended
        and slowest <= LIMITS.timeout_s + SLACK_S
        and guarded.peak_bytes <= LIMITS.memory_bytes,
    )


def _documents(shared_data: Path) -> list[Path]:
    folders = [shared_data / "docs", shared_data / "synthetic"]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


MUTATIONS = 100_000


def mutations(count: int, *, start: int = 0) -> Iterator[Case]:
    """Damaged samples of every format, one after the other."""
    whole = samples.every()
    others = [data for _, data in whole]
    for number in range(start, start + count):
        extension, data = whole[number % len(whole)]
        yield f"mutation {number} ({extension})", extension, mutate.mutated(data, number, others)


def lacking(tally: Tally, seen: Guard, limits: ParserLimits) -> list[str]:
    """Return what is not as it must be of files that were parsed."""
    found = [*tally.wrong, *seen.touched()]
    if tally.slowest_s > limits.timeout_s + SLACK_S:
        found.append(f"{tally.slowest_s:.1f} s for one file")
    if seen.peak_bytes > limits.memory_bytes:
        found.append(f"{seen.peak_bytes / 2**20:.0f} MB of memory")
    return found


def test_some_mutations(tmp_path: Path, guarded: Guard) -> None:
    tally = Fuzz(tmp_path / "fuzz", LIMITS, workers=1).run(mutations(100))
    assert (tally.files, tally.wrong, guarded.touched(), tally.contained) == (100, [], [], [])


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_many_mutations(tmp_path: Path, guarded: Guard, figure: Figure) -> None:
    tally = Fuzz(tmp_path / "fuzz", LIMITS).run(mutations(MUTATIONS))
    found = lacking(tally, guarded, LIMITS)
    figure(
        17,
        f"{tally.files:,} mutations: {tally.told()}; slowest {tally.slowest_s:.1f} s,"
        f" {guarded.peak_bytes / 2**20:,.0f} MB; {len(found)} differences{found[:3] or ''}; {tally.contained[:3]}",
        not found and tally.files == MUTATIONS,
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_mutations_through_the_whole_of_an_ingestion(
    db: Database, tmp_path: Path, guarded: Guard, figure: Figure
) -> None:
    desk = desk_of(db, tmp_path / "in", LIMITS, workers=2)
    for number, (_, extension, data) in enumerate(mutations(2_000, start=10**6)):
        (desk.folder / f"{number:04}.{extension}").write_bytes(data)
    desk.ingest()
    on_disk = [file for file in desk.files() if b"\0" not in file.path_bytes]
    lost = [file.filename for file in on_disk if file.error_code and not file.error_message]
    found = [*map(str, islice(verify(db, deep=True), 9)), *guarded.touched(), *lost]
    ended = Counter(str(file.status) for file in on_disk)
    figure(
        17,
        f"{len(on_disk):,} mutations ingested: {dict(ended)}; {len(found)} differences{found[:3] or ''}",
        not found and set(ended) <= {"ready", "failed"},
    )

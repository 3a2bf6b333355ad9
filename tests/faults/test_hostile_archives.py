"""Bombs are refused before they are unpacked, and no archive writes anything, in any format that is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import archives, guard, mutate, samples
from faults.desk import Desk, note
from faults.fuzz import Case, Fuzz
from faults.table import Figure

from storage.database import Database
from storage.files import File
from storage.verify import verify
from workers.parser import ParserLimits
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(18)

LIMITS = ParserLimits()
PEAK_BYTES = 400 * 2**20
"""An archive is unpacked to 200 MB at most; a refused one costs little more than the child itself."""


class Field:
    """A folder that is ingested, and around it all places that an archive could climb into."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, *mutants: str) -> None:
        self.seen = guard.plant(monkeypatch, place / "report", *mutants)
        self.outside, self.folder = place / archives.OUTSIDE, place / "in"
        self._others = [self.outside, place / "temporary", place / "current"]
        for folder in self._others:
            folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(place / "temporary"))
        monkeypatch.chdir(place / "current")

    def written(self) -> list[str]:
        """Return what lies outside of the folder that is ingested, and what was seen of its making."""
        return [str(path) for folder in self._others for path in folder.rglob("*")] + self.seen.touched()


def fill(desk: Desk, attacks: list[tuple[str, bytes, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Write each attack, and each as an attachment of a mail; return how each must end, by its name."""
    for number, (name, data, _) in enumerate(attacks):
        (desk.folder / name).write_bytes(data)
        attached = samples.mail((f"in-{name}", _another(data)), text=f"About {name}")
        (desk.folder / f"{name}.eml").write_bytes(attached)
        if number % 10 == 0:
            desk.write(f"{number}.md", note(number))
    return {name: ends for name, _, ends in attacks} | {f"in-{name}": ends for name, _, ends in attacks}


def _another(data: bytes) -> bytes:
    """The same archive as other bytes, by a comment at its end: equal files are read but once."""
    return data[:-2] + b"\1\0!"


def differences(desk: Desk, field: Field, ends: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what is not as it must be."""
    found = [*map(str, verify(desk.db, deep=True)), *field.written()]
    if field.seen.peak_bytes > PEAK_BYTES:
        found.append(f"{field.seen.peak_bytes / 2**20:.0f} MB of memory")
    files = {file.filename: file for file in desk.files()}
    found += [f"{name} was not read at all" for name in ends.keys() - files.keys()]
    return found + [told for file in files.values() if (told := _told(file, ends.get(file.filename, ("ready",))))]


def _told(file: File, ends: tuple[str, ...]) -> str:
    ended = file.error_code or str(file.status)
    sound = ended in ends and (ended == "ready" or bool(file.error_message))
    return "" if sound else f"{file.filename}: {ended}, not {' or '.join(ends)}: {file.error_message}"


def some(outside: Path) -> list[tuple[str, bytes, tuple[str, ...]]]:
    """Every kind of attack, and every format, though not each with each."""
    formats = list(samples.PACKAGES)
    chosen = {f"{kind}.{formats[number % len(formats)]}" for number, kind in enumerate(archives.KINDS)}
    return [attack for attack in archives.every(str(outside)) if attack[0] in chosen]


@pytest.mark.xdist_group("faults")
def test_archives_that_harm_are_refused(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field(tmp_path, monkeypatch)
    desk = Desk(db, field.folder, runner=RunnerSettings(workers=1))
    attacks = some(field.outside)
    assert {name.partition(".")[0] for name, _, _ in attacks} == set(archives.KINDS)
    assert {name.partition(".")[2] for name, _, _ in attacks} == set(samples.PACKAGES)
    ends = fill(desk, attacks)
    desk.ingest()
    assert differences(desk, field, ends) == []


@pytest.mark.parametrize(
    ("mutant", "kind", "told"),
    [
        ("archives-not-checked", "dense.odt", "dense.odt: "),
        ("archives-not-checked", "climbs.docx", "climbs.docx: ready"),
        ("unpacked-to-disk", "climbs.docx", "outside/a.xml"),
    ],
)
def test_an_archive_that_does_harm_is_seen(
    mutant: str, kind: str, told: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(tmp_path, monkeypatch, mutant)
    desk = Desk(db, field.folder, runner=RunnerSettings(workers=1))
    attacks = [attack for attack in archives.every(str(field.outside)) if attack[0] == kind]
    ends = fill(desk, attacks)
    desk.ingest()
    assert any(told in difference for difference in differences(desk, field, ends))


# --- the long forms


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_attack_on_every_format(
    db: Database, tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(tmp_path, monkeypatch)
    desk = Desk(db, field.folder)
    ends = fill(desk, list(archives.every(str(field.outside))))
    desk.ingest()
    refused = sum(file.filename in ends and file.error_code is not None for file in desk.files())
    found = differences(desk, field, ends)
    figure(
        18,
        f"{refused}/{len(ends)} archives refused: {len(archives.KINDS)} attacks, {len(samples.PACKAGES)} formats, as"
        f" files and attached; {len(field.written())} written, {field.seen.peak_bytes / 2**20:,.0f} MB; {len(found)}"
        f" differences{found[:3] or ''}",
        not found and refused == len(ends),
    )


MUTATIONS = 20_000


def mutations(outside: Path) -> Iterator[Case]:
    """Damaged bombs: their bytes, not their parts."""
    attacks = [attack for attack in archives.every(str(outside)) if len(attack[1]) < 1_000_000]
    others = [data for _, data, _ in attacks]
    for number in range(MUTATIONS):
        name, data, _ = attacks[number % len(attacks)]
        yield f"mutation {number} of {name}", name.partition(".")[2], mutate.mutated(data, number, others)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_mutated_attacks(tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field(tmp_path, monkeypatch)
    tally = Fuzz(tmp_path / "in", LIMITS).run(mutations(field.outside))
    found = [*tally.wrong, *field.written()]
    peak = field.seen.peak_bytes
    figure(
        18,
        f"{tally.files:,} mutations of them: {tally.told()}; {len(field.written())} written, {peak / 2**20:,.0f} MB;"
        f" {len(found)} differences{found[:3] or ''}",
        not found and peak <= LIMITS.memory_bytes and tally.files == MUTATIONS,
    )

"""XML that grows, or names files and hosts, is refused or read without them, in every format that has XML in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import entities, guard, mutate
from faults.desk import Desk
from faults.fuzz import Case, Fuzz
from faults.table import Figure

from storage import chunks
from storage.database import Database
from storage.files import File
from storage.verify import verify
from workers.parser import ParserLimits
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(19)

LIMITS = ParserLimits()
CPU_S = 1.0
LONGEST = 10_000
"""Characters of what is read of a document whose entities are not put in."""

Attack = tuple[str, str, bytes, bool]


class Trap:
    """A secret file, a port, and what tells who came to them."""

    def __init__(self, place: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, *mutants: str) -> None:
        self.secret = place / "secret.txt"
        self.secret.write_text(entities.SECRET, "utf8")
        self.seen = guard.plant(monkeypatch, place / "report", *mutants)
        self.port, self._knocks = stack.enter_context(guard.listening())
        self._opens: Callable[[], int] = stack.enter_context(guard.watching_file(self.secret))

    def attacks(self) -> list[Attack]:
        """Every attack with this file and port."""
        return list(entities.every(str(self.secret), self.port))

    def sprung(self) -> list[str]:
        """Return who came."""
        found = self.seen.touched()
        if knocks := self._knocks():
            found.append(f"{knocks} connections")
        if opens := self._opens():
            found.append(f"the secret file was opened {opens} times")
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def trap(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return Trap(tmp_path, stack, monkeypatch)


def fill(desk: Desk, attacks: list[Attack]) -> None:
    for _, name, data, _ in attacks:
        (desk.folder / name).write_bytes(data)


def differences(desk: Desk, trap: Trap, attacks: list[Attack]) -> list[str]:
    """Return what is not as it must be."""
    found = [*map(str, verify(desk.db, deep=True)), *trap.sprung()]
    files = {file.filename: file for file in desk.files()}
    read = [attack for attack in attacks if not attack[1].endswith(".svg")]  # no reader exists for drawings
    found += [f"{name} was not taken" for _, name, _, _ in read if name not in files]
    strict = {name: refused for _, name, _, refused in attacks}
    found += [told for file in files.values() if (told := _told(desk, file, strict[file.filename]))]
    costs = {cost.name: cost.cpu_s for cost in trap.seen.costs()}
    return found + [f"{name}: {cpu_s:.1f} s of the processor" for name, cpu_s in costs.items() if cpu_s >= CPU_S]


def _told(desk: Desk, file: File, refused: bool) -> str:
    if file.error_code:
        known = file.error_code in ("corrupt", "no_text", "too_large") and bool(file.error_message)
        return "" if known else f"{file.filename}: {file.error_code}: {file.error_message}"
    with desk.db.read() as db:
        text = "".join(chunk.content for chunk in chunks.of_file(db, file.pk))
    if refused or str(file.status) != "ready":
        return f"{file.filename}: {file.status}, not refused"
    if entities.SECRET in text or "lol" * 2 in text or len(text) > LONGEST:
        return f"{file.filename}: what an entity stands for is in its text"
    return ""


def some(attacks: list[Attack]) -> list[Attack]:
    """Every kind of attack, and every format, though not each with each."""
    return [attack for number, attack in enumerate(attacks) if number % 9 == 0]


@pytest.mark.xdist_group("faults")
def test_what_xml_names_is_never_put_in(db: Database, tmp_path: Path, trap: Trap) -> None:
    attacks = some(trap.attacks())
    assert {kind for kind, _, _, _ in attacks} == {kind for kind, _, _, _ in trap.attacks()}
    desk = Desk(db, tmp_path / "in", runner=RunnerSettings(workers=1))
    fill(desk, attacks)
    desk.ingest()
    assert differences(desk, trap, attacks) == []


@pytest.mark.parametrize(
    ("mutant", "chosen", "told"),
    [
        ("entities-resolved", ("file-", ".docx"), "the secret file was opened"),
        ("entities-resolved", ("repeats-", ".pptx"), "not refused"),
        ("dtd-fetched", ("dtd", ".xml"), "connections"),
        ("dtd-fetched", ("dtd", ".xml"), "socket.connect"),
    ],
)
def test_what_is_put_in_is_seen(
    mutant: str,
    chosen: tuple[str, str],
    told: str,
    db: Database,
    tmp_path: Path,
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trap = Trap(tmp_path, stack, monkeypatch, mutant)
    attacks = [each for each in trap.attacks() if each[1].startswith(chosen[0]) and each[1].endswith(chosen[1])]
    desk = Desk(db, tmp_path / "in", runner=RunnerSettings(workers=1))
    fill(desk, attacks)
    desk.ingest()
    assert any(told in difference for difference in differences(desk, trap, attacks))


# --- the long forms


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_attack_on_every_document(db: Database, tmp_path: Path, trap: Trap, figure: Figure) -> None:
    attacks = trap.attacks()
    desk = Desk(db, tmp_path / "in")
    fill(desk, attacks)
    report = desk.ingest()
    slowest = max(cost.cpu_s for cost in trap.seen.costs())
    found = differences(desk, trap, attacks)
    figure(
        19,
        f"{len(attacks)} attacks on {len({name.rpartition('.')[2] for _, name, _, _ in attacks})} formats:"
        f" {report.failed} refused, {report.ingested} read without what they name, {report.skipped} passed over;"
        f" slowest {slowest:.2f} s of the processor; {len(found)} differences{found[:3] or ''}",
        not found,
    )


MUTATIONS = 20_000


def mutations(attacks: list[Attack]) -> Iterator[Case]:
    """Damaged attacks."""
    others = [data for _, _, data, _ in attacks]
    for number in range(MUTATIONS):
        _, name, data, _ = attacks[number % len(attacks)]
        yield f"mutation {number} of {name}", name.rpartition(".")[2], mutate.mutated(data, number, others)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_mutated_attacks(tmp_path: Path, trap: Trap, figure: Figure) -> None:
    tally = Fuzz(tmp_path / "fuzz", LIMITS).run(mutations(trap.attacks()))
    found = [*tally.wrong, *trap.sprung()]
    figure(
        19,
        f"{tally.files:,} mutations of them: {tally.told()}; longest text {tally.longest_text:,} characters;"
        f" {len(found)} differences{found[:3] or ''}",
        not found and tally.files == MUTATIONS,
    )

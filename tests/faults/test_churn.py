"""A database whose files come, change and go is, once maintained, hardly larger than one made of what is left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults import mutants
from faults.desk import Desk, note

from storage.database import Database
from storage.maintain import maintain
from storage.paths import own_files
from storage.verify import verify
from workers.runner import RunnerSettings

pytestmark = pytest.mark.row(13)

PARAGRAPHS = 4
"""Chunks of a file, and so its vectors."""

BAR = 1.5


def desk_at(path: Path, folder: Path) -> Desk:
    return Desk(Database.open(path), folder, runner=RunnerSettings(workers=1))


def bytes_of(desk: Desk) -> int:
    """Return what a database takes on disk, its log included."""
    return sum(file.stat().st_size for file in own_files(desk.db.path) if file.exists())


def churn(desk: Desk, files: int, rng: random.Random, rounds: int) -> None:
    """Write files and, in each round, replace one half of them: some change, some go and others come."""
    numbers = list(range(files))
    fresh = files
    write(desk, numbers)
    desk.ingest()
    for _ in range(rounds):
        rng.shuffle(numbers)
        gone, numbers = numbers[: files // 2], numbers[files // 2 :]
        come = list(range(fresh, fresh + len(gone)))
        fresh += len(gone)
        for place, number in enumerate(gone):
            path = desk.folder / f"{number}.md"
            if place % 2:
                path.unlink()
            else:
                path.rename(desk.folder / f"{come[place]}.md")
        write(desk, come)
        numbers += come
        desk.ingest(prune=True, force=True)


def write(desk: Desk, numbers: list[int]) -> None:
    for number in numbers:
        desk.write(f"{number}.md", note(number, PARAGRAPHS))


def churned(folder: Path, files: int, rng: random.Random, rounds: int = 5) -> tuple[Desk, int]:
    """Return a desk after the churn, and what a database of the same content takes that is freshly made."""
    old = desk_at(folder / "old.db", folder / "in")
    churn(old, files, rng, rounds)
    new = desk_at(folder / "new.db", folder / "in")
    new.ingest()
    assert vectors_of(new) == vectors_of(old)
    new.db.close()
    return old, bytes_of(new)


def vectors_of(desk: Desk) -> int:
    return desk.value("SELECT count(*) FROM embeddings")


@pytest.mark.xdist_group("faults")
def test_churn_leaves_no_slack_unless_the_file_is_never_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, ideal = churned(tmp_path, 60, random.Random(13), rounds=3)
    with monkeypatch.context() as patch:
        mutants.plant("no-vacuum", patch.setattr)
        maintain(desk.db)
        assert bytes_of(desk) > BAR * ideal
    maintain(desk.db)
    assert bytes_of(desk) <= BAR * ideal
    desk.db.close()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("files", [500, 5_000])
def test_five_rounds_of_churn_leave_no_slack(files: int, tmp_path: Path, figure) -> None:
    desk, ideal = churned(tmp_path, files, random.Random(files))
    maintain(desk.db)
    assert verify(desk.db, deep=True) == []
    kept, size = vectors_of(desk), bytes_of(desk)
    desk.db.close()
    text = f"{kept:,} vectors, 5 rounds of 50 % churn: {size / 1e6:.1f} MB, {size / ideal:.2f} × ideal"
    figure(13, text, size <= BAR * ideal)

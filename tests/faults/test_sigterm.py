"""A run told to end does so soon and cleanly: nothing stays in hand, no parser is left, the next run goes on."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faults import storm
from faults.storm import Field
from faults.table import Figure

pytestmark = [pytest.mark.row(5), pytest.mark.xdist_group("faults")]

PATIENCE_S = 60.0
STOPPED = 128 + signal.SIGTERM

MOMENTS = (
    "after:storage.files.register",
    "after:storage.queue.claim",
    "before:workers.parser.Parser.parse",
    "before:storage.vectors.encode",
    "before:pipeline.ingest.commit",
    "after:storage.chunks.replace",
    "after:pipeline.ingest.commit",
)


def ended_s(worker: subprocess.Popen[bytes]) -> float:
    """Tell a worker to end and return how long it took."""
    started = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGCONT)  # where it stands still, it sees both at once
    worker.communicate(timeout=PATIENCE_S)
    return time.monotonic() - started


def after(seconds: float, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Return a worker that has been at work for a while."""
    worker = storm.start(arguments)
    time.sleep(seconds)
    return worker


def assert_clean(field: Field) -> None:
    """Assert that nothing is in hand, nobody left and nothing unsound."""
    assert storm.holders(field.database) == [], "files are in hand"
    storm.assert_no_parsers(field.folder.parent)
    storm.assert_sound(field.database)


def test_a_run_told_to_end_leaves_nothing_in_hand(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(1))
    for moment in ("before:workers.parser.Parser.parse#2", "before:storage.vectors.encode", MOMENTS[5]):
        worker = storm.stopped_at(moment, field.ingest)
        assert worker is not None
        ended_s(worker)
        assert worker.returncode == STOPPED
        assert_clean(field)
        field.change(4)  # the run that was told to end may have finished all that there was
    field.finish()


@pytest.mark.proof
def test_a_run_that_ends_without_giving_back_is_caught(tmp_path: Path) -> None:
    field = Field(tmp_path, random.Random(2), files=4)
    worker = storm.stopped_at(MOMENTS[2], field.ingest, "--mutant", "kept-lease")
    assert worker is not None
    ended_s(worker)
    assert worker.returncode == STOPPED
    with pytest.raises(AssertionError, match="in hand"):
        assert_clean(field)


ROUND = 25
"""Runs told to end until the database must equal one made calmly; then all begins anew."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("where", "times"), [("at random moments", 100), ("at steps", 100)])
def test_two_hundred_runs_told_to_end(where: str, times: int, tmp_path: Path, figure: Figure) -> None:
    rng = random.Random(where)
    took: list[float] = []
    at_work = 0
    while len(took) < times:
        field = Field(tmp_path / str(len(took)), rng)
        for _ in range(min(ROUND, times - len(took))):
            worker = chosen(field, where, rng)
            if worker is None:
                field.change(4)
                continue
            took.append(ended_s(worker))
            # Before it could listen, a run ends by the signal itself; it may also have ended first.
            assert worker.returncode in (STOPPED, -signal.SIGTERM, 0, 1)
            at_work += worker.returncode == STOPPED
            assert_clean(field)
            field.change(2)
            field.shrink()
        field.finish()
        shutil.rmtree(field.folder.parent)
    text = f"{times} {where}, {at_work} at work: slowest exit {max(took):.1f} s, 0 in hand, equal to a calm run"
    figure(5, text, max(took) <= 10 and at_work >= times / 4)


def chosen(field: Field, where: str, rng: random.Random) -> subprocess.Popen[bytes] | None:
    """Return a worker to be told to end; None where it had ended before its moment came."""
    if where == "at steps":
        return storm.stopped_at(f"{rng.choice(MOMENTS)}#{rng.choice((1, 2, 4))}", field.ingest)
    return after(rng.uniform(0.3, 2.0), field.ingest)

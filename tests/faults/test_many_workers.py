"""Many workers share one database, whoever is killed: nobody is turned away, nothing is done twice, nobody starves."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pytest
from faults.crowd import PATIENCE_S, Crowd
from faults.table import Figure

from storage.database import Database

pytestmark = [pytest.mark.row(30), pytest.mark.xdist_group("faults")]

SECONDS = float(os.environ.get("KNOWLEX_TEST_MANY_S", "600"))

DOORS = [(door, mode) for door in ("facade", "command") for mode in ("hybrid", "text")]

Gather = Callable[..., Crowd]


@pytest.fixture
def gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gather:
    """Make a crowd, with a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return lambda seed=1, **options: Crowd(tmp_path, random.Random(seed), **options)


def test_killed_workers_lose_nothing_and_turn_nobody_away(gather: Gather) -> None:
    crowd = gather()
    crowd.ingest_calmly(crowd.database)
    with crowd.asked([DOORS[0], DOORS[3]]):
        for _ in range(2):
            crowd.hire()
        for name in ("docks", "inlet", "docks"):
            crowd.trees[name].add(8)
            crowd.register(name)
            crowd.kill(crowd.one_at_work())
            crowd.hire()
            crowd.trees[name].change()
        crowd.ingest("docks")
        crowd.settle()
    assert crowd.faults() == []
    assert crowd.done["kills with files in hand"] == crowd.done["killed"] == 3
    assert crowd.done["searches"] >= 2


def test_whoever_searches_has_ended_also_where_the_block_fails(gather: Gather) -> None:
    with pytest.raises(RuntimeError, match="of the block"), gather().asked([DOORS[0]]):
        raise RuntimeError("of the block")
    assert [process.cmdline() for process in psutil.Process().children() if "faults.asker" in process.cmdline()] == []


def queue_behind(crowd: Crowd, files: int = 64) -> int:
    """Queue many files of one project and behind them one of another; return after how many claims that is taken."""
    crowd.trees["docks"].add(files)
    crowd.register("docks")
    crowd.put_single("docks", "inlet")
    crowd.hire()
    crowd.settle()
    return crowd.claims_before(crowd.singles[0])


def test_a_single_file_does_not_wait_for_the_queue_of_another_project(gather: Gather) -> None:
    assert queue_behind(gather()) == 0


# --- what is planted is seen -----------------------------------------------------------------------


@pytest.mark.proof
def test_projects_that_do_not_take_turns_are_caught(gather: Gather) -> None:
    assert queue_behind(gather(mutants=["oldest-project-first"])) > MOST_CLAIMS


@pytest.mark.proof
def test_a_missing_fence_is_caught(gather: Gather) -> None:
    crowd = gather(lease_s=2.0, mutants=["missing-fence"])
    late = crowd.stopped_at("before:pipeline.ingest.commit#3")
    crowd.hire()
    crowd.until(lambda: not crowd.waiting())
    late.process.send_signal(signal.SIGCONT)
    crowd.settle()
    assert any("committed twice" in fault for fault in crowd.repeated())


@pytest.mark.proof
def test_attempts_that_count_for_a_killed_worker_are_caught(gather: Gather) -> None:
    crowd = gather(mutants=["lost-worker-counted"])
    crowd.trees["docks"].add(8)
    crowd.register("docks")
    crowd.hire()
    crowd.kill(crowd.one_at_work())
    crowd.hire()
    crowd.settle()
    assert any("attempts counted" in fault for fault in crowd.repeated())


@pytest.mark.proof
def test_transactions_that_begin_deferred_are_caught(gather: Gather) -> None:
    crowd = gather(mutants=["deferred-begin"])
    for _ in range(3):
        crowd.hire()
    end = time.monotonic() + PATIENCE_S
    while not crowd.amiss:
        assert time.monotonic() < end, "nobody is turned away"
        if crowd.waiting() < 16:
            crowd.trees["docks"].add(32)
            crowd.register("docks")
        crowd.look()
    assert "holds the write lock" in crowd.amiss[0]


@pytest.mark.proof
def test_searches_that_wait_for_writers_are_caught(gather: Gather) -> None:
    crowd = gather(mutants_of_searchers=["searches-that-write"])
    with Database.open(crowd.database) as database, database.write(), crowd.asked([("facade", "text")]):
        pass
    assert any("LockedError" in fault for fault in crowd.amiss)


@pytest.mark.proof
def test_a_worker_that_ends_by_itself_is_caught(gather: Gather) -> None:
    crowd = gather()
    crowd.hire("--at", "before:workers.runner.Runner.run=kill")
    end = time.monotonic() + PATIENCE_S
    while crowd.workers:
        assert time.monotonic() < end, "the worker does not end"
        crowd.look()
    assert "by itself" in crowd.amiss[0]


# --- in full ---------------------------------------------------------------------------------------

WORKERS = SEARCHERS = 8
LEASE_S = 15.0
LONG_QUEUE = 400
LONG_LIFE_S = 60.0
MOST_CLAIMS = 8
"""A claim of two files, from three projects, may leave one of these out; nobody is left out so often."""


def one_step(crowd: Crowd, rng: random.Random) -> None:
    """Do what may happen in half a second to a crowd at work."""
    name = rng.choice(("docks", "harbour"))
    at_work = [worker for worker in crowd.workers if not worker.fate]
    one = rng.choice(at_work or [crowd.hire()])
    if rng.random() < 0.2:
        crowd.trees[name].change()
        (crowd.register if rng.random() < 0.5 else crowd.ingest)(name)
    if not crowd.singles or rng.random() < 0.03:
        crowd.put_single("docks", "inlet")
    if rng.random() < 0.1:
        crowd.kill(one)
    elif rng.random() < 0.02 and not any(worker.goes_on_at for worker in at_work):
        crowd.pause(one)
    elif rng.random() < 0.02:
        crowd.dismiss(one)


def turns(crowd: Crowd) -> tuple[str, bool]:
    """Tell how long single files of a quiet project waited while another had a long queue."""
    ready = {line["hash"]: line["at"] for line in crowd.commits()}
    # Who is killed right after a commit does not tell of it.
    singles = [single for single in crowd.singles if single.digest in ready]
    waits = [ready[single.digest] - single.at for single in singles]
    claims = [crowd.claims_before(single) for single in singles]
    text = (
        f"{len(waits)} single files behind queues of {min(one.ahead for one in singles)} or more: taken after"
        f" {max(claims)} other claims at most; ready after {median(waits):.1f} s (median), {max(waits):.1f} s (longest)"
    )
    return text, max(claims) <= MOST_CLAIMS


def shares(crowd: Crowd) -> tuple[str, bool]:
    """Tell how many files a minute the workers committed that lived for long."""
    made = Counter(line["pid"] for line in crowd.commits())
    rates = [
        60 * made[worker.pid] / (worker.until - worker.since)
        for worker in crowd.former
        if worker.until - worker.since >= LONG_LIFE_S
    ]
    text = (
        f"{len(rates)} workers that lived for {LONG_LIFE_S:g} s: {min(rates, default=0):.1f} to"
        f" {max(rates, default=0):.1f} files a minute each;"
        f" at most {crowd.largest['worker']} MB, and {crowd.largest['parser']} MB a parser"
    )
    return text, min(rates, default=0) > 0


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 1800)
def test_workers_killed_at_random_for_long(gather: Gather, figure: Figure) -> None:
    crowd, rng = gather(seed=600, names=("docks", "harbour", "inlet"), lease_s=LEASE_S), random.Random(600)
    crowd.ingest_calmly(crowd.database)
    end = time.monotonic() + SECONDS
    with crowd.asked(SEARCHERS // len(DOORS) * DOORS):
        while time.monotonic() < end:
            staff(crowd)
            one_step(crowd, rng)
            crowd.look()
            crowd.weigh()
            time.sleep(rng.uniform(0.2, 0.8))
        told = crowd.done.copy()
        staff(crowd)
        crowd.settle()
    faults = crowd.faults()
    figure(
        30,
        f"{SECONDS:g} s: {told['killed']} workers killed ({told['kills with files in hand']} with files in hand),"
        f" {told['stopped past the lease']} stopped, {told['told to end']} told to end; {crowd.done['searches']}"
        f" searches, {len(crowd.commits())} commits: {len(faults)} amiss {faults[:3] or ''}".rstrip(),
        not faults,
    )
    figure(30, *turns(crowd))
    figure(30, *shares(crowd))


def staff(crowd: Crowd) -> None:
    """See to it that there are enough workers, and enough for them to do."""
    while len(crowd.workers) < WORKERS:
        crowd.hire()
    if crowd.waiting("docks") < LONG_QUEUE:
        crowd.trees["docks"].add(LONG_QUEUE)
        crowd.register("docks")

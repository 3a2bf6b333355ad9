"""Writers and readers in many processes: nobody is turned away, nobody waits long, and every write is there."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from faults import busy
from faults.busy import Part
from faults.table import Figure

from knowlex import Knowlex
from storage.database import Database
from storage.verify import verify

pytestmark = pytest.mark.row(8)

SECONDS = float(os.environ.get("KNOWLEX_TEST_STORM_S", "30"))
LONGEST_P99_S = 1


def amiss(database: Path, done: Part) -> list[str]:
    """Return what differs between the database and what the processes were told is kept."""
    with Database.open(database) as db:
        problems = [f"{problem.kind}: {problem.detail}" for problem in verify(db, deep=True)]
        with db.read() as connection:
            kept = {
                "files": connection.value("SELECT count(*) - 1 FROM project_files WHERE status = 'ready'"),
                "chunks": connection.value("SELECT count(*) FROM file_chunks") - busy.PASSAGES,
                "messages": connection.value("SELECT count(*) FROM messages"),
                "memories": connection.value("SELECT count(*) FROM project_memories"),
                "settings": connection.value("SELECT count(*) FROM app_settings"),
            }
    told = done.done + Counter(chunks=done.done["files"] * busy.PASSAGES)
    return problems + [f"{name}: {n} kept of {told[name]}" for name, n in kept.items() if n != told[name]]


@pytest.mark.xdist_group("faults")
def test_a_short_storm_turns_nobody_away(tmp_path: Path) -> None:
    done = busy.storm(tmp_path / "a.db", writers=2, readers=2, seconds=1)
    assert done.locked == []
    assert done.deferred == []
    assert done.immediate >= done.done["files"] * 2 > 0
    assert done.done["searches"] > 0
    assert amiss(tmp_path / "a.db", done) == []
    with Knowlex(tmp_path / "a.db") as kb:
        kb.settings["one more"] = 1
    assert len(amiss(tmp_path / "a.db", done)) == 1


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_a_long_storm_turns_nobody_away(tmp_path: Path, figure: Figure) -> None:
    done = busy.storm(tmp_path / "a.db", writers=4, readers=4, seconds=SECONDS)
    calls, wrong = done.done.total(), amiss(tmp_path / "a.db", done)
    figure(
        8,
        f"{SECONDS:g} s, {calls} calls: {len(done.locked)} lock errors, p99 wait {done.p99_s:.3f} s,"
        f" longest {max(done.waits):.2f} s",
        not done.locked and done.p99_s < LONGEST_P99_S,
    )
    figure(8, f"{done.immediate} transactions that write, {len(done.deferred)} of them deferred", not done.deferred)
    figure(8, f"{len(wrong)} counts or checks amiss at the end {wrong[:3] or ''}".rstrip(), not wrong)


@pytest.mark.xdist_group("faults")
def test_writers_that_neither_ask_first_nor_wait_are_seen(tmp_path: Path) -> None:
    done = busy.storm(tmp_path / "a.db", writers=2, readers=0, seconds=1, planted=("deferred-begin", "impatient"))
    assert done.deferred
    assert done.locked


@pytest.mark.xdist_group("faults")
def test_writers_that_hold_back_too_long_are_seen(tmp_path: Path) -> None:
    done = busy.storm(tmp_path / "a.db", writers=2, readers=0, seconds=3, planted=("long-hold-back",))
    assert done.p99_s > LONGEST_P99_S

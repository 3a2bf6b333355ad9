"""Runs of ingestion are kept a hundred a project, go with it, and add up stage by stage."""

from __future__ import annotations

import pytest

from storage import projects, runs
from storage.database import Database
from storage.errors import UsageError
from storage.runs import Ending, Figures, Kind, Run, Stage


def project(db: Database, name: str) -> int:
    with db.write() as tx:
        return projects.create(tx, name).pk


def run(id: str, project_pk: int | None, **figures: float) -> Run:
    return Run(id, project_pk, Kind.INGEST, Ending.DONE, None, "2026-01-01", "2026-01-02", 1.5, Figures(**figures))


def keep(db: Database, *kept: Run) -> None:
    with db.write() as tx:
        for one in kept:
            runs.keep(tx, one)


def test_a_run_comes_back_as_it_was_kept(db: Database) -> None:
    pk = project(db, "p")
    figures = Figures(*range(1, 13), 0.1, 0.2, 0.3, 0.4)
    kept = Run("r", pk, Kind.WATCH, Ending.FAILED, "disk_full", "2026-01-01", "2026-01-02", 2.5, figures)
    keep(db, kept)
    with db.read() as tx:
        [found] = runs.listed(tx)
    assert found == Run("r", pk, Kind.WATCH, Ending.FAILED, "disk_full", "2026-01-01", "2026-01-02", 2.5, figures, "p")


def test_runs_come_in_pages_the_latest_first_of_a_project_or_all(db: Database) -> None:
    p, q = project(db, "p"), project(db, "q")
    keep(db, *(run(f"{n}", [p, q, None][n % 3]) for n in range(9)))
    for of, expected in ((None, "876543210"), (p, "630"), (q, "741")):
        seen: list[str] = []
        after = None
        with db.read() as tx:
            while True:
                page = runs.listed(tx, of, limit=2, after=after)
                seen += [one.id for one in page]
                if (after := page.next) is None:
                    break
        assert "".join(seen) == expected
    with db.read() as tx, pytest.raises(UsageError, match="no cursor of this list"):
        runs.listed(tx, after="x")


def test_a_hundred_of_each_project_and_of_all_together_are_kept(db: Database) -> None:
    p, q = project(db, "p"), project(db, "q")
    keep(db, *(run(f"q{n}", q) for n in range(3)))
    keep(db, *(run(f"{of}{n}", of) for n in range(103) for of in (p, None)))
    with db.read() as tx:
        assert [runs.summary(tx, of).runs for of in (p, q, None)] == [100, 3, 203]
        assert runs.listed(tx, p, limit=1000).items[-1].id == f"{p}3"


def test_runs_go_with_their_project_and_late_ones_are_dropped(db: Database) -> None:
    gone, stays = project(db, "gone"), project(db, "stays")
    keep(db, run("a", gone), run("b", stays), run("c", None))
    with db.write() as tx:
        projects.delete(tx, projects.get(tx, projects.find(tx, "gone").id))
        runs.keep(tx, run("late", gone))
        assert [(one.id, one.project) for one in runs.listed(tx)] == [("c", None), ("b", "stays")]


def test_stages_add_up_over_the_kept_runs(db: Database) -> None:
    pk = project(db, "p")
    with db.read() as tx:
        assert runs.summary(tx).last is None
        assert runs.summary(tx).stages.scan == Stage("files", 0, 0.0, None)
    keep(db, run("a", pk, discovered=8, scan_s=0.5, parsed=4, parse_s=2.0, embedded=60, embed_s=3.0))
    keep(db, run("b", pk, discovered=2, scan_s=0.5, chunks=7, write_s=0.5), run("c", None, discovered=1, scan_s=1.0))
    with db.read() as tx:
        found, everything = runs.summary(tx, pk), runs.summary(tx)
    assert (found.runs, found.last and found.last.id) == (2, "b")
    assert found.last_stages.scan == Stage("files", 2, 0.5, 4.0)
    assert (found.stages.scan, found.stages.parse) == (Stage("files", 10, 1.0, 10.0), Stage("files", 4, 2.0, 2.0))
    assert (found.stages.embed, found.stages.write) == (Stage("chunks", 60, 3.0, 20.0), Stage("chunks", 7, 0.5, 14.0))
    assert (everything.runs, everything.stages.scan) == (3, Stage("files", 11, 2.0, 5.5))

"""Searches are counted by day, project and kind; counts of many processes add up, and go with their project."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import apsw
import pytest

from storage import projects, slow_queries, usage
from storage.database import Database
from storage.errors import LockedError, UsageError
from storage.paging import Page
from storage.usage import Count, ProjectUsage

TODAY = usage.today()


def day(ago: int) -> str:
    return (datetime.now(UTC).date() - timedelta(days=ago)).isoformat()


def project(db: Database, name: str) -> int:
    with db.write() as tx:
        return projects.create(tx, name).pk


def add(db: Database, *counts: Count) -> None:
    with db.write() as tx:
        usage.add(tx, counts)


def test_counts_of_a_day_project_and_kind_add_up(db: Database) -> None:
    pk = project(db, "p")
    add(db, Count(TODAY, pk, "text", 2, 1, 10.0), Count(TODAY, pk, "hybrid", 1, 0, 5.5))
    add(db, Count(TODAY, pk, "text", 3, 0, 20.0), Count(TODAY, None, "vector", 1, 1, 1.0))
    with db.read() as tx:
        assert usage.by_day(tx, pk) == Page([usage.DayUsage(TODAY, 6, 1, 5, 0, 1, 35.5)], None)
        assert usage.by_day(tx) == Page([usage.DayUsage(TODAY, 7, 1, 5, 1, 2, 36.5)], None)
        found = usage.by_project(tx)
    assert found == Page([ProjectUsage(pk, "p", 6, 1, 35.5), ProjectUsage(None, None, 1, 1, 1.0)], None)


def test_two_counts_become_one() -> None:
    assert Count(TODAY, 1, "text", 2, 1, 3.0).plus(Count(TODAY, 1, "text", 1, 0, 0.5)) == Count(
        TODAY, 1, "text", 3, 1, 3.5
    )


def test_days_come_in_pages_the_latest_first(db: Database) -> None:
    add(db, *(Count(day(ago), None, kind, 1, 0, 1.0) for ago in range(7) for kind in ("text", "vector")))
    seen: list[str] = []
    after = None
    with db.read() as tx:
        while True:
            page = usage.by_day(tx, limit=3, after=after)
            seen += [item.day for item in page.items]
            if (after := page.next) is None:
                break
    assert seen == [day(ago) for ago in range(7)]


@pytest.mark.parametrize("limit", [1, 2])
def test_projects_come_in_pages_the_busiest_first(db: Database, limit: int) -> None:
    pks = [project(db, f"p{number}") for number in range(5)]
    add(db, *(Count(TODAY, pk, "text", [4, 2, 4, 1, 2][i], 0, 1.0) for i, pk in enumerate(pks)))
    seen: list[str | None] = []
    after = None
    with db.read() as tx:
        for _ in pks:
            page = usage.by_project(tx, limit=limit, after=after)
            seen += [item.project for item in page.items]
            if (after := page.next) is None:
                break
    assert seen == ["p2", "p0", "p4", "p1", "p3"]


def test_only_the_days_asked_for_count(db: Database) -> None:
    pk = project(db, "p")
    add(db, *(Count(day(ago), pk, "text", 1, 0, 1.0) for ago in (0, 6, 7, 300)))
    with db.read() as tx:
        assert [usage.by_project(tx, days).items[0].searches for days in (1, 7, 8, 400)] == [1, 2, 3, 4]


@pytest.mark.parametrize("days", [0, -1, 401])
def test_a_span_beyond_what_is_kept_is_refused(db: Database, days: int) -> None:
    with db.read() as tx, pytest.raises(UsageError, match=f"days {days}: is out of range"):
        usage.by_project(tx, days)


def test_a_cursor_of_another_list_is_refused(db: Database) -> None:
    pk = project(db, "p")
    add(db, *(Count(day(ago), pk, "text", 1, 0, 1.0) for ago in range(3)))
    with db.read() as tx:
        cursor = usage.by_day(tx, limit=1).next
        with pytest.raises(UsageError, match="no cursor of this list"):
            usage.by_project(tx, after=cursor)


def test_four_hundred_days_are_kept(db: Database) -> None:
    add(db, *(Count(day(ago), None, kind, 1, 0, 1.0) for ago in range(403) for kind in ("text", "vector")))
    with db.write() as tx:
        assert usage.prune(tx) == 6
        assert tx.one("SELECT count(DISTINCT day), min(day) FROM usage_counts") == (400, day(399))
        assert usage.prune(tx) == 0


def test_a_clock_that_was_ahead_costs_a_day_and_not_all(db: Database) -> None:
    add(db, *(Count(day(ago), None, "text", 1, 0, 1.0) for ago in range(400)))
    add(db, Count(day(-5000), None, "text", 1, 0, 1.0))
    with db.write() as tx:
        assert usage.prune(tx) == 1
        assert usage.by_day(tx, limit=1).items[0].day == TODAY
        assert [item.searches for item in usage.by_project(tx, 400).items] == [399]


def test_the_counts_of_a_deleted_project_go_and_late_ones_are_dropped(db: Database) -> None:
    gone, stays = project(db, "gone"), project(db, "stays")
    add(db, Count(TODAY, gone, "text", 5, 0, 1.0), Count(TODAY, stays, "text", 1, 0, 1.0))
    with db.write() as tx:
        slow_queries.record(tx, "text", gone, 900)
        slow_queries.record(tx, "text", stays, 800)
        usage.forget(tx, gone)
        slow_queries.forget(tx, gone)
        projects.delete(tx, projects.find(tx, "gone"))
        usage.add(tx, [Count(TODAY, gone, "text", 9, 0, 1.0)])
        assert [item.project for item in usage.by_project(tx).items] == ["stays"]
        assert [slow.took_ms for slow in slow_queries.recent(tx)] == [800]
        assert slow_queries.project_names(tx) == {stays: "stays"}


def test_a_slow_search_keeps_the_time_it_ended_at(db: Database) -> None:
    with db.write() as tx:
        slow_queries.record(tx, "text", None, 900, at="2026-01-02T03:04:05.006Z")
        assert slow_queries.recent(tx)[0].created_at == "2026-01-02T03:04:05.006Z"


ADDER = """
import sys
from pathlib import Path
from storage import usage
from storage.database import Database
with Database.open(Path(sys.argv[1])) as database:
    for _ in range(25):
        with database.write() as db:
            usage.add(db, [usage.Count("2026-01-02", None, "text", 2, 1, 0.5)])
"""


def test_counts_of_many_processes_add_up(db: Database) -> None:
    adders = [subprocess.Popen([sys.executable, "-c", ADDER, str(db.path)]) for _ in range(3)]
    assert [adder.wait() for adder in adders] == [0, 0, 0]
    with db.read() as tx:
        assert usage.by_day(tx).items == [usage.DayUsage("2026-01-02", 150, 0, 150, 0, 75, 37.5)]


# --- the write that does not wait


def test_a_write_waits_no_longer_than_it_is_told_and_later_ones_as_ever(db: Database) -> None:
    other = apsw.Connection(os.fspath(db.path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockedError, match="another process holds"), db.write(timeout_ms=0):
        pass
    other.execute("ROLLBACK")
    other.close()
    with db.write(timeout_ms=5) as tx:
        assert tx.value("PRAGMA busy_timeout") == 5
    with db.write() as tx:
        assert tx.value("PRAGMA busy_timeout") == 30_000


def test_a_write_that_does_not_wait_does_not_wait_for_threads_either(db: Database) -> None:
    from threading import Event, Thread

    inside, leave = Event(), Event()

    def hold() -> None:
        with db.write():
            inside.set()
            leave.wait()

    thread = Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        with pytest.raises(LockedError, match="another thread holds"), db.write(timeout_ms=0):
            pass
    finally:
        leave.set()
        thread.join()
    with db.write(timeout_ms=0):
        pass

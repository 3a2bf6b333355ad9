"""Searches are counted in memory and written without waiting; never what was asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from knowlex.search_log import SLOW_EVERY_S, WRITTEN_EVERY_S, SearchLog, SlowSearch, slow_searches
from storage import projects, slow_queries, usage
from storage.database import Database
from storage.usage import DayUsage


class Clock:
    """Time that stands still until it is moved on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def locked(path: Path) -> Iterator[None]:
    other = apsw.Connection(os.fspath(path))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def kept(db: Database) -> list[DayUsage]:
    with db.read() as tx:
        return usage.by_day(tx).items


def slow(db: Database) -> list[float]:
    with db.read() as tx:
        return [one.took_ms for one in slow_queries.recent(tx, slow_queries.KEPT + 1)]


def test_counts_are_due_after_a_minute(db: Database) -> None:
    clock = Clock()
    log = SearchLog(counted=True, slow_ms=500, clock=clock)
    log.note("text", None, 10, found=True)
    assert not log.due
    clock.now += WRITTEN_EVERY_S
    log.note("text", None, 20, found=False)
    assert log.due
    assert log.write(db)
    assert (log.due, log.empty) == (False, True)
    assert kept(db) == [DayUsage(usage.today(), 2, 0, 2, 0, 1, 30.0)]
    log.note("text", None, 10, found=True)
    assert not log.due


def test_nothing_is_due_without_a_search(db: Database) -> None:
    clock = Clock()
    log = SearchLog(counted=True, slow_ms=500, clock=clock)
    clock.now += 10 * WRITTEN_EVERY_S
    assert not log.due
    assert log.write(db)


def test_a_slow_search_is_due_at_once(db: Database) -> None:
    log = SearchLog(counted=True, slow_ms=500, clock=Clock())
    log.note("text", None, 500, found=True)
    assert log.due
    assert log.write(db)
    assert slow(db) == [500]


def test_slow_searches_are_written_once_a_second(db: Database) -> None:
    """Where every search is slow, not every one of them waits for the disk."""
    clock = Clock()
    log = SearchLog(counted=True, slow_ms=500, clock=clock)
    log.note("text", None, 500, found=True)
    assert log.write(db)
    log.note("text", None, 600, found=True)
    assert not log.due
    clock.now += SLOW_EVERY_S
    assert log.due
    assert log.write(db)
    assert slow(db) == [600, 500]


class Owner:
    """Whatever searches."""


def test_what_is_left_is_written_when_its_owner_is_gone(db: Database) -> None:
    log, owner = SearchLog(counted=True, slow_ms=500, clock=Clock()), Owner()
    log.write_at_end(owner, db)
    log.write_at_end(owner, db)
    log.note("text", None, 100, found=True)
    assert kept(db) == []
    del owner
    assert [day.searches for day in kept(db)] == [1]


def test_what_cannot_be_written_waits_and_nothing_is_counted_twice(db: Database) -> None:
    clock = Clock()
    log = SearchLog(counted=True, slow_ms=500, clock=clock)
    log.note("text", None, 600, found=True)
    with locked(db.path):
        assert not log.write(db)
        assert not log.due, "a lock that is held is not tried for by every search"
        log.note("text", None, 700, found=False)
        assert not log.due
        clock.now += WRITTEN_EVERY_S
        assert log.due
        assert not log.write(db)
    assert (kept(db), slow(db)) == ([], [])
    assert log.write(db)
    assert kept(db) == [DayUsage(usage.today(), 2, 0, 2, 0, 1, 1300.0)]
    assert slow(db) == [700, 600]


def test_slow_searches_that_wait_are_the_last_thousand(db: Database) -> None:
    log = SearchLog(counted=False, slow_ms=0, clock=Clock())
    with locked(db.path):
        for number in range(slow_queries.KEPT + 50):
            log.note("text", None, number, found=True)
            if number == 500:
                assert not log.write(db)
    assert log.write(db)
    assert slow(db) == list(range(slow_queries.KEPT + 49, 49, -1))


def test_counting_can_be_switched_off(db: Database) -> None:
    log = SearchLog(counted=False, slow_ms=500, clock=Clock())
    log.note("text", None, 100, found=True)
    assert log.empty
    log.note("text", None, 600, found=True)
    assert log.write(db)
    assert (kept(db), slow(db)) == ([], [600])


def test_nothing_is_written_into_a_batch(db: Database) -> None:
    log = SearchLog(counted=True, slow_ms=500, clock=Clock())
    log.note("text", None, 100, found=True)
    with db.batch():
        assert not log.write(db)
    assert kept(db) == []
    assert log.write(db)
    assert [day.searches for day in kept(db)] == [1]


def test_a_write_of_the_same_thread_is_not_disturbed(db: Database) -> None:
    log = SearchLog(counted=True, slow_ms=500, clock=Clock())
    log.note("text", None, 100, found=True)
    with db.write() as tx:
        projects.create(tx, "p")
        assert not log.write(db)
    with db.read() as tx:
        assert projects.find(tx, "p").name == "p"
    assert log.write(db)


def test_slow_searches_are_listed_with_their_project(db: Database) -> None:
    with db.write() as tx:
        pk = projects.create(tx, "p").pk
        slow_queries.record(tx, "text", pk, 600, at="2026-01-02T00:00:00.000Z")
        slow_queries.record(tx, "vector", None, 700, at="2026-01-03T00:00:00.000Z")
    with db.read() as tx:
        first = slow_searches(tx, limit=1)
        rest = slow_searches(tx, limit=1, after=first.next)
    assert first.items == [SlowSearch("vector", None, 700, "2026-01-03T00:00:00.000Z")]
    assert rest.items == [SlowSearch("text", "p", 600, "2026-01-02T00:00:00.000Z")]
    assert rest.next is None

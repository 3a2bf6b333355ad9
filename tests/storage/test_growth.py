"""The size of the database is noted once a day, and what was added between two days follows from it."""

from __future__ import annotations

import pytest

from storage import growth, memories, projects
from storage.database import Database
from storage.errors import UsageError
from storage.growth import Growth, Sample
from storage.usage import today


def sample(day: str, size: int) -> Sample:
    return Sample(day, size * 1000, size, size, 0, 0, 0, size)


def keep(db: Database, *samples: Sample) -> None:
    with db.write() as tx:
        for one in samples:
            growth.keep(tx, one)


def test_the_last_look_of_a_day_counts(db: Database) -> None:
    with db.write() as tx:
        growth.sample(tx)
        project = projects.create(tx, "p")
        memories.add(tx, project.pk, "Refunds", "Within 30 days.")
        growth.sample(tx)
        [found] = growth.samples(tx).items
        size = tx.value("PRAGMA page_count") * tx.value("PRAGMA page_size")
    assert found == Sample(today(), size, 0, 0, 1, 0, 0, 0)


def test_every_table_is_counted(shelf) -> None:
    shelf.add("a", "one two three")
    shelf.find("b", "four")
    with shelf.db.read() as tx:
        found = growth.measure(tx)
    assert (found.files, found.chunks, found.vectors, found.conversations, found.messages) == (2, 3, 3, 0, 0)


def test_samples_come_in_pages_the_latest_first(db: Database) -> None:
    days = [f"2026-01-{number:02}" for number in range(1, 8)]
    keep(db, *(sample(day, 1) for day in days))
    seen: list[str] = []
    after = None
    with db.read() as tx:
        while True:
            page = growth.samples(tx, limit=3, after=after)
            seen += [item.day for item in page.items]
            if (after := page.next) is None:
                break
    assert seen == days[::-1]


def test_growth_is_the_difference_of_two_days(db: Database) -> None:
    keep(db, sample("2026-03-01", 10), sample("2026-03-08", 40), sample("2026-03-09", 30))
    with db.read() as tx:
        day, week, year = (growth.over(tx, days) for days in (1, 7, 365))
    assert day == Growth("2026-03-08", "2026-03-09", -10_000, -10, -10, 0, 0, 0, -10)
    # No sample was taken a week before: the last one before that day, or the first there is, stands for it.
    assert week == year == Growth("2026-03-01", "2026-03-09", 20_000, 20, 20, 0, 0, 0, 20)
    assert week is not None
    assert week.days == 8


def test_days_noted_while_the_clock_was_ahead_are_passed_over(db: Database) -> None:
    keep(db, sample("2026-03-01", 10), sample("2026-03-02", 40), sample("9000-01-01", 7))
    with db.read() as tx:
        assert growth.over(tx, 1) == Growth("2026-03-01", "2026-03-02", 30_000, 30, 30, 0, 0, 0, 30)
        assert [item.day for item in growth.samples(tx).items] == ["2026-03-02", "2026-03-01"]


@pytest.mark.parametrize("samples", [[], [sample("2026-03-01", 10)]])
def test_one_sample_says_nothing_about_growth(db: Database, samples: list[Sample]) -> None:
    keep(db, *samples)
    with db.read() as tx:
        assert growth.over(tx, 7) is None


def test_growth_over_no_time_is_refused(db: Database) -> None:
    with db.read() as tx, pytest.raises(UsageError, match="give at least 1"):
        growth.over(tx, 0)
    with db.read() as tx:
        assert growth.over(tx, 10**12) is None

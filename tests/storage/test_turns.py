"""Connections that write take turns at the lock: who has met others holds back, and the eldest looks most often."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from storage import settings, turns
from storage.connection import BUSY_TIMEOUT_MS, Connection, connect
from storage.database import Database
from storage.errors import LockedError
from storage.turns import COURTESIES, HOLD_BACK_S, LOOK_AT_LEAST_EVERY_S, LOOK_EVERY_S


class Clock:
    """Time passes while somebody sleeps, and not otherwise; `wake` is called at the end of each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.wake: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.wake()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


@pytest.fixture
def other(db: Database) -> Iterator[Connection]:
    connection = connect(db.path)
    yield connection
    connection.close()


def meet(db: Database, other: Connection, clock: Clock) -> None:
    """Have the database write while another holds the lock, until it has looked once."""
    other.script("BEGIN IMMEDIATE")
    clock.wake = lambda: other.raw.in_transaction and other.script("ROLLBACK")
    write(db)
    clock.slept.clear()


def write(db: Database) -> None:
    with db.write() as connection:
        settings.set(connection, "theme", "dark")


def test_a_writer_looks_for_the_lock_often_and_gives_up_in_time(db: Database, other: Connection, clock: Clock) -> None:
    other.script("BEGIN IMMEDIATE")
    with pytest.raises(LockedError), db.write():
        pass
    assert clock.now == pytest.approx(BUSY_TIMEOUT_MS / 1000, abs=LOOK_EVERY_S)
    assert max(clock.slept) < HOLD_BACK_S, "else who writes without a break has the lock back each time"


def test_a_writer_has_the_lock_once_it_is_free(db: Database, other: Connection, clock: Clock) -> None:
    other.script("BEGIN IMMEDIATE")
    clock.wake = lambda: other.script("ROLLBACK")
    with db.write() as connection:
        assert connection.value("PRAGMA busy_timeout") == BUSY_TIMEOUT_MS
    assert len(clock.slept) == 1


def test_who_is_alone_never_sleeps(db: Database, clock: Clock) -> None:
    for _ in range(50):
        write(db)
    assert clock.slept == []


def test_who_has_met_another_holds_back_longer_than_that_one_sleeps_between_two_looks(
    db: Database, other: Connection, clock: Clock
) -> None:
    meet(db, other, clock)
    write(db)
    assert clock.slept == [pytest.approx(HOLD_BACK_S)]
    assert HOLD_BACK_S > LOOK_EVERY_S * 1.5


def test_time_that_has_passed_since_its_last_transaction_counts(db: Database, other: Connection, clock: Clock) -> None:
    meet(db, other, clock)
    clock.now += HOLD_BACK_S / 2
    write(db)
    clock.now += HOLD_BACK_S
    write(db)
    assert clock.slept == [pytest.approx(HOLD_BACK_S / 2)]


def test_who_is_alone_again_soon_goes_on_at_full_speed(db: Database, other: Connection, clock: Clock) -> None:
    meet(db, other, clock)
    for _ in range(COURTESIES * 3):
        write(db)
    assert len(clock.slept) == COURTESIES


def test_the_longer_one_waits_the_more_often_it_looks(db: Database, other: Connection, clock: Clock) -> None:
    other.script("BEGIN IMMEDIATE")
    clock.wake = lambda: clock.now > 5 and other.raw.in_transaction and other.script("ROLLBACK")
    write(db)
    young, old = clock.slept[:5], clock.slept[-5:]
    assert min(young) > 2 * max(old)
    assert min(old) >= LOOK_AT_LEAST_EVERY_S / 2


def test_a_transaction_that_is_undone_gives_the_lock_back_too(db: Database, other: Connection, clock: Clock) -> None:
    meet(db, other, clock)
    with pytest.raises(ZeroDivisionError), db.write():
        raise ZeroDivisionError
    clock.slept.clear()
    write(db)
    assert clock.slept == [pytest.approx(HOLD_BACK_S)]

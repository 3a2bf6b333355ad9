"""Claims are exclusive, leases end, and a late worker is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest

from storage import projects, queue
from storage.errors import LeaseLostError, UsageError
from storage.files import Status

NOW = 10**13


def due(shelf, *, now_ms: int = NOW, at_most: int = 99) -> int:
    with shelf.db.read() as db:
        return queue.due(db, now_ms=now_ms, at_most=at_most)


def put_in(shelf, project: str, *names: str) -> None:
    """Queue files in another project."""
    mine = shelf.project
    with shelf.db.write() as db:
        shelf.project = projects.ensure(db, project).pk
    for name in names:
        shelf.find(name, f"bytes of {name}")
    shelf.project = mine


def test_a_file_is_claimed_once(shelf) -> None:
    for name in "abc":
        shelf.find(name, f"text-{name}")
    first = shelf.claim("one", limit=2)
    second = shelf.claim("two", limit=2)
    assert [c.filename for c in first + second] == ["a", "b", "c"]
    assert shelf.claim("three") == []


def test_a_lease_that_ran_out_is_taken_back_and_the_late_commit_refused(shelf) -> None:
    shelf.find("a", "red")
    late = shelf.claim("slow", now_ms=NOW, lease_ms=1000)[0]
    with shelf.db.write() as db:
        assert queue.reclaim(db, now_ms=NOW + 500, is_dead=lambda _: False) == 0
        assert queue.reclaim(db, now_ms=NOW + 1500, is_dead=lambda _: False) == 1
    again = shelf.claim("quick")[0]
    with pytest.raises(LeaseLostError):
        shelf.commit(late, "red")
    shelf.commit(again, "red")
    assert shelf.file("a").chunk_count == 1


def test_a_lease_that_looks_like_one_of_a_clock_set_back_is_not_given(shelf) -> None:
    shelf.find("a", "red")
    with pytest.raises(UsageError, match="at most"):
        shelf.claim("me", lease_ms=queue.LEASE_AHEAD_MS + 1)
    claimed = shelf.claim("me", lease_ms=queue.LEASE_AHEAD_MS)
    assert [claim.filename for claim in claimed] == ["a"]
    with shelf.db.write() as db, pytest.raises(UsageError, match="at most"):
        queue.extend(db, "me", now_ms=NOW, lease_ms=queue.LEASE_AHEAD_MS + 1)


def test_a_heartbeat_keeps_the_lease(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim("me", now_ms=NOW, lease_ms=1000)[0]
    with shelf.db.write() as db:
        assert queue.extend(db, "me", now_ms=NOW + 900, lease_ms=1000) == 1
        assert queue.reclaim(db, now_ms=NOW + 1500, is_dead=lambda _: False) == 0
        queue.require_lease(db, claim)


def test_a_dead_owner_is_taken_back_at_once_and_costs_no_attempt(shelf) -> None:
    shelf.find("a", "red")
    shelf.claim("dead")
    with shelf.db.write() as db:
        assert queue.lost(db, now_ms=NOW, is_dead=lambda owner: owner == "dead")
        assert queue.reclaim(db, now_ms=NOW, is_dead=lambda owner: owner == "dead") == 1
    assert shelf.claim("next")[0].attempts == 0


def test_a_lease_that_ends_further_ahead_than_it_can_is_taken_back(shelf) -> None:
    """It was given before the clock was set back; its owner may be gone, or renews it in some seconds."""
    shelf.find("a", "red")
    late = shelf.claim("before", now_ms=NOW)[0]
    at_most = NOW + queue.LEASE_MS - queue.LEASE_AHEAD_MS
    with shelf.db.write() as db:
        assert not queue.lost(db, now_ms=at_most, is_dead=lambda _: False)
        assert queue.reclaim(db, now_ms=at_most, is_dead=lambda _: False) == 0
        assert queue.lost(db, now_ms=at_most - 1, is_dead=lambda _: False)
        assert queue.reclaim(db, now_ms=at_most - 1, is_dead=lambda _: False) == 1
    again = shelf.claim("after", now_ms=at_most)[0]
    with pytest.raises(LeaseLostError):
        shelf.commit(late, "red")
    shelf.commit(again, "red")


def test_an_attempt_put_off_further_than_it_can_be_is_due(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim()[0]
    with shelf.db.write() as db:
        queue.try_later(db, claim, now_ms=NOW, wait_ms=0, code="timeout", message="slow")
    at_most = NOW - queue.ATTEMPT_AHEAD_MS
    assert due(shelf, now_ms=at_most) == 0
    assert due(shelf, now_ms=at_most - 1) == 1
    assert shelf.claim(now_ms=at_most) == []
    assert [c.attempts for c in shelf.claim(now_ms=at_most - 1)] == [1]


def test_a_clean_stop_gives_everything_back(shelf) -> None:
    for name in "ab":
        shelf.find(name, name)
    shelf.claim("me")
    with shelf.db.write() as db:
        assert queue.give_back(db, "me") == 2
    assert shelf.file("a").status is Status.PENDING


def test_a_failed_attempt_counts_and_waits(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim()[0]
    with shelf.db.write() as db:
        queue.try_later(db, claim, now_ms=NOW, wait_ms=5000, code="timeout", message="slow")
    assert due(shelf, now_ms=NOW + 4999) == 0
    assert due(shelf, now_ms=NOW + 5000) == 1
    assert shelf.claim(now_ms=NOW + 4000) == []
    again = shelf.claim(now_ms=NOW + 5000)
    assert [c.attempts for c in again] == [1]


def test_no_attempt_is_put_off_for_so_long_that_it_looks_like_one_of_a_clock_set_back(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim(now_ms=NOW)[0]
    with shelf.db.write() as db:
        queue.try_later(db, claim, now_ms=NOW, wait_ms=365 * 86_400_000, code="timeout", message="slow")
    assert due(shelf, now_ms=NOW + queue.ATTEMPT_AHEAD_MS) == 1
    assert shelf.claim(now_ms=NOW) == []


def test_a_claim_can_be_bound_to_one_project(shelf) -> None:
    shelf.find("a", "red")
    assert shelf.claim(project_pk=shelf.project + 1) == []
    assert len(shelf.claim(project_pk=shelf.project)) == 1
    with shelf.db.read() as db:
        assert queue.unfinished(db, shelf.project) == 1
        assert queue.unfinished(db, shelf.project + 1) == 0


def test_projects_take_turns(shelf) -> None:
    put_in(shelf, "big", "b1", "b2", "b3", "b4")
    put_in(shelf, "small", "s1", "s2")
    put_in(shelf, "single", "x1")
    assert [c.filename for c in shelf.claim(limit=5)] == ["b1", "s1", "x1", "b2", "s2"]
    assert [c.filename for c in shelf.claim(limit=5)] == ["b3", "b4"]


def test_of_more_projects_than_can_be_served_each_has_its_turn(shelf) -> None:
    """Also where the older ones always have files: else the newest would wait for as long."""
    for project in range(6):
        put_in(shelf, f"project {project}", f"{project}-1", f"{project}-2")
    served = set[str]()
    for _ in range(200):
        with suppress(Undo), shelf.db.write() as db:
            served |= {claim.filename for claim in queue.claim(db, "worker", limit=2, now_ms=NOW)}
            raise Undo
    assert served == {f"{project}-1" for project in range(6)}


class Undo(Exception):
    """Ends a transaction without keeping anything of it."""


def test_what_is_due_is_counted_up_to_a_limit(shelf) -> None:
    put_in(shelf, "one", "a", "b", "c")
    put_in(shelf, "two", "d")
    assert due(shelf) == 4
    assert due(shelf, at_most=3) == 3
    with shelf.db.read() as db:
        assert queue.due(db, projects.find(db, "two").pk, now_ms=NOW, at_most=99) == 1
    shelf.claim(limit=3)
    assert due(shelf) == 1

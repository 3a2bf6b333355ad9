"""Settings keep their type; slow searches are noted without what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from storage import projects, settings, slow_queries
from storage.connection import Connection
from storage.database import Database
from storage.errors import NotFoundError, UsageError

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | UNICODE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UNICODE, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


@given(JSON)
@effort(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_comes_back_as_it_was_set(tx: Connection, value: Any) -> None:
    settings.set(tx, "key", value)
    kept = settings.get(tx, "key", default="default")
    assert kept == value
    assert type(kept) is type(value)


def test_a_missing_setting_gives_its_default(tx: Connection) -> None:
    assert settings.get(tx, "missing") is None
    assert settings.get(tx, "missing", 0.5) == 0.5


def test_null_is_a_value(tx: Connection) -> None:
    settings.set(tx, "a", None)
    assert settings.get(tx, "a", "default") is None
    assert settings.all(tx) == {"a": None}


def test_setting_again_replaces_and_keeps_the_first_time(tx: Connection) -> None:
    settings.set(tx, "a", 1)
    tx.run("UPDATE app_settings SET created_at = 'then', updated_at = 'then'")
    settings.set(tx, "a", "two")
    assert settings.all(tx) == {"a": "two"}
    [(created, updated)] = tx.all("SELECT created_at, updated_at FROM app_settings")
    assert created == "then" != updated


def test_all_are_sorted_by_key(tx: Connection) -> None:
    for key in ("b", "a", "c"):
        settings.set(tx, key, key)
    assert list(settings.all(tx)) == ["a", "b", "c"]


def test_a_deleted_setting_has_its_default_again(tx: Connection) -> None:
    settings.set(tx, "a", 1)
    settings.delete(tx, "a")
    assert settings.get(tx, "a", 2) == 2
    with pytest.raises(NotFoundError, match="setting a: not set"):
        settings.delete(tx, "a")


@pytest.mark.parametrize("value", [float("nan"), b"x", {1, 2}, object()])
def test_what_json_cannot_say_is_refused(tx: Connection, value: Any) -> None:
    with pytest.raises(UsageError, match="setting a: cannot be kept as JSON"):
        settings.set(tx, "a", value)


def test_a_value_within_itself_is_refused(tx: Connection) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match="cannot be kept"):
        settings.set(tx, "a", value)


def test_a_key_must_say_something(tx: Connection) -> None:
    with pytest.raises(UsageError, match="setting: is empty"):
        settings.set(tx, " ", 1)


# --- slow searches


def test_slow_searches_are_listed_the_latest_first(tx: Connection) -> None:
    project = projects.create(tx, "a")
    slow_queries.record(tx, "hybrid", project.pk, 120.5)
    slow_queries.record(tx, "text", None, 300)
    latest, first = slow_queries.recent(tx)
    assert (latest.kind, latest.project_pk, latest.took_ms) == ("text", None, 300)
    assert (first.kind, first.project_pk, first.took_ms) == ("hybrid", project.pk, 120.5)
    assert first.created_at <= latest.created_at
    assert slow_queries.recent(tx, 1) == [latest]
    assert slow_queries.count(tx) == 2


def test_only_the_latest_slow_searches_are_kept(tx: Connection) -> None:
    for number in range(slow_queries.KEPT + 5):
        slow_queries.record(tx, "text", None, number)
    assert slow_queries.count(tx) == slow_queries.KEPT
    assert slow_queries.recent(tx, 1)[0].took_ms == slow_queries.KEPT + 4

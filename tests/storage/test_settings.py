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
    with pytest.raises(UsageError, match="nested deeper than 100 levels"):
        settings.set(tx, "a", value)


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, [{None: 1}], {"a": {True: 1}}])
def test_keys_that_json_would_change_are_refused(tx: Connection, value: Any) -> None:
    told = r"setting a: the key .* is (a number|null|true or false); give keys that are text"
    with pytest.raises(UsageError, match=told):
        settings.set(tx, "a", value)


def test_what_is_kept_can_be_read_from_any_depth(tx: Connection) -> None:
    value: Any = "bottom"
    for _ in range(100):
        value = {"down": value}
    settings.set(tx, "deep", value)
    assert settings.all(tx) == {"deep": value}
    for wrong in ([value], {"down": value}, (value,)):
        with pytest.raises(UsageError, match="setting deep: is nested deeper than 100 levels"):
            settings.set(tx, "deep", wrong)


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


def test_slow_searches_are_paged_the_latest_first(tx: Connection) -> None:
    for number in range(5):
        slow_queries.record(tx, "text", None, number)
    seen: list[float] = []
    page = slow_queries.listed(tx, limit=2)
    while page.next is not None:
        seen += [item.took_ms for item in page.items]
        slow_queries.record(tx, "text", None, 99)  # comes before the cursor
        page = slow_queries.listed(tx, limit=2, after=page.next)
    assert seen + [item.took_ms for item in page.items] == [4, 3, 2, 1, 0]


# --- pages of settings


@given(st.lists(UNICODE.filter(str.strip), unique=True, max_size=8), UNICODE, st.integers(1, 3))
@effort(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settings_are_paged_by_key_and_chosen_by_prefix(
    tx: Connection, keys: list[str], prefix: str, limit: int
) -> None:
    tx.run("DELETE FROM app_settings")
    keys = [key for key in keys if "\0" not in key]
    prefix = prefix.replace("\0", "")[:2] or (keys[0][:1] if keys else "")
    keys += [key for key in (prefix + "\U0010ffff", prefix + "a") if key.strip() and key not in keys]
    for number, key in enumerate(keys):
        settings.set(tx, key, number)
    expected = {key: keys.index(key) for key in sorted(keys) if key.startswith(prefix)}
    assert list(settings.all(tx, prefix).items()) == list(expected.items())
    seen: list[tuple[str, Any]] = []
    page = settings.listed(tx, prefix, limit=limit)
    while page.next is not None:
        seen += page.items
        page = settings.listed(tx, prefix, limit=limit, after=page.next)
    assert dict(seen + page.items) == expected
    assert [key for key, _ in seen + page.items] == list(expected)


def test_a_cursor_of_another_prefix_does_not_leave_the_prefix(tx: Connection) -> None:
    for key in ("a.1", "a.2", "b.1", "b.2"):
        settings.set(tx, key, key)
    first = settings.listed(tx, "a.", limit=1).next
    assert [key for key, _ in settings.listed(tx, "b.", after=first).items] == ["b.1", "b.2"]
    last = settings.listed(tx, "b.", limit=1).next
    assert settings.listed(tx, "a.", after=last).items == []


def test_defaults_stand_in_for_what_is_not_set(tx: Connection) -> None:
    settings.set(tx, "b", None)
    settings.set(tx, "c", 3)
    defaults = {"d": 4, "b": 2, "a": [1]}
    assert list(settings.all(tx, defaults=defaults).items()) == [("a", [1]), ("b", None), ("c", 3), ("d", 4)]
    assert settings.all(tx) == {"b": None, "c": 3}
    settings.delete(tx, "b")
    assert settings.all(tx, defaults=defaults)["b"] == 2


@pytest.mark.parametrize("value", [True, False, 0, 1, -(2**70), 0.5, 1.0, "", "text", "1", [], [1, [None]], {}, None])
def test_a_type_is_kept(tx: Connection, value: Any) -> None:
    settings.set(tx, "key", value)
    kept = settings.get(tx, "key", "default")
    assert (kept, type(kept)) == (value, type(value))

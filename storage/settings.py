"""Settings of the application: a name and a JSON value each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage import fields, paging
from storage.connection import Connection
from storage.errors import NotFoundError
from storage.ids import now_text
from storage.paging import Page

LAST_CHARACTER = "\U0010ffff"


def get(db: Connection, key: str, default: Any = None) -> Any:
    """Return the value of a setting with the type it was set with, or `default` where it is not set."""
    kept = db.value("SELECT value FROM app_settings WHERE key = :key", key=key)
    return default if kept is None else fields.kept_json(kept, f"setting {key}")


def set(db: Connection, key: str, value: Any) -> None:
    """Keep a JSON value under `key`; raises UsageError for a blank key or a value JSON cannot say."""
    db.run(
        "INSERT INTO app_settings (key, value, created_at, updated_at) VALUES (:key, :value, :now, :now)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        key=fields.text(key, "setting", blank=False),
        value=fields.to_json(value, f"setting {key}"),
        now=now_text(),
    )


def all(db: Connection, prefix: str = "", *, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every setting whose key starts with `prefix`, sorted by key.

    defaults: keys and values to add where they are not set.
    """
    rows = db.all(f"SELECT key, value FROM app_settings WHERE key >= :key{_END} ORDER BY key", **_range(prefix))
    kept = {key: fields.kept_json(value, f"setting {key}") for key, value in rows}
    return dict(sorted((dict(defaults) | kept).items())) if defaults else kept


def listed(db: Connection, prefix: str = "", *, limit: int = 100, after: str | None = None) -> Page[tuple[str, Any]]:
    """Return (key, value) of the settings whose key starts with `prefix`, sorted by key.

    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    key, pk = max(paging.start(after, (prefix, 0), "settings"), (prefix, 0))
    rows = db.all(
        f"SELECT key, value, pk FROM app_settings WHERE (key, pk) > (:key, :pk){_END} ORDER BY key, pk LIMIT :limit",
        **_range(prefix) | {"key": key, "pk": pk, "limit": paging.probe(limit)},
    )
    page = paging.cut(rows, limit, lambda row: row, lambda row: (row[0], row[2]), "settings")
    return Page([(key, fields.kept_json(value, f"setting {key}")) for key, value, _ in page.items], page.next)


# Every text is less than any BLOB: the end of a range that has none.
_END = " AND key < :end"


def _range(prefix: str) -> dict[str, Any]:
    """Return the first key that may start with `prefix`, and the first behind all that do."""
    end = _behind(prefix)
    return {"key": prefix, "end": b"" if end is None else end}


def _behind(prefix: str) -> str | None:
    """Return the first text behind all that start with `prefix`; None where nothing is."""
    kept = prefix.rstrip(LAST_CHARACTER)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    # No text holds half of a surrogate pair.
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def delete(db: Connection, key: str) -> None:
    """Remove a setting; raises NotFoundError when it is not set."""
    if not db.run("DELETE FROM app_settings WHERE key = :key", key=key):
        raise NotFoundError(f"setting {key}: not set; list them with knowlex settings list")

"""Settings of the application: a name and a JSON value each."""

from __future__ import annotations

import json
from typing import Any

from storage import fields
from storage.connection import Connection
from storage.errors import NotFoundError
from storage.ids import now_text


def get(db: Connection, key: str, default: Any = None) -> Any:
    """Return the value of a setting with the type it was set with, or `default` where it is not set."""
    kept = db.value("SELECT value FROM app_settings WHERE key = :key", key=key)
    return default if kept is None else json.loads(kept)


def set(db: Connection, key: str, value: Any) -> None:
    """Keep a JSON value under `key`; raises UsageError for a blank key or a value JSON cannot say."""
    db.run(
        "INSERT INTO app_settings (key, value, created_at, updated_at) VALUES (:key, :value, :now, :now)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        key=fields.text(key, "setting", blank=False),
        value=fields.to_json(value, f"setting {key}"),
        now=now_text(),
    )


def all(db: Connection) -> dict[str, Any]:
    """Return every setting, sorted by key."""
    return {key: json.loads(value) for key, value in db.all("SELECT key, value FROM app_settings ORDER BY key")}


def delete(db: Connection, key: str) -> None:
    """Remove a setting; raises NotFoundError when it is not set."""
    if not db.run("DELETE FROM app_settings WHERE key = :key", key=key):
        raise NotFoundError(f"setting {key}: not set; list them with knowlex settings list")

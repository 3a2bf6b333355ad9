"""Which content a database holds: a restore changes it, and a key kept in memory may then be that of another row."""

from __future__ import annotations

import secrets

from storage.connection import Connection


def current(db: Connection) -> str | None:
    """Return what names the content of this database; None where the schema does not keep it."""
    return db.value("SELECT value FROM incarnation WHERE pk = 1")


def renew(db: Connection) -> None:
    """Name the content anew, in the caller's transaction."""
    db.run(
        "INSERT INTO incarnation (pk, value) VALUES (1, :value) ON CONFLICT (pk) DO UPDATE SET value = excluded.value",
        value=secrets.token_hex(16),
    )

"""Which erasures still wait to be cleared: a note of each, in one row among the times of maintenance.

The note is written in the transaction that deletes: when, and an id of its own, so that clearing one erasure
forgets no other that came meanwhile; and a copy of the database that holds the note was made after that deletion.
"""

from __future__ import annotations

from storage.connection import Connection
from storage.ids import new_id, now_text

TASK = "erase"
"""The row of `maintenance` that holds the notes, parted by blanks."""

LEFT = "erase left"
"""The row that holds those of which clearing ended unfinished: nobody is at them any more."""


def note(db: Connection) -> None:
    """Note that clearing is due, in the transaction that deletes."""
    db.run(
        "INSERT INTO maintenance (task, ended_at) VALUES (:task, :note)"
        " ON CONFLICT (task) DO UPDATE SET ended_at = ended_at || ' ' || excluded.ended_at",
        task=TASK,
        note=f"{now_text()}/{new_id()}",
    )


def notes(db: Connection) -> list[str]:
    """Return the note of each erasure that waits to be cleared, the oldest first; none where the schema knows none."""
    if not db.value("SELECT count(*) FROM sqlite_schema WHERE name = 'maintenance'"):
        return []
    noted: str | None = db.value("SELECT ended_at FROM maintenance WHERE task = :task", task=TASK)
    return noted.split() if noted else []


def since(note: str) -> str:
    """Return when (UTC text) the deletion was that a note speaks of."""
    return note.partition("/")[0]


def due(db: Connection) -> str | None:
    """Return since when (UTC text) erased text waits to be cleared, or None."""
    return min(map(since, notes(db)), default=None)


def note_left(db: Connection, left: list[str]) -> None:
    """Note that clearing has ended, and these wait all the same."""
    db.run(
        "INSERT INTO maintenance (task, ended_at) VALUES (:task, :left)"
        " ON CONFLICT (task) DO UPDATE SET ended_at = excluded.ended_at",
        task=LEFT,
        left=" ".join(left),
    )


def left(db: Connection) -> list[str]:
    """Return the notes of which clearing ended unfinished, the oldest first."""
    noted: str = db.value("SELECT ended_at FROM maintenance WHERE task = :task", task=LEFT) or ""
    return [note for note in notes(db) if note in noted.split()]


def forget(db: Connection, cleared: list[str]) -> None:
    """Remove these notes: what was deleted with them is cleared."""
    for task in (TASK, LEFT):
        noted: str = db.value("SELECT ended_at FROM maintenance WHERE task = :task", task=task) or ""
        stays = " ".join(note for note in noted.split() if note not in cleared)
        db.run("UPDATE maintenance SET ended_at = :stays WHERE task = :task", stays=stays, task=task)
        db.run("DELETE FROM maintenance WHERE task = :task AND ended_at = ''", task=task)

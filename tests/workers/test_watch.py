"""What wakes a watcher of folders, and what does not."""

from __future__ import annotations

from pathlib import Path

from storage import projects
from storage.database import Database
from workers.watch import FolderWatch

PATIENCE_S = 30
QUIET_S = 2.5
"""Longer than it takes a change to be told."""


def test_a_change_wakes_once_and_the_database_in_the_folder_never(db: Database, tmp_path: Path) -> None:
    assert db.path.is_relative_to(tmp_path)
    with FolderWatch([tmp_path], db.path) as folders:
        assert folders.wait(PATIENCE_S)  # from now on changes are seen
        for number in range(20):
            with db.write() as connection:
                projects.create(connection, f"p{number}")
        assert not folders.wait(QUIET_S)
        for number in range(20):
            (tmp_path / f"{number}.md").write_text("words")
        assert folders.wait(PATIENCE_S)
        assert not folders.wait(QUIET_S)


def test_a_stop_wakes_who_waits(tmp_path: Path, db: Database) -> None:
    with FolderWatch([tmp_path], db.path) as folders:
        folders.stop()
        assert folders.wait(PATIENCE_S)

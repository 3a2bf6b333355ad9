"""What wakes a watcher of folders, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from storage import projects
from storage.database import Database
from storage.errors import TransientError
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


def test_a_file_watched_alone_is_seen_however_often_it_is_replaced(tmp_path: Path, db: Database) -> None:
    note = tmp_path / "in" / "note.md"
    note.parent.mkdir()
    note.write_text("0")
    with FolderWatch([note], db.path) as folders:
        assert folders.wait(PATIENCE_S)
        for number in range(2):
            (note.parent / "new").write_text(f"{number}")
            os.replace(note.parent / "new", note)
            assert folders.wait(PATIENCE_S)
        (note.parent / "other.md").write_text("beside it")
        assert not folders.wait(QUIET_S)


def test_whatever_is_ingested_is_watched(tmp_path: Path, db: Database) -> None:
    for folder in ("in/node_modules/lib", "in/__pycache__", "in/.git"):
        (tmp_path / folder).mkdir(parents=True)
    with FolderWatch([tmp_path / "in"], db.path) as folders:
        assert folders.wait(PATIENCE_S)
        for name in ("node_modules/lib/readme.md", "__pycache__/a.txt"):
            (tmp_path / "in" / name).write_text("words")
            assert folders.wait(PATIENCE_S), name
        (tmp_path / "in/.git/index").write_text("words")
        (tmp_path / "in/.hidden.md").write_text("words")
        assert not folders.wait(QUIET_S)
        folders.hidden = True
        (tmp_path / "in/.git/index").write_text("other words")
        assert folders.wait(PATIENCE_S)


def test_another_folder_in_the_place_of_one_is_noticed(tmp_path: Path, db: Database) -> None:
    place = tmp_path / "in"
    place.mkdir()
    folders = FolderWatch([place], db.path)
    assert folders.is_current
    place.rename(tmp_path / "before")
    assert not folders.is_current
    place.mkdir()
    assert not folders.is_current


def test_a_system_that_watches_nothing_is_told(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.watch.watch", _no_more_watches)
    with FolderWatch([tmp_path], db.path) as folders:
        assert folders.wait(PATIENCE_S)
        with pytest.raises(TransientError, match="Too many open files.*max_user_instances"):
            folders.require_working()


def _no_more_watches(*_: object, **__: object) -> None:
    raise WatchfilesRustInternalError("error creating recommended watcher: Too many open files (os error 24)")

"""What is done to a project's files on trial: as it would be done to them, and done to nobody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage import files, projects
from storage.connection import Connection
from storage.files import Status
from storage.trial import Trial

WHOLE = "SELECT * FROM project_files WHERE project_id = :project ORDER BY pk"


def rows(db: Connection, project_pk: int) -> list[tuple[Any, ...]]:
    return db.all(WHOLE, project=project_pk)


@pytest.fixture
def trial(shelf):
    trial = Trial(shelf.db, shelf.project)
    yield trial
    trial.close()


def test_what_is_done_on_trial_is_done_to_nobody(shelf, trial: Trial, tmp_path: Path) -> None:
    for name in "abc":
        shelf.add(name, "red green")
    there = sorted(tmp_path.iterdir())
    with shelf.db.read() as db:
        before = rows(db, shelf.project)
    with trial.write() as db:
        files.delete(db, shelf.file("a"))
    with trial.read() as db:
        b, c = files.every(db, shelf.project)
    assert (b.filename, b.duplicate_of, c.duplicate_of) == ("b", None, b.pk)
    with shelf.db.read() as db:
        assert rows(db, shelf.project) == before
    assert sorted(tmp_path.iterdir()) == there


def test_the_copy_is_of_every_row_of_the_project_and_of_no_other(
    shelf, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.trial.PAGE", 2)
    shelf.add("a", "red")
    shelf.add("b", "blue")
    shelf.find("a", "blue")  # served by what came after it
    shelf.find("c", "green")
    assert [claim.filename for claim in shelf.claim()] == ["c"]
    for name in "de":
        shelf.find(name, "green")
    with shelf.db.write() as db:
        other = projects.ensure(db, "other").pk
        files.note(db, other, b"/other")
    with shelf.db.read() as db:
        before = rows(db, shelf.project)
    assert shelf.file("a").duplicate_of == shelf.file("b").pk
    assert (shelf.file("c").status, shelf.file("e").waiting_for) == (Status.PROCESSING, shelf.file("c").pk)
    with trial.write() as db:
        assert rows(db, shelf.project) == before
        assert rows(db, other) == []
        assert projects.by_pk(db, shelf.project).name == "shelf"


def test_until_something_is_written_the_files_are_those_of_the_database(shelf, trial: Trial) -> None:
    shelf.find("a", "red")
    with trial.read() as db:
        assert len(rows(db, shelf.project)) == 1
    shelf.find("b", "blue")
    with trial.write() as db:
        assert len(rows(db, shelf.project)) == 2
    shelf.find("c", "green")
    with trial.read() as db:
        assert len(rows(db, shelf.project)) == 2


def test_a_block_that_fails_is_undone_on_trial_too(shelf, trial: Trial) -> None:
    shelf.find("a", "red")

    def fail(db: Connection) -> None:
        files.delete(db, shelf.file("a"))
        raise KeyError

    with pytest.raises(KeyError), trial.write() as db:
        fail(db)
    with trial.read() as db:
        assert len(rows(db, shelf.project)) == 1


def test_a_project_is_made_on_trial_where_there_is_none(shelf) -> None:
    trial = Trial(shelf.db, None)
    with trial.write() as db:
        made = projects.ensure(db, "new")
        assert rows(db, made.pk) == []
    trial.close()
    with shelf.db.read() as db:
        assert projects.by_name(db, "new") is None

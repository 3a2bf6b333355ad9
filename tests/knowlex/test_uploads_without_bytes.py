"""Uploads go with their project and are in no backup: every command that has to do with that says so."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from storage import files, projects, uploads
from storage.files import Seen
from storage.fingerprint import Fingerprint

Call = Callable[..., Any]


def upload(kb: Knowlex, name: str, text: str) -> None:
    """Put a file into the project as the server does."""
    data, path = text.encode(), uploads.new_path(name)
    uploads.made_folder(kb.path)
    Path(os.fsdecode(uploads.on_disk(kb.path, path))).write_bytes(data)
    seen = Seen(path, Fingerprint(len(data), 0, 0, 0), hashlib.sha256(data).hexdigest(), "text/plain")
    job = kb.engine.job()
    with kb.database.write() as db:
        pk = projects.find(db, "notes").pk
        files.register(db, pk, seen, job.recipe(db, pk).versions, scanned_ns=0)


@pytest.fixture
def folder(knowlex: Call, database: Path, tmp_path: Path) -> Path:
    """A folder with one file, in a project with two uploads besides, and a backup of it as backup.db."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("The aardvark sleeps by day.\n")
    with Knowlex(database) as kb:
        assert kb.ingest("notes", folder).ingested == 1
        upload(kb, "ferry.txt", "The ferry leaves at nine.\n")
        upload(kb, "bus.txt", "The bus leaves at ten.\n")
        with kb.drain("notes") as drain:
            assert drain.run(once=True).ready == 2
        kb.backup(tmp_path / "backup.db")
    return folder


def test_deleting_a_project_says_how_many_uploads_go(
    knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowlex.cli.door.is_terminal", lambda stream: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    asked = knowlex("project", "delete", "notes").err
    assert asked.startswith("Delete project notes with 3 files (2 uploads to be deleted from disk), 0 memories?")
    told = knowlex("project", "delete", "notes", "--yes").out
    assert told.startswith("notes deleted: 3 files (2 uploads deleted from disk) with 3 passages, ")


def test_a_restore_and_health_say_how_many_uploads_have_no_bytes(
    knowlex: Call, database: Path, folder: Path, tmp_path: Path
) -> None:
    place = uploads.folder(database)
    shutil.copytree(place, tmp_path / "kept")
    knowlex("project", "delete", "notes", "--yes")
    told = knowlex("restore", tmp_path / "backup.db", "--yes").err
    assert "2 uploads have no bytes here; copy the folder of uploads that was kept with the backup" in told
    assert f" to {place}; else delete these files by id and upload them anew" in told
    assert knowlex("restore", tmp_path / "backup.db", "--yes", "--json").json["uploads_without_bytes"] == 2
    health = knowlex("health")
    assert (health.code, "ok      uploads      2 without bytes, " in health.out) == (0, True)
    shutil.copytree(tmp_path / "kept", place, dirs_exist_ok=True)
    assert "uploads      all have their bytes" in knowlex("health").out
    assert "no bytes" not in knowlex("restore", tmp_path / "backup.db", "--yes").err


def test_a_backup_of_another_database_is_restored_with_the_folder_of_its_own_name(
    knowlex: Call, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "new.db"
    told = knowlex("restore", tmp_path / "backup.db", "--yes", "--db", other).err
    assert f"copy the folder of uploads that was kept with the backup to {other}.uploads; " in told


def test_a_folder_of_uploads_that_cannot_be_listed_is_told_and_counts_none_as_gone(
    knowlex: Call, database: Path, folder: Path, tmp_path: Path
) -> None:
    place = uploads.folder(database)
    shutil.rmtree(place)
    place.write_text("no folder")  # as root may list what it has no rights to
    health = knowlex("health")
    assert (health.code, f"{place}: Not a directory; check the disk and the rights" in health.out) == (4, True)
    before = database.read_bytes()
    refused = knowlex("restore", tmp_path / "backup.db", "--yes")
    assert (refused.code, f"{place}: cannot be listed (Not a directory); " in refused.err) == (4, True)
    assert database.read_bytes() == before


def test_an_upload_that_comes_while_they_are_counted_is_not_lost(
    database: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir = os.listdir
    with Knowlex(database) as kb:

        def listed(path: Path) -> list[str]:
            monkeypatch.setattr(os, "listdir", listdir)
            found = listdir(path)
            upload(kb, "late.txt", "The late one.\n")
            return found

        monkeypatch.setattr(os, "listdir", listed)
        with kb.database.read() as db:
            assert uploads.without_bytes(db) == 0


def test_uploads_that_are_read_anew_are_none_of_the_files_found(knowlex: Call, database: Path, folder: Path) -> None:
    assert knowlex("project", "update", "notes", "--set", "max_tokens=64").code == 0
    would = knowlex("ingest", "notes", folder, "--dry-run").out
    assert "1 file found" in would
    assert "of the project's uploads: 2 would be read anew, 0 failed" in would
    [lost, *_] = uploads.folder(database).iterdir()
    lost.unlink()
    assert (
        "of the project's uploads: 1 would be read anew, 0 failed"
        in knowlex("ingest", "notes", folder, "--dry-run").out
    )
    done = knowlex("ingest", "notes", folder)
    assert (done.code, "1 file found, 1 ingested" in done.out, "0 removed, 0 failed" in done.out) == (1, True, True)
    assert "of the project's uploads: 1 read anew, 1 failed" in done.out
    assert "its bytes are no longer there" in done.err
    again = knowlex("ingest", "notes", folder, "--json").json
    assert (again["discovered"], again["uploads"], again["uploads_failed"]) == (1, 0, 0)


def test_a_search_that_finds_nothing_says_how_to_read_what_still_waits(
    knowlex: Call, database: Path, folder: Path
) -> None:
    """At the command line alone, where no worker need be running."""
    for name, told in (("b.txt", "1 file still waits to be read"), ("c.txt", "2 files still wait to be read")):
        with Knowlex(database) as kb:
            upload(kb, name, f"The tram of {name} leaves at noon.\n")
        ask = ("search", "notes", "zeppelin", "--mode", "text")
        assert knowlex(*ask).err == f"{told}: run knowlex work --once\n"
        assert knowlex(*ask, "--json").json["notes"] == [told]

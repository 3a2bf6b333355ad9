"""Files that are renamed keep their row, their passages and what lies within them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import discover
from pipeline.embed import Embedder
from storage import chunks, files, queue
from storage.errors import LeaseLostError
from storage.ids import now_ms
from storage.verify import verify
from workers import scan
from workers.scan import Fate, ScanOptions


def _refuse() -> Embedder:
    raise AssertionError("nothing new is to be embedded")


def _passages(desk, name: str) -> list[str]:
    with desk.db.read() as db:
        return [chunk.id for chunk in chunks.of_file(db, desk.file(name).pk)]


def test_a_renamed_file_keeps_its_row_and_its_passages(desk) -> None:
    desk.write("old.md", "# Boats\n\nA text about boats.")
    desk.ingest()
    before, passages = desk.file("old.md"), _passages(desk, "old.md")
    (desk.folder / "sub").mkdir()
    (desk.folder / "old.md").rename(desk.folder / "sub" / "new.md")
    desk.embedder = _refuse
    report = desk.ingest()
    after = desk.file("new.md")
    assert (report.unchanged, report.moved, report.duplicates, report.ingested) == (1, 1, 0, 0)
    assert (after.pk, after.id, after.created_at) == (before.pk, before.id, before.created_at)
    assert after.path == str(desk.folder.resolve() / "sub" / "new.md")
    assert after.original_path == before.original_path
    assert _passages(desk, "new.md") == passages
    assert desk.count("project_files") == 1
    assert verify(desk.db, deep=True) == []
    assert (desk.ingest(prune=True).moved, desk.ingest().unchanged) == (0, 1)


def test_a_renamed_folder_is_a_rename_of_each_of_its_files(desk) -> None:
    for number in range(5):
        desk.write(f"a/n{number}.md", f"Note number {number}.")
    desk.ingest()
    ids = {desk.file(f"n{number}.md").id for number in range(5)}
    (desk.folder / "a").rename(desk.folder / "b")
    report = desk.ingest(prune=True)
    assert (report.moved, report.removed, report.failures) == (5, 0, ())
    assert {desk.file(f"n{number}.md").id for number in range(5)} == ids


def test_a_copy_is_no_rename(desk) -> None:
    desk.write("a.md", "one text")
    desk.ingest()
    shutil.copyfile(desk.folder / "a.md", desk.folder / "b.md")
    report = desk.ingest()
    assert (report.moved, report.duplicates) == (0, 1)


def test_of_many_copies_none_is_looked_for_again_with_each_further_one(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[bytes] = []

    def is_gone(path: bytes) -> bool:
        looked_for.append(path)
        return discover.is_gone(path)

    monkeypatch.setattr(scan, "is_gone", is_gone)
    for number in range(40):
        desk.write(f"{number:02}/licence.txt", "The same words everywhere.")
    versions = desk.job().recipe(None, None).versions
    fates = [each.fate for each in scan.Scan(desk.db, desk.project, versions, ScanOptions()).run([desk.folder])]
    assert fates == [Fate.QUEUED] + [Fate.DUPLICATE] * 39
    assert len(looked_for) < 40


def test_copies_that_moved_together_each_keep_their_row(desk) -> None:
    for number in range(5):
        desk.write(f"a/{number}/licence.txt", "The same words everywhere.")
    desk.ingest()
    (desk.folder / "a").rename(desk.folder / "b")
    desk.write("c/licence.txt", "The same words everywhere.")
    report = desk.ingest()
    assert (report.moved, report.duplicates, report.gone) == (5, 1, 0)
    assert verify(desk.db, deep=True) == []


def test_the_name_whose_inode_it_has_is_the_one_that_moved(desk) -> None:
    desk.write("1.md", "one text")
    shutil.copyfile(desk.folder / "1.md", desk.folder / "2.md")
    desk.ingest()
    second = desk.file("2.md").id
    (desk.folder / "2.md").rename(desk.folder / "9.md")
    (desk.folder / "1.md").unlink()
    desk.ingest()
    assert desk.file("9.md").id == second


def test_an_owner_that_moves_keeps_serving_its_copies(desk) -> None:
    desk.write("a.md", "one text")
    shutil.copyfile(desk.folder / "a.md", desk.folder / "b.md")
    desk.ingest()
    (desk.folder / "a.md").rename(desk.folder / "z.md")
    assert desk.ingest(prune=True, force=True).moved == 1
    assert verify(desk.db, deep=True) == []
    assert {desk.file(name).chunk_count for name in ("b.md", "z.md")} == {1}


def test_a_failed_file_that_moves_stays_failed_without_another_try(desk) -> None:
    (desk.folder / "bad.pdf").write_bytes(b"no PDF at all")
    assert desk.ingest().failed == 1
    (desk.folder / "bad.pdf").rename(desk.folder / "worse.pdf")
    report = desk.ingest()
    assert (report.failed, report.moved) == (0, 1)
    assert desk.file("worse.pdf").attempts == 1


def test_a_moved_file_that_was_read_by_older_versions_is_read_anew(desk) -> None:
    desk.write("a.md", "A sentence about boats. " * 200)
    desk.ingest()
    id = desk.file("a.md").id
    (desk.folder / "a.md").rename(desk.folder / "b.md")
    desk.chunks = replace(desk.chunks, max_tokens=128, target_tokens=100)
    report = desk.ingest()
    assert (report.ingested, report.moved) == (1, 0)
    assert desk.file("b.md").id == id


def test_a_worker_that_opened_the_old_name_loses_its_claim(desk) -> None:
    desk.write("a.md", "one text")
    for _ in desk.batch()._scan.run([desk.folder]):
        pass
    with desk.db.write() as db:
        [claim] = queue.claim(db, "worker", limit=1, now_ms=now_ms())
        files.move(db, files.get(db, claim.pk), b"/elsewhere/b.md")
        with pytest.raises(LeaseLostError):
            queue.require_lease(db, claim)
        [again] = queue.claim(db, "worker", limit=1, now_ms=now_ms())
    assert (again.pk, again.path, again.filename) == (claim.pk, b"/elsewhere/b.md", "b.md")


def test_a_name_that_cannot_be_looked_at_is_taken_for_a_rename_and_comes_back_as_a_copy(desk, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "a.md").write_text("one text")
    desk.ingest(shelf)
    shelf.rename(tmp_path / "unmounted")
    desk.write("b.md", "one text")
    assert desk.ingest(desk.folder).moved == 1
    (tmp_path / "unmounted").rename(shelf)
    report = desk.ingest(shelf, desk.folder, scan=ScanOptions())
    assert (report.duplicates, report.unchanged) == (1, 1)
    assert verify(desk.db, deep=True) == []
    assert os.path.exists(shelf / "a.md")

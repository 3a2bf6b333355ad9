"""One run of ingestion over real files, with the real parsers and the real model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.chunk import ChunkSettings
from pipeline.embed import Embedder
from pipeline.ingest import Result
from pipeline.model_files import ModelFiles
from pipeline.parse import Parsed, ParseSettings
from storage import chunks, files
from storage.connection import Connection
from storage.errors import KnowlexError, NotFoundError
from storage.files import Status
from storage.queue import Claim
from storage.verify import verify
from workers.batch import Failure, Progress
from workers.buffer import Buffer
from workers.parser import Parser
from workers.runner import Recipe, Runner, RunnerSettings
from workers.scan import Scanned, ScanOptions


def test_every_file_is_accounted_for_and_every_count_is_true(desk, sample_data: Path) -> None:
    shutil.copytree(sample_data, desk.folder, dirs_exist_ok=True)
    shutil.copyfile(desk.folder / "demo" / os.listdir(desk.folder / "demo")[0], desk.folder / "a-copy")
    desk.runner = RunnerSettings()
    report = desk.ingest()
    told = report.ingested + report.unchanged + report.duplicates + report.skipped + report.failed
    assert report.discovered == told == sum(len(names) for _, _, names in os.walk(desk.folder))
    assert report.duplicates >= 1
    assert report.failed == len(report.failures) >= 3
    assert report.chunks == desk.count("file_chunks") > 20
    assert verify(desk.db, deep=True) == []
    assert all(failure.error for failure in report.failures)


def test_a_second_run_does_nothing_and_loads_no_model(desk) -> None:
    desk.write("a.md", "# One\n\nThe first note.")
    desk.write("b.md", "")
    first = desk.ingest()
    assert (first.ingested, first.failed) == (1, 1)

    def refuse() -> Embedder:
        raise AssertionError("a run without new text must not load the model")

    desk.embedder = refuse
    second = desk.ingest()
    assert (second.unchanged, second.ingested, second.failed, second.chunks) == (2, 0, 0, 0)


def test_a_file_is_rebuilt_from_its_chunks_although_they_repeat_the_head_of_its_table(desk) -> None:
    text = "| name | meaning |\n|---|---|\n" + "".join(f"| word {n} | some meaning |\n" for n in range(120))
    desk.write("table.md", text)
    desk.ingest()
    with desk.db.read() as db:
        stored = chunks.of_file(db, desk.file("table.md").pk)
    assert len(stored) > 3
    assert [chunk.repeated for chunk in stored] == [0] + [len("| name | meaning |\n|---|---|\n")] * (len(stored) - 1)
    assert all(chunk.content[chunk.repeated :] == text[chunk.char_start : chunk.char_end] for chunk in stored)


def test_exactly_what_changed_is_done(desk) -> None:
    for number in range(12):
        desk.write(f"n{number}.md", f"# Note {number}\n\nOnly here stands zebra{number}.")
    desk.ingest()
    desk.write("n1.md", "The okapi stands here now.")
    (desk.folder / "n2.md").rename(desk.folder / "renamed.md")
    shutil.copyfile(desk.folder / "n3.md", desk.folder / "copy.md")
    (desk.folder / "n4.md").unlink()
    report = desk.ingest(prune=True)
    assert (report.ingested, report.duplicates, report.removed, report.chunks) == (1, 1, 1, 1)
    assert (report.unchanged, report.moved) == (10, 1)
    assert verify(desk.db, deep=True) == []


def test_a_report_says_where_the_time_went_and_on_which_files(desk) -> None:
    desk.write("short.md", "One line about boats.")
    desk.write("long.txt", "A sentence about herons and their nests. " * 20_000)
    report = desk.ingest()
    assert report.stages is not None
    assert report.stages.parse_s > 0 < report.stages.write_s
    assert report.stages.embedded + report.stages.reused <= report.chunks
    assert [Path(slow.path).name for slow in report.slowest] == ["long.txt", "short.md"]
    assert report.slowest[0].seconds >= report.slowest[1].seconds
    again = desk.ingest()
    assert (again.stages.embedded, again.slowest) == (0, ())


def test_waiting_for_the_model_is_no_second_of_parsing(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now, put = [0.0], Buffer.put

    def put_late(self: Buffer, item: object, weight: int) -> bool:
        now[0] += 1000
        return put(self, item, weight)

    monkeypatch.setattr("workers.runner.time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic))
    monkeypatch.setattr(Buffer, "put", put_late)
    desk.write("a.md", "One line about boats.")
    report = desk.ingest()
    assert report.ingested == 1
    assert report.stages.parse_s == 0


def test_a_copy_of_a_file_that_failed_is_a_copy_however_soon_that_failed(desk) -> None:
    (desk.folder / "1.pdf").write_bytes(b"no PDF at all")
    assert desk.ingest().failed == 1
    (desk.folder / "2.pdf").write_bytes(b"no PDF at all")
    for report in (desk.ingest(dry_run=True), desk.ingest()):
        assert (report.duplicates, report.failed, report.ingested) == (1, 0, 0)


@pytest.mark.parametrize(("read", "passed_over"), [("a.xlsx", "b.ppt"), ("b.xlsx", "a.ppt")])
def test_a_copy_under_a_name_that_is_not_read_is_one_whichever_comes_first(desk, read: str, passed_over: str) -> None:
    data = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)  # a compound file that only its name tells more of
    for name in (read, passed_over):
        (desk.folder / name).write_bytes(data)
    (desk.folder / "c.ppt").write_bytes(data[:-1] + b"x")
    for report in (desk.ingest(dry_run=True), desk.ingest(), desk.ingest()):
        assert (report.discovered, report.duplicates, report.skipped) == (3, 1, 1)


def test_a_touched_file_is_read_again_but_not_embedded_again(desk) -> None:
    path = desk.write("a.md", "The same text.")
    desk.ingest()
    os.utime(path, (1, 1))
    report = desk.ingest()
    assert (report.unchanged, report.ingested) == (1, 0)


def test_unchanged_passages_are_not_embedded_again(desk) -> None:
    sections = [f"# Part {n}\n\n" + f"The weather of day {n} was fair. " * 30 for n in range(6)]
    desk.write("long.md", "\n\n".join(sections))
    desk.ingest()
    desk.write("long.md", "\n\n".join([sections[0], "# New part\n\n" + "Rain fell all night. " * 30, *sections[1:]]))
    batch = desk.batch()
    report = batch.run([desk.folder])
    assert report.chunks <= 3
    assert batch.timings.embedded <= 3
    assert verify(desk.db, deep=True) == []


def test_changed_chunking_is_seen_and_redone(desk) -> None:
    desk.write("a.md", "A sentence about boats. " * 200)
    desk.ingest()
    desk.write("new.md", "A sentence about herons.")
    desk.chunks = ChunkSettings(max_tokens=128, target_tokens=100)
    for report in (desk.ingest(dry_run=True), desk.ingest()):
        assert (report.ingested, report.outdated) == (2, 1)
    assert (desk.ingest().unchanged, desk.ingest().outdated) == (2, 0)


def test_a_dry_run_tells_what_a_real_one_does_and_writes_nothing(desk) -> None:
    desk.write("a.md", "one")
    desk.ingest()
    desk.write("b.md", "two")
    desk.write("c.md", "two")
    desk.write("d.md", "one")
    desk.write("e.png", "").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (desk.folder / "a.md").rename(desk.folder / "moved.md")
    foretold = desk.ingest(dry_run=True, prune=True, force=True)
    assert desk.count("project_files") == 1
    done = desk.ingest(prune=True, force=True)
    for name in ("discovered", "ingested", "unchanged", "duplicates", "removed", "skipped", "failed", "moved"):
        assert getattr(foretold, name) == getattr(done, name), name


def test_a_missing_root_is_told_before_anything_is_done(desk, tmp_path: Path) -> None:
    desk.write("a.md", "one")
    with pytest.raises(NotFoundError, match="nowhere"):
        desk.ingest(desk.folder, tmp_path / "nowhere")
    assert desk.count("project_files") == 0


def test_prune_spares_what_may_still_be_there(desk, tmp_path: Path) -> None:
    for number in range(10):
        desk.write(f"sub/{number}.md", f"note {number}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.md").write_text("elsewhere")
    desk.ingest(desk.folder, other)
    (other / "o.md").unlink()
    assert desk.ingest(desk.folder, prune=True).removed == 0, "what lies elsewhere is not this run's to judge"
    for number in range(5):
        (desk.folder / "sub" / f"{number}.md").unlink()
    refused = desk.ingest(prune=True)
    assert refused.removed == 0
    assert "--force" in refused.failures[0].error
    assert desk.ingest(prune=True, force=True).removed == 5


def test_a_folder_that_cannot_be_looked_into_is_named_and_keeps_what_it_holds(desk, monkeypatch) -> None:
    desk.write("a.md", "Outside the drawer.")
    desk.write("drawer/b.md", "Inside the drawer.")
    assert desk.ingest().unreadable_folders == ()
    drawer, whole = os.fsencode(desk.folder / "drawer"), os.open

    def refuse_the_drawer(path: str | bytes, *rest: int, **named: int) -> int:
        if path == drawer:  # root, whom no right stops, may run the tests
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse_the_drawer)
    report = desk.ingest()
    assert report.unreadable_folders == (Failure(os.fsdecode(drawer), "Permission denied"),)
    assert (report.discovered, report.unchanged, report.gone, report.failures) == (1, 1, 0, ())
    refused = desk.ingest(prune=True, force=True)
    assert refused.removed == 0
    assert len(refused.failures) == len(refused.unreadable_folders) == 1


def test_prune_judges_each_folder_by_itself(desk, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for number in range(5):
        (disk / f"{number}.md").write_text(f"a note on a disk, {number}")
        desk.write(f"{number}.md", f"a note at home, {number}")
    for number in range(5, 25):
        desk.write(f"{number}.md", f"a note at home, {number}")
    desk.ingest(disk, desk.folder)
    for number in range(5):
        (disk / f"{number}.md").unlink()  # as if that disk were no longer mounted here
    (desk.folder / "7.md").unlink()
    (desk.folder / "8.md").unlink()
    report = desk.ingest(disk, desk.folder, prune=True)
    assert report.removed == 2
    [failure] = report.failures
    assert failure.path == str(disk.resolve())
    assert "5 of its 5 files" in failure.error
    assert desk.ingest(disk, desk.folder, prune=True, force=True).removed == 5


def test_a_file_that_nobody_can_look_for_is_not_gone(desk, tmp_path: Path) -> None:
    path = desk.write("private/s.md", "a secret note")
    for number in range(9):
        desk.write(f"{number}.md", f"note {number}")
    desk.ingest()
    path.parent.rename(tmp_path / "aside")
    path.parent.symlink_to(path.parent)  # stat of what is below fails, and not because that is not there
    desk.write("copy.md", "a secret note")
    report = desk.ingest(prune=True)
    assert (report.moved, report.duplicates, report.removed) == (0, 1, 0)
    assert str(path) in report.failures[0].error
    path.parent.unlink()
    (tmp_path / "aside").rename(path.parent)
    assert desk.ingest(prune=True).unchanged == 11


def test_a_file_that_is_only_excluded_is_not_pruned(desk) -> None:
    desk.write("a.md", "one")
    desk.write("b.md", "two")
    desk.ingest()
    report = desk.ingest(prune=True, force=True, scan=ScanOptions(exclude=("b.md",)))
    assert (report.removed, report.skipped) == (0, 1)


def test_what_becomes_unreadable_as_text_leaves_the_index(desk) -> None:
    path = desk.write("a.md", "one")
    desk.ingest()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    report = desk.ingest()
    assert report.skipped == 1
    assert desk.count("project_files") == desk.count("file_chunks") == 0


def test_a_file_that_was_emptied_is_found_no_more(desk) -> None:
    for name in ("a.md", "b.md", "c.md"):
        desk.write(name, "the same text about boats")
    desk.ingest()
    desk.write("a.md", "")
    desk.write("b.md", "   ")
    assert desk.ingest().failed == 2
    assert [desk.file(name).indexed_hash for name in ("a.md", "b.md")] == [None, None]
    assert (desk.count("file_chunks"), desk.file("c.md").chunk_count) == (1, 1)
    assert verify(desk.db, deep=True) == []
    assert desk.ingest().unchanged == 3


def test_a_file_that_vanishes_before_it_is_read_leaves_nothing(desk) -> None:
    desk.write("known.md", "A note.")
    desk.ingest()
    desk.write("known.md", "Another note.")
    for name in ("new.md", "other.md"):
        desk.write(name, "A text.")

    class Gone(Progress):
        def scanned(self, item: Scanned) -> None:
            if not item.path.endswith(b"other.md"):
                Path(os.fsdecode(item.path)).unlink()

    report = desk.ingest(progress=Gone())
    assert (report.discovered, report.ingested, report.failed) == (2, 0, 1)
    assert desk.file("known.md").chunk_count == 1
    assert sorted(Path(failure.path).name for failure in report.failures) == ["known.md"]


def test_the_report_file_has_a_line_for_every_file(desk, tmp_path: Path) -> None:
    desk.write("a.md", "one")
    desk.write("b.md", "")
    desk.write(".hidden.md", "secret")
    desk.ingest(report=tmp_path / "report.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert {Path(line["path"]).name: line["outcome"] for line in lines} == {
        "a.md": "ingested",
        "b.md": "failed",
        ".hidden.md": "skipped",
    }


def test_too_many_chunks_fail_with_the_remedy(desk) -> None:
    """Before they are cut, where the text cannot fit: a huge log would otherwise be ended for the time it takes."""
    desk.parse = {"max_chunks_per_file": 3}
    desk.write("long.md", "A sentence about boats. " * 250)
    desk.write("huge.log", "A sentence about boats. " * 2000)
    failures = {Path(failure.path).name: failure.error for failure in desk.ingest().failures}
    assert failures.keys() == {"long.md", "huge.log"}
    assert all("max_chunks_per_file" in error for error in failures.values())
    assert {name: error.startswith("at least ") for name, error in failures.items()} == {
        "long.md": False,
        "huge.log": True,
    }


def test_a_poison_file_fails_after_three_attempts_and_the_others_are_ready(desk) -> None:
    desk.runner = RunnerSettings()
    desk.limits = replace(desk.limits, timeout_s=1.5)
    desk.write("slow.txt", "\n\n".join(f"Sentence {n} of an endless report." for n in range(400_000)))
    desk.write("good.md", "A good note.")
    report = desk.ingest()
    assert (report.ingested, report.failed) == (1, 1)
    slow = desk.file("slow.txt")
    assert (slow.error_code, slow.attempts) == ("timeout", 3)
    assert "parse_timeout_s" in (slow.error_message or "")


def test_a_stop_in_the_middle_leaves_nothing_in_hand_and_the_next_run_goes_on(desk) -> None:
    class Stopping(Progress):
        def finished(self, claim: Claim, result: Result) -> None:
            batch.stop()

    for number in range(60):
        desk.write(f"{number:02}.md", f"# Note {number}\n\n" + f"The tide of day {number} was high. " * 10)
    desk.runner = RunnerSettings(workers=1, window=8, slice=4)
    batch = desk.batch(progress=Stopping())
    batch.run([desk.folder])
    with desk.db.read() as db:
        left = files.counts(db, desk.project)
    assert left["processing"] == 0
    assert 0 < left["ready"] < 60
    assert verify(desk.db) == []
    desk.ingest()
    with desk.db.read() as db:
        assert files.counts(db, desk.project) == {"pending": 0, "processing": 0, "ready": 60, "failed": 0}


def test_a_model_that_fails_ends_the_run_and_loses_nothing(desk) -> None:
    desk.write("a.md", "one")

    def broken() -> Embedder:
        raise KnowlexError("the model is gone")

    desk.embedder = broken
    with pytest.raises(KnowlexError, match="the model is gone"):
        desk.ingest()
    assert desk.file("a.md").status is Status.PENDING


def test_the_database_in_the_folder_is_never_opened(desk, tmp_path: Path) -> None:
    desk.write("a.md", "one")
    report = desk.ingest(tmp_path)
    with desk.db.read() as db:
        assert [f.filename for f in files.every(db, desk.project)] == ["a.md"]
    assert report.skipped >= 3
    assert verify(desk.db, deep=True) == []


def test_copies_are_counted_as_copies_whatever_became_of_their_equals(desk) -> None:
    for name in ("a.md", "b.md"):
        desk.write(name, "the same text")
        desk.write(f"broken-{name}.pdf", "%PDF-1.7 cut off")
        desk.write(f"{name}.png", "").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    desk.runner = RunnerSettings()
    report = desk.ingest()
    assert (report.ingested, report.duplicates, report.failed, report.skipped) == (1, 3, 1, 1)
    assert desk.file("broken-b.md.pdf").error_message == desk.file("broken-a.md.pdf").error_message


def test_a_run_stopped_while_it_scans_prunes_nothing(desk) -> None:
    for number in range(200):
        desk.write(f"{number}.md", f"note {number}")
    desk.ingest()
    for number in range(10):
        (desk.folder / f"{number}.md").unlink()
    batch = desk.batch(prune=True)
    batch.stop()
    report = batch.run([desk.folder])
    assert batch.stopped
    assert report.removed == 0
    assert desk.count("project_files") == 200


def test_trying_a_failed_file_again_is_no_new_failure(desk, sample_data: Path) -> None:
    shutil.copyfile(sample_data / "bad" / "encrypted.pdf", desk.folder / "e.pdf")
    assert desk.ingest().failed == 1
    desk.parse = {"passwords": ("wrong",)}
    again = desk.ingest(scan=ScanOptions(retry_encrypted=True))
    assert (again.failed, again.unchanged, again.failures) == (0, 1, ())
    desk.parse = {"passwords": ("wrong", "heron-42")}
    assert desk.ingest(scan=ScanOptions(retry_encrypted=True)).ingested == 1


def test_a_file_that_a_worker_without_the_password_was_quicker_with_is_read_all_the_same(
    desk, sample_data: Path
) -> None:
    shutil.copyfile(sample_data / "bad" / "encrypted.pdf", desk.folder / "e.pdf")
    shutil.copyfile(sample_data / "bad" / "encrypted.pdf", desk.folder / "copy.pdf")
    quicker = Runner(desk.db, desk.job(), desk.runner, project_pk=desk.project)
    desk.parse = {"passwords": ("heron-42",)}
    batch = desk.batch(scan=ScanOptions(retry_encrypted=True))
    job, waiting = batch._runner._job, iter([True])

    def recipe(db: Connection, project_pk: int | None) -> Recipe:
        if project_pk is None and next(waiting, False):  # before the first claim of the run
            quicker.run(lambda: True)
        return job.recipe(db, project_pk)

    batch._runner._job = replace(job, recipe=recipe)
    report = batch.run([desk.folder])
    assert quicker.timings.failed == 1
    assert (report.ingested, report.duplicates, report.failed) == (1, 1, 0)
    assert {desk.file(name).status for name in ("e.pdf", "copy.pdf")} == {Status.READY}
    assert verify(desk.db, deep=True) == []


def test_a_file_that_changed_whenever_it_was_read_is_read_once_it_rests(
    desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has the bytes that it was found with at last."""
    note, aside = desk.write("a.md", "# One\n\nThe first note."), tmp_path / "aside"
    whole = Parser.parse

    def parse(parser: Parser, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        note.rename(aside)
        os.mkfifo(note)
        try:
            return whole(parser, claim, settings, model)
        finally:
            aside.rename(note)

    with monkeypatch.context() as during:
        during.setattr(Parser, "parse", parse)
        during.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)
        desk.ingest()
    assert desk.file("a.md").error_code == "changing"
    assert desk.ingest().ingested == 1
    assert desk.file("a.md").status is Status.READY


def test_a_file_that_grows_all_the_time_is_found_as_it_was_when_it_was_read(
    desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, reads = desk.write("app.log", "The program starts.\n"), 0
    whole = Parser.parse

    def parse(parser: Parser, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        nonlocal reads
        reads += 1
        if reads < 5:
            log.write_text(f"{log.read_text()}Event {reads} happened.\n")
        return whole(parser, claim, settings, model)

    monkeypatch.setattr(Parser, "parse", parse)
    report = desk.ingest()
    assert (reads, report.ingested, report.failed) == (1, 1, 0)
    [passage] = passages_of(desk, "app.log")
    assert "Event 1 happened" in passage
    log.write_text(f"{log.read_text()}It ends.\n")
    assert (desk.ingest().ingested, reads) == (1, 2)
    assert "It ends." in "".join(passages_of(desk, "app.log"))
    assert verify(desk.db, deep=True) == []


def test_a_file_edited_into_the_copy_of_another_is_served_by_that(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a.md", "One text.")
    desk.ingest()
    note, whole = desk.write("b.md", "Another text."), Parser.parse

    def parse(parser: Parser, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        note.write_text("One text.")
        return whole(parser, claim, settings, model)

    monkeypatch.setattr(Parser, "parse", parse)
    desk.ingest()
    assert desk.file("b.md").duplicate_of == desk.file("a.md").pk
    assert verify(desk.db, deep=True) == []


def passages_of(desk, name: str) -> list[str]:
    with desk.db.read() as db:
        return [chunk.content for chunk in chunks.of_file(db, desk.file(name).pk)]


def test_a_passage_that_stays_has_the_count_of_the_tokenizer_that_cut_it_last(
    desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write("a.md", "A short text.")
    desk.ingest()
    desk.chunks, whole = replace(desk.chunks, max_tokens=128, target_tokens=100), Parser.parse

    def parse(parser: Parser, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        """As a tokenizer parts the text that cuts words into more pieces."""
        parsed = whole(parser, claim, settings, model)
        return replace(parsed, chunks=tuple(replace(chunk, token_count=99) for chunk in parsed.chunks))

    monkeypatch.setattr(Parser, "parse", parse)
    desk.ingest()
    with desk.db.read() as db:
        assert [chunk.token_count for chunk in chunks.of_file(db, desk.file("a.md").pk)] == [99]


def test_copies_are_forgotten_in_steps_that_do_not_grow_with_their_number(desk, tmp_path: Path) -> None:
    def changes(copies: int) -> int:
        folder = tmp_path / str(copies)
        folder.mkdir()
        for number in range(copies):
            (folder / f"{number}.md").write_text(f"{copies} equal texts")
        (folder / "kept.md").write_text("Another text.")
        desk.ingest(folder)
        for number in range(copies):
            (folder / f"{number}.md").unlink()
        with desk.db.write() as db:
            before = db.raw.total_changes()
        assert desk.ingest(folder, prune=True, force=True).removed == copies
        with desk.db.write() as db:
            return db.raw.total_changes() - before

    assert changes(40) < 2.5 * changes(20)
    assert verify(desk.db, deep=True) == []


def test_what_only_a_link_leads_to_any_more_is_gone(desk, tmp_path: Path) -> None:
    desk.write("docs/a.md", "The old table says 1000.")
    desk.write("notes", "A plan for May.")
    desk.write("r.md", "Revenue fell.")
    desk.write("kept.md", "This stays.")
    desk.ingest()
    (desk.folder / "docs").rename(desk.folder / "docs-2")
    (desk.folder / "docs").symlink_to("docs-2")
    assert desk.ingest().moved == 1
    desk.write("docs-2/a.md", "The new table says 2000.")
    (desk.folder / "notes").unlink()
    desk.write("notes/x.md", "Notes are a folder now.")
    (tmp_path / "outside.md").write_text("Outside.")
    (desk.folder / "r.md").unlink()
    (desk.folder / "r.md").symlink_to(tmp_path / "outside.md")
    assert desk.ingest().gone == 2
    assert desk.ingest(prune=True, force=True).removed == 2
    with desk.db.read() as db:
        texts = {text for (text,) in db.all("SELECT content FROM file_chunks")}
    assert texts == {"The new table says 2000.", "Notes are a folder now.", "This stays."}
    assert verify(desk.db, deep=True) == []

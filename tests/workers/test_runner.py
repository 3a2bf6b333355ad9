"""A file that the model has no vector for, or no table takes, fails alone; what all would fail of ends the run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import mutants
from faults.desk import Desk, Floats, HashEmbedder

from pipeline import ingest
from pipeline.ingest import MAX_ATTEMPTS
from pipeline.model_files import ModelFiles
from pipeline.reembed import model_input
from storage import chunks, queue, succession, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, DatabaseError, DiskFullError, ModelMismatchError, UsageError
from storage.files import Status
from storage.vectors import Model
from storage.verify import verify
from workers import owner
from workers.buffer import Buffer
from workers.parser import Parser, ParserLimits
from workers.runner import FEWEST_CLAIMS, Runner, RunnerSettings
from workers.scan import Scan, ScanOptions

POISON = "nightshade"


class Poisonable(HashEmbedder):
    """Gives sound vectors, unless one of the texts holds the word."""

    def __init__(self, fault: str, word: str = POISON) -> None:
        self.fault, self.word = fault, word
        self.calls: list[int] = []

    def embed_documents(self, texts: Sequence[str]) -> Any:
        self.calls.append(len(texts))
        made = super().embed_documents(texts)
        bad = [number for number, text in enumerate(texts) if self.word in text]
        return _spoilt(made, bad, self.fault) if bad else made


def _spoilt(made: Floats, bad: list[int], fault: str) -> Floats:
    match fault:
        case "crash":
            raise RuntimeError("of a library")
        case "few":
            return made[1:]
        case "narrow":
            return made[:, :-1] / np.linalg.norm(made[:, :-1], axis=1, keepdims=True)
        case _:
            made[bad] = np.nan
            return made


def together(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first so many files be embedded in one window, however long it takes to parse them."""
    take, first = Buffer.take, [count]

    def wait_first(self: Buffer[Any], *, weight: int, wait_s: float | None) -> list[Any]:
        if weight > 1 and first:
            wanted = first.pop()
            with self._changed:
                assert self._changed.wait_for(lambda: self._closed or len(self._items) >= wanted, timeout=60)
        return take(self, weight=weight, wait_s=wait_s)

    monkeypatch.setattr(Buffer, "take", wait_first)


LASTING = ["nan", "few", "narrow"]


@pytest.fixture
def files(desk) -> list[str]:
    for number in range(6):
        desk.write(f"{number}.md", f"# Note {number}\n\nThe tide of day {number} was high.")
    return [f"{number}.md" for number in range(6)]


def test_a_run_leaves_no_parser_behind(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = Parser._start, list[subprocess.Popen[bytes]]()

    def noted(parser: Parser, model: ModelFiles) -> None:
        start(parser, model)
        assert parser._process is not None
        started.append(parser._process)

    monkeypatch.setattr(Parser, "_start", noted)
    desk = Desk(db, tmp_path / "in")  # with parsers of its own, as every run has but those of most tests
    desk.write("a.md", "the zebra grazes")
    assert desk.ingest().ingested == 1
    assert len(started) == 1
    assert started[0].returncode is not None, "it was ended, and waited for"


def test_a_parser_that_cannot_be_started_ends_the_run_and_costs_no_file_anything(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(db, tmp_path / "in")
    for number in range(3):
        desk.write(f"{number}.md", f"The tide of day {number} was high.")
    desk.upload("ferry.txt", "The ferry leaves at nine.")
    with monkeypatch.context() as patches:
        patches.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(ConfigurationError, match=r"cannot be started .*: install Knowlex"):
            desk.ingest()
    assert [(file.status, file.attempts, file.error_code) for file in desk.files()] == [(Status.PENDING, 0, None)] * 4
    desk.ingest()
    assert [file.status for file in desk.files()] == [Status.READY] * 4


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("fault", "attempts"), [*((fault, 1) for fault in LASTING), ("crash", MAX_ATTEMPTS)])
def test_a_file_without_a_sound_vector_fails_alone_in_the_same_run(
    desk, files: list[str], fault: str, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write("3-poison.md", f"# Herbs\n\nThe {POISON} is a plant.")
    embedder = Poisonable(fault)
    desk.embedder = lambda: embedder
    together(len(files) + 1, monkeypatch)
    report = desk.ingest()
    assert embedder.calls[:2] == [len(files) + 1, 1], "the window, then file by file"
    assert (report.ingested, report.failed) == (len(files), 1)
    file = desk.file("3-poison.md")
    assert (file.status, file.error_code, file.attempts) == (Status.FAILED, "no_vector", attempts)
    assert "the model" in file.error_message
    assert "knowlex retry" in file.error_message
    assert verify(desk.db, deep=True) == []
    assert desk.ingest().unchanged == len(files) + 1


@pytest.mark.parametrize("fault", [*LASTING, "crash"])
def test_a_model_without_a_sound_vector_for_anything_ends_the_run(
    desk, files: list[str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Poisonable(fault, word="")
    desk.embedder = lambda: embedder
    together(len(files), monkeypatch)
    with pytest.raises(ConfigurationError, match="drawn: gives no sound vector for any text .*; set precision"):
        desk.ingest()
    assert embedder.calls == [len(files), 1, 1], "the window, its first file, and a plain text"
    assert {desk.file(name).status for name in files} == {Status.PENDING}
    assert {desk.file(name).attempts for name in files} == {0}
    assert desk.count("embeddings") == 0
    desk.embedder = HashEmbedder
    assert desk.ingest().ingested == len(files)


def test_files_with_the_same_poison_fail_all(desk, files: list[str]) -> None:
    for name in ("one", "two"):
        desk.write(f"{name}.md", f"# Herbs\n\nThe {POISON} is a plant.\n\n# Number {name}\n\nAnd another.")
    desk.embedder = lambda: Poisonable("nan")
    report = desk.ingest()
    assert (report.ingested, report.failed) == (len(files), 2)


def test_what_was_searchable_stays_so_when_its_new_text_has_no_vector(desk) -> None:
    path = desk.write("a.md", "The tide was high.")
    desk.embedder = lambda: Poisonable("nan")
    desk.ingest()
    path.write_text(f"The {POISON} is a plant.", "utf8")
    assert desk.ingest().failed == 1
    with desk.db.read() as db:
        assert [chunk.content for chunk in chunks.of_file(db, desk.file("a.md").pk)] == ["The tide was high."]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file that failed be tried again at once."""
    monkeypatch.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)


@pytest.fixture
def poisoned(desk, files: list[str]) -> list[str]:
    """The names of good files, among which lies a poisoned one."""
    desk.write("3-poison.md", f"# Herbs\n\nThe {POISON} is a plant.")
    return files


def _refusing(monkeypatch: pytest.MonkeyPatch, error: DatabaseError | UsageError) -> None:
    """Let a step of the commit of the poisoned file fail."""
    put = chunks.replace

    def replace(db: Connection, project: int, file: int, model: int, new: Sequence[Any]) -> int:
        if any(POISON in chunk.content for chunk in new):
            raise error
        return put(db, project, file, model, new)

    monkeypatch.setattr(chunks, "replace", replace)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("fault", ["constraint", "usage"])
def test_a_file_that_no_table_takes_fails_alone_and_the_fault_is_logged(
    desk, poisoned: list[str], fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "constraint":
        with desk.db.write() as db:
            db.script(
                "CREATE TRIGGER refuse BEFORE INSERT ON file_chunks"
                f" WHEN new.content LIKE '%{POISON}%' BEGIN SELECT RAISE (ABORT, 'no such herbs'); END"
            )
    else:
        _refusing(monkeypatch, UsageError("no such herbs"))
    report = desk.ingest()
    assert (report.ingested, report.failed) == (len(poisoned), 1)
    file = desk.file("3-poison.md")
    assert (file.status, file.error_code, file.attempts) == (Status.FAILED, "not_stored", MAX_ATTEMPTS)
    assert file.error_message.startswith("cannot be stored (no such herbs): a fault in Knowlex")
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    told = [record.msg for record in logged]
    assert [event.name for event in told] == MAX_ATTEMPTS * ["file not stored"]
    assert {event.fields["file"] for event in told} == {file.id}
    with desk.db.write() as db:
        db.script("DROP TRIGGER IF EXISTS refuse")
    assert verify(desk.db, deep=True) == []


def test_a_fault_of_the_database_at_one_file_ends_the_run(
    desk, poisoned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _refusing(monkeypatch, DiskFullError("no space left"))
    with pytest.raises(DiskFullError):
        desk.ingest()
    file = desk.file("3-poison.md")
    assert (file.status, file.attempts) == (Status.PENDING, 0)


def test_files_that_could_not_be_given_back_are_taken_by_the_next_run_of_the_same_process(
    desk, poisoned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = DiskFullError("no space left")

    def nothing_written(db: Connection, owner: str) -> int:
        raise full

    with monkeypatch.context() as disk:
        _refusing(disk, full)
        disk.setattr(queue, "give_back", nothing_written)
        with pytest.raises(DiskFullError):
            desk.ingest()
    with desk.db.read() as db:
        held = queue.owners(db)
    assert held
    assert all(map(owner.is_dead, held)), "nobody waits for its lease to run out"
    desk.ingest()
    assert {desk.file(name).status for name in (*poisoned, "3-poison.md")} == {Status.READY}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("act", ["os.abort()", "os.kill(os.getpid(), 11)", "while True: pass"])
def test_code_whose_grammar_ends_the_parser_is_cut_without_it(
    desk, files: list[str], act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grammars").mkdir()
    (tmp_path / "grammars" / "tree_sitter_go.py").write_text(f"import os\n\ndef language():\n    {act}\n", "utf8")
    usual = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "grammars"), *([usual] if usual else [])]))
    desk.embedder, desk.limits = HashEmbedder, ParserLimits(timeout_s=2)
    desk.write("a.go", "package tides\n\nfunc High() int {\n\treturn 12\n}\n")
    report = desk.ingest()
    assert (report.ingested, report.failed) == (len(files) + 1, 0)
    file = desk.file("a.go")
    assert (file.status, file.chunk_count) == (Status.READY, 1)
    assert file.metadata == {"encoding": "utf-8", "language": "go", "grammar": "none: parsing with it failed"}


# --- beside other workers


def test_the_last_files_of_a_queue_are_left_to_others(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes all of them works alone while the others wait."""
    taken: list[int] = []
    claim = queue.claim

    def noted(*arguments: Any, limit: int, **more: Any) -> Any:
        taken.append(limit)
        return claim(*arguments, limit=limit, **more)

    monkeypatch.setattr(queue, "claim", noted)
    desk.runner = RunnerSettings(claims=4)
    for number in range(40):
        desk.write(f"{number}.md", f"# Note {number}\n\nThe tide of day {number} was high.")
    list(Scan(desk.db, desk.project, desk.job().recipe(None, None).versions, ScanOptions()).run([desk.folder]))
    desk.ingest()
    assert taken[0] == 4
    assert taken[-1] == FEWEST_CLAIMS
    assert taken == sorted(taken, reverse=True)


def test_a_worker_without_files_asks_for_no_lock(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[str] = []
    monkeypatch.setattr(queue, "extend", lambda db, owner, **_: beats.append(owner))
    turns = count()
    Runner(desk.db, desk.job(), RunnerSettings(heartbeat_s=0.01)).run(lambda: next(turns) >= 5)
    assert beats == []


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_machine_without_threads_ends_the_run_and_leaves_none(
    desk, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    start, left, before = threading.Thread.start, iter(range(allowed)), threading.active_count()

    def start_or_not(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    with pytest.raises(ConfigurationError, match="set workers lower"):
        Runner(desk.db, desk.job(), RunnerSettings()).run(lambda: True)
    assert threading.active_count() == before


# --- another model becomes live during a run


class Next(HashEmbedder):
    """Another model, with vectors of its own."""

    identity = replace(HashEmbedder.identity, name="next", hash="next")

    def embed_query(self, text: str) -> Floats:
        return super().embed_query(f"next: {text}")


def switch_at_the_first_commit(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another model become live when the first file is embedded and about to be committed."""
    commit = ingest.commit

    def late(*arguments: Any, **options: Any) -> ingest.Result:
        if desk.embedder is not Next:
            desk.embedder = Next
            row = Model(0, "", "next", "next", Next.identity.dim, "mean", "", "", "fp32", "building")
            with desk.db.write() as db:
                assert succession.switch(db, succession.begin(db, row).pk)
        return commit(*arguments, **options)

    monkeypatch.setattr(ingest, "commit", late)


def vectors_of_another_model(desk) -> int:
    """Return how many stored vectors are not those that the next model gives."""
    with desk.db.read() as db:
        model = vectors.live_model(db)
        assert (model.name, succession.is_left(db)) == ("next", False)
        passages = succession.page(db, model.pk, succession.FIRST, 99).passages
        stored = vectors.known(db, model.pk, [vectors.input_hash(model_input(passage)) for passage in passages])
        own = {vectors.input_hash(text): text for text in map(model_input, passages)}
    made = vectors.encode(Next().embed_documents(list(own.values())))
    return sum(stored[digest] != vector for digest, vector in zip(own, made, strict=True))


def test_what_a_former_model_made_is_made_anew_in_the_same_run(
    desk, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_at_the_first_commit(desk, monkeypatch)
    report = desk.ingest()
    assert (report.ingested, report.failed) == (len(files), 0)
    assert vectors_of_another_model(desk) == 0
    assert verify(desk.db, deep=True) == []


@pytest.mark.proof
def test_vectors_of_a_former_model_that_are_kept_as_the_live_ones_are_seen(
    desk, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.plant("model-not-fenced", monkeypatch.setattr)
    switch_at_the_first_commit(desk, monkeypatch)
    with suppress(ModelMismatchError):  # what is embedded after the switch is refused even so
        desk.ingest()
    with pytest.raises(AssertionError, match=r"next.*True.*next.*False"):
        vectors_of_another_model(desk)


def test_a_file_for_which_the_new_model_has_no_vector_fails_alone(
    desk, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(self: Next, texts: Sequence[str]) -> Floats:
        return np.stack([self.embed_query(text) * (2 if "day 3" in text else 1) for text in texts])

    together(len(files), monkeypatch)
    switch_at_the_first_commit(desk, monkeypatch)
    monkeypatch.setattr(Next, "embed_documents", spoilt)
    report = desk.ingest()
    assert (report.ingested, report.failed) == (len(files) - 1, 1)
    assert desk.file("3.md").error_code == "no_vector"
    assert verify(desk.db, deep=True) == []

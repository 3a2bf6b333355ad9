"""Whoever processes files while another model becomes live cuts them for that one from then on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from second_model import cache_with_the_default_model, loaded_once, second_model

from knowlex import Knowlex
from pipeline import embed, model_files, reembed
from storage import projects, queue, succession, vectors
from storage.errors import ConfigurationError
from storage.files import Status
from storage.succession import FIRST
from workers.scan import Scan, ScanOptions

# One worker runs them all, so that the shelf is filled once.
pytestmark = pytest.mark.xdist_group("reembed")

PATIENCE_S = 120
NOTES = 6
AS_IT_IS = {"query": "", "document": ""}
LOG = "\n\n".join(f"At hour {hour} the harbourmaster examined the thermometer attentively." for hour in range(40))


class Shelf:
    """Notes with the default model's vectors; a shorter model, and one whose tokenizer knows short pieces only."""

    def __init__(self, place: Path) -> None:
        self.cache = cache_with_the_default_model(place / "cache")
        self.short = second_model(place / "short", self.cache, prompts=AS_IT_IS, max_tokens=64)
        self.spelt = second_model(place / "spelt", self.cache, prompts=AS_IT_IS, longest_piece=3)
        self.path, self.notes = place / "shelf.db", place / "notes"
        self.notes.mkdir()
        for number in range(NOTES):
            (self.notes / f"{number}.md").write_text(f"# Day {number}\n\n{LOG}")
        with Knowlex(self.path, cache_dir=str(self.cache)) as kb:
            assert kb.ingest("p", self.notes, progress=False).ingested == NOTES


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


Open = Callable[..., Knowlex]


@pytest.fixture
def opened(shelf: Shelf, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a copy of the database, as often as wanted."""
    shutil.copyfile(shelf.path, database)
    monkeypatch.setattr(embed, "load", loaded_once)
    kept: list[Knowlex] = []

    def call(**settings: Any) -> Knowlex:
        kept.append(Knowlex(database, cache_dir=str(shelf.cache), **settings))
        return kept[-1]

    yield call
    for kb in kept:
        kb.close()


def enqueue(kb: Knowlex, folder: Path) -> None:
    """Queue what is new or outdated in a folder, and process none of it."""
    job = kb.engine.job()
    with kb.database.read() as db:
        pk = projects.find(db, "p").pk
        versions = job.recipe(db, pk).versions
    assert list(Scan(kb.database, pk, versions, ScanOptions()).run([folder]))


def unfinished(kb: Knowlex) -> int:
    with kb.database.read() as db:
        return queue.unfinished(db)


class Worker:
    """A `work` without an end, in a thread."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb, self._drain = kb, kb.drain(progress=False)
        self._thread = threading.Thread(target=self._work)
        self.error: Exception | None = None

    def _work(self) -> None:
        try:
            self._drain.run(once=False)
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        """Wait until nothing waits any more, or the worker has ended."""
        end = time.monotonic() + PATIENCE_S
        while self._thread.is_alive() and unfinished(self._kb):
            assert time.monotonic() < end
            time.sleep(0.02)


@contextmanager
def working(kb: Knowlex, folder: Path) -> Generator[Worker]:
    """Have a worker of the former model, which has read something already."""
    worker = Worker(kb)
    worker._thread.start()
    try:
        (folder / "first.md").write_text("The first of all.")
        enqueue(kb, folder)
        worker.finish()
        yield worker
    finally:
        worker._drain.stop()
        worker._thread.join()


@pytest.fixture
def folder(shelf: Shelf, tmp_path: Path) -> Path:
    """A folder beside the notes."""
    (tmp_path / "more").mkdir()
    return tmp_path / "more"


def cut_off(kb: Knowlex) -> list[int]:
    """Return the passages whose ends the live model does not see."""
    with kb.database.read() as db:
        model = vectors.live_model(db)
        assert model is not None
        passages = succession.page(db, model.pk, FIRST, 10_000).passages
    embedder, tokenizer = kb.engine.load_another(model.name)
    return [each.key.pk for each in reembed.too_long(tokenizer, embedder.identity, reembed.inputs(passages))]


@pytest.mark.parametrize("name", ["short", "spelt"])
def test_a_worker_that_was_started_before_the_switch_cuts_for_the_new_model(
    opened: Open, shelf: Shelf, folder: Path, name: str
) -> None:
    kb = opened()
    with working(opened(), folder) as worker:
        done = kb.reembed(str(getattr(shelf, name)))
        assert (done.switched, done.outdated) == (True, NOTES + 1)
        for place in (shelf.notes, folder):
            enqueue(kb, place)
        worker.finish()
        assert worker.error is None
    for place in (shelf.notes, folder):
        assert kb.ingest("p", place, dry_run=True).outdated == 0
    assert cut_off(kb) == []
    assert kb.verify(deep=True) == []


def noted(function: Callable[..., Any], steps: list[str]) -> Callable[..., Any]:
    """Return a function that notes when a thread that claims files calls it."""

    def call(*arguments: Any, **more: Any) -> Any:
        if threading.current_thread().name == "parser":
            steps.append(function.__name__)
        return function(*arguments, **more)

    return call


@pytest.mark.parametrize("name", ["short", "spelt"])
def test_an_ingestion_that_looks_for_files_at_the_moment_of_the_switch_cuts_for_the_new_model(
    opened: Open, shelf: Shelf, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb, other = opened(), opened()
    due, switched = queue.due, []
    steps: list[str] = []

    def overtaken(*arguments: Any, **more: Any) -> int:
        found = due(*arguments, **more)
        if found and not switched:
            switched.append(other.reembed(str(getattr(shelf, name))).switched)
        return found

    (folder / "late.md").write_text(f"# Late\n\n{LOG}")
    monkeypatch.setattr(queue, "due", overtaken)
    for module, function in ((queue, "claim"), (model_files, "resolve")):
        monkeypatch.setattr(module, function, noted(getattr(module, function), steps))
    assert kb.ingest("p", folder, progress=False, workers=1).ingested == 1
    assert switched == [True]
    assert steps[-2:] == ["resolve", "claim"], "nobody waits for the lock while the files of a model are looked for"
    assert kb.ingest("p", folder, dry_run=True).outdated == 0


def test_a_model_that_takes_less_than_a_workers_setting_ends_it_with_the_remedy(
    opened: Open, shelf: Shelf, folder: Path
) -> None:
    kb = opened()
    with working(opened(max_tokens=200), folder) as worker:
        kb.reembed(str(shelf.short))
        (folder / "second.md").write_text("The second of all.")
        enqueue(kb, folder)
        worker.finish()
        assert isinstance(worker.error, ConfigurationError)
        assert f"max_tokens = 200: {shelf.short} takes 64; lower it" in worker.error.message
    assert [file.filename for file in kb.files("p") if file.status == Status.PENDING] == ["first.md", "second.md"]


def test_what_was_cut_before_tokenizers_were_told_apart_is_cut_anew_once(opened: Open, shelf: Shelf) -> None:
    kb = opened()
    with kb.database.read() as db:
        marks = db.all("SELECT settings_fingerprint FROM project_files")
    kb.reembed(str(shelf.spelt))
    assert kb.ingest("p", shelf.notes, progress=False).outdated == NOTES
    assert kb.ingest("p", shelf.notes, progress=False).outdated == 0
    with kb.database.write() as db:
        db.many("UPDATE project_files SET settings_fingerprint = :mark", [{"mark": mark} for (mark,) in marks])
    done = kb.ingest("p", shelf.notes, progress=False)
    assert done.stages is not None
    assert (done.outdated, done.stages.embedded) == (NOTES, 0), "the passages are what they were"
    assert kb.ingest("p", shelf.notes, progress=False).outdated == 0

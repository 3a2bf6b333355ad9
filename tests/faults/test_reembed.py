"""Another model is built and made live while searches go on, and is killed: no answer fails, is empty or is mixed."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pytest
from faults import mutants, storm
from faults.table import Figure
from second_model import cache_with_the_default_model, second_model

from knowlex import Knowlex
from storage import succession, vectors
from storage.database import Database

pytestmark = [pytest.mark.row(1), pytest.mark.xdist_group("faults")]

EVERY_S = 0.1
PATIENCE_S = 60.0
PROJECT = "harbour"
QUESTIONS = ("Which ship brought salt?", "When does the ferry leave?", "Who mends ropes?")
MODES = ("vector", "hybrid")
CARGOES = ("salt", "rope", "wool", "tar", "grain", "timber", "coal", "cod")
PAGE = ("--page", "8")

STEPS = (
    "storage.succession.begin",
    "storage.succession.page",
    "storage.vectors.encode",
    "storage.succession.keep",
    "storage.vectors.put",
    "storage.succession.switch",
    "storage.succession._set_status",
    "storage.changes.renew",
    "storage.succession.drop",
    "storage.vectors.drop_unused",
)
"""What is called on the way from the first passage to the last vector of the former model."""

MOMENTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]

Found = tuple[tuple[str, float], ...]
Asked = tuple[str, str]


@dataclass(frozen=True)
class Place:
    """A database whose vectors are the default model's, and the model that is to follow it."""

    folder: Path
    cache: Path
    model: Path

    @property
    def database(self) -> Path:
        return self.folder / "kb.db"

    @property
    def reembed(self) -> list[str]:
        """The arguments of the command."""
        return ["--db", str(self.database), "reembed", str(self.model), "--json"]

    @property
    def other_settings(self) -> dict[str, Any]:
        return {"cache_dir": str(self.cache)}

    def open(self) -> Knowlex:
        return Knowlex(self.database, **self.other_settings)

    def copied_to(self, folder: Path) -> Place:
        shutil.copytree(self.folder, folder)
        return Place(folder, self.cache, self.model)

    def report(self, *options: str) -> dict[str, Any]:
        """Run the command without interference and return its answer."""
        process = storm.start(self.reembed, *options)
        said, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return json.loads(said)

    def live(self) -> str:
        """Return the name of the live model."""
        with Database.open(self.database, readonly=True) as db, db.read() as connection:
            model = vectors.live_model(connection)
            assert model is not None
            return model.name

    @cached_property
    def answers(self) -> dict[Asked, Found]:
        """What a process finds that starts now and asks everything."""
        with self.open() as kb:
            return {(mode, question): found(kb, mode, question) for mode in MODES for question in QUESTIONS}


def found(kb: Knowlex, mode: str, question: str) -> Found:
    hits = kb.search(PROJECT, question, 5, mode=mode, sources=("files", "memories", "messages"))
    assert hits.legs["vector"].degraded is None, hits.legs["vector"].degraded
    return tuple((hit.id, round(hit.score, 3)) for hit in hits)


class Reader:
    """Somebody who asks a question every 100 ms, and remembers all answers and errors."""

    def __init__(self, place: Place) -> None:
        self._kb = place.open()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.heard: list[tuple[Asked, Found]] = []
        self.errors: list[Exception] = []

    def _read(self) -> None:
        turn = 0
        while not self._end.wait(EVERY_S):
            asked = MODES[turn % len(MODES)], QUESTIONS[turn % len(QUESTIONS)]
            turn += 1
            try:
                self.heard.append((asked, found(self._kb, *asked)))
            except Exception as error:  # what went wrong is what the test is about
                self.errors.append(error)

    def hear_more(self, answers: int = 2) -> None:
        """Wait for some more answers, or errors."""
        wanted, give_up_at = self._turns + answers, time.monotonic() + PATIENCE_S
        while self._turns < wanted and time.monotonic() < give_up_at:
            time.sleep(EVERY_S / 4)

    @property
    def _turns(self) -> int:
        return len(self.heard) + len(self.errors)

    def assert_one_switch(self, old: dict[Asked, Found], new: dict[Asked, Found]) -> None:
        """Assert that every answer is the old model's, up to one moment, and the new one's from then on."""
        assert not self.errors, self.errors[0]
        assert all(old[asked] and new[asked] and old[asked] != new[asked] for asked in old)
        by = ["old" if said == old[asked] else "new" if said == new[asked] else "neither" for asked, said in self.heard]
        assert by == ["old"] * by.count("old") + ["new"] * by.count("new"), by
        assert by[0] == "old"
        assert by[-1] == "new"

    def __enter__(self) -> Self:
        self._thread.start()
        self.hear_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._kb.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A harbour's notes: 40 passages, some memories and messages, with vectors of the default model."""
    place = tmp_path_factory.mktemp("reembed")
    cache = cache_with_the_default_model(place / "cache")
    harbour = Place(place / "kb", cache, second_model(place / "ship", cache))
    harbour.folder.mkdir()
    notes = place / "notes"
    notes.mkdir()
    for number, cargo in enumerate(CARGOES):
        days = (
            f"On day {day} the ship {cargo} {day} came in with {cargo}, and left at {day} o'clock. " * 12
            for day in range(1, 6)
        )
        (notes / f"{number}.md").write_text("\n\n".join(days), "utf8")
    with harbour.open() as kb:
        kb.ingest(PROJECT, notes, progress=False)
        for cargo in CARGOES:
            kb.memories.add(
                PROJECT, f"Who deals in {cargo}", f"The house at pier {len(cargo)} mends and sells {cargo}."
            )
        talk = kb.conversations.create("Ferries", project=PROJECT)
        kb.conversations.add(talk.id, "user", "The ferry leaves when the tide is high.")
        found(kb, *MODES[:1], QUESTIONS[0])
        assert kb.stats().pending_vectors == 0
    return harbour


@pytest.fixture
def place(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(made.cache))
    return made.copied_to(tmp_path / "kb")


def test_two_kills_while_searches_go_on_are_noticed_by_nobody(place: Place) -> None:
    old = place.answers
    with Reader(place) as reader:
        assert storm.killed_at("after:storage.succession.keep#2", place.reembed, *PAGE)
        assert storm.killed_at("after:storage.changes.renew", place.reembed, *PAGE)
        assert place.live() != str(place.model)
        done = place.report(*PAGE)
        reader.hear_more(3)
    assert (done["made"], done["reused"] > 40, done["switched"]) == (0, True, True)
    storm.assert_sound(place.database)
    reader.assert_one_switch(old, Place(place.folder, place.cache, place.model).answers)


@pytest.mark.proof
def test_a_switch_in_two_transactions_is_seen(place: Place) -> None:
    with Reader(place) as reader:
        moment = "after:storage.succession._set_status"
        assert storm.killed_at(moment, place.reembed, *PAGE, "--mutant", "switch-in-two")
        reader.hear_more(3)
    with pytest.raises(AssertionError, match="no vectors"):
        reader.assert_one_switch(place.answers, place.answers)


@pytest.mark.proof
def test_a_search_that_keeps_its_model_is_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old = place.answers
    mutants.plant("model-kept", monkeypatch.setattr)
    with Reader(place) as reader:
        place.report()
        reader.hear_more(3)
    monkeypatch.undo()
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(place.cache))
    with pytest.raises(AssertionError, match="neither"):
        reader.assert_one_switch(old, Place(place.folder, place.cache, place.model).answers)


# --- in full ---------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_forty_kills_while_searches_go_on(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(made.cache))
    rng = random.Random(40)
    moments = rng.sample(MOMENTS, len(MOMENTS))
    kills = heard = rounds = 0
    never = set(moments)
    while kills < 40 or never:
        rounds += 1
        assert rounds < 60, never
        place = made.copied_to(tmp_path / str(rounds))
        with Reader(place) as reader:
            for _ in range(2):
                moment = rng.choice(sorted(never) or moments)
                hit = strike(place, moment, rng)
                kills += hit
                never -= {moment} if hit else set()
                storm.assert_sound(place.database)
            place.report(*PAGE)
            reader.hear_more(3)
        heard += len(reader.heard)
        storm.assert_sound(place.database)
        reader.assert_one_switch(made.answers, place.answers)
        shutil.rmtree(place.folder)
    text = f"{kills} kills of reembed, {heard} searches meanwhile: 0 failed, 0 empty, 0 mixed; one switch each"
    figure(1, text, not never)


def strike(place: Place, moment: str, rng: random.Random) -> bool:
    """Kill a run at a moment, or, a third of the times, at random besides; tell whether the moment was met."""
    if rng.random() < 1 / 3:
        storm.killed_after(rng.uniform(0.5, 3.0), place.reembed)
    return storm.killed_at(moment, place.reembed, *PAGE)


@dataclass
class Author:
    """Somebody who remembers, edits, forgets and ingests all the time."""

    place: Place
    rng: random.Random

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.acts = 0
        self.errors: list[Exception] = []

    def _write(self) -> None:
        notes = self.place.folder / "more"
        notes.mkdir(exist_ok=True)
        with self.place.open() as kb:
            for act in self._acts(kb, notes):
                if self._end.wait(0.05):
                    return
                try:
                    act()
                    self.acts += 1
                except Exception as error:  # what went wrong is what the test is about
                    self.errors.append(error)

    def _acts(self, kb: Knowlex, notes: Path) -> Iterator[Callable[[], object]]:
        turn = 0
        while True:
            turn += 1
            text = f"Note {turn}: {self.rng.choice(CARGOES)} for pier {self.rng.random()}"
            memory = kb.memories.add(PROJECT, f"note {turn}", text)
            yield lambda: kb.drain().run()
            (notes / f"{turn % 7}.md").write_text(text, "utf8")
            yield lambda: kb.ingest(PROJECT, notes, progress=False)
            yield lambda kept=memory, said=text: kb.memories.update(kept.id, content=f"{said}, at last")
            if turn % 2:
                yield lambda kept=memory: kb.memories.delete(kept.id)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_what_comes_and_goes_meanwhile_is_caught_up(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(made.cache))
    rng = random.Random(5)
    kills = acts = 0
    for number in range(10):
        place = made.copied_to(tmp_path / str(number))
        with Author(place, rng) as author:
            for _ in range(2):
                kills += strike(place, rng.choice(MOMENTS), rng)
            assert place.report(*PAGE)["live"]
        assert not author.errors, author.errors[0]
        acts += author.acts
        assert place.live() == str(place.model)
        storm.assert_sound(place.database)
        assert_all_of_one_model(place)
        shutil.rmtree(place.folder)
    text = f"10 models built under {acts} edits and ingestions, {kills} kills: sound, nothing without a vector"
    figure(1, text, kills >= 10 and acts >= 100)


def assert_all_of_one_model(place: Place) -> None:
    """Assert that every vector is of the live model, and that no other is left."""
    with place.open() as kb, kb.database.read() as db:
        assert not succession.is_left(db)
        assert db.value("SELECT count(*) FROM vector_bits") == succession.count(db)

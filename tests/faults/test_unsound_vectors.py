"""No vector that is not finite, of unit length and of the model's width gets in, as a document or as a question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import mutants
from faults.desk import DIM, Desk, Floats, HashEmbedder, note

from storage import vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, UsageError
from storage.sources import NO_PROJECT, Source
from storage.vectors import Model
from storage.verify import verify

pytestmark = pytest.mark.row(13)

SOUND = HashEmbedder().embed_documents([str(number) for number in range(8)])


def spoiled(row: int, place: int, value: float) -> Floats:
    """Return sound vectors but for one number."""
    values = SOUND.copy()
    values[row, place] = value
    return values


WRONG_VALUES = {
    f"{value} at {place}": spoiled(5, place, value)
    for value in (np.nan, np.inf, -np.inf, 3e38, 1.5)
    for place in (0, DIM // 2, DIM - 1)
} | {
    "all zero": np.zeros_like(SOUND),
    "one zero": np.where(np.arange(8)[:, None] == 3, 0, SOUND).astype(np.float32),
    "all NaN": np.full_like(SOUND, np.nan),
    "twice as long": SOUND * 2,
    "half as long": SOUND / 2,
    "two percent too long": SOUND * np.float32(1.02),
    "tiny": SOUND * np.float32(1e-30),
    "huge doubles": SOUND.astype(np.float64) * 1e200,
}
WRONG_SHAPES = {
    "one narrower": SOUND[:, :-1] / np.linalg.norm(SOUND[:, :-1], axis=1, keepdims=True),
    "one wider": np.hstack([SOUND, np.zeros((8, 1), np.float32)]),
    "no width": SOUND[:, :0],
    "a cube": SOUND[:, :, None],
}
WRONG_TYPES = {
    "whole numbers": np.eye(8, DIM, dtype=np.int64),
    "truth values": np.eye(8, DIM, dtype=np.bool_),
    "complex": SOUND + 0j,
    "objects": SOUND.astype(object),
    "texts": SOUND.astype(str),
    "a list": SOUND.tolist(),
    "nothing": None,
}
WRONG: dict[str, Any] = WRONG_VALUES | WRONG_SHAPES | WRONG_TYPES


def refused(put: Callable[[Any], object], wrong: dict[str, Any]) -> list[str]:
    """Return the names of what was not refused with a UsageError of one line."""
    accepted: list[str] = []
    for name, values in wrong.items():
        try:
            put(values)
            accepted.append(name)
        except UsageError:
            pass
    return accepted


@pytest.fixture
def model(db: Database) -> Model:
    with db.write() as connection:
        return vectors.ensure_model(
            connection,
            name="drawn",
            hash="drawn",
            dim=DIM,
            pooling="mean",
            query_prompt="",
            document_prompt="",
            precision="fp32",
        )


def put(db: Database, model: Model, values: Any) -> None:
    """Store vectors as memories of no project."""
    made = vectors.encode(values)
    with db.write() as connection:
        rows = [(pk, vectors.input_hash(str(pk)), vector) for pk, vector in enumerate(made, 1)]
        vectors.put(connection, model.pk, None, Source.MEMORY, rows)


def ask(db: Connection, model: Model, query: Any, limit: int = 5) -> list[int]:
    hits = vectors.search(db, model, query, project_pk=NO_PROJECT, source=Source.MEMORY, limit=limit)
    return [pk for pk, _ in hits]


def accepted(db: Database, model: Model) -> list[str]:
    """Return what got in, or was searched for, that must not."""
    found = refused(lambda values: put(db, model, values), WRONG)
    rows = {name: values[5] if isinstance(values, np.ndarray) else values for name, values in WRONG.items()}
    rows |= {"a matrix": SOUND, "a scalar": np.float32(1)}
    del rows["one zero"]  # its sixth row is sound
    with db.read() as connection:
        return found + refused(lambda query: ask(connection, model, query), rows)


@pytest.mark.proof
def test_whatever_is_unsound_is_refused(db: Database, model: Model, figure) -> None:
    found = accepted(db, model)
    with db.read() as connection:
        kept = connection.value("SELECT count(*) FROM embeddings")
    figure(13, f"{2 * len(WRONG) + 1} unsound documents and questions, {len(found)} accepted, {kept} stored",
           not found and not kept)  # fmt: skip


def test_an_encoder_that_asks_nothing_is_seen(db: Database, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("unsound-vectors-accepted", monkeypatch.setattr)
    values = {f"nan at {DIM - 1}", "one zero", "twice as long"}
    assert set(refused(lambda value: put(db, model, value), {name: WRONG[name] for name in values})) == values


# --- through the pipeline


class Unsound(HashEmbedder):
    """An embedder that spoils what it gives for one of many texts, where one of them holds a word."""

    def __init__(self, wrong: Any, word: str = "") -> None:
        self.wrong = wrong
        self.word = word

    def embed_documents(self, texts: Sequence[str]) -> Any:
        values = super().embed_documents(texts)
        if not any(self.word in text for text in texts):
            return values
        if not isinstance(self.wrong, np.ndarray):
            return self.wrong
        if self.wrong.ndim == 2 and self.wrong.shape[1] == DIM and self.wrong.dtype == np.float32:
            values[-1] = self.wrong[5 % len(self.wrong)] if self.wrong is not WRONG["one zero"] else 0
            return values
        return np.resize(self.wrong, (len(texts), *self.wrong.shape[1:]))


def unsound_runs(desk: Desk, names: Iterable[str]) -> list[str]:
    """Ingest with one embedder after the other that is unsound for all, then with a sound one; return what is amiss."""
    for number in range(3):
        desk.write(f"{number}.md", note(number, paragraphs=2))
    found: list[str] = []
    for name in names:
        desk.embedder = Unsound(WRONG[name])
        try:
            desk.ingest()
            found.append(f"{name}: no error")
        except ConfigurationError as error:
            if "no sound vector for any text" not in error.message:
                found.append(f"{name}: {error.message}")
        rows = desk.value("SELECT (SELECT count(*) FROM embeddings) + (SELECT count(*) FROM file_chunks)")
        if rows or {file.status for file in desk.files()} != {"pending"}:
            found.append(f"{name}: {rows} rows")
    desk.embedder = HashEmbedder()
    if desk.ingest().ingested != 3:
        found.append("not taken up again")
    return [*found, *map(str, verify(desk.db, deep=True))]


def poisoned_runs(desk: Desk, names: Iterable[str]) -> list[str]:
    """Ingest with one embedder after the other that is unsound for one file; return what is amiss."""
    found: list[str] = []
    for number, name in enumerate(names):
        desk.write(f"{number}-good.md", note(number, paragraphs=2))
        desk.write(f"{number}-poison.md", f"# Herbs\n\nNumber {number} is called nightshade{number}.")
        desk.embedder = Unsound(WRONG[name], f"nightshade{number}.")
        report = desk.ingest()
        file = next(file for file in desk.files() if file.filename == f"{number}-poison.md")
        told = (report.ingested, report.failed, file.error_code, file.chunk_count)
        if told != (1, 1, "no_vector", 0) or "no sound vector" not in (file.error_message or ""):
            found.append(f"{name}: {told}, {file.error_message}")
    return [*found, *map(str, verify(desk.db, deep=True))]


SHORT = [f"nan at {DIM - 1}", "one zero", "twice as long", "one wider", "a list"]


def test_an_embedder_that_is_unsound_for_all_ends_the_run_and_stores_nothing(db: Database, tmp_path: Path) -> None:
    assert unsound_runs(Desk(db, tmp_path / "in"), SHORT) == []


def test_a_file_that_an_embedder_is_unsound_for_fails_alone(db: Database, tmp_path: Path) -> None:
    assert poisoned_runs(Desk(db, tmp_path / "in"), SHORT) == []


@pytest.mark.soak
def test_every_unsound_embedder_ends_the_run_and_stores_nothing(db: Database, tmp_path: Path, figure) -> None:
    found = unsound_runs(Desk(db, tmp_path / "in"), WRONG)
    figure(13, f"{len(WRONG)} unsound embedders: each ended the run with an error, {len(found)} amiss", not found)


@pytest.mark.soak
def test_every_file_that_an_embedder_is_unsound_for_fails_alone(db: Database, tmp_path: Path, figure) -> None:
    found = poisoned_runs(Desk(db, tmp_path / "in"), WRONG)
    figure(13, f"{len(WRONG)} files without a sound vector: each failed alone with its reason, {len(found)} amiss",
           not found)  # fmt: skip


# --- how many hits


@pytest.mark.proof
def test_fewer_than_one_hit_is_refused_and_any_larger_number_is_answered(db: Database, model: Model, figure) -> None:
    drawn = np.random.default_rng(13).standard_normal((6_000, DIM)).astype(np.float32)
    put(db, model, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    found: list[str] = []
    with db.read() as connection:
        for limit in (0, -1, -5_000):
            try:
                ask(connection, model, SOUND[0], limit)
                found.append(f"k = {limit} accepted")
            except UsageError:
                pass
        for limit in (1, 799, 800, 801, 4_096, 4_097, 5_000, 5_999, 6_000, 6_001, 10**6, 2**62, 2**70):
            hits = ask(connection, model, SOUND[0], limit)
            if len(set(hits)) != len(hits) or len(hits) != min(limit, 6_000):
                found.append(f"k = {limit}: {len(hits)} hits")
    figure(13, f"k < 1 refused; k from 1 to 2**70 over 6,000 vectors in full; {len(found)} amiss", not found)

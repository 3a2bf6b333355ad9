"""Print how long filtered searches take, and whether they find what brute force finds.

    python -m benchmarks.filters [PASSAGES]

100,000 passages (or PASSAGES) of 60 words, in files of 100, with random vectors whose 384 directions count less and
less, as a model's do; questions lie near a passage. A filter on the files' metadata lets a half, a hundredth or a
thousandth of the passages pass. `filter`: finding what passes. `alone` and `in memory`: a whole search, without and
with mirrors, the question's embedding aside; all are medians, in ms. `equal`: of how many questions the ten hits are
those of brute force, in its order: every cosine of what passes, or the order of all that an unfiltered text search
finds, without what does not pass. `found`: the share of brute force's hits.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.lists import insert
from pipeline.answer import Mode
from pipeline.context import FIRST, SHARE
from pipeline.filter_language import read
from pipeline.options import SearchOptions
from pipeline.retrieve import Retriever
from storage import allowed, bm25, projects, text_index, vectors
from storage.connection import Connection
from storage.database import Database
from storage.filters import Filter
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_mirror import TextMirror
from storage.vector_mirror import VectorMirror
from storage.vectors import input_hash

Floats = npt.NDArray[np.float32]

DIM = 384
DECAY = 0.6
"""How fast the spread of a vector falls from its first to its last direction; larger is easier for their signs."""
AWAY = 0.7
"""How far a question lies from its passage, in lengths of a passage."""
WORDS, VOCABULARY = 60, 20_000
A_FILE = 100
QUESTIONS = 25
VECTORS = 3
"""The seed of the passages' vectors."""
BATCH = 10_000
AT = "2026-01-01T00:00:00.000Z"
FILTERS = {"none": None, "50 %": "half = true", "1 %": "hundredth = true", "0.1 %": "thousandth = true"}


def random_vectors(rng: np.random.Generator, count: int) -> Floats:
    """Return unit vectors, float32 (count, DIM)."""
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0]
    return unit(rng.standard_normal((count, DIM)) * np.arange(1, DIM + 1) ** -DECAY @ turned)


def unit(values: npt.NDArray[np.float64] | Floats) -> Floats:
    """Return rows of length 1."""
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def texts_of(rng: np.random.Generator, count: int) -> list[str]:
    """Return texts whose words are as unevenly spread as those of a language."""
    return _sentences(rng.zipf(1.2, (count, WORDS)) % VOCABULARY)


def questions_of(rng: np.random.Generator, count: int) -> list[tuple[str, Floats]]:
    """Return questions of eight words that are none of the commonest, and vectors near those of the first passages."""
    words = _sentences(rng.integers(20, VOCABULARY // 20, (count, 8)))
    near = random_vectors(np.random.default_rng(VECTORS), count) + AWAY * random_vectors(rng, count)
    return list(zip(words, unit(near), strict=True))


def _sentences(ranks: npt.NDArray[np.int64]) -> list[str]:
    return [" ".join(f"w{rank}" for rank in row) for row in ranks.tolist()]


def synthetic(count: int) -> Iterator[tuple[list[str], Floats]]:
    """Yield texts and vectors, a batch at a time."""
    rng, of_vectors = np.random.default_rng(1), np.random.default_rng(VECTORS)
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        yield texts_of(rng, size), random_vectors(of_vectors, size)


def fill(database: Database, batches: Iterable[tuple[list[str], Floats]]) -> int:
    """Make a project of passages, whose pks count from 1, and return its pk; each batch is one transaction."""
    with database.write() as db:
        project = projects.create(db, "bench").pk
        model = vectors.ensure_model(
            db, name="m", hash="h", dim=DIM, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
        )
    done = 0
    for texts, made in batches:
        with database.write() as db:
            add(db, project, model.pk, done, texts, made)
        done += len(texts)
    return project


def add(db: Connection, project: int, model: int, done: int, texts: list[str], made: Floats) -> None:
    """Store passages behind the `done` that are there, and the files that they are in."""
    pks = range(done + 1, done + len(texts) + 1)
    insert(db, "project_files", _files(project, range(-(-done // A_FILE), -(-(pks.stop - 1) // A_FILE))))
    insert(db, "file_chunks", _chunks(project, pks, texts))
    text_index.put(db, Source.FILE, project, zip(pks, map(tokens_of, texts), strict=True))
    rows = zip(pks, map(input_hash, map(str, pks)), vectors.encode(made), strict=True)
    vectors.put(db, model, project, Source.FILE, rows)


def _files(project: int, numbers: range) -> Iterator[dict[str, object]]:
    for n in numbers:
        path = f"/docs/{n}.md"
        shares = {"half": n % 2 == 0, "hundredth": n % 100 == 0, "thousandth": n % 1000 == 0}
        place = {"project_id": project, "filename": path[6:], "path": path, "path_bytes": path.encode()}
        known = {"size": n, "status": "ready", "metadata": json.dumps({"author": f"a{n}", **shares})}
        yield {"pk": n + 1, "id": f"file {n}", **place, **known, "created_at": AT, "updated_at": AT}


def _chunks(project: int, pks: range, texts: list[str]) -> Iterator[dict[str, object]]:
    for pk, text in zip(pks, texts, strict=True):
        place = {"project_id": project, "file_id": (pk - 1) // A_FILE + 1, "chunk_index": pk % A_FILE}
        span = {
            "content_hash": sha256(text.encode()).digest(),
            "char_start": 0,
            "char_end": len(text),
            "token_count": WORDS,
        }
        yield {"pk": pk, "id": f"chunk {pk}", **place, "content": text, **span, "created_at": AT}


@dataclass(frozen=True)
class Desk:
    """What is asked, and the mirrors of a long-lived process."""

    database: Database
    project: int
    questions: list[tuple[str, Floats]]
    vector_mirror: VectorMirror
    text_mirror: TextMirror

    def ask(self, place: int, mode: Mode, filter: Filter | None, *, mirrored: bool) -> tuple[list[str], float]:
        """Return the ids of ten hits, and the milliseconds they took."""
        text, vector = self.questions[place]
        mirrors = (self.vector_mirror, self.text_mirror) if mirrored else (None, None)
        by = Retriever(self.database, self.project, lambda _: vector, None, *mirrors)
        answer = by.retrieve(text, SearchOptions(mode=mode, filter=filter))
        searched_ms, started = answer.took_ms - answer.embed_ms, time.perf_counter()
        for hit in answer.hits:
            _ = hit.snippet  # made when it is read
        return [hit.id for hit in answer.hits], searched_ms + 1000 * (time.perf_counter() - started)

    def by_force(self, mode: Mode, filter: Filter | None) -> list[list[str]]:
        """Return for each question the ids of the ten best of what passes, of all that can be found."""
        with self.database.read() as db:
            inside = set(_all(db)) if filter is None else set(self.passing(db, filter))
            if mode == "text":
                return [self._in_order(db, text, inside) for text, _ in self.questions]
            pks = np.array(sorted(inside))
            halves = [half for (half,) in db.all("SELECT vector FROM embeddings ORDER BY pk")]
            stored = np.frombuffer(b"".join(halves), "<f2").reshape(-1, DIM)[pks - 1].astype(np.float32)
        return [
            [f"chunk {pk}" for pk in pks[np.lexsort((pks, -np.einsum("ij,j->i", stored, vector)))][:10]]
            for _, vector in self.questions
        ]

    def passing(self, db: Connection, filter: Filter) -> list[int]:
        """Return the keys of the passages that pass."""
        return allowed.pks(db, Source.FILE, filter, project_pk=self.project).tolist()

    def _in_order(self, db: Connection, text: str, inside: set[int]) -> list[str]:
        """Return the ids of the ten best of the hundred best, by what stands beside them."""
        found = text_index.matches(db, Source.FILE, text, project_pk=self.project)
        every = [(pk, score) for pk, score in found.best(10**9) if pk in inside]
        first = found.in_context([pk for pk, _ in every[:FIRST]], SHARE)
        return [f"chunk {pk}" for pk, _ in bm25.best(first.items(), 10)]


def _all(db: Connection) -> list[int]:
    return [pk for (pk,) in db.all("SELECT pk FROM file_chunks")]


def report(desk: Desk) -> None:
    """Print a line for each filter and mode."""
    columns = f"{'filter':>7} {'alone':>8} {'in memory':>10} {'equal':>7} {'found':>6}"
    print(f"{'filter':8} {'passages':>9} {'mode':8} {columns}")
    modes: tuple[Mode, ...] = ("text", "vector", "hybrid")
    for name, written in FILTERS.items():
        filter = None if written is None else read(written)
        found_ms, passing = _finding(desk, filter)
        for mode in modes:
            alone = [desk.ask(place, mode, filter, mirrored=False) for place in range(len(desk.questions))]
            for place in range(len(desk.questions)):  # fills the mirrors
                desk.ask(place, mode, filter, mirrored=True)
            kept = [desk.ask(place, mode, filter, mirrored=True) for place in range(len(desk.questions))]
            times = f"{found_ms:7.1f} {median(ms for _, ms in alone):8.1f} {median(ms for _, ms in kept):10.1f}"
            if [ids for ids, _ in alone] != [ids for ids, _ in kept]:
                raise SystemExit(f"{name}, {mode}: mirrors change an answer")
            agreement = "" if mode == "hybrid" else _agreement(kept, desk.by_force(mode, filter))
            print(f"{name:8} {passing:9,} {mode:8} {times} {agreement}", flush=True)


def _finding(desk: Desk, filter: Filter | None) -> tuple[float, int]:
    with desk.database.read() as db:
        if filter is None:
            return 0.0, len(_all(db))
        took: list[float] = []
        for _ in range(5):
            start = time.perf_counter()
            found = allowed.pks(db, Source.FILE, filter, project_pk=desk.project)
            took.append((time.perf_counter() - start) * 1000)
    return median(took), len(found)


def _agreement(kept: list[tuple[list[str], float]], wanted: list[list[str]]) -> str:
    equal = sum(ids == best for (ids, _), best in zip(kept, wanted, strict=True))
    found = sum(len({*ids} & {*best}) for (ids, _), best in zip(kept, wanted, strict=True))
    return f"{equal:3}/{len(wanted):<3} {found / max(1, sum(map(len, wanted))):6.3f}"


def main(count: int) -> None:
    """Fill a database and report on it."""
    with tempfile.TemporaryDirectory() as folder, Database.open(Path(folder) / "filters.db") as database:
        project = fill(database, synthetic(count))
        questions = questions_of(np.random.default_rng(2), QUESTIONS)
        report(Desk(database, project, questions, VectorMirror(), TextMirror()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

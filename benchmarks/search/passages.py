"""What is searched: real passages with their vectors, and more of them, made from these, where there are too few.

A made passage is one of the real ones with three words in ten taken from another, in their order, and its vector moved
by `AWAY` times the difference of two other real vectors: words stay as unevenly spread as they are, and vectors keep
the directions that a model's have.

    texts.jsonl      a passage a line, as a JSON string
    vectors.npy      float32 (n, dim), unit length
    questions.json   {"texts": […], "vectors": [[…]…]}
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import ingestion
from benchmarks.filters import unit
from pipeline.chunk import embedding_input
from pipeline.collection import Collection
from pipeline.embed import Embedder
from storage.database import Database

Floats = npt.NDArray[np.float32]

AWAY = 0.35
OTHER_WORDS = 0.3
WORDS_ASKED = range(5, 13)
"""How many words a question has."""
BATCH = 10_000


def real(collections: Sequence[Collection], folders: Sequence[Path], place: Path) -> tuple[list[str], Floats]:
    """Ingest the documents of the collections and the files of the folders; return their distinct passages."""
    database = place / "real.db"
    for judged in collections:
        documents = place / "documents" / judged.name
        documents.mkdir(parents=True)
        for number, document in enumerate(judged.documents):
            (documents / f"{number}.md").write_text(f"# {document.title}\n\n{document.text}\n", "utf8")
    for folder in (place / "documents", *folders):
        ingestion.ingest(database, folder, ingestion.precisions()[0])
    with Database.open(database, readonly=True) as opened, opened.read() as db:
        rows = db.all(
            "SELECT c.heading, c.content, e.vector FROM file_chunks c JOIN vector_bits b ON b.pk = c.pk"
            " JOIN embeddings e ON e.pk = b.embedding WHERE b.source = 'file' GROUP BY e.pk"
        )
    random.Random(0).shuffle(rows)
    halves = np.frombuffer(b"".join(half for _, _, half in rows), "<f2").reshape(len(rows), -1)
    return [embedding_input(heading, content) for heading, content, _ in rows], unit(halves.astype(np.float32))


def write(texts: Sequence[str], vectors: Floats, count: int, place: Path) -> None:
    """Write the first `count` passages, made ones behind the real ones."""
    rng, words = random.Random(1), [text.split() for text in texts]
    with (place / "texts.jsonl").open("w", encoding="utf8") as file:
        for number in range(count):
            text = texts[number] if number < len(texts) else _other(rng, words, words[number % len(words)])
            file.write(json.dumps(text) + "\n")
    np.save(place / "vectors.npy", np.concatenate([vectors[:count], *_moved(vectors, count - len(vectors))]))


def _other(rng: random.Random, words: Sequence[list[str]], text: list[str]) -> str:
    other = rng.choice(words) or text
    start = rng.randrange(len(other))
    return " ".join(
        other[(start + place) % len(other)] if rng.random() < OTHER_WORDS else word for place, word in enumerate(text)
    )


def _moved(vectors: Floats, count: int) -> Iterator[Floats]:
    rng = np.random.default_rng(1)
    for first in range(0, count, BATCH):
        places = np.arange(first, min(first + BATCH, count)) % len(vectors)
        one, other = (vectors[rng.integers(len(vectors), size=len(places))] for _ in range(2))
        yield unit(vectors[places] + AWAY * (one - other))


def questions(collections: Sequence[Collection], embedder: Embedder, count: int, place: Path) -> None:
    """Write questions that people asked of the collections, of 5 to 12 words, chosen at random but always the same."""
    asked = [query.text for judged in collections for query in judged.queries]
    chosen = [text for text in dict.fromkeys(asked) if len(text.split()) in WORDS_ASKED]
    random.Random(2).shuffle(chosen)
    vectors = [embedder.embed_query(text).tolist() for text in chosen[:count]]
    (place / "questions.json").write_text(json.dumps({"texts": chosen[:count], "vectors": vectors}))

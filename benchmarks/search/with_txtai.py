"""txtai: Embeddings with content and hybrid (Faiss and its own BM25, half and half), given the vectors.

A hybrid index asks both legs whatever their weights are: `vector` is for its recall, and takes no less time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asked
import numpy as np
from txtai import Embeddings

Transform = Callable[[list[str]], asked.Floats]


def by_text(vectors: dict[str, asked.Floats]) -> Transform:
    """Return what looks up the vectors of texts."""

    def transform(texts: list[str]) -> asked.Floats:
        return np.stack([vectors[text] for text in texts])

    return transform


def build(passages: Path, store: Path) -> None:
    vectors: dict[str, asked.Floats] = {}

    def rows() -> Iterator[tuple[int, str, None]]:
        for first, texts, found in asked.batches(passages):
            vectors.update(zip(texts, found, strict=True))
            for number, text in enumerate(texts, first):
                yield number, text, None

    index = Embeddings(method="external", transform=by_text(vectors), content=True, hybrid=True)
    index.index(rows())
    del index.config["transform"]  # it would be kept by its name, which no other process resolves
    index.save(str(store))


def searches(store: Path) -> Mapping[str, asked.Search]:
    vectors: dict[str, asked.Floats] = {}
    index = Embeddings()
    index.load(str(store))
    index.model.transform = by_text(vectors)

    def search(weights: float | None) -> asked.Search:
        def ask(text: str, vector: asked.Floats, k: int) -> list[int]:
            vectors[text] = vector
            found: list[Any] = index.search(text, k, weights=weights)
            return [int(row["id"]) for row in found]

        return ask

    return {"hybrid": search(None), "vector": search(1.0)}


if __name__ == "__main__":
    asked.main(build, searches)

"""txtai: Embeddings with content and hybrid (Faiss and its own BM25, half and half), given the vectors.

A hybrid index asks both legs whatever their weights are: `vector` is for its recall, and takes no less time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asked
import numpy as np
from txtai import Embeddings


def opened(vectors: dict[str, asked.Floats]) -> Embeddings:
    """Return Embeddings whose model looks up the vector of a text."""

    def transform(texts: list[str]) -> asked.Floats:
        return np.stack([vectors[text] for text in texts])

    return Embeddings(method="external", transform=transform, content=True, hybrid=True)


def build(passages: Path, store: Path) -> None:
    vectors: dict[str, asked.Floats] = {}

    def rows() -> Iterator[tuple[int, str, None]]:
        for first, texts, found in asked.batches(passages):
            vectors.update(zip(texts, found, strict=True))
            for number, text in enumerate(texts, first):
                yield number, text, None

    index = opened(vectors)
    index.index(rows())
    index.save(str(store))


def searches(store: Path) -> Mapping[str, asked.Search]:
    vectors: dict[str, asked.Floats] = {}
    index = opened(vectors)
    index.load(str(store))

    def search(weights: float | None) -> asked.Search:
        def ask(text: str, vector: asked.Floats, k: int) -> list[int]:
            vectors[text] = vector
            found: list[Any] = index.search(text, k, weights=weights)
            return [int(row["id"]) for row in found]

        return ask

    return {"hybrid": search(None), "vector": search(1.0)}


if __name__ == "__main__":
    asked.main(build, searches)

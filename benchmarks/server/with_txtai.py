"""Store passages in an index of txtai, for its API: python with_txtai.py PASSAGES STORE MODEL

The vectors are given; the index then says that MODEL, a folder, made them, so that the API embeds questions by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))

import asked
from txtai import Embeddings
from with_txtai import by_text


def main(passages: Path, store: Path, model: str) -> None:
    """Store them as the comparison of searches does."""
    vectors: dict[str, asked.Floats] = {}

    def rows() -> Iterator[tuple[int, str, None]]:
        for first, texts, found in asked.batches(passages):
            vectors.update(zip(texts, found, strict=True))
            for number, text in enumerate(texts, first):
                yield number, text, None

    index = Embeddings(method="external", transform=by_text(vectors), content=True, hybrid=True)
    index.index(rows())
    del index.config["transform"], index.config["method"]
    index.config["path"] = model
    index.save(str(store))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

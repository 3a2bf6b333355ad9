"""LanceDB: a table with its own index of vectors and of words; hybrid fuses both by reciprocal ranks, as unasked.

Its index of vectors is IVF_PQ at its defaults. A search by vector alone refines, as its documentation says: ten times
as many are compared exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asked
import lancedb
import pyarrow as pa
from lancedb.index import FTS, IvfPq


def build(passages: Path, store: Path) -> None:
    table = None
    for first, texts, vectors in asked.batches(passages):
        flat = pa.array(vectors.reshape(-1))
        rows = pa.table(
            {
                "id": pa.array(range(first, first + len(texts))),
                "text": texts,
                "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            }
        )
        if table is None:
            table = lancedb.connect(store).create_table("bench", rows)
        else:
            table.add(rows)
    assert table is not None
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    table.create_index("text", config=FTS())
    table.optimize()


def searches(store: Path) -> Mapping[str, asked.Search]:
    table = lancedb.connect(store).open_table("bench")

    def ids(query: Any, k: int) -> list[int]:
        return [row["id"] for row in query.limit(k).to_list()]

    def near(text: str, vector: asked.Floats, k: int) -> list[int]:
        return ids(table.search(vector).distance_type("cosine").nprobes(20).refine_factor(10), k)

    def words(text: str, vector: asked.Floats, k: int) -> list[int]:
        return ids(table.search(text, query_type="fts"), k)

    def both(text: str, vector: asked.Floats, k: int) -> list[int]:
        return ids(table.search(query_type="hybrid").vector(vector).text(text), k)

    return {"vector": near, "text": words, "hybrid": both}


if __name__ == "__main__":
    asked.main(build, searches)

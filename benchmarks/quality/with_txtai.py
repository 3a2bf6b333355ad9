"""txtai: Embeddings with hybrid, which keeps BM25 beside Faiss and mixes both half and half, as unasked.

Runs in txtai's own environment, without Knowlex: see `asked`.
"""

from __future__ import annotations

import asked
from txtai import Embeddings


def open_index(model: str, documents: list[tuple[str, str]]) -> asked.Search:
    """Index documents and return what searches them."""
    index = Embeddings(path=model, hybrid=True)
    index.index((id, text, None) for id, text in documents)
    return lambda query, k: [str(id) for id, _ in index.search(query, k)]


if __name__ == "__main__":
    asked.main(open_index)

"""Chroma: a persistent collection of cosine space, at its defaults. It has no ranking by words of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import asked
import chromadb


def build(passages: Path, store: Path) -> None:
    collection = chromadb.PersistentClient(str(store)).create_collection("bench", metadata={"hnsw:space": "cosine"})
    for first, texts, vectors in asked.batches(passages):
        ids = [str(number) for number in range(first, first + len(texts))]
        collection.add(ids, embeddings=vectors, documents=texts)


def searches(store: Path) -> Mapping[str, asked.Search]:
    collection = chromadb.PersistentClient(str(store)).get_collection("bench")

    def near(text: str, vector: asked.Floats, k: int) -> list[int]:
        found = collection.query(query_embeddings=[vector], n_results=k, include=["documents", "distances"])
        return [int(id) for id in found["ids"][0]]

    return {"vector": near}


if __name__ == "__main__":
    asked.main(build, searches)

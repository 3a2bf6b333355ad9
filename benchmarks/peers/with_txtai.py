"""txtai: Textractor by paragraphs, Embeddings with content, upsert by "path#number", saved to a folder.

PDFs are read by pypdf page by page, as Textractor's own backends for them are Java or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measured
from pypdf import PdfReader
from txtai import Embeddings
from txtai.pipeline import Textractor


def load(model: str) -> dict[str, Any]:
    """The configuration, with the cache in which all Embeddings find the model."""
    shared: dict[str, Any] = {"path": model, "models": {}}
    Embeddings(**shared).transform("word")
    return shared


def ingest(shared: dict[str, Any], folder: Path, store: Path, batch: int) -> None:
    index = opened(shared, store, batch)
    index.upsert(passages(folder))
    index.save(str(store))
    index.close()


def contents(shared: dict[str, Any], store: Path) -> list[str]:
    index = opened(shared, store)
    ids = [row["id"] for row in index.search("select id from txtai", limit=index.count())]
    index.close()
    return [each.rpartition("#")[0] for each in ids]


def opened(shared: dict[str, Any], store: Path, batch: int = 32) -> Embeddings:
    index = Embeddings(**shared, content=True, encodebatch=batch)
    if index.exists(str(store)):
        index.load(str(store))
    return index


def passages(folder: Path) -> Iterator[tuple[str, str, None]]:
    """Yield (id, text, no tags) of every paragraph below a folder."""
    textractor = Textractor(paragraphs=True, backend=None)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        for number, text in enumerate(segments(textractor, path)):
            yield f"{path}#{number}", text, None


def segments(textractor: Textractor, path: Path) -> list[str]:
    if path.suffix == ".pdf":
        pages = [page.extract_text() for page in PdfReader(path).pages]
        return [text for page in pages for text in textractor.parse(page)]
    return textractor(str(path))


if __name__ == "__main__":
    measured.main(load, ingest, contents)

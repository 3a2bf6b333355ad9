"""Print nDCG@10 of the text leg on collections in BEIR's layout, beside Lucene-style BM25.

    python benchmarks/text_leg.py FOLDER [NAME…]

FOLDER holds a folder a collection (corpus.jsonl.gz, queries.jsonl, qrels.tsv). One document is one
row; nothing is chunked, so that the figure is that of the index and the query builder alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from pipeline import collection
from pipeline.collection import Document
from pipeline.evaluate import ndcg
from storage import text_index
from storage.connection import Connection
from storage.database import Database
from storage.passage_tokens import tokens_of
from storage.sources import Source

# bm25s 0.3 (k1 1.2, b 0.75; English stems and stop words; character pairs with k1 1.5).
REFERENCE = {
    "adi": 0.483,
    "cisi": 0.396,
    "cranfield": 0.370,
    "drcd-dev-zh": 0.970,
    "jsquad-valid-ja": 0.937,
    "scifact-train": 0.696,
    "xquad-en": 0.965,
    "xquad-th": 0.943,
}


def fill(db: Connection, found: list[Document]) -> None:
    """Index documents; the row number is the place in the list, from 1."""
    rows = ((pk, tokens_of(each.text, each.title)) for pk, each in enumerate(found, 1))
    text_index.put(db, Source.FILE, 1, rows)


def measure(folder: Path) -> tuple[float, int, float, float]:
    """Return (nDCG@10, judged questions, seconds to index, milliseconds a question)."""
    judged = collection.read(folder)
    found = judged.documents
    with tempfile.TemporaryDirectory() as place, Database.open(Path(place) / "text.db") as database:
        start = time.perf_counter()
        with database.write() as db:
            fill(db, found)
        filled = time.perf_counter()
        scores: list[float] = []
        with database.read() as db:
            for query in judged.queries:
                hits = text_index.search(db, Source.FILE, query.text, project_pk=None, limit=10)
                scores.append(ndcg([found[pk - 1].id for pk, _ in hits], query.grades))
        done = time.perf_counter()
    return sum(scores) / len(scores), len(scores), filled - start, (done - filled) / len(scores) * 1000


def main(folder: Path, names: list[str]) -> None:
    """Print a line a collection."""
    print(f"{'collection':18} {'nDCG@10':>8} {'BM25':>6} {'queries':>8} {'index s':>8} {'ms/query':>9}")
    for name in names or sorted(p.name for p in folder.iterdir() if p.is_dir()):
        score, asked, seconds, milliseconds = measure(folder / name)
        reference = f"{REFERENCE[name]:6.3f}" if name in REFERENCE else "     -"
        print(f"{name:18} {score:8.4f} {reference} {asked:8} {seconds:8.1f} {milliseconds:9.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

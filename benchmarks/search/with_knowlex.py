"""Knowlex, as `serve` and a notebook search: with mirrors in memory.

`marked`: with what was asked for marked in a part of each passage, as all doors but that of agents show it; the others
give passages alone. `alone`: without mirrors, as the command line searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import asked

from benchmarks.filters import fill
from pipeline.answer import Mode
from pipeline.options import SearchOptions
from pipeline.retrieve import Retriever
from storage import projects
from storage.database import Database
from storage.maintain import maintain
from storage.text_mirror import TextMirror
from storage.vector_mirror import VectorMirror


def build(passages: Path, store: Path) -> None:
    with Database.open(store / "bench.db") as database:
        fill(database, ((texts, vectors) for _, texts, vectors in asked.batches(passages)))
        maintain(database)  # as `serve` and `work` do when nothing is asked; LanceDB's table is optimised, too


def searches(store: Path) -> Mapping[str, asked.Search]:
    database = Database.open(store / "bench.db")
    with database.read() as db:
        project = projects.find(db, "bench").pk

    def search(mode: Mode, *, mirrored: bool = True, marked: bool = False) -> asked.Search:
        # Mirrors of its own for each mode, as one must not find in memory what another has read.
        mirrors = (VectorMirror(), TextMirror()) if mirrored else (None, None)

        def ask(text: str, vector: asked.Floats, k: int) -> list[int]:
            by = Retriever(database, project, lambda _: vector, None, *mirrors)
            answer = by.retrieve(text, SearchOptions(k=k, mode=mode))
            for hit in answer.hits if marked else ():
                _ = hit.snippet  # made when it is read
            return [int(hit.id.removeprefix("chunk ")) - 1 for hit in answer.hits]

        return ask

    modes: tuple[Mode, ...] = ("hybrid", "vector", "text")
    kept = {mode: search(mode) for mode in modes} | {"hybrid marked": search("hybrid", marked=True)}
    return kept | {f"{mode} alone": search(mode, mirrored=False) for mode in modes}


if __name__ == "__main__":
    asked.main(build, searches)

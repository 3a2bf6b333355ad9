"""Knowlex, as `serve` and a notebook search: with mirrors in memory. `alone`: without, as the command line does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import asked

from benchmarks.filters import fill
from pipeline.answer import Mode
from pipeline.retrieve import retrieve
from storage import projects
from storage.database import Database
from storage.text_mirror import TextMirror
from storage.vector_mirror import VectorMirror


def build(passages: Path, store: Path) -> None:
    with Database.open(store / "bench.db") as database:
        fill(database, ((texts, vectors) for _, texts, vectors in asked.batches(passages)))


def searches(store: Path) -> Mapping[str, asked.Search]:
    database = Database.open(store / "bench.db")
    with database.read() as db:
        project = projects.find(db, "bench").pk
    mirrors = {"mirror": VectorMirror(), "text_mirror": TextMirror()}

    def search(mode: Mode, **kept: object) -> asked.Search:
        def ask(text: str, vector: asked.Floats, k: int) -> list[int]:
            answer = retrieve(
                database,
                text,
                project_pk=project,
                k=k,
                mode=mode,
                embed_query=lambda _: vector,
                **kept,  # type: ignore[arg-type]
            )
            return [int(hit.id.removeprefix("chunk ")) - 1 for hit in answer.hits]

        return ask

    modes: tuple[Mode, ...] = ("hybrid", "vector", "text")
    return {mode: search(mode, **mirrors) for mode in modes} | {f"{mode} alone": search(mode) for mode in modes}


if __name__ == "__main__":
    asked.main(build, searches)

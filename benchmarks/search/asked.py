"""What the programs that search have in common: python with_NAME.py build|ask PASSAGES STORE

PASSAGES is a folder as `passages` describes it. `build` stores them in STORE and prints the seconds it took as its last
line; `ask` opens STORE in a process of its own, asks a few questions to warm up and then all of them one after the
other, and prints JSON: by mode, ids (the best 10 of each question, best first, the numbers of the passages), wide (the
best 100), ms (of each search for 10) and cpu_ms (of the whole process, a search).

Needs numpy alone: it runs in the environment of each toolkit.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Search = Callable[[str, Floats, int], list[int]]
"""Question, its vector and how many, to the numbers of the best passages."""

BATCH = 5_000
WARM = 20


def batches(place: Path) -> Iterator[tuple[int, list[str], Floats]]:
    """Yield the passages in order: the number of the first, texts and vectors."""
    vectors: Floats = np.load(place / "vectors.npy", mmap_mode="r")
    with (place / "texts.jsonl").open(encoding="utf8") as file:
        for first in range(0, len(vectors), BATCH):
            texts = [json.loads(next(file)) for _ in range(min(BATCH, len(vectors) - first))]
            yield first, texts, np.array(vectors[first : first + BATCH])


def main(build: Callable[[Path, Path], None], searches: Callable[[Path], Mapping[str, Search]]) -> None:
    """Run the command line of a program.

    build: passages and store; everything is on disk when it returns. searches: store to what searches it, by mode.
    """
    act, passages, store = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if act == "build":
        started = time.perf_counter()
        build(passages, store)
        print(json.dumps(time.perf_counter() - started))
    else:
        questions = json.loads((passages / "questions.json").read_text())
        vectors = np.array(questions["vectors"], np.float32)
        asked = list(zip(questions["texts"], vectors, strict=True))
        print(json.dumps({mode: measured(search, asked) for mode, search in searches(store).items()}))


def measured(search: Search, asked: list[tuple[str, Floats]]) -> dict[str, Any]:
    """Ask every question, and tell what came and how long it took."""
    for text, vector in asked[:WARM]:
        search(text, vector, 10)
    ids: list[list[int]] = []
    ms: list[float] = []
    cpu = time.process_time()
    for text, vector in asked:
        started = time.perf_counter()
        ids.append(search(text, vector, 10))
        ms.append(1000 * (time.perf_counter() - started))
    cpu_ms = 1000 * (time.process_time() - cpu) / len(asked)
    return {"ids": ids, "wide": [search(text, vector, 100) for text, vector in asked], "ms": ms, "cpu_ms": cpu_ms}

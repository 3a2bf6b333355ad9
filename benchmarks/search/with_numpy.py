"""Exact search: every cosine, by one product of a float32 matrix in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import asked
import numpy as np


def build(passages: Path, store: Path) -> None:
    shutil.copyfile(passages / "vectors.npy", store / "vectors.npy")


def searches(store: Path) -> Mapping[str, asked.Search]:
    vectors: asked.Floats = np.load(store / "vectors.npy")

    def near(text: str, vector: asked.Floats, k: int) -> list[int]:
        scores = vectors @ vector
        best = np.argpartition(-scores, k)[:k]
        return best[np.argsort(-scores[best])].tolist()

    return {"vector": near}


if __name__ == "__main__":
    asked.main(build, searches)

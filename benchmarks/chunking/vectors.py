"""Vectors that are made once: kept in a file by the hash of their text, so that an interrupted run goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.embed import Embedder
from storage.vectors import input_hash

BATCH = 1_024


class Vectors:
    """Vectors by text, in a file of records that is only appended to; what a killed run left of one is cut off."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        identity = embedder.identity
        self._embedder = embedder
        self._record = np.dtype([("hash", "u1", 32), ("vector", "<f2", identity.dim)])
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{identity.hash[:16]}-{identity.precision}.vectors"
        self._rows: dict[bytes, npt.NDArray[np.float16]] = {}
        self._read()

    def _read(self) -> None:
        if not self._path.exists():
            return
        whole = self._path.stat().st_size // self._record.itemsize
        with self._path.open("r+b") as file:
            file.truncate(whole * self._record.itemsize)
        for record in np.fromfile(self._path, self._record):
            self._rows[record["hash"].tobytes()] = record["vector"]

    def make(self, texts: Iterable[str]) -> int:
        """Embed the texts that have no vector yet; return how many these were."""
        new = {input_hash(text): text for text in texts}
        for digest in new.keys() & self._rows.keys():
            del new[digest]
        hashes, inputs = list(new), list(new.values())
        starts = range(0, len(inputs), BATCH)
        for start in tqdm(starts, "embedding", file=sys.stderr, unit=f" x{BATCH}", disable=not inputs):
            made = self._embedder.embed_documents(inputs[start : start + BATCH])
            self._append(hashes[start : start + BATCH], made.astype(np.float16))
        return len(inputs)

    def _append(self, hashes: Sequence[bytes], made: npt.NDArray[np.float16]) -> None:
        records = np.zeros(len(hashes), self._record)
        records["hash"] = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
        records["vector"] = made
        with self._path.open("ab") as file:
            records.tofile(file)
        self._rows |= dict(zip(hashes, made, strict=True))

    def of(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of texts: float32, shape (n, dim), as near to unit length as float16 is."""
        rows = [self._rows[input_hash(text)] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), self._embedder.identity.dim)

    def of_question(self, words: str) -> npt.NDArray[np.float32]:
        """Return the vector of a question, float32 (dim,)."""
        key = input_hash(f"question\0{words}")
        if key not in self._rows:
            self._append([key], self._embedder.embed_query(words).astype(np.float16).reshape(1, -1))
        return self._rows[key].astype(np.float32)

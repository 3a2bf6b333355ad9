"""Add passages to the database of `with_knowlex` until told to end: python -m benchmarks.search.writer DATABASE"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.filters import A_FILE, add, random_vectors, texts_of
from storage import projects, vectors
from storage.database import Database

A_COMMIT = A_FILE
EVERY_S = 0.5


def main(path: Path) -> None:
    """Store a file's worth of passages twice a second."""
    rng = np.random.default_rng(9)
    with Database.open(path) as database:
        with database.read() as db:
            project, model = projects.find(db, "bench").pk, vectors.live_model(db)
            done: int = db.value("SELECT max(pk) FROM file_chunks")
        assert model is not None
        while True:
            with database.write() as db:
                add(db, project, model.pk, done, texts_of(rng, A_COMMIT), random_vectors(rng, A_COMMIT))
            done += A_COMMIT
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

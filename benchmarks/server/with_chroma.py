"""Store passages in a collection of Chroma, for `chroma run`: python with_chroma.py PASSAGES STORE; prints its id."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))

import chromadb
from with_chroma import build


def main(passages: Path, store: Path) -> None:
    """Store them as the comparison of searches does."""
    build(passages, store)
    print(chromadb.PersistentClient(str(store)).get_collection("bench").id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

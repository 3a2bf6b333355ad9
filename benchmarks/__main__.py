"""`make bench`: every benchmark that needs no data but the sample documents, one after the other."""

from __future__ import annotations

from pathlib import Path

from benchmarks import embedding, ingestion, lists


def main() -> None:
    """Run them all."""
    lists.main()
    embedding.main()
    ingestion.compare(Path(__file__).parent.parent / "tests" / "data" / "demo", sample=50, workers=2)


if __name__ == "__main__":
    main()

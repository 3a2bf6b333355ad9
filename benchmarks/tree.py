"""Hold the ingestion of a large folder to its bars: `python -m benchmarks.tree FOLDER [--files N] [--precision P]`.

Ingests 1,000 of the files, then all of them (or N) into a new database, then these again with nothing changed, and
embeds the same model inputs with the model alone, each in processes of their own. Memory is that of all processes
together, what they share counted for each. The largest files are among the 1,000, too: how much memory a run takes
may follow from the largest file, and must not follow from how many there are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import ingestion, samples

FEW = 1000
LARGEST = 50
CPU_RATIO = 1.15
AGAIN_S = 3.0
PEAK_MB = 1024
# What a run of the same files varies by.
FLAT = 1.1


def measure(folder: Path, place: Path, files: list[Path], precision: str, workers: int) -> None:
    """Measure and print; `files` are copied below `place`, 1,000 of them by themselves too."""
    few = samples.lay(_few(files), folder, place / "few")
    many = samples.lay(files, folder, place / "many")
    first = ingestion.ingest(place / "few.db", few, precision, "--workers", str(workers)).cost
    print(f"{min(FEW, len(files)):,} files: {first.wall_s:.1f} s, peak {first.peak_mb:.0f} MB", flush=True)
    whole = ingestion.measure_precision(place, many, precision, workers)
    print()
    tell("CPU-seconds over the model's alone (text formats)", whole.cpu_ratio, CPU_RATIO)
    tell("seconds of an unchanged run, with start", whole.again.cost.wall_s, AGAIN_S)
    tell("peak memory in MB", whole.first.cost.peak_mb, PEAK_MB)
    tell(f"peak memory over that of {FEW:,} files", whole.first.cost.peak_mb / first.peak_mb, FLAT)


def _few(files: list[Path]) -> list[Path]:
    """Return 1,000 of the files: the largest, and the first of the others."""
    large = sorted(files, key=lambda path: path.stat().st_size)[-LARGEST:]
    return [*large, *(path for path in files if path not in set(large))][:FEW]


def tell(what: str, value: float, bar: float) -> None:
    print(f"{what:52} {value:8.2f}   bar {bar:g}: {'met' if value <= bar else 'missed'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, help="at most so many, chosen at random but always the same")
    parser.add_argument("--text", action="store_true", help="only " + ", ".join(samples.TEXT))
    parser.add_argument("--precision", choices=ingestion.PRECISIONS, default=ingestion.precisions()[0])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    files = samples.found(given.folder, samples.TEXT if given.text else ())[: given.files]
    with tempfile.TemporaryDirectory(prefix="knowlex-tree-") as scratch:
        measure(given.folder, Path(scratch), files, given.precision, given.workers)


if __name__ == "__main__":
    main()

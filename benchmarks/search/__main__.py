"""Search the same passages with Knowlex and with others: how long it takes, what is found, what it needs.

    python -m benchmarks.search COLLECTION… [--files FOLDER]… [--sizes N…] [--toolkit NAME]… [--writer]

COLLECTION is a judged collection in BEIR's layout: its documents are passages, and its questions of 5 to 12 words are
asked. FOLDER holds more to read passages from. Where a size needs more passages than there are, copies with changes are
made of them (see `passages`). Everybody is given the same vectors, so that no model runs. Each stores them and searches
them in processes of its own, one after the other, with its own defaults (see `with_*`):

    knowlex      with its mirrors in memory, as `serve` and a notebook have them; "alone" without, as the command line
    numpy        every cosine, by one matrix product
    chroma, lancedb, txtai    with --toolkit; each in an environment of its own, made at the first run and kept

ms: of a search for 10, one after the other; CPU of all threads. recall: of the 10 and the 100 nearest by exact cosines.
Memory: the most that the searching process had. --writer: another process stores passages meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from benchmarks.peers.__main__ import QUIET
from benchmarks.peers.environments import python_of
from benchmarks.processes import run, stored_bytes
from benchmarks.search import passages
from pipeline import collection, embed

OWN = ("knowlex", "numpy")
TOOLKITS = ("chroma", "lancedb", "txtai")
HERE = Path(__file__).parent


def measure(name: str, python: str, place: Path, *, writer: bool) -> tuple[float, float, float, dict[str, Any]]:
    """Return seconds to build, MB stored, MB to search, and what `asked` tells of each mode."""
    store = place / name
    store.mkdir()
    program = [python, *(() if name in OWN else ("-E",)), str(HERE / f"with_{name}.py")]
    # What it imports of its neighbours it finds by its place; Knowlex's own also find the repository.
    paths = {"PYTHONPATH": str(HERE.parent.parent)} if name in OWN else {}
    built = run(*program, "build", str(place), str(store), **QUIET, **paths)
    size = stored_bytes(store) / 2**20
    with _writing(store) if writer and name == "knowlex" else contextlib.nullcontext():
        told = run(*program, "ask", str(place), str(store), **QUIET, **paths)
    return json.loads(_last(built.output)), size, told.peak_mb, json.loads(_last(told.output))


def _last(output: str) -> str:
    return output.strip().splitlines()[-1]


@contextlib.contextmanager
def _writing(store: Path) -> Iterator[None]:
    """Store passages from another process until the block ends."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.search.writer", str(store / "bench.db")]) as process:
        try:
            yield
        finally:
            process.terminate()


def report(name: str, mode: str, told: dict[str, Any], exact: dict[str, Any], rest: str) -> str:
    """Return a line of the table."""
    p50, p95 = np.percentile(told["ms"], [50, 95])
    found = " ".join(
        f"{_recall(told[depth], exact[depth]) if 'vector' in mode else float('nan'):7.3f}" for depth in ("ids", "wide")
    )
    return f"{name:9} {mode:13} {p50:8.2f} {p95:8.2f} {told['cpu_ms']:8.2f} {found}  {rest}"


def _recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    return float(np.mean([len({*one} & {*best}) / len(best) for one, best in zip(found, wanted, strict=True)]))


def main() -> None:
    """Measure and print a line for each system and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, nargs="+", metavar="COLLECTION")
    parser.add_argument("--files", type=Path, action="append", default=[])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--toolkit", action="append", choices=TOOLKITS, default=[])
    parser.add_argument("--writer", action="store_true")
    parser.add_argument("--environments", type=Path, default=platformdirs.user_cache_path("knowlex") / "peers")
    given = parser.parse_args()
    pythons = dict.fromkeys(OWN, sys.executable)
    pythons |= {name: str(python_of(name, given.environments)) for name in given.toolkit}
    judged = [collection.read(folder) for folder in given.collections]
    with tempfile.TemporaryDirectory(prefix="knowlex-search-") as scratch:
        texts, vectors = passages.real(judged, given.files, Path(scratch))
        print(f"{len(texts):,} real passages")
        for size in given.sizes:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                place = Path(folder)
                passages.write(texts, vectors, size, place)
                passages.questions(judged, embed.load(embed.EmbedSettings()), given.questions, place)
                compare(size, pythons, place, writer=given.writer)


def compare(size: int, pythons: dict[str, str], place: Path, *, writer: bool) -> None:
    """Print the lines of one size."""
    print(f"\n{size:,} passages        p50 ms   p95 ms   CPU ms    at 10  at 100", flush=True)
    measured = {"numpy": measure("numpy", pythons["numpy"], place, writer=False)}
    exact = measured["numpy"][3]["vector"]
    for name, python in pythons.items():
        build_s, stored_mb, memory_mb, modes = measured.get(name) or measure(name, python, place, writer=writer)
        rest = f"built in {build_s:.0f} s, {stored_mb:,.0f} MB stored, {memory_mb:,.0f} MB to search"
        for mode, told in modes.items():
            print(report(name, mode, told, exact, rest), flush=True)
            rest = ""


if __name__ == "__main__":
    main()

"""Ingest the same files with the same model with Knowlex and with LlamaIndex, LangChain and txtai.

    python -m benchmarks.peers FOLDER [--size BYTES] [--pdf] [--repeats N] [--environments DIR] [--json FILE]

A sample of the folder's text files (of its PDFs with --pdf, which have no bars) is ingested by each into a new store,
and then once more with nothing changed, N times in changing order; figures are medians. Each toolkit runs as its own
documentation says (see with_*.py) in an environment of its own (up to 1.7 GB, made at the first run and kept), with
all cores, at the batch size that was fastest on a quarter of the sample, its default among them.

As chunkers differ, speed is in tokens that the model was given, padding left out and everything else counted:
overlaps, repeats, what a toolkit puts before a chunk. The others' are counted at the model; Knowlex's are those of its
distinct inputs, the fewest it can have embedded. The others' clocks start when libraries and model are loaded,
Knowlex's with its process. The second run is told by these clocks and, as a user waits for it, from start to end;
memory is of whole processes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import platformdirs

from benchmarks import ingestion, samples
from benchmarks.peers.environments import HERE, python_of
from benchmarks.processes import Cost, run, stored_bytes
from pipeline.embed import usable_cores

BATCHES = {"llamaindex": (10, 32, 128), "langchain": (100, 1000), "txtai": (32, 8, 128)}
"""Sizes to try, the default first."""

BARS = {"bf16": 4.0, "fp32": 2.0}
QUIET = {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "LANGSMITH_TRACING": "false", "TQDM_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class Run:
    """One ingestion of the sample into a new store, and one more of the same into the same store.

    wall_s, cpu_s, again_s: by the clocks that the module tells of; again_whole_s, peak_mb: of whole processes.
    inputs: texts that the model was given.
    """

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    again_s: float
    again_whole_s: float
    files: int
    chunks: int
    inputs: int
    tokens: int
    tokens_again: int
    stored_bytes: int

    @property
    def speed(self) -> float:
        """Model tokens per second."""
        return self.tokens / self.wall_s


Contestant = Callable[[Path, Path], Run]
"""Ingests a folder twice into an empty folder."""


def knowlex(precision: str) -> Contestant:
    def ingest(folder: Path, store: Path) -> Run:
        database = store / "knowlex.db"
        first, again = (ingestion.ingest(database, folder, precision) for _ in range(2))
        texts = ingestion.inputs_of(database)
        return Run(
            name=f"Knowlex {precision}",
            wall_s=first.cost.wall_s,
            cpu_s=first.cost.cpu_s,
            peak_mb=first.cost.peak_mb,
            again_s=again.cost.wall_s,
            again_whole_s=again.cost.wall_s,
            files=first.report["ingested"] + first.report["duplicates"],
            chunks=first.report["chunks"],
            inputs=len(texts),
            tokens=ingestion.tokens_of(texts),
            tokens_again=ingestion.tokens_of(texts) if again.report["chunks"] else 0,
            stored_bytes=stored_bytes(database),
        )

    return ingest


def toolkit(name: str, environments: Path, batch: int) -> Contestant:
    def ingest(folder: Path, store: Path) -> Run:
        (first, cost), (again, cost_again) = (run_toolkit(name, environments, folder, store, [batch]) for _ in range(2))
        return Run(
            name=f"{name} {batch}",
            wall_s=first[0]["wall_s"],
            cpu_s=first[0]["cpu_s"],
            peak_mb=cost.peak_mb,
            again_s=again[0]["wall_s"],
            again_whole_s=cost_again.wall_s,
            files=first[0]["files"],
            chunks=first[0]["chunks"],
            inputs=first[0]["inputs"],
            tokens=first[0]["tokens"],
            tokens_again=again[0]["tokens"],
            stored_bytes=stored_bytes(store),
        )

    return ingest


def run_toolkit(
    name: str, environments: Path, folder: Path, store: Path, batches: Sequence[int]
) -> tuple[list[dict[str, Any]], Cost]:
    """Run a toolkit's program in its environment; return what it told (see measured.py) and what it took."""
    told = (str(ingestion.model_folder()), str(folder), str(store), *map(str, batches))
    # -E: nothing of this environment is to be imported there.
    cost = run(str(python_of(name, environments)), "-E", str(HERE / f"with_{name}.py"), *told, **QUIET)
    return json.loads(cost.output.splitlines()[-1]), cost


def fastest_batch(name: str, environments: Path, folder: Path, store: Path) -> int:
    """Ingest a folder at each batch size and return the fastest; the default where none gains 3 %, which is noise."""
    tried, _ = run_toolkit(name, environments, folder, store, BATCHES[name])
    speeds = {each["batch"]: each["tokens"] / each["wall_s"] for each in tried}
    print(
        f"{name}, tokens/s by batch size:",
        ", ".join(f"{size}: {speed:.0f}" for size, speed in speeds.items()),
        flush=True,
    )
    speeds[BATCHES[name][0]] *= 1.03
    return max(speeds, key=lambda size: speeds[size])


def contestants(environments: Path, quarter: Path, place: Path) -> list[Contestant]:
    """Make everybody ready: environments, compiled models, batch sizes."""
    for precision in ingestion.precisions():
        ingestion.ingest(place / f"warm-{precision}.db", quarter, precision)
    batches = {name: fastest_batch(name, environments, quarter, place / name) for name in BATCHES}
    ours = [knowlex(precision) for precision in ingestion.precisions()]
    return ours + [toolkit(name, environments, batch) for name, batch in batches.items()]


def turns(count: int, repeats: int) -> list[list[int]]:
    """Orders of `count`, each beginning with the next one, every other one backwards."""
    return [[(first + (-step if first % 2 else step)) % count for step in range(count)] for first in range(repeats)]


def compare(folder: Path, place: Path, compared: list[Contestant], repeats: int) -> list[list[Run]]:
    """Return the runs of each contestant, each into a store that is removed afterwards."""
    runs: list[list[Run]] = [[] for _ in compared]
    for order in turns(len(compared), repeats):
        for number in order:
            with tempfile.TemporaryDirectory(dir=place) as store:
                runs[number].append(compared[number](folder, Path(store)))
            print(f"  {runs[number][-1].name}: {runs[number][-1].speed:.0f} tokens/s", flush=True)
    return runs


def typical(runs: Sequence[Run]) -> Run:
    """The median of each figure."""
    middle = {field.name: median(getattr(run, field.name) for run in runs) for field in fields(Run)[1:]}
    return Run(runs[0].name, **middle)


def tell(runs: Sequence[Run], *, bars: bool) -> None:
    """Print the table, and the bars where they apply."""
    ours = {run.name: run for run in runs if run.name.startswith("Knowlex")}
    print(f"\n{'':16}{'tokens/s':>9}", *(f"{name.removeprefix('Knowlex ')} ×".rjust(7) for name in ours), end="")
    print("  seconds   CPU-s  peak MB  again s  (whole)  stored MB  files  chunks  inputs   tokens  again")
    for each in runs:
        print(f"{each.name:16}{each.speed:9.0f}", *(f"{own.speed / each.speed:7.2f}" for own in ours.values()), end="")
        print(
            f"{each.wall_s:9.1f}{each.cpu_s:8.1f}{each.peak_mb:9.0f}{each.again_s:9.2f}{each.again_whole_s:9.2f}",
            end="",
        )
        print(f"{each.stored_bytes / 1e6:11.2f}{each.files:7.0f}{each.chunks:8.0f}{each.inputs:8.0f}", end="")
        print(f"{each.tokens:9.0f}{each.tokens_again:7.0f}")
    best = max((run for run in runs if run.name not in ours), key=lambda run: run.speed)
    for name, own in ours.items():
        ratio, bar = own.speed / best.speed, BARS[name.removeprefix("Knowlex ")]
        verdict = f" (bar {bar:g}: {'met' if ratio >= bar else 'missed'})" if bars else ""
        print(f"{name}: {ratio:.2f} times {best.name}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=2_500_000, help="bytes of the sample (2,500,000)")
    parser.add_argument("--pdf", action="store_true", help="PDFs in place of text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=platformdirs.user_cache_path("knowlex") / "peers")
    parser.add_argument("--json", type=Path, help="write every single run to this file")
    given = parser.parse_args()
    if given.repeats < 1:
        parser.error(f"--repeats {given.repeats}: must be 1 or more")
    files = samples.up_to(given.size, samples.found(given.folder, samples.PDF if given.pdf else samples.TEXT))
    if not files:
        raise SystemExit(f"{given.folder}: no file with text has at most {given.size // 4} bytes; raise --size")
    with tempfile.TemporaryDirectory(prefix="knowlex-peers-") as scratch:
        place = Path(scratch)
        folder = samples.lay(files, given.folder, place / "in")
        quarter = samples.lay(samples.up_to(given.size // 4, files) or files[:1], given.folder, place / "quarter")
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files, {size / 1e6:.2f} MB, {usable_cores()} cores", flush=True)
        runs = compare(folder, place, contestants(given.environments, quarter, place), given.repeats)
    tell([typical(each) for each in runs], bars=not given.pdf)
    if given.json:
        given.json.write_text(json.dumps([asdict(run) for each in runs for run in each], indent=1), "utf-8")


if __name__ == "__main__":
    main()

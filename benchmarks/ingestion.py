"""What ingestion costs beside the model: `python -m benchmarks.ingestion FOLDER [--sample N]`.

In one run, each in a process of its own, over the same files and the same chunks:
  end to end   `knowlex ingest` into a new database
  model alone  the same model inputs through the same embedder, nothing else
  plain        SentenceTransformer.encode with its defaults, on a sample of the same inputs
CPU-seconds are user + system of the process and of all its children; ratios compare them within this run.
`benchmarks.tree` holds a large folder to the bars, `benchmarks.peers` compares with other toolkits.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Cost, run, stored_bytes

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Ingestion:
    """A run of `knowlex ingest --json`: what it took and its report."""

    cost: Cost
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Whole:
    """A folder ingested, ingested again unchanged, and its distinct model inputs embedded by the model alone."""

    first: Ingestion
    again: Ingestion
    alone: Cost
    inputs: list[str]
    stored_bytes: int

    @property
    def cpu_ratio(self) -> float:
        return self.first.cost.cpu_s / self.alone.cpu_s


def precisions() -> tuple[str, ...]:
    """The precisions that this processor has, the faster first."""
    from pipeline.openvino_graph import has_fast_bf16

    return PRECISIONS if has_fast_bf16() else PRECISIONS[1:]


def ingest(database: Path, folder: Path, precision: str, *options: str) -> Ingestion:
    """Ingest a folder at a precision, as a user would; files that fail are in the report."""
    command = (sys.executable, "-m", "knowlex", "--db", str(database), "ingest", "bench", str(folder), "--json")
    cost = run(*command, *options, fine=(0, 1), KNOWLEX_PRECISION=precision)
    return Ingestion(cost, json.loads(cost.output))


def inputs_of(database: Path) -> list[str]:
    """Return the distinct model inputs of all chunks, in the order they were stored."""
    from pipeline.chunk import embedding_input
    from storage.database import Database

    with Database.open(database, readonly=True) as db, db.read() as connection:
        rows = connection.all("SELECT heading, content FROM file_chunks ORDER BY pk")
    return list(dict.fromkeys(embedding_input(heading, content) for heading, content in rows))


def model_folder() -> Path:
    """Where the model lies, for sentence-transformers to load."""
    from pipeline import model_files

    return model_files.locate(MODEL)


def tokens_of(texts: Sequence[str]) -> int:
    """The tokens that the model is given of the texts, special tokens included, cut at its limit, without padding."""
    from pipeline import model_files

    cutter = model_files.input_tokenizer(model_files.resolve(MODEL))
    return sum(map(len, model_files.token_ids(cutter, texts)))


def embed_alone(inputs: Path, precision: str) -> None:
    """Child: embed the inputs in windows as the runner does."""
    from pipeline import embed

    texts = json.loads(inputs.read_text("utf8"))
    embedder = embed.load(embed.EmbedSettings(precision=precision))  # type: ignore[arg-type]
    for start in range(0, len(texts), 1024):
        window = sorted(texts[start : start + 1024], key=len)
        for part in range(0, len(window), 128):
            embedder.embed_documents(window[part : part + 128])


def encode_plainly(inputs: Path) -> None:
    """Child: what a user of sentence-transformers would write; print the CPU-seconds of the encoding alone."""
    from sentence_transformers import SentenceTransformer

    texts = json.loads(inputs.read_text("utf8"))
    model = SentenceTransformer(str(model_folder()), device="cpu")
    model.encode(texts[:32])
    started = time.process_time()
    model.encode(texts)
    print(time.process_time() - started)


def compare(folder: Path, sample: int, workers: int) -> None:
    """Measure everything and print it."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for precision in precisions():
            texts = measure_precision(place, folder, precision, workers).inputs
        chosen = random.Random(0).sample(texts, min(sample, len(texts)))
        (place / "sample.json").write_text(json.dumps(chosen), "utf8")
        command = (sys.executable, "-m", "benchmarks.ingestion", "--child", "plain", str(place / "sample.json"))
        plain = float(run(*command).output)
        print(f"plain encode: {len(chosen) / plain:.1f} chunks per CPU-second, on {len(chosen)} of them")


def measure_precision(place: Path, folder: Path, precision: str, workers: int) -> Whole:
    """Measure end to end, an unchanged run and the model alone at one precision, and print it."""
    database, inputs = place / f"{precision}.db", place / "inputs.json"
    first = ingest(database, folder, precision, "--workers", str(workers))
    again = ingest(database, folder, precision)
    texts = inputs_of(database)
    inputs.write_text(json.dumps(texts), "utf8")
    alone = run(sys.executable, "-m", "benchmarks.ingestion", "--child", "alone", str(inputs), precision)
    whole = Whole(first, again, alone, texts, stored_bytes(database))
    tell_whole(precision, whole)
    return whole


def tell_whole(precision: str, whole: Whole) -> None:
    cost, chunks = whole.first.cost, whole.first.report["chunks"]
    print(f"{precision}: {whole.first.report['ingested']} files, {chunks} chunks, {len(whole.inputs)} distinct inputs")
    tell("end to end", cost, chunks)
    tell("model alone", whole.alone, len(whole.inputs))
    print(f"  ratio        {whole.cpu_ratio:.2f} CPU, {cost.wall_s / whole.alone.wall_s:.2f} wall")
    print(f"  database     {whole.stored_bytes / chunks:.0f} bytes a chunk")
    again = whole.again
    print(f"  unchanged    {again.report['seconds']:.2f} s, {again.cost.wall_s:.2f} s with start", flush=True)


def tell(what: str, cost: Cost, chunks: int) -> None:
    print(
        f"  {what:12} {cost.wall_s:.1f} s wall, {cost.cpu_s:.1f} CPU-s: {chunks / cost.wall_s:.0f} chunks/s,"
        f" {chunks / cost.cpu_s:.1f} per CPU-second, peak {cost.peak_mb:.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--sample", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--child", nargs="+")
    arguments = parser.parse_args()
    match arguments.child:
        case ["alone", inputs, precision]:
            embed_alone(Path(inputs), precision)
        case ["plain", inputs]:
            encode_plainly(Path(inputs))
        case _:
            compare(arguments.folder, arguments.sample, arguments.workers)


if __name__ == "__main__":
    main()

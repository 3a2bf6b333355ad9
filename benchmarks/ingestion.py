"""What ingestion costs beside the model: `python -m benchmarks.ingestion FOLDER [--sample N]`.

In one run, each in a process of its own, over the same files and the same chunks:
  end to end   `knowlex ingest` into a new database
  model alone  the same model inputs through the same embedder, nothing else
  plain        SentenceTransformer.encode with its defaults, on a sample of the same inputs
CPU-seconds are user + system of the process and of all its children; ratios compare them within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a child process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def run(*command: str, **environ: str) -> Cost:
    """Run a Python command line to its end and return what it took."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, env=os.environ | environ)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit {process.returncode}")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def inputs_of(database: Path) -> list[str]:
    """Return the distinct model inputs of all chunks, in the order they were stored."""
    from pipeline.chunk import embedding_input
    from storage.database import Database

    with Database.open(database, readonly=True) as db, db.read() as connection:
        rows = connection.all("SELECT heading, content FROM file_chunks ORDER BY pk")
    return list(dict.fromkeys(embedding_input(heading, content) for heading, content in rows))


def embed_alone(inputs: Path, precision: str) -> None:
    """Child: embed the inputs in windows as the runner does; print the number of model tokens."""
    from pipeline import embed, model_files

    texts = json.loads(inputs.read_text("utf8"))
    embedder = embed.load(embed.EmbedSettings(precision=precision))  # type: ignore[arg-type]
    for start in range(0, len(texts), 1024):
        window = sorted(texts[start : start + 1024], key=len)
        for part in range(0, len(window), 128):
            embedder.embed_documents(window[part : part + 128])
    tokenizer = model_files.tokenizer(model_files.resolve(MODEL))
    print(sum(len(e.ids) for e in tokenizer.encode_batch(texts[:: max(1, len(texts) // 1000)])))


def encode_plainly(inputs: Path) -> None:
    """Child: what a user of sentence-transformers would write; print the CPU-seconds of the encoding alone."""
    from sentence_transformers import SentenceTransformer

    from pipeline import model_files

    texts = json.loads(inputs.read_text("utf8"))
    model = SentenceTransformer(str(model_files.locate(MODEL)), device="cpu")
    model.encode(texts[:32])
    started = time.process_time()
    model.encode(texts)
    print(time.process_time() - started)


def compare(folder: Path, sample: int, workers: int) -> None:
    """Measure everything and print it."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for precision in ("bf16", "fp32"):
            texts = measure_precision(place, folder, precision, workers)
        chosen = random.Random(0).sample(texts, min(sample, len(texts)))
        (place / "sample.json").write_text(json.dumps(chosen), "utf8")
        plain = float(run("-m", "benchmarks.ingestion", "--child", "plain", str(place / "sample.json")).output)
        print(f"plain encode: {len(chosen) / plain:.1f} chunks per CPU-second, on {len(chosen)} of them")


def measure_precision(place: Path, folder: Path, precision: str, workers: int) -> list[str]:
    """Measure end to end, the model alone and an unchanged run at one precision; return the model inputs."""
    database = place / f"{precision}.db"
    ingest = ["-m", "knowlex", "--db", str(database), "ingest", "bench", str(folder), "--json"]
    whole = run(*ingest, "--workers", str(workers), KNOWLEX_PRECISION=precision)
    report = json.loads(whole.output)
    texts = inputs_of(database)
    (place / "inputs.json").write_text(json.dumps(texts), "utf8")
    alone = run("-m", "benchmarks.ingestion", "--child", "alone", str(place / "inputs.json"), precision)
    again = run(*ingest, KNOWLEX_PRECISION=precision)
    chunks = report["chunks"]
    print(f"{precision}: {report['ingested']} files, {chunks} chunks, {len(texts)} distinct model inputs")
    tell("end to end", whole, chunks)
    tell("model alone", alone, len(texts))
    print(f"  ratio        {whole.cpu_s / alone.cpu_s:.2f} CPU, {whole.wall_s / alone.wall_s:.2f} wall")
    print(f"  database     {database.stat().st_size / chunks:.0f} bytes a chunk")
    print(f"  unchanged    {json.loads(again.output)['seconds']:.2f} s, {again.wall_s:.2f} s with start", flush=True)
    return texts


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

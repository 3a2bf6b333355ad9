"""Print how fast each way of embedding is, beside sentence-transformers as it comes.

    python benchmarks/embedding.py [TEXTS] [ROUNDS]

The texts are passages of 40 to 250 tokens from the docstrings of Python's standard library (300 of them
by default). The ways take turns for ROUNDS rounds (2), so that whatever else the machine does falls on
all of them; the CPU-seconds, of all threads of this process, are the figure to compare.
"""

from __future__ import annotations

import ast
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.embed import DEFAULT_MODEL, EmbedSettings, load, usable_cores
from pipeline.model_files import ModelFiles, input_tokenizer, resolve, token_ids, tokenizer

PLAIN = "sentence-transformers encode"


@dataclass
class Way:
    """One way of embedding and what it took so far."""

    name: str
    embed: Callable[[list[str]], Any]
    wall_s: float = 0.0
    cpu_s: float = 0.0


def docstrings() -> Iterator[str]:
    """Yield the longer docstrings of the standard library, read but not imported."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 150:
                    yield text


def passages(files: ModelFiles, count: int) -> list[str]:
    """Cut the docstrings into passages of 40 to 250 tokens, the same ones at every run."""
    cutter, dice, found = tokenizer(files), random.Random(7), []
    for text in docstrings():
        offsets = cutter.encode(text, add_special_tokens=False).offsets
        start = 0
        while len(offsets) - start >= 40:
            end = min(start + dice.randint(40, 250), len(offsets))
            found.append(text[offsets[start][0] : offsets[end - 1][1]])
            start = end
    dice.shuffle(found)
    return found[:count]


def ways(files: ModelFiles) -> list[Way]:
    """Return the ways to compare, the slowest library call last."""
    from sentence_transformers import SentenceTransformer

    ours = [
        EmbedSettings(backend="openvino", precision="fp32"),
        EmbedSettings(backend="torch", precision="bf16"),
        EmbedSettings(backend="torch", precision="fp32"),
    ]
    if load(replace(ours[0], precision="auto")).identity.precision == "bf16":
        ours.insert(0, replace(ours[0], precision="bf16"))
    found = [Way(f"{settings.backend} {settings.precision}", load(settings).embed_documents) for settings in ours]
    plain = SentenceTransformer(str(files.folder), device="cpu", local_files_only=True)
    return [*found, Way(PLAIN, lambda texts: plain.encode(texts, show_progress_bar=False))]


def measure(way: Way, texts: list[str]) -> np.ndarray:
    """Embed the texts once and add up what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = way.embed(texts)
    way.wall_s += time.perf_counter() - wall
    way.cpu_s += time.process_time() - cpu
    return vectors


def main() -> None:
    """Measure and print the table."""
    count, rounds = (int(value) for value in (*sys.argv[1:], *("300", "2")[len(sys.argv) - 1 :]))
    files = resolve(DEFAULT_MODEL)
    texts = passages(files, count)
    tokens = sum(map(len, token_ids(input_tokenizer(files), texts)))
    compared = ways(files)
    for way in compared:
        way.embed(texts[:16])
    vectors = {way.name: measure(way, texts) for _ in range(rounds) for way in compared}
    print(f"{len(texts)} passages, {tokens / len(texts):.0f} tokens each, {rounds} rounds, {usable_cores()} cores\n")
    print(f"{'':30}{'chunks/s':>10}{'/CPU-s':>8}{'tokens/s':>10}{'/CPU-s':>8}{'CPU ratio':>11}{'min cosine':>12}")
    plain = compared[-1]
    for way in compared:
        print(
            f"{way.name:30}{rounds * len(texts) / way.wall_s:10.1f}{rounds * len(texts) / way.cpu_s:8.1f}"
            f"{rounds * tokens / way.wall_s:10.0f}{rounds * tokens / way.cpu_s:8.0f}"
            f"{plain.cpu_s / way.cpu_s:10.2f}x{(vectors[way.name] * vectors[PLAIN]).sum(axis=1).min():12.5f}"
        )


if __name__ == "__main__":
    main()

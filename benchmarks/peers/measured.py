"""What the programs that run another toolkit have in common. They run in that toolkit's environment, without Knowlex.

    python with_TOOLKIT.py MODEL FOLDER STORE BATCH…

ingests FOLDER once for each batch size, into a store of its own below STORE, or into the one that is there already,
and prints one JSON list as its last line. The clocks of a run start when libraries and model are loaded and one word is
embedded, and stop when everything is on disk.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertModel


@dataclass
class Given:
    """What the model was given: rows of its batches, and their tokens with special tokens and without padding."""

    inputs: int = 0
    tokens: int = 0


def given() -> Given:
    """Count, from now on, what every BERT of this process is given."""
    count, forward = Given(), BertModel.forward

    @functools.wraps(forward)
    def counted(self: BertModel, *args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        count.inputs += len(attention_mask)
        count.tokens += int(attention_mask.sum())
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    BertModel.forward = counted
    return count


def main(
    load: Callable[[str], Any],
    ingest: Callable[[Any, Path, Path, int], None],
    contents: Callable[[Any, Path], list[str]],
) -> None:
    """Run the command line of a module by its three functions.

    load: model folder to whatever the others need; embeds one word.
    ingest: model, folder, store and batch size; what it opens is on disk when it returns.
    contents: model and store to the file of each chunk in the store.
    """
    folder, store = Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    count = given()
    model = load(sys.argv[1])
    if not count.tokens:
        raise SystemExit("the model's tokens are not counted: it is no BertModel of transformers")
    runs: list[dict[str, Any]] = []
    for batch in map(int, sys.argv[4:]):
        place = store / str(batch)
        place.mkdir(parents=True, exist_ok=True)
        took = measure(count, lambda batch=batch, place=place: ingest(model, folder, place, batch))
        held = contents(model, place)
        runs.append({"batch": batch, "files": len(set(held)), "chunks": len(held), **took})
    print("\n" + json.dumps(runs))


def measure(count: Given, step: Callable[[], None]) -> dict[str, float]:
    """Take a step; return its seconds, its CPU-seconds of all threads, and what the model was given meanwhile."""
    count.inputs = count.tokens = 0
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, **asdict(count)}

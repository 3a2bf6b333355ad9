"""The process that turns a sentence-transformers model into an OpenVINO graph: `python -m pipeline.convert`.

A process of its own, because torch and transformers take 10 s and 1 GB that the process which serves
vectors should never see, and because what they need in the environment must not leak into the user's.
Arguments: the model's folder, an existing folder for model.xml and model.bin, and the descriptor of its
lifeline (pipeline.lifeline). Standard input: a JSON list of texts. The last line of standard output is a
JSON object: `pooling`, the prompts, the padding and `reference`, the vectors of the texts as
sentence-transformers computes them; or `failed`, one of "load", "convert", "write", and `reason`.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline.lifeline import die_with_parent

if __name__ == "__main__":  # before the imports that take seconds
    die_with_parent(int(sys.argv[3]))

import torch

from pipeline.openvino_graph import import_openvino
from pipeline.torch_embedder import describe, load_model, one_line

T = TypeVar("T")


class _Sentence(torch.nn.Module):
    """A whole SentenceTransformer (encoder, pooling, whatever follows) as one function to unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)


class _StepFailed(Exception):
    def __init__(self, step: str, error: Exception) -> None:
        super().__init__(step)
        self.answer = {"failed": step, "reason": one_line(error)}


def main() -> None:
    """Convert and answer on standard output."""
    folder, out = map(Path, sys.argv[1:3])
    warnings.simplefilter("ignore")  # tracing warns of every Python `if` on a shape; the result is verified
    try:
        answer = _convert(folder, out, json.load(sys.stdin))
    except _StepFailed as failed:
        answer = failed.answer
    print("\n" + json.dumps(answer), flush=True)


def _convert(folder: Path, out: Path, texts: list[str]) -> dict[str, Any]:
    # First, before another library imports it with its telemetry.
    openvino = _step("convert", import_openvino)
    model = _step("load", lambda: load_model(folder, device="cpu", precision="fp32"))
    _step("convert", lambda: _refuse_what_the_graph_cannot_say(model))
    graph = _step("convert", lambda: _trace(openvino, model))
    _step("write", lambda: openvino.save_model(graph, out / "model.xml", compress_to_fp16=False))
    reference = _step("convert", lambda: model.encode_document(texts, normalize_embeddings=True))
    return {
        **asdict(describe(model)),
        "pad_id": model.tokenizer.pad_token_id or 0,
        "pad_left": model.tokenizer.padding_side == "left",
        "reference": reference.tolist(),
    }


def _refuse_what_the_graph_cannot_say(model: Any) -> None:
    """The graph sees token ids alone: not which of them are a prompt, nor whether they are a question."""
    for module in model.modules():
        if getattr(module, "include_prompt", True) is False:
            raise ValueError("its pooling leaves the prompt out")
        if type(module).__name__ in ("Router", "Asym"):
            raise ValueError("it treats questions and passages by different modules")


def _trace(openvino: Any, model: Any) -> Any:
    ids = torch.arange(1, 33).reshape(2, 16)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # one row is padded, lest something that only padding needs be optimised away
    shape = [-1, -1]
    with torch.no_grad():
        return openvino.convert_model(
            _Sentence(model).eval(),
            example_input={"input_ids": ids, "attention_mask": mask},
            input=[("input_ids", shape, openvino.Type.i64), ("attention_mask", shape, openvino.Type.i64)],
        )


def _step(name: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except Exception as error:  # whatever the libraries raise, the parent is told which step it was
        raise _StepFailed(name, error) from error


if __name__ == "__main__":
    main()

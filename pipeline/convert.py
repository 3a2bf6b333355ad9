"""The process that turns a sentence-transformers model into an OpenVINO graph: `python -m pipeline.convert`.

It is a SentenceTransformer ("sentences") or a CrossEncoder ("pairs").

A process of its own, because torch and transformers take 10 s and 1 GB that the process which serves
vectors should never see, and because what they need in the environment must not leak into the user's.
Arguments: the model's folder, an existing folder for model.xml and model.bin, the descriptor of its
lifeline (pipeline.lifeline), and which of the two it is. Standard input: a JSON list of texts, or of pairs. The last
line of standard output is a JSON object: `pooling` and the prompts, or `token_types`; the padding; and `reference`, the
vectors of the texts, or scores of the pairs, as sentence-transformers computes them. Or it is `failed`, one of "load",
"convert", "write", and `reason`.
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
from pipeline.torch_reranker import load_cross_encoder

T = TypeVar("T")


class _Sentence(torch.nn.Module):
    """A whole SentenceTransformer (encoder, pooling, whatever follows) as one function to unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)


class _Pairs(torch.nn.Module):
    """A whole CrossEncoder with its activation as one function to scores."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.activate = model.activation_fn

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        return self.activate(self.model(features)["scores"].float())


class _StepFailed(Exception):
    def __init__(self, step: str, error: Exception) -> None:
        super().__init__(step)
        self.answer = {"failed": step, "reason": one_line(error)}


def main() -> None:
    """Convert and answer on standard output."""
    folder, out = map(Path, sys.argv[1:3])
    convert = _convert_pairs if sys.argv[4] == "pairs" else _convert
    warnings.simplefilter("ignore")  # tracing warns of every Python `if` on a shape; the result is verified
    try:
        answer = convert(folder, out, json.load(sys.stdin))
    except _StepFailed as failed:
        answer = failed.answer
    print("\n" + json.dumps(answer), flush=True)


def _convert(folder: Path, out: Path, texts: list[str]) -> dict[str, Any]:
    # First, before another library imports it with its telemetry.
    openvino = _step("convert", import_openvino)
    model = _step("load", lambda: load_model(folder, device="cpu", precision="fp32"))
    _step("convert", lambda: _refuse_what_the_graph_cannot_say(model))
    graph = _step("convert", lambda: _trace(openvino, _Sentence(model)))
    _step("write", lambda: openvino.save_model(graph, out / "model.xml", compress_to_fp16=False))
    reference = _step("convert", lambda: model.encode_document(texts, normalize_embeddings=True))
    return {
        **asdict(describe(model)),
        "pad_id": model.tokenizer.pad_token_id or 0,
        "pad_left": model.tokenizer.padding_side == "left",
        "reference": reference.tolist(),
    }


def _convert_pairs(folder: Path, out: Path, pairs: list[list[str]]) -> dict[str, Any]:
    openvino = _step("convert", import_openvino)
    model = _step("load", lambda: load_cross_encoder(folder, device="cpu"))
    _step("convert", lambda: _refuse_other_pairs(model))
    told = "token_type_ids" in model.tokenizer.model_input_names
    graph = _step("convert", lambda: _trace(openvino, _Pairs(model), token_types=told))
    _step("write", lambda: openvino.save_model(graph, out / "model.xml", compress_to_fp16=False))
    reference = _step("convert", lambda: model.predict([(query, text) for query, text in pairs]))
    return {
        "token_types": told,
        "pad_id": model.tokenizer.pad_token_id or 0,
        "pad_left": model.tokenizer.padding_side == "left",
        "reference": reference.reshape(-1, 1).tolist(),
    }


def _refuse_other_pairs(model: Any) -> None:
    """The graph sees the token ids of two texts alone: neither a prompt nor what a chat would put around them."""
    if len(model) != 1 or model[0].transformer_task != "sequence-classification":
        raise ValueError("it is no plain classifier of two texts")
    if model.prompts.get(model.default_prompt_name):
        raise ValueError("it puts a prompt before the texts")


def _refuse_what_the_graph_cannot_say(model: Any) -> None:
    """The graph sees token ids alone: not which of them are a prompt, nor whether they are a question."""
    for module in model.modules():
        if getattr(module, "include_prompt", True) is False:
            raise ValueError("its pooling leaves the prompt out")
        if type(module).__name__ in ("Router", "Asym"):
            raise ValueError("it treats questions and passages by different modules")


def _trace(openvino: Any, model: torch.nn.Module, *, token_types: bool = False) -> Any:
    ids = torch.arange(1, 33).reshape(2, 16)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # one row is padded, lest something that only padding needs be optimised away
    example = {"input_ids": ids, "attention_mask": mask}
    if token_types:
        example["token_type_ids"] = (torch.arange(16) >= 4).long().repeat(2, 1)
    with torch.no_grad():
        return openvino.convert_model(
            model.eval(),
            example_input=example,
            input=[(name, [-1, -1], openvino.Type.i64) for name in example],
        )


def _step(name: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except Exception as error:  # whatever the libraries raise, the parent is told which step it was
        raise _StepFailed(name, error) from error


if __name__ == "__main__":
    main()

"""A small cross-encoder, made without torch: BERT with two layers, weights by chance, the default model's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pipeline.model_files import DEFAULT_MODEL, locate

WIDTH, LAYERS, POSITIONS, WORDS = 32, 2, 64, 30_522
_CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": POSITIONS,
    "vocab_size": WORDS,
}


def small_cross_encoder(folder: Path, *, labels: int = 1) -> Path:
    """Make the model in `folder`, with as many scores a pair, and return the folder."""
    folder.mkdir(parents=True)
    original = locate(DEFAULT_MODEL)
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).symlink_to(original / name)
    tokenizer = json.loads((original / "tokenizer_config.json").read_text("utf8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": POSITIONS}))
    names = {str(label): f"LABEL_{label}" for label in range(labels)}
    (folder / "config.json").write_text(json.dumps(_CONFIG | {"id2label": names}))
    save_file(_weights(labels), folder / "model.safetensors", {"format": "pt"})
    return folder


def _weights(labels: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)

    def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        weight = (0.3 * chance.standard_normal((rows, columns))).astype(np.float32)
        return {f"{name}.weight": weight, f"{name}.bias": np.zeros(rows, np.float32)}

    def table(name: str, rows: int) -> dict[str, np.ndarray]:
        return {f"bert.embeddings.{name}.weight": linear("", rows, WIDTH)[".weight"]}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}

    made = table("word_embeddings", WORDS) | table("position_embeddings", POSITIONS) | table("token_type_embeddings", 2)
    made |= norm("bert.embeddings.LayerNorm")
    for layer in (f"bert.encoder.layer.{number}" for number in range(LAYERS)):
        for part in ("query", "key", "value"):
            made |= linear(f"{layer}.attention.self.{part}", WIDTH, WIDTH)
        made |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH) | norm(f"{layer}.attention.output.LayerNorm")
        made |= linear(f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH)
        made |= linear(f"{layer}.output.dense", WIDTH, 2 * WIDTH) | norm(f"{layer}.output.LayerNorm")
    return made | linear("bert.pooler.dense", WIDTH, WIDTH) | linear("classifier", labels, WIDTH)

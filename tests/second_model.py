"""A second real model: the default one's weights and graph, with a prompt before each text, and so with other vectors.

The graph is the default model's own, compiled before, as prompts do not change it: nothing is converted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import embed
from pipeline.compile import compiled
from pipeline.model_files import DEFAULT_MODEL, default_cache_dir, locate, resolve

PROMPTS = {"query": "a captain asks her crew at night: ", "document": "a page out of the log of a ship: "}


def cache_with_the_default_model(cache: Path) -> Path:
    """Fill a folder with the compiled default model, and return it."""
    compiled(resolve(DEFAULT_MODEL))
    name = resolve(DEFAULT_MODEL).hash[:16]
    (cache / "models").mkdir(parents=True)
    (cache / "models" / name).symlink_to(default_cache_dir() / "models" / name)
    return cache


def second_model(
    folder: Path,
    cache: Path,
    *,
    prompts: dict[str, str] | None = None,
    max_tokens: int = 256,
    longest_piece: int | None = None,
) -> Path:
    """Make the model in `folder`, and its graph in a cache that has the default model's; return the folder.

    max_tokens: the longest input it takes. longest_piece: its tokenizer knows no piece of a word of more letters.
    """
    original, chosen = locate(DEFAULT_MODEL), PROMPTS if prompts is None else prompts
    folder.mkdir(parents=True)
    for path in original.iterdir():
        (folder / path.name).symlink_to(path)
    _write(folder / "config_sentence_transformers.json", {"prompts": chosen})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    if longest_piece is not None:
        _write(folder / "tokenizer.json", without_long_pieces(original / "tokenizer.json", longest_piece))
    _compile(folder, cache, chosen)
    return folder


_load = embed.load
_Embed = Callable[[Sequence[str]], Any]


@functools.cache
def loaded_once(settings: embed.EmbedSettings) -> embed.Embedder:
    """Load a model once a test process, and have it embed a text once: most tests are of the same few documents."""
    embedder = _load(settings)
    embedder.embed_documents = _each_once(embedder.embed_documents)
    return embedder


def _each_once(made_of: _Embed) -> _Embed:
    known: dict[str, Any] = {}

    def call(texts: Sequence[str]) -> Any:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, made_of(new), strict=True))
        return np.array([known[text] for text in texts])

    return call


def without_long_pieces(tokenizer: Path, longest: int) -> Any:
    """Return a tokenizer that knows no piece of a word of more letters."""
    content = json.loads(tokenizer.read_text("utf8"))
    known = content["model"]["vocab"]
    content["model"]["vocab"] = {
        piece: number
        for piece, number in known.items()
        if len(piece.removeprefix("##")) <= longest or piece.startswith("[")
    }
    return content


def _compile(folder: Path, cache: Path, prompts: dict[str, str]) -> None:
    source = cache.resolve() / "models" / resolve(DEFAULT_MODEL).hash[:16]
    files = resolve(str(folder), cache)
    target = cache / "models" / files.hash[:16]
    target.mkdir()
    for name in ("model.xml", "model.bin"):
        (target / name).symlink_to(source / name)
    own = {"model": files.hash, "query_prompt": prompts["query"], "document_prompt": prompts["document"]}
    _write(target / "manifest.json", json.loads((source / "manifest.json").read_text()) | own)


def _write(path: Path, content: Any) -> None:
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content))

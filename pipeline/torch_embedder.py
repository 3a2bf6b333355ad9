"""The model in sentence-transformers itself: for GPUs, and for what OpenVINO cannot run.

Importing this module takes 6 to 10 s; `pipeline.embed.load` does so only when it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from pipeline.embed import PARTS, EmbedSettings, ModelIdentity, Vectors, batches, in_windows, unit_length
from pipeline.model_files import ModelFiles, input_tokenizer, known_letters, max_tokens, parts, token_ids
from pipeline.openvino_graph import Precision
from storage.errors import ConfigurationError

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Description:
    """What sentence-transformers says of a model: how it pools, and what it puts before a text."""

    pooling: str
    query_prompt: str
    document_prompt: str


class TorchEmbedder:
    """sentence-transformers with token-sorted batches, and bf16 where the hardware has it."""

    def __init__(self, settings: EmbedSettings, files: ModelFiles) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        try:
            precision = _precision(settings)
            self._model = load_model(files.folder, device=settings.device, precision=precision)
        except Exception as error:  # the libraries raise whatever they meet
            raise ConfigurationError(
                f"{files.folder}: sentence-transformers cannot load the model on {settings.device} "
                f"({one_line(error)}); fetch it again, or choose another model or device"
            ) from error
        self._tokenizer = input_tokenizer(files)
        self._batch_size = settings.batch_size
        # Full batches: a call costs torch much more than padding does.
        self._batch_tokens = settings.batch_size * max_tokens(files)
        # transformers' tokenizers change state while they encode and fail in two threads at once.
        self._lock = threading.Lock()
        own = describe(self._model)
        self.identity = ModelIdentity(
            name=settings.model,
            hash=files.hash,
            dim=self._encode(self._model.encode_document, [""], "").shape[1],
            pooling=own.pooling,
            query_prompt=own.query_prompt if settings.query_prompt is None else settings.query_prompt,
            document_prompt=own.document_prompt if settings.document_prompt is None else settings.document_prompt,
            precision=precision,
            backend="torch",
            max_tokens=max_tokens(files),
        )

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return in_windows(texts, self.identity.dim, self._embed_window)

    def _embed_window(self, texts: Sequence[str]) -> Vectors:
        prompt = self.identity.document_prompt
        counts = list(map(len, token_ids(self._tokenizer, [prompt + text for text in texts])))
        vectors = np.empty((len(counts), self.identity.dim), dtype=np.float32)
        for batch in batches(counts, self._batch_size, self._batch_tokens):
            chosen = [texts[index] for index in batch]
            vectors[batch] = self._encode(self._model.encode_document, chosen, prompt)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        return unit_length(self._encode(self._model.encode_query, [text], self.identity.query_prompt))[0]

    def parts(self, text: str) -> list[str]:
        return parts(self._tokenizer, text, self.identity.max_tokens, PARTS)

    def known_letters(self, text: str) -> float:
        return known_letters(self._tokenizer, text)

    def _encode(self, encode: Any, texts: list[str], prompt: str) -> Vectors:
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        with self._lock:
            # By way of a tensor: numpy has no bf16.
            vectors = encode(
                clean, prompt=prompt, batch_size=len(clean), convert_to_tensor=True, show_progress_bar=False
            )
        return vectors.float().cpu().numpy()


def load_model(folder: Path, *, device: str, precision: Precision) -> Any:
    """The SentenceTransformer in `folder`: no network, no pickles, no code of its own; errors are the library's."""
    model = SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    return model.to(_DTYPES[precision]).eval()


def describe(model: Any) -> Description:
    """Read a SentenceTransformer's pooling and the prompts that its encode_query and encode_document use."""
    pooling = [str(module.pooling_mode) for module in model.modules() if hasattr(module, "pooling_mode")]
    document = next((name for name in ("document", "passage", "corpus") if name in model.prompts), None)
    return Description(
        pooling="+".join(pooling) or "none",
        query_prompt=_prompt(model, "query" if "query" in model.prompts else None),
        document_prompt=_prompt(model, document),
    )


def one_line(error: Exception) -> str:
    """A foreign error's type and message, short enough for a message of ours."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _prompt(model: Any, name: str | None) -> str:
    return model.prompts.get(name or model.default_prompt_name) or ""


def _precision(settings: EmbedSettings) -> Precision:
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if _has_fast_bf16(torch.device(settings.device).type) else "fp32"


def _has_fast_bf16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False

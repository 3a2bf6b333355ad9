"""A cross-encoder in sentence-transformers itself: for GPUs, and for what OpenVINO cannot run.

Importing this module takes 6 to 10 s; `pipeline.rerank.load` does so only when it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder

from pipeline.embed import EmbedSettings
from pipeline.model_files import ModelFiles
from pipeline.rerank import clean
from pipeline.torch_embedder import one_line
from storage.errors import ConfigurationError


class TorchReranker:
    """sentence-transformers, in fp32: bf16 makes equal what the order hangs on."""

    def __init__(self, settings: EmbedSettings, files: ModelFiles) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        try:
            self._model = load_cross_encoder(files.folder, device=settings.device)
        except Exception as error:  # the libraries raise whatever they meet
            raise ConfigurationError(
                f"{files.folder}: sentence-transformers cannot load the cross-encoder on {settings.device} "
                f"({one_line(error)}); fetch it again, or set rerank_model to another"
            ) from error
        self._batch_size = settings.batch_size
        # transformers' tokenizers change state while they encode and fail in two threads at once.
        self._lock = threading.Lock()

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `pipeline.rerank.Reranker`; sentence-transformers sorts the texts by length itself."""
        pairs = [(clean(query), clean(text)) for text in texts]
        with self._lock:
            return self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False)


def load_cross_encoder(folder: Path, *, device: str) -> Any:
    """The CrossEncoder in `folder`: no network, no pickles, no code of its own; errors are the library's.

    Raises ValueError where it gives more than one score a pair.
    """
    model = CrossEncoder(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    if model.num_labels != 1:
        raise ValueError(f"it gives {model.num_labels} scores a pair, and only one can be sorted by")
    return model.float().eval()

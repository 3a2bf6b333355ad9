"""Read question and passage together: what a reranker is, and the one to use here.

A cross-encoder is far better at telling passages apart than the cosine of two vectors, and must be run once for each
passage: so it reads the first ones of a ranking only.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pipeline import openvino_graph
from pipeline.compile import Kind, NotConvertibleError, RefusedError, compiled_as
from pipeline.embed import EmbedSettings, as_configuration_error, batches, usable_cores
from pipeline.model_files import ModelFiles, input_tokenizer, max_tokens, resolve
from pipeline.openvino_graph import Graph, Padding, Precision
from storage.errors import ConfigurationError
from storage.event_log import EventLog, code_of

Scores = NDArray[np.float32]

# Padded tokens in a batch; see pipeline.embed.
_BATCH_TOKENS = 512
_CLASSIFIERS = ("ForSequenceClassification", "ForCausalLM")
_TOLERANCE = 1e-3
_QUESTION = "Which passages matter for this question?"
_SAMPLES = (
    (_QUESTION, "Passages that answer it."),
    (_QUESTION, ""),
    ("", "The ZEBRA's naïve café: 3.14 C++ foo_bar getUserById()"),
    ("東京", "東京は日本の首都です。 Москва — столица. ประเทศไทย 🙂"),
    ("a", "def add(a, b):\n    return a + b\n\n| x | y |\n|---|---|\n| 1 | 2 |"),
)

_log = EventLog("knowlex.embed")


class Reranker(Protocol):
    """A cross-encoder that is loaded. Any number of threads may use it at once."""

    def scores(self, query: str, texts: Sequence[str]) -> Scores:
        """How well each text answers a question: float32, shape (len(texts),), higher is better.

        The scores are those of the model's own activation: for most models 0 to 1, for some any number. A pair that is
        longer than the model takes is cut, as sentence-transformers does.
        """
        ...


def load(settings: EmbedSettings) -> Reranker:
    """Load a cross-encoder, compiling it first if this computer has not done so (10 s, once).

    settings: as of an embedder; prompts are of no use here, and precision is fp32 unless bf16 is asked for, which gives
    many passages the same score.
    Raises ConfigurationError when the model cannot be found, trusted or loaded, or is no cross-encoder that gives one
    score a pair. Under backend "auto" a model that OpenVINO cannot run is loaded with torch instead, with a warning.
    """
    files = resolve(settings.model, settings.cache_dir)
    _require_cross_encoder(files.folder)
    if settings.backend == "torch" or settings.device != "cpu":
        return _load_torch(settings, files)
    try:
        return OpenVinoReranker(settings, files)
    except (ImportError, NotConvertibleError) as error:
        if settings.backend == "openvino":
            raise as_configuration_error(error) from error
        _log.warning("reranking with torch, slower than openvino", error_code=code_of(error))
    return _load_torch(settings, files)


class OpenVinoReranker:
    """The compiled model. Neither torch nor sentence-transformers is imported."""

    def __init__(self, settings: EmbedSettings, files: ModelFiles) -> None:
        if not openvino_graph.is_installed():
            raise ImportError("openvino is not installed")
        find = partial(compiled_as, _PAIRS, files, settings.cache_dir)
        threads = settings.threads or usable_cores()
        precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
        self._pairs = _Pairs(
            find(), files, precision=precision, threads=threads, batch_size=settings.batch_size, restore=find
        )

    def scores(self, query: str, texts: Sequence[str]) -> Scores:
        """See `Reranker`."""
        return self._pairs.scores([(query, text) for text in texts])


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A cross-encoder ready to be served: the graph, and whether it is told which text a token is of."""

    model: Path
    padding: Padding
    token_types: bool


class _Pairs:
    """Runs a compiled cross-encoder over batches of pairs of nearly equal length, a stream a core."""

    def __init__(
        self,
        model: _Compiled,
        files: ModelFiles,
        *,
        precision: Precision,
        threads: int,
        batch_size: int,
        restore: Callable[[], object] = lambda: None,
    ) -> None:
        self._tokenizer = input_tokenizer(files)
        self._told = model.token_types
        self._batch_size = batch_size
        self._graph = Graph(
            model.model, model.padding, precision=precision, threads=threads, streams=threads, restore=restore
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rerank")

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        encoded = self._tokenizer.encode_batch([(clean(query), clean(text)) for query, text in pairs])
        scores = np.empty(len(pairs), np.float32)
        groups = batches([len(each.ids) for each in encoded], self._batch_size, _BATCH_TOKENS)
        made = self._pool.map(self._batch, ([encoded[index] for index in group] for group in groups))
        for group, part in zip(groups, made, strict=True):
            scores[group] = part
        return scores

    def _batch(self, encoded: Sequence[Any]) -> Scores:
        types = [each.type_ids for each in encoded] if self._told else None
        return self._graph.run([each.ids for each in encoded], types)[:, 0]


def clean(text: str) -> str:
    """Return a text without lone surrogates, which no tokenizer accepts."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _require_cross_encoder(folder: Path) -> None:
    """Refuse a model without a trained head: sentence-transformers would give it a random one."""
    architectures = _config(folder / "config.json").get("architectures") or ["nothing"]
    stated = _config(folder / "config_sentence_transformers.json").get("model_type")
    if stated == "CrossEncoder" or str(architectures[0]).endswith(_CLASSIFIERS):
        return
    raise ConfigurationError(
        f"{folder}: is no cross-encoder (config.json names {architectures[0]}); set rerank_model to one, such as "
        "cross-encoder/ms-marco-MiniLM-L6-v2"
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def _load_torch(settings: EmbedSettings, files: ModelFiles) -> Reranker:
    # Imported on demand: torch and transformers take 6 to 10 s.
    return importlib.import_module("pipeline.torch_reranker").TorchReranker(settings, files)


# -- How a cross-encoder is compiled; see pipeline.compile


def _samples(files: ModelFiles) -> list[tuple[str, str]]:
    return [*_SAMPLES, (_QUESTION, "longer than the model takes " * max_tokens(files))]


def _read(folder: Path, manifest: dict[str, Any], files: ModelFiles) -> _Compiled:
    padding = Padding(manifest["pad_id"], manifest["pad_left"], max_tokens(files))
    return _Compiled(folder / "model.xml", padding, manifest["token_types"])


def _judged(fresh: Path, answer: dict[str, Any], files: ModelFiles, reference: Scores) -> dict[str, Any]:
    pairs = _Pairs(_read(fresh, answer, files), files, precision="fp32", threads=1, batch_size=1)
    try:
        scores = pairs.scores(_samples(files))
    except ConfigurationError as error:
        raise RefusedError(error.message) from error
    wanted = reference[:, 0]
    difference = float((np.abs(scores - wanted) / np.maximum(1, np.abs(wanted))).max())
    if not difference <= _TOLERANCE:  # "not", so that NaN is refused too
        raise RefusedError(f"its scores differ from sentence-transformers' by {difference:.5f}")
    return {"difference": difference}


_PAIRS = Kind("pairs", "-pairs", _samples, _judged, _read)

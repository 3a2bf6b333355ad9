"""Turn texts into vectors: what an embedder is, its settings, and the one to use here."""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline import openvino_graph
from pipeline.compile import NotConvertibleError, compiled
from pipeline.model_files import (
    DEFAULT_MODEL,
    TOKEN_CHARACTERS,
    ModelFiles,
    input_tokenizer,
    known_letters,
    max_tokens,
    parts,
    resolve,
    token_ids,
)
from pipeline.openvino_graph import Graph, Precision
from storage.errors import ConfigurationError, KnowlexError, UsageError
from storage.event_log import EventLog, code_of

Vectors = NDArray[np.float32]
Backend = Literal["openvino", "torch"]

# Padded tokens in a batch: from 256 to 2,048 the throughput is the same, the memory is not.
_BATCH_TOKENS = 512
# Questions whose vectors are kept: about 2 MB where a vector has 384 numbers.
_QUESTIONS = 1024
SPECIAL_TOKENS = 2
"""Tokens that a model has put around a text, mostly."""

PARTS = 8
"""Parts of a long memory or message that are in its vector: some 1,500 words where a model takes 256 tokens."""

# Texts sorted together: enough for batches of nearly equal length, at 35 MB of tokens.
_WINDOW = 1024

_log = EventLog("knowlex.embed")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What must be equal for two vectors to be comparable, and how they were made.

    hash: over all files of the model. max_tokens: longer inputs are cut. pooling: in words.
    query_prompt, document_prompt: what was put before each text.
    """

    name: str
    hash: str
    dim: int
    pooling: str
    query_prompt: str
    document_prompt: str
    precision: Precision
    backend: Backend
    max_tokens: int


class Embedder(Protocol):
    """A model that is loaded. Any number of threads may use it at once."""

    @property
    def identity(self) -> ModelIdentity: ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of unit length in the order of the texts: float32, shape (len(texts), dim).

        A text longer than the model takes is cut, as sentence-transformers does.
        Raises KnowlexError if the model gives a vector that is zero or not finite.
        """
        ...

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question: float32, shape (dim,), unit length; errors as above."""
        ...

    def parts(self, text: str) -> list[str]:
        """A text in `PARTS` parts at most that the model takes whole; see `model_files.parts`."""
        ...

    def known_letters(self, text: str) -> float:
        """The share of a text's letters, 0 to 1, that the model has tokens for; see `model_files.known_letters`."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How to embed.

    model: the default model's name, a local folder or a name on the Hugging Face hub.
    backend: "auto" is OpenVINO on the CPU where the model can be converted, else torch.
    precision: "auto" is bf16 where the processor multiplies it in hardware, else fp32.
    device: "cpu", or a torch device such as "cuda", which implies the torch backend.
    threads: 0 for all cores this process may use.
    batch_size: at most so many texts at a time.
    cache_dir: where compiled models are kept; None for the user's cache folder.
    query_prompt, document_prompt: put before each text; None for the model's own.
    Raises ConfigurationError naming the setting that cannot be used.
    """

    model: str = DEFAULT_MODEL
    backend: Literal["auto", "openvino", "torch"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: str = "cpu"
    threads: int = 0
    batch_size: int = 32
    cache_dir: Path | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None

    def __post_init__(self) -> None:
        _check_choice("backend", self.backend, ("auto", *get_args(Backend)))
        _check_choice("precision", self.precision, ("auto", *get_args(Precision)))
        if self.threads < 0:
            raise ConfigurationError(f"threads = {self.threads}: must be 0 (all cores) or more")
        if self.batch_size < 1:
            raise ConfigurationError(f"batch_size = {self.batch_size}: must be 1 or more")
        if self.backend == "openvino" and self.device != "cpu":
            raise ConfigurationError(f"device = {self.device!r}: openvino runs on cpu here; set backend to torch")


def load(settings: EmbedSettings) -> Embedder:
    """Load a model, compiling it first if this computer has not done so (10 s, once).

    Raises ConfigurationError when the model cannot be found, trusted, loaded or compiled, or the precision
    is not to be had. Under backend "auto" a model that OpenVINO cannot run is loaded with torch instead and
    a warning is logged.
    """
    files = resolve(settings.model, settings.cache_dir)
    if settings.backend == "torch" or settings.device != "cpu":
        return _load_torch(settings, files)
    try:
        return OpenVinoEmbedder(settings, files)
    except (ImportError, NotConvertibleError) as error:
        if settings.backend == "openvino":
            raise as_configuration_error(error) from error
        _log.warning("embedding with torch, about 1.5 times slower than openvino", error_code=code_of(error))
    return _load_torch(settings, files)


class OpenVinoEmbedder:
    """The compiled model. Neither torch nor sentence-transformers is imported."""

    def __init__(self, settings: EmbedSettings, files: ModelFiles) -> None:
        if not openvino_graph.is_installed():
            raise ImportError("openvino is not installed")
        precision = _precision(settings.precision)
        find = partial(compiled, files, settings.cache_dir)
        model = find()
        threads = settings.threads or usable_cores()
        self._tokenizer = input_tokenizer(files)
        self._batch_size = settings.batch_size
        # Documents: a stream a core, each with batches of its own. One stream over all cores waits at every layer for
        # the slowest core, and ingestion always has a parser on one of them.
        graph = partial(Graph, model.model, model.padding, precision=precision, threads=threads, restore=find)
        self._documents = graph(streams=threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="embed")
        # A second graph, so that a question never waits for a batch of documents: 12 ms against 77 on two busy cores.
        # Each question on one core: on two it takes 0.4 ms less where nothing else runs, and twice the processor time;
        # where a client or another question has the other core, the two wait for each other.
        self._queries = graph(streams=threads)
        self.identity = ModelIdentity(
            name=settings.model,
            hash=files.hash,
            dim=model.dim,
            pooling=model.pooling,
            query_prompt=_first(settings.query_prompt, model.query_prompt),
            document_prompt=_first(settings.document_prompt, model.document_prompt),
            precision=precision,
            backend="openvino",
            max_tokens=max_tokens(files),
        )

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return in_windows(texts, self.identity.dim, self._embed_window)

    def _embed_window(self, texts: Sequence[str]) -> Vectors:
        ids = token_ids(self._tokenizer, [self.identity.document_prompt + text for text in texts])
        vectors = np.empty((len(ids), self.identity.dim), dtype=np.float32)
        groups = batches(list(map(len, ids)), self._batch_size, _BATCH_TOKENS)
        made = self._pool.map(self._documents.run, ([ids[index] for index in group] for group in groups))
        for group, part in zip(groups, made, strict=True):
            vectors[group] = part
        return vectors

    def embed_query(self, text: str) -> Vectors:
        ids = token_ids(self._tokenizer, [self.identity.query_prompt + text])
        return unit_length(self._queries.run(ids))[0]

    def parts(self, text: str) -> list[str]:
        return parts(self._tokenizer, text, self.identity.max_tokens, PARTS)

    def known_letters(self, text: str) -> float:
        return known_letters(self._tokenizer, text)


class RememberingEmbedder:
    """An embedder that keeps the vectors of the questions asked last.

    Who asks again, with another filter or for more, does not wait for the model. A question is kept as its hash, with a
    key of this object, so neither its length nor its text stay in memory. The vectors cannot be written to.
    """

    def __init__(self, embedder: Embedder, size: int = _QUESTIONS) -> None:
        self._embedder = embedder
        self._size = size
        self._lock = threading.Lock()
        self._key = os.urandom(16)
        self._known: OrderedDict[bytes, Vectors] = OrderedDict()  # the one asked for longest ago comes first

    @property
    def identity(self) -> ModelIdentity:
        return self._embedder.identity

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self._embedder.embed_documents(texts)

    def parts(self, text: str) -> list[str]:
        return self._embedder.parts(text)

    def known_letters(self, text: str) -> float:
        return self._embedder.known_letters(text)

    def embed_query(self, text: str) -> Vectors:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key).digest()
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        vector = self._embedder.embed_query(text).copy()  # two who ask the same at once both ask the model
        vector.setflags(write=False)
        with self._lock:
            self._known[key] = vector
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return vector


def embed_whole(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed texts of any length: of one longer than the model takes, the mean of its parts, by how long they are.

    float32, shape (len(texts), dim), unit length; errors as of `Embedder.embed_documents`. What is said in one part is
    weaker in a mean, but is not missing from it, as it is where the beginning alone is embedded: see decision 0023.
    """
    cut = [embedder.parts(text) for text in texts]
    given = list(chain(*cut))
    made = embedder.embed_documents(given)
    if len(made) != len(given):
        raise UsageError(f"{len(made)} vectors for {len(given)} texts")
    ends = np.cumsum([len(own) for own in cut], dtype=np.intp)
    vectors = made[ends - 1]
    for row, own in enumerate(cut):
        if len(own) > 1:
            lengths = np.array([[len(part) for part in own]], np.float32)
            vectors[row] = unit_length(lengths @ made[ends[row] - len(own) : ends[row]])[0]
    return vectors


def cut_at(embedder: Embedder, question: str) -> int | None:
    """Return how many tokens of a question are embedded, where it has more; None where all of it is.

    A short one is not looked at: it has no more tokens than bytes.
    """
    most = embedder.identity.max_tokens
    asked = embedder.identity.query_prompt + question
    if len(asked.encode("utf-8", "replace")) + SPECIAL_TOKENS <= most:
        return None
    return most if len(embedder.parts(asked[: most * TOKEN_CHARACTERS])) > 1 else None


def in_windows(texts: Sequence[str], dim: int, embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
    """Embed window by window and scale to unit length, so that 20,000 texts are never held as tokens at once."""
    vectors = np.empty((len(texts), dim), dtype=np.float32)
    for start in range(0, len(texts), _WINDOW):
        vectors[start : start + _WINDOW] = embed(texts[start : start + _WINDOW])
    return unit_length(vectors)


def batches(token_counts: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Group texts of nearly equal length, longest first; returns their indices.

    token_counts: of each text. max_tokens: rows times the longest row, except for a single row.
    Every batch has a power of two of rows, which keeps the number of shapes small (see openvino_graph).
    """
    order = sorted(range(len(token_counts)), key=lambda index: -token_counts[index])
    groups: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(1, token_counts[order[start]])
        fitting = max(1, min(max_rows, max_tokens // longest, len(order) - start))
        rows = 1 << (fitting.bit_length() - 1)
        groups.append(order[start : start + rows])
        start += rows
    return groups


def unit_length(vectors: Vectors) -> Vectors:
    """Scale each row to length 1. Raises KnowlexError if a row is zero or not finite."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        # The text itself stays out of the message: messages are logged.
        row = int(np.argmin(usable))
        raise KnowlexError(
            f"text {row + 1} of {len(vectors)}: the model gave a vector that is zero or not finite; "
            "leave the text out or set precision to fp32"
        )
    return vectors / lengths


def usable_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_torch(settings: EmbedSettings, files: ModelFiles) -> Embedder:
    # Imported on demand: torch and transformers take 6 to 10 s.
    return importlib.import_module("pipeline.torch_embedder").TorchEmbedder(settings, files)


def _precision(wanted: Literal["auto", "bf16", "fp32"]) -> Precision:
    if wanted == "fp32":
        return "fp32"
    if openvino_graph.has_fast_bf16():
        return "bf16"
    if wanted == "bf16":
        raise ConfigurationError("precision = 'bf16': this processor has no AVX512_BF16 or AMX; set auto or fp32")
    return "fp32"


def as_configuration_error(error: ImportError | NotConvertibleError) -> ConfigurationError:
    if isinstance(error, NotConvertibleError):
        return error
    return ConfigurationError(f"backend = 'openvino': {error}; pip install openvino, or set backend to torch")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{key} = {value!r}: must be one of {', '.join(choices)}")


def _first(chosen: str | None, otherwise: str) -> str:
    return otherwise if chosen is None else chosen

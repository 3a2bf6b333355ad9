"""Run a compiled model with OpenVINO: token ids in, unit vectors out. Neither torch nor transformers is imported.

Measured on 2 cores (AMD EPYC, AVX512_BF16), MiniLM:
- One request on all threads and one request a core give the same throughput (within 3 %), and the former answers a
  single query in 3.1 ms against 4.0, where nothing else runs (on an Intel Xeon with AMX: 2.4 against 2.8, and 4.9 ms of
  processor time against 2.9).
- Each new shape (rows, columns) costs about 20 ms of code generation and 0.6 MB that are never given back:
  180 arbitrary shapes were 110 MB. Columns are therefore rounded up to a multiple of 8 and `pipeline.embed`
  sends only powers of two as rows; the padding costs 2 %.
- Threads pinned to cores, OpenVINO's default, lose an eighth of the throughput per CPU-second as soon as
  another process shares the cores: they wait for each other spinning.
- `share_inputs=True` corrupts the heap where shapes vary (2026.4): never pass it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigurationError

Precision = Literal["bf16", "fp32"]

_COLUMNS = 8
_HINTS = {"bf16": "bf16", "fp32": "f32"}
_import_lock = threading.Lock()
_compile_lock = threading.Lock()


def import_openvino() -> Any:
    """Import openvino so that it can report nothing to anyone. Raises ImportError if it is not installed.

    At import and at each conversion it sends events to Google Analytics, unless the user opted out (which
    itself sends one and writes to the home folder). Where the package `openvino_telemetry` is missing it
    falls back to a stub of its own, so that package is made unimportable in this process. One that the host
    program imported before stays usable for the host.
    """
    with _import_lock:
        before = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]
        try:
            return importlib.import_module("openvino")
        finally:
            if before is not None:
                sys.modules["openvino_telemetry"] = before


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware (AVX512_BF16, AMX)."""
    with _compile_lock:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def _core() -> Any:
    return import_openvino().Core()


@dataclass(frozen=True, slots=True)
class Padding:
    """How the model wants short rows filled: with which token, on which side; never beyond max_tokens."""

    token_id: int
    left: bool
    max_tokens: int


class Graph:
    """A compiled model: padded token ids to a vector of unit length, or to a score of a pair of texts.

    It is compiled for this processor at first use (0.2 s). Any number of threads may call `run`; as many as
    there are `streams` run at once, each on its share of `threads`, the others wait. Many streams give the most
    vectors per second, one the lowest latency. For low latency beside a long job, use a second Graph.
    restore: makes the model's files again, where they are gone at first use: that may be days after the start, and
    caches are emptied.
    """

    def __init__(
        self,
        model: Path,
        padding: Padding,
        *,
        precision: Precision,
        threads: int,
        streams: int = 1,
        restore: Callable[[], object] = lambda: None,
    ) -> None:
        self._model = model
        self._restore = restore
        self._padding = padding
        self._precision: Precision = precision
        self._threads = threads
        self._streams = streams
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Any] | None = None

    def run(
        self, token_ids: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float32]:
        """One vector a row, float32 of shape (len(token_ids), dim); rows are padded to the longest.

        token_types: which text of a pair each token is of, for a model that is told.
        """
        inputs = _inputs(token_ids, token_types, self._padding)
        requests = self._compiled()
        request = requests.get()
        try:
            return _infer(request, inputs)
        finally:
            requests.put(request)

    def _compiled(self) -> queue.SimpleQueue[Any]:
        """The idle requests, one a stream; made by the first caller."""
        with self._lock:
            if self._requests is None:
                if not self._model.exists():
                    self._restore()
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for request in self._compile():
                    requests.put(request)
                self._requests = requests
            return self._requests

    def _compile(self) -> list[Any]:
        """Return one request a stream, each of which has run once."""
        settings = {
            # Pinned, so that vectors do not depend on what this version of OpenVINO likes best.
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": self._streams,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # Compiling two models at once has been a source of crashes in OpenVINO. And its Python binding makes
            # statics at first use: two threads that meet there wait for each other for ever, one with the interpreter's
            # lock and one with that of the static. So every request runs once here before any thread gets it.
            with _compile_lock:
                compiled = _core().compile_model(self._model, "CPU", settings)
                requests = [compiled.create_infer_request() for _ in range(self._streams)]
                told = any("token_type_ids" in port.names for port in compiled.inputs)
                for request in requests:
                    _infer(request, _inputs([[self._padding.token_id]], [[0]] if told else None, self._padding))
                return requests
        except RuntimeError as error:
            raise ConfigurationError(
                f"{self._model}: openvino cannot run the graph ({' '.join(str(error).split())[:300]}); delete "
                f"{self._model.parent}, or set backend to torch"
            ) from error


def _inputs(
    token_ids: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None, padding: Padding
) -> dict[str, NDArray[np.int64]]:
    ids, mask = pad(token_ids, padding)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if token_types is not None:
        inputs["token_type_ids"] = pad(token_types, replace(padding, token_id=0))[0]
    return inputs


def _infer(request: Any, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    request.infer(inputs)
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)


def pad(token_ids: Sequence[Sequence[int]], padding: Padding) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, both int64 of shape (n, columns)."""
    longest = max(map(len, token_ids))
    rounded = max(1, -(-longest // _COLUMNS)) * _COLUMNS
    columns = max(longest, min(rounded, padding.max_tokens))
    ids = np.full((len(token_ids), columns), padding.token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        place = slice(columns - len(tokens), None) if padding.left else slice(len(tokens))
        ids[row, place] = tokens
        mask[row, place] = 1
    return ids, mask

"""Compile a model once and keep it in the cache: `<cache>/models/<hash>/` with model.xml, model.bin, manifest.json.

The folder appears whole or not at all: it is written under another name, verified against
sentence-transformers, synced and renamed, while a file lock keeps a second process from doing the same.
The manifest holds the hash of each file, so that damage is noticed and the model compiled again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import filelock
import numpy as np
from numpy.typing import NDArray

from pipeline.lifeline import lifeline
from pipeline.model_files import (
    ModelFiles,
    default_cache_dir,
    file_hash,
    hash_files,
    input_tokenizer,
    max_tokens,
    token_ids,
)
from pipeline.openvino_graph import Graph, Padding
from storage.errors import ConfigurationError
from storage.event_log import EventLog, code_of

_FORMAT = 1
_CONVERT_TIMEOUT_S = 1800.0
_LOCK_TIMEOUT_S = 1900.0
_MIN_COSINE = 0.9999
_MANIFEST = "manifest.json"
# What may differ between tokenizers and graphs: case, accents, scripts, length, nothing at all.
_SAMPLES = (
    "",
    "a",
    "Which passages matter for this question?",
    "The ZEBRA's naïve café: 3.14 C++ foo_bar getUserById()",
    "東京は日本の首都です。 Москва — столица. ประเทศไทย 🙂",
    "def add(a, b):\n    return a + b\n\n| x | y |\n|---|---|\n| 1 | 2 |",
)

_log = EventLog("knowlex.embed")


T = TypeVar("T")


class NotConvertibleError(ConfigurationError):
    """The model cannot be expressed as an OpenVINO graph, or the graph disagrees with the model."""

    code = "not_convertible"


class RefusedError(Exception):
    """The model was understood and no faithful graph can be made of it; trying again will not help."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model ready to be served.

    model: the graph, from (input_ids, attention_mask) to vectors of unit length and `dim` numbers.
    pooling: how token vectors become one, in sentence-transformers' words.
    """

    model: Path
    padding: Padding
    dim: int
    pooling: str
    query_prompt: str
    document_prompt: str


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What models are compiled as.

    name: said to the converter. suffix: of the folder's name. samples: what the converter gives the model, for its
    `reference`. judged: of a folder with a graph, the manifest without the reference, and the reference, what else the
    manifest should hold; raises RefusedError where the graph does not do what the model does. read: the compiled form,
    of a folder and its manifest.
    """

    name: str
    suffix: str
    samples: Callable[[ModelFiles], Sequence[Any]]
    judged: Callable[[Path, dict[str, Any], ModelFiles, NDArray[np.float32]], dict[str, Any]]
    read: Callable[[Path, dict[str, Any], ModelFiles], T]


def compiled(files: ModelFiles, cache_dir: Path | None = None) -> Compiled:
    """The compiled form of an embedding model; see `compiled_as`."""
    return compiled_as(_SENTENCES, files, cache_dir)


def compiled_as(kind: Kind[T], files: ModelFiles, cache_dir: Path | None = None) -> T:
    """The compiled form of a model, from the cache or, the first time, compiled now (10 s, 1 GB, 2 cores).

    Raises NotConvertibleError when only torch can run the model, ConfigurationError when
    sentence-transformers cannot load it or the cache cannot be written. Nothing half-written is left.
    """
    cache = cache_dir or default_cache_dir()
    folder = cache / "models" / f"{files.hash[:16]}{kind.suffix}"
    try:
        return _read(kind, folder, files, cache) or _compile_locked(kind, files, folder, cache)
    except filelock.Timeout as error:
        raise ConfigurationError(
            f"{folder}.lock: another process has been compiling the model for half an hour; end it and try again"
        ) from error
    except OSError as error:
        raise _cache_error(folder, error.strerror or str(error), files) from error


# -- Reading the cache


def _read(kind: Kind[T], folder: Path, files: ModelFiles, cache: Path) -> T | None:
    """What the folder holds, or None when it must be (re)compiled."""
    manifest = _manifest(folder)
    if manifest is None or manifest.get("format") != _FORMAT or manifest.get("model") != files.hash:
        return None
    if "refused" in manifest:
        if manifest.get("versions") != _versions():
            return None
        raise NotConvertibleError(f"{files.folder}: no OpenVINO graph ({manifest['refused']}); it runs with torch")
    try:
        found = {name: value for name, value in hash_files(folder, cache).items() if name != _MANIFEST}
    except FileNotFoundError:  # another process is putting a whole one in its place, and has the lock
        return None
    if found != manifest.get("files"):
        _log.warning("compiled model is damaged, compiling it again", model=files.hash[:12])
        return None
    return kind.read(folder, manifest, files)


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / _MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("manifest of the compiled model is damaged, compiling it again", error_code=code_of(error))
        return None
    return cast(dict[str, Any], content) if isinstance(content, dict) else None


def _from_manifest(folder: Path, manifest: dict[str, Any], files: ModelFiles) -> Compiled:
    return Compiled(
        model=folder / "model.xml",
        padding=Padding(manifest["pad_id"], manifest["pad_left"], max_tokens(files)),
        dim=manifest["dim"],
        pooling=manifest["pooling"],
        query_prompt=manifest["query_prompt"],
        document_prompt=manifest["document_prompt"],
    )


# -- Compiling


def _compile_locked(kind: Kind[T], files: ModelFiles, folder: Path, cache: Path) -> T:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock", timeout=_LOCK_TIMEOUT_S):
        # Another process may have compiled it while this one waited for the lock.
        return _read(kind, folder, files, cache) or _compile(kind, files, folder, cache)


def _compile(kind: Kind[T], files: ModelFiles, folder: Path, cache: Path) -> T:
    _log.info("compiling the model once, about ten seconds", model=files.hash[:12])
    for stale in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    _check_space(folder, files)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        manifest = _build(kind, files, fresh)
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        _swap(fresh, folder, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    done = _read(kind, folder, files, cache)
    if done is None:
        raise _cache_error(folder, "the files changed while they were written", files)
    return done


def _build(kind: Kind[Any], files: ModelFiles, fresh: Path) -> dict[str, Any]:
    """Fill `fresh` and return its manifest, or leave it empty and return one that says why it is refused."""
    head: dict[str, Any] = {"format": _FORMAT, "model": files.hash, "versions": _versions()}
    try:
        body = _convert_and_verify(kind, files, fresh)
    except RefusedError as refused:
        shutil.rmtree(fresh)
        fresh.mkdir()
        return {**head, "refused": str(refused)}
    return {**head, **body, "files": {file.name: _sync_and_hash(file) for file in sorted(fresh.iterdir())}}


def _convert_and_verify(kind: Kind[Any], files: ModelFiles, fresh: Path) -> dict[str, Any]:
    answer = _convert(kind, files, fresh)
    match answer.get("failed"):
        case None:
            pass
        case "load":
            raise ConfigurationError(
                f"{files.folder}: sentence-transformers cannot load the model ({answer['reason']}); fetch it again "
                "or choose another model"
            )
        case "write":
            raise _cache_error(fresh.parent, answer["reason"], files)
        case _:
            raise RefusedError(answer["reason"])
    reference = np.array(answer.pop("reference"), dtype=np.float32)
    return {**answer, **kind.judged(fresh, answer, files, reference)}


def _judged(fresh: Path, answer: dict[str, Any], files: ModelFiles, reference: NDArray[np.float32]) -> dict[str, Any]:
    dim = reference.shape[1]
    agreement = _agreement(_from_manifest(fresh, {**answer, "dim": dim}, files), files, reference)
    if not agreement >= _MIN_COSINE:  # "not", so that NaN is refused too
        raise RefusedError(f"its vectors differ from sentence-transformers', cosine {agreement:.5f}")
    return {"dim": dim, "agreement": agreement}


def _convert(kind: Kind[Any], files: ModelFiles, out: Path) -> dict[str, Any]:
    """Run the converter and return its answer. Raises NotConvertibleError when it dies without one."""
    root = str(Path(__file__).parents[1])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    settings = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        with lifeline() as alive:
            run = subprocess.run(
                # -P: a file in the current folder must not stand in for a library.
                [sys.executable, "-P", "-m", "pipeline.convert", str(files.folder), str(out), str(alive), kind.name],
                input=json.dumps(kind.samples(files)),
                env={**os.environ, **settings, "PYTHONPATH": search},
                pass_fds=(alive,),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_CONVERT_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise NotConvertibleError(f"{files.folder}: converting took over half an hour; set backend to torch") from error
    answers = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if not answers:
        cause = run.stderr.strip().rpartition("\n")[2][:300] or "no message"
        raise NotConvertibleError(
            f"{files.folder}: the converter ended with {run.returncode} ({cause}); free memory or set backend to torch"
        )
    return cast(dict[str, Any], json.loads(answers[-1]))


def _samples(files: ModelFiles) -> list[str]:
    return [*_SAMPLES, "longer than the model takes " * max_tokens(files)]


def _agreement(candidate: Compiled, files: ModelFiles, reference: NDArray[np.float32]) -> float:
    """The lowest cosine between the graph's fp32 vectors of the samples and the reference's."""
    texts = [candidate.document_prompt + text for text in _samples(files)]
    graph = Graph(candidate.model, candidate.padding, precision="fp32", threads=1)
    try:
        vectors = graph.run(token_ids(input_tokenizer(files), texts))
    except ConfigurationError as error:
        raise RefusedError(error.message) from error
    if vectors.shape != reference.shape:
        return float("nan")
    return float((vectors * reference).sum(axis=1).min())


_SENTENCES = Kind("sentences", "", _samples, _judged, _from_manifest)


def _sync_and_hash(path: Path) -> str:
    """Hash a file that is safely on disk: after a power cut it must not be taken for whole by its size."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_hash(path)


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in ("openvino", "sentence-transformers", "torch", "transformers")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _check_space(folder: Path, files: ModelFiles) -> None:
    """Fail at once, not after ten seconds, where the graph cannot fit."""
    free = shutil.disk_usage(folder.parent).free
    if free < _weight_bytes(files):
        raise _cache_error(folder, f"only {free / 1e6:.0f} MB are free", files)


def _cache_error(folder: Path, cause: str, files: ModelFiles) -> ConfigurationError:
    return ConfigurationError(
        f"{folder}: the compiled model cannot be written ({cause}); make {_weight_bytes(files) * 1.1 / 1e6:.0f} MB "
        "free there or set the cache folder to another place"
    )


def _weight_bytes(files: ModelFiles) -> int:
    return sum(path.stat().st_size for path in files.folder.rglob("*.safetensors"))

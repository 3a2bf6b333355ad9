"""Settings: where they come from, which ones there are, and what is refused.

Precedence: values given in code or as flags, then a project's own (knowlex.project_settings), then `KNOWLEX_<KEY>` in
the environment, then the file named by `--config`, then configs/default.toml. Every key has one name, unique over all
sections.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, cast, get_type_hints

from storage.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting; configs/default.toml says what each means.

    given: the names of those given in code or as flags, which go before a project's own.
    """

    workers: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    hidden: bool
    max_file_mb: int
    max_chunks_per_file: int
    parse_timeout_s: float
    parse_memory_mb: int
    pdf_engine: str
    stuck_after_minutes: float
    ingest_roots: tuple[str, ...]
    max_tokens: int
    overlap_tokens: int
    model: str
    backend: str
    precision: str
    device: str
    threads: int
    batch_size: int
    cache_dir: str
    candidates: int
    rerank_model: str
    rerank_candidates: int
    slow_query_ms: float
    usage_counts: bool
    serve_host: str
    serve_port: int
    allowed_hosts: tuple[str, ...]
    request_threads: int
    max_request_mb: int
    max_upload_mb: int
    request_timeout_s: float
    log_format: str
    log_level: str
    given: frozenset[str] = frozenset()


_RANGES = {
    "workers": (1, 1024),
    "max_file_mb": (1, 2**20),
    "max_chunks_per_file": (1, 10**7),
    "parse_timeout_s": (0.1, 3600),
    "parse_memory_mb": (256, 2**20),
    "stuck_after_minutes": (0, 366 * 24 * 60),
    "max_tokens": (0, 10**6),
    "overlap_tokens": (0, 10**6),
    "threads": (0, 1024),
    "batch_size": (1, 10**5),
    "candidates": (1, 10**5),
    "rerank_candidates": (1, 10**4),
    "slow_query_ms": (0, 10**12),
    "serve_port": (0, 2**16 - 1),
    "request_threads": (1, 1024),
    "max_request_mb": (1, 2**20),
    "max_upload_mb": (1, 2**20),
    "request_timeout_s": (0.1, 3600),
}
"""The least and the most of every number. The most is what no use needs, so that nothing made of it overflows."""
_ONE_OF = {
    "backend": ("auto", "openvino", "torch"),
    "log_format": ("text", "json"),
    "log_level": ("auto", "debug", "info", "warning", "error"),
    "pdf_engine": ("pypdf", "pypdfium2"),
    "precision": ("auto", "bf16", "fp32"),
}
_TYPES: dict[str, Any] = {key: kind for key, kind in get_type_hints(Settings).items() if key != "given"}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def load_settings(
    given: Mapping[str, Any] | None = None, *, config: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings in force.

    given: values by key, from flags or code; None means not given. config: a TOML file.
    Raises ConfigurationError naming the key, the place it stands in, and what is allowed.
    """
    defaults = _flattened(_read(_default_file()), "configs/default.toml")
    sections = {key: section for section, keys in _read(_default_file()).items() for key in keys}
    values = {key: checked(key, value, "configs/default.toml") for key, value in defaults.items()}
    if config is not None:
        for key, value in _flattened(_read(config), str(config), sections).items():
            values[key] = checked(key, value, str(config))
    for key in _TYPES:
        if (name := variable(key)) in environ:
            values[key] = checked(key, parsed(key, environ[name], name), name)
    chosen = {key: value for key, value in (given or {}).items() if value is not None}
    for key, value in chosen.items():
        if not known(key):
            raise ConfigurationError(f"{key}: no such setting; known are {', '.join(_TYPES)}")
        values[key] = checked(key, value, "the value given")
    return Settings(**values, given=frozenset(chosen))


def known(key: str) -> bool:
    """Tell whether there is a setting of this name."""
    return key in _TYPES


def variable(key: str) -> str:
    """Return the name of the environment variable of a setting."""
    return f"KNOWLEX_{key.upper()}"


def unknown_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the variables of the environment that look like settings and name none, each with the nearest that does.

    None: no name is near. Not looked at: those that Knowlex reads otherwise, and KNOWLEX_TEST_…, which its tests read.
    """
    names = (*map(variable, _TYPES), "KNOWLEX_DB", "KNOWLEX_ENV")
    prefixed = (name for name in environ if name.startswith("KNOWLEX_") and not name.startswith("KNOWLEX_TEST_"))
    return {name: _nearest(name, names) for name in prefixed if name not in names}


def _nearest(name: str, names: Sequence[str]) -> str | None:
    import difflib  # hardly ever needed

    parts = {known.removeprefix("KNOWLEX_"): known for known in names}
    near = difflib.get_close_matches(name.removeprefix("KNOWLEX_").upper(), parts, n=1)
    return parts[near[0]] if near else None


def is_list(key: str) -> bool:
    """Tell whether a setting is a list of texts."""
    return _TYPES[key] == tuple[str, ...]


def _default_file() -> Path:
    packaged = Path(__file__).parent / "configs" / "default.toml"
    return packaged if packaged.exists() else Path(__file__).parent.parent / "configs" / "default.toml"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a TOML file ({error})") from error
    except RecursionError:
        raise ConfigurationError(f"{path}: nested too deeply; see configs/default.toml") from None


def _flattened(tables: Mapping[str, Any], place: str, sections: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the keys of all sections; raises ConfigurationError for one that is unknown or misplaced."""
    flat: dict[str, Any] = {}
    for section, keys in tables.items():
        if not isinstance(keys, dict):
            raise ConfigurationError(f"{place}: {section} stands outside a section; see configs/default.toml")
        for key, value in cast(dict[str, Any], keys).items():
            if key not in _TYPES or (sections is not None and sections.get(key) != section):
                raise ConfigurationError(f"{place}: [{section}] {key}: no such setting; see configs/default.toml")
            flat[key] = value
    return flat


def parsed(key: str, text: str, place: str) -> Any:
    """Return a text, as of an environment variable, as the type of its key; of a list, what os.pathsep parts.

    Raises ConfigurationError.
    """
    kind = _TYPES[key]
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (KeyError, ValueError):
        raise ConfigurationError(f"{place}: {text!r} is not {_kind(key)}; give {_allowed(key)}") from None
    return text if kind is str else tuple(part for part in text.split(os.pathsep) if part)


def checked(key: str, value: Any, place: str) -> Any:
    """Return a value in its proper type; raises ConfigurationError for a wrong type or range, naming the place."""
    kind = _TYPES[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        _require_in_range(key, value, place)
        value = float(value) if kind is float else value
    if not _is_a(kind, value):
        raise ConfigurationError(f"{place}: {key} = {_shown(value)} is not {_kind(key)}; give {_allowed(key)}")
    if is_list(key):
        value = tuple(cast(Sequence[str], value))
    if key in _ONE_OF and value not in _ONE_OF[key]:
        raise ConfigurationError(f"{place}: {key} = {value!r} is unknown; give {_allowed(key)}")
    return value


def _is_a(kind: Any, value: Any) -> bool:
    if kind == tuple[str, ...]:
        parts = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (None,)
        return all(isinstance(part, str) for part in parts)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _allowed(key: str) -> str:
    """Say what a setting may be."""
    if key in _ONE_OF:
        return f"one of {', '.join(_ONE_OF[key])}"
    if key in _RANGES:
        least, most = _RANGES[key]
        return f"{_kind(key)} from {least} to {most}"
    return _kind(key)


def _kind(key: str) -> str:
    return _KINDS.get(_TYPES[key], "a list of texts")


def _require_in_range(key: str, value: float, place: str) -> None:
    """Raise ConfigurationError for a number that is too small, too large, or none at all (NaN is neither)."""
    least, most = _RANGES.get(key, (-inf, inf))
    if value < least:
        raise ConfigurationError(f"{place}: {key} = {_shown(value)} is too small; give at least {least}")
    if value > most:
        raise ConfigurationError(f"{place}: {key} = {_shown(value)} is too large; give at most {most}")
    if value != value:
        raise ConfigurationError(f"{place}: {key} = {value} is not a number; give {least} to {most}")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a number"

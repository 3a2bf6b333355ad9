"""Settings that could not be reckoned with are refused, wherever they come from."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest

from knowlex.config import _RANGES, _TYPES, load_settings
from knowlex.engine import cache_dir
from knowlex.roots import real_roots
from storage.errors import ConfigurationError

NUMBERS = [key for key, kind in _TYPES.items() if kind in (int, float)]


@pytest.mark.parametrize("key", [key for key in NUMBERS if _TYPES[key] is float])
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_no_finite_number_is_refused(key: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    section = {"parse_timeout_s": "ingest", "stuck_after_minutes": "ingest", "slow_query_ms": "search"}.get(
        key, "server"
    )
    file.write_text(f"[{section}]\n{key} = {value}\n")
    for load in (
        lambda: load_settings({key: value}),
        lambda: load_settings(config=file),
        lambda: load_settings(environ={f"KNOWLEX_{key.upper()}": str(value)}),
    ):
        with pytest.raises(ConfigurationError, match=key):
            load()


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_a_range(key: str) -> None:
    least, most = _RANGES[key]
    for value in (least, most):
        assert getattr(load_settings({key: value}), key) == value
    for value, what in ((least - 1, "too small"), (most + 1, "too large"), (-(10**5000), "small"), (10**5000, "large")):
        with pytest.raises(ConfigurationError, match=what):
            load_settings({key: value})


def test_a_whole_number_may_stand_for_one_with_a_point() -> None:
    assert isinstance(load_settings({"slow_query_ms": 5}).slow_query_ms, float)
    with pytest.raises(ConfigurationError, match="not a whole number"):
        load_settings({"workers": 1.5})
    with pytest.raises(ConfigurationError, match="not a whole number"):
        load_settings({"workers": True})


@pytest.mark.parametrize("value", ["*.log", 3, ["*.log", 3]])
def test_a_list_is_one_of_texts(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"exclude = .* is not a list of texts; give a list of texts"):
        load_settings({"exclude": value})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbf[ingest]\nworkers = 7\n")
    assert load_settings(config=file, environ={}).workers == 7


def test_a_folder_may_begin_with_a_tilde_and_be_nobodys() -> None:
    settings = load_settings({"cache_dir": "~nobody-of-that-name/models"}, environ={})
    assert cache_dir(settings) == Path("~nobody-of-that-name/models").absolute()
    with pytest.raises(ConfigurationError, match="ingest_roots: '~nobody-of-that-name/notes' is no full path"):
        real_roots(["~nobody-of-that-name/notes"])

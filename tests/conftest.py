"""What every test may ask for: a real database, and the shared test material where it exists."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import in_memory
import pytest
from faults import child, table
from faults.table import figure, pytest_addoption, pytest_terminal_summary
from hypothesis import settings
from lent_parser import LentParser

from pipeline.openvino_graph import Graph
from storage.database import Database
from workers import runner

__all__ = ["figure", "pytest_addoption", "pytest_terminal_summary"]

HERE = Path(__file__).parent

# No test looks at the clock: on a busy machine, one example in thousands takes longer than Hypothesis allows it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Have `tmp_path` in memory, unless the caller names another place for it."""
    if in_memory.PLACE:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", in_memory.PLACE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Prepare the table of `make soak`; begin with what takes long."""
    table.pytest_collection_modifyitems(config, items)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later search for garbage: it stays to the end."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: made while the tests are collected, they may differ from process to process."""
    return argname if isinstance(val, bytes) and len(val) > 20 else None


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, closed, to be copied: to make one waits for the disk some fifty times."""
    path = tmp_path_factory.mktemp("new") / "new.db"
    Database.open(path).close()
    return path


@pytest.fixture
def db(tmp_path: Path, new_database: Path) -> Iterator[Database]:
    """A new database in a real file, closed after the test."""
    with Database.open(shutil.copy(new_database, tmp_path / "test.db")) as database:
        yield database


_compiled = Graph._compiled
_requests: dict[tuple[Any, ...], SimpleQueue[Any]] = {}


def _compiled_once(graph: Graph) -> SimpleQueue[Any]:
    file = graph._model.resolve()
    key = file, file.stat().st_mtime_ns, graph._precision, graph._threads, graph._streams
    if key not in _requests:
        _requests[key] = _compiled(graph)
    return _requests[key]


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile a model (0.2 s) once a test process, however often it is loaded; who has it shares what runs it."""
    monkeypatch.setattr(Graph, "_compiled", _compiled_once)


@pytest.fixture
def parsers_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a parser once a test process, for all runs in it that would start the same."""
    monkeypatch.setattr(runner, "Parser", LentParser)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """End what a test started, wherever it failed: a worker that stands still would stay, and hold its database."""
    with child.ended():
        yield


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The documents of our own that the suite proves the main job on."""
    return HERE / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The large collection of real documents, which is not part of the repository."""
    folder = Path(os.environ.get("KNOWLEX_TEST_DATA", HERE.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the shared collection of real documents: set KNOWLEX_TEST_DATA to its folder")
    return folder


NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_plain_user() -> Callable[[], AbstractContextManager[None]]:
    """What gives up the rights of root, for whom nothing is read-only, until the end of a block."""
    return _as_plain_user


@contextmanager
def _as_plain_user() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)

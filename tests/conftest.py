"""What every test may ask for: a real database, and the shared test material where it exists."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from faults import child
from faults.table import figure, pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary

from storage.database import Database

__all__ = ["figure", "pytest_addoption", "pytest_collection_modifyitems", "pytest_terminal_summary"]

HERE = Path(__file__).parent


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A new database in a real file, closed after the test."""
    with Database.open(tmp_path / "test.db") as database:
        yield database


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

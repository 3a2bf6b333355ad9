"""What every test may ask for: a real database, and the shared test material where it exists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database

HERE = Path(__file__).parent


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A new database in a real file, closed after the test."""
    with Database.open(tmp_path / "test.db") as database:
        yield database


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

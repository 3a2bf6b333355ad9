"""One database and app for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app, on a database that has tokens."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served

"""The table of `make soak` hides nothing: a row is held where every test of it passed, and not otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CONFTEST = """
from faults.table import figure, pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary
"""

ROWS_OF_TESTS = """
import pytest

pytestmark = pytest.mark.proof

@pytest.fixture
def missing():
    pytest.skip("no documents")

@pytest.fixture
def broken():
    raise OSError("no disk")

@pytest.mark.row(1)
def test_passes(figure):
    figure(1, "3 kills", True)

@pytest.mark.row(1)
def test_fails_first(figure):
    raise AssertionError

@pytest.mark.row(1)
def test_is_skipped(missing, figure):
    figure(1, "never", True)

@pytest.mark.row(1)
def test_is_not_set_up(broken, figure):
    figure(1, "never", True)

@pytest.mark.row(2)
def test_misses(figure):
    figure(2, "1 lost", False)

@pytest.mark.row(3)
def test_alone_skipped(missing):
    pass

@pytest.mark.row(4)
def test_catches_a_mutant():
    pass

def test_of_no_row():
    raise AssertionError

@pytest.mark.row(5)
def test_of_another_row(figure):
    figure(6, "7 images", True)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The table of a run in which everything happens."""
    return table_of(tmp_path_factory.mktemp("run"))


def table_of(folder: Path, *options: str) -> list[str]:
    """The table of a run with these options, without the blanks between its columns."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_rows.py").write_text(ROWS_OF_TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  proof\n  soak\n  row(number)\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "soak or proof", "-p", "no:cacheprovider", *options, folder],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    lines = run.stdout.partition(" reliability ")[2].splitlines()
    return [" ".join(line.split()) for line in lines if line[:3].strip().isdecimal()]


def verdicts(table: list[str], row: int) -> list[str]:
    return [line for line in table if line.startswith(f"{row} ")]


def test_every_test_of_a_row_that_does_not_pass_is_told(table: list[str]) -> None:
    passed, failed, error, skipped = verdicts(table, 1)
    assert passed.endswith("3 kills held")
    assert "failed: test_rows.py::test_fails_first MISSED" in failed
    assert "error: test_rows.py::test_is_not_set_up MISSED" in error
    assert "skipped: test_rows.py::test_is_skipped NOT SHOWN" in skipped


def test_a_figure_that_misses_is_told_once(table: list[str]) -> None:
    [missed] = verdicts(table, 2)
    assert "1 lost MISSED" in missed


@pytest.mark.parametrize("row", [3, 4, 16], ids=["skipped alone", "without a figure", "without a test"])
def test_a_row_without_a_figure_is_not_shown(row: int, table: list[str]) -> None:
    assert f"{row} " in verdicts(table, row)[-1]
    assert "NOT SHOWN" in verdicts(table, row)[-1]


def test_what_is_of_no_row_and_fails_is_told(table: list[str]) -> None:
    [failed] = verdicts(table, 0)
    assert "failed: test_rows.py::test_of_no_row MISSED" in failed


def test_a_figure_is_of_the_row_that_its_test_bears(table: list[str]) -> None:
    assert "test_of_another_row MISSED" in verdicts(table, 5)[0]
    assert "NOT SHOWN" in verdicts(table, 6)[0]


def test_of_some_rows_alone_nothing_else_is_run_or_told(tmp_path: Path) -> None:
    table = table_of(tmp_path, "--rows", "2-4")
    assert [line.split()[0] for line in table] == ["2", "3", "3", "4"]

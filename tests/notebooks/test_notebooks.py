"""Every notebook runs from top to bottom in a real kernel, and shows what it promises."""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from knowlex.progress import watcher
from workers.batch import Progress

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def run(path: Path) -> NotebookNode:
    """Return a notebook with the outputs of a run."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    """Return all outputs of a MIME type."""
    found = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [data[kind] for data in found if kind in data]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_quickstart_shows_files_hits_and_a_figure() -> None:
    notebook = run(FOLDER / "01_quickstart.ipynb")
    printed = [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    assert printed[0].startswith("10 files ingested, ")
    assert "0 ingested, 0 newly failed" in printed[1]
    assert "28 days" in printed[2]
    tables = outputs(notebook, "text/html")
    assert "--pdf-password-file" in tables[0]
    assert "<mark>leave</mark>" in tables[1]
    assert "employee-handbook.pdf:1" in tables[1]
    assert "Refunds" in tables[-1]
    assert len(outputs(notebook, "image/png")) == 1
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]


def test_a_bar_is_for_the_kernel_of_a_notebook_and_not_for_who_drives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "from knowlex.progress import watcher\nwatched = watcher(None)\nwatched.close()\ntype(watched).__name__"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120).execute()
    assert outputs(notebook, "text/plain") == ["'Bar'"]
    import ipykernel.zmqshell  # what a program has that starts kernels of its own

    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert ipykernel.zmqshell
    assert type(watcher(None)) is Progress

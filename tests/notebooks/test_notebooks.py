"""Every notebook runs from top to bottom in a real kernel, and is kept with the outputs of such a run.

`KNOWLEX_TEST_WRITE_NOTEBOOKS=1 pytest tests/notebooks` runs them and keeps what they show now.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from knowlex.progress import watcher
from workers.batch import Progress

FOLDER = Path(__file__).parents[2] / "notebooks"
WRITE = "KNOWLEX_TEST_WRITE_NOTEBOOKS"
NOTEBOOKS = {
    "01_quickstart": [
        "10 files ingested, ",
        "--pdf-password-file",
        "0 ingested, 0 newly failed",
        "<mark>leave</mark>",
        "employee-handbook.pdf:1",
        "28 days of paid leave",
        "Refunds",
    ],
    "02_looking_into_the_index": [
        "1 with the bytes of another, 8 failed, 1 skipped",
        "no text layer on any of its 3 pages",
        "<td>picture.txt</td>",
        "onboarding-faq.md has the content of faq-for-new-colleagues.md",
        "collapse=True: ['bridge-meeting",
        "<td>0.98",
        "[]",
    ],
    "03_evaluating_retrieval": [
        "20 questions, 20 judgements; without an answer: []",
        "<td>ndcg@10</td>",
        "<td>mrr@10</td>",
        "first instead",
    ],
    "04_memories_and_conversations": [
        "2 files, ",
        "['Plaque']",
        "['Plaque', 'Band', 'Bats', 'Deck']",
        "Opening ceremony (6 messages)",
        "stainless steel takes eleven weeks",
        "2 conversations and 8 messages taken in\n0 conversations and 0 messages taken in",
        "['Opening ceremony']",
    ],
}
"""What each has to show, besides that it runs."""


def run(path: Path) -> NotebookNode:
    """Return a notebook with the outputs of a run."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=120, resources=place, record_timing=False, coalesce_streams=True).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: NotebookNode) -> list[list[str]]:
    """Return cell by cell what kinds of output it has: streams by name, and MIME types."""
    return [
        [kind for output in cell.outputs for kind in (sorted(output.get("data", ())) or [output.get("name", "error")])]
        for cell in code(notebook)
    ]


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    """Return all outputs of a MIME type."""
    found = [output.get("data", {}) for cell in code(notebook) for output in cell.get("outputs", [])]
    return [data[kind] for data in found if kind in data]


def shown(notebook: NotebookNode) -> str:
    """Return all text that a notebook shows: what was printed, tables and values."""
    printed = [output["text"] for cell in code(notebook) for output in cell.outputs if "text" in output]
    return "\n".join([*printed, *outputs(notebook, "text/html"), *outputs(notebook, "text/plain")])


def test_each_notebook_is_looked_at() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_again_what_it_was_kept_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWLEX_WORKERS", "1")  # no second parser for a handful of small files
    path = FOLDER / f"{name}.ipynb"
    again = run(path)
    if os.environ.get(WRITE):
        nbformat.write(again, path)
    kept = nbformat.read(path, as_version=4)
    assert kinds(again) == kinds(kept)
    for notebook in (again, kept):
        assert [phrase for phrase in NOTEBOOKS[name] if phrase not in shown(notebook)] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_with_the_outputs_of_one_run(name: str) -> None:
    kept = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(kept)
    cells = code(kept)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert outputs(kept, "image/png")
    assert not {"stderr", "error"} & {kind for cell in kinds(kept) for kind in cell}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_in_a_notebook_speaks_of_the_machine_that_ran_it(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text("utf8")
    here = (tempfile.gettempdir(), str(Path.home()), str(FOLDER.parent), "/tmp/", "/home/")
    assert [place for place in here if place in text] == []
    assert not re.search(r"warning", text, re.IGNORECASE)
    assert set(nbformat.reads(text, as_version=4).metadata) == {"kernelspec", "language_info"}


def test_a_bar_is_for_the_kernel_of_a_notebook_and_not_for_who_drives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "from knowlex.progress import watcher\nwatched = watcher(None)\nwatched.close()\ntype(watched).__name__"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120).execute()
    assert outputs(notebook, "text/plain") == ["'Bar'"]
    import ipykernel.zmqshell  # what a program has that starts kernels of its own

    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert ipykernel.zmqshell
    assert type(watcher(None)) is Progress

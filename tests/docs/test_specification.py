"""docs/specification.md leaves out nothing that the specification names, and names nothing that is not there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "specification.md").read_text("utf8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| specification", "| fault"))
]
NAMED = re.compile(r"export const (\w+) = ")
CALLED = re.compile(r"(?:return|await) (get[A-Z]\w+|generateId)\(|const \w+ = (generateId|getConversation)\(")
PLANNED = re.compile(r"^\d\. \*\*(.+?)\*\*:", re.MULTILINE)
REFERENCE = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def specification(shared_data: Path) -> str:
    """The original text, which is not part of the repository."""
    return (shared_data.parent / "spec" / "storage-system.md").read_text("utf8")


def missing(specification: str, page: str) -> list[str]:
    """Return what the specification names and no row of the page does."""
    functions = {name for found in NAMED.findall(specification) for name in [found]}
    functions |= {name for pair in CALLED.findall(specification) for name in pair if name}
    planned = PLANNED.findall(specification.partition("## Future Enhancements")[2])
    first = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    return [name for name in sorted(functions) if not any(f"`{name}`" in cell for cell in first)] + [
        name for name in planned if not any(name == cell.strip() for cell in first)
    ]


def test_every_function_and_planned_feature_has_its_row(specification: str) -> None:
    assert missing(specification, PAGE) == []


def test_a_missing_function_is_noticed(specification: str) -> None:
    mutant = "\n".join(line for line in PAGE.splitlines() if "`listProjects`" not in line and "Encryption" not in line)
    assert missing(specification, mutant) == ["listProjects", "Encryption"]
    assert len(NAMED.findall(specification)) > 25


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`").replace(" ", "-")[:40])
def test_no_cell_is_empty_and_what_it_names_exists(row: tuple[str, ...]) -> None:
    _, ours, proof = row
    assert ours
    assert proof
    if ours == "later":
        assert proof == "later"
        return
    names = REFERENCE.findall(ours)
    assert names
    for name in names:
        assert resolved(name) is not None
    [test] = REFERENCE.findall(proof)
    path, _, function = test.partition("::")
    assert f"def {function or 'test_'}" in (ROOT / path).read_text("utf8")


def resolved(name: str) -> object:
    """Return the module's function or class, or a class's member, of a dotted name."""
    parts = name.split(".")
    found: object = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:]:
        found = getattr(found, part)
    return found

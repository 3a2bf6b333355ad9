"""docs/specification.md leaves out nothing that the specification names, and names nothing that is not there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "specification.md").read_text("utf8")

ROWS = {
    "Connection": [
        "`getDatabasePath`",
        "`getDB`",
        "`closeDB`",
        "`isDatabaseHealthy`",
        "`runMigrations`",
        "`rollbackMigration`",
        "`generateId`",
    ],
    "Projects": [
        "`createProject`",
        "`getProject`",
        "`listProjects`",
        "`updateProject`",
        "`deleteProject`",
    ],
    "Conversations": [
        "`createConversation`",
        "`getConversation`",
        "`getConversationWithMessages`",
        "`listConversations`",
        "`getConversationSummaries`",
        "`conversations` (update)",
        "`conversations` (delete)",
    ],
    "Messages": [
        "`addMessage`",
        "`getMessage`",
        "`getMessages`",
        "`updateMessage`",
        "`deleteMessage`",
        "`messages` (threads)",
        "`searchMessages`",
        "`advancedSearch`",
    ],
    "Files and chunks": [
        "`project_files` (create, status)",
        "`project_files` (get, list, delete)",
        "`createFileChunk`",
        "`getFileChunk`",
        "`batchCreateFileChunks`",
        "`vectorSearch`",
    ],
    "Memories and settings": [
        "`project_memories` (create, get, list)",
        "`project_memories` (update, delete)",
        "`project_memories` (search)",
        "`getSetting`",
        "`setSetting`",
        "`getAllSettings`",
        "`deleteSetting`",
    ],
    "Errors, backup, recovery": [
        "`withDatabaseErrorHandling`",
        "`createBackup`",
        "`restoreFromBackup`",
    ],
    "Tables": [
        "`projects`",
        "`conversations`",
        "`messages`",
        "`project_files`",
        "`project_memories`",
        "`app_settings`",
        "`message_fts`",
        "`file_chunks`",
        "`schema_migrations`",
    ],
    "Planned features": [
        "Vector Extensions",
        "Connection Pooling",
        "Read Replicas",
        "Data Archiving",
        "Encryption",
        "Query Caching",
        "Lazy Loading",
        "Background Optimization",
        "Write Batching",
        "Query Performance Monitoring",
        "Storage Analytics",
        "Usage Patterns",
        "Health Checks",
    ],
    "Its faults, mended": [
        "full text over raw JSON",
        "external-content triggers without old values",
        "a text primary key leaves rowids unstable",
        "`listProjects` multiplies sizes by joined rows",
        "`addMessage`, `deleteMessage` are two statements outside a transaction",
        "foreign keys are never switched on",
        "a question goes to MATCH unescaped",
        "no `system` and `tool` roles",
        "an unknown id gives null",
        "`vectorSearch` finds nothing",
        "`advancedSearch` has no body",
        "`createBackup` writes nothing",
        "`restoreFromBackup` has no body",
        "`rollbackMigration` has no body",
    ],
}
"""What each section of the page has a row for, in its order: the names that the specification gives, and its faults."""

FUNCTION = re.compile(r"^(?:export )?const (\w+) = (?:async )?(?:<\w+>)?\(", re.MULTILINE)
CALLED = re.compile(r"\b(get(?!DB\b|Path\b)[A-Z]\w+|generateId)\((?!')")
TABLE = re.compile(r"CREATE (?:VIRTUAL )?TABLE (?:IF NOT EXISTS )?(\w+)")
PLANNED = re.compile(r"^\d\. \*\*(.+?)\*\*:", re.MULTILINE)
IN_BACKTICKS = re.compile(r"`([^`]+)`")
EVIDENCE = {
    "full text over raw JSON": "content='messages'",
    "external-content triggers without old values": "DELETE FROM message_fts WHERE rowid = old.rowid",
    "a text primary key leaves rowids unstable": "content_rowid='rowid'",
    "`listProjects` multiplies sizes by joined rows": "COALESCE(SUM(pf.size), 0)",
    "`addMessage`, `deleteMessage` are two statements outside a transaction": "// Update conversation timestamp",
    "a question goes to MATCH unescaped": "WHERE message_fts MATCH ?",
    "no `system` and `tool` roles": "as 'user' | 'assistant'",
    "an unknown id gives null": "Promise<Project | null>",
    "`vectorSearch` finds nothing": "// Placeholder implementation",
    "`advancedSearch` has no body": "// Implementation handles complex filtering and sorting",
    "`createBackup` writes nothing": "// Implementation for database backup",
    "`restoreFromBackup` has no body": "// Implementation for database restoration",
    "`rollbackMigration` has no body": "// Implementation for rolling back migrations",
}
"""Where the specification shows each of its faults, but for foreign keys: these it leaves out."""


@dataclass(frozen=True)
class Row:
    """One row of the page: what the specification names, what we have for it, and the test that proves it."""

    section: str
    name: str
    ours: str
    proof: str


def rows_of(page: str) -> list[Row]:
    rows: list[Row] = []
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| specification |", "| fault |")):
            name, ours, proof = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(section, name, ours, proof))
    return rows


def faults_of(page: str) -> list[str]:
    """Return what is wrong with a page: rows that are missing, too many, empty or untrue."""
    rows = rows_of(page)
    found = [(row.section, row.name) for row in rows]
    expected = [(section, name) for section, names in ROWS.items() for name in names]
    faults = [f"{name}: has no row in {section}" for section, name in expected if (section, name) not in found]
    faults += [f"{name}: is not expected in {section}" for section, name in found if (section, name) not in expected]
    faults += [f"{name}: has two rows" for section, name in set(found) if found.count((section, name)) > 1]
    return faults + [fault for row in rows for fault in faults_in(row)]


def faults_in(row: Row) -> list[str]:
    if "later" in (row.ours, row.proof):
        return [] if row.ours == row.proof else [f"{row.name}: has either a counterpart or a test"]
    names, proofs = IN_BACKTICKS.findall(row.ours), IN_BACKTICKS.findall(row.proof)
    faults = [f"{row.name}: {name} does not exist" for name in names if not exists(name)]
    faults += [f"{row.name}: {proof} does not exist" for proof in proofs if not proves(proof)]
    if not names or len(proofs) != 1:
        return [*faults, f"{row.name}: names no counterpart, or not one test"]
    if row.section != "Its faults, mended" and not is_about(proofs[0], names):
        faults.append(f"{row.name}: {proofs[0]} is about something else")
    return faults


def exists(name: str) -> bool:
    """Whether a dotted name is a module's function or class, or a class's member."""
    module, *members = name.removeprefix("knowlex.").removeprefix("storage.").split(".")
    try:
        found: object = importlib.import_module(f"{name.partition('.')[0]}.{module}")
        for member in members:
            found = getattr(found, member)
    except (ImportError, AttributeError):
        return False
    return bool(members)


def proves(proof: str) -> bool:
    """Whether `path::name` is a test of that very name, or a class of tests."""
    path, _, name = proof.partition("::")
    definition = rf"^(?:def {name}\(|class {name}\b|{name} = \w+\.TestCase)"
    file = ROOT / path
    named = name.startswith(("test_", "Test")) and file.is_file()
    return named and re.search(definition, file.read_text("utf8"), re.MULTILINE) is not None


def is_about(proof: str, names: list[str]) -> bool:
    """Whether the file of a test speaks of the module that one of the names is in, or of its class."""
    file = ROOT / proof.partition("::")[0]
    text = file.read_text("utf8") if file.is_file() else ""
    return any(re.search(rf"\b{word}\b", text) for name in names for word in name.split(".")[1:-1])


def test_every_row_is_there_and_true() -> None:
    assert faults_of(PAGE) == []


def functions_of(specification: str) -> set[str]:
    """Return the functions that the specification defines or calls."""
    return {*FUNCTION.findall(specification), *CALLED.findall(specification)}


def named_in(rows: dict[str, list[str]]) -> set[str]:
    return {name for names in rows.values() for row in names for name in IN_BACKTICKS.findall(row)}


@pytest.fixture(scope="module")
def specification(shared_data: Path) -> str:
    """The original text, which is not part of the repository."""
    return (shared_data.parent / "spec" / "storage-system.md").read_text("utf8")


def test_the_list_of_rows_is_that_of_the_original_text(specification: str) -> None:
    functions, tables = functions_of(specification), set(TABLE.findall(specification))
    assert len(functions) > 30
    assert functions <= named_in({section: names for section, names in ROWS.items() if section != "Tables"})
    assert tables == named_in({"Tables": ROWS["Tables"]})
    assert named_in(ROWS) - functions - tables == {"system", "tool"}
    assert PLANNED.findall(specification.partition("## Future Enhancements")[2]) == ROWS["Planned features"]
    assert all(shown in specification for shown in EVIDENCE.values())
    assert {*EVIDENCE, "foreign keys are never switched on"} == set(ROWS["Its faults, mended"])
    assert "foreign_keys" not in specification


# --- a page that is wrong is noticed

Edit = Callable[[str], str]


def without(name: str) -> Edit:
    """Take the row out that begins with a name."""
    return lambda page: "\n".join(line for line in page.splitlines() if not line.startswith(f"| {name} |"))


def with_instead(old: str, new: str) -> Edit:
    return lambda page: page.replace(old, new)


@pytest.mark.parametrize("row", rows_of(PAGE), ids=lambda row: row.name.strip("`").replace(" ", "-")[:40])
def test_a_missing_row_is_noticed(row: Row) -> None:
    """Where two rows have one name (a function and a fault, say), each is missed by itself."""
    line = f"| {row.name} | {row.ours} | {row.proof} |"
    assert line in PAGE
    assert faults_of(PAGE.replace(line + "\n", "")) == [f"{row.name}: has no row in {row.section}"]


HEALTH = "tests/storage/test_health.py::test_a_database_that_is_not_there_is_not_made"
MUTANTS: dict[str, Edit] = {
    "a function is missing": without("`getDatabasePath`"),
    "an operation is missing": without("`conversations` (update)"),
    "a table is missing": without("`project_memories`"),
    "a planned feature is missing": without("Encryption"),
    "a fault is missing": without("foreign keys are never switched on"),
    "a row stands in another section": with_instead("## Tables\n", "## Chairs\n"),
    "a row stands twice": lambda page: page + page[page.index("| Encryption |") :].partition("\n")[0] + "\n",
    "a row is invented": lambda page: page + "| `dropEverything` | later | later |\n",
    "no test is named but a file": with_instead(HEALTH, HEALTH.partition("::")[0]),
    "only the beginning of a test's name": with_instead(HEALTH, HEALTH[:-5]),
    "a test of another file": with_instead("test_health.py", "test_usage.py"),
    "a real test of something else": with_instead(
        HEALTH, "tests/storage/test_usage.py::test_counts_of_a_day_project_and_kind_add_up"
    ),
    "a function that is no test": with_instead(HEALTH, "tests/storage/test_health.py::wal_of"),
    "a file that is not there": with_instead("test_health.py", "test_wealth.py"),
    "no test": with_instead(f"`{HEALTH}`", ""),
    "a test that comes later": with_instead(f"`{HEALTH}`", "later"),
    "a function that is not there": with_instead("storage.health.check", "storage.health.chekc"),
    "a member that is not there": with_instead("database.Database.batch", "database.Database.bunch"),
    "a module that is not there": with_instead("storage.health.check", "storage.wealth.check"),
    "a module and no function of it": with_instead("`storage.health.check`", "`storage.health`"),
    "no counterpart": with_instead("`storage.slow_queries.listed`", "yes"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_page_is_noticed(mutant: str) -> None:
    wrong = MUTANTS[mutant](PAGE)
    assert wrong != PAGE
    assert faults_of(wrong) != []

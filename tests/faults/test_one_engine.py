"""Nobody but one engine touches a database's files: else its locks are lost, and with them commits, silently.

Source: sqlite.org/howtocorrupt.html, 2.2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from faults import audit, errands
from faults.table import Figure
from nbclient import NotebookClient

import storage.database
from storage import settings
from storage.connection import connect
from storage.database import Database
from storage.verify import verify

pytestmark = pytest.mark.row(11)

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of documents that the database lies in, under two more names besides its own."""
    folder = errands.documents(tmp_path / "in")
    Database.open(folder / "own.db").close()
    os.link(folder / "own.db", folder / "second-name.txt")
    (folder / "link.md").symlink_to(folder / "own.db")
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "report"


def run_watched(arguments: list[object], database: Path, report: Path) -> None:
    """Run a Python program to its end, with all that it starts under watch."""
    child = subprocess.run(
        [sys.executable, *map(str, arguments)], env=audit.environment(database, report), capture_output=True
    )
    assert child.returncode == 0, child.stderr.decode()


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
def test_nobody_else_opens_the_databases_files(folder: Path, report: Path, figure: Figure) -> None:
    database = folder / "own.db"
    run_watched(["-m", "faults.errands", database, folder], database, report)
    figure(
        11,
        f"{len(audit.found(report))} other opens of database, log, shared memory: all errands, in"
        f" {audit.watched(report)} processes",
        audit.found(report) == [] and audit.watched(report) >= 2,
    )


@pytest.mark.soak
def test_a_notebook_opens_no_database_file(report: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in audit.environment(Path("quickstart.db"), report).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    opens = [line for line in audit.found(report) if not line.startswith("os.remove")]  # it clears up at its end
    figure(
        11,
        f"{len(opens)} other opens in a notebook, in {audit.watched(report)} processes",
        opens == [] and audit.watched(report) >= 2,
    )


DRY_RUN = ("ingest", "p", "FOLDER", "--dry-run")


@pytest.mark.parametrize(
    ("mutant", "arguments", "told"),
    [
        ("walker-opens-all", DRY_RUN, "open .*second-name"),
        ("second-engine", DRY_RUN, r"sqlite3.connect .*own\.db"),
        ("rename-restore", ("restore", "--yes", "COPY"), r"os.rename .*copy\.db' to .*own\.db"),
    ],
)
@pytest.mark.xdist_group("faults")
def test_whoever_touches_them_is_told(
    mutant: str, arguments: tuple[str, ...], told: str, folder: Path, report: Path
) -> None:
    database, copy = folder / "own.db", folder.with_name("copy.db")
    shutil.copyfile(database, copy)
    named = {"FOLDER": folder, "COPY": copy}
    command = ["--", "--db", database, *(named.get(argument, argument) for argument in arguments)]
    run_watched(["-m", "faults.child", "--mutant", mutant, *command], database, report)
    assert any(re.match(told, line) for line in audit.found(report)), audit.found(report)


# --- forks


def in_fork(act: Callable[[], None]) -> str:
    """Do something in a process forked off, and return the error it raised, or ""."""
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        said = ""
        try:
            act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(sender, said.encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.proof
def test_no_connection_crosses_a_fork(db: Database, figure: Figure) -> None:
    """Neither in a transaction: the child's commit would be lost, or the parent's, though both were told it is kept."""
    attempts = refused = 0
    for turn in range(10):
        with db.write() as writer, db.read() as reader:
            settings.set(writer, f"parent {turn}", "x" * 3000)
            for act in (
                lambda: settings.set(writer, "child", "x" * 9000),
                lambda: writer.script("COMMIT"),
                lambda: writer.many("DELETE FROM app_settings WHERE key = :key", [{"key": "a"}]),
                lambda: settings.all(reader),
                lambda: db.write().__enter__(),
                lambda: db.read().__enter__(),
            ):
                attempts += 1
                said = in_fork(act)
                refused += said.startswith("DatabaseError") and "opened before a fork; open the database anew" in said
    with db.read() as reader:
        kept = len(settings.all(reader))
    sound = kept == 10 and verify(db, deep=True) == []
    figure(11, f"{refused}/{attempts} uses of a connection in a process forked off refused", refused == attempts)
    figure(11, f"{kept}/10 commits of its parent kept", sound)


def test_a_process_forked_off_leaves_the_connections_of_its_parent_open(db: Database) -> None:
    connection = connect(db.path)
    assert in_fork(connection.close) == in_fork(db.close) == ""
    connection.run("DELETE FROM app_settings")
    connection.close()


def test_a_new_file_is_not_closed_where_another_thread_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing it would drop the locks that the engine holds for that thread."""
    path = tmp_path / "new.db"
    opened = threading.Event()
    others: list[threading.Thread] = []

    def other() -> None:
        with Database.open(path):
            opened.set()

    def close(descriptor: int) -> None:
        if not others:
            others.append(threading.Thread(target=other))
            others[0].start()
            assert not opened.wait(0.5), "another thread has opened the file already"
        os.close(descriptor)

    class Os:
        def __getattr__(self, name: str) -> object:
            return close if name == "close" else getattr(os, name)

    monkeypatch.setattr(storage.database, "os", Os())
    Database.open(path).close()
    others[0].join()
    assert opened.is_set()

"""Tells of everybody but the engine who opens a database's own files, in a process and in all that it starts.

Python tells its audit hooks of every file that it opens, removes or renames; the engine opens its files
without Python, so that it is never named here. A hook cannot be taken away again: only for processes
of their own, which begin with `environment`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from storage.paths import own_files

TESTS = Path(__file__).parents[1]
WATCHED, REPORT = "KNOWLEX_TEST_AUDITED", "KNOWLEX_TEST_AUDIT_REPORT"
EVENTS = {"open": 1, "sqlite3.connect": 1, "os.link": 2, "os.remove": 1, "os.rename": 2, "os.truncate": 1}
"""How many of an event's arguments, from the first one, are files."""


def environment(database: Path, report: Path) -> dict[str, str]:
    """Return the environment of a process to be watched; `database` is known by its name, or by what file it is."""
    site = report.with_name("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text("from faults import audit\n\naudit.watch()\n", "utf8")
    path = os.pathsep.join(map(str, (site, TESTS, TESTS.parent)))
    return {**os.environ, "PYTHONPATH": path, WATCHED: str(database), REPORT: str(report)}


def watched(report: Path) -> int:
    """Return how many processes were watched."""
    return sum(line.startswith("watched") for line in report.read_text("utf8").splitlines())


def found(report: Path) -> list[str]:
    """Return what was told: the event, the file, and where in the code."""
    return [line for line in report.read_text("utf8").splitlines() if not line.startswith("watched")]


def watch() -> None:
    """Report, from now on, whoever touches the files of the database that the environment names."""
    own = own_files(Path(os.environ[WATCHED]))
    report = os.open(os.environ[REPORT], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.write(report, f"watched {os.getpid()}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        files = arguments[: EVENTS.get(event, 0)]
        if any(_is_one_of(file, own) for file in files) and not _makes_anew(event, arguments):
            os.write(report, f"{event} {' to '.join(map(repr, files))} by {_callers()}\n".encode())

    sys.addaudithook(hook)


def _makes_anew(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a file is opened that did not exist before, so that nobody can have a lock on it."""
    return event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & os.O_EXCL)


def _is_one_of(file: Any, own: tuple[Path, ...]) -> bool:
    """Compare names, and the files themselves: a link, another name or a descriptor is no way round."""
    if not isinstance(file, int) and os.path.basename(os.fsdecode(file)) in {path.name for path in own}:
        return True
    return _identity(file) in {_identity(path) for path in own} - {None}


def _identity(file: Any) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _callers() -> str:
    frames = traceback.extract_stack(limit=8)[:-2]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))

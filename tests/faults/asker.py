"""One who searches without a break: `python -m faults.asker DATABASE DOOR MODE ENOUGH [MUTANT…]`.

DOOR: facade (one object for all questions) or command (a process a question). It asks each project for its landmark,
which is always there, until the file ENOUGH is, and prints how often it asked and what was amiss.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from faults import mutants

from knowlex import Knowlex
from storage.errors import KnowlexError

PAUSE_S = 0.05

Ask = Callable[[str], dict[str, Any]]


class AnswerError(Exception):
    """A question that was not answered as it should be."""


def landmark(project: str) -> str:
    """Return a word that stands in one file of a project alone."""
    return f"beacon{project}"


def main() -> None:
    """Ask until it is enough, and tell what came of it."""
    database, door, mode, enough, *planted = sys.argv[1:]
    for name in planted:
        mutants.plant(name)
    asked, amiss = 0, list[str]()
    with Knowlex(database) as kb:
        projects = [summary.project.name for summary in kb.projects.list()]
        ask: Ask = partial(by_facade, kb, mode) if door == "facade" else partial(by_command, database, mode)
        for project in cycle(projects):
            amiss += fault(ask, project)
            asked += 1
            if Path(enough).exists():
                break
            time.sleep(PAUSE_S)
    print(json.dumps({"asked": asked, "amiss": amiss}))


def by_facade(kb: Knowlex, mode: str, project: str) -> dict[str, Any]:
    """Ask the Python object."""
    return kb.search(project, landmark(project), mode=mode).as_dict()


def by_command(database: str, mode: str, project: str) -> dict[str, Any]:
    """Ask the command line. Raises AnswerError where it does not end well, or says anything besides."""
    command = ["--db", database, "search", project, landmark(project), "--mode", mode, "--json"]
    run = subprocess.run([sys.executable, "-m", "knowlex", *command], capture_output=True, text=True)
    if run.returncode or run.stderr:
        raise AnswerError(f"exit {run.returncode}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def fault(ask: Ask, project: str) -> list[str]:
    """Ask once; return what is wrong with the answer."""
    try:
        answer = ask(project)
    except (KnowlexError, AnswerError) as error:
        return [f"{type(error).__name__}: {error}"]
    degraded = [f"{name} leg: {leg['degraded']}" for name, leg in answer["legs"].items() if leg["degraded"]]
    if not any(landmark(project) in hit["text"] for hit in answer["hits"]):
        degraded.append(f"{project}: its landmark is not found among {len(answer['hits'])}")
    return degraded


if __name__ == "__main__":
    main()

"""Faults planted into Knowlex itself, to show that a harness would see them.

Each changes one function where its callers look it up, in this process alone; a test undoes it with
`monkeypatch`, a child process (`faults.child --mutant NAME`) ends with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Patch = Callable[[Any, str, Any], None]
"""Sets an attribute of a module or class: `setattr`, or `monkeypatch.setattr`."""

MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Make a mutant known by the name of its function, with hyphens."""
    MUTANTS[plant.__name__.replace("_", "-")] = plant
    return plant


def plant(name: str, patch: Patch = setattr) -> None:
    """Plant a mutant by name."""
    MUTANTS[name](patch)


@mutant
def synchronous_off(patch: Patch) -> None:
    """Commits that do not wait for the disk."""
    from storage import connection

    patch(connection, "PRAGMAS", connection.PRAGMAS.replace("synchronous = FULL", "synchronous = OFF"))


@mutant
def missing_fence(patch: Patch) -> None:
    """Steps that do not ask whether the lease still stands."""
    from storage import queue

    patch(queue, "require_lease", lambda db, claim: None)

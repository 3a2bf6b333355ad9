"""Long lists on the command line: all of it, unless --limit or --after asks for a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from knowlex.cli.door import Door

Command = TypeVar("Command", bound=Callable[..., Any])

PAGE = 100
"""How many a page has where only --after is given."""


def options(command: Command) -> Command:
    """Give a command --limit and --after, for lists that are shown whole without them."""
    after = click.option("--after", help="Go on behind a page of --limit: its `next`.")
    limit = click.option("--limit", type=click.IntRange(1, 1000), help="How many at most. Without it: all.")
    return limit(after(command))


def asked(limit: int | None, after: str | None) -> dict[str, Any] | None:
    """Return which page was asked for, as the arguments of a list; None: all of it."""
    return None if limit is None and after is None else {"limit": limit or PAGE, "after": after}


def answer(door: Door, name: str, items: Iterable[Any], part: dict[str, Any] | None, following: str | None) -> None:
    """Print a list as JSON: the list itself, or, of a part, an object with it and the cursor `next`."""
    shown = items if isinstance(items, dict) else list(items)  # pyright: ignore[reportUnknownVariableType]
    door.answer(shown if part is None else {name: shown, "next": following})


def note_more(door: Door, following: str | None) -> None:
    """Tell a person how to go on."""
    if following:
        door.note(f"more: --after {following}")

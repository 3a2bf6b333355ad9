"""`knowlex verify` and `migrate`: the database itself."""

from __future__ import annotations

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door, yes_option
from knowlex.terminal import one_line


@click.command(cls=Command)
@click.option("--deep", is_flag=True, help="Also read every page, and compare every token and vector with its text.")
@pass_door
def verify(door: Door, deep: bool) -> int:
    """Check that the database says what it holds; exit code 0 only when all is well, else 4.

    \b
    Example:
      knowlex verify --deep
    """
    with door.open() as kb:
        problems = kb.verify(deep=deep)
    if door.json:
        door.answer({"ok": not problems, "problems": problems})
    for problem in problems:
        door.say(one_line(f"{problem.kind}: {problem.detail} ({problem.count})"))
    if not problems:
        door.say("ok")
    elif not door.json:
        door.note(
            "knowlex repair mends what can be mended; for what it has left, restore a backup: knowlex restore FILE"
        )
    return exit_codes.DATABASE if problems else exit_codes.OK


@click.command(cls=Command, writes=True)
@click.option("--to", type=click.IntRange(min=0), metavar="N", help="The schema version; the latest by default.")
@yes_option
@pass_door
def migrate(door: Door, to: int | None, yes: bool) -> None:
    """Bring the schema of the database up, or to an older version; a copy is made first, beside it.

    Every other command brings an older schema up by itself. What only the newer schema knows is lost on the
    way down; 0 empties the database, and asks first.

    \b
    Example:
      knowlex migrate
    """
    with door.open() as kb:
        if to == 0:
            door.confirm(yes, f"Take everything out of {one_line(str(kb.path))}?")
        version, taken = kb.migrate(to)
    if door.json:
        door.answer({"version": version, "taken": taken})
    door.say(f"schema {version}" + (f" (by way of {', '.join(map(str, taken))})" if len(taken) > 1 else ""))

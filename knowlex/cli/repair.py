"""`knowlex repair`: mend what `verify --deep` finds."""

from __future__ import annotations

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door
from knowlex.terminal import one_line


@click.command(cls=Command, writes=True)
@pass_door
def repair(door: Door) -> int:
    """Mend what verify --deep finds, after a copy of the database beside it; exit code 4 when something is left.

    What was derived is made again, what people wrote is kept. Files that have to be read again are put into
    the queue: run knowlex work --once, or ingest. What is left is listed with what to do about it. Where damaged
    pages hold only what is derived, such as an index, full text or vectors, the database is written anew; where
    rows are hit, or lost, it is left as it is: export the conversations first, or restore a backup.

    \b
    Example:
      knowlex repair
      knowlex work --once
    """
    with door.open() as kb:
        repaired = kb.repair()
    copy = None if repaired.copy is None else str(repaired.copy)
    if door.json:
        door.answer({"mended": repaired.mended, "left": repaired.left, "copy": copy})
    if not repaired.mended and not repaired.left:
        door.say("nothing to repair")
    for mended in repaired.mended:
        door.say(one_line(f"mended {mended.kind}: {mended.detail} ({mended.count})"))
    for left in repaired.left:
        door.say(one_line(f"left {left.kind}: {left.detail} ({left.count}); {left.remedy}"))
    if copy:
        door.say(one_line(f"the database as it was: {copy}"))
    return exit_codes.DATABASE if repaired.left else exit_codes.OK

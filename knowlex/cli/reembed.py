"""`knowlex reembed`: search by the vectors of another model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door
from knowlex.terminal import one_line, quantity

if TYPE_CHECKING:
    from knowlex.reembedding import Reembedded


@click.command(cls=Command, writes=True)
@click.argument("model")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after this time; resumable.")
@click.option("--discard", is_flag=True, help="Drop another model that is half built.")
@pass_door
def reembed(door: Door, model: str, max_minutes: float | None, discard: bool) -> int:
    """Give everything vectors of MODEL, a hub name or a folder, and search by these from then on.

    Nothing is read from the files again. Searches, ingestion and edits go on meanwhile; the former model answers
    until all is there, then MODEL does, also in processes that run. After an interruption the same command goes on.

    \b
    Example:
      knowlex reembed BAAI/bge-small-en-v1.5
    """
    from knowlex.cli.stopping import stopping

    with door.open() as kb:
        run = kb.reembedding(model, max_minutes=max_minutes, discard=discard, progress=door.progress)
        with stopping(run.stop, lambda: door.note("stopped; run the same command to go on")) as told:
            done = run.run()
    if door.json:
        door.answer(done)
    _describe(door, done)
    if not done.live:
        why = "time is up" if told.signal is None else "stopped"
        door.note(f"{why}: {quantity(done.left, 'vector')} to be made; run the same command to go on")
    return exit_codes.OK if told.signal is None else told.exit_code


def _describe(door: Door, done: Reembedded) -> None:
    made = f"{quantity(done.made, 'text')} embedded, {quantity(done.reused, 'vector')} there already"
    if done.switched:
        instead = "" if done.replaced is None else f" instead of {one_line(done.replaced)}"
        door.say(f"{one_line(done.model)} is searched{instead}: {made}; {done.seconds:.1f} s")
    elif done.live:
        gone = f"{quantity(done.removed, 'vector')} of other models removed" if done.removed else "nothing to do"
        door.say(f"{one_line(done.model)} is searched already: {gone}")
    else:
        door.say(f"{one_line(done.model)} is half built: {made}; {done.seconds:.1f} s")
    if done.cut:
        door.note(f"{quantity(done.cut, 'passage')} longer than the model takes: the vector is the mean of the parts'")
    if done.outdated:
        door.note(f"{quantity(done.outdated, 'file')} cut otherwise than now: the next knowlex ingest cuts them anew")

"""`knowlex work` and `knowlex retry`: process what waits in the queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door
from knowlex.cli.passwords import passwords_of, passwords_option
from knowlex.terminal import quantity

if TYPE_CHECKING:
    from knowlex.drain import Drain, Drained


@click.command(cls=Command, writes=True)
@click.argument("project")
@passwords_option
@pass_door
def retry(door: Door, project: str, pdf_password_file: Path | None) -> int:
    """Try the failed files of PROJECT again, and memories and messages that the model had no sound vector for.

    Exit code 1 where files fail again; each is named with its reason.

    \b
    Example:
      knowlex retry handbook
    """
    passwords = passwords_of(pdf_password_file)
    with door.open() as kb:
        count = kb.requeue_failed(project)
        if not door.logs_json:
            door.note(f"tried again: {quantity(count, 'failed file')}")
        drain = kb.drain(project, progress=door.progress, passwords=passwords)
        return _run(door, drain, project, {"retried": count}, once=True)


@click.command(cls=Command, writes=True)
@click.option("--once", is_flag=True, help="End when the queue is empty, instead of waiting for more.")
@click.option("--project", help="Only this project; else all.")
@pass_door
def work(door: Door, once: bool, project: str | None) -> int:
    """Process files that wait, and give memories and messages their vectors; several may run at once.

    Exit code 1 where files failed, 3 where there is no database yet.

    \b
    Example:
      knowlex work --once
    """
    with door.open(existing=True) as kb:
        drain = kb.drain(project, progress=door.progress)
        return _run(door, drain, project, {}, once=once)


def _run(door: Door, drain: Drain, project: str | None, answer: dict[str, object], *, once: bool) -> int:
    from knowlex.cli.stopping import stopping

    with drain, stopping(drain.stop, lambda: _abandon(door, drain)) as told:
        done = drain.run(once=once)
    _describe(door, done, project, answer)
    if told.signal is not None:
        door.note_waiting("stopped", drain.waiting())
        return told.exit_code
    return exit_codes.SOME_FAILED if done.failed else exit_codes.OK


def _abandon(door: Door, drain: Drain) -> None:
    drain.abandon()
    door.note_waiting("stopped", drain.waiting())


def _describe(door: Door, done: Drained, project: str | None, answer: dict[str, object]) -> None:
    if door.json:
        door.answer(
            {"project": project}
            | answer
            | {
                "ready": done.ready,
                "failed": done.failed,
                "chunks": done.chunks,
                "vectors": done.vectors,
                "seconds": done.seconds,
                "failures": done.failures,
            }
        )
    ready = f"{quantity(done.ready, 'file')} ready ({quantity(done.chunks, 'passage')})"
    door.say(f"{ready}, {done.failed} failed; {done.seconds:.1f} s")
    door.note_failures(done.failures, project)

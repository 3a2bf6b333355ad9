"""`knowlex mcp`: serve an agent over standard input and output."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import INSTALL_SERVER, Command, Door, located, pass_door
from knowlex.terminal import is_terminal, one_line
from storage.errors import ConfigurationError, KnowlexError

if TYPE_CHECKING:
    from knowlex.facade import Knowlex


CLOSING_S = 1.0
"""How long the database may take to be closed."""


@click.command(cls=Command)
@click.option("--project", help="The only project that the agent may see. Default: all, of which each call names one.")
@pass_door
def mcp(door: Door, project: str | None) -> int:
    """Serve an agent over standard input and output, by the Model Context Protocol.

    The agent's program starts and ends it; docs/agents.md says how to set that up, and docs/mcp.md what the agent can
    do then. The log goes to standard error.
    It may start before there is a database or the project: it says so then, and so does each call. Where that is so
    still when standard input ends, the exit code is 3, and 4 where the database cannot be used.

    \b
    Example:
      knowlex mcp --project handbook
    """
    # What is imported lives until the end. To look through it for garbage again and again takes a tenth of the start.
    gc.disable()
    try:
        serve = _imported()
        gc.freeze()
    finally:
        gc.enable()
    with door.open() as kb:
        if is_terminal(sys.stdin):
            _tell_what_is_missing(door, kb, project)
            door.note("waiting for an agent's program, which is to start this itself; docs/agents.md says how")
            _serve_until_told(serve, kb, project)
        else:
            # Beside the first answer, which it must neither delay nor prevent.
            telling = threading.Thread(target=_tell_what_is_missing, args=(door, kb, project), daemon=True)
            telling.start()
            _serve_until_told(serve, kb, project)
            telling.join(CLOSING_S)
        missing = _what_is_missing(kb, project)
    return exit_codes.OK if missing is None else exit_codes.of_error(missing)


def _tell_what_is_missing(door: Door, kb: Knowlex, project: str | None) -> None:
    """Say that there is no database or project, or what is wrong with it, to whoever looks why nothing is found."""
    if missing := _what_is_missing(kb, project):  # each call is told, too
        door.note(f"knowlex: {one_line(missing.message)}")


def _what_is_missing(kb: Knowlex, project: str | None) -> KnowlexError | None:
    try:
        kb.require_database()
        if project is not None:
            kb.projects.get(project)
    except KnowlexError as error:
        return located(error, kb)
    return None


def _imported() -> Callable[[Knowlex, str | None], None]:
    try:
        from knowlex.mcp_server.stdio import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigurationError(f"mcp: is not installed; {INSTALL_SERVER}") from None
    return serve


def _serve_until_told(serve: Callable[[Knowlex, str | None], None], kb: Knowlex, project: str | None) -> None:
    """Serve until the client closes standard input, or the process is told to end, which it then does on the spot.

    The thread that reads standard input cannot be woken.
    """
    from knowlex.cli.stopping import stopping

    def end() -> None:
        # A write that waits for the lock of the database keeps it from being closed; what is committed is on the disk.
        closing = threading.Thread(target=kb.close, daemon=True)
        closing.start()
        closing.join(CLOSING_S)
        os._exit(told.exit_code)

    with stopping(end, lambda: None) as told:
        serve(kb, project)

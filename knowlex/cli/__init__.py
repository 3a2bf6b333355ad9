"""The command line: `knowlex COMMAND …`. One file a noun; docs/cli.md is its reference.

Commands mirror the Python facade. The answer goes to standard output, everything else to standard
error; with --json the answer is exactly one JSON value. Exit codes: see `exit_codes`.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from knowlex.cli import (
    conversation,
    database,
    evaluate,
    exit_codes,
    files,
    ingest,
    mcp_stdio,
    memory,
    monitoring,
    project,
    reembed,
    repair,
    search,
    serve,
    settings,
    streams,
    tokens,
    upkeep,
    work,
)
from knowlex.cli.door import Door, Group
from knowlex.terminal import one_line
from storage.errors import KnowlexError

LIKE = 0.75
"""How like what was given a name must be to be told: `wach` and `watch` are by 0.89, `help` and `health` by 0.6."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="knowlex", prog_name="knowlex", help="Show the version and exit.")
def cli() -> None:
    """Which passages of a project's files, conversations and memories matter for a question?

    \b
    Example:
      knowlex ingest handbook ./docs
      knowlex search handbook "how do refunds work?"

    Exit codes: 0 ok, 1 some files failed, 2 usage, 3 not found, 4 database or configuration.
    """


for command in (
    project.project,
    ingest.ingest,
    files.files,
    files.file,
    work.retry,
    work.work,
    serve.serve,
    search.search,
    memory.memory,
    conversation.conversation,
    settings.settings,
    tokens.token,
    monitoring.stats,
    monitoring.health,
    database.verify,
    repair.repair,
    database.migrate,
    upkeep.backup,
    upkeep.restore,
    upkeep.maintain,
    upkeep.erase,
    reembed.reembed,
    evaluate.evaluate,
    mcp_stdio.mcp,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; every error is one line on standard error."""
    # Only `eval` has a product for BLAS, a small one; the threads that numpy starts for it cost a search an eighth.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    streams.open_missing()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    door = Door()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments), door)
    except BrokenPipeError:
        code = exit_codes.BROKEN_PIPE
    except Exception as error:
        if door.verbose:
            streams.tell("".join(traceback.format_exception(error)).rstrip())
        _complain(f"{type(error).__name__}: {error}; this is a fault in Knowlex: -v shows where it happened")
        code = exit_codes.BUG
    streams.silence_failing()
    return code


def _run(arguments: list[str], door: Door) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        with cli.make_context("knowlex", arguments, obj=door) as context:
            return cli.invoke(context) or exit_codes.OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        streams.tell(error.format_message())
        return exit_codes.USAGE
    except click.ClickException as error:
        _complain(_worded(error))
        return exit_codes.USAGE
    except (KeyboardInterrupt, click.Abort):
        return exit_codes.INTERRUPTED
    except KnowlexError as error:
        _complain(error.message)
        return exit_codes.of_error(error)
    except streams.OutputError as error:
        _complain(str(error))
        return exit_codes.DATABASE


def _worded(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    name = context.command_path if context else "knowlex"
    message = error.format_message()
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand) and not _near(error):
        message = error.message
        if context and _takes_arguments(context.command):
            message = f"{message.rstrip('.')}; put -- before text that begins with a dash"
    if "unexpected extra argument" in message:
        message += "; put quotes around what has several words"
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} See {name} --help."


def _takes_arguments(command: click.Command) -> bool:
    return any(isinstance(parameter, click.Argument) for parameter in command.params)


def _near(error: click.NoSuchOption | click.NoSuchCommand) -> bool:
    """Tell whether what may be meant is like what was given, but for dashes."""
    from difflib import SequenceMatcher  # hardly ever needed

    given = error.option_name if isinstance(error, click.NoSuchOption) else error.command_name
    near = ((given.strip("-"), other.strip("-")) for other in error.possibilities or ())
    return any(SequenceMatcher(None, *pair).ratio() >= LIKE for pair in near)


def _complain(message: str) -> None:
    streams.tell(f"knowlex: {one_line(message)}")

"""Standard input, output and error as cron, a supervisor or a shell leaves them: closed, full, without a reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TextIO

import click


def open_missing() -> None:
    """Have a stream that was closed before the start lead nowhere, as one to /dev/null does.

    Else the next file that is opened gets its number, and what a library or a child prints is written into that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf8", errors="backslashreplace"))


class OutputError(Exception):
    """What cannot be written to standard output, as one line: the cause and the remedy."""


@contextmanager
def answering(*, done: bool = False) -> Generator[None]:
    """Have what the system says of the block, which writes to standard output, name that; a lost reader is no error.

    done: whether the answer tells of what was changed: whoever asks again would change it twice.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        remedy = (
            "what was asked for is done, only its answer is lost: see to where it leads, and look before doing it again"
            if done
            else "see to where it leads, then ask again"
        )
        raise OutputError(f"standard output: cannot be written ({error.strerror}); {remedy}") from error


def tell(text: str) -> None:
    """Print a line to standard error; that nobody can read it is no reason to fail."""
    try:
        click.echo(text, err=True)
    except OSError:
        _silence(sys.stderr)


def silence_failing() -> None:
    """Let nothing more be written where it does not get out, or Python ends with a complaint and exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

"""Text that a command takes as an argument, or, where that is a dash alone, from standard input."""

from __future__ import annotations

import sys

import click


def given(text: str) -> str:
    """Return what was given, a dash replaced by standard input without its last line end.

    Raises click.UsageError for what is not UTF-8.
    """
    return _read().removesuffix("\n") if text == "-" else text


def _read() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 (byte {error.start + 1}); convert it to UTF-8.") from None

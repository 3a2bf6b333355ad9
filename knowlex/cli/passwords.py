"""`--pdf-password-file`: what opens encrypted PDFs, for the commands that read files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from storage.errors import UsageError
from storage.paths import given_path

passwords_option = click.option(
    "--pdf-password-file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Passwords for encrypted PDFs, one a line; - reads them from standard input.",
)


def passwords_of(source: Path | None) -> tuple[str, ...]:
    """Return the passwords of a file, one a line; the line end alone is not part of one."""
    if source is None:
        return ()
    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else given_path(source, "FILE").read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"--pdf-password-file {source}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--pdf-password-file {source}: not UTF-8 text; save it as UTF-8") from error
    return tuple(line for line in lines if line)

"""Files that a user names to be written: nothing but an older one of the same kind is ever replaced.

A new one gets its name when it is whole and on the disk, and is for its owner alone (0600).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from storage import scratch
from storage.errors import UsageError
from storage.paths import own_files
from storage.snapshot import copied


@dataclass(frozen=True, slots=True)
class Kind:
    """What is written: its name in messages, and how each such file begins that is not empty."""

    name: str
    beginning: re.Pattern[bytes]


HEAD_BYTES = 2**20
"""How much of a file is looked at to tell what it is."""


def require_free(target: Path, database: Path, kind: Kind) -> None:
    """Raise UsageError unless `target` can be written and is new, empty or an older file of that kind."""
    require_apart(target, database)
    try:
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; give a file")
        if target.is_file() and not _is_older(target, kind):
            raise UsageError(f"{target}: exists and is no older {kind.name}; give another file, or remove it first")
        if not is_stream(target):
            tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(target))).close()
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror}); give another file") from error


def require_apart(target: Path, database: Path) -> None:
    """Raise UsageError for a file that belongs to the database, under whichever name, and for "-"."""
    if str(target) == "-":
        raise UsageError("-: standard output is for the answer; give the name of a file")
    place, real = os.path.realpath(target), Path(os.path.realpath(database))
    own = {os.path.realpath(file) for path in (database, real) for file in own_files(path)}
    unfinished = os.path.basename(place).startswith(scratch.beginnings(real)) and ".scratch" in place
    if place in own or unfinished or any(same(target, Path(file)) for file in own):
        raise UsageError(f"{target}: belongs to the database itself; give another file")
    for file in (target, Path(place)):
        of = copied(file)
        if of and (os.path.isfile(of) or same(of, real)):  # is_file raises where a folder may not be looked into
            raise UsageError(
                f"{target}: belongs to {of.name}, with the copies of which erase would remove it; give another file"
            )


def same(one: Path, other: Path) -> bool:
    """Tell whether two names lead to one file, or would once it is written."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except OSError:
        return False


def is_stream(target: Path) -> bool:
    """Tell whether a name leads to a pipe or device, which may have no other name than that, and is written once."""
    return os.path.exists(target) and not os.path.isfile(target)


def _is_older(file: Path, kind: Kind) -> bool:
    with file.open("r+b") as stream:  # what may not be written is not replaced either
        head = stream.read(HEAD_BYTES)
    return not head or kind.beginning.match(head) is not None


@contextmanager
def replacing(target: Path, database: Path) -> Generator[BinaryIO]:
    """Give a stream to write `target` by, which stays what it was where the block raises.

    A link stays, and what it leads to is replaced; a pipe or device is written to.
    Raises DiskFullError and DatabaseError where it cannot be written.
    """
    if is_stream(target):
        with scratch.writing(target), target.open("wb") as stream:
            yield stream
        return
    place = Path(os.path.realpath(target))
    scratch.sweep(database, place.parent)
    with scratch.beside(place, database) as unfinished:
        with scratch.writing(target), unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        scratch.put(unfinished, place)

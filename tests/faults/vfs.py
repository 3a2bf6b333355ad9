"""A file system under SQLite that tells of every change before it is made, and may refuse it.

apsw passes shared memory and locks through, so that write-ahead mode works as it does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw

Kind = Literal["open", "write", "truncate", "sync", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something about to be done to a file: `data` at `offset` of a write, the new size of a truncation."""

    kind: Kind
    path: Path
    offset: int = 0
    data: bytes = b""


class WatchedDisk(apsw.VFS):
    """Until `close`, every file that SQLite opens in this process; `watch` may raise an apsw error to refuse a change."""

    def __init__(self, watch: Callable[[Change], None]) -> None:
        super().__init__("watched", "unix", makedefault=True)
        self.watch = watch

    def xOpen(self, name: Any, flags: list[int]) -> WatchedFile:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        self.watch(Change("open", path))
        return WatchedFile(self.watch, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.watch(Change("delete", Path(filename)))
        super().xDelete(filename, syncdir)

    def close(self) -> None:
        """Give the place of the default back; files that are open stay watched."""
        self.unregister()


class WatchedFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, watch: Callable[[Change], None], path: Path, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._watch, self._path = watch, path

    def xWrite(self, data: bytes, offset: int) -> None:
        self._watch(Change("write", self._path, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._watch(Change("truncate", self._path, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._watch(Change("sync", self._path))
        super().xSync(flags)


class Countdown:
    """Acts at the nth change of one kind (or of any), counted from 1; every later one too where `lasting`."""

    def __init__(self, kind: str, nth: int, act: Callable[[], None], *, lasting: bool = False) -> None:
        self._kind, self._left, self._act, self._lasting = kind, nth, act, lasting
        self.acted = False

    def __call__(self, change: Change) -> None:
        if self._kind not in ("any", change.kind) or (self._kind == "any" and change.kind == "open"):
            return
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._lasting):
            self.acted = True
            self._act()


def full() -> None:
    """Say what a full disk says."""
    raise apsw.FullError("planted: no space left")


def broken() -> None:
    """Say what a broken disk says."""
    raise apsw.IOError("planted: input/output error")


def unlinked(path: Path) -> bool:
    """Tell whether a database has left neither log nor shared memory behind."""
    return not any(os.path.exists(f"{path}{end}") for end in ("-wal", "-shm", "-journal"))

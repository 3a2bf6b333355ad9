"""A file system under SQLite that tells of every change before it is made, and may refuse it.

apsw passes shared memory and locks through, so that write-ahead mode works as it does without.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import apsw

Kind = Literal["open", "write", "truncate", "sync", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something about to be done to a file: `data` at `offset` of a write, the new size of a truncation.

    folder: of a deletion, whether the folder is synced after it.
    """

    kind: Kind
    path: Path
    offset: int = 0
    data: bytes = b""
    folder: bool = False


class WatchedDisk(apsw.VFS):
    """Until `close`, every file that SQLite opens in this process; `watch` may refuse a change by an apsw error."""

    def __init__(self, watch: Callable[[Change], None]) -> None:
        super().__init__("watched", "unix", makedefault=True)
        self.watch = watch

    def xOpen(self, name: Any, flags: list[int]) -> WatchedFile:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        self.watch(Change("open", path))
        return WatchedFile(self.watch, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.watch(Change("delete", Path(filename), folder=syncdir))
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


Call = Literal["open", "read", "write", "truncate", "delete"]
"""A call of SQLite's to the system. It does not let its syncs be replaced: see `WatchedDisk`."""

_PATH, _INT, _LONG, _VOID = ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
_CALLS: dict[str, tuple[str, type, tuple[type, ...]]] = {
    "open": ("open", _INT, (_PATH, _INT, _INT)),
    "read": ("pread64", ctypes.c_ssize_t, (_INT, _VOID, ctypes.c_size_t, _LONG)),
    "write": ("pwrite64", ctypes.c_ssize_t, (_INT, _VOID, ctypes.c_size_t, _LONG)),
    "truncate": ("ftruncate", _INT, (_INT, _LONG)),
    "delete": ("unlink", _INT, (_PATH,)),
}


class FailingCalls:
    """In the block, the `nth` call of SQLite to the system fails in this process; where `lasting`, all from there on.

    nth 0: none fails, they are counted alone. error: what the system says, such as errno.ENOSPC.
    The engine sees what it sees of a true fault, with its own codes; an exception raised within a VFS
    comes out of apsw even where the engine passes an error over.
    """

    def __init__(self, call: Call, nth: int, error: int, *, lasting: bool = False) -> None:
        self.calls = 0
        self._nth, self._error, self._lasting = nth, error, lasting
        self._name, result, arguments = _CALLS[call]
        self._vfs = apsw.VFS("failing", "unix")
        self._original = cast(int, self._vfs.xGetSystemCall(self._name))
        prototype = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
        self._real = ctypes.cast(self._original, prototype)
        self._callback = prototype(self._call)

    @property
    def acted(self) -> bool:
        """Whether a call failed."""
        return 0 < self._nth <= self.calls

    def __enter__(self) -> FailingCalls:
        self._vfs.xSetSystemCall(self._name, cast(int, ctypes.cast(self._callback, _VOID).value))
        return self

    def __exit__(self, *_: object) -> None:
        self._vfs.xSetSystemCall(self._name, self._original)

    def _call(self, *arguments: Any) -> int:
        self.calls += 1
        if self.calls == self._nth or (self._lasting and self.acted):
            ctypes.set_errno(self._error)
            return -1
        return self._real(*arguments)

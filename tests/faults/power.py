"""Losses of power: what was written to a folder is recorded, and what a loss may leave of it is made.

What was synced is there. Of what was not, each write is kept, dropped or torn at a sector of 512
bytes, each truncation, new name, rename and deletion is kept or dropped: independently of each other,
as a disk's cache and a file system's journal write in any order. The folder itself must be synced for
names to outlast a loss, as POSIX has it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.vfs import Change, WatchedDisk

SECTOR = 512
LOGS = ("-wal", "-journal")
KEPT, DROPPED, TORN = "kept", "dropped", "torn"

Step = tuple[Any, ...]
"""What happened: a method of `Disk`, and its arguments."""

Patch = Callable[[Any, str, Any], None]
"""Sets an attribute until the test ends: `monkeypatch.setattr`."""


@dataclass(slots=True)
class Inode:
    """A file: the bytes that are safe, and the changes to them that are not, oldest first."""

    safe: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    synced: bool = False

    def sync(self) -> None:
        for offset, data in self.changes:
            _apply(self.safe, offset, data)
        self.changes.clear()
        self.synced = True

    def after_a_loss(self, rng: random.Random, weights: tuple[int, int, int]) -> bytes:
        """Return what a loss of power leaves."""
        left = bytearray(self.safe)
        for offset, data in self.changes:
            fate = rng.choices((KEPT, DROPPED, TORN), weights)[0]
            if fate == TORN and data:
                data = data[: max(0, rng.randrange(len(data) + SECTOR) // SECTOR * SECTOR - offset % SECTOR)]
            if fate == KEPT or (fate == TORN and data):
                _apply(left, offset, data)
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write `data` at an offset, or cut the file there where there is none."""
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


class Disk:
    """A folder: what processes see of it, and what of that is safe."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.promises: dict[Any, Any] = {}
        self._safe: dict[str, Inode] = {}
        self._changes: list[dict[str, Inode | None]] = []

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._inode(name).changes.append((offset, data))

    def truncate(self, name: str, size: int) -> None:
        self._inode(name).changes.append((size, None))

    def sync(self, name: str) -> None:
        """Sync a file; the engine syncs the folder, too, when it first syncs a log."""
        inode = self._inode(name)
        if name.endswith(LOGS) and not inode.synced:
            self.sync_folder()
        inode.sync()

    def create(self, name: str) -> None:
        self._inode(name)

    def remove(self, name: str) -> None:
        if self.names.pop(name, None) is not None:
            self._changes.append({name: None})

    def rename(self, name: str, target: str) -> None:
        self.names[target] = self.names.pop(name)
        self._changes.append({name: None, target: self.names[target]})

    def link(self, name: str, target: str) -> None:
        self.names[target] = self.names[name]
        self._changes.append({target: self.names[target]})

    def sync_folder(self) -> None:
        self._safe = dict(self.names)
        self._changes.clear()

    def promise(self, key: Any, value: Any) -> None:
        """From here on `key` must be found with this value; None: nothing is promised of it for now."""
        self.promises[key] = value

    def after_a_loss(self, rng: random.Random) -> dict[str, bytes]:
        """Return the files that a loss of power leaves, and a shared memory of no meaning."""
        weights = rng.choice(((1, 1, 1), (8, 1, 1), (1, 8, 1)))
        names: dict[str, Inode | None] = dict(self._safe)
        for change in self._changes:
            if rng.random() < 0.5:
                names |= change
        left = {name: inode.after_a_loss(rng, weights) for name, inode in names.items() if inode is not None}
        shared = {f"{name.removesuffix('-wal')}-shm": rng.randbytes(32_768) for name in left if name.endswith("-wal")}
        return left | (shared if rng.random() < 0.5 else {})

    def _inode(self, name: str) -> Inode:
        if name not in self.names:
            self.names[name] = Inode()
            self._changes.append({name: self.names[name]})
        return self.names[name]


class Recorder:
    """Everything that this process does to the files of a folder, in its order, and what it promised of them."""

    def __init__(self, folder: Path) -> None:
        self.steps: list[Step] = []
        self.folder = folder.resolve()
        self._told: set[str] = set()

    def promise(self, key: Any, value: Any) -> None:
        self.steps.append(("promise", key, value))

    @contextmanager
    def recording(self, patch: Patch) -> Generator[None]:
        """Record what is done in the block, by SQLite and by `os`."""
        _Shim(self).plant(patch)
        disk = WatchedDisk(self._engine)
        try:
            yield
        finally:
            disk.close()

    def named(self, path: Any) -> str | None:
        """Return the name of a file of the folder, None for all others."""
        path = Path(os.path.abspath(os.fsdecode(path)))
        return path.name if path.parent == self.folder else None

    def whole(self, name: str) -> None:
        """Record the bytes of a file that something else than SQLite wrote."""
        if name not in self._told:
            self._told.add(name)
            self.steps.append(("write", name, 0, (self.folder / name).read_bytes()))

    def _engine(self, change: Change) -> None:
        name = self.named(change.path) if change.path.name else None
        if name is None or change.kind == "open" or name.endswith("-shm"):
            return
        self._told.add(name)
        match change.kind:
            case "write":
                self.steps.append(("write", name, change.offset, change.data))
            case "truncate":
                self.steps.append(("truncate", name, change.offset))
            case "sync":
                self.steps.append(("sync", name))
            case "delete":
                self.steps.append(("remove", name))
                self.steps += [("sync_folder",)] * change.folder


@dataclass(slots=True)
class _Shim:
    """Stands in front of the functions of `os` that change names, and that sync."""

    recorder: Recorder

    def plant(self, patch: Patch) -> None:
        for name in ("open", "fsync", "replace", "rename", "link", "unlink"):
            patch(os, name, self._around(getattr(os, name), getattr(self, f"_{name}")))

    def _around(self, original: Callable[..., Any], told: Callable[..., Iterator[Step]]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steps = list(told(*args))
            result = original(*args, **kwargs)
            self.recorder.steps += steps
            return result

        return call

    def _open(self, path: Any, flags: int, *_: Any) -> Iterator[Step]:
        name = self.recorder.named(path)
        if name and flags & os.O_CREAT and not os.path.exists(path):
            yield ("create", name)

    def _fsync(self, descriptor: int) -> Iterator[Step]:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if Path(path) == self.recorder.folder:
            yield ("sync_folder",)
        elif name := self.recorder.named(path):
            self.recorder.whole(name)
            yield ("sync", name)

    def _replace(self, source: Any, target: Any) -> Iterator[Step]:
        return self._named_anew("rename", source, target)

    def _rename(self, source: Any, target: Any) -> Iterator[Step]:
        return self._named_anew("rename", source, target)

    def _link(self, source: Any, target: Any) -> Iterator[Step]:
        return self._named_anew("link", source, target)

    def _named_anew(self, step: str, source: Any, target: Any) -> Iterator[Step]:
        name, new = self.recorder.named(source), self.recorder.named(target)
        if name and new and os.path.exists(source) and (step == "rename" or not os.path.exists(target)):
            self.recorder.whole(name)
            yield (step, name, new)

    def _unlink(self, path: Any, *_: Any) -> Iterator[Step]:
        if (name := self.recorder.named(path)) and os.path.exists(path):
            yield ("remove", name)


@dataclass(frozen=True, slots=True)
class Image:
    """What a loss of power after `step` left, and what had been promised by then."""

    step: int
    files: dict[str, bytes]
    promises: dict[Any, Any]

    def lay(self, folder: Path) -> None:
        """Write the files into an empty folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def images(steps: list[Step], count: int, rng: random.Random) -> Iterator[Image]:
    """Lose the power at `count` random points of a record."""
    disk, done = Disk(), 0
    for point in sorted(rng.randrange(len(steps) + 1) for _ in range(count)):
        for kind, *arguments in steps[done:point]:
            getattr(disk, kind)(*arguments)
        done = point
        yield Image(point, disk.after_a_loss(rng), dict(disk.promises))


def hasty_names(steps: list[Step]) -> list[str]:
    """Return the names that were given to files not synced yet, and those that the folder was not synced after."""
    disk, hasty = Disk(), []
    fresh: list[str] = []
    for kind, *arguments in [*steps, ("promise", None, None)]:
        if kind in ("rename", "link"):
            source, target = arguments
            fresh.append(f"{target} (folder)")
            if disk.names[source].changes:
                hasty.append(f"{target} (bytes)")
        elif kind == "sync_folder":
            fresh.clear()
        elif kind in ("write", "promise"):
            hasty += fresh
            fresh.clear()
        getattr(disk, kind)(*arguments)
    return hasty

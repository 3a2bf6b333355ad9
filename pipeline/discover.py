"""Find the files below some folders without being led astray (and see `regular_file`, which reads one).

Paths are bytes, as a name need not be UTF-8. Nothing is opened by way of a link, in whatever part of its path, and a
folder must be the one that its parent listed: what is put in its place between two looks leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from pipeline.regular_file import FOLDER, NAME_ONLY, Found, open_without_links
from storage.errors import ForbiddenError, NotFoundError, UsageError


@dataclass(frozen=True, slots=True)
class Passed:
    """A file that is not taken, and why, in words."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder whose files are unknown: nothing below it may be taken for deleted."""

    path: bytes
    error: str


Seen = Found | Passed | Unreadable


def discover(
    roots: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
    never_open: Mapping[tuple[int, int], str] | None = None,
    within: Sequence[bytes] | None = None,
) -> Iterator[Seen]:
    """Every file below the roots, each once, in the order of the roots and of the names' bytes.

    Of several roots those that are not taken come last, as another root may take them.
    roots: files or folders; one given by name is never "hidden".
    include, exclude: patterns as in `.gitignore`, relative to each root; without `include` all are in.
        A folder that is excluded or hidden is not entered, and nothing below it is reported. An accented letter
        matches whether it is written as one character or as two.
    hidden: whether names that begin with a dot are taken.
    never_open: what files of these (device, inode) are that are never taken, such as the database's own, and what
        folders that are never entered.
    within: folders, by their real paths, outside of which nothing may be touched; None for no such bound.
    Links are not walked: what one points to inside the root is met there under its real path, and what
        lies outside the root is not taken.
    Raises NotFoundError for a missing root, ForbiddenError for one that is not within, and UsageError for a bad
    pattern, before anything is walked.
    """
    rules = _Rules(_patterns(include, "--include"), _patterns(exclude, "--exclude"), hidden, never_open or {})
    return _discover(starts(roots, within), rules)


def starts(roots: Sequence[Path], within: Sequence[bytes] | None = None) -> list[bytes]:
    """Return the real paths that a walk of these roots begins at; see `discover`.

    With `within` no link is followed to them, so that nobody learns what is there outside.
    """
    return [_start(root) if within is None else _start_within(os.fsencode(root), within) for root in roots]


def _patterns(lines: Sequence[str], option: str) -> GitIgnoreSpec | None:
    try:
        return GitIgnoreSpec.from_lines(map(_composed, lines), backend="simple") if lines else None
    except ValueError as error:
        raise UsageError(f"{option}: not a pattern as in .gitignore: {error}") from error


def _composed(text: str) -> str:
    """Text in NFC, in which patterns and names are compared: Macs store "ü" as two characters, keyboards type one.

    Escaped bytes of names that are no UTF-8 stay as they are.
    """
    return unicodedata.normalize("NFC", text)


def _start(root: Path) -> bytes:
    real = os.path.realpath(os.fsencode(root))
    if not os.path.lexists(real):
        raise NotFoundError(f"{root}: no such file or folder: check the path, or mount the disk it is on")
    return real


def _start_within(root: bytes, within: Sequence[bytes]) -> bytes:
    inside = any(os.path.join(root, b"").startswith(os.path.join(folder, b"")) for folder in within)
    if not inside or b".." in root.split(b"/"):
        raise ForbiddenError(f"{os.fsdecode(root)}: not within what may be taken in")
    if not _is_there(root):
        raise NotFoundError(f"{os.fsdecode(root)}: no such file or folder, or only by way of a link; check the path")
    return root


def _is_there(path: bytes) -> bool:
    """Tell whether there is something at a path, and no link on the way or in its place."""
    try:
        descriptor = open_without_links(path, NAME_ONLY)
    except OSError:
        return False
    try:
        return not stat.S_ISLNK(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _discover(starts: Sequence[bytes], rules: _Rules) -> Iterator[Seen]:
    """Walk the roots; where they overlap, a file is given once, and one root's "yes" beats another's "no"."""
    if len(starts) == 1:
        yield from _Walk(starts[0], rules).all()
        return
    found: set[bytes] = set()
    other: dict[bytes, Passed | Unreadable] = {}
    for start in starts:
        for seen in _Walk(start, rules).all():
            if not isinstance(seen, Found):
                other.setdefault(seen.path, seen)
            elif seen.path not in found:
                found.add(seen.path)
                yield seen
    yield from (seen for path, seen in other.items() if path not in found)


@dataclass(frozen=True, slots=True)
class _Rules:
    include: GitIgnoreSpec | None
    exclude: GitIgnoreSpec | None
    hidden: bool
    never_open: Mapping[tuple[int, int], str]

    def excludes(self, relative: bytes, *, folder: bool) -> bool:
        """Whether a pattern shuts a path out, by itself or by a folder above it."""
        if self.exclude is None:
            return False
        return self.exclude.match_file(_composed(os.fsdecode(relative)) + ("/" if folder else ""))

    def never(self, status: os.stat_result) -> str:
        """Why a file is never taken, or a folder never entered, whatever the patterns say; empty if it may be."""
        return self.never_open.get((status.st_dev, status.st_ino), "")

    def refusal(self, relative: bytes, status: os.stat_result) -> str:
        """Why a file is not taken; empty if it is."""
        if not stat.S_ISREG(status.st_mode):
            return f"not a regular file ({_file_type(status.st_mode)})"
        if own := self.never(status):
            return own
        if self.excludes(relative, folder=False):
            return "excluded by pattern"
        if self.include is not None and not self.include.match_file(_composed(os.fsdecode(relative))):
            return "not included by any pattern"
        return ""


def _file_type(mode: int) -> str:
    for test, name in ((stat.S_ISFIFO, "fifo"), (stat.S_ISSOCK, "socket"), (stat.S_ISLNK, "link")):
        if test(mode):
            return name
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "special"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name in a folder and what `lstat` said of it when the folder was listed."""

    path: bytes
    status: os.stat_result

    @property
    def is_hidden(self) -> bool:
        return os.path.basename(self.path).startswith(b".")


@dataclass(frozen=True, slots=True)
class _Walk:
    """One root, walked depth first."""

    root: bytes
    rules: _Rules

    def all(self) -> Iterator[Seen]:
        """The root itself if it is a file, else everything in it."""
        try:
            start = _Entry(self.root, os.lstat(self.root))
        except OSError as error:  # it was there a moment ago
            yield Unreadable(self.root, _reason(error))
            return
        if self.rules.never(start.status):
            yield Passed(start.path, self.rules.never(start.status))
        elif stat.S_ISDIR(start.status.st_mode):
            yield from self._tree(start)
        else:
            yield self._file(start, os.path.basename(start.path))

    def _tree(self, start: _Entry) -> Iterator[Seen]:
        stack = [_listed(start)]  # not recursion: a tree may be deeper than Python's stack
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
            elif isinstance(entry, Unreadable):
                yield entry
            elif not stat.S_ISDIR(entry.status.st_mode):
                yield self._judged(entry)
            elif self._enters(entry):
                stack.append(_listed(entry))

    def _enters(self, folder: _Entry) -> bool:
        if (folder.is_hidden and not self.rules.hidden) or self.rules.never(folder.status):
            return False
        return not self.rules.excludes(self._relative(folder.path), folder=True)

    def _judged(self, entry: _Entry) -> Found | Passed:
        if entry.is_hidden and not self.rules.hidden:
            return Passed(entry.path, "hidden")
        if stat.S_ISLNK(entry.status.st_mode):
            return Passed(entry.path, self._link_reason(entry.path))
        return self._file(entry, self._relative(entry.path))

    def _file(self, entry: _Entry, relative: bytes) -> Found | Passed:
        status = entry.status
        refusal = self.rules.refusal(relative, status)
        if refusal:
            return Passed(entry.path, refusal)
        times = status.st_mtime_ns, status.st_ctime_ns
        return Found(entry.path, status.st_size, *times, status.st_ino, status.st_dev)

    def _link_reason(self, link: bytes) -> str:
        inside = os.path.join(self.root, b"")
        try:
            target = os.path.realpath(link)
        except OSError:  # it went while it was followed
            return "broken symlink"
        if not os.path.join(target, b"").startswith(inside):
            return "symlink out of the root"  # whether there is anything out there is not told
        if not os.path.exists(link):
            return "broken symlink"
        return "symlink inside the root: its target counts under its own path"

    def _relative(self, path: bytes) -> bytes:
        return path[len(os.path.join(self.root, b"")) :]


def _listed(folder: _Entry) -> Iterator[_Entry | Unreadable]:
    """Entries of a folder by the bytes of their names, or the fact that it cannot be listed."""
    try:
        return iter(_list(folder))
    except OSError as error:
        return iter([Unreadable(folder.path, _reason(error))])


def _list(folder: _Entry) -> list[_Entry | Unreadable]:
    if os.scandir not in os.supports_fd:  # Windows, where no link can be refused either
        with os.scandir(folder.path) as entries:
            return sorted(_entries(folder.path, entries), key=_path)
    descriptor = open_without_links(folder.path, os.O_RDONLY | FOLDER)
    try:
        _expect_same(os.fstat(descriptor), folder.status)
        with os.scandir(descriptor) as entries:
            return sorted(_entries(folder.path, entries), key=_path)
    finally:
        os.close(descriptor)


def _path(entry: _Entry | Unreadable) -> bytes:
    return entry.path


def _entries(
    folder: bytes, entries: Iterable[os.DirEntry[str]] | Iterable[os.DirEntry[bytes]]
) -> Iterator[_Entry | Unreadable]:
    for entry in entries:
        path = os.path.join(folder, os.fsencode(entry.name))
        try:
            yield _Entry(path, entry.stat(follow_symlinks=False))
        except FileNotFoundError:  # deleted since the folder was listed
            continue
        except OSError as error:
            yield Unreadable(path, _reason(error))


def _expect_same(now: os.stat_result, listed: os.stat_result) -> None:
    if (now.st_dev, now.st_ino) != (listed.st_dev, listed.st_ino):
        raise OSError(errno.ESTALE, "another folder was put in its place")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def is_gone(path: bytes, real: dict[bytes, bool] | None = None) -> bool:
    """Tell whether no file has this real path any more: nothing, a folder, or what only a link leads to is there.

    A walk goes through no link, so what is to be had by one is met elsewhere, under its own name, or not at all.
    real: what was found out about folders, for one look at many names. Raises OSError where nobody can tell, as the
    rights of a folder above or a failing disk hide it.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    if not stat.S_ISREG(status.st_mode):
        return True
    folder, known = os.path.dirname(path), {} if real is None else real
    if folder not in known:
        # Not by `open_without_links`: where capitals do not count, it refuses other spellings, too.
        known[folder] = os.path.realpath(folder) == folder
    return not known[folder]

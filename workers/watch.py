"""Tells when something changes in folders, so that they are scanned again: watchfiles does the watching."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import Change, watch

from storage.errors import TransientError
from storage.paths import own_files

SETTLE_MS = 1000
"""Changes that follow each other closer than this are told as one: a program saves a file in several steps."""

_LIVE_MS = 500


class FolderWatch:
    """Watches folders and files from threads of its own, until it is closed.

    A change wakes `wait` once; so does the moment from which on changes are seen, as nobody told of those before, and
    the one from which on they are seen no more. What changes in the database's own files, or, unless `hidden` is set,
    under a name that begins with a dot is not told; nor what lies beside a file that is watched alone.
    """

    def __init__(self, roots: Sequence[Path], database: Path, *, hidden: bool = False) -> None:
        self.hidden = hidden
        self._roots = [os.fspath(root) for root in roots]
        self._own: Collection[str] = {os.fspath(path.resolve()) for path in own_files(database)}
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._error: Exception | None = None
        # A file is seen by the folder it lies in: what replaces it on saving is another one under its name.
        folders = {root for root in roots if root.is_dir()}
        beside = {root.parent for root in roots if root not in folders}
        self._places = {place: _identity(place) for place in folders | beside}
        self._threads = [
            threading.Thread(target=self._watch, args=(sorted(places), recursive), name="watch")
            for places, recursive in ((folders, True), (beside, False))
            if places
        ]

    def wait(self, timeout_s: float) -> bool:
        """Wait for a change, for so long at most; tell whether there was one."""
        changed = self._changed.wait(timeout_s)
        self._changed.clear()
        return changed

    def stop(self) -> None:
        """Wake `wait` and end watching, from any thread."""
        self._ended.set()
        self._changed.set()

    @property
    def is_current(self) -> bool:
        """Whether what is watched is what has its name now; another folder put in its place is not watched."""
        return all(_identity(place) == identity for place, identity in self._places.items())

    def require_working(self) -> None:
        """Raise TransientError (unwatched) where changes are seen no more, with the cause."""
        if self._error is not None:
            raise TransientError(
                f"changes cannot be watched ({self._error}): close other programs that watch files, or raise the limits"
                " of the system (fs.inotify.max_user_instances and max_user_watches on Linux)",
                code="unwatched",
            ) from self._error

    def _watch(self, places: Sequence[Path], recursive: bool) -> None:
        try:
            self._tell_changes(places, recursive)
        except Exception as error:  # a place is gone, or the system watches no more; watchfiles has no common class
            self._error = error
            self._changed.set()

    def _tell_changes(self, places: Sequence[Path], recursive: bool) -> None:
        live = False
        for changes in watch(
            *places,
            watch_filter=self._is_wanted,
            debounce=SETTLE_MS,
            step=SETTLE_MS // 4,
            stop_event=self._ended,
            rust_timeout=_LIVE_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=recursive,
            ignore_permission_denied=True,
        ):
            if changes or not live:
                self._changed.set()
            live = True

    def _is_wanted(self, change: Change, path: str) -> bool:
        """Tell whether an ingestion could meet what changed.

        What Knowlex itself writes would wake the watcher for ever where the database lies in the folder.
        """
        if path in self._own or (os.path.basename(path).startswith(".") and path.endswith(".scratch")):
            return False
        return any(self._may_take(path, root) for root in self._roots)

    def _may_take(self, path: str, root: str) -> bool:
        if path == root:
            return True
        below = path.removeprefix(os.path.join(root, ""))
        return below != path and (self.hidden or not any(name.startswith(".") for name in below.split(os.sep)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()


def _identity(place: Path) -> tuple[int, int] | None:
    """Return device and inode of what is there; None where nothing is, or nobody may look."""
    try:
        status = place.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

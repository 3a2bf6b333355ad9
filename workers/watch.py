"""Tells when something changes in folders, so that they are scanned again: watchfiles does the watching."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import Change, DefaultFilter, watch

from storage.paths import own_files

SETTLE_MS = 1000
"""Changes that follow each other closer than this are told as one: a program saves a file in several steps."""

_LIVE_MS = 500


class FolderWatch:
    """Watches folders and files from a thread of its own, until it is closed.

    A change wakes `wait` once; so does the moment from which on changes are seen, as nobody told of those before. What
    changes in the database's own files, or in folders that no one ingests (.git, node_modules), is not told.
    """

    def __init__(self, roots: Sequence[Path], database: Path) -> None:
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._watch, args=(roots, _Filter(database)), name="watch")

    def wait(self, timeout_s: float) -> bool:
        """Wait for a change, for so long at most; tell whether there was one. Raises OSError where watching failed."""
        changed = self._changed.wait(timeout_s)
        self._changed.clear()
        if self._error is not None:
            raise self._error
        return changed

    def stop(self) -> None:
        """Wake `wait` and end watching, from any thread."""
        self._ended.set()
        self._changed.set()

    def _watch(self, roots: Sequence[Path], wanted: _Filter) -> None:
        try:
            self._tell_changes(roots, wanted)
        except OSError as error:  # a root is gone, or the system watches no more files
            self._error = error
            self._changed.set()

    def _tell_changes(self, roots: Sequence[Path], wanted: _Filter) -> None:
        live = False
        for changes in watch(
            *roots,
            watch_filter=wanted,
            debounce=SETTLE_MS,
            step=SETTLE_MS // 4,
            stop_event=self._ended,
            rust_timeout=_LIVE_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            if changes or not live:
                self._changed.set()
            live = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()


class _Filter(DefaultFilter):
    """Leaves out what Knowlex writes, which would wake the watcher for ever where the database lies in the folder."""

    def __init__(self, database: Path) -> None:
        super().__init__()
        self._own: Collection[str] = {str(path.resolve()) for path in own_files(database)}

    def __call__(self, change: Change, path: str) -> bool:
        return path not in self._own and not path.endswith(".scratch") and super().__call__(change, path)

"""A bar for people who wait: files done, passages a second, time left, failures."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from pipeline.ingest import Outcome, Result
from storage.queue import Claim
from workers.batch import Progress
from workers.scan import Fate, Scanned

REFRESH_S = 0.2


class Bar(Progress):
    """A tqdm bar on standard error (in a notebook, below the cell). Called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = self._refreshed = time.monotonic()
        self._chunks = self._failed = 0
        self._bar: Any = _tqdm()(total=0, unit="file", desc="ingesting", dynamic_ncols=True, leave=True)

    def scanned(self, item: Scanned) -> None:
        """Count a file that is to be processed."""
        if item.fate is Fate.QUEUED:
            with self._lock:
                self._bar.total += 1
                if time.monotonic() - self._refreshed > REFRESH_S:
                    self._refreshed = time.monotonic()
                    self._bar.refresh()

    def finished(self, claim: Claim, result: Result) -> None:
        """Count a file that was processed; one that is to be tried again is still to come."""
        if result.outcome not in (Outcome.READY, Outcome.FAILED, Outcome.VANISHED):
            return
        with self._lock:
            self._chunks += result.chunks
            self._failed += result.outcome is Outcome.FAILED
            self._bar.total += len(result.parts)
            rate = self._chunks / max(time.monotonic() - self._started, 0.001)
            # Files that an earlier run left in the queue were not met by this one's scan.
            self._bar.total = max(self._bar.total, self._bar.n + 1)
            self._bar.set_postfix_str(f"{rate:.0f} passages/s, {self._failed} failed", refresh=False)
            self._bar.update(1)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def watcher(progress: Progress | bool | None) -> Progress:
    """Return who watches a run: the caller's own, a bar, or nobody.

    None: a bar where a person looks on, which is on a terminal or in a notebook.
    """
    if isinstance(progress, Progress):
        return progress
    return Bar() if _is_watched(progress) else Progress()


def _is_watched(progress: bool | None) -> bool:
    return (sys.stderr.isatty() or _in_a_notebook()) if progress is None else progress


def _in_a_notebook() -> bool:
    """Whether this process is the kernel of a notebook; a program that drives one has its modules loaded, too."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


Counted = Callable[[int, int], object]
"""Called with how much is done and how much there is."""


class Count:
    """To be called with how many are done more; it passes on how many are done and how many there are."""

    def __init__(self, tell: Counted, total: int) -> None:
        self._tell = tell
        self._done, self._total = 0, total

    def __call__(self, more: int) -> None:
        self._done += more
        self._tell(self._done, max(self._done, self._total))

    def expect(self, left: int) -> None:
        """Say that so many are still to be done, where some have come in or gone meanwhile."""
        self._total = self._done + left


@contextmanager
def counting(progress: Counted | bool | None, total: int, does: str, *, unit: str = "passage") -> Generator[Count]:
    """Give what counts for the caller's own, a bar, or nobody."""
    if callable(progress):
        yield Count(progress, total)
    elif _is_watched(progress):
        with _tqdm()(total=total, unit=unit, desc=does, dynamic_ncols=True) as bar:
            yield Count(partial(_move, bar), total)
    else:
        yield Count(lambda done, total: None, total)


def _move(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _tqdm() -> Any:
    # tqdm.auto takes the notebook's widget, and complains where the widgets are not installed.
    if find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm

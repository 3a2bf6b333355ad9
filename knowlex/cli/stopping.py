"""End a long run when the process is told to: SIGINT (Ctrl-C) or SIGTERM.

The signal reaches a thread of its own through the wakeup descriptor, at once, even while the main
thread is inside the model or waits for the database. The handler itself does nothing, since it could
run while the main thread holds the very lock that stopping needs.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

GRACE_S = 8.0

ABANDON_S = 2.0
"""How long `abandon` may take: it may need a lock of the very thread that does not come to its end."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Told:
    """Which signal asked the run to end; None: no one did."""

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + (self.signal or 0)


@contextmanager
def stopping(stop: Callable[[], None], abandon: Callable[[], None]) -> Generator[Told]:
    """Call `stop` when the process is told to end while the block runs.

    Where the block is not left `GRACE_S` seconds later, or a second signal comes, `abandon` is called
    and the process ends on the spot, at the latest `ABANDON_S` later. Both are called from another thread.
    """
    told = Told()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_watch, args=(reader, told, stop, abandon), name="signals", daemon=True)
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    former = {number: signal.signal(number, _noted) for number in SIGNALS}
    watcher.start()
    try:
        yield told
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextmanager
def unwinding() -> Generator[None]:
    """Have SIGTERM end the block as Ctrl-C does, so that what is there for a while only is removed.

    To be used where the main thread is never in one call for long: a signal waits until that returns.
    """

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _noted(number: int, frame: object) -> None:
    """Handle a signal: the watcher was told by the wakeup descriptor already."""


def _watch(reader: int, told: Told, stop: Callable[[], None], abandon: Callable[[], None]) -> None:
    while True:
        patience = None if told.signal is None else GRACE_S
        ready, _, _ = select.select([reader], [], [], patience)
        number = int.from_bytes(os.read(reader, 1)) if ready else told.signal
        if not number:
            return  # the block has ended
        if number not in SIGNALS:
            continue
        if told.signal is not None:
            last = threading.Thread(target=abandon, daemon=True)
            last.start()
            last.join(ABANDON_S)
            os._exit(told.exit_code)
        told.signal = number
        stop()

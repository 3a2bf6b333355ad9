"""How the connections that write take turns at the write lock, of which the engine keeps no queue.

Whoever looks while the lock is free has it. One that writes without a break asks again within a fraction of a
millisecond of its commit, and so has the lock back before another looks: beside a slow disk or on few cores the
others then wait for many of its transactions, and for longest the one that was least lucky. Two habits make it fair
without a file or a server: who has met others holds back for a moment before it asks again, longer than the others
sleep between two looks; and the longer one has waited, the more often it looks, so that the eldest comes first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

LOOK_EVERY_S = 0.0025
"""How long a connection sleeps between two looks at first, give or take a half."""

LOOK_AT_LEAST_EVERY_S = 0.0002
HALVED_AFTER_S = 0.1
"""After this long a wait one looks twice as often as at first, after twice as long three times, and so on."""

HOLD_BACK_S = 0.005
COURTESIES = 8
"""How many of its next transactions a connection holds back for once it has had to wait."""


@dataclass(slots=True)
class Turns:
    """What one connection knows of the others: when it gave the lock back, and how often it is to hold back yet."""

    given_back_at: float = float("-inf")
    courtesies: int = 0

    @contextmanager
    def waiting(self, raw: apsw.Connection, wait_ms: int) -> Generator[None]:
        """Have the statement in the block, which takes the write lock, wait for it `wait_ms` at most."""
        self._hold_back()
        asked_at = time.monotonic()
        raw.set_busy_handler(lambda _: self._look_again(asked_at, wait_ms / 1000))
        try:
            yield
        finally:
            raw.set_busy_timeout(wait_ms)

    def give_back(self) -> None:
        """Note that the lock is free again."""
        self.given_back_at = time.monotonic()

    def _hold_back(self) -> None:
        if not self.courtesies:
            return
        self.courtesies -= 1
        rest = self.given_back_at + HOLD_BACK_S - time.monotonic()
        if rest > 0:
            time.sleep(rest)

    def _look_again(self, asked_at: float, wait_s: float) -> bool:
        self.courtesies = COURTESIES
        waited = time.monotonic() - asked_at
        every = max(LOOK_AT_LEAST_EVERY_S, LOOK_EVERY_S / (1 + waited / HALVED_AFTER_S))
        time.sleep(random.uniform(0.5, 1.5) * every)
        return time.monotonic() - asked_at < wait_s

"""A queue between two stages that is bounded by weight, so that memory stays flat."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Buffer(Generic[Item]):
    """Items with a weight (here: chunks), first in, first out, for several producers and consumers.

    `put` waits while the buffer is over its capacity; an item heavier than the whole capacity enters
    once the buffer is empty. After `close`, producers are refused and consumers get what is left.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[Item, int]] = deque()
        self._weight = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, weight: int) -> bool:
        """Add an item, waiting for room; return False when the buffer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._items or self._weight + weight <= self._capacity)
            if self._closed:
                return False
            self._items.append((item, weight))
            self._weight += weight
            self._changed.notify_all()
            return True

    def take(self, *, weight: int, wait_s: float | None) -> list[Item]:
        """Return items of about `weight` in all, waiting up to `wait_s` for the first (None: for ever).

        Empty when none came in time, or when the buffer is closed and drained.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout=wait_s)
            taken: list[Item] = []
            while self._items and weight > 0:
                item, its_weight = self._items.popleft()
                self._weight -= its_weight
                weight -= its_weight
                taken.append(item)
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Refuse further items and wake everyone who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

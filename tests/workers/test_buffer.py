"""The bounded buffer between two stages."""

from __future__ import annotations

import threading

from workers.buffer import Buffer


def test_items_come_out_in_order_up_to_a_weight() -> None:
    buffer: Buffer[str] = Buffer(10)
    for item in "abcd":
        buffer.put(item, 2)
    assert buffer.take(weight=3, wait_s=0) == ["a", "b"]
    assert buffer.take(weight=99, wait_s=0) == ["c", "d"]
    assert buffer.take(weight=99, wait_s=0) == []


def test_an_item_over_the_capacity_enters_an_empty_buffer() -> None:
    buffer: Buffer[str] = Buffer(1)
    assert buffer.put("huge", 100)


def test_a_full_buffer_makes_its_producer_wait() -> None:
    buffer: Buffer[str] = Buffer(1)
    buffer.put("a", 1)
    entered = threading.Event()
    producer = threading.Thread(target=lambda: (buffer.put("b", 1), entered.set()))
    producer.start()
    assert not entered.wait(0.05)
    assert buffer.take(weight=1, wait_s=0) == ["a"]
    assert entered.wait(5)
    producer.join()


def test_closing_wakes_everyone_and_leaves_what_is_there() -> None:
    buffer: Buffer[str] = Buffer(1)
    buffer.put("a", 1)
    refused: list[bool] = []
    producer = threading.Thread(target=lambda: refused.append(buffer.put("b", 1)))
    producer.start()
    buffer.close()
    producer.join()
    assert refused == [False]
    assert buffer.take(weight=9, wait_s=None) == ["a"]
    assert buffer.take(weight=9, wait_s=None) == []

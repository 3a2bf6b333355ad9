"""Ids are unique and sort by the time they were made; times are UTC text."""

from __future__ import annotations

import re
import uuid

from storage.ids import new_id, now_ms, now_text


def test_ids_are_unique_and_sort_by_the_time_they_were_made() -> None:
    made = [new_id() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)
    assert {uuid.UUID(id).version for id in made} == {7}


def test_times_are_utc_text_with_milliseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", now_text())
    assert now_ms() > 1_700_000_000_000

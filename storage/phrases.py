"""How often a phrase stands in a passage: an auxiliary function of FTS5, which has found the places already.

Of single tokens the index tells it by tokens of its own (`passage_tokens`); of phrases nobody can know beforehand.
Source: sqlite.org/fts5.html, "Custom Auxiliary Functions".
"""

from __future__ import annotations

from typing import Any

import apsw

from storage.connection import Connection, translated
from storage.passage_tokens import HEADING_WEIGHT, step_of

PHRASE_FREQUENCY = "phrase_frequency"


def register(connection: Connection) -> None:
    """Make `phrase_frequency(table)` known: the step of how often the last phrase of a query stands in the row."""
    if PHRASE_FREQUENCY not in connection.functions:
        with translated(connection.path, connection.raw):
            connection.raw.register_fts5_function(PHRASE_FREQUENCY, _frequency)  # pyright: ignore[reportUnknownMemberType]
        connection.functions.add(PHRASE_FREQUENCY)


def _frequency(api: apsw.FTS5ExtensionApi, *_given: Any) -> float:
    _, heading, body, _ = api.phrase_locations(api.phrase_count - 1)  # the projects' phrases come before
    return step_of(HEADING_WEIGHT * len(heading) + len(body))

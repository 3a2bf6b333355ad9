"""What an answer lacks: what cannot be read, what a bound left out, keys no file has, files that are still to read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches

from storage import allowed, queue
from storage.connection import Connection
from storage.filters import KEYS, METADATA, Filter, comparisons
from storage.text_query import QUOTED

NAMED = 5
"""Passages that cannot be read which a note names."""


def unreadable(ids: Sequence[str]) -> str:
    """Say which passages were found and left out, as what they hold is no text."""
    some = f"{', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''}"
    count = "1 passage" if len(ids) == 1 else f"{len(ids)} passages"
    return f"{count} left out that cannot be read ({some}); knowlex verify says more"


def too_long(tokens: Collection[int], most: int) -> str:
    """Say that hits of so many tokens, each with its window, were left out, as all together may have `most`."""
    if len(tokens) == 1:
        return f"1 hit left out: it has {min(tokens)} tokens, more than the {most} asked for"
    return f"{len(tokens)} hits left out: the shortest has {min(tokens)} tokens, more than the {most} asked for"


def too_low(best: float, least: float) -> str:
    """Say that even the best score is lower than the least that was asked for."""
    return f"the best score is {best:.3f}, below the {least:g} asked for"


def unknown_phrases(question: str) -> Iterator[str]:
    """Say which quoted words of a question that found nothing stand side by side in no passage."""
    for phrase in dict.fromkeys(QUOTED.findall(question)):
        if len(phrase.split()) > 1:
            yield f'no passage searched holds "{phrase}", these words side by side; without quotes, each counts'


def unknown_keys(db: Connection, filter: Filter, project_pk: int | None) -> Iterator[str]:
    """Say which keys of a filter no file has in its metadata, and which is near."""
    asked = {found.key.removeprefix(METADATA) for found in comparisons(filter) if found.key not in KEYS}
    if not asked:
        return
    unknown = sorted(asked - allowed.known_of(db, project_pk, asked))
    known = allowed.metadata_keys(db, project_pk) if unknown else set[str]()
    for key in unknown:
        near = get_close_matches(key, sorted(known | KEYS.keys()), n=1, cutoff=0.7)
        remedy = f"did you mean {near[0]}?" if near else "knowlex file show ID shows what a file has"
        yield f"no file here has the metadata {key!r}; {remedy}"


_TO_READ = "1 file still waits to be read", "files still wait to be read"

COUNTED = 1_000
"""Files that wait which are counted at most: of 14,000 that takes a search 0.04 ms, where all of them took 0.3."""


def still_to_read(db: Connection, project_pk: int | None) -> Iterator[str]:
    """Say how many files have not been read yet, whose passages the answer may be in.

    No remedy: over the network, others read them; see `is_still_to_read`.
    """
    waiting = queue.unfinished_at_most(db, project_pk, COUNTED + 1)
    if waiting:
        one, several = _TO_READ
        count = str(waiting) if waiting <= COUNTED else f"more than {COUNTED:,}"
        yield f"{count} {several}" if waiting > 1 else one


def is_still_to_read(note: str) -> bool:
    """Tell whether a note is that of `still_to_read`, for who knows what is to be done."""
    return note.endswith(_TO_READ)

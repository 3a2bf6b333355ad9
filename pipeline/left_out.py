"""What an answer lacks: what cannot be read, what a bound left out, keys nothing has, files that are still to read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches

from storage import allowed, queue
from storage.connection import Connection
from storage.filters import KEYS, METADATA, Filter, comparisons
from storage.sources import Source
from storage.text_query import QUOTED

NAMED = 5
"""Passages that cannot be read which a note names."""


def unreadable(ids: Sequence[str]) -> str:
    """Say which passages were found and left out, as what they hold is no text."""
    some = f"{', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''}"
    count = "1 passage" if len(ids) == 1 else f"{len(ids)} passages"
    return f"{count} left out that cannot be read ({some}); knowlex verify --deep says more"


def too_long(tokens: Collection[int], most: int) -> str:
    """Say that hits of so many tokens, each with its window, were left out, as all together may have `most`."""
    if len(tokens) == 1:
        return f"1 hit left out: it has {min(tokens)} tokens, more than the {most} asked for"
    return f"{len(tokens)} hits left out: the shortest has {min(tokens)} tokens, more than the {most} asked for"


def without_room(found: Sequence[str], shown: Collection[str], most: int) -> str:
    """Say how many of the passages found, best first, are not shown, as all together may have `most` tokens."""
    left = [place for place, id in enumerate(found) if id not in shown]
    first = next(place for place, id in enumerate(found) if id in shown)
    better = sum(place < first for place in left)
    count = "1 hit" if len(left) == 1 else f"{len(left)} hits"
    above = f", {better} of them better than all that are shown" if better else ""
    return f"{count} left out for want of room in the {most} tokens asked for{above}"


def too_low(best: float, least: float) -> str:
    """Say that even the best score is lower than the least that was asked for."""
    return f"the best score is {best:.3f}, below the {least:g} asked for"


def unknown_phrases(question: str) -> Iterator[str]:
    """Say which quoted words of a question that found nothing stand side by side in no passage."""
    for phrase in dict.fromkeys(QUOTED.findall(question)):
        if len(phrase.split()) > 1:
            yield f'no passage searched holds "{phrase}", these words side by side; without quotes, each counts'


_PLURALS = {Source.FILE: "files", Source.MEMORY: "memories", Source.MESSAGE: "messages"}


def unknown_keys(db: Connection, filter: Filter, project_pk: int | None, sources: Sequence[Source]) -> Iterator[str]:
    """Say which keys of a filter nothing of these sources has, and what has them, or which is near."""
    asked = {found.key for found in comparisons(filter)}.difference(*(allowed.KEYS_OF[source] for source in sources))
    for key in sorted(asked & KEYS.keys()):
        yield _of_others(key, sources, [source for source in Source if key in allowed.KEYS_OF[source]])
    metadata = {key.removeprefix(METADATA) for key in asked - KEYS.keys()}
    if not metadata:
        return
    known = allowed.known_of(db, project_pk, metadata)
    if Source.FILE in sources:
        yield from _unknown_metadata(db, project_pk, sorted(metadata - known))
        return
    for key in sorted(metadata):
        yield _of_others(key, sources, [Source.FILE]) if key in known else _of_none(key, sources)


def _of_others(key: str, sources: Sequence[Source], has: Sequence[Source]) -> str:
    # By then it is not known which of both was asked for.
    called = "'kind' or 'mime_type'" if key == "mime_type" else repr(key)
    plurals = " and ".join(_PLURALS[source] for source in has)
    return f"no {_any_of(sources)} has the key {called}, which is one of {plurals}; search these, too"


def _of_none(key: str, sources: Sequence[Source]) -> str:
    near = _near(key, KEYS)
    known = ", ".join(key for key in KEYS if any(key in allowed.KEYS_OF[source] for source in sources))
    return f"no {_any_of(sources)} has the key {key!r}; {f'did you mean {near}?' if near else f'known are {known}'}"


def _unknown_metadata(db: Connection, project_pk: int | None, unknown: Sequence[str]) -> Iterator[str]:
    known = allowed.metadata_keys(db, project_pk) if unknown else set[str]()
    for key in unknown:
        near = _near(key, known | KEYS.keys())
        remedy = f"did you mean {near}?" if near else "knowlex file show ID shows what a file has"
        yield f"no file here has the metadata {key!r}; {remedy}"


def _any_of(sources: Sequence[Source]) -> str:
    return " or ".join(source.value for source in sources)


def _near(key: str, known: Collection[str]) -> str | None:
    """Return the key that may be meant, in capitals or not."""
    folded = {each.lower(): each for each in sorted(known)}
    return next((folded[near] for near in get_close_matches(key.lower(), folded, n=1, cutoff=0.7)), None)


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

"""Give memories and messages the vectors they wait for, so that search by meaning finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from knowlex.engine import Engine
from pipeline.embed import PARTS, Embedder
from pipeline.encode import encode, require_sound
from storage import changes, pending, vectors
from storage.connection import Connection
from storage.errors import ModelSwitchedError, PermanentError, TransientError
from storage.event_log import EventLog
from storage.pending import Pending
from storage.sources import Source
from storage.vectors import Model, Vector

log = EventLog("knowlex.vectors")

BATCH = 64

PART_CHARACTERS = 1_000
"""About as much as the model takes at once: a longer text counts for as many as it has such parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which memories and messages are meant: those of a project (None: of all, and of none), of some sources."""

    project_pk: int | None = None
    sources: Collection[Source] = (Source.MEMORY, Source.MESSAGE)


ALL = Part()


def embed_pending(engine: Engine, limit: int = 1024, *, part: Part = ALL, timeout_ms: int | None = None) -> int:
    """Embed waiting memories and messages until `limit` is reached, and return how many got their vector.

    limit: how many, of which a long one counts for several; the last batch may go beyond.
    One that the model has no sound vector for, or whose text cannot be read, is logged and left out until it is
    changed, or the model is. timeout_ms: how long to wait for another thread that embeds some, beyond which these are
    left to it, and for other writers; by default for the thread as long as it takes, for writers 30 s. Raises
    LockedError beyond that, what `Engine.embedder` does, but loads no model when nothing waits, and ConfigurationError
    where the model has no sound vector for any text.
    """
    made = given = 0
    while given < limit and waits(engine, part):
        size, written, refused = _next(engine, min(BATCH, limit - given), part, timeout_ms)
        made, given = made + written, given + size
        if not written and not refused:
            break  # another thread has them in hand; or all were changed, and whoever changed them embeds them
    return made


def waits(engine: Engine, part: Part = ALL) -> bool:
    """Tell whether there is anything to embed."""
    return bool(_take(engine, 1, part))


def _take(engine: Engine, limit: int, part: Part) -> list[Pending]:
    with engine.database.read() as db:
        if pending.is_empty(db):
            return []
        live = vectors.live_model(db)
        encoder = engine.encoder(live) if live else ""
        return pending.take(db, limit, model=encoder, project_pk=part.project_pk, sources=part.sources)


def _next(engine: Engine, limit: int, part: Part, timeout_ms: int | None) -> tuple[int, int, int]:
    """Embed the next batch; return for how many it counts and what `_embed` does.

    That is none where another thread embeds past the time-out.
    """
    with _turn(engine, timeout_ms) as mine:
        taken = _take(engine, limit, part) if mine else []
        return (sum(map(_size, taken)), *_embed(engine, taken, timeout_ms)) if taken else (0, 0, 0)


def _size(row: Pending) -> int:
    return min(1 + len(row.text) // PART_CHARACTERS, PARTS)


@contextmanager
def _turn(engine: Engine, timeout_ms: int | None) -> Generator[bool]:
    """Hold what threads take turns by, and tell whether it is held."""
    mine = engine.embedding_pending.acquire(timeout=-1 if timeout_ms is None else timeout_ms / 1000)
    try:
        yield mine
    finally:
        if mine:
            engine.embedding_pending.release()


def _embed(engine: Engine, taken: Sequence[Pending], timeout_ms: int | None) -> tuple[int, int]:
    """Return how many got their vector, and how many cannot be read, or the model has no sound one for."""
    embedder, model = engine.embedder()
    made = _vectors(embedder, model, [row for row in taken if not row.damaged])
    made += [(row, None) for row in taken if row.damaged]
    try:
        with engine.database.write(timeout_ms=timeout_ms) as db:
            vectors.require_live(db, model.pk)
            current = set(pending.current(db, taken))
            found = [(row, vector) for row, vector in made if vector is not None and row in current]
            refused = [row for row, vector in made if vector is None and row in current]
            _put(db, model.pk, found)
            pending.refuse(db, refused, model=engine.encoder(model))
    except ModelSwitchedError:
        return _embed(engine, taken, timeout_ms)
    for row in refused:
        code = "damaged_value" if row.damaged else "no_vector"
        log.warning("found by words alone", source=row.source.value, id=row.id, error_code=code)
    return len(found), len(refused)


def _vectors(embedder: Embedder, model: Model, rows: Sequence[Pending]) -> list[tuple[Pending, Vector | None]]:
    """Return the vector of each row, or None where the model has none for that one alone."""
    if not rows:
        return []
    try:
        return list(zip(rows, encode(embedder, model, [row.text for row in rows], whole=True), strict=True))
    except (PermanentError, TransientError):
        if len(rows) == 1:
            require_sound(embedder, model)
            return [(rows[0], None)]
    middle = len(rows) // 2
    return [*_vectors(embedder, model, rows[:middle]), *_vectors(embedder, model, rows[middle:])]


def _put(db: Connection, model_pk: int, found: Sequence[tuple[Pending, Vector]]) -> None:
    groups: defaultdict[tuple[Source, int | None], list[tuple[int, bytes, Vector]]] = defaultdict(list)
    for row, vector in found:
        groups[row.source, row.project_pk].append((row.pk, vectors.input_hash(row.text), vector))
    for (source, project_pk), rows in groups.items():
        vectors.put(db, model_pk, project_pk, source, rows)
        pending.done(db, source, [pk for pk, _, _ in rows])
    for project_pk in {project_pk for _, project_pk in groups}:
        changes.bump(db, project_pk)

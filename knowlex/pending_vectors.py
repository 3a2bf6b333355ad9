"""Give memories and messages the vectors they wait for, so that search by meaning finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from knowlex.engine import Engine
from pipeline.embed import Embedder
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


def embed_pending(engine: Engine, limit: int = 1024, *, timeout_ms: int | None = None) -> int:
    """Embed up to `limit` waiting memories and messages and return how many got their vector.

    One that the model has no sound vector for is logged and left out until it is changed, or the model is.
    timeout_ms: how long to wait for other writers; 30 s by default. Raises LockedError beyond that, what
    `Engine.embedder` does, but loads no model when nothing waits, and ConfigurationError where the model has
    no sound vector for any text.
    """
    made = 0
    while made < limit and (taken := _take(engine, min(BATCH, limit - made))):
        written, refused = _embed(engine, taken, timeout_ms)
        made += written
        if not written and not refused:
            break  # all of them were changed meanwhile, and whoever changed them embeds them
    return made


def _take(engine: Engine, limit: int) -> list[Pending]:
    with engine.database.read() as db:
        if pending.is_empty(db):
            return []
        live = vectors.live_model(db)
        return pending.take(db, limit, model=engine.encoder(live) if live else "")


def _embed(engine: Engine, taken: Sequence[Pending], timeout_ms: int | None) -> tuple[int, int]:
    """Return how many got their vector, and how many the model has no sound one for."""
    embedder, model = engine.embedder()
    made = _vectors(embedder, model, taken)
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
        log.warning("found by words alone", source=row.source.value, id=row.id, error_code="no_vector")
    return len(found), len(refused)


def _vectors(embedder: Embedder, model: Model, rows: Sequence[Pending]) -> list[tuple[Pending, Vector | None]]:
    """Return the vector of each row, or None where the model has none for that one alone."""
    try:
        return list(zip(rows, encode(embedder, model, [row.text for row in rows]), strict=True))
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

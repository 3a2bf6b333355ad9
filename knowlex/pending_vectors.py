"""Give memories and messages the vectors they wait for, so that search by meaning finds them."""

from __future__ import annotations

from collections import defaultdict

from knowlex.engine import Engine
from storage import changes, pending, vectors
from storage.connection import Connection
from storage.pending import Pending
from storage.sources import Source
from storage.vectors import Vector

BATCH = 64


def embed_pending(engine: Engine, limit: int = 1024, *, timeout_ms: int | None = None) -> int:
    """Embed up to `limit` waiting memories and messages and return how many got their vector.

    timeout_ms: how long to wait for other writers; 30 s by default. Raises LockedError beyond that, and what
    `Engine.embedder` does, but loads no model when nothing waits.
    """
    made = 0
    while made < limit and (taken := _take(engine, min(BATCH, limit - made))):
        written = _embed(engine, taken, timeout_ms)
        if not written:
            break  # all of them were changed meanwhile, and whoever changed them embeds them
        made += written
    return made


def _take(engine: Engine, limit: int) -> list[Pending]:
    with engine.database.read() as db:
        return pending.take(db, limit)


def _embed(engine: Engine, taken: list[Pending], timeout_ms: int | None) -> int:
    embedder, model = engine.embedder()
    made = vectors.encode(embedder.embed_documents([row.text for row in taken]), dim=model.dim)
    with engine.database.write(timeout_ms=timeout_ms) as db:
        current = set(pending.current(db, taken))
        found = [(row, vector) for row, vector in zip(taken, made, strict=True) if row in current]
        _put(db, model.pk, found)
    return len(found)


def _put(db: Connection, model_pk: int, found: list[tuple[Pending, Vector]]) -> None:
    groups: defaultdict[tuple[Source, int | None], list[tuple[int, bytes, Vector]]] = defaultdict(list)
    for row, vector in found:
        groups[row.source, row.project_pk].append((row.pk, vectors.input_hash(row.text), vector))
    for (source, project_pk), rows in groups.items():
        vectors.put(db, model_pk, project_pk, source, rows)
        pending.done(db, source, [pk for pk, _, _ in rows])
    for project_pk in {project_pk for _, project_pk in groups}:
        changes.bump(db, project_pk)

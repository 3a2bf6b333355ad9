"""How one embedding model takes the place of another, while searches and ingestion go on.

    begin       the new model is entered as `building`; one at a time
    page        passages whose vectors are searched, in the order of their keys, for whoever embeds them
    keep        their vectors of the new model, beside the live ones
    switch      one transaction: nothing lacks a vector, so the new model is live and the old one retired
    drop        vectors of retired models go, some at a time

Deleting, moving and editing a passage takes its vectors of every model along, so that what is there is right
at any time, and a build that was interrupted goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from storage import changes, pending, vectors
from storage.connection import Connection
from storage.errors import CorruptDatabaseError, ModelSwitchedError, UsageError
from storage.ids import now_text
from storage.paging import LAST_PK
from storage.sources import NO_PROJECT, Source
from storage.vectors import Model, Vector, integers


class Key(NamedTuple):
    """Where a vector stands; project 0: of no project. Keys are in the order in which pages go through them."""

    project: int
    source: str
    pk: int


FIRST = Key(-1, "", 0)
"""Before every key."""


class Passage(NamedTuple):
    """A passage whose vector is searched: its key and its text; heading: of a chunk, its path of headings."""

    key: Key
    heading: str
    text: str

    @property
    def source(self) -> Source:
        return Source(self.key.source)


class Newest(NamedTuple):
    """The highest pk of each source. What comes in later has a higher one, as none is given twice."""

    file: int
    memory: int
    message: int


ALL = Newest(LAST_PK, LAST_PK, LAST_PK)
"""Past every key."""


@dataclass(frozen=True, slots=True)
class Page:
    """Passages of some keys in their order; looked_at: how many keys, last: the last of them.

    done: the keys of those that have a vector of the new model already.
    """

    passages: list[Passage]
    looked_at: int
    last: Key
    done: frozenset[Key]


@dataclass(frozen=True, slots=True)
class Building:
    """A model that is being built: its name, how many of how many vectors it has, and when it got the last (UTC)."""

    model: str
    vectors: int
    of: int
    at: str


def begin(db: Connection, wanted: Model, *, discard: bool = False) -> Model:
    """Enter a model as the one to be built, and return it; the live one, where that is it or there was none.

    discard: drop another model that is half built. A live model that is known by another name gets this one.
    Raises UsageError where another one is half built, CorruptDatabaseError where chunks have no live model.
    """
    live, half_built = vectors.live_model(db), _building(db)
    if live is None:
        _require_empty(db)
    is_live = live is None or live.same(wanted)
    if half_built is not None and not half_built.same(wanted):
        _make_way(db, half_built, needed=not is_live, discard=discard)
    return vectors.register(db, replace(wanted, status="live" if is_live else "building"))


def _make_way(db: Connection, half_built: Model, *, needed: bool, discard: bool) -> None:
    """Drop a half-built model where that is asked for, else refuse where its place is needed."""
    if discard:
        _set_status(db, half_built.pk, "retired")
    elif needed:
        raise UsageError(
            f"{db.path}: {half_built.name} is half built: run knowlex reembed {half_built.name} to finish it, or"
            " give --discard to drop it"
        )


def _require_empty(db: Connection) -> None:
    if db.value("SELECT 1 FROM file_chunks LIMIT 1"):
        raise CorruptDatabaseError(f"{db.path}: has passages but no live model; run knowlex repair")


def _building(db: Connection) -> Model | None:
    pk = db.value("SELECT pk FROM embedding_models WHERE status = 'building' ORDER BY pk DESC LIMIT 1")
    return None if pk is None else vectors.get_model(db, pk)


def building(db: Connection) -> Building | None:
    """Return the model that is being built and how far it is; None where there is none."""
    model = _building(db)
    if model is None:
        return None
    at = db.value("SELECT updated_at FROM embedding_models WHERE pk = :pk", pk=model.pk)
    return Building(model.name, count(db, model.pk), count(db), at)


def count(db: Connection, model_pk: int | None = None) -> int:
    """Return how many vectors a model has; None: the live one."""
    return db.value(
        "SELECT count(*) FROM vector_bits WHERE model"
        " = coalesce(:model, (SELECT pk FROM embedding_models WHERE status = 'live'))",
        model=model_pk,
    )


# --- what is to be embedded --------------------------------------------------------------------------

_LACKING = (
    "NOT EXISTS (SELECT 1 FROM vector_bits n"
    " WHERE n.model = :model AND n.project = v.project AND n.source = v.source AND n.pk = v.pk)"
)
_SEARCHED = (
    f"SELECT v.project, v.source, v.pk, {_LACKING} FROM vector_bits v"
    " WHERE v.model = (SELECT pk FROM embedding_models WHERE status = 'live')"
)
_BEHIND = (
    " AND (v.project, v.source, v.pk) > (:project, :source, :pk)"
    " AND v.pk <= CASE v.source WHEN 'file' THEN :file WHEN 'memory' THEN :memory ELSE :message END"
    " ORDER BY v.project, v.source, v.pk LIMIT :limit"
)


def newest(db: Connection) -> Newest:
    """Return how far passages go at this moment."""
    row = db.one(
        "SELECT coalesce((SELECT max(pk) FROM file_chunks), 0), coalesce((SELECT max(pk) FROM project_memories), 0),"
        " coalesce((SELECT max(pk) FROM messages), 0)"
    )
    assert row is not None
    return Newest(*row)


def page(db: Connection, model_pk: int, after: Key, limit: int, until: Newest = ALL) -> Page:
    """Return passages behind a key that have a vector of the live model, and say which have one of this model.

    until: newer ones are left out, so that whoever reads page by page comes to an end while others write.
    """
    rows = db.all(_SEARCHED + _BEHIND, model=model_pk, limit=limit, **after._asdict(), **until._asdict())
    return _page(db, rows, after)


def lacking(db: Connection, model_pk: int, after: Key, limit: int, until: Newest = ALL) -> Page:
    """Return passages behind a key that have a vector of the live model and none of this one; until: as for `page`.

    Raises CorruptDatabaseError where such vectors belong to no passage, so that none can be made.
    """
    sql = f"{_SEARCHED} AND {_LACKING}{_BEHIND}"
    rows = db.all(sql, model=model_pk, limit=limit, **after._asdict(), **until._asdict())
    found = _page(db, rows, after)
    if len(found.passages) < found.looked_at:
        raise CorruptDatabaseError(f"{db.path}: has vectors that belong to nothing; run knowlex repair")
    return found


def count_lacking(db: Connection, model_pk: int) -> int:
    """Return how many vectors of the live model have no counterpart of this one."""
    return db.value(f"SELECT count(*) FROM ({_SEARCHED} AND {_LACKING})", model=model_pk)


def _page(db: Connection, rows: Sequence[Sequence[Any]], after: Key) -> Page:
    keys = [Key(*row[:3]) for row in rows]
    done = frozenset(key for key, row in zip(keys, rows, strict=True) if not row[3])
    return Page(_passages(db, keys), len(keys), keys[-1] if keys else after, done)


def _passages(db: Connection, keys: Collection[Key]) -> list[Passage]:
    """Return the passages of these keys that there are, in the order of the keys."""
    found: dict[Key, Passage] = {}
    for source, read in _READERS.items():
        pks = [key.pk for key in keys if key.source == source]
        found |= {passage.key: passage for passage in (read(db, pks) if pks else ())}
    return [found[key] for key in keys if key in found]


def _chunks(db: Connection, pks: Collection[int]) -> list[Passage]:
    rows = db.all(
        "SELECT project_id, pk, heading, content FROM file_chunks WHERE pk IN (SELECT value FROM carray(:pks))",
        pks=integers(pks),
    )
    return [Passage(Key(project, Source.FILE, pk), heading, content) for project, pk, heading, content in rows]


def _memories(db: Connection, pks: Collection[int]) -> list[Passage]:
    rows = db.all(
        "SELECT project_id, pk, title, content FROM project_memories WHERE pk IN (SELECT value FROM carray(:pks))",
        pks=integers(pks),
    )
    return [
        Passage(Key(project, Source.MEMORY, pk), "", pending.memory_input(title, content))
        for project, pk, title, content in rows
    ]


def _messages(db: Connection, pks: Collection[int]) -> list[Passage]:
    rows = db.all(
        "SELECT c.project_id, m.pk, m.content FROM messages m JOIN conversations c ON c.pk = m.conversation_id"
        " WHERE m.pk IN (SELECT value FROM carray(:pks))",
        pks=integers(pks),
    )
    return [
        Passage(Key(project or NO_PROJECT, Source.MESSAGE, pk), "", pending.message_input(pk, content))
        for project, pk, content in rows
    ]


_READERS: dict[Source, Callable[[Connection, Collection[int]], list[Passage]]] = {
    Source.FILE: _chunks,
    Source.MEMORY: _memories,
    Source.MESSAGE: _messages,
}


def name_of(db: Connection, key: Key) -> str:
    """Return how people know a passage: by its file and its place there, from 0, or by its id."""
    name = db.value(
        "SELECT CASE :source WHEN 'file' THEN (SELECT 'passage ' || c.chunk_index || ' of ' || f.path"
        " FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk)"
        " WHEN 'memory' THEN (SELECT 'memory ' || id FROM project_memories WHERE pk = :pk)"
        " ELSE (SELECT 'message ' || id FROM messages WHERE pk = :pk) END",
        source=key.source,
        pk=key.pk,
    )
    return name or f"a {key.source} that was deleted meanwhile"


# --- what was made -----------------------------------------------------------------------------------


def keep(db: Connection, model_pk: int, made: Sequence[tuple[Passage, bytes, Vector]]) -> None:
    """Store vectors of a model that is built: (passage, hash of the model input, vector) each.

    A passage that was edited, moved or deleted since it was read gets none. Raises ModelSwitchedError where the
    model was dropped meanwhile.
    """
    _require_wanted(db, model_pk)
    current = set(_passages(db, [passage.key for passage, _, _ in made]))
    groups: dict[tuple[int, str], list[tuple[int, bytes, Vector]]] = {}
    for passage, digest, vector in made:
        if passage in current:
            groups.setdefault(passage.key[:2], []).append((passage.key.pk, digest, vector))
    for (project, source), rows in groups.items():
        vectors.put(db, model_pk, project or None, Source(source), rows)
    db.run("UPDATE embedding_models SET updated_at = :now WHERE pk = :pk", pk=model_pk, now=now_text())


def _require_wanted(db: Connection, model_pk: int) -> Model:
    model = vectors.get_model(db, model_pk)
    if model.status == "retired":
        raise ModelSwitchedError(f"{db.path}: {model.name} was dropped meanwhile; run knowlex reembed again to have it")
    return model


def switch(db: Connection, model_pk: int, cut_files: Collection[int] = ()) -> bool:
    """Make a built model live in place of the one that is; False, and nothing is changed, where vectors are lacking.

    cut_files: files with passages that the model cannot take whole; they count as cut for another model from then
    on, and the next ingestion that meets them cuts them anew.
    True, too, where another process has done it. Raises ModelSwitchedError where the model was dropped meanwhile.
    """
    if _require_wanted(db, model_pk).status == "live":
        return True
    if db.one(f"{_SEARCHED} AND {_LACKING} LIMIT 1", model=model_pk):
        return False
    live = vectors.live_model(db)
    if live is not None:
        _set_status(db, live.pk, "retired")
    _set_status(db, model_pk, "live")
    db.run(
        "UPDATE project_files SET settings_fingerprint = NULL WHERE pk IN (SELECT value FROM carray(:pks))"
        " OR duplicate_of IN (SELECT value FROM carray(:pks))",
        pks=integers(cut_files),
    )
    changes.renew(db)
    return True


def _set_status(db: Connection, model_pk: int, status: str) -> None:
    db.run(
        "UPDATE embedding_models SET status = :status, updated_at = :now WHERE pk = :pk",
        pk=model_pk,
        status=status,
        now=now_text(),
    )


def files_of(db: Connection, chunk_pks: Collection[int]) -> list[int]:
    """Return the files that chunks are of."""
    rows = db.all(
        "SELECT DISTINCT file_id FROM file_chunks WHERE pk IN (SELECT value FROM carray(:pks))", pks=integers(chunk_pks)
    )
    return [pk for (pk,) in rows]


_LEFT = (
    "SELECT m.pk FROM embedding_models m WHERE m.status = 'retired'"
    " AND (EXISTS (SELECT 1 FROM vector_bits v WHERE v.model = m.pk)"
    " OR EXISTS (SELECT 1 FROM embeddings e WHERE e.model_id = m.pk)) LIMIT 1"
)


def is_left(db: Connection) -> bool:
    """Tell whether there are vectors of retired models."""
    return db.one(_LEFT) is not None


def drop(db: Connection, limit: int) -> int:
    """Remove up to `limit` vectors of retired models, and return how many passages they were of."""
    model = db.value(_LEFT)
    if model is None:
        return 0
    removed = db.all(
        "DELETE FROM vector_bits WHERE model = :model AND (project, source, pk) IN (SELECT project, source, pk"
        " FROM vector_bits WHERE model = :model LIMIT :limit) RETURNING embedding",
        model=model,
        limit=limit,
    )
    vectors.drop_unused(db, [embedding for (embedding,) in removed])
    if not removed:
        db.run(
            "DELETE FROM embeddings WHERE pk IN (SELECT pk FROM embeddings WHERE model_id = :model LIMIT :limit)",
            model=model,
            limit=limit,
        )
    return len(removed)

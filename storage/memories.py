"""Memories of a project: what is worth keeping between conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from storage import changes, fields, paging, pending, text_index, vectors
from storage.connection import Connection
from storage.errors import NotFoundError, UsageError
from storage.ids import new_id, now_text
from storage.paging import Page
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.tokenize import Highlighter

IMPORTANCE = range(1, 11)
"""From the least to the most important."""
Order = Literal["recency", "importance"]


class MemoryType(StrEnum):
    """What kind of thing is remembered."""

    MEMORY = "memory"
    NOTE = "note"
    INSIGHT = "insight"


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory; importance is 1 to 10, 10 the most important; `project_id` is the id that the doors show."""

    pk: int
    id: str
    project_pk: int
    project_id: str
    title: str
    content: str
    type: MemoryType
    importance: int
    tags: list[str]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """A memory that a search found: its BM25 score (higher is better) and its content's best part, in `<mark>`."""

    memory: Memory
    score: float
    snippet: str


_SELECT = (
    "SELECT m.pk, m.id, p.pk, p.id, m.title, m.content, m.type, m.importance, m.tags, m.created_at, m.updated_at"
    " FROM project_memories m JOIN projects p ON p.pk = m.project_id"
)


def add(
    db: Connection,
    project_pk: int,
    title: str,
    content: str,
    *,
    type: str = MemoryType.MEMORY,
    importance: int = 5,
    tags: Iterable[str] = (),
) -> Memory:
    """Remember something in a project; text search finds it at once.

    Raises UsageError for an unknown type, an importance outside 1 to 10 or a blank title or content,
    NotFoundError for an unknown project.
    """
    id = new_id()
    added = db.run(
        "INSERT INTO project_memories (id, project_id, title, content, type, importance, tags, created_at, updated_at)"
        " SELECT :id, p.pk, :title, :content, :type, :importance, :tags, :now, :now"
        " FROM projects p WHERE p.pk = :project",
        id=id,
        project=project_pk,
        title=fields.text(title, "title", blank=False),
        content=fields.text(content, "content", blank=False),
        type=fields.choice(MemoryType, type, "type"),
        importance=_importance(importance),
        tags=_tags(tags),
        now=now_text(),
    )
    if not added:
        raise NotFoundError("the project of the memory was deleted meanwhile; list them with knowlex project list")
    memory = get(db, id)
    _index(db, memory)
    changes.bump(db, project_pk)
    return memory


def get(db: Connection, id: str) -> Memory:
    """Return a memory; raises NotFoundError."""
    row = db.one(f"{_SELECT} WHERE m.id = :id", id=id)
    if row is None:
        raise NotFoundError(f"memory {id}: no such memory; list them with knowlex memory list PROJECT")
    return _memory(row)


def listed(
    db: Connection,
    project_pk: int,
    *,
    type: str | None = None,
    tag: str | None = None,
    min_importance: int | None = None,
    order: Order = "recency",
    limit: int = 100,
    after: str | None = None,
) -> Page[Memory]:
    """Return memories of a project, the latest update or the highest importance first.

    type, tag, min_importance: only those of this kind, with this tag, at least so important.
    limit: 1 to 1000. after: `next` of the page before, in the same order. Raises UsageError.
    """
    if order not in _ORDERS:
        raise UsageError(f"order {order!r}: is unknown; give one of {', '.join(_ORDERS)}")
    return _ORDERS[order](db, _filtered(project_pk, type, tag, min_importance), limit, after)


def _by_recency(db: Connection, wanted: _Filter, limit: int, after: str | None) -> Page[Memory]:
    at, pk = paging.start(after, paging.NEWEST, "memories by recency")
    rows = db.all(
        f"{_SELECT} WHERE {wanted.condition} AND (m.updated_at, m.pk) < (:at, :after)"
        " ORDER BY m.updated_at DESC, m.pk DESC LIMIT :limit",
        at=at,
        after=pk,
        limit=paging.probe(limit),
        **wanted.values,
    )
    return paging.cut(rows, limit, _memory, lambda memory: (memory.updated_at, memory.pk), "memories by recency")


def _by_importance(db: Connection, wanted: _Filter, limit: int, after: str | None) -> Page[Memory]:
    highest, pk = paging.start(after, (IMPORTANCE.stop, 0), "memories by importance")
    rows = db.all(
        f"{_SELECT} WHERE {wanted.condition} AND (m.importance, m.pk) < (:highest, :after)"
        " ORDER BY m.importance DESC, m.pk DESC LIMIT :limit",
        highest=highest,
        after=pk,
        limit=paging.probe(limit),
        **wanted.values,
    )
    return paging.cut(rows, limit, _memory, lambda memory: (memory.importance, memory.pk), "memories by importance")


_ORDERS = {"recency": _by_recency, "importance": _by_importance}


def search(
    db: Connection,
    project_pk: int,
    query: str,
    *,
    type: str | None = None,
    tag: str | None = None,
    min_importance: int | None = None,
    limit: int = 10,
) -> list[MemoryHit]:
    """Return the memories of a project whose words fit a question best, best first.

    query: any string; one without a word finds nothing. type, tag, min_importance: as for `listed`,
    applied before ranking. By meaning, too: `Knowlex.memories.search`. Raises UsageError.
    """
    allowed = matching(db, project_pk, type=type, tag=tag, min_importance=min_importance)
    found = text_index.search(db, Source.MEMORY, query, project_pk=project_pk, limit=limit, allowed=allowed)
    highlighter = Highlighter(query)
    loaded = _load(db, [pk for pk, _ in found])
    return [
        MemoryHit(memory, score, highlighter.snippet(memory.content))
        for pk, score in found
        if (memory := loaded.get(pk))  # what the index alone knows, `verify` names
    ]


def matching(
    db: Connection,
    project_pk: int,
    *,
    type: str | None = None,
    tag: str | None = None,
    min_importance: int | None = None,
) -> set[int] | None:
    """Return the keys of the memories of a project that pass the filters of `listed`; None: without a filter, all."""
    if (type, tag, min_importance) == (None, None, None):
        return None
    wanted = _filtered(project_pk, type, tag, min_importance)
    return {pk for (pk,) in db.all(f"SELECT m.pk FROM project_memories m WHERE {wanted.condition}", **wanted.values)}


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which memories are wanted: an SQL condition on `project_memories m`, and what it binds."""

    condition: str
    values: dict[str, Any]


def _filtered(project_pk: int, type: str | None, tag: str | None, min_importance: int | None) -> _Filter:
    conditions = ["m.project_id = :project"]
    values: dict[str, Any] = {"project": project_pk}
    if type is not None:
        conditions.append("m.type = :type")
        values["type"] = fields.choice(MemoryType, type, "type")
    if min_importance is not None:
        conditions.append("m.importance >= :lowest")
        values["lowest"] = _importance(min_importance, "min_importance")
    if tag is not None:
        conditions.append(f"EXISTS (SELECT 1 FROM json_each({fields.readable('m.tags')}) t WHERE t.value = :tag)")
        values["tag"] = fields.text(tag, "tag", blank=False)
    return _Filter(" AND ".join(conditions), values)


def _load(db: Connection, pks: Sequence[int]) -> dict[int, Memory]:
    """Return those of these memories that are there, by their keys."""
    rows = db.all(f"{_SELECT} WHERE m.pk IN (SELECT value FROM carray(:pks))", pks=vectors.integers(pks))
    return {memory.pk: memory for memory in map(_memory, rows)}


def update(
    db: Connection,
    id: str,
    *,
    title: str | None = None,
    content: str | None = None,
    type: str | None = None,
    importance: int | None = None,
    tags: Iterable[str] | None = None,
) -> Memory:
    """Change what is given of a memory; None leaves a field as it is. Raises NotFoundError, UsageError."""
    old = get(db, id)
    db.run(
        "UPDATE project_memories SET title = :title, content = :content, type = :type, importance = :importance,"
        " tags = :tags, updated_at = :now WHERE pk = :pk",
        pk=old.pk,
        title=old.title if title is None else fields.text(title, "title", blank=False),
        content=old.content if content is None else fields.text(content, "content", blank=False),
        type=old.type if type is None else fields.choice(MemoryType, type, "type"),
        importance=old.importance if importance is None else _importance(importance),
        tags=_tags(old.tags if tags is None else tags),
        now=now_text(),
    )
    new = get(db, id)
    if (new.title, new.content) != (old.title, old.content):
        forget(db, old.project_pk, [old.pk])
        _index(db, new)
    changes.bump(db, new.project_pk)
    return new


def delete(db: Connection, id: str) -> None:
    """Delete a memory and all that was derived of it; raises NotFoundError."""
    memory = get(db, id)
    forget(db, memory.project_pk, [memory.pk])
    db.run("DELETE FROM project_memories WHERE pk = :pk", pk=memory.pk)
    changes.bump(db, memory.project_pk)


def forget(db: Connection, project_pk: int, pks: Sequence[int]) -> None:
    """Take memories out of the text index, the vectors and the queue for vectors; the rows stay.

    The caller changes or deletes the rows, and bumps the generation, in this transaction.
    """
    text_index.delete(db, Source.MEMORY, pks)
    vectors.delete(db, project_pk, Source.MEMORY, pks)
    pending.done(db, Source.MEMORY, pks)


def _index(db: Connection, memory: Memory) -> None:
    tokens = tokens_of(memory.content, memory.title)
    text_index.put(db, Source.MEMORY, memory.project_pk, [(memory.pk, tokens)])
    pending.queue(db, Source.MEMORY, memory.pk)


def _importance(value: int, what: str = "importance") -> int:
    if not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"{what}: is {fields.kind_of(value)}; give a whole number from 1 to 10")
    if type(value) is not int or value not in IMPORTANCE:
        raise UsageError(f"{what}: {value!r} is out of range; give a whole number from 1 to 10")
    return value


def _tags(tags: Iterable[str]) -> str:
    if isinstance(tags, str) or not isinstance(tags, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"tags: {tags!r} is no list; give a list of tags")
    return fields.to_json([fields.text(tag, "tag", blank=False) for tag in tags], "tags")


def _memory(row: Sequence[Any]) -> Memory:
    pk, id, project_pk, project_id, title, content, type, importance, tags, created, updated = row
    return Memory(
        pk,
        id,
        project_pk,
        project_id,
        title,
        content,
        MemoryType(type),
        importance,
        fields.kept_json(tags, f"memory {id}"),
        created,
        updated,
    )

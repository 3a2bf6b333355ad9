"""What is worth keeping between conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from knowlex.hits import Hits
from knowlex.mcp_server.answers import Forgotten, Memory, Recalled, Remembered
from knowlex.mcp_server.budget import Budget
from knowlex.mcp_server.scope import Scope
from knowlex.mcp_server.searches import degraded, legs
from knowlex.untrusted import neutral
from storage import memories as table
from storage.errors import NotFoundError

Scored = tuple[table.Memory, float | None]


def remember(
    scope: Scope,
    title: str,
    content: str,
    *,
    project: str | None,
    type: str,
    importance: int,
    tags: Sequence[str],
) -> Remembered:
    """Keep a memory. Raises ForbiddenError where the caller may only read, UsageError."""
    of = scope.project(project)
    scope.access.require_write("remember")
    memory = scope.kb.memories.add(of.id, title, content, type=type, importance=importance, tags=tags)
    return Remembered(project=of.name, id=memory.id, title=memory.title, created_at=memory.created_at)


def recall(
    scope: Scope,
    query: str,
    *,
    project: str | None,
    k: int,
    type: str | None,
    tag: str | None,
    min_importance: int | None,
    max_tokens: int,
) -> Recalled:
    """Return the memories that answer a question best, or the latest where it is blank. Raises UsageError."""
    of = scope.project(project)
    wanted: dict[str, Any] = {"type": type, "tag": tag, "min_importance": min_importance}
    notes: list[str] = []
    hits = scope.kb.memories.search(of.id, query, k, **wanted) if query.strip() else None
    if hits is not None:
        notes = list(hits.notes)
        found = list(_loaded(scope, {hit.id: hit.score for hit in hits}))
    else:
        found = [(memory, None) for memory in scope.kb.memories.list(of.id, limit=k, **wanted)]
    if not found:
        notes += _why_nothing(scope, of.id, wanted)
    return _recalled(of.name, hits, found, notes, max_tokens)


def _why_nothing(scope: Scope, project_id: str, wanted: dict[str, Any]) -> Iterable[str]:
    """Say where no memory at all is as it was asked for."""
    asked = {name: value for name, value in wanted.items() if value is not None}
    if asked and not scope.kb.memories.list(project_id, limit=1, **asked).items:
        yield f"no memory of this project has {' and '.join(f'{name} {value}' for name, value in asked.items())}"


def _loaded(scope: Scope, scores: dict[str, float]) -> Iterable[Scored]:
    """Yield the memories of these ids with their scores; what was deleted since it was found is gone."""
    for id, score in scores.items():
        try:
            yield scope.kb.memories.get(id), score
        except NotFoundError:
            continue


def _recalled(project: str, hits: Hits | None, found: Sequence[Scored], notes: list[str], max_tokens: int) -> Recalled:
    budget = Budget(max_tokens)
    shown = [_memory(one, score, *kept) for one, score in found if (kept := budget.take(neutral(one.content)))]
    return Recalled(
        project=project,
        degraded={} if hits is None else degraded(hits),
        legs={} if hits is None else legs(hits),
        notes=notes,
        left_out=len(found) - len(shown),
        memories=shown,
    )


def _memory(memory: table.Memory, score: float | None, content: str, cut: bool) -> Memory:
    return Memory(
        id=memory.id,
        title=memory.title,
        content=content,
        cut=cut,
        type=memory.type.value,
        importance=memory.importance,
        tags=memory.tags,
        created_at=memory.created_at,
        updated_at=memory.updated_at,
        score=score,
    )


def forget(scope: Scope, memory_id: str, *, project: str | None) -> Forgotten:
    """Delete a memory. Raises NotFoundError, also for one of another project, and ForbiddenError."""
    of = scope.project(project)
    scope.access.require_write("forget")
    if not _is_of(scope, memory_id, of.id):
        raise NotFoundError(f"memory {memory_id}: not found in this project; recall tells the ids")
    scope.kb.memories.delete(memory_id)
    return Forgotten(project=of.name, id=memory_id)


def _is_of(scope: Scope, memory_id: str, project_id: str) -> bool:
    try:
        return scope.kb.memories.get(memory_id).project_id == project_id
    except NotFoundError:
        return False

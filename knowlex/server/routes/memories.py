"""Memories of a project: what is worth keeping of it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from knowlex.server import scope
from knowlex.server.dependencies import Caller, KnowledgeBase
from knowlex.server.routes.search import SearchAnswer, answered
from knowlex.server.routes.shared import (
    WHOLE,
    After,
    Body,
    FilledText,
    Limit,
    Listed,
    Page,
    ProjectName,
    Time,
    Words,
)
from storage import memories as table

router = APIRouter(prefix="/projects/{project}/memories", tags=["memories"])

Type = Literal["memory", "note", "insight"]
Importance = Annotated[int, Field(ge=1, le=10, description="10 is the most important."), WHOLE]
MemoryId = Annotated[str, Path(description="The id of a memory.")]


class NewMemory(Body):
    """A memory to keep."""

    title: FilledText
    content: FilledText
    type: Type = "memory"
    importance: Importance = 5
    tags: Annotated[list[FilledText], Listed] = Field(default=[])


class MemoryChange(Body):
    """What to change of a memory; what is left out, or null, stays."""

    title: FilledText | None = None
    content: FilledText | None = None
    type: Type | None = None
    importance: Importance | None = None
    tags: Annotated[list[FilledText], Listed] | None = None


class Memory(BaseModel):
    """A memory."""

    id: str
    project_id: str
    title: str
    content: str
    type: Type
    importance: int
    tags: list[str]
    created_at: Time
    updated_at: Time


class MemorySearch(Body):
    """A question to the memories of a project."""

    query: Words
    k: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(default=10, description="How many memories to return.")
    mode: Literal["hybrid", "text", "vector"] = "hybrid"
    type: Type | None = None
    tag: FilledText | None = None
    min_importance: Importance | None = None


@router.post("", status_code=201)
def add_memory(project: ProjectName, body: NewMemory, kb: KnowledgeBase, caller: Caller) -> Memory:
    """Keep a memory; it is found by words at once, by meaning as soon as it is embedded."""
    caller.require_write("add a memory")
    found = scope.project(kb, caller, project)
    return _shown(kb.memories.add(found.id, **body.model_dump()))


@router.get("")
def list_memories(
    project: ProjectName,
    kb: KnowledgeBase,
    caller: Caller,
    type: Annotated[Type | None, Query(description="Only memories of this type.")] = None,
    tag: Annotated[FilledText | None, Query(description="Only memories with this tag.")] = None,
    min_importance: Annotated[
        int | None, Query(ge=1, le=10, description="Only memories at least so important.")
    ] = None,
    order: Annotated[Literal["recency", "importance"], Query(description="What comes first.")] = "recency",
    limit: Limit = 100,
    after: After = None,
) -> Page[Memory]:
    """List the memories of a project, the latest or the most important first."""
    page = kb.memories.list(
        scope.project(kb, caller, project).id,
        type=type,
        tag=tag,
        min_importance=min_importance,
        order=order,
        limit=limit,
        after=after,
    )
    return Page(items=[_shown(memory) for memory in page], next=page.next)


@router.post("/search", response_model=SearchAnswer, response_model_exclude_unset=True)
def search_memories(project: ProjectName, body: MemorySearch, kb: KnowledgeBase, caller: Caller) -> SearchAnswer:
    """Search the memories of a project by words and meaning."""
    found = scope.project(kb, caller, project)
    return answered(kb.memories.search(found.id, **body.model_dump()), project)


@router.get("/{id}")
def get_memory(project: ProjectName, id: MemoryId, kb: KnowledgeBase, caller: Caller) -> Memory:
    """Return a memory."""
    return _shown(scope.memory(kb, scope.project(kb, caller, project), id))


@router.patch("/{id}")
def update_memory(project: ProjectName, id: MemoryId, body: MemoryChange, kb: KnowledgeBase, caller: Caller) -> Memory:
    """Change a memory."""
    caller.require_write("update a memory")
    found = scope.memory(kb, scope.project(kb, caller, project), id)
    changes = body.model_dump(exclude_none=True)
    return _shown(kb.memories.update(found.id, **changes) if changes else found)


@router.delete("/{id}", status_code=204)
def delete_memory(project: ProjectName, id: MemoryId, kb: KnowledgeBase, caller: Caller) -> None:
    """Forget a memory."""
    caller.require_write("delete a memory")
    kb.memories.delete(scope.memory(kb, scope.project(kb, caller, project), id).id)


def _shown(memory: table.Memory) -> Memory:
    return Memory.model_validate(memory, from_attributes=True)

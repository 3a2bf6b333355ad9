"""What a request names, as far as its caller may see it.

What is out of a caller's scope raises the very error of what does not exist: same class, same words.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from knowlex.access import Access
from knowlex.facade import Knowlex
from storage import projects
from storage.conversations import Conversation
from storage.errors import NotFoundError
from storage.memories import Memory
from storage.messages import Message
from storage.projects import Project


def project(kb: Knowlex, caller: Access, name_or_id: str) -> Project:
    """Return a project that the caller may see, by its name or id; raises NotFoundError."""
    try:
        found = kb.project(name_or_id)
    except NotFoundError:
        found = None
    if found is None or not caller.sees(found.id):
        raise NotFoundError(f"project {name_or_id}: not found; GET /v1/projects lists those there are")
    return found


def place(kb: Knowlex, caller: Access, name_or_id: str | None) -> str | None:
    """Return the id of a project that the caller may see, or None for no project, which only some may see.

    Raises NotFoundError, ForbiddenError.
    """
    if name_or_id is None:
        caller.require_everything("what belongs to no project")
        return None
    return project(kb, caller, name_or_id).id


def visible(kb: Knowlex, caller: Access) -> list[str] | None:
    """Return the ids of the projects that the caller may see, as far as they are there; None for everything."""
    if caller.projects is None:
        return None
    with kb.database.read() as db:
        return [projects.by_pk(db, pk).id for pk in projects.pks_of(db, caller.projects)]


@contextmanager
def file(project: Project, id: str) -> Generator[None]:
    """Raise NotFoundError as callers of the server can use it, where what is done has no such file of the project."""
    try:
        yield
    except NotFoundError:
        raise NotFoundError(
            f"file {id}: not found in this project; GET /v1/projects/{project.id}/files lists those there are"
        ) from None


def memory(kb: Knowlex, project: Project, id: str) -> Memory:
    """Return a memory of a project; raises NotFoundError."""
    try:
        found = kb.memories.get(id)
    except NotFoundError:
        found = None
    if found is None or found.project_id != project.id:
        raise NotFoundError(f"memory {id}: not found in this project; list its memories")
    return found


def conversation(kb: Knowlex, caller: Access, id: str) -> Conversation:
    """Return a conversation that the caller may see; raises NotFoundError."""
    try:
        found = kb.conversations.details(id)
    except NotFoundError:
        found = None
    if found is None or not caller.sees(found.project_id):
        raise NotFoundError(f"conversation {id}: not found; GET /v1/conversations lists those there are")
    return found


def message(kb: Knowlex, caller: Access, conversation_id: str, id: str) -> Message:
    """Return a message of a conversation that the caller may see; raises NotFoundError."""
    of = conversation(kb, caller, conversation_id)
    try:
        found = kb.conversations.message(id)
    except NotFoundError:
        found = None
    if found is None or found.conversation_id != of.id:
        raise NotFoundError(f"message {id}: not found in this conversation; list its messages")
    return found

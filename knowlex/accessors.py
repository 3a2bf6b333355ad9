"""`kb.projects`, `kb.memories`, `kb.conversations` and `kb.settings`: the tables of storage, one transaction a call."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from storage import conversations, memories, messages, projects, settings
from storage.content import Part
from storage.conversations import Conversation, ConversationWithMessages
from storage.errors import NotFoundError
from storage.memories import Memory, Order
from storage.messages import Message
from storage.paging import MAX_LIMIT, Page
from storage.projects import Project, ProjectSummary, Removed

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.hits import Hits


class Projects:
    """Projects, by name or id."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb

    def create(self, name: str, *, description: str = "", settings: dict[str, Any] | None = None) -> Project:
        """Make a project; raises UniqueError when the name is taken, UsageError when it is blank."""
        with self._kb.database.write() as db:
            return projects.create(db, name, description=description, settings=settings)

    def get(self, project: str) -> Project:
        """Return a project; raises NotFoundError."""
        return self._kb.project(project)

    def summary(self, project: str) -> ProjectSummary:
        """Return a project and how much it holds; raises NotFoundError."""
        found = self._kb.project(project)
        with self._kb.database.read() as db:
            return projects.summary(db, found)

    def list(self) -> builtins.list[ProjectSummary]:
        """Return all projects with what they hold, the last updated first."""
        found: builtins.list[ProjectSummary] = []
        after = None
        with self._kb.database.read() as db:
            while True:
                page = projects.listed(db, limit=MAX_LIMIT, after=after)
                found += page.items
                if (after := page.next) is None:
                    return found

    def update(
        self,
        project: str,
        *,
        name: str | None = None,
        description: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Project:
        """Change what is given; raises NotFoundError, UniqueError when the name is taken, UsageError."""
        found = self._kb.project(project)
        with self._kb.database.write() as db:
            return projects.update(db, found.id, name=name, description=description, settings=settings)

    def delete(self, project: str, *, with_conversations: bool = False) -> Removed:
        """Delete a project and what it holds, and return how much went; raises NotFoundError.

        Its conversations stay, of no project, unless with_conversations.
        """
        found = self._kb.project(project)
        with self._kb.database.write() as db:
            return projects.delete(db, found, with_conversations=with_conversations)


class Memories:
    """What is worth keeping of a project; found by words at once, by meaning as soon as it is embedded."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb

    def add(
        self,
        project: str,
        title: str,
        content: str,
        *,
        type: str = "memory",
        importance: int = 5,
        tags: Iterable[str] = (),
    ) -> Memory:
        """Remember something; type is memory, note or insight, importance 1 to 10.

        Raises NotFoundError, UsageError.
        """
        pk = self._kb.project(project).pk
        with self._kb.database.write() as db:
            return memories.add(db, pk, title, content, type=type, importance=importance, tags=tags)

    def get(self, id: str) -> Memory:
        """Return a memory; raises NotFoundError."""
        with self._kb.database.read() as db:
            return memories.get(db, id)

    def list(
        self, project: str, *, order: Order = "recency", limit: int = 100, after: str | None = None
    ) -> Page[Memory]:
        """Return a page of memories, the latest or the most important first. Raises NotFoundError, UsageError."""
        pk = self._kb.project(project).pk
        with self._kb.database.read() as db:
            return memories.listed(db, pk, order=order, limit=limit, after=after)

    def search(self, project: str, query: str, k: int = 10, *, mode: str = "hybrid") -> Hits:
        """Search the memories of a project; see `Knowlex.search`."""
        return self._kb.search(project, query, k, mode=mode, sources=("memories",))

    def update(self, id: str, **changes: Any) -> Memory:
        """Change title, content, type, importance or tags of a memory. Raises NotFoundError, UsageError."""
        with self._kb.database.write() as db:
            return memories.update(db, id, **changes)

    def delete(self, id: str) -> None:
        """Forget a memory; raises NotFoundError."""
        with self._kb.database.write() as db:
            memories.delete(db, id)


class Conversations:
    """Conversations and their messages, of a project or of none."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb

    def create(self, title: str, *, project: str | None = None) -> Conversation:
        """Begin a conversation; raises NotFoundError, UsageError."""
        pk = None if project is None else self._kb.project(project).pk
        with self._kb.database.write() as db:
            return conversations.create(db, title, project_pk=pk)

    def add(self, conversation: str, role: str, content: str | Sequence[Part], *, parent: str | None = None) -> Message:
        """Add a message to a conversation (id); role is user, assistant, system or tool.

        Raises NotFoundError, UsageError.
        """
        with self._kb.database.write() as db:
            return messages.add(db, conversation, role, content, parent_id=parent)

    def get(self, id: str) -> ConversationWithMessages:
        """Return a conversation with its messages; raises NotFoundError."""
        with self._kb.database.read() as db:
            return conversations.with_messages(db, id)

    def list(self, project: str | None = None, *, limit: int = 100, after: str | None = None) -> Page[Conversation]:
        """Return a page of conversations, of one project or of all, the last updated first."""
        pk = None if project is None else self._kb.project(project).pk
        with self._kb.database.read() as db:
            return conversations.listed(db, project_pk=pk, limit=limit, after=after)

    def search(self, project: str, query: str, k: int = 10, *, mode: str = "hybrid") -> Hits:
        """Search the messages of a project; see `Knowlex.search`."""
        return self._kb.search(project, query, k, mode=mode, sources=("messages",))

    def update(self, id: str, *, title: str) -> Conversation:
        """Rename a conversation; raises NotFoundError, UsageError."""
        with self._kb.database.write() as db:
            return conversations.update(db, id, title=title)

    def delete(self, id: str) -> None:
        """Delete a conversation with its messages; raises NotFoundError."""
        with self._kb.database.write() as db:
            conversations.delete(db, id)


class AppSettings:
    """JSON values kept in the database, by key; reads and writes like a dict."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default`."""
        with self._kb.database.read() as db:
            return settings.get(db, key, default)

    def all(self) -> dict[str, Any]:
        """Return all keys and values, sorted by key."""
        with self._kb.database.read() as db:
            return settings.all(db)

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key; raises NotFoundError."""
        found = self.get(key, _MISSING)
        if found is _MISSING:
            raise NotFoundError(f"setting {key}: not set; list them with knowlex settings list")
        return found

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep a JSON value; raises UsageError for what JSON cannot say."""
        with self._kb.database.write() as db:
            settings.set(db, key, value)

    def __delitem__(self, key: str) -> None:
        """Forget a key; raises NotFoundError."""
        with self._kb.database.write() as db:
            settings.delete(db, key)


_MISSING = object()

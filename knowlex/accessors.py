"""`kb.projects`, `kb.memories`, `kb.conversations`, …: the tables of storage, one transaction a call."""

from __future__ import annotations

import builtins
import tempfile
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from enum import Enum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowlex import project_settings
from knowlex.access import Access
from knowlex.config import Settings
from knowlex.projects import Project, ProjectSummaries, ProjectSummary, summaries
from storage import conversations, fields, memories, messages, projects, settings, tokens, tokens_ahead, uploads
from storage.connection import Connection
from storage.content import Part, spoken
from storage.conversations import Conversation, ConversationWithMessages, Summary
from storage.database import Database
from storage.errors import DatabaseError, NotFoundError, UsageError
from storage.event_log import EventLog, code_of
from storage.memories import Memory, Order
from storage.messages import Message
from storage.messages import Order as MessageOrder
from storage.paging import MAX_LIMIT, Page
from storage.paths import is_there, require_folder
from storage.projects import Removed
from storage.projects import find as find_project
from storage.sources import NO_PROJECT, Source
from storage.tokens import Grant, NewToken, Token

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.hits import Hits
    from knowlex.salvaging import Lost
    from knowlex.transfer import Imported
    from storage.message_search import MessagePage


log = EventLog("knowlex")

NOTED_EVERY_S = 60.0
"""How often this process tries to note the use of a token."""

Existing = Callable[[], Database]
"""What gives the database, or raises NotFoundError instead of making one.

A call asks for it once: after a restore the next one is of another content, in which no key of before holds.
"""


class Projects:
    """Projects, by name or id."""

    def __init__(self, kb: Knowlex, existing: Existing) -> None:
        self._kb = kb
        self._existing = existing

    def create(
        self,
        name: str,
        *,
        description: str = "",
        settings: dict[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,
    ) -> Project:
        """Make a project; raises UniqueError when the name is taken, UsageError when it is blank.

        settings: values of your own. set: settings of Knowlex, as {"max_tokens": 200}, that are to hold for the
        files of this project alone; they are kept among its settings under "ingest". What cannot be used raises
        UsageError.
        """
        kept = project_settings.changed({}, settings, set)
        self._require_usable(kept, name)
        with self._kb.database.write() as db:
            return Project.of(projects.create(db, name, description=description, settings=kept))

    def get(self, project: str) -> Project:
        """Return a project; raises NotFoundError."""
        return self._kb.project(project)

    def summary(self, project: str) -> ProjectSummary:
        """Return a project and how much it holds; raises NotFoundError."""
        with self._existing().read() as db:
            return ProjectSummary.of(projects.summary(db, projects.find(db, project)))

    def list(self) -> ProjectSummaries:
        """Return all projects with what they hold, the last updated first; `page` returns some of them."""
        found = ProjectSummaries()
        after = None
        with self._kb.database.read() as db:
            while True:
                page = projects.listed(db, limit=MAX_LIMIT, after=after)
                found += summaries(page.items)
                if (after := page.next) is None:
                    return found

    def page(
        self, *, among: Iterable[str] | None = None, limit: int = 100, after: str | None = None
    ) -> Page[ProjectSummary]:
        """Return projects with what they hold, the last updated first. Raises UsageError.

        among: ids; only of these, as far as they are there. limit: 1 to 1000. after: `next` of the page before.
        """
        with self._kb.database.read() as db:
            page = projects.listed(db, pks=_among(db, among), limit=limit, after=after)
        return Page(summaries(page.items), page.next)

    def made(self, *, since: str = "", among: Iterable[str] | None = None, limit: int = 100) -> builtins.list[Project]:
        """Return projects without what they hold, in the order they were made, which is that of their ids.

        since: the id to begin with. among: ids; only of these, as far as they are there. limit: 1 to 1000.
        Raises UsageError.
        """
        with self._kb.database.read() as db:
            return [Project.of(found) for found in projects.made(db, since=since, among=among, limit=limit)]

    def update(
        self,
        project: str,
        *,
        name: str | None = None,
        description: str | None = None,
        settings: dict[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,
        unset: Iterable[str] = (),
    ) -> Project:
        """Change what is given; raises NotFoundError, UniqueError when the name is taken, UsageError.

        settings: values of your own, instead of those there were. set, unset: settings for the files of this
        project to take and to give up, as in `create`; the next ingest reads anew what they change.
        """
        change = (settings, set or None, tuple(unset))
        _require_change("name, description, settings, set or unset", name, description, *change[:2], change[2] or None)
        database = self._existing()
        with database.read() as db:
            found = projects.find(db, project)
        # What nobody asks to change is not looked at: a name must not depend on it.
        asked = any(part is not None and part != () for part in change)
        if asked:
            self._require_usable(project_settings.changed(found.settings, *change), found.name)
        with database.write() as db:
            before = projects.get(db, found.id).settings
            after = project_settings.changed(before, *change) if asked else None
            changed = projects.update(db, found.id, name=name, description=description, settings=after)
        return Project.of(changed)

    def configuration(self, project: str) -> Settings:
        """Return the settings in force for the files of a project: its own, before those of all projects.

        Raises NotFoundError, and ConfigurationError where one of its own cannot be used.
        """
        with self._existing().read() as db:
            return self._kb.engine.settings_of(db, projects.find(db, project).pk)

    def _require_usable(self, settings: Mapping[str, Any], name: str) -> None:
        own: dict[str, Any] = settings.get(project_settings.NAME, {})
        if own:
            in_force = project_settings.applied(self._kb.configuration, own, name)
            self._kb.engine.require_usable(in_force, chunking=bool(project_settings.chunking(own)))

    def uploads(self, project: str) -> int:
        """Return how many files of a project came over the network, whose bytes go with it. Raises NotFoundError."""
        with self._existing().read() as db:
            return len(uploads.of_project(db, projects.find(db, project).pk))

    def delete(self, project: str, *, with_conversations: bool = False) -> Removed:
        """Delete a project and what it holds, and return how much went; raises NotFoundError.

        Files on disk stay, but for the bytes of its uploads, which no backup has (see `uploads`).
        Its conversations stay, of no project, unless with_conversations.
        """
        database = self._existing()
        with database.read() as db:
            found = projects.find(db, project)
            said = [] if with_conversations else projects.said(db, found)
        with tokens_ahead.made(database, said) as tokens, database.write() as db:
            received = uploads.of_project(db, found.pk)
            removed = projects.delete(db, found, with_conversations=with_conversations, tokens=tokens)
        uploads.discard(database, received)
        return removed


class Memories:
    """What is worth keeping of a project; found by words at once, by meaning as soon as it is embedded."""

    def __init__(self, existing: Existing, search: Callable[..., Hits]) -> None:
        self._existing = existing
        self._find = search

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
        with self._existing().write() as db:
            pk = projects.find(db, project).pk
            return memories.add(db, pk, title, content, type=type, importance=importance, tags=tags)

    def get(self, id: str) -> Memory:
        """Return a memory; raises NotFoundError."""
        with self._existing().read() as db:
            return memories.get(db, id)

    def list(
        self,
        project: str,
        *,
        type: str | None = None,
        tag: str | None = None,
        min_importance: int | None = None,
        order: Order = "recency",
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Memory]:
        """Return a page of memories, the latest or the most important first.

        type, tag, min_importance: only those of this kind, with this tag, at least so important.
        Raises NotFoundError, UsageError.
        """
        with self._existing().read() as db:
            pk = projects.find(db, project).pk
            return memories.listed(
                db, pk, type=type, tag=tag, min_importance=min_importance, order=order, limit=limit, after=after
            )

    def search(
        self,
        project: str,
        query: str,
        k: int = 10,
        *,
        type: str | None = None,
        tag: str | None = None,
        min_importance: int | None = None,
        mode: str = "hybrid",
    ) -> Hits:
        """Search the memories of a project, among those that pass the filters of `list`; see `Knowlex.search`."""
        with self._existing().read() as db:
            pk = projects.find(db, project).pk
            wanted = memories.matching(db, pk, type=type, tag=tag, min_importance=min_importance)
        allowed = None if wanted is None else {Source.MEMORY: wanted}
        return self._find(project, query, k=k, mode=mode, sources=("memories",), allowed=allowed)

    def update(self, id: str, **changes: Any) -> Memory:
        """Change title, content, type, importance or tags of a memory. Raises NotFoundError, UsageError."""
        _require_change("title, content, type, importance or tags", *changes.values())
        with self._existing().write() as db:
            return memories.update(db, id, **changes)

    def delete(self, id: str) -> None:
        """Forget a memory; raises NotFoundError."""
        with self._existing().write() as db:
            memories.delete(db, id)


class Kept(Enum):
    """What is left as it is, where None would mean something else."""

    AS_IT_IS = "as it is"


class Conversations:
    """Conversations and their messages, of a project or of none. Projects are named by name or id."""

    def __init__(self, kb: Knowlex, existing: Existing, find: Callable[..., MessagePage]) -> None:
        self._kb = kb
        self._existing = existing
        self._find = find

    def create(self, title: str, *, project: str | None = None, settings: dict[str, Any] | None = None) -> Conversation:
        """Begin a conversation; raises NotFoundError, UsageError, also for a blank title."""
        fields.text(title, "title", blank=False)
        with self._database(project).write() as db:
            return conversations.create(db, title, project_pk=_pk(db, project), settings=settings)

    def add(self, conversation: str, role: str, content: str | Sequence[Part], *, parent: str | None = None) -> Message:
        """Add a message to a conversation (id); role is user, assistant, system or tool.

        content: text, or parts, see `storage.content`; not blank text alone. parent: id of the message it answers.
        Raises NotFoundError, UsageError.
        """
        with self._existing().write() as db:
            return messages.add(db, conversation, role, spoken(content), parent_id=parent)

    def get(self, id: str) -> ConversationWithMessages:
        """Return a conversation with its messages; raises NotFoundError."""
        with self._existing().read() as db:
            return conversations.with_messages(db, id)

    def details(self, id: str) -> Conversation:
        """Return a conversation without its messages, of which `messages` returns pages; raises NotFoundError."""
        with self._existing().read() as db:
            return conversations.get(db, id)

    def list(
        self,
        project: str | None = None,
        *,
        no_project: bool = False,
        among: Iterable[str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Conversation]:
        """Return a page of conversations, the last updated first: of one project, of none, or all.

        among: ids; only of these projects. limit: 1 to 1000. after: `next` of the page before.
        Raises NotFoundError, UsageError.
        """
        _require_one_place(project, no_project=no_project)
        with self._database(project).read() as db:
            pk = NO_PROJECT if no_project else _pk(db, project)
            return conversations.listed(db, project_pk=pk, among=_among(db, among), limit=limit, after=after)

    def summaries(
        self,
        project: str | None = None,
        *,
        no_project: bool = False,
        among: Iterable[str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Summary]:
        """Return a page of conversations with the beginning of their last message; see `list`."""
        _require_one_place(project, no_project=no_project)
        with self._database(project).read() as db:
            pk = NO_PROJECT if no_project else _pk(db, project)
            return conversations.summaries(db, project_pk=pk, among=_among(db, among), limit=limit, after=after)

    def messages(
        self, conversation: str, *, order: MessageOrder = "oldest", limit: int = 100, after: str | None = None
    ) -> Page[Message]:
        """Return a page of the messages of a conversation, the "oldest" or the "newest" first.

        limit: 1 to 1000. after: `next` of the page before. Raises NotFoundError, UsageError.
        """
        with self._existing().read() as db:
            return messages.listed(db, conversation, order=order, limit=limit, after=after)

    def message(self, id: str) -> Message:
        """Return a message; raises NotFoundError."""
        with self._existing().read() as db:
            return messages.get(db, id)

    def thread(self, message: str) -> builtins.list[Message]:
        """Return the way from the first message of a thread down to this one; raises NotFoundError."""
        with self._existing().read() as db:
            return messages.thread(db, message)

    def answers(self, message: str, *, limit: int = 100, after: str | None = None) -> Page[Message]:
        """Return a page of what directly answers a message, the oldest first. Raises NotFoundError, UsageError."""
        with self._existing().read() as db:
            return messages.answers(db, message, limit=limit, after=after)

    def search(self, project: str, query: str, k: int = 10, *, mode: str = "hybrid") -> Hits:
        """Search the messages of a project by words and meaning; see `Knowlex.search`."""
        return self._kb.search(project, query, k, mode=mode, sources=("messages",))

    def find(
        self,
        query: str | None = None,
        *,
        project: str | None = None,
        projects: Iterable[str] | None = None,
        no_project: bool = False,
        conversation: str | None = None,
        role: str | None = None,
        date_from: str | None = None,
        date_to: str | None = None,
        sort: str = "relevance",
        match: str | None = None,
        limit: int = 50,
        offset: int = 0,
        after: str | None = None,
    ) -> MessagePage:
        """Return messages by their words, and by who said them, when and where; the best or the newest first.

        query: any string; None or blank for all messages. project, projects, no_project: only of these
        projects, only (or also) what is of no project; by default everything. The other filters: see
        `storage.message_search.search`. `degraded` of the answer says what of the query was not searched for.
        Raises NotFoundError, UsageError.
        """
        from storage import message_search

        message_search.require_span(date_from, date_to)
        return self._find(
            query,
            project_pks=partial(_pks, project, projects, no_project=no_project),
            conversation_id=conversation,
            role=role,
            date_from=date_from,
            date_to=date_to,
            sort=sort,
            match=match,
            limit=limit,
            offset=offset,
            after=after,
        )

    def update(
        self,
        id: str,
        *,
        title: str | None = None,
        settings: dict[str, Any] | None = None,
        project: str | Kept | None = Kept.AS_IT_IS,
    ) -> Conversation:
        """Change title, settings or project of a conversation, all or nothing; project None: it is of none then.

        Raises NotFoundError, UsageError, also for a blank title.
        """
        if title is not None:
            fields.text(title, "title", blank=False)
        if isinstance(project, Kept):
            _require_change("title, settings or project", title, settings)
            with self._existing().write() as db:
                return conversations.update(db, id, title=title, settings=settings)
        database = self._database(project)
        with database.read() as db:
            pk = _pk(db, project)
            said = conversations.said(db, id)
        with tokens_ahead.made(database, said) as tokens, database.write() as db:
            if title is not None or settings is not None:
                conversations.update(db, id, title=title, settings=settings)
            return conversations.move(db, id, pk, tokens=tokens)

    def move(self, id: str, project: str | None) -> Conversation:
        """Put a conversation into another project, or into none (None). Raises NotFoundError."""
        return self.update(id, project=project)

    def edit(self, message: str, content: str | Sequence[Part]) -> Message:
        """Give a message another content; raises NotFoundError, UsageError."""
        with self._existing().write() as db:
            return messages.update(db, message, spoken(content))

    def delete_message(self, message: str) -> None:
        """Delete a message; its answers become answers to its parent. Raises NotFoundError."""
        with self._existing().write() as db:
            messages.delete(db, message)

    def delete(self, id: str) -> None:
        """Delete a conversation with its messages; raises NotFoundError."""
        with self._existing().write() as db:
            conversations.delete(db, id)

    def export(
        self, *ids: str, project: str | None = None, no_project: bool = False, lost: builtins.list[Lost] | None = None
    ) -> Iterator[str]:
        """Yield conversations as JSON Lines: those of `ids`, of a project, of none, or all; see `knowlex.transfer`.

        All lines are of one moment, that of the first. They are read as they are asked for, whatever others
        write; within `Knowlex.transaction`, at once. Raises NotFoundError, UsageError, ReplacedError where a
        backup was restored before the first, CorruptDatabaseError at the first damaged page.

        lost: for a damaged database, also one that cannot be opened otherwise: all that can be read is exported, and
        before the first line the list gets what cannot (`knowlex.salvaging`). Rows are read one by one, and what was
        not committed yet by a transaction is not among them.
        """
        from knowlex import salvaging, transfer

        _require_one_place(project, no_project=no_project)
        if ids and (project is not None or no_project):
            raise UsageError("export: name conversations or a project, not both; give the ids alone")
        if lost is not None:
            return salvaging.export(self._kb.path, lost, ids=ids, project=project, no_project=no_project)
        database = self._database(project)
        with database.read() as db:
            _pk(db, project)
            if database.batching:
                return iter(list(transfer.export(db, ids=ids, project=project, no_project=no_project)))
        return transfer.export_apart(database, ids=ids, project=project, no_project=no_project)

    def load(self, lines: Iterable[str | bytes], *, project: str | None = None, name: str = "import") -> Imported:
        """Take in what `export` gave, all of it or nothing; what is there already stays as it is.

        lines: such as a file opened to be read; nothing is locked before its end. project: for all
        conversations, instead of those that the lines name, which are made where they are missing; what is
        there already must be in it. name: of the lines, for errors.
        Raises NotFoundError, UsageError, UniqueError for what is there with another content.
        """
        from knowlex import transfer

        path = self._kb.path
        if project is None and not is_there(path):
            return self._load_into_new(lines, name)
        database = self._database(project)
        with database.read() as db:
            pk = _pk(db, project)
        with transfer.checked(lines, name=name, folder=path.parent) as entries, database.write() as db:
            return transfer.load(db, entries, name=name, project_pk=pk)

    def _load_into_new(self, lines: Iterable[str | bytes], name: str) -> Imported:
        """Read the lines before the database is made: those that cannot be used, or say nothing, are to leave none."""
        from knowlex import transfer

        path = self._kb.path
        require_folder(path)
        folder = path.parent if path.parent.is_dir() else Path(tempfile.gettempdir())
        with transfer.checked(lines, name=name, folder=folder) as entries:
            first = next(entries, None)
            if first is None:
                return transfer.Imported()
            with self._kb.database.write() as db:
                return transfer.load(db, chain([first], entries), name=name)

    def _database(self, project: str | None) -> Database:
        """Return the database, which is made where none is there and no project must be in it."""
        return self._kb.database if project is None else self._existing()


def _require_change(names: str, *values: object) -> None:
    """Raise UsageError where nothing is given to change: what stays as it is must not count as updated."""
    if all(value is None for value in values):
        raise UsageError(f"nothing to change: give {names}")


def _pk(db: Connection, project: str | None) -> int | None:
    return None if project is None else projects.find(db, project).pk


def _pks(project: str | None, names: Iterable[str] | None, db: Connection, *, no_project: bool) -> list[int] | None:
    """Return the keys of a project and of others, `NO_PROJECT` among them, or None for all."""
    if isinstance(names, str):
        raise UsageError(f"projects {names!r}: is a string; give a list of names or ids")
    if project is None and names is None and not no_project:
        return None
    chosen = [*([] if project is None else [project]), *(names or ())]
    return [projects.find(db, name).pk for name in chosen] + [NO_PROJECT] * no_project


def _among(db: Connection, ids: Iterable[str] | None) -> builtins.list[int] | None:
    """Return the keys of projects; of those that are deleted nothing can be seen."""
    return None if ids is None else projects.pks_of(db, ids)


def _require_one_place(project: str | None, *, no_project: bool) -> None:
    if project is not None and no_project:
        raise UsageError(f"project {project!r}: cannot be combined with no_project; give one of them")


_MISSING = object()


class AppSettings(MutableMapping[str, Any]):
    """JSON values kept in the database, by key; reads and writes like a dict, with NotFoundError for KeyError.

    Each call is a transaction of its own; what goes through all keys raises NotFoundError where there is no database.
    """

    def __init__(self, kb: Knowlex, existing: Existing) -> None:
        self._kb = kb
        self._existing = existing

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default`, also where there is no database yet."""
        try:
            return self[key]
        except NotFoundError:
            return default

    def all(self, prefix: str = "", *, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all keys that start with `prefix` and their values, sorted by key.

        defaults: keys and values to add where they are not set.
        """
        with self._kb.database.read() as db:
            return settings.all(db, prefix, defaults=defaults)

    def page(self, prefix: str = "", *, limit: int = 100, after: str | None = None) -> Page[tuple[str, Any]]:
        """Return (key, value) of the keys that start with `prefix`, sorted. Raises UsageError.

        limit: 1 to 1000. after: `next` of the page before.
        """
        with self._kb.database.read() as db:
            return settings.listed(db, prefix=prefix, limit=limit, after=after)

    def __contains__(self, key: object) -> bool:
        """Tell whether a key is set; none is where there is no database yet."""
        return isinstance(key, str) and self.get(key, _MISSING) is not _MISSING

    def __iter__(self) -> Iterator[str]:
        """Give the keys, sorted. Raises NotFoundError where there is no database."""
        self._existing()
        return iter(self.all())

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key; raises NotFoundError."""
        with self._existing().read() as db:
            found = settings.get(db, key, _MISSING)
        if found is _MISSING:
            raise NotFoundError(f"setting {key}: not set; list them with knowlex settings list")
        return found

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep a JSON value; raises UsageError for what JSON cannot say."""
        with self._kb.database.write() as db:
            settings.set(db, key, value)

    def __delitem__(self, key: str) -> None:
        """Forget a key; raises NotFoundError."""
        with self._existing().write() as db:
            settings.delete(db, key)

    def __len__(self) -> int:
        """Return how many keys there are. Raises NotFoundError where there is no database."""
        self._existing()
        return len(self.all())

    def items(self) -> ItemsView[str, Any]:
        """Return the keys and their values as they are now, sorted. Raises NotFoundError where there is no database."""
        self._existing()
        return self.all().items()

    def values(self) -> ValuesView[Any]:
        """Return the values as they are now, in the order of their keys. Raises NotFoundError as `items` does."""
        self._existing()
        return self.all().values()

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Forget a key and return its value; of one that is not set `default`, or raise NotFoundError."""
        try:
            with self._existing().write() as db:
                value = settings.get(db, key)
                settings.delete(db, key)
            return value
        except NotFoundError:
            if default is _MISSING:
                raise
            return default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, which is `default` from now on where it is not set. Raises UsageError."""
        with self._kb.database.write() as db:
            if settings.get(db, key, _MISSING) is _MISSING:
                settings.set(db, key, default)
            return settings.get(db, key)


class Tokens:
    """Access tokens of the server: who may use it, and for what. Only their hashes are kept."""

    def __init__(self, kb: Knowlex, existing: Existing, clock: Callable[[], float] = time.monotonic) -> None:
        self._kb = kb
        self._existing = existing
        self._clock = clock
        self._tried: dict[str, float] = {}

    def create(self, projects: Sequence[str] | None = None, write: bool = False, name: str = "") -> NewToken:
        """Make a token and return it, which nobody can do again.

        projects: names or ids of those that it is for, with what belongs to them; None: it is for everything, also for
        projects made later. write: whether it may change anything. name: what to call it in lists.
        Raises NotFoundError for an unknown project, UsageError.
        """
        if isinstance(projects, str):
            raise UsageError(f"projects {projects!r}: is a string; give a list of names or ids")
        if projects is not None and not projects:
            # Whoever chose some and found none does not mean all.
            raise UsageError("projects: none given; name some, or give None for a token for everything")
        database = self._kb.database if projects is None else self._existing()
        with database.write() as db:
            bound = None if projects is None else [find_project(db, project) for project in projects]
            return tokens.create(db, bound, write=write, name=name)

    def list(self) -> builtins.list[Token]:
        """Return all tokens, the revoked ones, too, in the order in which they were made. Raises NotFoundError."""
        with self._existing().read() as db:
            return tokens.every(db)

    def revoke(self, id: str) -> Token:
        """Have a token count for nothing, in every process from its next call on; raises NotFoundError.

        One that is revoked already stays so since then.
        """
        with self._existing().write() as db:
            return tokens.revoke(db, id)

    def authenticate(self, token: str) -> Access | None:
        """Return what a token is for; None for one that is unknown or revoked. The database is asked each time.

        That it was used is noted about once a minute, where nobody else is writing just then.
        """
        try:
            database = self._existing()
        except NotFoundError:
            return None
        with database.read() as db:
            grant = tokens.find(db, token)
        if grant is None:
            return None
        if grant.use_is_due:
            self._note_use(database, grant)
        return Access(grant.projects, grant.write, caller=grant.id)

    def any(self) -> bool:
        """Return whether there is a token that is not revoked."""
        return self._tell(tokens.usable)

    def made(self) -> bool:
        """Return whether there ever was a token: from then on nobody should be let in without one.

        A revoked one counts, too: to revoke the last must not open what the first has closed.
        """
        return self._tell(tokens.made)

    def _tell(self, ask: Callable[[Connection], bool]) -> bool:
        try:
            database = self._existing()
        except NotFoundError:
            return False
        with database.read() as db:
            return ask(db)

    def _note_use(self, database: Database, grant: Grant) -> None:
        """Note that a token is used; whoever uses it waits for nobody and never fails for it."""
        now = self._clock()
        if now - self._tried.get(grant.id, -NOTED_EVERY_S) < NOTED_EVERY_S or database.batching or database.is_copy:
            return
        self._tried[grant.id] = now
        try:
            with database.write(timeout_ms=0) as db:
                tokens.note_use(db, grant.id)
        except DatabaseError as error:
            log.info("use of a token not noted", id=grant.id, error_code=code_of(error))

"""Projects: what files, memories and conversations belong to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from storage import changes, fields, memories, messages, paging, slow_queries, text_index, usage, vectors
from storage.connection import Connection
from storage.errors import NotFoundError, UniqueError
from storage.ids import new_id, now_text
from storage.paging import Page
from storage.sources import Source
from storage.tokens_ahead import TokensAhead


@dataclass(frozen=True, slots=True)
class Project:
    """A project; its name is unique, `id` is what the doors show."""

    pk: int
    id: str
    name: str
    description: str
    settings: dict[str, Any]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class ProjectSummary:
    """A project and how much it holds; total_file_size in bytes, each name counted."""

    project: Project
    conversation_count: int
    message_count: int
    file_count: int
    total_file_size: int
    memory_count: int


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows went with a project; conversations and messages that stay are not counted."""

    files: int
    chunks: int
    memories: int
    conversations: int
    messages: int


_COLUMNS = "pk, id, name, description, settings, created_at, updated_at"
# One subquery a figure: joining the tables would multiply the rows of each by those of the others.
_SUMMARY = f"""
SELECT {_COLUMNS},
  (SELECT count(*) FROM conversations c WHERE c.project_id = p.pk),
  (SELECT count(*) FROM messages m JOIN conversations c ON c.pk = m.conversation_id WHERE c.project_id = p.pk),
  (SELECT count(*) FROM project_files f WHERE f.project_id = p.pk),
  (SELECT coalesce(sum(f.size), 0) FROM project_files f WHERE f.project_id = p.pk),
  (SELECT count(*) FROM project_memories m WHERE m.project_id = p.pk)
"""


def create(db: Connection, name: str, *, description: str = "", settings: dict[str, Any] | None = None) -> Project:
    """Make a project; raises UniqueError when the name is taken, UsageError when it is blank."""
    row = _insert(db, name, description, settings or {})
    if row is None:
        raise _taken(name)
    return _project(row)


def ensure(db: Connection, name: str) -> Project:
    """Return the project of that name, made where there was none; raises UsageError for a blank name."""
    row = _insert(db, name, "", {})
    return _project(row) if row else find(db, name)


def get(db: Connection, id: str) -> Project:
    """Return a project by id; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM projects WHERE id = :id", id=id)
    if row is None:
        raise _missing(id)
    return _project(row)


def by_pk(db: Connection, pk: int) -> Project:
    """Return a project by its primary key; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM projects WHERE pk = :pk", pk=pk)
    if row is None:
        raise NotFoundError(f"project {pk}: deleted meanwhile; list those there are with knowlex project list")
    return _project(row)


def with_settings(db: Connection) -> list[Project]:
    """Return the projects that have settings of their own, whoever keeps them there."""
    return [_project(row) for row in db.all(f"SELECT {_COLUMNS} FROM projects WHERE settings <> '{{}}' ORDER BY pk")]


def by_name(db: Connection, name: str) -> Project | None:
    """Return the project of that name, or None."""
    row = db.one(f"SELECT {_COLUMNS} FROM projects WHERE name = :name", name=name)
    return _project(row) if row else None


def find(db: Connection, name_or_id: str) -> Project:
    """Return the project of that id or name, the id first; raises NotFoundError."""
    row = db.one(
        f"SELECT {_COLUMNS} FROM projects WHERE id = :key OR name = :key"
        " ORDER BY CASE WHEN id = :key THEN 0 ELSE 1 END LIMIT 1",
        key=name_or_id,
    )
    if row is None:
        raise _missing(name_or_id)
    return _project(row)


def summary(db: Connection, project: Project) -> ProjectSummary:
    """Return how much a project holds; raises NotFoundError when it was deleted meanwhile."""
    row = db.one(f"{_SUMMARY} FROM projects p WHERE pk = :pk", pk=project.pk)
    if row is None:
        raise _missing(project.name)
    return _summary(row)


def made(db: Connection, *, since: str = "", among: Iterable[str] | None = None, limit: int = 100) -> list[Project]:
    """Return projects in the order they were made, which is that of their ids: from the id `since` on.

    among: ids; only of these, as far as they are there. limit: 1 to 1000. Raises UsageError.
    """
    paging.probe(limit)
    chosen = "" if among is None else " AND id IN (SELECT value FROM json_each(:among))"
    bound = {} if among is None else {"among": json.dumps([*among])}
    rows = db.all(
        f"SELECT {_COLUMNS} FROM projects WHERE id >= :since{chosen} ORDER BY id LIMIT :limit",
        since=since,
        limit=limit,
        **bound,
    )
    return [_project(row) for row in rows]


def pks_of(db: Connection, ids: Iterable[str]) -> list[int]:
    """Return the keys of those of these projects that are there, by their ids."""
    rows = db.all("SELECT pk FROM projects WHERE id IN (SELECT value FROM json_each(:ids))", ids=json.dumps([*ids]))
    return [pk for (pk,) in rows]


def listed(
    db: Connection, *, pks: Iterable[int] | None = None, limit: int = 100, after: str | None = None
) -> Page[ProjectSummary]:
    """Return projects with what they hold, the last updated first.

    pks: only of these. limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    at, pk = paging.start(after, paging.NEWEST, "projects")
    among = "" if pks is None else " AND pk IN (SELECT value FROM carray(:pks))"
    # The page is cut before the figures are taken, which cost a search each.
    rows = db.all(
        f"{_SUMMARY} FROM (SELECT {_COLUMNS} FROM projects WHERE (updated_at, pk) < (:at, :pk){among}"
        " ORDER BY updated_at DESC, pk DESC LIMIT :limit) p ORDER BY updated_at DESC, pk DESC",
        at=at,
        pk=pk,
        limit=paging.probe(limit),
        **({} if pks is None else {"pks": vectors.integers(list(pks))}),
    )
    return paging.cut(rows, limit, _summary, lambda item: (item.project.updated_at, item.project.pk), "projects")


def update(
    db: Connection,
    id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Project:
    """Change what is given of a project; None leaves a field as it is.

    Raises NotFoundError, UniqueError when the name is taken, UsageError when it is blank.
    """
    old = get(db, id)
    if name is not None and name != old.name and by_name(db, fields.line(name, "project name")):
        raise _taken(name)
    db.run(
        "UPDATE projects SET name = :name, description = :description, settings = :settings, updated_at = :now"
        " WHERE pk = :pk",
        pk=old.pk,
        name=old.name if name is None else name,
        description=old.description if description is None else fields.text(description, "description"),
        settings=fields.mapping(old.settings if settings is None else settings, "settings"),
        now=now_text(),
    )
    return get(db, id)


def said(db: Connection, project: Project) -> list[int]:
    """Return the keys of the messages of a project, so that `tokens_ahead.made` spares `delete` to tokenise them."""
    return _messages_of(db, project.pk)


def delete(
    db: Connection,
    project: Project,
    *,
    with_conversations: bool = False,
    tokens: TokensAhead | None = None,
) -> Removed:
    """Delete a project with its files, chunks and memories and all that was derived of them.

    Its conversations stay, of no project, unless with_conversations. tokens: those of what was `said`, made
    before the transaction. Raises NotFoundError.
    """
    pk = get(db, project.id).pk
    chunks = _pks(db, "SELECT pk FROM file_chunks WHERE project_id = :pk", pk)
    remembered = _pks(db, "SELECT pk FROM project_memories WHERE project_id = :pk", pk)
    files = _pks(db, "SELECT pk FROM project_files WHERE project_id = :pk", pk)
    text_index.delete(db, Source.FILE, chunks)
    memories.forget(db, pk, remembered)
    drop = _delete_conversations if with_conversations else partial(_release_conversations, tokens=tokens)
    conversations, said = drop(db, pk)
    vectors.delete_project(db, pk)
    usage.forget(db, pk)
    slow_queries.forget(db, pk)
    db.run("DELETE FROM projects WHERE pk = :pk", pk=pk)
    changes.bump(db, pk)
    return Removed(len(files), len(chunks), len(remembered), conversations, said)


def _delete_conversations(db: Connection, pk: int) -> tuple[int, int]:
    """Delete the conversations of a project; return how many they were, and how many messages they had."""
    said = _messages_of(db, pk)
    messages.forget(db, pk, said)
    return db.run("DELETE FROM conversations WHERE project_id = :pk", pk=pk), len(said)


def _release_conversations(db: Connection, pk: int, tokens: TokensAhead | None) -> tuple[int, int]:
    """Take the conversations of a project out of it; none of them goes."""
    said = _messages_of(db, pk)
    db.run("UPDATE conversations SET project_id = NULL WHERE project_id = :pk", pk=pk)
    messages.rescope(db, said, pk, None, tokens)
    changes.bump(db, None)
    return 0, 0


def _messages_of(db: Connection, pk: int) -> list[int]:
    return _pks(
        db,
        "SELECT m.pk FROM messages m JOIN conversations c ON c.pk = m.conversation_id WHERE c.project_id = :pk",
        pk,
    )


def _pks(db: Connection, sql: str, pk: int) -> list[int]:
    return [found for (found,) in db.all(sql, pk=pk)]


def _insert(db: Connection, name: str, description: str, settings: dict[str, Any]) -> tuple[Any, ...] | None:
    """Insert a project and return its row; None when the name is taken."""
    return db.one(
        "INSERT INTO projects (id, name, description, settings, created_at, updated_at)"
        " VALUES (:id, :name, :description, :settings, :now, :now)"
        f" ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}",
        id=new_id(),
        name=fields.line(name, "project name"),
        description=fields.text(description, "description"),
        settings=fields.mapping(settings, "settings"),
        now=now_text(),
    )


def _taken(name: str) -> UniqueError:
    return UniqueError(f"project {name}: exists already; choose another name")


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"no project named {name}; list them with knowlex project list", project=name)


def _project(row: Sequence[Any]) -> Project:
    pk, id, name, description, settings, created, updated = row
    return Project(pk, id, name, description, fields.kept_object(settings, f"project {name}"), created, updated)


def _summary(row: Sequence[Any]) -> ProjectSummary:
    return ProjectSummary(_project(row[:7]), *row[7:])

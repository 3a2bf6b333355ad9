"""The conversations of a damaged database as JSON Lines: all that can be read of them, and what cannot, by name.

The lines are those of `knowlex.transfer`, and an import takes them in. A message whose parent is lost answers
nothing. Messages whose conversation is lost stand in one of its id, where an index still tells that, and of the title
"recovered …". What is no text, or no JSON, is kept as a repair keeps it. The lines of what is so not as it was are
marked as salvaged: an import leaves what is in the database already, such as a restored backup, as it is there.

All rows are read twice: first to see which there are, as the line of a conversation says how many follow. The keys
and ids of all messages are held in memory meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from knowlex import transfer
from knowlex.terminal import quantity
from storage import fields, projects, remains
from storage.connection import Connection
from storage.conversations import Conversation
from storage.errors import CorruptDatabaseError, DatabaseError, NotFoundError, UsageError
from storage.ids import new_id
from storage.messages import Message, Role
from storage.remains import Keys, Said, Talk
from storage.sources import NO_PROJECT

Kept = TypeVar("Kept", Talk, Said)


@dataclass(frozen=True, slots=True)
class Lost:
    """What an export could not read.

    type: "conversation" for title, settings and project of one, "message", or "project" for which one a conversation
    is of. id: of the conversation or message, None where nothing tells it. detail: what else is known.
    count: how many; at most so many of what no page names.
    """

    type: str
    id: str | None
    detail: str
    count: int = 1


def export(
    path: Path, lost: list[Lost], *, ids: Sequence[str] = (), project: str | None = None, no_project: bool = False
) -> Iterator[str]:
    """Yield what `transfer.export` does as far as it can be read; before the first line `lost` gets the rest.

    Raises NotFoundError for an id or project that is not there, CorruptDatabaseError where nothing tells which project
    that is, DatabaseError where not even the schema can be read.
    """
    with remains.reading(path) as db:
        pk = NO_PROJECT if no_project else None if project is None else _project_pk(db, project)
        found = _look_through(db)
        chosen = found.named(ids) if ids else found.inside(pk)
        lost += found.lost(chosen, by_id=bool(ids))
        for talk in chosen:
            yield from _lines(db, talk)


def _project_pk(db: Connection, project: str) -> int:
    try:
        return projects.find(db, project).pk
    except DatabaseError as error:
        _require_damage(error)
        raise CorruptDatabaseError(
            f"{db.path}: damaged where project {project!r} would be found; export without --project, which writes all"
            " that can be read"
        ) from error


@dataclass(frozen=True, slots=True)
class _Row:
    """What is remembered of a message: its key, when it was said, its id, and its parent's key."""

    created_at: str
    pk: int
    id: str
    parent_pk: int | None


@dataclass(slots=True)
class _Talk:
    """A conversation and what is remembered of its messages, by their keys.

    row: None where it is lost; id: made up where nothing tells that either. project: its name. lost: of it.
    with_id: whether its id is the one that it had. project_pk: NO_PROJECT for none, None where nothing tells it.
    """

    pk: int
    id: str
    row: Talk | None
    with_id: bool = True
    project_pk: int | None = None
    project: str | None = None
    lost: list[Lost] = field(default_factory=list[Lost])
    rows: dict[int, _Row] = field(default_factory=dict[int, _Row])

    def losses(self, *, written: bool) -> Iterator[Lost]:
        """Yield what is lost of it; written: whether it is among those that are exported."""
        if self.row is None:
            yield Lost("conversation", self.id if self.with_id else None, self._left(written=written))
        yield from self.lost

    def _left(self, *, written: bool) -> str:
        if not self.rows:
            return "nothing is left of it"
        said = quantity(len(self.rows), "message")
        if not written:
            return f"nothing tells its project, so that {said} of it are not written; export all, not by project"
        return f"{said} of it are in the conversation recovered {self.pk}"


@dataclass(slots=True)
class _Found:
    """All conversations by their keys, and what is lost beside: of which (None: nothing tells), and what."""

    talks: dict[int, _Talk]
    losses: list[tuple[int | None, Lost]]

    def named(self, ids: Sequence[str]) -> list[_Talk]:
        """Return conversations in the order of their ids; raises NotFoundError."""
        by_id = {talk.id: talk for talk in self.talks.values()}
        if missing := [id for id in ids if id not in by_id]:
            raise NotFoundError(f"conversation {missing[0]}: is not among what can be read; export all that can")
        return [by_id[id] for id in dict.fromkeys(ids)]

    def inside(self, project_pk: int | None) -> list[_Talk]:
        """Return conversations in the order in which they came: of a project, of none (NO_PROJECT), or all (None)."""
        talks = [talk for _, talk in sorted(self.talks.items())]
        if project_pk is None:
            return talks
        return [talk for talk in talks if talk.project_pk == project_pk]

    def lost(self, chosen: Sequence[_Talk], *, by_id: bool) -> Iterator[Lost]:
        """Yield what is lost of some conversations, chosen by their ids or by project, and what may be of any."""
        pks = {talk.pk for talk in chosen}
        for talk in self.talks.values():
            if talk.pk in pks or (talk.project_pk is None and not by_id):
                yield from talk.losses(written=talk.pk in pks)
        yield from (lost for pk, lost in self.losses if pk is None or pk in pks or pk not in self.talks)


def _look_through(db: Connection) -> _Found:
    talks, losses = _talks(db)
    found = _Found(talks, [(None, lost) for lost in losses])
    keys = remains.keys(db, remains.MESSAGES)
    rows, unread = _read(db, keys, remains.said, _require_message)
    for row in rows:
        talk = talks.get(row.conversation_pk) or _without_row(talks, row.conversation_pk, None, None)
        talk.rows[row.pk] = _Row(row.created_at, row.pk, row.id, row.parent_pk)
    found.losses += _lost_messages(db, talks, keys, unread)
    return found


def _talks(db: Connection) -> tuple[dict[int, _Talk], list[Lost]]:
    """Return conversations by their keys, those of which only an index tells, too, and what may be lost beside."""
    keys = remains.keys(db, remains.CONVERSATIONS)
    rows, unread = _read(db, keys, remains.talk, _require_talk)
    talks = {row.pk: _Talk(row.pk, row.id, row, project_pk=row.project_pk or NO_PROJECT) for row in rows}
    ids = _ids(db, remains.CONVERSATIONS[remains.IDS], unread.named)
    of = _told(db, remains.CONVERSATIONS[remains.PROJECTS], unread)
    taken = {talk.id for talk in talks.values()}
    for pk in sorted(unread.named):
        id = ids.get(pk)
        _without_row(talks, pk, None if id in taken else id, of.get(pk))
    names: dict[int, str | None] = {}
    for talk in talks.values():
        _name_project(db, talk, names)
    return talks, list(_unnamed("conversation", keys, unread))


def _without_row(talks: dict[int, _Talk], pk: int, id: str | None, project_pk: int | None) -> _Talk:
    """Add a conversation whose row is lost."""
    talks[pk] = talk = _Talk(pk, id or new_id(), None, with_id=id is not None, project_pk=project_pk)
    return talk


def _name_project(db: Connection, talk: _Talk, names: dict[int, str | None]) -> None:
    """Look up whose project a conversation is; where the name is lost, it is exported as one of none."""
    pk = talk.project_pk
    if pk in (None, NO_PROJECT):
        return
    try:
        if pk not in names:
            name = remains.project_name(db, pk)
            names[pk] = None if name is None else fields.line(name, "project")
        talk.project = names[pk]
    except (DatabaseError, UsageError) as error:
        _require_damage(error)
        talk.lost.append(Lost("project", talk.id, "the name of its project; it is exported as one of none"))


@dataclass(slots=True)
class _Unread:
    """The keys of rows that are lost, though some page names them, and how many others cannot be read."""

    named: set[int] = field(default_factory=set[int])
    unnamed: int = 0

    def add(self, keys: Keys, pk: int) -> None:
        """Take in a key of which there is no row that can be used."""
        if pk in keys.named:
            self.named.add(pk)
        else:
            self.unnamed += 1


def _read(
    db: Connection, keys: Keys, read: Callable[[Connection, int], Kept | None], require: Callable[[Kept], None]
) -> tuple[Iterator[Kept], _Unread]:
    """Return the rows that can be read and used, and what gets the keys of the others on the way."""
    unread = _Unread()

    def rows() -> Iterator[Kept]:
        ids: set[str] = set()
        for pk in keys:
            try:
                row = read(db, pk)
                if row is None and pk not in keys.named:
                    continue
                if row is not None:
                    require(row)
            except (DatabaseError, UsageError) as error:
                _require_damage(error)
                row = None
            if row is None or row.id in ids:
                unread.add(keys, pk)
            else:
                ids.add(row.id)
                yield row

    return rows(), unread


def _require_damage(error: Exception) -> None:
    """Raise an error again that says nothing of what is in the file."""
    if not isinstance(error, UsageError) and not remains.is_damage(error):
        raise error


def _require_talk(row: Talk) -> None:
    """Raise UsageError for what an import would not take."""
    fields.given_id(row.id)
    fields.text(row.title, "title")
    fields.mapping(row.settings, "settings")
    _require_times(row)


def _require_message(row: Said) -> None:
    fields.given_id(row.id)
    fields.choice(Role, row.role, "role")
    _require_times(row)
    if type(row.conversation_pk) is not int:
        raise UsageError("conversation: is no key")


def _require_times(row: Talk | Said) -> None:
    fields.instant(row.created_at, "created_at")
    fields.instant(row.updated_at, "updated_at")


def _ids(db: Connection, tree: remains.Tree, pks: Collection[int]) -> dict[int, str]:
    """Return the ids of rows that are lost, as far as an index tells them and they can be used."""
    ids: dict[int, str] = {}
    for pk, value in (remains.told(db, tree, pks) if pks else {}).items():
        try:
            ids[pk] = fields.given_id((value or b"").decode("utf8"))
        except (UsageError, UnicodeDecodeError):
            continue
    return ids


def _told(db: Connection, tree: remains.Tree, unread: _Unread) -> dict[int, int | None]:
    """Return the keys that an index tells of rows that are lost."""
    return remains.told(db, tree, unread.named) if unread.named else {}


def _lost_messages(
    db: Connection, talks: Mapping[int, _Talk], keys: Keys, unread: _Unread
) -> Iterator[tuple[int | None, Lost]]:
    """Yield what messages are lost, and of which conversation."""
    ids = _ids(db, remains.MESSAGES[remains.IDS], unread.named)
    of = _told(db, remains.MESSAGES[remains.TALKS], unread)
    for pk in sorted(unread.named):
        talk = talks.get(of.get(pk) or 0)
        yield of.get(pk), Lost("message", ids.get(pk), f"of conversation {talk.id}" if talk else "of no known one")
    yield from ((None, lost) for lost in _unnamed("message", keys, unread))


def _unnamed(type: str, keys: Keys, unread: _Unread) -> Iterator[Lost]:
    """Yield what may be lost that no page names."""
    if unread.unnamed:
        yield Lost(type, None, "at most: no index tells how many there were", unread.unnamed)
    if keys.beyond:
        yield Lost(type, None, f"at most: keys beyond {keys.between[-1]} were not looked at", keys.beyond)


def _lines(db: Connection, talk: _Talk) -> Iterator[str]:
    """Yield the lines of a conversation; none of one of which nothing is left."""
    rows = sorted(talk.rows.values(), key=lambda row: (row.created_at, row.pk))
    if talk.row is None and not rows:
        return
    as_it_was = talk.row is not None and talk.row.as_it_was
    yield transfer.conversation_line(_head(talk, rows), salvaged=not as_it_was)
    for row in rows:
        found = remains.said(db, row.pk)
        if found is None:
            raise DatabaseError(f"{db.path}: message {row.id} cannot be read twice; check the disk")
        yield _message_line(talk, row, found)


def _message_line(talk: _Talk, row: _Row, found: Said) -> str:
    parent = _parent(talk.rows, row)
    as_it_was = found.as_it_was and talk.with_id and (parent is not None or found.parent_pk is None)
    role, created_at, updated_at = Role(found.role), found.created_at, found.updated_at
    message = Message(row.pk, row.id, talk.id, role, found.content, parent, created_at, updated_at)
    return transfer.message_line(message, salvaged=not as_it_was)


def _head(talk: _Talk, rows: Sequence[_Row]) -> Conversation:
    row = talk.row or Talk(talk.pk, talk.id, None, f"recovered {talk.pk}", {}, rows[0].created_at, rows[-1].created_at)
    return Conversation(
        talk.pk,
        talk.id,
        row.project_pk,
        None,
        talk.project,
        row.title,
        row.settings,
        row.created_at,
        row.updated_at,
        len(rows),
    )


def _parent(rows: Mapping[int, _Row], row: _Row) -> str | None:
    """Return the id of what a message answers; None where that is lost, or would make it answer itself."""
    parent = rows.get(row.parent_pk or 0)
    # Somewhere in a circle a message answers one that came later, or itself.
    circles = parent is not None and parent.pk >= row.pk and _answers(rows, parent, row)
    return None if parent is None or circles else parent.id


def _answers(rows: Mapping[int, _Row], row: _Row, other: _Row) -> bool:
    """Tell whether a message answers another, by way of others or as it is the same."""
    passed: set[int] = set()
    above: _Row | None = row
    while above and above.pk not in passed:
        if above.pk == other.pk:
            return True
        passed.add(above.pk)
        above = rows.get(above.parent_pk or 0)
    return False

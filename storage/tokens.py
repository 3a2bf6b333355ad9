"""Access tokens: who may use the server, and for what. Only the hash of a token is kept.

A token is 256 random bits, so one SHA-256 is enough: nobody can try all of them, however fast the hash. What makes a
hash slow is meant for passwords, which people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from storage import fields
from storage.connection import Connection
from storage.errors import NotFoundError
from storage.ids import as_text, new_id, now_text
from storage.projects import Project

PREFIX = "kx_"
"""What every token begins with, so that a search for leaked secrets finds it."""

USE_NOTED_EVERY = timedelta(minutes=1)

_BYTES = 32
_FORM = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: the only time that it can be seen."""

    token: str
    id: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, but for its secret. Times are UTC text.

    write: whether it may change anything. all_projects: whether it is for everything there is; else it is for
    `projects` (names by id) alone, also where none is left. last_used_at: to about a minute.
    """

    id: str
    name: str
    write: bool
    all_projects: bool
    projects: dict[str, str]
    created_at: str
    last_used_at: str | None
    revoked_at: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is for. projects: ids; None for everything. use_is_due: whether its use should be noted again."""

    id: str
    projects: frozenset[str] | None
    write: bool
    use_is_due: bool


def create(db: Connection, projects: Sequence[Project] | None, *, write: bool, name: str = "") -> NewToken:
    """Make a token and return it; nobody can read it again. projects: None for everything. Raises UsageError."""
    made = NewToken(PREFIX + secrets.token_urlsafe(_BYTES), new_id())
    db.run(
        "INSERT INTO access_tokens (id, name, digest, can_write, all_projects, created_at)"
        " VALUES (:id, :name, :digest, :write, :all, :now)",
        id=made.id,
        name=fields.line(name, "name") if name else "",
        digest=_digest(made.token),
        write=write,
        all=projects is None,
        now=now_text(),
    )
    pk = db.last_pk()
    bound = {project.pk for project in projects or ()}
    db.many(
        "INSERT INTO token_projects (token_id, project_id) VALUES (:token, :project)",
        ({"token": pk, "project": project} for project in sorted(bound)),
    )
    return made


def find(db: Connection, token: str) -> Grant | None:
    """Return what a token is for; None for one that is unknown or revoked.

    The index is searched by the hash alone, of which nobody can choose a beginning: how long that takes tells
    nothing of the tokens there are.
    """
    if not _FORM.fullmatch(token):
        return None
    digest = _digest(token)
    rows = db.all(
        "SELECT t.digest, t.id, t.can_write, t.all_projects, coalesce(t.last_used_at, '') < :due, p.id"
        " FROM access_tokens t LEFT JOIN token_projects b ON b.token_id = t.pk"
        " LEFT JOIN projects p ON p.pk = b.project_id WHERE t.digest = :digest AND t.revoked_at IS NULL",
        digest=digest,
        due=as_text(datetime.now(UTC) - USE_NOTED_EVERY),
    )
    if not rows or not hmac.compare_digest(rows[0][0], digest):
        return None
    _, id, write, everything, due, _ = rows[0]
    bound = frozenset(row[-1] for row in rows if row[-1] is not None)
    return Grant(id, None if everything == 1 else bound, write == 1, bool(due))


def note_use(db: Connection, id: str) -> None:
    """Note that a token was used just now."""
    db.run("UPDATE access_tokens SET last_used_at = :now WHERE id = :id", id=id, now=now_text())


def usable(db: Connection) -> bool:
    """Tell whether there is a token that is not revoked."""
    return bool(db.value("SELECT EXISTS (SELECT 1 FROM access_tokens WHERE revoked_at IS NULL)"))


def made(db: Connection) -> bool:
    """Tell whether there ever was a token: a revoked one counts, too."""
    return bool(db.value("SELECT EXISTS (SELECT 1 FROM access_tokens)"))


def get(db: Connection, id: str) -> Token:
    """Return a token by id, also a revoked one; raises NotFoundError."""
    found = _tokens(db, " WHERE t.id = :id", id=id)
    if not found:
        raise NotFoundError(f"token {id}: not found; list them with knowlex token list")
    return found[0]


def every(db: Connection) -> list[Token]:
    """Return all tokens, the revoked ones, too, in the order in which they were made."""
    return _tokens(db, "")


def revoke(db: Connection, id: str) -> Token:
    """Have a token count for nothing from now on, and return it; raises NotFoundError.

    One that is revoked already stays so since then.
    """
    get(db, id)
    db.run("UPDATE access_tokens SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id", id=id, now=now_text())
    return get(db, id)


def revoked(db: Connection) -> list[str]:
    """Return the ids of the revoked tokens; nothing where the schema is older than they are."""
    if not db.one("SELECT 1 FROM sqlite_schema WHERE name = 'access_tokens'"):
        return []
    return [id for (id,) in db.all("SELECT id FROM access_tokens WHERE revoked_at IS NOT NULL")]


def revoke_all(db: Connection, ids: Iterable[str]) -> None:
    """Revoke those of the tokens that are there."""
    db.many(
        "UPDATE access_tokens SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id",
        ({"id": id, "now": now_text()} for id in ids),
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


def _tokens(db: Connection, where: str, **values: Any) -> list[Token]:
    rows = db.all(
        "SELECT t.id, t.name, t.can_write, t.all_projects, t.created_at, t.last_used_at, t.revoked_at, p.id, p.name"
        " FROM access_tokens t LEFT JOIN token_projects b ON b.token_id = t.pk"
        f" LEFT JOIN projects p ON p.pk = b.project_id{where} ORDER BY t.pk, p.name",
        **values,
    )
    found: dict[str, Token] = {}
    for id, name, write, everything, created, used, ended, project, project_name in rows:
        token = found.setdefault(id, Token(id, name, write == 1, everything == 1, {}, created, used, ended))
        if project is not None:
            token.projects[project] = project_name
    return list(found.values())

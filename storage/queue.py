"""The queue of files to be processed: claims, leases, and what happens when a worker is lost.

A claim carries a token. Every later step of the worker is fenced by it: once the lease has been taken
away (it ran out, the owner died, the file changed or was deleted), `require_lease` refuses the step.
Losing a worker never counts against a file; only an attempt that was seen to fail does. A time that lies
further ahead than it can is from before the clock was set back, and counts as past.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from storage.connection import Connection
from storage.errors import LeaseLostError, UsageError
from storage.ids import new_id, now_text
from storage.vectors import integers

LEASE_MS = 60_000

LEASE_AHEAD_MS = 2 * LEASE_MS
"""How far ahead no lease ends: one that does was given before the clock was set back, and has run out."""

ATTEMPT_AHEAD_MS = 3_600_000
"""How far ahead no attempt is put off: one that is was put off before the clock was set back, and is due."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that one worker may process, for as long as it holds `token`; error_code: why its last attempt failed."""

    pk: int
    project_pk: int
    path: bytes
    filename: str
    content_hash: str | None
    mime_type: str | None
    attempts: int
    token: str
    error_code: str | None = None
    id: str = ""


def claim(
    db: Connection, owner: str, *, limit: int, now_ms: int, project_pk: int | None = None, lease_ms: int = LEASE_MS
) -> list[Claim]:
    """Take up to `limit` files that are due; each is leased to `owner` for `lease_ms`.

    The projects take turns, so that none waits for the long queue of another: first comes the oldest file of each, then
    the second of each. Where there are more projects than `limit`, chance decides which ones are served.
    Raises UsageError for a lease so long that it would be taken for one of a clock that was set back.
    """
    claims = _leased(
        db,
        owner,
        " SELECT pk FROM (SELECT f.pk, row_number() OVER (PARTITION BY f.project_id ORDER BY f.pk) AS turn FROM ("
        " SELECT pk FROM projects WHERE (:project IS NULL OR pk = :project)"
        f" AND EXISTS (SELECT 1 FROM {_QUEUE} WHERE project_id = projects.pk AND {_DUE})"
        " ORDER BY random() LIMIT :limit) p CROSS JOIN project_files f ON f.pk IN ("
        f" SELECT pk FROM {_QUEUE} WHERE project_id = p.pk AND {_DUE} ORDER BY pk LIMIT :limit))"
        " ORDER BY turn, pk LIMIT :limit",
        now_ms=now_ms,
        lease_ms=lease_ms,
        project=project_pk,
        limit=limit,
    )
    return _in_turns(claims)


def claim_these(
    db: Connection, owner: str, pks: Collection[int], *, now_ms: int, lease_ms: int = LEASE_MS
) -> list[Claim]:
    """Take those of these files that are due, each leased to `owner`, in order. Raises what `claim` does."""
    chosen = f"SELECT pk FROM project_files WHERE pk IN (SELECT value FROM carray(:pks)) AND {_DUE}"
    claims = _leased(db, owner, chosen, now_ms=now_ms, lease_ms=lease_ms, pks=integers(pks))
    return sorted(claims, key=lambda claim: claim.pk)


def _leased(db: Connection, owner: str, chosen: str, *, now_ms: int, lease_ms: int, **values: Any) -> list[Claim]:
    """Lease the files that a query gives, and return them in no order."""
    _require_short(lease_ms)
    token = new_id()
    rows = db.all(
        "UPDATE project_files SET status = 'processing', lease_owner = :owner, lease_token = :token,"
        f" lease_expires_at = :expires, updated_at = :now WHERE pk IN ({chosen})"
        " RETURNING pk, project_id, path_bytes, filename, content_hash, mime_type, attempts, error_code, id",
        owner=owner,
        token=token,
        expires=now_ms + lease_ms,
        now=now_text(),
        now_ms=now_ms,
        ahead=now_ms + ATTEMPT_AHEAD_MS,
        **values,
    )
    return [
        Claim(pk, project, bytes(path), filename, digest, mime, attempts, token, error_code, id)
        for pk, project, path, filename, digest, mime, attempts, error_code, id in rows
    ]


_QUEUE = "project_files INDEXED BY idx_project_files_due"
"""Named, as the planner takes the index by status, in which all the copies are that wait for others."""

_DUE = (
    "status = 'pending' AND waiting_for IS NULL"
    " AND (next_attempt_at IS NULL OR next_attempt_at <= :now_ms OR next_attempt_at > :ahead)"
)


def _in_turns(claims: Sequence[Claim]) -> list[Claim]:
    """Order claims so that the nth of each project come together, the oldest of these first."""
    turn: defaultdict[int, count[int]] = defaultdict(count)
    return sorted(sorted(claims, key=lambda claim: claim.pk), key=lambda claim: next(turn[claim.project_pk]))


def require_lease(db: Connection, claim: Claim) -> None:
    """Raise LeaseLostError unless the claim still stands."""
    held = db.one(
        "SELECT 1 FROM project_files WHERE pk = :pk AND lease_token = :token AND status = 'processing'",
        pk=claim.pk,
        token=claim.token,
    )
    if held is None:
        raise LeaseLostError(f"{claim.filename}: taken over, changed or deleted meanwhile; this result is dropped")


def _require_short(lease_ms: int) -> None:
    if lease_ms > LEASE_AHEAD_MS:
        raise UsageError(
            f"lease of {lease_ms} ms: others would take the files back at once; give at most {LEASE_AHEAD_MS}"
        )


def extend(db: Connection, owner: str, *, now_ms: int, lease_ms: int = LEASE_MS) -> int:
    """Extend every lease of `owner` and return their number: the heartbeat. Raises what `claim` does."""
    _require_short(lease_ms)
    return db.run(
        "UPDATE project_files SET lease_expires_at = :expires WHERE lease_owner = :owner AND status = 'processing'",
        owner=owner,
        expires=now_ms + lease_ms,
    )


def give_back(db: Connection, owner: str) -> int:
    """Return every file that `owner` holds to the queue and return their number: a clean stop."""
    return db.run(
        "UPDATE project_files SET status = 'pending', lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, updated_at = :now WHERE lease_owner = :owner AND status = 'processing'",
        owner=owner,
        now=now_text(),
    )


def end_leases(db: Connection) -> int:
    """Return every file that anybody holds to the queue and return their number: in a copy, nobody holds them."""
    return db.run(
        "UPDATE project_files SET status = 'pending', lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, updated_at = :now WHERE status = 'processing'",
        now=now_text(),
    )


def owners(db: Connection) -> list[str]:
    """Return who holds leases now."""
    return [owner for (owner,) in db.all("SELECT DISTINCT lease_owner FROM project_files WHERE status = 'processing'")]


def reclaim(db: Connection, *, now_ms: int, is_dead: Callable[[str], bool]) -> int:
    """Return files of lost workers to the queue and return their number.

    A worker is lost when its lease has run out or ends further ahead than it can, or at once when `is_dead` can
    prove that it is gone. One that lives, and gave itself the lease before the clock was set back, does its work again.
    """
    dead = [owner for owner in owners(db) if is_dead(owner)]
    taken = sum(give_back(db, owner) for owner in dead)
    return taken + db.run(
        "UPDATE project_files SET status = 'pending', lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, updated_at = :now WHERE status = 'processing'"
        " AND (lease_expires_at < :now_ms OR lease_expires_at > :ahead)",
        now=now_text(),
        now_ms=now_ms,
        ahead=now_ms + LEASE_AHEAD_MS,
    )


def lost(db: Connection, *, now_ms: int, is_dead: Callable[[str], bool]) -> bool:
    """Tell, without writing, whether `reclaim` would find something."""
    overdue = db.one(
        "SELECT 1 FROM project_files WHERE status = 'processing'"
        " AND (lease_expires_at < :now_ms OR lease_expires_at > :ahead) LIMIT 1",
        now_ms=now_ms,
        ahead=now_ms + LEASE_AHEAD_MS,
    )
    return overdue is not None or any(is_dead(owner) for owner in owners(db))


def try_later(db: Connection, claim: Claim, *, now_ms: int, wait_ms: int, code: str, message: str) -> None:
    """Return a file to the queue after a failed attempt, which counts; it waits for `wait_ms`, or the longest wait."""
    require_lease(db, claim)
    db.run(
        "UPDATE project_files SET status = 'pending', attempts = attempts + 1, next_attempt_at = :not_before,"
        " error_code = :code, error_message = :message, lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, updated_at = :now WHERE pk = :pk",
        pk=claim.pk,
        not_before=now_ms + min(wait_ms, ATTEMPT_AHEAD_MS),
        code=code,
        message=message,
        now=now_text(),
    )


def unfinished_at_most(db: Connection, project_pk: int | None, at_most: int) -> int:
    """Return the same as `unfinished`, counting no further than `at_most`; cheap enough for every search."""
    inside = "TRUE" if project_pk is None else "p.pk = :project"
    return db.value(
        "SELECT count(*) FROM (SELECT 1 FROM projects p CROSS JOIN project_files f ON f.project_id = p.pk"
        f" WHERE {inside} AND f.status IN ('pending', 'processing') LIMIT :at_most)",
        **({} if project_pk is None else {"project": project_pk}),
        at_most=at_most,
    )


def unfinished(db: Connection, project_pk: int | None = None) -> int:
    """Return the number of files that are waiting or being processed."""
    waiting = "SELECT count(*) FROM project_files WHERE status IN ('pending', 'processing')"
    if project_pk is None:
        return db.value(waiting)
    return db.value(f"{waiting} AND project_id = :project", project=project_pk)


def due(db: Connection, project_pk: int | None = None, *, now_ms: int, at_most: int) -> int:
    """Return how many files may be claimed now, counting no further than `at_most`."""
    return db.value(
        f"SELECT count(*) FROM (SELECT 1 FROM projects p CROSS JOIN {_QUEUE} ON project_id = p.pk"
        f" WHERE (:project IS NULL OR p.pk = :project) AND {_DUE} LIMIT :at_most)",
        project=project_pk,
        now_ms=now_ms,
        ahead=now_ms + ATTEMPT_AHEAD_MS,
        at_most=at_most,
    )

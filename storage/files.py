"""Files of a project: one row a name, their status, and who serves the chunks of equal ones.

A row is `pending` until a worker claims it (storage.queue), then `processing`, then `ready` or
`failed`. `content_hash` is of the bytes the status speaks of, `indexed_hash` of those that are
searchable; an edited file keeps its old chunks until the new ones commit.

Equal bytes within a project have one set of chunks and many names. The *owner* has the chunks; every
other name points at it by `duplicate_of`, or, while the content is still in the queue, by
`waiting_for`. `let_go` is the one place where a name leaves its chunks: the last name's chunks die,
otherwise another name inherits them.

What lies within a file, as a mail's attachments do, are rows of their own (storage.parts). They belong to the owner
of the bytes and go where its chunks go.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from storage import changes, chunks, paging, parts
from storage.connection import Connection
from storage.errors import NotFoundError, UsageError
from storage.fields import kept_json
from storage.fingerprint import Fingerprint
from storage.ids import new_id, now_text
from storage.paging import MAX_LIMIT, Page


class Status(StrEnum):
    """Where a file is on its way; the value is what the table keeps."""

    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class Registered(StrEnum):
    """What `register` found a file to be."""

    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class File:
    """A row of project_files; sizes in bytes, times as the table keeps them."""

    pk: int
    id: str
    project_pk: int
    filename: str
    original_path: str | None
    path: str
    path_bytes: bytes
    content_hash: str | None
    indexed_hash: str | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    inode: int | None
    mime_type: str | None
    status: Status
    error_code: str | None
    error_message: str | None
    chunk_count: int
    page_count: int | None
    attempts: int
    duplicate_of: int | None
    waiting_for: int | None
    parser: str | None
    settings_fingerprint: str | None
    metadata: dict[str, Any]
    created_at: str
    updated_at: str

    @property
    def reader(self) -> str | None:
        """Name and version of what read it; None where nothing did: one that failed has all that could not."""
        return None if self.parser is None or _SEVERAL in self.parser else self.parser


_SEVERAL = "; "
"""What stands between the readers that could not read a file; no name of one has it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the last run knew of a path; `ctime_ns` is None where the time stamps could not be trusted."""

    pk: int
    status: Status
    error_code: str | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    inode: int | None
    settings: str | None
    parser: str | None

    def settled(self, seen: Fingerprint, versions: Versions) -> bool:
        """Tell whether nothing is to be done for a file that looks like `seen` now."""
        return (
            self.status in (Status.READY, Status.FAILED)
            and (self.size, self.mtime_ns, self.ctime_ns, self.inode)
            == (seen.size, seen.mtime_ns, seen.ctime_ns, seen.inode)
            and versions.current(self.settings, self.parser)
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A file found on disk: where, what it looks like, and the SHA-256 (hex) of its bytes."""

    path: bytes
    fingerprint: Fingerprint
    content_hash: str
    mime_type: str | None = None


@dataclass(frozen=True, slots=True)
class Versions:
    """What makes chunks today: chunks made by anything else are made anew.

    parsers: every reader's name and version. settings: fingerprint of the chunking settings.
    """

    settings: str
    parsers: frozenset[str]

    @property
    def every_parser(self) -> str:
        """All readers as one text: what a failed file keeps, so that a change of any tries it again."""
        return _SEVERAL.join(sorted(self.parsers))

    def current(self, settings: str | None, parser: str | None) -> bool:
        """Tell whether a file with these marks was read and cut, or refused, by these versions."""
        return settings == self.settings and (parser in self.parsers or parser == self.every_parser)

    def made(self, file: File) -> bool:
        """Tell whether `file` was read and cut, or refused, by these versions."""
        return self.current(file.settings_fingerprint, file.parser)


_COLUMNS = ", ".join("project_id" if f.name == "project_pk" else f.name for f in fields(File))
# A write within this time before hashing may carry the same time stamps as a later one: those of FAT and some network
# drives go in steps of 2 s, of HFS+ of 1 s. All it costs is that a file just written is hashed again by the next run.
RACY_NS = 2_100_000_000


def shown(path: bytes) -> str:
    """Return a path as text; bytes that are not UTF-8 are escaped, as no text column can hold them.

    What lies in a file looks as if that were a folder.
    """
    return os.fsdecode(path.replace(parts.SEPARATOR, b"/")).encode("utf8", "backslashreplace").decode("utf8")


def count_cut(db: Connection) -> list[tuple[int, str | None, int]]:
    """Return by project how many searchable files were cut under which settings, by fingerprint; copies aside."""
    return db.all(
        "SELECT project_id, settings_fingerprint, count(*) FROM project_files"
        " WHERE status = 'ready' AND duplicate_of IS NULL GROUP BY project_id, settings_fingerprint"
    )


def get(db: Connection, pk: int) -> File:
    """Return a file by its primary key; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM project_files WHERE pk = :pk", pk=pk)
    if row is None:
        raise NotFoundError(f"file {pk}: no such file")
    return _file(row)


def by_id(db: Connection, id: str) -> File:
    """Return a file by the id that the doors show; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM project_files WHERE id = :id", id=id)
    if row is None:
        raise _missing(id)
    return _file(row)


def _missing(id: str) -> NotFoundError:
    return NotFoundError(f"{id}: no file of that id or path is in the database; knowlex files PROJECT lists them")


def of_project(db: Connection, project_pk: int, id: str) -> File:
    """Return a file of a project by its id; one of another project raises NotFoundError as one that is not there."""
    file = by_id(db, id)
    if file.project_pk != project_pk:
        raise _missing(id)
    return file


def find(db: Connection, wanted: str) -> File:
    """Return a file by its id, or by its path as people type it.

    Raises NotFoundError, and UsageError for a path that several projects have.
    """
    at = [] if _has_id(db, wanted) else _at(db, wanted)
    if len(at) > 1:
        ids = ", ".join(file.id for file in at)
        raise UsageError(f"{wanted}: is a file of several projects ({ids}); give one of these ids")
    return at[0] if at else by_id(db, wanted)


def _has_id(db: Connection, wanted: str) -> bool:
    return db.one("SELECT 1 FROM project_files WHERE id = :id", id=wanted) is not None


def _at(db: Connection, wanted: str) -> list[File]:
    """Return the files of a path: as it is shown, or as a person types it, relative and with links."""
    try:
        path = os.path.realpath(os.fsencode(wanted))
    except ValueError:  # a NUL, or half a character
        path = b""
    rows = db.all(
        f"SELECT {_COLUMNS} FROM project_files WHERE path = :wanted OR path_bytes = :path ORDER BY pk",
        wanted=wanted,
        path=path,
    )
    return [_file(row) for row in rows]


def by_path(db: Connection, project_pk: int, path: bytes) -> File | None:
    """Return the file of this name (bytes, absolute), or None."""
    row = db.one(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project AND path_bytes = :path",
        project=project_pk,
        path=path,
    )
    return _file(row) if row else None


def exists(db: Connection, pk: int) -> bool:
    """Tell whether a file still has its row."""
    return db.one("SELECT 1 FROM project_files WHERE pk = :pk", pk=pk) is not None


def unfinished_of(db: Connection, project_pk: int, pks: Iterable[int]) -> int:
    """Return how many of these files wait or are being processed."""
    rows = db.all(
        "SELECT pk FROM project_files WHERE project_id = :project AND status IN ('pending', 'processing')",
        project=project_pk,
    )
    return len({pk for (pk,) in rows}.intersection(list(pks)))


def listed(
    db: Connection, project_pk: int, *, status: Status | None = None, limit: int = 100, after: str | None = None
) -> Page[File]:
    """Return files of a project, of one status or of all, in the order they came.

    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    _, pk = paging.start(after, paging.FIRST, "files")
    values: dict[str, Any] = {"project": project_pk, "pk": pk, "limit": paging.probe(limit)}
    if status is not None:
        values["status"] = status
    rows = db.all(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project AND pk > :pk"
        f"{'' if status is None else ' AND status = :status'} ORDER BY pk LIMIT :limit",
        **values,
    )
    return paging.cut(rows, limit, _file, lambda file: (0, file.pk), "files")


def every(db: Connection, project_pk: int, status: Status | None = None) -> Iterator[File]:
    """Yield all files of a project, page by page."""
    page = listed(db, project_pk, status=status, limit=MAX_LIMIT)
    yield from page.items
    while page.next is not None:
        page = listed(db, project_pk, status=status, limit=MAX_LIMIT, after=page.next)
        yield from page.items


def known(db: Connection, project_pk: int) -> dict[bytes, Known]:
    """Return what the last runs knew of each path of a project."""
    rows = db.all(
        "SELECT path_bytes, pk, status, error_code, size, mtime_ns, ctime_ns, inode, settings_fingerprint, parser"
        " FROM project_files WHERE project_id = :project",
        project=project_pk,
    )
    return {
        bytes(path): Known(pk, Status(status), code, size, mtime, ctime, inode, settings, parser)
        for path, pk, status, code, size, mtime, ctime, inode, settings, parser in rows
    }


def failures(db: Connection, project_pk: int) -> dict[int, str]:
    """Return why each failed file of a project failed, by its key."""
    rows = db.all(
        "SELECT pk, error_message FROM project_files WHERE project_id = :project AND status = 'failed'",
        project=project_pk,
    )
    return {pk: message or "" for pk, message in rows}


def counts(db: Connection, project_pk: int | None = None) -> dict[str, int]:
    """Return the number of files by status, of one project or of all."""
    if project_pk is None:
        rows = db.all("SELECT status, count(*) FROM project_files GROUP BY status")
    else:
        rows = db.all(
            "SELECT status, count(*) FROM project_files WHERE project_id = :project GROUP BY status",
            project=project_pk,
        )
    return {status.value: 0 for status in Status} | dict(rows)


def names_of(db: Connection, owner_pks: Sequence[int]) -> dict[int, list[str]]:
    """Return, for owners of chunks, the paths of the other names they serve."""
    found: dict[int, list[str]] = {}
    for pk in owner_pks:
        rows = db.all("SELECT path FROM project_files WHERE duplicate_of = :pk ORDER BY pk", pk=pk)
        if rows:
            found[pk] = [path for (path,) in rows]
    return found


def register(
    db: Connection, project_pk: int, seen: Seen, versions: Versions, *, scanned_ns: int, retry: bool = False
) -> tuple[int, Registered]:
    """Record a file found on disk and return its pk and what is to be done about it.

    scanned_ns: when hashing began; time stamps younger than `RACY_NS` before it are not trusted,
    so that the next run reads the bytes again. retry: try a failed file again though nothing changed.
    """
    file = by_path(db, project_pk, seen.path)
    if file is None:
        pk = _insert(db, project_pk, seen, scanned_ns)
        return pk, _assign(db, get(db, pk), versions)
    _remember(db, file.pk, seen, scanned_ns)
    if file.content_hash != seen.content_hash:
        _step_aside(db, file.pk)
        _set_hash(db, file.pk, seen.content_hash)
        return file.pk, _assign(db, get(db, file.pk), versions)
    return file.pk, _revisit(db, file, versions, retry=retry)


def _revisit(db: Connection, file: File, versions: Versions, *, retry: bool) -> Registered:
    """Decide about a file whose bytes are as before."""
    match file.status:
        case Status.PENDING | Status.PROCESSING:
            return Registered.DUPLICATE if file.waiting_for else Registered.QUEUED
        case Status.FAILED:
            return _assign(db, file, versions) if retry or not versions.made(file) else Registered.UNCHANGED
        case Status.READY:
            if versions.made(file) or _being_redone(db, file):
                return Registered.UNCHANGED
            return _redo(db, file)


def _being_redone(db: Connection, file: File) -> bool:
    return file.duplicate_of is not None and get(db, file.duplicate_of).status in (Status.PENDING, Status.PROCESSING)


def _redo(db: Connection, file: File) -> Registered:
    """Queue a ready file again because the versions changed; it becomes the owner of its chunks."""
    take_over(db, file)
    _queue(db, file.pk)
    return Registered.QUEUED


def take_over(db: Connection, file: File) -> None:
    """Make a duplicate the owner of the chunks that serve it."""
    if file.duplicate_of is not None:
        _inherit(db, file.duplicate_of, file.pk)


def _assign(db: Connection, file: File, versions: Versions) -> Registered:
    """Give a file with new bytes its place: served by an equal ready one, waiting for one, or queued."""
    owner = _owner_of(db, file)
    if owner is not None and _vouches(owner, versions):
        become_duplicate(db, file.pk, owner)
        return Registered.DUPLICATE
    if owner is not None:
        _adopt(db, file, owner)
        _queue(db, file.pk)
        return Registered.QUEUED
    worker = _job_of(db, file)
    if worker is not None and not _lies_in(get(db, worker), file):
        _wait(db, file.pk, worker)
        return Registered.DUPLICATE
    if worker is not None:
        # Its bytes are those of something it held before it was edited: that cannot be read any more.
        _take_job(db, file.pk, worker)
    _queue(db, file.pk)
    return Registered.QUEUED


def _vouches(owner: File, versions: Versions) -> bool:
    """Tell whether an owner's chunks are those that today's versions make, or will be once it is finished.

    What a failed owner remembers is who failed to read it, not who made the chunks it had before.
    """
    match owner.status:
        case Status.READY:
            return versions.made(owner)
        case Status.FAILED:
            return False
        case Status.PENDING | Status.PROCESSING:
            return True


def _hand_added_over(db: Connection, pk: int, owner_pk: int) -> bool:
    """Give the chunks that were added to a name to another, where no other name keeps them; tell whether there were."""
    return _successor(db, pk) is None and bool(chunks.hand_over(db, pk, owner_pk))


def _owner_of(db: Connection, file: File) -> File | None:
    row = db.one(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project AND indexed_hash = :hash"
        " AND duplicate_of IS NULL AND pk <> :pk",
        project=file.project_pk,
        hash=file.content_hash,
        pk=file.pk,
    )
    return _file(row) if row else None


def _job_of(db: Connection, file: File) -> int | None:
    return db.value(
        "SELECT pk FROM project_files WHERE project_id = :project AND content_hash = :hash AND pk <> :pk"
        " AND waiting_for IS NULL AND status IN ('pending', 'processing')",
        project=file.project_pk,
        hash=file.content_hash,
        pk=file.pk,
    )


def _insert(db: Connection, project_pk: int, seen: Seen, scanned_ns: int) -> int:
    path = shown(seen.path)
    # A row enters without a hash: only `_assign` may make it a job, as one content has one job.
    db.run(
        "INSERT INTO project_files (id, project_id, filename, original_path, path, path_bytes, size, mtime_ns,"
        " ctime_ns, inode, mime_type, created_at, updated_at) VALUES (:id, :project, :filename, :path, :path,"
        " :path_bytes, :size, :mtime, :ctime, :inode, :mime, :now, :now)",
        id=new_id(),
        project=project_pk,
        filename=path.rsplit("/", 1)[-1],
        path=path,
        path_bytes=seen.path,
        size=seen.fingerprint.size,
        mtime=seen.fingerprint.mtime_ns,
        ctime=_trusted_ctime(seen.fingerprint, scanned_ns),
        inode=seen.fingerprint.inode,
        mime=seen.mime_type,
        now=now_text(),
    )
    pk = db.last_pk()
    _set_hash(db, pk, seen.content_hash)
    return pk


def _remember(db: Connection, pk: int, seen: Seen, scanned_ns: int) -> None:
    db.run(
        "UPDATE project_files SET size = :size, mtime_ns = :mtime, ctime_ns = :ctime, inode = :inode,"
        " mime_type = :mime WHERE pk = :pk",
        pk=pk,
        size=seen.fingerprint.size,
        mtime=seen.fingerprint.mtime_ns,
        ctime=_trusted_ctime(seen.fingerprint, scanned_ns),
        inode=seen.fingerprint.inode,
        mime=seen.mime_type,
    )


def _trusted_ctime(fingerprint: Fingerprint, scanned_ns: int) -> int | None:
    """When a file changed, or None where that may happen again unnoticed: no file on disk equals a row without it.

    When it was written is kept in any case, as searches ask for that (`modified`).
    """
    newest = max(fingerprint.mtime_ns, fingerprint.ctime_ns)
    return fingerprint.ctime_ns if newest < scanned_ns - RACY_NS else None


def _set_hash(db: Connection, pk: int, content_hash: str | None) -> None:
    """Record the bytes a row stands for; it is out of the queue until `_assign` has placed it."""
    db.run(
        "UPDATE project_files SET content_hash = :hash, status = 'failed', updated_at = :now WHERE pk = :pk",
        pk=pk,
        hash=content_hash,
        now=now_text(),
    )


def _step_aside(db: Connection, pk: int) -> None:
    """Take a row out of the queue and off its worker; of those that wait for it the first takes its place."""
    db.run(
        "UPDATE project_files SET status = 'failed', waiting_for = NULL, lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, attempts = 0 WHERE pk = :pk",
        pk=pk,
    )
    first = db.value("SELECT min(pk) FROM project_files WHERE waiting_for = :pk", pk=pk)
    if first is not None:
        db.run("UPDATE project_files SET waiting_for = :first WHERE waiting_for = :pk", first=first, pk=pk)
        _queue(db, first)


def _take_job(db: Connection, pk: int, worker_pk: int) -> None:
    """Let a row that held a job, and all that wait for it, wait for another, which is yet to be queued."""
    db.run("UPDATE project_files SET waiting_for = :pk WHERE waiting_for = :worker", pk=pk, worker=worker_pk)
    _step_aside(db, worker_pk)
    _wait(db, worker_pk, pk)


def _queue(db: Connection, pk: int) -> None:
    db.run(
        "UPDATE project_files SET status = 'pending', waiting_for = NULL, attempts = 0, next_attempt_at = NULL,"
        " error_code = NULL, error_message = NULL, updated_at = :now WHERE pk = :pk",
        pk=pk,
        now=now_text(),
    )


def _wait(db: Connection, pk: int, worker_pk: int) -> None:
    db.run(
        "UPDATE project_files SET status = 'pending', waiting_for = :worker, attempts = 0, next_attempt_at = NULL,"
        " error_code = NULL, error_message = NULL, updated_at = :now WHERE pk = :pk",
        pk=pk,
        worker=worker_pk,
        now=now_text(),
    )


def become_duplicate(db: Connection, pk: int, owner: File) -> None:
    """Let a name be served by `owner`, whose chunks hold the same bytes.

    The name's own old chunks go; those that were added to it go to the owner.
    """
    if _dies_with(db, owner, get(db, pk)):
        _adopt(db, get(db, pk), owner)
        _settle(db, pk, replace(owner, chunk_count=get(db, pk).chunk_count), duplicate_of=None)
        return
    if _hand_added_over(db, pk, owner.pk):
        owner = get(db, owner.pk)
    let_go(db, get(db, pk))
    _settle(db, pk, owner, duplicate_of=owner.pk)


def _adopt(db: Connection, file: File, owner: File) -> None:
    """Make a file the owner of the chunks of another of the same bytes, and let its own go."""
    dies = _dies_with(db, owner, file)
    _hand_added_over(db, file.pk, owner.pk)
    keeper = _keep_aside(db, owner) if dies else owner.pk
    let_go(db, file)
    _inherit(db, keeper, file.pk)
    if dies:
        delete(db, get(db, keeper))
        _settle_again(db, owner, file.pk)


def _keep_aside(db: Connection, owner: File) -> int:
    """Give the chunks of an owner, and what lies in it, to a row of no place, and return that.

    The owner itself stays where it lies: it goes with that, or to another name of the bytes it lies in.
    """
    aside = parts.SEPARATOR + owner.id.encode()
    pk = _insert(db, owner.project_pk, Seen(aside, Fingerprint(0, 0, 0, 0), owner.indexed_hash or ""), scanned_ns=0)
    _inherit(db, owner.pk, pk)
    return pk


def _settle_again(db: Connection, owner: File, heir_pk: int) -> None:
    """Take a former owner that has outlived what it lay in, and was to be made anew, out of the queue."""
    redone = owner.status in (Status.PENDING, Status.PROCESSING) and owner.content_hash == owner.indexed_hash
    if redone and exists(db, owner.pk):
        _step_aside(db, owner.pk)
        _settle(db, owner.pk, replace(owner, chunk_count=get(db, heir_pk).chunk_count), duplicate_of=heir_pk)


def _dies_with(db: Connection, owner: File, file: File) -> bool:
    """Tell whether an owner leaves the version of a file that it lies in, once that file has other bytes."""
    return _lies_in(owner, file) and _successor(db, file.pk) is None


def _lies_in(file: File, outer: File) -> bool:
    return file.path_bytes.startswith(outer.path_bytes + parts.SEPARATOR)


def _settle(db: Connection, pk: int, owner: File, *, duplicate_of: int | None) -> None:
    """Record that a name is ready by the chunks that were made for `owner`."""
    db.run(
        "UPDATE project_files SET status = 'ready', duplicate_of = :duplicate_of, waiting_for = NULL,"
        " indexed_hash = :hash, content_hash = :hash, chunk_count = :chunks, page_count = :pages, parser = :parser,"
        " settings_fingerprint = :settings, metadata = :metadata, attempts = 0, next_attempt_at = NULL,"
        " lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL,"
        " error_code = NULL, error_message = NULL, updated_at = :now WHERE pk = :pk",
        pk=pk,
        duplicate_of=duplicate_of,
        hash=owner.indexed_hash,
        chunks=owner.chunk_count,
        pages=owner.page_count,
        parser=owner.parser,
        settings=owner.settings_fingerprint,
        metadata=json.dumps(owner.metadata),
        now=now_text(),
    )


def let_go(db: Connection, file: File) -> None:
    """Take a name off the chunks that serve it; the row is left with none.

    Where it owns them, another name of the same bytes inherits them; without one they are deleted.
    """
    if file.duplicate_of is None and file.indexed_hash is not None:
        successor = _successor(db, file.pk)
        if successor is not None:
            _inherit(db, file.pk, successor)
        else:
            chunks.delete_of(db, file.project_pk, file.pk)
            _delete_within(db, file)
            changes.bump(db, file.project_pk)
    db.run(
        "UPDATE project_files SET duplicate_of = NULL, indexed_hash = NULL, chunk_count = 0 WHERE pk = :pk", pk=file.pk
    )


def make_room(db: Connection, file: File, content_hash: str) -> None:
    """Make `file` ready to receive the chunks of `content_hash` as their owner.

    Its own chunks stay, to be compared with the new ones, unless other names still need them.
    """
    if file.indexed_hash != content_hash and _successor(db, file.pk) is not None:
        let_go(db, file)


def _successor(db: Connection, pk: int) -> int | None:
    return db.value("SELECT min(pk) FROM project_files WHERE duplicate_of = :pk", pk=pk)


def _repoint(db: Connection, old_owner: int, new_owner: int) -> None:
    db.run(
        "UPDATE project_files SET duplicate_of = :new WHERE duplicate_of = :old AND pk <> :new",
        old=old_owner,
        new=new_owner,
    )


def _inherit(db: Connection, owner_pk: int, heir_pk: int) -> None:
    """Move the chunks of an owner, and what lies in it, to another name of the same bytes.

    The owner becomes its duplicate.
    """
    owner, heir = get(db, owner_pk), get(db, heir_pk)
    _move_within(db, owner, heir.path_bytes)
    db.run("UPDATE project_files SET duplicate_of = :heir WHERE pk = :owner", heir=heir_pk, owner=owner_pk)
    db.run(
        "UPDATE project_files SET duplicate_of = NULL, indexed_hash = :hash, chunk_count = :chunks WHERE pk = :heir",
        heir=heir_pk,
        hash=owner.indexed_hash,
        chunks=owner.chunk_count,
    )
    _repoint(db, owner_pk, heir_pk)
    chunks.move(db, owner_pk, heir_pk)


def mark_ready(db: Connection, pk: int, result: Ready) -> None:
    """Record that the chunks of `result` are in place, and serve every name that waited for them.

    The caller has put the chunks in, in this transaction, and has checked its lease.
    """
    db.run(
        "UPDATE project_files SET status = 'ready', content_hash = :hash, indexed_hash = :hash, duplicate_of = NULL,"
        " chunk_count = :chunks, page_count = :pages, parser = :parser, settings_fingerprint = :settings,"
        " metadata = :metadata, attempts = 0, error_code = NULL, error_message = NULL, lease_owner = NULL,"
        " lease_token = NULL, lease_expires_at = NULL, next_attempt_at = NULL, updated_at = :now WHERE pk = :pk",
        pk=pk,
        hash=result.content_hash,
        chunks=result.chunk_count + chunks.extra(db, pk),
        pages=result.page_count,
        parser=result.parser,
        settings=result.settings_fingerprint,
        metadata=json.dumps(result.metadata),
        now=now_text(),
    )
    owner = get(db, pk)
    # A name that was edited meanwhile is served by these chunks, too, until its own are there; it stays queued.
    served = db.all(
        "SELECT pk FROM project_files WHERE waiting_for = :pk OR (duplicate_of = :pk AND content_hash = :hash)"
        " ORDER BY pk",
        pk=pk,
        hash=result.content_hash,
    )
    for (name,) in served:
        if exists(db, name):  # it may have lain in another one, and be gone with what that was before
            become_duplicate(db, name, owner)
    chunk_count = get(db, pk).chunk_count
    db.run("UPDATE project_files SET chunk_count = :chunks WHERE duplicate_of = :pk", pk=pk, chunks=chunk_count)


@dataclass(frozen=True, slots=True)
class Ready:
    """What is true of a file once its chunks are in place; `chunk_count`: of those its parser makes."""

    content_hash: str
    chunk_count: int
    page_count: int | None
    parser: str
    settings_fingerprint: str
    metadata: dict[str, Any]


def mark_failed(db: Connection, pk: int, *, code: str, message: str, versions: Versions | None) -> None:
    """Record why the bytes of a file cannot be indexed; equal names that waited fail with it.

    The chunks of an earlier version stay searchable; see `mark_empty`.
    """
    db.run(
        "UPDATE project_files SET status = 'failed', error_code = :code, error_message = :message, parser = :parser,"
        " attempts = CASE WHEN pk = :pk THEN attempts + 1 ELSE 0 END, settings_fingerprint = :settings,"
        " waiting_for = NULL, lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL, next_attempt_at = NULL, updated_at = :now WHERE pk = :pk OR waiting_for = :pk",
        pk=pk,
        code=code,
        message=message,
        parser=versions.every_parser if versions else None,
        settings=versions.settings if versions else None,
        now=now_text(),
    )


def mark_empty(db: Connection, pk: int, *, code: str, message: str, versions: Versions | None) -> None:
    """Record that the bytes of a file hold no text; the chunks of the version before go with its text.

    Equal names that waited fail with it, and theirs go, too. Other names of the bytes before keep them; so does the
    file itself where only what reads these same bytes has changed, and where chunks were added, those.
    """
    # A name that could not be read has no hash until a scan meets it again.
    rows = db.all(
        "SELECT pk FROM project_files WHERE (pk = :pk OR waiting_for = :pk)"
        " AND indexed_hash <> coalesce(content_hash, '') ORDER BY pk",
        pk=pk,
    )
    mark_failed(db, pk, code=code, message=message, versions=versions)
    for (name,) in rows:
        if exists(db, name):  # it may have lain in another one, and be gone with what that was before
            _let_go_of_text(db, get(db, name))


def _let_go_of_text(db: Connection, file: File) -> None:
    """Take a name off its chunks, but for those that were added to it and that no other name keeps."""
    is_owner = file.duplicate_of is None
    if not (is_owner and chunks.extra(db, file.pk)) or _successor(db, file.pk) is not None:
        let_go(db, file)
        return
    chunks.delete_parsed(db, file.project_pk, file.pk)
    _delete_within(db, file)
    changes.bump(db, file.project_pk)
    db.run("UPDATE project_files SET chunk_count = :count WHERE pk = :pk", pk=file.pk, count=chunks.extra(db, file.pk))


def was_read(file: File) -> bool:
    """Tell whether anything was ever read of a file, well or not."""
    return file.parser is not None or file.indexed_hash is not None


def mark_unreadable(db: Connection, pk: int, *, code: str, message: str) -> None:
    """Record that the bytes of a name can no longer be read; names that waited for it go on without it."""
    _step_aside(db, pk)
    _set_hash(db, pk, None)
    db.run("UPDATE project_files SET mtime_ns = NULL, ctime_ns = NULL WHERE pk = :pk", pk=pk)
    mark_failed(db, pk, code=code, message=message, versions=None)


def record_unreadable(
    db: Connection, project_pk: int, path: bytes, fingerprint: Fingerprint, *, code: str, message: str
) -> tuple[int, bool]:
    """Record a file found on disk whose bytes cannot be read; return its pk and whether that is news."""
    file = by_path(db, project_pk, path)
    if file is not None and file.status == Status.FAILED and file.error_message == message:
        return file.pk, False
    pk = file.pk if file else _insert(db, project_pk, Seen(path, fingerprint, ""), scanned_ns=0)
    mark_unreadable(db, pk, code=code, message=message)
    return pk, True


def retry_failed(db: Connection, project_pk: int, versions: Versions) -> int:
    """Queue every failed file of a project again and return their number; none keeps its diagnosis."""
    retried = 0
    for file in list(every(db, project_pk, Status.FAILED)):
        if not exists(db, file.pk):
            continue  # it lay in one before it, and is gone with what that was
        retried += 1
        retry(db, file, versions)
    return retried


def retry(db: Connection, file: File, versions: Versions) -> None:
    """Queue a failed file again; it does not keep its diagnosis. One that has not failed is left alone."""
    if file.status is not Status.FAILED:
        return
    if file.content_hash is None:
        _queue(db, file.pk)
    else:
        _assign(db, get(db, file.pk), versions)


def last_failed_at(db: Connection, project_pk: int) -> str | None:
    """Return when the last of the files that have failed did; None where there are none."""
    return db.value(
        "SELECT max(updated_at) FROM project_files WHERE project_id = :project AND status = 'failed'",
        project=project_pk,
    )


def changed(db: Connection, project_pk: int, since: str, *, limit: int = MAX_LIMIT) -> list[File]:
    """Return all files of a project that changed last at a time (UTC text), and `limit` that did later, in order."""
    rows = db.all(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project AND updated_at >= :since"
        " ORDER BY updated_at, pk LIMIT :limit + (SELECT count(*) FROM project_files"
        "  WHERE project_id = :project AND updated_at = :since)",
        project=project_pk,
        since=since,
        limit=limit,
    )
    return [_file(row) for row in rows]


def delete(db: Connection, file: File) -> None:
    """Delete a name; its chunks, and what lies in it, die with the last name of the same bytes."""
    _step_aside(db, file.pk)
    let_go(db, get(db, file.pk))
    _delete_within(db, file)
    db.run("DELETE FROM project_files WHERE pk = :pk", pk=file.pk)
    changes.bump(db, file.project_pk)


# --- names that move, and files within files -----------------------------------------------------------------


def same_bytes(db: Connection, project_pk: int, content_hash: str) -> list[File]:
    """Return the files on disk of a project that have these bytes, or had when they were last looked at."""
    rows = db.all(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project AND content_hash = :hash"
        " AND instr(path_bytes, x'00') = 0 ORDER BY pk",
        project=project_pk,
        hash=content_hash,
    )
    return [_file(row) for row in rows]


def move(db: Connection, file: File, path: bytes) -> None:
    """Record that a file has another name now; its id, its chunks and what lies in it stay as they are."""
    _move_within(db, file, path)
    _rename(db, file.pk, path)
    changes.bump(db, file.project_pk)


def note(db: Connection, project_pk: int, path: bytes) -> None:
    """Queue a path that nobody has looked at: a worker finds out what is there."""
    pk = _insert(db, project_pk, Seen(path, Fingerprint(0, 0, 0, 0), ""), scanned_ns=0)
    db.run("UPDATE project_files SET content_hash = NULL WHERE pk = :pk", pk=pk)
    _queue(db, pk)


def within(db: Connection, file: File) -> list[File]:
    """Return what lies in a file, at any depth, each after what it lies in."""
    low, high = parts.range_in(file.path_bytes)
    rows = db.all(
        f"SELECT {_COLUMNS} FROM project_files WHERE project_id = :project"
        " AND path_bytes >= :low AND path_bytes < :high ORDER BY path_bytes",
        project=file.project_pk,
        low=low,
        high=high,
    )
    return [_file(row) for row in rows]


def parent(db: Connection, file: File) -> File | None:
    """Return the file that this one lies in; None for a file on disk."""
    path = parts.parent_of(file.path_bytes)
    return None if path is None else by_path(db, file.project_pk, path)


def replace_within(db: Connection, owner: File, found: Sequence[Seen], versions: Versions) -> list[int]:
    """Record what lies directly in a file now; what lay in it before and does no longer is deleted.

    Returns the keys of those that are new to the queue, or wait for an equal one there.
    """
    paths = {seen.path for seen in found}
    registered = [register(db, owner.project_pk, seen, versions, scanned_ns=0) for seen in found]
    for file in within(db, owner):
        if parts.parent_of(file.path_bytes) == owner.path_bytes and file.path_bytes not in paths:
            delete(db, get(db, file.pk))
    return [pk for pk, fate in registered if fate is not Registered.UNCHANGED]


def _delete_within(db: Connection, file: File) -> None:
    for inner in within(db, file):
        # What lies in an inner one goes with it, or to another name of its bytes.
        if parts.parent_of(inner.path_bytes) == file.path_bytes and exists(db, inner.pk):
            delete(db, get(db, inner.pk))


def _move_within(db: Connection, file: File, path: bytes) -> None:
    for inner in within(db, file):
        moved = path + inner.path_bytes[len(file.path_bytes) :]
        in_its_place = by_path(db, file.project_pk, moved)
        if in_its_place is not None:
            delete(db, in_its_place)
        _rename(db, inner.pk, moved)


def _rename(db: Connection, pk: int, path: bytes) -> None:
    """Give a row another path. A worker that opened the old one loses its claim."""
    text = shown(path)
    db.run(
        "UPDATE project_files SET path = :path, path_bytes = :path_bytes, filename = :filename, updated_at = :now,"
        " status = iif(status = 'processing', 'pending', status), lease_owner = NULL, lease_token = NULL,"
        " lease_expires_at = NULL WHERE pk = :pk",
        pk=pk,
        path=text,
        path_bytes=path,
        filename=text.rsplit("/", 1)[-1],
        now=now_text(),
    )


def _file(row: Sequence[Any]) -> File:
    values = dict(zip((f.name for f in fields(File)), row, strict=True))
    values["status"] = Status(values["status"])
    values["path_bytes"] = bytes(values["path_bytes"])
    values["metadata"] = kept_json(values["metadata"], f"file {values['id']}")
    return File(**values)

"""Uploads: files that came over the network, whose bytes lie in a folder of ours beside the database.

`project_files.path` of such a file is `upload:ID/NAME`: NAME is what its sender called it, and the bytes are the file
ID with the extension of NAME, so that neither a document's name is on the disk nor a folder of the server in a row. The
database can be moved with its folder. What lies within an upload is named below it, as in any file (see parts).

The bytes come first, under a scratch name, and get their own in the transaction that registers them: whoever is killed
before leaves no half file that counts. They go after the transaction that deletes their row; what is left then, `sweep`
finds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from storage import parts, scratch, snapshot
from storage.connection import Connection, connect
from storage.database import Database
from storage.errors import KnowlexError
from storage.event_log import EventLog, code_of
from storage.ids import new_id

log = EventLog("knowlex.uploads")

SCHEME = b"upload:"
_BEHIND = b"upload;"
"""The first path behind all that begin with `SCHEME`."""

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,16}")


def folder(database: Path) -> Path:
    """Return the folder of a database's uploads, which need not be there."""
    return database.with_name(f"{database.name}.uploads")


def made_folder(database: Path) -> Path:
    """Return the folder of a database's uploads, made for its owner alone where it was not there."""
    made = folder(database)
    with scratch.writing(made):
        made.mkdir(mode=0o700, exist_ok=True)
    return made


def new_path(name: str) -> bytes:
    """Return the path, as in `project_files.path_bytes`, of a new upload of that name."""
    return SCHEME + new_id().encode() + b"/" + name.encode()


def is_upload(path: bytes) -> bool:
    """Tell whether this is the path of an upload, or of what lies within one; those of files on disk begin with /."""
    return path.startswith(SCHEME)


def on_disk(database: Path, path: bytes) -> bytes:
    """Return the path to open: of an upload where its bytes lie, of any other file as it is."""
    if not is_upload(path):
        return path
    upload, within, inner = path.partition(parts.SEPARATOR)
    return os.fsencode(folder(database) / _file_name(upload)) + within + inner


def _file_name(path: bytes) -> str:
    id, _, name = path.removeprefix(SCHEME).decode().partition("/")
    extension = os.path.splitext(name)[1]
    return id + (extension if _EXTENSION.fullmatch(extension) else "")


def keep(database: Path, unfinished: Path, path: bytes) -> None:
    """Give a scratch file its place as the bytes of an upload; see `sync`. Raises DiskFullError, DatabaseError."""
    with scratch.writing(unfinished):
        os.replace(unfinished, os.fsdecode(on_disk(database, path)))


def sync(database: Path) -> None:
    """Make the places that uploads were given outlast a loss of power. Raises DiskFullError, DatabaseError."""
    with scratch.writing(folder(database)):
        scratch.sync_folder(folder(database))


def of_project(db: Connection, project_pk: int) -> list[bytes]:
    """Return the paths of the uploads of a project."""
    rows = db.all(
        "SELECT path_bytes FROM project_files WHERE project_id = :project"
        " AND path_bytes >= :low AND path_bytes < :behind AND instr(path_bytes, x'00') = 0",
        project=project_pk,
        low=SCHEME,
        behind=_BEHIND,
    )
    return [bytes(path) for (path,) in rows]


def remedy(database: Path) -> str:
    """Return how uploads without bytes get them back, or are replaced."""
    return (
        f"copy the folder of uploads that was kept with the backup to {folder(database)};"
        " else delete these files by id and upload them anew (to upload alone leaves the old ones without bytes)"
    )


def without_bytes(db: Connection) -> int:
    """Return how many uploads have no bytes on the disk, as where a backup was restored without them.

    The rows are read before the folder: what is registered meanwhile has its bytes in it already. Raises OSError where
    the folder is there and cannot be listed.
    """
    named = [_file_name(path) for path in _everywhere(db)]
    there = set[str]()
    with suppress(FileNotFoundError):
        there.update(os.listdir(folder(db.path)))
    return sum(name not in there for name in named)


def _everywhere(db: Connection) -> list[bytes]:
    """Return the paths of the uploads of all projects, sought one by one: the files on disk may be many."""
    rows = db.all(
        "SELECT f.path_bytes FROM projects p CROSS JOIN project_files f ON f.project_id = p.pk"
        " WHERE f.path_bytes >= :low AND f.path_bytes < :behind AND instr(f.path_bytes, x'00') = 0",
        low=SCHEME,
        behind=_BEHIND,
    )
    return [bytes(path) for (path,) in rows]


def discard(database: Database, paths: Iterable[bytes]) -> None:
    """Delete the bytes of uploads whose rows are deleted; what cannot be deleted now, or not yet, `sweep` deletes."""
    if database.batching:
        return  # the rows may come back
    for path in paths:
        if is_upload(path) and not parts.is_part(path):
            try:
                os.unlink(on_disk(database.path, path))
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("upload not deleted", error_code=code_of(error))


def sweep(database: Database) -> int:
    """Delete the bytes of uploads that have no row, and what killed receivers left; return how many went.

    What a copy beside the database may have a row of stays: to restore that copy is to bring it back.
    """
    gone = 0
    for path in orphans(database):
        with suppress(OSError):
            path.unlink()
            gone += 1
    return gone


def named_in(copy: Path) -> set[str] | None:
    """Return the ids of the uploads that a copy of a database has rows of; None where that cannot be told."""
    try:
        db = connect(copy, readonly=True, immutable=True)
        try:
            if not db.value("SELECT count(*) FROM sqlite_schema WHERE name = 'project_files'"):
                return set()  # of a database that was emptied
            return _ids(db) if _is_sound(db) else None
        finally:
            db.close()
    except (KnowlexError, ValueError):  # a text that is none; a log, too: only the engine knows what it would change
        return None


Naming = Callable[[Path], set[str] | None]


def orphans(database: Database, named_in: Naming = named_in) -> list[Path]:
    """Return the files of uploads that have no row, here or in a copy, and of receivers that were killed.

    Looked for while nobody can register an upload, so that none is taken for one between its place and its row.
    named_in: the uploads that stay for a copy; None for all.
    """
    place = folder(database.path)
    if not place.is_dir():
        return []
    with database.write() as db:
        known = _ids(db)
        rowless = [path for path in sorted(place.iterdir()) if _is_orphan(path, known)]
        killed = list(scratch.leftovers(database.path, place))
    if rowless:  # copies are looked for after that: each has its name before the rows in it are replaced
        kept = _named_in_any(database.path, named_in)
        rowless = [] if kept is None else [path for path in rowless if _is_orphan(path, kept)]
    return rowless + killed


def _named_in_any(database: Path, named_in: Naming) -> set[str] | None:
    """Return the uploads that stay for the copies beside a database; None for all."""
    try:
        named = [named_in(copy) for copy in snapshot.kept(database)]
    except OSError:
        return None
    return None if None in named else {id for ids in named if ids for id in ids}


def _is_orphan(path: Path, known: set[str]) -> bool:
    id = path.name.partition(".")[0]
    return _ID.fullmatch(id) is not None and id not in known


def _is_sound(db: Connection) -> bool:
    """Tell whether all rows of files can be read, as far as the engine can tell."""
    return db.value("PRAGMA integrity_check(project_files)") == "ok"


def _ids(db: Connection) -> set[str]:
    rows = db.all(
        "SELECT path_bytes FROM project_files WHERE path_bytes >= :low AND path_bytes < :behind",
        low=SCHEME,
        behind=_BEHIND,
    )
    return {bytes(path).removeprefix(SCHEME).partition(b"/")[0].decode("ascii", "replace") for (path,) in rows}

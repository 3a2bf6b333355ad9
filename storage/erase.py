"""Delete something so that no byte of its text is left in the database or in the copies Knowlex made of it.

Deleting frees pages; it does not clear them. So the deletion overwrites what it frees, the full text is
merged so that no deleted word stays in it, the file is written anew, and the write-ahead log is cut to
nothing. Copies beside the database (before a migration, restore or repair) that hold the text are
removed. At the end pieces of the text are looked for, byte by byte, and the report says where.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from storage import conversations, files, maintain, memories, messages, projects, scratch, text_index
from storage.connection import BUSY_TIMEOUT_MS, Connection
from storage.database import Database
from storage.errors import LockedError, NotFoundError, UsageError
from storage.paths import own_files
from storage.snapshot import blocks

PIECES = 32
"""How many pieces of the text are looked for, spread evenly over it."""

PIECE_BYTES = 32

NOT_SEARCHED = (
    "copies made with knowlex backup, or by other programs",
    "the files on disk that the text came from",
)


class Kind(StrEnum):
    """What can be erased."""

    PROJECT = "project"
    FILE = "file"
    CONVERSATION = "conversation"
    MESSAGE = "message"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to erase: its kind, its id, and the name a person knows it by."""

    kind: Kind
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where pieces of the text were looked for: what was done there, and how many are left that no row explains."""

    place: str
    done: str
    left: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, how many rows of what went, and every place that was looked at.

    kept: what has a piece of the same text and was not to be erased, such as another project's copy of a file.
    """

    target: Target
    removed: dict[str, int]
    places: tuple[Place, ...]
    kept: tuple[str, ...]
    not_searched: tuple[str, ...] = NOT_SEARCHED

    @property
    def clean(self) -> bool:
        """Whether nothing of the text is left where it was looked for, save in what was to be kept."""
        return not any(place.left for place in self.places)


def find(db: Connection, wanted: str) -> Target:
    """Return what an id, a project's name or a file's path stands for.

    Raises NotFoundError where there is no such thing, UsageError for a path of files in several projects.
    """
    found = list(_candidates(db, wanted))
    if not found:
        raise NotFoundError(
            f"{wanted}: no project, file, conversation, message or memory; give an id, a project's name or a path"
        )
    if len(found) > 1:
        ids = ", ".join(f"{target.kind} {target.id}" for target in found)
        raise UsageError(f"{wanted}: stands for several things ({ids}); give one of these ids")
    return found[0]


def _candidates(db: Connection, wanted: str) -> Iterator[Target]:
    rows = db.all(
        "SELECT 'project', id, name FROM projects WHERE id = :wanted OR name = :wanted"
        " UNION ALL SELECT 'file', id, path FROM project_files WHERE id = :wanted OR path = :wanted"
        " UNION ALL SELECT 'conversation', id, title FROM conversations WHERE id = :wanted"
        " UNION ALL SELECT 'message', id, role FROM messages WHERE id = :wanted"
        " UNION ALL SELECT 'memory', id, title FROM project_memories WHERE id = :wanted",
        wanted=wanted,
    )
    for kind, id, name in rows:
        yield Target(Kind(kind), id, name)


def erase(database: Database, target: Target) -> Erased:
    """Erase one thing, and report what went and where its text was looked for.

    A project goes with its conversations; a file with every other name of the same bytes in its project.
    Raises NotFoundError; LockedError where another process keeps the database from being written anew:
    the rows are deleted then, and `knowlex maintain --vacuum` clears what they leave.
    """
    with database.read() as db:
        pieces = _pieces(_texts(db, target))
    removed = _delete(database, target)
    found = _clear(database, pieces)
    with database.read() as db:
        users = {piece: _users(db, piece) for piece in found}
    here = Place(str(database.path), "written anew, log cut to nothing", sum(not names for names in users.values()))
    places = (here, *_clear_copies(database.path, target, pieces))
    return Erased(target, removed, places, tuple(sorted({name for names in users.values() for name in names})))


# --- what is to go ---------------------------------------------------------------------------------

_TEXTS = {
    Kind.PROJECT: (
        "SELECT c.content FROM file_chunks c JOIN projects p ON p.pk = c.project_id WHERE p.id = :id"
        " UNION ALL SELECT m.content FROM project_memories m JOIN projects p ON p.pk = m.project_id WHERE p.id = :id"
        " UNION ALL SELECT m.content FROM messages m JOIN conversations v ON v.pk = m.conversation_id"
        " JOIN projects p ON p.pk = v.project_id WHERE p.id = :id"
    ),
    Kind.FILE: (
        "SELECT c.content FROM file_chunks c JOIN project_files f ON c.file_id = coalesce(f.duplicate_of, f.pk)"
        " WHERE f.id = :id ORDER BY c.chunk_index"
    ),
    Kind.CONVERSATION: (
        "SELECT m.content FROM messages m JOIN conversations v ON v.pk = m.conversation_id WHERE v.id = :id"
        " ORDER BY m.pk"
    ),
    Kind.MESSAGE: "SELECT content FROM messages WHERE id = :id",
    Kind.MEMORY: "SELECT content FROM project_memories WHERE id = :id",
}


def _texts(db: Connection, target: Target) -> list[str]:
    return [text for (text,) in db.all(_TEXTS[target.kind], id=target.id)]


def _pieces(texts: Sequence[str]) -> list[bytes]:
    """Return pieces from the middle of texts spread evenly over all; what is too short to tell is left out."""
    step = max(1, len(texts) // PIECES)
    chosen = [text.encode("utf8", "surrogatepass") for text in texts[::step]][:PIECES]
    middles = [text[max(0, (len(text) - PIECE_BYTES) // 2) :][:PIECE_BYTES] for text in chosen]
    return sorted({piece for piece in middles if len(piece) >= 8})


def _delete(database: Database, target: Target) -> dict[str, int]:
    """Delete the rows, overwriting what they stood in, and merge the full text; return how many rows went."""
    with database.unwrapped() as db:
        db.all("PRAGMA secure_delete = ON")
        try:
            with database.write() as writer:
                removed = _DELETE[target.kind](writer, target.id)
                for source in text_index.TABLES:
                    text_index.optimize(writer, source)
        finally:
            db.all("PRAGMA secure_delete = OFF")
    return removed


def _delete_project(db: Connection, id: str) -> dict[str, int]:
    gone = projects.delete(db, projects.get(db, id), with_conversations=True)
    return {
        "projects": 1,
        "files": gone.files,
        "chunks": gone.chunks,
        "memories": gone.memories,
        "conversations": gone.conversations,
        "messages": gone.messages,
    }


def _delete_file(db: Connection, id: str) -> dict[str, int]:
    file = files.by_id(db, id)
    names = _same_bytes(db, file)
    before = _chunks(db)
    for pk in names:
        files.delete(db, files.get(db, pk))
    return {"files": len(names), "chunks": before - _chunks(db)}


def _same_bytes(db: Connection, file: files.File) -> list[int]:
    """Return the file and every other name of its project that is served by, or waits for, the same bytes."""
    owner = file.duplicate_of or file.waiting_for or file.pk
    rows = db.all(
        "SELECT pk FROM project_files WHERE project_id = :project"
        " AND (pk IN (:pk, :owner) OR duplicate_of = :owner OR waiting_for = :owner) ORDER BY pk DESC",
        project=file.project_pk,
        pk=file.pk,
        owner=owner,
    )
    return [pk for (pk,) in rows]


def _chunks(db: Connection) -> int:
    return db.value("SELECT count(*) FROM file_chunks")


def _delete_conversation(db: Connection, id: str) -> dict[str, int]:
    count = conversations.get(db, id).message_count
    conversations.delete(db, id)
    return {"conversations": 1, "messages": count}


def _delete_message(db: Connection, id: str) -> dict[str, int]:
    messages.delete(db, id)
    return {"messages": 1}


def _delete_memory(db: Connection, id: str) -> dict[str, int]:
    memories.delete(db, id)
    return {"memories": 1}


_DELETE: dict[Kind, Any] = {
    Kind.PROJECT: _delete_project,
    Kind.FILE: _delete_file,
    Kind.CONVERSATION: _delete_conversation,
    Kind.MESSAGE: _delete_message,
    Kind.MEMORY: _delete_memory,
}


# --- where it may still be -------------------------------------------------------------------------


def _clear(database: Database, pieces: Sequence[bytes]) -> set[bytes]:
    """Write the database anew and cut its log to nothing; return the pieces that are still in either."""
    try:
        maintain.analyse(database)  # what it keeps are samples of rows, too
        maintain.write_anew(database)
        folded = maintain.fold_log(database, wait_ms=BUSY_TIMEOUT_MS)
    except LockedError as error:
        raise LockedError(f"{error.message}; {_NOT_CLEARED}") from error
    if not folded:
        raise LockedError(f"{database.path}: a reader still uses the log, which may hold the text; {_NOT_CLEARED}")
    return {piece for file in own_files(database.path)[:2] for piece in _found(file, pieces)}


_NOT_CLEARED = "the rows are deleted, but their bytes not yet cleared: run knowlex maintain --vacuum"


def _clear_copies(database: Path, target: Target, pieces: Sequence[bytes]) -> Iterator[Place]:
    """Remove the copies Knowlex made beside the database that hold the text or the row."""
    for path in copies(database):
        held = _found(path, [*pieces, target.id.encode()])
        if held:
            scratch.remove(path)
        yield Place(str(path), "removed" if held else "read; does not hold it", 0)
    scratch.sync_folder(database.parent)


def copies(database: Path) -> list[Path]:
    """Return the copies of a database that Knowlex made beside it, and what killed processes left."""
    suffixes = ("before-v*", "before-restore", "before-repair", "damaged")
    kept = {path for suffix in suffixes for path in database.parent.glob(f"{glob.escape(database.name)}.{suffix}")}
    return [*sorted(path for path in kept if path.is_file()), *scratch.leftovers(database)]


def _found(file: Path, pieces: Sequence[bytes]) -> set[bytes]:
    """Return those of the pieces that stand somewhere in a file."""
    found: set[bytes] = set()
    overlap = max(map(len, pieces), default=1) - 1
    tail = b""
    for block in blocks(file):
        window = tail + block
        found.update(piece for piece in pieces if piece in window)
        tail = window[-overlap:] if overlap else b""
    return found


def _users(db: Connection, piece: bytes) -> list[str]:
    """Return the rows that stay and hold a piece of text: they were not to be erased."""
    rows = db.all(
        "SELECT 'file', f.id FROM file_chunks c JOIN project_files f ON f.pk = c.file_id"
        " WHERE instr(CAST(c.content AS BLOB), :piece)"
        " UNION SELECT 'memory', id FROM project_memories WHERE instr(CAST(content AS BLOB), :piece)"
        " UNION SELECT 'message', id FROM messages WHERE instr(CAST(content AS BLOB), :piece)",
        piece=piece,
    )
    return [f"{kind} {id}" for kind, id in rows]

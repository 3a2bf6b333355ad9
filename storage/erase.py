"""Delete something so that no byte of its text is left in the database or in the copies Knowlex made of it.

Deleting frees pages; it does not clear them. So the deletion overwrites what it frees, and the full text is
merged so that no deleted word stays in it. Then all copies made before, beside the database (for a
migration, restore or repair), are removed: what was deleted, added and changed since may be in any of
them, and no row of today tells. The file is written anew, and the write-ahead log is cut to nothing; see clearing.
At the end pieces of the text are looked for, byte by byte, and the report says where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from storage import clearing, conversations, erasures, files, memories, messages, projects, text_index
from storage.clearing import Place
from storage.connection import Connection
from storage.database import Database
from storage.errors import KnowlexError, NotFoundError, UsageError
from storage.paths import own_files
from storage.snapshot import blocks

PIECES = 32
"""How many pieces of the text are looked for, spread evenly over it."""

PIECE_BYTES = 32

NOT_SEARCHED = (
    "copies made with knowlex backup, or by other programs, and files that conversations were exported to",
    "what killed backups and exports left in other folders (.*.scratch): the next one into that folder removes it",
    "the files on disk that the text came from, but for uploads",
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
class Erased:
    """What was erased, how many rows of what went, and every place that was looked at.

    kept: what has a piece of the same text and was not to be erased, such as another project's copy of a file, or a
    setting (by its key).
    """

    target: Target
    removed: dict[str, int]
    places: tuple[Place, ...]
    kept: tuple[str, ...]
    not_searched: tuple[str, ...] = NOT_SEARCHED

    @property
    def clean(self) -> bool:
        """Whether nothing of the text is left where it was looked for, save in what was to be kept."""
        return all(place.left == 0 for place in self.places)


def find(db: Connection, wanted: str) -> Target:
    """Return what an id, a project's name or a file's path stands for; a path may be as people type it.

    Raises NotFoundError where there is no such thing, UsageError for a path of files in several projects.
    """
    found = list(_candidates(db, wanted)) or list(_files_at(db, wanted))
    if not found:
        raise NotFoundError(f"{wanted}: no project, file, conversation, message or memory; {_remedy(db)}")
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


def _files_at(db: Connection, wanted: str) -> Iterator[Target]:
    """Return the files that a path leads to as ingestion writes it: absolute, without links and `..`."""
    try:
        path = os.path.realpath(os.fsencode(wanted))
    except ValueError:  # a NUL, or half a character
        return
    for id, name in db.all("SELECT id, path FROM project_files WHERE path_bytes = :path ORDER BY pk", path=path):
        yield Target(Kind.FILE, id, name)


def _remedy(db: Connection) -> str:
    since = erasures.due(db)
    if since:
        return f"what was erased at {since} is not cleared yet: run knowlex maintain"
    return "give an id, a project's name or a path"


def erase(database: Database, target: Target) -> Erased:
    """Erase one thing, and report what went and where its text was looked for.

    A project goes with its conversations; a file with every other name of the same bytes in its project.
    What others use, or a fault does not let be cleared, is told in the report, and `knowlex maintain` or the next
    erasure clears it. Raises NotFoundError, LockedError, DiskFullError, DatabaseError: nothing is deleted then.
    """
    with database.read() as db:
        pieces = _pieces(db, target)
    clearing.copies(database.path)  # where they cannot even be listed, nothing is deleted
    removed, due = _delete(database, target)
    here, *others = clearing.clear(database, due)
    here, kept = _searched(database, here, pieces)
    return Erased(target, removed, (here, *others), kept)


def _searched(database: Database, here: Place, pieces: Sequence[bytes]) -> tuple[Place, tuple[str, ...]]:
    """Look for the pieces; return the database's place, with how many no row explains, and the rows that stay."""
    try:
        found = {piece for file in own_files(database.path)[:2] for piece in _found(file, pieces)}
        with database.read() as db:
            users = {piece: _users(db, piece) for piece in found}
    except KnowlexError as error:
        return replace(here, done=f"{here.done}; cannot be searched: {error.message}", left=None), ()
    if here.left is not None:
        here = replace(here, left=sum(not names for names in users.values()))
    return here, tuple(sorted({name for names in users.values() for name in names}))


# --- what is to go ---------------------------------------------------------------------------------

_TEXTS = {
    Kind.PROJECT: (
        "SELECT 'file_chunks', c.pk FROM file_chunks c JOIN projects p ON p.pk = c.project_id WHERE p.id = :id"
        " UNION ALL SELECT 'project_memories', m.pk FROM project_memories m JOIN projects p ON p.pk = m.project_id"
        " WHERE p.id = :id"
        " UNION ALL SELECT 'messages', m.pk FROM messages m JOIN conversations v ON v.pk = m.conversation_id"
        " JOIN projects p ON p.pk = v.project_id WHERE p.id = :id"
    ),
    Kind.FILE: (
        "SELECT 'file_chunks', c.pk FROM file_chunks c JOIN project_files f"
        " ON c.file_id = coalesce(f.duplicate_of, f.pk) WHERE f.id = :id ORDER BY c.chunk_index"
    ),
    Kind.CONVERSATION: (
        "SELECT 'messages', m.pk FROM messages m JOIN conversations v ON v.pk = m.conversation_id WHERE v.id = :id"
        " ORDER BY m.pk"
    ),
    Kind.MESSAGE: "SELECT 'messages', pk FROM messages WHERE id = :id",
    Kind.MEMORY: "SELECT 'project_memories', pk FROM project_memories WHERE id = :id",
}


def _pieces(db: Connection, target: Target) -> list[bytes]:
    """Return pieces from the middle of texts spread evenly over all; what is too short to tell is left out.

    A project's texts may be larger than the memory: only their keys are read, and the pieces.
    """
    texts = db.all(_TEXTS[target.kind], id=target.id)
    count = min(PIECES, len(texts))
    chosen = [texts[number * len(texts) // count] for number in range(count)]
    middles = [_middle(db, table, pk) for table, pk in chosen]
    return sorted({piece for piece in middles if len(piece) >= 8})


def _middle(db: Connection, table: str, pk: int) -> bytes:
    return db.value(
        "SELECT substr(bytes, max(0, (length(bytes) - :size) / 2) + 1, :size)"
        f" FROM (SELECT CAST(content AS BLOB) AS bytes FROM {table} WHERE pk = :pk)",
        size=PIECE_BYTES,
        pk=pk,
    )


def _delete(database: Database, target: Target) -> tuple[dict[str, int], list[str]]:
    """Delete the rows, overwriting what they stood in, and merge the full text; return how many rows went.

    That clearing is due stands in the same transaction: nothing that ends this process makes it forgotten. The
    notes of all that is due are returned, too. Overwritten, the text is in no copy that somebody makes before the
    file is written anew, nor in the file where the disk is too full for that.
    """
    with database.unwrapped() as db:
        db.all("PRAGMA secure_delete = ON")
        try:
            with database.write() as writer:
                removed = _DELETE[target.kind](writer, target.id)
                erasures.note(writer)
                due = erasures.notes(writer)
                for source in text_index.TABLES:
                    text_index.optimize(writer, source)
        finally:
            db.all("PRAGMA secure_delete = OFF")
    return removed, due


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
        if files.exists(db, pk):  # it may have lain in another one, and be gone with that
            files.delete(db, files.get(db, pk))
    return {"files": len(names), "chunks": before - _chunks(db)}


def _same_bytes(db: Connection, file: files.File) -> list[int]:
    """Return the file and every other name of its project that is served by, or waits for, the same bytes.

    A file that was edited and waits has bytes of both kinds: those that are still searchable, and those it has now.
    """
    rows = db.all(
        "SELECT pk FROM project_files WHERE project_id = :project"
        " AND (pk IN (:pk, :owner, :job) OR duplicate_of = :owner OR waiting_for = :job) ORDER BY pk DESC",
        project=file.project_pk,
        pk=file.pk,
        owner=file.duplicate_of or file.pk,
        job=file.waiting_for or file.pk,
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


_ROWS = (
    (
        "file",
        "SELECT f.id FROM file_chunks c JOIN project_files f ON f.pk = c.file_id",
        ("c.content", "c.heading", "c.metadata"),
    ),
    ("file", "SELECT id FROM project_files", ("path", "path_bytes", "original_path", "metadata", "error_message")),
    ("memory", "SELECT id FROM project_memories", ("content", "title", "tags")),
    ("message", "SELECT id FROM messages", ("content",)),
    ("conversation", "SELECT id FROM conversations", ("title", "settings")),
    ("project", "SELECT id FROM projects", ("name", "description", "settings")),
    ("setting", "SELECT key FROM app_settings", ("key", "value")),
    ("token", "SELECT id FROM access_tokens", ("name",)),
)
"""What keeps texts that somebody gave: what it is called, its rows as the report names them, and their columns."""


def _users(db: Connection, piece: bytes) -> list[str]:
    """Return the rows that stay and hold a piece of text: they were not to be erased."""
    found: set[str] = set()
    for kind, rows, columns in _ROWS:
        holds = " OR ".join(f"instr(CAST({column} AS BLOB), :piece)" for column in columns)
        found.update(f"{kind} {name}" for (name,) in db.all(f"{rows} WHERE {holds}", piece=piece))
    return sorted(found)

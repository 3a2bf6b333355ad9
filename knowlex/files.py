"""Files as the doors show them: public ids, no keys of the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from storage import chunks
from storage import files as table
from storage.chunks import Chunk
from storage.connection import Connection
from storage.files import File, Status
from storage.paging import Page


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file and its status; the fields are the contract of `files --json`.

    path is absolute; that of a file within a file, such as a mail's attachment, goes on below that file's.
    duplicate_of is the id of the file whose passages serve this one, too. parent is the id of the file it lies in.
    """

    id: str
    filename: str
    path: str
    status: str
    chunk_count: int
    content_hash: str | None
    size: int | None
    mime_type: str | None
    duplicate_of: str | None
    error_message: str | None
    attempts: int
    parent: str | None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file with what is known of it; names: the other paths with the same bytes."""

    row: FileRow
    page_count: int | None
    error_code: str | None
    parser: str | None
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    names: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return what there is to say of the file itself, without names and passages."""
        return asdict(self.row) | {
            "page_count": self.page_count,
            "error_code": self.error_code,
            "parser": self.parser,
            "metadata": self.metadata,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class FileDetails(FileFacts):
    """A file with all that is known of it: its other names and its passages."""

    chunks: tuple[Chunk, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return self.facts() | {"names": list(self.names), "chunks": [passage(chunk) for chunk in self.chunks]}


def rows(db: Connection, project_pk: int, status: Status | None = None) -> list[FileRow]:
    """Return all files of a project in the order they came."""
    return of(db, list(table.every(db, project_pk, status)))


def page(
    db: Connection, project_pk: int, status: Status | None = None, *, limit: int = 100, after: str | None = None
) -> Page[FileRow]:
    """Return files of a project in the order they came; see `storage.files.listed`. Raises UsageError."""
    found = table.listed(db, project_pk, status=status, limit=limit, after=after)
    return Page(of(db, found.items), found.next)


def details(db: Connection, id: str) -> FileDetails:
    """Return one file, by its id or path; raises NotFoundError, UsageError."""
    file = table.find(db, id)
    owner = file.pk if file.duplicate_of is None else file.duplicate_of
    return FileDetails(**_known(db, file), chunks=tuple(chunks.of_file(db, owner)))


def facts(db: Connection, file: File) -> FileFacts:
    """Return what is known of a file, without its passages."""
    return FileFacts(**_known(db, file))


def _known(db: Connection, file: File) -> dict[str, Any]:
    owner = file if file.duplicate_of is None else table.get(db, file.duplicate_of)
    names = [owner.path, *table.names_of(db, [owner.pk]).get(owner.pk, [])]
    return {
        "row": _row(db, file, {}),
        "page_count": file.page_count,
        "error_code": file.error_code,
        "parser": file.parser,
        "metadata": file.metadata,
        "created_at": file.created_at,
        "updated_at": file.updated_at,
        "names": tuple(name for name in names if name != file.path),
    }


def of(db: Connection, found: Sequence[File]) -> list[FileRow]:
    """Return files as they are shown."""
    ids = {file.pk: file.id for file in found}
    return [_row(db, file, ids) for file in found]


def _row(db: Connection, file: File, ids: dict[int, str]) -> FileRow:
    owner, parent = file.duplicate_of, table.parent(db, file)
    return FileRow(
        id=file.id,
        filename=file.filename,
        path=file.path,
        status=file.status.value,
        chunk_count=file.chunk_count,
        content_hash=file.content_hash,
        size=file.size,
        mime_type=file.mime_type,
        duplicate_of=None if owner is None else ids.get(owner) or table.get(db, owner).id,
        error_message=file.error_message,
        attempts=file.attempts,
        parent=None if parent is None else parent.id,
    )


def passage(chunk: Chunk) -> dict[str, Any]:
    """Return a passage as JSON values."""
    return {
        "id": chunk.id,
        "index": chunk.chunk_index,
        "token_count": chunk.token_count,
        "char_start": chunk.char_start,
        "char_end": chunk.char_end,
        "page_start": chunk.page_start,
        "page_end": chunk.page_end,
        "heading": chunk.heading,
        "repeated": chunk.repeated,
        "created_at": chunk.created_at,
        "text": chunk.content,
    }

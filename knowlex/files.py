"""Files as the doors show them: public ids, no keys of the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from knowlex import notebook, terminal
from knowlex.notebook import escaped
from storage import chunks
from storage import files as table
from storage.chunks import Chunk
from storage.connection import Connection
from storage.files import File, Status
from storage.paging import Page

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

_HEAD = ("file", "status", "passages", "size", "")


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


class Files(list[FileRow]):
    """Files in the order they came: a list that shows itself in a notebook and turns into a table."""

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each status, of those that occur."""
        return dict(Counter(row.status for row in self))

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a file. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame([asdict(row) for row in self], [field.name for field in fields(FileRow)])

    def __repr__(self) -> str:
        shown = terminal.table(_HEAD, [_figures(row, self._names) for row in self._first])
        return f"Files({self._title})" + (f"\n{shown}" if self else "")

    def _repr_html_(self) -> str:
        """Show the files as a table, in a notebook, those that failed first; every text is escaped."""
        rows = (_cells(row, self._names) for row in self._first)
        return notebook.paragraph(self._title) + notebook.table(_HEAD, rows) + notebook.more(len(self))

    @property
    def _title(self) -> str:
        by_status = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return terminal.quantity(len(self), "file") + (f": {by_status}" if self else "")

    @property
    def _first(self) -> list[FileRow]:
        return sorted(self, key=lambda row: row.status != Status.FAILED)[: notebook.SHOWN]

    @property
    def _names(self) -> dict[str, str]:
        return {row.id: row.filename for row in self}


def _figures(row: FileRow, names: Mapping[str, str]) -> tuple[str, str, int, str, str]:
    """Return what is shown of a file: its name, status, passages and size, and why it failed or which one it equals."""
    same = f"same content as {names.get(row.duplicate_of, row.duplicate_of)}" if row.duplicate_of else ""
    return row.filename, row.status, row.chunk_count, terminal.size(row.size), row.error_message or same


def _cells(row: FileRow, names: Mapping[str, str]) -> Iterator[str]:
    name, *figures = _figures(row, names)
    yield notebook.titled(name, terminal.from_here(row.path))
    yield from (escaped(str(figure)) for figure in figures)


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


def rows(db: Connection, project_pk: int, status: Status | None = None) -> Files:
    """Return all files of a project in the order they came."""
    return Files(of(db, list(table.every(db, project_pk, status))))


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
        "parser": file.reader,
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

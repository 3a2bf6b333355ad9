"""The files of a project: their text, a list of them, and how far their ingestion is."""

from __future__ import annotations

from collections.abc import Iterable

from knowlex import files
from knowlex.mcp_server.answers import Document, DocumentPassage, FileRow, Files, IngestStatus, LastRun, Meaning
from knowlex.mcp_server.budget import Budget
from knowlex.mcp_server.scope import Scope, document_uri, file_id_of
from knowlex.mcp_server.searches import shown_length
from knowlex.remote import why
from knowlex.untrusted import neutral
from storage import projects, statistics
from storage.chunks import Chunk
from storage.errors import ConfigurationError, ModelMismatchError, NotFoundError, TransientError, UsageError
from storage.files import Status
from storage.paging import Page
from storage.projects import Project
from storage.runs import Run

AT_ONCE = 100
"""Passages that are read from the database at once."""


def get_document(
    scope: Scope, document: str, *, project: str | None, page: int | None, after: str | None, max_tokens: int
) -> Document:
    """Return the text of a file, as much of it as there is room for. Raises NotFoundError, UsageError."""
    return read(scope, scope.project(project), document, page=page, after=after, max_tokens=max_tokens)


def read(
    scope: Scope, of: Project, document: str, *, page: int | None = None, after: str | None = None, max_tokens: int
) -> Document:
    """Return the text of a file of a project: of a page of it or all, behind a cursor, up to `max_tokens`."""
    id = file_id_of(document, of)
    try:
        facts = scope.kb.file_in(of.id, id)
    except NotFoundError:
        raise NotFoundError(
            f"document {document}: not found in this project; list_files tells the ids, and search that of each hit"
        ) from None
    part = _part(scope, of.id, id, page, after, max_tokens)
    row = facts.row
    if page is not None and not part.items and after is None and row.status == Status.READY:
        _require_page(page, facts.page_count)
    return Document(
        project=of.name,
        file_id=row.id,
        file=row.filename,
        path=row.path,
        uri=document_uri(of.id, row.id),
        status=Status(row.status).value,
        error=why(row.error_message),
        mime_type=row.mime_type,
        page_count=facts.page_count,
        updated_at=facts.updated_at,
        passages=list(_shown(part.items)),
        next=part.next,
    )


def _require_page(page: int, count: int | None) -> None:
    """Raise UsageError for a page that a document does not have; one without text is there."""
    if count is None:
        raise UsageError(f"page {page}: this document has no pages; leave page out")
    if page > count:
        raise UsageError(f"page {page}: this document has {count}; give 1 to {count}, or leave page out")


def _part(scope: Scope, project_id: str, id: str, page: int | None, after: str | None, max_tokens: int) -> Page[Chunk]:
    """Return the passages that there is room for, one at least, and the cursor for those behind them."""
    found = scope.kb.passages_of_file(project_id, id, on_page=page, limit=AT_ONCE, after=after)
    budget = Budget(max_tokens)
    for fitting, chunk in enumerate(found):
        if fitting and not budget.has_room_for(neutral(chunk.content)):
            return scope.kb.passages_of_file(project_id, id, on_page=page, limit=fitting, after=after)
        budget.take(neutral(chunk.content))
    return found


def _shown(chunks: Iterable[Chunk]) -> Iterable[DocumentPassage]:
    """Yield passages, of those that overlap the second without what the first has already."""
    end = 0
    for chunk in chunks:
        known = min(max(0, end - chunk.char_start), chunk.char_end - chunk.char_start)
        # What precedes the place in the file repeats the head of a table, so that a row is understood alone.
        head = 0 if end else chunk.repeated
        yield DocumentPassage(
            id=chunk.id,
            page_start=chunk.page_start,
            page_end=chunk.page_end,
            heading=chunk.heading,
            char_start=chunk.char_start + known,
            char_end=chunk.char_end,
            text=chunk.content[chunk.repeated + known - head :],
            repeated=shown_length(chunk.content[:head]),
        )
        end = max(end, chunk.char_end)


def list_files(scope: Scope, *, project: str | None, status: str | None, limit: int, after: str | None) -> Files:
    """Return a page of the files of a project. Raises UsageError."""
    of = scope.project(project)
    found = scope.kb.files_page(of.id, status, limit=limit, after=after)
    return Files(project=of.name, files=[_row(row, of.id) for row in found], next=found.next)


def _row(row: files.FileRow, project_id: str) -> FileRow:
    return FileRow(
        file_id=row.id,
        file=row.filename,
        path=row.path,
        uri=document_uri(project_id, row.id),
        status=Status(row.status).value,
        passages=row.chunk_count,
        size=row.size,
        mime_type=row.mime_type,
        duplicate_of=row.duplicate_of,
        error=why(row.error_message),
    )


def ingest_status(scope: Scope, *, project: str | None) -> IngestStatus:
    """Return how far the ingestion of a project is."""
    of = scope.project(project)
    # Of the figures only those of the project: others would tell of what is out of scope.
    with scope.kb.database.read() as db:
        figures = statistics.holdings(db, projects.find(db, of.id).pk)
    return IngestStatus(
        project=of.name,
        files=figures.files,
        waiting=figures.files.get("pending", 0) + figures.files.get("processing", 0),
        passages=figures.chunks,
        memories=figures.memories,
        conversations=figures.conversations,
        messages=figures.messages,
        meaning=_meaning(scope) if figures.has_vectors else "nothing to compare",
        last_run=_last_run(figures.last),
    )


def _last_run(run: Run | None) -> LastRun | None:
    if run is None:
        return None
    return LastRun(
        outcome=run.outcome.value,
        started_at=run.started_at,
        ended_at=run.ended_at,
        ready=run.figures.ready,
        failed=run.figures.failed,
    )


def _meaning(scope: Scope) -> Meaning:
    """Return whether the model is there; where it is not, it is loaded from now on."""
    try:
        return "ready" if scope.kb.load_model() else "nothing to compare"
    except TransientError:
        return "loading"
    except (ConfigurationError, ModelMismatchError):
        return "unavailable"

"""Conversations and their messages, of a project or of none."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from knowlex import transfer
from knowlex.accessors import Kept
from knowlex.facade import Knowlex
from knowlex.server import scope
from knowlex.server.dependencies import Caller, KnowledgeBase
from knowlex.server.routes.shared import NOT_FOUND, WHOLE, After, Body, FilledText, Limit, Listed, Page, Time, Words
from storage import conversations as table
from storage import messages
from storage.errors import TransientError

router = APIRouter(prefix="/conversations", tags=["conversations"])

Role = Literal["user", "assistant", "system", "tool"]
Content = Annotated[
    FilledText | Annotated[list[dict[str, Any]], Listed],
    Field(description='A text, or parts such as `{"type": "text", "text": "…"}`; of a text part the text is searched.'),
]
ConversationId = Annotated[str, Path(description="The id of a conversation.")]
MessageId = Annotated[str, Path(description="The id of a message.")]
InProject = Annotated[str | None, Query(description="Only of this project, by its id or name.")]
InNone = Annotated[bool, Query(description="Only what is of no project, which a token for all projects sees alone.")]

JSON_LINES, BYTES = "application/jsonl", "application/octet-stream"
_SCHEMA = {"schema": {"type": "string"}}
EXPORTS = 4
"""Exports that are written and sent at a time: each lies on the disk as long as it is not taken."""

_EXPORTING = threading.BoundedSemaphore(EXPORTS)

PIECE_BYTES = 2**16
"""Of an export that is sent at a time."""


class NewConversation(Body):
    """A conversation to begin."""

    title: FilledText
    project: str | None = Field(default=None, description="The id or name of its project; null for none.")
    settings: dict[str, Any] | None = None


class ConversationChange(Body):
    """What to change of a conversation; what is left out stays."""

    title: FilledText | None = None
    settings: dict[str, Any] | None = None
    project: str | None = Field(default=None, description="Move it to this project; null: to none.")


class Conversation(BaseModel):
    """A conversation; of no project, `project_id` and `project_name` are null."""

    id: str
    project_id: str | None
    project_name: str | None
    title: str
    settings: dict[str, Any]
    created_at: Time
    updated_at: Time
    message_count: int


class Summary(Conversation):
    """A conversation and how it ends."""

    last_message_at: Time | None
    last_message_preview: str | None


class NewMessage(Body):
    """A message to add."""

    role: Role
    content: Content
    parent_id: str | None = Field(default=None, description="The message of this conversation that it answers.")


class MessageChange(Body):
    """What a message is to say."""

    content: Content


class Message(BaseModel):
    """A message."""

    id: str
    conversation_id: str
    role: Role
    content: list[dict[str, Any]]
    parent_id: str | None
    created_at: Time
    updated_at: Time


class ConversationWithMessages(Conversation):
    """A conversation with its first messages; `next` is for the page of messages behind them."""

    messages: list[Message]
    next: str | None


class MessageSearch(Body):
    """A question to messages."""

    query: Words | None = Field(default=None, description="Any words; null for all messages, the newest first.")
    project: str | None = None
    no_project: bool = Field(default=False, description="Only, or with `project` also, what is of no project.")
    conversation: str | None = None
    role: Role | None = None
    date_from: str | None = Field(default=None, description="A time with a zone, or a day in UTC.")
    date_to: str | None = Field(default=None, description="The same; a day is included, a time is not.")
    sort: Literal["relevance", "time"] = "relevance"
    match: Literal["any", "all"] | None = None
    limit: Annotated[int, Field(ge=1, le=1000), WHOLE] = 50
    after: str | None = None


class MessageFound(BaseModel):
    """A message that was found."""

    id: str
    conversation_id: str
    conversation_title: str
    project_id: str | None
    project_name: str | None
    role: Role
    content: list[dict[str, Any]]
    created_at: Time
    snippet: str = Field(description="The part that answers best; what was asked for in `<mark>`.")
    score: float | None = Field(description="BM25, higher is better; null without a query.")


class MessagesFound(Page[MessageFound]):
    """Part of the messages that were found."""

    degraded: str | None = Field(default=None, description="What of the query was not searched for, if anything.")


class Imported(BaseModel):
    """How much came in, and how much was there already."""

    conversations: int
    messages: int
    unchanged_conversations: int
    unchanged_messages: int


@router.post("", status_code=201)
def create_conversation(body: NewConversation, kb: KnowledgeBase, caller: Caller) -> Conversation:
    """Begin a conversation, in a project or in none."""
    caller.require_write("create a conversation")
    project = scope.place(kb, caller, body.project)
    return _shown(kb.conversations.create(body.title, project=project, settings=body.settings))


@router.get("", responses=NOT_FOUND)
def list_conversations(
    kb: KnowledgeBase,
    caller: Caller,
    project: InProject = None,
    no_project: InNone = False,
    limit: Limit = 100,
    after: After = None,
) -> Page[Summary]:
    """List the conversations that the token may see, each with its last words, the last updated first."""
    among = scope.visible(kb, caller)
    only = None if project is None else scope.project(kb, caller, project).id
    page = kb.conversations.summaries(only, no_project=no_project, among=among, limit=limit, after=after)
    return Page(items=[_summary(summary) for summary in page], next=page.next)


@router.post("/search")
def search_messages(body: MessageSearch, kb: KnowledgeBase, caller: Caller) -> MessagesFound:
    """Search messages by words, and by who said them, when and where. By meaning: the search of a project."""
    asked = body.model_dump(exclude={"project", "no_project"})
    page = kb.conversations.find(**asked, **_where(kb, caller, body))
    items = [MessageFound.model_validate(hit, from_attributes=True) for hit in page]
    return MessagesFound(items=items, next=page.next, degraded=page.degraded)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=NOT_FOUND | {200: {"description": "JSON Lines", "content": {JSON_LINES: _SCHEMA}}},
)
def export_conversations(
    kb: KnowledgeBase,
    caller: Caller,
    id: Annotated[list[str] | None, Query(description="Only these conversations.")] = None,
    project: InProject = None,
    no_project: InNone = False,
) -> StreamingResponse:
    """Return conversations as JSON Lines, one for each and behind it one for each of its messages.

    A token that is bound to projects names one, or conversations.
    """
    ids = [scope.conversation(kb, caller, one).id for one in id or ()]
    only = None if project is None else scope.project(kb, caller, project).id
    if not ids and only is None:
        caller.require_everything("export of all conversations")
    # Read to its end before the answer begins: the log cannot be folded while it is read, and who takes the answer may
    # stop taking it. So nothing that goes wrong is met halfway, either.
    if not _EXPORTING.acquire(blocking=False):
        raise TransientError("export: others are being sent already; ask again when they are done")
    spool = transfer.spool(kb.path.parent)
    let_go = weakref.finalize(spool, _EXPORTING.release)
    with _closed_on_error(spool, let_go), transfer.writing(kb.path.parent):
        for line in kb.conversations.export(*ids, project=only, no_project=no_project):
            spool.write(f"{line}\n".encode())  # line by line, as only then it goes to the disk in time
        spool.seek(0)
    return StreamingResponse(_pieces(spool, let_go), media_type=JSON_LINES)


@router.post(
    "/import",
    openapi_extra={"requestBody": {"required": True, "content": {JSON_LINES: _SCHEMA, BYTES: _SCHEMA}}},
)
async def import_conversations(
    request: Request,
    kb: KnowledgeBase,
    caller: Caller,
    project: Annotated[str | None, Query(description="For all of them, instead of those that the lines name.")] = None,
) -> Imported:
    """Take in what an export gave, all of it or nothing; what is there already stays as it is.

    Needs a token for all projects: the ids that come in must be nobody else's.
    """
    caller.require_write("import conversations")
    caller.require_everything("import conversations")
    only = None if project is None else (await run_sync(scope.project, kb, caller, project)).id
    with transfer.spool(kb.path.parent) as lines:
        await _keep(
            request.stream(), partial(transfer.write, kb.path.parent, lines), kb.configuration.max_upload_mb * 2**20
        )
        await run_sync(transfer.rewind, kb.path.parent, lines)
        load = partial(kb.conversations.load, lines, project=only, name="the body")
        done = await run_sync(load, limiter=request.app.state.writing)
    return Imported.model_validate(done, from_attributes=True)


@router.get("/{id}")
def get_conversation(id: ConversationId, kb: KnowledgeBase, caller: Caller) -> ConversationWithMessages:
    """Return a conversation with its first hundred messages."""
    found = scope.conversation(kb, caller, id)
    page = kb.conversations.messages(found.id)
    said = [_message(message) for message in page]
    return ConversationWithMessages(**_shown(found).model_dump(), messages=said, next=page.next)


@router.patch("/{id}")
def update_conversation(
    id: ConversationId, body: ConversationChange, kb: KnowledgeBase, caller: Caller
) -> Conversation:
    """Change title or settings of a conversation, or move it to another project, or to none."""
    caller.require_write("update a conversation")
    found = scope.conversation(kb, caller, id)
    project = scope.place(kb, caller, body.project) if "project" in body.model_fields_set else Kept.AS_IT_IS
    if "project" in body.model_fields_set or body.title is not None or body.settings is not None:
        kb.conversations.update(found.id, title=body.title, settings=body.settings, project=project)
    return _shown(kb.conversations.details(found.id))


@router.delete("/{id}", status_code=204)
def delete_conversation(id: ConversationId, kb: KnowledgeBase, caller: Caller) -> None:
    """Delete a conversation with its messages."""
    caller.require_write("delete a conversation")
    kb.conversations.delete(scope.conversation(kb, caller, id).id)


@router.get("/{id}/messages")
def list_messages(
    id: ConversationId,
    kb: KnowledgeBase,
    caller: Caller,
    order: Annotated[Literal["oldest", "newest"], Query(description="What comes first.")] = "oldest",
    limit: Limit = 100,
    after: After = None,
) -> Page[Message]:
    """List the messages of a conversation."""
    page = kb.conversations.messages(scope.conversation(kb, caller, id).id, order=order, limit=limit, after=after)
    return Page(items=[_message(message) for message in page], next=page.next)


@router.post("/{id}/messages", status_code=201)
def add_message(id: ConversationId, body: NewMessage, kb: KnowledgeBase, caller: Caller) -> Message:
    """Add a message to a conversation; it is found by words at once, by meaning as soon as it is embedded."""
    caller.require_write("add a message")
    found = scope.conversation(kb, caller, id)
    return _message(kb.conversations.add(found.id, body.role, body.content, parent=body.parent_id))


@router.get("/{id}/messages/{message}")
def get_message(id: ConversationId, message: MessageId, kb: KnowledgeBase, caller: Caller) -> Message:
    """Return a message."""
    return _message(scope.message(kb, caller, id, message))


@router.get("/{id}/messages/{message}/thread")
def get_thread(id: ConversationId, message: MessageId, kb: KnowledgeBase, caller: Caller) -> list[Message]:
    """Return the way to a message, by what answers what, from the first of its thread."""
    return [_message(one) for one in kb.conversations.thread(scope.message(kb, caller, id, message).id)]


@router.get("/{id}/messages/{message}/answers")
def list_answers(
    id: ConversationId,
    message: MessageId,
    kb: KnowledgeBase,
    caller: Caller,
    limit: Limit = 100,
    after: After = None,
) -> Page[Message]:
    """List what directly answers a message, the oldest first."""
    page = kb.conversations.answers(scope.message(kb, caller, id, message).id, limit=limit, after=after)
    return Page(items=[_message(one) for one in page], next=page.next)


@router.patch("/{id}/messages/{message}")
def update_message(
    id: ConversationId, message: MessageId, body: MessageChange, kb: KnowledgeBase, caller: Caller
) -> Message:
    """Have a message say something else."""
    caller.require_write("update a message")
    return _message(kb.conversations.edit(scope.message(kb, caller, id, message).id, body.content))


@router.delete("/{id}/messages/{message}", status_code=204)
def delete_message(id: ConversationId, message: MessageId, kb: KnowledgeBase, caller: Caller) -> None:
    """Delete a message; its answers become answers to its parent."""
    caller.require_write("delete a message")
    kb.conversations.delete_message(scope.message(kb, caller, id, message).id)


def _where(kb: Knowlex, caller: Caller, body: MessageSearch) -> dict[str, Any]:
    """Return where to search: what is asked for, of what the caller may see."""
    if body.conversation is not None:
        scope.conversation(kb, caller, body.conversation)
    among = scope.visible(kb, caller)
    if body.project is not None:
        among = [scope.project(kb, caller, body.project).id]
    elif body.no_project:
        among = []
    no_project = body.no_project and caller.everywhere
    return {"projects": among, "no_project": no_project}


async def _keep(body: AsyncIterator[bytes], write: Callable[[bytes], None], max_bytes: int) -> None:
    size = 0
    async for data in body:
        size += len(data)
        if size > max_bytes:
            raise HTTPException(413, f"the body: is larger than {max_bytes // 2**20} MB; import it in several parts")
        await run_sync(write, data)


@contextmanager
def _closed_on_error(spool: IO[bytes], let_go: Callable[[], object]) -> Generator[None]:
    try:
        yield
    except BaseException:
        spool.close()
        let_go()
        raise


def _pieces(spool: IO[bytes], let_go: Callable[[], object]) -> Iterator[bytes]:
    try:
        yield from iter(partial(spool.read, PIECE_BYTES), b"")
    finally:
        spool.close()
        let_go()


def _shown(conversation: table.Conversation) -> Conversation:
    return Conversation.model_validate(conversation, from_attributes=True)


def _summary(summary: table.Summary) -> Summary:
    shown = _shown(summary.conversation).model_dump()
    return Summary(**shown, last_message_at=summary.last_message_at, last_message_preview=summary.last_message_preview)


def _message(message: messages.Message) -> Message:
    return Message.model_validate(message, from_attributes=True)

"""What becomes of the files of a project, as it happens: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from knowlex import files, remote
from knowlex.facade import Knowlex
from knowlex.server import scope
from knowlex.server.dependencies import Caller, KnowledgeBase
from knowlex.server.guard import RefusedError
from knowlex.server.routes.shared import ProjectName
from storage import changes, fields, projects
from storage import files as table
from storage.errors import KnowlexError, NotFoundError
from storage.event_log import EventLog, code_of
from storage.ids import now_text
from storage.projects import Project

log = EventLog("knowlex.server")

router = APIRouter()

LOOK_EVERY_S = 0.5

AT_ONCE = 1000
"""Changes that are told at a time."""


def _project(project: ProjectName, kb: KnowledgeBase, caller: Caller) -> Project:
    return scope.project(kb, caller, project)


def _since(
    last_event_id: Annotated[str | None, Header(description="The id of the last event that was seen: a time.")] = None,
) -> str:
    return fields.instant(last_event_id, "last-event-id") if last_event_id else now_text()


@router.get("/events", response_class=EventSourceResponse)
async def follow_files(
    # Before the answer begins: it may be 404, or 422.
    found: Annotated[Project, Depends(_project)],
    since: Annotated[str, Depends(_since)],
    request: Request,
    kb: KnowledgeBase,
    until_done: Annotated[
        bool, Query(description="End with an event `done` once no file waits; else the stream stays open.")
    ] = False,
) -> AsyncIterator[ServerSentEvent]:
    """Tell what becomes of the files of a project, as it happens.

    Event `status`: files by status, at the beginning and at every change. Event `file`: a file that has changed. Event
    `done`: with `until_done`, that no file waits any more. A comment keeps the connection open while nothing happens.
    The stream ends when the project is deleted, when the token is revoked, and when the server is told to end.
    """
    watched = _Watched(kb, found, since=since)
    while not _is_stopping(request):
        try:
            await request.state.access_now()
            events = await run_sync(watched.look)
        except RefusedError:
            return
        except KnowlexError as error:  # the answer has begun; who follows asks again, from the last event on
            log.warning("event stream ended", error_code=code_of(error))
            return
        if events is None:
            return
        for event in events:
            yield event
        if until_done and watched.is_done:
            yield ServerSentEvent(event="done", data=watched.counts)
            return
        await anyio.sleep(LOOK_EVERY_S)


def _is_stopping(request: Request) -> bool:
    """Tell whether the server is asked to end: an open stream must not keep it."""
    stopping = getattr(request.app.state, "stopping", None)
    return stopping is not None and stopping.is_set()


@dataclass(slots=True)
class _Watched:
    """The files of a project as they were when they were last looked at.

    since: the time of the latest change that was told (UTC text). told: what changed at that very time, and its status
    then. counts: files by status.
    """

    kb: Knowlex
    project: Project
    since: str
    told: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    seen: object = None
    more: bool = False

    @property
    def is_done(self) -> bool:
        """Whether no file waits or is being processed."""
        return not self.more and not self.counts["pending"] and not self.counts["processing"]

    def look(self) -> list[ServerSentEvent] | None:
        """Return what has happened since; None where the project is deleted."""
        with self.kb.database.read() as db:
            try:
                pk = projects.get(db, self.project.id).pk
            except NotFoundError:
                return None
            counts = table.counts(db, pk)
            # All files are read only where something moved, if only a message: there may be a hundred thousand.
            seen = (counts, changes.generation(db, pk), table.last_failed_at(db, pk))
            if seen == self.seen and not self.more:
                return []
            changed = table.changed(db, pk, self.since, limit=AT_ONCE)
            fresh = [
                file for file in changed if (file.pk, file.status) not in self.told or file.updated_at > self.since
            ]
            rows = files.of(db, fresh)
        events = [self._told(file, row) for file, row in zip(fresh, rows, strict=True)]
        self.seen = seen
        if counts != self.counts:
            events.append(ServerSentEvent(event="status", data=counts, id=self.since))
        self.counts, self.more = counts, len(fresh) >= AT_ONCE
        return events

    def _told(self, file: table.File, row: files.FileRow) -> ServerSentEvent:
        if file.updated_at != self.since:
            self.since, self.told = file.updated_at, set()
        self.told.add((file.pk, file.status))
        return ServerSentEvent(
            event="file", data=asdict(row) | {"error_message": remote.why(row.error_message)}, id=file.updated_at
        )

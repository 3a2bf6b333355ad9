"""Projects: what files, memories and conversations belong to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from knowlex.remote import require_settable
from knowlex.server import scope
from knowlex.server.dependencies import Caller, KnowledgeBase
from knowlex.server.routes.shared import (
    WHOLE,
    After,
    Body,
    FilledText,
    Limit,
    Line,
    Listed,
    Page,
    ProjectName,
    Text,
    Time,
)
from storage import projects as table
from storage.projects import ProjectSummary

router = APIRouter(prefix="/projects", tags=["projects"])

_SETTINGS = "Values of your own; `ingest` in it holds the settings of Knowlex for this project's files."
_SET = "Settings of Knowlex for the files of this project alone."

SettingName = Literal[
    "include",
    "exclude",
    "hidden",
    "max_file_mb",
    "max_chunks_per_file",
    "pdf_engine",
    "max_tokens",
    "overlap_tokens",
]


class OwnSettings(Body):
    """Which files a project takes, and how they are read and cut, where that differs from the server's settings."""

    include: Annotated[list[FilledText], Listed] | None = None
    exclude: Annotated[list[FilledText], Listed] | None = None
    hidden: bool | None = None
    max_file_mb: Annotated[int, Field(ge=1, le=2**20), WHOLE] | None = None
    max_chunks_per_file: Annotated[int, Field(ge=1, le=10**7), WHOLE] | None = None
    pdf_engine: Literal["pypdf", "pypdfium2"] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=10**6), WHOLE] | None = Field(
        default=None, description="Up to what the model takes; 0: that."
    )
    overlap_tokens: Annotated[int, Field(ge=0, le=10**6), WHOLE] | None = None


class NewProject(Body):
    """A project to make."""

    name: Line = Field(examples=["handbook"])
    description: Text = ""
    settings: dict[str, Any] | None = Field(default=None, description=_SETTINGS)
    set: OwnSettings | None = Field(default=None, description=_SET)


class ProjectChange(Body):
    """What to change of a project; what is left out, or null, stays."""

    name: Line | None = None
    description: Text | None = None
    settings: dict[str, Any] | None = Field(default=None, description=_SETTINGS)
    set: OwnSettings | None = Field(default=None, description=_SET)
    unset: Annotated[list[SettingName], Listed] | None = Field(
        default=None, description="Names of such settings to give up."
    )


class Project(BaseModel):
    """A project and how much it holds."""

    id: str
    name: str
    description: str
    settings: dict[str, Any]
    created_at: Time
    updated_at: Time
    conversation_count: int
    message_count: int
    file_count: int
    total_file_size: int = Field(description="In bytes, each name counted.")
    memory_count: int


class Removed(BaseModel):
    """How many rows went with a project."""

    files: int
    chunks: int
    memories: int
    conversations: int
    messages: int


@router.post("", status_code=201)
def create_project(body: NewProject, kb: KnowledgeBase, caller: Caller) -> Project:
    """Make a project. Needs a token for all projects."""
    caller.require_write("create a project")
    caller.require_everything("create a project")
    require_settable(kb.configuration, body.settings, _given(body.set))
    made = kb.projects.create(body.name, description=body.description, settings=body.settings, set=_given(body.set))
    return _shown(kb.projects.summary(made.id))


@router.get("")
def list_projects(kb: KnowledgeBase, caller: Caller, limit: Limit = 100, after: After = None) -> Page[Project]:
    """List the projects that the token may see, the last updated first."""
    page = kb.projects.page(among=caller.projects, limit=limit, after=after)
    return Page(items=[_shown(summary) for summary in page], next=page.next)


@router.get("/{project}")
def get_project(project: ProjectName, kb: KnowledgeBase, caller: Caller) -> Project:
    """Return a project and how much it holds."""
    return _shown(kb.projects.summary(scope.project(kb, caller, project).id))


@router.patch("/{project}")
def update_project(project: ProjectName, body: ProjectChange, kb: KnowledgeBase, caller: Caller) -> Project:
    """Change a project. A new name needs a token for all projects, as others may have it already."""
    caller.require_write("update a project")
    found = scope.project(kb, caller, project)
    if body.name is not None and body.name != found.name:
        caller.require_everything("rename a project")
    require_settable(kb.configuration, body.settings, _given(body.set))
    given: dict[str, Any] = {
        "name": body.name,
        "description": body.description,
        "settings": body.settings,
        "set": _given(body.set) or None,
        "unset": body.unset or None,
    }
    if changes := {key: value for key, value in given.items() if value is not None}:
        kb.projects.update(found.id, **changes)
    return _shown(kb.projects.summary(found.id))


@router.delete("/{project}")
def delete_project(
    project: ProjectName,
    kb: KnowledgeBase,
    caller: Caller,
    with_conversations: Annotated[
        bool, Query(description="Delete its conversations, too, which stay else, of no project.")
    ] = False,
) -> Removed:
    """Delete a project with its files, uploads and memories."""
    caller.require_write("delete a project")
    found = scope.project(kb, caller, project)
    gone = kb.projects.delete(found.id, with_conversations=with_conversations)
    return Removed.model_validate(gone, from_attributes=True)


def _given(own: OwnSettings | None) -> dict[str, Any] | None:
    return None if own is None else own.model_dump(exclude_none=True)


def _shown(summary: ProjectSummary) -> Project:
    project: table.Project = summary.project
    return Project(
        id=project.id,
        name=project.name,
        description=project.description,
        settings=project.settings,
        created_at=project.created_at,
        updated_at=project.updated_at,
        conversation_count=summary.conversation_count,
        message_count=summary.message_count,
        file_count=summary.file_count,
        total_file_size=summary.total_file_size,
        memory_count=summary.memory_count,
    )

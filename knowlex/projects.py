"""Projects as Python has them: those of storage, which also show themselves in a notebook."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

from knowlex import notebook
from knowlex.notebook import escaped
from knowlex.terminal import quantity, size
from storage import projects as stored

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

_OWN = ("name", "id", "description", "settings", "created_at", "updated_at")
_FIGURES = ("files", "bytes", "memories", "conversations", "messages")


class Project(stored.Project):
    """A project; its name is unique, `id` is what the doors show. `ProjectSummary` says how much it holds."""

    __slots__ = ()

    @classmethod
    def of(cls, project: stored.Project) -> Self:
        """Return a project of storage as one that shows itself."""
        return cls(**{field.name: getattr(project, field.name) for field in fields(stored.Project)})

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame([own(self)], _OWN)

    def _repr_html_(self) -> str:
        """Show what is known of the project, in a notebook; every text is escaped."""
        facts = own(self) | {"settings": json.dumps(self.settings, ensure_ascii=False)}
        return _titled(self) + notebook.table(("", ""), ((name, escaped(str(facts[name]))) for name in _OWN[1:]))


class ProjectSummary(stored.ProjectSummary):
    """A project and how much it holds; total_file_size in bytes, each name counted."""

    __slots__ = ()

    @classmethod
    def of(cls, summary: stored.ProjectSummary) -> Self:
        """Return a summary of storage as one that shows itself."""
        held: dict[str, Any] = {field.name: getattr(summary, field.name) for field in fields(stored.ProjectSummary)}
        held["project"] = Project.of(summary.project)
        return cls(**held)

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row. Raises ConfigurationError where pandas is not installed."""
        return ProjectSummaries([self]).to_pandas()

    def _repr_html_(self) -> str:
        """Show the project's figures, in a notebook; every text is escaped."""
        description = self.project.description
        told = notebook.paragraph(escaped(description)) if description else ""
        return _titled(self.project) + told + notebook.table(_FIGURES, [_shown(self)])


class ProjectSummaries(list[ProjectSummary]):
    """All projects with what they hold: a list that shows itself in a notebook."""

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a project. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame([own(item.project) | figures(item) for item in self], (*_OWN, *_FIGURES))

    def _repr_html_(self) -> str:
        """Show the projects as a table, in a notebook; every text is escaped."""
        first = self[: notebook.SHOWN]
        rows = ((escaped(item.project.name), *_shown(item), escaped(item.project.description)) for item in first)
        shown = notebook.table(("project", *_FIGURES, "description"), rows)
        return notebook.paragraph(quantity(len(self), "project")) + shown + notebook.more(len(self))


def summaries(found: Iterable[stored.ProjectSummary]) -> ProjectSummaries:
    """Return summaries of storage as a list that shows itself."""
    return ProjectSummaries(map(ProjectSummary.of, found))


def own(project: stored.Project) -> dict[str, Any]:
    """Return what is known of a project, without the keys of the tables."""
    return {name: getattr(project, name) for name in _OWN}


def figures(summary: stored.ProjectSummary) -> dict[str, int]:
    """Return how much a project holds, under the names that `project list --json` has for it."""
    held = summary.file_count, summary.total_file_size, summary.memory_count
    return dict(zip(_FIGURES, (*held, summary.conversation_count, summary.message_count), strict=True))


def _shown(summary: stored.ProjectSummary) -> tuple[str, ...]:
    held: Mapping[str, int] = figures(summary)
    return tuple(size(count) if name == "bytes" else str(count) for name, count in held.items())


def _titled(project: stored.Project) -> str:
    return notebook.paragraph(f"<b>{escaped(project.name)}</b>")

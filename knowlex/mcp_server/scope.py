"""What one call may see: the caller's access, and the project that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from knowlex.access import Access
from knowlex.facade import Knowlex
from storage.errors import NotFoundError, UsageError
from storage.projects import Project

NAMED = 20
"""Projects that an error names, for whoever gave none of them."""

NAMED_CHARS = 80
"""Characters of a name that an error tells: whoever may write may name a project whatever they like."""

AT_ONCE = 200

BEHIND = "\0"
"""Behind an id: what comes first after it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The knowledge base as one caller sees it.

    fixed: the only project, by name or id, where whoever started the server chose one.
    """

    kb: Knowlex
    access: Access
    fixed: str | None = None

    def project(self, given: str | None) -> Project:
        """Return the project that a call is about; what is out of scope does not exist.

        Raises NotFoundError, and UsageError where none is given and several could be meant: never all of them.
        """
        self.kb.require_database()
        if self.fixed is not None:
            return self._fixed(self.fixed, given)
        if given is not None:
            return self._given(given)
        if self.access.projects is not None and len(self.access.projects) == 1:
            return self._given(next(iter(self.access.projects)))
        raise UsageError(f"project: is not given; {self._way()}")

    def is_there(self) -> bool:
        """Tell whether there is a database, with the only project where one was chosen."""
        try:
            self.kb.require_database()
            return self.fixed is None or self._find(self.fixed) is not None
        except NotFoundError:
            return False

    def projects(self, since: str = "") -> Iterator[Project]:
        """Yield the projects in scope from an id on, in the order they were made, which is that of their ids."""
        self.kb.require_database()
        if self.fixed is not None:
            found = self._fixed(self.fixed, None)
            if found.id >= since:
                yield found
            return
        while page := self.kb.projects.made(since=since, among=self.access.projects, limit=AT_ONCE):
            yield from page
            since = page[-1].id + BEHIND

    def _fixed(self, fixed: str, given: str | None) -> Project:
        found = self._find(fixed)
        if found is None:
            raise NotFoundError(
                f"project {fixed}: this server was started for it alone, and it does not exist;"
                f" `knowlex ingest {fixed} FOLDER` makes it"
            )
        if given not in (None, found.id, found.name):
            raise NotFoundError(f"project {given}: not found; this server is for {found.name} alone")
        return found

    def _given(self, given: str) -> Project:
        found = self._find(given)
        if found is None or not self.access.sees(found.id):
            raise NotFoundError(f"project {given}: not found; {self._way()}")
        return found

    def _find(self, name_or_id: str) -> Project | None:
        try:
            return self.kb.projects.get(name_or_id)
        except NotFoundError:
            return None

    def _way(self) -> str:
        """Return which projects may be given: the first of those in scope."""
        if self.access.projects is None:
            summaries = self.kb.projects.page(limit=NAMED + 1).items
            names = [summary.project.name for summary in summaries]
        else:
            names = [project.name for project in self.projects()]
        if not names and self.access.projects is not None:
            return "those that the token is for are gone; whoever made it makes another one"
        if not names:
            return "there is none yet; `knowlex ingest PROJECT FOLDER` makes one"
        more = f", or another of those in {PROJECTS}" if len(names) > NAMED else ""
        return f"give one of: {', '.join(map(_short, names[:NAMED]))}{more}"


PROJECTS = "knowlex://projects"
"""The resource that lists the projects in scope."""


def _short(name: str) -> str:
    return name if len(name) <= NAMED_CHARS else f"{name[:NAMED_CHARS]}…"


def document_uri(project_id: str, file_id: str) -> str:
    """Return the address of a file's text as a resource."""
    return f"{PROJECTS}/{project_id}/documents/{file_id}"


def file_id_of(document: str, project: Project) -> str:
    """Return the id of a file from what a caller gave: the id, or the address of a document of that project.

    As for resources, the address may have the project's name.
    """
    where, behind, id = document.rpartition("/documents/")
    named = unquote(where.removeprefix(f"{PROJECTS}/"))
    return id if behind and where.startswith(f"{PROJECTS}/") and named in (project.id, project.name) else document

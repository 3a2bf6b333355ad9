"""What a caller may see and change: the scope of a token, checked by the doors that strangers can reach.

The CLI, Python and notebooks work with `EVERYTHING`: who can read the database file needs no door.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import ForbiddenError, NotFoundError


@dataclass(frozen=True, slots=True)
class Access:
    """projects: the ids that a caller may see; None for all, and only then what belongs to no project.

    write: whether it may change anything. caller: what logs call it; never the token.
    """

    projects: frozenset[str] | None
    write: bool
    caller: str

    @property
    def everywhere(self) -> bool:
        """Whether nothing is hidden, what belongs to no project included."""
        return self.projects is None

    def sees(self, project_id: str | None) -> bool:
        """Whether what belongs to a project, or to none (None), may be shown."""
        return self.projects is None or project_id in self.projects

    def require(self, project_id: str | None, what: str) -> None:
        """Raise NotFoundError, as for what does not exist, where `what` belongs to a project out of scope.

        The two must not differ: a caller could learn else which names and ids exist.
        """
        if not self.sees(project_id):
            raise NotFoundError(f"{what}: not found")

    def require_write(self, call: str) -> None:
        """Raise ForbiddenError where the caller may only read."""
        if not self.write:
            raise ForbiddenError(f"{call}: this token may only read; use one made with --write")

    def require_everything(self, call: str) -> None:
        """Raise ForbiddenError for calls that concern all projects, where the caller is bound to some."""
        if self.projects is not None:
            raise ForbiddenError(f"{call}: this token is bound to projects; use one made without --project")


EVERYTHING = Access(projects=None, write=True, caller="local")
"""The scope of who holds the database itself."""

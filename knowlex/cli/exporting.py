"""`knowlex conversation export` of a damaged database gives all that can be read, and names the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from knowlex.cli import exit_codes
from knowlex.cli.door import Door
from knowlex.terminal import one_line, quantity
from storage.errors import CorruptDatabaseError, DamagedValueError, DatabaseError
from storage.event_log import EventLog

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.salvaging import Lost

Taken = TypeVar("Taken")

log = EventLog("knowlex")

SHOWN = 20
"""How many of what is lost are named on standard error."""


@dataclass(slots=True)
class Export:
    """An export that is asked for; `lost`: what could not be read, None as long as no damage was met."""

    kb: Knowlex
    ids: Sequence[str]
    chosen: dict[str, Any]
    lost: list[Lost] | None = None

    def take(self, use: Callable[[Iterator[str]], Taken], *, again: bool) -> Taken:
        """Return what is made of the lines, or, where damage is met, anew of those that can be read.

        again: whether it can be made anew. Raises what the export does, and CorruptDatabaseError where it cannot.
        """
        try:
            self.kb.require_database()
            return use(self._lines())
        except DatabaseError as error:
            if not self._is_damaged(error):
                raise
            if not again:
                raise CorruptDatabaseError(
                    f"{self.kb.path}: damaged, and what was written is no whole export; have what can be read written"
                    " into a file (knowlex conversation export --output FILE), or restore a backup"
                    " (knowlex restore FILE)"
                ) from error
        self.lost = []
        return use(self._lines(lost=self.lost))

    def _lines(self, **options: Any) -> Iterator[str]:
        return self.kb.conversations.export(*self.ids, **self.chosen, **options)

    def _is_damaged(self, error: DatabaseError) -> bool:
        """Tell whether pages are damaged, also where a wrong value was met first: those alone `repair` mends."""
        from storage.remains import is_damage

        if not isinstance(error, DamagedValueError):
            return is_damage(error)
        return any(problem.kind == "damaged" for problem in self.kb.verify(deep=True))

    def end(self, door: Door) -> int:
        """Name the first of what is lost on standard error, and return the exit code."""
        if self.lost is None:
            return exit_codes.OK
        if door.logs_json:
            self._log()
        else:
            self._note(door)
        return exit_codes.DATABASE if self.lost else exit_codes.OK

    def _note(self, door: Door) -> None:
        if not self.lost:
            door.note("the database is damaged, but all of these conversations could be read; run knowlex repair next")
            return
        held = ", ".join(quantity(count, kind) for kind in ("conversation", "message") if (count := self._count(kind)))
        door.note(
            f"the database is damaged; not to be read: {held or 'whose projects some are'}; restore a backup, or import"
            " what was exported into a new database"
        )
        for lost in self.lost[:SHOWN]:
            door.note(one_line(f"lost {lost.type} {lost.id or '(of unknown id)'}: {lost.detail} ({lost.count})"))

        if len(self.lost) > SHOWN:
            door.note(f"{len(self.lost) - SHOWN} more; knowlex conversation export --output FILE --json lists all")

    def _log(self) -> None:
        ids = " ".join(lost.id for lost in (self.lost or ())[:SHOWN] if lost.id)
        counts = {f"{kind}s": self._count(kind) for kind in ("conversation", "message")}
        log.warning("lost in an export", **counts, ids=ids)

    def _count(self, kind: str) -> int:
        return sum(lost.count for lost in self.lost or () if lost.type == kind)

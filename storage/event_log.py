"""The log: what happens, as the name of an event and its fields, which are ids, codes and numbers.

An event holds nothing that anybody wrote: no text, question, title, path, file name or password, and no message
of an error, which may quote any of them; an error is told by its code. Events go to Python's own `logging`,
below the logger "knowlex", so that a program that uses Knowlex decides what becomes of them; the
command line writes them to standard error (knowlex.log_output).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from storage.errors import KnowlexError

Field = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and of what. As text: the name, then each field that has a value as `field=value`."""

    name: str
    fields: Mapping[str, Field]

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.fields.items() if value is not None)])


class EventLog:
    """Tells events to the logger `name`; all of them have the fields that are bound."""

    def __init__(self, name: str, **bound: Field) -> None:
        self._logger = logging.getLogger(name)
        self._bound = bound

    def bind(self, **fields: Field) -> EventLog:
        """Return a log whose events have these fields, too."""
        return EventLog(self._logger.name, **(self._bound | fields))

    def debug(self, event: str, **fields: Field) -> None:
        """Tell what only helps to find a fault."""
        self._tell(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """Tell what is as it should be."""
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """Tell what somebody may have to look after."""
        self._tell(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """Tell what is a fault."""
        self._tell(logging.ERROR, event, fields)

    def _tell(self, level: int, event: str, fields: dict[str, Field]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Event(event, self._bound | fields))


def code_of(error: BaseException) -> str:
    """Return what an error may be called in the log: its code, or its class where it is none of ours."""
    return error.code if isinstance(error, KnowlexError) else type(error).__name__


def place_of(error: BaseException) -> str | None:
    """Return the module and line of Knowlex that an error came from: the innermost of them."""
    found, frame = None, error.__traceback__
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in ("knowlex", "workers", "pipeline", "storage"):
            found = f"{name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return found

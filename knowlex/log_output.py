"""The log on standard error while a command runs: text for people, or a JSON line an event.

Only our events are told with what they say (storage.event_log). A message of a library, or a warning of Python, may
quote a document: of these only the library's name is told, and only of warnings and worse.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

from storage.event_log import Event

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

REMEDIES = {
    "model of the settings not used": (
        "another model made the vectors of this database, and searches it; knowlex stats names it, and knowlex reembed"
        " MODEL changes over to that of the settings"
    ),
    "searched without a leg": "what it looks in is damaged: knowlex verify says how, knowlex repair mends it",
    "found by words alone": (
        "the model has no sound vector for this memory or message; change its text, or set precision to fp32"
        " (of a damaged one, knowlex verify --deep says more)"
    ),
}
"""What somebody may do about an event, which is told to people behind it."""


@contextmanager
def to_stderr(format: str, level: str, *, announce: bool = False) -> Generator[None]:
    """Write the log to standard error during the block.

    format: "text" or "json". level: "debug", "info", "warning", "error", or "auto", which is "warning" for text and
    "info" for JSON. announce: also say that a model is compiled, which takes a while the first time it is used.
    """
    chosen = LEVELS[{"text": "warning", "json": "info"}[format] if level == "auto" else level]
    handler = _Handler(format, chosen)
    loggers = [logging.getLogger("knowlex"), logging.getLogger("knowlex.embed")]
    former = [logger.level for logger in loggers]
    loggers[0].setLevel(chosen)
    if announce:
        loggers[1].setLevel(min(chosen, logging.INFO))
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        logging.captureWarnings(False)
        for logger, before in zip(loggers, former, strict=True):
            logger.setLevel(before)


class _Handler(logging.Handler):
    """Writes events to whatever standard error is at that moment."""

    def __init__(self, format: str, level: int) -> None:
        super().__init__()
        self._of_libraries = max(level, logging.WARNING)
        if format == "text":
            timed = level < logging.WARNING
            text = "%(asctime)s %(levelname)s %(name)s: %(message)s" if timed else "%(message)s"
            self.setFormatter(_Text(text))

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.msg, Event):
            if record.levelno < self._of_libraries:
                return
            record = _of_a_library(record)
        if self.formatter is None:
            self.setFormatter(_json_lines())
        sys.stderr.write(self.format(record) + "\n")

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            return super().handle(record)
        except (OSError, ValueError):  # that nobody reads the log is no reason to fail
            return False


class _Text(logging.Formatter):
    """A line an event, for people."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = super().formatMessage(record)
        remedy = REMEDIES.get(record.msg.name) if isinstance(record.msg, Event) else None
        return f"{told}: {remedy}" if remedy else told


def _of_a_library(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record that says which library said something, and not what."""
    told = Event("a library warns", {"library": record.name.partition(".")[0]})
    return logging.LogRecord("knowlex", record.levelno, "", 0, told, None, None)


def _json_lines() -> logging.Formatter:
    # Imported when something is to be written: it takes longer than the rest of a command that only reads.
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _fields,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    )


def _fields(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the fields of an event into its line, in place of its text."""
    event: Event = line["_record"].msg
    return {**line, "event": event.name, **event.fields}

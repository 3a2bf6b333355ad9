"""A parser whose child outlives the run it was started for: the next test need not start one (0.15 s of a core).

It is the same child with the same conversation. What starts, ends and replaces a child is proved where this is not
used: in tests/workers/test_parser.py, and wherever the command line runs in a process of its own.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from pipeline.model_files import ModelFiles
from pipeline.parse import Parsed, ParseSettings
from storage.queue import Claim
from workers.parser import Parser, ParserLimits, ParserStoppedError

MOST = 2
"""Idle parsers a test process keeps."""

OF_A_TEST = ("KNOWLEX_DB", "PYTEST_CURRENT_TEST")

Kind = tuple[Any, ...]

_idle: OrderedDict[Kind, Parser] = OrderedDict()
_lock = Lock()


class LentParser(Parser):
    """Borrows a parser for each file, and gives it back."""

    _lent: Parser | None = None

    def parse(self, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        with self._borrowed(model) as parser:
            return parser.parse(claim, settings, model)

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._lent is not None:
                self._lent.stop()

    @contextmanager
    def _borrowed(self, model: ModelFiles) -> Generator[Parser]:
        kind = _kind(self._limits, model)
        with self._lock:
            if self._stopped.is_set():
                raise ParserStoppedError
            parser = self._lent = _taken(kind) or Parser(self._limits)
            parser._log = self._log
        try:
            yield parser
        finally:
            with self._lock:
                self._lent = None
            _given_back(kind, parser)


def _kind(limits: ParserLimits, model: ModelFiles) -> Kind:
    """Return what must be the same for a child to serve another run: all that it was started with."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_TEST}
    return limits, model, os.getcwd(), *sorted(environment.items())


def _taken(kind: Kind) -> Parser | None:
    with _lock:
        return _idle.pop(kind, None)


def _given_back(kind: Kind, parser: Parser) -> None:
    with _lock:
        leaving = [_idle.pop(kind)] if kind in _idle else []
        if parser._stopped.is_set():  # its child was killed over a file
            leaving.append(parser)
        else:
            _idle[kind] = parser
        if len(_idle) > MOST:
            leaving.append(_idle.popitem(last=False)[1])
    for one in leaving:
        one.close()

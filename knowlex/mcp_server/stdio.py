"""The server over standard input and output, for a client that starts it."""

from __future__ import annotations

import threading
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from knowlex.access import EVERYTHING
from knowlex.facade import Knowlex
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.server import create
from storage.errors import KnowlexError, NotFoundError, TransientError
from storage.event_log import EventLog, code_of

log = EventLog("knowlex.mcp")


def serve(kb: Knowlex, project: str | None = None) -> None:
    """Answer the client at standard input until it closes that.

    project: the only one that it may see. Searches do not wait for the model, which is loaded meanwhile.
    """
    kb.waits_for_model = False
    door = Door(kb, access=EVERYTHING, project=project)
    server = create(door)
    server.middleware.append(_Warming(door))
    server.run("stdio")


class _Warming:
    """Has the model loaded once the client has its first answer, which it would else slow down."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._messages = 0

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        self._messages += 1
        if self._messages == 2:
            threading.Thread(target=_load, args=(self._door,), name="warming", daemon=True).start()
        return await call_next(ctx)


def _load(door: Door) -> None:
    """Begin to load the model where the database has vectors to search."""
    try:
        door.kb.require_database()
        door.kb.load_model()
    except (TransientError, NotFoundError):
        pass  # it is being loaded now; or there is no database yet
    except KnowlexError as error:  # whoever searches is told
        log.info("model not loaded ahead", error_code=code_of(error))

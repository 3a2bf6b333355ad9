"""The server over streamable HTTP, as part of the HTTP server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Route

from knowlex.facade import Knowlex
from knowlex.mcp_server.door import Door, message_of
from knowlex.mcp_server.server import create
from storage.errors import KnowlexError

PATH = "/mcp"


class StreamableHttp:
    """The route `/mcp`, for an app whose guard puts `access` into the state of every request.

    The guard checks Host, Origin and token, too; a request without `access` fails. words: what of an error is told.
    Each request stands for itself: there is no session that another caller could take over, and nothing to wait for, so
    that POST is all there is. Answers with progress are server-sent events.
    """

    def __init__(
        self, kb: Knowlex, *, words: Callable[[KnowlexError], str] = message_of, max_body: int = 2**22
    ) -> None:
        self._server = create(Door(kb, words=words))
        app = self._server.streamable_http_app(
            streamable_http_path=PATH,
            stateless_http=True,
            max_request_body_size=max_body,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        [made] = [route for route in app.routes if isinstance(route, Route)]
        self.route = Route(PATH, made.endpoint, methods=["POST"], name="mcp", include_in_schema=False)
        """The route to add to the app."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Serve during a block, which is entered once: that of the app's lifespan."""
        return self._server.session_manager.run()

"""The server over streamable HTTP, as part of the HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knowlex.facade import Knowlex
from knowlex.mcp_server.answers import line
from knowlex.mcp_server.door import Door, message_of
from knowlex.mcp_server.server import create
from storage.errors import KnowlexError

PATH = "/mcp"

NO_REQUEST = "the body: is no request of JSON-RPC; send an object with jsonrpc, id, method and params"
MESSAGE_CHARS = 300
"""Characters of what the library says of a request that it cannot read, at most."""


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
        self.route = Route(PATH, _Worded(made.endpoint), methods=["POST"], name="mcp", include_in_schema=False)
        """The route to add to the app."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Serve during a block, which is entered once: that of the app's lifespan."""
        return self._server.session_manager.run()


class _Worded:
    """The library's application, where it refuses a body in a line: it would quote the body, for every kind of one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun: Message | None = None
        body = b""

        async def sent(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.BAD_REQUEST:
                begun = message  # it has the length of what is put in place of its body
            elif begun is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    answer = Response(_worded(body), begun["status"], media_type="application/json")
                    await answer(scope, receive, send)

        await self._app(scope, receive, sent)


def _worded(body: bytes) -> bytes:
    """Return a refusal with its message in a line and in bounds; what is none stays as it is."""
    try:
        refusal = json.loads(body)
        message = refusal["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return body
    told = NO_REQUEST if message.startswith("Validation error: ") else line(message)[:MESSAGE_CHARS]
    return json.dumps({**refusal, "error": {**refusal["error"], "message": told}}).encode()

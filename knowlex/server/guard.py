"""What stands before every route: by which name the server was called, from which page, by whom, with how large a body.

In this order: the name (`Host`, 421), the page (`Origin`, 403), the token (401). To a browser, a page of another site
that had its own name lead here (DNS rebinding) is one of this server, and it may send no `Origin`: the name decides.
Nothing passes without a token but `/healthz`, `/readyz` where nobody can be asked whose a token is (to tell the bare
checks), and what comes from this machine itself as long as the database never had a token: where others have accounts
on the machine, make one. What came through a proxy may be from anywhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import params
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knowlex.access import EVERYTHING, Access
from knowlex.facade import Knowlex
from knowlex.server import problems
from knowlex.server.uploads import MAX_FILES
from storage.errors import ConfigurationError, DatabaseError, KnowlexError

OPEN_PATHS = frozenset({"/healthz"})
"""What answers without a token: that the process lives."""

EXPLAINING_PATHS = frozenset({"/readyz"})
"""What says why the database cannot be used, also where it cannot be asked for tokens: to nobody known, no details."""

STRANGER = Access(projects=frozenset(), write=False, caller="unknown")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""The names of this machine that only it can call itself by."""

PROXIED = (
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server"),
    *("x-real-ip", "cf-connecting-ip", "true-client-ip"),
)
"""The headers by which a proxy says that it passes a request on."""

AUTHENTICATING = 4
"""Tokens that are looked up at once, apart from the threads that requests are worked on by."""

PARAMETERS = 1000
"""Parameters of an address, at most."""

MB = 2**20

FORM_BYTES = 64 * 2**10
"""What the form around a file may have, so that one of the size allowed fits."""


@dataclass(frozen=True, slots=True)
class Names:
    """By which names a server may be called, in lower case, and whether only this machine can call it by them."""

    hosts: frozenset[str]
    local: bool

    @classmethod
    def of(cls, host: str, allowed: Collection[str] = ()) -> Names:
        """Return the names of a server that listens at `host`, and has those that are allowed besides."""
        more = {_allowed(name) for name in allowed}
        return cls(LOOPBACK | {host.lower()} | more, is_loopback(host) and all(map(is_loopback, more)))


def _allowed(name: str) -> str:
    """Return a name as it is compared; raise ConfigurationError for what holds more than a name."""
    host = name.lower().strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not host or not set(host).isdisjoint(":/@ "):
            raise ConfigurationError(
                f"allowed host {name}: is no name alone; give it without scheme, port and path"
            ) from None
    return host


def is_loopback(host: str) -> bool:
    """Tell whether nobody but this machine can reach what listens at a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


REFUSALS = {400: "malformed", 401: "unauthorized", 403: "foreign_origin", 421: "unknown_host"}
"""The codes of what does not pass, by status."""


class RefusedError(Exception):
    """A request that does not pass: status (of `REFUSALS`) and detail of the problem, further headers of the answer."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, REFUSALS[status], detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    """The outermost layer but one: sets `request.state.access` for those who pass.

    An answer without an end asks again by awaiting `request.state.access_now()`, which raises RefusedError once the
    token was revoked.
    """

    def __init__(self, app: ASGIApp, kb: Knowlex, names: Names) -> None:
        self.app = app
        self._kb = kb
        self._names = names
        self._limiter = CapacityLimiter(AUTHENTICATING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (answer := await self._refusal(scope)) is not None:
            await answer(scope, receive, send)
        else:
            await self.app(scope, _Body(scope, receive, self._kb).receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        """Return what a request that does not pass is answered; None for one that does."""
        request = Request(scope)
        try:
            self._check_names(request.headers)
            _require_few_parameters(scope["query_string"])
            if scope["path"] not in OPEN_PATHS:
                request.state.access_now = partial(self._access, request.headers)
                request.state.access = await self._known(scope["path"], request.state.access_now)
        except RefusedError as error:
            return problems.response(
                problems.id_of(request), error.status, error.code, error.detail, headers=error.headers
            )
        except KnowlexError as error:
            return problems.of_error(request, error)
        return None

    async def _known(self, path: str, access_now: Callable[[], Awaitable[Access]]) -> Access:
        """Return who calls; a stranger, where the database cannot tell and it is asked for the reason of just that."""
        try:
            return await access_now()
        except DatabaseError:
            if path not in EXPLAINING_PATHS:
                raise
            return STRANGER

    def _check_names(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _name(host) not in self._names.hosts:
            raise RefusedError(421, "Host: is no name of this server; start it with --allowed-host NAME to give it one")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise RefusedError(403, "Origin: pages of other sites may not use this server")

    async def _access(self, headers: Headers) -> Access:
        """Return what the caller may see and change; raises RefusedError where nobody is known to be calling."""
        token = _token(headers)
        if token == "":
            raise _unauthorized("Authorization: is no `Bearer TOKEN`; a token is wanted in that form, and nothing else")
        if token is not None:
            access = await self._in_thread(self._kb.tokens.authenticate, token)
            if access is None:
                raise _unauthorized("the token is unknown or was revoked", ', error="invalid_token"')
            return access
        local = self._names.local and not any(name in headers for name in PROXIED)
        if local and not await self._in_thread(self._kb.tokens.made):
            return EVERYTHING
        raise _unauthorized("give a token, as `Authorization: Bearer TOKEN`; `knowlex token create` makes one")

    async def _in_thread(self, call: Any, *arguments: object) -> Any:
        return await to_thread.run_sync(call, *arguments, limiter=self._limiter)


def _require_few_parameters(query: bytes) -> None:
    """Refuse an address with very many parameters: each that is not known would be an error of its own."""
    if query.count(b"&") >= PARAMETERS:
        raise RefusedError(400, f"the address: has more than {PARAMETERS} parameters; ask in several requests")


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    address, bracket, _ = host.removeprefix("[").partition("]")
    if host.startswith("["):
        return address.lower() if bracket else ""
    return host.partition(":")[0].lower()


def _token(headers: Headers) -> str | None:
    """Return the token that was given; None where there is no header at all, empty where it holds no token."""
    given = headers.get("authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str, error: str = "") -> RefusedError:
    return RefusedError(401, detail, WWW_Authenticate=f'Bearer realm="knowlex"{error}')


class _Body:
    """The body of a request, which ends the request where it is too large or too slow."""

    def __init__(self, scope: Scope, receive: Receive, kb: Knowlex) -> None:
        self._scope = scope
        self._receive = receive
        self._settings = kb.configuration
        self._bytes = 0
        self._whole = False
        self._until: float | None = None

    async def receive(self) -> Message:
        """Return the next piece. Raises HTTPException: 413 or 408."""
        if self._whole:  # what is waited for is the end of the connection
            return await self._receive()
        self._require_fitting(_stated(self._scope))
        try:
            async with asyncio.timeout_at(self._deadline()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the rest of the body did not come in time", {"Connection": "close"}) from None
        self._bytes += len(message.get("body", b""))
        self._require_fitting(self._bytes)
        self._whole = not message.get("more_body", False)
        return message

    def _deadline(self) -> float:
        """Return until when the next piece may come: a file's as long as it comes, else all from the first on."""
        now, patience = asyncio.get_running_loop().time(), self._settings.request_timeout_s
        if self._until is None or takes_files(self._scope.get("route")):
            self._until = now + patience
        return self._until

    def _require_fitting(self, size: int) -> None:
        # Looked up now, as the route is known only by now.
        settings = self._settings
        files = MAX_FILES * (settings.max_upload_mb * MB + FORM_BYTES)
        most = files if takes_files(self._scope.get("route")) else settings.max_request_mb * MB
        if size > most:
            raise HTTPException(413, f"the body may have {most // MB} MB; send less", {"Connection": "close"})


def _stated(scope: Scope) -> int:
    """Return how long a body is said to be; 0 where that is not told."""
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else 0


def takes_files(route: object) -> bool:
    """Tell whether a route reads its body as it comes; whatever its caller calls the body, others hold it in memory."""
    if not isinstance(route, APIRoute):
        return False
    if route.body_field is not None:
        return isinstance(route.body_field.field_info, params.Form)
    return "requestBody" in (route.openapi_extra or {})

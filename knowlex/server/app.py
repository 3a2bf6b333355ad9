"""The HTTP API as one ASGI application: the guard, the routes, and what answers when something goes wrong."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from knowlex.facade import Knowlex
from knowlex.mcp_server.streamable_http import StreamableHttp
from knowlex.server import monitoring, problems, schema
from knowlex.server.background import Background
from knowlex.server.dependencies import KnownParameters, WritingInTurn
from knowlex.server.guard import MB, Guard, Names
from knowlex.server.routes import conversations, files, memories, projects, search, settings

ROUTES = (projects, files, search, memories, conversations, settings)

DESCRIPTION = """Which passages of a project's files, conversations and memories matter for a question?

Every request but `/healthz` needs a token, as `Authorization: Bearer TOKEN`, from the first that was made on; `knowlex
token create` makes it. What a token may not see is answered as what does not exist. Errors are RFC 9457 problems.
"""


def create_app(
    kb: Knowlex, *, host: str = "127.0.0.1", allowed_hosts: Collection[str] = (), background: Background | None = None
) -> FastAPI:
    """Return the application that serves a database.

    host: where the server listens; allowed_hosts: names that it may be called by besides those of this machine. Both
    say who needs a token, see `guard`. background: what works beside the server, begun and ended with it; without it,
    files wait for `knowlex work`.
    """
    metrics = monitoring.Metrics(kb)
    kb.waits_for_model = False
    kb.reason_of = partial(problems.words, kb)
    kb.on_answer = metrics.searched
    app = FastAPI(
        title="Knowlex",
        version=version("knowlex"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
        # Both load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # It would lead to http:, whatever the proxy before it speaks, and away from what was sent.
        redirect_slashes=False,
        middleware=[
            Middleware(monitoring.Monitor, metrics=metrics),
            Middleware(Guard, kb=kb, names=Names.of(host, allowed_hosts)),
        ],
    )
    app.state.kb, app.state.metrics, app.state.background = kb, metrics, background
    # Fewer than there are threads, or those that wait for the write lock would have all of them.
    app.state.writing = CapacityLimiter(max(1, kb.configuration.request_threads // 2))
    app.state.stopping = threading.Event()  # ends answers that have no end of their own
    problems.add_to(app)
    app.include_router(monitoring.router)
    for routes in ROUTES:
        app.include_router(routes.router, prefix="/v1", dependencies=[KnownParameters, WritingInTurn])
    app.state.mcp = StreamableHttp(kb, words=partial(problems.words, kb), max_body=kb.configuration.max_request_mb * MB)
    app.router.routes.append(app.state.mcp.route)
    app.openapi = schema.of(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return "-".join([*map(str, route.tags), route.name])


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    kb: Knowlex = app.state.kb
    background: Background | None = app.state.background
    to_thread.current_default_thread_limiter().total_tokens = kb.configuration.request_threads
    if background is not None:
        background.start()
    try:
        async with app.state.mcp.running():
            yield
    finally:
        app.state.stopping.set()
        if background is not None:
            background.stop()
            await to_thread.run_sync(background.join)

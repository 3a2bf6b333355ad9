"""What a supervisor asks: `/healthz`, `/readyz` (can it answer?), `/metrics`; and what is told of requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knowlex.facade import Knowlex
from knowlex.server import problems
from knowlex.server.background import Background
from knowlex.server.dependencies import Caller, KnowledgeBase
from storage import files, queue
from storage.event_log import EventLog
from storage.ids import new_id
from storage.paths import own_files, size_of

if TYPE_CHECKING:
    from pipeline.answer import Answer

log = EventLog("knowlex.server")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""What a method or path that the server does not know is counted as: callers must not make up rows."""

REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LEG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

KEPT_S = 5.0
"""How long what was read of the database for one scrape serves the next ones."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer has, unless its route says otherwise: no page of another site may include it, nobody keeps it."""


class Metrics:
    """What is counted of the server, in a registry of its own."""

    def __init__(self, kb: Knowlex) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "knowlex_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self.request_s = Histogram(
            "knowlex_request_seconds",
            "From the head of a request to the end of its answer",
            ("method", "route"),
            buckets=REQUEST_S,
            registry=self.registry,
        )
        self.leg_s = Histogram(
            "knowlex_search_leg_seconds", "Of each leg of a search", ("leg",), buckets=LEG_S, registry=self.registry
        )
        self.degraded = Counter(
            "knowlex_search_degraded", "Searches that a leg could not do its part of", ("leg",), registry=self.registry
        )
        self.registry.register(_OfDatabase(kb))

    def searched(self, answer: Answer) -> None:
        """Count the legs of a search."""
        for name, leg in answer.legs.items():
            if leg.degraded:
                self.degraded.labels(name).inc()
            else:
                self.leg_s.labels(name).observe(leg.ms / 1000)


class _OfDatabase(Collector):
    """Reads what the database holds when it is asked for, seldom and in a few milliseconds."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb
        self._read_at = 0.0
        self._found: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would ask the database for the names at once

    def collect(self) -> Iterable[Metric]:
        if time.monotonic() - self._read_at > KEPT_S or not self._found:
            self._found, self._read_at = list(self._read()), time.monotonic()
        return self._found

    def _read(self) -> Iterable[Metric]:
        with self._kb.database.read() as db:
            counts, waiting = files.counts(db), queue.unfinished(db)
        by_status = GaugeMetricFamily("knowlex_files", "Files by status", labels=("status",))
        for status, count in counts.items():
            by_status.add_metric((status,), count)
        yield by_status
        yield GaugeMetricFamily("knowlex_queue_files", "Files that wait or are being processed", value=waiting)
        database, wal, *_ = own_files(self._kb.path)
        yield GaugeMetricFamily("knowlex_database_bytes", "Size of the database", value=size_of(database))
        yield GaugeMetricFamily("knowlex_wal_bytes", "Size of its write-ahead log", value=size_of(wal))


class Monitor:
    """The outermost layer: gives each request its id, counts and logs it, and answers what nobody foresaw."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self._paths: dict[int, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request.state.request_id = new_id()
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass  # nobody waits for an answer, and nothing is at fault
        except Exception as error:
            answer = problems.of_fault(request, error)
            if status:
                raise  # what was begun cannot be taken back: the connection is cut, so that nobody takes it for whole
            await answer(scope, receive, send_with_headers)
        finally:
            self._told(request, status, time.perf_counter() - started)

    def _told(self, request: Request, status: int, seconds: float) -> None:
        method = request.method if request.method in METHODS else OTHER
        route = self._path(request.scope)
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.request_s.labels(method, route).observe(seconds)
        access = getattr(request.state, "access", None)
        log.info(
            "request answered",
            request=problems.id_of(request),
            caller=access.caller if access else None,
            method=method,
            route=route,
            status=status,
            took_ms=round(seconds * 1000, 1),
        )

    def _path(self, scope: Scope) -> str:
        """Return the path of the route that was taken, as it is declared: what a caller put into it is no row."""
        route = scope.get("route")
        if route is None:
            return OTHER
        if id(route) not in self._paths:
            self._paths.update(_declared_paths(scope["app"]))
        return self._paths.get(id(route), OTHER)


def _declared_paths(app: FastAPI) -> dict[int, str]:
    return {id(one.original_route): one.path_format or OTHER for one in iter_route_contexts(app.routes)}


def _add_headers(message: Message) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    message["headers"] = headers.raw


router = APIRouter(tags=["monitoring"])


class Alive(BaseModel):
    """That the process lives and answers."""

    status: str = Field("ok", description="Always `ok`.")


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    ok: bool
    code: str | None = Field(description="Of what is wrong; null where nothing is.")
    detail: str | None = Field(description="What was found, or cause and remedy; null for callers bound to projects.")


class Readiness(BaseModel):
    """Whether the server can do what it is for, and why not."""

    ready: bool
    checks: list[Check]


def _background(request: Request) -> Background | None:
    return request.app.state.background


@router.head("/healthz", include_in_schema=False)  # as many monitors ask
@router.get("/healthz")
async def healthz() -> Alive:
    """Tell that the process lives and answers; needs no token, and looks at nothing."""
    return Alive(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something is in the way"}})
def readyz(kb: KnowledgeBase, caller: Caller, background: Annotated[Background | None, Depends(_background)]) -> Any:
    """Tell whether the database, the model and the queue are as they should be, and why not; 503 where one is not.

    While the model is loaded, searches are answered by words; so they are where it cannot be had.
    """
    found = kb.health()
    states = [] if background is None else background.states()
    checks = [
        Check(name=one.name, ok=one.ok, code=one.code, detail=one.detail if caller.everywhere else None)
        for one in (*found.checks, *states)
    ]
    answer = Readiness(ready=all(check.ok for check in checks), checks=checks)
    return JSONResponse(answer.model_dump(), 200 if answer.ready else 503)


_PROMETHEUS = {"content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get("/metrics", response_class=Response, responses={200: _PROMETHEUS})
def metrics(request: Request, caller: Caller) -> Response:
    """Return what is counted, for Prometheus; counts of all projects, so that no token of some may ask."""
    caller.require_everything("metrics")
    kept: Metrics = request.app.state.metrics
    return Response(generate_latest(kept.registry), media_type=CONTENT_TYPE_LATEST)

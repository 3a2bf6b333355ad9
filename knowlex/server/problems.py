"""What went wrong, as RFC 9457 has it: one table from the tree of storage.errors to HTTP's statuses.

An answer names what the caller gave, and what to do about it. What concerns the server (its paths, settings and faults)
is not in it: the log has that, under the id that the answer has as its `instance`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from knowlex import faults
from knowlex.facade import Knowlex
from storage.errors import (
    ConfigurationError,
    ConstraintError,
    DamagedValueError,
    DatabaseError,
    DiskFullError,
    ForbiddenError,
    ForeignKeyError,
    KnowlexError,
    LeaseLostError,
    LockedError,
    ModelMismatchError,
    ModelSwitchedError,
    NewerSchemaError,
    NotFoundError,
    PermanentError,
    ReplacedError,
    TransientError,
    UniqueError,
    UsageError,
)
from storage.event_log import EventLog, code_of, place_of

log = EventLog("knowlex.server")

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:knowlex:problem:"
"""What comes before the code of an error, with dashes, in its `type`."""


class Fault(BaseModel):
    """One value of a request that cannot be used."""

    location: str = Field(description="Where it stands: `body.k`, `query.limit`, `path.id`.")
    message: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description=f"What kind of problem it is: `{TYPE}` and a name that stays the same.")
    title: str = Field(description="The kind, in words.")
    status: int = Field(description="HTTP's status, once more.")
    detail: str = Field(description="What is wrong this time, and what to do about it.")
    instance: str = Field(description="`urn:uuid:` and the id that the server's log tells of this request by.")
    errors: list[Fault] | None = Field(
        default=None, description="The values that cannot be used, where it is about these; 20 at most."
    )


class NotSetError(ConfigurationError):
    """A setting of the server's, without which it cannot do this, is not set; the message is for whoever asks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How the errors of a class are answered.

    detail: what is told in place of the message, which is for whoever runs the server. retry_after_s: when it may be
    worth to ask again.
    """

    status: int
    detail: str | None = None
    retry_after_s: int | None = None


_UNUSABLE = "the database cannot be used as it is; `knowlex health` says why, where the server runs"
_OTHER_SCHEMA = (
    "another version of Knowlex changed the database; `knowlex health` says which and what to do, where the server runs"
)
_NOT_SET_UP = (
    "the server is not set up for this: a model or a setting that it needs is missing or cannot be used; the same"
    " by the command line says which, where the server runs"
)

KINDS: dict[type[KnowlexError], Kind] = {
    KnowlexError: Kind(500, "something went wrong"),
    UsageError: Kind(422),
    NotFoundError: Kind(404),
    ForbiddenError: Kind(403),
    ConfigurationError: Kind(409, _NOT_SET_UP),
    NotSetError: Kind(409),
    DatabaseError: Kind(503, _UNUSABLE),
    DamagedValueError: Kind(
        503, "a value in the database is damaged; `knowlex verify` names it, where the server runs"
    ),
    NewerSchemaError: Kind(503, _OTHER_SCHEMA),
    LockedError: Kind(503, "another process holds the lock of the database; ask again", retry_after_s=5),
    DiskFullError: Kind(507, "no space is left on the server's disk; nothing was changed"),
    ReplacedError: Kind(503, "the database was restored from a backup meanwhile; ask again", retry_after_s=1),
    ConstraintError: Kind(409, "the change does not go with what the database holds"),
    UniqueError: Kind(409),
    ForeignKeyError: Kind(409, "it refers to something that does not exist; make that first"),
    ModelMismatchError: Kind(409, _NOT_SET_UP),
    ModelSwitchedError: Kind(503, "another embedding model became live meanwhile; ask again", retry_after_s=1),
    LeaseLostError: Kind(409, "another worker has the file by now; look at its status"),
    PermanentError: Kind(422),
    TransientError: Kind(503, retry_after_s=2),
}
"""How each class of errors is answered; one that is not here, as the class that it is a kind of."""

CODES = {
    400: "malformed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    422: "usage",
}
"""The codes of problems that are none of ours, by status."""

TOLD = 20
"""Values that cannot be used which an answer names, at most."""

MESSAGE_CHARS = 1000
"""Characters of a message that are told, about: what was given may be as long as a body."""

BEGINNING = 300
"""How many of these are of its beginning."""

LOADING = "loading"
"""The code of a `TransientError` for as long as the model is being loaded."""

TITLES = {NewerSchemaError.code: "Another schema"}
"""What a kind is called, where its code would say something else: the schema may be an older one, too."""

DETAILS = {
    404: "nothing is at this path; /openapi.json has every path",
    405: "this path does not take the method; `Allow` names those that it takes",
}
"""What is told of them in place of HTTP's own words."""


def kind_of(error: KnowlexError) -> Kind:
    """Return how an error is answered."""
    return next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)


def response(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Fault] | None = None,
) -> Response:
    """Return the answer that tells of a problem."""
    problem = Problem(
        type=TYPE + code.replace("_", "-"),
        title=TITLES.get(code) or code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}",
        errors=list(errors) if errors else None,
    )
    # Not as UTF-8, which half a character that the caller gave, and that is told again, cannot be.
    content = json.dumps(problem.model_dump(exclude_none=True))
    return Response(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def of_error(request: Request, error: KnowlexError) -> Response:
    """Answer an error of ours; one that the server is to blame for, or that it does not tell, is told to its log."""
    kind = kind_of(error)
    if kind.status >= 500 or kind.detail is not None:
        log.error("request failed", request=id_of(request), error_code=error.code)
    retry = {} if kind.retry_after_s is None else {"Retry-After": str(kind.retry_after_s)}
    return response(id_of(request), kind.status, error.code, words(request.app.state.kb, error), headers=retry)


def words(kb: Knowlex, error: Exception) -> str:
    """Return what of an error is for who is not on the server's machine: where the database lies is not.

    Nor is what a library says, which may name any path.
    """
    if not isinstance(error, KnowlexError):
        return type(error).__name__
    return kind_of(error).detail or _bounded(error.message.replace(str(kb.path), "the database"))


def _bounded(message: str) -> str:
    """Return the beginning and the end of a message, where what was given makes it long: cause and remedy come last."""
    return message if len(message) <= MESSAGE_CHARS else f"{message[:BEGINNING]}…{message[BEGINNING - MESSAGE_CHARS :]}"


def of_fault(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw: the log has its class and where it was raised, the answer nothing but the id.

    What goes wrong once an answer has begun comes wrapped in an error of the library's; the log has what it was.
    """
    cause = error.__cause__ if isinstance(error.__cause__, KnowlexError) else error
    log.error("request failed", request=id_of(request), error_code=code_of(cause), place=place_of(cause))
    return response(id_of(request), 500, "fault", "this is a fault in Knowlex; its log has more under this instance")


def id_of(request: Request) -> str:
    """Return the id by which the log tells of a request."""
    return request.state.request_id


def add_to(app: FastAPI) -> None:
    """Have an app answer errors as problems."""
    app.add_exception_handler(KnowlexError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, KnowlexError)
    return of_error(request, error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    told = [_told(request.scope.get("route"), one) for one in found[:TOLD]]
    more = [f"and {len(found) - TOLD} more"] if len(found) > TOLD else []
    detail = "; ".join([*(f"{name}: {fault.message}" for name, fault in told), *more])
    return response(id_of(request), 422, "usage", detail, errors=[fault for _, fault in told])


def _told(route: object, error: Mapping[str, Any]) -> tuple[str, Fault]:
    """Return which value of a request cannot be used, as people call it, and the fault."""
    where, *within = error["loc"]
    if error["type"] == "json_invalid":
        within = []  # what follows is the character
    if where == "body" and not within:
        return "the body", Fault(location=where, message=_of_body(error))
    model, inner = _taken(route, where), {**error, "loc": within}
    location = faults.place([where, *within])
    return faults.name(inner, model), Fault(location=location, message=faults.cause(inner, model))


def _of_body(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a body as a whole."""
    if isinstance(error.get("input"), bytes):  # FastAPI reads as JSON only what says that it is
        return "is not sent as JSON; send it with the header `content-type: application/json`"
    return faults.cause({**error, "loc": ()})


def _taken(route: object, where: str) -> type[BaseModel] | None:
    """Return the model of what a route takes in its body or its address."""
    if not isinstance(route, APIRoute):
        return None
    if where == "body":
        return faults.model_in(route.body_field.field_info.annotation) if route.body_field else None
    if where != "query":
        return None
    models = (faults.model_in(one.field_info.annotation) for one in route.dependant.query_params)
    return next(filter(None, models), None)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code) or HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    phrase = HTTPStatus(error.status_code).phrase
    detail = DETAILS.get(error.status_code, error.detail) if error.detail == phrase else error.detail
    if error.status_code == 404 and request.scope["path"].endswith("/"):
        detail = "nothing is at this path; leave out the slash at its end"
    if error.status_code == 400 and isinstance(error.__cause__, Exception):
        detail = _unreadable(error.__cause__)
    headers = {"Allow": _methods_at(request)} if error.status_code == 405 else error.headers
    return response(id_of(request), error.status_code, code, str(detail), headers=headers)


def _methods_at(request: Request) -> str:
    """Return the methods that a path takes; the library names those of the first route with this path alone."""
    path = request.scope["path"]
    found = (one.methods or () for one in iter_route_contexts(request.app.routes) if one.path_regex.match(path))
    return ", ".join(sorted({method for methods in found for method in methods}))


def _unreadable(cause: Exception) -> str:
    """Return why FastAPI could not read a body; it has one sentence for all causes."""
    if isinstance(cause, UnicodeDecodeError):
        return "the body: is not in UTF-8; send JSON that is"
    if isinstance(cause, RecursionError):
        return "the body: is nested too deeply; send a flatter object"
    return "the body: cannot be read; send a JSON object"

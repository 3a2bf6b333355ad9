"""Writes docs/http.md: `python -m knowlex.server.reference > docs/http.md`. A test compares the two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from knowlex import Knowlex
from knowlex.server.app import create_app
from knowlex.server.guard import REFUSALS
from knowlex.server.problems import CODES, KINDS, LOADING, TYPE, Kind
from knowlex.server.schema import CHANGING, EVERYWHERE, REF, operations
from storage.errors import KnowlexError, TransientError

Schema = dict[str, Any]

INTRODUCTION = """\
# HTTP

<!-- Written by `python -m knowlex.server.reference`; change the routes instead. -->

`knowlex serve` answers at `http://127.0.0.1:8642`. It needs the extra `server`: `make demo` installs it in a clone of
the repository, as does `pip install -c configs/constraints.txt '.[server]'` in an environment of your own. The same as
below, for programs, is at `/openapi.json`.

```sh
knowlex serve &
curl -s --retry 30 --retry-delay 1 --retry-connrefused localhost:8642/healthz         # until it listens
curl -s -X POST localhost:8642/v1/projects -H 'content-type: application/json' -d '{"name": "handbook"}'
curl -s -F file=@refunds.pdf localhost:8642/v1/projects/handbook/files
curl -sN 'localhost:8642/v1/projects/handbook/events?until_done=true'                 # until it is read
curl -s 'localhost:8642/v1/projects/handbook/search?query=how+do+refunds+work'
```

A file that was sent is found once it is read: until then, every search says in `notes` how many wait.
And until the model is loaded, `degraded` of a leg says so: what is found is found by words alone.

A parameter of the address that a route below `/v1` does not have is refused, as is such a key in a body: 422 names it,
and the one that may be meant.

A `query` may be any text: a NUL, or half of a surrogate pair (`"\\ud800"`), counts as a space. One of nothing but
spaces is refused where something must be asked for.

## Who may ask

`/healthz` answers everybody, and so does `/readyz`, by its checks without details, where the database cannot be asked
for tokens. All else needs a token, as `Authorization: Bearer TOKEN`, from the first `knowlex token
create` on; before that, whoever is on the same machine may do everything, and the server listens to nobody else (see
[operations.md](operations.md)). A token sees the projects that it is bound to, or all, and changes something only
where it was made with `--write`. What it may not see is answered as what does not exist: 404, in the same words.

Under a name (`Host`) that is none of the server's, every request is answered by 421; from a page of another site
(`Origin`), by 403. There is no CORS. JSON bodies may have `max_request_mb`, a file `max_upload_mb`.

## Errors

Every error is an RFC 9457 problem (`application/problem+json`). `type` and `status` stay as they are; `detail` is for
people, and names what was given, the cause and the remedy. `instance` is the id by which the server's log tells of
the request. What concerns the server itself (its paths, settings, faults) is not told, but for a `rerank_model` that
is not set where one was asked for; the log has its code under that id. Values that cannot be used are listed in
`errors`, the first 20; of what was given, no more is told again than a number out of its bounds, and the first 40
characters of a key or a word that is unknown. Any operation but `/healthz` may be answered by 401, 403, 409, 421, 422,
500, 503 and 507; what else it may be answered by stands behind it. `newer-schema` is told of a database that another
version of Knowlex changed, also of an older one.

```json
{"type": "urn:knowlex:problem:not-found", "title": "Not found", "status": 404,
 "detail": "project handbok: not found; GET /v1/projects lists those there are",
 "instance": "urn:uuid:01a21f9f-0d90-7700-b73d-63b5d3872846"}
{"type": "urn:knowlex:problem:usage", "title": "Usage", "status": 422, "detail": "k 100000: is above 1000; give less",
 "instance": "urn:uuid:01a21f9f-0d91-7700-b73d-63b5d3872846",
 "errors": [{"location": "query.k", "message": "is above 1000; give less"}]}
```

"""


def reference() -> str:
    """Return the reference as Markdown."""
    schema = create_app(Knowlex("knowlex.db")).openapi()
    parts = [INTRODUCTION, *_problems()]
    found = sorted(operations(schema), key=lambda one: _tag(one[2]))
    for tag, of_tag in groupby(found, key=lambda one: _tag(one[2])):
        parts.append(f"## {tag.capitalize()}\n\n")
        parts += [_operation(schema, *one) for one in of_tag]
    return "".join(parts).rstrip() + "\n"


def _problems() -> Iterator[str]:
    yield f"| status | `type`, behind `{TYPE}` | ask again |\n|---|---|---|\n"
    ours = ((_kind(error), error.code) for error in {KnowlexError, *_kinds_below(KnowlexError)})
    rows = {(kind.status, code, kind.retry_after_s) for kind, code in ours}
    rows |= {(status, code, None) for status, code in (*CODES.items(), *REFUSALS.items(), (500, "fault"))}
    rows.add((503, LOADING, KINDS[TransientError].retry_after_s))
    for status, code, retry_s in sorted(rows, key=str):
        yield f"| {status} | `{code.replace('_', '-')}` | {f'after {retry_s} s (`Retry-After`)' if retry_s else ''} |\n"
    yield "\n"


def _kind(error: type[KnowlexError]) -> Kind:
    return next(KINDS[kind] for kind in error.__mro__ if kind in KINDS)


def _kinds_below(kind: type[KnowlexError]) -> Iterator[type[KnowlexError]]:
    for one in kind.__subclasses__():
        if one.__module__ == KnowlexError.__module__:
            yield one
            yield from _kinds_below(one)


def _tag(operation: Schema) -> str:
    return next(iter(operation.get("tags", ())), "other")


def _operation(schema: Schema, path: str, method: str, operation: Schema) -> str:
    parts = [f"### {method.upper()} {path}\n\n{operation.get('description', '').strip()}\n\n"]
    rows = [*_parameters(schema, operation), *_body(schema, operation)]
    if rows:
        parts.append("| given | type | meaning |\n|---|---|---|\n" + "".join(f"| {row} |\n" for row in rows) + "\n")
    parts.append(_answer(schema, operation))
    return "".join(parts)


def _parameters(schema: Schema, operation: Schema) -> Iterator[str]:
    for one in operation.get("parameters", ()):
        name = f"`{one['name']}` ({one['in']}{'' if one.get('required') else ', optional'})"
        yield " | ".join((name, _type(schema, one["schema"]), _cell(one.get("description", ""))))


def _body(schema: Schema, operation: Schema) -> Iterator[str]:
    body = operation.get("requestBody", {})
    for media_type, content in body.get("content", {}).items():
        found = _resolved(schema, content["schema"])
        if media_type != "application/json" or "properties" not in found:
            yield f"the body | `{media_type}` | {_cell(body.get('description', ''))}"
            continue
        for name, value in found["properties"].items():
            optional = "" if name in found.get("required", ()) else ", optional"
            yield f"`{name}` (body{optional}) | {_type(schema, value)} | {_cell(value.get('description', ''))}"


def _answer(schema: Schema, operation: Schema) -> str:
    status, answer = next((status, one) for status, one in operation["responses"].items() if status.startswith("2"))
    usual = EVERYWHERE | CHANGING
    others = ", ".join(sorted(code for code in operation["responses"] if code[0] in "45" and code not in usual))
    contents = [f"`{media_type}`{_shape(schema, one)}" for media_type, one in answer.get("content", {}).items()]
    errors = f" Errors besides the usual: {others}." if others else ""
    return f"Answers {status}{': ' if contents else ''}{'; '.join(contents)}.{errors}\n\n"


def _shape(schema: Schema, content: Schema) -> str:
    found = _resolved(schema, content.get("schema", {}))
    shape = f"`{_names(schema, found)}`"
    return f" {shape}" if shape != "``" else ""


def _names(schema: Schema, found: Schema, depth: int = 2) -> str:
    """Return the names that an object has, and those of objects within it."""
    found = _resolved(schema, found)
    if found.get("type") == "array":
        return f"[{_names(schema, found.get('items', {}), depth)}]"
    if "properties" not in found or not depth:
        return ""
    names = ((name, _names(schema, value, depth - 1)) for name, value in found["properties"].items())
    return (
        "{"
        + ", ".join(f'"{name}": {within}' if within not in ("", "[]") else f'"{name}"' for name, within in names)
        + "}"
    )


def _resolved(schema: Schema, value: Schema) -> Schema:
    if "$ref" in value:
        return schema["components"]["schemas"][value["$ref"].removeprefix(REF)]
    return value


def _type(schema: Schema, value: Schema) -> str:
    """Return what may be given, in a few words."""
    value = _resolved(schema, value)
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(schema, one) for one in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {_type(schema, value.get('items', {}))}"
    bounds = [f"{word} {value[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in value]
    default = [f"default `{json.dumps(value['default'])}`"] if value.get("default") not in (None, "", [], {}) else []
    return ", ".join([value.get("type", "any"), *bounds, *default])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    print(reference(), end="")

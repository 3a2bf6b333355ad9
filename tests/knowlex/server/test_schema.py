"""Row 24: the API is as its OpenAPI declares it, whatever it is asked (schemathesis): answers, and what it refuses."""

from __future__ import annotations

import copy
import re
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from faults.table import Figure
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection
from served import Served

from knowlex.server import schema

pytestmark = pytest.mark.row(24)

ACCEPTED = ["2xx", "401", "403", "404", "409", "413", "422"]
"""How what the schema takes may be answered: whether a filter can be read, or an id exists, a schema cannot say."""


def loaded(served: Served) -> schemathesis.BaseSchema:
    """Return the app's own schema, without what it says of tokens: here each request has one."""
    declared = copy.deepcopy(served.app.openapi())
    for _, _, operation in schema.operations(declared):
        operation.pop("security")
    checks = {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}
    config = schemathesis.Config.from_dict({"checks": checks})
    return schemathesis.openapi.from_dict(declared, config=config)


def asked(served: Served, examples: int, *, derandomize: bool) -> tuple[Counter[int], list[str]]:
    """Ask every operation for what its schema takes, and does not take; return the statuses, and what was amiss."""
    statuses: Counter[int] = Counter()
    amiss: list[str] = []
    quiet = settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    def ask(case: schemathesis.Case) -> None:
        response = _send(served, case)
        statuses[response.status_code] += 1
        try:
            case.validate_response(response, excluded_checks=_left_out(case))
        except FailureGroup as group:
            amiss.extend(f"{case.operation.label}: {_told(failure)}" for failure in group.exceptions)

    for found in loaded(served).get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            with suppress(Unsatisfiable):  # what takes nothing can be given nothing that it does not take
                quiet(given(operation.as_strategy(mode, path_parameters=_known(served, operation)))(ask))()
    return statuses, amiss


def _told(failure: BaseException) -> str:
    return f"{getattr(failure, 'title', type(failure).__name__)}: {failure}"


def _left_out(case: schemathesis.Case) -> list[schemathesis.CheckFunction]:
    # Within a form all is text: what is sent for a null, a number or a list there is a file that says so.
    return [ignored_auth, negative_data_rejection] if case.media_type == "multipart/form-data" else [ignored_auth]


def _known(served: Served, operation: schemathesis.APIOperation) -> dict[str, Any] | None:
    """Return ids that exist, for what is neither deleted nor a stream without end: else every answer is 404."""
    if operation.method.upper() == "DELETE" or operation.path.endswith("/events"):
        return None
    names = re.findall(r"(\w+)/\{(\w+)\}", operation.path)
    return {name: served.mine[of] for of, name in names} or None


def _send(served: Served, case: schemathesis.Case) -> Any:
    given = case.as_transport_kwargs(base_url=str(served.client.base_url))
    given["headers"] = {**given["headers"], "authorization": f"Bearer {served.tokens['all']}"}
    given.pop("cookies")
    if isinstance(given.get("data"), bytes | str):
        given["content"] = given.pop("data")
    if isinstance(given.get("files"), list):
        given["files"] = [(name, (file[0], _sendable(file[1]), *file[2:])) for name, file in given["files"]]
    response = served.client.request(**given)
    response.request.read()  # a form is sent as it is made, and is looked at again
    return response


def _sendable(value: Any) -> bytes | str:
    """Return what stands for a value in a form, in which there are no numbers."""
    return value if isinstance(value, bytes | str) else str(value)


def test_the_api_is_as_declared(served: Served) -> None:
    statuses, amiss = asked(served, 1, derandomize=True)
    assert not amiss
    assert {200, 201, 422} <= statuses.keys()


def test_an_answer_that_is_not_declared_is_found(served: Served) -> None:
    paths = served.app.openapi()["paths"]
    kept = {path: paths.pop(path) for path in list(paths) if path != "/healthz"}
    paths["/healthz"]["get"]["responses"]["204"] = paths["/healthz"]["get"]["responses"].pop("200")
    try:
        _, amiss = asked(served, 1, derandomize=True)
    finally:
        paths["/healthz"]["get"]["responses"]["200"] = paths["/healthz"]["get"]["responses"].pop("204")
        paths |= kept
    assert any("Undocumented status code" in line for line in amiss)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_api_is_as_declared_in_a_thousand_cases(served: Served, figure: Figure) -> None:
    statuses, amiss = asked(served, 20, derandomize=False)
    count, faults = sum(statuses.values()), sum(found for status, found in statuses.items() if status >= 500)
    told = f"{count} cases of {len(served.operations)} operations: {faults} 5xx, {len(amiss)} amiss"
    figure(24, told, count >= 1_000 and not faults and not amiss)

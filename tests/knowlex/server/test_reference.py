"""docs/http.md has every operation as it is."""

from __future__ import annotations

from pathlib import Path

from served import Served

from knowlex.server import schema
from knowlex.server.reference import reference

DOCS = Path(__file__).parents[3] / "docs" / "http.md"


def test_the_reference_is_up_to_date() -> None:
    assert DOCS.read_text("utf8") == reference()


def test_every_operation_has_a_text_and_a_name_of_its_own(served: Served) -> None:
    operations = list(schema.operations(served.app.openapi()))
    assert [f"{method} {path}" for path, method, one in operations if not one.get("description")] == []
    ids = [one["operationId"] for _, _, one in operations]
    assert len(ids) == len(set(ids))

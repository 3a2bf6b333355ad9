"""What the routes have in common: bodies, pages, texts that storage takes, and times."""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, TypeVar, cast

from fastapi import Path, Query
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

T = TypeVar("T")

_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""Any text without a NUL."""
FilledText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]
"""A text with something in it besides white space."""
_NO_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
Words = Annotated[
    str, BeforeValidator(lambda value: _NO_CHARACTERS.sub(" ", value) if isinstance(value, str) else value)
]
"""What is searched for, any text: a NUL or half of a character counts as a space, as no word has either."""
Line = Annotated[str, StringConstraints(pattern=rf"^[^{_CONTROL}]*[^{_CONTROL}\s][^{_CONTROL}]*$")]
"""One line with something on it."""
WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
"""Of a whole number in a body, behind its bounds: JSON may write it as 5.0, too."""
MOST_UNKNOWN = 20
"""Keys of a body that are not known and are each named."""


class _FirstFault(FailFast):
    """Of a list in a body: the first item that cannot be used is told, and no more are looked at."""

    def __hash__(self) -> int:  # to stand in a union
        return hash(type(self))


Listed = _FirstFault()
Time = Annotated[
    str, WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T09:30:00.000Z"]})
]

Limit = Annotated[int, Query(ge=1, le=1000, description="How many items a page has at most.")]
After = Annotated[str | None, Query(description="`next` of the page before.")]
ProjectName = Annotated[str, Path(description="The id or the name of a project.", examples=["handbook"])]


class Body(BaseModel):
    """A body of a request: what it does not know, and values of another type, are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _require_few_unknown(cls, given: Any) -> Any:
        """Refuse at once what has very many keys that are not known: each would be an error of its own."""
        unknown = (
            set(cast("dict[Any, Any]", given)) - cls.model_fields.keys() if isinstance(given, dict) else set[Any]()
        )
        if len(unknown) > MOST_UNKNOWN:
            raise PydanticCustomError(
                "unknown_keys",
                "{count} keys are unknown; known are {known}",
                {"count": len(unknown), "known": ", ".join(cls.model_fields)},
            )
        return cast(Any, given)


class Page(BaseModel, Generic[T]):
    """Part of a list."""

    items: list[T]
    next: str | None
    """What to give as `after` for the following part; null at the end."""


NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {
        "description": "Not found, or not to be seen by this token",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""For `responses` of a route that names something in its query alone; of others, knowlex.server.schema declares it."""

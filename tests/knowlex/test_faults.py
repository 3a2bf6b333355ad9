"""Values that cannot be used are told in our words, whatever the models of the doors may find wrong with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knowlex import faults


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    many: list[Annotated[int, Field(gt=0, lt=9)]] = []


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    some: Annotated[list[str], Field(min_length=1, max_length=2)] = ["x"]
    share: Annotated[float, Field(allow_inf_nan=False)] = 0
    choice: Literal["a", "b"] = "a"
    inner: Inner | None = None
    each: dict[str, int] = {}
    yes: bool = False


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": "a"}, "text: has fewer than 2 characters; give more"),
        ({"text": "abcd"}, "text: has more than 3 characters; give fewer"),
        ({"text": 1}, "text: is no text; give one"),
        ({"some": []}, "some: has fewer than 1 items; give more"),
        ({"some": ["", "", ""]}, "some: has more than 2 items; give fewer"),
        ({"some": "x"}, "some: is no list; give one"),
        ({"share": float("nan")}, "share: is no finite number; give one"),
        ({"share": "x"}, "share: is no number; give one"),
        ({"choice": "secret" * 100}, f"choice '{'secret' * 6}secr…': is unknown; give 'a' or 'b'"),
        ({"choice": ["secret"]}, "choice: is unknown; give 'a' or 'b'"),
        ({"inner": {"many": [1, 9]}}, "inner.many.1 9: is not below 9; give less"),
        ({"inner": {"many": [0]}}, "inner.many.0 0: is not above 0; give more"),
        ({"inner": {"other": 1}}, "inner.other: is unknown; known are many"),
        ({"inner": {"mny": 1}}, "inner.mny: is unknown; did you mean many?"),
        ({"inner": 1}, "inner: is no object; give one"),
        ({"each": 1}, "each: is no object; give one"),
        ({"yes": 1}, "yes: is neither true nor false; give one of them"),
    ],
)
def test_a_fault_is_told_as_input_cause_and_remedy(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Given.model_validate(given)
    [error] = raised.value.errors()
    assert f"{faults.name(error, Given)}: {faults.cause(error, Given)}" == told


def test_without_a_model_or_a_word_of_ours_the_library_s_is_told_in_bounds() -> None:
    unheard_of = {"type": "unheard_of", "loc": ("a", 1), "msg": "m" * 1000}
    assert faults.name(unheard_of) == "a.1"
    assert faults.cause(unheard_of) == "m" * 200 + "…"
    assert faults.cause({"type": "extra_forbidden", "loc": ("a",), "msg": ""}) == "is unknown; leave it out"

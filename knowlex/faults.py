"""Values that cannot be used, in our words: what pydantic found, as input, cause and remedy.

Of a value no more is told again than a number that is out of its bounds, or the beginning of a word that is none of
those to choose from: whatever else was given may be a secret, and long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

SHOWN = 40
"""Characters of a given value, or of a key that is not known, that are told again."""

_CHOICE = ("literal_error", "enum")
_BOUNDS = ("less_than_equal", "less_than", "greater_than_equal", "greater_than")
_CAUSES = {
    "missing": "is not given; give it",
    "less_than_equal": "is above {le}; give less",
    "less_than": "is not below {lt}; give less",
    "greater_than_equal": "is below {ge}; give more",
    "greater_than": "is not above {gt}; give more",
    "finite_number": "is no finite number; give one",
    "int_type": "is no whole number; give one",
    "int_parsing": "is no whole number; give one",
    "int_parsing_size": "is a number of too many digits; give less",
    "int_from_float": "is no whole number; give one",
    "float_type": "is no number; give one",
    "float_parsing": "is no number; give one",
    "bool_type": "is neither true nor false; give one of them",
    "bool_parsing": "is neither true nor false; give one of them",
    "string_type": "is no text; give one",
    "string_unicode": "is no text that UTF-8 can hold; give another",
    "string_too_short": "has fewer than {min_length} characters; give more",
    "string_too_long": "has more than {max_length} characters; give fewer",
    "string_pattern_mismatch": "is blank, or holds a character that it may not, such as NUL; give another text",
    "list_type": "is no list; give one",
    "too_short": "has fewer than {min_length} items; give more",
    "too_long": "has more than {max_length} items; give fewer",
    "dict_type": "is no object; give one",
    "model_type": "is no object; give one",
    "model_attributes_type": "is no object; give one",
    "literal_error": "is unknown; give {expected}",
    "enum": "is unknown; give {expected}",
    "json_invalid": "is not JSON ({error}); send a JSON object",
}
"""What is said of each type of error that our models can give."""


def cause(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """Return what is wrong with a value, and what to do about it.

    error: as pydantic's `errors()` has it, its location that within the model, which tells what keys there are.
    """
    if error["type"] == "extra_forbidden":
        return unknown(str(error["loc"][-1]), _keys(model, error["loc"][:-1]))
    words = _CAUSES.get(error["type"])
    return short(error["msg"], 200) if words is None else words.format_map(error.get("ctx") or {})


def unknown(name: str, known: Sequence[str]) -> str:
    """Return what is wrong with a name that is none of those known: the one that may be meant, or all of them."""
    if near := get_close_matches(name, known, 1):
        return f"is unknown; did you mean {near[0]}?"
    return f"is unknown; known are {', '.join(known)}" if known else "is unknown; leave it out"


def name(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """Return which value it is, by its place in the model, and of one out of bounds or choice the value itself."""
    given = error.get("input")
    where = place(_named(model, error["loc"]))
    if error["type"] in _BOUNDS and isinstance(given, int | float | str):
        return f"{where} {short(str(given))}"
    if error["type"] in _CHOICE and isinstance(given, str):
        return f"{where} {short(given)!r}"
    return where


def place(parts: Sequence[Any]) -> str:
    """Return a place in a value as text: `set.include.0`."""
    return ".".join(short(str(part)) for part in parts)


def short(text: str, most: int = SHOWN) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= most else f"{text[:most]}…"


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that values of a type are, or may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def _keys(model: type[BaseModel] | None, parts: Sequence[Any]) -> Sequence[str]:
    """Return the keys that an object at a place has."""
    for part in parts:
        field = model.model_fields.get(part) if model is not None and isinstance(part, str) else None
        model = None if field is None else model_in(field.annotation)
    return () if model is None else [*model.model_fields]


def _named(model: type[BaseModel] | None, parts: Sequence[Any]) -> Sequence[Any]:
    """Return a place without what pydantic adds to it: which of several types a value was tried as."""
    if model is None or not parts or parts[0] not in model.model_fields:
        return parts
    inner, rest = model_in(model.model_fields[parts[0]].annotation), parts[1:]
    if inner is None:
        rest = [part for part in rest if isinstance(part, int)]
    return [parts[0], *_named(inner, rest)]

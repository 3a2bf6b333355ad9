"""What a message says: a list of parts, each a JSON object whose `type` says what it is.

    {"type": "text", "text": "…"}
    {"type": "image_ref", "uri": "…"}         where the image is: uri, path, file_id or whatever names it
    {"type": "tool_call", "name": "…", …}     the tool that was called; its arguments; `id` names the call
    {"type": "tool_result", …}                what the tool gave; `tool_call_id` names the call it answers

Only the text of text parts is searched, never a key or a brace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from storage import fields
from storage.errors import UsageError

Part = dict[str, Any]


def parts(content: str | Sequence[Part]) -> list[Part]:
    """Return content as a list of valid parts; a plain string is one text part.

    Raises UsageError naming the part and what is wrong with it.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, bytes):  # a sequence, of numbers
        raise UsageError("content: is of Python's type bytes; give text or a list of parts")
    if not isinstance(content, Sequence) or not content:  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError("content: holds no parts; give text or a list of parts")
    for number, part in enumerate(content, 1):
        _check(part, f"content part {number}")
    return [dict(part) for part in content]


def spoken(content: str | Sequence[Part]) -> list[Part]:
    """Return content as `parts` does, of a message that says something: not text alone that is blank.

    An import takes in such a message, as it was kept under older rules. Raises UsageError.
    """
    found = parts(content)
    if not text_of(found).strip() and all(part["type"] == "text" for part in found):
        raise UsageError("content: is empty; give the message some text")
    return found


def _check(part: Part, what: str) -> None:
    if not isinstance(part, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"{what}: is {fields.kind_of(part)}; give an object with a type")
    check = _CHECKS.get(str(part.get("type")))
    if check is None:
        raise UsageError(f"{what}: type {part.get('type')!r} is unknown; give one of {', '.join(_CHECKS)}")
    check(part, what)
    fields.require_plain(part, what, above=1)


def _check_text(part: Part, what: str) -> None:
    if not isinstance(part.get("text"), str):
        raise UsageError(f"{what}: a text part needs `text`, a string")


def _check_tool_call(part: Part, what: str) -> None:
    if not isinstance(part.get("name"), str) or not part["name"]:
        raise UsageError(f"{what}: a tool_call needs `name`, the name of the tool")

    _check_name(part, "id", what)


def _check_image(part: Part, what: str) -> None:
    _check_more(part, what)
    if not any(isinstance(value, str) and value for key, value in part.items() if key != "type"):
        raise UsageError(f"{what}: an image_ref needs a field that says where the image is, such as `uri`, a string")


def _check_result(part: Part, what: str) -> None:
    _check_more(part, what)
    _check_name(part, "tool_call_id", what)


def _check_more(part: Part, what: str) -> None:
    if len(part) < 2:
        raise UsageError(
            f"{what}: a part of type {part['type']} needs a field besides its type, such as {_MORE[part['type']]}"
        )


_MORE = {
    "image_ref": "`uri`, `path` or `file_id`, where the image is",
    "tool_result": "`content`, what the tool gave, or `tool_call_id`, the call that it answers",
}
"""Fields that parts may have which need some, but no certain one."""


def _check_name(part: Part, key: str, what: str) -> None:
    if part.get(key) is not None and not isinstance(part[key], str):
        raise UsageError(f"{what}: `{key}` is {fields.kind_of(part[key])}; give a string")


_CHECKS: dict[str, Callable[[Part, str], None]] = {
    "text": _check_text,
    "image_ref": _check_image,
    "tool_call": _check_tool_call,
    "tool_result": _check_result,
}


def kept_parts(text: str, what: str) -> list[Part]:
    """Return the parts that a content column holds; raises CorruptDatabaseError where it holds anything else.

    Only what `text_of` relies on is looked at: what was kept under older rules stays readable.
    """
    found = fields.kept_json(text, what)
    if not isinstance(found, list) or not all(map(_readable, found)):  # pyright: ignore[reportUnknownArgumentType]
        raise fields.not_kept_so(what, "no list of parts")
    return found  # pyright: ignore[reportUnknownVariableType]


def _readable(part: Any) -> bool:
    if not isinstance(part, dict) or "type" not in part:
        return False
    kept = cast(Part, part)
    return kept["type"] != "text" or isinstance(kept.get("text"), str)


def text_of(content: Sequence[Part]) -> str:
    """Return what a reader would see of a message: its text parts, a line apart."""
    return "\n".join(part["text"] for part in content if part["type"] == "text")

"""Filters as people write them: `kind = 'pdf' and (page >= 3 or author in ('Ada', 'Grace'))`.

    filter      all {"or" all}
    all         one {"and" one}
    one         "(" filter ")"  |  key sign value  |  key ["not"] "in" "(" value {"," value} ")"
    sign        = != < <= > >=
    key         a word of letters, digits, _ . -, or any text in double quotes
    value       a text in single or double quotes, a number, true, false

A quote within quotes is doubled: 'it''s'. Words of the language may be capitals, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.detect import Kind, mime_types
from storage.errors import UsageError
from storage.filters import (
    MAX_DEPTH,
    Comparison,
    Filter,
    Group,
    Operator,
    Scalar,
    comparison,
    from_json,
    group,
    require_few_values,
    too_deep,
)

MAX_CHARACTERS = 100_000
"""Of a filter, written or JSON."""

SHOWN = 30
"""Characters of a filter that an error shows, from where it is wrong."""

_SIGNS: Mapping[str, Operator] = {"=": "eq", "!=": "ne", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_RESERVED = frozenset({"and", "or", "not", "in", "true", "false"})

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))"""
    r"""|(?P<word>[^\W\d][\w.-]*)|(?P<sign><=|>=|!=|[=<>(),])|(?P<end>\Z)|(?P<other>.))""",
    re.DOTALL,
)

_DAY = re.compile(r"[0-9]{4}-[0-9][\w:.+-]{,40}")
"""A day or time without its quotes, of which the year alone would be a number."""


def read(filter: str | Mapping[str, Any]) -> Filter:
    """Return a filter that is written in this language, or as JSON (an object, or text that begins with a brace).

    Kinds of files are replaced by their MIME types, which is what the tables have.
    Raises UsageError, which says where the filter is wrong and what would be right.
    """
    return _by_mime_type(_read(filter))


def _read(filter: str | Mapping[str, Any]) -> Filter:
    if not isinstance(filter, str):
        return from_json(filter)
    if len(filter) > MAX_CHARACTERS:
        raise UsageError(f"filter: has {len(filter):,} characters, more than {MAX_CHARACTERS:,}; split the search")
    if not filter.lstrip().startswith("{"):
        return parse(filter)
    try:
        value = json.loads(filter)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"filter: is no JSON ({error}); give one object, or leave the brace out") from None
    return from_json(value)


def _by_mime_type(filter: Filter) -> Filter:
    if isinstance(filter, Group):
        return replace(filter, filters=tuple(map(_by_mime_type, filter.filters)))
    if filter.key != "kind":
        return filter
    types = [type for value in filter.values for type in mime_types(_kind(str(value)))]
    return Comparison("in" if filter.type in ("eq", "in") else "nin", "mime_type", tuple(dict.fromkeys(types)))


def _kind(value: str) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise UsageError(f"filter: kind: {value!r} is unknown; give one of {', '.join(Kind)}") from None


def parse(text: str) -> Filter:
    """Return the filter that a text says in this language. Raises UsageError."""
    tokens = _Tokens(text)
    found = _filter(tokens, 1)
    if tokens.kind != "end":
        raise tokens.wrong("`and`, `or` or the end")
    require_few_values(found)
    return found


@dataclass(slots=True)
class _Tokens:
    """A text, token by token: `kind` and `token` are of the one that is next, which begins at `at`."""

    text: str
    at: int = 0
    kind: str = ""
    token: str = ""
    _end: int = field(default=0)

    def __post_init__(self) -> None:
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self._end)
        assert match is not None  # every character is of some kind
        self.kind = match.lastgroup or ""
        self.token, self.at, self._end = match[self.kind], match.start(self.kind), match.end()

    def take(self, *tokens: str) -> bool:
        """Go behind the next token if it is one of these words or signs, and say whether it was."""
        found = self.kind in ("word", "sign") and self.token.lower() in tokens
        if found:
            self.advance()
        return found

    def require(self, sign: str, expected: str) -> None:
        if not self.take(sign):
            raise self.wrong(expected)

    @property
    def place(self) -> str:
        return f"filter, character {self.at + 1}"

    def wrong(self, expected: str) -> UsageError:
        if self.kind == "other" and self.token in ("'", '"'):
            return UsageError(
                f"{self.place}: the quote that begins here is not closed; close it, or double it in a text"
            )
        rest = self.text[self.at : self.at + SHOWN]
        more = "…" if len(self.text) > self.at + SHOWN else ""
        found = f"{rest!r}{more}" if rest else "the end"
        return UsageError(f"{self.place}: expected {expected}, found {found}")


def _filter(tokens: _Tokens, depth: int) -> Filter:
    found = [_all(tokens, depth)]
    while tokens.take("or"):
        found.append(_all(tokens, depth))
    return group("or", found)


def _all(tokens: _Tokens, depth: int) -> Filter:
    found = [_one(tokens, depth)]
    while tokens.take("and"):
        found.append(_one(tokens, depth))
    return group("and", found)


def _one(tokens: _Tokens, depth: int) -> Filter:
    place = tokens.place
    if not tokens.take("("):
        return _comparison(tokens)
    if depth > MAX_DEPTH:
        raise too_deep(place)
    found = _filter(tokens, depth + 1)
    tokens.require(")", "`and`, `or` or a closing parenthesis")
    return found


def _comparison(tokens: _Tokens) -> Comparison:
    place, key = tokens.place, _key(tokens)
    sign = tokens.token
    if tokens.take(*_SIGNS):
        return comparison(_SIGNS[sign], key, [_value(tokens)], place)
    if tokens.take("in"):
        return comparison("in", key, _list(tokens), place)
    if tokens.take("not"):
        tokens.require("in", "`in` behind `not`")
        return comparison("nin", key, _list(tokens), place)
    raise tokens.wrong("one of = != < <= > >= in, not in")


def _key(tokens: _Tokens) -> str:
    if tokens.kind == "word" and tokens.token.lower() not in _RESERVED:
        key = tokens.token
    elif tokens.kind == "text" and tokens.token.startswith('"'):
        key = _unquoted(tokens.token)
    else:
        raise tokens.wrong("a key such as kind, page or author, or a parenthesis")
    tokens.advance()
    return key


def _list(tokens: _Tokens) -> list[Scalar]:
    tokens.require("(", "a list in parentheses")
    found = [_value(tokens)]
    while tokens.take(","):
        found.append(_value(tokens))
    tokens.require(")", "a comma or a closing parenthesis")
    return found


def _value(tokens: _Tokens) -> Scalar:
    word = tokens.token.lower()
    if day := _DAY.match(tokens.text, tokens.at):
        raise UsageError(f"{tokens.place}: {day[0]} stands without quotes; write '{day[0]}'")
    if tokens.kind == "text":
        found: Scalar = _unquoted(tokens.token)
    elif tokens.kind == "number":
        found = _number(tokens)
    elif tokens.kind == "word" and word in ("true", "false"):
        found = word == "true"
    else:
        raise tokens.wrong("a value: text in quotes, a number, true or false")
    tokens.advance()
    return found


def _number(tokens: _Tokens) -> int | float:
    try:
        return int(tokens.token)
    except ValueError:  # a fraction, or more digits than Python reads
        return float(tokens.token)


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(2 * quote, quote)

"""The language of filters: what is written is read, any text is a filter or a usage error, and errors point at it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind, mime_types
from pipeline.filter_language import MAX_CHARACTERS, parse, read
from storage.errors import UsageError
from storage.filters import (
    JOINERS,
    KEYS,
    MAX_DEPTH,
    MAX_TEXT,
    MAX_VALUES,
    OF_LISTS,
    OPERATORS,
    ORDERING,
    Comparison,
    Filter,
    Group,
    Holds,
    Scalar,
    from_json,
)

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=8)
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
WORD = st.text(CHARACTERS, min_size=1, max_size=8)
OF = {Holds.NUMBER: NUMBER, Holds.TEXT: TEXT, Holds.TIME: st.dates().map(str), Holds.NAME: WORD}
CHOICES = {
    "type": st.sampled_from(["note", "insight"]),
    "role": st.sampled_from(["user", "tool"]),
    "folder": WORD.filter(lambda name: not set(name) & set(".~")),
}


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    key = draw(st.sampled_from([*sorted(KEYS), "and", "Or", "NOT", "in", "True", "x.y-z"]) | WORD)
    holds = KEYS.get(key)
    type = draw(st.sampled_from(["eq", "ne", "in", "nin"] if holds is Holds.NAME else OPERATORS))
    of_metadata = TEXT | NUMBER if type in ORDERING else TEXT | NUMBER | st.booleans()
    values = CHOICES.get(key, of_metadata if holds is None else OF[holds])
    most = 3 if type in OF_LISTS else 1
    return Comparison(type, key, tuple(draw(st.lists(values, min_size=1, max_size=most))))


FILTERS = st.recursive(
    comparisons(),
    lambda inner: st.builds(Group, st.sampled_from(JOINERS), st.lists(inner, min_size=2, max_size=3).map(tuple)),
    max_leaves=8,
)


def plain(filter: Filter) -> str:
    """Tell 1 from True and 1.0, which are equal in Python."""
    return repr(filter)


SIGNS = {"eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def written(filter: Filter) -> str:
    """Return a filter in the language."""
    if isinstance(filter, Group):
        inner = (f"({written(each)})" if isinstance(each, Group) else written(each) for each in filter.filters)
        return f" {filter.type} ".join(inner)
    values = ", ".join(map(written_value, filter.values))
    key = filter.key if re.fullmatch(r"[a-z]+[._-][\w.-]*", filter.key) else quoted(filter.key, '"')
    if filter.type in OF_LISTS:
        return f"{key} {'in' if filter.type == 'in' else 'not in'} ({values})"
    return f"{key} {SIGNS[filter.type]} {values}"


def written_value(value: Scalar) -> str:
    if isinstance(value, str):
        return quoted(value, "'")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def quoted(text: str, quote: str) -> str:
    return quote + text.replace(quote, 2 * quote) + quote


def to_json(filter: Filter) -> dict[str, Any]:
    """Return a filter as the JSON value that `from_json` reads."""
    if isinstance(filter, Group):
        return {"type": filter.type, "filters": [to_json(inner) for inner in filter.filters]}
    value = list(filter.values) if filter.type in OF_LISTS else filter.values[0]
    return {"type": filter.type, "key": filter.key, "value": value}


@given(FILTERS)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_as_it_was(filter: Filter) -> None:
    assert plain(parse(written(filter))) == plain(filter)
    assert plain(from_json(json.loads(json.dumps(to_json(filter))))) == plain(filter)


PIECES = [
    "kind",
    "page",
    "a",
    "and",
    "OR",
    "not",
    "in",
    "(",
    ")",
    ",",
    "=",
    "!=",
    "<=",
    "'x'",
    '"k"',
    "3",
    "-1.5e3",
    "true",
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map(" ".join))
@example("'")
@example("a = 1e999")
@example("a = " + "9" * 5000)
@example("(" * 5000)
@example("{" * 5000)
@example('{"type":' * 3000)
@example("a = 'x' \ud800")
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    try:
        read(text)
    except UsageError as error:
        assert str(error).startswith("filter")
        assert "\n" not in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*OPERATORS, *JOINERS]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "key", "value", "filters", "x"]), inner),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_filter_or_a_usage_error(value: Any) -> None:
    try:
        filter = from_json(value)
    except UsageError as error:
        assert str(error).startswith("filter")
    else:
        assert plain(from_json(to_json(filter))) == plain(filter)


def test_and_binds_closer_than_or_and_parentheses_closest() -> None:
    a, b, c = (Comparison("eq", key, (1,)) for key in "abc")
    assert parse("a = 1 or b = 1 and c = 1") == Group("or", (a, Group("and", (b, c))))
    assert parse("(a = 1 OR b = 1) AND c = 1") == Group("and", (Group("or", (a, b)), c))
    assert parse("((a = 1))") == a
    assert parse("a = 1 and b = 1 and c = 1") == Group("and", (a, b, c))


@pytest.mark.parametrize(
    ("text", "key", "type", "values"),
    [
        ("size >= 10", "size", "gte", (10,)),
        ("a<-1.5", "a", "lt", (-1.5,)),
        ("a != 'it''s'", "a", "ne", ("it's",)),
        ('"Content Type" = "a""b"', "Content Type", "eq", ('a"b',)),
        ("x.y-z not  in(1,'1',true)", "x.y-z", "nin", (1, "1", True)),
        ("note = 'x'", "note", "eq", ("x",)),
        ("著者 = '東'", "著者", "eq", ("東",)),
        ('"and" in (false)', "and", "in", (False,)),
    ],
)
def test_a_comparison_is_read(text: str, key: str, type: str, values: tuple[Any, ...]) -> None:
    assert plain(parse(text)) == plain(Comparison(type, key, values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"character 1: expected a key such as kind, page or author, or a parenthesis, found the end"),
        ("kind = pdf", r"character 8: expected a value: text in quotes, .*, found 'pdf'"),
        ("a = 1 b", r"character 7: expected `and`, `or` or the end, found 'b'"),
        ("(a = 1", r"character 7: expected `and`, `or` or a closing parenthesis, found the end"),
        ("a like 'x'", r"character 3: expected one of = != < <= > >= in, not in, found \"like 'x'\""),
        ("a not 1", r"character 7: expected `in` behind `not`"),
        ("a in 1", r"character 6: expected a list in parentheses"),
        ("a in (1", r"character 8: expected a comma or a closing parenthesis"),
        ("a = 5x", r"character 5: expected a value"),
        ("a=1 and page = 'x'", r"character 9: page: 'x' is none of its values; give a number"),
        ("a = 1e999", r"character 1: a: inf cannot be compared; give text, a number of 64 bits, true or false"),
        ("a = 99999999999999999999", r"a: 99999999999999999999 cannot be compared"),
        ("a > true", r"true and false have no order"),
        ("kind > 'a'", r"kind: its values have no order; compare by eq \(=\), ne \(!=\), in or nin"),
        ("title = 5", r"title: 5 is none of its values; give text"),
        ("created_at > 2026-01-01", r"character 14: 2026-01-01 stands without quotes; write '2026-01-01'"),
        ("date in ('x', 2026-01-31T09:30:00Z)", r"character 15: 2026-01-31T09:30:00Z stands without quotes; write"),
        ("modified = 2026", r"modified: 2026 is none of its values; give a day or time in quotes, like '2026-01-31'"),
        ("size = true", r"size: True is none of its values; give a number"),
        ("role = 'me'", r"role: 'me' is unknown; give one of user, assistant, system, tool"),
        ("type in ('note', 'x')", r"type: 'x' is unknown; give one of memory, note, insight"),
        ("kind = 'word'", r"kind: 'word' is unknown; give one of pdf, docx"),
        ("folder = '.'", r"folder: '\.' is in no path; give a folder's name, or its path from / on"),
        ("folder in ('docs', '~/docs')", r"folder: '~/docs' is in no path"),
        ("folder != '../docs'", r"folder: '\.\./docs' is in no path"),
        ("folder = ''", r"folder: is empty; give a name"),
        ("modified > '2026-13-01'", r"modified: '2026-13-01' is no ISO 8601 time or day"),
        ("kind = 'pdf", r"filter, character 8: the quote that begins here is not closed"),
        ('"author = 3', r"filter, character 1: the quote that begins here is not closed"),
        ("modified > '2026-01-01T10:00'", r"modified: .* has no time zone; end it with Z"),
        ("a = '\0'", r"a: .* holds a NUL or half a character; remove it"),
        ('"" = 1', r"key: has 0 characters; give 1 to 4,096"),
        (f"a = '{'x' * (MAX_TEXT + 1)}'", r"a: has 4,097 characters; give 1 to 4,096"),
        (f"a in ({','.join('1' * (MAX_VALUES + 1))})", r"compares with 1,001 values, more than 1,000"),
        ("(" * (MAX_DEPTH + 1) + "a=1" + ")" * (MAX_DEPTH + 1), r"character 21: groups are nested deeper than 20"),
        ("x" * (MAX_CHARACTERS + 1), r"has 100,001 characters, more than 100,000"),
        ("{", r"filter: is no JSON \("),
        ('{"type": "eq"}', r"filter: has no key; eq has type, key, value"),
    ],
)
def test_an_error_says_where_it_is_wrong_and_what_would_be_right(text: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read(text)


def eq(key: Any = "a", value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"type": "eq", "key": key, "value": value, **more}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], r"filter: \[\] is no object; give one like"),
        ({"type": "like"}, r"filter: type 'like' is unknown; give one of eq, ne"),
        ({"type": ["eq"]}, r"filter: type \['eq'\] is unknown"),
        (eq(more=1), r"filter: 'more' is unknown; eq has type, key, value"),
        (eq(key=3), r"filter: key: 3 is no text"),
        (eq(value=None), r"filter: a: None cannot be compared"),
        (eq(value=[1]), r"filter: a: \[1\] cannot be compared"),
        (eq(value=10**5000), r"filter: a: <int> cannot be compared"),
        (eq(value=float("nan")), r"filter: a: nan cannot be compared"),
        (eq(value="\ud800"), r"filter: a: '\\ud800' holds a NUL or half a character"),
        ({"type": "in", "key": "a", "value": "x"}, r"filter: value 'x' is no list; in takes a list"),
        ({"type": "in", "key": "a", "value": []}, r"filter: in has no values; give at least one"),
        ({"type": "and", "filters": []}, r"filter: and has no filters; give a list of at least one"),
        ({"type": "and", "filters": eq()}, r"filter: and has no filters"),
        (
            {"type": "or", "filters": [eq(), {"type": "and", "filters": [eq("page", "x")]}]},
            r"filters\[1\].filters\[0\]",
        ),
    ],
)
def test_an_error_in_json_names_the_place(value: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read(value)


def test_json_may_not_be_nested_too_deep() -> None:
    value: dict[str, Any] = eq()
    for _ in range(MAX_DEPTH):
        value = {"type": "and", "filters": [value]}
    assert from_json(value) == Comparison("eq", "a", (1,))
    with pytest.raises(UsageError, match="nested deeper than 20 levels"):
        from_json({"type": "and", "filters": [value]})


def test_a_kind_stands_for_its_mime_types() -> None:
    assert read("kind = 'pdf'") == Comparison("in", "mime_type", ("application/pdf",))
    assert read(' {"type": "nin", "key": "kind", "value": ["pdf", "rtf"]}') == Comparison(
        "nin", "mime_type", ("application/pdf", "application/rtf")
    )
    assert "text/x-python" in mime_types(Kind.CODE)
    assert all(map(mime_types, Kind))

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.extract import extract
from pipeline.extract.json import MAX_DEPTH


def read(content: str | bytes, name: str = "a.json") -> str:
    data = content.encode() if isinstance(content, str) else content
    document = extract(data, kind=Kind.JSON, name=name)
    assert document.syntax == "plain"
    return document.text


def test_one_line_becomes_an_outline() -> None:
    content = (
        '{"name": "caf\\u00e9", "tags": ["a", "b"], "nested": {"x": {}, "y": [], "deep": {"z": null}}, "users": '
        '[{"id": 1, "bio": "line one\\nline two", "roles": ["admin", "'
        + "long " * 9
        + '"]}, {"id": 2, "points": [[1, 2], [3, 4]], "mixed": [1, {"a": true}, 2]}]}'
    )
    assert read(content) == (
        "name: café\ntags: a, b\nnested:\n  x: {}\n  y: []\n  deep:\n    z: null\nusers:\n"
        "  - id: 1\n    bio:\n      line one\n      line two\n    roles:\n      - admin\n"
        "      - long long long long long long long long long\n\n"
        "  - id: 2\n    points:\n      - 1, 2\n      - 3, 4\n    mixed: 1\n      - a: true\n      2"
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            '{"a": 1e400, "b": 123456789012345678901234567890, "c": -0.10}',
            "a: 1e400\nb: 123456789012345678901234567890",
        ),
        ('{"a": NaN, "b": -Infinity}', "a: NaN\nb: -Infinity"),
        ('{"a": 1, "a": 2}', "a: 1\na: 2"),
        ('{"a": ""}', "a:"),
        ('{"": "x"}', ": x"),
        ('[1, "two", null]', "1, two, null"),
        ('["\\ud83d\\ude00", "\\ud83d", "a\\u0000b"]', "😀, \ufffd, ab"),
        ('"text"', "text"),
        ("3", "3"),
        ("{}", "{}"),
        (" [ ] ", "[]"),
        ('[{}, [], {"a": {}}]', "- {}\n- []\n\n- a: {}"),
        ('{"a\\nb": 1}', "a b: 1"),
        ('\ufeff{"a": 1}', "a: 1"),
    ],
)
def test_values_stay_as_they_are_written(content: str, text: str) -> None:
    assert read(content).startswith(text)


@pytest.mark.parametrize(
    "content",
    [
        *(
            "[1,]",
            "[1",
            "1]",
            "{",
            "}",
            "[1}",
            '{"a": 1]',
            '{"a"}',
            '{"a": }',
            '{"a": 1,}',
            "{1: 2}",
            "[,]",
            "[1 2]",
            "1,",
        ),
        *("[1] [2]", "nul", "truex", "[01]", "[+1]", "[.5]", "[1.]", "'a'", '["a', '["\\x"]', "[\\u0031]", "// a\n[1]"),
        *('{"a" "b"}', '{"a": 1 "b": 2}', "[1],", ":", "[,1]", "1,2", "\u00a0[1]"),
    ],
)
def test_what_is_no_json_is_kept_as_it_is(content: str) -> None:
    assert read(content) == content


def test_json_nested_too_deep_is_kept_as_it_is() -> None:
    for content in ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"{'[' * 100_000}{']' * 100_000}\n1"):
        assert read(content) == content


def test_other_encodings() -> None:
    assert read('{"a": "é"}'.encode("utf-16")) == "a: é"
    assert read('["é"]'.encode("latin-1")) == "é"


def test_geojson_keeps_points_and_leaves_out_outlines() -> None:
    content = (
        '{"type": "FeatureCollection", "features": [{"properties": {"name": "Rope walk"}, "geometry": {"type":'
        ' "Polygon", "coordinates": [[[1.5, 2], [3, -4e1], [1.5, 2]]]}}, {"properties": {"name": "Gannet Head"},'
        ' "geometry": {"coordinates": [10.25, 59.1], "type": "Point"}}]}'
    )
    assert read(content) == (
        "type: FeatureCollection\nfeatures:\n  - properties:\n      name: Rope walk\n    geometry:\n"
        "      type: Polygon\n      coordinates: …\n\n  - properties:\n      name: Gannet Head\n    geometry:\n"
        "      coordinates: 10.25, 59.1\n      type: Point"
    )


def test_coordinates_that_hold_words_are_kept() -> None:
    assert read('{"coordinates": [["a", 1], [2]]}') == "coordinates:\n  - a, 1\n  - 2"


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_json_lines_keep_one_record_a_line(name: str) -> None:
    content = '{"a": "caf\\u00e9", "q": "\\u0022 \\" \\\\n"}\n{"b": "one\\ntwo\\/three", "c": "\\ud83d\\ude00"}'
    assert read(content, name) == ('{"a": "café", "q": "\\u0022 \\" \\\\n"}\n{"b": "one two/three", "c": "😀"}')


def test_a_number_of_any_length_is_json() -> None:
    digits = "7" * 5_000
    assert read(f'["\\u00e9", {digits}]\n1') == f'["é", {digits}]\n1'


def test_a_broken_line_among_json_lines_is_kept_as_it_is() -> None:
    assert read('{"a": "\\u00e9"}\n\n{"b": "\\u00e9"\n', "a.jsonl") == '{"a": "é"}\n\n{"b": "\\u00e9"\n'
    assert read('{"a": "\\u00e9"}\n{"b": "\\u00e9"\n') == '{"a": "\\u00e9"}\n{"b": "\\u00e9"\n'


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 3_000_000,
        '[{"a":' * 50_000 + '"bottom"' + "}]" * 50_000,
        "[" + "1," * 200_000 + "1]",
        '["' + "\\u00e9" * 200_000 + '"]',
        "[1" + " " * 500_000 + '"',
        "[1]" + " " * 500_000,
        "[" + '"coordinates" : [[1,' * 50_000,
        '"' * 300_001,
        "-" * 300_000,
        "[" + "9" * 300_000 + "]",
    ],
)
def test_hostile_json_is_shown_in_proportion(content: str) -> None:
    text = read(content)
    assert text
    assert len(text) <= 16 * len(content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('aé\n\t"\\/ []{},:\u3042😀', max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\né: ", max_size=4), inner, max_size=4),
    max_leaves=30,
)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_every_key_and_value_is_there_in_order(value: Any, indent: int | None, ascii: bool) -> None:
    text = read(json.dumps(value, indent=indent, ensure_ascii=ascii))
    place = 0
    for words in scalars(value):
        for word in words.split():
            place = text.index(word, place)


def scalars(value: Any) -> list[str]:
    match value:
        case dict():
            items: dict[str, Any] = value
            return [text for key, inner in items.items() for text in (key, *scalars(inner))]
        case list():
            return [text for inner in value for text in scalars(inner)]
        case str():
            return [value]
        case _:
            return [json.dumps(value)]


@given(st.text('{}[]",:\\ \n1ea-.nultrfs', max_size=40))
def test_it_agrees_with_pythons_parser_on_what_is_json(content: str) -> None:
    if not content.strip():
        return
    text = read(content)
    try:
        json.loads(content, parse_int=str, parse_float=str)
    except ValueError:
        if "\n" not in content:  # which may be JSON Lines, or stand in a string, where it is let pass
            assert text == content
    else:
        assert text == content or not re.match(r"[{\[]\s*[^\s}\]]", text)

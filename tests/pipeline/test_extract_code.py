"""Source code as a file: what language it is in, and in what encoding."""

from __future__ import annotations

import pytest

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract


def read(data: bytes, name: str) -> Document:
    return extract(data, kind=Kind.CODE, name=name)


def test_code_is_left_as_it_is_and_its_language_is_told() -> None:
    document = read(b"def f():\r\n\treturn 1\r\n", "a.py")
    assert document.text == "def f():\n\treturn 1\n"
    assert (document.syntax, document.language) == ("code", "python")
    assert document.metadata == {"encoding": "utf-8", "language": "python"}


@pytest.mark.parametrize(
    ("name", "data", "language"),
    [
        ("a.TS", b"x", "typescript"),
        ("a.tsx", b"x", "tsx"),
        ("a.cs", b"x", "c#"),
        ("a.sh", b"#!/usr/bin/python3\n", "bash"),  # the name counts more
        ("a.h", b"int f(void);\n/* a class of its own */\n", "c"),
        ("a.h", b"#pragma once\n  class A;\n", "c++"),
        ("a.h", b"namespace a {\n}\n", "c++"),
        ("a.kt", b"x", "kotlin"),
        ("run", b"#!/usr/bin/env python3\n", "python"),
        ("run", b"#! /bin/dash -e\n", "bash"),
        ("run", b"#!/usr/bin/env -S A=1 node --flag\n", "javascript"),
        ("run", b"#!/usr/bin/Rscript --vanilla\n", "r"),
        ("run", b"#!/usr/bin/unknown\n", ""),
        ("run", b"echo 1", ""),
        ("run.unknown", b"#!/usr/bin/ruby\n", "ruby"),
    ],
)
def test_the_language_is_told_by_the_name_or_else_by_the_first_line(name: str, data: bytes, language: str) -> None:
    document = read(data, name)
    assert document.language == language
    assert document.metadata.get("language", "") == language


@pytest.mark.parametrize(
    "first",
    [b"# -*- coding: koi8-r -*-", b"#!/usr/bin/python\n# vim: set fileencoding=koi8-r :", b"// coding: koi8-r"],
)
def test_an_encoding_that_the_first_lines_name_is_honoured(first: bytes) -> None:
    assert "Привет" in read(first + "\nx = 'Привет'\n".encode("koi8-r"), "a.py").text


def test_an_encoding_named_further_down_or_outside_of_a_comment_is_not() -> None:
    for first in (b"x = 1\n\n# coding: koi8-r", b"s = 'coding: koi8-r'"):
        assert "café" in read(first + b"\nx = 'caf\xe9'\n", "a.py").text

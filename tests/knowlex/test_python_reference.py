"""docs/python.md has every method, what it returns and every error, as they are."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import knowlex
from knowlex.reference import OBJECTS, RETURNED, methods, reference
from storage import errors

DOCS = Path(__file__).parents[2] / "docs" / "python.md"
BUILT_IN = {"None", "str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set", "Any", "builtins"}
OF_PYTHON = {
    "Path",
    "Iterator",
    "Generator",
    "Sequence",
    "Mapping",
    "pandas",
    "DataFrame",
    "Literal",
    "ItemsView",
    "ValuesView",
}


def words(annotation: object) -> set[str]:
    return set(re.findall(r"[A-Za-z_]+", str(annotation)))


def test_the_reference_is_up_to_date() -> None:
    assert DOCS.read_text("utf8") == reference()


CLASSES = OBJECTS | {made.__name__: made for made in RETURNED}
METHODS = {f"{name}.{method}": member for name, made in CLASSES.items() for method, member in methods(made)}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_text_and_what_it_returns_is_told(name: str) -> None:
    member = METHODS[name]
    function = getattr(member, "fget", None) or getattr(member, "func", None) or member
    told = {made.__name__ for made in (*OBJECTS.values(), *RETURNED)}
    assert function.__doc__
    assert words(inspect.signature(function).return_annotation) <= told | BUILT_IN | OF_PYTHON


def test_what_is_returned_are_dataclasses() -> None:
    assert [made for made in RETURNED if not dataclasses.is_dataclass(made)] == []


def test_what_programs_need_is_in_the_package() -> None:
    tree = {name: thing for name, thing in vars(errors).items() if isinstance(thing, type)}
    for name, thing in tree.items():
        assert getattr(knowlex, name) is thing, name
    assert {"Knowlex", "Hits", "Hit", *tree} <= set(dir(knowlex)) & set(knowlex.__all__)


def test_importing_the_package_loads_no_driver() -> None:
    loaded = subprocess.check_output(
        [sys.executable, "-c", "import knowlex, sys; print(*sys.modules)"], text=True
    ).split()
    assert not {"apsw", "numpy", "torch", "openvino"} & set(loaded)

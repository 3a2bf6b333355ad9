from __future__ import annotations

import json
from typing import Any

import nbformat.v4
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract
from pipeline.extract.notebook import MAX_OUTPUT_CHARS, MAX_OUTPUT_LINES
from storage.errors import ExtractError

PYTHON = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def read(notebook: object) -> Document:
    data = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    return extract(data, kind=Kind.NOTEBOOK, name="a.ipynb")


def code_of(notebook: object) -> str:
    with pytest.raises(ExtractError) as caught:
        read(notebook)
    return caught.value.code


def notebook(*cells: Any, metadata: dict[str, Any] = PYTHON) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}


def code(source: object, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}, "execution_count": 1}


def markdown(source: object) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def data(**by_type: object) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {key.replace("_", "/", 1): value for key, value in by_type.items()}}


def test_a_notebook_written_by_nbformat() -> None:
    v4: Any = nbformat.v4
    made = v4.new_notebook(metadata=PYTHON | {"authors": [{"name": "Ada Lo"}]})
    made.cells = [
        v4.new_markdown_cell("# Kiln\n\nHow hot it *gets*."),
        v4.new_code_cell(
            "# cool\nprint(1)",
            outputs=[
                v4.new_output("stream", text="1\n"),
                v4.new_output("execute_result", data={"text/plain": "42", "text/html": "<b>42</b>", "image/png": "aa"}),
                v4.new_output("error", ename="ValueError", evalue="too hot", traceback=["\x1b[31mframe\x1b[0m"]),
            ],
        ),
        v4.new_raw_cell("as it is"),
    ]
    document = read(made)
    assert document.syntax == "markdown"
    assert document.metadata == {"title": "Kiln", "author": "Ada Lo"}
    assert document.text == (
        "# Kiln\n\nHow hot it *gets*.\n\n```python\n# cool\nprint(1)\n```\n\n```\n1\n```\n\n```\n42\n```\n\n"
        "```\nValueError: too hot\n```\n\nas it is"
    )


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (data(text_plain=["a\n", "b"]), "```\na\nb\n```"),
        (data(text_html="<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>"), None),
        (data(text_plain="<IPython.core.display.HTML object>", text_html="<p>shown</p>"), "shown"),
        (data(text_plain="<Figure size 640x480 with 1 Axes>", image_png="aaaa"), ""),
        (data(text_markdown="## Sub\n\n![x](data:image/png;base64,AAAA)", text_plain="<x object>"), "## Sub\n\n![x]()"),
        (data(text_latex="$x^2$"), "```\n$x^2$\n```"),
        (data(**{"application_vnd.jupyter.widget-view+json": {}, "text_plain": "HBox(children=())"}), ""),
        (data(image_png="aaaa"), ""),
        (
            {"output_type": "stream", "text": "\x1b[1;31mred\x1b[0m 1%\r 99%\rdone\r\n\x1b[32mnext\r"},
            "```\ndone\nnext\n```",
        ),
        ({"output_type": "stream", "text": "has ``` in\n````\nit"}, "`````\nhas ``` in\n````\nit\n`````"),
        ({"output_type": "stream", "text": 7}, ""),
        ({"output_type": "stream"}, ""),
        ("no output", ""),
    ],
)
def test_what_becomes_of_an_output(output: Any, text: str | None) -> None:
    wanted = "| A | B |\n| --- | --- |\n| 1 | 2 |" if text is None else text
    assert read(notebook(markdown("first"), code("", output))).text == f"first\n\n{wanted}".strip()


def test_long_outputs_are_cut_and_say_so() -> None:
    lines = "".join(f"line {number}\n" for number in range(5_000))
    text = read(notebook(code("", {"output_type": "stream", "text": lines}))).text
    assert f"line {MAX_OUTPUT_LINES - 1}\n… (" in text
    assert text.endswith("more characters)\n```")
    long = read(notebook(code("", data(text_plain="x" * 50_000)))).text
    assert long == f"```\n{'x' * MAX_OUTPUT_CHARS}\n… (40,000 more characters)\n```"


def test_a_cell_ends_its_fence() -> None:
    text = read(notebook(markdown("```\nopen"), markdown("# Next"))).text
    assert text == "```\nopen\n```\n\n# Next"


def test_version_3() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old", "times"]},
        {"cell_type": "markdown", "source": ["one", "two"]},
        {
            "cell_type": "code",
            "input": ["a = 1\n", "a"],
            "language": "python",
            "outputs": [
                {"output_type": "pyout", "text": "1", "html": "<b>1</b>"},
                {"output_type": "display_data", "png": "aaaa", "html": "<p>shown</p>"},
                {"output_type": "pyerr", "ename": "E", "evalue": "v"},
            ],
        },
    ]
    document = read({"nbformat": 3, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]})
    assert document.text == (
        "## Old times\n\none\ntwo\n\n```python\na = 1\na\n```\n\n```\n1\n```\n\nshown\n\n```\nE: v\n```"
    )


@pytest.mark.parametrize(
    ("metadata", "fence"),
    [
        ({"kernelspec": {"language": "R"}}, "```r"),
        ({"language_info": {"name": "julia"}}, "```julia"),
        ({"language_info": {"name": "a\nb"}}, "```"),
        ({"kernelspec": None}, "```"),
        ([], "```"),
    ],
)
def test_the_language_of_the_kernel(metadata: Any, fence: str) -> None:
    assert read(notebook(code("x"), metadata=metadata)).text == f"{fence}\nx\n```"


def test_a_comment_in_code_is_no_title() -> None:
    assert read(notebook(code("# not this"), markdown("## nor this\n# This one"))).metadata == {"title": "This one"}


def test_pictures_in_markdown_are_left_out() -> None:
    assert read(notebook(markdown(f"a ![b](data:image/png;base64,{'AAAA' * 999}) c"))).text == "a ![b]() c"


SHORT, LONG_LINE = "data:image/png;base64,iVBORw0KGgo=", f"data:image/png;base64,{'AAAA' * 19}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"[a]: {SHORT}\n\nThe results", "[a]: \n\nThe results"),
        (f"[a]: {SHORT}\nThe results", "[a]: \nThe results"),
        (f"[a]: {SHORT} The results", "[a]:  The results"),
        (f"[a]: {LONG_LINE}\nThe results", "[a]: \nThe results"),
        (f"[a]: {LONG_LINE}\n\n    The\nresults", "[a]: \n\n    The\nresults"),
        (f"![a]({LONG_LINE}\r\n{'BBBB' * 19}\r\nCCCC) The", "![a]() The"),
        (f"![a]({LONG_LINE}\n  {'BBBB' * 19}\n  CC==) The", "![a]() The"),
        (f'<img src="data:image/png;base64,\n{"BBBB" * 19}\nCCCC"> The', '<img src=""> The'),
        (f"[a]: {LONG_LINE}\n{'BBBB' * 19}\nCC==\nThe results", "[a]: \nThe results"),
    ],
)
def test_what_is_written_below_a_picture_is_kept(text: str, left: str) -> None:
    assert read(notebook(markdown(text))).text == left


def test_unvalidated_cells_are_read() -> None:
    cells = [None, 3, {"cell_type": "markdown"}, {"source": "untyped"}, {"cell_type": "code", "source": {}}]
    assert read(notebook(*cells, {"cell_type": "code", "source": "x", "outputs": {"a": 1}})).text == (
        "untyped\n\n```python\nx\n```"
    )


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([], "corrupt"),
        ({"nbformat": 4, "cells": {}}, "corrupt"),
        ({"metadata": {}}, "corrupt"),
        (b"not JSON", "corrupt"),
        (b'{"cells": [', "corrupt"),
        (b'{"cells": ' + b"[" * 200_000, "corrupt"),
        (b"[" * 200_000 + b"]" * 200_000, "corrupt"),
        (notebook(), "empty"),
        (notebook(code("", data(image_png="aaaa"))), "empty"),
        (b" ", "empty"),
    ],
)
def test_each_failure_has_its_code(content: object, code: str) -> None:
    assert code_of(content) == code


def test_a_notebook_cut_off_is_read_up_to_there() -> None:
    whole = json.dumps(notebook(*(markdown(f"cell {number}") for number in range(40)))).encode()
    document = read(whole[:-60])
    assert document.text.startswith("cell 0\n\ncell 1")
    assert document.metadata["parts_failed"] == ["end of the notebook"]
    for twentieth in range(1, 20):
        try:
            assert read(whole[: len(whole) * twentieth // 20]).text.startswith("cell 0")
        except ExtractError as error:
            assert (twentieth, error.code) == (1, "corrupt")


def test_hostile_text_takes_time_in_proportion() -> None:
    for text in (
        "x" * 500_000,
        "\x1b[" * 200_000,
        "<" * 300_000,
        "```\n" * 100_000,
        " object" * 50_000,
        "\r" * 300_000,
        f"{LONG_LINE}\n" * 5_000,
        f"{LONG_LINE}{' ' * 300_000}",
        f"{LONG_LINE}\n{'A' * 39}" * 4_000,
    ):
        read(notebook(markdown(text), code(text, data(text_plain=text)), markdown("end")))


KEYS = st.sampled_from(
    ["cells", "cell_type", "source", "outputs", "data", "text/plain", "text/html", "metadata", "kernelspec", "language"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4), JSON)
def test_any_json_gives_a_document_or_a_reason(cells: list[Any], metadata: Any) -> None:
    try:
        read(notebook(*cells, metadata=metadata)).text.encode()
    except ExtractError as error:
        assert error.code in ("empty", "corrupt")

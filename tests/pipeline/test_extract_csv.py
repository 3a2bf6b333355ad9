from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract

TABLE = "| part | count |\n| --- | --- |\n| Hinge | 42 |"


def read(data: bytes | str) -> Document:
    return extract(data if isinstance(data, bytes) else data.encode(), kind=Kind.CSV, name="a.csv")


def test_the_demo_file(sample_data: Path) -> None:
    document = read((sample_data / "demo/instrument-stock.csv").read_bytes())
    assert document.syntax == "markdown"
    assert document.text.startswith(
        "| article | name | location | in_stock | minimum | price_eur | last_counted |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| LK-100 | Digital refractometer | Aldermouth A3 | 42 | 15 | 389.00 | 2026-02-27 |\n"
    )
    assert document.metadata == {"encoding": "utf-8"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_delimiter_and_line_end(delimiter: str, line_end: str) -> None:
    rows = [["part", "count"], ["Hinge", "42"]]
    assert read(line_end.join(delimiter.join(row) for row in rows)).text == TABLE


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            "name;width;height\nbolt;1,5;2,5\nnut;0,5;1,25\n",
            ["name | width | height", "bolt | 1,5 | 2,5", "nut | 0,5 | 1,25"],
        ),
        ("1,5;2,5;3,5\n4,5;5,5;6,5\n", ["1,5 | 2,5 | 3,5", "4,5 | 5,5 | 6,5"]),
        ("id|who\n1|Vasquez, Imogen\n2|Hale, Ada\n", ["id | who", "1 | Vasquez, Imogen", "2 | Hale, Ada"]),
        ('a,b\n"x, y",1\n"say ""hi""",2\n', ["a | b", "x, y | 1", 'say "hi" | 2']),
        ('a, b\n1, "x, y"\n', ["a | b", "1 | x, y"]),
        ('a,b\n"one\ntwo\n\nthree",1\n', ["a | b", "one two three | 1"]),
        (
            "a,b,c\n1,2,3\n4,5\n6,7,8,9\n1,2,3\n1,2,3\n",
            ["a | b | c | ", "1 | 2 | 3 | ", "4 | 5 |  | ", "6 | 7 | 8 | 9"],
        ),
        ("a;b;\n1;2;\n", ["a | b", "1 | 2"]),
        ("a,b\n\n1,2\n,\n3,4\n", ["a | b", "1 | 2", "3 | 4"]),
        ('a\tb\n5" pipe\t"6"" pipe"\n', ["a | b", '5" pipe | 6" pipe']),
        ("sep=^\na^b\n1,0^2\n", ["a | b", "1,0 | 2"]),
        ("a,b\n1,x|y\n", ["a | b", "1 | x\\|y"]),
    ],
)
def test_cells(text: str, rows: list[str]) -> None:
    lines = read(text).text.split("\n")
    assert set(lines.pop(1)) == set("| -")
    assert lines[: len(rows)] == [f"| {row} |" for row in rows]


@pytest.mark.parametrize(
    "above",
    [
        "Stock of the north store\n",
        "Stock of the north store,\n,\n",
        "# Stock of the north store\n\n",
        '"Stock of the\nnorth store",\n',
    ],
)
def test_what_stands_above_the_header_is_text(above: str) -> None:
    rows = "".join(f"Latch,{number}\n" for number in range(9))
    text = read(f"{above}part,count\nHinge,42\n{rows}").text
    assert text.startswith(f"Stock of the north store\n\n{TABLE}\n| Latch | 0 |")


@pytest.mark.parametrize(
    "text",
    [
        "word\n",
        "Industry\nAccounting/Finance\nHealthcare\n",
        "Lorem, ipsum\ndolor sit\namet consectetur\nsed, do eiusmod, tempor\nut labore\n",
        "The report, as sent, is late.\nIt names: a, b, c, d and e.\nNothing else, though.\nBut see it first.\n",
        "<Workbook>\n <Row>\n  <Cell/>\n </Row>\n</Workbook>\n",
    ],
)
def test_what_is_no_table_is_left_as_it_is(text: str) -> None:
    document = read(text)
    assert document.text == text
    assert document.syntax == "plain"


def test_a_quote_that_opens_nothing() -> None:
    rows = [f"bolt {number}\t{number}" for number in range(500)]
    text = read("\n".join(["name\tsize", '"quoted\t5', *rows])).text
    assert '\n| "quoted | 5 |\n| bolt 0 | 0 |\n' in text
    assert text.endswith("| bolt 499 | 499 |")


def test_a_quote_that_opens_nothing_far_down() -> None:
    rows = [f"bolt {number},{number}" for number in range(20_000)]
    text = read("\n".join(["name,size", *rows, '"quoted,5', *rows])).text
    assert '\n| bolt 19999 | 19999 |\n| "quoted | 5 |\n| bolt 0 | 0 |\n' in text


def test_a_long_cell_keeps_its_quotes_and_those_of_the_others() -> None:
    lines = "".join(f"line {number}, of a report\n" for number in range(150))
    text = read(f'part,report,size\nbolt,"{lines}",5\n"nut, small",none,"6"\n"5"" pipe" and more,none,7\n').text
    assert text.count("\n") == 4
    assert "line 149, of a report | 5 |\n| nut, small | none | 6 |\n" in text


def test_a_cell_that_the_sample_ends_in_keeps_its_quotes() -> None:
    lines = "".join(f"line {number}, of a report, and more\n" for number in range(2500))
    text = read(f'part,report,size\nbolt,"{lines}",5\nnut,none,6\n').text
    assert text.startswith(
        "| part | report | size |\n| --- | --- | --- |\n| bolt | line 0, of a report, and more line 1, "
    )
    assert text.endswith(" | 5 |\n| nut | none | 6 |")


@pytest.mark.parametrize("after", ["", '"nut, small",6\n', '"nut"\n'])
def test_a_quote_that_opens_nothing_takes_no_other_cell_with_it(after: str) -> None:
    rows = "".join(f"bolt {number},{number}\n" for number in range(150))
    text = read(f'name,size\n"quoted,5\n{rows}{after}').text
    assert '| "quoted | 5 |' in text
    assert "| bolt 149 | 149 |" in text


@pytest.mark.parametrize("start", ["a,b\n", 'a,b\n1,"'])
def test_a_cell_too_long_for_the_parser(start: str) -> None:
    word = "x" * 300_000
    text = read(f"{start}{word}\n").text
    assert word in text
    assert text.startswith(("a,b", "| a | b |"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str) -> None:
    rows = "".join(f"Größe {number};Länge für Köln\n" for number in range(20))
    text = read(f"Stück;Maß\n{rows}".encode(encoding)).text
    assert text.startswith("| Stück | Maß |\n| --- | --- |\n| Größe 0 | Länge für Köln |")


def test_no_cell_holds_any_text() -> None:
    with pytest.raises(Exception, match="empty") as caught:
        read(",,\n,,\n")
    assert getattr(caught.value, "code", "") == "empty"


def test_memory_stays_near_the_size_of_the_text() -> None:
    """A list of the cells would be twenty times as large."""
    data = "part\U0001f529,b\n".encode() + b"1,2\n" * 60_000
    tracemalloc.start()
    text = read(data).text
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.count("\n") == 60_001
    assert peak < 6.5 * len(text)


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=4), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
@settings(max_examples=200, deadline=None)
def test_the_letters_of_all_cells_are_kept_in_order(rows: list[list[str]], delimiter: str, quoting: Any) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows(rows)
    kept = [c for row in rows for value in row for c in value if c.isalnum()]
    if kept:
        assert [c for c in read(out.getvalue()).text if c.isalnum()] == kept


@given(st.text(st.sampled_from(' \n\r\t,;|"#ab1.\\'), max_size=200))
@settings(max_examples=300, deadline=None)
def test_every_letter_of_any_text_is_kept(text: str) -> None:
    kept = [c for c in text if c in "ab1"]
    if kept:
        assert [c for c in read(text).text if c in "ab1"] == kept

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.tables import cell, table, table_lines


def test_a_table() -> None:
    rows = [["Part", "Price"], ["Hinge", "4.20"], ["Latch", "1.10"]]
    assert table(rows) == "| Part | Price |\n| --- | --- |\n| Hinge | 4.20 |\n| Latch | 1.10 |"


def test_no_text_is_no_table() -> None:
    assert table([]) == ""
    assert table([[], ["", " \n"]]) == ""


def test_pipes_and_line_breaks_stay_within_their_cell() -> None:
    assert cell("a | b\r\n c\u2028d\t|") == "a \\| b c d \\|"
    assert table([["x", "y"], ["a|b", "c\n\nd"]]).endswith("\n| a\\|b | c d |")


def test_short_rows_are_filled_up_and_empty_ones_left_out() -> None:
    assert table([["a"], ["", ""], ["b", "c", "d"], ["e", "f"]]) == (
        "| a |  |  |\n| --- | --- | --- |\n| b | c | d |\n| e | f |  |"
    )


def test_one_long_row_does_not_blow_up_the_short_ones() -> None:
    rows = [["wide"] * 16_384] + [["narrow"]] * 20_000
    text = table(rows)
    assert len(text) < 20_000 * 250
    assert text.count("wide") == 16_384
    assert text.count("narrow") == 20_000


def test_rows_may_come_one_by_one() -> None:
    rows = [["row 0", "x"], ["", " "], [], ["row 1", "x"], ["row 2", "x"]]
    lines = table_lines(iter(rows), width=2)
    assert next(lines) == "| row 0 | x |"
    assert list(lines) == ["| --- | --- |", "| row 1 | x |", "| row 2 | x |"]


@given(st.lists(st.lists(st.text(), max_size=5), max_size=6))
def test_every_cell_is_found_again_in_its_place(rows: list[list[str]]) -> None:
    lines = table(rows).split("\n") if table(rows) else []
    found = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    expected = [kept for row in rows if any(kept := list(map(cell, row)))]
    width = max(map(len, expected), default=0)
    assert [row for number, row in enumerate(found) if number != 1] == [
        row + [""] * (width - len(row)) for row in expected
    ]

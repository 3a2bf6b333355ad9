from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from knowlex import terminal

STEERING = "\x1b\x07\x08\x9b\x7f\u202e\u2066\u200b\ufeff\u2028\U000e0041"


@given(st.text(st.sampled_from(STEERING + "ab\t\n\r "), max_size=20))
def test_nothing_that_steers_a_terminal_passes(text: str) -> None:
    assert not set(terminal.plain(text)) & set(STEERING + "\r")
    assert "\n" not in terminal.one_line(text)


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=20))
def test_letters_of_any_script_pass_as_they_are(text: str) -> None:
    assert terminal.plain(text) == text


def test_joiners_that_scripts_need_stay() -> None:
    assert terminal.plain("می\u200cخواهم") == "می\u200cخواهم"


def test_marks_are_bold_on_a_terminal_and_nothing_elsewhere() -> None:
    assert terminal.emphasised("a <mark>b</mark>\x1b[2J", bold=True) == "a \x1b[1mb\x1b[0m<U+001B>[2J"
    assert terminal.emphasised("a <mark>b</mark>", bold=False) == "a b"


def test_a_table_aligns_wide_characters_and_numbers() -> None:
    lines = terminal.table(("NAME", "N"), [("日本", 5), ("abcdef", 10), (None, 7)]).split("\n")
    assert lines == ["NAME     N", "日本     5", "abcdef  10", "-        7"]


def test_sizes_are_read_by_people() -> None:
    assert [terminal.size(n) for n in (None, 0, 999, 1500, 123_456, 7_000_000_000)] == [
        "-",
        "0 B",
        "999 B",
        "1.5 KB",
        "123 KB",
        "7.0 GB",
    ]

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract
from pipeline.extract.rtf import MAX_DEPTH
from storage.errors import ExtractError

FONTS = (
    r"{\fonttbl{\f0\fswiss\fcharset0 Arial;}{\f1\fcharset204{\*\panose 02}Arial Cyr;}{\f2\fnil\fcharset128 Gothic;}"
    r"{\f3\fcharset238 Arial CE;}}"
)
STYLES = (
    r"{\stylesheet{\fs20 Normal;}{\s1\outlinelevel0 \'dcberschrift;}{\s2 heading 2,h2;}{\s3 Title;}"
    r"{\*\cs10 heading 1 Char;}{\cs11 heading 1;}}"
)


def read(rtf: str | bytes) -> Document:
    data = rtf.encode("latin-1") if isinstance(rtf, str) else rtf
    return extract(data, kind=Kind.RTF, name="a.rtf")


def text_of(body: str, *, head: str = r"\ansi\ansicpg1252\deff0") -> str:
    return read(rf"{{\rtf1{head}{FONTS}{STYLES}{body}}}").text


def test_a_paragraph_is_no_heading_and_opens_no_fence() -> None:
    assert text_of(r"```\par # install\par\s1 Next\par") == "\\```\n\n\\# install\n\n# Next"
    assert text_of(r"\trowd\intbl # one\cell\row\pard after\par") == "\\# one\n\nafter"


def code_of(rtf: str | bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        read(rtf)
    return caught.value.code


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"one\par two\line three\par", "one\n\ntwo\nthree"),
        ("one\\\ntwo\\\r\nthree", "one\n\ntwo\n\nthree"),
        (r"{\b bo}ld and {\i italic}, in\plain between", "bold and italic, inbetween"),
        (
            r"tab\tab stop \emdash dash \{a\} \\ b\~c no\_break soft\-hyphen",
            "tab\tstop —dash {a} \\ b\u00a0c no-break softhyphen",
        ),
        (r"{\v hidden}shown{\deleted gone}\v hidden\v0  again", "shown again"),
        (r"see{\field{\*\fldinst HYPERLINK 'https://x.example/'}{\fldrslt  the page}}.", "see the page."),
        (r"{\*\unknown nothing}{\*\bkmkstart name}text", "text"),
        (r"{\pict\wmetafile8 0102ff}{\object\objemb{\*\objdata 0102}{\result shown}}", "shown"),
        (r"x\bin5 {}\}}y", "xy"),
        (r"\u26085\par Text", "日\n\nText"),
        (r"{\upr{\bkmkx ?}{\*\ud{\u26085?\u26412?}}} end", "日本 end"),
        (r"{\mmath{\*\moMath{\mr E=mc}{\msSup{\me{\mr x}}{\msup{\mr 2}}}}}", "E=mcx2"),
    ],
)
def test_what_becomes_of(body: str, text: str) -> None:
    assert text_of(body) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"caf\'e9 \'80", "café €"),
        (r"\f1 \'cf\'f0\'e8\'e2\'e5\'f2\f0  \'e9", "Привет é"),
        (r"{\f1 \'cf}\'e9", "Пé"),
        (r"\f3 za\'bf\'f3\'b3\'e6", "zażółć"),
        (r"\f2 \'93\'fa\'96\'7b\'83A\'83\'5c", "日本アソ"),  # the second byte of ア is written as a letter
        (r"\u26085?\u26412?", "日本"),
        (r"\uc2\u26085\'93\'fa\u26412xy{\uc0\u65}B\uc1 \u8364 \'80!", "日本AB€!"),
        (r"\uc0\u55357\u56832", "😀"),
        (r"\u-10179?\u-8704?", "😀"),
        (r"a\u55357?b", "a\ufffdb"),
        (r"a\u9999999999?b\u-99999?c", "abc"),
    ],
)
def test_characters_in_any_encoding(body: str, text: str) -> None:
    assert text_of(body) == text


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        (r"\ansi\ansicpg1251\deff0", r"\'cf\'f0\'e8", "При"),
        (r"\ansi\ansicpg1251\deff0", "\u00cf\u00f0", "Пр"),  # bytes without an escape
        (r"\ansi\deff1", r"\'cf\'f0", "Пр"),
        (r"\mac", r"\'8e", "é"),
        (r"\pc", r"\'82", "é"),
        (r"\ansi\ansicpg65001", r"\'c3\'a9", "é"),
        (r"\ansi\ansicpg99999", r"\'e9", "é"),
        (r"\ansi\ansicpg10007", r"\'8f", "П"),
    ],
)
def test_the_encoding_of_the_document(head: str, body: str, text: str) -> None:
    assert text_of(body, head=head) == text


def test_headings_by_style_and_by_outline_level() -> None:
    body = (
        r"\pard\s3 Report\par\pard\s1 First\par\pard body\par\pard\s2 Second\par"
        r"\pard\outlinelevel2 Third\par\pard\s11 none\par\pard\s9 none\par"
    )
    assert text_of(body) == "# Report\n\n# First\n\nbody\n\n## Second\n\n### Third\n\nnone\n\nnone"


def test_lists_keep_their_labels() -> None:
    body = (
        r"\pard{\listtext\'b7\tab}\ilvl0 one\par{\listtext o\tab}\ilvl1 two\par\pard{\pntext 3.\tab}three\par"
        r"\pard{\listtext a)\tab}four\par\pard\bullet\tab typed\par\pard 1.\tab typed too\par\pard end\par"
    )
    assert text_of(body) == "- one\n  - two\n3. three\n- a) four\n- typed\n1. typed too\n\nend"


def test_tables() -> None:
    row = r"\trowd\cellx100\cellx200\pard\intbl {0}\cell {1}\cell\row"
    rows = "".join(row.format(*cells) for cells in (("Name", "Price"), (r"A|B\par second", ""), ("C", r"{\b 3}")))
    assert text_of(rf"before\par{rows}\pard after\par") == (
        "before\n\n| Name | Price |\n| --- | --- |\n| A\\|B second |  |\n| C | 3 |\n\nafter"
    )


def test_two_tables_are_kept_apart_and_one_column_is_no_table() -> None:
    row = r"\trowd\pard\intbl {0}\cell {1}\cell\row"
    body = row.format("a", "b") + r"\pard\par" + row.format("c", "d") + r"\pard\par\trowd\intbl boxed\cell\row\pard"
    assert text_of(body) == "| a | b |\n| --- | --- |\n\n| c | d |\n| --- | --- |\n\nboxed"


def test_a_table_within_a_cell_gives_its_words() -> None:
    inner = r"\itap2 in\nestcell side\nestcell{\*\nesttableprops\trowd\nestrow}{\nonesttables\par}"
    assert text_of(rf"\trowd\pard\intbl{inner}\cell two\cell\row") == "| in side | two |\n| --- | --- |"


def test_a_table_without_its_last_marks() -> None:
    assert text_of(r"Fax\cell Phone\cell") == "| Fax | Phone |\n| --- | --- |"


def test_notes_comments_margins_and_text_boxes() -> None:
    body = (
        r"{\header Draft of May\par}{\header Draft of May\par}{\footer {\field{\fldrslt 7}}\par}"
        r"Text{\footnote\pard\chftn{} the note\par} goes"
        r"{\*\atnid x}{\*\atnauthor Ada}{\*\annotation\pard check this\par}"
        r"{\shp{\*\shpinst{\sp{\sn name}{\sv value}}{\shptxt\pard boxed\par}}{\shprslt{\*\do{\dptxbxtext boxed\par}}}}"
        r" on\par next\par"
    )
    assert text_of(body) == (
        "Text[^1] goes on\n\nboxed\n\nnext\n\n[^1]: the note\n\nComment (Ada): check this\n\nDraft of May"
    )


def test_metadata() -> None:
    info = r"{\info{\title Caf\'e9 \u26085?}{\author Imogen Vasquez}{\subject Harbour}{\operator x}{\creatim\yr2026}}"
    document = read(rf"{{\rtf1\ansi{info}text}}")
    assert document.text == "text"
    assert document.syntax == "markdown"
    assert document.metadata == {"title": "Café 日", "author": "Imogen Vasquez", "subject": "Harbour"}


def test_what_follows_the_document_is_not_part_of_it() -> None:
    assert read(r"{\rtf1 text}" + "\0}} junk {").text == "text"


@pytest.mark.parametrize(
    ("rtf", "code"),
    [
        (r"{\rtf1\ansi{\pict 0102}}", "no_text"),
        (r"{\rtf1}", "no_text"),
        ("plain text", "corrupt"),
        (b"\xd0\xcf\x11\xe0 no RTF", "corrupt"),
        (rb"{\rtf1 " + b"{" * (MAX_DEPTH + 1), "corrupt"),
        (" \n", "empty"),
    ],
)
def test_each_failure_has_its_code(rtf: str | bytes, code: str) -> None:
    assert code_of(rtf) == code


def test_a_document_cut_off_anywhere_is_read_up_to_there() -> None:
    whole = rf"{{\rtf1\ansi{FONTS}{STYLES}" + r"\pard\intbl words{\b here}\cell\row\pard{\footnote note}caf\'e9\par" * 9
    for twentieth in range(1, 20):
        outcome = outcome_of(whole[: len(whole) * twentieth // 20].encode())
        assert outcome in ("read", "no_text")
    document = read(whole)
    assert "café" in document.text
    assert document.metadata["parts_failed"] == ["end of the document"]


def test_hostile_documents_take_time_in_proportion() -> None:
    """Each of these took striprtf minutes, or ended it."""
    for body in (
        r'{\field{\*\fldinst{HYPERLINK "a" ' * 2_000,
        r"{\fonttbl" + r"\f1" * 100_000 + "}",
        r"{\pict\bin9999999999 x",
        r"{\pict \bin-3 x}" * 10_000,
        r"\'" * 100_000,
        r"\u" * 100_000 + r"\uc" * 100_000,
        "}" * 100_000,
        r"\cell\row\nestcell\nestrow" * 10_000,
    ):
        assert outcome_of(rf"{{\rtf1 x{body}".encode()) in ("read", "corrupt")


PIECES = (
    *(
        "{",
        "}",
        "\\",
        "\\*",
        "\\par ",
        "\\cell ",
        "\\row ",
        "\\intbl ",
        "\\pard ",
        "\\u8364 ?",
        "\\uc0 ",
        "\\'e9",
        "\\'",
    ),
    *("\\bin3 ", "\\f2 ", "\\ansicpg932 ", "\\fonttbl ", "\\stylesheet ", "\\s1 ", "\\footnote ", "\\upr ", "\\ud "),
    *(
        "\\title ",
        "\\shptxt ",
        "\\listtext ",
        "\\v ",
        "\\fcharset128 ",
        "\\u-10179 ?",
        "\\pict ",
        "\\trowd ",
        "x",
        "\n",
    ),
)


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_sequence_of_tokens_gives_a_document_or_a_reason(pieces: list[str]) -> None:
    assert outcome_of(f"{{\\rtf1 {''.join(pieces)}".encode()) in ("read", "no_text")


def test_a_unicode_copy_outside_its_group_belongs_to_what_is_around() -> None:
    assert text_of(r"a {\upr{ansi}\ud uni} b") == "a uni b"
    assert text_of(r"a {\upr{ansi}\ud{uni}} b") == "a uni b"
    assert text_of(r"a{\footnote note {\upr{ansi}\ud uni}} b") == "a[^1] b\n\n[^1]: note uni"
    assert text_of(r"first{\fonttbl {\upr \ud lost} Times;} last") == "first last"


GROUPS = ("", "\\footnote ", "\\shptxt ", "\\*\\annotation ", "\\result ", "\\b ")
BODY = (
    "alpha",
    "beta ",
    "\\par ",
    "\\cell ",
    "\\row ",
    "\\intbl ",
    "\\pard ",
    "\\nestcell ",
    "\\s1 ",
    "\\line ",
    "\\page ",
)


def group(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = st.tuples(st.sampled_from(GROUPS), st.lists(inner, max_size=5))
    return made.map(lambda parts: f"{{{parts[0]}{''.join(parts[1])}}}")


@given(st.recursive(st.sampled_from(BODY), group, max_leaves=30))
def test_no_word_is_lost_or_doubled(body: str) -> None:
    text = text_of(f"first {body}")
    assert [text.count(word) for word in ("alpha", "beta")] == [body.count(word) for word in ("alpha", "beta")]


def outcome_of(data: bytes) -> str:
    try:
        text = read(data).text
    except ExtractError as error:
        return error.code
    text.encode("utf-8")
    return "not clean" if "\0" in text or "\r" in text else "read"


@given(st.text(st.characters(categories=["L", "N", "P", "S"], max_codepoint=0x1FFFF), min_size=1, max_size=40))
def test_any_text_comes_through_its_escapes(text: str) -> None:
    units = text.encode("utf-16-le")
    numbers = [int.from_bytes(units[at : at + 2], "little", signed=True) for at in range(0, len(units), 2)]
    assert text_of("+" + "".join(f"\\u{number}?" for number in numbers) + "+") == f"+{text}+"

"""Tokens of texts, terms of questions, and marked snippets."""

from __future__ import annotations

import re
import threading
import unicodedata

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.text_query import Term, terms
from storage.tokenize import Highlighter, highlight, index_tokens, query_terms
from storage.words import ASCII_WORD, WORD, fold, normalise, normalise_with_places, piece_size, words_of

MIXED = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("abAB01 -_.,'\"+#\0\n\u200b\u00ad\u0301éßйІखि東京ひガﾞกำ한글ﬁ™²"),
    ),
    max_size=60,
)


def tokens(text: str) -> list[str]:
    return index_tokens(text).split(" ")


def expressions(question: str) -> list[str]:
    return [term.expression for term in terms(question)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Running runs", "run run"),
        ("ADR-016", "adr 016"),
        ("foo_bar", "foo bar"),
        ("getUserById", "getuserbyid get user by id"),
        ("PDFParser URLs utf8", "pdfparser url utf8 pdf parser utf 8"),
        ("C++ and C#", "c\ue000\ue000 and c\ue001 c c"),
        ("3.14", "3 14"),
        ("1,000,000", "1 000 000 1000000"),
        ("node.js", "node js"),
        ("author's don't", "author don"),
        ("l'avion", "l avion"),
        ("OpenVINO™", "openvino open vino"),
        ("10²", "10 2"),
        ("Straße Müller", "strass muller"),
        ("ｆｏｏ＿ｂａｒ ﬁt", "foo bar fit"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("ёлка красивый", "елк красив"),
        ("किताबें किताब", "किताब किताब"),
        ("全文检索", "全文 文检 检索 索"),
        ("ภาษาไทย", "ภาษ าษา ษาไ าไท ไทย ทย ย"),
        ("검색 엔진", "검색 색 엔진 진"),
        ("١٢٣", "123"),
        ("😀 €5", "5"),
    ],
)
def test_tokens_of_a_text(text: str, expected: str) -> None:
    assert index_tokens(text) == expected


@given(MIXED)
def test_composed_and_decomposed_text_have_the_same_tokens(text: str) -> None:
    assert index_tokens(unicodedata.normalize("NFC", text)) == index_tokens(unicodedata.normalize("NFD", text))


@given(MIXED)
def test_fts5_splits_the_tokens_where_we_do(text: str) -> None:
    made = index_tokens(text)
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE t USING fts5 (x, tokenize = 'ascii')")
    db.execute("CREATE VIRTUAL TABLE v USING fts5vocab (t, instance)")
    db.execute("INSERT INTO t VALUES (?)", (made,))
    found = [token for (token,) in db.execute("SELECT term FROM v ORDER BY offset")]
    assert found == made.split()


@given(MIXED)
def test_tokens_hold_nothing_that_means_something_to_fts5(text: str) -> None:
    assert not re.search(r"[\x00-\x1f!-/:-@\[-`{-\x7f]", index_tokens(text))


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_ascii_text_is_split_as_any_other(text: str) -> None:
    assert ASCII_WORD.findall(text) == WORD.findall(text)


@given(MIXED, MIXED)
def test_a_word_keeps_its_tokens_in_any_text(left: str, right: str) -> None:
    alone = sorted([*query_terms(left), *query_terms(right)])
    assert sorted(query_terms(f"{left}\n{right}")) == alone


def test_no_text_can_forge_a_symbol_or_a_scope() -> None:
    assert tokens("c\ue000\ue000 \ue0107") == ["c", "7"]


@given(MIXED)
def test_folding_twice_changes_nothing(text: str) -> None:
    folded = [fold(word) for word in words_of(text)]
    assert [fold(word) for word in folded] == folded


def test_a_long_word_counts_by_its_beginning() -> None:
    assert tokens("x" * 300_000) == ["x" * 64]


def test_many_threads_get_the_same_tokens() -> None:
    texts = [f"Word{n} getUser{n}ById running" for n in range(2_000)]
    expected = [index_tokens(text) for text in texts]
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([index_tokens(t) for t in texts])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the list of files?", ['"list"', '"file"']),
        ("to be or not to be", ['"to"', '"to"', '"be"', '"be"', '"or"', '"not"']),
        ("the WHO and who", ['"who"']),
        ("flow flow of air", ['"flow"', '"flow"', '"air"']),
        ("ADR-016", ['"adr"', '"016"', '"adr 016"']),
        ("high-speed", ['"high"', '"speed"']),
        ("foo_bar", ['"foo"', '"bar"', '"foo bar"']),
        ("version 3.14", ['"version"', '"3 14"']),
        ("C++", ['"c\ue000\ue000"']),
        ("getUserById", ['"getuserbyid"', '"get user by id"']),
        ('the "state of the art" today', ['"state of the art"', '"today"']),
        ("東", ['"東" *']),
        ("東京タワー", ['"東京"', '"京タ"', '"タワ"', '"ワー"']),
        ("ไท", ['"ไท" *']),
        ('"東京タ"', ['"東京 京タ"']),
        ('"see 東"', ['"see 東" *']),
        ("", []),
        ('" \0 !?', []),
    ],
)
def test_terms_of_a_question(question: str, expected: list[str]) -> None:
    assert expressions(question) == expected


def test_a_term_counts_eight_times_at_most() -> None:
    assert terms("x " * 1_000) == [Term(("x",))] * 8


@given(MIXED)
def test_places_rebuild_the_text(text: str) -> None:
    normal, places = normalise_with_places(text)
    assert len(places) == len(normal) + 1
    assert places == sorted(places)
    assert places[-1] == len(text)


@given(MIXED, MIXED)
def test_a_snippet_without_its_marks_is_part_of_the_text(text: str, question: str) -> None:
    shown = highlight(text, question, window_tokens=8).replace("<mark>", "").replace("</mark>", "")
    assert shown.removeprefix("…").removesuffix("…") in text


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma", "東京"]), min_size=1, max_size=80))
def test_a_snippet_has_at_most_its_words_and_marks_what_was_asked(words: list[str]) -> None:
    shown = highlight(" ".join(words), "beta 東京", window_tokens=10)
    units = sum(len(word) if piece_size(word) else 1 for word in re.findall(r"\w+", shown.replace("mark>", ">")))
    assert units <= 10
    assert ("beta" in words or "東京" in words) == ("<mark>" in shown)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        ("Runners ran.", "runner", "<mark>Runners</mark> ran."),
        ("call getUserById now", "user", "call <mark>getUserById</mark> now"),
        ("in C++ and C", "C++", "in <mark>C++</mark> and C"),
        ("e\u0301te\u0301 ici", "ete", "<mark>e\u0301te\u0301</mark> ici"),
        ("これは東京タワーだ", "東京タワー", "これは<mark>東京タワー</mark>だ"),
        ("これは東京だ", "京", "これは東<mark>京</mark>だ"),
        ("ｶﾞｽ代", "ガス", "<mark>ｶﾞｽ</mark>代"),
        ("state of the art", '"state of the art"', "<mark>state</mark> of the <mark>art</mark>"),
        ("<b>bold</b>", "bold", "<b><mark>bold</mark></b>"),
        ("nothing here", "zebra", "nothing here"),
        ("", "x", ""),
    ],
)
def test_what_is_marked(text: str, question: str, expected: str) -> None:
    assert highlight(text, question) == expected


def test_a_snippet_is_cut_around_what_was_found() -> None:
    text = "word " * 100 + "needle " + "word " * 100
    assert highlight(text, "needle", window_tokens=5) == "…word word <mark>needle</mark> word word…"


def test_one_highlighter_serves_many_texts() -> None:
    marks = Highlighter("cats")
    assert [marks.snippet(text) for text in ("a cat", "no dog")] == ["a <mark>cat</mark>", "no dog"]


def test_normalising_leaves_plain_text_alone() -> None:
    text = "Plain, ASCII text."
    assert normalise(text) is text


@given(st.text(st.sampled_from("abcdeghiklmnoprstuvyABY"), min_size=1, max_size=12))
def test_stemming_keeps_the_first_letter_of_a_plain_word(word: str) -> None:
    assert query_terms(word.capitalize())[0][0] == word[0].lower()


@given(MIXED, MIXED)
def test_what_a_question_finds_is_marked(text: str, question: str) -> None:
    asked = {token for term in terms(question) if len(term.tokens) == 1 and not term.prefix for token in term.tokens}
    if len(text) < 20 and asked & set(query_terms(text)):
        assert "<mark>" in highlight(text, question)

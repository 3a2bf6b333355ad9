"""Tokens of texts, terms of questions, and marked snippets."""

from __future__ import annotations

import re
import sys
import threading
import unicodedata
from collections.abc import Iterator

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from snowballstemmer.english_stemmer import EnglishStemmer
from snowballstemmer.hindi_stemmer import HindiStemmer
from snowballstemmer.russian_stemmer import RussianStemmer

from storage import tokenize
from storage.text_query import FTS5_ITEM, Term, fts5_terms, required, terms
from storage.tokenize import Highlighter, index_tokens
from storage.words import (
    ASCII_WORD,
    WORD,
    analyse,
    ascii_words,
    fold,
    normalise,
    normalise_with_places,
    piece_size,
    split_words,
    stem,
    words_of,
)

MIXED = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("abAB01 -_.,'\"+#\0\n\u200b\u00ad\u0301éßйІखि東京ひガﾞกำ한글ﬁ™²"),
    ),
    max_size=60,
)


def tokens(text: str) -> list[str]:
    return index_tokens(text).split(" ")


def highlight(text: str, query: str, *, window_tokens: int = 32) -> str:
    return Highlighter(query, window_tokens=window_tokens).snippet(text)


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
        ("v2.5.1 v2 3.14", "v2 5 1 v2 3 14 v 2 5 1 v 2"),
        ("3.14M 2.4GHz TLSv1.3", "3 14m 2 4ghz tlsv1 3 3 14 m 2 4 g hz tls v 1 3"),
        ("1,234.56 EUR1,234.5 12,34.5", "1 234 56 eur1 234 5 12 34 5 1234 56 eur 1234 5"),
        ("от2.5млн 3.14# 1.2b#", "от2 5млн 3 14\ue001 1 2b\ue001 2 5 3 14 1 2 b 14 2b 2 b"),
        ("é NSv3.1 l'iOS17.2", "e nsv3 1 l ios17 2 ns v 3 1 i os 17 2"),
        ("thisIsAVeryLongNameOfX", "thisisaverylongnameofx this is a veri long name of x"),
        ("shouldDoNotDoWhenItIsNotX", "shoulddonotdowhenitisnotx should do not do when it is not x"),
        ("aGVsbGxvIHdvcmxkIGFnYW", "agvsbgxvihdvcmxkigfnyw"),
        ("node.js", "node js"),
        ("author's don't", "author don"),
        ("l'avion", "l avion"),
        ("OpenVINO™", "openvino open vino"),
        ("10²", "10 2"),
        ("5½ inch ½kg 2⅟3", "5 1 2 inch 1 2 kg 2 1 3"),
        ("step① 3⑴ 4⒈5 ㉑ ❷ H₂O", "step 1 3 1 4 1 5 21 ❷ h2o h 2 o"),
        ("葛\U000e0100城市の地図 葛\ufe00城", "葛城 城市 市の の地 地図 図 葛城 城"),
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


@pytest.mark.parametrize("character", [chr(code) for code in (0x34F, 0x115F, 0x17B4, 0x180B, 0xFE0F, 0xE0100, 0xE01EF)])
def test_what_is_never_shown_is_nothing(character: str) -> None:
    for text in ("葛城", "word", "ไทย", "ᠮᠤ"):
        assert index_tokens(text[:1] + character + text[1:]) == index_tokens(text)


def test_no_numeral_joins_the_number_beside_it() -> None:
    for character in map(chr, range(0x80, sys.maxunicode)):
        kind = unicodedata.decomposition(character).partition(" ")[0]
        if kind not in ("", "<sub>", "<wide>", "<font>") and re.search(
            "[0-9]", unicodedata.normalize("NFKC", character)
        ):
            assert index_tokens(f"5{character}").split()[0] == "5", hex(ord(character))


@given(MIXED, MIXED)
def test_a_word_keeps_its_tokens_in_any_text(left: str, right: str) -> None:
    alone = sorted([*index_tokens(left).split(), *index_tokens(right).split()])
    assert sorted(index_tokens(f"{left}\n{right}").split()) == alone


BESIDE = st.text(st.sampled_from("aVGé日жX_ -'#+"), max_size=6)
DOTTED = st.lists(st.integers(0, 12_345).map(str), min_size=2, max_size=4).map(".".join)


@given(BESIDE, DOTTED, BESIDE)
@example("", "3.14", "é#")
def test_a_dotted_number_is_found_and_marked_whatever_touches_it(left: str, number: str, right: str) -> None:
    text = f"2 {left}{number}{right} 5"
    (asked,) = terms(number)
    assert f" {' '.join(asked.tokens)} " in f" {index_tokens(text)} "
    assert highlight(text, number).count("<mark>") >= len(asked.tokens)


def test_no_text_can_forge_a_symbol_or_a_scope() -> None:
    assert tokens("c\ue000\ue000 \ue0107") == ["c", "7"]


@given(MIXED)
def test_folding_twice_changes_nothing(text: str) -> None:
    folded = [fold(word) for word in words_of(text)]
    assert [fold(word) for word in folded] == folded


@given(
    st.one_of(
        st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20),
        st.text("абвгдежзийклмнопрстуфхцчшщъыьэюя", min_size=1, max_size=20),
        st.text("कखगघचछजझटठडढतथदधनपफबभमयरलवशषसहािीुूेैोौंँ", min_size=1, max_size=20),
    ),
    st.sampled_from(["", "ings", "ational", "fulness", "ами", "ейших", "ностью", "ियों", "ाओं"]),
)
@settings(max_examples=500)
def test_words_are_stemmed_by_the_rules_of_snowball(beginning: str, ending: str) -> None:
    word = fold(beginning + ending)[:64]
    first = word[0]
    rules = EnglishStemmer if word.isascii() else RussianStemmer if "\u0400" <= first <= "\u04ff" else HindiStemmer
    written = word.isascii() or "\u0400" <= first <= "\u04ff" or "\u0900" <= first <= "\u097f"
    assert stem(word) == (rules().stemWord(word) if written else word)


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
        ("v2.5", ['"v2"', '"v 2"', '"5"', '"v2 5"', '"2 5"']),
        ("foo.v2.5", ['"foo"', '"v2"', '"v 2"', '"5"', '"foo v2 5"']),
        ("1,234.56", ['"1 234"', '"1234"', '"56"', '"1 234 56"', '"1234 56"']),
        ("1.3.6.1.4.1.311.21.20", ['"1 3 6 1 4 1 311 21 20"']),
        ("3,4", ['"3"', '"4"', '"3 4"']),
        ("1,2,3,4,5,6,7,8,9", [f'"{number}"' for number in range(1, 10)]),
        ('5" x 7"', ['"5"', '"x"', '"7"']),
        ('the 5" nail and "oak board"', ['"oak board"', '"5"', '"nail"']),
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


@given(st.one_of(MIXED, st.text(st.sampled_from("12.,-_ \"ab'"), max_size=60)))
def test_a_question_with_a_word_has_terms(question: str) -> None:
    assert bool(terms(question)) == bool(split_words(normalise(question)))


@given(st.text(st.sampled_from("12.,-_ \"ab'A東ไ"), max_size=60))
def test_what_is_required_is_what_is_asked(question: str) -> None:
    asked = [term for alternatives in required(question) for term in alternatives]
    assert list(dict.fromkeys(asked)) == list(dict.fromkeys(terms(question)))


def test_spellings_of_one_word_are_alternatives() -> None:
    found = [[term.expression for term in alternatives] for alternatives in required("1,234 getUserById ADR-016 it")]
    assert found == [
        ['"1 234"', '"1234"'], ['"getuserbyid"', '"get user by id"'], ['"adr"'], ['"016"'], ['"adr 016"'],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("red AND umbr*", ['"red"', '"umbr" *']),
        ('"green apple" OR ^wine', ['"green appl"', '"wine"']),
        ("red NOT wine AND NOT NEAR(a b, 3) OR heading : fig", ['"red"', '"fig"']),
        ("a NOT (b OR (c d)) e NOT body : (f) g", ['"a"', '"e"', '"g"']),
        ("NEAR(red apple, 3) NOT", ['"red"', '"appl"']),
        ("NOT ^x y", ['"y"']),
        ("red NOT um* y *", ['"red"', '"y" *']),
        ("(", []),
    ],
)
def test_terms_of_a_query_in_the_language_of_fts5(query: str, expected: list[str]) -> None:
    assert [term.expression for term in fts5_terms(query)] == expected


@given(st.text(st.sampled_from('ab "*():^+-{},1\n東')))
def test_nothing_of_a_query_in_the_language_of_fts5_is_passed_over(query: str) -> None:
    items = [match[0] for match in FTS5_ITEM.finditer(query)]
    assert "".join(items) == query
    fts5_terms(query)


def test_white_space_is_looked_through_once() -> None:
    assert [match[0] for match in FTS5_ITEM.finditer("a" + " " * 8_000 + "b")] == ["a", " " * 8_000, "b"]


def test_a_term_counts_eight_times_at_most() -> None:
    assert terms("x " * 1_000) == [Term(("x",))] * 8


@given(MIXED)
def test_places_rebuild_the_text(text: str) -> None:
    normal, places = normalise_with_places(text)
    assert len(places) == len(normal) + 1
    assert places == sorted(places)
    assert places[-1] == len(text)


SPLIT = st.one_of(st.sampled_from("aB0,'+#-_. \n\x1f\x00"), st.sampled_from(["1,234", "12,3456,789", "don't", "C++"]))


@given(st.lists(SPLIT, max_size=15).map("".join))
def test_a_split_text_has_the_words_that_the_pattern_finds(text: str) -> None:
    assert ascii_words(text) == ASCII_WORD.findall(text)


ENDINGS = ["", "s", "es", "ies", "y", "ying", "ed", "eed", "ing", "ly", "iness", "ational", "'s", "'", "2", "++"]
WORDS = st.builds(
    lambda first, rest, ending, form: form(first + rest + ending),
    st.sampled_from("adlyt"),
    st.text(st.sampled_from("aeiydtbs"), max_size=3),
    st.sampled_from(ENDINGS),
    st.sampled_from([str.lower, str.upper, str.capitalize, str.swapcase]),
)


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=30))
def test_no_word_that_was_asked_for_is_passed_over(asked: list[str], words: list[str]) -> None:
    question = " ".join(asked)
    found_terms = terms(question)
    alone = {term.tokens[0] for term in found_terms if len(term.tokens) == 1}  # asked for, stop word or not
    wanted = {token for term in found_terms for token in term.tokens} - (tokenize._stopped() - alone)
    for text in (" ".join(words), "é " + " ".join(words)):
        found = words_of(text)
        marked = [any(token in wanted for part in analyse(word) for token in part) for word in found]
        units = Highlighter(question)._read(text)
        assert [token is not None for token in units.asked] == marked or not wanted
        assert [text[start:end] for start, end in units.spans(0, len(found))] == found


def test_words_whose_second_letter_changes_are_marked() -> None:
    assert (
        highlight("dying, lying or tying", "die lie tie")
        == "<mark>dying</mark>, <mark>lying</mark> or <mark>tying</mark>"
    )


def test_words_whose_third_letter_changes_are_marked() -> None:
    assert highlight("skies, cried or icing", "sky cry ice") == (
        "<mark>skies</mark>, <mark>cried</mark> or <mark>icing</mark>"
    )


def test_a_prefix_that_ends_in_a_stop_word_marks_what_goes_on_behind_it() -> None:
    marks = Highlighter('"red the"*', syntax="fts5")
    assert marks.snippet("red theatre") == "<mark>red</mark> <mark>theatre</mark>"


@given(MIXED, MIXED)
def test_a_snippet_without_its_marks_is_part_of_the_text(text: str, question: str) -> None:
    shown = highlight(text, question, window_tokens=8).replace("<mark>", "").replace("</mark>", "")
    assert shown.removeprefix("…").removesuffix("…") in text


@given(MIXED, MIXED)
def test_a_marked_text_without_its_marks_is_the_text(text: str, question: str) -> None:
    assert Highlighter(question).marked(text).replace("<mark>", "").replace("</mark>", "") == text


def test_a_text_is_marked_to_its_end() -> None:
    words = "lorem ipsum needle " * 10_000  # looked through in stretches, as is a word that is longer than one
    assert Highlighter("needle").marked(words) == words.replace("needle", "<mark>needle</mark>")
    assert Highlighter("東京").marked("東京" * 40_000) == f"<mark>{'東京' * 40_000}</mark>"
    assert Highlighter("needle").marked("x" * 120_000) == "x" * 120_000


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
        ("now v2.5.1, 5", "2.5.1", "now <mark>v2</mark>.<mark>5</mark>.<mark>1</mark>, <mark>5</mark>"),
        ("Python3.14 at $3.14M", "3.14", "<mark>Python3</mark>.<mark>14</mark> at $<mark>3</mark>.<mark>14M</mark>"),
        ("is 1,234.56 euros", "1234.56", "is <mark>1,234</mark>.<mark>56</mark> euros"),
        ("из от2.5млн", "2.5", "из <mark>от2</mark>.<mark>5млн</mark>"),
        ("из 5млн", "2 5", "из 5млн"),
        ("(2.5)", "v2.5", "(<mark>2</mark>.<mark>5</mark>)"),
        ("returnNotFoundWhenUserDoesNotExistNow()", "user", "<mark>returnNotFoundWhenUserDoesNotExistNow</mark>()"),
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


def test_what_a_query_in_the_language_of_fts5_finds_is_marked() -> None:
    marks = Highlighter('umbr* AND "red wine" NOT and', syntax="fts5")
    assert marks.snippet("umbrellas and red wine") == "<mark>umbrellas</mark> and <mark>red</mark> <mark>wine</mark>"


def test_a_snippet_is_cut_around_what_was_found() -> None:
    text = "word " * 100 + "needle " + "word " * 100
    assert highlight(text, "needle", window_tokens=5) == "…word word <mark>needle</mark> word word…"


class Looked(frozenset[str]):
    """What may be looked up, and not gone through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("gone through")


def test_what_a_snippet_costs_does_not_grow_with_the_question() -> None:
    marks = Highlighter("東 京 ไ ไท")
    marks._prefixes = Looked(marks._prefixes)
    marks._tokens = Looked(marks._tokens)
    assert marks.snippet("甲東乙 ขไทยไข") == "甲<mark>東</mark>乙 ข<mark>ไท</mark>ย<mark>ไ</mark>ข"


def test_a_snippet_of_a_long_message_is_where_it_was_found() -> None:
    long = "lorem ipsum " * 10_000
    assert highlight(f"{long}needle {long}", "needle", window_tokens=3) == "…ipsum <mark>needle</mark> lorem…"
    assert highlight(f"needle {long}", "needle", window_tokens=3) == "<mark>needle</mark> lorem ipsum…"
    assert highlight(f"{long}needle", "needle", window_tokens=2) == "…ipsum <mark>needle</mark>"
    assert highlight(long, "needle", window_tokens=2) == "lorem ipsum…"


@given(st.integers(0, 90), st.sampled_from(["needle", "天気", "ไทย", "C++"]), st.sampled_from(["o", "o ", "今", "ก"]))
def test_no_end_of_what_is_looked_through_hides_a_word(before: int, word: str, filler: str) -> None:
    gap = "" if piece_size(filler) else " "
    text = f"{filler * before}{gap}{word}{gap}{filler * 90}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize, "MAX_HIGHLIGHTED", 80)
        shown = highlight(text, word, window_tokens=9)
    assert word in shown.replace("<mark>", "").replace("</mark>", "")
    assert "<mark>" in shown
    assert shown.removeprefix("…").removesuffix("…").replace("<mark>", "").replace("</mark>", "") in text


def test_one_highlighter_serves_many_texts() -> None:
    marks = Highlighter("cats")
    assert [marks.snippet(text) for text in ("a cat", "no dog")] == ["a <mark>cat</mark>", "no dog"]


def test_normalising_leaves_plain_text_alone() -> None:
    text = "Plain, ASCII text."
    assert normalise(text) is text


@given(st.text(st.sampled_from("abcdeghiklmnoprstuvyABY"), min_size=1, max_size=12))
def test_stemming_keeps_the_first_letter_of_a_plain_word(word: str) -> None:
    assert index_tokens(word.capitalize())[0] == word[0].lower()


@given(MIXED, MIXED)
def test_what_a_question_finds_is_marked(text: str, question: str) -> None:
    asked = {token for term in terms(question) if len(term.tokens) == 1 and not term.prefix for token in term.tokens}
    if len(text) < 20 and asked & set(index_tokens(text).split()):
        assert "<mark>" in highlight(text, question)

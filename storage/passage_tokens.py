"""What is indexed of a passage: the tokens of its text and its headings, and how often each stands there.

Apart from the index itself (`text_index`), as a parser makes them, too, and starts the sooner the less it imports.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass

from storage.tokenize import index_tokens

HEADING_WEIGHT = 1.5
"""How often a word of a heading counts."""

STEPS = (*(step / 2 for step in range(3, 21)), 12.0, 14.0, 17.0, 20.0, 25.0, 30.0, 40.0, 50.0, 70.0, 100.0)
"""Frequencies that are told apart; what lies between counts as the lower one."""

FIRST_STEP_MARK = 0xE020
STEP_MARKS = "".join(chr(FIRST_STEP_MARK + place) for place in range(len(STEPS)))


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is indexed of one passage, made before the transaction."""

    heading: str
    body: str
    repeats: str = ""

    @property
    def length(self) -> int:
        """How many tokens there are in heading and body."""
        return len(self.heading.split()) + len(self.body.split())


def tokens_of(body: str, heading: str = "") -> Tokens:
    """Return what is indexed of a passage and the headings above it."""
    made, above = index_tokens(body), index_tokens(heading) if heading else ""
    return Tokens(above, made, _repeats(made, above))


def _repeats(body: str, heading: str) -> str:
    """Return each token that counts more than once, with the step of its frequency."""
    counts: dict[str, float] = dict(Counter(body.split()))
    for token, count in Counter(heading.split()).items():
        counts[token] = counts.get(token, 0) + HEADING_WEIGHT * count
    return " ".join([token + STEP_MARKS[_place(count)] for token, count in counts.items() if count > 1])


def step_of(count: float) -> float:
    """Return the frequency that a count is told as."""
    return STEPS[_place(count)] if count > 1 else 1.0


def _place(count: float) -> int:
    return bisect_right(STEPS, count) - 1

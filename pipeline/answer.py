"""What a search gives: hits, best first, what each leg did, and how hits are to be shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from storage.sources import Source

Mode = Literal["hybrid", "text", "vector"]


@dataclass(frozen=True, slots=True)
class Leg:
    """What one leg did: passages returned, milliseconds, and why it was degraded, if it was."""

    returned: int
    ms: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage that was found.

    score: text BM25, vector cosine, hybrid a weighted mean of the share of the highest BM25 possible and the cosine,
    at most 1; of a memory, times its factors; of a message, plus what stands beside it. Ranks count from 1 in their
    leg; None where the leg did not find it.
    file is the base name, path the whole one; also: other paths with the same bytes, and under `collapse` with the same
    text, 100 at most; container: the path of the file on disk that it lies in, such as the mail that it is attached to,
    else None.
    text[repeated:] stands at char_start:char_end; the characters that precede it repeat the head of its table.
    before and after hold the neighbours that `window` or `section` asked for; merged: ids of the passages that became
    part of this one, whose text, pages and offsets are those of all of them.
    on_disk: path, in bytes, of the file on disk that the passage is in. highlight: makes the snippet of a text;
    mark: puts the marks of one into all of a text.
    why: what the score consists of, with explain: hybrid, `text` (share of the highest BM25), `vector` (cosine;
    in its place `vector_assumed` of what has no vector: that of the average candidate) and `text_weight`; `fused`, a
    memory's factors, and what a message's `neighbours` add. And what moved the hit: `rerank_score`; `mmr_penalty`,
    taken off for its likeness to hits above.
    """

    rank: int
    score: float
    source: Source
    id: str
    file_id: str | None
    file: str | None
    path: str | None
    page_start: int | None
    page_end: int | None
    heading: str
    char_start: int
    char_end: int
    text: str
    highlight: Callable[[str], str] = field(repr=False, compare=False)
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_score: float | None
    container: str | None = None
    also: tuple[str, ...] = ()
    repeated: int = 0
    before: str = ""
    after: str = ""
    tokens: int = 0
    why: Mapping[str, float] = field(default_factory=dict[str, float])
    merged: tuple[str, ...] = ()
    on_disk: bytes | None = None
    mark: Callable[[str], str] = field(default=str, repr=False, compare=False)

    @property
    def snippet(self) -> str:
        """The part of the text that answers best, with `<mark>` around what was asked for; made when it is read."""
        return self.highlight(self.text)

    @property
    def marked(self) -> str:
        """The whole text, with `<mark>` around what was asked for; made when it is read."""
        return self.mark(self.text)

    @property
    def link(self) -> str | None:
        """A file: URL that opens the file on disk, a PDF at the page; None where there is none."""
        if self.on_disk is None:
            return None
        try:
            url = Path(os.fsdecode(self.on_disk)).as_uri()
        except ValueError:  # not the path of a file here: it is no whole one
            return None
        at_page = self.page_start is not None and self.container is None and self.on_disk.lower().endswith(b".pdf")
        return f"{url}#page={self.page_start}" if at_page else url


@dataclass(frozen=True, slots=True)
class Shape:
    """How hits are shown.

    window: passages of the file to show on either side. section: show those with the same headings, too. merge: show
    hits of one file that touch as one. max_tokens: what all hits may have together, each text counted as often as it
    is shown; a hit that does not fit with its window is left out, and sections get what the hits leave.
    """

    window: int = 0
    section: bool = False
    merge: bool = False
    max_tokens: int | None = None


PLAIN = Shape()


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of a question, best first, and what each leg did.

    notes: passages that were found and cannot be read, how many hits max_tokens had no room for, and how many files are
    still to be read; where there are no hits, what else was left out, as far as that is known.
    """

    query: str
    mode: Mode
    legs: Mapping[str, Leg]
    hits: list[Hit]
    took_ms: float
    embed_ms: float = 0.0
    notes: tuple[str, ...] = ()

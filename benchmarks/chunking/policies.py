"""Ways to cut a document into passages: ours, and what others do, each at several sizes.

A size counts the tokens of what the model is given, special tokens and heading included.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from tokenizers import Tokenizer

from pipeline.chunk import ChunkSettings, chunk, embedding_input
from pipeline.document import Document
from pipeline.structure import sentence_starts

SIZES = (256, 128)
OVERLAP = 8
"""Fixed windows and packed sentences share one part in so many with the one before, as is usual."""

FILLED_UP = ChunkSettings(target_tokens=240)
"""Ours as long as they may be, where the default leaves room for better cuts."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One passage: the range of the document it holds, and what is shown, indexed above it, and embedded."""

    start: int
    end: int
    text: str
    heading: str
    model_input: str


@dataclass(frozen=True, slots=True)
class Policy:
    """cut: a document into passages, in order. Policies of one chunker and size cut at the same places."""

    name: str
    size: int
    chunker: str
    cut: Callable[[Document], list[Piece]]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.size}"


def policies(tokenizer: Tokenizer) -> Iterator[Policy]:
    """Yield the default first, then all others; what is not installed is left out. Labels are unique."""
    for size in SIZES:
        cut = partial(by_structure, settings(size), tokenizer)
        yield Policy("structure", size, "structure", cut)
        yield Policy("packed sentences", size, "packed sentences", partial(by_sentences, size, tokenizer))
        yield Policy("fixed windows", size, "fixed windows", partial(by_windows, size, tokenizer))
        if find_spec("semantic_text_splitter"):
            yield Policy("semantic-text-splitter", size, "semantic-text-splitter", Splitter(size, tokenizer).cut)
        yield Policy("structure, heading not embedded", size, "structure", partial(without_heading, cut, index=True))
        yield Policy("structure, no heading at all", size, "structure", partial(without_heading, cut, index=False))
    yield Policy("structure", 192, "structure", partial(by_structure, settings(192), tokenizer))
    overlapping = partial(by_structure, settings(256, overlap=32), tokenizer)
    yield Policy("structure with overlap", 256, "structure with overlap", overlapping)
    yield Policy("structure, filled up", 256, "structure, filled up", partial(by_structure, FILLED_UP, tokenizer))
    yield Policy("structure", 64, "structure", partial(by_structure, settings(64), tokenizer))


def settings(size: int, overlap: int = 0) -> ChunkSettings:
    """Return our settings for a size, in the proportions of the default."""
    default = ChunkSettings()
    target = round(size * default.target_tokens / default.max_tokens)
    heading = round(size * default.heading_tokens / default.max_tokens)
    return ChunkSettings(size, target, min(default.min_tokens, target), overlap, heading)


def by_structure(settings: ChunkSettings, tokenizer: Tokenizer, document: Document) -> list[Piece]:
    """Cut as Knowlex does; see pipeline.chunk."""
    return [
        Piece(each.char_start, each.char_end, each.text, each.heading, embedding_input(each.heading, each.text))
        for each in chunk(document, tokenizer, settings)
    ]


def without_heading(cut: Callable[[Document], list[Piece]], document: Document, *, index: bool) -> list[Piece]:
    """Cut at the same places, but embed the bare text. index: the heading stays in the full text."""
    return [
        Piece(piece.start, piece.end, piece.text, piece.heading if index else "", embedding_input("", piece.text))
        for piece in cut(document)
    ]


def by_windows(size: int, tokenizer: Tokenizer, document: Document) -> list[Piece]:
    """Cut after every so many tokens, wherever that is, with an overlap."""
    offsets = tokenizer.encode(document.text, add_special_tokens=False).offsets
    free = size - tokenizer.num_special_tokens_to_add(False)
    overlap = size // OVERLAP
    starts = range(0, max(1, len(offsets) - overlap), free - overlap)
    parts = (offsets[start : start + free] for start in starts)
    return [_piece(document.text, part[0][0], part[-1][1]) for part in parts if part]


def by_sentences(size: int, tokenizer: Tokenizer, document: Document) -> list[Piece]:
    """Fill passages with whole sentences, greedily, with an overlap of sentences; blank lines end sentences."""
    text = document.text
    tokens = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    free = size - tokenizer.num_special_tokens_to_add(False)
    edges = _fine_edges(_sentence_edges(text), tokens, free)
    counts = [bisect_left(tokens, edge) for edge in edges]
    found: list[Piece] = []
    first = 0
    while first < len(edges) - 1:
        last = first + 1
        while last < len(edges) - 1 and counts[last + 1] - counts[first] <= free:
            last += 1
        found.append(_piece(text, edges[first], edges[last]))
        first = last if last == len(edges) - 1 else _reach_back(counts, first, last, size // OVERLAP)
    return [piece for piece in found if piece.text]


def _reach_back(counts: list[int], first: int, last: int, overlap: int) -> int:
    """Return the earliest edge behind `first` from which at most `overlap` tokens are repeated."""
    return next(edge for edge in range(first + 1, last + 1) if counts[last] - counts[edge] <= overlap)


_BLANK_LINES = re.compile(r"\n\s*\n\s*")


def _sentence_edges(text: str) -> list[int]:
    blank = (match.end() for match in _BLANK_LINES.finditer(text))
    return sorted({0, len(text), *sentence_starts(text, 0, len(text)), *blank})


def _fine_edges(edges: list[int], tokens: list[int], free: int) -> list[int]:
    """Add edges inside sentences that are too long, at every `free` tokens."""
    found = edges[:1]
    for end in edges[1:]:
        within = range(bisect_left(tokens, found[-1]) + free, bisect_left(tokens, end), free)
        found += [tokens[token] for token in within if tokens[token] > found[-1]]
        found.append(end)
    return found


class Splitter:
    """The `semantic-text-splitter` package, which knows Markdown and plain text."""

    def __init__(self, size: int, tokenizer: Tokenizer) -> None:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        capacity = size - tokenizer.num_special_tokens_to_add(False)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, capacity)
        self._plain = TextSplitter.from_huggingface_tokenizer(tokenizer, capacity)

    def cut(self, document: Document) -> list[Piece]:
        """Cut a document with it."""
        splitter = self._markdown if document.syntax == "markdown" else self._plain
        found = splitter.chunk_indices(document.text)
        return [_piece(document.text, start, start + len(part)) for start, part in found if part.strip()]


def _piece(text: str, start: int, end: int) -> Piece:
    part = text[start:end]
    bare = part.strip()
    start += len(part) - len(part.lstrip())
    return Piece(start, start + len(bare), bare, "", bare)

"""Cut a document into passages that fit the embedding model, at the places a reader would choose.

The text is tokenised once, in blocks. `pipeline.structure` (for source code, `pipeline.code_structure`) says where
cuts may fall and how good each is; stretches too long for one chunk get finer places, down to characters. Then the
cheapest way through all places is found by dynamic programming over cost(cut) + cost(size) + cost(crossing a
heading), as Knuth and Plass break lines ("Breaking Paragraphs into Lines", 1981). Every step is linear in the text.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import accumulate, pairwise, takewhile
from typing import NamedTuple

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.code_structure import find_code_structure, opens_definition
from pipeline.document import Chunk, Document, Page
from pipeline.structure import (
    Cut,
    Heading,
    Table,
    bare_title,
    clause_starts,
    find_structure,
    parts_a_character,
    sentence_starts,
    whole_character,
    word_starts,
)
from storage.errors import UsageError

CHUNKER_VERSION = 2
"""Raised with every change that moves a chunk's edges, its heading or its embedding input."""

UNMARKED_TOKENIZER = "3b415bfa886ec6a3"
"""The default model's, by `model_files.tokenizer_hash`. It is in no fingerprint, so that what was cut by it before
fingerprints knew tokenizers need not be cut anew."""

CHARS_PER_TOKEN = 8
"""No chunk is longer than this times max_tokens: WordPiece calls a word of any length one [UNK]."""

HEADING_SEPARATOR = " > "


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """How long chunks are, in tokens of the embedding model.

    max_tokens: the model's limit; special tokens and the heading count. Leave out a prompt's tokens.
    target_tokens: the length aimed at; max_tokens is only used up where that saves a bad cut.
    min_tokens: shorter passages join a neighbour, even across a heading.
    overlap_tokens: at most this much of a chunk is repeated at the start of the next of its section.
    heading_tokens: longest heading path; longer ones lose their upper levels. 0 leaves headings out.
    Raises UsageError where they contradict each other.
    """

    max_tokens: int = 256
    target_tokens: int = 200
    min_tokens: int = 32
    overlap_tokens: int = 0
    heading_tokens: int = 48

    def __post_init__(self) -> None:
        if self.max_tokens < 32:
            raise UsageError(f"max_tokens is {self.max_tokens}: too few to hold a sentence; set 32 or more")
        if not 0 < self.min_tokens <= self.target_tokens <= self.max_tokens:
            raise UsageError(
                f"min_tokens {self.min_tokens}, target_tokens {self.target_tokens}, max_tokens {self.max_tokens}:"
                " must be above 0 and ascend; set them in that order"
            )
        if self.heading_tokens < 0 or self.overlap_tokens < 0:
            raise UsageError("heading_tokens or overlap_tokens is negative; set 0 to switch it off")
        if self.heading_tokens + self.overlap_tokens > self.max_tokens // 2:
            raise UsageError(
                f"heading_tokens {self.heading_tokens} and overlap_tokens {self.overlap_tokens} take more than half"
                f" of max_tokens {self.max_tokens}; lower them"
            )

    def fingerprint(self, tokenizer: str = UNMARKED_TOKENIZER) -> str:
        """16 hex digits that change with any setting, with CHUNKER_VERSION and with the tokenizer.

        tokenizer: `model_files.tokenizer_hash` of the model.
        """
        marks = () if tokenizer == UNMARKED_TOKENIZER else (tokenizer,)
        identity = repr((CHUNKER_VERSION, *astuple(self), *marks))
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


def chunk(document: Document, tokenizer: Tokenizer, settings: ChunkSettings) -> list[Chunk]:
    """Cut a document into chunks, in order; none for a document of white space.

    Every visible character lies in a chunk; without overlap, in exactly one. `embedding_input` of each, with the
    special tokens, has at most `settings.max_tokens` tokens. `Chunk.heading` is already shortened to
    `settings.heading_tokens`; it is the path of all that the chunk holds, so that a chunk of several short
    sections carries what is above them all. A chunk that starts below a table's head repeats it
    (`Chunk.repeated`), unless the head takes more than a quarter of a chunk.
    tokenizer: the embedding model's, without truncation and padding, or UsageError is raised.
    """
    if tokenizer.truncation or tokenizer.padding:  # pyright: ignore[reportUnknownMemberType]
        raise UsageError("the tokenizer truncates or pads: call no_truncation() and no_padding() on it first")
    if not document.text or document.text.isspace():
        return []
    return _Chunker(document, tokenizer, settings).run()


def fewest_chunks(text: str, settings: ChunkSettings) -> int:
    """Return a number of chunks that `chunk` cannot go below for a text, without cutting it: that takes long."""
    visible = len(text) - sum(map(text.count, _SPACE_CHARACTERS))
    return -(-visible // (CHARS_PER_TOKEN * settings.max_tokens))


_SPACE_CHARACTERS = [character for character in map(chr, range(0x3001)) if character.isspace()]


def embedding_input(heading: str, text: str) -> str:
    """What the model sees of a chunk: its heading path, a line end, its text.

    The path's last titles are left out where the text opens with them. Runs of one mark (the line under a title, the
    dots of a table of contents) are shortened to three: each mark would be a token without meaning.
    """
    while heading:
        title = heading.rpartition(HEADING_SEPARATOR)[2]
        if not _opens_with(text, title):
            break
        heading = heading.removesuffix(title).removesuffix(HEADING_SEPARATOR)
    text = _RUN_OF_MARKS.sub(r"\1\1\1", text)
    return f"{heading}\n{text}" if heading else text


def _opens_with(text: str, title: str) -> bool:
    first_line = text.partition("\n")[0]
    return bare_title(first_line.lstrip("#")) == title or opens_definition(text, title)


_RUN_OF_MARKS = re.compile(r"([=\-~^*_#.+])(?: ?\1){5,}")


# --- counting tokens -----------------------------------------------------------------------------------------

_BLOCK_CHARS = 16_384
_SPACES = frozenset(" \t\n\r\u00a0\u1680\u202f\u205f\u3000\u2028\u2029" + "".join(map(chr, range(0x2000, 0x200B))))
_WORD_EDGES = _SPACES | frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~。！？、，；：「」『』（）》《”“’‘…")


class _Ruler:
    """Counts tokens of any part of the text, having tokenised it once."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self._tokenizer = tokenizer
        # BERT splits at white space and punctuation before it looks at words: then the counts of parts cut there
        # add up. Nothing of the kind is promised by other tokenizers: each chunk is measured once more.
        self._adds_up = isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        self.slack = 0 if self._adds_up else 4
        self._starts = array("I")
        self._seams: list[int] = []
        for start, end in pairwise(_block_edges(text)):
            self._add_block(start, end)

    def _add_block(self, start: int, end: int) -> None:
        encoding = self._tokenizer.encode(self.text[start:end], add_special_tokens=False)
        self._starts.extend([start + offset for offset, _ in encoding.offsets])
        if not self._is_word_edge(end):
            self._seams.append(end)

    def before(self, position: int) -> int:
        """How many tokens start before this offset."""
        return bisect_left(self._starts, position)

    def start_of(self, token: int) -> int:
        """Offset at which a token starts."""
        return self._starts[token]

    def is_exact(self, start: int, end: int) -> bool:
        """Whether the tokens of this part are those of the whole text that start in it."""
        whole = self._adds_up and self._is_word_edge(start) and self._is_word_edge(end)
        return whole and bisect_right(self._seams, start) == bisect_left(self._seams, end)

    def _is_word_edge(self, position: int) -> bool:
        if position in (0, len(self.text)):
            return True
        return self.text[position - 1] in _WORD_EDGES or self.text[position] in _WORD_EDGES

    def count(self, start: int, end: int) -> int:
        """Exact number of tokens of this part, without special tokens."""
        if self.is_exact(start, end):
            return self.before(end) - self.before(start)
        return self.measure(self.text[start:end])

    def measure(self, text: str, *, special: bool = False) -> int:
        """Number of tokens of any text."""
        return len(self._tokenizer.encode(text, add_special_tokens=special))


def _block_edges(text: str) -> Iterator[int]:
    """Offsets that part the text into blocks of about _BLOCK_CHARS, if possible at blank lines."""
    start = 0
    while start < len(text):
        yield start
        end = start + _BLOCK_CHARS
        if end < len(text):
            found = (text.rfind(mark, start + 1, end) for mark in ("\n\n", "\n", " "))
            end = next((position for position in found if position > start), end)
        start = end
    yield len(text)


# --- sections and their heading paths ------------------------------------------------------------------------


class _Section(NamedTuple):
    """start: offset of its heading (of the first, where headings follow each other bare); path: titles from the top."""

    start: int
    path: tuple[str, ...]


def _sections(text: str, headings: list[Heading]) -> list[_Section]:
    """The sections in order; the first starts at 0. A heading without a title ends those of its level."""
    sections = [_Section(0, ())]
    stack: list[Heading] = []
    end = 0
    for heading in headings:
        while stack and stack[-1].level >= heading.level:
            stack.pop()
        if heading.title:
            stack.append(heading)
        bare = not text[end : heading.start].strip()
        section = _Section(heading.start, tuple(above.title for above in stack))
        if bare:
            sections[-1] = section._replace(start=sections[-1].start)
        else:
            sections.append(section)
        end = heading.end
    return sections


def _common(paths: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest start that all paths share; text above the first heading has no say."""
    named = [path for path in paths if path] or [()]
    low, high = min(named), max(named)
    same = takewhile(lambda level: low[level] == high[level], range(len(low)))
    return low[: sum(1 for _ in same)]


class _Paths:
    """Headings as the model sees them, and the room they take."""

    def __init__(self, ruler: _Ruler, limit: int) -> None:
        self._ruler = ruler
        self._limit = limit
        self._headings: dict[tuple[str, ...], str] = {(): ""}
        self._rooms: dict[tuple[str, ...], int] = {(): 0}
        self._tokens: dict[str, int] = {"": 0}

    def heading(self, path: tuple[str, ...]) -> str:
        """The path joined; upper levels are dropped, and then the title shortened, until it fits."""
        if path not in self._headings:
            self._headings[path] = self._shorten(path)
        return self._headings[path]

    def _shorten(self, path: tuple[str, ...]) -> str:
        if self._limit == 0:
            return ""
        for level in range(len(path)):
            heading = HEADING_SEPARATOR.join(path[level:])
            if self.tokens(heading) <= self._limit:
                return heading
        title = path[-1]
        while title and self._ruler.measure(title) > self._limit:
            title = title[: len(title) * 7 // 8].rsplit(" ", 1)[0]
        return title

    def room(self, path: tuple[str, ...]) -> int:
        """Tokens to keep free: of this heading or, if longer, of one above it, which joined sections may carry."""
        if path not in self._rooms:
            self._rooms[path] = max(self.tokens(self.heading(path)), self.room(path[:-1]))
        return self._rooms[path]

    def tokens(self, heading: str) -> int:
        """Tokens of a heading, each measured once."""
        if heading not in self._tokens:
            self._tokens[heading] = self._ruler.measure(heading)
        return self._tokens[heading]


# --- heads of tables -----------------------------------------------------------------------------------------


class _Head(NamedTuple):
    """What a chunk repeats before its own text. body: where the rows of that table start, or 0."""

    text: str
    tokens: int
    body: int


_NO_HEAD = _Head("", 0, 0)
_HEAD_SHARE = 4
"""A head that takes more than one part in so many of a chunk is not repeated."""


class _Heads:
    """The heads of tables, where they are short enough to be repeated."""

    def __init__(self, ruler: _Ruler, tables: list[Table], max_tokens: int, max_chars: int) -> None:
        self._tables: list[Table] = []
        self._heads: list[_Head] = []
        for table in tables:
            if (table.head_end - table.start) * _HEAD_SHARE > max_chars:
                continue
            text = ruler.text[table.start : table.head_end] + "\n"
            head = _Head(text, ruler.measure(text), table.head_end)
            if head.tokens * _HEAD_SHARE <= max_tokens:
                self._tables.append(table)
                self._heads.append(head)
        self._bodies = [table.head_end for table in self._tables]
        self.most_tokens = max((head.tokens for head in self._heads), default=0)
        self.most_chars = max((len(head.text) for head in self._heads), default=0)

    def above(self, position: int) -> _Head:
        """The head that a chunk which starts at this visible character repeats."""
        found = bisect_right(self._bodies, position) - 1
        return self._heads[found] if found >= 0 and position < self._tables[found].end else _NO_HEAD


# --- places to cut -------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a chunk may end and the next start.

    left: after the last visible character before the cut; right: the first one after it; tokens: how many start
    before `right`.
    """

    left: int
    right: int
    cut: Cut
    tokens: int


_Finder = Callable[[str, int, int], Iterator[int]]
_VISIBLE = re.compile(r"\S")
_STEPS = 24
"""Places of one kind are kept at least this fraction of a chunk apart: it bounds the work of packing."""


class _Places:
    """Collects places, dense enough that neighbours fit into a chunk, sparse enough that few lie in one."""

    def __init__(self, ruler: _Ruler, max_tokens: int, max_chars: int) -> None:
        self.text = ruler.text
        self._ruler = ruler
        self._max_tokens = max_tokens
        self._max_chars = max_chars

    def find(self, cuts: list[tuple[int, Cut]], headings: list[Heading]) -> list[_Place]:
        """All places in order, from before the first visible character to after the last."""
        start = len(self.text) - len(self.text.lstrip())
        first = _Place(start, start, Cut.SECTION, self._ruler.before(start))
        end = len(self.text.rstrip())
        last = _Place(end, len(self.text), Cut.SECTION, self._ruler.before(len(self.text)))
        places = [first, *self._between(first, last, cuts)]
        bodies = {heading.start: self._visible_from(heading.end) for heading in headings}
        finders = {
            Cut.CLAUSE: clause_starts,
            Cut.SPACE: word_starts,
            Cut.TOKEN: self._token_starts,
            Cut.CHARACTER: self._character_starts,
        }
        for cut, finder in finders.items():
            places = list(self._refine(places, cut, finder, bodies))
        return places

    def _refine(self, places: list[_Place], cut: Cut, finder: _Finder, bodies: dict[int, int]) -> Iterator[_Place]:
        """Add finer places between neighbours too far apart, but none inside a heading."""
        yield places[0]
        for place, following in pairwise(places):
            if not self._too_far(place, following):
                yield following
                continue
            start = bodies.get(place.right, place.right)
            start = place.right if start - place.right > self._max_chars // 4 else start
            cuts = ((position, cut) for position in finder(self.text, start + 1, following.left))
            yield from self._between(place, following, cuts)

    def _too_far(self, place: _Place, following: _Place) -> bool:
        tokens = following.tokens - place.tokens
        return tokens > self._max_tokens or following.left - place.right > self._max_chars

    def _between(self, place: _Place, following: _Place, cuts: Iterable[tuple[int, Cut]]) -> Iterator[_Place]:
        """The places at these offsets, and then `following`; of a crowd only those better than the one before."""
        last = place
        for offset, cut in cuts:
            position = self._visible_from(offset)
            if not last.right < position < following.left or self._parts_a_character(position, cut):
                continue
            tokens = self._ruler.before(position)
            near = (tokens - last.tokens) * _STEPS < self._max_tokens
            if near and cut <= last.cut and (position - last.right) * _STEPS < self._max_chars:
                continue
            left = last.right + len(self.text[last.right : position].rstrip())
            last = _Place(left, position, cut, tokens)
            yield last
        yield following

    def _parts_a_character(self, position: int, cut: Cut) -> bool:
        # the finders of finer cuts have looked for a whole character already, and found none
        return cut > Cut.TOKEN and parts_a_character(self.text, position)

    def _visible_from(self, offset: int) -> int:
        match = _VISIBLE.search(self.text, offset)
        return match.start() if match else len(self.text)

    def _token_starts(self, text: str, start: int, end: int) -> Iterator[int]:
        step = max(1, self._max_tokens // _STEPS)
        tokens = range(self._ruler.before(start), self._ruler.before(end), step)
        return (whole_character(text, self._ruler.start_of(token)) for token in tokens)

    def _character_starts(self, text: str, start: int, end: int) -> Iterator[int]:
        return (whole_character(text, position) for position in range(start, end, self._max_chars // _STEPS))


# --- packing -------------------------------------------------------------------------------------------------

_COST = {
    Cut.SECTION: 0.0,
    Cut.PARAGRAPH: 0.0,
    Cut.BLOCK: 0.2,
    Cut.LINE: 0.35,
    Cut.SENTENCE: 0.5,
    Cut.INTRO: 0.6,
    Cut.CODE_GAP: 2.5,
    Cut.CODE: 3.0,
    Cut.CLAUSE: 4.0,
    Cut.SPACE: 5.0,
    Cut.TOKEN: 8.0,
    Cut.CHARACTER: 12.0,
}
_EACH = 0.5  # a chunk costs this, however long
_TINY = 1.5  # one under min_tokens costs this besides
_ACROSS = 1.8  # a heading in mid-chunk: dearer than two short chunks, cheaper than a tiny one
_UP = 2.6  # the same, where the heading is of a higher level than the section it ends


def _pack(
    places: list[_Place], crossings: list[float], limits: list[int], heads: list[_Head], settings: ChunkSettings
) -> list[int]:
    """The places at which to cut, first and last included, so that the sum of all costs is least.

    crossings: what a chunk pays for holding each place inside. limits: most tokens of a chunk that starts there.
    heads: what such a chunk repeats; it counts like any other text of it.
    Chunks of more than CHARS_PER_TOKEN x max_tokens characters are ruled out as well.
    """
    max_chars = CHARS_PER_TOKEN * settings.max_tokens
    sizes = _size_costs(settings)
    passed = list(accumulate(crossings))
    lefts, cuts = [place.left for place in places], [_COST[place.cut] for place in places]
    rights = [place.right - len(head.text) for place, head in zip(places, heads, strict=True)]
    ends = [place.tokens for place in places]
    begins = [place.tokens - head.tokens for place, head in zip(places, heads, strict=True)]
    best, starts = [0.0], [0]
    for end in range(1, len(places)):
        cheapest, chosen = float("inf"), end - 1
        for start in range(end - 1, -1, -1):
            size = ends[end] - begins[start]
            if size > limits[start] or lefts[end] - rights[start] > max_chars:
                break
            cost = best[start] + sizes[size] - passed[start]
            if cost < cheapest:
                cheapest, chosen = cost, start
        if cheapest == float("inf"):  # neighbours too far apart, as in one endless character
            cheapest = best[chosen] - passed[chosen]
        best.append(cheapest + passed[end - 1] + cuts[end])
        starts.append(chosen)
    return _trace(starts)


@lru_cache(maxsize=8)
def _size_costs(settings: ChunkSettings) -> list[float]:
    """What a chunk of each number of tokens costs."""
    target, tiny = settings.target_tokens, settings.min_tokens
    off_target = [(tokens - target) / target for tokens in range(settings.max_tokens + 1)]
    return [_EACH + off * off + _TINY * (tokens < tiny) for tokens, off in enumerate(off_target)]


def _trace(starts: list[int]) -> list[int]:
    chosen = [len(starts) - 1]
    while chosen[-1]:
        chosen.append(starts[chosen[-1]])
    return chosen[::-1]


# --- putting it together -------------------------------------------------------------------------------------


class _Chunker:
    """One document on its way into chunks."""

    def __init__(self, document: Document, tokenizer: Tokenizer, settings: ChunkSettings) -> None:
        self.document = document
        self.text = document.text
        self.settings = settings
        self.ruler = _Ruler(document.text, tokenizer)
        self.paths = _Paths(self.ruler, settings.heading_tokens)
        self.structure = find_code_structure(document) if document.syntax == "code" else find_structure(document)
        self.sections = _sections(document.text, self.structure.headings)
        self._section_starts = [section.start for section in self.sections]
        self._free = settings.max_tokens - tokenizer.num_special_tokens_to_add(False)
        self._max_chars = CHARS_PER_TOKEN * settings.max_tokens
        self.heads = _Heads(self.ruler, self.structure.tables, self._free, self._max_chars)

    def run(self) -> list[Chunk]:
        """The chunks in order."""
        spans = [piece for span in self._reach_back(self._spans()) for piece in self._fit(*span)]
        pages = _Pages(self.document.pages)
        return [self._chunk(index, start, end, pages) for index, (start, end) in enumerate(spans)]

    def _chunk(self, index: int, start: int, end: int, pages: _Pages) -> Chunk:
        page_start, page_end = pages.touched(start, end)
        repeated = self.heads.above(start).text
        return Chunk(
            index=index,
            text=repeated + self.text[start:end],
            char_start=start,
            char_end=end,
            page_start=page_start,
            page_end=page_end,
            heading=self._heading(start, end),
            token_count=self._tokens(start, end),
            repeated=len(repeated),
        )

    def _tokens(self, start: int, end: int) -> int:
        """Exact number of tokens of a chunk's text, with what it repeats."""
        head = self.heads.above(start)
        if not head.text or self.ruler.is_exact(start, end):
            return head.tokens + self.ruler.count(start, end)
        return self.ruler.measure(head.text + self.text[start:end])

    def _heading(self, start: int, end: int) -> str:
        first = bisect_right(self._section_starts, start) - 1
        last = bisect_left(self._section_starts, end)
        return self.paths.heading(_common(section.path for section in self.sections[first:last]))

    def _spans(self) -> list[tuple[int, int]]:
        rooms = [self.paths.room(section.path) for section in self.sections]
        rooms[0] = max(rooms[:2])  # text above the first heading may be joined with it
        most = self._free - self.settings.overlap_tokens - self.ruler.slack
        least = most - max(rooms) - self.heads.most_tokens
        finder = _Places(self.ruler, least, self._max_chars - self.heads.most_chars)
        places = finder.find(self.structure.cuts, self.structure.headings)
        sections = [bisect_right(self._section_starts, place.right) - 1 for place in places]
        limits = [most - rooms[section] for section in sections]
        heads = [self.heads.above(place.right) for place in places]
        chosen = _pack(places, self._crossings(places), limits, heads, self.settings)
        return [(places[start].right, places[end].left) for start, end in pairwise(chosen)]

    def _crossings(self, places: list[_Place]) -> list[float]:
        headings = self.structure.headings
        upward = {heading.start for above, heading in pairwise(headings) if heading.level < above.level}
        cost = {True: _UP, False: _ACROSS}
        return [cost[place.right in upward] if place.cut is Cut.SECTION else 0.0 for place in places]

    def _reach_back(self, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Let each span start earlier, by whole sentences or else words, within its section and the overlap.

        Below a head that is repeated, none reaches up into it: what stands there would come twice.
        """
        yield spans[0]
        for (before, _), (start, end) in pairwise(spans):
            reached = self._earlier_start(before, start) if self.settings.overlap_tokens else start
            yield (reached if reached < start and self._fits(reached, end) else start), end

    def _earlier_start(self, before: int, start: int) -> int:
        section = self.sections[bisect_right(self._section_starts, start) - 1]
        token = max(0, self.ruler.before(start) - self.settings.overlap_tokens)
        low = max(section.start, before + 1, self.ruler.start_of(token), self.heads.above(start).body)
        sentence = next(sentence_starts(self.text, max(0, low - 1), start), start)
        return sentence if sentence < start else next(word_starts(self.text, max(0, low - 1), start), start)

    def _fit(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The span itself or, where cutting inside words made it too long, as few parts of it as needed."""
        if end - start < 2 or self._fits(start, end):
            yield start, end
            return
        middle = self._middle(start, end)
        left = start + len(self.text[start:middle].rstrip())
        yield from self._fit(start, left)
        right = middle + len(self.text[middle:end]) - len(self.text[middle:end].lstrip())
        yield from self._fit(right, end)

    def _middle(self, start: int, end: int) -> int:
        middle = (start + end) // 2
        space = self.text.rfind(" ", start + (end - start) // 4, middle) + 1
        middle = space or whole_character(self.text, middle)
        return middle if start < middle < end else (start + end) // 2

    def _fits(self, start: int, end: int) -> bool:
        if len(self.heads.above(start).text) + end - start > self._max_chars:
            return False
        heading = self._heading(start, end)
        if self.ruler.is_exact(start, end):
            return self._tokens(start, end) + self.paths.tokens(heading) <= self._free
        text = embedding_input(heading, self.heads.above(start).text + self.text[start:end])
        return self.ruler.measure(text, special=True) <= self.settings.max_tokens


class _Pages:
    """Finds the pages that a range of the text touches."""

    def __init__(self, pages: tuple[Page, ...]) -> None:
        self._pages = pages
        self._starts = [page.start for page in pages]
        self._ends = [page.end for page in pages]

    def touched(self, start: int, end: int) -> tuple[int | None, int | None]:
        """Numbers of the first and the last page that hold a character of [start, end)."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end) - 1
        if first > last:
            return None, None
        return self._pages[first].number, self._pages[last].number

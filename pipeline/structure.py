"""Where a text may be cut: its headings, paragraphs, lists, tables, code and sentences.

One pass over the lines. Lines come in blocks (what blank lines part); every line gets a role, and two
neighbouring roles say how good a cut between them is. Sentences are looked for in prose alone.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, auto
from itertools import chain, pairwise
from typing import NamedTuple

from pipeline.document import Document

TITLE_CHARS = 200
_BLOCK_LINES = 400


class Cut(IntEnum):
    """What a cut falls on, worst first."""

    CHARACTER = auto()
    """between two characters of one token"""
    TOKEN = auto()
    """between two tokens of one word"""
    SPACE = auto()
    """between two words; also between a heading and the heading right under it"""
    CLAUSE = auto()
    """after a comma, a colon or another mark inside a sentence"""
    CODE = auto()
    """between two lines of code"""
    CODE_GAP = auto()
    """at a blank line in code"""
    INTRO = auto()
    """between a paragraph and what it announces: after a colon, or before a deeper indentation"""
    SENTENCE = auto()
    """between two sentences, or two items of an inner list"""
    LINE = auto()
    """between two list items, table rows, or lines that were broken on purpose"""
    BLOCK = auto()
    """between two paragraphs of an indented part, or two that no blank line parts"""
    PARAGRAPH = auto()
    """at a blank line"""
    SECTION = auto()
    """before a heading"""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: where its first line starts and its last ends, its level from 1, its bare title.

    Without a title it ends the sections of its level, and what follows belongs to the one around them.
    """

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table under a head: where the head starts and ends (the rule below it included), where the last row ends."""

    start: int
    head_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Structure:
    """cuts: offset of the first visible character after the cut, and its kind; ascending.

    headings, tables: in order; tables without a head, or with a blank one, are left out.
    """

    cuts: list[tuple[int, Cut]]
    headings: list[Heading]
    tables: list[Table] = field(default_factory=list[Table])


def find_structure(document: Document) -> Structure:
    """Find the headings and every place worth a cut, down to sentences.

    Markdown: ATX and setext headings, fences, tables, lists, front matter. Plain text: underlined titles
    (reStructuredText and its like), isolated "Chapter 3" and "2.1 Title" lines, literal blocks, grid and simple tables.
    Places inside words, lines of code that fit nowhere and the like are left to the caller.
    """
    scanner = _Scanner(document)
    for block, following in pairwise(chain(_blocks(document.text), [list[_Line]()])):
        scanner.scan(block, following)
    scanner.end_table()
    return Structure(sorted(scanner.cuts.items()), scanner.headings, scanner.tables)


def bare_title(text: str) -> str:
    """A heading's title without the marks of Markdown and reStructuredText, at most TITLE_CHARS long."""
    text = text[: 4 * TITLE_CHARS]
    for pattern, kept in _TITLE_MARKS:
        text = pattern.sub(kept, text)
    return " ".join(text.split())[:TITLE_CHARS].rstrip()


_TITLE_MARKS = (
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r":[\w:+-]+:`[~!]?([^`<]*)(?:<[^`>]*>)?`"), r"\1"),
    (re.compile(r"\s\{#[\w-]+\}\s*$"), ""),
    (re.compile(r"`+|\*\*+|(?<!\w)[*_]+(?=\w)|(?<=\w)[*_]+(?!\w)"), ""),
    (re.compile(r"\\(?:\s|(?=[^\w\s]))"), ""),
)


# --- lines, blocks and roles ---------------------------------------------------------------------------------


class _Line(NamedTuple):
    """start, end: first visible character, and after the last one; indent in columns."""

    start: int
    end: int
    indent: int


class _Role(Enum):
    PROSE = auto()
    ITEM = auto()
    TABLE = auto()
    TABLE_HEAD = auto()  # the row after it stays with it
    CODE_START = auto()
    CODE = auto()
    CODE_END = auto()
    HEADING = auto()
    HEADING_REST = auto()


_CODE = (_Role.CODE_START, _Role.CODE, _Role.CODE_END)
_HEADING = (_Role.HEADING, _Role.HEADING_REST)
_TABLE = (_Role.TABLE, _Role.TABLE_HEAD)
_LINE = re.compile(r"^([^\S\n]*+)(\S(?:[^\n]*\S)?)", re.MULTILINE)


def _blocks(text: str) -> Iterator[list[_Line]]:
    """Runs of lines that are not blank; a run is also ended after _BLOCK_LINES, so that memory stays flat."""
    block: list[_Line] = []
    for match in _LINE.finditer(text):
        if block and (len(block) == _BLOCK_LINES or text.count("\n", block[-1].end, match.start()) > 1):
            yield block
            block = []
        block.append(_Line(match.start(2), match.end(), len(match[1].expandtabs(4))))
    if block:
        yield block


_ITEM = re.compile(r"(?:[-*+•‣◦·–\uf000-\uf0ff]|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]+\S")
_FENCE = re.compile(r"(`{3,}+|~{3,}+)[^`\n]*+$")  # gives nothing back: what follows may be tildes, too
_ATX = re.compile(r"(#{1,6})[ \t]+(?=\S)")
_TABLE_RULE = re.compile(r"(?=[^\n]*\|)\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$")
_SIMPLE_TABLE = re.compile(r"=+(?:[ ]+=+)+$")
_LEADERS = re.compile(r"(?:\.\s?){4}\s*[\divxlc]+$")  # of a table of contents
_LITERAL = re.compile(
    r"\.\.[ ](?:code|code-block|sourcecode|parsed-literal|productionlist|highlight|math)::|(?!\.\.[ ])[^\n]*::$"
)


class _Scanner:
    """Reads the blocks in order; keeps what one line tells about the next."""

    def __init__(self, document: Document) -> None:
        self.text = document.text
        self.markdown = document.syntax == "markdown"
        self.cuts: dict[int, Cut] = {}
        self.headings: list[Heading] = []
        self.tables: list[Table] = []
        self._heads: dict[int, int] = {}  # where heads of tables start, and end
        self._table: Table | None = None  # the one that is being read
        self._titles = _Titles()
        self._page_starts = [page.start for page in document.pages]
        self._fence = ""
        self._literal_indent: int | None = None  # a literal block is open: what is indented deeper is code
        self._before: _Line | None = None
        self._before_role = _Role.PROSE
        self._before_indent = 0
        self._width = 0  # of the widest line of the block

    def scan(self, block: list[_Line], following: list[_Line]) -> None:
        """Record the headings of a block and the cuts before and in it."""
        roles = self._roles(block, following)
        self._width = max(line.end - line.start for line in block)
        indent = min(line.indent for line in block)
        for number, (line, role) in enumerate(zip(block, roles, strict=True)):
            after = block[number + 1] if number + 1 < len(block) else None
            gap = number == 0 and self._is_gap(line)  # a block cut short for its length has none
            self._follow_table(line, role, gap=gap)
            cut = self._cut_before(line, role, indent, after, gap=gap)
            if cut is not None:
                self.cuts[line.start] = cut
            self._before, self._before_role, self._before_indent = line, role, indent
        self._add_sentences(block, roles)

    # tables

    def _follow_table(self, line: _Line, role: _Role, *, gap: bool) -> None:
        if self._table and role in _TABLE and not gap:
            self._table = replace(self._table, end=line.end)
            return
        self.end_table()
        if line.start in self._heads:
            self._table = Table(line.start, self._heads[line.start], line.end)

    def end_table(self) -> None:
        """Record the table that was being read, if it has rows below its head."""
        if self._table and self._table.end > self._table.head_end:
            self.tables.append(self._table)
        self._table = None

    def _add_head(self, lines: list[_Line]) -> None:
        start, end = lines[0].start, lines[-1].end
        if any(map(str.isalnum, self.text[start:end])):
            self._heads[start] = end

    # roles

    def _roles(self, block: list[_Line], following: list[_Line]) -> list[_Role]:
        if self.markdown:
            return self._markdown_roles(block)
        return self._plain_roles(block, following)

    def _markdown_roles(self, block: list[_Line]) -> list[_Role]:
        roles: list[_Role] = []
        for number, line in enumerate(block):
            if len(roles) > number:  # the underline of a setext heading
                continue
            role = self._code_role(line)
            if role is None:
                heading = self._markdown_heading(block, number)
                if heading:
                    roles += heading
                    continue
                before = roles[-1] if roles else self._role_above(block)
                role = self._line_role(line, in_table=before in _TABLE)
            roles.append(role)
            self._glue_table_head(roles, block[: number + 1][-2:])
        return roles

    def _role_above(self, block: list[_Line]) -> _Role:
        """The role of the line right above a block: there is one where a block was cut short for its length."""
        return _Role.PROSE if self._is_gap(block[0]) else self._before_role

    def _code_role(self, line: _Line) -> _Role | None:
        """The role of a line in, opening or closing a fence (or front matter), else None."""
        text = self.text[line.start : line.end]
        if self._fence:
            if not _closes(text, self._fence):
                return _Role.CODE
            self._fence = ""
            return _Role.CODE_END
        if text[0] in "`~" and (match := _FENCE.match(text)):
            self._fence = match[1]
            return _Role.CODE_START
        if text == "---" and self._before is None and _has_front_matter(self.text):
            self._fence = text
            return _Role.CODE_START
        return None

    def _markdown_heading(self, block: list[_Line], number: int) -> list[_Role]:
        """Record the heading that starts at this line, if one does; the roles of its lines."""
        line = block[number]
        if line.indent > 3:
            return []
        text = self.text[line.start : line.end]
        if text[0] == "#" and (match := _ATX.match(text)):
            return self._add_heading([line], len(match[1]), _without_closing_marks(text[match.end() :]))
        first = number == 0 or block[number - 1].end == (self.headings[-1].end if self.headings else -1)
        if first and number + 1 < len(block) and self._is_prose(line):
            below = block[number + 1]
            underline = self.text[below.start : below.end]
            if len(underline) > 2 and underline.strip(underline[0]) == "" and underline[0] in "=-":
                return self._add_heading([line, below], 1 if underline[0] == "=" else 2, text)
        return []

    def _is_prose(self, line: _Line) -> bool:
        text = self.text[line.start : line.end]
        return text[0] not in "|>" and len(text) <= TITLE_CHARS and not _ITEM.match(text)

    def _add_heading(self, lines: list[_Line], level: int, title: str) -> list[_Role]:
        title = bare_title(title)
        if not any(map(str.isalnum, title)):
            return []
        self.headings.append(Heading(lines[0].start, lines[-1].end, level, title))
        return [_Role.HEADING] + [_Role.HEADING_REST] * (len(lines) - 1)

    def _line_role(self, line: _Line, *, in_table: bool) -> _Role:
        text = self.text[line.start : line.end]
        if text[0] == "|" or (in_table and "|" in text):
            return _Role.TABLE
        return _Role.ITEM if _ITEM.match(text) else _Role.PROSE

    def _glue_table_head(self, roles: list[_Role], lines: list[_Line]) -> None:
        """A rule such as |---|---| makes a head of itself and of the row above it; lines: both, or the rule alone."""
        if roles[-1] in _CODE or not _TABLE_RULE.match(self.text, lines[-1].start, lines[-1].end):
            return
        roles[-1] = _Role.TABLE_HEAD
        if len(roles) > 1 and roles[-2] in (_Role.TABLE, _Role.PROSE):
            roles[-2] = _Role.TABLE_HEAD
            self._add_head(lines)

    def _plain_roles(self, block: list[_Line], following: list[_Line]) -> list[_Role]:
        if self._in_literal(block):
            return [_Role.CODE] * len(block)
        roles = self._plain_heading(block, following)
        rest = block[len(roles) :]
        if rest:
            roles += self._plain_body(rest)
        return roles

    def _in_literal(self, block: list[_Line]) -> bool:
        if self._literal_indent is None:
            return False
        if min(line.indent for line in block) > self._literal_indent:
            return True
        self._literal_indent = None
        return False

    def _plain_heading(self, block: list[_Line], following: list[_Line]) -> list[_Role]:
        found = self._titles.read(self.text, block, following)
        if found is None:
            return []
        lines, level, title = found
        return self._add_heading(block[:lines], level, title)

    def _plain_body(self, block: list[_Line]) -> list[_Role]:
        first, last = block[0], block[-1]
        if _LITERAL.match(self.text, last.start, last.end) or self.text.startswith(".. code", first.start):
            self._literal_indent = first.indent if len(block) == 1 else min(first.indent, last.indent)
        if self.text.startswith(("+-", "+="), first.start):
            return self._grid_roles(block)
        if _SIMPLE_TABLE.match(self.text, first.start, first.end):
            return self._simple_roles(block)
        return [self._line_role(line, in_table=False) for line in block]

    def _grid_roles(self, block: list[_Line]) -> list[_Role]:
        """A grid table may be cut below its rules alone; the first rule and row stay together."""
        rules = [self.text[line.start] == "+" for line in block]
        head = rules.index(True, 1) if True in rules[1:] else 0
        doubled = (number for number, line in enumerate(block) if number and self.text.startswith("+=", line.start))
        if last := next(doubled, 0):
            self._add_head(block[: last + 1])
        return [_Role.TABLE if rule and number > head else _Role.TABLE_HEAD for number, rule in enumerate(rules)]

    def _simple_roles(self, block: list[_Line]) -> list[_Role]:
        """A simple table has a head where its second rule is not its last line."""
        rules = [line for line in block if _SIMPLE_TABLE.match(self.text, line.start, line.end)]
        lines = block.index(rules[1]) + 1 if len(rules) > 1 else len(block)
        self._add_head(block[:lines])
        glued = lines if lines < len(block) else min(3, len(block))
        return [_Role.TABLE_HEAD] * glued + [_Role.TABLE] * (len(block) - glued)

    # cuts

    def _cut_before(self, line: _Line, role: _Role, indent: int, after: _Line | None, *, gap: bool) -> Cut | None:
        """What a cut before this line is, or None where there should be none.

        indent: the least of the block. after: the next line of the block. gap: a blank line comes before.
        """
        before = self._before_role
        if self._before is None or role is _Role.HEADING_REST:
            return None
        if role is _Role.HEADING:
            return Cut.SPACE if before in _HEADING else Cut.SECTION
        if before in _HEADING or (before is _Role.TABLE_HEAD and not gap):
            return None
        if role in (_Role.CODE, _Role.CODE_END) and before in (_Role.CODE_START, _Role.CODE):
            return Cut.CODE_GAP if gap else Cut.CODE
        if gap or role in _CODE or before in _CODE:
            return self._cut_at_gap(self._before, line, indent)
        if role in _TABLE:
            return Cut.LINE
        if role is _Role.ITEM:
            return Cut.LINE if line.indent <= indent else Cut.SENTENCE
        return self._cut_at_line_end(self._before, line, after)

    def _is_gap(self, line: _Line) -> bool:
        return self._before is not None and self.text.count("\n", self._before.end, line.start) > 1

    def _cut_at_gap(self, before: _Line, line: _Line, indent: int) -> Cut | None:
        last = self.text[before.end - 1]
        if self._is_page_break(before.end, line.start):
            runs_on = last not in _ENDS and self.text[line.start].islower()
            return None if runs_on else Cut.PARAGRAPH
        if last in ":：" or indent > self._before_indent:
            return Cut.INTRO
        return Cut.PARAGRAPH if indent == 0 or indent < self._before_indent else Cut.BLOCK

    def _is_page_break(self, start: int, end: int) -> bool:
        return bisect_left(self._page_starts, start) < bisect_right(self._page_starts, end)

    def _cut_at_line_end(self, before: _Line, line: _Line, after: _Line | None) -> Cut | None:
        if self._is_title(before, line):
            return None
        if not self._broken_on_purpose(before, line) and not (after and self._is_title(line, after)):
            return None
        return Cut.BLOCK if self.text[before.end - 1] in _ENDS else Cut.LINE

    def _broken_on_purpose(self, before: _Line, line: _Line) -> bool:
        """Whether the next word had still fitted: then the writer broke the line, not the margin.

        A fifth of the width is allowed for proportional type, where a line's length in characters varies.
        """
        space = self.text.find(" ", line.start, min(line.end, line.start + 12))
        word_end = space if space > 0 else min(line.end, line.start + 12)
        if before.end - before.start + 1 + word_end - line.start < 0.8 * self._width:
            return True
        return _LEADERS.search(self.text, max(before.start, before.end - 30), before.end) is not None

    def _is_title(self, line: _Line, after: _Line) -> bool:
        """Whether this looks like a title over running text, as PDFs have them: a short line over a full one."""
        short = line.end - line.start < 0.6 * self._width and after.end - after.start > 0.8 * self._width
        first, last = self.text[line.start], self.text[line.end - 1]
        return short and last not in _NO_TITLE_END and last not in _ENDS and not first.islower()

    def _add_sentences(self, block: list[_Line], roles: list[_Role]) -> None:
        start: int | None = None
        for line, role in zip(block, roles, strict=True):
            if role in (_Role.PROSE, _Role.ITEM):
                start = line.start if start is None else start
            elif start is not None:
                self._add_cuts(start, line.start)
                start = None
        if start is not None:
            self._add_cuts(start, block[-1].end)

    def _add_cuts(self, start: int, end: int) -> None:
        for position in sentence_starts(self.text, start, end):
            if self.cuts.get(position, Cut.CHARACTER) < Cut.SENTENCE:
                self.cuts[position] = Cut.SENTENCE


def _without_closing_marks(title: str) -> str:
    stripped = title.rstrip("#")
    return stripped if stripped != title and stripped[-1:].isspace() else title


def _closes(line: str, fence: str) -> bool:
    if fence == "---":
        return line in ("---", "...")
    return len(line) >= len(fence) and not line.strip(fence[0])


_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(?:[^\n]*\n){1,100}?(?:---|\.\.\.)[ \t]*(?:\n|$)")


def _has_front_matter(text: str) -> bool:
    return _FRONT_MATTER.match(text) is not None


# --- titles of plain text ------------------------------------------------------------------------------------

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+_.:])\1{2,}$")
_NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,4})\.?\s{1,4}([^\W\d_].{0,79})$")
_CHAPTER = re.compile(
    r"(?i:(chapter|part|book|volume|section|appendix|article|act|scene|kapitel|teil|anhang|chapitre|partie|annexe"
    r"|capítulo|parte|capitolo|глава|часть|приложение)\s+)(?:\d{1,4}|[IVXLCDM]{1,9}|[A-Z])(?![\w'’])"
    r"(?:[.:—–-]?\s+[^\W_a-zа-я].{0,79}|[.:]?)$"
    r"|(第\s?[0-9０-９一二三四五六七八九十百千〇零]{1,7}\s?[章節节部編编卷]).{0,40}$"
)
_NO_TITLE_END = ".,;:!?…。，、；：！？"


class _Style(NamedTuple):
    """How a title is set off. kind: 0 underlined, 1 a word such as "Chapter", 2 numbered; depth: of the number."""

    kind: int
    depth: int
    name: str


class _Titles:
    """Recognises headings of plain text.

    A style's level is its rank by first appearance, as in docutils; but numbers rank by depth, below words.
    """

    def __init__(self) -> None:
        self._styles: list[_Style] = []
        self._number_before = -1

    def read(self, text: str, block: list[_Line], following: list[_Line]) -> tuple[int, int, str] | None:
        """Number of lines, level and title of the heading that opens the block, or None."""
        found = self._underlined(text, block)
        if found is None and len(block) == 1:
            found = self._isolated(text, block[0], following)
        else:
            self._number_before = -1
        if found is None:
            return None
        lines, style, title = found
        return lines, self._level(style), title

    def _level(self, style: _Style) -> int:
        if style not in self._styles:
            lower = (rank for rank, other in enumerate(self._styles) if style.kind > 0 and style[:2] < other[:2])
            self._styles.insert(next(lower, len(self._styles)), style)
        return self._styles.index(style) + 1

    def _underlined(self, text: str, block: list[_Line]) -> tuple[int, _Style, str] | None:
        over = _rule(text, block[0])
        if over and len(block) == 3 and _rule(text, block[2])[:1] == over[:1]:
            title = text[block[1].start : block[1].end]
            return (3, _Style(0, 0, over[0] * 2), title) if len(title) <= len(over) else None
        if over or len(block) < 2 or block[0].indent or not (under := _rule(text, block[1])):
            return None
        title = text[block[0].start : block[0].end]
        fits = len(title) <= min(len(under), TITLE_CHARS) and not block[1].indent
        return (2, _Style(0, 0, under[0]), title) if fits else None

    def _isolated(self, text: str, line: _Line, following: list[_Line]) -> tuple[int, _Style, str] | None:
        title = text[line.start : line.end]
        before, depth = self._number_before, _number_depth(title)
        self._number_before = depth
        if line.indent or not following or len(title) > 100:
            return None
        if (match := _CHAPTER.match(title)) and title[-1] not in _NO_TITLE_END[1:]:
            return 1, _Style(1, 0, (match[1] or match[2][-1]).lower()), title
        below = _number_depth(text[following[0].start : following[0].end]) if len(following) == 1 else -1
        # numbers of one depth in a row are a list or a table of contents; over an indented body, "1." is an item
        if depth < 0 or depth in (before, below) or (depth == 0 and following[0].indent):
            return None
        return 1, _Style(2, depth, ""), title


def _rule(text: str, line: _Line) -> str:
    """The line, where it is one mark repeated, else an empty string."""
    return text[line.start : line.end] if _UNDERLINE.match(text, line.start, line.end) else ""


def _number_depth(title: str) -> int:
    """How many dots "2.1 Title" has between its numbers; -1 for a line that is no numbered title."""
    match = _NUMBERED.match(title)
    if not match or title[-1] in _NO_TITLE_END or title[-1].isdigit():
        return -1
    depth = match[1].count(".")
    return -1 if depth == 0 and match[2][0].islower() else depth


# --- sentences and clauses -----------------------------------------------------------------------------------

_ENDS = '.!?…"”’»)]。！？｡」』।॥۔؟'
# possessive, and each run from its first character alone: a run of a million marks or spaces stays linear
_SENTENCE = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+\s++"  # Latin and kin: a space follows
    r"|[。！？｡]+[”’」』）)】》\"']*\s*"
    r"|[।॥۔؟።။។։]+[\"'”’)]*\s*"
    r"|(?<=[\u0e00-\u0eff])\s++(?=[\u0e00-\u0eff])"  # Thai and Lao set a space between sentences, not words
)
_CLAUSE = re.compile(r"[,;:.!?…–—)\]}>]\s+|[、，；：。！？।]\s*|(?<=\S)\s++(?=[(\[{<–—])|\n\s*")
_SPACE = re.compile(r"[\s\u200b]+")
_ABBREVIATION = re.compile(
    r"mrs?|ms|dr|prof|sr|jr|st|mt|rev|capt|col|lt|sgt|hon|messrs|mme|mlle|vs|etc|cf|al|ca|approx|dept|univ|inc|ltd"
    r"|corp|bros|assn|jan|feb|apr|jun|jul|aug|sept?|oct|nov|dec|bzw|usw|vgl|evtl|ggf|inkl|гл|рис|стр|др|пр",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(
    r"nos?|vols?|eds?|figs?|eqs?|sec|chap|ch|pp?|para|nr|bd|abb|tab|art|abs|tel|str|№", re.IGNORECASE
)


def sentence_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets in [start, end) where a new sentence begins; not after abbreviations, initials or ordinals."""
    for match in _SENTENCE.finditer(text, start, end):
        position = match.end()
        if position < end and (text[match.start()] not in ".!?…" or _ends_sentence(text, match.start(), position)):
            yield position


def _ends_sentence(text: str, mark: int, following: int) -> bool:
    if text[following].islower():
        return False
    if text[mark] != ".":
        return True
    words = text[max(0, mark - 16) : mark].split()
    word = words[-1].lstrip("([{\"'“‘«*_") if words and not text[mark - 1].isspace() else ""
    if len(word) < 2 or (word.isdigit() and len(word) < 3):
        return False
    if _BEFORE_NUMBER.fullmatch(word) and text[following].isdigit():
        return False
    return not _ABBREVIATION.fullmatch(word) and not ("." in word and len(word) < 6)


def clause_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets in (start, end) after a mark inside a sentence, or after a line end."""
    return (match.end() for match in _CLAUSE.finditer(text, start, end))


def word_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets in (start, end) after white space, or after a zero-width space."""
    return (match.end() for match in _SPACE.finditer(text, start, end))


# --- characters ----------------------------------------------------------------------------------------------

_CLUSTER_CHARS = 32
_JOINER = "\u200d"
_EXTENDERS = frozenset("\u200c\u200d\u0e33\u0eb3" + "".join(map(chr, range(0x1F3FB, 0x1F400))))


def whole_character(text: str, position: int) -> int:
    """The first offset from here on that parts no base from its marks, no emoji, no flag.

    The offset itself, if there is none within _CLUSTER_CHARS.
    """
    for candidate in range(position, min(position + _CLUSTER_CHARS, len(text))):
        if not parts_a_character(text, candidate):
            return candidate
    return position


def parts_a_character(text: str, position: int) -> bool:
    """Whether a cut here falls into what readers see as one character (after Unicode's UAX 29, simplified)."""
    before, after = text[position - 1], text[position]
    if after < "\u0300":
        return False
    if before == _JOINER or after in _EXTENDERS or unicodedata.category(after)[0] == "M":
        return True
    if "\u1160" <= after <= "\u11ff":
        return "\u1100" <= before <= "\u11ff"
    return _is_flag_half(after) and _flag_halves_before(text, position) % 2 == 1


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _flag_halves_before(text: str, position: int) -> int:
    start = position
    while start > max(0, position - _CLUSTER_CHARS) and _is_flag_half(text[start - 1]):
        start -= 1
    return position - start

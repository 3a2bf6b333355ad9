"""Where source code may be cut: between definitions where a grammar is installed, else at blank lines.

A tree-sitter grammar tells functions, classes, methods and the like, which become headings, and the statements
between and right inside them. The walk over the tree is one pass without recursion; all places are the starts of
lines. Without a grammar, blank lines and indentation say how good a cut is, and there are no headings.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache
from importlib import import_module
from itertools import count, groupby
from typing import TYPE_CHECKING, NamedTuple

from pipeline.document import Document
from pipeline.structure import TITLE_CHARS, Cut, Heading, Structure
from storage.event_log import EventLog, code_of

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

_log = EventLog("knowlex.chunk")

GRAMMARS = {
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "c#": ("tree_sitter_c_sharp", "language"),
    "c++": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "python": ("tree_sitter_python", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}
"""By language, where its grammar is: a module and its function. Each is used if it is installed."""

MAX_BYTES = 2 * 2**20
"""Larger texts are cut without a grammar: a syntax tree takes up to 70 times the memory of its text."""

LONG_CHARS = 800
"""About a chunk. Definitions within functions, and constants, are headings where they are longer than this."""

MAX_LEVEL = 8
"""Definitions nested deeper than this are no headings."""


def find_code_structure(document: Document) -> Structure:
    """Find the definitions of source code and every place worth a cut, down to lines.

    A definition's heading begins with the comment block, attributes and decorators right above it and ends where
    its body begins; its title is its name with its kind as written ("class Parser", "def parse"; "main()" where the
    language writes none). A heading without a title ends the sections of its level: what follows belongs to what
    is around them.
    """
    rows = _rows(document.text)
    data = document.text.encode()
    tree = _parse(data, document.language)
    if tree is None:
        return Structure(list(_cuts_by_indentation(document.text, rows)), [])
    walk = _Walk(document.text, data, rows)
    walk.run(tree)
    return Structure(list(walk.cuts()), walk.headings)


def opens_definition(text: str, title: str) -> bool:
    """Whether one of the first lines of a text begins the definition that a title made here names."""
    name = title.removesuffix("()")
    if name != title:
        pattern = rf"^[^=;(.{{}}\n]*(?<!\w){re.escape(name)}\s*[=:(<]"
    elif _KIND.match(title):
        pattern = rf"^[^\S\n]*(?:[^\s=;{{]+[^\S\n]+)*{re.escape(name)}(?!\w)"
    else:
        return False
    return re.search(pattern, text[:_OPENING_CHARS], re.MULTILINE) is not None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPENING_CHARS = 1000
_KEYWORDS = _words(
    "class const def enum fn func function interface impl let macro_rules! mod module namespace operator record struct"
    " trait type typedef union var @interface"
)
_KIND = re.compile(rf"(?:{'|'.join(sorted(map(re.escape, _KEYWORDS)))})\W")


# --- lines ---------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A line: where it begins, its first visible character, after its last one; start == end where it is blank.

    white: how many bytes of white space it begins with, as the grammars count; indent: the same in columns.
    """

    begin: int
    start: int
    end: int
    white: int
    indent: int


def _rows(text: str) -> list[_Row]:
    rows: list[_Row] = []
    begin = 0
    for line in text.split("\n"):
        bare = line.lstrip()
        white = line[: len(line) - len(bare)]
        start = begin + len(white)
        end = start + len(bare.rstrip())
        rows.append(_Row(begin, start, end, len(white.encode()), len(white.expandtabs(4))))
        begin += len(line) + 1
    return rows


def _is_blank(row: _Row) -> bool:
    return row.start == row.end


# --- without a grammar ---------------------------------------------------------------------------------------

_CLOSING = ")]}"
_GOES_ON = re.compile(
    r"[)\]}]|(?:#?(?:else|elif)|#endif|elsif|elseif|except|rescue|ensure|finally|catch|then|do|end|fi|done|esac)\b",
    re.IGNORECASE,
)


def _cuts_by_indentation(text: str, rows: list[_Row]) -> Iterator[tuple[int, Cut]]:
    before: _Row | None = None
    gap = False
    for row in rows:
        if _is_blank(row):
            gap = True
            continue
        cut = _cut_between(text, before, row, gap=gap) if before else None
        if cut is not None:
            yield row.start, cut
        before, gap = row, False


def _cut_between(text: str, before: _Row, row: _Row, *, gap: bool) -> Cut | None:
    """What a cut between two lines is; none before what closes a block, or between its first line and the next."""
    if _GOES_ON.match(text, row.start, row.end) or (row.indent > before.indent and not gap):
        return None
    if gap and row.indent == 0:
        return Cut.PARAGRAPH
    block_ends = before.indent > row.indent or text[before.start] in _CLOSING
    if block_ends and (gap or row.indent == 0):
        return Cut.BLOCK if gap else Cut.LINE
    return Cut.CODE_GAP if gap else Cut.CODE


# --- grammars ------------------------------------------------------------------------------------------------

_READ_BYTES = 65_536
_FREE_CALLS = 30
_BYTES_PER_CALL = 50


def _parse(data: bytes, language: str) -> Tree | None:
    """The syntax tree, or None where there is no grammar for the language, or none that copes with the text."""
    parser = _parser(language)
    if parser is None or len(data) > MAX_BYTES or _is_hard(data, language):
        return None
    calls = count()

    def is_lost(position: int, _: bool) -> bool:
        # It is asked every 100 steps of the parser, of which code takes one or two a byte; so many more are spent on
        # what is not in this language. Steps and not seconds are counted, so that it always gives up at one place.
        return next(calls) > _FREE_CALLS + position // _BYTES_PER_CALL

    try:
        return parser.parse(lambda at, _: data[at : at + _READ_BYTES], progress_callback=is_lost)
    except ValueError:  # it was told to stop
        parser.reset()
        return None


@cache
def _parser(language: str) -> Parser | None:
    module, function = GRAMMARS.get(language, ("", ""))
    if not module:
        return None
    try:
        from tree_sitter import Language, Parser

        grammar: object = getattr(import_module(module), function)()
        return Parser(Language(grammar))
    except Exception as error:  # whatever foreign code raises while it is loaded: the text is cut without it
        _log.debug("grammar not loaded", language=language, error_code=code_of(error))
        return None


def _is_hard(data: bytes, language: str) -> bool:
    """Whether a grammar may take time and memory that grow with the square of some part of the text.

    They do where much is still open at a mistake, in one step that cannot be stopped: 20 KB of "a<" read as Java
    take 1 GB. Python's does besides for comments: 15,000 lines of them take 1 GB, too.
    """
    return _is_deep(data) or _is_repetitive(data) or (language == "python" and _has_long_comment(data))


_MAX_DEPTH = 200
_OPENING = b"([{"
_NO_BRACKETS = bytes(set(range(256)) - set(b"()[]{}"))


def _is_deep(data: bytes) -> bool:
    """Whether brackets are nested ten times deeper than in any real code."""
    depth = 0
    for bracket in data.translate(None, _NO_BRACKETS):
        if bracket in _OPENING:
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif depth:
            depth -= 1
    return False


_WINDOW_BYTES = 8_192
_MAX_RATIO = 60


def _is_repetitive(data: bytes) -> bool:
    """Whether a stretch of the text is one short thing over and over; real code shrinks to a 50th at most."""
    windows = (data[start : start + _WINDOW_BYTES] for start in range(0, len(data), _WINDOW_BYTES))
    return any(len(window) > _MAX_RATIO * len(zlib.compress(window, 1)) for window in windows)


_COMMENT_LINES = 2_000


def _has_long_comment(data: bytes) -> bool:
    runs = groupby(data.split(b"\n"), key=lambda line: line.lstrip()[:1] in (b"#", b""))
    return any(is_comment and sum(1 for _ in lines) > _COMMENT_LINES for is_comment, lines in runs)


# --- definitions ---------------------------------------------------------------------------------------------


class _Zone(Enum):
    """Where a node stands."""

    TOP = auto()
    """in a module or a namespace"""
    CLASS = auto()
    """in a class or its like"""
    BODY = auto()
    """right inside a function"""
    INNER = auto()
    """deeper in a statement"""


_DEFINITIONS = {
    **dict.fromkeys(
        _words("namespace_declaration namespace_definition internal_module mod_item module"),
        _Zone.TOP,
    ),
    **dict.fromkeys(
        _words(
            "abstract_class_declaration annotation_type_declaration class class_declaration class_definition"
            " class_specifier enum_declaration enum_item enum_specifier impl_item interface_declaration"
            " record_declaration singleton_class struct_declaration struct_item struct_specifier trait_declaration"
            " trait_item type_alias_declaration type_definition type_spec union_item union_specifier"
        ),
        _Zone.CLASS,
    ),
    **dict.fromkeys(
        _words(
            "compact_constructor_declaration constructor_declaration destructor_declaration function_declaration"
            " function_definition function_item generator_function_declaration local_function_statement method"
            " method_declaration method_definition operator_declaration singleton_method"
        ),
        _Zone.BODY,
    ),
}
"""By type of node, what stands in its body. The grammars share these names."""

_ASSIGNMENTS = {
    "assignment": "right",
    "assignment_expression": "right",
    "field_definition": "value",
    "pair": "value",
    "public_field_definition": "value",
    "variable_declarator": "value",
}
"""Nodes that define a function or a class where their value, in this field, is one."""

_FUNCTION_VALUES = {
    **dict.fromkeys(_words("arrow_function function function_expression generator_function"), _Zone.BODY),
    "class": _Zone.CLASS,
}

_CONSTANTS = _words(
    "assignment assignment_expression const_element const_item const_spec declaration field_declaration"
    " macro_definition static_item var_spec variable_assignment variable_declarator"
)

_NAMES = {
    "assignment": "left",
    "assignment_expression": "left",
    "field_definition": "property",
    "impl_item": "type",
    "operator_declaration": "operator",
    "pair": "key",
    "singleton_class": "value",
}
"""Fields that hold the name, where it is not "name"."""

_BODIES = {"type_alias_declaration": "value", "type_spec": "type"}
_WRAPPERS = _words(
    "ambient_declaration const_declaration decorated_definition export_statement expression_statement"
    " lexical_declaration template_declaration type_declaration var_declaration variable_declaration"
)
_DECORATED = _words("decorated_definition export_statement template_declaration")
"""Wrappers that may begin lines above the definition in them."""

_TRANSPARENT = _words(
    "ERROR declaration_list enum_body_declarations field_declaration_list linkage_specification namespace_definition"
    " preproc_elif preproc_else preproc_if preproc_ifdef statement_list"
)
"""Nodes whose children stand where they stand themselves."""

_ATTACHED = _words("access_specifier attribute_item decorator")
"""What belongs to the definition below, as comments do."""


class _Definition(NamedTuple):
    """The nodes of a definition's name and body, and what stands in the body."""

    name: Node
    body: Node | None
    zone: _Zone


def _definition(node: Node) -> _Definition | None:
    zone = _DEFINITIONS.get(node.type)
    if zone is not None:
        body = _body(node)
    elif node.type in _ASSIGNMENTS and (value := node.child_by_field_name(_ASSIGNMENTS[node.type])):
        zone = _FUNCTION_VALUES.get(value.type)
        body = value.child_by_field_name("body")
    else:
        return None
    name = _name(node)
    return _Definition(name, body, zone) if name and body and zone else None


def _body(node: Node) -> Node | None:
    if node.type == "type_definition":
        defined = node.child_by_field_name("type")
        return defined and defined.child_by_field_name("body")
    body = node.child_by_field_name(_BODIES.get(node.type, "body"))
    return None if body and node.type in _BODIES and body.start_point.row == _last_row(body) else body


def _name(node: Node) -> Node | None:
    """The node of a name; C wraps it into what is declared with it: `*(name[8])`."""
    found = node.child_by_field_name(_NAMES.get(node.type, "name")) or node.child_by_field_name("declarator")
    while found and found.type.endswith("declarator"):
        found = found.child_by_field_name("declarator") or found.child_by_field_name("name") or _last_child(found)
    return found


def _first_children(node: Node) -> list[Node]:
    """Enough of them to see a keyword behind attributes and modifiers."""
    children = (node.child(number) for number in range(min(node.child_count, _FIRST_CHILDREN)))
    return [child for child in children if child]


_FIRST_CHILDREN = 20


def _last_child(node: Node) -> Node | None:
    return node.named_children[-1] if node.named_children else None


def _last_row(node: Node) -> int:
    """The last line of a node; some comments end at the start of the next."""
    end = node.end_point
    return end.row - 1 if end.column == 0 and end.row > node.start_point.row else end.row


# --- the walk ------------------------------------------------------------------------------------------------

_STATEMENTS = {
    _Zone.TOP: (Cut.PARAGRAPH, Cut.LINE),
    _Zone.CLASS: (Cut.BLOCK, Cut.LINE),
    _Zone.BODY: (Cut.CODE_GAP, Cut.CODE_GAP),
}
"""What a cut before a statement is: at a blank line, and elsewhere."""

_MODIFIERS = re.compile(r"[\w\s.:=@,*&<>'\"-]*")
_MODIFIER_CHARS = 200
_NAME_CHARS = 100
_DECORATOR_ROWS = 8


@dataclass(slots=True)
class _Frame:
    """A node whose children are being visited.

    zone, level, local: where they stand, the level of a definition among them, whether a function is around them.
    target: the body to go down to, past all else. row: where the node begins, start: with what is attached to it.
    before: last line of the child before; run: where the comments began that reach down to there.
    """

    node: Node
    zone: _Zone
    level: int
    local: bool
    row: int = -1
    start: int = -1
    target: Node | None = None
    before: int = -1
    run: int | None = None


class _Walk:
    """One pass over a syntax tree."""

    def __init__(self, text: str, data: bytes, rows: list[_Row]) -> None:
        self.headings: list[Heading] = []
        self._text = text
        self._data = data
        self._rows = rows
        self._is_ascii = text.isascii()
        self._cuts: dict[int, Cut] = {}  # by row
        self._glued: set[int] = set()  # rows that no cut comes before
        self._last_row = -1  # of the heading before
        self._open = 0  # level of the last definition, while its section goes on

    def run(self, tree: Tree) -> None:
        """Record the headings and the cuts of a tree."""
        cursor = tree.walk()
        frames = [_Frame(tree.root_node, _Zone.TOP, 1, local=False)] if cursor.goto_first_child() else []
        while frames:
            inner = self._visit(cursor.node, frames[-1]) if cursor.node else None
            if inner and cursor.goto_first_child():
                frames.append(inner)
                continue
            while frames and not cursor.goto_next_sibling():
                self._end_run(frames.pop())
                cursor.goto_parent()

    def cuts(self) -> Iterator[tuple[int, Cut]]:
        """The cuts, in order; where nothing is known of a line, it is code."""
        for number, row in enumerate(self._rows):
            if number in self._cuts:
                yield row.start, self._cuts[number]
            elif not (_is_blank(row) or number in self._glued or _GOES_ON.match(self._text, row.start, row.end)):
                yield row.start, Cut.CODE_GAP if self._is_gap(number) else Cut.CODE

    def _is_gap(self, number: int) -> bool:
        return number > 0 and _is_blank(self._rows[number - 1])

    def _visit(self, node: Node, frame: _Frame) -> _Frame | None:
        """Record what a node says; the frame of its children, where they are to be visited."""
        if frame.target:
            return self._towards(node, frame, frame.target)
        row, before = node.start_point.row, frame.before
        frame.before = _last_row(node)
        if not node.is_named:
            return None
        if "comment" in node.type or node.type in _ATTACHED:
            if self._starts_line(node) and (frame.run is None or row > before + 1):
                self._end_run(frame)
                frame.run = row
            return None
        start = self._start(frame, row, before)
        return self._define(node, frame, start) or self._pass(node, frame, start)

    def _towards(self, node: Node, frame: _Frame, target: Node) -> _Frame | None:
        if node.id == target.id:
            return _Frame(node, frame.zone, frame.level, frame.local)
        around = node.start_byte <= target.start_byte and target.end_byte <= node.end_byte
        return replace(frame, node=node) if around else None

    def _start(self, frame: _Frame, row: int, before: int) -> int:
        """The line at which a node begins with what is attached to it."""
        run = frame.run
        if (frame.node.type in _DECORATED or row == frame.row) and frame.start > self._last_row:
            frame.run = None
            return frame.start
        if run is None or row > before + 1:
            self._end_run(frame)
            return row
        frame.run = None
        self._glued.add(row)
        return run

    def _end_run(self, frame: _Frame) -> None:
        """Comments that nothing follows directly stand for themselves."""
        if frame.run is not None:
            self._state(frame.run, frame)
            frame.run = None

    def _starts_line(self, node: Node) -> bool:
        row, column = node.start_point
        return column == self._rows[row].white and not _is_blank(self._rows[row])

    def _state(self, row: int, frame: _Frame) -> None:
        """Record the statement that begins at this line; it ends the section of a definition beside it."""
        kinds = _STATEMENTS.get(frame.zone)
        if kinds and row not in self._glued:
            self._cuts[row] = kinds[0] if self._is_gap(row) else kinds[1]
        start = self._rows[row].start
        if self._open >= frame.level:
            self.headings.append(Heading(start, start, frame.level, ""))
            self._open = frame.level - 1

    def _pass(self, node: Node, frame: _Frame, start: int) -> _Frame | None:
        """Record a node that is no heading."""
        if self._starts_line(node):
            self._state(start, frame)
        row = node.start_point.row
        if node.type in _TRANSPARENT:
            return _Frame(node, frame.zone, frame.level, frame.local, row, start)
        short = node.end_byte - node.start_byte < LONG_CHARS if frame.local else row == _last_row(node)
        if short and (frame.local or node.type not in _WRAPPERS):
            return None
        return _Frame(node, _Zone.INNER, frame.level, frame.local, row, start)

    # headings

    def _define(self, node: Node, frame: _Frame, start: int) -> _Frame | None:
        """Record a definition as a heading, if it is to be one; the frame that leads to its body."""
        long = node.end_byte - node.start_byte >= LONG_CHARS
        if (frame.local and not long) or frame.level > MAX_LEVEL or start <= self._last_row:
            return None
        found = _definition(node)
        if found is None and long and not frame.local and node.type in _CONSTANTS and (name := _name(node)):
            found = _Definition(name, None, _Zone.INNER)
        title = self._title(node, frame, found) if found and self._opens_line(node) else ""
        if not found or not title:
            return None
        self._add_heading(node, frame, start, found, title)
        local = frame.local or found.zone is _Zone.BODY
        return _Frame(node, found.zone, frame.level + 1, local, target=found.body)

    def _opens_line(self, node: Node) -> bool:
        """Whether nothing but words as "private" and "exports.x =" stands before it in its line."""
        row, column = node.start_point
        line = self._rows[row]
        return column < _MODIFIER_CHARS and bool(
            _MODIFIERS.fullmatch(self._text, line.begin, self._offset(row, column))
        )

    def _offset(self, row: int, column: int) -> int:
        """Offset in the text of a column that counts bytes."""
        begin = self._rows[row].begin
        if self._is_ascii:
            return begin + column
        line = self._text[begin : begin + column].encode()[:column]
        return begin + len(line.decode(errors="ignore"))

    def _add_heading(self, node: Node, frame: _Frame, start: int, found: _Definition, title: str) -> None:
        begin = self._rows[start].start
        end = self._signature_end(found)
        while self.headings and self.headings[-1].start >= begin:  # the end of the section before, told here already
            self.headings.pop()
        bare = bool(self.headings) and not self._text[self.headings[-1].end : begin].strip()
        self.headings.append(Heading(begin, end, frame.level, title))
        self._cuts[start] = Cut.SPACE if bare else Cut.SECTION
        self._open = frame.level
        self._last_row = bisect_right(self._rows, end - 1, key=_begin) - 1
        self._glued.update(range(max(start + 1, node.start_point.row - _DECORATOR_ROWS), self._last_row + 1))
        if _last_row(node) > self._last_row:  # a heading never ends a chunk
            self._glued.add(self._next_row(self._last_row))

    def _next_row(self, row: int) -> int:
        """The next line that is not blank."""
        row += 1
        while row < len(self._rows) and _is_blank(self._rows[row]):
            row += 1
        return row

    def _signature_end(self, found: _Definition) -> int:
        if found.body is None:
            return self._offset(*found.name.end_point)
        end = self._offset(*found.body.start_point)
        if self._text.startswith("{", end):
            return end + 1
        while self._text[end - 1].isspace():
            end -= 1
        return end

    def _title(self, node: Node, frame: _Frame, found: _Definition) -> str:
        """The name with its kind as written; empty where that has no letter, or is too long for a name."""
        name = self._written(found.name, found.name)
        if not name or len(name) > _NAME_CHARS:
            return ""
        outer = _first_children(frame.node) if frame.node.type in _WRAPPERS else []
        before = (token for token in (*outer, *_first_children(node)) if token.start_byte < found.name.start_byte)
        keyword = next((token for token in before if not token.is_named and token.type in _KEYWORDS), None)
        if keyword is None:
            title = f"{name}()" if found.zone is _Zone.BODY else name
            return title if any(map(str.isalnum, name)) else ""
        return " ".join(self._written(keyword, found.name).split()) or f"{keyword.type} {name}"

    def _written(self, first: Node, last: Node) -> str:
        """What is written from one node to another, if it is in one line and not too long for a title."""
        if first.start_point.row != last.end_point.row or last.end_byte - first.start_byte > TITLE_CHARS:
            return ""
        return self._data[first.start_byte : last.end_byte].decode(errors="replace")


def _begin(row: _Row) -> int:
    return row.begin

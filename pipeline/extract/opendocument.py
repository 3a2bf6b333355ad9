"""OpenDocument texts and presentations to Markdown, by a walk over their XML.

odfpy unzips the file by itself, keeps deleted text and runs notes into their sentence ("a" and "b" with a
note "n" become "a1nb"); to mend that takes this same walk over a tree of its own, so it is not used.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from pipeline.document import Document
from pipeline.extract.archive import unpack
from pipeline.extract.blocks import Block, item, joined, paragraph
from pipeline.extract.decode import TITLE_CHARS
from pipeline.extract.numbering import numeral, whole_number
from pipeline.extract.ooxml import Element, Parts, child, children, tidy
from pipeline.extract.slides import Slide, presentation
from pipeline.extract.source import Source
from pipeline.extract.tables import PADDED_CELLS, table
from storage.errors import ExtractError

_etree: Any = import_module("lxml.etree")  # it has no types


def _namespace(name: str) -> str:
    return f"{{urn:oasis:names:tc:opendocument:xmlns:{name}:1.0}}"


_OFFICE, _TEXT, _TABLE, _DRAW = (_namespace(name) for name in ("office", "text", "table", "drawing"))
_STYLE, _SLIDES, _META, _MANIFEST = (_namespace(name) for name in ("style", "presentation", "meta", "manifest"))
_DC = "{http://purl.org/dc/elements/1.1/}"
_MATH = "{http://www.w3.org/1998/Math/MathML}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ID = "{http://www.w3.org/XML/1998/namespace}id"

_DEPTH = 10
"""Levels of a list. Deeper ones are written as this one."""

_LABEL_CHARS = 20
"""What stands before and after a number at most: it comes again with every item."""


def read_opendocument(source: Source) -> Document:
    """Read an OpenDocument text or presentation, or a template of one, as Markdown.

    A part that cannot be read (styles, a chart) is listed in `metadata["parts_failed"]` and the rest is kept.
    Raises ExtractError: encrypted, corrupt, too_large (a zip bomb), no_text.
    """
    parts = _open(source.data)
    root = parts.xml("content.xml")
    body = None if root is None else child(root, _OFFICE + "body")
    kinds = (_OFFICE + "text", _OFFICE + "presentation")
    content = None if body is None else next(children(body, *kinds), None)
    if root is None or content is None:
        reason = "corrupt OpenDocument file: it holds neither a text nor a presentation: save it again in LibreOffice"
        raise ExtractError(reason)
    try:
        return _document(parts, root, content, source.parser)
    except RecursionError as error:
        reason = "corrupt OpenDocument file: it nests deeper than any program writes it: do not trust it"
        raise ExtractError(reason) from error


def _document(parts: Parts, root: Element, content: Element, parser: str) -> Document:
    styles = parts.optional("styles.xml")
    walk = _Walk(parts, _read_styles(styles, root))
    if content.tag == _OFFICE + "presentation":
        slides = list(walk.slides(content))
        return presentation(slides, _metadata(parts), parser)
    text = joined([*walk.text(content), *walk.margins(styles)])
    if not text:
        raise ExtractError("no text in the document: if it holds pictures of text, run OCR first", code="no_text")
    return Document(text, "markdown", parser, metadata=_metadata(parts))


# --- the archive ---------------------------------------------------------------------------------------------


def _open(data: bytes) -> Parts:
    contents = unpack(data, wanted=lambda name: name.lower().endswith(".xml"))
    parts = Parts(
        {name: _EXTERNAL_DTD.sub(b"", content, count=1) for name, content in contents.items()},
        format_name="OpenDocument file",
        program="LibreOffice",
        parse=_parse,
    )
    manifest = parts.optional("META-INF/manifest.xml")
    for entry in manifest if manifest is not None else ():
        locked = child(entry, _MANIFEST + "encryption-data") is not None
        if locked and entry.get(_MANIFEST + "full-path") in ("content.xml", "encrypted-package"):
            reason = "encrypted OpenDocument file: save a copy without password, as only a PDF's can be given"
            raise ExtractError(reason, code="encrypted")
    return parts


_EXTERNAL_DTD = re.compile(rb"<!DOCTYPE[^\[>]{0,500}>")
"""OpenOffice named its document types, which hold no declarations here. One that does is refused."""


def _parse(content: bytes) -> object:
    # python-docx's parser leaves out the space between two spans, which parts two words.
    parser = _etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    return _etree.fromstring(content, parser)


def _metadata(parts: Parts) -> dict[str, Any]:
    root = parts.optional("meta.xml")
    meta = None if root is None else child(root, _OFFICE + "meta")
    stated: dict[str, list[str]] = {}
    for node in meta if meta is not None else ():
        if key := _STATED.get(str(node.tag)):
            stated.setdefault(key, []).append(node.text or "")
    authors = stated.pop("changed by", [])
    texts = {key: tidy(", ".join(filter(None, values))) for key, values in {"author": authors, **stated}.items()}
    known: dict[str, Any] = {key: text[:TITLE_CHARS] for key, text in texts.items() if text}
    return known | ({"parts_failed": parts.failed} if parts.failed else {})


_STATED = {
    _DC + "title": "title",
    _DC + "subject": "subject",
    _DC + "creator": "changed by",
    _DC + "date": "modified",
    _META + "initial-creator": "author",
    _META + "creation-date": "created",
    _META + "keyword": "keywords",
}


# --- styles --------------------------------------------------------------------------------------------------


class _Level(NamedTuple):
    """What stands before the items of one level of a list.

    number_format: "1", "a", "I"…; "" for nothing at all; None for a bullet. shown: levels whose numbers are
    written, as 2 in "4.2".
    """

    number_format: str | None
    prefix: str = ""
    suffix: str = ""
    shown: int = 1
    start: int = 1


_BULLET, _UNMARKED = _Level(None), _Level("")
_Levels = dict[int, _Level]
"""By depth, from 0."""


@dataclass(slots=True)
class _Styles:
    """What is needed of a document's styles. parents, hidden: by family and name of a style."""

    parents: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    hidden: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    lists: dict[str, _Levels] = field(default_factory=dict[str, _Levels])
    outline: _Levels = field(default_factory=dict[int, _Level])

    def is_title(self, name: str) -> bool:
        """Whether a paragraph style is Title or made from it; its name is English in every language."""
        for _ in range(16):  # a damaged file may base a style on itself
            if name == "Title":
                return True
            name = self.parents.get(("paragraph", name), "")
        return False


def _read_styles(common: Element | None, content: Element) -> _Styles:
    """Styles of the document and those of its own that the content has; the latter win."""
    styles = _Styles()
    holders = [child(common, _OFFICE + "styles")] if common is not None else []
    holders.append(child(content, _OFFICE + "automatic-styles"))
    for style in (style for holder in holders if holder is not None for style in holder):
        name = style.get(_STYLE + "name") or ""
        if style.tag == _TEXT + "list-style":
            styles.lists[name] = _list_levels(style)
        elif style.tag == _TEXT + "outline-style":
            styles.outline = _list_levels(style)
        elif style.tag == _STYLE + "style":
            key = style.get(_STYLE + "family") or "", name
            styles.parents[key] = style.get(_STYLE + "parent-style-name") or ""
            if any(each.get(_TEXT + "display") == "none" or _is_hidden_page(each) for each in style):
                styles.hidden.add(key)
    return styles


def _is_hidden_page(properties: Element) -> bool:
    return properties.get(_SLIDES + "visibility") == "hidden"


def _list_levels(style: Element) -> _Levels:
    levels: _Levels = {}
    for level in style:
        depth = whole_number(level.get(_TEXT + "level"), 1) - 1
        levels[depth] = _level(level)
    return levels


def _level(level: Element) -> _Level:
    if level.tag not in (_TEXT + "list-level-style-number", _TEXT + "outline-level-style"):
        return _UNMARKED if level.get(_TEXT + "bullet-char") in ("", " ") else _BULLET
    return _Level(
        level.get(_STYLE + "num-format") or "",
        (level.get(_STYLE + "num-prefix") or "")[:_LABEL_CHARS],
        (level.get(_STYLE + "num-suffix") or "")[:_LABEL_CHARS],
        whole_number(level.get(_TEXT + "display-levels"), 1),
        whole_number(level.get(_TEXT + "start-value"), 1),
    )


class _Counts(list[int | None]):
    """How far a list has counted, by depth; None where it has not begun."""

    def __init__(self) -> None:
        super().__init__([None] * _DEPTH)

    def next_label(self, levels: _Levels, depth: int) -> str | None:
        """What stands before the next item, such as "4.2."; empty for a bullet, None for nothing."""
        level = levels.get(depth, _BULLET)
        before = self[depth]
        self[depth:] = [level.start if before is None else before + 1] + [None] * (_DEPTH - depth - 1)
        if level.number_format is None:
            return ""
        if not level.number_format:
            return None
        shown = range(max(0, depth - level.shown + 1), depth + 1)
        return level.prefix + ".".join(self._written(levels, at) for at in shown) + level.suffix

    def _written(self, levels: _Levels, depth: int) -> str:
        level, count = levels.get(depth, _UNMARKED), self[depth]
        kind = _NUMERALS.get(level.number_format or "", "decimal")
        return numeral(level.start if count is None else count, kind)


_NUMERALS = {"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}


# --- the walk ------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a paragraph stands in a list. label: what is drawn before it, None for nothing."""

    label: str | None
    depth: int


@dataclass(slots=True)
class _Walk:
    """One pass through a document in reading order.

    boxes: frames and drawings met inside the paragraph at hand. notes, comments: met so far.
    counts: of lists that may go on, by id and by style. opened: embedded objects that were read, each once.
    in_cell: a table cell, note or comment is being read, all on one line.
    """

    parts: Parts
    styles: _Styles
    boxes: list[Element] = field(default_factory=list[Element])
    notes: list[Block] = field(default_factory=list[Block])
    comments: list[Block] = field(default_factory=list[Block])
    counts: dict[str, _Counts] = field(default_factory=dict[str, _Counts])
    outline: _Counts = field(default_factory=_Counts)
    opened: set[str] = field(default_factory=set[str])
    in_cell: bool = False

    def text(self, body: Element) -> list[Block]:
        """Body, then notes, then comments."""
        return [*self._blocks(body), *self.notes, *self.comments]

    def margins(self, styles: Element | None) -> Iterator[Block]:
        """Headers and footers, each text once however many page styles repeat it, but no bare page numbers."""
        masters = None if styles is None else child(styles, _OFFICE + "master-styles")
        seen: set[str] = set()
        for margin in (margin for master in masters for margin in master) if masters is not None else ():
            if margin.tag in _MARGINS and margin.get(_STYLE + "display") != "false":
                for block in self._blocks(margin):
                    if block.text not in seen and any(map(str.isalpha, block.text)):
                        seen.add(block.text)
                        yield Block(block.text)

    def slides(self, body: Element) -> Iterator[Slide]:
        """The slides in order; hidden ones, too."""
        for page in children(body, _DRAW + "page"):
            title, notes = "", list[Block]()
            blocks: list[Block] = []
            for node in page:
                if node.tag == _SLIDES + "notes":
                    notes += self._blocks(node)
                elif node.get(_SLIDES + "class") == "title" and not title:
                    title = self._flat(node)
                else:
                    blocks += self._block(node)
            hidden = ("drawing-page", page.get(_DRAW + "style-name") or "") in self.styles.hidden
            yield Slide(title, [*blocks, *self.notes], notes, self.comments, hidden)
            self.notes, self.comments = [], []

    def _blocks(self, container: Element) -> Iterator[Block]:
        return (block for node in container for block in self._block(node))

    def _block(self, node: Element) -> Iterator[Block]:
        """Blocks of one element of a body, cell, note, frame or slide."""
        if node.tag in (_TEXT + "p", _TEXT + "h"):
            yield from self._paragraph(node, None)
        elif node.tag == _TEXT + "list":
            yield from self._list(node)
        elif node.tag == _TABLE + "table":
            yield from self._table(node)
        elif node.tag == _OFFICE + "annotation":
            self._comment(node)
        elif node.tag not in _NO_TEXT and not _is_left_out(node):
            held = self._object(node) if node.tag == _DRAW + "frame" else None
            yield from self._blocks(node) if held is None else self._held(held)

    def _paragraph(self, node: Element, place: _Place | None) -> Iterator[Block]:
        outer, self.boxes = self.boxes, []
        text = tidy("".join(self._inline(node, "paragraph")))
        boxes, self.boxes = self.boxes, outer
        if text:
            yield self._formatted(node, text, place)
        for box in boxes:
            yield from self._held(box)

    def _formatted(self, node: Element, text: str, place: _Place | None) -> Block:
        """A paragraph as heading, list item or plain paragraph."""
        is_title = self.styles.is_title(node.get(_TEXT + "style-name") or "")
        if node.tag == _TEXT + "h" or (is_title and place is None):
            level = max(whole_number(node.get(_TEXT + "outline-level"), 1), 1) if node.tag == _TEXT + "h" else 1
            label = place.label if place else self._outline_label(node, level)
            heading = " ".join(f"{label or ''} {text}".split())
            return Block(heading) if self.in_cell else Block(f"{'#' * min(level, 6)} {heading}")
        unmarked = place is None or place.label is None or (self.in_cell and not place.label)
        if place is None or unmarked:
            return Block(text) if self.in_cell else paragraph(text)
        return item(text, place.label or "", place.depth)

    def _outline_label(self, heading: Element, level: int) -> str | None:
        """The number that the document draws before its headings."""
        numbered = heading.tag == _TEXT + "h" and heading.get(_TEXT + "is-list-header") != "true"
        if not numbered or not self.styles.outline or level > _DEPTH:
            return None
        return self.outline.next_label(self.styles.outline, level - 1)

    def _inline(self, node: Element, family: str = "text") -> Iterator[str]:
        """Text of a paragraph or of anything in it; frames and drawings are put aside."""
        if (family, node.get(_TEXT + "style-name") or "") in self.styles.hidden:
            return
        yield _collapsed(node.text)
        for each in node:
            yield from self._piece(each)
            yield _collapsed(each.tail)

    def _piece(self, node: Element) -> Iterator[str]:
        if node.tag == _TEXT + "s":
            yield " " * min(whole_number(node.get(_TEXT + "c"), 1), 64)
        elif node.tag in _MARKS:
            yield _MARKS[node.tag]
        elif node.tag == _TEXT + "note":
            yield self._note(node)
        elif node.tag == _OFFICE + "annotation":
            self._comment(node)
        elif node.tag in _ANCHORED:
            held = self._object(node)
            if held is not None and held.tag == _MATH + "math":
                yield _formula(held)
            else:
                self.boxes.append(node if held is None else held)
        elif node.tag not in _NO_TEXT and not _is_left_out(node):
            yield from self._inline(node)

    def _flat(self, node: Element) -> str:
        """The text of a cell, note or comment on one line."""
        outer, self.in_cell = self.in_cell, True
        text = " ".join(" ".join(block.text for block in self._blocks(node)).split())
        self.in_cell = outer
        return text

    def _note(self, note: Element) -> str:
        """The mark of a footnote or endnote, whose text is put aside."""
        body = child(note, _TEXT + "note-body")
        text = self._flat(body) if body is not None else ""
        prefix = "e" if note.get(_TEXT + "note-class") == "endnote" else ""
        mark = f"[^{prefix}{len(self.notes) + 1}]"
        if text:
            self.notes.append(Block(f"{mark}: {text}"))
        return mark if text else ""

    def _comment(self, annotation: Element) -> None:
        author = child(annotation, _DC + "creator")
        name = tidy(author.text or "") if author is not None else ""
        if text := self._flat(annotation):
            self.comments.append(Block(f"Comment ({name or 'unsigned'}): {text}"))

    # lists

    def _list(self, node: Element) -> Iterator[Block]:
        """An outermost list; it counts on from an earlier one where it says so."""
        style = node.get(_TEXT + "style-name") or ""
        before = node.get(_TEXT + "continue-list") or (
            f"style {style}" if node.get(_TEXT + "continue-numbering") == "true" else ""
        )
        counts = self.counts.get(before) or _Counts()
        self.counts |= {f"style {style}": counts, node.get(_ID) or "no id": counts}
        yield from self._items(node, style, counts, 0)

    def _items(self, node: Element, style: str, counts: _Counts, depth: int) -> Iterator[Block]:
        for entry in children(node, _TEXT + "list-item", _TEXT + "list-header"):
            start = whole_number(entry.get(_TEXT + "start-value"), -1)
            if start >= 0:
                counts[depth] = start - 1
            labelled = entry.tag == _TEXT + "list-header"
            for each in entry:
                if each.tag in (_TEXT + "p", _TEXT + "h"):
                    label = None if labelled else counts.next_label(self.styles.lists.get(style, {}), depth)
                    labelled = True
                    yield from self._paragraph(each, _Place(label, min(depth, _DEPTH - 1)))
                elif each.tag == _TEXT + "list":
                    inner = each.get(_TEXT + "style-name") or style
                    yield from self._items(each, inner, counts, min(depth + 1, _DEPTH - 1))
                else:
                    yield from self._block(each)

    # tables

    def _table(self, node: Element) -> Iterator[Block]:
        """A Markdown table; a table of one column only places things, so its blocks are given as they are."""
        rows = [list(_cells(row)) for row in _rows(node)]
        if all(len(row) <= 1 for row in rows):
            for cell in (cell for row in rows for cell in row if cell is not None):
                yield from self._blocks(cell)
            return
        texts = [[self._flat(cell) if cell is not None else "" for cell in row] for row in rows]
        if self.in_cell:  # a table cannot hold another one: its words alone
            yield from (Block(" ".join(filter(None, row))) for row in texts if any(row))
        elif text := table(map(_without_blank_end, texts)):
            yield Block(text)

    # embedded objects

    def _object(self, frame: Element) -> Element | None:
        """Body of the chart, formula or table in a frame, the first time; None for other frames."""
        held = child(frame, _DRAW + "object")
        name = posixpath.normpath((held.get(_HREF) or "") if held is not None else "")
        if held is None or name.lower() in self.opened:
            return None
        self.opened.add(name.lower())
        root = self.parts.optional(f"{name}/content.xml")
        if root is None or root.tag == _MATH + "math":
            return root
        return child(root, _OFFICE + "body")

    def _held(self, node: Element) -> Iterator[Block]:
        """Blocks of a frame or of what `_object` found in one."""
        if node.tag != _MATH + "math":
            yield from self._blocks(node)
        elif text := _formula(node):
            yield Block(text)


_MARKS: dict[object, str] = {_TEXT + "tab": "\t", _TEXT + "line-break": "\n"}
_MARGINS = tuple(f"{_STYLE}{place}{which}" for place in ("header", "footer") for which in ("", "-left", "-first"))
_ANCHORED = frozenset(
    _DRAW + name
    for name in (
        *("frame", "g", "custom-shape", "rect", "line", "polyline", "polygon", "regular-polygon", "path", "circle"),
        *("ellipse", "connector", "caption", "measure", "control", "page-thumbnail"),
    )
)
_NO_TEXT = frozenset(
    (
        *(_TEXT + name for name in ("tracked-changes", "ruby-text", "note-citation", "page-number", "script")),
        *(_TEXT + f"{name}-index" for name in ("alphabetical", "illustration", "object", "table", "user")),
        *(_TEXT + "table-of-content", _OFFICE + "forms", _OFFICE + "event-listeners"),
        *(_OFFICE + name for name in ("styles", "automatic-styles", "master-styles", "meta", "settings", "scripts")),
    )
)
"""Deleted text, readings above East Asian characters, lists of headings and the like that repeat the text,
and what is no content."""
_PAGE_FIELDS = ("page-number", "date-time", "header", "footer")


def _is_left_out(node: Element) -> bool:
    """Whether something is hidden, or repeated on every slide."""
    hidden = node.get(_TEXT + "display") == "none" or node.get(_TEXT + "is-hidden") == "true"
    return hidden or node.get(_SLIDES + "class") in _PAGE_FIELDS


_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


def _collapsed(text: str | None) -> str:
    """White space in the XML is one space; more is written as elements."""
    return _WHITE_SPACE.sub(" ", text) if text else ""


def _formula(math: Element) -> str:
    """The plain characters of a formula."""
    tokens = (node.text or "" for node in math.iter(*(_MATH + name for name in ("mi", "mn", "mo", "ms", "mtext"))))
    return " ".join(tidy(" ".join(tokens)).split())


def _rows(node: Element) -> Iterator[Element]:
    """Rows of this table, none of a nested one."""
    for each in node:
        if each.tag == _TABLE + "table-row":
            yield each
        elif each.tag in _ROW_GROUPS:
            yield from _rows(each)


_ROW_GROUPS = tuple(_TABLE + name for name in ("table-header-rows", "table-rows", "table-row-group"))


def _cells(row: Element) -> Iterator[Element | None]:
    """One entry a column: the cell, or None where a merged or repeated one goes on."""
    for cell in children(row, _TABLE + "table-cell", _TABLE + "covered-table-cell"):
        yield None if cell.tag == _TABLE + "covered-table-cell" else cell
        repeated = whole_number(cell.get(_TABLE + "number-columns-repeated"), 1)
        yield from [None] * (min(repeated, PADDED_CELLS) - 1)


def _without_blank_end(row: list[str]) -> list[str]:
    filled = max((at for at, text in enumerate(row, start=1) if text), default=0)
    return row[:filled]

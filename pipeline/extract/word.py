"""DOCX to Markdown: headings, lists with their numbers, tables, notes, remarks, text boxes, SmartArt.

The XML is walked rather than python-docx's paragraphs, which leave out what stands in hyperlinks,
tracked insertions, content controls and text boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from docx.oxml.ns import qn

from pipeline.document import Document
from pipeline.extract.blocks import Block, item, joined, paragraph
from pipeline.extract.decode import declared_encoding, decode
from pipeline.extract.numbering import Numbering, read_numbering
from pipeline.extract.ooxml import Element, Package, alternative, child, children, core_metadata, tidy, value, w
from pipeline.extract.slides import diagram
from pipeline.extract.source import Source
from pipeline.extract.symbols import symbol
from storage.errors import ExtractError

_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_HEADING_NAME = re.compile(r"heading ?([1-9])")
_MAX_ANCESTORS = 16


@dataclass(frozen=True, slots=True)
class _Style:
    """A paragraph style: its built-in (English) name, what it is based on, and its paragraph properties."""

    name: str
    based_on: str
    properties: Element | None


def read_docx(source: Source) -> Document:
    """Read a Word document, template or macro-enabled document as Markdown.

    What it states about itself is left out where that cannot be read, and `metadata["parts_failed"]` names it.
    Raises ExtractError: encrypted, corrupt, too_large (a zip bomb), no_text.
    """
    package = Package(source.data)
    main = package.root_part("officeDocument", "word/document.xml")
    root = package.xml(main)
    body = None if root is None else child(root, w("body"))
    if body is None:
        raise ExtractError("corrupt DOCX: it holds no Word document: save it again in Word")
    text = _Walk(package, main).text_of(body)
    if not text:
        reason = "no text in the document: if it holds pictures of text, run OCR first"
        raise ExtractError(reason, code="no_text")
    return Document(text, "markdown", source.parser, metadata=_metadata(package))


def _metadata(package: Package) -> dict[str, Any]:
    return core_metadata(package) | ({"parts_failed": package.failed} if package.failed else {})


@dataclass(slots=True)
class _Walk:
    """One pass through a document in reading order.

    boxes: text boxes and SmartArt met inside the paragraph at hand; in_cell: whether a table cell is being read.
    opened: parts that hold SmartArt, which are read once, however many places refer to them.
    """

    package: Package
    main: str
    styles: dict[str, _Style] = field(init=False)
    numbering: Numbering = field(init=False)
    boxes: list[Element] = field(default_factory=list[Element])
    opened: set[str] = field(default_factory=set[str])
    in_cell: bool = False

    def __post_init__(self) -> None:
        self.styles = _read_styles(next(self._related("styles"), None))
        self.numbering = read_numbering(next(self._related("numbering"), None))

    def text_of(self, body: Element) -> str:
        """The whole text: body, notes, remarks, then headers and footers, each of these once."""
        blocks = [*self._blocks(body), *self._notes(), *self._comments(), *self._margins()]
        return joined(blocks)

    def _related(self, kind: str) -> Iterator[Element]:
        parts = sorted({r.part for r in self.package.relations(self.main).values() if r.kind == kind})
        return (root for part in parts if (root := self.package.xml(part)) is not None)

    def _blocks(self, container: Element) -> Iterator[Block]:
        """Blocks of a body, cell, note or text box."""
        for node in container:
            if node.tag == w("p"):
                yield from self._paragraph(node)
            elif node.tag == w("tbl"):
                yield from self._table(node)
            elif node.tag == w("altChunk"):
                yield from self._embedded(node)
            elif node.tag == _MC + "AlternateContent":
                yield from self._blocks(alternative(node))
            elif node.tag not in _NO_TEXT:
                yield from self._blocks(node)

    def _paragraph(self, paragraph: Element) -> Iterator[Block]:
        text = tidy("".join(self._inline(paragraph)))
        boxes, self.boxes = self.boxes, []
        properties = child(paragraph, w("pPr"))
        if text:
            yield self._formatted(text, properties)
        for box in boxes:
            yield from diagram(box) if box.tag == _DIAGRAM + "dataModel" else self._blocks(box)

    def _formatted(self, text: str, properties: Element | None) -> Block:
        """A paragraph as heading, list item or plain paragraph."""
        chain = list(self._style_chain(properties))
        level = _heading_level(properties, chain)
        numbered = _list_place(properties, chain)
        label = self.numbering.next_label(*numbered) if numbered else ""
        if level:
            heading = " ".join(f"{label} {text}".split())
            return Block(heading) if self.in_cell else Block(f"{'#' * min(level, 6)} {heading}")
        if numbered is None:
            return Block(text) if self.in_cell else paragraph(text)
        return item(text, label, numbered[1])

    def _style_chain(self, properties: Element | None) -> Iterator[_Style]:
        """The style of a paragraph and those it is based on, the nearest first."""
        style_id = None if properties is None else value(properties, "pStyle")
        for _ in range(_MAX_ANCESTORS):  # a damaged file may base a style on itself
            if not style_id:
                return
            style = self.styles.get(style_id) or _Style(style_id.lower(), "", None)
            yield style
            style_id = style.based_on

    def _inline(self, node: Element) -> Iterator[str]:
        """Text of a paragraph or of anything in it; text boxes are put aside."""
        for each in node:
            if each.tag in _TEXT:
                yield each.text or ""
            elif each.tag in _MARKS:
                yield _MARKS[each.tag]
            elif each.tag in _NOTE_PREFIX:
                yield f"[^{_NOTE_PREFIX[each.tag]}{each.get(w('id'))}]"
            elif each.tag == w("sym"):
                yield symbol(each.get(w("font")) or "", each.get(w("char")) or "")
            elif each.tag == w("txbxContent"):
                self.boxes.append(each)
            elif each.tag == _DIAGRAM + "relIds":
                self._put_aside(each.get(qn("r:dm")) or "")
            elif each.tag == _MC + "AlternateContent":
                yield from self._inline(alternative(each))
            elif each.tag not in _NO_TEXT and not _is_hidden(each):
                yield from self._inline(each)

    def _put_aside(self, relation_id: str) -> None:
        """Keep a SmartArt for the end of the paragraph, the first time that something refers to it."""
        relation = self.package.relations(self.main).get(relation_id)
        if relation is None or relation.part.lower() in self.opened:
            return
        self.opened.add(relation.part.lower())
        root = self.package.optional(relation.part)
        if root is not None:
            self.boxes.append(root)

    def _table(self, table: Element) -> Iterator[Block]:
        """A Markdown table; a table of one column only places things, so its blocks are given as they are."""
        rows = [list(_cells(row)) for row in _rows(table)]
        indents = [_indent(row) for row in _rows(table)]
        if all(len(row) <= 1 for row in rows):
            for cell in (cell for row in rows for cell in row if cell is not None):
                yield from self._blocks(cell)
            return
        placed = ([None] * (indent - min(indents)) + row for indent, row in zip(indents, rows, strict=True))
        texts = [row for row in ([self._cell_text(cell) for cell in row] for row in placed) if any(row)]
        if self.in_cell:  # a table cannot hold another one: its words alone
            yield from (Block(" ".join(filter(None, row))) for row in texts)
        elif texts:
            width = max(map(len, texts))
            lines = [_row_line(row + [""] * (width - len(row))) for row in texts]
            yield Block("\n".join([lines[0], _row_line(["---"] * width), *lines[1:]]))

    def _cell_text(self, cell: Element | None) -> str:
        """Text of a cell on one line; empty for a cell that continues a merged one."""
        if cell is None:
            return ""
        outer, self.in_cell = self.in_cell, True
        text = " ".join(" ".join(block.text for block in self._blocks(cell)).split())
        self.in_cell = outer
        return text if outer else text.replace("|", "\\|")

    def _embedded(self, chunk: Element) -> Iterator[Block]:
        """A page of HTML or text that Word would convert when it opens the document; once, if named often."""
        relation = self.package.relations(self.main).get(chunk.get(qn("r:id")) or "")
        content = self.package.bytes_of(relation.part) if relation else None
        if relation is None or content is None or relation.part.lower() in self.opened:
            return
        self.opened.add(relation.part.lower())
        if relation.part.lower().endswith((".htm", ".html", ".xhtml")):
            from pipeline.extract.web import convert_html

            yield Block(convert_html(decode(content, declared=declared_encoding(content)).text).text)
        elif relation.part.lower().endswith(".txt"):
            yield paragraph(tidy(decode(content).text))

    def _notes(self) -> Iterator[Block]:
        for kind, prefix in (("footnote", ""), ("endnote", "e")):
            for root in self._related(f"{kind}s"):
                for note in children(root, w(kind)):
                    text = " ".join(block.text for block in self._blocks(note))
                    if text and note.get(w("type")) not in _SEPARATORS:
                        yield Block(f"[^{prefix}{note.get(w('id'))}]: {text}")

    def _comments(self) -> Iterator[Block]:
        for root in self._related("comments"):
            for comment in children(root, w("comment")):
                text = " ".join(block.text for block in self._blocks(comment))
                if text:
                    yield Block(f"Comment ({comment.get(w('author')) or 'unsigned'}): {text}")

    def _margins(self) -> Iterator[Block]:
        """Headers and footers, each text once however many sections repeat it, but no bare page numbers."""
        seen: set[str] = set()
        for kind in ("header", "footer"):
            for root in self._related(kind):
                for block in self._blocks(root):
                    if block.text not in seen and any(c.isalpha() for c in block.text):
                        seen.add(block.text)
                        yield Block(block.text)


_TEXT = (w("t"), qn("m:t"))
_MARKS: dict[object, str] = {
    w("tab"): "\t",
    w("ptab"): "\t",
    w("br"): "\n",
    w("cr"): "\n",
    w("noBreakHyphen"): "-",
}
_NOTE_PREFIX: dict[object, str] = {w("footnoteReference"): "", w("endnoteReference"): "e"}
_NO_TEXT = frozenset(
    {w(name) for name in ("pPr", "rPr", "sdtPr", "sdtEndPr", "tblPr", "tblGrid", "sectPr", "rt")}
    | {w(name) for name in ("del", "moveFrom", "delText", "instrText", "delInstrText")}
)
"""Properties, deleted or moved-away text, field codes, readings above East Asian characters."""
_SEPARATORS = ("separator", "continuationSeparator", "continuationNotice")
_OFF = ("0", "false", "off")


def _is_hidden(run: Element) -> bool:
    hidden = child(run, w("rPr"), w("vanish"))
    return hidden is not None and hidden.get(w("val")) not in _OFF


def _read_styles(root: Element | None) -> dict[str, _Style]:
    styles: dict[str, _Style] = {}
    for style in children(root, w("style")) if root is not None else ():
        name, based_on = value(style, "name") or "", value(style, "basedOn") or ""
        styles[style.get(w("styleId")) or ""] = _Style(name.lower(), based_on, child(style, w("pPr")))
    return styles


def _heading_level(properties: Element | None, chain: list[_Style]) -> int:
    """1 to 9, or 0 for body text. Built-in styles keep their English name in every language of Word."""
    direct = None if properties is None else value(properties, "outlineLvl")
    if direct is not None:
        return _outline(direct)
    for style in chain:
        if found := _HEADING_NAME.fullmatch(style.name):
            return int(found[1])
        if style.name == "title":
            return 1
        stated = None if style.properties is None else value(style.properties, "outlineLvl")
        if stated is not None:
            return _outline(stated)
    return 0


def _outline(level: str) -> int:
    return int(level) + 1 if level in tuple("012345678") else 0


def _list_place(properties: Element | None, chain: list[_Style]) -> tuple[str, int] | None:
    """List id and depth of a paragraph, its own or its style's; None when it is no list item."""
    depth = None
    for holder in (properties, *(style.properties for style in chain)):
        place = None if holder is None else child(holder, w("numPr"))
        if place is None:
            continue
        depth = depth or value(place, "ilvl")
        list_id = value(place, "numId")
        if list_id is not None:
            return None if list_id == "0" else (list_id, int(depth) if depth in tuple("012345678") else 0)
    return None


def _rows(table: Element) -> Iterator[Element]:
    """Rows of this table, none of a nested one, through content controls; deleted rows are left out."""
    for node in table:
        if node.tag == w("tr"):
            if child(node, w("trPr"), w("del")) is None:
                yield node
        elif node.tag not in _NO_TEXT:
            yield from _rows(node)


def _cells(row: Element) -> Iterator[Element | None]:
    """One entry a column: the cell, or None where a merged cell goes on."""
    for node in row:
        if node.tag == w("tc"):
            yield None if _continues(node) else node
            yield from [None] * (_span(node) - 1)
        elif node.tag not in _NO_TEXT:
            yield from _cells(node)


def _indent(row: Element) -> int:
    """How many columns a row leaves free before its first cell."""
    return _columns(child(row, w("trPr"), w("gridBefore")), 0)


def _span(cell: Element) -> int:
    """How many columns a cell fills."""
    return _columns(child(cell, w("tcPr"), w("gridSpan")), 1)


def _columns(stated: Element | None, default: int) -> int:
    """A number of columns; bounded, as a damaged file may claim a million."""
    count = stated.get(w("val")) if stated is not None else None
    return min(int(count), 64) if count and re.fullmatch(r"[1-9]\d{0,8}", count, re.ASCII) else default


def _continues(cell: Element) -> bool:
    for name in ("vMerge", "hMerge"):
        merge = child(cell, w("tcPr"), w(name))
        if merge is not None and merge.get(w("val")) != "restart":
            return True
    return False


def _row_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

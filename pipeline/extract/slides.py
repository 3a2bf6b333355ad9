"""Presentations: a slide is a page, with its title as heading, its notes and comments after its text.

PowerPoint's files are walked as XML. python-pptx refuses templates, shows, strict files and slightly
damaged ones that PowerPoint opens, and has no words for SmartArt, comments, fields, formulas or the
bullets that a text has from its layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from docx.oxml.ns import qn

from pipeline.document import Document, Page
from pipeline.extract.blocks import Block, escaped, item, joined, paragraph
from pipeline.extract.decode import TITLE_CHARS
from pipeline.extract.numbering import numeral, whole_number
from pipeline.extract.ooxml import (
    MC,
    Element,
    Package,
    Relation,
    alternative,
    child,
    children,
    core_metadata,
    tidy,
)
from pipeline.extract.source import Source
from pipeline.extract.tables import table
from storage.errors import ExtractError

_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_P188 = "{http://schemas.microsoft.com/office/powerpoint/2018/8/main}"
_CX = "{http://schemas.microsoft.com/office/drawing/2014/chartex}"
_A, _C, _DGM = (qn(f"{prefix}:p")[:-1] for prefix in ("a", "c", "dgm"))

MAX_VALUES = 1_000
"""Charts of more values than this are given without them: no one searches for a measured curve."""


# --- what every presentation comes to ------------------------------------------------------------------------


class Slide(NamedTuple):
    """What one slide says. title: on one line, empty where it has none; notes: of the speaker."""

    title: str
    body: list[Block]
    notes: list[Block]
    comments: list[Block]
    hidden: bool = False


def presentation(slides: Iterable[Slide | None], stated: Mapping[str, Any], parser: str) -> Document:
    """The document that slides make, in order; None for one that cannot be read.

    stated: metadata of the file. The first title on a slide is the document's where it has none of its own.
    Raises ExtractError without any text: no_text, or corrupt where a slide could not be read.
    """
    texts: dict[int, str] = {}
    numbers: dict[str, list[int]] = {"pages_without_text": [], "pages_failed": [], "pages_hidden": []}
    title, count = "", 0
    for count, slide in enumerate(slides, start=1):
        if slide is None:
            numbers["pages_failed"].append(count)
            continue
        title = title or slide.title
        if slide.hidden:
            numbers["pages_hidden"].append(count)
        if text := _slide_text(slide, count):
            texts[count] = text
        else:
            numbers["pages_without_text"].append(count)
    if not texts:
        raise _nothing_read(failed=bool(numbers["pages_failed"]))
    text, pages = _paged(texts)
    metadata = {"title": title[:TITLE_CHARS], **stated, **numbers}
    known = {key: value for key, value in metadata.items() if value}
    return Document(text, "markdown", parser, pages, count, "slide", metadata=known)


def _slide_text(slide: Slide, number: int) -> str:
    notes = [Block("Notes:"), *slide.notes] if slide.notes else []
    blocks = [*slide.body, *notes, *slide.comments]
    if not blocks and not slide.title:
        return ""
    # Else an untitled slide would stand under the title of the one before it.
    return joined([Block(f"# {slide.title or f'Slide {number}'}"), *blocks])


def _nothing_read(*, failed: bool) -> ExtractError:
    if failed:
        return ExtractError("corrupt presentation: none of its slides can be read: save it again")
    reason = "no text on the slides: if they hold pictures of text, run OCR first"
    return ExtractError(reason, code="no_text")


def _paged(texts: Mapping[int, str]) -> tuple[str, tuple[Page, ...]]:
    """One text of all slides, and the range of each."""
    pages: list[Page] = []
    at = 0
    for number, text in texts.items():
        pages.append(Page(number, at, at + len(text)))
        at += len(text) + len(_SEPARATOR)
    return _SEPARATOR.join(texts.values()), tuple(pages)


_SEPARATOR = "\n\n"


# --- PowerPoint ----------------------------------------------------------------------------------------------


def read_pptx(source: Source) -> Document:
    """Read a PowerPoint presentation, template or show, with or without macros, as Markdown.

    A slide that cannot be read is listed in `metadata["pages_failed"]`, and another part that cannot be (a
    chart, notes) in `metadata["parts_failed"]`; the rest is kept. Hidden slides are read, too.
    Raises ExtractError: encrypted, corrupt, too_large (a zip bomb), no_text.
    """
    package = Package(source.data, format_name="PPTX", program="PowerPoint")
    main = package.root_part("officeDocument", "ppt/presentation.xml")
    root = package.xml(main)
    if root is None or root.tag != _P + "presentation":
        raise ExtractError("corrupt PPTX: it holds no presentation: save it again in PowerPoint")
    slides = _Deck(package, main).slides(root)
    stated: dict[str, Any] = core_metadata(package)
    if stated.get("title") in _DEFAULT_TITLES:
        del stated["title"]
    return presentation(slides, stated | {"parts_failed": package.failed}, source.parser)


_DEFAULT_TITLES = (
    *("PowerPoint Presentation", "Slide 1", "PowerPoint-Präsentation", "Présentation PowerPoint"),
    *("Presentación de PowerPoint", "Presentazione standard di PowerPoint", "Apresentação do PowerPoint"),
    *("PowerPoint-presentatie", "Презентация PowerPoint", "PowerPoint プレゼンテーション", "PowerPoint 演示文稿"),
)
"""What PowerPoint calls a presentation that no one gave a name."""


class _Bullet(NamedTuple):
    """What stands before a paragraph: "" nothing, "bullet", or PowerPoint's name of a way to number."""

    scheme: str
    start: int = 1


_NONE = _Bullet("")
_Levels = dict[int, _Bullet]
"""Bullets by level, from 0."""


class _Layout(NamedTuple):
    """What a slide has from its layout, or a layout from its master.

    by_index: bullets of its texts by their index; others: of any other text. fixed: what is written on the
    layout itself and shown on each of its slides.
    """

    by_index: dict[str, _Levels]
    others: _Levels
    fixed: list[str]

    def levels(self, placeholder: Element | None) -> _Levels:
        """Bullets of a shape's text; a text box, which is no placeholder, has none."""
        if placeholder is None:
            return {}
        return self.by_index.get(placeholder.get("idx") or "0", self.others)


_NO_LAYOUT = _Layout({}, {}, [])
_Reading = Callable[[Element], Iterator[Block]]


@dataclass(slots=True)
class _Deck:
    """A presentation.

    opened: slides, charts, notes and the like that were read. Each is read once, however many places
    refer to it: else a small file could become an endless text.
    margins: footers and texts of layouts that were met.
    """

    package: Package
    main: str
    authors: dict[str, str] = field(default_factory=dict[str, str])
    layouts: dict[str, _Layout] = field(default_factory=dict[str, _Layout])
    masters: dict[str, _Layout] = field(default_factory=dict[str, _Layout])
    opened: set[str] = field(default_factory=set[str])
    margins: set[str] = field(default_factory=set[str])

    def slides(self, root: Element) -> list[Slide | None]:
        """The slides in the order they are shown."""
        relations = self.package.relations(self.main)
        for kind in ("commentAuthors", "authors"):
            for authors in self.related(relations, kind):
                self.authors |= {each.get("id") or "": (each.get("name") or "")[:TITLE_CHARS] for each in authors}
        listed = child(root, _P + "sldIdLst")
        ids = (slide.get(qn("r:id")) or "" for slide in children(listed, _P + "sldId")) if listed is not None else ()
        parts = (relations[each].part if each in relations else "" for each in ids)
        return [self._slide(part) for part in {part.lower(): part for part in parts}.values()]

    def _slide(self, part: str) -> Slide | None:
        try:
            root, relations = self.package.xml(part), self.package.relations(part)
        except ExtractError:
            return None
        shapes = None if root is None else child(root, _P + "cSld", _P + "spTree")
        if root is None or shapes is None:
            return None
        layout = _first(relations, "slideLayout")
        fixed = [] if layout in self.layouts else self._layout(layout).fixed
        walk = _Walk(self, relations, self._layout(layout))
        body = [*walk.blocks(shapes), *self.margin(fixed)]
        hidden = root.get("show") in ("0", "false")
        return Slide(walk.title, body, list(self._notes(relations)), list(self._comments(relations)), hidden)

    def margin(self, texts: Iterable[str]) -> Iterator[Block]:
        """Footers, dates and the like, on the first slide that has them, but no bare dates or numbers."""
        for text in texts:
            if text not in self.margins and any(map(str.isalpha, text)):
                self.margins.add(text)
                yield Block(text)

    def open(self, part: str) -> Element | None:
        """Root of a part that is read for the first time, else None."""
        if part.lower() in self.opened:
            return None
        self.opened.add(part.lower())
        return self.package.optional(part)

    def related(self, relations: Mapping[str, Relation], kind: str) -> Iterator[Element]:
        """Parts of a kind that were not read before."""
        parts = (relation.part for relation in relations.values() if relation.kind == kind)
        return (root for part in parts if (root := self.open(part)) is not None)

    def _notes(self, relations: Mapping[str, Relation]) -> Iterator[Block]:
        for root in self.related(relations, "notesSlide"):
            shapes = child(root, _P + "cSld", _P + "spTree")
            if shapes is not None:
                yield from _Walk(self, {}, _NO_LAYOUT, skipped=_MARGINS).blocks(shapes)

    def _comments(self, relations: Mapping[str, Relation]) -> Iterator[Block]:
        """Comments of old and new PowerPoint, each with its replies."""
        for root in self.related(relations, "comments"):
            for comment in children(root, _P + "cm", _P188 + "cm"):
                replies = children(comment, _P188 + "replyLst")
                for each in (comment, *(reply for replied in replies for reply in replied)):
                    if text := _comment_text(each):
                        author = self.authors.get(each.get("authorId") or "") or "unsigned"
                        yield Block(tidy(f"Comment ({author}): {text}"))

    def _layout(self, part: str) -> _Layout:
        """A layout with what it has from its master."""
        if part not in self.layouts:
            master = self._master(_first(self._relations(part), "slideMaster"))
            root = self.package.optional(part)
            by_index = {at: master.others | levels for _, at, levels in _placeholders(root)}
            self.layouts[part] = _Layout(by_index, master.others, [*self._fixed(root), *master.fixed])
        return self.layouts[part]

    def _master(self, part: str) -> _Layout:
        if part not in self.masters:
            root = self.package.optional(part)
            body = _levels(child(root, _P + "txStyles", _P + "bodyStyle")) if root is not None else {}
            for levels in (levels for kind, _, levels in _placeholders(root) if kind == "body"):
                body |= levels
            self.masters[part] = _Layout({}, body, self._fixed(root))
        return self.masters[part]

    def _relations(self, part: str) -> dict[str, Relation]:
        try:
            return self.package.relations(part)
        except ExtractError:
            return {}

    def _fixed(self, root: Element | None) -> list[str]:
        shapes = None if root is None else child(root, _P + "cSld", _P + "spTree")
        walk = _Walk(self, {}, _NO_LAYOUT, skipped=_PLACEHOLDERS)
        return [block.text for block in walk.blocks(shapes)] if shapes is not None else []


def _first(relations: Mapping[str, Relation], kind: str) -> str:
    """The first part of a kind; in lower case, as the names of parts are one in any case."""
    return next((relation.part.lower() for relation in relations.values() if relation.kind == kind), "")


def _placeholders(root: Element | None) -> Iterator[tuple[str, str, _Levels]]:
    """Type, index and bullets of every placeholder of a layout or master."""
    shapes = None if root is None else child(root, _P + "cSld", _P + "spTree")
    for shape in children(shapes, _P + "sp") if shapes is not None else ():
        placeholder = child(shape, _P + "nvSpPr", _P + "nvPr", _P + "ph")
        if placeholder is not None:
            levels = _levels(child(shape, _P + "txBody", _A + "lstStyle"))
            yield placeholder.get("type") or "obj", placeholder.get("idx") or "0", levels


def _levels(styles: Element | None) -> _Levels:
    """What a list style says of its levels."""
    levels: _Levels = {}
    for level in styles if styles is not None else ():
        bullet = _bullet(level)
        if bullet is not None and (found := _LEVEL.fullmatch(str(level.tag))):
            levels[int(found[1]) - 1] = bullet
    return levels


_LEVEL = re.compile(re.escape(_A) + "lvl([1-9])pPr")


def _bullet(properties: Element | None) -> _Bullet | None:
    """The bullet that a paragraph's properties state, or None where it is inherited."""
    for node in properties if properties is not None else ():
        if node.tag == _A + "buNone":
            return _NONE
        if node.tag in (_A + "buChar", _A + "buBlip"):
            return _Bullet("bullet")
        if node.tag == _A + "buAutoNum":
            return _Bullet(node.get("type") or "arabicPeriod", whole_number(node.get("startAt"), 1))
    return None


_TITLES = ("title", "ctrTitle")
_MARGINS = ("dt", "ftr", "hdr", "sldNum", "sldImg")
_PLACEHOLDERS = (*_TITLES, *_MARGINS, "body", "subTitle", "obj", "chart", "tbl", "clipArt", "dgm", "media", "pic")
"""On a layout these hold but a prompt: "Click to add text"."""


@dataclass(slots=True)
class _Walk:
    """One pass over the shapes of a slide or of its notes. skipped: kinds of placeholders without text of their own."""

    deck: _Deck
    relations: Mapping[str, Relation]
    layout: _Layout
    skipped: tuple[str, ...] = ("sldNum", "sldImg")
    title: str = ""

    def blocks(self, shapes: Element) -> Iterator[Block]:
        """The text of shapes and groups of them, in the order they are drawn; the title is put aside."""
        for node in shapes:
            if node.tag == _P + "sp":
                yield from self._shape(node)
            elif node.tag == _P + "graphicFrame":
                yield from self._frame(node)
            elif node.tag == _P + "grpSp":
                yield from self.blocks(node)
            elif node.tag == MC + "AlternateContent":
                yield from self.blocks(alternative(node))

    def _shape(self, shape: Element) -> Iterator[Block]:
        text = child(shape, _P + "txBody")
        placeholder = child(shape, _P + "nvSpPr", _P + "nvPr", _P + "ph")
        kind = (placeholder.get("type") or "obj") if placeholder is not None else ""
        if text is None or kind in self.skipped:
            return
        if kind in _TITLES and not self.title:
            self.title = _line(text)
        elif kind in _MARGINS:
            yield from self.deck.margin([escaped(_line(text))])
        else:
            styles = self.layout.levels(placeholder) | _levels(child(text, _A + "lstStyle"))
            yield from _paragraphs(text, styles)

    def _frame(self, frame: Element) -> Iterator[Block]:
        """A table, chart or SmartArt."""
        data = child(frame, _A + "graphic", _A + "graphicData")
        for content in data if data is not None else ():
            if content.tag == _A + "tbl":
                yield from _table(content)
            elif content.tag in (_C + "chart", _CX + "chart"):
                yield from self._linked(content.get(qn("r:id")), _chart)
            elif content.tag == _DGM + "relIds":
                yield from self._linked(content.get(qn("r:dm")), diagram)

    def _linked(self, relation_id: str | None, read: _Reading) -> Iterator[Block]:
        relation = self.relations.get(relation_id or "")
        root = self.deck.open(relation.part) if relation else None
        return read(root) if root is not None else iter(())


def _comment_text(comment: Element) -> str:
    """Text of a comment of old PowerPoint, which is one string, or of new, which has paragraphs."""
    plain, body = child(comment, _P + "text"), child(comment, _P188 + "txBody")
    return (plain.text or "" if plain is not None else "") + (_line(body) if body is not None else "")


def _paragraphs(text: Element, styles: _Levels) -> Iterator[Block]:
    """Paragraphs with the bullets and numbers that PowerPoint draws; those without text count for nothing."""
    counts: dict[int, tuple[_Bullet, int]] = {}
    for node in children(text, _A + "p"):
        words = tidy("".join(_inline(node)))
        if not words:
            continue
        properties = child(node, _A + "pPr")
        depth = min(whole_number(properties.get("lvl") if properties is not None else None, 0), _DEPTH - 1)
        bullet = _bullet(properties) or styles.get(depth, _NONE)
        yield _formatted(words, depth, bullet, counts)


_DEPTH = 9


def _formatted(words: str, depth: int, bullet: _Bullet, counts: dict[int, tuple[_Bullet, int]]) -> Block:
    """A paragraph or list item. counts: the bullet and number last used on each level."""
    before = counts.get(depth)
    for level in range(depth, _DEPTH):
        counts.pop(level, None)
    if bullet.scheme in ("", "bullet"):
        return item(words, "", depth) if bullet.scheme else paragraph(words)
    count = before[1] + 1 if before and before[0] == bullet else bullet.start
    counts[depth] = bullet, count
    return item(words, _label(count, bullet.scheme), depth)


def _label(count: int, scheme: str) -> str:
    """A number as PowerPoint writes it: "3.", "(c)", "iii)"."""
    number = numeral(count, next((kind for start, kind in _NUMERALS.items() if scheme.startswith(start)), "decimal"))
    if scheme.endswith("ParenBoth"):
        return f"({number})"
    return f"{number})" if scheme.endswith("ParenR") else f"{number}."


_NUMERALS = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman", "romanUc": "upperRoman"}


def _line(text: Element) -> str:
    """All paragraphs on one line."""
    return _one_line("".join(_inline(paragraph)) for paragraph in children(text, _A + "p"))


def _one_line(texts: Iterable[str]) -> str:
    return " ".join(tidy(" ".join(texts)).split())


def _inline(node: Element) -> Iterator[str]:
    """Text of a paragraph or of anything in it."""
    for each in node:
        if each.tag in _TEXT:
            yield each.text or ""
        elif each.tag == _A + "br":
            yield "\n"
        elif each.tag == MC + "AlternateContent":
            yield from _inline(alternative(each))
        elif each.tag not in _PROPERTIES and not (each.tag == _A + "fld" and each.get("type") == "slidenum"):
            yield from _inline(each)


_TEXT = (_A + "t", qn("m:t"))
_PROPERTIES = frozenset(_A + name for name in ("pPr", "rPr", "endParaRPr"))


def _table(node: Element) -> Iterator[Block]:
    """A Markdown table; a table of one column only places things, so its paragraphs are given as they are."""
    rows = [list(children(row, _A + "tc")) for row in children(node, _A + "tr")]
    if any(len(row) > 1 for row in rows):
        if text := table([_cell(cell) for cell in row] for row in rows):
            yield Block(text)
        return
    for text in (child(cell, _A + "txBody") for row in rows for cell in row):
        yield from _paragraphs(text, {}) if text is not None else ()


def _cell(cell: Element) -> str:
    """Text of a table cell; empty where a merged one goes on."""
    text = child(cell, _A + "txBody")
    merged = any(cell.get(name) in ("1", "true") for name in ("hMerge", "vMerge"))
    return "" if text is None or merged else _line(text)


# --- SmartArt and charts -------------------------------------------------------------------------------------


def diagram(root: Element) -> Iterator[Block]:
    """SmartArt as a list of what hangs on what, then any point that hangs on nothing."""
    points, top = _points_of(root)
    below = _links(root)
    waiting = [(point, 0) for point in reversed(below.pop(top, []))]
    while waiting:
        point, depth = waiting.pop()
        text = points.pop(point, "")
        if text:
            yield item(text, "", min(depth, _DEPTH - 1))
        waiting += [(each, depth + bool(text)) for each in reversed(below.pop(point, []))]
    yield from (item(text, "", 0) for text in points.values() if text)


def _points_of(root: Element) -> tuple[dict[str, str], str]:
    """Texts of a SmartArt's points by id, and the id of the whole."""
    points: dict[str, str] = {}
    top = ""
    listed = child(root, _DGM + "ptLst")
    for point in listed if listed is not None else ():
        kind = point.get("type") or "node"
        text = child(point, _DGM + "t")
        if kind == "doc":
            top = point.get("modelId") or ""
        elif kind in ("node", "asst") and text is not None:
            points[point.get("modelId") or ""] = _line(text)
    return points, top


def _links(root: Element) -> dict[str, list[str]]:
    """The points under each point of a SmartArt, in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    listed = child(root, _DGM + "cxnLst")
    for link in listed if listed is not None else ():
        place = whole_number(link.get("srcOrd"), 0), link.get("destId") or ""
        found.setdefault(link.get("srcId") or "", []).append(place)
    return {point: [below for _, below in sorted(places)] for point, places in found.items()}


def _chart(root: Element) -> Iterator[Block]:
    """Titles of a chart and its axes, then its figures as a table."""
    if root.tag == _CX + "chartSpace":
        yield from _new_chart(root)
    chart = child(root, _C + "chart")
    plot = child(root, _C + "chart", _C + "plotArea")
    if chart is None or plot is None:
        return
    titles = [_title(child(each, _C + "title")) for each in (chart, *plot)]
    if stated := "; ".join(filter(None, titles)):
        yield Block(f"Chart: {stated}")
    if text := table(_figures([series for kind in plot for series in children(kind, _C + "ser")])):
        yield Block(text)


def _new_chart(root: Element) -> Iterator[Block]:
    """Of the kinds of charts that PowerPoint 2016 added, such as waterfalls: titles, series and categories."""
    named = [each.text or "" for each in root.iter(_A + "t", _CX + "v")]
    categories = [point.text or "" for each in root.iter(_CX + "strDim") for point in each.iter(_CX + "pt")]
    if stated := "; ".join(filter(None, map(tidy, [*named, *categories][:MAX_VALUES]))):
        yield Block(f"Chart: {stated}")


def _title(title: Element | None) -> str:
    """A title or a series' name, typed in or taken from a cell."""
    if title is None:
        return ""
    typed = ("".join(_inline(paragraph)) for paragraph in title.iter(_A + "p"))
    return _one_line([*typed, *(each.text or "" for each in title.iter(_C + "v"))])


def _figures(series: list[Element]) -> list[list[str]]:
    """A row for each point: its category, then its value in every series; the header names the series."""
    names = [_title(child(each, _C + "tx")) for each in series]
    categories: dict[int, str] = {}
    for each in series:
        categories = categories or _points(_first_child(each, "cat", "xVal"))
    values = [_points(_first_child(each, "val", "yVal")) for each in series]
    at = sorted({*categories, *(place for points in values for place in points)})
    if len(at) * len(series) > MAX_VALUES:
        at = []
    return [["", *names], *([categories.get(n, ""), *(points.get(n, "") for points in values)] for n in at)]


def _first_child(node: Element, *names: str) -> Element | None:
    return next(children(node, *(_C + name for name in names)), None)


def _points(reference: Element | None) -> dict[int, str]:
    """What a chart remembers of the cells it refers to, by place; categories of two levels are put together."""
    points: dict[int, list[str]] = {}
    for cache in reference.iter(*_CACHES) if reference is not None else ():
        code = child(cache, _C + "formatCode")
        for point in children(cache, _C + "pt"):
            value = child(point, _C + "v")
            text = (value.text if value is not None else None) or ""
            written = _written(text, code.text or "") if code is not None else tidy(text)
            points.setdefault(whole_number(point.get("idx"), 0), []).append(written)
    return {place: " ".join(texts) for place, texts in points.items()}


_CACHES = tuple(_C + name for name in ("numCache", "numLit", "strCache", "strLit", "lvl"))
_DAY_ZERO = datetime(1899, 12, 30)
_MAX_DAY = 2_958_465
"""The last day of the year 9999, as spreadsheets count."""


def _written(figure: str, format_code: str) -> str:
    """A number without the noise of binary fractions, or the day that it stands for."""
    try:
        number = float(figure)
    except ValueError:
        return tidy(figure)
    if re.search("[dy]", format_code, re.IGNORECASE) and 0 < number <= _MAX_DAY:
        return f"{_DAY_ZERO + timedelta(days=number):%Y-%m-%d}"
    return f"{number:.15g}"

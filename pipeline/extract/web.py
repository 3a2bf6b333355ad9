"""HTML to Markdown: headings, lists, tables and code kept; menus, scripts and addresses left out.

selectolax cuts the tree down, html-to-markdown writes it. What is left out is noise to a search: link
targets, emphasis marks, image data, navigation.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from html_to_markdown import ConversionError, ConversionOptions, PreprocessingOptions, WarningKind, convert
from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.document import Document
from pipeline.extract.decode import TITLE_CHARS, clean, declared_encoding, decode
from pipeline.extract.source import Source
from storage.errors import ExtractError

_NEVER_TEXT = ["script", "style", "template", "noscript", "iframe", "svg", "canvas", "rt", "rp"]
"""Removed from every page. `rt` is the reading above East Asian characters: inside the text it would
part the words that it explains."""

_BOILERPLATE = (
    "nav, footer, [role=navigation], [role=contentinfo], [role=search], button, select, input, datalist, dialog"
)

_LABELS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "summary", "dt"))
_UNFOLDING = frozenset(("aria-controls", "aria-expanded"))
"""What a button that is part of the text lies in, or has: it names what it unfolds, as the question of an answer."""

_PARTS = frozenset(("article", "blockquote", "section"))
"""What has footers of its own: who said it, errata, notes."""

_INLINE = [
    *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "dfn", "em", "font", "i", "ins", "mark"),
    *("s", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr", "del", "ruby", "rb"),
]
"""Unwrapped: their text stays, their marks and link targets go."""

_PERMALINK = re.compile(r"[\u00b6#\u00a7\u200b\uf0c1\U0001f517\s]*")

_OPTIONS = ConversionOptions(
    extract_metadata=False,  # else YAML front matter is written above the text
    autolinks=False,
    bullets="-",
    compact_tables=True,
    preprocessing=PreprocessingOptions(enabled=False),  # its presets drop <header>, and the <h1> in it
)


def read_html(source: Source) -> Document:
    """Read an HTML or XHTML page.

    `<title>` becomes the first heading where the page has no level-1 heading of its own. Where nothing
    is left once menus are gone, the text of the whole body is taken.
    Raises ExtractError (no_text) for a page of markup and scripts alone.
    """
    decoded = decode(source.data, declared=declared_encoding(source.data))
    page = convert_html(decoded.text)
    if not page.text:
        reason = "no text in the page, which scripts may fill: save it from a browser as complete"
        raise ExtractError(reason, code="no_text")
    metadata = {"encoding": decoded.encoding, "title": page.title, "author": page.author}
    known = {key: value for key, value in metadata.items() if value}
    return Document(_titled(page.text, page.title), "markdown", source.parser, metadata=known)


class WebPage(NamedTuple):
    """An HTML page as Markdown; each part may be empty."""

    text: str
    title: str
    author: str


def convert_html(html: str) -> WebPage:
    """Turn HTML into Markdown without its boilerplate; the plain text of the body where nothing else is left.

    Raises ExtractError (too_large) for a page that would take more than MAX_MEMORY_BYTES to read.
    """
    _require_bounded(html)
    left = _cut_down(html)
    return WebPage(_markdown(left.markup) or left.everything, left.title, left.author)


def is_contents(html: str) -> bool:
    """Tell whether a page holds navigation, links and headings alone, and a few words above them at most.

    Raises ExtractError (too_large) for a page that would take more than MAX_MEMORY_BYTES to read.
    """
    _require_bounded(html)
    tree = LexborHTMLParser(_RAW_SELF_CLOSED.sub(r"<\1\2></\1>", html))
    tree.strip_tags([*_NEVER_TEXT, *_HEADINGS], recursive=True)
    for node in tree.css("nav, a[href]"):
        node.replace_with(_PLACE)
    above, _, below = _plain_text(tree).partition(_PLACE)
    return not any(map(str.isalpha, below)) and sum(map(str.isalpha, above)) <= _MAX_CONTENTS_NAME


_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_PLACE = "\ufffc"
_MAX_CONTENTS_NAME = 20
"""Letters of "Table of Contents", where that is no heading."""


MAX_MEMORY_BYTES = 650_000_000
_BYTES_A_CHARACTER, _BYTES_AN_ELEMENT, _BYTES_AN_ATTRIBUTE = 6, 500, 200
"""What reading takes at its peak, measured on pages of little but elements, attributes or text."""


def _require_bounded(html: str) -> None:
    """Refuse what would not fit into memory: the libraries end the process where there is none left."""
    parts = (
        (len(html), _BYTES_A_CHARACTER),
        (html.count("<") - html.count("</"), _BYTES_AN_ELEMENT),
        (html.count("="), _BYTES_AN_ATTRIBUTE),
    )
    needed = sum(count * each for count, each in parts)
    if needed > MAX_MEMORY_BYTES:
        sizes = f"its markup takes {needed / 1e6:,.0f} MB of memory, the limit is {MAX_MEMORY_BYTES / 1e6:,.0f} MB"
        raise ExtractError(f"too large: {sizes}: split the page, or export it as text", code="too_large")


class _CutDown(NamedTuple):
    """A page without what is noise: its HTML, and the text of all of it, menus too."""

    markup: str
    everything: str
    title: str
    author: str


def _cut_down(html: str) -> _CutDown:
    """Return what is left of a page; its tree, far larger, is gone before another library makes its own."""
    tree = LexborHTMLParser(_RAW_SELF_CLOSED.sub(r"<\1\2></\1>", html))
    title, author = _title(tree), _author(tree)
    tree.strip_tags(_NEVER_TEXT, recursive=True)
    everything = _plain_text(tree)
    if _tables_nest_too_deep(tree):
        return _CutDown("", everything, title, author)
    _remove_boilerplate(tree)
    root = tree.body or tree.root
    return _CutDown((root.html if root else None) or "", everything, title, author)


_RAW_SELF_CLOSED = re.compile(r"<(title|script|style|iframe|textarea|noscript)(\s[^<>]*)?/>", re.IGNORECASE)
"""Legal in XHTML; an HTML parser takes the rest of the page for the content of such an element."""


def _title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("head title") or tree.css_first("title")
    return " ".join(node.text().split())[:TITLE_CHARS] if node else ""


def _author(tree: LexborHTMLParser) -> str:
    node = tree.css_first("meta[name=author i]")
    return " ".join((node.attributes.get("content") or "").split())[:TITLE_CHARS] if node else ""


def _titled(text: str, title: str) -> str:
    """The text under its title, unless it has a level-1 heading."""
    if not title or re.search(r"^# ", text, re.MULTILINE):
        return text
    return f"# {title}\n\n{text}"


def _plain_text(tree: LexborHTMLParser) -> str:
    """Text of the whole page, a line each piece: what is left when structure cannot be kept."""
    root = tree.body or tree.root
    return _tidy(root.text(separator="\n", strip=True, skip_empty=True)) if root else ""


def _remove_boilerplate(tree: LexborHTMLParser) -> None:
    """Take menus, pictures, permanent links, layout and inline marks out of a page, and keep their text."""
    for node in _boilerplate(tree):
        node.decompose()
    for image in tree.css("img"):
        image.replace_with(image.attributes.get("alt") or "")
    for link in tree.css("a"):
        if _PERMALINK.fullmatch(link.text()):
            link.decompose()
    _unfold_layout_tables(tree)
    tree.unwrap_tags(_INLINE)


def _boilerplate(tree: LexborHTMLParser) -> list[LexborNode]:
    """What goes; all of it is found before any goes, as whether it does depends on what it lies in."""
    labels, parts = _Within(_LABELS), _Within(_PARTS)
    return [node for node in tree.css(_BOILERPLATE) if not _is_content(node, labels, parts)]


def _is_content(node: LexborNode, labels: _Within, parts: _Within) -> bool:
    """Whether this is a button or a footer that belongs to the text."""
    if node.tag == "button":
        return not _UNFOLDING.isdisjoint(node.attributes) or labels.hold(node)
    return node.tag == "footer" and parts.hold(node)


class _Within:
    """Tells what lies in elements of some tags; of a page of any depth every element is asked once."""

    def __init__(self, tags: frozenset[str]) -> None:
        self._tags = tags
        self._known: dict[int, bool] = {}

    def hold(self, node: LexborNode) -> bool:
        """Whether a node lies in such an element."""
        passed: list[int] = []
        above = node.parent
        while above is not None and above.tag not in self._tags and above.mem_id not in self._known:
            passed.append(above.mem_id)
            above = above.parent
        found = above is not None and self._known.get(above.mem_id, True)
        self._known.update(dict.fromkeys(passed, found))
        return found


def _markdown(markup: str) -> str:
    """HTML as Markdown; empty when nothing is in it or it cannot be converted.

    The converter leaves out what nests deeper than 1,024 elements, which must not go unnoticed.
    """
    try:
        result = convert(markup, _OPTIONS)
    except ConversionError:
        return ""
    too_deep = any(warning.kind == WarningKind.DEPTH_LIMIT_EXCEEDED for warning in result.warnings)
    return "" if too_deep else _tidy(result.content or "")


def _unfold_layout_tables(tree: LexborHTMLParser) -> None:
    """Turn tables that only place things into plain blocks, the innermost first.

    Kept as tables they would come out as one endless row.
    """
    for table in reversed(tree.css("table")):
        parts = [part for part in table.css("caption, td, th") if _table_of(part) == table.mem_id]
        if not _places_only(table, [part for part in parts if part.tag != "caption"]):
            continue
        for cell in parts:
            block = tree.create_node("div")
            table.insert_before(block, move=True)
            block.inner_html = cell.inner_html or ""
        table.decompose()


MAX_TABLES_WITHIN = 64


def _tables_nest_too_deep(tree: LexborHTMLParser) -> bool:
    """Whether tables lie within tables deeper than any page has them; unfolding them would take for ever."""
    depths: dict[int | None, int] = {}
    for table in tree.css("table"):
        depths[table.mem_id] = depths.get(_table_of(table), 0) + 1
    return max(depths.values(), default=0) > MAX_TABLES_WITHIN


def _table_of(node: LexborNode) -> int | None:
    """Memory id of the table that a cell, caption or inner table lies in."""
    parent = node.parent
    while parent is not None and parent.tag != "table":
        parent = parent.parent
    return parent.mem_id if parent else None


_NEVER_IN_A_CELL = "table, h1, h2, h3, h4, h5, h6, pre, form"
"""What no table of data holds in its cells. The table itself is among the matches of such a query."""


def _places_only(table: LexborNode, cells: list[LexborNode]) -> bool:
    if table.attributes.get("role") in ("presentation", "none"):
        return True
    rows = {cell.parent.mem_id for cell in cells if cell.parent}
    if len(cells) <= len(rows):  # a single column
        return True
    return any(inner.mem_id != table.mem_id for inner in table.css(_NEVER_IN_A_CELL))


_SPACE_AT_END = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+$", re.MULTILINE)
_GAP = re.compile(r"\n{3,}")


def _tidy(text: str) -> str:
    """No soft hyphens, no spaces at line ends, at most one empty line in a row."""
    text = _SPACE_AT_END.sub("", clean(text).replace("\u00ad", ""))
    return _GAP.sub("\n\n", text).strip()

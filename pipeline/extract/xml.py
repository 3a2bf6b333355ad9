"""XML as text: prose as Markdown, feeds as sections, records as lines of `name: value`.

Tags, addresses and layout are noise to a search; so documents (JATS, DocBook, TEI, DITA, patents) become
headings, paragraphs, lists and tables, and feeds a section for each entry. In configuration and records the
names of elements say what a value is, so they stay: `capital: Ottawa` needs half the tokens of the source and
makes sense by itself. What is cut off is read as far as it goes; what else is not well formed is kept as it is.

One pass with expat and a stack of our own: no tree, no recursion, no entities, no second file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from html.entities import html5
from typing import Any, Literal, Protocol
from xml.parsers import expat

from pipeline.document import Document, Syntax
from pipeline.extract.decode import TITLE_CHARS, declared_encoding, decode
from pipeline.extract.source import Source
from pipeline.extract.tables import table
from pipeline.extract.web import convert_html
from storage.errors import ExtractError

MAX_DEPTH = 10_000
"""Elements within elements; anything deeper is kept as it is."""

MAX_DECLARED_ATTRIBUTES = 100
"""Declared in the file itself; expat goes through all of an element's at each of its tags."""


def read_xml(source: Source) -> Document:
    """Read an XML file of any vocabulary; title and authors where its vocabulary is one of documents.

    Raises ExtractError (corrupt) where the file declares entities that would be put into its text.
    """
    decoded = decode(source.data, declared=declared_encoding(source.data))
    metadata: dict[str, Any] = {"encoding": decoded.encoding}
    reading = _Reading(_UNPARSABLE.sub("", _DECLARATION.sub("", decoded.text)))
    if not reading.well_formed or not (text := reading.writer.text()):
        return Document(decoded.text, "plain", source.parser, metadata=metadata)
    known = {"title": reading.writer.title, "author": reading.writer.author}
    metadata |= {key: value for key, value in known.items() if value}
    if reading.is_cut_off:
        metadata["parts_failed"] = ["end of the document"]
    return Document(text, reading.writer.syntax, source.parser, metadata=metadata)


_DECLARATION = re.compile(r"\A\s*(?:<\?xml\s[^>]*\?>\s*)?")
"""Spaces before it and version 1.1 would stop the parser; its encoding is known by now."""
_UNPARSABLE = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_MAX_INDENT = 8
_BREAK = "\x01"
"""A line break within a paragraph, until white space is folded; the text itself cannot hold this character."""


class _Writer(Protocol):
    """What turns elements into text."""

    title: str
    syntax: Syntax

    @property
    def author(self) -> str: ...
    def start(self, name: str, attributes: dict[str, str]) -> None: ...
    def end(self, name: str) -> None: ...
    def write(self, text: str) -> None: ...
    def comment(self, text: str) -> None: ...
    def text(self) -> str: ...


class _Reading:
    """A text run through the parser: `writer` was chosen by the root element."""

    def __init__(self, text: str) -> None:
        self.writer: _Writer = _Records()
        self._text = text
        self._attributes = 0
        self._parser = expat.ParserCreate()  # without `buffer_text`, which loses the last words of a cut-off file
        self._parser.specified_attributes = True  # a default value could be long, and repeated a million times
        self._parser.EntityDeclHandler = _refuse_entity
        self._parser.AttlistDeclHandler = self._count_attribute
        self._parser.StartElementHandler = self._start_root
        self.is_cut_off = False
        self.well_formed = self._parse()

    def _parse(self) -> bool:
        try:
            self._parser.Parse(self._text, True)
        except _TooDeep:
            return False
        except expat.ExpatError as error:
            self.is_cut_off = error.code in _CUT_OFF
            return self.is_cut_off
        return True

    def _start_root(self, name: str, attributes: dict[str, str]) -> None:
        kind = _kind(name, self._text)
        writer = self.writer = _Records() if kind == "records" else _Prose(feed=kind == "feed")
        self._parser.StartElementHandler = lambda name, attributes: writer.start(_local(name), attributes)
        self._parser.EndElementHandler = lambda name: writer.end(_local(name))
        self._parser.CharacterDataHandler = writer.write
        self._parser.CommentHandler = writer.comment
        self._parser.SkippedEntityHandler = lambda name, _: writer.write(html5.get(f"{name};", ""))
        writer.start(_local(name), attributes)

    def _count_attribute(self, *_: object) -> None:
        self._attributes += 1
        if self._attributes > MAX_DECLARED_ATTRIBUTES:
            raise ExtractError("corrupt XML: it declares too many attributes: do not trust it")


_CUT_OFF = tuple(
    expat.errors.codes[error]
    for error in (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION)
)
"""Not where it ends within a tag: an unclosed one could be all that is left of the text."""


class _TooDeep(Exception):
    """The elements are nested deeper than MAX_DEPTH."""


def _refuse_entity(name: str, parameter: bool, value: str | None, *rest: str | None) -> None:
    """Stop at an entity that text would be put in for.

    Parameter entities are never expanded here, and what has a notation (a patent's pictures) is no text.
    """
    notation = rest[-1]
    if not parameter and notation is None:
        reason = "it declares XML entities, as bombs do: if you trust it, save it with its entities replaced"
        raise ExtractError(f"corrupt XML: {reason} (xmllint --noent)")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


_Kind = Literal["feed", "prose", "records"]
_SAMPLE_CHARS = 1 << 20
_NOT_MARKUP = re.compile(r"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL)
_ELEMENT = re.compile(r"<[A-Za-z]")
_PARAGRAPH = re.compile(r"<(?:\w+:)?(?:p|para|paragraph|simpara|ab|l|shortdesc|heading|tr|tgroup)[\s>]")
_PROSE_SHARE = 0.005
"""Bibliographies bring scientific papers down to 2 % paragraphs among their elements; records have none."""


def _kind(root: str, text: str) -> _Kind:
    head = text[:_SAMPLE_CHARS]
    root = _local(root)
    if root in ("rss", "feed") or (root == "RDF" and "http://purl.org/rss/" in head):
        return "feed"
    head = _NOT_MARKUP.sub("", head)
    paragraphs = len(_PARAGRAPH.findall(head))
    return "prose" if paragraphs > _PROSE_SHARE * len(_ELEMENT.findall(head)) else "records"


_INLINE = (
    *("a", "abbrev", "acronym", "b", "bold", "code", "del", "em", "emphasis", "ext-link", "font", "hi", "i", "ins"),
    *("italic", "kbd", "link", "literal", "math", "monospace", "person-group", "phrase", "q", "quote", "r", "ref"),
    *("rs", "run", "sc", "seg", "small", "span", "strong", "styled-content", "sub", "subscript", "sup"),
    *("superscript", "t", "term", "tt", "u", "ulink", "underline", "uri", "w", "xref"),
)
"""Elements that never part words, even where nothing but such elements stands side by side."""


def _folded(text: str) -> str:
    """Text with its white space folded and the line breaks that were marked."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split(_BREAK))))


# --- records -------------------------------------------------------------------------------------------------

_HTML = re.compile(
    r"</(?:p|div|a|b|i|u|em|strong|span|font|ul|li|td|h[1-6])>|<br\s*/?>|<(?:p|img|a)(?:\s[^<>]*)?>", re.I
)
_BASE64 = re.compile(r"\s*(?=\S{40})(?=\S*[a-z])(?=\S*[A-Z])(?=\S*\d)")
_BASE64_ONLY = re.compile(r"[A-Za-z0-9+/\s]{400,}+(?:={1,2}\s*+)?")


def _value(text: str) -> str:
    """The text of an element; HTML in it as Markdown, and no encoded data."""
    if _HTML.search(text):
        return convert_html(text).text
    if _BASE64.match(text) and _BASE64_ONLY.fullmatch(text):
        return ""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


@dataclass(slots=True)
class _Record:
    """An open element: its line's start, its own text so far, whether that line is written."""

    label: str
    pieces: list[str] = field(default_factory=list[str])
    has_text: bool = False
    headed: bool = False


class _Records:
    """Elements as indented lines of `name: value`, attributes in brackets after the name."""

    title = ""
    author = ""
    syntax: Syntax = "plain"

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._open: list[_Record] = []
        self._inline = 0  # open elements that are part of a text

    def start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else None
        if parent and (self._inline or parent.has_text):
            self._inline += 1
            if name not in _INLINE:
                parent.pieces.append(" ")
            return
        if len(self._open) == MAX_DEPTH:
            raise _TooDeep
        if parent:
            self._head(parent)
        self._open.append(_Record(_label(name, attributes)))

    def end(self, name: str) -> None:
        if self._inline:
            self._inline -= 1
            return
        record = self._open.pop()
        text = _value("".join(record.pieces))
        depth = len(self._open)
        if record.headed:
            self._add(depth + 1, text)
        elif "\n" in text:
            self._add(depth, f"{record.label}:")
            self._add(depth + 1, text)
        else:
            self._add(depth, f"{record.label}: {text}" if text else record.label)

    def write(self, text: str) -> None:
        record = self._open[-1]
        record.pieces.append(text)
        record.has_text = record.has_text or not text.isspace()

    def comment(self, text: str) -> None:
        """Explanations are kept, sources commented out are not, nor is what stands above the root: licences."""
        if self._open and not self._inline and "<" not in text:
            self._head(self._open[-1])
            self._add(len(self._open), _value(text))

    def text(self) -> str:
        self._inline = 0
        while self._open:
            self.end("")
        return "\n".join(self._lines).strip()

    def _head(self, record: _Record) -> None:
        """Write the line of an element that turned out to hold others; a blank one before records."""
        if record.headed:
            return
        record.headed = True
        depth = len(self._open) - 1
        if 0 < depth <= 2 and len(self._lines) > depth:
            self._lines.append("")
        self._add(depth, record.label)

    def _add(self, depth: int, text: str) -> None:
        indent = "  " * min(depth, _MAX_INDENT)
        self._lines += [f"{indent}{line}" for line in text.split("\n") if line]


_NO_CONTENT = re.compile(r"xmlns(?::.*)?|(?:xsi|xml):.*|xlink:(?:type|show|actuate|href|role|arcrole)")


def _label(name: str, attributes: dict[str, str]) -> str:
    shown = ", ".join(f"{_local(key)}: {value}" for key, value in attributes.items() if not _NO_CONTENT.match(key))
    return f"{name} ({shown})" if shown else name


# --- prose ---------------------------------------------------------------------------------------------------

_SECTIONS = (
    *("article", "book", "part", "chapter", "appendix", "preface", "section", "sec", "abstract", "ack", "app"),
    *("sect1", "sect2", "sect3", "sect4", "sect5", "refentry", "refsect1", "refsect2", "ref-list", "bibliography"),
    *("glossary", "dedication", "TEI", "TEI.2", "div", "div1", "div2", "div3", "div4", "topic", "concept", "task"),
    *("reference", "troubleshooting", "FictionBook"),
)
_WRAPPERS = (
    *("info", "articleinfo", "bookinfo", "chapterinfo", "title-group", "titlegroup", "front", "article-meta"),
    *("book-meta", "teiHeader", "fileDesc", "titleStmt", "description", "title-info", "body", "text", "back"),
)
"""Between a section and its title."""

_ROLES: dict[str, str] = {
    **dict.fromkeys(_SECTIONS, "section"),
    **dict.fromkeys(("title", "head", "article-title", "book-title"), "title"),
    **dict.fromkeys(("label", "dt", "term"), "label"),
    **dict.fromkeys(("list", "itemizedlist", "variablelist", "simplelist", "def-list", "ul", "dl", "sl"), "list"),
    **dict.fromkeys(("orderedlist", "procedure", "ol", "steps", "substeps"), "numbered list"),
    **dict.fromkeys(("list-item", "listitem", "li", "sli", "step", "substep", "member", "item"), "item"),
    **dict.fromkeys(("def-item", "varlistentry", "dlentry", "glossentry"), "item"),
    **dict.fromkeys(("table", "informaltable"), "table"),
    **dict.fromkeys(("tr", "row"), "row"),
    **dict.fromkeys(("td", "th", "cell", "entry"), "cell"),
    **dict.fromkeys(("programlisting", "screen", "codeblock", "pre", "preformat"), "code"),
    **dict.fromkeys(("fn", "footnote", "note"), "aside"),
    **dict.fromkeys(("xref", "footnoteref"), "mark"),
    **dict.fromkeys(("math", "inline-formula"), "words"),
    **dict.fromkeys(("lb", "br", "l", "break"), "line"),
    **dict.fromkeys(("author", "contrib"), "person"),
    **dict.fromkeys(("tex-math", "annotation", "annotation-xml", "binary", "style", "script"), "left out"),
    **dict.fromkeys(("p", "para", "paragraph", "simpara", "formalpara", "ab", "lg", "sp", "stage", "h"), "block"),
    **dict.fromkeys(
        ("h1", "h2", "h3", "h4", "h5", "h6", "subtitle", "caption", "fig", "figure", "table-wrap"), "block"
    ),
    **dict.fromkeys(("ref", "bibl", "aff", "kwd-group", "disp-quote", "blockquote", "disp-formula", "dd"), "block"),
    **dict.fromkeys(("equation", "example", "sidebar", "warning", "tip", "important", "caution", "claim"), "block"),
}
"""What to do with an element; any other only parts words from their neighbours."""

_BREAKING = (
    *("section", "title", "list", "numbered list", "item", "table", "row", "cell", "code", "person", "block"),
    *("field", "body"),
)
_ALWAYS_TITLES = ("invention-title", "title-of-invention", "heading")
_NAME_PARTS = (
    *("author", "name", "string-name", "surname", "given-names", "firstname", "forename", "persName", "personname"),
    "collab",
)
_AFTER_FRONT = ("body", "text", "chapter", "section", "sect1", "back")
_TELLING = ("alt", "title", "label", "summary", "term", "name", "value")
"""Attributes whose text stands for an element without any, the most telling first."""


@dataclass(slots=True)
class _Element:
    """An open element of a document.

    begin: where in the block at hand. mixed: text stands directly in an element around it. has_text, has_child:
    what it holds itself. is_container: its children have children.
    """

    name: str = ""
    role: str = ""
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    begin: int = 0
    mixed: bool = False
    has_text: bool = False
    has_child: bool = False
    is_container: bool = False


class _Prose:
    """Documents and feeds as Markdown."""

    syntax: Syntax = "markdown"

    def __init__(self, *, feed: bool) -> None:
        self.title = ""
        self._feed = feed
        self._blocks: list[tuple[str, bool]] = []  # and whether it is a line of a list
        self._pieces: list[str] = []  # of the block at hand
        self._open: list[_Element] = []
        self._sections = 0
        self._lists: list[int] = []  # the next number, or 0 for bullets
        self._mark = ""  # of the list item that has begun
        self._tables = 0
        self._rows: list[list[str]] = []
        self._joined = 0  # open elements whose blocks are only words: cells, titles, notes in a sentence
        self._silent = 0  # open elements that are left out
        self._glued = False  # a label was written, which what follows goes with
        self._front = True
        self._entry: int | None = None  # where an entry begins that has no title yet
        self._authors: list[list[str]] = []
        self._persons = 0

    @property
    def author(self) -> str:
        names = (" ".join("".join(parts).split()) for parts in self._authors)
        return ", ".join(dict.fromkeys(filter(None, names)))[:TITLE_CHARS]

    def text(self) -> str:
        self._silent = 0
        while self._open:
            self.end(self._open[-1].name)
        self._break()
        parts: list[str] = []
        before = False
        for text, is_line in self._blocks:
            parts.append(("\n" if before and is_line else "\n\n") + text)
            before = is_line
        return "".join(parts).strip()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else _Element()
        role = self._role(name, parent)
        if self._silent or role == "left out":
            self._silent += 1
            return
        if len(self._open) == MAX_DEPTH:
            raise _TooDeep
        if role in _BREAKING:
            if not self._glued:
                self._break()
        elif name not in _INLINE and parent.has_child and not parent.has_text:
            self._pieces.append(" ")
        parent.has_child = True
        if len(self._open) > 1:
            self._open[-2].is_container = True
        mixed = parent.mixed or parent.has_text
        self._open.append(_Element(name, role, attributes, begin=len(self._pieces), mixed=mixed))
        self._front = self._front and name not in _AFTER_FRONT
        if self._persons and name in _NAME_PARTS:
            self._authors[-1].append(" ")
        self._enter(role, attributes)

    def end(self, name: str) -> None:
        if self._silent:
            self._silent -= 1
            return
        element = self._open.pop()
        if not element.has_text and not element.has_child and name not in _INLINE:
            self._pieces += (f" {text} " for text in _telling(element.attributes))
        self._leave(element)

    def write(self, text: str) -> None:
        if self._silent:
            return
        self._pieces.append(text)
        if not text.isspace():
            element = self._open[-1]
            element.has_text, self._glued = True, False
            if self._persons and element.name in _NAME_PARTS:
                self._authors[-1].append(text)

    def comment(self, text: str) -> None:
        """Editors' remarks and licences are no part of a document."""

    def _role(self, name: str, parent: _Element) -> str:
        if self._feed and parent.name in _FEED_PARENTS:
            return _FEED_ROLES.get(name, "field")
        role = _ROLES.get(name, "")
        if name in _ALWAYS_TITLES:
            role = "title"
        elif role == "title":
            role = self._title_role()
        elif (role == "aside" and not parent.has_text) or (name == "listitem" and parent.name == "varlistentry"):
            role = "block"
        elif self._is_mention(name, parent):
            role = ""
        elif role in ("row", "cell") and not self._tables:
            role = "block"
        return "block" if self._joined and role in _BREAKING else role

    def _is_mention(self, name: str, parent: _Element) -> bool:
        """Whether a reference, a work or a person is only named within a sentence."""
        match name:
            case "ref":
                return parent.name != "ref-list"
            case "bibl":
                return parent.has_text
            case _:
                return _ROLES.get(name) == "person" and not self._front

    def _title_role(self) -> str:
        """A title of a section is a heading; of a figure a block; in a bibliography just words."""
        for element in reversed(self._open[-_MAX_INDENT:]):
            if element.name in _SECTIONS:
                return "title"
            if element.name not in _WRAPPERS:
                return "block" if element.role in _BREAKING and element.name not in ("ref", "bibl") else ""
        return ""

    def _enter(self, role: str, attributes: dict[str, str]) -> None:
        match role:
            case "section":
                self._sections += 1
                self._entry = len(self._blocks)
            case "list" | "numbered list":
                ordered = role == "numbered list" or attributes.get("list-type") == "order"
                self._lists.append(1 if ordered else 0)
            case "item":
                self._begin_item()
            case "table":
                self._tables += 1
            case "row":
                self._rows.append([])
            case "title" | "cell" | "words" | "aside":
                self._joined += 1
            case "person":
                self._persons += 1
                self._authors.append([])
            case _:
                pass

    def _begin_item(self) -> None:
        number = self._lists[-1] if self._lists else 0
        self._mark = f"{number}. " if number else "- "
        if number:
            self._lists[-1] += 1

    def _leave(self, element: _Element) -> None:
        match element.role:
            case "title":
                self._joined -= 1
                self._end_title(element)
            case "cell":
                self._joined -= 1
                self._end_cell()
            case "aside":
                self._joined -= 1
                self._pieces[element.begin :] = [f" ({_folded(''.join(self._pieces[element.begin :]))})"]
            case "mark":
                self._part_mark(element)
            case "words":
                self._joined -= 1
            case "label":
                self._glued = not self._joined
                self._pieces.append(" ")
            case "line":
                self._pieces.append(_BREAK)
            case "code":
                self._end_code()
            case "field":
                self._end_field(element.name)
            case "body":
                self._end_body()
            case "":
                if element.is_container and not (element.mixed or element.has_text or element.name in _INLINE):
                    self._break()
            case _:
                self._end_block(element.role)

    def _end_block(self, role: str) -> None:
        self._break()
        if role == "section":
            self._sections -= 1
        elif role in ("list", "numbered list"):
            self._lists.pop()
        elif role == "item":
            self._mark = ""
        elif role == "table":
            self._tables -= 1
            self._add(table(self._rows))
            self._rows = []
        elif role == "person":
            self._persons -= 1

    def _end_title(self, element: _Element) -> None:
        text = self._line()
        if not text:
            return
        if element.name != "heading":  # of a patent's parts, without a section around them
            self.title = self.title or text[:TITLE_CHARS]
        level = min(max(self._title_level(element), 1), 6)
        self._blocks.insert(self._title_place(), (f"{'#' * level} {text}", False))

    def _title_place(self) -> int:
        """Where the title goes: in a feed above all of its entry, though it may follow date and author."""
        place, self._entry = self._entry, None
        return place if self._feed and place is not None else len(self._blocks)

    def _title_level(self, element: _Element) -> int:
        if element.name == "heading":
            stated = element.attributes.get("level", "")
            return 1 + (int(stated) if stated in tuple("12345") else 1)
        if self._feed:
            return 2 if self._open[-1].name in ("item", "entry") else 1
        return self._sections

    def _part_mark(self, element: _Element) -> None:
        """Part the number of a note from the word that it hangs on."""
        before, mark = self._pieces[max(0, element.begin - 1) : element.begin], "".join(self._pieces[element.begin :])
        if before and before[0][-1:].isalnum() and mark[:1].isdigit():
            self._pieces.insert(element.begin, " ")

    def _end_cell(self) -> None:
        text = self._take()
        if self._rows:
            self._rows[-1].append(text)
        else:
            self._add(text)

    def _end_code(self) -> None:
        text = "".join(self._pieces).replace(_BREAK, "\n").strip("\n").rstrip()
        self._pieces = []
        if text:
            self._add(f"```\n{text}\n```")

    def _end_field(self, name: str) -> None:
        text = self._line()
        if text and not _ADDRESS.fullmatch(text):
            self._blocks.append((f"{name}: {text}", True))

    def _end_body(self) -> None:
        """A feed carries its pages as HTML, whose headings go below the entry's own."""
        text = "".join(self._pieces)
        self._pieces = []
        if "<" in text:
            self._add(_HEADING.sub(r"##\1", convert_html(text.replace(_BREAK, "<br>")).text))
        else:
            self._add(unescape(_folded(text)))

    def _break(self) -> None:
        """End the block at hand; where blocks are only words, part these."""
        if self._joined:
            self._pieces.append(" ")
            return
        self._glued = False
        self._add(self._take())

    def _take(self) -> str:
        text = _folded("".join(self._pieces))
        self._pieces = []
        return text

    def _line(self) -> str:
        """The block at hand on one line. Feeds often escape their characters twice."""
        text = " ".join(self._take().split())
        return unescape(text) if self._feed else text

    def _add(self, text: str) -> None:
        if not text:
            return
        depth = min(len(self._lists), _MAX_INDENT)
        indent = "  " * (depth - 1 if self._mark else depth)
        text = text.replace("\n", f"\n{'  ' * depth}")
        self._blocks.append((f"{indent}{self._mark}{text}", bool(self._mark)))
        self._mark = ""


def _telling(attributes: dict[str, str]) -> list[str]:
    """The one attribute that best says in words what an empty element is."""
    named = {_local(key): value for key, value in attributes.items()}
    return [named[key] for key in _TELLING if key in named][:1]


_FEED_PARENTS = ("rss", "RDF", "channel", "feed", "item", "entry")
_FEED_ROLES = {
    **dict.fromkeys(("item", "entry"), "section"),
    **dict.fromkeys(("description", "summary", "content", "encoded", "subtitle", "tagline", "info", "body"), "body"),
    **dict.fromkeys(
        ("link", "id", "guid", "image", "textinput", "textInput", "cloud", "generator", "items"), "left out"
    ),
    **dict.fromkeys(("skipHours", "skipDays"), "left out"),
    "channel": "section",
    "title": "title",
}
"""In a feed, what stands directly in it, its channel or its entries."""

_ADDRESS = re.compile(r"(?:https?|tag|urn):\S*")
_HEADING = re.compile(r"^(#{1,4} )", re.MULTILINE)

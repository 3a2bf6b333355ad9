"""Spreadsheet files, opened in a way that a hostile one cannot harm.

calamine reads the cells, and is never shown a file as it came: it makes room for every place between the
first and the last cell, filled or not, and ends the process where there is not enough
(github.com/tafia/calamine/issues/693). So each file is looked through before, and what calamine gets is an
archive or compound file of our own making, with what is needed alone. The looking is no parser: what a file
hides from it is left to the limits of the process.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast
from xml.parsers import expat

import olefile
from docx.oxml.ns import qn
from python_calamine import CalamineSheet, CalamineWorkbook

from pipeline.extract.archive import unpack
from pipeline.extract.blocks import escaped
from pipeline.extract.decode import TITLE_CHARS, clean, decode
from pipeline.extract.ooxml import Element, Package, Parts, core_metadata
from pipeline.extract.tables import one_line
from storage.errors import ExtractError

MAX_CELLS = 5_000_000
"""Places from A1 to the last cell with a value: in a sheet, and in all sheets that are read. calamine takes
32 to 112 bytes for each."""


@dataclass(slots=True)
class Workbook:
    """An open workbook.

    withheld: whether calamine was not given the sheets that are too wide; places: how many it has made room for.
    """

    calamine: CalamineWorkbook
    metadata: dict[str, Any]
    package: _Package | None = None
    withheld: bool = False
    places: int = 0

    def sheet(self, index: int) -> CalamineSheet:
        """The cells of a sheet. Raises ExtractError: corrupt, too_large."""
        try:
            with corrupt_on_error():
                sheet = self.calamine.get_sheet_by_index(index)
        except ExtractError as error:
            raise (_too_wide() if self.withheld else error) from error
        self.places += sheet.total_height * sheet.total_width
        if self.places > MAX_CELLS:
            raise _too_wide()
        return sheet

    def number_formats(self, sheet: str) -> NumberFormats:
        """How the numbers of a sheet are shown, as far as this format lets see it."""
        return self.package.number_formats(sheet) if self.package else NumberFormats()

    def remarks(self, sheet: str) -> Iterator[str]:
        """Comments on the cells of a sheet, then the text boxes on it, as far as this format lets see them."""
        return self.package.remarks(sheet) if self.package else iter(())

    @property
    def parts_failed(self) -> list[str]:
        """Parts of lesser weight that could not be read so far."""
        return self.package.failed if self.package else []


class NumberFormats(NamedTuple):
    """How numbers are shown: for each place, row by row, a byte.

    It is 0 for "as it is", else 1 more than the number of decimals; PERCENT is added to it for a percentage. What is
    more than PADDED is by how many digits a whole number has at least, as a postal code does.
    """

    columns: int = 0
    codes: bytes | bytearray = b""

    def of_row(self, row: int, first_column: int, count: int) -> bytes | bytearray:
        """The formats of so many cells in a row; rows and columns count from 0."""
        start = row * self.columns
        return self.codes[start + first_column : start + self.columns][:count].ljust(count, b"\0")


PERCENT = 32
PADDED = 64


def open_workbook(data: bytes) -> Workbook:
    """Open an .xlsx, .xlsm, .xlsb, .xls or .ods, or a template of these.

    Raises ExtractError: encrypted, corrupt, too_large.
    """
    if data.startswith(olefile.MAGIC):
        return _open_compound(data)
    if data[:2] in _BEFORE_EXCEL_5:
        reason = "it is older than Excel 5: open it in LibreOffice and save it as .xlsx"
        raise ExtractError(f"corrupt spreadsheet: {reason}")
    parts = unpack(data, wanted=lambda name: _WANTED.fullmatch(name) is not None)
    return _open_opendocument(parts) if "content.xml" in parts else _open_package(parts)


_BEFORE_EXCEL_5 = (b"\x09\x00", b"\x09\x02", b"\x09\x04")
_WANTED = re.compile(r".*\.(?:xml|rels)|xl/(?:worksheets/)?(?!vbaProject)\w+\.bin", re.IGNORECASE)


def _too_wide() -> ExtractError:
    reason = (
        f"too large: its cells take more than {MAX_CELLS:,} places, empty ones included: "
        "split it, or delete what stands far away from the tables"
    )
    return ExtractError(reason, code="too_large")


@contextmanager
def corrupt_on_error() -> Generator[None]:
    """Turn whatever a library raises on a damaged file into ExtractError (corrupt)."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, ExtractError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        cause = "its cells cannot be read"
        raise ExtractError(f"corrupt spreadsheet: {cause}: save it again with the program it comes from") from error


def _encrypted() -> ExtractError:
    reason = "encrypted spreadsheet: save a copy without password, as only a PDF's can be given"
    return ExtractError(reason, code="encrypted")


def _calamine(data: bytes) -> CalamineWorkbook:
    with corrupt_on_error():
        return CalamineWorkbook.from_filelike(io.BytesIO(data))


def _pack(parts: Mapping[str, bytes]) -> bytes:
    """An archive of these parts as they are: whatever the file's own claims, there is nothing left to inflate."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


# --- .xlsx, .xlsm, .xltx, .xlsb ------------------------------------------------------------------------------


def _open_package(parts: Mapping[str, bytes]) -> Workbook:
    if len({name.lower() for name in parts}) < len(parts):  # which of them counts, programs do not agree on
        raise ExtractError("corrupt spreadsheet: two of its parts have the same name: save it again in Excel")
    extents = {name: _extent(name, content) for name, content in parts.items()}
    narrow = {name: content for name, content in parts.items() if extents[name].places <= MAX_CELLS}
    package = _Package(parts, {name.lower(): extent for name, extent in extents.items()})
    metadata: dict[str, Any] = dict(core_metadata(package))
    return Workbook(_calamine(_pack(narrow)), metadata, package, withheld=len(narrow) < len(parts))


class _Extent(NamedTuple):
    """Number of the last row and of the last column with a value, from 1; 0 for a part that is no sheet."""

    rows: int = 0
    columns: int = 0

    @property
    def places(self) -> int:
        return self.rows * self.columns


def _extent(name: str, content: bytes) -> _Extent:
    return _extent_of_records(content) if name.lower().endswith(".bin") else _extent_of_xml(content)


def _extent_of_xml(content: bytes) -> _Extent:
    rows, columns = set[bytes](), set[bytes]()
    for cell in _FILLED_CELL.finditer(content):
        columns.add(cell[1])
        rows.add(cell[2])
    return _Extent(max(map(int, rows), default=0), max(map(_column, columns), default=0))


_FILLED = (
    rb"<(?:\w+:)?c\s(?:[^<>]*?\s)?r\s*=\s*[\"']([A-Za-z]{1,9})[A-Za-z]*0*([1-9][0-9]{0,18})[0-9]*[\"']"
    rb"[^<>]*(?<!/)>(?!\s*</)"
)
_FILLED_CELL = re.compile(_FILLED)


@lru_cache(16_384)
def _column(letters: bytes) -> int:
    """Number of a column, from 1."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - ord("A") + 1
    return number


def _extent_of_records(content: bytes) -> _Extent:
    """The extent of a sheet in an .xlsb, where a record is its kind, its size and so many bytes."""
    at = row = rows = columns = 0
    try:
        while at < len(content):
            kind, at = _varint(content, at, 2)
            size, at = _varint(content, at, 4)
            if kind == _XLSB_ROW:
                row = struct.unpack_from("<I", content, at)[0] + 1
            elif kind in _XLSB_CELLS:
                rows, columns = max(rows, row), max(columns, struct.unpack_from("<I", content, at)[0] + 1)
            at += size
    except (IndexError, struct.error):  # cut off
        pass
    return _Extent(rows, columns)


_XLSB_ROW = 0
_XLSB_CELLS = frozenset((*range(2, 12), 62))


def _varint(content: bytes, at: int, max_bytes: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for place in range(max_bytes):
        number |= (content[at + place] & 0x7F) << (7 * place)
        if content[at + place] < 0x80:
            return number, at + place + 1
    return number, at + max_bytes


class _Package(Package):
    """What calamine does not tell of an Excel file: how numbers are shown, comments, text boxes.

    A part of these that is damaged costs nothing else. There is none in an .xlsb, whose parts are no XML.
    """

    def __init__(self, parts: Mapping[str, bytes], extents: Mapping[str, _Extent]) -> None:
        """extents: of each part, whose name is in lower case."""
        Parts.__init__(self, parts, format_name="spreadsheet", program="Excel")  # they are unpacked already
        self._extents = extents
        self._main = self.root_part("officeDocument", "xl/workbook.xml")

    def number_formats(self, sheet: str) -> NumberFormats:
        """How the numbers of a sheet are shown. Raises no error for a sheet that is not known."""
        part = self._sheets.get(sheet, "").lower()
        styles = self._styles if part in self._extents else {}
        if not styles:
            return NumberFormats()
        rows, columns = self._extents[part]
        codes = bytearray(rows * columns)
        shown = rb"(?=<(?:\w+:)?c\s[^<>]*\bs\s*=\s*[\"'](%s)[\"'])" % b"|".join(styles)
        for cell in re.finditer(shown + _FILLED, self.bytes_of(part) or b""):
            codes[(int(cell[3]) - 1) * columns + _column(cell[2]) - 1] = styles[cell[1]]
        return NumberFormats(columns, codes)

    def remarks(self, sheet: str) -> Iterator[str]:
        """Comments on the cells of a sheet, then the text boxes that lie on it."""
        part = self._sheets.get(sheet, "")
        for root in self._related(part, "comments", "threadedComment"):
            for comment in (each for each in root.iter() if each.get("ref")):
                text = one_line("".join(node.text or "" for node in comment.iter() if _local(node) in ("t", "text")))
                if text and not text.startswith(_PLACEHOLDER):
                    yield f"Comment ({comment.get('ref')}): {text}"
        for root in self._related(part, "drawing"):
            boxes = dict.fromkeys(_box_text(node) for node in root.iter() if _local(node) == "txBody")
            yield from filter(None, boxes)

    @cached_property
    def _sheets(self) -> dict[str, str]:
        """The part of each sheet by its name."""
        try:
            relations = self.relations(self._main)
            root = self.xml(self._main) if self._main.endswith(".xml") else None
        except ExtractError:
            return {}
        sheets = (node for node in root.iter() if _local(node) == "sheet") if root is not None else ()
        related = ((node.get("name"), relations.get(node.get(qn("r:id")) or "")) for node in sheets)
        return {name: relation.part for name, relation in related if name and relation}

    @cached_property
    def _styles(self) -> dict[bytes, int]:
        """How numbers are shown, by the style that cells name."""
        styles: dict[bytes, int] = {}
        for root in self._related(self._main, "styles"):
            nodes = list(root.iter())
            own = {node.get("numFmtId"): node.get("formatCode") or "" for node in nodes if _local(node) == "numFmt"}
            formats = _BUILT_IN_FORMATS | own
            cells = (style for node in nodes if _local(node) == "cellXfs" for style in node)
            for number, style in enumerate(cells):
                if code := _number_format(formats.get(style.get("numFmtId"), "")):
                    styles[b"%d" % number] = code
        return styles

    def _related(self, part: str, *kinds: str) -> Iterator[Element]:
        try:
            relations = self.relations(part) if part else {}
        except ExtractError:
            return
        for relation in relations.values():
            root = self.optional(relation.part) if relation.kind in kinds else None
            if root is not None:
                yield root


_BUILT_IN_FORMATS: dict[str | None, str] = {
    **dict.fromkeys(("1", "3", "37", "38", "41", "42"), "0"),
    **dict.fromkeys(("2", "4", "39", "40", "43", "44"), "0.00"),
    "9": "0%",
    "10": "0.00%",
}
"""By number; they are not written down in the file. Those of dates, fractions and exponents are left out."""


def _number_format(code: str) -> int:
    """What NumberFormats says of a format such as `#,##0.00" kg"`: 0 where it does more than round."""
    digits = _LITERAL.sub("", code.split(";")[0])
    if _LEADING_ZEROS.fullmatch(digits):
        return PADDED + len(digits)
    found = _FIXED_DECIMALS.fullmatch(digits)
    return 1 + len(found[1] or "") + (PERCENT if found[2] else 0) if found else 0


_LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]|[\s$€£¥()+-]')
_FIXED_DECIMALS = re.compile(r"[#?,]*0(?:\.(0{1,15}))?(%?)")
_LEADING_ZEROS = re.compile(r"0{2,20}")
_PLACEHOLDER = "[Threaded comment]"
"""Excel writes newer comments twice, the second time after an advice to those who have an older Excel."""


def _local(node: Element) -> str:
    return str(node.tag).rpartition("}")[2]


def _box_text(body: Element) -> str:
    """Text of a text box as Markdown, a line each paragraph."""
    paragraphs = (node for node in body.iter() if _local(node) == "p")
    lines = (one_line("".join(t.text or "" for t in node.iter() if _local(t) == "t")) for node in paragraphs)
    return escaped("\n".join(filter(None, lines)))


# --- .ods ----------------------------------------------------------------------------------------------------


def _open_opendocument(parts: dict[str, bytes]) -> Workbook:
    if b"encryption-data" in parts.get("META-INF/manifest.xml", b""):
        raise _encrypted()
    with corrupt_on_error():  # calamine reads on for ever where a table is not closed
        expat.ParserCreate().Parse(parts["content.xml"], True)
    if _extent_of_tables(parts["content.xml"]) > MAX_CELLS:
        raise _too_wide()
    content = _GAP.sub(b" ", parts["content.xml"])  # calamine would join the words around it
    usual = {"mimetype": _MIME_TYPE, "META-INF/manifest.xml": b"<manifest/>"}
    return Workbook(_calamine(_pack(usual | parts | {"content.xml": content})), _stated(parts))


_MIME_TYPE = b"application/vnd.oasis.opendocument.spreadsheet"
_GAP = re.compile(rb"<text:(?:line-break|tab)\s*/>")


def _extent_of_tables(content: bytes) -> int:
    """The extent of all sheets; each row and cell says how often it is repeated."""
    extent = row = repeated = column = rows = columns = 0
    for found in _TABLE_PART.finditer(content):
        kind, repeats = found[1], _repeats(found[2])
        if kind == b"table":
            extent, row, repeated, rows, columns = extent + rows * columns, 0, 0, 0, 0
        elif kind == b"table-row":
            row, repeated, column = row + repeated, repeats, 0
        else:
            column += repeats
            if b"value-type" in found[2]:
                rows, columns = row + repeated, max(columns, column)
    return extent + rows * columns


_TABLE_PART = re.compile(rb"<table:(table-row|(?:covered-)?table-cell|table)(?=[\s/>])([^<]*)")
_REPEATED = re.compile(rb"number-(?:rows|columns)-repeated\s*=\s*[\"']([0-9]{1,10})")


def _repeats(attributes: bytes) -> int:
    found = _REPEATED.search(attributes)
    return int(found[1]) if found else 1


def _stated(parts: Mapping[str, bytes]) -> dict[str, Any]:
    root = Parts(parts, format_name="spreadsheet", program="LibreOffice").optional("meta.xml")
    texts = {_local(node): one_line(clean(node.text or "")) for node in (root.iter() if root is not None else ())}
    author = texts.get("initial-creator") or texts.get("creator")
    stated = {"title": texts.get("title"), "author": author, "subject": texts.get("subject")}
    return {key: text[:TITLE_CHARS] for key, text in stated.items() if text}


# --- .xls ----------------------------------------------------------------------------------------------------


def _open_compound(data: bytes) -> Workbook:
    with corrupt_on_error(), cast(Any, olefile.OleFileIO(io.BytesIO(data))) as ole:
        if ole.exists("EncryptedPackage"):
            raise _encrypted()
        name = next((name for name in ("Workbook", "Book") if ole.exists(name)), None)
        if name is None:
            cause = "it holds no workbook, so it is something else under this name"
            raise ExtractError(f"corrupt spreadsheet: {cause}: save it as .xlsx")
        stream = bytearray(ole.openstream(name).read())
        metadata = _summary(ole)
    _make_harmless(stream)
    return Workbook(_calamine(_compound_file(stream)), metadata)


def _make_harmless(stream: bytearray) -> None:
    """Take out what makes calamine claim memory: the sizes that sheets say they have, on which nothing else depends.

    The sheets are looked for as calamine does it, for a hostile file may hide one within another.
    Raises ExtractError: encrypted, too_large, corrupt.
    """
    records = list(_records(stream, 0))
    if any(kind == _FILE_PASS for kind, _, _ in records):
        raise _encrypted()
    places = looked_at = 0
    for start in [struct.unpack_from("<I", stream, at)[0] for kind, at, _ in records if kind == _BOUND_SHEET]:
        rows = columns = end = 0
        for kind, at, end in _records(stream, start):
            if kind == _DIMENSIONS:
                stream[at:end] = bytes(end - at)
            elif kind in _XLS_CELLS:
                row, column = struct.unpack_from("<HH", stream, at)
                count = (end - at) // _BYTES_PER_NUMBER if kind == _NUMBERS else 1
                rows, columns = max(rows, row + 1), max(columns, column + count)
        places += rows * columns
        looked_at += max(0, end - start)
        if looked_at > len(stream):
            raise ExtractError("corrupt spreadsheet: its sheets overlap: do not trust this file")
    if places > MAX_CELLS:
        raise _too_wide()


_FILE_PASS, _BOUND_SHEET, _DIMENSIONS, _END = 0x002F, 0x0085, 0x0200, 0x000A
_NUMBERS = 0x00BD
_BYTES_PER_NUMBER = 6
"""In a record of several numbers, which has 6 bytes more."""
_XLS_CELLS = (0x0006, _NUMBERS, 0x00D6, 0x00FD, 0x0203, 0x0204, 0x0205, 0x027E)


def _records(stream: bytearray, at: int) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of the content of each record up to the one that ends a sheet."""
    while at + 4 <= len(stream):
        kind, size = struct.unpack_from("<HH", stream, at)
        at += 4
        if kind == _END or at + size > len(stream):
            return
        if size >= 4:
            yield kind, at, at + size
        at += size


def _compound_file(stream: bytearray) -> bytes:
    """A compound file of this stream alone, so that calamine need not follow the chains of a hostile one.

    Source: [MS-CFB]. In version 4 the header alone lists the sectors of tables enough for 446 MB.
    """
    content = bytes(stream).ljust(_SECTOR, b"\0")  # shorter ones lie elsewhere
    sectors = -(-len(content) // _SECTOR)
    tables = -(-(sectors + 1) // (_SECTOR // 4 - 1))
    header = struct.pack("<8s16x5H6x4I", olefile.MAGIC, 0x3E, 4, 0xFFFE, 12, 6, 1, tables, tables, 0)
    header += struct.pack("<5I", _SECTOR, _CHAIN_END, 0, _CHAIN_END, 0) + _numbers(range(tables), 109)
    chains = [_TABLE] * tables + [_CHAIN_END, *range(tables + 2, tables + 1 + sectors), _CHAIN_END]
    root = _entry("Root Entry", 5, 1, tables, 0)  # calamine wants it to lie somewhere: here with the directory
    entries = root + _entry("Workbook", 2, _NONE, tables + 1, len(content))
    parts = (header, _numbers(chains, tables * _SECTOR // 4), entries, content)
    return b"".join(part.ljust(-(-len(part) // _SECTOR) * _SECTOR, b"\0") for part in parts)


_SECTOR = 4096
_TABLE, _CHAIN_END, _NONE = 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF


def _numbers(numbers: Iterable[int], count: int) -> bytes:
    """So many unsigned 32-bit numbers, those that are missing as "none"."""
    given = list(numbers)
    return struct.pack(f"<{count}I", *given, *[_NONE] * (count - len(given)))


def _entry(name: str, kind: int, child: int, first_sector: int, size: int) -> bytes:
    """An entry in the directory of a compound file."""
    layout = "<64sHBBIII16xI16xIQ"
    written = name.encode("utf-16-le")
    return struct.pack(layout, written, len(written) + 2, kind, 1, _NONE, _NONE, child, 0, first_sector, size)


_SUMMARY = "\x05SummaryInformation"


def _summary(ole: Any) -> dict[str, Any]:
    """Title, subject and author where the file states them readably.

    olefile has a reader of its own, which goes through as many properties as a file claims to have.
    """
    try:
        texts, codepage = _properties(ole.openstream(_SUMMARY).read() if ole.exists(_SUMMARY) else b"")
    except struct.error:
        return {}
    stated = {_SUMMARY_TEXTS[number]: one_line(_decoded(text, codepage)) for number, text in texts.items()}
    return {key: text[:TITLE_CHARS] for key, text in stated.items() if text}


_CODEPAGE = 1
_SUMMARY_TEXTS = {2: "title", 3: "subject", 4: "author"}
_BYTE_STRING = 0x1E
_MAX_PROPERTIES = 64


def _properties(stream: bytes) -> tuple[dict[int, bytes], int]:
    """Bytes of the texts in a property set, by number, and the code page that they are in."""
    texts: dict[int, bytes] = {}
    codepage = 1252
    (start,) = struct.unpack_from("<I", stream, 44)
    (count,) = struct.unpack_from("<I", stream, start + 4)
    for place in range(min(count, _MAX_PROPERTIES)):
        number, offset = struct.unpack_from("<II", stream, start + 8 + 8 * place)
        kind, value = struct.unpack_from("<II", stream, start + offset)
        if number == _CODEPAGE:
            codepage = value & 0xFFFF
        elif number in _SUMMARY_TEXTS and kind == _BYTE_STRING:
            texts[number] = stream[start + offset + 8 :][:value].partition(b"\0")[0]
    return texts, codepage


def _decoded(text: bytes, codepage: int) -> str:
    try:
        return clean(text.decode(f"cp{codepage}"))
    except (LookupError, UnicodeDecodeError):
        return decode(text).text

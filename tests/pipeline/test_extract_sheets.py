from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st
from odf.opendocument import OpenDocumentSpreadsheet
from odf.table import Table, TableCell, TableRow
from odf.text import P

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import extract, workbooks
from pipeline.extract.workbooks import MAX_CELLS
from storage.errors import ExtractError

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


# --- samples -------------------------------------------------------------------------------------------------


def written(fill: Callable[[Any], None], **properties: str) -> bytes:
    """A workbook of XlsxWriter."""
    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True}) as workbook:
        workbook.set_properties(properties)
        fill(workbook)
    return out.getvalue()


def of_rows(*rows: list[Any]) -> bytes:
    """One sheet named "Stock" with these rows; None leaves a cell out."""

    def fill(workbook: Any) -> None:
        sheet = workbook.add_worksheet("Stock")
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                if cell is not None:
                    sheet.write(number, column, cell)

    return written(fill)


def packed(files: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def unpacked(data: bytes) -> dict[str, str | bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def relations(**targets: str) -> str:
    links = "".join(
        f'<Relationship Id="{name}" Type="{R}/{name.rstrip("0123456789")}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>'
    )


def by_hand(*sheets: str, more: dict[str, str | bytes] | None = None) -> bytes:
    """An .xlsx of sheets S1, S2 and so on, given as the XML within <worksheet>."""
    names = range(1, len(sheets) + 1)
    listed = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="worksheet{n}"/>' for n in names)
    files: dict[str, str | bytes] = {
        "_rels/.rels": relations(officeDocument="xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{R}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(**{f"worksheet{n}": f"worksheets/sheet{n}.xml" for n in names}),
    }
    for n, sheet in zip(names, sheets, strict=True):
        files[f"xl/worksheets/sheet{n}.xml"] = f'<worksheet xmlns="{MAIN}">{sheet}</worksheet>'
    return packed(files | (more or {}))


def cells(**values: str) -> str:
    rows = "".join(f'<row><c r="{place}"><v>{value}</v></c></row>' for place, value in values.items())
    return f"<sheetData>{rows}</sheetData>"


FAR = cells(A1="1", XFD1048576="2")


def ods(*rows: str, manifest: str = "", end: str = "</table:table>") -> bytes:
    """An .ods of one sheet, its rows given as XML."""
    name = "urn:oasis:names:tc:opendocument:xmlns"
    content = (
        f'<office:document-content xmlns:office="{name}:office:1.0" xmlns:table="{name}:table:1.0" '
        f'xmlns:text="{name}:text:1.0"><office:body><office:spreadsheet><table:table table:name="Stock">'
        f"{''.join(rows)}{end}</office:spreadsheet></office:body></office:document-content>"
    )
    return packed(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f"<manifest>{manifest}</manifest>",
            "content.xml": content,
        }
    )


def ods_row(*values: str, repeated: int = 1, cell_repeated: int = 1) -> str:
    row = "".join(
        f'<table:table-cell office:value-type="string" table:number-columns-repeated="{cell_repeated}">'
        f"<text:p>{value}</text:p></table:table-cell>"
        if value
        else f'<table:table-cell table:number-columns-repeated="{cell_repeated}"/>'
        for value in values
    )
    return f'<table:table-row table:number-rows-repeated="{repeated}">{row}</table:table-row>'


def record(kind: int, content: bytes = b"") -> bytes:
    return struct.pack("<HH", kind, len(content)) + content


def number(row: int, column: int, value: float) -> bytes:
    return record(0x0203, struct.pack("<HHHd", row, column, 0, value))


def label(row: int, column: int, text: str) -> bytes:
    return record(0x0204, struct.pack("<HHHHB", row, column, 0, len(text), 0) + text.encode("latin-1"))


def dimensions(rows: int, columns: int) -> bytes:
    return record(0x0200, struct.pack("<IIHHH", 0, rows, 0, columns, 0))


END = record(0x000A)


def bof(kind: int) -> bytes:
    return record(0x0809, struct.pack("<HHHHII", 0x0600, kind, 0, 1997, 0, 6))


def biff(*sheets: bytes, first: bytes = b"", starts: list[int] | None = None, charts: tuple[int, ...] = ()) -> bytes:
    """The stream of an Excel 97 workbook.

    first: records before all others; starts: where it says its sheets are; charts: numbers of sheets that are charts.
    """
    name = b"\x02\x00S"
    bound = len(record(0x0085, bytes(6) + name + b"1"))
    at = len(bof(5) + first) + bound * len(sheets) + len(END)
    whole = [bof(0x10) + sheet + END for sheet in sheets]
    places = starts or [at + sum(map(len, whole[:n])) for n in range(len(sheets))]
    listed = [
        record(0x0085, struct.pack("<IBB", place, 0, 2 * (n in charts)) + name + b"%d" % n)
        for n, place in enumerate(places, start=1)
    ]
    return b"".join([bof(5), first, *listed, END, *whole])


def compound(**streams: bytes) -> bytes:
    """A compound file with 512-byte sectors: one of tables, then the directory, then the streams."""
    free, chain_end = 0xFFFFFFFF, 0xFFFFFFFE
    table = [0xFFFFFFFD, chain_end]
    entries = [struct.pack("<64sHBBIII36xIQ", "Root Entry".encode("utf-16-le"), 22, 5, 1, free, free, 1, chain_end, 0)]
    content = b""
    for n, (name, stream) in enumerate(streams.items(), start=1):
        stream = stream.ljust(-(-max(len(stream), 4096) // 512) * 512, b"\0")
        start, count = len(table), len(stream) // 512
        table += [*range(start + 1, start + count), chain_end]
        right = n + 1 if n < len(streams) else free
        written_name = name.replace("_", "\x05").encode("utf-16-le")
        entries.append(
            struct.pack(
                "<64sHBBIII36xIQ", written_name, len(written_name) + 2, 2, 1, free, right, free, start, len(stream)
            )
        )
        content += stream
    header = struct.pack(
        "<8s16x5H6x9I",
        bytes.fromhex("d0cf11e0a1b11ae1"),
        62,
        3,
        0xFFFE,
        9,
        6,
        0,
        1,
        1,
        0,
        4096,
        chain_end,
        0,
        chain_end,
        0,
    )
    header += struct.pack("<109I", 0, *[free] * 108)
    return (
        header
        + struct.pack("<128I", *table, *[free] * (128 - len(table)))
        + b"".join(entries).ljust(512, b"\0")
        + content
    )


def xls(*sheets: bytes, **options: Any) -> bytes:
    return compound(Workbook=biff(*sheets, **options))


def properties(**texts: str) -> bytes:
    """A SummaryInformation stream in Windows' code page for Greek."""
    numbers = {"title": 2, "author": 4}
    values = [(1, struct.pack("<Ii", 2, 1253))]
    values += [
        (numbers[key], struct.pack("<II", 0x1E, len(text) + 1) + text.encode("cp1253") + b"\0")
        for key, text in texts.items()
    ]
    at = 8 + 8 * len(values)
    index, content = b"", b""
    for key, value in values:
        index += struct.pack("<II", key, at + len(content))
        content += value
    return bytes(44) + struct.pack("<I", 48) + struct.pack("<II", at + len(content), len(values)) + index + content


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7]) if value > 0x7F else bytes([value])


def xlsb_record(kind: int, content: bytes = b"") -> bytes:
    return varint(kind) + varint(len(content)) + content


def wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def xlsb(*placed: tuple[int, int, str]) -> bytes:
    """An .xlsb of one sheet, its cells given as row, column and text."""
    bundle = xlsb_record(156, struct.pack("<II", 0, 1) + wide("rId1") + wide("Stock"))
    book = [xlsb_record(131), xlsb_record(143), bundle, xlsb_record(144), xlsb_record(132)]
    sheet = [xlsb_record(129), xlsb_record(148, struct.pack("<IIII", 0, 9, 0, 9)), xlsb_record(145)]
    for row, column, text in placed:
        sheet.append(xlsb_record(0, struct.pack("<IIHHBI", row, 0, 0, 0, 0, 0)))
        sheet.append(xlsb_record(6, struct.pack("<II", column, 0) + wide(text)))
    sheet += [xlsb_record(146), xlsb_record(130)]
    return packed(
        {
            "_rels/.rels": relations(officeDocument="xl/workbook.bin"),
            "xl/workbook.bin": b"".join(book),
            "xl/_rels/workbook.bin.rels": relations(worksheet="worksheets/sheet1.bin").replace(
                'Id="worksheet"', 'Id="rId1"'
            ),
            "xl/worksheets/sheet1.bin": b"".join(sheet),
        }
    )


def read(data: bytes) -> Document:
    return extract(data, kind=Kind.SPREADSHEET, name="a.xlsx")


def text_of(*rows: list[Any]) -> str:
    return read(of_rows(*rows)).text.removeprefix("# Stock\n\n")


def failure(data: bytes) -> ExtractError:
    with pytest.raises(ExtractError) as caught:
        read(data)
    return caught.value


# --- structure -----------------------------------------------------------------------------------------------


def test_a_sheet_is_a_page_with_its_name_as_heading() -> None:
    def fill(workbook: Any) -> None:
        workbook.add_worksheet("Prices 2026").write_row(0, 0, ["Part", "Price"])
        workbook.add_worksheet("Empty")
        notes = workbook.add_worksheet("Notes")
        notes.write(3, 2, "Prices hold until June.")
        notes.hide()

    document = read(written(fill, title="Price list", author="Imogen Vasquez"))
    assert document.text == "# Prices 2026\n\n| Part | Price |\n| --- | --- |\n\n# Notes\n\nPrices hold until June."
    assert document.syntax == "markdown"
    assert (document.page_count, document.page_unit) == (3, "sheet")
    assert [(page.number, document.text[page.start : page.end]) for page in document.pages] == [
        (1, "# Prices 2026\n\n| Part | Price |\n| --- | --- |"),
        (3, "# Notes\n\nPrices hold until June."),
    ]
    assert document.metadata["title"] == "Price list"
    assert document.metadata["author"] == "Imogen Vasquez"
    assert document.metadata["hidden_sheets"] == ["Notes"]
    assert "pages_failed" not in document.metadata


def test_titles_stand_above_the_table() -> None:
    assert text_of(
        ["Stock of the north store"],
        ["Counted by", None, "Ada"],
        ["Part", "Shelf", "Count", "Minimum"],
        ["Hinge", "A1", 42, 15],
        ["See the notes."],
    ) == (
        "Stock of the north store\nCounted by Ada\n\n"
        "| Part | Shelf | Count | Minimum |\n| --- | --- | --- | --- |\n"
        "| Hinge | A1 | 42 | 15 |\n| See the notes. |  |  |  |"
    )


def test_an_empty_row_parts_tables() -> None:
    assert text_of(["a", "b"], [1, 2], [], ["c", "d", "e"], [3, 4, 5], [6, 7, 8]) == (
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c | d | e |\n| --- | --- | --- |\n| 3 | 4 | 5 |\n| 6 | 7 | 8 |"
    )


def test_a_header_or_total_set_apart_belongs_to_its_table() -> None:
    assert text_of(["Part", "Count"], [], ["Hinge", 42], ["Latch", 9], [], ["All", 51]) == (
        "| Part | Count |\n| --- | --- |\n| Hinge | 42 |\n| Latch | 9 |\n| All | 51 |"
    )


def test_empty_columns_go_and_part_nothing() -> None:
    rows = [[None, "Rent", None, None, 900], [None, "Heat", None, None, 80]]
    assert text_of(*rows) == "| Rent | 900 |\n| --- | --- |\n| Heat | 80 |"


def test_a_single_column_is_no_table() -> None:
    assert text_of(["one"], ["two"], [], ["three"]) == "one\ntwo\n\nthree"


def test_line_breaks_and_bars_stay_in_their_cell() -> None:
    assert text_of(["a\nb", "c|d"], ["e ", 1]) == "| a b | c\\|d |\n| --- | --- |\n| e | 1 |"


def test_a_merged_cell_is_given_once() -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.add_worksheet("S")
        sheet.write_row(0, 0, ["Region", "Q1", "Q2"])
        sheet.merge_range(1, 0, 2, 0, "North")
        sheet.write_row(1, 1, [1, 2])
        sheet.write_row(2, 1, [3, 4])

    assert read(written(fill)).text.endswith("| North | 1 | 2 |\n|  | 3 | 4 |")


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["C", "Z"])), max_size=4), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_every_cell_is_found_again_in_reading_order(rows: list[list[str]]) -> None:
    wanted = [text for row in rows for text in row if text]
    if not wanted:
        return
    text = text_of(*[["x" + cell if cell else None for cell in row] for row in rows]).replace("\\|", "|")
    at = 0
    for cell in wanted:
        at = text.index("x" + cell, at) + 1


# --- cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (3.0, "", "3"),
        (0.1 + 0.2, "", "0.3"),
        (962.160000000003, "", "962.16"),
        (123456789012.34, "", "123456789012.34"),
        (1 / 3, "", "0.333333333333333"),
        (9007199254740991, "", "9007199254740991"),
        (-1.5, "", "-1.5"),
        (1e300, "", "1e+300"),
        (0.25, "0%", "25%"),
        (0.12345, "0.0%", "12.3%"),
        (4.2, "0.00", "4.20"),
        (4.2, 2, "4.20"),
        (0.123, 10, "12.30%"),
        (1234.5, "#,##0.00 [$€-407]", "1234.50"),
        (-7.25, '#,##0.0_);[Red](#,##0.0)" kg"', "-7.3"),
        (0.25, "# ?/?", "0.25"),
        (1500.0, '0.0,"k"', "1500"),
        (0.25, '0.0"%"', "0.3"),
        (2.5, "0", "3"),
        (0.5, "0", "1"),
        (-2.5, "0", "-3"),
        (2.675, "0.00", "2.68"),
        (1.005, "#,##0.00", "1.01"),
        (0.285, "0%", "29%"),
        (1.1, "0.00%", "110.00%"),
        (1e300 / 7, "0", "142857142857143" + "0" * 285),
        (1e-300, "0.0", "0.0"),
        (9007199254740991, "0", "9007199254740991"),
        (501, "00000", "00501"),
        (-501, "00000", "-00501"),
        (123456, "00000", "123456"),
        (12345678, "000-00-0000", "012345678"),
        (True, "", "TRUE"),
        (date(2026, 2, 27), "dd/mm/yyyy", "2026-02-27"),
        (datetime(2026, 2, 27, 9, 30), "dd/mm/yyyy hh:mm", "2026-02-27 09:30"),
        (datetime(2026, 2, 27, 9, 30, 15), "dd/mm/yyyy hh:mm:ss", "2026-02-27 09:30:15"),
        (time(18, 5), "hh:mm", "18:05"),
        (timedelta(hours=36, minutes=5), "[h]:mm", "36:05:00"),
    ],
)
def test_a_cell_is_given_as_a_reader_sees_it(value: Any, number_format: str | int, shown: str) -> None:
    def fill(workbook: Any) -> None:
        style = workbook.add_format({"num_format": number_format or "General"})
        workbook.add_worksheet("S").write_row(2, 1, ["total", value], style)

    assert read(written(fill)).text == f"# S\n\n| total | {shown} |\n| --- | --- |"


def test_text_in_a_cell_of_numbers_is_left_alone() -> None:
    def fill(workbook: Any) -> None:
        style = workbook.add_format({"num_format": "0%"})
        sheet = workbook.add_worksheet("S")
        sheet.write_row(0, 1, ["Share", 0.5, "n/a"], style)
        sheet.write(1, 3, 0.5)
        sheet.write_blank(2, 400, None, style)

    assert read(written(fill)).text.endswith("| Share | 50% | n/a |\n| --- | --- | --- |\n|  |  | 0.5 |")


def test_comments_and_text_boxes_follow_the_cells() -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.add_worksheet("S")
        sheet.write_row("A1", ["Hinge", 42])
        sheet.write_comment("B1", "Recount in\nMarch")
        sheet.insert_textbox("D4", "Approved\n# by the board")
        workbook.add_worksheet("T").write("A1", "nothing more")

    assert read(written(fill)).text == (
        "# S\n\n| Hinge | 42 |\n| --- | --- |\n\nComment (B1): Recount in March\n\nApproved\n\\# by the board\n\n"
        "# T\n\nnothing more"
    )


def test_a_newer_comment_is_given_once() -> None:
    old = "[Threaded comment] Your version of Excel allows you to read this. Comment: Why?"
    data = by_hand(
        cells(A1="1"),
        more={
            "xl/worksheets/_rels/sheet1.xml.rels": relations(comments="../c.xml", threadedComment="../t.xml"),
            "xl/c.xml": f'<comments xmlns="{MAIN}"><comment ref="A1"><text><t>{old}</t></text></comment></comments>',
            "xl/t.xml": '<t><threadedComment ref="A1"><text>Why?</text></threadedComment></t>',
        },
    )
    assert read(data).text == "# S1\n\n1\n\nComment (A1): Why?"


# --- other formats -------------------------------------------------------------------------------------------


def test_an_opendocument_spreadsheet() -> None:
    spreadsheet = OpenDocumentSpreadsheet()
    table = Table(name="Stock")
    for values in (["Part", "Count"], ["Hinge", 42]):
        row = TableRow()
        for value in values:
            cell = (
                TableCell(valuetype="string") if isinstance(value, str) else TableCell(valuetype="float", value=value)
            )
            cell.addElement(P(text=str(value)))
            row.addElement(cell)
        table.addElement(row)
    spreadsheet.spreadsheet.addElement(table)
    out = io.BytesIO()
    spreadsheet.write(out)
    assert detect(out.getvalue(), "a.ods").kind is Kind.SPREADSHEET
    assert read(out.getvalue()).text == "# Stock\n\n| Part | Count |\n| --- | --- |\n| Hinge | 42 |"


def test_cells_of_an_opendocument_spreadsheet() -> None:
    values = [
        'date" office:date-value="2026-02-27',
        'date" office:date-value="2026-02-27T00:00:00',
        'date" office:date-value="2026-02-27T09:30:00',
        'time" office:time-value="PT18H05M00S',
        'percentage" office:value="0.25',
        'boolean" office:boolean-value="true',
        "string",
    ]
    row = "".join(
        f'<table:table-cell office:value-type="{value}"><text:p>one<text:line-break/>two</text:p><text:p>three</text:p>'
        "</table:table-cell>"
        for value in values
    )
    text = read(ods(f"<table:table-row>{row}</table:table-row>")).text
    assert "| 2026-02-27 | 2026-02-27 | 2026-02-27 09:30 | 18:05 | 0.25 | TRUE | one two three |" in text


def test_metadata_of_an_opendocument_spreadsheet() -> None:
    meta = (
        '<m xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:meta="urn:oasis:names:tc:opendocument:xmlns:meta:1.0">'
        "<dc:title>Stock\nlist</dc:title><meta:initial-creator>Ada</meta:initial-creator><dc:creator>Bo</dc:creator></m>"
    )
    data = packed(unpacked(ods(ods_row("a"))) | {"meta.xml": meta})
    assert read(data).metadata == {"title": "Stock list", "author": "Ada"}


def test_empty_rows_and_cells_without_number_cost_nothing() -> None:
    data = ods(
        ods_row("a", "b"),
        ods_row("", repeated=1_000_000, cell_repeated=16_384),
        ods_row("c", ""),
        ods_row("", repeated=9**9),
    )
    assert read(data).text == "# Stock\n\n| a | b |\n| --- | --- |\n\nc"


def test_an_excel_97_workbook() -> None:
    sheet = dimensions(2, 2) + label(0, 0, "Part") + label(0, 1, "Count") + label(1, 0, "Hinge") + number(1, 1, 42)
    data = compound(
        Workbook=biff(sheet, label(4, 4, "last")), _SummaryInformation=properties(title="Αλφα", author="Ada")
    )
    document = read(data)
    assert document.text == "# S1\n\n| Part | Count |\n| --- | --- |\n| Hinge | 42 |\n\n# S2\n\nlast"
    assert document.metadata == {"title": "Αλφα", "author": "Ada"}


def test_a_summary_that_claims_a_billion_properties() -> None:
    summary = bytearray(properties(title="Stock"))
    summary[52:56] = struct.pack("<I", 2**30)
    assert read(compound(Workbook=biff(label(0, 0, "x")), _SummaryInformation=bytes(summary))).text == "# S1\n\nx"


def test_an_xlsb_workbook() -> None:
    data = xlsb((0, 0, "Part"), (0, 1, "Count"), (2, 0, "Hinge"), (2, 1, "many"))
    assert read(data).text == "# Stock\n\n| Part | Count |\n| --- | --- |\n| Hinge | many |"
    assert "parts_failed" not in read(data).metadata


# --- what cannot be read -------------------------------------------------------------------------------------


def test_a_damaged_sheet_costs_itself_alone() -> None:
    data = by_hand(cells(A1="1"), "<sheetData><row><c r='A1'><v>2</v></row>", cells(A1="3"))
    document = read(data)
    assert document.text == "# S1\n\n1\n\n# S3\n\n3"
    assert document.metadata == {"pages_failed": [2]}


def test_a_cell_that_is_out_of_bounds_costs_its_sheet_alone() -> None:
    def fill(workbook: Any) -> None:
        style = workbook.add_format({"num_format": "yyyy-mm-dd"})
        workbook.add_worksheet("Past").write(0, 0, -1e18, style)
        workbook.add_worksheet("Present").write(0, 0, 46_080, style)

    document = read(written(fill))
    assert document.text == "# Present\n\n2026-02-27"
    assert document.metadata["pages_failed"] == [1]


def test_a_sheet_that_is_a_chart_is_counted_alone() -> None:
    """Excel 97 keeps a copy of the numbers in it."""
    document = read(xls(number(0, 0, 1), number(0, 0, 1), number(0, 0, 2), charts=(2,)))
    assert document.text == "# S1\n\n1\n\n# S3\n\n2"
    assert document.page_count == 3


def test_a_damaged_part_of_lesser_weight_costs_nothing_else() -> None:
    data = by_hand(cells(A1="1"), more={"docProps/core.xml": "<a><b></a>"})
    document = read(data)
    assert document.text == "# S1\n\n1"
    assert document.metadata == {"parts_failed": ["docProps/core.xml"]}


def test_nothing_but_empty_sheets() -> None:
    error = failure(of_rows())
    assert error.code == "no_text"
    assert "OCR" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        compound(EncryptedPackage=b"secret"),
        xls(label(0, 0, "x"), first=record(0x002F, bytes(54))),
        ods(ods_row("x"), manifest="<file-entry><encryption-data/></file-entry>"),
    ],
    ids=["xlsx", "xls", "ods"],
)
def test_encrypted(data: bytes) -> None:
    error = failure(data)
    assert error.code == "encrypted"
    assert "without password" in str(error)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x09\x04\x06\x00\x00\x00\x10\x00" + bytes(600), "older than Excel 5"),
        (compound(WordDocument=b"words"), "no workbook"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(2000), "cannot be read"),
        (b"\x00\xff\x81 what was this", "archive cannot be read"),
        (packed({"notes.xml": "<a/>"}), "cannot be read"),
        (ods(ods_row("x"), end="</table:tabel>"), "cannot be read"),
        (packed(unpacked(by_hand(cells(A1="1"))) | {"xl/worksheets/Sheet1.xml": "<worksheet/>"}), "same name"),
        (xls(*[label(0, 0, "x")] * 100, starts=[0] * 100), "overlap"),
    ],
)
def test_corrupt(data: bytes, cause: str) -> None:
    error = failure(data)
    assert error.code == "corrupt"
    assert cause in str(error)


@pytest.mark.parametrize(
    "data",
    [
        by_hand(FAR),
        by_hand(cells(A1="1", A4000000000="2")),
        by_hand(cells(A1="1", F1099999999999="2")),
        by_hand(FAR, FAR),
        xlsb((0, 0, "x"), (1_048_575, 16_383, "y")),
        xls(number(0, 0, 1) + number(65_535, 255, 2)),
        xls(number(0, 0, 1) + record(0x00BD, struct.pack("<HH", 65_535, 0) + bytes(6 * 1_300) + b"\x13\5")),
        ods(ods_row("x", repeated=1_048_576, cell_repeated=16_384)),
        ods(ods_row("x"), ods_row("", repeated=1_000_000), ods_row("x", cell_repeated=16_383)),
    ],
)
def test_a_sheet_that_is_too_wide(data: bytes) -> None:
    """calamine would end the process."""
    error = failure(data)
    assert error.code == "too_large"
    assert f"{MAX_CELLS:,}" in str(error)


def test_a_sheet_that_is_too_wide_costs_itself_alone() -> None:
    document = read(by_hand(cells(A1="1"), FAR))
    assert document.text == "# S1\n\n1"
    assert document.metadata == {"pages_failed": [2]}


@pytest.mark.parametrize(
    "data",
    [
        by_hand(f'<dimension ref="A1:XFD1048576"/>{cells(A1="7")}'),
        by_hand('<sheetData><row><c r="A1"><v>7</v></c></row><row><c r="XFD1048576" s="1"/></row></sheetData>'),
        by_hand('<sheetData><row><c r="A1"><v>7</v></c></row><row><c r="XFD1048576" s="1"></c></row></sheetData>'),
        xls(dimensions(2**32 - 1, 65_535) + number(0, 0, 7)),
        xls(record(0x0200, struct.pack("<IIHHH", 50, 2, 3, 1, 0)) + number(0, 0, 7)),
    ],
)
def test_what_a_sheet_claims_to_hold_costs_nothing(data: bytes) -> None:
    assert read(data).text == "# S1\n\n7"


def test_all_sheets_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbooks, "MAX_CELLS", 1_000)
    sheet = cells(A1="1", D200="2")
    assert read(by_hand(sheet, sheet)).metadata == {"pages_failed": [2]}
    sheet = number(0, 0, 1) + number(199, 3, 2)
    assert failure(xls(sheet, sheet)).code == "too_large"


def test_a_bomb() -> None:
    data = by_hand(f"<sheetData/>{' ' * 50_000_000}")
    assert len(data) < 100_000
    assert failure(data).code == "too_large"


def test_entities_are_not_resolved(tmp_path: Any) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("swordfish")
    declared = f'<!DOCTYPE x [<!ENTITY a "boom"><!ENTITY b SYSTEM "file://{secret}">]>'
    strings = f'{declared}<sst xmlns="{MAIN}"><si><t>&a;&b;</t></si></sst>'
    files = unpacked(of_rows(["here", "there"]))
    assert failure(packed(files | {"xl/sharedStrings.xml": strings})).code == "corrupt"
    files |= {"docProps/core.xml": f"{declared}<x>&b;</x>", "xl/styles.xml": f"{declared}<x>&b;</x>"}
    try:
        assert "swordfish" not in str(read(packed(files)))
    except ExtractError as error:
        assert error.code == "corrupt"


def test_deep_nesting() -> None:
    deep = "<a>" * 100_000 + "</a>" * 100_000
    assert read(by_hand(cells(A1="7") + deep)).text == "# S1\n\n7"
    assert read(ods(ods_row("x"), deep)).text == "# Stock\n\nx"
    drawing = {
        "xl/worksheets/_rels/sheet1.xml.rels": relations(drawing="../d.xml", comments="../d.xml"),
        "xl/d.xml": deep,
    }
    assert read(by_hand(cells(A1="7"), more=drawing)).metadata == {"parts_failed": ["xl/d.xml", "xl/d.xml"]}


@pytest.mark.parametrize(
    "whole",
    [
        of_rows(["Part", "Count"], ["Hinge", 42]),
        ods(ods_row("Part", "Count"), ods_row("Hinge", "42")),
        xls(label(0, 0, "Part") + number(0, 1, 42), label(0, 0, "Latch")),
        xlsb((0, 0, "Part"), (1, 0, "Hinge")),
    ],
    ids=["xlsx", "ods", "xls", "xlsb"],
)
def test_cut_off(whole: bytes) -> None:
    assert read(whole).text
    for part in range(20):
        try:
            read(whole[: len(whole) * part // 20])
        except ExtractError as error:
            assert error.code in ("corrupt", "empty", "no_text")


def test_a_stream_of_records_cut_off() -> None:
    stream = biff(dimensions(1, 2) + label(0, 0, "Part") + number(0, 1, 42), label(0, 0, "Latch"))
    for end in range(len(stream)):
        try:
            read(compound(Workbook=stream[:end]))
        except ExtractError as error:
            assert error.code in ("corrupt", "no_text")

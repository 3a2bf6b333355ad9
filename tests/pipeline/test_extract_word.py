from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract
from storage.errors import ExtractError

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"
DGM = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
M = "http://schemas.openxmlformats.org/officeDocument/2006/math"
NAMESPACES = f'xmlns:w="{W}" xmlns:r="{R}" xmlns:mc="{MC}" xmlns:m="{M}"'
TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


def part(root: str, content: str) -> str:
    return f'<?xml version="1.0"?><w:{root} {NAMESPACES}>{content}</w:{root}>'


def relations(**targets: str) -> str:
    links = "".join(
        f'<Relationship Id="{name}" Type="{R}/{name.rstrip("0123456789")}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>'
    )


def packed(files: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def word(body: str, related: dict[str, str] | None = None, **parts: str) -> bytes:
    """A DOCX of a body and further parts, `styles="<w:style…>"` becoming word/styles.xml and so on."""
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": TYPES,
        "_rels/.rels": relations(officeDocument="word/document.xml"),
        "word/document.xml": part("document", f"<w:body>{body}</w:body>"),
        "word/_rels/document.xml.rels": relations(**{name: f"{name}.xml" for name in parts}, **(related or {})),
    }
    roots = {"header1": "hdr", "header2": "hdr", "footer1": "ftr"}
    for name, content in parts.items():
        files[f"word/{name}.xml"] = part(roots.get(name, name), content)
    return packed(files)


def with_part(document: bytes, name: str, content: str) -> bytes:
    out = io.BytesIO(document)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def read(data: bytes) -> Document:
    return extract(data, kind=Kind.DOCX, name="a.docx")


def p(*runs: str, style: str = "", properties: str = "") -> str:
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{named}{properties}</w:pPr>{''.join(runs)}</w:p>"


def r(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def code_of(data: bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        read(data)
    return caught.value.code


def test_a_document_made_by_python_docx(sample_data: Path) -> None:
    document = read((sample_data / "demo/supply-agreement.docx").read_bytes())
    stated = {"title": "Framework Supply Agreement", "author": "Legal department"}
    assert {key: document.metadata[key] for key in stated} == stated
    assert document.syntax == "markdown"
    assert document.text.startswith("# Framework Supply Agreement\n\nbetween Ostrava")
    assert "\n# Delivery\n\n1. The normal lead time is 35 calendar days from the order.\n2. Partial" in document.text
    assert "\n- Bubbles: none above 0.3 millimetres.\n- Diameter" in document.text
    assert "\n## Returns\n" in document.text
    assert "\n| Blank | Diameter | Price each |\n| --- | --- | --- |\n| OB-50 | 50 mm | 18.40 euros |" in document.text
    assert document.text.count("Packed in crates") == 1
    assert document.text.endswith("\n\nFSA-2026-018, confidential")


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        (f'<w:hyperlink r:id="x">{r("link")}</w:hyperlink>', "link"),
        (f"<w:ins>{r('inserted')}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>", "inserted"),
        (f"<w:moveTo>{r('here')}</w:moveTo><w:moveFrom>{r('not here')}</w:moveFrom>", "here"),
        (f"<w:sdt><w:sdtPr/><w:sdtContent>{r('control')}</w:sdtContent></w:sdt>", "control"),
        (f"<w:smartTag>{r('smart')}</w:smartTag>", "smart"),
        (f'<w:fldSimple w:instr="DATE">{r("3 May")}</w:fldSimple>', "3 May"),
        ("<w:r><w:instrText>PAGE</w:instrText></w:r>" + r("7"), "7"),
        (r("a") + "<w:r><w:tab/></w:r>" + r("b") + "<w:r><w:br/></w:r>" + r("c"), "a\tb\nc"),
        (r("hy") + "<w:r><w:softHyphen/><w:t>phen-</w:t><w:noBreakHyphen/><w:t>x</w:t></w:r>", "hyphen--x"),
        ("<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>" + r("shown"), "shown"),
        ("<m:oMath><m:r><m:t>E=mc</m:t></m:r></m:oMath>", "E=mc"),
        (f'{r("5 ")}<w:r><w:sym w:font="Symbol" w:char="F06D"/></w:r>{r("m")}', "5 μm"),
        ('<w:r><w:sym w:font="Arial" w:char="2013"/><w:sym w:font="Wingdings" w:char="F0FC"/></w:r>', "–"),
        ('<w:r><w:sym w:font="Symbol" w:char="F0E5"/><w:sym w:font="Symbol" w:char="f0f2"/></w:r>', "∑∫"),
        ('<w:r><w:sym w:font="Symbol" w:char="x"/><w:sym w:char="D800"/><w:sym/></w:r>' + r("a"), "a"),
        (f"<w:ruby><w:rt>{r('kan')}</w:rt><w:rubyBase>{r('漢')}</w:rubyBase></w:ruby>", "漢"),
    ],
)
def test_text_is_found_wherever_it_stands(inline: str, text: str) -> None:
    assert read(word(p(inline))).text == text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("```", "\\```"),
        ("~~~ sh", "\\~~~ sh"),
        ("# install the server", "\\# install the server"),
        ("#", "\\#"),
        ("#7 is a number, a # b", "#7 is a number, a # b"),
        ("Total</w:t><w:br/><w:t>----", "Total\n\n----"),
    ],
)
def test_a_paragraph_is_no_heading_and_opens_no_fence(text: str, markdown: str) -> None:
    assert (
        read(word(p(r(text)) + p(r("Next"), properties='<w:outlineLvl w:val="1"/>'))).text == f"{markdown}\n\n## Next"
    )


def test_smart_art_follows_its_paragraph_and_comes_once() -> None:
    namespaces = f'xmlns:dgm="{DGM}" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    point = '<dgm:pt modelId="{0}"><dgm:t><a:p><a:r><a:t>{1}</a:t></a:r></a:p></dgm:t></dgm:pt>'
    data = f"<dgm:dataModel {namespaces}><dgm:ptLst>{point.format(1, 'Plan')}{point.format(2, 'Do')}</dgm:ptLst>"
    art = f'<w:r><w:drawing><dgm:relIds {namespaces} r:dm="diagramData1"/></w:drawing></w:r>'
    files = {"diagramData1": "diagrams/data1.xml"}
    document = word(p(r("before"), art, r(" after")) + p(art, r("end")), files)
    document = with_part(document, "word/diagrams/data1.xml", f"{data}</dgm:dataModel>")
    assert read(document).text == "before after\n\n- Plan\n- Do\n\nend"


def test_text_boxes_follow_their_paragraph_and_come_once() -> None:
    box = f"<w:txbxContent>{p(r('in the box'))}</w:txbxContent>"
    both = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    assert read(word(p(r("before "), f"<w:r>{both}</w:r>", r("after")))).text == "before after\n\nin the box"


STYLES = """
<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:styleId="Kapitel"><w:name w:val="Kapitel"/><w:basedOn w:val="berschrift1"/></w:style>
<w:style w:styleId="Abschnitt"><w:name w:val="Abschnitt"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>
<w:style w:styleId="Loop"><w:name w:val="Loop"/><w:basedOn w:val="Loop"/></w:style>
"""


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        (p(r("a"), style="berschrift1"), "# a"),
        (p(r("a"), style="Kapitel"), "# a"),
        (p(r("a"), style="Abschnitt"), "### a"),
        (p(r("a"), style="Heading2"), "## a"),
        (p(r("a"), properties='<w:outlineLvl w:val="1"/>'), "## a"),
        (p(r("a"), style="Kapitel", properties='<w:outlineLvl w:val="9"/>'), "a"),
        (p(r("a"), style="Loop"), "a"),
        (p(r("a<w:br/>"), style="Unknown"), "a"),
    ],
)
def test_headings_by_style_in_any_language(paragraph: str, text: str) -> None:
    paragraph = paragraph.replace("<w:br/></w:t>", "</w:t><w:br/>")
    assert read(word(paragraph, styles=STYLES)).text == text


NUMBERING = """
<w:abstractNum w:abstractNumId="0">
 <w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
 <w:lvl w:ilvl="1"><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl>
 <w:lvl w:ilvl="2"><w:start w:val="3"/><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="(%3)"/></w:lvl>
</w:abstractNum>
<w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>
<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="0"/>
 <w:lvlOverride w:ilvl="0"><w:startOverride w:val="1"/></w:lvlOverride></w:num>
"""


def item(text: str, list_id: int, depth: int = 0, style: str = "") -> str:
    place = f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{list_id}"/></w:numPr>'
    return p(r(text), style=style, properties=place)


def test_the_numbers_that_word_draws_are_written_out() -> None:
    body = item("one", 1) + item("two", 1) + item("deep", 1, 1) + item("deeper", 1, 2) + item("three", 1)
    assert read(word(body, numbering=NUMBERING)).text == ("1. one\n2. two\n  - 2.1 deep\n    - (iii) deeper\n3. three")


def test_a_list_goes_on_after_a_break_unless_it_starts_anew() -> None:
    body = item("one", 1) + p(r("between")) + item("two", 1) + item("bullet", 2) + item("again", 3)
    assert read(word(body, numbering=NUMBERING)).text == ("1. one\n\nbetween\n\n2. two\n- bullet\n1. again")


def test_a_number_of_thousands_of_digits_is_none() -> None:
    """Python refuses to make a number of more than 4,300 digits."""
    start = '<w:start w:val="1"/>'
    assert start in NUMBERING
    numbering = NUMBERING.replace(start, start.replace("1", "9" * 5_000))
    assert read(word(item("one", 1), numbering=numbering)).text == "1. one"


def test_numbered_headings_keep_their_number() -> None:
    body = item("Scope", 1, style="Heading1") + item("Terms", 1, 1, style="Heading2")
    assert read(word(body, numbering=NUMBERING)).text == "# 1. Scope\n\n## 1.1 Terms"


@pytest.mark.parametrize("start", ["9" * 5000, "-1", "٣", "1e9", ""])
def test_a_list_that_starts_at_no_number_starts_at_one(start: str) -> None:
    level = f'<w:lvl w:ilvl="0"><w:start w:val="{start}"/><w:lvlText w:val="%1."/></w:lvl>'
    plan = f'<w:abstractNum w:abstractNumId="0">{level}</w:abstractNum>'
    named = '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
    assert read(word(item("one", 1), numbering=plan + named)).text == "1. one"


def test_an_item_is_never_indented_into_a_code_block() -> None:
    assert read(word(p(r("text")) + item("deep", 2, 5))).text == "text\n\n- deep"


def cell(content: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{content}</w:tc>"


def table(*rows: str) -> str:
    return f"<w:tbl><w:tblPr/>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"


def test_merged_cells_are_not_repeated() -> None:
    body = table(
        cell(p(r("wide")), '<w:gridSpan w:val="2"/>') + cell(p(r("c"))),
        cell(p(r("tall")), '<w:vMerge w:val="restart"/>') + cell(p(r("1|2"))) + cell(p(r("x")) + p(r("y"))),
        cell(p(), "<w:vMerge/>") + cell(p(r("3"))) + cell(p()),
    )
    assert read(word(body)).text == "| wide |  | c |\n| --- | --- | --- |\n| tall | 1\\|2 | x y |\n|  | 3 |  |"


def test_a_row_that_begins_further_right_stays_in_its_columns() -> None:
    def row(*cells: str, before: int = 0) -> str:
        indent = f'<w:trPr><w:gridBefore w:val="{before}"/></w:trPr>' if before else ""
        return f"<w:tr>{indent}{''.join(f'<w:tc>{p(r(cell))}</w:tc>' for cell in cells)}</w:tr>"

    table = f"<w:tbl>{row('Name', 'Jan', 'Feb')}{row('4', '5', before=1)}{row('x', '6')}</w:tbl>"
    assert read(word(table)).text == "| Name | Jan | Feb |\n| --- | --- | --- |\n|  | 4 | 5 |\n| x | 6 |  |"
    shifted = f"<w:tbl>{row('Jan', 'Feb', before=1)}{row('4', '5', before=1)}</w:tbl>"
    assert read(word(shifted)).text == "| Jan | Feb |\n| --- | --- |\n| 4 | 5 |"


def test_a_heading_in_a_cell_is_its_words_alone() -> None:
    heading = p(r("Head"), properties='<w:outlineLvl w:val="1"/>')
    cells = f"<w:tc>{heading}{p(r('# p1'))}</w:tc><w:tc>{p(r('b'))}</w:tc>"
    assert read(word(f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>")).text.startswith("| Head # p1 | b |")


def test_a_table_of_one_column_is_layout() -> None:
    assert read(word(table(cell(p(r("Title"), style="Heading1") + p(r("text")))))).text == "# Title\n\ntext"


def test_a_table_in_a_cell_is_flattened() -> None:
    inner = table(cell(p(r("a"))) + cell(p(r("b"))), cell(p(r("c"))) + cell(p(r("d"))))
    assert read(word(table(cell(p(r("x"))) + cell(inner + p())))).text == "| x | a b c d |\n| --- | --- |"


def test_notes_remarks_headers_and_footers_come_once_at_the_end() -> None:
    data = word(
        p(r("text"), '<w:r><w:footnoteReference w:id="2"/></w:r>'),
        footnotes=f'<w:footnote w:id="0" w:type="separator">{p(r("-"))}</w:footnote>'
        f'<w:footnote w:id="2">{p(r("a note"))}</w:footnote>',
        comments=f'<w:comment w:id="0" w:author="Ann">{p(r("really?"))}</w:comment>',
        header1=p(r("Draft")),
        header2=p(r("Draft")),
        footer1=p(r("12")),
    )
    assert read(data).text == "text[^2]\n\n[^2]: a note\n\nComment (Ann): really?\n\nDraft"


def test_an_embedded_page_is_read_once() -> None:
    data = word('<w:altChunk r:id="aFChunk"/>' * 3, related={"aFChunk": "part.html"})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    assert read(packed({**files, "word/part.html": "<h1>From elsewhere</h1>"})).text == "# From elsewhere"


def test_strict_macro_enabled_and_slightly_broken_packages_are_read() -> None:
    strict = part("document", f"<w:body>{p(r('text'))}</w:body>").replace(
        W, "http://purl.oclc.org/ooxml/wordprocessingml/main"
    )
    assert read(packed({"[Content_Types].xml": TYPES, "word/document.xml": strict})).text == "text"
    dangling = word(p(r("text")), related={"image1": "../NULL", "styles": "missing.xml"})
    assert read(dangling).text == "text"


@pytest.mark.parametrize("core", [b"<broken", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
def test_what_a_document_states_about_itself_costs_nothing_else(core: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(word(p(r("text"))))) as archive:
        files: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    document = read(packed(files | {"docProps/core.xml": core}))
    assert (document.text, document.metadata) == ("text", {"parts_failed": ["docProps/core.xml"]})


def test_no_text_says_so() -> None:
    assert code_of(word(p())) == "no_text"


@pytest.mark.parametrize(
    "data",
    [
        b"not a zip",
        packed({"xl/workbook.xml": "<x/>"}),
        packed({"word/document.xml": "<w:document"}),
        packed({"word/document.xml": b'<!DOCTYPE a [<!ENTITY b "c">]>' + part("document", "<w:body/>").encode()}),
        packed({"word/document.xml": '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a []><a/>'.encode("utf-16")}),
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512),
    ],
)
def test_what_cannot_be_trusted_or_read_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_bad_samples(sample_data: Path) -> None:
    codes = {path.name: code_of(path.read_bytes()) for path in (sample_data / "bad").glob("*.docx")}
    assert codes == {"encrypted.docx": "encrypted", "entities.docx": "corrupt", "not-a-zip.docx": "corrupt"}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(sample_data: Path, data: st.DataObject) -> None:
    original = (sample_data / "demo/supply-agreement.docx").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text", "too_large")


def outcome(data: bytes) -> str:
    try:
        read(data).text.encode("utf-8")
    except ExtractError as error:
        return error.code
    return "read"


TAGS = ("w:sdt", "w:ins", "w:tbl", "w:tr", "w:tc", "w:p", "w:r", "w:txbxContent", "mc:AlternateContent")


def element(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=3))
    return made.map(lambda node: f"<{node[0]}>{''.join(node[1])}</{node[0]}>")


@given(st.recursive(st.just(r("x")), element, max_leaves=30))
def test_any_nesting_of_elements_is_read(body: str) -> None:
    assert read(word(p(r("start")) + body)).text.startswith("start")

from __future__ import annotations

import io
import zipfile
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import extract
from storage.errors import ExtractError

URN = "urn:oasis:names:tc:opendocument:xmlns"
SHORT = {"svg": "svg-compatible", "fo": "xsl-fo-compatible", "draw": "drawing"}
PREFIXES = ("office", "text", "table", "draw", "style", "presentation", "meta", "manifest", "svg", "fo", "chart")
NAMESPACES = " ".join(
    (
        *(f'xmlns:{prefix}="{URN}:{SHORT.get(prefix, prefix)}:1.0"' for prefix in PREFIXES),
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xlink="http://www.w3.org/1999/xlink"',
    )
)
MIME = "application/vnd.oasis.opendocument"
DOCTYPE = '<!DOCTYPE office:document-content PUBLIC "-//OpenOffice.org//DTD OfficeDocument 1.0//EN" "office.dtd">'

Files = dict[str, str | bytes]


def packed(files: Files, mime: str = "text") -> bytes:
    """An archive whose first entry states the type, uncompressed, as the format demands."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", f"{MIME}.{mime}", zipfile.ZIP_STORED)
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def root(name: str, content: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><office:{name} {NAMESPACES}>{content}</office:{name}>'


def content(body: str, styles: str = "", kind: str = "text") -> str:
    automatic = f"<office:automatic-styles>{styles}</office:automatic-styles>"
    return root("document-content", f"{automatic}<office:body><office:{kind}>{body}</office:{kind}></office:body>")


def odt(body: str, styles: str = "", *, common: str = "", files: Files | None = None) -> bytes:
    """A text. styles: its own; common: what styles.xml holds; files: further parts."""
    made: Files = {"content.xml": content(body, styles), "styles.xml": root("document-styles", common)}
    return packed(made | (files or {}))


def odp(*pages: str, styles: str = "", files: Files | None = None) -> bytes:
    return packed({"content.xml": content("".join(pages), styles, "presentation"), **(files or {})}, "presentation")


def read(data: bytes, name: str = "a.odt") -> Document:
    kind = detect(data, name).kind
    assert kind is Kind.OPENDOCUMENT
    return extract(data, kind=kind, name=name)


def text_of(body: str, styles: str = "", *, common: str = "", files: Files | None = None) -> str:
    return read(odt(body, styles, common=common, files=files)).text


def p(words: str, style: str = "Standard") -> str:
    return f'<text:p text:style-name="{style}">{words}</text:p>'


def h(words: str, level: int = 1, attributes: str = "") -> str:
    return f'<text:h text:outline-level="{level}" {attributes}>{words}</text:h>'


def code_of(data: bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        extract(data, kind=Kind.OPENDOCUMENT, name="a.odt")
    return caught.value.code


# --- texts ---------------------------------------------------------------------------------------------------

META = """<office:meta><meta:generator>LibreOffice</meta:generator><dc:title>Harbour rules</dc:title>
<meta:initial-creator>Ida Quill</meta:initial-creator><dc:creator>Otto</dc:creator><dc:subject>Moorings</dc:subject>
<meta:keyword>quay</meta:keyword><meta:keyword>buoy</meta:keyword>
<meta:creation-date>2026-01-02T03:04:05</meta:creation-date><dc:date>2026-02-03T04:05:06</dc:date></office:meta>"""


def test_a_text_keeps_its_structure_and_its_metadata() -> None:
    body = (
        p("Harbour rules", "P1")
        + h("Moorings", 2)
        + p("Every boat\n  has <text:span>one</text:span> <text:span>buoy</text:span>.")
        + '<text:section text:name="s">'
        + h("Fees", 3)
        + p("Due in May.")
        + "</text:section>"
    )
    titled = '<style:style style:name="P1" style:family="paragraph" style:parent-style-name="Title"/>'
    document = read(odt(body, titled, files={"meta.xml": root("document-meta", META)}))
    assert document.text == "# Harbour rules\n\n## Moorings\n\nEvery boat has one buoy.\n\n### Fees\n\nDue in May."
    assert (document.syntax, document.pages, document.page_count) == ("markdown", (), None)
    assert document.metadata == {
        "title": "Harbour rules",
        "author": "Ida Quill",
        "subject": "Moorings",
        "keywords": "quay, buoy",
        "created": "2026-01-02T03:04:05",
        "modified": "2026-02-03T04:05:06",
    }


def hidden(name: str, family: str) -> str:
    named = f'style:name="{name}" style:family="{family}"'
    return f'<style:style {named}><style:text-properties text:display="none"/></style:style>'


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        ("a<text:tab/>b<text:line-break/>c", "a\tb\nc"),
        ('a<text:s text:c="2"/>b<text:s/>c', "a  b c"),
        ('<text:a xlink:href="http://x">link</text:a> and <text:span>span</text:span>', "link and span"),
        ("one<text:bookmark-start/>two<text:soft-page-break/>three<!-- no -->four", "onetwothreefour"),
        ("<text:ruby><text:ruby-base>漢</text:ruby-base><text:ruby-text>kan</text:ruby-text></text:ruby>字", "漢字"),
        ("on <text:date>3 May</text:date>, page <text:page-number>7</text:page-number>.", "on 3 May, page ."),
        ('a<text:span text:style-name="Secret">b</text:span>c', "ac"),
        ('a<text:hidden-text text:is-hidden="true">b</text:hidden-text>c', "ac"),
        ("hy\u00adphen", "hyphen"),
        ("<text:span>two</text:span> <text:span>words</text:span>", "two words"),
    ],
)
def test_text_is_found_wherever_it_stands(inline: str, text: str) -> None:
    assert text_of(p(inline), hidden("Secret", "text")) == text


def test_hidden_paragraphs_and_sections_are_left_out() -> None:
    section = f'<text:section text:display="none">{p("hidden")}</text:section>'
    assert text_of(p("shown") + p("hidden", "P9") + section, hidden("P9", "paragraph")) == "shown"


def test_a_title_is_told_by_its_style_or_what_that_is_made_from() -> None:
    based = '<style:style style:name="{}" style:family="paragraph" style:parent-style-name="{}"/>'
    common = f"<office:styles>{based.format('Big', 'Title')}{based.format('Circle', 'Circle')}</office:styles>"
    body = p("a", "Title") + p("b", "P1") + p("c", "Circle") + p("d", "Unknown")
    assert text_of(body, based.format("P1", "Big"), common=common) == "# a\n\n# b\n\nc\n\nd"


def test_who_changed_a_text_last_stands_for_an_unknown_author() -> None:
    meta = root("document-meta", "<office:meta><dc:creator>Otto</dc:creator></office:meta>")
    assert read(odt(p("text"), files={"meta.xml": meta})).metadata == {"author": "Otto"}


def test_deleted_text_is_left_out_and_inserted_text_kept() -> None:
    deleted = f"<text:changed-region><text:deletion>{p('gone')}</text:deletion></text:changed-region>"
    body = f"<text:tracked-changes>{deleted}</text:tracked-changes>" + p(
        'kept<text:change text:change-id="1"/> <text:change-start text:change-id="2"/>new<text:change-end/>'
    )
    assert text_of(body) == "kept new"


def test_lists_of_headings_are_left_out_and_sources_kept() -> None:
    index = f"<text:index-body><text:index-title>{p('Contents')}</text:index-title>{p('Fees 3')}</text:index-body>"
    body = f"<text:table-of-content>{index}</text:table-of-content>" + h("Fees")
    sources = f"<text:bibliography><text:index-body>{p('[1] Harbour Act')}</text:index-body></text:bibliography>"
    assert text_of(body + sources) == "# Fees\n\n[1] Harbour Act"


def test_notes_and_comments_follow_the_text() -> None:
    cited = "<text:note-citation>1</text:note-citation>"
    note = f'<text:note text:note-class="{{}}">{cited}<text:note-body>{{}}</text:note-body></text:note>'
    comment = "<office:annotation><dc:creator>{}</dc:creator><dc:date>2026-01-01</dc:date>{}</office:annotation>"
    body = (
        p(f"one{note.format('footnote', p('a foot') + p('note'))} two{comment.format('Ann', p('really?'))}")
        + p(f"three{note.format('endnote', p('at the end'))}")
        + p(f"four{comment.format('', p('hm'))}<office:annotation-end/>")
    )
    assert text_of(body) == (
        "one[^1] two\n\nthree[^e2]\n\nfour\n\n[^1]: a foot note\n\n[^e2]: at the end\n\n"
        "Comment (Ann): really?\n\nComment (unsigned): hm"
    )


def test_headers_and_footers_come_once_at_the_end() -> None:
    pages = "".join(
        f"<style:master-page><style:header>{p('Draft')}</style:header><style:footer>{p(number)}</style:footer>"
        f'<style:header-left style:display="false">{p("not used")}</style:header-left></style:master-page>'
        for number in ("<text:page-number>1</text:page-number>", "12")
    )
    assert text_of(p("text"), common=f"<office:master-styles>{pages}</office:master-styles>") == "text\n\nDraft"


def test_frames_and_drawings_follow_their_paragraph() -> None:
    box = f"<draw:frame><draw:text-box>{p('in the box')}</draw:text-box><svg:desc>no text</svg:desc></draw:frame>"
    drawn = f"<draw:g><draw:custom-shape>{p('on a shape')}</draw:custom-shape></draw:g>"
    note = f"<text:note><text:note-body>{p('noted')}</text:note-body></text:note>"
    text = text_of(p(f"before {box}{note}after{drawn}"))
    assert text == "before [^1]after\n\nin the box\n\non a shape\n\n[^1]: noted"


# lists


def level(depth: int, number_format: str, attributes: str = "") -> str:
    return f'<text:list-level-style-number text:level="{depth}" style:num-format="{number_format}" {attributes}/>'


LISTS = f"""
<text:list-style style:name="N">{level(1, "1", 'style:num-suffix="."')}
 {level(2, "1", 'style:num-suffix="." text:display-levels="2"')}
 {level(3, "i", 'style:num-prefix="(" style:num-suffix=")" text:start-value="3"')}</text:list-style>
<text:list-style style:name="B"><text:list-level-style-bullet text:level="1" text:bullet-char="•"/></text:list-style>
<text:list-style style:name="None">{level(1, "")}</text:list-style>
"""


def items(*entries: str, style: str = "", attributes: str = "") -> str:
    named = f'text:style-name="{style}"' if style else ""
    return f"<text:list {named} {attributes}>{''.join(entries)}</text:list>"


def item(*blocks: str, attributes: str = "") -> str:
    return f"<text:list-item {attributes}>{''.join(blocks)}</text:list-item>"


def test_the_numbers_that_are_drawn_are_written_out() -> None:
    inner = items(item(p("deep"), items(item(p("deeper")))), item(p("deep")))
    body = items(
        item(p("one")),
        item(p("two"), inner),
        item(p("three"), items(item(p("deep")))),
        item(p("nine"), attributes='text:start-value="9"'),
        style="N",
    )
    assert text_of(body, LISTS) == (
        "1. one\n2. two\n  - 2.1. deep\n    - (iii) deeper\n  - 2.2. deep\n3. three\n  - 3.1. deep\n9. nine"
    )


def test_a_list_starts_anew_unless_it_says_that_it_goes_on() -> None:
    one = item(p("x"))
    body = (
        items(one, one, style="N", attributes='xml:id="first"')
        + items(one, style="B")
        + items(one, style="N", attributes='text:continue-numbering="true"')
        + items(one, style="N")
        + items(one, style="N", attributes='text:continue-list="first"')
    )
    assert text_of(body, LISTS) == "1. x\n2. x\n- x\n3. x\n1. x\n4. x"


def test_items_have_one_mark_however_many_paragraphs_they_hold() -> None:
    header = f"<text:list-header>{p('no number')}</text:list-header>"
    body = items(header, item(p("one"), p("more of it")), item(p("two")), style="N")
    assert text_of(body, LISTS) == "no number\n\n1. one\n\nmore of it\n\n2. two"


def test_a_list_without_marks_is_no_list() -> None:
    assert text_of(items(item(p("a")), item(p("b")), style="None"), LISTS) == "a\n\nb"


def test_headings_keep_the_numbers_of_the_outline() -> None:
    outline = "".join(
        f'<text:outline-level-style text:level="{n}" style:num-format="1" text:display-levels="{n}"/>' for n in (1, 2)
    )
    common = f"<office:styles><text:outline-style>{outline}</text:outline-style></office:styles>"
    body = h("Scope") + h("Terms", 2) + h("Left out", 2, 'text:is-list-header="true"') + h("Rules", 2) + h("Fees")
    expected = "# 1 Scope\n\n## 1.1 Terms\n\n## Left out\n\n## 1.2 Rules\n\n# 2 Fees"
    assert text_of(body, common=common) == expected
    assert text_of(items(item(h("Scope")), style="N"), LISTS) == "# 1. Scope"


# tables


def cell(words: str, attributes: str = "") -> str:
    return f"<table:table-cell {attributes}>{words}</table:table-cell>"


def table(*rows: str) -> str:
    made = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows[1:])
    head = f"<table:table-header-rows><table:table-row>{rows[0]}</table:table-row></table:table-header-rows>"
    return (
        f"<table:table><table:table-column/>{head}<table:table-row-group>{made}</table:table-row-group></table:table>"
    )


COVERED = "<table:covered-table-cell/>"


def test_merged_cells_are_not_repeated() -> None:
    body = table(
        cell(p("wide"), 'table:number-columns-spanned="2"') + COVERED + cell(p("c")),
        cell(p("tall"), 'table:number-rows-spanned="2"') + cell(p("1|2")) + cell(p("x") + p("y")),
        COVERED + cell(items(item(p("3")), item(p("4")), style="B")) + cell(""),
        cell("", 'table:number-columns-repeated="16384"'),
        cell(p("z")) + cell("", 'table:number-columns-repeated="16384"'),
    )
    assert (
        text_of(body, LISTS)
        == "| wide |  | c |\n| --- | --- | --- |\n| tall | 1\\|2 | x y |\n|  | 3 4 |  |\n| z |  |  |"
    )


def test_a_table_of_one_column_is_layout() -> None:
    assert text_of(table(cell(h("Title")), cell(p("text")))) == "# Title\n\ntext"


def test_a_table_in_a_cell_is_flattened() -> None:
    inner = table(cell(p("a")) + cell(p("b")), cell(p("c")) + cell(p("d")))
    assert text_of(table(cell(p("x")) + cell(inner))) == "| x | a b c d |\n| --- | --- |"


# embedded objects


def embedded(name: str) -> str:
    return f'<draw:frame><draw:object xlink:href="./{name}"/><draw:image xlink:href="./{name}.png"/></draw:frame>'


def test_charts_and_formulas_are_read_where_they_stand() -> None:
    grid = table(cell(p("")) + cell(p("Boats")), cell(p("May")) + cell(p("12")))
    plotted = f"<chart:chart><chart:title>{p('Moorings')}</chart:title>{grid}</chart:chart>"
    formula = (
        '<math xmlns="http://www.w3.org/1998/Math/MathML"><semantics><mrow><mi>E</mi><mo>=</mo><mi>mc</mi></mrow>'
        '<annotation encoding="StarMath 5.0">E = mc</annotation></semantics></math>'
    )
    files: Files = {"Object 1/content.xml": content(plotted, kind="chart"), "Object 2/content.xml": formula}
    body = p(f"so {embedded('Object 2')} holds{embedded('Object 1')}") + p(embedded("Object 1"))
    expected = "so E = mc holds\n\nMoorings\n\n|  | Boats |\n| --- | --- |\n| May | 12 |"
    assert text_of(body, files=files) == expected


def test_objects_that_hold_each_other_are_read_once() -> None:
    files: Files = {f"Object {n}/content.xml": content(p(f"object {n}") + embedded(f"OBJECT {3 - n}")) for n in (1, 2)}
    assert text_of(p("text") + embedded("Object 1"), files=files) == "text\n\nobject 1\n\nobject 2"


# --- presentations -------------------------------------------------------------------------------------------


def box(words: str, kind: str = "") -> str:
    return f'<draw:frame presentation:class="{kind}"><draw:text-box>{words}</draw:text-box></draw:frame>'


def page(*shapes: str, style: str = "") -> str:
    return f'<draw:page draw:style-name="{style}">{"".join(shapes)}</draw:page>'


def test_a_slide_is_a_page_with_its_title_notes_and_comments() -> None:
    hidden = (
        '<style:style style:name="dp2" style:family="drawing-page">'
        '<style:drawing-page-properties presentation:visibility="hidden"/></style:style>'
    )
    notes = f"<presentation:notes><draw:page-thumbnail/>{box(p('Speak up.'), 'notes')}{box(p('4'), 'page-number')}"
    remark = f"<office:annotation><dc:creator>Ann</dc:creator>{p('nice')}</office:annotation>"
    document = read(
        odp(
            page(
                box(p("Boats"), "title"),
                box(items(item(p("tugs")), style="B"), "outline"),
                remark,
                notes + "</presentation:notes>",
            ),
            page(box(""), box(p("Footer"), "footer")),
            page(f"<draw:g><draw:custom-shape>{p('drawn')}</draw:custom-shape></draw:g>", style="dp2"),
            styles=hidden + LISTS,
            files={"meta.xml": root("document-meta", META)},
        ),
        "a.odp",
    )
    pages = {each.number: document.text[each.start : each.end] for each in document.pages}
    assert pages == {1: "# Boats\n\n- tugs\n\nNotes:\n\nSpeak up.\n\nComment (Ann): nice", 3: "# Slide 3\n\ndrawn"}
    assert document.text == "\n\n".join(pages.values())
    assert (document.page_unit, document.page_count, document.syntax) == ("slide", 3, "markdown")
    assert document.metadata["title"] == "Harbour rules"
    assert (document.metadata["pages_without_text"], document.metadata["pages_hidden"]) == ([2], [3])


def test_a_slides_title_stands_for_a_missing_one() -> None:
    assert read(odp(page(box(p("Boats"), "title"))), "a.odp").metadata == {"title": "Boats"}


@pytest.mark.parametrize(("mime", "name"), [("text-template", "a.ott"), ("presentation-template", "a.otp")])
def test_templates_are_read(mime: str, name: str) -> None:
    kind = mime.partition("-")[0]
    body = p("text") if kind == "text" else page(box(p("text")))
    assert read(packed({"content.xml": content(body, kind=kind)}, mime), name).text.endswith("text")


# --- odd files and failures ----------------------------------------------------------------------------------


def manifest(*entries: str) -> str:
    listed = "".join(entries)
    return f'<manifest:manifest xmlns:manifest="{URN}:manifest:1.0">{listed}</manifest:manifest>'


def entry(path: str, inside: str = "") -> str:
    return f'<manifest:file-entry manifest:full-path="{path}">{inside}</manifest:file-entry>'


LOCKED = "<manifest:encryption-data/>"


def test_what_openoffice_wrote_with_a_document_type_is_read() -> None:
    old = content(p("text")).replace("?>", f"?>\n{DOCTYPE}", 1)
    listed = '<!DOCTYPE manifest:manifest PUBLIC "Manifest 1.0" "Manifest.dtd">' + manifest(entry("content.xml"))
    document = read(packed({"content.xml": old, "META-INF/manifest.xml": listed}))
    assert (document.text, document.metadata) == ("text", {})


def test_parts_that_cannot_be_read_cost_only_themselves() -> None:
    names = ("styles.xml", "meta.xml", "META-INF/manifest.xml", "Object 1/content.xml")
    document = read(odt(p("text") + embedded("Object 1"), files=dict.fromkeys(names, "<broken")))
    assert document.text == "text"
    assert set(document.metadata["parts_failed"]) == set(names)


@pytest.mark.parametrize("path", ["content.xml", "encrypted-package"])
def test_an_encrypted_document_says_so(path: str) -> None:
    files: Files = {path: bytes(range(256)), "META-INF/manifest.xml": manifest(entry("/"), entry(path, LOCKED))}
    assert code_of(packed(files)) == "encrypted"


def test_a_locked_macro_does_not_lock_the_text() -> None:
    listed = manifest(entry("content.xml"), entry("Basic/Standard/Module1.xml", LOCKED))
    locked: Files = {"META-INF/manifest.xml": listed, "Basic/Standard/Module1.xml": b"\x01\x02"}
    assert text_of(p("text"), files=locked) == "text"


def test_no_text_says_so() -> None:
    assert code_of(odt(p(" ") + p('<draw:frame><draw:image xlink:href="a.png"/></draw:frame>'))) == "no_text"
    assert code_of(odp(page(box("")))) == "no_text"


def entities() -> str:
    grown = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefgh"))
    bomb = f'<!DOCTYPE x [<!ENTITY a "lol">{grown}]>'
    return content(p("&h;")).replace("?>", "?>" + bomb, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"not a zip",
        packed({"styles.xml": "<x/>"}),
        packed({"content.xml": "<office:document-content"}),
        packed({"content.xml": content("", kind="spreadsheet")}),
        packed({"content.xml": entities()}),
        packed(
            {"content.xml": content(p("x")).replace("?>", '?><!DOCTYPE x SYSTEM "a>b" [<!ENTITY y SYSTEM "z">]>', 1)}
        ),
        odt("<text:section>" * 2_000 + "</text:section>" * 2_000),
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512),
    ],
)
def test_what_cannot_be_trusted_or_read_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_a_bomb_is_too_large() -> None:
    assert code_of(odt(p(" " * 3_000_000))) == "too_large"


@pytest.mark.parametrize(
    "tags",
    [
        ("text:section",),
        ("text:p", "text:span"),
        ("text:list", "text:list-item"),
        ("table:table", "table:table-row", "table:table-cell"),
        ("text:p", "draw:frame", "draw:text-box"),
        ("text:p", "text:note", "text:note-body"),
        ("text:p", "office:annotation"),
        ("draw:g",),
    ],
)
def test_nesting_as_deep_as_xml_allows_ends_in_a_text_or_a_reason(tags: tuple[str, ...]) -> None:
    depth = 248 // len(tags)
    opening, closing = "".join(f"<{tag}>" for tag in tags), "".join(f"</{tag}>" for tag in reversed(tags))
    data = odt(opening * depth + p("deep") + closing * depth + p("end"))
    assert outcome(data) in ("read", "corrupt")


def test_numbers_no_program_writes_are_not_believed() -> None:
    huge = "9" * 5_000
    body = (
        f'<text:h text:outline-level="{huge}">a</text:h>'
        + p(f'b<text:s text:c="{huge}"/>c<text:s text:c="999999"/>d')
        + items(item(p("e"), attributes=f'text:start-value="{huge}"'), style="N")
        + items(item(p("long")), style="Long")
        + table(
            cell(p("f"), f'table:number-columns-repeated="{huge}"')
            + cell(p("g"), 'table:number-columns-repeated="999999"')
            + cell(p("i"))
        )
    )
    suffix = f'style:num-suffix="{huge}"'
    long = f'<text:list-style style:name="Long">{level(1, "1", suffix)}</text:list-style>'
    text = text_of(body, LISTS + long)
    assert text.startswith("# a\n\nb c")
    assert "\n\n1. e\n- 19" in text
    assert " long\n\n| f | g |  |  |" in text
    assert len(text) < 1_000


@pytest.fixture(scope="module")
def harbour() -> bytes:
    body = h("Moorings") + items(item(p("one")), style="N") + table(cell(p("a")) + cell(p("b"))) + p("words " * 200)
    return odt(body, LISTS, files={"meta.xml": root("document-meta", META)})


@pytest.mark.parametrize("twentieth", range(20))
def test_a_text_that_is_cut_off_is_corrupt(harbour: bytes, twentieth: int) -> None:
    assert code_of(harbour[: len(harbour) * twentieth // 20]) == ("corrupt" if twentieth else "empty")


def outcome(data: bytes) -> str:
    try:
        document = extract(data, kind=Kind.OPENDOCUMENT, name="a.odt")
    except ExtractError as error:
        return error.code
    document.text.encode("utf-8")
    return "read"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(harbour: bytes, data: st.DataObject) -> None:
    damaged = bytearray(harbour)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(harbour) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text", "too_large")


TAGS = (
    *("text:p", "text:h", "text:span", "text:list", "text:list-item", "text:section", "text:note", "text:note-body"),
    *("table:table", "table:table-row", "table:table-cell", "draw:frame", "draw:text-box", "office:annotation"),
)


def element(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=3))
    return made.map(lambda node: f"<{node[0]}>{''.join(node[1])}</{node[0]}>")


@given(st.recursive(st.just(p("x")), element, max_leaves=30))
def test_any_nesting_of_elements_is_read(body: str) -> None:
    assert text_of(p("start") + body).startswith("start")
    assert read(odp(page(box(p("start"), "title"), body)), "a.odp").text.startswith("# start")


def test_a_paragraph_is_no_heading_and_opens_no_fence() -> None:
    assert text_of(p("```") + p("# install") + h("Next", 2)) == "\\```\n\n\\# install\n\n## Next"

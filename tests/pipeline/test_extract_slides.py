from __future__ import annotations

import io
import re
import zipfile
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Cm

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import extract
from pipeline.extract.slides import MAX_VALUES
from storage.errors import ExtractError

A = "http://schemas.openxmlformats.org/drawingml/2006/main"
C = "http://schemas.openxmlformats.org/drawingml/2006/chart"
CX = "http://schemas.microsoft.com/office/drawing/2014/chartex"
DGM = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
M = "http://schemas.openxmlformats.org/officeDocument/2006/math"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"
P = "http://schemas.openxmlformats.org/presentationml/2006/main"
P188 = "http://schemas.microsoft.com/office/powerpoint/2018/8/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
NAMESPACES = (
    f'xmlns:a="{A}" xmlns:c="{C}" xmlns:cx="{CX}" xmlns:dgm="{DGM}" xmlns:m="{M}" xmlns:mc="{MC}" xmlns:p="{P}" '
    f'xmlns:p188="{P188}" xmlns:r="{R}"'
)
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
DEEPEST = 240
"""XML nests 256 deep at most, else the parser refuses it."""

Files = dict[str, str | bytes]


def part(root: str, content: str, attributes: str = "") -> str:
    return f'<?xml version="1.0"?><{root} {NAMESPACES} {attributes}>{content}</{root}>'


def relations(targets: dict[str, str]) -> str:
    """`{"notesSlide1": "../notesSlides/notesSlide1.xml"}`: a relation's id is its kind and a number."""
    links = "".join(
        f'<Relationship Id="{name}" Type="{R}/{name.rstrip("0123456789")}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return f'<Relationships xmlns="{PACKAGE}/relationships">{links}</Relationships>'


def packed(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def unpacked(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def slide(*shapes: str, attributes: str = "") -> str:
    return part("p:sld", f"<p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld>", attributes)


def deck(*slides: str, related: dict[str, str] | None = None, files: Files | None = None) -> bytes:
    """A presentation. related: relations of its first slide; files: further parts."""
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="slide{n}"/>' for n, _ in enumerate(slides, start=1))
    made: Files = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": relations({"officeDocument1": "ppt/presentation.xml"}),
        "ppt/presentation.xml": part("p:presentation", f"<p:sldIdLst>{ids}</p:sldIdLst>"),
        "ppt/_rels/presentation.xml.rels": relations(
            {f"slide{n}": f"slides/slide{n}.xml" for n, _ in enumerate(slides, start=1)}
        ),
        "ppt/slides/_rels/slide1.xml.rels": relations(related or {}),
    }
    made |= {f"ppt/slides/slide{n}.xml": content for n, content in enumerate(slides, start=1)}
    return packed(made | (files or {}))


def shape(*paragraphs: str, kind: str = "", index: str = "", styles: str = "") -> str:
    """A text box, or a placeholder of a kind."""
    place = f'<p:ph type="{kind}" {index and f"idx={index!r}"}/>' if kind else ""
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="2" name="s"/><p:nvPr>{place}</p:nvPr></p:nvSpPr>'
        f"<p:txBody><a:bodyPr/><a:lstStyle>{styles}</a:lstStyle>{''.join(paragraphs)}</p:txBody></p:sp>"
    )


def p(text: str, properties: str = "", level: int = 0) -> str:
    return f'<a:p><a:pPr lvl="{level}">{properties}</a:pPr><a:r><a:rPr/><a:t>{text}</a:t></a:r><a:endParaRPr/></a:p>'


def title(text: str) -> str:
    return shape(p(text), kind="title")


def frame(content: str) -> str:
    return f"<p:graphicFrame><a:graphic><a:graphicData>{content}</a:graphicData></a:graphic></p:graphicFrame>"


def read(data: bytes, name: str = "a.pptx") -> Document:
    kind = detect(data, name).kind
    assert kind is Kind.PPTX
    return extract(data, kind=kind, name=name)


def text_of(*shapes: str, related: dict[str, str] | None = None, files: Files | None = None) -> str:
    """What comes of one slide titled "T", without its heading."""
    text = read(deck(slide(title("T"), *shapes), related=related, files=files)).text
    assert text.startswith("# T")
    return text.removeprefix("# T").removeprefix("\n\n")


def code_of(data: bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        extract(data, kind=Kind.PPTX, name="a.pptx")
    return caught.value.code


def pages_of(document: Document) -> dict[int, str]:
    return {page.number: document.text[page.start : page.end] for page in document.pages}


def made_by_python_pptx() -> bytes:
    made: Any = Presentation()
    made.core_properties.author = "Ottoline Marsh"
    made.core_properties.subject = "Lake survey"
    made.core_properties.modified = datetime(2026, 3, 4, 5, 6, 7)
    first = made.slides.add_slide(made.slide_layouts[0])
    first.shapes.title.text = "Survey of Lake Ormel"
    first.placeholders[1].text = "Spring 2026"
    second = made.slides.add_slide(made.slide_layouts[1])
    second.shapes.title.text = "Findings"
    frame = second.placeholders[1].text_frame
    frame.text = "Perch"
    for level, words in ((1, "more than in 2025"), (2, "mostly young"), (0, "Pike")):
        paragraph = frame.add_paragraph()
        paragraph.text, paragraph.level = words, level
    second.notes_slide.notes_text_frame.text = "Mention the nets.\nThank the wardens."
    third = made.slides.add_slide(made.slide_layouts[6])
    grid = third.shapes.add_table(3, 2, Cm(1), Cm(1), Cm(9), Cm(3)).table
    for row, words in enumerate((("Species", "Count"), ("Perch", "412"), ("Pike | eel", "17"))):
        for column, word in enumerate(words):
            grid.cell(row, column).text = word
    group = third.shapes.add_group_shape()
    group.shapes.add_textbox(Cm(1), Cm(5), Cm(5), Cm(1)).text_frame.text = "caught in gill nets"
    chart = CategoryChartData()
    chart.categories = ["2025", "2026"]
    chart.add_series("Perch", (301.5, 412))
    chart.add_series("Pike", (0.1 + 0.2, 17))
    placed = third.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Cm(1), Cm(7), Cm(9), Cm(5), chart).chart
    placed.has_title = True
    placed.chart_title.text_frame.text = "Catch by year"
    made.slides.add_slide(made.slide_layouts[6])
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


@pytest.fixture(scope="module")
def survey() -> bytes:
    return made_by_python_pptx()


def test_a_presentation_made_by_python_pptx(survey: bytes) -> None:
    document = read(survey)
    assert pages_of(document) == {
        1: "# Survey of Lake Ormel\n\nSpring 2026",
        2: "# Findings\n\n- Perch\n  - more than in 2025\n    - mostly young\n- Pike\n\n"
        "Notes:\n\nMention the nets.\n\nThank the wardens.",
        3: "# Slide 3\n\n| Species | Count |\n| --- | --- |\n| Perch | 412 |\n| Pike \\| eel | 17 |\n\n"
        "caught in gill nets\n\nChart: Catch by year\n\n"
        "|  | Perch | Pike |\n| --- | --- | --- |\n| 2025 | 301.5 | 0.3 |\n| 2026 | 412 | 17 |",
    }
    assert document.text == "\n\n".join(pages_of(document).values())
    assert (document.syntax, document.page_unit, document.page_count) == ("markdown", "slide", 4)
    created = document.metadata.pop("created")
    assert created.startswith("2013-")  # of python-pptx's own template
    assert document.metadata == {
        "title": "Survey of Lake Ormel",
        "author": "Ottoline Marsh",
        "subject": "Lake survey",
        "modified": "2026-03-04T05:06:07Z",
        "pages_without_text": [4],
    }


FORMULA = "<m:oMath><m:r><m:t>E=mc</m:t></m:r></m:oMath>"


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        ("<a:r><a:t>hy</a:t></a:r><a:r><a:t>\u00adphen</a:t></a:r>", "hyphen"),
        ("<a:r><a:t>two</a:t></a:r><a:r><a:t> </a:t></a:r><a:r><a:t>words</a:t></a:r>", "two words"),
        ("<a:r><a:t>one </a:t></a:r><a:br/><a:r><a:t>two</a:t></a:r>", "one\ntwo"),
        ('<a:fld type="slidenum"><a:t>7</a:t></a:fld><a:fld type="datetime1"><a:t>3 May</a:t></a:fld>', "3 May"),
        (
            f"<mc:AlternateContent><mc:Choice>{FORMULA}</mc:Choice><mc:Fallback><a:r/></mc:Fallback></mc:AlternateContent>",
            "E=mc",
        ),
    ],
)
def test_text_is_found_wherever_it_stands(inline: str, text: str) -> None:
    assert text_of(shape(f"<a:p>{inline}</a:p>")) == text


def test_the_title_is_the_heading_wherever_it_stands_and_on_one_line() -> None:
    heading = shape("<a:p><a:r><a:t>A long</a:t></a:r><a:br/><a:r><a:t>title</a:t></a:r></a:p>", kind="ctrTitle")
    assert read(deck(slide(shape(p("text")), heading))).text == "# A long title\n\ntext"


def test_a_slide_without_title_does_not_stand_under_the_title_before_it() -> None:
    assert read(deck(slide(title("Costs")), slide(shape(p("text"))))).text == "# Costs\n\n# Slide 2\n\ntext"


def test_groups_within_groups_and_alternate_content_are_read_in_order() -> None:
    group = f"<p:grpSp><p:grpSpPr/>{shape(p('b'))}<p:grpSp>{shape(p('c'))}</p:grpSp></p:grpSp>"
    choice = f"<mc:AlternateContent><mc:Choice>{shape(p('d'))}</mc:Choice><mc:Fallback>{shape(p('no'))}"
    assert text_of(shape(p("a")), group, choice + "</mc:Fallback></mc:AlternateContent>") == "a\n\nb\n\nc\n\nd"


BULLET = '<a:buChar char="•"/>'
NUMBER = '<a:buAutoNum type="{}"/>'


def with_layout(layout: str, master: str, body_style: str) -> dict[str, Any]:
    """Relations and parts of a slide whose layout and master hold these shapes."""
    tree = "<p:cSld><p:spTree>{}</p:spTree></p:cSld>"
    styles = f"<p:txStyles><p:bodyStyle>{body_style}</p:bodyStyle></p:txStyles>"
    return {
        "related": {"slideLayout1": "../slideLayouts/slideLayout1.xml"},
        "files": {
            "ppt/slideLayouts/slideLayout1.xml": part("p:sldLayout", tree.format(layout)),
            "ppt/slideLayouts/_rels/slideLayout1.xml.rels": relations({"slideMaster1": "../slideMasters/m.xml"}),
            "ppt/slideMasters/m.xml": part("p:sldMaster", tree.format(master) + styles),
        },
    }


def test_bullets_come_from_the_paragraph_the_shape_the_layout_and_the_master_in_turn() -> None:
    given = with_layout(
        shape(kind="body", index="1", styles="<a:lvl1pPr><a:buNone/></a:lvl1pPr>") + shape(kind="body", index="2"),
        shape(kind="body", styles=f"<a:lvl2pPr>{BULLET}</a:lvl2pPr>"),
        f"<a:lvl1pPr>{BULLET}</a:lvl1pPr><a:lvl2pPr><a:buNone/></a:lvl2pPr>",
    )
    own = f"<a:lvl1pPr>{NUMBER.format('alphaLcParenR')}</a:lvl1pPr>"
    text = text_of(
        shape(p("plain by the layout"), p("bullet by the master", level=1), kind="body", index="1"),
        shape(p("bullet by its style"), kind="body", index="2"),
        shape(p("unknown place"), kind="body", index="9"),
        shape(p("number by the shape"), p("own bullet", BULLET), kind="body", index="2", styles=own),
        shape(p("a text box")),
        **given,
    )
    assert text == (
        "plain by the layout\n\n- bullet by the master\n- bullet by its style\n- unknown place\n"
        "- a) number by the shape\n- own bullet\n\na text box"
    )


def test_numbers_are_written_as_powerpoint_draws_them() -> None:
    arabic, roman, both = (NUMBER.format(kind) for kind in ("arabicPeriod", "romanUcPeriod", "alphaLcParenBoth"))
    text = text_of(
        shape(
            *(p("one", arabic), p("two", arabic), p("deep", both, 1), p("deep", both, 1), p("three", arabic)),
            *(p("deep again", both, 1), p("other kind", roman), p("between"), p("anew", arabic)),
            p("from seven", '<a:buAutoNum type="arabicParenR" startAt="7"/>'),
        )
    )
    assert text == (
        "1. one\n2. two\n  - (a) deep\n  - (b) deep\n3. three\n  - (a) deep again\n- I. other kind\n\n"
        "between\n\n1. anew\n7) from seven"
    )


def cell(text: str, attributes: str = "") -> str:
    return f"<a:tc {attributes}><a:txBody>{text and p(text)}</a:txBody></a:tc>"


def grid(*rows: str) -> str:
    return frame(f"<a:tbl><a:tblPr/>{''.join(f'<a:tr>{row}</a:tr>' for row in rows)}</a:tbl>")


def test_merged_cells_are_not_repeated() -> None:
    text = text_of(
        grid(
            cell("wide", 'gridSpan="2"') + cell("hidden", 'hMerge="1"') + cell("c"),
            cell("tall", 'rowSpan="2"') + cell("2") + cell("x"),
            cell("hidden", 'vMerge="true"') + cell("3") + cell(""),
        )
    )
    assert text == "| wide |  | c |\n| --- | --- | --- |\n| tall | 2 | x |\n|  | 3 |  |"


def test_a_table_of_one_column_is_layout() -> None:
    assert text_of(grid(cell("a"), cell("b"))) == "a\n\nb"


def test_footers_and_texts_of_the_layout_come_once_and_slide_numbers_never() -> None:
    fixed = with_layout(shape(p("Ormel Trust")) + shape(p("Click to add text"), kind="body"), shape(p("Draft")), "")
    foot = shape(p("Confidential"), kind="ftr") + shape(p("12"), kind="sldNum") + shape(p("3/5/26"), kind="dt")
    data = deck(slide(title("a"), foot), slide(title("b"), foot), **fixed)
    files = unpacked(data)
    files["ppt/slides/_rels/slide2.xml.rels"] = files["ppt/slides/_rels/slide1.xml.rels"]
    assert read(packed(files)).text == "# a\n\nConfidential\n\nOrmel Trust\n\nDraft\n\n# b"


def test_slides_come_in_the_order_they_are_shown_and_hidden_ones_are_kept() -> None:
    files = unpacked(deck(slide(title("first part")), slide(title("second part"), attributes='show="0"')))
    swapped = relations({"slide1": "slides/slide2.xml", "slide2": "slides/slide1.xml"})
    document = read(packed(files | {"ppt/_rels/presentation.xml.rels": swapped}))
    assert pages_of(document) == {1: "# second part", 2: "# first part"}
    assert document.metadata == {"title": "second part", "pages_hidden": [1]}


def test_notes_and_comments_follow_the_text() -> None:
    notes = slide(shape(kind="sldImg"), shape(p("Breathe."), kind="body"), shape(p("Handout"), kind="hdr"))
    files: Files = {
        "ppt/notesSlides/n.xml": notes.replace("p:sld ", "p:notes ").replace("/p:sld>", "/p:notes>"),
        "ppt/comments/old.xml": part("p:cmLst", '<p:cm authorId="0"><p:text>Sure?</p:text></p:cm>'),
        "ppt/comments/new.xml": part(
            "p188:cmLst",
            f'<p188:cm authorId="{{A1}}"><p188:replyLst><p188:reply authorId="{{B2}}"><p188:txBody>{p("It is.")}'
            f"</p188:txBody></p188:reply></p188:replyLst><p188:txBody>{p('Too long?')}</p188:txBody></p188:cm>",
        ),
        "ppt/old.xml": part("p:cmAuthorLst", '<p:cmAuthor id="0" name="Ann Bell"/>'),
        "ppt/new.xml": part("p188:authorLst", '<p188:author id="{A1}" name="Bo Cade"/>'),
    }
    places = {
        "notesSlide1": "../notesSlides/n.xml",
        "comments1": "../comments/old.xml",
        "comments2": "../comments/new.xml",
    }
    made = unpacked(deck(slide(title("T"), shape(p("text"))), related=places, files=files))
    authors = {"slide1": "slides/slide1.xml", "commentAuthors1": "old.xml", "authors1": "new.xml"}
    made["ppt/_rels/presentation.xml.rels"] = relations(authors)
    assert read(packed(made)).text == (
        "# T\n\ntext\n\nNotes:\n\nBreathe.\n\nComment (Ann Bell): Sure?\n\n"
        "Comment (Bo Cade): Too long?\n\nComment (unsigned): It is."
    )


def chart(plot: str, name: str = "") -> str:
    heading = f"<c:title><c:tx><c:rich>{p(name)}</c:rich></c:tx></c:title>" if name else ""
    return part("c:chartSpace", f"<c:chart>{heading}<c:plotArea>{plot}</c:plotArea></c:chart>")


def points(kind: str, *values: str, code: str = "") -> str:
    cached = "".join(f'<c:pt idx="{n}"><c:v>{value}</c:v></c:pt>' for n, value in enumerate(values))
    return f"<c:{kind}>{code and f'<c:formatCode>{code}</c:formatCode>'}{cached}</c:{kind}>"


CHART = frame('<c:chart r:id="chart1"/>')


def text_of_chart(content: str, placed: str = CHART) -> str:
    return text_of(placed, related={"chart1": "../charts/c.xml"}, files={"ppt/charts/c.xml": content})


def test_a_chart_says_its_titles_and_its_figures() -> None:
    categories = f"<c:multiLvlStrCache>{points('lvl', 'Q1', 'Q2')}{points('lvl', '2025')}</c:multiLvlStrCache>"
    series = (
        f"<c:ser><c:tx>{points('strCache', 'Eel')}</c:tx><c:cat>{categories}</c:cat>"
        f"<c:val>{points('numCache', '2.4000000000000004', '3', code='General')}</c:val></c:ser>"
        f"<c:ser><c:tx><c:v>Tench</c:v></c:tx><c:val>{points('numCache', '7', code='0%')}</c:val></c:ser>"
    )
    axis = f"<c:valAx><c:title><c:tx>{points('strCache', 'Tonnes')}</c:tx></c:title></c:valAx>"
    assert text_of_chart(chart(f"<c:barChart>{series}</c:barChart>{axis}", name="Catch")) == (
        "Chart: Catch; Tonnes\n\n|  | Eel | Tench |\n| --- | --- | --- |\n| Q1 2025 | 2.4 | 7 |\n| Q2 | 3 |  |"
    )


def test_days_on_a_chart_are_written_as_days() -> None:
    days = points("numCache", "46023", "46054.5", code="m/d/yyyy")
    series = f"<c:ser><c:cat>{days}</c:cat><c:val>{points('numCache', '5', '-', code='General')}</c:val></c:ser>"
    text = text_of_chart(chart(f"<c:lineChart>{series}</c:lineChart>", name="Level"))
    assert text == "Chart: Level\n\n| 2026-01-01 | 5 |\n| --- | --- |\n| 2026-02-01 | - |"


def test_a_measured_curve_gives_its_names_alone() -> None:
    values = points("numCache", *map(str, range(MAX_VALUES + 1)), code="General")
    series = f"<c:ser><c:tx><c:v>Depth</c:v></c:tx><c:xVal>{values}</c:xVal><c:yVal>{values}</c:yVal></c:ser>"
    assert text_of_chart(chart(f"<c:scatterChart>{series}</c:scatterChart>")) == "|  | Depth |\n| --- | --- |"


def test_the_newer_kinds_of_charts_say_what_they_are_about() -> None:
    said = (
        f"<cx:chartData><cx:data><cx:strDim><cx:lvl><cx:pt>Nets</cx:pt></cx:lvl></cx:strDim></cx:data></cx:chartData>"
        f"<cx:chart><cx:title><cx:tx><cx:rich>{p('Budget')}</cx:rich></cx:tx></cx:title></cx:chart>"
    )
    placed = frame('<cx:chart r:id="chart1"/>')
    choice = f"<mc:AlternateContent><mc:Choice>{placed}</mc:Choice></mc:AlternateContent>"
    text = text_of_chart(part("cx:chartSpace", said), choice)
    assert text == "Chart: Budget; Nets"


SMART_ART = frame('<dgm:relIds r:dm="diagramData1"/>')


def diagram(points: dict[str, str], links: list[tuple[str, str]]) -> str:
    listed = "".join(f'<dgm:pt modelId="{at}"><dgm:t>{p(text)}</dgm:t></dgm:pt>' for at, text in points.items())
    linked = "".join(f'<dgm:cxn srcId="{a}" destId="{b}" srcOrd="{n}"/>' for n, (a, b) in enumerate(links))
    extra = f'<dgm:pt modelId="x" type="pres"><dgm:t>{p("drawn again")}</dgm:t></dgm:pt>'
    whole = f'<dgm:ptLst><dgm:pt modelId="top" type="doc"/>{listed}{extra}</dgm:ptLst>'
    return part(
        "dgm:dataModel", f'{whole}<dgm:cxnLst>{linked}<dgm:cxn type="presOf" srcId="1" destId="x"/></dgm:cxnLst>'
    )


def test_a_paragraph_opens_no_fence_that_would_swallow_the_slides_behind_it() -> None:
    bullet = shape(p("# make", "<a:buChar/>"))
    pages = pages_of(read(deck(slide(title("One"), shape(p("```"), p("# install")), bullet), slide(title("Two")))))
    assert pages == {1: "# One\n\n\\```\n\n\\# install\n\n- \\# make", 2: "# Two"}


def text_of_diagram(content: str) -> str:
    where: Files = {"ppt/diagrams/data1.xml": content}
    return text_of(SMART_ART, related={"diagramData1": "../diagrams/data1.xml"}, files=where)


def test_smart_art_is_a_list_of_what_hangs_on_what() -> None:
    named = {"3": "Board", "1": "Chair", "2": "Warden", "4": "Keeper", "5": "adrift"}
    links = [("top", "1"), ("1", "2"), ("1", "4"), ("top", "3")]
    assert text_of_diagram(diagram(named, links)) == "- Chair\n  - Warden\n  - Keeper\n- Board\n- adrift"


def test_smart_art_that_goes_in_a_circle_or_very_deep_ends() -> None:
    circle = diagram({"1": "a", "2": "b"}, [("top", "1"), ("1", "2"), ("2", "1"), ("2", "top")])
    assert text_of_diagram(circle) == "- a\n  - b"
    chain = diagram(
        {str(n): f"w{n}" for n in range(3_000)}, [(str(n) if n else "top", str(n + 1)) for n in range(2_999)]
    )
    assert len(re.findall(r"w\d+", text_of_diagram(chain))) == 3_000


# --- other files than PowerPoint's usual ones ----------------------------------------------------------------


def test_a_strict_presentation_is_read(survey: bytes) -> None:
    def strict(content: str | bytes) -> str | bytes:
        pattern = rb"http://schemas.openxmlformats.org/(\w+)/2006/(main|chart|relationships)"
        plain = content if isinstance(content, bytes) else content.encode()
        return re.sub(pattern, rb"http://purl.oclc.org/ooxml/\1/\2", plain)

    files = {
        name: strict(content) if name.endswith((".xml", ".rels")) else content
        for name, content in unpacked(survey).items()
    }
    assert b"purl.oclc.org/ooxml/presentationml/main" in bytes(files["ppt/presentation.xml"])
    assert read(packed(files)).text == read(survey).text


@pytest.mark.parametrize("extension", ["pptm", "potx", "potm", "ppsx", "ppsm"])
def test_templates_shows_and_macros_are_read(survey: bytes, extension: str) -> None:
    files = unpacked(survey)
    usual = b"openxmlformats-officedocument.presentationml.presentation.main"
    types = bytes(files["[Content_Types].xml"])
    assert usual in types
    files["[Content_Types].xml"] = types.replace(usual, b"ms-powerpoint.of-another-kind.main")
    assert read(packed(files), f"a.{extension}").text == read(survey).text


def test_relations_that_lead_nowhere_cost_nothing() -> None:
    places = {"image1": "../NULL", "notesSlide1": "../notesSlides/gone.xml", "slideLayout1": "gone.xml"}
    assert text_of(shape(p("text")), CHART, related=places) == "text"


def test_a_slide_that_cannot_be_read_costs_only_itself() -> None:
    files = unpacked(deck(slide(title("a")), "<p:sld", slide(title("c")), slide(title("d")), "<!DOCTYPE a><a/>"))
    del files["ppt/slides/slide4.xml"]
    document = read(packed(files))
    assert pages_of(document) == {1: "# a", 3: "# c"}
    assert document.page_count == 5
    assert document.metadata["pages_failed"] == [2, 4, 5]


def test_other_parts_that_cannot_be_read_cost_only_themselves() -> None:
    places = {"notesSlide1": "../notesSlides/n.xml", "chart1": "../charts/c.xml", "slideLayout1": "../layout.xml"}
    bad: Files = {f"ppt/{name}.xml": "<broken" for name in ("notesSlides/n", "charts/c", "layout")}
    made = deck(slide(title("T"), CHART), related=places, files=bad | {"docProps/core.xml": "<broken"})
    document = read(made)
    assert document.text == "# T"
    assert set(document.metadata["parts_failed"]) == {*bad, "docProps/core.xml"}


def test_the_name_that_powerpoint_gives_is_no_title() -> None:
    core = (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{}</dc:title><cp:keywords>pike; perch</cp:keywords>'
        "</cp:coreProperties>"
    )
    given = {"PowerPoint Presentation": "Costs", "": "Costs", "Budget": "Budget"}
    for stated, kept in given.items():
        files: Files = {"docProps/core.xml": core.format(stated)}
        document = read(deck(slide(shape(p("x"))), slide(title("Costs")), files=files))
        assert document.metadata == {"title": kept, "keywords": "pike; perch"}


# --- failures ------------------------------------------------------------------------------------------------


def test_no_text_says_so() -> None:
    assert code_of(deck(slide(shape("<a:p/>"), shape(p("4"), kind="sldNum")))) == "no_text"
    assert code_of(deck()) == "no_text"


@pytest.mark.parametrize(
    "data",
    [
        b"not a zip",
        packed({"word/document.xml": "<x/>"}),
        packed({"ppt/presentation.xml": "<p:presentation"}),
        packed({"ppt/presentation.xml": part("p:other", "")}),
        deck("<p:sld"),
        deck(slide(title("x")), files={"ppt/slides/slide1.xml": '<!DOCTYPE a [<!ENTITY b "c">]>' + slide(title("x"))}),
        deck(slide("<p:grpSp>" * 2_000 + "</p:grpSp>" * 2_000)),
        OLE_MAGIC + bytes(512),
    ],
)
def test_what_cannot_be_trusted_or_read_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_an_encrypted_presentation_says_so_by_its_own_name() -> None:
    data = OLE_MAGIC + bytes(1016) + "EncryptedPackage".encode("utf-16-le") + bytes(480)
    with pytest.raises(ExtractError, match="^encrypted PPTX: save a copy without password") as caught:
        read(data)
    assert caught.value.code == "encrypted"
    with pytest.raises(ExtractError, match="old PowerPoint file .* save it as .pptx"):
        extract(OLE_MAGIC + bytes(512), kind=Kind.PPTX, name="a.pptx")


def test_a_bomb_is_too_large() -> None:
    assert code_of(deck(slide(" " * 3_000_000))) == "too_large"


def test_what_is_referred_to_a_thousand_times_is_read_once() -> None:
    places = {"chart1": "../charts/c.xml", "notesSlide1": "../n.xml"}
    files: Files = {"ppt/charts/c.xml": chart("", name="once"), "ppt/n.xml": slide(shape(p("noted")))}
    data = unpacked(deck(slide(title("a"), CHART * 1_000), slide(title("b"), CHART), related=places, files=files))
    places = relations({"chart1": "../CHARTS/C.xml", "notesSlide1": "../N.XML"})
    data["ppt/slides/_rels/slide2.xml.rels"] = places
    ids = '<p:sldId r:id="slide1"/><p:sldId r:id="slide2"/><p:sldId r:id="slide3"/>' * 1_000
    data["ppt/presentation.xml"] = part("p:presentation", f"<p:sldIdLst>{ids}</p:sldIdLst>")
    same = {"slide1": "slides/slide1.xml", "slide2": "slides/slide2.xml", "slide3": "SLIDES/slide1.xml"}
    data["ppt/_rels/presentation.xml.rels"] = relations(same)
    assert read(packed(data)).text == "# a\n\nChart: once\n\nNotes:\n\nnoted\n\n# b"


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<p:grpSp>", "</p:grpSp>"),
        ("<mc:AlternateContent><mc:Choice>", "</mc:Choice></mc:AlternateContent>"),
    ],
)
def test_shapes_may_nest_as_deep_as_xml_does(opening: str, closing: str) -> None:
    depth = DEEPEST // opening.count("<")
    assert text_of(opening * depth + shape(p("deep")) + closing * depth) == "deep"


def test_numbers_no_program_writes_are_not_believed() -> None:
    huge = "9" * 5_000
    wild = f'<a:buAutoNum type="arabicPeriod" startAt="{huge}"/>'
    assert text_of(shape(p("a", wild), p("b", wild, level=10**6))) == "1. a\n2. b"


def test_an_author_with_an_endless_name_does_not_multiply_it() -> None:
    remarks = '<p:cm authorId="0"><p:text>so</p:text></p:cm>' * 10
    files: Files = {
        "ppt/c.xml": part("p:cmLst", remarks),
        "ppt/a.xml": part("p:cmAuthorLst", f'<p:cmAuthor id="0" name="{"x" * 100_000}"/>'),
    }
    made = unpacked(deck(slide(title("T")), related={"comments1": "../c.xml"}, files=files))
    made["ppt/_rels/presentation.xml.rels"] = relations({"slide1": "slides/slide1.xml", "commentAuthors1": "a.xml"})
    text = read(packed(made)).text
    assert text.count("): so") == 10
    assert len(text) < 10_000


@pytest.mark.parametrize("twentieth", range(20))
def test_a_presentation_that_is_cut_off_is_corrupt(survey: bytes, twentieth: int) -> None:
    assert code_of(survey[: len(survey) * twentieth // 20]) == ("corrupt" if twentieth else "empty")


def outcome(data: bytes) -> str:
    try:
        document = extract(data, kind=Kind.PPTX, name="a.pptx")
    except ExtractError as error:
        return error.code
    document.text.encode("utf-8")
    return "read"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(survey: bytes, data: st.DataObject) -> None:
    damaged = bytearray(survey)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(survey) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text", "too_large")


TAGS = (
    "p:sp",
    "p:txBody",
    "a:p",
    "a:r",
    "a:fld",
    "p:grpSp",
    "p:graphicFrame",
    "a:graphic",
    "a:graphicData",
    "a:tbl",
    "a:tr",
)


def element(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = st.tuples(st.sampled_from((*TAGS, "a:tc", "mc:AlternateContent")), st.lists(inner, max_size=3))
    return made.map(lambda node: f"<{node[0]}>{''.join(node[1])}</{node[0]}>")


@given(st.recursive(st.just(p("x")), element, max_leaves=30))
def test_any_nesting_of_elements_is_read(content: str) -> None:
    assert read(deck(slide(title("start"), content))).text.startswith("# start")


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="<&"), max_size=20),
        min_size=1,
    )
)
def test_pages_are_exactly_the_slides(titles: list[str]) -> None:
    data = deck(*(slide(title(text), shape(p("body"))) for text in titles))
    document = read(data)
    shown = [" ".join(text.replace("\u00ad", "").removeprefix("\ufeff").split()) for text in titles]
    expected = {n: f"# {text or f'Slide {n}'}\n\nbody" for n, text in enumerate(shown, start=1)}
    assert pages_of(document) == expected
    assert document.text == "\n\n".join(expected.values())

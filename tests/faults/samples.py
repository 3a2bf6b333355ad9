"""A small sound document of every format, made here: what attacks and mutations start from.

Zip-based ones are given as their parts, so that one part can be exchanged and the archive be sound all the same.
Every text has the words of `WORDS` in it.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

Parts = Mapping[str, bytes]

WORDS = "lantern ferry"
DATA = Path(__file__).parents[1] / "data"

_OFFICE = "http://schemas.openxmlformats.org"
_RELATED = f"{_OFFICE}/officeDocument/2006/relationships"
_OPEN = "urn:oasis:names:tc:opendocument:xmlns"
_XML = '<?xml version="1.0" encoding="UTF-8"?>'


def packed(parts: Parts) -> bytes:
    """A zip archive of parts, `mimetype` stored as its formats demand; names may repeat."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)
        for name, content in parts.items():
            method = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def _relations(**targets: str) -> str:
    links = "".join(
        f'<Relationship Id="{name}" Type="{_RELATED}/{name.rstrip("0123456789")}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return f'{_XML}<Relationships xmlns="{_OFFICE}/package/2006/relationships">{links}</Relationships>'


_TYPES = f'{_XML}<Types xmlns="{_OFFICE}/package/2006/content-types"/>'
_CORE = (
    f'{_XML}<cp:coreProperties xmlns:cp="{_OFFICE}/package/2006/metadata/core-properties"'
    f' xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{WORDS}</dc:title></cp:coreProperties>'
)


def _docx() -> dict[str, str]:
    space = f'xmlns:w="{_OFFICE}/wordprocessingml/2006/main"'
    place = '<w:pPr><w:pStyle w:val="H"/><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>'
    row = "".join(f"<w:tc><w:p><w:r><w:t>{word}</w:t></w:r></w:p></w:tc>" for word in ("pier", "depth"))
    return {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _relations(officeDocument="word/document.xml"),
        "word/_rels/document.xml.rels": _relations(styles="styles.xml", numbering="numbering.xml"),
        "word/document.xml": f"{_XML}<w:document {space}><w:body><w:p>{place}<w:r><w:t>{WORDS}</w:t></w:r></w:p>"
        f"<w:tbl><w:tr>{row}</w:tr><w:tr>{row}</w:tr></w:tbl></w:body></w:document>",
        "word/styles.xml": f'{_XML}<w:styles {space}><w:style w:styleId="H"><w:name w:val="heading 1"/></w:style>'
        "</w:styles>",
        "word/numbering.xml": f'{_XML}<w:numbering {space}><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0">'
        '<w:start w:val="1"/><w:lvlText w:val="%1."/></w:lvl></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>',
        "docProps/core.xml": _CORE,
    }


def _pptx() -> dict[str, str]:
    draw, show = f"{_OFFICE}/drawingml/2006/main", f"{_OFFICE}/presentationml/2006/main"
    spaces = f'xmlns:a="{draw}" xmlns:p="{show}" xmlns:r="{_RELATED}"'
    shape = (
        '<p:sp><p:nvSpPr><p:cNvPr id="2" name="s"/><p:nvPr/></p:nvSpPr><p:txBody><a:bodyPr/>'
        f"<a:p><a:r><a:t>{WORDS}</a:t></a:r></a:p></p:txBody></p:sp>"
    )
    return {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _relations(officeDocument="ppt/presentation.xml"),
        "ppt/_rels/presentation.xml.rels": _relations(slide1="slides/slide1.xml"),
        "ppt/presentation.xml": f'{_XML}<p:presentation {spaces}><p:sldIdLst><p:sldId id="256" r:id="slide1"/>'
        "</p:sldIdLst></p:presentation>",
        "ppt/slides/slide1.xml": f"{_XML}<p:sld {spaces}><p:cSld><p:spTree>{shape}</p:spTree></p:cSld></p:sld>",
        "docProps/core.xml": _CORE,
    }


def _xlsx() -> dict[str, str]:
    main = f"{_OFFICE}/spreadsheetml/2006/main"
    cells = '<c r="A1" t="s"><v>0</v></c><c r="B1"><v>7.5</v></c>'
    return {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _relations(officeDocument="xl/workbook.xml"),
        "xl/_rels/workbook.xml.rels": _relations(worksheet1="worksheets/sheet1.xml", sharedStrings="sharedStrings.xml"),
        "xl/workbook.xml": f'{_XML}<workbook xmlns="{main}" xmlns:r="{_RELATED}"><sheets>'
        '<sheet name="S1" sheetId="1" r:id="worksheet1"/></sheets></workbook>',
        "xl/sharedStrings.xml": f'{_XML}<sst xmlns="{main}"><si><t>{WORDS}</t></si></sst>',
        "xl/worksheets/sheet1.xml": f'{_XML}<worksheet xmlns="{main}"><sheetData><row r="1">{cells}</row></sheetData>'
        "</worksheet>",
    }


def _open_document(kind: str, body: str) -> dict[str, str]:
    names = ("office", "text", "table", "drawing", "presentation", "meta")
    spaces = " ".join(f'xmlns:{"draw" if name == "drawing" else name}="{_OPEN}:{name}:1.0"' for name in names)
    mime = "text" if kind == "text" else kind
    return {
        "mimetype": f"application/vnd.oasis.opendocument.{mime}",
        "content.xml": f"{_XML}<office:document-content {spaces}><office:body><office:{kind}>{body}</office:{kind}>"
        "</office:body></office:document-content>",
        "styles.xml": f"{_XML}<office:document-styles {spaces}></office:document-styles>",
        "meta.xml": f'{_XML}<office:document-meta {spaces} xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>'
        f"<dc:title>{WORDS}</dc:title></office:meta></office:document-meta>",
        "META-INF/manifest.xml": f'{_XML}<manifest xmlns="{_OPEN}:manifest:1.0"></manifest>',
    }


_ODS_CELL = f'<table:table-cell office:value-type="string"><text:p>{WORDS}</text:p></table:table-cell>'


def _epub() -> dict[str, str]:
    page = f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><p>{WORDS}</p></body></html>'
    points = f'<navPoint><navLabel><text>{WORDS}</text></navLabel><content src="a.xhtml"/></navPoint>'
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": f'{_XML}<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
        "b.opf": f'{_XML}<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{WORDS}</dc:title></metadata><manifest>"
        '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="n" href="toc.ncx" media-type="application/x-dtbncx+xml"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>',
        "toc.ncx": f"{_XML}<ncx><navMap>{points}</navMap></ncx>",
        "a.xhtml": f"{_XML}{page}",
    }


PACKAGES: dict[str, dict[str, bytes]] = {
    extension: {name: text.encode() for name, text in parts.items()}
    for extension, parts in {
        "docx": _docx(),
        "pptx": _pptx(),
        "xlsx": _xlsx(),
        "odt": _open_document("text", f"<text:h>{WORDS}</text:h><text:p>{WORDS}</text:p>"),
        "odp": _open_document(
            "presentation",
            f"<draw:page><draw:frame><draw:text-box><text:p>{WORDS}</text:p></draw:text-box></draw:frame></draw:page>",
        ),
        "ods": _open_document(
            "spreadsheet",
            f'<table:table table:name="S"><table:table-row>{_ODS_CELL}</table:table-row></table:table>',
        ),
        "epub": _epub(),
    }.items()
}
"""The parts of each zip-based format, by its extension."""


def mail(*attachments: tuple[str, bytes], text: str = WORDS) -> bytes:
    """A mail with files attached."""
    import email.message
    import email.policy

    message = email.message.EmailMessage(email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = "a@harbour.example", "b@harbour.example", text
    message["Message-ID"] = "<1@harbour.example>"
    message.set_content(text)
    message.add_alternative(f"<p>{text} <b>bold</b></p>", subtype="html")
    for name, data in attachments:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def _notebook() -> str:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [f"# {WORDS}\n"]},
        {
            "cell_type": "code",
            "metadata": {},
            "execution_count": 1,
            "source": "1 + 1",
            "outputs": [{"output_type": "execute_result", "data": {"text/html": "<b>2</b>", "text/plain": "2"}}],
        },
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def _texts() -> dict[str, str]:
    table = f"<table><tr><th>a</th><th>b</th></tr><tr><td>{WORDS}</td><td>2</td></tr></table>"
    html = f"<html><head><title>{WORDS}</title></head><body><h1>{WORDS}</h1><ul><li>one</ul>{table}</body></html>"
    return {
        "csv": f'name,"depth, m"\n{WORDS},3\n"a ""b""",4\n',
        "html": html,
        "json": json.dumps({"name": WORDS, "depths": [1, 2.5, None, True], "inner": {"key": [{"a": "\u00e9"}]}}),
        "jsonl": json.dumps({"name": WORDS}) + '\n{"name": "b"}\n',
        "ipynb": _notebook(),
        "md": f"# {WORDS}\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```\n",
        "mht": f"From: a\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n{html}",
        "mbox": f"From a Mon Jan  5 10:00:00 2026\nFrom: a\nMessage-ID: <1@b>\nSubject: {WORDS}\n\n{WORDS}\n",
        "py": f'"""{WORDS}"""\n\n\nclass Pier:\n    def depth(self) -> int:\n        return 7\n',
        "rtf": rf"{{\rtf1\ansi{{\fonttbl{{\f0 Arial;}}}}{{\stylesheet{{\s1 heading 1;}}}}\s1 {WORDS}\par \u26085? x}}",
        "txt": f"{WORDS}\n\nThe harbour opens at high water.\n",
        "xhtml": f'{_XML}<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{WORDS}</p></body></html>',
        "xml": f'{_XML}<harbour><pier depth="3"><name>{WORDS}</name></pier><note>High water.</note></harbour>',
    }


TEXTS = _texts()
"""The formats that are one text, by their extension."""


def every() -> list[tuple[str, bytes]]:
    """Each sample: its extension and its bytes; those of `tests/data` besides."""
    made = [(extension, packed(parts)) for extension, parts in PACKAGES.items()]
    made += [(extension, text.encode()) for extension, text in TEXTS.items()]
    made.append(("eml", mail(("plan.txt", b"Plan of the pier."), ("plan.docx", packed(PACKAGES["docx"])))))
    kept = [path for folder in ("demo", "text", "bad") for path in sorted((DATA / folder).iterdir())]
    return made + [(path.suffix[1:], path.read_bytes()) for path in kept]

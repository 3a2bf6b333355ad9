from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import extract as registry
from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract, parser_version
from storage.errors import ExtractError


def read(data: bytes, kind: Kind = Kind.TEXT) -> Document:
    return extract(data, kind=kind, name="a")


def test_text_is_left_as_it_is_but_for_line_ends_and_nuls() -> None:
    document = read(b"one\r\ntwo\rthr\0ee\n\n  four  ")
    assert document.text == "one\ntwo\nthree\n\n  four  "
    assert document.syntax == "plain"
    assert document.metadata == {"encoding": "utf-8"}
    assert document.pages == ()
    assert document.page_count is None


def test_an_xml_declaration_is_honoured() -> None:
    data = '<?xml version="1.0" encoding="koi8-r"?><a>Привет</a>'.encode("koi8-r")
    assert "Привет" in read(data).text


def test_what_a_text_says_about_html_is_no_declaration() -> None:
    assert read("Write <meta charset=koi8-r>: caf\xe9".encode("cp1252")).text.endswith("café")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Title\n\ntext", "Title"),
        ("text\n\n## Second level ##\n", "Second level"),
        ("Underlined\n===\n\n# Other", "Underlined"),
        ("Also underlined\n---\n", "Also underlined"),
        ("---\ntitle: no heading\n---\n\n# Heading\n", "Heading"),
        ("```sh\n# a comment\n```\n\n# Heading\n", "Heading"),
        ("~~~\n# never closed", None),
        ("#hashtag\n\nno heading", None),
        ("\n---\n\ntext", None),
    ],
)
def test_the_first_heading_is_the_title(text: str, title: str | None) -> None:
    document = read(text.encode(), Kind.MARKDOWN)
    assert document.metadata.get("title") == title
    assert document.syntax == "markdown"
    assert document.text == text


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\0" * 9])
def test_nothing_but_white_space_is_empty_in_every_format(kind: Kind, data: bytes) -> None:
    with pytest.raises(ExtractError, match="empty file: nothing to index") as caught:
        read(data, kind)
    assert caught.value.code == "empty"


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf\n", b"\xff\xfe \0\n\0", "\u3000\n".encode()])
def test_white_space_in_any_encoding_is_empty(data: bytes) -> None:
    with pytest.raises(ExtractError) as caught:
        read(data)
    assert caught.value.code == "empty"


RAISED = {
    Kind.HTML: {Kind.HTML, Kind.DOCX, Kind.EPUB, Kind.NOTEBOOK, Kind.XML}
    | {Kind.MAIL, Kind.MAILBOX, Kind.OUTLOOK, Kind.WEB_ARCHIVE},
    Kind.RTF: {Kind.RTF, Kind.OUTLOOK},
    Kind.MAIL: {Kind.MAIL, Kind.MAILBOX, Kind.OUTLOOK},
    Kind.PPTX: {Kind.PPTX, Kind.DOCX, Kind.OPENDOCUMENT},
    Kind.TEXT: {Kind.TEXT},
}


@pytest.mark.parametrize("kind", list(RAISED))
def test_raised_rules_of_a_reader_are_those_of_every_reader_that_calls_it(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, version = registry._READERS[kind], parser_version.__wrapped__
    before = {each: version(each) for each in Kind}
    monkeypatch.setitem(registry._READERS, kind, replace(reader, rules=reader.rules + 1))
    assert {each for each in Kind if version(each) != before[each]} == RAISED[kind]


def test_a_reader_says_which_readers_it_calls() -> None:
    modules = {kind: reader.function.partition(".")[0] for kind, reader in registry._READERS.items()}
    for kind, own in modules.items():
        source = (Path(registry.__file__).parent / f"{own}.py").read_text("utf8")
        found = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
        imported = {each for each in modules.values() if f"pipeline.extract.{each}" in found} - {own}
        assert imported <= {modules[each] for each in called(kind)}, kind


def called(kind: Kind) -> set[Kind]:
    """The readers that one calls, or that these call."""
    direct = registry._READERS[kind].calls
    return {*direct, *(each for other in direct for each in called(other))}


def test_parser_versions_name_every_library_in_use() -> None:
    assert parser_version(Kind.PDF).startswith("pypdfium2 ")
    assert parser_version(Kind.DOCX).startswith("python-docx ")
    assert parser_version(Kind.HTML).startswith("html-to-markdown ")
    assert "selectolax" in parser_version(Kind.HTML)
    assert parser_version(Kind.TEXT) == "text 3"
    assert parser_version(Kind.MARKDOWN) == "markdown 2"


def test_documents_name_their_parser(sample_data: Path) -> None:
    for kind, name in ((Kind.HTML, "varnholm-guide.html"), (Kind.DOCX, "supply-agreement.docx")):
        document = extract((sample_data / "demo" / name).read_bytes(), kind=kind, name=name)
        assert document.parser == parser_version(kind)


def test_no_reader_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from pipeline.detect import Kind, detect; from pipeline.extract import parser_version;"
        "detect(b'words', 'a.txt'); [parser_version(kind) for kind in Kind];"
        "print([name for name in ('pypdf', 'docx', 'lxml', 'selectolax', 'html_to_markdown', 'cchardet', 'filetype')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

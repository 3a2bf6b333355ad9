"""What a file is, told from its first bytes; its name decides only where the bytes do not.

A file that names itself a PDF or DOCX but does not look like one still goes to that reader, so that
it becomes `failed: corrupt` rather than vanishing among the skipped. What no reader exists for is
unsupported, with a reason in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

HEAD_BYTES = 8192
"""How much of a file `detect` wants to see; more does no harm."""


class Kind(StrEnum):
    """A format that a reader exists for."""

    PDF = "pdf"
    DOCX = "docx"
    HTML = "html"
    MARKDOWN = "markdown"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Detection:
    """What a file is.

    kind: the reader to use, or None when there is none.
    mime_type: best guess, `application/octet-stream` when nothing is known.
    reason: why there is no reader, in words for the user; empty when there is one.
    """

    kind: Kind | None
    mime_type: str
    reason: str = ""


_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_EXCEL = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_SLIDES = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"

_MIME_OF_KIND = {
    Kind.PDF: "application/pdf",
    Kind.DOCX: _WORD,
    Kind.HTML: "text/html",
    Kind.MARKDOWN: "text/markdown",
    Kind.TEXT: "text/plain",
}

_KIND_OF_EXTENSION = {
    "pdf": Kind.PDF,
    **dict.fromkeys(("docx", "docm", "dotx", "dotm"), Kind.DOCX),
    **dict.fromkeys(("html", "htm", "xhtml", "xht", "shtml"), Kind.HTML),
    **dict.fromkeys(("md", "markdown", "mkd", "mdown", "mdwn", "mdx", "qmd", "rmd"), Kind.MARKDOWN),
}

_TEXT_MIME = {
    "asc": "text/plain",
    "adoc": "text/asciidoc",
    "asciidoc": "text/asciidoc",
    "bib": "text/x-bibtex",
    "c": "text/x-c",
    "cfg": "text/plain",
    "conf": "text/plain",
    "cpp": "text/x-c++",
    "css": "text/css",
    "csv": "text/csv",
    "go": "text/x-go",
    "h": "text/x-c",
    "ini": "text/plain",
    "java": "text/x-java",
    "js": "text/javascript",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "log": "text/plain",
    "ndjson": "application/x-ndjson",
    "org": "text/org",
    "po": "text/x-gettext-translation",
    "py": "text/x-python",
    "rs": "text/x-rust",
    "rst": "text/x-rst",
    "sh": "text/x-shellscript",
    "sql": "application/sql",
    "srt": "application/x-subrip",
    "tex": "text/x-tex",
    "text": "text/plain",
    "toml": "application/toml",
    "ts": "text/x-typescript",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
    "vtt": "text/vtt",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}

_NO_READER = "no reader yet"
_UNSUPPORTED_EXTENSION = {
    "doc": ("application/msword", f"old Word document: {_NO_READER}; save it as .docx"),
    "eml": ("message/rfc822", f"mail: {_NO_READER}"),
    "emlx": ("message/rfc822", f"mail: {_NO_READER}"),
    "epub": ("application/epub+zip", f"e-book: {_NO_READER}"),
    "ipynb": ("application/x-ipynb+json", f"notebook: {_NO_READER}"),
    "key": ("application/vnd.apple.keynote", f"presentation: {_NO_READER}"),
    "mbox": ("application/mbox", f"mailbox: {_NO_READER}"),
    "mht": ("multipart/related", f"web archive: {_NO_READER}"),
    "mhtml": ("multipart/related", f"web archive: {_NO_READER}"),
    "msg": ("application/vnd.ms-outlook", f"Outlook message: {_NO_READER}"),
    "numbers": ("application/vnd.apple.numbers", f"spreadsheet: {_NO_READER}"),
    "odp": (f"{_OPEN_DOCUMENT}.presentation", f"presentation: {_NO_READER}"),
    "ods": (f"{_OPEN_DOCUMENT}.spreadsheet", f"spreadsheet: {_NO_READER}"),
    "odt": (f"{_OPEN_DOCUMENT}.text", f"OpenDocument text: {_NO_READER}; save it as .docx"),
    "pages": ("application/vnd.apple.pages", f"Pages document: {_NO_READER}"),
    "ppt": ("application/vnd.ms-powerpoint", f"old PowerPoint presentation: {_NO_READER}"),
    "pptx": (_SLIDES, f"presentation: {_NO_READER}"),
    "rtf": ("application/rtf", f"rich text: {_NO_READER}"),
    "svg": ("image/svg+xml", f"drawing: {_NO_READER}"),
    "xls": ("application/vnd.ms-excel", f"old Excel spreadsheet: {_NO_READER}"),
    "xlsb": ("application/vnd.ms-excel.sheet.binary.macroenabled.12", f"spreadsheet: {_NO_READER}"),
    "xlsx": (_EXCEL, f"spreadsheet: {_NO_READER}"),
}
"""These win over bytes that merely look like text: read as text, a mail or notebook would be noise."""

_TEXTUAL_BUT_UNSUPPORTED = ("eml", "emlx", "ipynb", "mbox", "mht", "mhtml", "svg")

_BINARY_REASON = {
    "application/gzip": "archive",
    "application/x-7z-compressed": "archive",
    "application/x-bzip2": "archive",
    "application/x-rar-compressed": "archive",
    "application/x-sqlite3": "database",
    "application/x-tar": "archive",
    "application/x-xz": "archive",
    "application/zip": "archive",
    "application/zstd": "archive",
}


def detect(head: bytes, name: str) -> Detection:
    """Say what a file is.

    head: its first `HEAD_BYTES` bytes or more, or all of it.
    name: its base name; only the extension is used.
    """
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    head = head[: 8 * HEAD_BYTES]
    for rule in _RULES:
        detection = rule(head, extension)
        if detection is not None:
            return detection
    return _by_name(extension) or Detection(None, "application/octet-stream", "binary data")


def wide_encoding(data: bytes) -> str | None:
    """The UTF-16 or UTF-32 codec that `data` is written in, by byte order mark or by where its NULs lie.

    Without a mark, ASCII in UTF-16 has NULs in every second byte and in UTF-32 in three of four; the
    positions say which end comes first. Half of the units must agree, so that a stray NUL is no evidence.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    sample = data[:HEAD_BYTES]
    if b"\0" not in sample or len(sample) < 8:
        return None
    for width, encodings in ((4, ("utf-32-be", "utf-32-le")), (2, ("utf-16-be", "utf-16-le"))):
        for encoding in encodings:
            if _nul_share(sample, width, encoding) > 0.5 and _decodes(sample, width, encoding):
                return encoding
    return None


_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""The longer marks first: UTF-32's little-endian mark begins with UTF-16's."""


def _nul_share(sample: bytes, width: int, encoding: str) -> float:
    """Share of `width`-byte units that look like an ASCII character in this byte order."""
    units = [sample[at : at + width] for at in range(0, len(sample) - width + 1, width)]
    order = "little" if encoding.endswith("le") else "big"
    return sum(9 <= int.from_bytes(unit, order) < 127 for unit in units) / len(units)


def _decodes(sample: bytes, width: int, encoding: str) -> bool:
    # The sample may end inside a surrogate pair: up to one unit is forgiven.
    whole = sample[: len(sample) - len(sample) % width]
    try:
        whole.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start >= len(whole) - width
    return True


def _of_kind(kind: Kind, mime_type: str = "") -> Detection:
    return Detection(kind, mime_type or _MIME_OF_KIND[kind])


def _by_name(extension: str) -> Detection | None:
    """What the extension alone promises, or None when it promises nothing."""
    if extension in _KIND_OF_EXTENSION:
        return _of_kind(_KIND_OF_EXTENSION[extension])
    if extension in _UNSUPPORTED_EXTENSION:
        mime_type, reason = _UNSUPPORTED_EXTENSION[extension]
        return Detection(None, mime_type, reason)
    return None


def _empty(head: bytes, extension: str) -> Detection | None:
    if head.strip(b" \t\r\n\f\v\0"):
        return None
    return _by_name(extension) or _of_kind(Kind.TEXT, _TEXT_MIME.get(extension, ""))


def _pdf(head: bytes, extension: str) -> Detection | None:
    at = head.find(b"%PDF-", 0, 1024)
    if at < 0:
        return None
    # Readers accept junk before the header; a text that quotes "%PDF-" must not become a PDF for it.
    junk = head[:at].strip(b"\xef\xbb\xbf \t\r\n\0")
    if not junk or extension == "pdf" or not _is_text(head, extension):
        return _of_kind(Kind.PDF)
    return None


def _zip(head: bytes, extension: str) -> Detection | None:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return None
    if found := re.match(rb".{26}\x08\0..mimetype([\w.+/-]+?)(?:PK|$|\0)", head, re.DOTALL):
        return _packaged(found[1].decode("ascii"))
    for folder, detection in _OOXML_FOLDERS:
        if folder in head:
            return detection
    promised = _by_name(extension)
    # A DOCX whose first part is a large picture shows no folder yet: its reader will confirm.
    if promised and (promised.kind in (Kind.DOCX, None)):
        return promised
    return Detection(None, "application/zip", "archive")


_OOXML_FOLDERS = (
    (b"word/document", _of_kind(Kind.DOCX)),
    (b"word/_rels/", _of_kind(Kind.DOCX)),
    (b"xl/workbook", Detection(None, *_UNSUPPORTED_EXTENSION["xlsx"])),
    (b"xl/_rels/", Detection(None, *_UNSUPPORTED_EXTENSION["xlsx"])),
    (b"ppt/presentation", Detection(None, *_UNSUPPORTED_EXTENSION["pptx"])),
    (b"ppt/_rels/", Detection(None, *_UNSUPPORTED_EXTENSION["pptx"])),
)


def _packaged(mime_type: str) -> Detection:
    """An OpenDocument or EPUB package, which states its type in a first, uncompressed entry."""
    for known, reason in _UNSUPPORTED_EXTENSION.values():
        if known == mime_type:
            return Detection(None, mime_type, reason)
    return Detection(None, mime_type, f"{mime_type}: {_NO_READER}")


def _ole(head: bytes, extension: str) -> Detection | None:
    if not head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return None
    promised = _by_name(extension)
    # An encrypted DOCX is an OLE file: its reader tells the user so. Under any other name it is old Office.
    if promised and promised.kind in (Kind.DOCX, None):
        return promised
    return Detection(None, "application/x-ole-storage", f"old Office file: {_NO_READER}")


def _text(head: bytes, extension: str) -> Detection | None:
    if not _is_text(head, extension):
        return None
    start = _readable(head)
    if extension in _TEXTUAL_BUT_UNSUPPORTED:
        return _by_name(extension)
    return _textual_but_unsupported(start, extension) or _text_kind(start, extension)


def _textual_but_unsupported(start: str, extension: str) -> Detection | None:
    if start.startswith("{\\rtf"):
        return Detection(None, *_UNSUPPORTED_EXTENSION["rtf"])
    if start.startswith("%!PS"):
        return Detection(None, "application/postscript", f"PostScript: {_NO_READER}")
    if _root_element(start) == "svg":
        return Detection(None, *_UNSUPPORTED_EXTENSION["svg"])
    if extension in _TEXT_MIME or extension in _KIND_OF_EXTENSION:
        return None
    if start.startswith("From ") and re.search(r"^(?:Received|Message-ID):", start, re.M | re.I):
        return Detection(None, *_UNSUPPORTED_EXTENSION["mbox"])
    if _MAIL.match(start):
        return Detection(None, *_UNSUPPORTED_EXTENSION["eml"])
    return None


_MAIL = re.compile(
    r"(?=(?:[\w-]+:.*\n(?:[ \t].*\n)*)*?(?:Message-ID|MIME-Version|Received):)"
    r"(?:[\w-]+:.*\n(?:[ \t].*\n)*){3}",
    re.IGNORECASE,
)
"""Three header fields in a row at the very start, one of which only a mail has."""


def _text_kind(start: str, extension: str) -> Detection:
    if _root_element(start) == "html":
        return _of_kind(Kind.HTML)
    promised = _KIND_OF_EXTENSION.get(extension)
    if promised is not None:
        return _of_kind(promised)
    return _of_kind(Kind.TEXT, _TEXT_MIME.get(extension, ""))


_PROLOG = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_ROOT = re.compile(r"<(?:!doctype\s+)?([a-z][\w.-]*:)?([a-z][\w.-]*)", re.IGNORECASE)


def _root_element(start: str) -> str:
    """Name of the first element or of the document type, lower case; empty when it is no markup."""
    prolog = _PROLOG.match(start)
    found = _ROOT.match(start, prolog.end() if prolog else 0)
    return found[2].lower() if found else ""


def _readable(head: bytes) -> str:
    """The head as text, good enough to see markup: in every encoding left, ASCII is ASCII."""
    text = head.decode(wide_encoding(head) or "latin-1", errors="replace")
    return text.removeprefix("\xef\xbb\xbf").replace("\0", "").replace("\r\n", "\n").lstrip()


_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n\v\f\r\b\x1b") + b"\x7f"


def _is_text(head: bytes, extension: str) -> bool:
    """Whether the bytes are plausibly text: hardly any control characters.

    The most seen in real text files (a list of naughty strings) is 0.3 %, random bytes have 10 %. A file
    that calls itself text may hold NULs and more, unless its first bytes are those of a binary format.
    """
    if wide_encoding(head):
        return True
    named = extension in _TEXT_MIME or _KIND_OF_EXTENSION.get(extension) in (Kind.HTML, Kind.MARKDOWN)
    if named and b"\0" in head and _guess(head) is None:
        head = head.replace(b"\0", b"")
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return b"\0" not in head and controls <= len(head) * (0.2 if named else 0.01)


def _guess(head: bytes) -> str | None:
    """MIME type by magic number, or None. Only files that are no text need filetype's tables."""
    from filetype import guess_mime  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    return cast("str | None", guess_mime(head))


def _binary(head: bytes, extension: str) -> Detection | None:
    mime_type = _guess(head)
    if mime_type is None:
        return None
    reason = _BINARY_REASON.get(mime_type) or mime_type.partition("/")[0]
    if reason == "application":
        reason = f"{mime_type}: {_NO_READER}"
    return Detection(None, mime_type, reason)


_Rule = Callable[[bytes, str], Detection | None]
_RULES: tuple[_Rule, ...] = (_empty, _pdf, _zip, _ole, _text, _binary)

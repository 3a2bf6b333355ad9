"""What a file is, told from its first bytes; its name decides only where the bytes do not.

A file that names itself a PDF, DOCX or the like but does not look like one still goes to that reader, so
that it becomes `failed: corrupt` rather than vanishing among the skipped. What no reader exists for is
unsupported, with a reason in words.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

HEAD_BYTES = 65_536
"""How much of a file `detect` wants to see; more does no harm."""

_SAMPLE_BYTES = 8192
"""How much tells the encoding."""


class Kind(StrEnum):
    """A format that a reader exists for."""

    PDF = "pdf"
    DOCX = "docx"
    PPTX = "pptx"
    SPREADSHEET = "spreadsheet"
    OPENDOCUMENT = "opendocument"
    EPUB = "epub"
    RTF = "rtf"
    MAIL = "mail"
    MAILBOX = "mailbox"
    OUTLOOK = "outlook"
    WEB_ARCHIVE = "web archive"
    NOTEBOOK = "notebook"
    HTML = "html"
    XML = "xml"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    CODE = "code"
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


_OFFICE = "application/vnd.openxmlformats-officedocument"
_WORD = f"{_OFFICE}.wordprocessingml.document"
_SHEET = f"{_OFFICE}.spreadsheetml.sheet"
_SLIDES = f"{_OFFICE}.presentationml.presentation"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"

_PACKAGED = {
    **dict.fromkeys(("docx", "docm", "dotx", "dotm"), (Kind.DOCX, _WORD)),
    **dict.fromkeys(("pptx", "pptm", "potx", "potm", "ppsx", "ppsm"), (Kind.PPTX, _SLIDES)),
    **dict.fromkeys(("xlsx", "xlsm", "xltx", "xltm"), (Kind.SPREADSHEET, _SHEET)),
    "xlsb": (Kind.SPREADSHEET, "application/vnd.ms-excel.sheet.binary.macroenabled.12"),
    "ods": (Kind.SPREADSHEET, f"{_OPEN_DOCUMENT}.spreadsheet"),
    "ots": (Kind.SPREADSHEET, f"{_OPEN_DOCUMENT}.spreadsheet-template"),
    "odt": (Kind.OPENDOCUMENT, f"{_OPEN_DOCUMENT}.text"),
    "ott": (Kind.OPENDOCUMENT, f"{_OPEN_DOCUMENT}.text-template"),
    "odp": (Kind.OPENDOCUMENT, f"{_OPEN_DOCUMENT}.presentation"),
    "otp": (Kind.OPENDOCUMENT, f"{_OPEN_DOCUMENT}.presentation-template"),
    "epub": (Kind.EPUB, "application/epub+zip"),
}
"""Formats that are zip archives."""

_COMPOUND = {
    **dict.fromkeys(("xls", "xlt"), (Kind.SPREADSHEET, "application/vnd.ms-excel")),
    "msg": (Kind.OUTLOOK, "application/vnd.ms-outlook"),
}
"""Formats in Microsoft's compound files (OLE)."""

_MARKED_UP = {
    **dict.fromkeys(("html", "htm", "xhtml", "xht", "shtml"), (Kind.HTML, "text/html")),
    **dict.fromkeys(("md", "markdown", "mkd", "mdown", "mdwn", "mdx", "qmd", "rmd"), (Kind.MARKDOWN, "text/markdown")),
    **dict.fromkeys(("eml", "emlx"), (Kind.MAIL, "message/rfc822")),
    "mbox": (Kind.MAILBOX, "application/mbox"),
    **dict.fromkeys(("mht", "mhtml"), (Kind.WEB_ARCHIVE, "multipart/related")),
    "ipynb": (Kind.NOTEBOOK, "application/x-ipynb+json"),
    "csv": (Kind.CSV, "text/csv"),
    **dict.fromkeys(("tsv", "tab"), (Kind.CSV, "text/tab-separated-values")),
    **dict.fromkeys(("json", "geojson"), (Kind.JSON, "application/json")),
    "jsonl": (Kind.JSON, "application/jsonl"),
    "ndjson": (Kind.JSON, "application/x-ndjson"),
    **dict.fromkeys(
        ("xml", "nxml", "rss", "atom", "dbk", "dita", "xliff", "xlf", "tei"), (Kind.XML, "application/xml")
    ),
}
"""Formats that are text with a structure of their own."""

_CODE_MIME = {
    **dict.fromkeys(("sh", "bash", "zsh"), "text/x-shellscript"),
    **dict.fromkeys(("c", "h"), "text/x-c"),
    **dict.fromkeys(("cc", "cpp", "cxx", "hh", "hpp", "hxx"), "text/x-c++"),
    "cs": "text/x-csharp",
    "go": "text/x-go",
    "java": "text/x-java",
    **dict.fromkeys(("cjs", "js", "jsx", "mjs"), "text/javascript"),
    "kt": "text/x-kotlin",
    "lua": "text/x-lua",
    **dict.fromkeys(("php", "phtml"), "text/x-php"),
    **dict.fromkeys(("pl", "pm"), "text/x-perl"),
    **dict.fromkeys(("py", "pyi", "pyw"), "text/x-python"),
    "r": "text/x-r",
    "rb": "text/x-ruby",
    "rs": "text/x-rust",
    "scala": "text/x-scala",
    "sql": "application/sql",
    "swift": "text/x-swift",
    **dict.fromkeys(("cts", "mts", "ts", "tsx"), "text/x-typescript"),
}

_TEXT_MIME = {
    **dict.fromkeys(("adoc", "asciidoc"), "text/asciidoc"),
    "bib": "text/x-bibtex",
    "css": "text/css",
    "org": "text/org",
    "po": "text/x-gettext-translation",
    "rst": "text/x-rst",
    "srt": "application/x-subrip",
    "tex": "text/x-tex",
    "toml": "application/toml",
    "vtt": "text/vtt",
    **dict.fromkeys(("yaml", "yml"), "application/yaml"),
    **dict.fromkeys(("asc", "cfg", "conf", "ini", "log", "text", "txt"), "text/plain"),
}

_READERS: dict[str, tuple[Kind, str]] = {
    "pdf": (Kind.PDF, "application/pdf"),
    **_PACKAGED,
    **_COMPOUND,
    "rtf": (Kind.RTF, "application/rtf"),
    **_MARKED_UP,
    **{extension: (Kind.CODE, mime_type) for extension, mime_type in _CODE_MIME.items()},
    **{extension: (Kind.TEXT, mime_type) for extension, mime_type in _TEXT_MIME.items()},
}
"""Reader and MIME type by extension."""


def mime_types(kind: Kind) -> tuple[str, ...]:
    """Return the MIME types of the files that a reader takes."""
    return tuple(dict.fromkeys([mime_type for reader, mime_type in _READERS.values() if reader is kind]))


_TEXTUAL = frozenset((*_MARKED_UP, *_CODE_MIME, *_TEXT_MIME))
"""Extensions whose files are text; any other promises bytes that its reader alone understands."""

_MAILS = frozenset(("eml", "emlx", "mbox", "mht", "mhtml"))
"""Text that may carry anything: an HTML part at its start, attachments as bytes."""

_AS_IT_IS = frozenset(
    extension
    for extension, (kind, mime_type) in _READERS.items()
    if kind in (Kind.CODE, Kind.MARKDOWN, Kind.CSV) or (kind is Kind.TEXT and mime_type != "text/plain")
)
"""Extensions of texts that are no markup even where they open with a tag: PHP, a README with a logo."""

_NO_READER = "no reader yet"
_UNSUPPORTED_EXTENSION = {
    "doc": ("application/msword", f"old Word document: {_NO_READER}; save it as .docx"),
    "key": ("application/vnd.apple.keynote", f"presentation: {_NO_READER}; export it as .pptx"),
    "numbers": ("application/vnd.apple.numbers", f"spreadsheet: {_NO_READER}; export it as .xlsx"),
    "pages": ("application/vnd.apple.pages", f"Pages document: {_NO_READER}; export it as .docx"),
    "ppt": ("application/vnd.ms-powerpoint", f"old PowerPoint presentation: {_NO_READER}; save it as .pptx"),
    "svg": ("image/svg+xml", f"drawing: {_NO_READER}"),
}

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
    head = head[:HEAD_BYTES]
    for rule in _RULES:
        detection = rule(head, extension)
        if detection is not None:
            return detection
    promised = None if extension in _TEXTUAL - _MAILS else _by_name(extension)
    return promised or Detection(None, "application/octet-stream", "binary data")


def wide_encoding(data: bytes) -> str | None:
    """The UTF-16 or UTF-32 codec that `data` is written in, by byte order mark or by where its NULs lie.

    Without a mark, ASCII in UTF-16 has NULs in every second byte and in UTF-32 in three of four; the
    positions say which end comes first. Half of the units must agree, so that a stray NUL is no evidence.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    sample = data[:_SAMPLE_BYTES]
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


def _as(extension: str) -> Detection:
    """What a file with this extension is, where a reader exists for it."""
    return Detection(*_READERS[extension])


def _by_name(extension: str) -> Detection | None:
    """What the extension alone promises, or None when it promises nothing."""
    if extension in _READERS:
        return _as(extension)
    if extension in _UNSUPPORTED_EXTENSION:
        mime_type, reason = _UNSUPPORTED_EXTENSION[extension]
        return Detection(None, mime_type, reason)
    return None


def _empty(head: bytes, extension: str) -> Detection | None:
    if head.strip(b" \t\r\n\f\v\0"):
        return None
    return _by_name(extension) or _as("txt")


def _pdf(head: bytes, extension: str) -> Detection | None:
    at = head.find(b"%PDF-", 0, 1024)
    if at < 0:
        return None
    # Readers accept junk before the header; a text that quotes "%PDF-" must not become a PDF for it.
    junk = head[:at].strip(b"\xef\xbb\xbf \t\r\n\0")
    if not junk or extension == "pdf" or not _is_text(head, extension):
        return _as("pdf")
    return None


def _zip(head: bytes, extension: str) -> Detection | None:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return None
    if found := re.match(rb".{26}\x08\0..mimetype([\w.+/-]+?)(?:PK|$|\0)", head, re.DOTALL):
        return _packaged(found[1].decode("ascii"))
    promised = _by_name(extension) if extension not in _TEXTUAL else None
    # A presentation may hold a workbook: what comes first is what it is. The name may only tell a variant of it.
    usual = next((found for name in _part_names(head) if (found := _office_part(name))), None)
    if usual:
        same = promised is not None and promised.kind is _READERS[usual][0]
        return promised if same else _as(usual)
    # A package whose first part is a large picture shows no folder yet: its reader will confirm.
    if promised and (extension in _PACKAGED or promised.kind is None):
        return promised
    return Detection(None, "application/zip", "archive")


def _part_names(head: bytes) -> Iterator[bytes]:
    """Names of the parts of an archive, as far as its head shows them; none of an archive that lies in it."""
    at = 4 if head.startswith(b"PK\x07\x08") else 0
    while head.startswith(_PART, at) and at + _PART_HEADER.size <= len(head):
        flags, size, name_bytes, extra_bytes = _PART_HEADER.unpack_from(head, at)
        name_at = at + _PART_HEADER.size
        yield head[name_at : name_at + name_bytes]
        at = name_at + name_bytes + extra_bytes
        at = _next_part(head, at) if flags & _SIZE_FOLLOWS and not size else at + size


_PART = b"PK\x03\x04"
_PART_HEADER = struct.Struct("<6xH10xI4xHH")
"""Flags, packed size, sizes of the name and of the extra field. Source: APPNOTE.TXT 4.3.7."""
_SIZE_FOLLOWS = 0x08


def _next_part(head: bytes, start: int) -> int:
    """Where the next part begins after contents from `start` on, whose size stands behind them (APPNOTE.TXT 4.3.9)."""
    at = head.find(_PART, start + 12)
    while at >= 0 and at - start - int.from_bytes(head[at - 8 : at - 4], "little") not in (12, 16):
        at = head.find(_PART, at + 1)
    return at if at >= 0 else len(head)


def _office_part(name: bytes) -> str | None:
    return next((usual for start, usual in _OOXML_PARTS.items() if name.startswith(start)), None)


_OOXML_PARTS = {
    b"word/document": "docx",
    b"word/_rels/": "docx",
    b"xl/workbook.bin": "xlsb",
    b"xl/workbook": "xlsx",
    b"xl/_rels/": "xlsx",
    b"ppt/presentation": "pptx",
    b"ppt/_rels/": "pptx",
}


def _packaged(mime_type: str) -> Detection:
    """An OpenDocument or EPUB package, which states its type in a first, uncompressed entry."""
    for kind, known in _PACKAGED.values():
        if known == mime_type:
            return Detection(kind, mime_type)
    return Detection(None, mime_type, f"{mime_type}: {_NO_READER}")


def _ole(head: bytes, extension: str) -> Detection | None:
    if not head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return None
    # An encrypted DOCX is an OLE file: its reader tells the user so.
    promised = _by_name(extension) if extension not in _TEXTUAL else None
    if promised is not None and extension != "pdf":
        return promised
    for stream, usual in _OLE_STREAMS.items():
        if stream.encode("utf-16-le") in head:
            return _by_name(usual)
    return Detection(None, "application/x-ole-storage", f"old Office file: {_NO_READER}")


_OLE_STREAMS = {"__substg1.0_": "msg", "Workbook": "xls", "WordDocument": "doc", "PowerPoint Document": "ppt"}
"""What a compound file's directory shows, where that lies near its start."""


def _text(head: bytes, extension: str) -> Detection | None:
    if not _is_text(head, extension):
        return None
    start = _readable(head)
    return _by_first_words(start, extension) or _text_kind(start, extension)


def _by_first_words(start: str, extension: str) -> Detection | None:
    if start.startswith("{\\rtf"):
        return _as("rtf")
    if start.startswith("%!PS"):
        return Detection(None, "application/postscript", f"PostScript: {_NO_READER}")
    if extension == "svg" or (_root_element(start) == "svg" and _by_its_root(extension)):
        return Detection(None, *_UNSUPPORTED_EXTENSION["svg"])
    if extension in _TEXTUAL:
        return None
    if start.startswith("From ") and re.search(r"^(?:Received|Message-ID):", start, re.M | re.I):
        return _as("mbox")
    script = shebang_extension(start)
    if script:
        return _as(script)
    return _as("eml") if _MAIL.match(start) else None


def shebang_extension(text: str) -> str | None:
    """The usual extension of a script, told from the interpreter that its first line names or PHP's tag, or None."""
    if text.startswith("<?php"):
        return "php"
    found = _SHEBANG.match(text[:200])
    return _INTERPRETERS.get(found[1].lower()) if found else None


_SHEBANG = re.compile(r"#![ \t]*(?:[^\s]*/)?(?:env[ \t]+(?:-[^\s]*[ \t]+|\w+=[^\s]*[ \t]+)*)?([A-Za-z-]+)")
_INTERPRETERS = {
    **dict.fromkeys(("sh", "bash", "dash", "ksh"), "sh"),
    "zsh": "zsh",
    **dict.fromkeys(("node", "nodejs"), "js"),
    **dict.fromkeys(("bun", "deno", "ts-node", "tsx"), "ts"),
    "lua": "lua",
    "perl": "pl",
    "php": "php",
    **dict.fromkeys(("python", "pypy"), "py"),
    "rscript": "r",
    "ruby": "rb",
    "scala": "scala",
    "swift": "swift",
}
"""By the interpreter's name without its version."""


_MAIL = re.compile(
    r"(?=(?:[\w-]+:.*\n(?:[ \t].*\n)*)*?(?:Message-ID|MIME-Version|Received):)"
    r"(?:[\w-]+:.*\n(?:[ \t].*\n)*){3}",
    re.IGNORECASE,
)
"""Three header fields in a row at the very start, one of which only a mail has."""


def _text_kind(start: str, extension: str) -> Detection:
    if extension in _MAILS:
        return _as(extension)
    root = _root_element(start)
    if root == "html" and extension not in _AS_IT_IS:
        return _as("html")
    if extension in ("xls", "xlt"):  # many programs export tables as text under this name, Excel 2003 as XML
        return _as("xml" if start.startswith("<?xml") else "csv")
    if extension in _READERS:
        return _as(extension)
    return _as("xml") if root and start.startswith("<?xml") else _as("txt")


def _by_its_root(extension: str) -> bool:
    """Whether a text of this name is a drawing where it opens with one."""
    return extension not in _AS_IT_IS and _READERS.get(extension, (None,))[0] is not Kind.HTML


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


_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n\v\f\r\b\x0e\x0f\x1b") + b"\x7f"
"""Those that no text has; with the last three left out, ISO 2022 changes its character set."""


def _is_text(head: bytes, extension: str) -> bool:
    """Whether the bytes are plausibly text: hardly any control characters.

    The most seen in real text files (a list of naughty strings) is 0.3 %, random bytes have 9 %. A file
    that calls itself text may hold more, and holes of NULs as a log has that was cut while it was written to,
    unless it is of a binary format.
    """
    if wide_encoding(head):
        return True
    if extension not in _TEXTUAL:
        return b"\0" not in head and _controls(head) <= len(head) * 0.01
    if _is_video(head) or (b"\0" in head and _guess(head) is not None):
        return False
    if extension in _MAILS:
        return _controls(head.replace(b"\0", b"")) <= len(head) * 0.2
    return _controls(_NULS.sub(b"\0", head)) <= 1 + len(head) * 0.05


_NULS = re.compile(rb"\0+")


def _controls(data: bytes) -> int:
    return len(data) - len(data.translate(None, _CONTROLS))


def _is_video(head: bytes) -> bool:
    """Whether these are packets of an MPEG transport stream, on disc with a time before each: `.ts` or `.mts`."""
    streams = (head[::188], head[4::192])
    return not head.isascii() and any(len(each) > 3 and not each.strip(b"G") for each in streams)


def _guess(head: bytes) -> str | None:
    """MIME type by magic number, or None. Only files that are no text need filetype's tables."""
    from filetype import guess_mime  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    return cast("str | None", guess_mime(head))


def _binary(head: bytes, extension: str) -> Detection | None:
    mime_type = "video/mp2t" if _is_video(head) else _guess(head)
    if mime_type is None:
        return None
    reason = _BINARY_REASON.get(mime_type) or mime_type.partition("/")[0]
    if reason == "application":
        reason = f"{mime_type}: {_NO_READER}"
    return Detection(None, mime_type, reason)


_Rule = Callable[[bytes, str], Detection | None]
_RULES: tuple[_Rule, ...] = (_empty, _zip, _ole, _pdf, _text, _binary)
"""Containers before what they hold: a PDF may begin near the start of an archive or of a message it is attached to."""

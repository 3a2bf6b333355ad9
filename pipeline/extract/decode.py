"""Bytes to text: which encoding a file is in, and the cleaning every text gets.

Order: byte order mark or NUL pattern, strict UTF-8, nearly UTF-8, what the file declares, what
uchardet detects, cp1252. A codec is always replaced by the superset browsers use under the same name
(WHATWG Encoding Standard), as "gb2312" pages hold GBK and "iso-8859-1" ones hold cp1252.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.detect import wide_encoding

DETECTION_BYTES = 100
"""Shorter texts are not sent to the detector: on 10 bytes of Latin-1 every detector was wrong."""

TITLE_CHARS = 300
"""Longer titles and names of authors are cut off: some files hold whole chapters there."""

_SAMPLE_BYTES = 1 << 20
_MIN_CONFIDENCE = 0.5

_SUPERSETS: dict[str, tuple[str, ...]] = {
    "ascii": ("cp1252",),
    "big5": ("big5", "cp950", "big5hkscs"),
    "euc_jp": ("euc_jp", "euc_jis_2004"),
    "euc_kr": ("cp949",),
    "gb2312": ("gb18030",),
    "gbk": ("gb18030",),
    "iso2022_jp": ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004"),
    "iso8859-1": ("cp1252",),
    "iso8859-9": ("cp1254",),
    "iso8859-11": ("cp874",),
    "shift_jis": ("cp932",),
    "tis-620": ("cp874",),
    "utf-16": ("utf-8",),
    "utf-16-be": ("utf-8",),
    "utf-16-le": ("utf-8",),
}
"""By the codec's name in Python. A declaration that can be read as ASCII was not written in UTF-16."""

_WINDOWS_SIBLINGS = {
    "iso8859-2": "cp1250",
    "iso8859-4": "cp1257",
    "iso8859-6": "cp1256",
    "iso8859-7": "cp1253",
    "iso8859-8": "cp1255",
    "iso8859-13": "cp1257",
    "iso8859-16": "cp1250",
}
"""Bytes 0x80-0x9F are control codes in ISO 8859 and letters or quotes in Windows' code pages."""

_RARE = frozenset({"viscii", "iso8859-3", "iso8859-10", "iso8859-16"})
"""The detector names these more often by mistake than rightly."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and the Python codec that gave it."""

    text: str
    encoding: str


def decode(data: bytes, *, declared: str | None = None) -> Decoded:
    """Decode a whole file; never fails, and undecodable bytes become U+FFFD.

    declared: the encoding that the file itself names (`<meta charset>`, XML declaration), if any. It is
        believed only where it decodes every byte and strict UTF-8 does not.
    The text is cleaned as by `clean`.
    """
    text, encoding = _decode(data, declared)
    return Decoded(clean(text), encoding)


def clean(text: str) -> str:
    """LF line ends, no NUL, no byte order mark at the start, no lone surrogate (each becomes U+FFFD)."""
    text = text.removeprefix("\ufeff").replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    if _SURROGATE.search(text):
        text = _SURROGATE.sub("\ufffd", text)
    return text


_SURROGATE = re.compile("[\ud800-\udfff]")


def declared_encoding(data: bytes) -> str | None:
    """The encoding that an XML declaration or an HTML meta element in the first 2 KiB names, or None."""
    head = data[:2048]
    found = _XML_DECLARATION.match(head) or _META.search(head)
    return found[1].decode("ascii") if found else None


_XML_DECLARATION = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)", re.ASCII)
_META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE | re.ASCII)


def _decode(data: bytes, declared: str | None) -> tuple[str, str]:
    wide = wide_encoding(data)
    if wide:
        return data.decode(wide, errors="replace"), wide
    utf8 = _utf8(data)
    if utf8 is not None:
        return utf8, "utf-8"
    candidates = list(_candidates(data, declared))
    for codec in candidates:
        try:
            return data.decode(codec), codec
        except UnicodeDecodeError:
            continue
    return _with_replacements(data, candidates)


def _utf8(data: bytes) -> str | None:
    """The text if it is UTF-8, or is but for a few broken places; None if it is something else.

    By chance alone, bytes of another encoding rarely form even half as many valid sequences as broken ones.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _nearly_utf8(data)
    return None if b"\x1b$" in data and text.isascii() else text  # ISO 2022 is ASCII with escapes


def _nearly_utf8(data: bytes) -> str | None:
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd") - data.count("\ufffd".encode())
    ascii_bytes = sum(len(data[at : at + _PIECE].translate(None, _HIGH)) for at in range(0, len(data), _PIECE))
    return text if len(text) - ascii_bytes - broken >= 10 * broken else None


_PIECE = 1 << 20
_HIGH = bytes(range(0x80, 0x100))


def _candidates(data: bytes, declared: str | None) -> Iterator[str]:
    if declared is not None:
        yield from _supersets(declared, data)
    detected = _detected(data)
    if detected is not None:
        yield from _supersets(detected, data)


def _detected(data: bytes) -> str | None:
    """The detector's answer where it can be trusted."""
    from cchardet import detect  # most files are UTF-8 and never need it

    if len(data) < DETECTION_BYTES and b"\x1b$" not in data:
        return None
    found = detect(data[:_SAMPLE_BYTES])
    if found["encoding"] is None or (found["confidence"] or 0.0) < _MIN_CONFIDENCE:
        return None
    rare = found["encoding"].lower().replace("iso-", "iso") in _RARE and not _high_control(data)
    return None if rare else found["encoding"]


def _supersets(label: str, data: bytes) -> tuple[str, ...]:
    """Codecs to try for a label, best first; none for an unknown label."""
    name = _codec_name(label)
    if name is None:
        return ()
    if name in _WINDOWS_SIBLINGS and _high_control(data):
        return (_WINDOWS_SIBLINGS[name],)
    return _SUPERSETS.get(name, (name,))


def _codec_name(label: str) -> str | None:
    """Name of the codec for a character set, or None: Python has codecs that are something else, as "hex"."""
    label = _LABELS.get(label.lower(), label)
    try:
        name = codecs.lookup(label).name
        bytes(4).decode(label)
    except (LookupError, ValueError):
        return None
    return None if name in _NO_CHARACTER_SETS else name


_NO_CHARACTER_SETS = ("unicode-escape", "raw-unicode-escape", "idna", "punycode", "utf-7", "mbcs", "oem")

_LABELS = {
    "iso-8859-8-i": "iso-8859-8",
    "ks_c_5601-1987": "cp949",
    "unicode": "utf-8",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "x-euc-jp": "euc-jp",
    "x-gbk": "gbk",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-sjis": "shift_jis",
}
"""Labels met on the web that Python's codec registry does not know."""


def _high_control(data: bytes) -> bool:
    return _C1.search(data) is not None


_C1 = re.compile(rb"[\x80-\x9f]")


def _with_replacements(data: bytes, candidates: list[str]) -> tuple[str, str]:
    """The candidate with the fewest broken characters if they are under 1 %, else cp1252."""
    best = "", "cp1252"
    fewest = max(1, len(data) // 100)
    for codec in candidates:
        text = data.decode(codec, errors="replace")
        if text.count("\ufffd") < fewest:
            best, fewest = (text, codec), text.count("\ufffd")
    return best if best[0] else (data.decode("cp1252", errors="replace"), "cp1252")

"""Plain text and Markdown: decoded and otherwise left as it is."""

from __future__ import annotations

import re

from pipeline.document import Document, Syntax
from pipeline.extract.decode import TITLE_CHARS, declared_encoding, decode
from pipeline.extract.source import Source


def read_text(source: Source) -> Document:
    """Read a text of any kind: prose, reST, subtitles, logs. An XML declaration is honoured."""
    declared = declared_encoding(source.data) if source.data.lstrip()[:5] == b"<?xml" else None
    return _document(source, "plain", declared)


def read_markdown(source: Source) -> Document:
    """Read Markdown; its first heading is the title."""
    document = _document(source, "markdown", None)
    title = _title(document.text)
    if title:
        document.metadata["title"] = title
    return document


def _document(source: Source, syntax: Syntax, declared: str | None) -> Document:
    decoded = decode(source.data, declared=declared)
    return Document(decoded.text, syntax, source.parser, metadata={"encoding": decoded.encoding})


_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(?P<hashed>.+)$|^ {0,3}(?P<lined>\S.*)\n {0,3}(?:=+|-{2,})[ \t]*$",
    re.MULTILINE,
)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^(?:---|\.\.\.)[ \t]*$", re.MULTILINE | re.DOTALL)
_HEAD_CHARS = 65_536


def _title(text: str) -> str:
    """The first heading outside front matter and code fences, or nothing."""
    text = _FRONT_MATTER.sub("", text[:_HEAD_CHARS])
    found = _HEADING.search(_FENCE.sub("", text))
    title = (found["hashed"] or "").rstrip("# \t") or found["lined"] or "" if found else ""
    return title.strip()[:TITLE_CHARS]

"""Source code: decoded and otherwise left as it is; its language told from the name, or from a shebang line."""

from __future__ import annotations

import re

from pipeline.detect import shebang_extension
from pipeline.document import Document
from pipeline.extract.decode import decode
from pipeline.extract.source import Source

_LANGUAGES = {
    **dict.fromkeys(("sh", "bash"), "bash"),
    "zsh": "zsh",
    **dict.fromkeys(("c", "h"), "c"),
    **dict.fromkeys(("cc", "cpp", "cxx", "hh", "hpp", "hxx"), "c++"),
    "cs": "c#",
    "go": "go",
    "java": "java",
    **dict.fromkeys(("cjs", "js", "jsx", "mjs"), "javascript"),
    "kt": "kotlin",
    "lua": "lua",
    **dict.fromkeys(("php", "phtml"), "php"),
    **dict.fromkeys(("pl", "pm"), "perl"),
    **dict.fromkeys(("py", "pyi", "pyw"), "python"),
    "r": "r",
    "rb": "ruby",
    "rs": "rust",
    "scala": "scala",
    "sql": "sql",
    "swift": "swift",
    **dict.fromkeys(("cts", "mts", "ts"), "typescript"),
    "tsx": "tsx",
}


def read_code(source: Source) -> Document:
    """Read source code; an encoding that one of its first two lines names is honoured, as Python's and Ruby's do."""
    declared = _DECLARED.match(source.data[:1024])
    decoded = decode(source.data, declared=declared[1].decode("ascii") if declared else None)
    language = _language(source.name, decoded.text)
    metadata = {"encoding": decoded.encoding} | ({"language": language} if language else {})
    return Document(decoded.text, "code", source.parser, language=language, metadata=metadata)


_DECLARED = re.compile(rb"(?:[^\n]*\n)?[ \t\f]*(?:#|//|/\*|--)[^\n]*?coding[:=][ \t]*([-\w.]+)", re.ASCII)


def _language(name: str, text: str) -> str:
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    language = _LANGUAGES.get(extension) or _LANGUAGES.get(shebang_extension(text) or "", "")
    return "c++" if extension == "h" and _CPLUSPLUS.search(text) else language


_CPLUSPLUS = re.compile(r"^[ \t]*(?:class|namespace|template|using namespace)\b", re.MULTILINE)

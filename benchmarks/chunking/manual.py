"""Python's library reference, asked with docstrings: which entry documents the function that this describes?

The first paragraph of a docstring in the standard library is the question; the answer is the signature and the
first paragraph of the entry (`.. function::` and the like) of that name in the reference. Both were written by hand,
for different readers. Modules are read, never imported; which of them there are depends on the Python that runs this.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.chunking.texts import Answer, Collection, Question, Text, drawn
from pipeline.document import Document

FOLDER = "./python-3.11-rst/library/"
CHARS = range(15_000, 50_000)
"""How long a page of the reference is to be."""
QUESTIONS = 10
"""How many of its entries must have a docstring, at least: other pages would cost more than they tell."""
WORDS = range(5, 30)
"""How long a question is."""

_DIRECTIVE = re.compile(
    r"^( *)\.\. (module|currentmodule|function|decorator|class|exception|method|classmethod|staticmethod):: *(.+)$",
    re.MULTILINE,
)


class _Entry(NamedTuple):
    module: str
    name: str
    start: int
    end: int


def manual(archive: Path, use: Literal["choice", "check"], *, least: int = QUESTIONS) -> Collection:
    """Return one half of the pages: those to choose by, or those to check the choice on."""
    texts: list[Text] = []
    questions: list[Question] = []
    for name, text in _pages(archive, bool(use == "check")):
        found = list(_questions(name, text))
        if len(found) >= least:
            texts.append(Text(name, Document(text, "plain", "benchmark")))
            questions += found
    return Collection(f"python manual, {use}", use, texts, questions)


def _pages(archive: Path, odd: bool) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(FOLDER)
            if name != member.name and drawn(name)[0] % 2 == odd and member.size in CHARS:
                data = tar.extractfile(member)
                assert data is not None
                yield name, data.read().decode("utf8")


def _questions(page: str, text: str) -> Iterator[Question]:
    seen: set[str] = set()
    for entry in _entries(text):
        words = _docstrings(entry.module).get(entry.name, "")
        if len(words.split()) in WORDS and words not in seen:
            seen.add(words)
            yield Question(f"{page} {entry.name}", words, {page: 1.0}, (Answer(page, entry.start, entry.end),))


def _entries(text: str) -> Iterator[_Entry]:
    module = owner = ""
    for match in _DIRECTIVE.finditer(text):
        kind, name = match[2], match[3].partition("(")[0].strip()
        if kind in ("module", "currentmodule"):
            module = name
            continue
        name = name.removeprefix(f"{module}.")
        if kind in ("class", "exception"):
            owner = name
        elif kind.endswith("method") and "." not in name:
            name = f"{owner}.{name}"
        yield _Entry(module, name, match.start() + len(match[1]), _end_of_entry(text, match.end(), len(match[1])))


def _end_of_entry(text: str, position: int, indent: int) -> int:
    """Return where the first paragraph below an entry's signatures ends, or the signatures, where it has none."""
    body = re.compile(rf"[^\n]*(?:\n {{{indent + 1},}}\S[^\n]*)*\n\s*\n {{{indent + 1},}}(?!\.\. |:)(?=\S)")
    match = body.match(text, position)
    if match is None:
        return text.find("\n", position) if "\n" in text[position:] else len(text)
    end = text.find("\n\n", match.end())
    return end if end >= 0 else len(text)


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Return the first paragraph of every docstring of a module, by the qualified name of what it describes."""
    stem = Path(sysconfig.get_path("stdlib"), *module.split("."))
    path = next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)
    return dict(_described(ast.parse(path.read_text("utf8")), "")) if path else {}


def _described(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(child) or ""
            yield prefix + child.name, " ".join(docstring.partition("\n\n")[0].split())
            if isinstance(child, ast.ClassDef):
                yield from _described(child, f"{prefix}{child.name}.")

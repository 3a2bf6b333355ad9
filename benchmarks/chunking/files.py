"""The real documents and questions of tests/retrieval: only looked at, never chosen by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chunking.texts import Answer, Collection, Question, Text
from pipeline.detect import detect
from pipeline.document import Document
from pipeline.extract import extract
from storage.errors import ExtractError

ASKED = Path(__file__).parents[2] / "tests" / "retrieval" / "questions.jsonl"
DISTRACTORS = 150
DISTRACTOR_BYTES = 30_000


def real_documents(docs: Path, *, distractors: int = DISTRACTORS) -> Collection:
    """Return the documents that answer, small ones of every kind beside them, and the questions with an answer."""
    lines = [json.loads(line) for line in ASKED.read_text("utf8").splitlines() if line]
    asked = [line for line in lines if line["file"]]
    right = {docs / place["file"] for line in asked for place in [line, *line["also"]]}
    small = [path for path in sorted(docs.rglob("*")) if path.is_file() and path.stat().st_size < DISTRACTOR_BYTES]
    readable = [path for path in small if detect(path.read_bytes()[:8192], path.name).kind]
    found = _read({*right, *readable[:: max(1, len(readable) // distractors)]}, docs)
    texts = dict(found.values())
    return Collection(
        "real documents",
        "check",
        [Text(id, document) for id, document in texts.items()],
        [_question(line, found) for line in asked],
    )


def _read(paths: set[Path], docs: Path) -> dict[str, tuple[str, Document]]:
    """Return id and document by name; files of equal bytes are one document."""
    found: dict[str, tuple[str, Document]] = {}
    known: dict[str, tuple[str, Document]] = {}
    for path in sorted(paths):
        data, name = path.read_bytes(), str(path.relative_to(docs))
        digest = hashlib.sha256(data).hexdigest()
        if digest not in known:
            document = _document(data, path.name)
            if document is None:
                continue
            known[digest] = name, document
        found[name] = known[digest]
    return found


def _document(data: bytes, name: str) -> Document | None:
    kind = detect(data, name).kind
    try:
        return extract(data, kind=kind, name=name) if kind else None
    except ExtractError:  # some of the collection are damaged on purpose
        return None


def _question(line: Mapping[str, Any], found: Mapping[str, tuple[str, Document]]) -> Question:
    places = [place for place in [line, *line["also"]] if place["file"] in found]
    answers = tuple(
        Answer(id, start, start + len(line["answer"]))
        for place in places
        for id, document in [found[place["file"]]]
        for start in _occurrences(document, place["page"], line["answer"])
    )
    return Question(line["id"], line["question"], {found[place["file"]][0]: 1.0 for place in places}, answers)


def _occurrences(document: Document, page: int | None, answer: str) -> Iterator[int]:
    """Where an answer stands on the page named; nowhere, where it is no quotation."""
    ranges: Sequence[tuple[int, int]] = [(p.start, p.end) for p in document.pages if p.number == page]
    for start, end in ranges or [(0, len(document.text))]:
        position = document.text.find(answer, start, end)
        while position >= 0:
            yield position
            position = document.text.find(answer, position + 1, end)

"""Forty questions about real documents: the right file and page in the first five; a score that tells when none is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from knowlex import Knowlex
from pipeline.detect import detect

QUESTIONS = [
    json.loads(line) for line in Path(__file__).with_name("questions.jsonl").read_text("utf8").splitlines() if line
]
TOP = 5
WANTED = 27
MOST_DISTRACTORS = 150


@dataclass
class Marks:
    """How the questions were answered: which were missed, and the best score of each."""

    missed: list[str] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    unanswerable: list[float] = field(default_factory=list)


def is_right(question: dict[str, Any], hit: Any, docs: Path) -> bool:
    """Whether a hit is on a page that answers the question; every name of equal bytes counts."""
    places = [question, *question["also"]]
    names = {str(Path(path).relative_to(docs)) for path in (hit.path, *hit.also)}
    return any(
        place["file"] in names and (place["page"] is None or hit.page_start <= place["page"] <= hit.page_end)
        for place in places
    )


def ask_all(kb: Knowlex, docs: Path) -> Marks:
    marks = Marks()
    for question in QUESTIONS:
        hits = kb.search("real", question["question"], k=TOP)
        meaning = max((hit.vector_score or 0.0 for hit in hits), default=0.0)
        if question["file"] is None:
            marks.unanswerable.append(meaning)
            continue
        marks.answered.append(meaning)
        if not any(is_right(question, hit, docs) for hit in hits):
            marks.missed.append(question["id"])
    return marks


def tell(marks: Marks) -> str:
    right = len(marks.answered) - len(marks.missed)
    return (
        f"{right} of {len(marks.answered)} right in the top {TOP}, missed {marks.missed};"
        f" best cosine with an answer: median {median(marks.answered):.2f}, lowest {min(marks.answered):.2f};"
        f" without: median {median(marks.unanswerable):.2f}, highest {max(marks.unanswerable):.2f}"
    )


def assert_good(marks: Marks) -> None:
    print("\n" + tell(marks))
    assert len(marks.answered) - len(marks.missed) >= WANTED, tell(marks)
    assert median(marks.answered) > median(marks.unanswerable)


def distractors(docs: Path) -> list[Path]:
    """Readable small files beside the right ones: every n-th, so that all folders are among them."""
    small = [p for p in sorted(docs.rglob("*")) if p.is_file() and p.stat().st_size < 30_000]
    readable = [p for p in small if detect(p.read_bytes()[:8192], p.name).kind]
    return readable[:: max(1, len(readable) // MOST_DISTRACTORS)]


def test_right_passages_among_some_documents(shared_data: Path, tmp_path: Path) -> None:
    docs = (shared_data / "docs").resolve()
    places = [place for q in QUESTIONS for place in [q, *q["also"]] if place["file"]]
    with Knowlex(tmp_path / "some.db") as kb:
        kb.ingest("real", *{docs / place["file"] for place in places}, *distractors(docs))
        assert_good(ask_all(kb, docs))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_right_passages_among_all_documents(shared_data: Path, tmp_path: Path) -> None:
    docs = (shared_data / "docs").resolve()
    with Knowlex(tmp_path / "all.db") as kb:
        kb.ingest("real", docs)
        assert_good(ask_all(kb, docs))

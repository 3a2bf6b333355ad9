"""Collections in BEIR's layout: as they are, or with their passages joined to long texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.chunking.texts import Answer, Collection, Question, Text, drawn, titled
from pipeline import collection

Judged = Mapping[str, Mapping[str, float]]
QUESTIONS = 400
"""Questions taken of a collection; of more, a sample."""


def documents(folder: Path) -> list[tuple[str, str, str]]:
    """Return (id, title, text) of every document."""
    return [(each.id, each.title, each.text) for each in collection.read(folder).documents]


def judgements(folder: Path) -> Judged:
    """Return what was judged, by question and document."""
    return {query.id: query.grades for query in collection.read(folder).queries}


def asked(folder: Path) -> list[dict[str, Any]]:
    """Return the judged questions, at most QUESTIONS, as they stand in queries.jsonl."""
    judged = judgements(folder)
    lines = (folder / "queries.jsonl").read_text("utf8").splitlines()
    found = [query for query in map(json.loads, lines) if query["_id"] in judged]  # some tell the answers, too
    return sorted(found, key=lambda query: drawn(query["_id"]))[:QUESTIONS]


def abstracts(folder: Path, use: Literal["choice", "check"], *, most: int = 5_000) -> Collection:
    """Every document is a text; beyond `most`, those judged for the questions and a sample of the others."""
    judged, queries = judgements(folder), asked(folder)
    wanted = {document for query in queries for document in judged[query["_id"]]}
    found = sorted(documents(folder), key=lambda each: (each[0] not in wanted, drawn(each[0])))[
        : max(most, len(wanted))
    ]
    texts = [Text(id, titled(title, text)[0]) for id, title, text in found]
    questions = [Question(query["_id"], query["text"], dict(judged[query["_id"]])) for query in queries]
    return Collection(folder.name, use, texts, questions)


@dataclass(slots=True)
class _Joined:
    """Passages that are put together: the text so far, and where each passage stands in it."""

    title: str
    scope: str
    text: str = ""
    places: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def add(self, id: str, passage: str) -> None:
        start = len(self.text) + 2 if self.text else 0
        self.text = f"{self.text}\n\n{passage}" if self.text else passage
        self.places[id] = (start, len(self.text))


def articles(folder: Path, use: Literal["choice", "check"]) -> Collection:
    """The paragraphs of each article are one text; an answer is its first occurrence in the judged paragraph."""
    joined: dict[str, _Joined] = {}
    for id, title, text in documents(folder):
        joined.setdefault(title, _Joined(title.replace("_", " "), "")).add(id, text)
    return _collection(f"{folder.name} articles", use, joined, asked(folder), judgements(folder))


def sessions(folder: Path, use: Literal["choice", "check"]) -> Collection:
    """The turns of each session of a conversation are one text; a question is asked of its conversation alone."""
    joined: dict[str, _Joined] = {}
    for id, title, text in documents(folder):
        session = id.partition(":")[0]
        joined.setdefault(session, _Joined(title, id.partition("/")[0])).add(id, text)
    return _collection(f"{folder.name} sessions", use, joined, asked(folder), judgements(folder))


def _collection(
    name: str,
    use: Literal["choice", "check"],
    joined: Mapping[str, _Joined],
    queries: Sequence[dict[str, Any]],
    judged: Judged,
) -> Collection:
    texts: list[Text] = []
    places: dict[str, Answer] = {}
    for id, whole in joined.items():
        document, shift = titled(whole.title, whole.text)
        texts.append(Text(id, document, whole.scope))
        places |= {key: Answer(id, start + shift, end + shift) for key, (start, end) in whole.places.items()}
    by_id = {text.id: text.document.text for text in texts}
    questions = [_question(query, _places(judged[query["_id"]], places), by_id) for query in queries]
    return Collection(name, use, texts, [question for question in questions if question.answers])


def _places(judged: Mapping[str, float], places: Mapping[str, Answer]) -> list[Answer]:
    return [places[id] for id, grade in judged.items() if grade > 0 and id in places]


def _question(query: Mapping[str, Any], judged: Sequence[Answer], texts: Mapping[str, str]) -> Question:
    answers = tuple(_narrowed(place, texts[place.text], query.get("answers", ())) for place in judged)
    grades = {answer.text: 1.0 for answer in answers}
    return Question(query["_id"], query["text"], grades, answers, query.get("scope", ""))


def _narrowed(place: Answer, text: str, answers: Iterable[str]) -> Answer:
    """Return where the answer's own words stand in a judged passage; all of it, where they are not given."""
    for answer in answers:
        start = text.find(answer, place.start, place.end)
        if start >= 0:
            return Answer(place.text, start, start + len(answer))
    return place

"""Collections that retrieval is judged on, in the layout of BEIR: documents, questions, and who found what relevant.

    FOLDER/corpus.jsonl[.gz]   {"_id", "title", "text"} a line
    FOLDER/queries.jsonl       {"_id", "text"} a line; with "scope", only documents whose _id starts with scope + "/"
    FOLDER/qrels.tsv           query, document and grade a line, behind a head or none; also FOLDER/qrels/test.tsv

Source: Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models", 2021.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from storage.errors import NotFoundError, UsageError

T = TypeVar("T")

Grades = Mapping[str, float]
"""What was judged for one question: grade by document, 0 and below for those that are not relevant."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document; title may be empty, and so may text."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question, what is relevant to it, and the part of the collection it is asked of ("": all of it)."""

    id: str
    text: str
    grades: Grades
    scope: str = ""

    def may_find(self, document: str) -> bool:
        """Tell whether a document is in the part that the question is asked of."""
        return not self.scope or document.startswith(f"{self.scope}/")


@dataclass(frozen=True, slots=True)
class Collection:
    """All documents, and the questions to which at least one document is relevant, both in the order of their files.

    unknown_questions: documents judged relevant to questions that are not there. unknown_documents: judged relevant,
    but not in the corpus, or not in the scope of the question.
    """

    name: str
    documents: list[Document]
    queries: list[Query]
    unknown_questions: int = 0
    unknown_documents: int = 0


def read(folder: Path) -> Collection:
    """Read a collection.

    Raises NotFoundError where a file is missing, UsageError naming file and line where one cannot be understood, or
    where no question has a relevant document.
    """
    corpus = _first(folder, "corpus.jsonl.gz", "corpus.jsonl")
    documents = _by_id(_json_lines(corpus, _document), corpus)
    asked = _first(folder, "queries.jsonl")
    judged = _first(folder, "qrels.tsv", "qrels/test.tsv")
    grades = _judged(judged)
    queries = _by_id(_json_lines(asked, lambda line: _query(line, grades)), asked)
    relevant = [query for query in queries.values() if _relevant(query.grades)]
    if not relevant:
        raise UsageError(f"{judged}: no question of {asked.name} has a relevant document; judge at least one above 0")
    unknown = sum(len(_relevant(of)) for id, of in grades.items() if id not in queries)
    lost = sum(id not in documents or not query.may_find(id) for query in relevant for id in _relevant(query.grades))
    return Collection(folder.resolve().name, list(documents.values()), relevant, unknown, lost)


def _relevant(grades: Grades) -> list[str]:
    return [document for document, grade in grades.items() if grade > 0]


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise NotFoundError(f"{folder}: holds no {' or '.join(names)}; give a folder in the layout of BEIR")


def _json_lines(path: Path, make: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """Give what is made of each line that holds a JSON object."""
    for number, line in _lines(path):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
            yield make(cast("Mapping[str, Any]", value))
        except (ValueError, KeyError, RecursionError) as error:
            raise UsageError(f"{path}:{number}: {_fault(error)}; write one object with _id and text a line") from error


def _fault(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"no JSON ({error.msg}, character {error.pos + 1})"
        case RecursionError():
            return "nested too deep"
        case KeyError():
            return f"lacks {error}"
        case _:
            return str(error)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give number and text of each line that is not blank."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig") as lines:
            yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); it must be UTF-8, in gzip where it ends in .gz") from error


def _document(line: Mapping[str, Any]) -> Document:
    return Document(_id(line), _text(line, "title", ""), _text(line, "text"))


def _query(line: Mapping[str, Any], grades: Mapping[str, Grades]) -> Query:
    id, text = _id(line), _text(line, "text")
    if not text.strip():
        raise ValueError("text is blank")
    return Query(id, text, grades.get(id, {}), _text(line, "scope", ""))


def _id(line: Mapping[str, Any]) -> str:
    return str(line["_id"])


def _text(line: Mapping[str, Any], key: str, otherwise: str | None = None) -> str:
    value = line[key] if otherwise is None else line.get(key)
    if value is None and otherwise is not None:
        return otherwise
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return value


def _by_id(things: Iterator[T], path: Path) -> dict[str, T]:
    """Return things with an id by that; raise UsageError where one comes twice."""
    found: dict[str, T] = {}
    for thing in things:
        id: str = getattr(thing, "id")  # noqa: B009 (documents and questions share no class)
        if id in found:
            raise UsageError(f"{path}: _id {id} comes twice; give each its own")
        found[id] = thing
    return found


def _judged(path: Path) -> dict[str, Grades]:
    """Read grades by question and document."""
    judged: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        if number == 1 and (len(fields) != 3 or _number(fields[2]) is None):
            continue  # a head
        try:
            if len(fields) != 3:
                raise ValueError(f"fields: {len(fields)}, not 3")
            judged.setdefault(fields[0], {})[fields[1]] = _grade(fields[2])
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}; write query, document and grade, with tabs between") from error
    return dict(judged)


def _grade(text: str) -> float:
    grade = _number(text)
    if grade is None or not math.isfinite(grade):
        raise ValueError(f"grade {text.strip()!r} is no {'' if grade is None else 'finite '}number")
    return grade


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

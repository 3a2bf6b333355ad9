"""What a collection is: texts, questions about them, and where the answers stand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.document import Document


@dataclass(frozen=True, slots=True)
class Text:
    """A document by its id. scope: where it is looked for alone; "" for a collection of one scope."""

    id: str
    document: Document
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where an answer stands: the half-open range of characters in the text with this id."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Question:
    """grades: of the texts that answer, by id, higher is better; answers: the places in them, where they are known."""

    id: str
    words: str
    grades: Mapping[str, float]
    answers: tuple[Answer, ...] = ()
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """use: "choice" where the default is chosen by it, "check" where the choice is only looked at afterwards."""

    name: str
    use: Literal["choice", "check"]
    texts: Sequence[Text]
    questions: Sequence[Question]

    @property
    def has_answers(self) -> bool:
        """Whether the places of the answers are known, so that passages can be judged and not only documents."""
        return any(question.answers for question in self.questions)


def drawn(key: str) -> bytes:
    """Return what to sort by for a sample that is the same at every run, whatever else there is."""
    return hashlib.sha256(key.encode()).digest()


def titled(title: str, text: str) -> tuple[Document, int]:
    """Return a text under its title as Markdown, and where the text itself begins in it."""
    opens = " ".join(text.split()[:4]) == " ".join(title.split()[:4])
    above = f"# {title}\n\n" if title and not opens else ""
    return Document(above + text, "markdown", "benchmark"), len(above)

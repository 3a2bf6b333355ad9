"""What a hybrid search is held against: Lucene's BM25 by bm25s, exact cosines of whole documents, and plain fusions.

Words are lower-cased and stemmed as English, without stop words; of scripts without spaces each pair of characters is a
word, and k1 is 1.5 instead of 1.2. The vectors are of title and text, as far as the model reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import bm25s
import numpy as np
import numpy.typing as npt
from snowballstemmer.english_stemmer import EnglishStemmer

from benchmarks.quality.fusions import convex, rrf
from pipeline.collection import Collection, Document, Query
from pipeline.embed import Embedder

CANDIDATES = 100
"""Documents of each leg that are fused."""

_RUN = re.compile(
    r"(?P<unspaced>[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)|(?P<word>[^\W_]+(?:[\u0900-\u097f]*[^\W_]*)*)"
)
_stemmer = EnglishStemmer()  # in Python: another implementation than that of the text leg

Floats = npt.NDArray[np.float32]
Ranking = list[tuple[str, float]]


def words(text: str) -> list[str]:
    """Return what is compared of a text."""
    found: list[str] = []
    for match in _RUN.finditer(text.lower()):
        run = match[0]
        if match.lastgroup == "unspaced":
            found += [run[place : place + 2] for place in range(max(1, len(run) - 1))]
        elif run not in bm25s.stopwords.STOPWORDS_EN:
            found.append(_stemmer.stemWord(run))
    return found


def whole(document: Document) -> str:
    """Return what is indexed of a document: its title and its text."""
    return f"{document.title} {document.text}".strip()


@dataclass(slots=True)
class _Part:
    """The documents of one scope."""

    ids: list[str]
    bm25: bm25s.BM25
    vectors: Floats


@dataclass(slots=True)
class Reference:
    """Ranks the documents of a collection."""

    collection: Collection
    embedder: Embedder
    _parts: dict[str, _Part] = field(default_factory=dict[str, _Part])

    def rank(self, query: Query) -> Mapping[str, list[str]]:
        """Return documents, best first, by system."""
        part = self._part(query)
        near = _best(part.ids, part.vectors @ self.embedder.embed_query(query.text))
        asked = [word for word in words(query.text) if word in part.bm25.vocab_dict]
        text = [item for item in _best(part.ids, part.bm25.get_scores(asked)) if item[1] > 0] if asked else []
        found = {
            "bm25s": text,
            "exact": near,
            "rrf": rrf([[id for id, _ in leg] for leg in (text, near)]),
            "convex": convex([text, near], [0.5, 0.5]),
        }
        return {name: [id for id, _ in ranking] for name, ranking in found.items()}

    def _part(self, query: Query) -> _Part:
        if query.scope not in self._parts:
            inside = [document for document in self.collection.documents if query.may_find(document.id)]
            self._parts[query.scope] = self._made(inside)
        return self._parts[query.scope]

    def _made(self, documents: Sequence[Document]) -> _Part:
        texts = [whole(document) for document in documents]
        split = [words(text) for text in texts]
        unspaced = np.mean([len(word) == 2 and not word.isascii() for text in split for word in text]) > 0.5
        bm25 = bm25s.BM25(method="lucene", k1=1.5 if unspaced else 1.2, b=0.75)
        bm25.index(split, show_progress=False)
        return _Part([document.id for document in documents], bm25, self.embedder.embed_documents(texts))


def _best(ids: Sequence[str], scores: Floats) -> Ranking:
    places: list[int] = np.argsort(-scores, kind="stable")[:CANDIDATES].tolist()
    return [(ids[place], float(scores[place])) for place in places]


def ranked(collection: Collection, embedder: Embedder) -> Iterator[Mapping[str, list[str]]]:
    """Yield what each system ranks, question by question."""
    reference = Reference(collection, embedder)
    for query in collection.queries:
        yield reference.rank(query)

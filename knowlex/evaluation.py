"""`eval`: how well are the documents of a judged collection found? In a database of its own, gone at the end.

    write     each document as one file; the documents of each scope are a project, which holds no others
    ingest    as any other folder, under the settings in force
    ask       every judged question
    judge     the documents, each by its best passage

With scopes, words are weighed by how rare they are within the scope, as in any project.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowlex import notebook, terminal
from knowlex.config import Settings
from knowlex.notebook import escaped
from knowlex.progress import Counted, counting
from knowlex.terminal import one_line, quantity
from pipeline import collection, evaluate, trec
from pipeline.collection import Collection, Document, Query
from pipeline.evaluate import MEASURES
from storage.errors import UsageError
from storage.output import Kind, replacing, require_free, same

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

    from knowlex.facade import Knowlex
    from knowlex.hits import Hits
    from pipeline.answer import Hit

RANKED = 100
"""How many documents are ranked for each question, at least and by default: those that recall@100 looks at."""

REPORT = Kind("report", re.compile(rb'\{"query": "(?:[^"\\]|\\.)*", "text": "(?:[^"\\]|\\.)*", "scope": "'))
"""A file with one JSON line for each question."""

TIMED = 200
"""How many questions are also asked as a user would, for 10 passages, to see how long that takes."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one question: each measure, the documents best first, and milliseconds where it was timed.

    degraded: by leg of the search, why it could not do its part, if it could not.
    """

    query: Query
    ranking: Mapping[str, float]
    measures: Mapping[str, float]
    ms: float | None = None
    degraded: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; missed: relevant documents that are not among the first ten."""
        first = list(self.ranking)[:10]
        missed = [id for id, grade in self.query.grades.items() if grade > 0 and id not in first]
        asked = {"query": self.query.id, "text": self.query.text, "scope": self.query.scope}
        measured = {name: round(value, 4) for name, value in self.measures.items()}
        told = asked | measured | {"ms": self.ms, "ranking": first, "missed": missed}
        return told | ({"degraded": dict(self.degraded)} if self.degraded else {})


@dataclass(frozen=True, slots=True)
class Difference:
    """How one measure differs from that of another run. p: how likely by chance, two-sided, on the same questions."""

    other: float
    difference: float
    p: float
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Degraded:
    """How many questions a leg of the search could not do its part for, and why the first time."""

    queries: int
    reason: str


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How well a collection was found.

    reranked: whether a cross-encoder ordered the first passages. documents: that were ingested, in each scope that is
    asked for; unsearchable: those that could not be, such as empty ones. differences: by measure, to the run it was
    compared with; unanswered: questions that this has no line for, of which each measure counts as 0 there.
    unknown_questions, unknown_documents: judgements that point to nothing; see Collection.
    """

    dataset: str
    mode: str
    reranked: bool
    documents: int
    unsearchable: int
    judged: list[Judged]
    seconds: float
    differences: Mapping[str, Difference] | None = None
    unknown_questions: int = 0
    unknown_documents: int = 0
    unanswered: int = 0

    @cached_property
    def means(self) -> dict[str, float]:
        """The mean of each measure over all judged questions, 0 to 1."""
        return {name: float(np.mean([one.measures[name] for one in self.judged])) for name in MEASURES}

    @cached_property
    def degraded(self) -> dict[str, Degraded]:
        """By leg (text, vector, rerank), for how many questions it could not do its part."""
        reasons: dict[str, list[str]] = {}
        for one in self.judged:
            for leg, reason in one.degraded.items():
                reasons.setdefault(leg, []).append(reason)
        return {leg: Degraded(len(told), told[0]) for leg, told in reasons.items()}

    @property
    def query_ms(self) -> dict[str, float]:
        """How long a search for ten passages takes: the median, and what 95 of 100 do not exceed (ms)."""
        median, high = np.percentile([one.ms for one in self.judged if one.ms is not None], [50, 95])
        return {"p50": round(float(median), 2), "p95": round(float(high), 2)}

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single questions as JSON values: the contract of `eval --json`."""
        told: dict[str, Any] = {"dataset": self.dataset, "mode": self.mode, "queries": len(self.judged)}
        told |= {name: round(mean, 4) for name, mean in self.means.items()} | {"query_ms": self.query_ms}
        told |= {"documents": self.documents, "unsearchable": self.unsearchable, "seconds": round(self.seconds, 2)}
        told["rerank"] = self.reranked
        told |= {"unknown_questions": self.unknown_questions, "unknown_documents": self.unknown_documents}
        if self.degraded:
            told["degraded"] = {leg: asdict(degraded) for leg, degraded in self.degraded.items()}
        if self.differences is not None:
            told["compare"] = {name: asdict(difference) for name, difference in self.differences.items()}
            told["unanswered"] = self.unanswered
        return told

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a question. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame([one.as_dict() for one in self.judged])

    def __repr__(self) -> str:
        shown = "\n".join([title(self), *lacking(self), terminal.table(*table(self))])
        return f"Evaluation({shown})"

    def _repr_html_(self) -> str:
        """Show the measures as a table, in a notebook; `to_pandas` has the single questions."""
        lines = (notebook.paragraph(escaped(line)) for line in (title(self), *lacking(self)))
        return "".join(lines) + notebook.table(*table(self))


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What is asked how, and what is kept: see the command line's flags of the same names."""

    mode: str = "hybrid"
    k: int = RANKED
    run: Path | None = None
    compare: Path | None = None
    report: Path | None = None
    progress: Counted | bool | None = None
    rerank: bool | str = False


def evaluation(folder: Path, database: Path, settings: Settings, options: EvalOptions) -> Evaluation:
    """Judge how well the collection in a folder is found under these settings; `database` is the user's, untouched.

    Raises NotFoundError and UsageError for a collection or a run that cannot be read, ConfigurationError,
    DatabaseError.
    """
    started = time.monotonic()
    if options.k < 1:
        raise UsageError(f"k {options.k}: rank at least 1 document")
    judged = collection.read(folder)
    before = None if options.compare is None else _read(options.compare, judged)
    _require_writable(database, options, judged)
    with prepared(judged, settings, options.progress, rerank=options.rerank) as ready:
        found = ready.asked(options)
    differences = None if before is None else _differences(found, before)
    unanswered = 0 if before is None else sum(one.query.id not in before for one in found)
    seconds = round(time.monotonic() - started, 3)
    whole = Evaluation(
        judged.name,
        options.mode,
        bool(options.rerank),
        ready.documents,
        ready.unsearchable,
        found,
        seconds,
        differences,
        judged.unknown_questions,
        judged.unknown_documents,
        unanswered,
    )
    _keep(whole, database, options)
    return whole


@dataclass(frozen=True, slots=True)
class Prepared:
    """A collection that is ingested: how many documents in each scope that is asked for, and those without text."""

    documents: int
    unsearchable: int
    _kb: Knowlex
    _judged: Collection
    _projects: _Projects

    def asked(self, options: EvalOptions) -> list[Judged]:
        """Ask every question and judge the answers."""
        return list(_asked(self._kb, self._judged, self._projects, options))


@contextmanager
def prepared(
    judged: Collection, settings: Settings, progress: Counted | bool | None = None, *, rerank: bool | str = False
) -> Generator[Prepared]:
    """Ingest a collection into a database of its own, which is gone afterwards.

    rerank: the cross-encoder that questions will be asked with, so that one that cannot be had is told before.
    """
    with tempfile.TemporaryDirectory(prefix="knowlex-eval-") as name:
        place = Path(name)
        with _database(place / "eval.db", settings) as kb:
            if rerank:
                kb.engine.reranker(None if rerank is True else rerank)
            projects = _ingested(kb, judged, place, progress)
            unsearchable = len(projects.ids) - kb.stats().files["ready"]
            yield Prepared(len(projects.ids), unsearchable, kb, judged, projects)


def _database(path: Path, settings: Settings) -> Knowlex:
    """Return a new database under the same settings, but for what chooses files and keeps figures."""
    from knowlex.facade import Knowlex

    values: dict[str, Any] = {
        field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "given"
    }
    return Knowlex(path, config=None, **values | {"include": (), "exclude": (), "usage_counts": False})


# --- documents become files


@dataclass(frozen=True, slots=True)
class _Projects:
    """The project that each scope is asked in, and by project and file name the document that is in it."""

    of_scope: Mapping[str, str]
    ids: Mapping[tuple[str, str], str]


def _ingested(kb: Knowlex, judged: Collection, place: Path, progress: Counted | bool | None) -> _Projects:
    """Ingest the documents, a project a scope that is asked for."""
    of_scope = {scope: str(n) for n, scope in enumerate(dict.fromkeys(query.scope for query in judged.queries))}
    ids: dict[tuple[str, str], str] = {}
    for scope, project in of_scope.items():
        folder = place / project
        folder.mkdir()
        for count, document in enumerate(_within(judged.documents, scope)):
            ids[project, _write(folder, count, document)] = document.id
        kb.ingest(project, folder, progress=None if callable(progress) else progress)
    return _Projects(of_scope, ids)


def _within(documents: Sequence[Document], scope: str) -> Iterator[Document]:
    asked = Query("", "", {}, scope)
    return (document for document in documents if asked.may_find(document.id))


def _write(folder: Path, count: int, document: Document) -> str:
    """Write a document as a file and return its name; a title becomes a heading, and is not said again below."""
    title, text = document.title.split(), document.text
    words = text.split(maxsplit=len(title))
    if title and words[: len(title)] == title:
        text = "".join(words[len(title) :])
    heading = f"# {' '.join(title)}\n\n" if title else ""
    name = f"{count:07}.{'md' if heading else 'txt'}"
    (folder / name).write_bytes((heading + text).encode("utf8", "replace"))
    return name


# --- questions become rankings


def _asked(kb: Knowlex, judged: Collection, projects: _Projects, options: EvalOptions) -> Iterator[Judged]:
    """Ask every question; before, nearly the first one, so that no figure holds the loading of the model."""
    first = judged.queries[0]
    # Not the very same: of a question that was asked, the vector is kept.
    kb.search(projects.of_scope[first.scope], f"{first.text} ?", mode=options.mode, rerank=options.rerank)
    with counting(options.progress, len(judged.queries), "asking", unit="question") as done:
        for number, query in enumerate(judged.queries):
            ms = _timed(kb, projects, query, options) if number < TIMED else None
            ranking, degraded = _ranking(kb, projects, query, options)
            yield Judged(query, ranking, evaluate.measures(list(ranking), query.grades), ms, degraded)
            done(1)


def _timed(kb: Knowlex, projects: _Projects, query: Query, options: EvalOptions) -> float:
    project = projects.of_scope[query.scope]
    return round(kb.search(project, query.text, mode=options.mode, rerank=options.rerank).took_ms, 2)


def _ranking(
    kb: Knowlex, projects: _Projects, query: Query, options: EvalOptions
) -> tuple[dict[str, float], dict[str, str]]:
    """Return documents with the score of their best passage, best first; reranked, with its reciprocal rank.

    With them comes, by leg, why it could not do its part.

    As many passages are asked for as a search compares anyway, so that the first are those that a user gets; where
    they are of too few documents, more are, and what comes new goes behind. No fewer documents are ranked than the
    measures look at.
    """
    project, depth, wanted = projects.of_scope[query.scope], kb.configuration.candidates, max(options.k, RANKED)
    ranking: dict[str, float] = {}
    while True:
        hits = kb.search(project, query.text, depth, mode=options.mode, rerank=options.rerank)
        for id, hit in _documents(hits, project, projects):
            score = 1 / hit.rank if options.rerank else hit.score
            ranking.setdefault(id, min(score, next(reversed(ranking.values()), score)))
        if len(ranking) >= wanted or len(hits) < depth:
            degraded = {name: leg.degraded for name, leg in hits.legs.items() if leg.degraded}
            return dict(islice(ranking.items(), wanted)), degraded
        depth *= 2


def _documents(hits: Hits, project: str, projects: _Projects) -> Iterator[tuple[str, Hit]]:
    """Give the documents of each hit: those with the same bytes share their passages."""
    for hit in hits:
        for path in (hit.path or "", *hit.also):
            yield projects.ids[project, path.rsplit("/", 1)[-1]], hit


# --- what is told and kept


def title(whole: Evaluation) -> str:
    """Return a line for people: what was asked of what."""
    mode = f"{whole.mode} reranked" if whole.reranked else whole.mode
    asked = f"{quantity(len(whole.judged), 'question')} to {quantity(whole.documents, 'document')}"
    return f"{one_line(whole.dataset)}, {mode}: {asked} in {whole.seconds:.0f} s"


def lacking(whole: Evaluation) -> list[str]:
    """Return a line for people for each leg that could not do its part, and for what the other run lacks."""
    asked = quantity(len(whole.judged), "question")
    told = [
        f"{leg} leg: {one.queries} of {asked} without all of it: {one_line(one.reason)}"
        for leg, one in whole.degraded.items()
    ]
    if whole.unanswered:
        told.append(f"the run compared with has no answer to {whole.unanswered} of {asked}: 0 is counted for each")
    return told


def table(whole: Evaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows for people: each measure and, where there is another run, how it differs."""
    rows = [(name, f"{mean:.3f}") for name, mean in whole.means.items()]
    if whole.differences is None:
        return ("measure", "mean"), [*rows]
    head = ("measure", "mean", "compared with", "difference", "p", "better", "worse")
    return head, [(*row, *_shown(whole.differences[row[0]])) for row in rows]


def _shown(apart: Difference) -> tuple[str, ...]:
    figures = f"{apart.other:.3f}", f"{apart.difference:+.3f}", f"{apart.p:.4f}"
    return (*figures, str(apart.better), str(apart.worse))


def _read(path: Path, judged: Collection) -> trec.Run:
    """Read a run to compare with; UsageError for one of another collection, which would have found nothing."""
    run = trec.read(path)
    if not any(query.id in run for query in judged.queries):
        raise UsageError(f"{path}: has none of the questions of {judged.name}; give a run of the same collection")
    return run


def _differences(found: Sequence[Judged], run: trec.Run) -> dict[str, Difference]:
    """Compare with another run, question by question; one that it lacks found nothing there."""
    others = [evaluate.measures(run.get(one.query.id, []), one.query.grades) for one in found]
    return {name: _difference(name, found, others) for name in MEASURES}


def _difference(name: str, found: Sequence[Judged], others: Sequence[Mapping[str, float]]) -> Difference:
    own, other = (np.array([each[name] for each in values]) for values in ([one.measures for one in found], others))
    apart = own - other
    return Difference(
        other=round(float(other.mean()), 4),
        difference=round(float(apart.mean()), 4),
        p=round(evaluate.p_value({"": apart}), 4),
        better=int((apart > 0).sum()),
        worse=int((apart < 0).sum()),
    )


def _require_writable(database: Path, options: EvalOptions, judged: Collection) -> None:
    """Raise UsageError before an hour's work for files that cannot be written."""
    if options.run is not None:
        require_free(options.run, database, trec.KIND)
        trec.require_plain_ids(options.run, judged)
    if options.report is not None:
        require_free(options.report, database, REPORT)
    if options.run is not None and options.report is not None and same(options.run, options.report):
        raise UsageError(f"{options.run}: is to hold both the run and the report; give two files")


def _keep(whole: Evaluation, database: Path, options: EvalOptions) -> None:
    """Write the run and the report that were asked for."""
    if options.run is not None:
        rankings = ((one.query.id, one.ranking) for one in whole.judged)
        system = f"knowlex-{whole.mode}{'-reranked' if whole.reranked else ''}"
        _write_lines(options.run, database, trec.lines(rankings, system))
    if options.report is not None:
        lines = (f"{json.dumps(one.as_dict(), ensure_ascii=False)}\n" for one in whole.judged)
        _write_lines(options.report, database, lines)


def _write_lines(target: Path, database: Path, lines: Iterator[str]) -> None:
    with replacing(target, database) as stream:
        stream.writelines(line.encode() for line in lines)

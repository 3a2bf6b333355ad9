"""The full-text index of files, memories and messages: put, delete, search, and the proof of it.

FTS5 keeps the postings; the ranking is our own (`bm25`), for three reasons: FTS5's counts every
project's passages, so that one project shifts the ranking of another (by up to 0.08 nDCG@10 on small
collections); it gives no weight to a term that stands in half of the passages; and it costs 1 µs a
posting where fetching it costs 0.1. So a search asks FTS5 only where a term stands. How often it
stands there is told by tokens of its own (`repeats`), in steps of about a half.

The tables are contentless: they hold the tokens that `tokenize` made before the transaction, so that
a delete needs no old text. Each row carries its project as a token (the scope), which no text can
contain; the project is compared in every query besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import apsw

from storage import bm25, phrases
from storage.bm25 import NOTHING, Corpus, Matches, Place, Postings, Read, ReadMatches
from storage.connection import Connection, translated
from storage.errors import DatabaseError, UsageError
from storage.passage_tokens import FIRST_STEP_MARK, STEP_MARKS, STEPS, Tokens
from storage.sources import NO_PROJECT, Source
from storage.text_query import MAX_CONSIDERED, MAX_TERMS, Alternatives, Syntax, Term, fts5_expression, fts5_terms, terms
from storage.vectors import integers

if TYPE_CHECKING:
    from storage.text_mirror import TextMirror

TABLES = {Source.FILE: "chunk_fts", Source.MEMORY: "memory_fts", Source.MESSAGE: "message_fts"}
VOCABULARIES = {Source.FILE: "chunk_terms", Source.MEMORY: "memory_terms", Source.MESSAGE: "message_terms"}
PLACES = {Source.FILE: "chunk_places", Source.MEMORY: "memory_places", Source.MESSAGE: "message_places"}

SCOPE_MARK = "\ue010"

SCOPE_BELOW = 0.3
"""Share of the passages below which a project's token is asked for: it is quicker only there."""

MAX_SCOPES = 100
"""Projects whose tokens a search asks for at most; of more, those of every row are compared, which is quicker."""

MAX_FOREIGN = 1_000
"""Frequencies of a term, in passages of any project, that a search in a small one reads before it asks for its own."""

MANY_FREQUENT = 1_000
"""Passages that hold a term more than once from which each frequency is asked for by itself: that takes three fifths of
the time a passage, and a statement each."""

LARGE = 200_000
"""Passages from which terms may be too common."""

MAX_POSTINGS = 1_000_000
"""Passages that a search of many reads at most, summed over its terms: about half a second."""

REMOVAL = 2**10
"""What a removal adds to the version, where passages that are put add 1: it tells what has only grown."""

BUCKETS = 2**18
"""Passages that `drift` tells apart, which bounds what it holds: 30 MB."""


def scope(project_pk: int | None) -> str:
    """Return the token that stands for a project (None: of no project) in its rows."""
    return f"{SCOPE_MARK}{_key(project_pk)}"


def _key(project_pk: int | None) -> int:
    return NO_PROJECT if project_pk is None else project_pk


def put(db: Connection, source: Source, project_pk: int | None, rows: Iterable[tuple[int, Tokens]]) -> None:
    """Index passages. A pk must not be in the index already: delete it first.

    A passage without a token has an entry, but not even its project in it.
    """
    batch = list(rows)
    mark = scope(project_pk)
    db.many(
        f"INSERT INTO {TABLES[source]} (rowid, scope, heading, body, repeats)"
        " VALUES (:pk, :scope, :heading, :body, :repeats)",
        (
            {
                "pk": pk,
                "scope": mark if row.heading or row.body else "",
                "heading": row.heading,
                "body": row.body,
                "repeats": row.repeats,
            }
            for pk, row in batch
        ),
    )
    lengths = [(pk, row.length) for pk, row in batch]
    db.many(
        "INSERT INTO text_rows (source, pk, project, length) VALUES (:source, :pk, :project, :length)",
        ({"source": source, "pk": pk, "project": _key(project_pk), "length": length} for pk, length in lengths),
    )
    _count(db, source, _key(project_pk), len(lengths), sum(length for _, length in lengths))


def delete(db: Connection, source: Source, pks: Sequence[int]) -> None:
    """Remove passages from the index; a pk that is not there is passed over."""
    if not pks:
        return
    db.many(f"DELETE FROM {TABLES[source]} WHERE rowid = :pk", ({"pk": pk} for pk in pks))
    gone = db.all(
        "DELETE FROM text_rows WHERE source = :source AND pk IN (SELECT value FROM carray(:pks))"
        " RETURNING project, length",
        source=source,
        pks=integers(pks),
    )
    for project in {project for project, _ in gone}:
        lengths = [length for owner, length in gone if owner == project]
        _count(db, source, project, -len(lengths), -sum(lengths))


def _count(db: Connection, source: Source, project: int, passages: int, length: int) -> None:
    if passages:
        db.run(
            "INSERT INTO text_stats (source, project, passages, length, version)"
            " VALUES (:source, :project, :passages, :length, :step) ON CONFLICT (source, project) DO UPDATE SET"
            " passages = passages + :passages, length = length + :length, version = version + :step",
            source=source,
            project=project,
            passages=passages,
            length=length,
            step=1 if passages > 0 else REMOVAL,
        )


def reordered(db: Connection, source: Source, project_pk: int | None) -> None:
    """Note that passages of a project stand beside others than before."""
    db.run(
        "UPDATE text_stats SET version = version + :step WHERE source = :source AND project = :project",
        source=source,
        project=_key(project_pk),
        step=REMOVAL,
    )


def clear(db: Connection, source: Source) -> None:
    """Empty the index, to build it anew; the passages themselves stay."""
    db.run(f"INSERT INTO {TABLES[source]} ({TABLES[source]}) VALUES ('delete-all')")
    db.run("DELETE FROM text_rows WHERE source = :source", source=source)
    db.run(
        "UPDATE text_stats SET passages = 0, length = 0, version = version + :step WHERE source = :source",
        source=source,
        step=REMOVAL,
    )


def merge(db: Connection, source: Source, pages: int, *, begin: bool) -> bool:
    """Merge up to `pages` pages of the index into fewer segments; return whether there is more to merge.

    begin: gather all segments first, so that the last step leaves one, without what was deleted.
    Source: sqlite.org/fts5.html, "The 'merge' Command": steps go on until one changes less than two rows.
    """
    table = TABLES[source]
    before = db.raw.total_changes()
    db.run(f"INSERT INTO {table} ({table}, rank) VALUES ('merge', :pages)", pages=-pages if begin else pages)
    return db.raw.total_changes() - before >= 2


def optimize(db: Connection, source: Source) -> None:
    """Merge the whole index into one segment, so that nothing of what was deleted is left in it."""
    db.run(f"INSERT INTO {TABLES[source]} ({TABLES[source]}) VALUES ('optimize')")


Projects = int | Collection[int] | None
"""Pks of the projects that are searched (`NO_PROJECT`: what is of none): one, several, or None for all."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is searched: the passages of a source, of some projects or (None) of all.

    Passages of several projects are ranked as if they were those of one. version: rises with every change
    of these passages, by `REMOVAL` or more where one was removed or stands beside others. whole: whether they are all
    that the source has. scoped: whether the projects' tokens are asked for.
    """

    source: Source
    projects: tuple[int, ...] | None
    corpus: Corpus
    version: int
    whole: bool
    scoped: bool

    @property
    def few(self) -> bool:
        """Whether the projects are so few that their tokens can be asked for."""
        return self.projects is not None and len(self.projects) <= MAX_SCOPES

    def inside(self, column: str) -> str:
        """Return the condition that a column holds one of the projects; its values are those of `bindings`."""
        if self.projects is None:
            return "TRUE"
        return (
            f"{column} = :project" if len(self.projects) == 1 else f"{column} IN (SELECT value FROM carray(:projects))"
        )

    @property
    def bindings(self) -> dict[str, Any]:
        """The values of `inside`."""
        if self.projects is None:
            return {}
        return {"project": self.projects[0]} if len(self.projects) == 1 else {"projects": integers(self.projects)}


def part(db: Connection, source: Source, projects: Projects) -> Part:
    """Return a source's passages of one project, of several or of all, as they are now; some project must be named."""
    empty = Part(source, _chosen(projects), Corpus(0, 0), 0, whole=True, scoped=False)
    inside = empty.inside("project")
    passages, length, version, everything = db.all(
        f"SELECT coalesce(sum(passages) FILTER (WHERE {inside}), 0), coalesce(sum(length) FILTER (WHERE {inside}), 0),"
        f" coalesce(sum(version) FILTER (WHERE {inside}), 0), coalesce(sum(passages), 0)"
        " FROM text_stats WHERE source = :source",
        source=source,
        **empty.bindings,
    )[0]
    scoped = empty.few and passages < SCOPE_BELOW * everything
    whole = passages == everything
    return replace(empty, corpus=Corpus(passages, length), version=version, whole=whole, scoped=scoped)


def _chosen(projects: Projects) -> tuple[int, ...] | None:
    if projects is None or isinstance(projects, int):
        return None if projects is None else (projects,)
    return tuple(sorted(set(projects)))


def search(
    db: Connection,
    source: Source,
    query: str,
    *,
    project_pk: Projects,
    limit: int,
    syntax: Syntax = "plain",
    allowed: Collection[int] | None = None,
    mirror: TextMirror | None = None,
) -> list[tuple[int, float]]:
    """Return (pk, score) of the passages that fit a question best, best first, ties by pk.

    project_pk: one project, several, which are ranked as one, or None: of all, and of none. allowed: the
    pks that may be found, applied before ranking. syntax: "plain" takes any string; "fts5" is FTS5's own
    language with our tokens. mirror: where a long-lived process keeps postings; the result is the same
    without it.
    The score is BM25, higher is better; in FTS5's language of the strings and words that are not behind NOT.
    Raises UsageError for a limit below 1 and for a mistake in FTS5's language.
    """
    if limit < 1:
        raise UsageError(f"limit {limit}: ask for at least 1 hit")
    return matches(db, source, query, project_pk=project_pk, syntax=syntax, allowed=allowed, mirror=mirror).best(limit)


def matches(
    db: Connection,
    source: Source,
    query: str,
    *,
    project_pk: Projects,
    syntax: Syntax = "plain",
    allowed: Collection[int] | None = None,
    mirror: TextMirror | None = None,
) -> Matches:
    """Return every passage that fits a question, to ask for its best and for the scores of others; see `search`."""
    if isinstance(project_pk, Collection) and not project_pk:
        return NOTHING
    where = part(db, source, project_pk)
    if syntax == "fts5":
        return _in_fts5s_language(db, where, query, allowed, mirror)
    asked, left_out = affordable(db, where, Counter(terms(query)), mirror)
    if not asked:
        return replace(NOTHING, left_out=left_out)
    if mirror is not None and (kept := mirror.matches(db, where, asked, allowed)) is not None:
        return replace(kept, left_out=left_out)
    return _read_matches(db, where, asked, allowed, left_out)


def _read_matches(
    db: Connection, where: Part, asked: Mapping[Term, int], allowed: Collection[int] | None, left_out: tuple[Term, ...]
) -> Matches:
    read = _read(db, where, asked)
    found = _inside(bm25.scores(where.corpus, read), allowed)
    ceiling = where.corpus.ceiling(asked.values(), [len(term.pks) for _, term in read])
    return ReadMatches(
        dict(found), ceiling, left_out, Read(where.corpus, read, partial(_surroundings, db, where.source))
    )


def _read(db: Connection, where: Part, asked: Mapping[Term, int]) -> list[tuple[int, Postings]]:
    return [(count, postings(db, where, term)) for term, count in asked.items()]


def _inside(scores: Mapping[int, float], allowed: Collection[int] | None) -> list[tuple[int, float]]:
    inside = allowed if isinstance(allowed, set | None) else frozenset(allowed)
    return [item for item in scores.items() if inside is None or item[0] in inside]


def _surroundings(db: Connection, source: Source, pks: Collection[int]) -> tuple[list[Place], dict[int, int]]:
    """Return what stands beside each passage, and the lengths of all of these, in tokens."""
    places = _places(db, pks) if source == Source.FILE else [(pk, 0, 0) for pk in pks]
    lengths = db.all(
        "SELECT pk, length FROM text_rows WHERE source = :source AND pk IN (SELECT value FROM carray(:pks))",
        source=source,
        pks=integers({pk for place in places for pk in place}),
    )
    return places, dict(lengths)


def _places(db: Connection, pks: Collection[int]) -> list[Place]:
    found = {
        pk: (pk, before, behind)
        for pk, before, behind in db.all(
            "SELECT c.pk, coalesce((SELECT b.pk FROM file_chunks b WHERE b.file_id = c.file_id"
            " AND b.chunk_index < c.chunk_index ORDER BY b.chunk_index DESC LIMIT 1), 0),"
            " coalesce((SELECT a.pk FROM file_chunks a WHERE a.file_id = c.file_id"
            " AND a.chunk_index > c.chunk_index ORDER BY a.chunk_index LIMIT 1), 0)"
            " FROM carray(:pks) p CROSS JOIN file_chunks c ON c.pk = p.value",
            pks=integers(pks),
        )
    }
    return [found.get(pk, (pk, 0, 0)) for pk in pks]


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a question's terms were weighed by: the passages then, and in how many of them each term stood.

    A later page of the same answer is weighed by it again, so that what was added meanwhile moves nothing.
    """

    corpus: Corpus
    found: tuple[int, ...]


def scored(
    db: Connection,
    where: Part,
    asked: Mapping[Term, int],
    *,
    allowed: Collection[int] | None = None,
    weighing: Weighing | None = None,
    mirror: TextMirror | None = None,
) -> tuple[list[tuple[int, float]], Weighing]:
    """Return (pk, score) of every passage in which a term stands, in no order, and what it was weighed by.

    asked: how often the question asks for each term. weighing: of the page before; by default as things
    are now. allowed, mirror and the score: see `search`.
    """
    if mirror is not None and (kept := mirror.scored(db, where, asked, allowed)) is not None:
        items, found = kept
        made = Weighing(where.corpus, found)
        if weighing in (None, made):
            return items, made
    read = _read(db, where, asked)
    made = weighing or Weighing(where.corpus, tuple(len(term.pks) for _, term in read))
    return _inside(bm25.scores(made.corpus, read, made.found), allowed), made


def matching(db: Connection, where: Part, wanted: Iterable[Alternatives]) -> list[int]:
    """Return the passages that hold all that is wanted, each by one of its terms; of nothing, there are none."""
    expressions = [" OR ".join(term.expression for term in alternatives) for alternatives in wanted]
    return _rows(db, where, " AND ".join(f"({each})" for each in expressions))[0] if expressions else []


def _rows(db: Connection, where: Part, expression: str) -> tuple[list[int], list[int]]:
    """Return the passages that fit an FTS5 expression, and their lengths.

    The rows come as text, which is ten times as quick as one by one.
    """
    table = TABLES[where.source]
    pks, lengths = db.all(
        f"SELECT group_concat(f.rowid), group_concat(r.length) FROM {table} f"
        f" CROSS JOIN text_rows r ON r.source = :source AND r.pk = f.rowid WHERE {table} MATCH :match"
        f" AND {where.inside('r.project')}",
        source=where.source,
        match=_scoped(where, expression),
        **where.bindings,
    )[0]
    return (list(map(int, pks.split(","))), list(map(int, lengths.split(",")))) if pks else ([], [])


def postings(db: Connection, where: Part, term: Term) -> Postings:
    """Return where a term stands, and how often; of a prefix only whether."""
    pks, lengths = _rows(db, where, term.expression)
    found = dict.fromkeys(pks, 1.0)
    if found:
        for frequency, more in frequent(db, where, term):
            found.update(dict.fromkeys(found.keys() & _integers(more), frequency))
    return Postings(list(found), list(found.values()), lengths)


def passages(db: Connection, where: Part, after: int) -> tuple[str, str]:
    """Return the pks above `after` of passages that hold a token, rising, and their lengths; each joined by commas."""
    table = TABLES[where.source]
    rows = (
        f"SELECT r.pk, r.length FROM {table} f CROSS JOIN text_rows r ON r.source = :source AND r.pk = f.rowid"
        f" WHERE {table} MATCH :match AND f.rowid > :after AND {where.inside('r.project')} ORDER BY f.rowid"
        if where.scoped
        else f"SELECT pk, length FROM text_rows WHERE source = :source AND pk > :after AND {where.inside('project')}"
        " AND length > 0 ORDER BY pk"
    )
    scopes = {"match": _scopes(where)} if where.scoped else {}
    pks, lengths = db.all(
        f"SELECT group_concat(pk), group_concat(length) FROM ({rows})",
        source=where.source,
        after=after,
        **scopes,
        **where.bindings,
    )[0]
    return pks or "", lengths or ""


def in_order(db: Connection, where: Part, after: int) -> tuple[str, str]:
    """Return the passages of files in the order in which they stand there, and the file of each; joined by commas.

    after: only of files that have passages with a higher pk. Those without a token are among them.
    """
    if where.source != Source.FILE:
        return "", ""
    newer = f"SELECT file_id FROM file_chunks WHERE pk > :after AND {where.inside('project_id')}"
    changed = [f"file_id IN ({newer})"] if after else []
    inside = [] if where.whole else [f"file_id IN (SELECT pk FROM project_files WHERE {where.inside('project_id')})"]
    pks, files = db.all(
        "SELECT group_concat(pk), group_concat(file_id) FROM (SELECT pk, file_id FROM file_chunks"
        f" WHERE {' AND '.join((*changed, *inside)) or 'TRUE'} ORDER BY file_id, chunk_index)",
        after=after,
        **where.bindings,
    )[0]
    return pks or "", files or ""


def standing(db: Connection, where: Part, term: Term, after: int) -> str:
    """Return the pks above `after` where a term stands, rising, joined by commas; perhaps of other projects too."""
    return _fitting(db, where, term.expression, after)


def frequent(db: Connection, where: Part, term: Term, after: int = 0) -> Iterable[tuple[float, str]]:
    """Return each frequency above 1 that a term has, and the pks above `after` where it does, rising, joined by commas.

    There may be some of other projects, too. Of a prefix it is not known.
    """
    if term.prefix:
        return []
    token, *further = term.tokens
    if further:
        return _frequent_phrase(db, where, term, after)
    if after:
        return _steps_inside(db, where, token, after)
    marks = {"first": token + STEP_MARKS[0], "last": token + STEP_MARKS[-1]}
    marked = f"FROM {PLACES[where.source]} WHERE term >= :first AND term <= :last"
    if where.scoped:
        rows = db.all(f"SELECT term, doc {marked} LIMIT :limit", **marks, limit=MAX_FOREIGN)
        if len(rows) == MAX_FOREIGN:
            return _steps_inside(db, where, token, 0)
        return [(_step(term), ",".join([str(pk) for _, pk in of])) for term, of in groupby(rows, itemgetter(0))]
    steps = db.all(
        f"SELECT term, doc FROM {VOCABULARIES[where.source]} WHERE term >= :first AND term <= :last", **marks
    )
    if sum(count for _, count in steps) >= MANY_FREQUENT:
        return [(_step(term), _fitting(db, where, f'"{term}"', 0)) for term, _ in steps]
    rows = db.all(f"SELECT term, group_concat(doc) {marked} GROUP BY term", **marks)
    return [(_step(term), pks) for term, pks in rows]


def _frequent_phrase(db: Connection, where: Part, term: Term, after: int) -> Iterable[tuple[float, str]]:
    table = TABLES[where.source]
    phrases.register(db)
    return db.all(
        "SELECT step, group_concat(pk ORDER BY pk) FROM"
        f" (SELECT rowid AS pk, {phrases.PHRASE_FREQUENCY}({table}) AS step FROM {table}"
        f" WHERE {table} MATCH :match AND rowid > :after) WHERE step > 1 GROUP BY step",
        match=_scoped(where, term.expression),
        after=after,
    )


def _integers(joined: str) -> set[int]:
    return set(map(int, joined.split(","))) if joined else set()


def _step(marked: str) -> float:
    return STEPS[ord(marked[-1]) - FIRST_STEP_MARK]


def _steps_inside(db: Connection, where: Part, token: str, after: int) -> Iterator[tuple[float, str]]:
    """Yield the steps of the projects' passages, the lowest first, until none is left."""
    marked = " OR ".join(f'"{token}{mark}"' for mark in STEP_MARKS)
    left = _integers(_fitting(db, where, f"repeats : ({marked})", after))
    for step, mark in zip(STEPS, STEP_MARKS, strict=True):
        if not left:
            return
        found = _fitting(db, where, f'repeats : "{token}{mark}"', after)
        yield step, found
        left -= _integers(found)


def _fitting(db: Connection, where: Part, expression: str, after: int) -> str:
    """Return the pks above `after` that fit an expression, rising, joined by commas; perhaps of other projects too."""
    table = TABLES[where.source]
    # A condition on the rowid costs up to a fifth more, even one that holds for all.
    above, bounds = (" AND rowid > :after", {"after": after}) if after else ("", {})
    pks = db.value(
        f"SELECT group_concat(rowid) FROM {table} WHERE {table} MATCH :match{above}",
        match=_scoped(where, expression),
        **bounds,
    )
    return pks or ""


def _scoped(where: Part, expression: str) -> str:
    return _marked(where, expression) if where.scoped else expression


def _marked(where: Part, expression: str) -> str:
    """Return an expression with the tokens of the projects asked for besides."""
    return f"{_scopes(where)} AND ({expression})"


def _scopes(where: Part) -> str:
    marks = " OR ".join(f'"{scope(project)}"' for project in where.projects or ())
    return f"scope : ({marks})"


def _in_fts5s_language(
    db: Connection, where: Part, query: str, allowed: Collection[int] | None, mirror: TextMirror | None
) -> Matches:
    """Return what fits a query in FTS5's language, ranked by the terms that stand in it."""
    try:
        # The query is not put into parentheses with the projects' tokens: it may close them.
        fits = set(_rows(db, replace(where, scoped=False), fts5_expression(query))[0])
    except DatabaseError as error:
        if isinstance(error.__cause__, apsw.SQLError):
            raise UsageError(f"query: {error.__cause__}; quote what is to be searched as it stands") from error
        raise
    fits = fits if allowed is None else fits.intersection(allowed)
    asked, left_out = affordable(db, where, Counter(fts5_terms(query)), mirror)
    if not asked:
        return ReadMatches(dict.fromkeys(fits, 0.0), 0.0, left_out)
    found, weighing = scored(db, where, asked, allowed=fits, mirror=mirror)
    ceiling = where.corpus.ceiling(asked.values(), weighing.found)
    return ReadMatches(dict.fromkeys(fits, 0.0) | dict(found), ceiling, left_out)


def affordable(
    db: Connection, where: Part, asked: Mapping[Term, int], mirror: TextMirror | None = None
) -> tuple[dict[Term, int], tuple[Term, ...]]:
    """Return the terms to search for, with how often each is asked for: of too many the rarest; and those left out.

    Among very many passages, what would make a search read more than `MAX_POSTINGS` is left out, the
    commonest first. The rarest term always stays, and what stands nowhere, which costs nothing: the ceiling is what the
    question could have, as among few passages.
    Nothing but the passages searched decides: what other projects hold takes no term away.
    """
    large = where.corpus.passages > LARGE
    if len(asked) <= MAX_TERMS and not large:
        return dict(asked), ()
    considered = list(asked)[:MAX_CONSIDERED]
    frequency = {term: _frequency(db, where, term, mirror) for term in considered}
    rarest = [term for term in sorted(frequency, key=lambda term: frequency[term]) if frequency[term]][:MAX_TERMS]
    kept = {term for term in considered if not frequency[term]}
    kept.update(_not_too_common(rarest, frequency) if large else rarest)
    return (
        {term: count for term, count in asked.items() if term in kept},
        tuple(term for term in asked if term not in kept),
    )


def _not_too_common(rarest: list[Term], frequency: dict[Term, int]) -> Iterator[Term]:
    total = 0
    for place, term in enumerate(rarest):
        total += frequency[term]
        if place and total > MAX_POSTINGS:
            return
        yield term


def _frequency(db: Connection, where: Part, term: Term, mirror: TextMirror | None) -> int:
    """Return how many passages hold the rarest token of a term: at least as many as hold the term."""
    if term.prefix and len(term.tokens) == 1:
        return _standing(db, where, term, mirror)
    whole = term.tokens[:-1] if term.prefix else term.tokens
    return min(_standing(db, where, Term((token,)), mirror) for token in whole)


def _standing(db: Connection, where: Part, term: Term, mirror: TextMirror | None) -> int:
    """Return in how many of the passages a term of one token stands."""
    if mirror is None:
        return _counted(db, where, term)
    kept = mirror.frequency(db, where, term)
    if kept is None:
        kept = _counted(db, where, term)
        mirror.keep_frequency(where, term, kept)
    return kept


def _counted(db: Connection, where: Part, term: Term) -> int:
    """Return the same from the database: from the vocabulary where all of its passages are meant."""
    if where.whole and not term.prefix:
        return db.value(f"SELECT doc FROM {VOCABULARIES[where.source]} WHERE term = :token", token=term.tokens[0]) or 0
    if not where.whole and not where.few:
        return len(_rows(db, where, term.expression)[0])
    table = TABLES[where.source]
    expression = term.expression if where.whole else _marked(where, term.expression)
    return db.value(f"SELECT count(*) FROM {table} WHERE {table} MATCH :match", match=expression)


def drift(db: Connection, source: Source, rows: Iterable[tuple[int, int | None, Tokens]]) -> int:
    """Return how many passages are indexed otherwise than they should be; 0 when all is well.

    rows: (pk, project, tokens) of every passage there is, made anew from its text. Compares the sums
    over each passage of a hash of (term, pk, column, offset), which no order changes, and of its project
    and length. A passage without a token need not be indexed. A project whose sums are wrong counts too.
    """
    sums: dict[int, int] = {}
    for pk, project_pk, row in rows:
        if row.heading or row.body:
            _add(sums, str(_key(project_pk)), pk, "length", row.length, 1)
            _add_all(sums, pk, project_pk, row)
    for instance in _instances(db, source):
        _add(sums, *instance, -1)
    for pk, project, length in db.all(
        "SELECT pk, project, length FROM text_rows WHERE source = :source AND length > 0", source=source
    ):
        _add(sums, str(project), pk, "length", length, -1)
    return sum(map(bool, sums.values())) + _wrong_stats(db, source)


def _wrong_stats(db: Connection, source: Source) -> int:
    """Return for how many projects the passages and their lengths do not add up to what is kept."""
    return db.value(
        "SELECT count(*) FROM text_stats s WHERE s.source = :source AND (s.passages, s.length) <>"
        " (SELECT count(*), coalesce(sum(r.length), 0) FROM text_rows r"
        " WHERE r.source = s.source AND r.project = s.project)",
        source=source,
    )


def _add_all(sums: dict[int, int], pk: int, project_pk: int | None, row: Tokens) -> None:
    columns = {"scope": scope(project_pk), "heading": row.heading, "body": row.body, "repeats": row.repeats}
    for column, text in columns.items():
        for offset, token in enumerate(text.split()):
            _add(sums, token, pk, column, offset, 1)


def _instances(db: Connection, source: Source) -> Iterator[tuple[str, int, str, int]]:
    """Yield (token, pk, column, offset) of everything indexed; too much to hold at once."""
    with translated(db.path):
        cursor: Any = db.raw.execute(f"SELECT term, doc, col, offset FROM {PLACES[source]}")  # pyright: ignore[reportUnknownMemberType]
        yield from cursor


def _add(sums: dict[int, int], token: str, pk: int, column: str, offset: int, sign: int) -> None:
    # Squared: the hash of a tuple is nearly linear in its last item, so that sums of it would cancel out.
    place, value = pk % BUCKETS, hash((token, pk, column, offset)) ** 2
    sums[place] = (sums.get(place, 0) + sign * value) % 2**64

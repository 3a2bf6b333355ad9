"""Search over messages: by words, by who said it, when, in which conversation and in which projects.

What is found by words is ranked by BM25 over the projects that are searched, so that what others hold
moves nothing. Filters apply before anything is cut off. A cursor holds what the page before was weighed
by; with it, messages that are added meanwhile neither shift the following pages nor repeat a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from storage import bm25, fields, messages, paging, text_index
from storage.bm25 import Corpus
from storage.connection import Connection
from storage.content import Part, kept_parts, text_of
from storage.errors import UsageError
from storage.messages import Role
from storage.paging import Page
from storage.sources import NO_PROJECT, Source
from storage.text_index import Weighing
from storage.text_query import Term, not_searched_for, required, terms
from storage.tokenize import Highlighter
from storage.vectors import integers

if TYPE_CHECKING:
    from storage.text_mirror import TextMirror

Sort = Literal["relevance", "time"]
Match = Literal["any", "all"]
Scores = list[tuple[int, float]]
"""(pk, score) of messages."""
_Key = tuple[str, int]
"""(created_at, pk) of a message: its place in the order of time."""

FEW = 1_000
"""Candidates up to which each one's time is looked up; of more, the index by time is walked until the page is full."""

MATERIALISED = 20_000
"""Messages of a span of time up to which all are read first; of more, those that were found are checked, best first."""

BEHIND_ALL = "~"
"""Behind every time."""

FIRST_BLOCK = 256
"""Ranked messages that are checked first, or four times as many as are wanted."""


@dataclass(frozen=True, slots=True)
class MessageHit:
    """A message that was found; `conversation_id` and `project_id` are the ids that the doors show.

    project_id, project_name: None where the conversation is of no project. snippet: the part of the
    text that answers best, what was asked for in `<mark>`; its beginning where nothing was asked.
    score: BM25, higher is better; None where there is no query.
    """

    pk: int
    id: str
    conversation_id: str
    role: Role
    content: list[Part]
    created_at: str
    conversation_title: str
    project_id: str | None
    project_name: str | None
    snippet: str
    score: float | None


@dataclass(frozen=True, slots=True)
class MessagePage(Page[MessageHit]):
    """Part of the messages that were found. degraded: what of the query was not searched for, if anything."""

    degraded: str | None = None


_Ranked = tuple[Page[MessageHit], tuple[Term, ...]]
"""A page, and the terms that were not searched for."""


@dataclass(frozen=True, slots=True)
class _Filters:
    """Which messages may be found; what is None allows all. Times as the tables keep them, `until` excluded.

    projects: also those whose statistics rank the answer.
    """

    projects: tuple[int, ...] | None
    conversation: int | None
    role: Role | None
    since: str | None
    until: str | None

    @property
    def conditions(self) -> str:
        """What a row `m` must satisfy of role and times, as further conditions."""
        return (
            (" AND m.role = :role" if self.role else "")
            + (" AND m.created_at >= :since" if self.since else "")
            + (" AND m.created_at < :until" if self.until else "")
        )

    @property
    def bindings(self) -> dict[str, Any]:
        """The values of `conditions`."""
        named = {"role": self.role, "since": self.since, "until": self.until}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class _Window:
    """Which part of an answer is asked for."""

    limit: int
    offset: int
    after: str | None
    name: str

    @property
    def end(self) -> int:
        """How many messages to find: what is skipped, the page, and one to see whether more follow."""
        return self.offset + self.limit + 1


@dataclass(frozen=True, slots=True)
class _Question:
    """The terms of a query, how often it asks for each, and whether a message must hold them all."""

    query: str
    asked: Mapping[Term, int]
    every: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """Behind which message a ranked page starts, and what the terms searched for were weighed by."""

    score: float
    pk: int
    asked: dict[Term, int]
    weighing: Weighing


def search(
    db: Connection,
    query: str | None,
    *,
    project_pks: Collection[int] | None = None,
    conversation_id: str | None = None,
    role: str | None = None,
    date_from: str | None = None,
    date_to: str | None = None,
    sort: str = "relevance",
    match: str | None = None,
    limit: int = 50,
    offset: int = 0,
    after: str | None = None,
    mirror: TextMirror | None = None,
) -> MessagePage:
    """Return the messages that fit a query and the filters, the best or the newest first.

    query: any string; one without anything that is indexed finds nothing. None or blank sets no
    condition: all messages that pass the filters, the newest first. project_pks: of these projects
    (`NO_PROJECT`: of none); None for all. role: user, assistant, system or tool. date_from, date_to: ISO
    8601 with a zone, or a day (2026-01-31, in UTC); a moment as date_to is excluded, a day included.
    sort: "relevance", or "time" for the newest first. match: whether "any" of the query's terms must
    stand in a message or "all"; by default any by relevance, all by time. limit: 1 to 1000. offset: how
    many to skip; or after: `next` of the page before. mirror: see `text_index.search`.
    The score is BM25 over the projects searched; in a conversation, over those of its project.
    Raises NotFoundError for an unknown conversation, UsageError for the rest.
    """
    if query is not None and not isinstance(query, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"query: is {fields.kind_of(query)}; give text")
    by_time = _one_of(sort, ("relevance", "time"), "sort") == "time"
    every = _one_of(match or ("all" if by_time else "any"), ("any", "all"), "match") == "all"
    window = _window(limit, offset, after)
    filters = _filters(db, project_pks, conversation_id, role, date_from, date_to)
    if query is None or not query.strip():
        page = _listed(db, filters, replace(window, name=_name("all", filters)))
        return MessagePage(page.items, page.next)
    question = _Question(query, Counter(terms(query)), every)
    window = replace(window, name=_name("newest" if by_time else "best", filters, question))
    found: _Ranked = Page([], None), ()
    if filters.projects != () and question.asked:
        found = (_newest if by_time else _best)(db, question, filters, window, mirror)
    page, left_out = found
    # Where every word must stand in a message, what is left out of the ranking was searched for all the same.
    return MessagePage(page.items, page.next, not_searched_for(query, () if every else left_out))


def _window(limit: int, offset: int, after: str | None) -> _Window:
    paging.probe(limit)
    if type(offset) is not int or not 0 <= offset <= paging.LAST_PK - limit - 1:
        raise UsageError(f"offset {offset!r}: is out of range; give a whole number from 0 on")
    if offset and after is not None:
        raise UsageError(f"offset {offset}: cannot be combined with after; give one of them")
    return _Window(limit, offset, after, "")


def _filters(
    db: Connection,
    project_pks: Collection[int] | None,
    conversation_id: str | None,
    role: str | None,
    date_from: str | None,
    date_to: str | None,
) -> _Filters:
    projects = None if project_pks is None else tuple(sorted(set(project_pks)))
    pk = None
    if conversation_id is not None:
        pk, owner = messages.conversation(db, conversation_id)
        own = NO_PROJECT if owner is None else owner
        projects = (own,) if projects is None or own in projects else ()
    return _Filters(
        projects,
        pk,
        None if role is None else fields.choice(Role, role, "role"),
        None if date_from is None else _moment(date_from, "date_from"),
        None if date_to is None else _moment(date_to, "date_to", end=True),
    )


def require_span(date_from: str | None, date_to: str | None) -> None:
    """Raise UsageError where no time can pass both filters."""
    if date_from is None or date_to is None:
        return
    if _moment(date_from, "date_from") >= _moment(date_to, "date_to", end=True):
        raise UsageError(
            f"date_from, date_to: nothing is from {date_from!r} to {date_to!r}; give the earlier as the first"
        )


def _name(kind: str, filters: _Filters, question: _Question | None = None) -> str:
    """Return what tells the cursors of different searches apart."""
    asked = question and ([(term.expression, count) for term, count in question.asked.items()], question.every)
    return f"messages, {kind} {crc32(repr((filters, asked)).encode())}"


def _moment(value: str, what: str, *, end: bool = False) -> str:
    """Return a time as the tables keep it; of a day its beginning, or (end) that of the next."""
    day = _day(value)
    if day is None:
        # What is kept has milliseconds: an earlier moment of the same one is not before this one.
        return fields.instant(value, what, up=True, or_day=True)
    if end and day == date.max:
        return BEHIND_ALL
    moment = datetime.combine(day + timedelta(days=end), time(), UTC)
    return fields.instant(moment.isoformat(), what)


def _day(value: str) -> date | None:
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except (TypeError, ValueError):
        return None


def _one_of(value: str, known: Sequence[str], what: str) -> str:
    if value not in known:
        raise UsageError(f"{what} {value!r}: is unknown; give one of {', '.join(known)}")
    return value


# --- by time ---------------------------------------------------------------------------------------


def _listed(db: Connection, filters: _Filters, window: _Window) -> Page[MessageHit]:
    """Return a page of all messages that pass the filters."""
    start = _start(filters, window)
    if filters.projects == ():
        keys = list[_Key]()
    elif filters.conversation is not None:
        keys = _of_conversation(db, filters, window, start)
    elif filters.projects is not None:
        keys = _of_projects(db, filters.projects, filters, window, start)
    else:
        keys = _walked(db, filters, window, start)
    page = _page_by_time(keys, window)
    return Page(_load(db, [(pk, None) for _, pk in page.items], Highlighter("")), page.next)


def _newest(
    db: Connection, question: _Question, filters: _Filters, window: _Window, mirror: TextMirror | None
) -> _Ranked:
    """Return a page of what holds the terms, the newest first, scored as by relevance."""
    start = _start(filters, window)
    where = text_index.part(db, Source.MESSAGE, filters.projects)
    asked, left_out = text_index.affordable(db, where, question.asked, mirror)
    found = _holding(db, where, question)
    scores = dict(text_index.scored(db, where, asked, allowed=found, mirror=mirror)[0] if asked else ())
    candidates = list(scores) if found is None else list(found)
    if filters.conversation is not None:
        keys = _of_conversation(db, filters, window, start, candidates)
    elif len(candidates) <= FEW:
        keys = _looked_up(db, filters, window, start, candidates)
    else:
        keys = _walked(db, filters, window, start, candidates)
    page = _page_by_time(keys, window)
    scored = [(pk, scores.get(pk, 0.0)) for _, pk in page.items]
    return Page(_load(db, scored, Highlighter(question.query)), page.next), left_out


def _start(filters: _Filters, window: _Window) -> _Key:
    """Return the key that all messages of the page are older than: `until` is one, too, as no pk is below 1."""
    key = paging.start(window.after, paging.NEWEST, window.name)
    return key if filters.until is None else min(key, (filters.until, 0))


_OLDER = " AND (m.created_at, m.pk) < (:at, :pk)"
_SECTION = " ORDER BY m.created_at DESC, m.pk DESC LIMIT :limit OFFSET :offset"
_AMONG = " AND +m.pk IN (SELECT value FROM carray(:candidates))"
"""The plus keeps the candidates from being looked up one by one: the index by time is read in its order."""


def _walked(
    db: Connection, filters: _Filters, window: _Window, start: _Key, candidates: list[int] | None = None
) -> list[_Key]:
    """Return the newest of all messages, or of those that are candidates, along the index by time."""
    among = "" if candidates is None else _AMONG
    return _keys(
        db,
        f"SELECT m.created_at, m.pk FROM messages m WHERE TRUE{_OLDER}{filters.conditions}{among}{_SECTION}",
        filters,
        window,
        start,
        **({} if candidates is None else {"candidates": integers(candidates)}),
    )


def _looked_up(db: Connection, filters: _Filters, window: _Window, start: _Key, candidates: list[int]) -> list[_Key]:
    """Return the newest of a few candidates."""
    return _keys(
        db,
        "SELECT m.created_at, m.pk FROM carray(:candidates) found CROSS JOIN messages m WHERE m.pk = found.value"
        f"{_OLDER}{filters.conditions}{_SECTION}",
        filters,
        window,
        start,
        candidates=integers(candidates),
    )


def _of_conversation(
    db: Connection, filters: _Filters, window: _Window, start: _Key, candidates: list[int] | None = None
) -> list[_Key]:
    """Return the newest messages of a conversation, or of those that are candidates."""
    among = "" if candidates is None else _AMONG
    return _keys(
        db,
        "SELECT m.created_at, m.pk FROM messages m WHERE m.conversation_id = :conversation"
        f"{_OLDER}{filters.conditions}{among}{_SECTION}",
        filters,
        window,
        start,
        conversation=filters.conversation,
        **({} if candidates is None else {"candidates": integers(candidates)}),
    )


def _of_projects(
    db: Connection, projects: Collection[int], filters: _Filters, window: _Window, start: _Key
) -> list[_Key]:
    """Return the newest messages of some projects, along the index of each of their conversations."""
    none = " UNION ALL SELECT pk FROM conversations WHERE project_id IS NULL" if NO_PROJECT in projects else ""
    return _keys(
        db,
        "SELECT m.created_at, m.pk"
        " FROM (SELECT pk FROM conversations WHERE project_id IN (SELECT value FROM carray(:projects))"
        f"{none}) c CROSS JOIN messages m WHERE m.conversation_id = c.pk{_OLDER}{filters.conditions}{_SECTION}",
        filters,
        window,
        start,
        projects=integers(projects),
    )


def _keys(db: Connection, sql: str, filters: _Filters, window: _Window, start: _Key, **values: Any) -> list[_Key]:
    at, pk = start
    bindings = {"at": at, "pk": pk, "limit": window.limit + 1, "offset": window.offset}
    return [(created, found) for created, found in db.all(sql, **filters.bindings, **bindings, **values)]


def _page_by_time(keys: list[_Key], window: _Window) -> Page[_Key]:
    return paging.cut(keys, window.limit, lambda row: (row[0], row[1]), lambda key: key, window.name)


# --- by relevance ----------------------------------------------------------------------------------


def _best(
    db: Connection, question: _Question, filters: _Filters, window: _Window, mirror: TextMirror | None
) -> _Ranked:
    """Return a page of what holds the terms, the best first."""
    place = None if window.after is None else _place(window.after, window.name, question)
    where = text_index.part(db, Source.MESSAGE, filters.projects)
    if place:
        asked, left_out = place.asked, tuple(term for term in question.asked if term not in place.asked)
    else:
        asked, left_out = text_index.affordable(db, where, question.asked, mirror)
    if not asked:
        return Page([], None), left_out
    scores, weighing = text_index.scored(
        db,
        where,
        asked,
        allowed=_allowed(db, where, question, filters),
        weighing=place.weighing if place else None,
        mirror=mirror,
    )
    if place:
        scores = [(pk, score) for pk, score in scores if (-score, pk) > (-place.score, place.pk)]
    page = paging.cut(
        _passing(db, filters, scores, window.end)[window.offset :],
        window.limit,
        lambda row: (row[0], row[1]),
        lambda found: _cursor(found, question, asked, weighing),
        window.name,
    )
    return Page(_load(db, page.items, Highlighter(question.query)), page.next), left_out


def _holding(db: Connection, where: text_index.Part, question: _Question) -> set[int] | None:
    """Return the messages that hold every word, in one of its spellings, where they must."""
    return set(text_index.matching(db, where, required(question.query))) if question.every else None


def _allowed(db: Connection, where: text_index.Part, question: _Question, filters: _Filters) -> set[int] | None:
    """Return the only messages that may be found, where that is known before they are ranked; None for all."""
    holding = _holding(db, where, question)
    inside = _in_conversation(db, filters) if filters.conversation is not None else _in_span(db, filters)
    return inside if holding is None else holding if inside is None else holding & inside


def _in_conversation(db: Connection, filters: _Filters) -> set[int]:
    rows = db.all(
        f"SELECT m.pk FROM messages m WHERE m.conversation_id = :conversation{filters.conditions}",
        conversation=filters.conversation,
        **filters.bindings,
    )
    return {pk for (pk,) in rows}


def _in_span(db: Connection, filters: _Filters) -> set[int] | None:
    """Return the messages of a span of time, where they are not too many."""
    if filters.since is None and filters.until is None:
        return None
    rows = db.all(
        "SELECT m.pk FROM messages m WHERE m.created_at >= :since AND m.created_at < :until LIMIT :limit",
        since=filters.since or "",
        until=filters.until or BEHIND_ALL,
        limit=MATERIALISED + 1,
    )
    return None if len(rows) > MATERIALISED else {pk for (pk,) in rows}


def _passing(db: Connection, filters: _Filters, scores: Scores, wanted: int) -> Scores:
    """Return the best messages that pass the filters of role and time, best first: `wanted`, or all there are.

    The best are checked first; where too few of them pass, all are, which costs more than ranking them.
    """
    if not filters.conditions or filters.conversation is not None:
        return bm25.best(scores, wanted)
    first = bm25.best(scores, max(FIRST_BLOCK, 4 * wanted))
    passed = _checked(db, filters, first)
    if len(passed) < wanted and len(first) < len(scores):
        passed = bm25.best(_checked(db, filters, scores), wanted)
    return passed[:wanted]


def _checked(db: Connection, filters: _Filters, scores: Scores) -> Scores:
    rows = db.all(
        f"SELECT m.pk FROM carray(:pks) found CROSS JOIN messages m WHERE m.pk = found.value{filters.conditions}",
        pks=integers([pk for pk, _ in scores]),
        **filters.bindings,
    )
    passed = {pk for (pk,) in rows}
    return [item for item in scores if item[0] in passed]


# --- cursors of ranked pages -----------------------------------------------------------------------


def _cursor(
    last: tuple[int, float], question: _Question, asked: Mapping[Term, int], weighing: Weighing
) -> tuple[Any, ...]:
    """Return what the next page needs: behind which message it starts, and what each term was weighed by.

    A term of the question that was not searched for (see `text_index.affordable`) stands as None.
    """
    standing = dict(zip(asked, weighing.found, strict=True))
    found = [standing.get(term) for term in question.asked]
    while found[-1] is None:
        found.pop()
    corpus = weighing.corpus
    pk, score = last
    return score, pk, corpus.passages, corpus.length, found


def _place(after: str, name: str, question: _Question) -> _Place:
    """Return where a page starts; raises UsageError for what is no cursor of this question."""
    match paging.opened(after, name):
        case [float(score), int(pk), int(passages), int(length), [*found]] if (
            paging.fits(score)
            and _counts([pk, passages, length], paging.LAST_PK)
            and _counts([count for count in found if count is not None], passages)
            and len(found) <= len(question.asked)
        ):
            # A list that ends early says that the last terms were not searched for.
            standing = {term: count for term, count in zip(question.asked, found, strict=False) if count is not None}
            asked = {term: question.asked[term] for term in standing}
            return _Place(score, pk, asked, Weighing(Corpus(passages, length), tuple(standing.values())))
        case _:
            raise paging.foreign(after)


def _counts(values: Sequence[Any], most: int) -> bool:
    return all(type(value) is int and 0 <= value <= most for value in values)


# --- what is shown ---------------------------------------------------------------------------------


def _load(db: Connection, found: Sequence[tuple[int, float | None]], highlighter: Highlighter) -> list[MessageHit]:
    """Return messages as they are shown, in their order, without those that only an index knows, as `verify` tells."""
    rows = db.all(
        "SELECT m.pk, m.id, c.id, m.role, m.content, m.created_at, c.title, p.id, p.name"
        " FROM carray(:pks) found CROSS JOIN messages m ON m.pk = found.value"
        " JOIN conversations c ON c.pk = m.conversation_id LEFT JOIN projects p ON p.pk = c.project_id",
        pks=integers([pk for pk, _ in found]),
    )
    by_pk = {row[0]: row for row in rows}
    return [_hit(by_pk[pk], score, highlighter) for pk, score in found if pk in by_pk]


def _hit(row: Sequence[Any], score: float | None, highlighter: Highlighter) -> MessageHit:
    pk, id, conversation, role, content, created, title, project, name = row
    kept = kept_parts(content, f"message {id}")
    snippet = highlighter.snippet(text_of(kept))
    return MessageHit(pk, id, conversation, Role(role), kept, created, title, project, name, snippet, score)

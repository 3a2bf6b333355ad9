"""Which passages pass a filter: their keys, found before anything is ranked.

Each name of a file is judged by itself: equal files have one set of passages, which pass if one of the names does.
User's text is bound, never part of a statement.
"""

from __future__ import annotations

import json
import posixpath
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from storage import fields
from storage.connection import Connection
from storage.filters import KEYS, METADATA, Comparison, Filter, Group, Operator, Scalar, span
from storage.sources import Source

_SIGNS: Mapping[Operator, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TITLES_APART = " > "
"""What stands between the titles of a passage's heading."""

_Bind = Callable[[Any], str]
"""Takes a value to bind, and returns the parameter that stands for it."""

_Test = Callable[[Comparison, _Bind], str]
"""Returns the condition that a row passes a comparison; not true, too, where the row lacks what is compared."""


def pks(db: Connection, source: Source, filter: Filter, *, project_pk: int | None) -> array[int]:
    """Return the keys of the passages of a source that pass a filter, in no order; one may stand there twice.

    project_pk None: of all projects, and of none.
    """
    wanted = _Wanted(source)
    condition = wanted.condition(filter)
    inside = f"{_PROJECTS[source]} = :project" if project_pk is not None else "TRUE"
    # All keys come as one text, which is several times as quick as a row for each.
    text = db.value(
        f"SELECT json_group_array({_ROWS[source]} WHERE {inside} AND {condition}",
        **({} if project_pk is None else {"project": project_pk}),
        **wanted.values,
    )
    return array("q", json.loads(text))


def known_of(db: Connection, project_pk: int | None, keys: Collection[str]) -> set[str]:
    """Return which of these keys any file of a project (None: of all) has in its metadata."""
    inside = "n.project_id = :project" if project_pk is not None else "TRUE"
    found = db.all(
        f"SELECT DISTINCT entry.key FROM project_files n, json_each({fields.readable('n.metadata')}) entry"
        f" WHERE {inside} AND entry.key IN (SELECT value FROM json_each(:keys))",
        keys=json.dumps([*keys]),
        **({} if project_pk is None else {"project": project_pk}),
    )
    return {key for (key,) in found}


def metadata_keys(db: Connection, project_pk: int | None) -> set[str]:
    """Return the keys that any file of a project (None: of all) has in its metadata; reads every file's row."""
    inside = "n.project_id = :project" if project_pk is not None else "TRUE"
    found = db.all(
        f"SELECT DISTINCT entry.key FROM project_files n, json_each({fields.readable('n.metadata')}) entry"
        f" WHERE {inside}",
        **({} if project_pk is None else {"project": project_pk}),
    )
    return {key for (key,) in found}


# A name is read before its passages, so that what is asked of the name alone is looked at once.
_ROWS = {
    Source.FILE: "c.pk) FROM project_files n CROSS JOIN file_chunks c ON c.file_id = coalesce(n.duplicate_of, n.pk)",
    Source.MEMORY: "m.pk) FROM project_memories m",
    Source.MESSAGE: "m.pk) FROM conversations v CROSS JOIN messages m ON m.conversation_id = v.pk",
}
_PROJECTS = {Source.FILE: "n.project_id", Source.MEMORY: "m.project_id", Source.MESSAGE: "v.project_id"}


@dataclass(slots=True)
class _Wanted:
    """A condition in the making, and what it binds."""

    source: Source
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def bind(self, value: Any) -> str:
        name = f"value{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def condition(self, filter: Filter) -> str:
        if isinstance(filter, Group):
            return _joined([self.condition(inner) for inner in filter.filters], filter.type.upper())
        if filter.type in ("ne", "nin"):
            opposite: Operator = "eq" if filter.type == "ne" else "in"
            return f"({self._passes(Comparison(opposite, filter.key, filter.values))}) IS NOT TRUE"
        # Not a bare EXISTS: the engine would make a join of it, and look at the metadata anew for each passage.
        return f"({self._passes(filter)}) IS TRUE"

    def _passes(self, comparison: Comparison) -> str:
        test = _TESTS[self.source].get(comparison.key)
        if test is None and self.source is Source.FILE and comparison.key not in KEYS:
            test = _metadata
        return "FALSE" if test is None else test(comparison, self.bind)


def _joined(conditions: Sequence[str], word: str) -> str:
    """Join conditions in halves: the engine takes no expression that is 1,000 deep."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_joined(conditions[:half], word)} {word} {_joined(conditions[half:], word)})"


def _any(tests: Sequence[str]) -> str:
    return _joined(tests, "OR")


# --- one comparison --------------------------------------------------------------------------------


def _compared(expression: str, comparison: Comparison, bind: _Bind) -> str:
    """Compare an expression whose values have the type of those it is compared with."""
    operands = [bind(value) for value in comparison.values]
    if sign := _SIGNS.get(comparison.type):
        return f"{expression} {sign} {operands[0]}"
    return f"{expression} IN ({', '.join(operands)})"


def _column(expression: str) -> _Test:
    return lambda comparison, bind: _compared(expression, comparison, bind)


def _each(condition: str, stated: Callable[[str], str]) -> _Test:
    """Return the test of a key that is equal or not; `{}` in the condition is a value as `stated` makes it."""
    return lambda comparison, bind: _any([condition.format(bind(stated(str(each)))) for each in comparison.values])


def _folder(name: str) -> str:
    """Return what the path of all that lies in a folder has, or (absolute) begins with."""
    inner = posixpath.normpath(name).strip("/")
    return f"/{inner}/" if inner else "/"


def _extension(name: str) -> str:
    """Return what a name ends in; the engine, too, knows small letters of ASCII only."""
    return f".{name.removeprefix('.')}".encode().lower().decode()


def _in_folder(comparison: Comparison, bind: _Bind) -> str:
    tests: list[str] = []
    for name in map(str, comparison.values):
        operand = bind(_folder(name))
        at = f"instr(n.path, {operand})"
        tests.append(f"{at} = 1" if name.startswith("/") else f"{at} > 0")
    return _any(tests)


def _on_page(comparison: Comparison, bind: _Bind) -> str:
    """A passage is on every page from its first to its last."""
    if sign := _SIGNS.get(comparison.type):
        end = "c.page_end" if comparison.type in ("gt", "gte") else "c.page_start"
        return f"{end} {sign} {bind(comparison.values[0])}"
    whole = [page for page in comparison.values if float(page).is_integer()]
    return _any([f"{bind(page)} BETWEEN c.page_start AND c.page_end" for page in whole]) if whole else "FALSE"


def _time(expression: str, stated: Callable[[datetime], Any]) -> _Test:
    """Return the test of a time: a day or millisecond is before what follows its end."""

    def test(comparison: Comparison, bind: _Bind) -> str:
        spans = [span(str(value), comparison.key) for value in comparison.values]
        first, end = (stated(moment) for moment in spans[0])
        match comparison.type:
            case "gt" | "lte":
                return f"{expression} {'>=' if comparison.type == 'gt' else '<'} {bind(end)}"
            case "gte" | "lt":
                return f"{expression} {_SIGNS[comparison.type]} {bind(first)}"
            case _:
                bounds = [(bind(stated(first)), bind(stated(end))) for first, end in spans]
                return _any([f"({expression} >= {first} AND {expression} < {end})" for first, end in bounds])

    return test


def _kept(moment: datetime) -> str:
    """Return a time as the tables keep it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _nanoseconds(moment: datetime) -> int:
    count = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return max(-(2**63), min(count, 2**63 - 1))


# --- JSON columns ----------------------------------------------------------------------------------


def _metadata(comparison: Comparison, bind: _Bind) -> str:
    """A value that is a list passes if one of its items does; what is no JSON, as `verify` tells, has no key."""
    key = bind(comparison.key.removeprefix(METADATA))
    tests = {
        name: _any([_of_type(name, types, comparison, values, bind) for types, values in _by_type(comparison).items()])
        for name in ("item", "entry")
    }
    return (
        f"EXISTS (SELECT 1 FROM json_each({fields.readable('n.metadata')}) entry WHERE entry.key = {key}"
        f" AND CASE entry.type WHEN 'array' THEN EXISTS (SELECT 1 FROM json_each(entry.value) item"
        f" WHERE {tests['item']}) ELSE {tests['entry']} END)"
    )


def _by_type(comparison: Comparison) -> dict[str, list[Scalar]]:
    """Return the values by the types of JSON that they are compared with."""
    found: dict[str, list[Scalar]] = {}
    for value in comparison.values:
        found.setdefault(_types(value), []).append(value)
    return found


def _types(value: Scalar) -> str:
    match value:
        case bool():
            return "'true'" if value else "'false'"
        case str():
            return "'text'"
        case _:
            return "'integer', 'real'"


def _of_type(row: str, types: str, comparison: Comparison, values: Sequence[Scalar], bind: _Bind) -> str:
    """Compare a value within JSON with values of its type."""
    same = f"{row}.type IN ({types})"
    if isinstance(values[0], bool):
        return same
    return f"({same} AND {_compared(f'{row}.value', Comparison(comparison.type, comparison.key, tuple(values)), bind)})"


def _tagged(comparison: Comparison, bind: _Bind) -> str:
    tags = fields.readable("m.tags")
    return f"EXISTS (SELECT 1 FROM json_each({tags}) tag WHERE {_compared('tag.value', comparison, bind)})"


_TESTS: Mapping[Source, Mapping[str, _Test]] = {
    Source.FILE: {
        "file": _column("n.filename"),
        "path": _column("n.path"),
        "folder": _in_folder,
        "extension": _each("lower(substr(n.filename, -length({0}))) = {0}", _extension),
        "mime_type": _column("n.mime_type"),
        "file_id": _column("n.id"),
        "size": _column("n.size"),
        # What lies in another file has no time of its own, and 0 in its place.
        "modified": _time("nullif(n.mtime_ns, 0)", _nanoseconds),
        "created_at": _time("n.created_at", _kept),
        "updated_at": _time("n.updated_at", _kept),
        "title": _metadata,
        "page": _on_page,
        "heading": _each(
            f"instr('{TITLES_APART}' || c.heading || '{TITLES_APART}', {{}}) > 0",
            lambda titles: f"{TITLES_APART}{titles}{TITLES_APART}",
        ),
    },
    Source.MEMORY: {
        "title": _column("m.title"),
        "type": _column("m.type"),
        "tags": _tagged,
        "importance": _column("m.importance"),
        "created_at": _time("m.created_at", _kept),
        "updated_at": _time("m.updated_at", _kept),
    },
    Source.MESSAGE: {
        "title": _column("v.title"),
        "conversation": _column("v.id"),
        "role": _column("m.role"),
        "created_at": _time("m.created_at", _kept),
        "updated_at": _time("m.updated_at", _kept),
    },
}

KEYS_OF: Mapping[Source, frozenset[str]] = {source: frozenset(tests) for source, tests in _TESTS.items()}
"""By source the keys it has, but for the metadata of files; their `kind` is looked up as `mime_type`."""

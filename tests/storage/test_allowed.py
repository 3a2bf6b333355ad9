"""Which passages pass a filter: exactly those that a plain model of the rows says, of every source, of one project."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunk import HEADING_SEPARATOR
from storage import allowed, chunks, conversations, files, memories, messages, projects, vectors
from storage.chunks import NewChunk
from storage.connection import Connection
from storage.database import Database
from storage.files import Ready, Seen, Versions
from storage.filters import KEYS, MAX_DEPTH, OF_LISTS, ORDERING, Comparison, Filter, Group, comparison
from storage.fingerprint import Fingerprint
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.vectors import input_hash

DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
METADATA: list[dict[str, Any]] = [
    {},
    {"author": "Ada", "year": 2024, "draft": True, "title": "Report"},
    {"author": "ada", "role": "user", "importance": 4, "year": 2024.5, "draft": False, "page": "iv"},
    {"author": ["Ada", "Grace", 7, None, True], "year": "2024", 'odd "key"\\': 1, "著者": "東"},
    {"author": None, "year": [2023, 2025], "draft": {"author": "Ada"}, "title": 5},
]
NAMES = ["/docs/a.pdf", "/docs/b.PDF", "/docs/api/a.md", "/x/docs.md/c.tar.gz", "/x/docs", "/x/100%_d.md", "/x/it's.md"]
HEADINGS = ["", "Leave", "Leave > Annual", "Sick > Leave", "Leaver", "A > Leave > B"]


@dataclass(frozen=True)
class Row:
    """A passage: what is known of each of its names; of a memory or message, there is one."""

    source: Source
    pk: int
    project: int
    names: list[dict[str, Any]]


@dataclass
class Shelf:
    database: Database
    projects: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def pks(self, source: Source, filter: Filter, project: int | None) -> list[int]:
        with self.database.read() as db:
            return sorted(set(allowed.pks(db, source, filter, project_pk=project)))

    def wanted(self, source: Source, filter: Filter, project: int | None) -> list[int]:
        return sorted(
            row.pk
            for row in self.rows
            if row.source == source and project in (None, row.project)
            if any(passes(filter, known) for known in row.names)
        )


# --- the model -------------------------------------------------------------------------------------


def passes(filter: Filter, known: Mapping[str, Any]) -> bool:
    if isinstance(filter, Group):
        return (all if filter.type == "and" else any)(passes(inner, known) for inner in filter.filters)
    if filter.type in ("ne", "nin"):
        return not any(compared(filter.key, "eq", known, value) for value in filter.values)
    return any(compared(filter.key, filter.type, known, value) for value in filter.values)


def compared(key: str, type: str, known: Mapping[str, Any], value: Any) -> bool:
    test: Callable[[Any, Any], bool] = (
        operator.eq if type in ("eq", "in") else getattr(operator, {"gte": "ge", "lte": "le"}.get(type, type))
    )
    if key in MODELS:
        return key in known and MODELS[key](known[key], value, test)
    stored = known.get(key) if key in KEYS else known.get("metadata", {}).get(key.removeprefix("metadata."))
    values = stored if isinstance(stored, list) else [stored]
    return any(family(each) == family(value) and test(each, value) for each in values)


def family(value: Any) -> type:
    return type(value) if isinstance(value, bool | str) else float if isinstance(value, int | float) else type(value)


def in_folder(path: str, folder: str, test: Any) -> bool:
    above, wanted = PurePosixPath(path).parent.parts, PurePosixPath(folder).parts
    places = [0] if folder.startswith("/") else range(len(above))
    return any(above[at : at + len(wanted)] == wanted for at in places)


def under(heading: str, titles: str, test: Any) -> bool:
    above, wanted = heading.split(" > "), titles.split(" > ")
    return any(above[at : at + len(wanted)] == wanted for at in range(len(above)))


def at_time(moment: datetime, value: str, test: Any) -> bool:
    try:
        return test(moment.date(), date.fromisoformat(value))
    except ValueError:
        return test(moment, datetime.fromisoformat(value))


MODELS: Mapping[str, Callable[[Any, Any, Any], bool]] = {
    "folder": in_folder,
    "heading": under,
    "extension": lambda name, end, test: name.lower().endswith(f".{end.lower().removeprefix('.')}"),
    "page": lambda pages, page, test: any(test(each, page) for each in range(pages[0], pages[1] + 1)),
    "tags": lambda tags, tag, test: tag in tags,
    "modified": at_time,
    "created_at": at_time,
    "updated_at": at_time,
}


# --- the rows --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[Shelf]:
    path = tmp_path_factory.mktemp("allowed") / "shelf.db"
    with Database.open(shutil.copy(new_database, path)) as database:
        made = Shelf(database)
        with database.write() as db:
            for name in ("one", "two"):
                project = projects.create(db, name).pk
                made.projects.append(project)
                for number, metadata in enumerate(METADATA):
                    add_file(db, made, model(db), number, metadata)
                for number in range(8):
                    remember(db, made, number)
                talk(db, made)
        yield made


def model(db: Connection) -> int:
    return vectors.ensure_model(
        db, name="m", hash="h", dim=8, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
    ).pk


def add_file(db: Connection, shelf: Shelf, model: int, number: int, metadata: dict[str, Any]) -> None:
    """Add a file with up to three names and three passages."""
    project = shelf.projects[-1]
    known: list[dict[str, Any]] = []
    owner = 0
    for place in range(number % 3 + 1):
        path = NAMES[(number + 2 * place) % len(NAMES)] + ("" if place == 0 else f".{number}.md")
        path = path if number < 4 or place else f"/y{path}"
        moment, mime_type = DAY + timedelta(days=number, hours=place), ["application/pdf", "text/markdown"][number % 2]
        mtime = int(moment.timestamp()) * 10**9 if number else 0
        seen = Seen(path.encode(), Fingerprint(number * 100, mtime, 1, 1), f"{number}", mime_type)
        pk, _ = files.register(db, project, seen, Versions("v", frozenset({"p"})), scanned_ns=2**62)
        owner = owner or pk
        if pk == owner:
            held = [new_chunk(f"{project} {number} {at}", at, number) for at in range(3)]
            chunks.replace(db, project, pk, model, held)
            files.mark_ready(db, pk, Ready(f"{number}", 3, 3, "p", "v", metadata))
        db.run("UPDATE project_files SET created_at = :at WHERE pk = :pk", at=kept(moment), pk=pk)
        (row,) = db.all("SELECT id, updated_at FROM project_files WHERE pk = :pk", pk=pk)
        known.append(
            {"file": path.rpartition("/")[2], "path": path, "folder": path, "extension": path, "mime_type": mime_type}
            | {"file_id": row[0], "size": number * 100, "created_at": moment, "metadata": metadata}
            | {"updated_at": datetime.fromisoformat(row[1])}
            | ({"modified": moment} if mtime else {})
        )
    rows = db.all("SELECT pk, page_start, page_end, heading FROM file_chunks WHERE file_id = :pk", pk=owner)
    for pk, first, last, heading in rows:
        place = {"heading": heading} | ({} if first is None else {"page": (first, last)})
        title = {"title": metadata["title"]} if "title" in metadata else {"title": None}
        shelf.rows.append(Row(Source.FILE, pk, project, [name | place | title for name in known]))


def new_chunk(text: str, at: int, number: int) -> NewChunk:
    values = np.random.default_rng(list(text.encode())).standard_normal((1, 8)).astype(np.float32)
    vector = vectors.encode(values / np.linalg.norm(values))[0]
    pages = (None, None) if number == 0 else (at + 1, at + 1 + number % 3)
    heading = HEADINGS[(at + number) % len(HEADINGS)]
    tokens = tokens_of(text, heading)
    return NewChunk(text, 3, at * 10, at * 10 + len(text), *pages, heading, tokens, input_hash(text), vector)


def remember(db: Connection, shelf: Shelf, number: int) -> None:
    kind, tags = ["memory", "note", "insight"][number % 3], ["Ada", "x", "y", "x y"][: number % 4]
    made = memories.add(db, shelf.projects[-1], f"t{number % 2}", "c", type=kind, importance=number + 1, tags=tags)
    moment = DAY + timedelta(days=number)
    db.run(
        "UPDATE project_memories SET created_at = :at, updated_at = :later WHERE pk = :pk",
        at=kept(moment),
        later=kept(moment + timedelta(hours=12)),
        pk=made.pk,
    )
    known = {"title": made.title, "type": kind, "tags": tags, "importance": number + 1}
    times = {"created_at": moment, "updated_at": moment + timedelta(hours=12)}
    shelf.rows.append(Row(Source.MEMORY, made.pk, shelf.projects[-1], [known | times]))


def talk(db: Connection, shelf: Shelf) -> None:
    for title in ("t0", "t1"):
        made = conversations.create(db, title, project_pk=shelf.projects[-1])
        for number, role in enumerate(("user", "assistant", "tool")):
            moment = DAY + timedelta(days=number, milliseconds=number)
            said = messages.add(db, made.id, role, "hello", created_at=kept(moment))
            known = {"title": title, "conversation": made.id, "role": role, "created_at": moment, "updated_at": moment}
            shelf.rows.append(Row(Source.MESSAGE, said.pk, shelf.projects[-1], [known]))


def kept(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- the filters -----------------------------------------------------------------------------------

DAYS = [(DAY + timedelta(days=days)).date().isoformat() for days in range(-1, 6)]
TIMES = [*DAYS, kept(DAY), kept(DAY + timedelta(days=1, milliseconds=1)), "2026-03-02T13:00:00+01:00"]
TITLES = ["t0", "t1", "Report", "x"]
VALUES: Mapping[str, Sequence[Any]] = {
    "file": [name.rpartition("/")[2] for name in NAMES] + ["a.pdf.2.md", "x"],
    "path": [*NAMES, "/docs/"],
    "folder": ["docs", "/docs", "/docs/", "api", "docs/api", "/", "x", "/x", "docs.md", "x/docs", "a.pdf", "100%_d.md"],
    "extension": ["pdf", ".md", "MD", "gz", "tar.gz", "d"],
    "mime_type": ["application/pdf", "text/markdown", "x"],
    "size": [0, 100, 150.5, 200, -1, 2**62],
    "modified": TIMES,
    "page": [1, 2, 2.5, 3.0, 4, 0, 99, 1e300],
    "heading": ["", "Leave", "Leave > Annual", "Annual", "A > Leave", "A > B", "Lea"],
    "title": TITLES,
    "type": ["memory", "note", "insight"],
    "tags": ["Ada", "x", "x y", ""],
    "importance": [1, 4, 4.5, 8],
    "role": ["user", "tool", "system"],
    "created_at": TIMES,
    "updated_at": TIMES,
    "author": ["Ada", "ada", "Grace", "A", 7, True, ""],
    "year": [2024, 2024.0, 2024.5, 2025, "2024", 2023],
    "draft": [True, False, 1, "true"],
    "metadata.page": ["iv"],
    "metadata.title": [5, "Report"],
    'odd "key"\\': [1],
    "著者": ["東"],
    "nowhere": ["x", 1, True, "'; DROP TABLE projects; --"],
}
NO_ORDER = {"folder", "extension", "mime_type", "heading", "type", "tags", "role"}


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    key = draw(st.sampled_from(sorted(VALUES)))
    type = draw(st.sampled_from(["eq", "ne", "in", "nin", *([] if key in NO_ORDER else sorted(ORDERING))]))
    values = [value for value in VALUES[key] if type not in ORDERING or not isinstance(value, bool)]
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3 if type in OF_LISTS else 1))
    return comparison(type, key, chosen, "filter")


FILTERS = st.recursive(
    comparisons(),
    lambda inner: st.builds(Group, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=4).map(tuple)),
    max_leaves=6,
)


@given(FILTERS, st.sampled_from([0, 1, None]))
@settings(max_examples=250, deadline=None)
def test_what_passes_is_what_a_plain_model_says(shelf: Shelf, filter: Filter, of: int | None) -> None:
    project = None if of is None else shelf.projects[of]
    for source in Source:
        assert shelf.pks(source, filter, project) == shelf.wanted(source, filter, project)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_every_key_tells_some_rows_from_others(shelf: Shelf, key: str) -> None:
    seen: set[tuple[int, ...]] = set()
    for value in VALUES[key]:
        ordered = not (key in NO_ORDER or isinstance(value, bool))
        for type in ("eq", "ne", *(sorted(ORDERING) if ordered else ())):
            filter = comparison(type, key, [value], "filter")
            for source in Source:
                found = shelf.pks(source, filter, shelf.projects[0])
                assert found == shelf.wanted(source, filter, shelf.projects[0]), (value, type, source)
                seen.add(tuple(found))
    assert len(seen) > 2


def test_a_name_or_conversation_is_found_by_its_id(shelf: Shelf) -> None:
    for source, key in ((Source.FILE, "file_id"), (Source.MESSAGE, "conversation")):
        ids = {name[key] for row in shelf.rows if row.source == source for name in row.names}
        for id in ids:
            filter = comparison("eq", key, [id], "filter")
            assert shelf.pks(source, filter, None) == shelf.wanted(source, filter, None) != []
            assert shelf.pks(Source.MEMORY, filter, None) == []


def test_one_name_of_a_file_must_pass_the_whole_filter(shelf: Shelf) -> None:
    names = next(row.names for row in shelf.rows if row.source == Source.FILE and len(row.names) > 1)
    one, other = (name["path"] for name in names[:2])
    same = Group("and", (Comparison("eq", "path", (one,)), Comparison("ne", "path", (other,))))
    crossed = Group("and", (Comparison("eq", "path", (one,)), Comparison("eq", "path", (other,))))
    assert len(shelf.pks(Source.FILE, same, shelf.projects[0])) == 3
    assert shelf.pks(Source.FILE, crossed, shelf.projects[0]) == []


def test_as_many_values_as_are_taken_fit_into_a_statement(shelf: Shelf) -> None:
    for key, values in VALUES.items():
        many = [values[at % len(values)] for at in range(1_000)]
        filter = comparison("in", key, many, "filter")
        assert shelf.pks(Source.FILE, filter, None) == shelf.wanted(
            Source.FILE, comparison("in", key, values, "f"), None
        )
    deep: Filter = Comparison("ne", "author", ("x",))
    for level in range(MAX_DEPTH):
        inner = (Comparison("ne", "page", (at,)) for at in range(100, 140))
        deep = Group("and" if level % 2 else "or", (*inner, deep))
    assert len(shelf.pks(Source.FILE, deep, None)) == len([row for row in shelf.rows if row.source == Source.FILE])
    wide = Group("and", tuple(Comparison("ne", "author", (f"{at}",)) for at in range(1_000)))
    assert len(shelf.pks(Source.FILE, wide, None)) == len([row for row in shelf.rows if row.source == Source.FILE])


@pytest.mark.parametrize("text", ["no JSON", "[1]", '"author"', "{"])
def test_damaged_metadata_has_no_key(db: Database, text: str) -> None:
    with db.write() as tx:
        shelf = Shelf(db, [projects.create(tx, "p").pk])
        add_file(tx, shelf, model(tx), 1, METADATA[1])
        remember(tx, shelf, 3)
        tx.run("UPDATE project_files SET metadata = :text", text=text)
        tx.run("UPDATE project_memories SET tags = :text", text=text)
        for source, key in ((Source.FILE, "author"), (Source.MEMORY, "tags")):
            lacking, other = (Comparison(type, key, ("Ada",)) for type in ("eq", "ne"))
            assert len(allowed.pks(tx, source, lacking, project_pk=None)) == 0
            assert len(allowed.pks(tx, source, other, project_pk=None)) > 0


def test_titles_of_a_heading_are_told_apart_as_they_were_joined() -> None:
    assert allowed.TITLES_APART == HEADING_SEPARATOR

"""The mirror: the same answers as the database gives without it, after any changes, in bounded memory."""

from __future__ import annotations

import tempfile
import threading
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import changes, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import CorruptDatabaseError
from storage.kept_vectors import KeptVectors
from storage.sources import Source
from storage.vector_mirror import VectorMirror
from storage.vectors import Model, input_hash

DIM = 384
ROWS = 3_000
Floats = npt.NDArray[np.float32]


def unit(n: int, seed: int) -> Floats:
    """Unit vectors around a few centres, so that some are near and some are equal in their signs."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, DIM))
    values = centres[random.integers(0, 20, n)] + 0.4 * random.standard_normal((n, DIM))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def put(db: Connection, model: Model, pks: Collection[int], seed: int, project: int = 1) -> None:
    # A third of the passages share their text with another one, and so their vector.
    rows = [
        (pk, input_hash(f"{seed} {pk // 3}"), vector)
        for pk, vector in zip(pks, vectors.encode(unit(len(pks), seed)), strict=True)
    ]
    vectors.put(db, model.pk, project, Source.FILE, rows)
    changes.bump(db, project)


def register(db: Connection) -> Model:
    return vectors.ensure_model(
        db, name="m", hash="h", dim=DIM, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Model]]:
    """A project with more vectors than are scanned exactly, and a small neighbour."""
    with Database.open(tmp_path_factory.mktemp("mirror") / "large.db") as database:
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, ROWS + 1), seed=1)
            put(db, model, range(10_001, 10_101), seed=2, project=2)
        yield database, model


def search(
    db: Connection,
    model: Model,
    query: Floats,
    mirror: VectorMirror | None,
    limit: int = 10,
    allowed: Collection[int] | None = None,
) -> list[tuple[int, float]]:
    return vectors.search(
        db, model, query, project_pk=1, source=Source.FILE, limit=limit, allowed=allowed, mirror=mirror
    )


def brute_force(db: Connection, query: Floats, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
    """Return every vector of project 1, nearest first: no signs, no candidates."""
    rows = db.all(
        "SELECT b.pk, e.vector FROM vector_bits b JOIN embeddings e ON e.pk = b.embedding WHERE b.project = 1"
    )
    scored = [
        (pk, float(np.einsum("j,j->", np.frombuffer(half, "<f2").astype(np.float32), query)))
        for pk, half in rows
        if allowed is None or pk in allowed
    ]
    return sorted(scored, key=lambda hit: (-hit[1], hit[0]))


@given(
    seed=st.integers(0, 1_000),
    limit=st.sampled_from([1, 10, 100, 10_000]),
    share=st.sampled_from([None, 0.0, 0.001, 0.3, 0.9, 1.0]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mirror_and_database_agree_and_miss_little(
    large: tuple[Database, Model], seed: int, limit: int, share: float | None
) -> None:
    database, model = large
    query = unit(1, seed + 100)[0]
    pks = np.random.default_rng(seed).permutation(np.arange(1, ROWS + 1)) if share is not None else None
    allowed = None if pks is None or share is None else array("q", pks[: int(ROWS * share)].tolist())
    with database.read() as db:
        mirrored = search(db, model, query, MIRROR, limit, allowed)
        assert mirrored == search(db, model, query, None, limit, allowed)
        if allowed is not None:
            assert mirrored == search(db, model, query, MIRROR, limit, {*allowed})
            assert mirrored == search(db, model, query, MIRROR, limit, allowed + allowed[:9])
        exact = brute_force(db, query, allowed)
    assert len(mirrored) == min(limit, len(exact))
    wanted = {pk for pk, _ in exact[:limit]}
    assert len(wanted & {pk for pk, _ in mirrored}) >= 0.9 * len(wanted)
    if limit == 10_000 or (allowed is not None and len(allowed) <= vectors.EXACT_BELOW):
        assert mirrored == exact[:limit]


MIRROR = VectorMirror()


def test_where_few_of_many_allowed_rows_are_there_all_are_compared(
    large: tuple[Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, model = large
    monkeypatch.setattr(vectors, "CANDIDATES", 1)
    monkeypatch.setattr(vectors, "CANDIDATES_PER_HIT", 1)
    monkeypatch.setattr(vectors, "NEAR_PER_CANDIDATE", 1)
    allowed = array("q", range(1, 15_000, 2))
    for seed in range(5):
        query = unit(1, seed)[0]
        with database.read() as db:
            exact = brute_force(db, query, {*allowed})[:20]
            for mirror in (MIRROR, None):
                assert search(db, model, query, mirror, 20, allowed) == exact
                assert search(db, model, query, mirror, 20) != brute_force(db, query)[:20]


def test_a_filtered_search_misses_less_of_what_signs_tell_badly(
    large: tuple[Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, model = large
    monkeypatch.setattr(vectors, "CANDIDATES", 10)
    everything = array("q", range(1, 15_000))
    with database.read() as db:
        queries = [query for seed in range(15) for query in unit(1, seed)]
        exact = [brute_force(db, query, {*everything})[:3] for query in queries]
        plain, filtered = (
            sum(
                search(db, model, query, MIRROR, 3, allowed) == best for query, best in zip(queries, exact, strict=True)
            )
            for allowed in (None, everything)
        )
    assert plain < filtered


def test_products_with_the_question_choose_better_than_hamming_distance_alone(
    large: tuple[Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, model = large
    monkeypatch.setattr(vectors, "CANDIDATES", 40)
    queries = [query for seed in range(15) for query in unit(1, seed)]

    def found() -> int:
        with database.read() as db:
            exact = [{pk for pk, _ in brute_force(db, query)[:10]} for query in queries]
            nearest = [search(db, model, query, MIRROR, 10) for query in queries]
        return sum(len(best & {pk for pk, _ in near}) for best, near in zip(exact, nearest, strict=True))

    both = found()
    monkeypatch.setattr(vectors, "NEAR_PER_CANDIDATE", 1)
    assert both > found()


def test_a_project_without_vectors_gives_nothing_of_many_allowed_rows(large: tuple[Database, Model]) -> None:
    database, model = large
    for mirror in (VectorMirror(), None):
        with database.read() as db:
            found = vectors.search(
                db,
                model,
                unit(1, 0)[0],
                project_pk=99,
                source=Source.FILE,
                limit=10,
                allowed=range(1, 15_000),
                mirror=mirror,
            )
        assert found == []


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "replace", "other", "clear", "prune", "search"]),
        st.integers(0, 40),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=12,
)


@given(OPERATIONS)
@settings(max_examples=20, deadline=None)
def test_a_mirror_follows_any_changes(operations: list[tuple[str, int, int]]) -> None:
    mirror = VectorMirror()
    with (
        tempfile.TemporaryDirectory() as folder,
        Database.open(Path(folder) / "m.db") as database,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(vectors, "EXACT_BELOW", 20)
        patch.setattr(vectors, "CANDIDATES", 30)
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, 101), seed=0)
        for number, (name, size, seed) in enumerate(operations):
            with database.write() as db:
                change(db, model, name, size, seed, number)
                db.run("INSERT OR IGNORE INTO text_rows SELECT source, pk, project, 1 FROM vector_bits")
            query = unit(1, seed % 1_000)[0]
            with database.read() as db:
                for allowed in (None, [], range(1, 41), array("q", [*range(1, 100_000, 2), 1])):
                    with_mirror = search(db, model, query, mirror, 3, allowed)
                    assert with_mirror == search(db, model, query, None, 3, allowed)
                assert cosines(db, model, query, mirror) == cosines(db, model, query, None)


def cosines(db: Connection, model: Model, query: Floats, mirror: VectorMirror | None) -> dict[int, float]:
    """Return the cosines of passages that are named, as far as they are there."""
    pks = [*range(100, 0, -7), *range(1_000, 13_000, 7)]
    return vectors.cosines(db, model, query, pks, project_pk=1, source=Source.FILE, mirror=mirror)


def change(db: Connection, model: Model, name: str, size: int, seed: int, number: int) -> None:
    there = [pk for (pk,) in db.all("SELECT pk FROM vector_bits WHERE project = 1 ORDER BY pk")]
    some = np.random.default_rng(seed).permutation(there)[:size].tolist()
    match name:
        case "put":
            put(db, model, range(1_000 * (number + 1), 1_000 * (number + 1) + size), seed)
        case "delete":
            vectors.delete(db, 1, Source.FILE, some)
        case "replace":
            put(db, model, some, seed)
        case "other":
            put(db, model, range(50_000, 50_000 + size), seed, project=2)
        case "clear":
            vectors.delete_project(db, 1)
            put(db, model, range(1, 60), seed)
        case "prune":
            changes.prune(db, keep=size)


def test_where_more_is_asked_for_than_is_left_nothing_that_is_gone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CANDIDATES", "CANDIDATES_PER_HIT", "NEAR_PER_CANDIDATE"):
        monkeypatch.setattr(vectors, name, 1)
    monkeypatch.setattr(vectors, "EXACT_BELOW", 20)
    mirror, query = VectorMirror(), unit(1, 3)[0]
    with Database.open(tmp_path / "m.db") as database:
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, 31), seed=0)
        with database.read() as db:
            search(db, model, query, mirror)
        with database.write() as db:
            vectors.delete(db, 1, Source.FILE, [1, 2, 3, 4, 5])
        with database.read() as db:
            assert {pk for pk, _ in search(db, model, query, mirror, limit=27)} == {*range(6, 31)}


def test_a_mirror_ahead_of_a_snapshot_steps_aside(large: tuple[Database, Model]) -> None:
    database, model = large
    mirror, query = VectorMirror(), unit(1, 3)[0]
    with database.read() as old:
        before = search(old, model, query, None)
        with database.write() as db:
            put(db, model, range(20_000, 20_010), seed=4)
        with database.read() as new:
            search(new, model, query, mirror)
        assert search(old, model, query, mirror) == before
    with database.write() as db:
        vectors.delete(db, 1, Source.FILE, list(range(20_000, 20_010)))


def test_a_refresh_reads_only_what_changed(large: tuple[Database, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    database, model = large
    mirror, query = VectorMirror(), unit(1, 3)[0]
    with database.read() as db:
        search(db, model, query, mirror)
    with database.write() as db:
        put(db, model, [20_000], seed=5)
    monkeypatch.setattr("storage.vector_mirror._read", None)
    with database.read() as db:
        assert search(db, model, unit(1, 5)[0], mirror, 1) == search(db, model, unit(1, 5)[0], None, 1)
    with database.write() as db:
        vectors.delete(db, 1, Source.FILE, [20_000])


def test_a_part_that_is_searched_again_is_read_ahead_and_then_no_more(
    large: tuple[Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, model = large
    mirror = VectorMirror()
    with database.read() as db:
        keys = mirror_keys(db)
        search(db, model, unit(1, 3)[0], mirror)
        assert len(mirror.vectors.lacking(keys, DIM))
        search(db, model, unit(1, 4)[0], mirror)
        halves, there = mirror.vectors.find(keys, DIM)
        assert there.all()
        stored = dict(db.all("SELECT pk, vector FROM embeddings"))
        assert [half.tobytes() for half in halves] == [stored[key] for key in keys.tolist()]
        monkeypatch.setattr(vectors, "_load", None)
        monkeypatch.setattr(vectors, "read_ahead", None)
        found = search(db, model, unit(1, 5)[0], mirror)
        monkeypatch.undo()
        assert found == search(db, model, unit(1, 5)[0], None)


def test_a_part_that_has_grown_is_read_ahead_again(tmp_path: Path) -> None:
    mirror = VectorMirror()
    with Database.open(tmp_path / "a.db") as database:
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, 11), seed=1)
        for first, last, lacking in ((11, 0, 0), (11, 2_500, 0), (2_501, 2_600, 34)):
            with database.write() as db:
                put(db, model, range(first, last + 1), seed=2)
            with database.read() as db:
                for seed in (3, 4):
                    search(db, model, unit(1, seed)[0], mirror, 1)
                assert len(mirror.vectors.lacking(mirror_keys(db), DIM)) <= lacking


def test_vectors_for_which_there_is_no_room_are_not_read_ahead(large: tuple[Database, Model]) -> None:
    database, model = large
    with database.read() as db:
        keys = mirror_keys(db)
        for room, read in ((len(keys) - 1, False), (2 * len(keys), True)):
            mirror = VectorMirror()
            mirror.vectors = KeptVectors(max_bytes=2 * DIM * room)
            for seed in (3, 3, 3):
                search(db, model, unit(1, seed)[0], mirror)
            assert (len(mirror.vectors.lacking(keys, DIM)) < 0.2 * len(keys)) == read


@pytest.mark.parametrize("damage", ["x'00'", "x''", "x'0000'"])
def test_a_damaged_vector_is_not_kept_and_costs_only_the_search_that_needs_it(tmp_path: Path, damage: str) -> None:
    with Database.open(tmp_path / "a.db") as database, database.write() as db:
        model = register(db)
        put(db, model, range(1, ROWS + 1), seed=1)
        mirror, query = VectorMirror(), unit(1, 3)[0]
        found = [search(db, model, query, None)]
        ranked = {pk for pk, _ in search(db, model, query, None, ROWS // 8)}
        far = next(
            key
            for pk, key in db.all("SELECT pk, embedding FROM vector_bits ORDER BY pk DESC")
            if not ranked.intersection(range(pk - 3, pk + 4))
        )
        db.run(f"UPDATE embeddings SET vector = {damage} WHERE pk = :key", key=far)
        found += [search(db, model, query, mirror) for _ in range(3)]
        assert found == found[:1] * 4
        assert mirror.vectors.lacking(mirror_keys(db), DIM).tolist() == [far]
        with pytest.raises(CorruptDatabaseError, match="run knowlex repair"):
            search(db, model, query, mirror, ROWS)


def mirror_keys(db: Connection) -> npt.NDArray[np.int64]:
    """The vectors of the large part."""
    rows = db.all("SELECT DISTINCT embedding FROM vector_bits WHERE project = 1 ORDER BY embedding")
    return np.array([key for (key,) in rows], np.int64)


def test_what_does_not_fit_is_left_to_the_database(large: tuple[Database, Model]) -> None:
    database, model = large
    mirror, query = VectorMirror(max_bytes=1_000), unit(1, 3)[0]
    with database.read() as db:
        assert search(db, model, query, mirror) == search(db, model, query, None)
    assert mirror.used_bytes() == 0


def test_what_did_not_fit_is_mirrored_once_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.vector_mirror.LOOKED_AT_AGAIN", 1_000)
    monkeypatch.setattr(vectors, "EXACT_BELOW", 20)
    mirror, query = VectorMirror(max_bytes=150_000), unit(1, 3)[0]
    with Database.open(tmp_path / "shrinks.db") as database:
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, 2_001), seed=1)
        for last, held in ((2_000, False), (1_500, False), (300, True)):
            with database.write() as db:
                vectors.delete(db, 1, Source.FILE, range(last + 1, 2_001))
            with database.read() as db:
                assert search(db, model, query, mirror) == search(db, model, query, None)
            assert (mirror.used_bytes() > 0) is held


def test_the_part_not_used_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "EXACT_BELOW", 20)
    query = unit(1, 3)[0]
    with Database.open(tmp_path / "room.db") as database:
        with database.write() as db:
            model = register(db)
            for project in (1, 2, 3):
                put(db, model, range(100 * project, 100 * project + 50), seed=project, project=project)
        mirror = VectorMirror()
        with database.read() as db:
            sizes: list[int] = []
            for project in (1, 2, 3):
                vectors.search(db, model, query, project_pk=project, source=Source.FILE, limit=3, mirror=mirror)
                sizes.append(mirror.used_bytes())
                mirror.max_bytes = sizes[0] * 2
        assert sizes == [sizes[0], sizes[0] * 2, sizes[0] * 2]


def test_threads_search_while_another_writes(tmp_path: Path) -> None:
    mirror, failures = VectorMirror(), list[str]()
    with Database.open(tmp_path / "busy.db") as database:
        with database.write() as db:
            model = register(db)
            put(db, model, range(1, 2_200), seed=1)

        def look(seed: int) -> None:
            for number in range(10):
                query = unit(1, seed + number)[0]
                with database.read() as db:
                    if search(db, model, query, mirror) != search(db, model, query, None):
                        failures.append(f"{seed} {number}")

        threads = [threading.Thread(target=look, args=(100 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for number in range(10):
            with database.write() as db:
                put(db, model, range(10_000 + 10 * number, 10_010 + 10 * number), seed=number)
                vectors.delete(db, 1, Source.FILE, [number + 1])
        for thread in threads:
            thread.join()
    assert failures == []

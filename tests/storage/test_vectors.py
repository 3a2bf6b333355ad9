"""Models and their vectors: what is refused, what is kept, what leaves with its last use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import changes, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import CorruptDatabaseError, ModelMismatchError, NotFoundError, UsageError
from storage.sources import Source
from storage.vectors import Model, Vector, input_hash

DIM = 20  # not a multiple of 8: the last byte of the signs is filled up


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    """The writing connection, inside one transaction."""
    with db.write() as connection:
        yield connection


def model(db: Connection, **other: object) -> Model:
    values = {"name": "small", "hash": "h", "dim": DIM, "pooling": "mean", "precision": "fp32"} | other
    return vectors.ensure_model(db, **({"query_prompt": "", "document_prompt": ""} | values))  # type: ignore[arg-type]


def unit(n: int, seed: int = 0, dim: int = DIM) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def put(db: Connection, model: Model, project: int | None, texts: dict[int, str]) -> None:
    rows = [
        (pk, input_hash(text), vectors.encode(unit(1, seed=int.from_bytes(input_hash(text)[:4], "big")))[0])
        for pk, text in texts.items()
    ]
    vectors.put(db, model.pk, project, Source.FILE, rows)


def kept(db: Connection) -> tuple[int, int]:
    """Return how many signs and how many embeddings there are."""
    return db.value("SELECT count(*) FROM vector_bits"), db.value("SELECT count(*) FROM embeddings")


def log(db: Connection) -> list[tuple[int, str]]:
    return db.all("SELECT pk, op FROM change_log ORDER BY seq")


def test_the_first_model_is_live_and_stays(tx: Connection) -> None:
    assert vectors.live_model(tx) is None
    first = model(tx)
    assert first == vectors.live_model(tx) == model(tx)
    assert (first.name, first.dim, first.status) == ("small", DIM, "live")


def test_the_same_model_in_another_precision_is_the_same(tx: Connection) -> None:
    assert model(tx) == model(tx, precision="bf16")


@pytest.mark.parametrize(
    "other", [{"hash": "x"}, {"pooling": "cls"}, {"query_prompt": "query: "}, {"document_prompt": "p: "}, {"dim": 8}]
)
def test_another_model_is_refused_with_the_remedy(tx: Connection, other: dict[str, object]) -> None:
    model(tx)
    with pytest.raises(ModelMismatchError, match="come from small, not from other .*; run knowlex reembed other"):
        model(tx, name="other", **other)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[np.nan] * DIM], "NaN"),
        ([[np.inf] + [0.0] * (DIM - 1)], "infinity"),
        ([[0.0] * DIM], "unit length"),
        ([[1.0] * DIM], "unit length"),
        ([[1.0] + [0.0] * DIM], "expected"),
        ([1.0] + [0.0] * (DIM - 1), "expected"),
    ],
)
def test_what_is_no_unit_vector_is_refused(values: list[object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        vectors.encode(np.array(values, np.float32), dim=DIM)


def test_no_vectors_are_none() -> None:
    assert vectors.encode(np.empty((0, DIM), np.float32)) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 100))
def test_encoding_keeps_the_direction_and_the_signs(seed: int, dim: int) -> None:
    values = unit(3, seed, dim)
    for vector, original in zip(vectors.encode(values, dim=dim), values, strict=True):
        stored = np.frombuffer(vector.half, "<f2").astype(np.float32)
        assert abs(float(stored @ original) - 1) < 2e-3
        assert np.unpackbits(np.frombuffer(vector.bits, np.uint8))[:dim].tolist() == (stored > 0).tolist()
        assert vectors.sound(vector, dim)


def test_an_unsound_vector_is_told() -> None:
    good = vectors.encode(unit(1))[0]
    for bad in (
        Vector(good.half, bytes(len(good.bits))),
        Vector(bytes(len(good.half)), good.bits),
        Vector(good.half[2:], good.bits),
        Vector(np.full(DIM, np.nan, "<f2").tobytes(), good.bits),
    ):
        assert not vectors.sound(bad, DIM)


def test_a_vector_of_another_width_is_not_stored(tx: Connection) -> None:
    narrow = vectors.encode(unit(1, dim=8))[0]
    small = model(tx)
    with pytest.raises(UsageError, match="vector of row 1: 8 wide, but the model gives 20"):
        vectors.put(tx, small.pk, 1, Source.FILE, [(1, b"x" * 32, narrow)])


def test_a_model_that_is_gone_is_told_with_the_remedy(tx: Connection) -> None:
    with pytest.raises(NotFoundError, match=r"has no model 99 any more: .*; run the same command again"):
        vectors.put(tx, 99, 1, Source.FILE, [(1, input_hash("x"), vectors.encode(unit(1))[0])])


def test_what_is_known_comes_back_as_it_was(tx: Connection) -> None:
    small = model(tx)
    made = vectors.encode(unit(3))
    rows = [(pk, input_hash(str(pk)), vector) for pk, vector in enumerate(made)]
    vectors.put(tx, small.pk, 1, Source.FILE, rows)
    asked = [input_hash("0"), input_hash("2"), input_hash("2"), input_hash("?")]
    assert vectors.known(tx, small.pk, asked) == {input_hash("0"): made[0], input_hash("2"): made[2]}
    assert vectors.known(tx, small.pk, []) == {}
    assert vectors.known(tx, small.pk + 1, asked) == {}


def test_an_equal_input_is_kept_once_until_its_last_use_is_gone(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "same", 2: "same", 3: "other"})
    put(tx, small, 2, {4: "same"})
    assert kept(tx) == (4, 2)
    vectors.delete(tx, 1, Source.FILE, [1, 2])
    assert kept(tx) == (2, 2)
    vectors.delete(tx, 2, Source.FILE, [4])
    assert kept(tx) == (1, 1)
    assert log(tx) == [(1, "put"), (2, "put"), (3, "put"), (4, "put"), (1, "delete"), (2, "delete"), (4, "delete")]


def test_a_new_vector_replaces_the_old_one(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "old", 2: "kept"})
    put(tx, small, 1, {1: "new", 2: "kept"})
    assert kept(tx) == (2, 2)
    assert set(vectors.known(tx, small.pk, [input_hash(t) for t in ("old", "new", "kept")])) == {
        input_hash("new"),
        input_hash("kept"),
    }


def test_the_same_input_keeps_its_first_vector(tx: Connection) -> None:
    small = model(tx)
    first, second = vectors.encode(unit(2))
    vectors.put(tx, small.pk, 1, Source.FILE, [(1, input_hash("x"), first)])
    vectors.put(tx, small.pk, 1, Source.FILE, [(2, input_hash("x"), second), (3, input_hash("x"), second)])
    assert vectors.known(tx, small.pk, [input_hash("x")]) == {input_hash("x"): first}
    assert tx.all("SELECT DISTINCT bits FROM vector_bits") == [(first.bits,)]


def test_deleting_what_is_not_there_changes_nothing(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "a"})
    before = log(tx)
    vectors.delete(tx, 2, Source.FILE, [1])
    vectors.delete(tx, 1, Source.MEMORY, [1])
    vectors.delete(tx, 1, Source.FILE, [])
    assert (kept(tx), log(tx)) == ((1, 1), before)


def test_deleting_a_project_leaves_the_others(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "a", 2: "shared"})
    put(tx, small, 2, {3: "shared"})
    vectors.put(tx, small.pk, 1, Source.MEMORY, [(9, input_hash("m"), vectors.encode(unit(1))[0])])
    vectors.delete_project(tx, 1)
    assert kept(tx) == (1, 1)
    assert log(tx)[-1] == (0, "clear")


@pytest.mark.parametrize("rows", [30, 2_100])
def test_search_is_exact_where_it_matters(tx: Connection, rows: int) -> None:
    small = model(tx, dim=64)
    values = unit(rows, seed=1, dim=64)
    encoded = enumerate(vectors.encode(values), 1)
    vectors.put(tx, small.pk, None, Source.MEMORY, [(pk, input_hash(str(pk)), v) for pk, v in encoded])
    query = unit(1, seed=2, dim=64)[0]
    expected = np.argsort(-(values.astype(np.float16).astype(np.float32) @ query), kind="stable")[:5] + 1
    hits = vectors.search(tx, small, query, project_pk=None, source=Source.MEMORY, limit=5)
    assert [pk for pk, _ in hits] == expected.tolist()
    assert hits[0][1] == pytest.approx(float(values[expected[0] - 1] @ query), abs=1e-3)


def test_search_keeps_to_project_source_and_allowed(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "a", 2: "b", 3: "c"})
    put(tx, small, 2, {4: "a"})
    query = unit(1, seed=5)[0]

    def pks(**more: object) -> list[int]:
        part = {"project_pk": 1, "source": Source.FILE, "limit": 9} | more
        return sorted(pk for pk, _ in vectors.search(tx, small, query, **part))  # type: ignore[arg-type]

    assert pks() == [1, 2, 3]
    assert pks(project_pk=None) == [1, 2, 3, 4]
    assert pks(project_pk=3) == pks(source=Source.MEMORY) == pks(allowed=[]) == []
    assert pks(allowed=[2, 4]) == [2]
    assert len(pks(limit=2)) == 2


def test_equal_vectors_are_ordered_by_pk(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {7: "same", 3: "same", 5: "same"})
    hits = vectors.search(tx, small, unit(1)[0], project_pk=1, source=Source.FILE, limit=9)
    assert [pk for pk, _ in hits] == [3, 5, 7]
    assert len({score for _, score in hits}) == 1


@pytest.mark.parametrize(
    ("query", "limit", "reason"),
    [
        (unit(1)[0], 0, "limit 0"),
        (unit(1, dim=8)[0], 1, "small gives"),
        (unit(1)[0] * np.float32("nan"), 1, "NaN"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(
    tx: Connection, query: npt.NDArray[np.float32], limit: int, reason: str
) -> None:
    small = model(tx)
    with pytest.raises(UsageError, match=reason):
        vectors.search(tx, small, query, project_pk=1, source=Source.FILE, limit=limit)


def test_a_missing_embedding_is_reported_as_damage(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {1: "a", 2: "b"})
    tx.script("PRAGMA defer_foreign_keys = ON")
    tx.run("DELETE FROM embeddings WHERE pk = 1")
    with pytest.raises(CorruptDatabaseError, match="run knowlex repair"):
        vectors.search(tx, small, unit(1)[0], project_pk=1, source=Source.FILE, limit=1)
    vectors.delete(tx, 1, Source.FILE, [1, 2])


def test_a_generation_counts_each_project_alone(tx: Connection) -> None:
    assert changes.generation(tx, 1) == 0
    assert [changes.bump(tx, 1), changes.bump(tx, 1), changes.bump(tx, None)] == [1, 2, 1]
    assert (changes.generation(tx, 1), changes.generation(tx, None), changes.generation(tx, 2)) == (2, 1, 0)


def test_the_log_is_cut_but_its_numbers_go_on(tx: Connection) -> None:
    small = model(tx)
    put(tx, small, 1, {pk: str(pk) for pk in range(1, 11)})
    assert changes.prune(tx, keep=3) == 7
    assert [pk for pk, _ in log(tx)] == [8, 9, 10]
    assert changes.last_seq(tx) == 10
    assert changes.changed_vectors(tx, small.pk, 1, Source.FILE, since=8) == {9, 10}
    assert changes.changed_vectors(tx, small.pk, 1, Source.FILE, since=7) == {8, 9, 10}
    assert changes.changed_vectors(tx, small.pk, 1, Source.FILE, since=6) is None
    assert changes.changed_vectors(tx, small.pk, 2, Source.FILE, since=8) == set()
    changes.prune(tx, keep=0)
    assert changes.changed_vectors(tx, small.pk, 1, Source.FILE, since=9) is None

"""Embedding models, the vectors they made, and the search among these.

A vector is kept once for each distinct model input (`embeddings`, float16) and is used by any number
of passages (`vector_bits`: its signs, clustered by project and source). The signs choose the
candidates, first by Hamming distance, then by their product with the question itself (an asymmetric
distance: Gordo and Perronnin, "Asymmetric distances for binary embeddings", 2011); the float16 vectors
give the exact score.

numpy is imported where it is needed: a text search must start without it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import apsw

from storage.connection import Connection, load_vector_functions
from storage.errors import (
    CorruptDatabaseError,
    ModelMismatchError,
    ModelSwitchedError,
    NotFoundError,
    UsageError,
)
from storage.ids import new_id, now_text
from storage.paging import LAST_PK
from storage.sources import NO_PROJECT, Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from storage.kept_vectors import Halves, KeptVectors
    from storage.vector_mirror import Scan, VectorMirror

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

EXACT_BELOW = 2_000
"""Up to this many rows every vector is compared exactly."""

CANDIDATES = 400
"""How many rows, at least, are chosen by their signs to be compared exactly."""

CANDIDATES_PER_HIT = 4

NEAR_PER_CANDIDATE = 8
"""From how many rows, nearest by Hamming distance, each of these is chosen."""

SIGN_SCALE = 2**15
"""A question's values are rounded to whole shares of this, so that their sums are exact in float32, in any order."""

COMPARED = 16_384
"""Vectors that are compared exactly at a time: 38 MB of them, however many are asked for."""

CACHED = 128
"""Vectors whose float32 values are made at a time: they stay in the cache until they are multiplied."""

READ_AHEAD = 4_096
"""Vectors read ahead at once: 3 MB of them, of 384 values."""

FILTERED_FACTOR = 2
"""How many times as many are chosen where a filter allows some rows only: what it finds is held to brute force."""

UNIT_TOLERANCE = 0.01
"""How far from 1 the length of a vector may be: bf16 models normalise to about 0.004."""

LARGEST = 1 + 3 * UNIT_TOLERANCE
"""What neither a value of such a vector nor the product of two of them is above."""


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model the database knows: `hash` covers all its files."""

    pk: int
    id: str
    name: str
    hash: str
    dim: int
    pooling: str
    query_prompt: str
    document_prompt: str
    precision: str
    status: str

    def same(self, other: Model) -> bool:
        """Tell whether vectors of the two can be compared."""
        return self._identity == other._identity

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.hash, self.dim, self.pooling, self.query_prompt, self.document_prompt


_MODEL = "pk, id, name, hash, dim, pooling, query_prompt, document_prompt, precision, status"


@dataclass(frozen=True, slots=True)
class Vector:
    """One vector as it is stored: `half` little-endian float16, `bits` its packed signs."""

    half: bytes
    bits: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The vectors a search looks through: of one model, project (None: all) and source."""

    model: int
    project: int | None
    source: Source
    allowed: Collection[int] | None = None

    @property
    def condition(self) -> str:
        """The part as an SQL condition on `vector_bits`."""
        project = "" if self.project is None else " AND project = :project"
        allowed = "" if self.allowed is None else " AND pk IN (SELECT value FROM carray(:allowed))"
        return f"model = :model AND source = :source{project}{allowed}"

    def values(self) -> dict[str, Any]:
        """What the condition binds."""
        found: dict[str, Any] = {"model": self.model, "source": self.source}
        if self.project is not None:
            found["project"] = self.project
        if self.allowed is not None:
            found["allowed"] = integers(self.allowed)
        return found


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of `vector_bits`: pks and embeddings, int64 (n,), and packed signs, uint8 (n, bytes)."""

    pks: Integers
    embeddings: Integers
    signs: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pks)

    def at(self, places: npt.NDArray[np.intp]) -> Rows:
        """Return those at these places."""
        return Rows(self.pks[places], self.embeddings[places], self.signs[places])


def live_model(db: Connection) -> Model | None:
    """Return the model whose vectors are searched, or None before the first one."""
    row = db.one(f"SELECT {_MODEL} FROM embedding_models WHERE status = 'live'")
    return Model(*row) if row else None


def ensure_model(
    db: Connection,
    *,
    name: str,
    hash: str,
    dim: int,
    pooling: str,
    query_prompt: str,
    document_prompt: str,
    precision: str,
) -> Model:
    """Return the live model if it is this one; register this one as live when there is none.

    Precision may differ: bf16 and fp32 vectors of one model can be compared.
    Raises ModelMismatchError when another model is live.
    """
    given = Model(0, "", name, hash, dim, pooling, query_prompt, document_prompt, precision, "live")
    live = live_model(db)
    if live is None:
        return register(db, given)
    require_same(db.path, live, given)
    return live


def require_same(path: Path, live: Model, given: Model) -> None:
    """Raise ModelMismatchError where vectors of a model cannot be compared with those of the live one."""
    if not live.same(given):
        raise ModelMismatchError(
            f"{path}: its vectors come from {live.name}, not from {given.name} as configured;"
            f" run knowlex reembed {given.name}, or configure {live.name} with the prompts and pooling it had"
        )


def register(db: Connection, model: Model) -> Model:
    """Enter a model with the status it has, or give that, the name and the precision to the row of the same model."""
    pk: int = db.value(
        "INSERT INTO embedding_models (id, name, hash, dim, pooling, query_prompt, document_prompt,"
        " precision, status, created_at, updated_at) VALUES (:id, :name, :hash, :dim, :pooling,"
        " :query_prompt, :document_prompt, :precision, :status, :now, :now)"
        " ON CONFLICT (hash, pooling, query_prompt, document_prompt) DO UPDATE SET name = excluded.name,"
        " precision = excluded.precision, status = excluded.status, updated_at = :now RETURNING pk",
        id=new_id(),
        name=model.name,
        hash=model.hash,
        dim=model.dim,
        pooling=model.pooling,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
        precision=model.precision,
        status=model.status,
        now=now_text(),
    )
    return get_model(db, pk)


def get_model(db: Connection, pk: int) -> Model:
    """Return a model by its primary key; raises NotFoundError."""
    row = db.one(f"SELECT {_MODEL} FROM embedding_models WHERE pk = :pk", pk=pk)
    if row is None:
        raise NotFoundError(
            f"{db.path}: has no model {pk} any more: another database was restored into it; run the same command again"
        )
    return Model(*row)


def input_hash(text: str) -> bytes:
    """Return the SHA-256 of the exact text a model was given."""
    return hashlib.sha256(text.encode("utf8", "surrogatepass")).digest()


def encode(vectors: Floats, *, dim: int | None = None) -> list[Vector]:
    """Turn unit vectors, float32 (n, dim), into what is stored.

    The signs are those of the rounded values, so that they can be made again from `half` alone.
    Raises UsageError for what is no array of floats, not finite, not of unit length, or not `dim` wide (if given).
    """
    import numpy as np

    _require_floats(vectors)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or (dim is not None and vectors.shape[1] != dim):
        raise UsageError(f"vectors of shape {vectors.shape}: expected (n, {dim or 'dim'})")
    if not np.isfinite(vectors).all():
        raise UsageError("vectors hold NaN or infinity: the model's output cannot be used")
    with np.errstate(over="ignore"):  # what is too long for a float is not of unit length
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if len(lengths) and float(np.abs(lengths - 1).max()) > UNIT_TOLERANCE:
        raise UsageError("vectors are not of unit length: normalise the model's output")
    half = vectors.astype("<f2")
    bits = np.packbits(half > 0, axis=1)
    return [Vector(h.tobytes(), b.tobytes()) for h, b in zip(half, bits, strict=True)]


def _require_floats(values: Floats) -> None:
    import numpy as np

    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"vectors: {type(values).__name__} without floats; expected an array of float32")


def _signs(half: bytes) -> bytes:
    import numpy as np

    return _signs_of(np.frombuffer(half, "<f2"))


def _signs_of(half: npt.NDArray[np.float16]) -> bytes:
    import numpy as np

    return np.packbits(half > 0).tobytes()


def sound(vector: Vector, dim: int) -> bool:
    """Say whether a stored vector is `dim` wide, finite, of unit length, and has its own signs."""
    import numpy as np

    values = np.frombuffer(vector.half, "<f2").astype(np.float64) if len(vector.half) == 2 * dim else np.empty(0)
    return bool(abs(np.linalg.norm(values) - 1) <= UNIT_TOLERANCE) and _signs(vector.half) == vector.bits


def known(db: Connection, model_pk: int, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
    """Return the vectors the database holds already, by input hash."""
    if not hashes:
        return {}
    rows = db.all(
        "SELECT input_hash, vector FROM embeddings"
        " WHERE model_id = :model AND input_hash IN (SELECT value FROM carray(:hashes))",
        model=model_pk,
        hashes=bound(tuple(dict.fromkeys(hashes))),
    )
    return {digest: Vector(half, _signs(half)) for digest, half in rows}


def put(
    db: Connection,
    model_pk: int,
    project_pk: int | None,
    source: Source,
    rows: Iterable[tuple[int, bytes, Vector]],
) -> None:
    """Store the vectors of passages, replacing those they had, and log the change.

    rows: (pk, input_hash, vector) each. project_pk None: of no project.
    An input that has a vector already keeps it: a model may round it otherwise in another batch.
    Nobody holds copies of a model that is still being built, so that its changes are not logged.
    Raises UsageError for a vector that is not as wide as the model's, ModelSwitchedError where that is retired.
    """
    batch = list(rows)
    if not batch:
        return
    model = _require_in_use(db, model_pk)
    _require_width(model, batch)
    project = NO_PROJECT if project_pk is None else project_pk
    stale = _embeddings_of(db, model_pk, project, source, [pk for pk, _, _ in batch])
    kept = known(db, model_pk, [digest for _, digest, _ in batch])
    fresh = {digest: vector for _, digest, vector in batch if digest not in kept}
    db.many(
        "INSERT INTO embeddings (model_id, input_hash, vector) VALUES (:model, :hash, :vector)",
        ({"model": model_pk, "hash": digest, "vector": vector.half} for digest, vector in fresh.items()),
    )
    bits = {digest: vector.bits for digest, vector in (kept | fresh).items()}
    db.many(
        "INSERT INTO vector_bits (model, project, source, pk, bits, embedding)"
        " SELECT :model, :project, :source, :pk, :bits, pk FROM embeddings"
        " WHERE model_id = :model AND input_hash = :hash"
        " ON CONFLICT (model, project, source, pk)"
        " DO UPDATE SET bits = excluded.bits, embedding = excluded.embedding",
        (
            {"model": model_pk, "project": project, "source": source, "pk": pk, "bits": bits[digest], "hash": digest}
            for pk, digest, _ in batch
        ),
    )
    drop_unused(db, stale)
    if model.status == "live":
        _log(db, model_pk, project, source, [pk for pk, _, _ in batch], "put")


def delete(db: Connection, project_pk: int | None, source: Source, pks: Sequence[int]) -> None:
    """Remove the vectors of passages, of every model, and what nothing else uses; log the change."""
    if not pks:
        return
    project = NO_PROJECT if project_pk is None else project_pk
    for (model,) in db.all("SELECT pk FROM embedding_models"):
        removed = db.all(
            "DELETE FROM vector_bits WHERE model = :model AND project = :project AND source = :source"
            " AND pk IN (SELECT value FROM carray(:pks)) RETURNING pk, embedding",
            model=model,
            project=project,
            source=source,
            pks=integers(pks),
        )
        drop_unused(db, [embedding for _, embedding in removed])
        _log(db, model, project, source, [pk for pk, _ in removed], "delete")


def delete_project(db: Connection, project_pk: int) -> None:
    """Remove every vector of a project and what nothing else uses; one entry in the log says so."""
    removed: list[int] = []
    for (model,) in db.all("SELECT pk FROM embedding_models"):
        rows = db.all(
            "DELETE FROM vector_bits WHERE model = :model AND project = :project RETURNING embedding",
            model=model,
            project=project_pk,
        )
        removed += [embedding for (embedding,) in rows]
    drop_unused(db, removed)
    db.run(
        "INSERT INTO change_log (model, project, source, pk, op) VALUES (0, :project, '', 0, 'clear')",
        project=project_pk,
    )


def search(
    db: Connection,
    model: Model,
    query: Floats,
    *,
    project_pk: int | None,
    source: Source,
    limit: int,
    allowed: Collection[int] | None = None,
    mirror: VectorMirror | None = None,
) -> list[tuple[int, float]]:
    """Return (pk, cosine) of the passages nearest to a question, best first, ties by pk.

    query: float32 (dim,), unit length. project_pk None: of all projects. allowed: the pks that may be
    found, applied before ranking, so that min(limit, those there) come back.
    mirror: where a long-lived process keeps the signs; the result is the same without it.
    Raises UsageError for a limit below 1 or a query that does not fit the model.
    """
    return near(db, model, query, project_pk=project_pk, source=source, allowed=allowed, mirror=mirror).best(limit)


def near(
    db: Connection,
    model: Model,
    query: Floats,
    *,
    project_pk: int | None,
    source: Source,
    allowed: Collection[int] | None = None,
    mirror: VectorMirror | None = None,
) -> Near:
    """Return a part as a question looks at it, to ask for its best as often as one likes; see `search`."""
    require_query(model, query)
    part = Part(model.pk, project_pk, source, allowed)
    bits = _signs_of(query.astype("<f2"))
    if allowed is not None and len(allowed) <= EXACT_BELOW:
        return Near(db, query, part, bits, _everything(db, part), None, mirror)
    # Asked before rows are counted, which costs the engine more than a mirror takes to rank them.
    scan = mirror.scan(db, part, bits) if mirror else None
    few = scan is None and (_is_small(db, replace(part, allowed=None)) or (allowed is not None and _is_small(db, part)))
    return Near(db, query, part, bits, _everything(db, part) if few else None, scan, mirror)


@dataclass(frozen=True, slots=True)
class Near:
    """The vectors of a part as a question looks at them.

    everything: all rows, where they are few; scan: what a mirror found of them; with neither, the engine is asked.
    """

    db: Connection
    query: Floats
    part: Part
    bits: bytes
    everything: Rows | None
    scan: Scan | None
    mirror: VectorMirror | None

    def best(self, limit: int) -> list[tuple[int, float]]:
        """Return what `search` does for this limit. Raises UsageError for one below 1."""
        if limit < 1:
            raise UsageError(f"limit {limit}: ask for at least 1 hit")
        factor = 1 if self.part.allowed is None else FILTERED_FACTOR
        wanted = min(factor * max(CANDIDATES, CANDIDATES_PER_HIT * limit), LAST_PK)
        chosen = _candidates(self._nearest(min(NEAR_PER_CANDIDATE * wanted, LAST_PK)), self.query, wanted)
        return _ranked(chosen.pks, _cosines(self.db, self.query, chosen.embeddings, self.mirror), limit)

    def _nearest(self, wanted: int) -> Rows:
        """Return the rows to choose from: all of a few, else those whose signs differ least."""
        if self.everything is not None:
            return self.everything
        return self.scan.nearest(wanted) if self.scan else _nearest(self.db, self.part, self.bits, wanted)


def _candidates(near: Rows, query: Floats, wanted: int) -> Rows:
    """Return the rows to compare exactly: all of a few, else those with the largest products of signs and question."""

    if len(near) <= max(wanted, EXACT_BELOW):
        return near
    return near.at(least(-_products(near.signs, query), near.pks, wanted))


def _products(signs: npt.NDArray[np.uint8], query: Floats) -> Floats:
    """Return for each row of packed signs the sum of the question's values that have a 1 there, float32 (n,).

    The 256 sums that eight values can have are made once and looked up by byte.
    """
    import numpy as np

    width = signs.shape[1]
    values = np.zeros(8 * width, np.float32)
    values[: len(query)] = np.rint(query * SIGN_SCALE)
    sums = np.zeros((width, 1), np.float32)
    for column in np.flip(values.reshape(width, 8), axis=1).T:  # the first of eight is the highest bit
        sums = np.concatenate([sums, sums + column[:, None]], axis=1)
    products = np.zeros(len(signs), np.float32)
    for sums_of_byte, column in zip(sums, np.ascontiguousarray(signs.T), strict=True):
        products += cast("Floats", sums_of_byte.take(column))
    return products


def least(values: npt.NDArray[Any], pks: Integers, count: int) -> npt.NDArray[np.intp]:
    """Return the places of the `count` least values, among equals of those with the lowest pks, in no order.

    There must be as many.
    """
    import numpy as np

    limit = np.partition(values, count - 1)[count - 1]
    places = np.flatnonzero(values <= limit)
    if len(places) == count:
        return places
    below = values[places] < limit
    tied = places[~below]
    return np.concatenate([places[below], tied[np.argsort(pks[tied])[: count - np.count_nonzero(below)]]])


def cosines(
    db: Connection,
    model: Model,
    query: Floats,
    pks: Collection[int],
    *,
    project_pk: int | None,
    source: Source,
    mirror: VectorMirror | None = None,
) -> dict[int, float]:
    """Return the cosine of these indexed passages with a question, by pk; one without a vector is left out.

    project_pk: what they are of, or None: of any. mirror: see `search`.
    """
    require_query(model, query)
    known = mirror.embeddings(db, Part(model.pk, project_pk, source), pks) if mirror else None
    found, embeddings = known or _embeddings(db, model, source, pks)
    return dict(zip(found.tolist(), _cosines(db, query, embeddings, mirror).tolist(), strict=True))


def of_passages(db: Connection, model: Model, source: Source, pks: Collection[int]) -> dict[int, Floats]:
    """Return the vectors of these indexed passages, float32 (dim,), by pk; one without a vector is left out."""
    found, embeddings = _embeddings(db, model, source, pks)
    return dict(zip(found.tolist(), _sound(db, _floats(_load(db, embeddings, model.dim))), strict=True))


def _embeddings(db: Connection, model: Model, source: Source, pks: Collection[int]) -> tuple[Integers, Integers]:
    """Return pks and embeddings of these indexed passages, in one order."""
    # The project comes from the text index: without it, the key of vector_bits cannot be used.
    rows = db.all(
        "SELECT b.pk, b.embedding FROM carray(:pks) p"
        " CROSS JOIN text_rows r ON r.source = :source AND r.pk = p.value"
        " CROSS JOIN vector_bits b ON b.model = :model AND b.project = r.project AND b.source = :source"
        " AND b.pk = r.pk",
        pks=integers(pks),
        model=model.pk,
        source=source,
    )
    return _integers(rows, 0), _integers(rows, 1)


def _integers(rows: Sequence[tuple[Any, ...]], column: int) -> Integers:
    import numpy as np

    return np.array([row[column] for row in rows], np.int64)


def require_query(model: Model, query: Floats) -> None:
    """Raise UsageError for a question's vector that cannot be compared with a model's: see `encode`."""
    import numpy as np

    _require_floats(query)
    if query.shape != (model.dim,):
        raise UsageError(f"query vector of shape {query.shape}: {model.name} gives ({model.dim},)")
    # What is clearly of unit length is finite, too; each search asks this a few times.
    with np.errstate(over="ignore", invalid="ignore"):  # of what is not
        length = float(query.dot(query))
    if not abs(length - 1) <= UNIT_TOLERANCE:
        encode(query.reshape(1, -1))


def _is_small(db: Connection, part: Part) -> bool:
    count = db.value(
        f"SELECT count(*) FROM (SELECT 1 FROM vector_bits WHERE {part.condition} LIMIT :limit)",
        limit=EXACT_BELOW + 1,
        **part.values(),
    )
    return count <= EXACT_BELOW


def _everything(db: Connection, part: Part) -> Rows:
    """Return all rows, without their signs: nothing is chosen from so few."""
    import numpy as np

    rows = db.all(f"SELECT pk, embedding FROM vector_bits WHERE {part.condition}", **part.values())
    return Rows(_integers(rows, 0), _integers(rows, 1), np.empty((len(rows), 0), np.uint8))


def _nearest(db: Connection, part: Part, bits: bytes, wanted: int) -> Rows:
    """Return the rows whose signs differ least, ties by pk."""
    import numpy as np

    if not db.value("SELECT 1 FROM pragma_function_list WHERE name = 'vec_distance_hamming'"):
        load_vector_functions(db)
    rows = db.all(
        f"SELECT pk, embedding, bits FROM vector_bits WHERE {part.condition}"
        " ORDER BY vec_distance_hamming(vec_bit(bits), vec_bit(:bits)), pk LIMIT :wanted",
        bits=bits,
        wanted=wanted,
        **part.values(),
    )
    signs = np.frombuffer(b"".join([bits for _, _, bits in rows]), np.uint8)
    return Rows(_integers(rows, 0), _integers(rows, 1), signs.reshape(len(rows), len(bits)))


def _ranked(pks: Integers, scores: Floats, limit: int) -> list[tuple[int, float]]:
    import numpy as np

    order = np.lexsort((pks, -scores))[:limit]
    return list(zip(pks[order].tolist(), scores[order].tolist(), strict=True))


def _cosines(db: Connection, query: Floats, embeddings: Integers, mirror: VectorMirror | None) -> Floats:
    """Return the cosines of vectors with a question, float32 (n,)."""
    import numpy as np

    cosines = np.empty(len(embeddings), np.float32)
    for first in range(0, len(embeddings), COMPARED):
        block = embeddings[first : first + COMPARED]
        halves = _kept(db, block, len(query), mirror.vectors) if mirror else _load(db, block, len(query))
        for begin in range(0, len(halves), CACHED):
            some = slice(first + begin, min(first + begin + CACHED, first + len(halves)))
            # Row by row, so that equal vectors score equally wherever they stand (a BLAS product does not).
            np.einsum("ij,j->i", _floats(halves[begin : begin + CACHED]), query, out=cosines[some])
    return _sound(db, cosines)


def _sound(db: Connection, values: Floats) -> Floats:
    """Return cosines or vectors; raise CorruptDatabaseError for what no vector of unit length gives.

    One NaN would make NaN of all hybrid scores, which are scaled by each other.
    """
    import numpy as np

    if values.size and not float(np.abs(values).max()) <= LARGEST:
        raise CorruptDatabaseError(f"{db.path}: a vector is not of unit length; run knowlex repair")
    return values


def _kept(db: Connection, embeddings: Integers, dim: int, kept: KeptVectors) -> Halves:
    """Return what `_load` does, and read no more than what is not kept."""
    halves, there = kept.find(embeddings, dim)
    lacking = embeddings[~there]
    if len(lacking):
        halves[~there] = read = _load(db, lacking, dim)
        kept.keep(lacking, read)
    return halves


def read_ahead(db: Connection, model_pk: int, embeddings: Integers, kept: KeptVectors) -> None:
    """Keep those of these vectors that are not kept, where there is room for all that are lacking.

    What is damaged or gone is passed over: a search that comes to need it says so.
    """
    dim = get_model(db, model_pk).dim
    lacking = kept.lacking(embeddings, dim)
    if len(lacking) > kept.free(dim):
        return
    for first in range(0, len(lacking), READ_AHEAD):
        with suppress(CorruptDatabaseError):
            rows = db.all(
                "SELECT e.pk, e.vector FROM carray(:pks) p CROSS JOIN embeddings e ON e.pk = p.value"
                " WHERE length(e.vector) = :width",
                pks=bound(lacking[first : first + READ_AHEAD]),
                width=2 * dim,
            )
            if rows:
                kept.keep(_integers(rows, 0), _halves([half for _, half in rows], dim))


def _load(db: Connection, embeddings: Integers, dim: int) -> Halves:
    """Return the bits of vectors in the order asked for, uint16 (n, dim)."""
    import numpy as np

    if not len(embeddings):
        return np.empty((0, dim), np.uint16)
    rows = db.all(
        "SELECT e.vector FROM carray(:pks) p CROSS JOIN embeddings e ON e.pk = p.value",
        pks=bound(embeddings),
    )
    halves = [half for (half,) in rows]
    if len(halves) != len(embeddings) or {*map(len, halves)} != {2 * dim}:
        raise CorruptDatabaseError(f"{db.path}: vectors are missing or of a wrong width; run knowlex repair")
    return _halves(halves, dim)


def _halves(halves: Sequence[bytes], dim: int) -> Halves:
    import numpy as np

    return np.frombuffer(b"".join(halves), "<u2").reshape(-1, dim)


def _floats(halves: Halves) -> Floats:
    """Return the values of float16 bits, float32 in the same shape."""
    return _float32s().take(halves)


@cache
def _float32s() -> Floats:
    """Return the float32 of each float16 by its bits; to look them up takes half the time of a conversion."""
    import numpy as np

    return np.arange(2**16, dtype="<u2").view("<f2").astype(np.float32)


def require_live(db: Connection, model_pk: int) -> None:
    """Raise ModelSwitchedError unless this model is live, in the transaction that writes what it made."""
    live = live_model(db)
    if live is None or live.pk != model_pk:
        raise ModelSwitchedError(f"{db.path}: another model became live meanwhile; make the vectors anew with that")


def _require_in_use(db: Connection, model_pk: int) -> Model:
    """Return the model; raise ModelSwitchedError where its vectors are no longer searched, nor to be."""
    model = get_model(db, model_pk)
    if model.status == "retired":
        raise ModelSwitchedError(f"{db.path}: {model.name} is retired; make the vectors anew with the live model")
    return model


def _require_width(model: Model, batch: Sequence[tuple[int, bytes, Vector]]) -> None:
    for pk, _, vector in batch:
        if len(vector.half) != 2 * model.dim or len(vector.bits) != (model.dim + 7) // 8:
            raise UsageError(f"vector of row {pk}: {len(vector.half) // 2} wide, but the model gives {model.dim}")


def _embeddings_of(db: Connection, model: int, project: int, source: Source, pks: Sequence[int]) -> list[int]:
    if not pks:
        return []
    rows = db.all(
        "SELECT embedding FROM vector_bits WHERE model = :model AND project = :project"
        " AND source = :source AND pk IN (SELECT value FROM carray(:pks))",
        model=model,
        project=project,
        source=source,
        pks=integers(pks),
    )
    return [embedding for (embedding,) in rows]


def drop_unused(db: Connection, embeddings: Sequence[int]) -> None:
    """Remove those of these embeddings that nothing uses any more."""
    if not embeddings:
        return
    db.run(
        "DELETE FROM embeddings WHERE pk IN (SELECT value FROM carray(:pks))"
        " AND NOT EXISTS (SELECT 1 FROM vector_bits WHERE embedding = embeddings.pk)",
        pks=integers(embeddings),
    )


def _log(db: Connection, model: int, project: int, source: Source, pks: Sequence[int], op: str) -> None:
    db.many(
        "INSERT INTO change_log (model, project, source, pk, op) VALUES (:model, :project, :source, :pk, :op)",
        ({"model": model, "project": project, "source": source, "pk": pk, "op": op} for pk in pks),
    )


def integers(values: Collection[int]) -> Any:
    """Return many integers as one value to bind; carray refuses none at all, and no pk is 0."""
    return bound(packed(values or (0,)))


def packed(values: Collection[int]) -> array[int]:
    """Return integers as an array of 64 bits each, without a copy of what is one."""
    return values if isinstance(values, array) else array("q", values)


def bound(values: Any) -> Any:
    """Return an array, or a tuple of bytes, as one value to bind for `carray`."""
    return apsw.carray(values)  # pyright: ignore[reportUnknownMemberType]

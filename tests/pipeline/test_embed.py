"""Embedding with the real model: compiled once, faithful, safe under threads, silent on the network."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import compile
from pipeline.embed import (
    DEFAULT_MODEL,
    PARTS,
    Embedder,
    EmbedSettings,
    RememberingEmbedder,
    batches,
    cut_at,
    embed_whole,
    in_windows,
    load,
    unit_length,
)
from pipeline.model_files import hash_files, locate, resolve
from pipeline.openvino_graph import Padding, has_fast_bf16, pad
from storage.errors import ConfigurationError, KnowlexError

# One worker runs them all, so that the model is compiled once.
pytestmark = pytest.mark.xdist_group("embed")

TEXTS = [
    "",
    "a",
    "Which passages matter for this question?",
    "The quick brown fox jumps over the lazy dog.",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG.",
    "Naïve café: 3.14 C++ foo_bar getUserById() ADR-016",
    "東京は日本の首都です。",
    "Москва — столица России. 🙂",
    "def add(a, b):\n    return a + b",
    "| x | y |\n|---|---|\n| 1 | 2 |",
    *(f"Sentence number {n} of a paragraph about bees, hives and honey. " * n for n in range(1, 10)),
    "far longer than the model takes " * 100,
]

# Python starts with this in every process below: no connection is made, and each attempt is written down.
NO_NETWORK = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(event + "\\n")
        raise OSError("no network here")
sys.addaudithook(watch)
"""

EMBED = """
import json, logging, sys
from pathlib import Path
logging.basicConfig(format="%(message)s", level=logging.INFO)
from pipeline.embed import EmbedSettings, load
embedder = load(EmbedSettings(cache_dir=Path(sys.argv[1])))
vector = embedder.embed_documents(["one text"])[0]
query = embedder.embed_query("one text")
heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub"} & set(sys.modules)
print(json.dumps({"cosine": float(vector @ query), "heavy": sorted(heavy), "hash": embedder.identity.hash}))
"""


@dataclass(frozen=True)
class FirstStart:
    """What two processes did that started at once on an empty cache, without network and home."""

    cache: Path
    home: Path
    answers: list[dict[str, Any]]
    logs: list[str]
    connections: str


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> FirstStart:
    cache, home = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("home")
    environment = without_network(tmp_path_factory.mktemp("site"), home)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", EMBED, str(cache)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    log = Path(environment["NETWORK_LOG"])
    return FirstStart(
        cache=cache,
        home=home,
        answers=[json.loads(out) for out, _ in outputs],
        logs=[err for _, err in outputs],
        connections=log.read_text() if log.exists() else "",
    )


def without_network(site: Path, home: Path) -> dict[str, str]:
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    return {**kept, "PYTHONPATH": str(site), "HOME": str(home), "NETWORK_LOG": str(site / "log")}


@pytest.fixture(scope="session")
def model_cache(first_start: FirstStart) -> Path:
    return first_start.cache


@pytest.fixture(scope="session")
def embedder(model_cache: Path) -> Embedder:
    return load(EmbedSettings(cache_dir=model_cache))


@pytest.fixture(scope="session")
def reference() -> Any:
    """sentence-transformers itself, imported only for the tests that compare with it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(locate(DEFAULT_MODEL)), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def expected(reference: Any) -> np.ndarray:
    """What it makes of the texts."""
    return reference.encode(TEXTS)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


# -- The first start


def test_two_processes_compile_once(first_start: FirstStart):
    assert sorted(log.count("compiling the model") for log in first_start.logs) == [0, 1]
    assert sorted(path.name for path in first_start.cache.glob("models/*/*")) == [
        "manifest.json",
        "model.bin",
        "model.xml",
    ]


def test_serving_and_compiling_import_no_torch_into_the_caller(first_start: FirstStart):
    assert [answer["heavy"] for answer in first_start.answers] == [[], []]


def test_nothing_is_sent_and_nothing_written_into_the_home_folder(first_start: FirstStart):
    assert first_start.connections == ""
    assert list(first_start.home.iterdir()) == []


def test_openvino_as_it_comes_would_send_something(tmp_path: Path):
    """The proof that the test above can fail."""
    environment = without_network(tmp_path, tmp_path)
    subprocess.run([sys.executable, "-c", "import openvino"], env=environment, check=True)
    assert "socket" in (tmp_path / "log").read_text()


# -- Faithful vectors


def test_identity_states_what_made_the_vectors(embedder: Embedder, first_start: FirstStart):
    identity = embedder.identity
    assert (identity.name, identity.dim, identity.max_tokens) == (DEFAULT_MODEL, 384, 256)
    assert (identity.pooling, identity.backend, identity.query_prompt) == ("mean", "openvino", "")
    assert identity.precision == ("bf16" if has_fast_bf16() else "fp32")
    assert identity.hash == resolve(DEFAULT_MODEL).hash == first_start.answers[0]["hash"]


@pytest.mark.parametrize(("precision", "least"), [("auto", 0.9998), ("fp32", 0.99999)])
def test_vectors_are_those_of_sentence_transformers(
    model_cache: Path, expected: np.ndarray, precision: Any, least: float
):
    vectors = load(EmbedSettings(cache_dir=model_cache, precision=precision)).embed_documents(TEXTS)
    assert cosines(vectors, expected).min() >= least


def test_documents_have_shape_type_and_unit_length(embedder: Embedder):
    vectors = embedder.embed_documents(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 384), np.float32)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_no_documents_are_no_rows(embedder: Embedder):
    vectors = embedder.embed_documents([])
    assert (vectors.shape, vectors.dtype) == ((0, 384), np.float32)


def test_a_query_is_one_vector_near_its_document(embedder: Embedder):
    vector = embedder.embed_query(TEXTS[3])
    assert (vector.shape, vector.dtype) == ((384,), np.float32)
    assert vector @ embedder.embed_documents([TEXTS[3]])[0] > 0.9999


def test_order_and_company_barely_change_a_vector(embedder: Embedder):
    together = embedder.embed_documents(TEXTS)
    reversed_ = embedder.embed_documents(TEXTS[::-1])[::-1]
    alone = np.concatenate([embedder.embed_documents([text]) for text in TEXTS])
    assert cosines(together, reversed_).min() > 1 - 1e-3
    assert cosines(together, alone).min() > 1 - 1e-3


def test_a_text_longer_than_the_model_takes_is_the_mean_of_its_parts(embedder: Embedder):
    long = "".join(f"{text} " * 30 for text in TEXTS[:12])
    parts = embedder.parts(long)
    assert 2 < len(parts) <= PARTS
    assert parts[0] in long
    assert "".join("".join(parts).split()) == "".join(long.split())[: len("".join("".join(parts).split()))]
    vectors = embed_whole(embedder, [TEXTS[0], long, TEXTS[1]])
    alone = embedder.embed_documents([TEXTS[0], *parts, TEXTS[1]])
    assert np.array_equal(vectors[[0, 2]], alone[[0, -1]])
    mean = np.average(alone[1:-1], axis=0, weights=[len(part) for part in parts])
    assert vectors[1] @ mean / np.linalg.norm(mean) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-5)
    assert vectors[1] @ embedder.embed_documents([long])[0] < 0.99


def test_no_more_than_so_many_parts_of_a_text_are_looked_at(embedder: Embedder):
    assert len(embedder.parts("word " * 1_000_000)) == PARTS
    assert embedder.parts("word") == ["word"]
    assert embedder.parts(" " * 1_000_000) == [" " * 1_000_000]
    assert embedder.parts("") == [""]
    assert embed_whole(embedder, []).shape == (0, 384)


def test_a_lone_surrogate_is_embedded(embedder: Embedder):
    assert np.isfinite(embedder.embed_query("broken \ud800 text")).all()


def test_threads_get_their_own_answers(embedder: Embedder):
    expected = embedder.embed_documents(TEXTS)

    def work(number: int) -> float:
        if number % 2:
            return float(embedder.embed_query(TEXTS[number % 20]) @ expected[number % 20])
        return float(cosines(embedder.embed_documents(TEXTS), expected).min())

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(work, range(24))) > 1 - 1e-3


def test_prompts_that_are_set_are_put_before_the_text(embedder: Embedder, model_cache: Path):
    prompted = load(EmbedSettings(cache_dir=model_cache, query_prompt="query: ", document_prompt="passage: "))
    assert (prompted.identity.query_prompt, prompted.identity.document_prompt) == ("query: ", "passage: ")
    assert prompted.embed_query("bees") @ embedder.embed_query("query: bees") > 0.9999
    assert prompted.embed_documents(["bees"])[0] @ embedder.embed_documents(["passage: bees"])[0] > 0.9999


class Counting:
    """An embedder that notes which questions reach the model."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.identity = embedder.identity
        self.asked: list[str] = []
        self.cut: list[str] = []

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return self._embedder.embed_documents(texts)

    def embed_query(self, text: str) -> np.ndarray:
        self.asked.append(text)
        return self._embedder.embed_query(text)

    def parts(self, text: str) -> list[str]:
        self.cut.append(text)
        return self._embedder.parts(text)

    def known_letters(self, text: str) -> float:
        return self._embedder.known_letters(text)


def test_it_is_told_where_a_question_is_cut_and_a_short_one_is_not_looked_at(embedder: Embedder):
    most = embedder.identity.max_tokens
    remembering = RememberingEmbedder(embedder)
    remembering.embed_query("bees " * most)
    for count in (most - 1, most, 10_000):  # also where its vector is known
        assert cut_at(remembering, "bees " * count) == most
    assert cut_at(remembering, "bees " * (most - 2)) is None
    assert cut_at(embedder, "蜂" * (most - 2)) is None
    assert cut_at(embedder, "蜂" * 3 * most) == most
    assert cut_at(embedder, "broken \ud800 " * most) == most
    counting = Counting(embedder)
    assert cut_at(counting, "how is the hybrid score blended, and of what?") is None
    assert counting.cut == []
    prompted = Counting(embedder)
    prompted.identity = replace(embedder.identity, query_prompt="query: ")
    assert [cut_at(prompted, "bees " * count) for count in (most - 4, most - 3)] == [None, most]


def test_a_question_that_was_just_asked_does_not_wait_for_the_model(embedder: Embedder):
    counting = Counting(embedder)
    remembering = RememberingEmbedder(counting, size=2)
    questions = ["bees", "hives", "bees", "broken \ud800", "bees", "hives"]
    answers = [remembering.embed_query(question) for question in questions]
    assert counting.asked == ["bees", "hives", "broken \ud800", "hives"]  # the one asked for longest ago gives way
    for question, answer in zip(questions, answers, strict=True):
        assert answer @ embedder.embed_query(question) > 0.9999
    with pytest.raises(ValueError, match="read-only"):
        answers[0][0] = 1
    assert remembering.identity == embedder.identity
    assert (remembering.embed_documents(["bees"]) == embedder.embed_documents(["bees"])).all()


# -- torch


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9995), ("fp32", 0.99999)])
def test_the_torch_backend_agrees(model_cache: Path, expected: np.ndarray, precision: Any, least: float):
    torch_embedder = load(EmbedSettings(cache_dir=model_cache, backend="torch", precision=precision))
    assert (torch_embedder.identity.backend, torch_embedder.identity.precision) == ("torch", precision)
    vectors = torch_embedder.embed_documents(TEXTS)
    assert cosines(vectors, expected).min() >= least
    assert torch_embedder.embed_query(TEXTS[3]) @ vectors[3] > 0.999
    assert torch_embedder.embed_documents([]).shape == (0, 384)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_both_backends_describe_the_model_alike(embedder: Embedder, model_cache: Path):
    other = load(EmbedSettings(cache_dir=model_cache, backend="torch", precision=embedder.identity.precision)).identity
    assert replace(other, backend="openvino") == embedder.identity


# -- A second model: the same weights, other pooling, prompts; over a damaged cache


@pytest.fixture(scope="session")
def cls_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    original = locate(DEFAULT_MODEL)
    folder = tmp_path_factory.mktemp("cls")
    shutil.copytree(original, folder, dirs_exist_ok=True, ignore=lambda _, names: {"model.safetensors"} & set(names))
    (folder / "model.safetensors").symlink_to(original / "model.safetensors")
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 384, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (folder / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "question: ", "document": "passage: "}}'
    )
    return folder


def damaged_cache(model_cache: Path, cls_model: Path, cache: Path) -> Path:
    """A cache that claims to hold the second model: the first one's manifest with a graph cut short."""
    (source,) = (path for path in model_cache.glob("models/*") if path.is_dir())
    files = resolve(str(cls_model), cache)
    target = cache / "models" / files.hash[:16]
    target.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, "model": files.hash}))
    (target / "model.xml").write_bytes((source / "model.xml").read_bytes())
    (target / "model.bin").write_bytes((source / "model.bin").read_bytes()[:1000])
    return target


def test_a_damaged_graph_is_compiled_again_with_pooling_and_prompts(
    model_cache: Path, cls_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: Any
):
    folder = damaged_cache(model_cache, cls_model, tmp_path)
    folder.with_name(f"{folder.name}.tmp-killed").mkdir()
    with caplog.at_level(logging.INFO, "knowlex.embed"):
        second = load(EmbedSettings(str(cls_model), cache_dir=tmp_path, precision="fp32"))
    assert "damaged" in caplog.text
    assert "compiling" in caplog.text
    assert (folder / "model.bin").stat().st_size > 1000
    assert [path.name for path in folder.parent.iterdir() if ".tmp-" in path.name] == []
    assert second.identity.pooling == "cls"
    expected = load(EmbedSettings(str(cls_model), cache_dir=tmp_path, precision="fp32", backend="torch"))
    assert replace(expected.identity, backend="openvino") == second.identity
    assert cosines(second.embed_documents(TEXTS), expected.embed_documents(TEXTS)).min() > 0.99999
    assert second.embed_query("bees") @ expected.embed_query("bees") > 0.99999
    assert second.embed_query("bees") @ second.embed_documents(["bees"])[0] < 0.999


def test_a_graph_that_another_process_replaces_meanwhile_is_waited_for(
    model_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    left = [FileNotFoundError(errno.ENOENT, "No such file or directory")]

    def gone_at_first(folder: Path, cache_dir: Path | None = None) -> dict[str, str]:
        if left:
            raise left.pop()
        return hash_files(folder, cache_dir)

    monkeypatch.setattr(compile, "hash_files", gone_at_first)
    assert load(EmbedSettings(cache_dir=model_cache)).embed_query("bees").shape == (384,)


def test_a_cache_that_is_emptied_before_the_first_text_is_filled_again(model_cache: Path, tmp_path: Path):
    shutil.copytree(model_cache, tmp_path / "cache")
    embedder = load(EmbedSettings(cache_dir=tmp_path / "cache"))
    before = embedder.embed_query("one text")
    shutil.rmtree(tmp_path / "cache")
    assert before @ embedder.embed_documents(["one text"])[0] > 0.999


def test_a_model_refused_before_goes_straight_to_torch(
    cls_model: Path, model_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: Any
):
    folder = damaged_cache(model_cache, cls_model, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "refused": "it is a test"}))
    settings = EmbedSettings(str(cls_model), cache_dir=tmp_path)
    assert load(settings).identity.backend == "torch"
    assert "embedding with torch" in caplog.text
    with pytest.raises(ConfigurationError, match="it is a test"):
        load(replace(settings, backend="openvino"))


# -- What goes wrong


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_disk: Path):
    with pytest.raises(ConfigurationError, match="cannot be written .* are free") as caught:
        load(EmbedSettings(cache_dir=tiny_disk))
    assert "\n" not in caught.value.message
    assert list(tiny_disk.glob("models/*/*")) == []


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.embed import EmbedSettings, load
from storage.errors import ConfigurationError
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
try:
    load(EmbedSettings(cache_dir=Path(sys.argv[1])))
except ConfigurationError as error:
    print(error.message)
"""


@pytest.mark.soak
def test_a_write_that_fails_half_way_is_one_line_and_leaves_nothing(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "cannot be written" in done.stdout
    assert [path.name for path in tmp_path.glob("models/*") if path.suffix != ".lock"] == []


def test_a_cache_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=str(tmp_path / "file")):
        load(EmbedSettings(cache_dir=tmp_path / "file"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "onnx"},
        {"precision": "int8"},
        {"threads": -1},
        {"batch_size": 0},
        {"backend": "openvino", "device": "cuda"},
    ],
)
def test_a_setting_that_cannot_be_used_is_named(wrong: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=str(next(reversed(wrong)))):
        EmbedSettings(**wrong)


def test_a_device_that_does_not_exist_is_named(model_cache: Path, reference: Any):
    with pytest.raises(ConfigurationError, match="nonsense"):
        load(EmbedSettings(cache_dir=model_cache, device="nonsense"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_useless_vector_is_an_error_and_its_text_is_not_told(bad: float):
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[1] = bad
    with pytest.raises(KnowlexError, match="text 2 of 3"):
        unit_length(vectors)


# -- Laws


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 3000])
def test_windows_keep_the_order(count: int):
    texts = [str(number) for number in range(count)]
    sizes: list[int] = []

    def embed(window: Sequence[str]) -> np.ndarray:
        sizes.append(len(window))
        angles = np.array([float(text) for text in window]) / 1000
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    vectors = in_windows(texts, 2, embed)
    assert vectors.shape == (count, 2)
    assert np.allclose(np.unwrap(np.arctan2(vectors[:, 1], vectors[:, 0])), np.arange(count) / 1000, atol=1e-4)
    assert max(sizes, default=0) <= 1024


@given(st.lists(st.integers(0, 600)), st.integers(1, 64), st.integers(1, 4096))
def test_batches_hold_each_text_once_in_powers_of_two(counts: list[int], rows: int, tokens: int):
    groups = batches(counts, rows, tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(counts)))
    flat = [counts[index] for group in groups for index in group]
    assert flat == sorted(flat, reverse=True)
    for group in groups:
        assert len(group) <= rows
        assert len(group) & (len(group) - 1) == 0
        assert len(group) == 1 or len(group) * counts[group[0]] <= tokens


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=77), min_size=1, max_size=5),
    st.booleans(),
)
def test_padding_keeps_every_token_and_marks_the_rest(rows: list[list[int]], left: bool):
    ids, mask = pad(rows, Padding(0, left, max_tokens=77))
    assert ids.shape == mask.shape
    assert ids.shape[1] <= 77
    assert ids.shape[1] % 8 == 0 or ids.shape[1] == 77
    assert (ids[mask == 0] == 0).all()
    assert [list(row[kept == 1]) for row, kept in zip(ids, mask, strict=True)] == rows
    edge = mask[:, -1] if left else mask[:, 0]
    assert edge.tolist() == [int(bool(row)) for row in rows]

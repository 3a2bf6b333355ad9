"""Reranking with a small real cross-encoder: found, compiled, faithful, and asked for through the doors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_api import Api
from second_model import cache_with_the_default_model
from small_cross_encoder import small_cross_encoder

from knowlex import Knowlex
from knowlex.cli import main
from pipeline import compile as compiling
from pipeline import rerank
from pipeline.embed import DEFAULT_MODEL, EmbedSettings
from pipeline.model_files import resolve
from pipeline.rerank import OpenVinoReranker, Reranker, load
from storage.errors import ConfigurationError

# One worker runs them all, with the tests of the embedder: torch is imported once.
pytestmark = pytest.mark.xdist_group("embed")

QUERY = "Which dog barks at night?"
TEXTS = [
    "A dog barks at night.",
    "The cat sleeps all day.",
    "",
    "東京は日本の首都です。",
    "longer than the model takes " * 40,
    "half a character \udc80",
    *(f"Dog number {n} " + "runs " * n for n in range(20)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_cross_encoder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_with_the_default_model(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def compiled(folder: Path, cache: Path) -> Reranker:
    return load(EmbedSettings(model=str(folder), backend="openvino", cache_dir=cache))


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """What sentence-transformers' own cross-encoder makes of the texts."""
    from sentence_transformers import CrossEncoder

    texts = [text.encode("utf8", "replace").decode("utf8") for text in TEXTS]
    return CrossEncoder(str(folder), device="cpu").predict([(QUERY, text) for text in texts], show_progress_bar=False)


def test_the_compiled_model_scores_as_sentence_transformers_does(compiled: Reranker, expected: np.ndarray) -> None:
    scores = compiled.scores(QUERY, TEXTS)
    assert isinstance(compiled, OpenVinoReranker)
    assert (scores.dtype, scores.shape) == (np.float32, (len(TEXTS),))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores.argsort().tolist() == expected.argsort().tolist()
    assert compiled.scores(QUERY, []).shape == (0,)


def test_so_does_torch(folder: Path, cache: Path, expected: np.ndarray) -> None:
    scores = load(EmbedSettings(model=str(folder), backend="torch", cache_dir=cache)).scores(QUERY, TEXTS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_company_does_not_change_a_score(compiled: Reranker) -> None:
    together = compiled.scores(QUERY, TEXTS)
    alone = np.concatenate([compiled.scores(QUERY, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_serving_a_compiled_model_imports_no_torch(folder: Path, cache: Path, compiled: Reranker) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.rerank import load; from pipeline.embed import EmbedSettings\n"
        f"load(EmbedSettings(model={str(folder)!r}, cache_dir=Path({str(cache)!r}))).scores('a', ['b'])\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_model_that_cannot_be_compiled_runs_with_torch(tmp_path: Path, folder: Path, expected: np.ndarray) -> None:
    files = resolve(str(folder))
    refused = tmp_path / "models" / f"{files.hash[:16]}-pairs"
    refused.mkdir(parents=True)
    manifest = {"format": 1, "model": files.hash, "versions": compiling._versions(), "refused": "it puts a prompt"}
    (refused / "manifest.json").write_text(json.dumps(manifest))
    scores = load(EmbedSettings(model=str(folder), cache_dir=tmp_path)).scores(QUERY, TEXTS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    with pytest.raises(ConfigurationError, match="it puts a prompt"):
        load(EmbedSettings(model=str(folder), backend="openvino", cache_dir=tmp_path))


def test_what_a_graph_cannot_say_is_not_compiled(folder: Path) -> None:
    from pipeline.convert import _refuse_other_pairs
    from pipeline.torch_reranker import load_cross_encoder

    model = load_cross_encoder(folder, device="cpu")
    _refuse_other_pairs(model)
    model.prompts, model.default_prompt_name = {"query": "search: "}, "query"
    with pytest.raises(ValueError, match="prompt"):
        _refuse_other_pairs(model)


def test_an_embedding_model_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no cross-encoder .*; set rerank_model to one"):
        load(EmbedSettings(cache_dir=tmp_path))


def test_more_than_one_score_a_pair_is_refused(tmp_path: Path) -> None:
    folder = small_cross_encoder(tmp_path / "two", labels=2)
    with pytest.raises(ConfigurationError, match="gives 2 scores a pair"):
        load(EmbedSettings(model=str(folder), backend="torch", cache_dir=tmp_path))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("pickle", "weights as a pickle"), ("code", "auto_map"), ("gone", "no such folder"), ("json", "cannot be read")],
)
def test_an_unsafe_or_broken_model_is_refused(tmp_path: Path, damage: str, reason: str) -> None:
    folder = small_cross_encoder(tmp_path / "bad")
    if damage == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    if damage == "code":
        (folder / "config.json").write_text('{"auto_map": {"AutoModel": "mine.Model"}}')
    if damage == "json":
        (folder / "config.json").write_text("{")
    name = tmp_path / "other" if damage == "gone" else folder
    with pytest.raises(ConfigurationError, match=reason):
        load(EmbedSettings(model=str(name), cache_dir=tmp_path))


# --- through the doors


@pytest.fixture
def kb(tmp_path: Path, cache: Path) -> Any:
    with Knowlex(tmp_path / "a.db", cache_dir=str(cache)) as kb:
        kb.projects.create("p")
        for n in range(8):
            kb.memories.add("p", f"dog {n}", f"The dog {'barks ' * n}at night {n}")
        yield kb


def test_hits_come_in_the_order_of_the_reranker(kb: Knowlex, folder: Path, compiled: Reranker) -> None:
    asked = {"mode": "text", "sources": ("memories",), "explain": True}
    plain = kb.search("p", "dog", 8, **asked)
    hits = kb.search("p", "dog", 8, rerank=str(folder), **asked)
    scores = dict(zip([hit.id for hit in plain], compiled.scores("dog", [hit.text for hit in plain]), strict=True))
    assert [hit.id for hit in hits] == sorted(scores, key=lambda id: -scores[id])
    assert [hit.id for hit in hits] != [hit.id for hit in plain]
    assert [hit.why["rerank_score"] for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-5)
    legs = [{hit.id: (hit.text_score, hit.text_rank) for hit in found} for found in (plain, hits)]
    assert legs[0] == legs[1]
    assert (hits.legs["rerank"].returned, hits.legs["rerank"].degraded) == (8, None)
    assert list(plain.legs) == ["text", "vector"]


def test_the_command_line_takes_the_model_of_the_settings(
    kb: Knowlex, folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "p", "dog", "--source", "memories", "--mode", "text", "--rerank", "--db", str(kb.path)]
    assert main(command) == 4
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "KNOWLEX_RERANK_MODEL" in said.err
    monkeypatch.setenv("KNOWLEX_RERANK_MODEL", str(folder))
    monkeypatch.setenv("KNOWLEX_RERANK_CANDIDATES", "3")
    monkeypatch.setenv("KNOWLEX_CACHE_DIR", str(cache))
    assert main([*command, "--explain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["legs"]["rerank"]["returned"] == 3
    assert ["rerank_score" in hit["why"] for hit in found["hits"]] == [True] * 3 + [False] * 5


def test_without_a_model_that_can_be_had_the_order_stays_and_the_leg_says_why(
    kb: Knowlex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"mode": "text", "sources": ("memories",)}
    plain = [hit.id for hit in kb.search("p", "dog", **asked)]
    for model, reason in ((str(tmp_path / "none"), "none"), (DEFAULT_MODEL, "is no cross-encoder")):
        hits = kb.search("p", "dog", rerank=model, **asked)
        assert [hit.id for hit in hits] == plain
        assert hits.legs["rerank"].returned == 0
        assert str(hits.legs["rerank"].degraded).startswith("the passages could not be reranked: ")
        assert reason in str(hits.legs["rerank"].degraded)
    with pytest.raises(ConfigurationError, match="rerank_model: is not set"):
        kb.search("p", "dog", rerank=True, **asked)
    monkeypatch.setenv("KNOWLEX_RERANK_MODEL", str(tmp_path / "none"))
    command = ["search", "p", "dog", "--source", "memories", "--mode", "text", "--rerank", "--db", str(kb.path)]
    assert main(command) == 0
    assert "rerank leg: the passages could not be reranked" in capsys.readouterr().err


def test_a_model_that_fails_to_load_in_any_way_is_named(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> object:
        raise RuntimeError("openvino:\ncannot allocate")

    monkeypatch.setattr(rerank, "load", fail)
    told = r"^some/model: could not be loaded \(RuntimeError: openvino: cannot allocate\); see to memory"
    with pytest.raises(ConfigurationError, match=told):
        kb.engine.reranker("some/model")
    hits = kb.search("p", "dog", rerank="some/model", mode="text", sources=("memories",))
    assert len(hits) == 8
    assert "some/model: could not be loaded" in (hits.legs["rerank"].degraded or "")


def test_a_server_tells_that_its_reranker_is_not_to_be_had_but_not_where_it_lies(kb: Knowlex, tmp_path: Path) -> None:
    with Knowlex(kb.path, rerank_model=str(tmp_path / "none")) as served:
        asked = {"query": "dog", "mode": "text", "sources": ["memories"], "rerank": True}
        answer = Api(served).everyone.post("/v1/projects/p/search", json=asked)
        assert (answer.status_code, len(answer.json()["hits"])) == (200, 8)
        reason = answer.json()["legs"]["rerank"]["degraded"]
        assert reason.startswith("the passages could not be reranked: ")
        assert str(tmp_path) not in reason


def test_an_evaluation_ranks_documents_in_the_order_of_the_reranker(
    sample_data: Path, tmp_path: Path, folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Knowlex(tmp_path / "a.db", cache_dir=str(cache)) as kb:
        plain = kb.evaluate(sample_data / "judged", k=10, progress=False)
        reranked = kb.evaluate(sample_data / "judged", k=10, progress=False, rerank=str(folder))
    assert (plain.as_dict()["rerank"], reranked.as_dict()["rerank"]) == (False, True)
    pairs = list(zip(plain.judged, reranked.judged, strict=True))
    assert all(one.ranking.keys() == other.ranking.keys() for one, other in pairs)
    assert any(list(one.ranking) != list(other.ranking) for one, other in pairs)
    for one in reranked.judged:
        assert list(one.ranking.values()) == sorted(one.ranking.values(), reverse=True)
    assert main(["--db", str(tmp_path / "a.db"), "eval", str(sample_data / "judged"), "--rerank"]) == 4
    said = capsys.readouterr().err
    assert "KNOWLEX_RERANK_MODEL" in said
    assert "asking" not in said

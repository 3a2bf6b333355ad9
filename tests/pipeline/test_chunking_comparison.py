"""The comparison of ways to cut: their laws, its measures, and that it gets through small collections."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.chunking.__main__ import cut, ranked
from benchmarks.chunking.beir import abstracts, articles, sessions
from benchmarks.chunking.files import ASKED, real_documents
from benchmarks.chunking.manual import manual
from benchmarks.chunking.measures import answer_recall, judge
from benchmarks.chunking.policies import Piece, policies
from benchmarks.chunking.ranking import Passage, ranker
from benchmarks.chunking.report import Outcome, report
from benchmarks.chunking.texts import Answer, Collection, Question
from benchmarks.chunking.vectors import Vectors
from pipeline import embed, model_files
from pipeline.document import Document

TOKENIZER = model_files.tokenizer(model_files.resolve(embed.DEFAULT_MODEL))
POLICIES = {policy.label: policy for policy in policies(TOKENIZER)}

PARTS = [
    "One sentence of some words. ",
    "Another! ",
    "word ",
    "\n\n",
    "\n",
    "# Title\n\n",
    "日本語。",
    "x" * 200,
    " ",
    ". ",
]


@pytest.mark.parametrize("label", POLICIES)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=150).map("".join))
def test_every_policy_keeps_the_whole_text_in_pieces_of_its_size(label: str, text: str) -> None:
    policy = POLICIES[label]
    pieces = policy.cut(Document(text, "markdown", "test"))
    seen = {place for piece in pieces for place in range(piece.start, piece.end)}
    assert {place for place, character in enumerate(text) if not character.isspace()} <= seen
    for piece in pieces:
        assert text[piece.start : piece.end] == piece.text == piece.text.strip() != ""
        # windows cut inside words, whose parts are other tokens by themselves
        assert len(TOKENIZER.encode(piece.model_input)) <= policy.size + 4 * (policy.name == "fixed windows")


def test_the_default_comes_first_and_headings_differ_where_they_should() -> None:
    assert next(iter(POLICIES)) == "structure, 256"
    text = Document("# A title\n\n" + "Some more words here. " * 200, "markdown", "test")
    with_heading, bare, none = (
        POLICIES[f"{name}, 128"].cut(text)[-1]
        for name in ("structure", "structure, heading not embedded", "structure, no heading at all")
    )
    assert with_heading.text == bare.text == none.text
    assert with_heading.model_input == f"A title\n{bare.model_input}"
    assert [piece.heading for piece in (with_heading, bare, none)] == ["A title", "A title", ""]


def passage(text: str, start: int, end: int, tokens: int) -> Passage:
    return Passage(text, "", Piece(start, end, "", "", ""), tokens)


def test_the_share_of_an_answer_within_a_budget() -> None:
    question = Question("q", "?", {"a": 1.0}, (Answer("a", 90, 110), Answer("b", 0, 20)))
    ranking = [passage("a", 0, 100, 50), passage("b", 10, 60, 25), passage("a", 100, 200, 50)]
    assert answer_recall(question, ranking, 50) == 10 / 40
    assert answer_recall(question, ranking, 75) == 20 / 40
    assert answer_recall(question, ranking, 80) == 30 / 40  # a tenth of the third, where the budget ends
    assert answer_recall(question, [*ranking, *ranking], 1_000) == 30 / 40
    assert answer_recall(question, [], 1_000) == 0
    judged = judge(question, ranking)
    assert (judged["ndcg@10"], judged["recall@10"], judged["answer@5"]) == (1.0, 1.0, 1.0)
    assert judge(question, ranking[1:2])["recall@10"] == 0
    assert "answer@5" not in judge(Question("q", "?", {"a": 1.0}), ranking)


@pytest.fixture(scope="module")
def embedder() -> embed.Embedder:
    return embed.load(embed.EmbedSettings())


def test_vectors_are_made_once_and_a_torn_end_is_cut_off(embedder: embed.Embedder, tmp_path: Path) -> None:
    texts = ["a heron", "a river", "a heron"]
    vectors = Vectors(tmp_path, embedder)
    assert vectors.make(texts) == 2
    (path,) = tmp_path.iterdir()
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"torn")
    again = Vectors(tmp_path, embedder)
    assert path.stat().st_size == whole
    assert again.make([*texts, "a lake"]) == 1
    assert np.array_equal(again.of(texts), vectors.of(texts))
    assert np.allclose(again.of(texts), embedder.embed_documents(texts), atol=0.01)


def beir(folder: Path, corpus: list[tuple[str, str, str]], queries: list[dict[str, str]], judged: str) -> Path:
    folder.mkdir()
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf8") as file:
        file.writelines(json.dumps({"_id": id, "title": t, "text": text}) + "\n" for id, t, text in corpus)
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries), "utf8")
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf8")
    return folder


def test_passages_are_joined_and_answers_found_in_them(tmp_path: Path) -> None:
    corpus = [("p1", "Old_towns", "Bath is old."), ("p2", "Old_towns", "York is old, York."), ("p3", "Rivers", "Ouse.")]
    queries = [{"_id": "q", "text": "which is old?", "answers": ["York"]}, {"_id": "unjudged", "text": "?"}]
    folder = beir(tmp_path / "small", corpus, queries, "q\tp2\t1\n")
    whole = articles(folder, "choice")
    assert [text.document.text for text in whole.texts] == [
        "# Old towns\n\nBath is old.\n\nYork is old, York.",
        "# Rivers\n\nOuse.",
    ]
    ((answer,),) = [question.answers for question in whole.questions]
    assert whole.texts[0].document.text[answer.start :] == "York is old, York."
    assert answer.end - answer.start == 4
    apart = abstracts(folder, "check", most=1)
    assert [(text.id, text.document.text) for text in apart.texts] == [("p2", "# Old_towns\n\nYork is old, York.")]


def test_a_question_is_asked_of_its_own_conversation(embedder: embed.Embedder, tmp_path: Path) -> None:
    corpus = [(f"{talk}/D1:{turn}", "Monday", f"Ann: heron {turn} of {talk}.") for talk in "ab" for turn in range(3)]
    folder = beir(
        tmp_path / "talks", corpus, [{"_id": "a/q", "text": "heron 1 of b?", "scope": "a"}], "a/q\ta/D1:1\t1\n"
    )
    talks = sessions(folder, "choice")
    (question,) = talks.questions
    (answer,) = question.answers
    assert talks.texts[0].document.text[answer.start : answer.end] == "Ann: heron 1 of a."
    passages = [
        Passage(text.id, text.scope, piece, 9)
        for text in talks.texts
        for piece in POLICIES["structure, 256"].cut(text.document)
    ]
    vectors = Vectors(tmp_path / "vectors", embedder)
    vectors.make(passage.piece.model_input for passage in passages)
    with ranker(passages, vectors) as search:
        found = search.rank(question)
    assert {mode: [passage.text_id for passage in ranking] for mode, ranking in found.items()} == {
        "hybrid": ["a/D1"],
        "text": ["a/D1"],
        "vector": ["a/D1"],
    }


def test_any_scopes_stand_beside_each_other(embedder: embed.Embedder, tmp_path: Path) -> None:
    scopes = ["", "all", "two\nlines"]
    passages = [Passage("t", scope, Piece(0, 5, "heron", "", "heron"), 9) for scope in scopes]
    vectors = Vectors(tmp_path / "vectors", embedder)
    vectors.make(["heron"])
    with ranker(passages, vectors) as search:
        for scope in scopes:
            found = search.rank(Question("q", "heron", {"t": 1.0}, (Answer("t", 0, 5),), scope))
            assert [passage.scope for passage in found["hybrid"]] == [scope]


def test_entries_of_the_manual_are_found_by_their_docstrings(tmp_path: Path) -> None:
    entry = ".. function:: copyfileobj(a, b)\n              copyfileobj(a, b, n)\n\n   Copies what\n   is left."
    text = f".. module:: shutil\n\n.. function:: none()\n\n   None.\n\n{entry}\n\n   More of it.\n" + "text\n" * 9_000
    (tmp_path / "page").write_text(text)
    names = [f"./python-3.11-rst/library/{number}.rst.txt" for number in range(8)]
    with tarfile.open(tmp_path / "docs.tar.xz", "w:xz") as archive:
        for name in names:
            archive.add(tmp_path / "page", name)
    both = [manual(tmp_path / "docs.tar.xz", use, least=1) for use in ("choice", "check")]
    assert {text.id for each in both for text in each.texts} == {name.rpartition("/")[2] for name in names}
    assert not {text.id for text in both[0].texts} & {text.id for text in both[1].texts}
    question = both[0].questions[0]
    assert question.words == "copy data from file-like object fsrc to file-like object fdst"
    (answer,) = question.answers
    assert text[answer.start : answer.end] == entry


def test_the_report_tells_what_was_found(embedder: embed.Embedder, tmp_path: Path) -> None:
    long = "They nest by the river, and fish there. " * 20
    corpus = [("p1", "Herons", f"{long}A heron weighs two kilos. {long}"), ("p2", "Crows", f"Black birds. {long}")]
    queries = [{"_id": "q", "text": "how much does a heron weigh?", "answers": ["two kilos"]}]
    small = articles(beir(tmp_path / "birds", corpus, queries, "q\tp1\t1\n"), "choice")
    vectors = Vectors(tmp_path / "vectors", embedder)
    outcomes = [Outcome(POLICIES[label], speed=1.0) for label in ("structure, 256", "fixed windows, 128")]
    for outcome in outcomes:
        outcome.passages[small.name], outcome.input_tokens[small.name] = cut(outcome.policy, small, TOKENIZER)
        vectors.make(passage.piece.model_input for passage in outcome.passages[small.name])
        ranked(outcome, small, vectors)
    lines = list(report(outcomes, [small], 256))
    size = sum(len(text.document.text) for text in small.texts)
    assert f"| birds articles | choice | 2 | {size} | 1 |" in lines
    assert "| structure, 256 | 1.000 | 1.000 |  |  |" in lines
    assert "| fixed windows, 128 | 1.000 | 1.000 | +0.000 | 1.0000 |" in lines
    outcomes[1].passages[small.name] = [p for p in outcomes[1].passages[small.name] if "two kilos" not in p.piece.text]
    ranked(outcomes[1], small, vectors)
    lines = list(report(outcomes, [small], 256))
    assert "| fixed windows, 128 | 0.000 | 0.000 | -1.000 | 1.0000 |" in lines
    assert [line for line in lines if line.startswith("| fixed windows, 128") and "100.0%" in line]


def test_quoted_answers_are_found_in_the_real_documents(shared_data: Path) -> None:
    found: Collection = real_documents((shared_data / "docs").resolve(), distractors=1)
    texts = {text.id: text.document.text for text in found.texts}
    answers = {json.loads(line)["id"]: json.loads(line)["answer"] for line in ASKED.read_text("utf8").splitlines()}
    assert len(found.questions) == 30
    assert sum(bool(question.answers) for question in found.questions) >= 20
    for question in found.questions:
        assert question.grades.keys() <= texts.keys()
        assert {texts[a.text][a.start : a.end] for a in question.answers} <= {answers[question.id]}

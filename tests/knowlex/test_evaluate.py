"""`knowlex eval`: a judged collection is ingested, asked and judged, in a database of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from knowlex.evaluation import Difference, Evaluation, Judged, _write
from pipeline import trec
from pipeline.collection import Document, Query
from pipeline.embed import RememberingEmbedder
from pipeline.evaluate import MEASURES
from storage.errors import NotFoundError, UsageError

CONTRACT = ["dataset", "mode", "queries", "ndcg@10", "recall@10", "recall@100", "mrr@10", "query_ms"]


@pytest.fixture(scope="module")
def judged(sample_data: Path) -> Path:
    return sample_data / "judged"


@pytest.fixture(scope="module")
def hybrid(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """The collection judged once, and the folder of its run and its report."""
    folder = tmp_path_factory.mktemp("eval")
    with Knowlex(folder / "untouched.db") as kb:
        return kb.evaluate(judged, run=folder / "hybrid.run", report=folder / "questions.jsonl"), folder


def test_the_answer_is_the_contract(hybrid: tuple[Evaluation, Path]) -> None:
    told = hybrid[0].as_dict()
    assert list(told)[: len(CONTRACT)] == CONTRACT
    assert (told["dataset"], told["mode"], told["queries"]) == ("judged", "hybrid", 5)
    assert set(told["query_ms"]) == {"p50", "p95"}
    assert 0 < told["query_ms"]["p50"] <= told["query_ms"]["p95"]
    assert told["recall@100"] == 1.0
    assert told["ndcg@10"] > 0.8


def test_documents_with_the_same_bytes_are_all_ranked(hybrid: tuple[Evaluation, Path]) -> None:
    [diesel] = [one for one in hybrid[0].judged if one.query.id == "q2"]
    assert set(list(diesel.ranking)[:2]) == {"harbour/fuel", "harbour/fuel-copy"}
    assert diesel.measures["ndcg@10"] == 1.0


def test_a_scope_keeps_other_documents_out(hybrid: tuple[Evaluation, Path]) -> None:
    [scoped] = [one for one in hybrid[0].judged if one.query.id == "q5"]
    assert scoped.ranking
    assert all(document.startswith("bakery/") for document in scoped.ranking)


def test_what_has_no_text_is_counted(hybrid: tuple[Evaluation, Path]) -> None:
    assert (hybrid[0].documents, hybrid[0].unsearchable) == (9 + 4, 2), "all, and once more those of the scope"


def test_scores_of_a_ranking_never_rise(hybrid: tuple[Evaluation, Path]) -> None:
    for one in hybrid[0].judged:
        assert list(one.ranking.values()) == sorted(one.ranking.values(), reverse=True)


def test_the_run_holds_every_ranking(hybrid: tuple[Evaluation, Path]) -> None:
    whole, folder = hybrid
    assert trec.read(folder / "hybrid.run") == {one.query.id: list(one.ranking) for one in whole.judged}


def test_the_report_says_of_each_question_what_was_missed(hybrid: tuple[Evaluation, Path]) -> None:
    lines = [json.loads(line) for line in (hybrid[1] / "questions.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["q1", "q2", "q3", "q4", "q5"]
    assert all(line["missed"] == [] for line in lines)
    assert {"text", "ndcg@10", "ms", "ranking"} <= set(lines[0])
    assert len(hybrid[0].to_pandas()) == 5


def test_the_database_of_the_caller_is_not_touched(hybrid: tuple[Evaluation, Path]) -> None:
    assert not (hybrid[1] / "untouched.db").exists()


def test_more_passages_are_asked_for_until_enough_documents_are_ranked(judged: Path, tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", candidates=1) as kb:
        deep, shallow = (kb.evaluate(judged, mode="vector", k=k) for k in (100, 1))
    assert max(len(one.ranking) for one in deep.judged) == 8, "all but the empty one"
    # A model rounds the same text otherwise in another batch.
    assert shallow.judged[0].ranking == pytest.approx(deep.judged[0].ranking, abs=0.005), "the measures look that deep"
    assert shallow.means == pytest.approx(deep.means, abs=0.01)


def test_judgements_that_point_to_nothing_are_told(knowlex: Any, judged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "judged"))
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q9\tharbour/fees\t1\nq1\tnone\t1\n")
    answer = knowlex("eval", folder, "--mode", "text")
    assert "not counted, as queries.jsonl lacks the question: 1 judgement\n" in answer.err
    assert "not found, as the corpus, or the question's scope, lacks the document: 1 judgement\n" in answer.err
    told = knowlex("eval", folder, "--mode", "text", "--json").json
    assert (told["unknown_questions"], told["unknown_documents"]) == (1, 1)


@pytest.mark.parametrize(
    ("title", "text", "name", "written"),
    [
        ("Two  words", "two words below", "0000003.md", "# Two words\n\ntwo words below"),
        ("Two words", "Two\nwords and\n more", "0000003.md", "# Two words\n\nand\n more"),
        ("Two words", "Two", "0000003.md", "# Two words\n\nTwo"),
        ("", "  plain text", "0000003.txt", "  plain text"),
    ],
)
def test_a_title_is_a_heading_and_said_once(tmp_path: Path, title: str, text: str, name: str, written: str) -> None:
    assert _write(tmp_path, 3, Document("d", title, text)) == name
    assert (tmp_path / name).read_text() == written


def test_two_runs_are_compared_question_by_question(knowlex: Any, judged: Path, tmp_path: Path) -> None:
    run = tmp_path / "text.run"
    assert knowlex("eval", judged, "--mode", "text", "--run", run, "--json").json["mode"] == "text"
    told = knowlex("eval", judged, "--mode", "text", "--compare", run, "--json").json
    same = told["compare"]
    assert told["unanswered"] == 0
    assert same["ndcg@10"] == {**same["ndcg@10"], "difference": 0.0, "p": 1.0, "better": 0, "worse": 0}
    run.write_text("".join(line for line in run.read_text().splitlines(keepends=True) if not line.startswith("q1 ")))
    answer = knowlex("eval", judged, "--mode", "text", "--compare", run)
    assert answer.code == 0
    assert "compared with" in answer.out
    [line] = [line for line in answer.out.splitlines() if line.startswith("mrr@10")]
    assert line.split()[-2:] == ["1", "0"], "of the question that the other run lacks"
    assert "the run compared with has no answer to 1 of 5 questions: 0 is counted for each\n" in answer.err
    assert knowlex("eval", judged, "--mode", "text", "--compare", run, "--json").json["unanswered"] == 1


def test_a_run_of_another_collection_is_refused_before_the_work(judged: Path, tmp_path: Path) -> None:
    """It would have found nothing, and everything were significantly better."""
    (tmp_path / "other.run").write_text("q77 Q0 d1 1 1.0 knowlex-text\n")
    with Knowlex(tmp_path / "a.db") as kb, pytest.raises(UsageError, match=r"other\.run: has none of the questions"):
        kb.evaluate(judged, compare=tmp_path / "other.run", progress=False)


def test_an_evaluation_shows_its_measures_and_not_every_ranking() -> None:
    def judged(number: int) -> Judged:
        ranking = {f"document {place} of <b>": 1.0 for place in range(100)}
        return Judged(Query(f"q{number}", "", {"d": 1}), ranking, dict.fromkeys(MEASURES, 0.5), 2.0)

    apart = dict.fromkeys(MEASURES, Difference(0.25, 0.25, 0.0001, 3, 1))
    whole = Evaluation("<i>cran", "text", False, 9, 0, [judged(number) for number in range(200)], 3.0, apart, 0, 0, 7)
    for shown in (repr(whole), whole._repr_html_()):
        assert len(shown) < 2000
        assert "has no answer to 7 of 200 questions" in shown
        assert all(told in shown for told in ("200 questions to 9 documents", *MEASURES, "0.500", "+0.250", "0.0001"))
    assert "&lt;i&gt;cran" in whole._repr_html_()


def test_what_could_not_do_its_part_is_told(
    knowlex: Any, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(RememberingEmbedder, "embed_query", fail)
    told = knowlex("eval", judged, "--json").json
    assert told["degraded"]["vector"]["queries"] == 5
    assert "MemoryError" in told["degraded"]["vector"]["reason"]
    answer = knowlex("eval", judged, "--report", tmp_path / "questions.jsonl")
    assert "vector leg: 5 of 5 questions without all of it: " in answer.err
    first = json.loads((tmp_path / "questions.jsonl").read_text().splitlines()[0])
    assert "MemoryError" in first["degraded"]["vector"]


def test_what_cannot_be_read_or_written_is_told_before_the_work(knowlex: Any, judged: Path, tmp_path: Path) -> None:
    for arguments, code, said in (
        ([tmp_path / "none"], 3, "holds no corpus.jsonl"),
        ([judged, "--compare", tmp_path / "none.run"], 3, "no such run"),
        ([judged, "--run", tmp_path / "none" / "a.run"], 2, "cannot be written"),
        ([judged, "--report", tmp_path], 2, "is a folder"),
    ):
        answer = knowlex("eval", *arguments)
        assert (answer.code, answer.out) == (code, "")
        assert said in answer.err
        assert answer.err.count("\n") == 1


def test_a_run_and_a_report_replace_older_ones_of_their_kind_only(
    knowlex: Any, judged: Path, tmp_path: Path, database: Path
) -> None:
    collection = Path(shutil.copytree(judged, tmp_path / "judged"))
    database.touch()
    run, report = tmp_path / "a.run", tmp_path / "a.jsonl"
    for _ in range(2):
        assert knowlex("eval", collection, "--mode", "text", "--run", run, "--report", report).code == 0
    kept = (run.read_bytes(), report.read_bytes())
    for arguments in (
        ("--run", report),
        ("--report", run),
        ("--run", collection / "qrels.tsv"),
        ("--report", collection / "queries.jsonl"),
        ("--run", database),
        ("--report", "-"),
        ("--run", tmp_path / "new", "--report", tmp_path / "judged" / ".." / "new"),
    ):
        answer = knowlex("eval", collection, *arguments)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert (run.read_bytes(), report.read_bytes(), database.read_bytes()) == (*kept, b"")


def test_ids_with_blanks_are_judged_but_not_written(judged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "judged"))
    for name in ("corpus.jsonl", "qrels.tsv"):
        (folder / name).write_text((folder / name).read_text().replace("bakery/rye", "bakery/rye bread"))
    with Knowlex(tmp_path / "a.db") as kb:
        with pytest.raises(UsageError, match="blanks between its fields"):
            kb.evaluate(folder, run=tmp_path / "a.run")
        assert kb.evaluate(folder, mode="text").means["recall@100"] == 1.0


def test_bad_values_are_refused(judged: Path, tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        for options, said in (({"mode": "bm25"}, "mode 'bm25'"), ({"k": 0}, "k 0")):
            with pytest.raises(UsageError, match=said):
                kb.evaluate(judged, **options)
        with pytest.raises(NotFoundError):
            kb.evaluate(tmp_path)


def test_sigterm_leaves_nothing_behind(judged: Path, tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    command = [sys.executable, "-m", "knowlex", "--db", str(tmp_path / "none.db"), "eval", str(judged)]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(place)}) as child:
        while child.poll() is None and not any(place.glob("knowlex-eval-*/eval.db")):
            time.sleep(0.01)
        child.terminate()
    assert child.returncode == 128 + signal.SIGTERM
    assert not any(place.glob("knowlex-eval-*"))

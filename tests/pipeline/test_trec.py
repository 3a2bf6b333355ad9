"""Runs in TREC's format: what is written is what is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import trec
from pipeline.collection import Collection, Document, Query
from storage.errors import NotFoundError, UsageError


def test_a_run_is_read_back_in_the_order_of_its_ranks(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("".join(trec.lines([("q1", {"b": 2.5, "a": 1.0}), ("q2", {})], "knowlex-text")))
    assert trec.KIND.beginning.match(path.read_bytes())
    assert path.read_text() == "q1 Q0 b 1 2.500000 knowlex-text\nq1 Q0 a 2 1.000000 knowlex-text\n"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert trec.read(path) == {"q1": ["b", "a"]}


def test_by_scores_alone_the_order_is_the_same() -> None:
    """trec_eval reads them in single precision, and orders equal ones by the names of their documents, last first."""
    scores = [31.4, 31.4, 31.3999999, 16.0, 16.0, 2.5, 2.4999997, 2.4999996, 1.0000005, 1.0, 0.0, 0.0, 0.0, -4.0, -4.0]
    ranking = {f"d{place:02}": score for place, score in enumerate(scores)}
    written = [line.split() for line in trec.lines([("q1", ranking)], "knowlex-text")]
    judged = sorted(((np.float32(score), id) for _, _, id, _, score, _ in written), reverse=True)
    assert [id for _, id in judged] == list(ranking)
    assert [float(line[4]) for line in written] == pytest.approx(scores, abs=1e-4)


def test_scores_give_the_order_then_ranks_then_lines(tmp_path: Path) -> None:
    """trec_eval ignores the ranks, which some systems write as they please."""
    lines = ["e 3 0.5", "b 4 2.5", "a 9 31.4", "d 3 0.5", "c 2 0.5", "f 1 -1e3"]
    fields = (line.split() for line in lines)
    text = "".join(f"q1 Q0 {document} {rank} {score} x\n" for document, rank, score in fields)
    (tmp_path / "a.run").write_text(text)
    assert trec.read(tmp_path / "a.run") == {"q1": ["a", "b", "c", "e", "d", "f"]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q1 Q0 a first 1.0 x", "rank 'first' is no whole number"),
        ("q1 Q0 b 2 high x", "score 'high' is no finite number"),
        ("q1 Q0 b 2 nan x", "score 'nan' is no finite number"),
        ("q1 Q0 b 2 -inf x", "score '-inf' is no finite number"),
        ("q1 a 1", "fields: 3, not 6"),
        ("", "fields: 0"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.run").write_text(f"q1 Q0 a 1 1.0 x\n{line}\n")
    with pytest.raises(UsageError, match=rf"a\.run:2: {said}"):
        trec.read(tmp_path / "a.run")


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such run"):
        trec.read(tmp_path / "a.run")


@pytest.mark.parametrize("id", ["a b", "", "a\t"])
def test_ids_with_blanks_are_refused_before(tmp_path: Path, id: str) -> None:
    with pytest.raises(UsageError, match="blanks between its fields"):
        trec.require_plain_ids(tmp_path / "a.run", Collection("c", [Document(id, "", "x")], [Query("q", "x", {})]))


def test_a_document_that_is_ranked_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q1 Q0 a 1 1.0 x\nq1 Q0 b 2 0.9 x\nq1 Q0 a 3 0.8 x\n")
    with pytest.raises(UsageError, match="q1 ranks a more than once"):
        trec.read(tmp_path / "a.run")

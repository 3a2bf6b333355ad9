"""Judged collections in BEIR's layout: what is read, and what is said of one that cannot be."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import collection
from storage.errors import NotFoundError, UsageError


@pytest.fixture
def folder(sample_data: Path, tmp_path: Path) -> Path:
    """A copy of the judged sample."""
    return Path(shutil.copytree(sample_data / "judged", tmp_path / "judged"))


def test_documents_questions_and_grades_are_read(folder: Path) -> None:
    found = collection.read(folder)
    assert (found.name, len(found.documents)) == ("judged", 9)
    assert found.documents[1].title == "Berth fees"
    assert [query.id for query in found.queries] == ["q1", "q2", "q3", "q4", "q5"], "to q6 nothing is relevant"
    assert found.queries[0].grades == {"harbour/fees": 2.0, "harbour/tides": 0.0}


def test_a_scope_is_the_beginning_of_an_id(folder: Path) -> None:
    scoped, free = collection.read(folder).queries[4], collection.read(folder).queries[0]
    assert scoped.may_find("bakery/rye")
    assert not scoped.may_find("harbour/fees")
    assert not scoped.may_find("bakery-2/rye")
    assert free.may_find("harbour/fees")


def test_a_packed_corpus_and_grades_of_a_test_split_are_read(folder: Path) -> None:
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").rename(folder / "qrels" / "test.tsv")
    assert len(collection.read(folder).documents) == 9


@pytest.mark.parametrize(
    "spoil", [lambda packed: packed[:40], lambda packed: packed[:10] + b"\xff" * 40, lambda packed: b"x"]
)
def test_a_packed_corpus_that_is_damaged_is_named(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    (folder / "corpus.jsonl.gz").write_bytes(spoil(gzip.compress((folder / "corpus.jsonl").read_bytes())))
    with pytest.raises(UsageError, match="corpus.jsonl.gz: cannot be read"):
        collection.read(folder)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        collection.read(folder)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("corpus.jsonl", '{"_id": 10', "corpus.jsonl:10: no JSON (Expecting ',' delimiter, character 11)"),
        ("corpus.jsonl", "[" * 100_000, "corpus.jsonl:10: nested too deep"),
        ("corpus.jsonl", "[]", "no JSON object"),
        ("corpus.jsonl", '{"_id": "x"}', "lacks 'text'"),
        ("corpus.jsonl", '{"_id": "x", "text": 3}', "text is no text"),
        ("corpus.jsonl", '{"_id": "bakery/rye", "text": ""}', "bakery/rye comes twice"),
        ("queries.jsonl", '{"_id": "q7", "text": " "}', "text is blank"),
        ("qrels.tsv", "q1\tharbour/fees", "qrels.tsv:10: fields: 2, not 3"),
        ("qrels.tsv", "q1\tharbour/fees\tnan", "qrels.tsv:10: grade 'nan' is no finite number"),
        ("qrels.tsv", "q1\tharbour/fees\t1e999", "qrels.tsv:10: grade '1e999' is no finite number"),
        ("qrels.tsv", "q1\tharbour/fees\thigh", "qrels.tsv:10: grade 'high' is no number"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(folder: Path, name: str, line: str, said: str) -> None:
    with (folder / name).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError) as raised:
        collection.read(folder)
    assert said in str(raised.value)
    assert name in str(raised.value)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_first_line_that_judges_is_no_head(folder: Path, mark: str) -> None:
    with_head = collection.read(folder)
    head, rest = (folder / "qrels.tsv").read_text().split("\n", 1)
    assert head == "query-id\tcorpus-id\tscore"
    (folder / "qrels.tsv").write_text(mark + rest)
    assert collection.read(folder) == with_head


def test_judgements_that_point_to_nothing_are_counted(folder: Path) -> None:
    found = collection.read(folder)
    assert (found.unknown_questions, found.unknown_documents) == (0, 0)
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q9\tharbour/fees\t1\nq1\tnone\t1\nq5\tharbour/fees\t2\nq1\tnone either\t0\n")
    found = collection.read(folder)
    assert (found.unknown_questions, found.unknown_documents) == (1, 2), "one is not in its question's scope"


@pytest.mark.parametrize("data", [b"\xff\xfe", gzip.compress(b"{}")[:12]], ids=["no gzip", "cut off"])
def test_a_corpus_that_cannot_be_unpacked_is_told(folder: Path, data: bytes) -> None:
    (folder / "corpus.jsonl.gz").write_bytes(data)
    with pytest.raises(UsageError, match=r"corpus\.jsonl\.gz: cannot be read"):
        collection.read(folder)


def test_without_anything_relevant_there_is_nothing_to_judge(folder: Path) -> None:
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tharbour/fees\t0\n")
    with pytest.raises(UsageError, match="no question of"):
        collection.read(folder)

"""Files, passages and projects in a notebook: what they show, that nothing they show is markup, and their tables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowlex import Knowlex, notebook
from knowlex.files import FileRow, Files
from storage.errors import ConfigurationError, DamagedValueError, NotFoundError

HOSTILE = '<script>x</script><img src=x onerror=y>"\x1b[2J\u202e\u200b&amp;'
NAME = "<b>&\u202e\x1b[2J.md"
SHOWN = {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "span"}


class Tags(HTMLParser):
    """The tags, the values of attributes and the text of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def read(shown: str) -> Tags:
    """Return what a reader gets to see, after a look at whether anything in it became markup or steers."""
    tags = Tags(shown)
    assert tags.tags <= SHOWN
    assert not set(shown) & {"\x1b", "\u202e", "\u200b"}
    return tags


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knowlex]:
    """A project of two files of several passages, the first under two names, and an empty one."""
    folder = tmp_path_factory.mktemp("notebook") / "in"
    folder.mkdir()
    body = "\n\n".join(f"## Part {n}\n\n" + f"The quartet plays piece {n} on Friday. " * 30 for n in range(3))
    (folder / "a.md").write_text(f"# Music {HOSTILE}\n\n{body}")
    (folder / NAME).write_text("# Swans\n\nTwo swans live on the lake.")
    (folder / "empty.md").write_text("")
    shutil.copy(folder / "a.md", folder / "copy.md")
    with Knowlex(folder.parent / "kb.db") as kb:
        kb.projects.create(HOSTILE.replace("\x1b", ""), description=HOSTILE, settings={"note": HOSTILE})
        kb.ingest("p", folder, progress=False)
        yield kb


def test_files_are_still_the_list_they_were(kb: Knowlex) -> None:
    files = kb.files("p")
    assert files == list(files) == kb.files_page("p").items
    assert [row.filename for row in kb.files("p", "failed")] == ["empty.md"]
    assert files.counts == {"ready": 3, "failed": 1}
    assert repr(files).startswith("Files(4 files: ")
    assert repr(files).count("\n") == 5
    assert not set(repr(files)) & {"\x1b", "\u202e"}
    assert repr(kb.files("p", "pending")) == "Files(0 files)"


def test_files_show_counts_sizes_and_reasons_and_those_that_failed_first(kb: Knowlex) -> None:
    shown = read(kb.files("p")._repr_html_())
    assert shown.text.startswith("4 files: ")
    assert "3 ready" in shown.text
    assert "1 failed" in shown.text
    assert shown.text.index("empty.md") < shown.text.index("a.md")
    assert "empty.mdfailed00 B" in shown.text
    assert kb.files("p", "failed")[0].error_message in shown.text
    assert "same content as " in shown.text
    assert "KB" in shown.text
    assert "<b>&<U+202E><U+001B>[2J.md" in shown.text


def test_a_long_list_is_shown_in_part_and_says_so() -> None:
    row = FileRow("i", "a.md", "/a.md", "ready", 1, None, None, None, None, None, 1, None)
    assert Files([row] * notebook.SHOWN)._repr_html_().count("a.md</span>") == notebook.SHOWN
    shown = Files([row] * 1200)._repr_html_()
    assert shown.count("a.md</span>") == notebook.SHOWN
    assert shown.endswith(f"<p>and {1200 - notebook.SHOWN} more; to_pandas() has all</p>")
    assert Files()._repr_html_().startswith("<p>0 files</p>")


def test_passages_are_those_that_are_searched_with_their_vectors(kb: Knowlex) -> None:
    passages = kb.passages("p", vectors=True)
    assert len(passages) == kb.stats("p").chunks > 3
    assert passages.vectors is not None
    assert passages.vectors.shape == (len(passages), 384)
    assert np.allclose(np.linalg.norm(passages.vectors, axis=1), 1, atol=0.01)
    hits = {hit.id: hit for hit in kb.search("p", "swans on the lake", 100, mode="vector")}
    assert hits.keys() == {row.id for row in passages}
    cosines = passages.vectors @ kb.engine.embedder()[0].embed_query("swans on the lake")
    assert np.allclose(cosines, [hits[row.id].vector_score for row in passages], atol=0.005)
    assert [hits[row.id].text for row in passages] == [row.text for row in passages]
    for file in {row.file_id for row in passages}:
        own = [row.index for row in passages if row.file_id == file]
        assert own == list(range(len(own)))


def test_passages_name_all_files_that_share_them(kb: Knowlex) -> None:
    passages = kb.passages("p")
    assert passages.vectors is None
    shared = [(Path(row.path).name, [Path(path).name for path in row.also]) for row in passages if row.also]
    assert shared
    assert {(own, *also) for own, also in shared} in ({("a.md", "copy.md")}, {("copy.md", "a.md")})


def test_a_passage_without_a_vector_is_a_row_of_nan(tmp_path: Path, kb: Knowlex) -> None:
    with Knowlex(tmp_path / "new.db") as new:
        new.projects.create("p")
        vectors = new.passages("p", vectors=True).vectors
        assert vectors is not None
        assert vectors.shape == (0, 0)
    with kb.database.write() as db:
        kept = db.all("SELECT model, project, source, pk, bits, embedding FROM vector_bits ORDER BY pk LIMIT 1")
        db.run("DELETE FROM vector_bits WHERE pk = :pk", pk=kept[0][3])
    try:
        vectors = kb.passages("p", vectors=True).vectors
        assert vectors is not None
        assert np.isnan(vectors).all(axis=1).sum() == np.isnan(vectors).any(axis=1).sum() == 1
    finally:
        names = ("model", "project", "source", "pk", "bits", "embedding")
        with kb.database.write() as db:
            db.run(
                "INSERT INTO vector_bits (model, project, source, pk, bits, embedding)"
                " VALUES (:model, :project, :source, :pk, :bits, :embedding)",
                **dict(zip(names, kept[0], strict=True)),
            )


@pytest.mark.parametrize("value", ["x'4142'", "CAST(x'ff' AS TEXT)"])
def test_passages_that_cannot_be_read_are_told_with_the_remedy(kb: Knowlex, value: str) -> None:
    with kb.database.write() as db:
        pk, text = db.all("SELECT pk, content FROM file_chunks LIMIT 1")[0]
        db.run(f"UPDATE file_chunks SET content = {value} WHERE pk = :pk", pk=pk)
    try:
        with pytest.raises(DamagedValueError, match="1 passage cannot be read; run knowlex repair"):
            kb.passages("p")
    finally:
        with kb.database.write() as db:
            db.run("UPDATE file_chunks SET content = :text WHERE pk = :pk", text=text, pk=pk)


def test_passages_of_another_project_are_not_among_them(kb: Knowlex) -> None:
    assert kb.passages(kb.projects.list()[-1].project.id) == []
    with pytest.raises(NotFoundError):
        kb.passages("nowhere")


def test_passages_show_place_length_and_beginning(kb: Knowlex) -> None:
    shown = read(kb.passages("p")._repr_html_())
    assert " passages of 2 files" in shown.text
    assert repr(kb.passages("p")) == f"Passages({len(kb.passages('p'))} passages of 2 files)"
    assert "<script>x</script>" in shown.text


def project(kb: Knowlex) -> Any:
    return next(item for item in kb.projects.list() if item.project.description)


def test_a_project_and_what_it_holds_show_themselves(kb: Knowlex) -> None:
    assert [value for value in read(kb.projects.list()._repr_html_()).values if value != "text-align: left"] == []
    for shown in (kb.project(project(kb).project.id), project(kb)):
        told = read(shown._repr_html_())
        assert "<script>x</script>" in told.text
    figures = kb.projects.summary("p")._repr_html_()
    assert '<td style="text-align: left">4</td>' in figures
    assert "KB" in figures


def test_a_project_is_the_same_by_whatever_call(kb: Knowlex) -> None:
    found = kb.project("p")
    assert found == kb.projects.get(found.id) == kb.projects.summary("p").project
    assert kb.projects.page(limit=1).items[0] == kb.projects.list()[0]
    assert kb.projects.update("p", description="") == kb.project("p")


def test_each_has_a_table_also_without_rows(kb: Knowlex) -> None:
    assert list(kb.files("p").to_pandas()["status"]).count("failed") == 1
    assert list(Files().to_pandas().columns) == list(kb.files("p").to_pandas().columns)
    assert len(kb.passages("p").to_pandas()) == len(kb.passages("p"))
    assert list(kb.project("p").to_pandas()["name"]) == ["p"]
    assert list(kb.projects.summary("p").to_pandas()["files"]) == [4]
    assert len(kb.projects.list().to_pandas()) == 2


def test_a_table_without_pandas_says_what_to_install(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (kb.files("p"), kb.passages("p"), kb.project("p"), kb.projects.list()):
        with pytest.raises(ConfigurationError, match="pip install pandas"):
            table.to_pandas()

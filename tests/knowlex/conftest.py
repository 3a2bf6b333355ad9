"""The command line, called in the process of the test, on a database of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from knowlex.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command answered: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON value it must be."""
        assert self.code in (0, 1), self.err
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture(autouse=True)
def little_to_start(compiled_once: None, parsers_lent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no command compile or start what one before it has, nor a second parser for a handful of small files."""
    monkeypatch.setenv("KNOWLEX_WORKERS", "1")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database of the test, named to the command line by KNOWLEX_DB; not made yet."""
    path = tmp_path / "knowlex.db"
    monkeypatch.setenv("KNOWLEX_DB", str(path))
    return path


@pytest.fixture
def knowlex(database: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `knowlex ARGUMENTS…` and return what it answered."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Iterator[Knowlex]:
    """The sample documents as project "demo", to be read only."""
    with Knowlex(tmp_path_factory.mktemp("demo") / "demo.db") as kb:
        report = kb.ingest("demo", sample_data / "demo")
        assert (report.ingested, report.failed) == (10, 0)
        yield kb

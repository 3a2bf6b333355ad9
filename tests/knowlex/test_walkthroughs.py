"""What a reader of the README, the tutorial and the FAQ types does what these pages say, line by line of the output."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faults.child import ended
from serve_process import running

from knowlex import Knowlex

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial.md", "docs/faq.md")
# What ends only when told to, would look into the reader's own folders, or is tested elsewhere and takes long.
LEFT_OUT = re.compile(r"knowlex (serve|mcp|token|work|eval)\b|--watch|~/|^export ")
# Times, sizes and ids differ from run to run; an ellipsis stands for anything.
VARIES = re.compile(r"…|\d+\.\d+|\d+(?= KB)|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANY = {"…": r".*"}
SCORE = re.compile(r"\d+\.\d{3}")
PRECISION = 0.02
"""How far scores differ between processors, which multiply in bf16 or in fp32."""


@dataclass
class Step:
    """A command and the lines that it is said to print."""

    command: str
    lines: list[str] = field(default_factory=list)


def blocks(page: str, language: str) -> Iterator[str]:
    """Yield the blocks of code in a language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf8"), re.MULTILINE | re.DOTALL)


def steps(page: str) -> list[Step]:
    """Return what is typed on a page, in order."""
    found: list[Step] = []
    for line in "\n".join(blocks(page, "console")).splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        elif line.strip() not in ("", "…"):
            found[-1].lines.append(line)
    return [step for step in found if not LEFT_OUT.search(step.command)]


def printed(line: str, output: str) -> bool:
    """Tell whether a line of a page is one of the output, but for what varies and how columns are spaced."""
    wanted, place = "", 0
    line = " ".join(line.split())
    scores: list[float] = []
    for match in VARIES.finditer(line):
        wanted += re.escape(line[place : match.start()])
        if SCORE.fullmatch(match[0]):
            scores.append(float(match[0]))
            wanted += r"(\d+\.\d{3})"
        else:
            wanted += ANY.get(match[0], r"[0-9a-f.-]+")
        place = match.end()
    wanted += re.escape(line[place:])
    found = (re.fullmatch(wanted, " ".join(told.split())) for told in output.splitlines())
    return any(near(match.groups(), scores) for match in found if match)


def near(told: Sequence[str], scores: Sequence[float]) -> bool:
    """Tell whether the scores that were printed are those of the page."""
    return [*map(float, told)] == pytest.approx(scores, abs=PRECISION)


@pytest.fixture
def at_home(tmp_path: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository to who reads the pages there."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(sample_data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("CLONE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_the_page_says(
    page: str, knowlex: Callable[..., Any], at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r'KNOWLEX_DB="\$PWD/(.+?)"', (ROOT / page).read_text("utf8")):
        monkeypatch.setenv("KNOWLEX_DB", str(at_home / name))
    for step in steps(page):
        output = done(step.command, knowlex)
        assert [line for line in step.lines if not printed(line, output)] == [], (step.command, output)


def done(command: str, knowlex: Callable[..., Any]) -> str:
    """Do a command and return what it printed; those of other programs go through a shell."""
    name, *arguments = shlex.split(command, comments=True)
    if name != "knowlex":
        return subprocess.check_output(command, shell=True, text=True)
    answer = knowlex(*arguments)
    assert answer.code in (0, 1), (command, answer)
    return answer.out + answer.err


def test_the_python_of_the_tutorial_runs(at_home: Path, database: Path, knowlex: Callable[..., Any]) -> None:
    assert knowlex("ingest", "handbook", at_home / "tests" / "data" / "demo" / "employee-handbook.pdf").code == 0
    [code] = blocks("docs/tutorial.md", "python")
    exec(compile(code, "tutorial.md", "exec"), {})


@pytest.fixture
def filled(at_home: Path, database: Path, knowlex: Callable[..., Any]) -> Path:
    """A database with the project that the pages ask."""
    assert knowlex("ingest", "handbook", at_home / "tests" / "data" / "demo" / "employee-handbook.pdf").code == 0
    return database


@pytest.fixture
def url(filled: Path) -> Iterator[str]:
    """The address of a server of that database."""
    with ended(), running(filled) as server:
        yield server.url


def printed_by(code: str) -> str:
    """Run the Python of a page as a program of its own, and return what it prints."""
    return subprocess.check_output([sys.executable, "-c", code], text=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", ["README.md", "docs/http.md"])
def test_what_was_sent_with_curl_is_found_by_the_next_line(page: str, at_home: Path, url: str) -> None:
    shutil.copy(at_home / "tests" / "data" / "demo" / "employee-handbook.pdf", "refunds.pdf")
    [block] = [block for block in blocks(page, "sh") if "localhost:8642" in block]
    begin, *lines = block.replace("localhost:8642", url.removeprefix("http://")).splitlines()
    assert begin.startswith("knowlex serve &")
    *_, found = [subprocess.check_output(line, shell=True, text=True) for line in lines]
    assert json.loads(found)["hits"], found


@pytest.mark.parametrize("project", ["handbook", "handbok"])
def test_the_python_of_an_agent_prints_hits_or_what_is_wrong(project: str, filled: Path) -> None:
    [code, _] = blocks("docs/agents.md", "python")
    code = code.replace('command="knowlex", args=[', f'command={sys.executable!r}, args=["-m", "knowlex", ')
    code = code.replace("/path/to/knowlex.db", str(filled)).replace('"handbook"', f'"{project}"')
    told = printed_by(code)
    assert ("employee-handbook.pdf 1 " in told) == (project == "handbook"), told
    assert ("project handbok: " in told) == (project == "handbok"), told


def test_the_python_of_an_agent_over_http_prints_hits_or_what_is_wrong(
    url: str, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [_, code] = blocks("docs/agents.md", "python")
    code = code.replace("http://127.0.0.1:8642", url)
    with Knowlex(filled) as kb:
        monkeypatch.setenv("KNOWLEX_TOKEN", kb.tokens.create(["handbook"]).token)
        assert "employee-handbook.pdf, page 1" in printed_by(code)
        kb.projects.delete(kb.project("handbook").id)
        assert "those that the token is for are gone" in printed_by(code)


@pytest.mark.parametrize(
    ("line", "output", "is_printed"),
    [
        ("10 files found; 1.3 s", "x\n10 files found; 2.8 s\n", True),
        ("9 files found; 1.3 s", "10 files found; 1.3 s", False),
        ("…/a.pdf:  no text", "/home/me/a.pdf: no text", True),
        ("…/a.pdf: no text", "/home/me/b.pdf: no text", False),
    ],
)
def test_a_line_that_is_not_printed_is_noticed(line: str, output: str, is_printed: bool) -> None:
    assert printed(line, output) is is_printed

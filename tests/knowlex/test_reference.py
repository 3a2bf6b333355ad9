"""Every command and option has help, an example, and a place in docs/cli.md."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from knowlex.cli import cli
from knowlex.cli.reference import SHARED, commands, reference

COMMANDS = dict(commands(cli, click.Context(cli, info_name="knowlex")))
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert "Example:" in text
    assert f"  {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_and_every_command_takes_the_shared_ones(name: str) -> None:
    options = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)
    assert {option.name for option in options} >= SHARED


def test_the_reference_is_up_to_date() -> None:
    assert DOCS.read_text("utf8") == reference()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_names_every_command_and_option(name: str) -> None:
    section = DOCS.read_text("utf8").partition(f"### {name}")[2].partition("\n### ")[0]
    assert section
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option) and option.name not in SHARED:
            assert all(flag in section for flag in option.opts)


TABLE = DOCS.read_text("utf8").partition("| command | JSON |\n")[2].partition("\n\n")[0]
SHAPES = {
    command: set(re.findall(r'"([^"]+)"', shape))
    for row in TABLE.splitlines()[1:]
    for names, shape in [row.strip("| ").split(" | ", 1)]
    for command in re.findall(r"`([^`]+)`", names)
}
OF_ONES_OWN = {"settings", "metadata", "in_force", "content"}


def keys(value: Any) -> set[str]:
    """Return the keys of a JSON value at all levels, but for those that are a user's own."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for key, inner in value.items() if key not in OF_ONES_OWN))


def test_the_json_of_each_command_is_as_the_reference_says(
    knowlex: Any, database: Path, sample_data: Path, tmp_path: Path
) -> None:
    def told(command: str, *arguments: object) -> Any:
        answer = knowlex(*command.split(), *arguments, "--json").json
        assert keys(answer) - {"next"} == unseen.pop(command) - {"next"}, command
        return answer

    def told_in_lines(command: str, file: Path) -> None:
        assert set(json.loads(file.read_text().splitlines()[0])) == unseen.pop(command)

    unseen = dict(SHAPES)
    report = tmp_path / "report.jsonl"
    for name in ("demo/onboarding-faq.md", "bad/truncated.pdf"):
        shutil.copy(sample_data / name, tmp_path)
    told("project create", "p")
    told("project list")
    knowlex("ingest", "p", tmp_path / "onboarding-faq.md", tmp_path / "truncated.pdf", "--report", report)
    told_in_lines("ingest --report", report)
    told("retry", "p")
    (tmp_path / "truncated.pdf").write_bytes(b"")
    unseen["work"] -= {"path", "error"}  # of failures, and none fails
    told("work", "--once")
    file = knowlex("files", "p", "--status", "ready", "--json").json[0]["id"]
    told("file show", file)
    told("file delete", file)

    memory = told("memory add", "p", "Ferries", "They leave at nine.")["id"]
    for command, more in {"list": (), "show": (), "update": ("--importance", 7), "delete": ()}.items():
        told(f"memory {command}", "p" if command == "list" else memory, *more)

    talk = told("conversation create", "talk", "--project", "p")["id"]
    first = told("conversation add", talk, "When does the ferry leave?")["id"]
    answer = knowlex("conversation", "add", talk, "At nine.", "--role", "assistant", "--parent", first, "--json").json
    for command in ("answers", "show-message"):
        told(f"conversation {command}", first)
    told("conversation thread", answer["id"])
    told("conversation list")
    told("conversation show", talk)
    told("conversation search", "ferry")
    told("conversation update", talk, "--title", "ferries")
    told("conversation edit-message", first, "When?")
    told("conversation export --output", tmp_path / "talks.jsonl")
    told("conversation import", tmp_path / "talks.jsonl")
    told("conversation delete-message", answer["id"])
    told("conversation delete", talk)

    token = told("token create", "--project", "p")["id"]
    told("token list")
    told("token revoke", token)

    knowlex("settings", "set", "key", "1")
    told("settings delete", "key")
    told("project update", "p", "--description", "x")
    told("project show", "p")
    told("project delete", "p")
    told("backup", tmp_path / "copy.db")
    told("maintain")
    told("migrate")
    told("restore", tmp_path / "copy.db", "--yes")

    questions, run = tmp_path / "questions.jsonl", tmp_path / "a.run"
    run.write_text("q1 Q0 harbour/fees 1 1.0 other\n")
    told("eval", sample_data / "judged", "--mode", "text", "--compare", run, "--report", questions)
    told_in_lines("eval --report", questions)
    assert not unseen, "each command of the table was asked"

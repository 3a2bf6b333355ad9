"""Every command and option has help, an example, and a place in docs/cli.md."""

from __future__ import annotations

from pathlib import Path

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

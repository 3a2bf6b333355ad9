"""JSON on the command line: what options take, and rows as --json shows them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from storage import fields

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_KEYS = ("pk", "project_pk")
"""Keys of the tables, which no door shows."""


def shown(row: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a row by name, without the keys of the tables; its values as they are, however deep."""
    names = [field.name for field in dataclasses.fields(row) if field.name not in _KEYS]
    return {name: getattr(row, name) for name in names}


def parsed(text: str, what: str) -> Any:
    """Return the value that a JSON text says; raises click.UsageError naming `what`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise click.UsageError(f"{what} is nested too deeply.") from None
    except ValueError as error:
        raise click.UsageError(f"{what} is no JSON: {error}.") from None


def _object(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    value = parsed(text, "--settings")
    if not isinstance(value, dict):
        raise click.UsageError(f"--settings is {fields.kind_of(value)}; give an object like '{{\"a\": 1}}'.")
    return value  # pyright: ignore[reportUnknownVariableType]


settings_option = click.option(
    "--settings", metavar="JSON", callback=_object, help="A JSON object of your own, instead of the one there is."
)

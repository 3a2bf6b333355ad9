"""Settings that a project has of its own: which files it takes, and how they are read and cut.

They lie in the project's settings under "ingest", beside whatever else programs keep there. They go before the
environment and the settings files, and behind what is given in code or as flags; a project's patterns are added to the
others. What concerns the machine (workers, time and memory of a parser, the model) no project has of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from knowlex import config
from knowlex.config import Settings
from storage import fields
from storage.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from storage.projects import Project

NAME = "ingest"
"""The key of a project's settings that these lie under."""

CHUNKING = ("max_tokens", "overlap_tokens")
"""How long passages are; the model sets the bounds."""

KEYS = ("include", "exclude", "hidden", "max_file_mb", "max_chunks_per_file", "pdf_engine", *CHUNKING)
"""What a project may have of its own."""


def stored(project: Project) -> dict[str, Any]:
    """Return what a project has of its own, unchecked; raises ConfigurationError where that is no JSON object."""
    kept = project.settings.get(NAME, {})
    if not isinstance(kept, dict):
        raise ConfigurationError(
            f"project {project.name}: its settings have {NAME} = {kept!r}, which is no object of settings; give"
            f" another with knowlex project update {project.name} --settings '{{\"{NAME}\": {{}}}}'"
        )
    return cast(dict[str, Any], kept)


def unknown(project: Project) -> list[str]:
    """Return what a newer version has kept: names that mean nothing to this one, and that it leaves as they are."""
    return [key for key in stored(project) if key not in KEYS]


def applied(general: Settings, own: Mapping[str, Any], name: str) -> Settings:
    """Return the settings in force for the files of a project of that name, which has some of its own.

    Raises ConfigurationError, naming the project, the key and the remedy, for a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for key in KEYS:
        if key in own:
            values[key] = _in_force(general, key, _usable(key, own[key], name))
    return dataclasses.replace(general, **values)


def _usable(key: str, value: Any, name: str) -> Any:
    try:
        return config.checked(key, value, f"project {name}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error.message}; or run knowlex project update {name} --unset {key}") from error


def _in_force(general: Settings, key: str, value: Any) -> Any:
    if config.is_list(key):
        return (*getattr(general, key), *value)
    return getattr(general, key) if key in general.given else value


def chunking(own: Mapping[str, Any]) -> list[str]:
    """Return the names of those of its own that say how long passages are."""
    return [key for key in CHUNKING if key in own]


def unusable(project: Project, error: ConfigurationError) -> ConfigurationError:
    """Return the error for a project whose passages would be longer than the model takes, with the remedy."""
    unset = " ".join(f"--unset {key}" for key in chunking(stored(project)))
    return ConfigurationError(
        f"project {project.name}: {error.message}; or run knowlex project update {project.name} {unset}"
    )


def changed(
    before: Mapping[str, Any],
    settings: dict[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    unset: Iterable[str] = (),
) -> dict[str, Any]:
    """Return all settings of a project after a change.

    settings: what programs keep there, instead of what there was; without "ingest" in it, that stays as it is.
    set, unset: values of its own to take in, and names of those to give up.
    Raises UsageError naming the key, the value and what is allowed.
    """
    if settings is not None:
        fields.mapping(settings, "settings")
        kept = {NAME: before[NAME]} if NAME in before else {}
        after = kept | settings
    else:
        after = dict(before)
    own = _object(after.pop(NAME, {}))
    return after | _section(_with(own, set or {}, unset), before.get(NAME))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"settings: {NAME} = {value!r} is not an object; give one of {', '.join(KEYS)}, with values")
    return cast(dict[str, Any], value)


def _with(own: dict[str, Any], set: Mapping[str, Any], unset: Iterable[str]) -> dict[str, Any]:
    own = own | dict(set)
    for key in unset:
        if key in set:
            raise UsageError(f"{key}: both set and unset; leave one of them out")
        if key not in own and key not in KEYS:
            raise _no_setting(key)
        own.pop(key, None)
    return own


def _section(own: dict[str, Any], before: Any) -> dict[str, Any]:
    """Return the checked settings under their name; nothing where there are none."""
    kept = cast(dict[str, Any], before) if isinstance(before, dict) else {}
    checked = {key: _checked(key, value, kept) for key, value in own.items()}
    return {NAME: checked} if checked else {}


def _checked(key: str, value: Any, kept: Mapping[str, Any]) -> Any:
    if key not in KEYS:
        if key in kept and kept[key] == value:
            return value  # of a newer version, which may be used again
        raise _no_setting(key)
    try:
        return config.checked(key, value, "settings of a project")
    except ConfigurationError as error:
        raise UsageError(error.message) from None


def _no_setting(key: str) -> UsageError:
    cause = "concerns the machine, not a project" if config.known(key) else "no such setting"
    return UsageError(f"{key}: {cause}; a project may have {', '.join(KEYS)}")


def parsed(pairs: Iterable[str]) -> dict[str, Any]:
    """Return settings that are given as KEY=VALUE; of a list, each pair gives one item. Raises UsageError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not text:
            raise UsageError(f"{pair}: has no value; give KEY=VALUE, or --unset KEY for the value of all projects")
        if key not in KEYS:
            raise _no_setting(key)
        if config.is_list(key):
            values[key] = (*values.get(key, ()), text)
        elif key in values:
            raise UsageError(f"{key}: is given twice; give it one value")
        else:
            values[key] = _value(key, text)
    return values


def _value(key: str, text: str) -> Any:
    try:
        return config.parsed(key, text, key)
    except ConfigurationError as error:
        raise UsageError(error.message) from None

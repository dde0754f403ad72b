"""Merge the parameters from all their sources into one frozen value, which keeps the source of each.

From highest to lowest priority: flags, the stage's overlay, the user's
`infra/provision/inference.parameters.json`, the fine-tuning step's files, and the template's defaults. Null
in any of them means "not set here". A parameter that maps names to text (`MAPS`) is merged entry by entry.

This module neither asks the user nor accesses Azure. `infra.config.parameters` validates the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.az.names import PREFIXES, Names, default_name, resource_suffix
from infra.config.stage import STAGES_PATH
from infra.config.templates import validate
from infra.document import Json, as_object, json_problem, load_json, read_object
from infra.errors import UsageError
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from infra.az.commands import Group
    from infra.config.stage import Stage

USER_PARAMETERS: Final = Path("infra/provision/inference.parameters.json")
MISPLACED_PARAMETERS: Final = Path("infra/inference.parameters.json")
"""Where the AI Toolkit's documentation puts the file. It is read too, below the one at its own place."""

HANDOVER_CONFIG: Final = Path("infra/finetuning.config.json")
HANDOVER_PARAMETERS: Final = Path("infra/provision/finetuning.parameters.json")
OLD_HANDOVER_PARAMETERS: Final = Path("infra/finetuning.parameters.json")
"""Where older versions of the AI Toolkit have the file."""

SHARED_PARAMETERS: Final = (
    "location",
    "storageAccountName",
    "fileShareName",
    "acaEnvironmentName",
    "acaEnvironmentStorageName",
    "acaLogAnalyticsName",
)
"""The fine-tuning step's parameters that inference shares. The others have a different meaning here."""

TEMPLATE_DEFAULT: Final = "the template's default"
_MIN_SECRET: Final = 6
MAPS: Final = ("environmentVariables", "tags")
"""The parameters that map names to text. `--set environmentVariables.NAME=text` sets one entry."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its source, which messages show as `'x' (from infra/...)`.

    Attributes:
        entry_sources: The source of each entry of a merged map, as (entry, source) pairs.
    """

    name: str
    value: Json
    source: str
    entry_sources: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of the command line.

    Attributes:
        subscription: `--subscription`: an id or a name.
        resource_group: `--resource-group`.
        location: `--location`.
        parameters: `--set`, each a `name=value` whose value is JSON, or else text.
        unset: `--unset`, the names of values that were kept for the stage and are taken back.
    """

    subscription: str | None = None
    resource_group: str | None = None
    location: str | None = None
    parameters: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value that has no effect, because a source of higher priority sets another.

    Attributes:
        name: The parameter, or `parameter.entry`.
        by: The setting that is used.
    """

    name: str
    value: Json
    source: str
    by: Setting


@dataclass(frozen=True, slots=True)
class Settings:
    """All parameters that are set, each with its source.

    Attributes:
        hidden: Different values of the same parameters, from sources of lower priority.
    """

    values: tuple[Setting, ...] = ()
    hidden: tuple[Hidden, ...] = ()

    def find(self, name: str) -> Setting | None:
        """Return the setting of a parameter, or None if it is not set."""
        return next((setting for setting in self.values if setting.name == name), None)

    def text(self, name: str) -> str | None:
        """Return a parameter's value if it is set and is text."""
        setting = self.find(name)
        return setting.value if setting is not None and isinstance(setting.value, str) else None

    def source(self, name: str, entry: str | None = None) -> str:
        """Return the source of a parameter's value, or of one entry of a map."""
        setting = self.find(name)
        if setting is None:
            return TEMPLATE_DEFAULT
        return dict(setting.entry_sources).get(entry or "", setting.source)

    def to_values(self) -> dict[str, Json]:
        """Return the values by the names of their parameters."""
        return {setting.name: setting.value for setting in self.values}

    def secret_values(self) -> tuple[str, ...]:
        """Return the secret values among those to deploy, to redact: the API keys, and others' secrets.

        Short ones are left out: they cannot be told from other text.
        """
        others = self.find("unmanagedSecrets")
        entries = as_object(others.value if others else None).values()
        values = [self.text("apiKey"), *(as_object(each).get("value") for each in entries)]
        return tuple(str(value) for value in values if value and len(str(value)) >= _MIN_SECRET)

    def with_value(self, name: str, value: Json, source: str) -> Settings:
        """Return the settings with one parameter replaced."""
        others = tuple(setting for setting in self.values if setting.name != name)
        return replace(self, values=(*others, Setting(name, value, source)))

    def names(self, group: Group) -> Names:
        """Return the names of the resources that a deployment into a group creates or uses."""
        suffix = self.text("resourceSuffix") or resource_suffix(group)
        name = {parameter: self.text(parameter) or default_name(parameter, suffix) for parameter in PREFIXES}
        return Names(
            storage_account=name["storageAccountName"],
            file_share=name["fileShareName"],
            environment=name["acaEnvironmentName"],
            environment_storage=name["acaEnvironmentStorageName"],
            app=name["acaAppName"],
            workspace=name["acaLogAnalyticsName"],
        )


@dataclass(frozen=True, slots=True)
class Handover:
    """What the fine-tuning step hands over to inference.

    Attributes:
        subscription: The id of its subscription, if it left a config file.
        resource_group: Its resource group, likewise.
        values: The parameters that it shares with inference.
    """

    subscription: str | None = None
    resource_group: str | None = None
    values: tuple[Setting, ...] = ()

    def is_of(self, group: Group) -> bool:
        """Return whether the step left a config file that names this group."""
        own = ((self.subscription or "").casefold(), (self.resource_group or "").casefold())
        return own == (group.subscription.casefold(), group.name.casefold())

    def values_for(self, group: Group) -> tuple[Setting, ...]:
        """Return the parameters for a deployment into a group; none if the step used another group."""
        if self.subscription is None or self.resource_group is None:
            return self.values
        return self.values if self.is_of(group) else ()


def read_handover(root: Path) -> Handover:
    """Read the files of the fine-tuning step, if there are any.

    Raises:
        UsageError: A file is invalid. All its problems are listed.
    """
    found: dict[str, Setting] = {}
    for path in (OLD_HANDOVER_PARAMETERS, HANDOVER_PARAMETERS):
        if (root / path).exists():
            document = _read_validated(root, path, "finetuning.parameters")
            found |= {setting.name: setting for setting in _values(document, path, SHARED_PARAMETERS)}
    if not (root / HANDOVER_CONFIG).exists():
        return Handover(values=tuple(found.values()))
    config = _read_validated(root, HANDOVER_CONFIG, "finetuning.config")
    for key, name in (("STORAGE_ACCOUNT_NAME", "storageAccountName"), ("FILE_SHARE_NAME", "fileShareName")):
        found[name] = Setting(name, config[key], str(HANDOVER_CONFIG))
    subscription, resource_group = str(config["SUBSCRIPTION_ID"]), str(config["RESOURCE_GROUP_NAME"])
    return Handover(subscription, resource_group, tuple(found.values()))


def merge(layers: Iterable[tuple[Setting, ...]], known: Iterable[str]) -> Settings:
    """Merge layers of parameters, from lowest to highest priority.

    Args:
        layers: What each place says; see `Handover.values_for`, `read_user_parameters`, `from_stage` and
            `from_flags`.
        known: The names of the template's parameters.

    Raises:
        UsageError: Some names are not known. All of them are listed.
    """
    settings, error = merge_known(layers, known)
    if error is not None:
        raise error
    return settings


def merge_known(
    layers: Iterable[tuple[Setting, ...]], known: Iterable[str]
) -> tuple[Settings, UsageError | None]:
    """Merge layers as `merge` does; return its error instead of raising it, and what is known."""
    known = tuple(known)
    given = [setting for layer in layers for setting in layer]
    problems = tuple(
        f"{setting.name} (from {setting.source}): is not a parameter{did_you_mean(setting.name, known)}"
        for setting in given
        if setting.name not in known
    )
    hint = f"the parameters are: {', '.join(known)}"
    error = UsageError("a parameter is not known", details=problems, hint=hint) if problems else None
    merged: dict[str, Setting] = {}
    hidden: list[Hidden] = []
    for setting in given:
        if setting.name in known and setting.value is not None:
            before = merged.get(setting.name)
            merged[setting.name] = setting if before is None else _override(before, setting)
            hidden += () if before is None else _hidden(before, setting)
    return Settings(tuple(merged.values()), tuple(hidden)), error


def from_stage(stage: Stage) -> tuple[Setting, ...]:
    """Return the parameters that a stage's overlay sets."""
    source = f"stage {stage.name} in {STAGES_PATH}"
    return tuple(Setting(name, value, source) for name, value in stage.overlay)


def from_flags(flags: Flags, texts: Collection[str] = ()) -> tuple[Setting, ...]:
    """Return the parameters that the command line sets.

    Args:
        flags: The flags.
        texts: The parameters that are text, whose values are taken as typed. The values of others are parsed
            as JSON if possible.

    Raises:
        UsageError: Some `--set` are not of the form `name=value`. All of them are listed.
    """
    location = (Setting("location", flags.location, "--location"),) if flags.location else ()
    parsed = [_flag_setting(flag, texts) for flag in flags.parameters]
    wrong = tuple(each for each in parsed if isinstance(each, str))
    if wrong:
        hint = "write --set name=value, such as --set maximumInstanceCount=1"
        raise UsageError(wrong[0], details=wrong[1:], hint=hint)
    return (*location, *(each for each in parsed if isinstance(each, Setting)))


def read_user_parameters(root: Path, file: Path = USER_PARAMETERS) -> tuple[Setting, ...]:
    """Read the parameters that the user set in a parameters file.

    Args:
        root: The project's folder.
        file: The file, relative to it.

    Raises:
        UsageError: The file has the wrong structure. If it is missing, nothing is set.
    """
    path = root / file
    if not path.exists():
        return ()
    document = read_object(path)
    parameters = document.get("parameters")
    if not isinstance(parameters, dict):
        raise UsageError(f"{file} cannot be used", details=("parameters: must be an object",))
    wrong = tuple(
        f"{name}: {json.dumps(entry)} must be an object with a value"
        for name, entry in parameters.items()
        if not isinstance(entry, dict) or "value" not in entry
    )
    if wrong:
        raise UsageError(f"{file} cannot be used", details=wrong)
    problems = ((name, json_problem(entry)) for name, entry in parameters.items())
    wrong = tuple(f"{name}: {problem}" for name, problem in problems if problem)
    if wrong:
        raise UsageError(f"{file} cannot be used", details=wrong)
    return _values(document, file, parameters)


def _read_validated(root: Path, path: Path, schema: str) -> dict[str, Json]:
    document = read_object(root / path)
    problems = tuple(str(problem) for problem in validate(schema, document))
    if problems:
        hint = "correct the file, or move it away if there was no fine-tuning step"
        raise UsageError(f"{path} cannot be used", details=problems, hint=hint)
    return document


def _values(document: dict[str, Json], source: Path, names: Iterable[str]) -> tuple[Setting, ...]:
    """Return the values of a parameters file for these names, without those that are null."""
    parameters = document["parameters"]
    entries = [(name, parameters.get(name)) for name in names] if isinstance(parameters, dict) else []
    return tuple(
        Setting(name, entry["value"], str(source))
        for name, entry in entries
        if isinstance(entry, dict) and entry["value"] is not None
    )


def _override(before: Setting, setting: Setting) -> Setting:
    """Return a setting over one of lower priority; the entries of maps are merged."""
    if setting.name not in MAPS or not isinstance(before.value, dict) or not isinstance(setting.value, dict):
        return setting
    sources = dict(before.entry_sources) or dict.fromkeys(before.value, before.source)
    sources |= dict.fromkeys(setting.value, setting.source)
    return replace(setting, value=before.value | setting.value, entry_sources=tuple(sources.items()))


def _hidden(before: Setting, setting: Setting) -> list[Hidden]:
    if setting.name in MAPS and isinstance(before.value, dict) and isinstance(setting.value, dict):
        sources = dict(before.entry_sources)
        return [
            Hidden(f"{setting.name}.{entry}", value, sources.get(entry, before.source), setting)
            for entry, value in before.value.items()
            if setting.value.get(entry, value) != value
        ]
    if before.value == setting.value:
        return []
    return [Hidden(setting.name, before.value, before.source, setting)]


def _flag_setting(flag: str, texts: Collection[str]) -> Setting | str:
    """Parse a `--set`; a text is what is wrong with it."""
    name, equals, text = flag.partition("=")
    if not equals or not name:
        return f"--set {flag!r} has no name or no value"
    map_name, dot, entry = name.partition(".")
    problem = json_problem(flag)
    if problem:
        return f"--set {problem}"
    if dot and entry and map_name in MAPS:
        return Setting(map_name, {entry: text}, "--set")
    try:
        value: Json = text if name in texts else load_json(text)
    except ValueError:
        value = text
    problem = json_problem(value)
    if value is None:
        problem = f"sets nothing; --unset {name} takes back a value that was kept for the stage"
    return f"--set {flag!r}: {problem}" if problem else Setting(name, value, "--set")

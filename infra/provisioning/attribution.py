"""Find out who set the values that a deployment would change: an earlier deployment, or somebody else since.

A value of the app that differs from what the last deployment set was changed by others. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from infra.config.kept import is_secret_name
from infra.config.template import effective_values
from infra.document import Json, as_object
from infra.provisioning.changes import APP_KIND, PropertyChange, ResourceChange
from infra.resources.mount_key import DIGEST_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.config.template import Template

_MAP: Final = "environmentVariables"
_SERVER: Final = "template.containers[inference]"
PARAMETERS: Final = {
    "workloadProfileName": "workloadProfileName",
    "configuration.ingress.allowInsecure": "allowInsecure",
    "configuration.ingress.external": "externalIngress",
    "template.scale.minReplicas": "minReplicas",
    "template.scale.maxReplicas": "maxReplicas",
    "configuration.ingress.stickySessions.affinity": "stickySessions",
    "template.scale.cooldownPeriod": "cooldownSeconds",
    "template.scale.pollingInterval": "pollingSeconds",
    "template.scale.rules[http].http.metadata.concurrentRequests": "concurrentRequests",
    "template.terminationGracePeriodSeconds": "terminationGracePeriodSeconds",
    f"{_SERVER}.image": "image",
    f"{_SERVER}.resources.cpu": "containerCpu",
    f"{_SERVER}.resources.memory": "containerMemory",
    f"{_SERVER}.volumeMounts[share].mountPath": "mountPath",
}
"""The properties of the app that a parameter sets."""

_SWITCHES: Final[dict[Json, Json]] = {"sticky": True, "none": False}
"""The values of `stickySessions` by those of the property."""

_CONSTANTS: Final = re.compile(
    r"configuration\.(activeRevisionsMode|ingress\.(targetPort|transport|traffic))"
    rf"|{re.escape(_SERVER)}\.(command|probes)"
)
"""The properties that the template sets and no parameter changes, apart from `defaultCommands`."""

_VARIABLE: Final = re.compile(rf"{re.escape(_SERVER)}\.env\[([^\]]*)\](\.value|\.secretRef)?")


def keeping_flag(change: PropertyChange) -> str | None:
    """Return the `name=value` of a `--set` that keeps the present value of a property; None if none does."""
    variable, parameter, value = _VARIABLE.fullmatch(change.path), PARAMETERS.get(change.path), change.before
    if variable and isinstance(value, dict):
        value = value.get("value")
    if variable:
        return None if value is None or is_secret_name(variable[1]) else f"{_MAP}.{variable[1]}={value}"
    if parameter == "stickySessions":
        value = _SWITCHES.get(value)
    return f"{parameter}={value if isinstance(value, str) else json.dumps(value)}" if parameter else None


def attribute(
    changes: tuple[ResourceChange, ...],
    last: Mapping[str, Json] | None,
    template: Template,
    *,
    is_unchanged: bool,
) -> tuple[ResourceChange, ...]:
    """Mark the values of the app that others set, and leave out what Azure filled in.

    Args:
        changes: The changes of a what-if.
        last: The parameters of the last deployment; None if unknown.
        template: The template.
        is_unchanged: Whether the last deployment had the same template and parameters. Then nothing that is
            left to change was set by it.
    """
    before = None if last is None else effective_values(last, template)
    found = []
    for change in changes:
        if change.kind != APP_KIND or change.action != "change":
            found.append(change)
            continue
        properties = tuple(
            replace(each, is_foreign=_is_foreign(each, before, template, is_unchanged=is_unchanged))
            for each in change.properties
            if not (is_unchanged and _is_filled_in(each))
        )
        found += [replace(change, properties=properties)] if properties else []
    return tuple(found)


def _is_filled_in(change: PropertyChange) -> bool:
    """Tell whether a property that would go, although nothing was changed, was filled in by Azure.

    What others have added is kept, so it is not among what would go.
    """
    return change.after is None and not _VARIABLE.fullmatch(change.path)


def _is_foreign(
    change: PropertyChange, last: Mapping[str, Json] | None, template: Template, *, is_unchanged: bool
) -> bool:
    variable = _VARIABLE.fullmatch(change.path)
    if change.before is None or (variable and variable[1] == DIGEST_VARIABLE):
        return False  # that variable changes with the storage account's key
    parameter = PARAMETERS.get(change.path)
    if is_unchanged:
        return bool(variable or parameter or _CONSTANTS.match(change.path))
    if last is None:
        return False
    if variable:
        return change.before != _last_variable(variable[1], last, template, as_entry=not variable[2])
    was = last.get(parameter) if parameter else None
    if was is None or was == "":
        return False  # the template chose the value
    found = _SWITCHES.get(change.before) if parameter == "stickySessions" else change.before
    return _text(found) != _text(was)


def _last_variable(name: str, last: Mapping[str, Json], template: Template, *, as_entry: bool) -> Json:
    """Return a variable as the last deployment set it: its entry, or its value alone."""
    parameter = template.own_variables.get(name)
    value = as_object(last.get(_MAP)).get(name, last.get(parameter) if parameter else None)
    if isinstance(value, bool):
        value = "on" if value else "off"
    return {"name": name, "value": value} if as_entry else value


def _text(value: Json) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

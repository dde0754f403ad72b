"""Compare what is deployed with what is wanted. The main part is Azure's own comparison, a what-if.

A what-if needs a group and a workload profile that exist; what it does not see is added here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.config.parameters import render_parameters
from infra.config.template import effective_values
from infra.document import Json, as_objects, object_at
from infra.provisioning.attribution import PARAMETERS, attribute
from infra.provisioning.changes import (
    APP_KIND,
    STORAGE_KIND,
    PropertyChange,
    ResourceChange,
    parse_changes,
    planned_creation,
)
from infra.provisioning.deployment import what_if
from infra.resources.api_keys import SECRET_NAME, merge_keys, parse_keys
from infra.resources.inventory import ACCOUNT, ENVIRONMENT, TYPES, find, planned_resources
from infra.resources.mount_key import DIGEST_VARIABLE, mounted_digest

if TYPE_CHECKING:
    from pathlib import Path

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.config.inputs import Inputs
    from infra.config.settings import Settings
    from infra.provisioning.deployed import Deployed
    from infra.resources.container_apps_environment import Change
    from infra.session import Session

_KEY_PATH: Final = f"template.containers[inference].env[{DIGEST_VARIABLE}].value"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be deployed, and where.

    Attributes:
        group: The resource group.
        names: The names of its resources.
        inputs: The validated inputs.
        asked: The parameters that the user set.
        template_path: The template's file.
        deployed: What is deployed now.
    """

    group: Group
    names: Names
    inputs: Inputs
    asked: Settings
    template_path: Path
    deployed: Deployed

    @property
    def values(self) -> dict[str, Json]:
        """Return the effective value of every parameter."""
        return effective_values(self.asked.to_values(), self.inputs.template)


def compare(
    session: Session,
    wanted: Wanted,
    settings: Settings,
    environment_changes: tuple[Change, ...],
    *,
    is_unchanged: bool,
) -> tuple[ResourceChange, ...]:
    """Return what a provision would change.

    Args:
        session: The opened stage.
        wanted: What is to be deployed.
        settings: The parameters to deploy, with what provision itself adds.
        environment_changes: The changes of the environment that are made before the deployment.
        is_unchanged: Whether the last deployment had the same template and parameters.

    Raises:
        RemoteError: Azure rejects the deployment; nothing was changed.
    """
    commands = [change for change in environment_changes if change.command is not None]
    properties = tuple(PropertyChange(each.path, each.before, each.after) for each in commands)
    environment = wanted.names.environment
    first = (ResourceChange("change", "environment", environment, properties),) if properties else ()
    deployed = wanted.deployed
    adds_profile = any(change.before is None for change in commands)
    if not deployed.has_group or (adds_profile and not deployed.app):
        # Azure compares only with a group that exists, and only where the app's profile exists.
        return (*first, *_creations(wanted))
    moved: tuple[PropertyChange, ...] = ()
    if adds_profile:
        settings, moved = _on_current_profile(settings, wanted)
    text = render_parameters(settings, wanted.inputs.template)
    answer = what_if(session, wanted.group, wanted.template_path, text, settings.secret_values())
    found = _with_properties(parse_changes(answer), wanted.names.app, moved)
    last = deployed.last_parameters
    found = attribute(found, last, wanted.inputs.template, is_unchanged=is_unchanged)
    return _with_unseen((*first, *found), wanted)


def _creations(wanted: Wanted) -> tuple[ResourceChange, ...]:
    group, names, deployed = wanted.group, wanted.names, wanted.deployed
    missing = [each for each in planned_resources(names) if not find(deployed.resources, each)]
    ids = [f"{group.id}/providers/{TYPES[each.kind]}/{each.name}" for each in reversed(missing)]
    account = f"{group.id}/providers/{TYPES[ACCOUNT]}/{names.storage_account}"
    environment = f"{group.id}/providers/{TYPES[ENVIRONMENT]}/{names.environment}"
    inner = [
        f"{account}/fileServices/default/shares/{names.file_share}",
        f"{environment}/storages/{names.environment_storage}",
    ]
    whole = () if deployed.has_group else (ResourceChange("create", "resource group", group.name),)
    return (*whole, *(planned_creation(each) for each in (*ids, *inner)))


def _on_current_profile(settings: Settings, wanted: Wanted) -> tuple[Settings, tuple[PropertyChange, ...]]:
    """Return the settings with the app's current profile and size, and the changes that this leaves out.

    Azure compares only where the app's profile exists, and the new one is added after the plan.
    """
    values, properties = wanted.values, wanted.deployed.app_properties
    containers = as_objects(object_at(properties, "template").get("containers"))
    size = object_at(containers[0], "resources") if containers else {}
    now = {
        "workloadProfileName": properties.get("workloadProfileName"),
        "containerCpu": size.get("cpu"),
        "containerMemory": size.get("memory"),
    }
    paths = {parameter: path for path, parameter in PARAMETERS.items()}
    moved = []
    for name, value in now.items():
        text = f"{value:g}" if isinstance(value, float | int) else str(value)
        settings = settings.with_value(name, text, "the app")
        moved += [PropertyChange(paths[name], text, values[name])] if text != values[name] else []
    return settings, tuple(moved)


def _with_properties(
    changes: tuple[ResourceChange, ...], app: str, properties: tuple[PropertyChange, ...]
) -> tuple[ResourceChange, ...]:
    """Return changes with further ones of the app's properties."""
    if not properties:
        return changes
    mine = next((each for each in changes if each.kind == APP_KIND), ResourceChange("change", APP_KIND, app))
    others = tuple(each for each in changes if each.kind != APP_KIND)
    return (*others, replace(mine, properties=(*mine.properties, *properties)))


def _with_unseen(changes: tuple[ResourceChange, ...], wanted: Wanted) -> tuple[ResourceChange, ...]:
    """Add what a what-if does not see: other keys, and an app whose last change failed."""
    deployed, extra = wanted.deployed, []
    if not deployed.app:
        return changes
    keys, asked = deployed.api_keys, wanted.asked.text("apiKey")
    new = merge_keys(keys, asked or "")
    if asked and set(parse_keys(new)) != set(parse_keys(keys)):
        extra.append(PropertyChange(f"configuration.secrets[{SECRET_NAME}].value", keys or None, new))
    state = deployed.app_properties.get("provisioningState")
    if state != "Succeeded":
        extra.append(PropertyChange("provisioningState", state, "Succeeded"))
    if deployed.key_state == "rotated":
        changes = (*changes, _rotated_key(wanted))
        extra.append(PropertyChange(_KEY_PATH, mounted_digest(deployed.app), "that of the new key"))
        changes = _without_property(changes, _KEY_PATH)
    return _with_properties(changes, wanted.names.app, tuple(extra))


def _rotated_key(wanted: Wanted) -> ResourceChange:
    """Return the change of the key that the environment mounts the share with."""
    change = PropertyChange("azureFile.accountKey", "the key before", "the account's key")
    return ResourceChange("change", STORAGE_KIND, wanted.names.environment_storage, (change,))


def _without_property(changes: tuple[ResourceChange, ...], path: str) -> tuple[ResourceChange, ...]:
    kept = (
        replace(each, properties=tuple(one for one in each.properties if one.path != path))
        for each in changes
    )
    return tuple(each for each in kept if each.properties or each.action != "change")

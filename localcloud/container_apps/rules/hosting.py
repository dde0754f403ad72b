"""What Azure rejects in the name and the volumes of an app or a job, and because of its environment. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_ids import parse_path
from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.profiles import check_total
from localcloud.container_apps.references import environment_id, find_profile, noun_of
from localcloud.container_apps.resource_types import ENVIRONMENTS, STORAGES
from localcloud.container_apps.rules.containers import (
    mount_errors,
    resource_errors,
    total_resources,
    volume_name_errors,
)
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup


_NAME: Final = re.compile(r"(?=.{2,32}$)[a-z](?!.*--)[-a-z0-9]*[a-z0-9]")


def name_errors(name: str, kind: str, code: str) -> Iterator[AzureError]:
    """Yield an invalid name of an app or a job, with Azure's word for the kind and its error code."""
    if not _NAME.fullmatch(name):
        yield bad_request(
            code,
            f"Invalid {kind} name '{name}'. A name must consist of lower case alphanumeric characters or "
            "'-', start with an alphabetic character, and end with an alphanumeric character and cannot have "
            "'--'. The length must be between 2 and 32 characters inclusive.",
        )


def environment_errors(
    properties: Json, containers: list[Json], before: Resource | None, lookup: ResourceLookup
) -> Iterator[AzureError]:
    """Yield what does not fit the environment of an app or a job: its profiles, and its storages."""
    identifier = environment_id(properties)
    path = parse_path(identifier)
    if path.full_type.lower() != ENVIRONMENTS.lower() or len(path.names) != 1:
        message = f"Invalid ManagedEnvironmentId value '{identifier}'."
        yield bad_request("InvalidManagedEnvironmentId", message)
        return
    if before is not None and str(before.properties["environmentId"]).lower() != identifier.lower():
        message = f"The environment of {noun_of(before)} '{before.name}' cannot be changed."
        yield bad_request("ContainerAppEnvironmentCannotBeChanged", message)
        return
    found = lookup.find(identifier)
    if found is None:
        message = f"The environment '{identifier}' was not found."
        yield AzureError(404, "ManagedEnvironmentNotFound", message)
        return
    yield from _storage_errors(properties.get("template") or {}, found, lookup)
    try:
        _, profile = find_profile(found, properties.get("workloadProfileName"))
        # An amount that is none has been reported.
        total = None if list(resource_errors(containers)) else total_resources(containers)
        if total is not None and containers:
            check_total(*total, profile)
    except AzureError as error:
        yield error


def volume_errors(app: str, template: Json, containers: Iterable[Json]) -> Iterator[AzureError]:
    """Yield invalid volumes of an app or a job, and mounts that do not fit them."""
    volumes = template.get("volumes") or ()
    yield from volume_name_errors(volumes)
    for volume in volumes:
        kind = volume.get("storageType") or "EmptyDir"
        if kind in ("EmptyDir", "NfsAzureFile", "Secret"):
            yield not_emulated(f"volumes of type '{kind}'")
        if volume.get("mountOptions"):
            yield not_emulated("mount options of a volume")
    by_name = {volume.get("name"): volume for volume in volumes}
    for container in containers:
        yield from mount_errors(app, container, by_name)


def _storage_errors(template: Json, environment: Resource, lookup: ResourceLookup) -> Iterator[AzureError]:
    for volume in template.get("volumes") or ():
        name = str(volume.get("storageName") or "")
        if volume.get("storageType") != "AzureFile" or is_unknown(name):
            continue
        if lookup.find(f"{environment.id}/{STORAGES.rpartition('/')[2]}/{name}") is None:
            message = f"ManagedEnvironment Storage '{name}' was not found."
            yield AzureError(404, "ManagedEnvironmentStorageNotFound", message)

"""What Azure rejects in a container app, and what the local cloud does not emulate of one. Pure.

`check_app` checks a whole request. Values that a deployment does not know yet (`resource_kinds.is_unknown`)
pass: the same request is checked again when they are known.

Codes and messages are Azure's where public material quotes them. Not found there, and therefore plausible
rather than quoted: the codes for probe periods, timeouts and ports, names of secrets and containers, scale,
ingress.

Source: the platform's messages as quoted in public issues and logs; Microsoft.App REST API 2026-01-01.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.resource_ids import parse_path
from localcloud.container_apps.profiles import check_total
from localcloud.container_apps.references import environment_id, find_profile
from localcloud.container_apps.resource_types import ENVIRONMENTS, STORAGES
from localcloud.container_apps.rules.containers import (
    check_mount,
    check_probes,
    checked_containers,
    total_resources,
)
from localcloud.container_apps.rules.ingress import check_ingress
from localcloud.container_apps.rules.ranges import is_within
from localcloud.container_apps.rules.secrets import check_secret_references, checked_secrets
from localcloud.container_apps.schema import check_schema
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup

_APP_NAME: Final = re.compile(r"(?=.{2,32}$)[a-z](?!.*--)[-a-z0-9]*[a-z0-9]")
_SUFFIX: Final = re.compile(r"[a-z0-9](?!.*-{2})([-a-z0-9]*[a-z0-9])?")
_MAX_REVISION_NAME: Final = 54
_MAX_REPLICAS: Final = 1_000
_MAX_GRACE_S: Final = 600


def check_app(name: str, body: Json, before: Resource | None, lookup: ResourceLookup) -> None:
    """Validate a PUT of a container app.

    Args:
        name: Its name.
        body: The request body.
        before: The stored app, None if it is new.
        lookup: Where its environment and storages are looked up.

    Raises:
        AzureError: 400 for what Azure rejects, 404 for what is missing, 501 for what is not emulated.
    """
    if not _APP_NAME.fullmatch(name):
        raise bad_request(
            "ContainerAppInvalidName",
            f"Invalid ContainerApp name '{name}'. A name must consist of lower case alphanumeric characters "
            "or '-', start with an alphabetic character, and end with an alphanumeric character and cannot "
            "have '--'. The length must be between 2 and 32 characters inclusive.",
        )
    check_schema(body)
    properties = body.get("properties") or {}
    _check_emulated(body, properties)
    environment = _environment(properties, before, lookup)
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    containers = checked_containers(name, template)
    secrets = checked_secrets(configuration, before)
    check_secret_references(containers, configuration, secrets)
    check_ingress(configuration)
    for container in containers:
        check_probes(container)
    _check_volumes(name, template, containers, environment, lookup)
    _check_scale(template)
    _check_suffix(name, template)
    _, profile = find_profile(environment, properties.get("workloadProfileName"))
    total = total_resources(containers)
    if total is not None:
        check_total(*total, profile)


def _environment(properties: Json, before: Resource | None, lookup: ResourceLookup) -> Resource:
    identifier = environment_id(properties)
    path = parse_path(identifier)
    if path.full_type.lower() != ENVIRONMENTS.lower() or len(path.names) != 1:
        message = f"The environmentId '{identifier}' is not the id of a managed environment."
        raise bad_request("LinkedInvalidPropertyId", message)
    if before is not None and str(before.properties["environmentId"]).lower() != identifier.lower():
        message = f"The environment of container app '{before.name}' cannot be changed."
        raise bad_request("ContainerAppEnvironmentCannotBeChanged", message)
    found = lookup.find(identifier)
    if found is None:
        message = f"The environment '{identifier}' was not found."
        raise AzureError(404, "ManagedEnvironmentNotFound", message)
    return found


def _check_emulated(body: Json, properties: Json) -> None:
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    ingress = configuration.get("ingress") or {}
    unsupported = {
        "a managed identity of a container app": (body.get("identity") or {}).get("type", "None") != "None",
        "the 'kind' of a container app": body.get("kind") not in (None, "", "containerapps"),
        "a custom location": body.get("extendedLocation"),
        "Dapr": (configuration.get("dapr") or {}).get("enabled"),
        "services of a container app": configuration.get("service") or template.get("serviceBinds"),
        "language runtimes of a container app": _has_true(configuration.get("runtime")),
        "identity settings": configuration.get("identitySettings"),
        "labels of revisions": configuration.get("targetLabel"),
        "revision mode 'Labels'": str(configuration.get("activeRevisionsMode")).lower() == "labels",
        "init containers": template.get("initContainers"),
        "more than one container": len(template.get("containers") or ()) > 1,
        "custom domains": ingress.get("customDomains"),
        "CORS policies": ingress.get("corsPolicy"),
        "client certificates": str(ingress.get("clientCertificateMode")).lower() in ("accept", "require"),
        "sticky sessions": (ingress.get("stickySessions") or {}).get("affinity", "none") != "none",
        "additional ports": ingress.get("additionalPortMappings"),
        "TLS between ingress and app": str(ingress.get("targetPortHttpScheme")).lower() == "https",
        "exposed ports": ingress.get("exposedPort"),
    }
    for feature, is_used in unsupported.items():
        if is_used:
            raise not_emulated(feature)


def _has_true(value: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return any(_has_true(inner) for inner in value.values())
    return value is True


def _check_volumes(
    app: str, template: Json, containers: Iterable[Json], environment: Resource, lookup: ResourceLookup
) -> None:
    volumes = {volume.get("name"): volume for volume in template.get("volumes") or ()}
    for volume in volumes.values():
        kind = volume.get("storageType") or "EmptyDir"
        if kind != "AzureFile":
            raise not_emulated(f"volumes of type '{kind}'")
        if volume.get("mountOptions"):
            raise not_emulated("mount options of a volume")
        name = str(volume.get("storageName") or "")
        if lookup.find(f"{environment.id}/{STORAGES.rpartition('/')[2]}/{name}") is None:
            message = f"ManagedEnvironment Storage '{name}' was not found."
            raise AzureError(404, "ManagedEnvironmentStorageNotFound", message)
    for container in containers:
        for mount in container.get("volumeMounts") or ():
            check_mount(app, mount, volumes)


def _check_scale(template: Json) -> None:
    scale = template.get("scale") or {}
    least, most = scale.get("minReplicas"), scale.get("maxReplicas")
    least, most = (0 if least is None else least), (10 if most is None else most)
    fits = is_within(least, 0, _MAX_REPLICAS) and is_within(most, 1, _MAX_REPLICAS) and least <= most
    if not fits:
        message = (
            f"minReplicas {least} and maxReplicas {most} are invalid: 0 to {_MAX_REPLICAS} and 1 to "
            f"{_MAX_REPLICAS}, the least no more than the most."
        )
        raise bad_request("ContainerAppInvalidScale", message)
    for rule in scale.get("rules") or ():
        kinds = [kind for kind in ("http", "tcp", "custom", "azureQueue") if rule.get(kind)]
        if not rule.get("name") or len(kinds) != 1:
            message = f"The scale rule '{rule.get('name')}' must have a name and exactly one kind."
            raise bad_request("ContainerAppInvalidScaleRule", message)
    grace = template.get("terminationGracePeriodSeconds")
    if grace is not None and not is_within(grace, 0, _MAX_GRACE_S):
        message = f"terminationGracePeriodSeconds must be in the range of ['0', '{_MAX_GRACE_S}']."
        raise bad_request("ContainerAppInvalidTerminationGracePeriod", message)


def _check_suffix(app: str, template: Json) -> None:
    suffix = template.get("revisionSuffix")
    if not suffix:
        return
    name = f"{app}--{suffix}"
    if not _SUFFIX.fullmatch(suffix) or len(name) > _MAX_REVISION_NAME:
        message = (
            f"Invalid revision name '{name}'. The suffix must consist of lower case alphanumeric characters "
            f"or '-', have no '--', and the name must be at most {_MAX_REVISION_NAME} characters long."
        )
        raise bad_request("ContainerAppInvalidRevisionName", message)

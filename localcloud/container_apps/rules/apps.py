"""What Azure rejects in a container app, and what the local cloud does not emulate of one. Pure.

`app_errors` yields every error of a request. Values that a deployment does not know yet
(`resource_kinds.is_unknown`) pass: the same request is checked again when they are known.

Codes and messages are Azure's where public material quotes them. Not found there, and therefore plausible
rather than quoted: the codes for scale, revision names and grace periods.

Source: the platform's messages as quoted in public issues and logs; Microsoft.App REST API 2026-01-01.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.rules.containers import container_errors, resource_errors
from localcloud.container_apps.rules.hosting import environment_errors, name_errors, volume_errors
from localcloud.container_apps.rules.ingress import ingress_errors
from localcloud.container_apps.rules.ranges import duplicates, is_within
from localcloud.container_apps.rules.secrets import (
    reference_errors,
    registry_errors,
    secret_errors,
    secret_names,
)
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup

_SUFFIX: Final = re.compile(r"[a-z0-9](?!.*-{2})([-a-z0-9]*[a-z0-9])?")
_MAX_REVISION_NAME: Final = 54
_MAX_REPLICAS: Final = 1_000
_MAX_GRACE_S: Final = 600
_RULE_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_RULE_KINDS: Final = ("http", "tcp", "custom", "azureQueue")
_COUNT: Final = re.compile(r"[1-9]\d*")


def app_errors(
    name: str, body: Json, before: Resource | None, lookup: ResourceLookup
) -> Iterator[AzureError]:
    """Yield what is wrong with a PUT of a container app: 400 and 404, and 501 for what is not emulated.

    Args:
        name: Its name.
        body: The request body, which conforms to the specification in its types.
        before: The stored app, None if it is new.
        lookup: Where its environment and storages are looked up.
    """
    yield from name_errors(name, "ContainerApp", "ContainerAppInvalidName")
    properties = body.get("properties") or {}
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    containers = template.get("containers") or []
    yield from _unsupported(body, properties)
    yield from container_errors(name, containers)
    yield from secret_errors(configuration, before)
    yield from reference_errors(containers, template, configuration, secret_names(configuration))
    yield from registry_errors(configuration)
    yield from ingress_errors(configuration)
    yield from volume_errors(name, template, containers)
    yield from _scale_errors(template)
    yield from _suffix_errors(name, template)
    yield from resource_errors(containers)
    yield from environment_errors(properties, containers, before, lookup)


def _unsupported(body: Json, properties: Json) -> Iterator[AzureError]:
    """Yield the features that Azure has and the local cloud does not."""
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    ingress = configuration.get("ingress") or {}
    unsupported = {
        "the 'kind' of a container app": body.get("kind") not in (None, "", "containerapps"),
        "a custom location": body.get("extendedLocation"),
        "Dapr": (configuration.get("dapr") or {}).get("enabled"),
        "services of a container app": configuration.get("service") or template.get("serviceBinds"),
        "language runtimes of a container app": _has_true(configuration.get("runtime")),
        "identity settings": configuration.get("identitySettings"),
        "init containers": template.get("initContainers"),
        "more than one container": len(template.get("containers") or ()) > 1,
        "client certificates": str(ingress.get("clientCertificateMode")).lower() in ("accept", "require"),
        "additional ports": ingress.get("additionalPortMappings"),
        "TLS between ingress and app": str(ingress.get("targetPortHttpScheme")).lower() == "https",
        "exposed ports": ingress.get("exposedPort"),
    }
    for feature, is_used in unsupported.items():
        if is_used:
            yield not_emulated(feature)


def _has_true(value: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return any(_has_true(inner) for inner in value.values())
    return value is True


def _scale_errors(template: Json) -> Iterator[AzureError]:
    scale = template.get("scale") or {}
    least, most = scale.get("minReplicas"), scale.get("maxReplicas")
    least, most = (0 if least is None else least), (10 if most is None else most)
    fits = is_within(least, 0, _MAX_REPLICAS) and is_within(most, 1, _MAX_REPLICAS)
    if not fits or (isinstance(least, int) and isinstance(most, int) and least > most):
        message = (
            f"minReplicas {least} and maxReplicas {most} are invalid: 0 to {_MAX_REPLICAS} and 1 to "
            f"{_MAX_REPLICAS}, the least no more than the most."
        )
        yield bad_request("ContainerAppInvalidScale", message)
    for name in ("cooldownPeriod", "pollingInterval"):
        if scale.get(name) is not None and not is_within(scale[name], 1, 2**31 - 1):
            yield bad_request("ContainerAppInvalidScale", f"{name} {scale[name]} must be 1 or more.")
    yield from _scale_rule_errors(scale.get("rules") or ())
    grace = template.get("terminationGracePeriodSeconds")
    if grace is not None and not is_within(grace, 0, _MAX_GRACE_S):
        message = f"terminationGracePeriodSeconds must be in the range of ['0', '{_MAX_GRACE_S}']."
        yield bad_request("ContainerAppInvalidTerminationGracePeriod", message)


def _scale_rule_errors(rules: Iterable[Json]) -> Iterator[AzureError]:
    """Yield invalid scale rules.

    Source: DFE-Digital/terraform-azurerm-container-apps-hosting#96 (names).
    """
    for rule in rules:
        name = str(rule.get("name") or "")
        if not _RULE_NAME.fullmatch(name):
            message = (
                f"Property 'rules.name' has an invalid value '{name}'. A value must consist of lower case "
                "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character."
            )
            yield bad_request("ContainerAppInvalidPropertyValue", message)
        kinds = [kind for kind in _RULE_KINDS if rule.get(kind) is not None]
        if len(kinds) != 1:
            message = f"The scale rule '{name}' must have exactly one of {', '.join(_RULE_KINDS)}."
            yield bad_request("ContainerAppInvalidScaleRule", message)
        concurrency = ((rule.get("http") or {}).get("metadata") or {}).get("concurrentRequests")
        if concurrency is not None and not is_unknown(concurrency) and not _COUNT.fullmatch(concurrency):
            message = f"concurrentRequests '{concurrency}' of the scale rule '{name}' is no positive number."
            yield bad_request("ContainerAppInvalidScaleRule", message)
    for name in duplicates(rule.get("name") for rule in rules):
        message = f"Property 'rules.name' has an invalid value '{name}'. It is defined more than once."
        yield bad_request("ContainerAppInvalidPropertyValue", message)


def _suffix_errors(app: str, template: Json) -> Iterator[AzureError]:
    suffix = template.get("revisionSuffix")
    if not suffix or is_unknown(suffix):
        return
    name = f"{app}--{suffix}"
    if not _SUFFIX.fullmatch(suffix) or len(name) > _MAX_REVISION_NAME:
        message = (
            f"Invalid revision name '{name}'. The suffix must consist of lower case alphanumeric characters "
            f"or '-', have no '--', and the name must be at most {_MAX_REVISION_NAME} characters long."
        )
        yield bad_request("ContainerAppInvalidRevisionName", message)

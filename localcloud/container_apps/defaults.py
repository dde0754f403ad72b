"""Fill in Azure's defaults for a container app or a job, and separate its secrets. Pure.

Source: Microsoft.App REST API 2026-01-01, ContainerApps; recorded answers of the Azure CLI's tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.references import environment_id
from localcloud.json_values import value_or, without_nulls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcloud.arm.requests import Json

_DEFAULT_MAX_REPLICAS: Final = 10
_EPHEMERAL_GIB: Final = ((0.25, "1Gi"), (0.5, "2Gi"), (1.0, "4Gi"))
_TRAFFIC: Final = [{"weight": 100, "latestRevision": True}]


def with_defaults(properties: Json, profile: str | None) -> Json:
    """Return an app's properties with Azure's defaults, without read-only properties and secret values."""
    identifier = environment_id(properties)
    return {
        "managedEnvironmentId": identifier,
        "environmentId": identifier,
        "workloadProfileName": profile,
        "configuration": _configuration(properties.get("configuration") or {}),
        "template": _template(properties.get("template") or {}),
    }


def job_with_defaults(properties: Json, profile: str | None) -> Json:
    """Return a job's properties with Azure's defaults, without read-only properties and secret values."""
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    kind = configuration["triggerType"]
    triggers = {f"{word}TriggerConfig": None for word in ("manual", "schedule", "event")}
    name = f"{kind.lower()}TriggerConfig"
    sent = without_nulls(configuration.get(name) or {})
    triggers[name] = {"replicaCompletionCount": 1, "parallelism": 1} | sent
    return {
        "environmentId": environment_id(properties),
        "workloadProfileName": profile,
        "configuration": {
            "secrets": [{"name": secret["name"]} for secret in configuration.get("secrets") or ()] or None,
            "triggerType": kind,
            "replicaTimeout": configuration["replicaTimeout"],
            "replicaRetryLimit": configuration.get("replicaRetryLimit") or 0,
            **triggers,
            "registries": configuration.get("registries"),
        },
        "template": {
            "containers": [_container(container) for container in template.get("containers") or ()],
            "initContainers": None,
            "volumes": without_nulls(template.get("volumes")) or None,
        },
    }


def secret_values(properties: Json, stored: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets' values by name; a secret without a value keeps the stored one."""
    secrets = (properties.get("configuration") or {}).get("secrets") or ()
    return {
        secret["name"]: secret["value"] if secret.get("value") is not None else stored[secret["name"]]
        for secret in secrets
    }


def same_template(one: Json, other: Json) -> bool:
    """Return whether two templates result in the same revision; the suffix is only its name."""
    return {**one, "revisionSuffix": ""} == {**other, "revisionSuffix": ""}


def _configuration(configuration: Json) -> Json:
    names = [{"name": secret["name"]} for secret in configuration.get("secrets") or ()]
    mode = str(configuration.get("activeRevisionsMode") or "Single")
    return {
        "secrets": names or None,
        "activeRevisionsMode": mode.capitalize(),
        "ingress": _ingress(configuration.get("ingress")),
        "registries": configuration.get("registries"),
        "dapr": configuration.get("dapr"),
        "maxInactiveRevisions": configuration.get("maxInactiveRevisions") or 100,
        "service": None,
        "runtime": configuration.get("runtime"),
    }


def _ingress(ingress: Json | None) -> Json | None:
    if ingress is None:
        return None
    traffic = ingress.get("traffic") or _TRAFFIC
    return {
        "external": bool(ingress.get("external")),
        "targetPort": ingress.get("targetPort"),
        "exposedPort": ingress.get("exposedPort") or 0,
        "transport": str(ingress.get("transport") or "auto").capitalize(),
        "traffic": [{**entry, "weight": int(entry.get("weight") or 0)} for entry in traffic],
        "customDomains": ingress.get("customDomains") or None,
        "allowInsecure": bool(ingress.get("allowInsecure")),
        "ipSecurityRestrictions": ingress.get("ipSecurityRestrictions") or None,
        "corsPolicy": ingress.get("corsPolicy"),
        "clientCertificateMode": ingress.get("clientCertificateMode"),
        "stickySessions": ingress.get("stickySessions"),
    }


def _template(template: Json) -> Json:
    scale = template.get("scale") or {}
    return {
        "revisionSuffix": template.get("revisionSuffix") or "",
        "terminationGracePeriodSeconds": template.get("terminationGracePeriodSeconds"),
        "containers": [_container(container) for container in template.get("containers") or ()],
        "initContainers": None,
        "scale": {
            "minReplicas": scale.get("minReplicas"),
            "maxReplicas": value_or(scale.get("maxReplicas"), _DEFAULT_MAX_REPLICAS),
            "cooldownPeriod": value_or(scale.get("cooldownPeriod"), 300),
            "pollingInterval": value_or(scale.get("pollingInterval"), 30),
            "rules": without_nulls(scale.get("rules")) or None,
        },
        "volumes": without_nulls(template.get("volumes")) or None,
        "serviceBinds": None,
    }


def _container(container: Json) -> Json:
    present = {
        name: without_nulls(container[name])
        for name in ("command", "args", "env", "volumeMounts")
        if container.get(name)
    }
    resources = container.get("resources") or {}
    cpu = value_or(resources.get("cpu"), 0.5)
    cores = cpu if is_unknown(cpu) else float(cpu)
    return {
        "image": container.get("image"),
        "name": container["name"],
        **present,
        "resources": {
            "cpu": cores,
            "memory": resources.get("memory") or "1Gi",
            "ephemeralStorage": "" if is_unknown(cores) else _ephemeral(cores),
        },
        "probes": without_nulls(container.get("probes")) or [],
    }


def _ephemeral(cores: float) -> str:
    return next((size for limit, size in _EPHEMERAL_GIB if cores <= limit), "8Gi")

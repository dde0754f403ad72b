"""Shape a container app: Azure's defaults filled in, secrets apart, and what the runtime needs of it. Pure.

Source: Microsoft.App REST API 2026-01-01, ContainerApps; recorded answers of the Azure CLI's tests;
Kubernetes' defaults for probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localcloud.arm.resources import is_unknown
from localcloud.container_apps.rules import environment_id
from localcloud.runtime import Container, Probe, RevisionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from localcloud.arm.calls import Json

_DEFAULT_GRACE_S = 30
_DEFAULT_MOST_REPLICAS = 10
_EPHEMERAL_GIB = ((0.25, "1Gi"), (0.5, "2Gi"), (1.0, "4Gi"))
_TRAFFIC = [{"weight": 100, "latestRevision": True}]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a revision runs, as its containers are told."""

    app: str
    revision: str
    hostname: str
    dns_suffix: str


def normal_properties(properties: Json, profile: str | None) -> Json:
    """Return an app's properties with Azure's defaults, without read-only ones and without secret values."""
    identifier = environment_id(properties)
    return {
        "managedEnvironmentId": identifier,
        "environmentId": identifier,
        "workloadProfileName": profile,
        "configuration": _configuration(properties.get("configuration") or {}),
        "template": _template(properties.get("template") or {}),
    }


def secret_values(properties: Json, kept: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the secrets that a request names; one without a value keeps the one it had."""
    secrets = (properties.get("configuration") or {}).get("secrets") or ()
    return {
        secret["name"]: secret["value"] if secret.get("value") is not None else kept[secret["name"]]
        for secret in secrets
    }


def same_template(one: Json, other: Json) -> bool:
    """Tell whether two normal templates would make the same revision: the suffix only names it."""
    return {**one, "revisionSuffix": ""} == {**other, "revisionSuffix": ""}


def revision_spec(
    place: Place,
    template: Json,
    target_port: int | None,
    secrets: Mapping[str, str],
    volume: Callable[[str], Path],
) -> RevisionSpec:
    """Return what the runtime must run for a revision.

    Args:
        place: Its names.
        template: Its normal template.
        target_port: The ingress's, None without one.
        secrets: The app's secrets by name.
        volume: Leads from an environment storage's name to the share's directory.
    """
    return RevisionSpec(
        app=place.app,
        revision=place.revision,
        container=_container(template, secrets, volume),
        target_port=target_port,
        # Nothing here wakes a sleeping app, so none sleeps.
        replicas=max(1, template["scale"]["minReplicas"] or 0),
        grace_s=_or(template["terminationGracePeriodSeconds"], _DEFAULT_GRACE_S),
        env_dns_suffix=place.dns_suffix,
        hostname=place.hostname,
    )


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
        "customDomains": None,
        "allowInsecure": bool(ingress.get("allowInsecure")),
        "ipSecurityRestrictions": ingress.get("ipSecurityRestrictions") or None,
        "corsPolicy": None,
        "clientCertificateMode": ingress.get("clientCertificateMode"),
        "stickySessions": ingress.get("stickySessions"),
    }


def _template(template: Json) -> Json:
    scale = template.get("scale") or {}
    return {
        "revisionSuffix": template.get("revisionSuffix") or "",
        "terminationGracePeriodSeconds": template.get("terminationGracePeriodSeconds"),
        "containers": [_normal_container(container) for container in template.get("containers") or ()],
        "initContainers": None,
        "scale": {
            "minReplicas": scale.get("minReplicas"),
            "maxReplicas": _or(scale.get("maxReplicas"), _DEFAULT_MOST_REPLICAS),
            "cooldownPeriod": _or(scale.get("cooldownPeriod"), 300),
            "pollingInterval": _or(scale.get("pollingInterval"), 30),
            "rules": scale.get("rules") or None,
        },
        "volumes": template.get("volumes") or None,
        "serviceBinds": None,
    }


def _normal_container(container: Json) -> Json:
    kept = {
        name: container[name] for name in ("command", "args", "env", "volumeMounts") if container.get(name)
    }
    resources = container.get("resources") or {}
    cpu = _or(resources.get("cpu"), 0.5)
    cores = cpu if is_unknown(cpu) else float(cpu)
    return {
        "image": container.get("image"),
        "name": container["name"],
        **kept,
        "resources": {
            "cpu": cores,
            "memory": resources.get("memory") or "1Gi",
            "ephemeralStorage": "" if is_unknown(cores) else _ephemeral(cores),
        },
        "probes": container.get("probes") or [],
    }


def _ephemeral(cores: float) -> str:
    return next((size for limit, size in _EPHEMERAL_GIB if cores <= limit), "8Gi")


def _container(template: Json, secrets: Mapping[str, str], volume: Callable[[str], Path]) -> Container:
    container = template["containers"][0]
    storages = {found["name"]: found["storageName"] for found in template["volumes"] or ()}
    mounts = []
    for mount in container.get("volumeMounts") or ():
        directory = volume(storages[mount["volumeName"]])
        mounts.append((directory / (mount.get("subPath") or ""), mount["mountPath"]))
    return Container(
        name=container["name"],
        image=container["image"],
        command=tuple(container.get("command") or ()),
        args=tuple(container.get("args") or ()),
        env=tuple(_variable(variable, secrets) for variable in container.get("env") or ()),
        probes=tuple(_probe(probe) for probe in container["probes"]),
        mounts=tuple(mounts),
    )


def _variable(variable: Json, secrets: Mapping[str, str]) -> tuple[str, str]:
    reference = variable.get("secretRef")
    return variable["name"], secrets[reference] if reference else str(variable.get("value") or "")


def _probe(probe: Json) -> Probe:
    http = probe.get("httpGet")
    target = http or probe["tcpSocket"]
    headers = tuple((header["name"], header["value"]) for header in target.get("httpHeaders") or ())
    return Probe(
        kind=probe["type"],
        path=None if http is None else http.get("path") or "/",
        port=target["port"],
        initial_delay_s=_or(probe.get("initialDelaySeconds"), 0),
        period_s=_or(probe.get("periodSeconds"), 10),
        timeout_s=_or(probe.get("timeoutSeconds"), 1),
        failure_threshold=_or(probe.get("failureThreshold"), 3),
        success_threshold=_or(probe.get("successThreshold"), 1),
        headers=headers,
    )


def _or(value: Any, default: Any) -> Any:  # noqa: ANN401 - JSON
    return default if value is None else value

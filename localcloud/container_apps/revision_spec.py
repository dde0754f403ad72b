"""Translate a container app's template into what the runtime runs. Pure.

Source: Kubernetes' defaults for probes; Azure Container Apps documentation, "Set scaling rules" (cooldown).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud.json_values import value_or
from localcloud.runtime import Container, CorsPolicy, IngressPolicy, Probe, RevisionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from localcloud.arm.requests import Json

_DEFAULT_GRACE_S: Final = 30


@dataclass(frozen=True, slots=True)
class RevisionAddress:
    """The names of a revision that its containers see in their environment."""

    app: str
    revision: str
    hostname: str
    dns_suffix: str


def revision_spec(
    address: RevisionAddress,
    template: Json,
    target_port: int | None,
    secrets: Mapping[str, str],
    volume: Callable[[str], Path],
) -> RevisionSpec:
    """Return what the runtime runs for a revision.

    Args:
        address: Its names.
        template: Its template, with defaults.
        target_port: The port of its ingress, None without one.
        secrets: The app's secrets by name.
        volume: Returns the share's directory for the name of an environment storage.
    """
    return RevisionSpec(
        app=address.app,
        revision=address.revision,
        container=runtime_container(template, secrets, volume),
        target_port=target_port,
        # A new revision starts a replica, also if it may scale to zero.
        replicas=max(1, template["scale"]["minReplicas"] or 0),
        idle_s=_idle_s(template["scale"], target_port),
        grace_s=value_or(template["terminationGracePeriodSeconds"], _DEFAULT_GRACE_S),
        env_dns_suffix=address.dns_suffix,
        hostname=address.hostname,
    )


def _idle_s(scale: Json, target_port: int | None) -> float | None:
    """Return after how long without requests a revision scales to zero; None if it does not.

    What other rules than those for HTTP would start again is not emulated, so there a replica goes on
    running, as it does without an ingress.
    """
    are_http = all("http" in rule for rule in scale["rules"] or ())
    may_sleep = not scale["minReplicas"] and target_port is not None and are_http
    return float(scale["cooldownPeriod"]) if may_sleep else None


def ingress_policy(ingress: Json) -> IngressPolicy:
    """Return what the runtime's ingress does for an app's ingress configuration, with defaults."""
    restrictions = ingress["ipSecurityRestrictions"] or ()
    cors = ingress["corsPolicy"]
    return IngressPolicy(
        networks=tuple(rule["ipAddressRange"] for rule in restrictions),
        are_networks_allowed=all(rule["action"] == "Allow" for rule in restrictions),
        cors=None if cors is None else _cors_policy(cors),
        is_sticky=(ingress["stickySessions"] or {}).get("affinity") == "sticky",
    )


def _cors_policy(cors: Json) -> CorsPolicy:
    return CorsPolicy(
        origins=tuple(cors["allowedOrigins"]),
        methods=tuple(cors.get("allowedMethods") or ()),
        headers=tuple(cors.get("allowedHeaders") or ()),
        exposed_headers=tuple(cors.get("exposeHeaders") or ()),
        max_age_s=cors.get("maxAge"),
        allows_credentials=bool(cors.get("allowCredentials")),
    )


def runtime_container(template: Json, secrets: Mapping[str, str], volume: Callable[[str], Path]) -> Container:
    """Return the container of an app's or a job's template, with its secrets and its directories."""
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
    # An older revision can refer to a secret that was removed together with the variable. What Azure gives to
    # a new replica of it is not known.
    return variable["name"], secrets.get(reference, "") if reference else str(variable.get("value") or "")


def _probe(probe: Json) -> Probe:
    http = probe.get("httpGet")
    target = http or probe["tcpSocket"]
    headers = tuple((header["name"], header["value"]) for header in target.get("httpHeaders") or ())
    return Probe(
        kind=probe["type"],
        path=None if http is None else http.get("path") or "/",
        port=target["port"],
        initial_delay_s=value_or(probe.get("initialDelaySeconds"), 0),
        period_s=value_or(probe.get("periodSeconds"), 10),
        timeout_s=value_or(probe.get("timeoutSeconds"), 1),
        failure_threshold=value_or(probe.get("failureThreshold"), 3),
        success_threshold=value_or(probe.get("successThreshold"), 1),
        headers=headers,
    )

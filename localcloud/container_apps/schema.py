"""The property names of a container app, to reject unknown ones. Pure.

A class maps each of its properties to the class of its value; None marks a value that is not checked. A list
has the class of its items. Read-only properties are included: clients send back what they have read.

Source: Microsoft.App REST API 2026-01-01, ContainerApps. The API's own class names are not published; they
appear in messages only ("Unknown properties gpu in ContainerAppContainerResources are not supported").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.requests import Json


def _leaves(names: str) -> dict[str, str | None]:
    return dict.fromkeys(names.split())


_CONTAINER: Final = _leaves("image imageType name command args") | {
    "env": "ContainerAppEnvironmentVariable",
    "resources": "ContainerAppContainerResources",
    "volumeMounts": "ContainerAppVolumeMount",
}

CLASSES: Final[dict[str, dict[str, str | None]]] = {
    "ContainerApp": _leaves("id name type location tags systemData identity extendedLocation managedBy kind")
    | {"properties": "ContainerAppProperties"},
    "ContainerAppProperties": _leaves(
        "provisioningState runningStatus deploymentErrors managedEnvironmentId environmentId "
        "workloadProfileName latestRevisionName latestReadyRevisionName latestRevisionFqdn "
        "customDomainVerificationId outboundIpAddresses eventStreamEndpoint patchingConfiguration "
        "delegatedIdentities"
    )
    | {"configuration": "ContainerAppConfiguration", "template": "ContainerAppTemplate"},
    "ContainerAppConfiguration": _leaves(
        "activeRevisionsMode dapr maxInactiveRevisions runtime service identitySettings targetLabel "
        "revisionTransitionThreshold"
    )
    | {
        "secrets": "ContainerAppSecret",
        "ingress": "ContainerAppIngress",
        "registries": "ContainerAppRegistryCredentials",
    },
    "ContainerAppSecret": _leaves("name value identity keyVaultUrl"),
    "ContainerAppRegistryCredentials": _leaves("server username passwordSecretRef identity"),
    "ContainerAppIngress": _leaves(
        "fqdn external targetPort targetPortHttpScheme exposedPort transport customDomains allowInsecure "
        "clientCertificateMode corsPolicy stickySessions additionalPortMappings"
    )
    | {"traffic": "ContainerAppTrafficWeight", "ipSecurityRestrictions": "ContainerAppIpRestriction"},
    "ContainerAppTrafficWeight": _leaves("revisionName weight latestRevision label"),
    "ContainerAppIpRestriction": _leaves("name description ipAddressRange action"),
    "ContainerAppTemplate": _leaves("revisionSuffix terminationGracePeriodSeconds serviceBinds")
    | {
        "containers": "ContainerAppContainer",
        "initContainers": "ContainerAppInitContainer",
        "scale": "ContainerAppScale",
        "volumes": "ContainerAppVolume",
    },
    "ContainerAppInitContainer": _CONTAINER,
    "ContainerAppContainer": _CONTAINER | {"probes": "ContainerAppProbe"},
    "ContainerAppEnvironmentVariable": _leaves("name value secretRef"),
    "ContainerAppContainerResources": _leaves("cpu memory ephemeralStorage"),
    "ContainerAppVolumeMount": _leaves("volumeName mountPath subPath"),
    "ContainerAppProbe": _leaves(
        "type failureThreshold initialDelaySeconds periodSeconds successThreshold timeoutSeconds "
        "terminationGracePeriodSeconds"
    )
    | {"httpGet": "ContainerAppProbeHttpGet", "tcpSocket": "ContainerAppProbeTcpSocket"},
    "ContainerAppProbeHttpGet": _leaves("host path port scheme")
    | {"httpHeaders": "ContainerAppProbeHttpHeader"},
    "ContainerAppProbeHttpHeader": _leaves("name value"),
    "ContainerAppProbeTcpSocket": _leaves("host port"),
    "ContainerAppScale": _leaves("minReplicas maxReplicas cooldownPeriod pollingInterval")
    | {"rules": "ContainerAppScaleRule"},
    "ContainerAppScaleRule": _leaves("name azureQueue custom")
    | {
        "http": "ContainerAppHttpScaleRule",
        "tcp": "ContainerAppTcpScaleRule",
    },
    "ContainerAppHttpScaleRule": _leaves("metadata auth identity"),
    "ContainerAppTcpScaleRule": _leaves("metadata auth identity"),
    "ContainerAppVolume": _leaves("name storageType storageName mountOptions secrets"),
}


def canonical(body: Json, class_name: str = "ContainerApp") -> Json:
    """Return a request body with known names in the API's spelling."""
    spelling = {name.lower(): name for name in CLASSES[class_name]}
    found: Json = {}
    for sent, value in body.items():
        name = spelling.get(sent.lower(), sent)
        found[name] = _canonical_value(value, CLASSES[class_name].get(name))
    return found


def check_schema(body: Json, class_name: str = "ContainerApp") -> None:
    """Reject (400 `ContainerAppInvalidSchema`) properties that do not exist, at any depth."""
    known = CLASSES[class_name]
    unknown = [name for name in body if name not in known]
    if unknown:
        message = f"Unknown properties {', '.join(unknown)} in {class_name} are not supported"
        raise AzureError(400, "ContainerAppInvalidSchema", message)
    for name, inner in known.items():
        if inner is not None and body.get(name) is not None:
            _check_value(body[name], name, inner)


def _canonical_value(value: Any, class_name: str | None) -> Any:  # noqa: ANN401 - JSON
    if class_name is None:
        return value
    if isinstance(value, list):
        return [_canonical_value(item, class_name) for item in value]
    return canonical(value, class_name) if isinstance(value, dict) else value


def _check_value(value: Any, name: str, class_name: str) -> None:  # noqa: ANN401 - JSON
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            message = f"The property '{name}' is not of the type {class_name}"
            raise AzureError(400, "ContainerAppInvalidSchema", message)
        check_schema(item, class_name)

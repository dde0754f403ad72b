"""What Azure refuses in a container app, and what the local cloud does not emulate of one. Pure.

`check_app` judges a whole request. Values that a deployment does not know yet (`resources.is_unknown`) are
let through: the same request is judged again when they are known.

Codes and messages are Azure's where public material quotes them. Not found there, and therefore plausible
rather than quoted: the codes for probe periods, timeouts and ports, names of secrets and containers, scale,
ingress.

Source: the platform's messages as quoted in public issues and logs; Microsoft.App REST API 2026-01-01.
"""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from localcloud.arm.resource_ids import parse_path
from localcloud.arm.resources import Resource, World, is_unknown
from localcloud.container_apps.environments import ENVIRONMENTS, STORAGES, find_profile
from localcloud.container_apps.profiles import check_total
from localcloud.container_apps.schema import check_schema
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from localcloud.arm.calls import Json

_APP_NAME = re.compile(r"(?=.{2,32}$)[a-z](?!.*--)[-a-z0-9]*[a-z0-9]")
_SUFFIX = re.compile(r"[a-z0-9](?!.*-{2})([-a-z0-9]*[a-z0-9])?")
_LONGEST_REVISION_NAME = 54
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,254}")
_MEMORY = re.compile(r"(\d+(?:\.\d{1,2})?)Gi")
_LARGEST_PORT = 65_535
_MOST_REPLICAS = 1_000
_LONGEST_GRACE_S = 600
_PROBE_RANGES = {
    "initialDelaySeconds": (0, 60),
    "periodSeconds": (1, 240),
    "timeoutSeconds": (1, 240),
    "successThreshold": (1, 10),
}
# The specification says 10; these are the limits that the platform was seen to enforce.
_MOST_FAILURES = {"Liveness": 30, "Readiness": 48, "Startup": 240}


def check_app(name: str, body: Json, before: Resource | None, world: World) -> None:
    """Judge a PUT of a container app.

    Args:
        name: Its name.
        body: The whole request.
        before: The app as it is, None if it is new.
        world: Where its environment and storages are looked up.

    Raises:
        AzureError: 400 for what Azure refuses, 404 for what is missing, 501 for what is not emulated.
    """
    if not _APP_NAME.fullmatch(name):
        raise _refusal(
            "ContainerAppInvalidName",
            f"Invalid ContainerApp name '{name}'. A name must consist of lower case alphanumeric characters "
            "or '-', start with an alphabetic character, and end with an alphanumeric character and cannot "
            "have '--'. The length must be between 2 and 32 characters inclusive.",
        )
    check_schema(body)
    properties = body.get("properties") or {}
    _check_emulated(body, properties)
    environment = _environment(properties, before, world)
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    containers = _containers(name, template)
    secrets = _secret_names(configuration, before)
    _check_secret_refs(containers, configuration, secrets)
    _check_ingress(configuration)
    for container in containers:
        _check_probes(container)
    _check_volumes(name, template, containers, environment, world)
    _check_scale(template)
    _check_suffix(name, template)
    _, profile = find_profile(environment, properties.get("workloadProfileName"))
    total = _total(containers)
    if total is not None:
        check_total(*total, profile)


def environment_id(properties: Json) -> str:
    """Return the id of an app's environment, which two properties may name."""
    return str(properties.get("environmentId") or properties.get("managedEnvironmentId") or "")


def _environment(properties: Json, before: Resource | None, world: World) -> Resource:
    identifier = environment_id(properties)
    path = parse_path(identifier)
    if path.full_type.lower() != ENVIRONMENTS.lower() or len(path.names) != 1:
        message = f"The environmentId '{identifier}' is not the id of a managed environment."
        raise _refusal("LinkedInvalidPropertyId", message)
    if before is not None and str(before.properties["environmentId"]).lower() != identifier.lower():
        message = f"The environment of container app '{before.name}' cannot be changed."
        raise _refusal("ContainerAppEnvironmentCannotBeChanged", message)
    found = world.find(identifier)
    if found is None:
        message = f"The environment '{identifier}' was not found."
        raise AzureError(404, "ManagedEnvironmentNotFound", message)
    return found


def _check_emulated(body: Json, properties: Json) -> None:
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    ingress = configuration.get("ingress") or {}
    refused = {
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
    for what, is_asked in refused.items():
        if is_asked:
            raise not_emulated(what)


def _has_true(value: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return any(_has_true(inner) for inner in value.values())
    return value is True


def _containers(app: str, template: Json) -> list[Json]:
    containers: list[Json] = template.get("containers") or []
    if not containers:
        message = f"Must specify atleast one container for container app '{app}'."
        raise _refusal("ContainerAppCreateMustContainContainer", message)
    for container in containers:
        name = str(container.get("name") or "")
        if not _CONTAINER_NAME.fullmatch(name):
            message = f"Invalid container name '{name}': letters, digits, '-' and '.', at most 255."
            raise _refusal("ContainerAppContainerNameInvalid", message)
        if not container.get("image"):
            message = f"Container with name '{name}' must have an 'Image' property specified."
            raise _refusal("ContainerAppImageRequired", message)
    return containers


def _secret_names(configuration: Json, before: Resource | None) -> set[str]:
    names: set[str] = set()
    kept = before.private["secrets"] if before else {}
    for secret in configuration.get("secrets") or ():
        name = str(secret.get("name") or "")
        if not _SECRET_NAME.fullmatch(name):
            message = (
                f"Invalid secret name '{name}'. It must consist of lower case alphanumeric characters, '-' "
                "or '.', and must start and end with an alphanumeric character."
            )
            raise _refusal("ContainerAppSecretNameInvalid", message)
        if secret.get("keyVaultUrl"):
            raise not_emulated("secrets from a key vault")
        if name in names:
            raise _refusal("ContainerAppSecretInvalid", f"The secret '{name}' is defined more than once.")
        if not isinstance(secret.get("value", ""), str | None):
            raise _refusal("ContainerAppSecretInvalid", f"The value of the secret '{name}' must be text.")
        if secret.get("value") is None and name not in kept:
            message = f"Container app secret(s) with name(s) '{name}' are invalid: value is required."
            raise _refusal("ContainerAppSecretInvalid", message)
        names.add(name)
    return names


def _check_secret_refs(containers: list[Json], configuration: Json, secrets: Collection[str]) -> None:
    for container in containers:
        names = [variable.get("name") for variable in container.get("env") or ()]
        if len(set(names)) < len(names) or not all(names):
            message = f"Container '{container['name']}' has an environment variable twice or without a name."
            raise _refusal("ContainerAppInvalidEnvironmentVariable", message)
        for variable in container.get("env") or ():
            reference = variable.get("secretRef")
            if reference and reference not in secrets:
                message = f"SecretRef '{reference}' defined for container '{container['name']}' not found."
                raise _refusal("ContainerAppSecretRefNotFound", message)
    for registry in configuration.get("registries") or ():
        reference = registry.get("passwordSecretRef")
        if reference and reference not in secrets:
            message = f"SecretRef '{reference}' defined for registry '{registry.get('server')}' not found."
            raise _refusal("ContainerAppSecretRefNotFound", message)


def _check_ingress(configuration: Json) -> None:
    mode = str(configuration.get("activeRevisionsMode") or "Single").lower()
    if mode not in ("single", "multiple"):
        message = f"The value '{mode}' of activeRevisionsMode is not one of 'Single, Multiple'."
        raise _refusal("ContainerAppInvalidRevisionMode", message)
    ingress = configuration.get("ingress")
    if ingress is None:
        return
    transport = str(ingress.get("transport") or "auto").lower()
    if transport in ("http2", "tcp"):
        raise not_emulated(f"the ingress transport '{transport}'")
    if transport not in ("auto", "http"):
        message = f"The value '{transport}' of ingress.transport is not one of 'auto, http, http2, tcp'."
        raise _refusal("ContainerAppInvalidIngressTransport", message)
    port = ingress.get("targetPort")
    if port is None:
        raise not_emulated("an ingress that finds the target port by itself")
    _check_port(port, "ingress.targetPort")
    _check_restrictions(ingress.get("ipSecurityRestrictions") or ())
    _check_traffic(ingress.get("traffic") or ())


def _check_restrictions(restrictions: Collection[Json]) -> None:
    for rule in restrictions:
        try:
            ipaddress.ip_network(str(rule.get("ipAddressRange")), strict=False)
        except ValueError:
            message = f"'{rule.get('ipAddressRange')}' of rule '{rule.get('name')}' is no address range."
            raise _refusal("ContainerAppInvalidIpSecurityRestriction", message) from None
    actions = {str(rule.get("action")) for rule in restrictions}
    if actions - {"Allow", "Deny"} or len(actions) > 1:
        message = "IP security restrictions must be all 'Allow' or all 'Deny'."
        raise _refusal("ContainerAppInvalidIpSecurityRestriction", message)
    if restrictions:
        raise not_emulated("IP security restrictions: every caller here has the address 127.0.0.1")


def _check_traffic(traffic: Collection[Json]) -> None:
    if not traffic:
        return
    weights = [weight_of(entry) for entry in traffic]
    if sum(weights) != 100:  # noqa: PLR2004 - percent
        message = f"The sum of the traffic weights is {sum(weights)}; it must be 100."
        raise _refusal("ContainerAppInvalidTrafficWeight", message)
    if sum(1 for weight in weights if weight) > 1:
        raise not_emulated("traffic split between revisions")
    if any(entry.get("label") for entry in traffic):
        raise not_emulated("labels of revisions")


def weight_of(entry: Json) -> int:
    """Return the weight of a traffic entry; az sends existing ones as text.

    Raises:
        AzureError: 400 if it is no whole number from 0 to 100.
    """
    try:
        weight = int(entry.get("weight") or 0)
    except (TypeError, ValueError):
        weight = -1
    if 0 <= weight <= 100:  # noqa: PLR2004 - percent
        return weight
    message = f"The traffic weight '{entry.get('weight')}' is not a whole number from 0 to 100."
    raise _refusal("ContainerAppInvalidTrafficWeight", message)


def _check_probes(container: Json) -> None:
    kinds: set[str] = set()
    for probe in container.get("probes") or ():
        kind = str(probe.get("type") or "")
        where = f"Container '{container['name']}' '{kind}' probe"
        if kind not in _MOST_FAILURES:
            message = f"{where}: the type is not one of 'Liveness, Readiness, Startup'."
            raise _refusal("ContainerAppProbeTypeInvalid", message)
        if kind in kinds:
            message = f"{where} is defined more than once."
            raise _refusal("ContainerAppProbeDuplicated", message)
        kinds.add(kind)
        _check_probe(probe, kind, where)


def _check_probe(probe: Json, kind: str, where: str) -> None:
    targets = [probe[name] for name in ("httpGet", "tcpSocket") if probe.get(name) is not None]
    if len(targets) != 1:
        message = f"{where} must have exactly one of 'httpGet' and 'tcpSocket'."
        raise _refusal("ContainerAppProbeInvalidHandler", message)
    _check_port(targets[0].get("port"), f"{where}'s port")
    if str(targets[0].get("scheme") or "http").lower() != "http":
        raise not_emulated("probes over HTTPS")
    if targets[0].get("host"):
        raise not_emulated("probes of another host")
    most = 1 if kind != "Readiness" else _PROBE_RANGES["successThreshold"][1]
    ranges = _PROBE_RANGES | {
        "failureThreshold": (1, _MOST_FAILURES[kind]),
        "successThreshold": (1, most),
    }
    for name, (low, high) in ranges.items():
        value = probe.get(name)
        if value is None:
            continue
        if not _is_within(value, low, high):
            shown = f"{name[0].upper()}{name[1:]}"
            message = f"{where}'s {shown} must be in the range of ['{low}', '{high}']."
            raise _refusal(f"ContainerAppProbe{shown}OutOfRange", message)


def _check_volumes(
    app: str, template: Json, containers: Iterable[Json], environment: Resource, world: World
) -> None:
    volumes = {volume.get("name"): volume for volume in template.get("volumes") or ()}
    for volume in volumes.values():
        kind = volume.get("storageType") or "EmptyDir"
        if kind != "AzureFile":
            raise not_emulated(f"volumes of type '{kind}'")
        if volume.get("mountOptions"):
            raise not_emulated("mount options of a volume")
        name = str(volume.get("storageName") or "")
        if world.find(f"{environment.id}/{STORAGES.rpartition('/')[2]}/{name}") is None:
            message = f"ManagedEnvironment Storage '{name}' was not found."
            raise AzureError(404, "ManagedEnvironmentStorageNotFound", message)
    for container in containers:
        for mount in container.get("volumeMounts") or ():
            _check_mount(app, mount, volumes)


def _check_mount(app: str, mount: Json, volumes: Json) -> None:
    name, path = mount.get("volumeName"), str(mount.get("mountPath") or "")
    if name not in volumes:
        message = f"Invalid Request: Volume '{name}' to mount doesn't defined in the Container App '{app}'."
        raise _refusal("ContainerAppInvalidVolumeMount", message)
    if not path.startswith("/") or ":" in path:
        message = f"Invalid Request: the mount path '{path}' must be absolute and have no ':'."
        raise _refusal("ContainerAppInvalidVolumeMount", message)
    if ".." in str(mount.get("subPath") or "").split("/"):
        message = f"Invalid Request: the sub path '{mount['subPath']}' must not leave the volume."
        raise _refusal("ContainerAppInvalidVolumeMount", message)


def _check_scale(template: Json) -> None:
    scale = template.get("scale") or {}
    least, most = scale.get("minReplicas"), scale.get("maxReplicas")
    least, most = (0 if least is None else least), (10 if most is None else most)
    fits = _is_within(least, 0, _MOST_REPLICAS) and _is_within(most, 1, _MOST_REPLICAS) and least <= most
    if not fits:
        message = (
            f"minReplicas {least} and maxReplicas {most} are invalid: 0 to {_MOST_REPLICAS} and 1 to "
            f"{_MOST_REPLICAS}, the least no more than the most."
        )
        raise _refusal("ContainerAppInvalidScale", message)
    for rule in scale.get("rules") or ():
        kinds = [kind for kind in ("http", "tcp", "custom", "azureQueue") if rule.get(kind)]
        if not rule.get("name") or len(kinds) != 1:
            message = f"The scale rule '{rule.get('name')}' must have a name and exactly one kind."
            raise _refusal("ContainerAppInvalidScaleRule", message)
    grace = template.get("terminationGracePeriodSeconds")
    if grace is not None and not _is_within(grace, 0, _LONGEST_GRACE_S):
        message = f"terminationGracePeriodSeconds must be in the range of ['0', '{_LONGEST_GRACE_S}']."
        raise _refusal("ContainerAppInvalidTerminationGracePeriod", message)


def _check_suffix(app: str, template: Json) -> None:
    suffix = template.get("revisionSuffix")
    if not suffix:
        return
    name = f"{app}--{suffix}"
    if not _SUFFIX.fullmatch(suffix) or len(name) > _LONGEST_REVISION_NAME:
        message = (
            f"Invalid revision name '{name}'. The suffix must consist of lower case alphanumeric characters "
            f"or '-', have no '--', and the name must be at most {_LONGEST_REVISION_NAME} characters long."
        )
        raise _refusal("ContainerAppInvalidRevisionName", message)


def _total(containers: Iterable[Json]) -> tuple[Decimal, Decimal] | None:
    cpu, memory = Decimal(0), Decimal(0)
    for container in containers:
        resources = container.get("resources") or {}
        if any(is_unknown(value) for value in resources.values()):
            return None
        cpu += _cpu(container["name"], resources.get("cpu", "0.5"))
        memory += _memory(container["name"], resources.get("memory", "1Gi"))
    return cpu, memory


def _cpu(container: str, value: Any) -> Decimal:  # noqa: ANN401 - JSON
    try:
        cpu = Decimal(str(value))
    except InvalidOperation:
        cpu = Decimal(0)
    if cpu > 0 and cpu == round(cpu, 2):
        return cpu
    raise _refusal(
        "ContainerAppInvalidCpuResource",
        f"Container with name '{container}' has an invalid CPU resource request: '{value}'. The 'cpu' field "
        "for each container, if provided, must contain a decimal value to no more than two decimal places. "
        "Example: '0.25'.",
    )


def _memory(container: str, value: Any) -> Decimal:  # noqa: ANN401 - JSON
    found = _MEMORY.fullmatch(str(value))
    if found is not None:
        return Decimal(found.group(1))
    raise _refusal(
        "ContainerAppInvalidMemoryResource",
        f"Container with name '{container}' has an invalid memory resource request: '{value}'. The 'memory' "
        "field for each container, if provided, must contain a decimal value to no more than 2 decimal "
        "places followed by 'Gi' to denote the unit (Gibibytes). Example: '1.25Gi' or '2Gi'.",
    )


def _check_port(value: Any, where: str) -> None:  # noqa: ANN401 - JSON
    if not _is_within(value, 1, _LARGEST_PORT):
        message = f"{where} must be in the range of ['1', '{_LARGEST_PORT}'], not '{value}'."
        raise _refusal("ContainerAppInvalidPort", message)


def _is_within(value: Any, low: int, high: int) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _refusal(code: str, message: str) -> AzureError:
    return AzureError(400, code, message)

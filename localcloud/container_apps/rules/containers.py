"""What Azure rejects in the containers of an app: names, variables, probes, mounts, CPU and memory. Pure.

Not found in public material, and therefore plausible rather than quoted: the codes for periods, timeouts,
ports and headers of probes, for variables and mounts that are defined twice, and for what is no image.

Source: microsoft/azure-container-apps#1691 (the format of images), Kubernetes (headers of probes),
microsoft/aspire#1779 (variables), hashicorp/terraform-provider-azurerm#29419 (mount paths),
microsoft/vscode-azurecontainerapps#19 (container names); the platform's messages in other public issues.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.rules.ranges import duplicates, is_within, port_errors, template_error
from localcloud.errors import AzureError, bad_request, not_emulated
from localcloud.json_values import value_or

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from localcloud.arm.requests import Json

_NAME: Final = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VARIABLE: Final = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
# A reference as Docker defines it: a registry, a path of at most 255 characters in all, a tag, a digest.
_IMAGE: Final = re.compile(
    r"(?=[^:@]{1,255}([:@]|$))(?:[a-zA-Z0-9][-.a-zA-Z0-9]*(?::\d+)?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::\w[-.\w]{0,127})?(?:@[a-zA-Z0-9]+:[0-9a-fA-F]{32,})?"
)
_HEADER: Final = re.compile(r"[-A-Za-z0-9]+")
_HTTP_HEADER: Final = "a valid HTTP header must consist of alphanumeric characters or '-'"
_MEMORY: Final = re.compile(r"(\d+(?:\.\d{1,2})?)Gi")
_PROBE_RANGES: Final = {
    "initialDelaySeconds": (0, 60),
    "periodSeconds": (1, 240),
    "timeoutSeconds": (1, 240),
    "successThreshold": (1, 10),
}
# The specification says 10; these are the limits that the platform was seen to enforce.
_MAX_FAILURES: Final = {"Liveness": 30, "Readiness": 48, "Startup": 240}


RFC_1123: Final = (
    "Invalid Name: Per RFC 1123 name must consist of lower case alphanumeric characters or '-', and must "
    "start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation "
    "is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def container_errors(app: str, containers: Iterable[Json]) -> Iterator[AzureError]:
    """Yield invalid names, images, variables and probes of an app's containers."""
    containers = list(containers)
    if not containers:
        message = f"Must specify atleast one container for container app '{app}'."
        yield bad_request("ContainerAppCreateMustContainContainer", message)
    for container in containers:
        name = str(container.get("name") or "")
        if not _NAME.fullmatch(name):
            yield template_error("template.containers", name, RFC_1123)
        yield from _image_errors(name, container.get("image"))
        yield from _variable_errors(container)
        yield from _probe_errors(container)


def _image_errors(container: str, image: str | None) -> Iterator[AzureError]:
    if not image:
        message = f"Container with name '{container}' must have an 'Image' property specified."
        yield bad_request("ContainerAppImageRequired", message)
    elif not is_unknown(image) and not _IMAGE.fullmatch(image):
        field = f"template.containers.{container}.image"
        yield template_error(field, image, f"could not parse reference: {image}")


def _variable_errors(container: Json) -> Iterator[AzureError]:
    variables = container.get("env") or ()
    for variable in variables:
        name = str(variable.get("name") or "")
        if not _VARIABLE.fullmatch(name):
            message = (
                f"Env variable name '{name}' contains invalid character, regex used for validation is "
                f"'^{_VARIABLE.pattern}$'"
            )
            yield bad_request("ContainerAppInvalidEnvVarName", message)
    for name in duplicates(variable.get("name") for variable in variables):
        message = f"Container '{container.get('name')}' has the environment variable '{name}' twice."
        yield bad_request("ContainerAppInvalidEnvironmentVariable", message)


def _probe_errors(container: Json) -> Iterator[AzureError]:
    probes = container.get("probes") or ()
    for probe in probes:
        kind = str(probe.get("type") or "")
        where = f"Container '{container.get('name')}' '{kind}' probe"
        if kind in _MAX_FAILURES:
            yield from _one_probe_errors(probe, kind, where)
        elif not kind:
            message = f"{where}: the type is not one of 'Liveness, Readiness, Startup'."
            yield bad_request("ContainerAppProbeTypeInvalid", message)
    for kind in duplicates(probe.get("type") for probe in probes):
        message = f"Container '{container.get('name')}' '{kind}' probe is defined more than once."
        yield bad_request("ContainerAppProbeDuplicated", message)


def _one_probe_errors(probe: Json, kind: str, where: str) -> Iterator[AzureError]:
    targets = [probe[name] for name in ("httpGet", "tcpSocket") if probe.get(name) is not None]
    if len(targets) == 1:
        yield from _target_errors(targets[0], where)
    else:
        message = f"{where} must have exactly one of 'httpGet' and 'tcpSocket'."
        yield bad_request("ContainerAppProbeInvalidHandler", message)
    most = 1 if kind != "Readiness" else _PROBE_RANGES["successThreshold"][1]
    ranges = _PROBE_RANGES | {
        "failureThreshold": (1, _MAX_FAILURES[kind]),
        "successThreshold": (1, most),
    }
    for name, (low, high) in ranges.items():
        value = probe.get(name)
        if value is not None and not is_within(value, low, high):
            shown = f"{name[0].upper()}{name[1:]}"
            message = f"{where}'s {shown} must be in the range of ['{low}', '{high}']."
            yield bad_request(f"ContainerAppProbe{shown}OutOfRange", message)


def _target_errors(target: Json, where: str) -> Iterator[AzureError]:
    for header in target.get("httpHeaders") or ():
        name = str(header.get("name") or "")
        if not is_unknown(name) and not _HEADER.fullmatch(name):
            yield template_error("template.containers.probes.httpGet.httpHeaders.name", name, _HTTP_HEADER)
    # A port that is missing is against the specification, which reports it.
    if target.get("port") is not None:
        yield from port_errors(target["port"], f"{where}'s port")
    if str(target.get("scheme") or "http").lower() != "http":
        yield not_emulated("probes over HTTPS")
    if target.get("host"):
        yield not_emulated("probes of another host")


def mount_errors(app: str, container: Json, volumes: Json) -> Iterator[AzureError]:
    """Yield mounts of volumes that are not defined, or at an invalid path."""
    mounts = container.get("volumeMounts") or ()
    for mount in mounts:
        name, path = mount.get("volumeName"), str(mount.get("mountPath") or "")
        if name not in volumes:
            message = (
                f"Invalid Request: Volume '{name}' to mount doesn't defined in the Container App '{app}'."
            )
            yield bad_request("ContainerAppInvalidVolumeMount", message)
        if not path.startswith("/") or not path.strip("/") or ":" in path:
            message = (
                "Invalid Request: Invalid mount path was given. mountPath is required when mounting volume "
                f"'{name}'. mountPath must not contain ':'."
            )
            yield bad_request("ContainerAppInvalidMountPath", message)
        if ".." in str(mount.get("subPath") or "").split("/"):
            message = f"Invalid Request: the sub path '{mount['subPath']}' must not leave the volume."
            yield bad_request("ContainerAppInvalidVolumeMount", message)
    for path in duplicates(mount.get("mountPath") for mount in mounts):
        yield template_error("template.containers.volumeMounts.mountPath", path, "must be unique")


def volume_name_errors(volumes: Iterable[Json]) -> Iterator[AzureError]:
    """Yield invalid and repeated names of volumes.

    On Azure the request is accepted, and the revision fails (microsoft/azure-container-apps#545,
    MicrosoftDocs/azure-docs#123092).
    """
    names = [str(volume.get("name") or "") for volume in volumes]
    for name in names:
        if not _NAME.fullmatch(name):
            yield template_error("template.volumes.name", name, RFC_1123)
    for name in duplicates(names):
        yield template_error("template.volumes.name", name, "must be unique")


def resource_errors(containers: Iterable[Json]) -> Iterator[AzureError]:
    """Yield amounts of CPU and memory that are none."""
    for container in containers:
        resources = container.get("resources") or {}
        for name, read in (("cpu", _cpu), ("memory", _memory)):
            value = resources.get(name)
            if value is None or is_unknown(value):
                continue
            try:
                read(str(container.get("name")), value)
            except AzureError as error:
                yield error


def total_resources(containers: Iterable[Json]) -> tuple[Decimal, Decimal] | None:
    """Return the cores and the memory in GiB that containers request in all, None if not known yet."""
    cpu, memory = Decimal(0), Decimal(0)
    for container in containers:
        resources = container.get("resources") or {}
        if any(is_unknown(value) for value in resources.values()):
            return None
        cpu += _cpu(str(container.get("name")), value_or(resources.get("cpu"), "0.5"))
        memory += _memory(str(container.get("name")), value_or(resources.get("memory"), "1Gi"))
    return cpu, memory


def _cpu(container: str, value: Any) -> Decimal:  # noqa: ANN401 - JSON
    try:
        cpu = Decimal(str(value))
    except InvalidOperation:
        cpu = Decimal(0)
    if cpu > 0 and cpu == round(cpu, 2):
        return cpu
    raise bad_request(
        "ContainerAppInvalidCpuResource",
        f"Container with name '{container}' has an invalid CPU resource request: '{value}'. The 'cpu' field "
        "for each container, if provided, must contain a decimal value to no more than two decimal places. "
        "Example: '0.25'.",
    )


def _memory(container: str, value: Any) -> Decimal:  # noqa: ANN401 - JSON
    found = _MEMORY.fullmatch(str(value))
    if found is not None:
        return Decimal(found.group(1))
    raise bad_request(
        "ContainerAppInvalidMemoryResource",
        f"Container with name '{container}' has an invalid memory resource request: '{value}'. The 'memory' "
        "field for each container, if provided, must contain a decimal value to no more than 2 decimal "
        "places followed by 'Gi' to denote the unit (Gibibytes). Example: '1.25Gi' or '2Gi'.",
    )

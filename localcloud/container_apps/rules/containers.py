"""What Azure rejects in the containers of an app: names, probes, mounts, CPU and memory. Pure."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.rules.ranges import check_port, is_within
from localcloud.errors import bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localcloud.arm.requests import Json

_CONTAINER_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,254}")
_MEMORY: Final = re.compile(r"(\d+(?:\.\d{1,2})?)Gi")
_PROBE_RANGES: Final = {
    "initialDelaySeconds": (0, 60),
    "periodSeconds": (1, 240),
    "timeoutSeconds": (1, 240),
    "successThreshold": (1, 10),
}
# The specification says 10; these are the limits that the platform was seen to enforce.
_MAX_FAILURES: Final = {"Liveness": 30, "Readiness": 48, "Startup": 240}


def checked_containers(app: str, template: Json) -> list[Json]:
    """Return the containers of a template, after a check of their names and images."""
    containers: list[Json] = template.get("containers") or []
    if not containers:
        message = f"Must specify atleast one container for container app '{app}'."
        raise bad_request("ContainerAppCreateMustContainContainer", message)
    for container in containers:
        name = str(container.get("name") or "")
        if not _CONTAINER_NAME.fullmatch(name):
            message = f"Invalid container name '{name}': letters, digits, '-' and '.', at most 255."
            raise bad_request("ContainerAppContainerNameInvalid", message)
        if not container.get("image"):
            message = f"Container with name '{name}' must have an 'Image' property specified."
            raise bad_request("ContainerAppImageRequired", message)
    return containers


def check_probes(container: Json) -> None:
    """Reject invalid probes of a container."""
    kinds: set[str] = set()
    for probe in container.get("probes") or ():
        kind = str(probe.get("type") or "")
        where = f"Container '{container['name']}' '{kind}' probe"
        if kind not in _MAX_FAILURES:
            message = f"{where}: the type is not one of 'Liveness, Readiness, Startup'."
            raise bad_request("ContainerAppProbeTypeInvalid", message)
        if kind in kinds:
            message = f"{where} is defined more than once."
            raise bad_request("ContainerAppProbeDuplicated", message)
        kinds.add(kind)
        _check_probe(probe, kind, where)


def _check_probe(probe: Json, kind: str, where: str) -> None:
    targets = [probe[name] for name in ("httpGet", "tcpSocket") if probe.get(name) is not None]
    if len(targets) != 1:
        message = f"{where} must have exactly one of 'httpGet' and 'tcpSocket'."
        raise bad_request("ContainerAppProbeInvalidHandler", message)
    check_port(targets[0].get("port"), f"{where}'s port")
    if str(targets[0].get("scheme") or "http").lower() != "http":
        raise not_emulated("probes over HTTPS")
    if targets[0].get("host"):
        raise not_emulated("probes of another host")
    most = 1 if kind != "Readiness" else _PROBE_RANGES["successThreshold"][1]
    ranges = _PROBE_RANGES | {
        "failureThreshold": (1, _MAX_FAILURES[kind]),
        "successThreshold": (1, most),
    }
    for name, (low, high) in ranges.items():
        value = probe.get(name)
        if value is None:
            continue
        if not is_within(value, low, high):
            shown = f"{name[0].upper()}{name[1:]}"
            message = f"{where}'s {shown} must be in the range of ['{low}', '{high}']."
            raise bad_request(f"ContainerAppProbe{shown}OutOfRange", message)


def check_mount(app: str, mount: Json, volumes: Json) -> None:
    """Reject a mount of a volume that is not defined, or at an invalid path."""
    name, path = mount.get("volumeName"), str(mount.get("mountPath") or "")
    if name not in volumes:
        message = f"Invalid Request: Volume '{name}' to mount doesn't defined in the Container App '{app}'."
        raise bad_request("ContainerAppInvalidVolumeMount", message)
    if not path.startswith("/") or ":" in path:
        message = f"Invalid Request: the mount path '{path}' must be absolute and have no ':'."
        raise bad_request("ContainerAppInvalidVolumeMount", message)
    if ".." in str(mount.get("subPath") or "").split("/"):
        message = f"Invalid Request: the sub path '{mount['subPath']}' must not leave the volume."
        raise bad_request("ContainerAppInvalidVolumeMount", message)


def total_resources(containers: Iterable[Json]) -> tuple[Decimal, Decimal] | None:
    """Return the cores and the memory in GiB that containers request in all, None if not known yet."""
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

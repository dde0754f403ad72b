"""Check the limits that Azure enforces when a resource is created, but that its preview does not check.

The parameters and the template itself are checked offline, before anything is sent. Each function returns a
list of problems as text, which is empty if there are none.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from infra.document import Json

CONSUMPTION: Final = "Consumption"
_CONSUMPTION_STEP: Final = Decimal("0.25")
_CONSUMPTION_MAX_CORES: Final = Decimal(4)


@dataclass(frozen=True, slots=True)
class Size:
    """The cores and the memory that a replica can have on a workload profile."""

    cores: Decimal
    memory_gib: Decimal


GPU_SIZES: Final = {
    "Consumption-GPU-NC8as-T4": Size(Decimal(8), Decimal(56)),
    "Consumption-GPU-NC24-A100": Size(Decimal(24), Decimal(220)),
    "NC24-A100": Size(Decimal(24), Decimal(220)),
}
"""The GPU profiles of known size. For others there is no check."""

RESERVED_TAG_PREFIXES: Final = ("microsoft", "azure", "windows")
"""Source: Azure Resource Manager documentation, "Use tags to organize your Azure resources", limitations."""

OWN_TAG_PREFIX: Final = "fjarr-"

PROBE_RANGES: Final = {
    "initialDelaySeconds": (0, 60),
    "periodSeconds": (1, 240),
    "timeoutSeconds": (1, 240),
    "successThreshold": (1, 10),
}
"""The allowed range of each number of a probe. Source: Microsoft.App specification, ContainerAppProbe."""

MAX_FAILURES: Final = {"Liveness": 30, "Readiness": 48, "Startup": 240}
"""The highest accepted failureThreshold. The specification says 10; the platform's default for a
startup probe is 240."""


def parameter_problems(values: Mapping[str, Json], faulty: Collection[str] = ()) -> list[str]:
    """Return the problems of parameters whose values are valid one by one.

    Args:
        values: The effective value of every parameter, with defaults.
        faulty: The parameters whose own value is not valid; checks that involve them are left out.
    """
    return [
        problem
        for names, check in _CHECKS.items()
        if not set(names) & set(faulty)
        for problem in check(values)
    ]


def template_problems(template: Json) -> list[str]:
    """Return the problems of the probes in a compiled template. Only literal numbers are checked."""
    problems = []
    for probes in _probe_lists(template):
        kinds = [probe.get("type") for probe in probes]
        twice = sorted({str(kind) for kind in kinds if kinds.count(kind) > 1})
        problems += [f"probes: there are several of type {kind}" for kind in twice]
        for probe in probes:
            problems += _probe_problems(probe)
    return problems


def _size_problems(values: Mapping[str, Json]) -> Iterator[str]:
    cores, memory = Decimal(str(values["containerCpu"])), str(values["containerMemory"])
    memory_gib = Decimal(memory.removesuffix("Gi"))
    profile = values["workloadProfileName"]
    if profile == CONSUMPTION:
        fits = 0 < cores <= _CONSUMPTION_MAX_CORES and cores % _CONSUMPTION_STEP == 0
        if not fits or memory_gib != 2 * cores:
            yield (
                f"containerCpu, containerMemory: {cores} cores and {memory} are not a pair that the profile "
                "Consumption has: 0.25 to 4 cores in steps of 0.25, with twice as many Gi"
            )
    elif profile == values["gpuProfileName"] and values["gpuProfileType"] in GPU_SIZES:
        most = GPU_SIZES[str(values["gpuProfileType"])]
        if cores > most.cores or memory_gib > most.memory_gib:
            yield (
                f"containerCpu, containerMemory: {cores} cores and {memory} are more than a replica gets on "
                f"{values['gpuProfileType']}: {most.cores} cores and {most.memory_gib}Gi"
            )


def _replica_problems(values: Mapping[str, Json]) -> Iterator[str]:
    least, most = values["minReplicas"], values["maxReplicas"]
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield f"minReplicas, maxReplicas: {least} is more than {most}"


def _network_problems(values: Mapping[str, Json]) -> Iterator[str]:
    if values["infrastructureSubnetId"]:
        return
    for name, value in (("internalEnvironment", True), ("shareProtocol", "NFS")):
        if values[name] == value:
            shown = "true" if value is True else value
            yield f"{name}, infrastructureSubnetId: {name} {shown} needs a subnet of yours"


def _key_problems(values: Mapping[str, Json]) -> Iterator[str]:
    if values["apiKey"] and values["apiKeyVaultUrl"]:
        yield "apiKey, apiKeyVaultUrl: the keys are in a Key Vault or in the app; keep one of them"


def _range_problems(values: Mapping[str, Json]) -> Iterator[str]:
    ranges = values["allowedIpRanges"]
    for text in ranges if isinstance(ranges, list) else []:
        try:
            ipaddress.ip_network(str(text))
        except ValueError as error:
            yield f"allowedIpRanges: {error}"


def _tag_problems(values: Mapping[str, Json]) -> Iterator[str]:
    tags = values["tags"]
    by_folded_name: dict[str, str] = {}
    for name in tags if isinstance(tags, dict) else {}:
        folded = name.casefold()
        if folded in by_folded_name:
            yield f"tags: {by_folded_name[folded]} and {name} are one name to Azure, which ignores the case"
        by_folded_name[folded] = name
        if folded.startswith(RESERVED_TAG_PREFIXES):
            reserved = ", ".join(RESERVED_TAG_PREFIXES)
            yield f"tags.{name}: names that begin with {reserved} are reserved by Azure"


def _probe_problems(probe: Mapping[str, Json]) -> Iterator[str]:
    kind = probe.get("type")
    for name, (least, most) in PROBE_RANGES.items():
        number = probe.get(name)
        if isinstance(number, int) and not least <= number <= most:
            yield f"probes.{kind}.{name}: {number} must be from {least} to {most}"
    failures, most_failures = probe.get("failureThreshold", 1), MAX_FAILURES.get(str(kind), 10)
    if isinstance(failures, int) and not 1 <= failures <= most_failures:
        yield f"probes.{kind}.failureThreshold: {failures} must be from 1 to {most_failures}"
    success = probe.get("successThreshold", 1)
    if kind in {"Liveness", "Startup"} and isinstance(success, int) and success != 1:
        yield f"probes.{kind}.successThreshold: {success} must be 1"
    if ("httpGet" in probe) == ("tcpSocket" in probe):
        yield f"probes.{kind}: must have either httpGet or tcpSocket"


def _probe_lists(value: Json) -> Iterator[list[dict[str, Json]]]:
    """Walk a template and yield every list of probes in it."""
    if isinstance(value, dict):
        probes = value.get("probes")
        if isinstance(probes, list):
            yield [probe for probe in probes if isinstance(probe, dict)]
        for inner in value.values():
            yield from _probe_lists(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _probe_lists(inner)


_CHECKS: Final[dict[tuple[str, ...], Callable[[Mapping[str, Json]], Iterator[str]]]] = {
    (
        "gpu", "gpuProfileName", "gpuProfileType", "workloadProfileName", "containerCpu", "containerMemory",
    ): _size_problems,
    ("minReplicas", "maxReplicas"): _replica_problems,
    ("infrastructureSubnetId", "internalEnvironment", "shareProtocol"): _network_problems,
    ("apiKey", "apiKeyVaultUrl"): _key_problems,
    ("allowedIpRanges",): _range_problems,
    ("tags",): _tag_problems,
}  # fmt: skip
"""The checks of several parameters together, each with the parameters that it reads."""

"""Compare the quotas of Container Apps with what a plan needs at its peak. Pure.

A quota that Azure does not list is unknown, not zero.

Source: "Quotas for Azure Container Apps" and "Request quota changes for Azure Container Apps"; the names of
usages as `az containerapp list-usages` and `az containerapp env list-usages` print them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.checks import Check, blocked, ok, unknown
from infra.document import Json, as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT_COUNT: Final = "ManagedEnvironmentCount"
REGION_GPUS: Final = {
    "Consumption-GPU-NC8as-T4": "SubscriptionConsumptionT4Gpus",
    "Consumption-GPU-NC24-A100": "SubscriptionConsumptionNCA100Gpus",
    "NC24-A100": "SubscriptionNCA100Gpus",
    "NC48-A100": "SubscriptionNCA100Gpus",
    "NC96-A100": "SubscriptionNCA100Gpus",
}
"""The quota of GPUs in a region, by the type of the workload profile."""

ENVIRONMENT_GPUS: Final = {
    "Consumption-GPU-NC8as-T4": "ManagedEnvironmentConsumptionT4Gpus",
    "Consumption-GPU-NC24-A100": "ManagedEnvironmentConsumptionNCA100Gpus",
}
"""The quota of serverless GPUs of an environment."""

_REQUEST: Final = "ask for more in the Azure portal: Quotas, provider Azure Container Apps"


@dataclass(frozen=True, slots=True)
class Need:
    """What a plan needs at its peak.

    Attributes:
        profile_type: The type of the app's workload profile; empty if the app runs on a CPU.
        gpus: The GPUs that it needs at most; None if unknown.
        environments: The environments that it creates.
        is_running: Whether the app exists, so that its own use may be counted among what is used.
    """

    profile_type: str = ""
    gpus: int | None = 0
    environments: int = 0
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """A quota: what is used of it, and its limit."""

    name: str
    used: float
    limit: float


def parse_usages(answer: Json) -> dict[str, Usage]:
    """Parse a list of usages, by name. Entries without a limit are left out."""
    found = {}
    for item in as_objects(answer if isinstance(answer, list) else as_object(answer).get("value")):
        label = item.get("name")
        name = str(label if isinstance(label, str) else as_object(label).get("value"))
        used, limit = item.get("currentValue", item.get("usage")), item.get("limit")
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            found[name] = Usage(name, used if isinstance(used, int | float) else 0, limit)
    return found


def region_checks(usages: Mapping[str, Usage], need: Need, location: str) -> Iterator[Check]:
    """Yield a check of each quota of a region that a plan needs."""
    if need.environments:
        remedy = "set acaEnvironmentName to an environment that exists"
        yield _check(
            f"quota {ENVIRONMENT_COUNT} in {location}",
            usages.get(ENVIRONMENT_COUNT),
            need.environments,
            remedy,
        )
    if need.profile_type:
        yield _gpu_check(usages, REGION_GPUS, need, location)


def environment_checks(usages: Mapping[str, Usage], need: Need, environment: str) -> Iterator[Check]:
    """Yield a check of each quota of an existing environment that a plan needs."""
    if need.profile_type in ENVIRONMENT_GPUS:
        yield _gpu_check(usages, ENVIRONMENT_GPUS, need, environment)


def _gpu_check(usages: Mapping[str, Usage], names: Mapping[str, str], need: Need, place: str) -> Check:
    name = names.get(need.profile_type)
    if name is None or need.gpus is None:
        found = f"it is not known which quota the profile {need.profile_type} counts against"
        return unknown(f"quota of GPUs in {place}", found)
    usage = usages.get(name)
    if usage is not None and need.is_running:
        usage = replace(usage, used=0)  # what the app itself uses is among it, and is replaced
    return _check(f"quota {name} in {place}", usage, need.gpus, "lower maxReplicas or maximumInstanceCount")


def _check(name: str, usage: Usage | None, needed: int, remedy: str) -> Check:
    if usage is None:
        return unknown(name, f"{needed} needed; Azure does not list it")
    found = f"{needed} needed, {usage.used:g} of {usage.limit:g} used"
    if needed <= usage.limit - usage.used:
        return ok(name, found)
    return blocked(name, found, f"{remedy}, or {_REQUEST}")

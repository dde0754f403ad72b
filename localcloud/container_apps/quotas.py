"""The quotas of Container Apps: what environments and apps use, and what their limits reject. Pure.

Usages are by environment (`az containerapp env list-usages`) or by region (`az containerapp list-usages`).
The default limits are generous; `arm.governance` says how to set others. An app counts with its least
replicas, and at least one; a dedicated GPU profile with its most nodes; a serverless one with one GPU.

Not emulated: limits that are met only when an app scales out, as Azure has them (the replicas stay pending).

Source: "Quotas for Azure Container Apps"; the names of usages in recorded answers of the Azure CLI's tests;
`MaxRegionalQuotaExceeded` and `SubscriptionNCA100Gpus` in microsoft/vscode-docs#9997, the message about
environments in public issues. The message about GPUs is plausible, not quoted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.profiles import CONSUMPTION, profile_type
from localcloud.container_apps.references import apps_in, find_profile
from localcloud.container_apps.resource_types import ENVIRONMENTS
from localcloud.container_apps.rules.environments import node_count
from localcloud.errors import AzureError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup

# The limit of the usage with a name, or the default.
Limit = Callable[[str, int], int]

ENVIRONMENT_USAGES: Final = {
    "ManagedEnvironmentGeneralPurposeCores": ("Managed Environment General Purpose Cores", 100),
    "ManagedEnvironmentMemoryOptimizedCores": ("Managed Environment Memory Optimized Cores", 50),
    "ManagedEnvironmentConsumptionCores": ("Managed Environment Consumption Cores", 100),
    "ManagedEnvironmentConsumptionNCA100Gpus": ("Managed Environment Consumption NCA100 Gpus", 10),
    "ManagedEnvironmentConsumptionT4Gpus": ("Managed Environment Consumption T4 Gpus", 10),
}
_COUNT: Final = "ManagedEnvironmentCount"
REGION_USAGES: Final = {
    _COUNT: ("Managed Environment Count", 15),
    "SubscriptionNCA100Gpus": ("Subscription NCA 100 Gpus", 100),
    "SubscriptionConsumptionNCA100Gpus": ("Subscription Consumption NCA 100 Gpus", 100),
    "SubscriptionConsumptionT4Gpus": ("Subscription Consumption T 4 Gpus", 100),
}
_CORES_OF_CATEGORY: Final = {
    "GeneralPurpose": "ManagedEnvironmentGeneralPurposeCores",
    "MemoryOptimized": "ManagedEnvironmentMemoryOptimizedCores",
    CONSUMPTION: "ManagedEnvironmentConsumptionCores",
}
_GPUS_OF_ENVIRONMENT: Final = {
    "Consumption-GPU-NC24-A100": "ManagedEnvironmentConsumptionNCA100Gpus",
    "Consumption-GPU-NC8as-T4": "ManagedEnvironmentConsumptionT4Gpus",
}
_GPUS_OF_REGION: Final = {
    "Consumption-GPU-NC24-A100": "SubscriptionConsumptionNCA100Gpus",
    "Consumption-GPU-NC8as-T4": "SubscriptionConsumptionT4Gpus",
    "NC24-A100": "SubscriptionNCA100Gpus",
    "NC48-A100": "SubscriptionNCA100Gpus",
    "NC96-A100": "SubscriptionNCA100Gpus",
}


def environment_usage(environment: Resource, lookup: ResourceLookup) -> dict[str, float]:
    """Return what the apps of an environment use, by the usage's name."""
    return _total(app_usage(app.properties, environment) for app in apps_in(environment, lookup))


def app_usage(properties: Json, environment: Resource) -> dict[str, float]:
    """Return what an app uses of its environment's quotas."""
    _, found = find_profile(environment, properties.get("workloadProfileName"))
    containers = properties["template"]["containers"]
    replicas = max(1, _known(properties["template"]["scale"].get("minReplicas")))
    cores = sum(_known(container["resources"]["cpu"]) for container in containers) * replicas
    if found is None:
        return {_CORES_OF_CATEGORY[CONSUMPTION]: cores}
    if found.name in _GPUS_OF_ENVIRONMENT:
        return {_GPUS_OF_ENVIRONMENT[found.name]: found.gpus * replicas}
    category = _CORES_OF_CATEGORY.get(found.category)
    return {} if category is None else {category: cores}


def region_usage(region: str | None, lookup: ResourceLookup, without: str = "") -> dict[str, float]:
    """Return what the environments of a region use, by the usage's name.

    Args:
        region: The region's name.
        lookup: Where the environments are looked up.
        without: The id of an environment that does not count.
    """
    there = [found for found in lookup.of_type(ENVIRONMENTS) if found.location == region]
    counted = [found for found in there if found.id.lower() != without.lower()]
    return _total(_profile_usage(found.properties.get("workloadProfiles") or ()) for found in counted)


def environment_quota_errors(
    environment: Resource, before: Resource | None, lookup: ResourceLookup, limit: Limit
) -> Iterator[AzureError]:
    """Yield the quotas of the region that a new or changed environment exceeds."""
    used = region_usage(environment.location, lookup, without=environment.id)
    region = DISPLAY_NAMES[environment.location or ""]
    for name, more in _profile_usage(environment.properties.get("workloadProfiles") or ()).items():
        most = limit(name, REGION_USAGES[name][1])
        if used.get(name, 0) + more <= most:
            continue
        if name == _COUNT:
            if before is None:
                code = "MaxNumberOfRegionalEnvironmentsInSubExceeded"
                message = f"The subscription cannot have more than {most} Container App Environments in "
                yield bad_request(code, f"{message}{region}.")
            continue
        yield _quota_exceeded(name, f"the subscription in {region}", most, used.get(name, 0), more)


def app_quota_errors(
    app: Resource, environment: Resource, lookup: ResourceLookup, limit: Limit
) -> Iterator[AzureError]:
    """Yield the quotas of its environment that a new or changed app exceeds."""
    others = [found for found in apps_in(environment, lookup) if found.id.lower() != app.id.lower()]
    used = _total(app_usage(other.properties, environment) for other in others)
    for name, more in app_usage(app.properties, environment).items():
        most = limit(name, ENVIRONMENT_USAGES[name][1])
        if used.get(name, 0) + more > most:
            where = f"the environment '{environment.name}'"
            yield _quota_exceeded(name, where, most, used.get(name, 0), more)


def shown_usage(name: str, text: str, used: float, limit: int) -> Json:
    """Return a row of a list of usages."""
    shown: Any = int(used) if used == int(used) else used
    label = {"value": name, "localizedValue": text}
    return {"name": label, "usage": shown, "currentValue": shown, "limit": limit, "unit": "Count"}


def _profile_usage(profiles: Iterable[Json]) -> dict[str, float]:
    found: dict[str, float] = {_COUNT: 1}
    for profile in profiles:
        kind = profile_type(str(profile.get("workloadProfileType")))
        if kind is not None and kind.name in _GPUS_OF_REGION:
            nodes = 1 if kind.is_serverless else node_count(profile, "maximumCount")
            name = _GPUS_OF_REGION[kind.name]
            found[name] = found.get(name, 0) + kind.gpus * nodes
    return found


def _known(value: Any) -> float:  # noqa: ANN401 - JSON
    """Return an amount, 0 if there is none or it is not known yet."""
    return 0 if value is None or is_unknown(value) else float(value)


def _total(usages: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for usage in usages:
        for name, amount in usage.items():
            found[name] = found.get(name, 0) + amount
    return found


def _quota_exceeded(name: str, where: str, most: int, used: float, more: float) -> AzureError:
    message = (
        f"The request exceeds the quota '{name}' of {where}. Maximum allowed: {most}, Current in use: "
        f"{used:g}, Additional requested: {more:g}. See https://aka.ms/aca-quotas for how to request more."
    )
    return bad_request("MaxRegionalQuotaExceeded", message)

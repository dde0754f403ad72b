"""The operations of environments that are more than create, read and delete: profiles and usages.

The limits that usages show are not enforced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.regions import checked_region
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.container_apps.profiles import CONSUMPTION, PROFILE_TYPES, ProfileType
from localcloud.container_apps.references import apps_in, find_profile, uses_profile
from localcloud.container_apps.resource_types import ENVIRONMENTS, VERSIONS

if TYPE_CHECKING:
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router

_USAGES: Final = (
    ("ManagedEnvironmentGeneralPurposeCores", "Managed Environment General Purpose Cores", 100),
    ("ManagedEnvironmentMemoryOptimizedCores", "Managed Environment Memory Optimized Cores", 50),
    ("ManagedEnvironmentConsumptionCores", "Managed Environment Consumption Cores", 100),
    ("ManagedEnvironmentConsumptionNCA100Gpus", "Managed Environment Consumption NCA100 Gpus", 1),
    ("ManagedEnvironmentConsumptionT4Gpus", "Managed Environment Consumption T4 Gpus", 1),
)
_USAGE_OF_CATEGORY: Final = {
    "GeneralPurpose": "ManagedEnvironmentGeneralPurposeCores",
    "MemoryOptimized": "ManagedEnvironmentMemoryOptimizedCores",
    "Consumption": "ManagedEnvironmentConsumptionCores",
}
_GPU_USAGES: Final = {
    "Consumption-GPU-NC24-A100": "ManagedEnvironmentConsumptionNCA100Gpus",
    "Consumption-GPU-NC8as-T4": "ManagedEnvironmentConsumptionT4Gpus",
}


class Environments:
    """The operations of environments that are more than create, read and delete."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        one = f"{ENVIRONMENTS}/{{}}"
        place = "Microsoft.App/locations/{}"
        router.add("GET", "group", f"{one}/workloadProfileStates", self.profile_states, VERSIONS)
        router.add("GET", "group", f"{one}/usages", self.usages, VERSIONS)
        router.add("GET", "subscription", f"{place}/usages", self.region_usages, VERSIONS)
        types = f"{place}/availableManagedEnvironmentsWorkloadProfileTypes"
        router.add("GET", "subscription", types, self.profile_types, VERSIONS)

    async def profile_states(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp env workload-profile list`."""
        environment = self._environment(request)
        value = []
        for profile in environment.properties["workloadProfiles"] or ():
            used = [
                app for app in apps_in(environment, self._resources) if uses_profile(app, profile["name"])
            ]
            least, most = profile.get("minimumCount"), profile.get("maximumCount")
            counts = {"minimumCount": least, "maximumCount": most, "currentCount": max(len(used), least or 0)}
            value.append({
                "id": f"{environment.id}/workloadProfileStates/{profile['name']}",
                "name": profile["name"],
                "type": f"{ENVIRONMENTS}/workloadProfileStates",
                "properties": {key: count for key, count in counts.items() if count is not None},
            })  # fmt: skip
        return ArmResponse(200, {"value": value})

    async def usages(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp env list-usages`: what its apps request, and usual limits."""
        environment = self._environment(request)
        used: dict[str, float] = {}
        for app in apps_in(environment, self._resources):
            for name, amount in _usage_of(app, environment).items():
                used[name] = used.get(name, 0) + amount
        return ArmResponse(
            200, {"value": [_usage(name, text, used.get(name, 0), top) for name, text, top in _USAGES]}
        )

    async def region_usages(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp list-usages`."""
        region = checked_region(request.path.names[0], ENVIRONMENTS)
        there = [found for found in self._resources.of_type(ENVIRONMENTS) if found.location == region]
        count = _usage("ManagedEnvironmentCount", "Managed Environment Count", len(there), 15)
        return ArmResponse(200, {"value": [count]})

    async def profile_types(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp env workload-profile list-supported`: every type, in every region."""
        region = checked_region(request.path.names[0], ENVIRONMENTS)
        root = f"/subscriptions/{request.path.subscription}/providers/Microsoft.App/locations/{region}"
        value = [_shown_type(found, root, region) for found in PROFILE_TYPES.values()]
        return ArmResponse(200, {"value": value})

    def _environment(self, request: ArmRequest) -> Resource:
        names = request.path.names[:1]
        return self._resources.get(
            resource_id(request.path.subscription or "", request.group, ENVIRONMENTS, names)
        )


def _usage_of(app: Resource, environment: Resource) -> dict[str, float]:
    _, found = find_profile(environment, app.properties.get("workloadProfileName"))
    containers = app.properties["template"]["containers"]
    replicas = max(1, app.properties["template"]["scale"].get("minReplicas") or 0)
    cores = sum(float(container["resources"]["cpu"]) for container in containers) * replicas
    if found is None:
        return {_USAGE_OF_CATEGORY[CONSUMPTION]: cores}
    if found.name in _GPU_USAGES:
        return {_GPU_USAGES[found.name]: found.gpus * replicas}
    if found.category in _USAGE_OF_CATEGORY:
        return {_USAGE_OF_CATEGORY[found.category]: cores}
    return {}


def _usage(name: str, text: str, used: float, limit: int) -> Json:
    shown: Any = int(used) if used == int(used) else used
    label = {"value": name, "localizedValue": text}
    return {"name": label, "usage": shown, "currentValue": shown, "limit": limit, "unit": "Count"}


def _shown_type(found: ProfileType, root: str, region: str) -> Json:
    kind = "Microsoft.App/availableManagedEnvironmentsWorkloadProfileTypes"
    return {
        "id": f"{root}/availableManagedEnvironmentsWorkloadProfileTypes/{found.name}",
        "name": found.name,
        "type": kind,
        "location": region,
        "properties": {
            "category": found.category,
            "applicability": "LocationDefault",
            "cores": found.cores,
            "memoryGiB": found.memory_gib,
            "gpus": found.gpus,
            "displayName": found.name if found.is_serverless else f"Dedicated-{found.name}",
        },
    }

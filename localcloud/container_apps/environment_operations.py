"""The operations of environments that are more than create, read and delete: profiles and usages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.arm.regions import checked_region
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.container_apps.profiles import PROFILE_TYPES, ProfileType
from localcloud.container_apps.quotas import (
    ENVIRONMENT_USAGES,
    REGION_USAGES,
    Limit,
    environment_usage,
    region_usage,
    shown_usage,
)
from localcloud.container_apps.references import hosted_in, uses_profile
from localcloud.container_apps.resource_types import ENVIRONMENTS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router


class Environments:
    """The operations of environments that are more than create, read and delete."""

    def __init__(self, resources: Resources, limit: Limit) -> None:
        self._resources = resources
        self._limit = limit

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
                app for app in hosted_in(environment, self._resources) if uses_profile(app, profile["name"])
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
        """Handle `containerapp env list-usages`: what its apps request, and the limits."""
        used = environment_usage(self._environment(request), self._resources)
        return ArmResponse(200, {"value": self._shown(ENVIRONMENT_USAGES, used)})

    async def region_usages(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp list-usages`: what its environments use, and the limits."""
        used = region_usage(checked_region(request.path.names[0], ENVIRONMENTS), self._resources)
        return ArmResponse(200, {"value": self._shown(REGION_USAGES, used)})

    async def profile_types(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp env workload-profile list-supported`: every type, in every region."""
        region = checked_region(request.path.names[0], ENVIRONMENTS)
        root = f"/subscriptions/{request.path.subscription}/providers/Microsoft.App/locations/{region}"
        value = [_shown_type(found, root, region) for found in PROFILE_TYPES.values()]
        return ArmResponse(200, {"value": value})

    def _shown(self, usages: Mapping[str, tuple[str, int]], used: Mapping[str, float]) -> list[Json]:
        return [
            shown_usage(name, text, used.get(name, 0), self._limit(name, default))
            for name, (text, default) in usages.items()
        ]

    def _environment(self, request: ArmRequest) -> Resource:
        names = request.path.names[:1]
        return self._resources.get(
            resource_id(request.path.subscription or "", request.group, ENVIRONMENTS, names)
        )


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

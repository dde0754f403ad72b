"""How apps, environments and workload profiles refer to each other. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from localcloud.container_apps.profiles import CONSUMPTION, ProfileType, profile_type
from localcloud.container_apps.resource_types import APPS, JOBS
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup


def environment_id(properties: Json) -> str:
    """Return the id of an app's environment, which is in either of two properties."""
    return str(properties.get("environmentId") or properties.get("managedEnvironmentId") or "")


def apps_in(environment: Resource, lookup: ResourceLookup) -> list[Resource]:
    """Return the container apps of an environment."""
    wanted = environment.id.lower()
    return [app for app in lookup.of_type(APPS) if str(app.properties["environmentId"]).lower() == wanted]


def hosted_in(environment: Resource, lookup: ResourceLookup) -> list[Resource]:
    """Return the container apps and the jobs of an environment."""
    wanted = environment.id.lower()
    jobs = [job for job in lookup.of_type(JOBS) if str(job.properties["environmentId"]).lower() == wanted]
    return apps_in(environment, lookup) + jobs


def noun_of(resource: Resource) -> str:
    """Return the word for an app or a job in messages."""
    return "container app" if resource.type.lower() == APPS.lower() else "job"


def uses_profile(app: Resource, profile: str) -> bool:
    """Return whether an app or a job runs on the profile of that name."""
    return str(app.properties.get("workloadProfileName") or "").lower() == profile.lower()


def find_profile(environment: Resource, name: str | None) -> tuple[str | None, ProfileType | None]:
    """Return the name and type of the profile of an app that requests `name`; None without profiles.

    Raises:
        AzureError: 400 `WorkloadProfileNotFound`.
    """
    profiles = environment.properties["workloadProfiles"] or ()
    if not profiles and name in (None, CONSUMPTION):
        return None, None
    wanted = (name or CONSUMPTION).lower()
    for profile in profiles:
        if profile["name"].lower() == wanted:
            return profile["name"], profile_type(profile["workloadProfileType"])
    message = f"Workload Profile name '{name}' does not exist for the environment '{environment.name}'."
    raise AzureError(400, "WorkloadProfileNotFound", message)


def default_domain(environment: Resource) -> str:
    """Return the environment's domain, in the form that Azure generates; it does not resolve."""
    digest = hashlib.sha256(environment.id.lower().encode()).hexdigest()[:8]
    return f"local-{digest}.{environment.location}.azurecontainerapps.localhost"


def profile_name(properties: Json, lookup: ResourceLookup) -> str | None:
    """Return the workload profile that an app or a job runs on, with its environment's default."""
    environment, name = lookup.find(environment_id(properties)), properties.get("workloadProfileName")
    return name if environment is None else find_profile(environment, name)[0]

"""Emulate Microsoft.App/managedEnvironments: environments, their workload profiles, storages and usages.

An environment is a name here: it starts nothing. Its storages say which share an app's volume is.

Not emulated: virtual networks, zone redundancy, custom domains, certificates, Dapr components, mutual TLS,
managed identities, private endpoints, OpenTelemetry, NFS storages and accounts that are not in the local
cloud, quotas (the limits that usages show are not enforced), differences between regions, log destinations
(a workspace is noted, nothing is sent there). Codes for a profile that cannot be removed or changed, and
for an environment that still has apps, were not found in public material: they are plausible, not quoted.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01; recorded answers of the Azure CLI's tests.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from localcloud.arm.calls import Answer, Call, Json, Router
from localcloud.arm.regions import DISPLAY_NAMES, checked_region
from localcloud.arm.resource_ids import resource_id
from localcloud.arm.resources import Change, Resource, ResourceKind, Resources, World, is_unknown
from localcloud.container_apps.profiles import PROFILE_TYPES, ProfileType, profile_type
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = ("2026-01-01", "2025-07-01", "2025-01-01", "2024-03-01", "2023-05-01")
ENVIRONMENTS = "Microsoft.App/managedEnvironments"
STORAGES = f"{ENVIRONMENTS}/storages"
APPS = "Microsoft.App/containerApps"
CONSUMPTION = "Consumption"

_NAME = re.compile(r"(?=.{2,60}$)[a-zA-Z](?!.*--)[a-zA-Z0-9-]*[a-zA-Z0-9]")
_STORAGE_NAME = re.compile(r"(?=.{1,32}$)[a-z](?!.*--)[a-z0-9-]*")
_LONGEST_PROFILE_NAME = 15
_SENT = frozenset({
    "appLogsConfiguration", "infrastructureResourceGroup", "peerAuthentication", "peerTrafficConfiguration",
    "publicNetworkAccess", "vnetConfiguration", "workloadProfiles", "zoneRedundant",
})  # fmt: skip
_READ_ONLY = frozenset({
    "customDomainConfiguration", "daprAIConnectionString", "daprAIInstrumentationKey", "daprConfiguration",
    "defaultDomain", "deploymentErrors", "eventStreamEndpoint", "kedaConfiguration", "provisioningState",
    "staticIp",
})  # fmt: skip
_USAGES = (
    ("ManagedEnvironmentGeneralPurposeCores", "Managed Environment General Purpose Cores", 100),
    ("ManagedEnvironmentMemoryOptimizedCores", "Managed Environment Memory Optimized Cores", 50),
    ("ManagedEnvironmentConsumptionCores", "Managed Environment Consumption Cores", 100),
    ("ManagedEnvironmentConsumptionNCA100Gpus", "Managed Environment Consumption NCA100 Gpus", 1),
    ("ManagedEnvironmentConsumptionT4Gpus", "Managed Environment Consumption T4 Gpus", 1),
)
_USAGE_OF_CATEGORY = {
    "GeneralPurpose": "ManagedEnvironmentGeneralPurposeCores",
    "MemoryOptimized": "ManagedEnvironmentMemoryOptimizedCores",
    "Consumption": "ManagedEnvironmentConsumptionCores",
}
_GPU_USAGES = {
    "Consumption-GPU-NC24-A100": "ManagedEnvironmentConsumptionNCA100Gpus",
    "Consumption-GPU-NC8as-T4": "ManagedEnvironmentConsumptionT4Gpus",
}


class EnvironmentKind(ResourceKind):
    """A Container Apps environment."""

    type: ClassVar[str] = ENVIRONMENTS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    is_asynchronous: ClassVar[bool] = True

    def __init__(self, base_url: Callable[[], str]) -> None:
        self._base_url = base_url

    def canonical(self, body: Json) -> Json:
        """Return a request with its profiles' properties in lower camel case; az sends `Name`."""
        properties = dict(body.get("properties") or {})
        if properties.get("workloadProfiles"):
            profiles = properties["workloadProfiles"]
            properties["workloadProfiles"] = [_lower_camel(profile) for profile in profiles]
        return {**body, "properties": properties}

    def check(self, change: Change, before: Resource | None, world: World) -> None:
        """Refuse bad names and profiles, unknown properties, and what is not emulated."""
        name, properties = change.path.name, change.properties
        if not _NAME.fullmatch(name):
            message = (
                f"Invalid managed environment name '{name}'. A name must consist of alphanumeric "
                "characters or '-', start with an alphabetic character, end with an alphanumeric "
                "character, have no '--' and be between 2 and 60 characters long."
            )
            raise AzureError(400, "ManagedEnvironmentInvalidName", message)
        unknown = sorted(set(properties) - _SENT - _READ_ONLY)
        if unknown:
            message = (
                f"Unknown properties {', '.join(unknown)} in ManagedEnvironmentProperties are not supported"
            )
            raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)
        _check_emulated(change.body, properties)
        for profile in properties.get("workloadProfiles") or ():
            _check_profile(profile)
        if before is not None:
            _check_used_profiles(before, properties, world)

    def build(self, change: Change, before: Resource | None, world: World) -> Resource:
        """Return the environment with Azure's defaults; the workspace's key is kept out of sight."""
        del world
        properties = {name: value for name, value in change.properties.items() if name in _SENT}
        logs, shared_key = _without_key(properties.get("appLogsConfiguration"))
        properties["appLogsConfiguration"] = logs
        profiles = [_normal_profile(profile) for profile in properties.get("workloadProfiles") or ()]
        properties["workloadProfiles"] = profiles or None
        properties.setdefault("zoneRedundant", False)
        properties.setdefault("peerAuthentication", {"mtls": {"enabled": False}})
        after = replace(self.skeleton(change, before), properties=properties)
        kept = before.private.get("shared_key") if before else None
        return after.with_private(shared_key=shared_key or kept)

    def show(self, resource: Resource) -> Json:
        """Return the properties with what Azure computes."""
        path = resource.id.replace("/providers/Microsoft.App/", "/")
        return resource.properties | {
            "provisioningState": "Succeeded",
            "defaultDomain": default_domain(resource),
            "staticIp": "127.0.0.1",
            "vnetConfiguration": resource.properties.get("vnetConfiguration"),
            "customDomainConfiguration": None,
            "eventStreamEndpoint": f"{self._base_url()}{path}/eventstream",
        }

    def shown_location(self, resource: Resource) -> str | None:
        """Return the region's display name, as this provider does."""
        return DISPLAY_NAMES[resource.location or ""]

    def check_removal(self, resource: Resource, world: World) -> None:
        """Refuse to delete an environment that still has apps."""
        names = [app.name for app in apps_in(resource, world)]
        if names:
            message = f"The environment '{resource.name}' still has container apps: {', '.join(names)}."
            raise AzureError(409, "ManagedEnvironmentHasContainerApps", message)


class EnvironmentStorageKind(ResourceKind):
    """A share that an environment's apps may mount."""

    type: ClassVar[str] = STORAGES
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    can_patch: ClassVar[bool] = False

    def check(self, change: Change, before: Resource | None, world: World) -> None:
        """Refuse bad names, and anything but a share of Azure Files by its account's key."""
        del world
        name = change.path.name
        if not _STORAGE_NAME.fullmatch(name):
            message = (
                f"Invalid storage name '{name}'. A name must consist of lower case alphanumeric "
                "characters or '-', start with an alphabetic character and be at most 32 characters long."
            )
            raise AzureError(400, "ManagedEnvironmentStorageInvalidName", message)
        unknown = sorted(set(change.properties) - {"azureFile", "nfsAzureFile"})
        if change.properties.get("nfsAzureFile"):
            raise not_emulated("an environment storage over NFS")
        azure_file = change.properties.get("azureFile")
        if unknown or not isinstance(azure_file, dict):
            message = f"Unknown properties {', '.join(unknown)} in ManagedEnvironmentStorageProperties"
            message = f"{message} are not supported" if unknown else "The property 'azureFile' is required."
            raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)
        _check_azure_file(azure_file, before)

    def build(self, change: Change, before: Resource | None, world: World) -> Resource:
        """Return the storage; its account's key is kept out of sight."""
        del world
        azure_file = dict(change.properties["azureFile"])
        key = azure_file.pop("accountKey", None) or (before.private["account_key"] if before else None)
        properties = {"azureFile": azure_file}
        return replace(self.skeleton(change, before), properties=properties).with_private(account_key=key)

    def missing(self, name: str) -> AzureError | None:
        """Return the provider's own words; `az containerapp env storage set` knows them."""
        message = f"ManagedEnvironment Storage '{name}' was not found."
        return AzureError(404, "ManagedEnvironmentStorageNotFound", message)


class Environments:
    """The operations of environments that are more than create, read and delete."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def routes(self, router: Router) -> None:
        """Enter the operations into the table."""
        one = f"{ENVIRONMENTS}/{{}}"
        place = "Microsoft.App/locations/{}"
        router.add("GET", "group", f"{one}/workloadProfileStates", self.profile_states, VERSIONS)
        router.add("GET", "group", f"{one}/usages", self.usages, VERSIONS)
        router.add("GET", "subscription", f"{place}/usages", self.region_usages, VERSIONS)
        types = f"{place}/availableManagedEnvironmentsWorkloadProfileTypes"
        router.add("GET", "subscription", types, self.profile_types, VERSIONS)

    async def profile_states(self, call: Call) -> Answer:
        """Answer `containerapp env workload-profile list`."""
        environment = self._environment(call)
        value = []
        for profile in environment.properties["workloadProfiles"] or ():
            used = [app for app in apps_in(environment, self._resources) if _uses(app, profile["name"])]
            least, most = profile.get("minimumCount"), profile.get("maximumCount")
            counts = {"minimumCount": least, "maximumCount": most, "currentCount": max(len(used), least or 0)}
            value.append({
                "id": f"{environment.id}/workloadProfileStates/{profile['name']}",
                "name": profile["name"],
                "type": f"{ENVIRONMENTS}/workloadProfileStates",
                "properties": {key: count for key, count in counts.items() if count is not None},
            })  # fmt: skip
        return Answer(200, {"value": value})

    async def usages(self, call: Call) -> Answer:
        """Answer `containerapp env list-usages`: what its apps ask for, of usual limits."""
        environment = self._environment(call)
        used: dict[str, float] = {}
        for app in apps_in(environment, self._resources):
            for name, amount in _use_of(app, environment).items():
                used[name] = used.get(name, 0) + amount
        return Answer(
            200, {"value": [_usage(name, text, used.get(name, 0), top) for name, text, top in _USAGES]}
        )

    async def region_usages(self, call: Call) -> Answer:
        """Answer `containerapp list-usages`."""
        region = checked_region(call.path.names[0], ENVIRONMENTS)
        there = [found for found in self._resources.of_type(ENVIRONMENTS) if found.location == region]
        count = _usage("ManagedEnvironmentCount", "Managed Environment Count", len(there), 15)
        return Answer(200, {"value": [count]})

    async def profile_types(self, call: Call) -> Answer:
        """Answer `containerapp env workload-profile list-supported`: every type, in every region."""
        region = checked_region(call.path.names[0], ENVIRONMENTS)
        root = f"/subscriptions/{call.path.subscription}/providers/Microsoft.App/locations/{region}"
        value = [_shown_type(found, root, region) for found in PROFILE_TYPES.values()]
        return Answer(200, {"value": value})

    def _environment(self, call: Call) -> Resource:
        names = call.path.names[:1]
        return self._resources.get(resource_id(call.path.subscription or "", call.group, ENVIRONMENTS, names))


def apps_in(environment: Resource, world: World) -> list[Resource]:
    """Return the container apps of an environment."""
    wanted = environment.id.lower()
    return [app for app in world.of_type(APPS) if str(app.properties["environmentId"]).lower() == wanted]


def find_profile(environment: Resource, name: str | None) -> tuple[str | None, ProfileType | None]:
    """Return the name and type of the profile that an app gets which asks for `name`; None where is none.

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
    """Return the domain under which Azure would put the environment's apps; nothing resolves it here."""
    digest = hashlib.sha256(environment.id.lower().encode()).hexdigest()[:8]
    return f"local-{digest}.{environment.location}.azurecontainerapps.localhost"


def _check_emulated(body: Json, properties: Json) -> None:
    if (body.get("identity") or {}).get("type", "None") != "None":
        raise not_emulated("a managed identity of an environment")
    if (properties.get("vnetConfiguration") or {}).get("infrastructureSubnetId"):
        raise not_emulated("an environment in a virtual network")
    if properties.get("zoneRedundant"):
        raise not_emulated("a zone redundant environment")
    mtls = ((properties.get("peerAuthentication") or {}).get("mtls") or {}).get("enabled")
    if mtls or ((properties.get("peerTrafficConfiguration") or {}).get("encryption") or {}).get("enabled"):
        raise not_emulated("encryption between the apps of an environment")
    destination = (properties.get("appLogsConfiguration") or {}).get("destination")
    if destination not in (None, "", "none", "log-analytics", "azure-monitor"):
        message = f"The value '{destination}' of appLogsConfiguration.destination is not supported."
        raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)


def _check_profile(profile: Json) -> None:
    unknown = sorted(
        set(profile) - {"name", "workloadProfileType", "minimumCount", "maximumCount", "enableFips"}
    )
    if unknown:
        message = f"Unknown properties {', '.join(unknown)} in WorkloadProfile are not supported"
        raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)
    if profile.get("enableFips"):
        raise not_emulated("FIPS on a workload profile")
    name, kind = str(profile.get("name", "")), str(profile.get("workloadProfileType", ""))
    if len(name) > _LONGEST_PROFILE_NAME:
        message = f"Workload Profile name '{name}' is longer than {_LONGEST_PROFILE_NAME} characters."
        raise AzureError(400, "WorkloadProfileInvalidNameTooLong", message)
    found = profile_type(kind)
    if found is None:
        message = f"Workload Profile type '{kind}' of profile '{name}' is not supported."
        raise AzureError(400, "WorkloadProfileTypeNotSupported", message)
    if found.is_serverless:
        _check_no_counts(profile, found)
    else:
        _check_counts(profile)


def _lower_camel(profile: Json) -> Json:
    return {name[:1].lower() + name[1:]: value for name, value in profile.items()}


def _check_no_counts(profile: Json, found: ProfileType) -> None:
    for count in ("minimumCount", "maximumCount"):
        if profile.get(count) is not None:
            shown = f"{count[0].upper()}{count[1:]}"
            kind = found.name.replace("-", "_")
            message = f"Workload Profile property '{shown}' is not supported for {kind}"
            raise AzureError(400, "WorkloadProfilePropertyNotSupported", message)


def _check_counts(profile: Json) -> None:
    least, most = _count(profile, "minimumCount"), _count(profile, "maximumCount")
    if most < 1 or least > most:
        message = (
            f"Workload Profile '{profile['name']}' has minimumCount {least} and maximumCount {most}: the "
            "most must be at least 1 and no less than the least."
        )
        raise AzureError(400, "WorkloadProfileInvalidCount", message)


def _count(profile: Json, name: str) -> int:
    # az sends the counts as text.
    try:
        count = int(profile.get(name) or 0)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        message = f"Workload Profile '{profile['name']}' has {name} '{profile[name]}', which is not a count."
        raise AzureError(400, "WorkloadProfileInvalidCount", message)
    return count


def _check_used_profiles(before: Resource, properties: Json, world: World) -> None:
    """Refuse to take away, or to change the type of, a profile that apps run on."""
    new = {str(found.get("name")).lower(): found for found in properties.get("workloadProfiles") or ()}
    for profile in before.properties["workloadProfiles"] or ():
        users = [app.name for app in apps_in(before, world) if _uses(app, profile["name"])]
        after = new.get(profile["name"].lower())
        kind = str(after.get("workloadProfileType")).lower() if after else None
        if users and kind != profile["workloadProfileType"].lower():
            what = "changed to another type" if after else "removed"
            message = f"Workload Profile '{profile['name']}' cannot be {what}: in use by {', '.join(users)}."
            raise AzureError(409, "WorkloadProfileInUse", message)


def _normal_profile(profile: Json) -> Json:
    found = profile_type(profile["workloadProfileType"])
    kind = found.name if found else profile["workloadProfileType"]
    shown: Json = {"name": profile["name"], "workloadProfileType": kind}
    if found is not None and not found.is_serverless:
        shown |= {name: _count(profile, name) for name in ("minimumCount", "maximumCount")}
    return shown


def _check_azure_file(azure_file: Json, before: Resource | None) -> None:
    unknown = sorted(set(azure_file) - {"accountName", "accountKey", "accessMode", "shareName"})
    if unknown:
        message = f"Unknown properties {', '.join(unknown)} in AzureFileProperties are not supported"
        raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)
    for name in ("accountName", "shareName", "accessMode"):
        if not azure_file.get(name):
            message = f"The property 'azureFile.{name}' is required."
            raise AzureError(400, "ManagedEnvironmentStorageInvalid", message)
    if not azure_file.get("accountKey") and before is None:
        message = "The property 'azureFile.accountKey' is required."
        raise AzureError(400, "ManagedEnvironmentStorageInvalid", message)
    mode = azure_file["accessMode"]
    if mode == "ReadOnly":
        raise not_emulated("a read-only environment storage")
    if mode != "ReadWrite" and not is_unknown(mode):
        message = f"The value '{mode}' of azureFile.accessMode is not one of 'ReadOnly, ReadWrite'."
        raise AzureError(400, "ManagedEnvironmentStorageInvalid", message)


def _without_key(logs: Json | None) -> tuple[Json | None, str | None]:
    analytics = (logs or {}).get("logAnalyticsConfiguration")
    if logs is None or analytics is None:
        return logs, None
    shown = logs | {"logAnalyticsConfiguration": analytics | {"sharedKey": None}}
    return shown, analytics.get("sharedKey")


def _uses(app: Resource, profile: str) -> bool:
    return str(app.properties.get("workloadProfileName") or "").lower() == profile.lower()


def _use_of(app: Resource, environment: Resource) -> dict[str, float]:
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

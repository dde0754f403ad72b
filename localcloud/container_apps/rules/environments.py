"""What Azure rejects in an environment and in its storages. Pure.

Codes for a profile that cannot be removed or changed were not found in public material: they are plausible,
not quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_kinds import Change, Resource, ResourceLookup, is_unknown
from localcloud.container_apps.profiles import ProfileType, profile_type
from localcloud.container_apps.references import apps_in, uses_profile
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from localcloud.arm.requests import Json

_NAME: Final = re.compile(r"(?=.{2,60}$)[a-zA-Z](?!.*--)[a-zA-Z0-9-]*[a-zA-Z0-9]")
_STORAGE_NAME: Final = re.compile(r"(?=.{1,32}$)[a-z](?!.*--)[a-z0-9-]*")
_MAX_PROFILE_NAME: Final = 15
ENVIRONMENT_PROPERTIES: Final = frozenset({
    "appLogsConfiguration", "infrastructureResourceGroup", "peerAuthentication", "peerTrafficConfiguration",
    "publicNetworkAccess", "vnetConfiguration", "workloadProfiles", "zoneRedundant",
})  # fmt: skip
_READ_ONLY: Final = frozenset({
    "customDomainConfiguration", "daprAIConnectionString", "daprAIInstrumentationKey", "daprConfiguration",
    "defaultDomain", "deploymentErrors", "eventStreamEndpoint", "kedaConfiguration", "provisioningState",
    "staticIp",
})  # fmt: skip


def check_environment(change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
    """Reject invalid names and profiles, unknown properties, and what is not emulated."""
    name, properties = change.path.name, change.properties
    if not _NAME.fullmatch(name):
        message = (
            f"Invalid managed environment name '{name}'. A name must consist of alphanumeric "
            "characters or '-', start with an alphabetic character, end with an alphanumeric "
            "character, have no '--' and be between 2 and 60 characters long."
        )
        raise AzureError(400, "ManagedEnvironmentInvalidName", message)
    unknown = sorted(set(properties) - ENVIRONMENT_PROPERTIES - _READ_ONLY)
    if unknown:
        message = f"Unknown properties {', '.join(unknown)} in ManagedEnvironmentProperties are not supported"
        raise AzureError(400, "ManagedEnvironmentInvalidSchema", message)
    _check_emulated(change.body, properties)
    for profile in properties.get("workloadProfiles") or ():
        _check_profile(profile)
    if before is not None:
        _check_used_profiles(before, properties, lookup)


def check_storage(change: Change, before: Resource | None) -> None:
    """Reject invalid names, and anything but a share of Azure Files with its account's key."""
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
    if len(name) > _MAX_PROFILE_NAME:
        message = f"Workload Profile name '{name}' is longer than {_MAX_PROFILE_NAME} characters."
        raise AzureError(400, "WorkloadProfileInvalidNameTooLong", message)
    found = profile_type(kind)
    if found is None:
        message = f"Workload Profile type '{kind}' of profile '{name}' is not supported."
        raise AzureError(400, "WorkloadProfileTypeNotSupported", message)
    if found.is_serverless:
        _check_no_counts(profile, found)
    else:
        _check_counts(profile)


def _check_no_counts(profile: Json, found: ProfileType) -> None:
    for count in ("minimumCount", "maximumCount"):
        if profile.get(count) is not None:
            shown = f"{count[0].upper()}{count[1:]}"
            kind = found.name.replace("-", "_")
            message = f"Workload Profile property '{shown}' is not supported for {kind}"
            raise AzureError(400, "WorkloadProfilePropertyNotSupported", message)


def _check_counts(profile: Json) -> None:
    least, most = node_count(profile, "minimumCount"), node_count(profile, "maximumCount")
    if most < 1 or least > most:
        message = (
            f"Workload Profile '{profile['name']}' has minimumCount {least} and maximumCount {most}: the "
            "most must be at least 1 and no less than the least."
        )
        raise AzureError(400, "WorkloadProfileInvalidCount", message)


def node_count(profile: Json, name: str) -> int:
    """Return a profile's `minimumCount` or `maximumCount`, 0 without one.

    Raises:
        AzureError: 400 `WorkloadProfileInvalidCount`.
    """
    # az sends the counts as text.
    try:
        count = int(profile.get(name) or 0)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        message = f"Workload Profile '{profile['name']}' has {name} '{profile[name]}', which is not a count."
        raise AzureError(400, "WorkloadProfileInvalidCount", message)
    return count


def _check_used_profiles(before: Resource, properties: Json, lookup: ResourceLookup) -> None:
    """Reject the removal, or a new type, of a profile that apps run on."""
    new = {str(found.get("name")).lower(): found for found in properties.get("workloadProfiles") or ()}
    for profile in before.properties["workloadProfiles"] or ():
        users = [app.name for app in apps_in(before, lookup) if uses_profile(app, profile["name"])]
        after = new.get(profile["name"].lower())
        kind = str(after.get("workloadProfileType")).lower() if after else None
        if users and kind != profile["workloadProfileType"].lower():
            what = "changed to another type" if after else "removed"
            message = f"Workload Profile '{profile['name']}' cannot be {what}: in use by {', '.join(users)}."
            raise AzureError(409, "WorkloadProfileInUse", message)


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

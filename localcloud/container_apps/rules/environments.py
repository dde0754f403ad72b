"""What Azure rejects in an environment and in its storages. Pure.

Codes for a profile that cannot be removed or changed, and for storages, were not found in public material:
they are plausible, not quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_kinds import Change, Resource, ResourceLookup, is_unknown
from localcloud.container_apps.profiles import ProfileType, profile_type
from localcloud.container_apps.references import hosted_in, uses_profile
from localcloud.container_apps.rules.ranges import duplicates
from localcloud.errors import AzureError, bad_request, not_emulated
from localcloud.files.names import is_account_name, is_share_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.requests import Json

_NAME: Final = re.compile(r"(?=.{2,60}$)[a-zA-Z](?!.*--)[a-zA-Z0-9-]*[a-zA-Z0-9]")
_STORAGE_NAME: Final = re.compile(r"(?=.{1,32}$)[a-z](?!.*--)[a-z0-9-]*")
_MAX_PROFILE_NAME: Final = 15
_PROFILE_NAME: Final = re.compile(r"[a-zA-Z0-9][-_a-zA-Z0-9]*")


def environment_errors(
    change: Change, before: Resource | None, lookup: ResourceLookup
) -> Iterator[AzureError]:
    """Yield invalid names and profiles, and what is not emulated."""
    name, properties = change.path.name, change.properties
    if not _NAME.fullmatch(name):
        message = (
            f"Invalid managed environment name '{name}'. A name must consist of alphanumeric "
            "characters or '-', start with an alphabetic character, end with an alphanumeric "
            "character, have no '--' and be between 2 and 60 characters long."
        )
        yield bad_request("ManagedEnvironmentInvalidName", message)
    yield from _unsupported(change.body, properties)
    yield from _log_errors(properties.get("appLogsConfiguration") or {})
    profiles = properties.get("workloadProfiles") or ()
    for profile in profiles:
        yield from _profile_errors(profile)
    for repeated in duplicates(str(profile.get("name")).lower() for profile in profiles):
        message = f"Workload Profile name '{repeated}' is defined more than once."
        yield bad_request("WorkloadProfileInvalidName", message)
    if before is not None:
        yield from _used_profile_errors(before, properties, lookup)


def storage_errors(change: Change, before: Resource | None) -> Iterator[AzureError]:
    """Yield invalid names, and anything but a share of Azure Files with its account's key."""
    name = change.path.name
    if not _STORAGE_NAME.fullmatch(name):
        message = (
            f"Invalid storage name '{name}'. A name must consist of lower case alphanumeric "
            "characters or '-', start with an alphabetic character and be at most 32 characters long."
        )
        yield bad_request("ManagedEnvironmentStorageInvalidName", message)
    azure_file = change.properties.get("azureFile")
    if change.properties.get("nfsAzureFile"):
        yield not_emulated("an environment storage over NFS")
    elif azure_file is None:
        yield bad_request("ManagedEnvironmentInvalidSchema", "The property 'azureFile' is required.")
    else:
        yield from _azure_file_errors(azure_file, before)


def _unsupported(body: Json, properties: Json) -> Iterator[AzureError]:
    """Yield the features that Azure has and the local cloud does not."""
    network = properties.get("vnetConfiguration") or {}
    encryption = (properties.get("peerTrafficConfiguration") or {}).get("encryption") or {}
    mtls = (properties.get("peerAuthentication") or {}).get("mtls") or {}
    domain = properties.get("customDomainConfiguration") or {}
    unsupported = {
        "a managed identity of an environment": (body.get("identity") or {}).get("type", "None") != "None",
        "an environment in a virtual network": network.get("infrastructureSubnetId"),
        "a zone redundant environment": properties.get("zoneRedundant"),
        "encryption between the apps of an environment": mtls.get("enabled") or encryption.get("enabled"),
        "Dapr": properties.get("daprAIConnectionString") or properties.get("daprAIInstrumentationKey"),
        "settings of an environment's ingress": properties.get("ingressConfiguration"),
        "a custom domain of an environment": domain.get("dnsSuffix"),
    }
    for feature, is_used in unsupported.items():
        if is_used:
            yield not_emulated(feature)


def _log_errors(logs: Json) -> Iterator[AzureError]:
    destination = logs.get("destination")
    analytics = logs.get("logAnalyticsConfiguration") or {}
    if destination not in (None, "", "none", "log-analytics", "azure-monitor"):
        message = f"The value '{destination}' of appLogsConfiguration.destination is not supported."
        yield bad_request("ManagedEnvironmentInvalidSchema", message)
    if destination == "log-analytics" and not analytics.get("customerId"):
        message = "appLogsConfiguration.logAnalyticsConfiguration.customerId is required."
        yield bad_request("ManagedEnvironmentInvalidSchema", message)


def _profile_errors(profile: Json) -> Iterator[AzureError]:
    name, kind = str(profile.get("name") or ""), str(profile.get("workloadProfileType") or "")
    if len(name) > _MAX_PROFILE_NAME:
        message = f"Workload Profile name '{name}' is longer than {_MAX_PROFILE_NAME} characters."
        yield bad_request("WorkloadProfileInvalidNameTooLong", message)
    elif not _PROFILE_NAME.fullmatch(name):
        message = f"Workload Profile name '{name}' must consist of letters, digits, '-' and '_'."
        yield bad_request("WorkloadProfileInvalidName", message)
    found = profile_type(kind)
    if found is None:
        if not is_unknown(kind):
            message = f"Workload Profile type '{kind}' of profile '{name}' is not supported."
            yield bad_request("WorkloadProfileTypeNotSupported", message)
    elif found.is_serverless:
        yield from _serverless_errors(profile, found)
    else:
        yield from _count_errors(profile)


def _serverless_errors(profile: Json, found: ProfileType) -> Iterator[AzureError]:
    for count in ("minimumCount", "maximumCount"):
        if profile.get(count) is not None:
            shown = f"{count[0].upper()}{count[1:]}"
            kind = found.name.replace("-", "_")
            message = f"Workload Profile property '{shown}' is not supported for {kind}"
            yield bad_request("WorkloadProfilePropertyNotSupported", message)


def _count_errors(profile: Json) -> Iterator[AzureError]:
    if any(is_unknown(profile.get(name)) for name in ("minimumCount", "maximumCount")):
        return
    least, most = node_count(profile, "minimumCount"), node_count(profile, "maximumCount")
    if least < 0 or most < 1 or least > most:
        message = (
            f"Workload Profile '{profile.get('name')}' has minimumCount {least} and maximumCount {most}: the "
            "most must be at least 1 and no less than the least."
        )
        yield bad_request("WorkloadProfileInvalidCount", message)


def node_count(profile: Json, name: str) -> int:
    """Return a profile's `minimumCount` or `maximumCount`, 0 if there is none or it is not known yet."""
    count = profile.get(name) or 0
    return 0 if is_unknown(count) else int(count)


def _used_profile_errors(before: Resource, properties: Json, lookup: ResourceLookup) -> Iterator[AzureError]:
    """Yield the removal, or a new type, of a profile that apps or jobs run on."""
    new = {str(found.get("name")).lower(): found for found in properties.get("workloadProfiles") or ()}
    for profile in before.properties["workloadProfiles"] or ():
        users = [app.name for app in hosted_in(before, lookup) if uses_profile(app, profile["name"])]
        after = new.get(profile["name"].lower())
        kind = str(after.get("workloadProfileType")).lower() if after else None
        if users and kind != profile["workloadProfileType"].lower():
            what = "changed to another type" if after else "removed"
            message = f"Workload Profile '{profile['name']}' cannot be {what}: in use by {', '.join(users)}."
            yield AzureError(409, "WorkloadProfileInUse", message)


def _azure_file_errors(azure_file: Json, before: Resource | None) -> Iterator[AzureError]:
    code = "ManagedEnvironmentStorageInvalid"
    required = ["accountName", "shareName", "accessMode"]
    if azure_file.get("accountKeyVaultProperties"):
        yield not_emulated("the key of an environment storage in a key vault")
    elif before is None:
        required.append("accountKey")
    for name in required:
        if not azure_file.get(name):
            yield bad_request(code, f"The property 'azureFile.{name}' is required.")
    account, share = azure_file.get("accountName"), azure_file.get("shareName")
    if account and not is_unknown(account) and not is_account_name(account):
        yield bad_request(code, f"'{account}' of azureFile.accountName is no name of a storage account.")
    if share and not is_unknown(share) and not is_share_name(share):
        yield bad_request(code, f"'{share}' of azureFile.shareName is no name of a share.")
    if azure_file.get("accessMode") == "ReadOnly":
        yield not_emulated("a read-only environment storage")

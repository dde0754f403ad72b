"""Emulate Microsoft.App/managedEnvironments: environments, their workload profiles and storages.

An environment starts nothing. Its storages map an app's volumes to shares.

Not emulated: virtual networks, zone redundancy, custom domains, certificates, Dapr components, mutual TLS,
managed identities, private endpoints, OpenTelemetry, NFS storages and accounts that are not in the local
cloud, differences between regions, log destinations
(a workspace is stored, nothing is sent there). Codes for a profile that cannot be removed or changed, and
for an environment that still has apps, were not found in public material: they are plausible, not quoted.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01; recorded answers of the Azure CLI's tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup
from localcloud.container_apps.profiles import profile_type
from localcloud.container_apps.quotas import Limit, environment_quota_errors
from localcloud.container_apps.references import default_domain, hosted_in, noun_of
from localcloud.container_apps.resource_types import ENVIRONMENTS, STORAGES, VERSIONS
from localcloud.container_apps.rules.environments import environment_errors, node_count, storage_errors
from localcloud.container_apps.schema import schema_error
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localcloud.arm.requests import Json
    from localcloud.specifications import Violation

_STORED: Final = (
    "appLogsConfiguration",
    "infrastructureResourceGroup",
    "peerAuthentication",
    "peerTrafficConfiguration",
    "publicNetworkAccess",
    "vnetConfiguration",
    "workloadProfiles",
    "zoneRedundant",
)


class EnvironmentKind(ResourceKind):
    """A Container Apps environment."""

    type: ClassVar[str] = ENVIRONMENTS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    is_asynchronous: ClassVar[bool] = True

    def __init__(self, base_url: Callable[[], str], limit: Limit) -> None:
        self._base_url = base_url
        self._limit = limit

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.App's error for a value that the specification rules out."""
        return schema_error("environment", change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield invalid names and profiles, quotas that are exceeded, and what is not emulated."""
        errors = list(environment_errors(change, before, lookup))
        yield from errors
        if not errors:
            after = self.build(change, before, lookup)
            yield from environment_quota_errors(after, before, lookup, self._limit)

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the environment with Azure's defaults; the workspace's key is private."""
        del lookup
        properties = {name: value for name, value in change.properties.items() if name in _STORED}
        logs, shared_key = _without_key(properties.get("appLogsConfiguration"))
        properties["appLogsConfiguration"] = logs
        profiles = [_normal_profile(profile) for profile in properties.get("workloadProfiles") or ()]
        properties["workloadProfiles"] = profiles or None
        properties.setdefault("zoneRedundant", False)
        properties.setdefault("peerAuthentication", {"mtls": {"enabled": False}})
        after = replace(self.skeleton(change, before), properties=properties)
        stored = before.private.get("shared_key") if before else None
        return after.with_private(shared_key=shared_key or stored)

    def show(self, resource: Resource) -> Json:
        """Return the properties with those that Azure computes."""
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
        """Return the region's display name, as Microsoft.App does."""
        return DISPLAY_NAMES[resource.location or ""]

    def check_removal(self, resource: Resource, lookup: ResourceLookup) -> None:
        """Reject the deletion of an environment that still has apps or jobs."""
        hosted = hosted_in(resource, lookup)
        if hosted:
            names = ", ".join(f"{noun_of(found)} {found.name}" for found in hosted)
            message = f"The environment '{resource.name}' still has container apps: {names}."
            raise AzureError(409, "ManagedEnvironmentHasContainerApps", message)


class EnvironmentStorageKind(ResourceKind):
    """A file share that an environment's apps may mount."""

    type: ClassVar[str] = STORAGES
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    can_patch: ClassVar[bool] = False

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.App's error for a value that the specification rules out."""
        return schema_error("environment storage", change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield invalid names, and anything but a share of Azure Files with its account's key."""
        del lookup
        yield from storage_errors(change, before)

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the storage; its account's key is private."""
        del lookup
        azure_file = dict(change.properties["azureFile"])
        key = azure_file.pop("accountKey", None) or (before.private["account_key"] if before else None)
        properties = {"azureFile": azure_file}
        return replace(self.skeleton(change, before), properties=properties).with_private(account_key=key)

    def missing(self, name: str) -> AzureError | None:
        """Return Microsoft.App's own error, which `az containerapp env storage set` recognizes."""
        message = f"ManagedEnvironment Storage '{name}' was not found."
        return AzureError(404, "ManagedEnvironmentStorageNotFound", message)


def _normal_profile(profile: Json) -> Json:
    found = profile_type(profile["workloadProfileType"])
    kind = found.name if found else profile["workloadProfileType"]
    shown: Json = {"name": profile["name"], "workloadProfileType": kind}
    if found is not None and not found.is_serverless:
        shown |= {name: node_count(profile, name) for name in ("minimumCount", "maximumCount")}
    return shown


def _without_key(logs: Json | None) -> tuple[Json | None, str | None]:
    analytics = (logs or {}).get("logAnalyticsConfiguration")
    if logs is None or analytics is None:
        return logs, None
    shown = logs | {"logAnalyticsConfiguration": analytics | {"sharedKey": None}}
    return shown, analytics.get("sharedKey")

"""Emulate the management plane of Microsoft.Storage: accounts, their keys, file services and file shares.

The data plane is `localcloud.files`; it gets its shares and the accounts' keys from this module.

Not emulated: blobs, queues, tables and their services, private endpoints, network rules (accepted only in
their default, `Allow`), encryption scopes, immutability, failover, SAS from the management plane, soft
deletion of shares (the retention policy is stored and shown; a deleted share is gone), kerberos keys, key
expiry, the billing tiers' speed limits.

Source: Microsoft.Storage REST API 2025-08-01; "Resource name rules"; recorded answers of the Azure CLI's
tests.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import parse_path, resource_id
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup, is_unknown
from localcloud.clock import utc_now
from localcloud.errors import AzureError, not_emulated
from localcloud.files.names import is_account_name, is_share_name
from localcloud.files.shares import MAX_QUOTA_GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.files import FileService

VERSIONS: Final = ("2025-08-01", "2025-06-01", "2025-01-01", "2024-01-01", "2023-05-01", "2023-01-01")
ACCOUNTS: Final = "Microsoft.Storage/storageAccounts"
FILE_SERVICES: Final = f"{ACCOUNTS}/fileServices"
SHARES: Final = f"{FILE_SERVICES}/shares"

# First segments of the listener's other paths: an account of that name could not be reached.
RESERVED_NAMES: Final = frozenset(
    {"common", "metadata", "organizations", "providers", "subscriptions", "tenants"}
)
_KEY_BYTES: Final = 64
_ACCOUNT_PROPERTIES: Final = frozenset({
    "accessTier", "allowBlobPublicAccess", "allowCrossTenantReplication", "allowSharedKeyAccess",
    "defaultToOAuthAuthentication", "dnsEndpointType", "encryption", "isHnsEnabled", "isLocalUserEnabled",
    "isNfsV3Enabled", "isSftpEnabled", "largeFileSharesState", "minimumTlsVersion", "networkAcls",
    "publicNetworkAccess", "supportsHttpsTrafficOnly",
})  # fmt: skip
_ACCOUNT_READ_ONLY: Final = frozenset({
    "creationTime", "keyCreationTime", "primaryEndpoints", "primaryLocation", "privateEndpointConnections",
    "provisioningState", "statusOfPrimary",
})  # fmt: skip
_SHARE_PROPERTIES: Final = frozenset(
    {"accessTier", "enabledProtocols", "metadata", "rootSquash", "shareQuota"}
)
_SHARE_READ_ONLY: Final = frozenset({
    "accessTierChangeTime", "leaseState", "leaseStatus", "lastModifiedTime", "etag",
    "includedBurstIops", "maxBurstCreditsForIops", "nextAllowedQuotaDowngradeTime",
})  # fmt: skip


class AccountKind(ResourceKind):
    """A storage account."""

    type: ClassVar[str] = ACCOUNTS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    top_members: ClassVar[tuple[str, ...]] = ("sku", "kind")
    created_status: ClassVar[int] = 200

    def __init__(self, resources: Resources, files: FileService, base_url: Callable[[], str]) -> None:
        self._resources = resources
        self._files = files
        self._base_url = base_url

    def check(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
        """Reject invalid names, names in use, missing members and properties that are not emulated."""
        name = change.path.name
        _check_account_name(name)
        if before is None and (name in RESERVED_NAMES or _find_account(lookup, name) is not None):
            message = f"The storage account named {name} is already taken."
            raise AzureError(409, "StorageAccountAlreadyTaken", message)
        for member in ("sku", "kind"):
            if not change.body.get(member):
                message = f"Values for request parameters are invalid: {member}."
                raise AzureError(400, "InvalidValuesForRequestParameters", message)
        if change.body.get("identity", {"type": "None"}).get("type") != "None":
            raise not_emulated("a managed identity of a storage account")
        _check_known(change.properties, _ACCOUNT_PROPERTIES | _ACCOUNT_READ_ONLY, ACCOUNTS)
        if (change.properties.get("networkAcls") or {}).get("defaultAction", "Allow") != "Allow":
            raise not_emulated("network rules of a storage account")

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the account with Azure's defaults and two keys."""
        del lookup
        defaults = {
            "accessTier": "Hot",
            "allowBlobPublicAccess": False,
            "allowCrossTenantReplication": False,
            "allowSharedKeyAccess": True,
            "minimumTlsVersion": "TLS1_0",
            "supportsHttpsTrafficOnly": True,
        }
        sent = {name: value for name, value in change.properties.items() if name in _ACCOUNT_PROPERTIES}
        after = replace(self.skeleton(change, before), properties=defaults | sent)
        private = before.private if before else _new_private()
        sku = {"tier": str(after.top["sku"].get("name", "")).partition("_")[0]} | after.top["sku"]
        return replace(after, private=private, top=after.top | {"sku": sku})

    def show(self, resource: Resource) -> Json:
        """Return the properties, with the endpoint of the data plane."""
        created = resource.private["created"]
        return resource.properties | {
            "provisioningState": "Succeeded",
            "creationTime": created,
            "keyCreationTime": {key["name"]: key["created"] for key in resource.private["keys"]},
            "primaryEndpoints": {"file": f"{self._base_url()}/{resource.name}/"},
            "primaryLocation": resource.location,
            "statusOfPrimary": "available",
            "privateEndpointConnections": [],
        }

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Create the file service that every account has."""
        if before is not None:
            return
        identifier = f"{resource.id}/fileServices/default"
        service = FileServiceKind()
        change = Change(parse_path(identifier), {}, VERSIONS[0])
        self._resources.save(service.build(change, None, self._resources))

    async def remove(self, resource: Resource) -> None:
        """Delete every share of the account with its files."""
        self._files.delete_account(resource.name)


class FileServiceKind(ResourceKind):
    """The file service of an account, always named `default`."""

    type: ClassVar[str] = FILE_SERVICES
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    can_patch: ClassVar[bool] = False
    comes_with_parent: ClassVar[bool] = True

    def check(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
        """Reject any other name, and properties that are not emulated."""
        del before, lookup
        if change.path.name.lower() != "default":
            message = f"The file service name '{change.path.name}' is invalid. It must be 'default'."
            raise AzureError(400, "InvalidResourceName", message)
        _check_known(change.properties, frozenset({"shareDeleteRetentionPolicy", "cors"}), FILE_SERVICES)
        if (change.properties.get("cors") or {}).get("corsRules"):
            raise not_emulated("CORS rules of a file service")
        _check_retention(change.properties.get("shareDeleteRetentionPolicy") or {})

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the service with Azure's default retention."""
        del lookup
        defaults = {
            "cors": {"corsRules": []},
            "shareDeleteRetentionPolicy": {"enabled": True, "days": 7},
        }
        return replace(self.skeleton(change, before), properties=defaults | change.properties)


class ShareKind(ResourceKind):
    """A file share."""

    type: ClassVar[str] = SHARES
    versions: ClassVar[tuple[str, ...]] = VERSIONS

    def __init__(self, files: FileService) -> None:
        self._files = files

    def check(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
        """Reject invalid names and quotas, and protocols other than SMB."""
        del before, lookup
        name, properties = change.path.name, change.properties
        if not is_share_name(name):
            message = (
                f"The specified resource name '{name}' contains invalid characters or has a wrong length: "
                "3 to 63 lower case letters, digits and single hyphens, beginning and ending with no hyphen."
            )
            raise AzureError(400, "InvalidResourceName", message)
        _check_known(properties, _SHARE_PROPERTIES | _SHARE_READ_ONLY, SHARES)
        quota = properties.get("shareQuota", 1)
        fits = isinstance(quota, int) and 1 <= quota <= MAX_QUOTA_GIB
        if not fits and not is_unknown(quota):
            message = f"The value '{quota}' of shareQuota is not in the range from 1 to {MAX_QUOTA_GIB}."
            raise AzureError(400, "InvalidHeaderValue", message)
        if properties.get("enabledProtocols", "SMB") != "SMB":
            raise not_emulated("file shares over NFS")

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the share with Azure's defaults."""
        del lookup
        defaults = {"accessTier": "TransactionOptimized", "enabledProtocols": "SMB", "shareQuota": 5120}
        sent = {name: value for name, value in change.properties.items() if name in _SHARE_PROPERTIES}
        return replace(self.skeleton(change, before), properties=defaults | sent)

    def show(self, resource: Resource) -> Json:
        """Return the properties, without the lease state, which only the data plane has."""
        changed = resource.top["systemData"]["lastModifiedAt"]
        return resource.properties | {"lastModifiedTime": changed}

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Create the share's directory, or change its quota."""
        del before
        account, _, share = resource.path.names
        self._files.create_share(account, share, resource.properties["shareQuota"])

    async def remove(self, resource: Resource) -> None:
        """Delete the share's files."""
        account, _, share = resource.path.names
        if self._files.share_exists(account, share):
            self._files.delete_share(account, share)


class Storage:
    """The operations of Microsoft.Storage that are more than create, read and delete."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        account = f"{ACCOUNTS}/{{}}"
        router.add("POST", "group", f"{account}/listKeys", self.list_keys, VERSIONS)
        router.add("POST", "group", f"{account}/regenerateKey", self.regenerate_key, VERSIONS)
        check_name = "Microsoft.Storage/checkNameAvailability"
        router.add("POST", "subscription", check_name, self.check_name, VERSIONS)

    def account_keys(self, account: str) -> tuple[str, ...] | None:
        """Return the keys of the account of that name, None if it does not exist."""
        found = _find_account(self._resources, account)
        return None if found is None else tuple(key["value"] for key in found.private["keys"])

    async def list_keys(self, request: ArmRequest) -> ArmResponse:
        """Handle `storage account keys list`."""
        return ArmResponse(200, listed_keys(self._resources.get(_account_id(request))))

    async def regenerate_key(self, request: ArmRequest) -> ArmResponse:
        """Handle `storage account keys renew`: the old key stops working at once."""
        account = self._resources.get(_account_id(request))
        wanted = request.json().get("keyName")
        keys = [_new_key(wanted) if key["name"] == wanted else key for key in account.private["keys"]]
        if keys == account.private["keys"]:
            message = f"The key name '{wanted}' is not one of 'key1, key2'."
            raise AzureError(400, "InvalidValuesForRequestParameters", message)
        self._resources.save(account.with_private(keys=keys))
        return ArmResponse(200, {"keys": [_shown_key(key) for key in keys]})

    async def check_name(self, request: ArmRequest) -> ArmResponse:
        """Handle `storage account check-name`."""
        name = str(request.json().get("name", ""))
        try:
            _check_account_name(name)
        except AzureError as error:
            first = error.details[0] if error.details else error
            reason = {"reason": "AccountNameInvalid", "message": first.message}
            return ArmResponse(200, {"nameAvailable": False} | reason)
        if name in RESERVED_NAMES or _find_account(self._resources, name) is not None:
            message = f"The storage account named {name} is already taken."
            return ArmResponse(200, {"nameAvailable": False, "reason": "AlreadyExists", "message": message})
        return ArmResponse(200, {"nameAvailable": True})


def listed_keys(account: Resource) -> Json:
    """Return the result of `listKeys` for an account."""
    return {"keys": [_shown_key(key) for key in account.private["keys"]]}


def _account_id(request: ArmRequest) -> str:
    return resource_id(request.path.subscription or "", request.group, ACCOUNTS, request.path.names[:1])


def _find_account(lookup: ResourceLookup, name: str) -> Resource | None:
    return next((found for found in lookup.of_type(ACCOUNTS) if found.name == name), None)


def _check_account_name(name: str) -> None:
    if is_account_name(name):
        return
    message = (
        f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 "
        "characters in length and use numbers and lower-case letters only."
    )
    raise AzureError(400, "AccountNameInvalid", message, target=name)


def _check_known(properties: Json, known: frozenset[str], full_type: str) -> None:
    unknown = sorted(name for name, value in properties.items() if name not in known and value is not None)
    if unknown:
        raise not_emulated(f"the properties {', '.join(unknown)} of {full_type}")


def _check_retention(policy: Json) -> None:
    days = policy.get("days")
    if days is not None and not (isinstance(days, int) and 1 <= days <= 365):  # noqa: PLR2004 - Azure's range
        message = f"The value '{days}' of shareDeleteRetentionPolicy.days is not in the range from 1 to 365."
        raise AzureError(400, "InvalidRequestPropertyValue", message)


def _new_private() -> Json:
    return {"keys": [_new_key("key1"), _new_key("key2")], "created": utc_now().isoformat()}


def _new_key(name: str) -> Json:
    value = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    return {"name": name, "value": value, "created": utc_now().isoformat()}


def _shown_key(key: Json) -> Json:
    return {
        "keyName": key["name"],
        "value": key["value"],
        "permissions": "FULL",
        "creationTime": key["created"],
    }

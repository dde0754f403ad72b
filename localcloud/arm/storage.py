"""Emulate the management plane of Microsoft.Storage: accounts, their keys, file services and file shares.

The data plane is `localcloud.files`; it gets its shares and the accounts' keys from this module.

Not emulated: blobs, queues, tables and their services (their lists are empty), private endpoints, network
rules (accepted only in their default, `Allow`), encryption scopes, immutability, failover, SAS from the
management plane, soft deletion of shares (the retention policy is stored and shown; a deleted share is gone),
kerberos keys, key expiry, the billing tiers' speed limits.

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
from localcloud.errors import AzureError, bad_request, not_emulated
from localcloud.files.names import is_account_name, is_share_name
from localcloud.files.shares import MAX_QUOTA_GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.files import FileService
    from localcloud.specifications import Violation

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


_EMPTY_SERVICES: Final = (
    "blobServices/{}/containers", "queueServices/{}/queues", "tableServices/{}/tables",
)  # fmt: skip
_SKUS_OF_KIND: Final = {
    "Storage": ("Standard_LRS", "Standard_GRS", "Standard_RAGRS", "Premium_LRS"),
    "StorageV2": ("Standard_", "Premium_LRS"),
    "BlobStorage": ("Standard_LRS", "Standard_GRS", "Standard_RAGRS"),
    "BlockBlobStorage": ("Premium_",),
    "FileStorage": ("Premium_", "PremiumV2_", "StandardV2_"),
}


class AccountKind(ResourceKind):
    """A storage account."""

    type: ClassVar[str] = ACCOUNTS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    top_members: ClassVar[tuple[str, ...]] = ("sku", "kind")
    created_status: ClassVar[int] = 200

    def __init__(
        self,
        resources: Resources,
        files: FileService,
        base_url: Callable[[], str],
        is_taken_elsewhere: Callable[[str], bool],
    ) -> None:
        self._resources = resources
        self._is_taken_elsewhere = is_taken_elsewhere
        self._files = files
        self._base_url = base_url

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.Storage's error for a value that the specification rules out."""
        if violation.path[0] in {"sku", "kind"}:
            return _invalid_parameters(str(violation.path[0]))
        return _property_error(super().violation_error(change, violation), change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield invalid names, names in use, combinations that do not exist, and what is not emulated."""
        name, body, properties = change.path.name, change.body, change.properties
        if not is_account_name(name):
            yield _invalid_account_name(name)
        elif before is None and self._is_taken(name, lookup):
            message = f"The storage account named {name} is already taken."
            yield AzureError(409, "StorageAccountAlreadyTaken", message, target=name)
        kind, sku = str(body.get("kind")), str((body.get("sku") or {}).get("name"))
        if not _fits(kind, sku):
            yield _invalid_parameters("kind, sku")
        if kind == "Storage" and properties.get("accessTier"):
            yield _invalid_property(change, "accessTier", properties["accessTier"])
        # The specification has it, and the service rejects it (hashicorp/terraform-provider-azurerm#31656).
        if properties.get("minimumTlsVersion") == "TLS1_3":
            yield _invalid_property(change, "minimumTlsVersion", "TLS1_3")
        if (body.get("identity") or {}).get("type", "None") != "None":
            yield not_emulated("a managed identity of a storage account")
        for member in ("extendedLocation", "placement", "zones"):
            if body.get(member):
                yield not_emulated(f"'{member}' of a storage account")
        yield from _unsupported(properties, _ACCOUNT_PROPERTIES | _ACCOUNT_READ_ONLY, ACCOUNTS)
        if (properties.get("networkAcls") or {}).get("defaultAction", "Allow") != "Allow":
            yield not_emulated("network rules of a storage account")

    def _is_taken(self, name: str, lookup: ResourceLookup) -> bool:
        return self._is_taken_elsewhere(name) or _is_in_use(name, lookup)

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the account with Azure's defaults and two keys."""
        del lookup
        defaults = {
            "accessTier": "Hot",
            "allowBlobPublicAccess": False,
            "allowCrossTenantReplication": False,
            "allowSharedKeyAccess": True,
            "encryption": {
                "keySource": "Microsoft.Storage",
                "services": {name: {"enabled": True, "keyType": "Account"} for name in ("blob", "file")},
            },
            "networkAcls": {
                "bypass": "AzureServices",
                "defaultAction": "Allow",
                "ipRules": [],
                "virtualNetworkRules": [],
            },
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

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.Storage's error for a value that the specification rules out."""
        return _property_error(super().violation_error(change, violation), change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield any other name, and properties that are not emulated."""
        del before, lookup
        if change.path.name.lower() != "default":
            message = f"The file service name '{change.path.name}' is invalid. It must be 'default'."
            yield bad_request("InvalidResourceName", message)
        supported = frozenset({"shareDeleteRetentionPolicy", "cors", "protocolSettings"})
        yield from _unsupported(change.properties, supported, FILE_SERVICES)
        # A template may name the protocols without a setting, as that of the AI Toolkit does.
        protocols = change.properties.get("protocolSettings") or {}
        if any(any((settings or {}).values()) for settings in protocols.values()):
            yield not_emulated("settings of the protocols of a file service")
        if (change.properties.get("cors") or {}).get("corsRules"):
            yield not_emulated("CORS rules of a file service")

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

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.Storage's error for a value that the specification rules out."""
        return _property_error(super().violation_error(change, violation), change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield invalid names and quotas, and protocols other than SMB."""
        del before, lookup
        name, properties = change.path.name, change.properties
        if not is_share_name(name):
            message = (
                f"The specified resource name '{name}' contains invalid characters or has a wrong length: "
                "3 to 63 lower case letters, digits and single hyphens, beginning and ending with no hyphen."
            )
            yield bad_request("InvalidResourceName", message)
        quota = properties.get("shareQuota", 1)
        if isinstance(quota, int) and not 1 <= quota <= MAX_QUOTA_GIB:
            message = f"The value '{quota}' of shareQuota is not in the range from 1 to {MAX_QUOTA_GIB}."
            yield bad_request("InvalidHeaderValue", message)
        yield from _unsupported(properties, _SHARE_PROPERTIES | _SHARE_READ_ONLY, SHARES)
        if properties.get("enabledProtocols", "SMB") == "NFS":
            yield not_emulated("file shares over NFS")

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

    def __init__(self, resources: Resources, is_taken_elsewhere: Callable[[str], bool]) -> None:
        self._resources = resources
        self._is_taken_elsewhere = is_taken_elsewhere

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        account = f"{ACCOUNTS}/{{}}"
        router.add("POST", "group", f"{account}/listKeys", self.list_keys, VERSIONS)
        router.add("POST", "group", f"{account}/regenerateKey", self.regenerate_key, VERSIONS)
        check_name = "Microsoft.Storage/checkNameAvailability"
        router.add("POST", "subscription", check_name, self.check_name, VERSIONS)
        for service in _EMPTY_SERVICES:
            router.add("GET", "group", f"{account}/{service}", self.list_nothing, VERSIONS)

    def account_keys(self, account: str) -> tuple[str, ...] | None:
        """Return the keys that open the account of that name, None if it does not exist.

        An account that forbids shared-key access has keys that open nothing.
        """
        found = _find_account(self._resources, account)
        if found is None:
            return None
        if found.properties.get("allowSharedKeyAccess") is False:
            return ()
        return tuple(key["value"] for key in found.private["keys"])

    async def list_keys(self, request: ArmRequest) -> ArmResponse:
        """Handle `storage account keys list`."""
        return ArmResponse(200, listed_keys(self._resources.get(_account_id(request))))

    async def list_nothing(self, request: ArmRequest) -> ArmResponse:
        """Handle the lists of the services that are not emulated: an account holds nothing of theirs."""
        self._resources.get(_account_id(request))
        return ArmResponse(200, {"value": []})

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
        if not is_account_name(name):
            reason = {"reason": "AccountNameInvalid", "message": _invalid_account_name(name).message}
            return ArmResponse(200, {"nameAvailable": False} | reason)
        if self._is_taken_elsewhere(name) or _is_in_use(name, self._resources):
            message = f"The storage account named {name} is already taken."
            return ArmResponse(200, {"nameAvailable": False, "reason": "AlreadyExists", "message": message})
        return ArmResponse(200, {"nameAvailable": True})


def listed_keys(account: Resource) -> Json:
    """Return the result of `listKeys` for an account."""
    return {"keys": [_shown_key(key) for key in account.private["keys"]]}


def _account_id(request: ArmRequest) -> str:
    return resource_id(request.path.subscription or "", request.group, ACCOUNTS, request.path.names[:1])


def _is_in_use(name: str, lookup: ResourceLookup) -> bool:
    return name in RESERVED_NAMES or _find_account(lookup, name) is not None


def _find_account(lookup: ResourceLookup, name: str) -> Resource | None:
    return next((found for found in lookup.of_type(ACCOUNTS) if found.name == name), None)


def _invalid_account_name(name: str) -> AzureError:
    message = (
        f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 "
        "characters in length and use numbers and lower-case letters only."
    )
    return AzureError(400, "AccountNameInvalid", message, target=name)


def _invalid_parameters(names: str) -> AzureError:
    message = f"Values for request parameters are invalid: {names}. For more information, see - "
    return bad_request("InvalidValuesForRequestParameters", f"{message}https://aka.ms/storageaccounttypes")


def _invalid_property(change: Change, name: str, value: object) -> AzureError:
    message = f"The value '{value}' is not allowed for property {name}."
    return AzureError(400, "InvalidRequestPropertyValue", message, target=change.path.name)


def _property_error(error: AzureError, change: Change, violation: Violation) -> AzureError:
    """Return the provider's own error for a value of the right type; `error` for others."""
    if violation.rule in {"type", "required", "unknown"}:
        return error
    return _invalid_property(change, violation.name, violation.value)


def _fits(kind: str, sku: str) -> bool:
    """Return whether accounts of a kind exist with a SKU; values that are wrong by themselves pass.

    Source: "Storage account overview", types of storage accounts.
    """
    prefixes = _SKUS_OF_KIND.get(kind)
    return prefixes is None or is_unknown(sku) or sku.startswith(prefixes)


def _unsupported(properties: Json, known: frozenset[str], full_type: str) -> Iterator[AzureError]:
    """Yield an error for the properties that the local cloud does not have."""
    unsupported = sorted(
        name for name, value in properties.items() if name not in known and value is not None
    )
    if unsupported:
        yield not_emulated(f"the properties {', '.join(unsupported)} of {full_type}")


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

"""Emulate the management plane of Microsoft.OperationalInsights: workspaces and their shared keys.

Not emulated: the logs themselves. A workspace is a name that an environment can refer to; nothing is sent
to it and nothing can be queried from it (`az containerapp logs show` reads the replicas' own logs).
Neither are tables, saved searches, linked services, soft deletion and recovery, and customer-managed keys.

The message for a retention is quoted from public issues (Azure/azure-powershell#12524); codes of other values
are plausible, not quoted.

Source: Microsoft.OperationalInsights REST API 2025-02-01 (workspaces) and 2020-08-01 (shared keys).
"""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup
from localcloud.clock import utc_now
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.specifications import Violation

WORKSPACES: Final = "Microsoft.OperationalInsights/workspaces"
VERSIONS: Final = ("2025-07-01", "2025-02-01", "2023-09-01", "2022-10-01", "2021-12-01-preview", "2020-08-01")
_NAME: Final = re.compile(r"(?=.{4,63}$)[A-Za-z0-9][A-Za-z0-9-]+[A-Za-z0-9]")
_KEY_BYTES: Final = 64
_RETENTION_DAYS: Final = 30
_RETENTION: Final = range(30, 731)
_FREE_DAYS: Final = 7
_WRITABLE: Final = frozenset({
    "features", "publicNetworkAccessForIngestion", "publicNetworkAccessForQuery", "retentionInDays", "sku",
    "workspaceCapping",
})  # fmt: skip
_READ_ONLY: Final = frozenset({"createdDate", "customerId", "modifiedDate", "provisioningState"})


class WorkspaceKind(ResourceKind):
    """A Log Analytics workspace."""

    type: ClassVar[str] = WORKSPACES
    versions: ClassVar[tuple[str, ...]] = VERSIONS

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.OperationalInsights' error for a value that the specification rules out."""
        if violation.rule in {"type", "required", "unknown"}:
            return super().violation_error(change, violation)
        message = f"The value provided for {violation.name} is invalid: '{violation.value}'."
        return AzureError(400, "BadRequest", message, target=violation.name)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield invalid names and retentions, and properties that are not emulated."""
        del before, lookup
        if not _NAME.fullmatch(change.path.name):
            message = (
                f"The workspace name '{change.path.name}' is not valid: 4 to 63 letters, digits and hyphens, "
                "beginning and ending with a letter or digit."
            )
            yield bad_request("InvalidResourceName", message)
        days = change.properties.get("retentionInDays")
        sku = str((change.properties.get("sku") or {}).get("name"))
        if isinstance(days, int) and not _is_retention(days, sku):
            message = (
                "The value provided for retention is invalid. the expected value should be between 30 to 730."
            )
            yield AzureError(400, "BadRequest", message, target="retention")
        unknown = sorted(set(change.properties) - _WRITABLE - _READ_ONLY)
        if unknown:
            yield not_emulated(f"the properties {', '.join(unknown)} of {WORKSPACES}")

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the workspace with Azure's defaults, an id and two keys."""
        del lookup
        defaults = {
            "retentionInDays": _RETENTION_DAYS,
            "sku": {"name": "PerGB2018"},
            "features": {"enableLogAccessUsingOnlyResourcePermissions": True},
            "workspaceCapping": {"dailyQuotaGb": -1.0},
            "publicNetworkAccessForIngestion": "Enabled",
            "publicNetworkAccessForQuery": "Enabled",
        }
        sent = {name: value for name, value in change.properties.items() if name in _WRITABLE}
        private = before.private if before else _new_private()
        return replace(self.skeleton(change, before), properties=defaults | sent, private=private)

    def show(self, resource: Resource) -> Json:
        """Return the properties with the id that agents use for the workspace."""
        private = resource.private
        return resource.properties | {
            "customerId": private["customer_id"],
            "createdDate": private["created"],
            "modifiedDate": resource.top["systemData"]["lastModifiedAt"],
            "provisioningState": "Succeeded",
        }


class Insights:
    """The operations of workspaces that are more than create, read and delete."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        for verb in ("sharedKeys", "listKeys"):
            router.add("POST", "group", f"{WORKSPACES}/{{}}/{verb}", self.shared_keys, VERSIONS)

    async def shared_keys(self, request: ArmRequest) -> ArmResponse:
        """Handle `monitor log-analytics workspace get-shared-keys`."""
        names = request.path.names[:1]
        identifier = resource_id(request.path.subscription or "", request.group, WORKSPACES, names)
        return ArmResponse(200, listed_keys(self._resources.get(identifier)))


def listed_keys(workspace: Resource) -> Json:
    """Return the result of `sharedKeys` and of the template function `listKeys` for a workspace."""
    primary, secondary = workspace.private["keys"]
    return {"primarySharedKey": primary, "secondarySharedKey": secondary}


def _is_retention(days: int, sku: str) -> bool:
    """Return whether logs may be kept that long; the free tier keeps them for a week."""
    return days == _FREE_DAYS if sku == "Free" else days in _RETENTION


def _new_private() -> Json:
    keys = [base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode() for _ in range(2)]
    return {"customer_id": str(uuid.uuid4()), "keys": keys, "created": utc_now().isoformat()}

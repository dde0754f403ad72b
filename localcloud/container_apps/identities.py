"""The managed identities of a container app, which are stored and shown. Pure.

Not emulated: tokens of an identity, and user-assigned identities as resources: any well-formed id is
accepted.

Source: Azure Resource Manager, "managedServiceIdentity"; the message of `LinkedInvalidPropertyId` as quoted
in public issues.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_ids import parse_path
from localcloud.errors import AzureError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.requests import Json

NO_IDENTITY: Final[Json] = {"type": "None"}
_USER_ASSIGNED: Final = "microsoft.managedidentity/userassignedidentities"
_NAMESPACE: Final = uuid.UUID("6f2c1d1a-6a0f-5b53-9b63-1c8d5f0f6a4e")


def identity_errors(identity: Json) -> Iterator[AzureError]:
    """Yield ids of user-assigned identities that are none, and a type that does not fit them."""
    assigned = [name for name, value in _assigned(identity).items() if value is not None]
    for name in assigned:
        if parse_path(name).full_type.lower() != _USER_ASSIGNED:
            message = (
                f"Property id '{name}' at path 'identity.userAssignedIdentities' is invalid. Expect fully "
                "qualified resource Id that start with '/subscriptions/{subscriptionId}' or "
                "'/providers/{resourceProviderNamespace}/'."
            )
            yield bad_request("LinkedInvalidPropertyId", message)
    is_user_assigned = "UserAssigned" in str(identity.get("type")).replace("SystemAssigned", "")
    if is_user_assigned != bool(assigned):
        message = (
            f"The identity type '{identity.get('type')}' does not fit its {len(assigned)} user-assigned "
            "identities."
        )
        yield bad_request("InvalidIdentityValues", message)


def shown_identity(app_id: str, identity: Json | None, tenant_id: str) -> Json:
    """Return an app's identity with the ids that Azure assigns; they stay the same for the same app."""
    if identity is None or identity.get("type", "None") == "None":
        return NO_IDENTITY
    kind = str(identity["type"])
    found: Json = {"type": kind.replace(",", ", ")}
    if "SystemAssigned" in kind:
        found |= {"principalId": _id(app_id.lower()), "tenantId": tenant_id}
    assigned = [name for name, value in _assigned(identity).items() if value is not None]
    if assigned:
        found["userAssignedIdentities"] = {
            name: {"principalId": _id(name.lower()), "clientId": _id(f"{name.lower()}/client")}
            for name in assigned
        }
    return found


def _assigned(identity: Json) -> Json:
    return identity.get("userAssignedIdentities") or {}


def _id(text: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, text))

"""Evaluate the permissions of the signed-in account: which of the needed actions it may not perform. Pure.

Deny assignments are not in the list of permissions, so an action that is allowed here may still be denied.

Source: Microsoft.Authorization, "Permissions - List For Resource Group", api-version 2022-04-01; "Understand
Azure role definitions" for wildcards and `notActions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.document import Json, as_list, as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP_ACTION: Final = "Microsoft.Resources/subscriptions/resourceGroups/write"
ACTIONS: Final = (
    "Microsoft.Resources/deployments/write",
    "Microsoft.Resources/deployments/operationStatuses/read",
    "Microsoft.Storage/storageAccounts/write",
    "Microsoft.Storage/storageAccounts/listKeys/action",
    "Microsoft.Storage/storageAccounts/fileServices/shares/write",
    "Microsoft.App/managedEnvironments/storages/write",
    "Microsoft.App/managedEnvironments/join/action",
    "Microsoft.App/containerApps/write",
    "Microsoft.App/containerApps/listSecrets/action",
    "Microsoft.App/containerApps/revisions/restart/action",
)
"""What provision and deploy do in every case."""

ENVIRONMENT_ACTIONS: Final = (
    "Microsoft.App/managedEnvironments/write",
    "Microsoft.OperationalInsights/workspaces/write",
    "Microsoft.OperationalInsights/workspaces/sharedKeys/action",
)
"""What provision does if the environment is not there yet."""


@dataclass(frozen=True, slots=True)
class Permission:
    """The allowed and the excepted actions of a role assignment: patterns in which `*` is any text."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...]

    def allows(self, action: str) -> bool:
        """Return whether this assignment alone allows an action."""
        return _matches(self.actions, action) and not _matches(self.not_actions, action)


def parse_permissions(answer: Json) -> tuple[Permission, ...]:
    """Parse the list of an account's permissions at a scope."""
    listed = as_object(answer).get("value")
    entries = as_objects(listed)
    return tuple(
        Permission(_texts(entry.get("actions")), _texts(entry.get("notActions"))) for entry in entries
    )


def missing_actions(permissions: Iterable[Permission], needed: Iterable[str]) -> tuple[str, ...]:
    """Return the needed actions that no assignment allows."""
    permissions = tuple(permissions)
    return tuple(action for action in needed if not any(each.allows(action) for each in permissions))


def _matches(patterns: tuple[str, ...], action: str) -> bool:
    return any(_regex(pattern).fullmatch(action) for pattern in patterns)


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*"), re.IGNORECASE)


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(map(str, as_list(value)))

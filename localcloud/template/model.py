"""A deployment's scope, its run-time interface, and the resources that it plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a template is deployed.

    Args:
        subscription_id: The subscription.
        tenant_id: Its tenant.
        resource_group: The name of the group.
        location: The region of the group.
        deployment_name: The name of the deployment.
        now: The time of the deployment, for `utcNow` and `newGuid`; without it those two are errors.
    """

    subscription_id: str
    tenant_id: str
    resource_group: str
    location: str
    deployment_name: str
    now: datetime | None = None

    @property
    def group_id(self) -> str:
        """The resource id of the group."""
        return f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"


class Runtime(Protocol):
    """What a template can query while its deployment runs."""

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> dict[str, Any]:  # noqa: FBT001
        """Return a resource's properties; the whole resource if `full`."""

    def list(self, function: str, resource_id: str, api_version: str) -> dict[str, Any]:
        """Return the result of a list action, such as `listKeys`."""


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """A resource that the deployment will put.

    Args:
        symbolic_name: Its name in the template, ``name[index]`` in a loop; empty if the template has no
            symbolic names.
        id: The resource id.
        type: The full type, such as ``Microsoft.Storage/storageAccounts/fileServices``.
        name: The full name, with those of its parents, such as ``account/default``.
        api_version: The api-version to put it with.
        depends_on: The ids of the planned resources that must exist first.
        body: The body, as far as it is known before the deployment; the rest are expressions in brackets.
    """

    symbolic_name: str
    id: str
    type: str
    name: str
    api_version: str
    depends_on: tuple[str, ...]
    body: dict[str, Any]

"""The template functions that read resources: `reference`, `listKeys` and similar.

While a deployment runs they read the store. Before it runs they read the store with the planned resources
over it, so that a template can be validated as a whole before anything is created.

Source: "Resource functions for ARM templates".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm import insights, storage
from localcloud.container_apps import apps
from localcloud.container_apps.resource_types import APPS, JOBS
from localcloud.errors import not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup
    from localcloud.arm.resources import Resources

_LISTS: Final[dict[tuple[str, str], Callable[[Resource], Json]]] = {
    ("listkeys", storage.ACCOUNTS.lower()): storage.listed_keys,
    ("listkeys", insights.WORKSPACES.lower()): insights.listed_keys,
    ("listsecrets", APPS.lower()): apps.listed_secrets,
    ("listsecrets", JOBS.lower()): apps.listed_secrets,
}


class ResourceRuntime:
    """A `localcloud.template.Runtime` that reads resources.

    Args:
        resources: The resource types, which define what readers see.
        lookup: Where resources are looked up.
    """

    def __init__(self, resources: Resources, lookup: ResourceLookup) -> None:
        self._resources = resources
        self._lookup = lookup

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Json:  # noqa: FBT001 - the protocol's
        """Evaluate `reference`: return a resource's properties, or with `full` all of it."""
        resource = self._get(resource_id)
        shown = self._resources.shown(resource)
        if not full:
            return dict(shown["properties"])
        kind = self._resources.kind(resource.type)
        return {"apiVersion": api_version or kind.versions[0]} | shown

    def list(self, function: str, resource_id: str, api_version: str) -> Json:
        """Evaluate a function such as `listKeys`."""
        del api_version
        resource = self._get(resource_id)
        found = _LISTS.get((function.lower(), resource.type.lower()))
        if found is None:
            raise not_emulated(f"the template function '{function}' on {resource.type}")
        return found(resource)

    def _get(self, identifier: str) -> Resource:
        found = self._lookup.find(identifier)
        # The store raises the right error for a missing resource.
        return found if found is not None else self._resources.get(identifier)

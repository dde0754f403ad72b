"""Answer what a template asks while it is evaluated: `reference`, `listKeys` and their like.

The answers come from a world of resources: the store while a deployment runs; the store with the planned
resources over it before, so that a template can be judged as a whole before anything is made.

Source: "Resource functions for ARM templates".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.arm import insights, storage
from localcloud.container_apps import apps
from localcloud.container_apps.environments import APPS
from localcloud.errors import not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.calls import Json
    from localcloud.arm.resources import Resource, Resources, World

_LISTS: dict[tuple[str, str], Callable[[Resource], Json]] = {
    ("listkeys", storage.ACCOUNTS.lower()): storage.listed_keys,
    ("listkeys", insights.WORKSPACES.lower()): insights.listed_keys,
    ("listsecrets", APPS.lower()): apps.listed_secrets,
}


class WorldRuntime:
    """A `localcloud.template.Runtime` over a world.

    Args:
        resources: Knows how each type shows itself.
        world: What there is.
    """

    def __init__(self, resources: Resources, world: World) -> None:
        self._resources = resources
        self._world = world

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Json:  # noqa: FBT001 - the protocol's
        """Answer `reference`: a resource's properties, or all of it."""
        resource = self._get(resource_id)
        shown = self._resources.shown(resource)
        if not full:
            return dict(shown["properties"])
        kind = self._resources.kind(resource.type)
        return {"apiVersion": api_version or kind.versions[0]} | shown

    def list(self, function: str, resource_id: str, api_version: str) -> Json:
        """Answer a function such as `listKeys`."""
        del api_version
        resource = self._get(resource_id)
        found = _LISTS.get((function.lower(), resource.type.lower()))
        if found is None:
            raise not_emulated(f"the template function '{function}' on {resource.type}")
        return found(resource)

    def _get(self, identifier: str) -> Resource:
        found = self._world.find(identifier)
        # The store has the right words for what is missing.
        return found if found is not None else self._resources.get(identifier)

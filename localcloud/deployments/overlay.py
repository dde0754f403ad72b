"""The store as it would be with the resources of a deployment in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localcloud.arm.resource_kinds import Resource, ResourceLookup


class ResourceOverlay:
    """The store as it would be with some planned resources in it."""

    def __init__(self, below: ResourceLookup) -> None:
        self._below = below
        self._planned: dict[str, Resource] = {}

    def add(self, resource: Resource) -> None:
        """Put a planned resource over what the store has."""
        self._planned[resource.id.lower()] = resource

    def find(self, wanted: str) -> Resource | None:
        """Return a planned or stored resource, or None."""
        return self._planned.get(wanted.lower()) or self._below.find(wanted)

    def of_type(self, full_type: str) -> list[Resource]:
        """Return every planned or stored resource of a type."""
        planned = [found for found in self._planned.values() if found.type.lower() == full_type.lower()]
        stored = self._below.of_type(full_type)
        return planned + [found for found in stored if found.id.lower() not in self._planned]

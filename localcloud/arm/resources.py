"""Create, change, read and delete resources of every type in one way.

`Resources` has what all types share: ids, groups, parents, locations, versions, conflicts and background
work. What is special about a type is in its `ResourceKind`.

Not emulated: locks, role assignments, ETags, paging (every list comes whole), HEAD on a resource,
moving a resource, `extendedLocation`, `zones`, managed identities.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.regions import DISPLAY_NAMES, checked_region
from localcloud.arm.resource_ids import ArmPath, group_id, parse_path
from localcloud.arm.resource_kinds import (
    Change,
    Resource,
    ResourceKind,
    ResourceLookup,
    canonical_id,
    is_unknown,
)
from localcloud.arm.router import check_version
from localcloud.arm.tags import tag_errors
from localcloud.errors import AzureError, bad_request, not_emulated, raise_all
from localcloud.specifications import canonical_body, find_violations

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping

    from localcloud.arm.governance import Governance
    from localcloud.arm.operations import Operation, Operations
    from localcloud.arm.requests import Json
    from localcloud.arm.store import Store
    from localcloud.specifications import Violation

RESOURCE: Final = "resource"
GROUP: Final = "group"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a change: the resource, whether it is new, and the operation that completes it."""

    resource: Resource
    is_new: bool
    operation: Operation | None


class Resources:
    """Every resource of the subscription."""

    def __init__(self, store: Store, operations: Operations, governance: Governance) -> None:
        self._store = store
        self._operations = operations
        self._governance = governance
        self._kinds: dict[str, ResourceKind] = {}

    def register(self, kinds: Iterable[ResourceKind]) -> None:
        """Register resource types."""
        self._kinds.update({kind.type.lower(): kind for kind in kinds})

    @property
    def kinds(self) -> tuple[ResourceKind, ...]:
        """Return the registered types."""
        return tuple(self._kinds.values())

    def kind(self, full_type: str) -> ResourceKind:
        """Return a type.

        Raises:
            AzureError: 501 for a type that is not emulated.
        """
        found = self._kinds.get(full_type.lower())
        if found is None:
            raise not_emulated(f"the resource type '{full_type}'")
        return found

    def find(self, wanted: str) -> Resource | None:
        """Return the resource with the id `wanted`, or None."""
        document = self._store.get(RESOURCE, _key(wanted))
        return None if document is None else Resource(**document)

    def get(self, wanted: str) -> Resource:
        """Return the resource with the id `wanted`.

        Raises:
            AzureError: 404 `ResourceGroupNotFound`, `ParentResourceNotFound` or `ResourceNotFound`.
        """
        found = self.find(wanted)
        if found is None:
            raise self._missing(parse_path(wanted))
        return found

    def of_type(self, full_type: str) -> list[Resource]:
        """Return every resource of a type, oldest first."""
        return [found for found in self.all() if found.type.lower() == full_type.lower()]

    def all(self, below: str = "") -> list[Resource]:
        """Return every resource whose id begins with `below`, oldest first."""
        prefix = _key(below) + "/" if below else ""
        return [Resource(**document) for document in self._store.under(RESOURCE, prefix)]

    def save(self, resource: Resource) -> None:
        """Store a resource."""
        document = {name: getattr(resource, name) for name in Resource.__dataclass_fields__}
        self._store.put(RESOURCE, _key(resource.id), document)

    def update_private(self, resource: Resource, **private: Any) -> Resource:  # noqa: ANN401 - JSON values
        """Store private values of a resource, on top of what the store has now, and return it."""
        updated = self.get(resource.id).with_private(**private)
        self.save(updated)
        return updated

    def shown(self, resource: Resource) -> Json:
        """Return a resource as readers see it."""
        kind = self.kind(resource.type)
        document: Json = {"id": resource.id, "name": resource.name, "type": resource.type}
        if kind.is_tracked:
            document |= {"location": kind.shown_location(resource), "tags": resource.tags or {}}
        return document | resource.top | {"properties": kind.show(resource)}

    def preview(self, change: Change, lookup: ResourceLookup | None = None) -> Resource:
        """Validate a change, and return the resource that it would result in, without storing it.

        Raises:
            AzureError: The change is not valid, with all that is wrong with it.
        """
        lookup = lookup or self
        kind = self.kind(change.path.full_type)
        check_version(kind.type, str(change.body.get("location") or ""), change.api_version, kind.versions)
        self._governance.check_allowed(f"{kind.type}/write", canonical_id(change.path, kind.type))
        self._governance.check_registered(kind.type.partition("/")[0])
        change = replace(change, body=canonical_body(kind.type, change.body))
        self._governance.check_policies(kind.type, change.path.name, change.body)
        before = self.find(canonical_id(change.path, kind.type))
        violations = find_violations(kind.type, change.body, is_unknown)
        errors = [
            *_envelope_errors(change, kind, before),
            *(kind.violation_error(change, found) for found in violations if not _is_in_envelope(found)),
        ]
        if not kind.is_tracked:
            errors += self._parent_errors(change.path, lookup)
        if not any(violation.rule == "type" for violation in violations):
            # The rules rely on objects being objects, and lists being lists.
            errors += kind.find_errors(change, before, lookup)
        raise_all(errors)
        return kind.build(change, before, lookup)

    def put(self, change: Change) -> Outcome:
        """Create or change a resource.

        Raises:
            AzureError: The change is not valid; later errors are in the outcome's operation.
        """
        self.check_group(change.path, is_change=True)
        kind = self.kind(change.path.full_type)
        before = self.find(canonical_id(change.path, kind.type))
        if before is not None:
            self.check_idle(before)
        after = self.preview(change)
        self.save(after)
        operation = self._operations.start(after.id, kind.apply(after, before))
        return Outcome(after, before is None, operation)

    def patch(self, change: Change) -> Outcome:
        """Merge a change into a resource, as RFC 7396 defines it, and store the result."""
        before = self.get(canonical_id(change.path, change.path.full_type))
        current: Json = {"location": before.location, "tags": before.tags, **before.top}
        current["properties"] = before.properties
        current = {name: value for name, value in current.items() if value is not None}
        return self.put(replace(change, body=merged(current, change.body)))

    def delete(self, resource: Resource) -> Operation:
        """Delete a resource and its children in the background."""
        self.check_idle(resource)
        self.kind(resource.type).check_removal(resource, self)
        return self._operations.start(resource.id, self._remove(resource))

    def run(self, resource: Resource, work: Coroutine[Any, Any, None]) -> Operation:
        """Start other work on a resource; reject it (409) while an operation runs on the resource."""
        try:
            self.check_idle(resource)
        except AzureError:
            work.close()
            raise
        return self._operations.start(resource.id, work)

    def check_idle(self, resource: Resource) -> None:
        """Raise an error (409) if an operation runs on a resource."""
        running = self._operations.running(resource.id)
        if running is not None:
            raise self.kind(resource.type).busy(resource, running)

    def check_group(self, path: ArmPath, *, is_change: bool = False) -> None:
        """Raise an error (404) if a group does not exist, or (409) if a change meets its deletion."""
        if path.group is None:
            return
        group = self._store.get(GROUP, group_id(path.subscription or "", path.group))
        if group is None:
            message = f"Resource group '{path.group}' could not be found."
            raise AzureError(404, "ResourceGroupNotFound", message)
        if is_change:
            check_not_deleting(group)

    async def remove_group(self, below: str) -> None:
        """Delete everything in a group, newest first, and then the group."""
        for resource in reversed(self.all(below)):
            running = self._operations.running(resource.id)
            if running is not None:
                # Its result does not matter: what it created is deleted next.
                await asyncio.wait([running.task])
            await self._remove_one(resource)
        self._store.delete(GROUP, below)

    async def _remove(self, resource: Resource) -> None:
        for child in reversed(self.all(resource.id)):
            await self._remove_one(child)
        await self._remove_one(resource)

    async def _remove_one(self, resource: Resource) -> None:
        await self.kind(resource.type).remove(resource)
        self._store.delete(RESOURCE, _key(resource.id))

    def _parent_errors(self, path: ArmPath, lookup: ResourceLookup) -> Iterator[AzureError]:
        parent = replace(path, types=path.types[:-1], names=path.names[:-1])
        if self.kind(parent.full_type).comes_with_parent:
            parent = replace(parent, types=parent.types[:-1], names=parent.names[:-1])
        if lookup.find(canonical_id(parent, parent.full_type)) is None:
            message = (
                "Can not perform requested operation on nested resource. "
                f"Parent resource '{parent.name}' not found."
            )
            yield AzureError(404, "ParentResourceNotFound", message)

    def _missing(self, path: ArmPath) -> AzureError:
        try:
            self.check_group(path)
            if len(path.names) > 1:
                raise_all(tuple(self._parent_errors(path, self)))
        except AzureError as missing:
            return missing
        specific = self.kind(path.full_type).missing(path.name)
        if specific is not None:
            return specific
        where = "/".join((path.full_type, "/".join(path.names)))
        return AzureError(
            404,
            "ResourceNotFound",
            f"The Resource '{where}' under resource group '{path.group}' was not found. For more details "
            "please go to https://aka.ms/ARMResourceNotFoundFix",
        )


def merged(target: Json, patch: Mapping[str, Any]) -> Json:
    """Return `target` with a JSON merge patch applied.

    Source: RFC 7396, section 2.
    """
    found = dict(target)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            inner = found.get(name)
            found[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            found[name] = value
    return found


def check_not_deleting(group: Json) -> None:
    """Raise an error (409) if a group is being deleted."""
    if group["properties"]["provisioningState"] == "Deleting":
        name = group["name"]
        message = f"The resource group '{name}' is in deprovisioning state and cannot perform this operation."
        raise AzureError(409, "ResourceGroupBeingDeleted", message)


def _envelope_errors(change: Change, kind: ResourceKind, before: Resource | None) -> Iterator[AzureError]:
    """Yield what Resource Manager itself rejects: tags, and locations of resources."""
    if not kind.is_tracked:
        return
    tags = change.body.get("tags")
    if isinstance(tags, dict):
        yield from tag_errors(tags, kind.type)
    location = change.body.get("location")
    if not location:
        yield bad_request("LocationRequired", "The location property is required for this definition.")
        return
    try:
        region = checked_region(str(location), kind.type)
    except AzureError as error:
        yield error
        return
    if before is not None and before.location != region:
        there = DISPLAY_NAMES[before.location or ""]
        message = (
            f"The resource '{before.name}' already exists in location '{there}' in resource group "
            f"'{before.group}'. A resource with the same name cannot be created in location '{region}'. "
            "Please select a new resource name."
        )
        yield AzureError(409, "InvalidResourceLocation", message)


def _is_in_envelope(violation: Violation) -> bool:
    """Return whether `_envelope_errors` reports what is wrong with a value."""
    return violation.path == ("location",)


def _key(identifier: str) -> str:
    return identifier.rstrip("/").lower()

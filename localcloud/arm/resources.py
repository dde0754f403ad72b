"""Create, change, read and delete resources of every type in one way; a type says only what is its own.

A `ResourceKind` brings the rules of one type: what is valid, which defaults Azure fills in, what it shows,
and what must happen outside of the store. `Resources` brings everything else: ids, groups, parents,
locations, versions, conflicts and background work. `check`, `build` and `show` have no effects, so that a
validation or a what-if can ask them too.

Not emulated: locks, policies, role assignments, ETags, paging (every list comes whole), HEAD on a resource,
moving a resource, `extendedLocation`, `zones`, managed identities.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from localcloud.arm.calls import Json, no_registered_provider
from localcloud.arm.identity import utc_now
from localcloud.arm.regions import DISPLAY_NAMES, checked_region
from localcloud.arm.resource_ids import ArmPath, group_id, parse_path, resource_id
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

    from localcloud.arm.operations import Operation, Operations
    from localcloud.arm.store import Store

RESOURCE, GROUP = "resource", "group"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it is kept.

    Attributes:
        id: Its id, with names as they were first written and types as Azure writes them.
        type: Its full type.
        name: Its last name.
        location: Its region's name, None where the type has none.
        tags: Its tags, None where the type has none.
        top: What else stands beside `properties`: `sku`, `kind`, `identity`, `systemData`.
        properties: What a reader may see, as far as it does not change by itself.
        private: What no reader sees: keys, secrets, counters.
    """

    id: str
    type: str
    name: str
    location: str | None = None
    tags: dict[str, str] | None = None
    top: Json = field(default_factory=dict)
    properties: Json = field(default_factory=dict)
    private: Json = field(default_factory=dict)

    @property
    def path(self) -> ArmPath:
        """Return the parsed id."""
        return parse_path(self.id)

    @property
    def group(self) -> str:
        """Return the name of its resource group."""
        return self.path.group or ""

    @property
    def parent_id(self) -> str:
        """Return the id of the resource that it is a part of."""
        return self.id.rsplit("/", 2)[0]

    def with_properties(self, **changed: Any) -> Resource:  # noqa: ANN401 - JSON values
        """Return it with some properties set."""
        return replace(self, properties={**self.properties, **changed})

    def with_private(self, **changed: Any) -> Resource:  # noqa: ANN401 - JSON values
        """Return it with some private values set."""
        return replace(self, private={**self.private, **changed})


@dataclass(frozen=True, slots=True)
class Change:
    """A wish that a resource be as `body` says: a PUT, or a PATCH that is already merged."""

    path: ArmPath
    body: Json
    api_version: str

    @property
    def properties(self) -> Json:
        """Return the wished properties, empty if there are none."""
        return self.body.get("properties") or {}


class World(Protocol):
    """What a type's rules may look up: the store, or the store as a deployment would leave it."""

    def find(self, wanted: str) -> Resource | None:
        """Return the resource with the id `wanted`, or None."""

    def of_type(self, full_type: str) -> list[Resource]:
        """Return every resource of a type."""


class ResourceKind:
    """What one resource type has of its own; the defaults are those of a plain type."""

    type: ClassVar[str]
    versions: ClassVar[tuple[str, ...]]
    # Whether a change answers at once (200) or goes on in the background (201 and something to poll).
    is_asynchronous: ClassVar[bool] = False
    # The status of a PUT that made it.
    created_status: ClassVar[int] = 201
    can_patch: ClassVar[bool] = True
    # Whether Azure makes it with its parent, so that parts of it may come without it.
    comes_with_parent: ClassVar[bool] = False
    # Members beside `properties` that a request may bring and that are kept.
    top_members: ClassVar[tuple[str, ...]] = ()

    @property
    def is_tracked(self) -> bool:
        """Tell whether it is a top-level type: one with a location and tags."""
        return self.type.count("/") == 1

    def canonical(self, body: Json) -> Json:
        """Return a request with its names written as the type writes them; Azure does not mind their case."""
        return body

    def check(self, change: Change, before: Resource | None, world: World) -> None:
        """Refuse what Azure would refuse, with an `AzureError`; mind that a value may be `is_unknown`."""

    def build(self, change: Change, before: Resource | None, world: World) -> Resource:
        """Return the resource that the change leads to; the default keeps the properties as sent."""
        del world
        return replace(self.skeleton(change, before), properties=dict(change.properties))

    def show(self, resource: Resource) -> Json:
        """Return the properties that a reader sees."""
        return resource.properties

    def shown_location(self, resource: Resource) -> str | None:
        """Return the location in the form that this type shows."""
        return resource.location

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Do what the change means outside of the store."""

    async def remove(self, resource: Resource) -> None:
        """Undo `apply`. The store still has the resource."""

    def check_removal(self, resource: Resource, world: World) -> None:
        """Refuse a deletion that Azure would refuse."""

    def busy(self, resource: Resource, operation: Operation) -> AzureError:
        """Return the refusal of a change while `operation` runs."""
        message = f"Another operation on '{resource.name}' is in progress. Operation: '{operation.id}'."
        return AzureError(409, "AnotherOperationInProgress", message)

    def missing(self, name: str) -> AzureError | None:
        """Return the provider's own words for a resource that is not there; None where they are ARM's."""

    def skeleton(self, change: Change, before: Resource | None) -> Resource:
        """Return a resource with its id, location, tags and top-level members, without properties."""
        path, body = change.path, change.body
        identifier = before.id if before else _canonical_id(path, self.type)
        top = {name: body[name] for name in self.top_members if body.get(name) is not None}
        top["systemData"] = _system_data(before)
        return Resource(
            identifier,
            self.type,
            identifier.rpartition("/")[2],
            checked_region(body["location"], self.type) if self.is_tracked else None,
            (body.get("tags") or {}) if self.is_tracked else None,
            top,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change led to: the resource, whether it is new, and the work still going on."""

    resource: Resource
    is_new: bool
    operation: Operation | None


class Overlay:
    """The store as it would be with some planned resources in it."""

    def __init__(self, below: World) -> None:
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


class Resources:
    """Every resource of the subscription."""

    def __init__(self, store: Store, operations: Operations) -> None:
        self._store = store
        self._operations = operations
        self._kinds: dict[str, ResourceKind] = {}

    def register(self, kinds: Iterable[ResourceKind]) -> None:
        """Let these types exist."""
        self._kinds.update({kind.type.lower(): kind for kind in kinds})

    @property
    def kinds(self) -> tuple[ResourceKind, ...]:
        """Return the types that exist."""
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
        """Keep a resource as it now is."""
        document = {name: getattr(resource, name) for name in Resource.__dataclass_fields__}
        self._store.put(RESOURCE, _key(resource.id), document)

    def shown(self, resource: Resource) -> Json:
        """Return a resource as a reader sees it."""
        kind = self.kind(resource.type)
        document: Json = {"id": resource.id, "name": resource.name, "type": resource.type}
        if kind.is_tracked:
            document |= {"location": kind.shown_location(resource), "tags": resource.tags or {}}
        return document | resource.top | {"properties": kind.show(resource)}

    def preview(self, change: Change, world: World | None = None) -> Resource:
        """Judge a change, and return what it would lead to, without doing it.

        Raises:
            AzureError: The refusal.
        """
        world = world or self
        kind = self.kind(change.path.full_type)
        if change.api_version not in kind.versions:
            location = str(change.body.get("location") or "")
            raise no_registered_provider(kind.type, location, change.api_version, kind.versions)
        change = replace(change, body=kind.canonical(change.body))
        before = self.find(_canonical_id(change.path, kind.type))
        _check_envelope(change, kind, before)
        if not kind.is_tracked:
            self._check_parent(change.path, world)
        kind.check(change, before, world)
        return kind.build(change, before, world)

    def put(self, change: Change) -> Outcome:
        """Make the resource as the change says.

        Raises:
            AzureError: The refusal; what goes wrong later is in the outcome's operation.
        """
        self.check_group(change.path, is_change=True)
        kind = self.kind(change.path.full_type)
        before = self.find(_canonical_id(change.path, kind.type))
        if before is not None:
            self.check_idle(before)
        after = self.preview(change)
        self.save(after)
        operation = self._operations.start(after.id, kind.apply(after, before))
        return Outcome(after, before is None, operation)

    def patch(self, change: Change) -> Outcome:
        """Merge a change into the resource, as RFC 7396 says, and make it so."""
        before = self.get(_canonical_id(change.path, change.path.full_type))
        current: Json = {"location": before.location, "tags": before.tags, **before.top}
        current["properties"] = before.properties
        current = {name: value for name, value in current.items() if value is not None}
        return self.put(replace(change, body=merged(current, change.body)))

    def delete(self, resource: Resource) -> Operation:
        """Take a resource and its parts away, in the background."""
        self.check_idle(resource)
        self.kind(resource.type).check_removal(resource, self)
        return self._operations.start(resource.id, self._remove(resource))

    def run(self, resource: Resource, work: Coroutine[Any, Any, None]) -> Operation:
        """Begin other work on a resource, refusing it (409) while something else is at work there."""
        try:
            self.check_idle(resource)
        except AzureError:
            work.close()
            raise
        return self._operations.start(resource.id, work)

    def check_idle(self, resource: Resource) -> None:
        """Refuse (409) to begin on a resource on which something is at work."""
        running = self._operations.running(resource.id)
        if running is not None:
            raise self.kind(resource.type).busy(resource, running)

    def check_group(self, path: ArmPath, *, is_change: bool = False) -> None:
        """Refuse what is in a group that does not exist (404), and a change in one that is leaving (409)."""
        if path.group is None:
            return
        group = self._store.get(GROUP, group_id(path.subscription or "", path.group))
        if group is None:
            message = f"Resource group '{path.group}' could not be found."
            raise AzureError(404, "ResourceGroupNotFound", message)
        if is_change:
            check_not_leaving(group)

    async def remove_group(self, below: str) -> None:
        """Take everything in a group away, newest first, and then the group."""
        for resource in reversed(self.all(below)):
            running = self._operations.running(resource.id)
            if running is not None:
                # However it ends: what it made goes next.
                await asyncio.wait([running.task])
            await self._remove_alone(resource)
        self._store.delete(GROUP, below)

    async def _remove(self, resource: Resource) -> None:
        for part in reversed(self.all(resource.id)):
            await self._remove_alone(part)
        await self._remove_alone(resource)

    async def _remove_alone(self, resource: Resource) -> None:
        await self.kind(resource.type).remove(resource)
        self._store.delete(RESOURCE, _key(resource.id))

    def _check_parent(self, path: ArmPath, world: World) -> None:
        parent = replace(path, types=path.types[:-1], names=path.names[:-1])
        if self.kind(parent.full_type).comes_with_parent:
            parent = replace(parent, types=parent.types[:-1], names=parent.names[:-1])
        if world.find(_canonical_id(parent, parent.full_type)) is None:
            message = (
                "Can not perform requested operation on nested resource. "
                f"Parent resource '{parent.name}' not found."
            )
            raise AzureError(404, "ParentResourceNotFound", message)

    def _missing(self, path: ArmPath) -> AzureError:
        try:
            self.check_group(path)
            if len(path.names) > 1:
                self._check_parent(path, self)
        except AzureError as missing:
            return missing
        own_words = self.kind(path.full_type).missing(path.name)
        if own_words is not None:
            return own_words
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


def check_not_leaving(group: Json) -> None:
    """Refuse (409) to change a group, or what is in it, while it is being deleted."""
    if group["properties"]["provisioningState"] == "Deleting":
        name = group["name"]
        message = f"The resource group '{name}' is in deprovisioning state and cannot perform this operation."
        raise AzureError(409, "ResourceGroupBeingDeleted", message)


def is_unknown(value: object) -> bool:
    """Tell whether a planned value is still an expression, such as `[reference(...)]`."""
    return (
        isinstance(value, str)
        and value.startswith("[")
        and not value.startswith("[[")
        and value.endswith("]")
    )


def _check_envelope(change: Change, kind: ResourceKind, before: Resource | None) -> None:
    if not kind.is_tracked:
        return
    location = change.body.get("location")
    if not location:
        raise AzureError(400, "LocationRequired", "The location property is required for this definition.")
    region = checked_region(str(location), kind.type)
    if before is not None and before.location != region:
        there = DISPLAY_NAMES[before.location or ""]
        message = (
            f"The resource '{before.name}' already exists in location '{there}' in resource group "
            f"'{before.group}'. A resource with the same name cannot be created in location '{region}'. "
            "Please select a new resource name."
        )
        raise AzureError(409, "InvalidResourceLocation", message)


def _canonical_id(path: ArmPath, full_type: str) -> str:
    return resource_id(path.subscription or "", path.group or "", full_type, path.names)


def _key(identifier: str) -> str:
    return identifier.rstrip("/").lower()


def _system_data(before: Resource | None) -> Json:
    now = utc_now().isoformat()
    who = {"createdBy": "fjarr", "createdByType": "Application", "createdAt": now}
    kept = before.top.get("systemData", who) if before else who
    return kept | {"lastModifiedBy": "fjarr", "lastModifiedByType": "Application", "lastModifiedAt": now}

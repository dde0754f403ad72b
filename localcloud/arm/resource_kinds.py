"""What a resource is, and what a resource type must define.

A `ResourceKind` has the rules of one type: what is valid, which defaults Azure fills in, what readers see,
and what a change does outside of the store. `check`, `build` and `show` have no effects, so that a validation
or a what-if can call them too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from localcloud.arm.regions import checked_region
from localcloud.arm.resource_ids import ArmPath, parse_path, resource_id
from localcloud.clock import utc_now
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.operations import Operation
    from localcloud.arm.requests import Json


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


class ResourceLookup(Protocol):
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

    def check(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
        """Refuse what Azure would refuse, with an `AzureError`; mind that a value may be `is_unknown`."""

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the resource that the change leads to; the default keeps the properties as sent."""
        del lookup
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

    def check_removal(self, resource: Resource, lookup: ResourceLookup) -> None:
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
        identifier = before.id if before else canonical_id(path, self.type)
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


def is_unknown(value: object) -> bool:
    """Tell whether a planned value is still an expression, such as `[reference(...)]`."""
    return (
        isinstance(value, str)
        and value.startswith("[")
        and not value.startswith("[[")
        and value.endswith("]")
    )


def canonical_id(path: ArmPath, full_type: str) -> str:
    """Return the id that a path names, with the types as Azure writes them."""
    return resource_id(path.subscription or "", path.group or "", full_type, path.names)


def _system_data(before: Resource | None) -> Json:
    now = utc_now().isoformat()
    who = {"createdBy": "fjarr", "createdByType": "Application", "createdAt": now}
    kept = before.top.get("systemData", who) if before else who
    return kept | {"lastModifiedBy": "fjarr", "lastModifiedByType": "Application", "lastModifiedAt": now}

"""What a resource is, and what a resource type must define.

A `ResourceKind` has the rules of one type: what is valid, which defaults Azure fills in, what readers see,
and what a change does outside of the store. `find_errors`, `build` and `show` have no effects, so that a
validation or a what-if can call them too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from localcloud.arm.regions import checked_region
from localcloud.arm.resource_ids import ArmPath, parse_path, resource_id
from localcloud.clock import utc_now
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.operations import Operation
    from localcloud.arm.requests import Json
    from localcloud.specifications import Violation

_SHOWN_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it is stored.

    Attributes:
        id: Its id, with names as they were first sent and types as Azure writes them.
        type: Its full type.
        name: Its last name.
        location: Its region's name, None where the type has none.
        tags: Its tags, None where the type has none.
        top: The members beside `properties`: `sku`, `kind`, `identity`, `systemData`.
        properties: What readers see, without what is computed.
        private: What readers do not see: keys, secrets, counters.
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

    def with_private(self, **changed: Any) -> Resource:  # noqa: ANN401 - JSON values
        """Return a copy with some private values changed."""
        return replace(self, private={**self.private, **changed})


@dataclass(frozen=True, slots=True)
class Change:
    """A request to create or change a resource: a PUT, or a PATCH that is already merged."""

    path: ArmPath
    body: Json
    api_version: str

    @property
    def properties(self) -> Json:
        """Return the requested properties, empty if there are none."""
        return self.body.get("properties") or {}


class ResourceLookup(Protocol):
    """Where the rules of a type look up resources: the store, or the store with a deployment's resources."""

    def find(self, wanted: str) -> Resource | None:
        """Return the resource with the id `wanted`, or None."""

    def of_type(self, full_type: str) -> list[Resource]:
        """Return every resource of a type."""


class ResourceKind:
    """The definition of a resource type; the defaults fit a plain type."""

    type: ClassVar[str]
    versions: ClassVar[tuple[str, ...]]
    # Whether a change continues in the background (201, and an operation to poll) or ends at once (200).
    is_asynchronous: ClassVar[bool] = False
    # The status of a PUT that creates it.
    created_status: ClassVar[int] = 201
    can_patch: ClassVar[bool] = True
    # Whether Azure creates it with its parent, so that its children need no request for it.
    comes_with_parent: ClassVar[bool] = False
    # Members beside `properties` that a request may have and that are stored.
    top_members: ClassVar[tuple[str, ...]] = ()

    @property
    def is_tracked(self) -> bool:
        """Return whether it is a top-level type: one with a location and tags."""
        return self.type.count("/") == 1

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return the error for a value that the type's specification rules out.

        The default is what Resource Manager and most providers return when they deserialize a body.
        """
        del change
        if violation.rule == "unknown" and len(violation.path) == 1:
            reason = f"Could not find member '{violation.name}' on object of type 'ResourceDefinition'."
        elif violation.rule == "unknown":
            return not_emulated(f"the property '{violation.dotted}' of {self.type}")
        elif violation.rule == "required":
            reason = f"Required property '{violation.name}' not found in JSON."
        else:
            reason = f"Error converting value {shown_value(violation.value)}."
        message = f"The request content was invalid and could not be deserialized: '{reason}"
        return bad_request("InvalidRequestContent", f"{message} Path '{violation.json_path[2:]}'.'.")

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield what only the platform rejects, and what is not emulated; values may be `is_unknown`.

        The body conforms to the specification in its types: it is canonical, and its objects are objects.
        """
        del change, before, lookup
        yield from ()

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the resource after the change; the default stores the properties as sent."""
        del lookup
        return replace(self.skeleton(change, before), properties=dict(change.properties))

    def show(self, resource: Resource) -> Json:
        """Return the properties that readers see."""
        return resource.properties

    def shown_location(self, resource: Resource) -> str | None:
        """Return the location as this type shows it."""
        return resource.location

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Carry out the change outside of the store."""

    async def remove(self, resource: Resource) -> None:
        """Undo `apply`; the store still has the resource."""

    def check_removal(self, resource: Resource, lookup: ResourceLookup) -> None:
        """Raise an `AzureError` for a deletion that Azure rejects."""

    def busy(self, resource: Resource, operation: Operation) -> AzureError:
        """Return the error of a change while `operation` runs."""
        message = f"Another operation on '{resource.name}' is in progress. Operation: '{operation.id}'."
        return AzureError(409, "AnotherOperationInProgress", message)

    def missing(self, name: str) -> AzureError | None:
        """Return the provider's error for a missing resource, None for the error of Resource Manager."""

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
    """Return whether a planned value is still an expression, such as `[reference(...)]`."""
    return (
        isinstance(value, str)
        and value.startswith("[")
        and not value.startswith("[[")
        and value.endswith("]")
    )


def shown_value(value: object) -> str:
    """Return a value as messages show it: its JSON, shortened."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def canonical_id(path: ArmPath, full_type: str) -> str:
    """Return the id that a path names, with the types as Azure writes them."""
    return resource_id(path.subscription or "", path.group or "", full_type, path.names)


def _system_data(before: Resource | None) -> Json:
    now = utc_now().isoformat()
    who = {"createdBy": "fjarr", "createdByType": "Application", "createdAt": now}
    kept = before.top.get("systemData", who) if before else who
    return kept | {"lastModifiedBy": "fjarr", "lastModifiedByType": "Application", "lastModifiedAt": now}

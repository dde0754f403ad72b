"""Answer create, change, show, list and delete for resources of every type, as ARM does for each.

A type that answers at once gives 200 or 201. One that works in the background gives 201 with
`Azure-AsyncOperation` for a PUT and 202 with `Location` for a PATCH or DELETE: those are the two forms that
the Azure CLI's container app commands can follow.

Source: Azure Resource Manager, "Asynchronous operations"; Microsoft.App REST API 2025-07-01, status codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.arm.calls import Answer, Call, Router
from localcloud.arm.operations import RETRY_AFTER, Operations, result_answer, status_answer
from localcloud.arm.resource_ids import group_id, resource_id
from localcloud.arm.resources import Change, Outcome, ResourceKind, Resources

if TYPE_CHECKING:
    from localcloud.arm.operations import Operation


class ResourceRoutes:
    """The operations that every type has."""

    def __init__(self, resources: Resources, operations: Operations) -> None:
        self._resources = resources
        self._operations = operations

    def routes(self, router: Router) -> None:
        """Enter the operations of every registered type into the table."""
        for kind in self._resources.kinds:
            self._add_kind(router, kind)
        for kind in self._resources.kinds:
            if kind.is_asynchronous:
                place = f"{kind.type.partition('/')[0]}/locations/{{}}/{_noun(kind)}"
                router.add("GET", "subscription", f"{place}Statuses/{{}}", self.status, ())
                router.add("GET", "subscription", f"{place}Results/{{}}", self.result, ())

    async def put(self, call: Call) -> Answer:
        """Answer a PUT of a resource."""
        outcome = self._resources.put(self._change(call))
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        if operation is None or not kind.is_asynchronous:
            return await self._done(outcome)
        where = self._where(call, outcome, "Statuses")
        headers = RETRY_AFTER | {"Azure-AsyncOperation": where}
        return Answer(201, self._resources.shown(outcome.resource), headers)

    async def patch(self, call: Call) -> Answer:
        """Answer a PATCH of a resource."""
        outcome = self._resources.patch(self._change(call))
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        if operation is None or not kind.is_asynchronous:
            return await self._done(outcome)
        identifier = outcome.resource.id
        operation.result = lambda: Answer(200, self._resources.shown(self._resources.get(identifier)))
        return Answer(202, None, RETRY_AFTER | {"Location": self._where(call, outcome, "Results")})

    async def show(self, call: Call) -> Answer:
        """Answer a GET of a resource."""
        return Answer(200, self._resources.shown(self._resources.get(_identifier(call))))

    async def delete(self, call: Call) -> Answer:
        """Answer a DELETE of a resource; one that is not there is gone already."""
        self._resources.check_group(call.path)
        resource = self._resources.find(_identifier(call))
        if resource is None:
            return Answer(204)
        operation = self._resources.delete(resource)
        outcome = Outcome(resource, is_new=False, operation=operation)
        if not self._resources.kind(resource.type).is_asynchronous:
            await operation.wait()
            return Answer(200)
        return Answer(202, None, RETRY_AFTER | {"Location": self._where(call, outcome, "Results")})

    async def list_all(self, call: Call) -> Answer:
        """Answer a GET of a collection: of the subscription, of a group, or of a parent's parts."""
        self._resources.check_group(call.path)
        found = self._resources.of_type(call.path.full_type)
        if call.path.group is not None:
            below = f"{group_id(call.path.subscription or '', call.path.group)}/".lower()
            if call.path.names:
                parent_type = call.path.full_type.rpartition("/")[0]
                parent = self._resources.get(_parent_id(call, parent_type))
                below = f"{parent.id}/".lower()
            found = [resource for resource in found if resource.id.lower().startswith(below)]
        return Answer(200, {"value": [self._resources.shown(resource) for resource in found]})

    async def status(self, call: Call) -> Answer:
        """Answer a poll of `Azure-AsyncOperation`."""
        return status_answer(self._operations.get(call.path.name))

    async def result(self, call: Call) -> Answer:
        """Answer a poll of `Location`."""
        return result_answer(self._operations.get(call.path.name))

    def _add_kind(self, router: Router, kind: ResourceKind) -> None:
        namespace, *types = kind.type.split("/")
        one = "/".join((namespace, *(f"{word}/{{}}" for word in types)))
        every = one.removesuffix("/{}")
        router.add("PUT", "group", one, self.put, kind.versions)
        router.add("GET", "group", one, self.show, kind.versions)
        router.add("DELETE", "group", one, self.delete, kind.versions)
        router.add("GET", "group", every, self.list_all, kind.versions)
        if kind.can_patch:
            router.add("PATCH", "group", one, self.patch, kind.versions)
        if kind.is_tracked:
            router.add("GET", "subscription", every, self.list_all, kind.versions)

    async def _done(self, outcome: Outcome) -> Answer:
        if outcome.operation is not None:
            await outcome.operation.wait()
        resource = self._resources.get(outcome.resource.id)
        status = self._resources.kind(resource.type).created_status if outcome.is_new else 200
        return Answer(status, self._resources.shown(resource))

    def _change(self, call: Call) -> Change:
        return Change(call.path, call.json(), call.api_version)

    def _where(self, call: Call, outcome: Outcome, form: str) -> str:
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        namespace = kind.type.partition("/")[0]
        root = f"{call.base_url}/subscriptions/{call.path.subscription}/providers/{namespace}"
        place = f"{root}/locations/{outcome.resource.location}/{_noun(kind)}{form}"
        return f"{place}/{_id(operation)}?api-version={call.api_version}"


def _noun(kind: ResourceKind) -> str:
    """Return the word that stands for a type in the paths of its operations: `containerappOperation`."""
    word = kind.type.rpartition("/")[2].removesuffix("s")
    return f"{'containerapp' if word == 'containerApp' else word}Operation"


def _id(operation: Operation | None) -> str:
    return "" if operation is None else operation.id


def _identifier(call: Call) -> str:
    path = call.path
    return resource_id(path.subscription or "", call.group, path.full_type, path.names)


def _parent_id(call: Call, parent_type: str) -> str:
    return resource_id(call.path.subscription or "", call.group, parent_type, call.path.names)

"""The operations that resources of every type have: create, change, show, list and delete.

A synchronous type responds with 200 or 201. An asynchronous one responds with 201 and `Azure-AsyncOperation`
to a PUT, and with 202 and `Location` to a PATCH or DELETE: the Azure CLI's container app commands can follow
these two forms.

Source: Azure Resource Manager, "Asynchronous operations"; Microsoft.App REST API 2025-07-01, status codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.operations import RETRY_AFTER, Operations, result_response, status_response
from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.arm.resource_ids import group_id, resource_id
from localcloud.arm.resource_kinds import Change, ResourceKind
from localcloud.arm.resources import Outcome, Resources

if TYPE_CHECKING:
    from localcloud.arm.operations import Operation
    from localcloud.arm.router import Router


_OPERATION_WORDS: Final = {"containerApp": "containerapp", "job": "containerappsjob"}


class ResourceRoutes:
    """The operations that every resource type has."""

    def __init__(self, resources: Resources, operations: Operations) -> None:
        self._resources = resources
        self._operations = operations

    def routes(self, router: Router) -> None:
        """Add the operations of every registered type to the routing table."""
        for kind in self._resources.kinds:
            self._add_kind(router, kind)
        for kind in self._resources.kinds:
            if kind.is_asynchronous:
                place = f"{kind.type.partition('/')[0]}/locations/{{}}/{_noun(kind)}"
                router.add("GET", "subscription", f"{place}Statuses/{{}}", self.status, ())
                router.add("GET", "subscription", f"{place}Results/{{}}", self.result, ())

    async def put(self, request: ArmRequest) -> ArmResponse:
        """Handle a PUT of a resource."""
        outcome = self._resources.put(self._change(request))
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        if operation is None or not kind.is_asynchronous:
            return await self._completed(outcome)
        url = self._operation_url(request, outcome, "Statuses")
        headers = RETRY_AFTER | {"Azure-AsyncOperation": url}
        return ArmResponse(201, self._resources.shown(outcome.resource), headers)

    async def patch(self, request: ArmRequest) -> ArmResponse:
        """Handle a PATCH of a resource."""
        outcome = self._resources.patch(self._change(request))
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        if operation is None or not kind.is_asynchronous:
            return await self._completed(outcome)
        identifier = outcome.resource.id
        operation.result = lambda: ArmResponse(200, self._resources.shown(self._resources.get(identifier)))
        return ArmResponse(
            202, None, RETRY_AFTER | {"Location": self._operation_url(request, outcome, "Results")}
        )

    async def show(self, request: ArmRequest) -> ArmResponse:
        """Handle a GET of a resource."""
        return ArmResponse(200, self._resources.shown(self._resources.get(_identifier(request))))

    async def delete(self, request: ArmRequest) -> ArmResponse:
        """Handle a DELETE of a resource; 204 if it does not exist."""
        self._resources.check_group(request.path)
        resource = self._resources.find(_identifier(request))
        if resource is None:
            return ArmResponse(204)
        operation = self._resources.delete(resource)
        outcome = Outcome(resource, is_new=False, operation=operation)
        if not self._resources.kind(resource.type).is_asynchronous:
            await operation.wait()
            return ArmResponse(200)
        return ArmResponse(
            202, None, RETRY_AFTER | {"Location": self._operation_url(request, outcome, "Results")}
        )

    async def list_all(self, request: ArmRequest) -> ArmResponse:
        """Handle a GET of a collection: of the subscription, of a group, or of a parent's children."""
        self._resources.check_group(request.path)
        found = self._resources.of_type(request.path.full_type)
        if request.path.group is not None:
            below = f"{group_id(request.path.subscription or '', request.path.group)}/".lower()
            if request.path.names:
                parent_type = request.path.full_type.rpartition("/")[0]
                parent = self._resources.get(_parent_id(request, parent_type))
                below = f"{parent.id}/".lower()
            found = [resource for resource in found if resource.id.lower().startswith(below)]
        return ArmResponse(200, {"value": [self._resources.shown(resource) for resource in found]})

    async def status(self, request: ArmRequest) -> ArmResponse:
        """Handle a poll of `Azure-AsyncOperation`."""
        return status_response(self._operations.get(request.path.name))

    async def result(self, request: ArmRequest) -> ArmResponse:
        """Handle a poll of `Location`."""
        return result_response(self._operations.get(request.path.name))

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

    async def _completed(self, outcome: Outcome) -> ArmResponse:
        if outcome.operation is not None:
            await outcome.operation.wait()
        resource = self._resources.get(outcome.resource.id)
        status = self._resources.kind(resource.type).created_status if outcome.is_new else 200
        return ArmResponse(status, self._resources.shown(resource))

    def _change(self, request: ArmRequest) -> Change:
        return Change(request.path, request.json(), request.api_version)

    def _operation_url(self, request: ArmRequest, outcome: Outcome, form: str) -> str:
        kind, operation = self._resources.kind(outcome.resource.type), outcome.operation
        namespace = kind.type.partition("/")[0]
        root = f"{request.base_url}/subscriptions/{request.path.subscription}/providers/{namespace}"
        place = f"{root}/locations/{outcome.resource.location}/{_noun(kind)}{form}"
        return f"{place}/{_id(operation)}?api-version={request.api_version}"


def _noun(kind: ResourceKind) -> str:
    """Return the word for a type in the paths of its operations, such as `containerappOperation`."""
    word = kind.type.rpartition("/")[2].removesuffix("s")
    return f"{_OPERATION_WORDS.get(word, word)}Operation"


def _id(operation: Operation | None) -> str:
    return "" if operation is None else operation.id


def _identifier(request: ArmRequest) -> str:
    path = request.path
    return resource_id(path.subscription or "", request.group, path.full_type, path.names)


def _parent_id(request: ArmRequest, parent_type: str) -> str:
    return resource_id(request.path.subscription or "", request.group, parent_type, request.path.names)

"""Emulate deployments to a resource group: create, validate, what-if, show, cancel.

The template language is in `localcloud.template`; what is valid for a resource is decided by its type
(`resource_kinds.ResourceKind`). Resources are created one after another in the order of their dependencies.

Not emulated: deployments to other scopes, nested and linked templates, mode Complete, `onErrorDeployment`,
`debugSetting`, deployment stacks, exporting a template, deployment scripts. A what-if does not see that a
secret has changed: secrets cannot be read. Deployments are stored without limit.

Source: Azure Resource Manager REST API 2025-04-01, Deployments; recorded answers of the Azure CLI's tests.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Final

from localcloud.arm.operations import RETRY_AFTER, Operations
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import group_id
from localcloud.arm.resources import GROUP, Resources
from localcloud.deployments.documents import deployment_document
from localcloud.deployments.preflight import preflight
from localcloud.deployments.records import DeploymentRecords
from localcloud.deployments.requests import DeploymentRequest, deployment_id, parse_deployment
from localcloud.deployments.runner import DeploymentRunner
from localcloud.deployments.what_if import what_if_changes
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.router import Router
    from localcloud.arm.store import Store

VERSIONS: Final = (
    "2025-04-01",
    "2025-03-01",
    "2024-11-01",
    "2024-07-01",
    "2024-03-01",
    "2022-09-01",
    "2021-04-01",
)


class Deployments:
    """The operations of Microsoft.Resources/deployments in a resource group."""

    def __init__(self, store: Store, resources: Resources, operations: Operations, tenant_id: str) -> None:
        self._store = store
        self._resources = resources
        self._operations = operations
        self._tenant_id = tenant_id
        self._records = DeploymentRecords(store)
        self._runner = DeploymentRunner(resources, self._records)

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        one = "Microsoft.Resources/deployments/{}"
        for method, template, handler in (
            ("POST", f"{one}/validate", self.validate),
            ("POST", f"{one}/whatIf", self.what_if),
            ("POST", f"{one}/cancel", self.cancel),
            ("PUT", one, self.create),
            ("GET", one, self.show),
            ("HEAD", one, self.exists),
            ("DELETE", one, self.delete),
            ("GET", "Microsoft.Resources/deployments", self.list_all),
            ("GET", f"{one}/operations", self.list_operations),
            ("GET", f"{one}/operations/{{}}", self.show_operation),
            ("GET", f"{one}/operationStatuses/{{}}", self.status),
        ):
            router.add(method, "group", template, handler, VERSIONS)

    def fail_interrupted(self) -> None:
        """Mark as failed the deployments that were running when an earlier daemon ended."""
        for document in self._records.active():
            message = "The local cloud was stopped while the deployment ran. Deploy again."
            error = AzureError(409, "DeploymentInterrupted", message)
            self._records.save_state(document, "Failed", error=error.body())

    def delete_group(self, group_id: str) -> None:
        """Delete the deployments of the resource group with that id."""
        self._records.delete_group(group_id)

    async def validate(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group validate`, which also precedes every `create`."""
        deployment = self._parse(request)
        planned = preflight(deployment, self._resources)
        document = deployment_document(deployment, planned, "Succeeded")
        document["properties"]["validatedResources"] = [{"id": resource.id} for resource in planned]
        return ArmResponse(200, document)

    async def create(self, request: ArmRequest) -> ArmResponse:
        """Handle the PUT of `deployment group create`: accept it, and run it in the background."""
        deployment = self._parse(request)
        planned = preflight(deployment, self._resources)
        is_new = self._records.find(deployment.id) is None
        self._records.delete_operations(deployment.id)
        document = deployment_document(deployment, planned, "Accepted")
        self._records.save(document)
        operation = self._operations.start(deployment.id, self._runner.run(deployment, planned))
        status = f"{request.base_url}{deployment.id}/operationStatuses/{operation.id}"
        headers = {"Azure-AsyncOperation": f"{status}?api-version={request.api_version}"}
        return ArmResponse(201 if is_new else 200, document, RETRY_AFTER | headers)

    async def what_if(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group what-if`: 202 even for an invalid one, as `az` shows errors only then."""
        changes: list[Json] = []
        correlation_id = str(uuid.uuid4())

        async def compare() -> None:
            changes.extend(what_if_changes(self._parse(request), self._resources))

        def result() -> ArmResponse:
            properties = {"correlationId": correlation_id, "changes": changes}
            return ArmResponse(200, {"status": "Succeeded", "properties": properties})

        operation = self._operations.start(request.url_path, compare(), result)
        root = f"{request.base_url}/subscriptions/{request.path.subscription}"
        location = f"{root}/operationresults/{operation.id}?api-version={request.api_version}"
        return ArmResponse(202, None, RETRY_AFTER | {"Location": location})

    async def show(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group show`."""
        return ArmResponse(200, self._get(request))

    async def exists(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group exists`."""
        found = self._records.find(deployment_id(request))
        return ArmResponse(404 if found is None else 204)

    async def list_all(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group list`."""
        self._resources.check_group(request.path)
        group = group_id(request.path.subscription or "", request.group)
        return ArmResponse(200, {"value": self._records.in_group(group)})

    async def delete(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group delete`: the record is deleted, the resources stay."""
        self._resources.check_group(request.path)
        identifier = deployment_id(request)
        self._records.check_not_active(identifier)
        self._records.delete(identifier)
        return ArmResponse(204)

    async def cancel(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment group cancel`: no further resource is created."""
        document = self._get(request)
        running = self._operations.running(document["id"])
        if running is None:
            state = document["properties"]["provisioningState"]
            message = (
                f"The deployment '{document['name']}' cannot be canceled because it is in state '{state}'."
            )
            raise AzureError(409, "DeploymentCannotBeCancelled", message)
        running.task.cancel()
        await asyncio.wait([running.task])
        self._records.save_state(self._get(request), "Canceled")
        return ArmResponse(204)

    async def list_operations(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment operation group list`."""
        return ArmResponse(200, {"value": self._records.operations(self._get(request)["id"])})

    async def show_operation(self, request: ArmRequest) -> ArmResponse:
        """Handle `deployment operation group show`."""
        found = self._records.find_operation(self._get(request)["id"], request.path.name)
        if found is None:
            message = f"Deployment operation '{request.path.name}' could not be found."
            raise AzureError(404, "DeploymentOperationNotFound", message)
        return ArmResponse(200, found)

    async def status(self, request: ArmRequest) -> ArmResponse:
        """Handle a poll of `Azure-AsyncOperation`."""
        operation = self._operations.get(request.path.name)
        body: Json = {"status": "Running" if operation.is_running else operation.status}
        if operation.error is not None:
            body |= operation.error.to_json()
        return ArmResponse(200, body, RETRY_AFTER)

    def _parse(self, request: ArmRequest) -> DeploymentRequest:
        self._resources.check_group(request.path, is_change=True)
        self._records.check_not_active(deployment_id(request))
        group = self._store.get(GROUP, group_id(request.path.subscription or "", request.group)) or {}
        return parse_deployment(request, group, self._tenant_id)

    def _get(self, request: ArmRequest) -> Json:
        self._resources.check_group(request.path)
        found = self._records.find(deployment_id(request))
        if found is None:
            message = f"Deployment '{request.path.names[0]}' could not be found."
            raise AzureError(404, "DeploymentNotFound", message)
        return found

"""Run a deployment: create its resources one after another, and record each step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from localcloud.clock import utc_now
from localcloud.deployments.documents import duration_since, operation_document
from localcloud.deployments.preflight import planned_change
from localcloud.deployments.template_runtime import ResourceRuntime
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.deployments.records import DeploymentRecords
    from localcloud.deployments.requests import DeploymentRequest
    from localcloud.template import PlannedResource

_STATUS_WORDS: Final = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 501: "NotImplemented"}


class DeploymentRunner:
    """Runs deployments; the records show how far each has come."""

    def __init__(self, resources: Resources, records: DeploymentRecords) -> None:
        self._resources = resources
        self._records = records
        self._runtime = ResourceRuntime(resources, resources)

    async def run(self, deployment: DeploymentRequest, planned: tuple[PlannedResource, ...]) -> None:
        """Create the planned resources in order, then evaluate the outputs.

        Raises:
            AzureError: 409 `DeploymentFailed` for the first resource that fails; the error of an output.
        """
        started = utc_now()
        document = self._records.find(deployment.id) or {}
        self._records.save_state(document, "Running")
        created: list[Json] = []
        for number, resource in enumerate(planned, start=1):
            try:
                await self._create(deployment, number, resource)
            except AzureError as error:
                failure = _deployment_failed(error)
                took = duration_since(started)
                self._records.save_state(document, "Failed", error=failure.body(), duration=took)
                raise failure from error
            created.append({"id": resource.id})
        try:
            outputs = deployment.template.outputs(self._runtime)
        except AzureError as error:
            took = duration_since(started)
            self._records.save_state(document, "Failed", error=error.body(), duration=took)
            raise
        number = len(planned) + 1
        self._records.save_operation(
            operation_document(deployment, number, None, "Succeeded", "OK", None, started)
        )
        took = duration_since(started)
        self._records.save_state(
            document, "Succeeded", outputs=outputs, outputResources=created, duration=took
        )

    async def _create(self, deployment: DeploymentRequest, number: int, resource: PlannedResource) -> None:
        started = utc_now()
        self._records.save_operation(
            operation_document(deployment, number, resource, "Running", "Accepted", None, started)
        )
        try:
            body = deployment.template.body(resource, self._runtime)
            outcome = self._resources.put(planned_change(resource, body))
            if outcome.operation is not None:
                await outcome.operation.wait()
        except AzureError as error:
            word, envelope = _status_word(error.status), error.to_json()
            self._records.save_operation(
                operation_document(deployment, number, resource, "Failed", word, envelope, started)
            )
            raise
        word = "Created" if outcome.is_new else "OK"
        self._records.save_operation(
            operation_document(deployment, number, resource, "Succeeded", word, None, started)
        )


def _deployment_failed(error: AzureError) -> AzureError:
    """Wrap a resource's error as Azure does: the inner error is JSON inside a string."""
    inner = {
        "code": "ResourceDeploymentFailure",
        "message": "The resource operation completed with terminal provisioning state 'Failed'.",
        "details": [error.body()],
    }
    text = json.dumps({"status": "Failed", "error": inner}, indent=2).replace("\n", "\r\n")
    detail = AzureError(error.status, _status_word(error.status), text)
    message = (
        "At least one resource deployment operation failed. Please list deployment operations for details. "
        "Please see https://aka.ms/arm-deployment-operations for usage details."
    )
    return AzureError(409, "DeploymentFailed", message, (detail,))


def _status_word(status: int) -> str:
    return _STATUS_WORDS.get(status, "InternalServerError")

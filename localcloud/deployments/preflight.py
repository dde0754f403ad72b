"""Validate a deployment as a whole before it creates anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.arm.resource_ids import parse_path
from localcloud.arm.resource_kinds import Change
from localcloud.deployments.overlay import ResourceOverlay
from localcloud.deployments.template_runtime import ResourceRuntime
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.deployments.requests import DeploymentRequest
    from localcloud.template import PlannedResource


def preflight(deployment: DeploymentRequest, resources: Resources) -> tuple[PlannedResource, ...]:
    """Return the resources that a deployment creates, in order.

    Each is validated against the store with the resources planned before it.

    Raises:
        AzureError: 400 `InvalidTemplateDeployment`, with the error of each invalid resource as a detail.
    """
    planned = deployment.template.plan()
    overlay = ResourceOverlay(resources)
    errors: list[AzureError] = []
    invalid: set[str] = set()
    for resource in planned:
        if invalid.intersection(resource.depends_on):
            # Its error would only repeat the error of what it depends on.
            invalid |= {resource.symbolic_name, resource.id}
            continue
        try:
            body = deployment.template.body(resource, ResourceRuntime(resources, overlay))
            overlay.add(resources.preview(planned_change(resource, body), overlay))
        except AzureError as error:
            errors.append(_validation_error(error))
            invalid |= {resource.symbolic_name, resource.id}
    if errors:
        message = (
            f"The template deployment '{deployment.name}' is not valid according to the validation "
            f"procedure. The tracking id is '{deployment.correlation_id}'. See inner errors for details."
        )
        raise AzureError(400, "InvalidTemplateDeployment", message, tuple(errors))
    return planned


def planned_change(resource: PlannedResource, body: Json) -> Change:
    """Return the change that creates a planned resource with `body`."""
    return Change(parse_path(resource.id), body, resource.api_version)


def _validation_error(error: AzureError) -> AzureError:
    if error.code == "AccountNameInvalid":
        message = "Preflight validation failed. Please refer to the details for the specific errors."
        return AzureError(400, "PreflightValidationCheckFailed", message, (error,))
    message = "Validation failed for a resource. Check 'Error.Details[0]' for more information."
    return AzureError(400, "ValidationForResourceFailed", message, (error,))

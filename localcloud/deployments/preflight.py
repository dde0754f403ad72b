"""Validate a deployment as a whole before it creates anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_ids import parse_path
from localcloud.arm.resource_kinds import Change
from localcloud.deployments.overlay import ResourceOverlay
from localcloud.deployments.template_runtime import ResourceRuntime
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.deployments.requests import DeploymentRequest
    from localcloud.template import PlannedResource


_DISALLOWED: Final = "RequestDisallowedByPolicy"
# What is wrong with the subscription, not with a resource.
_OF_THE_SUBSCRIPTION: Final = frozenset(
    {"AuthorizationFailed", "MissingSubscriptionRegistration", "InvalidSubscriptionFile"}
)


def preflight(deployment: DeploymentRequest, resources: Resources) -> tuple[PlannedResource, ...]:
    """Return the resources that a deployment creates, in order.

    Each is validated against the store with the resources planned before it.

    Raises:
        AzureError: 400 `InvalidTemplateDeployment`, with the error of each invalid resource as a detail.
    """
    planned = deployment.template.plan()
    overlay = ResourceOverlay(resources)
    errors: list[tuple[PlannedResource, AzureError]] = []
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
            if error.code in _OF_THE_SUBSCRIPTION:
                raise
            errors.append((resource, error))
            invalid |= {resource.symbolic_name, resource.id}
    if errors:
        raise _not_valid(deployment, errors)
    return planned


def planned_change(resource: PlannedResource, body: Json) -> Change:
    """Return the change that creates a planned resource with `body`."""
    return Change(parse_path(resource.id), body, resource.api_version)


def _not_valid(
    deployment: DeploymentRequest, errors: Sequence[tuple[PlannedResource, AzureError]]
) -> AzureError:
    """Return the error of a deployment with the errors of its resources, nested as Azure does.

    Policies come first and alone, then what Microsoft.Storage rejects in its own check, then the rest.
    """
    code, parts = (
        "InvalidTemplateDeployment",
        [(resource, part) for resource, error in errors for part in error.parts],
    )
    denied = tuple(part for _, part in parts if part.code == _DISALLOWED)
    if denied:
        message = (
            "The template deployment failed because of policy violation. Please see details for more "
            "information."
        )
        return AzureError(400, code, message, denied)
    storage = tuple(part for resource, part in parts if resource.type.startswith("Microsoft.Storage/"))
    others = tuple((resource, part) for resource, part in parts if part not in storage)
    details: list[AzureError] = []
    if storage:
        message = "Preflight validation failed. Please refer to the details for the specific errors."
        details.append(AzureError(400, "PreflightValidationCheckFailed", message, storage))
    if others:
        is_one = len({resource.id for resource, _ in others}) == 1
        which, where = ("a resource", "[0]") if is_one else ("multiple resources", "[]")
        message = f"Validation failed for {which}. Check 'Error.Details{where}' for more information."
        kind = "ValidationForResourceFailed" if is_one else "ValidationForMultipleResourcesFailed"
        details.append(AzureError(400, kind, message, tuple(part for _, part in others)))
    message = (
        f"The template deployment '{deployment.name}' is not valid according to the validation "
        f"procedure. The tracking id is '{deployment.correlation_id}'. See inner errors for details."
    )
    return AzureError(400, code, message, tuple(details))

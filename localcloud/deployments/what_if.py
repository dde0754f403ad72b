"""Compute what a deployment would change.

A what-if does not see that a secret has changed, since secrets cannot be read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localcloud.deployments.overlay import ResourceOverlay
from localcloud.deployments.preflight import planned_change, preflight
from localcloud.deployments.property_changes import resource_change
from localcloud.deployments.template_runtime import ResourceRuntime
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.deployments.requests import DeploymentRequest
    from localcloud.template import PlannedResource


def what_if_changes(deployment: DeploymentRequest, resources: Resources) -> Iterator[Json]:
    """Yield the `changes` of a what-if: planned resources in order, then what the template does not name.

    Raises:
        AzureError: The deployment is not valid.
    """
    planned = preflight(deployment, resources)
    overlay = ResourceOverlay(resources)
    named = set()
    for resource in planned:
        named.add(resource.id.lower())
        change = _planned_change(deployment, resource, resources, overlay)
        if not deployment.is_full:
            change = {"resourceId": change["resourceId"], "changeType": "Deploy"}
        yield change
    for other in resources.all(deployment.group_id):
        if other.id.lower() in named or not resources.kind(other.type).is_tracked:
            continue
        shown = _without_times(resources.shown(other))
        yield resource_change(other.id, shown, None, is_planned=False)


def _planned_change(
    deployment: DeploymentRequest,
    resource: PlannedResource,
    resources: Resources,
    overlay: ResourceOverlay,
) -> Json:
    """Return the change of a planned resource, and add it to the overlay for those after it."""
    before = resources.find(resource.id)
    if before is None:
        body = deployment.template.body(resource, ResourceRuntime(resources, overlay))
        overlay.add(resources.preview(planned_change(resource, body), overlay))
        after = {"id": resource.id, "name": resource.name, "type": resource.type, **resource.body}
        after["apiVersion"] = resource.api_version
        return resource_change(resource.id, None, after, is_planned=True)
    body = _evaluated_body(deployment, resource, resources)
    built = resources.preview(planned_change(resource, body), overlay)
    overlay.add(built)
    built = replace(built, top=built.top | {"systemData": before.top["systemData"]})
    shown = (_without_times(resources.shown(found)) for found in (before, built))
    return resource_change(resource.id, *shown, is_planned=True)


def _evaluated_body(deployment: DeploymentRequest, resource: PlannedResource, resources: Resources) -> Json:
    """Return the body as a run would evaluate it where that is possible now, to show no false changes."""
    try:
        return deployment.template.body(resource, ResourceRuntime(resources, resources))
    except AzureError:
        return resource.body


def _without_times(shown: Json) -> Json:
    return {name: value for name, value in shown.items() if name != "systemData"}

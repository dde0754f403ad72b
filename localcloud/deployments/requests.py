"""Parse a request to deploy."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_ids import group_id
from localcloud.clock import utc_now
from localcloud.errors import AzureError, not_emulated
from localcloud.template import Deployment, Scope, load_deployment_body

if TYPE_CHECKING:
    from localcloud.arm.requests import ArmRequest, Json

_UNSUPPORTED: Final = ("templateLink", "parametersLink", "debugSetting", "onErrorDeployment")


@dataclass(frozen=True, slots=True)
class DeploymentRequest:
    """A parsed request to deploy.

    Attributes:
        id: The deployment's resource id.
        name: Its name.
        group_id: The id of the resource group that it deploys to.
        source: Its template as sent.
        template: The template with its parameters, evaluated as far as that is possible before it runs.
        correlation_id: The id that marks everything that it does.
        is_full: Whether a what-if shows what changes, or only which resources are deployed.
    """

    id: str
    name: str
    group_id: str
    source: Json
    template: Deployment
    correlation_id: str
    is_full: bool


def deployment_id(request: ArmRequest) -> str:
    """Return the id of the deployment that a request's path names."""
    group = group_id(request.path.subscription or "", request.group)
    return f"{group}/providers/Microsoft.Resources/deployments/{request.path.names[0]}"


def parse_deployment(request: ArmRequest, group: Json, tenant_id: str) -> DeploymentRequest:
    """Parse the body of a create, validate or what-if.

    Args:
        request: The request.
        group: The resource group as it is stored.
        tenant_id: The tenant that deploys.

    Raises:
        AzureError: 400 for an invalid body or template, 501 for what is not emulated.
    """
    properties = load_deployment_body(request.text).get("properties") or {}
    _check_properties(properties)
    subscription, name = request.path.subscription or "", request.path.names[0]
    scope = Scope(subscription, tenant_id, group["name"], group["location"], name, utc_now())
    source = properties["template"]
    settings = properties.get("whatIfSettings") or {}
    return DeploymentRequest(
        id=deployment_id(request),
        name=name,
        group_id=group_id(subscription, request.group),
        source=source,
        template=Deployment(source, properties.get("parameters") or {}, scope),
        correlation_id=str(uuid.uuid4()),
        is_full=settings.get("resultFormat", "FullResourcePayloads") == "FullResourcePayloads",
    )


def _check_properties(properties: Json) -> None:
    for name in _UNSUPPORTED:
        if properties.get(name) is not None:
            raise not_emulated(f"'{name}' in a deployment")
    if str(properties.get("mode", "")).lower() != "incremental":
        raise not_emulated(f"deployments in mode '{properties.get('mode')}'")
    if not isinstance(properties.get("template"), dict):
        message = "The request content was invalid: 'properties.template' is missing."
        raise AzureError(400, "InvalidRequestContent", message)

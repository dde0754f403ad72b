"""The documents that show a deployment and its operations. Pure, except for ids and times."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING

from localcloud.clock import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from localcloud.arm.requests import Json
    from localcloud.deployments.requests import DeploymentRequest
    from localcloud.template import PlannedResource


def deployment_document(
    deployment: DeploymentRequest, planned: tuple[PlannedResource, ...], state: str
) -> Json:
    """Return a deployment as `deployment group show` prints it."""
    return {
        "id": deployment.id,
        "name": deployment.name,
        "type": "Microsoft.Resources/deployments",
        "properties": {
            "templateHash": _template_hash(deployment.source),
            "parameters": deployment.template.parameters_echo,
            "mode": "Incremental",
            "provisioningState": state,
            "timestamp": utc_now().isoformat(),
            "duration": "PT0S",
            "correlationId": deployment.correlation_id,
            "providers": _providers(planned),
            "dependencies": _dependencies(planned),
        },
    }


def operation_document(  # noqa: PLR0913, PLR0917 - the columns of one row
    deployment: DeploymentRequest,
    number: int,
    resource: PlannedResource | None,
    state: str,
    status_code: str,
    message: Json | None,
    started: datetime,
) -> Json:
    """Return one row of `deployment operation group list`.

    Args:
        deployment: The deployment.
        number: The operation's place in it, from 1.
        resource: The resource that it creates, None for the evaluation of the outputs.
        state: Its provisioning state.
        status_code: The HTTP status as a word.
        message: The error envelope, None if it succeeded.
        started: When it began.
    """
    operation_id = hashlib.sha256(f"{deployment.correlation_id}{number}".encode()).hexdigest()[:16].upper()
    properties: Json = {
        "provisioningOperation": "Create" if resource else "EvaluateDeploymentOutput",
        "provisioningState": state,
        "timestamp": utc_now().isoformat(),
        "duration": duration_since(started),
        "trackingId": str(uuid.uuid4()),
        "statusCode": status_code,
    }
    if message is not None:
        properties["statusMessage"] = message
    if resource is not None:
        properties["targetResource"] = {
            "id": resource.id,
            "resourceType": resource.type,
            "resourceName": resource.name,
            "apiVersion": resource.api_version,
            "symbolicName": resource.symbolic_name,
        }
    identifier = f"{deployment.id}/operations/{operation_id}"
    return {"id": identifier, "operationId": operation_id, "properties": properties}


def duration_since(started: datetime) -> str:
    """Return the time since `started` as an ISO 8601 duration."""
    return f"PT{(utc_now() - started).total_seconds():.7f}S"


def _template_hash(template: Json) -> str:
    canonical = json.dumps(template, sort_keys=True).encode()
    return str(int.from_bytes(hashlib.sha256(canonical).digest()[:8], "big"))


def _providers(planned: tuple[PlannedResource, ...]) -> list[Json]:
    found: dict[str, list[Json]] = {}
    for resource in planned:
        namespace, _, kind = resource.type.partition("/")
        entry = {"resourceType": kind, "locations": [resource.body.get("location")]}
        if entry not in found.setdefault(namespace, []):
            found[namespace].append(entry)
    return [{"namespace": name, "resourceTypes": types} for name, types in found.items()]


def _dependencies(planned: tuple[PlannedResource, ...]) -> list[Json]:
    by_key: dict[str, Json] = {}
    for resource in planned:
        shown = {"id": resource.id, "resourceType": resource.type, "resourceName": resource.name}
        by_key[resource.symbolic_name] = shown
        by_key[resource.id.lower()] = shown
    found = []
    for resource in planned:
        needed = [by_key[key] for word in resource.depends_on if (key := _key(word, by_key)) is not None]
        if needed:
            found.append({"dependsOn": needed, **by_key[resource.id.lower()]})
    return found


def _key(word: str, by_key: dict[str, Json]) -> str | None:
    return next((key for key in (word, word.lower()) if key in by_key), None)

"""Emulate deployments to a resource group: judge a template, run it, and tell what it did or would do.

The template language is `localcloud.template`; what a resource is allowed to be is each type's own matter
(`resources.ResourceKind`). Resources are made one after another in the order of their dependencies.

Not emulated: deployments to other scopes, nested and linked templates, mode Complete, `onErrorDeployment`,
`debugSetting`, deployment stacks, exporting a template, deployment scripts. A what-if does not see that a
secret has changed: secrets are no part of what can be read. Deployments are kept without limit.

Source: Azure Resource Manager REST API 2025-04-01, Deployments; recorded answers of the Azure CLI's tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from localcloud.arm.calls import Answer, Call, Json, Router
from localcloud.arm.identity import utc_now
from localcloud.arm.operations import RETRY_AFTER, Operations
from localcloud.arm.resource_ids import group_id, parse_path
from localcloud.arm.resources import GROUP, Change, Overlay, Resources
from localcloud.deployments.template_runtime import WorldRuntime
from localcloud.deployments.what_if import resource_change
from localcloud.errors import AzureError, not_emulated
from localcloud.template import Deployment, Scope, load_deployment_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.store import Store
    from localcloud.template import PlannedResource

VERSIONS = ("2025-04-01", "2025-03-01", "2024-11-01", "2024-07-01", "2024-03-01", "2022-09-01", "2021-04-01")
_DEPLOYMENT, _OPERATION = "deployment", "deployment-operation"
_ACTIVE = frozenset({"Accepted", "Running"})
_EXPIRY = timedelta(days=7)
_UNSUPPORTED = ("templateLink", "parametersLink", "debugSetting", "onErrorDeployment")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks to deploy, parsed: where, as whom, and the evaluated template."""

    call: Call
    identifier: str
    name: str
    template: Json
    deployment: Deployment
    correlation_id: str
    is_full: bool


class Deployments:
    """The operations of Microsoft.Resources/deployments in a resource group."""

    def __init__(self, store: Store, resources: Resources, operations: Operations, tenant_id: str) -> None:
        self._store = store
        self._resources = resources
        self._operations = operations
        self._runtime = WorldRuntime(resources, resources)
        self._tenant_id = tenant_id

    def routes(self, router: Router) -> None:
        """Enter the operations into the table."""
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

    def settle(self) -> None:
        """Mark as failed what was running when an earlier daemon ended."""
        for document in self._store.under(_DEPLOYMENT):
            if document["properties"]["provisioningState"] in _ACTIVE:
                message = "The local cloud was stopped while the deployment ran. Deploy again."
                error = AzureError(409, "DeploymentInterrupted", message)
                self._save_state(document, "Failed", error=error.body())

    async def validate(self, call: Call) -> Answer:
        """Answer `deployment group validate`, which also comes before every `create`."""
        request = self._request(call)
        planned = self._preflight(request)
        document = self._document(request, planned, "Succeeded")
        document["properties"]["validatedResources"] = [{"id": resource.id} for resource in planned]
        return Answer(200, document)

    async def create(self, call: Call) -> Answer:
        """Answer the PUT of `deployment group create`: accept it, and run it in the background."""
        request = self._request(call)
        planned = self._preflight(request)
        is_new = self._store.get(_DEPLOYMENT, request.identifier) is None
        for document in self._store.under(_OPERATION, request.identifier + "/"):
            self._store.delete(_OPERATION, document["id"])
        document = self._document(request, planned, "Accepted")
        self._store.put(_DEPLOYMENT, request.identifier, document)
        operation = self._operations.start(request.identifier, self._run(request, planned))
        status = f"{call.base_url}{request.identifier}/operationStatuses/{operation.id}"
        headers = {"Azure-AsyncOperation": f"{status}?api-version={call.api_version}"}
        return Answer(201 if is_new else 200, document, RETRY_AFTER | headers)

    async def what_if(self, call: Call) -> Answer:
        """Answer `deployment group what-if`: always with 202 first, since only so can `az` show an error."""
        changes: list[Json] = []
        correlation = str(uuid.uuid4())

        async def compare() -> None:
            changes.extend(self._changes(self._request(call)))

        def result() -> Answer:
            properties = {"correlationId": correlation, "changes": changes}
            return Answer(200, {"status": "Succeeded", "properties": properties})

        operation = self._operations.start(call.url_path, compare(), result)
        where = f"{call.base_url}/subscriptions/{call.path.subscription}/operationresults/{operation.id}"
        return Answer(202, None, RETRY_AFTER | {"Location": f"{where}?api-version={call.api_version}"})

    async def show(self, call: Call) -> Answer:
        """Answer `deployment group show`."""
        return Answer(200, self._get(call))

    async def exists(self, call: Call) -> Answer:
        """Answer `deployment group exists`."""
        found = self._store.get(_DEPLOYMENT, _identifier(call))
        return Answer(404 if found is None else 204)

    async def list_all(self, call: Call) -> Answer:
        """Answer `deployment group list`, newest first."""
        self._resources.check_group(call.path)
        below = f"{group_id(call.path.subscription or '', call.group)}/"
        found = self._store.under(_DEPLOYMENT, below)
        found.sort(key=lambda document: str(document["properties"]["timestamp"]), reverse=True)
        return Answer(200, {"value": found})

    async def delete(self, call: Call) -> Answer:
        """Answer `deployment group delete`: the record goes, the resources stay."""
        self._resources.check_group(call.path)
        identifier = _identifier(call)
        found = self._store.get(_DEPLOYMENT, identifier)
        if found is not None and found["properties"]["provisioningState"] in _ACTIVE:
            raise _active(found)
        self._store.delete(_DEPLOYMENT, identifier)
        for document in self._store.under(_OPERATION, identifier + "/"):
            self._store.delete(_OPERATION, document["id"])
        return Answer(204)

    async def cancel(self, call: Call) -> Answer:
        """Answer `deployment group cancel`: no further resource is begun."""
        document = self._get(call)
        running = self._operations.running(document["id"])
        if running is None:
            state = document["properties"]["provisioningState"]
            message = (
                f"The deployment '{document['name']}' cannot be canceled because it is in state '{state}'."
            )
            raise AzureError(409, "DeploymentCannotBeCancelled", message)
        running.task.cancel()
        await asyncio.wait([running.task])
        self._save_state(self._get(call), "Canceled")
        return Answer(204)

    async def list_operations(self, call: Call) -> Answer:
        """Answer `deployment operation group list`."""
        document = self._get(call)
        return Answer(200, {"value": self._store.under(_OPERATION, document["id"] + "/")})

    async def show_operation(self, call: Call) -> Answer:
        """Answer `deployment operation group show`."""
        document = self._get(call)
        found = self._store.get(_OPERATION, f"{document['id']}/operations/{call.path.name}")
        if found is None:
            message = f"Deployment operation '{call.path.name}' could not be found."
            raise AzureError(404, "DeploymentOperationNotFound", message)
        return Answer(200, found)

    async def status(self, call: Call) -> Answer:
        """Answer a poll of `Azure-AsyncOperation`."""
        operation = self._operations.get(call.path.name)
        body: Json = {"status": "Running" if operation.is_running else operation.status}
        if operation.error is not None:
            body |= operation.error.to_json()
        return Answer(200, body, RETRY_AFTER)

    def _request(self, call: Call) -> Request:
        self._resources.check_group(call.path, is_change=True)
        identifier = _identifier(call)
        existing = self._store.get(_DEPLOYMENT, identifier)
        if existing is not None and existing["properties"]["provisioningState"] in _ACTIVE:
            raise _active(existing)
        properties = load_deployment_body(call.text).get("properties") or {}
        _check_properties(properties)
        group = self._store.get(GROUP, group_id(call.path.subscription or "", call.group)) or {}
        name = call.path.names[0]
        scope = Scope(call.path.subscription or "", self._tenant_id, group["name"], group["location"], name)
        template = properties["template"]
        deployment = Deployment(template, properties.get("parameters") or {}, scope)
        settings = properties.get("whatIfSettings") or {}
        is_full = settings.get("resultFormat", "FullResourcePayloads") == "FullResourcePayloads"
        return Request(call, identifier, name, template, deployment, str(uuid.uuid4()), is_full)

    def _preflight(self, request: Request) -> tuple[PlannedResource, ...]:
        planned = request.deployment.plan()
        world = Overlay(self._resources)
        refusals: list[AzureError] = []
        refused: set[str] = set()
        for resource in planned:
            if refused.intersection(resource.depends_on):
                # It would only be refused for what is refused already.
                refused |= {resource.symbolic_name, resource.id}
                continue
            try:
                body = request.deployment.body(resource, WorldRuntime(self._resources, world))
                world.add(self._resources.preview(_change(resource, body), world))
            except AzureError as refusal:
                refusals.append(_validation_failure(refusal))
                refused |= {resource.symbolic_name, resource.id}
        if refusals:
            message = (
                f"The template deployment '{request.name}' is not valid according to the validation "
                f"procedure. The tracking id is '{request.correlation_id}'. See inner errors for details."
            )
            raise AzureError(400, "InvalidTemplateDeployment", message, tuple(refusals))
        return planned

    async def _run(self, request: Request, planned: tuple[PlannedResource, ...]) -> None:
        started = utc_now()
        document = self._store.get(_DEPLOYMENT, request.identifier) or {}
        self._save_state(document, "Running")
        done: list[Json] = []
        for number, resource in enumerate(planned, start=1):
            try:
                await self._make(request, number, resource)
            except AzureError as error:
                failure = _deployment_failure(error)
                self._save_state(document, "Failed", error=failure.body(), duration=_duration(started))
                raise failure from error
            done.append({"id": resource.id})
        try:
            outputs = request.deployment.outputs(self._runtime)
        except AzureError as error:
            self._save_state(document, "Failed", error=error.body(), duration=_duration(started))
            raise
        self._note_operation(request, len(planned) + 1, None, "Succeeded", "OK", None, started)
        took = _duration(started)
        self._save_state(document, "Succeeded", outputs=outputs, outputResources=done, duration=took)

    async def _make(self, request: Request, number: int, resource: PlannedResource) -> None:
        started = utc_now()
        try:
            body = request.deployment.body(resource, self._runtime)
            outcome = self._resources.put(_change(resource, body))
            if outcome.operation is not None:
                await outcome.operation.wait()
        except AzureError as error:
            code = _status_word(error.status)
            self._note_operation(request, number, resource, "Failed", code, error.to_json(), started)
            raise
        word = "Created" if outcome.is_new else "OK"
        self._note_operation(request, number, resource, "Succeeded", word, None, started)

    def _note_operation(  # noqa: PLR0913, PLR0917 - the columns of one row
        self,
        request: Request,
        number: int,
        resource: PlannedResource | None,
        state: str,
        status_code: str,
        message: Json | None,
        started: datetime,
    ) -> None:
        operation_id = hashlib.sha256(f"{request.correlation_id}{number}".encode()).hexdigest()[:16].upper()
        properties: Json = {
            "provisioningOperation": "Create" if resource else "EvaluateDeploymentOutput",
            "provisioningState": state,
            "timestamp": utc_now().isoformat(),
            "duration": _duration(started),
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
        identifier = f"{request.identifier}/operations/{operation_id}"
        document = {"id": identifier, "operationId": operation_id, "properties": properties}
        self._store.put(_OPERATION, identifier, document)

    def _changes(self, request: Request) -> Iterator[Json]:
        planned = self._preflight(request)
        named = set()
        for resource in planned:
            named.add(resource.id.lower())
            change = self._change_of(request, resource)
            if not request.is_full:
                change = {"resourceId": change["resourceId"], "changeType": "Deploy"}
            yield change
        below = group_id(request.call.path.subscription or "", request.call.group)
        for other in self._resources.all(below):
            if other.id.lower() in named or not self._resources.kind(other.type).is_tracked:
                continue
            shown = self._compared(self._resources.shown(other))
            yield resource_change(other.id, shown, None, is_planned=False)

    def _change_of(self, request: Request, resource: PlannedResource) -> Json:
        before = self._resources.find(resource.id)
        if before is None:
            after = {"id": resource.id, "name": resource.name, "type": resource.type, **resource.body}
            after["apiVersion"] = resource.api_version
            return resource_change(resource.id, None, after, is_planned=True)
        body = self._body_if_known(request, resource)
        world = Overlay(self._resources)
        built = self._resources.preview(_change(resource, body), world)
        built = replace(built, top=built.top | {"systemData": before.top["systemData"]})
        shown = self._compared(self._resources.shown(before)), self._compared(self._resources.shown(built))
        return resource_change(resource.id, *shown, is_planned=True)

    def _body_if_known(self, request: Request, resource: PlannedResource) -> Json:
        """Evaluate as a run would where that is possible now: then a what-if is free of noise."""
        try:
            return request.deployment.body(resource, self._runtime)
        except AzureError:
            return resource.body

    @staticmethod
    def _compared(shown: Json) -> Json:
        return {name: value for name, value in shown.items() if name != "systemData"}

    def _get(self, call: Call) -> Json:
        self._resources.check_group(call.path)
        found = self._store.get(_DEPLOYMENT, _identifier(call))
        if found is None:
            message = f"Deployment '{call.path.names[0]}' could not be found."
            raise AzureError(404, "DeploymentNotFound", message)
        return found

    def _document(self, request: Request, planned: tuple[PlannedResource, ...], state: str) -> Json:
        return {
            "id": request.identifier,
            "name": request.name,
            "type": "Microsoft.Resources/deployments",
            "properties": {
                "templateHash": _template_hash(request.template),
                "parameters": request.deployment.parameters_echo,
                "mode": "Incremental",
                "provisioningState": state,
                "timestamp": utc_now().isoformat(),
                "duration": "PT0S",
                "correlationId": request.correlation_id,
                "providers": _providers(planned),
                "dependencies": _dependencies(planned),
            },
        }

    def _save_state(self, document: Json, state: str, **more: Any) -> None:  # noqa: ANN401 - JSON values
        changed = {"provisioningState": state, "timestamp": utc_now().isoformat(), **more}
        document["properties"] |= changed
        self._store.put(_DEPLOYMENT, document["id"], document)


def _identifier(call: Call) -> str:
    group = group_id(call.path.subscription or "", call.group)
    return f"{group}/providers/Microsoft.Resources/deployments/{call.path.names[0]}"


def _check_properties(properties: Json) -> None:
    for name in _UNSUPPORTED:
        if properties.get(name) is not None:
            raise not_emulated(f"'{name}' in a deployment")
    if str(properties.get("mode", "")).lower() != "incremental":
        raise not_emulated(f"deployments in mode '{properties.get('mode')}'")
    if not isinstance(properties.get("template"), dict):
        message = "The request content was invalid: 'properties.template' is missing."
        raise AzureError(400, "InvalidRequestContent", message)


def _change(resource: PlannedResource, body: Json) -> Change:
    return Change(parse_path(resource.id), body, resource.api_version)


def _validation_failure(refusal: AzureError) -> AzureError:
    if refusal.code == "AccountNameInvalid":
        message = "Preflight validation failed. Please refer to the details for the specific errors."
        return AzureError(400, "PreflightValidationCheckFailed", message, (refusal,))
    message = "Validation failed for a resource. Check 'Error.Details[0]' for more information."
    return AzureError(400, "ValidationForResourceFailed", message, (refusal,))


def _deployment_failure(error: AzureError) -> AzureError:
    """Wrap what a resource failed with as Azure does: the inner error is JSON inside a string."""
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
    words = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 501: "NotImplemented"}
    return words.get(status, "InternalServerError")


def _active(document: Json) -> AzureError:
    properties = document["properties"]
    started = datetime.fromisoformat(properties["timestamp"])
    pattern = "%-m/%-d/%Y %-I:%M:%S %p"
    return AzureError(
        409,
        "DeploymentActive",
        f"The deployment with resource id '{document['id']}' cannot be saved, because this would "
        f"overwrite an existing deployment which is still active. The previous deployment was started at "
        f"'{started.strftime(pattern)}' with correlationId '{properties['correlationId']}', and will "
        f"expire at '{(started + _EXPIRY).strftime(pattern)}' if it does not complete before then.",
    )


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


def _duration(started: datetime) -> str:
    return f"PT{(utc_now() - started).total_seconds():.7f}S"

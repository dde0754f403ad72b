"""The operations of container apps that are more than create, read and delete.

Real bodies of restart, activate and deactivate were not found in public material.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.operations import RETRY_AFTER
from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.container_apps.apps import listed_secrets
from localcloud.container_apps.references import default_domain
from localcloud.container_apps.resource_types import APPS, VERSIONS
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.identity import Tokens
    from localcloud.arm.operations import Operation
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.container_apps.revisions import Revisions
    from localcloud.runtime import ContainerHost, ReplicaStatus

_REVISION: Final = "Microsoft.App/containerapps/revisions"


class Apps:
    """The operations of container apps that are more than create, read and delete."""

    def __init__(
        self, resources: Resources, host: ContainerHost, revisions: Revisions, tokens: Tokens
    ) -> None:
        self._resources = resources
        self._host = host
        self._revisions = revisions
        self._tokens = tokens

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        one = f"{APPS}/{{}}"
        revision = f"{one}/revisions/{{}}"
        for method, template, handler in (
            ("POST", f"{one}/listSecrets", self.list_secrets),
            ("POST", f"{one}/getAuthToken", self.auth_token),
            ("POST", f"{one}/start", self.start),
            ("POST", f"{one}/stop", self.stop),
            ("GET", f"{one}/revisions", self.list_revisions),
            ("GET", revision, self.show_revision),
            ("POST", f"{revision}/restart", self.restart),
            ("POST", f"{revision}/activate", self.activate),
            ("POST", f"{revision}/deactivate", self.deactivate),
            ("GET", f"{revision}/replicas", self.list_replicas),
            ("GET", f"{revision}/replicas/{{}}", self.show_replica),
        ):
            router.add(method, "group", template, handler, VERSIONS)

    async def list_secrets(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp secret list --show-values` and `secret show`."""
        return ArmResponse(200, listed_secrets(self._app(request)))

    async def auth_token(self, request: ArmRequest) -> ArmResponse:
        """Handle `getAuthToken`: return a token that is valid for the app's log streams only."""
        app = self._app(request)
        token, expires = self._tokens.issue(app.id.lower(), {"iss": "AzureContainerApps"})
        body = {
            "id": app.id,
            "name": app.name,
            "type": "Microsoft.App/containerApps/accesstoken",
            "location": DISPLAY_NAMES[app.location or ""],
            "properties": {"token": token, "expires": expires.isoformat()},
        }
        return ArmResponse(200, body)

    async def start(self, request: ArmRequest) -> ArmResponse:
        """Handle the API's `start`: run the active revisions again."""
        app = self._app(request)

        async def begin() -> None:
            updated = app.with_private(stopped=False)
            self._resources.save(updated)
            await self._revisions.restore(updated)

        return self._accepted(request, self._resources.run(app, begin()))

    async def stop(self, request: ArmRequest) -> ArmResponse:
        """Handle the API's `stop`: stop the replicas, keep everything else."""
        app = self._app(request)

        async def end() -> None:
            updated = app.with_private(stopped=True)
            self._resources.save(updated)
            await self._revisions.stop_all(updated)

        return self._accepted(request, self._resources.run(app, end()))

    async def list_revisions(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp revision list`."""
        app = self._app(request)
        return ArmResponse(
            200, {"value": [self._revision_document(app, found) for found in self._revisions.of(app)]}
        )

    async def show_revision(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp revision show`."""
        app = self._app(request)
        return ArmResponse(200, self._revision_document(app, self._revisions.get(app, request.path.names[1])))

    async def restart(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp revision restart`; the response does not wait for the new replicas."""
        await self._revisions.restart(self._app(request), request.path.names[1])
        return ArmResponse(200, "Restart succeeded")

    async def activate(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp revision activate`."""
        await self._revisions.activate(self._app(request), request.path.names[1])
        return ArmResponse(200, "Activate succeeded")

    async def deactivate(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp revision deactivate`."""
        self._revisions.deactivate(self._app(request), request.path.names[1])
        return ArmResponse(200, "Deactivate succeeded")

    async def list_replicas(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp replica list`."""
        app = self._app(request)
        revision = self._revisions.get(app, request.path.names[1])
        return ArmResponse(
            200, {"value": [self._replica_document(app, found) for found in self._replicas_of(revision)]}
        )

    async def show_replica(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp replica show`."""
        app = self._app(request)
        revision = self._revisions.get(app, request.path.names[1])
        return ArmResponse(
            200, self._replica_document(app, self._find_replica(revision, request.path.names[2]))
        )

    def _app(self, request: ArmRequest) -> Resource:
        names = request.path.names[:1]
        return self._resources.get(resource_id(request.path.subscription or "", request.group, APPS, names))

    def _accepted(self, request: ArmRequest, operation: Operation) -> ArmResponse:
        app = self._app(request)
        operation.result = lambda: ArmResponse(200, self._resources.shown(self._app(request)))
        where = (
            f"{request.base_url}/subscriptions/{request.path.subscription}/providers/Microsoft.App/locations"
        )
        location = f"{where}/{app.location}/containerappOperationResults/{operation.id}"
        headers = RETRY_AFTER | {"Location": f"{location}?api-version={request.api_version}"}
        return ArmResponse(202, None, headers)

    def _revision_document(self, app: Resource, revision: Json) -> Json:
        name = revision["name"]
        running, health, details = self._host.revision_state(name)
        environment = self._resources.find(app.properties["environmentId"])
        domain = default_domain(environment) if environment else ""
        properties = {
            "createdTime": revision["created"],
            "lastActiveTime": revision["lastActiveTime"],
            "fqdn": f"{name}.{domain}" if app.properties["configuration"]["ingress"] else None,
            "template": revision["template"],
            "active": revision["active"],
            "replicas": len(self._replicas_of(revision)),
            "trafficWeight": self._revisions.traffic_weight(app, name) if revision["active"] else 0,
            "healthState": health,
            "provisioningState": "Provisioned" if revision["active"] else "Deprovisioned",
            "runningState": running,
        }
        if details:
            properties["runningStateDetails"] = details
        return {"id": f"{app.id}/revisions/{name}", "name": name, "type": _REVISION, "properties": properties}

    def _replicas_of(self, revision: Json) -> tuple[ReplicaStatus, ...]:
        return self._host.replicas(revision["name"])

    def _find_replica(self, revision: Json, name: str) -> ReplicaStatus:
        for replica in self._replicas_of(revision):
            if replica.name == name:
                return replica
        raise replica_not_found(name, revision["name"])

    def _replica_document(self, app: Resource, replica: ReplicaStatus) -> Json:
        identifier = f"{app.id}/revisions/{replica.revision}/replicas/{replica.name}"
        endpoint = str(self._resources.shown(app)["properties"]["eventStreamEndpoint"])
        root = f"{endpoint.removesuffix('/eventstream')}/revisions/{replica.revision}/replicas/{replica.name}"
        container = {
            "name": replica.container,
            "containerId": f"process://{replica.name}",
            "ready": replica.ready,
            "started": replica.started,
            "restartCount": replica.restart_count,
            "runningState": replica.running_state,
            "runningStateDetails": replica.details,
            "logStreamEndpoint": f"{root}/containers/{replica.container}/logstream",
        }
        is_running = replica.running_state == "Running"
        properties = {
            "createdTime": replica.created.isoformat(),
            "runningState": "Running" if is_running else "NotRunning",
            "runningStateDetails": replica.details,
            "containers": [container],
            "initContainers": [],
        }
        kind = f"{_REVISION}/replicas"
        return {"id": identifier, "name": replica.name, "type": kind, "properties": properties}


def replica_not_found(replica: str, revision: str) -> AzureError:
    """Return the error 404 for a replica that does not exist."""
    message = f"The replica '{replica}' of revision '{revision}' was not found."
    return AzureError(404, "ReplicaNotFound", message)

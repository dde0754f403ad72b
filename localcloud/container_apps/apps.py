"""Emulate Microsoft.App/containerApps: apps, their secrets, revisions, replicas and log streams.

An app really runs, as processes of this machine (`localcloud.runtime`), and is reached over plain HTTP on a
port of 127.0.0.1, which is its `ingress.fqdn` and stays the same for the life of the app.

Not emulated: images (the command runs with this machine's programs), registries (kept, not used), ingress
over TLS, `external: false` (every app is reachable from this machine and from nowhere else),
`allowInsecure: false` (the ingress is always plain HTTP), jobs, auth configurations, source controls,
custom domains, managed identities, and everything that `app_rules` refuses. An operation ends when the
replicas are made, not when they are ready: on Azure, too, only the revision's state and its answers tell
that. Of two apps with one name in two groups the second is refused, since both would be one to the machine.
Real bodies of restart, activate and deactivate, and the codes for a revision that is not there or not
active, were not found in public material. A change that fails is taken back; what Azure shows then is not
known.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01; the Azure CLI's source and recorded tests.
"""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from localcloud.arm.calls import Answer, Call, Json, Router
from localcloud.arm.identity import Tokens, utc_now
from localcloud.arm.operations import RETRY_AFTER
from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_ids import resource_id
from localcloud.arm.resources import Change, Resource, ResourceKind, Resources, World
from localcloud.container_apps.environments import APPS, VERSIONS, default_domain, find_profile
from localcloud.container_apps.rules import check_app
from localcloud.container_apps.schema import canonical
from localcloud.container_apps.shape import normal_properties, secret_values
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from localcloud.arm.operations import Operation, Operations
    from localcloud.container_apps.revisions import Revisions
    from localcloud.runtime import ContainerHost, ReplicaStatus

_REVISION = "Microsoft.App/containerapps/revisions"
_MOST_LINES = 300
_log = logging.getLogger(__name__)


class AppKind(ResourceKind):
    """A container app."""

    type: ClassVar[str] = APPS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    is_asynchronous: ClassVar[bool] = True

    def __init__(
        self,
        resources: Resources,
        operations: Operations,
        host: ContainerHost,
        revisions: Revisions,
        base_url: Callable[[], str],
    ) -> None:
        self._resources = resources
        self._operations = operations
        self._host = host
        self._revisions = revisions
        self._base_url = base_url

    def canonical(self, body: Json) -> Json:
        """Return a request with its property names as the API writes them."""
        return canonical(body)

    def check(self, change: Change, before: Resource | None, world: World) -> None:
        """Refuse what Azure refuses, and what is not emulated."""
        name = change.path.name
        check_app(name, change.body, before, world)
        if before is None and any(app.name == name for app in world.of_type(APPS)):
            raise not_emulated(f"a second container app with the name '{name}', in another resource group")

    def build(self, change: Change, before: Resource | None, world: World) -> Resource:
        """Return the app with Azure's defaults; the values of its secrets are kept out of sight."""
        kept = before.private if before else {}
        identifier = str(
            change.properties.get("environmentId") or change.properties.get("managedEnvironmentId")
        )
        environment = world.find(identifier)
        profile = change.properties.get("workloadProfileName")
        if environment is not None:
            profile, _ = find_profile(environment, profile)
        after = self.skeleton(change, before)
        # The provider itself writes this one word of the id in lower case.
        after = replace(after, id=after.id.replace("/containerApps/", "/containerapps/"))
        values = secret_values(change.properties, kept.get("secrets", {}))
        properties = normal_properties(change.properties, profile)
        return replace(after, properties=properties, private={**kept, "secrets": values})

    def show(self, resource: Resource) -> Json:
        """Return the properties with what Azure computes."""
        private, shown = resource.private, deepcopy(resource.properties)
        port, latest = private.get("port"), private.get("latest_revision")
        fqdn = None if port is None else f"127.0.0.1:{port}"
        if shown["configuration"]["ingress"] is not None:
            shown["configuration"]["ingress"]["fqdn"] = fqdn
        running = self._operations.running(resource.id)
        return shown | {
            "provisioningState": "InProgress" if running else private.get("provisioning_state", "InProgress"),
            "runningStatus": "Stopped" if private.get("stopped") else "Running",
            "latestRevisionName": latest,
            "latestReadyRevisionName": private.get("latest_ready_revision"),
            "latestRevisionFqdn": fqdn if latest else "",
            "outboundIpAddresses": ["127.0.0.1"],
            "customDomainVerificationId": "",
            "eventStreamEndpoint": f"{self._base_url()}{_stream_path(resource)}/eventstream",
        }

    def shown_location(self, resource: Resource) -> str | None:
        """Return the region's display name, as this provider does."""
        return DISPLAY_NAMES[resource.location or ""]

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Listen, make a revision if the template is new, and let the right one serve."""
        try:
            app = await self.listen(resource)
            await self._revisions.update(app)
        except BaseException:
            self._note(resource, provisioning_state="Failed")
            if before is not None:
                self._take_back(before)
            raise
        self._note(resource, provisioning_state="Succeeded")

    async def remove(self, resource: Resource) -> None:
        """Stop everything of the app."""
        self._revisions.forget(resource)
        await self._host.remove_app(resource.name)

    def busy(self, resource: Resource, operation: Operation) -> AzureError:
        """Return this provider's refusal of a change while `operation` runs."""
        message = (
            f"Cannot modify a container app '{resource.name}' because there is an active provisioning "
            f"operation in progress. OperationId: '{operation.id}'"
        )
        return AzureError(409, "ContainerAppOperationInProgress", message)

    async def listen(self, app: Resource) -> Resource:
        """Open the app's ingress on the port that it had, or close it if it has none any more."""
        port = app.private.get("port")
        if app.properties["configuration"]["ingress"] is None:
            if port is not None:
                await self._host.stop_app_ingress(app.name)
            return self._note(app, port=None)
        try:
            chosen = await self._host.start_app(app.name, port)
        except OSError:
            _log.warning("port %s of app %s is taken: it gets another", port, app.name)
            chosen = await self._host.start_app(app.name, None)
        return self._note(app, port=chosen)

    async def restore(self) -> None:
        """Bring all apps up again, as after a restart of the daemon."""
        for app in self._resources.of_type(APPS):
            noted = self._note(app, provisioning_state=app.private.get("provisioning_state", "Failed"))
            try:
                await self._revisions.restore(await self.listen(noted))
            except (AzureError, OSError, KeyError):
                # One app that cannot come up is no reason to keep all others down.
                _log.exception("app %s could not be brought up again", app.name)
                self._note(app, provisioning_state="Failed")

    def _take_back(self, before: Resource) -> None:
        """Let an app be again what it was, so that a change that failed does not fail every later one."""
        noted = self._note(before, secrets=before.private["secrets"])
        self._resources.save(replace(noted, properties=before.properties))

    def _note(self, app: Resource, **private: Any) -> Resource:  # noqa: ANN401 - JSON values
        noted = self._resources.get(app.id).with_private(**private)
        self._resources.save(noted)
        return noted


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
        """Enter the operations into the table."""
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
        # Their paths have no provider, and a group's own words are those of Resource Manager.
        plain = one.replace("Microsoft.App", "Microsoft.Resources")
        replica = f"{plain}/revisions/{{}}/replicas/{{}}"
        stream = f"{replica}/containers/{{}}/logstream"
        router.add("GET", "group", stream, self.console, (), has_own_auth=True)
        router.add("GET", "group", f"{plain}/eventstream", self.events, (), has_own_auth=True)

    async def list_secrets(self, call: Call) -> Answer:
        """Answer `containerapp secret list --show-values` and `secret show`."""
        return Answer(200, listed_secrets(self._app(call)))

    async def auth_token(self, call: Call) -> Answer:
        """Answer with a token for the app's log streams, and for nothing else."""
        app = self._app(call)
        token, expires = self._tokens.issue(app.id.lower(), {"iss": "AzureContainerApps"})
        body = {
            "id": app.id,
            "name": app.name,
            "type": "Microsoft.App/containerApps/accesstoken",
            "location": DISPLAY_NAMES[app.location or ""],
            "properties": {"token": token, "expires": expires.isoformat()},
        }
        return Answer(200, body)

    async def start(self, call: Call) -> Answer:
        """Answer `containerapp start` (of the API): run the active revisions again."""
        app = self._app(call)

        async def begin() -> None:
            noted = app.with_private(stopped=False)
            self._resources.save(noted)
            await self._revisions.restore(noted)

        return self._accepted(call, self._resources.run(app, begin()))

    async def stop(self, call: Call) -> Answer:
        """Answer `containerapp stop` (of the API): stop the replicas, keep everything else."""
        app = self._app(call)

        async def end() -> None:
            noted = app.with_private(stopped=True)
            self._resources.save(noted)
            await self._revisions.stop_all(noted)

        return self._accepted(call, self._resources.run(app, end()))

    async def list_revisions(self, call: Call) -> Answer:
        """Answer `containerapp revision list`."""
        app = self._app(call)
        return Answer(200, {"value": [self._revision(app, found) for found in self._revisions.of(app)]})

    async def show_revision(self, call: Call) -> Answer:
        """Answer `containerapp revision show`."""
        app = self._app(call)
        return Answer(200, self._revision(app, self._revisions.get(app, call.path.names[1])))

    async def restart(self, call: Call) -> Answer:
        """Answer `containerapp revision restart`: at once, while the replicas are being replaced."""
        await self._revisions.restart(self._app(call), call.path.names[1])
        return Answer(200, "Restart succeeded")

    async def activate(self, call: Call) -> Answer:
        """Answer `containerapp revision activate`."""
        await self._revisions.activate(self._app(call), call.path.names[1])
        return Answer(200, "Activate succeeded")

    async def deactivate(self, call: Call) -> Answer:
        """Answer `containerapp revision deactivate`."""
        self._revisions.deactivate(self._app(call), call.path.names[1])
        return Answer(200, "Deactivate succeeded")

    async def list_replicas(self, call: Call) -> Answer:
        """Answer `containerapp replica list`."""
        app = self._app(call)
        revision = self._revisions.get(app, call.path.names[1])
        return Answer(200, {"value": [self._replica(app, found) for found in self._replicas_of(revision)]})

    async def show_replica(self, call: Call) -> Answer:
        """Answer `containerapp replica show`."""
        app = self._app(call)
        revision = self._revisions.get(app, call.path.names[1])
        return Answer(200, self._replica(app, self._find_replica(revision, call.path.names[2])))

    async def console(self, call: Call) -> Answer:
        """Answer `containerapp logs show`: the last lines of a replica's console, and those to come."""
        app = self._stream_app(call)
        revision, replica, container = call.path.names[1:]
        found = self._revisions.get(app, revision)
        if found["template"]["containers"][0]["name"] != container:
            message = f"The container '{container}' of replica '{replica}' was not found."
            raise AzureError(404, "ContainerNotFound", message)
        tail, follow = _tail(call), _is_set(call, "follow")
        try:
            records = self._host.console_log(found["name"], replica, tail=tail, follow=follow)
        except KeyError:
            raise _no_replica(replica, revision) from None
        welcome = (
            f"Connecting to the container '{container}'...",
            (
                f"Successfully Connected to container: '{container}' "
                f"[Revision: '{revision}', Replica: '{replica}']"
            ),
        )

        async def lines() -> AsyncGenerator[bytes, None]:
            for text in welcome:
                now = utc_now().replace(tzinfo=None).isoformat()
                yield _line(call, {"TimeStamp": now, "Log": text})
            async for record in records:
                yield _line(call, record.to_json())

        return Answer(200, stream=lines())

    async def events(self, call: Call) -> Answer:
        """Answer `containerapp logs show --type system`: the app's last events, and those to come."""
        app = self._stream_app(call)
        records = self._host.system_log(app.name, tail=_tail(call), follow=_is_set(call, "follow"))

        async def lines() -> AsyncGenerator[bytes, None]:
            async for record in records:
                yield _line(call, record.to_json())

        return Answer(200, stream=lines())

    def _app(self, call: Call) -> Resource:
        names = call.path.names[:1]
        return self._resources.get(resource_id(call.path.subscription or "", call.group, APPS, names))

    def _stream_app(self, call: Call) -> Resource:
        app = self._app(call)
        self._tokens.verify(call.token, app.id.lower())
        return app

    def _accepted(self, call: Call, operation: Operation) -> Answer:
        app = self._app(call)
        operation.result = lambda: Answer(200, self._resources.shown(self._app(call)))
        where = f"{call.base_url}/subscriptions/{call.path.subscription}/providers/Microsoft.App/locations"
        location = f"{where}/{app.location}/containerappOperationResults/{operation.id}"
        headers = RETRY_AFTER | {"Location": f"{location}?api-version={call.api_version}"}
        return Answer(202, None, headers)

    def _revision(self, app: Resource, revision: Json) -> Json:
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
        raise _no_replica(name, revision["name"])

    def _replica(self, app: Resource, replica: ReplicaStatus) -> Json:
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


def listed_secrets(app: Resource) -> Json:
    """Return what `listSecrets` answers for an app."""
    values = app.private["secrets"]
    return {"value": [{"name": name, "value": value} for name, value in values.items()]}


def _stream_path(app: Resource) -> str:
    """Return the path of an app's streams, which names no provider."""
    return app.id.replace("/providers/Microsoft.App/containerapps/", "/containerApps/")


def _tail(call: Call) -> int:
    text = call.query.get("taillines", "20")
    if not text.isdigit() or int(text) > _MOST_LINES:
        message = f"tailLines must be a number from 0 to {_MOST_LINES}, not '{text}'."
        raise AzureError(400, "InvalidRequestParameter", message)
    return int(text)


def _is_set(call: Call, name: str) -> bool:
    return call.query.get(name, "false").lower() == "true"


def _line(call: Call, record: Json) -> bytes:
    if call.query.get("output", "json") == "json":
        return json.dumps(record).encode() + b"\n"
    text = record.get("Log", record.get("Msg", ""))
    return f"{record['TimeStamp']} {text}\n".encode()


def _no_replica(replica: str, revision: str) -> AzureError:
    message = f"The replica '{replica}' of revision '{revision}' was not found."
    return AzureError(404, "ReplicaNotFound", message)

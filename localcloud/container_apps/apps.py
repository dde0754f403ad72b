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

import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup
from localcloud.container_apps.defaults import secret_values, with_defaults
from localcloud.container_apps.references import environment_id, find_profile
from localcloud.container_apps.resource_types import APPS, VERSIONS
from localcloud.container_apps.rules.apps import check_app
from localcloud.container_apps.schema import canonical
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.operations import Operation, Operations
    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.container_apps.revisions import Revisions
    from localcloud.runtime import ContainerHost

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

    def check(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> None:
        """Refuse what Azure refuses, and what is not emulated."""
        name = change.path.name
        check_app(name, change.body, before, lookup)
        if before is None and any(app.name == name for app in lookup.of_type(APPS)):
            raise not_emulated(f"a second container app with the name '{name}', in another resource group")

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the app with Azure's defaults; the values of its secrets are kept out of sight."""
        kept = before.private if before else {}
        environment = lookup.find(environment_id(change.properties))
        profile = change.properties.get("workloadProfileName")
        if environment is not None:
            profile, _ = find_profile(environment, profile)
        after = self.skeleton(change, before)
        # The provider itself writes this one word of the id in lower case.
        after = replace(after, id=after.id.replace("/containerApps/", "/containerapps/"))
        values = secret_values(change.properties, kept.get("secrets", {}))
        properties = with_defaults(change.properties, profile)
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


def listed_secrets(app: Resource) -> Json:
    """Return what `listSecrets` answers for an app."""
    values = app.private["secrets"]
    return {"value": [{"name": name, "value": value} for name, value in values.items()]}


def _stream_path(app: Resource) -> str:
    """Return the path of an app's streams, which names no provider."""
    return app.id.replace("/providers/Microsoft.App/containerapps/", "/containerApps/")

"""Emulate Microsoft.App/containerApps: apps, their secrets, revisions, replicas and log streams.

An app runs as processes of this machine (`localcloud.runtime`). Its address is plain HTTP on a port of
127.0.0.1, which is its `ingress.fqdn` and stays the same until the app is deleted.

Not emulated: images (the command runs with this machine's programs), registries (stored, not used), ingress
over TLS, `external: false` (every app is reachable from this machine and from nowhere else),
`allowInsecure: false` (the ingress is always plain HTTP), auth configurations, source controls,
custom domains (stored and shown, not bound), tokens of managed identities, and everything that `rules`
rejects as such. An operation ends when the replicas are created, not when they are ready: on Azure, too, only
the revision's state and its responses show that. Of two apps with the same name in two groups the second is
rejected: the runtime knows apps by name.
Real bodies of restart, activate and deactivate, and the codes for a revision that is not there or not
active, were not found in public material. A change that fails is rolled back; what Azure shows then is not
known.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01; the Azure CLI's source and recorded tests.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup
from localcloud.container_apps.defaults import secret_values, with_defaults
from localcloud.container_apps.identities import identity_errors, shown_identity
from localcloud.container_apps.quotas import Limit, app_quota_errors
from localcloud.container_apps.references import environment_id, profile_name
from localcloud.container_apps.resource_types import APPS, VERSIONS
from localcloud.container_apps.revision_spec import ingress_policy
from localcloud.container_apps.rules.apps import app_errors
from localcloud.container_apps.schema import schema_error
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localcloud.arm.operations import Operation, Operations
    from localcloud.arm.requests import Json
    from localcloud.arm.resources import Resources
    from localcloud.container_apps.revisions import Revisions
    from localcloud.runtime import ContainerHost
    from localcloud.specifications import Violation

LOGGER: Final = logging.getLogger(__name__)


class AppKind(ResourceKind):
    """A container app."""

    type: ClassVar[str] = APPS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    is_asynchronous: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the local cloud that an app uses
        self,
        resources: Resources,
        operations: Operations,
        host: ContainerHost,
        revisions: Revisions,
        base_url: Callable[[], str],
        limit: Limit,
        tenant_id: str,
    ) -> None:
        self._resources = resources
        self._operations = operations
        self._host = host
        self._revisions = revisions
        self._base_url = base_url
        self._limit = limit
        self._tenant_id = tenant_id

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.App's error for a value that the specification rules out."""
        return schema_error("app", change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield what Azure rejects, and what is not emulated."""
        name = change.path.name
        errors = list(app_errors(name, change.body, before, lookup))
        errors += identity_errors(change.body.get("identity") or {})
        if before is None and any(app.name == name for app in lookup.of_type(APPS)):
            errors.append(
                not_emulated(f"a second container app with the name '{name}', in another resource group")
            )
        errors += self._traffic_errors(change.properties, before)
        yield from errors
        environment = lookup.find(environment_id(change.properties))
        if not errors and environment is not None:
            after = self.build(change, before, lookup)
            yield from app_quota_errors(after, environment, lookup, self._limit)

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the app with Azure's defaults; the values of its secrets are private."""
        stored = before.private if before else {}
        profile = profile_name(change.properties, lookup)
        after = self.skeleton(change, before)
        identity = shown_identity(after.id, change.body.get("identity"), self._tenant_id)
        after = replace(after, top=after.top | {"identity": identity})
        # Microsoft.App itself writes this word of the id in lower case.
        after = replace(after, id=after.id.replace("/containerApps/", "/containerapps/"))
        values = secret_values(change.properties, stored.get("secrets", {}))
        properties = with_defaults(change.properties, profile)
        return replace(after, properties=properties, private={**stored, "secrets": values})

    def _traffic_errors(self, properties: Json, before: Resource | None) -> Iterator[AzureError]:
        """Yield traffic to revisions that do not exist; the code is plausible, not quoted."""
        ingress = (properties.get("configuration") or {}).get("ingress") or {}
        names = [entry.get("revisionName") for entry in ingress.get("traffic") or ()]
        known = {revision["name"] for revision in self._revisions.of(before)} if before else set()
        for name in names:
            if name and name not in known:
                yield bad_request("RevisionNotFound", f"The revision '{name}' of the traffic was not found.")

    def show(self, resource: Resource) -> Json:
        """Return the properties with those that Azure computes."""
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
        """Return the region's display name, as Microsoft.App does."""
        return DISPLAY_NAMES[resource.location or ""]

    async def apply(self, resource: Resource, before: Resource | None) -> None:
        """Open the ingress, create a revision if the template is new, and direct the traffic."""
        try:
            app = await self.listen(resource)
            await self._revisions.update(app)
        except BaseException:
            self._resources.update_private(resource, provisioning_state="Failed")
            if before is not None:
                self._roll_back(before)
            raise
        self._resources.update_private(resource, provisioning_state="Succeeded")

    async def remove(self, resource: Resource) -> None:
        """Stop the app and delete its revisions."""
        self._revisions.delete_all(resource)
        await self._host.remove_app(resource.name)

    def busy(self, resource: Resource, operation: Operation) -> AzureError:
        """Return Microsoft.App's error of a change while `operation` runs."""
        message = (
            f"Cannot modify a container app '{resource.name}' because there is an active provisioning "
            f"operation in progress. OperationId: '{operation.id}'"
        )
        return AzureError(409, "ContainerAppOperationInProgress", message)

    async def listen(self, app: Resource) -> Resource:
        """Open the app's ingress on the port that it had; close it if the app has no ingress any more."""
        port = app.private.get("port")
        if app.properties["configuration"]["ingress"] is None:
            if port is not None:
                await self._host.stop_app_ingress(app.name)
            return self._resources.update_private(app, port=None)
        try:
            chosen = await self._host.start_app(app.name, port)
        except OSError:
            LOGGER.warning("port %s of app %s is taken: another one is chosen", port, app.name)
            chosen = await self._host.start_app(app.name, None)
        self._host.set_ingress_policy(app.name, ingress_policy(app.properties["configuration"]["ingress"]))
        return self._resources.update_private(app, port=chosen)

    async def restore(self) -> None:
        """Start all apps again, as after a restart of the daemon."""
        for app in self._resources.of_type(APPS):
            updated = self._resources.update_private(
                app, provisioning_state=app.private.get("provisioning_state", "Failed")
            )
            try:
                await self._revisions.restore(await self.listen(updated))
            except (AzureError, OSError, KeyError):
                # An app that cannot start must not keep the others from starting.
                LOGGER.exception("app %s could not be started again", app.name)
                self._resources.update_private(app, provisioning_state="Failed")

    def _roll_back(self, before: Resource) -> None:
        """Store an app as it was, so that a failed change does not make every later one fail."""
        updated = self._resources.update_private(before, secrets=before.private["secrets"])
        self._resources.save(replace(updated, properties=before.properties))


def listed_secrets(app: Resource) -> Json:
    """Return the result of `listSecrets` for an app."""
    values = app.private["secrets"]
    return {"value": [{"name": name, "value": value} for name, value in values.items()]}


def _stream_path(app: Resource) -> str:
    """Return the path of an app's streams, which has no provider."""
    return app.id.replace("/providers/Microsoft.App/containerapps/", "/containerApps/")

"""The revisions of container apps: create them, direct the traffic to one, deactivate the others.

A revision is a named template that `localcloud.runtime` runs. In single mode a new revision receives the
traffic when it is ready, and the previous one is then deactivated. Azure keeps the old one running for about
half a minute; the local cloud stops it at once (the runtime still drains it).

Not emulated: traffic split between revisions, labels, scaling by load (an app runs as many replicas as
`minReplicas`; with none, one that stops after `cooldownPeriod` without requests and starts with the next).
In single mode a second revision can be activated by hand; it receives no traffic. What Azure does then was
not found.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import string
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from localcloud.clock import utc_now
from localcloud.container_apps.defaults import same_template
from localcloud.container_apps.references import default_domain
from localcloud.container_apps.revision_spec import RevisionAddress, revision_spec
from localcloud.errors import AzureError
from localcloud.runtime import RevisionNotActiveError, RevisionSpec

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.store import Store
    from localcloud.container_apps.volumes import Volumes
    from localcloud.runtime import ContainerHost

_KIND: Final = "revision"
_SUFFIX_LENGTH: Final = 7
LOGGER: Final = logging.getLogger(__name__)


class Revisions:
    """The revisions of every app."""

    def __init__(
        self,
        store: Store,
        resources: Resources,
        host: ContainerHost,
        volumes: Volumes,
    ) -> None:
        self._store = store
        self._resources = resources
        self._host = host
        self._volumes = volumes
        self._rollouts: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, app: Resource) -> list[Json]:
        """Return the revisions of an app, oldest first."""
        return self._store.under(_KIND, f"{app.id}/revisions/")

    def get(self, app: Resource, name: str) -> Json:
        """Return a revision.

        Raises:
            AzureError: 404 `RevisionNotFound`.
        """
        found = self._store.get(_KIND, _key(app, name))
        if found is None:
            message = f"The revision '{name}' of container app '{app.name}' was not found."
            raise AzureError(404, "RevisionNotFound", message)
        return found

    async def update(self, app: Resource) -> None:
        """Apply a changed app: create a revision if its template is new, refresh the active ones if not.

        Raises:
            AzureError: 400 `ContainerAppOperationError` for a suffix that is in use.
        """
        latest = self._latest(app)
        if latest is None or not same_template(latest["template"], app.properties["template"]):
            await self._add(app)
        else:
            await self._refresh(app)

    async def restore(self, app: Resource) -> None:
        """Run an app's active revisions again, as after a restart of the daemon."""
        await self._refresh(app)
        latest, ready = app.private.get("latest_revision"), app.private.get("latest_ready_revision")
        if latest is not None and latest != ready and not app.private.get("stopped"):
            self._roll_out(app, latest)

    async def restart(self, app: Resource, name: str) -> None:
        """Replace a revision's replicas; the new ones have the present secrets.

        Raises:
            AzureError: 400 `RevisionNotActive` for a revision that does not run.
        """
        revision = self.get(app, name)
        if not revision["active"] or app.private.get("stopped"):
            message = f"The revision '{name}' is not active and cannot be restarted. Activate it first."
            raise AzureError(400, "RevisionNotActive", message)
        await self._host.run(self.spec(app, revision))
        await self._host.restart(revision["name"])

    async def activate(self, app: Resource, name: str) -> None:
        """Run a revision again."""
        revision = self.get(app, name)
        self._save(app, revision | {"active": True})
        await self._host.run(self.spec(app, revision))
        if app.private.get("latest_revision") == revision["name"]:
            self._roll_out(app, revision["name"])

    def deactivate(self, app: Resource, name: str) -> None:
        """Stop a revision, in the background."""
        revision = self.get(app, name)
        now = utc_now().isoformat()
        self._save(app, revision | {"active": False, "lastActiveTime": now})
        self._start(self._host.stop(revision["name"]))

    async def stop_all(self, app: Resource) -> None:
        """Stop the replicas of all revisions of an app; the revisions stay active."""
        self._cancel_rollout(app)
        for revision in self._active(app):
            await self._host.stop(revision["name"])

    def delete_all(self, app: Resource) -> None:
        """Delete the records of an app's revisions."""
        self._cancel_rollout(app)
        for revision in self.of(app):
            self._store.delete(_KIND, _key(app, revision["name"]))

    async def close(self) -> None:
        """Cancel the background work; the host stops the replicas."""
        tasks = [*self._rollouts.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spec(self, app: Resource, revision: Json) -> RevisionSpec:
        """Return what the runtime runs for a revision, with the app's present secrets and shares."""
        environment = self._resources.get(app.properties["environmentId"])
        ingress = app.properties["configuration"]["ingress"]
        address = RevisionAddress(
            app.name, revision["name"], f"127.0.0.1:{app.private.get('port')}", default_domain(environment)
        )

        target_port = None if ingress is None else ingress["targetPort"]
        volume = self._volumes.of(environment)
        return revision_spec(address, revision["template"], target_port, app.private["secrets"], volume)

    async def _add(self, app: Resource) -> None:
        number = app.private.get("revision_count", 0)
        template = app.properties["template"]
        name = f"{app.name}--{template['revisionSuffix'] or _new_suffix(number)}"
        if self._store.get(_KIND, _key(app, name)) is not None:
            detail = "The following field(s) are either invalid or missing."
            where = "Field 'template.revisionsuffix' is invalid with details"
            message = (
                f"Failed to provision revision for container app '{app.name}'. Error details: {detail} "
                f'{where}: \'Invalid value: "{template["revisionSuffix"]}": '
                f"revision with suffix {template['revisionSuffix']} already exists.'"
            )
            raise AzureError(400, "ContainerAppOperationError", message)
        revision = {
            "name": name,
            "created": utc_now().isoformat(),
            "template": template,
            "active": True,
            "lastActiveTime": None,
        }
        self._save(app, revision)
        app = self._resources.update_private(app, revision_count=number + 1, latest_revision=name)
        await self._host.emit(app.name, name, "RevisionUpdate", f"Updating revision: {name}")
        if app.private.get("stopped"):
            return
        await self._host.run(self.spec(app, revision))
        if number == 0:
            await self._host.serve(app.name, name)
        self._roll_out(app, name)

    async def _refresh(self, app: Resource) -> None:
        """Pass changes outside of the template to the runtime: secrets, the target port."""
        if app.private.get("stopped"):
            return
        for revision in self._active(app):
            await self._host.run(self.spec(app, revision))
        target = self._traffic_target(app)
        if target is not None:
            await self._host.serve(app.name, target)

    def _roll_out(self, app: Resource, name: str) -> None:
        self._cancel_rollout(app)
        rollout = asyncio.create_task(self._promote(app, name))
        rollout.add_done_callback(self._finish)
        self._rollouts[app.id.lower()] = rollout

    async def _promote(self, app: Resource, name: str) -> None:
        with suppress(RevisionNotActiveError):
            await self._host.wait_ready(name)
            app = self._resources.update_private(app, latest_ready_revision=name)
            target = self._traffic_target(app)
            if target is not None:
                await self._host.serve(app.name, target)
            if app.properties["configuration"]["activeRevisionsMode"] == "Single":
                self._deactivate_others(app, name)

    def _deactivate_others(self, app: Resource, name: str) -> None:
        for revision in self._active(app):
            if revision["name"] != name:
                self.deactivate(app, revision["name"])
        inactive = [revision for revision in self.of(app) if not revision["active"]]
        kept = app.properties["configuration"]["maxInactiveRevisions"]
        for revision in inactive[: max(0, len(inactive) - kept)]:
            self._store.delete(_KIND, _key(app, revision["name"]))

    def _traffic_target(self, app: Resource) -> str | None:
        """Return the revision that receives the traffic: the latest ready one, unless the app names one."""
        ingress = app.properties["configuration"]["ingress"]
        for entry in ingress["traffic"] if ingress else ():
            if entry["weight"] and entry.get("revisionName"):
                return str(entry["revisionName"])
        latest = app.private.get("latest_ready_revision") or app.private.get("latest_revision")
        return None if latest is None else str(latest)

    def traffic_weight(self, app: Resource, name: str) -> int:
        """Return a revision's share of the traffic, in percent."""
        has_ingress = app.properties["configuration"]["ingress"] is not None
        return 100 if has_ingress and self._traffic_target(app) == name else 0

    def _latest(self, app: Resource) -> Json | None:
        name = app.private.get("latest_revision")
        return None if name is None else self._store.get(_KIND, _key(app, name))

    def _active(self, app: Resource) -> list[Json]:
        return [revision for revision in self.of(app) if revision["active"]]

    def _save(self, app: Resource, revision: Json) -> None:
        self._store.put(_KIND, _key(app, revision["name"]), revision)

    def _cancel_rollout(self, app: Resource) -> None:
        rollout = self._rollouts.pop(app.id.lower(), None)
        if rollout is not None:
            rollout.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOGGER.error("a revision's background work failed", exc_info=task.exception())


def _key(app: Resource, name: str) -> str:
    return f"{app.id}/revisions/{name}"


def _new_suffix(number: int) -> str:
    """Return a suffix as Azure does: a random one for the first revision, then a counter."""
    if number:
        return f"{number:0{_SUFFIX_LENGTH}}"
    alphabet = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(_SUFFIX_LENGTH))

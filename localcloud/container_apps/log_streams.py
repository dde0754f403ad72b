"""The log streams of container apps: a replica's console, and an app's events.

Streams accept an app's own token only, see `getAuthToken`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.clock import utc_now
from localcloud.container_apps.app_operations import replica_not_found
from localcloud.container_apps.resource_types import APPS
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from localcloud.arm.identity import Tokens
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.container_apps.revisions import Revisions
    from localcloud.runtime import ConsoleRecord, ContainerHost, SystemRecord

_MAX_LINES: Final = 300


class LogStreams:
    """The operations that stream logs."""

    def __init__(
        self, resources: Resources, host: ContainerHost, revisions: Revisions, tokens: Tokens
    ) -> None:
        self._resources = resources
        self._host = host
        self._revisions = revisions
        self._tokens = tokens

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        # Their paths have no provider, and `parse_path` takes such paths for those of Resource Manager.
        plain = f"{APPS}/{{}}".replace("Microsoft.App", "Microsoft.Resources")
        replica = f"{plain}/revisions/{{}}/replicas/{{}}"
        stream = f"{replica}/containers/{{}}/logstream"
        router.add("GET", "group", stream, self.console, (), has_own_auth=True)
        router.add("GET", "group", f"{plain}/eventstream", self.events, (), has_own_auth=True)

    async def console(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp logs show`: a replica's last console lines, with `follow` new ones too."""
        app = self._app(request)
        revision, replica, container = request.path.names[1:]
        found = self._revisions.get(app, revision)
        if found["template"]["containers"][0]["name"] != container:
            message = f"The container '{container}' of replica '{replica}' was not found."
            raise AzureError(404, "ContainerNotFound", message)
        tail, follow = tail_lines(request), is_followed(request)
        try:
            records = self._host.console_log(found["name"], replica, tail=tail, follow=follow)
        except KeyError:
            raise replica_not_found(replica, revision) from None
        welcome = (
            f"Connecting to the container '{container}'...",
            (
                f"Successfully Connected to container: '{container}' "
                f"[Revision: '{revision}', Replica: '{replica}']"
            ),
        )
        return ArmResponse(200, stream=stream_lines(request, welcome, records))

    async def events(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp logs show --type system`: an app's last events, with `follow` new ones too."""
        app = self._app(request)
        records = self._host.system_log(app.name, tail=tail_lines(request), follow=is_followed(request))
        return ArmResponse(200, stream=stream_lines(request, (), records))

    def _app(self, request: ArmRequest) -> Resource:
        names = request.path.names[:1]
        identifier = resource_id(request.path.subscription or "", request.group, APPS, names)
        app = self._resources.get(identifier)
        self._tokens.verify(request.token, app.id.lower())
        return app


async def stream_lines(
    request: ArmRequest,
    welcome: Iterable[str],
    records: AsyncIterator[ConsoleRecord] | AsyncIterator[SystemRecord],
) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a log stream: those that greet the client, then the records."""
    for text in welcome:
        now = utc_now().replace(tzinfo=None).isoformat()
        yield _line(request, {"TimeStamp": now, "Log": text})
    async for record in records:
        yield _line(request, record.to_json())


def tail_lines(request: ArmRequest) -> int:
    """Return how many of the last lines a request asks for.

    Raises:
        AzureError: 400 `InvalidRequestParameter`.
    """
    text = request.query.get("taillines", "20")
    if not text.isdigit() or int(text) > _MAX_LINES:
        message = f"tailLines must be a number from 0 to {_MAX_LINES}, not '{text}'."
        raise AzureError(400, "InvalidRequestParameter", message)
    return int(text)


def is_followed(request: ArmRequest) -> bool:
    """Return whether a request asks for new lines too, as they come."""
    return request.query.get("follow", "false").lower() == "true"


def _line(request: ArmRequest, record: Json) -> bytes:
    if request.query.get("output", "json") == "json":
        return json.dumps(record).encode() + b"\n"
    text = record.get("Log", record.get("Msg", ""))
    return f"{record['TimeStamp']} {text}\n".encode()

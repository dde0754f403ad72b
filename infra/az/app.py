"""Access a stage's container app: its revisions and replicas through az, its `/version` over HTTP.

Only `restart` and `activate` change anything. `infra.az.revision` interprets the results.
"""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from infra.az.commands import (
    Group,
    app_show,
    replica_list,
    revision_activate,
    revision_list,
    revision_restart,
    revision_show,
)
from infra.az.errors import AzureRejectedError
from infra.az.revision import (
    FailedAdapter,
    NoResponse,
    Replica,
    Revision,
    ServedVersion,
    Snapshot,
    VersionResponse,
)
from infra.concurrency import DaemonExecutor
from infra.document import load_json
from infra.errors import FjarrError, RemoteError
from infra.network import FAILURES, Unreachable, explain_failure, explain_status, open_url, read_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from infra.az.client import Az
    from infra.clock import Clock
    from infra.document import Json
    from infra.process import Command

_ANSWER_TIMEOUT_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 16
_SHOWN_LINES: Final = 15
_WAITING: Final = b"nothing deployed yet"
"""How the page begins that the container's command shows until the first release. Source:
`infra/provision/inference.bicep`."""

_BLOCK_PAGE_BYTES: Final = 1 << 14
_STOPPED: Final = frozenset({"Stopped", "Suspended"})
_BUSY: Final = "ContainerAppOperationInProgress"
_BUSY_PAUSES_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0)


class App(Protocol):
    """One container app. Every method except `version` may raise a `FjarrError`."""

    def revision(self) -> tuple[Revision, bool]:
        """Return the newest active revision and True, or the latest revision and False if none is active."""

    def snapshot(self, revision: str) -> Snapshot:
        """Return the current state of a revision and its replicas."""

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        """Return the replicas of a revision, with a single az command."""

    def restart(self, revision: str) -> None:
        """Request new replicas. Returns before anything has restarted."""

    def activate(self, revision: str) -> None:
        """Activate an inactive revision, which starts its replicas."""

    def version(self) -> VersionResponse | NoResponse:
        """Request `/version` from the app's address."""

    def console_tail(self, replica: str) -> tuple[str, ...]:
        """Return the last lines of a replica's console log."""

    def is_stopped(self) -> bool:
        """Return whether the app was stopped as a whole, as `pause` does."""

    def reports(self) -> tuple[VersionResponse, ...]:
        """Return what the replicas report from inside, where they can be asked; never waits for an answer."""
        return ()


@dataclass(frozen=True, slots=True)
class AzureApp(App):
    """A container app on Azure or on the embedded Azure.

    Attributes:
        tail: Reads the last lines of a replica's console log.
    """

    az: Az
    group: Group
    name: str
    endpoint_url: str
    clock: Clock
    tail: Callable[[str], tuple[str, ...]]

    def revision(self) -> tuple[Revision, bool]:
        """Return the newest active revision and True, or the latest revision and False if none is active."""
        listed = self.az.run(revision_list(self.group, self.name))
        active = [parse_revision(item) for item in listed] if isinstance(listed, list) else []
        if active:
            return max(active, key=lambda revision: revision.created), True
        shown = self.az.run(app_show(self.group, self.name))
        latest = _text(_properties(shown).get("latestRevisionName"))
        if not latest:
            what = f"the container app {self.name!r} has no revision"
            raise RemoteError(what, hint="invoke provision makes one")
        return parse_revision(self.az.run(revision_show(self.group, self.name, latest))), False

    def snapshot(self, revision: str) -> Snapshot:
        """Return the current state of a revision and its replicas."""
        with DaemonExecutor(1) as beside:  # an az command takes seconds, most of which is its own start
            shown_later = beside.submit(self.az.run, revision_show(self.group, self.name, revision))
            listed = self.az.run(replica_list(self.group, self.name, revision))
            shown = shown_later.result()
        replicas = tuple(parse_replica(item) for item in listed) if isinstance(listed, list) else ()
        return Snapshot(parse_revision(shown), replicas)

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        """Return the replicas of a revision, with a single az command."""
        listed = self.az.run(replica_list(self.group, self.name, revision))
        return tuple(parse_replica(item) for item in listed) if isinstance(listed, list) else ()

    def restart(self, revision: str) -> None:
        """Request new replicas. Retries while another operation is in progress."""
        self._retry_while_busy(revision_restart(self.group, self.name, revision))

    def activate(self, revision: str) -> None:
        """Activate an inactive revision, which starts its replicas."""
        self._retry_while_busy(revision_activate(self.group, self.name, revision))

    def version(self) -> VersionResponse | NoResponse:
        """Request `/version` from the app's address."""
        return fetch_version(self.endpoint_url)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        """Return the last lines of a replica's console log; none if the log cannot be read."""
        try:
            return self.tail(replica)[-_SHOWN_LINES:]
        except FjarrError:
            return ()  # the log explains another error, which a missing log must not hide

    def is_stopped(self) -> bool:
        """Return whether the app was stopped as a whole, as `pause` does."""
        shown = self.az.run(app_show(self.group, self.name))
        return isinstance(shown, dict) and is_stopped(shown)

    def _retry_while_busy(self, command: Command) -> None:
        for pause_s in _BUSY_PAUSES_S:
            try:
                self.az.run(command)
            except AzureRejectedError as error:
                if error.cause.code != _BUSY:
                    raise
            else:
                return
            self.clock.sleep(pause_s)
        self.az.run(command)


def fetch_version(endpoint_url: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> VersionResponse | NoResponse:
    """Request a server's `/version` once."""
    url = f"{endpoint_url}/version"
    try:
        with open_url(url, timeout_s=timeout_s, headers={"Connection": "close"}) as response:
            answer = parse_version(response.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        body = read_error(error, _BLOCK_PAGE_BYTES)
        is_waiting, blocked = body.startswith(_WAITING), explain_status(error.code, body)
        return NoResponse(f"HTTP {error.code}", is_waiting=is_waiting, unreachable=blocked)
    except FAILURES as error:
        reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        return NoResponse(reason, unreachable=explain_failure(url, error))
    if isinstance(answer, NoResponse):
        return replace(answer, unreachable=Unreachable("foreign", answer.reason))
    return answer


def parse_version(body: bytes) -> VersionResponse | NoResponse:
    """Parse a response of `/version`."""
    try:
        document = load_json(body)
    except ValueError:
        return NoResponse("/version does not answer with JSON")
    if not isinstance(document, dict):
        return NoResponse("/version does not answer with a JSON object")
    generation = document.get("adapter_generation")
    return VersionResponse(
        release=_text(document.get("release")),
        replica=_text(document.get("replica")),
        started=_text(document.get("container_started_at")) or _text(document.get("started_at")),
        is_ready=document.get("ready") is True,
        failed_adapters=parse_failed_adapters(document),
        adapters=_texts(document.get("adapters")),
        adapter_versions=tuple(parse_adapter_versions(document)),
        base_model=_text(document.get("base_model")),
        adapter_generation=generation if isinstance(generation, str) else None,
        server_started=_text(document.get("started_at")),
        revision=_text(document.get("revision")),
        wanted=wanted if isinstance(wanted := document.get("wanted_release"), str) else None,
        supervisor=_text(document.get("supervisor_release")),
        phase=_text(document.get("phase")),
        percent=percent if isinstance(percent := document.get("percent"), int) else 0,
        error=_text(document.get("last_error")),
    )


def parse_failed_adapters(document: Mapping[str, Json]) -> tuple[FailedAdapter, ...]:
    """Return the adapters that are not served, from the document of `/version`."""
    found = document.get("failed_adapters")
    entries = found if isinstance(found, list) else []
    return tuple(
        FailedAdapter(
            _text(entry.get("name")), _text(entry.get("reason")), entry.get("needs_restart") is True
        )
        for entry in entries
        if isinstance(entry, dict)
    )


def parse_adapter_versions(document: Mapping[str, Json]) -> Iterator[ServedVersion]:
    """Yield the versions of adapters that are served, from the document of `/version`."""
    found = document.get("adapter_versions")
    for entry in found if isinstance(found, list) else []:
        number = entry.get("version") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(number, int):
            yield ServedVersion(_text(entry.get("name")), number, _text(entry.get("digest")))


def parse_revision(document: Json) -> Revision:
    """Parse a revision as az shows it."""
    properties = _properties(document)
    return Revision(
        name=_text(document.get("name")) if isinstance(document, dict) else "",
        created=_text(properties.get("createdTime")),
        running_state=_text(properties.get("runningState")),
        health_state=_text(properties.get("healthState")),
        details=_text(properties.get("runningStateDetails")) or _text(properties.get("provisioningError")),
    )


def parse_replica(document: Json) -> Replica:
    """Parse a replica as az shows it, with its first container, which is its only one."""
    properties = _properties(document)
    containers = properties.get("containers")
    first = containers[0] if isinstance(containers, list) and containers else {}
    container: Mapping[str, Json] = first if isinstance(first, dict) else {}
    count = container.get("restartCount")
    return Replica(
        name=_text(document.get("name")) if isinstance(document, dict) else "",
        created=_time(_text(properties.get("createdTime"))),
        is_started=container.get("started") is True,
        is_ready=container.get("ready") is True,
        restart_count=count if isinstance(count, int) else 0,
        state=_text(container.get("runningState")),
        details=_text(container.get("runningStateDetails")) or _text(properties.get("runningStateDetails")),
    )


def is_stopped(app: Mapping[str, Json]) -> bool:
    """Return whether an app, as az shows it, was stopped as a whole."""
    return _properties(dict(app)).get("runningStatus") in _STOPPED


def _properties(document: Json) -> Mapping[str, Json]:
    properties = document.get("properties") if isinstance(document, dict) else None
    return properties if isinstance(properties, dict) else {}


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None

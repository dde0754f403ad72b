"""Show what a stage serves now.

Nothing is cached: revisions and replicas are queried from Azure, the release and the models from the server's
own `/version`. Where this machine cannot reach that, the replicas' reports on the share are shown.
"""

from __future__ import annotations

import urllib.error
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.app import is_stopped, parse_failed_adapters
from infra.az.commands import app_show, environment_list, replica_list, revision_list
from infra.clock import SystemClock
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object, as_objects, load_json
from infra.errors import FjarrError
from infra.network import FAILURES, explain_failure, explain_status, open_url, read_error
from infra.release.takeovers.inside import ReplicaReports
from infra.release.takeovers.reach import WAIT_S
from infra.resources.billing import Bill, app_bills, find_environment
from infra.resources.file_share import open_share

if TYPE_CHECKING:
    from infra.az.revision import VersionResponse
    from infra.clock import Clock
    from infra.config.endpoint import InferenceConfig
    from infra.network import Unreachable
    from infra.session import Session

_THREADS: Final = 4
_TIMEOUT_S: Final = 10.0
_STARTING: Final = frozenset({"Activating", "ActivationFailed", "Degraded", "Failed", "Processing"})
_MAX_BYTES: Final = 1 << 16
_MAX_ERROR_BYTES: Final = 1 << 14
_MAX_REASON_BYTES: Final = 200
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The state of one replica on Azure.

    Attributes:
        created: The time of its creation, in Azure's format.
        restarts: How often its container was restarted.
        state: Its running state on Azure, such as `Running`.
    """

    name: str
    created: str
    ready: bool
    restarts: int
    state: str


@dataclass(frozen=True, slots=True)
class InsideReport:
    """What a replica reports on the share.

    Attributes:
        ready: Whether each model has answered a request inside of the container.
        detail: What the replica is doing, or why it is not ready; empty if it is ready.
    """

    replica: str
    release: str
    ready: bool
    base_model: str
    adapters: tuple[str, ...]
    detail: str

    def to_text(self) -> str:
        """Return it in one line."""
        state = "ready" if self.ready else f"not ready: {self.detail}"
        models = ", ".join(name for name in (self.base_model, *self.adapters) if name)
        return f"{self.replica} serves {self.release or 'no release'}, {state}{models and f', with {models}'}"


@dataclass(frozen=True, slots=True)
class NoVersion:
    """Why there is no answer of `/version`.

    Attributes:
        unreachable: What kept this machine from the server; None if the server failed.
    """

    reason: str
    unreachable: Unreachable | None = None


_ASLEEP: Final = NoVersion("no replica runs while nobody asks: the next request starts one and waits for it")


@dataclass(frozen=True, slots=True)
class Status:
    """What a stage serves.

    Attributes:
        release: The release that the server runs; None while it does not respond.
        revision: The active revision; None if there is none.
        ready: Whether the server responds and reports that it is ready.
        detail: Why it is not ready, as far as known; empty if it is ready.
        failed_adapters: Why adapters are not served.
        paused: Whether the stage was paused.
        bills: What Azure bills; empty for a local stage, or if it is not known.
        unreachable: Why this machine cannot reach the endpoint, which says nothing about the server; empty if
            it can.
        inside: What the replicas report on the share, if the endpoint cannot be reached.
        last_error: Why a replica does not serve what the share names; empty if it does.
    """

    stage: str
    cloud: str
    endpoint: str
    resource_group: str
    app: str
    release: str | None
    version: str | None
    revision: str | None
    state: str
    replicas: tuple[ReplicaStatus, ...]
    ready: bool
    base_model: str | None
    adapters: tuple[str, ...]
    detail: str
    failed_adapters: tuple[str, ...] = ()
    paused: bool = False
    bills: tuple[Bill, ...] = ()
    unreachable: str = ""
    inside: tuple[InsideReport, ...] = ()
    last_error: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        ready = "ready" if self.ready else f"not ready: {self.detail}"
        if self.unreachable:
            ready = f"not reachable from here: {self.unreachable}"
        missing = "unknown" if self.unreachable else "none"
        rows = [
            ("stage", f"{self.stage} ({self.cloud})"),
            ("endpoint", self.endpoint),
            ("state", ready),
            ("release", self.release or missing),
            ("revision", f"{self.revision or 'none'}{f' ({self.state})' if self.state else ''}"),
            ("base model", self.base_model or "unknown"),
            ("adapters", ", ".join(self.adapters) or missing),
            *([("last error", self.last_error)] if self.last_error else []),
            *(("not served", reason) for reason in self.failed_adapters),
            *(("replica", _replica_text(replica)) for replica in self.replicas),
            *(("inside", report.to_text()) for report in self.inside),
            *(("billed", bill.to_text()) for bill in self.bills),
        ]
        return "\n".join(f"{name:<11} {value}" for name, value in rows)


def find_status(session: Session, clock: Clock | None = None) -> Status:
    """Query Azure and the server for what a stage serves.

    The replicas are asked on the share only if they run and this machine cannot reach the endpoint. An app
    that has scaled to zero stays asleep.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure rejected a request.
    """
    config, group = session.config(), session.group()
    if not session.is_connected:
        return stopped_status(session)
    with session.console.step(f"query {config.aca_app_name}"), DaemonExecutor(_THREADS) as pool:
        showing = pool.submit(session.az.run, app_show(group, config.aca_app_name))
        environments = pool.submit(_environments, session)
        revisions = pool.submit(session.az.run, revision_list(group, config.aca_app_name))
        listing = pool.submit(session.az.run, replica_list(group, config.aca_app_name))
        app, replicas = as_object(showing.result()), listing.result()
        # A request to an app that has scaled to zero would start a replica, which bills.
        is_asleep = _is_asleep(app, revisions.result(), replicas)
        answer = _ASLEEP if is_asleep else fetch_version(config.endpoint_url)
        response = answer.reason if isinstance(answer, NoVersion) else answer
        status = combine(session, revisions.result(), replicas, response)
        status = _with_power(status, app, environments.result(), config)
    blocked = answer.unreachable if isinstance(answer, NoVersion) else None
    if blocked is None or status.paused or not status.replicas:
        return status
    inside = _ask_inside(session, clock or SystemClock(), len(status.replicas))
    more = "" if inside else "; no replica reports on the share"
    return replace(status, unreachable=f"{blocked.reason}; {blocked.hint}{more}", inside=inside)


def _is_asleep(app: dict[str, Json], revisions: Json, replicas: Json) -> bool:
    """Return whether an app has scaled to zero: it runs no replica, needs none, and none is being started."""
    scale = as_object(as_object(app.get("properties")).get("template")).get("scale")
    may_sleep = isinstance(scale, dict) and not scale.get("minReplicas")
    state = as_object(_newest(revisions).get("properties")).get("runningState")
    return may_sleep and replicas == [] and state not in _STARTING and not is_stopped(app)


def _ask_inside(session: Session, clock: Clock, count: int) -> tuple[InsideReport, ...]:
    """Return the reports of the replicas on the share; empty if there are none, or it cannot be read."""
    with session.console.step("ask the replicas on the share"):
        try:
            with open_share(session, clock) as share:
                reports, end_s = ReplicaReports(share, clock), clock.elapsed_s() + WAIT_S
                while len(found := reports.read()) < count and clock.elapsed_s() < end_s:
                    clock.sleep(_POLL_S)
        except FjarrError as error:
            session.console.warn(f"the replicas' reports on the share cannot be read: {error.message}")
            return ()
    return tuple(map(_report, found))


def _report(answer: VersionResponse) -> InsideReport:
    detail = "" if answer.is_ready else answer.error or answer.phase or "the server is still starting"
    return InsideReport(
        answer.replica, answer.release, answer.is_ready, answer.base_model, answer.adapters, detail
    )


def _environments(session: Session) -> Json:
    """Return the environments of the group; None if they cannot be read, which must not end a status."""
    if session.stage.is_local:
        return None  # it costs nothing
    try:
        return session.az.run(environment_list(session.group()))
    except FjarrError:
        return None


def _with_power(status: Status, app: dict[str, Json], environments: Json, config: InferenceConfig) -> Status:
    """Return a status with whether the stage is paused, and what is billed."""
    is_paused = is_stopped(app)
    detail = f"paused; invoke resume --stage {status.stage} starts it" if is_paused else status.detail
    if status.cloud == "local":
        return replace(status, paused=is_paused, detail=detail)
    environment = find_environment(environments, app)
    bills = app_bills(app, environment, len(status.replicas), config.storage_account_name)
    return replace(status, paused=is_paused, detail=detail, bills=bills)


def combine(session: Session, revisions: Json, replicas: Json, version: dict[str, Json] | str) -> Status:
    """Return the status from az's lists and the response of `/version`, or the reason that there is none."""
    config = session.config()
    revision = _newest(revisions)
    properties = as_object(revision.get("properties"))
    answer = version if isinstance(version, dict) else {}
    adapters = answer.get("adapters")
    is_ready = answer.get("ready") is True
    details = version if isinstance(version, str) else "the server is still starting"
    return Status(
        stage=session.stage.name,
        cloud=session.stage.cloud,
        endpoint=config.endpoint_url,
        resource_group=config.resource_group_name,
        app=config.aca_app_name,
        release=_text(answer.get("release")),
        version=_text(answer.get("version")),
        revision=_text(answer.get("revision")) or _text(revision.get("name")),
        state=_text(properties.get("runningState")) or "",
        replicas=tuple(_replica(item) for item in replicas) if isinstance(replicas, list) else (),
        ready=is_ready,
        base_model=_text(answer.get("base_model")),
        adapters=tuple(str(name) for name in adapters) if isinstance(adapters, list) else (),
        detail="" if is_ready else _text(properties.get("runningStateDetails")) or details,
        failed_adapters=tuple(failed.reason for failed in parse_failed_adapters(answer)),
        last_error=_text(answer.get("last_error")) or "",
    )


def stopped_status(session: Session) -> Status:
    """Return the status of a stage whose local cloud does not run."""
    return combine(session, [], [], "the local cloud is stopped")


def fetch_version(endpoint_url: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Json] | NoVersion:
    """Ask a server's `/version`, and return the document or why there is none."""
    url = f"{endpoint_url}/version"
    try:
        with open_url(url, timeout_s=timeout_s) as response:
            document = load_json(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        body = read_error(error, _MAX_ERROR_BYTES)
        reason = f"the endpoint answers with HTTP {error.code}{_reason(error, body)}"
        return NoVersion(reason, explain_status(error.code, body))
    except FAILURES as error:
        reason = f"the endpoint does not answer: {getattr(error, 'reason', None) or error}"
        return NoVersion(reason, explain_failure(url, error))
    return document if isinstance(document, dict) else NoVersion("the endpoint is not a server of ours")


def _reason(error: urllib.error.HTTPError, body: bytes) -> str:
    """Return the reason in an error response: plain text, from an ingress and before the first deploy."""
    if not str(error.headers.get("Content-Type")).startswith("text/plain"):
        return ""
    first_line, *_ = body[:_MAX_REASON_BYTES].decode(errors="replace").strip().splitlines() or [""]
    return f": {first_line}" if first_line else ""


def _newest(revisions: Json) -> dict[str, Json]:
    listed = as_objects(revisions)
    created = [(str(as_object(item.get("properties")).get("createdTime")), item) for item in listed]
    return max(created, key=lambda pair: pair[0])[1] if created else {}


def _replica(item: Json) -> ReplicaStatus:
    document = as_object(item)
    properties = as_object(document.get("properties"))
    containers = properties.get("containers")
    container = as_object(containers[0]) if isinstance(containers, list) and containers else {}
    restarts = container.get("restartCount")
    return ReplicaStatus(
        name=str(document.get("name")),
        created=_text(properties.get("createdTime")) or "",
        ready=container.get("ready") is True,
        restarts=restarts if isinstance(restarts, int) else 0,
        state=_text(container.get("runningState")) or _text(properties.get("runningState")) or "",
    )


def _replica_text(replica: ReplicaStatus) -> str:
    ready = "ready" if replica.ready else "not ready"
    restarts = f", restarted {replica.restarts} times" if replica.restarts else ""
    return f"{replica.name} {replica.state} {ready}, since {replica.created}{restarts}"


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None

"""Show what a stage serves now.

Nothing is cached: revisions and replicas are queried from Azure, the release and the models from the server's
own `/version`.
"""

from __future__ import annotations

import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.app import is_stopped, parse_failed_adapters
from infra.az.commands import app_show, environment_list, replica_list, revision_list
from infra.document import Json, as_object, as_objects, load_json
from infra.errors import FjarrError
from infra.network import open_url
from infra.resources.billing import Bill, app_bills, find_environment

if TYPE_CHECKING:
    from infra.config.endpoint import InferenceConfig
    from infra.session import Session

_THREADS: Final = 5
_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 1 << 16
_MAX_REASON_BYTES: Final = 200


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

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        ready = "ready" if self.ready else f"not ready: {self.detail}"
        rows = [
            ("stage", f"{self.stage} ({self.cloud})"),
            ("endpoint", self.endpoint),
            ("state", ready),
            ("release", self.release or "none"),
            ("revision", f"{self.revision or 'none'}{f' ({self.state})' if self.state else ''}"),
            ("base model", self.base_model or "unknown"),
            ("adapters", ", ".join(self.adapters) or "none"),
            *(("not served", reason) for reason in self.failed_adapters),
            *(("replica", _replica_text(replica)) for replica in self.replicas),
            *(("billed", bill.to_text()) for bill in self.bills),
        ]
        return "\n".join(f"{name:<11} {value}" for name, value in rows)


def find_status(session: Session) -> Status:
    """Query Azure and the server for what a stage serves.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure rejected a request.
    """
    config, group = session.config(), session.group()
    if not session.is_connected:
        return stopped_status(session)
    with session.console.step(f"query {config.aca_app_name}"), ThreadPoolExecutor(_THREADS) as pool:
        app = pool.submit(session.az.run, app_show(group, config.aca_app_name))
        environments = pool.submit(_environments, session)
        revisions = pool.submit(session.az.run, revision_list(group, config.aca_app_name))
        replicas = pool.submit(session.az.run, replica_list(group, config.aca_app_name))
        version = pool.submit(fetch_version, config.endpoint_url)
        status = combine(session, revisions.result(), replicas.result(), version.result())
        return _with_power(status, as_object(app.result()), environments.result(), config)


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
    )


def stopped_status(session: Session) -> Status:
    """Return the status of a stage whose local cloud does not run."""
    return combine(session, [], [], "the local cloud is stopped")


def fetch_version(endpoint_url: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Json] | str:
    """Ask a server's `/version`. A text says why it did not answer."""
    try:
        with open_url(f"{endpoint_url}/version", timeout_s=timeout_s) as response:
            document = load_json(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return f"the endpoint answers with HTTP {error.code}{_reason(error)}"
    except (OSError, ValueError) as error:
        return f"the endpoint does not answer: {getattr(error, 'reason', None) or error}"
    return document if isinstance(document, dict) else "the endpoint is not a server of ours"


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the reason in an error response: plain text, from an ingress and before the first deploy."""
    if not str(error.headers.get("Content-Type")).startswith("text/plain"):
        return ""
    first_line, *_ = error.read(_MAX_REASON_BYTES).decode(errors="replace").strip().splitlines() or [""]
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

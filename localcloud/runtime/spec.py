"""The runtime's values: what to run, what was seen of it, and the limits that it runs under.

Nothing here does anything: no process, file, socket or clock is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

ProbeKind = Literal["Startup", "Liveness", "Readiness"]
ContainerState = Literal["Waiting", "Running", "Terminated"]
RevisionRunningState = Literal["Processing", "Running", "Degraded", "Failed", "Stopped"]
HealthState = Literal["Healthy", "Unhealthy", "None"]
EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask a container, now and then, whether it has started, lives, or can take requests.

    Times are in seconds and may be fractions, which Azure's are not: tests like to be quick.

    Attributes:
        kind: What the answer decides: restart while starting, restart while running, or traffic.
        path: The HTTP path to GET; None opens a TCP connection instead.
        port: The port of the container; the app's target port stands for the replica's own.
        initial_delay_s: How long after the container's start the first probe is sent.
        period_s: From the start of one probe to the start of the next.
        timeout_s: How long one probe may take.
        failure_threshold: How many failures in a row decide for "no".
        success_threshold: How many successes in a row decide for "yes".
        headers: Headers of the HTTP request.
    """

    kind: ProbeKind
    path: str | None
    port: int
    initial_delay_s: float = 0
    period_s: float = 10
    timeout_s: float = 1
    failure_threshold: int = 3
    success_threshold: int = 1
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """Describe one container: what runs, with which environment, mounts and probes.

    Attributes:
        name: The container's name in the template.
        image: Shown in events; the runtime pulls no image.
        command: The entry point; `/bin/bash` is this machine's bash.
        args: Further arguments.
        env: Names and values, secrets already resolved.
        probes: At most one of each kind; none means Azure's defaults where there is an ingress.
        mounts: The real directory, and the absolute mount path at which the container finds it.
    """

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    probes: tuple[Probe, ...] = ()
    mounts: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RevisionSpec:
    """Describe a revision of an app, and how many replicas of it should run.

    Attributes:
        app: The container app's name.
        revision: The revision's full name, such as `app--0000001`.
        container: Its one container.
        target_port: The ingress's target port; None for an app without ingress.
        replicas: How many replicas to keep running; 0 is allowed.
        grace_s: From SIGTERM to SIGKILL, in seconds.
        env_dns_suffix: The value of CONTAINER_APP_ENV_DNS_SUFFIX.
        hostname: The value of CONTAINER_APP_HOSTNAME.
    """

    app: str
    revision: str
    container: Container
    target_port: int | None
    replicas: int = 1
    grace_s: float = 30
    env_dns_suffix: str = ""
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Tell how a replica is, at one moment.

    Attributes:
        name: `{revision}-{10 hex}-{5}`.
        revision: The revision that it belongs to.
        container: The name of its container.
        created: When the replica was made; a restarted container keeps its replica and this time.
        ready: Whether the ingress may send it requests.
        started: Whether its startup probe has succeeded in this life of the container.
        restart_count: How often the container was started again.
        running_state: Of the container.
        details: A sentence for people: since when it runs, why it waits, how it ended.
        exit_code: How the container's last life ended, None before it did; 128 + n after signal n.
        port: The loopback port that this life of the container was given; None while it has none.
    """

    name: str
    revision: str
    container: str
    created: datetime
    ready: bool
    started: bool
    restart_count: int
    running_state: ContainerState
    details: str
    exit_code: int | None
    port: int | None


class RevisionState(NamedTuple):
    """Tell how a revision is, in Azure's words.

    `details` is a sentence for people, empty when there is nothing to say.
    """

    running_state: RevisionRunningState
    health_state: HealthState
    details: str


@dataclass(frozen=True, slots=True)
class ConsoleRecord:
    """Hold one line that a container wrote, and when (aware, UTC) it was read."""

    time: datetime
    text: str

    def to_json(self) -> dict[str, str]:
        """Lay it out as Azure's console log stream does (output=json)."""
        return {"TimeStamp": self.time.astimezone(UTC).isoformat(), "Log": self.text}

    @classmethod
    def from_json(cls, document: dict[str, str]) -> ConsoleRecord:
        """Read `to_json` back.

        Raises:
            KeyError: a field is missing.
            ValueError: the time is not one.
        """
        return cls(datetime.fromisoformat(document["TimeStamp"]), document["Log"])


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """Hold one event in the life of an app: what happened to which replica, and why.

    `reason` is one of Azure's words (ContainerStarted, ProbeFailed...), or ours where Azure has none.
    `count` is how often it has happened in a row.
    """

    time: datetime
    type: EventType
    app: str
    revision: str
    replica: str
    reason: str
    message: str
    count: int = 1
    source: str = "ContainerAppController"

    def to_json(self) -> dict[str, str | int]:
        """Lay it out as Azure's system event stream does (output=json).

        Source: `az containerapp logs show --type system`, as recorded in the Azure CLI's own tests.
        """
        return {
            "TimeStamp": self.time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
            "Type": self.type,
            "ContainerAppName": self.app,
            "RevisionName": self.revision,
            "ReplicaName": self.replica,
            "Msg": self.message,
            "Reason": self.reason,
            "EventSource": self.source,
            "Count": self.count,
        }


@dataclass(frozen=True, slots=True)
class BackOff:
    """Set how long a container that keeps ending waits before it is started again.

    Kubernetes waits 10 s, 20 s, ... up to 5 minutes, and forgets after 10 good minutes. People who mend a
    program on their own machine don't wait so long: ours starts at 1 s, and never waits more than 15 s.
    """

    first_s: float = 1
    factor: float = 2
    cap_s: float = 15
    forget_after_s: float = 60

    def delay_s(self, failures: int) -> float:
        """Say how long to wait after so many ends in a row (1 or more)."""
        # A float would overflow before a crash loop that runs for weeks does.
        exponent = min(failures - 1, 30)
        return min(self.cap_s, self.first_s * self.factor**exponent)

    def count(self, failures: int, ran_s: float) -> int:
        """Count one more end, of a life that lasted `ran_s`; a long good life forgives those before."""
        return 1 if ran_s >= self.forget_after_s else failures + 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Set the runtime's times and sizes; the defaults are the ones to use outside tests.

    Attributes:
        back_off: Between the lives of a container that keeps ending.
        request_limit_s: The ingress's limit of one request, Azure's 240 s.
        connect_timeout_s: How long the ingress tries to connect to a replica.
        drain_requests_s: How long a replica that was taken out of the ingress may take to finish (or at least
            accept) the requests that were already sent to it, before SIGTERM. About 30 s on Azure.
        inspect_starting_s: How often the listening sockets of a replica that is not ready are looked at.
        inspect_running_s: The same of one that is ready.
        kill_s: How long to insist on killing what is left of a container before giving up loudly.
        drain_output_s: How long to read on for the output of a container that has ended.
        log_bytes: A log file is rotated at this size; one older file is kept.
        kept_logs: So many ended replicas' logs are kept for each app.
    """

    back_off: BackOff = BackOff()
    request_limit_s: float = 240
    connect_timeout_s: float = 5
    drain_requests_s: float = 1
    inspect_starting_s: float = 1
    inspect_running_s: float = 15
    kill_s: float = 10
    drain_output_s: float = 1
    log_bytes: int = 4 * 1024 * 1024
    kept_logs: int = 20


class RevisionNotActiveError(LookupError):
    """Say that a revision that should be acted on is not running (Azure refuses to restart such a one)."""

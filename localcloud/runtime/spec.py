"""The runtime's values: what to run, its status and log records, and the runtime's limits.

Pure: no process, file, socket or clock is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

ProbeKind = Literal["Startup", "Liveness", "Readiness"]
ContainerState = Literal["Waiting", "Running", "Terminated"]
RevisionRunningState = Literal["Processing", "Running", "ScaledToZero", "Degraded", "Failed", "Stopped"]
ExecutionEnd = Literal["Succeeded", "Failed", "Stopped"]
HealthState = Literal["Healthy", "Unhealthy", "None"]
EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A startup, liveness or readiness probe.

    Times are in seconds. Unlike Azure's they may be fractions, which keeps tests quick.

    Attributes:
        kind: What the result decides: a restart while starting, a restart while running, or traffic.
        path: The HTTP path to GET; None opens a TCP connection instead.
        port: The port of the container; the app's target port is mapped to the replica's own port.
        initial_delay_s: From the container's start to the first probe.
        period_s: From the start of one probe to the start of the next.
        timeout_s: How long one probe may take.
        failure_threshold: How many failures in a row count as a failure.
        success_threshold: How many successes in a row count as a success.
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
    """A container: its command, environment, mounts and probes.

    Attributes:
        name: The container's name in the template.
        image: Shown in events; the runtime pulls no images.
        command: The entry point; `/bin/bash` runs this machine's bash.
        args: Further arguments.
        env: Names and values, secrets already resolved.
        probes: At most one of each kind; none means Azure's defaults where there is an ingress.
        mounts: Pairs of a directory of this machine and its absolute mount path in the container.
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
    """A revision of an app, and how many replicas of it to run.

    Attributes:
        app: The container app's name.
        revision: The revision's full name, such as `app--0000001`.
        container: Its one container.
        target_port: The ingress's target port; None for an app without ingress.
        replicas: How many replicas to keep running; 0 is allowed.
        idle_s: After how many seconds without requests all replicas are stopped, until the next request; None
            if they go on running.
        grace_s: From SIGTERM to SIGKILL, in seconds.
        env_dns_suffix: The value of CONTAINER_APP_ENV_DNS_SUFFIX.
        hostname: The value of CONTAINER_APP_HOSTNAME.
        runs_once: Whether it is an execution of a job, `app` its job, and a replica ends with its first run.
    """

    app: str
    revision: str
    container: Container
    target_port: int | None
    replicas: int = 1
    grace_s: float = 30
    env_dns_suffix: str = ""
    hostname: str = ""
    runs_once: bool = False
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """An execution of a job: what its replicas run, and when it has succeeded or failed.

    Attributes:
        job: The job's name.
        name: The execution's full name, such as `job-a1b2c3d`.
        container: The container of its replicas.
        parallelism: How many replicas run at a time, at most.
        completions: How many replicas must end with exit code 0.
        retry_limit: How many replicas may fail before the execution does.
        timeout_s: How long the execution may take, in seconds.
        env_dns_suffix: The value of CONTAINER_APP_ENV_DNS_SUFFIX.
    """

    job: str
    name: str
    container: Container
    parallelism: int
    completions: int
    retry_limit: int
    timeout_s: float
    env_dns_suffix: str = ""

    def replica_spec(self) -> RevisionSpec:
        """Return what each of its replicas runs."""
        return RevisionSpec(
            self.job,
            self.name,
            self.container,
            target_port=None,
            env_dns_suffix=self.env_dns_suffix,
            runs_once=True,
        )


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """The origins that may call an app from a browser, and what they may send and read."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    max_age_s: int | None = None
    allows_credentials: bool = False


@dataclass(frozen=True, slots=True)
class IngressPolicy:
    """What an app's ingress does beside forwarding requests.

    Attributes:
        networks: Address ranges in CIDR notation; none for no restriction.
        are_networks_allowed: Whether only callers in them are admitted, or all others.
        cors: The CORS policy, None without one.
        is_sticky: Whether the requests of a session go to one replica, by a cookie.
    """

    networks: tuple[str, ...] = ()
    are_networks_allowed: bool = True
    cors: CorsPolicy | None = None
    is_sticky: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of a replica at one moment.

    Attributes:
        name: `{revision}-{10 hex}-{5}`.
        revision: The revision that it belongs to.
        container: The name of its container.
        created: When the replica was created; a restart of its container does not change it.
        ready: Whether the ingress may send it requests.
        started: Whether the startup probe of the current run has succeeded.
        restart_count: How often the container was restarted.
        running_state: The container's state.
        details: A sentence for people: since when it runs, why it waits, how it ended.
        exit_code: The exit code of the last run, None before one has ended; 128 + n after signal n.
        port: The loopback port of the current run; None while it has none.
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
    """The state of a revision, in Azure's terms.

    `details` is a sentence for people; it may be empty.
    """

    running_state: RevisionRunningState
    health_state: HealthState
    details: str


@dataclass(frozen=True, slots=True)
class ConsoleRecord:
    """One line of a container's output, and when (aware, UTC) it was read."""

    time: datetime
    text: str

    def to_json(self) -> dict[str, str]:
        """Return the record in the format of Azure's console log stream (output=json)."""
        return {"TimeStamp": self.time.astimezone(UTC).isoformat(), "Log": self.text}

    @classmethod
    def from_json(cls, document: dict[str, str]) -> ConsoleRecord:
        """Return the record of a `to_json` document.

        Raises:
            KeyError: a field is missing.
            ValueError: the time is not one.
        """
        return cls(datetime.fromisoformat(document["TimeStamp"]), document["Log"])


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """One event of an app: what happened to which replica, and why.

    `reason` is one of Azure's (ContainerStarted, ProbeFailed...), or the runtime's own where Azure has none.
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
        """Return the record in the format of Azure's system event stream (output=json).

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
    """The delay before a container that keeps ending is started again.

    Kubernetes waits 10 s, 20 s, ... up to 5 minutes, and resets after 10 minutes without a failure. That is
    too slow for work on one's own machine: the default starts at 1 s, and never exceeds 15 s.
    """

    first_s: float = 1
    factor: float = 2
    cap_s: float = 15
    forget_after_s: float = 60

    def delay_s(self, failures: int) -> float:
        """Return the delay after a number of failures in a row (1 or more)."""
        # Otherwise the float overflows in a crash loop that runs for weeks.
        exponent = min(failures - 1, 30)
        return min(self.cap_s, self.first_s * self.factor**exponent)

    def count(self, failures: int, ran_s: float) -> int:
        """Return the number of failures after a run of `ran_s`; a long run resets it."""
        return 1 if ran_s >= self.forget_after_s else failures + 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The runtime's times and sizes; the defaults are the ones to use outside tests.

    Attributes:
        back_off: Between the runs of a container that keeps ending.
        request_limit_s: The ingress's limit for one request, 240 s on Azure.
        connect_timeout_s: How long the ingress tries to connect to a replica.
        drain_requests_s: How long a replica that was taken out of the ingress may take to finish (or at least
            accept) the requests that were already sent to it, before SIGTERM. About 30 s on Azure.
        inspect_starting_s: How often the listening sockets of a replica that is not ready are checked.
        inspect_running_s: The same for one that is ready.
        kill_s: How long to try to kill the processes of a container before reporting a failure.
        drain_output_s: How long to keep reading the output of a container that has ended.
        log_bytes: The size at which a log file is rotated; one older file is kept.
        kept_logs: How many logs of ended replicas are kept for each app.
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
    """An operation on a revision that is not running (Azure refuses to restart one)."""

"""Interpret the state of a revision and its replicas: values, and pure functions over them.

`crash_reason` tells that a new release certainly fails, `phase` describes the progress of a restart, and
`why_not_up` gives the most likely reason when the time limit is exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from infra.network import Unreachable

CRASHES: Final = 2
"""How often a new replica's container must end to count as failed; a single end may be an accident."""

FAILING_S: Final = 60.0
"""How long a revision must be reported as failed to count as failed: at first the old state is reported."""

_PORT_HINT: Final = "the server must listen on the port that the ingress expects: leave FJARR_PORT unset"
_CAPACITY_HINT: Final = (
    "no GPU node may be free, or no quota left: see maximumInstanceCount, and invoke doctor"
)
_IMAGE_HINT: Final = (
    "pulling the image takes minutes on a new node, and a share that cannot be mounted shows only like this"
)
_SLOW_HINT: Final = "loading a large model takes long: give it more time with --timeout, and read invoke logs"
_FAILING: Final = frozenset({"Failed", "ActivationFailed", "Degraded"})


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision as the platform reports it.

    Source: Microsoft.App, containerApps/revisions, api-version 2025-07-01.
    """

    name: str
    created: str
    running_state: str = ""
    health_state: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica and its only container as the platform reports them. `created` is None if unknown."""

    name: str
    created: datetime | None = None
    is_started: bool = False
    is_ready: bool = False
    restart_count: int = 0
    state: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class FailedAdapter:
    """An adapter that is not served, or not as it is on the share.

    Attributes:
        reason: Why, as a clause that names the adapter.
        needs_restart: Whether it would be served after a restart.
    """

    name: str
    reason: str
    needs_restart: bool = False


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version of an adapter that a replica serves.

    Attributes:
        name: Its name in the API.
        number: The number of the version.
        digest: The digest that the share's index has for it.
    """

    name: str
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class VersionResponse:
    """The content of a response of `/version`. Text that the server did not send is empty.

    Attributes:
        started: When the container started; when its server did, if it has no supervisor.
        failed_adapters: The adapters that are not served.
        adapters: The names of the adapters that are served.
        adapter_versions: The versions of adapters that are served; empty from a server that knows none.
        base_model: The name of the base model.
        adapter_generation: The generation of the share's index of adapters that is served; None from a server
            that reads no index.
        server_started: When the server started, which differs once it was started again.
        revision: The replica's revision.
        wanted: The release that the replica has read from the share; None if it does not watch the share, so
            that only a restart gives it another release.
        supervisor: The release whose supervisor runs in the container; empty if that is not known.
        phase: What the replica is doing.
        percent: How far that is.
        error: Why the wanted release does not serve there; empty if nothing has failed.
        unreached: Why this is the replica's report on the share, and not the answer of the app's address;
            empty if it is that.
    """

    release: str
    replica: str
    started: str
    is_ready: bool
    failed_adapters: tuple[FailedAdapter, ...] = ()
    adapters: tuple[str, ...] = ()
    adapter_versions: tuple[ServedVersion, ...] = ()
    base_model: str = ""
    adapter_generation: str | None = None
    server_started: str = ""
    revision: str = ""
    wanted: str | None = None
    supervisor: str = ""
    phase: str = ""
    percent: int = 0
    error: str = ""
    unreached: str = ""


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The reason why a request of `/version` had no usable response.

    Attributes:
        is_waiting: Whether the container reports that it waits for the first release.
        unreachable: What keeps requests of this machine from the app; None if the app has failed.
    """

    reason: str
    is_waiting: bool = False
    unreachable: Unreachable | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a revision and its replicas at one moment."""

    revision: Revision
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The state just before a restart, which tells old replicas from new ones without comparing two clocks.

    Attributes:
        restarts: The restart count of every replica, by its name.
        replica: The replica that responded to `/version`; empty if none did.
        started: When that replica's server started, as the server reported it.
        did_serve: Whether a release was served.
        was_failing: Whether the revision was reported as failed.
    """

    restarts: Mapping[str, int] = field(default_factory=dict)
    replica: str = ""
    started: str = ""
    did_serve: bool = False
    was_failing: bool = False

    @property
    def was_empty_and_failing(self) -> bool:
        """Return whether the revision was reported as failed while it served no release.

        Then that report is not about the new release: the container waited without a port, or a release that
        failed was there before.
        """
        return self.was_failing and not self.did_serve

    def is_new(self, answer: VersionResponse) -> bool:
        """Return whether the process that responded was started after the baseline was taken.

        A replica that is not in the baseline is new. A replica that is in it may have a new process, which
        reports a different start.
        """
        if answer.replica not in self.restarts:
            return True
        return answer.replica == self.replica and answer.started != self.started

    def new_replicas(self, snapshot: Snapshot) -> tuple[Replica, ...]:
        """Return the replicas that are not in the baseline."""
        return tuple(replica for replica in snapshot.replicas if replica.name not in self.restarts)

    def restarts_since(self, replica: Replica) -> int:
        """Return how often a replica's container was restarted since the baseline."""
        return replica.restart_count - self.restarts.get(replica.name, 0)


@dataclass(frozen=True, slots=True)
class Cause:
    """The reason why a release does not serve, with a hint."""

    reason: str
    hint: str


def crash_reason(baseline: Baseline, snapshot: Snapshot, failing_s: float) -> str | None:
    """Return why the new replicas have failed, or None while they may still become ready.

    Args:
        baseline: The state before the restart.
        snapshot: The current state.
        failing_s: For how long the revision has been reported as failed.
    """
    # Old replicas may fail because of the old release, so they count only if there are no new ones.
    for replica in baseline.new_replicas(snapshot) or snapshot.replicas:
        ends = baseline.restarts_since(replica)
        if ends >= CRASHES:
            return (
                f"the container of replica {replica.name} ended {ends} times{_in_brackets(replica.details)}"
            )
    if failing_s >= FAILING_S:
        revision = snapshot.revision
        return f"revision {revision.name} is {revision.running_state}{_in_brackets(revision.details)}"
    return None


def is_failing(revision: Revision) -> bool:
    """Return whether a revision is reported as failed, which also happens for a while after a restart."""
    return revision.running_state in _FAILING


def phase(baseline: Baseline, snapshot: Snapshot | None) -> str:
    """Describe the progress of a restart."""
    if snapshot is None:
        return "asking for new replicas"
    new = baseline.new_replicas(snapshot)
    if not new:
        return "waiting for a new replica"
    replica = max(new, key=lambda each: (each.is_ready, each.is_started, each.name))
    if replica.is_ready:
        return f"replica {shorten(replica.name)} is ready"
    if replica.restart_count:
        return f"replica {shorten(replica.name)} has ended and is started again"
    if replica.is_started:
        return f"replica {shorten(replica.name)} runs, and is not ready yet"
    return f"replica {shorten(replica.name)} is being made{_in_brackets(replica.details)}"


def shorten(name: str) -> str:
    """Return the end of a replica's name, which tells it from the others: the rest names the revision."""
    return f"…{name.rpartition('-')[2]}"


def why_not_up(
    baseline: Baseline,
    snapshot: Snapshot | None,
    last: VersionResponse | NoResponse | None,
    wanted: str = "",
) -> Cause:
    """Return why the release `wanted` is not ready in time, from the last snapshot and the last response."""
    if snapshot is None:
        return Cause("the platform did not say what its replicas do", "look at invoke status")
    details = snapshot.revision.details
    if details and not snapshot.revision.running_state.startswith("Running"):
        is_port = "port" in details.casefold() and "match" in details.casefold()
        return Cause(details.rstrip("."), _PORT_HINT if is_port else "read invoke logs")
    new = baseline.new_replicas(snapshot)
    if not new:
        return Cause("the platform made no new replica", _CAPACITY_HINT)
    if any(replica.is_ready for replica in new):
        return _why_not_reached(last, wanted)
    return _why_not_ready(max(new, key=lambda replica: replica.is_started))


def _why_not_ready(replica: Replica) -> Cause:
    if replica.is_started:
        return Cause(f"replica {replica.name} runs, but did not get ready", _SLOW_HINT)
    reason = f"the container of replica {replica.name} did not start{_in_brackets(replica.details)}"
    return Cause(reason, _IMAGE_HINT)


def _why_not_reached(last: VersionResponse | NoResponse | None, wanted: str) -> Cause:
    if isinstance(last, NoResponse):
        reason = f"the new replica is ready, but the app's address does not answer: {last.reason}"
        return Cause(reason, "invoke status shows the ingress; allowedIpRanges may keep this machine out")
    if last is not None and last.release == wanted and not last.is_ready:
        reason = f"replica {last.replica} answers, and is not ready: {last.phase}, {last.percent} %"
        return Cause(reason, _SLOW_HINT)
    release = last.release if last is not None and last.release else "an unknown release"
    return Cause(f"the app's address still answers from {release}", "old replicas may still be draining")


def _in_brackets(details: str) -> str:
    return f" ({details.rstrip('.')})" if details else ""

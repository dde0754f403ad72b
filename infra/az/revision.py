"""Judge what a container app's revision and its replicas look like: values, and pure functions over them.

Azure says a lot about a revision, little of it at once, and some of it too late. `crash_reason` is sure that
a new release does not come up; `phase` says what a person who waits wants to know; `why_not_up` says what is
most likely when the time is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

CRASHES: Final = 2
"""How often a new replica's container must end before that is a verdict; one end may be an accident."""

FAILING_S: Final = 60.0
"""How long a revision must be called failed before that is a verdict: at first it is the old state."""

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
    """Describe a revision as the platform sees it.

    Source: Microsoft.App, containerApps/revisions, api-version 2025-07-01.
    """

    name: str
    created: str
    running_state: str = ""
    health_state: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """Describe a replica and its one container as the platform sees them. `created` is None where unknown."""

    name: str
    created: datetime | None = None
    is_started: bool = False
    is_ready: bool = False
    restart_count: int = 0
    state: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class VersionResponse:
    """Hold what `/version` answered. Empty text where the server did not say."""

    release: str
    replica: str
    started: str
    is_ready: bool


@dataclass(frozen=True, slots=True)
class NoResponse:
    """Say why `/version` gave no answer that we can use."""

    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold what the platform says about a revision at one moment."""

    revision: Revision
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Remember what was there just before a restart, to tell old from new without comparing two clocks.

    `restarts` has every old replica with how often its container had been restarted. `started` is what the
    server said about its own start; empty if it did not answer.
    """

    restarts: Mapping[str, int] = field(default_factory=dict)
    replica: str = ""
    started: str = ""
    did_serve: bool = False

    def is_new(self, answer: VersionResponse) -> bool:
        """Tell whether the process that answered was started after this was taken.

        A replica that was not there is new. One that was there may have been given a new process in place,
        which then tells another start.
        """
        if answer.replica not in self.restarts:
            return True
        return answer.replica == self.replica and answer.started != self.started

    def new_replicas(self, snapshot: Snapshot) -> tuple[Replica, ...]:
        """List the replicas that were not there."""
        return tuple(replica for replica in snapshot.replicas if replica.name not in self.restarts)

    def restarts_since(self, replica: Replica) -> int:
        """Count how often a replica's container was restarted since."""
        return replica.restart_count - self.restarts.get(replica.name, 0)


@dataclass(frozen=True, slots=True)
class Cause:
    """Say why a release does not serve, and what to do about it."""

    reason: str
    hint: str


def crash_reason(baseline: Baseline, snapshot: Snapshot, failing_s: float) -> str | None:
    """Say why the new replicas will not come up, or None while they still may.

    Args:
        baseline: What was there before the restart.
        snapshot: What is there now.
        failing_s: For how long the revision has been called failed.
    """
    # The old replicas may fail for the old release's reasons; they count only where nothing new was made.
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
    """Tell whether the platform calls a revision failed, which it also does for a while after a restart."""
    return revision.running_state in _FAILING


def phase(baseline: Baseline, snapshot: Snapshot | None) -> str:
    """Say how far the restart is, for the person who waits."""
    if snapshot is None:
        return "asking for new replicas"
    new = baseline.new_replicas(snapshot)
    if not new:
        return "waiting for a new replica"
    replica = max(new, key=lambda each: (each.is_ready, each.is_started, each.name))
    if replica.is_ready:
        return f"replica {replica.name} is ready"
    if replica.restart_count:
        return f"replica {replica.name} has ended and is started again"
    if replica.is_started:
        return f"replica {replica.name} runs, and is not ready yet"
    return f"replica {replica.name} is being made{_in_brackets(replica.details)}"


def why_not_up(
    baseline: Baseline, snapshot: Snapshot | None, last: VersionResponse | NoResponse | None
) -> Cause:
    """Classify why the time ran out, from what was seen last of the platform and of the address."""
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
        return _why_not_reached(last)
    return _why_not_ready(max(new, key=lambda replica: replica.is_started))


def _why_not_ready(replica: Replica) -> Cause:
    if replica.is_started:
        return Cause(f"replica {replica.name} runs, but did not get ready", _SLOW_HINT)
    reason = f"the container of replica {replica.name} did not start{_in_brackets(replica.details)}"
    return Cause(reason, _IMAGE_HINT)


def _why_not_reached(last: VersionResponse | NoResponse | None) -> Cause:
    if isinstance(last, NoResponse):
        reason = f"the new replica is ready, but the app's address does not answer: {last.reason}"
        return Cause(reason, "invoke status shows the ingress; allowedIpRanges may keep this machine out")
    release = last.release if last is not None and last.release else "an unknown release"
    return Cause(f"the app's address still answers from {release}", "old replicas may still be draining")


def _in_brackets(details: str) -> str:
    return f" ({details.rstrip('.')})" if details else ""

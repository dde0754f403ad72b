"""Wait until every replica serves the adapters that the share's index lists, without a restart.

Each replica reports what it serves from inside, in its answers of `/version`. A request reaches one replica
at a time, so `/version` is requested until each replica that the platform lists has answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.revision import NoResponse, VersionResponse
from infra.errors import RemoteError, WaitTimeoutError
from infra.release.takeovers.polling import PeriodicRequest, PollLoop

if TYPE_CHECKING:
    from collections.abc import Collection

    from infra.az.revision import FailedAdapter
    from infra.models.adapter_index import AdapterIndex
    from infra.release.rollout import Rollout

PICKUP_TIMEOUT_S: Final = 120.0
"""How long a replica that is ready may take: it reads the index once a second, and an adapter in seconds."""

POLL_S: Final = 0.25
LIST_INTERVAL_S: Final = 8.0
_HINT: Final = "invoke models lists what is served; invoke logs has more"


@dataclass(frozen=True, slots=True)
class Applied:
    """What every replica has applied.

    Attributes:
        replicas: The replicas.
        unserved: The names that no replica serves, since the parameter adapterPath names others.
        proof: Where that was seen: at the app's `address`, or `inside` of its replicas.
    """

    replicas: tuple[str, ...]
    unserved: tuple[str, ...] = ()
    proof: str = "address"


@dataclass(frozen=True, slots=True)
class NeedsRestart:
    """What only a restart can apply.

    Attributes:
        reason: Why; empty if nothing serves, or the server reads no index.
    """

    reason: str = ""


def wait_until_applied(
    rollout: Rollout, index: AdapterIndex, names: Collection[str]
) -> Applied | NeedsRestart:
    """Wait until every replica has applied an index that was written.

    Args:
        rollout: The app, the clock and the time limit.
        index: The index.
        names: The names in the API that it has changed.

    Raises:
        RemoteError: A replica rejects an adapter; the error names both.
        WaitTimeoutError: A replica has not applied it in time; the error names it.
    """
    wait = _Wait(rollout, index, frozenset(names), rollout.clock.elapsed_s())
    with rollout.console.step("wait until every replica serves the adapters"):
        loop = PollLoop[Applied | NeedsRestart](POLL_S, rollout.clock, rollout.renew_lock)
        return loop.run(wait.poll)


def confirm_applied(rollout: Rollout, index: AdapterIndex, names: Collection[str]) -> None:
    """Check that an index that was written before is served, and wait for that if it is not yet.

    A server that does not answer, or reads no index, says nothing about it.

    Raises:
        RemoteError: A replica rejects an adapter.
        WaitTimeoutError: A replica has not applied it in time.
    """
    answer = rollout.app.version()
    if isinstance(answer, NoResponse) or not answer.is_ready or answer.adapter_generation is None:
        return
    if answer.adapter_generation != index.generation or answer.failed_adapters:
        wait_until_applied(rollout, index, names)


@dataclass(slots=True)
class _Wait:
    rollout: Rollout
    index: AdapterIndex
    names: frozenset[str]
    start_s: float
    answers: dict[str, VersionResponse] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    last: VersionResponse | NoResponse | None = None
    _request: PeriodicRequest[tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._request = PeriodicRequest(self.rollout.background, self._list, LIST_INTERVAL_S)

    def poll(self, now_s: float) -> Applied | NeedsRestart | None:
        """Request `/version` once, and return the outcome when it is known."""
        is_first, answer = self.last is None, self.rollout.app.version()
        self.last = answer
        if isinstance(answer, NoResponse) or not answer.is_ready:
            if is_first:
                return NeedsRestart()
        elif answer.adapter_generation is None:
            return NeedsRestart()
        else:
            self.answers[answer.replica] = answer
            failed = self._failed(answer)
            if failed is not None and failed.needs_restart:
                return NeedsRestart(failed.reason)
            if failed is not None:
                raise _rejected(answer.replica, failed)
        if self.answers and (listed := self._request.poll(now_s)) is not None:
            self.listed = listed
        if self.listed and not self._missing():
            unreached = any(self.answers[replica].unreached for replica in self.listed)
            return Applied(self.listed, self._unserved(), "inside" if unreached else "address")
        self._check_time(now_s)
        return None

    def _failed(self, answer: VersionResponse) -> FailedAdapter | None:
        """Return an adapter of this change that a replica does not serve, once it has tried."""
        if answer.adapter_generation != self.index.generation:
            return None
        own = self.names & self.index.adapters.keys()
        names = own | {self.index.id_of(name) for name in own}
        return next((failed for failed in answer.failed_adapters if failed.name in names), None)

    def _list(self) -> tuple[str, ...]:
        app, known = self.rollout.app, next(iter(self.answers.values())).revision
        return tuple(replica.name for replica in app.replicas(known or app.revision()[0].name))

    def _has_applied(self, replica: str) -> bool:
        answer = self.answers.get(replica)
        if answer is None or answer.adapter_generation != self.index.generation:
            return False
        listed = self.index.adapters
        return all(
            served.digest == listed[served.name].version
            for served in answer.adapter_versions
            if served.name in listed
        )

    def _missing(self) -> tuple[str, ...]:
        return tuple(replica for replica in self.listed if not self._has_applied(replica))

    def _unserved(self) -> tuple[str, ...]:
        served = {name for answer in self.answers.values() for name in answer.adapters}
        return tuple(sorted(name for name in self.names & self.index.adapters.keys() if name not in served))

    def _check_time(self, now_s: float) -> None:
        waited_s, missing = now_s - self.start_s, self._missing()
        are_stuck = bool(missing) and all(replica in self.answers for replica in missing)
        if waited_s < (PICKUP_TIMEOUT_S if are_stuck else self.rollout.timeout_s):
            return
        details = tuple(map(self._describe, missing)) or ("the platform lists no replica",)
        raise WaitTimeoutError(
            f"not every replica serves the adapters within {waited_s:.0f} s", details=details, hint=_HINT
        )

    def _describe(self, replica: str) -> str:
        answer = self.answers.get(replica)
        if answer is None:
            return f"replica {replica} has not answered"
        return f"replica {replica} still serves what it did: {', '.join(answer.adapters) or 'no adapter'}"


def _rejected(replica: str, failed: FailedAdapter) -> RemoteError:
    return RemoteError(
        f"the server rejects the adapter {failed.name}",
        details=(f"replica {replica}: {failed.reason}",),
        hint="correct it and push again; invoke models lists what is served",
    )

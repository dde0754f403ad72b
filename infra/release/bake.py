"""Watch a release for a while after the proof: a crash then still turns the deployment back.

A server can answer well at first and crash a little later, as when its first real request meets a fault, or a
background task does. The platform starts it again, and again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.revision import Cause, NoResponse, VersionResponse
from infra.release.takeovers.polling import PeriodicRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.az.app import App
    from infra.az.revision import Replica, Snapshot
    from infra.clock import Clock
    from infra.console import Console, Step
    from infra.release.takeovers.outcome import Background

BAKE_S: Final = 15.0
"""How long a release is watched, unless a user sets another time."""

SILENCE_S: Final = 8.0
"""How long `/version` may go without a good answer. A single request may fail for other reasons."""

UNREACHED_S: Final = 30.0
"""How long the address may go without a connection from here, which says nothing about the release, before
the watch ends: neither the address nor the replicas' reports can be seen."""

_POLL_S: Final = 0.5
_SNAPSHOT_INTERVAL_S: Final = 4.0
_HINT: Final = "correct it and deploy again; invoke logs has more"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a release that was proven does not serve any more, and the replica that is to blame, if known."""

    cause: Cause
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Bake:
    """The watch over one app.

    Attributes:
        seconds: How long it lasts; with 0 nothing is watched.
        background: Asks the platform while `/version` is polled.
        renew_lock: Called at each poll to renew the deploy lock. An error that it raises ends the watch.
    """

    app: App
    clock: Clock
    console: Console
    seconds: float
    background: Background
    renew_lock: Callable[[], None]

    def run(self, release: str, *, was_reached: bool = True) -> Failure | None:
        """Watch a release that was just proven. Return why it has failed; None if it has not.

        Args:
            release: The release.
            was_reached: Whether the app's address has answered so far. If not, no warning says so again.
        """
        if self.seconds <= 0:
            return None
        try:
            with self.console.step(f"watch {release} for {self.seconds:.0f} s") as step:
                watch = self._watch(release, step)
        except _FailedError as error:
            return error.failure
        if watch.unreached and (was_reached or watch.is_unseen):
            seen = "no replica reports on the share" if watch.is_unseen else "the replicas report from inside"
            more = "" if watch.is_unseen else f" that they serve {release}"
            self.console.warn(
                f"the app's address has stopped answering from here ({watch.unreached}), and {seen}{more}; "
                f"{release} stays live, and invoke status shows what can be seen"
            )
        return None

    def _watch(self, release: str, step: Step) -> _Watch:
        start_s = self.clock.elapsed_s()
        watch = _Watch(self, release, start_s)
        while (now_s := self.clock.elapsed_s()) - start_s < self.seconds or watch.is_silent:
            watch.poll(now_s)
            if watch.is_unseen:
                break
            self.renew_lock()
            if self.console.is_terminal:
                step.update(f"{max(0.0, self.seconds - (now_s - start_s)):.0f} s left")
            self.clock.sleep(_POLL_S)
        return watch


class _FailedError(Exception):
    """Carries a failure out of a console step, so that the step is shown as failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.cause.reason)
        self.failure = failure


@dataclass(slots=True)
class _Watch:
    """What was seen of a release since the proof."""

    bake: Bake
    release: str
    good_s: float
    """When it last answered well."""

    is_silent: bool = False
    unreached: str = ""
    """Why the address does not answer from here any more."""

    is_unseen: bool = False
    """Whether neither the address nor the replicas' reports could be seen for a while."""

    _servers: dict[str, str] = field(default_factory=dict)
    _replicas: dict[str, int] | None = None
    _request: PeriodicRequest[Snapshot] = field(init=False)

    def __post_init__(self) -> None:
        self._request = PeriodicRequest(self.bake.background, self._take_snapshot, _SNAPSHOT_INTERVAL_S)

    def poll(self, now_s: float) -> None:
        """Look once.

        Raises:
            _FailedError: The release has failed.
        """
        answer = self.bake.app.version()
        reason = self._problem(answer)
        self.is_silent = reason is not None
        if isinstance(answer, VersionResponse):
            self.unreached = answer.unreached
        elif answer.unreachable is not None:
            self.unreached = answer.unreachable.reason
        if reason is None:
            self.good_s = now_s
        elif isinstance(answer, NoResponse) and answer.unreachable is not None:
            self.is_unseen = now_s - self.good_s >= UNREACHED_S
        elif now_s - self.good_s >= SILENCE_S:
            seconds = f"{now_s - self.good_s:.0f} s"
            raise _FailedError(Failure(Cause(f"for {seconds} after the proof, {reason}", _HINT)))
        if (snapshot := self._request.poll(now_s)) is not None:
            self._compare(snapshot.replicas)

    def _problem(self, answer: VersionResponse | NoResponse) -> str | None:
        if isinstance(answer, NoResponse):
            return f"it did not answer: {answer.reason}"
        if answer.release != self.release:
            return f"the app answered from {answer.release or 'an unknown release'}"
        started = self._servers.setdefault(answer.replica, answer.server_started)
        if answer.server_started != started:
            reason = f"the server of replica {answer.replica} crashed after the proof and was started again"
            raise _FailedError(Failure(Cause(reason, _HINT), answer.replica))
        return None if answer.is_ready else f"replica {answer.replica} was not ready any more"

    def _take_snapshot(self) -> Snapshot:
        return self.bake.app.snapshot(self.bake.app.revision()[0].name)

    def _compare(self, replicas: tuple[Replica, ...]) -> None:
        """Compare the restarts of each replica with those at the beginning. New replicas come and go."""
        if self._replicas is None:
            self._replicas = {replica.name: replica.restart_count for replica in replicas}
            return
        for replica in replicas:
            ends = replica.restart_count - self._replicas.setdefault(replica.name, replica.restart_count)
            if ends > 0:
                details = f" ({replica.details.rstrip('.')})" if replica.details else ""
                reason = f"the container of replica {replica.name} ended after the proof{details}"
                raise _FailedError(Failure(Cause(reason, _HINT), replica.name))

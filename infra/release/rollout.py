"""The rollout of a release: takeover or restart, wait for the proof, or roll back to the previous release.

The proof comes from inside the container: a process that was started after the restart answers `/version`
with the release, several times in a row. The platform's state is used for two purposes only: to detect early
that the release will not serve, and to show progress.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from infra.az.revision import (
    Baseline,
    Cause,
    NoResponse,
    Snapshot,
    VersionResponse,
    crash_reason,
    is_failing,
    phase,
    why_not_up,
)
from infra.errors import FjarrError
from infra.interrupts import noting
from infra.release.bake import Bake
from infra.release.releases import set_current, set_proven
from infra.release.takeovers.outcome import (
    Background,
    NotServed,
    NotServedError,
    OutageMeter,
    Outcome,
    Served,
    failure,
    from_error,
)
from infra.release.takeovers.polling import PeriodicRequest, PhaseLine, PollLoop
from infra.release.takeovers.silence import Silence, describe, last_words
from infra.release.takeovers.takeover import NotWatchedError, Takeover

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from infra.az.app import App
    from infra.clock import Clock
    from infra.console import Console, Step
    from infra.release.lock import HeldLock
    from infra.release.takeovers.approach import Approach
    from infra.share.protocol import Share

ANSWERS: Final = 3
"""How many responses in a row the new release must give: while old replicas drain, either may respond."""

_POLL_S: Final = 0.5
_FIRST_SNAPSHOT_S: Final = 4.0
_SNAPSHOT_INTERVAL_S: Final = 8.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rollout:
    """Restarts of an app's revision, each watched until a release serves.

    Attributes:
        timeout_s: How long one wait may take.
        background: Runs az while `/version` is polled, so that every outage is measured.
        renew_lock: Called at each poll to renew the deploy lock. An error that it raises ends the wait.
        bake_s: How long a release is watched after the proof.
    """

    app: App
    clock: Clock
    console: Console
    timeout_s: float
    background: Background
    renew_lock: Callable[[], None]
    bake_s: float = 0.0

    def restart(self, release: str) -> Outcome:
        """Restart the active revision, or activate an inactive one, and wait until it serves `release`."""
        return self._prove(release, is_restarted=True)

    def take_over(self, release: str, why: str = "") -> Outcome:
        """Wait until every replica has taken over the release that the share names.

        A replica that does not watch the share gets it by a restart.

        Args:
            release: The release, which `CURRENT` names already.
            why: What the replicas do to get there.
        """
        takeover = Takeover(
            self.app, self.clock, self.console, self.timeout_s, self.background, self.renew_lock
        )
        try:
            served = takeover.run(release, why)
        except NotWatchedError as error:
            self.console.warn(f"{error}: the revision is restarted")
            return self.restart(release)
        except NotServedError as error:
            return error.outcome
        self._warn_of(served, release)
        return served

    def wait(self, release: str) -> Outcome:
        """Wait until the active revision serves `release`, without a restart; activate an inactive one."""
        return self._prove(release, is_restarted=False)

    def bake(self, release: str, served: Served) -> Outcome:
        """Watch a release that was just proven, and return whether it still serves afterwards."""
        watch = Bake(self.app, self.clock, self.console, self.bake_s, self.background, self.renew_lock)
        failed = watch.run(release, was_reached=not served.unreached)
        if failed is None:
            return served
        log = self.app.console_tail(failed.replica) if failed.replica else ()
        return NotServed(failed.cause, log, is_timeout=False)

    def _prove(self, release: str, *, is_restarted: bool) -> Outcome:
        verb = "restart, and wait" if is_restarted else "wait"
        try:
            with self.console.step(f"{verb} until {release} serves") as step:
                served = self._run_wait(release, step, is_restarted=is_restarted)
        except NotServedError as error:
            return error.outcome
        self._warn_of(served, release)
        return served

    def _warn_of(self, served: Served, release: str) -> None:
        if served.unreached:
            self.console.warn(
                f"the app's address does not answer from here ({served.unreached}). The replicas report from "
                f"inside that they serve {release}, so it stays live. invoke status shows the address, and "
                f"allowedIpRanges, HTTPS_PROXY and the network are what to look at"
            )
        for reason in served.failed_adapters:
            self.console.warn(f"an adapter is not served: {reason}")

    def _run_wait(self, release: str, step: Step, *, is_restarted: bool) -> Served:
        try:
            revision, is_active = self.app.revision()
            baseline = self._baseline(revision.name, release) if is_restarted else Baseline()
        except FjarrError as error:
            raise NotServedError(from_error(error)) from error
        wait = _Wait(self, revision.name, release, baseline, step)
        if not is_active:
            wait.begin(self.app.activate)
        elif is_restarted:
            wait.begin(self.app.restart)
        outcome = wait.run()
        if isinstance(outcome, NotServed):
            raise NotServedError(outcome)
        return outcome

    def _baseline(self, revision: str, release: str) -> Baseline:
        snapshot, answer = self.app.snapshot(revision), self.app.version()
        restarts = {replica.name: replica.restart_count for replica in snapshot.replicas}
        if isinstance(answer, NoResponse):
            return Baseline(restarts, was_failing=is_failing(snapshot.revision))
        # The replica may be of an older revision that still drains, which is not new either.
        # A replica that waited for the first release may have begun to start it: nothing served yet.
        did_serve = answer.is_ready or answer.release != release
        return Baseline({answer.replica: 0} | restarts, answer.replica, answer.started, did_serve=did_serve)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of the live release.

    Attributes:
        target: The release to make live.
        fallback: The release to roll back to; None if there is none.
        approach: How the replicas get it.
    """

    target: str
    fallback: str | None
    approach: Approach


def switch(rollout: Rollout, share: Share, held: HeldLock, transition: Transition) -> Served:
    """Make a release live and wait until it serves; if it does not, roll back to the previous release.

    Args:
        rollout: Restarts the revision, or waits until its replicas have taken over.
        share: The share with both releases, finished.
        held: The deploy lock.
        transition: What is changed.

    Raises:
        RemoteError: The release crashes, or Azure rejected a request; it was rolled back.
        WaitTimeoutError: The release did not serve in time; it was rolled back.
    """
    held.check()
    with noting(f"{transition.target} may still become live; deploy again to complete it"):
        return _switch(rollout, share, held, transition)


def _switch(rollout: Rollout, share: Share, held: HeldLock, transition: Transition) -> Served:
    target, approach = transition.target, transition.approach
    set_current(share, target)
    outcome = rollout.restart(target) if approach.restarts else rollout.take_over(target, approach.text)
    if isinstance(outcome, Served):
        outcome = rollout.bake(target, outcome)
    if isinstance(outcome, NotServed) and outcome.is_unseen:
        raise failure(outcome, target, f"nothing was turned back: {target} is live, and was not proven")
    if isinstance(outcome, NotServed):
        rollout.console.warn(f"{target} does not serve: {outcome.cause.reason}")
        held.check()
        raise failure(outcome, target, _roll_back(rollout, share, transition))
    set_proven(share, target)
    return outcome


def in_background(pool: Executor) -> Background:
    """Return a `Background` that runs calls on a pool's threads."""

    def run(call: Callable[[], T], /) -> Future[T]:
        return pool.submit(call)

    return run


def _roll_back(rollout: Rollout, share: Share, transition: Transition) -> str:
    """Make the old release serve again, and return a line that describes the result."""
    fallback, restarts = transition.fallback, transition.approach.restarts
    set_current(share, fallback)
    if fallback is None:
        if restarts:
            _restart_only(rollout)
        return (
            "there is no release to roll back to: none is live now, and the replicas wait for the next deploy"
        )
    outcome = rollout.restart(fallback) if restarts else rollout.take_over(fallback)
    if isinstance(outcome, NotServed) and not restarts:
        outcome = rollout.restart(fallback)
    if isinstance(outcome, NotServed):
        return f"rolled back to {fallback}, which does not serve either: {outcome.cause.reason}"
    set_proven(share, fallback)
    return f"rolled back: {fallback} serves again"


def _restart_only(rollout: Rollout) -> None:
    """Restart without waiting, since there is no release that could serve."""
    try:
        revision, is_active = rollout.app.revision()
        if is_active:
            rollout.app.restart(revision.name)
    except FjarrError as error:
        rollout.console.warn(f"the replicas could not be restarted: {error.message}")


class _Wait:
    """The wait for one release on one revision: polls `/version` often and the platform rarely."""

    def __init__(self, rollout: Rollout, revision: str, release: str, baseline: Baseline, step: Step) -> None:
        self._rollout = rollout
        self._revision = revision
        self._release = release
        self._baseline = baseline
        self._start_s = rollout.clock.elapsed_s()
        self._meter = OutageMeter(self._start_s)
        self._in_a_row = 0
        self._action: Future[None] | None = None
        self._last_line = ""
        self._silence = Silence()
        self._request = PeriodicRequest(
            rollout.background, self._take_snapshot, _SNAPSHOT_INTERVAL_S, self._start_s + _FIRST_SNAPSHOT_S
        )
        self._line = PhaseLine(step, rollout.console.is_terminal, self._start_s)
        self._snapshot: Snapshot | None = None
        self._failing_since_s: float | None = None
        self._is_failure_old = baseline.was_empty_and_failing

    def begin(self, action: Callable[[str], None]) -> None:
        """Restart or activate the revision in the background, while `/version` is polled."""
        self._action = self._rollout.background(lambda: action(self._revision))

    def run(self) -> Outcome:
        """Wait until the release serves, has failed, or the time is over."""
        return PollLoop[Outcome](_POLL_S, self._rollout.clock, self._rollout.renew_lock).run(self._poll)

    def _poll(self, now_s: float) -> Outcome | None:
        answer = self._rollout.app.version()
        self._meter.record(answer, now_s)
        self._silence.record(self._rollout.app, answer, now_s)
        if isinstance(answer, VersionResponse) and self._is_proof(answer):
            self._in_a_row += 1
            return self._served(answer, now_s) if self._in_a_row >= ANSWERS else None
        self._in_a_row = 0
        verdict = self._report_of_failure(answer) or self._verdict(now_s)
        if verdict is None and now_s - self._start_s >= self._rollout.timeout_s:
            verdict = self._late(answer)
        self._show(answer, now_s)
        return verdict

    def _report_of_failure(self, answer: VersionResponse | NoResponse) -> NotServed | None:
        """Return why the release does not serve, if a new replica itself reports that on the share."""
        if isinstance(answer, NoResponse) or not answer.unreached or not answer.error:
            return None
        if not self._is_new(answer):
            return None
        cause = Cause(f"replica {answer.replica}: {answer.error}", "correct it and deploy again")
        return NotServed(cause, self._rollout.app.console_tail(answer.replica), is_timeout=False)

    def _late(self, answer: VersionResponse | NoResponse) -> NotServed:
        """Return the end of a wait that took too long."""
        inside = [each for each in self._silence.inside.values() if self._baseline.is_new(each)]
        if (behind := next((each for each in inside if not each.is_ready), None)) is not None:
            what = behind.error or f"{behind.phase}, {behind.percent} %"
            cause = Cause(f"replica {behind.replica} reports from inside: {what}", "invoke logs has more")
        else:
            cause = why_not_up(self._baseline, self._snapshot, answer, self._release)
        late = Cause(f"not within {self._rollout.timeout_s:.0f} s: {cause.reason}", cause.hint)
        new = () if self._snapshot is None else self._baseline.new_replicas(self._snapshot)
        blocked = answer.unreachable if isinstance(answer, NoResponse) else None
        if blocked is not None and any(replica.is_ready for replica in new):
            return NotServed(Cause(late.reason, blocked.hint), self._log(), is_timeout=True, is_unseen=True)
        return NotServed(late, self._log(), is_timeout=True)

    def _is_proof(self, answer: VersionResponse) -> bool:
        return answer.is_ready and self._is_new(answer)

    def _is_new(self, answer: VersionResponse) -> bool:
        """Return whether a replica of this wait's release has answered, and none from before it."""
        return answer.release == self._release and self._baseline.is_new(answer)

    def _served(self, answer: VersionResponse, now_s: float) -> Served:
        unreached = answer.unreached
        outage = self._meter.outage() if self._baseline.did_serve and not unreached else None
        seconds = now_s - self._start_s
        failed = tuple(adapter.reason for adapter in answer.failed_adapters)
        return Served(answer.replica, answer.started, outage, seconds, failed, unreached=unreached)

    def _verdict(self, now_s: float) -> NotServed | None:
        """Return why the release will not serve, if that is certain."""
        if self._action is not None:
            if not self._action.done():
                return None
            try:
                self._action.result()
            except FjarrError as error:
                return from_error(error)
        if (found := self._request.poll(now_s)) is not None:
            snapshot, self._last_line = found
            self._record_snapshot(snapshot, now_s)
        if self._snapshot is None:
            return None
        failing_s = 0.0 if self._failing_since_s is None else now_s - self._failing_since_s
        reason = crash_reason(self._baseline, self._snapshot, failing_s)
        if reason is None:
            return None
        return NotServed(
            Cause(reason, "correct it and deploy again; invoke logs has more"), self._log(), is_timeout=False
        )

    def _take_snapshot(self) -> tuple[Snapshot, str]:
        """Return the platform's state, and the last line of a new replica's log, which tells its phase."""
        snapshot = self._rollout.app.snapshot(self._revision)
        new = [replica for replica in self._baseline.new_replicas(snapshot) if replica.is_started]
        tail = self._rollout.app.console_tail(new[-1].name) if new else ()
        return snapshot, last_words(tail)

    def _record_snapshot(self, snapshot: Snapshot, now_s: float) -> None:
        self._snapshot = snapshot
        if not is_failing(snapshot.revision):
            self._failing_since_s, self._is_failure_old = None, False
        elif self._failing_since_s is None and not self._is_failure_old:
            self._failing_since_s = now_s

    def _show(self, answer: VersionResponse | NoResponse, now_s: float) -> None:
        is_starting = self._action is not None and not self._action.done()
        now, percent = self._silence.phase()
        # What a replica of another release says about itself is no progress of this one.
        if isinstance(answer, VersionResponse) and self._is_new(answer):
            now, percent = describe(answer)
        if is_starting or not now:
            now = "asking for new replicas" if is_starting else phase(self._baseline, self._snapshot)
            percent = ""
        self._line.show(now, percent, "" if is_starting else self._last_line, now_s)

    def _log(self) -> tuple[str, ...]:
        """Return the end of the log of the new replica that was restarted most often."""
        if self._snapshot is None or not self._snapshot.replicas:
            return ()
        replicas = self._baseline.new_replicas(self._snapshot) or self._snapshot.replicas
        worst = max(replicas, key=lambda replica: replica.restart_count)
        return self._rollout.app.console_tail(worst.name)

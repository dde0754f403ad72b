"""The rollout of a release: restart, wait until it provably serves, or roll back to the previous one.

The proof comes from inside the container: a process that was started after the restart answers `/version`
with the release, several times in a row. The platform's state is used for two purposes only: to detect early
that the release will not serve, and to show progress.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

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
from infra.errors import FjarrError, RemoteError, WaitTimeoutError
from infra.release.bake import Bake
from infra.release.releases import set_current, set_proven

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from infra.az.app import App
    from infra.clock import Clock
    from infra.console import Console, Step
    from infra.release.lock import HeldLock
    from infra.share.protocol import Share

ANSWERS: Final = 3
"""How many responses in a row the new release must give: while old replicas drain, either may respond."""

_POLL_S: Final = 0.5
_FIRST_SNAPSHOT_S: Final = 4.0
_SNAPSHOT_INTERVAL_S: Final = 8.0

T = TypeVar("T")


class Background(Protocol):
    """Runs a call while `/version` is polled. Tests run it immediately."""

    def __call__(self, call: Callable[[], T], /) -> Future[T]:
        """Start `call`, and return the future of its result."""


@dataclass(frozen=True, slots=True)
class Outage:
    """How many `/version` requests failed during a rollout, and for how long."""

    asked: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """Return the line to print."""
        if not self.failed:
            return f"no outage: all of {self.asked} requests were answered"
        return f"outage of {self.seconds:.1f} s: {self.failed} of {self.asked} requests failed"


@dataclass(frozen=True, slots=True)
class Served:
    """A release that was seen to serve. `outage` is None if nothing served before.

    Attributes:
        failed_adapters: Why adapters are not served with it.
    """

    replica: str
    started: str
    outage: Outage | None
    seconds: float
    failed_adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotServed:
    """A release that does not serve: the cause, the end of its log, and whether the wait timed out."""

    cause: Cause
    log: tuple[str, ...]
    is_timeout: bool


Outcome: TypeAlias = Served | NotServed


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

    def wait(self, release: str) -> Outcome:
        """Wait until the active revision serves `release`, without a restart; activate an inactive one."""
        return self._prove(release, is_restarted=False)

    def bake(self, release: str, served: Served) -> Outcome:
        """Watch a release that was just proven, and return whether it still serves afterwards."""
        watch = Bake(self.app, self.clock, self.console, self.bake_s, self.background, self.renew_lock)
        failed = watch.run(release)
        if failed is None:
            return served
        log = self.app.console_tail(failed.replica) if failed.replica else ()
        return NotServed(failed.cause, log, is_timeout=False)

    def _prove(self, release: str, *, is_restarted: bool) -> Outcome:
        verb = "restart, and wait" if is_restarted else "wait"
        try:
            with self.console.step(f"{verb} until {release} serves") as step:
                served = self._run_wait(release, step, is_restarted=is_restarted)
        except _NotServedError as error:
            return error.outcome
        for reason in served.failed_adapters:
            self.console.warn(f"an adapter is not served: {reason}")
        return served

    def _run_wait(self, release: str, step: Step, *, is_restarted: bool) -> Served:
        try:
            revision, is_active = self.app.revision()
            baseline = self._baseline(revision.name, release) if is_restarted else Baseline()
        except FjarrError as error:
            raise _NotServedError(_from_error(error)) from error
        wait = _Wait(self, revision.name, release, baseline, step)
        if not is_active:
            wait.begin(self.app.activate)
        elif is_restarted:
            wait.begin(self.app.restart)
        outcome = wait.run()
        if isinstance(outcome, NotServed):
            raise _NotServedError(outcome)
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


def switch(rollout: Rollout, share: Share, held: HeldLock, target: str, fallback: str | None) -> Served:
    """Make a release live and wait until it serves; if it does not, roll back to the previous release.

    Args:
        rollout: Restarts the revision and waits.
        share: The share with both releases, finished.
        held: The deploy lock.
        target: The release to make live.
        fallback: The release to roll back to; None if there is none.

    Raises:
        RemoteError: The release crashes, or Azure rejected a request; it was rolled back.
        WaitTimeoutError: The release did not serve in time; it was rolled back.
    """
    held.check()
    set_current(share, target)
    outcome = rollout.restart(target)
    if isinstance(outcome, Served):
        outcome = rollout.bake(target, outcome)
    if isinstance(outcome, NotServed):
        rollout.console.warn(f"{target} does not serve: {outcome.cause.reason}")
        held.check()
        raise failure(outcome, target, _roll_back(rollout, share, fallback))
    set_proven(share, target)
    return outcome


def failure(outcome: NotServed, release: str, closing: str) -> FjarrError:
    """Return the error for a release that does not serve. `closing` describes the state of the stage now."""
    kind = WaitTimeoutError if outcome.is_timeout else RemoteError
    log = ("its log ended with:", *(f"  {line}" for line in outcome.log)) if outcome.log else ()
    message = f"release {release} does not serve: {outcome.cause.reason}"
    return kind(message, details=(closing, *log), hint=outcome.cause.hint or None)


def in_background(pool: ThreadPoolExecutor) -> Background:
    """Return a `Background` that runs calls on a pool's threads."""

    def run(call: Callable[[], T], /) -> Future[T]:
        return pool.submit(call)

    return run


def at_once(call: Callable[[], T], /) -> Future[T]:
    """Run a call immediately. For tests, in which threads would make the order random."""
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except FjarrError as error:
        future.set_exception(error)
    return future


class _NotServedError(Exception):
    """Carries an outcome out of a console step, so that the step is shown as failed."""

    def __init__(self, outcome: NotServed) -> None:
        super().__init__(outcome.cause.reason)
        self.outcome = outcome


def _roll_back(rollout: Rollout, share: Share, fallback: str | None) -> str:
    """Make the old release serve again, and return a line that describes the result."""
    set_current(share, fallback)
    if fallback is None:
        _restart_only(rollout)
        return (
            "there is no release to roll back to: none is live now, and the replicas wait for the next deploy"
        )
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


def _from_error(error: FjarrError) -> NotServed:
    cause = Cause(error.message, error.hint or "")
    return NotServed(cause, error.details, isinstance(error, WaitTimeoutError))


class _Wait:
    """The wait for one release on one revision: polls `/version` often and the platform rarely."""

    def __init__(self, rollout: Rollout, revision: str, release: str, baseline: Baseline, step: Step) -> None:
        self._rollout = rollout
        self._revision = revision
        self._release = release
        self._baseline = baseline
        self._step = step
        self._start_s = rollout.clock.elapsed_s()
        self._meter = _OutageMeter(self._start_s)
        self._in_a_row = 0
        self._action: Future[None] | None = None
        self._pending_snapshot: Future[Snapshot] | None = None
        self._next_snapshot_s = self._start_s + _FIRST_SNAPSHOT_S
        self._snapshot: Snapshot | None = None
        self._failing_since_s: float | None = None
        self._is_failure_old = baseline.was_empty_and_failing
        self._phase = ""

    def begin(self, action: Callable[[str], None]) -> None:
        """Restart or activate the revision in the background, while `/version` is polled."""
        self._action = self._rollout.background(lambda: action(self._revision))

    def run(self) -> Outcome:
        """Wait until the release serves, has failed, or the time is over."""
        while (outcome := self._poll(self._rollout.clock.elapsed_s())) is None:
            self._rollout.renew_lock()
            self._rollout.clock.sleep(_POLL_S)
        return outcome

    def _poll(self, now_s: float) -> Outcome | None:
        answer = self._rollout.app.version()
        self._meter.record(answer, now_s)
        if isinstance(answer, VersionResponse) and self._is_proof(answer):
            self._in_a_row += 1
            return self._served(answer, now_s) if self._in_a_row >= ANSWERS else None
        self._in_a_row = 0
        verdict = self._verdict(now_s)
        if verdict is None and now_s - self._start_s >= self._rollout.timeout_s:
            cause = why_not_up(self._baseline, self._snapshot, answer)
            late = Cause(f"not within {self._rollout.timeout_s:.0f} s: {cause.reason}", cause.hint)
            verdict = NotServed(late, self._log(), is_timeout=True)
        self._show(now_s)
        return verdict

    def _is_proof(self, answer: VersionResponse) -> bool:
        return answer.is_ready and answer.release == self._release and self._baseline.is_new(answer)

    def _served(self, answer: VersionResponse, now_s: float) -> Served:
        outage = self._meter.outage() if self._baseline.did_serve else None
        seconds = now_s - self._start_s
        failed = tuple(adapter.reason for adapter in answer.failed_adapters)
        return Served(answer.replica, answer.started, outage, seconds, failed)

    def _verdict(self, now_s: float) -> NotServed | None:
        """Return why the release will not serve, if that is certain."""
        if self._action is not None:
            if not self._action.done():
                return None
            try:
                self._action.result()
            except FjarrError as error:
                return _from_error(error)
        self._poll_platform(now_s)
        if self._snapshot is None:
            return None
        failing_s = 0.0 if self._failing_since_s is None else now_s - self._failing_since_s
        reason = crash_reason(self._baseline, self._snapshot, failing_s)
        if reason is None:
            return None
        return NotServed(
            Cause(reason, "correct it and deploy again; invoke logs has more"), self._log(), is_timeout=False
        )

    def _poll_platform(self, now_s: float) -> None:
        """Request a snapshot from the platform at intervals, without waiting for the response."""
        if self._pending_snapshot is None:
            if now_s >= self._next_snapshot_s:
                self._pending_snapshot = self._rollout.background(
                    lambda: self._rollout.app.snapshot(self._revision)
                )
        elif self._pending_snapshot.done():
            # A failed request says nothing about the release, and the next one may succeed.
            with suppress(FjarrError):
                self._record_snapshot(self._pending_snapshot.result(), now_s)
            self._pending_snapshot, self._next_snapshot_s = None, now_s + _SNAPSHOT_INTERVAL_S

    def _record_snapshot(self, snapshot: Snapshot, now_s: float) -> None:
        self._snapshot = snapshot
        if not is_failing(snapshot.revision):
            self._failing_since_s, self._is_failure_old = None, False
        elif self._failing_since_s is None and not self._is_failure_old:
            self._failing_since_s = now_s

    def _show(self, now_s: float) -> None:
        is_starting = self._action is not None and not self._action.done()
        now = "asking for new replicas" if is_starting else phase(self._baseline, self._snapshot)
        if now != self._phase or self._rollout.console.is_terminal:
            self._phase = now
            self._step.enter(now, f" ({now_s - self._start_s:.0f} s)")

    def _log(self) -> tuple[str, ...]:
        """Return the end of the log of the new replica that was restarted most often."""
        if self._snapshot is None or not self._snapshot.replicas:
            return ()
        replicas = self._baseline.new_replicas(self._snapshot) or self._snapshot.replicas
        worst = max(replicas, key=lambda replica: replica.restart_count)
        return self._rollout.app.console_tail(worst.name)


@dataclass(slots=True)
class _OutageMeter:
    """Counts failed `/version` requests and the time that they span."""

    last_good_s: float
    asked: int = 0
    failed: int = 0
    seconds: float = 0.0
    is_out: bool = False

    def record(self, answer: VersionResponse | NoResponse, now_s: float) -> None:
        """Record the result of one request."""
        self.asked += 1
        if isinstance(answer, NoResponse):
            self.failed += 1
            self.is_out = True
            return
        if self.is_out:
            self.seconds += now_s - self.last_good_s
        self.last_good_s, self.is_out = now_s, False

    def outage(self) -> Outage:
        """Return the outage so far."""
        return Outage(self.asked, self.failed, self.seconds)

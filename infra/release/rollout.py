"""Bring a release to life and prove that it serves, or bring the one before it back.

The proof comes from inside the container: a process that was started after the restart answers `/version`
with the release, several times in a row. What the platform says is used for two things only: to see early
that the release will not come up, and to tell the person who waits how far it is.
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
"""How many answers in a row must come from the new release: while old replicas drain, the two take turns."""

_POLL_S: Final = 0.5
_FIRST_SNAPSHOT_S: Final = 4.0
_SNAPSHOT_INTERVAL_S: Final = 8.0

T = TypeVar("T")


class Background(Protocol):
    """Run something while the address is being asked. Tests run it at once."""

    def __call__(self, call: Callable[[], T], /) -> Future[T]:
        """Start `call`, and return what will hold its result."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Say how many of our requests failed while a release took over, and for how long they did."""

    asked: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """Say it for people."""
        if not self.failed:
            return f"no outage: all of {self.asked} requests were answered"
        return f"outage of {self.seconds:.1f} s: {self.failed} of {self.asked} requests failed"


@dataclass(frozen=True, slots=True)
class Served:
    """Report that a release was seen to serve. There is no outage to speak of where nothing served before."""

    replica: str
    started: str
    outage: Outage | None
    seconds: float


@dataclass(frozen=True, slots=True)
class NotServed:
    """Report that a release does not serve: why, the end of its log, and whether only the time ran out."""

    cause: Cause
    log: tuple[str, ...]
    is_timeout: bool


Outcome: TypeAlias = Served | NotServed


@dataclass(frozen=True, slots=True)
class Rollout:
    """Restart an app's revision and wait until a release serves.

    Attributes:
        timeout_s: How long one wait may take.
        background: Runs az while the address is being asked, so that no outage goes unseen.
        renew_lock: Called at every turn of the wait; renews the deploy lock. What it raises ends the wait.
    """

    app: App
    clock: Clock
    console: Console
    timeout_s: float
    background: Background
    renew_lock: Callable[[], None]

    def restart(self, release: str) -> Outcome:
        """Restart the active revision, or activate an inactive one, and wait until it serves `release`."""
        return self._prove(release, is_restarted=True)

    def wait(self, release: str) -> Outcome:
        """Wait until the active revision serves `release`, without a restart; activate an inactive one."""
        return self._prove(release, is_restarted=False)

    def _prove(self, release: str, *, is_restarted: bool) -> Outcome:
        verb = "restart, and wait" if is_restarted else "wait"
        try:
            with self.console.step(f"{verb} until {release} serves") as step:
                return self._run_wait(release, step, is_restarted=is_restarted)
        except _NotServedError as error:
            return error.outcome

    def _run_wait(self, release: str, step: Step, *, is_restarted: bool) -> Served:
        try:
            revision, is_active = self.app.revision()
            baseline = self._baseline(revision.name) if is_restarted else Baseline()
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

    def _baseline(self, revision: str) -> Baseline:
        snapshot, answer = self.app.snapshot(revision), self.app.version()
        restarts = {replica.name: replica.restart_count for replica in snapshot.replicas}
        if isinstance(answer, NoResponse):
            return Baseline(restarts)
        # It may be a replica of an older revision that still drains: it is not new either.
        return Baseline({answer.replica: 0} | restarts, answer.replica, answer.started, did_serve=True)


def switch(rollout: Rollout, share: Share, held: HeldLock, target: str, fallback: str | None) -> Served:
    """Make a release live and prove it; if it does not come up, make the one before it serve again.

    Args:
        rollout: Restarts and waits.
        share: Where both releases lie, finished.
        held: The deploy lock.
        target: The release to make live.
        fallback: The release to roll back to; None if there is none.

    Raises:
        RemoteError: The release crashes, or Azure refused something; `CURRENT` is rolled back by then.
        WaitTimeoutError: The release did not serve in time; `CURRENT` is rolled back by then.
    """
    held.check()
    set_current(share, target)
    outcome = rollout.restart(target)
    if isinstance(outcome, NotServed):
        rollout.console.warn(f"{target} does not serve: {outcome.cause.reason}")
        held.check()
        raise failure(outcome, target, _roll_back(rollout, share, fallback))
    set_proven(share, target)
    return outcome


def failure(outcome: NotServed, release: str, closing: str) -> FjarrError:
    """Make an error of a release that does not serve. `closing` says how things stand now."""
    kind = WaitTimeoutError if outcome.is_timeout else RemoteError
    log = ("its log ended with:", *(f"  {line}" for line in outcome.log)) if outcome.log else ()
    message = f"release {release} does not serve: {outcome.cause.reason}"
    return kind(message, details=(closing, *log), hint=outcome.cause.hint or None)


def in_background(pool: ThreadPoolExecutor) -> Background:
    """Run things on a pool's threads."""

    def run(call: Callable[[], T], /) -> Future[T]:
        return pool.submit(call)

    return run


def at_once(call: Callable[[], T], /) -> Future[T]:
    """Run something before going on. For tests, where threads would make the order a matter of chance."""
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except FjarrError as error:
        future.set_exception(error)
    return future


class _NotServedError(Exception):
    """Let a step on the console fail with an outcome that its caller then judges."""

    def __init__(self, outcome: NotServed) -> None:
        super().__init__(outcome.cause.reason)
        self.outcome = outcome


def _roll_back(rollout: Rollout, share: Share, fallback: str | None) -> str:
    """Make the old release serve again, and say how that went."""
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
    """Restart without a proof, since nothing is there that could serve."""
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
    """Wait for one release on one revision: ask the address often, the platform rarely."""

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
        self._phase = ""

    def begin(self, action: Callable[[str], None]) -> None:
        """Have the platform restart or activate the revision, while we go on asking the address."""
        self._action = self._rollout.background(lambda: action(self._revision))

    def run(self) -> Outcome:
        """Wait until the release serves, is seen not to come up, or the time is over."""
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
        return Served(answer.replica, answer.started, outage, now_s - self._start_s)

    def _verdict(self, now_s: float) -> NotServed | None:
        """Say that the release will not come up, if that is sure."""
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
        """Ask the platform now and then, without waiting for what it says."""
        if self._pending_snapshot is None:
            if now_s >= self._next_snapshot_s:
                self._pending_snapshot = self._rollout.background(
                    lambda: self._rollout.app.snapshot(self._revision)
                )
        elif self._pending_snapshot.done():
            # A question that fails says nothing about the release: the next one may be answered.
            with suppress(FjarrError):
                self._record_snapshot(self._pending_snapshot.result(), now_s)
            self._pending_snapshot, self._next_snapshot_s = None, now_s + _SNAPSHOT_INTERVAL_S

    def _record_snapshot(self, snapshot: Snapshot, now_s: float) -> None:
        self._snapshot = snapshot
        if not is_failing(snapshot.revision):
            self._failing_since_s = None
        elif self._failing_since_s is None:
            self._failing_since_s = now_s

    def _show(self, now_s: float) -> None:
        is_starting = self._action is not None and not self._action.done()
        now = "asking for new replicas" if is_starting else phase(self._baseline, self._snapshot)
        if now != self._phase or self._rollout.console.is_terminal:
            self._phase = now
            self._step.update(f"{now} ({now_s - self._start_s:.0f} s)")

    def _log(self) -> tuple[str, ...]:
        """Read the end of the log of the new replica that is worst off."""
        if self._snapshot is None or not self._snapshot.replicas:
            return ()
        replicas = self._baseline.new_replicas(self._snapshot) or self._snapshot.replicas
        worst = max(replicas, key=lambda replica: replica.restart_count)
        return self._rollout.app.console_tail(worst.name)


@dataclass(slots=True)
class _OutageMeter:
    """Count what our requests to the app's address met."""

    last_good_s: float
    asked: int = 0
    failed: int = 0
    seconds: float = 0.0
    is_out: bool = False

    def record(self, answer: VersionResponse | NoResponse, now_s: float) -> None:
        """Take note of one request."""
        self.asked += 1
        if isinstance(answer, NoResponse):
            self.failed += 1
            self.is_out = True
            return
        if self.is_out:
            self.seconds += now_s - self.last_good_s
        self.last_good_s, self.is_out = now_s, False

    def outage(self) -> Outage:
        """Return what was counted."""
        return Outage(self.asked, self.failed, self.seconds)

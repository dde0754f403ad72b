"""Wait until every replica of an app has taken over the release that the share names.

Each replica watches the share by itself, and its answers of `/version` tell what it serves, what it does and
what has failed. A request reaches one replica at a time, so `/version` is requested until each replica that
the platform lists has answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.revision import (
    Baseline,
    Cause,
    NoResponse,
    Revision,
    Snapshot,
    VersionResponse,
    crash_reason,
    shorten,
)
from infra.errors import FjarrError
from infra.release.takeovers.outcome import NotServed, NotServedError, OutageMeter, Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from infra.az.app import App
    from infra.az.revision import Replica
    from infra.clock import Clock
    from infra.console import Console, Step
    from infra.release.takeovers.outcome import Background

_POLL_S: Final = 0.25
_LIST_INTERVAL_S: Final = 8.0
_HINT: Final = "invoke logs has more; --restart replaces the replicas"


class NotWatchedError(Exception):
    """The replica that does not watch the share, and so has to be restarted."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """A wait for all replicas of an app.

    Attributes:
        timeout_s: How long the wait may take.
        background: Runs az while `/version` is polled.
        renew_lock: Called at each poll to renew the deploy lock. An error that it raises ends the wait.
    """

    app: App
    clock: Clock
    console: Console
    timeout_s: float
    background: Background
    renew_lock: Callable[[], None]

    def run(self, release: str, why: str) -> Served:
        """Wait until all replicas serve a release.

        Args:
            release: The release, which `CURRENT` names already.
            why: What the replicas do to get there; empty leaves it out.

        Raises:
            NotWatchedError: A replica does not watch the share.
            NotServedError: A replica has failed to take it over, or has not in time.
        """
        with self.console.step(f"wait until every replica serves {release}") as step:
            wait = _Wait(self, release, step, self.clock.elapsed_s())
            if why:
                step.update(why)
            while (served := wait.poll(self.clock.elapsed_s())) is None:
                self.renew_lock()
                self.clock.sleep(_POLL_S)
            return served


@dataclass(slots=True)
class _Wait:
    takeover: Takeover
    release: str
    step: Step
    start_s: float
    answers: dict[str, VersionResponse] = field(default_factory=dict)
    revision: str = ""
    baseline: Baseline | None = None
    listed: tuple[Replica, ...] | None = None
    shown: str = ""
    _meter: OutageMeter = field(init=False)
    _listing: Future[tuple[Replica, ...]] | None = None
    _next_listing_s: float = 0.0
    _has_served: bool = False

    def __post_init__(self) -> None:
        self._meter = OutageMeter(self.start_s)

    def poll(self, now_s: float) -> Served | None:
        """Request `/version` once, and return the outcome when all replicas serve the release."""
        answer = self.takeover.app.version()
        self._meter.record(answer, now_s)
        if isinstance(answer, VersionResponse):
            self._record(answer)
        self._list(now_s)
        if self.listed is not None and self.listed and not self._missing():
            return self._served(now_s)
        if now_s - self.start_s >= self.takeover.timeout_s:
            raise self._failed(self._late(answer), "", is_timeout=True)
        self._show(answer, now_s)
        return None

    def _record(self, answer: VersionResponse) -> None:
        self.answers[answer.replica] = answer
        self.revision = answer.revision or self.revision
        self._has_served = self._has_served or (answer.is_ready and answer.release != self.release)
        if answer.release != self.release and answer.wanted is None:
            raise NotWatchedError(f"replica {answer.replica} does not watch the share")
        if answer.error and answer.wanted == self.release:
            raise self._failed(f"replica {answer.replica}: {answer.error}", answer.replica)

    def _list(self, now_s: float) -> None:
        """List the replicas at intervals, without waiting for the answer: some may come and go."""
        if self._listing is None:
            if now_s >= self._next_listing_s:
                self._listing = self.takeover.background(self._list_now)
        elif self._listing.done():
            self._next_listing_s = now_s + _LIST_INTERVAL_S
            listing, self._listing = self._listing, None
            try:
                self.listed = listing.result()
            except FjarrError:
                return  # it says nothing about the release, and the next one may succeed
            self._check_crashes(self.listed)

    def _list_now(self) -> tuple[Replica, ...]:
        revision = self.revision or self.takeover.app.revision()[0].name
        return self.takeover.app.replicas(revision)

    def _check_crashes(self, replicas: tuple[Replica, ...]) -> None:
        if self.baseline is None:
            self.baseline = Baseline({replica.name: replica.restart_count for replica in replicas})
        reason = crash_reason(self.baseline, Snapshot(Revision(self.revision, ""), replicas), 0.0)
        if reason is not None:
            worst = max(replicas, key=self.baseline.restarts_since)
            raise self._failed(reason, worst.name)

    def _missing(self) -> tuple[str, ...]:
        """Return what each replica lacks that does not serve the release yet."""
        return tuple(
            _lack(replica.name, self.answers.get(replica.name), self.release)
            for replica in self.listed or ()
            if not self._is_proof(self.answers.get(replica.name))
        )

    def _is_proof(self, answer: VersionResponse | None) -> bool:
        return (
            answer is not None
            and answer.is_ready
            and answer.release == self.release
            and answer.wanted in {None, self.release}
        )

    def _served(self, now_s: float) -> Served:
        names = tuple(replica.name for replica in self.listed or ())
        last = self.answers[names[-1]]
        outage = self._meter.outage() if self._has_served else None
        seconds = now_s - self.start_s
        failed = tuple(adapter.reason for adapter in last.failed_adapters)
        return Served(last.replica, last.started, outage, seconds, failed, names)

    def _late(self, answer: VersionResponse | NoResponse) -> str:
        missing = self._missing()
        if not missing:
            reason = answer.reason if isinstance(answer, NoResponse) else "the platform lists no replica"
            missing = (f"the app does not serve it: {reason}",)
        return f"not within {self.takeover.timeout_s:.0f} s: {'; '.join(missing)}"

    def _failed(self, reason: str, replica: str, *, is_timeout: bool = False) -> NotServedError:
        log = self.takeover.app.console_tail(replica) if replica else ()
        return NotServedError(NotServed(Cause(reason, _HINT), log, is_timeout))

    def _show(self, answer: VersionResponse | NoResponse, now_s: float) -> None:
        percent = ""
        if isinstance(answer, NoResponse):
            phase = f"no answer: {answer.reason}"
        elif self._is_proof(answer):
            phase = f"replica {shorten(answer.replica)} serves it"
        else:
            phase = f"replica {shorten(answer.replica)}: {answer.phase or 'starting'}"
            percent = f", {answer.percent} %"
        if f"{phase}{percent}" != self.shown or self.takeover.console.is_terminal:
            self.shown = f"{phase}{percent}"
            self.step.enter(phase, f"{percent} ({now_s - self.start_s:.0f} s)")


def _lack(name: str, answer: VersionResponse | None, release: str) -> str:
    if answer is None:
        return f"replica {name} has not answered"
    if answer.release == release:
        return f"replica {name} is not ready: {answer.phase}, {answer.percent} %"
    return f"replica {name} still serves {answer.release}: {answer.phase}, {answer.percent} %"

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
from infra.release.takeovers.outcome import NotServed, NotServedError, OutageMeter, Served
from infra.release.takeovers.polling import PeriodicRequest, PhaseLine, PollLoop
from infra.release.takeovers.silence import ASK_AFTER_S, Silence, describe, last_words

if TYPE_CHECKING:
    from collections.abc import Callable

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
            return PollLoop[Served](_POLL_S, self.clock, self.renew_lock).run(wait.poll)


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
    _line: PhaseLine = field(init=False)
    _meter: OutageMeter = field(init=False)
    _request: PeriodicRequest[tuple[tuple[Replica, ...], str]] = field(init=False)
    _has_served: bool = False
    _last_line: str = ""
    _silence: Silence = field(default_factory=Silence)

    def __post_init__(self) -> None:
        takeover = self.takeover
        self._line = PhaseLine(self.step, takeover.console.is_terminal, self.start_s)
        self._meter = OutageMeter(self.start_s)
        self._request = PeriodicRequest(takeover.background, self._list, _LIST_INTERVAL_S)

    def poll(self, now_s: float) -> Served | None:
        """Request `/version` once, and return the outcome when all replicas serve the release."""
        answer = self.takeover.app.version()
        self._meter.record(answer, now_s)
        self._silence.record(self.takeover.app, answer, now_s)
        if isinstance(answer, VersionResponse):
            self._record(answer)
        if (found := self._request.poll(now_s)) is not None:
            self.listed, self._last_line = found
            self._check_crashes(self.listed)
        if self.listed is not None and self.listed and not self._missing():
            return self._served(now_s)
        if now_s - self.start_s >= self.takeover.timeout_s:
            raise self._late(answer, now_s)
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

    def _list(self) -> tuple[tuple[Replica, ...], str]:
        """Return the replicas, and the last line of the log of one that does not serve the release yet.

        Reading a log takes seconds on Azure, so the first listing, which most takeovers need alone, has none.
        """
        revision = self.revision or self.takeover.app.revision()[0].name
        late = next((each.name for each in self.listed or () if not self._is_proof(each.name)), "")
        tail = self.takeover.app.console_tail(late) if late else ()
        return self.takeover.app.replicas(revision), last_words(tail)

    def _check_crashes(self, replicas: tuple[Replica, ...]) -> None:
        if self.baseline is None:
            self.baseline = Baseline({replica.name: replica.restart_count for replica in replicas})
        reason = crash_reason(self.baseline, Snapshot(Revision(self.revision, ""), replicas), 0.0)
        if reason is not None:
            worst = max(replicas, key=self.baseline.restarts_since)
            raise self._failed(reason, worst.name)

    def _missing(self) -> tuple[str, ...]:
        """Return what each replica lacks that does not serve the release yet."""
        answers = self.answers | self._silence.inside
        return tuple(
            _lack(replica, answers.get(replica.name), self.release)
            for replica in self.listed or ()
            if not self._is_proof(replica.name)
        )

    def _is_proof(self, replica: str) -> bool:
        answer = self.answers.get(replica)
        return (
            answer is not None
            and answer.is_ready
            and answer.release == self.release
            and answer.wanted in {None, self.release}
        )

    def _served(self, now_s: float) -> Served:
        names = tuple(replica.name for replica in self.listed or ())
        last = self.answers[names[-1]]
        unreached = next((answer.unreached for name in names if (answer := self.answers[name]).unreached), "")
        outage = self._meter.outage() if self._has_served and not unreached else None
        seconds = now_s - self.start_s
        failed = tuple(adapter.reason for adapter in last.failed_adapters)
        return Served(last.replica, last.started, outage, seconds, failed, names, unreached)

    def _late(self, answer: VersionResponse | NoResponse, now_s: float) -> NotServedError:
        """Return the end of a wait that took too long."""
        reason = answer.reason if isinstance(answer, NoResponse) else "the platform lists no replica"
        missing = self._missing() or (f"the app does not serve it: {reason}",)
        if isinstance(answer, NoResponse) and self._silence.since_s is not None and self.listed:
            silent_s = now_s - self._silence.since_s
            missing = (*missing, f"the app has not answered for {silent_s:.0f} s ({reason})")
        why = f"not within {self.takeover.timeout_s:.0f} s: {'; '.join(missing)}"
        blocked = answer.unreachable if isinstance(answer, NoResponse) else None
        if blocked is not None and self.listed and all(replica.is_ready for replica in self.listed):
            return NotServedError(NotServed(Cause(why, blocked.hint), (), is_timeout=True, is_unseen=True))
        return self._failed(why, "", is_timeout=True)

    def _failed(self, reason: str, replica: str, *, is_timeout: bool = False) -> NotServedError:
        log = self.takeover.app.console_tail(replica) if replica else ()
        return NotServedError(NotServed(Cause(reason, _HINT), log, is_timeout))

    def _show(self, answer: VersionResponse | NoResponse, now_s: float) -> None:
        phase, percent = self._phase(answer, now_s)
        self._line.show(phase, percent, self._last_line, now_s)

    def _phase(self, answer: VersionResponse | NoResponse, now_s: float) -> tuple[str, str]:
        """Return what the replica does that is waited for, and how far it is, as text to show."""
        if isinstance(answer, NoResponse):
            phase, percent = self._silence.phase()
            return phase or f"no answer: {answer.reason}", percent
        if not self._is_proof(answer.replica):
            return describe(answer)
        late = next((each.name for each in self.listed or () if not self._is_proof(each.name)), None)
        if late is None:
            return f"replica {shorten(answer.replica)} serves it", ""
        if late not in self.answers and now_s - self.start_s >= ASK_AFTER_S:
            # It is not ready, so that the ingress passes it over.
            self._silence.ask(self.takeover.app)
        seen = self._silence.inside.get(late) or self.answers.get(late)
        return (f"replica {shorten(late)} has not answered", "") if seen is None else describe(seen)


def _lack(replica: Replica, answer: VersionResponse | None, release: str) -> str:
    name = replica.name
    if answer is None:
        return f"replica {name} has not answered{'' if replica.is_ready else ', and is not ready'}"
    if answer.error:
        return f"replica {name}: {answer.error}"
    if answer.release == release:
        return f"replica {name} is not ready: {answer.phase}, {answer.percent} %"
    return f"replica {name} still serves {answer.release}: {answer.phase}, {answer.percent} %"

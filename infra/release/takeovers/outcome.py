"""The outcome of a rollout: a release that was seen to serve, or the reason why it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from infra.az.revision import Cause, NoResponse, VersionResponse
from infra.errors import FjarrError, RemoteError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

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
        replicas: The replicas that were seen to serve it, where all were asked.
        unreached: Why it was seen from inside only; empty if the app's address has answered.
    """

    replica: str
    started: str
    outage: Outage | None
    seconds: float
    failed_adapters: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    unreached: str = ""

    @property
    def proof(self) -> str:
        """Return where the release was seen to serve: at the app's `address`, or `inside` of its replicas."""
        return "inside" if self.unreached else "address"


@dataclass(frozen=True, slots=True)
class NotServed:
    """A release that does not serve: the cause, the end of its log, and whether the wait timed out.

    Attributes:
        is_unseen: Whether nothing is known against it: the platform calls its replicas ready, and neither the
            app's address nor the replicas' reports could be read.
    """

    cause: Cause
    log: tuple[str, ...]
    is_timeout: bool
    is_unseen: bool = False


Outcome: TypeAlias = Served | NotServed


class NotServedError(Exception):
    """Carries an outcome out of a console step, so that the step is shown as failed."""

    def __init__(self, outcome: NotServed) -> None:
        super().__init__(outcome.cause.reason)
        self.outcome = outcome


def failure(outcome: NotServed, release: str, closing: str) -> FjarrError:
    """Return the error for a release that does not serve. `closing` describes the state of the stage now."""
    kind = WaitTimeoutError if outcome.is_timeout else RemoteError
    log = ("its log ended with:", *(f"  {line}" for line in outcome.log)) if outcome.log else ()
    what = "could not be seen" if outcome.is_unseen else "does not serve"
    message = f"release {release} {what}: {outcome.cause.reason}"
    return kind(message, details=(closing, *log), hint=outcome.cause.hint or None)


def from_error(error: FjarrError) -> NotServed:
    """Return the outcome for an error of Azure or of a tool."""
    cause = Cause(error.message, error.hint or "")
    return NotServed(cause, error.details, isinstance(error, WaitTimeoutError))


@dataclass(slots=True)
class OutageMeter:
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

"""A container app in memory whose replicas watch the share, and take over what it names without a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az.app import App
from infra.az.revision import NoResponse, Replica, Revision, Snapshot, VersionResponse
from infra.release.releases import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.clock import Clock
    from infra.share.protocol import Share

_TAKEOVER_S = 2.0


@dataclass(slots=True)
class _Watcher:
    """One replica: what it serves, what it has read from the share, and since when."""

    name: str
    release: str = ""
    wanted: str = ""
    since_s: float = 0.0
    error: str = ""


class WatchingApp(App):
    """A container app with one revision, whose replicas answer in turn.

    Attributes:
        outcome: Returns what a release does on a replica, (release, replica): None serves, an empty text
            hangs, another one is the reason why it does not serve.
        deaf: The replicas that do not watch the share.
        silent: The replicas whose answers never arrive.
        log: Every change that the platform was asked for.
        starting_phase: Returns what a replica does while it takes a release over.
    """

    def __init__(self, share: Share, clock: Clock, replicas: int = 1) -> None:
        self.outcome: Callable[[str, str], str | None] = lambda _release, _replica: None
        self.deaf: set[str] = set()
        self.silent: set[str] = set()
        self.log: list[str] = []
        self.starting_phase: Callable[[], str] = lambda: "starting the server"
        self.listings = 0
        self._share = share
        self._clock = clock
        self._watchers = [_Watcher(f"app--1-{number}") for number in range(1, replicas + 1)]
        self._next = 0

    def revision(self) -> tuple[Revision, bool]:
        """Return the only revision."""
        return Revision("app--1", "2026-01-01T00:00:00Z", running_state="Running"), True

    def snapshot(self, revision: str) -> Snapshot:
        """Return the state of the revision and its replicas."""
        return Snapshot(self.revision()[0], self.replicas(revision))

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        """Return the replicas."""
        assert revision == "app--1"
        self.listings += 1
        return tuple(Replica(each.name, is_started=True, is_ready=True) for each in self._watchers)

    def restart(self, revision: str) -> None:
        """Replace every replica with one that starts from what the share names, and watches it."""
        self.log.append(f"restart {revision}")
        self.deaf.clear()
        now_s = self._clock.elapsed_s()
        self._watchers = [
            _Watcher(f"{each.name}-new", self._current(), self._current(), now_s) for each in self._watchers
        ]

    def activate(self, revision: str) -> None:
        """Activate the revision."""
        self.log.append(f"activate {revision}")

    def version(self) -> VersionResponse | NoResponse:
        """Return the answer of the next replica."""
        answering = [each for each in self._watchers if each.name not in self.silent]
        for each in self._watchers:
            self._settle(each)
        self._next += 1
        replica = answering[self._next % len(answering)]
        if not replica.release and not replica.wanted:
            return NoResponse("HTTP 503", is_waiting=True)
        is_deaf = replica.name in self.deaf
        return VersionResponse(
            replica.release,
            replica.name,
            "2026-01-01T00:00:00Z",
            is_ready=bool(replica.release),
            revision="app--1",
            wanted=None if is_deaf else replica.wanted,
            phase="serving" if replica.release == replica.wanted else self.starting_phase(),
            error=replica.error,
        )

    def console_tail(self, replica: str) -> tuple[str, ...]:
        """Return the last lines of a replica's console log."""
        return (f"the log of {replica}",)

    def is_stopped(self) -> bool:
        """Return whether the app is paused, which this one never is."""
        return False

    def served(self) -> set[str]:
        """Return the releases that are served now."""
        return {each.release for each in self._watchers}

    def _settle(self, replica: _Watcher) -> None:
        current, now_s = self._current(), self._clock.elapsed_s()
        if replica.name in self.deaf or not current:
            return
        if current != replica.wanted:
            replica.wanted, replica.since_s, replica.error = current, now_s, ""
        outcome = self.outcome(current, replica.name)
        if now_s - replica.since_s >= _TAKEOVER_S and replica.release != current:
            if outcome is None:
                replica.release = current
            elif outcome:
                replica.error = f"{current}: {outcome}"

    def _current(self) -> str:
        return (self._share.read(CURRENT) or b"").decode().strip()

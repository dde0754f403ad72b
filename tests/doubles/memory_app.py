"""A container app in memory, which the pipeline's tests restart.

Its replicas behave like real ones: they read `CURRENT` from the share when their container starts, wait while
it is missing, become ready after a while or crash and start again, and are removed after a restart when a
newer one is ready.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from infra.az.app import App
from infra.az.revision import (
    FailedAdapter,
    NoResponse,
    Replica,
    Revision,
    ServedVersion,
    Snapshot,
    VersionResponse,
)
from infra.errors import RemoteError
from infra.models.adapter_index import ADAPTER_INDEX
from infra.release.releases import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.clock import Clock
    from infra.share.protocol import Share

_CRASH_EVERY_S: Final = 5.0
LATE_S: Final = 12.0
"""How long after it is ready a server crashes that does so late."""


class Behaviour(Enum):
    """What the server of a release does after its start."""

    SERVE = "serve"
    CRASH = "crash"
    CRASH_LATE = "crash late"
    HANG = "hang"


@dataclass(slots=True)
class _Process:
    name: str
    born_s: float
    release: str
    began_s: float
    late_crashes: int = 0


class MemoryApp(App):
    """A container app with one revision, whose replicas follow a manual clock.

    Attributes:
        behaviour: Returns what a release's server does.
        start_s: How long a server takes from its start until it is ready.
        is_active: Whether the revision is active.
        before_change: Called with each change before it is made. If it raises, the change is not made.
        log: Every change, in order.
        adapters: The adapters that every server serves.
        failed_adapters: The adapters that are not served; those that need a restart are after one.
        reads_index: Whether the servers serve what the share's index of adapters lists, without a restart.
        revision_details: Returns the details of the revision; it is reported as failed while there are some.
    """

    def __init__(self, share: Share, clock: Clock) -> None:
        self.behaviour: Callable[[str], Behaviour] = lambda _release: Behaviour.SERVE
        self.start_s = 3.0
        self.is_active = True
        self.before_change: Callable[[str], None] = lambda _change: None
        self.log: list[str] = []
        self.failed_adapters: tuple[FailedAdapter, ...] = ()
        self.reads_index = False
        self.adapters: tuple[str, ...] = ()
        self.revision_details: Callable[[], str] = lambda: ""
        self._share = share
        self._clock = clock
        self._processes: list[_Process] = []
        self._replica_count = 0
        self._start_replica()

    def revision(self) -> tuple[Revision, bool]:
        """Return the only revision."""
        return self._revision(), self.is_active

    def snapshot(self, revision: str) -> Snapshot:
        """Return the current state of the revision and its replicas."""
        if revision != "app--1":
            raise RemoteError(f"there is no revision {revision}")
        self._settle()
        return Snapshot(self._revision(), tuple(self._replica(process) for process in self._processes))

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        """Return the current replicas."""
        return self.snapshot(revision).replicas

    def restart(self, revision: str) -> None:
        """Start a new replica beside the old ones, which are removed when it is ready."""
        self._change(f"restart {revision}")
        self.failed_adapters = tuple(each for each in self.failed_adapters if not each.needs_restart)
        self._settle()
        self._start_replica()

    def activate(self, revision: str) -> None:
        """Activate the revision and start a replica."""
        self._change(f"activate {revision}")
        self.is_active = True
        self._start_replica()

    def version(self) -> VersionResponse | NoResponse:
        """Return the response of a ready replica, or that of an ingress without one."""
        self._settle()
        for process in self._processes:
            if self._is_ready(process):
                born = self._clock.now() - timedelta(seconds=self._clock.elapsed_s() - process.began_s)
                answer = VersionResponse(process.release, process.name, born.isoformat(), is_ready=True)
                answer = replace(answer, failed_adapters=self.failed_adapters, adapters=self.adapters)
                return self._apply_index(answer) if self.reads_index else answer
        return NoResponse("HTTP 503")

    def console_tail(self, replica: str) -> tuple[str, ...]:
        """Return the last lines of a replica's console log."""
        release = next((each.release for each in self._processes if each.name == replica), "")
        return (f"{release} says goodbye",)

    def is_stopped(self) -> bool:
        """Return whether the app is paused, which this one never is."""
        return False

    def stop(self) -> None:
        """Deactivate the revision, which removes its replicas."""
        self.is_active = False
        self._processes.clear()

    def _apply_index(self, answer: VersionResponse) -> VersionResponse:
        index = json.loads(self._share.read(ADAPTER_INDEX) or b'{"generation": "", "adapters": {}}')
        failed = {adapter.name for adapter in self.failed_adapters}
        served = {name: each for name, each in index["adapters"].items() if name not in failed}
        versions = tuple(
            ServedVersion(name, each["number"], each["version"]) for name, each in served.items()
        )
        return replace(
            answer,
            adapters=tuple(served),
            adapter_versions=versions,
            adapter_generation=index["generation"],
        )

    def _change(self, change: str) -> None:
        self.before_change(change)
        self.log.append(change)

    def _start_replica(self) -> None:
        self._replica_count += 1
        now_s = self._clock.elapsed_s()
        self._processes.append(_Process(f"app--1-{self._replica_count}", now_s, self._current(), now_s))

    def _current(self) -> str:
        return (self._share.read(CURRENT) or b"").decode().strip()

    def _settle(self) -> None:
        """Apply the events since the last call: crashes, restarts and removed replicas."""
        for process in self._processes:
            if self._has_crashed_late(process):
                process.late_crashes += 1
                process.began_s = self._clock.elapsed_s()
            if not process.release or self._has_crashed(process):
                process.release, process.began_s = self._current(), self._clock.elapsed_s()
        if self._processes and self._is_ready(self._processes[-1]):
            del self._processes[:-1]

    def _has_crashed(self, process: _Process) -> bool:
        age_s = self._clock.elapsed_s() - process.began_s
        return self.behaviour(process.release) is Behaviour.CRASH and age_s >= _CRASH_EVERY_S

    def _has_crashed_late(self, process: _Process) -> bool:
        age_s = self._clock.elapsed_s() - process.began_s
        return self.behaviour(process.release) is Behaviour.CRASH_LATE and age_s >= self.start_s + LATE_S

    def _is_ready(self, process: _Process) -> bool:
        is_old_enough = self._clock.elapsed_s() - process.began_s >= self.start_s
        serves = self.behaviour(process.release) in {Behaviour.SERVE, Behaviour.CRASH_LATE}
        return bool(process.release) and serves and is_old_enough

    def _revision(self) -> Revision:
        details = self.revision_details()
        state = "Failed" if details else "Running"
        return Revision("app--1", "2026-01-01T00:00:00Z", running_state=state, details=details)

    def _replica(self, process: _Process) -> Replica:
        lived_s = self._clock.elapsed_s() - process.born_s
        is_crashing = self.behaviour(process.release) is Behaviour.CRASH
        return Replica(
            name=process.name,
            is_started=True,
            is_ready=self._is_ready(process),
            restart_count=int(lived_s / _CRASH_EVERY_S) if is_crashing else process.late_crashes,
            details="exit code 1" if is_crashing or process.late_crashes else "",
        )

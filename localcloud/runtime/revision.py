"""A revision: a number of replicas of one specification, replaced start-first on a restart."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from localcloud.runtime.replica import Replica
from localcloud.runtime.spec import ReplicaStatus, RevisionNotActiveError, RevisionSpec, RevisionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from localcloud.runtime.ingress import Backend
    from localcloud.runtime.workspace import ReplicaContext


class _ChangeSignal:
    """A signal that wakes all waiters; each checks for itself what has changed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        current, self._next = self._next, asyncio.Event()
        current.set()

    async def wait(self) -> None:
        await self._next.wait()


class Revision:
    """The replicas of one revision.

    Guarantees:

    - `run` adjusts the number of replicas to the specified one.
    - `restart` starts as many new replicas. Old replicas that were ready keep serving until all new ones are
      ready (for ever, if they never are), and are then stopped. Old replicas that were not ready, those of an
      earlier restart included, are stopped at once.
    - `stop` leaves no replica, and cancels a restart in progress.
    - With `idle_s`, all replicas are stopped once none has had a request for so long; `wake` starts them.

    Args:
        spec: What to run.
        context: The parts of the host that the replicas use.
        announce: Writes an event of the revision to the system log: (reason, message).
    """

    def __init__(
        self, spec: RevisionSpec, context: ReplicaContext, announce: Callable[[str, str], Awaitable[None]]
    ) -> None:
        self.spec = spec
        self._context = context
        self._announce = announce
        self._replicas: list[Replica] = []
        self._current: list[Replica] = []
        self._active = False
        self._is_asleep = self._is_waking = False
        self._sleeper: asyncio.Task[None] | None = None
        self._changes = _ChangeSignal()
        self._rollout: asyncio.Task[None] | None = None
        self._stops: set[asyncio.Task[None]] = set()

    @property
    def is_active(self) -> bool:
        """Whether it is meant to run (possibly with no replicas)."""
        return self._active

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas, newest first, including those that are being stopped."""
        return tuple(sorted(self._replicas, key=lambda replica: replica.created, reverse=True))

    @property
    def backends(self) -> list[Backend]:
        """The replicas that the ingress may send requests to, oldest first."""
        return [
            replica.backend for replica in self._replicas if replica.is_ready and replica.backend is not None
        ]

    @property
    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """The status of each replica, newest first."""
        return tuple(replica.status for replica in self.replicas)

    @property
    def state(self) -> RevisionState:
        """The revision's state, from the replicas that are meant to stay."""
        if not self.is_active:
            return RevisionState("Stopped", "None", "")
        if self._is_asleep:
            return RevisionState("ScaledToZero", "Healthy", "")
        ready = sum(replica.is_ready for replica in self._current)
        count = f"{ready}/{len(self._current)} replicas ready."
        if ready == len(self._current):
            return RevisionState("Running", "Healthy", "")
        failing = [replica for replica in self._current if replica.is_failing and not replica.is_ready]
        served = bool(self.backends)
        if not failing:
            return RevisionState(
                "Running" if served else "Processing", "Healthy" if served else "None", count
            )
        details = f"{count} {failing[0].status.details}"
        return RevisionState("Degraded" if served else "Failed", "Unhealthy", details)

    def run(self, spec: RevisionSpec) -> None:
        """Adjust the number of replicas; a changed specification applies to new replicas only."""
        self.spec = spec
        self._active = True
        if self._is_asleep:
            return
        surplus = self._current[spec.replicas :]
        missing = spec.replicas - len(self._current)
        self._current = self._current[: spec.replicas] + [self._new() for _ in range(missing)]
        for replica in surplus:
            self._stop_soon(replica)
        if surplus or missing > 0:
            self._roll_out()
        self._watch_idleness()

    async def wake(self) -> None:
        """Start the replicas again if they were stopped because nobody asked; wait until they are ready."""
        if self._is_asleep:
            self._is_asleep, self._is_waking = False, True
            self.run(self.spec)
            message = f"Scaled {_target(self.spec)} from 0 to {self.spec.replicas}, triggered by http"
            await self._announce("KEDAScaleTargetActivated", message)
        if self._is_waking:
            with suppress(RevisionNotActiveError):
                await self.wait_ready()

    def restart(self) -> None:
        """Start replacing all replicas, start-first; return at once.

        Raises:
            RevisionNotActiveError: it is stopped.
        """
        if not self.is_active:
            raise RevisionNotActiveError(f"revision '{self.spec.revision}' is not active: activate it first")
        self._is_asleep = False
        outgoing = [replica for replica in self._replicas if not replica.is_draining]
        self._current = [self._new() for _ in range(self.spec.replicas)]
        for replica in outgoing:
            if not replica.is_ready:
                self._stop_soon(replica)
        self._roll_out()
        self._watch_idleness()

    async def wait_ready(self) -> None:
        """Wait until all replicas that are meant to stay are ready and the others are being stopped.

        Raises:
            RevisionNotActiveError: it was stopped.
        """
        while self.is_active and not self._is_settled():
            await self._changes.wait()
        if not self.is_active:
            raise RevisionNotActiveError(f"revision '{self.spec.revision}' was stopped")

    async def stop(self) -> None:
        """Stop all replicas, and return when they are gone; only their logs remain."""
        for task in (self._rollout, self._sleeper):
            if task is not None:
                task.cancel()
        self._is_asleep = self._is_waking = False
        self._active = False
        self._current = []
        self._changes.notify()
        for replica in tuple(self._replicas):
            self._stop_soon(replica)
        while self._stops:
            await asyncio.wait(set(self._stops))

    def _watch_idleness(self) -> None:
        idle_s = self.spec.idle_s
        if idle_s is not None and (self._sleeper is None or self._sleeper.done()):
            self._sleeper = asyncio.create_task(
                self._sleep_when_idle(idle_s), name=f"idle {self.spec.revision}"
            )

    async def _sleep_when_idle(self, idle_s: float) -> None:
        """Stop all replicas whenever none has had a request for `idle_s`, until the revision is stopped."""
        while True:
            try:
                await self._until_idle(idle_s)
            except RevisionNotActiveError:
                return
            self._is_asleep = True
            stopped, self._current = self._current, []
            for replica in stopped:
                self._stop_soon(replica)
            message = f"Deactivated {_target(self.spec)} from {len(stopped)} to 0"
            await self._announce("KEDAScaleTargetDeactivated", message)
            while self._is_asleep:
                await self._changes.wait()

    async def _until_idle(self, idle_s: float) -> None:
        """Return once the replicas are ready and none has had a request for `idle_s`."""
        await self.wait_ready()
        since_s = time.monotonic()
        for _ in itertools.repeat(None):
            while busy := [backend for backend in self.backends if backend.in_flight]:
                await busy[0].idle()
            used_s = max([since_s, *(backend.used_at_s for backend in self.backends)])
            if (left_s := used_s + idle_s - time.monotonic()) <= 0:
                return
            await asyncio.sleep(left_s)
            await self.wait_ready()

    def _is_settled(self) -> bool:
        return all(
            replica.is_ready if replica in self._current else replica.is_draining
            for replica in self._replicas
        )

    def _new(self) -> Replica:
        replica = Replica(self.spec, self._context, self._changes.notify)
        self._replicas.append(replica)
        return replica

    def _roll_out(self) -> None:
        if self._rollout is not None:
            self._rollout.cancel()
        self._rollout = asyncio.create_task(
            self._finish(tuple(self._current)), name=f"rollout {self.spec.revision}"
        )

    async def _finish(self, incoming: tuple[Replica, ...]) -> None:
        while not all(replica.is_ready for replica in incoming):
            await self._changes.wait()
        for replica in self._replicas:
            if replica not in incoming:
                self._stop_soon(replica)
        self._is_waking = False
        if incoming:
            await self._announce("RevisionReady", f"Revision '{self.spec.revision}' is ready")

    def _stop_soon(self, replica: Replica) -> None:
        stop = asyncio.create_task(self._stop_one(replica), name=f"stop {replica.name}")
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)

    async def _stop_one(self, replica: Replica) -> None:
        await replica.stop()
        if replica in self._replicas:
            self._replicas.remove(replica)


def _target(spec: RevisionSpec) -> str:
    return f"apps/v1.Deployment k8se-apps/{spec.revision}"

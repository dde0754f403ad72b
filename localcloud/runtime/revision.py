"""A revision: a number of replicas of one specification, replaced start-first on a restart."""

from __future__ import annotations

import asyncio
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
        surplus = self._current[spec.replicas :]
        missing = spec.replicas - len(self._current)
        self._current = self._current[: spec.replicas] + [self._new() for _ in range(missing)]
        for replica in surplus:
            self._stop_soon(replica)
        if surplus or missing > 0:
            self._roll_out()

    def restart(self) -> None:
        """Start replacing all replicas, start-first; return at once.

        Raises:
            RevisionNotActiveError: it is stopped.
        """
        if not self.is_active:
            raise RevisionNotActiveError(f"revision '{self.spec.revision}' is not active: activate it first")
        outgoing = [replica for replica in self._replicas if not replica.is_draining]
        self._current = [self._new() for _ in range(self.spec.replicas)]
        for replica in outgoing:
            if not replica.is_ready:
                self._stop_soon(replica)
        self._roll_out()

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
        if self._rollout is not None:
            self._rollout.cancel()
        self._active = False
        self._current = []
        self._changes.notify()
        for replica in tuple(self._replicas):
            self._stop_soon(replica)
        while self._stops:
            await asyncio.wait(set(self._stops))

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

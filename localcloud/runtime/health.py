"""The health of a running container: its probes, and a check of where its processes listen."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from localcloud.runtime import sockets
from localcloud.runtime.probes import Prober, probes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from localcloud.runtime.container_run import ContainerRun
    from localcloud.runtime.spec import ProbeKind
    from localcloud.runtime.workspace import Workspace

# How many checks in a row must find a wrong port before it is reported: some servers open another port first.
_WRONG_PORT_CHECKS: Final = 2


@dataclass(frozen=True, slots=True)
class TerminationCause:
    """Why a running container must be terminated.

    Attributes:
        event: The reason of the event in the system log.
        message: The event's message.
        reason: The reason of the container's termination.
        is_final: Whether the container must not be started again.
    """

    event: str
    message: str
    reason: str
    is_final: bool = False


class HealthMonitor:
    """The probes and the socket checks of one run of a container.

    The container is ready while its readiness probe succeeds and its listening sockets were found to be
    loopback only.

    Args:
        workspace: The replica's.
        port: The container's loopback port, None without an ingress.
        on_change: Called after every change of `is_started` or `is_ready`.
        on_failure: Called with the reason and the message of a problem that does not end the container.
    """

    def __init__(
        self,
        workspace: Workspace,
        port: int | None,
        on_change: Callable[[], None],
        on_failure: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._workspace = workspace
        self._port = port
        self._on_change = on_change
        self._on_failure = on_failure
        self._probes = probes_of(workspace.spec.container, workspace.spec.target_port)
        self._began = asyncio.get_running_loop().time()
        self._started = asyncio.Event()
        self._probed_ready = False
        self._inspected = False
        self._inspect_now = asyncio.Event()

    @property
    def is_started(self) -> bool:
        """Whether the startup probe has succeeded."""
        return self._started.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether the container can take requests."""
        return self._probed_ready and self._inspected

    async def watch(self, run: ContainerRun, stop: asyncio.Event) -> TerminationCause | None:
        """Wait until the container ends, must be terminated (returns the cause), or `stop` is set."""
        tasks: set[asyncio.Task[TerminationCause | None]] = {
            asyncio.create_task(watch, name=f"{name} {self._workspace.name}")
            for name, watch in (
                ("end", _without_cause(run.ended)),
                ("stop", _without_cause(stop.wait)),
                ("startup", self._probe_startup()),
                ("readiness", self._probe_readiness()),
                ("liveness", self._probe_liveness()),
                ("sockets", self._inspect_sockets()),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # A container that ends at the same moment is still reported with its cause.
        return next((cause for task in done if (cause := task.result()) is not None), None)

    async def _probe_startup(self) -> TerminationCause:
        prober = self._prober("Startup")
        if prober is not None and not await prober.next_verdict():
            return self._unhealthy("Startup")
        self._started.set()
        self._on_change()
        return await _wait_forever()

    async def _probe_readiness(self) -> TerminationCause:
        await self._started.wait()
        prober = self._prober("Readiness")
        while True:
            ready = prober is None or await prober.next_verdict()
            self._probed_ready = ready
            self._inspected = self._inspected and ready
            self._inspect_now.set()
            self._on_change()
            if prober is None:
                return await _wait_forever()

    async def _probe_liveness(self) -> TerminationCause:
        await self._started.wait()
        prober = self._prober("Liveness")
        if prober is None:
            return await _wait_forever()
        while await prober.next_verdict():
            pass
        return self._unhealthy("Liveness")

    def _prober(self, kind: ProbeKind) -> Prober | None:
        probe = self._probes.get(kind)
        if probe is None:
            return None
        is_target = self._port is not None and probe.port == self._workspace.spec.target_port
        port = self._port if is_target and self._port is not None else probe.port
        return Prober(probe, port, self._workspace.context.session, self._began, self._report_probe_failure)

    async def _report_probe_failure(self, problem: str, count: int) -> None:
        # Only the 1st, 2nd, 4th, 8th ... failure in a row.
        if count & (count - 1) == 0:
            await self._workspace.emit("ProbeFailed", problem, "Warning", count)

    def _unhealthy(self, kind: ProbeKind) -> TerminationCause:
        times = self._probes[kind].failure_threshold
        message = f"{kind} probe failed {times} times in a row: container will be restarted"
        return TerminationCause("ReplicaUnhealthy", message, "ProbeFailure")

    async def _inspect_sockets(self) -> TerminationCause:
        """Check where the processes listen: periodically, and before the replica becomes ready."""
        limits = self._workspace.context.limits
        wrong_port_checks = 0
        while True:
            was_ready = self._probed_ready
            try:
                found = await asyncio.to_thread(self._listeners)
            except PermissionError as error:
                return await self._continue_uninspected(error)
            if reachable := [listener for listener in found if not listener.is_loopback]:
                return _not_loopback(reachable)
            is_wrong = not was_ready and self._is_on_wrong_port(found)
            wrong_port_checks = wrong_port_checks + 1 if is_wrong else 0
            if wrong_port_checks == _WRONG_PORT_CHECKS:
                await self._report_wrong_port(found)
            if was_ready and not self._inspected:
                self._inspected = True
                self._on_change()
            await self._pause(limits.inspect_running_s if self.is_ready else limits.inspect_starting_s)

    def _listeners(self) -> frozenset[sockets.Listener]:
        return sockets.listeners(self._workspace.processes.scan())

    def _is_on_wrong_port(self, found: frozenset[sockets.Listener]) -> bool:
        return self._port is not None and bool(found) and all(one.port != self._port for one in found)

    async def _report_wrong_port(self, found: frozenset[sockets.Listener]) -> None:
        ports = ", ".join(str(one.port) for one in sorted(found, key=lambda one: one.port))
        message = (
            f"The TargetPort {self._workspace.spec.target_port} does not match the listening port {ports}: "
            f"here the container must listen on CONTAINER_APP_PORT ({self._port})"
        )
        await self._on_failure("Pending:PortMismatch", message)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._inspect_now.wait()
        self._inspect_now.clear()

    async def _continue_uninspected(self, error: PermissionError) -> NoReturn:
        await self._workspace.emit(
            "ListenersUnknown",
            f"This system does not show where the replica listens ({error}): make sure that it is 127.0.0.1",
            "Warning",
        )
        self._inspected = True
        self._on_change()
        while True:
            # A process that is seen here is found again when the container is killed.
            await asyncio.sleep(self._workspace.context.limits.inspect_running_s)
            await asyncio.to_thread(self._workspace.processes.scan)
            self._inspected = True


def _not_loopback(reachable: list[sockets.Listener]) -> TerminationCause:
    where = ", ".join(sorted(f"{one.address}:{one.port}" for one in reachable))
    message = (
        f"It listens on {where}, which others than this machine can reach: killed, and not started again. "
        "On the local cloud a container must listen on 127.0.0.1 (FJARR_HOST=127.0.0.1)"
    )
    return TerminationCause("NonLoopbackListener", message, "Refused", is_final=True)


async def _without_cause(wait: Callable[[], Awaitable[object]]) -> None:
    await wait()


async def _wait_forever() -> NoReturn:
    while True:
        await asyncio.Event().wait()

"""The run loop of a replica: starts its container, waits for its end, and restarts it after a back-off."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from localcloud.runtime import processes, sockets
from localcloud.runtime.container_run import ContainerRun
from localcloud.runtime.health import HealthMonitor, TerminationCause
from localcloud.runtime.ingress import Backend
from localcloud.runtime.mounts import MountError

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.runtime.spec import ContainerState, EventType
    from localcloud.runtime.workspace import Workspace

# What Kubernetes reports for a container whose command cannot be started.
_CANNOT_START: Final = 128


class RunLoop:
    """The runs of one replica's container, one after the other.

    Args:
        workspace: The replica's.
        stop: Set when the container is to be stopped.
        on_change: Called after every change of an attribute.

    Attributes:
        state: The container's state.
        details: A sentence for people: since when it runs, why it waits, how it ended.
        exit_code: The exit code of the last run, None before one has ended.
        port: The loopback port of the current run.
        backend: The same, for the ingress.
        run_count: The number of runs that were started.
        is_failing: Whether the last run failed and the replica has not been ready since.
    """

    def __init__(self, workspace: Workspace, stop: asyncio.Event, on_change: Callable[[], None]) -> None:
        self.state: ContainerState = "Waiting"
        self.details = "ContainerCreating"
        self.exit_code: int | None = None
        self.port: int | None = None
        self.backend: Backend | None = None
        self.run_count = 0
        self.is_failing = False
        self._workspace = workspace
        self._stop = stop
        self._on_change = on_change
        self._health: HealthMonitor | None = None

    @property
    def is_started(self) -> bool:
        """Whether the startup probe of the current run has succeeded."""
        return self._health is not None and self._health.is_started

    @property
    def is_ready(self) -> bool:
        """Whether the current run can take requests."""
        return self._health is not None and self._health.is_ready

    async def run_until_stopped(self) -> None:
        """Run the container, and start it again whenever it ends, until `stop` is set.

        A container of a job is started again only while it could not be started at all, as when a mount
        path is taken.
        """
        clock = asyncio.get_running_loop().time
        failures = 0
        while not self._stop.is_set():
            began = clock()
            if not await self._run_once():
                await self._stop.wait()
            if self._stop.is_set() or (self._workspace.spec.runs_once and self.exit_code is not None):
                return
            failures = self._workspace.context.limits.back_off.count(failures, clock() - began)
            await self._back_off(failures)

    def mark_broken(self, error: Exception) -> None:
        """Record that the replica cannot be kept running because of an error of the local cloud's own."""
        self.is_failing = True
        self.details = f"the local cloud failed to keep it running: {error}"

    def mark_terminated(self) -> None:
        """Record that no run will follow."""
        self.state = "Terminated"
        self._on_change()

    async def _run_once(self) -> bool:
        """Run the container once; return whether it may be started again."""
        workspace = self._workspace
        try:
            await asyncio.to_thread(
                workspace.context.mounts.acquire, workspace.name, workspace.spec.container
            )
            run = await self._start()
        except MountError as error:
            await self._fail("VolumeMountFailure", str(error))
            return True
        except OSError as error:
            await self._fail("ContainerCreateFailure", self._cannot_start(error))
            self.exit_code = _CANNOT_START
            return True
        try:
            cause = await self._watch(run)
            if cause is not None:
                await workspace.emit(cause.event, cause.message, "Warning")
            grace_s = 0 if cause is not None and cause.is_final else workspace.spec.grace_s
            code, survivors = await run.end(grace_s)
        except asyncio.CancelledError:
            run.abandon()
            raise
        await self._record_end(code, survivors, cause)
        return cause is None or not cause.is_final

    async def _start(self) -> ContainerRun:
        workspace = self._workspace
        container = workspace.spec.container
        argv = (*container.command, *container.args)
        if not argv:
            raise FileNotFoundError(2, "the container has no command, and the local cloud runs no images")
        self.port = None
        if workspace.spec.target_port is not None:
            self.port = sockets.free_port(workspace.context.ports())
            self.backend = Backend(workspace.name, self.port)
        await workspace.emit("ContainerCreated", f"Created container '{container.name}'")
        launch = processes.Launch(argv, workspace.environment(self.port), workspace.directory / "scratch")
        run = await ContainerRun.start(launch, workspace.processes, workspace.log, workspace.context.limits)
        self.run_count += 1
        self.state = "Running"
        self.details = f"Container started at: {run.began:%Y-%m-%d %H:%M:%S} UTC."
        self._on_change()
        await workspace.emit("ContainerStarted", f"Started container '{container.name}'")
        return run

    async def _watch(self, run: ContainerRun) -> TerminationCause | None:
        self._health = HealthMonitor(self._workspace, self.port, self._on_change, self._fail)
        cause = await self._health.watch(run, self._stop)
        self._health = None
        self._on_change()
        return cause

    async def _record_end(self, code: int, survivors: list[int], cause: TerminationCause | None) -> None:
        stopped = self._stop.is_set() and cause is None
        completed = self._workspace.spec.runs_once and code == 0 and cause is None
        reason = "Stopped" if stopped else cause.reason if cause else "ProcessExited"
        reason = "Completed" if completed else reason
        self.exit_code = code
        self.state = "Terminated"
        self.details = f"Container terminated with exit code '{code}' and reason '{reason}'"
        if cause is not None:
            self.details += f": {cause.message}"
        self.is_failing = not (stopped or completed)
        self._on_change()
        kind: EventType = "Warning" if self.is_failing else "Normal"
        what = f"Container '{self._workspace.spec.container.name}' was terminated"
        await self._workspace.emit(
            "ContainerTerminated", f"{what} with exit code '{code}' and reason '{reason}'", kind
        )
        if survivors:
            message = f"{what}, but not these processes: {survivors}"
            await self._workspace.emit("ContainerKillFailed", message, "Warning")

    async def _fail(self, event: str, message: str) -> None:
        self.is_failing = True
        self.details = message
        self._on_change()
        await self._workspace.emit(event, message, "Warning")

    def _cannot_start(self, error: OSError) -> str:
        container = self._workspace.spec.container
        problem = f"{error.strerror or error}: {container.command}"
        return f"Container '{container.name}' cannot be started: {problem}"

    async def _back_off(self, failures: int) -> None:
        delay_s = self._workspace.context.limits.back_off.delay_s(failures)
        self.state = "Waiting"
        self.details = f"CrashLoopBackOff: waiting {delay_s:g} s. {self.details}"
        self._on_change()
        name = self._workspace.spec.container.name
        message = f"Back-off {delay_s:g} s restarting failed container '{name}'"
        await self._workspace.emit("ContainerBackOff", message, "Warning", failures)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stop.wait()

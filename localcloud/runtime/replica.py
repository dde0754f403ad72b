"""A replica: one container, kept running on this machine, probed and logged, and removed without a trace.

Its events, in the order in which they occur:

```
AssigningReplica                     the replica exists; its container is not started yet
  VolumeMountFailure                 a mount path cannot be made; tried again after the back-off
ContainerCreated, ContainerStarted   the first process runs
  ProbeFailed                        (1st, 2nd, 4th, 8th ... in a row)
  Pending:PortMismatch               it listens, but not on the port that it was given
  NonLoopbackListener                it listens where the network can reach it: killed, and not started again
  ReplicaUnhealthy                   the startup or liveness probe failed: stopped, and started again
ContainerTerminated                  it ended; the message has the exit code
  ContainerBackOff                   how long it waits before it is started again
```
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from localcloud.clock import utc_now
from localcloud.runtime.run_loop import RunLoop
from localcloud.runtime.spec import ConsoleRecord, ReplicaStatus, RevisionSpec
from localcloud.runtime.workspace import ReplicaContext, Workspace, remove_directories

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.runtime.ingress import Backend
    from localcloud.runtime.logs import Log

LOGGER: Final = logging.getLogger(__name__)


class Replica:
    """A container of a revision that is kept running until it is stopped.

    Guarantees:

    - Its processes are a group of their own, in a scratch directory of their own, with nothing of this
      machine's environment but what `Workspace.environment` lists; each run gets a free loopback port.
    - When its first process ends, for whatever reason, everything else that it started is killed before
      anything else happens, as in a container. Nothing is left after `stop` has returned.
    - A run that ends is followed by another, after a back-off, for as long as the replica is not stopped
      (also after exit code 0: an app is meant to run), unless it listened on an address that others than
      this machine can reach. A replica of a job ends with its run.
    - It is ready only while its probes succeed and its listening sockets are loopback only.
    - Its console log can be read at any time, and after its end.

    Args:
        spec: What to run.
        context: The host's side.
        on_change: Called after every change of its status.
    """

    def __init__(self, spec: RevisionSpec, context: ReplicaContext, on_change: Callable[[], None]) -> None:
        self.created = utc_now()
        self._spec = spec
        self._context = context
        self._on_change = on_change
        self._workspace = Workspace(spec, context)
        self._stop = asyncio.Event()
        self._loop = RunLoop(self._workspace, self._stop, self._changed)
        self._draining = False
        self._stopping: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(self._run(), name=f"replica {self.name}")

    @property
    def name(self) -> str:
        """The replica's name."""
        return self._workspace.name

    @property
    def is_ready(self) -> bool:
        """Whether the ingress may send it requests."""
        return self._loop.is_ready and not self._draining

    @property
    def is_draining(self) -> bool:
        """Whether it is being stopped."""
        return self._draining

    @property
    def is_failing(self) -> bool:
        """Whether its last run failed and it has not been ready since."""
        return self._loop.is_failing

    @property
    def log(self) -> Log[ConsoleRecord]:
        """Its console log."""
        return self._workspace.log

    @property
    def port(self) -> int | None:
        """The loopback port of its current run."""
        return self._loop.port

    @property
    def backend(self) -> Backend | None:
        """The same, for the ingress."""
        return self._loop.backend

    @property
    def status(self) -> ReplicaStatus:
        """Its current status."""
        return ReplicaStatus(
            name=self.name,
            revision=self._spec.revision,
            container=self._spec.container.name,
            created=self.created,
            ready=self.is_ready,
            started=self._loop.is_started,
            restart_count=max(0, self._loop.run_count - 1),
            running_state=self._loop.state,
            details=self._loop.details,
            exit_code=self._loop.exit_code,
            port=self.port,
        )

    async def stop(self) -> None:
        """Stop the replica, and return when nothing of it is left.

        It gets no new requests from now on. After a moment for those already on their way it gets SIGTERM,
        and after its grace period SIGKILL. Calling `stop` again, or cancelling it, changes nothing.
        """
        if self._stopping is None:
            self._draining = True
            self._changed()
            self._stopping = asyncio.create_task(self._drain(), name=f"stop {self.name}")
        await asyncio.wait({self._stopping, self._task})

    async def ended(self) -> None:
        """Wait until the replica of a job has ended, and nothing of it is left."""
        await asyncio.wait({self._task})

    async def _drain(self) -> None:
        if self.backend is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._context.limits.drain_requests_s):
                    await self.backend.idle()
        self._stop.set()

    async def _run(self) -> None:
        try:
            # Not a task: when all tasks are cancelled this goes on, and `_close` waits for it.
            self._opening = asyncio.get_running_loop().run_in_executor(None, self._workspace.create)
            await asyncio.shield(self._opening)
            message = f"Replica '{self.name}' has been scheduled on this machine"
            await self._workspace.emit("AssigningReplica", message)
            await self._loop.run_until_stopped()
        except Exception as error:
            # A bug, or a full disk: the other replicas keep running, and this one's status has the reason.
            LOGGER.exception("replica %s has failed", self.name)
            self._loop.mark_broken(error)
        finally:
            self._loop.mark_terminated()
            await self._close()

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})
        survivors = await asyncio.to_thread(self._workspace.processes.kill, self._context.limits.kill_s)
        await asyncio.to_thread(self._context.mounts.release, self.name)
        await asyncio.to_thread(remove_directories, self._workspace.directory)
        if not survivors:
            self._workspace.processes.close()
        self.log.close()

    def _changed(self) -> None:
        if self.is_ready:
            self._loop.is_failing = False
        self._on_change()

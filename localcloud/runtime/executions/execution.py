"""One execution of a job: replicas of one container, until enough of them have succeeded.

Source: Kubernetes, "Jobs" (completions, parallelism and the back-off limit);
microsoft/azure-container-apps#986 (the time limit holds for the execution; its event, `DeadlineExceeded`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from localcloud.runtime.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from localcloud.runtime.spec import EventType, ExecutionEnd, ExecutionSpec, ReplicaStatus
    from localcloud.runtime.workspace import ReplicaContext

LOGGER: Final = logging.getLogger(__name__)


class Execution:
    """The replicas of one execution.

    Guarantees:

    - No more than `parallelism` replicas run at a time, and no more than can still complete it.
    - A replica that fails is replaced by a new one after a back-off. The execution fails with the first
      failure beyond the retry limit, and when its time is over; replicas that still run are then stopped.
    - When `ended` has returned, no replica is left.

    Args:
        spec: What to run.
        context: The host's side.
        announce: Writes an event of the execution: (reason, message, type).
    """

    def __init__(
        self,
        spec: ExecutionSpec,
        context: ReplicaContext,
        announce: Callable[[str, str, EventType], Awaitable[None]],
    ) -> None:
        self.spec = spec
        self.replicas: list[Replica] = []
        self._context = context
        self._announce = announce
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"execution {spec.name}")

    @property
    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """The status of its replicas, newest first."""
        return tuple(replica.status for replica in reversed(self.replicas))

    async def ended(self) -> ExecutionEnd:
        """Wait for its end, and return how it ended."""
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Stop its replicas, and return when nothing of them is left."""
        self._stop.set()
        await asyncio.wait({self._task})

    async def _run(self) -> ExecutionEnd:
        work = asyncio.create_task(self._complete(), name=f"replicas of {self.spec.name}")
        halt = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait(
                {work, halt}, timeout=self.spec.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                return "Succeeded" if work.result() else "Failed"
            if halt not in done:
                message = "Job was active longer than specified deadline"
                await self._announce("DeadlineExceeded", message, "Warning")
        except Exception:
            # A bug, or a full disk: the other executions go on.
            LOGGER.exception("execution %s has failed", self.spec.name)
            return "Failed"
        else:
            return "Stopped" if halt in done else "Failed"
        finally:
            work.cancel()
            halt.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(work, halt, return_exceptions=True)
            await asyncio.gather(*(replica.stop() for replica in self.replicas))

    async def _complete(self) -> bool:
        """Run replicas until enough have succeeded; return False when too many have failed."""
        succeeded = failed = 0
        active: dict[asyncio.Task[None], Replica] = {}
        try:
            while succeeded < self.spec.completions:
                while len(active) < min(self.spec.parallelism, self.spec.completions - succeeded):
                    replica = Replica(self.spec.replica_spec(), self._context, _ignore)
                    self.replicas.append(replica)
                    active[asyncio.create_task(replica.ended())] = replica
                done, _ = await asyncio.wait(active, return_when=asyncio.FIRST_COMPLETED)
                codes = [active.pop(task).status.exit_code for task in done]
                succeeded += codes.count(0)
                failures = len(codes) - codes.count(0)
                failed += failures
                if failed > self.spec.retry_limit:
                    await self._announce(
                        "BackoffLimitExceeded", "Job has reached the specified backoff limit", "Warning"
                    )
                    return False
                if failures:
                    await asyncio.sleep(self._context.limits.back_off.delay_s(failed))
        finally:
            for task in active:
                task.cancel()
        await self._announce("Completed", "Execution has successfully completed", "Normal")
        return True


def _ignore() -> None:
    """Take no note of a change: who asks for the status gets the present one."""

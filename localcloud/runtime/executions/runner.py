"""All executions of jobs of the local cloud, with their logs. It must not know Azure's resources."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING

from localcloud.clock import utc_now
from localcloud.runtime.executions.execution import Execution
from localcloud.runtime.logs import Log, console_log, system_log
from localcloud.runtime.spec import ConsoleRecord, EventType, ReplicaStatus, SystemRecord
from localcloud.runtime.workspace import CONSOLE, remove_oldest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from localcloud.runtime.spec import ExecutionEnd, ExecutionSpec, Limits
    from localcloud.runtime.workspace import Emit, ReplicaContext


class Executions:
    """The executions that run, and the logs of those that have ended.

    All methods must be called on one event loop. A name that is unknown raises KeyError.

    Args:
        state: The host's directory.
        limits: Times and sizes.
        context: Returns the host's side of replicas, for their directory and what writes their events.
        recover: Removes what an earlier host left; awaited before anything is started.
    """

    def __init__(
        self,
        state: Path,
        limits: Limits,
        context: Callable[[Path, Emit], ReplicaContext],
        recover: Callable[[], Awaitable[object]],
    ) -> None:
        self._state = state
        self._limits = limits
        self._context = context
        self.recover = recover
        self._running: dict[str, Execution] = {}
        self._starting: set[str] = set()
        self._logs: dict[str, Log[SystemRecord]] = {}

    async def run(self, spec: ExecutionSpec) -> ExecutionEnd:
        """Run an execution to its end, and return how it ended.

        The replicas of an execution that has ended are forgotten, all but their logs.
        """
        self._starting.add(spec.name)
        await self.recover()
        directory = self._directory_of(spec.job) / "replicas"
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        alive = {replica.name for found in self._running.values() for replica in found.replicas}
        await asyncio.to_thread(remove_oldest, directory, alive, self._limits.kept_logs)
        log = self._log(spec.job)

        async def emit(replica: str, reason: str, message: str, kind: EventType, count: int) -> None:
            record = SystemRecord(utc_now(), kind, spec.job, spec.name, replica, reason, message, count)
            await log.append([record])

        async def announce(reason: str, message: str, kind: EventType) -> None:
            await emit("", reason, message, kind, 1)

        if spec.name not in self._starting:
            return "Stopped"
        self._starting.discard(spec.name)
        execution = Execution(spec, self._context(directory, emit), announce)
        self._running[spec.name] = execution
        try:
            return await execution.ended()
        finally:
            await execution.stop()
            del self._running[spec.name]

    async def stop(self, execution: str) -> None:
        """Stop an execution, and return when nothing of it is left; do nothing if it does not run.

        One that is about to start does not start.
        """
        self._starting.discard(execution)
        found = self._running.get(execution)
        if found is not None:
            await found.stop()

    async def remove(self, job: str) -> None:
        """Stop the executions of a job, and remove its logs."""
        await asyncio.gather(*(found.stop() for found in self._running.values() if found.spec.job == job))
        log = self._logs.pop(job, None)
        if log is not None:
            log.close()
        await asyncio.to_thread(shutil.rmtree, self._directory_of(job), ignore_errors=True)

    async def close(self) -> None:
        """Stop all executions, and return when no process is left."""
        await asyncio.gather(*(found.stop() for found in self._running.values()))
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def replicas(self, execution: str) -> tuple[ReplicaStatus, ...]:
        """Return the status of an execution's replicas, newest first; none for one that has ended."""
        found = self._running.get(execution)
        return found.statuses if found is not None else ()

    def logged_replicas(self, job: str, execution: str) -> tuple[str, ...]:
        """Return the names of an execution's replicas whose console logs are kept, newest first."""
        found = (self._directory_of(job) / "replicas").glob(f"{execution}-*")
        newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        return tuple(path.name for path in newest if _is_replica_of(path.name, execution))

    def console_log(
        self, job: str, execution: str, replica: str, *, tail: int = 20, follow: bool = False
    ) -> AsyncIterator[ConsoleRecord]:
        """Yield the last lines of a replica's console; with `follow`, then every new one until it ends.

        Raises:
            KeyError: there is no log of such a replica (raised at once, not while iterating).
        """
        running = self._running.get(execution)
        for candidate in running.replicas if running is not None else ():
            if candidate.name == replica:
                return candidate.log.read(tail, follow=follow)
        # The name may come from a URL: only one of the right form may become a path.
        directory = self._directory_of(job) / "replicas" / replica
        if not _is_replica_of(replica, execution) or not directory.is_dir():
            raise KeyError(replica)
        log = console_log(directory / CONSOLE, self._limits.log_bytes)
        log.close()
        return log.read(tail, follow=follow)

    def system_log(self, job: str, *, tail: int = 20, follow: bool = False) -> AsyncIterator[SystemRecord]:
        """Yield the last events of a job; with `follow`, then every new one until the job is removed."""
        return self._log(job).read(tail, follow=follow)

    def _log(self, job: str) -> Log[SystemRecord]:
        if job not in self._logs:
            directory = self._directory_of(job)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._logs[job] = system_log(directory / "system.log", self._limits.log_bytes)
        return self._logs[job]

    def _directory_of(self, job: str) -> Path:
        return self._state / "jobs" / job


def _is_replica_of(replica: str, execution: str) -> bool:
    return re.fullmatch(re.escape(execution) + r"-[a-z0-9]{5}", replica) is not None

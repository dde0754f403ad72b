"""One run of a container: from the start of its first process until no process of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Final

from localcloud.clock import utc_now
from localcloud.operating_system import kill_group
from localcloud.runtime import processes
from localcloud.runtime.logs import LineSplitter, Log
from localcloud.runtime.spec import ConsoleRecord, Limits

LOGGER: Final = logging.getLogger(__name__)
_CHUNK_BYTES: Final = 64 * 1024


class ContainerRun:
    """A running container: its first process, all others, and the pipe that carries their output.

    Create one with `start`; after `end` no process of it is left.
    """

    def __init__(
        self,
        process: processes.Process,
        tree: processes.ProcessTree,
        output: asyncio.ReadTransport,
        pump: asyncio.Task[None],
        limits: Limits,
    ) -> None:
        self._process = process
        self._tree = tree
        self._output = output
        self._pump = pump
        self._limits = limits
        self.began = utc_now()

    @classmethod
    async def start(
        cls,
        launch: processes.Launch,
        tree: processes.ProcessTree,
        log: Log[ConsoleRecord],
        limits: Limits,
    ) -> ContainerRun:
        """Start the container's first process; the output of all its processes goes to the log.

        Raises:
            OSError: the program is missing or cannot be executed.
        """
        reading, writing = os.pipe()
        try:
            process = processes.start(launch, writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        reader = asyncio.StreamReader()
        output, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        pump = asyncio.create_task(_pump(reader, log), name=f"output of {process.pid}")
        run = cls(process, tree, output, pump, limits)
        await asyncio.to_thread(tree.add, process.pid)
        return run

    async def ended(self) -> int:
        """Wait until the first process ends; return its exit code (128 + n after signal n)."""
        return await self._process.wait()

    async def end(self, grace_s: float) -> tuple[int, list[int]]:
        """Send SIGTERM to the first process, then SIGKILL to all that are left.

        As in a container, only the first process gets SIGTERM. The others are killed when it has ended, or
        after `grace_s`.

        Returns:
            The exit code of the first process, and the pids of processes that could not be killed.
        """
        if self._process.is_running:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
        stuck = await asyncio.to_thread(self._tree.kill, self._limits.kill_s)
        code = await self.ended() if self._process.pid not in stuck else processes.exit_code(-9)
        await self._drain()
        return code, stuck

    def abandon(self) -> None:
        """Kill the container's process group at once, when this process is being cancelled."""
        if self._process.is_running:
            kill_group(self._process.pid)
        self._pump.cancel()
        self._output.close()

    async def _drain(self) -> None:
        # All writers are dead, so the output ends soon, unless a process was not found.
        await asyncio.wait({self._pump}, timeout=self._limits.drain_output_s)
        self._pump.cancel()
        self._output.close()


async def _pump(reader: asyncio.StreamReader, log: Log[ConsoleRecord]) -> None:
    splitter = LineSplitter()
    while data := await reader.read(_CHUNK_BYTES):
        await _append(splitter.feed(data), log)
    await _append(splitter.end(), log)


async def _append(lines: list[str], log: Log[ConsoleRecord]) -> None:
    time = utc_now()
    try:
        await log.append(ConsoleRecord(time, line) for line in lines)
    except OSError as error:
        # Keep reading: a container blocks when its output is not read.
        LOGGER.warning("%d lines of a container's output are lost: %s", len(lines), error)

"""A process that the supervisor has started: its output, its control channel and its end.

Children lead sessions of their own: a signal from a terminal reaches the supervisor alone, and the processes
that a child has started can be ended with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

from inference.control import Channel
from inference.imports import Imports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TAIL_BYTES: Final = 4096
"""How much of the end of a child's output is kept, to explain its end."""

LOGGED: Final = " ERROR "
"""What the lines of logged errors contain, after their time."""

KILL_AFTER_S: Final = 10.0
READ_AFTER_S: Final = 1.0
"""How long output and messages are read after the end of the process: what it has left behind may keep the
other end open."""

_CHUNK_BYTES: Final = 1 << 16
_STDERR: Final = 2


class Started(Protocol):
    """What is needed of a process that was started, as `subprocess.Popen` offers it."""

    pid: int
    stdout: IO[bytes] | None

    def wait(self) -> int:
        """Wait for the end, and return the exit code; below zero, the signal that ended it."""


class Child:
    """A child process.

    Attributes:
        ended: The exit code, as `subprocess` gives it, once the process has ended.
        phase: What the process last reported that it does.
        percent: How far that is.
        ready: Done when the process has reported that it is ready.
        accepting: Done when the process accepts connections.
        engine_ready_at: When its engine became ready last, in the event loop's time; None if it did not.
        failure: The reason that it gave for its end; None if it gave none.
        answers: How each of its models has answered a request: None, or why it failed. None if it does not
            check that.
        imports: What it has imported, as far as it has reported it.
        has_reported: Done when that report is complete.
    """

    def __init__(self, process: Started, channel: Channel | None) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.ended: asyncio.Future[int] = loop.create_future()
        self.phase, self.percent = "starting", 0
        self.ready, self.accepting = asyncio.Event(), asyncio.Event()
        self.engine_ready_at: float | None = None
        self.failure: str | None = None
        self.answers: dict[str, str | None] | None = None
        self.imports, self.has_reported = Imports(), asyncio.Event()
        self._process = process
        self._channel = channel
        self._tail = b""
        self._ready_at: float | None = None
        self._following = asyncio.create_task(self._follow()) if channel is not None else None
        threading.Thread(target=self._watch, args=(loop,), daemon=True).start()

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        listener: socket.socket | None = None,
    ) -> Self:
        """Start a process.

        Args:
            argv: The command.
            folder: Its working directory.
            environ: Its environment.
            listener: The listening socket that it inherits, with a control channel; None for neither.
        """
        if listener is None:
            return cls(_popen(argv, folder, environ, ()), None)
        ours, theirs = socket.socketpair()
        with theirs:
            passed = {"FJARR_SOCKET_FD": str(listener.fileno()), "FJARR_CONTROL_FD": str(theirs.fileno())}
            process = _popen(argv, folder, {**environ, **passed}, (listener.fileno(), theirs.fileno()))
        return cls(process, await Channel.open(ours))

    @property
    def is_running(self) -> bool:
        """Return whether the end of the process was not seen yet."""
        return not self.ended.done()

    @property
    def ready_s(self) -> float:
        """Return for how long the process has been ready; 0 if it is not."""
        return 0.0 if self._ready_at is None else asyncio.get_running_loop().time() - self._ready_at

    @property
    def engine_ready_s(self) -> float:
        """Return for how long the engine of this server has been ready; 0 if it is not."""
        ready_at = self.engine_ready_at
        return 0.0 if ready_at is None else asyncio.get_running_loop().time() - ready_at

    def send(self, **message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message over the control channel."""
        if self._channel is not None:
            self._channel.send(**message)

    def explain(self) -> str:
        """Return why the process has ended: the reason that it reported, else the last line of its output."""
        if self.failure is not None:
            return self.failure
        code = self.ended.result() if self.ended.done() else None
        ending = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        last = last_words(self._tail.decode(errors="replace"))
        return f"it ended with {ending}" + (f": {last}" if last else "")

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, grace_s: float = KILL_AFTER_S) -> int:
        """End the process and all that it has started: with SIGTERM, and after `grace_s` with SIGKILL."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), grace_s)
        self.kill()
        return await self.ended

    def kill(self) -> None:
        """Kill the process and all that it has started, in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass the output on until the process ends. In a thread."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        output = self._process.stdout.fileno()
        reader = threading.Thread(target=self._pass_output_on, args=(output,), daemon=True)
        reader.start()
        code = self._process.wait()
        # A process that it has left behind may keep the pipe open.
        reader.join(READ_AFTER_S)
        if not reader.is_alive():
            self._process.stdout.close()
        settling = self._settle(code)
        try:
            asyncio.run_coroutine_threadsafe(settling, loop)
        except RuntimeError:  # the loop is closed: nobody waits for the end
            settling.close()

    async def _settle(self, code: int) -> None:
        """Make the end of the process known, once its last messages are read: they may give the reason."""
        if self._channel is not None and self._following is not None:
            await asyncio.wait({self._following}, timeout=READ_AFTER_S)
            self._following.cancel()
        if not self.ended.done():
            self.ended.set_result(code)

    def _pass_output_on(self, output: int) -> None:
        while chunk := os.read(output, _CHUNK_BYTES):
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            with contextlib.suppress(OSError):
                os.write(_STDERR, chunk)

    async def _follow(self) -> None:
        assert self._channel is not None  # noqa: S101 - followed only if there is one
        try:
            async for message in self._channel:
                self._take(message)
        finally:
            self._channel.close()

    def _take(self, message: dict[str, Any]) -> None:
        self.phase = message.get("phase", self.phase)
        self.percent = message.get("percent", self.percent)
        self.failure = message.get("failed", self.failure)
        self.answers = message.get("answers", self.answers)
        if message.get("ready"):
            self._ready_at = self._ready_at or asyncio.get_running_loop().time()
            self.ready.set()
        if message.get("engine_ready"):
            self.engine_ready_at = asyncio.get_running_loop().time()
        if message.get("accepting"):
            self.accepting.set()
        if "imports" in message:
            self.imports = self.imports.extended(message["imports"])
            if message["imports"].get("complete"):
                self.has_reported.set()


def last_words(output: str) -> str:
    """Return the end of an output: the errors that were logged last, else the last line."""
    lines = output.strip().splitlines()
    errors = [
        line.partition(LOGGED)[2].partition(": ")[2]
        for line in itertools.takewhile(lambda line: LOGGED in line, reversed(lines))
    ]
    return "; ".join(reversed(errors)) or (lines[-1].strip() if lines else "")


def python(module: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", module]


def _popen(
    argv: Sequence[str], folder: Path, environ: Mapping[str, str], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(descriptors),
        start_new_session=True,
    )

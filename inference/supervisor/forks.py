"""Start servers as forks of a process that has imported their libraries beforehand.

That process, `fork_server`, is started once a server has reported what it imports, and started anew when
another server imports more, or has other packages. Where it cannot run, servers are started the plain way:
on other systems than Linux, with little free memory, or if a library starts threads when it is imported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from inference.control import Channel
from inference.supervisor.child import Child
from inference.supervisor.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.imports import Imports

LOGGER: Final = logging.getLogger(__name__)

PROGRAM: Final = Path(__file__).with_name("fork_server.py")

MIN_FREE_BYTES: Final = 1 << 30
"""How much memory must be free: the libraries take some 250 MB, which the forks share."""

IMPORT_TIMEOUT_S: Final = 300.0
FORK_TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 1 << 17

VARIABLES: Final = ("FJARR_SOCKET_FD", "FJARR_CONTROL_FD")
"""The variables with the numbers of the descriptors that a server inherits."""

PRIVATE: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""What keeps libraries from starting threads. A server multiplies no matrices; an engine is no fork."""

UNKNOWN_EXIT_CODE: Final = 255


class ForkError(Exception):
    """The reason why there is no fork."""


@dataclass(frozen=True, slots=True)
class Preload:
    """What a fork server is started with.

    Attributes:
        imports: What it imports.
        packages: The folder with a release's own packages; None if there is none.
        environ: Its environment, without what the imports need in addition.
    """

    imports: Imports
    packages: Path | None
    environ: Mapping[str, str]

    def serves(self, other: Preload) -> bool:
        """Return whether a process that was started with this does for a server that needs the other."""
        return self.packages == other.packages and self.imports.includes(other.imports)


class Forked:
    """A process that was forked on request: what `Child` needs of `subprocess.Popen`."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout

    def wait(self) -> int:
        """Wait for the end, and return the exit code as `subprocess` gives it."""
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return UNKNOWN_EXIT_CODE


class Forks:
    """The fork server, while there is one."""

    def __init__(self) -> None:
        self._server: ForkServer | None = None
        self._refused: Preload | None = None

    async def prepare(self, preload: Preload) -> None:
        """Have a fork server for servers that need this, unless that is impossible."""
        current = self._server
        if current is not None and current.is_running and current.preload.serves(preload):
            return
        if self._refused is not None and self._refused.serves(preload):
            return
        if current is not None and current.preload.packages == preload.packages:
            # A fork does not set again what its libraries have found.
            preload = replace(preload, imports=current.preload.imports.united(preload.imports))
        free = await asyncio.to_thread(free_bytes)
        if free is None or free < MIN_FREE_BYTES:
            return
        try:
            server = await ForkServer.start(preload)
        except ForkError as error:
            self._refused = preload
            LOGGER.info("the next server imports its libraries itself: %s", error)
            return
        self.close()
        self._server = server
        LOGGER.info("the libraries of the next server are imported")

    async def start(
        self,
        module: str,
        folder: Path,
        environ: Mapping[str, str],
        listener: socket.socket,
        packages: Path | None,
    ) -> Child | None:
        """Start a module of a release as a fork; None if it has to be started the plain way."""
        if self._server is None or self._server.preload.packages != packages:
            return None
        try:
            return await self._server.fork(module, folder, environ, listener)
        except ForkError as error:
            LOGGER.warning("no fork of the imported libraries: %s", error)
            self.close()
            return None

    def close(self) -> None:
        """End the fork server. Its forks stay."""
        if self._server is not None:
            self._server.close()
            self._server = None


class ForkServer:
    """A fork server that runs.

    Attributes:
        preload: What it was started with.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, preload: Preload) -> None:
        self.preload = preload
        self._process = process
        self._channel = channel

    @classmethod
    async def start(cls, preload: Preload) -> Self:
        """Start a fork server, and wait until its libraries are imported.

        Raises:
            ForkError: If it does not get there, or must not fork.
        """
        server = cls(*_start_process(preload), preload)
        try:
            await asyncio.to_thread(server._request_imports)
            await server._receive(IMPORT_TIMEOUT_S)
        except BaseException:
            server.close()
            raise
        return server

    @property
    def is_running(self) -> bool:
        """Return whether it can still be asked."""
        return self._process.poll() is None

    async def fork(
        self, module: str, folder: Path, environ: Mapping[str, str], listener: socket.socket
    ) -> Child:
        """Start a module as a fork.

        Args:
            module: The module.
            folder: The release's folder, and the working directory.
            environ: The whole environment.
            listener: The listening socket that it inherits, with a control channel.

        Raises:
            ForkError: If it does not succeed.
        """
        request = {
            "module": module, "folder": str(folder), "environ": dict(environ), "variables": VARIABLES,
        }  # fmt: skip
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        output = os.fdopen(reading, "rb", buffering=0)
        try:
            descriptors = [writing, listener.fileno(), theirs.fileno()]
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            answer = await self._receive(FORK_TIMEOUT_S)
        except BaseException as error:
            ours.close()
            output.close()
            if isinstance(error, OSError):
                raise ForkError(str(error)) from error
            raise
        finally:
            theirs.close()
            os.close(writing)
        return Child(Forked(answer["pid"], output), await Channel.open(ours))

    def close(self) -> None:
        """End it. Its forks stay."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _request_imports(self) -> None:
        """Send what to import. Blocks until it is read."""
        imports = self.preload.imports
        document = {"modules": imports.modules, "blocked": imports.blocked, "private": list(PRIVATE)}
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            with self._process.stdin as stdin:
                stdin.write(json.dumps(document).encode())
        except OSError as error:
            raise ForkError(str(error)) from error

    async def _receive(self, timeout_s: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                message = await loop.sock_recv(self._channel, MAX_ANSWER_BYTES)
        except TimeoutError:
            raise ForkError(f"no answer within {timeout_s:.0f} s") from None
        except OSError as error:
            raise ForkError(str(error)) from error
        if not message:
            raise ForkError("the process has ended")
        answer: dict[str, Any] = json.loads(message)
        if "refused" in answer:
            raise ForkError(str(answer["refused"]))
        return answer


def _start_process(preload: Preload) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process, and return it with the socket on which it gets requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)  # noqa: FBT003 - its only argument
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(theirs.fileno())],
            env={**preload.environ, **preload.imports.environ, **PRIVATE},
            stdin=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return process, ours

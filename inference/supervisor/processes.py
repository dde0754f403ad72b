"""The processes of a replica: the engine and the server that serve, those that start, those that retire."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.errors import TakeoverError
from inference.packages.provision import remove_packages
from inference.supervisor.launcher import PACKAGES
from inference.supervisor.releases import remove_others
from inference.supervisor.waits import first, within

if TYPE_CHECKING:
    import socket

    from inference.control import ReplicaState
    from inference.supervisor.child import Child
    from inference.supervisor.launcher import Engine, Launcher, Tree

LOGGER: Final = logging.getLogger("inference.supervisor")

ACCEPT_TIMEOUT_S: Final = 30.0
"""How long a server that has started may take until it accepts connections."""

RETIRE_TIMEOUT_S: Final = 300.0
"""A server that was replaced ends within this time: longer than a request may take."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A release that runs: its files, its engine, its server.

    Attributes:
        engine: None if the server loads the models itself.
    """

    tree: Tree
    engine: Engine | None
    server: Child


class Processes:
    """Starts and ends the processes of a replica, and tells its servers the replica's state.

    Args:
        launcher: Starts a process.
        listener: The listening socket.
        state: The replica's state at first.

    Attributes:
        instance: What serves; None before the first start.
    """

    def __init__(self, launcher: Launcher, listener: socket.socket, state: ReplicaState) -> None:
        self.instance: Instance | None = None
        self.state = state
        self._launcher = launcher
        self._listener = listener
        self._starting: Child | None = None
        self._retiring: dict[Child, Instance] = {}
        self._engines: set[Child] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._preparing: asyncio.Task[None] | None = None
        self._is_stopping = False

    def show(self, phase: str | None = None, percent: int | None = None, **changes: Any) -> None:  # noqa: ANN401
        """Change what `/version` shows of this replica."""
        if phase is not None and percent is not None:
            changes |= {"phase": phase, "percent": percent}
        state = replace(self.state, **changes)
        if state != self.state:
            self.state = state
            for server in self._servers():
                server.send(state=state.to_json())

    async def start_engine(self, tree: Tree, socket_path: Path | None = None) -> Engine | None:
        """Start a release's engine; None if its server loads the models itself."""
        engine = await self._launcher.start_engine(tree, socket_path or self._launcher.new_socket_path())
        if engine is not None:
            self._engines.add(engine.process)
        return engine

    async def start_server(self, tree: Tree, socket_path: Path | None) -> Child:
        """Start a release's server on the engine that listens on a socket. It waits until it may accept."""
        self._starting = await self._launcher.start_server(tree, socket_path, self._listener)
        self._starting.send(state=self.state.to_json())
        if self._is_stopping:
            self._starting.signal(signal.SIGTERM)
        return self._starting

    async def let_accept(self, server: Child, *, holds: bool = False) -> None:
        """Let a server accept connections, and wait until it does.

        Args:
            server: The server.
            holds: Whether requests wait in it for its engine.

        Raises:
            TakeoverError: If it does not.
        """
        server.send(hold=holds, accept=True)
        await within(ACCEPT_TIMEOUT_S, server.accepting.wait(), server.ended)
        if not (server.accepting.is_set() and server.is_running):
            raise TakeoverError(f"its server does not accept connections: {server.explain()}")

    def begin(self, instance: Instance, *, holds: bool = False) -> None:
        """Let a server accept while it starts, with nothing beside it; it reports its own progress.

        Args:
            instance: What is started.
            holds: Whether requests wait in the server for its engine, which runs already.
        """
        self.adopt(instance)
        instance.server.send(hold=holds, accept=True)

    def adopt(self, instance: Instance) -> None:
        """Make an instance the one that serves."""
        self.instance, self._starting = instance, None
        self.show("serving", 100)
        if instance.engine is not None:
            self._prepare(instance)

    def give_up(self) -> None:
        """Kill the server that was started last, if it was not adopted."""
        if self._starting is not None:
            self._starting.kill()
            self._starting = None

    async def end_engine(self, engine: Engine) -> None:
        """End an engine, and wait until it has ended."""
        await engine.process.end()
        self._engines.discard(engine.process)

    async def retire(self, old: Instance) -> None:
        """Let a server finish its answers and end, and then end its engine, if no other server uses it."""
        old.server.send(retire=True)
        self._retiring[old.server] = old
        await within(RETIRE_TIMEOUT_S, old.server.ended)
        await old.server.end()
        del self._retiring[old.server]
        current = None if self.instance is None else self.instance.engine
        used = [each.engine for each in self._retiring.values()]
        if old.engine is not None and old.engine is not current and old.engine not in used:
            await self.end_engine(old.engine)

    def retire_later(self, old: Instance) -> None:
        """Let a server finish its answers in the background."""
        burial = asyncio.create_task(self.retire(old))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def tidy(self) -> None:
        """Remove the copies of releases that no process runs, and their packages."""
        if self.instance is not None:
            trees = [self.instance.tree, *(each.tree for each in self._retiring.values())]
            copies, used = self.instance.tree.folder.parent, [each.packages for each in trees]
            # This process runs from the release that it was started with.
            kept = {Path.cwd(), *(each.folder for each in trees)}
            await asyncio.to_thread(remove_others, copies, kept)
            await asyncio.to_thread(remove_packages, copies / PACKAGES, [each for each in used if each])

    def pass_signal_on(self) -> None:
        """Send SIGTERM to every server: the first lets it drain, the second ends it at once."""
        self._is_stopping = True
        for server in self._servers():
            server.signal(signal.SIGTERM)

    async def ended(self, timeout_s: float) -> int:
        """Wait until the servers have drained, end the engine, and return the exit code.

        Args:
            timeout_s: How long the servers may take. They are killed then: the platform would soon kill all.
        """
        if self.instance is None:
            return 0
        servers = (self.instance.server, *self._retiring)
        await asyncio.wait([server.ended for server in servers], timeout=timeout_s)
        for server in servers:
            if server.is_running:
                LOGGER.error("a server has not ended within %g s after SIGTERM: it is killed", timeout_s)
                server.kill()
        code = await self.instance.server.ended
        if self.instance.engine is not None:
            await self.end_engine(self.instance.engine)
        if code == -signal.SIGTERM and self._is_stopping:
            return 0  # it had only just been started, and did not handle the signal yet
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Kill all that is left."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._launcher.close()
        for child in (*self._servers(), *self._engines):
            child.kill()

    def _prepare(self, instance: Instance) -> None:
        """Make the start of the next server sooner, from what this one has imported. In the background."""
        if self._preparing is not None:
            self._preparing.cancel()

        async def prepare() -> None:
            await first(instance.server.has_reported.wait(), instance.server.ended)
            if instance.server.has_reported.is_set():
                await self._launcher.prepare(instance.tree, instance.server.imports)

        self._preparing = asyncio.create_task(prepare())

    def _servers(self) -> tuple[Child, ...]:
        running = () if self.instance is None else (self.instance.server,)
        starting = () if self._starting is None else (self._starting,)
        return (*running, *starting, *self._retiring)

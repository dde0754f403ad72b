"""Start engine and server, take over each release that the share names, and start again what has crashed.

A new release is copied to this container's disk and its server is started beside the old one, on the same
engine and the same listening socket. It begins to accept when it is ready; then the old one stops accepting,
finishes its answers and exits. If the new one does not become ready, the old one goes on, and the reason is
reported.

If the engine has to be replaced, too, the new engine is loaded beside the old one. If both do not fit, the
old one is ended first, when the old server has finished its answers; requests wait in the new server
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from inference.control import ReplicaState
from inference.errors import TakeoverError
from inference.supervisor.crashes import CrashCounter
from inference.supervisor.launcher import Engine, Tree
from inference.supervisor.memory import fits_beside, measure
from inference.supervisor.page import StartingPage
from inference.supervisor.parts import find_change
from inference.supervisor.processes import Instance, Processes
from inference.supervisor.releases import fetch_release, find_damage, read_current, scan_release
from inference.supervisor.reports import Reporter
from inference.supervisor.waits import first, within

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from inference.supervisor.child import Child
    from inference.supervisor.launcher import Launcher

LOGGER: Final = logging.getLogger("inference.supervisor")

CHECK_S: Final = 1.0
"""The interval at which `CURRENT` is read. For a while after a change it is a quarter of this,
since somebody who develops deploys again soon. Each read is a request to the share."""

DEVELOPING_S: Final = 600.0
"""How long `CURRENT` is read more often after a change."""

SERVER_TIMEOUT_S: Final = 300.0
"""How long the server of another release may take until it is ready, on an engine that runs."""

ENGINE_TIMEOUT_S: Final = 3600.0
"""The same with an engine of its own, which may have to read gigabytes."""

DAMAGED_READS: Final = 5
"""After so many reads in a row that give no release, `CURRENT` is not just being written."""

PAGE_AFTER_S: Final = 2.0
"""How long connections may wait for a server that is started again before the page answers them."""

STOP_TIMEOUT_S: Final = 35.0
"""How long servers may take to end, unless the settings say another time."""


@dataclass(frozen=True, slots=True)
class Replica:
    """The names of this replica for `/version`. `started_at` is ISO 8601, UTC."""

    version: str
    revision: str
    name: str
    started_at: str


class _UnwantedError(Exception):
    """The end of an attempt to take over that is not wanted any more."""


class Supervisor:
    """The first process of the container.

    Args:
        launcher: Starts the processes of a release.
        listener: The listening socket.
        mount: The path at which the share is mounted.
        replica: The names of this replica.
        stop_timeout_s: How long servers may take to end after SIGTERM.
    """

    def __init__(
        self,
        launcher: Launcher,
        listener: socket.socket,
        mount: Path,
        replica: Replica,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self._launcher = launcher
        self._listener = listener
        self._mount = mount
        self._replica = replica
        self._stop_timeout_s = stop_timeout_s
        state = ReplicaState(phase="starting", percent=0, container_started_at=replica.started_at)
        self._processes = Processes(launcher, listener, state)
        self._crashes = CrashCounter()
        self._engine_crashes = CrashCounter()
        self._wanted: str | None = None
        self._failed: str | None = None
        self._page: StartingPage | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, release: str, folder: Path) -> int:
        """Start a release, follow the share until a signal or the last crash, and return the exit code.

        Args:
            release: The release's id; empty for a tree that is no release, which nothing replaces.
            folder: Its files on this container's disk.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_signal)
        self._processes.show(wanted_release=release or None, supervisor_release=release or None)
        reporter = Reporter(self._mount, self._replica.name, self._listener, self._state, self._answers)
        reporting = asyncio.create_task(reporter.run()) if release else None
        watching = asyncio.create_task(self._watch(release)) if release else None
        try:
            code = await self._start(release, folder)
            return await self._supervise() if code is None else code
        finally:
            for task in filter(None, (watching, reporting)):
                task.cancel()
            self._processes.kill()
            self._close_page()

    def _handle_signal(self) -> None:
        self._stop.set()
        self._processes.pass_signal_on()

    async def _start(self, release: str, folder: Path) -> int | None:
        """Start the first release. Return an exit code if that is impossible."""
        self._open_page()
        self._processes.show("installing packages", 0)
        installing = asyncio.create_task(asyncio.to_thread(self._launcher.install_first))
        await first(installing, self._stop.wait())
        if self._stop.is_set():
            return 0
        try:
            tree = Tree(release, folder, installing.result())
        except TakeoverError as error:
            LOGGER.error("%s", error)  # noqa: TRY400 - a traceback would bury the reason
            return 1
        await self._start_alone(tree)
        return None

    async def _start_alone(self, tree: Tree, running: Engine | None = None) -> None:
        """Start a release with nothing beside it, on an engine that runs or on one of its own."""
        engine = running or await self._processes.start_engine(tree)
        server = await self._processes.start_server(tree, None if engine is None else engine.socket_path)
        self._processes.begin(Instance(tree, engine, server), holds=running is not None)

    async def _supervise(self) -> int:
        """Handle what happens until the container ends, and return the exit code."""
        while True:
            instance = self._require_instance()
            server, engine = instance.server, instance.engine
            also = [] if server.accepting.is_set() else [server.accepting.wait()]
            ends = [server.ended] if engine is None else [server.ended, engine.process.ended]
            timeout_s = PAGE_AFTER_S if also and self._page is None else None
            if not await within(timeout_s, *ends, self._stop.wait(), self._changed.wait(), *also):
                self._open_page()
                continue
            if server.accepting.is_set():
                self._close_page()
            if self._stop.is_set():
                return await self._processes.ended(self._stop_timeout_s)
            code = await self._react(instance)
            if code is not None:
                return code

    async def _react(self, instance: Instance) -> int | None:
        """Handle what has happened. Return an exit code if the container has to end."""
        engine = instance.engine
        if engine is not None and not engine.process.is_running:
            return await self._recover_engine(instance, engine)
        if not instance.server.is_running:
            return await self._recover(instance)
        if self._changed.is_set():
            self._changed.clear()
            if not self._wanted and not instance.server.ready.is_set():
                LOGGER.error("%s was taken back before it served", instance.tree.release)
                return 1
            await self._follow_share()
        return None

    def _require_instance(self) -> Instance:
        assert self._processes.instance is not None  # noqa: S101 - set before the loop
        return self._processes.instance

    async def _recover(self, instance: Instance) -> int | None:
        """Start a server that has ended again. Return an exit code if the container has to end instead."""
        server = instance.server
        code, reason = await server.ended, server.explain()
        server.kill()
        if server.failure is not None and not server.ready.is_set():
            LOGGER.error("the server cannot start: %s", reason)
            return code if code > 0 else 1
        if self._crashes.record(server.ready_s):
            LOGGER.error("%d crashes in a row, the last one: %s", self._crashes.in_a_row, reason)
            return code if code > 0 else 1
        LOGGER.error("the server has crashed and is started again: %s", reason)
        self._processes.show("starting again after a crash", 0)
        if instance.engine is None:
            self._open_page()
        # Where the model is still loaded, the server is back within a second: connections wait for it in the
        # socket's queue, and requests in the server until it has found the engine.
        await self._start_alone(instance.tree, instance.engine)
        return None

    async def _recover_engine(self, instance: Instance, engine: Engine) -> int | None:
        """Start an engine that has ended again, where its servers look for it."""
        code, reason = await engine.process.ended, engine.process.explain()
        await self._processes.end_engine(engine)
        if instance.server.engine_ready_at is None:
            LOGGER.error("the engine cannot start: %s", reason)
            return code if code > 0 else 1
        if self._engine_crashes.record(instance.server.engine_ready_s):
            crashes = self._engine_crashes.in_a_row
            LOGGER.error("%d crashes of the engine in a row, the last one: %s", crashes, reason)
            return code if code > 0 else 1
        LOGGER.error("the engine has crashed and is loaded again: %s", reason)
        started = await self._processes.start_engine(instance.tree, engine.socket_path)
        self._processes.instance = replace(instance, engine=started)
        return None

    async def _follow_share(self) -> None:
        """Take over the release that the share names, unless it runs already or has failed here."""
        wanted, instance = self._wanted, self._require_instance()
        if not wanted or wanted == self._failed:
            return
        if wanted == instance.tree.release:
            self._failed = None
            self._processes.show("serving", 100, wanted_release=wanted, last_error=None)
            return
        LOGGER.info("the share names %s: it takes over from %s", wanted, instance.tree.release)
        try:
            await self._take_over(wanted, instance)
        except _UnwantedError:
            LOGGER.info("%s is not wanted any more", wanted)
        except TakeoverError as error:
            LOGGER.error("%s does not serve, %s goes on: %s", wanted, instance.tree.release, error)  # noqa: TRY400
            self._record_failure(wanted, str(error))
        except Exception as error:
            # Such as a full disk, or a process that the system does not start: what serves goes on.
            LOGGER.exception("%s does not serve, %s goes on", wanted, instance.tree.release)
            self._record_failure(wanted, f"{type(error).__name__}: {error}")
        finally:
            self._processes.give_up()

    def _record_failure(self, release: str, reason: str) -> None:
        self._failed = release
        self._processes.show("serving", 100, last_error=f"{release}: {reason}")

    async def _take_over(self, release: str, old: Instance) -> None:
        """Start a release, and let it take over once it is ready.

        Raises:
            TakeoverError: If it does not become ready.
            _UnwantedError: If the share names another release meanwhile, or a signal came.
        """
        self._processes.show("copying the release", 5, wanted_release=release, last_error=None)
        folder = await asyncio.to_thread(fetch_release, self._mount, release)
        change = await asyncio.to_thread(
            lambda: find_change(scan_release(old.tree.folder), scan_release(folder))
        )
        if change == "restart":
            raise TakeoverError("it has no supervisor that could take over: restart the revision")
        tree = Tree(release, folder, old.tree.packages)
        if change == "packages":
            self._processes.show("installing packages", 10)
            tree = replace(tree, packages=await asyncio.to_thread(self._launcher.install_beside, folder))
        if change in {"engine", "packages"}:
            # Its server may need other libraries, or find them another way.
            self._launcher.close()
        if old.engine is None or change not in {"engine", "packages"}:
            await self._start_beside(tree, old, old.engine)
        elif fits_beside(await asyncio.to_thread(measure, old.engine.process.pid)):
            engine = await self._processes.start_engine(tree)
            try:
                await self._start_beside(tree, old, engine)
            except BaseException:
                if engine is not None:
                    await self._processes.end_engine(engine)
                raise
        else:
            await self._reload(tree, old)
        LOGGER.info("%s serves", release)
        self._crashes, self._engine_crashes = CrashCounter(), CrashCounter()
        try:
            await self._processes.tidy()
        except OSError as error:
            LOGGER.warning("what no process runs any more was not removed from this disk: %s", error)

    async def _start_beside(self, tree: Tree, old: Instance, engine: Engine | None) -> None:
        """Start a server beside the old one, and let it take over once it is ready."""
        self._processes.show("starting the server", 20)
        server = await self._processes.start_server(tree, None if engine is None else engine.socket_path)
        timeout_s = SERVER_TIMEOUT_S if engine is old.engine and engine is not None else ENGINE_TIMEOUT_S
        await self._until_ready(server, engine, old.server, timeout_s)
        await self._processes.let_accept(server)
        self._close_page()
        self._processes.adopt(Instance(tree, engine, server))
        self._processes.retire_later(old)

    async def _reload(self, tree: Tree, old: Instance) -> None:
        """Replace the engine by one that does not fit beside it. Requests wait in the new server."""
        path = self._launcher.new_socket_path()
        server = await self._processes.start_server(tree, path)
        await self._processes.let_accept(server, holds=True)
        self._close_page()
        self._processes.show("waiting until the answers that run are complete", 20)
        await self._processes.retire(replace(old, engine=None))
        if old.engine is not None:
            await self._processes.end_engine(old.engine)
        engine: Engine | None = None
        try:
            engine = await self._processes.start_engine(tree, path)
            await self._until_ready(server, engine, None, ENGINE_TIMEOUT_S)
        except Exception:
            if engine is not None:
                await self._processes.end_engine(engine)
            self._processes.give_up()
            if not self._stop.is_set():
                await self._start_alone(old.tree)
            raise
        self._processes.adopt(Instance(tree, engine, server))

    async def _until_ready(
        self, server: Child, engine: Engine | None, old: Child | None, timeout_s: float
    ) -> None:
        """Wait until a server is ready, and show its progress.

        Raises:
            TakeoverError: If it or its engine ends, or it takes too long.
            _UnwantedError: If the share names another release meanwhile, or a signal came.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not server.ready.is_set():
            await within(
                CHECK_S / 4, server.ready.wait(), server.ended, self._stop.wait(), self._changed.wait()
            )
            self._processes.show(server.phase, server.percent)
            if old is not None and not old.is_running:
                # It answers with its progress, where nobody else answers.
                server.send(accept=True)
            if not server.is_running:
                raise TakeoverError(server.explain())
            if engine is not None and not engine.process.is_running:
                raise TakeoverError(engine.process.explain())
            if self._stop.is_set() or self._changed.is_set():
                raise _UnwantedError
            if loop.time() > deadline:
                raise TakeoverError(
                    f"it is not ready after {timeout_s:.0f} s: {server.phase}, {server.percent} %"
                )

    async def _watch(self, release: str) -> None:
        """Read `CURRENT` again and again. If that gives no release, nothing changes."""
        loop = asyncio.get_running_loop()
        self._wanted, often_until, unusable = release, 0.0, 0
        seen: str | None = release
        while True:
            await asyncio.sleep(CHECK_S / 4 if loop.time() < often_until else CHECK_S)
            current = await asyncio.to_thread(read_current, self._mount)
            unusable = unusable + 1 if current is None else 0
            if unusable == DAMAGED_READS:
                seen = await self._report_damage(seen)
            if current is not None and current != seen:
                self._wanted, self._failed, seen = current, None, current
                often_until = loop.time() + DEVELOPING_S
                self._processes.show(wanted_release=current, last_error=None)
                self._changed.set()

    async def _report_damage(self, seen: str | None) -> str | None:
        """Report what is wrong with `CURRENT`. Return what was seen of it; None if that is no release."""
        damage, is_content = await asyncio.to_thread(find_damage, self._mount)
        LOGGER.warning("%s; what serves goes on", damage)
        if not is_content:
            return seen  # a failing share is no fault of what is on it
        self._processes.show(last_error=f"{damage}: invoke rollback or invoke deploy writes it anew")
        return None

    def _open_page(self) -> None:
        """Answer probes and `/version` until a server does."""
        if self._page is None:
            self._page = StartingPage(self._listener, self._version)
            self._page.open()

    def _close_page(self) -> None:
        if self._page is not None:
            self._page.close()
            self._page = None

    def _state(self) -> dict[str, Any]:
        """Return the document of `/version`, with the progress that the serving server reports."""
        instance = self._processes.instance
        if instance is None:
            return self._version()
        server = instance.server
        progress = {"phase": server.phase, "percent": server.percent, "ready": server.ready.is_set()}
        return {**self._version(), "server": progress}

    def _answers(self) -> dict[str, str | None] | None:
        """Return how the models of the server that serves have answered."""
        instance = self._processes.instance
        return None if instance is None else instance.server.answers

    def _version(self) -> dict[str, Any]:
        """Return the document of `/version` while no server answers. Called from other threads."""
        instance, state = self._processes.instance, self._processes.state
        if instance is not None and not instance.server.accepting.is_set():
            state = replace(state, phase=instance.server.phase, percent=instance.server.percent)
        release = instance.tree.release if instance is not None else state.wanted_release
        return {
            "release": release or "",
            "version": self._replica.version,
            "revision": self._replica.revision,
            "replica": self._replica.name,
            "started_at": self._replica.started_at,
            "base_model": None,
            "adapters": [],
            "ready": False,
            **state.to_json(),
        }

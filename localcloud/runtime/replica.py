"""One replica: a container kept running on this machine, probed, logged, and ended without a trace.

The life of a replica, as its events tell it:

```
AssigningReplica                     it exists, and is waiting to be made
  VolumeMountFailure                 a mount path cannot be made; tried again after the back-off
ContainerCreated, ContainerStarted   its first process runs
  ProbeFailed                        (1st, 2nd, 4th, 8th ... in a row)
  Pending:PortMismatch               it listens, but not on the port that it was given
  NonLoopbackListener                it listens where the network can reach it: killed, and not started again
  ReplicaUnhealthy                   startup or liveness failed for good: stopped, and started again
ContainerTerminated                  it ended; the message has the exit code
  ContainerBackOff                   how long it waits before it is started again
```
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import string
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from localcloud.runtime import processes, sockets
from localcloud.runtime.container_run import ContainerRun
from localcloud.runtime.ingress import Backend
from localcloud.runtime.logs import Log, console_log, now
from localcloud.runtime.mounts import MountError, Mounts
from localcloud.runtime.probes import Prober, probes_of
from localcloud.runtime.spec import (
    ConsoleRecord,
    ContainerState,
    EventType,
    Limits,
    ProbeKind,
    ReplicaStatus,
    RevisionSpec,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

_log = logging.getLogger(__name__)

LEDGER = "processes.json"
CONSOLE = "console.log"
_SUFFIX_LETTERS = string.ascii_lowercase + string.digits
# Listening elsewhere must be seen so often in a row before it is told: some servers open another port first.
_STRAYED_TIMES = 2
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def new_name(revision: str) -> str:
    """Make up a replica's name as Azure does: `{revision}-{10 hex}-{5}`."""
    suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
    return f"{revision}-{secrets.token_hex(5)}-{suffix}"


def environment(spec: RevisionSpec, replica: str, port: int | None, directory: Path) -> dict[str, str]:
    """Return the whole environment of a container's process.

    The machine's own variables are not in it, but for a minimal PATH (with this Python's directory first, so
    that `python3` is the one that the local cloud runs on), and a HOME, TMPDIR and LANG of its own. The
    template's variables win over those, the platform's over the template's.

    Args:
        spec: The revision.
        replica: The replica's name.
        port: Its loopback port, None without an ingress.
        directory: The replica's own.
    """
    minimal = {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "HOME": str(directory / "home"),
        "TMPDIR": str((directory / "tmp").readlink()),
        "LANG": "C.UTF-8",
    }
    platform = {
        "CONTAINER_APP_NAME": spec.app,
        "CONTAINER_APP_REVISION": spec.revision,
        processes.REPLICA_VARIABLE: replica,
        "CONTAINER_APP_HOSTNAME": spec.hostname,
        "CONTAINER_APP_ENV_DNS_SUFFIX": spec.env_dns_suffix,
    }
    if port is not None:
        platform["CONTAINER_APP_PORT"] = str(port)
    return minimal | dict(spec.container.env) | platform


def prepare(directory: Path) -> None:
    """Make a replica's directories: `scratch` (the working directory), `home` and `tmp`.

    `tmp` is a symlink to a directory with a short path: sockets are made in TMPDIR, and the system allows
    their paths about a hundred characters.
    """
    for part in (directory, directory / "scratch", directory / "home"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "tmp").symlink_to(tempfile.mkdtemp(prefix="fjarr-"))


def discard(directory: Path) -> None:
    """Remove what `prepare` made, and keep the log."""
    tmp = directory / "tmp"
    if tmp.is_symlink():
        shutil.rmtree(tmp.readlink(), ignore_errors=True)
        tmp.unlink()
    for part in ("scratch", "home"):
        shutil.rmtree(directory / part, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """Hold what a replica needs of its host.

    Attributes:
        directory: Of the app's replicas; each gets a directory with its name.
        session: For HTTP probes.
        mounts: The symlinks of all replicas.
        limits: Times and sizes.
        emit: Writes an event of a replica to the app's system log: (replica, reason, message, type, count).
        ports: Returns the ports that other replicas were given.
    """

    directory: Path
    session: aiohttp.ClientSession
    mounts: Mounts
    limits: Limits
    emit: Callable[[str, str, str, EventType, int], Awaitable[None]]
    ports: Callable[[], set[int]]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Why a running container must be ended, and what follows."""

    event: str
    message: str
    reason: str
    is_final: bool = False


class Replica:
    """Keep one container of a revision running until it is stopped.

    Guarantees:

    - Its processes are a group of their own, in a scratch directory of their own, with nothing of this
      machine's environment but what `environment` says; each life gets a free loopback port of its own.
    - When its first process ends, for whatever reason, everything else that it started is killed before
      anything else happens, as the end of a container does. Nothing is left after `stop` has returned.
    - A life that ends is followed by another, after a back-off, for as long as the replica is not stopped
      (an exit code of 0 makes no difference: an app is meant to run), unless it listened on an address that
      others than this machine can reach.
    - It is ready only while its probes say so and its listening sockets have been found harmless.
    - Its console log can be read at any time, and after its end.

    Args:
        spec: What to run.
        context: The host's side.
        changed: Called after every change of its status.
    """

    def __init__(self, spec: RevisionSpec, context: ReplicaContext, changed: Callable[[], None]) -> None:
        self.name = new_name(spec.revision)
        self.spec = spec
        self.created = now()
        self.backend: Backend | None = None
        self.failing = False
        self._context = context
        self._tell = changed
        self._directory = context.directory / self.name
        self._probes = probes_of(spec.container, spec.target_port)
        self._state: ContainerState = "Waiting"
        self._details = "ContainerCreating"
        self._exit_code: int | None = None
        self._port: int | None = None
        self._lives = 0
        self._started = False
        self._probed_ready = False
        self._inspected = False
        self._inspect_now = asyncio.Event()
        self._draining = False
        self._stop = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._log = console_log(self._directory / CONSOLE, context.limits.log_bytes)
        self._tree = processes.ProcessTree(self.name, self._directory / LEDGER)
        self._task = asyncio.create_task(self._live(), name=f"replica {self.name}")

    @property
    def is_ready(self) -> bool:
        """Whether the ingress may send it requests."""
        return self._probed_ready and self._inspected and not self._draining

    @property
    def is_draining(self) -> bool:
        """Whether it is being stopped."""
        return self._draining

    @property
    def log(self) -> Log[ConsoleRecord]:
        """Its console log."""
        return self._log

    @property
    def port(self) -> int | None:
        """The loopback port of its present life."""
        return self._port

    @property
    def status(self) -> ReplicaStatus:
        """How it is now."""
        return ReplicaStatus(
            name=self.name,
            revision=self.spec.revision,
            container=self.spec.container.name,
            created=self.created,
            ready=self.is_ready,
            started=self._started,
            restart_count=max(0, self._lives - 1),
            running_state=self._state,
            details=self._details,
            exit_code=self._exit_code,
            port=self._port,
        )

    async def stop(self) -> None:
        """End the replica, and return when nothing of it is left.

        It gets no new requests from now on; after a moment for those already on their way it gets SIGTERM,
        and what is left after its grace SIGKILL. Calling it again, or cancelling it, changes nothing.
        """
        if self._stopping is None:
            self._draining = True
            self._changed()
            self._stopping = asyncio.create_task(self._settle(), name=f"stop {self.name}")
        await asyncio.wait({self._stopping, self._task})

    async def _settle(self) -> None:
        if self.backend is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._context.limits.drain_requests_s):
                    await self.backend.idle()
        self._stop.set()

    async def _live(self) -> None:
        try:
            # Not a task: when all tasks are cancelled this goes on, and `_close` waits for it.
            self._opening = asyncio.get_running_loop().run_in_executor(None, self._open)
            await asyncio.shield(self._opening)
            await self._emit("AssigningReplica", f"Replica '{self.name}' has been scheduled on this machine")
            await self._live_on()
        except Exception as error:  # noqa: BLE001 - told in three places, below
            # A bug, or a full disk: the others run on, and this one says why it does not.
            _log.exception("replica %s has failed", self.name)
            self.failing = True
            self._details = f"the local cloud failed to keep it running: {error}"
        finally:
            self._state = "Terminated"
            self._changed()
            await self._close()

    async def _live_on(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while not self._stop.is_set():
            born = clock()
            if not await self._live_once():
                await self._stop.wait()
            if self._stop.is_set():
                return
            failures = self._context.limits.back_off.count(failures, clock() - born)
            await self._back_off(failures)

    async def _live_once(self) -> bool:
        """Run the container once; return whether it may be started again."""
        try:
            await asyncio.to_thread(self._context.mounts.acquire, self.name, self.spec.container)
            life = await self._begin()
        except MountError as error:
            await self._fail("VolumeMountFailure", str(error))
            return True
        except OSError as error:
            await self._fail("ContainerCreateFailure", self._cannot_start(error))
            return True
        try:
            verdict = await self._watch(life)
            self._forget_life()
            if verdict is not None:
                await self._emit(verdict.event, verdict.message, "Warning")
            code, stuck = await life.end(self.spec.grace_s if verdict is None or not verdict.is_final else 0)
        except asyncio.CancelledError:
            life.abandon()
            raise
        await self._record_end(code, stuck, verdict)
        return verdict is None or not verdict.is_final

    async def _begin(self) -> ContainerRun:
        container = self.spec.container
        argv = (*container.command, *container.args)
        if not argv:
            raise FileNotFoundError(2, "the container has no command, and the local cloud runs no images")
        self._port = None
        if self.spec.target_port is not None:
            self._port = sockets.free_port(self._context.ports())
            self.backend = Backend(self.name, self._port)
        await self._emit("ContainerCreated", f"Created container '{container.name}'")
        env = environment(self.spec, self.name, self._port, self._directory)
        launch = processes.Launch(argv, env, self._directory / "scratch")
        life = await ContainerRun.begin(launch, self._tree, self._log, self._context.limits)
        self._lives += 1
        self._state = "Running"
        self._details = f"Container started at: {life.began:%Y-%m-%d %H:%M:%S} UTC."
        self._changed()
        await self._emit("ContainerStarted", f"Started container '{container.name}'")
        return life

    async def _watch(self, life: ContainerRun) -> _Verdict | None:
        """Wait until the container ends, must be ended (a verdict), or is to be stopped."""
        started = asyncio.Event()
        began = asyncio.get_running_loop().time()
        tasks: set[asyncio.Task[_Verdict | None]] = {
            asyncio.create_task(watch, name=f"{name} {self.name}")
            for name, watch in (
                ("end", _without_verdict(life.ended)),
                ("stop", _without_verdict(self._stop.wait)),
                ("startup", self._start_up(began, started)),
                ("readiness", self._keep_ready(began, started)),
                ("liveness", self._keep_alive(began, started)),
                ("sockets", self._inspect()),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # A replica that ends by itself in the moment of a verdict has still earned the verdict.
        return next((verdict for task in done if (verdict := task.result()) is not None), None)

    def _prober(self, kind: ProbeKind, began: float) -> Prober | None:
        probe = self._probes.get(kind)
        if probe is None:
            return None
        port = self._port if self._port is not None and probe.port == self.spec.target_port else probe.port
        return Prober(probe, port, self._context.session, began, self._tell_probe_failure)

    async def _start_up(self, began: float, started: asyncio.Event) -> _Verdict:
        prober = self._prober("Startup", began)
        if prober is not None and not await prober.next_verdict():
            return self._unhealthy("Startup")
        self._started = True
        self._changed()
        started.set()
        return await _for_ever()

    async def _keep_ready(self, began: float, started: asyncio.Event) -> _Verdict:
        await started.wait()
        prober = self._prober("Readiness", began)
        while True:
            ready = prober is None or await prober.next_verdict()
            self._probed_ready = ready
            self._inspected = self._inspected and ready
            self._inspect_now.set()
            self._changed()
            if prober is None:
                return await _for_ever()

    async def _keep_alive(self, began: float, started: asyncio.Event) -> _Verdict:
        await started.wait()
        prober = self._prober("Liveness", began)
        if prober is None:
            return await _for_ever()
        while await prober.next_verdict():
            pass
        return self._unhealthy("Liveness")

    def _unhealthy(self, kind: ProbeKind) -> _Verdict:
        times = self._probes[kind].failure_threshold
        message = f"{kind} probe failed {times} times in a row: container will be restarted"
        return _Verdict("ReplicaUnhealthy", message, "ProbeFailure")

    async def _inspect(self) -> _Verdict:
        """Look at where the processes listen: now and then, and before the replica may be ready."""
        limits = self._context.limits
        strayed = 0
        while True:
            was_ready = self._probed_ready
            try:
                found = await asyncio.to_thread(self._listeners)
            except PermissionError as error:
                return await self._go_on_blind(error)
            if reachable := [listener for listener in found if not listener.is_loopback]:
                return _refusal(reachable)
            strayed = 0 if was_ready or not self._strays(found) else strayed + 1
            if strayed == _STRAYED_TIMES:
                await self._tell_mismatch(found)
            if was_ready and not self._inspected:
                self._inspected = True
                self._changed()
            await self._pause(limits.inspect_running_s if self.is_ready else limits.inspect_starting_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._inspect_now.wait()
        self._inspect_now.clear()

    async def _go_on_blind(self, error: PermissionError) -> NoReturn:
        await self._emit(
            "ListenersUnknown",
            f"This system does not show where the replica listens ({error}): make sure that it is 127.0.0.1",
            "Warning",
        )
        self._inspected = True
        self._changed()
        while True:
            # Still worth it: processes that are seen now are found again when they are to be killed.
            await asyncio.sleep(self._context.limits.inspect_running_s)
            await asyncio.to_thread(self._tree.scan)
            self._inspected = True

    def _listeners(self) -> frozenset[sockets.Listener]:
        return sockets.listeners(self._tree.scan())

    def _strays(self, found: frozenset[sockets.Listener]) -> bool:
        return self._port is not None and bool(found) and all(one.port != self._port for one in found)

    async def _tell_mismatch(self, found: frozenset[sockets.Listener]) -> None:
        ports = ", ".join(str(one.port) for one in sorted(found, key=lambda one: one.port))
        message = (
            f"The TargetPort {self.spec.target_port} does not match the listening port {ports}: "
            f"here the container must listen on CONTAINER_APP_PORT ({self._port})"
        )
        await self._fail("Pending:PortMismatch", message)

    async def _tell_probe_failure(self, problem: str, count: int) -> None:
        if count & (count - 1) == 0:
            await self._emit("ProbeFailed", problem, "Warning", count)

    def _forget_life(self) -> None:
        self._started = self._probed_ready = self._inspected = False
        self._inspect_now.clear()
        self._changed()

    async def _record_end(self, code: int, stuck: list[int], verdict: _Verdict | None) -> None:
        stopped = self._stop.is_set() and verdict is None
        reason = "Stopped" if stopped else verdict.reason if verdict else "ProcessExited"
        self._exit_code = code
        self._state = "Terminated"
        self._details = f"Container terminated with exit code '{code}' and reason '{reason}'"
        if verdict is not None:
            self._details += f": {verdict.message}"
        self.failing = not stopped
        self._changed()
        kind: EventType = "Normal" if stopped else "Warning"
        what = f"Container '{self.spec.container.name}' was terminated"
        await self._emit("ContainerTerminated", f"{what} with exit code '{code}' and reason '{reason}'", kind)
        if stuck:
            await self._emit("ContainerKillFailed", f"{what}, but not these processes: {stuck}", "Warning")

    async def _fail(self, event: str, message: str) -> None:
        self.failing = True
        self._details = message
        self._changed()
        await self._emit(event, message, "Warning")

    def _cannot_start(self, error: OSError) -> str:
        container = self.spec.container
        problem = f"{error.strerror or error}: {container.command}"
        return f"Container '{container.name}' cannot be started: {problem}"

    async def _back_off(self, failures: int) -> None:
        delay_s = self._context.limits.back_off.delay_s(failures)
        self._state = "Waiting"
        self._details = f"CrashLoopBackOff: waiting {delay_s:g} s. {self._details}"
        self._changed()
        message = f"Back-off {delay_s:g} s restarting failed container '{self.spec.container.name}'"
        await self._emit("ContainerBackOff", message, "Warning", failures)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stop.wait()

    def _changed(self) -> None:
        if self.is_ready:
            self.failing = False
        self._tell()

    async def _emit(self, reason: str, message: str, kind: EventType = "Normal", count: int = 1) -> None:
        await self._context.emit(self.name, reason, message, kind, count)

    def _open(self) -> None:
        prepare(self._directory)
        self._tree.open()

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})
        stuck = await asyncio.to_thread(self._tree.kill, self._context.limits.kill_s)
        await asyncio.to_thread(self._context.mounts.release, self.name)
        await asyncio.to_thread(discard, self._directory)
        if not stuck:
            self._tree.close()
        self._log.close()


def _refusal(reachable: list[sockets.Listener]) -> _Verdict:
    where = ", ".join(sorted(f"{one.address}:{one.port}" for one in reachable))
    message = (
        f"It listens on {where}, which others than this machine can reach: killed, and not started again. "
        "On the local cloud a container must listen on 127.0.0.1 (FJARR_HOST=127.0.0.1)"
    )
    return _Verdict("NonLoopbackListener", message, "Refused", is_final=True)


async def _without_verdict(wait: Callable[[], Awaitable[object]]) -> None:
    await wait()


async def _for_ever() -> NoReturn:
    while True:
        await asyncio.Event().wait()
